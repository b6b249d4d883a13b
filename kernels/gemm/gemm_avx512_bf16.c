#include "kernels/gemm/gemm_rows.h"
#include "kernels/gemm/gemm_tiles.h"

/* Pairs of bf16 moved as they are; only a last odd element is padded with zero. */
static void pack_rows(int32_t count, int64_t K, const void *const *rows, witan_dtype_t dtype,
                      void *packed)
{
    uint32_t *words = packed;

    (void)dtype; /* BF16: no other dtype is packed for this kernel */
    pack_words(count, K / 2, rows, WITAN_F32, packed);
    for (int32_t r = 0; r < count && K % 2 != 0; r++) {
        words[K / 2 * count + r] = ((const uint16_t *)rows[r])[K - 1];
    }
}

const wtn_gemm_t wtn_gemm_avx512_bf16 = {
    .dtype         = WITAN_BF16,
    .panel_columns = 32,
    .depth         = 2,
    .tile_rows     = 12,
    .row_dtype     = WITAN_BF16,
    .tile          = wtn_tile_bf16_avx512_bf16,
    .pack_rows     = pack_rows,
};

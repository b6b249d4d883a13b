#include <string.h>

#include "kernels/gemm/gemm_tiles.h"

/* Pairs of bf16 moved as they are; only a last odd element is padded with zero. */
static void pack_rows(int32_t count, int64_t K, const void *const *rows, witan_dtype_t dtype,
                      void *packed)
{
    const int64_t block = 256;
    uint32_t     *to    = packed;

    (void)dtype; /* BF16: no other dtype is packed for this kernel */
    for (int64_t begin = 0; begin < K / 2; begin += block) {
        int64_t end = wtn_min_i64(begin + block, K / 2);

        for (int32_t r = 0; r < count; r++) {
            const char *from = rows[r];

            for (int64_t g = begin; g < end; g++) {
                memcpy(&to[g * count + r], from + (size_t)g * sizeof(uint32_t), sizeof(uint32_t));
            }
        }
    }
    for (int32_t r = 0; r < count && K % 2 != 0; r++) {
        to[K / 2 * count + r] = ((const uint16_t *)rows[r])[K - 1];
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

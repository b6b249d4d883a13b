#include "kernels/gemm/gemm_rows.h"
#include "kernels/gemm/gemm_tiles.h"

static void pack_rows(int32_t count, int64_t K, const void *const *rows, witan_dtype_t dtype,
                      void *packed)
{
    switch (dtype) {
    case WITAN_F16:
        pack_words(count, K, rows, WITAN_F16, packed);
        break;
    case WITAN_BF16:
        pack_words(count, K, rows, WITAN_BF16, packed);
        break;
    case WITAN_F32:
    default:
        pack_words(count, K, rows, WITAN_F32, packed);
        break;
    }
}

#define GEMM(d, function)                  \
    [d] = {.dtype         = d,             \
           .panel_columns = 2 * VEC_LANES, \
           .depth         = 1,             \
           .tile_rows     = 6,             \
           .row_dtype     = WITAN_F32,     \
           .tile          = function,      \
           .pack_rows     = pack_rows}

const wtn_gemm_t wtn_gemm_avx2[] = {
    GEMM(WITAN_F32, wtn_tile_f32_avx2),
    GEMM(WITAN_F16, wtn_tile_f16_avx2),
    GEMM(WITAN_BF16, wtn_tile_bf16_avx2),
};

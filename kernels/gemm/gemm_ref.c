#include "core/half.h"
#include "kernels/gemm/gemm.h"

#define PANEL_COLUMNS 8
#define TILE_ROWS     4

/* sums[r][n] = sum over k ascending of x[r][k] * w[n][k] */
static void tile(const wtn_tile_args_t *args, witan_dtype_t dtype)
{
    for (int32_t r = 0; r < args->rows; r++) {
        for (int32_t n = 0; n < PANEL_COLUMNS; n++) {
            float sum = 0.0f;

            for (int64_t k = 0; k < args->group_count; k++) {
                float x = ((const float *)args->x)[k * args->rows + r];
                float w = wtn_load_float(args->panel, dtype, (size_t)(k * PANEL_COLUMNS + n));

                sum += x * w;
            }
            args->sums[r * PANEL_COLUMNS + n] = sum;
        }
    }
}

static void tile_f32(const wtn_tile_args_t *args)
{
    tile(args, WITAN_F32);
}

static void tile_f16(const wtn_tile_args_t *args)
{
    tile(args, WITAN_F16);
}

static void tile_bf16(const wtn_tile_args_t *args)
{
    tile(args, WITAN_BF16);
}

static void pack_rows(int32_t count, int64_t K, const void *const *rows, witan_dtype_t dtype,
                      void *packed)
{
    for (int32_t r = 0; r < count; r++) {
        for (int64_t k = 0; k < K; k++) {
            ((float *)packed)[k * count + r] = wtn_load_float(rows[r], dtype, (size_t)k);
        }
    }
}

#define GEMM_REF(d, function)              \
    [d] = {.dtype         = d,             \
           .panel_columns = PANEL_COLUMNS, \
           .depth         = 1,             \
           .tile_rows     = TILE_ROWS,     \
           .row_dtype     = WITAN_F32,     \
           .tile          = function,      \
           .pack_rows     = pack_rows}

const wtn_gemm_t wtn_gemm_ref[] = {
    GEMM_REF(WITAN_F32, tile_f32),
    GEMM_REF(WITAN_F16, tile_f16),
    GEMM_REF(WITAN_BF16, tile_bf16),
};

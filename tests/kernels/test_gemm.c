/* Tiles of every tier against float64, with a bound for every element. */
#include "data.h"

#include "kernels/gemm/gemm.h"

/* Half a tile has the bits of the whole one. */
static void check_narrow(const wtn_gemm_t *gemm, wtn_tile_args_t args)
{
    const float *whole = args.sums;
    const size_t width = (size_t)gemm->panel_columns;
    float       *half  = data_output((size_t)args.rows * width * sizeof(float));

    args.narrow = true;
    args.sums   = half;
    gemm->tile(&args);
    for (size_t r = 0; r < (size_t)args.rows; r++) {
        ck_assert_mem_eq(half + r * width, whole + r * width, width / 2 * sizeof(float));
    }
    data_check_guard(half, (size_t)args.rows * width * sizeof(float));
    free(half);
}

/* [rows, K] times [columns, K]: packed, multiplied, and compared. */
static void check_tile(const wtn_tier_t *tier, witan_dtype_t dtype, int32_t rows, int32_t columns,
                       int64_t K)
{
    const wtn_gemm_t *gemm    = tier->gemm[dtype];
    const int32_t     width   = gemm->panel_columns;
    const size_t      element = witan_dtype_bytes(dtype);
    char             *x       = data_tensor((size_t)(rows * K), dtype, 1.0f, 1);
    char             *w       = data_tensor((size_t)(columns * K), dtype, 1.0f, 2);
    char             *packed  = data_output((size_t)rows * wtn_gemm_row_bytes(gemm, K));
    char             *panel   = data_output(wtn_gemm_panel_bytes(gemm, K));
    float            *sums    = data_output((size_t)(rows * width) * sizeof(float));
    const void       *from[WTN_TILE_ROWS_MAX];
    wtn_tile_args_t   args;

    for (int32_t r = 0; r < rows; r++) {
        from[r] = x + (size_t)(r * K) * element;
    }
    gemm->pack_rows(rows, K, from, dtype, packed);
    memset(panel, 0, wtn_gemm_panel_bytes(gemm, K));
    wtn_gemm_pack_columns(gemm, w, columns, K, 0, panel);
    args = (wtn_tile_args_t){.rows          = rows,
                             .group_count   = wtn_gemm_groups(gemm, K),
                             .x             = packed,
                             .panel         = panel,
                             .sums          = sums,
                             .prefetch      = panel,
                             .prefetch_step = 64};
    gemm->tile(&args);
    check_narrow(gemm, args);
    for (int32_t r = 0; r < rows; r++) {
        for (int32_t n = 0; n < width; n++) {
            double sum = 0.0, magnitude = 0.0;

            for (int64_t k = 0; k < K && n < columns; k++) {
                double product = (double)wtn_load_float(x, dtype, (size_t)(r * K + k)) *
                                 (double)wtn_load_float(w, dtype, (size_t)(n * K + k));

                sum += product;
                magnitude += fabs(product);
            }
            /* K products and K sums, each rounded by at most 2^-24 of a partial sum of the
             * magnitudes; padding columns are 0. */
            ck_assert_msg(fabs(sums[r * width + n] - sum) <= (double)K * 0x1p-23 * magnitude,
                          "tier %s %s rows %d K %ld [%d, %d]: expected %g, found %g", tier->name,
                          witan_dtype_name(dtype), rows, (long)K, r, n, sum,
                          (double)sums[r * width + n]);
        }
    }
    data_check_guard(packed, (size_t)rows * wtn_gemm_row_bytes(gemm, K));
    data_check_guard(panel, wtn_gemm_panel_bytes(gemm, K));
    data_check_guard(sums, (size_t)(rows * width) * sizeof(float));
    free(x);
    free(w);
    free(packed);
    free(panel);
    free(sums);
}

START_TEST(test_gemm_tiles_of_every_height_match_float64)
{
    static const int64_t depths[] = {0, 1, 2, 3, 17, 64, 129, 2880};

    FOR_EACH_TIER(tier)
    {
        for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
            const wtn_gemm_t *gemm = tier->gemm[dtype];

            for (int32_t rows = 1; rows <= gemm->tile_rows; rows++) {
                for (size_t d = 0; d < WTN_COUNT_OF(depths); d++) {
                    check_tile(tier, dtype, rows, gemm->panel_columns, depths[d]);
                    check_tile(tier, dtype, rows, 1, depths[d]);
                }
            }
        }
    }
}
END_TEST

/* Rows of one dtype packed for another's tile, as the gate does. */
START_TEST(test_gemm_rows_of_any_dtype_pack_to_fp32)
{
    FOR_EACH_TIER(tier)
    {
        for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
            const int64_t K    = 301;
            void         *x    = data_tensor((size_t)(3 * K), dtype, 100.0f, 1);
            float        *rows = data_output((size_t)(3 * K) * sizeof(float));
            const void   *from[3];

            for (int32_t r = 0; r < 3; r++) {
                from[r] = (char *)x + (size_t)(r * K) * witan_dtype_bytes(dtype);
            }
            tier->gemm[WITAN_F32]->pack_rows(3, K, from, dtype, rows);
            for (int64_t i = 0; i < 3 * K; i++) {
                float want = wtn_load_float(x, dtype, (size_t)(i % 3 * K + i / 3));

                ck_assert_msg(rows[i] == want, "tier %s %s", tier->name, witan_dtype_name(dtype));
            }
            data_check_guard(rows, (size_t)(3 * K) * sizeof(float));
            free(x);
            free(rows);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gemm");
    TCase *tests = tcase_create("host");

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_gemm_tiles_of_every_height_match_float64);
    tcase_add_test(tests, test_gemm_rows_of_any_dtype_pack_to_fp32);
    suite_add_tcase(suite, tests);
    return data_main(suite);
}

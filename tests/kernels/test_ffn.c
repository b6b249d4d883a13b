/* The experts of every tier against the scalar reference, and the promises about bits. */
#include "net.h"

static void net_create(net_t *net, const wtn_tier_t *tier, witan_dtype_t dtype, shape_t shape,
                       const witan_activation_t *activation, bool bias)
{
    net_make(net, &wtn_backend_host, tier, dtype, shape, activation, bias);
}

/* Run with a poisoned workspace of exactly the size told; the output has `out_rows` rows. */
static void *net_run(const net_t *net, wtn_ffn_args_t args, int64_t out_rows,
                     witan_executor_t *taken)
{
    const size_t bytes = (size_t)(out_rows * net->shape.H) * witan_dtype_bytes(net->dtype);

    args.workspace_bytes =
        wtn_backend_host.ffn_workspace_bytes(&net->spec, args.row_count, args.masked_rows_max,
                                             args.thread_count);
    args.workspace = data_output(args.workspace_bytes);
    memset(args.workspace, 0xff, args.workspace_bytes);
    args.out = data_output(bytes);
    ck_assert_int_eq(wtn_backend_host.ffn_run(net->ffn, &args), WITAN_OK);
    data_check_guard(args.out, bytes);
    data_check_guard(args.workspace, args.workspace_bytes);
    free(args.workspace);
    if (taken != NULL) {
        *taken = args.executor_taken;
    }
    return args.out;
}

static void check_rows(const net_t *net, const wtn_ffn_args_t *args, const void *out)
{
    const int64_t H       = net->shape.H;
    const size_t  element = witan_dtype_bytes(net->dtype);
    void         *want    = data_alloc((size_t)H * element);

    for (int64_t i = 0; i < args->row_count; i++) {
        int64_t in   = args->row_in == NULL ? i : args->row_in[i];
        int64_t to   = args->row_out == NULL ? i : args->row_out[i];
        double  diff = 0.0, norm;

        norm = net_reference(net, args->row_expert == NULL ? 0 : args->row_expert[i],
                             (const char *)args->x + (size_t)(in * H) * element, want);
        for (int64_t k = 0; k < H; k++) {
            double r = wtn_load_float(want, net->dtype, (size_t)k);
            double y = wtn_load_float(out, net->dtype, (size_t)(to * H + k));

            diff += (y - r) * (y - r);
        }
        ck_assert_msg(sqrt(diff) <= tolerance[net->dtype] * norm,
                      "tier %s %s H %ld I %ld row %ld: error %g of %g", net->spec.tier->name,
                      witan_dtype_name(net->dtype), (long)H, (long)net->shape.I, (long)i,
                      sqrt(diff), norm);
    }
    free(want);
}

static int32_t *spread(int64_t rows, int32_t experts, uint64_t seed)
{
    int32_t *row_expert = data_alloc((size_t)rows * sizeof(int32_t));

    for (int64_t i = 0; i < rows; i++) {
        row_expert[i] = (int32_t)(data_next(&seed) % (uint64_t)experts);
    }
    return row_expert;
}

static void check_shape(const wtn_tier_t *tier, witan_dtype_t dtype, shape_t shape,
                        const witan_activation_t *activation, bool bias)
{
    net_t          net;
    void          *x    = data_tensor((size_t)(shape.rows * shape.H), dtype, 1.0f, 7);
    int32_t       *row  = shape.experts > 0 ? spread(shape.rows, shape.experts, 8) : NULL;
    wtn_ffn_args_t args = {.x = x, .row_count = shape.rows, .row_expert = row, .thread_count = 2};
    void          *out;

    net_create(&net, tier, dtype, shape, activation, bias);
    out = net_run(&net, args, shape.rows, NULL);
    check_rows(&net, &args, out);
    free(out);
    net_destroy(&net);
    free(row);
    free(x);
}

START_TEST(test_ffn_nasty_shapes_match_reference)
{
    static const shape_t shapes[] = {
        {1, 1, 1, 1},    {1, 17, 2, 5},    {17, 1, 2, 5},   {17, 17, 3, 25},
        {31, 33, 2, 13}, {64, 48, 4, 40},  {65, 15, 1, 24}, {128, 16, 5, 12},
        {2880, 9, 2, 3}, {19, 2880, 2, 3}, {32, 32, 0, 0},  {32, 32, 3, 0},
    };

    FOR_EACH_TIER(tier)
    {
        for (size_t s = 0; s < WTN_COUNT_OF(shapes); s++) {
            for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
                check_shape(tier, dtype, shapes[s], &silu_gated, false);
                check_shape(tier, dtype, shapes[s], &gpt_oss, true);
                check_shape(tier, dtype, shapes[s], &gelu_plain, true);
            }
        }
    }
}
END_TEST

START_TEST(test_ffn_every_row_count_matches_reference)
{
    FOR_EACH_TIER(tier)
    {
        for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
            for (int64_t rows = 1; rows <= 25; rows++) {
                check_shape(tier, dtype, (shape_t){33, 19, 1, rows}, &silu_gated, true);
            }
        }
    }
}
END_TEST

/* The bits of row i of a call with many rows. */
static void check_bits(const net_t *net, const void *x, const int32_t *row_expert, int64_t rows,
                       const char *want, wtn_ffn_args_t args)
{
    const size_t row_bytes = (size_t)net->shape.H * witan_dtype_bytes(net->dtype);
    char        *out;

    args.x          = x;
    args.row_count  = rows;
    args.row_expert = row_expert;
    out             = net_run(net, args, rows, NULL);
    ck_assert_msg(memcmp(out, want, (size_t)rows * row_bytes) == 0,
                  "tier %s %s: executor %d, %d threads: other bits", net->spec.tier->name,
                  witan_dtype_name(net->dtype), args.executor, args.thread_count);
    free(out);
}

START_TEST(test_ffn_row_bits_do_not_depend_on_company)
{
    const shape_t shape = {83, 57, 4, 61};

    FOR_EACH_TIER(tier)
    {
        for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
            const size_t row_bytes = (size_t)shape.H * witan_dtype_bytes(dtype);
            net_t        net;
            char        *x   = data_tensor((size_t)(shape.rows * shape.H), dtype, 1.0f, 7);
            int32_t     *row = spread(shape.rows, shape.experts, 8);
            char        *all;

            net_create(&net, tier, dtype, shape, &silu_gated, true);
            all = net_run(&net,
                          (wtn_ffn_args_t){.x            = x,
                                           .row_count    = shape.rows,
                                           .row_expert   = row,
                                           .executor     = WITAN_EXECUTOR_CONTIGUOUS,
                                           .thread_count = 1},
                          shape.rows, NULL);
            for (int32_t threads = 1; threads <= 3; threads++) {
                check_bits(&net, x, row, shape.rows, all,
                           (wtn_ffn_args_t){.executor     = WITAN_EXECUTOR_CONTIGUOUS,
                                            .thread_count = threads});
                check_bits(&net, x, row, shape.rows, all,
                           (wtn_ffn_args_t){.executor        = WITAN_EXECUTOR_MASKED,
                                            .masked_rows_max = 64,
                                            .thread_count    = threads});
            }
            for (int64_t i = 0; i < shape.rows; i += 7) { /* alone, and in prefixes */
                check_bits(&net, x + (size_t)i * row_bytes, row + i, 1, all + (size_t)i * row_bytes,
                           (wtn_ffn_args_t){.thread_count = 2});
                check_bits(&net, x, row, i, all, (wtn_ffn_args_t){.thread_count = 2});
            }
            free(all);
            net_destroy(&net);
            free(row);
            free(x);
        }
    }
}
END_TEST

START_TEST(test_ffn_many_blocks_match_single_rows)
{
    const shape_t shape = {24, 16, 3, 5000}; /* several blocks, segments that end inside them */

    FOR_EACH_TIER(tier)
    {
        const size_t row_bytes = (size_t)shape.H * sizeof(float);
        net_t        net;
        char        *x   = data_tensor((size_t)(shape.rows * shape.H), WITAN_F32, 1.0f, 7);
        int32_t     *row = spread(shape.rows, shape.experts, 8);
        char        *all;
        int64_t      counts[3], seen[3] = {0};

        net_create(&net, tier, WITAN_F32, shape, &silu_gated, false);
        all = net_run(&net,
                      (wtn_ffn_args_t){.x                 = x,
                                       .row_count         = shape.rows,
                                       .row_expert        = row,
                                       .expert_row_counts = counts,
                                       .thread_count      = 2},
                      shape.rows, NULL);
        for (int64_t i = 0; i < shape.rows; i++) {
            seen[row[i]]++;
            if (i % 50 == 0) {
                check_bits(&net, x + (size_t)i * row_bytes, row + i, 1, all + (size_t)i * row_bytes,
                           (wtn_ffn_args_t){.thread_count = 1});
            }
        }
        ck_assert_mem_eq(counts, seen, sizeof(seen));
        free(all);
        net_destroy(&net);
        free(row);
        free(x);
    }
}
END_TEST

START_TEST(test_ffn_row_maps_are_followed)
{
    const shape_t shape = {40, 24, 3, 30};
    int64_t       in[30], to[30];

    FOR_EACH_TIER(tier)
    {
        for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
            net_t          net;
            void          *x    = data_tensor((size_t)(10 * shape.H), dtype, 1.0f, 7);
            int32_t       *row  = spread(shape.rows, shape.experts, 8);
            wtn_ffn_args_t args = {.x            = x,
                                   .row_count    = shape.rows,
                                   .row_expert   = row,
                                   .row_in       = in,
                                   .row_out      = to,
                                   .thread_count = 2};
            unsigned char *out;

            for (int64_t i = 0; i < shape.rows; i++) {
                in[i] = i * 7 % 10;          /* rows of x used by several experts */
                to[i] = i * 11 % 30 + i % 2; /* leaves some output rows alone: below */
            }
            for (int64_t i = 0; i < shape.rows; i++) {
                to[i] = 2 * (i * 11 % 30);
            }
            net_create(&net, tier, dtype, shape, &silu_gated, true);
            out = net_run(&net, args, 60, NULL);
            check_rows(&net, &args, out);
            for (int64_t i = 1; i < 60; i += 2) { /* rows nobody named keep their poison */
                ck_assert_int_eq(out[(size_t)(i * shape.H) * witan_dtype_bytes(dtype)], 0xff);
            }
            free(out);
            net_destroy(&net);
            free(row);
            free(x);
        }
    }
}
END_TEST

START_TEST(test_ffn_slices_add_up_to_the_whole)
{
    const shape_t shape = {48, 45, 2, 9};
    const int64_t cut   = 19;

    FOR_EACH_TIER(tier)
    {
        net_t          net;
        float         *x    = data_tensor((size_t)(shape.rows * shape.H), WITAN_F32, 1.0f, 7);
        int32_t       *row  = spread(shape.rows, shape.experts, 8);
        wtn_ffn_args_t args = {.x            = x,
                               .row_count    = shape.rows,
                               .row_expert   = row,
                               .thread_count = 2};
        float         *out[2];

        for (int32_t half = 0; half < 2; half++) {
            net_create(&net, tier, WITAN_F32, shape, &silu_gated, false);
            wtn_backend_host.ffn_destroy(net.ffn);
            net.spec.inter_begin = half == 0 ? 0 : cut;
            net.spec.inter_end   = half == 0 ? cut : shape.I;
            ck_assert_int_eq(wtn_backend_host.ffn_create(&net.ffn, &net.spec,
                                                         &(witan_weights_t){&net.data, data_read}),
                             WITAN_OK);
            out[half] = net_run(&net, args, shape.rows, NULL);
            if (half == 0) {
                net_destroy(&net);
            }
        }
        for (int64_t i = 0; i < shape.rows * shape.H; i++) {
            out[0][i] += out[1][i];
        }
        check_rows(&net, &args, out[0]);
        net_destroy(&net);
        free(out[0]);
        free(out[1]);
        free(row);
        free(x);
    }
}
END_TEST

START_TEST(test_ffn_shared_expert_reads_shared_weights)
{
    const shape_t shape = {40, 24, 1, 14};

    FOR_EACH_TIER(tier)
    {
        net_t          net;
        void          *x    = data_tensor((size_t)(shape.rows * shape.H), WITAN_BF16, 1.0f, 7);
        wtn_ffn_args_t args = {.x = x, .row_count = shape.rows, .thread_count = 2};
        void          *out;

        net_create(&net, tier, WITAN_BF16, shape, &silu_gated, false);
        wtn_backend_host.ffn_destroy(net.ffn);
        net.spec.experts                           = NULL;
        net.data.tensors[WITAN_WEIGHT_GATE].values = NULL;
        net.data.tensors[WITAN_WEIGHT_UP].values   = NULL;
        net.data.tensors[WITAN_WEIGHT_DOWN].values = NULL;
        ck_assert_int_eq(wtn_backend_host.ffn_create(&net.ffn, &net.spec,
                                                     &(witan_weights_t){&net.data, data_read}),
                         WITAN_OK);
        out = net_run(&net, args, shape.rows, NULL);
        check_rows(&net, &args, out);
        free(out);
        net_destroy(&net);
        free(x);
    }
}
END_TEST

/* NaN and Inf in a row stay in it, at widths whose panels are padded. */
START_TEST(test_ffn_nan_and_inf_stay_in_their_row)
{
    const shape_t shape = {33, 17, 1, 12};

    FOR_EACH_TIER(tier)
    {
        for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
            const size_t   row_bytes = (size_t)shape.H * witan_dtype_bytes(dtype);
            net_t          net;
            char          *x = data_tensor((size_t)(shape.rows * shape.H), dtype, 1.0f, 7);
            char          *clean, *out;
            wtn_ffn_args_t args = {.x = x, .row_count = shape.rows, .thread_count = 1};

            net_create(&net, tier, dtype, shape, &silu_gated, false);
            clean = net_run(&net, args, shape.rows, NULL);
            wtn_store_float(x, dtype, (size_t)(3 * shape.H + 5), NAN);
            wtn_store_float(x, dtype, (size_t)(8 * shape.H + 32), INFINITY);
            out = net_run(&net, args, shape.rows, NULL);
            for (int64_t i = 0; i < shape.rows; i++) {
                if (i != 3 && i != 8) {
                    ck_assert_mem_eq(out + (size_t)i * row_bytes, clean + (size_t)i * row_bytes,
                                     row_bytes);
                }
            }
            for (int64_t k = 0; k < shape.H; k++) {
                ck_assert(isnan(wtn_load_float(out, dtype, (size_t)(3 * shape.H + k))));
                ck_assert(!isfinite(wtn_load_float(out, dtype, (size_t)(8 * shape.H + k))));
            }
            free(clean);
            free(out);
            net_destroy(&net);
            free(x);
        }
    }
}
END_TEST

START_TEST(test_ffn_auto_takes_masked_up_to_threshold)
{
    const shape_t     shape = {16, 16, 2, 24};
    const wtn_tier_t *tier;
    net_t             net;
    witan_executor_t  taken;
    int32_t           row[26];
    float            *x    = data_tensor((size_t)(26 * shape.H), WITAN_F32, 1.0f, 7);
    wtn_ffn_args_t    args = {.x = x, .row_expert = row, .thread_count = 1};

    for (int32_t i = 0; i < 26; i++) {
        row[i] = i % 2;
    }
    ck_assert_int_eq(wtn_tier_select("auto", &tier), WITAN_OK);
    net_create(&net, tier, WITAN_F32, shape, &silu_gated, false);
    for (int32_t rows = 23; rows <= 26; rows++) { /* 12 rows in an expert are a slot's worth */
        args.row_count = rows;
        free(net_run(&net, args, rows, &taken));
        ck_assert_int_eq(taken, rows <= 24 ? WITAN_EXECUTOR_MASKED : WITAN_EXECUTOR_CONTIGUOUS);
    }
    for (int32_t most = 12; most <= 14; most++) {
        args.masked_rows_max = most;
        free(net_run(&net, args, 26, &taken));
        ck_assert_int_eq(taken, most >= 13 ? WITAN_EXECUTOR_MASKED : WITAN_EXECUTOR_CONTIGUOUS);
    }
    net_destroy(&net);
    free(x);
}
END_TEST

START_TEST(test_ffn_sizes_that_overflow_are_told)
{
    const int32_t  ids[1] = {0};
    wtn_ffn_t     *ffn;
    wtn_ffn_spec_t spec = {.hidden_size  = (int64_t)1 << 40,
                           .inter_end    = 64,
                           .expert_count = 1,
                           .experts      = ids,
                           .activation   = silu_gated};

    ck_assert_int_eq(wtn_tier_select("auto", &spec.tier), WITAN_OK);
    ck_assert_uint_eq(wtn_backend_host.ffn_weight_bytes(&spec), SIZE_MAX);
    ck_assert_uint_eq(wtn_backend_host.ffn_workspace_bytes(&spec, 1, 0, 1), SIZE_MAX);
    ck_assert_int_eq(wtn_backend_host.ffn_create(&ffn, &spec, &(witan_weights_t){NULL, data_read}),
                     WITAN_E_MEMORY);
    spec.hidden_size = (int64_t)1 << 30;
    spec.inter_end   = (int64_t)1 << 31;
    ck_assert_int_eq(wtn_backend_host.ffn_create(&ffn, &spec, &(witan_weights_t){NULL, data_read}),
                     WITAN_E_MEMORY);
    ck_assert_ptr_null(ffn);
}
END_TEST

START_TEST(test_ffn_bad_calls_are_refused)
{
    const shape_t     shape = {16, 16, 2, 24};
    const wtn_tier_t *tier;
    net_t             net;
    int32_t           row[26] = {0};
    float            *x       = data_tensor((size_t)(26 * shape.H), WITAN_F32, 1.0f, 7);
    float            *out     = data_output((size_t)(26 * shape.H) * sizeof(float));
    wtn_ffn_args_t    args    = {.x            = x,
                                 .out          = out,
                                 .row_expert   = row,
                                 .row_count    = 26,
                                 .executor     = WITAN_EXECUTOR_MASKED,
                                 .thread_count = 1};

    ck_assert_int_eq(wtn_tier_select("auto", &tier), WITAN_OK);
    net_create(&net, tier, WITAN_F32, shape, &silu_gated, false);
    args.workspace_bytes = wtn_backend_host.ffn_workspace_bytes(&net.spec, 26, 0, 1);
    args.workspace       = data_alloc(args.workspace_bytes);
    row[5]               = 1;
    ck_assert_int_eq(wtn_backend_host.ffn_run(net.ffn, &args), WITAN_E_ARGUMENT);
    ck_assert_str_eq(witan_last_error(), "masked executor: expert 0 has 25 rows, a slot holds 12");
    row[7] = 2;
    ck_assert_int_eq(wtn_backend_host.ffn_run(net.ffn, &args), WITAN_E_ARGUMENT);
    ck_assert_str_eq(witan_last_error(), "experts: row 7 wants expert 2, expected 0 to 1");
    row[7] = 0;
    args.workspace_bytes--;
    ck_assert_int_eq(wtn_backend_host.ffn_run(net.ffn, &args), WITAN_E_ARGUMENT);
    net.spec.experts       = NULL;
    net.spec.has_down_bias = true;
    ck_assert_int_eq(wtn_backend_host.ffn_create(&(wtn_ffn_t *){NULL}, &net.spec,
                                                 &(witan_weights_t){&net.data, data_read}),
                     WITAN_E_ARGUMENT);
    free(args.workspace);
    net_destroy(&net);
    free(out);
    free(x);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ffn");
    TCase *tests = tcase_create("host");

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_ffn_nasty_shapes_match_reference);
    tcase_add_test(tests, test_ffn_every_row_count_matches_reference);
    tcase_add_test(tests, test_ffn_row_bits_do_not_depend_on_company);
    tcase_add_test(tests, test_ffn_many_blocks_match_single_rows);
    tcase_add_test(tests, test_ffn_row_maps_are_followed);
    tcase_add_test(tests, test_ffn_slices_add_up_to_the_whole);
    tcase_add_test(tests, test_ffn_shared_expert_reads_shared_weights);
    tcase_add_test(tests, test_ffn_nan_and_inf_stay_in_their_row);
    tcase_add_test(tests, test_ffn_auto_takes_masked_up_to_threshold);
    tcase_add_test(tests, test_ffn_sizes_that_overflow_are_told);
    tcase_add_test(tests, test_ffn_bad_calls_are_refused);
    suite_add_tcase(suite, tests);
    return data_main(suite);
}

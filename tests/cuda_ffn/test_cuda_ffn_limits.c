/* The device's experts where numbers, rows or memory come to an end. */
#include "cuda_ffn/net.h"

#include "experts/activation.h"
#include "kernels/cuda/cuda.h"
#include "kernels/gemm/gemm_cuda.h"

#ifdef WTN_EMULATOR
#include "emulator/emulator.h"
#endif

/* A network of one number: out = f(x). */
static void create_identity(net_t *net, const wtn_tier_t *tier, witan_dtype_t dtype,
                            const witan_activation_t *activation)
{
    net_create(net, tier, dtype, (shape_t){1, 1, 1, 0}, activation, false);
    wtn_backend_cuda.ffn_destroy(net->ffn);
    wtn_store_float(net->up, dtype, 0, 1.0f);
    wtn_store_float(net->down, dtype, 0, 1.0f);
    net_load(net);
}

/* How far f(x) may be off. fp32: what activation_vector.h states, in units in the last place of
 * 2^-23. Else half a unit of the format's last place, and a little for the approximate functions,
 * whose relative error is at most 2^-16 for these x. What is below 2^-118 may be zero; fp16 ends at
 * 2^-24. */
static double allowed(const witan_activation_t *activation, witan_dtype_t dtype, double x,
                      double want)
{
    const double size = fabs(x);
    double       ulps = 6.0 + fabs((double)activation->parameter) * size;

    if (activation->kind == WITAN_ACTIVATION_GELU_TANH) {
        ulps += 6.0 * size + size * size * size / 4.0;
    }
    switch (dtype) {
    case WITAN_F32:
        return ulps * 0x1p-23 * fabs(want) + 0x1p-118;
    case WITAN_F16:
        return (0x1p-11 + 0x1p-15) * fabs(want) + 0x1p-25;
    case WITAN_BF16:
    default:
        return (0x1p-8 + 0x1p-14) * fabs(want) + 0x1p-118;
    }
}

START_TEST(test_cuda_ffn_activation_values_are_close_everywhere)
{
    enum { COUNT = 384 };

    for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
        FOR_EACH_CUDA_TIER(tier, dtype)
        {
            for (int32_t kind = 0; kind < WITAN_ACTIVATION_COUNT; kind++) {
                const witan_activation_t activation = {.kind = (witan_activation_kind_t)kind,
                                                       .parameter =
                                                           kind == WITAN_ACTIVATION_LEAKY_RELU
                                                               ? 0.1f
                                                           : kind == WITAN_ACTIVATION_SWISH ? 1.702f
                                                                                            : 0.0f};
                void                    *x          = data_alloc(COUNT * witan_dtype_bytes(dtype));
                wtn_ffn_args_t           args       = {.x = x, .row_count = COUNT};
                net_t                    net;
                void                    *out;

                for (int32_t i = 0; i < COUNT; i++) { /* both signs, 2^-12 to 90 */
                    float size = exp2f((float)(i / 2) / (COUNT / 2) * 18.5f - 12.0f);

                    wtn_store_float(x, dtype, (size_t)i, i % 2 == 0 ? size : -size);
                }
                create_identity(&net, tier, dtype, &activation);
                out = net_run(&net, &args, COUNT, COUNT);
                for (size_t i = 0; i < COUNT; i++) {
                    double in   = (double)wtn_load_float(x, dtype, i);
                    double want = wtn_activation_gated_ref64(&activation, 0.0, in);
                    double y    = (double)wtn_load_float(out, dtype, i);

                    ck_assert_msg(fabs(y - want) <= allowed(&activation, dtype, in, want),
                                  "tier %s %s: %s(%a): expected %a, found %a", tier->name,
                                  witan_dtype_name(dtype), wtn_activation_name(activation.kind), in,
                                  want, y);
                }
                free(out);
                free(x);
                net_destroy(&net);
            }
        }
    }
}
END_TEST

/* More rows than 16 bits count, in both forms. */
START_TEST(test_cuda_ffn_many_rows_match_reference)
{
    const shape_t shape = {8, 8, 3, 66000};

    FOR_EACH_CUDA_TIER(tier, WITAN_BF16)
    {
        void          *x    = data_tensor((size_t)(shape.rows * shape.H), WITAN_BF16, 1.0f, 7);
        int32_t       *row  = data_alloc((size_t)shape.rows * sizeof(int32_t));
        wtn_ffn_args_t args = {.x = x, .row_count = shape.rows, .row_expert = row};
        net_t          net;
        void          *out;

        for (int64_t i = 0; i < shape.rows; i++) {
            row[i] = i % 1000 == 0 ? 2 : 0; /* expert 1 has none */
        }
        net_create(&net, tier, WITAN_BF16, shape, &silu_gated, false);
        out = net_run(&net, &args, shape.rows, shape.rows);
        ck_assert_int_eq(args.executor_taken, WITAN_EXECUTOR_CONTIGUOUS);
        net_check(&net, &args, out);
        free(out);
        free(row);
        free(x);
        net_destroy(&net);
    }
}
END_TEST

/* More tiles of rows than are walked together, more than one of columns, the last ones narrower or
 * of few rows; rows as they lie, all of expert 0, or found by index, of all experts in turn. */
static void check_tiles(shape_t shape, const wtn_tier_t *tier, witan_executor_t executor,
                        int32_t sm_reserved, bool gathers)
{
    void          *x    = data_tensor((size_t)(shape.rows * shape.H), WITAN_F16, 1.0f, 7);
    int32_t       *row  = data_alloc((size_t)shape.rows * sizeof(int32_t));
    wtn_ffn_args_t args = {.x           = x,
                           .row_count   = shape.rows,
                           .row_expert  = gathers ? row : NULL,
                           .executor    = executor,
                           .sm_reserved = sm_reserved};
    net_t          net;
    void          *out;

    for (int64_t i = 0; i < shape.rows; i++) {
        row[i] = (int32_t)(i % shape.experts);
    }
    net_create(&net, tier, WITAN_F16, shape, &silu_gated, false);
    out = net_run(&net, &args, shape.rows, shape.rows);
    net_check(&net, &args, out);
    free(out);
    free(row);
    free(x);
    net_destroy(&net);
}

START_TEST(test_cuda_ffn_many_tiles_match_reference)
{
    const shape_t shapes[] = {{136, 8, 1, 2300},
                              {8, 136, 1, 2300},
                              {384, 8, 1, 600},
                              {8, 192, 1, 600}};

    FOR_EACH_CUDA_TIER(tier, WITAN_F16)
    {
        for (size_t s = 0; s < WTN_COUNT_OF(shapes); s++) {
            check_tiles(shapes[s], tier, WITAN_EXECUTOR_CONTIGUOUS, 0, false);
            check_tiles(shapes[s], tier, WITAN_EXECUTOR_MASKED, 0, false);
        }
    }
}
END_TEST

/* With nearly all multiprocessors left to others, so that a block has many tiles. */
START_TEST(test_cuda_ffn_many_tiles_of_a_block_match_reference)
{
    const shape_t shapes[] = {{320, 8, 1, 2088},
                              {384, 8, 2, 2900},
                              {8, 160, 2, 2900},
                              {8, 192, 1, 2088}};
    const int32_t reserved = wtn_cuda_sm_count(0) - 1;

    FOR_EACH_CUDA_TIER(tier, WITAN_F16)
    {
        for (size_t s = 0; s < WTN_COUNT_OF(shapes); s++) {
            check_tiles(shapes[s], tier, WITAN_EXECUTOR_CONTIGUOUS, reserved, false);
            check_tiles(shapes[s], tier, WITAN_EXECUTOR_CONTIGUOUS, reserved, true);
        }
    }
}
END_TEST

/* Rows more than 2^32 elements apart, where memory for them can be had. */
START_TEST(test_cuda_ffn_far_rows_are_reached)
{
    const shape_t  shape     = {4096, 16, 1, 3};
    const int64_t  far       = ((int64_t)1 << 32) / shape.H + 5;
    const int64_t  places[]  = {0, far, far / 2 + 1};
    const size_t   row_bytes = (size_t)shape.H * 2;
    const size_t   bytes     = (size_t)(far + 1) * row_bytes;
    int32_t        row[3]    = {0};
    wtn_ffn_args_t args      = {.row_count = shape.rows};
    char          *x, *out;
    void          *x_far, *out_far;

#ifdef WTN_EMULATOR
    printf("skipped: rows 8 GiB apart: the emulator holds every byte in memory\n");
    return;
#endif
    if (wtn_backend_cuda.alloc(&x_far, bytes) != WITAN_OK) {
        printf("skipped: %s\n", witan_last_error());
        return;
    }
    ck_assert_int_eq(wtn_backend_cuda.alloc(&out_far, bytes), WITAN_OK);
    x   = data_tensor((size_t)(shape.rows * shape.H), WITAN_BF16, 1.0f, 7);
    out = data_alloc((size_t)shape.rows * row_bytes);
    FOR_EACH_CUDA_TIER(tier, WITAN_BF16)
    {
        wtn_ffn_args_t host = {.x = x, .row_count = shape.rows};
        net_t          net;

        net_create(&net, tier, WITAN_BF16, shape, &silu_gated, false);
        for (int64_t i = 0; i < shape.rows; i++) {
            ck_assert_int_eq(wtn_backend_cuda.copy((char *)x_far + (size_t)places[i] * row_bytes,
                                                   x + (size_t)i * row_bytes, row_bytes, NULL),
                             WITAN_OK);
        }
        args.x               = x_far;
        args.out             = out_far;
        args.row_expert      = device_copy(row, sizeof(row));
        args.row_in          = device_copy(places, sizeof(places));
        args.row_out         = args.row_in;
        args.workspace_bytes = wtn_backend_cuda.ffn_workspace_bytes(&net.spec, shape.rows, 0, 1);
        args.workspace       = workspace_create(args.workspace_bytes);
        ck_assert_int_eq(wtn_backend_cuda.ffn_run(net.ffn, &args), WITAN_OK);
        for (int64_t i = 0; i < shape.rows; i++) {
            ck_assert_int_eq(wtn_backend_cuda.copy(out + (size_t)i * row_bytes,
                                                   (char *)out_far + (size_t)places[i] * row_bytes,
                                                   row_bytes, NULL),
                             WITAN_OK);
        }
        net_check(&net, &host, out);
        workspace_destroy(args.workspace, args.workspace_bytes);
        wtn_backend_cuda.free((void *)(uintptr_t)args.row_expert);
        wtn_backend_cuda.free((void *)(uintptr_t)args.row_in);
        net_destroy(&net);
    }
    wtn_backend_cuda.free(x_far);
    wtn_backend_cuda.free(out_far);
    free(x);
    free(out);
}
END_TEST

/* One multiprocessor, or fewer than none: the same bits. */
START_TEST(test_cuda_ffn_reserved_multiprocessors_change_no_bit)
{
    const shape_t shape = {40, 24, 3, 70};

    for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
        FOR_EACH_CUDA_TIER(tier, dtype)
        {
            const size_t   bytes = (size_t)(shape.rows * shape.H) * witan_dtype_bytes(dtype);
            void          *x     = data_tensor((size_t)(shape.rows * shape.H), dtype, 1.0f, 7);
            int32_t        row[70];
            wtn_ffn_args_t args = {.x = x, .row_count = shape.rows, .row_expert = row};
            net_t          net;
            void          *all, *some;

            for (int32_t i = 0; i < shape.rows; i++) {
                row[i] = i % shape.experts;
            }
            net_create(&net, tier, dtype, shape, &silu_gated, false);
            all              = net_run(&net, &args, shape.rows, shape.rows);
            args.sm_reserved = 1000;
            some             = net_run(&net, &args, shape.rows, shape.rows);
            ck_assert_mem_eq(all, some, bytes);
            free(all);
            free(some);
            free(x);
            net_destroy(&net);
        }
    }
}
END_TEST

/* So few rows that sm_90a has one kernel for both products, with the tiles that deal them out best:
 * 32 columns for 8 multiprocessors, 64 for one; strips of 16 rows, also where one of many experts
 * has more, else 64 rows. Each row has the bits it has among many. */
START_TEST(test_cuda_ffn_few_rows_change_no_bit)
{
    enum { FEW = 48, ROWS = 70 };

    const struct {
        int32_t hit;
        int64_t rows, first; /* of the first expert, before the rest is dealt */
    } cases[] = {{1, 1, 0},  {2, 2, 0},  {3, 3, 0},  {4, 4, 0},   {6, 24, 0}, {1, 16, 0},
                 {2, 20, 0}, {1, 17, 0}, {3, 24, 0}, {6, 40, 20}, {2, 48, 0}};
    const int32_t reserved[] = {0, 4, 6, 7}; /* the emulator has 8 multiprocessors */
    const shape_t shape      = {256, 96, 6, ROWS};

    for (witan_dtype_t dtype = WITAN_F16; dtype <= WITAN_BF16; dtype++) {
        FOR_EACH_CUDA_TIER(tier, dtype)
        {
            const size_t   row_bytes = (size_t)shape.H * witan_dtype_bytes(dtype);
            char          *x         = data_tensor((size_t)(ROWS * shape.H), dtype, 1.0f, 7);
            int32_t        row[ROWS];
            wtn_ffn_args_t args = {.x = x, .row_expert = row};
            net_t          net;

            net_create(&net, tier, dtype, shape, &silu_gated, true);
            for (size_t i = 0; i < WTN_COUNT_OF(cases) && !tier->cuda_gemm[dtype]->waits; i++) {
                char *all, *some;

                for (int32_t r = 0; r < ROWS; r++) {
                    row[r] = r < cases[i].rows ? (r + (int32_t)i) % cases[i].hit : r % 6;
                    row[r] = r < cases[i].first ? 0 : row[r];
                }
                args.row_count   = ROWS;
                args.sm_reserved = 0;
                all              = net_run(&net, &args, ROWS, ROWS);
                for (size_t b = 0; b < WTN_COUNT_OF(reserved); b++) {
                    args.row_count   = cases[i].rows;
                    args.sm_reserved = reserved[b];
                    some             = net_run(&net, &args, ROWS, FEW);
                    ck_assert_mem_eq(all, some, (size_t)cases[i].rows * row_bytes);
                    free(some);
                }
                free(all);
            }
            net_destroy(&net);
            free(x);
        }
    }
}
END_TEST

/* The sm_90a product numbers rows by 32 bits. */
START_TEST(test_cuda_ffn_more_rows_than_numbers_are_refused)
{
    const wtn_cuda_gemm_args_t args = {.row_count_max = UINT32_MAX};

    ck_assert_int_eq(wtn_cuda_gemm_sm90.down(NULL, &args), WITAN_E_UNSUPPORTED);
    ck_assert_str_eq(witan_last_error(), "sm_90a: 4294967295 rows, at most 4294967294");
}
END_TEST

static witan_status_t read_badly(void *context, const witan_weight_slice_t *slice, void *out)
{
    (void)context;
    (void)slice;
    (void)out;
    return witan_error_set(WITAN_E_IO, "no such weights");
}

START_TEST(test_cuda_ffn_failing_read_is_told)
{
    const shape_t shape = {40, 24, 3, 0};

    FOR_EACH_CUDA_TIER(tier, WITAN_BF16)
    {
        net_t net;

        net_create(&net, tier, WITAN_BF16, shape, &silu_gated, true);
        wtn_backend_cuda.ffn_destroy(net.ffn);
        ck_assert_int_eq(wtn_backend_cuda.ffn_create(&net.ffn, &net.spec,
                                                     &(witan_weights_t){NULL, read_badly}),
                         WITAN_E_IO);
        ck_assert_ptr_null(net.ffn);
        ck_assert_str_eq(witan_last_error(), "no such weights");
        net_destroy(&net);
    }
}
END_TEST

#ifdef WTN_EMULATOR

/* Whichever allocation fails, create says so and keeps nothing. */
START_TEST(test_cuda_ffn_failing_allocation_is_told_and_leaves_nothing)
{
    const shape_t shape = {40, 24, 3, 0};

    FOR_EACH_CUDA_TIER(tier, WITAN_BF16)
    {
        witan_status_t status = WITAN_E_MEMORY;
        uint64_t       before;
        net_t          net;
        int            count = 0;

        net_create(&net, tier, WITAN_BF16, shape, &silu_gated, true);
        wtn_backend_cuda.ffn_destroy(net.ffn);
        before = wtn_emulator_device_bytes();
        while (status == WITAN_E_MEMORY) {
            wtn_emulator_fail(WTN_EMULATOR_FAIL_ALLOC, ++count);
            status = wtn_backend_cuda.ffn_create(&net.ffn, &net.spec,
                                                 &(witan_weights_t){&net.data, data_read});
            ck_assert(status == WITAN_OK || (net.ffn == NULL && status == WITAN_E_MEMORY));
            ck_assert(status == WITAN_OK || wtn_emulator_device_bytes() == before);
        }
        wtn_emulator_fail(WTN_EMULATOR_NO_FAULT, 0);
        ck_assert_int_gt(count, 2); /* weights and staging at least */
        net_destroy(&net);
        ck_assert_uint_eq(wtn_emulator_device_bytes(), before);
    }
}
END_TEST

/* A kernel that fails is told by the call that waits for it, with CUDA's text. */
START_TEST(test_cuda_ffn_failing_kernel_is_told)
{
    const shape_t shape = {40, 24, 3, 30};

    FOR_EACH_CUDA_TIER(tier, WITAN_BF16)
    {
        void          *x    = device_copy(NULL, 30 * 40 * 2);
        void          *out  = device_copy(NULL, 30 * 40 * 2);
        char          *back = data_alloc(30 * 40 * 2);
        wtn_ffn_args_t args = {.x = x, .out = out, .row_count = 30};
        witan_status_t status;
        net_t          net;

        net_create(&net, tier, WITAN_BF16, shape, &silu_gated, false);
        args.workspace_bytes = wtn_backend_cuda.ffn_workspace_bytes(&net.spec, 30, 0, 1);
        args.workspace       = workspace_create(args.workspace_bytes);
        wtn_emulator_fail(WTN_EMULATOR_FAIL_LAUNCH, 1);
        status = wtn_backend_cuda.ffn_run(net.ffn, &args);
        if (status == WITAN_OK) {
            status = wtn_backend_cuda.copy(back, out, 30 * 40 * 2, NULL);
        }
        ck_assert_int_eq(status, WITAN_E_INTERNAL);
        ck_assert_msg(strstr(witan_last_error(), "cudaErrorLaunchFailure") != NULL, "%s",
                      witan_last_error());
        wtn_emulator_fail(WTN_EMULATOR_NO_FAULT, 0);
        wtn_emulator_reset();
        free(back);
        net_destroy(&net);
    }
}
END_TEST

#endif

int main(void)
{
    Suite *suite = suite_create("cuda_ffn_limits");
    TCase *tests = tcase_create("limits");
    char   reason[160];

    if (!wtn_backend_cuda.probe(reason, sizeof(reason))) {
        printf("skipped: %s\n", reason);
        return 77;
    }
    tcase_set_timeout(tests, 0);
    tcase_add_test(tests, test_cuda_ffn_activation_values_are_close_everywhere);
    tcase_add_test(tests, test_cuda_ffn_many_rows_match_reference);
    tcase_add_test(tests, test_cuda_ffn_many_tiles_match_reference);
    tcase_add_test(tests, test_cuda_ffn_many_tiles_of_a_block_match_reference);
    tcase_add_test(tests, test_cuda_ffn_far_rows_are_reached);
    tcase_add_test(tests, test_cuda_ffn_reserved_multiprocessors_change_no_bit);
    tcase_add_test(tests, test_cuda_ffn_few_rows_change_no_bit);
    tcase_add_test(tests, test_cuda_ffn_more_rows_than_numbers_are_refused);
    tcase_add_test(tests, test_cuda_ffn_failing_read_is_told);
#ifdef WTN_EMULATOR
    tcase_add_test(tests, test_cuda_ffn_failing_allocation_is_told_and_leaves_nothing);
    tcase_add_test(tests, test_cuda_ffn_failing_kernel_is_told);
#endif
    suite_add_tcase(suite, tests);
    return data_main(suite);
}

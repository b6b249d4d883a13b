/* The experts of every tier of the cuda backend against the scalar reference, and the promises
 * about bits, rows without an expert, and streams. */
#include "cuda_ffn/net.h"

#include <cuda_runtime_api.h>

#include "kernels/gemm/gemm_cuda.h"

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
    wtn_ffn_args_t args = {.x = x, .row_count = shape.rows, .row_expert = row};
    void          *out;

    net_create(&net, tier, dtype, shape, activation, bias);
    out = net_run(&net, &args, shape.rows, shape.rows);
    net_check(&net, &args, out);
    free(out);
    net_destroy(&net);
    free(row);
    free(x);
}

START_TEST(test_cuda_ffn_nasty_shapes_match_reference)
{
    static const shape_t shapes[] = {
        {1, 1, 1, 1},    {1, 17, 2, 5},     {17, 1, 2, 5},    {17, 17, 3, 25},  {100, 100, 3, 9},
        {64, 48, 4, 40}, {136, 136, 2, 17}, {2880, 9, 2, 3},  {19, 2880, 2, 3}, {32, 32, 0, 0},
        {32, 32, 3, 0},  {32, 8, 40, 50},   {264, 130, 1, 3}, {8, 0, 2, 5},     {24, 8, 1100, 90},
    };

    for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
        FOR_EACH_CUDA_TIER(tier, dtype)
        {
            for (size_t s = 0; s < WTN_COUNT_OF(shapes); s++) {
                check_shape(tier, dtype, shapes[s], &silu_gated, false);
                check_shape(tier, dtype, shapes[s], s % 2 == 0 ? &gpt_oss : &gelu_plain, true);
            }
        }
    }
}
END_TEST

START_TEST(test_cuda_ffn_every_activation_matches_reference)
{
    const shape_t shape = {40, 36, 2, 11};

    for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
        FOR_EACH_CUDA_TIER(tier, dtype)
        {
            for (int32_t kind = 0; kind < WITAN_ACTIVATION_COUNT; kind++) {
                for (int32_t form = 0; form < 4; form++) {
                    if (((form ^ form >> 1) & 1) != kind % 2) {
                        continue; /* half of them: gated and not, clamped and not */
                    }

                    const bool has =
                        kind == WITAN_ACTIVATION_LEAKY_RELU || kind == WITAN_ACTIVATION_SWISH;
                    const witan_activation_t activation = {.kind = (witan_activation_kind_t)kind,
                                                           .parameter = has ? 0.3f : 0.0f,
                                                           .gated     = form % 2 == 0,
                                                           .limit     = form >= 2 ? 0.75f : 0.0f,
                                                           .up_offset = form == 2 ? 1.0f : 0.0f};

                    check_shape(tier, dtype, shape, &activation, form != 1);
                }
            }
        }
    }
}
END_TEST

/* Experts with `counts` rows, dealt in turn, with a row of no expert after every fifth. */
static int64_t deal(const int64_t *counts, int32_t experts, int32_t *row_expert)
{
    int64_t rows = 0;
    bool    more = true;

    for (int64_t turn = 0; more; turn++) {
        more = false;
        for (int32_t e = 0; e < experts; e++) {
            if (turn < counts[e]) {
                row_expert[rows++] = e;
                more               = true;
                if (rows % 6 == 5) {
                    row_expert[rows++] = -1;
                }
            }
        }
    }
    return rows;
}

START_TEST(test_cuda_ffn_ragged_experts_match_reference)
{
    static const int64_t counts[] = {0, 1, 17, 0, 129, 33, 0, 0};
    const int32_t        experts  = (int32_t)WTN_COUNT_OF(counts);

    for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
        FOR_EACH_CUDA_TIER(tier, dtype)
        {
            for (int32_t form = WITAN_EXECUTOR_CONTIGUOUS; form <= WITAN_EXECUTOR_MASKED; form++) {
                const shape_t  shape     = {72, 40, experts, 0};
                const size_t   row_bytes = (size_t)shape.H * witan_dtype_bytes(dtype);
                int32_t        row[256];
                const int64_t  rows = deal(counts, experts, row);
                char          *x    = data_tensor((size_t)(rows * shape.H), dtype, 1.0f, 7);
                int64_t        found[WTN_COUNT_OF(counts)] = {0};
                wtn_ffn_args_t args                        = {.x                 = x,
                                                              .row_count         = rows,
                                                              .row_expert        = row,
                                                              .expert_row_counts = found,
                                                              .executor          = (witan_executor_t)form};
                net_t          net;
                unsigned char *out;

                net_create(&net, tier, dtype, shape, &silu_gated, true);
                out = net_run(&net, &args, rows, rows);
                net_check(&net, &args, out);
                ck_assert_mem_eq(found, counts, sizeof(found));
                ck_assert_int_eq(args.executor_taken, form);
                for (int64_t i = 0; i < rows; i++) { /* a row of no expert keeps its poison */
                    for (size_t b = 0; b < row_bytes && row[i] < 0; b++) {
                        ck_assert_int_eq(out[(size_t)i * row_bytes + b], 0xff);
                    }
                }
                free(out);
                net_destroy(&net);
                free(x);
            }
        }
    }
}
END_TEST

/* The bits of the first `rows` rows of a call. */
static void check_bits(const net_t *net, const void *x, const int32_t *row_expert, int64_t rows,
                       const char *want, witan_executor_t executor)
{
    const size_t   row_bytes = (size_t)net->shape.H * witan_dtype_bytes(net->dtype);
    wtn_ffn_args_t args      = {.x          = x,
                                .row_count  = rows,
                                .row_expert = row_expert,
                                .executor   = executor};
    char          *out       = net_run(net, &args, rows, rows);

    ck_assert_msg(memcmp(out, want, (size_t)rows * row_bytes) == 0,
                  "tier %s %s, %ld rows: executor %d: other bits", net->spec.tier->name,
                  witan_dtype_name(net->dtype), (long)rows, executor);
    free(out);
}

/* cublas is left out: its bits may depend on the number of rows. */
START_TEST(test_cuda_ffn_row_bits_do_not_depend_on_company_or_form)
{
    const shape_t shapes[] = {{136, 88, 3, 150}, {83, 57, 4, 61}};

    for (size_t s = 0; s < WTN_COUNT_OF(shapes); s++) {
        for (witan_dtype_t dtype = WITAN_F16; dtype <= WITAN_BF16; dtype++) {
            FOR_EACH_CUDA_TIER(tier, dtype)
            {
                const shape_t  shape     = shapes[s];
                const size_t   row_bytes = (size_t)shape.H * witan_dtype_bytes(dtype);
                char          *x    = data_tensor((size_t)(shape.rows * shape.H), dtype, 1.0f, 7);
                int32_t       *row  = spread(shape.rows, shape.experts, 8);
                wtn_ffn_args_t args = {.x          = x,
                                       .row_count  = shape.rows,
                                       .row_expert = row,
                                       .executor   = WITAN_EXECUTOR_CONTIGUOUS};
                net_t          net;
                char          *all;

                net_create(&net, tier, dtype, shape, &silu_gated, true);
                all = net_run(&net, &args, shape.rows, shape.rows);
                check_bits(&net, x, row, shape.rows, all, WITAN_EXECUTOR_CONTIGUOUS);
                for (int32_t form = WITAN_EXECUTOR_CONTIGUOUS;
                     form <= WITAN_EXECUTOR_MASKED && !tier->cuda_gemm[dtype]->waits; form++) {
                    check_bits(&net, x, row, shape.rows, all, (witan_executor_t)form);
                    check_bits(&net, x, row, shape.rows / 3, all, (witan_executor_t)form);
                    for (int64_t i = 0; i < shape.rows; i += 29) {
                        check_bits(&net, x + (size_t)i * row_bytes, row + i, 1,
                                   all + (size_t)i * row_bytes, (witan_executor_t)form);
                    }
                }
                free(all);
                net_destroy(&net);
                free(row);
                free(x);
            }
        }
    }
}
END_TEST

START_TEST(test_cuda_ffn_row_maps_are_followed)
{
    enum { ROWS = 30 };
    int64_t in[ROWS], to[ROWS];

    for (int64_t i = 0; i < ROWS; i++) {
        in[i] = i * 7 % 10; /* rows of x used by several experts */
        to[i] = 2 * (i * 11 % ROWS);
    }
    for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
        FOR_EACH_CUDA_TIER(tier, dtype)
        {
            for (int32_t wide = 0; wide < 2; wide++) { /* padded rows, and gathered ones */
                const shape_t  shape = {wide == 0 ? 41 : 40, 24, 3, ROWS};
                void          *x     = data_tensor((size_t)(10 * shape.H), dtype, 1.0f, 7);
                int32_t       *row   = spread(shape.rows, shape.experts, 8);
                wtn_ffn_args_t args  = {.x          = x,
                                        .row_count  = shape.rows,
                                        .row_expert = row,
                                        .row_in     = in,
                                        .row_out    = to};
                net_t          net;
                unsigned char *out;

                net_create(&net, tier, dtype, shape, &silu_gated, true);
                out = net_run(&net, &args, 10, 2 * ROWS);
                net_check(&net, &args, out);
                for (int64_t i = 1; i < 2 * ROWS; i += 2) { /* rows nobody named */
                    ck_assert_int_eq(out[(size_t)(i * shape.H) * witan_dtype_bytes(dtype)], 0xff);
                }
                free(out);
                net_destroy(&net);
                free(row);
                free(x);
            }
        }
    }
}
END_TEST

/* Without a list of experts every row is of the first. */
START_TEST(test_cuda_ffn_rows_without_list_take_first_expert)
{
    const shape_t shape = {40, 24, 3, 14};

    for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
        FOR_EACH_CUDA_TIER(tier, dtype)
        {
            void          *x         = data_tensor((size_t)(shape.rows * shape.H), dtype, 1.0f, 7);
            int64_t        counts[3] = {0};
            wtn_ffn_args_t args = {.x = x, .row_count = shape.rows, .expert_row_counts = counts};
            net_t          net;
            void          *out;

            net_create(&net, tier, dtype, shape, &silu_gated, true);
            out = net_run(&net, &args, shape.rows, shape.rows);
            net_check(&net, &args, out);
            ck_assert(counts[0] == shape.rows && counts[1] == 0 && counts[2] == 0);
            free(out);
            net_destroy(&net);
            free(x);
        }
    }
}
END_TEST

/* The shared expert: its own tensors, and no list of ids. */
START_TEST(test_cuda_ffn_shared_expert_reads_shared_weights)
{
    const shape_t shape = {40, 24, 1, 14};

    for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
        FOR_EACH_CUDA_TIER(tier, dtype)
        {
            void          *x    = data_tensor((size_t)(shape.rows * shape.H), dtype, 1.0f, 7);
            wtn_ffn_args_t args = {.x = x, .row_count = shape.rows};
            net_t          net;
            void          *out;

            net_create(&net, tier, dtype, shape, &silu_gated, false);
            wtn_backend_cuda.ffn_destroy(net.ffn);
            net.spec.experts                           = NULL;
            net.data.tensors[WITAN_WEIGHT_GATE].values = NULL;
            net.data.tensors[WITAN_WEIGHT_UP].values   = NULL;
            net.data.tensors[WITAN_WEIGHT_DOWN].values = NULL;
            net_load(&net);
            out = net_run(&net, &args, shape.rows, shape.rows);
            net_check(&net, &args, out);
            free(out);
            net_destroy(&net);
            free(x);
        }
    }
}
END_TEST

START_TEST(test_cuda_ffn_slices_add_up_to_the_whole)
{
    const shape_t shape = {48, 45, 2, 9};
    const int64_t cut   = 19;

    FOR_EACH_CUDA_TIER(tier, WITAN_F32)
    {
        float         *x    = data_tensor((size_t)(shape.rows * shape.H), WITAN_F32, 1.0f, 7);
        int32_t       *row  = spread(shape.rows, shape.experts, 8);
        wtn_ffn_args_t args = {.x = x, .row_count = shape.rows, .row_expert = row};
        net_t          net;
        float         *out[2];

        net_create(&net, tier, WITAN_F32, shape, &silu_gated, false);
        for (int32_t half = 0; half < 2; half++) {
            wtn_backend_cuda.ffn_destroy(net.ffn);
            net.spec.inter_begin = half == 0 ? 0 : cut;
            net.spec.inter_end   = half == 0 ? cut : shape.I;
            net_load(&net);
            out[half] = net_run(&net, &args, shape.rows, shape.rows);
        }
        for (int64_t i = 0; i < shape.rows * shape.H; i++) {
            out[0][i] += out[1][i];
        }
        net_check(&net, &args, out[0]);
        net_destroy(&net);
        free(out[0]);
        free(out[1]);
        free(row);
        free(x);
    }
}
END_TEST

/* At widths that are padded; and a clamped infinity is a number like any other. */
START_TEST(test_cuda_ffn_nan_and_inf_stay_in_their_row)
{
    const shape_t shape = {33, 17, 1, 40};

    for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
        FOR_EACH_CUDA_TIER(tier, dtype)
        {
            const size_t   row_bytes = (size_t)shape.H * witan_dtype_bytes(dtype);
            char          *x         = data_tensor((size_t)(shape.rows * shape.H), dtype, 1.0f, 7);
            wtn_ffn_args_t args      = {.x = x, .row_count = shape.rows};
            net_t          net;
            char          *clean, *out;

            net_create(&net, tier, dtype, shape, &gpt_oss, false);
            clean = net_run(&net, &args, shape.rows, shape.rows);
            wtn_store_float(x, dtype, (size_t)(3 * shape.H + 5), NAN);
            wtn_store_float(x, dtype, (size_t)(8 * shape.H + 32), INFINITY);
            out = net_run(&net, &args, shape.rows, shape.rows);
            for (int64_t i = 0; i < shape.rows; i++) {
                if (i != 3 && i != 8) {
                    ck_assert_mem_eq(out + (size_t)i * row_bytes, clean + (size_t)i * row_bytes,
                                     row_bytes);
                }
            }
            for (int64_t k = 0; k < shape.H; k++) {
                ck_assert(isnan(wtn_load_float(out, dtype, (size_t)(3 * shape.H + k))));
            }
            free(clean);
            free(out);
            net_destroy(&net);
            free(x);
        }
    }
}
END_TEST

/* Every weight positive: sums of an infinite row are +inf, which the clamp makes 7. */
START_TEST(test_cuda_ffn_clamped_infinity_is_finite)
{
    const shape_t shape = {16, 3, 1, 2};

    for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
        FOR_EACH_CUDA_TIER(tier, dtype)
        {
            char          *x    = data_tensor((size_t)(shape.rows * shape.H), dtype, 1.0f, 7);
            wtn_ffn_args_t args = {.x = x, .row_count = shape.rows};
            net_t          net;
            char          *out;

            net_create(&net, tier, dtype, shape, &gpt_oss, false);
            wtn_backend_cuda.ffn_destroy(net.ffn);
            for (size_t i = 0; i < (size_t)(shape.H * shape.I); i++) {
                wtn_store_float(net.gate, dtype, i, 0.25f);
                wtn_store_float(net.up, dtype, i, 0.5f);
            }
            net_load(&net);
            wtn_store_float(x, dtype, (size_t)shape.H, INFINITY);
            out = net_run(&net, &args, shape.rows, shape.rows);
            for (int64_t k = 0; k < shape.H; k++) {
                ck_assert(isfinite(wtn_load_float(out, dtype, (size_t)(shape.H + k))));
            }
            net_check(&net, &args, out);
            free(out);
            net_destroy(&net);
            free(x);
        }
    }
}
END_TEST

START_TEST(test_cuda_ffn_auto_takes_masked_up_to_average)
{
    const shape_t  shape = {16, 16, 2, 25};
    int32_t       *row   = spread(shape.rows, shape.experts, 8);
    void          *x     = data_tensor((size_t)(shape.rows * shape.H), WITAN_BF16, 1.0f, 7);
    wtn_ffn_args_t args  = {.x = x, .row_count = shape.rows, .row_expert = row};
    net_t          net;

    FOR_EACH_CUDA_TIER(tier, WITAN_BF16)
    {
        net_create(&net, tier, WITAN_BF16, shape, &silu_gated, false);
        args.masked_rows_max = 12; /* 25 rows of 2 experts are more */
        free(net_run(&net, &args, shape.rows, shape.rows));
        ck_assert_int_eq(args.executor_taken, WITAN_EXECUTOR_CONTIGUOUS);
        args.masked_rows_max = 13;
        free(net_run(&net, &args, shape.rows, shape.rows));
        ck_assert_int_eq(args.executor_taken, WITAN_EXECUTOR_MASKED);
        net_destroy(&net);
    }
    free(row);
    free(x);
}
END_TEST

START_TEST(test_cuda_ffn_bad_calls_are_refused)
{
    const shape_t     shape = {16, 16, 2, 0};
    const wtn_tier_t *tier;
    wtn_ffn_args_t    args = {.row_count = 4};
    net_t             net;

    ck_assert_int_eq(wtn_tier_choose(wtn_backend_cuda.tiers, "sm_80", WITAN_F32, &tier),
                     WITAN_E_UNSUPPORTED);
    ck_assert_int_eq(wtn_tier_choose(wtn_backend_cuda.tiers, "avx2", WITAN_BF16, &tier),
                     WITAN_E_ARGUMENT);
    ck_assert_int_eq(wtn_tier_choose(wtn_backend_cuda.tiers, "sm_80", WITAN_BF16, &tier), WITAN_OK);
    net_create(&net, tier, WITAN_BF16, shape, &silu_gated, false);
    args.x = device_copy(NULL, 4096);
    args.workspace_bytes =
        wtn_backend_cuda.ffn_workspace_bytes(&net.spec, args.row_count, 0, 1) - 1;
    ck_assert_int_eq(wtn_backend_cuda.ffn_run(net.ffn, &args), WITAN_E_ARGUMENT);
    args.workspace_bytes++;
    args.workspace = device_copy(NULL, args.workspace_bytes);
    args.x         = (const char *)args.x + 2;
    ck_assert_int_eq(wtn_backend_cuda.ffn_run(net.ffn, &args), WITAN_E_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "alignment"));
    args.row_count = -1;
    ck_assert_int_eq(wtn_backend_cuda.ffn_run(net.ffn, &args), WITAN_E_ARGUMENT);
    wtn_backend_cuda.free((char *)(uintptr_t)args.x - 2);
    wtn_backend_cuda.free(args.workspace);
    net_destroy(&net);
}
END_TEST

static void cuda(cudaError_t code)
{
    ck_assert_msg(code == cudaSuccess, "%s", cudaGetErrorString(code));
}

static void check_replays(const wtn_tier_t *tier, shape_t shape, cudaStream_t stream)
{
    const size_t    row_bytes = (size_t)shape.H * 2, x_bytes = (size_t)shape.rows * row_bytes;
    const size_t    list_bytes = (size_t)shape.rows * sizeof(int32_t);
    const bool      waits      = tier->cuda_gemm[WITAN_BF16]->waits;
    wtn_ffn_args_t  args       = {.row_count = shape.rows, .stream = stream};
    cudaGraph_t     graph;
    cudaGraphExec_t replay;
    net_t           net;

    net_create(&net, tier, WITAN_BF16, shape, &silu_gated, true);
    args.workspace_bytes = wtn_backend_cuda.ffn_workspace_bytes(&net.spec, shape.rows, 0, 1);
    args.workspace       = device_copy(NULL, args.workspace_bytes);
    args.x               = device_copy(NULL, x_bytes);
    args.out             = device_copy(NULL, x_bytes);
    args.row_expert      = device_copy(NULL, list_bytes);
    cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    ck_assert_int_eq(wtn_backend_cuda.ffn_run(net.ffn, &args),
                     waits ? WITAN_E_UNSUPPORTED : WITAN_OK);
    cuda(cudaStreamEndCapture(stream, &graph));
    cuda(cudaGraphInstantiate(&replay, graph, 0));
    for (uint64_t seed = 1; seed <= 3 && !waits; seed++) {
        void          *x    = data_tensor((size_t)(shape.rows * shape.H), WITAN_BF16, 1.0f, seed);
        int32_t       *row  = spread(shape.rows, seed == 2 ? 1 : shape.experts, seed);
        void          *out  = data_alloc(x_bytes);
        wtn_ffn_args_t host = {.x = x, .row_count = shape.rows, .row_expert = row};

        cuda(cudaMemcpy((void *)(uintptr_t)args.x, x, x_bytes, cudaMemcpyHostToDevice));
        cuda(cudaMemcpy((void *)(uintptr_t)args.row_expert, row, list_bytes,
                        cudaMemcpyHostToDevice));
        cuda(cudaGraphLaunch(replay, stream));
        ck_assert_int_eq(wtn_backend_cuda.copy(out, args.out, x_bytes, stream), WITAN_OK);
        net_check(&net, &host, out);
        free(x);
        free(row);
        free(out);
    }
    cuda(cudaGraphExecDestroy(replay));
    cuda(cudaGraphDestroy(graph));
    wtn_backend_cuda.free(args.workspace);
    wtn_backend_cuda.free(args.out);
    wtn_backend_cuda.free((void *)(uintptr_t)args.x);
    wtn_backend_cuda.free((void *)(uintptr_t)args.row_expert);
    net_destroy(&net);
}

/* A graph of a call is replayed with other rows, experts and destinations; an executor that waits
 * says that it can not be captured. */
START_TEST(test_cuda_ffn_graph_is_replayed_with_other_routing)
{
    cudaStream_t stream;

    cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    FOR_EACH_CUDA_TIER(tier, WITAN_BF16)
    {
        check_replays(tier, (shape_t){40, 24, 4, 37}, stream);
        check_replays(tier, (shape_t){40, 24, 4, 20}, stream); /* one kernel for both products */
    }
    cuda(cudaStreamDestroy(stream));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_ffn");
    TCase *tests = tcase_create("ffn");
    char   reason[160];

    if (!wtn_backend_cuda.probe(reason, sizeof(reason))) {
        printf("skipped: %s\n", reason);
        return 77;
    }
    tcase_set_timeout(tests, 0);
    tcase_add_test(tests, test_cuda_ffn_nasty_shapes_match_reference);
    tcase_add_test(tests, test_cuda_ffn_every_activation_matches_reference);
    tcase_add_test(tests, test_cuda_ffn_ragged_experts_match_reference);
    tcase_add_test(tests, test_cuda_ffn_row_bits_do_not_depend_on_company_or_form);
    tcase_add_test(tests, test_cuda_ffn_row_maps_are_followed);
    tcase_add_test(tests, test_cuda_ffn_rows_without_list_take_first_expert);
    tcase_add_test(tests, test_cuda_ffn_shared_expert_reads_shared_weights);
    tcase_add_test(tests, test_cuda_ffn_slices_add_up_to_the_whole);
    tcase_add_test(tests, test_cuda_ffn_nan_and_inf_stay_in_their_row);
    tcase_add_test(tests, test_cuda_ffn_clamped_infinity_is_finite);
    tcase_add_test(tests, test_cuda_ffn_auto_takes_masked_up_to_average);
    tcase_add_test(tests, test_cuda_ffn_bad_calls_are_refused);
    tcase_add_test(tests, test_cuda_ffn_graph_is_replayed_with_other_routing);
    suite_add_tcase(suite, tests);
    return data_main(suite);
}

/* The gate on a device: against the exact sum, and a token's bits against those it has in any other
 * batch. */
#include "device.h"

#include "kernels/gate/gate.h"

typedef struct gate_case {
    int64_t       H, T;
    int32_t       N;
    witan_dtype_t x_dtype, weight_dtype;
    float         scale; /* of x */
} gate_case_t;

typedef struct gated {
    wtn_gate_spec_t spec;
    wtn_gate_t     *gate;
    void           *x, *weight;
} gated_t;

static gated_t gate_of(const gate_case_t *c)
{
    const size_t   E = (size_t)c->N, H = (size_t)c->H;
    gated_t        g    = {.spec   = {.hidden_size  = c->H,
                                      .out_count    = c->N,
                                      .weight       = WITAN_WEIGHT_ROUTER,
                                      .x_dtype      = c->x_dtype,
                                      .weight_dtype = c->weight_dtype},
                           .x      = data_tensor((size_t)c->T * H, c->x_dtype, c->scale, 11),
                           .weight = data_tensor(E * H, c->weight_dtype, 1.0f, 12)};
    data_weights_t data = {
        .tensors = {[WITAN_WEIGHT_ROUTER] = {g.weight, c->N, c->H, c->weight_dtype}}};

    ck_assert_msg(wtn_cuda_gate_create(&g.gate, &g.spec, &(witan_weights_t){&data, data_read}) ==
                      WITAN_OK,
                  "%s", witan_last_error());
    return g;
}

static void release(gated_t *g)
{
    wtn_cuda_gate_destroy(g->gate);
    free(g->x);
    free(g->weight);
}

/* Logits [T, N] of tokens from `first` on, x at `offset` bytes from alignment; to be freed. */
static float *run(const gated_t *g, int64_t first, int64_t T, size_t offset)
{
    const size_t row   = (size_t)g->spec.hidden_size * witan_dtype_bytes(g->spec.x_dtype);
    const size_t bytes = (size_t)T * row;
    const size_t count = (size_t)T * (size_t)g->spec.out_count;
    char        *moved = data_alloc(bytes + offset);
    char        *dx;
    float       *logits = device_from(NULL, count * 4);

    memcpy(moved + offset, (const char *)g->x + (size_t)first * row, bytes);
    dx = device_from(moved, bytes + offset);
    ck_assert_uint_eq(wtn_cuda_gate_workspace_bytes(&g->spec, T, 1), 0);
    ck_assert_msg(wtn_cuda_gate_run(g->gate, &(wtn_gate_args_t){.x           = dx + offset,
                                                                .token_count = T,
                                                                .logits      = logits}) == WITAN_OK,
                  "%s", witan_last_error());
    logits = device_take(logits, count * 4);
    wtn_backend_cuda.free(dx);
    free(moved);
    return logits;
}

/* Every product is exact and 48 bits wide at most. An mma's 17 numbers are added in fp32 or better:
 * 17 * 2^-24 of the largest partial sum, below sum |x w|. A segment of 512 has two sums of 32 mma,
 * further parts of x and w are further mma of numbers 2^-8 of the first; segments are added once
 * more. In steps of 2^-24 sum |x w|: 32 * 17 * (1 + 8 / 256) + 1 + segments; of these worst cases,
 * all to one side, a tenth is allowed. */
static double tolerance(const gate_case_t *c)
{
    return 0.1 * (32 * 17 * 1.04 + 1 + (double)c->H / 512) * 0x1p-24;
}

static void check_values(const gate_case_t *c)
{
    gated_t g       = gate_of(c);
    float  *logits  = run(&g, 0, c->T, 0);
    double  largest = 0.0;

    for (int64_t i = 0; i < c->T * c->N; i++) {
        const int64_t t = i / c->N, n = i % c->N;
        double        sum = 0.0, size = 0.0, error;

        for (int64_t k = 0; k < c->H; k++) {
            const double xw =
                (double)wtn_load_float(g.x, c->x_dtype, (size_t)(t * c->H + k)) *
                (double)wtn_load_float(g.weight, c->weight_dtype, (size_t)(n * c->H + k));

            sum += xw;
            size += fabs(xw);
        }
        error   = fabs((double)logits[i] - sum) / (size > 0.0 ? size : 1.0);
        largest = !(error <= largest) ? error : largest;
    }
    ck_assert_msg(largest <= tolerance(c), "H %d T %d N %d dtypes %d %d: error %g, allowed %g",
                  (int)c->H, (int)c->T, c->N, (int)c->x_dtype, (int)c->weight_dtype, largest,
                  tolerance(c));
    free(logits);
    release(&g);
}

START_TEST(test_gate_any_shape_near_exact_sum)
{
    static const int64_t       shapes[][3] = {{1, 1, 1},    {7, 3, 2},   {8, 17, 8},
                                              {31, 5, 9},   {32, 16, 1}, {33, 1, 17},
                                              {100, 65, 3}, {520, 4, 5}, {1100, 2, 10}};
    static const witan_dtype_t dtypes[]    = {WITAN_F32, WITAN_F16, WITAN_BF16};

    for (size_t i = 0; i < WTN_COUNT_OF(shapes); i++) {
        for (size_t w = 0; w < 3; w++) {
            const gate_case_t c = {shapes[i][0], shapes[i][1], (int32_t)shapes[i][2],
                                   dtypes[_i],   dtypes[w],    4.0f};

            check_values(&c);
        }
    }
    check_values(&(gate_case_t){40, 0, 8, dtypes[_i], WITAN_F32, 1.0f});
    /* Parts of what is small in fp16 still count: below 2^-14 it has fewer bits. */
    check_values(&(gate_case_t){64, 3, 8, dtypes[_i], WITAN_F32, 1e-4f});
    check_values(&(gate_case_t){64, 3, 8, dtypes[_i], WITAN_F32, 3e4f});
}
END_TEST

/* Few tokens, some, many: forms of the kernel; rows that are not aligned to 16 bytes. Those of bf16
 * alone have forms of 32, 64 and 128 tokens by 64 and 128 columns, here for 64 multiprocessors. */
static const gate_case_t batches[] = {
    {1064, 1030, 5, WITAN_BF16, WITAN_F32, 1.0f},   {72, 1100, 70, WITAN_F16, WITAN_F32, 1.0f},
    {520, 1025, 3, WITAN_BF16, WITAN_BF16, 1.0f},   {40, 1030, 33, WITAN_F32, WITAN_F32, 1.0f},
    {1064, 1030, 70, WITAN_BF16, WITAN_BF16, 1.0f}, {72, 2100, 64, WITAN_BF16, WITAN_BF16, 1.0f},
    {584, 2050, 128, WITAN_BF16, WITAN_BF16, 1.0f}, {136, 4200, 33, WITAN_BF16, WITAN_BF16, 1.0f},
    {136, 2100, 130, WITAN_BF16, WITAN_BF16, 1.0f}, {8, 1100, 129, WITAN_BF16, WITAN_BF16, 1.0f}};

START_TEST(test_gate_token_in_any_batch_equal_bits)
{
    static const int64_t parts[][2] = {{0, 1}, {1029 - 5, 1}, {3, 64}, {900, 65}, {1, 200}};

    const gate_case_t *c   = &batches[_i];
    gated_t            g   = gate_of(c);
    float             *all = run(&g, 0, c->T, 0);

    for (size_t i = 0; i < WTN_COUNT_OF(parts); i++) {
        float *some = run(&g, parts[i][0], parts[i][1], i % 3 * 4);

        ck_assert_msg(memcmp(some, all + parts[i][0] * c->N,
                             (size_t)(parts[i][1] * c->N) * sizeof(float)) == 0,
                      "case %d: tokens %d to %d", _i, (int)parts[i][0],
                      (int)(parts[i][0] + parts[i][1]));
        free(some);
    }
    free(all);
    release(&g);
}
END_TEST

/* Rows of a multiple of 8 elements, and of 4: in fp32 these are aligned to 16 bytes, too. */
START_TEST(test_gate_nan_and_infinity_stay_in_their_token)
{
    const gate_case_t c        = {_i < 3 ? 72 : 76, 5, 9, (witan_dtype_t)(_i % 3), WITAN_F32, 1.0f};
    const float       values[] = {NAN, INFINITY, -INFINITY};
    gated_t           g        = gate_of(&c);
    float            *before   = run(&g, 0, c.T, 0);
    float            *after;

    for (size_t i = 0; i < 3; i++) {
        wtn_store_float(g.x, c.x_dtype, (2 * (i / 2) + 1) * (size_t)c.H + 17 * i, values[i]);
    }
    after = run(&g, 0, c.T, 0);
    for (int64_t i = 0; i < c.T * c.N; i++) {
        const bool touched = i / c.N == 1 || i / c.N == 3;

        ck_assert(touched ? !isfinite(after[i]) : after[i] == before[i]);
    }
    free(before);
    free(after);
    release(&g);
}
END_TEST

/* One product alone is exact: no part of a weight is lost. */
START_TEST(test_gate_single_product_exact)
{
    static const float weights[8] = {0x1.fffffep127f, 0x1.000002p0f, -0x1.fffffep-90f, 0x1.8p-3f,
                                     0x1.010101p5f,   -0.0f,         0x1.7f8080p0f,    3.0f};
    static const float factors[]  = {0.5f, 1.0f, -2.0f, 0.25f};

    gate_case_t    c    = {8, 1, 1, WITAN_F32, WITAN_F32, 1.0f};
    gated_t        g    = gate_of(&c);
    data_weights_t data = {.tensors = {[WITAN_WEIGHT_ROUTER] = {weights, 1, 8, WITAN_F32}}};

    wtn_cuda_gate_destroy(g.gate);
    ck_assert_int_eq(wtn_cuda_gate_create(&g.gate, &g.spec, &(witan_weights_t){&data, data_read}),
                     WITAN_OK);
    for (size_t i = 0; i < 8; i++) {
        const float factor = factors[i % WTN_COUNT_OF(factors)];
        float      *logit;

        memset(g.x, 0, 8 * sizeof(float));
        ((float *)g.x)[i] = factor;
        logit             = run(&g, 0, 1, 0);
        ck_assert_msg(logit[0] == factor * weights[i], "expected %a, found %a",
                      (double)(factor * weights[i]), (double)logit[0]);
        free(logit);
    }
    release(&g);
}
END_TEST

/* fp32 weights that bf16 holds are one plane: the bits they would have as three. */
START_TEST(test_gate_weights_of_bf16_same_bits_in_fp32)
{
    const gate_case_t wide = {200, 20, 9, WITAN_BF16, WITAN_F32, 1.0f};
    const gate_case_t half = {200, 20, 9, WITAN_BF16, WITAN_BF16, 1.0f};
    gated_t           g = gate_of(&half), f = gate_of(&wide);
    float            *weight = f.weight, *logits[2];
    data_weights_t    data   = {.tensors = {[WITAN_WEIGHT_ROUTER] = {weight, 9, 200, WITAN_F32}}};

    for (size_t i = 0; i < 9 * 200; i++) { /* the last row keeps its bits below bf16's */
        weight[i] = i < 8 * 200 ? wtn_load_float(g.weight, WITAN_BF16, i) : weight[i];
    }
    for (int three = 1; three >= 0; three--) {
        if (three == 0) {
            memset(weight + 8 * 200, 0, 200 * sizeof(*weight));
        }
        wtn_cuda_gate_destroy(f.gate);
        ck_assert_int_eq(wtn_cuda_gate_create(&f.gate, &f.spec,
                                              &(witan_weights_t){&data, data_read}),
                         WITAN_OK);
        logits[three] = run(&f, 0, 20, 0);
    }
    for (int64_t i = 0; i < 20 * 9; i++) {
        ck_assert(i % 9 == 8 || logits[0][i] == logits[1][i]);
    }
    free(logits[0]);
    free(logits[1]);
    release(&g);
    release(&f);
}
END_TEST

static witan_status_t refuse(void *context, const witan_weight_slice_t *slice, void *out)
{
    (void)context;
    (void)out;
    return slice->row_begin == 2 ? witan_error_set(WITAN_E_IO, "no third row") : WITAN_OK;
}

START_TEST(test_gate_create_bad_input_error)
{
    wtn_gate_spec_t spec = {.hidden_size = 16, .out_count = 4};
    wtn_gate_t     *gate = (wtn_gate_t *)&spec;

    ck_assert_int_eq(wtn_cuda_gate_create(&gate, &spec, &(witan_weights_t){NULL, refuse}),
                     WITAN_E_IO);
    ck_assert_ptr_null(gate);
    spec.out_count = 0;
    ck_assert_int_eq(wtn_cuda_gate_create(&gate, &spec, &(witan_weights_t){NULL, refuse}),
                     WITAN_E_ARGUMENT);
    spec.out_count   = 1;
    spec.hidden_size = INT64_MAX / 4;
    ck_assert_uint_eq(wtn_cuda_gate_weight_bytes(&spec), SIZE_MAX);
    ck_assert_int_eq(wtn_cuda_gate_create(&gate, &spec, &(witan_weights_t){NULL, refuse}),
                     WITAN_E_MEMORY);
    wtn_cuda_gate_destroy(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda gate");
    TCase *tcase = tcase_create("all");

    (void)setenv("WTN_EMULATOR_SMS", "64", 0);
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_gate_any_shape_near_exact_sum, 0, 3);
    tcase_add_loop_test(tcase, test_gate_token_in_any_batch_equal_bits, 0, WTN_COUNT_OF(batches));
    tcase_add_loop_test(tcase, test_gate_nan_and_infinity_stay_in_their_token, 0, 6);
    tcase_add_test(tcase, test_gate_single_product_exact);
    tcase_add_test(tcase, test_gate_weights_of_bf16_same_bits_in_fp32);
    tcase_add_test(tcase, test_gate_create_bad_input_error);
    suite_add_tcase(suite, tcase);
    return device_main(suite);
}

/* The gate of every tier against the reference. */
#include "data.h"

#include "kernels/gate/gate.h"

typedef struct subject {
    const wtn_tier_t *tier;
    witan_dtype_t     x_dtype, weight_dtype;
    int64_t           H;
    int32_t           out_count;
} subject_t;

static float *run(const subject_t *s, const void *weight, const void *x, int64_t T, int32_t threads)
{
    const size_t   bytes = (size_t)(T * s->out_count) * sizeof(float);
    wtn_gate_t    *gate;
    data_weights_t data = {
        .tensors = {[WITAN_WEIGHT_ROUTER] = {weight, s->out_count, s->H, s->weight_dtype}}};
    wtn_gate_spec_t spec = {.hidden_size  = s->H,
                            .out_count    = s->out_count,
                            .weight       = WITAN_WEIGHT_ROUTER,
                            .x_dtype      = s->x_dtype,
                            .weight_dtype = s->weight_dtype,
                            .tier         = s->tier};
    wtn_gate_args_t args = {.x            = x,
                            .token_count  = T,
                            .logits       = data_output(bytes),
                            .thread_count = threads,
                            .workspace_bytes =
                                wtn_backend_host.gate_workspace_bytes(&spec, T, threads)};

    args.workspace = data_output(args.workspace_bytes);
    ck_assert_int_eq(wtn_backend_host.gate_create(&gate, &spec,
                                                  &(witan_weights_t){&data, data_read}),
                     WITAN_OK);
    ck_assert_int_eq(wtn_backend_host.gate_run(gate, &args), WITAN_OK);
    data_check_guard(args.logits, bytes);
    data_check_guard(args.workspace, args.workspace_bytes);
    args.workspace_bytes--;
    ck_assert_int_eq(wtn_backend_host.gate_run(gate, &args), WITAN_E_ARGUMENT);
    wtn_backend_host.gate_destroy(gate);
    free(args.workspace);
    return args.logits;
}

static void check(const subject_t *s, int64_t T)
{
    const int64_t H    = s->H;
    void         *w    = data_tensor((size_t)(s->out_count * H), s->weight_dtype, 1.0f, 1);
    void         *x    = data_tensor((size_t)(T * H), s->x_dtype, 1.0f, 2);
    float        *want = data_output((size_t)(T * s->out_count) * sizeof(float));
    float        *y    = run(s, w, x, T, 2);
    float        *one  = run(s, w, x, T, 1);

    wtn_gate_ref(&(wtn_gate_ref_args_t){.H            = H,
                                        .token_count  = T,
                                        .out_count    = s->out_count,
                                        .x_dtype      = s->x_dtype,
                                        .weight_dtype = s->weight_dtype,
                                        .x            = x,
                                        .weight       = w,
                                        .logits       = want});
    ck_assert_mem_eq(y, one, (size_t)(T * s->out_count) * sizeof(float));
    for (int64_t i = 0; i < T * s->out_count; i++) {
        /* Both round K products and sums of at most magnitude K, by 2^-24 each; partial sums of
         * these random signs are far below that bound's worst case, so the square root of K
         * stands for one K. */
        double bound = 8.0 * (double)H * sqrt((double)H) * 0x1p-24;

        ck_assert_msg(fabs((double)y[i] - (double)want[i]) <= bound,
                      "tier %s x %s w %s H %ld: expected %g, found %g", s->tier->name,
                      witan_dtype_name(s->x_dtype), witan_dtype_name(s->weight_dtype), (long)H,
                      (double)want[i], (double)y[i]);
    }
    free(w);
    free(x);
    free(want);
    free(y);
    free(one);
}

START_TEST(test_gate_all_dtypes_match_reference)
{
    static const struct {
        int64_t H;
        int32_t out_count;
        int64_t T;
    } shapes[] = {{1, 1, 1},     {17, 1, 5},   {64, 8, 25}, {65, 33, 13},
                  {2880, 17, 3}, {40, 256, 2}, {33, 9, 0}};

    FOR_EACH_TIER(tier)
    {
        for (size_t s = 0; s < WTN_COUNT_OF(shapes); s++) {
            for (int32_t d = 0; d < 9; d++) {
                check(&(subject_t){tier, (witan_dtype_t)(d % 3), (witan_dtype_t)(d / 3),
                                   shapes[s].H, shapes[s].out_count},
                      shapes[s].T);
            }
        }
    }
}
END_TEST

START_TEST(test_gate_token_bits_do_not_depend_on_company)
{
    FOR_EACH_TIER(tier)
    {
        for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
            const int64_t   H = 83, T = 29;
            const subject_t s   = {tier, dtype, dtype, H, 37};
            char           *w   = data_tensor((size_t)(37 * H), dtype, 1.0f, 1);
            char           *x   = data_tensor((size_t)(T * H), dtype, 1.0f, 2);
            float          *all = run(&s, w, x, T, 3);

            for (int64_t t = 0; t < T; t++) {
                float *one = run(&s, w, x + (size_t)(t * H) * witan_dtype_bytes(dtype), 1, 1);

                ck_assert_mem_eq(one, all + t * 37, 37 * sizeof(float));
                free(one);
            }
            free(w);
            free(x);
            free(all);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gate");
    TCase *tests = tcase_create("host");

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_gate_all_dtypes_match_reference);
    tcase_add_test(tests, test_gate_token_bits_do_not_depend_on_company);
    suite_add_tcase(suite, tests);
    return data_main(suite);
}

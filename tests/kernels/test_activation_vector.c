/* The activations of the vector tiers against float64, over all of fp32. */
#include "data.h"

#include <float.h>

#include "experts/activation.h"
#include "kernels/ffn/ffn.h"

/* Bit patterns between samples: odd, so that exponents, signs and mantissas all get their share. */
#define SWEEP_STEP 8191u

typedef struct subject {
    const wtn_tier_t  *tier;
    witan_activation_t activation;
} subject_t;

/* f of one row of panel columns through the epilogue of the up GEMM, in fp32. */
static void apply(const subject_t *s, const float *g, float u, float *out)
{
    const wtn_gemm_t      *gemm = s->tier->gemm[WITAN_F32];
    const int32_t          half = gemm->panel_columns / 2;
    _Alignas(64) float     sums[WTN_PANEL_COLUMNS_MAX];
    wtn_epilogue_up_args_t args = {
        .activation = &s->activation, .sums = sums, .rows = 1, .column_count = half, .h = out};

    for (int32_t n = 0; n < half; n++) {
        sums[n]        = g[n];
        sums[half + n] = u;
    }
    s->tier->epilogue[WITAN_F32]->up(&args);
}

/* Units in the last place that kernels/activation/activation_vector.h allows at x. */
static double allowed_ulps(const witan_activation_t *activation, double x)
{
    switch (activation->kind) {
    case WITAN_ACTIVATION_SILU:
        return 4.0;
    case WITAN_ACTIVATION_GELU:
        return 6.0;
    case WITAN_ACTIVATION_SWISH: /* e^(beta x) of a rounded product: half an ulp of it */
        return 4.0 + fabs(activation->parameter * x);
    case WITAN_ACTIVATION_GELU_TANH:
        return x < 0.0 ? 4.0 + 6.0 * fabs(x) + fabs(x * x * x) / 4.0 : 4.0;
    default:
        return 0.5;
    }
}

static void check_value(const subject_t *s, float x, float y)
{
    const double want  = wtn_activation_gated_ref64(&s->activation, x, 1.0);
    const float  near  = (float)want;
    const double error = fabs((double)y - want);
    int          exponent;

    if (isnan(want) || !isfinite(near)) {
        ck_assert_msg(isnan(want) ? isnan(y) : y == near || fabsf(y) >= FLT_MAX,
                      "tier %s %s(%a): expected %g, found %g", s->tier->name,
                      wtn_activation_name(s->activation.kind), (double)x, want, (double)y);
        return;
    }
    (void)frexp(want, &exponent);
    /* Where e^-x is Inf the result is 0, and never larger than 2^-120: 128 ln 2 / 2^128. */
    ck_assert_msg(error <= allowed_ulps(&s->activation, x) * ldexp(1.0, exponent - 24) ||
                      (error <= 0x1p-120 && fabs(want) <= 0x1p-120),
                  "tier %s %s(%a): expected %a, found %a", s->tier->name,
                  wtn_activation_name(s->activation.kind), (double)x, want, (double)y);
}

static void sweep(const subject_t *s)
{
    const int32_t half = s->tier->gemm[WITAN_F32]->panel_columns / 2;
    float         x[WTN_PANEL_COLUMNS_MAX], y[WTN_PANEL_COLUMNS_MAX];

    for (uint64_t bits = 0; bits < (uint64_t)1 << 32;) {
        for (int32_t n = 0; n < half; n++, bits += SWEEP_STEP) {
            x[n] = wtn_bits_float((uint32_t)bits);
        }
        apply(s, x, 1.0f, y);
        for (int32_t n = 0; n < half; n++) {
            check_value(s, x[n], y[n]);
        }
    }
}

static const float special[] = {0.0f,   -0.0f,   1.0f,    -1.0f,    88.7f,     -88.7f,
                                88.8f,  -88.8f,  104.0f,  -104.0f,  INFINITY,  -INFINITY,
                                NAN,    -NAN,    FLT_MAX, -FLT_MAX, FLT_MIN,   -FLT_MIN,
                                1e-45f, -1e-45f, 14.0f,   -14.0f,   15.0f,     -15.0f,
                                -12.5f, -5.4f,   5.4f,    0x1p-12f, -0x1p-12f, 1e19f};

static void check_special(const subject_t *s)
{
    float x[WTN_PANEL_COLUMNS_MAX], y[WTN_PANEL_COLUMNS_MAX];

    for (size_t i = 0; i < WTN_COUNT_OF(special); i++) {
        for (int32_t n = 0; n < WTN_PANEL_COLUMNS_MAX; n++) {
            x[n] = special[i];
        }
        apply(s, x, 1.0f, y);
        check_value(s, x[0], y[0]);
    }
}

/* Vector tiers: the scalar tier is the scalar reference, tested where it stands. */
#define FOR_EACH_VECTOR_TIER(tier) \
    FOR_EACH_TIER(tier)            \
    if (strcmp(wtn_tier_name(tier), "scalar") != 0)

START_TEST(test_activation_every_kind_is_within_its_ulps)
{
    FOR_EACH_VECTOR_TIER(tier)
    {
        for (int32_t kind = 0; kind < WITAN_ACTIVATION_COUNT; kind++) {
            subject_t s = {tier, {.kind = (witan_activation_kind_t)kind, .gated = true}};

            s.activation.parameter = kind == WITAN_ACTIVATION_LEAKY_RELU ? 0.25f
                                     : kind == WITAN_ACTIVATION_SWISH    ? 1.702f
                                                                         : 0.0f;
            check_special(&s);
            sweep(&s);
        }
    }
}
END_TEST

START_TEST(test_activation_swish_of_one_equals_silu_bit_for_bit)
{
    FOR_EACH_TIER(tier)
    {
        const subject_t silu  = {tier, {.kind = WITAN_ACTIVATION_SILU, .gated = true}};
        const subject_t swish = {
            tier, {.kind = WITAN_ACTIVATION_SWISH, .parameter = 1.0f, .gated = true}};
        const int32_t half = tier->gemm[WITAN_F32]->panel_columns / 2;

        for (uint64_t bits = 0; bits < (uint64_t)1 << 32;) {
            float x[WTN_PANEL_COLUMNS_MAX], y[WTN_PANEL_COLUMNS_MAX], z[WTN_PANEL_COLUMNS_MAX];

            for (int32_t n = 0; n < half; n++, bits += 65521u) {
                x[n] = wtn_bits_float((uint32_t)bits);
            }
            apply(&silu, x, 1.0f, y);
            apply(&swish, x, 1.0f, z);
            ck_assert_mem_eq(y, z, (size_t)half * sizeof(float));
        }
    }
}
END_TEST

/* Clamps and the offset of u, with an activation that is exact: equal bits with the reference. */
START_TEST(test_activation_clamps_and_offset_equal_reference)
{
    static const float values[] = {-INFINITY, -9.0f, -7.0f, -1.5f,    0.0f,
                                   1.5f,      7.0f,  9.0f,  INFINITY, NAN};

    FOR_EACH_TIER(tier)
    {
        for (int32_t gated = 0; gated < 2; gated++) {
            subject_t s = {tier,
                           {.kind      = WITAN_ACTIVATION_RELU,
                            .gated     = gated != 0,
                            .limit     = 7.0f,
                            .up_offset = gated != 0 ? 1.0f : 0.0f}};

            for (size_t i = 0; i < WTN_COUNT_OF(values) * WTN_COUNT_OF(values); i++) {
                float g = values[i % WTN_COUNT_OF(values)], u = values[i / WTN_COUNT_OF(values)];
                float x[WTN_PANEL_COLUMNS_MAX], y[WTN_PANEL_COLUMNS_MAX], want;

                for (int32_t n = 0; n < WTN_PANEL_COLUMNS_MAX; n++) {
                    x[n] = g;
                }
                apply(&s, x, u, y);
                /* not gated: the first half of the panel is u itself */
                want = wtn_activation_gated_ref(&s.activation, g, gated != 0 ? u : g);
                ck_assert_msg(y[0] == want || (isnan(y[0]) && isnan(want)),
                              "tier %s g %g u %g: expected %g, found %g", tier->name, (double)g,
                              (double)u, (double)want, (double)y[0]);
            }
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("activation_vector");
    TCase *tests = tcase_create("host");

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_activation_every_kind_is_within_its_ulps);
    tcase_add_test(tests, test_activation_swish_of_one_equals_silu_bit_for_bit);
    tcase_add_test(tests, test_activation_clamps_and_offset_equal_reference);
    suite_add_tcase(suite, tests);
    return data_main(suite);
}

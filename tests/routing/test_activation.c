/* The activation registry: names, parameters, refusals, and both references against each other
 * and against known values. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/half.h"
#include "core/util.h"
#include "experts/activation.h"

static const struct name_case {
    const char             *name;
    witan_activation_kind_t kind;
    float                   parameter;
} name_cases[] = {
    {"silu", WITAN_ACTIVATION_SILU, 0.0f},
    {"gelu", WITAN_ACTIVATION_GELU, 0.0f},
    {"gelu_python", WITAN_ACTIVATION_GELU, 0.0f},
    {"gelu_new", WITAN_ACTIVATION_GELU_TANH, 0.0f},
    {"gelu_fast", WITAN_ACTIVATION_GELU_TANH, 0.0f},
    {"gelu_accurate", WITAN_ACTIVATION_GELU_TANH, 0.0f},
    {"gelu_tanh", WITAN_ACTIVATION_GELU_TANH, 0.0f},
    {"gelu_pytorch_tanh", WITAN_ACTIVATION_GELU_TANH, 0.0f},
    {"gelu_python_tanh", WITAN_ACTIVATION_GELU_TANH, 0.0f},
    {"quick_gelu", WITAN_ACTIVATION_SWISH, 1.702f},
    {"relu", WITAN_ACTIVATION_RELU, 0.0f},
    {"relu2", WITAN_ACTIVATION_RELU2, 0.0f},
    {"relu_squared", WITAN_ACTIVATION_RELU2, 0.0f},
    {"squared_relu", WITAN_ACTIVATION_RELU2, 0.0f},
    {"leaky_relu", WITAN_ACTIVATION_LEAKY_RELU, 0.01f},
    {"swish", WITAN_ACTIVATION_SWISH, 1.0f},
    {"linear", WITAN_ACTIVATION_IDENTITY, 0.0f},
    {"identity", WITAN_ACTIVATION_IDENTITY, 0.0f},
};

START_TEST(test_activation_names_found)
{
    for (size_t i = 0; i < WTN_COUNT_OF(name_cases); i++) {
        witan_activation_t a = {.gated = true, .limit = 3.0f, .up_offset = 2.0f};

        ck_assert_int_eq(wtn_activation_find(name_cases[i].name, &a), WITAN_OK);
        ck_assert_int_eq(a.kind, name_cases[i].kind);
        ck_assert(a.parameter == name_cases[i].parameter);
        ck_assert(a.gated && a.limit == 3.0f && a.up_offset == 2.0f);
        ck_assert_int_eq(wtn_activation_check(&a), WITAN_OK);
    }
}
END_TEST

START_TEST(test_activation_unknown_name_lists_known)
{
    witan_activation_t a = {0};
    char               name[2000];

    ck_assert_int_eq(wtn_activation_find("mish", &a), WITAN_E_CONFIG);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "\"mish\""));
    for (size_t i = 0; i < WTN_COUNT_OF(name_cases); i++) {
        ck_assert_msg(strstr(witan_last_error(), name_cases[i].name) != NULL, "%s is not in \"%s\"",
                      name_cases[i].name, witan_last_error());
    }
    ck_assert_int_eq(wtn_activation_find("", &a), WITAN_E_CONFIG);
    ck_assert_int_eq(wtn_activation_find("Silu", &a), WITAN_E_CONFIG);
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    ck_assert_int_eq(wtn_activation_find(name, &a), WITAN_E_CONFIG);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "identity"));
}
END_TEST

START_TEST(test_activation_every_kind_has_its_name)
{
    for (int kind = 0; kind < WITAN_ACTIVATION_COUNT; kind++) {
        witan_activation_t a = {0};

        ck_assert_int_eq(wtn_activation_find(wtn_activation_name((witan_activation_kind_t)kind),
                                             &a),
                         WITAN_OK);
        ck_assert_int_eq(a.kind, kind);
    }
    ck_assert_str_eq(wtn_activation_name(WITAN_ACTIVATION_COUNT), "?");
    ck_assert_str_eq(wtn_activation_name((witan_activation_kind_t)-1), "?");
}
END_TEST

START_TEST(test_activation_parameters_set_or_refused)
{
    witan_activation_t leaky = {.kind = WITAN_ACTIVATION_LEAKY_RELU};
    witan_activation_t swish = {.kind = WITAN_ACTIVATION_SWISH};
    witan_activation_t silu  = {.kind = WITAN_ACTIVATION_SILU};

    ck_assert_int_eq(wtn_activation_set(&leaky, "alpha", 0.25), WITAN_OK);
    ck_assert(leaky.parameter == 0.25f);
    ck_assert_int_eq(wtn_activation_set(&leaky, "negative_slope", 0.5), WITAN_OK);
    ck_assert(leaky.parameter == 0.5f);
    ck_assert_int_eq(wtn_activation_set(&swish, "beta", 1.702), WITAN_OK);
    ck_assert(swish.parameter == 1.702f);
    ck_assert_int_eq(wtn_activation_set(&swish, "alpha", 1.0), WITAN_E_CONFIG);
    ck_assert_int_eq(wtn_activation_set(&leaky, "beta", 1.0), WITAN_E_CONFIG);
    ck_assert_int_eq(wtn_activation_set(&silu, "", 1.0), WITAN_E_CONFIG);
    ck_assert_int_eq(wtn_activation_set(&silu, "beta", 1.0), WITAN_E_CONFIG);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "silu: expected no parameter"));
    ck_assert_int_eq(wtn_activation_set(&swish, "beta", (double)NAN), WITAN_E_CONFIG);
    ck_assert_int_eq(wtn_activation_set(&swish, "beta", 1e39), WITAN_E_CONFIG);
    ck_assert(swish.parameter == 1.702f && silu.parameter == 0.0f);
}
END_TEST

START_TEST(test_activation_check_contradictions_refused)
{
    static const struct bad {
        const char        *word;
        witan_activation_t activation;
    } bad[] = {
        {"kind", {.kind = WITAN_ACTIVATION_COUNT}},
        {"kind", {.kind = (witan_activation_kind_t)-1}},
        {"parameter", {.kind = WITAN_ACTIVATION_SWISH, .parameter = INFINITY}},
        {"parameter", {.kind = WITAN_ACTIVATION_SILU, .parameter = 1.0f}},
        {"limit", {.limit = -1.0f}},
        {"limit", {.limit = NAN}},
        {"limit", {.limit = INFINITY}},
        {"up_offset", {.gated = true, .up_offset = NAN}},
        {"up_offset", {.gated = false, .up_offset = 1.0f}},
    };

    for (size_t i = 0; i < WTN_COUNT_OF(bad); i++) {
        ck_assert_msg(wtn_activation_check(&bad[i].activation) == WITAN_E_CONFIG, "case %zu", i);
        ck_assert_ptr_nonnull(strstr(witan_last_error(), bad[i].word));
    }
}
END_TEST

/* Values by 30-digit arithmetic. */
static const struct value_case {
    witan_activation_t activation;
    double             g, u, h;
} value_cases[] = {
    {{.kind = WITAN_ACTIVATION_SILU, .gated = true}, 1.0, 1.0, 0.731058578630004879},
    {{.kind = WITAN_ACTIVATION_SILU, .gated = true}, -2.0, 3.0, -0.715217532132705219},
    {{.kind = WITAN_ACTIVATION_SILU}, 99.0, 1.0, 0.731058578630004879},
    {{.kind = WITAN_ACTIVATION_GELU, .gated = true}, 1.0, 2.0, 1.682689492137085898},
    {{.kind = WITAN_ACTIVATION_GELU_TANH, .gated = true}, 1.0, 1.0, 0.841191990608276047},
    {{.kind = WITAN_ACTIVATION_RELU, .gated = true}, -1.0, 5.0, 0.0},
    {{.kind = WITAN_ACTIVATION_RELU, .gated = true}, 1.5, 5.0, 7.5},
    {{.kind = WITAN_ACTIVATION_RELU2}, 0.0, 3.0, 9.0},
    {{.kind = WITAN_ACTIVATION_RELU2}, 0.0, -3.0, 0.0},
    {{.kind = WITAN_ACTIVATION_LEAKY_RELU, .parameter = 0.25f}, 0.0, -4.0, -1.0},
    {{.kind = WITAN_ACTIVATION_LEAKY_RELU, .parameter = 0.25f}, 0.0, 4.0, 4.0},
    {{.kind = WITAN_ACTIVATION_IDENTITY, .gated = true}, -3.0, 4.0, -12.0},
    /* limits: g from above only, u on both sides, before the offset */
    {{.kind = WITAN_ACTIVATION_IDENTITY, .gated = true, .limit = 7.0f, .up_offset = 1.0f},
     10.0,
     -10.0,
     -42.0},
    {{.kind = WITAN_ACTIVATION_IDENTITY, .gated = true, .limit = 7.0f, .up_offset = 1.0f},
     -10.0,
     10.0,
     -80.0},
    {{.kind = WITAN_ACTIVATION_IDENTITY, .limit = 7.0f}, 0.0, 10.0, 7.0},
    {{.kind = WITAN_ACTIVATION_IDENTITY, .limit = 7.0f}, 0.0, -10.0, -7.0},
    /* gpt-oss: beta is 1.702 rounded to fp32 */
    {{.kind      = WITAN_ACTIVATION_SWISH,
      .parameter = 1.702f,
      .gated     = true,
      .limit     = 7.0f,
      .up_offset = 1.0f},
     2.0,
     0.5,
     2.9034879388139947},
};

START_TEST(test_activation_known_values)
{
    for (size_t i = 0; i < WTN_COUNT_OF(value_cases); i++) {
        const struct value_case *v   = &value_cases[i];
        const double             f64 = wtn_activation_gated_ref64(&v->activation, v->g, v->u);
        const float f32 = wtn_activation_gated_ref(&v->activation, (float)v->g, (float)v->u);

        ck_assert_msg(!!(fabs(f64 - v->h) <= 1e-11 * fabs(v->h)),
                      "case %zu: expected %.15g, found %.15g", i, v->h, f64);
        /* Five roundings of 2^-24 and 1 ulp of exp, tanh or erf. */
        ck_assert_msg(!!(fabs((double)f32 - v->h) <= 5e-7 * fabs(v->h)),
                      "case %zu: expected %.9g, found %.9g", i, v->h, (double)f32);
    }
}
END_TEST

START_TEST(test_activation_fp32_follows_float64)
{
    for (int kind = 0; kind < WITAN_ACTIVATION_COUNT; kind++) {
        const bool has = kind == WITAN_ACTIVATION_SWISH || kind == WITAN_ACTIVATION_LEAKY_RELU;
        const witan_activation_t a = {.kind      = (witan_activation_kind_t)kind,
                                      .parameter = has ? 0.75f : 0.0f,
                                      .gated     = true};

        for (float x = -20.0f; x <= 20.0f; x += 0.03125f) {
            const double expected = wtn_activation_gated_ref64(&a, (double)x, 1.0);
            const double found    = (double)wtn_activation_gated_ref(&a, x, 1.0f);
            /* 1 + erf and 1 + tanh cancel below 0: their rounding of 2^-24 counts against |x|;
             * elsewhere exp's argument of at most 20 rounds by 20 * 2^-24 = 1.2e-6. */
            const double tolerance = 1.5e-6 * fabs(expected) + 1.2e-7 * fabs((double)x);

            ck_assert_msg(!!(fabs(found - expected) <= tolerance),
                          "%s(%g): expected %.9g, found %.9g", wtn_activation_name(a.kind),
                          (double)x, expected, found);
        }
    }
}
END_TEST

START_TEST(test_activation_swish_one_equals_silu)
{
    const witan_activation_t silu  = {.kind = WITAN_ACTIVATION_SILU};
    const witan_activation_t swish = {.kind = WITAN_ACTIVATION_SWISH, .parameter = 1.0f};

    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += 65521) {
        const float x = wtn_bits_float((uint32_t)bits);
        const float a = wtn_activation_ref(&silu, x), b = wtn_activation_ref(&swish, x);

        ck_assert(wtn_float_bits(a) == wtn_float_bits(b) || (isnan(a) && isnan(b)));
    }
}
END_TEST

START_TEST(test_activation_nan_passes_clamps)
{
    for (int kind = 0; kind < WITAN_ACTIVATION_COUNT; kind++) {
        for (int gated = 0; gated < 2; gated++) {
            const witan_activation_t a = {.kind  = (witan_activation_kind_t)kind,
                                          .gated = gated == 1,
                                          .limit = 7.0f};

            ck_assert(isnan(wtn_activation_gated_ref(&a, 1.0f, NAN)));
            ck_assert(isnan(wtn_activation_gated_ref64(&a, 1.0, (double)NAN)));
            ck_assert(isnan(wtn_activation_gated_ref(&a, NAN, 1.0f)) == (gated == 1));
            ck_assert(isnan(wtn_activation_gated_ref64(&a, (double)NAN, 1.0)) == (gated == 1));
        }
    }
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("activation");
    TCase   *tcase  = tcase_create("activation");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_test(tcase, test_activation_names_found);
    tcase_add_test(tcase, test_activation_unknown_name_lists_known);
    tcase_add_test(tcase, test_activation_every_kind_has_its_name);
    tcase_add_test(tcase, test_activation_parameters_set_or_refused);
    tcase_add_test(tcase, test_activation_check_contradictions_refused);
    tcase_add_test(tcase, test_activation_known_values);
    tcase_add_test(tcase, test_activation_fp32_follows_float64);
    tcase_add_test(tcase, test_activation_swish_one_equals_silu);
    tcase_add_test(tcase, test_activation_nan_passes_clamps);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

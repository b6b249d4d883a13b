/* Conversions between fp32 and the 16-bit types: every value, every point where rounding turns. */
#include <check.h>
#include <immintrin.h>
#include <math.h>
#include <stdlib.h>

#include "core/cpu.h"
#include "core/half.h"

/* What a half is, by definition. */
static double f16_value(uint16_t half)
{
    const int    exponent = half >> 10 & 0x1f;
    const int    mantissa = half & 0x3ff;
    const double sign     = (half & 0x8000) != 0 ? -1.0 : 1.0;

    if (exponent == 0x1f) {
        return mantissa == 0 ? sign * INFINITY : NAN;
    }
    return exponent == 0 ? sign * ldexp(mantissa, -24)
                         : sign * ldexp(1024 + mantissa, exponent - 25);
}

START_TEST(test_half_f16_every_value_is_its_definition)
{
    for (uint32_t i = 0; i < 0x10000; i++) {
        const uint16_t half     = (uint16_t)i;
        const double   expected = f16_value(half);
        const float    found    = wtn_f16_to_float(half);

        if (isnan(expected)) {
            ck_assert(isnan(found));
            ck_assert_uint_eq(wtn_float_to_f16(found), half | 0x0200u); /* quiet, same payload */
        } else {
            ck_assert_msg((double)found == expected && !signbit(found) == !signbit(expected),
                          "%04x: expected %g, found %g", i, expected, (double)found);
            ck_assert_uint_eq(wtn_float_to_f16(found), half);
        }
    }
}
END_TEST

/* Rounding is right everywhere if it turns exactly between any two neighbours. */
static void check_turn(uint16_t (*convert)(float), float middle, uint16_t below, uint16_t above)
{
    const uint16_t even = (below & 1u) == 0 ? below : above;

    ck_assert_uint_eq(convert(nextafterf(middle, 0.0f)), below);
    ck_assert_uint_eq(convert(middle), even);
    ck_assert_uint_eq(convert(nextafterf(middle, INFINITY)), above);
    ck_assert_uint_eq(convert(-nextafterf(middle, 0.0f)), below | 0x8000u);
    ck_assert_uint_eq(convert(-middle), even | 0x8000u);
    ck_assert_uint_eq(convert(-nextafterf(middle, INFINITY)), above | 0x8000u);
}

START_TEST(test_half_f16_rounds_to_nearest_even)
{
    for (uint32_t i = 0; i < 0x7c00; i++) {
        const double above = i == 0x7bff ? 65536.0 : f16_value((uint16_t)(i + 1));

        check_turn(wtn_float_to_f16, (float)((f16_value((uint16_t)i) + above) / 2), (uint16_t)i,
                   (uint16_t)(i + 1));
    }
    ck_assert_uint_eq(wtn_float_to_f16(INFINITY), 0x7c00);
    ck_assert_uint_eq(wtn_float_to_f16(3e38f), 0x7c00);
    ck_assert_uint_eq(wtn_float_to_f16(0x1p-149f), 0);
}
END_TEST

START_TEST(test_half_bf16_every_value_round_trips)
{
    for (uint32_t i = 0; i < 0x10000; i++) {
        const float value = wtn_bf16_to_float((uint16_t)i);

        ck_assert_uint_eq(wtn_float_bits(value), i << 16);
        ck_assert_uint_eq(wtn_float_to_bf16(value), isnan(value) ? i | 0x40u : i);
    }
    /* A NaN whose payload is all in the bits that go stays a NaN. */
    ck_assert_uint_eq(wtn_float_to_bf16(wtn_bits_float(0x7f800001u)), 0x7fc0);
    ck_assert_uint_eq(wtn_float_to_bf16(wtn_bits_float(0xffffffffu)), 0xffff);
}
END_TEST

START_TEST(test_half_bf16_rounds_to_nearest_even)
{
    for (uint32_t i = 0; i < 0x7f80; i++) {
        check_turn(wtn_float_to_bf16, wtn_bits_float(i << 16 | 0x8000u), (uint16_t)i,
                   (uint16_t)(i + 1));
    }
}
END_TEST

__attribute__((target("avx,f16c"))) static uint32_t f16c_mismatches(void)
{
    uint32_t mismatches = 0;

    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += 1021) {
        const float value = wtn_bits_float((uint32_t)bits);

        mismatches += wtn_float_to_f16(value) != (uint16_t)_cvtss_sh(value, 0);
    }
    return mismatches;
}

START_TEST(test_half_f16_agrees_with_processor)
{
    if (wtn_cpu_has_f16c()) {
        ck_assert_uint_eq(f16c_mismatches(), 0);
    }
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("half");
    TCase   *tcase  = tcase_create("half");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_test(tcase, test_half_f16_every_value_is_its_definition);
    tcase_add_test(tcase, test_half_f16_rounds_to_nearest_even);
    tcase_add_test(tcase, test_half_bf16_every_value_round_trips);
    tcase_add_test(tcase, test_half_bf16_rounds_to_nearest_even);
    tcase_add_test(tcase, test_half_f16_agrees_with_processor);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

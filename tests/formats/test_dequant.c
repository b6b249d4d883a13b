/* Stored formats: every code of FP8, FP4 and E8M0 against the written definitions, rows against an
 * independent formula in float64. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "core/half.h"
#include "core/util.h"
#include "experts/dequant.h"

/* bf16 of a double that is the exact product of a few bits: round to nearest even by hand, from the
 * definition and not by bit tricks. */
static uint16_t bf16_of(double value)
{
    double   magnitude = fabs(value), unit;
    uint16_t sign      = signbit(value) ? 0x8000 : 0;
    int      exponent;

    if (isnan(value)) {
        return 0x7fc0;
    }
    if (magnitude == 0.0) {
        return sign;
    }
    exponent  = ilogb(magnitude) < -126 ? -126 : ilogb(magnitude);
    unit      = ldexp(1.0, exponent - 7);
    magnitude = nearbyint(magnitude / unit) * unit;
    if (magnitude >= ldexp(1.0, 128)) {
        return (uint16_t)(sign | 0x7f80);
    }
    return (uint16_t)(sign | (uint16_t)(wtn_float_bits((float)magnitude) >> 16));
}

static bool same_bf16(uint16_t a, uint16_t b)
{
    bool a_nan = (a & 0x7fff) > 0x7f80, b_nan = (b & 0x7fff) > 0x7f80;

    return a_nan || b_nan ? a_nan && b_nan : a == b;
}

START_TEST(test_e4m3_hand_vectors)
{
    static const struct {
        uint8_t code;
        float   value;
    } rows[] = {{0x00, 0.0f},      {0x01, 0x1p-9f}, {0x07, 7 * 0x1p-9f}, {0x08, 0x1p-6f},
                {0x38, 1.0f},      {0x39, 1.125f},  {0x40, 2.0f},        {0x44, 3.0f},
                {0x7e, 448.0f},    {0x78, 256.0f},  {0xb8, -1.0f},       {0xfe, -448.0f},
                {0x81, -(0x1p-9f)}};

    for (size_t i = 0; i < WTN_COUNT_OF(rows); i++) {
        ck_assert_msg(wtn_e4m3_to_float(rows[i].code) == rows[i].value, "code 0x%02x: %g",
                      rows[i].code, (double)wtn_e4m3_to_float(rows[i].code));
    }
    ck_assert(signbit(wtn_e4m3_to_float(0x80)) != 0 && wtn_e4m3_to_float(0x80) == 0.0f);
    ck_assert(isnan(wtn_e4m3_to_float(0x7f)) && isnan(wtn_e4m3_to_float(0xff)));
}
END_TEST

START_TEST(test_e4m3_every_code_by_definition)
{
    for (int code = 0; code < 256; code++) {
        int    e = code >> 3 & 15, m = code & 7;
        double value =
            (code & 128 ? -1 : 1) * (e == 0 ? ldexp(m / 8.0, -6) : ldexp(1 + m / 8.0, e - 7));

        if ((code & 127) != 127) {
            ck_assert_msg((double)wtn_e4m3_to_float((uint8_t)code) == value, "code 0x%02x", code);
        }
    }
}
END_TEST

START_TEST(test_e2m1_and_e8m0_by_definition)
{
    static const float values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                     -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

    for (int i = 0; i < 16; i++) {
        ck_assert(wtn_float_bits(wtn_e2m1_to_float((uint8_t)i)) == wtn_float_bits(values[i]));
    }
    for (int i = 0; i < 255; i++) {
        ck_assert((double)wtn_e8m0_to_float((uint8_t)i) == ldexp(1.0, i - 127));
    }
    ck_assert(isnan(wtn_e8m0_to_float(255)));
}
END_TEST

START_TEST(test_fp8_rows_any_begin_match_formula)
{
    enum { COLS = 700, BLOCK = 128 };
    const int64_t begins[] = {0, 1, 127, 128, 129, 383, 699}, counts[] = {0, 1, 17, 128, 317};
    uint8_t       row[COLS];
    float         scales[(COLS + BLOCK - 1) / BLOCK];
    uint16_t      out[COLS];

    for (int i = 0; i < COLS; i++) {
        row[i] = (uint8_t)(i * 37 + 11);
    }
    for (size_t i = 0; i < WTN_COUNT_OF(scales); i++) {
        scales[i] = 0.001f * (float)(i * i + 1) / 3.0f;
    }
    for (size_t b = 0; b < WTN_COUNT_OF(begins); b++) {
        for (size_t c = 0; c < WTN_COUNT_OF(counts); c++) {
            const int64_t begin = begins[b], count = wtn_min_i64(counts[c], COLS - begin);

            memset(out, 0xee, sizeof(out));
            wtn_dequant_e4m3(row + begin, scales, BLOCK, begin, count, out);
            for (int64_t i = 0; i < count; i++) {
                const uint8_t code    = row[begin + i];
                float         product = wtn_e4m3_to_float(code) * scales[(begin + i) / BLOCK];

                ck_assert_msg(same_bf16(out[i], bf16_of((double)product)), "column %d",
                              (int)(begin + i));
            }
            ck_assert(count == COLS || out[count] == 0xeeee);
        }
    }
}
END_TEST

START_TEST(test_mxfp4_hand_vector)
{
    /* Low half first: 0x21 is 0.5 then 1. Scales 128 and 126: times 2, then times a half. */
    static const uint8_t scales[2] = {128, 126};
    uint8_t              blocks[32];
    uint16_t             out[64];

    memset(blocks, 0x21, 16);
    memset(blocks + 16, 0xf7, 16); /* 6 then -6 */
    wtn_dequant_mxfp4(blocks, scales, 0, 64, out);
    for (int i = 0; i < 32; i++) {
        ck_assert(wtn_bf16_to_float(out[i]) == (i % 2 == 0 ? 1.0f : 2.0f));
        ck_assert(wtn_bf16_to_float(out[32 + i]) == (i % 2 == 0 ? 3.0f : -3.0f));
    }
}
END_TEST

START_TEST(test_mxfp4_every_scale_and_begin_match_formula)
{
    enum { COLS = 32 * 257 };
    const int64_t  begins[] = {0, 1, 2, 31, 32, 33, 63, 64, 95}, counts[] = {0, 1, 2, 31, 64, 8000};
    static uint8_t blocks[COLS / 2], scales[COLS / 32];
    static uint16_t out[COLS];

    for (int i = 0; i < COLS / 2; i++) {
        blocks[i] = (uint8_t)(i * 29 + i / 256);
    }
    for (int i = 0; i < COLS / 32; i++) {
        scales[i] = (uint8_t)i; /* all of 0..255, the NaN too */
    }
    for (size_t b = 0; b < WTN_COUNT_OF(begins); b++) {
        for (size_t c = 0; c < WTN_COUNT_OF(counts); c++) {
            const int64_t begin = begins[b], count = counts[c];

            out[count] = 0xeeee;
            wtn_dequant_mxfp4(blocks + begin / 2, scales + begin / 32, begin, count, out);
            for (int64_t i = 0; i < count; i++) {
                static const double values[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
                const int64_t       column    = begin + i;
                const int           code =
                    column % 2 == 0 ? blocks[column / 2] % 16 : blocks[column / 2] / 16;
                const uint8_t scale = scales[column / 32];
                double value = scale == 255 ? NAN : values[code % 8] * ldexp(1.0, scale - 127);

                ck_assert_msg(same_bf16(out[i], bf16_of(code > 7 ? -value : value)), "column %d",
                              (int)column);
            }
            ck_assert_uint_eq(out[count], 0xeeee);
        }
    }
}
END_TEST

START_TEST(test_convert_steps_and_dtypes)
{
    const float in[6] = {1.0f, 1.00390625f /* half way in bf16: to even */, 65520.0f, -0.0f, 3.0f,
                         1e-8f};
    uint16_t    half[12];
    float       back[6];

    memset(half, 0, sizeof(half));
    wtn_convert(in, 1, WITAN_F32, half, 2, WITAN_BF16, 6);
    ck_assert_uint_eq(half[0], 0x3f80);
    ck_assert_uint_eq(half[2], 0x3f80);
    ck_assert_uint_eq(half[1], 0);
    ck_assert_uint_eq(half[6], 0x8000);
    wtn_convert(half, 4, WITAN_BF16, back, 1, WITAN_F32, 3);
    ck_assert(back[0] == 1.0f && back[1] == 65536.0f && back[2] == 3.0f);
    wtn_convert(in, 2, WITAN_F32, half, 1, WITAN_F16, 3);
    ck_assert_uint_eq(half[0], 0x3c00);
    ck_assert_uint_eq(half[1], 0x7c00);
    ck_assert_uint_eq(half[2], 0x4200);
    half[0] = 0x7f81; /* a signalling NaN stays what it is */
    wtn_convert(half, 1, WITAN_BF16, half + 1, 1, WITAN_BF16, 1);
    ck_assert_uint_eq(half[1], 0x7f81);
}
END_TEST

int main(void)
{
    Suite   *suite = suite_create("dequant");
    TCase   *tests = tcase_create("all");
    SRunner *runner;
    int      failed;

    tcase_add_test(tests, test_e4m3_hand_vectors);
    tcase_add_test(tests, test_e4m3_every_code_by_definition);
    tcase_add_test(tests, test_e2m1_and_e8m0_by_definition);
    tcase_add_test(tests, test_fp8_rows_any_begin_match_formula);
    tcase_add_test(tests, test_mxfp4_hand_vector);
    tcase_add_test(tests, test_mxfp4_every_scale_and_begin_match_formula);
    tcase_add_test(tests, test_convert_steps_and_dtypes);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Each wrapper of kernels/cuda/device.cuh against plain C: the same program on the emulator and on
 * a device, so that both are held to one meaning. */
#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/emulator/support.h"
#include "tests/emulator/wrappers.h"

static uint32_t random_state = 1;

static uint32_t draw(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* ---- warps and barriers ---- */

START_TEST(test_warp_operations_as_plain_c)
{
    uint32_t in[32], out[32 * WARP_WORDS], odd = 0;
    void    *device_in, *device_out;

    for (uint32_t i = 0; i < 32; i++) {
        in[i] = draw() % 7;
        odd |= (in[i] & 1u) << i;
    }
    device_in  = device_from(in, sizeof(in));
    device_out = device_from(NULL, sizeof(out));
    OK(wrappers_warp(device_in, device_out, NULL));
    to_host(out, device_out, sizeof(out));
    OK(cudaFree(device_in));
    for (uint32_t i = 0; i < 32; i++) {
        const uint32_t *words = out + WARP_WORDS * i;
        uint32_t        same  = 0;
        for (uint32_t j = 0; j < 32; j++) {
            same |= (uint32_t)(in[j] == in[i]) << j;
        }
        ck_assert_uint_eq(words[0], in[31 - i]);
        ck_assert_uint_eq(words[1], in[i >= 3 ? i - 3 : i]);
        ck_assert_uint_eq(words[2], in[i ^ 5u]);
        ck_assert_uint_eq(words[3], odd);
        ck_assert_uint_eq(words[4], same);
        ck_assert_uint_eq(words[5], i);
    }
}
END_TEST

START_TEST(test_tree_over_barriers_sums)
{
    uint32_t *in  = calloc(1024, sizeof(*in));
    uint32_t  sum = 0, out;
    void     *device_in, *device_out;

    for (uint32_t i = 0; i < 1000; i++) {
        in[i] = draw() % 1000;
        sum += in[i];
    }
    device_in  = device_from(in, 1024 * sizeof(*in));
    device_out = device_from(NULL, sizeof(out));
    OK(wrappers_tree(device_in, device_out, 1000, -1, NULL));
    to_host(&out, device_out, sizeof(out));
    OK(cudaFree(device_in));
    ck_assert_uint_eq(out, sum);
    free(in);
}
END_TEST

/* ---- copies ---- */

START_TEST(test_async_copy_fills_with_zeros)
{
    static const uint32_t lasts[] = {0, 1, 8, 15, 16};
    enum { THREADS = 96 };
    unsigned char in[16 * THREADS], out[16 * THREADS];

    for (size_t n = 0; n < sizeof(lasts) / sizeof(lasts[0]); n++) {
        void *device_in, *device_out;
        for (size_t i = 0; i < sizeof(in); i++) {
            in[i] = (unsigned char)(draw() | 1u);
        }
        device_in  = device_from(in, sizeof(in));
        device_out = device_from(NULL, sizeof(out));
        OK(wrappers_copy(device_in, device_out, THREADS, lasts[n], 1, NULL));
        to_host(out, device_out, sizeof(out));
        OK(cudaFree(device_in));
        memset(in + 16 * (THREADS - 1) + lasts[n], 0, 16 - lasts[n]);
        for (size_t i = 0; i < THREADS; i++) {
            ck_assert_mem_eq(out + 16 * i, in + 16 * (THREADS - 1 - i), 16);
        }
    }
}
END_TEST

/* ---- matrices ---- */

static uint16_t small_bf16(int value)
{
    return (uint16_t)(bits_of((float)value) >> 16);
}

/* Whole numbers from -8 to 8: sign, exponent, three bits of mantissa. */
static uint16_t small_f16(int value)
{
    uint32_t bits = bits_of((float)value);

    return value == 0
               ? 0u
               : (uint16_t)((bits >> 16 & 0x8000u) | (((bits & 0x7fffffffu) - (112u << 23)) >> 13));
}

/* Small whole numbers: every product and sum is exact, so all hardware gives the same bits. */
START_TEST(test_mma_of_whole_numbers_is_exact)
{
    int      a[16][16], b[16][8];
    uint16_t a_bits[16][16], b_bits[8][16];
    float    c[16][8], d[16][8];

    for (int k = 0; k < 16; k++) {
        for (int i = 0; i < 16; i++) {
            a[i][k]      = (int)(draw() % 17) - 8;
            a_bits[i][k] = _i != 0 ? small_bf16(a[i][k]) : small_f16(a[i][k]);
        }
        for (int j = 0; j < 8; j++) {
            b[k][j]      = (int)(draw() % 17) - 8;
            b_bits[j][k] = _i != 0 ? small_bf16(b[k][j]) : small_f16(b[k][j]);
        }
    }
    for (int i = 0; i < 16 * 8; i++) {
        c[i / 8][i % 8] = (float)((int)(draw() % 2001) - 1000);
    }
    void *device_a = device_from(a_bits, sizeof(a_bits));
    void *device_b = device_from(b_bits, sizeof(b_bits));
    void *device_c = device_from(c, sizeof(c));
    void *device_d = device_from(NULL, sizeof(d));
    OK(wrappers_mma(device_a, device_b, device_c, device_d, _i, NULL));
    to_host(d, device_d, sizeof(d));
    OK(cudaFree(device_a));
    OK(cudaFree(device_b));
    OK(cudaFree(device_c));
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 8; j++) {
            float want = c[i][j];
            for (int k = 0; k < 16; k++) {
                want += (float)(a[i][k] * b[k][j]);
            }
            ck_assert_uint_eq(bits_of(d[i][j]), bits_of(want));
        }
    }
}
END_TEST

/* ---- numbers ---- */

static uint32_t bf16_of(float value)
{
    uint32_t bits = bits_of(value);

    return isnan(value) ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

/* The nearest half by search over all of them, ties to the even one: slow, and plainly right. */
static float half_value(uint32_t h)
{
    int   exponent = (int)(h >> 10 & 31u);
    float value    = exponent == 0 ? ldexpf((float)(h & 0x3ffu), -24)
                                   : ldexpf((float)(0x400u + (h & 0x3ffu)), exponent - 25);

    return (h & 0x8000u) != 0 ? -value : value;
}

static uint32_t f16_of(float value)
{
    uint32_t sign = bits_of(value) >> 16 & 0x8000u, low = 0, high = 0x7c00u;
    double   size = fabs((double)value);

    if (isnan(value)) {
        return 0x7fffu;
    }
    while (high - low > 1) { /* half_value(low) <= size < half_value(high); 0x7c00 means 65536 */
        uint32_t middle = (low + high) / 2;
        if ((double)half_value(middle) <= size) {
            low = middle;
        } else {
            high = middle;
        }
    }
    double under = size - (double)half_value(low), over = (double)half_value(high) - size;
    if (size >= 65536.0) {
        return sign | 0x7c00u;
    }
    return sign | (under < over || (under == over && (low & 1u) == 0) ? low : high);
}

static bool near(uint32_t bits, double want, double ulps)
{
    double unit = want == 0 || !isfinite(want) ? 0 : ldexp(1.0, ilogb(want) - 23);
    double got  = (double)float_of(bits);

    return (isnan(want) && isnan(got)) || got == want || fabs(got - want) <= ulps * unit;
}

START_TEST(test_numbers_round_as_ieee)
{
    static const float special[] = {0.0f,        -0.0f,       1.0f,     -1.0f,     65504.0f,
                                    65519.9f,    65520.0f,    1e-7f,    6e-8f,     2.9e-8f,
                                    6.1e-5f,     3.0e38f,     INFINITY, -2.5f,     1.0009765f,
                                    1.00390625f, 1.01171875f, 0.1f,     -INFINITY, NAN,
                                    126.0f,      -126.5f,     1e-40f,   -149.0f};
    enum { SPECIALS = sizeof(special) / sizeof(special[0]), COUNT = 1000 };
    float     in[COUNT][3];
    uint32_t *out = malloc(COUNT * 8 * sizeof(*out));

    for (uint32_t i = 0; i < COUNT; i++) {
        for (uint32_t j = 0; j < 3; j++) {
            in[i][j] =
                i < SPECIALS * SPECIALS && j < 2
                    ? special[(j == 0 ? i : i / SPECIALS) % SPECIALS]
                    : ldexpf((float)((int)(draw() % 65536) - 32768), (int)(draw() % 40) - 30);
            if (j == 2 && i < SPECIALS) {
                in[i][j] = special[i];
            }
        }
    }
    void *device_in  = device_from(in, sizeof(in));
    void *device_out = device_from(NULL, COUNT * 8 * sizeof(*out));
    OK(wrappers_numbers(device_in, device_out, COUNT, NULL));
    to_host(out, device_out, COUNT * 8 * sizeof(*out));
    OK(cudaFree(device_in));
    for (uint32_t i = 0; i < COUNT; i++) {
        const uint32_t *o = out + 8 * i;
        float           a = in[i][0], b = in[i][1], c = in[i][2];
        ck_assert(near(o[0], (double)fmaf(a, b, c), 0));
        ck_assert(near(o[1], (double)(a / b), 0));
        ck_assert(near(o[2], (double)sqrtf(a), 0));
        ck_assert_uint_eq(o[3], bf16_of(b) << 16 | bf16_of(a));
        ck_assert_uint_eq(o[4], f16_of(b) << 16 | f16_of(a));
        /* PTX ISA: ex2.approx within 2 units, rcp.approx within 1; .ftz flushes both sides */
        if (fabsf(c) >= 0x1p-126f && fabsf(c) < 125.0f) {
            ck_assert(near(o[5], exp2((double)c), 2.0));
        }
        if (fabsf(c) >= 0x1p-126f && fabsf(c) < 0x1p125f) {
            ck_assert(near(o[6], 1.0 / (double)c, 1.0));
        }
        if ((bits_of(a) & 0x7c00u) != 0x7c00u) {
            ck_assert_uint_eq(o[7], bits_of(half_value(bits_of(a) & 0xffffu)));
        }
    }
    free(out);
}
END_TEST

/* ---- blocks ---- */

START_TEST(test_blocks_wait_for_earlier_ones)
{
    enum { BLOCKS = 24 }; /* fewer than any device holds at once, as waiting blocks must be */
    uint64_t     flags[BLOCKS + 1] = {1};
    uint32_t     zero              = 0, out;
    void        *device_flags      = device_from(flags, sizeof(flags)), *device_out;
    cudaStream_t stream;

    device_out = device_from(&zero, sizeof(zero));
    OK(cudaStreamCreate(&stream));
    OK(wrappers_chain(device_flags, device_out, BLOCKS, stream));
    OK(cudaStreamSynchronize(stream));
    OK(cudaStreamDestroy(stream));
    to_host(&out, device_out, sizeof(out));
    to_host(flags, device_flags, sizeof(flags));
    ck_assert_uint_eq(out, BLOCKS);
    ck_assert_uint_eq(flags[BLOCKS], BLOCKS + 1);
}
END_TEST

START_TEST(test_sums_of_earlier_blocks_bring_their_writes)
{
    enum { BLOCKS = 24 };
    uint64_t  flags[BLOCKS + 1] = {1};
    uint32_t  zero              = 0, out;
    uint64_t *device_flags      = device_from(flags, sizeof(flags));
    uint32_t *device_out        = device_from(&zero, sizeof(zero));

    OK(wrappers_sum(device_flags, device_out, BLOCKS, NULL));
    to_host(&out, device_out, sizeof(out));
    to_host(flags, device_flags, sizeof(flags));
    ck_assert_uint_eq(out, BLOCKS);
    ck_assert_uint_eq(flags[BLOCKS], BLOCKS + 1);
}
END_TEST

START_TEST(test_launch_limits_are_those_of_the_device)
{
    int shared = 0;

    OK(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    OK(wrappers_nothing(1, 1, 1024, (uint64_t)shared, NULL));
    OK(wrappers_nothing(1, 65535, 1, 0, NULL));
    ck_assert_int_ne(wrappers_nothing(1, 1, 1025, 0, NULL), WITAN_OK);
    ck_assert_int_ne(wrappers_nothing(1, 65536, 1, 0, NULL), WITAN_OK);
    ck_assert_int_ne(wrappers_nothing(1, 1, 32, (uint64_t)shared + 1, NULL), WITAN_OK);
    ck_assert_int_ne(wrappers_nothing(1, 1, 0, 0, NULL), WITAN_OK);
    OK(wrappers_nothing(0, 1, 32, 0, NULL)); /* nothing to do */
    (void)cudaGetLastError();
    OK(cudaDeviceSynchronize());
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wrappers");
    TCase *tc    = tcase_create("wrappers");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_warp_operations_as_plain_c);
    tcase_add_test(tc, test_tree_over_barriers_sums);
    tcase_add_test(tc, test_async_copy_fills_with_zeros);
    tcase_add_loop_test(tc, test_mma_of_whole_numbers_is_exact, 0, 2);
    tcase_add_test(tc, test_numbers_round_as_ieee);
    tcase_add_test(tc, test_blocks_wait_for_earlier_ones);
    tcase_add_test(tc, test_sums_of_earlier_blocks_bring_their_writes);
    tcase_add_test(tc, test_launch_limits_are_those_of_the_device);
    suite_add_tcase(suite, tc);
    return run_on_device(suite, 0);
}

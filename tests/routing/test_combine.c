/* Combine and reduce: closed forms, and every vector width against the reference bit for bit. */
#include <check.h>
#include <stdlib.h>

#include "core/util.h"
#include "kernels/combine/combine.h"

static const wtn_combine_tier_t *const tiers[] = {&wtn_combine_generic, &wtn_combine_avx2,
                                                  &wtn_combine_avx512};

static const witan_dtype_t dtypes[] = {WITAN_F32, WITAN_F16, WITAN_BF16};

static uint32_t random_next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* In [-2, 2), of all magnitudes down to subnormal halves. */
static float random_float(uint64_t *state)
{
    const float value = (float)random_next(state) * 0x1p-29f - 2.0f;

    return random_next(state) % 8 == 0 ? value * 0x1p-16f : value;
}

/* `specials`: now and then a NaN (of a payload that rounding to bf16 drops, or carries into the
 * sign), an Inf, a number that rounds to Inf, -0. */
static void *random_array(int64_t count, witan_dtype_t dtype, uint64_t seed, bool specials)
{
    static const uint32_t special[] = {0x7f800001u, 0x7fffffffu, 0x7f800000u,
                                       0xff800000u, 0x7f7fffffu, 0x80000000u};
    void                 *array     = malloc((size_t)count * witan_dtype_bytes(dtype) + 1);

    ck_assert_ptr_nonnull(array);
    for (int64_t i = 0; i < count; i++) {
        float value = random_float(&seed);

        if (specials && random_next(&seed) % 256 == 0) {
            value = wtn_bits_float(special[random_next(&seed) % WTN_COUNT_OF(special)]);
        }
        wtn_store_float(array, dtype, (size_t)i, value);
    }
    return array;
}

/* Equal bits; any NaN equals any NaN, as its payload may follow either operand. */
static int64_t first_difference(const void *a, const void *b, witan_dtype_t dtype, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const float x = wtn_load_float(a, dtype, (size_t)i);
        const float y = wtn_load_float(b, dtype, (size_t)i);

        if (wtn_float_bits(x) != wtn_float_bits(y) && !(isnan(x) && isnan(y))) {
            return i;
        }
    }
    return -1;
}

/* Run `args` by every tier and thread count against the reference. */
static void compare(wtn_combine_args_t args)
{
    const int64_t count    = args.token_count * args.hidden_size;
    const size_t  bytes    = (size_t)count * witan_dtype_bytes(args.out_dtype);
    void         *expected = malloc(bytes + 1), *found = malloc(bytes + 1);

    memset(expected, 0xa5, bytes);
    args.out = expected;
    wtn_combine_ref(&args);
    args.out = found;
    for (size_t i = 0; i < 2 * WTN_COUNT_OF(tiers); i++) {
        const wtn_combine_tier_t *tier = tiers[i / 2];
        int64_t                   at;

        if (!wtn_combine_tier_supported(tier)) {
            continue;
        }
        args.thread_count = i % 2 == 0 ? 1 : 3;
        memset(found, 0xa5, bytes);
        wtn_combine_by(tier, &args);
        at = first_difference(expected, found, args.out_dtype, count);
        ck_assert_msg(at < 0, "%s: T %lld H %lld slots %d %s to %s, %d threads: element %lld",
                      tier->name, (long long)args.token_count, (long long)args.hidden_size,
                      args.slot_count, witan_dtype_name(args.dtype),
                      witan_dtype_name(args.out_dtype), args.thread_count, (long long)at);
    }
    free(expected);
    free(found);
}

/* All forms of a shape: with and without weights, shared, its gate; holes; partial sums. */
static void compare_forms(int64_t T, int64_t H, int32_t slots, witan_dtype_t dtype)
{
    enum { ROWS = 11 };
    const uint64_t seed    = (uint64_t)(H * 100 + slots);
    uint64_t       state   = seed;
    void          *rows    = random_array(ROWS * H, dtype, seed + 1, true);
    void          *shared  = random_array(T * H, dtype, seed + 2, true);
    float         *logit   = random_array(T, WITAN_F32, seed + 3, false);
    float         *weights = random_array(T * slots, WITAN_F32, seed + 4, false);
    int64_t       *index   = malloc((size_t)(T * slots) * sizeof(int64_t) + 1);

    for (int64_t i = 0; i < T * slots; i++) {
        index[i] = (int64_t)(random_next(&state) % (ROWS + 2)) - 2;
        index[i] = index[i] < -1 || (i / slots) % 5 == 3 ? -1 : index[i]; /* token 3: no rows */
        if (index[i] < 0) {
            weights[i] = NAN; /* must not be read */
        }
    }
    for (int form = 0; form < 6; form++) {
        compare((wtn_combine_args_t){.token_count  = T,
                                     .hidden_size  = H,
                                     .slot_count   = slots,
                                     .dtype        = dtype,
                                     .out_dtype    = form % 2 == 0 ? dtype : WITAN_F32,
                                     .rows         = rows,
                                     .row_index    = index,
                                     .weights      = form == 5 ? NULL : weights,
                                     .shared       = form / 2 >= 1 ? shared : NULL,
                                     .shared_logit = form / 2 >= 2 ? logit : NULL});
    }
    free(rows);
    free(shared);
    free(logit);
    free(weights);
    free(index);
}

START_TEST(test_combine_every_tier_equals_reference)
{
    static const int64_t widths[] = {1, 7, 16, 17, 31, 127, 129, 2048, 2880};
    static const int32_t slots[]  = {1, 2, 8, 32};

    for (size_t h = 0; h < WTN_COUNT_OF(widths); h++) {
        for (size_t k = 0; k < WTN_COUNT_OF(slots); k++) {
            compare_forms(5, widths[h], slots[k], dtypes[_i]);
        }
    }
    compare_forms(0, 64, 2, dtypes[_i]);
    compare_forms(1, 2880, 8, dtypes[_i]);
    compare_forms(200, 96, 8, dtypes[_i]);
    compare_forms(2, 33, 0, dtypes[_i]);
}
END_TEST

START_TEST(test_combine_small_integers_exact)
{
    enum { T = 3, H = 40, K = 2 };
    const int64_t index[T * K]   = {0, 2, -1, 1, -1, -1};
    const float   weights[T * K] = {0.5f, -2.0f, NAN, 4.0f, NAN, NAN};
    const float   logit[T]       = {0.0f, INFINITY, -INFINITY}; /* sigmoid 1/2, 1, 0 */
    uint16_t      rows[3 * H], shared[T * H], out[T * H];

    for (int i = 0; i < 3 * H; i++) {
        rows[i]   = wtn_float_to_bf16((float)(i % 100));
        shared[i] = wtn_float_to_bf16((float)(i % 64));
    }
    wtn_host_combine(&(wtn_combine_args_t){.token_count  = T,
                                           .hidden_size  = H,
                                           .slot_count   = K,
                                           .dtype        = WITAN_BF16,
                                           .out_dtype    = WITAN_BF16,
                                           .rows         = rows,
                                           .row_index    = index,
                                           .weights      = weights,
                                           .shared       = shared,
                                           .shared_logit = logit,
                                           .out          = out,
                                           .thread_count = 1});
    for (int h = 0; h < H; h++) {
        const float token0 = (float)(h % 64) / 2 + (float)h / 2 - 2 * (float)((2 * H + h) % 100);
        const float token1 = (float)((H + h) % 64) + 4 * (float)(H + h);

        ck_assert_uint_eq(out[h], wtn_float_to_bf16(token0));
        ck_assert_uint_eq(out[H + h], wtn_float_to_bf16(token1));
        ck_assert_uint_eq(out[2 * H + h], 0);
    }
}
END_TEST

/* 1 + 2^-24 - 1 is 0 by ascending slot and 2^-24 in any other order; and a fused product would
 * keep the last bit of (1 + 2^-12)^2 - (1 + 2^-11). */
START_TEST(test_combine_order_and_rounding_as_stated)
{
    const float   rows[4] = {1.0f, 0x1p-24f, 1.0f + 0x1p-12f, 1.0f};
    const int64_t index[] = {0, 1, 0, 3, 2, -1};
    const float   gate[]  = {1.0f, 1.0f, -1.0f, -(1.0f + 0x1p-11f), 1.0f + 0x1p-12f, NAN};
    float         out[2];

    for (size_t i = 0; i < WTN_COUNT_OF(tiers); i++) {
        if (!wtn_combine_tier_supported(tiers[i])) {
            continue;
        }
        wtn_combine_by(tiers[i], &(wtn_combine_args_t){.token_count  = 2,
                                                       .hidden_size  = 1,
                                                       .slot_count   = 3,
                                                       .rows         = rows,
                                                       .row_index    = index,
                                                       .weights      = gate,
                                                       .out          = out,
                                                       .thread_count = 1});
        ck_assert(out[0] == 0.0f);
        ck_assert(out[1] == 0.0f);
    }
}
END_TEST

START_TEST(test_combine_nan_stays_in_its_token)
{
    enum { T = 3, H = 37, K = 2 };
    const int64_t index[T * K] = {0, 1, 2, 3, 4, 5};
    float         out[T * H], clean[T * H];
    float        *rows = random_array(T * K * H, WITAN_F32, 5, false);

    for (size_t i = 0; i < WTN_COUNT_OF(tiers); i++) {
        wtn_combine_args_t args = {.token_count  = T,
                                   .hidden_size  = H,
                                   .slot_count   = K,
                                   .rows         = rows,
                                   .row_index    = index,
                                   .thread_count = 1};

        if (!wtn_combine_tier_supported(tiers[i])) {
            continue;
        }
        rows[2 * H] = 0.0f;
        args.out    = clean;
        wtn_combine_by(tiers[i], &args);
        rows[2 * H] = NAN;
        args.out    = out;
        wtn_combine_by(tiers[i], &args);
        ck_assert(isnan(out[H]));
        out[H] = clean[H];
        ck_assert_int_eq(memcmp(out, clean, sizeof(out)), 0);
    }
    free(rows);
}
END_TEST

START_TEST(test_reduce_every_tier_equals_reference)
{
    static const int64_t counts[] = {0, 1, 7, 16, 17, 31, 2880, 40001};
    enum { PARTS = 9 };
    float *parts[PARTS];

    for (uint64_t p = 0; p < PARTS; p++) {
        parts[p] = random_array(40001, WITAN_F32, p + 1, true);
    }
    for (size_t i = 0; i < WTN_COUNT_OF(counts) * PARTS * 2 * WTN_COUNT_OF(tiers); i++) {
        const wtn_combine_tier_t *tier = tiers[i % WTN_COUNT_OF(tiers)];
        wtn_reduce_args_t         args = {
                    .parts        = (const float *const *)parts,
                    .part_count   = (int32_t)(i / WTN_COUNT_OF(tiers) / 2 % PARTS),
                    .count        = counts[i / WTN_COUNT_OF(tiers) / 2 / PARTS],
                    .out_dtype    = dtypes[_i],
                    .thread_count = i / WTN_COUNT_OF(tiers) % 2 == 0 ? 1 : 3,
        };
        const size_t bytes    = (size_t)args.count * witan_dtype_bytes(args.out_dtype);
        void        *expected = malloc(bytes + 1), *found = malloc(bytes + 1);

        memset(expected, 0xa5, bytes);
        memset(found, 0x5a, bytes);
        args.out = expected;
        wtn_reduce_ref(&args);
        args.out = found;
        if (wtn_combine_tier_supported(tier)) {
            wtn_reduce_by(tier, &args);
            ck_assert_int_eq(first_difference(expected, found, args.out_dtype, args.count), -1);
        }
        free(expected);
        free(found);
    }
    for (int p = 0; p < PARTS; p++) {
        free(parts[p]);
    }
}
END_TEST

START_TEST(test_reduce_order_as_stated)
{
    const float        a = 1.0f, b = 0x1p-24f, c = -1.0f;
    const float *const parts[] = {&a, &b, &c};
    float              out     = 5.0f;

    wtn_host_reduce(&(wtn_reduce_args_t){.parts = parts, .part_count = 3, .count = 1, .out = &out});
    ck_assert(out == 0.0f);
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("combine");
    TCase   *tcase  = tcase_create("combine");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_loop_test(tcase, test_combine_every_tier_equals_reference, 0, 3);
    tcase_add_test(tcase, test_combine_small_integers_exact);
    tcase_add_test(tcase, test_combine_order_and_rounding_as_stated);
    tcase_add_test(tcase, test_combine_nan_stays_in_its_token);
    tcase_add_loop_test(tcase, test_reduce_every_tier_equals_reference, 0, 3);
    tcase_add_test(tcase, test_reduce_order_as_stated);
    suite_add_tcase(suite, tcase);
    srunner_set_fork_status(runner, CK_NOFORK); /* OpenMP does not survive fork */
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

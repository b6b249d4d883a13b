/* Routing: hand-computed vectors, an oracle in numpy, and the host version against the reference
 * bit for bit. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/half.h"
#include "core/util.h"
#include "kernels/topk/topk.h"

typedef struct oracle {
    const char     *name;
    int32_t         token_count, expert_count, topk;
    witan_routing_t routing;
    const float    *logits, *bias, *correction;
    const int32_t  *ids;
    const double   *weights;
} oracle_t;

#include "routing/oracle.h"

typedef witan_status_t (*topk_function_t)(const wtn_topk_args_t *args);

static const topk_function_t functions[] = {wtn_topk_ref, wtn_host_topk};

#define PLAIN .scale = 1.0f, .group_count = 1, .group_topk = 1

/* Run with an exact workspace on `threads`; ids and weights are poisoned before. */
static void run(topk_function_t function, const witan_routing_t *routing, int32_t E, int32_t K,
                int64_t T, const float *logits, const float *bias, const float *correction,
                int32_t threads, int32_t *ids, float *weights)
{
    const size_t bytes = wtn_host_topk_workspace_bytes(E, K, threads);
    void        *work  = wtn_alloc(bytes);

    ck_assert_ptr_nonnull(work);
    ck_assert_int_eq(wtn_routing_check(routing, E, K), WITAN_OK);
    memset(work, 0xff, bytes);
    memset(ids, 0x7f, (size_t)(T * K) * sizeof(*ids));
    memset(weights, 0x7f, (size_t)(T * K) * sizeof(*weights));
    ck_assert_int_eq(function(&(wtn_topk_args_t){.routing         = routing,
                                                 .expert_count    = E,
                                                 .topk            = K,
                                                 .logits          = logits,
                                                 .bias            = bias,
                                                 .correction_bias = correction,
                                                 .token_count     = T,
                                                 .ids             = ids,
                                                 .weights         = weights,
                                                 .workspace       = work,
                                                 .workspace_bytes = bytes,
                                                 .thread_count    = threads}),
                     WITAN_OK);
    wtn_free(work);
}

/* ---- against numbers from elsewhere ---- */

START_TEST(test_topk_oracle_same_ids_and_weights)
{
    for (size_t i = 0; i < WTN_COUNT_OF(oracles); i++) {
        const oracle_t *o = &oracles[i];

        for (size_t f = 0; f < WTN_COUNT_OF(functions); f++) {
            int32_t ids[64];
            float   weights[64];

            run(functions[f], &o->routing, o->expert_count, o->topk, o->token_count, o->logits,
                o->routing.has_bias ? o->bias : NULL,
                o->routing.has_correction_bias ? o->correction : NULL, 1, ids, weights);
            for (int32_t j = 0; j < o->token_count * o->topk; j++) {
                /* exp 1 ulp, its argument rounded at |l| <= 8: 8 * 2^-24; sums and divisions a few
                 * more: below 16 * 2^-24 = 1e-6. */
                const double tolerance = 1e-6 * fabs(o->weights[j]);

                ck_assert_msg(ids[j] == o->ids[j], "%s: id %d: expected %d, found %d", o->name, j,
                              o->ids[j], ids[j]);
                ck_assert_msg(!!(fabs((double)weights[j] - o->weights[j]) <= tolerance),
                              "%s: weight %d: expected %.9g, found %.9g", o->name, j, o->weights[j],
                              (double)weights[j]);
            }
        }
    }
}
END_TEST

typedef struct vector_case {
    const char     *name;
    int32_t         expert_count, topk;
    witan_routing_t routing;
    float           logits[8], correction[8];
    int32_t         ids[8];
    float           weights[8]; /* exact: sigmoid(0) = 1/2, softmax of equals = 1/n */
} vector_case_t;

static const vector_case_t vector_cases[] = {
    {"ties go to the lowest index", 8, 3, {PLAIN}, {0}, {0}, {0, 1, 2}, {.125f, .125f, .125f}},
    {"-0 ties with 0",
     4,
     4,
     {PLAIN, .score_after_topk = true},
     {-0.0f, 0.0f, -0.0f, 0.0f},
     {0},
     {0, 1, 2, 3},
     {.25f, .25f, .25f, .25f}},
    {"one expert", 1, 1, {PLAIN}, {-3.5f}, {0}, {0}, {1.0f}},
    {"correction chooses only",
     4,
     2,
     {PLAIN, .score = WITAN_SCORE_SIGMOID, .has_correction_bias = true},
     {0},
     {0, 2.0f, -1.0f, 3.0f},
     {3, 1},
     {.5f, .5f}},
    {"normalise then scale",
     4,
     2,
     {PLAIN, .score = WITAN_SCORE_SIGMOID, .normalise = true, .normalise_epsilon = 1.0f},
     {0},
     {0},
     {0, 1},
     {.25f, .25f}},
    {"scale",
     4,
     1,
     {.score = WITAN_SCORE_SIGMOID, .scale = -4.0f, .group_count = 1, .group_topk = 1},
     {0},
     {0},
     {0},
     {-2.0f}},
    {"masked experts lose to -Inf",
     4,
     2,
     {.score       = WITAN_SCORE_SIGMOID,
      .scale       = 1.0f,
      .group_count = 2,
      .group_topk  = 1,
      .mask_value  = WITAN_MASK_NEG_INF},
     {0},
     {-2.0f, -INFINITY, 1.0f, -INFINITY},
     {2, 3},
     {.5f, .5f}},
    {"masked experts at zero beat negatives",
     4,
     2,
     {.score       = WITAN_SCORE_SIGMOID,
      .scale       = 1.0f,
      .group_count = 2,
      .group_topk  = 1,
      .mask_value  = WITAN_MASK_ZERO},
     {0},
     {-3.0f, -3.0f, 1.0f, -2.0f},
     {2, 0},
     {.5f, .5f}},
    {"best pair beats best expert",
     4,
     2,
     {.score       = WITAN_SCORE_SIGMOID,
      .scale       = 1.0f,
      .group_count = 2,
      .group_topk  = 1,
      .group_score = WITAN_GROUP_SCORE_TOP2_SUM},
     {0},
     {4.0f, -4.0f, 3.0f, 2.0f},
     {2, 3},
     {.5f, .5f}},
    {"groups that tie: the first",
     4,
     1,
     {.score = WITAN_SCORE_SIGMOID, .scale = 1.0f, .group_count = 4, .group_topk = 2},
     {0},
     {0},
     {0},
     {.5f}},
};

START_TEST(test_topk_vectors_exact)
{
    const vector_case_t *v = &vector_cases[_i];

    for (size_t f = 0; f < WTN_COUNT_OF(functions); f++) {
        int32_t ids[8];
        float   weights[8];

        run(functions[f], &v->routing, v->expert_count, v->topk, 1, v->logits, NULL, v->correction,
            1, ids, weights);
        for (int32_t k = 0; k < v->topk; k++) {
            ck_assert_msg(ids[k] == v->ids[k] && weights[k] == v->weights[k],
                          "%s: slot %d: expected %d %g, found %d %g", v->name, k, v->ids[k],
                          (double)v->weights[k], ids[k], (double)weights[k]);
        }
    }
}
END_TEST

/* ---- NaN and Inf ---- */

START_TEST(test_topk_nan_stays_in_its_token)
{
    const witan_routing_t routings[] = {
        {PLAIN},
        {PLAIN, .score_after_topk = true},
        {PLAIN, .score = WITAN_SCORE_SIGMOID, .normalise = true},
        {PLAIN, .score = WITAN_SCORE_SQRT_SOFTPLUS},
        {.scale = 1.0f, .group_count = 2, .group_topk = 1},
    };
    enum { E = 6, K = 3 };
    float   logits[3 * E], clean[K], weights[3 * K];
    int32_t clean_ids[K], ids[3 * K];

    for (int i = 0; i < 3 * E; i++) {
        logits[i] = (float)(i * 5 % E);
    }
    for (size_t r = 0; r < WTN_COUNT_OF(routings); r++) {
        for (size_t f = 0; f < WTN_COUNT_OF(functions); f++) {
            logits[E + 4] = NAN;
            run(functions[f], &routings[r], E, K, 1, logits, NULL, NULL, 1, clean_ids, clean);
            run(functions[f], &routings[r], E, K, 3, logits, NULL, NULL, 1, ids, weights);
            for (int k = 0; k < K; k++) {
                ck_assert_int_eq(ids[K + k], k);
                ck_assert(isnan(weights[K + k]));
                ck_assert_int_eq(ids[k], clean_ids[k]);
                ck_assert(wtn_float_bits(weights[k]) == wtn_float_bits(clean[k]));
                ck_assert(!isnan(weights[2 * K + k]));
            }
        }
    }
}
END_TEST

START_TEST(test_topk_infinite_logits_defined)
{
    const witan_routing_t softmax = {PLAIN};
    const witan_routing_t sigmoid = {PLAIN, .score = WITAN_SCORE_SIGMOID};
    const float           low[4]  = {-INFINITY, 0.0f, -INFINITY, -INFINITY};
    const float           high[4] = {0.0f, INFINITY, -INFINITY, 0.0f};
    int32_t               ids[3];
    float                 weights[3];

    for (size_t f = 0; f < WTN_COUNT_OF(functions); f++) {
        run(functions[f], &softmax, 4, 3, 1, low, NULL, NULL, 1, ids, weights);
        ck_assert(ids[0] == 1 && ids[1] == 0 && ids[2] == 2);
        ck_assert(weights[0] == 1.0f && weights[1] == 0.0f && weights[2] == 0.0f);
        run(functions[f], &sigmoid, 4, 3, 1, high, NULL, NULL, 1, ids, weights);
        ck_assert(ids[0] == 1 && ids[1] == 0 && ids[2] == 3);
        ck_assert(weights[0] == 1.0f && weights[1] == 0.5f && weights[2] == 0.5f);
        run(functions[f], &softmax, 4, 3, 1, high, NULL, NULL, 1, ids, weights); /* Inf - Inf */
        ck_assert(ids[0] == 0 && ids[1] == 1 && ids[2] == 2);
        ck_assert(isnan(weights[0]) && isnan(weights[1]) && isnan(weights[2]));
    }
}
END_TEST

START_TEST(test_topk_softmax_of_65536_sums_to_one)
{
    enum { E = 65536 };
    const witan_routing_t routing = {PLAIN};
    float                *logits  = malloc(E * sizeof(float));
    float                *weights = malloc(E * sizeof(float));
    int32_t              *ids     = malloc(E * sizeof(int32_t));
    double                sum     = 0.0;

    for (int e = 0; e < E; e++) {
        logits[e] = (float)(e * 4827 % 65521) / 65521.0f;
    }
    run(wtn_host_topk, &routing, E, E, 1, logits, NULL, NULL, 1, ids, weights);
    for (int e = 0; e < E; e++) {
        ck_assert(e == 0 || logits[ids[e - 1]] > logits[ids[e]] ||
                  (logits[ids[e - 1]] == logits[ids[e]] && ids[e - 1] < ids[e]));
        sum += (double)weights[e];
    }
    /* Each weight is rounded twice, at random over 65536; the common divisor once: 2^-24. */
    ck_assert(!!(fabs(sum - 1.0) <= 1.2e-7));
    free(logits);
    free(weights);
    free(ids);
}
END_TEST

/* One expert per token: its weight is its score. */
START_TEST(test_topk_scores_accurate_everywhere)
{
    enum { T = 40001 };
    const witan_routing_t sigmoid  = {PLAIN, .score = WITAN_SCORE_SIGMOID};
    const witan_routing_t softplus = {PLAIN, .score = WITAN_SCORE_SQRT_SOFTPLUS};
    float                *logits   = malloc(T * sizeof(float));
    float                *weights  = malloc(T * sizeof(float));
    int32_t              *ids      = malloc(T * sizeof(int32_t));

    for (int t = 0; t < T; t++) {
        logits[t] = (float)(t - 20000) / 190.0f; /* -105 to 105 */
    }
    run(wtn_host_topk, &sigmoid, 1, 1, T, logits, NULL, NULL, 2, ids, weights);
    for (int t = 0; t < T; t++) {
        const double expected = 1.0 / (1.0 + exp(-(double)logits[t]));
        /* exp 2 ulp, the sum and the division half each; e^88.7 is the largest float */
        const double tolerance = logits[t] < -88.0f ? 1e-38 : 3 * 0x1p-23 * expected;

        ck_assert_msg(!!(fabs((double)weights[t] - expected) <= tolerance),
                      "sigmoid(%.9g): expected %.9g, found %.9g", (double)logits[t], expected,
                      (double)weights[t]);
    }
    run(wtn_host_topk, &softplus, 1, 1, T, logits, NULL, NULL, 2, ids, weights);
    for (int t = 0; t < T; t++) {
        const double l         = (double)logits[t];
        const double expected  = sqrt(l > 30.0 ? l : log1p(exp(l)));
        const double tolerance = 3 * 0x1p-23 * expected + 1e-22; /* subnormal e^l: sqrt(2^-149) */

        ck_assert_msg(!!(fabs((double)weights[t] - expected) <= tolerance),
                      "sqrt softplus(%.9g): expected %.9g, found %.9g", l, expected,
                      (double)weights[t]);
    }
    free(logits);
    free(weights);
    free(ids);
}
END_TEST

/* Two experts l and 0: the softmax is e^l and 1 over their sum, from 1 down to subnormal. */
START_TEST(test_topk_softmax_accurate_everywhere)
{
    const witan_routing_t routing = {PLAIN};

    for (float l = -110.0f; l <= 0.0f; l += 0.0078125f) {
        const float  logits[2] = {l, 0.0f};
        const double e         = exp((double)l);
        float        weights[2];
        int32_t      ids[2];

        run(wtn_host_topk, &routing, 2, 2, 1, logits, NULL, NULL, 1, ids, weights);
        ck_assert_int_eq(ids[0], l < 0.0f ? 1 : 0);
        ck_assert(!!(fabs((double)weights[0] - 1.0 / (1.0 + e)) <= 0x1p-23));
        /* 2 ulp of exp and half of the division; below 2^-126 half of 2^-149 and a last rounding */
        ck_assert_msg(!!(fabs((double)weights[1] - e / (1.0 + e)) <=
                         2.5 * 0x1p-23 * e / (1.0 + e) + 0x1p-149),
                      "softmax(%.9g): expected %.9g, found %.9g", (double)l, e / (1.0 + e),
                      (double)weights[1]);
    }
}
END_TEST

/* ---- host against reference ---- */

static uint32_t random_next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Logits on a coarse grid, so that ties abound, 0 with -0 too; some tokens with NaN and Inf. */
static void fill(float *logits, int64_t count, int32_t E, uint64_t seed)
{
    for (int64_t i = 0; i < count; i++) {
        const uint32_t r = random_next(&seed);

        logits[i] = i / E % 3 == 0 ? (float)(r % 64) / 8.0f - 4.0f : (float)r * 0x1p-29f - 2.0f;
        if (logits[i] == 0.0f && (r & 0x10000u) != 0) {
            logits[i] = -0.0f;
        }
        if (r % 4096 == 0) {
            logits[i] = (r & 0x1000u) != 0 ? NAN : -INFINITY;
        }
        if (r % 8192 == 1) {
            logits[i] = INFINITY;
        }
    }
}

static void compare(const witan_routing_t *routing, int32_t E, int32_t K, int64_t T,
                    const float *logits, const float *bias, const float *correction)
{
    const size_t count   = (size_t)(T * K);
    int32_t     *ids     = malloc((2 * count + 1) * sizeof(int32_t));
    float       *weights = malloc((2 * count + 1) * sizeof(float));

    run(wtn_topk_ref, routing, E, K, T, logits, bias, correction, 1, ids, weights);
    for (int32_t threads = 1; threads <= 3; threads += 2) {
        run(wtn_host_topk, routing, E, K, T, logits, bias, correction, threads, ids + count,
            weights + count);
        ck_assert_msg(memcmp(ids, ids + count, count * sizeof(*ids)) == 0 &&
                          memcmp(weights, weights + count, count * sizeof(*weights)) == 0,
                      "T %lld E %d K %d score %d groups %d/%d by %d, %d threads", (long long)T, E,
                      K, (int)routing->score, routing->group_topk, routing->group_count,
                      (int)routing->group_score, threads);
    }
    free(ids);
    free(weights);
}

/* Every valid combination of score, order, normalisation, groups and mask for a shape. */
static void compare_options(int32_t E, int32_t K, int64_t T, const float *logits, const float *bias,
                            const float *correction)
{
    static const int32_t groups[][2] = {{1, 1}, {2, 1}, {4, 2}, {8, 3}, {64, 9}};

    for (unsigned i = 0; i < 4 * 2 * 3 * 2 * WTN_COUNT_OF(groups); i++) {
        const int32_t  *g       = groups[i % WTN_COUNT_OF(groups)];
        const unsigned  o       = i / (unsigned)WTN_COUNT_OF(groups);
        witan_routing_t routing = {.score =
                                       o % 4 == 3 ? WITAN_SCORE_SOFTMAX : (witan_score_t)(o % 4),
                                   .score_after_topk  = o % 4 == 3,
                                   .normalise         = o / 4 % 2 == 1,
                                   .normalise_epsilon = 1e-20f,
                                   .scale             = 2.5f,
                                   .group_count       = g[0],
                                   .group_topk        = g[1],
                                   .group_score       = (witan_group_score_t)(o / 8 % 3),
                                   .mask_value        = (witan_mask_value_t)(o / 24)};

        if ((g[0] > 1 || o / 8 == 0) && wtn_routing_check(&routing, E, K) == WITAN_OK) {
            compare(&routing, E, K, T, logits, o % 3 == 0 ? bias : NULL,
                    o % 2 == 0 ? correction : NULL);
        }
    }
}

START_TEST(test_topk_host_equals_reference_every_option)
{
    static const int32_t experts[] = {1, 2, 7, 8, 60, 64, 128, 256};
    static const int32_t topks[]   = {1, 2, 6, 8, 32};
    enum { T_MAX = 7, E_MAX = 256 };
    float logits[T_MAX * E_MAX], bias[E_MAX], correction[E_MAX];

    for (size_t e = 0; e < WTN_COUNT_OF(experts); e++) {
        const int32_t E = experts[e];

        fill(logits, T_MAX * E, E, 7 + e);
        for (int32_t i = 0; i < E; i++) {
            bias[i]       = (float)(i % 5) / 4.0f - 0.5f;
            correction[i] = (float)(i % 7) / 8.0f - 0.75f;
        }
        for (size_t k = 0; k < WTN_COUNT_OF(topks) && topks[k] < E; k++) {
            compare_options(E, topks[k], T_MAX, logits, bias, correction);
        }
        compare_options(E, E, T_MAX, logits, bias, correction);
    }
}
END_TEST

START_TEST(test_topk_host_equals_reference_every_shape)
{
    static const struct shape {
        int64_t T;
        int32_t E, K;
    } shapes[] = {{0, 8, 2},       {1, 8, 2},     {1, 1, 1},       {2048, 1, 1},    {2048, 2, 2},
                  {2048, 7, 1},    {2048, 60, 4}, {2048, 64, 8},   {2048, 256, 8},  {7, 1024, 8},
                  {7, 1024, 64},   {7, 1024, 65}, {3, 1024, 1024}, {2, 65536, 8},   {1, 65536, 32},
                  {1, 65536, 100}, {1, 65537, 2}, {7, 128, 128},   {2047, 128, 32}, {1, 100000, 1}};
    const struct shape    s       = shapes[_i];
    const size_t          count   = (size_t)s.T * (size_t)s.E;
    float                *logits  = malloc((count + 1) * sizeof(float));
    const witan_routing_t softmax = {PLAIN, .normalise = true};
    const witan_routing_t after   = {PLAIN, .score_after_topk = true};

    fill(logits, (int64_t)count, s.E, 99);
    compare(&softmax, s.E, s.K, s.T, logits, NULL, NULL);
    compare(&after, s.E, s.K, s.T, logits, NULL, NULL);
    for (size_t i = 0; i < count; i++) { /* ascending: every expert displaces one */
        logits[i] = (float)(i % (size_t)s.E);
    }
    compare(&after, s.E, s.K, s.T < 7 ? s.T : 7, logits, NULL, NULL);
    free(logits);
}
END_TEST

/* ---- what is refused ---- */

START_TEST(test_routing_check_contradictions_refused)
{
    static const struct bad {
        const char     *field;
        int32_t         E, K;
        witan_routing_t routing;
    } bad[] = {
        {"expert_count", 0, 1, {PLAIN}},
        {"topk", 8, 9, {PLAIN}},
        {"topk", 8, 0, {PLAIN}},
        {"topk", 8, -1, {PLAIN}},
        {"score", 8, 2, {PLAIN, .score = (witan_score_t)3}},
        {"score_after_topk", 8, 2, {PLAIN, .score = WITAN_SCORE_SIGMOID, .score_after_topk = true}},
        {"normalise_epsilon", 8, 2, {PLAIN, .normalise_epsilon = -1.0f}},
        {"normalise_epsilon", 8, 2, {PLAIN, .normalise_epsilon = NAN}},
        {"scale", 8, 2, {.scale = INFINITY, .group_count = 1, .group_topk = 1}},
        {"group_count", 8, 2, {.scale = 1.0f, .group_count = 0, .group_topk = 1}},
        {"group_count", 8, 2, {.scale = 1.0f, .group_count = 3, .group_topk = 1}},
        {"group_count", 8, 2, {.scale = 1.0f, .group_count = 16, .group_topk = 1}},
        {"group_topk", 8, 2, {.scale = 1.0f, .group_count = 4, .group_topk = 0}},
        {"group_topk", 8, 2, {.scale = 1.0f, .group_count = 4, .group_topk = 5}},
        {"group_topk", 8, 2, {.scale = 1.0f, .group_count = 1, .group_topk = 2}},
        {"group_topk", 8, 5, {.scale = 1.0f, .group_count = 4, .group_topk = 2}},
        {"group_score",
         8,
         2,
         {.scale       = 1.0f,
          .group_count = 8,
          .group_topk  = 2,
          .group_score = WITAN_GROUP_SCORE_TOP2_SUM}},
        {"group_score",
         8,
         2,
         {.scale       = 1.0f,
          .group_count = 4,
          .group_topk  = 3,
          .group_score = WITAN_GROUP_SCORE_TOPK_SUM}},
        {"group_score",
         8,
         2,
         {.scale = 1.0f, .group_count = 4, .group_topk = 1, .group_score = (witan_group_score_t)3}},
        {"mask_value",
         8,
         2,
         {.scale = 1.0f, .group_count = 4, .group_topk = 1, .mask_value = (witan_mask_value_t)2}},
    };

    for (size_t i = 0; i < WTN_COUNT_OF(bad); i++) {
        char expected[64];

        (void)snprintf(expected, sizeof(expected), "routing: %s: ", bad[i].field);
        ck_assert_msg(wtn_routing_check(&bad[i].routing, bad[i].E, bad[i].K) == WITAN_E_CONFIG,
                      "case %zu (%s) passed", i, bad[i].field);
        ck_assert_msg(strncmp(witan_last_error(), expected, strlen(expected)) == 0,
                      "case %zu: expected \"%s\", found \"%s\"", i, expected, witan_last_error());
    }
}
END_TEST

START_TEST(test_topk_short_workspace_refused)
{
    const witan_routing_t routing   = {PLAIN};
    float                 logits[8] = {0}, weights[2];
    int32_t               ids[2];
    char                  work[64];
    const wtn_topk_args_t args = {.routing         = &routing,
                                  .expert_count    = 8,
                                  .topk            = 2,
                                  .logits          = logits,
                                  .token_count     = 1,
                                  .ids             = ids,
                                  .weights         = weights,
                                  .workspace       = work,
                                  .workspace_bytes = sizeof(work),
                                  .thread_count    = 1};

    ck_assert_int_eq(wtn_host_topk(&args), WITAN_E_ARGUMENT);
    ck_assert_int_eq(wtn_topk_ref(&args), WITAN_E_ARGUMENT);
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("topk");
    TCase   *tcase  = tcase_create("topk");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_topk_oracle_same_ids_and_weights);
    tcase_add_loop_test(tcase, test_topk_vectors_exact, 0, (int)WTN_COUNT_OF(vector_cases));
    tcase_add_test(tcase, test_topk_nan_stays_in_its_token);
    tcase_add_test(tcase, test_topk_infinite_logits_defined);
    tcase_add_test(tcase, test_topk_softmax_of_65536_sums_to_one);
    tcase_add_test(tcase, test_topk_scores_accurate_everywhere);
    tcase_add_test(tcase, test_topk_softmax_accurate_everywhere);
    tcase_add_test(tcase, test_topk_host_equals_reference_every_option);
    tcase_add_loop_test(tcase, test_topk_host_equals_reference_every_shape, 0, 20);
    tcase_add_test(tcase, test_routing_check_contradictions_refused);
    tcase_add_test(tcase, test_topk_short_workspace_refused);
    suite_add_tcase(suite, tcase);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

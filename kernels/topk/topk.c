#include <math.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/plain_math.h"
#include "kernels/topk/topk.h"

static witan_status_t check_groups(const witan_routing_t *routing, int32_t expert_count,
                                   int32_t topk)
{
    const int32_t groups = routing->group_count;
    int32_t       width;

    if (groups < 1 || expert_count % groups != 0) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "routing: group_count: expected a divisor of %d experts; found %d",
                         expert_count, groups);
    }
    if (routing->group_topk < 1 || routing->group_topk > groups) {
        return WTN_ERROR(WITAN_E_CONFIG, "routing: group_topk: expected 1 to %d; found %d", groups,
                         routing->group_topk);
    }
    if ((unsigned)routing->group_score > WITAN_GROUP_SCORE_TOPK_SUM) {
        return WTN_ERROR(WITAN_E_CONFIG, "routing: group_score: expected 0 to 2; found %d",
                         (int)routing->group_score);
    }
    if ((unsigned)routing->mask_value > WITAN_MASK_ZERO) {
        return WTN_ERROR(WITAN_E_CONFIG, "routing: mask_value: expected 0 or 1; found %d",
                         (int)routing->mask_value);
    }
    if (groups == 1) {
        return WITAN_OK;
    }
    width = expert_count / groups;
    if (wtn_topk_group_best(routing, topk) < 1 || wtn_topk_group_best(routing, topk) > width) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "routing: group_score: sums the best %d of a group; its experts are %d",
                         wtn_topk_group_best(routing, topk), width);
    }
    if (routing->mask_value == WITAN_MASK_NEG_INF && topk > routing->group_topk * width) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "routing: group_topk: %d groups of %d experts can not give topk %d",
                         routing->group_topk, width, topk);
    }
    return WITAN_OK;
}

witan_status_t wtn_routing_check(const witan_routing_t *routing, int32_t expert_count, int32_t topk)
{
    if (expert_count < 1) {
        return WTN_ERROR(WITAN_E_CONFIG, "routing: expert_count: expected at least 1; found %d",
                         expert_count);
    }
    if (topk < 1 || topk > expert_count) {
        return WTN_ERROR(WITAN_E_CONFIG, "routing: topk: expected 1 to %d; found %d", expert_count,
                         topk);
    }
    if ((unsigned)routing->score > WITAN_SCORE_SQRT_SOFTPLUS) {
        return WTN_ERROR(WITAN_E_CONFIG, "routing: score: expected 0 to 2; found %d",
                         (int)routing->score);
    }
    if (routing->score_after_topk && routing->score != WITAN_SCORE_SOFTMAX) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "routing: score_after_topk: expected false unless score is softmax");
    }
    if (!isfinite(routing->normalise_epsilon) || routing->normalise_epsilon < 0.0f) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "routing: normalise_epsilon: expected finite, >= 0; found %g",
                         (double)routing->normalise_epsilon);
    }
    if (!isfinite(routing->scale)) {
        return WTN_ERROR(WITAN_E_CONFIG, "routing: scale: expected finite; found %g",
                         (double)routing->scale);
    }
    return check_groups(routing, expert_count, topk);
}

static void carve(wtn_carver_t *carver, int32_t expert_count, wtn_topk_scratch_t *scratch)
{
    const size_t E = (size_t)expert_count;

    scratch->scores      = wtn_carve(carver, E, sizeof(float));
    scratch->choice      = wtn_carve(carver, E, sizeof(float));
    scratch->group_score = wtn_carve(carver, E, sizeof(float));
    scratch->flag        = wtn_carve(carver, E, sizeof(bool));
    scratch->index       = wtn_carve(carver, E, sizeof(int32_t));
    scratch->key         = wtn_carve(carver, E, sizeof(uint64_t));
}

size_t wtn_host_topk_workspace_bytes(int32_t expert_count, int32_t topk, int32_t thread_count)
{
    wtn_carver_t       carver = {NULL, 0};
    wtn_topk_scratch_t scratch;
    size_t             bytes;

    (void)topk; /* K <= E */
    carve(&carver, expert_count, &scratch);
    if (!wtn_mul(carver.bytes, (size_t)(thread_count < 1 ? 1 : thread_count), &bytes)) {
        return SIZE_MAX;
    }
    return bytes;
}

witan_status_t wtn_topk_carve(const wtn_topk_args_t *args, int32_t index,
                              wtn_topk_scratch_t *scratch)
{
    const size_t share  = wtn_host_topk_workspace_bytes(args->expert_count, args->topk, 1);
    const size_t needed = wtn_host_topk_workspace_bytes(args->expert_count, args->topk, index + 1);
    wtn_carver_t carver;

    if (args->workspace == NULL || args->workspace_bytes < needed) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "topk: workspace: expected %zu bytes; found %zu", needed,
                         args->workspace_bytes);
    }
    carver = (wtn_carver_t){(char *)args->workspace + share * (size_t)index, 0};
    carve(&carver, args->expert_count, scratch);
    return WITAN_OK;
}

/* Up to WTN_TOPK_CHUNK values: i % WTN_TOPK_SUMS in each sum, then folded by halves. */
static double sum_chunk(const float *x, int32_t count)
{
    double  sum[WTN_TOPK_SUMS] = {0.0};
    int32_t i                  = 0;

    for (; i + WTN_TOPK_SUMS <= count; i += WTN_TOPK_SUMS) {
        for (int32_t j = 0; j < WTN_TOPK_SUMS; j++) {
            sum[j] += (double)x[i + j];
        }
    }
    for (int32_t j = 0; i + j < count; j++) {
        sum[j] += (double)x[i + j];
    }
    for (int32_t half = WTN_TOPK_SUMS / 2; half > 0; half /= 2) {
        for (int32_t j = 0; j < half; j++) {
            sum[j] += sum[j + half];
        }
    }
    return sum[0];
}

/* In double, as over 65536 experts an fp32 sum would break the tolerance. */
static float sum_of(const float *x, int32_t count)
{
    double sum = 0.0;

    for (int32_t begin = 0; begin < count; begin += WTN_TOPK_CHUNK) {
        sum +=
            sum_chunk(x + begin, count - begin < WTN_TOPK_CHUNK ? count - begin : WTN_TOPK_CHUNK);
    }
    return (float)sum;
}

static void softmax(float *x, int32_t count)
{
    float max = x[0], sum;

#pragma omp simd reduction(max : max)
    for (int32_t i = 0; i < count; i++) {
        max = x[i] > max ? x[i] : max;
    }
#pragma omp simd
    for (int32_t i = 0; i < count; i++) {
        x[i] = wtn_plain_exp(x[i] - max);
    }
    sum = sum_of(x, count);
#pragma omp simd
    for (int32_t i = 0; i < count; i++) {
        x[i] /= sum;
    }
}

static void sigmoid(float *x, int32_t count)
{
#pragma omp simd
    for (int32_t i = 0; i < count; i++) {
        x[i] = wtn_plain_sigmoid(x[i]);
    }
}

/* out = a + b, or a where b is NULL. */
static void add(const float *a, const float *b, int32_t count, float *out)
{
    if (b == NULL) {
        memcpy(out, a, (size_t)count * sizeof(*out));
        return;
    }
#pragma omp simd
    for (int32_t i = 0; i < count; i++) {
        out[i] = a[i] + b[i];
    }
}

static bool any_nan(const float *x, int32_t count)
{
    int nan = 0;

#pragma omp simd reduction(| : nan)
    for (int32_t i = 0; i < count; i++) {
        nan |= x[i] != x[i];
    }
    return nan != 0;
}

bool wtn_topk_scores(const wtn_topk_args_t *args, int64_t t, wtn_topk_scratch_t *scratch)
{
    const int32_t E = args->expert_count;
    float        *s = scratch->scores;

    add(args->logits + (size_t)t * (size_t)E, args->bias, E, s);
    if (args->routing->score == WITAN_SCORE_SIGMOID) {
        sigmoid(s, E);
    } else if (args->routing->score == WITAN_SCORE_SQRT_SOFTPLUS) {
        for (int32_t e = 0; e < E; e++) {
            s[e] = wtn_plain_sqrt_softplus(s[e]);
        }
    } else if (!args->routing->score_after_topk) {
        softmax(s, E);
    }
    add(s, args->correction_bias, E, scratch->choice);
    return !any_nan(scratch->choice, E);
}

void wtn_topk_nan(const wtn_topk_args_t *args, int64_t t)
{
    for (int32_t k = 0; k < args->topk; k++) {
        args->ids[t * args->topk + k]     = k;
        args->weights[t * args->topk + k] = NAN;
    }
}

void wtn_topk_weights(const wtn_topk_args_t *args, int64_t t, const float *scores)
{
    const witan_routing_t *routing = args->routing;
    const int32_t          K       = args->topk;
    const int32_t         *ids     = args->ids + (size_t)t * (size_t)K;
    float                 *w       = args->weights + (size_t)t * (size_t)K;

    for (int32_t k = 0; k < K; k++) {
        w[k] = scores[ids[k]];
    }
    if (routing->score_after_topk) {
        softmax(w, K);
    }
    if (routing->normalise) {
        const float sum = sum_of(w, K) + routing->normalise_epsilon;

        for (int32_t k = 0; k < K; k++) {
            w[k] /= sum;
        }
    }
    for (int32_t k = 0; k < K; k++) {
        w[k] *= routing->scale;
    }
}

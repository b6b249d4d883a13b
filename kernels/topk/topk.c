#include <math.h>

#include "core/error.h"
#include "core/util.h"
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

static float sigmoid(float l)
{
    return 1.0f / (1.0f + expf(-l));
}

static float sqrt_softplus(float l)
{
    /* ln(1 + e^l) = max(l, 0) + ln(1 + e^-|l|), which never overflows */
    return sqrtf((l > 0.0f ? l : 0.0f) + log1pf(expf(-fabsf(l))));
}

/* In place. The sum is double: over 65536 experts an fp32 sum alone would break the tolerance. */
static void softmax(float *x, int32_t count)
{
    float  max = x[0];
    double sum = 0.0;

    for (int32_t i = 1; i < count; i++) {
        max = x[i] > max ? x[i] : max;
    }
    for (int32_t i = 0; i < count; i++) {
        x[i] = expf(x[i] - max);
        sum += (double)x[i];
    }
    for (int32_t i = 0; i < count; i++) {
        x[i] /= (float)sum;
    }
}

bool wtn_topk_scores(const wtn_topk_args_t *args, int64_t t, wtn_topk_scratch_t *scratch)
{
    const witan_routing_t *routing = args->routing;
    const int32_t          E       = args->expert_count;
    const float           *logits  = args->logits + (size_t)t * (size_t)E;
    float                 *s       = scratch->scores;
    bool                   nan     = false;

    for (int32_t e = 0; e < E; e++) {
        s[e] = args->bias != NULL ? logits[e] + args->bias[e] : logits[e];
    }
    if (routing->score == WITAN_SCORE_SIGMOID) {
        for (int32_t e = 0; e < E; e++) {
            s[e] = sigmoid(s[e]);
        }
    } else if (routing->score == WITAN_SCORE_SQRT_SOFTPLUS) {
        for (int32_t e = 0; e < E; e++) {
            s[e] = sqrt_softplus(s[e]);
        }
    } else if (!routing->score_after_topk) {
        softmax(s, E);
    }
    for (int32_t e = 0; e < E; e++) {
        const float c = args->correction_bias != NULL ? s[e] + args->correction_bias[e] : s[e];

        scratch->choice[e] = c;
        nan |= isnan(c);
    }
    return !nan;
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
        double sum = 0.0;

        for (int32_t k = 0; k < K; k++) {
            sum += (double)w[k];
        }
        for (int32_t k = 0; k < K; k++) {
            w[k] /= (float)sum + routing->normalise_epsilon;
        }
    }
    for (int32_t k = 0; k < K; k++) {
        w[k] *= routing->scale;
    }
}

#include <math.h>

#include "core/util.h"
#include "kernels/topk/topk.h"

/* The largest of c[begin, end) not yet taken, the first of equals; takes it. */
static int32_t take_best(const float *c, bool *taken, int32_t begin, int32_t end)
{
    int32_t best = -1;

    for (int32_t i = begin; i < end; i++) {
        if (!taken[i] && (best < 0 || c[i] > c[best])) {
            best = i;
        }
    }
    taken[best] = true;
    return best;
}

static void set(bool *flag, int32_t count, bool value)
{
    for (int32_t i = 0; i < count; i++) {
        flag[i] = value;
    }
}

/* Score the groups and mask the experts of those not chosen: their choice becomes 0, or they count
 * as taken already. False: a group's score is NaN (Inf - Inf). */
static bool mask_groups(const wtn_topk_args_t *args, wtn_topk_scratch_t *scratch)
{
    const witan_routing_t *routing = args->routing;
    const int32_t          E       = args->expert_count;
    const int32_t          width   = E / routing->group_count;
    bool                  *taken   = scratch->flag;
    int32_t               *kept    = scratch->index;

    set(taken, E, false);
    for (int32_t g = 0; g < routing->group_count; g++) {
        float sum = 0.0f;

        for (int32_t i = 0; i < wtn_topk_group_best(routing, args->topk); i++) {
            sum += scratch->choice[take_best(scratch->choice, taken, g * width, (g + 1) * width)];
        }
        if (isnan(sum)) {
            return false;
        }
        scratch->group_score[g] = sum;
        kept[g]                 = 0;
    }
    set(taken, E, false);
    for (int32_t i = 0; i < routing->group_topk; i++) {
        kept[take_best(scratch->group_score, taken, 0, routing->group_count)] = 1;
    }
    set(taken, E, false);
    for (int32_t g = 0; g < routing->group_count; g++) {
        for (int32_t e = g * width; kept[g] == 0 && e < (g + 1) * width; e++) {
            if (routing->mask_value == WITAN_MASK_ZERO) {
                scratch->choice[e] = 0.0f;
            } else {
                taken[e] = true;
            }
        }
    }
    return true;
}

witan_status_t wtn_topk_ref(const wtn_topk_args_t *args)
{
    wtn_topk_scratch_t scratch;
    witan_status_t     status = wtn_topk_carve(args, 0, &scratch);

    for (int64_t t = 0; status == WITAN_OK && t < args->token_count; t++) {
        int32_t *ids = args->ids + (size_t)t * (size_t)args->topk;

        set(scratch.flag, args->expert_count, false);
        if (!wtn_topk_scores(args, t, &scratch) ||
            (args->routing->group_count > 1 && !mask_groups(args, &scratch))) {
            wtn_topk_nan(args, t);
            continue;
        }
        for (int32_t k = 0; k < args->topk; k++) {
            ids[k] = take_best(scratch.choice, scratch.flag, 0, args->expert_count);
        }
        wtn_topk_weights(args, t, scratch.scores);
    }
    return status;
}

/* The schedule: routed tokens sorted by destination. Integers only, one pass to count and one to
 * fill; every (token, k) has its place in what comes back, so the sum needs no atomics. Tokens take
 * the replicas of an expert in turn, each rank beginning at another one. */
#include <string.h>

#include "core/util.h"
#include "dispatch/plan.h"

/* Tokens and rows per domain; a token counts once for a domain, however many experts it has there.
 */
static void count(witan_plan_t *plan, int64_t *tokens, int64_t *rows)
{
    const wtn_placement_t *placement = &plan->layer->layout.placement;
    const wtn_domains_t   *domains   = &plan->shape.domains;
    int32_t                topk      = plan->layer->layout.config.topk;

    for (int32_t d = 0; d < domains->count; d++) {
        plan->last_token[d] = -1;
        tokens[d] = rows[d] = 0;
    }
    for (int64_t t = 0; t < plan->token_count; t++) {
        for (int32_t k = 0; k < topk; k++) {
            int32_t expert = plan->ids[t * topk + k], owner, d;

            if (expert < 0) {
                continue;
            }
            plan->expert_token_counts[expert]++;
            owner = placement->slot_owner[wtn_placement_choose(placement, expert, plan->me + t)];
            plan->rank_row_counts[owner]++;
            d = domains->of[owner];
            tokens[d] += plan->last_token[d] != t;
            rows[d]++;
            plan->last_token[d] = t;
        }
    }
}

static void fill_token(witan_plan_t *plan, int64_t t, int64_t *next_token, int64_t *next_row)
{
    const wtn_placement_t *placement = &plan->layer->layout.placement;
    int32_t                topk      = plan->layer->layout.config.topk;
    bool                   reduced   = plan->config.combine == WITAN_COMBINE_REDUCED;
    int32_t                slots = plan->shape.slots_per_token, slot = 0;
    int64_t               *sum_index = plan->sum_index + t * slots;

    for (int32_t i = 0; i < slots; i++) {
        sum_index[i] = -1;
    }
    for (int32_t k = 0; k < topk; k++) {
        int32_t expert = plan->ids[t * topk + k], chosen, d;
        int64_t row;

        if (expert < 0) {
            continue;
        }
        chosen = wtn_placement_choose(placement, expert, plan->me + t);
        d      = plan->shape.domains.of[placement->slot_owner[chosen]];
        row    = next_row[d]++;
        if (plan->last_token[d] != t) {
            plan->last_token[d]                  = t;
            plan->send_token[next_token[d]]      = t;
            plan->token_first_row[next_token[d]] = row;
            if (reduced) {
                sum_index[slot++] = next_token[d];
            }
            next_token[d]++;
        }
        plan->row_token[row]  = (int32_t)(next_token[d] - 1 - plan->pair_token_begin[d]);
        plan->row_slot[row]   = chosen;
        plan->row_weight[row] = plan->weights[t * topk + k];
        if (!reduced) {
            sum_index[k] = row;
        }
    }
}

wtn_piece_t wtn_schedule_cut(const witan_plan_t *plan, int32_t domain, int64_t token_begin)
{
    int64_t first = plan->pair_token_begin[domain], end = plan->pair_token_begin[domain + 1];
    int64_t per_chunk   = wtn_ceil_div(end - first, plan->config.chunk_count);
    int64_t token_limit = wtn_min_i64(plan->shape.source_tokens[plan->me], per_chunk);
    int64_t row_limit   = plan->shape.source_rows[plan->me];
    int64_t token_end   = wtn_min_i64(end, token_begin + token_limit);
    int64_t row_begin   = plan->token_first_row[token_begin];

    if (plan->token_first_row[token_end] - row_begin > row_limit) {
        for (token_end = token_begin;
             plan->token_first_row[token_end + 1] - row_begin <= row_limit;) {
            token_end++;
        }
    }
    return (wtn_piece_t){.token_begin = token_begin,
                         .token_count = token_end - token_begin,
                         .row_begin   = row_begin,
                         .row_count   = plan->token_first_row[token_end] - row_begin};
}

void wtn_schedule(witan_plan_t *plan)
{
    int32_t  domains    = plan->shape.domains.count;
    int64_t *next_token = plan->cursor, *next_row = plan->cursor + domains;

    memset(plan->expert_token_counts, 0,
           (size_t)plan->layer->layout.config.expert_count * sizeof(int64_t));
    memset(plan->rank_row_counts, 0, (size_t)plan->ep * sizeof(int64_t));
    count(plan, next_token, next_row);
    plan->pair_token_begin[0] = plan->pair_row_begin[0] = 0;
    for (int32_t d = 0; d < domains; d++) {
        plan->pair_token_begin[d + 1] = plan->pair_token_begin[d] + next_token[d];
        plan->pair_row_begin[d + 1]   = plan->pair_row_begin[d] + next_row[d];
    }
    for (int32_t d = 0; d < domains; d++) {
        plan->last_token[d] = -1;
        next_token[d]       = plan->pair_token_begin[d];
        next_row[d]         = plan->pair_row_begin[d];
    }
    for (int64_t t = 0; t < plan->token_count; t++) {
        fill_token(plan, t, next_token, next_row);
    }
    plan->token_first_row[plan->pair_token_begin[domains]] = plan->pair_row_begin[domains];
    for (int32_t d = 0; d < domains; d++) {
        int64_t token = plan->pair_token_begin[d];

        plan->next_token[d]  = token;
        plan->send_rounds[d] = 0;
        while (token < plan->pair_token_begin[d + 1]) {
            token += wtn_schedule_cut(plan, d, token).token_count;
            plan->send_rounds[d]++;
        }
    }
}

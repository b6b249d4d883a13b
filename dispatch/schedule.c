/* The schedule: routed tokens sorted by destination. Integers only, one pass to count and one to
 * fill; every (token, k) has its place in what comes back, so the sum needs no atomics. Tokens take
 * the replicas of an expert in turn, each rank beginning at another one. */
#include <string.h>

#include "core/util.h"
#include "dispatch/plan.h"

/* Tokens and rows per destination; a token counts once for a rank, however many experts it has
 * there. */
static void count(witan_plan_t *plan, int64_t *tokens, int64_t *rows)
{
    const wtn_placement_t *placement = &plan->layer->layout.placement;
    int32_t                topk      = plan->layer->layout.config.topk;

    for (int32_t j = 0; j < plan->ep; j++) {
        plan->last_token[j] = -1;
        tokens[j] = rows[j] = 0;
    }
    for (int64_t t = 0; t < plan->token_count; t++) {
        for (int32_t k = 0; k < topk; k++) {
            int32_t expert = plan->ids[t * topk + k], j;

            if (expert < 0) {
                continue;
            }
            plan->expert_token_counts[expert]++;
            j = placement->slot_owner[wtn_placement_choose(placement, expert, plan->me + t)];
            tokens[j] += plan->last_token[j] != t;
            rows[j]++;
            plan->last_token[j] = t;
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
        int32_t expert = plan->ids[t * topk + k], chosen, j;
        int64_t row;

        if (expert < 0) {
            continue;
        }
        chosen = wtn_placement_choose(placement, expert, plan->me + t);
        j      = placement->slot_owner[chosen];
        row    = next_row[j]++;
        if (plan->last_token[j] != t) {
            plan->last_token[j]                  = t;
            plan->send_token[next_token[j]]      = t;
            plan->token_first_row[next_token[j]] = row;
            if (reduced) {
                sum_index[slot++] = next_token[j];
            }
            next_token[j]++;
        }
        plan->row_token[row]  = (int32_t)(next_token[j] - 1 - plan->pair_token_begin[j]);
        plan->row_expert[row] = chosen;
        plan->row_weight[row] = plan->weights[t * topk + k];
        if (!reduced) {
            sum_index[k] = row;
        }
    }
}

wtn_piece_t wtn_schedule_cut(const witan_plan_t *plan, int32_t peer, int64_t token_begin)
{
    int64_t first = plan->pair_token_begin[peer], end = plan->pair_token_begin[peer + 1];
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
    int64_t *next_token = plan->cursor, *next_row = plan->cursor + plan->ep;

    memset(plan->expert_token_counts, 0,
           (size_t)plan->layer->layout.config.expert_count * sizeof(int64_t));
    count(plan, next_token, next_row);
    plan->pair_token_begin[0] = plan->pair_row_begin[0] = 0;
    for (int32_t j = 0; j < plan->ep; j++) {
        plan->rank_row_counts[j]      = next_row[j];
        plan->pair_token_begin[j + 1] = plan->pair_token_begin[j] + next_token[j];
        plan->pair_row_begin[j + 1]   = plan->pair_row_begin[j] + next_row[j];
    }
    for (int32_t j = 0; j < plan->ep; j++) {
        plan->last_token[j] = -1;
        next_token[j]       = plan->pair_token_begin[j];
        next_row[j]         = plan->pair_row_begin[j];
    }
    for (int64_t t = 0; t < plan->token_count; t++) {
        fill_token(plan, t, next_token, next_row);
    }
    plan->token_first_row[plan->pair_token_begin[plan->ep]] = plan->pair_row_begin[plan->ep];
    for (int32_t j = 0; j < plan->ep; j++) {
        int64_t token = plan->pair_token_begin[j];

        plan->next_token[j]  = token;
        plan->send_rounds[j] = 0;
        while (token < plan->pair_token_begin[j + 1]) {
            token += wtn_schedule_cut(plan, j, token).token_count;
            plan->send_rounds[j]++;
        }
    }
}

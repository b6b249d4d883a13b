/* The rows of a round: computed in the window, then sent back to the sources. */
#include <inttypes.h>
#include <stdatomic.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/round.h"

/* First of the slots in plan->rows for the rows of source `s`. */
static int64_t row_slot(const witan_plan_t *plan, const wtn_round_t *round, int32_t s)
{
    return round->row_base + plan->shape.source_slot_begin[s];
}

/* Sums to be sent back to source `s` in the reduced mode. */
static char *partial_slot(const witan_plan_t *plan, const wtn_round_t *round, int32_t s)
{
    int64_t slot = (int64_t)(round - plan->rounds) * plan->shape.token_slot_count +
                   plan->shape.source_token_begin[s];

    return plan->partial_rows + (size_t)slot * plan->layer->layout.row_bytes;
}

/* ---- experts ---- */

/* The rows for experts held here, in order of source, token and k. */
static int64_t list_rows(witan_plan_t *plan, wtn_round_t *round)
{
    const wtn_placement_t *placement = &plan->layer->layout.placement;
    int64_t                count     = 0;

    for (int32_t s = 0; s < plan->ep; s++) {
        const wtn_wire_row_t *wire = wtn_piece_rows(plan, round, s);
        const wtn_piece_t    *own  = &round->pieces[plan->home];
        int64_t               last = -1, out;
        wtn_manifest_t        header;

        /* A relay without pieces in this round may already write those of the next step. */
        if (plan->relay_rounds[wtn_domain_relay(&plan->shape.domains, s, plan->home)] <=
                round->index ||
            !wtn_piece_read(plan, round, s, &header)) {
            continue;
        }
        out = wtn_round_is_home(plan, s) && !wtn_round_is_reduced(plan)
                  ? plan->shape.return_begin[s] + header.row_begin
                  : row_slot(plan, round, s);
        for (int64_t i = 0; i < header.row_count; i++) {
            if (placement->slot_owner[wire[i].slot] != plan->me) {
                continue;
            }
            round->row_in[count]     = plan->ep == 1
                                           ? plan->send_token[own->token_begin + wire[i].token]
                                           : plan->shape.source_token_begin[s] + wire[i].token;
            round->row_out[count]    = out + i;
            round->row_expert[count] = placement->slot_local[wire[i].slot];
            count++;
            plan->recv_token_count += wire[i].token != last;
            last = wire[i].token;
        }
    }
    plan->recv_row_count += count;
    return count;
}

/* Rows of this round are in the window: tell the mates that took in their tokens. */
static witan_status_t end(witan_plan_t *plan, wtn_round_t *round)
{
    witan_status_t status = WITAN_OK;

    round->computed      = true;
    round->notice->step  = plan->step;
    round->notice->round = (uint32_t)round->index;
    atomic_thread_fence(memory_order_release);
    for (int32_t i = wtn_round_mate_begin(plan); i < wtn_round_mate_end(plan); i++) {
        int32_t mate = plan->shape.domains.members[i];

        if (mate != plan->me && plan->relay_rounds[mate] > round->index) {
            WTN_TRY(wtn_send_post(plan->comm,
                                  wtn_round_requests(plan, round, WTN_REQUEST_END_SEND) + mate,
                                  plan->expert_peers[mate], plan->channel, WTN_TAG_END,
                                  round->notice, sizeof(wtn_notice_t)));
        }
    }

fail:
    return status;
}

witan_status_t wtn_round_compute(witan_plan_t *plan, int64_t index)
{
    const wtn_layout_t *layout = &plan->layer->layout;
    wtn_round_t        *round  = wtn_round_at(plan, index);
    wtn_ffn_args_t      args   = {
               .x                 = plan->ep == 1 ? plan->hidden : round->token_recv,
               .out               = plan->rows,
               .row_count         = list_rows(plan, round),
               .row_expert        = round->row_expert,
               .row_in            = round->row_in,
               .row_out           = round->row_out,
               .expert_row_counts = plan->round_row_counts,
               .executor          = plan->config.executor,
               .masked_rows_max   = plan->config.masked_rows_max,
               .workspace         = plan->scratch,
               .workspace_bytes   = plan->scratch_bytes,
               .thread_count      = plan->layer->group->thread_count,
               .poll              = plan->ep > 1 ? wtn_round_poll : NULL,
               .poll_context      = plan,
    };
    witan_status_t status;

    plan->computing = index;
    if (args.row_count > 0) {
        WTN_TRY(layout->backend->ffn_run(plan->layer->experts, &args));
        plan->executor = args.executor_taken;
        plan->executor_counts[args.executor_taken]++;
        for (int32_t e = 0; e < layout->local_count; e++) {
            plan->expert_row_counts[e] += plan->round_row_counts[e];
        }
    }
    WTN_TRY(end(plan, round));

fail:
    return status;
}

/* ---- rows back ---- */

/* Reduced mode: sum the rows of each token here, in order of k, and keep one row per token. */
static witan_status_t reduce_rows(witan_plan_t *plan, wtn_round_t *round, int32_t s,
                                  const wtn_manifest_t *header)
{
    const wtn_layout_t   *layout = &plan->layer->layout;
    const wtn_wire_row_t *wire   = wtn_piece_rows(plan, round, s);
    int32_t               topk   = layout->config.topk;
    int64_t               tokens = header->token_count, first = row_slot(plan, round, s);
    int64_t              *index   = round->reduce_index;
    float                *weights = round->reduce_weight;
    int32_t               slot    = 0;
    wtn_combine_args_t    args    = {
              .token_count  = tokens,
              .hidden_size  = layout->config.hidden_size,
              .slot_count   = topk,
              .dtype        = layout->config.dtype,
              .out_dtype    = layout->config.dtype,
              .rows         = plan->rows,
              .row_index    = index,
              .weights      = weights,
              .thread_count = plan->layer->group->thread_count,
    };

    for (int64_t i = 0; i < tokens * topk; i++) {
        index[i] = -1;
    }
    for (int64_t i = 0; i < header->row_count; i++) {
        slot = i > 0 && wire[i].token == wire[i - 1].token ? slot + 1 : 0;
        index[wire[i].token * (int64_t)topk + slot]   = first + i;
        weights[wire[i].token * (int64_t)topk + slot] = wire[i].weight;
    }
    args.out = s == plan->me ? plan->returned +
                                   (size_t)round->pieces[plan->home].token_begin * layout->row_bytes
                             : partial_slot(plan, round, s);
    return layout->backend->combine(&args);
}

/* All members have computed: send the rows back for which this rank has taken in the tokens. */
static witan_status_t return_rows(witan_plan_t *plan, wtn_round_t *round)
{
    size_t         row_bytes = plan->layer->layout.row_bytes;
    witan_status_t status;

    round->returned = true;
    plan->round_returned++;
    atomic_thread_fence(memory_order_acquire);
    if (plan->relay_rounds[plan->me] > round->index) {
        WTN_TRY(wtn_round_check_notices(plan, round, round->ends));
    }
    for (int32_t step = 1; step <= plan->ep; step++) {
        int32_t        s = (plan->me + step) % plan->ep;
        int64_t        count;
        const char    *rows;
        wtn_manifest_t header;

        if (!round->expected[s] || !wtn_piece_read(plan, round, s, &header) ||
            header.token_count == 0) {
            continue;
        }
        if (wtn_round_is_reduced(plan)) {
            WTN_TRY(reduce_rows(plan, round, s, &header));
        }
        if (s == plan->me) {
            continue;
        }
        count = wtn_round_is_reduced(plan) ? header.token_count : header.row_count;
        rows  = wtn_round_is_reduced(plan)
                    ? partial_slot(plan, round, s)
                    : plan->rows + (size_t)row_slot(plan, round, s) * row_bytes;
        plan->rank_send_bytes[s] += count * (int64_t)row_bytes;
        WTN_TRY(wtn_send_post(plan->comm,
                              wtn_round_requests(plan, round, WTN_REQUEST_ROWS_SEND) + s,
                              plan->expert_peers[s], plan->channel, WTN_TAG_ROWS, rows,
                              (size_t)count * row_bytes));
    }
    return WITAN_OK;

fail:
    return status;
}

witan_status_t wtn_round_return(witan_plan_t *plan, int64_t index, bool wait)
{
    wtn_round_t   *round = wtn_round_at(plan, index);
    bool           done  = false;
    witan_status_t status;

    if (index != plan->round_returned) {
        return WITAN_OK; /* rows of two rounds must not overtake each other */
    }
    WTN_TRY(wtn_progress(plan->comm, wtn_round_requests(plan, round, WTN_REQUEST_END_RECV),
                         (size_t)plan->ep, &done));
    if (!done && wait) {
        WTN_TRY(wtn_round_wait_for(plan, wtn_round_requests(plan, round, WTN_REQUEST_END_RECV),
                                   (size_t)plan->ep, "combine: rows of the node",
                                   wtn_deadline(plan->comm)));
        done = true;
    }
    if (done && !round->returned) { /* a poll may have done it while this waited */
        WTN_TRY(return_rows(plan, round));
    }

fail:
    return status;
}

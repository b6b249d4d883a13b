/* One round of dispatch: pieces out, pieces in, experts, rows back. Every stage only posts messages
 * or waits for posted ones, so two rounds can be in flight: the experts of one overlap the transfer
 * of the next, which a poll moves on between tiles. */
#include <inttypes.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/plan.h"

#define MANIFEST_MAGIC 0x4e544957u /* "WITN" */
#define POLL_PERIOD_NS 20000u

static wtn_request_t *requests_of(const witan_plan_t *plan, const wtn_round_t *round,
                                  wtn_request_kind_t kind)
{
    return round->requests + (size_t)kind * (size_t)plan->ep;
}

wtn_round_t *wtn_round_at(witan_plan_t *plan, int64_t index)
{
    return &plan->rounds[index % plan->shape.round_slots];
}

/* Where the manifest of source `s` lies: its header, then its rows. */
static char *manifest_slot(const witan_plan_t *plan, const wtn_round_t *round, int32_t s)
{
    return round->manifest_recv + (size_t)s * sizeof(wtn_manifest_t) +
           (size_t)plan->shape.source_row_begin[s] * sizeof(wtn_wire_row_t);
}

static const wtn_wire_row_t *wire_rows(const witan_plan_t *plan, const wtn_round_t *round,
                                       int32_t s)
{
    return (const wtn_wire_row_t *)(const void *)(manifest_slot(plan, round, s) +
                                                  sizeof(wtn_manifest_t));
}

static bool is_reduced(const witan_plan_t *plan)
{
    return plan->config.combine == WITAN_COMBINE_REDUCED;
}

/* First slot in plan->rows for the computed rows of source `s`; own rows of the exact mode have
 * none. */
static int64_t row_slot(const witan_plan_t *plan, const wtn_round_t *round, int32_t s)
{
    int64_t skipped = !is_reduced(plan) && s > plan->me ? plan->shape.source_rows[plan->me] : 0;

    return round->row_base + plan->shape.source_row_begin[s] - skipped;
}

/* Sums to be sent back to source `s` in the reduced mode. */
static char *partial_slot(const witan_plan_t *plan, const wtn_round_t *round, int32_t s)
{
    int64_t slot = (int64_t)(round - plan->rounds) * plan->shape.token_slot_count +
                   plan->shape.source_token_begin[s];

    return plan->partial_rows + (size_t)slot * plan->layer->layout.row_bytes;
}

/* Write manifest and rows of a piece; returns the bytes. */
static size_t write_manifest(const witan_plan_t *plan, const wtn_piece_t *piece, int64_t index,
                             int32_t peer, char *out)
{
    int64_t        left   = plan->send_rounds[peer] - index - 1;
    wtn_manifest_t header = {
        .magic       = MANIFEST_MAGIC,
        .round       = (uint32_t)index,
        .step        = plan->step,
        .rounds_left = left > 0 ? (uint64_t)left : 0,
        .token_count = piece->token_count,
        .row_count   = piece->row_count,
    };
    wtn_wire_row_t *wire  = (wtn_wire_row_t *)(void *)(out + sizeof(header));
    int32_t         first = (int32_t)(piece->token_begin - plan->pair_token_begin[peer]);

    memcpy(out, &header, sizeof(header));
    for (int64_t i = 0; i < piece->row_count; i++) {
        int64_t row = piece->row_begin + i;

        wire[i] = (wtn_wire_row_t){.token  = plan->row_token[row] - first,
                                   .expert = plan->row_expert[row],
                                   .weight = plan->row_weight[row]};
    }
    return sizeof(header) + (size_t)piece->row_count * sizeof(*wire);
}

static witan_status_t gather_tokens(const witan_plan_t *plan, const wtn_piece_t *piece, char *out)
{
    wtn_gather_args_t args = {
        .x            = plan->hidden,
        .index        = plan->send_token + piece->token_begin,
        .row_count    = piece->token_count,
        .row_bytes    = plan->layer->layout.row_bytes,
        .out          = out,
        .thread_count = plan->layer->group->thread_count,
    };

    return plan->layer->layout.backend->gather(&args);
}

/* Own tokens stay here: same manifest, no message. */
static void keep_own_piece(witan_plan_t *plan, wtn_round_t *round)
{
    const wtn_piece_t *piece = &round->pieces[plan->me];
    char              *slot  = manifest_slot(plan, round, plan->me);

    (void)write_manifest(plan, piece, round->index, plan->me, slot);
    memcpy(&round->headers[plan->me], slot, sizeof(wtn_manifest_t));
    if (plan->ep > 1) {
        gather_tokens(plan, piece,
                      round->token_recv + (size_t)plan->shape.source_token_begin[plan->me] *
                                              plan->layer->layout.row_bytes);
    }
}

/* Receive what a piece sent to `peer` brings back, straight into its place. */
static witan_status_t post_return(witan_plan_t *plan, wtn_round_t *round, int32_t peer)
{
    const wtn_piece_t *piece = &round->pieces[peer];
    size_t             size  = plan->layer->layout.row_bytes;
    int64_t            begin = is_reduced(plan) ? piece->token_begin : piece->row_begin;
    int64_t            count = is_reduced(plan) ? piece->token_count : piece->row_count;

    return wtn_recv_post(plan->comm, requests_of(plan, round, WTN_REQUEST_ROWS_RECV) + peer,
                         plan->expert_peers[peer], plan->channel, WTN_TAG_ROWS,
                         plan->rows + (size_t)begin * size, (size_t)count * size, true);
}

static witan_status_t send_pieces(witan_plan_t *plan, wtn_round_t *round)
{
    size_t         row_bytes = plan->layer->layout.row_bytes;
    char          *manifest  = round->manifest_send;
    char          *tokens    = round->token_send;
    witan_status_t status    = WITAN_OK;

    /* Each rank starts behind itself, so that not all send to rank 0 first. */
    for (int32_t step = 1; step < plan->ep; step++) {
        int32_t      peer  = (plan->me + step) % plan->ep;
        wtn_piece_t *piece = &round->pieces[peer];
        size_t       bytes, token_bytes = (size_t)piece->token_count * row_bytes;

        if (round->index > 0 && piece->token_count == 0) {
            continue;
        }
        bytes = write_manifest(plan, piece, round->index, peer, manifest);
        WTN_TRY(wtn_send_post(plan->comm,
                              requests_of(plan, round, WTN_REQUEST_MANIFEST_SEND) + peer,
                              plan->expert_peers[peer], plan->channel, WTN_TAG_MANIFEST, manifest,
                              bytes));
        manifest += bytes;
        plan->rank_send_bytes[peer] += (int64_t)(bytes + token_bytes);
        if (piece->token_count == 0) {
            continue;
        }
        WTN_TRY(post_return(plan, round, peer));
        WTN_TRY(gather_tokens(plan, piece, tokens));
        WTN_TRY(wtn_send_post(plan->comm, requests_of(plan, round, WTN_REQUEST_TOKENS_SEND) + peer,
                              plan->expert_peers[peer], plan->channel, WTN_TAG_TOKENS, tokens,
                              token_bytes));
        tokens += token_bytes;
    }

fail:
    return status;
}

static witan_status_t expect_pieces(witan_plan_t *plan, wtn_round_t *round)
{
    witan_status_t status = WITAN_OK;

    for (int32_t s = 0; s < plan->ep; s++) {
        round->expected[s] = round->index == 0 || plan->source_rounds[s] > (uint64_t)round->index;
        round->headers[s]  = (wtn_manifest_t){0};
        if (s != plan->me && round->expected[s]) {
            WTN_TRY(wtn_recv_post(plan->comm,
                                  requests_of(plan, round, WTN_REQUEST_MANIFEST_RECV) + s,
                                  plan->expert_peers[s], plan->channel, WTN_TAG_MANIFEST,
                                  manifest_slot(plan, round, s),
                                  sizeof(wtn_manifest_t) +
                                      (size_t)plan->shape.source_rows[s] * sizeof(wtn_wire_row_t),
                                  false));
        }
    }

fail:
    return status;
}

witan_status_t wtn_round_post(witan_plan_t *plan)
{
    int64_t        index = plan->round_next;
    wtn_round_t   *round = wtn_round_at(plan, index);
    witan_status_t status;

    WTN_TRY(wtn_round_drain(plan, round));
    round->index         = index;
    round->tokens_posted = false;
    round->poll_status   = WITAN_OK;
    WTN_TRY(expect_pieces(plan, round));
    for (int32_t d = 0; d < plan->ep; d++) {
        round->pieces[d] = wtn_schedule_cut(plan, d, plan->next_token[d]);
        plan->next_token[d] += round->pieces[d].token_count;
    }
    WTN_TRY(send_pieces(plan, round));
    keep_own_piece(plan, round);
    plan->round_next++;

fail:
    return status;
}

/* A manifest has arrived: is it the one that must come, and does it keep to its quota? */
static witan_status_t check_manifest(witan_plan_t *plan, wtn_round_t *round, int32_t s)
{
    const wtn_request_t   *request   = requests_of(plan, round, WTN_REQUEST_MANIFEST_RECV) + s;
    wtn_manifest_t        *header    = &round->headers[s];
    const wtn_wire_row_t  *wire      = wire_rows(plan, round, s);
    const wtn_placement_t *placement = &plan->layer->layout.placement;
    int32_t                rank      = plan->expert_peers[s];
    int64_t                last = 0, times = 0;
    uint64_t               left;

    if (request->bytes < sizeof(*header)) {
        return WTN_ERROR(WITAN_E_MISMATCH, "dispatch: rank %" PRId32 " announced %zu bytes", rank,
                         request->bytes);
    }
    memcpy(header, manifest_slot(plan, round, s), sizeof(*header));
    if (header->magic != MANIFEST_MAGIC || header->step != plan->step ||
        header->round != (uint32_t)round->index) {
        return WTN_ERROR(WITAN_E_MISMATCH,
                         "dispatch: rank %" PRId32 " is at step %" PRIu64 " round %" PRIu32
                         ", this rank at step %" PRIu64 " round %" PRId64,
                         rank, header->step, header->round, plan->step, round->index);
    }
    left = plan->source_rounds[s] - (uint64_t)round->index - 1;
    if (header->token_count < 0 || header->token_count > plan->shape.source_tokens[s] ||
        header->row_count < 0 || header->row_count > plan->shape.source_rows[s] ||
        request->bytes != sizeof(*header) + (size_t)header->row_count * sizeof(wtn_wire_row_t)) {
        return WTN_ERROR(WITAN_E_MISMATCH,
                         "dispatch: rank %" PRId32 " announced %" PRId64 " tokens and %" PRId64
                         " rows in %zu bytes, expected at most %" PRId64 " and %" PRId64
                         " and the bytes of those rows",
                         rank, header->token_count, header->row_count, request->bytes,
                         plan->shape.source_tokens[s], plan->shape.source_rows[s]);
    }
    if (round->index > 0 && header->rounds_left != left) {
        return WTN_ERROR(WITAN_E_MISMATCH,
                         "dispatch: rank %" PRId32 " announced %" PRIu64
                         " more rounds, expected %" PRIu64,
                         rank, header->rounds_left, left);
    }
    for (int64_t i = 0; i < header->row_count; i++) {
        if (wire[i].token < last || wire[i].token >= header->token_count || wire[i].expert < 0 ||
            wire[i].expert >= placement->slot_count ||
            placement->slot_owner[wire[i].expert] != plan->me) {
            return WTN_ERROR(WITAN_E_MISMATCH,
                             "dispatch: rank %" PRId32 " sent token %" PRId32 " to slot %" PRId32
                             ", which is not held here",
                             rank, wire[i].token, wire[i].expert);
        }
        times = i > 0 && wire[i].token == last ? times + 1 : 1;
        if (times > plan->layer->layout.config.topk) {
            return WTN_ERROR(WITAN_E_MISMATCH,
                             "dispatch: rank %" PRId32 " sent token %" PRId32 " more than %" PRId32
                             " times",
                             rank, wire[i].token, plan->layer->layout.config.topk);
        }
        last = wire[i].token;
    }
    return WITAN_OK;
}

/* All manifests are here: receive exactly what they announce. */
static witan_status_t post_tokens(witan_plan_t *plan, wtn_round_t *round)
{
    size_t         row_bytes = plan->layer->layout.row_bytes;
    witan_status_t status    = WITAN_OK;

    for (int32_t s = 0; s < plan->ep; s++) {
        const wtn_manifest_t *header = &round->headers[s];

        if (s == plan->me || !round->expected[s]) {
            continue;
        }
        WTN_TRY(check_manifest(plan, round, s));
        if (round->index == 0) {
            plan->source_rounds[s] = header->rounds_left + (header->token_count > 0);
        }
        if (header->token_count == 0) {
            continue;
        }
        WTN_TRY(
            wtn_recv_post(plan->comm, requests_of(plan, round, WTN_REQUEST_TOKENS_RECV) + s,
                          plan->expert_peers[s], plan->channel, WTN_TAG_TOKENS,
                          round->token_recv + (size_t)plan->shape.source_token_begin[s] * row_bytes,
                          (size_t)header->token_count * row_bytes, true));
    }
    round->tokens_posted = true;

fail:
    return status;
}

static void count_rounds(witan_plan_t *plan)
{
    plan->round_count = 1;
    for (int32_t j = 0; j < plan->ep; j++) {
        plan->round_count = wtn_max_i64(plan->round_count, plan->send_rounds[j]);
        plan->round_count = wtn_max_i64(plan->round_count, (int64_t)plan->source_rounds[j]);
    }
}

witan_status_t wtn_round_wait(witan_plan_t *plan, int64_t index)
{
    wtn_round_t   *round    = wtn_round_at(plan, index);
    uint64_t       deadline = wtn_deadline(plan->comm);
    witan_status_t status   = round->poll_status;

    if (status != WITAN_OK) {
        return status;
    }
    if (!round->tokens_posted) {
        WTN_TRY(wtn_wait(plan->comm, requests_of(plan, round, WTN_REQUEST_MANIFEST_RECV),
                         (size_t)plan->ep, "dispatch: counts", deadline, plan->watch));
        WTN_TRY(post_tokens(plan, round));
    }
    WTN_TRY(wtn_wait(plan->comm, requests_of(plan, round, WTN_REQUEST_TOKENS_RECV),
                     (size_t)plan->ep, "dispatch: tokens", deadline, plan->watch));
    if (index == 0) {
        count_rounds(plan);
    }
    for (int32_t s = 0; s < plan->ep; s++) {
        plan->recv_token_count += round->headers[s].token_count;
        plan->recv_row_count += round->headers[s].row_count;
    }

fail:
    return status;
}

/* Move one round on without waiting: a coming one towards its tokens, one computed towards its
 * rows. */
static witan_status_t advance(witan_plan_t *plan, wtn_round_t *round)
{
    size_t         ep   = (size_t)plan->ep;
    bool           done = false;
    witan_status_t status;

    if (round->index <= plan->computing) {
        return wtn_progress(plan->comm, requests_of(plan, round, WTN_REQUEST_ROWS_SEND), 2 * ep,
                            &done);
    }
    WTN_TRY(
        wtn_progress(plan->comm, requests_of(plan, round, WTN_REQUEST_MANIFEST_RECV), ep, &done));
    if (done && !round->tokens_posted) {
        return post_tokens(plan, round);
    }
    WTN_TRY(wtn_progress(plan->comm, requests_of(plan, round, WTN_REQUEST_TOKENS_RECV), ep, &done));

fail:
    return status;
}

void wtn_round_poll(void *context)
{
    witan_plan_t *plan = context;
    uint64_t      now  = wtn_now_ns();

    if (now - plan->poll_ns < POLL_PERIOD_NS) {
        return;
    }
    for (int32_t i = 0; i < plan->shape.round_slots; i++) {
        wtn_round_t *round = &plan->rounds[i];

        if (round->index >= 0 && round->poll_status == WITAN_OK) {
            round->poll_status = advance(plan, round);
        }
    }
    plan->poll_ns = now;
}

/* The rows of all sources, in order of source, token and k. */
static int64_t list_rows(witan_plan_t *plan, wtn_round_t *round)
{
    const wtn_placement_t *placement = &plan->layer->layout.placement;
    int64_t                count     = 0;

    for (int32_t s = 0; s < plan->ep; s++) {
        const wtn_wire_row_t *wire  = wire_rows(plan, round, s);
        const wtn_piece_t    *own   = &round->pieces[plan->me];
        bool                  local = s == plan->me && !is_reduced(plan);
        int64_t               out   = local ? own->row_begin : row_slot(plan, round, s);

        for (int64_t i = 0; i < round->headers[s].row_count; i++, count++) {
            round->row_in[count]     = plan->ep == 1
                                           ? plan->send_token[own->token_begin + wire[i].token]
                                           : plan->shape.source_token_begin[s] + wire[i].token;
            round->row_out[count]    = out + i;
            round->row_expert[count] = placement->slot_local[wire[i].expert];
        }
    }
    return count;
}

/* Reduced mode: sum the rows of each token here, in order of k, and keep one row per token. */
static witan_status_t reduce_rows(witan_plan_t *plan, wtn_round_t *round, int32_t s)
{
    const wtn_layout_t   *layout = &plan->layer->layout;
    const wtn_wire_row_t *wire   = wire_rows(plan, round, s);
    int32_t               topk   = layout->config.topk;
    int64_t               tokens = round->headers[s].token_count, first = row_slot(plan, round, s);
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
    for (int64_t i = 0; i < round->headers[s].row_count; i++) {
        slot = i > 0 && wire[i].token == wire[i - 1].token ? slot + 1 : 0;
        index[wire[i].token * (int64_t)topk + slot]   = first + i;
        weights[wire[i].token * (int64_t)topk + slot] = wire[i].weight;
    }
    args.out = s == plan->me ? plan->rows + (size_t)round->pieces[s].token_begin * layout->row_bytes
                             : partial_slot(plan, round, s);
    return layout->backend->combine(&args);
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
    for (int32_t s = 0; s < plan->ep && is_reduced(plan); s++) {
        WTN_TRY(reduce_rows(plan, round, s));
    }
    return WITAN_OK;

fail:
    return status;
}

witan_status_t wtn_round_return(witan_plan_t *plan, int64_t index)
{
    wtn_round_t   *round     = wtn_round_at(plan, index);
    size_t         row_bytes = plan->layer->layout.row_bytes;
    witan_status_t status    = WITAN_OK;

    for (int32_t step = 1; step < plan->ep; step++) {
        int32_t s = (plan->me + step) % plan->ep;
        int64_t count =
            is_reduced(plan) ? round->headers[s].token_count : round->headers[s].row_count;
        char *rows = is_reduced(plan) ? partial_slot(plan, round, s)
                                      : plan->rows + (size_t)row_slot(plan, round, s) * row_bytes;

        if (count == 0) {
            continue;
        }
        plan->rank_send_bytes[s] += count * (int64_t)row_bytes;
        WTN_TRY(wtn_send_post(plan->comm, requests_of(plan, round, WTN_REQUEST_ROWS_SEND) + s,
                              plan->expert_peers[s], plan->channel, WTN_TAG_ROWS, rows,
                              (size_t)count * row_bytes));
    }

fail:
    return status;
}

witan_status_t wtn_round_drain(witan_plan_t *plan, wtn_round_t *round)
{
    witan_status_t status;

    if (round->index < 0 || plan->ep == 1) {
        round->index = -1;
        return WITAN_OK;
    }
    WTN_TRY(round->poll_status);
    WTN_TRY(wtn_wait(plan->comm, round->requests, WTN_REQUEST_KINDS * (size_t)plan->ep, "combine",
                     wtn_deadline(plan->comm), plan->watch));
    round->index = -1;

fail:
    return status;
}

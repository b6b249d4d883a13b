/* One round of dispatch: pieces out, pieces in, experts, rows back. Every stage only posts messages
 * or waits for posted ones, so two rounds can be in flight: the experts of one overlap the transfer
 * of the next, which a poll moves on between tiles. */
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/round.h"

#define POLL_PERIOD_NS 20000u /* from the end of a poll to the next */

wtn_round_t *wtn_round_at(witan_plan_t *plan, int64_t index)
{
    return &plan->rounds[index % plan->shape.round_slots];
}

/* ---- pieces out ---- */

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

/* Tokens for experts at home: same manifest, no message. */
static witan_status_t keep_own_piece(witan_plan_t *plan, wtn_round_t *round)
{
    const wtn_piece_t *piece = &round->pieces[plan->home];

    if (!round->expected[plan->me]) {
        return WITAN_OK;
    }
    (void)wtn_piece_write(plan, piece, round->index, plan->home,
                          wtn_piece_slot(plan, round, plan->me));
    return plan->ep == 1 ? WITAN_OK
                         : gather_tokens(plan, piece, wtn_piece_tokens(plan, round, plan->me));
}

/* Receive what a piece brings back, straight into its place. */
static witan_status_t post_return(witan_plan_t *plan, wtn_round_t *round, const wtn_piece_t *piece,
                                  int32_t relay)
{
    size_t  size  = plan->layer->layout.row_bytes;
    int64_t begin = wtn_round_is_reduced(plan) ? piece->token_begin : piece->row_begin;
    int64_t count = wtn_round_is_reduced(plan) ? piece->token_count : piece->row_count;

    return wtn_recv_post(plan->comm, wtn_round_requests(plan, round, WTN_REQUEST_ROWS_RECV) + relay,
                         plan->expert_peers[relay], plan->channel, WTN_TAG_ROWS,
                         plan->returned + (size_t)begin * size, (size_t)count * size, true);
}

static witan_status_t send_pieces(witan_plan_t *plan, wtn_round_t *round)
{
    const wtn_domains_t *domains   = &plan->shape.domains;
    size_t               row_bytes = plan->layer->layout.row_bytes;
    char                *manifest  = round->manifest_send;
    char                *tokens    = round->token_send;
    witan_status_t       status    = WITAN_OK;

    /* Each rank starts behind itself, so that not all send to rank 0 first. */
    for (int32_t step = 1; step < domains->count; step++) {
        int32_t      domain = (plan->home + step) % domains->count;
        int32_t      relay  = wtn_domain_relay(domains, plan->me, domain);
        wtn_piece_t *piece  = &round->pieces[domain];
        size_t       bytes, token_bytes = (size_t)piece->token_count * row_bytes;

        if (round->index > 0 && piece->token_count == 0) {
            continue;
        }
        bytes = wtn_piece_write(plan, piece, round->index, domain, manifest);
        WTN_TRY(wtn_send_post(plan->comm,
                              wtn_round_requests(plan, round, WTN_REQUEST_MANIFEST_SEND) + relay,
                              plan->expert_peers[relay], plan->channel, WTN_TAG_MANIFEST, manifest,
                              bytes));
        manifest += bytes;
        plan->rank_send_bytes[relay] += (int64_t)(bytes + token_bytes);
        if (piece->token_count == 0) {
            continue;
        }
        WTN_TRY(post_return(plan, round, piece, relay));
        WTN_TRY(gather_tokens(plan, piece, tokens));
        WTN_TRY(wtn_send_post(plan->comm,
                              wtn_round_requests(plan, round, WTN_REQUEST_TOKENS_SEND) + relay,
                              plan->expert_peers[relay], plan->channel, WTN_TAG_TOKENS, tokens,
                              token_bytes));
        tokens += token_bytes;
    }

fail:
    return status;
}

/* ---- pieces in ---- */

static witan_status_t expect_pieces(witan_plan_t *plan, wtn_round_t *round)
{
    witan_status_t status = WITAN_OK;

    for (int32_t s = 0; s < plan->ep; s++) {
        round->expected[s] = wtn_round_takes(plan, s) &&
                             (round->index == 0 || plan->source_rounds[s] > (uint64_t)round->index);
        if (wtn_round_takes(plan, s) && !round->expected[s]) {
            wtn_piece_clear(plan, round, s);
        }
        if (s != plan->me && round->expected[s]) {
            WTN_TRY(wtn_recv_post(plan->comm,
                                  wtn_round_requests(plan, round, WTN_REQUEST_MANIFEST_RECV) + s,
                                  plan->expert_peers[s], plan->channel, WTN_TAG_MANIFEST,
                                  wtn_piece_slot(plan, round, s),
                                  wtn_piece_manifest_bytes_max(plan, s), false));
        }
    }

fail:
    return status;
}

/* From each mate that wtn_round_takes in pieces in this round, word that they are there. */
static witan_status_t expect_arrivals(witan_plan_t *plan, wtn_round_t *round)
{
    witan_status_t status = WITAN_OK;

    for (int32_t i = wtn_round_mate_begin(plan); i < wtn_round_mate_end(plan); i++) {
        int32_t mate = plan->shape.domains.members[i];

        if (mate != plan->me && (round->index == 0 || plan->relay_rounds[mate] > round->index)) {
            WTN_TRY(wtn_recv_post(plan->comm,
                                  wtn_round_requests(plan, round, WTN_REQUEST_ARRIVAL_RECV) + mate,
                                  plan->expert_peers[mate], plan->channel, WTN_TAG_ARRIVAL,
                                  &round->arrivals[mate], sizeof(wtn_notice_t), true));
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
    round->tokens_posted = round->arrived = round->computed = round->returned = false;
    round->poll_status                                                        = WITAN_OK;
    WTN_TRY(expect_pieces(plan, round));
    WTN_TRY(expect_arrivals(plan, round));
    for (int32_t d = 0; d < plan->shape.domains.count; d++) {
        round->pieces[d] = wtn_schedule_cut(plan, d, plan->next_token[d]);
        plan->next_token[d] += round->pieces[d].token_count;
    }
    WTN_TRY(send_pieces(plan, round));
    WTN_TRY(keep_own_piece(plan, round));
    plan->round_next++;

fail:
    return status;
}

/* All manifests are here: receive exactly what they announce. */
static witan_status_t post_tokens(witan_plan_t *plan, wtn_round_t *round)
{
    const wtn_request_t *manifests = wtn_round_requests(plan, round, WTN_REQUEST_MANIFEST_RECV);
    size_t               row_bytes = plan->layer->layout.row_bytes;
    witan_status_t       status    = WITAN_OK;

    for (int32_t s = 0; s < plan->ep; s++) {
        wtn_manifest_t header;

        if (s == plan->me || !round->expected[s]) {
            continue;
        }
        WTN_TRY(wtn_piece_check(plan, round, s, manifests[s].bytes, &header));
        if (round->index == 0) {
            plan->source_rounds[s] = header.rounds_left + (header.token_count > 0);
        }
        if (header.token_count == 0) {
            continue;
        }
        WTN_TRY(wtn_recv_post(plan->comm,
                              wtn_round_requests(plan, round, WTN_REQUEST_TOKENS_RECV) + s,
                              plan->expert_peers[s], plan->channel, WTN_TAG_TOKENS,
                              wtn_piece_tokens(plan, round, s),
                              (size_t)header.token_count * row_bytes, true));
    }
    round->tokens_posted = true;

fail:
    return status;
}

/* What this rank wtn_round_takes in is in the window: tell the mates, and wait for their rows. */
static witan_status_t announce(witan_plan_t *plan, wtn_round_t *round)
{
    uint32_t       rounds = 0;
    witan_status_t status = WITAN_OK;

    round->arrived = true;
    for (int32_t s = 0; s < plan->ep; s++) {
        if (wtn_round_takes(plan, s) && plan->source_rounds[s] > rounds) {
            rounds = (uint32_t)plan->source_rounds[s];
        }
    }
    plan->relay_rounds[plan->me] = rounds;
    if (round->index > 0 && rounds <= round->index) {
        return WITAN_OK;
    }
    *round->notice =
        (wtn_notice_t){.step = plan->step, .round = (uint32_t)round->index, .rounds = rounds};
    atomic_thread_fence(memory_order_release);
    for (int32_t i = wtn_round_mate_begin(plan); i < wtn_round_mate_end(plan); i++) {
        int32_t mate = plan->shape.domains.members[i], rank = plan->expert_peers[mate];

        if (mate == plan->me) {
            continue;
        }
        if (rounds > round->index) {
            WTN_TRY(wtn_recv_post(plan->comm,
                                  wtn_round_requests(plan, round, WTN_REQUEST_END_RECV) + mate,
                                  rank, plan->channel, WTN_TAG_END, &round->ends[mate],
                                  sizeof(wtn_notice_t), true));
        }
        WTN_TRY(wtn_send_post(plan->comm,
                              wtn_round_requests(plan, round, WTN_REQUEST_ARRIVAL_SEND) + mate,
                              rank, plan->channel, WTN_TAG_ARRIVAL, round->notice,
                              sizeof(wtn_notice_t)));
    }

fail:
    return status;
}

witan_status_t wtn_round_check_notices(const witan_plan_t *plan, const wtn_round_t *round,
                                       const wtn_notice_t *notices)
{
    for (int32_t i = wtn_round_mate_begin(plan); i < wtn_round_mate_end(plan); i++) {
        int32_t             mate   = plan->shape.domains.members[i];
        const wtn_notice_t *notice = &notices[mate];

        if (mate != plan->me && (round->index == 0 || plan->relay_rounds[mate] > round->index) &&
            (notice->step != plan->step || notice->round != (uint32_t)round->index)) {
            return WTN_ERROR(WITAN_E_MISMATCH,
                             "dispatch: rank %" PRId32 " is at step %" PRIu64 " round %" PRIu32
                             ", this rank at step %" PRIu64 " round %" PRId64,
                             plan->expert_peers[mate], notice->step, notice->round, plan->step,
                             round->index);
        }
    }
    return WITAN_OK;
}

/* After the first round all know how many there are. */
static void count_rounds(witan_plan_t *plan, const wtn_round_t *round)
{
    plan->round_count = 1;
    for (int32_t d = 0; d < plan->shape.domains.count; d++) {
        plan->round_count = wtn_max_i64(plan->round_count, plan->send_rounds[d]);
    }
    for (int32_t i = wtn_round_mate_begin(plan); i < wtn_round_mate_end(plan); i++) {
        int32_t mate = plan->shape.domains.members[i];

        if (mate != plan->me) {
            plan->relay_rounds[mate] = round->arrivals[mate].rounds;
        }
        plan->round_count = wtn_max_i64(plan->round_count, plan->relay_rounds[mate]);
    }
}

static void poll_returns(void *context);

witan_status_t wtn_round_wait_for(witan_plan_t *plan, wtn_request_t *requests, size_t count,
                                  const char *phase, uint64_t deadline)
{
    return wtn_wait_polling(plan->comm, requests, count, phase, deadline, plan->watch,
                            plan->shape.round_slots > 1 ? poll_returns : NULL, plan);
}

/* Who waits for a rank that may itself wait for a silent one, in another node, waits longer: the
 * other is to say who it is. */
static uint64_t put_off(const witan_plan_t *plan, uint64_t deadline)
{
    const wtn_domains_t *domains = &plan->shape.domains;
    uint64_t             more    = plan->comm->timeout_ns / 4;
    bool                 relayed = domains->count > 1 && domains->count < domains->ranks;

    return relayed && deadline < UINT64_MAX - more ? deadline + more : deadline;
}

witan_status_t wtn_round_wait(witan_plan_t *plan, int64_t index)
{
    wtn_round_t   *round    = wtn_round_at(plan, index);
    uint64_t       deadline = wtn_deadline(plan->comm);
    witan_status_t status   = round->poll_status;

    WTN_TRY(status);
    if (!round->tokens_posted) {
        WTN_TRY(wtn_round_wait_for(plan, wtn_round_requests(plan, round, WTN_REQUEST_MANIFEST_RECV),
                                   (size_t)plan->ep, "dispatch: counts", deadline));
        WTN_TRY(post_tokens(plan, round));
    }
    WTN_TRY(wtn_round_wait_for(plan, wtn_round_requests(plan, round, WTN_REQUEST_TOKENS_RECV),
                               (size_t)plan->ep, "dispatch: tokens", deadline));
    if (!round->arrived) {
        WTN_TRY(announce(plan, round));
    }
    WTN_TRY(wtn_round_wait_for(plan, wtn_round_requests(plan, round, WTN_REQUEST_ARRIVAL_RECV),
                               (size_t)plan->ep, "dispatch: tokens of the node",
                               put_off(plan, deadline)));
    atomic_thread_fence(memory_order_acquire);
    WTN_TRY(wtn_round_check_notices(plan, round, round->arrivals));
    if (index == 0) {
        count_rounds(plan, round);
    }

fail:
    return status;
}

witan_status_t wtn_round_drain(witan_plan_t *plan, wtn_round_t *round)
{
    witan_status_t status = WITAN_OK;

    if (round->index < 0) {
        return WITAN_OK;
    }
    WTN_TRY(round->poll_status);
    if (!round->returned) {
        WTN_TRY(wtn_round_return(plan, round->index, true));
    }
    if (plan->ep > 1) {
        WTN_TRY(wtn_round_wait_for(plan, round->requests, WTN_REQUEST_KINDS * (size_t)plan->ep,
                                   "combine", put_off(plan, wtn_deadline(plan->comm))));
    }
    WTN_TRY(round->poll_status); /* of the rows that a poll sent back meanwhile */
    round->index = -1;

fail:
    return status;
}

/* ---- meanwhile ---- */

/* Move one round on without waiting: a coming one towards its tokens, one computed towards its
 * rows. */
static witan_status_t advance(witan_plan_t *plan, wtn_round_t *round)
{
    size_t         ep   = (size_t)plan->ep;
    bool           done = false;
    witan_status_t status;

    if (round->computed && !round->returned) {
        return wtn_round_return(plan, round->index, false);
    }
    if (round->index <= plan->computing) {
        return wtn_progress(plan->comm, wtn_round_requests(plan, round, WTN_REQUEST_ROWS_SEND),
                            2 * ep, &done);
    }
    if (!round->tokens_posted) {
        WTN_TRY(wtn_progress(plan->comm, wtn_round_requests(plan, round, WTN_REQUEST_MANIFEST_RECV),
                             ep, &done));
        return done ? post_tokens(plan, round) : WITAN_OK;
    }
    if (!round->arrived) {
        WTN_TRY(wtn_progress(plan->comm, wtn_round_requests(plan, round, WTN_REQUEST_TOKENS_RECV),
                             ep, &done));
        return done ? announce(plan, round) : WITAN_OK;
    }
    WTN_TRY(wtn_progress(plan->comm, wtn_round_requests(plan, round, WTN_REQUEST_ARRIVAL_RECV), ep,
                         &done));

fail:
    return status;
}

/* Each round, or each that only waits for its mates to send rows back. */
static void poll_rounds(witan_plan_t *plan, bool returns_only)
{
    if (wtn_now_ns() - plan->poll_ns < POLL_PERIOD_NS) {
        return;
    }
    for (int64_t i = plan->round_next - plan->shape.round_slots; i < plan->round_next; i++) {
        wtn_round_t *round = i < 0 ? NULL : wtn_round_at(plan, i);

        if (round != NULL && round->index >= 0 && round->poll_status == WITAN_OK &&
            (!returns_only || (round->computed && !round->returned))) {
            round->poll_status = advance(plan, round);
        }
    }
    plan->poll_ns = wtn_now_ns();
}

void wtn_round_poll(void *context)
{
    poll_rounds(context, false);
}

static void poll_returns(void *context)
{
    poll_rounds(context, true);
}

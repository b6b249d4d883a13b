/* Live rebalancing: weights move in pieces between steps, then all ranks swap at once.
 *
 * The slots of a layer keep their places, so only their experts and weights change. What arrives
 * lies in spare weights beside the old ones until the commit; that exchanges pointers and copies
 * nothing. All ranks list the same moves in the same order and make theirs one after the other, so
 * the first move not yet made can always be made, and pieces of a pair need no tags. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/rebalance.h"

#define TAG_WEIGHTS WTN_TAG_TOKENS /* on a channel of its own */

/* ---- moving ---- */

static char *weights_at(const witan_rebalance_t *rebalance, int32_t index)
{
    return rebalance->layer->layout.backend->ffn_weights(rebalance->layer->experts, index);
}

/* Where the weights of a move lie on this rank: those read, or the spare ones they go to. */
static char *weights_of(const witan_rebalance_t *rebalance, const wtn_move_t *move, bool read)
{
    int32_t spare = rebalance->layer->layout.local_count + move->spare;

    return weights_at(rebalance, read ? move->from_local : spare);
}

/* The move that a flow goes on with, or NULL at its end. */
static const wtn_move_t *next_move(const witan_rebalance_t *rebalance, wtn_flow_t *flow)
{
    int32_t me = rebalance->layer->layout.folding.expert_index;

    for (; flow->next < rebalance->moves.count; flow->next++, flow->offset = 0) {
        const wtn_move_t *move = &rebalance->moves.moves[flow->next];
        bool              mine = flow->is_send ? move->from == me : move->to == me;

        if (mine && move->from != move->to && flow->offset < rebalance->expert_bytes) {
            return move;
        }
    }
    return NULL;
}

static size_t active_count(const wtn_flow_t *flow)
{
    size_t count = 0;

    for (int32_t i = 0; i < WTN_REBALANCE_WINDOW; i++) {
        count += flow->requests[i].active;
    }
    return count;
}

static witan_status_t post_piece(witan_rebalance_t *rebalance, wtn_flow_t *flow,
                                 const wtn_move_t *move, wtn_request_t *request)
{
    size_t  left  = rebalance->expert_bytes - flow->offset;
    size_t  bytes = left < rebalance->piece_bytes ? left : rebalance->piece_bytes;
    char   *data  = weights_of(rebalance, move, flow->is_send) + flow->offset;
    int32_t peer =
        wtn_group_expert_peer(rebalance->layer->group, flow->is_send ? move->to : move->from);

    flow->offset += bytes;
    flow->bytes += (int64_t)bytes;
    return flow->is_send ? wtn_send_post(rebalance->comm, request, peer, rebalance->channel,
                                         TAG_WEIGHTS, data, bytes)
                         : wtn_recv_post(rebalance->comm, request, peer, rebalance->channel,
                                         TAG_WEIGHTS, data, bytes, true);
}

/* What is over makes room for the next pieces. */
static witan_status_t advance_flow(witan_rebalance_t *rebalance, wtn_flow_t *flow)
{
    const wtn_move_t *move;
    size_t            before = active_count(flow);
    bool              idle;
    witan_status_t    status;

    WTN_TRY(wtn_progress(rebalance->comm, flow->requests, WTN_REBALANCE_WINDOW, &idle));
    if (active_count(flow) < before) {
        rebalance->idle_ns = 0;
    }
    for (int32_t i = 0; i < WTN_REBALANCE_WINDOW; i++) {
        if (!flow->requests[i].active) {
            move = next_move(rebalance, flow);
            if (move == NULL) {
                break;
            }
            WTN_TRY(post_piece(rebalance, flow, move, &flow->requests[i]));
        }
    }

fail:
    return status;
}

/* A second copy of an expert on this rank. */
static void advance_copies(witan_rebalance_t *rebalance)
{
    int32_t me   = rebalance->layer->layout.folding.expert_index;
    size_t  room = WTN_REBALANCE_WINDOW * rebalance->piece_bytes;

    while (room > 0 && rebalance->copy_next < rebalance->moves.count) {
        const wtn_move_t *move  = &rebalance->moves.moves[rebalance->copy_next];
        size_t            left  = rebalance->expert_bytes - rebalance->copy_offset;
        size_t            bytes = left < room ? left : room;

        if (move->to != me || move->from != me) {
            rebalance->copy_next++;
            continue;
        }
        memcpy(weights_of(rebalance, move, false) + rebalance->copy_offset,
               weights_of(rebalance, move, true) + rebalance->copy_offset, bytes);
        room -= bytes;
        rebalance->copy_offset += bytes;
        if (rebalance->copy_offset == rebalance->expert_bytes) {
            rebalance->copy_offset = 0;
            rebalance->copy_next++;
        }
    }
}

/* Nothing has passed for longer than the deadline, though something is under way. */
static witan_status_t check_idle(witan_rebalance_t *rebalance)
{
    wtn_comm_t     *comm    = rebalance->comm;
    uint64_t        now     = wtn_now_ns();
    wtn_rank_list_t missing = {0};

    if (active_count(&rebalance->in) + active_count(&rebalance->out) == 0) {
        rebalance->idle_ns = 0;
        return WITAN_OK;
    }
    rebalance->idle_ns = rebalance->idle_ns == 0 ? now : rebalance->idle_ns;
    if (now - rebalance->idle_ns < comm->timeout_ns) {
        return WITAN_OK;
    }
    for (int32_t rank = 0; rank < comm->size; rank++) {
        bool awaited = false;

        for (int32_t i = 0; i < WTN_REBALANCE_WINDOW; i++) {
            const wtn_request_t *in  = &rebalance->in.requests[i],
                                *out = &rebalance->out.requests[i];

            awaited =
                awaited || (in->active && in->peer == rank) || (out->active && out->peer == rank);
        }
        if (awaited) {
            wtn_rank_list_add(&missing, rank);
        }
    }
    comm->broken = true;
    return WTN_ERROR(WITAN_E_TIMEOUT, "rebalance: not heard from %s within %g s", missing.text,
                     (double)comm->timeout_ns / 1e9);
}

static bool is_done(witan_rebalance_t *rebalance)
{
    return active_count(&rebalance->in) + active_count(&rebalance->out) == 0 &&
           next_move(rebalance, &rebalance->in) == NULL &&
           next_move(rebalance, &rebalance->out) == NULL &&
           rebalance->copy_next == rebalance->moves.count;
}

/* Peers learn what only this rank has found. Value is `status`. */
static witan_status_t give_up(witan_rebalance_t *rebalance, witan_status_t status)
{
    if (status != WITAN_E_PEER) {
        wtn_watch_raise(rebalance->watch, status);
    }
    rebalance->state = WTN_REBALANCE_BROKEN;
    if (rebalance->rank_count > 1) {
        rebalance->comm->broken = true; /* as on the peers: no close waits for another */
    }
    return status;
}

witan_status_t witan_rebalance_advance(witan_rebalance_t *rebalance, bool *done)
{
    bool           ignored;
    witan_status_t status;

    if (rebalance == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "rebalance: rebalance is NULL");
    }
    done  = done == NULL ? &ignored : done;
    *done = rebalance->state == WTN_REBALANCE_COMMITTED;
    if (rebalance->state == WTN_REBALANCE_BROKEN) {
        return WTN_ERROR(WITAN_E_STATE, "rebalance: an earlier call failed");
    }
    if (*done) {
        return WITAN_OK;
    }
    WTN_TRY(wtn_watch_check(rebalance->watch));
    WTN_TRY(advance_flow(rebalance, &rebalance->in));
    WTN_TRY(advance_flow(rebalance, &rebalance->out));
    advance_copies(rebalance);
    WTN_TRY(check_idle(rebalance));
    *done = is_done(rebalance);
    return WITAN_OK;

fail:
    return give_up(rebalance, status);
}

/* ---- commit ---- */

/* Every slot's weights come to its index; what is left over is behind them. */
static void exchange_weights(witan_rebalance_t *rebalance)
{
    const wtn_layout_t *layout = &rebalance->layer->layout;
    int32_t             me     = layout->folding.expert_index;
    int32_t             count  = layout->local_count + rebalance->moves.incoming[me];

    for (int32_t i = 0; i < count; i++) {
        rebalance->at[i] = rebalance->held[i] = i; /* weights i are at place at[i] */
    }
    for (int32_t i = 0; i < layout->local_count; i++) {
        int32_t wanted = rebalance->moves.source[layout->local_slots[i]];
        int32_t place = rebalance->at[wanted], other = rebalance->held[i];

        layout->backend->ffn_exchange(rebalance->layer->experts, i, place);
        rebalance->at[wanted]  = i;
        rebalance->held[i]     = wanted;
        rebalance->at[other]   = place;
        rebalance->held[place] = other;
    }
}

/* Nothing here can fail. */
static void swap(witan_rebalance_t *rebalance)
{
    witan_layer_t        *layer   = rebalance->layer;
    wtn_layout_t         *layout  = &layer->layout;
    const wtn_placement_t old     = layout->placement;
    int32_t              *experts = layout->local_experts;

    if (layer->experts != NULL) {
        exchange_weights(rebalance);
        layout->backend->ffn_release(layer->experts);
    }
    layout->placement     = rebalance->placement;
    layout->local_experts = rebalance->experts;
    rebalance->placement  = old;
    rebalance->experts    = experts;
    rebalance->state      = WTN_REBALANCE_COMMITTED;
    layer->rebalance      = NULL;
    wtn_layout_point(layout);
}

/* Every rank's vote. One that has given up says so by a notice before it would vote, so that ends
 * this without doubt; where votes are missing, others may have them all. */
static witan_status_t gather_votes(witan_rebalance_t *rebalance)
{
    wtn_comm_t    *comm = rebalance->comm;
    witan_status_t status;

    for (int32_t i = 0; i < rebalance->rank_count; i++) {
        wtn_request_t *pair = rebalance->vote_requests + 2 * (size_t)i;
        int32_t        rank = rebalance->ranks[i];

        if (rank == comm->rank) {
            rebalance->votes[i] = rebalance->mine;
            continue;
        }
        WTN_TRY(wtn_recv_post(comm, pair, rank, rebalance->channel, WTN_TAG_GATHER,
                              &rebalance->votes[i], sizeof(wtn_vote_t), true));
        WTN_TRY(wtn_send_post(comm, pair + 1, rank, rebalance->channel, WTN_TAG_GATHER,
                              &rebalance->mine, sizeof(wtn_vote_t)));
    }
    WTN_TRY(wtn_wait(comm, rebalance->vote_requests, 2 * (size_t)rebalance->rank_count,
                     "rebalance: commit", wtn_deadline(comm), rebalance->watch));
    return WITAN_OK;

fail:
    rebalance->state = WTN_REBALANCE_BROKEN;
    if (status == WITAN_E_TIMEOUT && wtn_watch_check(rebalance->watch) != WITAN_OK) {
        status = WITAN_E_PEER; /* the time-out of one that has not voted, by its notice */
    }
    if (status != WITAN_E_PEER) {
        rebalance->layer->doubt = true;
    }
    return status;
}

/* *committed: all are done. */
static witan_status_t count_votes(const witan_rebalance_t *rebalance, bool *committed)
{
    int32_t busy_rank = -1;

    *committed = true;
    for (int32_t i = 0; i < rebalance->rank_count; i++) {
        *committed = *committed && rebalance->votes[i].done != 0;
        if (rebalance->votes[i].busy != 0 && busy_rank < 0) {
            busy_rank = rebalance->ranks[i];
        }
    }
    if (busy_rank < 0) {
        return WITAN_OK;
    }
    *committed = false;
    return WTN_ERROR(rebalance->mine.busy != 0 ? WITAN_E_STATE : WITAN_E_PEER,
                     "rebalance: commit between the steps of a plan, on rank %" PRId32, busy_rank);
}

witan_status_t witan_rebalance_commit(witan_rebalance_t *rebalance, bool *committed)
{
    bool           done;
    witan_status_t status;

    if (rebalance == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "rebalance: rebalance is NULL");
    }
    if (committed == NULL) {
        return give_up(rebalance, WTN_ERROR(WITAN_E_ARGUMENT, "rebalance: committed is NULL"));
    }
    *committed = false;
    WTN_TRY(witan_rebalance_advance(rebalance, &done));
    if (rebalance->state == WTN_REBALANCE_COMMITTED) {
        return WTN_ERROR(WITAN_E_STATE, "rebalance: it is committed already");
    }
    rebalance->mine =
        (wtn_vote_t){.done = done, .busy = atomic_load(&rebalance->layer->busy_plans)};
    WTN_TRY(gather_votes(rebalance));
    WTN_TRY(count_votes(rebalance, committed));
    if (*committed) {
        swap(rebalance);
    }

fail:
    return status;
}

/* ---- the rest ---- */

static int64_t completed(const wtn_flow_t *flow)
{
    int64_t bytes = flow->bytes;

    for (int32_t i = 0; i < WTN_REBALANCE_WINDOW; i++) {
        bytes -= flow->requests[i].active ? (int64_t)flow->requests[i].bytes : 0;
    }
    return bytes;
}

witan_status_t witan_rebalance_info(const witan_rebalance_t *rebalance,
                                    witan_rebalance_info_t  *info)
{
    if (rebalance == NULL || info == NULL || info->struct_bytes != sizeof(*info)) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "rebalance: null pointer or wrong struct_bytes");
    }
    wtn_rebalance_bytes(rebalance->layer, &rebalance->moves, info);
    info->recv_bytes_completed = completed(&rebalance->in);
    info->send_bytes_completed = completed(&rebalance->out);
    return WITAN_OK;
}

static void stop(witan_rebalance_t *rebalance)
{
    witan_layer_t *layer   = rebalance->layer;
    wtn_remains_t *remains = &layer->remains; /* perhaps of an earlier one, too */

    (void)wtn_cancel(rebalance->comm, rebalance->in.requests, WTN_REBALANCE_WINDOW, remains);
    (void)wtn_cancel(rebalance->comm, rebalance->out.requests, WTN_REBALANCE_WINDOW, remains);
    if (remains->count == 0 && !remains->unknown && rebalance->reserved &&
        rebalance->state != WTN_REBALANCE_COMMITTED) {
        layer->layout.backend->ffn_release(layer->experts);
    }
    if (layer->rebalance == rebalance) {
        layer->rebalance = NULL;
    }
}

static void free_votes(void *memory)
{
    witan_rebalance_t *rebalance = memory;

    free(rebalance->votes);
    free(rebalance);
}

void witan_rebalance_destroy(witan_rebalance_t *rebalance)
{
    char          text[WTN_ERROR_TEXT_BYTES];
    wtn_remains_t remains = {0};

    if (rebalance == NULL) {
        return;
    }
    (void)snprintf(text, sizeof(text), "%s", witan_last_error());
    if (rebalance->state == WTN_REBALANCE_MOVING) {
        (void)give_up(rebalance, WTN_ERROR(WITAN_E_STATE, "rebalance: given up"));
        (void)WTN_ERROR(WITAN_E_STATE, "%s", text); /* the caller's last error stays */
    }
    stop(rebalance);
    if (rebalance->vote_requests != NULL) {
        (void)wtn_cancel(rebalance->comm, rebalance->vote_requests,
                         2 * (size_t)rebalance->rank_count, &remains);
    }
    wtn_watch_close(rebalance->watch);
    if (rebalance->state != WTN_REBALANCE_COMMITTED) {
        wtn_leave_channel(rebalance->comm, rebalance->channel);
    }
    wtn_moves_free(&rebalance->moves);
    wtn_placement_free(&rebalance->placement);
    free(rebalance->ranks);
    free(rebalance->experts);
    free(rebalance->at);
    free(rebalance->held);
    free(rebalance->vote_requests);
    wtn_release(rebalance->comm, &remains, free_votes, rebalance);
}

/* Roll calls over the hosts' messages. */
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>

#include "comm/roll.h"
#include "core/error.h"
#include "core/util.h"

#define GRACE_NS 1000000000u /* for answers; who waits looks for calls far more often */

struct wtn_roll {
    wtn_comm_t     *comm;
    int32_t         channel;
    int32_t         peer_count; /* without this rank */
    wtn_request_t  *recvs, *sends;
    char           *heard; /* [peer_count] what comes in: nothing is said but that one is there */
    char            mark;
    bool            called;
    wtn_rank_list_t missing;
};

witan_status_t wtn_roll_open(wtn_roll_t **out, wtn_comm_t *comm, int32_t channel,
                             const int32_t *peers, int32_t peer_count)
{
    wtn_roll_t    *roll  = calloc(1, sizeof(*roll));
    size_t         count = (size_t)peer_count;
    witan_status_t status;

    *out = NULL;
    if (roll == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "roll: %zu bytes", sizeof(*roll));
    }
    roll->comm    = comm;
    roll->channel = channel;
    roll->recvs   = calloc(count + 1, sizeof(*roll->recvs));
    roll->sends   = calloc(count + 1, sizeof(*roll->sends));
    roll->heard   = calloc(count + 1, 1);
    if (roll->recvs == NULL || roll->sends == NULL || roll->heard == NULL) {
        wtn_roll_close(roll); /* nothing is posted, so nothing stays */
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
        return WTN_ERROR(WITAN_E_MEMORY, "roll: %zu bytes", count * sizeof(*roll->recvs));
    }
    for (int32_t i = 0; i < peer_count; i++) {
        if (peers[i] == comm->rank) {
            continue;
        }
        WTN_TRY(wtn_recv_post(comm, &roll->recvs[roll->peer_count], peers[i], channel, WTN_TAG_ROLL,
                              &roll->heard[roll->peer_count], 1, true));
        roll->peer_count++;
    }
    *out = roll;
    return WITAN_OK;

fail:
    wtn_roll_close(roll);
    return status;
}

bool wtn_roll_called(wtn_roll_t *roll)
{
    bool done;

    if (roll->called || roll->peer_count == 0 ||
        wtn_progress(roll->comm, roll->recvs, (size_t)roll->peer_count, &done) != WITAN_OK) {
        return roll->called;
    }
    for (int32_t i = 0; i < roll->peer_count; i++) {
        if (!roll->recvs[i].active) {
            return true;
        }
    }
    return false;
}

/* Post a mark to each peer and take in theirs, until all are in or the time of grace is over. */
static void exchange_marks(wtn_roll_t *roll)
{
    uint64_t deadline_ns = wtn_now_ns() + GRACE_NS;
    size_t   count       = (size_t)roll->peer_count;
    bool     sent = false, heard = count == 0;

    for (size_t i = 0; i < count; i++) {
        (void)wtn_send_post(roll->comm, &roll->sends[i], roll->recvs[i].peer, roll->channel,
                            WTN_TAG_ROLL, &roll->mark, 1);
    }
    while (!(sent && heard) && wtn_now_ns() < deadline_ns) {
        if (wtn_progress(roll->comm, roll->sends, count, &sent) != WITAN_OK ||
            wtn_progress(roll->comm, roll->recvs, count, &heard) != WITAN_OK) {
            break;
        }
        (void)sched_yield();
    }
}

/* Peers were listed in any order; the text names them ascending. */
static void list_missing(wtn_roll_t *roll)
{
    for (int32_t rank = 0; rank < roll->comm->size; rank++) {
        for (int32_t i = 0; i < roll->peer_count; i++) {
            if (roll->recvs[i].active && roll->recvs[i].peer == rank) {
                wtn_rank_list_add(&roll->missing, rank);
            }
        }
    }
}

witan_status_t wtn_roll_call(wtn_roll_t *roll, const char *phase)
{
    double seconds = (double)roll->comm->timeout_ns / 1e9;

    if (!roll->called) {
        exchange_marks(roll);
        list_missing(roll);
        roll->called       = true;
        roll->comm->broken = true;
    }
    if (roll->missing.count == 0) {
        return WTN_ERROR(WITAN_E_TIMEOUT, "%s: not done within %g s, though all peers answer",
                         phase, seconds);
    }
    return WTN_ERROR(WITAN_E_TIMEOUT, "%s: not heard from %s within %g s", phase,
                     roll->missing.text, seconds);
}

void wtn_roll_close(wtn_roll_t *roll)
{
    size_t count, left;

    if (roll == NULL) {
        return;
    }
    count = (size_t)roll->peer_count; /* 0 where an array is missing */
    left  = wtn_cancel(roll->comm, roll->sends, count);
    left += wtn_cancel(roll->comm, roll->recvs, count);
    free(roll->recvs);
    free(roll->sends);
    if (left > 0) {
        return; /* marks stay: a late peer may still read or write one */
    }
    free(roll->heard);
    free(roll);
}

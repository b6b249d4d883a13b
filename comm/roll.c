/* Roll calls over the hosts' messages. */
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>

#include "comm/mailbox.h"
#include "comm/roll.h"
#include "core/error.h"
#include "core/util.h"

#define GRACE_NS 1000000000u /* for answers; who waits looks for calls far more often */

struct wtn_roll {
    wtn_mailbox_t   box;
    char            mark; /* nothing is said but that one is there */
    bool            called;
    wtn_rank_list_t missing;
};

witan_status_t wtn_roll_open(wtn_roll_t **out, wtn_comm_t *comm, int32_t channel,
                             const int32_t *peers, int32_t peer_count)
{
    wtn_roll_t    *roll = calloc(1, sizeof(*roll));
    witan_status_t status;

    *out = NULL;
    if (roll == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "roll: %zu bytes", sizeof(*roll));
    }
    roll->box = (wtn_mailbox_t){.comm    = comm,
                                .name    = "roll",
                                .channel = channel,
                                .tag     = WTN_TAG_ROLL,
                                .bytes   = sizeof(roll->mark)};
    WTN_TRY(wtn_mailbox_open(&roll->box, peers, peer_count));
    *out = roll;
    return WITAN_OK;

fail:
    wtn_roll_close(roll);
    return status;
}

bool wtn_roll_called(wtn_roll_t *roll)
{
    const wtn_mailbox_t *box = &roll->box;
    bool                 done;

    if (roll->called || box->peer_count == 0 ||
        wtn_progress(box->comm, box->recvs, (size_t)box->peer_count, &done) != WITAN_OK) {
        return roll->called;
    }
    for (int32_t i = 0; i < box->peer_count; i++) {
        if (!box->recvs[i].active) {
            return true;
        }
    }
    return false;
}

/* Post a mark to each peer and take in theirs, until all are in or the time of grace is over. */
static void exchange_marks(wtn_roll_t *roll)
{
    uint64_t       deadline_ns = wtn_now_ns() + GRACE_NS;
    wtn_mailbox_t *box         = &roll->box;
    size_t         count       = (size_t)box->peer_count;
    bool           sent = false, heard = count == 0;

    for (int32_t i = 0; i < box->peer_count; i++) {
        wtn_mailbox_send(box, i, &roll->mark);
    }
    while (!(sent && heard) && wtn_now_ns() < deadline_ns) {
        if (wtn_progress(box->comm, box->sends, count, &sent) != WITAN_OK ||
            wtn_progress(box->comm, box->recvs, count, &heard) != WITAN_OK) {
            break;
        }
        (void)sched_yield();
    }
}

/* Peers were listed in any order; the text names them ascending. */
static void list_missing(wtn_roll_t *roll)
{
    const wtn_mailbox_t *box = &roll->box;

    for (int32_t rank = 0; rank < box->comm->size; rank++) {
        for (int32_t i = 0; i < box->peer_count; i++) {
            if (box->recvs[i].active && box->recvs[i].peer == rank) {
                wtn_rank_list_add(&roll->missing, rank);
            }
        }
    }
}

witan_status_t wtn_roll_call(wtn_roll_t *roll, const char *phase)
{
    wtn_comm_t *comm    = roll->box.comm;
    double      seconds = (double)comm->timeout_ns / 1e9;

    if (!roll->called) {
        exchange_marks(roll);
        list_missing(roll);
        roll->called = true;
        comm->broken = true;
    }
    if (roll->missing.count == 0) {
        return WTN_ERROR(WITAN_E_TIMEOUT, "%s: not done within %g s, though all peers answer",
                         phase, seconds);
    }
    return WTN_ERROR(WITAN_E_TIMEOUT, "%s: not heard from %s within %g s", phase,
                     roll->missing.text, seconds);
}

static void free_roll(void *memory)
{
    wtn_roll_t *roll = memory;

    free(roll->box.letters);
    free(roll);
}

void wtn_roll_close(wtn_roll_t *roll)
{
    if (roll != NULL) {
        wtn_mailbox_close(&roll->box, free_roll, roll);
    }
}

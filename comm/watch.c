/* Notices: how a rank that gives up a step tells its peers, whatever they wait for, and how one
 * that is long at work says that it still is. */
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "comm/mailbox.h"
#include "core/error.h"
#include "core/util.h"

#define BEATS_PER_TIMEOUT 8
#define RAISE_TIMEOUT_NS  1000000000u /* a peer that takes no notice for this long gets none */
#define SILENT_TIMEOUT_NS 100000000u  /* where one is known to take none */

typedef struct notice {
    int32_t status; /* WITAN_OK: a beat, no fault */
    int32_t unused;
    char    text[WTN_ERROR_TEXT_BYTES];
} notice_t;

struct wtn_watch {
    wtn_mailbox_t box;
    notice_t      mine;
    notice_t      beat;     /* never changes: a late send may still read it */
    uint64_t      beat_ns;  /* of the last beat sent */
    uint64_t      heard_ns; /* of the last beat received */
    bool          raised;
};

witan_status_t wtn_watch_open(wtn_watch_t **out, wtn_comm_t *comm, int32_t channel,
                              const int32_t *peers, int32_t peer_count)
{
    wtn_watch_t   *watch = calloc(1, sizeof(*watch));
    witan_status_t status;

    *out = NULL;
    if (watch == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "watch: %zu bytes", sizeof(*watch));
    }
    watch->box = (wtn_mailbox_t){.comm    = comm,
                                 .name    = "watch",
                                 .channel = channel,
                                 .tag     = WTN_TAG_FAULT,
                                 .bytes   = sizeof(notice_t)};
    WTN_TRY(wtn_mailbox_open(&watch->box, peers, peer_count));
    *out = watch;
    return WITAN_OK;

fail:
    wtn_watch_close(watch);
    return status;
}

void wtn_watch_raise(wtn_watch_t *watch, witan_status_t status)
{
    uint64_t deadline =
        wtn_now_ns() + (status == WITAN_E_TIMEOUT ? SILENT_TIMEOUT_NS : RAISE_TIMEOUT_NS);
    wtn_mailbox_t *box  = &watch->box;
    bool           done = false;

    if (watch->raised || box->peer_count == 0) {
        return;
    }
    watch->raised      = true;
    watch->mine.status = (int32_t)status;
    memcpy(watch->mine.text, witan_last_error(), strlen(witan_last_error()) + 1);
    for (int32_t i = 0; i < box->peer_count; i++) {
        wtn_mailbox_send(box, i, &watch->mine);
    }
    while (!done && wtn_now_ns() < deadline) {
        if (wtn_progress(box->comm, box->sends, (size_t)box->peer_count, &done) != WITAN_OK) {
            break;
        }
    }
    (void)WTN_ERROR(status, "%s", watch->mine.text); /* sending may have set another */
}

witan_status_t wtn_watch_check(wtn_watch_t *watch)
{
    wtn_mailbox_t *box = &watch->box;
    bool           done;

    if (box->peer_count == 0 ||
        wtn_progress(box->comm, box->recvs, (size_t)box->peer_count, &done) != WITAN_OK) {
        return WITAN_OK; /* a broken transport shows in the wait itself */
    }
    for (int32_t i = 0; i < box->peer_count; i++) {
        notice_t *notice = wtn_mailbox_letter(box, i);

        if (box->recvs[i].active) {
            continue;
        }
        if (notice->status != WITAN_OK) {
            notice->text[WTN_ERROR_TEXT_BYTES - 1] = '\0';
            /* Who fell silent for a peer is silent for all. */
            return WTN_ERROR(notice->status == WITAN_E_TIMEOUT ? WITAN_E_TIMEOUT : WITAN_E_PEER,
                             "rank %d: %.480s", (int)box->recvs[i].peer, notice->text);
        }
        if (wtn_mailbox_listen(box, i) != WITAN_OK) {
            return WITAN_OK; /* as above; and nothing is heard from now on */
        }
        watch->heard_ns = wtn_now_ns();
    }
    return WITAN_OK;
}

void wtn_watch_beat(wtn_watch_t *watch)
{
    wtn_mailbox_t *box = &watch->box;
    uint64_t       now = wtn_now_ns();
    bool           done;

    if (watch->raised || now - watch->beat_ns < box->comm->timeout_ns / BEATS_PER_TIMEOUT ||
        wtn_progress(box->comm, box->sends, (size_t)box->peer_count, &done) != WITAN_OK) {
        return;
    }
    watch->beat_ns = now;
    for (int32_t i = 0; i < box->peer_count; i++) {
        if (!box->sends[i].active) {
            wtn_mailbox_send(box, i, &watch->beat);
        }
    }
}

uint64_t wtn_watch_heard_ns(const wtn_watch_t *watch)
{
    return watch->heard_ns;
}

static void free_watch(void *memory)
{
    wtn_watch_t *watch = memory;

    free(watch->box.letters);
    free(watch);
}

void wtn_watch_close(wtn_watch_t *watch)
{
    if (watch != NULL) {
        wtn_mailbox_close(&watch->box, free_watch, watch);
    }
}

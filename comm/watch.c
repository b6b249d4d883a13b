/* Notices: how a rank that gives up a step tells its peers, whatever they wait for, and how one
 * that is long at work says that it still is. */
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
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
    wtn_comm_t    *comm;
    int32_t        channel;
    int32_t        peer_count;
    wtn_request_t *requests; /* [peer_count] receives */
    notice_t      *notices;  /* [peer_count] */
    wtn_request_t *sends;    /* [peer_count], for raise */
    notice_t       mine;
    notice_t       beat;     /* never changes: a late send may still read it */
    uint64_t       beat_ns;  /* of the last beat sent */
    uint64_t       heard_ns; /* of the last beat received */
    bool           raised;
};

witan_status_t wtn_watch_open(wtn_watch_t **out, wtn_comm_t *comm, int32_t channel,
                              const int32_t *peers, int32_t peer_count)
{
    wtn_watch_t   *watch = calloc(1, sizeof(*watch));
    size_t         count = (size_t)peer_count;
    witan_status_t status;

    *out = NULL;
    if (watch == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "watch: %zu bytes", sizeof(*watch));
    }
    watch->comm     = comm;
    watch->channel  = channel;
    watch->requests = calloc(count + 1, sizeof(*watch->requests));
    watch->notices  = calloc(count + 1, sizeof(*watch->notices));
    watch->sends    = calloc(count + 1, sizeof(*watch->sends));
    if (watch->requests == NULL || watch->notices == NULL || watch->sends == NULL) {
        wtn_watch_close(watch); /* nothing is posted, so nothing stays */
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
        return WTN_ERROR(WITAN_E_MEMORY, "watch: %zu bytes", count * sizeof(*watch->notices));
    }
    for (int32_t i = 0; i < peer_count; i++) {
        if (peers[i] == comm->rank) {
            continue;
        }
        WTN_TRY(wtn_recv_post(comm, &watch->requests[watch->peer_count], peers[i], channel,
                              WTN_TAG_FAULT, &watch->notices[watch->peer_count], sizeof(notice_t),
                              true));
        watch->peer_count++;
    }
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
    bool done = false;

    if (watch->raised || watch->peer_count == 0) {
        return;
    }
    watch->raised      = true;
    watch->mine.status = (int32_t)status;
    memcpy(watch->mine.text, witan_last_error(), strlen(witan_last_error()) + 1);
    for (int32_t i = 0; i < watch->peer_count; i++) {
        (void)wtn_send_post(watch->comm, &watch->sends[i], watch->requests[i].peer, watch->channel,
                            WTN_TAG_FAULT, &watch->mine, sizeof(watch->mine));
    }
    while (!done && wtn_now_ns() < deadline) {
        if (wtn_progress(watch->comm, watch->sends, (size_t)watch->peer_count, &done) != WITAN_OK) {
            break;
        }
    }
    (void)WTN_ERROR(status, "%s", watch->mine.text); /* sending may have set another */
}

witan_status_t wtn_watch_check(wtn_watch_t *watch)
{
    bool done;

    if (watch->peer_count == 0 ||
        wtn_progress(watch->comm, watch->requests, (size_t)watch->peer_count, &done) != WITAN_OK) {
        return WITAN_OK; /* a broken transport shows in the wait itself */
    }
    for (int32_t i = 0; i < watch->peer_count; i++) {
        wtn_request_t *request = &watch->requests[i];

        if (request->active) {
            continue;
        }
        if (watch->notices[i].status != WITAN_OK) {
            watch->notices[i].text[WTN_ERROR_TEXT_BYTES - 1] = '\0';
            /* Who fell silent for a peer is silent for all. */
            return WTN_ERROR(watch->notices[i].status == WITAN_E_TIMEOUT ? WITAN_E_TIMEOUT
                                                                         : WITAN_E_PEER,
                             "rank %d: %.480s", (int)request->peer, watch->notices[i].text);
        }
        if (wtn_recv_post(watch->comm, request, request->peer, watch->channel, WTN_TAG_FAULT,
                          &watch->notices[i], sizeof(notice_t), true) != WITAN_OK) {
            return WITAN_OK; /* as above; and nothing is heard from now on */
        }
        watch->heard_ns = wtn_now_ns();
    }
    return WITAN_OK;
}

void wtn_watch_beat(wtn_watch_t *watch)
{
    uint64_t now = wtn_now_ns();
    bool     done;

    if (watch->raised || now - watch->beat_ns < watch->comm->timeout_ns / BEATS_PER_TIMEOUT ||
        wtn_progress(watch->comm, watch->sends, (size_t)watch->peer_count, &done) != WITAN_OK) {
        return;
    }
    watch->beat_ns = now;
    for (int32_t i = 0; i < watch->peer_count; i++) {
        if (!watch->sends[i].active) {
            (void)wtn_send_post(watch->comm, &watch->sends[i], watch->requests[i].peer,
                                watch->channel, WTN_TAG_FAULT, &watch->beat, sizeof(watch->beat));
        }
    }
}

uint64_t wtn_watch_heard_ns(const wtn_watch_t *watch)
{
    return watch->heard_ns;
}

void wtn_watch_close(wtn_watch_t *watch)
{
    size_t count, left;

    if (watch == NULL) {
        return;
    }
    count = (size_t)watch->peer_count; /* 0 where an array is missing */
    left  = wtn_cancel(watch->comm, watch->sends, count);
    left += wtn_cancel(watch->comm, watch->requests, count);
    free(watch->requests);
    free(watch->sends);
    if (left > 0) {
        return; /* notices and beat stay: a late peer may still read or write one */
    }
    free(watch->notices);
    free(watch);
}

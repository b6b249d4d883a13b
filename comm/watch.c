/* Fault notices: how a rank that gives up a step tells its peers, whatever they wait for. */
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "core/error.h"
#include "core/util.h"

#define RAISE_TIMEOUT_NS 1000000000u /* a peer that takes no notice for this long gets none */

typedef struct notice {
    int32_t status;
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
    uint64_t deadline = wtn_now_ns() + RAISE_TIMEOUT_NS;
    bool     done     = false;

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
        if (!watch->requests[i].active) {
            watch->notices[i].text[WTN_ERROR_TEXT_BYTES - 1] = '\0';
            return WTN_ERROR(WITAN_E_PEER, "rank %d: %.480s", (int)watch->requests[i].peer,
                             watch->notices[i].text);
        }
    }
    return WITAN_OK;
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
        return; /* the notices stay: a late peer may still read or write one */
    }
    free(watch->notices);
    free(watch);
}

#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "core/error.h"
#include "core/util.h"

#define WATCH_PERIOD 64 /* idle passes between two looks at the watch */

/* A wait this short does not yield: where other programs run, who yields may get its core back
 * milliseconds later. */
#define SPIN_NS 50000u

const wtn_transport_t *const wtn_transports[] = {&wtn_transport_self, &wtn_transport_mpi,
                                                 &wtn_transport_nccl, NULL};

uint64_t wtn_deadline(const wtn_comm_t *comm)
{
    uint64_t now = wtn_now_ns();

    return comm->timeout_ns < UINT64_MAX - now ? now + comm->timeout_ns : UINT64_MAX;
}

witan_status_t wtn_take_channel(wtn_comm_t *comm, const char *what, int32_t *channel)
{
    wtn_sweep(comm);
    *channel = comm->channel_next;
    if (*channel > comm->channel_max) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED,
                         "%s: channel %" PRId32 ": %s has tags for %" PRId32
                         " plans and layers of a group in all; keep them, or make another group",
                         what, *channel, comm->transport->name, comm->channel_max);
    }
    comm->channel_next++;
    return WITAN_OK;
}

static witan_status_t post(wtn_comm_t *comm, wtn_request_t *request, void *data, int32_t channel,
                           wtn_tag_t tag)
{
    witan_status_t status = comm->transport->post(comm, request, data, channel, tag);

    request->active = status == WITAN_OK;
    if (status != WITAN_OK) {
        comm->broken = true;
    }
    return status;
}

witan_status_t wtn_send_post(wtn_comm_t *comm, wtn_request_t *request, int32_t peer,
                             int32_t channel, wtn_tag_t tag, const void *data, size_t bytes)
{
    *request =
        (wtn_request_t){.peer = peer, .is_send = true, .bytes = bytes, .expected_bytes = SIZE_MAX};
    return post(comm, request, (void *)(uintptr_t)data, channel, tag);
}

witan_status_t wtn_recv_post(wtn_comm_t *comm, wtn_request_t *request, int32_t peer,
                             int32_t channel, wtn_tag_t tag, void *data, size_t bytes, bool exact)
{
    *request =
        (wtn_request_t){.peer = peer, .bytes = bytes, .expected_bytes = exact ? bytes : SIZE_MAX};
    return post(comm, request, data, channel, tag);
}

witan_status_t wtn_progress(wtn_comm_t *comm, wtn_request_t *requests, size_t count, bool *done)
{
    size_t         active_count = 0;
    witan_status_t status       = comm->transport->test(comm, requests, count, &active_count);

    *done = active_count == 0;
    if (status != WITAN_OK) {
        comm->broken = true;
        return status;
    }
    return WITAN_OK;
}

void wtn_rank_list_add(wtn_rank_list_t *list, int32_t rank)
{
    size_t used = strlen(list->text);

    if (list->count == 0) {
        (void)snprintf(list->text, sizeof(list->text), "rank %" PRId32, rank);
    } else if (used + 32 < sizeof(list->text)) {
        if (list->count == 1) { /* "rank 2" becomes "ranks 2" */
            memmove(list->text + 5, list->text + 4, used - 3);
            list->text[4] = 's';
            used++;
        }
        (void)snprintf(list->text + used, sizeof(list->text) - used, ", %" PRId32, rank);
    } else if (strstr(list->text, "...") == NULL) {
        (void)snprintf(list->text + used, sizeof(list->text) - used, ", ...");
    }
    list->count++;
}

/* The peers of active requests, each once, ascending. */
static wtn_rank_list_t list_missing(const wtn_comm_t *comm, const wtn_request_t *requests,
                                    size_t count)
{
    wtn_rank_list_t missing = {0};

    for (int32_t rank = 0; rank < comm->size; rank++) {
        for (size_t i = 0; i < count; i++) {
            if (requests[i].active && requests[i].peer == rank) {
                wtn_rank_list_add(&missing, rank);
                break;
            }
        }
    }
    return missing;
}

/* The deadline, or a time-out after the last beat. */
static uint64_t put_off(const wtn_comm_t *comm, uint64_t deadline_ns, const wtn_watch_t *watch)
{
    uint64_t heard_ns = watch == NULL ? 0 : wtn_watch_heard_ns(watch);
    uint64_t later_ns = heard_ns == 0 || comm->timeout_ns > UINT64_MAX - heard_ns
                            ? deadline_ns
                            : heard_ns + comm->timeout_ns;

    return later_ns > deadline_ns ? later_ns : deadline_ns;
}

witan_status_t wtn_wait(wtn_comm_t *comm, wtn_request_t *requests, size_t count, const char *phase,
                        uint64_t deadline_ns, wtn_watch_t *watch)
{
    return wtn_wait_polling(comm, requests, count, phase, deadline_ns, watch, NULL, NULL);
}

witan_status_t wtn_wait_polling(wtn_comm_t *comm, wtn_request_t *requests, size_t count,
                                const char *phase, uint64_t deadline_ns, wtn_watch_t *watch,
                                void (*poll)(void *context), void *context)
{
    wtn_rank_list_t missing;
    uint64_t        spin_ns    = comm->crowded ? 0 : wtn_now_ns() + SPIN_NS;
    uint32_t        idle_count = 0;

    for (;;) {
        bool           done   = false;
        witan_status_t status = wtn_progress(comm, requests, count, &done);
        uint64_t       now_ns;

        if (status != WITAN_OK) {
            return wtn_error_prefix(status, "%s", phase);
        }
        if (done) {
            return WITAN_OK;
        }
        if (poll != NULL) {
            poll(context);
        }
        if (watch != NULL && idle_count++ % WATCH_PERIOD == 0) {
            status = wtn_watch_check(watch);
            if (status != WITAN_OK) {
                comm->broken = true;
                return status;
            }
        }
        now_ns = wtn_now_ns();
        if (now_ns >= put_off(comm, deadline_ns, watch)) {
            break;
        }
        if (now_ns >= spin_ns) {
            (void)sched_yield(); /* others may have work for this core */
        }
    }
    comm->broken = true;
    missing      = list_missing(comm, requests, count);
    return WTN_ERROR(WITAN_E_TIMEOUT, "%s: not heard from %s within %g s", phase, missing.text,
                     (double)comm->timeout_ns / 1e9);
}

/* Wait for the one request, and leave nothing active behind. */
static witan_status_t finish(wtn_comm_t *comm, wtn_request_t *request, const char *phase)
{
    wtn_remains_t  remains = {0};
    witan_status_t status  = wtn_wait(comm, request, 1, phase, wtn_deadline(comm), NULL);

    if (status != WITAN_OK) {
        (void)wtn_cancel(comm, request, 1, &remains);
        free(remains.requests); /* the memory is the caller's to keep */
    }
    return status;
}

witan_status_t wtn_send(wtn_comm_t *comm, int32_t peer, wtn_tag_t tag, const void *data,
                        size_t bytes, const char *phase)
{
    wtn_request_t  request;
    witan_status_t status = wtn_send_post(comm, &request, peer, 0, tag, data, bytes);

    return status == WITAN_OK ? finish(comm, &request, phase) : status;
}

witan_status_t wtn_recv(wtn_comm_t *comm, int32_t peer, wtn_tag_t tag, void *data, size_t bytes,
                        const char *phase)
{
    wtn_request_t  request;
    witan_status_t status = wtn_recv_post(comm, &request, peer, 0, tag, data, bytes, true);

    return status == WITAN_OK ? finish(comm, &request, phase) : status;
}

static witan_status_t gather_posts(wtn_comm_t *comm, int32_t channel, size_t bytes,
                                   wtn_request_t *requests, char *blocks)
{
    witan_status_t status = WITAN_OK;

    for (int32_t rank = 0; rank < comm->size; rank++) {
        wtn_request_t *pair = requests + 2 * (size_t)rank;

        if (rank == comm->rank) {
            continue;
        }
        WTN_TRY(wtn_recv_post(comm, pair, rank, channel, WTN_TAG_GATHER,
                              blocks + (size_t)rank * bytes, bytes, true));
        WTN_TRY(wtn_send_post(comm, pair + 1, rank, channel, WTN_TAG_GATHER,
                              blocks + (size_t)comm->rank * bytes, bytes));
    }

fail:
    return status;
}

witan_status_t wtn_allgather_on(wtn_comm_t *comm, int32_t channel, const void *mine, size_t bytes,
                                void *all, const char *phase)
{
    size_t         size = (size_t)comm->size, total = 0;
    wtn_remains_t  remains = {0};
    wtn_request_t *requests;
    char          *blocks = NULL;
    witan_status_t status;

    if (size == 1) {
        memcpy(all, mine, bytes);
        return WITAN_OK;
    }
    if (channel == 0 && comm->out_of_step) {
        return WTN_ERROR(WITAN_E_STATE, "%s: an earlier call of this group failed: make another",
                         phase);
    }
    requests = calloc(2 * size, sizeof(*requests));
    if (requests != NULL && wtn_mul(size, bytes, &total)) {
        blocks = malloc(total + 1);
    }
    if (blocks == NULL) {
        free(requests);
        comm->out_of_step = comm->out_of_step || channel == 0; /* the peers gather without us */
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu blocks of %zu bytes", phase, size, bytes);
    }
    memcpy(blocks + (size_t)comm->rank * bytes, mine, bytes);
    WTN_TRY(gather_posts(comm, channel, bytes, requests, blocks));
    WTN_TRY(wtn_wait(comm, requests, 2 * size, phase, wtn_deadline(comm),
                     channel == 0 ? comm->beats : NULL));
    memcpy(all, blocks, total);

fail:
    if (status != WITAN_OK && channel == 0) {
        comm->out_of_step = true;
    }
    (void)wtn_cancel(comm, requests, 2 * size, &remains);
    wtn_release(comm, &remains, free, blocks);
    free(requests);
    return status;
}

witan_status_t wtn_allgather(wtn_comm_t *comm, const void *mine, size_t bytes, void *all,
                             const char *phase)
{
    return wtn_allgather_on(comm, 0, mine, bytes, all, phase);
}

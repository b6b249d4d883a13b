/* Requests given up while a peer may still serve them, and the memory they keep. The list is the
 * process's: what a group left behind is often over when the next one is made. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "comm/comm.h"
#include "core/error.h"
#include "core/util.h"

/* For one look at channels left. Where ranks share cores each probe may cost a turn of the others,
 * milliseconds. */
#define SWEEP_NS 5000000u

typedef struct kept {
    struct kept           *next;
    const wtn_transport_t *transport;
    wtn_remains_t          remains;
    void (*release)(void *memory);
    void *memory;
} kept_t;

static kept_t         *first;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* of the list, and of sweeps */

size_t wtn_cancel(wtn_comm_t *comm, wtn_request_t *requests, size_t count, wtn_remains_t *remains)
{
    size_t         left = comm->transport->cancel(comm, requests, count);
    wtn_request_t *grown;

    if (left == 0) {
        return 0;
    }
    comm->broken = true;
    grown        = realloc(remains->requests, (remains->count + left) * sizeof(*grown));
    if (grown == NULL) {
        remains->unknown = true;
    } else {
        remains->requests = grown;
    }
    for (size_t i = 0; i < count; i++) {
        if (requests[i].active && grown != NULL) {
            remains->requests[remains->count++] = requests[i];
        }
        requests[i].active = false;
    }
    return left;
}

static void keep(wtn_comm_t *comm, wtn_remains_t remains, void (*release)(void *memory),
                 void *memory)
{
    kept_t *kept = remains.unknown ? NULL : malloc(sizeof(*kept));

    if (kept == NULL) {
        free(remains.requests); /* the memory stays: nothing will tell when it is over */
    } else {
        *kept = (kept_t){first, comm->transport, remains, release, memory};
        first = kept;
    }
}

void wtn_release(wtn_comm_t *comm, wtn_remains_t *remains, void (*release)(void *memory),
                 void *memory)
{
    wtn_remains_t taken = *remains;

    *remains = (wtn_remains_t){0};
    if (taken.count == 0 && !taken.unknown) {
        free(taken.requests);
        release(memory); /* `remains` may be in it */
    } else {
        (void)pthread_mutex_lock(&mutex);
        keep(comm, taken, release, memory);
        (void)pthread_mutex_unlock(&mutex);
    }
}

/* Asks for one request that goes on, at most, for the same reason as above. */
static bool is_over(kept_t *kept)
{
    wtn_remains_t *remains = &kept->remains;

    while (remains->count > 0 && kept->transport->is_over(&remains->requests[remains->count - 1])) {
        remains->count--;
    }
    return remains->count == 0;
}

static void release_what_is_over(void)
{
    kept_t **link = &first, *kept;

    while ((kept = *link) != NULL) {
        if (!is_over(kept)) {
            link = &kept->next;
            continue;
        }
        *link = kept->next;
        kept->release(kept->memory);
        free(kept->remains.requests);
        free(kept);
    }
}

bool wtn_settle(wtn_comm_t *comm, wtn_remains_t *remains, uint64_t deadline_ns)
{
    size_t left = 0;
    bool   done = remains->count == 0;

    while (!done && wtn_now_ns() < deadline_ns) {
        if (wtn_progress(comm, remains->requests, remains->count, &done) != WITAN_OK) {
            break;
        }
        (void)sched_yield();
    }
    for (size_t i = 0; i < remains->count; i++) {
        if (remains->requests[i].active) {
            remains->requests[left++] = remains->requests[i];
        }
    }
    remains->count = left;
    return left == 0 && !remains->unknown;
}

void wtn_leave_channel(wtn_comm_t *comm, int32_t channel)
{
    (void)pthread_mutex_lock(&mutex);
    comm->left_next                      = comm->left_count++ % WTN_LEFT_CHANNELS;
    comm->left_channels[comm->left_next] = channel;
    (void)pthread_mutex_unlock(&mutex);
}

/* Receive the messages of a kind that nobody waits for any more into memory of their own. */
static void take_in(wtn_comm_t *comm, int32_t channel, wtn_tag_t tag)
{
    int32_t peer;
    size_t  bytes;

    while (comm->transport->find(comm, channel, tag, &peer, &bytes)) {
        wtn_remains_t  remains = {.requests = calloc(1, sizeof(wtn_request_t)), .count = 1};
        void          *memory  = malloc(bytes + 1);
        witan_status_t status  = WITAN_E_MEMORY;

        if (remains.requests != NULL && memory != NULL) {
            status = wtn_recv_post(comm, remains.requests, peer, channel, tag, memory, bytes, true);
        }
        if (status != WITAN_OK) { /* the message stays where it is */
            free(remains.requests);
            free(memory);
            return;
        }
        comm->broken = true; /* a peer has given up */
        keep(comm, remains, free, memory);
    }
}

void wtn_sweep(wtn_comm_t *comm)
{
    uint64_t end_ns = wtn_now_ns() + SWEEP_NS;
    size_t   count;

    (void)pthread_mutex_lock(&mutex);
    count = comm->left_count < WTN_LEFT_CHANNELS ? comm->left_count : WTN_LEFT_CHANNELS;
    for (size_t i = 0; i < count && (i == 0 || wtn_now_ns() < end_ns); i++) {
        for (int tag = 0; tag <= WTN_TAG_END; tag++) {
            take_in(comm, comm->left_channels[comm->left_next], (wtn_tag_t)tag);
        }
        comm->left_next = (comm->left_next + count - 1) % count; /* the one left before */
    }
    release_what_is_over();
    (void)pthread_mutex_unlock(&mutex);
}

size_t wtn_kept_count(void)
{
    size_t count = 0;

    (void)pthread_mutex_lock(&mutex);
    for (const kept_t *kept = first; kept != NULL; kept = kept->next) {
        count++;
    }
    (void)pthread_mutex_unlock(&mutex);
    return count;
}

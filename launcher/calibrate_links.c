/* Links: latency, what a message costs, the rate, and what of it the processor pays. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/calibrate.h"

#define SMALL_BYTES 8
#define SMALL_COUNT 64
#define PING_COUNT  100
#define LARGE_BYTES ((size_t)4 << 20)
#define NAP_NS      100000
#define LOOK_COUNT  50

/* Two ranks that exchange. */
typedef struct pair {
    wtn_session_t *session;
    int32_t        peer;
    bool           first; /* the lower rank: begins a ping */
    char          *send, *recv;
    wtn_request_t  requests[2 * SMALL_COUNT];
} pair_t;

static double seconds_since(uint64_t start)
{
    return (double)(wtn_now_ns() - start) * 1e-9;
}

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

/* Post `count` messages of `bytes` in both directions. */
static witan_status_t post(pair_t *pair, size_t count, size_t bytes)
{
    wtn_comm_t    *comm = pair->session->comm;
    witan_status_t status;

    memset(pair->requests, 0, sizeof(pair->requests));
    for (size_t i = 0; i < count; i++) {
        WTN_TRY(wtn_recv_post(comm, &pair->requests[i], pair->peer, 0, WTN_TAG_USER,
                              pair->recv + i * bytes, bytes, true));
    }
    for (size_t i = 0; i < count; i++) {
        WTN_TRY(wtn_send_post(comm, &pair->requests[count + i], pair->peer, 0, WTN_TAG_USER,
                              pair->send + i * bytes, bytes));
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t wait_all(pair_t *pair, size_t count)
{
    wtn_comm_t *comm = pair->session->comm;

    return wtn_wait(comm, pair->requests, 2 * count, "calibrate", wtn_deadline(comm), NULL);
}

static witan_status_t exchange(pair_t *pair, size_t count, size_t bytes, double *seconds)
{
    uint64_t       start;
    witan_status_t status;

    WTN_TRY(post(pair, 1, SMALL_BYTES)); /* begin together */
    WTN_TRY(wait_all(pair, 1));
    start = wtn_now_ns();
    WTN_TRY(post(pair, count, bytes));
    WTN_TRY(wait_all(pair, count));
    *seconds = seconds_since(start);

fail:
    return status;
}

/* Half of the shortest way there and back. */
static witan_status_t ping(pair_t *pair, double *seconds)
{
    wtn_comm_t    *comm = pair->session->comm;
    witan_status_t status;

    *seconds = 1e9;
    for (int i = 0; i < PING_COUNT; i++) {
        uint64_t start = wtn_now_ns();

        for (int turn = 0; turn < 2; turn++) {
            if ((turn == 0) == pair->first) {
                WTN_TRY(
                    wtn_send(comm, pair->peer, WTN_TAG_USER, pair->send, SMALL_BYTES, "calibrate"));
            } else {
                WTN_TRY(
                    wtn_recv(comm, pair->peer, WTN_TAG_USER, pair->recv, SMALL_BYTES, "calibrate"));
            }
        }
        if (pair->first) { /* the other's turn ends as soon as it has sent */
            *seconds = smaller(*seconds, seconds_since(start) / 2);
        }
    }
    return WITAN_OK;

fail:
    return status;
}

/* Seconds of processor this process has had, the kernel's work for it included. */
static double processor_seconds(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Look, and sleep, at most `looks_max` times. */
static witan_status_t look(pair_t *pair, int64_t looks_max, int64_t *looks)
{
    const struct timespec nap    = {0, NAP_NS};
    bool                  done   = false;
    witan_status_t        status = WITAN_OK;

    for (*looks = 0; *looks < looks_max && !done; ++*looks) {
        WTN_TRY(wtn_progress(pair->session->comm, pair->requests, 2, &done));
        if (!done) {
            (void)nanosleep(&nap, NULL);
        }
    }

fail:
    return status;
}

/* What a look costs that finds nothing. */
static witan_status_t time_look(pair_t *pair, double *seconds)
{
    wtn_comm_t    *comm = pair->session->comm;
    double         start;
    int64_t        looks;
    witan_status_t status;

    memset(pair->requests, 0, sizeof(pair->requests));
    WTN_TRY(wtn_recv_post(comm, &pair->requests[0], pair->peer, 0, WTN_TAG_USER, pair->recv,
                          SMALL_BYTES, true));
    start = processor_seconds();
    WTN_TRY(look(pair, LOOK_COUNT, &looks));
    *seconds = (processor_seconds() - start) / (double)looks;
    WTN_TRY(wtn_send_post(comm, &pair->requests[1], pair->peer, 0, WTN_TAG_USER, pair->send,
                          SMALL_BYTES));
    WTN_TRY(wait_all(pair, 1));

fail:
    return status;
}

/* What an exchange costs the processor: asleep but for looks, so that waiting costs nothing, and
 * others on the machine do not count. */
static witan_status_t time_processor(pair_t *pair, double look_s, double *seconds)
{
    double         start;
    int64_t        looks;
    witan_status_t status;

    WTN_TRY(post(pair, 1, SMALL_BYTES));
    WTN_TRY(wait_all(pair, 1));
    start = processor_seconds();
    WTN_TRY(post(pair, 1, LARGE_BYTES));
    WTN_TRY(look(pair, INT64_MAX, &looks));
    *seconds = processor_seconds() - start - (double)(looks - 1) * look_s;

fail:
    return status;
}

typedef struct figures {
    double ping, small, large, look, processor;
} figures_t;

static witan_status_t measure(pair_t *pair, int64_t rounds, figures_t *best)
{
    double         seconds;
    witan_status_t status = WITAN_OK;

    *best = (figures_t){1e9, 1e9, 1e9, 1e9, 1e9};
    for (int64_t i = 0; i < rounds; i++) {
        WTN_TRY(ping(pair, &seconds));
        best->ping = smaller(best->ping, seconds);
        WTN_TRY(exchange(pair, SMALL_COUNT, SMALL_BYTES, &seconds));
        best->small = smaller(best->small, seconds);
        WTN_TRY(exchange(pair, 1, LARGE_BYTES, &seconds));
        best->large = smaller(best->large, seconds);
        WTN_TRY(time_look(pair, &seconds));
        best->look = smaller(best->look, seconds);
    }
    for (int64_t i = 0; i < rounds; i++) {
        WTN_TRY(time_processor(pair, best->look, &seconds));
        best->processor = smaller(best->processor, seconds);
    }

fail:
    return status;
}

witan_status_t wtn_calibrate_link(wtn_calibrate_t *calibrate, int32_t peer, bool mapped,
                                  wtn_scale_link_t *link)
{
    wtn_session_t *session = calibrate->session;
    pair_t        *pair    = calloc(1, sizeof(*pair));
    char          *memory  = calloc(2, LARGE_BYTES);
    figures_t      best    = {0};
    double         work;
    witan_status_t status;

    if (pair == NULL || memory == NULL) {
        free(pair);
        free(memory);
        return WTN_ERROR(WITAN_E_MEMORY, "calibrate: %zu bytes", 2 * LARGE_BYTES);
    }
    pair->session = session;
    pair->peer    = peer;
    pair->first   = session->rank < peer;
    pair->send    = memory;
    pair->recv    = memory + LARGE_BYTES;
    memset(pair->send, 1, LARGE_BYTES);
    status = measure(pair, calibrate->words->round_count, &best);
    if (status == WITAN_OK) {
        /* Inside a node processors move every byte; between nodes at least what shows. */
        work  = mapped ? best.large : best.processor;
        work  = work > best.large / 50 ? work : best.large / 50;
        *link = (wtn_scale_link_t){
            .port      = {.rate     = (double)LARGE_BYTES / best.large,
                          .overhead = best.small / (2 * SMALL_COUNT)},
            .copy_rate = 2 * (double)LARGE_BYTES / work,
        };
        link->port.latency =
            best.ping > 2 * link->port.overhead ? best.ping - 2 * link->port.overhead : 0;
    }
    if (!session->comm->broken) { /* else a late peer may still write there */
        free(memory);
        free(pair);
    }
    return status; /* NOLINT(clang-analyzer-unix.Malloc): kept on purpose after a lost peer */
}

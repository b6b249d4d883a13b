/* The nccl transport: exchanges between the memories of GPUs, queued on streams.
 *
 * It stands beside a wtn_comm_t, the control comm, which carries what the hosts say to each other:
 * the unique id, agreements, roll calls. Streams, events and device arrays are void *, so that no
 * caller needs CUDA's headers. Every function but the waits queues and returns; the first exchange
 * with a peer also connects to it, at most until the group's time-out. NCCL is called by a thread
 * of the communicator's own, which is left to itself where a call never returns.
 *
 * Peers are named by their index in the list that opened the communicator, 0..peer_count-1. After
 * any failure the communicator is aborted: it can only be closed, and so can what queues on it. */
#ifndef WTN_NCCL_H
#define WTN_NCCL_H

#include "comm/comm.h"
#include "comm/direct.h"
#include "comm/roll.h"

typedef struct wtn_nccl wtn_nccl_t;

typedef struct wtn_nccl_config {
    const char    *name;  /* "expert", "tensor": in error texts; static */
    const int32_t *peers; /* [peer_count] ranks of comm, this one among them; the same list on each
                             of them; every rank of comm is in one list */
    int32_t peer_count;
    int32_t ctas_max;     /* thread blocks, and so SMs, one exchange may take; 0: NCCL's */
    bool    share_device; /* for tests: several ranks may use one GPU, over loopback */
} wtn_nccl_config_t;

/* Open a communicator of this process's current device. Collective over all of `comm`, whose ranks
 * may be in different lists. One of one peer needs no NCCL: its exchanges are copies.
 *
 * WITAN_E_UNSUPPORTED no library, or one older than the one compiled against or of another major
 * version; one GPU used by two ranks and no share_device: both are named; WITAN_E_MISMATCH the
 * ranks loaded different versions; WITAN_E_TIMEOUT ranks that did not arrive are named. Any rank's
 * failure is all ranks' failure. */
witan_status_t wtn_nccl_open(wtn_nccl_t **out, wtn_comm_t *comm, const wtn_nccl_config_t *config);

/* Finish what is queued, at most until the group's time-out, and free; an aborted one is freed.
 * Graphs that captured its exchanges are destroyed before. */
void wtn_nccl_close(wtn_nccl_t *nccl); /* NULL is allowed */

/* Versions, 22809 for 2.28.9: of nccl.h when this was compiled, and of the library; 0: none. */
int32_t wtn_nccl_version_compiled(void);
int32_t wtn_nccl_version_loaded(void);

/* Sends and receives between group_begin and group_end start together, in any order; outside they
 * are not allowed. Never to oneself. Of the zero-byte ones nothing is queued: both sides know the
 * size, so both skip it. What NCCL says of them is told by group_end, which is called after any
 * failure in between, too. */
witan_status_t wtn_nccl_group_begin(wtn_nccl_t *nccl);
witan_status_t wtn_nccl_send(wtn_nccl_t *nccl, int32_t peer, const void *data, size_t bytes,
                             void *stream);
witan_status_t wtn_nccl_recv(wtn_nccl_t *nccl, int32_t peer, void *data, size_t bytes,
                             void *stream);
witan_status_t wtn_nccl_group_end(wtn_nccl_t *nccl);

/* to[i * bytes ..] = block `mine` of peer i's `from`; blocks of `bytes`, one's own copied too.
 * Arrays do not overlap. Can be captured in a graph, as all that follow can. */
witan_status_t wtn_nccl_alltoall(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                                 void *stream);

/* to[i] = sum over peers of from[i]; the same bits on every peer and from run to run; in place if
 * from == to. */
witan_status_t wtn_nccl_allreduce(wtn_nccl_t *nccl, const float *from, float *to, int64_t count,
                                  void *stream);

/* to [peer_count][bytes] = every peer's `from` [bytes]; in place if from is one's block of to. */
witan_status_t wtn_nccl_allgather(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                                  void *stream);

/* to [count] = block `mine` of the sum over peers of from [peer_count][count]; in place if to is
 * one's block of from. */
witan_status_t wtn_nccl_reduce_scatter(wtn_nccl_t *nccl, const float *from, float *to,
                                       int64_t count, void *stream);

/* An error NCCL met since, WITAN_E_TRANSPORT with NCCL's own text; aborts the communicator. */
witan_status_t wtn_nccl_check(wtn_nccl_t *nccl);

/* End what is queued, unfinished; streams go on. Returns within seconds. */
void wtn_nccl_abort(wtn_nccl_t *nccl); /* NULL is allowed */

/* Where group_end and the like look for trouble while they connect to peers: until the next call of
 * this. Both may be NULL, then only the time-out ends them. */
void wtn_nccl_watch(wtn_nccl_t *nccl, wtn_roll_t *roll, wtn_watch_t *watch);

typedef struct wtn_nccl_wait_args {
    wtn_comm_t        *comm;  /* the control comm */
    const char        *phase; /* static */
    void              *event; /* cudaEvent_t recorded behind the work */
    wtn_nccl_t *const *nccls; /* [nccl_count] that the work uses; aborted on any failure */
    int32_t            nccl_count;
    wtn_direct_t      *direct;      /* that the work uses, or NULL; stopped on any failure */
    uint64_t           deadline_ns; /* wtn_now_ns clock: wtn_deadline(comm) */
    wtn_roll_t        *roll;        /* NULL: nobody can be named */
    wtn_watch_t       *watch;       /* or NULL */
} wtn_nccl_wait_args_t;

/* Wait until the device has passed `event`. On the deadline, or when a peer's own wait has failed:
 * WITAN_E_TIMEOUT "<phase>: not heard from ranks 2, 5 within 60 s"; WITAN_E_PEER for a notice on
 * `watch`; WITAN_E_TRANSPORT for what NCCL met; WITAN_E_INTERNAL for a failed kernel. After a
 * failure comm->broken is set and nothing of the work still runs or will. */
witan_status_t wtn_nccl_wait(const wtn_nccl_wait_args_t *args);

#endif

/* Exchanges through NCCL, and the end of all waiting for them. */
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "comm/nccl_internal_cuda.h"
#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/cuda.h"

#define ABORT_NS     5000000000u /* for NCCL to end what it runs */
#define CAUSE_NS     200000000u  /* for the host's messages to overtake NCCL's own errors */
#define WATCH_PERIOD 64          /* idle passes between two looks at the hosts' messages */

void wtn_nccl_watch(wtn_nccl_t *nccl, wtn_roll_t *roll, wtn_watch_t *watch)
{
    nccl->roll  = roll;
    nccl->watch = watch;
}

/* ---- calls that may never return, made by a thread of their own ---- */

typedef struct ending {
    ncclResult_t (*call)(ncclComm_t comm);
    ncclComm_t  handle;
    int         device;
    atomic_bool done; /* set by both sides: who finds it set frees */
} ending_t;

static void *run_ending(void *argument)
{
    ending_t *ending = argument;

    (void)cudaSetDevice(ending->device);
    (void)ending->call(ending->handle);
    if (atomic_exchange(&ending->done, true)) {
        free(ending);
    }
    return NULL;
}

/* Call ncclCommAbort or ncclCommDestroy, which wait for the device, and give up after a while: the
 * communicator is lost then, but not the rank. */
static void end_handle(wtn_nccl_t *nccl, ncclResult_t (*call)(ncclComm_t comm))
{
    uint64_t  deadline_ns = wtn_now_ns() + ABORT_NS;
    ending_t *ending      = calloc(1, sizeof(*ending));
    pthread_t thread;

    if (nccl->handle == NULL || ending == NULL) {
        free(ending);
        return;
    }
    *ending      = (ending_t){.call = call, .handle = nccl->handle, .device = nccl->device};
    nccl->handle = NULL;
    if (pthread_create(&thread, NULL, run_ending, ending) != 0) {
        free(ending);
        return;
    }
    (void)pthread_detach(thread);
    while (!atomic_load(&ending->done) && wtn_now_ns() < deadline_ns) {
        (void)sched_yield();
    }
    if (atomic_exchange(&ending->done, true)) {
        free(ending); /* the thread was first and has finished with it */
    }
}

void wtn_nccl_abort(wtn_nccl_t *nccl)
{
    if (nccl == NULL || nccl->aborted) {
        return;
    }
    nccl->aborted = true;
    if (nccl->library != NULL) {
        end_handle(nccl, nccl->library->CommAbort);
    }
}

/* ---- failures ---- */

static witan_status_t tell_failure(const wtn_nccl_t *nccl, ncclResult_t code, const char *what)
{
    const char *text = nccl->library->GetLastError(nccl->handle);

    if (text == NULL || text[0] == '\0') {
        text = nccl->library->GetErrorString(code);
    }
    return WTN_ERROR(WITAN_E_TRANSPORT, "nccl %s: %s: %.*s", nccl->name, what,
                     (int)strcspn(text, "\n"), text);
}

witan_status_t wtn_nccl_status(wtn_nccl_t *nccl, ncclResult_t code, const char *what)
{
    witan_status_t status;

    if (code == ncclSuccess || code == ncclInProgress) {
        return WITAN_OK;
    }
    status = tell_failure(nccl, code, what);
    wtn_nccl_abort(nccl);
    return status;
}

/* What ends a wait beside the thing waited for. */
typedef struct guard {
    wtn_comm_t  *comm;
    const char  *phase;
    uint64_t     deadline_ns;
    wtn_roll_t  *roll;
    wtn_watch_t *watch;
} guard_t;

static witan_status_t look_at_peers(const guard_t *guard)
{
    if (guard->roll != NULL && wtn_roll_called(guard->roll)) {
        return wtn_roll_call(guard->roll, guard->phase);
    }
    return guard->watch != NULL ? wtn_watch_check(guard->watch) : WITAN_OK;
}

static witan_status_t look_at_clock(const guard_t *guard)
{
    if (wtn_now_ns() < guard->deadline_ns) {
        return WITAN_OK;
    }
    if (guard->roll != NULL) {
        return wtn_roll_call(guard->roll, guard->phase);
    }
    return WTN_ERROR(WITAN_E_TIMEOUT, "%s: not done within %g s", guard->phase,
                     (double)guard->comm->timeout_ns / 1e9);
}

/* NCCL has met an error. One that a peer caused by giving up is told as what the peer says, if it
 * says so now. */
static witan_status_t find_cause(const guard_t *guard, const wtn_nccl_t *nccl, ncclResult_t code,
                                 const char *what)
{
    uint64_t       end_ns = wtn_now_ns() + CAUSE_NS;
    witan_status_t status = WITAN_OK;

    while (status == WITAN_OK && wtn_now_ns() < end_ns) {
        status = look_at_peers(guard);
        (void)sched_yield();
    }
    return status != WITAN_OK ? status : tell_failure(nccl, code, what);
}

/* The state of NCCL's own threads: *settled once they have nothing more to do. */
static witan_status_t look_at_nccl(const guard_t *guard, wtn_nccl_t *nccl, const char *what,
                                   bool *settled)
{
    ncclResult_t state = ncclSuccess, code;

    *settled = true;
    if (nccl->library == NULL) {
        return WITAN_OK;
    }
    if (nccl->handle == NULL) {
        return WTN_ERROR(WITAN_E_STATE, "nccl %s: %s: aborted by an earlier failure", nccl->name,
                         what);
    }
    code     = nccl->library->CommGetAsyncError(nccl->handle, &state);
    code     = code == ncclSuccess ? state : code;
    *settled = code != ncclInProgress;
    if (code == ncclSuccess || code == ncclInProgress) {
        return WITAN_OK;
    }
    return find_cause(guard, nccl, code, what);
}

witan_status_t wtn_nccl_settle(wtn_nccl_t *nccl, const char *what)
{
    guard_t        guard      = {.comm        = nccl->comm,
                                 .phase       = what,
                                 .deadline_ns = wtn_deadline(nccl->comm),
                                 .roll        = nccl->roll,
                                 .watch       = nccl->watch};
    uint32_t       idle_count = 0;
    bool           settled    = false;
    witan_status_t status;

    for (;;) {
        WTN_TRY(look_at_nccl(&guard, nccl, what, &settled));
        if (settled) {
            return WITAN_OK;
        }
        if (idle_count++ % WATCH_PERIOD == 0) {
            WTN_TRY(look_at_peers(&guard));
        }
        WTN_TRY(look_at_clock(&guard));
        (void)sched_yield();
    }

fail:
    nccl->comm->broken = true;
    wtn_nccl_abort(nccl);
    return status;
}

witan_status_t wtn_nccl_check(wtn_nccl_t *nccl)
{
    guard_t        guard = {.comm  = nccl->comm,
                            .phase = nccl->name,
                            .roll  = nccl->roll,
                            .watch = nccl->watch};
    bool           settled;
    witan_status_t status = look_at_nccl(&guard, nccl, "asynchronous error", &settled);

    if (status != WITAN_OK) {
        wtn_nccl_abort(nccl);
    }
    return status;
}

/* ---- exchanges ---- */

static witan_status_t check_usable(const wtn_nccl_t *nccl, bool grouped)
{
    if (nccl->aborted) {
        return WTN_ERROR(WITAN_E_STATE, "nccl %s: aborted by an earlier failure", nccl->name);
    }
    if (nccl->grouped != grouped) {
        return WTN_ERROR(WITAN_E_INTERNAL, "nccl %s: %s", nccl->name,
                         grouped ? "a send or receive outside a group" : "a collective in a group");
    }
    return WITAN_OK;
}

witan_status_t wtn_nccl_group_begin(wtn_nccl_t *nccl)
{
    witan_status_t status;

    WTN_TRY(check_usable(nccl, false));
    if (nccl->library != NULL) {
        WTN_TRY(wtn_nccl_status(nccl, nccl->library->GroupStart(), "ncclGroupStart"));
    }
    nccl->grouped = true;

fail:
    return status;
}

static witan_status_t check_message(const wtn_nccl_t *nccl, int32_t peer)
{
    witan_status_t status = check_usable(nccl, true);

    if (status == WITAN_OK && (peer < 0 || peer >= nccl->peer_count || peer == nccl->mine)) {
        return WTN_ERROR(WITAN_E_INTERNAL,
                         "nccl %s: a message of peer %" PRId32 " to peer %" PRId32, nccl->name,
                         nccl->mine, peer);
    }
    return status;
}

witan_status_t wtn_nccl_send(wtn_nccl_t *nccl, int32_t peer, const void *data, size_t bytes,
                             void *stream)
{
    witan_status_t status = check_message(nccl, peer);

    if (status != WITAN_OK || bytes == 0) {
        return status;
    }
    return wtn_nccl_status(nccl,
                           nccl->library->Send(data, bytes, ncclInt8, peer, nccl->handle,
                                               (cudaStream_t)stream),
                           "ncclSend");
}

witan_status_t wtn_nccl_recv(wtn_nccl_t *nccl, int32_t peer, void *data, size_t bytes, void *stream)
{
    witan_status_t status = check_message(nccl, peer);

    if (status != WITAN_OK || bytes == 0) {
        return status;
    }
    return wtn_nccl_status(nccl,
                           nccl->library->Recv(data, bytes, ncclInt8, peer, nccl->handle,
                                               (cudaStream_t)stream),
                           "ncclRecv");
}

witan_status_t wtn_nccl_group_end(wtn_nccl_t *nccl)
{
    bool           grouped = nccl->grouped;
    witan_status_t status;

    nccl->grouped = false;
    if (nccl->aborted) {
        if (grouped && nccl->library != NULL) {
            (void)nccl->library->GroupEnd(); /* NCCL counts them by thread */
        }
        return WITAN_E_STATE; /* its text is that of the call that aborted */
    }
    if (!grouped) {
        return check_usable(nccl, true);
    }
    if (nccl->library == NULL) {
        return WITAN_OK;
    }
    WTN_TRY(wtn_nccl_status(nccl, nccl->library->GroupEnd(), "ncclGroupEnd"));
    WTN_TRY(wtn_nccl_settle(nccl, "ncclGroupEnd"));

fail:
    return status;
}

/* The end of a call outside a group. */
static witan_status_t finish(wtn_nccl_t *nccl, ncclResult_t code, const char *what)
{
    witan_status_t status = wtn_nccl_status(nccl, code, what);

    return status == WITAN_OK ? wtn_nccl_settle(nccl, what) : status;
}

/* Is there something for the library to do? Of one peer its own block stays, or moves. */
static witan_status_t begin(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                            void *stream, bool *call)
{
    witan_status_t status = check_usable(nccl, false);

    *call = status == WITAN_OK && bytes > 0 && nccl->library != NULL;
    if (status != WITAN_OK || bytes == 0 || nccl->library != NULL || from == to) {
        return status;
    }
    return wtn_cuda_status((int)cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice,
                                                (cudaStream_t)stream),
                           "cudaMemcpyAsync");
}

static size_t float_bytes(int64_t count)
{
    return count > 0 ? (size_t)count * sizeof(float) : 0;
}

witan_status_t wtn_nccl_alltoall(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                                 void *stream)
{
    bool           call;
    witan_status_t status = begin(nccl, from, to, bytes, stream, &call);

    return !call ? status
                 : finish(nccl,
                          nccl->library->AlltoAll(from, to, bytes, ncclInt8, nccl->handle,
                                                  (cudaStream_t)stream),
                          "ncclAlltoAll");
}

witan_status_t wtn_nccl_allreduce(wtn_nccl_t *nccl, const float *from, float *to, int64_t count,
                                  void *stream)
{
    bool           call;
    witan_status_t status = begin(nccl, from, to, float_bytes(count), stream, &call);

    return !call ? status
                 : finish(nccl,
                          nccl->library->AllReduce(from, to, (size_t)count, ncclFloat32, ncclSum,
                                                   nccl->handle, (cudaStream_t)stream),
                          "ncclAllReduce");
}

witan_status_t wtn_nccl_allgather(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                                  void *stream)
{
    bool           call;
    witan_status_t status = begin(nccl, from, to, bytes, stream, &call);

    return !call ? status
                 : finish(nccl,
                          nccl->library->AllGather(from, to, bytes, ncclInt8, nccl->handle,
                                                   (cudaStream_t)stream),
                          "ncclAllGather");
}

witan_status_t wtn_nccl_reduce_scatter(wtn_nccl_t *nccl, const float *from, float *to,
                                       int64_t count, void *stream)
{
    bool           call;
    witan_status_t status = begin(nccl, from, to, float_bytes(count), stream, &call);

    return !call ? status
                 : finish(nccl,
                          nccl->library->ReduceScatter(from, to, (size_t)count, ncclFloat32,
                                                       ncclSum, nccl->handle, (cudaStream_t)stream),
                          "ncclReduceScatter");
}

/* ---- waiting for the device ---- */

static witan_status_t look_at_work(const wtn_nccl_wait_args_t *args, const guard_t *guard)
{
    witan_status_t status = WITAN_OK;
    bool           settled;

    for (int32_t i = 0; i < args->nccl_count; i++) {
        WTN_TRY(look_at_nccl(guard, args->nccls[i], args->phase, &settled));
    }
    if (args->direct != NULL) {
        WTN_TRY(wtn_direct_check(args->direct, args->phase));
    }
    WTN_TRY(look_at_peers(guard));

fail:
    return status;
}

/* What queues behind the failed work passes too, before the memory it uses is freed. */
static void give_up(const wtn_nccl_wait_args_t *args)
{
    uint64_t end_ns = wtn_now_ns() + ABORT_NS;

    args->comm->broken = true;
    wtn_direct_stop(args->direct);
    for (int32_t i = 0; i < args->nccl_count; i++) {
        wtn_nccl_abort(args->nccls[i]);
    }
    while (cudaEventQuery((cudaEvent_t)args->event) == cudaErrorNotReady && wtn_now_ns() < end_ns) {
        (void)sched_yield();
    }
}

witan_status_t wtn_nccl_wait(const wtn_nccl_wait_args_t *args)
{
    guard_t        guard      = {.comm        = args->comm,
                                 .phase       = args->phase,
                                 .deadline_ns = args->deadline_ns,
                                 .roll        = args->roll,
                                 .watch       = args->watch};
    uint32_t       idle_count = 0;
    witan_status_t status;

    for (;;) {
        cudaError_t code = cudaEventQuery((cudaEvent_t)args->event);

        if (code == cudaSuccess) {
            break;
        }
        if (code != cudaErrorNotReady) {
            WTN_TRY(wtn_cuda_status((int)code, args->phase));
        }
        if (idle_count++ % WATCH_PERIOD == 0) {
            WTN_TRY(look_at_work(args, &guard));
        }
        WTN_TRY(look_at_clock(&guard));
        (void)sched_yield();
    }
    if (args->direct != NULL) {
        WTN_TRY(wtn_direct_check(args->direct, args->phase));
    }
    return WITAN_OK;

fail:
    give_up(args);
    return status;
}

void wtn_nccl_close(wtn_nccl_t *nccl)
{
    if (nccl == NULL) {
        return;
    }
    if (nccl->handle != NULL && !nccl->comm->broken) {
        char text[WTN_ERROR_TEXT_BYTES];

        memcpy(text, witan_last_error(), strlen(witan_last_error()) + 1);
        nccl->roll  = NULL; /* the caller may have closed them */
        nccl->watch = NULL;
        if (finish(nccl, nccl->library->CommFinalize(nccl->handle), "ncclCommFinalize") ==
            WITAN_OK) {
            end_handle(nccl, nccl->library->CommDestroy);
        } else {
            (void)WTN_ERROR(WITAN_E_TRANSPORT, "%s", text); /* what led here counts */
        }
    }
    wtn_nccl_abort(nccl);
    free(nccl->peers);
    free(nccl);
}

/* Calls of NCCL, and the end of all waiting for them.
 *
 * A call queues work and returns, but for the first between two peers, which connects them: it
 * waits for the other, and only an abort ends it. NCCL's answer to that, communicators that do not
 * block, starts a thread for each group of calls, which takes longer than many an exchange. So the
 * communicator blocks, and one thread that stays makes its calls, while the rank looks at it, at
 * its peers and at the clock. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "comm/nccl_internal_cuda.h"
#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/cuda.h"

#define ABORT_NS     5000000000u /* for NCCL to end what it runs */
#define CALL_NS      1000000000u /* for a call that waits for nobody to return */
#define CAUSE_NS     200000000u  /* for the host's messages to overtake NCCL's own errors */
#define WATCH_PERIOD 64          /* idle passes between two looks at the hosts' messages */

void wtn_nccl_watch(wtn_nccl_t *nccl, wtn_roll_t *roll, wtn_watch_t *watch)
{
    nccl->roll  = roll;
    nccl->watch = watch;
}

/* ---- the end of a communicator ---- */

typedef struct ending {
    ncclResult_t (*end)(ncclComm_t comm);
    ncclComm_t handle;
    int        device;
} ending_t;

static int run_ending(void *argument)
{
    ending_t *ending = argument;

    (void)cudaSetDevice(ending->device);
    return (int)ending->end(ending->handle);
}

static bool wait_until_idle(const wtn_caller_t *caller, uint64_t wait_ns)
{
    uint64_t end_ns = wtn_now_ns() + wait_ns;
    int      code;

    while (!wtn_caller_is_idle(caller, &code)) {
        if (wtn_now_ns() >= end_ns) {
            return false;
        }
        (void)sched_yield();
    }
    return true;
}

/* The communicator is lost where this takes too long, but not the rank. */
void wtn_nccl_end(wtn_nccl_t *nccl, ncclComm_t handle, ncclResult_t (*end)(ncclComm_t comm))
{
    ending_t     *ending;
    wtn_caller_t *caller;

    if (handle == NULL) {
        return;
    }
    ending = malloc(sizeof(*ending));
    if (ending == NULL || wtn_caller_open(&caller) != WITAN_OK) {
        free(ending);
        nccl->lost = true;
        return;
    }
    *ending = (ending_t){.end = end, .handle = handle, .device = nccl->device};
    wtn_caller_start(caller, run_ending, ending);
    nccl->lost = !wait_until_idle(caller, ABORT_NS) || nccl->lost;
    wtn_caller_close(caller, free, ending);
}

/* From another thread than the one that may be in a call: what that waits for ends, and it leaves
 * the communicator long before NCCL has stopped its own threads and frees it. But a thread that has
 * not yet come to where NCCL waits would find it freed: hence the moment before. */
void wtn_nccl_abort(wtn_nccl_t *nccl)
{
    wtn_nccl_job_t *job;
    char            text[WTN_ERROR_TEXT_BYTES];

    if (nccl == NULL || nccl->aborted) {
        return;
    }
    nccl->aborted = true;
    job           = nccl->job;
    if (job == NULL) {
        return;
    }
    memcpy(text, witan_last_error(), strlen(witan_last_error()) + 1);
    wtn_caller_withdraw(nccl->caller);
    (void)wait_until_idle(nccl->caller, CALL_NS);
    wtn_nccl_end(nccl, nccl->first, nccl->library->CommAbort);
    wtn_nccl_end(nccl, job->handle, nccl->library->CommAbort);
    nccl->lost = !wait_until_idle(nccl->caller, ABORT_NS) || nccl->lost;
    if (!nccl->lost && job->made != job->handle) { /* the call ended with it */
        wtn_nccl_end(nccl, job->made, nccl->library->CommAbort);
    }
    (void)WTN_ERROR(WITAN_E_TRANSPORT, "%s", text); /* what led here counts */
}

/* ---- failures ---- */

static witan_status_t tell_failure(const wtn_nccl_t *nccl, ncclResult_t code, const char *what)
{
    const char *text = nccl->library->GetLastError(NULL);

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
    if (nccl->aborted) {
        return WTN_ERROR(WITAN_E_STATE, "nccl %s: %s: aborted by an earlier failure", nccl->name,
                         what);
    }
    code     = nccl->library->CommGetAsyncError(nccl->job->handle, &state);
    code     = code == ncclSuccess ? state : code;
    *settled = code != ncclInProgress;
    if (code == ncclSuccess || code == ncclInProgress) {
        return WITAN_OK;
    }
    return find_cause(guard, nccl, code, what);
}

/* One look at a call: *settled once it has returned, and NCCL's threads have done the rest. Its
 * code does not tell of them: ncclCommSplit returns ncclSuccess at once. A communicator that does
 * not block is not looked at before: NCCL would take the look for one of the same thread. */
static witan_status_t look_at_call(const guard_t *guard, wtn_nccl_t *nccl, bool *settled)
{
    wtn_nccl_job_t *job = nccl->job;
    int             code;
    bool            returned = wtn_caller_is_idle(nccl->caller, &code);
    witan_status_t  status   = WITAN_OK;

    if (returned && code != (int)ncclSuccess && code != (int)ncclInProgress) {
        return find_cause(guard, nccl, (ncclResult_t)code, job->what);
    }
    if (returned && job->handle == NULL) {
        job->handle = job->made;
    }
    if (job->handle != NULL && (returned || nccl->blocking)) {
        status = look_at_nccl(guard, nccl, guard->phase, settled);
    }
    *settled = *settled && returned;
    return status;
}

witan_status_t wtn_nccl_call(wtn_nccl_t *nccl, int (*call)(void *job), const char *what)
{
    guard_t        guard      = {.comm        = nccl->comm,
                                 .phase       = what,
                                 .deadline_ns = wtn_deadline(nccl->comm),
                                 .roll        = nccl->roll,
                                 .watch       = nccl->watch};
    uint32_t       idle_count = 0;
    bool           settled    = false;
    witan_status_t status;

    nccl->job->what = what;
    wtn_caller_start(nccl->caller, call, nccl->job);
    for (;;) {
        WTN_TRY(look_at_call(&guard, nccl, &settled));
        if (settled) {
            return WITAN_OK;
        }
        if (idle_count++ % WATCH_PERIOD == WATCH_PERIOD - 1) {
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

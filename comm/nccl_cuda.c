/* Exchanges through NCCL. They are recorded, and made by the communicator's own thread. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "comm/nccl_internal_cuda.h"
#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/cuda.h"

/* ---- on the communicator's thread ---- */

static const char *const names[] = {"ncclSend",      "ncclRecv",      "ncclAlltoAll",
                                    "ncclAllReduce", "ncclAllGather", "ncclReduceScatter"};

static ncclResult_t make_op(const wtn_nccl_job_t *job, const wtn_nccl_op_t *op)
{
    const wtn_nccl_library_t *nccl   = job->library;
    ncclComm_t                handle = job->handle;
    cudaStream_t              stream = op->stream;

    switch (op->kind) {
    case WTN_NCCL_SEND:
        return nccl->Send(op->from, op->count, ncclInt8, op->peer, handle, stream);
    case WTN_NCCL_RECV:
        return nccl->Recv(op->to, op->count, ncclInt8, op->peer, handle, stream);
    case WTN_NCCL_ALLTOALL:
        return nccl->AlltoAll(op->from, op->to, op->count, ncclInt8, handle, stream);
    case WTN_NCCL_ALLREDUCE:
        return nccl->AllReduce(op->from, op->to, op->count, ncclFloat32, ncclSum, handle, stream);
    case WTN_NCCL_ALLGATHER:
        return nccl->AllGather(op->from, op->to, op->count, ncclInt8, handle, stream);
    case WTN_NCCL_REDUCE_SCATTER:
        return nccl->ReduceScatter(op->from, op->to, op->count, ncclFloat32, ncclSum, handle,
                                   stream);
    }
    return ncclInvalidArgument;
}

static bool is_failure(ncclResult_t code)
{
    return code != ncclSuccess && code != ncclInProgress;
}

/* Of a group, too, the first to fail is told, for its end fails with it. */
static int make_ops(void *argument)
{
    wtn_nccl_job_t *job  = argument;
    ncclResult_t    code = ncclSuccess, ended;

    (void)cudaSetDevice(job->device);
    if (job->grouped) {
        (void)job->library->GroupStart(); /* counts */
    }
    for (int64_t i = 0; i < job->op_count && !is_failure(code); i++) {
        job->what = names[job->ops[i].kind];
        code      = make_op(job, &job->ops[i]);
    }
    if (job->grouped) {
        ended     = job->library->GroupEnd();
        job->what = is_failure(code) ? job->what : "ncclGroupEnd";
        code      = is_failure(code) ? code : ended;
    }
    return (int)code;
}

/* ---- recording ---- */

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

static witan_status_t add(wtn_nccl_t *nccl, const wtn_nccl_op_t *op)
{
    wtn_nccl_job_t *job = nccl->job;

    if (op->stream == cudaStreamPerThread) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "nccl %s: stream: expected one that is the same on all threads, found "
                         "cudaStreamPerThread",
                         nccl->name);
    }
    if (job->op_count == job->op_capacity) {
        int64_t        capacity = 2 * job->op_capacity + 8;
        wtn_nccl_op_t *ops      = realloc(job->ops, (size_t)capacity * sizeof(*ops));

        if (ops == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "nccl %s: %" PRId64 " exchanges in a group",
                             nccl->name, capacity);
        }
        job->ops         = ops;
        job->op_capacity = capacity;
    }
    job->ops[job->op_count++] = *op;
    return WITAN_OK;
}

witan_status_t wtn_nccl_group_begin(wtn_nccl_t *nccl)
{
    witan_status_t status = check_usable(nccl, false);

    if (status == WITAN_OK) {
        nccl->grouped = true;
        if (nccl->job != NULL) {
            nccl->job->op_count = 0;
        }
    }
    return status;
}

static witan_status_t add_message(wtn_nccl_t *nccl, const wtn_nccl_op_t *op)
{
    witan_status_t status = check_usable(nccl, true);

    if (status == WITAN_OK &&
        (op->peer < 0 || op->peer >= nccl->peer_count || op->peer == nccl->mine)) {
        return WTN_ERROR(WITAN_E_INTERNAL,
                         "nccl %s: a message of peer %" PRId32 " to peer %" PRId32, nccl->name,
                         nccl->mine, op->peer);
    }
    return status != WITAN_OK || op->count == 0 ? status : add(nccl, op);
}

witan_status_t wtn_nccl_send(wtn_nccl_t *nccl, int32_t peer, const void *data, size_t bytes,
                             void *stream)
{
    return add_message(nccl, &(wtn_nccl_op_t){WTN_NCCL_SEND, peer, data, NULL, bytes, stream});
}

witan_status_t wtn_nccl_recv(wtn_nccl_t *nccl, int32_t peer, void *data, size_t bytes, void *stream)
{
    return add_message(nccl, &(wtn_nccl_op_t){WTN_NCCL_RECV, peer, NULL, data, bytes, stream});
}

witan_status_t wtn_nccl_group_end(wtn_nccl_t *nccl)
{
    bool grouped = nccl->grouped;

    nccl->grouped = false;
    if (nccl->aborted) {
        return WITAN_E_STATE; /* its text is that of the call that aborted */
    }
    if (!grouped) {
        return check_usable(nccl, true);
    }
    if (nccl->job == NULL || nccl->job->op_count == 0) {
        return WITAN_OK;
    }
    nccl->job->grouped = true;
    return wtn_nccl_call(nccl, make_ops, "ncclGroupEnd");
}

/* A collective is a call of its own. Of one peer its own block stays, or moves. */
static witan_status_t collect(wtn_nccl_t *nccl, const wtn_nccl_op_t *op)
{
    bool           sum    = op->kind == WTN_NCCL_ALLREDUCE || op->kind == WTN_NCCL_REDUCE_SCATTER;
    size_t         bytes  = op->count * (sum ? sizeof(float) : 1);
    witan_status_t status = check_usable(nccl, false);

    if (status != WITAN_OK || bytes == 0) {
        return status;
    }
    if (nccl->job == NULL) {
        return op->from == op->to ? WITAN_OK
                                  : wtn_cuda_status((int)cudaMemcpyAsync(op->to, op->from, bytes,
                                                                         cudaMemcpyDeviceToDevice,
                                                                         (cudaStream_t)op->stream),
                                                    "cudaMemcpyAsync");
    }
    nccl->job->op_count = 0;
    nccl->job->grouped  = false;
    status              = add(nccl, op);
    return status != WITAN_OK ? status : wtn_nccl_call(nccl, make_ops, names[op->kind]);
}

static size_t float_count(int64_t count)
{
    return count > 0 ? (size_t)count : 0;
}

witan_status_t wtn_nccl_alltoall(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                                 void *stream)
{
    return collect(nccl, &(wtn_nccl_op_t){WTN_NCCL_ALLTOALL, 0, from, to, bytes, stream});
}

witan_status_t wtn_nccl_allreduce(wtn_nccl_t *nccl, const float *from, float *to, int64_t count,
                                  void *stream)
{
    return collect(nccl,
                   &(wtn_nccl_op_t){WTN_NCCL_ALLREDUCE, 0, from, to, float_count(count), stream});
}

witan_status_t wtn_nccl_allgather(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                                  void *stream)
{
    return collect(nccl, &(wtn_nccl_op_t){WTN_NCCL_ALLGATHER, 0, from, to, bytes, stream});
}

witan_status_t wtn_nccl_reduce_scatter(wtn_nccl_t *nccl, const float *from, float *to,
                                       int64_t count, void *stream)
{
    return collect(nccl, &(wtn_nccl_op_t){WTN_NCCL_REDUCE_SCATTER, 0, from, to, float_count(count),
                                          stream});
}

/* ---- the end ---- */

static int finalize(void *argument)
{
    wtn_nccl_job_t *job = argument;

    (void)cudaSetDevice(job->device);
    return (int)job->library->CommFinalize(job->handle);
}

static void free_job(void *memory)
{
    wtn_nccl_job_t *job = memory;

    free(job->ops);
    free(job);
}

void wtn_nccl_close(wtn_nccl_t *nccl)
{
    char text[WTN_ERROR_TEXT_BYTES];

    if (nccl == NULL) {
        return;
    }
    if (nccl->job != NULL && nccl->job->handle != NULL && !nccl->aborted && !nccl->comm->broken) {
        memcpy(text, witan_last_error(), strlen(witan_last_error()) + 1);
        nccl->roll  = NULL; /* the caller may have closed them */
        nccl->watch = NULL;
        if (wtn_nccl_call(nccl, finalize, "ncclCommFinalize") == WITAN_OK) {
            nccl->aborted = true; /* nothing is left to abort */
            wtn_nccl_end(nccl, nccl->job->handle, nccl->library->CommDestroy);
        }
        (void)WTN_ERROR(WITAN_E_TRANSPORT, "%s", text); /* what led here counts */
    }
    wtn_nccl_abort(nccl);
    if (nccl->caller != NULL) {
        wtn_caller_close(nccl->caller, nccl->lost ? NULL : free_job, nccl->job);
    }
    free(nccl->peers);
    free(nccl);
}

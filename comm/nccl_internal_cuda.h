/* The communicator, for the sources that make it up. */
#ifndef WTN_NCCL_INTERNAL_H
#define WTN_NCCL_INTERNAL_H

#include "comm/caller.h"
#include "comm/nccl.h"
#include "comm/nccl_library_cuda.h"

typedef enum wtn_nccl_kind {
    WTN_NCCL_SEND,
    WTN_NCCL_RECV,
    WTN_NCCL_ALLTOALL,
    WTN_NCCL_ALLREDUCE,
    WTN_NCCL_ALLGATHER,
    WTN_NCCL_REDUCE_SCATTER
} wtn_nccl_kind_t;

/* One exchange. */
typedef struct wtn_nccl_op {
    wtn_nccl_kind_t kind;
    int32_t         peer;
    const void     *from;
    void           *to;
    size_t          count; /* bytes, or floats of a sum */
    void           *stream;
} wtn_nccl_op_t;

/* What the caller's thread works at: its own during a call, the rank's between two. */
typedef struct wtn_nccl_job {
    const wtn_nccl_library_t *library;
    ncclComm_t                handle; /* that calls use; only the rank changes it */
    ncclComm_t                made;   /* by the last call that opens one */
    ncclUniqueId              id;
    int                       peer_count, mine, device, ctas_max;
    bool                      grouped;
    wtn_nccl_op_t            *ops; /* [op_count] of op_capacity */
    int64_t                   op_count, op_capacity;
    const char               *what; /* NCCL's function that is called */
} wtn_nccl_job_t;

struct wtn_nccl {
    wtn_comm_t               *comm;
    const char               *name;
    int32_t                  *peers; /* [peer_count] ranks of comm */
    int32_t                   peer_count, mine;
    int32_t                   device;
    const wtn_nccl_library_t *library; /* NULL where there is one peer; so are the next two */
    wtn_caller_t             *caller;
    wtn_nccl_job_t           *job;
    ncclComm_t                first;    /* while opening: the one by which the peers met */
    bool                      blocking; /* job->handle is of that kind: open */
    bool                      grouped;  /* between group_begin and group_end */
    bool                      aborted;
    bool                      lost;  /* NCCL has not ended what it does: it may write to the job */
    wtn_roll_t               *roll;  /* the caller's */
    wtn_watch_t              *watch; /* the caller's */
};

/* WITAN_OK for ncclSuccess and ncclInProgress; else WITAN_E_TRANSPORT "nccl <name>: <what>: <NCCL's
 * own text>", after the communicator was aborted. */
witan_status_t wtn_nccl_status(wtn_nccl_t *nccl, ncclResult_t code, const char *what);

/* Have call(job) made and wait until it, and what NCCL does behind it, has ended: WITAN_E_TIMEOUT,
 * E_PEER, E_TRANSPORT as wtn_nccl_wait; aborts then. Value of the call: an ncclResult_t. */
witan_status_t wtn_nccl_call(wtn_nccl_t *nccl, int (*call)(void *job), const char *what);

/* Call end(handle), which may wait for the device, and give up after a while. NULL is allowed. */
void wtn_nccl_end(wtn_nccl_t *nccl, ncclComm_t handle, ncclResult_t (*end)(ncclComm_t comm));

#endif

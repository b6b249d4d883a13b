/* The communicator, for the sources that make it up. */
#ifndef WTN_NCCL_INTERNAL_H
#define WTN_NCCL_INTERNAL_H

#include "comm/nccl.h"
#include "comm/nccl_library_cuda.h"

struct wtn_nccl {
    wtn_comm_t               *comm;
    const char               *name;
    int32_t                  *peers; /* [peer_count] ranks of comm */
    int32_t                   peer_count, mine;
    int32_t                   device;
    const wtn_nccl_library_t *library; /* NULL where there is one peer */
    ncclComm_t                handle;
    bool                      grouped; /* between group_begin and group_end */
    bool                      aborted;
    wtn_roll_t               *roll;  /* the caller's */
    wtn_watch_t              *watch; /* the caller's */
};

/* WITAN_OK for ncclSuccess and ncclInProgress; else WITAN_E_TRANSPORT "nccl <name>: <what>: <NCCL's
 * own text>", after the communicator was aborted. */
witan_status_t wtn_nccl_status(wtn_nccl_t *nccl, ncclResult_t code, const char *what);

/* Wait until what NCCL does behind a call has ended: WITAN_E_TIMEOUT, E_PEER, E_TRANSPORT as
 * wtn_nccl_wait; aborts then. */
witan_status_t wtn_nccl_settle(wtn_nccl_t *nccl, const char *what);

#endif

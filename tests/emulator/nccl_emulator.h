/* What tests can tell the emulator's NCCL; plain C. The environment may do so too, before the first
 * exchange: WTN_EMULATOR_NCCL="<fault>:COUNT[@RANK]" with a fault of the names below in lower case,
 * for the rank of MPI_COMM_WORLD, or all. */
#ifndef WTN_NCCL_EMULATOR_H
#define WTN_NCCL_EMULATOR_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum wtn_emulator_nccl_fault {
    WTN_EMULATOR_NCCL_NONE,
    WTN_EMULATOR_NCCL_STALL,      /* the exchange never starts on this rank */
    WTN_EMULATOR_NCCL_ERROR,      /* it ends in an asynchronous error and never finishes */
    WTN_EMULATOR_NCCL_REFUSE,     /* the call that queues it fails */
    WTN_EMULATOR_NCCL_HANG,       /* it does not return before the communicator is aborted */
    WTN_EMULATOR_NCCL_DEAF,       /* nor then, for 20 seconds more */
    WTN_EMULATOR_NCCL_LATE,       /* its thread stops for a while before it uses the communicator */
    WTN_EMULATOR_NCCL_INIT_STALL, /* this rank never comes to the meeting of a new communicator */
    WTN_EMULATOR_NCCL_INIT_SLEEP  /* the call that opens one returns three seconds later */
} wtn_emulator_nccl_fault_t;

/* The count-th exchange (a group, or a collective outside one) of this process from now on, or
 * communicator for the INIT ones, where one split off counts too; 1: the next. Ends with the fault,
 * or with another call. */
void wtn_emulator_nccl_fail(wtn_emulator_nccl_fault_t fault, int count);

/* What ncclGetVersion answers. */
void wtn_emulator_nccl_set_version(int version);

#ifdef __cplusplus
}
#endif

#endif

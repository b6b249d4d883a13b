/* What tests can tell the emulator and ask it; plain C. Environment variables of the same meaning
 * are read when the first call of CUDA's runtime is made; one without meaning ends the program.
 *
 *   WTN_EMULATOR_ORDER       forward | reverse | random[:SEED], then optionally ,late or ,early
 *   WTN_EMULATOR_DEVICES     devices to show (8); 0: none; "no-driver": as without a driver
 *   WTN_EMULATOR_CAPABILITY  compute capability, 10 * major + minor (90)
 *   WTN_EMULATOR_SMS         multiprocessors of a device (8)
 *   WTN_EMULATOR_FAIL        alloc:N | launch:N, the N-th call from now on fails (1: the next)
 *   WTN_EMULATOR_PROTECT     0: the host may touch device memory unnoticed (1)
 *   WTN_EMULATOR_TRACE       1: one line on stderr per kernel run */
#ifndef WTN_EMULATOR_H
#define WTN_EMULATOR_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum wtn_emulator_order {
    WTN_EMULATOR_FORWARD,
    WTN_EMULATOR_REVERSE,
    WTN_EMULATOR_RANDOM
} wtn_emulator_order_t;

/* When asynchronous copies land: as late as the waits allow, or at once. */
typedef enum wtn_emulator_landing {
    WTN_EMULATOR_LATE,
    WTN_EMULATOR_EARLY,
    WTN_EMULATOR_EITHER /* drawn for each */
} wtn_emulator_landing_t;

/* The order in which the threads of a block and the blocks of a grid run. */
void wtn_emulator_set_order(wtn_emulator_order_t order, uint64_t seed,
                            wtn_emulator_landing_t landing);
/* "random:7,late"; false: not such a text */
bool wtn_emulator_parse_order(const char *text);

typedef enum wtn_emulator_fault {
    WTN_EMULATOR_NO_FAULT,
    WTN_EMULATOR_FAIL_ALLOC, /* cudaErrorMemoryAllocation */
    WTN_EMULATOR_FAIL_LAUNCH /* the kernel fails when it runs: cudaErrorLaunchFailure, and from then
                                on every call, as on a device */
} wtn_emulator_fault_t;

/* The count-th such call from now on fails; 1: the next. */
void wtn_emulator_fail(wtn_emulator_fault_t fault, int count);

/* Forget a sticky error, as a new process would. Work queued is lost. */
void wtn_emulator_reset(void);

/* What the last failed kernel did wrong: one line; "" for none. */
const char *wtn_emulator_report(void);

/* Since the program began: kernels run, bytes of device memory held now. */
uint64_t wtn_emulator_kernel_count(void);
uint64_t wtn_emulator_device_bytes(void);

#ifdef __cplusplus
}
#endif

#endif

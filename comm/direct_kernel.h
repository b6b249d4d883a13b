/* The kernels of windows: parameters and launches, for both sides of the compiler's fence. */
#ifndef WTN_DIRECT_KERNEL_H
#define WTN_DIRECT_KERNEL_H

#include <stdint.h>

#include <witan/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wtn_direct_params {
    int32_t          peer_count;
    uint64_t         timeout_ns;
    uint64_t        *counter; /* of the signals or waits queued so far */
    uint64_t *const *theirs;  /* signal: [peer_count] each peer's flag for this rank */
    const uint64_t  *mine;    /* wait: [peer_count] this rank's flag of each peer */
    uint64_t        *faults;  /* wait: [peer_count] the host's; number of the wait given up, or 0 */
    const uint64_t  *stop;    /* wait: the host's; not 0: give up */
} wtn_direct_params_t;

witan_status_t wtn_direct_launch_signal(const wtn_direct_params_t *params, void *stream);
witan_status_t wtn_direct_launch_wait(const wtn_direct_params_t *params, void *stream);

#ifdef __cplusplus
}
#endif

#endif

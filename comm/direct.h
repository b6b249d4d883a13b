/* Windows: memory of each GPU of one node that the peers' kernels write into.
 *
 * Data first, then a signal: `signal` queues a kernel that tells every peer, after all earlier work
 * of the stream, the number of this signal; `wait` queues one that waits until every peer has told
 * at least the number of this wait. Numbers are counted on the device, only ever upwards, so
 * nothing is reset and both can be captured in a graph and replayed.
 *
 * Every peer calls signal and wait equally often and in the same order. What may be overwritten:
 * after wait number n, whatever the peers read before their signal number n. A dispatch and a
 * combine that take turns, each with its own part of the window, therefore need no second buffer.
 */
#ifndef WTN_DIRECT_H
#define WTN_DIRECT_H

#include "comm/comm.h"

typedef struct wtn_direct wtn_direct_t;

typedef struct wtn_direct_config {
    const char    *name;  /* in error texts; static */
    const int32_t *peers; /* [peer_count] ranks of comm, as for wtn_nccl_open */
    int32_t        peer_count;
    size_t         bytes; /* of each rank's window; may differ */
} wtn_direct_config_t;

/* Allocate this rank's window and map the peers'. Collective over all of `comm`.
 *
 * WITAN_E_UNSUPPORTED a peer is on another node, or its GPU cannot be reached from this one: both
 * ranks are named with the reason. Any rank's failure is all ranks' failure. */
witan_status_t wtn_direct_open(wtn_direct_t **out, wtn_comm_t *comm,
                               const wtn_direct_config_t *config);

/* Unmap and free, once all peers have done so with this rank's window or the time-out has passed.
 * Collective over all of the comm; after a failure local. NULL is allowed. */
void wtn_direct_close(wtn_direct_t *direct);

/* [peer_count] windows as this device reaches them, the own one among them, 256-byte aligned: the
 * list in the host's memory and the same list in the device's. */
void *const *wtn_direct_windows(const wtn_direct_t *direct);
void *const *wtn_direct_windows_device(const wtn_direct_t *direct);

witan_status_t wtn_direct_signal(wtn_direct_t *direct, void *stream);

/* A peer that does not tell its number within the group's time-out is left in the faults and the
 * stream goes on, with what is there: whoever reads the results calls wtn_direct_check before. */
witan_status_t wtn_direct_wait(wtn_direct_t *direct, void *stream);

/* WITAN_E_TIMEOUT "<phase>: not heard from rank 2 within 60 s" if a wait has given up. Looks at the
 * host's memory only. */
witan_status_t wtn_direct_check(const wtn_direct_t *direct, const char *phase);

/* Waits under way give up at once, later ones too. */
void wtn_direct_stop(wtn_direct_t *direct); /* NULL is allowed */

#endif

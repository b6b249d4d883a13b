/* Roll calls: who of the peers is still there when queued work of the device does not end.
 *
 * A device that waits cannot say for whom. So the first rank whose wait has lasted too long calls
 * the others by messages of the host; every rank that waits answers, and who has not answered
 * within a second is named by all who called. */
#ifndef WTN_ROLL_H
#define WTN_ROLL_H

#include "comm/comm.h"

typedef struct wtn_roll wtn_roll_t;

/* Peers [peer_count] of `comm`, this rank perhaps among them, who wait for each other, directly or
 * over others. Posts a receive from each and returns. `channel`: one on which nobody else calls. */
witan_status_t wtn_roll_open(wtn_roll_t **out, wtn_comm_t *comm, int32_t channel,
                             const int32_t *peers, int32_t peer_count);

/* Has a peer called? Then answer with wtn_roll_call. Cheap; to be asked now and then in waits. */
bool wtn_roll_called(wtn_roll_t *roll);

/* Call, wait for the others' calls at most a second, and say who is missing: WITAN_E_TIMEOUT
 * "<phase>: not heard from ranks 2, 5 within 60 s". A roll is called once: its comm is broken then,
 * and a second call says the same again. */
witan_status_t wtn_roll_call(wtn_roll_t *roll, const char *phase);

void wtn_roll_close(wtn_roll_t *roll); /* NULL is allowed */

#endif

/* Which GPU of which machine a rank uses. */
#ifndef WTN_PLACE_H
#define WTN_PLACE_H

#include "comm/comm.h"

typedef struct wtn_place {
    char node[128]; /* host name and boot id: one kernel, and one name of it */
    char gpu[32];   /* PCI bus id of the current device, "0000:1b:00.0" */
} wtn_place_t;

witan_status_t wtn_place_find(wtn_place_t *place);

/* The lists of peers that open something collectively: that `peers` [peer_count] are ranks of
 * `comm`, each once, and this one among them, at *mine. WITAN_E_ARGUMENT "<name>: ..." */
witan_status_t wtn_peers_check(const wtn_comm_t *comm, const char *name, const int32_t *peers,
                               int32_t peer_count, int32_t *mine);

#endif

/* The layer object, for the folders that look inside. */
#ifndef WTN_LAYER_INTERNAL_H
#define WTN_LAYER_INTERNAL_H

#include <stdatomic.h>

#include <witan/layer.h>
#include <witan/rebalance.h>

#include "comm/group.h"
#include "dispatch/layout.h"

struct witan_layer {
    witan_group_t *group;
    int32_t        index; /* among the layers made of the group */
    wtn_layout_t   layout;
    char           family[32];
    wtn_ffn_t     *experts; /* NULL: this rank holds none */
    wtn_ffn_t     *shared;  /* NULL: there is none */
    wtn_gate_t    *router;
    wtn_gate_t    *shared_gate;
    float         *router_bias;     /* [E] or NULL; memory of the backend, as what follows */
    float         *correction_bias; /* [E] or NULL */
    /* For steps of a device, else NULL. */
    int32_t *owner, *local; /* [R] of each replica, expert by expert */
    int32_t *replica_begin; /* [E + 1]; NULL: every expert has one */

    witan_rebalance_t *rebalance;  /* under way, or NULL */
    atomic_int         busy_plans; /* between route and the last combine */
    bool               doubt;      /* a commit ended so that the peers' placement is not known */
    wtn_remains_t      remains;    /* requests given up that still reach the experts' weights */
};

#endif

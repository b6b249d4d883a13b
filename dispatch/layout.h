/* The layout of a layer: what one rank of a folding holds and computes. Pure; made from
 * configurations alone, so that a size query and the layer itself can not disagree. */
#ifndef WTN_LAYOUT_H
#define WTN_LAYOUT_H

#include <witan/layer.h>

#include "comm/comm.h"
#include "comm/group.h"
#include "kernels/backend.h"
#include "topology/placement.h"

typedef struct wtn_layout {
    witan_layer_config_t config; /* resolved: backend and kernel_tier hold the choice taken */
    wtn_folding_t        folding;
    wtn_placement_t      placement;
    int32_t              local_count;     /* slots held by this rank */
    int32_t              local_count_max; /* over the ranks of the group */
    int32_t             *local_experts;   /* [local_count] global ids, ascending by slot */
    int32_t             *local_slots;     /* [local_count] ascending */
    const wtn_backend_t *backend;
    const wtn_tier_t    *tier;
    wtn_ffn_spec_t       experts; /* expert_count may be 0 */
    wtn_ffn_spec_t       shared;  /* hidden_size 0: there is none */
    wtn_gate_spec_t      router;
    wtn_gate_spec_t      shared_gate; /* out_count 0: there is none */
    size_t               row_bytes;   /* H elements */
    int32_t             *nodes; /* [ep] equal for expert indices that share memory; NULL: none do */
} wtn_layout_t;

/* Check `config` and lay it out. `nodes` [N]: equal for ranks that share memory; NULL: none do.
 * WITAN_E_CONFIG or WITAN_E_ARGUMENT naming the field. */
witan_status_t wtn_layout_make(wtn_layout_t *layout, const witan_layer_config_t *config,
                               const wtn_folding_t *folding, const int32_t *nodes);
void           wtn_layout_free(wtn_layout_t *layout);

/* Let configuration and specs point to the placement's own tables in place of the caller's; the
 * configuration then makes the same layer again. */
void wtn_layout_point(wtn_layout_t *layout);

/* Packed weights of this rank; of a layout that was made never negative. */
int64_t wtn_layout_weight_bytes(const wtn_layout_t *layout);

/* What all ranks must agree on; at most WTN_FIELDS_MAX - 4. Returns how many. */
size_t wtn_layout_fields(const wtn_layout_t *layout, wtn_field_t *fields);

#endif

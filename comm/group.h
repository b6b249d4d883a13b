/* The group object, for the folders that look inside. */
#ifndef WTN_GROUP_INTERNAL_H
#define WTN_GROUP_INTERNAL_H

#include <witan/group.h>

#include "comm/comm.h"
#include "topology/topology.h"

struct witan_group {
    wtn_comm_t    comm;
    int32_t       expert_parallel, tensor_parallel, data_parallel;
    int32_t       expert_index, tensor_index, data_index;
    int32_t       local_rank, local_size; /* among the ranks of this node */
    int32_t      *nodes; /* [size] the first rank of each rank's node: they share memory */
    int32_t       thread_count;
    int32_t       device;       /* of the cuda backend; -1: not chosen yet */
    bool          share_device; /* several ranks may use one */
    int32_t       layer_next;   /* layers made so far; equal on all ranks */
    wtn_binding_t binding;
};

/* Index arithmetic of the folding, documented at witan_group_config_t. */
typedef struct wtn_folding {
    int32_t expert_parallel, tensor_parallel, data_parallel;
    int32_t expert_index, tensor_index, data_index;
} wtn_folding_t;

/* Fold `rank_count` ranks as `config` says. WITAN_E_ARGUMENT if they do not fold so. */
witan_status_t wtn_folding_make(const witan_group_config_t *config, int32_t rank,
                                int32_t rank_count, wtn_folding_t *folding);

/* The rank of an expert index, with this rank's tensor and data index. */
int32_t wtn_folding_expert_peer(const wtn_folding_t *folding, int32_t expert_index);

/* Rank that holds expert index `expert_index` for this rank's tensor and data index, and the one
 * that holds tensor index `tensor_index` for its expert and data index. */
int32_t wtn_group_expert_peer(const witan_group_t *group, int32_t expert_index);
int32_t wtn_group_tensor_peer(const witan_group_t *group, int32_t tensor_index);

/* Check `config` (NULL: the defaults); zeros become what the environment says, or the defaults.
 * thread_count stays 0 where both leave it to the rank's cores. WITAN_E_ARGUMENT by field. */
witan_status_t wtn_group_config_resolve(const witan_group_config_t *config,
                                        witan_group_config_t       *resolved);

/* What witan_group_create_self and _mpi share: `group->comm` is open. Collective. */
witan_status_t wtn_group_setup(witan_group_t *group, const witan_group_config_t *config);

/* A group with defaults in place of zeros, or the status why not; `*out` holds config as resolved.
 */
witan_status_t wtn_group_new(witan_group_t **out, const witan_group_config_t *config,
                             witan_group_config_t *resolved);

#endif

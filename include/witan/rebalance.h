/* Live rebalancing: other experts in the slots of a layer, while it goes on computing. */
#ifndef WITAN_REBALANCE_H
#define WITAN_REBALANCE_H

#include <witan/layer.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * A layer's slots stay where they are; what changes is the expert each one holds. So plans and
 * their memory stay as they are too. The way of it:
 *
 *   witan_rebalance_target(layer, load, 1.05, slots)    loads -> the expert of every slot
 *   witan_rebalance_begin(&r, layer, &config)           collective
 *   between steps:  witan_rebalance_advance(r, &done)   local; moves the next bytes, never waits
 *   now and then:   witan_rebalance_commit(r, &yes)     collective; yes: all ranks have swapped
 *   witan_rebalance_destroy(r)
 *
 * Until the commit steps run by the old experts, from it on by the new ones; exact results are the
 * same bits before, while and after. Weights travel packed, once for each slot whose rank did not
 * hold the expert. At most bytes_per_step are under way from a rank, and as many to it, so a step
 * waits for rebalancing no longer than its link takes for that many bytes each way; a commit for
 * one message to and from every rank.
 *
 * Only on the host backend; cuda refuses by name.
 */
typedef struct witan_rebalance witan_rebalance_t;

typedef struct witan_rebalance_config {
    size_t struct_bytes;
    /** [R] the expert of each slot of the layer, R = slot_count or, without slots, E. Every expert
     * needs a slot. Equal on all ranks; read during the call only. */
    const int32_t *slot_expert;
    int64_t        bytes_per_step;   /**< at least 4096, equal on all ranks; default 16 MiB */
    int64_t        memory_bytes_max; /**< of new weights beside the old ones; default 0: no limit */
} witan_rebalance_config_t;

WITAN_API void witan_rebalance_config_init(witan_rebalance_config_t *config);

typedef struct witan_rebalance_info {
    size_t  struct_bytes;
    int32_t slot_count;           /**< of this rank, that get weights it did not hold */
    int64_t memory_bytes;         /**< for these, beside the layer's; given back by the commit */
    int64_t recv_bytes;           /**< to come from other ranks */
    int64_t send_bytes;           /**< to go to other ranks */
    int64_t recv_bytes_completed; /**< of them; 0 from a query */
    int64_t send_bytes_completed;
} witan_rebalance_info_t;

/**
 * Experts for the layer's slots by load. Where changing few of them brings the imbalance of the
 * ranks down to imbalance_max, that; else the published load balancing with replicas (EPLB) over
 * the ranks as one node, arranged so that few weights move, for which the slots must be dealt to
 * the ranks as equally as can be. Local; equal loads give equal slots on every rank.
 *
 * @param expert_load   [E] >= 0, in any unit, as the counts of witan_plan_load.
 * @param imbalance_max maximum over mean of the loads of ranks, >= 1; 0: the best there is.
 * @param slot_expert   [R] out.
 * @return WITAN_OK; WITAN_E_ARGUMENT; WITAN_E_UNSUPPORTED slots dealt otherwise; WITAN_E_MEMORY.
 */
WITAN_API witan_status_t witan_rebalance_target(const witan_layer_t *layer,
                                                const float *expert_load, double imbalance_max,
                                                int32_t *slot_expert);

/** What a rebalancing would move and take on this rank. `info->struct_bytes` must be set. Local.
 * @return as witan_rebalance_begin, but for the ranks. */
WITAN_API witan_status_t witan_rebalance_query(const witan_layer_t            *layer,
                                               const witan_rebalance_config_t *config,
                                               witan_rebalance_info_t         *info);

/**
 * Prepare: takes the memory for new weights and all that is needed until the commit. Collective.
 * One at a time for a layer, and between its steps: none of any plan may run on another thread.
 * Pointers of witan_layer_info stand until the commit.
 * @return WITAN_OK; WITAN_E_ARGUMENT; WITAN_E_CONFIG naming the slot; WITAN_E_UNSUPPORTED backend;
 * WITAN_E_STATE another one is under way, or weights of one given up still are; WITAN_E_MEMORY;
 * WITAN_E_MISMATCH; WITAN_E_PEER; WITAN_E_TIMEOUT. On failure *out is NULL and the layer as it was.
 */
WITAN_API witan_status_t witan_rebalance_begin(witan_rebalance_t **out, witan_layer_t *layer,
                                               const witan_rebalance_config_t *config);

/**
 * Take note of what has arrived and start what fits into bytes_per_step. Local: never waits and
 * never allocates; ranks may call it as often as they like, between steps or beside them on another
 * thread. A peer that lets this rank wait longer than the group's deadline is an error.
 * @param done true: this rank has all it needs and has sent all it should; may be NULL.
 * @return WITAN_OK; WITAN_E_PEER; WITAN_E_TIMEOUT naming ranks; WITAN_E_TRANSPORT; WITAN_E_STATE
 * after an earlier failure. After a failure the layer goes on with its old experts; destroy this.
 */
WITAN_API witan_status_t witan_rebalance_advance(witan_rebalance_t *rebalance, bool *done);

/**
 * Swap if all ranks are done; if not, nothing changes and *committed is false: go on. Collective;
 * no step of a plan of the layer may be under way on any rank. Does not wait for weights.
 * @return WITAN_OK; WITAN_E_STATE, and WITAN_E_PEER on the others, a step is under way: call again;
 * else as witan_rebalance_advance. After WITAN_E_TIMEOUT or WITAN_E_TRANSPORT here it is not known
 * which experts the peers go by: steps of the layer are refused from then on.
 */
WITAN_API witan_status_t witan_rebalance_commit(witan_rebalance_t *rebalance, bool *committed);

/** Fill `info`; `info->struct_bytes` must be set by the caller. Local. */
WITAN_API witan_status_t witan_rebalance_info(const witan_rebalance_t *rebalance,
                                              witan_rebalance_info_t  *info);

/** Free it; NULL is allowed. Local; before the layer. If it is not committed the layer stays as it
 * was, and the peers' next call tells them. */
WITAN_API void witan_rebalance_destroy(witan_rebalance_t *rebalance);

#ifdef __cplusplus
}
#endif
#endif

/* Expert load balancing with replicas: which expert each slot of each rank holds, given the load
 * of every expert. Where the published algorithm (EPLB) is defined, this is it, slot by slot.
 *
 *   pack       items in descending order of load (the lower index first on a tie), each to the
 *              lightest pack with room (the first on a tie), loads of packs summed in fp32; if no
 *              pack has room for more than one item, item i is the i-th.
 *   replicate  slots 0..E-1 hold the experts in order; each further slot copies the expert with
 *              the most load per replica (the first on a tie).
 *
 * Hierarchical, when N divides G: the groups of experts are packed onto the nodes, the experts of
 * each node replicated to the slots of the node, these packed by load per replica onto the ranks
 * of the node. Otherwise global: the same with one group and one node.
 *
 * The published algorithm wants G to divide E, N to divide D and D to divide R. Here every E,
 * R >= E, G <= E, N <= D will do:
 *   - group g holds the experts [gE/G, (g+1)E/G), rank d of a node with n ranks and r slots the
 *     slots [dr/n, (d+1)r/n) of the node, node n the ranks [nD/N, (n+1)D/N), all rounded down;
 *   - a node takes one group, and of the other G - N its share by ranks; the lightest node is the
 *     one with the least load per rank;
 *   - a node has its share of the slots by ranks; where that is less than its experts, it gets as
 *     many as those, from the nodes with more slots than experts, in proportion to what these have
 *     over.
 * A rank may be left without a slot, an expert never.
 *
 * Two things the published code leaves to its library, so that there it depends on version and
 * processor: the order of equal loads when it sorts (here the lower index first, as its example
 * needs), and the order of the fp32 sums over a group (here ascending; integers whose sum is below
 * 2^24 have no order). */
#ifndef WTN_BALANCE_H
#define WTN_BALANCE_H

#include <stdint.h>

#include <witan/status.h>

#define WTN_BALANCE_COUNT_MAX (1 << 24) /* of slots and of ranks: exact in fp32 */

typedef struct wtn_balance_shape {
    int32_t expert_count; /* E, at least 1 */
    int32_t slot_count;   /* R, at least E */
    int32_t group_count;  /* G, 1 to E */
    int32_t node_count;   /* N, 1 to D */
    int32_t rank_count;   /* D, at least 1 */
} wtn_balance_shape_t;

/* WITAN_E_ARGUMENT naming the count that is out of its range. */
witan_status_t wtn_balance_check(const wtn_balance_shape_t *shape);

/* WITAN_E_ARGUMENT naming the first load that is negative or not finite, or if they sum to more
 * than half of FLT_MAX. */
witan_status_t wtn_balance_check_load(const wtn_balance_shape_t *shape, const float *load);

/* Fill slot_expert[R], the expert of every slot, and slot_owner[R], its rank, ascending. load[E]:
 * any unit. WITAN_E_ARGUMENT for a bad shape or bad loads; WITAN_E_MEMORY. O(R log R) time. */
witan_status_t wtn_balance(const wtn_balance_shape_t *shape, const float *load,
                           int32_t *slot_expert, int32_t *slot_owner);

/* Slots of any placement: their experts and ranks, in any order. */
typedef struct wtn_balance_slots {
    int32_t        slot_count;
    const int32_t *expert, *owner; /* [slot_count]; expert NULL: slot = expert */
} wtn_balance_slots_t;

/* The load of every rank when the load of an expert is shared equally by its replicas.
 * replica_count[E], too, is out. */
void wtn_balance_loads(const wtn_balance_shape_t *shape, const float *load,
                       const wtn_balance_slots_t *slots, int32_t *replica_count, double *rank_load);

/* Maximum over mean; 1 without any load. */
double wtn_balance_imbalance(const double *rank_load, int32_t rank_count);

/* How many weights of experts `to` puts on ranks that do not hold them in `from`: an expert counts
 * once for a rank, however many slots it has there. The slot counts may differ. WITAN_E_MEMORY. */
witan_status_t wtn_balance_moves(const wtn_balance_shape_t *shape, const wtn_balance_slots_t *from,
                                 const wtn_balance_slots_t *to, int64_t *move_count);

/* Exchange what the ranks of a new placement hold so that few weights move when it takes the place
 * of `current`, a placement of the same experts on the same ranks with any slots. In and out:
 * slot_expert as wtn_balance made it with `shape`; slot_owner is what came with it, and stays.
 *
 * Load and structure stay: with the hierarchical policy nodes as a whole, if they have equal ranks
 * and slots, then ranks within a node, if they have equal slots; with the global one any ranks with
 * equal slots. Nodes, then ranks, are matched greedily, the pair with the most experts in common
 * first; of two levels each keeps at least half of what its best matching would. Never moves more
 * than the placement as it came: if the matching is not better, the ranks stay. Last, an expert
 * that stays on its rank keeps its place among the rank's slots if the rank has that many.
 *
 * WITAN_E_MEMORY leaves slot_expert as it was. Time and memory grow with the sum over experts of
 * ranks that hold it now times ranks that are to hold it. */
witan_status_t wtn_balance_settle(const wtn_balance_shape_t *shape,
                                  const wtn_balance_slots_t *current, const int32_t *slot_owner,
                                  int32_t *slot_expert);

/* Change the placement slot_expert[R], slot_owner[R] (any order of slots; every expert has one)
 * only as far as `load` demands: while the imbalance is above imbalance_max, the busiest rank
 * exchanges an expert for a lighter one of another rank, or another rank gets a replica of one of
 * its experts in place of an expert that has replicas; always the change that lowers the sum of
 * squares of the loads most per weight that moves. With the hierarchical policy only within a node.
 * All other slots keep what they hold. *imbalance: what was reached; it may be above imbalance_max
 * when nothing helps, or after half a billion changes looked at, about a second. Each step looks at
 * R changes for each slot of the busiest rank. The same bits on every rank that computes it.
 * WITAN_E_ARGUMENT for bad loads and WITAN_E_MEMORY leave the placement as it was. */
witan_status_t wtn_balance_adjust(const wtn_balance_shape_t *shape, const float *load,
                                  const int32_t *slot_owner, double imbalance_max,
                                  int32_t *slot_expert, double *imbalance);

/* A placement for new loads to follow `current`: that one adjusted if it has as many slots and
 * imbalance_max is reached so; else wtn_balance and wtn_balance_settle, unless the adjusted one is
 * as good. imbalance_max 0: always the best of both. Fills slot_expert[R], slot_owner[R]. */
witan_status_t wtn_balance_renew(const wtn_balance_shape_t *shape, const float *load,
                                 double imbalance_max, const wtn_balance_slots_t *current,
                                 int32_t *slot_expert, int32_t *slot_owner);

#endif

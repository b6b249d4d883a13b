#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "topology/balance.h"

/* ---- a heap: the least key on top, of equal keys the lowest index ---- */

typedef struct entry {
    double  key; /* holds every float exactly */
    int32_t index;
} entry_t;

typedef struct heap {
    entry_t *entries;
    int32_t  count;
} heap_t;

static bool before(const entry_t *a, const entry_t *b)
{
    return a->key < b->key || (!(b->key < a->key) && a->index < b->index);
}

static void sift_down(heap_t *heap, int32_t at)
{
    entry_t moved = heap->entries[at];

    for (;;) {
        int32_t child = 2 * at + 1;

        if (child >= heap->count) {
            break;
        }
        if (child + 1 < heap->count && before(&heap->entries[child + 1], &heap->entries[child])) {
            child++;
        }
        if (before(&moved, &heap->entries[child])) {
            break;
        }
        heap->entries[at] = heap->entries[child];
        at                = child;
    }
    heap->entries[at] = moved;
}

static void make_heap(heap_t *heap)
{
    for (int32_t at = heap->count / 2 - 1; at >= 0; at--) {
        sift_down(heap, at);
    }
}

/* The indices of two entries differ, so that any sort gives the one order. */
static int compare_entries(const void *a, const void *b)
{
    return before(a, b) ? -1 : before(b, a);
}

/* ---- the two steps ---- */

/* Everything that is made on the way, in one block. */
typedef struct balance {
    wtn_balance_shape_t shape; /* with one group and one node when the policy is global */
    const float        *load;
    void               *block;
    entry_t            *entries;      /* [R + 1] what is sorted */
    heap_t              heap;         /* room for the most of E, D and N */
    float              *sums;         /* [max(D, N)] loads of packs */
    int32_t            *filled;       /* [max(D, N)] items in packs */
    int32_t            *item_at;      /* [R] the item at each place of the packs */
    float              *group_load;   /* [G] */
    int32_t            *group_begin;  /* [N + 1] places of each node's groups */
    int32_t            *node_expert;  /* [E] experts, node by node, in the order of the groups */
    int32_t            *expert_begin; /* [N + 1] where each node's begin */
    int32_t            *slot_begin;   /* [N + 1] */
    double             *node_share;   /* [N] ranks of the node */
    int32_t            *slot_item;    /* [R] within a node: index among the node's experts */
    float              *slot_load;    /* [R] */
    int32_t            *replicas;     /* [E] within a node */
    int32_t            *rank_begin;   /* [D + 1] slots of each rank within a node */
} balance_t;

/* Deal `count` items to packs; pack p has the places [begin[p], begin[p + 1]), begin[packs] ==
 * count. Loads of packs are compared per share[p]; NULL: all alike. Fills item_at[count]. */
static void pack(balance_t *b, const float *load, int32_t count, const int32_t *begin,
                 int32_t packs, const double *share)
{
    int32_t most = 0;

    b->heap.count = 0;
    for (int32_t p = 0; p < packs; p++) {
        int32_t room = begin[p + 1] - begin[p];

        most         = room > most ? room : most;
        b->sums[p]   = 0;
        b->filled[p] = 0;
        if (room > 0) {
            b->heap.entries[b->heap.count++] = (entry_t){0, p}; /* ascending: a heap already */
        }
    }
    if (most <= 1) {
        for (int32_t i = 0; i < count; i++) {
            b->item_at[i] = i;
        }
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        b->entries[i] = (entry_t){-(double)load[i], i};
    }
    qsort(b->entries, (size_t)count, sizeof(*b->entries), compare_entries);
    for (int32_t i = 0; i < count; i++) {
        entry_t *lightest = &b->heap.entries[0];
        int32_t  item = b->entries[i].index, p = lightest->index;

        b->item_at[begin[p] + b->filled[p]++] = item;
        b->sums[p] += load[item];
        lightest->key = (double)b->sums[p] / (share != NULL ? share[p] : 1.0);
        if (begin[p] + b->filled[p] == begin[p + 1]) {
            *lightest = b->heap.entries[--b->heap.count];
        }
        if (b->heap.count > 0) {
            sift_down(&b->heap, 0);
        }
    }
}

/* Give `count` experts `slots` slots. Fills slot_item[slots], slot_load[slots], replicas[count]. */
static void replicate(balance_t *b, const int32_t *experts, int32_t count, int32_t slots)
{
    b->heap.count = count;
    for (int32_t i = 0; i < count; i++) {
        b->slot_item[i]    = i;
        b->replicas[i]     = 1;
        b->heap.entries[i] = (entry_t){-(double)b->load[experts[i]], i};
    }
    make_heap(&b->heap);
    for (int32_t s = count; s < slots; s++) {
        int32_t item = b->heap.entries[0].index;

        b->slot_item[s] = item;
        b->replicas[item]++;
        b->heap.entries[0].key = -(double)(b->load[experts[item]] / (float)b->replicas[item]);
        sift_down(&b->heap, 0);
    }
    for (int32_t s = 0; s < slots; s++) {
        int32_t item = b->slot_item[s];

        b->slot_load[s] = b->load[experts[item]] / (float)b->replicas[item];
    }
}

/* ---- the whole ---- */

static int32_t part(int64_t total, int64_t count, int64_t index)
{
    return (int32_t)wtn_part_begin(total, count, index);
}

static int32_t node_rank_begin(const balance_t *b, int32_t node)
{
    return part(b->shape.rank_count, b->shape.node_count, node);
}

/* Step 1: groups to nodes. Fills node_expert and expert_begin. */
static void place_groups(balance_t *b)
{
    const wtn_balance_shape_t *s    = &b->shape;
    int32_t                    done = 0;

    for (int32_t g = 0; g < s->group_count; g++) {
        b->group_load[g] = 0;
        for (int32_t e = part(s->expert_count, s->group_count, g);
             e < part(s->expert_count, s->group_count, g + 1); e++) {
            b->group_load[g] += b->load[e];
        }
    }
    for (int32_t n = 0; n <= s->node_count; n++) {
        b->group_begin[n] =
            n + part(s->group_count - s->node_count, s->rank_count, node_rank_begin(b, n));
    }
    for (int32_t n = 0; n < s->node_count; n++) {
        b->node_share[n] = node_rank_begin(b, n + 1) - node_rank_begin(b, n);
    }
    pack(b, b->group_load, s->group_count, b->group_begin, s->node_count, b->node_share);
    for (int32_t n = 0; n < s->node_count; n++) {
        b->expert_begin[n] = done;
        for (int32_t at = b->group_begin[n]; at < b->group_begin[n + 1]; at++) {
            int32_t g = b->item_at[at];

            for (int32_t e = part(s->expert_count, s->group_count, g);
                 e < part(s->expert_count, s->group_count, g + 1); e++) {
                b->node_expert[done++] = e;
            }
        }
    }
    b->expert_begin[s->node_count] = done;
}

/* Slots of the nodes: shares by ranks, but never fewer than experts. With even counts the shares
 * are enough, since R >= E. */
static void share_slots(balance_t *b)
{
    const wtn_balance_shape_t *s       = &b->shape;
    int64_t                    missing = 0, spare = 0, spare_before = 0;

    for (int32_t n = 0; n <= s->node_count; n++) {
        b->slot_begin[n] = part(s->slot_count, s->rank_count, node_rank_begin(b, n));
    }
    for (int32_t n = 0; n < s->node_count; n++) {
        int64_t over = (int64_t)(b->slot_begin[n + 1] - b->slot_begin[n]) -
                       (b->expert_begin[n + 1] - b->expert_begin[n]);

        missing += over < 0 ? -over : 0;
        spare += over > 0 ? over : 0;
    }
    if (missing == 0 || spare == 0) {
        return;
    }
    /* missing <= spare, since E <= R: no node gives more than it has over. */
    for (int32_t n = 0, begin = 0, share_begin = 0; n < s->node_count; n++) {
        int32_t experts = b->expert_begin[n + 1] - b->expert_begin[n];
        int32_t share   = b->slot_begin[n + 1] - share_begin;
        int64_t over    = wtn_max_i64(share - experts, 0);
        int64_t given   = (spare_before + over) * missing / spare - spare_before * missing / spare;

        spare_before += over;
        share_begin = b->slot_begin[n + 1];
        begin += share < experts ? experts : share - (int32_t)given;
        b->slot_begin[n + 1] = begin;
    }
}

/* Steps 2 and 3 for one node: replicas, and these to its ranks. */
static void place_node(balance_t *b, int32_t node, int32_t *slot_expert, int32_t *slot_owner)
{
    const int32_t *experts = b->node_expert + b->expert_begin[node];
    int32_t        count   = b->expert_begin[node + 1] - b->expert_begin[node];
    int32_t        first   = b->slot_begin[node];
    int32_t        slots   = b->slot_begin[node + 1] - first;
    int32_t        rank    = node_rank_begin(b, node);
    int32_t        ranks   = node_rank_begin(b, node + 1) - rank;

    for (int32_t r = 0; r <= ranks; r++) {
        b->rank_begin[r] = part(slots, ranks, r);
    }
    replicate(b, experts, count, slots);
    pack(b, b->slot_load, slots, b->rank_begin, ranks, NULL);
    for (int32_t s = 0; s < slots; s++) {
        slot_expert[first + s] = experts[b->slot_item[b->item_at[s]]];
    }
    for (int32_t r = 0; r < ranks; r++) {
        for (int32_t s = b->rank_begin[r]; s < b->rank_begin[r + 1]; s++) {
            slot_owner[first + s] = rank + r;
        }
    }
}

static witan_status_t check_count(const char *name, int64_t found, int64_t least, int64_t most,
                                  const char *most_is)
{
    if (found < least || found > most) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "%s: expected %" PRId64 " to %" PRId64 "%s, found %" PRId64, name, least,
                         most, most_is, found);
    }
    return WITAN_OK;
}

witan_status_t wtn_balance_check(const wtn_balance_shape_t *s)
{
    const int64_t  most = WTN_BALANCE_COUNT_MAX;
    witan_status_t status;

    WTN_TRY(check_count("experts", s->expert_count, 1, most, ""));
    if (s->slot_count < s->expert_count || s->slot_count > most) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "slots: expected at least one for each of %" PRId32
                         " experts and at most %" PRId64 ", found %" PRId32,
                         s->expert_count, most, s->slot_count);
    }
    WTN_TRY(check_count("groups", s->group_count, 1, s->expert_count, " (the experts)"));
    WTN_TRY(check_count("ranks", s->rank_count, 1, most, ""));
    WTN_TRY(check_count("nodes", s->node_count, 1, s->rank_count, " (the ranks)"));

fail:
    return status;
}

witan_status_t wtn_balance_check_load(const wtn_balance_shape_t *shape, const float *load)
{
    double sum = 0;

    for (int32_t e = 0; e < shape->expert_count; e++) {
        if (!(load[e] >= 0) || isinf(load[e])) {
            return WTN_ERROR(WITAN_E_ARGUMENT,
                             "load of expert %" PRId32
                             ": expected a finite number of at least 0, found %g",
                             e, (double)load[e]);
        }
        sum += (double)load[e];
    }
    if (sum > (double)FLT_MAX / 2) { /* so that no sum of fp32 overflows */
        return WTN_ERROR(WITAN_E_ARGUMENT, "loads: expected a sum of at most %g, found %g",
                         (double)FLT_MAX / 2, sum);
    }
    return WITAN_OK;
}

static void carve(balance_t *b, wtn_carver_t *carver)
{
    const wtn_balance_shape_t *s = &b->shape;
    size_t E = (size_t)s->expert_count, R = (size_t)s->slot_count, G = (size_t)s->group_count;
    size_t N = (size_t)s->node_count, D = (size_t)s->rank_count;

    b->entries      = wtn_carve(carver, R, sizeof(*b->entries));
    b->heap.entries = wtn_carve(carver, E > D ? E : D, sizeof(*b->heap.entries));
    b->sums         = wtn_carve(carver, D, sizeof(*b->sums));
    b->filled       = wtn_carve(carver, D, sizeof(*b->filled));
    b->item_at      = wtn_carve(carver, R, sizeof(*b->item_at));
    b->group_load   = wtn_carve(carver, G, sizeof(*b->group_load));
    b->group_begin  = wtn_carve(carver, N + 1, sizeof(*b->group_begin));
    b->node_expert  = wtn_carve(carver, E, sizeof(*b->node_expert));
    b->expert_begin = wtn_carve(carver, N + 1, sizeof(*b->expert_begin));
    b->slot_begin   = wtn_carve(carver, N + 1, sizeof(*b->slot_begin));
    b->node_share   = wtn_carve(carver, N, sizeof(*b->node_share));
    b->slot_item    = wtn_carve(carver, R, sizeof(*b->slot_item));
    b->slot_load    = wtn_carve(carver, R, sizeof(*b->slot_load));
    b->replicas     = wtn_carve(carver, E, sizeof(*b->replicas));
    b->rank_begin   = wtn_carve(carver, D + 1, sizeof(*b->rank_begin));
}

witan_status_t wtn_balance(const wtn_balance_shape_t *shape, const float *load,
                           int32_t *slot_expert, int32_t *slot_owner)
{
    balance_t      b      = {.shape = *shape, .load = load};
    wtn_carver_t   carver = {NULL, 0};
    witan_status_t status;

    WTN_TRY(wtn_balance_check(shape));
    WTN_TRY(wtn_balance_check_load(shape, load));
    if (shape->group_count % shape->node_count != 0) {
        b.shape.group_count = 1;
        b.shape.node_count  = 1;
    }
    carve(&b, &carver);
    b.block = wtn_alloc(carver.bytes);
    if (b.block == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "balance: %zu bytes", carver.bytes);
    }
    carver = (wtn_carver_t){b.block, 0};
    carve(&b, &carver);
    place_groups(&b);
    share_slots(&b);
    for (int32_t n = 0; n < b.shape.node_count; n++) {
        place_node(&b, n, slot_expert, slot_owner);
    }
    wtn_free(b.block);

fail:
    return status;
}

/* ---- what a placement is worth ---- */

void wtn_balance_loads(const wtn_balance_shape_t *shape, const float *load,
                       const wtn_balance_slots_t *slots, int32_t *replica_count, double *rank_load)
{
    memset(replica_count, 0, (size_t)shape->expert_count * sizeof(*replica_count));
    memset(rank_load, 0, (size_t)shape->rank_count * sizeof(*rank_load));
    for (int32_t s = 0; s < slots->slot_count; s++) {
        replica_count[slots->expert != NULL ? slots->expert[s] : s]++;
    }
    for (int32_t s = 0; s < slots->slot_count; s++) {
        int32_t e = slots->expert != NULL ? slots->expert[s] : s;

        rank_load[slots->owner[s]] += (double)load[e] / replica_count[e];
    }
}

double wtn_balance_imbalance(const double *rank_load, int32_t rank_count)
{
    double sum = 0, most = 0;

    for (int32_t r = 0; r < rank_count; r++) {
        sum += rank_load[r];
        most = rank_load[r] > most ? rank_load[r] : most;
    }
    return sum > 0 ? most * rank_count / sum : 1;
}

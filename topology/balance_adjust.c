/* A placement changed where its load demands it, slot by slot. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "topology/balance.h"
#include "topology/slots_by_rank.h"

/* Changes that were looked at, after which the search ends: about a second. */
#define LOOKS_MAX ((int64_t)1 << 29)

/* Each step makes the sum of squares of the ranks' loads smaller, by at least this share of the
 * square of their mean: so the steps end, whatever rounding does. */
#define GAIN_MIN 1e-9

typedef struct adjust {
    const wtn_balance_shape_t *shape;
    const float               *load;
    const int32_t             *owner;
    int32_t                   *expert;
    wtn_slots_by_rank_t        ranks;
    int32_t                   *node;         /* [D] of a rank; all 0 with the global policy */
    int32_t                   *first, *next; /* [E], [R] slots of an expert; -1 ends the list */
    int32_t                   *count;        /* [E] replicas */
    double                    *rank_load;    /* [D] */
    int32_t                   *copies;       /* [D] of the expert that a busy rank is to lose */
    int32_t                   *other_copies; /* [D] of the expert that gives a slot */
    bool                      *on_busiest;   /* [E] */
    int64_t                    looks;
} adjust_t;

/* What to do with two slots: exchange their experts, or give `to` the expert of `from`. */
typedef struct change {
    double  score; /* how much smaller the sum of squares becomes, per weight moved */
    int32_t from, to;
    bool    exchange;
} change_t;

static double share(const adjust_t *a, int32_t expert)
{
    return (double)a->load[expert] / a->count[expert];
}

static void link_slot(adjust_t *a, int32_t slot)
{
    int32_t e = a->expert[slot];

    a->next[slot] = a->first[e];
    a->first[e]   = slot;
    a->count[e]++;
}

static void unlink_slot(adjust_t *a, int32_t slot)
{
    int32_t  e  = a->expert[slot];
    int32_t *at = &a->first[e];

    while (*at != slot) {
        at = &a->next[*at];
    }
    *at = a->next[slot];
    a->count[e]--;
}

/* Afresh from the slots, so that nothing gathers. */
static void sum_rank(adjust_t *a, int32_t rank)
{
    a->rank_load[rank] = 0;
    for (int32_t i = a->ranks.begin[rank]; i < a->ranks.begin[rank + 1]; i++) {
        a->rank_load[rank] += share(a, a->expert[a->ranks.slot[i]]);
    }
}

static void sum_ranks_of(adjust_t *a, int32_t expert)
{
    for (int32_t s = a->first[expert]; s >= 0; s = a->next[s]) {
        sum_rank(a, a->owner[s]);
    }
}

/* ---- the search for a change ---- */

/* Exchange `slot` of the busiest rank with a slot of a rank of its node, for a lighter expert. */
static void try_exchanges(adjust_t *a, int32_t slot, change_t *best)
{
    int32_t busiest = a->owner[slot], e = a->expert[slot];

    for (int32_t r = 0; r < a->shape->rank_count; r++) {
        if (r == busiest || a->copies[r] > 0 || a->node[r] != a->node[busiest]) {
            continue;
        }
        for (int32_t i = a->ranks.begin[r]; i < a->ranks.begin[r + 1]; i++) {
            int32_t other = a->ranks.slot[i], f = a->expert[other];
            double  less  = share(a, e) - share(a, f);
            double  score = less * (a->rank_load[busiest] - a->rank_load[r] - less); /* gain / 2 */

            if (less > 0 && score > best->score && !a->on_busiest[f]) {
                *best = (change_t){score, slot, other, true};
            }
        }
    }
}

/* Give the expert e of `slot` the slots of expert f, each in turn. With m copies of e and n of f on
 * a rank of load l, its load changes by x = n df - m de, or on the rank of the slot, which has no
 * e, by x = n df - f' + e': primes are shares afterwards, df and de by how much they rise and fall.
 * The gain is the sum of -(2 l x + x x) over ranks. */
static void try_slots_of(adjust_t *a, int32_t slot, int32_t f, double gain_e, change_t *best)
{
    int32_t e  = a->expert[slot];
    double  e1 = (double)a->load[e] / (a->count[e] + 1), de = share(a, e) - e1;
    double  f1 = (double)a->load[f] / (a->count[f] - 1), df = f1 - share(a, f);
    double  gain = gain_e;

    for (int32_t s = a->first[f]; s >= 0; s = a->next[s]) {
        a->other_copies[a->owner[s]]++;
    }
    for (int32_t s = a->first[f]; s >= 0; s = a->next[s]) { /* each adds its part of the rank's */
        int32_t r = a->owner[s];

        gain -= df * (2 * a->rank_load[r] + df * a->other_copies[r] - 2 * de * a->copies[r]);
    }
    for (int32_t s = a->first[f]; s >= 0; s = a->next[s]) {
        int32_t r = a->owner[s];
        double  l = a->rank_load[r], all = df * a->other_copies[r], x = all - f1 + e1;
        double  score = gain + (2 * l + all) * all - (2 * l + x) * x;

        if (score > best->score && a->copies[r] == 0 && a->node[r] == a->node[a->owner[slot]]) {
            *best = (change_t){score, slot, s, false};
        }
    }
    for (int32_t s = a->first[f]; s >= 0; s = a->next[s]) {
        a->other_copies[a->owner[s]] = 0;
    }
}

static void try_copies(adjust_t *a, int32_t slot, change_t *best)
{
    int32_t e    = a->expert[slot];
    double  de   = share(a, e) - (double)a->load[e] / (a->count[e] + 1);
    double  gain = 0;

    for (int32_t s = a->first[e]; s >= 0; s = a->next[s]) {
        int32_t r = a->owner[s];

        gain += de * (2 * a->rank_load[r] - de * a->copies[r]);
    }
    for (int32_t f = 0; f < a->shape->expert_count; f++) {
        if (f != e && a->count[f] > 1) {
            try_slots_of(a, slot, f, gain, best);
        }
    }
}

/* The best change that takes load from `rank`; from -1 if there is none. */
static change_t find_change(adjust_t *a, int32_t rank, double mean)
{
    const int32_t *slots = a->ranks.slot;
    int32_t        begin = a->ranks.begin[rank], end = a->ranks.begin[rank + 1];
    change_t       best = {GAIN_MIN * mean * mean, -1, -1, false};

    for (int32_t i = begin; i < end; i++) {
        a->on_busiest[a->expert[slots[i]]] = true;
    }
    for (int32_t i = begin; i < end; i++) {
        int32_t e = a->expert[slots[i]];

        if (!(a->load[e] > 0)) {
            continue;
        }
        for (int32_t s = a->first[e]; s >= 0; s = a->next[s]) {
            a->copies[a->owner[s]]++;
        }
        try_exchanges(a, slots[i], &best);
        try_copies(a, slots[i], &best);
        for (int32_t s = a->first[e]; s >= 0; s = a->next[s]) {
            a->copies[a->owner[s]] = 0;
        }
        a->looks += 2 * (int64_t)a->shape->slot_count + a->shape->expert_count;
    }
    for (int32_t i = begin; i < end; i++) {
        a->on_busiest[a->expert[slots[i]]] = false;
    }
    return best;
}

static void apply(adjust_t *a, const change_t *change)
{
    int32_t e = a->expert[change->from], f = a->expert[change->to];

    unlink_slot(a, change->to);
    a->expert[change->to] = e;
    link_slot(a, change->to);
    if (change->exchange) {
        unlink_slot(a, change->from);
        a->expert[change->from] = f;
        link_slot(a, change->from);
    }
    sum_ranks_of(a, e);
    sum_ranks_of(a, f);
}

/* ---- the whole ---- */

static void adjust_free(adjust_t *a)
{
    wtn_slots_by_rank_free(&a->ranks);
    free(a->node);
    free(a->first);
    free(a->next);
    free(a->count);
    free(a->rank_load);
    free(a->copies);
    free(a->other_copies);
    free(a->on_busiest);
}

static witan_status_t adjust_make(adjust_t *a)
{
    const wtn_balance_shape_t *shape = a->shape;
    size_t                     E = (size_t)shape->expert_count, R = (size_t)shape->slot_count;
    size_t                     D = (size_t)shape->rank_count;
    int32_t nodes = shape->group_count % shape->node_count == 0 ? shape->node_count : 1;

    a->node         = calloc(D, sizeof(*a->node));
    a->first        = calloc(E, sizeof(*a->first));
    a->next         = calloc(R, sizeof(*a->next));
    a->count        = calloc(E, sizeof(*a->count));
    a->rank_load    = calloc(D, sizeof(*a->rank_load));
    a->copies       = calloc(D, sizeof(*a->copies));
    a->other_copies = calloc(D, sizeof(*a->other_copies));
    a->on_busiest   = calloc(E, sizeof(*a->on_busiest));
    if (a->node == NULL || a->first == NULL || a->next == NULL || a->count == NULL ||
        a->rank_load == NULL || a->copies == NULL || a->other_copies == NULL ||
        a->on_busiest == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "placement: %zu slots on %zu ranks", R, D);
    }
    for (int32_t n = 0; n < nodes; n++) {
        for (int64_t r = wtn_part_begin(shape->rank_count, nodes, n);
             r < wtn_part_begin(shape->rank_count, nodes, n + 1); r++) {
            a->node[r] = n;
        }
    }
    memset(a->first, -1, E * sizeof(*a->first));
    for (int32_t s = shape->slot_count - 1; s >= 0; s--) {
        link_slot(a, s);
    }
    for (int32_t r = 0; r < shape->rank_count; r++) {
        sum_rank(a, r);
    }
    return WITAN_OK;
}

witan_status_t wtn_balance_adjust(const wtn_balance_shape_t *shape, const float *load,
                                  const int32_t *slot_owner, double imbalance_max,
                                  int32_t *slot_expert, double *imbalance)
{
    adjust_t       a = {.shape = shape, .load = load, .owner = slot_owner, .expert = slot_expert};
    double         mean = 0;
    witan_status_t status;

    WTN_TRY(wtn_balance_check_load(shape, load));
    WTN_TRY(wtn_slots_by_rank_make(&a.ranks, slot_owner, shape->slot_count, shape->rank_count));
    WTN_TRY(adjust_make(&a));
    for (int32_t e = 0; e < shape->expert_count; e++) {
        mean += (double)load[e] / shape->rank_count;
    }
    while ((*imbalance = wtn_balance_imbalance(a.rank_load, shape->rank_count)) > imbalance_max &&
           a.looks < LOOKS_MAX) {
        int32_t  busiest = 0;
        change_t change;

        for (int32_t r = 1; r < shape->rank_count; r++) {
            busiest = a.rank_load[r] > a.rank_load[busiest] ? r : busiest;
        }
        change = find_change(&a, busiest, mean);
        if (change.from < 0) {
            break;
        }
        apply(&a, &change);
    }

fail:
    adjust_free(&a);
    return status;
}

witan_status_t wtn_balance_renew(const wtn_balance_shape_t *shape, const float *load,
                                 double imbalance_max, const wtn_balance_slots_t *current,
                                 int32_t *slot_expert, int32_t *slot_owner)
{
    size_t         R    = (size_t)shape->slot_count;
    int32_t       *anew = NULL, *anew_owner = NULL, *count = NULL;
    double        *rank_load = NULL, adjusted = 0;
    bool           same = current->slot_count == shape->slot_count;
    witan_status_t status;

    WTN_TRY(wtn_balance_check(shape));
    if (same) {
        for (int32_t s = 0; s < shape->slot_count; s++) {
            slot_expert[s] = current->expert != NULL ? current->expert[s] : s;
            slot_owner[s]  = current->owner[s];
        }
        WTN_TRY(wtn_balance_adjust(shape, load, slot_owner, imbalance_max, slot_expert, &adjusted));
        if (adjusted <= imbalance_max) {
            return WITAN_OK;
        }
    }
    anew       = calloc(R, sizeof(*anew));
    anew_owner = calloc(R, sizeof(*anew_owner));
    count      = calloc((size_t)shape->expert_count, sizeof(*count));
    rank_load  = calloc((size_t)shape->rank_count, sizeof(*rank_load));
    if (anew == NULL || anew_owner == NULL || count == NULL || rank_load == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "placement: %zu slots", R);
        goto fail;
    }
    WTN_TRY(wtn_balance(shape, load, anew, anew_owner));
    WTN_TRY(wtn_balance_settle(shape, current, anew_owner, anew));
    wtn_balance_loads(shape, load, &(wtn_balance_slots_t){shape->slot_count, anew, anew_owner},
                      count, rank_load);
    if (!same || wtn_balance_imbalance(rank_load, shape->rank_count) < adjusted) {
        memcpy(slot_expert, anew, R * sizeof(*anew));
        memcpy(slot_owner, anew_owner, R * sizeof(*anew_owner));
    }

fail:
    free(anew);
    free(anew_owner);
    free(count);
    free(rank_load);
    return status;
}

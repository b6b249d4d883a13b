/* A new placement with its ranks renumbered, so that few weights move. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "topology/balance.h"
#include "topology/slots_by_rank.h"

static int32_t expert_of(const wtn_balance_slots_t *slots, int32_t s)
{
    return slots->expert != NULL ? slots->expert[s] : s;
}

static int64_t count_moves(const wtn_balance_slots_t *from, const wtn_slots_by_rank_t *from_ranks,
                           const wtn_balance_slots_t *to, const wtn_slots_by_rank_t *to_ranks,
                           int32_t rank_count, int32_t *seen) /* [E] zeros */
{
    int64_t moves = 0;

    for (int32_t r = 0; r < rank_count; r++) {
        for (int32_t i = from_ranks->begin[r]; i < from_ranks->begin[r + 1]; i++) {
            seen[expert_of(from, from_ranks->slot[i])] = r + 1;
        }
        for (int32_t i = to_ranks->begin[r]; i < to_ranks->begin[r + 1]; i++) {
            int32_t *mark = &seen[expert_of(to, to_ranks->slot[i])];

            moves += *mark != r + 1;
            *mark = r + 1;
        }
    }
    return moves;
}

witan_status_t wtn_balance_moves(const wtn_balance_shape_t *shape, const wtn_balance_slots_t *from,
                                 const wtn_balance_slots_t *to, int64_t *move_count)
{
    wtn_slots_by_rank_t from_ranks = {0}, to_ranks = {0};
    int32_t            *seen = calloc((size_t)shape->expert_count, sizeof(*seen));
    witan_status_t      status;

    status = seen != NULL
                 ? WITAN_OK
                 : WTN_ERROR(WITAN_E_MEMORY, "placement: %" PRId32 " experts", shape->expert_count);
    WTN_TRY(status);
    WTN_TRY(wtn_slots_by_rank_make(&from_ranks, from->owner, from->slot_count, shape->rank_count));
    WTN_TRY(wtn_slots_by_rank_make(&to_ranks, to->owner, to->slot_count, shape->rank_count));
    *move_count = count_moves(from, &from_ranks, to, &to_ranks, shape->rank_count, seen);

fail:
    wtn_slots_by_rank_free(&from_ranks);
    wtn_slots_by_rank_free(&to_ranks);
    free(seen);
    return status;
}

/* ---- matching ---- */

/* What the block of a rank, or of a node, has in common with what another holds now. */
typedef struct pair {
    int32_t common, from, to;
} pair_t;

/* A block without a match, or a place without a block. Equal classes may be exchanged. */
typedef struct rest {
    int32_t class_major, class_minor, index;
} rest_t;

typedef struct settle {
    const wtn_balance_shape_t *shape;
    wtn_balance_slots_t        current, target;
    wtn_slots_by_rank_t        current_ranks, target_ranks;
    int32_t                    node_count;        /* 1: the global policy */
    int32_t                   *node;              /* [D] of a rank */
    int32_t                   *node_slots;        /* [N] */
    int64_t                   *holder_begin;      /* [E + 1] */
    int32_t                   *holder;            /* ranks that hold an expert now, ascending */
    int32_t                   *seen;              /* [E] */
    int32_t                   *common;            /* [D] with the block at hand */
    int32_t                   *touched;           /* [D] those of `common` that are not 0 */
    int32_t                   *node_to, *rank_to; /* [N], [D] where a block goes; -1: not yet */
    rest_t                    *rest;              /* [2][D] without a match */
    pair_t                    *pairs;
    size_t                     pair_count, pair_capacity;
    int32_t                   *moved; /* [R] slot_expert after the exchange */
} settle_t;

static void settle_free(settle_t *s)
{
    wtn_slots_by_rank_free(&s->current_ranks);
    wtn_slots_by_rank_free(&s->target_ranks);
    free(s->node);
    free(s->node_slots);
    free(s->holder_begin);
    free(s->holder);
    free(s->seen);
    free(s->common);
    free(s->touched);
    free(s->node_to);
    free(s->rank_to);
    free(s->rest);
    free(s->pairs);
    free(s->moved);
}

static int32_t ranks_begin(const settle_t *s, int32_t node)
{
    return (int32_t)wtn_part_begin(s->shape->rank_count, s->node_count, node);
}

static int32_t rank_slots(const settle_t *s, int32_t rank)
{
    return s->target_ranks.begin[rank + 1] - s->target_ranks.begin[rank];
}

static witan_status_t settle_make(settle_t *s)
{
    size_t E = (size_t)s->shape->expert_count, R = (size_t)s->target.slot_count;
    size_t D = (size_t)s->shape->rank_count, N = (size_t)s->node_count;

    s->node         = calloc(D, sizeof(*s->node));
    s->node_slots   = calloc(N, sizeof(*s->node_slots));
    s->holder_begin = calloc(E + 2, sizeof(*s->holder_begin));
    s->holder       = calloc((size_t)s->current.slot_count + 1, sizeof(*s->holder));
    s->seen         = calloc(E, sizeof(*s->seen));
    s->common       = calloc(D, sizeof(*s->common));
    s->touched      = calloc(D, sizeof(*s->touched));
    s->node_to      = calloc(N, sizeof(*s->node_to));
    s->rank_to      = calloc(D, sizeof(*s->rank_to));
    s->rest         = calloc(2 * D, sizeof(*s->rest));
    s->moved        = calloc(R, sizeof(*s->moved));
    if (s->node == NULL || s->node_slots == NULL || s->holder_begin == NULL || s->holder == NULL ||
        s->seen == NULL || s->common == NULL || s->touched == NULL || s->node_to == NULL ||
        s->rank_to == NULL || s->rest == NULL || s->moved == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "placement: %zu slots on %zu ranks", R, D);
    }
    for (int32_t n = 0; n < s->node_count; n++) {
        for (int32_t r = ranks_begin(s, n); r < ranks_begin(s, n + 1); r++) {
            s->node[r] = n;
            s->node_slots[n] += rank_slots(s, r);
        }
    }
    return WITAN_OK;
}

/* Who holds what now, an expert twice on a rank once. */
static void list_holders(settle_t *s)
{
    for (int pass = 0; pass < 2; pass++) { /* count, then fill */
        memset(s->seen, 0, (size_t)s->shape->expert_count * sizeof(*s->seen));
        for (int32_t r = 0; r < s->shape->rank_count; r++) {
            for (int32_t i = s->current_ranks.begin[r]; i < s->current_ranks.begin[r + 1]; i++) {
                int32_t e = expert_of(&s->current, s->current_ranks.slot[i]);

                if (s->seen[e] == r + 1) {
                    continue;
                }
                s->seen[e] = r + 1;
                if (pass == 0) {
                    s->holder_begin[e + 2]++;
                } else {
                    s->holder[s->holder_begin[e + 1]++] = r;
                }
            }
        }
        for (int32_t e = 0; e < s->shape->expert_count && pass == 0; e++) {
            s->holder_begin[e + 2] += s->holder_begin[e + 1];
        }
    }
}

static witan_status_t add_pair(settle_t *s, pair_t pair)
{
    if (s->pair_count == s->pair_capacity) {
        size_t  wanted = s->pair_capacity == 0 ? 1024 : s->pair_capacity, bytes;
        pair_t *larger = NULL;

        if (wtn_mul(wanted, 2, &wanted) && wtn_mul(wanted, sizeof(*larger), &bytes)) {
            larger = realloc(s->pairs, bytes);
        }
        if (larger == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "placement: %zu pairs of ranks", wanted);
        }
        s->pairs         = larger;
        s->pair_capacity = wanted;
    }
    s->pairs[s->pair_count++] = pair;
    return WITAN_OK;
}

/* Count in common[] what the ranks [begin, end) are to hold and each node, or each rank, holds now;
 * returns how many are in touched[]. `mark` differs from call to call. */
static int32_t count_common(settle_t *s, int32_t begin, int32_t end, bool nodes, int32_t mark)
{
    int32_t count = 0;

    for (int32_t i = s->target_ranks.begin[begin]; i < s->target_ranks.begin[end]; i++) {
        int32_t e    = expert_of(&s->target, s->target_ranks.slot[i]);
        int32_t last = -1;

        if (s->seen[e] == mark) {
            continue;
        }
        s->seen[e] = mark;
        for (int64_t h = s->holder_begin[e]; h < s->holder_begin[e + 1]; h++) {
            int32_t at = nodes ? s->node[s->holder[h]] : s->holder[h];

            if (at == last) { /* ranks of a node follow each other */
                continue;
            }
            last = at;
            if (s->common[at]++ == 0) {
                s->touched[count++] = at;
            }
        }
    }
    return count;
}

static int compare_pairs(const void *a, const void *b)
{
    const pair_t *x = a, *y = b;

    if (x->common != y->common) {
        return x->common > y->common ? -1 : 1;
    }
    if (x->from != y->from) {
        return x->from < y->from ? -1 : 1;
    }
    return (x->to > y->to) - (x->to < y->to);
}

/* May block `from` take the place of block `to`? */
static bool exchangeable(const settle_t *s, bool nodes, int32_t from, int32_t to)
{
    if (nodes) {
        return ranks_begin(s, from + 1) - ranks_begin(s, from) ==
                   ranks_begin(s, to + 1) - ranks_begin(s, to) &&
               s->node_slots[from] == s->node_slots[to];
    }
    return s->node[to] == s->node_to[s->node[from]] && rank_slots(s, from) == rank_slots(s, to);
}

static int compare_rests(const void *a, const void *b)
{
    const rest_t *x = a, *y = b;

    if (x->class_major != y->class_major) {
        return x->class_major < y->class_major ? -1 : 1;
    }
    if (x->class_minor != y->class_minor) {
        return x->class_minor < y->class_minor ? -1 : 1;
    }
    return (x->index > y->index) - (x->index < y->index);
}

static rest_t rest_of(const settle_t *s, bool nodes, int32_t index, const int32_t *node_to)
{
    if (nodes) {
        return (rest_t){ranks_begin(s, index + 1) - ranks_begin(s, index), s->node_slots[index],
                        index};
    }
    return (rest_t){node_to != NULL ? node_to[s->node[index]] : s->node[index],
                    rank_slots(s, index), index};
}

/* Matches stay within classes, so each class has as many blocks left as places. */
static void match_rest(settle_t *s, bool nodes, int32_t count, int32_t *to)
{
    int32_t *taken  = s->touched;
    rest_t  *blocks = s->rest, *places = s->rest + count;
    int32_t  block_count = 0, place_count = 0;

    for (int32_t i = 0; i < count; i++) {
        if (to[i] < 0 && taken[i] == 0 && exchangeable(s, nodes, i, i)) {
            to[i]    = i;
            taken[i] = 1;
        }
    }
    for (int32_t i = 0; i < count; i++) {
        if (to[i] < 0) {
            blocks[block_count++] = rest_of(s, nodes, i, s->node_to);
        }
        if (taken[i] == 0) {
            places[place_count++] = rest_of(s, nodes, i, NULL);
        }
    }
    qsort(blocks, (size_t)block_count, sizeof(*blocks), compare_rests);
    qsort(places, (size_t)place_count, sizeof(*places), compare_rests);
    for (int32_t k = 0; k < block_count; k++) {
        to[blocks[k].index] = places[k].index;
    }
}

/* Match the blocks of nodes or of ranks: fills to[count]. */
static witan_status_t match(settle_t *s, bool nodes, int32_t count, int32_t *to)
{
    witan_status_t status = WITAN_OK;

    s->pair_count = 0;
    memset(s->seen, 0, (size_t)s->shape->expert_count * sizeof(*s->seen));
    for (int32_t i = 0; i < count; i++) {
        int32_t begin   = nodes ? ranks_begin(s, i) : i;
        int32_t end     = nodes ? ranks_begin(s, i + 1) : i + 1;
        int32_t touched = count_common(s, begin, end, nodes, i + 1);

        to[i] = -1;
        for (int32_t k = 0; k < touched; k++) {
            int32_t at = s->touched[k];

            if (exchangeable(s, nodes, i, at)) {
                WTN_TRY(add_pair(s, (pair_t){s->common[at], i, at}));
            }
            s->common[at] = 0;
        }
    }
    if (s->pair_count > 0) {
        qsort(s->pairs, s->pair_count, sizeof(*s->pairs), compare_pairs);
    }
    memset(s->touched, 0, (size_t)count * sizeof(*s->touched)); /* places that are taken */
    for (size_t p = 0; p < s->pair_count; p++) {
        const pair_t *pair = &s->pairs[p];

        if (to[pair->from] < 0 && s->touched[pair->to] == 0) {
            to[pair->from]       = pair->to;
            s->touched[pair->to] = 1;
        }
    }
    match_rest(s, nodes, count, to);

fail:
    return status;
}

/* ---- the exchange ---- */

/* moved[]: the block of each rank at its new rank. */
static void exchange(settle_t *s)
{
    for (int32_t r = 0; r < s->shape->rank_count; r++) {
        int32_t from = s->target_ranks.begin[r], to = s->target_ranks.begin[s->rank_to[r]];

        memcpy(s->moved + to, s->target.expert + from,
               (size_t)rank_slots(s, r) * sizeof(*s->moved));
    }
}

/* Within each rank: what stays keeps its place, the rest fills the others in its order. */
static void keep_places(settle_t *s, int32_t *slot_expert)
{
    int32_t *wanted = s->seen; /* slots an expert still needs on this rank */

    memset(wanted, 0, (size_t)s->shape->expert_count * sizeof(*wanted));
    for (int32_t r = 0; r < s->shape->rank_count; r++) {
        int32_t begin = s->target_ranks.begin[r], end = s->target_ranks.begin[r + 1];
        int32_t now = s->current_ranks.begin[r], next = begin;
        int32_t held = s->current_ranks.begin[r + 1] - now;

        for (int32_t i = begin; i < end; i++) {
            wanted[s->moved[i]]++;
            slot_expert[i] = -1;
        }
        for (int32_t i = 0; i < held && begin + i < end; i++) {
            int32_t e = expert_of(&s->current, s->current_ranks.slot[now + i]);

            if (wanted[e] > 0) {
                wanted[e]--;
                slot_expert[begin + i] = e;
            }
        }
        for (int32_t i = begin; i < end; i++) {
            if (wanted[s->moved[i]] == 0) {
                continue;
            }
            wanted[s->moved[i]]--;
            while (slot_expert[next] >= 0) {
                next++;
            }
            slot_expert[next] = s->moved[i];
        }
    }
}

witan_status_t wtn_balance_settle(const wtn_balance_shape_t *shape,
                                  const wtn_balance_slots_t *current, const int32_t *slot_owner,
                                  int32_t *slot_expert)
{
    settle_t            s = {.shape   = shape,
                             .current = *current,
                             .target  = {shape->slot_count, slot_expert, slot_owner},
                             .node_count =
                      shape->group_count % shape->node_count == 0 ? shape->node_count : 1};
    wtn_balance_slots_t exchanged;
    int64_t             moves_as_came, moves;
    witan_status_t      status;

    WTN_TRY(wtn_slots_by_rank_make(&s.current_ranks, current->owner, current->slot_count,
                                   shape->rank_count));
    WTN_TRY(
        wtn_slots_by_rank_make(&s.target_ranks, slot_owner, shape->slot_count, shape->rank_count));
    WTN_TRY(settle_make(&s));
    list_holders(&s);
    WTN_TRY(match(&s, true, s.node_count, s.node_to));
    WTN_TRY(match(&s, false, shape->rank_count, s.rank_to));
    exchange(&s);
    exchanged = (wtn_balance_slots_t){shape->slot_count, s.moved, slot_owner};
    memset(s.seen, 0, (size_t)shape->expert_count * sizeof(*s.seen));
    moves_as_came = count_moves(&s.current, &s.current_ranks, &s.target, &s.target_ranks,
                                shape->rank_count, s.seen);
    memset(s.seen, 0, (size_t)shape->expert_count * sizeof(*s.seen));
    moves = count_moves(&s.current, &s.current_ranks, &exchanged, &s.target_ranks,
                        shape->rank_count, s.seen);
    if (moves >= moves_as_came) {
        memcpy(s.moved, slot_expert, (size_t)shape->slot_count * sizeof(*s.moved));
    }
    keep_places(&s, slot_expert);

fail:
    settle_free(&s);
    return status;
}

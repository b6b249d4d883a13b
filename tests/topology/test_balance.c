/* Expert load balancing: the published example, and the fast form against one that is written
 * straight from the description, with scans instead of heaps. */
#include <check.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/error.h"
#include "core/util.h"
#include "topology/balance.h"

#define EXPERTS_MAX 160
#define SLOTS_MAX   400
#define RANKS_MAX   64

/* ---- the description, scalar ---- */

/* Item of the highest load that is not yet done, the first on a tie. */
static int32_t highest(const float *load, const bool *done, int32_t count)
{
    int32_t best = -1;

    for (int32_t i = 0; i < count; i++) {
        if (!done[i] && (best < 0 || load[i] > load[best])) {
            best = i;
        }
    }
    return best;
}

/* pack_of[] and place[] (within the pack) of each item. */
static void reference_pack(const float *load, int32_t count, const int32_t *room, int32_t packs,
                           const int32_t *ranks, int32_t *pack_of, int32_t *place)
{
    float   sum[RANKS_MAX]      = {0};
    int32_t filled[RANKS_MAX]   = {0};
    bool    done[SLOTS_MAX + 1] = {false}, single = true;

    for (int32_t p = 0; p < packs; p++) {
        single = single && room[p] <= 1;
    }
    for (int32_t n = 0; n < count; n++) {
        int32_t item = single ? n : highest(load, done, count), chosen = -1;

        for (int32_t p = 0; p < packs; p++) {
            if (filled[p] == room[p]) {
                continue;
            }
            if (chosen < 0 ||
                (!single && (double)sum[p] / ranks[p] < (double)sum[chosen] / ranks[chosen])) {
                chosen = p;
            }
        }
        done[item]    = true;
        pack_of[item] = chosen;
        place[item]   = filled[chosen]++;
        sum[chosen] += load[item];
    }
}

static int32_t share(int32_t total, int32_t count, int32_t index)
{
    return (int32_t)((int64_t)total * index / count);
}

/* Slots of the nodes: by ranks; missing ones are given, to the one, by those that have some over,
 * in proportion. */
static void reference_node_slots(const wtn_balance_shape_t *s, int32_t N, const int32_t *experts,
                                 const int32_t *ranks, int32_t *slots)
{
    int32_t missing = 0, over = 0, over_before = 0, rank = 0;

    for (int32_t n = 0; n < N; n++) {
        slots[n] = share(s->slot_count, s->rank_count, rank + ranks[n]) -
                   share(s->slot_count, s->rank_count, rank);
        rank += ranks[n];
        missing += slots[n] < experts[n] ? experts[n] - slots[n] : 0;
        over += slots[n] > experts[n] ? slots[n] - experts[n] : 0;
    }
    for (int32_t n = 0; n < N && missing > 0; n++) {
        int32_t mine = slots[n] - experts[n];

        if (mine <= 0) {
            slots[n] = experts[n];
            continue;
        }
        slots[n] -= share(missing, over, over_before + mine) - share(missing, over, over_before);
        over_before += mine;
    }
}

/* One node: its experts, in order, to its slots and ranks. */
static void reference_node(const float *load, const int32_t *experts, int32_t count, int32_t slots,
                           int32_t ranks, int32_t *slot_expert, int32_t *slot_rank)
{
    int32_t copies[EXPERTS_MAX] = {0}, item[SLOTS_MAX], room[RANKS_MAX] = {0}, one[RANKS_MAX];
    int32_t rank_of[SLOTS_MAX], place[SLOTS_MAX];
    float   slot_load[SLOTS_MAX];

    for (int32_t s = 0; s < slots; s++) {
        int32_t best = s;

        if (s >= count) {
            best = 0;
            for (int32_t i = 1; i < count; i++) {
                if (load[experts[i]] / (float)copies[i] >
                    load[experts[best]] / (float)copies[best]) {
                    best = i;
                }
            }
        }
        item[s]      = best;
        copies[best] = s < count ? 1 : copies[best] + 1;
    }
    for (int32_t s = 0; s < slots; s++) {
        slot_load[s] = load[experts[item[s]]] / (float)copies[item[s]];
    }
    for (int32_t r = 0; r < ranks; r++) {
        room[r] = share(slots, ranks, r + 1) - share(slots, ranks, r);
        one[r]  = 1;
    }
    reference_pack(slot_load, slots, room, ranks, one, rank_of, place);
    for (int32_t s = 0; s < slots; s++) {
        int32_t at = share(slots, ranks, rank_of[s]) + place[s];

        slot_expert[at] = experts[item[s]];
        slot_rank[at]   = rank_of[s];
    }
}

static void reference(const wtn_balance_shape_t *s, const float *load, int32_t *slot_expert,
                      int32_t *slot_owner)
{
    bool    hierarchical = s->group_count % s->node_count == 0;
    int32_t G = hierarchical ? s->group_count : 1, N = hierarchical ? s->node_count : 1;
    float   group_load[EXPERTS_MAX] = {0};
    int32_t room[RANKS_MAX] = {0}, ranks[RANKS_MAX] = {0}, count[RANKS_MAX] = {0};
    int32_t slots[RANKS_MAX];
    int32_t node[EXPERTS_MAX], place[EXPERTS_MAX], experts[RANKS_MAX][EXPERTS_MAX];
    int32_t done = 0, rank = 0;

    for (int32_t g = 0; g < G; g++) {
        for (int32_t e = share(s->expert_count, G, g); e < share(s->expert_count, G, g + 1); e++) {
            group_load[g] += load[e];
        }
    }
    for (int32_t n = 0; n < N; n++) {
        int32_t begin = share(s->rank_count, N, n), end = share(s->rank_count, N, n + 1);

        ranks[n] = end - begin;
        room[n]  = 1 + share(G - N, s->rank_count, end) - share(G - N, s->rank_count, begin);
    }
    reference_pack(group_load, G, room, N, ranks, node, place);
    for (int32_t n = 0; n < N; n++) {
        for (int32_t p = 0; p < room[n]; p++) {
            for (int32_t g = 0; g < G; g++) {
                if (node[g] != n || place[g] != p) {
                    continue;
                }
                for (int32_t e = share(s->expert_count, G, g); e < share(s->expert_count, G, g + 1);
                     e++) {
                    experts[n][count[n]++] = e;
                }
            }
        }
    }
    reference_node_slots(s, N, count, ranks, slots);
    for (int32_t n = 0; n < N; n++) {
        reference_node(load, experts[n], count[n], slots[n], ranks[n], slot_expert + done,
                       slot_owner + done);
        for (int32_t i = done; i < done + slots[n]; i++) {
            slot_owner[i] += rank;
        }
        done += slots[n];
        rank += ranks[n];
    }
    ck_assert_int_eq(done, s->slot_count);
}

/* ---- loads and shapes ---- */

static uint64_t random_state;

static int32_t draw(int32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (int32_t)((random_state >> 33) % (uint64_t)below);
}

/* Kinds of loads: counts, many ties, all zero, mostly zero, skewed, fractions, denormal. */
#define LOAD_KINDS 7

static void draw_loads(float *load, int32_t count, int32_t kind)
{
    for (int32_t e = 0; e < count; e++) {
        float fraction = (float)draw(1 << 24) / 7.0f;

        switch (kind) {
        case 0:
            load[e] = (float)draw(1000);
            break;
        case 1:
            load[e] = (float)draw(3);
            break;
        case 2:
            load[e] = 0;
            break;
        case 3:
            load[e] = draw(4) == 0 ? (float)draw(100) : 0;
            break;
        case 4:
            load[e] = (float)(int32_t)(1e5 / pow(1 + draw(count), 1.2));
            break;
        case 5:
            load[e] = fraction;
            break;
        default:
            load[e] = fraction * 1e-45f;
            break;
        }
    }
}

/* Counts that fit each other as the published algorithm wants, or any. */
static wtn_balance_shape_t draw_shape(bool even)
{
    wtn_balance_shape_t s;

    if (even) {
        s.node_count   = 1 + draw(4);
        s.rank_count   = s.node_count * (1 + draw(8));
        s.group_count  = 1 + draw(12);
        s.expert_count = s.group_count * (1 + draw(12));
        s.slot_count   = ((s.expert_count - 1) / s.rank_count + 1 + draw(4)) * s.rank_count;
    } else {
        s.expert_count = 1 + draw(EXPERTS_MAX - 1);
        s.slot_count   = s.expert_count + (draw(3) == 0 ? 0 : draw(100));
        s.rank_count   = 1 + draw(RANKS_MAX - 1);
        s.node_count   = 1 + draw(draw(2) == 0 ? s.rank_count : (s.rank_count + 3) / 4);
        s.group_count  = 1 + draw(s.expert_count);
        if (draw(2) == 0 && s.node_count <= s.expert_count) { /* hierarchical */
            s.group_count = s.node_count * (1 + draw(s.expert_count / s.node_count));
        }
    }
    return s;
}

static void check_invariants(const wtn_balance_shape_t *s, const int32_t *slot_expert,
                             const int32_t *slot_owner)
{
    int32_t copies[EXPERTS_MAX] = {0}, held[RANKS_MAX] = {0}, home[EXPERTS_MAX];
    bool    hierarchical = s->group_count % s->node_count == 0;
    bool    even = s->expert_count % s->group_count == 0 && s->rank_count % s->node_count == 0 &&
                s->slot_count % s->rank_count == 0;

    memset(home, -1, sizeof(home));
    for (int32_t i = 0; i < s->slot_count; i++) {
        ck_assert_int_ge(slot_expert[i], 0);
        ck_assert_int_lt(slot_expert[i], s->expert_count);
        ck_assert_int_ge(slot_owner[i], i > 0 ? slot_owner[i - 1] : 0);
        ck_assert_int_lt(slot_owner[i], s->rank_count);
        copies[slot_expert[i]]++;
        held[slot_owner[i]]++;
    }
    for (int32_t e = 0; e < s->expert_count; e++) {
        ck_assert_int_ge(copies[e], 1);
    }
    for (int32_t r = 0; r < s->rank_count; r++) {
        int32_t share_down = s->slot_count / s->rank_count;

        if (even) {
            ck_assert_int_eq(held[r], share_down);
        } else if (!hierarchical || s->node_count == 1) {
            ck_assert_int_ge(held[r], share_down);
            ck_assert_int_le(held[r], share_down + 1);
        }
    }
    for (int32_t i = 0; i < s->slot_count && hierarchical; i++) {
        int32_t g = 0, n = 0;

        while (share(s->expert_count, s->group_count, g + 1) <= slot_expert[i]) {
            g++;
        }
        while (share(s->rank_count, s->node_count, n + 1) <= slot_owner[i]) {
            n++;
        }
        ck_assert(home[g] < 0 || home[g] == n); /* a group stays on one node */
        home[g] = n;
    }
}

/* ---- tests ---- */

static const float published_load[2][12] = {
    {90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
    {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27},
};
static const int32_t published_slots[2][16] = {
    {5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1},
    {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1},
};

START_TEST(test_balance_published_example_equals)
{
    const wtn_balance_shape_t shape = {12, 16, 4, 2, 8};
    int32_t                   expert[16], owner[16], copies[12];
    double                    rank_load[8];

    ck_assert_int_eq(wtn_balance(&shape, published_load[_i], expert, owner), WITAN_OK);
    for (int32_t s = 0; s < 16; s++) {
        ck_assert_int_eq(expert[s], published_slots[_i][s]);
        ck_assert_int_eq(owner[s], s / 2);
    }
    wtn_balance_loads(&shape, published_load[_i], &(wtn_balance_slots_t){16, expert, owner}, copies,
                      rank_load);
    if (_i == 0) { /* ranks hold 5 6 | 5 7 | 8 4 | 3 4 | 10 9 | 10 2 | 0 1 | 11 1 */
        const double expected[8] = {121.5, 86.5, 125, 113, 147.5, 131.5, 156, 152};

        for (int32_t r = 0; r < 8; r++) {
            ck_assert_double_eq(rank_load[r], expected[r]);
        }
        ck_assert_double_eq_tol(wtn_balance_imbalance(rank_load, 8), 156 * 8 / 1033.0, 1e-12);
    }
}
END_TEST

static void compare_one(bool even, int32_t kind)
{
    wtn_balance_shape_t s = draw_shape(even);
    float               load[EXPERTS_MAX];
    int32_t expert[SLOTS_MAX], owner[SLOTS_MAX], expected[SLOTS_MAX], expected_owner[SLOTS_MAX];

    draw_loads(load, s.expert_count, kind);
    ck_assert_msg(wtn_balance(&s, load, expert, owner) == WITAN_OK, "%s", witan_last_error());
    reference(&s, load, expected, expected_owner);
    for (int32_t i = 0; i < s.slot_count; i++) {
        ck_assert_msg(
            expert[i] == expected[i] && owner[i] == expected_owner[i],
            "E %d R %d G %d N %d D %d, loads of kind %d: slot %d has expert %d on rank %d, "
            "expected %d on %d",
            s.expert_count, s.slot_count, s.group_count, s.node_count, s.rank_count, kind, i,
            expert[i], owner[i], expected[i], expected_owner[i]);
    }
    check_invariants(&s, expert, owner);
}

START_TEST(test_balance_random_shapes_equal_reference)
{
    random_state = (uint64_t)_i + 1;
    for (int32_t n = 0; n < 120; n++) {
        compare_one(n % 2 == 0, _i);
    }
}
END_TEST

/* Shapes at the edges, loads 1, 2, 3, ...; the whole placement by hand. */
static const struct {
    wtn_balance_shape_t shape;
    int32_t             expert[8], owner[8];
} edges[] = {
    {{1, 1, 1, 1, 1}, {0}, {0}},
    {{1, 3, 1, 1, 2}, {0, 0, 0}, {0, 1, 1}},
    /* ranks without a slot */
    {{2, 2, 1, 1, 4}, {0, 1}, {1, 3}},
    /* 2 and 1 | 1.5 and 1.5 */
    {{3, 4, 1, 1, 2}, {1, 0, 2, 2}, {0, 0, 1, 1}},
    /* a node of one rank, a node of two */
    {{3, 3, 2, 2, 3}, {0, 1, 2}, {0, 1, 2}},
    /* the first node's share is one slot, its experts are two: the second gives one */
    {{4, 4, 2, 2, 3}, {1, 0, 2, 3}, {0, 0, 1, 2}},
    /* 2 nodes do not divide 3 groups, so global: 2 and 1.5 | 2 and 1.5 | 2 and 1 */
    {{4, 6, 3, 2, 3}, {1, 2, 3, 2, 3, 0}, {0, 0, 1, 1, 2, 2}},
};

START_TEST(test_balance_edge_shapes_equal_by_hand)
{
    const float load[4] = {1, 2, 3, 4};
    int32_t     expert[8], owner[8];

    ck_assert_int_eq(wtn_balance(&edges[_i].shape, load, expert, owner), WITAN_OK);
    for (int32_t s = 0; s < edges[_i].shape.slot_count; s++) {
        ck_assert_int_eq(expert[s], edges[_i].expert[s]);
        ck_assert_int_eq(owner[s], edges[_i].owner[s]);
    }
}
END_TEST

/* Far beyond any in use: 0.1 s, where scans would take minutes. */
START_TEST(test_balance_large_counts_is_quick)
{
    const wtn_balance_shape_t shape = {65536, 131072, 1024, 64, 4096};

    float   *load      = calloc(65536, sizeof(*load));
    int32_t *expert    = calloc(131072, sizeof(*expert));
    int32_t *owner     = calloc(131072, sizeof(*owner));
    int32_t *copies    = calloc(65536, sizeof(*copies));
    double  *rank_load = calloc(4096, sizeof(*rank_load));
    clock_t  begin;

    for (uint32_t e = 0; e < 65536; e++) {
        load[e] = 1e6f / powf((float)(1 + (e * 40503) % 65536), 1.2f);
    }
    begin = clock();
    ck_assert_int_eq(wtn_balance(&shape, load, expert, owner), WITAN_OK);
    ck_assert_double_lt((double)(clock() - begin) / CLOCKS_PER_SEC, 4);
    wtn_balance_loads(&shape, load, &(wtn_balance_slots_t){131072, expert, owner}, copies,
                      rank_load);
    for (uint32_t e = 0; e < 65536; e++) {
        ck_assert_int_ge(copies[e], 1);
    }
    free(load);
    free(expert);
    free(owner);
    free(copies);
    free(rank_load);
}
END_TEST

static const struct {
    wtn_balance_shape_t shape;
    const char         *text;
} bad_shapes[] = {
    {{0, 4, 1, 1, 1}, "experts: expected 1 to 16777216, found 0"},
    {{4, 3, 1, 1, 1}, "slots: expected at least one for each of 4 experts"},
    {{4, WTN_BALANCE_COUNT_MAX + 1, 1, 1, 1}, "at most 16777216, found 16777217"},
    {{4, 4, 5, 1, 1}, "groups: expected 1 to 4 (the experts), found 5"},
    {{4, 4, 0, 1, 1}, "groups: "},
    {{4, 4, 1, 3, 2}, "nodes: expected 1 to 2 (the ranks), found 3"},
    {{4, 4, 1, -1, 2}, "nodes: "},
    {{4, 4, 1, 1, 0}, "ranks: "},
    {{4, 4, 1, 1, INT32_MAX}, "ranks: "},
};

START_TEST(test_balance_bad_shape_is_refused_by_name)
{
    const float load[4] = {1, 2, 3, 4};
    int32_t     expert[4], owner[4];

    ck_assert_int_eq(wtn_balance(&bad_shapes[_i].shape, load, expert, owner), WITAN_E_ARGUMENT);
    ck_assert_msg(strstr(witan_last_error(), bad_shapes[_i].text) != NULL, "%s",
                  witan_last_error());
}
END_TEST

START_TEST(test_balance_bad_load_is_refused_by_name)
{
    const float               bad[]   = {NAN, -NAN, INFINITY, -INFINITY, -1, -1e-45f};
    const wtn_balance_shape_t shape   = {4, 4, 1, 1, 2};
    float                     load[4] = {1, 2, 3, 4};
    int32_t                   expert[4], owner[4];

    for (size_t i = 0; i < WTN_COUNT_OF(bad); i++) {
        load[2] = bad[i];
        ck_assert_int_eq(wtn_balance(&shape, load, expert, owner), WITAN_E_ARGUMENT);
        ck_assert_ptr_nonnull(strstr(witan_last_error(), "load of expert 2: expected a finite"));
    }
    load[2] = FLT_MAX;
    ck_assert_int_eq(wtn_balance(&shape, load, expert, owner), WITAN_E_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "loads: expected a sum of at most"));
    load[2] = -0.0f;
    ck_assert_int_eq(wtn_balance(&shape, load, expert, owner), WITAN_OK);
}
END_TEST

START_TEST(test_imbalance_without_load_is_one)
{
    const double none[3] = {0, 0, 0}, one[3] = {6, 0, 0};

    ck_assert_double_eq(wtn_balance_imbalance(none, 3), 1);
    ck_assert_double_eq(wtn_balance_imbalance(one, 3), 3);
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("balance");
    TCase   *tcase  = tcase_create("balance");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_balance_published_example_equals, 0, 2);
    tcase_add_loop_test(tcase, test_balance_random_shapes_equal_reference, 0, LOAD_KINDS);
    tcase_add_loop_test(tcase, test_balance_edge_shapes_equal_by_hand, 0, (int)WTN_COUNT_OF(edges));
    tcase_add_test(tcase, test_balance_large_counts_is_quick);
    tcase_add_loop_test(tcase, test_balance_bad_shape_is_refused_by_name, 0,
                        (int)WTN_COUNT_OF(bad_shapes));
    tcase_add_test(tcase, test_balance_bad_load_is_refused_by_name);
    tcase_add_test(tcase, test_imbalance_without_load_is_one);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

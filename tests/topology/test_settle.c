/* Renumbering the ranks of a new placement: nothing lost, structure kept, few weights moved. */
#include <check.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "topology/balance.h"

#define EXPERTS_MAX 40
#define SLOTS_MAX   120
#define RANKS_MAX   24

static uint64_t random_state;

static int32_t draw(int32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (int32_t)((random_state >> 33) % (uint64_t)below);
}

typedef struct placement {
    wtn_balance_shape_t shape;
    int32_t             expert[SLOTS_MAX], owner[SLOTS_MAX];
} placement_t;

static wtn_balance_slots_t slots_of(const placement_t *p)
{
    return (wtn_balance_slots_t){p->shape.slot_count, p->expert, p->owner};
}

static void balance_random(placement_t *p)
{
    float load[EXPERTS_MAX];

    for (int32_t e = 0; e < p->shape.expert_count; e++) {
        load[e] = (float)(1 + draw(100));
    }
    ck_assert_int_eq(wtn_balance(&p->shape, load, p->expert, p->owner), WITAN_OK);
}

/* How many slots of `rank` hold `expert`. */
static int32_t held(const placement_t *p, int32_t rank, int32_t expert)
{
    int32_t count = 0;

    for (int32_t s = 0; s < p->shape.slot_count; s++) {
        count += p->owner[s] == rank && p->expert[s] == expert;
    }
    return count;
}

static bool same_block(const placement_t *a, int32_t rank_a, const placement_t *b, int32_t rank_b)
{
    for (int32_t e = 0; e < a->shape.expert_count; e++) {
        if (held(a, rank_a, e) != held(b, rank_b, e)) {
            return false;
        }
    }
    return true;
}

/* Moves when block r of `to` goes to rank[r]. */
static int64_t reference_moves(const placement_t *from, const placement_t *to, const int32_t *rank)
{
    int64_t moves = 0;

    for (int32_t r = 0; r < to->shape.rank_count; r++) {
        for (int32_t e = 0; e < to->shape.expert_count; e++) {
            moves += held(to, r, e) > 0 && held(from, rank[r], e) == 0;
        }
    }
    return moves;
}

static int64_t moves(const placement_t *from, const placement_t *to)
{
    wtn_balance_slots_t a = slots_of(from), b = slots_of(to);
    int64_t             count;

    ck_assert_int_eq(wtn_balance_moves(&to->shape, &a, &b, &count), WITAN_OK);
    return count;
}

static void settle(const placement_t *current, placement_t *target)
{
    wtn_balance_slots_t now = slots_of(current);

    ck_assert_int_eq(wtn_balance_settle(&target->shape, &now, target->owner, target->expert),
                     WITAN_OK);
}

static int32_t node_begin(const wtn_balance_shape_t *s, int32_t n)
{
    int32_t N = s->group_count % s->node_count == 0 ? s->node_count : 1;

    return (int32_t)wtn_part_begin(s->rank_count, N, n);
}

/* Does `after` hold on ranks [a, a + count) the blocks of `before` on [b, b + count), in any order?
 */
static bool same_blocks(const placement_t *after, int32_t a, const placement_t *before, int32_t b,
                        int32_t count)
{
    bool used[RANKS_MAX] = {false};

    for (int32_t i = 0; i < count; i++) {
        int32_t k = 0;

        while (k < count && (used[k] || !same_block(after, a + i, before, b + k))) {
            k++;
        }
        if (k == count) {
            return false;
        }
        used[k] = true;
    }
    return true;
}

/* Every node of `after` is a node of `before` of as many ranks, each once. */
static void check_structure(const placement_t *after, const placement_t *before)
{
    const wtn_balance_shape_t *s = &before->shape;
    int32_t                    N = s->group_count % s->node_count == 0 ? s->node_count : 1;
    bool                       used[RANKS_MAX] = {false};

    for (int32_t n = 0; n < N; n++) {
        int32_t ranks = node_begin(s, n + 1) - node_begin(s, n), m = 0;

        while (m < N && (used[m] || node_begin(s, m + 1) - node_begin(s, m) != ranks ||
                         !same_blocks(after, node_begin(s, n), before, node_begin(s, m), ranks))) {
            m++;
        }
        ck_assert_int_lt(m, N);
        used[m] = true;
    }
}

static wtn_balance_shape_t draw_shape(void)
{
    wtn_balance_shape_t s;

    s.expert_count = 1 + draw(EXPERTS_MAX);
    s.slot_count   = s.expert_count + draw(SLOTS_MAX - EXPERTS_MAX);
    s.rank_count   = 1 + draw(RANKS_MAX);
    s.node_count   = 1 + draw(s.rank_count < 5 ? s.rank_count : 5);
    s.group_count  = 1 + draw(s.expert_count);
    if (draw(2) == 0 && s.node_count <= s.expert_count) {
        s.group_count = s.node_count * (1 + draw(s.expert_count / s.node_count));
    }
    if (draw(2) == 0) {
        s.slot_count = ((s.expert_count - 1) / s.rank_count + 1) * s.rank_count;
    }
    return s;
}

START_TEST(test_settle_random_keeps_structure_and_moves_no_more)
{
    random_state = (uint64_t)_i + 1;
    for (int32_t n = 0; n < 100; n++) {
        placement_t current, target, settled;
        int32_t     identity[RANKS_MAX];
        int64_t     before, after;

        for (int32_t r = 0; r < RANKS_MAX; r++) {
            identity[r] = r;
        }
        current.shape = draw_shape();
        target.shape  = current.shape;
        if (draw(3) == 0) { /* another number of slots */
            target.shape.slot_count = target.shape.expert_count + draw(40);
        }
        balance_random(&current);
        balance_random(&target);
        settled = target;
        settle(&current, &settled);
        check_structure(&settled, &target);
        before = moves(&current, &target);
        after  = moves(&current, &settled);
        ck_assert_int_le(after, before);
        ck_assert_int_eq(before, reference_moves(&current, &target, identity));
        ck_assert_int_eq(after, reference_moves(&current, &settled, identity));
    }
}
END_TEST

static void swap(int32_t *a, int32_t *b)
{
    int32_t kept = *a;

    *a = *b;
    *b = kept;
}

/* The next order of rank[0..count), false after the last. */
static bool permute(int32_t *rank, int32_t count)
{
    int32_t i = count - 2, j = count - 1;

    while (i >= 0 && rank[i] > rank[i + 1]) {
        i--;
    }
    if (i < 0) {
        return false;
    }
    while (rank[j] < rank[i]) {
        j--;
    }
    swap(&rank[i], &rank[j]);
    for (int32_t a = i + 1, b = count - 1; a < b; a++, b--) {
        swap(&rank[a], &rank[b]);
    }
    return true;
}

/* Weights in all are fixed, so to keep at least half of what the best order keeps. */
START_TEST(test_settle_of_five_ranks_keeps_half_of_the_best)
{
    random_state = (uint64_t)_i + 1;
    for (int32_t n = 0; n < 10; n++) {
        placement_t current = {.shape = {20, 25, 1, 1, 5}}, target = current, nothing = current;
        int32_t     rank[5] = {0, 1, 2, 3, 4};
        int64_t     best    = INT64_MAX, all, after;

        balance_random(&current);
        balance_random(&target);
        balance_random(&nothing);
        do {
            best = wtn_min_i64(best, reference_moves(&current, &target, rank));
        } while (permute(rank, 5));
        nothing.shape.slot_count = 0;
        all                      = moves(&nothing, &target);
        settle(&current, &target);
        after = moves(&current, &target);
        ck_assert_int_ge(2 * (all - after), all - best);
    }
}
END_TEST

START_TEST(test_settle_of_the_same_load_changes_nothing)
{
    random_state = 7;
    for (int32_t n = 0; n < 100; n++) {
        placement_t current, again;

        current.shape = draw_shape();
        balance_random(&current);
        again = current;
        settle(&current, &again);
        ck_assert_mem_eq(again.expert, current.expert,
                         (size_t)current.shape.slot_count * sizeof(*again.expert));
    }
}
END_TEST

/* The blocks of the ranks of a node, and the nodes, in reverse: found again, down to the places. */
START_TEST(test_settle_of_reversed_ranks_moves_nothing)
{
    static const wtn_balance_shape_t shapes[] = {{32, 40, 4, 2, 8},
                                                 {32, 40, 3, 2, 8},
                                                 {32, 32, 8, 8, 8},
                                                 {36, 60, 1, 1, 12}};

    for (size_t i = 0; i < WTN_COUNT_OF(shapes); i++) {
        placement_t current = {.shape = shapes[i]}, target;
        int32_t     last    = shapes[i].slot_count - 1;

        for (int32_t s = 0; s <= last; s++) { /* no expert twice on a rank */
            current.expert[s] = s % shapes[i].expert_count;
            current.owner[s]  = s / (shapes[i].slot_count / shapes[i].rank_count);
        }
        target = current;
        for (int32_t s = 0; s <= last; s++) {
            target.expert[s] = current.expert[last - s];
        }
        settle(&current, &target);
        ck_assert_mem_eq(target.expert, current.expert,
                         (size_t)(last + 1) * sizeof(*target.expert));
    }
}
END_TEST

/* Held are 0 1 2 | 3 4 5, wanted 5 0 3 | 2 4 1: exchanged, 1 2 and 3 5 stay where they are. */
START_TEST(test_settle_kept_expert_keeps_its_place)
{
    const wtn_balance_shape_t shape      = {6, 6, 1, 1, 2};
    const int32_t             owner[6]   = {0, 0, 0, 1, 1, 1};
    const int32_t             current[6] = {0, 1, 2, 3, 4, 5};
    int32_t                   target[6]  = {5, 0, 3, 2, 4, 1};
    const int32_t             settled[6] = {4, 1, 2, 3, 0, 5};
    const wtn_balance_slots_t now        = {6, current, owner};

    ck_assert_int_eq(wtn_balance_settle(&shape, &now, owner, target), WITAN_OK);
    ck_assert_mem_eq(target, settled, sizeof(settled));
}
END_TEST

/* In common, new rank by old: 2 3, 0 2. The greedy pair first, 3, would leave 0: 4 stay as it is.
 */
START_TEST(test_settle_greedy_worse_than_nothing_stays)
{
    const wtn_balance_shape_t shape       = {23, 10, 1, 1, 2};
    const int32_t             owner[10]   = {0, 0, 0, 0, 0, 1, 1, 1, 1, 1};
    const int32_t             current[10] = {0, 1, 20, 21, 22, 10, 11, 12, 13, 14};
    int32_t                   target[10]  = {0, 1, 10, 11, 12, 2, 3, 4, 13, 14};
    const int32_t             came[10]    = {0, 1, 10, 11, 12, 2, 3, 4, 13, 14};
    const wtn_balance_slots_t now         = {10, current, owner};

    ck_assert_int_eq(wtn_balance_settle(&shape, &now, owner, target), WITAN_OK);
    ck_assert_mem_eq(target, came, sizeof(came));
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("settle");
    TCase   *tcase  = tcase_create("settle");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_settle_random_keeps_structure_and_moves_no_more, 0, 4);
    tcase_add_loop_test(tcase, test_settle_of_five_ranks_keeps_half_of_the_best, 0, 3);
    tcase_add_test(tcase, test_settle_of_the_same_load_changes_nothing);
    tcase_add_test(tcase, test_settle_of_reversed_ranks_moves_nothing);
    tcase_add_test(tcase, test_settle_kept_expert_keeps_its_place);
    tcase_add_test(tcase, test_settle_greedy_worse_than_nothing_stays);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

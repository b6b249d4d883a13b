/* Placements changed where loads demand it: never worse, nothing lost, and no step left undone. */
#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "topology/balance.h"

#define EXPERTS_MAX 24
#define SLOTS_MAX   64
#define RANKS_MAX   12

typedef struct placement {
    wtn_balance_shape_t shape;
    float               load[EXPERTS_MAX];
    int32_t             expert[SLOTS_MAX], owner[SLOTS_MAX];
} placement_t;

static uint64_t random_state;

static int32_t draw(int32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (int32_t)((random_state >> 33) % (uint64_t)below);
}

static void draw_placement(placement_t *p)
{
    wtn_balance_shape_t *s = &p->shape;

    memset(p, 0, sizeof(*p));
    s->expert_count = 1 + draw(EXPERTS_MAX);
    s->slot_count   = s->expert_count + draw(SLOTS_MAX - EXPERTS_MAX);
    s->rank_count   = 1 + draw(RANKS_MAX);
    s->node_count   = 1 + draw(s->rank_count < 3 ? s->rank_count : 3);
    s->group_count  = 1 + draw(s->expert_count);
    for (int32_t e = 0; e < s->expert_count; e++) {
        p->load[e] = (float)(draw(4) == 0 ? draw(400) : draw(20));
    }
    if (draw(4) == 0) { /* any order of slots, any owners */
        for (int32_t i = 0; i < s->slot_count; i++) {
            p->expert[i] = i < s->expert_count ? i : draw(s->expert_count);
            p->owner[i]  = draw(s->rank_count);
        }
    } else {
        ck_assert_int_eq(wtn_balance(s, p->load, p->expert, p->owner), WITAN_OK);
    }
    for (int32_t e = 0; e < s->expert_count; e++) { /* loads have changed */
        p->load[e] = draw(3) == 0 ? (float)draw(400) : p->load[e] + (float)draw(20);
    }
}

/* Loads of ranks and what they are worth, from nothing. */
static double loads_of(const placement_t *p, double *rank_load, double *squares)
{
    const wtn_balance_slots_t slots = {p->shape.slot_count, p->expert, p->owner};
    int32_t                   count[EXPERTS_MAX];

    wtn_balance_loads(&p->shape, p->load, &slots, count, rank_load);
    *squares = 0;
    for (int32_t r = 0; r < p->shape.rank_count; r++) {
        *squares += rank_load[r] * rank_load[r];
    }
    return wtn_balance_imbalance(rank_load, p->shape.rank_count);
}

static int32_t copies(const placement_t *p, int32_t expert, int32_t rank) /* -1: all ranks */
{
    int32_t count = 0;

    for (int32_t s = 0; s < p->shape.slot_count; s++) {
        count += p->expert[s] == expert && (rank < 0 || p->owner[s] == rank);
    }
    return count;
}

static int32_t node_of(const placement_t *p, int32_t rank)
{
    const wtn_balance_shape_t *s = &p->shape;
    int32_t                    n = 0;

    while (s->group_count % s->node_count == 0 &&
           wtn_part_begin(s->rank_count, s->node_count, n + 1) <= rank) {
        n++;
    }
    return n;
}

/* What the best change of slots `from` of the busiest rank and `to` would give, by doing it. */
static double gain_of(const placement_t *p, int32_t from, int32_t to, double squares)
{
    int32_t     e = p->expert[from], f = p->expert[to];
    double      best    = 0, after, rank_load[RANKS_MAX];
    placement_t changed = *p;

    if (p->owner[from] == p->owner[to] || node_of(p, p->owner[from]) != node_of(p, p->owner[to]) ||
        copies(p, e, p->owner[to]) > 0) {
        return 0;
    }
    changed.expert[to] = e;
    if (copies(p, f, -1) > 1) {
        (void)loads_of(&changed, rank_load, &after);
        best = squares - after;
    }
    changed.expert[from] = f;
    if (copies(p, f, p->owner[from]) == 0 &&
        p->load[e] / (float)copies(p, e, -1) > p->load[f] / (float)copies(p, f, -1)) {
        (void)loads_of(&changed, rank_load, &after);
        best = fmax(best, (squares - after) / 2);
    }
    return best;
}

START_TEST(test_adjust_random_ends_where_no_change_helps)
{
    random_state = (uint64_t)_i + 1;
    for (int32_t n = 0; n < 60; n++) {
        placement_t p, was;
        double      reached, squares_before, squares, rank_load[RANKS_MAX];
        double      mean    = 0;
        int32_t     busiest = 0;

        draw_placement(&p);
        was = p;
        (void)loads_of(&p, rank_load, &squares_before);
        ck_assert_int_eq(wtn_balance_adjust(&p.shape, p.load, p.owner, 0, p.expert, &reached),
                         WITAN_OK);
        ck_assert_double_eq(loads_of(&p, rank_load, &squares), reached);
        ck_assert_double_le(squares, squares_before);
        for (int32_t e = 0; e < p.shape.expert_count; e++) {
            ck_assert_int_ge(copies(&p, e, -1), 1);
        }
        for (int32_t s = 0; s < p.shape.slot_count; s++) { /* experts stay on their nodes */
            bool there = false;

            for (int32_t t = 0; t < p.shape.slot_count; t++) {
                there = there || (was.expert[t] == p.expert[s] &&
                                  node_of(&p, p.owner[t]) == node_of(&p, p.owner[s]));
            }
            ck_assert(there);
        }
        for (int32_t r = 0; r < p.shape.rank_count; r++) {
            mean += rank_load[r] / p.shape.rank_count;
            busiest = rank_load[r] > rank_load[busiest] ? r : busiest;
        }
        for (int32_t i = 0; i < p.shape.slot_count; i++) {
            for (int32_t j = 0; j < p.shape.slot_count && p.owner[i] == busiest; j++) {
                /* 1e-9 is where the search stops, 1e-12 what the sums here are off */
                ck_assert_double_le(gain_of(&p, i, j, squares),
                                    1e-9 * mean * mean + 1e-12 * squares);
            }
        }
    }
}
END_TEST

/* Ranks hold 0 1 | 2 2, loads 8 1 1: of all changes, 0 in place of one 2 evens them out. */
START_TEST(test_adjust_hot_expert_gets_the_slot_of_a_replica)
{
    const wtn_balance_shape_t shape       = {3, 4, 1, 1, 2};
    const float               load[3]     = {8, 1, 1};
    const int32_t             owner[4]    = {0, 0, 1, 1};
    const int32_t             expected[4] = {0, 1, 0, 2};
    int32_t                   expert[4]   = {0, 1, 2, 2};
    double                    imbalance;

    ck_assert_int_eq(wtn_balance_adjust(&shape, load, owner, 1.5, expert, &imbalance), WITAN_OK);
    ck_assert_mem_eq(expert, expected, sizeof(expected));
    ck_assert_double_eq(imbalance, 1);
}
END_TEST

/* Ranks hold 0 1 | 2 3, loads 5 3 1 2: 0 for 3 makes 5 and 6; 1 for 2 would be as good, but comes
 * later. */
START_TEST(test_adjust_without_replicas_exchanges)
{
    const wtn_balance_shape_t shape       = {4, 4, 1, 1, 2};
    const float               load[4]     = {5, 3, 1, 2};
    const int32_t             owner[4]    = {0, 0, 1, 1};
    const int32_t             expected[4] = {3, 1, 2, 0};
    int32_t                   expert[4]   = {0, 1, 2, 3};
    double                    imbalance;

    ck_assert_int_eq(wtn_balance_adjust(&shape, load, owner, 1.1, expert, &imbalance), WITAN_OK);
    ck_assert_mem_eq(expert, expected, sizeof(expected));
    ck_assert_double_eq_tol(imbalance, 12.0 / 11, 1e-15);
}
END_TEST

START_TEST(test_adjust_within_limit_changes_nothing)
{
    random_state = 11;
    for (int32_t n = 0; n < 50; n++) {
        placement_t p, was;
        double      reached, squares, rank_load[RANKS_MAX], imbalance;

        draw_placement(&p);
        was       = p;
        imbalance = loads_of(&p, rank_load, &squares);
        ck_assert_int_eq(wtn_balance_adjust(&p.shape, p.load, p.owner, imbalance, p.expert,
                                            &reached),
                         WITAN_OK);
        ck_assert_mem_eq(p.expert, was.expert, sizeof(p.expert));
        ck_assert_double_eq(reached, imbalance);
    }
}
END_TEST

START_TEST(test_adjust_bad_load_is_refused_and_changes_nothing)
{
    const wtn_balance_shape_t shape       = {3, 4, 1, 1, 2};
    const float               load[3]     = {8, NAN, 1};
    const int32_t             owner[4]    = {0, 0, 1, 1};
    const int32_t             expected[4] = {0, 1, 2, 2};
    int32_t                   expert[4]   = {0, 1, 2, 2};
    double                    imbalance;

    ck_assert_int_eq(wtn_balance_adjust(&shape, load, owner, 1, expert, &imbalance),
                     WITAN_E_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "load of expert 1"));
    ck_assert_mem_eq(expert, expected, sizeof(expected));
}
END_TEST

/* Zipf, then the hottest expert changes: few slots do. */
START_TEST(test_renew_of_a_new_hot_expert_moves_few)
{
    const wtn_balance_shape_t shape = {256, 320, 1, 1, 32};
    float                     load[256];
    int32_t                   expert[320], owner[320], expert_next[320], owner_next[320];
    int32_t                   count[256];
    double                    rank_load[32];
    int64_t                   moves;
    wtn_balance_slots_t       now = {320, expert, owner}, next = {320, expert_next, owner_next};

    for (int32_t e = 0; e < 256; e++) {
        load[e] = 1e6f / powf((float)(1 + e * 37 % 256), 1.2f);
    }
    ck_assert_int_eq(wtn_balance(&shape, load, expert, owner), WITAN_OK);
    load[0]   = load[100];
    load[100] = 1e6f;
    ck_assert_int_eq(wtn_balance_renew(&shape, load, 1.1, &now, expert_next, owner_next), WITAN_OK);
    wtn_balance_loads(&shape, load, &next, count, rank_load);
    ck_assert_double_le(wtn_balance_imbalance(rank_load, 32), 1.1);
    ck_assert_int_eq(wtn_balance_moves(&shape, &now, &next, &moves), WITAN_OK);
    ck_assert_int_le(moves, 32); /* of 320; as many as ranks get the new one, not more */
}
END_TEST

START_TEST(test_renew_from_fewer_slots_is_the_settled_placement)
{
    random_state = 5;
    for (int32_t n = 0; n < 50; n++) {
        placement_t         p, expected;
        int32_t             expert[SLOTS_MAX], owner[SLOTS_MAX];
        wtn_balance_slots_t now = {0, p.expert, p.owner};

        draw_placement(&p);
        expected           = p;
        now.slot_count     = p.shape.slot_count;
        p.shape.slot_count = p.shape.slot_count < SLOTS_MAX ? now.slot_count + 1 : SLOTS_MAX - 1;
        expected.shape     = p.shape;
        if (p.shape.slot_count < p.shape.expert_count) {
            continue;
        }
        ck_assert_int_eq(wtn_balance(&p.shape, p.load, expected.expert, expected.owner), WITAN_OK);
        ck_assert_int_eq(wtn_balance_settle(&p.shape, &now, expected.owner, expected.expert),
                         WITAN_OK);
        ck_assert_int_eq(wtn_balance_renew(&p.shape, p.load, 1.1, &now, expert, owner), WITAN_OK);
        ck_assert_mem_eq(expert, expected.expert, (size_t)p.shape.slot_count * sizeof(*expert));
        ck_assert_mem_eq(owner, expected.owner, (size_t)p.shape.slot_count * sizeof(*owner));
    }
}
END_TEST

/* Never above the limit if either way is not, and never above both. */
START_TEST(test_renew_random_is_within_limit_or_the_better)
{
    random_state = 9;
    for (int32_t n = 0; n < 200; n++) {
        placement_t now, anew, adjusted, renewed;
        double      limit = 1 + draw(4) / 10.0, best, reached, squares, rank_load[RANKS_MAX];

        draw_placement(&now);
        anew = adjusted = renewed = now;
        ck_assert_int_eq(wtn_balance(&now.shape, now.load, anew.expert, anew.owner), WITAN_OK);
        ck_assert_int_eq(wtn_balance_adjust(&now.shape, now.load, now.owner, limit, adjusted.expert,
                                            &reached),
                         WITAN_OK);
        ck_assert_int_eq(wtn_balance_renew(&now.shape, now.load, limit,
                                           &(wtn_balance_slots_t){now.shape.slot_count, now.expert,
                                                                  now.owner},
                                           renewed.expert, renewed.owner),
                         WITAN_OK);
        /* ranks in other order: the sums are off by rounding */
        best = fmin(loads_of(&anew, rank_load, &squares) * (1 + 1e-12), reached);
        ck_assert_double_le(loads_of(&renewed, rank_load, &squares), fmax(limit, best));
        if (reached <= limit) {
            ck_assert_mem_eq(renewed.expert, adjusted.expert, sizeof(renewed.expert));
        }
    }
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("adjust");
    TCase   *tcase  = tcase_create("adjust");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_adjust_random_ends_where_no_change_helps, 0, 4);
    tcase_add_test(tcase, test_adjust_hot_expert_gets_the_slot_of_a_replica);
    tcase_add_test(tcase, test_adjust_without_replicas_exchanges);
    tcase_add_test(tcase, test_adjust_within_limit_changes_nothing);
    tcase_add_test(tcase, test_adjust_bad_load_is_refused_and_changes_nothing);
    tcase_add_test(tcase, test_renew_of_a_new_hot_expert_moves_few);
    tcase_add_test(tcase, test_renew_from_fewer_slots_is_the_settled_placement);
    tcase_add_test(tcase, test_renew_random_is_within_limit_or_the_better);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* The simulation of an exchange against what can be said in closed form. */
#include <check.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "topology/simulate.h"

/* Sums of at most a few thousand terms in double. */
#define TOLERANCE 1e-9

#define MUST_BE(found, expected)                                                                \
    ck_assert_msg(fabs((found) - (expected)) <= TOLERANCE * fabs(expected), "%.12g, not %.12g", \
                  (double)(found), (double)(expected))

#define RATE     1e9
#define LATENCY  3e-6
#define OVERHEAD 1e-6
#define BYTES    50000.0

typedef struct pattern {
    int32_t rank_count;
    int32_t hot; /* all send to this rank; -1: all to all */
} pattern_t;

static bool message(const void *context, int32_t source, int32_t step, int32_t *destination,
                    double *bytes)
{
    const pattern_t *pattern = context;

    *destination = pattern->hot >= 0 ? pattern->hot : (source + 1 + step) % pattern->rank_count;
    *bytes       = BYTES;
    return *destination != source && (pattern->hot < 0 || step == 0);
}

static wtn_fabric_t make_fabric(int32_t ranks, int32_t per_node, int32_t nics)
{
    return (wtn_fabric_t){.rank_count     = ranks,
                          .ranks_per_node = per_node,
                          .nics_per_node  = nics,
                          .inside         = {RATE, LATENCY, OVERHEAD},
                          .between        = {RATE / 4, 2 * LATENCY, OVERHEAD}};
}

static wtn_exchange_result_t run(const wtn_fabric_t *fabric, const pattern_t *pattern,
                                 const double *start, double *finish)
{
    wtn_exchange_t        exchange = {.fabric     = fabric,
                                      .step_count = pattern->rank_count - 1,
                                      .message    = message,
                                      .context    = pattern,
                                      .start      = start,
                                      .finish     = finish};
    wtn_exchange_result_t result, bound;

    ck_assert_int_eq(wtn_exchange_simulate(&exchange, &result), WITAN_OK);
    ck_assert_int_eq(wtn_exchange_bound(&exchange, &bound), WITAN_OK);
    /* Conservation: both count the same messages, and time is never below the busiest port. */
    MUST_BE(result.inside_bytes, bound.inside_bytes);
    MUST_BE(result.between_bytes, bound.between_bytes);
    ck_assert_int_eq(result.message_count, bound.message_count);
    ck_assert(start != NULL || result.seconds >= bound.seconds * (1 - TOLERANCE));
    return result;
}

static double message_time(double rate)
{
    return OVERHEAD + BYTES / rate;
}

START_TEST(test_exchange_one_node_balanced_is_bytes_over_rate)
{
    const int32_t sizes[] = {2, 3, 8, 17, 64};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        wtn_fabric_t          fabric  = make_fabric(sizes[i], sizes[i], 1);
        pattern_t             pattern = {sizes[i], -1};
        wtn_exchange_result_t result  = run(&fabric, &pattern, NULL, NULL);

        MUST_BE(result.seconds, (sizes[i] - 1) * message_time(RATE) + LATENCY + OVERHEAD);
        MUST_BE(result.inside_bytes, sizes[i] * (sizes[i] - 1) * BYTES);
        ck_assert(result.between_bytes <= 0);
    }
}
END_TEST

START_TEST(test_exchange_nodes_of_one_rank_use_the_network)
{
    wtn_fabric_t          fabric  = make_fabric(16, 1, 1);
    pattern_t             pattern = {16, -1};
    wtn_exchange_result_t result  = run(&fabric, &pattern, NULL, NULL);

    MUST_BE(result.seconds, 15 * message_time(RATE / 4) + 2 * LATENCY + OVERHEAD);
    MUST_BE(result.between_bytes, 16 * 15 * BYTES);
}
END_TEST

START_TEST(test_exchange_hot_receiver_is_sum_over_rate)
{
    wtn_fabric_t          fabric  = make_fabric(9, 9, 1);
    pattern_t             pattern = {9, 4};
    double                finish[9];
    wtn_exchange_result_t result = run(&fabric, &pattern, NULL, finish);

    MUST_BE(result.seconds, 8 * message_time(RATE) + LATENCY + OVERHEAD);
    MUST_BE(finish[4], result.seconds);
    MUST_BE(finish[0], message_time(RATE)); /* has only sent */
}
END_TEST

START_TEST(test_exchange_ranks_of_a_nic_share_its_rate)
{
    wtn_fabric_t          fabric  = make_fabric(8, 4, 1);
    pattern_t             pattern = {8, -1};
    wtn_exchange_result_t result  = run(&fabric, &pattern, NULL, NULL);

    /* 4 ranks send 4 messages each through one port; the other node's does the same. */
    MUST_BE(result.between_busy, 16 * message_time(RATE / 4));
    ck_assert(result.seconds >= 16 * message_time(RATE / 4));
    ck_assert(result.seconds <= 16 * message_time(RATE / 4) * 1.3);
}
END_TEST

/* Ranks 0..3 send ten messages each to a rank of the other node. */
static bool stream_message(const void *context, int32_t source, int32_t step, int32_t *destination,
                           double *bytes)
{
    (void)context;
    (void)step;
    *destination = source + 4;
    *bytes       = BYTES;
    return source < 4;
}

START_TEST(test_exchange_ranks_of_a_nic_take_turns)
{
    wtn_fabric_t          fabric = make_fabric(8, 4, 1);
    double                finish[8];
    wtn_exchange_t        exchange = {.fabric     = &fabric,
                                      .step_count = 10,
                                      .message    = stream_message,
                                      .finish     = finish};
    wtn_exchange_result_t result;

    ck_assert_int_eq(wtn_exchange_simulate(&exchange, &result), WITAN_OK);
    for (int r = 0; r < 4; r++) {
        MUST_BE(finish[r], (37 + r) * message_time(RATE / 4));
    }
    MUST_BE(result.seconds, 40 * message_time(RATE / 4) + 2 * LATENCY + OVERHEAD);
}
END_TEST

START_TEST(test_exchange_straggler_delays_what_it_touches)
{
    wtn_fabric_t          fabric  = make_fabric(8, 8, 1);
    pattern_t             pattern = {8, -1};
    double                slow[8] = {1, 1, 1, 5, 1, 1, 1, 1}, finish[8];
    wtn_exchange_result_t result;

    fabric.slow = slow;
    result      = run(&fabric, &pattern, NULL, finish);
    ck_assert(result.seconds >= 7 * 5 * message_time(RATE));
    MUST_BE(result.inside_busy, 7 * 5 * message_time(RATE));
    for (int r = 0; r < 8; r++) {
        ck_assert(finish[r] <= result.seconds);
    }
}
END_TEST

START_TEST(test_exchange_late_rank_sends_late)
{
    wtn_fabric_t          fabric   = make_fabric(4, 4, 1);
    pattern_t             pattern  = {4, -1};
    double                start[4] = {0, 0, 1.0, 0}, finish[4];
    wtn_exchange_result_t result   = run(&fabric, &pattern, start, finish);

    MUST_BE(result.seconds, 1.0 + 3 * message_time(RATE) + LATENCY + OVERHEAD);
    ck_assert(finish[0] > 1.0); /* waits for rank 2 */
}
END_TEST

START_TEST(test_exchange_one_rank_sends_nothing)
{
    wtn_fabric_t          fabric  = make_fabric(1, 1, 1);
    pattern_t             pattern = {1, -1};
    wtn_exchange_result_t result  = run(&fabric, &pattern, NULL, NULL);

    ck_assert(result.seconds <= 0);
    ck_assert_int_eq(result.message_count, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("simulate");
    TCase *tcase = tcase_create("simulate");
    int    failed;

    tcase_add_test(tcase, test_exchange_one_node_balanced_is_bytes_over_rate);
    tcase_add_test(tcase, test_exchange_nodes_of_one_rank_use_the_network);
    tcase_add_test(tcase, test_exchange_hot_receiver_is_sum_over_rate);
    tcase_add_test(tcase, test_exchange_ranks_of_a_nic_share_its_rate);
    tcase_add_test(tcase, test_exchange_ranks_of_a_nic_take_turns);
    tcase_add_test(tcase, test_exchange_straggler_delays_what_it_touches);
    tcase_add_test(tcase, test_exchange_late_rank_sends_late);
    tcase_add_test(tcase, test_exchange_one_rank_sends_nothing);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}

/* The model of a step against closed forms, and the simulated step against the model. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "topology/scale_exchange.h"
#include "topology/scale_model.h"
#include "topology/scale_work.h"

#define NEAR(found, expected, part)                                                      \
    ck_assert_msg(fabs((found) - (expected)) <= (part)*fabs(expected), "%.9g, not %.9g", \
                  (double)(found), (double)(expected))

/* Every token t goes to experts t, t + 1, ... t + K - 1, around. */
static void fill_turns(const void *context, int64_t begin, int64_t count, int32_t *ids)
{
    const wtn_scale_shape_t *shape = context;

    for (int64_t i = 0; i < count; i++) {
        for (int32_t k = 0; k < shape->topk; k++) {
            ids[i * shape->topk + k] = (int32_t)((begin + i + k) % shape->expert_count);
        }
    }
}

/* All tokens to experts 0..K-1. */
static void fill_hot(const void *context, int64_t begin, int64_t count, int32_t *ids)
{
    const wtn_scale_shape_t *shape = context;

    (void)begin;
    for (int64_t i = 0; i < count * shape->topk; i++) {
        ids[i] = (int32_t)(i % shape->topk);
    }
}

static int64_t count_same(const void *context, int32_t source, int32_t source_count,
                          int64_t token_count)
{
    (void)context;
    (void)source;
    (void)source_count;
    return token_count;
}

static const wtn_scale_shape_t layer = {.hidden_size  = 1024,
                                        .inter_size   = 512,
                                        .expert_count = 16,
                                        .topk         = 1,
                                        .value_bytes  = 2,
                                        .return_bytes = 2,
                                        .weight_bytes = 2,
                                        .matrices     = 3};

static const wtn_scale_machine_t machine = {
    .overlap        = WTN_SCALE_OVERLAP_NONE,
    .two_level      = true,
    .ranks_per_node = 4,
    .nics_per_node  = 4,
    .threads        = 1,
    .memory_bytes   = 1e12,
    .peak_flops     = 1e12,
    .memory_rate    = 1e11,
    .experts        = {.count = 1, .at = {1}, .value = {1}},
    .route_flops    = 1e15,
    .gather_rate    = 1e15,
    .combine_rate   = 1e15,
    .inside         = {.port = {.rate = 1e10}},
    .between        = {.port = {.rate = 1e9}},
};

static wtn_scale_load_t make_load(const wtn_scale_shape_t *shape, int32_t ep, int32_t domain,
                                  int64_t tokens, bool hot)
{
    wtn_scale_sampler_t sampler = {hot ? fill_hot : fill_turns, count_same, shape};
    wtn_scale_load_t    load;

    ck_assert_int_eq(wtn_scale_load_make(&load, shape, ep, domain, tokens, &sampler, 1 << 20),
                     WITAN_OK);
    return load;
}

static wtn_scale_result_t predict(const wtn_scale_machine_t *on, const wtn_scale_shape_t *shape,
                                  const wtn_scale_mode_t *mode, int64_t tokens,
                                  const wtn_scale_load_t *load)
{
    wtn_scale_result_t result;
    double             sum = 0;

    ck_assert_int_eq(wtn_scale_predict(on, shape, mode, (double)tokens, load, &result), WITAN_OK);
    for (int i = 0; i < WITAN_PHASE_COUNT; i++) {
        ck_assert(result.phases[i] >= 0);
        sum += result.phases[i];
    }
    NEAR(result.seconds, sum, 1e-9);
    return result;
}

START_TEST(test_load_balanced_counts_every_row)
{
    wtn_scale_load_t load = make_load(&layer, 8, 4, 160, false);
    double           rows = 0, tokens = 0, nodes = 0;

    for (int i = 0; i < 64; i++) {
        rows += (double)load.pair_rows[i];
        tokens += (double)load.pair_tokens[i];
    }
    for (int i = 0; i < 16; i++) {
        nodes += (double)load.domain_tokens[i];
    }
    NEAR(rows, 8 * 160.0, 1e-6);
    NEAR(tokens, 8 * 160.0, 1e-6); /* K = 1: one rank each */
    NEAR(nodes, 8 * 160.0, 1e-6);
    NEAR(load.imbalance, 1.0, 1e-6);
    wtn_scale_load_free(&load);
}
END_TEST

START_TEST(test_load_scaled_sample_keeps_the_sum)
{
    wtn_scale_sampler_t sampler = {fill_turns, count_same, &layer};
    wtn_scale_load_t    load;
    double              rows = 0;

    ck_assert_int_eq(wtn_scale_load_make(&load, &layer, 4, 4, 100000, &sampler, 3200), WITAN_OK);
    for (int i = 0; i < 16; i++) {
        rows += (double)load.pair_rows[i];
    }
    NEAR(rows, 4 * 100000.0, 1e-3); /* floats */
    wtn_scale_load_free(&load);
}
END_TEST

START_TEST(test_predict_compute_is_the_roofline)
{
    wtn_scale_mode_t   mode   = {.rank_count = 1, .ep = 1, .tp = 1, .chunk_count = 1};
    wtn_scale_load_t   few    = make_load(&layer, 1, 1, 16, false);
    wtn_scale_load_t   many   = make_load(&layer, 1, 1, 16000, false);
    double             values = 3.0 * 1024 * 512;
    wtn_scale_result_t low    = predict(&machine, &layer, &mode, 16, &few);
    wtn_scale_result_t high   = predict(&machine, &layer, &mode, 16000, &many);

    NEAR(low.phases[WITAN_PHASE_EXPERTS], 16 * values * 2 / 1e11, 1e-9);
    NEAR(high.phases[WITAN_PHASE_EXPERTS], 16000 * values * 2 / 1e12, 1e-9);
    ck_assert_int_eq(low.limit, WTN_SCALE_LIMIT_MEMORY);
    ck_assert_int_eq(high.limit, WTN_SCALE_LIMIT_COMPUTE);
    wtn_scale_load_free(&few);
    wtn_scale_load_free(&many);
}
END_TEST

START_TEST(test_predict_dispatch_is_the_busiest_port)
{
    wtn_scale_shape_t  shape = layer;
    wtn_scale_mode_t   mode  = {.rank_count = 8, .ep = 8, .tp = 1, .chunk_count = 1};
    wtn_scale_load_t   load  = make_load(&shape, 8, 4, 1600, false);
    wtn_scale_result_t result;

    shape.return_bytes = 4; /* rows come back twice as wide */
    result             = predict(&machine, &shape, &mode, 1600, &load);

    /* Of 1600 tokens 1/8 stay, 3/8 go to mates, 4/8 to the other node over the slow ports. */
    NEAR(result.between_bytes, 3 * 8 * 800 * 2048.0, 1e-6);
    NEAR(result.inside_bytes, 3 * 8 * 600 * 2048.0, 1e-6);
    NEAR(result.phases[WITAN_PHASE_DISPATCH], 800 * 2048 / 1e9, 1e-3);
    NEAR(result.phases[WITAN_PHASE_COMBINE], 800 * 4096 / 1e9, 1e-3);
    wtn_scale_load_free(&load);
}
END_TEST

START_TEST(test_predict_two_level_sends_a_token_once_to_a_node)
{
    wtn_scale_shape_t shape = layer;
    wtn_scale_mode_t  flat = {.rank_count = 8, .ep = 8, .tp = 1, .chunk_count = 1, .reduced = true};
    wtn_scale_mode_t  two  = flat;
    wtn_scale_load_t  load;
    wtn_scale_result_t one, other;

    shape.topk    = 8; /* 2 experts a rank: runs of 8 hit 4 or 5 of 8 ranks */
    two.two_level = true;
    load          = make_load(&shape, 8, 4, 1600, false);
    one           = predict(&machine, &shape, &flat, 1600, &load);
    other         = predict(&machine, &shape, &two, 1600, &load);
    /* To the other node: of 16 runs 1 misses it, so 15/16 of the tokens, once out, once back. */
    NEAR(other.between_bytes, 2 * 8 * 1600 * 15.0 / 16 * 2048, 1e-6);
    ck_assert(other.between_bytes < one.between_bytes / 2);
    wtn_scale_load_free(&load);
}
END_TEST

/* What `auto` stands on: on the host, whose nodes share memory, no step is slower in two levels,
 * whatever the links. */
START_TEST(test_predict_two_level_is_never_slower_on_the_host)
{
    static const double  rates[]  = {1e8, 1e9, 1e10, 1e11};
    static const int32_t nodes[]  = {1, 2, 4};
    static const int64_t tokens[] = {1, 16, 700};
    wtn_scale_shape_t    shape    = layer;
    wtn_scale_machine_t  host     = machine;
    wtn_scale_mode_t     mode     = {.tp = 1, .reduced = (_i & 1) != 0};
    int                  compared = 0;
    bool                 hot      = (_i & 2) != 0;

    (void)snprintf(host.backend, sizeof(host.backend), "host");
    host.overlap     = WTN_SCALE_OVERLAP_POLL;
    host.gather_rate = 5e10, host.combine_rate = 1e10, host.memory_rate = 4e10;
    shape.topk = _i < 4 ? 1 : 8;
    for (int32_t n = 0; n < 3; n++) {
        for (int32_t t = 0; t < 3; t++) {
            wtn_scale_load_t load;

            mode.rank_count = mode.ep = 4 * nodes[n];
            load                      = make_load(&shape, mode.ep, 4, tokens[t], hot);
            for (int32_t r = 0; r < 64; r++) {
                double flat, two;

                host.inside              = (wtn_scale_link_t){.port = {.rate = rates[r % 4]}};
                host.between             = (wtn_scale_link_t){.port = {.rate = rates[r / 4 % 4]}};
                host.inside.port.latency = host.inside.port.overhead = 1e-7;
                host.between.port.latency = host.between.port.overhead = 1e-6 * (r / 16);
                host.inside.copy_rate                                  = 2 * rates[r % 4];
                host.between.copy_rate                                 = r / 16 % 2 == 0 ? 0 : 4e9;
                mode.chunk_count                                       = r / 32 == 0 ? 1 : 4;
                mode.two_level                                         = false;
                flat           = predict(&host, &shape, &mode, tokens[t], &load).seconds;
                mode.two_level = true;
                two            = predict(&host, &shape, &mode, tokens[t], &load).seconds;
                ck_assert_msg(two <= flat * (1 + 1e-9), "%d nodes, %d tokens, links %d: %g, %g",
                              (int)nodes[n], (int)tokens[t], (int)r, two, flat);
                compared++;
            }
            wtn_scale_load_free(&load);
        }
    }
    ck_assert_int_eq(compared, 3 * 3 * 64);
}
END_TEST

START_TEST(test_predict_hot_rank_is_as_slow_as_its_rows)
{
    wtn_scale_mode_t   mode   = {.rank_count = 4, .ep = 4, .tp = 1, .chunk_count = 1};
    wtn_scale_load_t   load   = make_load(&layer, 4, 4, 4000, true);
    wtn_scale_result_t result = predict(&machine, &layer, &mode, 4000, &load);
    double             values = 3.0 * 1024 * 512;

    NEAR(result.imbalance, 4.0, 1e-6);
    NEAR(result.phases[WITAN_PHASE_EXPERTS], 16000 * values * 2 / 1e12, 1e-9);
    NEAR(result.phases[WITAN_PHASE_DISPATCH], 3 * 4000 * 2048 / 1e10, 1e-3);
    wtn_scale_load_free(&load);
}
END_TEST

START_TEST(test_predict_shared_cores_divide_the_work)
{
    wtn_scale_machine_t host = machine;
    wtn_scale_mode_t    mode = {.rank_count = 8, .ep = 8, .tp = 1, .chunk_count = 1};
    wtn_scale_load_t    load = make_load(&layer, 8, 4, 1600, false);
    wtn_scale_result_t  free_cores, shared;

    free_cores        = predict(&host, &layer, &mode, 1600, &load);
    host.shared_cores = 2;
    shared            = predict(&host, &layer, &mode, 1600, &load);
    NEAR(shared.phases[WITAN_PHASE_EXPERTS], 4 * free_cores.phases[WITAN_PHASE_EXPERTS], 1e-6);
    wtn_scale_load_free(&load);
}
END_TEST

START_TEST(test_predict_chunks_hide_transfers)
{
    wtn_scale_machine_t host = machine;
    wtn_scale_mode_t    one  = {.rank_count = 8, .ep = 8, .tp = 1, .chunk_count = 1};
    wtn_scale_mode_t    many = {.rank_count = 8, .ep = 8, .tp = 1, .chunk_count = 8};
    wtn_scale_load_t    load = make_load(&layer, 8, 4, 16000, false);
    double              whole, rounds, none;

    none         = predict(&host, &layer, &many, 16000, &load).seconds;
    host.overlap = WTN_SCALE_OVERLAP_POLL;
    whole        = predict(&host, &layer, &one, 16000, &load).seconds;
    rounds       = predict(&host, &layer, &many, 16000, &load).seconds;
    ck_assert(rounds < whole);
    /* Nothing overlaps: the same bytes and rows in eight rounds take as long. */
    NEAR(none, whole, 1e-3);
    wtn_scale_load_free(&load);
}
END_TEST

static const wtn_scale_disturbance_t calm = {.slow_rank = -1, .slow_factor = 1};

START_TEST(test_simulate_undisturbed_is_near_the_model)
{
    wtn_scale_mode_t   mode  = {.rank_count = 8, .ep = 8, .tp = 1, .chunk_count = 1};
    wtn_scale_load_t   load  = make_load(&layer, 8, 4, 1600, false);
    wtn_scale_result_t model = predict(&machine, &layer, &mode, 1600, &load), simulated;

    ck_assert_int_eq(wtn_scale_simulate(&machine, &layer, &mode, 1600, &load, &calm, &simulated),
                     WITAN_OK);
    ck_assert(simulated.seconds >= model.seconds * 0.999);
    ck_assert(simulated.seconds <= model.seconds * 1.2); /* pieces of a port leave gaps */
    wtn_scale_load_free(&load);
}
END_TEST

START_TEST(test_simulate_straggler_and_congestion_cost_time)
{
    wtn_scale_mode_t        mode = {.rank_count = 8, .ep = 8, .tp = 1, .chunk_count = 1};
    wtn_scale_load_t        load = make_load(&layer, 8, 4, 1600, false);
    wtn_scale_disturbance_t slow = {.slow_rank = 3, .slow_factor = 4};
    wtn_scale_disturbance_t busy = {.slow_rank = -1, .slow_factor = 1, .congestion = 0.5};
    wtn_scale_result_t      base, straggler, congested;

    ck_assert_int_eq(wtn_scale_simulate(&machine, &layer, &mode, 1600, &load, &calm, &base),
                     WITAN_OK);
    ck_assert_int_eq(wtn_scale_simulate(&machine, &layer, &mode, 1600, &load, &slow, &straggler),
                     WITAN_OK);
    ck_assert_int_eq(wtn_scale_simulate(&machine, &layer, &mode, 1600, &load, &busy, &congested),
                     WITAN_OK);
    ck_assert(straggler.seconds > 2 * base.seconds && straggler.seconds < 5 * base.seconds);
    ck_assert(congested.seconds > 1.3 * base.seconds && congested.seconds < 2.1 * base.seconds);
    wtn_scale_load_free(&load);
}
END_TEST

/* Groups of 6 on nodes of 4 begin on a node again after 12 ranks: these say all of 48. */
START_TEST(test_predict_groups_across_nodes_repeat_themselves)
{
    wtn_scale_mode_t   few = {.rank_count = 12, .ep = 6, .tp = 1, .chunk_count = 1}, many = few;
    wtn_scale_load_t   load = make_load(&layer, 6, 4, 1600, false);
    wtn_scale_result_t a, b;

    many.rank_count = 48;
    ck_assert_int_eq(wtn_scale_fabric(&machine, &many).rank_count, 12);
    a = predict(&machine, &layer, &few, 1600, &load);
    b = predict(&machine, &layer, &many, 1600, &load);
    ck_assert(a.seconds == b.seconds && a.between_bytes > 0);
    ck_assert(4 * a.inside_bytes == b.inside_bytes && 4 * a.between_bytes == b.between_bytes);
    wtn_scale_load_free(&load);
}
END_TEST

/* The other groups are not faster for it. */
START_TEST(test_simulate_straggler_of_any_group_costs_the_same)
{
    wtn_scale_mode_t        mode = {.rank_count = 24, .ep = 8, .tp = 1, .chunk_count = 1};
    wtn_scale_load_t        load = make_load(&layer, 8, 4, 1600, false);
    wtn_scale_disturbance_t slow = {.slow_rank = 3, .slow_factor = 4};
    wtn_scale_result_t      first, last;

    ck_assert_int_eq(wtn_scale_simulate(&machine, &layer, &mode, 1600, &load, &slow, &first),
                     WITAN_OK);
    slow.slow_rank = 19;
    ck_assert_int_eq(wtn_scale_simulate(&machine, &layer, &mode, 1600, &load, &slow, &last),
                     WITAN_OK);
    ck_assert(first.seconds == last.seconds);
    wtn_scale_load_free(&load);
}
END_TEST

START_TEST(test_curve_is_straight_between_its_points)
{
    wtn_scale_curve_t curve = {.count = 2, .at = {1, 100}, .value = {0.2, 0.6}};

    NEAR(wtn_scale_curve_at(&curve, 0.5), 0.2, 1e-12);
    NEAR(wtn_scale_curve_at(&curve, 10), 0.4, 1e-12);
    NEAR(wtn_scale_curve_at(&curve, 1000), 0.6, 1e-12);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scale_model");
    TCase *tcase = tcase_create("scale_model");
    int    failed;

    tcase_add_test(tcase, test_load_balanced_counts_every_row);
    tcase_add_test(tcase, test_load_scaled_sample_keeps_the_sum);
    tcase_add_test(tcase, test_predict_compute_is_the_roofline);
    tcase_add_test(tcase, test_predict_dispatch_is_the_busiest_port);
    tcase_add_test(tcase, test_predict_two_level_sends_a_token_once_to_a_node);
    tcase_add_loop_test(tcase, test_predict_two_level_is_never_slower_on_the_host, 0, 8);
    tcase_add_test(tcase, test_predict_hot_rank_is_as_slow_as_its_rows);
    tcase_add_test(tcase, test_predict_shared_cores_divide_the_work);
    tcase_add_test(tcase, test_predict_chunks_hide_transfers);
    tcase_add_test(tcase, test_simulate_undisturbed_is_near_the_model);
    tcase_add_test(tcase, test_simulate_straggler_and_congestion_cost_time);
    tcase_add_test(tcase, test_predict_groups_across_nodes_repeat_themselves);
    tcase_add_test(tcase, test_simulate_straggler_of_any_group_costs_the_same);
    tcase_add_test(tcase, test_curve_is_straight_between_its_points);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}

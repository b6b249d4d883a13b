/* Steps on a device against one rank and against float64: for any number of ranks, placement,
 * split, budget and exchange the exact combine gives the same bits.
 *
 * Built twice: for the cuda backend, and for a device made of the host (software.h), where the bits
 * must be those of the host's own engine too. */
#include <math.h>
#include <string.h>

#include "core/util.h"
#include "device_run.h"
#ifndef WITAN_TEST_SOFTWARE
#include "graph.h"
#endif

#ifdef WITAN_TEST_SOFTWARE
static const bool software = true;
#else
static const bool software = false;
#endif

/* On a real device every plan connects anew, over sockets where ranks share it: a second each. */
#if defined(WITAN_TEST_SOFTWARE) || defined(WTN_EMULATOR)
#define FIRST      0
#define END(count) (count)
#else
#define FIRST      1
#define END(count) 2
#endif

static const witan_exchange_t exchanges[] = {WITAN_EXCHANGE_EXACT, WITAN_EXCHANGE_PADDED,
                                             WITAN_EXCHANGE_DIRECT};
/* The software device has no windows. */
#define EXCHANGE_COUNT (software ? 2 : 3)

/* Every exchange gives the bits of one rank alone; on the software device, those of the host. */
static void check_exchanges(block_t *block, run_t *run)
{
    run_t    one   = *run;
    result_t alone = {0};

    one.place = software ? &run_on_host : run->place;
    alone     = run_alone(block, &one);
    for (int32_t i = 0; i < EXCHANGE_COUNT; i++) {
        result_t world;

        run->plan.exchange = exchanges[i];
        world              = run_world(block, run);
        run_assert_equal_bits(block, run, &world, &alone);
        result_free(&world);
    }
    if (run->token_count > 0) {
        run_assert_accurate(block, run, &alone);
    }
    result_free(&alone);
}

START_TEST(test_forward_any_shape_equals_one_rank)
{
    static const struct {
        int32_t       experts, topk;
        int64_t       hidden, inter, tokens;
        witan_dtype_t dtype;
    } shapes[] = {
        {1, 1, 16, 16, 1, WITAN_BF16},
        {7, 3, 33, 17, 29, WITAN_F16},
        {64, 8, 48, 24, 50, WITAN_F16},
        {8, 2, 64, 48, 0, WITAN_BF16},
    };
    block_t block = block_make(shapes[_i].experts, shapes[_i].topk, shapes[_i].hidden,
                               shapes[_i].inter, shapes[_i].dtype);
    run_t   run   = device_run(shapes[_i].tokens);

    check_exchanges(&block, &run);
}
END_TEST

START_TEST(test_forward_with_all_options_equals_one_rank)
{
    block_t block = block_make(12, 4, 56, 40, WITAN_BF16);
    run_t   run   = device_run(37);

    block_with_all_options(&block, _i > 0);
    check_exchanges(&block, &run);
}
END_TEST

START_TEST(test_forward_any_split_of_tokens_equals_one_rank)
{
    block_t  block  = block_make(10, 3, 40, 24, WITAN_BF16);
    run_t    run    = device_run(30);
    int64_t *begins = calloc((size_t)world_size + 1, sizeof(*begins));

    /* 0: all on the last rank; 1: quadratic, some ranks with none */
    for (int r = 0; r <= world_size; r++) {
        begins[r] = _i == 0 ? (r == world_size ? 30 : 0) : 30 * r * r / (world_size * world_size);
    }
    run.begins = begins;
    check_exchanges(&block, &run);
    free(begins);
}
END_TEST

START_TEST(test_forward_any_placement_equals_one_rank)
{
    block_t block = block_make(11, 4, 40, 24, WITAN_BF16);
    run_t   run   = device_run(33);
    int32_t owner[11];

    /* 0: all experts on one rank; 1: round robin */
    for (int e = 0; e < 11; e++) {
        owner[e] = _i == 0 ? world_size - 1 : e % world_size;
    }
    run.owner = owner;
    check_exchanges(&block, &run);
}
END_TEST

START_TEST(test_forward_any_replicas_equal_one_rank)
{
    block_t block = block_make(5, 3, 40, 24, WITAN_BF16);
    run_t   run   = device_run(33);
    int32_t expert[14], owner[14];

    /* 0: dealt out in runs; 1: any rank has any, the last one none */
    for (int s = 0; s < 14; s++) {
        expert[s] = s < 9 ? 0 : s - 9;
        owner[s]  = world_size == 1 ? 0 : (s * 5 + s / 3) % (world_size - 1);
    }
    run.slot_count  = 14;
    run.slot_expert = expert;
    run.slot_owner  = _i == 0 ? NULL : owner;
    check_exchanges(&block, &run);
}
END_TEST

START_TEST(test_forward_any_budget_equals_one_rank)
{
    static const struct {
        int64_t tokens, rows;
        int32_t chunks;
    } budgets[]   = {{0, 0, 2}, {3, 0, 1}, {2, 9, 3}, {1000, 1000, 64}};
    block_t block = block_make(9, 4, 40, 24, WITAN_BF16);
    run_t   run   = device_run(37);

    block.config.shared_inter_size = 16;
    run.plan.pair_token_count_max  = budgets[_i].tokens;
    run.plan.pair_row_count_max    = budgets[_i].rows;
    run.plan.chunk_count           = budgets[_i].chunks;
    run.repeats                    = 2;
    run.steps                      = _i % 2 == 1;
    check_exchanges(&block, &run);
}
END_TEST

START_TEST(test_forward_poisoned_least_workspace_equals_one_rank)
{
    block_t block = block_make(9, 4, 40, 24, WITAN_BF16);
    run_t   run   = device_run(9 * world_size); /* as many on every rank: the query assumes it */

    if (software) {
        return; /* the query knows no such backend */
    }
    block.config.shared_inter_size = 16;
    block.config.has_shared_gate   = true;
    run.poison                     = true;
    run.repeats                    = 2;
    run.plan.pair_token_count_max  = _i == 0 ? 0 : 4;
    check_exchanges(&block, &run);
}
END_TEST

START_TEST(test_import_repeated_and_absent_ids_equals_one_rank)
{
    block_t  block   = block_make(6, 4, 40, 24, WITAN_BF16);
    run_t    run     = device_run(31);
    int32_t *ids     = calloc(31 * 4, sizeof(*ids));
    float   *weights = calloc(31 * 4, sizeof(*weights));

    for (int64_t i = 0; i < 31 * 4; i++) {
        ids[i]     = i / 4 % 7 == 3 ? -1 : (int32_t)((i * 5 + i / 4 * i) % 7) - 1;
        ids[i]     = i / 4 % 5 == 2 ? 2 : ids[i];
        weights[i] = ids[i] < 0 ? NAN : 0.25f + 0.01f * (float)(i % 13);
    }
    run.ids                       = ids;
    run.weights                   = weights;
    run.plan.pair_token_count_max = _i == 0 ? 0 : 5;
    check_exchanges(&block, &run);
    free(ids);
    free(weights);
}
END_TEST

START_TEST(test_combine_reduced_is_accurate_and_repeats)
{
    block_t block = block_make(9, 4, 40, 24, WITAN_BF16);
    run_t   run   = device_run(37);

    block.config.shared_inter_size = 16;
    run.plan.combine               = WITAN_COMBINE_REDUCED;
    run.plan.pair_token_count_max  = _i == 0 ? 0 : 4;
    for (int32_t i = 0; i < EXCHANGE_COUNT; i++) {
        result_t a, b;

        run.plan.exchange = exchanges[i];
        a                 = run_world(&block, &run);
        b                 = run_world(&block, &run);
        run_assert_equal_bits(&block, &run, &a, &b);
        run_assert_accurate(&block, &run, &a);
        result_free(&a);
        result_free(&b);
    }
}
END_TEST

START_TEST(test_tensor_parallel_is_accurate)
{
    block_t block = block_make(8, 3, 48, 72, WITAN_BF16);
    run_t   run   = device_run(36);

    if (world_size % 2 != 0) {
        return;
    }
    block.config.shared_inter_size = 40;
    block.config.has_down_bias     = true;
    run.tp                         = _i % 2 == 0 ? 2 : world_size;
    run.plan.tensor_exchange       = _i < 2 ? WITAN_TENSOR_ALLREDUCE : WITAN_TENSOR_SCATTER;
    if (run.token_count / (world_size / run.tp) % run.tp != 0) {
        return;
    }
    for (int32_t i = 0; i < EXCHANGE_COUNT; i++) {
        result_t a, b;

        run.plan.exchange             = exchanges[i];
        run.plan.pair_token_count_max = i;
        a                             = run_world(&block, &run);
        b                             = run_world(&block, &run);
        run_assert_equal_bits(&block, &run, &a, &b);
        run_assert_accurate(&block, &run, &a);
        result_free(&a);
        result_free(&b);
    }
}
END_TEST

START_TEST(test_two_plans_in_flight_equal_one_after_the_other)
{
    enum { T = 11, H = 40, BYTES = T * H * 2 };

    block_t              block = block_make(9, 3, H, 24, WITAN_BF16);
    witan_group_t       *group = device_group(0, 1);
    witan_layer_t       *layer = device_layer(&block, group);
    witan_plan_config_t  config;
    witan_plan_t        *plans[2];
    witan_forward_args_t args[2];
    char                 alone[2][BYTES], together[2][BYTES];

    witan_plan_config_init(&config);
    config.token_count_max = T;
    config.exchange        = exchanges[_i];
    for (int64_t i = 0; i < 2; i++) {
        void *input = block_input(&block, (2 * world_rank + i) * T, T), *hidden, *output;

        ck_ok(witan_memory_alloc(layer, &hidden, BYTES));
        ck_ok(witan_memory_alloc(layer, &output, BYTES));
        ck_ok(witan_memory_copy(layer, hidden, input, BYTES));
        free(input);
        args[i] = (witan_forward_args_t){.struct_bytes = sizeof(args[i]),
                                         .token_count  = T,
                                         .hidden       = hidden,
                                         .output       = output};
        ck_ok(witan_plan_create(&plans[i], layer, &config));
        ck_ok(witan_forward(plans[i], &args[i]));
        ck_ok(witan_plan_wait(plans[i]));
        ck_ok(witan_memory_copy(layer, alone[i], output, BYTES));
        memset(together[i], 0xff, BYTES);
        ck_ok(witan_memory_copy(layer, output, together[i], BYTES));
    }
    ck_ok(witan_forward(plans[0], &args[0]));
    ck_ok(witan_forward(plans[1], &args[1]));
    ck_ok(witan_plan_wait(plans[1]));
    ck_ok(witan_plan_wait(plans[0]));
    for (int i = 0; i < 2; i++) {
        ck_ok(witan_memory_copy(layer, together[i], args[i].output, BYTES));
        ck_assert_mem_eq(together[i], alone[i], BYTES);
        witan_plan_destroy(plans[i]);
        witan_memory_free(layer, (void *)(uintptr_t)args[i].hidden);
        witan_memory_free(layer, args[i].output);
    }
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

/* Weights of a device do not move between ranks: said by name, on all ranks. */
START_TEST(test_rebalancing_is_refused)
{
    static const int32_t     expert[4] = {3, 2, 1, 0};
    block_t                  block     = block_make(4, 2, 40, 24, WITAN_BF16);
    witan_group_t           *group     = device_group(0, 1);
    witan_layer_t           *layer     = device_layer(&block, group);
    witan_rebalance_info_t   info      = {.struct_bytes = sizeof(info)};
    witan_rebalance_config_t config;
    witan_rebalance_t       *rebalance;

    witan_rebalance_config_init(&config);
    config.slot_expert = expert;
    if (!software) {
        ck_assert_int_eq(witan_rebalance_query(layer, &config, &info), WITAN_E_UNSUPPORTED);
        ck_assert_int_eq(witan_rebalance_begin(&rebalance, layer, &config), WITAN_E_UNSUPPORTED);
        ck_assert_str_eq(witan_last_error(), "rebalance: backend cuda has none");
        ck_assert_ptr_null(rebalance);
    }
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_stats_equal_those_of_the_host)
{
    block_t  block = block_make(12, 4, 40, 24, WITAN_BF16);
    run_t    run   = device_run(41), host;
    result_t truth;

    run.plan.pair_token_count_max = _i == 0 ? 0 : 3;
    host                          = run;
    host.place                    = &run_on_host;
    host.plan.hierarchy           = WITAN_HIERARCHY_FLAT; /* as devices do */
    truth                         = run_world(&block, &host);
    ck_assert_int_eq(truth.stats.exchange, WITAN_EXCHANGE_AUTO);
    for (int32_t i = 0; i < EXCHANGE_COUNT; i++) {
        result_t world;

        run.plan.exchange = exchanges[i];
        world             = run_world(&block, &run);
        ck_assert_int_eq(world.stats.exchange, exchanges[i]);
        ck_assert_str_eq(world.stats.transport, world_size == 1 ? truth.stats.transport
                                                : exchanges[i] == WITAN_EXCHANGE_DIRECT ? "direct"
                                                                                        : "nccl");
        ck_assert_int_eq(world.stats.token_count, truth.stats.token_count);
        ck_assert_int_eq(world.stats.recv_token_count, truth.stats.recv_token_count);
        ck_assert_int_eq(world.stats.recv_row_count, truth.stats.recv_row_count);
        /* Slots: as many as the fullest pair of all needs; alone: one. */
        if (exchanges[i] == WITAN_EXCHANGE_EXACT && world_size > 1) {
            ck_assert_int_eq(world.stats.round_count, truth.stats.round_count);
        }
        ck_assert_double_eq(world.stats.imbalance, truth.stats.imbalance);
        ck_assert_mem_eq(world.expert_row_counts, truth.expert_row_counts,
                         sizeof(world.expert_row_counts));
        ck_assert_mem_eq(world.expert_token_counts, truth.expert_token_counts,
                         sizeof(world.expert_token_counts));
        ck_assert_mem_eq(world.rank_row_counts, truth.rank_row_counts,
                         sizeof(world.rank_row_counts));
        result_free(&world);
    }
    result_free(&truth);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("device layer");
    TCase *tcase = tcase_create("all");

    tcase_set_timeout(tcase, 0);
    tcase_add_loop_test(tcase, test_forward_any_shape_equals_one_rank, FIRST, END(4));
    tcase_add_loop_test(tcase, test_forward_with_all_options_equals_one_rank, FIRST, END(2));
    tcase_add_loop_test(tcase, test_forward_any_split_of_tokens_equals_one_rank, FIRST, END(2));
    tcase_add_loop_test(tcase, test_forward_any_placement_equals_one_rank, FIRST, END(2));
    tcase_add_loop_test(tcase, test_forward_any_replicas_equal_one_rank, software ? 0 : 1, 2);
    tcase_add_loop_test(tcase, test_forward_any_budget_equals_one_rank, FIRST, END(4));
    tcase_add_loop_test(tcase, test_forward_poisoned_least_workspace_equals_one_rank, FIRST,
                        END(2));
    tcase_add_loop_test(tcase, test_import_repeated_and_absent_ids_equals_one_rank, FIRST, END(2));
    tcase_add_loop_test(tcase, test_combine_reduced_is_accurate_and_repeats, FIRST, END(2));
    tcase_add_loop_test(tcase, test_tensor_parallel_is_accurate, FIRST, END(4));
    tcase_add_loop_test(tcase, test_two_plans_in_flight_equal_one_after_the_other, FIRST,
                        END(EXCHANGE_COUNT));
    tcase_add_loop_test(tcase, test_stats_equal_those_of_the_host, FIRST, END(2));
    tcase_add_test(tcase, test_rebalancing_is_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
#ifndef WITAN_TEST_SOFTWARE
    if (device_count() == 0) {
        return 77;
    }
#endif
    return harness_run(argc, argv, make_suite);
}

/* The distributed layer against one rank and against float64: for any number of ranks, placement,
 * split of the tokens, budget and chunking the exact mode gives the same bits. */
#include <math.h>
#include <string.h>

#include "core/half.h"
#include "core/util.h"
#include "harness.h"
#include "run.h"

START_TEST(test_forward_any_shape_equals_one_rank)
{
    static const struct {
        int32_t       experts, topk;
        int64_t       hidden, inter, tokens;
        witan_dtype_t dtype;
    } shapes[] = {
        {1, 1, 1, 1, 1, WITAN_F32},       {2, 1, 17, 3, 5, WITAN_F32},
        {7, 3, 33, 17, 29, WITAN_F16},    {8, 2, 64, 48, 64, WITAN_BF16},
        {5, 5, 31, 65, 13, WITAN_BF16},   {64, 8, 48, 24, 100, WITAN_BF16},
        {3, 2, 2880, 17, 9, WITAN_BF16},  {8, 2, 64, 48, 0, WITAN_F32},
        {128, 8, 40, 16, 257, WITAN_F32}, {16, 4, 72, 40, 3, WITAN_F16},
    };
    block_t block = block_make(shapes[_i].experts, shapes[_i].topk, shapes[_i].hidden,
                               shapes[_i].inter, shapes[_i].dtype);
    run_t   run   = run_make(shapes[_i].tokens);

    run_check_exact(&block, &run);
}
END_TEST

START_TEST(test_forward_with_all_options_equals_one_rank)
{
    block_t block = block_make(12, 4, 56, 40, WITAN_BF16);
    run_t   run   = run_make(61);

    block_with_all_options(&block, _i > 0);
    run_check_exact(&block, &run);
}
END_TEST

START_TEST(test_forward_any_split_of_tokens_equals_one_rank)
{
    block_t  block  = block_make(10, 3, 40, 24, WITAN_BF16);
    run_t    run    = run_make(50);
    int64_t *begins = calloc((size_t)world_size + 1, sizeof(*begins));

    /* 0: all on the last rank; 1: all on rank 0; 2: quadratic, some ranks with none */
    for (int r = 0; r <= world_size; r++) {
        begins[r] = _i == 0   ? (r == world_size ? 50 : 0)
                    : _i == 1 ? (r == 0 ? 0 : 50)
                              : 50 * r * r / (world_size * world_size);
    }
    run.begins = begins;
    run_check_exact(&block, &run);
    free(begins);
}
END_TEST

START_TEST(test_forward_any_placement_equals_one_rank)
{
    block_t block = block_make(11, 4, 40, 24, WITAN_BF16);
    run_t   run   = run_make(70);
    int32_t owner[11];

    /* 0: all experts on one rank; 1: round robin; 2: at random */
    for (int e = 0; e < 11; e++) {
        owner[e] =
            _i == 0 ? world_size - 1
            : _i == 1
                ? e % world_size
                : (int)(fabsf(block_random(3, (uint64_t)e, 0, 0)) * (float)world_size * 0.999f);
    }
    run.owner = owner;
    run_check_exact(&block, &run);
}
END_TEST

START_TEST(test_forward_any_budget_equals_one_rank)
{
    static const struct {
        int64_t tokens, rows;
        int32_t chunks;
    } budgets[]    = {{0, 0, 2}, {0, 0, 5}, {1, 4, 1},       {3, 0, 1},
                      {0, 7, 1}, {2, 5, 3}, {1000, 1000, 64}};
    block_t  block = block_make(9, 4, 40, 24, WITAN_BF16);
    run_t    run   = run_make(67);
    result_t alone;

    block.config.shared_inter_size = 16;
    run.plan.pair_token_count_max  = budgets[_i].tokens;
    run.plan.pair_row_count_max    = budgets[_i].rows;
    run.plan.chunk_count           = budgets[_i].chunks;
    alone                          = run_alone(&block, &run);
    for (int i = 0; i < 2 * RUN_NODES_COUNT; i++) {
        result_t world;

        run.steps = i % 2 > 0;
        run_choose_nodes(&run, i / 2);
        world = run_world(&block, &run);
        run_assert_equal_bits(&block, &run, &world, &alone);
        if (_i >= 2 && _i < 5 && world_size < 5) {
            ck_assert_int_gt(world.stats.round_count, 1);
        }
        result_free(&world);
    }
    result_free(&alone);
}
END_TEST

START_TEST(test_forward_poisoned_workspace_equals_one_rank)
{
    block_t block = block_make(8, 3, 40, 24, _i == 0 ? WITAN_F32 : WITAN_BF16);
    run_t   run   = run_make(37);

    block.config.shared_inter_size = 24;
    block.config.has_shared_gate   = true;
    run.poison                     = true;
    run.plan.chunk_count           = 1 + _i;
    run_check_exact(&block, &run);
}
END_TEST

START_TEST(test_forward_masked_and_contiguous_equal_bits)
{
    block_t  block = block_make(16, 2, 40, 24, WITAN_BF16);
    run_t    run   = run_make(24);
    result_t masked, contiguous;

    run.plan.executor = WITAN_EXECUTOR_MASKED;
    masked            = run_world(&block, &run);
    run.plan.executor = WITAN_EXECUTOR_CONTIGUOUS;
    contiguous        = run_world(&block, &run);
    run_assert_equal_bits(&block, &run, &masked, &contiguous);
    result_free(&masked);
    result_free(&contiguous);
}
END_TEST

START_TEST(test_forward_identity_experts_give_weighted_input)
{
    block_t  block = block_make(6, 3, 48, 48, WITAN_F32);
    run_t    run   = run_make(40);
    result_t result;
    float   *hidden;

    block.identity          = true;
    block.config.activation = (witan_activation_t){.kind = WITAN_ACTIVATION_IDENTITY};
    result                  = run_world(&block, &run);
    hidden                  = block_input(&block, 0, 40);
    for (int64_t i = 0; i < 40 * 48; i++) {
        const float *w        = result.weights + i / 48 * 3;
        float        expected = 0.0f;

        for (int k = 0; k < 3; k++) {
            expected = expected + w[k] * hidden[i]; /* the promised order: equal bits */
        }
        ck_assert(((float *)(void *)result.rows)[i] == expected);
    }
    free(hidden);
    result_free(&result);
}
END_TEST

START_TEST(test_import_odd_ids_equals_one_rank)
{
    enum { T = 31, K = 4 };
    block_t block = block_make(9, K, 40, 24, WITAN_BF16);
    run_t   run   = run_make(T);
    int32_t ids[T * K];
    float   weights[T * K];

    /* 0: all to one expert, repeated; 1: holes; 2: only holes */
    for (int i = 0; i < T * K; i++) {
        ids[i]     = _i == 0 ? 8 : _i == 1 ? (i % 3 == 0 ? -1 : i * 7 % 9) : -1;
        weights[i] = ids[i] < 0 ? NAN : block_random(5, (uint64_t)i, 0, 0);
    }
    run.ids     = ids;
    run.weights = weights;
    run_check_exact(&block, &run);
    run.plan.pair_token_count_max = 2;
    run.plan.pair_row_count_max   = K;
    run_check_exact(&block, &run);
}
END_TEST

START_TEST(test_reduced_is_accurate_and_repeatable)
{
    block_t block = block_make(16, 6, 40, 24, (witan_dtype_t)_i);
    run_t   run   = run_make(45);

    block.config.shared_inter_size = 24;
    run.plan.combine               = WITAN_COMBINE_REDUCED;
    for (int i = 0; i < RUN_NODES_COUNT; i++) {
        result_t first, again;

        run_choose_nodes(&run, i);
        run.plan.chunk_count = 1;
        first                = run_world(&block, &run);
        run_assert_accurate(&block, &run, &first);
        run.plan.chunk_count = 3; /* the sum of a token does not depend on rounds */
        again                = run_world(&block, &run);
        run_assert_equal_bits(&block, &run, &first, &again);
        result_free(&first);
        result_free(&again);
    }
}
END_TEST

START_TEST(test_tensor_parallel_is_accurate_and_repeatable)
{
    block_t  block = block_make(8, 3, 40, 25, (witan_dtype_t)_i);
    run_t    run   = run_make(21);
    result_t first, again;

    block.config.shared_inter_size = 19;
    block.config.has_shared_gate   = true;
    block.config.has_gate_up_bias  = true;
    block.config.has_down_bias     = true;
    run.tp                         = world_size;
    first                          = run_world(&block, &run);
    run_assert_accurate(&block, &run, &first);
    again = run_world(&block, &run);
    run_assert_equal_bits(&block, &run, &first, &again);
    {
        /* The others' parts of 21 x 40 sums in fp32, then the own part to each, rounded. */
        int64_t count = 21 * 40;
        int64_t mine  = wtn_part_begin(count, world_size, world_rank + 1) -
                       wtn_part_begin(count, world_size, world_rank);

        ck_assert_int_eq(first.stats.tensor_send_bytes,
                         4 * (count - mine) + (world_size - 1) * mine *
                                                  (int64_t)witan_dtype_bytes(block.config.dtype));
    }
    result_free(&first);
    result_free(&again);
}
END_TEST

/* Every fold of the ranks: ep x tp x data parallel. In data parallel groups all hold the same
 * tokens here, so the union of slices is still the whole. */
START_TEST(test_forward_any_folding_is_accurate)
{
    for (int32_t tp = 1; tp <= world_size; tp++) {
        for (int32_t ep = 1; ep * tp <= world_size; ep++) {
            block_t  block = block_make(7, 2, 24, 18, WITAN_F32);
            run_t    run   = run_make(19);
            result_t result;

            if (world_size % (ep * tp) != 0) {
                continue;
            }
            block.config.shared_inter_size = 11;
            run.ep                         = ep;
            run.tp                         = tp;
            run.plan.combine               = (witan_combine_mode_t)_i;
            run.ranks_per_node             = 2; /* a node may hold one rank of an expert group */
            result                         = run_world(&block, &run);
            run_assert_accurate(&block, &run, &result);
            result_free(&result);
        }
    }
}
END_TEST

START_TEST(test_forward_width_below_ranks_is_accurate)
{
    block_t  block = block_make(4, 2, 16, 2, WITAN_F32);
    run_t    run   = run_make(9);
    result_t result;

    block.config.has_gate_up_bias = true;
    block.config.has_down_bias    = true;
    run.tp                        = world_size; /* some ranks hold no column at all */
    result                        = run_world(&block, &run);
    run_assert_accurate(&block, &run, &result);
    result_free(&result);
}
END_TEST

/* A NaN or Inf in one token stays in it: all other rows keep their bits. */
START_TEST(test_forward_nan_stays_in_its_token)
{
    block_t              block  = block_make(8, 2, 40, 24, WITAN_BF16);
    witan_group_t       *group  = world_group(0, 1);
    witan_weights_t      source = block_weights(&block);
    witan_layer_t       *layer;
    witan_plan_t        *plan;
    witan_plan_config_t  config;
    uint16_t            *hidden = block_input(&block, world_rank * 100, 10);
    uint16_t             clean[10 * 40], out[10 * 40];
    witan_forward_args_t args = {.struct_bytes = sizeof(args),
                                 .token_count  = 10,
                                 .hidden       = hidden,
                                 .output       = clean};

    witan_plan_config_init(&config);
    config.token_count_max = 10;
    ck_ok(witan_layer_create(&layer, group, &block.config, &source));
    ck_ok(witan_plan_create(&plan, layer, &config));
    ck_ok(witan_forward(plan, &args));
    hidden[3 * 40 + 5] = _i == 0 ? 0x7fc0 : 0x7f80;
    args.output        = out;
    ck_ok(witan_forward(plan, &args));
    for (int t = 0; t < 10; t++) {
        if (t != 3) {
            ck_assert_mem_eq(out + t * 40, clean + t * 40, 80);
        }
    }
    ck_assert(isnan(wtn_bf16_to_float(out[3 * 40])) || isinf(wtn_bf16_to_float(out[3 * 40])));
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
    free(hidden);
}
END_TEST

/* One plan, many steps, 256 experts: the same bits each time, and statistics that add up. */
START_TEST(test_forward_repeated_gives_equal_bits)
{
    enum { T = 24, H = 32, REPEATS = 200 };
    block_t              block  = block_make(256, 8, H, 8, WITAN_BF16);
    witan_group_t       *group  = world_group(0, 1);
    witan_weights_t      source = block_weights(&block);
    witan_stats_t        stats  = {.struct_bytes = sizeof(stats)};
    witan_layer_t       *layer;
    witan_plan_t        *plans[2];
    witan_plan_config_t  config;
    uint16_t            *hidden = block_input(&block, world_rank * 100, T);
    uint16_t             first[T * H], out[T * H];
    int64_t              rows[64], sum = 0;
    witan_forward_args_t args = {.struct_bytes = sizeof(args),
                                 .token_count  = T,
                                 .hidden       = hidden,
                                 .output       = first};

    witan_plan_config_init(&config);
    config.token_count_max = T;
    ck_ok(witan_layer_create(&layer, group, &block.config, &source));
    ck_ok(witan_plan_create(&plans[0], layer, &config));
    config.chunk_count = 2;
    ck_ok(witan_plan_create(&plans[1], layer, &config));
    ck_ok(witan_forward(plans[0], &args));
    args.output = out;
    for (int i = 0; i < REPEATS; i++) {
        memset(out, 0xff, sizeof(out));
        args.token_count = i % 3 == 1 ? 1 + i % T : T; /* short steps leave no stale tail */
        ck_ok(witan_forward(plans[i % 2], &args));
        ck_assert_mem_eq(out, first, (size_t)args.token_count * H * 2);
    }
    ck_ok(witan_plan_load(plans[0], NULL, rows, NULL));
    ck_ok(witan_plan_stats(plans[0], &stats));
    for (int r = 0; r < world_size; r++) {
        sum += rows[r];
    }
    ck_assert_int_eq(rows[world_rank], stats.recv_row_count);
    ck_assert_int_eq(stats.rank_send_bytes[world_rank], 0);
    witan_plan_destroy(plans[1]);
    witan_plan_destroy(plans[0]);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
    ck_assert_int_gt(sum, 0);
    free(hidden);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("layer");
    TCase *tcase = tcase_create("layer");

    tcase_set_timeout(tcase, 100);
    tcase_add_loop_test(tcase, test_forward_any_shape_equals_one_rank, 0, 10);
    tcase_add_loop_test(tcase, test_forward_with_all_options_equals_one_rank, 0, 2);
    tcase_add_loop_test(tcase, test_forward_any_split_of_tokens_equals_one_rank, 0, 3);
    tcase_add_loop_test(tcase, test_forward_any_placement_equals_one_rank, 0, 3);
    tcase_add_loop_test(tcase, test_forward_any_budget_equals_one_rank, 0, 7);
    tcase_add_loop_test(tcase, test_forward_poisoned_workspace_equals_one_rank, 0, 2);
    tcase_add_test(tcase, test_forward_masked_and_contiguous_equal_bits);
    tcase_add_test(tcase, test_forward_identity_experts_give_weighted_input);
    tcase_add_loop_test(tcase, test_import_odd_ids_equals_one_rank, 0, 3);
    tcase_add_loop_test(tcase, test_reduced_is_accurate_and_repeatable, 0, 3);
    tcase_add_loop_test(tcase, test_tensor_parallel_is_accurate_and_repeatable, 0, 3);
    tcase_add_loop_test(tcase, test_forward_any_folding_is_accurate, 0, 2); /* exact, reduced */
    tcase_add_test(tcase, test_forward_width_below_ranks_is_accurate);
    tcase_add_loop_test(tcase, test_forward_nan_stays_in_its_token, 0, 2);
    tcase_add_test(tcase, test_forward_repeated_gives_equal_bits);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return harness_run(argc, argv, make_suite);
}

/* Objects on one rank, without MPI: sizes told before, what is refused, what is reported. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "core/env.h"
#include "core/util.h"
#include "mpi/block.h"
#include "topology/placement.h"

#define ck_ok(call)                                                                   \
    do {                                                                              \
        witan_status_t got_ = (call);                                                 \
        ck_assert_msg(got_ == WITAN_OK, "%s: %s: %s", #call, witan_status_name(got_), \
                      witan_last_error());                                            \
    } while (0)

#define ck_refused(call, expected, text)                                                     \
    do {                                                                                     \
        ck_assert_int_eq((call), (expected));                                                \
        ck_assert_msg(strstr(witan_last_error(), (text)) != NULL, "'%s' does not name '%s'", \
                      witan_last_error(), (text));                                           \
    } while (0)

static witan_group_t *self_group(void)
{
    witan_group_config_t config;
    witan_group_t       *group;

    witan_group_config_init(&config);
    config.thread_count = 1;
    ck_ok(witan_group_create_self(&group, &config));
    return group;
}

/* What the query says is what a plan takes: exactly that workspace is enough, less is refused. */
START_TEST(test_query_tells_the_workspace_a_plan_takes)
{
    static const struct {
        int64_t              tokens, pair_tokens, pair_rows;
        int32_t              chunks;
        witan_combine_mode_t combine;
    } plans[] = {
        {0, 0, 0, 1, WITAN_COMBINE_EXACT},    {1, 0, 0, 1, WITAN_COMBINE_EXACT},
        {37, 0, 0, 3, WITAN_COMBINE_EXACT},   {37, 5, 9, 1, WITAN_COMBINE_EXACT},
        {37, 0, 0, 1, WITAN_COMBINE_REDUCED}, {500, 7, 0, 2, WITAN_COMBINE_REDUCED},
    };
    block_t              block   = block_make(9, 3, 72, 40, WITAN_BF16);
    witan_weights_t      weights = block_weights(&block);
    witan_group_t       *group   = self_group();
    witan_group_config_t group_config;
    witan_plan_config_t  config;
    witan_sizes_t        sizes = {.struct_bytes = sizeof(sizes)};
    witan_layer_info_t   info  = {.struct_bytes = sizeof(info)};
    witan_layer_t       *layer;
    witan_plan_t        *plan;

    block.config.shared_inter_size = 16;
    block.config.has_shared_gate   = true;
    witan_group_config_init(&group_config);
    group_config.thread_count = 1;
    witan_plan_config_init(&config);
    config.token_count_max      = plans[_i].tokens;
    config.pair_token_count_max = plans[_i].pair_tokens;
    config.pair_row_count_max   = plans[_i].pair_rows;
    config.chunk_count          = plans[_i].chunks;
    config.combine              = plans[_i].combine;
    ck_ok(witan_layer_query(&group_config, 0, 1, &block.config, &config, &sizes));
    ck_assert_int_le(sizes.plan_bytes_balanced, sizes.plan_bytes_worst);
    ck_ok(witan_layer_create(&layer, group, &block.config, &weights));
    ck_ok(witan_layer_info(layer, &info));
    ck_assert_int_eq(info.weight_bytes, sizes.weight_bytes);
    ck_assert_int_eq(info.local_expert_count, 9);
    config.workspace_bytes = (size_t)sizes.plan_bytes;
    config.workspace       = aligned_alloc(64, config.workspace_bytes + 64);
    ck_ok(witan_plan_create(&plan, layer, &config));
    witan_plan_destroy(plan);
    config.workspace_bytes -= 1;
    ck_refused(witan_plan_create(&plan, layer, &config), WITAN_E_ARGUMENT, "workspace");
    ck_assert_ptr_null(plan);
    free(config.workspace);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

/* More ranks: less weight each, and the sums of all ranks' experts are the whole. */
START_TEST(test_query_many_ranks_needs_no_machine)
{
    block_t              block = block_make(256, 8, 7168, 2048, WITAN_BF16);
    witan_group_config_t group;
    witan_plan_config_t  config;
    witan_sizes_t        sizes = {.struct_bytes = sizeof(sizes)}, one = sizes;

    witan_group_config_init(&group);
    witan_plan_config_init(&config);
    config.token_count_max = 4096;
    ck_ok(witan_layer_query(&group, 0, 1, &block.config, &config, &one));
    ck_assert_int_gt(one.weight_bytes, (int64_t)256 * 3 * 7168 * 2048 * 2);
    for (int32_t ranks = 8; ranks <= 4096; ranks *= 8) {
        ck_ok(witan_layer_query(&group, ranks - 1, ranks, &block.config, &config, &sizes));
        ck_assert_int_lt(sizes.weight_bytes, one.weight_bytes);
        ck_assert_int_lt(sizes.plan_bytes_balanced, sizes.plan_bytes_worst);
        ck_assert_int_eq(sizes.pair_token_count_worst, 4096);
    }
    /* EP8: 4096 (1 - C(224, 8) / C(256, 8)) = 2710.86 tokens, 5.295 distinct ranks each. */
    ck_ok(witan_layer_query(&group, 0, 8, &block.config, &config, &sizes));
    ck_assert_int_eq(sizes.pair_token_count_balanced, 2711);
    ck_assert_int_eq(sizes.pair_row_count_balanced, 4096);
}
END_TEST

START_TEST(test_query_bad_arguments_are_refused)
{
    block_t              block = block_make(8, 2, 16, 8, WITAN_F32);
    witan_group_config_t group;
    witan_plan_config_t  config;
    witan_sizes_t        sizes = {.struct_bytes = sizeof(sizes)};

    witan_group_config_init(&group);
    witan_plan_config_init(&config);
    ck_refused(witan_layer_query(&group, 2, 2, &block.config, &config, &sizes), WITAN_E_ARGUMENT,
               "rank");
    config.token_count_max = -1;
    ck_refused(witan_layer_query(&group, 0, 2, &block.config, &config, &sizes), WITAN_E_ARGUMENT,
               "token_count_max");
    config.token_count_max = 4;
    config.chunk_count     = 0;
    ck_refused(witan_layer_query(&group, 0, 2, &block.config, &config, &sizes), WITAN_E_ARGUMENT,
               "chunk_count");
    config.chunk_count   = 1;
    block.config.backend = NULL;
    ck_refused(witan_layer_query(&group, 0, 2, &block.config, &config, &sizes), WITAN_E_ARGUMENT,
               "backend");
    block.config.backend     = "host";
    block.config.kernel_tier = NULL;
    ck_refused(witan_layer_query(&group, 0, 2, &block.config, &config, &sizes), WITAN_E_ARGUMENT,
               "kernel_tier");
    block.config.kernel_tier = "auto";
    config.struct_bytes      = 3;
    ck_refused(witan_layer_query(&group, 0, 2, &block.config, &config, &sizes), WITAN_E_ARGUMENT,
               "struct_bytes");
}
END_TEST

/* Weights, and the sum of all tensors, that 64 bits do not hold. */
START_TEST(test_query_weights_that_overflow_are_refused)
{
    static const struct {
        int64_t hidden, inter, shared;
        int32_t experts;
    } cases[] = {
        {INT64_C(1) << 31, INT64_C(1) << 31, 0, 1},
        {INT64_C(1) << 30, INT64_C(1) << 30, 0, 4},
        {INT64_C(1) << 30, INT64_C(1) << 30, INT64_C(1) << 30, 1},
        {INT64_C(1) << 30, INT64_C(1) << 30, 0, 1 << 20},
    };
    block_t             block = block_make(cases[_i].experts, 1, 16, 8, WITAN_BF16);
    witan_sizes_t       sizes = {.struct_bytes = sizeof(sizes)};
    witan_plan_config_t config;

    witan_plan_config_init(&config);
    config.token_count_max         = 4;
    block.config.hidden_size       = cases[_i].hidden;
    block.config.inter_size        = cases[_i].inter;
    block.config.shared_inter_size = cases[_i].shared;
    ck_refused(witan_layer_query(NULL, 0, 1, &block.config, &config, &sizes), WITAN_E_CONFIG,
               "layer: weights");
}
END_TEST

/* The query and the group read the same environment: else a workspace of its size is too small. */
START_TEST(test_query_knows_the_threads_of_the_environment)
{
    block_t              block   = block_make(9, 3, 72, 40, WITAN_BF16);
    witan_weights_t      weights = block_weights(&block);
    witan_sizes_t        sizes   = {.struct_bytes = sizeof(sizes)};
    witan_group_config_t wrong   = {.struct_bytes = 8, .tensor_parallel = 1};
    witan_plan_config_t  config;
    witan_group_t       *group;
    witan_layer_t       *layer;
    witan_plan_t        *plan;

    witan_plan_config_init(&config);
    config.token_count_max = 37;
    ck_assert_int_eq(setenv("WITAN_NUM_THREADS", "64", 1), 0);
    ck_refused(witan_layer_query(&wrong, 0, 1, &block.config, &config, &sizes), WITAN_E_ARGUMENT,
               "struct_bytes");
    ck_ok(witan_layer_query(NULL, 0, 1, &block.config, &config, &sizes));
    ck_ok(witan_group_create_self(&group, NULL));
    ck_ok(witan_layer_create(&layer, group, &block.config, &weights));
    config.workspace_bytes = (size_t)sizes.plan_bytes;
    config.workspace       = aligned_alloc(64, config.workspace_bytes + 64);
    ck_ok(witan_plan_create(&plan, layer, &config));
    witan_plan_destroy(plan);
    free(config.workspace);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
    ck_assert_int_eq(unsetenv("WITAN_NUM_THREADS"), 0);
}
END_TEST

START_TEST(test_null_pointers_are_refused)
{
    witan_group_t       *group      = self_group();
    witan_group_info_t   group_info = {0};
    witan_forward_args_t args       = {.struct_bytes = sizeof(args)};
    witan_stats_t        stats      = {.struct_bytes = sizeof(stats)};
    witan_layer_t       *layer;
    witan_plan_t        *plan;
    witan_layer_info_t   info = {.struct_bytes = sizeof(info)};
    const int32_t       *ids;
    const float         *weights;
    void                *memory = &info;

    ck_assert_int_eq(witan_group_create_self(NULL, NULL), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_group_query(group, &group_info), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_layer_create(&layer, group, NULL, NULL), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_layer_create(NULL, group, NULL, NULL), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_layer_load(&layer, group, NULL, 0, NULL), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_layer_info(NULL, &info), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_plan_create(&plan, NULL, NULL), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_forward(NULL, &args), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_route(NULL, 0, NULL), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_plan_import(NULL, 0, NULL, NULL), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_dispatch(NULL, NULL), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_experts(NULL), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_combine(NULL, NULL), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_plan_stats(NULL, &stats), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_plan_load(NULL, NULL, NULL, NULL), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_plan_routing(NULL, &ids, &weights), WITAN_E_ARGUMENT);
    ck_assert_int_eq(witan_plan_rounds_left(NULL), 0);
    ck_assert_int_eq(witan_memory_alloc(NULL, &memory, 4), WITAN_E_ARGUMENT);
    ck_assert_ptr_null(memory);
    witan_plan_destroy(NULL);
    witan_layer_destroy(NULL);
    witan_group_destroy(NULL);
    witan_group_destroy(group);
}
END_TEST

/* Alone, a refused argument does not cost the plan. */
START_TEST(test_forward_refused_alone_keeps_the_plan)
{
    block_t              block   = block_make(8, 2, 16, 8, WITAN_F32);
    witan_weights_t      weights = block_weights(&block);
    witan_group_t       *group   = self_group();
    float               *hidden  = block_input(&block, 0, 3), out[3 * 16];
    witan_forward_args_t args    = {.struct_bytes = sizeof(args),
                                    .token_count  = 4,
                                    .hidden       = hidden,
                                    .output       = out};
    witan_stats_t        stats   = {.struct_bytes = sizeof(stats)};
    witan_plan_config_t  config;
    witan_layer_t       *layer;
    witan_plan_t        *plan;
    const int32_t       *ids;
    const float         *gates;

    witan_plan_config_init(&config);
    config.token_count_max = 3;
    ck_ok(witan_layer_create(&layer, group, &block.config, &weights));
    ck_ok(witan_plan_create(&plan, layer, &config));
    ck_refused(witan_plan_routing(plan, &ids, &gates), WITAN_E_STATE, "route");
    ck_refused(witan_forward(plan, &args), WITAN_E_ARGUMENT, "4 tokens");
    args.token_count = -1;
    ck_refused(witan_forward(plan, &args), WITAN_E_ARGUMENT, "-1 tokens");
    args.token_count = 3;
    args.output      = NULL;
    ck_refused(witan_forward(plan, &args), WITAN_E_ARGUMENT, "NULL");
    args.output = out;
    ck_ok(witan_forward(plan, &args));
    ck_assert_int_eq(witan_plan_rounds_left(plan), 0);
    ck_ok(witan_plan_stats(plan, &stats));
    ck_assert_int_eq(stats.token_count, 3);
    ck_assert_int_eq(stats.recv_row_count, 6);
    ck_assert_int_eq(stats.round_count, 1);
    ck_assert(stats.imbalance == 1.0);
    ck_ok(witan_dispatch(plan, hidden) == WITAN_E_STATE ? WITAN_OK : WITAN_E_INTERNAL);
    free(hidden);
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

/* Alone, the last combine can be called again with an output. */
START_TEST(test_combine_refused_alone_keeps_the_step)
{
    block_t              block   = block_make(8, 2, 16, 8, WITAN_F32);
    witan_weights_t      weights = block_weights(&block);
    witan_group_t       *group   = self_group();
    float               *hidden  = block_input(&block, 0, 5), out[5 * 16], stepped[5 * 16];
    witan_forward_args_t args    = {.struct_bytes = sizeof(args),
                                    .token_count  = 5,
                                    .hidden       = hidden,
                                    .output       = out};
    witan_plan_config_t  config;
    witan_layer_t       *layer;
    witan_plan_t        *plan;

    witan_plan_config_init(&config);
    config.token_count_max      = 5;
    config.pair_token_count_max = 3;
    ck_ok(witan_layer_create(&layer, group, &block.config, &weights));
    ck_ok(witan_plan_create(&plan, layer, &config));
    ck_ok(witan_forward(plan, &args));
    ck_ok(witan_route(plan, 5, hidden));
    for (int round = 0; round < 2; round++) {
        ck_ok(witan_dispatch(plan, hidden));
        ck_ok(witan_experts(plan));
        if (round == 1) {
            ck_refused(witan_combine(plan, NULL), WITAN_E_ARGUMENT, "combine: an array is NULL");
            ck_assert_int_eq(witan_plan_rounds_left(plan), 1);
        }
        ck_ok(witan_combine(plan, round == 0 ? NULL : stepped));
    }
    ck_assert_int_eq(witan_plan_rounds_left(plan), 0);
    ck_assert_mem_eq(stepped, out, sizeof(out));
    free(hidden);
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_forward_in_place_gives_equal_bits)
{
    block_t              block   = block_make(8, 2, 16, 8, WITAN_F32);
    witan_weights_t      weights = block_weights(&block);
    witan_group_t       *group   = self_group();
    float               *hidden  = block_input(&block, 0, 30), out[30 * 16];
    witan_forward_args_t args    = {.struct_bytes = sizeof(args),
                                    .token_count  = 30,
                                    .hidden       = hidden,
                                    .output       = out};
    witan_plan_config_t  config;
    witan_layer_t       *layer;
    witan_plan_t        *plan;

    block.config.shared_inter_size = 8;
    witan_plan_config_init(&config);
    config.token_count_max      = 30;
    config.pair_token_count_max = 7; /* several rounds read the input */
    ck_ok(witan_layer_create(&layer, group, &block.config, &weights));
    ck_ok(witan_plan_create(&plan, layer, &config));
    ck_ok(witan_forward(plan, &args));
    args.output = hidden;
    ck_ok(witan_forward(plan, &args));
    ck_assert_mem_eq(hidden, out, sizeof(out));
    free(hidden);
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_names_of_every_value_are_known)
{
    ck_assert_str_eq(witan_status_name(WITAN_E_TIMEOUT), "WITAN_E_TIMEOUT");
    ck_assert_str_eq(witan_status_name((witan_status_t)99), "WITAN_E_?");
    ck_assert_str_eq(witan_status_text(WITAN_OK), "success");
    ck_assert_str_eq(witan_status_text((witan_status_t)99), "not a status");
    ck_assert_str_eq(witan_dtype_name(WITAN_BF16), "BF16");
    ck_assert_str_eq(witan_dtype_name((witan_dtype_t)9), "?");
    ck_assert_uint_eq(witan_dtype_bytes((witan_dtype_t)9), 0);
    ck_assert_str_eq(witan_phase_name(WITAN_PHASE_REDUCE), "reduce");
    ck_assert_str_eq(witan_phase_name((witan_phase_t)77), "?");
    ck_assert_str_eq(witan_version(), WITAN_VERSION_STRING);
}
END_TEST

START_TEST(test_last_error_is_one_line_whatever_it_names)
{
    (void)witan_error_set(WITAN_E_IO, "file '%s': %d", "a\nb\tc\x7f", 3);
    ck_assert_str_eq(witan_last_error(), "file 'a b c ': 3");
}
END_TEST

START_TEST(test_environment_values_are_strict)
{
    static const char *const bad[] = {"ten", "-1", "1x", "99999999999999999999", "nan"};
    witan_group_t           *group;
    uint64_t                 ns = 0;
    int64_t                  count;

    for (size_t i = 0; i < WTN_COUNT_OF(bad); i++) {
        ck_assert_int_eq(setenv("WITAN_TIMEOUT", bad[i], 1), 0);
        ck_refused(wtn_env_seconds(WTN_ENV_WITAN_TIMEOUT, &ns), WITAN_E_ARGUMENT, "WITAN_TIMEOUT");
        ck_refused(witan_group_create_self(&group, NULL), WITAN_E_ARGUMENT, bad[i]);
        ck_assert_int_eq(setenv("WITAN_NUM_THREADS", bad[i], 1), 0);
        ck_refused(wtn_env_count(WTN_ENV_WITAN_NUM_THREADS, 64, &count), WITAN_E_ARGUMENT,
                   "WITAN_NUM_THREADS");
    }
    ck_assert_int_eq(setenv("WITAN_TIMEOUT", "1.5", 1), 0);
    ck_ok(wtn_env_seconds(WTN_ENV_WITAN_TIMEOUT, &ns));
    ck_assert_uint_eq(ns, 1500000000u);
    ck_assert_int_eq(unsetenv("WITAN_TIMEOUT"), 0);
    ck_assert_int_eq(unsetenv("WITAN_NUM_THREADS"), 0);
}
END_TEST

START_TEST(test_carver_overflow_is_remembered)
{
    wtn_carver_t carver = {0};

    ck_assert_ptr_null(wtn_carve(&carver, 3, 5));
    ck_assert_uint_eq(carver.bytes, 64);
    ck_assert_ptr_null(wtn_carve(&carver, SIZE_MAX / 2, 3));
    ck_assert_uint_eq(carver.bytes, SIZE_MAX);
    ck_assert_ptr_null(wtn_carve(&carver, 1, 1));
    ck_assert_uint_eq(carver.bytes, SIZE_MAX);
    ck_assert_ptr_null(wtn_alloc(SIZE_MAX - 5));
}
END_TEST

START_TEST(test_placement_any_owners_are_indexed_in_order)
{
    static const int32_t owner[5] = {2, 0, 2, 2, 0};
    static const int32_t wrong[2] = {0, 3};
    wtn_placement_spec_t spec     = {.expert_count = 5, .owner_count = 4, .expert_owner = owner};
    wtn_placement_t      placement;

    ck_ok(wtn_placement_make(&placement, &spec));
    ck_assert_int_eq(placement.counts[1] + placement.counts[3], 0);
    ck_assert_int_eq(placement.slot_local[3], 2);
    ck_assert_int_eq(placement.slot_local[4], 1);
    wtn_placement_free(&placement);
    spec = (wtn_placement_spec_t){.expert_count = 5, .owner_count = 3}; /* 1, 2, 2 */
    ck_ok(wtn_placement_make(&placement, &spec));
    ck_assert_int_eq(placement.counts[0], 1);
    ck_assert_int_eq(placement.counts[1] + placement.counts[2], 4);
    wtn_placement_free(&placement);
    spec = (wtn_placement_spec_t){.expert_count = 2, .owner_count = 3, .expert_owner = wrong};
    ck_refused(wtn_placement_make(&placement, &spec), WITAN_E_CONFIG, "expert_owner[1]");
}
END_TEST

/* Slots of six for three experts: every table, and the turns that tokens take. */
START_TEST(test_placement_replicas_take_turns)
{
    static const int32_t expert[6] = {2, 0, 2, 1, 2, 0}, owner[6] = {1, 0, 1, 3, 0, 0};
    static const int32_t begin[4] = {0, 2, 3, 6}, slots[6] = {1, 5, 3, 0, 2, 4};
    static const int32_t local[6] = {0, 0, 1, 0, 1, 2};
    wtn_placement_spec_t spec     = {.expert_count = 3,
                                     .owner_count  = 4,
                                     .slot_count   = 6,
                                     .slot_expert  = expert,
                                     .slot_owner   = owner};
    wtn_placement_t      placement;

    ck_ok(wtn_placement_make(&placement, &spec));
    ck_assert_mem_eq(placement.replica_begin, begin, sizeof(begin));
    ck_assert_mem_eq(placement.replica_slots, slots, sizeof(slots));
    ck_assert_mem_eq(placement.slot_local, local, sizeof(local));
    ck_assert_int_eq(placement.counts[2], 0);
    for (int32_t t = 0; t < 7; t++) {
        ck_assert_int_eq(wtn_placement_choose(&placement, 0, t), t % 2 == 0 ? 1 : 5);
        ck_assert_int_eq(wtn_placement_choose(&placement, 1, t), 3);
        ck_assert_int_eq(wtn_placement_choose(&placement, 2, t), 2 * (t % 3));
    }
    wtn_placement_free(&placement);
    spec.slot_owner = NULL; /* 1, 2, 1, 2 */
    ck_ok(wtn_placement_make(&placement, &spec));
    ck_assert_int_eq(placement.slot_owner[0], 0);
    ck_assert_int_eq(placement.slot_owner[2], 1);
    ck_assert_int_eq(placement.slot_owner[3], 2);
    wtn_placement_free(&placement);
}
END_TEST

START_TEST(test_placement_bad_slots_are_refused)
{
    static const int32_t missing[3] = {0, 0, 2}, outside[3] = {0, 3, 1}, good[3] = {0, 1, 2};
    static const int32_t owner[3] = {0, 1, 2};
    wtn_placement_spec_t spec     = {.expert_count = 3, .owner_count = 2, .slot_count = 3};
    wtn_placement_t      placement;

    ck_refused(wtn_placement_make(&placement, &spec), WITAN_E_ARGUMENT, "slot_expert");
    spec.slot_expert = missing;
    ck_refused(wtn_placement_make(&placement, &spec), WITAN_E_CONFIG, "expert 1 has no slot");
    spec.slot_expert = outside;
    ck_refused(wtn_placement_make(&placement, &spec), WITAN_E_CONFIG, "slot_expert[1]");
    spec.slot_expert = good;
    spec.slot_owner  = owner;
    ck_refused(wtn_placement_make(&placement, &spec), WITAN_E_CONFIG, "slot_owner[2]");
    spec.expert_owner = owner;
    ck_refused(wtn_placement_make(&placement, &spec), WITAN_E_ARGUMENT, "expert_owner");
    spec.expert_owner = NULL;
    spec.slot_count   = 2;
    ck_refused(wtn_placement_make(&placement, &spec), WITAN_E_CONFIG, "slot_count");
    spec.slot_count = 0;
    ck_refused(wtn_placement_make(&placement, &spec), WITAN_E_ARGUMENT, "without slot_count");
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("objects");
    TCase   *tcase  = tcase_create("objects");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_set_timeout(tcase, 30);
    tcase_add_loop_test(tcase, test_query_tells_the_workspace_a_plan_takes, 0, 6);
    tcase_add_test(tcase, test_query_many_ranks_needs_no_machine);
    tcase_add_test(tcase, test_query_bad_arguments_are_refused);
    tcase_add_loop_test(tcase, test_query_weights_that_overflow_are_refused, 0, 4);
    tcase_add_test(tcase, test_query_knows_the_threads_of_the_environment);
    tcase_add_test(tcase, test_null_pointers_are_refused);
    tcase_add_test(tcase, test_forward_refused_alone_keeps_the_plan);
    tcase_add_test(tcase, test_combine_refused_alone_keeps_the_step);
    tcase_add_test(tcase, test_forward_in_place_gives_equal_bits);
    tcase_add_test(tcase, test_names_of_every_value_are_known);
    tcase_add_test(tcase, test_last_error_is_one_line_whatever_it_names);
    tcase_add_test(tcase, test_environment_values_are_strict);
    tcase_add_test(tcase, test_carver_overflow_is_remembered);
    tcase_add_test(tcase, test_placement_any_owners_are_indexed_in_order);
    tcase_add_test(tcase, test_placement_replicas_take_turns);
    tcase_add_test(tcase, test_placement_bad_slots_are_refused);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

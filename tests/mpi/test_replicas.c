/* Placements with replicas: results are the bits of one rank alone, loads are shared, and tables
 * that are wrong are refused by name. */
#include <string.h>

#include "core/util.h"
#include "harness.h"
#include "run.h"

enum { E = 7, R = 18 };

typedef struct slots {
    int32_t expert[R], owner[R];
} slots_t;

/* 0: every rank has every expert, as far as slots go; 1: any rank has any; 2: the last rank has
 * none; 3: one expert has all that is over. */
static slots_t slots_make(int kind)
{
    slots_t slots;

    for (int s = 0; s < R; s++) {
        uint64_t draw = (uint64_t)(block_random(9, (uint64_t)s, (uint64_t)kind, 0) * 1e6f + 1e6f);

        slots.expert[s] = kind == 3 && s >= E ? 3 : kind == 1 && s >= E ? (int)(draw % E) : s % E;
        slots.owner[s]  = (int)(draw / E % (uint64_t)world_size);
        if (kind == 2 && world_size > 1) {
            slots.owner[s] = s % (world_size - 1);
        }
    }
    return slots;
}

static run_t run_with(const slots_t *slots, int64_t tokens)
{
    run_t run = run_make(tokens);

    run.slot_count  = R;
    run.slot_expert = slots->expert;
    run.slot_owner  = slots->owner;
    return run;
}

START_TEST(test_forward_any_replicas_equal_one_rank)
{
    block_t block = block_make(E, 3, 40, 24, (witan_dtype_t)(_i % 3));
    slots_t slots = slots_make(_i);
    run_t   run   = run_with(&slots, 70);

    block.config.shared_inter_size = 16;
    block.config.has_gate_up_bias  = true;
    block.config.has_down_bias     = true;
    run_check_exact(&block, &run);
    run.slot_owner = NULL; /* runs of slots as equal as can be */
    run_check_exact(&block, &run);
    run.steps                     = true;
    run.plan.pair_token_count_max = 3;
    run.plan.chunk_count          = 2;
    run_check_exact(&block, &run);
}
END_TEST

/* All tokens to one expert, K times over, with twelve replicas. */
START_TEST(test_import_one_expert_with_replicas_equals_one_rank)
{
    enum { T = 41, K = 3 };
    block_t block = block_make(E, K, 40, 24, WITAN_BF16);
    slots_t slots = slots_make(3);
    run_t   run   = run_with(&slots, T);
    int32_t ids[T * K];
    float   weights[T * K];

    for (int i = 0; i < T * K; i++) {
        ids[i]     = 3;
        weights[i] = block_random(5, (uint64_t)i, 0, 0);
    }
    run.ids     = ids;
    run.weights = weights;
    run_check_exact(&block, &run);
    run.plan.pair_token_count_max = 2;
    run.plan.pair_row_count_max   = K;
    run_check_exact(&block, &run);
}
END_TEST

/* Sums of a rank's rows depend on which rows it has: the same bits only for the same slots. */
START_TEST(test_reduced_with_replicas_is_accurate_and_repeatable)
{
    block_t  block = block_make(E, 3, 40, 24, WITAN_BF16);
    slots_t  slots = slots_make(_i);
    run_t    run   = run_with(&slots, 45);
    result_t first, again;

    run.plan.combine = WITAN_COMBINE_REDUCED;
    first            = run_world(&block, &run);
    run_assert_accurate(&block, &run, &first);
    run.plan.chunk_count = 3;
    again                = run_world(&block, &run);
    run_assert_equal_bits(&block, &run, &first, &again);
    result_free(&first);
    result_free(&again);
}
END_TEST

START_TEST(test_forward_any_folding_with_replicas_is_accurate)
{
    for (int32_t tp = 1; tp <= world_size; tp++) {
        for (int32_t ep = 1; ep * tp <= world_size; ep++) {
            block_t  block = block_make(E, 2, 24, 18, WITAN_F32);
            slots_t  slots = slots_make(_i);
            run_t    run   = run_with(&slots, 19);
            result_t result;

            if (world_size % (ep * tp) != 0) {
                continue;
            }
            run.ep         = ep;
            run.tp         = tp;
            run.slot_owner = NULL;
            result         = run_world(&block, &run);
            run_assert_accurate(&block, &run, &result);
            result_free(&result);
        }
    }
}
END_TEST

typedef struct made {
    witan_group_t *group;
    witan_layer_t *layer;
    witan_plan_t  *plan;
} made_t;

static made_t make(block_t *block, const slots_t *slots, int64_t tokens)
{
    witan_weights_t     weights = block_weights(block);
    witan_plan_config_t config;
    made_t              made = {.group = world_group(0, 1)};

    block->config.slot_count  = R;
    block->config.slot_expert = slots->expert;
    block->config.slot_owner  = slots->owner;
    ck_ok(witan_layer_create(&made.layer, made.group, &block->config, &weights));
    witan_plan_config_init(&config);
    config.token_count_max = tokens;
    ck_ok(witan_plan_create(&made.plan, made.layer, &config));
    return made;
}

static void unmake(made_t *made)
{
    witan_plan_destroy(made->plan);
    witan_layer_destroy(made->layer);
    witan_group_destroy(made->group);
}

/* Token t of rank i goes to replica (i + t) mod n: rows of every slot, counted at both ends. */
START_TEST(test_replicas_take_tokens_in_turn)
{
    enum { T = 37, K = 2 };
    block_t            block  = block_make(E, K, 16, 8, WITAN_F32);
    slots_t            slots  = slots_make(_i);
    made_t             made   = make(&block, &slots, T);
    float             *hidden = block_input(&block, world_rank * T, T), output[T * 16];
    int32_t            mine[T * K], ids[8 * T * K];
    int64_t            rows[R] = {0};
    float              gates[T * K];
    witan_stats_t      stats = {.struct_bytes = sizeof(stats)};
    witan_layer_info_t info  = {.struct_bytes = sizeof(info)};

    for (int i = 0; i < T * K; i++) {
        mine[i]  = (i * i + world_rank) % E;
        gates[i] = 0.5f;
    }
    MPI_Allgather(mine, T * K, MPI_INT32_T, ids, T * K, MPI_INT32_T, MPI_COMM_WORLD);
    for (int r = 0; r < world_size; r++) {
        for (int i = 0; i < T * K; i++) {
            int32_t expert = ids[r * T * K + i], count = 0, number = 0;

            for (int s = 0; s < R; s++) {
                count += slots.expert[s] == expert;
            }
            for (int s = 0; s < R; s++) {
                rows[s] += slots.expert[s] == expert && number++ == (r + i / K) % count;
            }
        }
    }
    ck_ok(witan_plan_import(made.plan, T, mine, gates));
    ck_ok(witan_dispatch(made.plan, hidden));
    ck_ok(witan_experts(made.plan));
    ck_ok(witan_combine(made.plan, output));
    ck_ok(witan_plan_stats(made.plan, &stats));
    ck_ok(witan_layer_info(made.layer, &info));
    ck_assert_int_eq(info.config.slot_count, R);
    for (int32_t s = 0, local = 0; s < R; s++) {
        if (slots.owner[s] == world_rank) {
            ck_assert_int_lt(local, info.local_expert_count);
            ck_assert_int_eq(info.local_slots[local], s);
            ck_assert_int_eq(info.local_experts[local], slots.expert[s]);
            ck_assert_int_eq(stats.expert_row_counts[local++], rows[s]);
        }
    }
    free(hidden);
    unmake(&made);
}
END_TEST

/* A layer made again from what another tells of itself is the same. */
START_TEST(test_layer_info_config_makes_the_same_layer)
{
    block_t            block = block_make(E, 2, 16, 8, WITAN_F32);
    slots_t            slots = slots_make(1);
    made_t             made  = make(&block, &slots, 4);
    witan_layer_info_t info = {.struct_bytes = sizeof(info)}, twin = info;
    witan_weights_t    weights = block_weights(&block);
    witan_layer_t     *layer;

    ck_ok(witan_layer_info(made.layer, &info));
    ck_ok(witan_layer_create(&layer, made.group, &info.config, &weights));
    ck_ok(witan_layer_info(layer, &twin));
    ck_assert_int_eq(twin.local_expert_count, info.local_expert_count);
    ck_assert_mem_eq(twin.local_experts, info.local_experts,
                     (size_t)info.local_expert_count * sizeof(int32_t));
    ck_assert_int_eq(twin.weight_bytes, info.weight_bytes);
    witan_layer_destroy(layer);
    unmake(&made);
}
END_TEST

/* The bytes a plan and a layer take are those the query tells, and a step in just these works. */
START_TEST(test_query_tells_sizes_with_slots)
{
    enum { T = 23 };
    block_t              block  = block_make(E, 3, 24, 16, WITAN_BF16);
    slots_t              slots  = slots_make(_i);
    made_t               made   = make(&block, &slots, T);
    witan_sizes_t        sizes  = {.struct_bytes = sizeof(sizes)};
    witan_layer_info_t   info   = {.struct_bytes = sizeof(info)};
    uint16_t            *hidden = block_input(&block, world_rank * T, T), output[T * 24];
    witan_forward_args_t args   = {.struct_bytes = sizeof(args),
                                   .token_count  = T,
                                   .hidden       = hidden,
                                   .output       = output};
    witan_group_config_t group;
    witan_plan_config_t  config;
    witan_plan_t        *plan;

    witan_group_config_init(&group);
    group.thread_count = 1;
    witan_plan_config_init(&config);
    config.token_count_max = T;
    ck_ok(witan_layer_query(&group, world_rank, world_size, &block.config, &config, &sizes));
    ck_ok(witan_layer_info(made.layer, &info));
    ck_assert_int_eq(sizes.weight_bytes, info.weight_bytes);
    config.workspace_bytes = (size_t)sizes.plan_bytes_worst;
    config.workspace       = wtn_alloc(config.workspace_bytes);
    ck_ok(witan_plan_create(&plan, made.layer, &config));
    ck_ok(witan_forward(plan, &args));
    witan_plan_destroy(plan);
    wtn_free(config.workspace);
    free(hidden);
    unmake(&made);
}
END_TEST

/* Every rank is told, whichever has the wrong table. */
START_TEST(test_create_bad_slots_are_refused)
{
    static const struct {
        const char    *text;
        witan_status_t status;
    } expected[] = {
        {"slot_expert[4]: expected 0 to 6, found 7", WITAN_E_CONFIG},
        {"slot_owner[5]", WITAN_E_CONFIG},
        {"expert 2 has no slot", WITAN_E_CONFIG},
        {"expert_owner", WITAN_E_ARGUMENT},
        {"slot_count: expected 7", WITAN_E_CONFIG},
        {"placement", WITAN_E_MISMATCH},
    };
    block_t         block   = block_make(E, 2, 16, 8, WITAN_F32);
    witan_weights_t weights = block_weights(&block);
    slots_t         slots   = slots_make(0);
    witan_group_t  *group   = world_group(0, 1);
    witan_layer_t  *layer;
    witan_status_t  status;

    block.config.slot_count  = _i == 4 ? E - 1 : R;
    block.config.slot_expert = slots.expert;
    block.config.slot_owner  = slots.owner;
    slots.expert[4]          = _i == 0 ? E : slots.expert[4];
    slots.owner[5]           = _i == 1 ? world_size : slots.owner[5];
    for (int s = 0; s < R && _i == 2; s++) {
        slots.expert[s] = slots.expert[s] == 2 ? 1 : slots.expert[s];
    }
    block.config.expert_owner = _i == 3 ? slots.owner : NULL;
    if (_i == 5 && world_rank == world_size - 1) {
        slots.expert[R - 1] = (slots.expert[R - 1] + 1) % E;
    }
    if (_i < 5 || world_size > 1) {
        status = witan_layer_create(&layer, group, &block.config, &weights);
        ck_assert_msg(status == expected[_i].status, "%s: %s", witan_status_name(status),
                      witan_last_error());
        ck_assert_msg(strstr(witan_last_error(), expected[_i].text) != NULL, "'%s'",
                      witan_last_error());
        ck_assert_ptr_null(layer);
    }
    witan_group_destroy(group);
}
END_TEST

Suite *make_suite(void)
{
    Suite *suite = suite_create("replicas");
    TCase *tcase = tcase_create("replicas");

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_forward_any_replicas_equal_one_rank, 0, 4);
    tcase_add_test(tcase, test_import_one_expert_with_replicas_equals_one_rank);
    tcase_add_loop_test(tcase, test_reduced_with_replicas_is_accurate_and_repeatable, 0, 3);
    tcase_add_loop_test(tcase, test_forward_any_folding_with_replicas_is_accurate, 0, 2);
    tcase_add_loop_test(tcase, test_replicas_take_tokens_in_turn, 0, 4);
    tcase_add_test(tcase, test_layer_info_config_makes_the_same_layer);
    tcase_add_loop_test(tcase, test_query_tells_sizes_with_slots, 1, 3);
    tcase_add_loop_test(tcase, test_create_bad_slots_are_refused, 0, 6);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return harness_run(argc, argv, make_suite);
}

#include "run.h"

#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "dispatch/reference.h"
#include "harness.h"

run_t run_make(int64_t token_count)
{
    run_t run = {.token_count = token_count, .tp = 1};

    witan_plan_config_init(&run.plan);
    return run;
}

static void step_by_step(witan_plan_t *plan, const run_t *run, int32_t topk, int64_t begin,
                         int64_t count, const void *hidden, void *output)
{
    if (run->ids != NULL) {
        ck_ok(witan_plan_import(plan, count, run->ids + begin * topk, run->weights + begin * topk));
    } else {
        ck_ok(witan_route(plan, count, hidden));
    }
    while (witan_plan_rounds_left(plan) > 0) {
        ck_ok(witan_dispatch(plan, hidden));
        ck_ok(witan_experts(plan));
        ck_ok(witan_combine(plan, output));
    }
}

/* Add up disjoint slices: every row comes from one rank of each tensor and data group. */
static void share(void *mine, size_t bytes, size_t begin, size_t count)
{
    char *all = calloc(bytes + 1, 1);

    memcpy(all + begin, (char *)mine + begin, count);
    MPI_Allreduce(MPI_IN_PLACE, all, (int)bytes, MPI_BYTE, MPI_BOR, MPI_COMM_WORLD);
    memcpy(mine, all, bytes);
    free(all);
}

static result_t run_group(block_t *block, const run_t *run, witan_group_t *group)
{
    int32_t topk = block->config.topk;
    size_t  row  = (size_t)block->config.hidden_size * witan_dtype_bytes(block->config.dtype);
    witan_weights_t     weights = block_weights(block);
    witan_group_info_t  info    = {.struct_bytes = sizeof(info)};
    witan_stats_t       stats   = {.struct_bytes = sizeof(stats)};
    witan_plan_config_t config  = run->plan;
    witan_layer_t      *layer;
    witan_plan_t       *plan;
    const int32_t      *ids;
    const float        *gates;
    result_t            result;
    int64_t             begin, count;
    void               *hidden, *workspace = NULL;

    block->config.expert_owner = run->owner;
    block->config.slot_count   = run->slot_count;
    block->config.slot_expert  = run->slot_expert;
    block->config.slot_owner   = run->slot_owner;
    ck_ok(witan_group_query(group, &info));
    begin = run->begins != NULL
                ? run->begins[info.expert_index]
                : wtn_part_begin(run->token_count, info.expert_parallel, info.expert_index);
    count = (run->begins != NULL
                 ? run->begins[info.expert_index + 1]
                 : wtn_part_begin(run->token_count, info.expert_parallel, info.expert_index + 1)) -
            begin;
    ck_ok(witan_layer_create(&layer, group, &block->config, &weights));
    config.token_count_max = count;
    if (run->poison) {
        config.workspace_bytes = (size_t)64 << 20;
        config.workspace       = aligned_alloc(64, config.workspace_bytes);
        workspace              = config.workspace;
        memset(workspace, 0xff, config.workspace_bytes);
    }
    ck_ok(witan_plan_create(&plan, layer, &config));
    hidden         = block_input(block, begin, count);
    result.rows    = calloc((size_t)run->token_count * row + 64, 1);
    result.ids     = calloc((size_t)(run->token_count * topk) + 1, sizeof(int32_t));
    result.weights = calloc((size_t)(run->token_count * topk) + 1, sizeof(float));
    if (run->steps || run->ids != NULL) {
        step_by_step(plan, run, topk, begin, count, hidden, result.rows + (size_t)begin * row);
    } else {
        witan_forward_args_t args = {.struct_bytes = sizeof(args),
                                     .token_count  = count,
                                     .hidden       = hidden,
                                     .output       = result.rows + (size_t)begin * row};

        ck_ok(witan_forward(plan, &args));
    }
    ck_ok(witan_plan_routing(plan, &ids, &gates));
    ck_ok(witan_plan_stats(plan, &stats));
    result.round_count       = stats.round_count;
    result.tensor_send_bytes = stats.tensor_send_bytes;
    memcpy(result.ids + begin * topk, ids, (size_t)(count * topk) * sizeof(int32_t));
    memcpy(result.weights + begin * topk, gates, (size_t)(count * topk) * sizeof(float));
    if (info.size > 1) {
        share(result.rows, (size_t)run->token_count * row, (size_t)begin * row,
              (size_t)count * row);
        share(result.ids, (size_t)(run->token_count * topk) * 4, (size_t)(begin * topk) * 4,
              (size_t)(count * topk) * 4);
        share(result.weights, (size_t)(run->token_count * topk) * 4, (size_t)(begin * topk) * 4,
              (size_t)(count * topk) * 4);
    }
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    block->config.expert_owner = NULL;
    block->config.slot_count   = 0;
    block->config.slot_expert = block->config.slot_owner = NULL;
    free(hidden);
    free(workspace);
    return result;
}

result_t run_world(block_t *block, const run_t *run)
{
    witan_group_t *group  = world_group_of_nodes(run->ep, run->tp, run->ranks_per_node);
    result_t       result = run_group(block, run, group);

    witan_group_destroy(group);
    return result;
}

result_t run_alone(block_t *block, const run_t *run)
{
    run_t                alone = run_make(run->token_count);
    witan_group_config_t config;
    witan_group_t       *group;
    result_t             result;

    witan_group_config_init(&config);
    config.thread_count = 1;
    alone.ids           = run->ids;
    alone.weights       = run->weights;
    ck_ok(witan_group_create_self(&group, &config));
    result = run_group(block, &alone, group);
    witan_group_destroy(group);
    return result;
}

void result_free(result_t *result)
{
    free(result->rows);
    free(result->ids);
    free(result->weights);
}

void run_assert_equal_bits(const block_t *block, const run_t *run, const result_t *a,
                           const result_t *b)
{
    size_t row = (size_t)block->config.hidden_size * witan_dtype_bytes(block->config.dtype);

    ck_assert_mem_eq(a->ids, b->ids, (size_t)(run->token_count * block->config.topk) * 4);
    ck_assert_mem_eq(a->weights, b->weights, (size_t)(run->token_count * block->config.topk) * 4);
    for (int64_t t = 0; t < run->token_count; t++) {
        ck_assert_msg(memcmp(a->rows + (size_t)t * row, b->rows + (size_t)t * row, row) == 0,
                      "token %d of %d differs", (int)t, (int)run->token_count);
    }
}

void run_assert_accurate(block_t *block, const run_t *run, const result_t *result)
{
    void   *hidden = block_input(block, 0, run->token_count);
    double *reference =
        block_reference(block, hidden, run->token_count, result->ids, result->weights);
    double error;

    ck_assert_ptr_nonnull(reference);
    error = wtn_error_norm(result->rows, block->config.dtype, reference,
                           run->token_count * block->config.hidden_size);
    ck_assert_msg(error <= wtn_tolerance(block->config.dtype), "error %g, allowed %g", error,
                  wtn_tolerance(block->config.dtype));
    free(reference);
    free(hidden);
}

void run_choose_nodes(run_t *run, int way)
{
    run->plan.hierarchy = way == 0 ? WITAN_HIERARCHY_FLAT : WITAN_HIERARCHY_TWO_LEVEL;
    run->ranks_per_node = way < 2 ? 0 : world_size == 8 ? 3 : 2;
}

void run_check_exact(block_t *block, const run_t *run)
{
    result_t alone = run_alone(block, run);
    run_t    way   = *run;

    for (int i = 0; i < RUN_NODES_COUNT; i++) {
        result_t world;

        run_choose_nodes(&way, i);
        world = run_world(block, &way);
        run_assert_equal_bits(block, run, &world, &alone);
        if (run->token_count > 0) {
            run_assert_accurate(block, run, &world);
        }
        result_free(&world);
    }
    result_free(&alone);
}

#include "run.h"

#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "dispatch/reference.h"
#include "harness.h"

#define WORKSPACE_BYTES ((size_t)64 << 20) /* enough for any run on the host */

static witan_group_t *host_group(const run_t *run)
{
    return world_group_of_nodes(run->ep, run->tp, run->ranks_per_node);
}

static witan_layer_t *host_layer(block_t *block, witan_group_t *group)
{
    return run_layer_on(block, group, "host");
}

const run_place_t run_on_host = {.group = host_group, .layer = host_layer};

run_t run_make(int64_t token_count)
{
    run_t run = {.token_count = token_count, .tp = 1, .repeats = 1, .place = &run_on_host};

    witan_plan_config_init(&run.plan);
    return run;
}

witan_layer_t *run_layer_on(block_t *block, witan_group_t *group, const char *backend)
{
    witan_weights_t weights = block_weights(block);
    witan_layer_t  *layer;

    block->config.backend = backend;
    ck_ok(witan_layer_create(&layer, group, &block->config, &weights));
    return layer;
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

static void *placed(witan_layer_t *layer, const void *data, size_t bytes)
{
    void *memory;

    ck_ok(witan_memory_alloc(layer, &memory, bytes));
    ck_ok(witan_memory_copy(layer, memory, data, bytes));
    return memory;
}

static void step_by_step(witan_plan_t *plan, witan_layer_t *layer, const run_t *run, int32_t topk,
                         int64_t begin, int64_t count, const void *hidden, void *output)
{
    size_t words = (size_t)(count * topk);
    void  *ids = NULL, *weights = NULL;

    if (run->ids != NULL) {
        ids     = placed(layer, run->ids + begin * topk, words * sizeof(int32_t));
        weights = placed(layer, run->weights + begin * topk, words * sizeof(float));
        ck_ok(witan_plan_import(plan, count, ids, weights));
    } else {
        ck_ok(witan_route(plan, count, hidden));
    }
    while (witan_plan_rounds_left(plan) > 0) {
        ck_ok(witan_dispatch(plan, hidden));
        ck_ok(witan_experts(plan));
        ck_ok(witan_combine(plan, output));
    }
    ck_ok(witan_plan_wait(plan));
    witan_memory_free(layer, ids);
    witan_memory_free(layer, weights);
}

static void step(witan_plan_t *plan, witan_layer_t *layer, const run_t *run, const block_t *block,
                 int64_t begin, int64_t count, void *rows)
{
    size_t bytes =
        (size_t)count * (size_t)block->config.hidden_size * witan_dtype_bytes(block->config.dtype);
    void *input = block_input(block, begin, count), *hidden, *output;

    hidden = placed(layer, input, bytes);
    output = placed(layer, rows, bytes);
    if (run->steps || run->ids != NULL) {
        step_by_step(plan, layer, run, block->config.topk, begin, count, hidden, output);
    } else {
        witan_forward_args_t args = {.struct_bytes = sizeof(args),
                                     .token_count  = count,
                                     .hidden       = hidden,
                                     .output       = output};

        ck_ok(witan_forward(plan, &args));
        ck_ok(witan_plan_wait(plan));
    }
    ck_ok(witan_memory_copy(layer, rows, output, bytes));
    witan_memory_free(layer, hidden);
    witan_memory_free(layer, output);
    free(input);
}

static void keep_counts(int64_t *to, const int64_t *from, int64_t count, int64_t count_max)
{
    memcpy(to, from, (size_t)wtn_min_i64(count, count_max) * sizeof(*to));
}

static void keep_stats(const witan_plan_t *plan, const block_t *block, witan_layer_t *layer,
                       int32_t ep, result_t *result)
{
    witan_layer_info_t info  = {.struct_bytes = sizeof(info)};
    witan_stats_t     *stats = &result->stats;

    stats->struct_bytes = sizeof(*stats);
    ck_ok(witan_plan_stats(plan, stats));
    ck_ok(witan_layer_info(layer, &info));
    keep_counts(result->expert_row_counts, stats->expert_row_counts, info.local_expert_count,
                WTN_COUNT_OF(result->expert_row_counts));
    keep_counts(result->expert_token_counts, stats->expert_token_counts, block->config.expert_count,
                WTN_COUNT_OF(result->expert_token_counts));
    keep_counts(result->rank_row_counts, stats->rank_row_counts, ep,
                WTN_COUNT_OF(result->rank_row_counts));
}

/* The tokens of this rank: its expert index's share, in scatter mode a slice of it. */
static void slice_of(const run_t *run, const witan_group_info_t *info, int64_t *begin,
                     int64_t *count)
{
    int32_t e = info->expert_index;

    *begin = run->begins != NULL ? run->begins[e]
                                 : wtn_part_begin(run->token_count, info->expert_parallel, e);
    *count =
        (run->begins != NULL ? run->begins[e + 1]
                             : wtn_part_begin(run->token_count, info->expert_parallel, e + 1)) -
        *begin;
    if (run->place != &run_on_host && run->plan.tensor_exchange == WITAN_TENSOR_SCATTER) {
        ck_assert_int_eq(*count % info->tensor_parallel, 0);
        *count /= info->tensor_parallel;
        *begin += info->tensor_index * *count;
    }
}

/* On a device a workspace of the size that the query tells, and not one byte more; on the host the
 * query does not know the nodes. */
static void *poisoned(witan_layer_t *layer, const run_t *run, const block_t *block,
                      const witan_group_info_t *info, witan_plan_config_t *config)
{
    witan_sizes_t        sizes = {.struct_bytes = sizeof(sizes)};
    witan_layer_config_t asked = block->config;
    witan_group_config_t group;
    void                *memory;
    char                *bytes;

    witan_group_config_init(&group);
    group.expert_parallel = info->expert_parallel;
    group.tensor_parallel = info->tensor_parallel;
    group.thread_count    = info->thread_count;
    ck_ok(witan_layer_query(&group, info->rank, info->size, &asked, config, &sizes));
    config->workspace_bytes =
        run->place == &run_on_host ? WORKSPACE_BYTES : (size_t)sizes.plan_bytes;
    bytes = malloc(config->workspace_bytes);
    memset(bytes, 0xff, config->workspace_bytes);
    memory = placed(layer, bytes, config->workspace_bytes);
    free(bytes);
    config->workspace = memory;
    return memory;
}

static result_t run_group(block_t *block, const run_t *run, witan_group_t *group)
{
    size_t topk   = (size_t)block->config.topk;
    size_t row    = (size_t)block->config.hidden_size * witan_dtype_bytes(block->config.dtype);
    size_t routed = (size_t)run->token_count * topk;
    witan_group_info_t  info   = {.struct_bytes = sizeof(info)};
    witan_plan_config_t config = run->plan;
    witan_layer_t      *layer;
    witan_plan_t       *plan;
    const int32_t      *ids;
    const float        *gates;
    result_t            result = {0};
    int64_t             begin, count;
    void               *workspace;

    block->config.expert_owner = run->owner;
    block->config.slot_count   = run->slot_count;
    block->config.slot_expert  = run->slot_expert;
    block->config.slot_owner   = run->slot_owner;
    ck_ok(witan_group_query(group, &info));
    slice_of(run, &info, &begin, &count);
    layer                  = run->place->layer(block, group);
    config.token_count_max = count;
    workspace              = run->poison ? poisoned(layer, run, block, &info, &config) : NULL;
    ck_ok(witan_plan_create(&plan, layer, &config));
    result.rows    = calloc((size_t)run->token_count * row + 64, 1);
    result.ids     = calloc(routed + 1, sizeof(int32_t));
    result.weights = calloc(routed + 1, sizeof(float));
    for (int32_t i = 0; i < run->repeats; i++) {
        step(plan, layer, run, block, begin, count, result.rows + (size_t)begin * row);
    }
    ck_ok(witan_plan_routing(plan, &ids, &gates));
    memcpy(result.ids + (size_t)begin * topk, ids, (size_t)count * topk * sizeof(int32_t));
    memcpy(result.weights + (size_t)begin * topk, gates, (size_t)count * topk * sizeof(float));
    keep_stats(plan, block, layer, info.expert_parallel, &result);
    if (info.size > 1) {
        share(result.rows, (size_t)run->token_count * row, (size_t)begin * row,
              (size_t)count * row);
        share(result.ids, routed * 4, (size_t)begin * topk * 4, (size_t)count * topk * 4);
        share(result.weights, routed * 4, (size_t)begin * topk * 4, (size_t)count * topk * 4);
    }
    witan_plan_destroy(plan);
    witan_memory_free(layer, workspace);
    witan_layer_destroy(layer);
    block->config.expert_owner = NULL;
    block->config.slot_count   = 0;
    block->config.slot_expert = block->config.slot_owner = NULL;
    return result;
}

result_t run_world(block_t *block, const run_t *run)
{
    witan_group_t *group  = run->place->group(run);
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
    alone.place         = run->place;
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

void run_assert_equal_routing(const block_t *block, const run_t *run, const result_t *a,
                              const result_t *b)
{
    size_t routed = (size_t)(run->token_count * block->config.topk);

    ck_assert_mem_eq(a->ids, b->ids, routed * sizeof(int32_t));
    ck_assert_mem_eq(a->weights, b->weights, routed * sizeof(float));
}

void run_assert_equal_bits(const block_t *block, const run_t *run, const result_t *a,
                           const result_t *b)
{
    size_t row = (size_t)block->config.hidden_size * witan_dtype_bytes(block->config.dtype);

    run_assert_equal_routing(block, run, a, b);
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

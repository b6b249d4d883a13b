#include "device_run.h"

#include <string.h>

#include "core/util.h"
#include "dispatch/reference.h"
#ifdef WITAN_TEST_SOFTWARE
#include "software.h"
#else
#include "graph.h"
#endif

run_t run_make(int64_t token_count)
{
    run_t run = {.token_count = token_count, .tp = 1, .repeats = 1};

    witan_plan_config_init(&run.plan);
    return run;
}

static witan_layer_t *layer_on(block_t *block, witan_group_t *group, const char *backend)
{
    witan_weights_t weights = block_weights(block);
    witan_layer_t  *layer;

    block->config.backend = backend;
    ck_ok(witan_layer_create(&layer, group, &block->config, &weights));
    return layer;
}

witan_layer_t *device_layer(block_t *block, witan_group_t *group)
{
#ifdef WITAN_TEST_SOFTWARE
    witan_layer_t *layer = layer_on(block, group, "host");

    software_take(layer);
    return layer;
#else
    return layer_on(block, group, "cuda");
#endif
}

static witan_group_t *group_of(int32_t ep, int32_t tp, bool alone)
{
    witan_group_config_t config;
    witan_group_t       *group;

    witan_group_config_init(&config);
    config.thread_count = 1;
    config.timeout_ns   = 60000000000u;
    config.share_device = device_count() < world_size;
    if (alone) {
        ck_ok(witan_group_create_self(&group, &config));
        return group;
    }
    config.expert_parallel = ep;
    config.tensor_parallel = tp;
    ck_ok(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config));
    return group;
}

witan_group_t *device_group(int32_t ep, int32_t tp)
{
    return group_of(ep, tp, false);
}

/* Add up disjoint slices: every row comes from one rank. */
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

static void keep_stats(const witan_plan_t *plan, const block_t *block, witan_layer_t *layer,
                       int32_t ep, result_t *result)
{
    witan_layer_info_t info = {.struct_bytes = sizeof(info)};

    result->stats.struct_bytes = sizeof(result->stats);
    ck_ok(witan_plan_stats(plan, &result->stats));
    ck_ok(witan_layer_info(layer, &info));
    ck_assert(info.local_expert_count <= 64 && block->config.expert_count <= 256 && ep <= 16);
    memcpy(result->expert_row_counts, result->stats.expert_row_counts,
           (size_t)info.local_expert_count * sizeof(int64_t));
    memcpy(result->expert_token_counts, result->stats.expert_token_counts,
           (size_t)block->config.expert_count * sizeof(int64_t));
    memcpy(result->rank_row_counts, result->stats.rank_row_counts, (size_t)ep * sizeof(int64_t));
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
    if (!run->host && run->plan.tensor_exchange == WITAN_TENSOR_SCATTER) {
        ck_assert_int_eq(*count % info->tensor_parallel, 0);
        *count /= info->tensor_parallel;
        *begin += info->tensor_index * *count;
    }
}

/* A workspace of the size that the query tells, and not one byte more. */
static void *poisoned(witan_layer_t *layer, const block_t *block, const witan_group_info_t *info,
                      witan_plan_config_t *config)
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
    config->workspace_bytes = (size_t)sizes.plan_bytes;
    bytes                   = malloc(config->workspace_bytes);
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
    layer = run->host ? layer_on(block, group, "host") : device_layer(block, group);
    config.token_count_max = count;
    workspace              = run->poison ? poisoned(layer, block, &info, &config) : NULL;
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
    witan_group_t *group  = group_of(run->ep, run->tp, false);
    result_t       result = run_group(block, run, group);

    witan_group_destroy(group);
    return result;
}

result_t run_alone(block_t *block, const run_t *run)
{
    run_t          alone = run_make(run->token_count);
    witan_group_t *group = group_of(1, 1, true);
    result_t       result;

    alone.host    = run->host;
    alone.ids     = run->ids;
    alone.weights = run->weights;
    result        = run_group(block, &alone, group);
    witan_group_destroy(group);
    return result;
}

void result_free(result_t *result)
{
    free(result->rows);
    free(result->ids);
    free(result->weights);
}

void assert_equal_routing(const block_t *block, const run_t *run, const result_t *a,
                          const result_t *b)
{
    size_t routed = (size_t)(run->token_count * block->config.topk);

    ck_assert_mem_eq(a->ids, b->ids, routed * sizeof(int32_t));
    ck_assert_mem_eq(a->weights, b->weights, routed * sizeof(float));
}

void assert_equal_bits(const block_t *block, const run_t *run, const result_t *a, const result_t *b)
{
    size_t row = (size_t)block->config.hidden_size * witan_dtype_bytes(block->config.dtype);

    assert_equal_routing(block, run, a, b);
    for (int64_t t = 0; t < run->token_count; t++) {
        ck_assert_msg(memcmp(a->rows + (size_t)t * row, b->rows + (size_t)t * row, row) == 0,
                      "token %d of %d differs", (int)t, (int)run->token_count);
    }
}

void assert_accurate(block_t *block, const run_t *run, const result_t *result)
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

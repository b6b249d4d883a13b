/* witan bench layer: the whole block over all ranks, by tokens per rank. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/reference.h"
#include "launcher/bench_layer.h"
#include "launcher/placement.h"

#define INPUT_SEED 11

/* ---- one size ---- */

/* Ids of --skew, and equal weights. The ranks of a tensor group have the same. Local. */
static witan_status_t make_routing(const wtn_layer_bench_t *bench, wtn_layer_workload_t *load)
{
    const witan_group_info_t *group  = &bench->group;
    int64_t                   source = (int64_t)group->data_index * group->expert_parallel;
    int64_t                   topk = bench->info.config.topk, count = load->token_mine * topk;
    size_t                    bytes   = (size_t)count * sizeof(int32_t); /* and of floats */
    int32_t                  *ids     = calloc((size_t)count + 1, sizeof(*ids));
    float                    *weights = calloc((size_t)count + 1, sizeof(*weights));
    witan_status_t            status;

    if (ids == NULL || weights == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "routing of %" PRId64 " tokens", load->token_mine);
        goto fail;
    }
    source += group->expert_index;
    wtn_skew_fill(bench->skew, source * load->token_count, load->token_mine, ids);
    for (int64_t i = 0; i < count; i++) {
        weights[i] = 1.0f / (float)topk;
    }
    WTN_TRY(witan_memory_alloc(bench->layer, (void **)&load->ids, bytes + 1));
    WTN_TRY(witan_memory_alloc(bench->layer, (void **)&load->weights, bytes + 1));
    WTN_TRY(witan_memory_copy(bench->layer, load->ids, ids, bytes));
    WTN_TRY(witan_memory_copy(bench->layer, load->weights, weights, bytes));

fail:
    free(ids);
    free(weights);
    return status;
}

static witan_status_t make_workload(wtn_layer_bench_t *bench, wtn_layer_workload_t *load)
{
    const witan_layer_config_t *config = &bench->info.config;
    size_t                      ranks  = (size_t)bench->session->size, values;
    witan_plan_config_t         plan   = wtn_plan_config_make(&bench->options->plan);
    /* The ranks of a tensor group hold the same tokens. */
    bool           scattered = plan.tensor_exchange == WITAN_TENSOR_SCATTER;
    uint64_t       seed      = INPUT_SEED + (uint64_t)(bench->session->rank /
                                            (scattered ? 1 : bench->group.tensor_parallel));
    witan_status_t status    = WITAN_OK;

    if (!wtn_mul((size_t)load->token_count, (size_t)config->hidden_size, &values)) {
        values = SIZE_MAX / 16;
    }
    load->hidden  = wtn_alloc(values * witan_dtype_bytes(config->dtype));
    load->output  = wtn_alloc(values * witan_dtype_bytes(config->dtype));
    load->seconds = calloc((size_t)bench->options->bench.iteration_count, sizeof(double));
    load->phases =
        calloc(WITAN_PHASE_COUNT * (size_t)bench->options->bench.iteration_count, sizeof(double));
    load->slot = calloc(ranks, sizeof(*load->slot));
    load->all  = calloc(ranks, sizeof(*load->all));
    if (load->hidden == NULL || load->output == NULL || load->seconds == NULL ||
        load->phases == NULL || load->slot == NULL || load->all == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "%" PRId64 " tokens", load->token_count);
    } else {
        wtn_synthetic_fill(load->hidden, config->dtype, seed, 0, values, 1.0f);
    }
    WTN_TRY(wtn_session_agree(bench->session, status));
    if (bench->options->graph) {
        status = wtn_bench_graph_open(&load->graph, bench->backend);
    }
    WTN_TRY(wtn_session_agree(bench->session, status));
    plan.stream          = load->graph.stream;
    plan.token_count_max = load->token_count;
    WTN_TRY(witan_plan_create(&load->plan, bench->layer, &plan));
    status = wtn_staging_make(&load->staging, bench->layer, load->token_count);
    if (status == WITAN_OK && bench->skew != NULL) {
        status = make_routing(bench, load);
    }
    WTN_TRY(wtn_session_agree(bench->session, status));
    /* Once with copies, so that the device has the tokens. */
    WTN_TRY(wtn_staging_forward(&load->staging, load->plan, load->token_mine, load->hidden,
                                load->output));

fail:
    return status;
}

static void free_workload(const wtn_layer_bench_t *bench, wtn_layer_workload_t *load)
{
    wtn_bench_graph_drop(&load->graph);
    witan_plan_destroy(load->plan);
    wtn_bench_graph_close(&load->graph);
    witan_memory_free(bench->layer, load->ids);
    witan_memory_free(bench->layer, load->weights);
    wtn_staging_free(&load->staging);
    if (bench->session->comm->broken) {
        return; /* a late peer may still write there */
    }
    wtn_free(load->hidden);
    wtn_free(load->output);
    free(load->seconds);
    free(load->phases);
    free(load->slot);
    free(load->all);
}

/* On a device the tokens are there already, and stay. */
static witan_status_t step(void *context)
{
    const wtn_layer_workload_t *load    = context;
    const wtn_staging_t        *staging = &load->staging;
    bool                        device  = staging->hidden != NULL;
    witan_forward_args_t        args    = {.struct_bytes = sizeof(args),
                                           .token_count  = load->token_mine,
                                           .hidden       = device ? staging->hidden : load->hidden,
                                           .output       = device ? staging->output : load->output};

    return load->imports ? wtn_bench_step(load->plan, &args, load->ids, load->weights)
                         : witan_forward(load->plan, &args);
}

/* One iteration between two barriers; the time is the slowest rank's. */
static witan_status_t iterate(wtn_layer_bench_t *bench, wtn_layer_workload_t *load, double *seconds)
{
    uint64_t       start = wtn_now_ns();
    double         mine;
    witan_status_t status;

    WTN_TRY(load->graph.graph != NULL ? wtn_bench_graph_replay(&load->graph) : step(load));
    WTN_TRY(witan_plan_wait(load->plan));
    mine = (double)(wtn_now_ns() - start) * 1e-9;
    WTN_TRY(wtn_allgather(bench->session->comm, &mine, sizeof(mine), load->slot, "bench"));
    *seconds = 0;
    for (int32_t rank = 0; rank < bench->session->size; rank++) {
        *seconds = load->slot[rank] > *seconds ? load->slot[rank] : *seconds;
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t keep_phases(wtn_layer_workload_t *load, size_t iteration, size_t count)
{
    witan_stats_t  stats  = {.struct_bytes = sizeof(stats)};
    witan_status_t status = witan_plan_stats(load->plan, &stats);

    if (status != WITAN_OK) {
        return status;
    }
    for (size_t phase = 0; phase < WITAN_PHASE_COUNT; phase++) {
        load->phases[phase * count + iteration] = (double)stats.phase_ns[phase];
    }
    load->mine.row_count   = stats.recv_row_count;
    load->mine.token_count = stats.token_count;
    return WITAN_OK;
}

static witan_status_t measure(wtn_layer_bench_t *bench, wtn_layer_workload_t *load)
{
    const wtn_bench_options_t *options = &bench->options->bench;
    size_t                     count   = (size_t)options->iteration_count;
    double                     peaks[WTN_BENCH_BLOCKS], ignored;
    int64_t                    done = 0;
    witan_status_t             status;

    for (int64_t i = 0; i < options->warmup_count; i++) {
        WTN_TRY(iterate(bench, load, &ignored));
    }
    if (bench->options->graph) {
        status = wtn_bench_graph_capture(&load->graph, step, load);
        WTN_TRY(wtn_session_agree(bench->session, status));
    }
    for (int block = 0; block < WTN_BENCH_BLOCKS; block++) {
        int64_t end = wtn_part_begin(options->iteration_count, WTN_BENCH_BLOCKS, block + 1);

        WTN_TRY(wtn_session_agree(bench->session, WITAN_OK)); /* all probe at once */
        peaks[block] =
            bench->backend->peak(bench->tier, bench->info.config.dtype, bench->group.thread_count);
        WTN_TRY(wtn_session_agree(bench->session, WITAN_OK));
        for (; done < end; done++) {
            WTN_TRY(iterate(bench, load, &load->seconds[done]));
            WTN_TRY(keep_phases(load, (size_t)done, count));
        }
    }
    if (load->staging.output != NULL) {
        WTN_TRY(witan_memory_copy(bench->layer, load->output, load->staging.output,
                                  (size_t)load->token_count * load->staging.row_bytes));
    }
    load->best      = wtn_bench_quantile(load->seconds, count, 0);
    load->p50       = wtn_bench_quantile(load->seconds, count, 0.5);
    load->p99       = wtn_bench_quantile(load->seconds, count, 0.99);
    load->mine.peak = wtn_bench_quantile(peaks, WTN_BENCH_BLOCKS, 0.5);
    for (size_t phase = 0; phase < WITAN_PHASE_COUNT; phase++) {
        load->mine.phase_ns[phase] = wtn_bench_quantile(load->phases + phase * count, count, 0.5);
    }
    return WITAN_OK;

fail:
    return status;
}

/* Sampled tokens of this rank against float64, with the routing that was taken. */
static witan_status_t check_tokens(wtn_layer_bench_t *bench, wtn_layer_workload_t *load)
{
    const witan_layer_config_t *config = &bench->info.config;
    size_t                      width  = (size_t)config->hidden_size;
    size_t                      topk   = (size_t)config->topk;
    size_t                      bytes  = witan_dtype_bytes(config->dtype);
    int64_t        count     = wtn_min_i64(bench->options->bench.check_count, load->token_mine);
    double        *reference = calloc(width, sizeof(*reference));
    const int32_t *ids;
    const float   *weights;
    witan_status_t status = witan_plan_routing(load->plan, &ids, &weights);

    if (reference == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "reference of width %zu", width);
    }
    for (int64_t i = 0; i < count && status == WITAN_OK; i++) {
        size_t token = count == 1 ? 0 : (size_t)((load->token_mine - 1) * i / (count - 1));
        double norm;

        status =
            wtn_reference_layer(config, &bench->model.weights, 1,
                                (const char *)load->hidden + token * width * bytes,
                                ids + token * topk, weights + token * topk, reference, NULL, NULL);
        norm = wtn_error_norm((const char *)load->output + token * width * bytes, config->dtype,
                              reference, config->hidden_size);
        load->mine.wrong_count += !(norm <= wtn_tolerance(config->dtype));
        load->mine.checked_count++;
    }
    free(reference);
    return status;
}

/* ---- all sizes ---- */

static witan_status_t run_size(wtn_layer_bench_t *bench, int64_t token_count)
{
    wtn_layer_workload_t load = {.token_count = token_count,
                                 .token_mine  = token_count,
                                 .imports     = bench->skew != NULL};
    witan_status_t       status;

    if (bench->skew != NULL) {
        load.token_mine = wtn_skew_token_count(bench->skew, bench->group.expert_index,
                                               bench->group.expert_parallel, token_count);
    }
    WTN_TRY(make_workload(bench, &load));
    WTN_TRY(wtn_session_agree(bench->session, wtn_layer_print_header(bench, load.plan)));
    WTN_TRY(measure(bench, &load));
    WTN_TRY(wtn_session_agree(bench->session, check_tokens(bench, &load)));
    WTN_TRY(wtn_allgather(bench->session->comm, &load.mine, sizeof(load.mine), load.all, "bench"));
    WTN_TRY(wtn_session_agree(bench->session, wtn_layer_report(bench, &load)));

fail:
    free_workload(bench, &load);
    return status; /* NOLINT(clang-analyzer-unix.Malloc): kept on purpose after a lost peer */
}

/* A layer with synthetic weights. */
static witan_status_t create_layer(wtn_layer_bench_t *bench)
{
    const char          *path   = bench->options->session.placement;
    witan_layer_config_t config = bench->model.config;
    wtn_slots_t          slots  = {0};
    witan_status_t       status;

    if (path != NULL) {
        WTN_TRY(wtn_slots_read(bench->session, path, -1, config.expert_count, &slots));
    }
    config.slot_count  = slots.count;
    config.slot_expert = slots.expert;
    WTN_TRY(
        witan_layer_create(&bench->layer, bench->session->group, &config, &bench->model.weights));

fail:
    wtn_slots_free(&slots);
    return status;
}

static witan_status_t make_layer(wtn_layer_bench_t *bench)
{
    const wtn_layer_options_t *options = bench->options;
    witan_status_t             status;

    WTN_TRY(wtn_bench_json_probe(bench->session, &options->bench));
    status = wtn_bench_model_open(&bench->model, &options->bench, &options->session);
    WTN_TRY(wtn_session_agree(bench->session, status));
    if (options->bench.model != NULL) {
        status = wtn_load_layer(bench->session, &options->session, options->bench.model,
                                (int32_t)options->bench.layer, &bench->layer);
    } else {
        status = create_layer(bench);
    }
    WTN_TRY(status);
    bench->info.struct_bytes  = sizeof(bench->info);
    bench->group.struct_bytes = sizeof(bench->group);
    WTN_TRY(witan_layer_info(bench->layer, &bench->info));
    WTN_TRY(witan_group_query(bench->session->group, &bench->group));
    WTN_TRY(wtn_backend_select(bench->info.backend, &bench->backend));
    if (options->skew != NULL) {
        status = wtn_skew_open(&bench->skew, options->skew, bench->info.config.expert_count,
                               bench->info.config.topk, (uint64_t)options->seed);
    }
    if (status == WITAN_OK) {
        status = wtn_plan_options_suit(&options->plan, bench->layer);
    }
    wtn_bench_describe_device(bench->backend, bench->group.device, bench->device);
    WTN_TRY(wtn_session_agree_usage(bench->session, status));
    return wtn_tier_choose(bench->backend->tiers, bench->info.kernel_tier, bench->info.config.dtype,
                           &bench->tier);

fail:
    return status;
}

static witan_status_t run_bench(wtn_layer_bench_t *bench)
{
    const wtn_option_list_t *tokens = &bench->options->tokens;
    witan_status_t           status;

    bench->results        = json_array();
    bench->session->phase = "bench";
    WTN_TRY(make_layer(bench));
    for (int32_t i = 0; i < tokens->count; i++) {
        WTN_TRY(run_size(bench, tokens->values[i]));
    }
    status = WITAN_OK;
    if (bench->session->rank == 0 && bench->options->bench.json != NULL) {
        status = wtn_layer_write_json(bench);
    }
    if (status == WITAN_OK && bench->wrong_count > 0) {
        status =
            WTN_ERROR(WITAN_E_INTERNAL, "bench: %" PRId64 " tokens are wrong", bench->wrong_count);
    }
    WTN_TRY(wtn_session_agree(bench->session, status));

fail:
    json_decref(bench->results);
    witan_layer_destroy(bench->layer);
    wtn_skew_close(bench->skew);
    wtn_bench_model_close(&bench->model);
    return status;
}

int wtn_bench_layer(int argc, char **argv)
{
    wtn_layer_options_t options = {0};
    wtn_option_t        table[] = {
               WTN_OPT_LIST("tokens", "1,16,128,1024", 0, 1 << 24, &options.tokens,
                            "tokens of each rank, one line each"),
               WTN_OPT_TEXT("skew", "KIND", NULL, &options.skew,
                            "route so instead of by the gate: uniform, zipf:S, hot:E, trace:FILE, "
                                   "balanced or zero-rank"),
               WTN_OPT_INTEGER("seed", "N", "1", 0, INT64_MAX, &options.seed, "of --skew"),
               WTN_BENCH_GRAPH_OPTION(&options.graph),
               WTN_BENCH_OPTIONS(&options.bench, "tokens of each rank compared with float64"),
               WTN_PLAN_OPTIONS(&options.plan),
               WTN_PLAN_CUDA_OPTIONS(&options.plan),
               WTN_SESSION_OPTIONS(&options.session),
               WTN_PLACEMENT_OPTION(&options.session.placement),
    };
    const wtn_command_t command = {"bench layer", "Measure the whole block over all ranks.", table,
                                   WTN_COUNT_OF(table)};
    wtn_session_t       session;
    wtn_layer_bench_t   bench = {.session = &session, .options = &options};
    witan_status_t      status;
    bool                help;

    status = wtn_options_parse(&command, argc, argv, &help);
    if (help) {
        return wtn_options_help(&command);
    }
    if (status == WITAN_OK) {
        status = wtn_bench_check_options(&command, &options.bench);
    }
    if (status == WITAN_OK && options.skew != NULL) {
        status = wtn_skew_check("--skew", options.skew);
    }
    status = wtn_session_begin(&session, &command, &options.session, status);
    if (status == WITAN_OK) {
        status = run_bench(&bench);
    }
    return wtn_session_end(&session, status);
}

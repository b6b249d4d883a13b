/* witan bench experts: the grouped feed-forward networks of one rank, by rows per expert. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/reference.h"
#include "kernels/backend.h"
#include "kernels/device.h"
#include "kernels/probe/probe.h"
#include "launcher/bench.h"

#define INPUT_SEED 7

typedef struct experts_options {
    wtn_session_options_t session;
    wtn_bench_options_t   bench;
    wtn_option_list_t     rows;
    int32_t               executor;
    bool                  graph;
} experts_options_t;

/* What is measured once for all sizes. */
typedef struct experts {
    const experts_options_t *options;
    wtn_bench_model_t        model;
    const wtn_backend_t     *backend;
    const wtn_tier_t        *tier;
    wtn_ffn_spec_t           spec;
    wtn_ffn_t               *ffn;
    int32_t                 *ids; /* [E] */
    int32_t                  thread_count;
    double                   weight_bytes; /* of all experts, as stored */
    char                     device[WTN_BENCH_DEVICE_BYTES];
    json_t                  *results;
    int64_t                  wrong_count;
} experts_t;

/* One size: M rows for each of E experts. `args` is in the backend's memory. */
typedef struct workload {
    int64_t           rows_per_expert;
    wtn_ffn_args_t    args;
    wtn_bench_graph_t graph;
    int32_t          *row_expert;
    char             *x; /* the host's copy */
    double           *seconds, peaks[WTN_BENCH_BLOCKS];
    double            best, p50, p99, peak, bandwidth;
    int64_t           wrong_count, checked_count;
} workload_t;

static witan_status_t make_experts(experts_t *experts, const wtn_session_t *session)
{
    const experts_options_t    *options = experts->options;
    const witan_layer_config_t *config  = &experts->model.config;
    witan_group_info_t          group   = {.struct_bytes = sizeof(group)};
    witan_status_t              status;

    WTN_TRY(witan_group_query(session->group, &group));
    WTN_TRY(wtn_backend_select(options->session.backend, &experts->backend));
    if (experts->backend->device != NULL) {
        WTN_TRY(experts->backend->device->use(group.device, group.local_rank, &group.device));
    }
    wtn_bench_describe_device(experts->backend, group.device, experts->device);
    WTN_TRY(wtn_tier_choose(experts->backend->tiers, options->session.kernel_tier, config->dtype,
                            &experts->tier));
    experts->thread_count = group.thread_count;
    experts->ids          = calloc((size_t)config->expert_count, sizeof(*experts->ids));
    if (experts->ids == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%" PRId32 " experts", config->expert_count);
    }
    for (int32_t e = 0; e < config->expert_count; e++) {
        experts->ids[e] = e;
    }
    experts->spec         = (wtn_ffn_spec_t){.hidden_size      = config->hidden_size,
                                             .inter_end        = config->inter_size,
                                             .expert_count     = config->expert_count,
                                             .experts          = experts->ids,
                                             .dtype            = config->dtype,
                                             .activation       = config->activation,
                                             .has_gate_up_bias = config->has_gate_up_bias,
                                             .has_down_bias    = config->has_down_bias,
                                             .tier             = experts->tier};
    experts->weight_bytes = wtn_bench_row_flops(config) / 2 * config->expert_count *
                            (double)witan_dtype_bytes(config->dtype);
    return experts->backend->ffn_create(&experts->ffn, &experts->spec, &experts->model.weights);

fail:
    return status;
}

static void free_experts(experts_t *experts)
{
    if (experts->ffn != NULL) {
        experts->backend->ffn_destroy(experts->ffn);
    }
    wtn_bench_model_close(&experts->model);
    free(experts->ids);
}

/* ---- one size ---- */

static witan_status_t make_size(experts_t *experts, workload_t *size)
{
    const witan_layer_config_t *config  = &experts->model.config;
    const wtn_backend_t        *backend = experts->backend;
    size_t                      row     = (size_t)config->hidden_size, values;
    size_t                      bytes   = witan_dtype_bytes(config->dtype);
    wtn_ffn_args_t             *args    = &size->args;
    size_t                      count;
    void                       *x, *row_expert;
    witan_status_t              status;

    if (!wtn_mul((size_t)size->rows_per_expert, (size_t)config->expert_count, &count) ||
        !wtn_mul(count, row, &values) || values > SIZE_MAX / 8) {
        return WTN_ERROR(WITAN_E_MEMORY, "%" PRId64 " rows per expert", size->rows_per_expert);
    }
    args->row_count = (int64_t)count;
    args->executor  = (witan_executor_t)experts->options->executor;
    /* A forced masked executor must have room for all rows of an expert. */
    args->masked_rows_max =
        args->executor == WITAN_EXECUTOR_MASKED && size->rows_per_expert < INT32_MAX
            ? (int32_t)size->rows_per_expert
            : 0;
    args->thread_count = experts->thread_count;
    args->workspace_bytes =
        experts->backend->ffn_workspace_bytes(&experts->spec, args->row_count,
                                              args->masked_rows_max, args->thread_count);
    size->x          = wtn_alloc(values * bytes);
    size->row_expert = calloc(count, sizeof(*size->row_expert));
    size->seconds    = calloc((size_t)experts->options->bench.iteration_count, sizeof(double));
    if (size->x == NULL || size->row_expert == NULL || size->seconds == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%" PRId64 " rows per expert", size->rows_per_expert);
    }
    wtn_synthetic_fill(size->x, config->dtype, INPUT_SEED, 0, values, 1.0f);
    for (size_t i = 0; i < count; i++) { /* as routed: neighbours go to different experts */
        size->row_expert[i] = (int32_t)(i % (size_t)config->expert_count);
    }
    if (experts->options->graph) {
        WTN_TRY(wtn_bench_graph_open(&size->graph, backend));
        args->stream = size->graph.stream;
    }
    WTN_TRY(backend->alloc(&args->workspace, args->workspace_bytes));
    WTN_TRY(backend->alloc(&args->out, values * bytes));
    WTN_TRY(backend->alloc(&x, values * bytes));
    args->x = x;
    WTN_TRY(backend->alloc(&row_expert, count * sizeof(*size->row_expert)));
    args->row_expert = row_expert;
    WTN_TRY(backend->copy(x, size->x, values * bytes, NULL));
    WTN_TRY(backend->copy(row_expert, size->row_expert, count * sizeof(*size->row_expert), NULL));

fail:
    return status;
}

static void free_size(const experts_t *experts, workload_t *size)
{
    wtn_bench_graph_close(&size->graph);
    experts->backend->free(size->args.workspace);
    experts->backend->free((void *)(uintptr_t)size->args.x);
    experts->backend->free((void *)(uintptr_t)size->args.row_expert);
    experts->backend->free(size->args.out);
    wtn_free(size->x);
    free(size->row_expert);
    free(size->seconds);
}

typedef struct once {
    const experts_t *experts;
    workload_t      *size;
} once_t;

static witan_status_t run_once(void *context)
{
    const once_t *once = context;

    return once->experts->backend->ffn_run(once->experts->ffn, &once->size->args);
}

static witan_status_t measure(experts_t *experts, workload_t *size)
{
    const wtn_bench_options_t *bench   = &experts->options->bench;
    const wtn_backend_t       *backend = experts->backend;
    witan_dtype_t              dtype   = experts->model.config.dtype;
    const bool                 graph   = experts->options->graph;
    once_t                     once    = {experts, size};
    int64_t                    done    = 0;
    witan_status_t             status;

    for (int64_t i = 0; i < bench->warmup_count; i++) {
        WTN_TRY(run_once(&once));
    }
    if (graph) {
        WTN_TRY(wtn_bench_graph_capture(&size->graph, run_once, &once));
    }
    size->bandwidth = backend->read_bandwidth(wtn_bench_read_bytes(), experts->thread_count);
    for (int block = 0; block < WTN_BENCH_BLOCKS; block++) {
        int64_t end = wtn_part_begin(bench->iteration_count, WTN_BENCH_BLOCKS, block + 1);

        size->peaks[block] = backend->peak(experts->tier, dtype, experts->thread_count);
        for (; done < end; done++) {
            WTN_TRY(backend->measure(graph ? wtn_bench_graph_replay : run_once,
                                     graph ? (void *)&size->graph : &once, size->args.stream,
                                     &size->seconds[done]));
        }
    }
    size->best = wtn_bench_quantile(size->seconds, (size_t)bench->iteration_count, 0);
    size->p50  = wtn_bench_quantile(size->seconds, (size_t)bench->iteration_count, 0.5);
    size->p99  = wtn_bench_quantile(size->seconds, (size_t)bench->iteration_count, 0.99);
    size->peak = wtn_bench_quantile(size->peaks, WTN_BENCH_BLOCKS, 0.5);
    return WITAN_OK;

fail:
    return status;
}

/* Sampled rows against float64: a layer of one expert per token with weight 1 is that expert. */
static witan_status_t check_rows(experts_t *experts, workload_t *size)
{
    witan_layer_config_t config = experts->model.config;
    size_t               width  = (size_t)config.hidden_size;
    size_t               bytes  = witan_dtype_bytes(config.dtype);
    int64_t        count = wtn_min_i64(experts->options->bench.check_count, size->args.row_count);
    double        *reference = calloc(width, sizeof(*reference));
    char          *out       = calloc(width, bytes);
    double         bound     = wtn_tolerance(config.dtype);
    float          one       = 1.0f;
    witan_status_t status    = WITAN_OK;

    if (reference == NULL || out == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "reference of width %zu", width);
    }
    config.topk                = 1;
    config.shared_inter_size   = 0;
    config.has_shared_gate     = false;
    config.routing.group_count = config.routing.group_topk = 1;
    for (int64_t i = 0; i < count && status == WITAN_OK; i++) {
        /* first, last and evenly in between */
        int64_t row  = count == 1 ? 0 : (size->args.row_count - 1) * i / (count - 1);
        size_t  from = (size_t)row * width * bytes;
        double  norm;

        WTN_TRY(wtn_reference_layer(&config, &experts->model.weights, 1, size->x + from,
                                    &size->row_expert[row], &one, reference, NULL, NULL));
        WTN_TRY(
            experts->backend->copy(out, (const char *)size->args.out + from, width * bytes, NULL));
        norm = wtn_error_norm(out, config.dtype, reference, config.hidden_size);
        size->wrong_count += !(norm <= bound);
        size->checked_count++;
    }

fail:
    free(out);
    free(reference);
    return status;
}

static const char *executor_name(witan_executor_t executor)
{
    static const char *const names[] = {"auto", "contiguous", "masked"};

    return names[executor];
}

static witan_status_t report(experts_t *experts, const workload_t *size)
{
    double  flops   = wtn_bench_row_flops(&experts->model.config) * (double)size->args.row_count;
    double  rate    = flops / size->p50;
    double  reading = experts->weight_bytes / size->p50;
    double  of_peak = size->peak > 0 ? rate / size->peak : 0;
    double  of_read = size->bandwidth > 0 ? reading / size->bandwidth : 0;
    double  of_roof = of_peak > of_read ? of_peak : of_read; /* of the least time either allows */
    json_t *result;

    printf("  %15" PRId64
           " %10.1f %10.1f %10.1f %10.1f %10.1f %7.1f %8.2f %8.2f %7.1f %7.1f %-10s %7" PRId64 "\n",
           size->rows_per_expert, size->best * 1e6, size->p50 * 1e6, size->p99 * 1e6, rate * 1e-9,
           size->peak * 1e-9, of_peak * 100, reading * 1e-9, size->bandwidth * 1e-9, of_read * 100,
           of_roof * 100, executor_name(size->args.executor_taken), size->wrong_count);
    (void)fflush(stdout);
    experts->wrong_count += size->wrong_count;
    if (experts->options->bench.json == NULL) {
        return WITAN_OK;
    }
    result =
        json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:s, s:I, s:I}",
                  "rows_per_expert", (json_int_t)size->rows_per_expert, "min_us", size->best * 1e6,
                  "p50_us", size->p50 * 1e6, "p99_us", size->p99 * 1e6, "gflops", rate * 1e-9,
                  "peak_gflops", size->peak * 1e-9, "fraction_of_peak", of_peak,
                  "weight_gbytes_per_s", reading * 1e-9, "read_gbytes_per_s",
                  size->bandwidth * 1e-9, "fraction_of_read_bandwidth", of_read, "fraction_of_roof",
                  of_roof, "executor", executor_name(size->args.executor_taken), "wrong",
                  (json_int_t)size->wrong_count, "checked", (json_int_t)size->checked_count);
    if (result == NULL || json_array_append_new(experts->results, result) != 0) {
        return WTN_ERROR(WITAN_E_MEMORY, "the JSON result could not be made");
    }
    return WITAN_OK;
}

/* ---- all sizes ---- */

static void print_header(const experts_t *experts)
{
    const witan_layer_config_t *config = &experts->model.config;

    printf("# witan bench experts: E %" PRId32 ", H %" PRId64 ", I %" PRId64 ", %s, %s %s, %" PRId32
           " thread%s, %" PRId64 " iteration%s\n",
           config->expert_count, config->hidden_size, config->inter_size,
           witan_dtype_name(config->dtype), experts->backend->name, wtn_tier_name(experts->tier),
           experts->thread_count, wtn_plural(experts->thread_count),
           experts->options->bench.iteration_count,
           wtn_plural(experts->options->bench.iteration_count));
    printf("# peak: %s; GB/s: weights read once per call; read: an array "
           "beyond the caches; all measured in turns; %%roof: of the least time that peak and read "
           "allow\n",
           experts->backend->device != NULL ? "a large cuBLAS product"
                                            : "multiply-adds on registers");
    wtn_bench_print_device(experts->device);
    if (experts->options->graph) {
        printf("# times: replays of one captured call\n");
    }
    printf("# #wrong: rows beyond the tolerance %.0e of float64, of %" PRId64 " checked\n",
           wtn_tolerance(config->dtype), experts->options->bench.check_count);
    printf("# %15s %10s %10s %10s %10s %10s %7s %8s %8s %7s %7s %-10s %7s\n", "rows_per_expert",
           "min_us", "p50_us", "p99_us", "GFLOP/s", "peak", "%peak", "GB/s", "read", "%read",
           "%roof", "executor", "#wrong");
}

static witan_status_t write_json(experts_t *experts)
{
    json_t *root =
        wtn_bench_json_begin("experts", &experts->options->bench, &experts->model.config);
    witan_status_t status;

    if (root == NULL ||
        json_object_set_new(root, "threads", json_integer(experts->thread_count)) != 0 ||
        json_object_set_new(root, "backend", json_string(experts->backend->name)) != 0 ||
        json_object_set_new(root, "graph", json_boolean(experts->options->graph)) != 0 ||
        json_object_set_new(root, "kernel_tier", json_string(wtn_tier_name(experts->tier))) != 0 ||
        json_object_set_new(root, "device",
                            experts->device[0] == '\0' ? json_null()
                                                       : json_string(experts->device)) != 0 ||
        json_object_set(root, "results", experts->results) != 0) {
        json_decref(root);
        return WTN_ERROR(WITAN_E_MEMORY, "the JSON text could not be made");
    }
    status = wtn_bench_json_write(experts->options->bench.json, root);
    json_decref(root);
    return status;
}

static witan_status_t run_sizes(experts_t *experts)
{
    const wtn_option_list_t *rows   = &experts->options->rows;
    witan_status_t           status = WITAN_OK;

    print_header(experts);
    for (int32_t i = 0; i < rows->count && status == WITAN_OK; i++) {
        workload_t size = {.rows_per_expert = rows->values[i]};

        status = make_size(experts, &size);
        status = status == WITAN_OK ? measure(experts, &size) : status;
        status = status == WITAN_OK ? check_rows(experts, &size) : status;
        status = status == WITAN_OK ? report(experts, &size) : status;
        free_size(experts, &size);
    }
    if (status == WITAN_OK && experts->options->bench.json != NULL) {
        status = write_json(experts);
    }
    if (status == WITAN_OK && experts->wrong_count > 0) {
        return WTN_ERROR(WITAN_E_INTERNAL, "bench: %" PRId64 " rows are wrong",
                         experts->wrong_count);
    }
    return status;
}

static witan_status_t run_bench(wtn_session_t *session, experts_t *experts)
{
    const experts_options_t *options = experts->options;
    witan_status_t           status  = WITAN_OK;

    if (session->size > 1) {
        status = WTN_ERROR(WITAN_E_ARGUMENT, "bench experts: expected one rank, found %" PRId32,
                           session->size);
    }
    WTN_TRY(wtn_session_agree_usage(session, status));
    WTN_TRY(wtn_bench_json_probe(session, &options->bench));
    experts->results = json_array();
    WTN_TRY(wtn_bench_model_open(&experts->model, &options->bench, &options->session));
    WTN_TRY(make_experts(experts, session));
    WTN_TRY(run_sizes(experts));

fail:
    json_decref(experts->results);
    free_experts(experts);
    return status;
}

int wtn_bench_experts(int argc, char **argv)
{
    experts_options_t options = {0};
    wtn_option_t      table[] = {
             WTN_OPT_LIST("rows", "1,2,4,8,16,32,64,128", 1, 1 << 24, &options.rows,
                          "rows per expert, one line each"),
             WTN_OPT_CHOICE("executor", "auto|contiguous|masked", "auto", &options.executor,
                            "how rows are laid out"),
             WTN_BENCH_GRAPH_OPTION(&options.graph),
             WTN_BENCH_OPTIONS(&options.bench, "rows compared with float64"),
             WTN_SESSION_OPTIONS(&options.session),
    };
    const wtn_command_t command = {"bench experts", "Measure the experts of one rank.", table,
                                   WTN_COUNT_OF(table)};
    wtn_session_t       session;
    experts_t           experts = {.options = &options};
    witan_status_t      status;
    bool                help;

    status = wtn_options_parse(&command, argc, argv, &help);
    if (help) {
        return wtn_options_help(&command);
    }
    if (status == WITAN_OK) {
        status = wtn_bench_check_options(&command, &options.bench);
    }
    status = wtn_session_begin(&session, &command, &options.session, status);
    if (status == WITAN_OK) {
        status = run_bench(&session, &experts);
    }
    return wtn_session_end(&session, status);
}

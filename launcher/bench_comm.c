#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "comm/group.h"
#include "core/error.h"
#include "core/util.h"
#include "launcher/bench_comm.h"

/* ---- what is asked ---- */

static witan_status_t check_sizes(const wtn_command_t *command, const wtn_comm_options_t *options)
{
    static const char *const sizes[] = {"begin", "end", "factor"};

    for (size_t i = 0; i < WTN_COUNT_OF(sizes); i++) {
        if (wtn_option_given(command, "tokens") && wtn_option_given(command, sizes[i])) {
            return WTN_ERROR(WITAN_E_ARGUMENT, "--%s contradicts --tokens", sizes[i]);
        }
    }
    if (options->begin_bytes > options->end_bytes) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--begin: expected at most --end %" PRId64 ", found %" PRId64,
                         options->end_bytes, options->begin_bytes);
    }
    return WITAN_OK;
}

static witan_status_t check_options(const wtn_command_t *command, wtn_comm_options_t *options)
{
    witan_status_t status;

    WTN_TRY(wtn_bench_check_options(command, &options->bench));
    WTN_TRY(check_sizes(command, options));
    WTN_TRY(wtn_skew_check("--skew", options->skew));
    WTN_TRY(wtn_session_host_only(&options->session, "as MPI_Alltoallv moves memory of the host"));
    if (options->session.tp_count > 1 || options->session.mode != 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--%s: expected expert parallelism only",
                         options->session.mode != 0 ? "mode" : "tp");
    }

fail:
    return status;
}

/* ---- the ranks ---- */

/* Nodes as the group has them; counted are those of this expert group. */
static witan_status_t find_nodes(wtn_comm_bench_t *bench)
{
    const witan_group_t *group  = bench->session->group;
    size_t               size   = (size_t)bench->group.size;
    int32_t              ep     = bench->group.expert_parallel;
    witan_status_t       status = WITAN_OK;

    bench->nodes = calloc((size_t)ep, sizeof(*bench->nodes));
    bench->met   = calloc(size, 1);
    if (bench->nodes == NULL || bench->met == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "%zu ranks", size);
    }
    WTN_TRY(wtn_session_agree(bench->session, status));
    for (int32_t i = 0; i < ep; i++) {
        int32_t first = 0;

        bench->nodes[i] = group->nodes[wtn_group_expert_peer(group, i)];
        while (bench->nodes[first] != bench->nodes[i]) {
            first++;
        }
        bench->node_count += first == i;
    }

fail:
    return status;
}

/* A communicator of this expert group for MPI_Alltoallv. */
static witan_status_t split(wtn_comm_bench_t *bench)
{
    if (!bench->session->mpi) {
        return WITAN_OK; /* alone: nothing to compare with */
    }
    if (MPI_Comm_split(MPI_COMM_WORLD, bench->group.data_index, bench->group.expert_index,
                       &bench->comm) != MPI_SUCCESS) {
        bench->comm = MPI_COMM_NULL;
        return WTN_ERROR(WITAN_E_TRANSPORT, "MPI_Comm_split failed");
    }
    return WITAN_OK;
}

/* ---- the layer ---- */

static witan_status_t make_config(const wtn_comm_options_t *options, witan_layer_config_t *config)
{
    wtn_bench_model_t model;
    witan_status_t    status = wtn_bench_model_open(&model, &options->bench, &options->session);

    if (status != WITAN_OK) {
        return status;
    }
    witan_layer_config_init(config);
    config->hidden_size      = model.config.hidden_size;
    config->expert_count     = model.config.expert_count;
    config->topk             = model.config.topk;
    config->dtype            = model.config.dtype;
    config->router_dtype     = model.config.dtype;
    config->inter_size       = 1;
    config->activation.kind  = WITAN_ACTIVATION_IDENTITY;
    config->activation.gated = false;
    config->backend          = options->session.backend;
    config->kernel_tier      = options->session.kernel_tier;
    wtn_bench_model_close(&model);
    return WITAN_OK;
}

/* Expert index of the ranks that hold each expert: contiguous runs, see witan_layer_config_t. */
static witan_status_t find_owners(wtn_comm_bench_t *bench)
{
    int32_t ep = bench->group.expert_parallel, experts = bench->info.config.expert_count;

    bench->owner = calloc((size_t)experts, sizeof(*bench->owner));
    if (bench->owner == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%" PRId32 " experts", experts);
    }
    for (int32_t i = 0; i < ep; i++) {
        int64_t end = wtn_part_begin(experts, ep, i + 1);

        for (int64_t e = wtn_part_begin(experts, ep, i); e < end; e++) {
            bench->owner[e] = i;
        }
    }
    return WITAN_OK;
}

static witan_status_t make_data(wtn_comm_bench_t *bench, witan_layer_config_t *config)
{
    const wtn_comm_options_t *options = bench->options;
    witan_status_t            status;

    WTN_TRY(make_config(options, config));
    bench->row_bytes = (size_t)config->hidden_size * witan_dtype_bytes(config->dtype);
    if (options->tokens.count == 0 && options->end_bytes < (int64_t)bench->row_bytes) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--end: expected at least the %zu bytes of a token, found %" PRId64,
                         bench->row_bytes, options->end_bytes);
    }
    WTN_TRY(wtn_plan_options_check(&options->plan, config->topk));
    WTN_TRY(wtn_skew_open(&bench->skew, options->skew, config->expert_count, config->topk,
                          (uint64_t)options->seed));
    WTN_TRY(wtn_comm_data_make(&bench->data, config));

fail:
    return status;
}

static witan_status_t make_layer(wtn_comm_bench_t *bench)
{
    witan_layer_config_t config;
    witan_weights_t      weights;
    witan_status_t       status;

    bench->group.struct_bytes = sizeof(bench->group);
    bench->info.struct_bytes  = sizeof(bench->info);
    WTN_TRY(witan_group_query(bench->session->group, &bench->group));
    WTN_TRY(wtn_session_agree_usage(bench->session, make_data(bench, &config)));
    weights = wtn_comm_data_weights(&bench->data);
    WTN_TRY(witan_layer_create(&bench->layer, bench->session->group, &config, &weights));
    WTN_TRY(witan_layer_info(bench->layer, &bench->info));
    WTN_TRY(wtn_session_agree(bench->session, find_owners(bench)));
    WTN_TRY(find_nodes(bench));
    WTN_TRY(wtn_session_agree(bench->session, split(bench)));

fail:
    return status;
}

static void close_bench(wtn_comm_bench_t *bench)
{
    if (bench->comm != MPI_COMM_NULL && !bench->session->comm->broken) {
        (void)MPI_Comm_free(&bench->comm); /* with a lost peer it could wait for ever */
    }
    json_decref(bench->results);
    witan_layer_destroy(bench->layer);
    wtn_comm_data_free(&bench->data);
    wtn_skew_close(bench->skew);
    free(bench->owner);
    free(bench->nodes);
    free(bench->met);
    free(bench->csv);
}

/* ---- all sizes ---- */

static witan_status_t run_size(wtn_comm_bench_t *bench, int64_t token_count,
                               wtn_comm_result_t *result)
{
    witan_status_t status;

    wtn_comm_result_free(result); /* of the size before */
    WTN_TRY(wtn_comm_measure(bench, token_count, result));
    WTN_TRY(wtn_session_agree(bench->session, wtn_comm_report(bench, result)));

fail:
    return status;
}

static witan_status_t run_sizes(wtn_comm_bench_t *bench, wtn_comm_result_t *result)
{
    const wtn_comm_options_t *options = bench->options;
    int64_t                   size = options->begin_bytes, measured = 0;
    witan_status_t            status = WITAN_OK;

    for (int32_t i = 0; i < options->tokens.count; i++) {
        WTN_TRY(run_size(bench, options->tokens.values[i], result));
    }
    while (options->tokens.count == 0 && size <= options->end_bytes) {
        int64_t count = wtn_max_i64(size / (int64_t)bench->row_bytes, 1);

        if (count != measured) { /* sizes within the same token are one */
            WTN_TRY(run_size(bench, count, result));
            measured = count;
        }
        if (size > options->end_bytes / options->factor) {
            break;
        }
        size *= options->factor;
    }

fail:
    return status;
}

static witan_status_t run_bench(wtn_comm_bench_t *bench)
{
    const wtn_comm_options_t *options   = bench->options;
    const wtn_named_path_t    outputs[] = {{"--json", options->bench.json},
                                           {"--csv", options->csv},
                                           {"--traffic", options->traffic}};
    bool                      traced    = strncmp(options->skew, "trace:", 6) == 0;
    const wtn_named_path_t    input     = {"--skew", traced ? options->skew + 6 : NULL};
    wtn_comm_result_t         result    = {0};
    witan_status_t            status;

    bench->results        = json_array();
    bench->session->phase = "bench";
    WTN_TRY(wtn_bench_files_probe(bench->session, outputs, WTN_COUNT_OF(outputs), &input,
                                  options->bench.model));
    WTN_TRY(make_layer(bench));
    wtn_comm_print_header(bench);
    WTN_TRY(run_sizes(bench, &result));
    status = wtn_comm_write(bench, &result);
    if (status == WITAN_OK && bench->wrong_count > 0) {
        status =
            WTN_ERROR(WITAN_E_INTERNAL, "bench: %" PRId64 " tokens are wrong", bench->wrong_count);
    }
    WTN_TRY(wtn_session_agree(bench->session, status));

fail:
    wtn_comm_result_free(&result);
    close_bench(bench);
    return status;
}

#define SIZE_OPTION(name_, letter_, fallback_, value_, help_)                             \
    {                                                                                     \
        .name = name_, .letter = letter_, .kind = WTN_OPTION_SIZE, .argument = "BYTES",   \
        .fallback = fallback_, .help = help_, .value = value_, .min = 1, .max = INT64_MAX \
    }
#define COUNT_OPTION(name_, letter_, fallback_, min_, value_, help_)                      \
    {                                                                                     \
        .name = name_, .letter = letter_, .kind = WTN_OPTION_INTEGER, .argument = "N",    \
        .fallback = fallback_, .help = help_, .value = value_, .min = min_, .max = 100000 \
    }

int wtn_bench_comm(int argc, char **argv)
{
    wtn_comm_options_t   options = {0};
    wtn_bench_options_t *shape   = &options.bench;
    wtn_option_t         table[] = {
                SIZE_OPTION(
                    "begin", 'b', "64K", &options.begin_bytes,
                    "first size: bytes of the tokens of a rank, at least one; K, M, G: powers of 1024"),
                SIZE_OPTION("end", 'e', "16M", &options.end_bytes, "no size beyond this one"),
                COUNT_OPTION("factor", 'f', "4", 2, &options.factor, "from one size to the next"),
                WTN_OPT_LIST("tokens", NULL, 0, 1 << 24, &options.tokens,
                             "tokens of each rank, one line each, in place of sizes"),
                COUNT_OPTION("iterations", 'n', "20", 1, &shape->iteration_count,
                             "iterations of each size"),
                COUNT_OPTION("warmup", 'w', "5", 0, &shape->warmup_count, "iterations before the clock"),
                COUNT_OPTION("check", 'c', "1", 0, &shape->check_count,
                             "steps of which every value is checked"),
                WTN_OPT_TEXT("skew", "KIND", "uniform", &options.skew,
                             "uniform, zipf:S, hot:E, trace:FILE, balanced or zero-rank"),
                WTN_OPT_INTEGER("seed", "N", "1", 0, INT64_MAX, &options.seed, "of the routing"),
                WTN_OPT_MODEL(&shape->model, false, "Hugging Face folder; else this shape:"),
                WTN_OPT_INTEGER("layer", "N", NULL, 0, INT32_MAX, &shape->layer, "block of the model"),
                WTN_OPT_INTEGER("experts", "N", "64", 1, INT32_MAX, &shape->expert_count, "E, experts"),
                WTN_OPT_INTEGER("topk", "N", "8", 1, INT32_MAX, &shape->topk, "K, experts of a token"),
                WTN_OPT_INTEGER("hidden", "N", "2048", 1, INT32_MAX, &shape->hidden_size, "H, hidden size"),
                WTN_OPT_CHOICE("dtype", "f32|f16|bf16", "bf16", &shape->dtype, "of tokens"),
                WTN_OPT_TEXT("json", "FILE", NULL, &shape->json, "also write the figures as JSON"),
                WTN_OPT_TEXT("csv", "FILE", NULL, &options.csv, "also write the figures as CSV"),
                WTN_OPT_TEXT("traffic", "FILE", NULL, &options.traffic,
                             "also write bytes by source and destination as JSON"),
                WTN_PLAN_OPTIONS(&options.plan),
                WTN_SESSION_HOST_OPTIONS(&options.session),
    };
    const wtn_command_t command = {"bench comm",
                                   "Measure dispatch and combine alone, beside MPI_Alltoallv.",
                                   table, WTN_COUNT_OF(table)};
    wtn_session_t       session;
    wtn_comm_bench_t    bench = {.session = &session, .options = &options, .comm = MPI_COMM_NULL};
    witan_status_t      status;
    bool                help;

    status = wtn_options_parse(&command, argc, argv, &help);
    if (help) {
        return wtn_options_help(&command);
    }
    if (status == WITAN_OK) {
        status = check_options(&command, &options);
    }
    status = wtn_session_begin(&session, &command, &options.session, status);
    if (status == WITAN_OK) {
        status = run_bench(&bench);
    }
    return wtn_session_end(&session, status);
}

/* witan run: one block of a model over the tokens of a file. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/hf.h"
#include "launcher/commands.h"
#include "launcher/job.h"
#include "launcher/load.h"
#include "launcher/paths.h"
#include "launcher/placement.h"
#include "launcher/tokens.h"

typedef struct run_options {
    wtn_session_options_t session;
    wtn_plan_options_t    plan;
    const char           *model, *input, *output, *routing_out;
    int64_t               layer, step_tokens;
    bool                  stats;
} run_options_t;

/* The files of rank 0. */
typedef struct run {
    const run_options_t *options;
    wtn_tokens_t         tokens;
    wtn_st_writer_t     *output, *routing;
    size_t               row_bytes;
    int32_t              topk, expert_count;
    float               *weights; /* [T, K]: the file has all ids before them */
} run_t;

/* ---- rank 0: files ---- */

static witan_status_t feed_read(void *context, int64_t begin, int64_t count, void *hidden)
{
    const run_t *run = context;

    return wtn_tokens_read(&run->tokens, begin, count, hidden);
}

static witan_status_t feed_write(void *context, int64_t begin, int64_t count, const void *hidden)
{
    run_t *run = context;

    (void)begin;
    return wtn_st_writer_append(run->output, hidden, (size_t)count * run->row_bytes);
}

static witan_status_t feed_write_routing(void *context, int64_t begin, int64_t count,
                                         const int32_t *ids, const float *weights)
{
    run_t *run  = context;
    size_t each = (size_t)count * (size_t)run->topk;

    memcpy(run->weights + (size_t)begin * (size_t)run->topk, weights, each * sizeof(*weights));
    return wtn_st_writer_append(run->routing, ids, each * sizeof(*ids));
}

static witan_status_t open_routing(run_t *run)
{
    wtn_st_tensor_t tensors[2] = {
        {.name  = "topk_ids",
         .dtype = WTN_ST_I32,
         .rank  = 2,
         .shape = {run->tokens.count, run->topk}},
        {.name  = "topk_weights",
         .dtype = WTN_ST_F32,
         .rank  = 2,
         .shape = {run->tokens.count, run->topk}},
    };
    size_t count;

    if (!wtn_mul((size_t)run->tokens.count, (size_t)run->topk, &count)) {
        count = SIZE_MAX;
    }
    run->weights = calloc(count + (count == 0), sizeof(*run->weights));
    if (run->weights == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "routing of %" PRId64 " tokens", run->tokens.count);
    }
    return wtn_st_writer_open(&run->routing, run->options->routing_out, tensors, 2);
}

static witan_status_t check_paths(const run_options_t *options)
{
    const wtn_named_path_t input     = {"--input", options->input};
    const wtn_named_path_t outputs[] = {{"--output", options->output},
                                        {"--routing-out", options->routing_out}};

    return wtn_paths_check(outputs, WTN_COUNT_OF(outputs), &input, options->model);
}

/* All that can be wrong with the files shows before any weight is read. */
static witan_status_t open_files(run_t *run)
{
    const run_options_t        *options = run->options;
    const witan_layer_config_t *layer;
    wtn_hf_t                   *hf     = NULL;
    wtn_st_tensor_t             tensor = {.name = WTN_TOKENS_TENSOR, .rank = 2};
    witan_status_t              status;

    WTN_TRY(wtn_hf_open(&hf, options->model, (int32_t)options->layer));
    layer = wtn_hf_config(hf);
    WTN_TRY(wtn_tokens_open(&run->tokens, options->input, layer));
    run->row_bytes  = run->tokens.row_bytes;
    run->topk       = layer->topk;
    tensor.dtype    = wtn_tokens_dtype(layer->dtype);
    tensor.shape[0] = run->tokens.count;
    tensor.shape[1] = layer->hidden_size;
    WTN_TRY(wtn_st_writer_open(&run->output, options->output, &tensor, 1));
    if (options->routing_out != NULL) {
        WTN_TRY(open_routing(run));
    }

fail:
    wtn_hf_close(hf);
    return status;
}

/* All bytes on their way to the names they will get. */
static witan_status_t finish_files(run_t *run)
{
    witan_status_t status;

    if (run->routing != NULL) {
        WTN_TRY(wtn_st_writer_append(run->routing, run->weights,
                                     (size_t)run->tokens.count * (size_t)run->topk *
                                         sizeof(*run->weights)));
        WTN_TRY(wtn_st_writer_finish(run->routing));
    }
    return wtn_st_writer_finish(run->output);

fail:
    return status;
}

static witan_status_t commit_files(run_t *run)
{
    wtn_st_writer_t *writer = run->routing;
    witan_status_t   status = WITAN_OK;

    run->routing = NULL;
    if (writer != NULL) {
        WTN_TRY(wtn_st_writer_commit(writer));
    }
    writer      = run->output;
    run->output = NULL;
    return wtn_st_writer_commit(writer);

fail:
    return status;
}

static void close_files(run_t *run)
{
    wtn_tokens_close(&run->tokens);
    wtn_st_writer_abort(run->output);
    wtn_st_writer_abort(run->routing);
    free(run->weights);
}

/* ---- all ranks ---- */

static witan_status_t print_summary(wtn_session_t *session, const run_options_t *options,
                                    const wtn_job_t *job, const wtn_job_load_t *loads)
{
    witan_group_info_t group = {.struct_bytes = sizeof(group)};
    witan_layer_info_t layer = {.struct_bytes = sizeof(layer)};
    char               way[WTN_EXCHANGE_TEXT_BYTES];
    witan_status_t     status;

    WTN_TRY(witan_group_query(session->group, &group));
    WTN_TRY(witan_layer_info(job->layer, &layer));
    wtn_exchange_text(way, job->exchange, job->transport);
    printf("%" PRId64 " token%s, %s layer %" PRId64 ", %" PRId32 " rank%s (ep %" PRId32
           ", tp %" PRId32 ", dp %" PRId32 "), %s %s, %s, %s, %.3f s\n",
           job->token_count, wtn_plural(job->token_count), layer.family, options->layer, group.size,
           wtn_plural(group.size), group.expert_parallel, group.tensor_parallel,
           group.data_parallel, layer.backend, layer.kernel_tier, way,
           wtn_hierarchy_name(job->hierarchy), job->seconds);
    if (options->stats) {
        wtn_job_print(session, job, loads);
        wtn_job_print_experts(job, layer.config.expert_count);
    }
    return wtn_results_flush();

fail:
    return status;
}

/* The files get their names when nothing is left that can fail but that: all bytes are on the disk,
 * the summary is out and all ranks say so. */
static witan_status_t deliver(wtn_session_t *session, run_t *run, wtn_job_t *job)
{
    const bool      first = session->rank == 0;
    wtn_job_load_t *loads = NULL;
    witan_status_t  status;

    session->phase = "output";
    if (run->options->stats) {
        WTN_TRY(wtn_job_loads(session, job, &loads));
        WTN_TRY(wtn_job_sum_experts(session, job, run->expert_count));
    }
    status = first ? finish_files(run) : WITAN_OK;
    if (first && status == WITAN_OK) {
        status = print_summary(session, run->options, job, loads);
    }
    WTN_TRY(wtn_session_agree(session, status));
    status = first ? commit_files(run) : WITAN_OK;
    WTN_TRY(wtn_session_agree(session, status));

fail:
    free(loads);
    return status;
}

/* What the layer alone tells: whether the options suit it, and how many counts --stats needs. */
static witan_status_t prepare(run_t *run, wtn_job_t *job)
{
    witan_layer_info_t layer = {.struct_bytes = sizeof(layer)};
    witan_status_t     status;

    WTN_TRY(witan_layer_info(job->layer, &layer));
    WTN_TRY(wtn_plan_options_suit(&run->options->plan, job->layer));
    run->expert_count = layer.config.expert_count;
    if (run->options->stats) {
        job->expert_tokens = calloc((size_t)run->expert_count, sizeof(*job->expert_tokens));
        if (job->expert_tokens == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "loads of %" PRId32 " experts", run->expert_count);
        }
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t run_layer(wtn_session_t *session, run_t *run)
{
    const run_options_t *options = run->options;
    const wtn_feed_t     feed    = {run, feed_read, feed_write, feed_write_routing};
    wtn_job_t            job     = {.step_tokens = options->step_tokens,
                                    .plan        = wtn_plan_config_make(&options->plan),
                                    .routing     = options->routing_out != NULL};
    witan_status_t       status;

    session->phase = "input";
    status         = session->rank == 0 ? check_paths(options) : WITAN_OK;
    WTN_TRY(wtn_session_agree_usage(session, status));
    status = session->rank == 0 ? open_files(run) : WITAN_OK;
    WTN_TRY(wtn_session_agree(session, status));
    job.token_count = run->tokens.count;
    WTN_TRY(wtn_session_share(session, &job.token_count, sizeof(job.token_count)));
    WTN_TRY(wtn_load_layer(session, &options->session, options->model, (int32_t)options->layer,
                           &job.layer));
    WTN_TRY(wtn_session_agree_usage(session, prepare(run, &job)));
    WTN_TRY(wtn_job_run(session, &job, &feed));
    WTN_TRY(deliver(session, run, &job));

fail:
    free(job.expert_tokens);
    witan_layer_destroy(job.layer);
    return status;
}

int wtn_cmd_run(int argc, char **argv)
{
    run_options_t options = {0};
    wtn_option_t  table[] = {
         WTN_OPT_MODEL(&options.model, true, "Hugging Face folder"),
         WTN_OPT_REQUIRED_INTEGER("layer", "N", 0, INT32_MAX, &options.layer, "block of the model"),
         WTN_OPT_REQUIRED("input", "FILE", &options.input, "safetensors with hidden_states [T, H]"),
         WTN_OPT_REQUIRED("output", "FILE", &options.output, "the same, computed"),
         WTN_OPT_TEXT("routing-out", "FILE", NULL, &options.routing_out,
                      "also write topk_ids and topk_weights [T, K]"),
         WTN_OPT_INTEGER("tokens-per-step", "N", "4096", 1, INT64_MAX, &options.step_tokens,
                         "most tokens of a rank in one step"),
         WTN_OPT_FLAG("stats", &options.stats, "print times, loads and traffic"),
         WTN_PLAN_OPTIONS(&options.plan),
         WTN_PLAN_CUDA_OPTIONS(&options.plan),
         WTN_SESSION_OPTIONS(&options.session),
         WTN_PLACEMENT_OPTION(&options.session.placement),
    };
    const wtn_command_t command = {"run", "Compute one mixture-of-experts block over the ranks.",
                                   table, WTN_COUNT_OF(table)};
    wtn_session_t       session;
    run_t               run = {.options = &options};
    witan_status_t      status;
    bool                help;

    status = wtn_options_parse(&command, argc, argv, &help);
    if (help) {
        return wtn_options_help(&command);
    }
    status = wtn_session_begin(&session, &command, &options.session, status);
    if (status == WITAN_OK) {
        status = run_layer(&session, &run);
    }
    close_files(&run);
    return wtn_session_end(&session, status);
}

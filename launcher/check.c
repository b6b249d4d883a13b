/* witan check: the distributed result against one rank and against float64. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/half.h"
#include "core/util.h"
#include "dispatch/reference.h"
#include "experts/hf.h"
#include "launcher/commands.h"
#include "launcher/job.h"
#include "launcher/load.h"
#include "launcher/placement.h"
#include "launcher/staging.h"
#include "launcher/synthetic.h"
#include "launcher/tokens.h"

typedef struct check_options {
    wtn_session_options_t session;
    wtn_plan_options_t    plan;
    const char           *model, *input;
    int64_t               layer, token_count, seed;
} check_options_t;

typedef struct check {
    wtn_session_t         *session;
    const check_options_t *options;
    witan_layer_config_t   config;
    int64_t                token_count;
    witan_hierarchy_t      hierarchy;
    char                   kernels[64];                  /* backend and tier of the ranks */
    char                   way[WTN_EXCHANGE_TEXT_BYTES]; /* of their tokens */
    bool                   any_order;              /* sums whose order a library chooses by shape */
    size_t                 row_bytes, value_count; /* T * H */
    witan_weights_t        file_weights;           /* of rank 0 */
    uint64_t               beat_ns;                /* when the peers were last told we live */
    witan_status_t         beat_status;
    /* [T, H] and [T, K]; on rank 0 */
    void    *hidden, *distributed, *single;
    int32_t *ids, *reference_ids;
    float   *weights;
    double  *reference, *compared;
} check_t;

/* ---- the peers wait while rank 0 works; a beat now and then keeps their deadline off ---- */

enum { BEAT_DONE = 0, BEAT_ALIVE = 1 };

static witan_status_t beat_all(wtn_session_t *session, char beat)
{
    witan_status_t status = WITAN_OK;

    for (int32_t rank = 1; rank < session->size && status == WITAN_OK; rank++) {
        status = wtn_send(session->comm, rank, WTN_TAG_USER, &beat, 1, "check");
    }
    return status;
}

static void beat(check_t *check)
{
    uint64_t now = wtn_now_ns();

    if (check->beat_status == WITAN_OK &&
        now - check->beat_ns > check->session->comm->timeout_ns / 4) {
        check->beat_ns     = now;
        check->beat_status = beat_all(check->session, BEAT_ALIVE);
    }
}

static witan_status_t await_rank_0(wtn_session_t *session)
{
    witan_status_t status;
    char           state;

    do {
        status = wtn_recv(session->comm, 0, WTN_TAG_USER, &state, 1, "check");
    } while (status == WITAN_OK && state == BEAT_ALIVE);
    return status;
}

/* ---- tokens in and out ---- */

static witan_status_t feed_read(void *context, int64_t begin, int64_t count, void *hidden)
{
    const check_t *check = context;

    memcpy(hidden, (const char *)check->hidden + (size_t)begin * check->row_bytes,
           (size_t)count * check->row_bytes);
    return WITAN_OK;
}

static witan_status_t feed_write(void *context, int64_t begin, int64_t count, const void *hidden)
{
    check_t *check = context;

    memcpy((char *)check->distributed + (size_t)begin * check->row_bytes, hidden,
           (size_t)count * check->row_bytes);
    return WITAN_OK;
}

static witan_status_t feed_routing(void *context, int64_t begin, int64_t count, const int32_t *ids,
                                   const float *weights)
{
    check_t *check = context;
    size_t   topk  = (size_t)check->config.topk;

    memcpy(check->ids + (size_t)begin * topk, ids, (size_t)count * topk * sizeof(*ids));
    memcpy(check->weights + (size_t)begin * topk, weights, (size_t)count * topk * sizeof(*weights));
    return WITAN_OK;
}

static witan_status_t make_buffers(check_t *check)
{
    size_t tokens = (size_t)check->token_count, routed;

    if (!wtn_mul(tokens, (size_t)check->config.hidden_size, &check->value_count) ||
        !wtn_mul(tokens, (size_t)check->config.topk, &routed) ||
        check->value_count > SIZE_MAX / 8 || routed > SIZE_MAX / 8) {
        return WTN_ERROR(WITAN_E_MEMORY, "check: %zu tokens of width %" PRId64, tokens,
                         check->config.hidden_size);
    }
    check->row_bytes   = (size_t)check->config.hidden_size * witan_dtype_bytes(check->config.dtype);
    check->hidden      = calloc(tokens + 1, check->row_bytes);
    check->distributed = calloc(tokens + 1, check->row_bytes);
    check->single      = calloc(tokens + 1, check->row_bytes);
    check->ids         = calloc(routed + 1, sizeof(*check->ids));
    check->reference_ids = calloc(routed + 1, sizeof(*check->reference_ids));
    check->weights       = calloc(routed + 1, sizeof(*check->weights));
    check->reference     = calloc(check->value_count + 1, sizeof(*check->reference));
    check->compared      = calloc(check->value_count + 1, sizeof(*check->compared));
    if (check->hidden == NULL || check->distributed == NULL || check->single == NULL ||
        check->ids == NULL || check->reference_ids == NULL || check->weights == NULL ||
        check->reference == NULL || check->compared == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "check: %zu tokens of width %" PRId64, tokens,
                         check->config.hidden_size);
    }
    return WITAN_OK;
}

static void free_buffers(check_t *check)
{
    free(check->hidden);
    free(check->distributed);
    free(check->single);
    free(check->ids);
    free(check->reference_ids);
    free(check->weights);
    free(check->reference);
    free(check->compared);
}

static witan_status_t open_input(check_t *check, wtn_hf_t **hf)
{
    const check_options_t *options = check->options;
    wtn_tokens_t           tokens  = {0};
    witan_status_t         status;

    WTN_TRY(wtn_hf_open(hf, options->model, (int32_t)options->layer));
    check->config      = *wtn_hf_config(*hf);
    check->token_count = options->token_count;
    if (options->input != NULL) {
        WTN_TRY(wtn_tokens_open(&tokens, options->input, &check->config));
        check->token_count = tokens.count;
    }
    WTN_TRY(make_buffers(check));
    if (options->input != NULL) {
        WTN_TRY(wtn_tokens_read(&tokens, 0, tokens.count, check->hidden));
    } else {
        wtn_synthetic_fill(check->hidden, check->config.dtype, (uint64_t)options->seed, 0,
                           check->value_count, 1.0f);
    }

fail:
    wtn_tokens_close(&tokens);
    return status;
}

/* ---- what it is compared with ---- */

static void beat_on_progress(void *context, int64_t bytes_done, int64_t bytes_total)
{
    (void)bytes_done;
    (void)bytes_total;
    beat(context);
}

static witan_status_t beat_on_read(void *context, const witan_weight_slice_t *slice, void *out)
{
    check_t *check = context;

    beat(check);
    return check->file_weights.read(check->file_weights.context, slice, out);
}

/* The same tokens through one rank alone, all in one batch. */
static witan_status_t compute_single(check_t *check)
{
    witan_group_config_t group_config = check->session->config;
    witan_plan_config_t  plan_config;
    witan_load_options_t load;
    witan_group_t       *group   = NULL;
    witan_layer_t       *layer   = NULL;
    witan_plan_t        *plan    = NULL;
    wtn_staging_t        staging = {0};
    witan_layer_info_t   info    = {.struct_bytes = sizeof(info)};
    witan_status_t       status;

    group_config.expert_parallel = group_config.tensor_parallel = 1;
    group_config.bind                                           = false;
    witan_load_options_init(&load);
    load.backend          = check->options->session.backend;
    load.kernel_tier      = check->options->session.kernel_tier;
    load.progress         = beat_on_progress;
    load.progress_context = check;
    witan_plan_config_init(&plan_config);
    plan_config.token_count_max = check->token_count;
    WTN_TRY(witan_group_create_self(&group, &group_config));
    WTN_TRY(witan_layer_load(&layer, group, check->options->model, (int32_t)check->options->layer,
                             &load));
    WTN_TRY(witan_plan_create(&plan, layer, &plan_config));
    WTN_TRY(witan_layer_info(layer, &info));
    check->any_order = strcmp(info.kernel_tier, "cublas") == 0;
    WTN_TRY(wtn_staging_make(&staging, layer, check->token_count));
    WTN_TRY(wtn_staging_forward(&staging, plan, check->token_count, check->hidden, check->single));

fail:
    witan_plan_destroy(plan);
    wtn_staging_free(&staging);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
    return status;
}

/* The float64 block routes by itself. A token whose logits nearly tie may choose otherwise in fp32;
 * such tokens are counted, and computed again with the choice that was made. */
static witan_status_t compute_reference(check_t *check, int64_t *differ_count)
{
    const witan_weights_t weights = {.context = check, .read = beat_on_read};
    size_t                topk    = (size_t)check->config.topk;
    size_t                width   = (size_t)check->config.hidden_size;
    witan_status_t        status;

    *differ_count = 0;
    WTN_TRY(wtn_reference_layer(&check->config, &weights, check->token_count, check->hidden, NULL,
                                NULL, check->reference, check->reference_ids, NULL));
    for (int64_t t = 0; t < check->token_count; t++) {
        const int32_t *ids = check->ids + (size_t)t * topk;

        if (memcmp(ids, check->reference_ids + (size_t)t * topk, topk * sizeof(*ids)) == 0) {
            continue;
        }
        (*differ_count)++;
        WTN_TRY(wtn_reference_layer(&check->config, &weights, 1,
                                    (const char *)check->hidden + (size_t)t * check->row_bytes, ids,
                                    check->weights + (size_t)t * topk,
                                    check->reference + (size_t)t * width, NULL, NULL));
    }
    return WITAN_OK;

fail:
    return status;
}

/* ---- the verdict ---- */

typedef struct verdict {
    int  wrong_count;
    char first[160]; /* the first failure in words */
} verdict_t;

static void judge(verdict_t *verdict, const char *name, const char *found, const char *expected,
                  bool good)
{
    printf("  %-24s %-16s %-16s %s\n", name, found, expected, good ? "ok" : "WRONG");
    if (!good && verdict->wrong_count++ == 0) {
        (void)snprintf(verdict->first, sizeof(verdict->first), "%s: expected %s, found %s", name,
                       expected, found);
    }
}

static void judge_norm(verdict_t *verdict, const char *name, double norm, double bound)
{
    char found[32], expected[32];

    (void)snprintf(found, sizeof(found), "%.3e", fabs(norm)); /* no sign of NaN */
    (void)snprintf(expected, sizeof(expected), "<= %.0e", bound);
    judge(verdict, name, found, expected, norm <= bound); /* false for NaN */
}

static void judge_all(check_t *check, int64_t differ_count, verdict_t *verdict)
{
    witan_dtype_t dtype = check->config.dtype;
    int64_t       count = (int64_t)check->value_count;
    double        bound = wtn_tolerance(dtype);
    char          text[48], allowed[48];
    bool          equal = memcmp(check->distributed, check->single,
                                 check->value_count * witan_dtype_bytes(dtype)) == 0;
    bool          exact = check->session->config.tensor_parallel == 1 && !check->any_order &&
                 check->options->plan.combine == WITAN_COMBINE_EXACT;

    printf("# %-24s %-16s %-16s %s\n", "comparison", "found", "expected", "result");
    judge(verdict, "ranks:one_rank bits", equal ? "equal" : "differ", exact ? "equal" : "any",
          equal || !exact);
    for (size_t i = 0; i < check->value_count; i++) {
        check->compared[i] = (double)wtn_load_float(check->single, dtype, i);
    }
    judge_norm(verdict, "ranks:one_rank norm",
               wtn_error_norm(check->distributed, dtype, check->compared, count), bound);
    judge_norm(verdict, "ranks:float64 norm",
               wtn_error_norm(check->distributed, dtype, check->reference, count), bound);
    judge_norm(verdict, "one_rank:float64 norm",
               wtn_error_norm(check->single, dtype, check->reference, count), bound);
    /* fp32 logits are good to about 1e-6: more than one token in 100 is no tie any more. */
    (void)snprintf(text, sizeof(text), "%" PRId64 " differ", differ_count);
    (void)snprintf(allowed, sizeof(allowed), "<= %" PRId64, 1 + check->token_count / 100);
    judge(verdict, "routing:float64 tokens", text, allowed,
          differ_count <= 1 + check->token_count / 100);
}

static witan_status_t compare(check_t *check)
{
    const witan_group_config_t *group        = &check->session->config;
    verdict_t                   verdict      = {0};
    int64_t                     differ_count = 0;
    witan_status_t              status;

    check->beat_ns = wtn_now_ns();
    WTN_TRY(compute_single(check));
    WTN_TRY(compute_reference(check, &differ_count));
    printf("# check: %" PRId64 " token%s, layer %" PRId64 ", %" PRId32 " rank%s (ep %" PRId32
           ", tp %" PRId32 "), %s, %s, %s, %s, %s\n",
           check->token_count, wtn_plural(check->token_count), check->options->layer,
           check->session->size, wtn_plural(check->session->size), group->expert_parallel,
           group->tensor_parallel, witan_dtype_name(check->config.dtype),
           check->options->plan.combine == WITAN_COMBINE_EXACT ? "exact" : "reduced",
           wtn_hierarchy_name(check->hierarchy), check->kernels, check->way);
    judge_all(check, differ_count, &verdict);
    if (verdict.wrong_count > 0) {
        return WTN_ERROR(WITAN_E_INTERNAL, "check: %s", verdict.first);
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t compare_on_rank_0(check_t *check)
{
    char           fault[WTN_ERROR_TEXT_BYTES];
    witan_status_t status, told;

    check->session->phase = "check";
    if (check->session->rank != 0) {
        status = await_rank_0(check->session);
        return status != WITAN_OK ? status : wtn_session_agree(check->session, WITAN_OK);
    }
    status = compare(check);
    if (check->beat_status != WITAN_OK) {
        return check->beat_status;
    }
    (void)snprintf(fault, sizeof(fault), "%s", witan_last_error());
    told = beat_all(check->session, BEAT_DONE);
    if (told != WITAN_OK) {
        return told;
    }
    if (status != WITAN_OK) {
        (void)WTN_ERROR(status, "%s", fault);
    }
    return wtn_session_agree(check->session, status);
}

static witan_status_t run_check(check_t *check)
{
    const check_options_t *options = check->options;
    wtn_session_t         *session = check->session;
    const wtn_feed_t       feed    = {check, feed_read, feed_write, feed_routing};
    wtn_job_t              job     = {.step_tokens = INT32_MAX,
                                      .plan        = wtn_plan_config_make(&options->plan),
                                      .routing     = true};
    witan_layer_info_t     layer   = {.struct_bytes = sizeof(layer)};
    wtn_hf_t              *hf      = NULL;
    witan_status_t         status;

    session->phase = "input";
    status         = session->rank == 0 ? open_input(check, &hf) : WITAN_OK;
    WTN_TRY(wtn_session_agree(session, status));
    if (session->rank == 0) {
        check->file_weights = wtn_hf_weights(hf);
    }
    job.token_count = check->token_count;
    WTN_TRY(wtn_session_share(session, &job.token_count, sizeof(job.token_count)));
    WTN_TRY(wtn_load_layer(session, &options->session, options->model, (int32_t)options->layer,
                           &job.layer));
    WTN_TRY(wtn_session_agree_usage(session, wtn_plan_options_suit(&options->plan, job.layer)));
    WTN_TRY(wtn_job_run(session, &job, &feed));
    WTN_TRY(witan_layer_info(job.layer, &layer));
    (void)snprintf(check->kernels, sizeof(check->kernels), "%s %s", layer.backend,
                   layer.kernel_tier);
    wtn_exchange_text(check->way, job.exchange, job.transport);
    check->hierarchy = job.hierarchy;
    witan_layer_destroy(job.layer); /* the one rank loads the whole block again */
    job.layer = NULL;
    WTN_TRY(compare_on_rank_0(check));

fail:
    witan_layer_destroy(job.layer);
    wtn_hf_close(hf);
    return status;
}

int wtn_cmd_check(int argc, char **argv)
{
    check_options_t options = {0};
    wtn_option_t    table[] = {
           WTN_OPT_MODEL(&options.model, true, "Hugging Face folder"),
           WTN_OPT_REQUIRED_INTEGER("layer", "N", 0, INT32_MAX, &options.layer, "block of the model"),
           WTN_OPT_TEXT("input", "FILE", NULL, &options.input, "tokens to use; else random ones"),
           WTN_OPT_INTEGER("tokens", "N", "64", 0, INT32_MAX, &options.token_count, "random tokens"),
           WTN_OPT_INTEGER("seed", "N", "1", 0, INT64_MAX, &options.seed, "of the random tokens"),
           WTN_PLAN_OPTIONS(&options.plan),
           WTN_PLAN_CUDA_OPTIONS(&options.plan),
           WTN_SESSION_OPTIONS(&options.session),
           WTN_PLACEMENT_OPTION(&options.session.placement),
    };
    const wtn_command_t command = {
        "check", "Compare the result of the ranks with that of one rank and with float64.", table,
        WTN_COUNT_OF(table)};
    wtn_session_t  session;
    check_t        check = {.session = &session, .options = &options};
    witan_status_t status;
    bool           help;

    status = wtn_options_parse(&command, argc, argv, &help);
    if (help) {
        return wtn_options_help(&command);
    }
    if (status == WITAN_OK && options.input != NULL &&
        (wtn_option_given(&command, "tokens") || wtn_option_given(&command, "seed"))) {
        status = WTN_ERROR(WITAN_E_ARGUMENT, "--input contradicts --tokens and --seed");
    }
    status = wtn_session_begin(&session, &command, &options.session, status);
    if (status == WITAN_OK) {
        status = run_check(&check);
    }
    free_buffers(&check);
    return wtn_session_end(&session, status);
}

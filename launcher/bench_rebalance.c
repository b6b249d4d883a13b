/* witan bench rebalance: a layer under skew before, while and after its experts move to balance it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/reference.h"
#include "launcher/bench.h"
#include "launcher/job.h"
#include "launcher/skew.h"

#define INPUT_SEED 11

typedef struct rebalance_options {
    wtn_session_options_t session;
    wtn_bench_options_t   bench;
    wtn_plan_options_t    plan;
    const char           *skew;
    int64_t               seed, token_count, slot_count, step_bytes, commit_every;
} rebalance_options_t;

typedef struct bench {
    wtn_session_t             *session;
    const rebalance_options_t *options;
    wtn_bench_model_t          model;
    int32_t                   *slot_expert; /* [R] */
    int32_t                    slot_count;
    witan_layer_t             *layer;
    witan_plan_t              *plan;
    witan_layer_info_t         info;
    witan_group_info_t         group;
    wtn_skew_t                *skew;
    int64_t                    token_count; /* of this rank */
    int32_t                   *ids;         /* [T, K] */
    float                     *weights;
    char                      *hidden, *output, *expected; /* [T, H] */
    double                    *slot;                       /* [ranks] */
    json_t                    *results;
    int64_t                    wrong_count;
} bench_t;

/* Steps of one kind. */
typedef struct phase {
    const char *name;
    int64_t     step_count, step_max;
    double     *seconds; /* [step_max], the slowest rank's */
    double     *experts; /* [step_max] likewise of the experts alone */
    int64_t     wrong_count;
    double      imbalance;
    int64_t     moved_bytes; /* between ranks */
} phase_t;

/* ---- the layer ---- */

/* A rank has its run of the experts in its first slots and copies of them in the others: no load
 * is shared. */
static witan_status_t fill_slots(bench_t *bench)
{
    int64_t experts = bench->model.config.expert_count, ranks = bench->group.expert_parallel;

    bench->slot_count = (int32_t)bench->options->slot_count;
    if (bench->slot_count == 0) { /* a quarter more, the same number everywhere */
        bench->slot_count = (int32_t)(wtn_ceil_div(experts * 5, 4 * ranks) * ranks);
    } else if (bench->slot_count < experts) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--slots: expected 0 or at least the %" PRId64 " experts, found %" PRId32,
                         experts, bench->slot_count);
    }
    bench->slot_expert = calloc((size_t)bench->slot_count, sizeof(*bench->slot_expert));
    if (bench->slot_expert == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "bench: %" PRId32 " slots", bench->slot_count);
    }
    for (int64_t r = 0; r < ranks; r++) {
        int64_t first = wtn_part_begin(experts, ranks, r);
        int64_t held  = wtn_part_begin(experts, ranks, r + 1) - first;
        int64_t begin = wtn_part_begin(bench->slot_count, ranks, r);

        for (int64_t s = begin; s < wtn_part_begin(bench->slot_count, ranks, r + 1); s++) {
            bench->slot_expert[s] = (int32_t)(held > 0 ? first + (s - begin) % held : s % experts);
        }
    }
    return WITAN_OK;
}

static witan_status_t make_tokens(bench_t *bench)
{
    const witan_layer_config_t *config = &bench->info.config;
    int64_t most = bench->options->token_count, rank = bench->group.expert_index;
    size_t  routed, values;

    rank += (int64_t)bench->group.data_index * bench->group.expert_parallel;
    bench->token_count = most;
    if (!wtn_mul((size_t)most, (size_t)config->topk, &routed) ||
        !wtn_mul((size_t)most, (size_t)config->hidden_size, &values)) {
        routed = values = SIZE_MAX / 16;
    }
    bench->ids      = calloc(routed, sizeof(*bench->ids));
    bench->weights  = calloc(routed, sizeof(*bench->weights));
    bench->hidden   = wtn_alloc(values * witan_dtype_bytes(config->dtype));
    bench->output   = wtn_alloc(values * witan_dtype_bytes(config->dtype));
    bench->expected = wtn_alloc(values * witan_dtype_bytes(config->dtype));
    bench->slot     = calloc(2 * (size_t)bench->session->size, sizeof(*bench->slot));
    if (bench->ids == NULL || bench->weights == NULL || bench->hidden == NULL ||
        bench->output == NULL || bench->expected == NULL || bench->slot == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "bench: %" PRId64 " tokens", most);
    }
    bench->token_count =
        wtn_skew_token_count(bench->skew, (int32_t)rank,
                             bench->group.expert_parallel * bench->group.data_parallel, most);
    wtn_skew_fill(bench->skew, rank * most, bench->token_count, bench->ids);
    for (size_t i = 0; i < routed; i++) {
        bench->weights[i] = 1.0f / (float)config->topk;
    }
    wtn_synthetic_fill(bench->hidden, config->dtype, INPUT_SEED + (uint64_t)rank, 0, values, 1.0f);
    return WITAN_OK;
}

static witan_status_t make_layer(bench_t *bench)
{
    const rebalance_options_t *options = bench->options;
    witan_plan_config_t        plan    = wtn_plan_config_make(&options->plan);
    witan_status_t             status;

    bench->info.struct_bytes  = sizeof(bench->info);
    bench->group.struct_bytes = sizeof(bench->group);
    WTN_TRY(wtn_bench_json_probe(bench->session, &options->bench));
    WTN_TRY(witan_group_query(bench->session->group, &bench->group));
    status = wtn_bench_model_open(&bench->model, &options->bench, &options->session);
    if (status == WITAN_OK) {
        status = wtn_plan_options_check(&options->plan, bench->model.config.topk);
    }
    if (status == WITAN_OK) {
        status = fill_slots(bench);
    }
    if (status == WITAN_OK) {
        status = wtn_skew_open(&bench->skew, options->skew, bench->model.config.expert_count,
                               bench->model.config.topk, (uint64_t)options->seed);
    }
    WTN_TRY(wtn_session_agree_usage(bench->session, status));
    bench->model.config.slot_count  = bench->slot_count;
    bench->model.config.slot_expert = bench->slot_expert;
    WTN_TRY(witan_layer_create(&bench->layer, bench->session->group, &bench->model.config,
                               &bench->model.weights));
    WTN_TRY(witan_layer_info(bench->layer, &bench->info));
    WTN_TRY(wtn_session_agree(bench->session, make_tokens(bench)));
    plan.token_count_max = options->token_count;
    WTN_TRY(witan_plan_create(&bench->plan, bench->layer, &plan));

fail:
    return status;
}

static void free_bench(bench_t *bench)
{
    witan_plan_destroy(bench->plan);
    witan_layer_destroy(bench->layer);
    wtn_skew_close(bench->skew);
    wtn_bench_model_close(&bench->model);
    json_decref(bench->results);
    free(bench->slot_expert);
    if (bench->session->comm == NULL || bench->session->comm->broken) {
        return; /* a late peer may still write to what follows */
    }
    free(bench->ids);
    free(bench->weights);
    wtn_free(bench->hidden);
    wtn_free(bench->output);
    wtn_free(bench->expected);
    free(bench->slot);
}

/* ---- steps ---- */

static witan_status_t make_phase(phase_t *phase, const char *name, int64_t step_max)
{
    *phase = (phase_t){.name     = name,
                       .step_max = step_max,
                       .seconds  = calloc((size_t)step_max, sizeof(double)),
                       .experts  = calloc((size_t)step_max, sizeof(double))};
    return phase->seconds != NULL && phase->experts != NULL
               ? WITAN_OK
               : WTN_ERROR(WITAN_E_MEMORY, "bench: %" PRId64 " steps", step_max);
}

static void free_phase(phase_t *phase)
{
    free(phase->seconds);
    free(phase->experts);
}

static witan_status_t step(bench_t *bench)
{
    const witan_forward_args_t args = {.struct_bytes = sizeof(args),
                                       .token_count  = bench->token_count,
                                       .hidden       = bench->hidden,
                                       .output       = bench->output};

    return wtn_bench_step(bench->plan, &args, bench->ids, bench->weights);
}

/* The step all others are compared with; sampled tokens of it against float64. */
static witan_status_t first_step(bench_t *bench)
{
    const witan_layer_config_t *config = &bench->info.config;
    size_t                      width  = (size_t)config->hidden_size;
    size_t                      topk   = (size_t)config->topk;
    size_t                      row    = width * witan_dtype_bytes(config->dtype);
    int64_t        count     = wtn_min_i64(bench->options->bench.check_count, bench->token_count);
    double        *reference = calloc(width, sizeof(*reference));
    witan_status_t status;

    WTN_TRY(step(bench));
    memcpy(bench->expected, bench->output, (size_t)bench->token_count * row);
    if (reference == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "reference of width %zu", width);
    }
    for (int64_t i = 0; i < count && status == WITAN_OK; i++) {
        size_t token = (size_t)(bench->token_count * i / count);
        double norm;

        status = wtn_reference_layer(config, &bench->model.weights, 1, bench->hidden + token * row,
                                     bench->ids + token * topk, bench->weights + token * topk,
                                     reference, NULL, NULL);
        norm   = wtn_error_norm(bench->output + token * row, config->dtype, reference,
                                config->hidden_size);
        if (status == WITAN_OK && !(norm <= wtn_tolerance(config->dtype))) {
            status = WTN_ERROR(WITAN_E_INTERNAL, "bench: token %zu is wrong by %.2e", token, norm);
        }
    }

fail:
    free(reference);
    return status;
}

/* Keep the time since `start`, the slowest rank's, and compare the output with the first one's. */
static witan_status_t keep_step(bench_t *bench, phase_t *phase, uint64_t start)
{
    witan_stats_t stats   = {.struct_bytes = sizeof(stats)};
    double        mine[2] = {(double)(wtn_now_ns() - start) * 1e-9, 0};
    size_t        bytes   = (size_t)(bench->token_count * bench->info.config.hidden_size) *
                   witan_dtype_bytes(bench->info.config.dtype);
    int64_t        at = phase->step_count;
    witan_status_t status;

    WTN_TRY(witan_plan_stats(bench->plan, &stats));
    mine[1] = (double)stats.phase_ns[WITAN_PHASE_EXPERTS] * 1e-9;
    WTN_TRY(wtn_allgather(bench->session->comm, mine, sizeof(mine), bench->slot, "bench"));
    if (at < phase->step_max) {
        for (int32_t rank = 0; rank < bench->session->size; rank++) {
            const double *theirs = bench->slot + 2 * (size_t)rank;

            phase->seconds[at] = theirs[0] > phase->seconds[at] ? theirs[0] : phase->seconds[at];
            phase->experts[at] = theirs[1] > phase->experts[at] ? theirs[1] : phase->experts[at];
        }
        phase->step_count++;
    }
    phase->wrong_count += bytes > 0 && memcmp(bench->output, bench->expected, bytes) != 0;

fail:
    return status;
}

static witan_status_t run_steps(bench_t *bench, phase_t *phase)
{
    witan_status_t status;

    for (int64_t i = -bench->options->bench.warmup_count; i < phase->step_max; i++) {
        uint64_t start = wtn_now_ns();

        WTN_TRY(step(bench));
        if (i >= 0) {
            WTN_TRY(keep_step(bench, phase, start));
        }
    }
    WTN_TRY(witan_plan_load(bench->plan, NULL, NULL, &phase->imbalance));

fail:
    return status;
}

/* The loads of the last step -> slots. Collective. */
static witan_status_t choose_slots(bench_t *bench)
{
    size_t         experts = (size_t)bench->info.config.expert_count;
    int64_t       *counts  = calloc(experts, sizeof(*counts));
    float         *load    = calloc(experts, sizeof(*load));
    witan_status_t status;

    status = counts == NULL || load == NULL ? WTN_ERROR(WITAN_E_MEMORY, "bench: %zu loads", experts)
                                            : WITAN_OK;
    WTN_TRY(wtn_session_agree(bench->session, status));
    WTN_TRY(witan_plan_load(bench->plan, counts, NULL, NULL));
    for (size_t e = 0; e < experts; e++) {
        load[e] = (float)counts[e];
    }
    status = witan_rebalance_target(bench->layer, load, 0, bench->slot_expert);
    WTN_TRY(wtn_session_agree(bench->session, status));

fail:
    free(counts);
    free(load);
    return status;
}

/* Steps, with an advance behind each and a commit behind every few, until all have swapped. */
static witan_status_t run_moving(bench_t *bench, phase_t *phase)
{
    witan_rebalance_config_t config;
    witan_rebalance_info_t   info      = {.struct_bytes = sizeof(info)};
    witan_rebalance_t       *rebalance = NULL;
    bool                     committed = false;
    witan_status_t           status;

    WTN_TRY(choose_slots(bench));
    witan_rebalance_config_init(&config);
    config.slot_expert    = bench->slot_expert;
    config.bytes_per_step = bench->options->step_bytes;
    WTN_TRY(witan_rebalance_begin(&rebalance, bench->layer, &config));
    for (int64_t i = 1; !committed; i++) {
        uint64_t start = wtn_now_ns();

        WTN_TRY(step(bench));
        WTN_TRY(witan_rebalance_advance(rebalance, NULL));
        if (i % bench->options->commit_every == 0) {
            WTN_TRY(witan_rebalance_commit(rebalance, &committed));
        }
        WTN_TRY(keep_step(bench, phase, start));
    }
    WTN_TRY(witan_rebalance_info(rebalance, &info));
    phase->moved_bytes = info.recv_bytes;

fail:
    witan_rebalance_destroy(rebalance);
    return status;
}

/* ---- figures ---- */

static witan_status_t report(bench_t *bench, phase_t *phase)
{
    size_t         count = (size_t)phase->step_count;
    double         best, p50, most, experts;
    int64_t        sums[2] = {phase->wrong_count, phase->moved_bytes}, *all;
    json_t        *result;
    witan_status_t status;

    all    = calloc(2 * (size_t)bench->session->size, sizeof(*all));
    status = all == NULL ? WTN_ERROR(WITAN_E_MEMORY, "bench: ranks") : WITAN_OK;
    WTN_TRY(wtn_session_agree(bench->session, status));
    WTN_TRY(wtn_allgather(bench->session->comm, sums, sizeof(sums), all, "bench"));
    sums[0] = sums[1] = 0;
    for (int32_t rank = 0; rank < bench->session->size; rank++) {
        sums[0] += all[2 * rank];
        sums[1] += all[2 * rank + 1];
    }
    bench->wrong_count += sums[0];
    best    = wtn_bench_quantile(phase->seconds, count, 0);
    p50     = wtn_bench_quantile(phase->seconds, count, 0.5);
    most    = wtn_bench_quantile(phase->seconds, count, 1);
    experts = wtn_bench_quantile(phase->experts, count, 0.5);
    if (bench->session->rank == 0) {
        printf("  %8s %6" PRId64 " %10.1f %10.1f %10.1f %10.1f %9.3f %9.1f %6" PRId64 "\n",
               phase->name, phase->step_count, best * 1e6, p50 * 1e6, most * 1e6, experts * 1e6,
               phase->imbalance, (double)sums[1] * 1e-6, sums[0]);
        (void)fflush(stdout);
        result = json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:I, s:I}", "phase", phase->name,
                           "steps", (json_int_t)phase->step_count, "min_us", best * 1e6, "p50_us",
                           p50 * 1e6, "max_us", most * 1e6, "experts_p50_us", experts * 1e6,
                           "imbalance", phase->imbalance, "moved_bytes", (json_int_t)sums[1],
                           "wrong", (json_int_t)sums[0]);
        if (json_array_append_new(bench->results, result) != 0) {
            status = WTN_ERROR(WITAN_E_MEMORY, "the JSON result could not be made");
        }
    }

fail:
    free(all);
    return status;
}

static void print_header(const bench_t *bench)
{
    const witan_layer_config_t *config = &bench->info.config;

    if (bench->session->rank != 0) {
        return;
    }
    printf("# witan bench rebalance: E %" PRId32 " in %" PRId32 " slot%s, K %" PRId32 ", H %" PRId64
           ", I %" PRId64 ", %s, %s %s, %" PRId32 " rank%s (ep %" PRId32 ", tp %" PRId32
           ", dp %" PRId32 ") x %" PRId32 " thread%s, %s\n",
           config->expert_count, bench->slot_count, wtn_plural(bench->slot_count), config->topk,
           config->hidden_size, config->inter_size, witan_dtype_name(config->dtype),
           bench->info.backend, bench->info.kernel_tier, bench->group.size,
           wtn_plural(bench->group.size), bench->group.expert_parallel,
           bench->group.tensor_parallel, bench->group.data_parallel, bench->group.thread_count,
           wtn_plural(bench->group.thread_count), bench->group.transport);
    printf("# %" PRId64 " token%s of each rank, routed by %s, seed %" PRId64 "; at most %" PRId64
           " bytes under way each way, a commit every %" PRId64 " step%s\n",
           bench->options->token_count, wtn_plural(bench->options->token_count),
           bench->options->skew, bench->options->seed, bench->options->step_bytes,
           bench->options->commit_every, wtn_plural(bench->options->commit_every));
    printf("# times: of the slowest rank; moving: with advance and commit; experts: median; "
           "imbalance: max / mean of rows over ranks\n"
           "# #wrong: steps whose output differs by a bit from the first one's\n");
    printf("# %8s %6s %10s %10s %10s %10s %9s %9s %6s\n", "phase", "steps", "min_us", "p50_us",
           "max_us", "experts_us", "imbalance", "moved_MB", "#wrong");
}

static witan_status_t write_json(bench_t *bench)
{
    json_t *root = wtn_bench_json_begin("rebalance", &bench->options->bench, &bench->info.config);
    json_t *facts;

    facts = json_pack("{s:i, s:i, s:i, s:i, s:i, s:I, s:s, s:s, s:I, s:O}", "ranks",
                      (int)bench->group.size, "expert_parallel", (int)bench->group.expert_parallel,
                      "tensor_parallel", (int)bench->group.tensor_parallel, "threads",
                      (int)bench->group.thread_count, "slots", (int)bench->slot_count, "tokens",
                      (json_int_t)bench->options->token_count, "transport", bench->group.transport,
                      "skew", bench->options->skew, "bytes_per_step",
                      (json_int_t)bench->options->step_bytes, "results", bench->results);
    return wtn_bench_json_end(bench->options->bench.json, root, facts);
}

/* ---- the whole ---- */

static witan_status_t run_phases(bench_t *bench)
{
    int64_t        steps  = bench->options->bench.iteration_count;
    phase_t        before = {0}, moving = {0}, after = {0};
    witan_status_t status = make_phase(&before, "before", steps);

    if (status == WITAN_OK) {
        status = make_phase(&moving, "moving", 100000);
    }
    if (status == WITAN_OK) {
        status = make_phase(&after, "after", steps);
    }
    WTN_TRY(wtn_session_agree(bench->session, status));
    WTN_TRY(wtn_session_agree(bench->session, first_step(bench)));
    WTN_TRY(run_steps(bench, &before));
    WTN_TRY(report(bench, &before));
    moving.imbalance = before.imbalance;
    WTN_TRY(run_moving(bench, &moving));
    WTN_TRY(report(bench, &moving));
    WTN_TRY(run_steps(bench, &after));
    WTN_TRY(report(bench, &after));

fail:
    free_phase(&before);
    free_phase(&moving);
    free_phase(&after);
    return status;
}

static witan_status_t run_bench(bench_t *bench)
{
    witan_status_t status;

    bench->results        = json_array();
    bench->session->phase = "bench";
    WTN_TRY(make_layer(bench));
    print_header(bench);
    WTN_TRY(run_phases(bench));
    if (bench->session->rank == 0 && bench->options->bench.json != NULL) {
        status = write_json(bench);
    }
    if (status == WITAN_OK && bench->wrong_count > 0) {
        status =
            WTN_ERROR(WITAN_E_INTERNAL, "bench: %" PRId64 " steps are wrong", bench->wrong_count);
    }
    WTN_TRY(wtn_session_agree(bench->session, status));

fail:
    free_bench(bench);
    return status;
}

int wtn_bench_rebalance(int argc, char **argv)
{
    rebalance_options_t options = {0};
    wtn_option_t        table[] = {
               WTN_OPT_TEXT("skew", "KIND", "zipf:1.2", &options.skew,
                            "routing: uniform, zipf:S, hot:E, balanced, zero-rank or trace:FILE"),
               WTN_OPT_INTEGER("seed", "N", "1", 0, INT64_MAX, &options.seed, "of the routing"),
               WTN_OPT_INTEGER("tokens", "N", "1024", 1, 1 << 24, &options.token_count,
                               "tokens of each rank"),
               WTN_OPT_INTEGER("slots", "R", "0", 0, 1 << 24, &options.slot_count,
                               "slots of experts; 0: a quarter more than experts, as many on each rank"),
               WTN_OPT_INTEGER("step-bytes", "N", "16777216", 4096, INT64_MAX, &options.step_bytes,
                               "bytes of weights under way in each direction"),
               WTN_OPT_INTEGER("commit-every", "N", "4", 1, 1 << 20, &options.commit_every,
                               "steps between two attempts to swap"),
               WTN_BENCH_OPTIONS(&options.bench, "tokens of each rank compared with float64"),
               WTN_PLAN_OPTIONS(&options.plan),
               WTN_SESSION_HOST_OPTIONS(&options.session),
    };
    const wtn_command_t command = {
        "bench rebalance", "Measure a layer before, while and after its experts are balanced.",
        table, WTN_COUNT_OF(table)};
    wtn_session_t  session;
    bench_t        bench = {.session = &session, .options = &options};
    witan_status_t status;
    bool           help;

    status = wtn_options_parse(&command, argc, argv, &help);
    if (help) {
        return wtn_options_help(&command);
    }
    if (status == WITAN_OK) {
        status = wtn_bench_check_options(&command, &options.bench);
    }
    if (status == WITAN_OK) {
        status = wtn_skew_check("--skew", options.skew);
    }
    if (status == WITAN_OK) {
        status = wtn_session_host_only(&options.session, "as only the host moves experts");
    }
    status = wtn_session_begin(&session, &command, &options.session, status);
    if (status == WITAN_OK) {
        status = run_bench(&bench);
    }
    return wtn_session_end(&session, status);
}

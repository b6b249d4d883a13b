/* Kernels: a layer of this rank alone, by rows per expert; the phases are those the layer tells. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/backend.h"
#include "kernels/tier.h"
#include "launcher/calibrate.h"
#include "launcher/synthetic.h"

#define SEED         3
#define GATE_EXPERTS 128 /* of the second gate: the first has the layer's experts */
#define GATE_TOKENS  1024
#define GATE_WIDTH   16

static const int64_t rows_of[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};

/* Where memory is the limit all experts are used, so that no cache holds them; else a few, so that
 * a step is short: the best of several then is one that nothing interrupted. */
#define MANY_ROWS   32
#define FEW_EXPERTS 1

/* A layer and a plan of this process alone. */
typedef struct bench {
    witan_layer_config_t config;
    wtn_synthetic_t      synthetic;
    witan_group_t       *group;
    witan_layer_t       *layer;
    witan_plan_t        *plan;
    int64_t              token_max;
    char                *hidden, *output;
    int32_t             *ids;
    float               *weights;
} bench_t;

static void free_bench(bench_t *bench)
{
    witan_plan_destroy(bench->plan);
    witan_layer_destroy(bench->layer);
    witan_group_destroy(bench->group);
    wtn_free(bench->hidden);
    wtn_free(bench->output);
    free(bench->ids);
    free(bench->weights);
}

static witan_status_t make_bench(bench_t *bench, const wtn_calibrate_words_t *words,
                                 int32_t expert_count, int64_t inter_size, int64_t token_max)
{
    witan_group_config_t group;
    witan_plan_config_t  plan;
    witan_weights_t      weights;
    size_t               values;
    witan_status_t       status;

    memset(bench, 0, sizeof(*bench));
    witan_group_config_init(&group);
    witan_plan_config_init(&plan);
    witan_layer_config_init(&bench->config);
    group.thread_count         = (int32_t)words->session.thread_count;
    plan.token_count_max       = token_max;
    bench->token_max           = token_max;
    bench->config.expert_count = expert_count;
    bench->config.topk         = (int32_t)wtn_min_i64(words->topk, expert_count);
    bench->config.hidden_size  = words->hidden_size;
    bench->config.inter_size   = inter_size;
    bench->config.dtype        = (witan_dtype_t)words->dtype;
    bench->config.router_dtype = bench->config.dtype;
    bench->config.backend      = "host";
    bench->config.kernel_tier  = words->session.kernel_tier;
    bench->synthetic           = (wtn_synthetic_t){&bench->config, SEED};
    weights                    = wtn_synthetic_weights(&bench->synthetic);
    WTN_TRY(witan_group_create_self(&bench->group, &group));
    WTN_TRY(witan_layer_create(&bench->layer, bench->group, &bench->config, &weights));
    WTN_TRY(witan_plan_create(&bench->plan, bench->layer, &plan));
    values         = (size_t)token_max * (size_t)words->hidden_size;
    bench->hidden  = wtn_alloc(values * witan_dtype_bytes(bench->config.dtype));
    bench->output  = wtn_alloc(values * witan_dtype_bytes(bench->config.dtype));
    bench->ids     = calloc((size_t)(token_max * bench->config.topk), sizeof(*bench->ids));
    bench->weights = calloc((size_t)(token_max * bench->config.topk), sizeof(*bench->weights));
    if (bench->hidden == NULL || bench->output == NULL || bench->ids == NULL ||
        bench->weights == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "calibrate: %" PRId64 " tokens", token_max);
    }
    wtn_synthetic_fill(bench->hidden, bench->config.dtype, SEED, 0, values, 1.0f);
    for (int64_t i = 0; i < token_max * bench->config.topk; i++) {
        bench->weights[i] = 1.0f / (float)bench->config.topk;
    }

fail:
    return status;
}

/* One step of `tokens` tokens whose rows fall evenly on the experts; phases in seconds. */
static witan_status_t step(bench_t *bench, int64_t tokens, double phases[WITAN_PHASE_COUNT])
{
    witan_stats_t  stats = {.struct_bytes = sizeof(stats)};
    witan_status_t status;

    WTN_TRY(witan_plan_import(bench->plan, tokens, bench->ids, bench->weights));
    WTN_TRY(witan_dispatch(bench->plan, bench->hidden));
    WTN_TRY(witan_experts(bench->plan));
    WTN_TRY(witan_combine(bench->plan, bench->output));
    WTN_TRY(witan_plan_stats(bench->plan, &stats));
    for (int i = 0; i < WITAN_PHASE_COUNT; i++) {
        phases[i] = (double)stats.phase_ns[i] * 1e-9;
    }

fail:
    return status;
}

static void keep_least(double *best, double seconds)
{
    *best = seconds < *best ? seconds : *best;
}

static int32_t experts_used(const witan_layer_config_t *config, int64_t rows)
{
    return (int32_t)wtn_min_i64(config->expert_count,
                                rows < MANY_ROWS ? config->expert_count : FEW_EXPERTS);
}

/* Seconds of the experts at each number of rows, for one expert; and the rates of plan and combine
 * at the most rows. */
static witan_status_t time_experts(wtn_calibrate_t *calibrate, bench_t *bench, int32_t together,
                                   double *seconds)
{
    const witan_layer_config_t *config  = &bench->config;
    wtn_scale_machine_t        *machine = &calibrate->machine;
    double row_bytes = (double)config->hidden_size * (double)witan_dtype_bytes(config->dtype);
    double phases[WITAN_PHASE_COUNT];
    witan_status_t status = WITAN_OK;

    machine->experts.count = WTN_COUNT_OF(rows_of);
    for (size_t i = 0; i < WTN_COUNT_OF(rows_of); i++) {
        int32_t used   = experts_used(config, rows_of[i]);
        int64_t tokens = wtn_ceil_div(rows_of[i] * used, config->topk);
        double  rows = (double)(tokens * config->topk), plan = 1e9, combine = 1e9;

        for (int64_t row = 0; row < tokens * config->topk; row++) {
            bench->ids[row] = (int32_t)(row % used);
        }
        seconds[i] = 1e9;
        for (int64_t r = 0; r < calibrate->words->round_count; r++) {
            WTN_TRY(wtn_calibrate_meet(calibrate->session, together));
            WTN_TRY(step(bench, tokens, phases));
            keep_least(&seconds[i], phases[WITAN_PHASE_EXPERTS] / used);
            keep_least(&plan, phases[WITAN_PHASE_PLAN]);
            keep_least(&combine, phases[WITAN_PHASE_COMBINE]);
        }
        machine->experts.at[i] = rows / used;
        machine->plan_row_s    = plan / rows;
        machine->combine_rate  = rows * row_bytes / combine;
    }

fail:
    return status;
}

/* Shares of the roofline. Experts may have shown more than the yardsticks did, where these were
 * interrupted: the roof is what was seen. */
static void make_curve(wtn_scale_machine_t *machine, const witan_layer_config_t *config,
                       double *memory_rate, double *seconds)
{
    wtn_scale_curve_t *curve  = &machine->experts;
    double             values = 3.0 * (double)config->hidden_size * (double)config->inter_size;
    double             bytes  = values * (double)witan_dtype_bytes(config->dtype);

    /* Fewer rows take no longer: where they did, something interrupted them. */
    for (int32_t i = curve->count - 2; i >= 0; i--) {
        keep_least(&seconds[i], seconds[i + 1]);
    }
    for (int32_t i = 0; i < curve->count; i++) {
        double flops = 2 * values * curve->at[i] / seconds[i];
        double read  = bytes / seconds[i];

        machine->peak_flops = flops > machine->peak_flops ? flops : machine->peak_flops;
        *memory_rate        = curve->at[i] < MANY_ROWS && read > *memory_rate ? read : *memory_rate;
    }
    for (int32_t i = 0; i < curve->count; i++) {
        double flops    = 2 * values * curve->at[i] / machine->peak_flops;
        double memory   = bytes / *memory_rate;
        curve->value[i] = (flops > memory ? flops : memory) / seconds[i];
    }
}

static witan_status_t time_gather(const wtn_calibrate_t *calibrate, bench_t *bench, double *rate)
{
    const wtn_backend_t *backend = &wtn_backend_host;
    size_t   row_bytes = (size_t)bench->config.hidden_size * witan_dtype_bytes(bench->config.dtype);
    int64_t *index     = calloc((size_t)bench->token_max, sizeof(*index));
    wtn_gather_args_t args = {
        .x            = bench->hidden,
        .index        = index,
        .row_count    = bench->token_max,
        .row_bytes    = row_bytes,
        .out          = bench->output,
        .thread_count = (int32_t)calibrate->machine.threads,
    };
    double         best   = 1e9;
    witan_status_t status = WITAN_OK;

    if (index == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "calibrate: %" PRId64 " tokens", bench->token_max);
    }
    for (int64_t i = 0; i < bench->token_max; i++) {
        index[i] = i * 7 % bench->token_max;
    }
    for (int64_t r = 0; r < calibrate->words->round_count && status == WITAN_OK; r++) {
        uint64_t start = wtn_now_ns();

        status = backend->gather(&args);
        keep_least(&best, (double)(wtn_now_ns() - start) * 1e-9);
    }
    *rate = (double)bench->token_max * (double)row_bytes / best;
    free(index);
    return status;
}

static witan_status_t time_route(const wtn_calibrate_t *calibrate, bench_t *bench, int64_t tokens,
                                 double *seconds)
{
    witan_stats_t  stats  = {.struct_bytes = sizeof(stats)};
    witan_status_t status = WITAN_OK;

    *seconds = 1e9;
    for (int64_t r = 0; r < calibrate->words->round_count; r++) {
        witan_forward_args_t args = {sizeof(args), tokens, bench->hidden, bench->output};

        WTN_TRY(witan_forward(bench->plan, &args));
        WTN_TRY(witan_plan_stats(bench->plan, &stats));
        keep_least(seconds, (double)stats.phase_ns[WITAN_PHASE_ROUTE] * 1e-9);
    }

fail:
    return status;
}

/* Two gates give the cost of a token and the rate of the product, top-k in it. */
static witan_status_t time_gates(wtn_calibrate_t *calibrate, bench_t *bench)
{
    wtn_scale_machine_t *machine = &calibrate->machine;
    int64_t              tokens  = wtn_min_i64(GATE_TOKENS, bench->token_max);
    bench_t              other;
    double               few, many, slope, per_flop = 2.0 * (double)bench->config.hidden_size;
    witan_status_t       status;

    WTN_TRY(make_bench(&other, calibrate->words, GATE_EXPERTS, GATE_WIDTH, tokens));
    WTN_TRY(time_route(calibrate, bench, tokens, &few));
    WTN_TRY(time_route(calibrate, &other, tokens, &many));
    few /= (double)tokens;
    many /= (double)tokens;
    slope = (many - few) / (GATE_EXPERTS - bench->config.expert_count);
    if (!(slope > 0)) {
        slope = many / GATE_EXPERTS;
    }
    machine->route_expert_s = 0;
    machine->route_flops    = per_flop / slope;
    machine->route_token_s  = few - slope * bench->config.expert_count;
    machine->route_token_s  = machine->route_token_s > 0 ? machine->route_token_s : 0;

fail:
    free_bench(&other);
    return status;
}

/* A step without tokens. */
static witan_status_t time_empty(const wtn_calibrate_t *calibrate, bench_t *bench, double *seconds)
{
    witan_status_t status = WITAN_OK;

    *seconds = 1e9;
    for (int64_t r = 0; r < 20 * calibrate->words->round_count; r++) {
        witan_forward_args_t args  = {sizeof(args), 0, bench->hidden, bench->output};
        uint64_t             start = wtn_now_ns();

        WTN_TRY(witan_forward(bench->plan, &args));
        keep_least(seconds, (double)(wtn_now_ns() - start) * 1e-9);
    }

fail:
    return status;
}

/* The yardsticks, best of several. */
static witan_status_t time_roof(wtn_calibrate_t *calibrate, int32_t together, double *peak,
                                double *rate)
{
    const wtn_calibrate_words_t *words   = calibrate->words;
    const wtn_backend_t         *host    = &wtn_backend_host;
    int32_t                      threads = (int32_t)calibrate->machine.threads;
    const wtn_tier_t            *tier;
    witan_status_t               status;

    *peak = *rate = 0;
    WTN_TRY(wtn_tier_choose(host->tiers, words->session.kernel_tier, (witan_dtype_t)words->dtype,
                            &tier));
    for (int64_t r = 0; r < words->round_count; r++) {
        double one;

        WTN_TRY(wtn_calibrate_meet(calibrate->session, together));
        one   = host->peak(tier, (witan_dtype_t)words->dtype, threads);
        *peak = one > *peak ? one : *peak;
        WTN_TRY(wtn_calibrate_meet(calibrate->session, together));
        one   = host->read_bandwidth(wtn_bench_read_bytes(), threads);
        *rate = one > *rate ? one : *rate;
    }

fail:
    return status;
}

witan_status_t wtn_calibrate_kernels(wtn_calibrate_t *calibrate, int32_t together)
{
    const wtn_calibrate_words_t *words   = calibrate->words;
    wtn_scale_machine_t         *machine = &calibrate->machine;
    int64_t token_max = rows_of[WTN_COUNT_OF(rows_of) - 1] * FEW_EXPERTS + words->expert_count;
    bench_t bench;
    double  rate, seconds[WTN_COUNT_OF(rows_of)];
    witan_status_t status;

    WTN_TRY(make_bench(&bench, words, (int32_t)words->expert_count, words->inter_size, token_max));
    WTN_TRY(time_roof(calibrate, together, &machine->peak_flops, &rate));
    WTN_TRY(time_experts(calibrate, &bench, together, seconds));
    make_curve(machine, &bench.config, &rate, seconds);
    if (together == 1) {
        machine->memory_rate      = rate;
        machine->memory_rate_node = 0;
    } else {
        machine->memory_rate_node = rate * together;
    }
    WTN_TRY(time_gather(calibrate, &bench, &machine->gather_rate));
    WTN_TRY(time_gates(calibrate, &bench));
    WTN_TRY(time_empty(calibrate, &bench, &machine->step_s));

fail:
    free_bench(&bench);
    return status;
}

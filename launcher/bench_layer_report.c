/* witan bench layer: lines, header and JSON. */
#include <inttypes.h>
#include <stdio.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/reference.h"
#include "launcher/bench_layer.h"

/* Useful operations of all ranks in one iteration: experts, shared expert and router. */
static double total_flops(const wtn_layer_bench_t *bench, int64_t token_count)
{
    const witan_layer_config_t *config = &bench->info.config;
    double                      row    = wtn_bench_row_flops(config);
    bool   scattered = bench->options->plan.tensor_exchange == WITAN_TENSOR_SCATTER;
    double tokens    = (double)token_count / (scattered ? 1 : bench->group.tensor_parallel);
    double per_token = row * config->topk;

    per_token += row / (double)config->inter_size * (double)config->shared_inter_size;
    per_token += bench->skew != NULL ? 0 : 2.0 * (double)config->hidden_size * config->expert_count;
    return tokens * per_token;
}

static json_t *make_result(const wtn_layer_workload_t *load, double rate, double of_peak,
                           double peak, double imbalance, const wtn_layer_tally_t *sum)
{
    json_t *phases = json_object();
    json_t *result;

    for (int phase = 0; phase < WITAN_PHASE_COUNT && phases != NULL; phase++) {
        (void)json_object_set_new(phases, witan_phase_name((witan_phase_t)phase),
                                  json_real(sum->phase_ns[phase] * 1e-3));
    }
    result =
        json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I}", "tokens",
                  (json_int_t)load->token_count, "min_us", load->best * 1e6, "p50_us",
                  load->p50 * 1e6, "p99_us", load->p99 * 1e6, "gflops", rate * 1e-9, "peak_gflops",
                  peak * 1e-9, "fraction_of_peak", of_peak, "imbalance", imbalance, "wrong",
                  (json_int_t)sum->wrong_count, "checked", (json_int_t)sum->checked_count);
    if (result != NULL && load->graph.device == NULL) {
        (void)json_object_set(result, "phases_us", phases);
    }
    json_decref(phases);
    return result;
}

static wtn_layer_tally_t sum_tallies(const wtn_layer_bench_t    *bench,
                                     const wtn_layer_workload_t *load, int64_t *row_most)
{
    wtn_layer_tally_t sum = {0};

    *row_most = 0;
    for (int32_t rank = 0; rank < bench->session->size; rank++) {
        const wtn_layer_tally_t *tally = &load->all[rank];

        sum.peak += tally->peak;
        sum.token_count += tally->token_count;
        sum.row_count += tally->row_count;
        sum.wrong_count += tally->wrong_count;
        sum.checked_count += tally->checked_count;
        *row_most = wtn_max_i64(*row_most, tally->row_count);
        for (int phase = 0; phase < WITAN_PHASE_COUNT; phase++) {
            sum.phase_ns[phase] += tally->phase_ns[phase] / bench->session->size;
        }
    }
    return sum;
}

witan_status_t wtn_layer_report(wtn_layer_bench_t *bench, const wtn_layer_workload_t *load)
{
    int64_t           row_most;
    wtn_layer_tally_t sum     = sum_tallies(bench, load, &row_most);
    double            rate    = total_flops(bench, sum.token_count) / load->p50;
    double            of_peak = sum.peak > 0 ? rate / sum.peak : 0;
    double            imbalance =
        sum.row_count == 0 ? 1.0 : (double)row_most * bench->session->size / (double)sum.row_count;

    bench->wrong_count += sum.wrong_count;
    if (bench->session->rank != 0) {
        return WITAN_OK;
    }
    printf("  %8" PRId64 " %10.1f %10.1f %10.1f %9.1f %9.1f %6.1f", load->token_count,
           load->best * 1e6, load->p50 * 1e6, load->p99 * 1e6, rate * 1e-9, sum.peak * 1e-9,
           of_peak * 100);
    for (int phase = 0; phase < WITAN_PHASE_COUNT; phase++) {
        if (bench->options->graph) {
            printf(" %9s", "-");
        } else {
            printf(" %9.1f", sum.phase_ns[phase] * 1e-3);
        }
    }
    printf(" %9.3f %6" PRId64 "\n", imbalance, sum.wrong_count);
    (void)fflush(stdout);
    if (bench->options->bench.json != NULL &&
        json_array_append_new(bench->results,
                              make_result(load, rate, of_peak, sum.peak, imbalance, &sum)) != 0) {
        return WTN_ERROR(WITAN_E_MEMORY, "the JSON result could not be made");
    }
    return WITAN_OK;
}

witan_status_t wtn_layer_print_header(wtn_layer_bench_t *bench, const witan_plan_t *plan)
{
    const witan_layer_config_t *config = &bench->info.config;
    witan_stats_t               stats  = {.struct_bytes = sizeof(stats)};
    char                        way[WTN_EXCHANGE_TEXT_BYTES];
    witan_status_t              status = witan_plan_stats(plan, &stats);

    if (status != WITAN_OK || bench->headed || bench->session->rank != 0) {
        return status;
    }
    bench->headed    = true;
    bench->exchange  = stats.exchange;
    bench->transport = stats.transport;
    wtn_exchange_text(way, stats.exchange, stats.transport);
    printf("# witan bench layer: E %" PRId32 ", K %" PRId32 ", H %" PRId64 ", I %" PRId64
           ", shared %" PRId64 ", %s, %s %s, %" PRId32 " rank%s (ep %" PRId32 ", tp %" PRId32
           ", dp %" PRId32 ") x %" PRId32 " thread%s, %s, %" PRId64 " iteration%s\n",
           config->expert_count, config->topk, config->hidden_size, config->inter_size,
           config->shared_inter_size, witan_dtype_name(config->dtype), bench->info.backend,
           bench->info.kernel_tier, bench->group.size, bench->group.size == 1 ? "" : "s",
           bench->group.expert_parallel, bench->group.tensor_parallel, bench->group.data_parallel,
           bench->group.thread_count, bench->group.thread_count == 1 ? "" : "s", way,
           bench->options->bench.iteration_count,
           bench->options->bench.iteration_count == 1 ? "" : "s");
    wtn_bench_print_device(bench->device);
    if (bench->options->graph) {
        printf("# times: replays of one captured step, whose phases are not told apart\n");
    }
    if (bench->skew != NULL) {
        printf("# routing: %s, seed %" PRId64 ", in place of the gate's\n", bench->options->skew,
               bench->options->seed);
    }
    printf(
        "# tokens: of each rank; times: of the slowest rank; phases: median, mean over ranks, us; "
        "GFLOP/s: useful ones of all ranks\n");
    printf("# peak: %s of all ranks at once, measured in turns; "
           "imbalance: max / mean of rows over ranks\n",
           bench->backend->device != NULL ? "a large cuBLAS product"
                                          : "multiply-adds on registers");
    printf("# #wrong: tokens beyond the tolerance %.0e of float64, of %" PRId64
           " checked on each rank\n",
           wtn_tolerance(config->dtype), bench->options->bench.check_count);
    printf("# %8s %10s %10s %10s %9s %9s %6s", "tokens", "min_us", "p50_us", "p99_us", "GFLOP/s",
           "peak", "%peak");
    for (int phase = 0; phase < WITAN_PHASE_COUNT; phase++) {
        printf(" %9s", witan_phase_name((witan_phase_t)phase));
    }
    printf(" %9s %6s\n", "imbalance", "#wrong");
    return WITAN_OK;
}

witan_status_t wtn_layer_write_json(wtn_layer_bench_t *bench)
{
    json_t *root = wtn_bench_json_begin("layer", &bench->options->bench, &bench->info.config);
    json_t *facts;

    facts =
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:s, s:b, s:s, s:s?, s:s, s:s?, s:s?, s:O}", "ranks",
                  (int)bench->group.size, "expert_parallel", (int)bench->group.expert_parallel,
                  "tensor_parallel", (int)bench->group.tensor_parallel, "data_parallel",
                  (int)bench->group.data_parallel, "threads", (int)bench->group.thread_count,
                  "backend", bench->info.backend, "graph", (int)bench->options->graph,
                  "kernel_tier", bench->info.kernel_tier, "exchange",
                  wtn_exchange_name(bench->exchange), "transport", bench->transport, "device",
                  bench->device[0] == '\0' ? NULL : bench->device, "skew", bench->options->skew,
                  "results", bench->results);
    return wtn_bench_json_end(bench->options->bench.json, root, facts);
}

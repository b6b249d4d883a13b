#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/group.h"
#include "core/error.h"
#include "core/util.h"
#include "launcher/bench_comm.h"
#include "launcher/output.h"

/* The columns of one direction, and what they are called in --csv and --json. */
typedef struct columns {
    double p50_us, p99_us, logical, wire, between, raw_p50_us, ratio;
} columns_t;

static columns_t columns_of(const wtn_comm_figures_t *figures)
{
    double per_us = figures->p50 > 0 ? 1e-9 / figures->p50 : 0;

    return (columns_t){
        .p50_us     = figures->p50 * 1e6,
        .p99_us     = figures->p99 * 1e6,
        .logical    = figures->logical * per_us,
        .wire       = figures->wire * per_us,
        .between    = figures->between * per_us,
        .raw_p50_us = figures->raw_p50 * 1e6,
        .ratio      = figures->p50 > 0 ? figures->raw_p50 / figures->p50 : 0,
    };
}

static const char *hierarchy_name(const wtn_comm_result_t *result)
{
    return wtn_hierarchy_name(result->hierarchy);
}

/* ---- the table ---- */

static void print_columns(const columns_t *columns, bool compared)
{
    printf(" %10.1f %10.1f %8.3f %8.3f %8.3f", columns->p50_us, columns->p99_us, columns->logical,
           columns->wire, columns->between);
    if (compared) {
        printf(" %10.1f %6.2f", columns->raw_p50_us, columns->ratio);
    } else {
        printf(" %10s %6s", "-", "-");
    }
}

void wtn_comm_print_header(const wtn_comm_bench_t *bench)
{
    const witan_layer_config_t *config  = &bench->info.config;
    const wtn_comm_options_t   *options = bench->options;

    if (bench->session->rank != 0) {
        return;
    }
    printf("# witan bench comm: E %" PRId32 ", K %" PRId32 ", H %" PRId64
           ", %s, combine %s, skew %s, seed %" PRId64 ", %" PRId32 " rank%s (ep %" PRId32
           ", dp %" PRId32 ") on %" PRId32 " node%s x %" PRId32 " thread%s, %s, %" PRId64
           " iteration%s\n",
           config->expert_count, config->topk, config->hidden_size, witan_dtype_name(config->dtype),
           options->plan.combine == WITAN_COMBINE_REDUCED ? "reduced" : "exact", options->skew,
           options->seed, bench->group.size, wtn_plural(bench->group.size),
           bench->group.expert_parallel, bench->group.data_parallel, bench->node_count,
           wtn_plural(bench->node_count), bench->group.thread_count,
           wtn_plural(bench->group.thread_count), bench->group.transport,
           options->bench.iteration_count, wtn_plural(options->bench.iteration_count));
    printf("# size: bytes of the tokens of a rank; times: median and 99th percentile over "
           "iterations of the slowest rank, us\n");
    printf("# GB/s (1e9) of a rank, mean. logical: tokens x different ranks of a token x row, own "
           "rank counted; wire: all that left the rank; between: of it, to other nodes\n");
    printf("# a2av: MPI_Alltoallv of the same rows in turns with ours, median; ratio: its time / "
           "ours, 1 is as fast, 0.5 takes twice as long\n");
    printf("# imbalance: max / mean of rows over ranks; ranks: different ones of a token, mean; "
           "#wrong: of %" PRId64 " x tokens, every value compared (%s)\n",
           options->bench.check_count,
           options->plan.combine == WITAN_COMBINE_REDUCED ? "within the roundings of its sums"
                                                          : "equal");
    printf("# %10s %9s | %-66s | %-66s |\n", "", "", "dispatch", "combine");
    printf("# %10s %9s", "size", "tokens");
    for (int i = 0; i < 2; i++) {
        printf(" %10s %10s %8s %8s %8s %10s %6s", "p50_us", "p99_us", "logical", "wire", "between",
               "a2av_us", "ratio");
    }
    printf(" %9s %6s %9s %7s\n", "imbalance", "ranks", "hierarchy", "#wrong");
}

/* ---- --csv ---- */

static witan_status_t append_csv(wtn_comm_bench_t *bench, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static witan_status_t append_csv(wtn_comm_bench_t *bench, const char *format, ...)
{
    char    line[1024];
    char   *grown;
    va_list args;
    int     used;

    va_start(args, format);
    used = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    grown = used > 0 && (size_t)used < sizeof(line)
                ? realloc(bench->csv, bench->csv_bytes + (size_t)used)
                : NULL;
    if (grown == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu bytes", bench->options->csv, bench->csv_bytes);
    }
    memcpy(grown + bench->csv_bytes, line, (size_t)used);
    bench->csv = grown;
    bench->csv_bytes += (size_t)used;
    return WITAN_OK;
}

static witan_status_t add_csv(wtn_comm_bench_t *bench, const wtn_comm_result_t *result)
{
    const columns_t d = columns_of(&result->dispatch), c = columns_of(&result->combine);
    witan_status_t  status;

    if (bench->csv_bytes == 0) {
        WTN_TRY(append_csv(bench, "size_bytes,tokens,"
                                  "dispatch_p50_us,dispatch_p99_us,dispatch_logical_gbps,"
                                  "dispatch_wire_gbps,dispatch_between_gbps,dispatch_a2av_p50_us,"
                                  "dispatch_ratio,"
                                  "combine_p50_us,combine_p99_us,combine_logical_gbps,"
                                  "combine_wire_gbps,combine_between_gbps,combine_a2av_p50_us,"
                                  "combine_ratio,"
                                  "imbalance,ranks_per_token,hierarchy,wrong,checked\n"));
    }
    WTN_TRY(append_csv(bench,
                       "%" PRId64 ",%" PRId64 ",%.3f,%.3f,%.6g,%.6g,%.6g,%.3f,%.4f,"
                       "%.3f,%.3f,%.6g,%.6g,%.6g,%.3f,%.4f,%.4f,%.4f,%s,%" PRId64 ",%" PRId64 "\n",
                       result->size, result->token_count, d.p50_us, d.p99_us, d.logical, d.wire,
                       d.between, d.raw_p50_us, d.ratio, c.p50_us, c.p99_us, c.logical, c.wire,
                       c.between, c.raw_p50_us, c.ratio, result->imbalance, result->ranks_per_token,
                       hierarchy_name(result), result->wrong_count, result->checked_count));

fail:
    return status;
}

/* ---- --json ---- */

static json_t *make_direction(const wtn_comm_figures_t *figures, bool compared)
{
    columns_t columns = columns_of(figures);
    json_t   *json, *raw = json_null();

    json = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "min_us", figures->best * 1e6,
                     "p50_us", columns.p50_us, "p99_us", columns.p99_us, "logical_bytes",
                     figures->logical, "wire_bytes", figures->wire, "between_bytes",
                     figures->between, "logical_gbps", columns.logical, "wire_gbps", columns.wire,
                     "between_gbps", columns.between);
    if (compared) {
        raw = json_pack("{s:f, s:f, s:f}", "min_us", figures->raw_best * 1e6, "p50_us",
                        columns.raw_p50_us, "p99_us", figures->raw_p99 * 1e6);
    }
    if (json == NULL || json_object_set_new(json, "alltoallv", raw) != 0 ||
        json_object_set_new(json, "ratio", compared ? json_real(columns.ratio) : json_null()) !=
            0) {
        json_decref(json);
        return NULL;
    }
    return json;
}

static witan_status_t add_json(wtn_comm_bench_t *bench, const wtn_comm_result_t *result)
{
    bool    compared = bench->comm != MPI_COMM_NULL;
    json_t *json =
        json_pack("{s:I, s:I, s:s, s:o, s:o, s:f, s:f, s:I, s:I}", "size_bytes",
                  (json_int_t)result->size, "tokens", (json_int_t)result->token_count, "hierarchy",
                  hierarchy_name(result), "dispatch", make_direction(&result->dispatch, compared),
                  "combine", make_direction(&result->combine, compared), "imbalance",
                  result->imbalance, "ranks_per_token", result->ranks_per_token, "wrong",
                  (json_int_t)result->wrong_count, "checked", (json_int_t)result->checked_count);

    if (json == NULL || json_array_append_new(bench->results, json) != 0) {
        return WTN_ERROR(WITAN_E_MEMORY, "the JSON result could not be made");
    }
    return WITAN_OK;
}

witan_status_t wtn_comm_report(wtn_comm_bench_t *bench, const wtn_comm_result_t *result)
{
    const columns_t d = columns_of(&result->dispatch), c = columns_of(&result->combine);
    witan_status_t  status = WITAN_OK;

    bench->wrong_count += result->wrong_count;
    if (bench->session->rank != 0) {
        return WITAN_OK;
    }
    printf("  %10" PRId64 " %9" PRId64, result->size, result->token_count);
    print_columns(&d, bench->comm != MPI_COMM_NULL);
    print_columns(&c, bench->comm != MPI_COMM_NULL);
    printf(" %9.3f %6.3f %9s %7" PRId64 "\n", result->imbalance, result->ranks_per_token,
           hierarchy_name(result), result->wrong_count);
    (void)fflush(stdout);
    if (bench->options->csv != NULL) {
        status = add_csv(bench, result);
    }
    if (status == WITAN_OK && bench->options->bench.json != NULL) {
        status = add_json(bench, result);
    }
    return status;
}

/* ---- files ---- */

static witan_status_t write_json(wtn_comm_bench_t *bench)
{
    json_t *root = wtn_bench_json_begin("comm", &bench->options->bench, &bench->info.config);
    json_t *facts;

    facts = json_pack("{s:i, s:i, s:i, s:i, s:i, s:s, s:s, s:s, s:s, s:I, s:O}", "ranks",
                      (int)bench->group.size, "expert_parallel", (int)bench->group.expert_parallel,
                      "data_parallel", (int)bench->group.data_parallel, "nodes",
                      (int)bench->node_count, "threads", (int)bench->group.thread_count, "backend",
                      bench->info.backend, "transport", bench->group.transport, "combine",
                      bench->options->plan.combine == WITAN_COMBINE_REDUCED ? "reduced" : "exact",
                      "skew", bench->options->skew, "seed", (json_int_t)bench->options->seed,
                      "results", bench->results);
    return wtn_bench_json_end(bench->options->bench.json, root, facts);
}

static json_t *make_matrix(const int64_t *values, int32_t ep)
{
    json_t *matrix = json_array();

    for (int32_t s = 0; s < ep; s++) {
        json_t *row = json_array();

        for (int32_t d = 0; d < ep; d++) {
            (void)json_array_append_new(row, json_integer((json_int_t)values[s * ep + d]));
        }
        (void)json_array_append_new(matrix, row);
    }
    return matrix;
}

/* Ranks of every node, if these are equal runs; else 0. */
static int32_t ranks_per_node(const wtn_comm_bench_t *bench)
{
    const witan_group_t *group = bench->session->group;
    int32_t              run   = 1;

    while (run < group->comm.size && group->nodes[run] == 0) {
        run++;
    }
    for (int32_t rank = 0; rank < group->comm.size; rank++) {
        if (group->nodes[rank] != rank / run * run) {
            return 0;
        }
    }
    return group->comm.size % run == 0 ? run : 0;
}

static witan_status_t write_traffic(const wtn_comm_bench_t *bench, const wtn_comm_result_t *last)
{
    const wtn_comm_traffic_t *traffic = &last->traffic;
    int32_t                   run     = ranks_per_node(bench);
    json_t                   *root;
    witan_status_t            status;

    root = json_pack("{s:s, s:s, s:i, s:I, s:s, s:o, s:o}", "schema", "witan.traffic/1", "version",
                     witan_version(), "ranks", (int)traffic->ep, "tokens",
                     (json_int_t)last->token_count, "skew", bench->options->skew, "bytes",
                     make_matrix(traffic->dispatch_bytes, traffic->ep), "combine_bytes",
                     make_matrix(traffic->combine_bytes, traffic->ep));
    if (root == NULL || (run > 0 && run <= traffic->ep &&
                         json_object_set_new(root, "ranks_per_node", json_integer(run)) != 0)) {
        json_decref(root);
        return WTN_ERROR(WITAN_E_MEMORY, "the JSON text could not be made");
    }
    status = wtn_bench_json_write(bench->options->traffic, root);
    json_decref(root);
    return status;
}

witan_status_t wtn_comm_write(wtn_comm_bench_t *bench, const wtn_comm_result_t *last)
{
    const wtn_comm_options_t *options = bench->options;
    witan_status_t            status  = WITAN_OK;

    if (bench->session->rank != 0) {
        return WITAN_OK;
    }
    if (options->bench.json != NULL) {
        WTN_TRY(write_json(bench));
    }
    if (options->csv != NULL) {
        WTN_TRY(wtn_output_write(options->csv, bench->csv, bench->csv_bytes));
    }
    if (options->traffic != NULL) {
        WTN_TRY(write_traffic(bench, last));
    }

fail:
    return status;
}

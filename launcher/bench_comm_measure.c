#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/bench_comm.h"

/* One size on this rank. */
typedef struct work {
    wtn_comm_bench_t *bench;
    int64_t           token_count, mine; /* of each rank; of this one, which may have none */
    witan_plan_t     *plan;
    int32_t          *ids;
    float            *weights;
    char             *hidden, *output;
    double           *seconds; /* [WTN_COMM_OP_COUNT, iterations] */
    wtn_alltoallv_t   raw[2];  /* of dispatch, of combine */
} work_t;

/* ---- memory ---- */

static witan_status_t make_buffers(work_t *work)
{
    const witan_layer_config_t *config = &work->bench->info.config;
    size_t                      slots, bytes;
    bool                        fits = wtn_mul((size_t)work->mine, (size_t)config->topk, &slots);

    fits          = wtn_mul((size_t)work->mine, work->bench->row_bytes, &bytes) && fits;
    work->ids     = fits ? calloc(slots + 1, sizeof(*work->ids)) : NULL;
    work->weights = fits ? calloc(slots + 1, sizeof(*work->weights)) : NULL;
    work->hidden  = fits ? wtn_alloc(bytes + 1) : NULL;
    work->output  = fits ? wtn_alloc(bytes + 1) : NULL;
    work->seconds = calloc(WTN_COMM_OP_COUNT * (size_t)work->bench->options->bench.iteration_count,
                           sizeof(*work->seconds));
    if (work->ids == NULL || work->weights == NULL || work->hidden == NULL ||
        work->output == NULL || work->seconds == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%" PRId64 " tokens", work->mine);
    }
    return WITAN_OK;
}

static void free_work(work_t *work)
{
    witan_plan_destroy(work->plan);
    if (work->bench->session->comm->broken) {
        return; /* a late peer may still write there */
    }
    free(work->ids);
    free(work->weights);
    wtn_free(work->hidden);
    wtn_free(work->output);
    free(work->seconds);
    wtn_alltoallv_free(&work->raw[0]);
    wtn_alltoallv_free(&work->raw[1]);
}

static witan_status_t make_traffic(wtn_comm_traffic_t *traffic, int32_t ep)
{
    size_t pairs = (size_t)ep * (size_t)ep;

    traffic->ep             = ep;
    traffic->tokens         = calloc(pairs, sizeof(int64_t));
    traffic->rows           = calloc(pairs, sizeof(int64_t));
    traffic->dispatch_bytes = calloc(pairs, sizeof(int64_t));
    traffic->combine_bytes  = calloc(pairs, sizeof(int64_t));
    if (traffic->tokens == NULL || traffic->rows == NULL || traffic->dispatch_bytes == NULL ||
        traffic->combine_bytes == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%zu pairs of ranks", pairs);
    }
    return WITAN_OK;
}

void wtn_comm_result_free(wtn_comm_result_t *result)
{
    free(result->traffic.tokens);
    free(result->traffic.rows);
    free(result->traffic.dispatch_bytes);
    free(result->traffic.combine_bytes);
    memset(&result->traffic, 0, sizeof(result->traffic));
}

/* ---- one step ---- */

/* Routing and data of the tokens this rank has in an epoch; no two epochs share a token. */
static void take_epoch(work_t *work, int64_t epoch)
{
    const wtn_comm_bench_t *bench = work->bench;
    int64_t                 ranks = bench->group.expert_parallel;
    int64_t                 begin = (epoch * ranks + bench->group.expert_index) * work->token_count;

    wtn_skew_fill(bench->skew, begin, work->mine, work->ids);
    wtn_comm_data_fill(&bench->data, begin, work->mine, work->hidden, work->weights);
}

/* A barrier that ends. */
static witan_status_t meet(wtn_comm_bench_t *bench)
{
    char mine = 0;

    return wtn_allgather(bench->session->comm, &mine, sizeof(mine), bench->met, "bench");
}

/* Add what the plan has sent since `before` to `sent`. */
static witan_status_t count_sent(const work_t *work, int64_t *before, int64_t *sent)
{
    witan_stats_t  stats  = {.struct_bytes = sizeof(stats)};
    witan_status_t status = witan_plan_stats(work->plan, &stats);

    if (status != WITAN_OK) {
        return status;
    }
    for (int32_t i = 0; i < work->bench->group.expert_parallel; i++) {
        sent[i] += stats.rank_send_bytes[i] - before[i];
        before[i] = stats.rank_send_bytes[i];
    }
    return WITAN_OK;
}

/* All rounds of one step. `seconds` [2]: dispatch, combine. `sent` [3, ep], zeros: bytes of
 * dispatch, of combine, scratch; NULL: not counted. */
static witan_status_t step(work_t *work, double *seconds, int64_t *sent)
{
    int32_t        ep = work->bench->group.expert_parallel;
    uint64_t       since;
    witan_status_t status;

    seconds[0] = seconds[1] = 0;
    WTN_TRY(witan_plan_import(work->plan, work->mine, work->ids, work->weights));
    for (int64_t round = 0; witan_plan_rounds_left(work->plan) > 0; round++) {
        if (round == 0) { /* later ones are not equally many on all ranks */
            WTN_TRY(meet(work->bench));
        }
        since = wtn_now_ns();
        WTN_TRY(witan_dispatch(work->plan, work->hidden));
        seconds[0] += (double)(wtn_now_ns() - since) * 1e-9;
        WTN_TRY(sent != NULL ? count_sent(work, sent + 2 * (size_t)ep, sent) : WITAN_OK);
        WTN_TRY(witan_experts(work->plan));
        if (round == 0) {
            WTN_TRY(meet(work->bench));
        }
        since = wtn_now_ns();
        WTN_TRY(witan_combine(work->plan, work->output));
        seconds[1] += (double)(wtn_now_ns() - since) * 1e-9;
        WTN_TRY(sent != NULL ? count_sent(work, sent + 2 * (size_t)ep, sent + ep) : WITAN_OK);
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t raw_step(work_t *work, double *seconds)
{
    witan_status_t status;

    for (int i = 0; i < 2; i++) {
        uint64_t since;

        WTN_TRY(meet(work->bench));
        since = wtn_now_ns();
        WTN_TRY(wtn_alltoallv_run(&work->raw[i], work->bench->group.expert_parallel,
                                  work->bench->comm));
        seconds[i] = (double)(wtn_now_ns() - since) * 1e-9;
    }
    return WITAN_OK;

fail:
    return status;
}

/* ---- traffic ---- */

/* What this rank sends to each destination. */
static void count_pairs(const work_t *work, int64_t *tokens, int64_t *rows)
{
    int32_t topk = work->bench->info.config.topk;

    for (int64_t t = 0; t < work->mine; t++) {
        const int32_t *ids = work->ids + t * topk;

        for (int32_t k = 0; k < topk; k++) {
            int32_t owner = ids[k] < 0 ? -1 : work->bench->owner[ids[k]];
            bool    first = owner >= 0;

            for (int32_t j = 0; j < k && first; j++) {
                first = ids[j] < 0 || work->bench->owner[ids[j]] != owner;
            }
            if (owner >= 0) {
                rows[owner]++;
                tokens[owner] += first;
            }
        }
    }
}

/* One row of each matrix from every rank of the expert group. */
static witan_status_t gather_traffic(work_t *work, const int64_t *mine, wtn_comm_traffic_t *traffic)
{
    const witan_group_info_t *group = &work->bench->group;
    size_t                    ep = (size_t)group->expert_parallel, bytes = 4 * ep * sizeof(int64_t);
    int64_t                  *all    = calloc((size_t)group->size, bytes);
    witan_status_t            status = WITAN_OK;

    if (all == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "%zu pairs of ranks", ep * ep);
    }
    WTN_TRY(wtn_session_agree(work->bench->session, status));
    WTN_TRY(wtn_allgather(work->bench->session->comm, mine, bytes, all, "bench"));
    for (size_t s = 0; s < ep; s++) {
        const int64_t *theirs = all + ((size_t)group->data_index * ep + s) * 4 * ep;

        memcpy(traffic->tokens + s * ep, theirs, ep * sizeof(int64_t));
        memcpy(traffic->rows + s * ep, theirs + ep, ep * sizeof(int64_t));
        memcpy(traffic->dispatch_bytes + s * ep, theirs + 2 * ep, ep * sizeof(int64_t));
        memcpy(traffic->combine_bytes + s * ep, theirs + 3 * ep, ep * sizeof(int64_t));
    }

fail:
    free(all);
    return status;
}

/* A step whose bytes are counted; then the whole matrix is known everywhere. */
static witan_status_t measure_traffic(work_t *work, wtn_comm_result_t *result)
{
    witan_stats_t  stats = {.struct_bytes = sizeof(stats)};
    size_t         ep    = (size_t)work->bench->group.expert_parallel;
    int64_t       *mine  = calloc(5 * ep, sizeof(*mine)); /* and the scratch of `step` */
    double         ignored[2];
    witan_status_t status = WITAN_OK;

    if (mine == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "%zu ranks", ep);
    }
    WTN_TRY(wtn_session_agree(work->bench->session, status));
    count_pairs(work, mine, mine + ep);
    WTN_TRY(step(work, ignored, mine + 2 * ep));
    WTN_TRY(witan_plan_stats(work->plan, &stats));
    result->hierarchy = stats.hierarchy;
    WTN_TRY(gather_traffic(work, mine, &result->traffic));

fail:
    free(mine);
    return status;
}

/* ---- check ---- */

/* Rows that must arrive here, from what all ranks route. Collective. */
static witan_status_t expected_rows(work_t *work, int64_t *count)
{
    const witan_group_info_t *group = &work->bench->group;
    size_t                    ep = (size_t)group->expert_parallel, size = (size_t)group->size;
    int64_t                  *mine = calloc(2 * ep + size * ep, sizeof(*mine));
    witan_status_t            status;

    status = mine == NULL ? WTN_ERROR(WITAN_E_MEMORY, "%zu ranks", size) : WITAN_OK;
    WTN_TRY(wtn_session_agree(work->bench->session, status));
    count_pairs(work, mine, mine + ep);
    WTN_TRY(wtn_allgather(work->bench->session->comm, mine + ep, ep * sizeof(*mine), mine + 2 * ep,
                          "bench"));
    *count = 0;
    for (size_t s = 0; s < ep; s++) {
        *count +=
            mine[2 * ep + ((size_t)group->data_index * ep + s) * ep + (size_t)group->expert_index];
    }

fail:
    free(mine);
    return status;
}

/* New tokens, a result that was NaN before, and every value of it. */
static witan_status_t check_step(work_t *work, int64_t epoch, int64_t *wrong_count)
{
    wtn_comm_bench_t *bench = work->bench;
    bool              exact = bench->options->plan.combine == WITAN_COMBINE_EXACT;
    witan_stats_t     stats = {.struct_bytes = sizeof(stats)};
    double            ignored[2];
    int64_t           rows;
    witan_status_t    status;

    take_epoch(work, epoch);
    WTN_TRY(expected_rows(work, &rows));
    memset(work->output, 0xff, (size_t)work->mine * bench->row_bytes);
    WTN_TRY(step(work, ignored, NULL));
    WTN_TRY(witan_plan_stats(work->plan, &stats));
    *wrong_count += stats.recv_row_count != rows;
    *wrong_count += wtn_comm_data_check(&bench->data, work->hidden, work->ids, work->weights,
                                        work->mine, exact, work->output);

fail:
    return status;
}

static witan_status_t check_all(work_t *work, wtn_comm_result_t *result)
{
    struct {
        int64_t wrong, checked;
    } mine = {0}, *all = calloc((size_t)work->bench->group.size, sizeof(*all));
    witan_status_t status = WITAN_OK;

    if (all == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "%d ranks", (int)work->bench->group.size);
    }
    WTN_TRY(wtn_session_agree(work->bench->session, status));
    for (int64_t i = 1; i <= work->bench->options->bench.check_count; i++) {
        WTN_TRY(check_step(work, i, &mine.wrong));
        mine.checked += work->mine;
    }
    WTN_TRY(wtn_allgather(work->bench->session->comm, &mine, sizeof(mine), all, "bench"));
    for (int32_t rank = 0; rank < work->bench->group.size; rank++) {
        result->wrong_count += all[rank].wrong;
        result->checked_count += all[rank].checked;
    }

fail:
    free(all);
    return status;
}

/* ---- figures ---- */

/* What one rank sends, summed over ranks and divided by them. */
static void sum_bytes(const wtn_comm_bench_t *bench, const int64_t *sent, const int64_t *moved,
                      wtn_comm_figures_t *figures)
{
    size_t ep = (size_t)bench->group.expert_parallel;

    for (size_t pair = 0; pair < ep * ep; pair++) {
        bool away = bench->nodes[pair / ep] != bench->nodes[pair % ep];

        figures->logical += (double)moved[pair] * (double)bench->row_bytes / (double)ep;
        figures->wire += (double)sent[pair] / (double)ep;
        figures->between += away ? (double)sent[pair] / (double)ep : 0;
    }
}

static void sum_traffic(const wtn_comm_bench_t *bench, wtn_comm_result_t *result)
{
    const wtn_comm_traffic_t *traffic = &result->traffic;
    bool                      reduced = bench->options->plan.combine == WITAN_COMBINE_REDUCED;
    int64_t                   most = 0, rows = 0, tokens = 0, all = 0;

    sum_bytes(bench, traffic->dispatch_bytes, traffic->tokens, &result->dispatch);
    sum_bytes(bench, traffic->combine_bytes, reduced ? traffic->tokens : traffic->rows,
              &result->combine);
    for (int32_t d = 0; d < traffic->ep; d++) {
        int64_t column = 0;

        for (int32_t s = 0; s < traffic->ep; s++) {
            column += traffic->rows[s * traffic->ep + d];
            tokens += traffic->tokens[s * traffic->ep + d];
        }
        most = wtn_max_i64(most, column);
        rows += column;
        all += wtn_skew_token_count(bench->skew, d, traffic->ep, result->token_count);
    }
    result->imbalance       = rows == 0 ? 1 : (double)most * traffic->ep / (double)rows;
    result->ranks_per_token = all == 0 ? 0 : (double)tokens / (double)all;
}

/* The slowest rank of every iteration, in place of rank 0's in `all`; then the quantiles. */
static void find_quantiles(const wtn_comm_bench_t *bench, double *all, wtn_comm_result_t *result)
{
    size_t  n                         = (size_t)bench->options->bench.iteration_count;
    double *out[WTN_COMM_OP_COUNT][3] = {
        [WTN_COMM_DISPATCH] = {&result->dispatch.best, &result->dispatch.p50,
                               &result->dispatch.p99},
        [WTN_COMM_COMBINE]  = {&result->combine.best, &result->combine.p50, &result->combine.p99},
        [WTN_COMM_RAW_DISPATCH] = {&result->dispatch.raw_best, &result->dispatch.raw_p50,
                                   &result->dispatch.raw_p99},
        [WTN_COMM_RAW_COMBINE]  = {&result->combine.raw_best, &result->combine.raw_p50,
                                   &result->combine.raw_p99},
    };

    for (size_t i = 0; i < WTN_COMM_OP_COUNT * n; i++) {
        for (size_t rank = 1; rank < (size_t)bench->group.size; rank++) {
            double theirs = all[rank * WTN_COMM_OP_COUNT * n + i];

            all[i] = theirs > all[i] ? theirs : all[i];
        }
    }
    for (size_t op = 0; op < WTN_COMM_OP_COUNT; op++) {
        *out[op][0] = wtn_bench_quantile(all + op * n, n, 0);
        *out[op][1] = wtn_bench_quantile(all + op * n, n, 0.5);
        *out[op][2] = wtn_bench_quantile(all + op * n, n, 0.99);
    }
}

/* Ours and MPI's in turns, each first in every other iteration. */
static witan_status_t measure_times(work_t *work, wtn_comm_result_t *result)
{
    const wtn_comm_options_t *options = work->bench->options;
    size_t                    n       = (size_t)options->bench.iteration_count;
    size_t                    bytes   = WTN_COMM_OP_COUNT * n * sizeof(double), size;
    bool                      compare = work->bench->comm != MPI_COMM_NULL;
    double                   *all     = NULL;
    witan_status_t            status  = WITAN_OK;

    if (wtn_mul(bytes, (size_t)work->bench->group.size, &size)) {
        all = calloc(1, size);
    }
    if (all == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "%zu iterations", n);
    }
    WTN_TRY(wtn_session_agree(work->bench->session, status));
    for (int64_t i = -options->bench.warmup_count; i < options->bench.iteration_count; i++) {
        double seconds[WTN_COMM_OP_COUNT] = {0};

        for (int64_t turn = 0; turn < 2; turn++) {
            if (((i ^ turn) & 1) == 0) {
                WTN_TRY(step(work, seconds + WTN_COMM_DISPATCH, NULL));
            } else if (compare) {
                WTN_TRY(raw_step(work, seconds + WTN_COMM_RAW_DISPATCH));
            }
        }
        for (size_t op = 0; op < WTN_COMM_OP_COUNT && i >= 0; op++) {
            work->seconds[op * n + (size_t)i] = seconds[op];
        }
    }
    WTN_TRY(wtn_allgather(work->bench->session->comm, work->seconds, bytes, all, "bench"));
    find_quantiles(work->bench, all, result);

fail:
    free(all);
    return status;
}

static witan_status_t make_raw(work_t *work, const wtn_comm_traffic_t *traffic)
{
    int32_t        ep = traffic->ep, me = work->bench->group.expert_index;
    bool           reduced = work->bench->options->plan.combine == WITAN_COMBINE_REDUCED;
    const int64_t *rows    = reduced ? traffic->tokens : traffic->rows;
    size_t         bytes   = work->bench->row_bytes;
    witan_status_t status  = WITAN_OK;

    if (work->bench->comm == MPI_COMM_NULL) {
        return WITAN_OK;
    }
    WTN_TRY(wtn_alltoallv_make(&work->raw[0], ep, bytes, traffic->tokens + (size_t)me * (size_t)ep,
                               1, traffic->tokens + me, ep));
    WTN_TRY(wtn_alltoallv_make(&work->raw[1], ep, bytes, rows + me, ep,
                               rows + (size_t)me * (size_t)ep, 1));

fail:
    return status;
}

witan_status_t wtn_comm_measure(wtn_comm_bench_t *bench, int64_t token_count,
                                wtn_comm_result_t *result)
{
    work_t              work = {.bench = bench, .token_count = token_count};
    witan_plan_config_t plan = wtn_plan_config_make(&bench->options->plan);
    witan_status_t      status;

    work.raw[0].row = work.raw[1].row = MPI_DATATYPE_NULL;
    work.mine                         = wtn_skew_token_count(bench->skew, bench->group.expert_index,
                                                             bench->group.expert_parallel, token_count);
    *result              = (wtn_comm_result_t){.size        = token_count * (int64_t)bench->row_bytes,
                                               .token_count = token_count};
    plan.token_count_max = work.mine;
    status               = make_buffers(&work);
    if (status == WITAN_OK) {
        status = make_traffic(&result->traffic, bench->group.expert_parallel);
    }
    WTN_TRY(wtn_session_agree(bench->session, status));
    WTN_TRY(witan_plan_create(&work.plan, bench->layer, &plan));
    take_epoch(&work, 0);
    WTN_TRY(measure_traffic(&work, result));
    WTN_TRY(wtn_session_agree(bench->session, make_raw(&work, &result->traffic)));
    WTN_TRY(measure_times(&work, result));
    sum_traffic(bench, result);
    WTN_TRY(check_all(&work, result));

fail:
    free_work(&work);
    return status; /* NOLINT(clang-analyzer-unix.Malloc): kept on purpose after a lost peer */
}

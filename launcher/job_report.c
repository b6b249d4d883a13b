#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/job.h"

#define EXPERTS_PER_LINE 8

witan_status_t wtn_job_loads(wtn_session_t *session, const wtn_job_t *job, wtn_job_load_t **loads)
{
    witan_status_t status;

    *loads = calloc((size_t)session->size, sizeof(**loads));
    status = *loads != NULL
                 ? WITAN_OK
                 : WTN_ERROR(WITAN_E_MEMORY, "loads of %" PRId32 " ranks", session->size);
    WTN_TRY(wtn_session_agree(session, status));
    WTN_TRY(wtn_allgather(session->comm, &job->load, sizeof(job->load), *loads, "loads"));
    return WITAN_OK;

fail:
    if (!session->comm->broken) {
        free(*loads);
    }
    *loads = NULL;
    return status;
}

witan_status_t wtn_job_sum_experts(wtn_session_t *session, wtn_job_t *job, int32_t expert_count)
{
    size_t         count = (size_t)expert_count;
    int64_t       *all   = calloc((size_t)session->size * count, sizeof(*all));
    witan_status_t status;

    status = all != NULL ? WITAN_OK : WTN_ERROR(WITAN_E_MEMORY, "loads of %zu experts", count);
    WTN_TRY(wtn_session_agree(session, status));
    WTN_TRY(wtn_allgather(session->comm, job->expert_tokens, count * sizeof(*all), all, "loads"));
    for (size_t e = 0; e < count; e++) {
        job->expert_tokens[e] = 0;
        for (size_t rank = 0; rank < (size_t)session->size; rank++) {
            job->expert_tokens[e] += all[rank * count + e];
        }
    }

fail:
    free(all);
    return status;
}

void wtn_job_print_experts(const wtn_job_t *job, int32_t expert_count)
{
    int64_t sum = 0, least = INT64_MAX, most = 0;
    int32_t busiest = 0;

    for (int32_t e = 0; e < expert_count; e++) {
        int64_t tokens = job->expert_tokens[e];

        sum += tokens;
        least = wtn_min_i64(least, tokens);
        if (tokens > most) {
            most    = tokens;
            busiest = e;
        }
    }
    printf("# tokens per expert: min %" PRId64 ", mean %.1f, max %" PRId64 " (expert %" PRId32 ")",
           least, (double)sum / expert_count, most, busiest);
    for (int32_t e = 0; e < expert_count; e++) {
        if (e % EXPERTS_PER_LINE == 0) {
            printf("\n  %4" PRId32 ":", e);
        }
        printf(" %8" PRId64, job->expert_tokens[e]);
    }
    printf("\n");
}

static void print_phases(const wtn_job_load_t *loads, int32_t rank_count)
{
    printf("# %-10s %12s %12s %12s\n", "phase", "min ms", "mean ms", "max ms");
    for (int phase = 0; phase < WITAN_PHASE_COUNT; phase++) {
        int64_t least = INT64_MAX, most = 0;
        double  sum = 0;

        for (int32_t rank = 0; rank < rank_count; rank++) {
            least = wtn_min_i64(least, loads[rank].phase_ns[phase]);
            most  = wtn_max_i64(most, loads[rank].phase_ns[phase]);
            sum += (double)loads[rank].phase_ns[phase];
        }
        printf("  %-10s %12.3f %12.3f %12.3f\n", witan_phase_name((witan_phase_t)phase),
               (double)least / 1e6, sum / rank_count / 1e6, (double)most / 1e6);
    }
}

void wtn_job_print(const wtn_session_t *session, const wtn_job_t *job, const wtn_job_load_t *loads)
{
    int64_t row_sum = 0, row_most = 0, executors[3] = {0, 0, 0};

    print_phases(loads, session->size);
    printf("# %-6s %8s %12s %12s %12s %8s %14s\n", "rank", "experts", "weight_B", "tokens", "rows",
           "rounds", "send_B");
    for (int32_t rank = 0; rank < session->size; rank++) {
        const wtn_job_load_t *load = &loads[rank];

        printf("  %-6" PRId32 " %8" PRId64 " %12" PRId64 " %12" PRId64 " %12" PRId64 " %8" PRId64
               " %14" PRId64 "\n",
               rank, load->expert_count, load->weight_bytes, load->token_count, load->row_count,
               load->round_count, load->send_bytes);
        row_sum += load->row_count;
        row_most = wtn_max_i64(row_most, load->row_count);
        for (int i = 0; i < 3; i++) {
            executors[i] += load->executor_counts[i];
        }
    }
    printf("# imbalance (max / mean of rows over ranks) %.3f\n",
           row_sum == 0 ? 1.0 : (double)row_most * session->size / (double)row_sum);
    printf("# rounds by executor: contiguous %" PRId64 ", masked %" PRId64 "\n",
           executors[WITAN_EXECUTOR_CONTIGUOUS], executors[WITAN_EXECUTOR_MASKED]);
    printf("# %.1f tokens/s with dealing and gathering\n",
           job->seconds > 0 ? (double)job->token_count / job->seconds : 0.0);
}

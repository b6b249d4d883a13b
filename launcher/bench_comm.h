/* witan bench comm: dispatch and combine alone, beside raw MPI_Alltoallv of the same rows. */
#ifndef WTN_BENCH_COMM_H
#define WTN_BENCH_COMM_H

#include <mpi.h>

#include "launcher/bench.h"
#include "launcher/job.h"
#include "launcher/skew.h"

/* ---- data that any rank can regenerate, and what becomes of it ---- */

/* Experts of width 1 without activation: expert e multiplies the sum of x[h] * up[e][h] with
 * down[e][h]. Tokens are -1, 0 and 1, `up` is -1 and 1, `down` and the weights of the combination
 * are powers of two: every sum is exact in fp32, so a result has one right value, whatever the
 * order of the sum; any element of a token that arrives changed changes it. */
typedef struct wtn_comm_data {
    witan_layer_config_t config;
    int8_t              *up;   /* [E, H] */
    int32_t             *dots; /* [K] scratch */
    float               *sums; /* [2, H] scratch */
} wtn_comm_data_t;

witan_status_t  wtn_comm_data_make(wtn_comm_data_t *data, const witan_layer_config_t *config);
void            wtn_comm_data_free(wtn_comm_data_t *data);
witan_weights_t wtn_comm_data_weights(wtn_comm_data_t *data);

/* Tokens [begin, begin + count) of the endless stream: hidden [count, H], weights [count, K]. */
void wtn_comm_data_fill(const wtn_comm_data_t *data, int64_t begin, int64_t count, void *hidden,
                        float *weights);

/* Of the tokens computed from those with `ids`, how many are wrong: exact, equal to the one right
 * value; else within the roundings of partial sums on the way. */
int64_t wtn_comm_data_check(wtn_comm_data_t *data, const void *hidden, const int32_t *ids,
                            const float *weights, int64_t count, bool exact, const void *output);

/* ---- who sends how much to whom ---- */

/* [ep, ep], source by destination. Rows are (token, k); tokens count once for a destination. */
typedef struct wtn_comm_traffic {
    int32_t  ep;
    int64_t *tokens, *rows;
    int64_t *dispatch_bytes, *combine_bytes; /* sent, own accounting of the plan; diagonal 0 */
} wtn_comm_traffic_t;

/* ---- raw MPI_Alltoallv ---- */

typedef struct wtn_alltoallv {
    MPI_Datatype row;
    int         *counts; /* [4, ep] sent, where from, received, where to; in rows */
    char        *send, *recv;
} wtn_alltoallv_t;

/* This rank sends send[d * send_step] rows to d and receives recv[s * recv_step] from s. Local. */
witan_status_t wtn_alltoallv_make(wtn_alltoallv_t *raw, int32_t ep, size_t row_bytes,
                                  const int64_t *send, int32_t send_step, const int64_t *recv,
                                  int32_t recv_step);
void           wtn_alltoallv_free(wtn_alltoallv_t *raw);
witan_status_t wtn_alltoallv_run(const wtn_alltoallv_t *raw, int32_t ep, MPI_Comm comm);

/* ---- one run ---- */

typedef enum wtn_comm_op {
    WTN_COMM_DISPATCH,
    WTN_COMM_COMBINE,
    WTN_COMM_RAW_DISPATCH,
    WTN_COMM_RAW_COMBINE,
    WTN_COMM_OP_COUNT
} wtn_comm_op_t;

typedef struct wtn_comm_options {
    wtn_session_options_t session;
    wtn_bench_options_t   bench; /* without inter */
    wtn_plan_options_t    plan;
    wtn_option_list_t     tokens;
    int64_t               begin_bytes, end_bytes, factor, seed;
    const char           *skew, *csv, *traffic;
} wtn_comm_options_t;

typedef struct wtn_comm_bench {
    wtn_session_t            *session;
    const wtn_comm_options_t *options;
    witan_group_info_t        group;
    witan_layer_info_t        info;
    witan_layer_t            *layer;
    wtn_comm_data_t           data;
    wtn_skew_t               *skew;
    MPI_Comm comm;       /* of this expert group; MPI_COMM_NULL: nothing to compare with */
    int32_t *owner;      /* [E] expert index of the ranks that hold it */
    int32_t *nodes;      /* [ep] node of each rank */
    int32_t  node_count; /* of the expert group */
    char    *met;        /* [ranks] scratch of the barrier */
    size_t   row_bytes;
    int64_t  wrong_count;
    json_t  *results;
    char    *csv; /* text so far */
    size_t   csv_bytes;
} wtn_comm_bench_t;

/* What one direction did: times of the slowest rank; bytes are means over ranks. */
typedef struct wtn_comm_figures {
    double best, p50, p99;             /* seconds */
    double raw_best, raw_p50, raw_p99; /* of MPI_Alltoallv; 0: not measured */
    double logical, wire, between; /* bytes; local traffic counted; that left the rank; the node */
} wtn_comm_figures_t;

typedef struct wtn_comm_result {
    int64_t            size, token_count; /* of a rank */
    witan_hierarchy_t  hierarchy;         /* taken */
    wtn_comm_figures_t dispatch, combine;
    double             imbalance;       /* max / mean of rows over ranks */
    double             ranks_per_token; /* mean over tokens of the different ranks it goes to */
    int64_t            wrong_count, checked_count; /* of all ranks */
    wtn_comm_traffic_t traffic;
} wtn_comm_result_t;

/* bench_comm_measure.c: one size. wtn_comm_result_free whatever the outcome. Collective. */
witan_status_t wtn_comm_measure(wtn_comm_bench_t *bench, int64_t token_count,
                                wtn_comm_result_t *result);
void           wtn_comm_result_free(wtn_comm_result_t *result);

/* bench_comm_report.c: on rank 0. */
void           wtn_comm_print_header(const wtn_comm_bench_t *bench);
witan_status_t wtn_comm_report(wtn_comm_bench_t *bench, const wtn_comm_result_t *result);
/* --json and --csv of all sizes; --traffic of `last`, the last size. */
witan_status_t wtn_comm_write(wtn_comm_bench_t *bench, const wtn_comm_result_t *last);

#endif

/* witan bench layer: what is measured, and how it is told. */
#ifndef WTN_BENCH_LAYER_H
#define WTN_BENCH_LAYER_H

#include "kernels/backend.h"
#include "kernels/tier.h"
#include "launcher/bench.h"
#include "launcher/job.h"
#include "launcher/load.h"
#include "launcher/skew.h"
#include "launcher/staging.h"

typedef struct wtn_layer_options {
    wtn_session_options_t session;
    wtn_bench_options_t   bench;
    wtn_plan_options_t    plan;
    wtn_option_list_t     tokens;
    const char           *skew; /* NULL: the gate routes */
    int64_t               seed;
    bool                  graph;
} wtn_layer_options_t;

typedef struct wtn_layer_bench {
    wtn_session_t             *session;
    const wtn_layer_options_t *options;
    wtn_bench_model_t          model;
    witan_layer_t             *layer;
    witan_layer_info_t         info;
    witan_group_info_t         group;
    const wtn_backend_t       *backend;
    const wtn_tier_t          *tier;
    wtn_skew_t                *skew; /* NULL: the gate routes */
    char                       device[WTN_BENCH_DEVICE_BYTES];
    witan_exchange_t           exchange; /* taken by the plans, as the next */
    const char                *transport;
    bool                       headed;
    json_t                    *results;
    int64_t                    wrong_count;
} wtn_layer_bench_t;

/* What a rank tells of one size. */
typedef struct wtn_layer_tally {
    double  peak;                        /* median over the blocks */
    double  phase_ns[WITAN_PHASE_COUNT]; /* median over the iterations */
    int64_t token_count, row_count, wrong_count, checked_count;
} wtn_layer_tally_t;

/* One size: T tokens on every rank, but where the skew leaves a rank without. */
typedef struct wtn_layer_workload {
    int64_t           token_count, token_mine;
    bool              imports; /* the routing of --skew */
    witan_plan_t     *plan;
    int32_t          *ids; /* of --skew: [T, K], memory of the backend */
    float            *weights;
    wtn_staging_t     staging;
    wtn_bench_graph_t graph;
    void             *hidden, *output; /* in ordinary memory */
    double           *seconds;         /* [iterations], the slowest rank's */
    double           *phases;          /* [WITAN_PHASE_COUNT, iterations] ns of this rank */
    double           *slot;            /* [ranks] */
    wtn_layer_tally_t mine, *all;
    double            best, p50, p99;
} wtn_layer_workload_t;

/* Print the head of the table on rank 0, once; `plan` tells what it has taken. */
witan_status_t wtn_layer_print_header(wtn_layer_bench_t *bench, const witan_plan_t *plan);

/* Print a line on rank 0 and keep it for the JSON text; load->all is there on every rank. */
witan_status_t wtn_layer_report(wtn_layer_bench_t *bench, const wtn_layer_workload_t *load);

witan_status_t wtn_layer_write_json(wtn_layer_bench_t *bench);

#endif

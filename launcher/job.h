/* A job: tokens that rank 0 reads, all ranks compute and rank 0 writes, in order and in blocks of
 * bounded size. `run` and `check` differ only in where the tokens come from and go to. */
#ifndef WTN_JOB_H
#define WTN_JOB_H

#include "launcher/session.h"

/* Called on rank 0 only, with ascending token_begin and without gaps. */
typedef struct wtn_feed {
    void *context;
    /* Fill [token_count, H] in the layer's dtype. */
    witan_status_t (*read)(void *context, int64_t token_begin, int64_t token_count, void *hidden);
    witan_status_t (*write)(void *context, int64_t token_begin, int64_t token_count,
                            const void *hidden);
    /* [token_count, K] each; used when wtn_job_t says so. */
    witan_status_t (*write_routing)(void *context, int64_t token_begin, int64_t token_count,
                                    const int32_t *ids, const float *weights);
} wtn_feed_t;

/* How plans are made, as options. */
typedef struct wtn_plan_options {
    int32_t combine, executor, exchange, tensor_exchange; /* the values of the library's enums */
    int32_t hierarchy;
    int64_t chunk_count, pair_token_count_max, pair_row_count_max, sm_reserved;
} wtn_plan_options_t;

#define WTN_PLAN_OPTIONS(o)                                                                  \
    WTN_OPT_CHOICE("combine", "exact|reduced", "exact", &(o)->combine,                       \
                   "reduced: ranks (two-level: nodes) sum their rows before they return"),   \
        WTN_OPT_CHOICE("hierarchy", "auto|flat|two-level", "auto", &(o)->hierarchy,          \
                       "two-level: a token crosses to a node once; flat: to a rank once"),   \
        WTN_OPT_CHOICE("executor", "auto|contiguous|masked", "auto", &(o)->executor,         \
                       "how rows are laid out for the experts"),                             \
        WTN_OPT_INTEGER("chunks", "N", "1", 1, 65536, &(o)->chunk_count,                     \
                        "rounds whose transfers overlap the experts"),                       \
        WTN_OPT_INTEGER("budget-tokens", "N", "0", 0, INT64_MAX, &(o)->pair_token_count_max, \
                        "tokens from one rank in one round; 0: all"),                        \
        WTN_OPT_INTEGER("budget-rows", "N", "0", 0, INT64_MAX, &(o)->pair_row_count_max,     \
                        "expert rows from one rank in one round; 0: all")

/* Beside them where the backend may be cuda. */
#define WTN_PLAN_CUDA_OPTIONS(o)                                                               \
    {.name     = "exchange",                                                                   \
     .kind     = WTN_OPTION_CHOICE,                                                            \
     .argument = "auto|exact|padded|direct",                                                   \
     .fallback = "auto",                                                                       \
     .help     = "how tokens travel between devices",                                          \
     .value    = &(o)->exchange,                                                               \
     .cuda     = true},                                                                            \
        {.name     = "tensor-exchange",                                                        \
         .kind     = WTN_OPTION_CHOICE,                                                        \
         .argument = "allreduce|scatter",                                                      \
         .fallback = "allreduce",                                                              \
         .help     = "scatter gives each rank of a tensor group tokens of its own",            \
         .value    = &(o)->tensor_exchange,                                                    \
         .cuda     = true},                                                                        \
    {                                                                                          \
        .name = "sm-reserved", .kind = WTN_OPTION_INTEGER, .argument = "N", .fallback = "0",   \
        .help = "multiprocessors left to communication", .value = &(o)->sm_reserved, .min = 0, \
        .max = 4096, .cuda = true                                                              \
    }

/* What only the layer tells: its K. Local. */
witan_status_t wtn_plan_options_check(const wtn_plan_options_t *options, int32_t topk);

/* The same of a layer that is made, whose folding and device WTN_PLAN_CUDA_OPTIONS must suit, too.
 * Local. */
witan_status_t wtn_plan_options_suit(const wtn_plan_options_t *options, const witan_layer_t *layer);

/* "flat" or "two-level". */
const char *wtn_hierarchy_name(witan_hierarchy_t hierarchy);

/* "exact" and so on; NULL for AUTO, which stats tell of the host. */
const char *wtn_exchange_name(witan_exchange_t exchange);

#define WTN_EXCHANGE_TEXT_BYTES 64

/* What stats tell of the way tokens take: "mpi", "exchange padded, transport nccl". */
void wtn_exchange_text(char text[WTN_EXCHANGE_TEXT_BYTES], witan_exchange_t exchange,
                       const char *transport);

witan_plan_config_t wtn_plan_config_make(const wtn_plan_options_t *options);

/* What a rank did in all steps of a job. */
typedef struct wtn_job_load {
    int64_t token_count, row_count; /* routed here; computed here */
    int64_t send_bytes, round_count;
    int64_t phase_ns[WITAN_PHASE_COUNT];
    int64_t executor_counts[3];
    int64_t expert_count, weight_bytes;
} wtn_job_load_t;

typedef struct wtn_job {
    witan_layer_t      *layer;
    int64_t             token_count;   /* of the whole job; equal on all ranks */
    int64_t             step_tokens;   /* most tokens of a rank in one step, >= 1 */
    witan_plan_config_t plan;          /* token_count_max is set by the job */
    bool                routing;       /* gather ids and weights too */
    wtn_job_load_t      load;          /* out: of this rank */
    int64_t            *expert_tokens; /* out: [E] routed here (token, k); NULL: not wanted */
    double              seconds;       /* out: in the steps, dealing and gathering included */
    witan_hierarchy_t   hierarchy;     /* out: taken by the plan, as the next two */
    witan_exchange_t    exchange;
    const char         *transport;
} wtn_job_t;

/* Step s takes the next tokens of the job and deals them to the ranks in contiguous slices, equal
 * as can be; ranks of a tensor group get the same slice. Collective. `feed` is read on rank 0. */
witan_status_t wtn_job_run(wtn_session_t *session, wtn_job_t *job, const wtn_feed_t *feed);

/* Loads of all ranks, in order, on every rank; free() it. Collective. */
witan_status_t wtn_job_loads(wtn_session_t *session, const wtn_job_t *job, wtn_job_load_t **loads);

/* Sum job->expert_tokens [expert_count] over all ranks, on every rank. Collective. */
witan_status_t wtn_job_sum_experts(wtn_session_t *session, wtn_job_t *job, int32_t expert_count);

/* Print phases, ranks, imbalance (max / mean of rows over ranks) and executors on stdout. */
void wtn_job_print(const wtn_session_t *session, const wtn_job_t *job, const wtn_job_load_t *loads);

/* Print tokens per expert on stdout. */
void wtn_job_print_experts(const wtn_job_t *job, int32_t expert_count);

#endif

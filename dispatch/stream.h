/* The stream engine: a step queued on a device, without waiting for it.
 *
 * Received tokens lie in slots of the round, source by source. Returned rows lie in one region: in
 * the order of the schedule (exact), or in slots of fixed size per pair and round (padded, direct).
 * What the host must know it reads from a report that the device copies into pinned memory. */
#ifndef WTN_STREAM_H
#define WTN_STREAM_H

#include "dispatch/link.h"
#include "dispatch/plan.h"
#include "kernels/device.h"

#define WTN_MARKS_MAX 48

/* Sizes; pure. */
typedef struct wtn_stream_shape {
    witan_exchange_t exchange; /* EXACT, PADDED or DIRECT */
    bool             slots;    /* padded or direct, and there are peers */
    bool             reduced, scatter;
    bool             local;            /* alone, with slots in another order than experts */
    bool             overflow;         /* slots that may not hold a step */
    int32_t          ep, tp, me, mine; /* mine: tensor index */
    int64_t          token_max;        /* of this rank, with those gathered over the tensor group */
    int64_t          round_tokens;     /* of a pair in one round */
    int32_t          round_count;      /* rounds any source can need; at least 1 */
    int64_t          pair_token_max;   /* of this rank, all destinations */
    int64_t          token_slots;      /* received in one round; 0: no peers, no copies */
    int64_t          send_slots;       /* packed in one round */
    int64_t          pair_rows;        /* slots: rows that come back per pair and round */
    int64_t          return_count;     /* rows of the returned region */
    int64_t          row_count;        /* entries of the list that ffn_run takes */
    int32_t          sum_slots;        /* rows of the final sum: K, or distinct ranks */
    int32_t          meta_words;
    int64_t          route_block;
} wtn_stream_shape_t;

/* Whole numbers that the device tells the host, in both memories alike. */
typedef struct wtn_report {
    char     *base;
    size_t    counts_bytes; /* of what exact waits for, at the begin */
    size_t    bytes;
    int64_t  *pair_token_begin;    /* [ep + 1], and behind it */
    int64_t  *pair_row_begin;      /* [ep + 1] */
    int64_t  *round_row_begin;     /* [ep, round_count + 1] */
    int64_t  *source_tokens;       /* [ep, 2] begin and end, as the source counts */
    int64_t  *source_row_begin;    /* [ep, round_count + 1] */
    int64_t  *matrix;              /* overflow: [ep, 2, ep + 1] both of every source */
    int64_t  *expert_token_counts; /* [E] */
    int64_t  *expert_row_counts;   /* [round_count, E_local] */
    uint32_t *bad_ids;             /* [1] of an import */
} wtn_report_t;

/* Per round and peer, device memory: what pack and list take. */
typedef struct wtn_tables {
    void    **out_tokens;
    int32_t **out_meta;
    int64_t  *token_begin, *token_count, *row_out_begin;
} wtn_tables_t;

/* Parts of every rank's window (direct), in bytes. */
typedef struct wtn_window {
    size_t tokens, meta, rows, matrix, bytes;
} wtn_window_t;

typedef struct wtn_stream {
    wtn_stream_shape_t   shape;
    const wtn_backend_t *backend;
    const wtn_device_t  *device;
    const wtn_link_t    *link;
    wtn_nccl_t          *expert, *tensor;
    wtn_direct_t        *direct;
    wtn_roll_t          *roll;
    void                *queue; /* the stream */
    bool                 queue_owned;
    bool                 waits; /* the products of this tier wait for the device's counts */
    void                *side;  /* the shared expert, beside the exchange; NULL: on the queue */
    void                *forked, *joined, *passed;

    /* memory of the device */
    char        *arena;
    size_t       arena_bytes;
    wtn_report_t report;
    int32_t     *ids;     /* [token_max, K]; the own slice at mine * token_count * K */
    float       *weights; /* likewise */
    char        *hidden;  /* scatter: [token_max, H] gathered */
    float       *logits;  /* [route_block, E] */
    int64_t     *send_token, *token_first_row; /* [pair_token_max] */
    int64_t     *sum_index;                    /* [token_max, sum_slots] */
    char        *token_send;                   /* [send_slots, H] */
    int32_t     *meta_send;                    /* [send_slots, meta_words] */
    char        *token_recv;                   /* [token_slots, H] */
    int32_t     *meta_recv;                    /* [token_slots, meta_words] */
    int32_t     *row_expert;                   /* [row_count] */
    int64_t     *row_in, *row_out;             /* [row_count] */
    int64_t     *reduce_index;                 /* reduced: [token_slots, K] */
    float       *reduce_weight;
    char        *rows;         /* [return_count] returned, then [row_count] computed for others */
    char        *partial_rows; /* reduced: [token_slots, H] sums to send */
    char        *shared_rows;  /* [token_max, H] */
    float       *shared_logit; /* [token_max] */
    float       *partial;      /* [token_max, H] fp32, tensor parallel */
    char        *tables;       /* [table_rounds] of table_bytes each */
    char        *scratch;
    size_t       scratch_bytes;

    /* memory of the host */
    char        *pinned; /* the report, then the tables */
    wtn_report_t told;   /* the report in it */
    char        *tables_made;
    int32_t      table_rounds; /* exact: round_count; slots: 1 */
    size_t       table_bytes;
    int64_t     *counts;   /* the block of the plan's statistics */
    int32_t     *ids_copy; /* for witan_plan_routing */
    float       *weights_copy;
    wtn_window_t window;

    /* the step */
    wtn_schedule_args_t schedule;
    int64_t             tokens;   /* token_count, or all those gathered */
    const char         *x;        /* [tokens, H] what is dispatched */
    void               *output;   /* of the last combine, for rounds made later */
    bool                queued;   /* since the last wait */
    bool                captured; /* the last step was, so it may have run any number of times */
    bool                imported;
    void               *marks[WTN_MARKS_MAX];
    witan_phase_t       mark_phases[WTN_MARKS_MAX]; /* of the time before the mark */
    int32_t             mark_count;
} wtn_stream_t;

/* stream_memory.c */
witan_status_t wtn_stream_check(const wtn_layout_t *layout, const witan_plan_config_t *config);
witan_status_t wtn_stream_bytes(const wtn_layout_t *layout, const witan_plan_config_t *config,
                                const int64_t *token_maxima, int32_t thread_count, int64_t *bytes);
witan_status_t wtn_stream_create(witan_plan_t *plan, const int64_t *token_maxima);
witan_status_t wtn_stream_connect(witan_plan_t *plan);
void           wtn_stream_destroy(witan_plan_t *plan);
wtn_tables_t   wtn_stream_tables(const wtn_stream_t *stream, char *base, int64_t round);

/* stream_route.c: the plan's device becomes this thread's; may a step begin; it has, with so many
 * tokens; gate and top-k of them. */
witan_status_t wtn_stream_use_device(const witan_plan_t *plan);
witan_status_t wtn_stream_begin(witan_plan_t *plan, const char *step);
void           wtn_stream_start(witan_plan_t *plan, int64_t token_count, bool imported);
witan_status_t wtn_stream_route(witan_plan_t *plan, int64_t token_count, const void *hidden);
/* Where this rank's own ids and weights lie among those of its tensor group. */
int64_t wtn_stream_own_routed(const witan_plan_t *plan);
/* The time since the mark before belongs to `phase`. */
void wtn_stream_mark(witan_plan_t *plan, witan_phase_t phase);

/* stream.c: the experts of one round; the sums of all rounds and the report, also a second time. */
witan_status_t wtn_stream_compute(witan_plan_t *plan, int64_t round);
witan_status_t wtn_stream_sums(witan_plan_t *plan, void *output);

/* stream_wait.c */
witan_status_t wtn_stream_wait(witan_plan_t *plan);
witan_status_t wtn_stream_routing(const witan_plan_t *plan, const int32_t **ids,
                                  const float **weights);
witan_status_t wtn_stream_stats(witan_plan_t *plan);

/* stream_exchange.c: counts, then per round tokens to the experts and rows back. */
witan_status_t wtn_stream_counts(witan_plan_t *plan);
witan_status_t wtn_stream_await_counts(witan_plan_t *plan);
witan_status_t wtn_stream_send(witan_plan_t *plan, int64_t round);
witan_status_t wtn_stream_return(witan_plan_t *plan, int64_t round);
/* Over the tensor group: `tokens` of all before the experts, `partial` into `output` after them. */
witan_status_t wtn_stream_gather(witan_plan_t *plan, const void *hidden);
witan_status_t wtn_stream_reduce(witan_plan_t *plan, void *output);

/* Tokens and rows that a round brings from `source` (exact, once the counts are told). */
int64_t wtn_stream_source_tokens(const wtn_stream_t *stream, int32_t source, int64_t round);
int64_t wtn_stream_source_rows(const wtn_stream_t *stream, int32_t source, int64_t round);
/* Tokens and returned rows of a round to `peer`, as this rank counts. */
int64_t wtn_stream_pair_tokens(const wtn_stream_t *stream, int32_t peer, int64_t round);
int64_t wtn_stream_pair_rows(const wtn_stream_t *stream, int32_t peer, int64_t round);

/* Wait until all that is queued has passed. */
witan_status_t wtn_stream_await_queue(const witan_plan_t *plan, const char *phase);
/* Wait until `event` has passed: to the deadline, peers named. */
witan_status_t wtn_stream_await(const witan_plan_t *plan, void *event, const char *phase);

#endif

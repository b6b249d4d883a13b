/* The plan object: all memory of a step, the routed tokens by destination, and the rounds in
 * flight.
 *
 * A step's tokens are sorted by destination ("pairs": this rank and one domain). A pair's tokens
 * travel in pieces, one per round, cut so that no piece exceeds the quota of its source; source and
 * destination know the quota, so no permission is asked and nobody waits for a slot.
 *
 * What a domain receives, and the rows it computes, lie in a window: memory of all its members, or
 * of the plan alone where it has one. One member, the relay, takes in the pieces of a source and
 * says so to its mates; when all have computed their rows it sends them back. */
#ifndef WTN_PLAN_INTERNAL_H
#define WTN_PLAN_INTERNAL_H

#include <witan/plan.h>

#include "comm/comm.h"
#include "comm/segment.h"
#include "dispatch/domain.h"
#include "dispatch/engine.h"
#include "dispatch/layer.h"

#define WTN_ROUNDS_IN_FLIGHT 2

/* What goes before the rows of a piece. Native byte order: all ranks are of one kind. */
typedef struct wtn_manifest {
    uint32_t magic;
    uint32_t round;
    uint64_t step;
    uint64_t rounds_left; /* pieces of this pair after this one */
    int64_t  token_count, row_count;
    int64_t  row_begin; /* at home: where the source wants the rows */
} wtn_manifest_t;

/* One (token, k) of a piece, after its manifest. */
typedef struct wtn_wire_row {
    int32_t token; /* index among the tokens of the piece, ascending */
    int32_t slot;  /* of the placement */
    float   weight;
} wtn_wire_row_t;

/* A run of the destination-ordered tokens and rows of this rank. */
typedef struct wtn_piece {
    int64_t token_begin, token_count;
    int64_t row_begin, row_count;
} wtn_piece_t;

/* From a relay to its mates: the pieces of a round are in the window. Back: their rows are. */
typedef struct wtn_notice {
    uint64_t step;
    uint32_t round;
    uint32_t rounds; /* with pieces taken in by the sender */
} wtn_notice_t;

/* One round in flight. Arrays by peer have [ep] entries, of which those by domain use [domains];
 * slots of a source lie at source_*_begin. */
typedef struct wtn_round {
    int64_t        index;    /* -1: idle */
    wtn_piece_t   *pieces;   /* [domains] sent */
    bool          *expected; /* [ep] a piece comes from there to this rank */
    bool           tokens_posted, arrived, computed, returned; /* how far it has come */
    witan_status_t poll_status;   /* a failure found while polling, told by the next wait */
    char          *manifest_send; /* packed by destination */
    char          *manifest_recv; /* [ep] slots, of the window */
    char          *token_send;    /* packed by destination */
    char          *token_recv;    /* slots of tokens, of the window */
    wtn_notice_t  *notice;        /* sent */
    wtn_notice_t  *arrivals;      /* [ep] received */
    wtn_notice_t  *ends;          /* [ep] received */
    int64_t        row_base;      /* of this round's slots in plan->rows */
    int64_t       *row_in, *row_out;
    int32_t       *row_expert;
    int64_t       *reduce_index; /* reduced: [slots of tokens, K] */
    float         *reduce_weight;
    wtn_request_t *requests; /* REQUEST_KINDS x [ep] */
} wtn_round_t;

typedef enum wtn_request_kind {
    WTN_REQUEST_MANIFEST_RECV,
    WTN_REQUEST_TOKENS_RECV,
    WTN_REQUEST_MANIFEST_SEND,
    WTN_REQUEST_TOKENS_SEND,
    WTN_REQUEST_ARRIVAL_RECV,
    WTN_REQUEST_ARRIVAL_SEND,
    WTN_REQUEST_END_RECV,
    WTN_REQUEST_END_SEND,
    WTN_REQUEST_ROWS_SEND,
    WTN_REQUEST_ROWS_RECV,
    WTN_REQUEST_KINDS
} wtn_request_kind_t;

typedef enum wtn_plan_state {
    WTN_PLAN_EMPTY,      /* nothing routed */
    WTN_PLAN_ROUTED,     /* a dispatch may follow */
    WTN_PLAN_DISPATCHED, /* experts may follow */
    WTN_PLAN_COMPUTED,   /* combine may follow */
    WTN_PLAN_DONE,       /* output complete */
    WTN_PLAN_BROKEN,
} wtn_plan_state_t;

/* Sizes of a plan; pure. Per-source arrays have [ep] entries. */
typedef struct wtn_plan_shape {
    wtn_domains_t domains;
    int64_t       token_count_max;             /* of this rank */
    int64_t      *source_tokens, *source_rows; /* quotas of a piece from each source */
    int64_t      *source_token_begin;          /* [ep + 1] prefix sums: slots of tokens */
    int64_t      *source_row_begin;            /* [ep + 1] of manifest rows */
    int64_t      *source_slot_begin;           /* [ep + 1] of computed rows */
    int64_t      *return_begin;     /* [ep + 1] of rows that come back to members at home */
    int32_t       slots_per_token;  /* of the final sum: K, or distinct domains */
    int32_t       round_slots;      /* rounds in flight: 1 or 2 */
    int64_t       row_slot_count;   /* rows taken in by the domain in one round */
    int64_t       token_slot_count; /* tokens received in one round */
    int64_t       send_token_max, send_row_max; /* of this rank in one round, all destinations */
    int64_t       route_block;                  /* tokens gated at once */
} wtn_plan_shape_t;

struct witan_plan {
    const wtn_engine_t *engine;
    struct wtn_stream  *stream;   /* of the stream engine, see stream.h */
    witan_exchange_t    exchange; /* as the stats tell them */
    const char         *transport;
    witan_layer_t      *layer;
    wtn_comm_t         *comm;
    witan_plan_config_t config;
    wtn_plan_shape_t    shape;
    void               *arena;
    size_t              arena_bytes;
    bool                arena_owned;
    wtn_remains_t       remains; /* requests given up that still reach the memory */
    int32_t             channel;
    wtn_segment_t       window; /* where the domain has several members */
    wtn_segment_name_t  window_name;
    int32_t             ep, tp, me;                  /* me: expert index */
    int32_t             home;                        /* the domain of this rank */
    int32_t            *expert_peers, *tensor_peers; /* ranks */
    wtn_watch_t        *watch;
    wtn_plan_state_t    state;
    bool                busy;    /* counted by the layer */
    bool                refused; /* a step, which the peers may have begun */
    uint64_t            step;

    /* routing */
    int64_t  token_count;
    int32_t *ids;     /* [T, K] */
    float   *weights; /* [T, K] */
    float   *logits;  /* [route_block, E] */
    char    *scratch; /* gate, top-k, experts and all-reduce, one after the other */
    size_t   scratch_bytes;

    /* tokens and rows by destination, a domain */
    int64_t *pair_token_begin; /* [domains + 1] */
    int64_t *pair_row_begin;   /* [domains + 1] */
    int64_t *send_token;       /* token of each pair token */
    int64_t *token_first_row;  /* first row of each pair token, and the end */
    int32_t *row_token;        /* pair token of each row, counted within its pair */
    int32_t *row_slot;         /* of the placement */
    float   *row_weight;
    int64_t *sum_index;   /* [T, slots_per_token] into the returned rows, or -1 */
    int64_t *last_token;  /* [domains] scratch of the schedule */
    int64_t *cursor;      /* [2, domains] scratch of the schedule */
    int64_t *next_token;  /* [domains] first pair token not yet sent */
    int64_t *send_rounds; /* [domains] pieces of each pair */

    /* rounds */
    const void    *hidden;
    int64_t        round_next;     /* to post */
    int64_t        round_done;     /* combined */
    int64_t        round_returned; /* rows sent back */
    int64_t        round_count;    /* known from the first dispatch on */
    uint64_t      *source_rounds;  /* [ep] pieces this rank takes in from each source */
    uint32_t      *relay_rounds;   /* [ep] rounds with pieces taken in by each mate */
    wtn_round_t    rounds[WTN_ROUNDS_IN_FLIGHT];
    char          *rows;     /* window: returned rows of the members, then computed rows by round */
    char          *returned; /* those of this rank */
    char          *partial_rows;    /* reduced: [round_slots, token slots] sums to send */
    char          *shared_rows;     /* [T, H] */
    float         *shared_logit;    /* [T] */
    float         *partial;         /* [T, H] fp32, tensor parallel */
    wtn_request_t *reduce_requests; /* [2 * tp] */
    int64_t        computing;       /* the round whose experts compute, -1 before the first */
    uint64_t       poll_ns;

    /* statistics of the last step */
    int64_t         *expert_row_counts;   /* [E_local] */
    int64_t         *round_row_counts;    /* [E_local] of one round */
    int64_t         *expert_token_counts; /* [E] */
    int64_t         *rank_row_counts;     /* [ep] */
    int64_t         *rank_send_bytes;     /* [ep] */
    int64_t          recv_token_count, recv_row_count;
    int64_t          tensor_send_bytes;
    int64_t          phase_ns[WITAN_PHASE_COUNT];
    int64_t          executor_counts[3];
    witan_executor_t executor;
};

/* plan_shape.c: WITAN_E_ARGUMENT naming the field. */
witan_status_t wtn_plan_config_check(const witan_plan_config_t *config, const wtn_layout_t *layout);

/* engine.c: what may be wrong with a step's arrays; T = 0 needs none. */
witan_status_t wtn_plan_check_arrays(const witan_plan_t *plan, const char *step,
                                     int64_t token_count, const void *a, const void *b);
/* A step that has begun must end before its memory serves another. */
witan_status_t wtn_plan_check_idle(const witan_plan_t *plan, const char *step);
/* A step called alone: is it its turn? */
witan_status_t wtn_plan_check_turn(const witan_plan_t *plan, const char *step,
                                   wtn_plan_state_t turn, const char *before);

/* plan_shape.c: sizes. `token_maxima` [ep]: token_count_max of every source. Frees with
 * wtn_plan_shape_free. */
witan_status_t wtn_plan_shape_make(wtn_plan_shape_t *shape, const wtn_layout_t *layout,
                                   const witan_plan_config_t *config, const int64_t *token_maxima);
void           wtn_plan_shape_free(wtn_plan_shape_t *shape);

/* plan_memory.c: bytes, create, connect and destroy of the rounds engine. */
witan_status_t wtn_rounds_shared_bytes(const wtn_layout_t        *layout,
                                       const witan_plan_config_t *config,
                                       const int64_t *token_maxima, int64_t *bytes);
witan_status_t wtn_rounds_connect(witan_plan_t *plan);
witan_status_t wtn_rounds_bytes(const wtn_layout_t *layout, const witan_plan_config_t *config,
                                const int64_t *token_maxima, int32_t thread_count, int64_t *bytes);
witan_status_t wtn_rounds_create(witan_plan_t *plan, const int64_t *token_maxima);
void           wtn_rounds_destroy(witan_plan_t *plan);

/* engine.c: is the plan between route and its last combine? The layer counts those that are. */
void wtn_plan_note(witan_plan_t *plan, bool busy);

/* plan.c: a workspace given by the caller, whether it will do. */
witan_status_t wtn_plan_check_workspace(const witan_plan_t *plan, size_t alignment);

/* schedule.c: from ids and weights to tokens and rows by destination. */
void wtn_schedule(witan_plan_t *plan);
/* The piece for `domain` that starts at pair token `token_begin` (absolute). */
wtn_piece_t wtn_schedule_cut(const witan_plan_t *plan, int32_t domain, int64_t token_begin);

/* round.c: the stages of one round; see layer.c for how they are strung together. */
witan_status_t wtn_round_post(witan_plan_t *plan);
witan_status_t wtn_round_wait(witan_plan_t *plan, int64_t index);
witan_status_t wtn_round_compute(witan_plan_t *plan, int64_t index);
/* Send the rows of a computed round back, after those of the rounds before; with `wait` once all
 * mates have computed theirs, else only if they have by now: a later poll or wait then does it. */
witan_status_t wtn_round_return(witan_plan_t *plan, int64_t index, bool wait);
witan_status_t wtn_round_drain(witan_plan_t *plan,
                               wtn_round_t  *round); /* all its messages are over */
wtn_round_t   *wtn_round_at(witan_plan_t *plan, int64_t index);

/* Called by the kernels between tiles: move what travels on. `context` is the plan. */
void wtn_round_poll(void *context);

/* End a failing collective step: peers are told, the plan is broken. Value is `status`. */
witan_status_t wtn_plan_fail(witan_plan_t *plan, witan_status_t status);

/* Add the time since *since_ns to a phase, and start the next. */
void wtn_plan_account(witan_plan_t *plan, witan_phase_t phase, uint64_t *since_ns);

#endif

/* The schedule on a device: routed tokens sorted by destination, received rows listed. Whole
 * numbers only, no floating point; no result depends on the order in which threads run.
 *
 * dispatch/schedule.c is the same for the host's rounds. All pointers are memory of the device;
 * everything is queued on `stream`. */
#ifndef WTN_SCHEDULE_H
#define WTN_SCHEDULE_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What travels before the rows of a token: [K + 1] int32, or [2 K + 1] with weights.
 *   [0]          first row of the token, counted within its pair and round
 *   [1 .. K]     local experts at the destination by ascending k, those that exist first; then -1
 *   [K+1 .. 2K]  fp32 weights of the same (reduced mode only) */
static inline int64_t wtn_token_meta_words(int32_t topk, bool weights)
{
    return weights ? 2 * (int64_t)topk + 1 : (int64_t)topk + 1;
}

/* ids [T, K] -> tokens by destination. Rounds cut the n tokens of a pair into runs of
 * round_tokens. */
typedef struct wtn_schedule_args {
    const int32_t *ids;     /* [T, K] global experts; any other number: none */
    const float   *weights; /* [T, K] */
    int64_t        token_count, token_count_max;
    int32_t        expert_count, topk, peer_count;
    /* The peer of each replica and its index there, expert by expert; those of expert e from
     * replica_begin[e] on [E + 1], or one of each where that is NULL. Token t takes number (salt +
     * t) mod their count; salt >= 0. */
    const int32_t *owner, *local;
    const int32_t *replica_begin;
    int64_t        salt;
    int64_t        round_tokens; /* of a pair in one round; >= 1 */
    int32_t        round_count;  /* rounds of round_tokens that token_count_max can need */
    bool           reduced;      /* one returned row per (token, destination) */
    /* out */
    int64_t *expert_token_counts; /* [E] */
    int64_t *pair_token_begin;    /* [peers + 1] prefix sums */
    int64_t *pair_row_begin;      /* [peers + 1] prefix sums of (token, k) */
    int64_t *send_token;          /* [T * min(K, peers)] token of each pair token, ascending in a
                                     pair */
    int64_t *token_first_row; /* [T * min(K, peers)] first row of each, counted within its pair */
    int64_t *round_row_begin; /* [peers, round_count + 1] rows of a pair before each round */
    int64_t *sum_index;       /* exact: [T, K] pair_row_begin + row; reduced: [T, min(K, peers)]
                                 pair tokens by ascending k of first use; -1: none */
    void  *workspace;
    size_t workspace_bytes;
    void  *stream;
} wtn_schedule_args_t;

/* T * K must be below 2^32. SIZE_MAX: it overflows. WITAN_E_ARGUMENT: too many, or the workspace is
 * too small. */
size_t wtn_schedule_workspace_bytes(int64_t token_count_max, int32_t expert_count, int32_t topk,
                                    int32_t peer_count);
witan_status_t wtn_schedule_ref(const wtn_schedule_args_t *args); /* host memory */
witan_status_t wtn_cuda_schedule(const wtn_schedule_args_t *args);

/* One round of the pair tokens -> rows of H and their meta, packed for sending. Token i of peer p
 * in this round goes to out_tokens[p] + i * row_bytes and out_meta[p] + i * meta_words; the lists
 * of pointers are device memory, so a peer's may point into the peer's own memory. Where meta_slots
 * is not 0, the slots of each peer from the piece's end to meta_slots get 0, experts -1, weights
 * 0. */
typedef struct wtn_pack_args {
    const wtn_schedule_args_t *schedule;
    const void                *hidden; /* [T, H] */
    size_t                     row_bytes;
    int32_t                    round;
    void *const               *out_tokens; /* [peers] NULL: not this peer's */
    int32_t *const            *out_meta;   /* [peers] */
    int64_t meta_slots; /* of each peer, for padded exchange, >= round_tokens; 0: exact */
    int32_t sm_reserved;
} wtn_pack_args_t;

witan_status_t wtn_pack_ref(const wtn_pack_args_t *args);
witan_status_t wtn_cuda_pack(const wtn_pack_args_t *args);

/* Received tokens of one round -> the list that ffn_run takes, [token_slots * K] entries:
 * row_expert (or -1), row_in (slot of the token), row_out. Source s has its tokens at slots
 * token_begin[s] .. + token_count[s] and its rows from row_out_begin[s] on. In reduced mode also
 * reduce_index [token_slots, K] (row_out or -1) and reduce_weight, for a combine per token. Where
 * there is no row, row_expert is -1, row_in and row_out 0. */
typedef struct wtn_list_args {
    const int32_t *meta; /* [token_slots, meta_words] */
    int32_t        topk, peer_count;
    int64_t        token_slots;
    const int64_t *token_begin;   /* [peers] ascending */
    const int64_t *token_count;   /* [peers]; slots of no source get no row */
    const int64_t *row_out_begin; /* [peers] */
    bool           reduced;
    int32_t       *row_expert;
    int64_t       *row_in, *row_out;
    int64_t       *reduce_index;
    float         *reduce_weight;
    void          *stream;
} wtn_list_args_t;

witan_status_t wtn_list_ref(const wtn_list_args_t *args);
witan_status_t wtn_cuda_list(const wtn_list_args_t *args);

/* One peer, with all replicas: nothing travels, and the list that ffn_run takes is row_expert
 * [T, K], the index there of the replica that computes ids[t][k], or -1. Reads of `schedule` what
 * a schedule reads. */
typedef struct wtn_local_args {
    const wtn_schedule_args_t *schedule;
    int32_t                   *row_expert;
} wtn_local_args_t;

witan_status_t wtn_local_ref(const wtn_local_args_t *args);
witan_status_t wtn_cuda_local(const wtn_local_args_t *args);

#ifdef __cplusplus
}
#endif

#endif

/* What both forms of the schedule have in common: what a kernel is told, and what is written of a
 * (token, k) once its place is known. */
#ifndef WTN_SCHEDULE_PLACE_CUH
#define WTN_SCHEDULE_PLACE_CUH

#include "kernels/cuda/scan.cuh"
#include "kernels/schedule/replica.cuh"

#define NONE          0xffffffffu
#define BLOCK_THREADS 1024
/* Experts up to which counters are in shared memory. */
#define SHARED_EXPERTS 4096

/* Of each peer and part, [peers][parts]: rows and tokens; then those of earlier parts; then the
 * next ones. `last` is the last token that went there. */
typedef struct tables {
    uint32_t *row, *token, *last;
    uint32_t *row_total, *token_total; /* [peers] */
    uint32_t *expert;                  /* [E] (token, k) of an expert */
    /* By blocks: [parts][2][peers] rows, then tokens, and [parts][E]; NULL: each counts the others.
     */
    uint32_t *part, *part_expert;
} tables_t;

typedef struct schedule_params {
    const int32_t *ids;
    wtn_replicas_t replicas;
    int64_t        token_count, part_tokens, round_tokens;
    uint32_t       expert_count, topk, peer_count, part_count, slot_count;
    uint32_t       warp_count; /* of a block that have tokens */
    int32_t        round_count;
    bool           reduced, shared_cursors, shared_experts;
    int64_t       *expert_token_counts, *pair_token_begin, *pair_row_begin, *send_token;
    int64_t       *token_first_row, *round_row_begin, *sum_index;
    tables_t       table;
} schedule_params_t;

/* Where a warp is: each lane has one (token, k), lanes follow each other. */
typedef struct place {
    int64_t  token;
    uint32_t k;
    uint32_t carry; /* places of lane 0's token found in earlier strides; all lanes have it */
} place_t;

/* What the 32 (token, k) of a stride have in common. */
typedef struct stride {
    uint32_t peer;       /* or NONE */
    uint32_t same_peer;  /* lanes going there */
    uint32_t same_token; /* lanes of the same token */
    uint32_t firsts;     /* lanes that are the first of their token at their peer */
    uint32_t row, token; /* within the pair; token is valid for firsts */
} stride_t;

WTN_DEVICE uint32_t peer_of(const schedule_params_t &p, int32_t id, int64_t token)
{
    return (uint32_t)id < p.expert_count
               ? (uint32_t)p.replicas.owner[wtn_replica_of(p.replicas, id, token)]
               : NONE;
}

WTN_DEVICE int64_t part_end(const schedule_params_t &p, uint32_t part)
{
    const int64_t end = (part + (int64_t)1) * p.part_tokens;

    return end < p.token_count ? end : p.token_count;
}

/* A token of a pair whose tokens begin at token_begin. */
WTN_DEVICE void place_token(const schedule_params_t &p, const stride_t &s, int64_t token,
                            int64_t token_begin)
{
    const int64_t i = token_begin + s.token;

    p.send_token[i]      = token;
    p.token_first_row[i] = s.row;
    if (s.token % p.round_tokens == 0) {
        p.round_row_begin[s.peer * ((int64_t)p.round_count + 1) + s.token / p.round_tokens] = s.row;
    }
}

/* The pair tokens of each token side by side, then -1. */
WTN_DEVICE uint32_t place_reduced(const schedule_params_t &p, const stride_t &s, const place_t &at,
                                  bool valid, int64_t token_begin)
{
    const uint32_t lane    = wtn_lane();
    const uint32_t earlier = at.k > lane ? at.carry : 0; /* its token began in earlier strides */
    const uint32_t before  = earlier + wtn_count_bits(s.firsts & s.same_token & wtn_lanes_below());
    const bool     first   = (s.firsts >> lane & 1u) != 0;
    const uint32_t until   = before + (first ? 1 : 0);
    int64_t       *slots   = p.sum_index + at.token * p.slot_count;

    if (first) {
        slots[before] = token_begin + s.token;
    }
    for (uint32_t i = until; valid && at.k == p.topk - 1 && i < p.slot_count; i++) {
        slots[i] = -1;
    }
    return until;
}

/* What is written of a lane's (token, k), whose pair's tokens and rows begin there; the places of
 * its token found up to it. */
WTN_DEVICE uint32_t place_entry(const schedule_params_t &p, const stride_t &s, const place_t &at,
                                bool valid, int64_t token_begin, int64_t row_begin)
{
    if ((s.firsts >> wtn_lane() & 1u) != 0) {
        place_token(p, s, at.token, token_begin);
    }
    if (p.reduced) {
        return place_reduced(p, s, at, valid, token_begin);
    }
    if (valid) {
        p.sum_index[at.token * p.topk + at.k] = s.peer == NONE ? -1 : row_begin + s.row;
    }
    return 0;
}

#endif

/* Tokens packed by destination, and received tokens listed for the executors. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/gather/copy_row.cuh"
#include "kernels/schedule/replica.cuh"

#define THREADS 256
#define BLOCKS  4 /* per multiprocessor */
/* Bytes of a row that a warp copies at once: few long rows still occupy the device. */
#define PIECE_BYTES 4096

typedef struct pack_params {
    const int32_t  *ids;
    wtn_replicas_t  replicas;
    const float    *weights;
    const int64_t  *pair_token_begin, *send_token, *token_first_row, *round_row_begin;
    const char     *hidden;
    void *const    *out_tokens;
    int32_t *const *out_meta;
    size_t          row_bytes;
    int64_t         round_tokens, row_pieces, meta_slots, meta_words;
    int32_t         topk, peer_count, round, round_count;
    bool            reduced;
} pack_params_t;

/* Tokens of a peer in this round. */
WTN_DEVICE int64_t round_count_of(const pack_params_t &p, int32_t peer)
{
    const int64_t left =
        p.pair_token_begin[peer + 1] - p.pair_token_begin[peer] - p.round * p.round_tokens;

    if (left <= 0 || p.out_tokens[peer] == nullptr) {
        return 0;
    }
    return left < p.round_tokens ? left : p.round_tokens;
}

/* A warp writes what travels before the rows of token t. */
WTN_DEVICE void pack_meta(const pack_params_t &p, int32_t peer, int32_t *meta, int64_t pair_token,
                          int64_t t)
{
    int32_t count = 0;

    for (int32_t begin = 0; begin < p.topk; begin += 32) {
        const int32_t  k       = begin + (int32_t)wtn_lane();
        const int32_t  id      = k < p.topk ? p.ids[t * p.topk + k] : -1;
        const bool     exists  = (uint32_t)id < p.replicas.expert_count;
        const uint32_t replica = exists ? wtn_replica_of(p.replicas, id, t) : 0;
        const bool     here    = exists && p.replicas.owner[replica] == peer;
        const uint32_t all     = wtn_ballot(here);
        const int32_t  at      = count + (int32_t)wtn_count_bits(all & wtn_lanes_below());

        if (here) {
            meta[1 + at] = p.replicas.local[replica];
        }
        if (here && p.reduced) {
            meta[1 + p.topk + at] = (int32_t)wtn_bits_from_float(p.weights[t * p.topk + k]);
        }
        count += (int32_t)wtn_count_bits(all);
    }
    for (int32_t k = count + (int32_t)wtn_lane(); k < p.topk; k += 32) {
        meta[1 + k] = -1;
        if (p.reduced) {
            meta[1 + p.topk + k] = 0;
        }
    }
    if (wtn_lane() == 0) {
        meta[0] = (int32_t)(p.token_first_row[pair_token] -
                            p.round_row_begin[peer * ((int64_t)p.round_count + 1) + p.round]);
    }
}

WTN_DEVICE void pack_nothing(const pack_params_t &p, int32_t *meta)
{
    for (int64_t i = wtn_lane(); i < p.meta_words; i += 32) {
        meta[i] = i >= 1 && i <= p.topk ? -1 : 0;
    }
}

/* A warp copies one piece of the token that fills a slot; with the first piece goes its meta. */
WTN_DEVICE void pack_piece(const pack_params_t &p, int32_t peer, int64_t slot, int64_t piece)
{
    const int64_t pair_token = p.pair_token_begin[peer] + p.round * p.round_tokens + slot;
    const int64_t t          = p.send_token[pair_token];
    const size_t  begin      = (size_t)piece * PIECE_BYTES;
    const size_t  left       = p.row_bytes - begin;

    if (piece == 0) {
        pack_meta(p, peer, p.out_meta[peer] + slot * p.meta_words, pair_token, t);
    }
    wtn_copy_row((char *)p.out_tokens[peer] + (size_t)slot * p.row_bytes + begin,
                 p.hidden + (size_t)t * p.row_bytes + begin,
                 left < PIECE_BYTES ? left : PIECE_BYTES, wtn_lane(), 32);
}

/* Exact: the tokens of this round are counted up to each peer, then dealt out to all warps. */
WTN_KERNEL(THREADS, BLOCKS) pack_exact_kernel(WTN_PARAMS(pack_params_t, p))
{
    uint32_t *scratch = (uint32_t *)wtn_shared();
    uint32_t *begin   = scratch + WTN_SCAN_WORDS; /* [peers] */
    uint32_t  sum     = 0;
    int64_t   items, item;

    for (int32_t base = 0; base < p.peer_count; base += THREADS) {
        const int32_t  peer = base + (int32_t)wtn_thread();
        const uint32_t own  = peer < p.peer_count ? (uint32_t)round_count_of(p, peer) : 0;
        uint32_t       all;
        const uint32_t before = sum + wtn_block_scan(own, scratch, &all);

        if (peer < p.peer_count) {
            begin[peer] = before;
        }
        sum += all;
    }
    wtn_sync_block();
    items = sum * p.row_pieces;
    item  = (int64_t)wtn_block() * (THREADS / 32) + (wtn_thread() >> 5);
    for (; item < items; item += (int64_t)wtn_block_count() * (THREADS / 32)) {
        const uint32_t token = (uint32_t)(item / p.row_pieces);
        int32_t        low = 0, high = p.peer_count; /* begin[low] <= token < begin[high] */

        while (high - low > 1) {
            const int32_t middle = (low + high) / 2;

            if (begin[middle] <= token) {
                low = middle;
            } else {
                high = middle;
            }
        }
        pack_piece(p, low, token - begin[low], item - token * p.row_pieces);
    }
}

/* Padded: every peer has meta_slots slots, which may lie in its own memory. They are filled for all
 * peers in turn: if every rank began with the first peer, its links would be all that move. */
WTN_KERNEL(THREADS, BLOCKS) pack_padded_kernel(WTN_PARAMS(pack_params_t, p))
{
    const int64_t items = p.peer_count * p.meta_slots * p.row_pieces;
    int64_t       item  = (int64_t)wtn_block() * (THREADS / 32) + (wtn_thread() >> 5);

    for (; item < items; item += (int64_t)wtn_block_count() * (THREADS / 32)) {
        const int64_t index = item / p.peer_count;
        const int32_t peer  = (int32_t)(item - index * p.peer_count);
        const int64_t slot  = index / p.row_pieces;
        const int64_t piece = index - slot * p.row_pieces;

        if (slot < round_count_of(p, peer)) {
            pack_piece(p, peer, slot, piece);
        } else if (piece == 0 && p.out_tokens[peer] != nullptr) {
            pack_nothing(p, p.out_meta[peer] + slot * p.meta_words);
        }
    }
}

static pack_params_t pack_params_of(const wtn_pack_args_t *args)
{
    const wtn_schedule_args_t *s = args->schedule;
    pack_params_t              p = {};

    p.ids              = s->ids;
    p.replicas         = wtn_replicas(s);
    p.weights          = s->weights;
    p.pair_token_begin = s->pair_token_begin;
    p.send_token       = s->send_token;
    p.token_first_row  = s->token_first_row;
    p.round_row_begin  = s->round_row_begin;
    p.hidden           = (const char *)args->hidden;
    p.out_tokens       = args->out_tokens;
    p.out_meta         = args->out_meta;
    p.row_bytes        = args->row_bytes;
    p.round_tokens     = s->round_tokens;
    p.row_pieces       = (int64_t)((args->row_bytes + PIECE_BYTES - 1) / PIECE_BYTES);
    p.meta_slots       = args->meta_slots;
    p.meta_words       = wtn_token_meta_words(s->topk, s->reduced);
    p.topk             = s->topk;
    p.peer_count       = s->peer_count;
    p.round            = args->round;
    p.round_count      = s->round_count;
    p.reduced          = s->reduced;
    return p;
}

extern "C" witan_status_t wtn_cuda_pack(const wtn_pack_args_t *args)
{
    const wtn_schedule_args_t *s      = args->schedule;
    const pack_params_t        params = pack_params_of(args);
    const int64_t              most   = s->topk < s->peer_count ? s->topk : s->peer_count;
    const int64_t              slots =
        args->meta_slots > 0 ? s->peer_count * args->meta_slots : s->token_count * most;
    const int64_t warps  = THREADS / 32;
    wtn_launch_t  launch = {};

    if (slots == 0) {
        return WITAN_OK;
    }
    launch.name    = "pack";
    launch.threads = THREADS;
    launch.stream  = s->stream;
    launch.blocks =
        wtn_grid((slots * params.row_pieces + warps - 1) / warps, BLOCKS, args->sm_reserved);
    if (args->meta_slots > 0) {
        return wtn_launch(&launch, pack_padded_kernel, &params);
    }
    launch.shared_bytes = (WTN_SCAN_WORDS + (size_t)s->peer_count) * sizeof(uint32_t);
    return wtn_launch(&launch, pack_exact_kernel, &params);
}

/* ---- list ---- */

typedef struct list_params {
    const int32_t *meta;
    const int64_t *token_begin, *token_count, *row_out_begin;
    int32_t       *row_expert;
    int64_t       *row_in, *row_out, *reduce_index;
    float         *reduce_weight;
    int64_t        entry_count, meta_words;
    int32_t        topk, peer_count;
    bool           reduced;
} list_params_t;

/* The source whose tokens a slot is one of, or -1. */
WTN_DEVICE int32_t source_of(const list_params_t &p, int64_t slot)
{
    int32_t low = 0, high = p.peer_count;

    while (high - low > 1) {
        const int32_t middle = (low + high) / 2;

        if (p.token_begin[middle] <= slot) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return slot >= p.token_begin[low] && slot - p.token_begin[low] < p.token_count[low] ? low : -1;
}

WTN_KERNEL(THREADS, 4) list_kernel(WTN_PARAMS(list_params_t, p))
{
    wtn_grid_join();
    const int64_t step = (int64_t)wtn_block_count() * THREADS;
    int64_t begin      = ((int64_t)wtn_block() * THREADS) + (wtn_thread() & ~31u); /* of the warp */

    for (; begin < p.entry_count; begin += step) {
        const int64_t  i     = begin + wtn_lane();
        const int64_t  first = begin / p.topk;
        const uint32_t from  = (uint32_t)(begin - first * p.topk) + wtn_lane();
        const int64_t  slot  = first + from / (uint32_t)p.topk;
        const int32_t  k     = (int32_t)(from % (uint32_t)p.topk);

        if (i < p.entry_count) {
            const int32_t *meta   = p.meta + slot * p.meta_words;
            const int32_t  source = source_of(p, slot);
            const int32_t  expert = source >= 0 ? meta[1 + k] : -1;
            const int64_t  row    = expert >= 0 ? p.row_out_begin[source] + meta[0] + k : 0;

            p.row_expert[i] = expert >= 0 ? expert : -1;
            p.row_in[i]     = expert >= 0 ? slot : 0;
            p.row_out[i]    = row;
            if (p.reduced) {
                p.reduce_index[i] = expert >= 0 ? row : -1;
                p.reduce_weight[i] =
                    expert >= 0 ? wtn_float_from_bits((uint32_t)meta[1 + p.topk + k]) : 0.0f;
            }
        }
    }
}

extern "C" witan_status_t wtn_cuda_list(const wtn_list_args_t *args)
{
    list_params_t p      = {};
    wtn_launch_t  launch = {};

    p.meta          = args->meta;
    p.token_begin   = args->token_begin;
    p.token_count   = args->token_count;
    p.row_out_begin = args->row_out_begin;
    p.row_expert    = args->row_expert;
    p.row_in        = args->row_in;
    p.row_out       = args->row_out;
    p.reduce_index  = args->reduce_index;
    p.reduce_weight = args->reduce_weight;
    p.entry_count   = args->token_slots * args->topk;
    p.meta_words    = wtn_token_meta_words(args->topk, args->reduced);
    p.topk          = args->topk;
    p.peer_count    = args->peer_count;
    p.reduced       = args->reduced;
    if (p.entry_count == 0) {
        return WITAN_OK;
    }
    launch.name    = "list";
    launch.threads = THREADS;
    launch.blocks  = wtn_grid((p.entry_count + THREADS - 1) / THREADS, 4, 0);
    launch.stream  = args->stream;
    return wtn_launch_early(&launch, list_kernel, &p);
}

/* ---- local ---- */

typedef struct local_params {
    const int32_t *ids;
    int32_t       *row_expert;
    int64_t        count;
    wtn_replicas_t replicas;
    int32_t        topk;
} local_params_t;

WTN_KERNEL(THREADS, 4) local_kernel(WTN_PARAMS(local_params_t, p))
{
    wtn_grid_join();
    const int64_t step = (int64_t)wtn_block_count() * THREADS;

    for (int64_t i = (int64_t)wtn_block() * THREADS + wtn_thread(); i < p.count; i += step) {
        const int32_t id     = p.ids[i];
        const bool    exists = (uint32_t)id < p.replicas.expert_count;

        p.row_expert[i] =
            exists ? p.replicas.local[wtn_replica_of(p.replicas, id, i / p.topk)] : -1;
    }
}

extern "C" witan_status_t wtn_cuda_local(const wtn_local_args_t *args)
{
    local_params_t p      = {};
    wtn_launch_t   launch = {};

    p.ids        = args->schedule->ids;
    p.row_expert = args->row_expert;
    p.count      = args->schedule->token_count * args->schedule->topk;
    p.replicas   = wtn_replicas(args->schedule);
    p.topk       = args->schedule->topk;
    if (p.count == 0) {
        return WITAN_OK;
    }
    launch.name    = "local";
    launch.threads = THREADS;
    launch.blocks  = wtn_grid((p.count + THREADS - 1) / THREADS, 4, 0);
    launch.stream  = args->schedule->stream;
    return wtn_launch_early(&launch, local_kernel, &p);
}

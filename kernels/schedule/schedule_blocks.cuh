/* The schedule by blocks, for tokens that fit a stride of 32 (token, k). */
#ifndef WTN_SCHEDULE_BLOCKS_CUH
#define WTN_SCHEDULE_BLOCKS_CUH

#include "core/util.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/schedule/schedule_place.cuh"

#define COUNT_THREADS 512 /* leaves room for blocks of the next kernel to come early */
/* A block's tables: two numbers of each peer for each warp and three times more, and one of each
 * expert. 88 KB of shared memory. */
#define BLOCK_WORDS (22 * 1024)
#define TABLES      3
/* Strides of a warp: as few as make not more than BLOCKS_WANTED parts, or EACH_MAX. */
#define EACH_MAX      4
#define BLOCKS_WANTED 128
/* Where each block counts the other parts: parts, (token, k) and, up to LITTLE_ENTRIES, warps of a
 * block. */
#define ALONE_PARTS    32
#define ALONE_ENTRIES  8192
#define ALONE_WARPS    16
#define LITTLE_ENTRIES 2048
#define LITTLE_WARPS   8
/* Counters of all parts that each block reads, and those of experts in all. */
#define TABLE_WORDS  (64 * 1024)
#define EXPERT_WORDS (512 * 1024)
/* Loads in flight of a lane over strides. */
#define DEPTH 4

/* A lane's place in strides of whole tokens, which has the same k in all of them. */
typedef struct seat {
    uint32_t token, k, tokens; /* of the stride: this lane's, and how many there are */
    uint32_t same_token;       /* lanes of the same token */
    bool     taken;            /* not beyond the last whole token */
} seat_t;

WTN_DEVICE seat_t seat_of(const schedule_params_t &p)
{
    const uint32_t lane = wtn_lane();
    seat_t         seat;

    seat.token      = lane / p.topk;
    seat.k          = lane - seat.token * p.topk;
    seat.tokens     = 32 / p.topk;
    seat.taken      = seat.token < seat.tokens;
    seat.same_token = 0xffffffffu >> (32 - p.topk) << (lane - seat.k);
    return seat;
}

WTN_DEVICE int32_t id_of(const schedule_params_t &p, const seat_t &seat, int64_t token, int64_t end)
{
    token += seat.token;
    return seat.taken && token < end ? p.ids[token * p.topk + seat.k] : -1;
}

/* The lanes that go to `peer`, and which of all are the first of their token at their peer. */
WTN_DEVICE stride_t meet(const seat_t &seat, uint32_t peer)
{
    stride_t s = {};

    s.peer       = peer;
    s.same_peer  = wtn_match_any(peer);
    s.same_token = seat.same_token;
    s.firsts = wtn_ballot(peer != NONE && (s.same_peer & s.same_token & wtn_lanes_below()) == 0);
    return s;
}

/* Its first lane speaks for all that go to a peer. */
WTN_DEVICE bool speaks(const stride_t &s)
{
    return s.peer != NONE && (s.same_peer & wtn_lanes_below()) == 0;
}

/* Tokens from..to - 1, by the whole block: added to table [2][peers] and, unless NULL, to expert
 * [E]. */
WTN_DEVICE void count_tokens(const schedule_params_t &p, const seat_t &seat, int64_t from,
                             int64_t to, uint32_t *table, uint32_t *expert)
{
    const int64_t step = (int64_t)(wtn_thread_count() >> 5) * seat.tokens;

    for (int64_t token = from + (wtn_thread() >> 5) * seat.tokens; token < to;
         token += DEPTH * step) {
        int32_t id[DEPTH];

#pragma unroll
        for (uint32_t d = 0; d < DEPTH; d++) {
            id[d] = id_of(p, seat, token + d * step, to);
        }
#pragma unroll
        for (uint32_t d = 0; d < DEPTH; d++) {
            const stride_t s = meet(seat, peer_of(p, id[d], token + d * step + seat.token));

            if (speaks(s)) {
                wtn_atomic_add(&table[s.peer], wtn_count_bits(s.same_peer));
                wtn_atomic_add(&table[p.peer_count + s.peer],
                               wtn_count_bits(s.firsts & s.same_peer));
            }
            if (expert != nullptr && (uint32_t)id[d] < p.expert_count) {
                wtn_atomic_add(&expert[id[d]], 1);
            }
        }
    }
}

/* A block per part. Shared memory: [2][peers], [E]. */
WTN_KERNEL(COUNT_THREADS, 1) count_blocks_kernel(WTN_PARAMS(schedule_params_t, p))
{
    const seat_t    seat   = seat_of(p);
    const uint32_t  width  = 2 * p.peer_count;
    uint32_t *const table  = (uint32_t *)wtn_shared();
    uint32_t *const expert = table + width;

    for (uint32_t i = wtn_thread(); i < width + p.expert_count; i += wtn_thread_count()) {
        table[i] = 0;
    }
    wtn_sync_block();
    wtn_grid_join();
    count_tokens(p, seat, wtn_block() * p.part_tokens, part_end(p, wtn_block()), table, expert);
    wtn_sync_block();
    for (uint32_t j = wtn_thread(); j < width; j += wtn_thread_count()) {
        p.table.part[(size_t)wtn_block() * width + j] = table[j];
    }
    for (uint32_t e = wtn_thread(); e < p.expert_count; e += wtn_thread_count()) {
        p.table.part_expert[(size_t)wtn_block() * p.expert_count + e] = expert[e];
    }
}

/* By the first block: where pairs begin, and rounds that begin past a pair's end. */
WTN_DEVICE void tell_pairs(const schedule_params_t &p, const uint32_t *begin, const uint32_t *total)
{
    const int64_t rounds = (int64_t)p.round_count + 1;

    for (uint32_t j = wtn_thread(); j < p.peer_count; j += wtn_thread_count()) {
        p.pair_row_begin[j]   = begin[j];
        p.pair_token_begin[j] = begin[p.peer_count + j];
        if (j + 1 == p.peer_count) {
            p.pair_row_begin[j + 1]   = begin[j] + total[j];
            p.pair_token_begin[j + 1] = begin[p.peer_count + j] + total[p.peer_count + j];
        }
    }
    for (int64_t i = wtn_thread(); i < p.peer_count * rounds; i += wtn_thread_count()) {
        const int64_t peer = i / rounds;

        if ((i - peer * rounds) * p.round_tokens >= total[p.peer_count + peer]) {
            p.round_row_begin[i] = total[peer];
        }
    }
}

/* By the block that counted them, or each some of them. */
WTN_DEVICE void tell_experts(const schedule_params_t &p, const uint32_t *expert)
{
    const uint32_t step = wtn_block_count() * wtn_thread_count();

    for (uint32_t e = wtn_thread(); expert != nullptr && e < p.expert_count;
         e += wtn_thread_count()) {
        p.expert_token_counts[e] = expert[e];
    }
    if (p.table.part == nullptr) {
        return;
    }
    for (uint32_t e = wtn_block() * wtn_thread_count() + wtn_thread(); e < p.expert_count;
         e += step) {
        uint32_t sum = 0;

#pragma unroll 8
        for (uint32_t part = 0; part < p.part_count; part++) {
            sum += p.table.part_expert[(size_t)part * p.expert_count + e];
        }
        p.expert_token_counts[e] = sum;
    }
}

/* begin[i] = sum of value[0 .. i), by the whole block. */
WTN_DEVICE void scan_peers(const uint32_t *value, uint32_t count, uint32_t *begin, uint32_t *shared)
{
    uint32_t sum = 0;

    for (uint32_t base = 0; base < count; base += wtn_thread_count()) {
        const uint32_t i = base + wtn_thread();
        uint32_t       all;
        const uint32_t before = wtn_block_scan(i < count ? value[i] : 0, shared, &all);

        if (i < count) {
            begin[i] = sum + before;
        }
        sum += all;
    }
}

/* A block per part, `each` strides a warp. Shared memory: for the scan; rows and tokens of each
 * peer [2][peers], in earlier parts, in later and then in all, and where its pairs begin; of the
 * warps; (token, k) of the experts [E]. */
template <uint32_t each>
WTN_KERNEL(BLOCK_THREADS, 1)
blocks_kernel(WTN_PARAMS(schedule_params_t, p))
{
    const uint32_t  width = 2 * p.peer_count, warp = wtn_thread() >> 5;
    uint32_t *const shared = (uint32_t *)wtn_shared();
    uint32_t *const before = shared + WTN_SCAN_WORDS;
    uint32_t *const after  = before + width;
    uint32_t *const begin  = after + width;
    uint32_t *const counts = begin + width;
    uint32_t *const own    = counts + warp * width;
    /* Where nobody has counted before: by the first block. */
    uint32_t *const expert =
        p.table.part == nullptr && wtn_block() == 0 ? counts + p.warp_count * width : nullptr;
    const seat_t  seat = seat_of(p);
    const int64_t from = wtn_block() * p.part_tokens, to = part_end(p, wtn_block());
    const int64_t first = from + warp * (each * seat.tokens);
    const bool    mine  = warp < p.warp_count;
    stride_t      s[each];
    int32_t       id[each];

    for (uint32_t i = wtn_thread(); i < (TABLES + p.warp_count) * width + p.expert_count;
         i += wtn_thread_count()) {
        before[i] = 0;
    }
    wtn_sync_block();
    wtn_grid_join();
#pragma unroll
    for (uint32_t i = 0; i < each; i++) {
        id[i] = mine ? id_of(p, seat, first + i * seat.tokens, to) : -1;
    }
#pragma unroll
    for (uint32_t i = 0; i < each; i++) {
        s[i] = meet(seat, peer_of(p, id[i], first + i * seat.tokens + seat.token));
        if (s[i].peer != NONE) {
            s[i].row   = own[s[i].peer] + wtn_count_bits(s[i].same_peer & wtn_lanes_below());
            s[i].token = own[p.peer_count + s[i].peer] +
                         wtn_count_bits(s[i].firsts & s[i].same_peer & wtn_lanes_below());
        }
        wtn_sync_warp(); /* all have read before one lane of each peer writes */
        if (speaks(s[i])) {
            own[s[i].peer] = s[i].row + wtn_count_bits(s[i].same_peer);
            own[p.peer_count + s[i].peer] =
                s[i].token + wtn_count_bits(s[i].firsts & s[i].same_peer);
        }
        wtn_sync_warp();
        if (expert != nullptr && (uint32_t)id[i] < p.expert_count) {
            wtn_atomic_add(&expert[id[i]], 1);
        }
    }
    if (p.table.part == nullptr) {
        count_tokens(p, seat, 0, from, before, expert);
        count_tokens(p, seat, to, p.token_count, after, expert);
    } else {
        wtn_block_add(p.table.part, width, 0, wtn_block(), before);
        wtn_block_add(p.table.part, width, wtn_block() + 1, p.part_count, after);
    }
    wtn_sync_block();
    for (uint32_t j = wtn_thread(); j < width; j += wtn_thread_count()) {
        after[j] += before[j] + wtn_scan_column(counts + j, width, p.warp_count);
    }
    tell_experts(p, expert);
    wtn_sync_block();
    scan_peers(after, p.peer_count, begin, shared);
    scan_peers(after + p.peer_count, p.peer_count, begin + p.peer_count, shared);
    wtn_sync_block();
    if (wtn_block() == 0) {
        tell_pairs(p, begin, after);
    }
#pragma unroll
    for (uint32_t i = 0; i < each; i++) {
        const int64_t  token = first + i * seat.tokens + seat.token;
        const bool     valid = mine && seat.taken && token < to;
        const uint32_t peer  = s[i].peer;

        if (peer != NONE) {
            s[i].row += before[peer] + own[peer];
            s[i].token += before[p.peer_count + peer] + own[p.peer_count + peer];
        }
        place_entry(p, s[i], {token, seat.k, 0}, valid,
                    peer != NONE ? begin[p.peer_count + peer] : 0, peer != NONE ? begin[peer] : 0);
    }
}

/* ---- the host's side ---- */

/* By blocks of as many warps as there is room for the tables of, so many strides a warp: 0 where it
 * can not be, or would be too many parts, of which there is room for p->part_count. */
static uint32_t choose_blocks(schedule_params_t *p)
{
    const int64_t T = p->token_count, entries = T * p->topk, width = 2 * (int64_t)p->peer_count;
    const int64_t E      = wtn_max_i64(1, p->expert_count);
    const int64_t room   = (BLOCK_WORDS - WTN_SCAN_WORDS - E) / width - TABLES;
    const int64_t most   = entries <= LITTLE_ENTRIES  ? LITTLE_WARPS
                           : entries <= ALONE_ENTRIES ? ALONE_WARPS
                                                      : BLOCK_THREADS / 32;
    const int64_t warps  = wtn_max_i64(0, wtn_min_i64(most, room));
    const int64_t stride = 32 / p->topk; /* tokens of one, which are whole */
    const int64_t parts =
        wtn_min_i64(wtn_min_i64(p->part_count, TABLE_WORDS / width), EXPERT_WORDS / E);
    uint32_t each = 0;

    if (E > SHARED_EXPERTS) {
        return 0;
    }
    if (entries <= ALONE_ENTRIES) {
        each = wtn_each(T, warps * stride, EACH_MAX, ALONE_PARTS, 0);
    }
    if (each > 0) {
        p->table.part = NULL;
    } else {
        each = wtn_each(T, warps * stride, EACH_MAX, wtn_min_i64(BLOCKS_WANTED, parts), parts);
    }
    if (each > 0) {
        p->part_tokens = warps * stride * each;
        p->part_count  = (uint32_t)wtn_max_i64(1, wtn_ceil_div(T, p->part_tokens));
        p->warp_count  = (uint32_t)wtn_min_i64(warps, wtn_ceil_div(T, stride * each));
    }
    return each;
}

static witan_status_t run_blocks(wtn_launch_t launch, const schedule_params_t *p, uint32_t each)
{
    const size_t  width  = 2 * (size_t)p->peer_count;
    const int64_t wanted = wtn_max_i64((int64_t)width, p->expert_count);
    const int64_t lanes =
        wtn_max_i64(p->warp_count * (int64_t)32, wtn_min_i64(wanted, BLOCK_THREADS));
    witan_status_t status;

    launch.blocks = p->part_count;
    if (p->table.part != NULL) {
        launch.threads      = COUNT_THREADS;
        launch.shared_bytes = (width + p->expert_count) * sizeof(uint32_t);
        WTN_TRY(wtn_launch_early(&launch, count_blocks_kernel, p));
    }
    launch.threads = (uint32_t)wtn_max_i64(1, wtn_ceil_div(lanes, 32)) * 32;
    launch.shared_bytes =
        (WTN_SCAN_WORDS + (TABLES + p->warp_count) * width + p->expert_count) * sizeof(uint32_t);
    WTN_TRY(wtn_launch_early(&launch,
                             each == 1   ? blocks_kernel<1>
                             : each == 2 ? blocks_kernel<2>
                                         : blocks_kernel<EACH_MAX>,
                             p));
    return WITAN_OK;

fail:
    return status;
}

#endif

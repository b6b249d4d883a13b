/* The schedule as a stable counting sort of (token, k) by destination. Each block takes a part of
 * the tokens: its warps count what of theirs goes to each peer and keep the places found so far in
 * registers; what the other parts have for each peer says where the block's own begin, and each
 * lane then writes what it has. Few parts are one launch, in which each block counts the others by
 * itself; of more a launch of its own counts each once.
 *
 * Where tokens have more experts than a warp has lanes, or peers or experts are too many for a
 * block's tables, the same is done in steps, a launch each: each warp walks its part of the tokens
 * in order, once to count and once to place; prefix sums lie between. */
#include <inttypes.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/schedule/schedule_blocks.cuh"

#define THREADS 256
/* Peers up to which cursors are in shared memory. */
#define SHARED_PEERS 512
/* Parts in steps: not less than PART_ENTRIES each; PARTS_MAX, and cursors COUNTERS_MAX, at most. */
#define PART_ENTRIES 256
#define PARTS_MAX    1024
#define COUNTERS_MAX ((int64_t)1 << 20)

/* A warp's cursors, one of each peer, `stride` apart. */
typedef struct cursors {
    uint32_t *row, *token, *last;
    uint32_t  stride;
} cursors_t;

/* Shared memory: experts' counters [E] of the block, then cursors of each warp. */
WTN_DEVICE cursors_t part_cursors(const schedule_params_t &p, uint32_t part)
{
    const size_t skip = p.shared_experts ? p.expert_count : 0;
    uint32_t    *own  = (uint32_t *)wtn_shared() + skip + (wtn_thread() >> 5) * 3 * p.peer_count;

    if (p.shared_cursors) {
        return {own, own + p.peer_count, own + 2 * p.peer_count, 1};
    }
    return {p.table.row + part, p.table.token + part, p.table.last + part, p.part_count};
}

WTN_DEVICE uint32_t first_warp(void)
{
    return wtn_block() * (wtn_thread_count() >> 5) + (wtn_thread() >> 5);
}

WTN_DEVICE uint32_t all_warps(void)
{
    return wtn_block_count() * (wtn_thread_count() >> 5);
}

/* Read the cursors for a stride and move them on. */
WTN_DEVICE stride_t take_stride(const cursors_t &c, const place_t &at, uint32_t topk, uint32_t peer)
{
    const uint32_t lane  = wtn_lane();
    const uint32_t below = wtn_lanes_below();
    const uint32_t begin = at.k < lane ? lane - at.k : 0;
    const uint32_t after = topk - 1 - at.k; /* of the token */
    const uint32_t end   = after < 31 - lane ? lane + after : 31;
    stride_t       s;
    bool           first = false;

    s.peer       = peer;
    s.same_peer  = wtn_match_any(peer);
    s.same_token = (0xffffffffu >> (31 - end)) & (0xffffffffu << begin);
    s.row = s.token = 0;
    if (peer != NONE) {
        s.row   = c.row[(size_t)peer * c.stride] + wtn_count_bits(s.same_peer & below);
        s.token = c.token[(size_t)peer * c.stride];
        first   = (s.same_peer & s.same_token & below) == 0 &&
                c.last[(size_t)peer * c.stride] != (uint32_t)at.token;
    }
    s.firsts = wtn_ballot(first);
    wtn_sync_warp(); /* all have read before one lane of each peer writes */
    s.token += wtn_count_bits(s.firsts & s.same_peer & below);
    if (peer != NONE && (s.same_peer & below) == 0) {
        c.row[(size_t)peer * c.stride]   = s.row + wtn_count_bits(s.same_peer);
        c.token[(size_t)peer * c.stride] = s.token + wtn_count_bits(s.firsts & s.same_peer);
    }
    if (peer != NONE && (s.same_peer & ~below) == (1u << lane)) {
        c.last[(size_t)peer * c.stride] = (uint32_t)at.token;
    }
    wtn_sync_warp();
    return s;
}

/* ---- count ---- */

WTN_DEVICE void count_expert(const schedule_params_t &p, int32_t id)
{
    if ((uint32_t)id < p.expert_count) {
        wtn_atomic_add((p.shared_experts ? (uint32_t *)wtn_shared() : p.table.expert) + id, 1);
    }
}

/* The first (token, k) of a lane in a part that begins at `token`. */
WTN_DEVICE place_t first_place(const schedule_params_t &p, int64_t token)
{
    const place_t at = {token + wtn_lane() / p.topk, wtn_lane() % p.topk, 0};

    return at;
}

WTN_DEVICE void next_place(const schedule_params_t &p, place_t *at)
{
    at->token += 32 / p.topk;
    at->k += 32 % p.topk;
    if (at->k >= p.topk) {
        at->k -= p.topk;
        at->token++;
    }
}

WTN_DEVICE int32_t id_at(const schedule_params_t &p, const place_t &at, int64_t end)
{
    return at.token < end ? p.ids[at.token * p.topk + at.k] : -1;
}

WTN_DEVICE void count_part(const schedule_params_t &p, uint32_t part)
{
    const cursors_t c     = part_cursors(p, part);
    const int64_t   begin = part * p.part_tokens, end = part_end(p, part);
    place_t         at = first_place(p, begin);

    for (uint32_t j = wtn_lane(); j < p.peer_count; j += 32) {
        c.row[(size_t)j * c.stride] = c.token[(size_t)j * c.stride] = 0;
        c.last[(size_t)j * c.stride]                                = NONE;
    }
    wtn_sync_warp();
    for (int64_t i = begin * p.topk; i < end * p.topk; i += 32) {
        const int32_t id = id_at(p, at, end);

        count_expert(p, id);
        take_stride(c, at, p.topk, peer_of(p, id, at.token));
        next_place(p, &at);
    }
    for (uint32_t j = wtn_lane(); p.shared_cursors && j < p.peer_count; j += 32) {
        p.table.row[(size_t)j * p.part_count + part]   = c.row[j];
        p.table.token[(size_t)j * p.part_count + part] = c.token[j];
    }
    wtn_sync_warp();
}

WTN_DEVICE void zero_experts(const schedule_params_t &p)
{
    const uint32_t step = wtn_block_count() * wtn_thread_count();

    for (uint32_t e = wtn_block() * wtn_thread_count() + wtn_thread(); e < p.expert_count;
         e += step) {
        p.table.expert[e] = 0;
    }
}

/* Counts of experts are sums of whole numbers: no order shows. */
WTN_DEVICE void count_parts(const schedule_params_t &p)
{
    uint32_t *shared = (uint32_t *)wtn_shared();

    for (uint32_t e = wtn_thread(); p.shared_experts && e < p.expert_count;
         e += wtn_thread_count()) {
        shared[e] = 0;
    }
    wtn_sync_block();
    for (uint32_t part = first_warp(); part < p.part_count; part += all_warps()) {
        count_part(p, part);
    }
    wtn_sync_block();
    for (uint32_t e = wtn_thread(); p.shared_experts && e < p.expert_count;
         e += wtn_thread_count()) {
        if (shared[e] != 0) {
            wtn_atomic_add(&p.table.expert[e], shared[e]);
        }
    }
}

/* ---- prefix sums ---- */

/* A warp: values of the parts before each part, and of all. */
WTN_DEVICE void scan_part_counts(uint32_t *value, uint32_t count, uint32_t *total)
{
    uint32_t sum = 0;

    for (uint32_t begin = 0; begin < count; begin += 32) {
        const uint32_t part  = begin + wtn_lane();
        const uint32_t one   = part < count ? value[part] : 0;
        const uint32_t until = wtn_warp_scan(one);

        if (part < count) {
            value[part] = sum + until - one;
        }
        sum += wtn_shuffle(until, 31);
    }
    if (wtn_lane() == 0) {
        *total = sum;
    }
}

WTN_DEVICE void scan_parts(const schedule_params_t &p)
{
    for (uint32_t i = first_warp(); i < 2 * p.peer_count; i += all_warps()) {
        const uint32_t peer = i / 2;

        if (i % 2 == 0) {
            scan_part_counts(p.table.row + (size_t)peer * p.part_count, p.part_count,
                             &p.table.row_total[peer]);
        } else {
            scan_part_counts(p.table.token + (size_t)peer * p.part_count, p.part_count,
                             &p.table.token_total[peer]);
        }
    }
}

/* One block: begin[i] = sum of value[0 .. i). */
WTN_DEVICE void scan_pairs(const uint32_t *value, uint32_t count, int64_t *begin, uint32_t *shared)
{
    uint32_t sum = 0;

    for (uint32_t base = 0; base < count; base += wtn_thread_count()) {
        const uint32_t i   = base + wtn_thread();
        const uint32_t one = i < count ? value[i] : 0;
        uint32_t       all;
        const uint32_t before = sum + wtn_block_scan(one, shared, &all);

        if (i < count) {
            begin[i] = before;
        }
        sum += all;
    }
    if (wtn_thread() == 0) {
        begin[count] = sum;
    }
}

/* One block: where pairs begin; rounds that begin past a pair's end; counts of experts. */
WTN_DEVICE void begin_pairs(const schedule_params_t &p)
{
    const int64_t rounds = (int64_t)p.round_count + 1;

    scan_pairs(p.table.token_total, p.peer_count, p.pair_token_begin, (uint32_t *)wtn_shared());
    scan_pairs(p.table.row_total, p.peer_count, p.pair_row_begin, (uint32_t *)wtn_shared());
    for (int64_t i = wtn_thread(); i < p.peer_count * rounds; i += wtn_thread_count()) {
        const int64_t peer = i / rounds;

        if ((i - peer * rounds) * p.round_tokens >= p.table.token_total[peer]) {
            p.round_row_begin[i] = p.table.row_total[peer];
        }
    }
    for (uint32_t e = wtn_thread(); e < p.expert_count; e += wtn_thread_count()) {
        p.expert_token_counts[e] = p.table.expert[e];
    }
}

/* ---- place ---- */

WTN_DEVICE void place_part(const schedule_params_t &p, uint32_t part)
{
    const cursors_t c     = part_cursors(p, part);
    const int64_t   begin = part * p.part_tokens, end = part_end(p, part);
    place_t         at = first_place(p, begin);

    for (uint32_t j = wtn_lane(); j < p.peer_count; j += 32) {
        if (p.shared_cursors) {
            c.row[j]   = p.table.row[(size_t)j * p.part_count + part];
            c.token[j] = p.table.token[(size_t)j * p.part_count + part];
        }
        c.last[(size_t)j * c.stride] = NONE;
    }
    wtn_sync_warp();
    for (int64_t i = begin * p.topk; i < end * p.topk; i += 32) {
        const bool     valid = at.token < end;
        const uint32_t peer  = peer_of(p, id_at(p, at, end), at.token);
        const stride_t s     = take_stride(c, at, p.topk, peer);

        const uint32_t until =
            place_entry(p, s, at, valid, peer != NONE ? p.pair_token_begin[peer] : 0,
                        peer != NONE ? p.pair_row_begin[peer] : 0);

        at.carry = wtn_shuffle(at.k == p.topk - 1 ? 0 : until, 31);
        next_place(p, &at);
    }
}

WTN_DEVICE void place_parts(const schedule_params_t &p)
{
    for (uint32_t part = first_warp(); part < p.part_count; part += all_warps()) {
        place_part(p, part);
    }
}

WTN_KERNEL(THREADS, 4) zero_kernel(WTN_PARAMS(schedule_params_t, p))
{
    wtn_grid_join();
    zero_experts(p);
}

WTN_KERNEL(THREADS, 4) count_kernel(WTN_PARAMS(schedule_params_t, p))
{
    wtn_grid_join();
    count_parts(p);
}

WTN_KERNEL(THREADS, 4) scan_kernel(WTN_PARAMS(schedule_params_t, p))
{
    wtn_grid_join();
    scan_parts(p);
}

WTN_KERNEL(BLOCK_THREADS, 1) pairs_kernel(WTN_PARAMS(schedule_params_t, p))
{
    wtn_grid_join();
    begin_pairs(p);
}

WTN_KERNEL(THREADS, 4) place_kernel(WTN_PARAMS(schedule_params_t, p))
{
    wtn_grid_join();
    place_parts(p);
}

/* ---- the host's side ---- */

static int64_t parts_of(int64_t token_count, int32_t topk, int32_t peer_count)
{
    const int64_t most   = wtn_min_i64(PARTS_MAX, COUNTERS_MAX / wtn_max_i64(1, peer_count));
    const int64_t useful = wtn_ceil_div(token_count * topk, PART_ENTRIES);

    return wtn_max_i64(1, wtn_min_i64(wtn_min_i64(most, useful), token_count));
}

/* Counters of experts by blocks, of which there are never more than parts in steps. */
static int64_t part_expert_words(size_t parts, size_t experts)
{
    return wtn_min_i64((int64_t)(parts * experts), EXPERT_WORDS);
}

static void carve(wtn_carver_t *carver, size_t parts, size_t peers, size_t experts, tables_t *table)
{
    table->row         = (uint32_t *)wtn_carve(carver, peers * parts, sizeof(uint32_t));
    table->token       = (uint32_t *)wtn_carve(carver, peers * parts, sizeof(uint32_t));
    table->last        = (uint32_t *)wtn_carve(carver, peers * parts, sizeof(uint32_t));
    table->row_total   = (uint32_t *)wtn_carve(carver, peers, sizeof(uint32_t));
    table->token_total = (uint32_t *)wtn_carve(carver, peers, sizeof(uint32_t));
    table->expert      = (uint32_t *)wtn_carve(carver, experts, sizeof(uint32_t));
    table->part        = table->row; /* the room of both, row and token */
    table->part_expert =
        (uint32_t *)wtn_carve(carver, (size_t)part_expert_words(parts, experts), sizeof(uint32_t));
}

extern "C" size_t wtn_schedule_workspace_bytes(int64_t token_count_max, int32_t expert_count,
                                               int32_t topk, int32_t peer_count)
{
    wtn_carver_t carver = {}, reference = {};
    tables_t     table;

    if (token_count_max > (int64_t)NONE / topk) {
        return SIZE_MAX;
    }
    carve(&carver, (size_t)parts_of(token_count_max, topk, peer_count), (size_t)peer_count,
          (size_t)expert_count, &table);
    for (int i = 0; i < 3; i++) { /* what the reference wants */
        (void)wtn_carve(&reference, (size_t)peer_count, sizeof(int64_t));
    }
    return carver.bytes > reference.bytes ? carver.bytes : reference.bytes;
}

static schedule_params_t params_of(const wtn_schedule_args_t *args)
{
    const int64_t     parts  = parts_of(args->token_count, args->topk, args->peer_count);
    const int64_t     slots  = wtn_min_i64(args->topk, args->peer_count);
    wtn_carver_t      carver = {(char *)args->workspace, 0};
    schedule_params_t p      = {};

    p.ids                 = args->ids;
    p.replicas            = wtn_replicas(args);
    p.token_count         = args->token_count;
    p.part_tokens         = wtn_ceil_div(args->token_count, parts);
    p.round_tokens        = args->round_tokens;
    p.expert_count        = (uint32_t)args->expert_count;
    p.topk                = (uint32_t)args->topk;
    p.peer_count          = (uint32_t)args->peer_count;
    p.part_count          = (uint32_t)parts;
    p.slot_count          = (uint32_t)slots;
    p.round_count         = args->round_count;
    p.reduced             = args->reduced;
    p.shared_cursors      = args->peer_count <= SHARED_PEERS;
    p.shared_experts      = args->expert_count <= SHARED_EXPERTS;
    p.expert_token_counts = args->expert_token_counts;
    p.pair_token_begin    = args->pair_token_begin;
    p.pair_row_begin      = args->pair_row_begin;
    p.send_token          = args->send_token;
    p.token_first_row     = args->token_first_row;
    p.round_row_begin     = args->round_row_begin;
    p.sum_index           = args->sum_index;
    carve(&carver, (size_t)parts, (size_t)args->peer_count, (size_t)args->expert_count, &p.table);
    return p;
}

/* Counters and cursors of a block. */
static size_t shared_bytes(const schedule_params_t *p, uint32_t threads)
{
    const size_t counters = p->shared_experts ? p->expert_count : 0;
    const size_t cursors  = p->shared_cursors ? (size_t)threads / 32 * 3 * p->peer_count : 0;

    return (size_t)wtn_max_i64(WTN_SCAN_WORDS, (int64_t)(counters + cursors)) * sizeof(uint32_t);
}

static witan_status_t run_steps(wtn_launch_t launch, const schedule_params_t *p)
{
    const uint32_t warps  = THREADS / 32;
    const uint32_t blocks = (p->part_count + warps - 1) / warps;
    witan_status_t status;

    launch.threads = THREADS;
    launch.blocks  = (p->expert_count + THREADS - 1) / THREADS;
    WTN_TRY(wtn_launch_early(&launch, zero_kernel, p));
    launch.blocks       = blocks;
    launch.shared_bytes = shared_bytes(p, THREADS);
    WTN_TRY(wtn_launch_early(&launch, count_kernel, p));
    launch.blocks       = (2 * p->peer_count + warps - 1) / warps;
    launch.shared_bytes = 0;
    WTN_TRY(wtn_launch_early(&launch, scan_kernel, p));
    launch.blocks       = 1;
    launch.threads      = BLOCK_THREADS;
    launch.shared_bytes = WTN_SCAN_WORDS * sizeof(uint32_t);
    WTN_TRY(wtn_launch_early(&launch, pairs_kernel, p));
    launch.blocks       = blocks;
    launch.threads      = THREADS;
    launch.shared_bytes = shared_bytes(p, THREADS);
    WTN_TRY(wtn_launch_early(&launch, place_kernel, p));
    return WITAN_OK;

fail:
    return status;
}

extern "C" witan_status_t wtn_cuda_schedule(const wtn_schedule_args_t *args)
{
    const size_t      needed = wtn_schedule_workspace_bytes(args->token_count, args->expert_count,
                                                            args->topk, args->peer_count);
    wtn_launch_t      launch = {};
    uint32_t          each;
    schedule_params_t params;

    if (args->workspace == NULL || args->workspace_bytes < needed) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "schedule: %" PRId64 " tokens for %d peers need a workspace of %zu bytes, "
                         "found %zu",
                         args->token_count, args->peer_count, needed, args->workspace_bytes);
    }
    params        = params_of(args);
    launch.name   = "schedule";
    launch.stream = args->stream;
    each          = choose_blocks(&params);
    return each > 0 ? run_blocks(launch, &params, each) : run_steps(launch, &params);
}

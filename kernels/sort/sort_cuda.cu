/* A counting sort. Each block takes a part of the list: its warps count the part's rows by expert
 * in shared memory and keep the rows in registers; what rows the other parts have of each expert
 * says where the block's own begin, and each lane then places its rows. The rows of the other
 * parts are counted by the block itself where parts are few, so that one launch does it all: what
 * stands between the router and the first weights of a decode step is then two waits for memory.
 * Of more parts a launch of its own counts each once.
 *
 * Where the counters of so many experts do not fit, the same is done in steps, a launch each:
 * counters of all parts in memory, prefix sums over the parts, then over the experts, then places,
 * 32 rows of a warp at a time. */
#include <inttypes.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/sort/sort.h"

#define BLOCK_THREADS 1024
#define COUNT_THREADS 512 /* leaves room for blocks of the next kernel to come early */
#define THREADS       256
/* A block's counters: one of each expert for each warp, and two more. 72 KB of shared memory. */
#define BLOCK_WORDS (36 * 512)
#define TABLES      2
/* Rows of a lane: as few as make not more than PARTS_WANTED parts, or EACH_MAX. */
#define EACH_MAX     8
#define PARTS_WANTED 128
/* Where each block counts the rows of all the others: parts, rows and, up to LITTLE_ROWS rows,
 * warps of a block. */
#define ALONE_PARTS  32
#define ALONE_ROWS   16384
#define ALONE_WARPS  16
#define LITTLE_ROWS  4096
#define LITTLE_WARPS 8
/* Counters of all parts that each block reads. */
#define TABLE_WORDS (128 * 1024)
/* Experts up to which a warp's counters are in shared memory. */
#define SHARED_EXPERTS 1024
/* Parts in steps: not less than PART_ROWS each, and together not more than PARTS_MAX * E or
 * COUNTERS_MAX counters. */
#define PART_ROWS    256
#define PARTS_MAX    1024
#define COUNTERS_MAX ((int64_t)8 << 20)
/* Loads in flight per lane over parts, and over the rows of other parts. */
#define DEPTH      4
#define DEPTH_ROWS 8
#define NONE       0xffffffffu

typedef struct sort_params {
    const int32_t *row_expert;
    const int64_t *row_in, *row_out;
    int64_t       *row_begin, *row_counts, *order, *sorted_in, *sorted_out;
    /* By blocks [parts][E], NULL: each block counts by itself. In steps [E][parts]: rows; then rows
     * of earlier parts; then the next place. */
    uint32_t *count;
    uint32_t *total; /* in steps [E]; then first place */
    uint32_t *counters;
    int64_t   row_count, part_rows;
    uint32_t  part_count, expert_count;
    uint32_t  warp_count; /* of a block that have rows */
    bool      shared_counters;
} sort_params_t;

/* A warp's counters, one per expert, `stride` apart. */
typedef struct counters {
    uint32_t *at;
    uint32_t  stride;
} counters_t;

WTN_DEVICE counters_t part_counters(const sort_params_t &p, uint32_t part)
{
    if (p.shared_counters) {
        return {(uint32_t *)wtn_shared() + (size_t)(wtn_thread() >> 5) * p.expert_count, 1};
    }
    return {p.count + part, p.part_count};
}

WTN_DEVICE uint32_t first_warp(void)
{
    return wtn_block() * (wtn_thread_count() >> 5) + (wtn_thread() >> 5);
}

WTN_DEVICE uint32_t all_warps(void)
{
    return wtn_block_count() * (wtn_thread_count() >> 5);
}

WTN_DEVICE int64_t part_end(const sort_params_t &p, uint32_t part)
{
    const int64_t end = (part + (int64_t)1) * p.part_rows;

    return end < p.row_count ? end : p.row_count;
}

/* The expert of row i, or NONE. */
WTN_DEVICE uint32_t expert_of(const sort_params_t &p, int64_t i, int64_t end)
{
    const uint32_t e = i < end ? (uint32_t)p.row_expert[i] : NONE;

    return e < p.expert_count ? e : NONE;
}

WTN_DEVICE void count_parts(const sort_params_t &p)
{
    for (uint32_t part = first_warp(); part < p.part_count; part += all_warps()) {
        const counters_t c   = part_counters(p, part);
        const int64_t    end = part_end(p, part);

        for (uint32_t e = wtn_lane(); e < p.expert_count; e += 32) {
            c.at[(size_t)e * c.stride] = 0;
        }
        wtn_sync_warp();
        for (int64_t i = part * p.part_rows + wtn_lane(); i < end; i += 32) {
            const uint32_t e = expert_of(p, i, end);

            if (e != NONE) {
                wtn_atomic_add(&c.at[(size_t)e * c.stride], 1);
            }
        }
        wtn_sync_warp();
        for (uint32_t e = wtn_lane(); p.shared_counters && e < p.expert_count; e += 32) {
            p.count[(size_t)e * p.part_count + part] = c.at[e];
        }
        wtn_sync_warp();
    }
}

/* A warp per expert: rows of the parts before each part. */
WTN_DEVICE void scan_parts(const sort_params_t &p)
{
    for (uint32_t e = first_warp(); e < p.expert_count; e += all_warps()) {
        uint32_t *count = p.count + (size_t)e * p.part_count;
        uint32_t  sum   = 0;

        for (uint32_t begin = 0; begin < p.part_count; begin += 32 * DEPTH) {
            uint32_t value[DEPTH];

#pragma unroll
            for (uint32_t d = 0; d < DEPTH; d++) {
                const uint32_t part = begin + 32 * d + wtn_lane();

                value[d] = part < p.part_count ? count[part] : 0;
            }
#pragma unroll
            for (uint32_t d = 0; d < DEPTH; d++) {
                const uint32_t part  = begin + 32 * d + wtn_lane();
                const uint32_t until = wtn_warp_scan(value[d]);

                if (part < p.part_count) {
                    count[part] = sum + until - value[d];
                }
                sum += wtn_shuffle(until, 31);
            }
        }
        if (wtn_lane() == 0) {
            p.total[e] = sum;
        }
    }
}

WTN_DEVICE void tell_expert(const sort_params_t &p, uint32_t e, uint32_t begin, uint32_t rows)
{
    if (p.row_begin != nullptr) {
        p.row_begin[e] = begin;
    }
    if (p.row_counts != nullptr) {
        p.row_counts[e] = rows;
    }
    if (p.counters != nullptr) {
        p.counters[e] = 0;
    }
}

WTN_DEVICE void tell_end(const sort_params_t &p, uint32_t rows)
{
    if (wtn_thread() == 0 && p.row_begin != nullptr) {
        p.row_begin[p.expert_count] = rows;
    }
    if (wtn_thread() == 0 && p.counters != nullptr) {
        p.counters[p.expert_count] = 0;
    }
}

/* One block: rows of the experts before each expert. */
WTN_DEVICE void scan_experts(const sort_params_t &p, uint32_t *shared)
{
    uint32_t sum = 0;

    for (uint32_t begin = 0; begin < p.expert_count; begin += wtn_thread_count()) {
        const uint32_t e     = begin + wtn_thread();
        const uint32_t value = e < p.expert_count ? p.total[e] : 0;
        uint32_t       all;
        const uint32_t before = sum + wtn_block_scan(value, shared, &all);

        if (e < p.expert_count) {
            p.total[e] = before;
            tell_expert(p, e, before, value);
        }
        sum += all;
    }
    tell_end(p, sum);
}

/* What is carried along with a row. */
typedef struct carried {
    int64_t in, out;
} carried_t;

WTN_DEVICE carried_t carried_of(const sort_params_t &p, int64_t row)
{
    return {p.sorted_in != nullptr && p.row_in != nullptr ? p.row_in[row] : row,
            p.sorted_out != nullptr && p.row_out != nullptr ? p.row_out[row] : row};
}

WTN_DEVICE void place_row(const sort_params_t &p, int64_t row, const carried_t &c, uint32_t place)
{
    if (p.order != nullptr) {
        p.order[place] = row;
    }
    if (p.sorted_in != nullptr) {
        p.sorted_in[place] = c.in;
    }
    if (p.sorted_out != nullptr) {
        p.sorted_out[place] = c.out;
    }
}

/* The next place of expert e, which may be NONE, for each lane; lanes of one expert get theirs in
 * order. */
WTN_DEVICE uint32_t take_place(const counters_t &c, uint32_t e)
{
    const uint32_t same   = wtn_match_any(e);
    const uint32_t before = wtn_count_bits(same & wtn_lanes_below());
    uint32_t       place  = 0;

    if (e != NONE) {
        place = c.at[(size_t)e * c.stride] + before;
    }
    wtn_sync_warp(); /* all have read before the first of each expert writes */
    if (e != NONE && before == 0) {
        c.at[(size_t)e * c.stride] = place + wtn_count_bits(same);
    }
    wtn_sync_warp();
    return place;
}

WTN_DEVICE void place_parts(const sort_params_t &p)
{
    for (uint32_t part = first_warp(); part < p.part_count; part += all_warps()) {
        const counters_t c   = part_counters(p, part);
        const int64_t    end = part_end(p, part);
        int64_t          i   = part * p.part_rows + wtn_lane();
        uint32_t         e   = expert_of(p, i, end);

        for (uint32_t j = wtn_lane(); j < p.expert_count; j += 32) {
            c.at[(size_t)j * c.stride] = p.total[j] + p.count[(size_t)j * p.part_count + part];
        }
        wtn_sync_warp();
        for (; i - wtn_lane() < end; i += 32) {
            const uint32_t next  = expert_of(p, i + 32, end); /* fetched meanwhile */
            const uint32_t place = take_place(c, e);

            if (e != NONE) {
                place_row(p, i, carried_of(p, i), place);
            }
            e = next;
        }
    }
}

WTN_KERNEL(THREADS, 4) count_kernel(WTN_PARAMS(sort_params_t, p))
{
    wtn_grid_join();
    count_parts(p);
}

WTN_KERNEL(THREADS, 4) scan_kernel(WTN_PARAMS(sort_params_t, p))
{
    wtn_grid_join();
    scan_parts(p);
}

WTN_KERNEL(BLOCK_THREADS, 1) experts_kernel(WTN_PARAMS(sort_params_t, p))
{
    wtn_grid_join();
    scan_experts(p, (uint32_t *)wtn_shared());
}

WTN_KERNEL(THREADS, 4) place_kernel(WTN_PARAMS(sort_params_t, p))
{
    wtn_grid_join();
    place_parts(p);
}

/* ---- by blocks ---- */

/* Rows from..to - 1 of each expert, added to table [E]. */
WTN_DEVICE void count_rows(const sort_params_t &p, int64_t from, int64_t to, uint32_t *table)
{
    const uint32_t step = wtn_thread_count();

    for (int64_t i = from + wtn_thread(); i < to; i += (int64_t)DEPTH_ROWS * step) {
        uint32_t expert[DEPTH_ROWS];

#pragma unroll
        for (uint32_t d = 0; d < DEPTH_ROWS; d++) {
            expert[d] = expert_of(p, i + (int64_t)d * step, to);
        }
#pragma unroll
        for (uint32_t d = 0; d < DEPTH_ROWS; d++) {
            if (expert[d] != NONE) {
                wtn_atomic_add(&table[expert[d]], 1);
            }
        }
    }
}

/* Each warp's counters [warps][E] become rows of the warps before it; before[e], rows of earlier
 * parts, becomes the place of the block's first row of expert e. The first block tells how many
 * rows each expert has. */
WTN_DEVICE void scan_block(const sort_params_t &p, uint32_t *counters, uint32_t *before,
                           const uint32_t *after, uint32_t *shared)
{
    uint32_t all_rows = 0;

    for (uint32_t begin = 0; begin < p.expert_count; begin += wtn_thread_count()) {
        const uint32_t e    = begin + wtn_thread();
        const bool     mine = e < p.expert_count;
        uint32_t       rows = 0, first, all;

        if (mine) {
            rows =
                before[e] + after[e] + wtn_scan_column(counters + e, p.expert_count, p.warp_count);
        }
        first = all_rows + wtn_block_scan(rows, shared, &all);
        if (mine) {
            before[e] += first;
        }
        if (mine && wtn_block() == 0) {
            tell_expert(p, e, first, rows);
        }
        all_rows += all;
    }
    if (wtn_block() == 0) {
        tell_end(p, all_rows);
    }
}

/* A block per part. Shared memory: counters [E]. */
WTN_KERNEL(COUNT_THREADS, 1) count_blocks_kernel(WTN_PARAMS(sort_params_t, p))
{
    uint32_t *const table = (uint32_t *)wtn_shared();

    for (uint32_t e = wtn_thread(); e < p.expert_count; e += wtn_thread_count()) {
        table[e] = 0;
    }
    wtn_grid_join();
    wtn_sync_block();
    count_rows(p, wtn_block() * p.part_rows, part_end(p, wtn_block()), table);
    wtn_sync_block();
    for (uint32_t e = wtn_thread(); e < p.expert_count; e += wtn_thread_count()) {
        p.count[(size_t)wtn_block() * p.expert_count + e] = table[e];
    }
}

/* A block per part, `each` rows a lane. Shared memory: for the scan; rows of earlier parts and of
 * later ones [E] each; counters [warps][E]. */
template <uint32_t each> WTN_KERNEL(BLOCK_THREADS, 1) blocks_kernel(WTN_PARAMS(sort_params_t, p))
{
    uint32_t *const  shared = (uint32_t *)wtn_shared();
    uint32_t *const  before = shared + WTN_SCAN_WORDS;
    uint32_t *const  after  = before + p.expert_count;
    uint32_t *const  counts = after + p.expert_count;
    const uint32_t   part = wtn_block(), warp = wtn_thread() >> 5;
    const counters_t at    = {counts + warp * p.expert_count, 1};
    const int64_t    end   = part_end(p, part);
    const int64_t    begin = part * p.part_rows + warp * (32 * (int64_t)each) + wtn_lane();
    constexpr bool   early = each < EACH_MAX; /* what so many rows carry does not fit registers */
    uint32_t         expert[each], place[each];
    carried_t        with[each] = {};

    for (uint32_t e = wtn_thread(); e < p.expert_count; e += wtn_thread_count()) {
        before[e] = 0;
        after[e]  = 0;
    }
    for (uint32_t e = wtn_lane(); warp < p.warp_count && e < p.expert_count; e += 32) {
        at.at[e] = 0;
    }
    wtn_sync_block();
    wtn_grid_release();
    wtn_grid_wait();
#pragma unroll
    for (uint32_t i = 0; i < each; i++) {
        const int64_t row = begin + 32 * i;

        expert[i] = expert_of(p, row, end);
        if (early && row < end) {
            with[i] = carried_of(p, row);
        }
    }
    if (p.count == nullptr) {
        count_rows(p, 0, part * p.part_rows, before);
        count_rows(p, end, p.row_count, after);
    } else {
        wtn_block_add(p.count, p.expert_count, 0, part, before);
        wtn_block_add(p.count, p.expert_count, part + 1, p.part_count, after);
    }
#pragma unroll
    for (uint32_t i = 0; i < each; i++) {
        place[i] = take_place(at, expert[i]);
    }
    wtn_sync_block();
    scan_block(p, counts, before, after, shared);
    wtn_sync_block();
#pragma unroll
    for (uint32_t i = 0; i < each; i++) {
        const uint32_t e   = expert[i];
        const int64_t  row = begin + 32 * i;

        if (e != NONE) {
            place_row(p, row, early ? with[i] : carried_of(p, row),
                      before[e] + at.at[e] + place[i]);
        }
    }
}

/* ---- the host's side ---- */

/* In steps; by blocks there are never more, as the workspace is for these. */
static int64_t parts_of(int64_t row_count, int32_t expert_count)
{
    const int64_t most = wtn_min_i64(PARTS_MAX, COUNTERS_MAX / wtn_max_i64(1, expert_count));

    return wtn_max_i64(1, wtn_min_i64(most, wtn_ceil_div(row_count, PART_ROWS)));
}

static void carve(wtn_carver_t *carver, int64_t parts, int32_t expert_count, sort_params_t *params)
{
    const size_t E = (size_t)expert_count;

    params->count = (uint32_t *)wtn_carve(carver, E * (size_t)parts, sizeof(uint32_t));
    params->total = (uint32_t *)wtn_carve(carver, E, sizeof(uint32_t));
}

extern "C" size_t wtn_sort_workspace_bytes(int64_t row_count_max, int32_t expert_count)
{
    wtn_carver_t  carver = {};
    sort_params_t params = {};

    carve(&carver, parts_of(row_count_max, expert_count), expert_count, &params);
    return carver.bytes;
}

static witan_status_t run_steps(const wtn_sort_args_t *args, const sort_params_t *params)
{
    const uint32_t warps  = THREADS / 32;
    const uint32_t blocks = (params->part_count + warps - 1) / warps;
    wtn_launch_t   launch = {};
    witan_status_t status;

    launch.name         = "sort";
    launch.stream       = args->stream;
    launch.threads      = THREADS;
    launch.blocks       = blocks;
    launch.shared_bytes = params->shared_counters ? warps * params->expert_count * 4 : 0;
    WTN_TRY(wtn_launch_early(&launch, count_kernel, params));
    launch.blocks       = (params->expert_count + warps - 1) / warps;
    launch.shared_bytes = 0;
    WTN_TRY(wtn_launch_early(&launch, scan_kernel, params));
    launch.blocks       = 1;
    launch.threads      = BLOCK_THREADS;
    launch.shared_bytes = WTN_SCAN_WORDS * 4;
    WTN_TRY(wtn_launch_early(&launch, experts_kernel, params));
    launch.threads      = THREADS;
    launch.blocks       = blocks;
    launch.shared_bytes = params->shared_counters ? warps * params->expert_count * 4 : 0;
    WTN_TRY(wtn_launch_early(&launch, place_kernel, params));
    return WITAN_OK;

fail:
    return status;
}

/* By blocks of as many warps as there is room for the counters of, so many rows a lane: 0 where
 * that would be too many parts, of which there is room for params->part_count. */
static uint32_t choose_blocks(sort_params_t *params)
{
    const int64_t rows = params->row_count, E = wtn_max_i64(1, params->expert_count);
    const int64_t room  = (BLOCK_WORDS - WTN_SCAN_WORDS) / E - TABLES;
    const int64_t most  = rows <= LITTLE_ROWS  ? LITTLE_WARPS
                          : rows <= ALONE_ROWS ? ALONE_WARPS
                                               : BLOCK_THREADS / 32;
    const int64_t warps = wtn_max_i64(0, wtn_min_i64(most, room));
    const int64_t parts = wtn_min_i64(params->part_count, TABLE_WORDS / E);
    uint32_t      each  = 0;

    if (rows <= ALONE_ROWS) {
        each = wtn_each(rows, warps * 32, EACH_MAX, ALONE_PARTS, 0);
    }
    if (each > 0) {
        params->count = NULL;
    } else {
        each = wtn_each(rows, warps * 32, EACH_MAX, wtn_min_i64(PARTS_WANTED, parts), parts);
    }
    if (each > 0) {
        params->part_rows  = warps * 32 * each;
        params->part_count = (uint32_t)wtn_max_i64(1, wtn_ceil_div(rows, params->part_rows));
        params->warp_count = (uint32_t)wtn_min_i64(warps, wtn_ceil_div(rows, 32 * (int64_t)each));
    }
    return each;
}

static witan_status_t run_blocks(const wtn_sort_args_t *args, sort_params_t *params, uint32_t each)
{
    const int64_t  experts = wtn_min_i64(BLOCK_THREADS, params->expert_count);
    const int64_t  lanes   = wtn_max_i64(params->warp_count * (int64_t)32, experts);
    const size_t   tables  = TABLES + (size_t)params->warp_count;
    wtn_launch_t   launch  = {};
    witan_status_t status;

    launch.name   = "sort";
    launch.stream = args->stream;
    launch.blocks = params->part_count;
    if (params->count != NULL) {
        launch.threads      = COUNT_THREADS;
        launch.shared_bytes = params->expert_count * sizeof(uint32_t);
        WTN_TRY(wtn_launch_early(&launch, count_blocks_kernel, params));
    }
    launch.threads = (uint32_t)wtn_max_i64(1, wtn_ceil_div(lanes, 32)) * 32;
    launch.shared_bytes =
        (WTN_SCAN_WORDS + tables * (size_t)params->expert_count) * sizeof(uint32_t);
    WTN_TRY(wtn_launch_early(&launch,
                             each == 1   ? blocks_kernel<1>
                             : each == 2 ? blocks_kernel<2>
                             : each == 4 ? blocks_kernel<4>
                                         : blocks_kernel<EACH_MAX>,
                             params));
    return WITAN_OK;

fail:
    return status;
}

extern "C" witan_status_t wtn_cuda_sort(const wtn_sort_args_t *args)
{
    const size_t  needed = wtn_sort_workspace_bytes(args->row_count, args->expert_count);
    const int64_t parts  = parts_of(args->row_count, args->expert_count);
    wtn_carver_t  carver = {(char *)args->workspace, 0};
    sort_params_t params = {};
    uint32_t      each;

    if (args->row_count < 0 || args->row_count >= (int64_t)NONE || args->workspace == NULL ||
        args->workspace_bytes < needed) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "sort: %" PRId64 " rows of %d experts need a workspace of %zu bytes, "
                         "found %zu",
                         args->row_count, args->expert_count, needed, args->workspace_bytes);
    }
    carve(&carver, parts, args->expert_count, &params);
    params.row_expert      = args->row_expert;
    params.row_in          = args->row_in;
    params.row_out         = args->row_out;
    params.row_begin       = args->row_begin;
    params.row_counts      = args->row_counts;
    params.order           = args->order;
    params.sorted_in       = args->sorted_in;
    params.sorted_out      = args->sorted_out;
    params.counters        = args->counters;
    params.row_count       = args->row_count;
    params.part_count      = (uint32_t)parts;
    params.part_rows       = (wtn_ceil_div(args->row_count, parts) + 31) / 32 * 32;
    params.expert_count    = (uint32_t)args->expert_count;
    params.shared_counters = args->expert_count <= SHARED_EXPERTS;
    each                   = choose_blocks(&params);
    return each > 0 ? run_blocks(args, &params, each) : run_steps(args, &params);
}

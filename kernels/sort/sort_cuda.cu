/* A counting sort: each warp counts the rows of its part of the list by expert; prefix sums over
 * the parts, then over the experts, tell each part where its rows of an expert begin; each warp
 * then places its rows, 32 at a time in order. Many rows are one launch per step. Few rows are one
 * launch of one block, which keeps the rows in registers and the counters in shared memory: what
 * stands between the router and the first weights of a decode step is then two waits for memory. */
#include <inttypes.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/sort/sort.h"

#define ONE_THREADS 1024
#define THREADS     256
/* One block does it all: with up to ONE_ROWS rows per lane, as many parts as that makes, and
 * counters of all parts and first places of the experts together in ONE_WORDS, 66 KB of shared
 * memory. */
#define ONE_ROWS     8
#define ONE_ROWS_MAX (ONE_THREADS * ONE_ROWS)
#define ONE_WORDS    (33 * 512)
/* Experts up to which a warp's counters are in shared memory. */
#define SHARED_EXPERTS 1024
/* Parts: as many as one block has warps, or not less than PART_ROWS each, and together not more
 * than PARTS_MAX * E or COUNTERS_MAX counters. */
#define PART_ROWS    256
#define PARTS_MAX    1024
#define COUNTERS_MAX ((int64_t)8 << 20)
/* Loads in flight per lane over parts. */
#define DEPTH 4
#define NONE  0xffffffffu

typedef struct sort_params {
    const int32_t *row_expert;
    const int64_t *row_in, *row_out;
    int64_t       *row_begin, *row_counts, *order, *sorted_in, *sorted_out;
    uint32_t      *count; /* [E][parts]: rows; then rows of earlier parts; then the next place */
    uint32_t      *total; /* [E]; then first place */
    uint32_t      *counters;
    int64_t        row_count, part_rows;
    uint32_t       part_count, expert_count;
    bool           shared_counters;
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

WTN_KERNEL(ONE_THREADS, 1) experts_kernel(WTN_PARAMS(sort_params_t, p))
{
    wtn_grid_join();
    scan_experts(p, (uint32_t *)wtn_shared());
}

WTN_KERNEL(THREADS, 4) place_kernel(WTN_PARAMS(sort_params_t, p))
{
    wtn_grid_join();
    place_parts(p);
}

/* ---- one block ---- */

/* Each expert's counters become rows of earlier parts, and first[e] where its rows begin. */
WTN_DEVICE void scan_counters(const sort_params_t &p, uint32_t *counters, uint32_t *first,
                              uint32_t *shared)
{
    uint32_t all_rows = 0;

    for (uint32_t begin = 0; begin < p.expert_count; begin += wtn_thread_count()) {
        const uint32_t e    = begin + wtn_thread();
        uint32_t       rows = 0, all, before;

        for (uint32_t part = 0; part < p.part_count && e < p.expert_count; part++) {
            uint32_t      *at    = counters + part * p.expert_count + e;
            const uint32_t count = *at;

            *at = rows;
            rows += count;
        }
        before = all_rows + wtn_block_scan(rows, shared, &all);
        if (e < p.expert_count) {
            first[e] = before;
            tell_expert(p, e, before, rows);
        }
        all_rows += all;
    }
    tell_end(p, all_rows);
}

/* A warp per part, `each` rows a lane. Shared memory: for the scan; first places [E]; counters
 * [parts][E]. */
template <uint32_t each> WTN_KERNEL(ONE_THREADS, 1) one_kernel(WTN_PARAMS(sort_params_t, p))
{
    uint32_t *const  shared = (uint32_t *)wtn_shared();
    uint32_t *const  first  = shared + WTN_SCAN_WORDS;
    uint32_t *const  counts = first + p.expert_count;
    const uint32_t   part   = wtn_thread() >> 5;
    const counters_t own    = {counts + part * p.expert_count, 1};
    const int64_t    begin  = part * p.part_rows + wtn_lane();
    uint32_t         expert[each], place[each];
    carried_t        with[each];

    for (uint32_t e = wtn_lane(); part < p.part_count && e < p.expert_count; e += 32) {
        own.at[e] = 0;
    }
    wtn_grid_release();
    wtn_grid_wait();
#pragma unroll
    for (uint32_t i = 0; i < each; i++) {
        const int64_t row = begin + 32 * i;

        expert[i] = expert_of(p, row, p.row_count);
        with[i]   = row < p.row_count ? carried_of(p, row) : carried_t{};
    }
    wtn_sync_warp();
#pragma unroll
    for (uint32_t i = 0; i < each; i++) {
        place[i] = take_place(own, expert[i]);
    }
    wtn_sync_block();
    scan_counters(p, counts, first, shared);
    wtn_sync_block();
#pragma unroll
    for (uint32_t i = 0; i < each; i++) {
        const uint32_t e = expert[i];

        if (e != NONE) {
            place_row(p, begin + 32 * i, with[i], first[e] + own.at[e] + place[i]);
        }
    }
}

/* ---- the host's side ---- */

static int64_t parts_of(int64_t row_count, int32_t expert_count)
{
    const int64_t most = wtn_min_i64(PARTS_MAX, COUNTERS_MAX / wtn_max_i64(1, expert_count));

    const int64_t useful =
        row_count <= ONE_ROWS_MAX ? ONE_THREADS / 32 : wtn_ceil_div(row_count, PART_ROWS);

    return wtn_max_i64(1, wtn_min_i64(most, wtn_min_i64(useful, row_count)));
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
    launch.threads      = ONE_THREADS;
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

/* One block: false where it can not hold so much. */
static bool fits_one(sort_params_t *params, uint32_t each)
{
    const int64_t rows = 32 * (int64_t)each, parts = wtn_ceil_div(params->row_count, rows);

    if (params->row_count > ONE_THREADS * (int64_t)each ||
        (parts + 1) * params->expert_count > ONE_WORDS) {
        return false;
    }
    params->part_count = (uint32_t)parts;
    params->part_rows  = rows;
    return true;
}

static witan_status_t run_one(const wtn_sort_args_t *args, const sort_params_t *params,
                              uint32_t each)
{
    const int64_t experts = (params->expert_count + 31) / 32 * (int64_t)32;
    const int64_t threads = wtn_max_i64(params->part_count * (int64_t)32, experts);
    wtn_launch_t  launch  = {};

    launch.name    = "sort";
    launch.stream  = args->stream;
    launch.threads = (uint32_t)wtn_max_i64(32, wtn_min_i64(threads, ONE_THREADS));
    launch.blocks  = 1;
    launch.shared_bytes =
        (WTN_SCAN_WORDS + (params->part_count + 1) * (size_t)params->expert_count) * 4;
    return wtn_launch_early(&launch, each == 1 ? one_kernel<1> : one_kernel<ONE_ROWS>, params);
}

extern "C" witan_status_t wtn_cuda_sort(const wtn_sort_args_t *args)
{
    const size_t  needed = wtn_sort_workspace_bytes(args->row_count, args->expert_count);
    const int64_t parts  = parts_of(args->row_count, args->expert_count);
    wtn_carver_t  carver = {(char *)args->workspace, 0};
    sort_params_t params = {};

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
    if (fits_one(&params, 1)) {
        return run_one(args, &params, 1);
    }
    return fits_one(&params, ONE_ROWS) ? run_one(args, &params, ONE_ROWS)
                                       : run_steps(args, &params);
}

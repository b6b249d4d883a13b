/* Prefix sums of whole numbers over a warp and over a block, and what sizes a grid. */
#ifndef WTN_SCAN_CUH
#define WTN_SCAN_CUH

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device.cuh"

/* Words of shared memory that wtn_block_scan wants. */
#define WTN_SCAN_WORDS 33

/* Lanes before this one, as a mask. */
WTN_DEVICE uint32_t wtn_lanes_below(void)
{
    return (1u << wtn_lane()) - 1u;
}

/* value of this lane and those before it. */
WTN_DEVICE uint32_t wtn_warp_scan(uint32_t value)
{
    for (uint32_t by = 1; by < 32; by *= 2) {
        const uint32_t below = wtn_shuffle_up(value, by);

        value += wtn_lane() >= by ? below : 0;
    }
    return value;
}

/* The sum of the values of the threads before this one; *total of all. Every thread of the block
 * takes part; `shared` may be used again when it returns. */
WTN_DEVICE uint32_t wtn_block_scan(uint32_t value, uint32_t *shared, uint32_t *total)
{
    const uint32_t warp = wtn_thread() >> 5, warps = wtn_thread_count() >> 5;
    const uint32_t sum = wtn_warp_scan(value);
    uint32_t       before;

    if (wtn_lane() == 31) {
        shared[warp] = sum;
    }
    wtn_sync_block();
    if (warp == 0) {
        const uint32_t one = wtn_lane() < warps ? shared[wtn_lane()] : 0;
        const uint32_t all = wtn_warp_scan(one);

        wtn_sync_warp();
        shared[wtn_lane()] = all - one;
        if (wtn_lane() == 31) {
            shared[32] = all;
        }
    }
    wtn_sync_block();
    before = shared[warp] + sum - value;
    *total = shared[32];
    wtn_sync_block();
    return before;
}

/* Column 0 of counters [rows][width] becomes what the rows before each have; the sum of all. */
WTN_DEVICE uint32_t wtn_scan_column(uint32_t *counters, uint32_t width, uint32_t rows)
{
    constexpr uint32_t depth = 8; /* in flight */

    uint32_t sum = 0;

    for (uint32_t row = 0; row < rows; row += depth) {
        uint32_t value[depth];

#pragma unroll
        for (uint32_t d = 0; d < depth; d++) {
            value[d] = row + d < rows ? counters[(row + d) * width] : 0;
        }
#pragma unroll
        for (uint32_t d = 0; d < depth; d++) {
            if (row + d < rows) {
                counters[(row + d) * width] = sum;
            }
            sum += value[d];
        }
    }
    return sum;
}

/* Rows from..to - 1 of counters [.][width], by the whole block: added to table [width] in shared
 * memory, between two barriers of the caller's. */
WTN_DEVICE void wtn_block_add(const uint32_t *counters, uint32_t width, uint32_t from, uint32_t to,
                              uint32_t *table)
{
    const uint32_t threads = wtn_thread_count();
    const bool     several = width > 0 && threads > width;
    const uint32_t groups  = several ? threads / width : 1; /* each takes some of the rows */
    const uint32_t group   = several ? wtn_thread() / width : 0;

    for (uint32_t i = wtn_thread() - group * width; group < groups && i < width; i += threads) {
        uint32_t sum = 0;

#pragma unroll 8
        for (uint32_t row = from + group; row < to; row += groups) {
            sum += counters[(size_t)row * width + i];
        }
        if (sum > 0) {
            wtn_atomic_add(&table[i], sum);
        }
    }
}

/* How many times `unit` of `work` each of a grid's parts takes: 1, 2, 4 .. each_max, the least that
 * makes up to `wanted` parts or, of each_max, up to `most`. 0: more. */
static inline uint32_t wtn_each(int64_t work, int64_t unit, uint32_t each_max, int64_t wanted,
                                int64_t most)
{
    for (uint32_t each = 1; unit > 0 && each <= each_max; each *= 2) {
        const int64_t parts = (work + unit * each - 1) / (unit * each);

        if (parts <= wanted || (each == each_max && parts <= most)) {
            return each;
        }
    }
    return 0;
}

/* Blocks for `wanted` blocks' worth of work, walked in strides by at most `per_sm` blocks on each
 * multiprocessor. */
static inline uint32_t wtn_grid(int64_t wanted, int32_t per_sm, int32_t sm_reserved)
{
    const int64_t most = (int64_t)per_sm * wtn_cuda_sm_count(sm_reserved);

    return (uint32_t)(wanted < most ? wanted : most);
}

#endif

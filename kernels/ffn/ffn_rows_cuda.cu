#include "kernels/cuda/launch.cuh"
#include "kernels/ffn/ffn_rows_cuda.h"

namespace
{

constexpr uint32_t THREADS = 256;
constexpr uint32_t WARPS   = THREADS / 32;

struct pad_params_t {
    const char    *x;
    const int64_t *index, *row_count;
    int64_t        from_bytes, to_bytes;
    char          *out;
};

/* A warp per row, two bytes at a time: where rows are no multiple of 16 bytes nothing is aligned,
 * and such sizes are no model's. */
WTN_KERNEL(THREADS, 1) pad_kernel(WTN_PARAMS(pad_params_t, p))
{
    wtn_grid_join();
    const int64_t count = *p.row_count;

    for (int64_t i = (int64_t)wtn_block() * WARPS + wtn_warp(); i < count;
         i += (int64_t)wtn_block_count() * WARPS) {
        const int64_t   row  = p.index == nullptr ? i : p.index[i];
        const uint16_t *from = (const uint16_t *)(p.x + row * p.from_bytes);
        uint16_t       *to   = (uint16_t *)(p.out + i * p.to_bytes);

        for (int64_t k = wtn_lane(); k < p.to_bytes / 2; k += 32) {
            to[k] = k < p.from_bytes / 2 ? from[k] : (uint16_t)0;
        }
    }
}

struct first_params_t {
    int64_t  *row_begin, *row_counts;
    uint32_t *counters;
    int64_t   row_count, expert_count;
};

WTN_KERNEL(THREADS, 1) first_kernel(WTN_PARAMS(first_params_t, p))
{
    const int64_t e = (int64_t)wtn_block() * THREADS + wtn_thread();

    wtn_grid_release();
    wtn_grid_wait();
    if (e <= p.expert_count) {
        p.row_begin[e] = e == 0 ? 0 : p.row_count;
        p.counters[e]  = 0;
        if (p.row_counts != nullptr && e < p.expert_count) {
            p.row_counts[e] = e == 0 ? p.row_count : 0;
        }
    }
}

} // namespace

extern "C" witan_status_t wtn_cuda_pad_rows(const wtn_cuda_pad_args_t *args)
{
    const int64_t      enough = (args->row_count_max + WARPS - 1) / WARPS;
    const int64_t      blocks = (int64_t)wtn_cuda_sm_count(args->sm_reserved) * 8;
    const pad_params_t params = {(const char *)args->x,   args->index,
                                 args->row_count,         (int64_t)args->from_bytes,
                                 (int64_t)args->to_bytes, (char *)args->out};
    wtn_launch_t       launch = {};

    launch.name    = "pad rows";
    launch.blocks  = (uint32_t)(enough < blocks ? enough : blocks);
    launch.threads = THREADS;
    launch.stream  = args->stream;
    return wtn_launch_early(&launch, pad_kernel, &params);
}

extern "C" witan_status_t wtn_cuda_first_expert(const wtn_sort_args_t *sort)
{
    const first_params_t params = {sort->row_begin, sort->row_counts, sort->counters,
                                   sort->row_count, sort->expert_count};
    wtn_launch_t         launch = {};

    launch.name    = "first expert";
    launch.blocks  = (uint32_t)sort->expert_count / THREADS + 1;
    launch.threads = THREADS;
    launch.stream  = sort->stream;
    return wtn_launch_early(&launch, first_kernel, &params);
}

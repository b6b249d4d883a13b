/* Rows in another order, at the bandwidth of memory: a group of lanes per piece of a row. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/gather/copy_row.cuh"
#include "kernels/gather/gather.h"

#define THREADS 256
#define BLOCKS  6 /* per multiprocessor */
/* Longer rows are cut, so that few of them still occupy the device; a multiple of 16. */
#define PIECE_BYTES 8192

typedef struct gather_params {
    const char    *x;
    const int64_t *index;
    char          *out;
    int64_t        item_count; /* pieces of all rows */
    size_t         row_bytes;
    int64_t        row_pieces;
    uint32_t       lanes; /* per piece: a power of two */
} gather_params_t;

WTN_KERNEL(THREADS, BLOCKS) gather_kernel(WTN_PARAMS(gather_params_t, p))
{
    const uint32_t groups = THREADS / p.lanes;
    const uint32_t lane   = wtn_thread() % p.lanes;
    int64_t        item   = (int64_t)wtn_block() * groups + wtn_thread() / p.lanes;

    for (; item < p.item_count; item += (int64_t)wtn_block_count() * groups) {
        const int64_t row   = p.row_pieces == 1 ? item : item / p.row_pieces;
        const size_t  begin = (size_t)(item - row * p.row_pieces) * PIECE_BYTES;
        const size_t  left  = p.row_bytes - begin;

        wtn_copy_row(p.out + (size_t)row * p.row_bytes + begin,
                     p.x + (size_t)p.index[row] * p.row_bytes + begin,
                     left < PIECE_BYTES ? left : PIECE_BYTES, lane, p.lanes);
    }
}

extern "C" witan_status_t wtn_cuda_gather(const wtn_gather_args_t *args)
{
    const int64_t   pieces = (int64_t)((args->row_bytes + PIECE_BYTES - 1) / PIECE_BYTES);
    gather_params_t params = {};
    wtn_launch_t    launch = {};
    int64_t         blocks;

    if (args->row_count == 0 || args->row_bytes == 0) {
        return WITAN_OK;
    }
    params.x          = (const char *)args->x;
    params.index      = args->index;
    params.out        = (char *)args->out;
    params.item_count = args->row_count * pieces;
    params.row_bytes  = args->row_bytes;
    params.row_pieces = pieces;
    for (params.lanes = 1; params.lanes < 32 && params.lanes * 16 < args->row_bytes;) {
        params.lanes *= 2;
    }
    blocks         = (params.item_count + THREADS / params.lanes - 1) / (THREADS / params.lanes);
    launch.name    = "gather";
    launch.blocks  = wtn_grid(blocks, BLOCKS, 0);
    launch.threads = THREADS;
    launch.stream  = args->stream;
    return wtn_launch(&launch, gather_kernel, &params);
}

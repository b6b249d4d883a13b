/* A warp per entry, 16 bytes a lane where both sides allow it. Stores to a peer are not waited for;
 * the signal behind this kernel orders them.
 *
 * Entries are taken from all peers in turn: if every rank began with the first peer, its links
 * would be all that move. */
#include "kernels/cuda/launch.cuh"
#include "kernels/gather/copy_row.cuh"
#include "kernels/push/push.h"

#define WARPS 8

WTN_KERNEL(WARPS * 32, 1) push_kernel(WTN_PARAMS(wtn_push_args_t, p))
{
    int64_t count = p.entry_count * p.peer_count;

    for (int64_t i = (int64_t)wtn_block() * WARPS + wtn_warp(); i < count;
         i += (int64_t)wtn_block_count() * WARPS) {
        int64_t peer  = i % p.peer_count;
        int64_t entry = peer * p.entry_count + i / p.peer_count;
        int64_t row   = p.row_index == nullptr ? entry : p.row_index[entry];

        if (p.row_expert[entry * p.expert_stride] >= 0) {
            wtn_copy_row((char *)p.to[peer] + p.offset +
                             (size_t)(row - peer * p.entry_count) * p.row_bytes,
                         p.rows + (size_t)row * p.row_bytes, p.row_bytes, wtn_lane(), 32);
        }
    }
}

witan_status_t wtn_cuda_push(const wtn_push_args_t *args)
{
    int64_t      blocks = (args->entry_count * args->peer_count + WARPS - 1) / WARPS;
    int64_t      most   = 4 * (int64_t)wtn_cuda_sm_count(args->sm_reserved);
    wtn_launch_t launch = {"push",      (uint32_t)(blocks < most ? blocks : most), 0, WARPS * 32, 0,
                           args->stream};

    return wtn_launch(&launch, push_kernel, args);
}

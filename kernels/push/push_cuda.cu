/* A warp per entry, 16 bytes a lane where both sides allow it. Stores to a peer are not waited for;
 * the signal behind this kernel orders them.
 *
 * Entries are taken from all peers in turn: if every rank began with the first peer, its links
 * would be all that move. */
#include "kernels/cuda/launch.cuh"
#include "kernels/push/push.h"

#define WARPS  8
#define FLIGHT 4 /* loads of a lane asked for before one is awaited */

WTN_DEVICE void copy_row(char *to, const char *from, size_t bytes)
{
    const size_t step = 32 * 16;

    size_t lane = wtn_lane();
    size_t i    = lane * 16;

    if ((((uintptr_t)to | (uintptr_t)from | bytes) & 15) == 0) {
        for (; i + (FLIGHT - 1) * step < bytes; i += FLIGHT * step) {
            wtn_vec16_t part[FLIGHT];

#pragma unroll
            for (int j = 0; j < FLIGHT; j++) {
                part[j] = wtn_load16(from + i + j * step);
            }
#pragma unroll
            for (int j = 0; j < FLIGHT; j++) {
                wtn_store16(to + i + j * step, part[j]);
            }
        }
        for (; i < bytes; i += step) {
            wtn_store16(to + i, wtn_load16(from + i));
        }
        return;
    }
    for (i = lane * 2; i < bytes; i += 32 * 2) { /* an element has 2 or 4 bytes */
        *(uint16_t *)(to + i) = *(const uint16_t *)(from + i);
    }
}

WTN_KERNEL(WARPS * 32, 1) push_kernel(WTN_PARAMS(wtn_push_args_t, p))
{
    int64_t count = p.entry_count * p.peer_count;

    for (int64_t i = (int64_t)wtn_block() * WARPS + wtn_warp(); i < count;
         i += (int64_t)wtn_block_count() * WARPS) {
        int64_t peer  = i % p.peer_count;
        int64_t entry = peer * p.entry_count + i / p.peer_count;
        int64_t row   = p.row_index == nullptr ? entry : p.row_index[entry];

        if (p.row_expert[entry * p.expert_stride] >= 0) {
            copy_row((char *)p.to[peer] + p.offset +
                         (size_t)(row - peer * p.entry_count) * p.row_bytes,
                     p.rows + (size_t)row * p.row_bytes, p.row_bytes);
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

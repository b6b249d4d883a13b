/* One thread per entry; the sum of bad ids is a whole number, so the order of adding is not seen.
 */
#include "kernels/cuda/launch.cuh"
#include "kernels/slots/slots.h"

#define THREADS 256

static uint32_t blocks_for(int64_t count)
{
    int64_t blocks = (count + THREADS - 1) / THREADS;

    return (uint32_t)(blocks < 4096 ? blocks : 4096);
}

WTN_KERNEL(32, 1) clear_kernel(WTN_PARAMS(wtn_ids_args_t, p))
{
    if (wtn_thread() == 0) {
        *p.bad_count = 0;
    }
}

WTN_KERNEL(THREADS, 1) ids_kernel(WTN_PARAMS(wtn_ids_args_t, p))
{
    for (int64_t i = (int64_t)wtn_block() * THREADS + wtn_thread(); i < p.count;
         i += (int64_t)wtn_block_count() * THREADS) {
        int32_t id   = p.ids[i];
        bool    good = id >= -1 && id < p.expert_count;

        p.out[i] = good ? id : -1;
        if (!good) {
            wtn_atomic_add(p.bad_count, 1);
        }
    }
}

witan_status_t wtn_cuda_ids(const wtn_ids_args_t *args)
{
    wtn_launch_t   launch = {"import: clear", 1, 0, 32, 0, args->stream};
    witan_status_t status = wtn_launch(&launch, clear_kernel, args);

    launch = wtn_launch_t{"import: ids", blocks_for(args->count), 0, THREADS, 0, args->stream};
    return status == WITAN_OK ? wtn_launch(&launch, ids_kernel, args) : status;
}

/* The last begin of begins[0..count) that is <= place, where begins[count] > place. */
WTN_DEVICE int32_t run_of(const int64_t *begins, int32_t count, int64_t place)
{
    int32_t low = 0, high = count;

    while (high - low > 1) {
        int32_t middle = (low + high) / 2;

        if (begins[middle] <= place) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

WTN_KERNEL(THREADS, 1) slots_kernel(WTN_PARAMS(wtn_slots_args_t, p))
{
    wtn_grid_join();
    for (int64_t i = (int64_t)wtn_block() * THREADS + wtn_thread(); i < p.count;
         i += (int64_t)wtn_block_count() * THREADS) {
        int64_t place = p.index[i], round;
        int32_t pair;

        if (place < 0) {
            continue;
        }
        pair = run_of(p.pair_begin, p.peer_count, place);
        place -= p.pair_begin[pair];
        if (p.round_begin == NULL) {
            round = place / p.slot_count;
            place -= round * p.slot_count;
        } else {
            const int64_t *begins = p.round_begin + (int64_t)pair * (p.round_count + 1);

            round = run_of(begins, p.round_count, place);
            place -= begins[round];
        }
        p.index[i] = (round * p.peer_count + pair) * p.slot_count + place;
    }
}

witan_status_t wtn_cuda_slots(const wtn_slots_args_t *args)
{
    wtn_launch_t launch = {"slots", blocks_for(args->count), 0, THREADS, 0, args->stream};

    return wtn_launch_early(&launch, slots_kernel, args);
}

/* Telling peers, and waiting for them, in the order of a stream.
 *
 * Each flag is one 64-bit number that only grows, written by one peer. The numbers are counted in
 * the device's memory, so that a captured launch counts on at each replay. */
#include "comm/direct_kernel.h"
#include "kernels/cuda/launch.cuh"

#define THREADS     128
#define PAUSE_NS    100
#define STOP_PERIOD 64 /* the stop word is the host's: asking costs a round over the bus */

/* The number of this launch, counted by the way. */
WTN_DEVICE uint64_t count_launch(uint64_t *counter)
{
    uint64_t number = *counter + 1;

    wtn_sync_block(); /* all have read */
    if (wtn_thread() == 0) {
        *counter = number;
    }
    return number;
}

/* What earlier kernels of the stream wrote into peers' windows is in order before this kernel; the
 * release makes it so for who acquires the flag, on whatever device. */
WTN_KERNEL(THREADS, 1) signal_kernel(WTN_PARAMS(wtn_direct_params_t, p))
{
    uint64_t number = count_launch(p.counter);

    for (int32_t i = (int32_t)wtn_thread(); i < p.peer_count; i += THREADS) {
        wtn_fence_system();
        wtn_store_release_system(p.theirs[i], number);
    }
}

/* One thread waits for one peer. */
WTN_DEVICE void wait_for_peer(const wtn_direct_params_t &p, int32_t i, uint64_t number)
{
    uint64_t begin_ns = wtn_time_ns();

    for (uint32_t pass = 0; wtn_load_acquire_system(p.mine + i) < number; pass++) {
        if (pass % STOP_PERIOD == 0 && wtn_load_acquire_system(p.stop) != 0) {
            return;
        }
        if (wtn_time_ns() - begin_ns >= p.timeout_ns) {
            wtn_store_release_system(p.faults + i, number);
            return;
        }
        wtn_pause(PAUSE_NS);
    }
}

WTN_KERNEL(THREADS, 1) wait_kernel(WTN_PARAMS(wtn_direct_params_t, p))
{
    uint64_t number = count_launch(p.counter);

    for (int32_t i = (int32_t)wtn_thread(); i < p.peer_count; i += THREADS) {
        if (wtn_load_acquire_system(p.faults + i) == 0) { /* given up once is given up */
            wait_for_peer(p, i, number);
        }
    }
}

extern "C" witan_status_t wtn_direct_launch_signal(const wtn_direct_params_t *params, void *stream)
{
    wtn_launch_t launch = {};

    launch.name    = "direct_signal";
    launch.blocks  = 1;
    launch.threads = THREADS;
    launch.stream  = stream;
    return wtn_launch(&launch, signal_kernel, params);
}

extern "C" witan_status_t wtn_direct_launch_wait(const wtn_direct_params_t *params, void *stream)
{
    wtn_launch_t launch = {};

    launch.name    = "direct_wait";
    launch.blocks  = 1;
    launch.threads = THREADS;
    launch.stream  = stream;
    return wtn_launch(&launch, wait_kernel, params);
}

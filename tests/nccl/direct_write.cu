#include "kernels/cuda/launch.cuh"
#include "tests/nccl/direct_write.h"

#define THREADS 64

WTN_DEVICE uint32_t word(uint32_t step, int32_t from, int32_t to, int32_t i)
{
    return step * 2654435761u + (uint32_t)(from * 7919 + to * 104729 + i);
}

WTN_KERNEL(THREADS, 1) write_kernel(WTN_PARAMS(direct_params_t, p))
{
    for (int32_t to = 0; to < p.peer_count; to++) {
        uint32_t *part = (uint32_t *)p.windows[to] + p.mine * p.word_count;

        for (int32_t i = (int32_t)wtn_thread(); i < p.word_count; i += THREADS) {
            part[i] = word(*p.step, p.mine, to, i);
        }
    }
}

WTN_KERNEL(THREADS, 1) check_kernel(WTN_PARAMS(direct_params_t, p))
{
    uint32_t step = *p.step;

    for (int32_t from = 0; from < p.peer_count; from++) {
        const uint32_t *part = (const uint32_t *)p.windows[p.mine] + from * p.word_count;

        for (int32_t i = (int32_t)wtn_thread(); i < p.word_count; i += THREADS) {
            if (part[i] != word(step, from, p.mine, i)) {
                (void)wtn_atomic_add(p.mistakes, 1);
            }
        }
    }
    wtn_sync_block(); /* all have read the step */
    if (wtn_thread() == 0) {
        *p.step = step + 1;
    }
}

static witan_status_t run(const char            *name, void (*kernel)(direct_params_t),
                          const direct_params_t *params, void *stream)
{
    wtn_launch_t launch = {};

    launch.name    = name;
    launch.blocks  = 1;
    launch.threads = THREADS;
    launch.stream  = stream;
    return wtn_launch(&launch, kernel, params);
}

extern "C" witan_status_t direct_write(const direct_params_t *params, void *stream)
{
    return run("direct_write", write_kernel, params, stream);
}

extern "C" witan_status_t direct_check(const direct_params_t *params, void *stream)
{
    return run("direct_check", check_kernel, params, stream);
}

/* Random numbers for benchmarks, made where they are needed. */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/measure_cuda.h"

#define THREADS 256
#define BLOCKS  1024

typedef struct fill_params {
    void    *out;
    int64_t  count;
    uint32_t seed, dtype;
} fill_params_t;

/* A finaliser of 32-bit words, twice: enough to look random to a multiplier. */
WTN_DEVICE uint32_t mix(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

WTN_KERNEL(THREADS, 1) fill_kernel(WTN_PARAMS(fill_params_t, p))
{
    int64_t step = (int64_t)wtn_block_count() * THREADS;

    for (int64_t i = (int64_t)wtn_block() * THREADS + wtn_thread(); i < p.count; i += step) {
        uint32_t bits  = mix((uint32_t)i ^ mix((uint32_t)(i >> 32) + p.seed));
        float    value = ((float)(bits >> 8) + 0.5f) * 0x1p-23f - 1.0f;

        if (p.dtype == WITAN_F32) {
            ((float *)p.out)[i] = value;
        } else {
            ((uint16_t *)p.out)[i] = (uint16_t)(p.dtype == WITAN_BF16 ? wtn_pack_bf16(value, 0.0f)
                                                                      : wtn_pack_f16(value, 0.0f));
        }
    }
}

extern "C" witan_status_t wtn_cuda_fill_random(void *out, witan_dtype_t dtype, int64_t count,
                                               uint32_t seed, void *stream)
{
    const wtn_launch_t  launch = {"fill", count > 0 ? BLOCKS : 0u, 0, THREADS, 0, stream};
    const fill_params_t params = {out, count, seed, (uint32_t)dtype};

    return wtn_launch(&launch, fill_kernel, &params);
}

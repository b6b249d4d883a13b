/* The bandwidth of a device's memory, by the kernels a careful user of it would write. */
#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/probe/probe_cuda.h"

#define THREADS 512
#define BLOCKS  2 /* per multiprocessor */
#define DEPTH   8 /* loads in flight per thread */
/* Launches timed together, and how often: the best counts. */
#define LAUNCHES 8
#define ROUNDS   5

typedef struct probe_params {
    const char *from;
    char       *to;    /* read: never written, as no word is all ones */
    int64_t     count; /* of 16 bytes */
} probe_params_t;

/* DEPTH loads, none of which waits for another: no condition stands between them. */
WTN_DEVICE void load_run(wtn_vec16_t (&v)[DEPTH], const char *from, int64_t step)
{
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
        v[d] = wtn_load16_stream(from + 16 * d * step);
    }
}

WTN_KERNEL(THREADS, BLOCKS) copy_kernel(WTN_PARAMS(probe_params_t, p))
{
    const int64_t step = (int64_t)wtn_block_count() * THREADS;
    int64_t       i    = (int64_t)wtn_block() * THREADS + wtn_thread();
    wtn_vec16_t   v[DEPTH];

    for (; i + (DEPTH - 1) * step < p.count; i += DEPTH * step) {
        load_run(v, p.from + 16 * i, step);
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            wtn_store16(p.to + 16 * (i + d * step), v[d]);
        }
    }
    for (; i < p.count; i += step) {
        wtn_store16(p.to + 16 * i, wtn_load16_stream(p.from + 16 * i));
    }
}

WTN_DEVICE void add_bits(wtn_vec16_t *all, wtn_vec16_t v)
{
    all->x |= v.x;
    all->y |= v.y;
    all->z |= v.z;
    all->w |= v.w;
}

WTN_KERNEL(THREADS, BLOCKS) read_kernel(WTN_PARAMS(probe_params_t, p))
{
    const int64_t step = (int64_t)wtn_block_count() * THREADS;
    int64_t       i    = (int64_t)wtn_block() * THREADS + wtn_thread();
    wtn_vec16_t   all  = {0, 0, 0, 0}, v[DEPTH];

    for (; i + (DEPTH - 1) * step < p.count; i += DEPTH * step) {
        load_run(v, p.from + 16 * i, step);
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            add_bits(&all, v[d]);
        }
    }
    for (; i < p.count; i += step) {
        add_bits(&all, wtn_load16_stream(p.from + 16 * i));
    }
    if ((all.x & all.y & all.z & all.w) == 0xffffffffu) {
        wtn_store16(p.to, all);
    }
}

static witan_status_t measure(void (*kernel)(probe_params_t), const char *name, double bytes,
                              const probe_params_t *params, double *out)
{
    const int64_t  blocks = wtn_ceil_div(params->count, THREADS);
    uint64_t       best   = UINT64_MAX;
    wtn_launch_t   launch = {};
    witan_status_t status;

    launch.name    = name;
    launch.blocks  = wtn_grid(blocks, BLOCKS, 0);
    launch.threads = THREADS;
    for (int round = 0; round <= ROUNDS; round++) { /* the first one warms up */
        uint64_t begin = wtn_now_ns(), took;

        for (int i = 0; i < LAUNCHES; i++) {
            WTN_TRY(wtn_launch(&launch, kernel, params));
        }
        WTN_CUDA_TRY((int)cudaDeviceSynchronize());
        took = wtn_now_ns() - begin;
        best = round > 0 && took < best ? took : best;
    }
    *out = bytes * LAUNCHES / ((double)(best > 0 ? best : 1) * 1e-9);
    return WITAN_OK;

fail:
    return status;
}

/* `arrays` arrays of `bytes` bytes, the first of zeros. */
static witan_status_t probe(size_t bytes, int arrays, double *out)
{
    probe_params_t params = {};
    void          *memory = NULL;
    witan_status_t status;

    bytes = bytes / 16 * 16;
    *out  = 0.0;
    if (bytes == 0) {
        return WITAN_OK;
    }
    WTN_CUDA_TRY((int)cudaMalloc(&memory, bytes * (size_t)arrays));
    WTN_CUDA_TRY((int)cudaMemset(memory, 0, bytes));
    params.from  = (const char *)memory;
    params.to    = (char *)memory + (arrays > 1 ? bytes : 0);
    params.count = (int64_t)(bytes / 16);
    WTN_TRY(measure(arrays > 1 ? copy_kernel : read_kernel,
                    arrays > 1 ? "copy bandwidth" : "read bandwidth", (double)bytes * arrays,
                    &params, out));
fail:
    (void)cudaFree(memory);
    return status;
}

extern "C" witan_status_t wtn_cuda_probe_copy_bandwidth(size_t bytes, double *out)
{
    return probe(bytes, 2, out);
}

extern "C" witan_status_t wtn_cuda_probe_read_bandwidth(size_t bytes, double *out)
{
    return probe(bytes, 1, out);
}

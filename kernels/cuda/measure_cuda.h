/* The slots of wtn_backend_cuda for benchmarks. */
#ifndef WTN_MEASURE_CUDA_H
#define WTN_MEASURE_CUDA_H

#include <stddef.h>
#include <stdint.h>

#include <witan/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct wtn_tier;

witan_status_t wtn_cuda_measure(witan_status_t (*call)(void *context), void *context, void *stream,
                                double *seconds);
/* Of a product of 8192 x 8192 matrices of random numbers by cuBLAS; 0 where there is none. */
double wtn_cuda_peak(const struct wtn_tier *tier, witan_dtype_t dtype, int32_t thread_count);
double wtn_cuda_read_bandwidth(size_t bytes, int32_t thread_count);

/* Uniform numbers in (-1, 1) by index and seed, into device memory. */
witan_status_t wtn_cuda_fill_random(void *out, witan_dtype_t dtype, int64_t count, uint32_t seed,
                                    void *stream);

#ifdef __cplusplus
}
#endif

#endif

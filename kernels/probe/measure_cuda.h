/* Time and yardsticks on a device: the slots of wtn_backend_cuda for benchmarks. */
#ifndef WTN_MEASURE_CUDA_H
#define WTN_MEASURE_CUDA_H

#include "kernels/backend.h"

/* The device's time of one call by events around it, after a write of four times the L2 cache. */
witan_status_t wtn_cuda_measure(witan_status_t (*call)(void *context), void *context, void *stream,
                                double *seconds);

/* Best of a few cuBLAS products of 8192 x 8192 x 8192 on random numbers: numbers that do not
 * change cost no power and make a device look faster. fp32 as Witan has it, without TF32. */
double wtn_cuda_peak(const wtn_tier_t *tier, witan_dtype_t dtype, int32_t thread_count);

double wtn_cuda_read_bandwidth(size_t bytes, int32_t thread_count);

#endif

/* What this machine can do at most, measured: the yardsticks of `witan bench`. */
#ifndef WTN_PROBE_H
#define WTN_PROBE_H

#include "kernels/tier.h"

/* FLOP/s of the tier's multiply-add on registers alone, all threads together. About 20 ms.
 * 0 for a tier of a device. */
double wtn_probe_peak(const wtn_tier_t *tier, witan_dtype_t dtype, int32_t thread_count);

/* Bytes/s at which `thread_count` threads read an array of `bytes` bytes: best of three passes.
 * 0 when there is no memory for it. Take it well beyond the last-level cache. */
double wtn_probe_read_bandwidth(size_t bytes, int32_t thread_count);

/* Slots of tiers. */
double wtn_peak_scalar(int64_t rounds);
double wtn_peak_avx2(int64_t rounds);
double wtn_peak_avx512(int64_t rounds);
double wtn_peak_avx512_bf16(int64_t rounds);

#endif

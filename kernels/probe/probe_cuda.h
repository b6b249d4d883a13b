/* What the current device's memory can do at most, measured: the yardsticks of `witan bench` and
 * `witan info` on a GPU. */
#ifndef WTN_PROBE_CUDA_H
#define WTN_PROBE_CUDA_H

#include <stddef.h>

#include <witan/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes/s of a copy inside the device's memory, reads and writes both counted, of arrays of
 * `bytes` bytes each; and of reading one. Best of several; take well more than the L2 cache. */
witan_status_t wtn_cuda_probe_copy_bandwidth(size_t bytes, double *out);
witan_status_t wtn_cuda_probe_read_bandwidth(size_t bytes, double *out);

#ifdef __cplusplus
}
#endif

#endif

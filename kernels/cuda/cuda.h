/* Host side of the cuda backend: status from foreign codes, launches, memory of the device.
 *
 * A stream is a cudaStream_t held as void *, so that C sources without CUDA's headers can pass it
 * on. Nothing here waits for the device but what says so. */
#ifndef WTN_CUDA_H
#define WTN_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <witan/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* WITAN_OK for code 0 (cudaSuccess); else "<what>: <CUDA's own name and text>", as WITAN_E_MEMORY
 * where the device has none left, WITAN_E_UNSUPPORTED where there is no device, driver or code for
 * it, WITAN_E_INTERNAL otherwise. */
witan_status_t wtn_cuda_status(int code, const char *what);

/* The multiprocessors of the current device a kernel may take: all, less those a plan leaves to
 * communication. */
int32_t wtn_cuda_sm_count(int32_t reserved);

/* Blocks of so much shared memory that a multiprocessor holds at once, 1 to `most`: a persistent
 * grid of more would run in two waves. */
int32_t wtn_cuda_resident_blocks(size_t shared_bytes, int32_t most);

/* Shared memory that a block of the current device may have. */
size_t wtn_cuda_shared_bytes_max(void);

/* Compute capability of the current device, 10 * major + minor; 0 without a device. */
int32_t wtn_cuda_capability(void);

/* Is there a driver, and a device of capability 8.0 or newer? If not, why. */
bool wtn_cuda_probe(char *reason, size_t reason_bytes);

/* A named range on the calling thread's line in profilers (NVTX); they nest. Without a profiler
 * they cost a comparison. */
void wtn_cuda_range_push(const char *name);
void wtn_cuda_range_pop(void);

#ifdef __cplusplus
}
#endif

/* For functions with `witan_status_t status` and a label `fail`, beside WTN_TRY. */
#define WTN_CUDA_TRY(call)                       \
    do {                                         \
        status = wtn_cuda_status((call), #call); \
        if (status != WITAN_OK) {                \
            goto fail;                           \
        }                                        \
    } while (0)

#endif

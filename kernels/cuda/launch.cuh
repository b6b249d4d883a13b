/* Launching a kernel: one struct of parameters, a grid, dynamic shared memory, a stream. */
#ifndef WTN_LAUNCH_CUH
#define WTN_LAUNCH_CUH

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device.cuh"

typedef struct wtn_launch {
    const char *name;             /* in error texts and profiles */
    uint32_t    blocks, blocks_y; /* blocks_y 0: 1 */
    uint32_t    threads;
    size_t      shared_bytes;
    void       *stream;
} wtn_launch_t;

#ifdef WTN_EMULATOR
#include "tests/emulator/launch_emulator.h"
#else
template <typename params_t>
static inline witan_status_t wtn_launch(const wtn_launch_t *launch, void (*kernel)(params_t),
                                        const params_t     *params)
{
    void       *arguments[] = {const_cast<params_t *>(params)};
    cudaError_t code        = cudaSuccess;

    if (launch->blocks == 0) {
        return WITAN_OK;
    }
    if (launch->shared_bytes > 48 * 1024) {
        code =
            cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)launch->shared_bytes);
    }
    if (code == cudaSuccess) {
        code = cudaLaunchKernel((const void *)kernel,
                                dim3(launch->blocks, launch->blocks_y == 0 ? 1 : launch->blocks_y),
                                dim3(launch->threads), arguments, launch->shared_bytes,
                                (cudaStream_t)launch->stream);
    }
    return wtn_cuda_status((int)code, launch->name);
}
#endif

#endif

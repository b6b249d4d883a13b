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
static inline witan_status_t wtn_launch_with(const wtn_launch_t *launch, void (*kernel)(params_t),
                                             const params_t *params, cudaLaunchAttribute *attribute)
{
    void              *arguments[] = {const_cast<params_t *>(params)};
    cudaLaunchConfig_t config      = {};
    cudaError_t        code        = cudaSuccess;

    if (launch->blocks == 0) {
        return WITAN_OK;
    }
    config.gridDim          = dim3(launch->blocks, launch->blocks_y == 0 ? 1 : launch->blocks_y);
    config.blockDim         = dim3(launch->threads);
    config.dynamicSmemBytes = launch->shared_bytes;
    config.stream           = (cudaStream_t)launch->stream;
    config.attrs            = attribute;
    config.numAttrs         = attribute == NULL ? 0 : 1;
    if (launch->shared_bytes > 48 * 1024) {
        code =
            cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)launch->shared_bytes);
    }
    if (code == cudaSuccess && launch->shared_bytes > 48 * 1024) { /* as many blocks as fit */
        code = cudaFuncSetAttribute((const void *)kernel,
                                    cudaFuncAttributePreferredSharedMemoryCarveout,
                                    cudaSharedmemCarveoutMaxShared);
    }
    if (code == cudaSuccess) {
        code = cudaLaunchKernelExC(&config, (const void *)kernel, arguments);
    }
    return wtn_cuda_status((int)code, launch->name);
}
template <typename params_t>
static inline witan_status_t wtn_launch(const wtn_launch_t *launch, void (*kernel)(params_t),
                                        const params_t     *params)
{
    return wtn_launch_with(launch, kernel, params, NULL);
}
/* A kernel that begins before the one queued before it has ended, where that one has released it
 * (wtn_grid_release), and waits for its end by itself (wtn_grid_wait), in every block and before it
 * writes anything or reads what another wrote, unless that was there before the one before began.
 * Before sm_90 an ordinary launch. */
template <typename params_t>
static inline witan_status_t wtn_launch_early(const wtn_launch_t *launch, void (*kernel)(params_t),
                                              const params_t     *params)
{
    cudaLaunchAttribute early = {};

    if (wtn_cuda_capability() < 90) {
        return wtn_launch(launch, kernel, params);
    }
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    return wtn_launch_with(launch, kernel, params, &early);
}
#endif

#endif

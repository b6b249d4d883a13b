/* wtn_launch (kernels/cuda/launch.cuh) for the emulator. */
#ifndef WTN_EMULATOR_LAUNCH_EMULATOR_H
#define WTN_EMULATOR_LAUNCH_EMULATOR_H

#include "tests/emulator/launch.h"

namespace emulator
{

template <typename params_t> static void call_kernel(const void *kernel, const void *params)
{
    ((void (*)(params_t))kernel)(*(const params_t *)params);
}

} // namespace emulator

template <typename params_t>
static inline witan_status_t wtn_launch(const wtn_launch_t *launch, void (*kernel)(params_t),
                                        const params_t     *params)
{
    emulator::launch_t asked = {};
    cudaError_t        code  = cudaSuccess;

    static_assert(sizeof(params_t) <= 32764, "PTX ISA: the parameters of a kernel");
    if (launch->blocks == 0) {
        return WITAN_OK;
    }
    asked.name         = launch->name;
    asked.kernel       = (const void *)kernel;
    asked.call         = emulator::call_kernel<params_t>;
    asked.blocks       = launch->blocks;
    asked.blocks_y     = launch->blocks_y == 0 ? 1 : launch->blocks_y;
    asked.threads      = launch->threads;
    asked.shared_bytes = launch->shared_bytes;
    if (launch->shared_bytes > 48 * 1024) {
        code = cudaFuncSetAttribute(asked.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    (int)launch->shared_bytes);
    }
    if (code == cudaSuccess) {
        code =
            emulator::launch_kernel(asked, params, sizeof(*params), (cudaStream_t)launch->stream);
    }
    return wtn_cuda_status((int)code, launch->name);
}

/* Here each grid ends before the next begins. */
template <typename params_t>
static inline witan_status_t wtn_launch_early(const wtn_launch_t *launch, void (*kernel)(params_t),
                                              const params_t     *params)
{
    return wtn_launch(launch, kernel, params);
}

#endif

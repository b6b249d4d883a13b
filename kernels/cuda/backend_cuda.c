/* The cuda backend's row: memory of the current device, and the slots of every operation. */
#include <cuda_runtime_api.h>

#include "core/error.h"
#include "kernels/backend.h"
#include "kernels/combine/combine.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/measure_cuda.h"
#include "kernels/cuda/tiers_cuda.h"
#include "kernels/device.h"
#include "kernels/ffn/ffn_cuda.h"
#include "kernels/gate/gate.h"
#include "kernels/gather/gather.h"
#include "kernels/topk/topk.h"

static witan_status_t memory_alloc(void **out, size_t bytes)
{
    witan_status_t status;

    *out   = NULL;
    status = wtn_cuda_status((int)cudaMalloc(out, bytes == 0 ? 1 : bytes), "cudaMalloc");
    return status == WITAN_OK ? status : wtn_error_prefix(status, "%zu bytes", bytes);
}

static void memory_free(void *memory)
{
    (void)cudaFree(memory);
}

static witan_status_t pinned_alloc(void **out, size_t bytes)
{
    witan_status_t status;

    *out   = NULL;
    status = wtn_cuda_status((int)cudaHostAlloc(out, bytes == 0 ? 1 : bytes,
                                                cudaHostAllocPortable | cudaHostAllocMapped),
                             "cudaHostAlloc");
    return status == WITAN_OK ? status : wtn_error_prefix(status, "%zu bytes", bytes);
}

static void pinned_free(void *memory)
{
    if (memory != NULL) {
        (void)cudaFreeHost(memory);
    }
}

static bool is_ordinary(const void *memory)
{
    struct cudaPointerAttributes attributes = {.type = cudaMemoryTypeUnregistered};

    return cudaPointerGetAttributes(&attributes, memory) != cudaSuccess ||
           attributes.type == cudaMemoryTypeUnregistered;
}

/* A copy to or from ordinary memory may still read or write it after it was queued: then it is
 * waited for. */
static witan_status_t memory_copy(void *to, const void *from, size_t bytes, void *stream)
{
    witan_status_t status;

    if (bytes == 0) {
        return WITAN_OK;
    }
    WTN_CUDA_TRY((int)cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, (cudaStream_t)stream));
    if (is_ordinary(to) || is_ordinary(from)) {
        WTN_CUDA_TRY((int)cudaStreamSynchronize((cudaStream_t)stream));
    }

fail:
    return status;
}

const wtn_backend_t wtn_backend_cuda = {
    .name                 = "cuda",
    .probe                = wtn_cuda_probe,
    .tiers                = wtn_cuda_tiers,
    .alloc                = memory_alloc,
    .free                 = memory_free,
    .pinned_alloc         = pinned_alloc,
    .pinned_free          = pinned_free,
    .copy                 = memory_copy,
    .measure              = wtn_cuda_measure,
    .peak                 = wtn_cuda_peak,
    .read_bandwidth       = wtn_cuda_read_bandwidth,
    .ffn_create           = wtn_cuda_ffn_create,
    .ffn_destroy          = wtn_cuda_ffn_destroy,
    .ffn_weight_bytes     = wtn_cuda_ffn_weight_bytes,
    .ffn_workspace_bytes  = wtn_cuda_ffn_workspace_bytes,
    .ffn_run              = wtn_cuda_ffn_run,
    .gate_create          = wtn_cuda_gate_create,
    .gate_destroy         = wtn_cuda_gate_destroy,
    .gate_weight_bytes    = wtn_cuda_gate_weight_bytes,
    .gate_workspace_bytes = wtn_cuda_gate_workspace_bytes,
    .gate_run             = wtn_cuda_gate_run,
    .topk_workspace_bytes = wtn_cuda_topk_workspace_bytes,
    .topk                 = wtn_cuda_topk,
    .combine              = wtn_cuda_combine,
    .reduce               = wtn_cuda_reduce,
    .gather               = wtn_cuda_gather,
    .device               = &wtn_device_cuda,
};

#include <stdio.h>

#include <cuda_runtime_api.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/cuda.h"

#if !defined(WTN_EMULATOR) && __has_include(<nvtx3/nvToolsExt.h>)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wconversion"
#include <nvtx3/nvToolsExt.h>
#pragma GCC diagnostic pop
#define HAS_NVTX
#endif

#define CAPABILITY_MIN 80

/* Shared memory the system takes of each block (CUDA programming guide, compute capability 8.0 and
 * later). */
#define RESERVED_BYTES 1024

witan_status_t wtn_cuda_status(int code, const char *what)
{
    const cudaError_t error  = (cudaError_t)code;
    witan_status_t    status = WITAN_E_INTERNAL;

    if (error == cudaSuccess) {
        return WITAN_OK;
    }
    if (error == cudaErrorMemoryAllocation) {
        status = WITAN_E_MEMORY;
    } else if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver ||
               error == cudaErrorNoKernelImageForDevice) {
        status = WITAN_E_UNSUPPORTED;
    }
    (void)cudaGetLastError(); /* told here; it must not be told again by the next launch */
    return WTN_ERROR(status, "%s: %s: %s", what, cudaGetErrorName(error),
                     cudaGetErrorString(error));
}

static int attribute(enum cudaDeviceAttr name)
{
    int device = 0, value = 0;

    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&value, name, device) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    return value;
}

int32_t wtn_cuda_sm_count(int32_t reserved)
{
    return (int32_t)wtn_max_i64(attribute(cudaDevAttrMultiProcessorCount) - reserved, 1);
}

int32_t wtn_cuda_resident_blocks(size_t shared_bytes, int32_t most)
{
    const int64_t total = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    const int64_t fit   = total / ((int64_t)shared_bytes + RESERVED_BYTES);

    return (int32_t)wtn_max_i64(wtn_min_i64(fit, most), 1);
}

size_t wtn_cuda_shared_bytes_max(void)
{
    return (size_t)attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

int32_t wtn_cuda_capability(void)
{
    return 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
           attribute(cudaDevAttrComputeCapabilityMinor);
}

/* The driver's own idea of its version comes without a device, and is 0 without a driver. */
static void explain_driver(cudaError_t code, char *reason, size_t reason_bytes)
{
    int driver = 0, runtime = 0;

    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (code == cudaErrorNoDevice) {
        (void)snprintf(reason, reason_bytes, "no device");
    } else if (driver == 0) {
        (void)snprintf(reason, reason_bytes, "no driver");
    } else if (code == cudaErrorInsufficientDriver) {
        (void)snprintf(reason, reason_bytes,
                       "driver too old: it serves CUDA %d.%d, expected %d.%d or newer",
                       driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    } else {
        (void)snprintf(reason, reason_bytes, "%s", cudaGetErrorString(code));
    }
}

bool wtn_cuda_probe(char *reason, size_t reason_bytes)
{
    int         count = 0;
    cudaError_t code  = cudaGetDeviceCount(&count);
    int32_t     capability;

    if (code != cudaSuccess || count == 0) {
        (void)cudaGetLastError();
        explain_driver(code == cudaSuccess ? cudaErrorNoDevice : code, reason, reason_bytes);
        return false;
    }
    capability = wtn_cuda_capability();
    (void)snprintf(reason, reason_bytes, "a device of capability %d.%d", (int)capability / 10,
                   (int)capability % 10);
    if (capability < CAPABILITY_MIN) {
        (void)snprintf(reason, reason_bytes,
                       "a device of capability %d.%d, expected %d.%d or newer",
                       (int)capability / 10, (int)capability % 10, CAPABILITY_MIN / 10,
                       CAPABILITY_MIN % 10);
        return false;
    }
    return true;
}

#ifdef HAS_NVTX

void wtn_cuda_range_push(const char *name)
{
    (void)nvtxRangePushA(name);
}

void wtn_cuda_range_pop(void)
{
    (void)nvtxRangePop();
}

#else

void wtn_cuda_range_push(const char *name)
{
    (void)name;
}

void wtn_cuda_range_pop(void)
{
}

#endif

/* Launching kernels in the emulator. */
#ifndef WTN_EMULATOR_LAUNCH_H
#define WTN_EMULATOR_LAUNCH_H

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <memory>
#include <stddef.h>
#include <stdint.h>

namespace emulator
{

/* A kernel with its parameters, and how to call it. */
struct launch_t {
    const char *name;
    const void *kernel;
    void (*call)(const void *kernel, const void *params); /* by each thread */
    std::shared_ptr<char> params;
    uint32_t              blocks, blocks_y, threads, cluster;
    size_t                shared_bytes;
};

/* Checks the limits as a device does and queues. params is copied. */
cudaError_t launch_kernel(const launch_t &launch, const void *params, size_t params_bytes,
                          cudaStream_t stream);

size_t shared_bytes_limit(void);
size_t shared_bytes_default(void);
size_t shared_bytes_allowed(const void *function);
int    resident_blocks_per_sm(uint32_t threads, size_t shared_bytes);

/* cuTensorMapEncodeTiled */
CUresult encode_tiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                      const cuuint64_t *dims, const cuuint64_t *strides, const cuuint32_t *box,
                      const cuuint32_t *element_strides, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                      CUtensorMapFloatOOBfill fill);

} // namespace emulator

#endif

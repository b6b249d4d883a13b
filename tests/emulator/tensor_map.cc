/* cuTensorMapEncodeTiled in software. */
#include "tests/emulator/launch.h"

namespace emulator
{

CUresult encode_tiled(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                      const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
                      CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                      CUtensorMapFloatOOBfill)
{
    return CUDA_ERROR_INVALID_VALUE;
}

} // namespace emulator

/* Tensor maps in software: cuTensorMapEncodeTiled for two dimensions, with its checks (CUDA driver
 * API, "Tensor Map Object Management"), and the copies made by them. */
#include <string.h>

#include "tests/emulator/sm90.h"

namespace emulator
{

static const uint64_t MAGIC = 0x7E0503A900000001u;

struct tensor_map_t {
    uint64_t magic;
    char    *address;
    uint64_t dims[2];
    uint64_t stride; /* bytes from a row to the next */
    uint32_t box[2];
    uint32_t element_bytes;
    uint32_t swizzle; /* CUtensorMapSwizzle */
};
static_assert(sizeof(tensor_map_t) <= sizeof(CUtensorMap), "128 bytes");

static uint32_t type_bytes(CUtensorMapDataType type)
{
    switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
        return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
        return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
        return 4;
    }
    return 0;
}

CUresult encode_tiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                      const cuuint64_t *dims, const cuuint64_t *strides, const cuuint32_t *box,
                      const cuuint32_t *element_strides, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                      CUtensorMapFloatOOBfill fill)
{
    tensor_map_t m     = {};
    uint32_t     bytes = type_bytes(type);

    if (map == NULL || (uintptr_t)map % 64 != 0 || bytes == 0 || rank != 2 || address == NULL ||
        (uintptr_t)address % 16 != 0 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
        (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && swizzle != CU_TENSOR_MAP_SWIZZLE_128B) ||
        (unsigned)promotion > CU_TENSOR_MAP_L2_PROMOTION_L2_256B ||
        fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    for (int i = 0; i < 2; i++) {
        if (dims[i] == 0 || dims[i] > (uint64_t)1 << 32 || box[i] == 0 || box[i] > 256 ||
            element_strides[i] != 1) {
            return CUDA_ERROR_INVALID_VALUE;
        }
        m.dims[i] = dims[i];
        m.box[i]  = box[i];
    }
    if (strides[0] % 16 != 0 || strides[0] >= (uint64_t)1 << 40 || strides[0] < dims[0] * bytes ||
        box[0] * bytes % 16 != 0 ||
        (swizzle == CU_TENSOR_MAP_SWIZZLE_128B && box[0] * bytes > 128)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    m.magic         = MAGIC;
    m.address       = (char *)address;
    m.stride        = strides[0];
    m.element_bytes = bytes;
    m.swizzle       = swizzle;
    memset(map, 0, sizeof(*map));
    memcpy(map, &m, sizeof(m));
    return CUDA_SUCCESS;
}

uint32_t box_bytes(const void *map)
{
    tensor_map_t m;

    memcpy(&m, map, sizeof(m));
    return m.box[0] * m.box[1] * m.element_bytes;
}

void box_check(const char *wrapper, place_t place, const void *map, uint32_t to, int32_t x)
{
    tensor_map_t m;

    check_aligned(wrapper, place, map, 64);
    memcpy(&m, map, sizeof(m));
    if (m.magic != MAGIC) {
        fault(cudaErrorLaunchFailure, place, "%s: %p is no tensor map", wrapper, map);
    }
    /* Not in the manual; an H200 calls anything else an illegal instruction. */
    if (x % (int32_t)(16 / m.element_bytes) != 0) {
        fault(cudaErrorIllegalInstruction, place, "%s: a box begins at column %d, not at 16 bytes",
              wrapper, x);
    }
    (void)shared_at(wrapper, place, to, box_bytes(map), 128);
}

/* Rows of the box lie one after another; outside of the tensor are zeros. With the 128-byte swizzle
 * bits 4-6 of the shared address are combined with bits 7-9 (PTX ISA, "Swizzling Modes"). */
void box_copy(block_t *block, const void *map, uint32_t to, int32_t x, int32_t y)
{
    tensor_map_t m;

    memcpy(&m, map, sizeof(m));
    for (uint32_t row = 0; row < m.box[1]; row++) {
        int64_t at_y = (int64_t)y + row;
        for (uint32_t column = 0; column < m.box[0]; column++) {
            int64_t  at_x    = (int64_t)x + column;
            uint32_t address = to + (row * m.box[0] + column) * m.element_bytes;
            if (m.swizzle == CU_TENSOR_MAP_SWIZZLE_128B) {
                address ^= (address >> 7 & 7u) << 4;
            }
            char *into = block->shared + (address - SHARED_ADDRESS);
            /* below 0 is far above as a number without sign */
            if ((uint64_t)at_x < m.dims[0] && (uint64_t)at_y < m.dims[1]) {
                memcpy(into,
                       m.address + (uint64_t)at_y * m.stride + (uint64_t)at_x * m.element_bytes,
                       m.element_bytes);
            } else {
                memset(into, 0, m.element_bytes);
            }
        }
    }
}

} // namespace emulator

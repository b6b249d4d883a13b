/* Any processor: four lanes, conversions by shifts; halves, rare without F16C, lane by lane. */
#include "kernels/combine/combine.h"

#define VEC_LANES 4

typedef float    vec_t __attribute__((vector_size(4 * VEC_LANES)));
typedef uint32_t bits_t __attribute__((vector_size(4 * VEC_LANES)));

static inline vec_t vec_load_as(witan_dtype_t dtype, const void *from)
{
    const uint16_t *p = from;
    vec_t           value;

    switch (dtype) {
    case WITAN_F16:
        return (vec_t){wtn_f16_to_float(p[0]), wtn_f16_to_float(p[1]), wtn_f16_to_float(p[2]),
                       wtn_f16_to_float(p[3])};
    case WITAN_BF16:
        return (vec_t)(bits_t){(uint32_t)p[0] << 16, (uint32_t)p[1] << 16, (uint32_t)p[2] << 16,
                               (uint32_t)p[3] << 16};
    case WITAN_F32:
    default:
        memcpy(&value, from, sizeof(value));
        return value;
    }
}

static inline bits_t bits_bf16(vec_t value)
{
    const bits_t bits    = (bits_t)value;
    const bits_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    const bits_t nan     = (bits_t)((bits & 0x7fffffffu) > 0x7f800000u);

    return ((nan & (bits | 0x400000u)) | (~nan & rounded)) >> 16;
}

static inline void vec_store_as(witan_dtype_t dtype, void *to, vec_t value)
{
    const bits_t bf16 = bits_bf16(value);
    uint16_t    *p    = to;

    if (dtype == WITAN_F32) {
        memcpy(to, &value, sizeof(value));
        return;
    }
    for (int i = 0; i < VEC_LANES; i++) {
        p[i] = dtype == WITAN_F16 ? wtn_float_to_f16(value[i]) : (uint16_t)bf16[i];
    }
}

#include "kernels/combine/combine_vector.h"

const wtn_combine_tier_t wtn_combine_generic = {"generic", combine, reduce};

/* Any processor: four lanes, conversions by shifts; halves, rare without F16C, lane by lane. */
#include "kernels/combine/combine.h"

#define LANES 4
typedef float    vector_t __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits_t __attribute__((vector_size(4 * LANES)));

static inline vector_t load_f32(const float *from)
{
    vector_t value;

    memcpy(&value, from, sizeof(value));
    return value;
}

static inline vector_t load_bf16(const uint16_t *from)
{
    return (vector_t)(bits_t){(uint32_t)from[0] << 16, (uint32_t)from[1] << 16,
                              (uint32_t)from[2] << 16, (uint32_t)from[3] << 16};
}

static inline vector_t load_f16(const uint16_t *from)
{
    return (vector_t){wtn_f16_to_float(from[0]), wtn_f16_to_float(from[1]),
                      wtn_f16_to_float(from[2]), wtn_f16_to_float(from[3])};
}

static inline void store_f32(float *to, vector_t value)
{
    memcpy(to, &value, sizeof(value));
}

static inline void store_bf16(uint16_t *to, vector_t value)
{
    const bits_t bits    = (bits_t)value;
    const bits_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bits_t quiet   = (bits >> 16) | 0x40u;
    const bits_t nan     = (bits_t)(value != value);
    const bits_t result  = (nan & quiet) | (~nan & rounded);

    for (int i = 0; i < LANES; i++) {
        to[i] = (uint16_t)result[i];
    }
}

static inline void store_f16(uint16_t *to, vector_t value)
{
    for (int i = 0; i < LANES; i++) {
        to[i] = wtn_float_to_f16(value[i]);
    }
}

#include "kernels/combine/combine_vector.h"

const wtn_combine_tier_t wtn_combine_generic = {"generic", combine, reduce};

/* 16-bit floats for the emulator, by whole numbers: nothing shared with the code under test. */
#ifndef WTN_EMULATOR_NUMBER_H
#define WTN_EMULATOR_NUMBER_H

#include <stdint.h>
#include <string.h>

namespace emulator
{

static inline float float_from_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline uint32_t bits_from_float(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float float_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t rest = half & 0x7fffu;

    if (rest >= 0x7c00u) { /* Inf, NaN */
        return float_from_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    }
    if (rest < 0x400u) { /* zero and subnormals: units of 2^-24 */
        float value = (float)rest * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    return float_from_bits(sign | ((rest << 13) + ((127u - 15u) << 23)));
}

/* Round to nearest even; a NaN becomes 0x7fff (PTX ISA, cvt). */
static inline uint16_t f16_from_float(float value)
{
    uint32_t bits = bits_from_float(value);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t rest = bits & 0x7fffffffu;

    if (rest > 0x7f800000u) {
        return 0x7fffu;
    }
    if (rest >= 0x47800000u) { /* 65536 and above */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (rest < 0x38800000u) { /* below 2^-14: units of 2^-24; adding 1/2 rounds at that place */
        float shifted = float_from_bits(rest) + 0.5f;
        return (uint16_t)(sign | (bits_from_float(shifted) - 0x3f000000u));
    }
    rest += 0xfffu + (rest >> 13 & 1u);
    return (uint16_t)(sign | ((rest - ((127u - 15u) << 23)) >> 13));
}

static inline float float_from_bf16(uint16_t half)
{
    return float_from_bits((uint32_t)half << 16);
}

static inline uint16_t bf16_from_float(float value)
{
    uint32_t bits = bits_from_float(value);

    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0x7fffu;
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

} // namespace emulator

#endif

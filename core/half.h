/* Scalar conversions between fp32, fp16 and bf16: round to nearest even, NaN stays NaN. */
#ifndef WTN_HALF_H
#define WTN_HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <witan/types.h>

static inline uint32_t wtn_float_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float wtn_bits_float(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline float wtn_bf16_to_float(uint16_t value)
{
    return wtn_bits_float((uint32_t)value << 16);
}

static inline uint16_t wtn_float_to_bf16(float value)
{
    uint32_t bits = wtn_float_bits(value);

    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 0x0040u); /* quiet; rounding could make it Inf */
    }
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float wtn_f16_to_float(uint16_t value)
{
    uint32_t sign     = (uint32_t)(value & 0x8000u) << 16;
    uint32_t exponent = (value >> 10) & 0x1fu;
    uint32_t mantissa = value & 0x3ffu;

    if (exponent == 0x1fu) {
        return wtn_bits_float(sign | 0x7f800000u | (mantissa << 13));
    }
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-24f;

        return sign != 0 ? -magnitude : magnitude;
    }
    return wtn_bits_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

static inline uint16_t wtn_float_to_f16(float value)
{
    uint32_t bits      = wtn_float_bits(value);
    uint16_t sign      = (uint16_t)((bits >> 16) & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t half;

    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
    }
    if (magnitude >= 0x477ff000u) { /* 65520 and above round to Inf */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) { /* below 2^-14: a subnormal half, in units of 2^-24 */
        float scaled = wtn_bits_float(magnitude) * 0x1p24f;

        return (uint16_t)(sign | (uint16_t)lrintf(scaled));
    }
    half = magnitude - 0x38000000u;
    return (uint16_t)(sign | ((half + 0xfffu + ((half >> 13) & 1u)) >> 13));
}

static inline float wtn_load_float(const void *array, witan_dtype_t dtype, size_t index)
{
    switch (dtype) {
    case WITAN_F16:
        return wtn_f16_to_float(((const uint16_t *)array)[index]);
    case WITAN_BF16:
        return wtn_bf16_to_float(((const uint16_t *)array)[index]);
    case WITAN_F32:
    default:
        return ((const float *)array)[index];
    }
}

static inline void wtn_store_float(void *array, witan_dtype_t dtype, size_t index, float value)
{
    switch (dtype) {
    case WITAN_F16:
        ((uint16_t *)array)[index] = wtn_float_to_f16(value);
        break;
    case WITAN_BF16:
        ((uint16_t *)array)[index] = wtn_float_to_bf16(value);
        break;
    case WITAN_F32:
    default:
        ((float *)array)[index] = value;
        break;
    }
}

#endif

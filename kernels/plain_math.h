/* Exponentials and logarithms from additions, products and divisions only: the same bits in scalar
 * code, in vector loops on every processor, and on a device, so that experts chosen by them are the
 * same everywhere. Sources that include this are compiled without contraction of a * b + c. */
#ifndef WTN_PLAIN_MATH_H
#define WTN_PLAIN_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define WTN_PLAIN static inline __host__ __device__
#else
#define WTN_PLAIN static inline
#endif

WTN_PLAIN uint32_t wtn_plain_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

WTN_PLAIN float wtn_plain_float(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* e^x within 2 ulp: e^x = 2^n e^r, |r| <= ln(2) / 2. NaN stays NaN. */
WTN_PLAIN float wtn_plain_exp(float x)
{
    const float    magic = 0x1.8p23f;  /* adding it rounds to an integer, kept in the low bits */
    const int32_t  bound = 0x42d20000; /* 105: rounds to 0 below -105 and to Inf above */
    const uint32_t bits  = wtn_plain_bits(x);
    int32_t        size  = (int32_t)(bits & 0x7fffffffu);
    int32_t        exponent, half;
    float          shifted, n, r, y;

    /* Compared as integers: comparisons of floats may trap, and keep a loop from vectors. */
    size     = size > bound && size <= 0x7f800000 ? bound : size;
    x        = wtn_plain_float((bits & 0x80000000u) | (uint32_t)size);
    shifted  = x * 0x1.715476p+0f + magic;
    n        = shifted - magic;
    exponent = (int32_t)(wtn_plain_bits(shifted) - wtn_plain_bits(magic));
    r        = x - n * 0x1.62ep-1f - n * 0x1.0bfbe8p-15f; /* the first product is exact */
    y        = 0x1.a0d2cep-13f;
    y        = y * r + 0x1.6e879cp-10f;
    y        = y * r + 0x1.1112p-7f;
    y        = y * r + 0x1.555382p-5f;
    y        = y * r + 0x1.555554p-3f;
    y        = y * r + 0.5f;
    y        = y * (r * r) + r + 1.0f;
    half     = exponent / 2; /* two factors: 2^-151 and 2^128 are no floats */
    return y * wtn_plain_float((uint32_t)(half + 127) << 23) *
           wtn_plain_float((uint32_t)(exponent - half + 127) << 23);
}

/* 1 / (1 + e^-x) */
WTN_PLAIN float wtn_plain_sigmoid(float x)
{
    return 1.0f / (1.0f + wtn_plain_exp(-x));
}

/* sqrt(ln(1 + e^x)) within 4 ulp. ln(1 + e^x) = max(x, 0) + ln(1 + y), y = e^-|x|, never overflows;
 * ln(1 + y) = 2 artanh(z), z = y / (2 + y) <= 1/3, whose series ends where its terms are below
 * 3^-16 / 17 of the first. */
WTN_PLAIN float wtn_plain_sqrt_softplus(float x)
{
    const float y  = wtn_plain_exp(-fabsf(x));
    const float z  = y / (2.0f + y);
    const float zz = z * z;
    float       p  = 1.0f / 15.0f;

    p = p * zz + 1.0f / 13.0f;
    p = p * zz + 1.0f / 11.0f;
    p = p * zz + 1.0f / 9.0f;
    p = p * zz + 1.0f / 7.0f;
    p = p * zz + 1.0f / 5.0f;
    p = p * zz + 1.0f / 3.0f;
    p = p * zz * z + z;
    return sqrtf((x > 0.0f ? x : 0.0f) + 2.0f * p);
}

#endif

/* The activations on a device: activation_vector.h in scalars, with the device's approximate 2^x
 * and 1/x, whose 2 units in the last place vanish in the rounding to bf16 or half. fp32 results are
 * rounded by `exact`: e^x by the polynomial and true division, as on the host.
 *
 * At infinities they are the formulas as IEEE 754 evaluates them; NaN passes through clamps. */
#ifndef WTN_ACTIVATION_CUDA_CUH
#define WTN_ACTIVATION_CUDA_CUH

#include <witan/layer.h>

#include "kernels/cuda/device.cuh"

/* min and max as the host's vectors have them: the second operand where either is NaN */
WTN_DEVICE float wtn_min_second(float a, float b)
{
    return a < b ? a : b;
}
WTN_DEVICE float wtn_max_second(float a, float b)
{
    return a > b ? a : b;
}

/* 2^n for n in -190 .. 190 times x, by two exact factors. */
WTN_DEVICE float wtn_scale2(float x, int n)
{
    int half = n / 2;

    return x * wtn_float_from_bits((uint32_t)(half + 127) << 23) *
           wtn_float_from_bits((uint32_t)(n - half + 127) << 23);
}

template <bool exact> WTN_DEVICE float wtn_exp(float x)
{
    float n, r, p;

    if (!exact) {
        return wtn_exp2_approx(x * 0x1.715476p0f); /* 1 / ln 2 */
    }
    x = wtn_max_second(-128.0f, wtn_min_second(128.0f, x)); /* NaN stays */
    n = wtn_fma(x, 0x1.715476p0f, 0x1.8p23f) - 0x1.8p23f;   /* to the nearest whole number */
    r = wtn_fma(n, -0x1.62e4p-1f, x);                       /* ln 2, its leading 15 bits */
    r = wtn_fma(n, -0x1.7f7d1cp-20f, r);                    /* and the rest */
    p = 1.0f / 5040.0f;                                     /* Taylor, |r| <= ln(2) / 2 */
    p = wtn_fma(p, r, 1.0f / 720.0f);
    p = wtn_fma(p, r, 1.0f / 120.0f);
    p = wtn_fma(p, r, 1.0f / 24.0f);
    p = wtn_fma(p, r, 1.0f / 6.0f);
    p = wtn_fma(p, r, 0.5f);
    p = wtn_fma(p, r, 1.0f);
    p = wtn_fma(p, r, 1.0f);
    return n == n ? wtn_scale2(p, (int)n) : n;
}

/* x * sigmoid(y) */
template <bool exact> WTN_DEVICE float wtn_times_sigmoid(float x, float y)
{
    float denominator = 1.0f + wtn_exp<exact>(-y);

    return exact ? wtn_divide(x, denominator) : x * wtn_rcp_approx(denominator);
}

/* See vec_gelu: x (1 + erf(x / sqrt 2)) / 2 by way of e^(z^2) erfc(z). */
template <bool exact> WTN_DEVICE float wtn_gelu(float x)
{
    const float q[] = {-0.0575802666f, 0.187434237f,  -0.201083028f, 0.110190418f,  -0.0954885398f,
                       -0.0197523688f, 0.0700159677f, 0.208889314f,  0.0165111816f, -0.880631933f};

    float size   = wtn_min_second(15.0f, x < 0.0f ? -x : x);
    float square = size * size;
    float error  = -wtn_fma(size, size, -square); /* of the square, exactly, with minus */
    float z      = size * 0.424264069f;           /* 0.6 / sqrt 2 */
    float t      = exact ? wtn_divide(1.0f, z + 1.0f) : wtn_rcp_approx(z + 1.0f);
    float s      = z * t;
    float p      = q[0];
    float tail;

#pragma unroll
    for (int i = 1; i < 10; i++) {
        p = wtn_fma(p, s, q[i]);
    }
    p    = wtn_fma(p, s, 1.0f) * (t * 0.5f);
    p    = wtn_fma(p, error * 0.5f, p);
    tail = p * wtn_exp<exact>(square * -0.5f); /* erfc(z) / 2 */
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

/* The tanh form: (1 + tanh y) / 2 is sigmoid(2 y). */
template <bool exact> WTN_DEVICE float wtn_gelu_tanh(float x)
{
    float factor = wtn_fma(x * x, 0.044715f * 1.5957691216f, 1.5957691216f);

    return wtn_times_sigmoid<exact>(x, x * factor);
}

template <bool exact>
WTN_DEVICE float wtn_activate(witan_activation_kind_t kind, float parameter, float x)
{
    switch (kind) {
    case WITAN_ACTIVATION_SILU:
        return wtn_times_sigmoid<exact>(x, x);
    case WITAN_ACTIVATION_SWISH:
        return wtn_times_sigmoid<exact>(x, parameter * x);
    case WITAN_ACTIVATION_GELU:
        return wtn_gelu<exact>(x);
    case WITAN_ACTIVATION_GELU_TANH:
        return wtn_gelu_tanh<exact>(x);
    case WITAN_ACTIVATION_RELU:
        return wtn_max_second(0.0f, x);
    case WITAN_ACTIVATION_RELU2:
        x = wtn_max_second(0.0f, x);
        return x * x;
    case WITAN_ACTIVATION_LEAKY_RELU:
        return x < 0.0f ? parameter * x : x;
    case WITAN_ACTIVATION_IDENTITY:
    case WITAN_ACTIVATION_COUNT:
    default:
        return x;
    }
}

/* h of witan_activation_t; g is not read where there is no gate. `activation` is the kernel's own
 * parameter: everything here branches alike over the grid. */
template <bool exact>
WTN_DEVICE float wtn_activate_gated(const witan_activation_t &activation, float g, float u)
{
    if (activation.limit > 0.0f) {
        g = wtn_min_second(activation.limit, g);
        u = wtn_max_second(-activation.limit, wtn_min_second(activation.limit, u));
    }
    if (!activation.gated) {
        return wtn_activate<exact>(activation.kind, activation.parameter, u);
    }
    return wtn_activate<exact>(activation.kind, activation.parameter, g) *
           (u + activation.up_offset);
}

#endif

/* The activations on vectors, written once for all widths.
 *
 * Against the exact value: relu, relu2, leaky_relu, identity are exact or rounded once; silu, swish
 * and gelu are within 4 units in the last place (swish: of the rounded beta * x) while the result
 * is a normal number, and gelu_tanh within 4 + 6 |x| + |x|^3 / 4 where x is negative: its tail is
 * the exponential of a rounded argument. Results too small for a normal number may become zero.
 *
 * At infinities they are the formulas as IEEE 754 evaluates them, as the scalar reference: +inf
 * gives inf; -inf gives NaN (inf * 0) where a factor vanishes there: silu, swish, both gelus. */
#ifndef WTN_ACTIVATION_VECTOR_H
#define WTN_ACTIVATION_VECTOR_H

#include <witan/layer.h>

#include "kernels/vector.h"

/* e^(x + x_low). Below -128 zero, above 128 Inf, which is what fp32 makes of them. */
VEC_INLINE vec_t vec_exp(vec_t x)
{
    vec_t n, r, p;

    x = vec_max(vec_set1(-128.0f), vec_min(vec_set1(128.0f), x)); /* NaN stays */
    n = vec_round(vec_mul(x, vec_set1(0x1.715476p0f)));           /* 1 / ln 2 */
    r = vec_fnma(n, vec_set1(0x1.62e4p-1f), x);                   /* ln 2, its leading 15 bits */
    r = vec_fnma(n, vec_set1(0x1.7f7d1cp-20f), r);                /* and the rest */
    /* Taylor; |r| <= ln(2) / 2 leaves 5e-9 */
    p = vec_set1(1.0f / 5040.0f);
    p = vec_fma(p, r, vec_set1(1.0f / 720.0f));
    p = vec_fma(p, r, vec_set1(1.0f / 120.0f));
    p = vec_fma(p, r, vec_set1(1.0f / 24.0f));
    p = vec_fma(p, r, vec_set1(1.0f / 6.0f));
    p = vec_fma(p, r, vec_set1(0.5f));
    p = vec_fma(p, r, vec_set1(1.0f));
    p = vec_fma(p, r, vec_set1(1.0f));
    return vec_scale(p, n);
}

/* x * sigmoid(y) */
VEC_INLINE vec_t vec_times_sigmoid(vec_t x, vec_t y)
{
    return vec_div(x, vec_add(vec_set1(1.0f), vec_exp(vec_sub(vec_zero(), y))));
}

/* x * (1 + erf(x / sqrt 2)) / 2, by way of e^(z^2) erfc(z) at z = |x| / sqrt 2, which is smooth: a
 * polynomial of degree 10 in 1 / (1 + 0.35 z) has relative error 1e-8 up to z = 10.7, where fp32
 * has no more normal numbers. The square's rounding error is put back. */
VEC_INLINE vec_t vec_gelu(vec_t x)
{
    static const float coefficients[] = {0.0377842813f, -0.155903379f, 0.175187423f, -0.0205681712f,
                                         0.08220324f,   0.147969413f,  0.150767343f, 0.187934786f,
                                         0.197141879f,  0.19748319f};

    vec_t one    = vec_set1(1.0f);
    vec_t size   = vec_min(vec_set1(15.0f), vec_abs(x));
    vec_t square = vec_mul(size, size);
    vec_t error  = vec_fnma(size, size, square); /* of the square, exactly, with minus */
    vec_t t      = vec_div(one, vec_fma(size, vec_set1(0.247487374f), one));
    vec_t p      = vec_set1(coefficients[0]);
    vec_t tail;

    for (int i = 1; i < (int)(sizeof(coefficients) / sizeof(coefficients[0])); i++) {
        p = vec_fma(p, t, vec_set1(coefficients[i]));
    }
    p    = vec_mul(p, vec_mul(t, vec_set1(0.5f)));
    p    = vec_fma(p, vec_mul(error, vec_set1(0.5f)), p);
    tail = vec_mul(p, vec_exp(vec_mul(square, vec_set1(-0.5f)))); /* erfc(z) / 2 */
    return vec_mul(x, vec_select(vec_less(x, vec_zero()), tail, vec_sub(one, tail)));
}

/* The tanh form: (1 + tanh y) / 2 is sigmoid(2 y). */
VEC_INLINE vec_t vec_gelu_tanh(vec_t x)
{
    vec_t square = vec_mul(x, x);
    vec_t factor = vec_fma(square, vec_set1(0.044715f * 1.5957691216f), vec_set1(1.5957691216f));

    return vec_times_sigmoid(x, vec_mul(x, factor));
}

VEC_INLINE vec_t vec_activate(const witan_activation_t *activation, vec_t x)
{
    switch (activation->kind) {
    case WITAN_ACTIVATION_SILU:
        return vec_times_sigmoid(x, x);
    case WITAN_ACTIVATION_SWISH:
        return vec_times_sigmoid(x, vec_mul(vec_set1(activation->parameter), x));
    case WITAN_ACTIVATION_GELU:
        return vec_gelu(x);
    case WITAN_ACTIVATION_GELU_TANH:
        return vec_gelu_tanh(x);
    case WITAN_ACTIVATION_RELU:
        return vec_max(vec_zero(), x);
    case WITAN_ACTIVATION_RELU2:
        x = vec_max(vec_zero(), x);
        return vec_mul(x, x);
    case WITAN_ACTIVATION_LEAKY_RELU:
        return vec_select(vec_less(x, vec_zero()), vec_mul(vec_set1(activation->parameter), x), x);
    case WITAN_ACTIVATION_IDENTITY:
    case WITAN_ACTIVATION_COUNT:
    default:
        return x;
    }
}

/* h of witan_activation_t; g is not read where there is no gate. */
VEC_INLINE vec_t vec_activate_gated(const witan_activation_t *activation, vec_t g, vec_t u)
{
    if (activation->limit > 0.0f) {
        vec_t limit = vec_set1(activation->limit);

        g = vec_min(limit, g);
        u = vec_max(vec_set1(-activation->limit), vec_min(limit, u));
    }
    if (!activation->gated) {
        return vec_activate(activation, u);
    }
    return vec_mul(vec_activate(activation, g), vec_add(u, vec_set1(activation->up_offset)));
}

#endif

/* The activations on vectors, written once for all widths.
 *
 * Against the exact value: relu, relu2, leaky_relu, identity are rounded at most once; silu is
 * within 4 units in the last place, gelu within 6, swish within 4 + |beta x| and gelu_tanh, where x
 * is negative, within 4 + 6 |x| + |x|^3 / 4, as they exponentiate a rounded number. Results below
 * 2^-120 may be zero.
 *
 * At infinities they are the formulas as IEEE 754 evaluates them, as the scalar reference: +inf
 * gives inf; -inf gives NaN (inf * 0) where a factor vanishes there: silu, swish, both gelus. */
#ifndef WTN_ACTIVATION_VECTOR_H
#define WTN_ACTIVATION_VECTOR_H

#include <witan/layer.h>

#include "kernels/vector.h"

/* e^x. Beyond -128 and 128 fp32 has only 0 and Inf. */
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

/* x * (1 + erf(x / sqrt 2)) / 2, by way of e^(z^2) erfc(z) at z = |x| / sqrt 2, which is smooth:
 * with t = 1 / (1 + 0.6 z) and s = 1 - t it is t (1 + s Q(s)), where a Q of degree 9 leaves 8e-9 up
 * to z = 10.7, beyond which fp32 has no more normal numbers. The square's rounding is put back. */
VEC_INLINE vec_t vec_gelu(vec_t x)
{
    static const float q[] = {-0.0575802666f, 0.187434237f,   -0.201083028f, 0.110190418f,
                              -0.0954885398f, -0.0197523688f, 0.0700159677f, 0.208889314f,
                              0.0165111816f,  -0.880631933f};

    vec_t one    = vec_set1(1.0f);
    vec_t size   = vec_min(vec_set1(15.0f), vec_abs(x));
    vec_t square = vec_mul(size, size);
    vec_t error  = vec_fnma(size, size, square);          /* of the square, exactly, with minus */
    vec_t z      = vec_mul(size, vec_set1(0.424264069f)); /* 0.6 / sqrt 2 */
    vec_t t      = vec_div(one, vec_add(z, one));
    vec_t s      = vec_mul(z, t);
    vec_t p      = vec_set1(q[0]);
    vec_t tail;

    for (int i = 1; i < (int)(sizeof(q) / sizeof(q[0])); i++) {
        p = vec_fma(p, s, vec_set1(q[i]));
    }
    p    = vec_mul(vec_fma(p, s, one), vec_mul(t, vec_set1(0.5f)));
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

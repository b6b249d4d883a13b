/* The gate on tensor cores, without loss: an fp32 number is the sum of three bf16 numbers, an fp16
 * number of two, and the products of all parts are summed in fp32.
 *
 * The order of a sum: H is cut into segments of SEGMENT; in a segment, the products of the leading
 * parts and those of all others are two sums, over k ascending by 16; segments are added in order.
 * It does not depend on how many tokens there are: few tokens share the segments out over warps,
 * many take them one after another.
 *
 * Error: an mma adds 17 numbers after cutting them to 24 bits or more below the largest, so that
 * one adds at most 17 * 2^-24 of the largest partial sum. A segment has 32 of them per sum, and two
 * sums: |logit - exact| <= (2 * 32 * 17 + H / SEGMENT + 1) 2^-24 sum |x w| <= 7e-5 sum |x w| in the
 * worst case for H up to 2^15; signs and sizes being mixed, 1e-6 of it is seen. */
#ifndef WTN_GATE_SUMS_CUDA_CUH
#define WTN_GATE_SUMS_CUDA_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/gate/gate.h"

#define STEP    32  /* columns a warp takes at once: 16 bytes of bf16 per lane */
#define SEGMENT 512 /* columns */

typedef struct gate_params {
    const char     *x;
    const uint16_t *planes;
    float          *logits;
    int64_t         token_count, hidden_size, stored_cols, plane_words;
    int32_t         out_count;
} gate_params_t;

/* ---- parts of numbers ---- */

/* 8 columns of x as they lie in memory. */
template <witan_dtype_t dtype> struct raw {
    uint32_t word[dtype == WITAN_F32 ? 8 : 4];
};

/* The same, of any dtype, as bf16 bits. */
typedef raw<WITAN_BF16> eight_t;

/* Those of one row from column k on; zeros past its end. Rows past the last token are the last
 * one's: their logits are not stored. */
template <witan_dtype_t dtype, bool aligned>
WTN_DEVICE raw<dtype> load_x(const gate_params_t &p, int64_t row, int64_t k)
{
    const int     bytes = dtype == WITAN_F32 ? 4 : 2;
    const int64_t t     = row < p.token_count ? row : p.token_count - 1;
    const char   *from  = p.x + (t * p.hidden_size + k) * bytes;
    raw<dtype>    out   = {};

    if constexpr (aligned) { /* so that H is a multiple of 8, too, or of 4 in fp32 */
#pragma unroll
        for (int i = 0; i < 2 * bytes; i += 4) {
            wtn_vec16_t v = {0, 0, 0, 0};

            if (k + i < p.hidden_size) {
                v = wtn_load16(from + 4 * i);
            }
            out.word[i]     = v.x;
            out.word[i + 1] = v.y;
            out.word[i + 2] = v.z;
            out.word[i + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (k + i < p.hidden_size) {
                if constexpr (dtype == WITAN_F32) {
                    out.word[i] = *(const uint32_t *)(from + 4 * i);
                } else {
                    out.word[i / 2] |= (uint32_t)(*(const uint16_t *)(from + 2 * i))
                                       << (i % 2 * 16);
                }
            }
        }
    }
    return out;
}

/* What is left of x beside its upper half; nothing of an infinity or NaN. */
WTN_DEVICE float rest_of(float x)
{
    const uint32_t bits = wtn_bits_from_float(x);
    const float    rest = x - wtn_float_from_bits(bits & 0xffff0000u);

    return (bits & 0x7f800000u) == 0x7f800000u ? 0.0f : rest;
}

/* The upper half, cut off; a NaN stays one. */
WTN_DEVICE uint32_t upper_half(float x)
{
    const uint32_t bits = wtn_bits_from_float(x);

    return x != x ? 0x7fc0u : bits >> 16;
}

template <witan_dtype_t dtype, int parts>
WTN_DEVICE void split(const raw<dtype> &x, eight_t (&out)[parts])
{
    if constexpr (dtype == WITAN_BF16) {
        out[0] = x;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float lo, hi;

            if constexpr (dtype == WITAN_F32) {
                lo = wtn_float_from_bits(x.word[2 * i]);
                hi = wtn_float_from_bits(x.word[2 * i + 1]);
            } else {
                lo = wtn_float_from_f16((uint16_t)x.word[i]);
                hi = wtn_float_from_f16((uint16_t)(x.word[i] >> 16));
            }
#pragma unroll
            for (int part = 0; part < parts; part++) {
                out[part].word[i] = upper_half(lo) | upper_half(hi) << 16;
                lo                = rest_of(lo);
                hi                = rest_of(hi);
            }
        }
    }
}

/* ---- a warp's tile of MT * 16 tokens by NT * 8 columns ---- */

template <int MT, int NT> struct tile {
    float sum[MT][NT][4];
};

template <int MT, int NT> WTN_DEVICE void clear(tile<MT, NT> *t)
{
#pragma unroll
    for (int i = 0; i < MT * NT * 4; i++) {
        t->sum[i / (NT * 4)][i / 4 % NT][i % 4] = 0.0f;
    }
}

template <int MT, int NT> WTN_DEVICE void add_tile(tile<MT, NT> *to, const tile<MT, NT> &more)
{
#pragma unroll
    for (int i = 0; i < MT * NT * 4; i++) {
        to->sum[i / (NT * 4)][i / 4 % NT][i % 4] += more.sum[i / (NT * 4)][i / 4 % NT][i % 4];
    }
}

/* What a lane holds of STEP columns. The order of columns within a step is the lanes' own: lane
 * l % 4 has 8 that follow each other, the same of x and of the weights. */
template <witan_dtype_t dtype, int planes, int MT, int NT> struct step {
    raw<dtype>  x[MT][2];
    wtn_vec16_t w[planes][NT];
};

template <witan_dtype_t dtype, int planes, bool aligned, int MT, int NT>
WTN_DEVICE void load_step(const gate_params_t &p, int64_t token, int64_t column, int64_t k,
                          step<dtype, planes, MT, NT> *s)
{
    const int64_t row = wtn_lane() / 4;

    k += wtn_lane() % 4 * 8;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        s->x[m][0] = load_x<dtype, aligned>(p, token + 16 * m + row, k);
        s->x[m][1] = load_x<dtype, aligned>(p, token + 16 * m + row + 8, k);
    }
#pragma unroll
    for (int i = 0; i < planes * NT; i++) {
        s->w[i / NT][i % NT] = wtn_load16(p.planes + i / NT * p.plane_words +
                                          (column + i % NT * 8 + row) * p.stored_cols + k);
    }
}

template <witan_dtype_t dtype, int planes, int MT, int NT>
WTN_DEVICE void add_step(const step<dtype, planes, MT, NT> &s, tile<MT, NT> *high,
                         tile<MT, NT> *low)
{
    const int parts = dtype == WITAN_F32 ? 3 : dtype == WITAN_F16 ? 2 : 1;

#pragma unroll
    for (int m = 0; m < MT; m++) {
        eight_t upper[parts], lower[parts]; /* rows l / 4 and l / 4 + 8 */

        split<dtype, parts>(s.x[m][0], upper);
        split<dtype, parts>(s.x[m][1], lower);
#pragma unroll
        for (int i = 0; i < 2 * parts * planes * NT; i++) {
            const int      half = i / (parts * planes * NT), part = i / (planes * NT) % parts;
            const int      plane = i / NT % planes, n = i % NT;
            const uint32_t a[4] = {upper[part].word[2 * half], lower[part].word[2 * half],
                                   upper[part].word[2 * half + 1], lower[part].word[2 * half + 1]};
            const uint32_t b[2] = {half == 0 ? s.w[plane][n].x : s.w[plane][n].z,
                                   half == 0 ? s.w[plane][n].y : s.w[plane][n].w};

            wtn_mma_16x8x16<true>(part + plane == 0 ? high->sum[m][n] : low->sum[m][n], a, b);
        }
    }
}

/* The sums of one segment, that of `index`. */
template <witan_dtype_t dtype, int planes, bool aligned, int MT, int NT, int depth>
WTN_DEVICE void sum_segment(const gate_params_t &p, int64_t token, int64_t column, int64_t index,
                            tile<MT, NT> *out)
{
    const int64_t begin = index * SEGMENT;
    const int64_t end   = begin + SEGMENT < p.stored_cols ? begin + SEGMENT : p.stored_cols;
    tile<MT, NT>  low;

    clear(out);
    clear(&low);
    for (int64_t k = begin; k < end; k += depth * STEP) {
        step<dtype, planes, MT, NT> s[depth];

#pragma unroll
        for (int d = 0; d < depth; d++) {
            if (k + d * STEP < end) {
                load_step<dtype, planes, aligned>(p, token, column, k + d * STEP, &s[d]);
            }
        }
#pragma unroll
        for (int d = 0; d < depth; d++) {
            if (k + d * STEP < end) {
                add_step(s[d], out, &low);
            }
        }
    }
    add_tile(out, low);
}

/* Element i of a lane's sums of one m, n: its token and column in the tile. */
WTN_DEVICE int element_row(int i)
{
    return (int)wtn_lane() / 4 + i / 2 * 8;
}

WTN_DEVICE int element_column(int i)
{
    return (int)wtn_lane() % 4 * 2 + i % 2;
}

WTN_DEVICE void store_logit(const gate_params_t &p, int64_t t, int64_t n, float value)
{
    if (t < p.token_count && n < p.out_count) {
        p.logits[t * p.out_count + n] = value;
    }
}

template <int MT, int NT>
WTN_DEVICE void store_tile(const gate_params_t &p, int64_t token, int64_t column,
                           const tile<MT, NT> &t)
{
#pragma unroll
    for (int i = 0; i < MT * NT * 4; i++) {
        store_logit(p, token + i / (NT * 4) * 16 + element_row(i % 4),
                    column + i / 4 % NT * 8 + element_column(i % 4),
                    t.sum[i / (NT * 4)][i / 4 % NT][i % 4]);
    }
}

#endif

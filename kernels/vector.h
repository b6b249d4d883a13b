/* The words the vector templates are written in: 16 lanes with AVX-512, 8 with AVX2. Include only
 * from files compiled for a tier. */
#ifndef WTN_VECTOR_H
#define WTN_VECTOR_H

#include <immintrin.h>
#include <stdint.h>

#include <witan/types.h>

#define VEC_INLINE static inline __attribute__((always_inline, unused))

#if defined(__AVX512F__)

#define VEC_LANES 16

typedef __m512    vec_t;
typedef __m512i   veci_t;
typedef __mmask16 vecm_t;

VEC_INLINE vec_t vec_set1(float x)
{
    return _mm512_set1_ps(x);
}
VEC_INLINE vec_t vec_zero(void)
{
    return _mm512_setzero_ps();
}
VEC_INLINE vec_t vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
VEC_INLINE void vec_store(float *p, vec_t x)
{
    _mm512_storeu_ps(p, x);
}
VEC_INLINE vec_t vec_add(vec_t a, vec_t b)
{
    return _mm512_add_ps(a, b);
}
VEC_INLINE vec_t vec_sub(vec_t a, vec_t b)
{
    return _mm512_sub_ps(a, b);
}
VEC_INLINE vec_t vec_mul(vec_t a, vec_t b)
{
    return _mm512_mul_ps(a, b);
}
VEC_INLINE vec_t vec_div(vec_t a, vec_t b)
{
    return _mm512_div_ps(a, b);
}
/* a * b + c and c - a * b, one rounding */
VEC_INLINE vec_t vec_fma(vec_t a, vec_t b, vec_t c)
{
    return _mm512_fmadd_ps(a, b, c);
}
VEC_INLINE vec_t vec_fnma(vec_t a, vec_t b, vec_t c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
/* The second operand where either is NaN. */
VEC_INLINE vec_t vec_min(vec_t a, vec_t b)
{
    return _mm512_min_ps(a, b);
}
VEC_INLINE vec_t vec_max(vec_t a, vec_t b)
{
    return _mm512_max_ps(a, b);
}
VEC_INLINE vec_t vec_abs(vec_t a)
{
    return _mm512_abs_ps(a);
}
VEC_INLINE vec_t vec_round(vec_t a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
VEC_INLINE vecm_t vec_less(vec_t a, vec_t b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
/* where mask: a, else b */
VEC_INLINE vec_t vec_select(vecm_t mask, vec_t a, vec_t b)
{
    return _mm512_mask_blend_ps(mask, b, a);
}
/* a * 2^n for whole n in [-250, 250] */
VEC_INLINE vec_t vec_scale(vec_t a, vec_t n)
{
    return _mm512_scalef_ps(a, n);
}

VEC_INLINE vec_t vec_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
VEC_INLINE void vec_store_f16(uint16_t *p, vec_t x)
{
    _mm256_storeu_si256((__m256i *)p,
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
VEC_INLINE vec_t vec_load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));

    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
/* As wtn_float_to_bf16: the hardware's conversion flushes denormals, which tiers must agree on. */
VEC_INLINE veci_t vec_bits_bf16(vec_t x)
{
    __m512i   bits    = _mm512_castps_si512(x);
    __m512i   odd     = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i   rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan     = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);

    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_srli_epi32(rounded, 16);
}
VEC_INLINE vec_t vec_round_bf16(vec_t x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(vec_bits_bf16(x), 16));
}
VEC_INLINE vec_t vec_round_f16(vec_t x)
{
    return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
VEC_INLINE void vec_store_bf16(uint16_t *p, vec_t x)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(vec_bits_bf16(x)));
}

/* The first `count` lanes, 1..VEC_LANES; the next `room` floats at p may be overwritten. */
VEC_INLINE void vec_store_some(float *p, vec_t x, int count, int room)
{
    (void)room;
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1u), x);
}
/* Last step of vec_transpose: rows[4 i + c] has in quarter q column 4 q + c of rows 4 i .. 4 i + 3.
 */
VEC_INLINE void vec_transpose_quarters(vec_t rows[VEC_LANES])
{
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        vec_t even_low  = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0x88);
        vec_t even_high = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0x88);
        vec_t odd_low   = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0xdd);
        vec_t odd_high  = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0xdd);

        rows[c]      = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
        rows[4 + c]  = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
        rows[8 + c]  = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
        rows[12 + c] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
    }
}
/* a0 b0 a1 b1 and a2 b2 a3 b3 of each quarter, of single and of pairs of floats */
VEC_INLINE vec_t vec_zip_low(vec_t a, vec_t b)
{
    return _mm512_unpacklo_ps(a, b);
}
VEC_INLINE vec_t vec_zip_high(vec_t a, vec_t b)
{
    return _mm512_unpackhi_ps(a, b);
}
VEC_INLINE vec_t vec_zip_pairs_low(vec_t a, vec_t b)
{
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
VEC_INLINE vec_t vec_zip_pairs_high(vec_t a, vec_t b)
{
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

#elif defined(__AVX2__)

#define VEC_LANES 8

typedef __m256  vec_t;
typedef __m256i veci_t;
typedef __m256  vecm_t;

VEC_INLINE vec_t vec_set1(float x)
{
    return _mm256_set1_ps(x);
}
VEC_INLINE vec_t vec_zero(void)
{
    return _mm256_setzero_ps();
}
VEC_INLINE vec_t vec_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
VEC_INLINE void vec_store(float *p, vec_t x)
{
    _mm256_storeu_ps(p, x);
}
VEC_INLINE vec_t vec_add(vec_t a, vec_t b)
{
    return _mm256_add_ps(a, b);
}
VEC_INLINE vec_t vec_sub(vec_t a, vec_t b)
{
    return _mm256_sub_ps(a, b);
}
VEC_INLINE vec_t vec_mul(vec_t a, vec_t b)
{
    return _mm256_mul_ps(a, b);
}
VEC_INLINE vec_t vec_div(vec_t a, vec_t b)
{
    return _mm256_div_ps(a, b);
}
/* a * b + c and c - a * b, one rounding */
VEC_INLINE vec_t vec_fma(vec_t a, vec_t b, vec_t c)
{
    return _mm256_fmadd_ps(a, b, c);
}
VEC_INLINE vec_t vec_fnma(vec_t a, vec_t b, vec_t c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
/* The second operand where either is NaN. */
VEC_INLINE vec_t vec_min(vec_t a, vec_t b)
{
    return _mm256_min_ps(a, b);
}
VEC_INLINE vec_t vec_max(vec_t a, vec_t b)
{
    return _mm256_max_ps(a, b);
}
VEC_INLINE vec_t vec_abs(vec_t a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
VEC_INLINE vec_t vec_round(vec_t a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
VEC_INLINE vecm_t vec_less(vec_t a, vec_t b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
/* where mask: a, else b */
VEC_INLINE vec_t vec_select(vecm_t mask, vec_t a, vec_t b)
{
    return _mm256_blendv_ps(b, a, mask);
}
/* a * 2^n for whole n in [-250, 250]: by halves, as 2^n itself may not be a float */
VEC_INLINE vec_t vec_scale(vec_t a, vec_t n)
{
    __m256i whole = _mm256_cvtps_epi32(n);
    __m256i half  = _mm256_srai_epi32(whole, 1);
    __m256i rest  = _mm256_sub_epi32(whole, half);
    __m256i bias  = _mm256_set1_epi32(127);

    a = _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(a,
                         _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}

VEC_INLINE vec_t vec_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
VEC_INLINE void vec_store_f16(uint16_t *p, vec_t x)
{
    _mm_storeu_si128((__m128i *)p,
                     _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
VEC_INLINE vec_t vec_load_bf16(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));

    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
/* As wtn_float_to_bf16, in the low halves of 32-bit lanes. */
VEC_INLINE veci_t vec_bits_bf16(vec_t x)
{
    __m256i bits    = _mm256_castps_si256(x);
    __m256i odd     = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet   = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256  nan     = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);

    rounded = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
    return _mm256_srli_epi32(rounded, 16);
}
VEC_INLINE vec_t vec_round_bf16(vec_t x)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(vec_bits_bf16(x), 16));
}
VEC_INLINE vec_t vec_round_f16(vec_t x)
{
    return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
VEC_INLINE void vec_store_bf16(uint16_t *p, vec_t x)
{
    __m256i bits   = vec_bits_bf16(x);
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(bits, bits), 0x08);

    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(packed));
}

/* The first `count` lanes, 1..VEC_LANES; the next `room` floats at p may be overwritten: masked
 * stores of this width are slow where they matter. */
VEC_INLINE void vec_store_some(float *p, vec_t x, int count, int room)
{
    float lanes[VEC_LANES];

    if (room >= VEC_LANES) {
        vec_store(p, x);
        return;
    }
    vec_store(lanes, x);
    for (int i = 0; i < count; i++) {
        p[i] = lanes[i];
    }
}
/* Last step of vec_transpose: rows[4 i + c] has in half q column 4 q + c of rows 4 i .. 4 i + 3. */
VEC_INLINE void vec_transpose_quarters(vec_t rows[VEC_LANES])
{
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        vec_t low = _mm256_permute2f128_ps(rows[c], rows[4 + c], 0x20);

        rows[4 + c] = _mm256_permute2f128_ps(rows[c], rows[4 + c], 0x31);
        rows[c]     = low;
    }
}
/* a0 b0 a1 b1 and a2 b2 a3 b3 of each half, of single and of pairs of floats */
VEC_INLINE vec_t vec_zip_low(vec_t a, vec_t b)
{
    return _mm256_unpacklo_ps(a, b);
}
VEC_INLINE vec_t vec_zip_high(vec_t a, vec_t b)
{
    return _mm256_unpackhi_ps(a, b);
}
VEC_INLINE vec_t vec_zip_pairs_low(vec_t a, vec_t b)
{
    return _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}
VEC_INLINE vec_t vec_zip_pairs_high(vec_t a, vec_t b)
{
    return _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}

#else
#error "kernels/vector.h is for files compiled for a tier"
#endif

/* VEC_LANES elements of an array of `dtype`, as floats; stores round to nearest even. */
VEC_INLINE vec_t vec_load_as(witan_dtype_t dtype, const void *p)
{
    return dtype == WITAN_F16    ? vec_load_f16(p)
           : dtype == WITAN_BF16 ? vec_load_bf16(p)
                                 : vec_load(p);
}

VEC_INLINE void vec_store_as(witan_dtype_t dtype, void *p, vec_t x)
{
    if (dtype == WITAN_F16) {
        vec_store_f16(p, x);
    } else if (dtype == WITAN_BF16) {
        vec_store_bf16(p, x);
    } else {
        vec_store(p, x);
    }
}

/* Floats that hold values of `dtype`, rounded to nearest even. */
VEC_INLINE vec_t vec_round_as(witan_dtype_t dtype, vec_t x)
{
    return dtype == WITAN_F16 ? vec_round_f16(x) : dtype == WITAN_BF16 ? vec_round_bf16(x) : x;
}

/* Rows to columns, in place: 32-bit lanes of any meaning. */
VEC_INLINE void vec_transpose(vec_t rows[VEC_LANES])
{
    vec_t zipped[VEC_LANES];

#pragma GCC unroll 8
    for (int i = 0; i < VEC_LANES; i += 2) {
        zipped[i]     = vec_zip_low(rows[i], rows[i + 1]);
        zipped[i + 1] = vec_zip_high(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < VEC_LANES; i += 4) {
        rows[i]     = vec_zip_pairs_low(zipped[i], zipped[i + 2]);
        rows[i + 1] = vec_zip_pairs_high(zipped[i], zipped[i + 2]);
        rows[i + 2] = vec_zip_pairs_low(zipped[i + 1], zipped[i + 3]);
        rows[i + 3] = vec_zip_pairs_high(zipped[i + 1], zipped[i + 3]);
    }
    vec_transpose_quarters(rows);
}

/* The first `columns` lanes of the first `count` rows, transposed: out [columns][count]. All rows
 * must be set. */
VEC_INLINE void vec_store_transposed(float *out, const vec_t rows[VEC_LANES], int count,
                                     int columns)
{
    vec_t block[VEC_LANES];

    if (count == 1) {
        vec_store_some(out, rows[0], columns, columns);
        return;
    }
#pragma GCC unroll 16
    for (int r = 0; r < VEC_LANES; r++) {
        block[r] = rows[r];
    }
    vec_transpose(block);
#pragma GCC unroll 16
    for (int n = 0; n < VEC_LANES; n++) {
        if (n < columns) {
            vec_store_some(out + n * count, block[n], count, (columns - n) * count);
        }
    }
}

VEC_INLINE void vec_clear(vec_t rows[VEC_LANES])
{
#pragma GCC unroll 16
    for (int r = 0; r < VEC_LANES; r++) {
        rows[r] = vec_zero();
    }
}

#endif

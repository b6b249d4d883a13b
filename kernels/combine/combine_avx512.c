#include <immintrin.h>

#include "kernels/combine/combine.h"

#define LANES 16
typedef __m512 vector_t;

static inline vector_t load_f32(const float *from)
{
    return _mm512_loadu_ps(from);
}

static inline vector_t load_bf16(const uint16_t *from)
{
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));

    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline vector_t load_f16(const uint16_t *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

static inline void store_f32(float *to, vector_t value)
{
    _mm512_storeu_ps(to, value);
}

static inline void store_bf16(uint16_t *to, vector_t value)
{
    const __m512i   bits    = _mm512_castps_si512(value);
    const __m512i   upper   = _mm512_srli_epi32(bits, 16);
    const __m512i   odd     = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i   bias    = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i   rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
    const __mmask16 nan     = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i   result =
        _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)); /* quiet */

    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(result));
}

static inline void store_f16(uint16_t *to, vector_t value)
{
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

#include "kernels/combine/combine_vector.h"

const wtn_combine_tier_t wtn_combine_avx512 = {"avx512", combine, reduce};

#include <immintrin.h>

#include "kernels/combine/combine.h"

#define LANES 8
typedef __m256 vector_t;

static inline vector_t load_f32(const float *from)
{
    return _mm256_loadu_ps(from);
}

static inline vector_t load_bf16(const uint16_t *from)
{
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));

    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline vector_t load_f16(const uint16_t *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

static inline void store_f32(float *to, vector_t value)
{
    _mm256_storeu_ps(to, value);
}

static inline void store_bf16(uint16_t *to, vector_t value)
{
    const __m256i bits    = _mm256_castps_si256(value);
    const __m256i upper   = _mm256_srli_epi32(bits, 16);
    const __m256i odd     = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i bias    = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    const __m256i quiet   = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    const __m256i nan     = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i result  = _mm256_blendv_epi8(rounded, quiet, nan);
    const __m128i low     = _mm256_castsi256_si128(result);

    _mm_storeu_si128((__m128i *)to, _mm_packus_epi32(low, _mm256_extracti128_si256(result, 1)));
}

static inline void store_f16(uint16_t *to, vector_t value)
{
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

#include "kernels/combine/combine_vector.h"

const wtn_combine_tier_t wtn_combine_avx2 = {"avx2", combine, reduce};

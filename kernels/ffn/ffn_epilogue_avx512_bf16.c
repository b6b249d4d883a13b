#include "kernels/ffn/ffn_epilogue.h"

/* Two vectors of fp32 as VEC_LANES pairs of bf16. */
VEC_INLINE vec_t pairs(vec_t low, vec_t high)
{
    const __m256i first  = _mm512_cvtepi32_epi16(vec_bits_bf16(low));
    const __m256i second = _mm512_cvtepi32_epi16(vec_bits_bf16(high));

    return _mm512_castsi512_ps(_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1));
}

/* h as pairs of bf16; the odd place after a last column is zero. */
static void up_pairs(const wtn_epilogue_up_args_t *a)
{
    float         *to   = (float *)a->h + a->column_begin / 2 * a->rows;
    const int      half = (a->column_count + 1) / 2;
    const uint32_t odd  = (uint32_t)(a->column_count % 2);
    const __m512i  mask = _mm512_maskz_set1_epi32((__mmask16)((1u << half) - 1u), -1);
    const __m512i  keep = _mm512_mask_set1_epi32(mask, (__mmask16)(odd << (half - 1)), 0xffff);
    vec_t          h[VEC_LANES];

    vec_clear(h);
    for (int32_t r = 0; r < a->rows; r++) {
        vec_t low  = up_vector(a, r, 0);
        vec_t high = a->activation->gated ? vec_zero() : up_vector(a, r, 1);

        h[r] = _mm512_castsi512_ps(_mm512_and_si512(keep, _mm512_castps_si512(pairs(low, high))));
    }
    vec_store_transposed(to, h, a->rows, half);
}

static void down_bf16(const wtn_epilogue_down_args_t *args)
{
    down(args, WITAN_BF16);
}

const wtn_ffn_epilogue_t wtn_ffn_epilogue_avx512_bf16 = {up_pairs, down_bf16};

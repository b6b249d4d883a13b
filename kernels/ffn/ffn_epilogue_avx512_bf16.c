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
        vec_t both = pairs(up_vector(a, r, 0), up_vector(a, r, 1));

        h[r] = _mm512_castsi512_ps(_mm512_and_si512(keep, _mm512_castps_si512(both)));
    }
    vec_store_transposed(to, h, a->rows, half);
}

/* VEC_LANES rows of 8 words to columns[8] of VEC_LANES words: rows[4 i + c] holds row 8 i + c in
 * its low half and row 8 i + c + 4 in its high one, so that the last step joins four rows of each.
 */
VEC_INLINE void transpose_halves(vec_t columns[8], const vec_t rows[8])
{
    vec_t zipped[8];

#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        zipped[i]     = vec_zip_low(rows[i], rows[i + 1]);
        zipped[i + 1] = vec_zip_high(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        vec_t low       = vec_zip_pairs_low(zipped[i], zipped[i + 2]);
        vec_t low_next  = vec_zip_pairs_low(zipped[i + 4], zipped[i + 6]);
        vec_t high      = vec_zip_pairs_high(zipped[i], zipped[i + 2]);
        vec_t high_next = vec_zip_pairs_high(zipped[i + 4], zipped[i + 6]);

        columns[2 * i]     = _mm512_shuffle_f32x4(low, low_next, 0x88);
        columns[2 * i + 1] = _mm512_shuffle_f32x4(high, high_next, 0x88);
        columns[2 * i + 4] = _mm512_shuffle_f32x4(low, low_next, 0xdd);
        columns[2 * i + 5] = _mm512_shuffle_f32x4(high, high_next, 0xdd);
    }
}

VEC_INLINE veci_t up_bits(const wtn_epilogue_up_args_t *a, int32_t row)
{
    return row < a->rows ? vec_bits_bf16(up_vector(a, row, 0)) : _mm512_setzero_si512();
}

/* The same where half of a panel's columns are the gate's: a row fills half a vector. */
static void up_pairs_gated(const wtn_epilogue_up_args_t *a)
{
    float          *to   = (float *)a->h + a->column_begin / 2 * a->rows;
    const int       half = (a->column_count + 1) / 2;
    const __mmask32 keep = ((1u << a->column_count) - 1u) * 0x10001u;
    const __m512i   evens =
        _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26,
                         24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    vec_t h[8], columns[8];

    for (int32_t i = 0; i < 8; i++) {
        const int32_t row  = i / 4 * 8 + i % 4;
        const veci_t  low  = up_bits(a, row);
        const veci_t  high = up_bits(a, row + 4);

        h[i] = _mm512_castsi512_ps(_mm512_maskz_permutex2var_epi16(keep, low, evens, high));
    }
    transpose_halves(columns, h);
#pragma GCC unroll 8
    for (int n = 0; n < 8; n++) {
        if (n < half) {
            vec_store_some(to + n * a->rows, columns[n], a->rows, 0);
        }
    }
}

static void up_bf16(const wtn_epilogue_up_args_t *args)
{
    if (args->activation->gated) {
        up_pairs_gated(args);
    } else {
        up_pairs(args);
    }
}

/* Whole cache lines go past the caches: fetching a line of the output only to overwrite it took 3%
 * of the time of the next tile. */
static void down_bf16(const wtn_epilogue_down_args_t *a)
{
    if (a->column_count < COLUMNS) {
        down(a, WITAN_BF16);
        return;
    }
    for (int32_t r = 0; r < a->rows; r++) {
        const float *sums = a->sums + r * COLUMNS;
        uint16_t    *to   = (uint16_t *)a->out[r] + a->column_begin;
        vec_t        low  = vec_load(sums);
        vec_t        high = vec_load(sums + VEC_LANES);

        if (a->bias != NULL) {
            low  = vec_add(low, vec_load(a->bias));
            high = vec_add(high, vec_load(a->bias + VEC_LANES));
        }
        if ((uintptr_t)to % WTN_CACHE_LINE_BYTES == 0) {
            _mm512_stream_ps((float *)(void *)to, pairs(low, high));
        } else {
            vec_store((float *)(void *)to, pairs(low, high));
        }
    }
    _mm_sfence(); /* the next reader may be another thread */
}

const wtn_ffn_epilogue_t wtn_ffn_epilogue_avx512_bf16 = {up_bf16, down_bf16};

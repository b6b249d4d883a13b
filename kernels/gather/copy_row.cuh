/* A row copied by some lanes of a warp: 16 bytes per lane where alignment allows. */
#ifndef WTN_COPY_ROW_CUH
#define WTN_COPY_ROW_CUH

#include "kernels/cuda/device.cuh"

/* Loads in flight per lane. */
#define WTN_COPY_DEPTH 4

template <typename word_t>
WTN_DEVICE void wtn_copy_words(char *to, const char *from, size_t bytes, uint32_t lane,
                               uint32_t lanes)
{
    const word_t *source = (const word_t *)from;
    word_t       *target = (word_t *)to;

    for (size_t i = lane; i < bytes / sizeof(word_t); i += lanes) {
        target[i] = source[i];
    }
}

WTN_DEVICE void wtn_copy_vectors(char *to, const char *from, size_t bytes, uint32_t lane,
                                 uint32_t lanes)
{
    const size_t step = (size_t)lanes * 16;
    wtn_vec16_t  v[WTN_COPY_DEPTH];

    for (size_t at = (size_t)lane * 16; at < bytes; at += WTN_COPY_DEPTH * step) {
#pragma unroll
        for (uint32_t i = 0; i < WTN_COPY_DEPTH; i++) {
            if (at + i * step < bytes) {
                v[i] = wtn_load16_stream(from + at + i * step);
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < WTN_COPY_DEPTH; i++) {
            if (at + i * step < bytes) {
                wtn_store16(to + at + i * step, v[i]);
            }
        }
    }
}

/* Lane `lane` of `lanes` copies its share. */
WTN_DEVICE void wtn_copy_row(void *to, const void *from, size_t bytes, uint32_t lane,
                             uint32_t lanes)
{
    const size_t misfit = (size_t)to | (size_t)from | bytes;

    if (misfit % 16 == 0) {
        wtn_copy_vectors((char *)to, (const char *)from, bytes, lane, lanes);
    } else if (misfit % 4 == 0) {
        wtn_copy_words<uint32_t>((char *)to, (const char *)from, bytes, lane, lanes);
    } else if (misfit % 2 == 0) {
        wtn_copy_words<uint16_t>((char *)to, (const char *)from, bytes, lane, lanes);
    } else {
        wtn_copy_words<uint8_t>((char *)to, (const char *)from, bytes, lane, lanes);
    }
}

#endif

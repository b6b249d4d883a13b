/* Combine and reduce: ordered sums of rows. An element is the same bits whatever the number of
 * threads and the vector width: acc = shared * sigmoid(logit), or shared, or 0; then, slot by slot,
 * acc = acc + w * row with the product rounded; then one rounding to out_dtype. */
#ifndef WTN_COMBINE_H
#define WTN_COMBINE_H

#include "core/half.h"
#include "kernels/backend.h"
#include "kernels/plain_math.h"

void           wtn_combine_ref(const wtn_combine_args_t *args);
void           wtn_reduce_ref(const wtn_reduce_args_t *args);
witan_status_t wtn_host_combine(const wtn_combine_args_t *args);
witan_status_t wtn_host_reduce(const wtn_reduce_args_t *args);

/* The slots of wtn_backend_cuda: the bits of the reference. WITAN_E_ARGUMENT: more parts to reduce
 * than WTN_CUDA_REDUCE_PARTS_MAX. */
#define WTN_CUDA_REDUCE_PARTS_MAX 256
#ifdef __cplusplus
extern "C" {
#endif
witan_status_t wtn_cuda_combine(const wtn_combine_args_t *args);
witan_status_t wtn_cuda_reduce(const wtn_reduce_args_t *args);
#ifdef __cplusplus
}
#endif

/* Column h of token t before its rounding: the definition, and what is left over by vectors. */
static inline float wtn_combine_element(const wtn_combine_args_t *args, int64_t t, int64_t h)
{
    const int64_t H   = args->hidden_size;
    float         acc = 0.0f;

    if (args->shared != NULL) {
        acc = wtn_load_float(args->shared, args->dtype, (size_t)(t * H + h));
        if (args->shared_logit != NULL) {
            acc *= wtn_plain_sigmoid(args->shared_logit[t]);
        }
    }
    for (int32_t k = 0; k < args->slot_count; k++) {
        const int64_t slot = t * args->slot_count + k;
        const int64_t row  = args->row_index[slot];

        if (row >= 0) {
            const float w = args->weights != NULL ? args->weights[slot] : 1.0f;

            acc += w * wtn_load_float(args->rows, args->dtype, (size_t)(row * H + h));
        }
    }
    return acc;
}

static inline float wtn_reduce_element(const wtn_reduce_args_t *args, int64_t i)
{
    float acc = args->part_count > 0 ? args->parts[0][i] : 0.0f;

    for (int32_t p = 1; p < args->part_count; p++) {
        acc += args->parts[p][i];
    }
    return acc;
}

/* One width of vectors: columns [begin, end) of token t, elements [begin, end) of a reduction. */
typedef struct wtn_combine_tier {
    const char *name;
    void (*combine)(const wtn_combine_args_t *args, int64_t t, int64_t begin, int64_t end);
    void (*reduce)(const wtn_reduce_args_t *args, int64_t begin, int64_t end);
} wtn_combine_tier_t;

extern const wtn_combine_tier_t wtn_combine_generic;
extern const wtn_combine_tier_t wtn_combine_avx2;
extern const wtn_combine_tier_t wtn_combine_avx512;

/* Can this processor run it: as the tier of that name says. */
bool wtn_combine_tier_supported(const wtn_combine_tier_t *tier);

/* The host versions by a given tier, for tests. */
void wtn_combine_by(const wtn_combine_tier_t *tier, const wtn_combine_args_t *args);
void wtn_reduce_by(const wtn_combine_tier_t *tier, const wtn_reduce_args_t *args);

#endif

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/half.h"
#include "core/util.h"
#include "launcher/bench_comm.h"

/* splitmix64's finaliser */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static int8_t up_of(int64_t expert, int64_t h)
{
    return mix((uint64_t)expert * 0x9e3779b97f4a7c15u + (uint64_t)h + 1) & 1 ? 1 : -1;
}

static float down_of(int64_t expert, int64_t h)
{
    static const float values[] = {-2, -1, 1, 2};

    return values[(expert * 7 + h) & 3];
}

static witan_status_t read_weights(void *context, const witan_weight_slice_t *slice, void *out)
{
    (void)context;
    for (int64_t r = 0, at = 0; r < slice->row_count; r++) {
        for (int64_t c = 0; c < slice->col_count; c++, at++) {
            float value = 0; /* the router: nobody asks it */

            if (slice->weight == WITAN_WEIGHT_UP) {
                value = up_of(slice->expert, slice->col_begin + c);
            } else if (slice->weight == WITAN_WEIGHT_DOWN) {
                value = down_of(slice->expert, slice->row_begin + r);
            }
            wtn_store_float(out, slice->dtype, (size_t)at, value);
        }
    }
    return WITAN_OK;
}

witan_weights_t wtn_comm_data_weights(wtn_comm_data_t *data)
{
    return (witan_weights_t){.context = data, .read = read_weights};
}

witan_status_t wtn_comm_data_make(wtn_comm_data_t *data, const witan_layer_config_t *config)
{
    size_t width = (size_t)config->hidden_size, bytes;

    *data      = (wtn_comm_data_t){.config = *config};
    data->up   = wtn_mul((size_t)config->expert_count, width, &bytes) ? malloc(bytes) : NULL;
    data->dots = calloc((size_t)config->topk, sizeof(*data->dots));
    data->sums = calloc(2 * width, sizeof(*data->sums));
    if (data->up == NULL || data->dots == NULL || data->sums == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%" PRId32 " experts of width %zu", config->expert_count,
                         width);
    }
    for (int64_t e = 0, at = 0; e < config->expert_count; e++) {
        for (int64_t h = 0; h < config->hidden_size; h++, at++) {
            data->up[at] = up_of(e, h);
        }
    }
    return WITAN_OK;
}

void wtn_comm_data_free(wtn_comm_data_t *data)
{
    free(data->up);
    free(data->dots);
    free(data->sums);
    *data = (wtn_comm_data_t){0};
}

void wtn_comm_data_fill(const wtn_comm_data_t *data, int64_t begin, int64_t count, void *hidden,
                        float *weights)
{
    static const float values[] = {-1, 0, 0, 1};
    int64_t            width = data->config.hidden_size, topk = data->config.topk;

    for (int64_t t = 0; t < count; t++) {
        uint64_t seed = mix((uint64_t)(begin + t) + 1), bits = 0;

        for (int64_t h = 0; h < width; h++, bits >>= 2) {
            if (h % 32 == 0) {
                bits = mix(seed + (uint64_t)(h / 32) * 0x9e3779b97f4a7c15u);
            }
            wtn_store_float(hidden, data->config.dtype, (size_t)(t * width + h), values[bits & 3]);
        }
        for (int64_t k = 0; k < topk; k++) {
            weights[t * topk + k] = 1.0f / (float)(1 << ((begin + t + k) & 3));
        }
    }
}

/* What a value becomes when it is stored. */
static float rounded(float value, witan_dtype_t dtype)
{
    uint32_t place;

    wtn_store_float(&place, dtype, 0, value);
    return wtn_load_float(&place, dtype, 0);
}

/* x . up[e] of the token's experts; 0 for -1. */
static void make_dots(wtn_comm_data_t *data, const void *hidden, int64_t token, const int32_t *ids)
{
    int64_t width = data->config.hidden_size;
    float  *x     = data->sums; /* free until the sums are made */

    for (int64_t h = 0; h < width; h++) {
        x[h] = wtn_load_float(hidden, data->config.dtype, (size_t)(token * width + h));
    }
    for (int32_t k = 0; k < data->config.topk; k++) {
        const int8_t *up  = data->up + (size_t)(ids[k] < 0 ? 0 : ids[k]) * (size_t)width;
        int32_t       sum = 0;

        for (int64_t h = 0; h < width; h++) {
            sum += up[h] * (int32_t)x[h];
        }
        data->dots[k] = ids[k] < 0 ? 0 : sum;
    }
}

/* Is this token right? `slack`: roundings on the way, in units of the dtype. */
static bool is_right(wtn_comm_data_t *data, const int32_t *ids, const float *weights, float slack,
                     const void *output, int64_t token)
{
    int64_t       width = data->config.hidden_size;
    witan_dtype_t dtype = data->config.dtype;
    float        *sum = data->sums, *size = data->sums + width;
    bool          right = true;

    memset(sum, 0, 2 * (size_t)width * sizeof(*sum));
    for (int32_t k = 0; k < data->config.topk; k++) {
        float dot = rounded((float)data->dots[k], dtype); /* times a power of two: rounds alike */

        for (int64_t h = 0; h < width && ids[k] >= 0; h++) {
            float term = weights[k] * (dot * down_of(ids[k], h));

            sum[h] += term;
            size[h] += fabsf(term);
        }
    }
    for (int64_t h = 0; h < width; h++) {
        float found = wtn_load_float(output, dtype, (size_t)(token * width + h));

        right = right && fabsf(found - rounded(sum[h], dtype)) <= slack * size[h];
    }
    return right;
}

int64_t wtn_comm_data_check(wtn_comm_data_t *data, const void *hidden, const int32_t *ids,
                            const float *weights, int64_t count, bool exact, const void *output)
{
    /* Reduced: a sum is rounded on its rank, on its node and at last, and here once more; each by
     * at most the unit roundoff times no more than the sum of magnitudes. */
    static const float roundoff[] = {
        [WITAN_F32] = 0x1p-24f, [WITAN_F16] = 0x1p-11f, [WITAN_BF16] = 0x1p-8f};
    float   slack = exact ? 0 : 4.1f * roundoff[data->config.dtype];
    int64_t wrong = 0, topk = data->config.topk;

    for (int64_t t = 0; t < count; t++) {
        make_dots(data, hidden, t, ids + t * topk);
        wrong += !is_right(data, ids + t * topk, weights + t * topk, slack, output, t);
    }
    return wrong;
}

#include <math.h>

#include "core/half.h"
#include "launcher/synthetic.h"

/* splitmix64's finaliser: one multiplication chain per element, no state to carry. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Uniform of variance 1: in (-sqrt 3, sqrt 3), never 0. */
static float unit(uint64_t seed, uint64_t index)
{
    uint64_t bits = mix(seed + (index + 1) * 0x9e3779b97f4a7c15u);
    float    half = ((float)(bits >> 41) + 0.5f) * 0x1p-23f; /* (0, 1) */

    return half > 0.5f ? (half - 0.5f) * 3.4641016f + 0x1p-20f : (half - 0.5f) * 3.4641016f;
}

/* Rounded to `stored` first, so that a float32 reader sees what a bf16 reader sees. */
static float rounded(float value, witan_dtype_t stored)
{
    uint32_t place;

    wtn_store_float(&place, stored, 0, value);
    return wtn_load_float(&place, stored, 0);
}

void wtn_synthetic_fill(void *out, witan_dtype_t dtype, uint64_t seed, uint64_t begin, size_t count,
                        float scale)
{
    for (size_t i = 0; i < count; i++) {
        wtn_store_float(out, dtype, i, scale * unit(seed, begin + i));
    }
}

/* Columns of a matrix; 0 for the biases. */
static int64_t fan_in(const witan_layer_config_t *config, witan_weight_t weight)
{
    switch (weight) {
    case WITAN_WEIGHT_ROUTER:
    case WITAN_WEIGHT_GATE:
    case WITAN_WEIGHT_UP:
    case WITAN_WEIGHT_SHARED_GATE:
    case WITAN_WEIGHT_SHARED_UP:
    case WITAN_WEIGHT_SHARED_ROUTER:
        return config->hidden_size;
    case WITAN_WEIGHT_DOWN:
        return config->inter_size;
    case WITAN_WEIGHT_SHARED_DOWN:
        return config->shared_inter_size;
    case WITAN_WEIGHT_ROUTER_BIAS:
    case WITAN_WEIGHT_ROUTER_CORRECTION:
    case WITAN_WEIGHT_GATE_BIAS:
    case WITAN_WEIGHT_UP_BIAS:
    case WITAN_WEIGHT_DOWN_BIAS:
    case WITAN_WEIGHT_COUNT:
        break;
    }
    return 0;
}

static witan_status_t read_slice(void *context, const witan_weight_slice_t *slice, void *out)
{
    const wtn_synthetic_t *synthetic = context;
    int64_t                columns   = fan_in(synthetic->config, slice->weight);
    float                  scale     = columns > 0 ? 1.0f / sqrtf((float)columns) : 0.1f;
    witan_dtype_t stored = slice->weight == WITAN_WEIGHT_ROUTER ? synthetic->config->router_dtype
                                                                : synthetic->config->dtype;
    uint64_t      seed;

    seed = mix(synthetic->seed * 64 + (uint64_t)slice->weight) + (uint64_t)(slice->expert + 1);
    seed = mix(seed);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < slice->row_count; row++) {
        uint64_t index =
            (uint64_t)(slice->row_begin + row) * (uint64_t)columns + (uint64_t)slice->col_begin;
        size_t at = (size_t)(row * slice->col_count);

        for (int64_t column = 0; column < slice->col_count; column++, index++, at++) {
            float value = rounded(scale * unit(seed, index), stored);

            wtn_store_float(out, slice->dtype, at, value);
        }
    }
    return WITAN_OK;
}

witan_weights_t wtn_synthetic_weights(wtn_synthetic_t *synthetic)
{
    return (witan_weights_t){.context = synthetic, .read = read_slice};
}

/* A block small enough to check by hand: expert e multiplies a token by e + 1.
 *
 * Its experts are linear (activation "identity", not gated): up is the unit matrix, down is e + 1
 * times the unit matrix. So output = token * sum over k of weight[k] * (id[k] + 1). */
#ifndef EXAMPLE_BLOCK_H
#define EXAMPLE_BLOCK_H

#include <math.h>
#include <stdio.h>

#include <witan/witan.h>

enum { EXPERTS = 8, TOPK = 2, HIDDEN = 64 };

/* The weight at one place of a tensor. */
static inline float block_weight(witan_weight_t weight, int32_t expert, int64_t row, int64_t col)
{
    switch (weight) {
    case WITAN_WEIGHT_ROUTER: /* [E, H] */
        return (float)((row * 7 + col * 3) % 11) / 32.0f;
    case WITAN_WEIGHT_UP: /* [I, H] */
        return row == col ? 1.0f : 0.0f;
    case WITAN_WEIGHT_DOWN: /* [H, I] */
        return row == col ? (float)(expert + 1) : 0.0f;
    default:
        return NAN;
    }
}

/* witan_weights_t.read: called for the slices this rank owns, here always fp32. */
static inline witan_status_t block_read(void *context, const witan_weight_slice_t *slice, void *out)
{
    float *value = out;

    (void)context;
    if (slice->dtype != WITAN_F32) {
        return witan_error_set(WITAN_E_UNSUPPORTED, "block: only F32 weights, asked for %s",
                               witan_dtype_name(slice->dtype));
    }
    for (int64_t row = slice->row_begin; row < slice->row_begin + slice->row_count; row++) {
        for (int64_t col = slice->col_begin; col < slice->col_begin + slice->col_count; col++) {
            *value++ = block_weight(slice->weight, slice->expert, row, col);
        }
    }
    return WITAN_OK;
}

static inline void block_config(witan_layer_config_t *config)
{
    witan_layer_config_init(config);
    config->hidden_size       = HIDDEN;
    config->inter_size        = HIDDEN;
    config->expert_count      = EXPERTS;
    config->topk              = TOPK;
    config->dtype             = WITAN_F32;
    config->activation.kind   = WITAN_ACTIVATION_IDENTITY;
    config->activation.gated  = false;
    config->routing.normalise = true;
}

/* Element `col` of token `token`, numbered over all ranks. */
static inline float block_token(int64_t token, int64_t col)
{
    return (float)((token * 5 + col) % 13 - 6) / 8.0f;
}

/* Print one line per token: its experts, their weights, the largest relative error. Returns how
 * many tokens are wrong. */
static inline int block_check(const witan_plan_t *plan, int64_t token_begin, int64_t token_count,
                              const float *output)
{
    const int32_t *ids;
    const float   *weights;
    int            wrong = 0;

    if (witan_plan_routing(plan, &ids, &weights) != WITAN_OK) {
        return (int)token_count;
    }
    for (int64_t t = 0; t < token_count; t++) {
        float factor = 0.0f, error = 0.0f;

        for (int k = 0; k < TOPK; k++) {
            factor += weights[t * TOPK + k] * (float)(ids[t * TOPK + k] + 1);
        }
        for (int64_t col = 0; col < HIDDEN; col++) {
            float expected = block_token(token_begin + t, col) * factor;

            error = fmaxf(error, fabsf(output[t * HIDDEN + col] - expected) / (1.0f + factor));
            if (isnan(output[t * HIDDEN + col])) {
                error = INFINITY; /* fmaxf passes over NaN */
            }
        }
        wrong += !(error <= 1e-6f); /* a few roundings of fp32, 6e-8 each */
        printf("token %lld: experts %d (%.3f) and %d (%.3f), error %.1e\n",
               (long long)(token_begin + t), ids[t * TOPK], (double)weights[t * TOPK],
               ids[t * TOPK + 1], (double)weights[t * TOPK + 1], (double)error);
    }
    return wrong;
}

#endif

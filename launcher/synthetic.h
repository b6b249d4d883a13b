/* Numbers for measurements and checks: they depend on a seed and a position only, so every rank and
 * every slice sees the same tensor. Never zeros: multiplying zeros costs less power, hence runs
 * faster, than real data. */
#ifndef WTN_SYNTHETIC_H
#define WTN_SYNTHETIC_H

#include <witan/layer.h>

/* count values of variance scale^2, elements [begin, begin + count) of stream `seed`. */
void wtn_synthetic_fill(void *out, witan_dtype_t dtype, uint64_t seed, uint64_t begin, size_t count,
                        float scale);

typedef struct wtn_synthetic {
    const witan_layer_config_t *config;
    uint64_t                    seed;
} wtn_synthetic_t;

/* All weights of a layer of this configuration, scaled so that activations keep their variance;
 * values are those of the config's dtypes whatever dtype is asked for. `synthetic` must outlive
 * the result. */
witan_weights_t wtn_synthetic_weights(wtn_synthetic_t *synthetic);

#endif

/* Synthetic blocks for tests: every weight is a pure function of its place, so that any rank can
 * make any slice, and inputs likewise. */
#ifndef TEST_BLOCK_H
#define TEST_BLOCK_H

#include <witan/witan.h>

typedef struct block {
    witan_layer_config_t config;
    uint64_t             seed;
    bool                 identity;    /* up and down are unit matrices */
    int64_t              slow_us;     /* every read takes that long */
    int32_t              fail_expert; /* reading this expert fails; -1: none */
} block_t;

/* A block with softmax routing, top-k renormalised, silu gated. */
block_t block_make(int32_t experts, int32_t topk, int64_t hidden, int64_t inter,
                   witan_dtype_t dtype);

/* With a shared expert, biases, a correction, groups and a clamped activation; 4 divides E. */
void block_with_all_options(block_t *block, bool has_shared_gate);

/* Its weights; `block` must outlive them. */
witan_weights_t block_weights(block_t *block);

/* Rows [begin, begin + count) of the input of that seed, in the block's dtype. Caller frees. */
void *block_input(const block_t *block, int64_t begin, int64_t count);

/* The float64 result for rows [begin, begin + count), routed by `ids` and `weights` [count, K].
 * Caller frees. */
double *block_reference(block_t *block, const void *hidden, int64_t count, const int32_t *ids,
                        const float *weights);

/* A uniform number in [-1, 1) from a place. */
float block_random(uint64_t seed, uint64_t a, uint64_t b, uint64_t c);

#endif

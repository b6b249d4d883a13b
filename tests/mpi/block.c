#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "block.h"
#include "core/half.h"
#include "dispatch/reference.h"

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

float block_random(uint64_t seed, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t bits = mix(mix(mix(mix(seed + 1) + a) + b) + c);

    return (float)((double)(bits >> 40) / (double)(1 << 23) - 1.0);
}

block_t block_make(int32_t experts, int32_t topk, int64_t hidden, int64_t inter,
                   witan_dtype_t dtype)
{
    block_t block = {.seed = 7, .fail_expert = -1};

    witan_layer_config_init(&block.config);
    block.config.expert_count      = experts;
    block.config.topk              = topk;
    block.config.hidden_size       = hidden;
    block.config.inter_size        = inter;
    block.config.dtype             = dtype;
    block.config.router_dtype      = dtype;
    block.config.routing.normalise = true;
    return block;
}

void block_with_all_options(block_t *block, bool has_shared_gate)
{
    block->config.shared_inter_size           = 72;
    block->config.has_shared_gate             = has_shared_gate;
    block->config.has_gate_up_bias            = true;
    block->config.has_down_bias               = true;
    block->config.router_dtype                = WITAN_F32;
    block->config.routing.score               = WITAN_SCORE_SIGMOID;
    block->config.routing.has_correction_bias = true;
    block->config.routing.has_bias            = true;
    block->config.routing.scale               = 2.5f;
    block->config.routing.group_count         = 4;
    block->config.routing.group_topk          = 2;
    block->config.routing.group_score         = WITAN_GROUP_SCORE_TOP2_SUM;
    block->config.activation                  = (witan_activation_t){.kind      = WITAN_ACTIVATION_SWISH,
                                                                     .parameter = 1.702f,
                                                                     .gated     = true,
                                                                     .limit     = 0.5f,
                                                                     .up_offset = 1.0f};
}

/* Uniform with variance 1 / fan-in, so that activations stay of order one. */
static float value(const block_t *block, const witan_weight_slice_t *slice, int64_t row,
                   int64_t col)
{
    bool     down = slice->weight == WITAN_WEIGHT_DOWN || slice->weight == WITAN_WEIGHT_SHARED_DOWN;
    int64_t  fan_in = slice->weight == WITAN_WEIGHT_DOWN          ? block->config.inter_size
                      : slice->weight == WITAN_WEIGHT_SHARED_DOWN ? block->config.shared_inter_size
                                                                  : block->config.hidden_size;
    uint64_t place  = (uint64_t)slice->weight * 1000003u + (uint64_t)(slice->expert + 1);
    float    x      = block_random(block->seed, place, (uint64_t)row, (uint64_t)col);

    if (block->identity && (down || slice->weight == WITAN_WEIGHT_UP)) {
        return row == col ? 1.0f : 0.0f;
    }
    if (slice->weight == WITAN_WEIGHT_ROUTER) {
        return x * 4.0f / sqrtf((float)block->config.hidden_size);
    }
    if (slice->weight == WITAN_WEIGHT_ROUTER_BIAS ||
        slice->weight == WITAN_WEIGHT_ROUTER_CORRECTION ||
        slice->weight == WITAN_WEIGHT_GATE_BIAS || slice->weight == WITAN_WEIGHT_UP_BIAS ||
        slice->weight == WITAN_WEIGHT_DOWN_BIAS) {
        return x * 0.25f;
    }
    return x * sqrtf(3.0f / (float)fan_in);
}

static witan_status_t read_block(void *context, const witan_weight_slice_t *slice, void *out)
{
    block_t      *block = context;
    witan_dtype_t stored =
        slice->weight == WITAN_WEIGHT_ROUTER ? block->config.router_dtype : block->config.dtype;
    float rounded; /* room for any dtype */

    if (block->slow_us > 0) {
        (void)usleep((useconds_t)block->slow_us);
    }
    if (slice->row_count <= 0 || slice->col_count <= 0) {
        return witan_error_set(WITAN_E_IO, "block: nothing of weight %d asked for",
                               (int)slice->weight);
    }
    if (slice->expert >= 0 && slice->expert == block->fail_expert) {
        return witan_error_set(WITAN_E_IO, "block: expert %d can not be read", (int)slice->expert);
    }
    for (int64_t r = 0; r < slice->row_count; r++) {
        for (int64_t c = 0; c < slice->col_count; c++) {
            float x = value(block, slice, slice->row_begin + r, slice->col_begin + c);

            /* What a file of that dtype would hold, whatever dtype is asked for. */
            if (stored != WITAN_F32) {
                wtn_store_float(&rounded, stored, 0, x);
                x = wtn_load_float(&rounded, stored, 0);
            }
            wtn_store_float(out, slice->dtype, (size_t)(r * slice->col_count + c), x);
        }
    }
    return WITAN_OK;
}

witan_weights_t block_weights(block_t *block)
{
    return (witan_weights_t){.context = block, .read = read_block};
}

void *block_input(const block_t *block, int64_t begin, int64_t count)
{
    int64_t hidden = block->config.hidden_size;
    char   *rows   = malloc((size_t)(count * hidden) * witan_dtype_bytes(block->config.dtype) + 64);

    for (int64_t i = 0; i < count * hidden; i++) {
        wtn_store_float(rows, block->config.dtype, (size_t)i,
                        block_random(block->seed ^ 0x1234, (uint64_t)(begin + i / hidden),
                                     (uint64_t)(i % hidden), 99));
    }
    return rows;
}

double *block_reference(block_t *block, const void *hidden, int64_t count, const int32_t *ids,
                        const float *weights)
{
    witan_weights_t source = block_weights(block);
    double         *out    = calloc((size_t)(count * block->config.hidden_size) + 1, sizeof(*out));

    if (wtn_reference_layer(&block->config, &source, count, hidden, ids, weights, out, NULL,
                            NULL) != WITAN_OK) {
        free(out);
        return NULL;
    }
    return out;
}

/* Fuzz target: config.json. The input is one byte of layer index, then the JSON. What is accepted
 * must be a layer that can be built. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "experts/activation.h"
#include "experts/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const witan_layer_config_t *layer;
    const witan_routing_t      *routing;
    wtn_config_t                config;

    if (size < 1) {
        return 0;
    }
    if (wtn_config_parse(&config, "F", (const char *)data + 1, size - 1, data[0]) != WITAN_OK) {
        if (strncmp(witan_last_error(), "F: ", 3) != 0) {
            abort();
        }
        return 0;
    }
    layer   = &config.layer;
    routing = &layer->routing;
    if (config.family == NULL || layer->hidden_size < 1 || layer->inter_size < 1 ||
        layer->topk < 1 || layer->topk > layer->expert_count || layer->shared_inter_size < 0 ||
        layer->shared_inter_size > INT32_MAX || routing->group_count < 1 ||
        layer->expert_count % routing->group_count != 0 || routing->group_topk < 1 ||
        routing->group_topk > routing->group_count ||
        routing->group_topk * (int64_t)(layer->expert_count / routing->group_count) < layer->topk ||
        !isfinite(routing->scale) || wtn_activation_check(&layer->activation) != WITAN_OK ||
        config.fp8_block[0] < 1 || config.fp8_block[1] < 1) {
        abort();
    }
    return 0;
}

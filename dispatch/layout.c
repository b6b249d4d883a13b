#include <inttypes.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/layout.h"
#include "experts/activation.h"
#include "kernels/tier.h"
#include "kernels/topk/topk.h"

#define SIZE_LIMIT ((int64_t)1 << 31) /* of H and I: products with row counts then fit 64 bits */

void witan_layer_config_init(witan_layer_config_t *config)
{
    *config = (witan_layer_config_t){
        .struct_bytes = sizeof(*config),
        .dtype        = WITAN_BF16,
        .router_dtype = WITAN_F32,
        .activation   = {.kind = WITAN_ACTIVATION_SILU, .gated = true},
        .routing      = {.scale = 1.0f, .group_count = 1, .group_topk = 1},
        .backend      = "auto",
        .kernel_tier  = "auto",
    };
}

static witan_status_t check_size(const char *name, int64_t value, int64_t min, int64_t max)
{
    if (value < min || value > max) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "layer: %s: expected %" PRId64 " to %" PRId64 ", found %" PRId64, name,
                         min, max, value);
    }
    return WITAN_OK;
}

static witan_status_t check_config(const witan_layer_config_t *config)
{
    witan_status_t status;

    if (config->struct_bytes != sizeof(*config)) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "layer: struct_bytes: expected %zu, found %zu (witan_layer_config_init)",
                         sizeof(*config), config->struct_bytes);
    }
    WTN_TRY(check_size("hidden_size", config->hidden_size, 1, SIZE_LIMIT));
    WTN_TRY(check_size("inter_size", config->inter_size, 1, SIZE_LIMIT));
    WTN_TRY(check_size("expert_count", config->expert_count, 1, INT32_MAX / 2));
    WTN_TRY(check_size("topk", config->topk, 1, config->expert_count));
    WTN_TRY(check_size("shared_inter_size", config->shared_inter_size, 0, SIZE_LIMIT));
    if (witan_dtype_bytes(config->dtype) == 0 || witan_dtype_bytes(config->router_dtype) == 0) {
        return WTN_ERROR(WITAN_E_CONFIG, "layer: dtype %d or router_dtype %d is no witan_dtype_t",
                         (int)config->dtype, (int)config->router_dtype);
    }
    if (config->backend == NULL || config->kernel_tier == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "layer: backend or kernel_tier: expected a name, "
                                           "found NULL (witan_layer_config_init)");
    }
    if (config->has_shared_gate && config->shared_inter_size == 0) {
        return WTN_ERROR(WITAN_E_CONFIG, "layer: has_shared_gate without a shared expert");
    }
    WTN_TRY(wtn_activation_check(&config->activation));
    WTN_TRY(wtn_routing_check(&config->routing, config->expert_count, config->topk));

fail:
    return status;
}

static witan_status_t list_local_slots(wtn_layout_t *layout)
{
    const wtn_placement_t *placement = &layout->placement;
    int32_t                next      = 0;

    for (int32_t r = 0; r < placement->owner_count; r++) {
        if (placement->counts[r] > layout->local_count_max) {
            layout->local_count_max = placement->counts[r];
        }
    }
    layout->local_count   = placement->counts[layout->folding.expert_index];
    layout->local_experts = calloc((size_t)layout->local_count + 1, sizeof(int32_t));
    layout->local_slots   = calloc((size_t)layout->local_count + 1, sizeof(int32_t));
    if (layout->local_experts == NULL || layout->local_slots == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "layer: %" PRId32 " slots", layout->local_count);
    }
    for (int32_t s = 0; s < placement->slot_count; s++) {
        if (placement->slot_owner[s] == layout->folding.expert_index) {
            layout->local_experts[next] = placement->slot_expert[s];
            layout->local_slots[next++] = s;
        }
    }
    return WITAN_OK;
}

void wtn_layout_point(wtn_layout_t *layout)
{
    const wtn_placement_t *placement = &layout->placement;
    witan_layer_config_t  *config    = &layout->config;

    if (config->slot_count == 0 && wtn_placement_is_plain(placement)) {
        config->expert_owner = placement->slot_owner;
    } else {
        config->expert_owner = NULL;
        config->slot_count   = placement->slot_count;
        config->slot_expert  = placement->slot_expert;
        config->slot_owner   = placement->slot_owner;
    }
    layout->experts.experts = layout->local_experts;
}

/* A bias of the down product must enter the sum over a tensor group once. */
static void make_specs(wtn_layout_t *layout)
{
    const witan_layer_config_t *config = &layout->config;
    int32_t                     tp     = layout->folding.tensor_parallel;
    int32_t                     index  = layout->folding.tensor_index;

    layout->experts = (wtn_ffn_spec_t){
        .hidden_size      = config->hidden_size,
        .inter_begin      = wtn_part_begin(config->inter_size, tp, index),
        .inter_end        = wtn_part_begin(config->inter_size, tp, index + 1),
        .expert_count     = layout->local_count,
        .experts          = layout->local_experts,
        .dtype            = config->dtype,
        .activation       = config->activation,
        .has_gate_up_bias = config->has_gate_up_bias,
        .has_down_bias    = config->has_down_bias && index == 0,
        .tier             = layout->tier,
    };
    if (config->shared_inter_size > 0) {
        layout->shared                  = layout->experts;
        layout->shared.inter_begin      = wtn_part_begin(config->shared_inter_size, tp, index);
        layout->shared.inter_end        = wtn_part_begin(config->shared_inter_size, tp, index + 1);
        layout->shared.expert_count     = 1;
        layout->shared.experts          = NULL;
        layout->shared.has_gate_up_bias = false;
        layout->shared.has_down_bias    = false;
    }
    layout->router = (wtn_gate_spec_t){
        .hidden_size  = config->hidden_size,
        .out_count    = config->expert_count,
        .weight       = WITAN_WEIGHT_ROUTER,
        .x_dtype      = config->dtype,
        .weight_dtype = config->router_dtype,
        .tier         = layout->tier,
    };
    if (config->has_shared_gate) {
        layout->shared_gate           = layout->router;
        layout->shared_gate.out_count = 1;
        layout->shared_gate.weight    = WITAN_WEIGHT_SHARED_ROUTER;
    }
    layout->row_bytes = (size_t)config->hidden_size * witan_dtype_bytes(config->dtype);
}

/* The nodes of the ranks this one exchanges tokens with. */
static witan_status_t list_nodes(wtn_layout_t *layout, const int32_t *nodes)
{
    const wtn_folding_t *folding = &layout->folding;
    int32_t              ep      = folding->expert_parallel;

    if (nodes == NULL) {
        return WITAN_OK;
    }
    layout->nodes = calloc((size_t)ep, sizeof(*layout->nodes));
    if (layout->nodes == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "layer: nodes of %" PRId32 " ranks", ep);
    }
    for (int32_t j = 0; j < ep; j++) {
        layout->nodes[j] = nodes[wtn_folding_expert_peer(folding, j)];
    }
    return WITAN_OK;
}

/* *sum += bytes; false where 64 bits with a sign do not hold it. */
static bool add_bytes(size_t bytes, size_t *sum)
{
    return wtn_add(*sum, bytes, sum) && *sum <= (size_t)INT64_MAX;
}

int64_t wtn_layout_weight_bytes(const wtn_layout_t *layout)
{
    const wtn_backend_t *backend = layout->backend;
    size_t               bytes   = 0;
    bool                 fits    = add_bytes(backend->gate_weight_bytes(&layout->router), &bytes);

    if (layout->experts.expert_count > 0) {
        fits = fits && add_bytes(backend->ffn_weight_bytes(&layout->experts), &bytes);
    }
    if (layout->shared.hidden_size > 0) {
        fits = fits && add_bytes(backend->ffn_weight_bytes(&layout->shared), &bytes);
    }
    if (layout->shared_gate.out_count > 0) {
        fits = fits && add_bytes(backend->gate_weight_bytes(&layout->shared_gate), &bytes);
    }
    return fits ? (int64_t)bytes : -1;
}

witan_status_t wtn_layout_make(wtn_layout_t *layout, const witan_layer_config_t *config,
                               const wtn_folding_t *folding, const int32_t *nodes)
{
    const wtn_placement_spec_t placement = {
        .expert_count = config->expert_count,
        .owner_count  = folding->expert_parallel,
        .expert_owner = config->expert_owner,
        .slot_count   = config->slot_count,
        .slot_expert  = config->slot_expert,
        .slot_owner   = config->slot_owner,
    };
    witan_status_t status;

    *layout = (wtn_layout_t){.folding = *folding};
    WTN_TRY(check_config(config));
    layout->config = *config;
    WTN_TRY(wtn_backend_select(config->backend, &layout->backend));
    WTN_TRY(
        wtn_tier_choose(layout->backend->tiers, config->kernel_tier, config->dtype, &layout->tier));
    layout->config.backend     = layout->backend->name;
    layout->config.kernel_tier = wtn_tier_name(layout->tier);
    WTN_TRY(wtn_placement_make(&layout->placement, &placement));
    WTN_TRY(list_local_slots(layout));
    wtn_layout_point(layout);
    WTN_TRY(list_nodes(layout, nodes));
    make_specs(layout);
    if (wtn_layout_weight_bytes(layout) < 0) {
        status =
            WTN_ERROR(WITAN_E_CONFIG, "layer: weights of this rank: more bytes than 64 bits count");
        goto fail;
    }
    return WITAN_OK;

fail:
    wtn_layout_free(layout);
    return status;
}

void wtn_layout_free(wtn_layout_t *layout)
{
    wtn_placement_free(&layout->placement);
    free(layout->local_experts);
    free(layout->local_slots);
    free(layout->nodes);
    layout->local_experts = layout->local_slots = layout->nodes = NULL;
}

static uint64_t hash_placement(const wtn_placement_t *placement)
{
    size_t bytes = (size_t)placement->slot_count * sizeof(int32_t);

    return wtn_hash(wtn_hash(0, placement->slot_owner, bytes), placement->slot_expert, bytes);
}

size_t wtn_layout_fields(const wtn_layout_t *layout, wtn_field_t *fields)
{
    const witan_layer_config_t *config     = &layout->config;
    const witan_activation_t   *activation = &config->activation;
    const witan_routing_t      *routing    = &config->routing;
    wtn_field_t                *field      = fields;

    wtn_field_set(field++, "hidden_size", "%" PRId64, config->hidden_size);
    wtn_field_set(field++, "inter_size", "%" PRId64, config->inter_size);
    wtn_field_set(field++, "expert_count", "%" PRId32, config->expert_count);
    wtn_field_set(field++, "topk", "%" PRId32, config->topk);
    wtn_field_set(field++, "dtype", "%s", witan_dtype_name(config->dtype));
    wtn_field_set(field++, "router_dtype", "%s", witan_dtype_name(config->router_dtype));
    wtn_field_set(field++, "activation", "%s(%.9g)%s", wtn_activation_name(activation->kind),
                  (double)activation->parameter, activation->gated ? " gated" : "");
    wtn_field_set(field++, "activation limit", "%.9g, up_offset %.9g", (double)activation->limit,
                  (double)activation->up_offset);
    wtn_field_set(field++, "routing score", "%d%s", (int)routing->score,
                  routing->score_after_topk ? " after top-k" : "");
    wtn_field_set(field++, "routing normalise", "%s, epsilon %.9g",
                  routing->normalise ? "true" : "false", (double)routing->normalise_epsilon);
    wtn_field_set(field++, "routing scale", "%.9g", (double)routing->scale);
    wtn_field_set(field++, "routing groups", "%" PRId32 " of %" PRId32 ", score %d, mask %d",
                  routing->group_topk, routing->group_count, (int)routing->group_score,
                  (int)routing->mask_value);
    wtn_field_set(field++, "routing biases", "%d %d", routing->has_bias,
                  routing->has_correction_bias);
    wtn_field_set(field++, "expert biases", "%d %d", config->has_gate_up_bias,
                  config->has_down_bias);
    wtn_field_set(field++, "shared_inter_size", "%" PRId64 "%s", config->shared_inter_size,
                  config->has_shared_gate ? " with gate" : "");
    wtn_field_set(field++, "backend", "%s", config->backend);
    wtn_field_set(field++, "kernel_tier", "%s", config->kernel_tier);
    wtn_field_set(field++, "placement (hash)", "%" PRId32 " slots %016" PRIx64,
                  layout->placement.slot_count, hash_placement(&layout->placement));
    return (size_t)(field - fields);
}

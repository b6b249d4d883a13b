#include "experts/family.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"

/* Routed experts: one tensor per expert and projection. */
#define PER_EXPERT(block, gate, up, down)                                              \
    .kind = WTN_LAYOUT_PER_EXPERT, .names[WITAN_WEIGHT_ROUTER] = block ".gate.weight", \
    .names[WITAN_WEIGHT_GATE] = block ".experts.{e}." gate ".weight",                  \
    .names[WITAN_WEIGHT_UP]   = block ".experts.{e}." up ".weight",                    \
    .names[WITAN_WEIGHT_DOWN] = block ".experts.{e}." down ".weight"

/* Routed experts: the whole block in two tensors. */
#define FUSED                                                                  \
    .kind = WTN_LAYOUT_FUSED, .names[WITAN_WEIGHT_ROUTER] = "mlp.gate.weight", \
    .names[WITAN_WEIGHT_GATE] = "mlp.experts.gate_up_proj",                    \
    .names[WITAN_WEIGHT_UP]   = "mlp.experts.gate_up_proj",                    \
    .names[WITAN_WEIGHT_DOWN] = "mlp.experts.down_proj"

#define PER_EXPERT_MLP PER_EXPERT("mlp", "gate_proj", "up_proj", "down_proj")

#define SHARED(name)                                                    \
    .names[WITAN_WEIGHT_SHARED_GATE] = "mlp." name ".gate_proj.weight", \
    .names[WITAN_WEIGHT_SHARED_UP]   = "mlp." name ".up_proj.weight",   \
    .names[WITAN_WEIGHT_SHARED_DOWN] = "mlp." name ".down_proj.weight"

#define SHARED_ROUTER .names[WITAN_WEIGHT_SHARED_ROUTER] = "mlp.shared_expert_gate.weight"
#define CORRECTION    .names[WITAN_WEIGHT_ROUTER_CORRECTION] = "mlp.gate.e_score_correction_bias"

#define GPT_OSS(suffix)                                                   \
    .names[WITAN_WEIGHT_ROUTER]      = "mlp.router.weight",               \
    .names[WITAN_WEIGHT_ROUTER_BIAS] = "mlp.router.bias",                 \
    .names[WITAN_WEIGHT_GATE]        = "mlp.experts.gate_up_proj" suffix, \
    .names[WITAN_WEIGHT_UP]          = "mlp.experts.gate_up_proj" suffix, \
    .names[WITAN_WEIGHT_DOWN]        = "mlp.experts.down_proj" suffix,    \
    .names[WITAN_WEIGHT_GATE_BIAS]   = "mlp.experts.gate_up_proj_bias",   \
    .names[WITAN_WEIGHT_UP_BIAS]     = "mlp.experts.gate_up_proj_bias",   \
    .names[WITAN_WEIGHT_DOWN_BIAS]   = "mlp.experts.down_proj_bias"

/* Softmax over all experts, then top-k. */
#define ROUTING_SOFTMAX \
    .score = WITAN_SCORE_SOFTMAX, .scale = 1.0f, .group_count = 1, .group_topk = 1

/* DeepSeek-V3: sigmoid, chosen with the correction bias, weighted without it. */
#define ROUTING_V3                                                                \
    .score = WITAN_SCORE_SIGMOID, .normalise = true, .normalise_epsilon = 1e-20f, \
    .group_score = WITAN_GROUP_SCORE_TOP2_SUM, .mask_value = WITAN_MASK_NEG_INF,  \
    .has_correction_bias = true

const wtn_family_t wtn_families[] = {
    {
        .model_type   = "mixtral",
        .architecture = "MixtralForCausalLM",
        .experts_key  = "num_local_experts",
        .inter_key    = "intermediate_size",
        .routing      = {ROUTING_SOFTMAX, .normalise = true},
        .layout_count = 2,
        .layouts      = {{PER_EXPERT("block_sparse_moe", "w1", "w3", "w2")}, {FUSED}},
    },
    {
        .model_type      = "qwen2_moe",
        .architecture    = "Qwen2MoeForCausalLM",
        .experts_key     = "num_experts",
        .inter_key       = "moe_intermediate_size",
        .routing         = {ROUTING_SOFTMAX},
        .normalise_key   = "norm_topk_prob",
        .shared_rule     = WTN_SHARED_WIDTH,
        .shared_key      = "shared_expert_intermediate_size",
        .shared_default  = 5632,
        .has_shared_gate = true,
        .dense_rule      = WTN_DENSE_SPARSE_STEP,
        .layout_count    = 2,
        .layouts         = {{PER_EXPERT_MLP, SHARED("shared_expert"), SHARED_ROUTER},
                            {FUSED, SHARED("shared_expert"), SHARED_ROUTER}},
    },
    {
        .model_type    = "qwen3_moe",
        .architecture  = "Qwen3MoeForCausalLM",
        .experts_key   = "num_experts",
        .inter_key     = "moe_intermediate_size",
        .routing       = {ROUTING_SOFTMAX},
        .normalise_key = "norm_topk_prob",
        .dense_rule    = WTN_DENSE_SPARSE_STEP,
        .layout_count  = 2,
        .layouts       = {{PER_EXPERT_MLP}, {FUSED}},
    },
    {
        .model_type    = "olmoe",
        .architecture  = "OlmoeForCausalLM",
        .experts_key   = "num_experts",
        .inter_key     = "intermediate_size",
        .routing       = {ROUTING_SOFTMAX},
        .normalise_key = "norm_topk_prob",
        .layout_count  = 2,
        .layouts       = {{PER_EXPERT_MLP}, {FUSED}},
    },
    {
        .model_type               = "deepseek_v2",
        .architecture             = "DeepseekV2ForCausalLM",
        .experts_key              = "n_routed_experts",
        .inter_key                = "moe_intermediate_size",
        .routing                  = {ROUTING_SOFTMAX, .group_score = WITAN_GROUP_SCORE_MAX,
                                     .mask_value = WITAN_MASK_ZERO},
        .normalise_key            = "norm_topk_prob",
        .scale_key                = "routed_scaling_factor",
        .score_key                = "scoring_func",
        .topk_method_key          = "topk_method",
        .topk_methods             = {"greedy", "group_limited_greedy"},
        .has_groups               = true,
        .scale_excludes_normalise = true,
        .shared_rule              = WTN_SHARED_COUNT,
        .shared_key               = "n_shared_experts",
        .shared_default           = 2,
        .dense_rule               = WTN_DENSE_FIRST_K_FREQ,
        .layout_count             = 2,
        .layouts = {{PER_EXPERT_MLP, SHARED("shared_experts")}, {FUSED, SHARED("shared_experts")}},
    },
    {
        .model_type          = "deepseek_v3",
        .architecture        = "DeepseekV3ForCausalLM",
        .experts_key         = "n_routed_experts",
        .inter_key           = "moe_intermediate_size",
        .routing             = {ROUTING_V3, .scale = 2.5f, .group_count = 8, .group_topk = 4},
        .normalise_key       = "norm_topk_prob",
        .scale_key           = "routed_scaling_factor",
        .score_key           = "scoring_func",
        .topk_method_key     = "topk_method",
        .topk_methods        = {"noaux_tc"},
        .has_groups          = true,
        .shared_rule         = WTN_SHARED_COUNT,
        .shared_key          = "n_shared_experts",
        .shared_default      = 1,
        .dense_rule          = WTN_DENSE_FIRST_K_FREQ,
        .first_dense_default = 3,
        .layout_count        = 2,
        .layouts             = {{PER_EXPERT_MLP, CORRECTION, SHARED("shared_experts")},
                                {FUSED, CORRECTION, SHARED("shared_experts")}},
    },
    {
        .model_type          = "glm4_moe",
        .architecture        = "Glm4MoeForCausalLM",
        .experts_key         = "n_routed_experts",
        .inter_key           = "moe_intermediate_size",
        .routing             = {ROUTING_V3, .scale = 1.0f, .group_count = 1, .group_topk = 1},
        .normalise_key       = "norm_topk_prob",
        .scale_key           = "routed_scaling_factor",
        .score_key           = "scoring_func",
        .topk_method_key     = "topk_method",
        .topk_methods        = {"noaux_tc"},
        .has_groups          = true,
        .shared_rule         = WTN_SHARED_COUNT,
        .shared_key          = "n_shared_experts",
        .shared_default      = 1,
        .dense_rule          = WTN_DENSE_FIRST_K,
        .first_dense_default = 1,
        .layout_count        = 2,
        .layouts             = {{PER_EXPERT_MLP, CORRECTION, SHARED("shared_experts")},
                                {FUSED, CORRECTION, SHARED("shared_experts")}},
    },
    {
        .model_type        = "gpt_oss",
        .architecture      = "GptOssForCausalLM",
        .experts_key       = "num_local_experts",
        .inter_key         = "intermediate_size",
        .routing           = {ROUTING_SOFTMAX, .score_after_topk = true, .has_bias = true},
        .has_expert_bias   = true,
        .has_clamped_swish = true,
        .layout_count      = 2,
        .layouts           = {{.kind = WTN_LAYOUT_TRANSPOSED, GPT_OSS("")},
                              {.kind = WTN_LAYOUT_MXFP4, GPT_OSS("_blocks")}},
    },
};

const size_t wtn_family_count = WTN_COUNT_OF(wtn_families);

const wtn_family_t *wtn_family_find(const char *model_type)
{
    for (size_t i = 0; i < wtn_family_count; i++) {
        if (strcmp(wtn_families[i].model_type, model_type) == 0) {
            return &wtn_families[i];
        }
    }
    return NULL;
}

const wtn_layout_t *wtn_family_layout(const wtn_family_t *family, wtn_layout_kind_t kind)
{
    for (int32_t i = 0; i < family->layout_count; i++) {
        if (family->layouts[i].kind == kind) {
            return &family->layouts[i];
        }
    }
    return NULL;
}

bool wtn_layout_name(const wtn_layout_t *layout, witan_weight_t weight, int32_t layer,
                     int32_t expert, char name[WTN_TENSOR_NAME_BYTES])
{
    const char *pattern = layout->names[weight];
    const char *hole;
    int         length;

    if (pattern == NULL) {
        return false;
    }
    hole = strstr(pattern, "{e}");
    if (hole == NULL) {
        length =
            snprintf(name, WTN_TENSOR_NAME_BYTES, "model.layers.%" PRId32 ".%s", layer, pattern);
    } else {
        length = snprintf(name, WTN_TENSOR_NAME_BYTES, "model.layers.%" PRId32 ".%.*s%" PRId32 "%s",
                          layer, (int)(hole - pattern), pattern, expert, hole + 3);
    }
    return length > 0 && length < WTN_TENSOR_NAME_BYTES;
}

void wtn_layout_scale_name(const wtn_layout_t *layout, const char *name,
                           char scale_name[WTN_TENSOR_NAME_BYTES])
{
    static const char blocks[] = "_blocks";
    size_t            length   = strlen(name);

    if (layout->kind == WTN_LAYOUT_MXFP4 && length >= sizeof(blocks) - 1) {
        (void)snprintf(scale_name, WTN_TENSOR_NAME_BYTES, "%.*s_scales",
                       (int)(length - (sizeof(blocks) - 1)), name);
    } else {
        (void)snprintf(scale_name, WTN_TENSOR_NAME_BYTES, "%s_scale_inv", name);
    }
}

bool wtn_weight_is_per_expert(witan_weight_t weight)
{
    return weight >= WITAN_WEIGHT_GATE && weight <= WITAN_WEIGHT_DOWN_BIAS;
}

bool wtn_weight_exists(witan_weight_t weight, const witan_layer_config_t *config)
{
    switch (weight) {
    case WITAN_WEIGHT_ROUTER:
    case WITAN_WEIGHT_UP:
    case WITAN_WEIGHT_DOWN:
        return true;
    case WITAN_WEIGHT_GATE:
        return config->activation.gated;
    case WITAN_WEIGHT_ROUTER_BIAS:
        return config->routing.has_bias;
    case WITAN_WEIGHT_ROUTER_CORRECTION:
        return config->routing.has_correction_bias;
    case WITAN_WEIGHT_GATE_BIAS:
        return config->has_gate_up_bias && config->activation.gated;
    case WITAN_WEIGHT_UP_BIAS:
        return config->has_gate_up_bias;
    case WITAN_WEIGHT_DOWN_BIAS:
        return config->has_down_bias;
    case WITAN_WEIGHT_SHARED_GATE:
        return config->shared_inter_size > 0 && config->activation.gated;
    case WITAN_WEIGHT_SHARED_UP:
    case WITAN_WEIGHT_SHARED_DOWN:
        return config->shared_inter_size > 0;
    case WITAN_WEIGHT_SHARED_ROUTER:
        return config->shared_inter_size > 0 && config->has_shared_gate;
    case WITAN_WEIGHT_COUNT:
        break;
    }
    return false;
}

void wtn_weight_shape(witan_weight_t weight, const witan_layer_config_t *config, int64_t *rows,
                      int64_t *cols)
{
    const int64_t hidden = config->hidden_size, inter = config->inter_size;
    const int64_t shapes[WITAN_WEIGHT_COUNT][2] = {
        [WITAN_WEIGHT_ROUTER]            = {config->expert_count, hidden},
        [WITAN_WEIGHT_ROUTER_BIAS]       = {1, config->expert_count},
        [WITAN_WEIGHT_ROUTER_CORRECTION] = {1, config->expert_count},
        [WITAN_WEIGHT_GATE]              = {inter, hidden},
        [WITAN_WEIGHT_UP]                = {inter, hidden},
        [WITAN_WEIGHT_DOWN]              = {hidden, inter},
        [WITAN_WEIGHT_GATE_BIAS]         = {1, inter},
        [WITAN_WEIGHT_UP_BIAS]           = {1, inter},
        [WITAN_WEIGHT_DOWN_BIAS]         = {1, hidden},
        [WITAN_WEIGHT_SHARED_GATE]       = {config->shared_inter_size, hidden},
        [WITAN_WEIGHT_SHARED_UP]         = {config->shared_inter_size, hidden},
        [WITAN_WEIGHT_SHARED_DOWN]       = {hidden, config->shared_inter_size},
        [WITAN_WEIGHT_SHARED_ROUTER]     = {1, hidden},
    };

    *rows = shapes[weight][0];
    *cols = shapes[weight][1];
}

static int32_t set_shape(int64_t *shape, int32_t rank, int64_t a, int64_t b, int64_t c, int64_t d)
{
    shape[0] = a;
    shape[1] = b;
    shape[2] = c;
    shape[3] = d;
    return rank;
}

int32_t wtn_layout_shape(const wtn_layout_t *layout, witan_weight_t weight,
                         const witan_layer_config_t *config, int64_t shape[WTN_ST_RANK_MAX])
{
    const int64_t experts = config->expert_count;
    const bool    is_down = weight == WITAN_WEIGHT_DOWN;
    int64_t       rows, cols;

    wtn_weight_shape(weight, config, &rows, &cols);
    switch (weight) {
    case WITAN_WEIGHT_ROUTER_BIAS:
    case WITAN_WEIGHT_ROUTER_CORRECTION:
        return set_shape(shape, 1, cols, 0, 0, 0);
    case WITAN_WEIGHT_GATE_BIAS:
    case WITAN_WEIGHT_UP_BIAS:
        return set_shape(shape, 2, experts, 2 * cols, 0, 0);
    case WITAN_WEIGHT_DOWN_BIAS:
        return set_shape(shape, 2, experts, cols, 0, 0);
    case WITAN_WEIGHT_GATE:
    case WITAN_WEIGHT_UP:
    case WITAN_WEIGHT_DOWN:
        break;
    default:
        return set_shape(shape, 2, rows, cols, 0, 0);
    }
    if (layout->kind == WTN_LAYOUT_PER_EXPERT) {
        return set_shape(shape, 2, rows, cols, 0, 0);
    }
    rows = is_down ? rows : 2 * rows; /* gate and up share the tensor */
    if (layout->kind == WTN_LAYOUT_FUSED) {
        return set_shape(shape, 3, experts, rows, cols, 0);
    }
    if (layout->kind == WTN_LAYOUT_TRANSPOSED) {
        return set_shape(shape, 3, experts, cols, rows, 0);
    }
    return set_shape(shape, 4, experts, rows, cols / 32, 16);
}

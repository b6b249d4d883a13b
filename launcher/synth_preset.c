/* The presets, and config.json. At full scale the sizes are those of the published models. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/synth.h"

/* sizes: H, I, shared width, E, K */
const wtn_synth_preset_t wtn_synth_presets[] = {
    {
        .name        = "mixtral-8x7b",
        .model_type  = "mixtral",
        .published   = WTN_SYNTH_BF16,
        .layer_count = 32,
        .sizes       = {{64, 96, 0, 8, 2}, {512, 1792, 0, 8, 2}, {4096, 14336, 0, 8, 2}},
    },
    {
        .name        = "qwen3-30b-a3b",
        .model_type  = "qwen3_moe",
        .published   = WTN_SYNTH_BF16,
        .layer_count = 48,
        .sizes       = {{64, 40, 0, 16, 4}, {512, 192, 0, 128, 8}, {2048, 768, 0, 128, 8}},
        .keys        = {{"norm_topk_prob", 'b', 1},
                        {"decoder_sparse_step", 'i', 1},
                        {"intermediate_size", 'i', 6144}},
    },
    {
        .name        = "qwen2-57b-a14b",
        .model_type  = "qwen2_moe",
        .published   = WTN_SYNTH_BF16,
        .layer_count = 28,
        .sizes       = {{64, 40, 96, 16, 4}, {448, 320, 2560, 64, 8}, {3584, 2560, 20480, 64, 8}},
        .keys        = {{"norm_topk_prob", 'b', 0},
                        {"decoder_sparse_step", 'i', 1},
                        {"intermediate_size", 'i', 18944}},
    },
    {
        .name        = "olmoe-1b-7b",
        .model_type  = "olmoe",
        .published   = WTN_SYNTH_BF16,
        .layer_count = 16,
        .sizes       = {{64, 40, 0, 16, 4}, {512, 256, 0, 64, 8}, {2048, 1024, 0, 64, 8}},
        .keys        = {{"norm_topk_prob", 'b', 0}},
    },
    {
        .name        = "deepseek-v3",
        .model_type  = "deepseek_v3",
        .published   = WTN_SYNTH_FP8,
        .layer_index = 3,
        .layer_count = 61,
        .sizes       = {{160, 96, 0, 16, 4}, {448, 128, 0, 256, 8}, {7168, 2048, 0, 256, 8}},
        .keys        = {{"n_shared_experts", 'i', 1},
                        {"n_group", 'i', 8},
                        {"topk_group", 'i', 4},
                        {"topk_method", 's', .text = "noaux_tc"},
                        {"scoring_func", 's', .text = "sigmoid"},
                        {"first_k_dense_replace", 'i', 3},
                        {"moe_layer_freq", 'i', 1},
                        {"routed_scaling_factor", 'f', 2.5},
                        {"norm_topk_prob", 'b', 1},
                        {"num_nextn_predict_layers", 'i', 1},
                        {"intermediate_size", 'i', 18432}},
    },
    {
        .name        = "gpt-oss-120b",
        .model_type  = "gpt_oss",
        .published   = WTN_SYNTH_MXFP4,
        .layer_count = 36,
        .sizes       = {{96, 64, 0, 16, 4}, {576, 576, 0, 128, 4}, {2880, 2880, 0, 128, 4}},
        .keys        = {{"swiglu_limit", 'f', 7.0}, {"attention_bias", 'b', 1}},
    },
};

const size_t wtn_synth_preset_count = WTN_COUNT_OF(wtn_synth_presets);

const wtn_synth_preset_t *wtn_synth_preset_find(const char *name)
{
    for (size_t i = 0; i < wtn_synth_preset_count; i++) {
        if (strcmp(wtn_synth_presets[i].name, name) == 0) {
            return &wtn_synth_presets[i];
        }
    }
    return NULL;
}

const char *wtn_synth_storage_name(wtn_synth_storage_t storage)
{
    static const char *const names[] = {"published", "BF16", "F16", "F32", "FP8", "MXFP4"};

    return (size_t)storage < WTN_COUNT_OF(names) ? names[storage] : "?";
}

static witan_status_t unknown_preset(const char *name)
{
    char   known[256] = "";
    size_t length     = 0;

    for (size_t i = 0; i < wtn_synth_preset_count; i++) {
        int added = snprintf(known + length, sizeof(known) - length, "%s%s", i > 0 ? ", " : "",
                             wtn_synth_presets[i].name);

        if (added < 0 || (size_t)added >= sizeof(known) - length) {
            break;
        }
        length += (size_t)added;
    }
    return WTN_ERROR(WITAN_E_CONFIG, "preset '%s' is not known; expected one of %s", name, known);
}

static wtn_layout_kind_t layout_kind(const wtn_family_t *family, wtn_synth_storage_t storage)
{
    return storage == WTN_SYNTH_MXFP4 ? WTN_LAYOUT_MXFP4 : family->layouts[0].kind;
}

static witan_dtype_t activation_dtype(wtn_synth_storage_t storage)
{
    switch (storage) {
    case WTN_SYNTH_F32:
        return WITAN_F32;
    case WTN_SYNTH_F16:
        return WITAN_F16;
    default:
        return WITAN_BF16;
    }
}

witan_status_t wtn_synth_block_init(wtn_synth_block_t *block, const char *preset,
                                    wtn_synth_scale_t scale, wtn_synth_storage_t storage,
                                    uint64_t seed)
{
    const wtn_synth_sizes_t *sizes;
    witan_layer_config_t    *config = &block->config;

    memset(block, 0, sizeof(*block));
    block->preset = wtn_synth_preset_find(preset);
    if (block->preset == NULL) {
        return unknown_preset(preset);
    }
    block->family = wtn_family_find(block->preset->model_type);
    if (block->family == NULL) {
        return WTN_ERROR(WITAN_E_INTERNAL, "preset %s: no family %s", preset,
                         block->preset->model_type);
    }
    block->storage = storage == WTN_SYNTH_PUBLISHED ? block->preset->published : storage;
    block->layout  = wtn_family_layout(block->family, layout_kind(block->family, block->storage));
    block->seed    = seed;
    if (block->layout == NULL ||
        (block->storage == WTN_SYNTH_FP8 && block->layout->kind != WTN_LAYOUT_PER_EXPERT)) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "preset %s is not stored as %s", preset,
                         wtn_synth_storage_name(block->storage));
    }

    sizes                    = &block->preset->sizes[scale];
    config->struct_bytes     = sizeof(*config);
    config->hidden_size      = sizes->hidden_size;
    config->inter_size       = sizes->inter_size;
    config->expert_count     = sizes->expert_count;
    config->topk             = sizes->topk;
    config->dtype            = activation_dtype(block->storage);
    config->activation.gated = true;
    config->routing          = block->family->routing;
    config->has_gate_up_bias = block->family->has_expert_bias;
    config->has_down_bias    = block->family->has_expert_bias;
    config->has_shared_gate  = block->family->has_shared_gate;
    if (block->family->shared_rule == WTN_SHARED_WIDTH) {
        config->shared_inter_size = sizes->shared_inter_size;
    } else if (block->family->shared_rule == WTN_SHARED_COUNT) {
        config->shared_inter_size = sizes->inter_size; /* n_shared_experts is 1 */
    }
    return WITAN_OK;
}

static json_t *key_value(const wtn_synth_key_t *key)
{
    switch (key->kind) {
    case 'b':
        return json_boolean(key->value != 0.0);
    case 'i':
        return json_integer((json_int_t)key->value);
    case 's':
        return json_string(key->text);
    default:
        return json_real(key->value);
    }
}

static json_t *quantization(wtn_synth_storage_t storage)
{
    if (storage == WTN_SYNTH_FP8) {
        return json_pack("{s:s, s:s, s:s, s:[i,i]}", "quant_method", "fp8", "fmt", "e4m3",
                         "activation_scheme", "dynamic", "weight_block_size", 128, 128);
    }
    return json_pack("{s:s, s:[s,s,s,s]}", "quant_method", "mxfp4", "modules_to_not_convert",
                     "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens",
                     "lm_head");
}

/* NULL without memory. */
static json_t *config_json(const wtn_synth_block_t *block)
{
    static const char *const    dtypes[] = {"float32", "float16", "bfloat16"};
    const witan_layer_config_t *config   = &block->config;
    const wtn_family_t         *family   = block->family;
    json_t *root   = json_pack("{s:[s], s:s, s:s, s:s, s:I, s:i, s:I, s:i, s:i}", "architectures",
                               family->architecture, "model_type", family->model_type, "torch_dtype",
                               dtypes[config->dtype], "hidden_act", "silu", "hidden_size",
                               (json_int_t)config->hidden_size, "num_hidden_layers",
                               (int)block->preset->layer_count, family->inter_key,
                               (json_int_t)config->inter_size, family->experts_key,
                               (int)config->expert_count, "num_experts_per_tok", (int)config->topk);
    int     failed = root == NULL;

    for (const wtn_synth_key_t *key = block->preset->keys; key->key != NULL; key++) {
        failed |= json_object_set_new(root, key->key, key_value(key));
    }
    if (family->shared_rule == WTN_SHARED_WIDTH) {
        failed |= json_object_set_new(root, family->shared_key,
                                      json_integer((json_int_t)config->shared_inter_size));
    }
    if (block->storage == WTN_SYNTH_FP8 || block->storage == WTN_SYNTH_MXFP4) {
        failed |= json_object_set_new(root, "quantization_config", quantization(block->storage));
    }
    if (failed != 0) {
        json_decref(root);
        return NULL;
    }
    return root;
}

witan_status_t wtn_synth_write_config(const wtn_synth_block_t *block, const char *folder)
{
    json_t *root = config_json(block);
    char    path[4096];
    int     length = snprintf(path, sizeof(path), "%s/config.json", folder);
    int     failed;

    if (root == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s/config.json: no memory", folder);
    }
    if (length < 0 || (size_t)length >= sizeof(path)) {
        json_decref(root);
        return WTN_ERROR(WITAN_E_ARGUMENT, "%s: the path is too long", folder);
    }
    failed = json_dump_file(root, path, JSON_INDENT(2));
    json_decref(root);
    if (failed != 0) {
        return WTN_ERROR(WITAN_E_IO, "%s: cannot be written: %s", path, strerror(errno));
    }
    return WITAN_OK;
}

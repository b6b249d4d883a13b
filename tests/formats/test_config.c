/* config.json: what each family's keys mean, and that every contradiction is refused by its key. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>
#include <jansson.h>

#include "core/util.h"
#include "experts/config.h"
#include "formats/folder.h"

#define MIXTRAL                                                                  \
    "{\"model_type\":\"mixtral\",\"hidden_size\":64,\"intermediate_size\":32,"   \
    "\"num_local_experts\":8,\"num_experts_per_tok\":2,\"num_hidden_layers\":4," \
    "\"hidden_act\":\"silu\"}"
#define QWEN2                                                                     \
    "{\"model_type\":\"qwen2_moe\",\"hidden_size\":64,\"intermediate_size\":999," \
    "\"moe_intermediate_size\":24,\"shared_expert_intermediate_size\":56,"        \
    "\"num_experts\":6,\"num_experts_per_tok\":4,\"num_hidden_layers\":4,"        \
    "\"norm_topk_prob\":false,\"decoder_sparse_step\":1,\"mlp_only_layers\":[]}"
#define QWEN3                                                                        \
    "{\"model_type\":\"qwen3_moe\",\"hidden_size\":64,\"moe_intermediate_size\":24," \
    "\"num_experts\":6,\"num_experts_per_tok\":4,\"num_hidden_layers\":4}"
#define OLMOE                                                                \
    "{\"model_type\":\"olmoe\",\"hidden_size\":64,\"intermediate_size\":24," \
    "\"num_experts\":6,\"num_experts_per_tok\":4,\"num_hidden_layers\":4}"
#define V2                                                                             \
    "{\"model_type\":\"deepseek_v2\",\"hidden_size\":64,\"moe_intermediate_size\":24," \
    "\"n_routed_experts\":8,\"num_experts_per_tok\":3,\"num_hidden_layers\":4,"        \
    "\"n_shared_experts\":2,\"first_k_dense_replace\":1,\"routed_scaling_factor\":16.0}"
#define V3                                                                             \
    "{\"model_type\":\"deepseek_v3\",\"hidden_size\":64,\"moe_intermediate_size\":24," \
    "\"n_routed_experts\":16,\"num_experts_per_tok\":4,\"num_hidden_layers\":61,"      \
    "\"n_group\":4,\"topk_group\":2,\"num_nextn_predict_layers\":1}"
#define GLM4                                                                        \
    "{\"model_type\":\"glm4_moe\",\"hidden_size\":64,\"moe_intermediate_size\":24," \
    "\"n_routed_experts\":16,\"num_experts_per_tok\":4,\"num_hidden_layers\":4}"
#define GPT_OSS                                                                  \
    "{\"model_type\":\"gpt_oss\",\"hidden_size\":64,\"intermediate_size\":32,"   \
    "\"num_local_experts\":8,\"num_experts_per_tok\":4,\"num_hidden_layers\":4," \
    "\"hidden_act\":\"silu\"}"

/* Parse `base` after the edits in `edits`, a JSON object whose nulls take the key away. */
static witan_status_t parse(wtn_config_t *out, const char *base, const char *edits, int32_t layer)
{
    json_t     *config = json_loads(base, 0, NULL), *changes = json_loads(edits, 0, NULL), *value;
    const char *key;
    char       *text;
    witan_status_t status;

    ck_assert_ptr_nonnull(config);
    ck_assert_ptr_nonnull(changes);
    json_object_foreach(changes, key, value)
    {
        if (json_is_null(value)) {
            (void)json_object_del(config, key);
        } else {
            (void)json_object_set(config, key, value);
        }
    }
    text   = json_dumps(config, 0);
    status = wtn_config_parse(out, "F", text, strlen(text), layer);
    free(text);
    json_decref(config);
    json_decref(changes);
    return status;
}

static wtn_config_t parse_ok(const char *base, const char *edits, int32_t layer)
{
    wtn_config_t   config;
    witan_status_t status = parse(&config, base, edits, layer);

    ck_assert_msg(status == WITAN_OK, "%s: %s", edits, witan_last_error());
    return config;
}

/* ---- what the families say ---- */

START_TEST(test_mixtral_always_normalises)
{
    wtn_config_t                config = parse_ok(MIXTRAL, "{\"norm_topk_prob\":false}", 3);
    const witan_layer_config_t *layer  = &config.layer;

    ck_assert_str_eq(config.family->model_type, "mixtral");
    ck_assert(layer->hidden_size == 64 && layer->inter_size == 32 && layer->expert_count == 8);
    ck_assert(layer->topk == 2 && layer->shared_inter_size == 0 && !layer->has_shared_gate);
    ck_assert(layer->routing.score == WITAN_SCORE_SOFTMAX && layer->routing.normalise);
    ck_assert(!layer->routing.score_after_topk && layer->routing.scale == 1.0f);
    ck_assert(layer->routing.group_count == 1 && layer->routing.group_topk == 1);
    ck_assert(!layer->routing.has_bias && !layer->routing.has_correction_bias);
    ck_assert(layer->activation.kind == WITAN_ACTIVATION_SILU && layer->activation.gated);
    ck_assert(!layer->has_gate_up_bias && !layer->has_down_bias);
}
END_TEST

START_TEST(test_qwen_and_olmoe_normalise_by_key)
{
    static const char *const bases[] = {QWEN2, QWEN3, OLMOE};

    for (size_t i = 0; i < WTN_COUNT_OF(bases); i++) {
        ck_assert(!parse_ok(bases[i], "{\"norm_topk_prob\":null}", 0).layer.routing.normalise);
        ck_assert(!parse_ok(bases[i], "{\"norm_topk_prob\":false}", 0).layer.routing.normalise);
        ck_assert(parse_ok(bases[i], "{\"norm_topk_prob\":true}", 0).layer.routing.normalise);
        ck_assert(parse_ok(bases[i], "{}", 0).layer.inter_size == 24);
        ck_assert(parse_ok(bases[i], "{}", 0).layer.routing.normalise_epsilon == 0.0f);
    }
}
END_TEST

START_TEST(test_qwen2_shared_expert_has_gate)
{
    const witan_layer_config_t layer = parse_ok(QWEN2, "{}", 0).layer;

    ck_assert(layer.shared_inter_size == 56 && layer.has_shared_gate);
    ck_assert(parse_ok(QWEN2, "{\"shared_expert_intermediate_size\":0}", 0).layer.has_shared_gate ==
              false);
    ck_assert(parse_ok(QWEN3, "{}", 0).layer.shared_inter_size == 0);
}
END_TEST

START_TEST(test_deepseek_v2_methods)
{
    const char *groups =
        "{\"topk_method\":\"group_limited_greedy\",\"n_group\":4,\"topk_group\":2}";
    const witan_routing_t greedy =
        parse_ok(V2, "{\"topk_method\":\"greedy\",\"n_group\":3,\"topk_group\":9}", 1)
            .layer.routing;
    const witan_routing_t grouped = parse_ok(V2, groups, 1).layer.routing;

    ck_assert(greedy.group_count == 1 && greedy.scale == 16.0f && !greedy.normalise);
    ck_assert(grouped.group_count == 4 && grouped.group_topk == 2);
    ck_assert(grouped.group_score == WITAN_GROUP_SCORE_MAX);
    ck_assert(grouped.mask_value == WITAN_MASK_ZERO && !grouped.has_correction_bias);
    ck_assert(parse_ok(V2, "{}", 1).layer.shared_inter_size == 48);
    ck_assert(!parse_ok(V2, "{}", 1).layer.has_shared_gate);
    ck_assert(parse_ok(V2, "{\"norm_topk_prob\":true,\"routed_scaling_factor\":1}", 1)
                  .layer.routing.normalise);
}
END_TEST

START_TEST(test_deepseek_v3_and_glm4_routing)
{
    const witan_routing_t v3   = parse_ok(V3, "{}", 3).layer.routing;
    const witan_routing_t glm4 = parse_ok(GLM4, "{}", 1).layer.routing;
    const char           *text = "{\"n_group\":null,\"topk_group\":null}";

    ck_assert(v3.score == WITAN_SCORE_SIGMOID && v3.normalise && v3.scale == 2.5f);
    ck_assert(v3.group_count == 4 && v3.group_topk == 2 && v3.has_correction_bias);
    ck_assert(v3.group_score == WITAN_GROUP_SCORE_TOP2_SUM && v3.mask_value == WITAN_MASK_NEG_INF);
    ck_assert(v3.normalise_epsilon == 1e-20f);
    ck_assert(glm4.scale == 1.0f && glm4.group_count == 1 && glm4.has_correction_bias);
    ck_assert(parse_ok(V3, text, 3).layer.routing.group_count == 8);
    ck_assert(parse_ok(V3, text, 3).layer.routing.group_topk == 4);
    ck_assert(!parse_ok(V3, "{\"norm_topk_prob\":false}", 3).layer.routing.normalise);
    ck_assert(parse_ok(V3, "{\"scoring_func\":\"softmax\"}", 3).layer.routing.score ==
              WITAN_SCORE_SOFTMAX);
    ck_assert(parse_ok(V3, "{\"scoring_func\":\"sqrtsoftplus\"}", 3).layer.routing.score ==
              WITAN_SCORE_SQRT_SOFTPLUS);
    ck_assert(parse_ok(V3, "{\"routed_scaling_factor\":1}", 3).layer.routing.scale == 1.0f);
    ck_assert(parse_ok(V3, "{}", 3).layer.shared_inter_size == 24);
    ck_assert(parse_ok(V3, "{\"n_shared_experts\":0}", 3).layer.shared_inter_size == 0);
}
END_TEST

START_TEST(test_null_number_of_shared_experts_means_none)
{
    static const char text[] =
        "{\"model_type\":\"deepseek_v2\",\"hidden_size\":64,\"moe_intermediate_size\":24,"
        "\"n_routed_experts\":8,\"num_experts_per_tok\":3,\"num_hidden_layers\":4,"
        "\"n_shared_experts\":null}";
    wtn_config_t config;

    ck_assert_int_eq(wtn_config_parse(&config, "F", text, strlen(text), 1), WITAN_OK);
    ck_assert(config.layer.shared_inter_size == 0);
}
END_TEST

START_TEST(test_gpt_oss_activation_and_biases)
{
    const witan_layer_config_t layer = parse_ok(GPT_OSS, "{}", 0).layer;
    const witan_layer_config_t other =
        parse_ok(GPT_OSS, "{\"swiglu_alpha\":1.5,\"swiglu_limit\":3,\"experts_per_token\":4}", 0)
            .layer;

    ck_assert(layer.activation.kind == WITAN_ACTIVATION_SWISH && layer.activation.gated);
    ck_assert(layer.activation.parameter == 1.702f && layer.activation.limit == 7.0f);
    ck_assert(layer.activation.up_offset == 1.0f);
    ck_assert(other.activation.parameter == 1.5f && other.activation.limit == 3.0f);
    ck_assert(layer.routing.score_after_topk && layer.routing.has_bias);
    ck_assert(layer.has_gate_up_bias && layer.has_down_bias);
}
END_TEST

START_TEST(test_activation_names_and_parameters)
{
    witan_activation_t a = parse_ok(MIXTRAL, "{\"hidden_act\":null}", 0).layer.activation;

    ck_assert(a.kind == WITAN_ACTIVATION_SILU);
    a = parse_ok(MIXTRAL, "{\"hidden_act\":\"gelu_pytorch_tanh\"}", 0).layer.activation;
    ck_assert(a.kind == WITAN_ACTIVATION_GELU_TANH && a.gated);
    a = parse_ok(MIXTRAL,
                 "{\"hidden_act\":null,\"activation_function\":\"leaky_relu\","
                 "\"activation_params\":{\"alpha\":0.25}}",
                 0)
            .layer.activation;
    ck_assert(a.kind == WITAN_ACTIVATION_LEAKY_RELU && a.parameter == 0.25f);
}
END_TEST

START_TEST(test_expert_count_by_any_name)
{
    ck_assert(
        parse_ok(QWEN3, "{\"num_experts\":null,\"num_local_experts\":6}", 0).layer.expert_count ==
        6);
    ck_assert(
        parse_ok(MIXTRAL, "{\"num_local_experts\":null,\"num_experts\":8}", 0).layer.expert_count ==
        8);
    ck_assert(parse_ok(V3, "{\"num_experts\":16,\"num_local_experts\":16}", 3).layer.expert_count ==
              16);
}
END_TEST

START_TEST(test_text_config_is_looked_into)
{
    char         text[1000];
    wtn_config_t config;

    (void)snprintf(text, sizeof(text), "{\"model_type\":\"some_vision\",\"text_config\":%s}",
                   QWEN3);
    ck_assert_int_eq(wtn_config_parse(&config, "F", text, strlen(text), 0), WITAN_OK);
    ck_assert(config.layer.expert_count == 6);
}
END_TEST

START_TEST(test_fp8_block_is_read)
{
    wtn_config_t config =
        parse_ok(V3,
                 "{\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\","
                 "\"weight_block_size\":[64,32]}}",
                 3);

    ck_assert(config.fp8_block[0] == 64 && config.fp8_block[1] == 32);
    config = parse_ok(V3, "{\"quantization_config\":{\"quant_method\":\"fp8\"}}", 3);
    ck_assert(config.fp8_block[0] == 128 && config.fp8_block[1] == 128);
}
END_TEST

START_TEST(test_sparse_layers_are_accepted)
{
    (void)parse_ok(QWEN3, "{\"decoder_sparse_step\":2,\"mlp_only_layers\":[0,3]}", 1);
    (void)parse_ok(V3, "{\"first_k_dense_replace\":0}", 0);
    (void)parse_ok(V3, "{\"moe_layer_freq\":2}", 4);
    (void)parse_ok(V2, "{\"first_k_dense_replace\":null}", 0);
}
END_TEST

/* ---- what is refused ---- */

static const struct {
    const char    *base, *edits;
    int32_t        layer;
    witan_status_t status;
    const char    *key, *expected, *found;
} refused_keys[] = {
    /* family and layer */
    {MIXTRAL, "{\"model_type\":\"llama\"}", 0, WITAN_E_UNSUPPORTED, "model_type",
     "expected mixtral, qwen2_moe, qwen3_moe, olmoe, deepseek_v2, deepseek_v3, glm4_moe, "
     "gpt_oss",
     "found 'llama'"},
    {MIXTRAL, "{\"model_type\":null}", 0, WITAN_E_UNSUPPORTED, "model_type", "mixtral",
     "found none"},
    {MIXTRAL, "{\"model_type\":7}", 0, WITAN_E_UNSUPPORTED, "model_type", "mixtral", "found 7"},
    {MIXTRAL, "{}", 4, WITAN_E_CONFIG, "layer 4", "expected 0..3", "num_hidden_layers 4"},
    {MIXTRAL, "{}", -1, WITAN_E_CONFIG, "layer -1", "expected 0..3", "num_hidden_layers 4"},
    {V3, "{}", 61, WITAN_E_UNSUPPORTED, "layer 61", "multi-token-prediction",
     "num_hidden_layers 61"},
    {V3, "{}", 62, WITAN_E_CONFIG, "layer 62", "expected 0..60", "num_hidden_layers 61"},
    {V3, "{}", 0, WITAN_E_UNSUPPORTED, "layer 0 is dense", "first_k_dense_replace 3", ""},
    {V2, "{}", 0, WITAN_E_UNSUPPORTED, "layer 0 is dense", "first_k_dense_replace 1", ""},
    {GLM4, "{}", 0, WITAN_E_UNSUPPORTED, "layer 0 is dense", "first_k_dense_replace 1", ""},
    {V3, "{\"moe_layer_freq\":2}", 5, WITAN_E_UNSUPPORTED, "layer 5 is dense", "moe_layer_freq 2",
     ""},
    {QWEN3, "{\"decoder_sparse_step\":2}", 0, WITAN_E_UNSUPPORTED, "layer 0 is dense",
     "decoder_sparse_step 2", ""},
    {QWEN2, "{\"mlp_only_layers\":[1,2]}", 2, WITAN_E_UNSUPPORTED, "layer 2 is dense",
     "mlp_only_layers has 2", ""},
    {QWEN2, "{\"mlp_only_layers\":3}", 2, WITAN_E_CONFIG, "mlp_only_layers", "a list", "found 3"},
    {QWEN2, "{\"mlp_only_layers\":[\"x\"]}", 2, WITAN_E_CONFIG, "mlp_only_layers", "a whole number",
     "found 'x'"},
    {QWEN2, "{\"decoder_sparse_step\":0}", 2, WITAN_E_CONFIG, "decoder_sparse_step", "1..",
     "found 0"},
    {MIXTRAL, "{\"num_hidden_layers\":null}", 0, WITAN_E_CONFIG, "num_hidden_layers", "1..",
     "found none"},
    /* shapes */
    {MIXTRAL, "{\"hidden_size\":null}", 0, WITAN_E_CONFIG, "hidden_size", "a whole number",
     "found none"},
    {MIXTRAL, "{\"hidden_size\":-64}", 0, WITAN_E_CONFIG, "hidden_size", "1..", "found -64"},
    {MIXTRAL, "{\"hidden_size\":0}", 0, WITAN_E_CONFIG, "hidden_size", "1..", "found 0"},
    {MIXTRAL, "{\"hidden_size\":64.5}", 0, WITAN_E_CONFIG, "hidden_size", "1..", "found 64.5"},
    {MIXTRAL, "{\"hidden_size\":64.0}", 0, WITAN_E_CONFIG, "hidden_size", "1..", "found 64.0"},
    {MIXTRAL, "{\"hidden_size\":\"64\"}", 0, WITAN_E_CONFIG, "hidden_size", "1..", "found '64'"},
    {MIXTRAL, "{\"hidden_size\":[64]}", 0, WITAN_E_CONFIG, "hidden_size", "1..", "found a list"},
    {MIXTRAL, "{\"hidden_size\":true}", 0, WITAN_E_CONFIG, "hidden_size", "1..", "found true"},
    {MIXTRAL, "{\"hidden_size\":9223372036854775807}", 0, WITAN_E_CONFIG, "hidden_size",
     "1..2147483647", "found 9223372036854775807"},
    {MIXTRAL, "{\"intermediate_size\":0}", 0, WITAN_E_CONFIG, "intermediate_size", "1..",
     "found 0"},
    {QWEN3, "{\"moe_intermediate_size\":null}", 0, WITAN_E_CONFIG, "moe_intermediate_size", "1..",
     "found none"},
    {MIXTRAL, "{\"num_local_experts\":null}", 0, WITAN_E_CONFIG, "num_local_experts", "1..",
     "found none"},
    {MIXTRAL, "{\"num_local_experts\":2000000000}", 0, WITAN_E_CONFIG, "num_local_experts",
     "1..1048576", "found 2000000000"},
    {MIXTRAL, "{\"num_experts\":9}", 0, WITAN_E_CONFIG, "num_experts",
     "expected 8 (num_local_experts)", "found 9"},
    {MIXTRAL, "{\"num_experts_per_tok\":9}", 0, WITAN_E_CONFIG, "num_experts_per_tok",
     "1..8 (num_local_experts)", "found 9"},
    {QWEN3, "{\"num_experts_per_tok\":7}", 0, WITAN_E_CONFIG, "num_experts_per_tok",
     "1..6 (num_experts)", "found 7"},
    {MIXTRAL, "{\"num_experts_per_tok\":0}", 0, WITAN_E_CONFIG, "num_experts_per_tok", "1..8",
     "found 0"},
    {MIXTRAL, "{\"num_experts_per_tok\":null}", 0, WITAN_E_CONFIG, "num_experts_per_tok", "1..8",
     "found none"},
    {GPT_OSS, "{\"experts_per_token\":3}", 0, WITAN_E_CONFIG, "experts_per_token",
     "expected 4 (num_experts_per_tok)", "found 3"},
    {QWEN2, "{\"shared_expert_intermediate_size\":-1}", 0, WITAN_E_CONFIG,
     "shared_expert_intermediate_size", "0..", "found -1"},
    {V3, "{\"n_shared_experts\":2147483647}", 3, WITAN_E_CONFIG, "n_shared_experts", "0..89478485",
     "found 2147483647"},
    /* routing */
    {QWEN2, "{\"norm_topk_prob\":1}", 0, WITAN_E_CONFIG, "norm_topk_prob", "true or false",
     "found 1"},
    {V3, "{\"routed_scaling_factor\":\"2\"}", 3, WITAN_E_CONFIG, "routed_scaling_factor",
     "a number above 0", "found '2'"},
    {V3, "{\"routed_scaling_factor\":1e300}", 3, WITAN_E_CONFIG, "routed_scaling_factor",
     "fp32 can hold", "found 1"},
    {V3, "{\"routed_scaling_factor\":0}", 3, WITAN_E_CONFIG, "routed_scaling_factor", "above 0",
     "found 0"},
    {V2, "{\"norm_topk_prob\":true}", 1, WITAN_E_UNSUPPORTED, "routed_scaling_factor",
     "expected 1 with norm_topk_prob true", "found 16"},
    {V3, "{\"scoring_func\":\"tanh\"}", 3, WITAN_E_CONFIG, "scoring_func",
     "softmax, sigmoid or sqrtsoftplus", "found 'tanh'"},
    {V3, "{\"topk_method\":\"greedy\"}", 3, WITAN_E_CONFIG, "topk_method", "noaux_tc",
     "found 'greedy'"},
    {V2, "{\"topk_method\":\"x\"}", 1, WITAN_E_CONFIG, "topk_method",
     "greedy or group_limited_greedy", "found 'x'"},
    {V3, "{\"n_group\":3}", 3, WITAN_E_CONFIG, "n_group", "a divisor of the 16 experts", "found 3"},
    {V3, "{\"n_group\":17}", 3, WITAN_E_CONFIG, "n_group", "1..16", "found 17"},
    {V3, "{\"n_group\":0}", 3, WITAN_E_CONFIG, "n_group", "1..16", "found 0"},
    {V3, "{\"topk_group\":5}", 3, WITAN_E_CONFIG, "topk_group", "1..4 (n_group)", "found 5"},
    {V3, "{\"topk_group\":1,\"num_experts_per_tok\":5}", 3, WITAN_E_CONFIG, "num_experts_per_tok",
     "at most the 4 experts of topk_group groups", "found 5"},
    {V3, "{\"n_group\":16,\"topk_group\":8}", 3, WITAN_E_CONFIG, "n_group",
     "2 experts in every group", "found 16 groups"},
    /* activation */
    {MIXTRAL, "{\"hidden_act\":\"blah\"}", 0, WITAN_E_CONFIG, "hidden_act", "silu", "blah"},
    {MIXTRAL, "{\"hidden_act\":3}", 0, WITAN_E_CONFIG, "hidden_act", "a name", "found 3"},
    {MIXTRAL, "{\"activation_function\":\"relu\"}", 0, WITAN_E_CONFIG, "activation_function",
     "expected silu", "found 'relu'"},
    {MIXTRAL, "{\"activation_params\":{\"alpha\":1}}", 0, WITAN_E_CONFIG, "activation_params",
     "silu", "alpha"},
    {MIXTRAL, "{\"activation_params\":{\"beta\":\"1\"}}", 0, WITAN_E_CONFIG, "activation_params",
     "numbers", "found '1'"},
    {MIXTRAL, "{\"activation_params\":[]}", 0, WITAN_E_CONFIG, "activation_params", "an object",
     "found a list"},
    {GPT_OSS, "{\"hidden_act\":\"gelu\"}", 0, WITAN_E_CONFIG, "hidden_act", "'silu'",
     "found 'gelu'"},
    {GPT_OSS, "{\"activation_params\":{\"beta\":1}}", 0, WITAN_E_CONFIG, "activation_params",
     "swiglu_alpha and swiglu_limit", "found an object"},
    {GPT_OSS, "{\"swiglu_limit\":-7}", 0, WITAN_E_CONFIG, "swiglu_limit", "above 0", "found -7"},
    {GPT_OSS, "{\"swiglu_alpha\":\"x\"}", 0, WITAN_E_CONFIG, "swiglu_alpha", "above 0",
     "found 'x'"},
    /* quantisation */
    {MIXTRAL, "{\"quantization_config\":{\"quant_method\":\"awq\"}}", 0, WITAN_E_UNSUPPORTED,
     "quantization_config.quant_method", "fp8 or mxfp4", "found 'awq'"},
    {MIXTRAL, "{\"quantization_config\":{}}", 0, WITAN_E_UNSUPPORTED,
     "quantization_config.quant_method", "fp8 or mxfp4", "found none"},
    {MIXTRAL, "{\"quantization_config\":3}", 0, WITAN_E_CONFIG, "quantization_config", "an object",
     "found 3"},
    {V3, "{\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}}", 3,
     WITAN_E_UNSUPPORTED, "quantization_config.fmt", "e4m3", "found 'e5m2'"},
    {V3, "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}}", 3,
     WITAN_E_CONFIG, "quantization_config.weight_block_size", "two numbers", "found a list"},
    {V3, "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[0,1]}}", 3,
     WITAN_E_CONFIG, "quantization_config.weight_block_size", "1..", "found 0"},
};

START_TEST(test_refused_by_key)
{
    for (size_t i = 0; i < WTN_COUNT_OF(refused_keys); i++) {
        wtn_config_t config;

        expect_error(parse(&config, refused_keys[i].base, refused_keys[i].edits,
                           refused_keys[i].layer),
                     refused_keys[i].status, "F: ", refused_keys[i].key, refused_keys[i].expected,
                     refused_keys[i].found, NULL);
    }
}
END_TEST

START_TEST(test_damaged_json_is_refused)
{
    static const struct {
        const char *text, *expected;
    } rows[] = {
        {"", "line 1"},
        {"{", "line 1"},
        {"[]", "expected a JSON object"},
        {"{\"hidden_size\":1,\"hidden_size\":1}", "duplicate"},
        {"{\"hidden_size\": 18446744073709551616}", "hidden_size: expected a number below 2^63"},
        {"{\"a\":1,\n\"hidden_size\": 1e999}", "hidden_size: expected a number below"},
        {"{\"hidden_size\":NaN}", "line 1"},
        {"{\"hidden_size\":1}x", "line 1"},
        {"{\"a\":\"\xff\"}", "line 1"},
    };
    wtn_config_t config;

    for (size_t i = 0; i < WTN_COUNT_OF(rows); i++) {
        expect_error(wtn_config_parse(&config, "F", rows[i].text, strlen(rows[i].text), 0),
                     WITAN_E_FORMAT, "F: ", rows[i].expected, NULL);
    }
}
END_TEST

START_TEST(test_deep_nesting_is_refused_before_it_recurses)
{
    enum { DEPTH = 1000000 };
    char        *text = malloc(DEPTH + 16);
    wtn_config_t config;

    memcpy(text, "{\"a\":", 5);
    memset(text + 5, '[', DEPTH);
    expect_error(wtn_config_parse(&config, "F", text, DEPTH + 5, 0), WITAN_E_FORMAT,
                 "nesting of at most 64", "byte 68", NULL);
    free(text);
    /* Brackets inside strings are text. */
    ck_assert(
        parse(&config, MIXTRAL,
              "{\"x\":\"\\\\\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
              "[[[[[[\"}",
              0) == WITAN_OK);
}
END_TEST

int main(void)
{
    Suite   *suite = suite_create("config");
    TCase   *tests = tcase_create("all");
    SRunner *runner;
    int      failed;

    tcase_add_test(tests, test_mixtral_always_normalises);
    tcase_add_test(tests, test_qwen_and_olmoe_normalise_by_key);
    tcase_add_test(tests, test_qwen2_shared_expert_has_gate);
    tcase_add_test(tests, test_deepseek_v2_methods);
    tcase_add_test(tests, test_deepseek_v3_and_glm4_routing);
    tcase_add_test(tests, test_null_number_of_shared_experts_means_none);
    tcase_add_test(tests, test_gpt_oss_activation_and_biases);
    tcase_add_test(tests, test_activation_names_and_parameters);
    tcase_add_test(tests, test_expert_count_by_any_name);
    tcase_add_test(tests, test_text_config_is_looked_into);
    tcase_add_test(tests, test_fp8_block_is_read);
    tcase_add_test(tests, test_sparse_layers_are_accepted);
    tcase_add_test(tests, test_refused_by_key);
    tcase_add_test(tests, test_damaged_json_is_refused);
    tcase_add_test(tests, test_deep_nesting_is_refused_before_it_recurses);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/activation.h"
#include "experts/config.h"
#include "experts/json.h"

/* Bounds that no model comes near: they keep products of sizes inside 64 bits and tables of
 * experts inside memory. */
#define SIZE_MAX_ACCEPTED    INT32_MAX
#define EXPERTS_MAX_ACCEPTED (1 << 20)

typedef struct reader {
    const char   *path;
    const json_t *keys; /* the object the model's keys stand in */
    wtn_config_t *out;
    int32_t       layer_index;
} reader_t;

/* ---- values by key; a key that is null counts as absent ---- */

static const json_t *get(const reader_t *reader, const char *key)
{
    const json_t *value = key == NULL ? NULL : json_object_get(reader->keys, key);

    return json_is_null(value) ? NULL : value;
}

static witan_status_t value_error(const reader_t *reader, const char *key, const json_t *value,
                                  const char *expected)
{
    char found[80];

    wtn_json_show(value, found, sizeof(found));
    return WTN_ERROR(WITAN_E_CONFIG, "%s: %s: expected %s, found %s", reader->path, key, expected,
                     found);
}

typedef struct range {
    int64_t     min, max;
    const char *max_name; /* what bounds it, for messages; or NULL */
} range_t;

static witan_status_t check_integer(const reader_t *reader, const char *key, const json_t *value,
                                    range_t range, int64_t *out)
{
    char expected[160];

    if (json_is_integer(value) && json_integer_value(value) >= range.min &&
        json_integer_value(value) <= range.max) {
        *out = json_integer_value(value);
        return WITAN_OK;
    }
    (void)snprintf(expected, sizeof(expected), "a whole number %" PRId64 "..%" PRId64 "%s%s%s",
                   range.min, range.max, range.max_name == NULL ? "" : " (",
                   range.max_name == NULL ? "" : range.max_name, range.max_name == NULL ? "" : ")");
    return value_error(reader, key, value, expected);
}

/* An integer that must be there. */
static witan_status_t read_integer(const reader_t *reader, const char *key, range_t range,
                                   int64_t *out)
{
    return check_integer(reader, key, get(reader, key), range, out);
}

/* An integer with a default in *out. */
static witan_status_t read_integer_or(const reader_t *reader, const char *key, range_t range,
                                      int64_t *out)
{
    const json_t *value = get(reader, key);

    return value == NULL ? WITAN_OK : check_integer(reader, key, value, range, out);
}

/* One value known by several names, which must not contradict each other. */
static witan_status_t read_alias(const reader_t *reader, const char *const *keys, size_t count,
                                 range_t range, int64_t *out, const char **key_used)
{
    witan_status_t status;
    int64_t        value = 0;

    *key_used = NULL;
    for (size_t i = 0; i < count; i++) {
        if (get(reader, keys[i]) == NULL ||
            (*key_used != NULL && strcmp(*key_used, keys[i]) == 0)) {
            continue;
        }
        status = read_integer(reader, keys[i], range, &value);
        if (status != WITAN_OK) {
            return status;
        }
        if (*key_used != NULL && value != *out) {
            return WTN_ERROR(WITAN_E_CONFIG, "%s: %s: expected %" PRId64 " (%s), found %" PRId64,
                             reader->path, keys[i], *out, *key_used, value);
        }
        if (*key_used == NULL) {
            *key_used = keys[i];
            *out      = value;
        }
    }
    return *key_used != NULL ? WITAN_OK : read_integer(reader, keys[0], range, out);
}

static witan_status_t read_bool_or(const reader_t *reader, const char *key, bool *out)
{
    const json_t *value = get(reader, key);

    if (value == NULL) {
        return WITAN_OK;
    }
    if (!json_is_boolean(value)) {
        return value_error(reader, key, value, "true or false");
    }
    *out = json_is_true(value);
    return WITAN_OK;
}

/* A number above 0 that fp32 can hold, with a default in *out. */
static witan_status_t read_float_or(const reader_t *reader, const char *key, float *out)
{
    const json_t *value = get(reader, key);

    if (value == NULL) {
        return WITAN_OK;
    }
    if (!json_is_number(value) || !((float)json_number_value(value) > 0.0f) ||
        !isfinite((float)json_number_value(value))) {
        return value_error(reader, key, value, "a number above 0 that fp32 can hold");
    }
    *out = (float)json_number_value(value);
    return WITAN_OK;
}

/* ---- the parts of a config ---- */

static witan_status_t read_family(reader_t *reader, const json_t *root)
{
    const json_t *text = json_object_get(root, "text_config"), *type;
    char          known[256];
    size_t        used = 0;

    reader->keys = json_is_object(text) ? text : root;
    type         = get(reader, "model_type");
    if (type == NULL) {
        type = json_object_get(root, "model_type");
    }
    reader->out->family = json_is_string(type) ? wtn_family_find(json_string_value(type)) : NULL;
    if (reader->out->family != NULL) {
        return WITAN_OK;
    }
    for (size_t i = 0; i < wtn_family_count && used < sizeof(known); i++) {
        used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i == 0 ? "" : ", ",
                                 wtn_families[i].model_type);
    }
    (void)value_error(reader, "model_type", type, known);
    return WITAN_E_UNSUPPORTED;
}

static witan_status_t read_shape(reader_t *reader)
{
    static const char *const topk_keys[] = {"num_experts_per_tok", "experts_per_token"};
    const wtn_family_t      *family      = reader->out->family;
    witan_layer_config_t    *layer       = &reader->out->layer;
    const char *const expert_keys[]      = {family->experts_key, "num_experts", "num_local_experts",
                                            "n_routed_experts"};
    const range_t     size               = {1, SIZE_MAX_ACCEPTED, NULL};
    const char       *key                = NULL;
    int64_t           experts = 0, topk = 0;
    witan_status_t    status;

    WTN_TRY(read_integer(reader, "hidden_size", size, &layer->hidden_size));
    WTN_TRY(read_integer(reader, family->inter_key, size, &layer->inter_size));
    WTN_TRY(read_alias(reader, expert_keys, WTN_COUNT_OF(expert_keys),
                       (range_t){1, EXPERTS_MAX_ACCEPTED, NULL}, &experts, &key));
    WTN_TRY(read_alias(reader, topk_keys, WTN_COUNT_OF(topk_keys), (range_t){1, experts, key},
                       &topk, &key));
    layer->expert_count = (int32_t)experts;
    layer->topk         = (int32_t)topk;
    return WITAN_OK;

fail:
    return status;
}

/* The layer exists and is no multi-token-prediction layer behind the model. */
static witan_status_t check_layer_index(const reader_t *reader)
{
    int64_t        count = 0, extra = 0;
    const int32_t  layer = reader->layer_index;
    witan_status_t status;

    WTN_TRY(read_integer(reader, "num_hidden_layers", (range_t){1, INT32_MAX, NULL}, &count));
    WTN_TRY(
        read_integer_or(reader, "num_nextn_predict_layers", (range_t){0, INT32_MAX, NULL}, &extra));
    if (layer >= count && layer < count + extra) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED,
                         "%s: layer %" PRId32 " is a multi-token-prediction layer "
                         "(num_hidden_layers %" PRId64 ", num_nextn_predict_layers %" PRId64 ")",
                         reader->path, layer, count, extra);
    }
    if (layer < 0 || layer >= count) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "%s: layer %" PRId32 ": expected 0..%" PRId64
                         " (num_hidden_layers %" PRId64 ")",
                         reader->path, layer, count - 1, count);
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t dense_error(const reader_t *reader, const char *key, int64_t value)
{
    return WTN_ERROR(WITAN_E_UNSUPPORTED, "%s: layer %" PRId32 " is dense (%s %" PRId64 ")",
                     reader->path, reader->layer_index, key, value);
}

static witan_status_t check_sparse_step(const reader_t *reader)
{
    const json_t  *list = get(reader, "mlp_only_layers"), *item;
    int64_t        step = 1, layer = 0;
    size_t         index;
    witan_status_t status;

    WTN_TRY(read_integer_or(reader, "decoder_sparse_step", (range_t){1, INT32_MAX, NULL}, &step));
    if (list != NULL && !json_is_array(list)) {
        return value_error(reader, "mlp_only_layers", list, "a list of layers");
    }
    json_array_foreach((json_t *)list, index, item)
    {
        WTN_TRY(
            check_integer(reader, "mlp_only_layers", item, (range_t){0, INT32_MAX, NULL}, &layer));
        if (layer == reader->layer_index) {
            return dense_error(reader, "mlp_only_layers has", layer);
        }
    }
    if ((reader->layer_index + INT64_C(1)) % step != 0) {
        return dense_error(reader, "decoder_sparse_step", step);
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t check_dense(const reader_t *reader)
{
    const wtn_family_t *family = reader->out->family;
    int64_t             first = family->first_dense_default, every = 1;
    witan_status_t      status;

    switch (family->dense_rule) {
    case WTN_DENSE_NONE:
        return WITAN_OK;
    case WTN_DENSE_SPARSE_STEP:
        return check_sparse_step(reader);
    case WTN_DENSE_FIRST_K:
    case WTN_DENSE_FIRST_K_FREQ:
        break;
    }
    WTN_TRY(
        read_integer_or(reader, "first_k_dense_replace", (range_t){0, INT32_MAX, NULL}, &first));
    if (reader->layer_index < first) {
        return dense_error(reader, "first_k_dense_replace", first);
    }
    if (family->dense_rule == WTN_DENSE_FIRST_K_FREQ) {
        WTN_TRY(read_integer_or(reader, "moe_layer_freq", (range_t){1, INT32_MAX, NULL}, &every));
    }
    if (reader->layer_index % every != 0) {
        return dense_error(reader, "moe_layer_freq", every);
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t read_score(const reader_t *reader)
{
    static const struct {
        const char   *name;
        witan_score_t score;
    } scores[]          = {{"softmax", WITAN_SCORE_SOFTMAX},
                           {"sigmoid", WITAN_SCORE_SIGMOID},
                           {"sqrtsoftplus", WITAN_SCORE_SQRT_SOFTPLUS}};
    const char   *key   = reader->out->family->score_key;
    const json_t *value = get(reader, key);

    if (value == NULL) {
        return WITAN_OK;
    }
    for (size_t i = 0; json_is_string(value) && i < WTN_COUNT_OF(scores); i++) {
        if (strcmp(json_string_value(value), scores[i].name) == 0) {
            reader->out->layer.routing.score = scores[i].score;
            return WITAN_OK;
        }
    }
    return value_error(reader, key, value, "softmax, sigmoid or sqrtsoftplus");
}

static witan_status_t read_groups(const reader_t *reader)
{
    const wtn_family_t *family  = reader->out->family;
    witan_routing_t    *routing = &reader->out->layer.routing;
    const json_t       *method  = get(reader, family->topk_method_key);
    const int64_t       experts = reader->out->layer.expert_count;
    int64_t             count = routing->group_count, topk = routing->group_topk;
    const char         *name = family->topk_methods[0];
    witan_status_t      status;

    if (method != NULL) {
        name = json_is_string(method) ? json_string_value(method) : "";
        if (strcmp(name, family->topk_methods[0]) != 0 &&
            (family->topk_methods[1] == NULL || strcmp(name, family->topk_methods[1]) != 0)) {
            char expected[64];

            (void)snprintf(expected, sizeof(expected), "%s%s%s", family->topk_methods[0],
                           family->topk_methods[1] == NULL ? "" : " or ",
                           family->topk_methods[1] == NULL ? "" : family->topk_methods[1]);
            return value_error(reader, family->topk_method_key, method, expected);
        }
    }
    if (family->topk_methods[1] != NULL && strcmp(name, family->topk_methods[0]) == 0) {
        return WITAN_OK; /* without groups: n_group and topk_group have no meaning */
    }
    WTN_TRY(read_integer_or(reader, "n_group", (range_t){1, experts, "the experts"}, &count));
    WTN_TRY(read_integer_or(reader, "topk_group", (range_t){1, count, "n_group"}, &topk));
    if (topk > count || experts % count != 0) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "%s: n_group: expected a divisor of the %" PRId64
                         " experts, at least topk_group (%" PRId64 "), found %" PRId64,
                         reader->path, experts, topk, count);
    }
    if (count > 1 && experts / count < 2 && routing->group_score == WITAN_GROUP_SCORE_TOP2_SUM) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "%s: n_group: expected 2 experts in every group (their sum is its score), "
                         "found %" PRId64 " groups of %" PRId64 " experts",
                         reader->path, count, experts);
    }
    if (topk * (experts / count) < reader->out->layer.topk) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "%s: num_experts_per_tok: expected at most the %" PRId64
                         " experts of topk_group groups, found %" PRId32,
                         reader->path, topk * (experts / count), reader->out->layer.topk);
    }
    routing->group_count = (int32_t)count;
    routing->group_topk  = (int32_t)topk;
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t read_routing(const reader_t *reader)
{
    const wtn_family_t *family  = reader->out->family;
    witan_routing_t    *routing = &reader->out->layer.routing;
    witan_status_t      status;

    *routing = family->routing;
    WTN_TRY(read_bool_or(reader, family->normalise_key, &routing->normalise));
    WTN_TRY(read_float_or(reader, family->scale_key, &routing->scale));
    WTN_TRY(read_score(reader));
    if (family->scale_excludes_normalise && routing->normalise && routing->scale != 1.0f) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED,
                         "%s: %s: expected 1 with %s true (its implementations disagree about "
                         "both at once), found %g",
                         reader->path, family->scale_key, family->normalise_key,
                         (double)routing->scale);
    }
    return family->has_groups ? read_groups(reader) : WITAN_OK;

fail:
    return status;
}

static witan_status_t read_shared(const reader_t *reader)
{
    const wtn_family_t   *family = reader->out->family;
    witan_layer_config_t *layer  = &reader->out->layer;
    int64_t               value  = family->shared_default;
    range_t               range  = {0, SIZE_MAX_ACCEPTED, NULL};
    witan_status_t        status;

    if (family->shared_rule == WTN_SHARED_NONE) {
        return WITAN_OK;
    }
    if (family->shared_rule == WTN_SHARED_COUNT) {
        range.max = SIZE_MAX_ACCEPTED / layer->inter_size;
        if (json_is_null(json_object_get(reader->keys, family->shared_key))) {
            value = 0; /* here null says that there are none */
        }
    }
    WTN_TRY(read_integer_or(reader, family->shared_key, range, &value));
    layer->shared_inter_size =
        family->shared_rule == WTN_SHARED_COUNT ? value * layer->inter_size : value;
    layer->has_shared_gate = family->has_shared_gate && layer->shared_inter_size > 0;
    return WITAN_OK;

fail:
    return status;
}

/* gpt-oss: its hidden_act says silu, the function is another. */
static witan_status_t read_clamped_swish(const reader_t *reader, witan_activation_t *activation)
{
    const json_t  *name  = get(reader, "hidden_act");
    float          alpha = 1.702f, limit = 7.0f;
    witan_status_t status;

    if (name != NULL && (!json_is_string(name) || strcmp(json_string_value(name), "silu") != 0)) {
        return value_error(reader, "hidden_act", name, "'silu'");
    }
    if (get(reader, "activation_params") != NULL) {
        return value_error(reader, "activation_params", get(reader, "activation_params"),
                           "swiglu_alpha and swiglu_limit instead");
    }
    WTN_TRY(read_float_or(reader, "swiglu_alpha", &alpha));
    WTN_TRY(read_float_or(reader, "swiglu_limit", &limit));
    activation->kind      = WITAN_ACTIVATION_SWISH;
    activation->parameter = alpha;
    activation->limit     = limit;
    activation->up_offset = 1.0f;
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t read_activation_params(const reader_t *reader, witan_activation_t *activation)
{
    const json_t *params = get(reader, "activation_params"), *value;
    const char   *name;

    if (params != NULL && !json_is_object(params)) {
        return value_error(reader, "activation_params", params, "an object");
    }
    json_object_foreach((json_t *)params, name, value)
    {
        witan_status_t status;

        if (!json_is_number(value)) {
            return value_error(reader, "activation_params", value, "numbers");
        }
        status = wtn_activation_set(activation, name, json_number_value(value));
        if (status != WITAN_OK) {
            return wtn_error_prefix(status, "%s: activation_params", reader->path);
        }
    }
    return WITAN_OK;
}

static witan_status_t read_activation(const reader_t *reader)
{
    static const char *const keys[]     = {"hidden_act", "activation_function"};
    witan_activation_t      *activation = &reader->out->layer.activation;
    const char              *name = "silu", *used = NULL;
    witan_status_t           status;

    activation->gated = true;
    if (reader->out->family->has_clamped_swish) {
        return read_clamped_swish(reader, activation);
    }
    for (size_t i = 0; i < WTN_COUNT_OF(keys); i++) {
        const json_t *value = get(reader, keys[i]);

        if (value == NULL) {
            continue;
        }
        if (!json_is_string(value) ||
            (used != NULL && strcmp(json_string_value(value), name) != 0)) {
            return value_error(reader, keys[i], value, used != NULL ? name : "a name");
        }
        used = keys[i];
        name = json_string_value(value);
    }
    status = wtn_activation_find(name, activation);
    if (status != WITAN_OK) {
        return wtn_error_prefix(status, "%s: %s", reader->path, used == NULL ? keys[0] : used);
    }
    return read_activation_params(reader, activation);
}

static witan_status_t read_quantisation(const reader_t *reader)
{
    const json_t *quantisation = get(reader, "quantization_config"), *method, *block, *format;

    reader->out->fp8_block[0] = reader->out->fp8_block[1] = 128;
    if (quantisation == NULL) {
        return WITAN_OK;
    }
    if (!json_is_object(quantisation)) {
        return value_error(reader, "quantization_config", quantisation, "an object");
    }
    method = json_object_get(quantisation, "quant_method");
    block  = json_object_get(quantisation, "weight_block_size");
    format = json_object_get(quantisation, "fmt");
    if (!json_is_string(method) || (strcmp(json_string_value(method), "fp8") != 0 &&
                                    strcmp(json_string_value(method), "mxfp4") != 0)) {
        (void)value_error(reader, "quantization_config.quant_method", method, "fp8 or mxfp4");
        return WITAN_E_UNSUPPORTED;
    }
    if (format != NULL &&
        (!json_is_string(format) || strcmp(json_string_value(format), "e4m3") != 0)) {
        (void)value_error(reader, "quantization_config.fmt", format, "e4m3");
        return WITAN_E_UNSUPPORTED;
    }
    if (block != NULL && !json_is_null(block)) {
        if (json_array_size(block) != 2) {
            return value_error(reader, "quantization_config.weight_block_size", block,
                               "two numbers");
        }
        for (size_t i = 0; i < 2; i++) {
            witan_status_t status =
                check_integer(reader, "quantization_config.weight_block_size",
                              json_array_get(block, i), (range_t){1, SIZE_MAX_ACCEPTED, NULL},
                              &reader->out->fp8_block[i]);

            if (status != WITAN_OK) {
                return status;
            }
        }
    }
    return WITAN_OK;
}

witan_status_t wtn_config_parse(wtn_config_t *out, const char *path, const char *text, size_t bytes,
                                int32_t layer_index)
{
    reader_t       reader = {.path = path, .out = out, .layer_index = layer_index};
    json_t        *root   = NULL;
    witan_status_t status;

    memset(out, 0, sizeof(*out));
    out->layer.struct_bytes = sizeof(out->layer);
    out->layer.backend      = "auto";
    out->layer.kernel_tier  = "auto";
    WTN_TRY(wtn_json_parse(&root, path, text, bytes));
    WTN_TRY(read_family(&reader, root));
    WTN_TRY(check_layer_index(&reader));
    WTN_TRY(check_dense(&reader));
    WTN_TRY(read_shape(&reader));
    WTN_TRY(read_routing(&reader));
    WTN_TRY(read_shared(&reader));
    WTN_TRY(read_activation(&reader));
    WTN_TRY(read_quantisation(&reader));
    out->layer.has_gate_up_bias = out->family->has_expert_bias;
    out->layer.has_down_bias    = out->family->has_expert_bias;
    json_decref(root);
    return WITAN_OK;

fail:
    json_decref(root);
    return status;
}

/* Model folders: every element of every weight of every fixture, whole and in slices, against the
 * plain indexing rule of its layout written out here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "core/util.h"
#include "experts/hf.h"
#include "experts/safetensors.h"
#include "formats/folder.h"
#include "formats/rule.h"

#define MLP                                 \
    "mlp",                                  \
    {                                       \
        "gate_proj", "up_proj", "down_proj" \
    }

static const fixture_t fixtures[] = {
    {"mixtral_f32",
     "mixtral",
     1,
     WITAN_F32,
     EXPERTS,
     "block_sparse_moe",
     {"w1", "w3", "w2"},
     NULL,
     "gate.weight"},
    {"mixtral_fused_bf16", "mixtral", 0, WITAN_BF16, FUSED, MLP, NULL, "gate.weight"},
    {"qwen2_moe_f16", "qwen2_moe", 0, WITAN_F16, EXPERTS, MLP, "shared_expert", "gate.weight"},
    {"qwen2_moe_fused_f32", "qwen2_moe", 0, WITAN_F32, FUSED, MLP, "shared_expert", "gate.weight"},
    {"qwen3_moe_fused_f16", "qwen3_moe", 0, WITAN_F16, FUSED, MLP, NULL, "gate.weight"},
    {"olmoe_f32", "olmoe", 0, WITAN_F32, EXPERTS, MLP, NULL, "gate.weight"},
    {"deepseek_v2_groups_f32", "deepseek_v2", 1, WITAN_F32, EXPERTS, MLP, "shared_experts",
     "gate.weight"},
    {"deepseek_v3_f32", "deepseek_v3", 1, WITAN_F32, EXPERTS, MLP, "shared_experts", "gate.weight"},
    {"deepseek_v3_fused_bf16", "deepseek_v3", 1, WITAN_BF16, FUSED, MLP, "shared_experts",
     "gate.weight"},
    {"deepseek_v3_fp8", "deepseek_v3", 1, WITAN_BF16, EXPERTS, MLP, "shared_experts",
     "gate.weight"},
    {"glm4_moe_f16", "glm4_moe", 1, WITAN_F16, EXPERTS, MLP, "shared_experts", "gate.weight"},
    {"gpt_oss_bf16", "gpt_oss", 0, WITAN_BF16, TRANSPOSED, MLP, NULL, "router.weight"},
    {"gpt_oss_f32", "gpt_oss", 0, WITAN_F32, TRANSPOSED, MLP, NULL, "router.weight"},
    {"gpt_oss_mxfp4", "gpt_oss", 0, WITAN_BF16, MXFP4, MLP, NULL, "router.weight"},
};

static const char *fixture_path(const char *name)
{
    static char path[128];

    (void)snprintf(path, sizeof(path), "tests/fixtures/%s", name);
    return path;
}

static void compare_tensor(const fixture_t *fixture, const wtn_st_file_t *file, wtn_hf_t *hf,
                           witan_weight_t weight, const char *name, int64_t rows, int64_t cols)
{
    char   scale_name[200];
    blob_t blob = rule_load(file, fixture->layer, name), scales = {0};
    float *expected = malloc((size_t)(rows * cols) * sizeof(*expected));

    if (blob.tensor->dtype == WTN_ST_F8_E4M3) {
        (void)snprintf(scale_name, sizeof(scale_name), "%s_scale_inv", name);
        scales = rule_load(file, fixture->layer, scale_name);
    }
    for (int64_t i = 0; i < rows * cols; i++) {
        expected[i] = scales.bytes != NULL ? rule_fp8_element(&blob, &scales, i / cols, i % cols)
                                           : rule_element(&blob, i);
    }
    /* The router may be stored in another dtype than the experts: fp32 holds all of them. */
    if (weight == WITAN_WEIGHT_ROUTER || weight == WITAN_WEIGHT_ROUTER_CORRECTION) {
        float *out = malloc((size_t)(rows * cols) * sizeof(*out));

        rule_read(hf, weight, -1, (int64_t[]){0, rows, 0, cols}, WITAN_F32, out);
        ck_assert_mem_eq(out, expected, (size_t)(rows * cols) * sizeof(*out));
        free(out);
    } else {
        rule_compare(hf, weight, -1, rows, cols, expected);
    }
    free(expected);
    free(blob.bytes);
    free(scales.bytes);
}

static void compare_shared(const fixture_t *fixture, const wtn_st_file_t *file, wtn_hf_t *hf)
{
    static const char *const parts[] = {"gate_proj", "up_proj", "down_proj"};
    const int64_t            hidden  = wtn_hf_config(hf)->hidden_size;
    const int64_t            inter   = wtn_hf_config(hf)->shared_inter_size;
    char                     name[160];

    for (int i = 0; i < 3; i++) {
        (void)snprintf(name, sizeof(name), "mlp.%s.%s.weight", fixture->shared, parts[i]);
        compare_tensor(fixture, file, hf, (witan_weight_t)(WITAN_WEIGHT_SHARED_GATE + i), name,
                       i == 2 ? hidden : inter, i == 2 ? inter : hidden);
    }
    if (wtn_hf_config(hf)->has_shared_gate) {
        compare_tensor(fixture, file, hf, WITAN_WEIGHT_SHARED_ROUTER,
                       "mlp.shared_expert_gate.weight", 1, hidden);
    }
}

/* gpt-oss: [E, 2I] in turn, [E, H], [E]. */
static void compare_biases(const fixture_t *fixture, const wtn_st_file_t *file, wtn_hf_t *hf)
{
    const witan_layer_config_t *layer  = wtn_hf_config(hf);
    const int64_t               hidden = layer->hidden_size, inter = layer->inter_size;
    blob_t both     = rule_load(file, fixture->layer, "mlp.experts.gate_up_proj_bias");
    blob_t down     = rule_load(file, fixture->layer, "mlp.experts.down_proj_bias");
    float *expected = malloc((size_t)(hidden + inter) * sizeof(*expected));

    for (int32_t e = 0; e < layer->expert_count; e++) {
        for (int up = 0; up < 2; up++) {
            for (int64_t i = 0; i < inter; i++) {
                expected[i] = rule_element(&both, e * 2 * inter + 2 * i + up);
            }
            rule_compare(hf, up ? WITAN_WEIGHT_UP_BIAS : WITAN_WEIGHT_GATE_BIAS, e, 1, inter,
                         expected);
        }
        for (int64_t i = 0; i < hidden; i++) {
            expected[i] = rule_element(&down, e * hidden + i);
        }
        rule_compare(hf, WITAN_WEIGHT_DOWN_BIAS, e, 1, hidden, expected);
    }
    compare_tensor(fixture, file, hf, WITAN_WEIGHT_ROUTER_BIAS, "mlp.router.bias", 1,
                   layer->expert_count);
    free(expected);
    free(both.bytes);
    free(down.bytes);
}

START_TEST(test_fixture_every_element_matches_the_rule)
{
    const fixture_t            *fixture = &fixtures[_i];
    const witan_layer_config_t *layer;
    char                        path[200], name[100];
    wtn_st_file_t              *file;
    wtn_hf_t                   *hf;
    float                      *expected;

    (void)snprintf(path, sizeof(path), "%s/model.safetensors", fixture_path(fixture->name));
    ck_assert_msg(wtn_hf_open(&hf, fixture_path(fixture->name), fixture->layer) == WITAN_OK, "%s",
                  witan_last_error());
    ck_assert_int_eq(wtn_st_open(&file, path), WITAN_OK);
    ck_assert_int_eq(wtn_hf_bytes_read(hf), 0);
    ck_assert_str_eq(wtn_hf_family(hf), fixture->model_type);
    layer = wtn_hf_config(hf);
    ck_assert_int_eq(layer->dtype, fixture->dtype);
    expected = malloc((size_t)(layer->hidden_size * layer->inter_size) * sizeof(*expected));
    for (int32_t e = 0; e < layer->expert_count; e++) {
        for (int p = 0; p < 3; p++) {
            const int64_t rows = p == 2 ? layer->hidden_size : layer->inter_size;
            const int64_t cols = p == 2 ? layer->inter_size : layer->hidden_size;

            rule_expert(fixture, file, e, p, rows, cols, expected);
            rule_compare(hf, (witan_weight_t)(WITAN_WEIGHT_GATE + p), e, rows, cols, expected);
        }
    }
    (void)snprintf(name, sizeof(name), "%s.%s", fixture->block, fixture->router);
    compare_tensor(fixture, file, hf, WITAN_WEIGHT_ROUTER, name, layer->expert_count,
                   layer->hidden_size);
    if (layer->routing.has_correction_bias) {
        compare_tensor(fixture, file, hf, WITAN_WEIGHT_ROUTER_CORRECTION,
                       "mlp.gate.e_score_correction_bias", 1, layer->expert_count);
    }
    ck_assert_int_eq(layer->shared_inter_size > 0, fixture->shared != NULL);
    if (fixture->shared != NULL) {
        compare_shared(fixture, file, hf);
    }
    if (layer->has_down_bias) {
        compare_biases(fixture, file, hf);
    }
    free(expected);
    wtn_st_close(file);
    wtn_hf_close(hf);
}
END_TEST

START_TEST(test_bytes_read_are_those_of_the_slice)
{
    wtn_hf_t *hf;
    float     out[64 * 64];
    int64_t   inter, hidden;

    ck_assert_int_eq(wtn_hf_open(&hf, fixture_path("mixtral_f32"), 1), WITAN_OK);
    inter  = wtn_hf_config(hf)->inter_size;
    hidden = wtn_hf_config(hf)->hidden_size;
    rule_read(hf, WITAN_WEIGHT_GATE, 1, (int64_t[]){1, 3, 0, hidden}, WITAN_F32, out);
    ck_assert_int_eq(wtn_hf_bytes_read(hf), 3 * hidden * 4);
    rule_read(hf, WITAN_WEIGHT_DOWN, 1, (int64_t[]){2, 1, 1, inter / 2}, WITAN_F32, out);
    ck_assert_int_eq(wtn_hf_bytes_read(hf), 3 * hidden * 4 + inter / 2 * 4);
    wtn_hf_close(hf);
}
END_TEST

START_TEST(test_slice_outside_is_refused)
{
    const witan_weight_slice_t bad[] = {
        {WITAN_WEIGHT_GATE, -1, 0, 1, 0, 1, WITAN_F32},
        {WITAN_WEIGHT_GATE, 1000, 0, 1, 0, 1, WITAN_F32},
        {WITAN_WEIGHT_ROUTER, 0, 0, 1, 0, 1, WITAN_F32},
        {WITAN_WEIGHT_GATE, 0, -1, 1, 0, 1, WITAN_F32},
        {WITAN_WEIGHT_GATE, 0, 0, 1, 0, 1 << 20, WITAN_F32},
        {WITAN_WEIGHT_GATE, 0, INT64_MAX, INT64_MAX, 0, 1, WITAN_F32},
        {WITAN_WEIGHT_GATE, 0, 0, 1, 0, 1, (witan_dtype_t)7},
        {WITAN_WEIGHT_DOWN_BIAS, 0, 0, 1, 0, 1, WITAN_F32},
        {WITAN_WEIGHT_COUNT, 0, 0, 1, 0, 1, WITAN_F32},
    };
    wtn_hf_t *hf;
    float     out[4];

    ck_assert_int_eq(wtn_hf_open(&hf, fixture_path("mixtral_f32"), 1), WITAN_OK);
    for (size_t i = 0; i < WTN_COUNT_OF(bad); i++) {
        expect_error(wtn_hf_weights(hf).read(hf, &bad[i], out), WITAN_E_ARGUMENT, "weight ", NULL);
    }
    ck_assert_int_eq(wtn_hf_bytes_read(hf), 0);
    wtn_hf_close(hf);
}
END_TEST

START_TEST(test_digest_tells_folders_apart)
{
    uint64_t  digests[WTN_COUNT_OF(fixtures)];
    wtn_hf_t *hf;

    for (size_t i = 0; i < WTN_COUNT_OF(fixtures); i++) {
        for (int repeat = 0; repeat < 2; repeat++) {
            uint64_t digest;

            ck_assert_int_eq(wtn_hf_open(&hf, fixture_path(fixtures[i].name), fixtures[i].layer),
                             WITAN_OK);
            digest = wtn_hf_digest(hf);
            wtn_hf_close(hf);
            ck_assert(repeat == 0 || digest == digests[i]);
            digests[i] = digest;
        }
        for (size_t j = 0; j < i; j++) {
            ck_assert(digests[i] != digests[j]);
        }
    }
}
END_TEST

START_TEST(test_sharded_folder_opens)
{
    wtn_hf_t *hf;
    float     out[4];

    ck_assert_msg(wtn_hf_open(&hf, fixture_path("qwen3_moe_sharded_bf16"), 2) == WITAN_OK, "%s",
                  witan_last_error());
    rule_read(hf, WITAN_WEIGHT_DOWN, wtn_hf_config(hf)->expert_count - 1, (int64_t[]){0, 1, 0, 4},
              WITAN_F32, out);
    wtn_hf_close(hf);
}
END_TEST

int main(void)
{
    Suite   *suite = suite_create("hf");
    TCase   *tests = tcase_create("all");
    SRunner *runner;
    int      failed;

    tcase_set_timeout(tests, 30);
    tcase_add_loop_test(tests, test_fixture_every_element_matches_the_rule, 0,
                        (int)WTN_COUNT_OF(fixtures));
    tcase_add_test(tests, test_bytes_read_are_those_of_the_slice);
    tcase_add_test(tests, test_slice_outside_is_refused);
    tcase_add_test(tests, test_digest_tells_folders_apart);
    tcase_add_test(tests, test_sharded_folder_opens);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

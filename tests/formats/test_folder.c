/* Damaged model folders: copies of fixtures with one thing changed, each refused by what it is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <check.h>

#include "core/util.h"
#include "experts/file.h"
#include "experts/files.h"
#include "experts/hf.h"
#include "formats/folder.h"

static folder_t folder;

static void set_up(void)
{
    folder_make(&folder);
}

static void tear_down(void)
{
    folder_remove(&folder);
}

/* ---- copies with an edit ---- */

typedef enum change { KEEP, DROP, RENAME, RETYPE, RESHAPE } change_t;

typedef struct edit {
    change_t       change;
    const char    *tensor; /* behind "model.layers.<layer>." */
    const char    *name;   /* RENAME: the new one, likewise */
    wtn_st_dtype_t dtype;  /* RETYPE: of the same size or less */
} edit_t;

static void copy_file(const char *fixture, const char *name)
{
    char   path[200], *data;
    size_t bytes;

    (void)snprintf(path, sizeof(path), "tests/fixtures/%s/%s", fixture, name);
    ck_assert_int_eq(wtn_file_load(path, 1 << 24, &data, &bytes), WITAN_OK);
    folder_write(&folder, name, data, bytes);
    free(data);
}

static void copy_weights(const char *fixture, int32_t layer, const edit_t *edit)
{
    char             path[200], old_name[160], new_name[160];
    wtn_st_file_t   *file;
    wtn_st_writer_t *writer;
    wtn_st_tensor_t *tensors, *from;
    size_t           count = 0, index;
    bool             found = edit->change == KEEP;

    (void)snprintf(path, sizeof(path), "tests/fixtures/%s/model.safetensors", fixture);
    (void)snprintf(old_name, sizeof(old_name), "model.layers.%d.%s", layer, edit->tensor);
    (void)snprintf(new_name, sizeof(new_name), "model.layers.%d.%s", layer, edit->name);
    ck_assert_int_eq(wtn_st_open(&file, path), WITAN_OK);
    tensors = calloc(wtn_st_count(file), sizeof(*tensors));
    from    = calloc(wtn_st_count(file), sizeof(*from));
    for (index = 0; index < wtn_st_count(file); index++) {
        wtn_st_tensor_t tensor = *wtn_st_at(file, index);

        from[count] = tensor;
        if (edit->change != KEEP && strcmp(tensor.name, old_name) == 0) {
            found = true;
            if (edit->change == DROP) {
                continue;
            }
            if (edit->change == RENAME) {
                tensor.name = new_name;
            } else if (edit->change == RETYPE) {
                tensor.dtype = edit->dtype;
            } else {
                tensor.shape[tensor.rank++] = 1;
            }
        }
        tensors[count++] = tensor;
    }
    ck_assert_msg(found, "%s has no %s", fixture, edit->tensor);
    ck_assert_int_eq(wtn_st_writer_open(&writer, folder_file(&folder, "model.safetensors"), tensors,
                                        count),
                     WITAN_OK);
    for (index = 0; index < count; index++) {
        const size_t old_size = wtn_st_dtype_bytes(from[index].dtype);
        const size_t new_size = wtn_st_dtype_bytes(tensors[index].dtype);
        const size_t bytes    = (from[index].end - from[index].begin) / old_size * new_size;
        char        *data     = malloc(bytes + 1);

        ck_assert_int_eq(wtn_st_read(file, &from[index], 0, bytes, data), WITAN_OK);
        ck_assert_int_eq(wtn_st_writer_append(writer, data, bytes), WITAN_OK);
        free(data);
    }
    ck_assert_int_eq(wtn_st_writer_commit(writer), WITAN_OK);
    free(tensors);
    free(from);
    wtn_st_close(file);
}

static witan_status_t open_folder(int32_t layer)
{
    wtn_hf_t      *hf     = NULL;
    witan_status_t status = wtn_hf_open(&hf, folder.path, layer);

    ck_assert(status == WITAN_OK ? hf != NULL : hf == NULL);
    wtn_hf_close(hf);
    return status;
}

static const struct {
    const char    *fixture;
    int32_t        layer;
    edit_t         edit;
    witan_status_t status;
    const char    *what, *expected, *found;
} changed_tensors[] = {
    {"qwen2_moe_f16", 0, {KEEP, "", "", 0}, WITAN_OK, "", "", ""},
    /* missing */
    {"qwen2_moe_f16",
     0,
     {DROP, "mlp.gate.weight", "", 0},
     WITAN_E_FORMAT,
     "model.layers.0.mlp.gate.weight",
     "expected",
     "not found"},
    {"qwen2_moe_f16",
     0,
     {DROP, "mlp.experts.3.up_proj.weight", "", 0},
     WITAN_E_FORMAT,
     "mlp.experts.3.up_proj.weight'",
     "expected",
     "not found"},
    {"qwen2_moe_f16",
     0,
     {DROP, "mlp.shared_expert.down_proj.weight", "", 0},
     WITAN_E_FORMAT,
     "mlp.shared_expert.down_proj.weight'",
     "expected",
     "not found"},
    {"qwen2_moe_f16",
     0,
     {DROP, "mlp.shared_expert_gate.weight", "", 0},
     WITAN_E_FORMAT,
     "mlp.shared_expert_gate.weight'",
     "expected",
     "not found"},
    {"qwen2_moe_fused_f32",
     0,
     {DROP, "mlp.experts.down_proj", "", 0},
     WITAN_E_FORMAT,
     "mlp.experts.down_proj'",
     "expected",
     "not found"},
    {"deepseek_v3_f32",
     1,
     {DROP, "mlp.gate.e_score_correction_bias", "", 0},
     WITAN_E_FORMAT,
     "e_score_correction_bias'",
     "expected",
     "not found"},
    {"deepseek_v3_fp8",
     1,
     {DROP, "mlp.experts.2.down_proj.weight_scale_inv", "", 0},
     WITAN_E_FORMAT,
     "mlp.experts.2.down_proj.weight_scale_inv'",
     "expected",
     "not found"},
    {"gpt_oss_mxfp4",
     0,
     {DROP, "mlp.experts.gate_up_proj_scales", "", 0},
     WITAN_E_FORMAT,
     "mlp.experts.gate_up_proj_scales'",
     "expected",
     "not found"},
    {"gpt_oss_bf16",
     0,
     {DROP, "mlp.experts.gate_up_proj_bias", "", 0},
     WITAN_E_FORMAT,
     "mlp.experts.gate_up_proj_bias'",
     "expected",
     "not found"},
    {"gpt_oss_bf16",
     0,
     {DROP, "mlp.router.bias", "", 0},
     WITAN_E_FORMAT,
     "mlp.router.bias'",
     "expected",
     "not found"},
    /* two layouts at once */
    {"qwen2_moe_f16",
     0,
     {RENAME, "mlp.experts.1.gate_proj.weight", "mlp.experts.gate_up_proj", 0},
     WITAN_E_FORMAT,
     "one layout of the experts",
     "mlp.experts.0.gate_proj.weight'",
     "mlp.experts.gate_up_proj'"},
    {"gpt_oss_mxfp4",
     0,
     {RENAME, "mlp.router.bias", "mlp.experts.down_proj", 0},
     WITAN_E_FORMAT,
     "one layout of the experts",
     "mlp.experts.down_proj'",
     "mlp.experts.gate_up_proj_blocks'"},
    /* more than the family has */
    {"qwen2_moe_f16",
     0,
     {RENAME, "input_layernorm.weight", "mlp.experts.0.up_proj.bias", 0},
     WITAN_E_UNSUPPORTED,
     "model.layers.0.mlp.experts.0.up_proj.bias'",
     "expected only",
     "qwen2_moe"},
    {"mixtral_f32",
     1,
     {RENAME, "input_layernorm.weight", "block_sparse_moe.experts.8.w1.weight", 0},
     WITAN_E_UNSUPPORTED,
     "block_sparse_moe.experts.8.w1.weight'",
     "expected only",
     "mixtral"},
    /* shapes */
    {"mixtral_f32",
     1,
     {RESHAPE, "block_sparse_moe.gate.weight", "", 0},
     WITAN_E_CONFIG,
     "block_sparse_moe.gate.weight'",
     "expected [",
     "found ["},
    {"deepseek_v3_fp8",
     1,
     {RESHAPE, "mlp.experts.0.up_proj.weight_scale_inv", "", 0},
     WITAN_E_CONFIG,
     "mlp.experts.0.up_proj.weight_scale_inv'",
     "expected [2, 2] by config.json",
     "found [2, 2, 1]"},
    {"gpt_oss_mxfp4",
     0,
     {RESHAPE, "mlp.experts.down_proj_scales", "", 0},
     WITAN_E_CONFIG,
     "mlp.experts.down_proj_scales'",
     "expected [8, 64, 1] by config.json",
     "found [8, 64, 1, 1]"},
    /* dtypes */
    {"qwen2_moe_f16",
     0,
     {RETYPE, "mlp.experts.3.up_proj.weight", "", WTN_ST_BF16},
     WITAN_E_UNSUPPORTED,
     "mlp.experts.3.up_proj.weight'",
     "expected the dtype of 'model.layers.0.mlp.experts.0.up_proj.weight', F16",
     "found BF16"},
    {"qwen2_moe_f16",
     0,
     {RETYPE, "mlp.shared_expert.up_proj.weight", "", WTN_ST_BF16},
     WITAN_E_UNSUPPORTED,
     "mlp.shared_expert.up_proj.weight'",
     "F16",
     "found BF16"},
    {"qwen2_moe_f16",
     0,
     {RETYPE, "mlp.experts.0.up_proj.weight", "", WTN_ST_I16},
     WITAN_E_UNSUPPORTED,
     "mlp.experts.0.up_proj.weight'",
     "F32, F16, BF16 or F8_E4M3",
     "found I16"},
    {"qwen2_moe_f16",
     0,
     {RETYPE, "mlp.gate.weight", "", WTN_ST_U16},
     WITAN_E_UNSUPPORTED,
     "mlp.gate.weight'",
     "F32, F16 or BF16",
     "found U16"},
    {"qwen2_moe_f16", 0, {RETYPE, "mlp.gate.weight", "", WTN_ST_BF16}, WITAN_OK, "", "", ""},
    {"mixtral_fused_bf16",
     0,
     {RETYPE, "mlp.experts.down_proj", "", WTN_ST_F16},
     WITAN_E_UNSUPPORTED,
     "mlp.experts.down_proj'",
     "expected the dtype of 'model.layers.0.mlp.experts.gate_up_proj', BF16",
     "found F16"},
    {"mixtral_fused_bf16",
     0,
     {RETYPE, "mlp.experts.gate_up_proj", "", WTN_ST_F8_E4M3},
     WITAN_E_UNSUPPORTED,
     "mlp.experts.gate_up_proj'",
     "expected dtype F32, F16 or BF16,",
     "found F8_E4M3"},
    {"deepseek_v3_fp8",
     1,
     {RETYPE, "mlp.experts.0.gate_proj.weight", "", WTN_ST_F8_E5M2},
     WITAN_E_UNSUPPORTED,
     "mlp.experts.0.gate_proj.weight'",
     "F8_E4M3",
     "found F8_E5M2"},
    {"deepseek_v3_fp8",
     1,
     {RETYPE, "mlp.experts.0.gate_proj.weight_scale_inv", "", WTN_ST_I32},
     WITAN_E_UNSUPPORTED,
     "weight_scale_inv'",
     "F32, F16 or BF16",
     "found I32"},
    {"gpt_oss_mxfp4",
     0,
     {RETYPE, "mlp.experts.down_proj_blocks", "", WTN_ST_I8},
     WITAN_E_UNSUPPORTED,
     "mlp.experts.down_proj_blocks'",
     "U8",
     "found I8"},
    {"gpt_oss_mxfp4",
     0,
     {RETYPE, "mlp.experts.down_proj_scales", "", WTN_ST_F8_E4M3},
     WITAN_E_UNSUPPORTED,
     "mlp.experts.down_proj_scales'",
     "U8",
     "found F8_E4M3"},
};

START_TEST(test_tensor_changed_is_refused_by_name)
{
    for (size_t i = 0; i < WTN_COUNT_OF(changed_tensors); i++) {
        copy_file(changed_tensors[i].fixture, "config.json");
        copy_weights(changed_tensors[i].fixture, changed_tensors[i].layer,
                     &changed_tensors[i].edit);
        if (changed_tensors[i].status == WITAN_OK) {
            ck_assert_msg(open_folder(changed_tensors[i].layer) == WITAN_OK, "%s",
                          witan_last_error());
        } else {
            expect_error(open_folder(changed_tensors[i].layer), changed_tensors[i].status,
                         folder.path, changed_tensors[i].what, changed_tensors[i].expected,
                         changed_tensors[i].found, NULL);
        }
    }
}
END_TEST

START_TEST(test_config_contradicts_tensors)
{
    static const edit_t keep = {KEEP, "", "", 0};
    char               *text, *at;
    size_t              bytes;

    copy_weights("gpt_oss_mxfp4", 0, &keep);
    ck_assert_int_eq(wtn_file_load("tests/fixtures/gpt_oss_mxfp4/config.json", 1 << 20, &text,
                                   &bytes),
                     WITAN_OK);
    at = strstr(text, "\"hidden_size\": 64");
    ck_assert_ptr_nonnull(at);
    memcpy(at, "\"hidden_size\": 96", 17);
    folder_write(&folder, "config.json", text, bytes);
    expect_error(open_folder(0), WITAN_E_CONFIG, "mlp.router.weight'", "expected [8, 96]",
                 "found [8, 64]", NULL);
    memcpy(at, "\"hidden_size\": 65", 17);
    folder_write(&folder, "config.json", text, bytes);
    expect_error(open_folder(0), WITAN_E_CONFIG, "/config.json: hidden_size",
                 "a multiple of 32 (MXFP4)", "found 65", NULL);
    free(text);
}
END_TEST

START_TEST(test_layer_not_in_the_files_names_its_tensor)
{
    static const edit_t keep = {KEEP, "", "", 0};

    copy_file("mixtral_f32", "config.json");
    copy_weights("mixtral_f32", 1, &keep);
    expect_error(open_folder(0), WITAN_E_FORMAT, "/model.safetensors: tensor 'model.layers.0.",
                 "expected, not found", NULL);
    expect_error(open_folder(1000), WITAN_E_CONFIG, "/config.json: layer 1000", "num_hidden_layers",
                 NULL);
}
END_TEST

START_TEST(test_file_truncated_after_open_names_the_tensor)
{
    static const edit_t        keep  = {KEEP, "", "", 0};
    const witan_weight_slice_t slice = {WITAN_WEIGHT_DOWN, 7, 0, 48, 0, 40, WITAN_BF16};
    static uint16_t            out[48 * 40];
    struct stat                info;
    wtn_hf_t                  *hf;

    copy_file("mixtral_fused_bf16", "config.json");
    copy_weights("mixtral_fused_bf16", 0, &keep);
    ck_assert_int_eq(wtn_hf_open(&hf, folder.path, 0), WITAN_OK);
    ck_assert_int_eq(wtn_hf_weights(hf).read(hf, &slice, out), WITAN_OK);
    ck_assert_int_eq(stat(folder_file(&folder, "model.safetensors"), &info), 0);
    ck_assert_int_eq(truncate(folder_file(&folder, "model.safetensors"), info.st_size / 8), 0);
    expect_error(wtn_hf_weights(hf).read(hf, &slice, out), WITAN_E_IO,
                 "/model.safetensors: tensor ", "mlp.experts.down_proj'", "end of the file", NULL);
    wtn_hf_close(hf);
}
END_TEST

/* ---- folders ---- */

static void write_config(void)
{
    copy_file("qwen3_moe_sharded_bf16", "config.json");
}

START_TEST(test_no_folder_is_refused)
{
    wtn_hf_t *hf;

    expect_error(wtn_hf_open(&hf, "/none/such", 0), WITAN_E_IO,
                 "/none/such/config.json: cannot be opened: No such file", NULL);
    folder_write_text(&folder, "f", "x");
    expect_error(wtn_hf_open(&hf, folder_file(&folder, "f"), 0), WITAN_E_IO,
                 "/f: expected a model folder, found a regular file", NULL);
    ck_assert_int_eq(mkdir(folder_file(&folder, "config.json"), 0700), 0);
    expect_error(open_folder(0), WITAN_E_IO,
                 "/config.json: expected a regular file, found a folder", NULL);
}
END_TEST

START_TEST(test_config_too_large_is_refused)
{
    write_config();
    ck_assert_int_eq(truncate(folder_file(&folder, "config.json"), (16 << 20) + 1), 0);
    expect_error(open_folder(2), WITAN_E_FORMAT, "/config.json: expected at most 16777216 bytes",
                 "found 16777217", NULL);
}
END_TEST

START_TEST(test_no_weights_is_refused)
{
    write_config();
    expect_error(open_folder(2), WITAN_E_IO,
                 "expected model.safetensors or model.safetensors.index.json, found neither", NULL);
    ck_assert_int_eq(mkdir(folder_file(&folder, "model.safetensors"), 0700), 0);
    expect_error(open_folder(2), WITAN_E_IO,
                 "/model.safetensors: expected a regular file, found a folder", NULL);
    ck_assert_int_eq(rmdir(folder_file(&folder, "model.safetensors")), 0);
    ck_assert_int_eq(mkdir(folder_file(&folder, WTN_INDEX_FILE), 0700), 0);
    expect_error(open_folder(2), WITAN_E_IO,
                 "/" WTN_INDEX_FILE ": expected a regular file, found a folder", NULL);
}
END_TEST

START_TEST(test_index_damaged_is_refused)
{
    static const struct {
        const char *text, *expected, *found;
    } rows[] = {
        {"", "line 1", ""},
        {"[]", "a JSON object", "a list"},
        {"{}", "weight_map: expected an object", "found none"},
        {"{\"weight_map\":[]}", "weight_map: expected an object", "found a list"},
        {"{\"weight_map\":{\"a\":\"x\",\"a\":\"y\"}}", "line 1", "duplicate"},
        {"{\"weight_map\":{\"a\":3}}", "tensor 'a'", "found 3"},
        {"{\"weight_map\":{\"a\":\"\"}}", "tensor 'a'", "found ''"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "tensor 'a'", "found '..'"},
        {"{\"weight_map\":{\"a\":\".\"}}", "tensor 'a'", "found '.'"},
        {"{\"weight_map\":{\"a\":\"../m.safetensors\"}}", "tensor 'a'", "found '../m.safetensors'"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "tensor 'a'", "found '/etc/passwd'"},
        {"{\"weight_map\":{\"a\":\"sub/m\"}}", "tensor 'a'", "found 'sub/m'"},
        {"{\"weight_map\":{\"a\":\"x\\u0000y\"}}", "line 1", "NUL"},
        {"{\"weight_map\":{}}", "tensor 'model.layers.2.mlp.gate.weight'", "not found"},
        {"{\"weight_map\":{\"model.layers.2.mlp.gate.weight\":\"m-1\"}}", "/m-1: cannot be opened",
         "No such file"},
    };

    write_config();
    for (size_t i = 0; i < WTN_COUNT_OF(rows); i++) {
        folder_write_text(&folder, WTN_INDEX_FILE, rows[i].text);
        expect_error(open_folder(2),
                     strstr(rows[i].expected, "cannot") ? WITAN_E_IO : WITAN_E_FORMAT, folder.path,
                     rows[i].expected, rows[i].found, NULL);
    }
    /* A shard that has not what the index says. */
    folder_write_header(&folder, "m-1", "{}", 0);
    expect_error(open_folder(2), WITAN_E_FORMAT,
                 "/m-1: tensor 'model.layers.2.mlp.gate.weight': expected, not found", NULL);
}
END_TEST

START_TEST(test_shard_missing_is_named_and_unneeded_ones_are_not_opened)
{
    static const char *const shards[] = {"model-00001-of-00003.safetensors",
                                         "model-00002-of-00003.safetensors",
                                         "model-00003-of-00003.safetensors"};
    int                      needed   = 0;

    write_config();
    copy_file("qwen3_moe_sharded_bf16", WTN_INDEX_FILE);
    for (size_t i = 0; i < WTN_COUNT_OF(shards); i++) {
        copy_file("qwen3_moe_sharded_bf16", shards[i]);
    }
    ck_assert_msg(open_folder(2) == WITAN_OK, "%s", witan_last_error());
    for (size_t i = 0; i < WTN_COUNT_OF(shards); i++) {
        ck_assert_int_eq(unlink(folder_file(&folder, shards[i])), 0);
        if (open_folder(2) != WITAN_OK) {
            needed++;
            expect_error(open_folder(2), WITAN_E_IO, shards[i], "No such file", NULL);
        }
        copy_file("qwen3_moe_sharded_bf16", shards[i]);
    }
    ck_assert_int_ge(needed, 2);
}
END_TEST

START_TEST(test_index_with_more_than_the_family_has_is_refused)
{
    static const char old_name[] = "model.norm.weight", new_name[] = "model.layers.2.mlp.gate.bias";
    char             *text, *at, *changed;
    size_t            bytes;

    write_config();
    for (int i = 1; i <= 3; i++) {
        char name[64];

        (void)snprintf(name, sizeof(name), "model-%05d-of-00003.safetensors", i);
        copy_file("qwen3_moe_sharded_bf16", name);
    }
    ck_assert_int_eq(wtn_file_load("tests/fixtures/qwen3_moe_sharded_bf16/" WTN_INDEX_FILE, 1 << 20,
                                   &text, &bytes),
                     WITAN_OK);
    at      = strstr(text, old_name);
    changed = malloc(bytes + sizeof(new_name));
    ck_assert_ptr_nonnull(at);
    (void)snprintf(changed, bytes + sizeof(new_name), "%.*s%s%s", (int)(at - text), text, new_name,
                   at + sizeof(old_name) - 1);
    folder_write_text(&folder, WTN_INDEX_FILE, changed);
    expect_error(open_folder(2), WITAN_E_UNSUPPORTED, WTN_INDEX_FILE,
                 "tensor 'model.layers.2.mlp.gate.bias': expected only", NULL);
    free(changed);
    free(text);
}
END_TEST

START_TEST(test_single_file_is_preferred_to_the_index)
{
    static const edit_t keep = {KEEP, "", "", 0};

    copy_file("olmoe_f32", "config.json");
    copy_weights("olmoe_f32", 0, &keep);
    folder_write_text(&folder, WTN_INDEX_FILE, "damaged");
    ck_assert_msg(open_folder(0) == WITAN_OK, "%s", witan_last_error());
}
END_TEST

int main(void)
{
    Suite   *suite = suite_create("folder");
    TCase   *tests = tcase_create("all");
    SRunner *runner;
    int      failed;

    tcase_set_timeout(tests, 30);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, test_tensor_changed_is_refused_by_name);
    tcase_add_test(tests, test_config_contradicts_tensors);
    tcase_add_test(tests, test_layer_not_in_the_files_names_its_tensor);
    tcase_add_test(tests, test_file_truncated_after_open_names_the_tensor);
    tcase_add_test(tests, test_no_folder_is_refused);
    tcase_add_test(tests, test_config_too_large_is_refused);
    tcase_add_test(tests, test_no_weights_is_refused);
    tcase_add_test(tests, test_index_damaged_is_refused);
    tcase_add_test(tests, test_shard_missing_is_named_and_unneeded_ones_are_not_opened);
    tcase_add_test(tests, test_index_with_more_than_the_family_has_is_refused);
    tcase_add_test(tests, test_single_file_is_preferred_to_the_index);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Synthetic blocks can be opened and run, in every preset and storage, whole and in shards. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <witan/witan.h>

#include "core/half.h"
#include "experts/hf.h"
#include "launcher/synth.h"
#include "synth/folder.h"

/* Outputs are of order one: N(0, 1) goes in and every matrix keeps the size of what it multiplies,
 * so only the activation and the weights of the experts shrink it, and top-k weights sum to at most
 * 2.5 (deepseek-v3). */
static void check_run(const char *folder, int32_t layer_index)
{
    witan_group_t       *group;
    witan_layer_t       *layer;
    witan_layer_info_t   info = {.struct_bytes = sizeof(info)};
    witan_plan_config_t  config;
    witan_plan_t        *plan;
    witan_forward_args_t args  = {.struct_bytes = sizeof(args), .token_count = 19};
    double               total = 0.0;
    wtn_st_file_t       *input;
    size_t               bytes;
    char                 path[512];
    void                *hidden, *output;

    REQUIRE(witan_group_create_self(&group, NULL));
    REQUIRE(witan_layer_load(&layer, group, folder, layer_index, NULL));
    REQUIRE(witan_layer_info(layer, &info));
    witan_plan_config_init(&config);
    config.token_count_max = args.token_count;
    REQUIRE(witan_plan_create(&plan, layer, &config));

    snprintf(path, sizeof(path), "%.300s/input.safetensors", folder);
    REQUIRE(wtn_st_open(&input, path));
    ck_assert_ptr_nonnull(wtn_st_find(input, "hidden_states"));
    bytes  = (size_t)(19 * info.config.hidden_size) * witan_dtype_bytes(info.config.dtype);
    hidden = malloc(bytes);
    output = malloc(bytes);
    ck_assert(hidden != NULL && output != NULL);
    REQUIRE(wtn_st_read(input, wtn_st_find(input, "hidden_states"), 0, bytes, hidden));
    args.hidden = hidden;
    args.output = output;
    REQUIRE(witan_forward(plan, &args));
    for (size_t i = 0; i < (size_t)(19 * info.config.hidden_size); i++) {
        double value = wtn_load_float(output, info.config.dtype, i);

        total += value * value;
    }
    total = sqrt(total / (double)(19 * info.config.hidden_size));
    ck_assert_msg(total > 0.02 && total < 10.0, "%s: output rms %g", folder, total);
    free(hidden);
    free(output);
    wtn_st_close(input);
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}

START_TEST(test_synth_every_preset_and_storage_loads_and_runs)
{
    const wtn_synth_preset_t *preset = &wtn_synth_presets[_i];
    wtn_synth_block_t         block;
    wtn_hf_t                 *hf;

    for (int storage = WTN_SYNTH_PUBLISHED; storage <= WTN_SYNTH_MXFP4; storage++) {
        const char    *folder = place(wtn_synth_storage_name((wtn_synth_storage_t)storage));
        bool           is_oss = strcmp(preset->model_type, "gpt_oss") == 0;
        witan_status_t status = wtn_synth_block_init(&block, preset->name, WTN_SYNTH_TINY,
                                                     (wtn_synth_storage_t)storage, 0);

        if (storage == (is_oss ? WTN_SYNTH_FP8 : WTN_SYNTH_MXFP4)) {
            ck_assert_int_eq(status, WITAN_E_UNSUPPORTED);
            continue;
        }
        REQUIRE(status);
        REQUIRE(write_tiny(preset->name, (wtn_synth_storage_t)storage, 0, 0, folder));
        REQUIRE(wtn_hf_open(&hf, folder, preset->layer_index));
        ck_assert_str_eq(wtn_hf_family(hf), preset->model_type);
        ck_assert_int_eq(wtn_hf_config(hf)->hidden_size, preset->sizes[WTN_SYNTH_TINY].hidden_size);
        ck_assert_int_eq(wtn_hf_config(hf)->inter_size, preset->sizes[WTN_SYNTH_TINY].inter_size);
        ck_assert_int_eq(wtn_hf_config(hf)->expert_count,
                         preset->sizes[WTN_SYNTH_TINY].expert_count);
        ck_assert_int_eq(wtn_hf_config(hf)->topk, preset->sizes[WTN_SYNTH_TINY].topk);
        ck_assert_int_eq(wtn_hf_config(hf)->shared_inter_size, block.config.shared_inter_size);
        ck_assert_int_eq(wtn_hf_config(hf)->dtype, block.config.dtype);
        wtn_hf_close(hf);
        check_run(folder, preset->layer_index);
    }
}
END_TEST

START_TEST(test_synth_shards_hold_the_same_block)
{
    const char *whole = place("whole"), *shards = place("shards");
    char        path[512];

    REQUIRE(write_tiny("deepseek-v3", WTN_SYNTH_PUBLISHED, 1, 0, whole));
    REQUIRE(write_tiny("deepseek-v3", WTN_SYNTH_PUBLISHED, 1, 300000, shards));
    snprintf(path, sizeof(path), "%.300s/model.safetensors", shards);
    ck_assert_int_ne(access(path, F_OK), 0);
    snprintf(path, sizeof(path), "%.300s/model-00003-of-00003.safetensors", shards);
    ck_assert_int_eq(access(path, F_OK), 0);
    check_run(shards, 3);
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("synth_run");
    TCase   *cases  = tcase_create("blocks");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_checked_fixture(cases, make_root, remove_root);
    tcase_set_timeout(cases, 30);
    tcase_add_loop_test(cases, test_synth_every_preset_and_storage_loads_and_runs, 0,
                        (int)wtn_synth_preset_count);
    tcase_add_test(cases, test_synth_shards_hold_the_same_block);
    suite_add_tcase(suite, cases);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

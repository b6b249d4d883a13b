/* Machine files: the shipped ones are read, and every fault is one line naming file and key. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <witan/witan.h>

#include "launcher/machine_file.h"

static char *whole;

static void load_good(void)
{
    FILE *file = fopen("share/machines/h200-ib.json", "r");

    ck_assert_ptr_nonnull(file);
    whole = calloc(1, 1 << 16);
    ck_assert(fread(whole, 1, (1 << 16) - 1, file) > 0);
    (void)fclose(file);
}

static void free_good(void)
{
    free(whole);
}

/* The good file with the first `from` replaced. */
static witan_status_t parse_with(const char *from, const char *to)
{
    wtn_scale_machine_t machine;
    char               *at = strstr(whole, from), *text = calloc(1, 1 << 17);
    witan_status_t      status;

    ck_assert_msg(at != NULL, "no %s", from);
    (void)snprintf(text, 1 << 17, "%.*s%s%s", (int)(at - whole), whole, to, at + strlen(from));
    status = wtn_machine_parse(&machine, "m.json", text, strlen(text));
    free(text);
    return status;
}

START_TEST(test_machine_shipped_files_are_read)
{
    const char *const names[] = {"h100-ib", "h200-ib", "gb200-nvl72"};

    for (size_t i = 0; i < 3; i++) {
        wtn_scale_machine_t machine;
        char                path[64];

        (void)snprintf(path, sizeof(path), "share/machines/%s.json", names[i]);
        ck_assert_msg(wtn_machine_load(&machine, path) == WITAN_OK, "%s", witan_last_error());
        ck_assert_str_eq(machine.name, names[i]);
        ck_assert(machine.inside.port.rate > machine.between.port.rate);
    }
}
END_TEST

static const struct {
    const char *from, *to, *key;
} faults[] = {
    {"\"peak_flops\": 989.5e12", "\"peak_flops\": -1", "m.json: peak_flops:"},
    {"\"peak_flops\": 989.5e12", "\"peak_flops\": 0", "m.json: peak_flops:"},
    {"\"peak_flops\": 989.5e12", "\"peak_flops\": \"fast\"", "m.json: peak_flops:"},
    {"\"peak_flops\": 989.5e12", "\"peak_flop\": 1", "m.json: peak_flop:"},
    {"\"peak_flops\": 989.5e12,", "", "m.json: peak_flops:"},
    {"\"step_s\": 80e-6", "\"step_s\": -80e-6", "m.json: step_s:"},
    {"\"step_s\": 80e-6", "\"step_s\": null", "m.json: step_s:"},
    {"\"step_s\": 80e-6", "\"step_s\": NaN", "m.json:"},
    {"\"step_s\": 80e-6", "\"step_s\": 1e999", "m.json:"},
    {"\"rate\": 450e9", "\"rate\": 0", "m.json: inside.rate:"},
    {"\"rate\": 450e9", "\"speed\": 1", "m.json: inside.speed:"},
    {"\"rate\": 50e9,", "", "m.json: between.rate:"},
    {"\"latency_s\": 5e-6", "\"latency_s\": -1", "m.json: between.latency_s:"},
    {"\"ranks_per_node\": 8", "\"ranks_per_node\": 0", "m.json: ranks_per_node:"},
    {"\"ranks_per_node\": 8", "\"ranks_per_node\": 8.5", "m.json: ranks_per_node:"},
    {"\"nics_per_node\": 8", "\"nics_per_node\": 9", "m.json: nics_per_node:"},
    {"\"overlap\": \"none\"", "\"overlap\": \"some\"", "m.json: overlap:"},
    {"\"backend\": \"cuda\"", "\"backend\": \"tpu\"", "m.json: backend:"},
    {"\"two_level\": false", "\"two_level\": 0", "m.json: two_level:"},
    {"witan.machine/1", "witan.machine/2", "m.json: schema:"},
    {"[1, 4,", "[1, 1,", "m.json: expert_rows:"},
    {"[1, 4,", "[0, 4,", "m.json: expert_rows:"},
    {"[0.70,", "[-0.70,", "m.json: expert_efficiency:"},
    {"[0.70,", "[", "m.json: expert_efficiency:"},
    {"\"inside\": {", "\"inside\": 5, \"x\": {", "m.json:"},
    {"\"comment\": \"NVLink", "\"comment\": 7, \"x\": \"NVLink", "m.json: inside."},
};

START_TEST(test_machine_fault_names_file_and_key)
{
    witan_status_t status = parse_with(faults[_i].from, faults[_i].to);

    ck_assert_msg(status == WITAN_E_CONFIG || status == WITAN_E_FORMAT, "%s -> %s: status %d",
                  faults[_i].from, faults[_i].to, (int)status);
    ck_assert_msg(strncmp(witan_last_error(), faults[_i].key, strlen(faults[_i].key)) == 0,
                  "'%s' does not begin with '%s'", witan_last_error(), faults[_i].key);
    ck_assert_ptr_null(strchr(witan_last_error(), '\n'));
}
END_TEST

START_TEST(test_machine_written_is_read_alike)
{
    wtn_scale_machine_t machine, again;
    json_t             *root;
    char               *text;

    ck_assert_int_eq(wtn_machine_parse(&machine, "m.json", whole, strlen(whole)), WITAN_OK);
    root = wtn_machine_json(&machine, "as it was");
    text = json_dumps(root, JSON_REAL_PRECISION(17));
    ck_assert_msg(wtn_machine_parse(&again, "n.json", text, strlen(text)) == WITAN_OK, "%s",
                  witan_last_error());
    ck_assert(machine.peak_flops <= again.peak_flops && machine.peak_flops >= again.peak_flops);
    ck_assert_mem_eq(&machine.between, &again.between, sizeof(machine.between));
    ck_assert_mem_eq(&machine.experts, &again.experts, sizeof(machine.experts));
    ck_assert_str_eq(machine.name, again.name);
    free(text);
    json_decref(root);
}
END_TEST

START_TEST(test_machine_absent_is_told)
{
    wtn_scale_machine_t machine;

    ck_assert_int_eq(wtn_machine_load(&machine, "no-such-machine"), WITAN_E_IO);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "no-such-machine"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("machine_file");
    TCase *tcase = tcase_create("machine_file");
    int    failed;

    tcase_add_checked_fixture(tcase, load_good, free_good);
    tcase_add_test(tcase, test_machine_shipped_files_are_read);
    tcase_add_loop_test(tcase, test_machine_fault_names_file_and_key, 0,
                        sizeof(faults) / sizeof(faults[0]));
    tcase_add_test(tcase, test_machine_written_is_read_alike);
    tcase_add_test(tcase, test_machine_absent_is_told);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "experts/file.h"
#include "launcher/bench.h"
#include "launcher/output.h"
#include "launcher/paths.h"
#include "topology/topology.h"

json_t *wtn_bench_json_begin(const char *name, const wtn_bench_options_t *options,
                             const witan_layer_config_t *config)
{
    wtn_machine_t machine;
    char          schema[64];

    if (wtn_machine_query(&machine) != WITAN_OK) {
        memset(&machine, 0, sizeof(machine));
    }
    (void)snprintf(schema, sizeof(schema), "witan.bench.%s/1", name);
    return json_pack(
        "{s:s, s:s, s:{s:s, s:i, s:i, s:i, s:I, s:I, s:I}, s:{s:i, s:i, s:I, s:I, s:s}, s:I, s:I}",
        "schema", schema, "version", witan_version(), "machine", "cpu", machine.cpu, "cores",
        (int)machine.core_count, "packages", (int)machine.package_count, "numa_nodes",
        (int)machine.numa_count, "memory_bytes", (json_int_t)machine.memory_bytes, "l2_bytes",
        (json_int_t)machine.l2_bytes, "l3_bytes", (json_int_t)machine.l3_bytes, "shape", "experts",
        (int)config->expert_count, "topk", (int)config->topk, "hidden",
        (json_int_t)config->hidden_size, "inter", (json_int_t)config->inter_size, "dtype",
        witan_dtype_name(config->dtype), "iterations", (json_int_t)options->iteration_count,
        "warmup", (json_int_t)options->warmup_count);
}

witan_status_t wtn_bench_files_probe(wtn_session_t *session, const wtn_named_path_t *outputs,
                                     size_t count, const wtn_named_path_t *input, const char *model)
{
    bool           mine   = session->rank == 0;
    witan_status_t status = mine ? wtn_paths_check(outputs, count, input, model) : WITAN_OK;

    WTN_TRY(wtn_session_agree_usage(session, status));
    for (size_t i = 0; i < count && mine && status == WITAN_OK; i++) {
        char *target = NULL;

        status = outputs[i].path != NULL ? wtn_file_target(outputs[i].path, &target) : WITAN_OK;
        free(target);
    }
    return wtn_session_agree(session, status);

fail:
    return status;
}

witan_status_t wtn_bench_json_probe(wtn_session_t *session, const wtn_bench_options_t *options)
{
    const wtn_named_path_t json  = {"--json", options->json};
    const wtn_named_path_t input = {NULL, NULL};

    return wtn_bench_files_probe(session, &json, 1, &input, options->model);
}

witan_status_t wtn_bench_json_write(const char *path, const json_t *root)
{
    const size_t   flags = JSON_INDENT(2) | JSON_REAL_PRECISION(6);
    char          *text  = json_dumps(root, flags);
    size_t         bytes = text != NULL ? strlen(text) : 0;
    witan_status_t status;

    if (text == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: the JSON text", path);
    }
    text[bytes] = '\n'; /* in the place of the final zero: files are written by length */
    status      = wtn_output_write(path, text, bytes + 1);
    free(text);
    return status;
}

witan_status_t wtn_bench_json_end(const char *path, json_t *root, json_t *facts)
{
    witan_status_t status;

    if (root == NULL || facts == NULL || json_object_update(root, facts) != 0) {
        status = WTN_ERROR(WITAN_E_MEMORY, "the JSON text could not be made");
    } else {
        status = wtn_bench_json_write(path, root);
    }
    json_decref(facts);
    json_decref(root);
    return status;
}

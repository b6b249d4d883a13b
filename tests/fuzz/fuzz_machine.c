/* Fuzz target: machine files. What is accepted must be fit to compute with, and be written as it
 * was read. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/machine_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_curve(const wtn_scale_curve_t *curve)
{
    if (curve->count < 1 || curve->count > WTN_SCALE_CURVE_MAX) {
        abort();
    }
    for (int32_t i = 0; i < curve->count; i++) {
        if (!(curve->value[i] > 0 && curve->value[i] <= 2) || !isfinite(curve->at[i]) ||
            !(curve->at[i] > (i == 0 ? 0 : curve->at[i - 1]))) {
            abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    wtn_scale_machine_t machine, again;
    json_t             *root;
    char               *text;

    if (wtn_machine_parse(&machine, "F", (const char *)data, size) != WITAN_OK) {
        if (strncmp(witan_last_error(), "F: ", 3) != 0) {
            abort();
        }
        return 0;
    }
    check_curve(&machine.experts);
    if (!(machine.peak_flops > 0) || !isfinite(machine.peak_flops) || machine.ranks_per_node < 1 ||
        machine.nics_per_node < 1 || machine.nics_per_node > machine.ranks_per_node) {
        abort();
    }
    root = wtn_machine_json(&machine, "");
    text = root == NULL ? NULL : json_dumps(root, JSON_REAL_PRECISION(17));
    if (text == NULL || wtn_machine_parse(&again, "G", text, strlen(text)) != WITAN_OK ||
        memcmp(&again.between, &machine.between, sizeof(machine.between)) != 0) {
        abort();
    }
    free(text);
    json_decref(root);
    return 0;
}

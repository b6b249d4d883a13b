#include "launcher/machine_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/file.h"
#include "experts/json.h"

typedef enum field_kind {
    COUNT,    /* int64_t, from `least` */
    POSITIVE, /* double > 0 */
    ZERO_UP,  /* double >= 0 */
} field_kind_t;

typedef struct field {
    const char  *section; /* NULL: the file itself */
    const char  *key;
    field_kind_t kind;
    int64_t      least;
    size_t       offset;
} field_t;

#define OF(member) offsetof(wtn_scale_machine_t, member)
#define LINK_FIELDS(level)                                           \
    {#level, "rate", POSITIVE, 0, OF(level.port.rate)},              \
        {#level, "latency_s", ZERO_UP, 0, OF(level.port.latency)},   \
        {#level, "overhead_s", ZERO_UP, 0, OF(level.port.overhead)}, \
    {                                                                \
#level, "copy_rate", ZERO_UP, 0, OF(level.copy_rate)         \
    }

static const field_t fields[] = {
    {NULL, "ranks_per_node", COUNT, 1, OF(ranks_per_node)},
    {NULL, "nics_per_node", COUNT, 1, OF(nics_per_node)},
    {NULL, "threads", COUNT, 1, OF(threads)},
    {NULL, "cores_per_node", COUNT, 0, OF(cores_per_node)},
    {NULL, "shared_cores", COUNT, 0, OF(shared_cores)},
    {NULL, "memory_bytes", POSITIVE, 0, OF(memory_bytes)},
    {NULL, "peak_flops", POSITIVE, 0, OF(peak_flops)},
    {NULL, "memory_rate", POSITIVE, 0, OF(memory_rate)},
    {NULL, "memory_rate_node", ZERO_UP, 0, OF(memory_rate_node)},
    {NULL, "route_token_s", ZERO_UP, 0, OF(route_token_s)},
    {NULL, "route_expert_s", ZERO_UP, 0, OF(route_expert_s)},
    {NULL, "route_flops", POSITIVE, 0, OF(route_flops)},
    {NULL, "plan_row_s", ZERO_UP, 0, OF(plan_row_s)},
    {NULL, "gather_rate", POSITIVE, 0, OF(gather_rate)},
    {NULL, "combine_rate", POSITIVE, 0, OF(combine_rate)},
    {NULL, "step_s", ZERO_UP, 0, OF(step_s)},
    {NULL, "exchange_s", ZERO_UP, 0, OF(exchange_s)},
    LINK_FIELDS(inside),
    LINK_FIELDS(between),
};

/* Keys that are no numbers of the table. */
static const char *const other_keys[] = {
    "schema", "name",    "backend", "overlap", "two_level", "expert_rows", "expert_efficiency",
    "inside", "between",
};

static witan_status_t refuse(const char *path, const char *section, const char *key,
                             const char *expected, const json_t *found)
{
    char text[64] = "nothing";

    if (found != NULL) {
        wtn_json_show(found, text, sizeof(text));
    }
    return WTN_ERROR(WITAN_E_CONFIG, "%s: %s%s%s: expected %s, found %s", path,
                     section == NULL ? "" : section, section == NULL ? "" : ".", key, expected,
                     text);
}

static witan_status_t read_field(wtn_scale_machine_t *machine, const char *path,
                                 const field_t *field, const json_t *object)
{
    const json_t *value = json_object_get(object, field->key);
    void         *to    = (char *)machine + field->offset;
    double        number;
    char          expected[48];

    if (field->kind == COUNT) {
        if (!json_is_integer(value) || json_integer_value(value) < field->least ||
            json_integer_value(value) > INT32_MAX) {
            (void)snprintf(expected, sizeof(expected), "an integer from %" PRId64, field->least);
            return refuse(path, field->section, field->key, expected, value);
        }
        memcpy(to, &(int64_t){json_integer_value(value)}, sizeof(int64_t));
        return WITAN_OK;
    }
    number = json_is_number(value) ? json_number_value(value) : NAN;
    if (!isfinite(number) || !(field->kind == POSITIVE ? number > 0 : number >= 0)) {
        return refuse(path, field->section, field->key,
                      field->kind == POSITIVE ? "a number above 0" : "a number from 0", value);
    }
    memcpy(to, &number, sizeof(number));
    return WITAN_OK;
}

static bool is_known(const char *section, const char *key)
{
    if (strcmp(key, "comment") == 0) {
        return true;
    }
    for (size_t i = 0; i < WTN_COUNT_OF(other_keys) && section == NULL; i++) {
        if (strcmp(key, other_keys[i]) == 0) {
            return true;
        }
    }
    for (size_t i = 0; i < WTN_COUNT_OF(fields); i++) {
        bool same = section == NULL
                        ? fields[i].section == NULL
                        : fields[i].section != NULL && strcmp(section, fields[i].section) == 0;

        if (same && strcmp(key, fields[i].key) == 0) {
            return true;
        }
    }
    return false;
}

static witan_status_t check_keys(const char *path, const char *section, json_t *object)
{
    const char *key;
    json_t     *value;

    json_object_foreach(object, key, value)
    {
        if (!is_known(section, key)) {
            return WTN_ERROR(WITAN_E_CONFIG, "%s: %s%s%s: expected only known keys, found this one",
                             path, section == NULL ? "" : section, section == NULL ? "" : ".", key);
        }
        if (strcmp(key, "comment") == 0 && !json_is_string(value)) {
            return refuse(path, section, key, "a text", value);
        }
    }
    return WITAN_OK;
}

static witan_status_t read_text(const char *path, const json_t *root, const char *key, char *out,
                                size_t bytes)
{
    const json_t *value = json_object_get(root, key);
    const char   *text  = json_string_value(value);

    if (text == NULL || *text == '\0' || strlen(text) >= bytes) {
        char expected[48];

        (void)snprintf(expected, sizeof(expected), "a text of 1 to %zu bytes", bytes - 1);
        return refuse(path, NULL, key, expected, value);
    }
    memcpy(out, text, strlen(text) + 1);
    return WITAN_OK;
}

static witan_status_t read_words(wtn_scale_machine_t *machine, const char *path, const json_t *root)
{
    char           schema[32], overlap[16];
    const json_t  *two_level = json_object_get(root, "two_level");
    witan_status_t status;

    WTN_TRY(read_text(path, root, "schema", schema, sizeof(schema)));
    if (strcmp(schema, WTN_MACHINE_SCHEMA) != 0) {
        return refuse(path, NULL, "schema", "'" WTN_MACHINE_SCHEMA "'",
                      json_object_get(root, "schema"));
    }
    WTN_TRY(read_text(path, root, "name", machine->name, sizeof(machine->name)));
    WTN_TRY(read_text(path, root, "backend", machine->backend, sizeof(machine->backend)));
    if (strcmp(machine->backend, "host") != 0 && strcmp(machine->backend, "cuda") != 0) {
        return refuse(path, NULL, "backend", "'host' or 'cuda'", json_object_get(root, "backend"));
    }
    WTN_TRY(read_text(path, root, "overlap", overlap, sizeof(overlap)));
    if (strcmp(overlap, "none") != 0 && strcmp(overlap, "poll") != 0) {
        return refuse(path, NULL, "overlap", "'none' or 'poll'", json_object_get(root, "overlap"));
    }
    machine->overlap =
        strcmp(overlap, "poll") == 0 ? WTN_SCALE_OVERLAP_POLL : WTN_SCALE_OVERLAP_NONE;
    if (!json_is_boolean(two_level)) {
        return refuse(path, NULL, "two_level", "true or false", two_level);
    }
    machine->two_level = json_is_true(two_level);

fail:
    return status;
}

/* Two lists of one length: rows ascending, shares of the roofline from above 0 to 2 (caches may
 * serve what the roofline takes from memory). */
static witan_status_t read_curve(wtn_scale_curve_t *curve, const char *path, const json_t *root)
{
    const json_t *rows  = json_object_get(root, "expert_rows");
    const json_t *share = json_object_get(root, "expert_efficiency");
    size_t        count = json_array_size(rows); /* 0 of what is no list */

    if (!json_is_array(rows)) {
        return refuse(path, NULL, "expert_rows", "a list of numbers", rows);
    }
    if (!json_is_array(share)) {
        return refuse(path, NULL, "expert_efficiency", "a list of numbers", share);
    }
    if (count < 1 || count > WTN_SCALE_CURVE_MAX) {
        return WTN_ERROR(WITAN_E_CONFIG, "%s: expert_rows: expected 1 to %d numbers, found %zu",
                         path, WTN_SCALE_CURVE_MAX, count);
    }
    if (json_array_size(share) != count) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "%s: expert_efficiency: expected %zu numbers, as many as expert_rows has, "
                         "found %zu",
                         path, count, json_array_size(share));
    }
    curve->count = (int32_t)json_array_size(rows);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i), *part = json_array_get(share, i);

        curve->at[i]    = json_is_number(row) ? json_number_value(row) : NAN;
        curve->value[i] = json_is_number(part) ? json_number_value(part) : NAN;
        if (!isfinite(curve->at[i]) || !(curve->at[i] > (i == 0 ? 0 : curve->at[i - 1]))) {
            return refuse(path, NULL, "expert_rows", "ascending numbers above 0", row);
        }
        if (!(curve->value[i] > 0 && curve->value[i] <= 2)) {
            return refuse(path, NULL, "expert_efficiency", "numbers above 0, at most 2", part);
        }
    }
    return WITAN_OK;
}

witan_status_t wtn_machine_parse(wtn_scale_machine_t *machine, const char *path, const char *text,
                                 size_t bytes)
{
    static const char *const sections[] = {"inside", "between"};
    json_t                  *root       = NULL;
    witan_status_t           status;

    *machine = (wtn_scale_machine_t){0};
    WTN_TRY(wtn_json_parse(&root, path, text, bytes));
    WTN_TRY(check_keys(path, NULL, root));
    WTN_TRY(read_words(machine, path, root));
    for (size_t i = 0; i < WTN_COUNT_OF(sections); i++) {
        json_t *section = json_object_get(root, sections[i]);

        if (!json_is_object(section)) {
            status = refuse(path, NULL, sections[i], "an object", section);
            goto fail;
        }
        WTN_TRY(check_keys(path, sections[i], section));
    }
    for (size_t i = 0; i < WTN_COUNT_OF(fields); i++) {
        const json_t *object =
            fields[i].section == NULL ? root : json_object_get(root, fields[i].section);

        WTN_TRY(read_field(machine, path, &fields[i], object));
    }
    WTN_TRY(read_curve(&machine->experts, path, root));
    if (machine->nics_per_node > machine->ranks_per_node) {
        char expected[64];

        (void)snprintf(expected, sizeof(expected), "at most ranks_per_node, %" PRId64,
                       machine->ranks_per_node);
        status =
            refuse(path, NULL, "nics_per_node", expected, json_object_get(root, "nics_per_node"));
    }

fail:
    json_decref(root);
    return status;
}

/* ---- where the files are ---- */

/* The folders of shipped machines, beside the program: where it is installed, where it is built. */
static const char *const folders[] = {"/../share/witan/machines/", "/../share/machines/"};

static bool program_folder(char *out, size_t bytes)
{
    ssize_t used = readlink("/proc/self/exe", out, bytes - 1);
    char   *slash;

    if (used <= 0 || (size_t)used >= bytes - 1) {
        return false;
    }
    out[used] = '\0';
    slash     = strrchr(out, '/');
    if (slash == NULL) {
        return false;
    }
    *slash = '\0';
    return true;
}

static bool find_shipped(const char *name, char *path, size_t bytes)
{
    char program[WTN_MACHINE_PATH_BYTES];

    if (strchr(name, '/') != NULL || !program_folder(program, sizeof(program))) {
        return false;
    }
    for (size_t i = 0; i < WTN_COUNT_OF(folders); i++) {
        int used = snprintf(path, bytes, "%s%s%s.json", program, folders[i], name);

        if (used > 0 && (size_t)used < bytes && access(path, F_OK) == 0) {
            return true;
        }
    }
    return false;
}

witan_status_t wtn_machine_load(wtn_scale_machine_t *machine, const char *path_or_name)
{
    char           found[WTN_MACHINE_PATH_BYTES];
    const char    *path  = path_or_name;
    char          *text  = NULL;
    size_t         bytes = 0;
    witan_status_t status;

    if (access(path, F_OK) != 0 && find_shipped(path_or_name, found, sizeof(found))) {
        path = found;
    }
    if (access(path, F_OK) != 0) {
        return WTN_ERROR(WITAN_E_IO,
                         "%s: expected a machine file or the name of a shipped machine (h100-ib, "
                         "h200-ib, gb200-nvl72), found neither",
                         path_or_name);
    }
    WTN_TRY(wtn_file_load(path, WTN_MACHINE_BYTES_MAX, &text, &bytes));
    status = wtn_machine_parse(machine, path, text, bytes);

fail:
    free(text);
    return status;
}

/* ---- writing ---- */

static void put_curve(json_t *root, const wtn_scale_curve_t *curve)
{
    json_t *rows = json_array(), *share = json_array();

    for (int32_t i = 0; i < curve->count; i++) {
        (void)json_array_append_new(rows, json_real(curve->at[i]));
        (void)json_array_append_new(share, json_real(curve->value[i]));
    }
    (void)json_object_set_new(root, "expert_rows", rows);
    (void)json_object_set_new(root, "expert_efficiency", share);
}

json_t *wtn_machine_json(const wtn_scale_machine_t *machine, const char *comment)
{
    bool    polls = machine->overlap == WTN_SCALE_OVERLAP_POLL;
    json_t *root = json_pack("{s:s, s:s, s:s, s:s, s:s, s:b}", "schema", WTN_MACHINE_SCHEMA, "name",
                             machine->name, "comment", comment, "backend", machine->backend,
                             "overlap", polls ? "poll" : "none", "two_level", machine->two_level);

    if (root == NULL) {
        return NULL;
    }
    put_curve(root, &machine->experts);
    for (size_t i = 0; i < WTN_COUNT_OF(fields); i++) {
        const field_t *field  = &fields[i];
        const char    *from   = (const char *)machine + field->offset;
        json_t        *object = root;
        int64_t        count;
        double         number;

        if (field->section != NULL) {
            object = json_object_get(root, field->section);
            if (object == NULL) {
                object = json_object();
                (void)json_object_set_new(root, field->section, object);
            }
        }
        memcpy(&count, from, sizeof(count));
        memcpy(&number, from, sizeof(number));
        (void)json_object_set_new(object, field->key,
                                  field->kind == COUNT ? json_integer(count) : json_real(number));
    }
    return root;
}

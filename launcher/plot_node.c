/* JSON values with the place where they stand, so that a fault names file and key. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "experts/file.h"
#include "launcher/plot.h"

#define FILE_BYTES_MAX ((uint64_t)256 << 20)

witan_status_t wtn_node_load(const char *path, json_t **root)
{
    json_error_t   error;
    char          *data;
    size_t         bytes;
    witan_status_t status = wtn_file_load(path, FILE_BYTES_MAX, &data, &bytes);

    *root = NULL;
    if (status != WITAN_OK) {
        return status;
    }
    *root = json_loadb(data, bytes, JSON_REJECT_DUPLICATES, &error);
    free(data);
    if (*root == NULL) {
        return WTN_ERROR(WITAN_E_FORMAT, "%s: line %d, column %d: %s", path, error.line,
                         error.column, error.text);
    }
    return WITAN_OK;
}

wtn_node_t wtn_node_root(const wtn_plot_input_t *input)
{
    return (wtn_node_t){.file = input->path, .json = input->root};
}

/* What was found, short. */
static void describe(const json_t *json, char *text, size_t bytes)
{
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        (void)snprintf(text, bytes, "an object");
        return;
    case JSON_ARRAY:
        (void)snprintf(text, bytes, "an array of %zu", json_array_size(json));
        return;
    case JSON_STRING:
        (void)snprintf(text, bytes, "'%.40s%s'", json_string_value(json),
                       json_string_length(json) > 40 ? "..." : "");
        return;
    case JSON_INTEGER:
        (void)snprintf(text, bytes, "%" JSON_INTEGER_FORMAT, json_integer_value(json));
        return;
    case JSON_REAL:
        (void)snprintf(text, bytes, "%.6g", json_real_value(json));
        return;
    case JSON_TRUE:
    case JSON_FALSE:
    case JSON_NULL:
        (void)snprintf(text, bytes, "%s",
                       json_is_null(json)   ? "null"
                       : json_is_true(json) ? "true"
                                            : "false");
        return;
    }
}

witan_status_t wtn_node_refuse(const wtn_node_t *node, const char *expected, ...)
{
    char    wanted[256], found[64] = "nothing";
    va_list args;

    va_start(args, expected);
    (void)vsnprintf(wanted, sizeof(wanted), expected, args);
    va_end(args);
    if (node->json != NULL) {
        describe(node->json, found, sizeof(found));
    }
    return WTN_ERROR(WITAN_E_FORMAT, "%s: %s: expected %s, found %s", node->file,
                     node->key[0] != '\0' ? node->key : "the whole", wanted, found);
}

static wtn_node_t child(const wtn_node_t *node, const char *name)
{
    wtn_node_t member = {.file = node->file, .json = json_object_get(node->json, name)};

    (void)snprintf(member.key, sizeof(member.key), "%.96s%s%.24s", node->key,
                   node->key[0] != '\0' ? "." : "", name);
    return member;
}

witan_status_t wtn_node_member(const wtn_node_t *node, const char *name, wtn_node_t *member)
{
    *member = child(node, name); /* nothing, of what is no object */
    if (!json_is_object(node->json)) {
        return wtn_node_refuse(node, "an object");
    }
    return member->json != NULL ? WITAN_OK : wtn_node_refuse(member, "a value");
}

bool wtn_node_find(const wtn_node_t *node, const char *name, wtn_node_t *member)
{
    *member = child(node, name);
    return member->json != NULL && !json_is_null(member->json);
}

witan_status_t wtn_node_array(const wtn_node_t *node, size_t count_min, size_t count_max,
                              size_t *count)
{
    *count = json_array_size(node->json);
    if (!json_is_array(node->json) || *count < count_min || *count > count_max) {
        return count_min == count_max
                   ? wtn_node_refuse(node, "an array of %zu", count_min)
                   : wtn_node_refuse(node, "an array of %zu to %zu", count_min, count_max);
    }
    return WITAN_OK;
}

wtn_node_t wtn_node_item(const wtn_node_t *array, size_t index)
{
    wtn_node_t item = {.file = array->file, .json = json_array_get(array->json, index)};

    (void)snprintf(item.key, sizeof(item.key), "%.96s[%zu]", array->key, index);
    return item;
}

witan_status_t wtn_node_number(const wtn_node_t *node, double min, double max, double *value)
{
    *value = json_number_value(node->json);
    if (!json_is_number(node->json) || !(*value >= min && *value <= max)) {
        return wtn_node_refuse(node, "a number from %g to %g", min, max);
    }
    return WITAN_OK;
}

witan_status_t wtn_node_integer(const wtn_node_t *node, int64_t min, int64_t max, int64_t *value)
{
    *value = json_integer_value(node->json);
    if (!json_is_integer(node->json) || *value < min || *value > max) {
        return wtn_node_refuse(node, "an integer from %" PRId64 " to %" PRId64, min, max);
    }
    return WITAN_OK;
}

witan_status_t wtn_node_text(const wtn_node_t *node, const char **value)
{
    *value = json_string_value(node->json);
    return *value != NULL ? WITAN_OK : wtn_node_refuse(node, "a string");
}

witan_status_t wtn_node_bool(const wtn_node_t *node, bool *value)
{
    *value = json_is_true(node->json);
    return json_is_boolean(node->json) ? WITAN_OK : wtn_node_refuse(node, "true or false");
}

witan_status_t wtn_node_member_number(const wtn_node_t *node, const char *name, double min,
                                      double max, double *value)
{
    wtn_node_t     member;
    witan_status_t status = wtn_node_member(node, name, &member);

    return status == WITAN_OK ? wtn_node_number(&member, min, max, value) : status;
}

witan_status_t wtn_node_member_integer(const wtn_node_t *node, const char *name, int64_t min,
                                       int64_t max, int64_t *value)
{
    wtn_node_t     member;
    witan_status_t status = wtn_node_member(node, name, &member);

    return status == WITAN_OK ? wtn_node_integer(&member, min, max, value) : status;
}

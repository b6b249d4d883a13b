#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "experts/json.h"

/* jansson recurses; its own bound is thousands deep. */
static witan_status_t check_depth(const char *path, const char *text, size_t bytes)
{
    size_t depth = 0;
    bool   quote = false;

    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];

        if (quote) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                quote = false;
            }
        } else if (c == '"') {
            quote = true;
        } else if (c == '{' || c == '[') {
            depth++;
            if (depth > WTN_JSON_DEPTH_MAX) {
                return WTN_ERROR(WITAN_E_FORMAT,
                                 "%s: byte %zu: expected nesting of at most %d, found more", path,
                                 i, WTN_JSON_DEPTH_MAX);
            }
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return WITAN_OK;
}

/* The key of the pair that ends before `position`, for numbers jansson refuses without naming it.
 */
static int find_key(const char *text, size_t position, const char **key)
{
    size_t end, begin;

    while (position > 0 && text[position - 1] != ':') {
        position--;
    }
    for (end = position; end > 0 && text[end - 1] != '"'; end--) {
    }
    for (begin = end; begin > 1 && text[begin - 2] != '"'; begin--) {
    }
    if (begin < 2 || end < 2) {
        *key = "";
        return 0;
    }
    *key = text + begin - 1;
    return end - begin < 100 ? (int)(end - begin) : 100;
}

witan_status_t wtn_json_parse(json_t **out, const char *path, const char *text, size_t bytes)
{
    json_error_t   error;
    witan_status_t status;
    const char    *key;
    int            key_bytes;

    *out   = NULL;
    status = check_depth(path, text, bytes);
    if (status != WITAN_OK) {
        return status;
    }
    *out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (*out == NULL && json_error_code(&error) == json_error_numeric_overflow) {
        key_bytes = find_key(text, (size_t)error.position, &key);
        return WTN_ERROR(WITAN_E_FORMAT, "%s: %.*s: expected a number below 2^63, found more", path,
                         key_bytes, key);
    }
    if (*out == NULL) {
        return WTN_ERROR(WITAN_E_FORMAT, "%s: line %d: expected JSON, found: %s", path, error.line,
                         error.text);
    }
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return WTN_ERROR(WITAN_E_FORMAT, "%s: expected a JSON object, found a list", path);
    }
    return WITAN_OK;
}

void wtn_json_show(const json_t *value, char *text, size_t bytes)
{
    switch (value == NULL ? JSON_NULL : json_typeof(value)) {
    case JSON_INTEGER:
        (void)snprintf(text, bytes, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        (void)snprintf(text, bytes, "%.17g", json_real_value(value));
        if (strpbrk(text, ".e") == NULL && strlen(text) + 3 <= bytes) {
            memcpy(text + strlen(text), ".0", 3); /* 64.0 is no whole number to a strict reader */
        }
        break;
    case JSON_STRING:
        (void)snprintf(text, bytes, "'%.60s'", json_string_value(value));
        break;
    case JSON_TRUE:
        (void)snprintf(text, bytes, "true");
        break;
    case JSON_FALSE:
        (void)snprintf(text, bytes, "false");
        break;
    case JSON_ARRAY:
        (void)snprintf(text, bytes, "a list");
        break;
    case JSON_OBJECT:
        (void)snprintf(text, bytes, "an object");
        break;
    case JSON_NULL:
    default:
        (void)snprintf(text, bytes, value == NULL ? "none" : "null");
        break;
    }
}

/* JSON documents of model folders: strict (RFC 8259, no key twice), bounded in size and depth. */
#ifndef WTN_JSON_H
#define WTN_JSON_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include <witan/status.h>

#define WTN_JSON_DEPTH_MAX 64

/* Parse an object. WITAN_E_FORMAT "<path>: line L: ..." ; `path` is for messages. */
witan_status_t wtn_json_parse(json_t **out, const char *path, const char *text, size_t bytes);

/* "3", "'text'", "a list" and so on: a value as messages show it. */
void wtn_json_show(const json_t *value, char *text, size_t bytes);

#endif

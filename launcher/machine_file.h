/* Machine files: what `witan plan scale` knows of a machine, as JSON. docs/planner.md lists the
 * keys. */
#ifndef WTN_MACHINE_FILE_H
#define WTN_MACHINE_FILE_H

#include <stddef.h>

#include <jansson.h>

#include "topology/scale_model.h"

#define WTN_MACHINE_SCHEMA     "witan.machine/1"
#define WTN_MACHINE_BYTES_MAX  (1u << 20)
#define WTN_MACHINE_PATH_BYTES 4096

/* From text; `path` is for messages. Every key must be there, and no other but "comment", a text.
 * WITAN_E_FORMAT: no JSON. WITAN_E_CONFIG: one line naming file and key, what was expected and what
 * was found. */
witan_status_t wtn_machine_parse(wtn_scale_machine_t *machine, const char *path, const char *text,
                                 size_t bytes);

/* A path, or a name: NAME.json of the machines that came with this program. Also WITAN_E_IO. */
witan_status_t wtn_machine_load(wtn_scale_machine_t *machine, const char *path_or_name);

/* As the parser reads it, with a comment. NULL without memory. */
json_t *wtn_machine_json(const wtn_scale_machine_t *machine, const char *comment);

#endif

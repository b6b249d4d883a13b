/* The weight files of a model folder: one file, or an index and its shards, opened when needed. */
#ifndef WTN_FILES_H
#define WTN_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "experts/safetensors.h"

#define WTN_SINGLE_FILE     "model.safetensors"
#define WTN_INDEX_FILE      "model.safetensors.index.json"
#define WTN_INDEX_BYTES_MAX (32u << 20)

typedef struct wtn_files wtn_files_t;

/* Where a tensor is. */
typedef struct wtn_place {
    const wtn_st_file_t   *file;
    const wtn_st_tensor_t *tensor;
} wtn_place_t;

/* Open model.safetensors if there is one, else the index. The shards stay closed. */
witan_status_t wtn_files_open(wtn_files_t **out, const char *folder);
void           wtn_files_close(wtn_files_t *files);

/* The single file or the index, for messages. */
const char *wtn_files_path(const wtn_files_t *files);

/* Whether a tensor of this name is told; opens nothing. */
bool wtn_files_has(const wtn_files_t *files, const char *name);

/* Find a tensor, opening its shard. WITAN_E_FORMAT if it is missing. */
witan_status_t wtn_files_find(wtn_files_t *files, const char *name, wtn_place_t *place);

/* A tensor told whose name begins with `prefix` and is not among `names`, which are in ascending
 * order of strcmp; NULL if there is none. */
const char *wtn_files_find_other(const wtn_files_t *files, const char *prefix,
                                 const char *const *names, size_t count);

/* "<folder>/<name>" in memory of the caller; NULL if there is none. */
char *wtn_files_join(const char *folder, const char *name);

/* The weight_map of an index, all of it checked: names of tensors to names of files in the same
 * folder. What the fuzz target calls. WITAN_E_FORMAT. */
witan_status_t wtn_index_parse(json_t **weight_map, const char *path, const char *text,
                               size_t bytes);

#endif

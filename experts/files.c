#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/error.h"
#include "experts/file.h"
#include "experts/files.h"
#include "experts/json.h"

typedef struct shard {
    const char    *name; /* belongs to the weight_map */
    wtn_st_file_t *file; /* NULL: not needed so far */
} shard_t;

struct wtn_files {
    char          *folder, *path;
    wtn_st_file_t *single; /* NULL: there is an index */
    json_t        *weight_map;
    shard_t       *shards;
    size_t         shard_count, shard_capacity;
};

char *wtn_files_join(const char *folder, const char *name)
{
    size_t bytes = strlen(folder) + strlen(name) + 2;
    char  *path  = malloc(bytes);

    if (path != NULL) {
        (void)snprintf(path, bytes, "%s/%s", folder, name);
    }
    return path;
}

/* A file name that stays in the folder. */
static bool is_plain_name(const char *name)
{
    return *name != '\0' && strchr(name, '/') == NULL && strstr(name, "..") == NULL &&
           strcmp(name, ".") != 0;
}

witan_status_t wtn_index_parse(json_t **weight_map, const char *path, const char *text,
                               size_t bytes)
{
    json_t        *root = NULL, *map, *value;
    const char    *name;
    char           found[80];
    witan_status_t status;

    *weight_map = NULL;
    WTN_TRY(wtn_json_parse(&root, path, text, bytes));
    map = json_object_get(root, "weight_map");
    if (!json_is_object(map)) {
        wtn_json_show(map, found, sizeof(found));
        status =
            WTN_ERROR(WITAN_E_FORMAT, "%s: weight_map: expected an object, found %s", path, found);
        goto fail;
    }
    json_object_foreach(map, name, value)
    {
        if (!json_is_string(value) || !is_plain_name(json_string_value(value))) {
            wtn_json_show(value, found, sizeof(found));
            status = WTN_ERROR(WITAN_E_FORMAT,
                               "%s: weight_map: tensor '%.100s': expected the name of a file in "
                               "the same folder, found %s",
                               path, name, found);
            goto fail;
        }
    }
    *weight_map = json_incref(map);
    json_decref(root);
    return WITAN_OK;

fail:
    json_decref(root);
    return status;
}

static witan_status_t load_index(wtn_files_t *files)
{
    char          *text  = NULL;
    size_t         bytes = 0;
    witan_status_t status;

    WTN_TRY(wtn_file_load(files->path, WTN_INDEX_BYTES_MAX, &text, &bytes));
    WTN_TRY(wtn_index_parse(&files->weight_map, files->path, text, bytes));

fail:
    free(text);
    return status;
}

witan_status_t wtn_files_open(wtn_files_t **out, const char *folder)
{
    wtn_files_t   *files = calloc(1, sizeof(*files));
    struct stat    info;
    witan_status_t status;

    *out = NULL;
    if (files != NULL) {
        files->folder = strdup(folder);
        files->path   = wtn_files_join(folder, WTN_SINGLE_FILE);
    }
    if (files == NULL || files->folder == NULL || files->path == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "%s: names of files", folder);
        goto fail;
    }
    if (lstat(files->path, &info) == 0 || errno != ENOENT) {
        WTN_TRY(wtn_st_open(&files->single, files->path));
        *out = files;
        return WITAN_OK;
    }
    free(files->path);
    files->path = wtn_files_join(folder, WTN_INDEX_FILE);
    if (files->path == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "%s: names of files", folder);
        goto fail;
    }
    if (lstat(files->path, &info) != 0 && errno == ENOENT) {
        status = WTN_ERROR(WITAN_E_IO,
                           "%s: expected " WTN_SINGLE_FILE " or " WTN_INDEX_FILE ", found neither",
                           folder);
        goto fail;
    }
    WTN_TRY(load_index(files));
    *out = files;
    return WITAN_OK;

fail:
    wtn_files_close(files);
    return status;
}

void wtn_files_close(wtn_files_t *files)
{
    if (files == NULL) {
        return;
    }
    for (size_t i = 0; i < files->shard_count; i++) {
        wtn_st_close(files->shards[i].file);
    }
    wtn_st_close(files->single);
    json_decref(files->weight_map);
    free(files->shards);
    free(files->folder);
    free(files->path);
    free(files);
}

const char *wtn_files_path(const wtn_files_t *files)
{
    return files->path;
}

bool wtn_files_has(const wtn_files_t *files, const char *name)
{
    return files->single != NULL ? wtn_st_find(files->single, name) != NULL
                                 : json_object_get(files->weight_map, name) != NULL;
}

static witan_status_t open_shard(wtn_files_t *files, const char *name, const wtn_st_file_t **out)
{
    wtn_st_file_t *file;
    witan_status_t status;
    char          *path;

    /* A block lies in one or two shards: a walk through those open is short. */
    for (size_t i = 0; i < files->shard_count; i++) {
        if (strcmp(files->shards[i].name, name) == 0) {
            *out = files->shards[i].file;
            return WITAN_OK;
        }
    }
    if (files->shard_count == files->shard_capacity) {
        size_t   capacity = 2 * files->shard_capacity + 4;
        shard_t *grown    = realloc(files->shards, capacity * sizeof(*grown));

        if (grown == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "%s: a table of shards", files->path);
        }
        files->shards         = grown;
        files->shard_capacity = capacity;
    }
    path = wtn_files_join(files->folder, name);
    if (path == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: names of files", files->path);
    }
    status = wtn_st_open(&file, path);
    free(path);
    if (status != WITAN_OK) {
        return status;
    }
    files->shards[files->shard_count++] = (shard_t){name, file};
    *out                                = file;
    return WITAN_OK;
}

witan_status_t wtn_files_find(wtn_files_t *files, const char *name, wtn_place_t *place)
{
    witan_status_t status;

    *place = (wtn_place_t){files->single, NULL};
    if (files->single == NULL) {
        const json_t *shard = json_object_get(files->weight_map, name);

        if (shard == NULL) {
            return WTN_ERROR(WITAN_E_FORMAT, "%s: weight_map: tensor '%.100s': expected, not found",
                             files->path, name);
        }
        status = open_shard(files, json_string_value(shard), &place->file);
        if (status != WITAN_OK) {
            return status;
        }
    }
    place->tensor = wtn_st_find(place->file, name);
    if (place->tensor == NULL) {
        return WTN_ERROR(WITAN_E_FORMAT, "%s: tensor '%.100s': expected, not found",
                         wtn_st_path(place->file), name);
    }
    return WITAN_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

const char *wtn_files_find_other(const wtn_files_t *files, const char *prefix,
                                 const char *const *names, size_t count)
{
    const size_t prefix_bytes = strlen(prefix);
    void        *iterator     = files->single == NULL ? json_object_iter(files->weight_map) : NULL;

    for (size_t i = 0; files->single != NULL ? i < wtn_st_count(files->single) : iterator != NULL;
         i++) {
        const char *name = files->single != NULL ? wtn_st_at(files->single, i)->name
                                                 : json_object_iter_key(iterator);

        if (strncmp(name, prefix, prefix_bytes) == 0 &&
            bsearch(&name, names, count, sizeof(*names), compare_names) == NULL) {
            return name;
        }
        if (iterator != NULL) {
            iterator = json_object_iter_next(files->weight_map, iterator);
        }
    }
    return NULL;
}

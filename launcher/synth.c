/* The folder of a synthetic block: written beside its place and renamed when it is complete. */
#include "launcher/synth.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "core/error.h"
#include "core/util.h"

#define PATH_BYTES      4096
#define CHUNK_BYTES     ((size_t)8 << 20)
#define SHARD_BYTES_MAX ((uint64_t)4 << 30)

/* State of one wtn_synth_write. */
typedef struct synth {
    const wtn_synth_block_t   *block;
    const wtn_synth_options_t *options;
    wtn_synth_result_t        *result;
    char                       folder[PATH_BYTES]; /* the one being filled */
    wtn_synth_tensor_t        *tensors;
    uint64_t                   bytes_done;
    void                      *chunk;
} synth_t;

static witan_status_t join(char path[PATH_BYTES], const char *folder, const char *name)
{
    int length = snprintf(path, PATH_BYTES, "%s/%s", folder, name);

    if (length < 0 || length >= PATH_BYTES) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "%s: the path is too long", folder);
    }
    return WITAN_OK;
}

/* A folder may be there if it is empty: the rename at the end replaces it. */
static witan_status_t check_absent(const char *folder)
{
    DIR           *dir = opendir(folder);
    struct dirent *entry;
    bool           empty = true;

    if (dir == NULL) {
        return errno == ENOENT
                   ? WITAN_OK
                   : WTN_ERROR(WITAN_E_ARGUMENT, "%s: expected no such folder or an empty one: %s",
                               folder, strerror(errno));
    }
    while ((entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            empty = false;
        }
    }
    closedir(dir);
    return empty ? WITAN_OK
                 : WTN_ERROR(WITAN_E_ARGUMENT,
                             "%s: expected no such folder or an empty one, found files in it",
                             folder);
}

static witan_status_t make_folder(synth_t *synth)
{
    size_t length = strlen(synth->options->folder);
    int    made;

    while (length > 1 && synth->options->folder[length - 1] == '/') {
        length--;
    }
    made = snprintf(synth->folder, PATH_BYTES, "%.*s.partial.%ld", (int)length,
                    synth->options->folder, (long)getpid());
    if (length >= PATH_BYTES || made < 0 || made >= PATH_BYTES) {
        synth->folder[0] = '\0';
        return WTN_ERROR(WITAN_E_ARGUMENT, "--out: the path is too long");
    }
    if (mkdir(synth->folder, 0777) != 0) {
        int reason = errno;

        synth->folder[0] = '\0'; /* not ours to remove */
        return WTN_ERROR(WITAN_E_IO, "%s: cannot be made: %s", synth->options->folder,
                         strerror(reason));
    }
    return WITAN_OK;
}

/* Remove a flat folder. Keeps the error text; nothing more can be done about its own failures. */
static void remove_folder(const char *folder)
{
    DIR           *dir = opendir(folder);
    struct dirent *entry;

    if (dir != NULL) {
        while ((entry = readdir(dir)) != NULL) {
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
        }
        closedir(dir);
    }
    (void)rmdir(folder);
}

static witan_status_t append_tensor(synth_t *synth, wtn_st_writer_t *writer,
                                    const wtn_synth_tensor_t *tensor)
{
    size_t item  = wtn_st_dtype_bytes(tensor->st.dtype);
    size_t count = wtn_synth_tensor_bytes(tensor) / item;
    size_t step  = CHUNK_BYTES / item;

    for (size_t begin = 0; begin < count; begin += step) {
        size_t         part = count - begin < step ? count - begin : step;
        witan_status_t status;

        if (synth->options->interrupted != NULL && *synth->options->interrupted != 0) {
            return WTN_ERROR(WITAN_E_STATE, "interrupted; %s was not written",
                             synth->options->folder);
        }
        wtn_synth_fill(tensor, synth->block->seed, begin, part, synth->chunk);
        status = wtn_st_writer_append(writer, synth->chunk, part * item);
        if (status != WITAN_OK) {
            return status;
        }
        synth->bytes_done += part * item;
        if (synth->options->progress != NULL) {
            synth->options->progress(synth->bytes_done, synth->result->tensor_bytes);
        }
    }
    return WITAN_OK;
}

static witan_status_t write_file(synth_t *synth, const char *name,
                                 const wtn_synth_tensor_t *tensors, size_t count)
{
    wtn_st_tensor_t *headers = calloc(count, sizeof(*headers));
    wtn_st_writer_t *writer  = NULL;
    char             path[PATH_BYTES];
    witan_status_t   status;

    if (headers == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu tensors", name, count);
    }
    for (size_t i = 0; i < count; i++) {
        headers[i] = tensors[i].st;
    }
    WTN_TRY(join(path, synth->folder, name));
    WTN_TRY(wtn_st_writer_open(&writer, path, headers, count));
    for (size_t i = 0; i < count; i++) {
        WTN_TRY(append_tensor(synth, writer, &tensors[i]));
    }
    status = wtn_st_writer_commit(writer);
    writer = NULL;

fail:
    wtn_st_writer_abort(writer);
    free(headers);
    return status;
}

/* How many tensors from `first` on share a file. */
static size_t shard_length(const synth_t *synth, size_t first)
{
    uint64_t most  = synth->options->shard_bytes_max;
    uint64_t bytes = 0;
    size_t   last  = first;

    most = most == 0 ? SHARD_BYTES_MAX : most;
    while (last < synth->result->tensor_count) {
        bytes += wtn_synth_tensor_bytes(&synth->tensors[last]);
        if (bytes > most && last > first) {
            break;
        }
        last++;
    }
    return last - first;
}

static witan_status_t write_index(const synth_t *synth, json_t *weight_map)
{
    char           path[PATH_BYTES];
    json_t        *root = json_pack("{s:{s:I}, s:O}", "metadata", "total_size",
                                    (json_int_t)synth->result->tensor_bytes, "weight_map", weight_map);
    witan_status_t status;

    WTN_TRY(join(path, synth->folder, "model.safetensors.index.json"));
    if (root == NULL) {
        WTN_TRY(WTN_ERROR(WITAN_E_MEMORY, "%s: no memory", path));
    }
    if (json_dump_file(root, path, JSON_INDENT(2)) != 0) {
        WTN_TRY(WTN_ERROR(WITAN_E_IO, "%s: cannot be written: %s", path, strerror(errno)));
    }

fail:
    json_decref(root);
    return status;
}

static witan_status_t write_shards(synth_t *synth)
{
    const size_t   tensor_count = synth->result->tensor_count;
    json_t        *weight_map   = json_object();
    size_t         shard_count  = 0;
    char           name[64];
    witan_status_t status;

    for (size_t first = 0; first < tensor_count; first += shard_length(synth, first)) {
        shard_count++;
    }
    synth->result->file_count = shard_count;
    if (shard_count == 1) {
        json_decref(weight_map);
        return write_file(synth, "model.safetensors", synth->tensors, tensor_count);
    }
    for (size_t first = 0, shard = 1; first < tensor_count; shard++) {
        size_t count = shard_length(synth, first);

        (void)snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", shard, shard_count);
        WTN_TRY(write_file(synth, name, synth->tensors + first, count));
        for (size_t i = first; i < first + count; i++) {
            if (json_object_set_new(weight_map, synth->tensors[i].name, json_string(name)) != 0) {
                WTN_TRY(WTN_ERROR(WITAN_E_MEMORY, "%s: no memory for the index", name));
            }
        }
        first += count;
    }
    status = write_index(synth, weight_map);

fail:
    json_decref(weight_map);
    return status;
}

static witan_status_t write_input(synth_t *synth)
{
    const witan_layer_config_t *config = &synth->block->config;
    wtn_synth_tensor_t          input  = {
                  .name     = "hidden_states",
                  .st.dtype = config->dtype == WITAN_F32   ? WTN_ST_F32
                              : config->dtype == WITAN_F16 ? WTN_ST_F16
                                                           : WTN_ST_BF16,
                  .st.rank  = 2,
                  .st.shape = {synth->options->token_count, config->hidden_size},
                  .fill     = WTN_SYNTH_FILL_NORMAL,
                  .sigma    = 1.0,
    };

    input.st.name = input.name;
    return write_file(synth, "input.safetensors", &input, 1);
}

static witan_status_t place_folder(synth_t *synth)
{
    if (rename(synth->folder, synth->options->folder) != 0) {
        return WTN_ERROR(WITAN_E_IO, "%s: cannot be put in place: %s", synth->options->folder,
                         strerror(errno));
    }
    return WITAN_OK;
}

witan_status_t wtn_synth_write(const wtn_synth_block_t *block, const wtn_synth_options_t *options,
                               wtn_synth_result_t *result)
{
    synth_t       *synth = calloc(1, sizeof(*synth));
    witan_status_t status;

    memset(result, 0, sizeof(*result));
    if (synth == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "synth: %zu bytes", sizeof(*synth));
    }
    synth->block   = block;
    synth->options = options;
    synth->result  = result;
    synth->chunk   = wtn_alloc(CHUNK_BYTES);
    if (synth->chunk == NULL) {
        WTN_TRY(WTN_ERROR(WITAN_E_MEMORY, "synth: %zu bytes", CHUNK_BYTES));
    }
    WTN_TRY(check_absent(options->folder));
    WTN_TRY(wtn_synth_tensors(block, &synth->tensors, &result->tensor_count));
    for (size_t i = 0; i < result->tensor_count; i++) {
        result->tensor_bytes += wtn_synth_tensor_bytes(&synth->tensors[i]);
    }
    WTN_TRY(make_folder(synth));
    WTN_TRY(wtn_synth_write_config(block, synth->folder));
    WTN_TRY(write_shards(synth));
    WTN_TRY(write_input(synth));
    status = place_folder(synth);

fail:
    if (status != WITAN_OK && synth->folder[0] != '\0') {
        remove_folder(synth->folder);
    }
    free(synth->tensors);
    wtn_free(synth->chunk);
    free(synth);
    return status;
}

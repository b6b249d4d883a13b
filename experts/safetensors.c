#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/file.h"
#include "experts/safetensors.h"
#include "experts/safetensors_file.h"

#define LENGTH_BYTES     8
#define HEADER_BYTES_MAX 100000000u /* what the format's own library accepts */

static const struct {
    const char *name;
    size_t      bits;
} dtypes[WTN_ST_DTYPE_COUNT] = {
#define DTYPE_ROW(name, bits) {#name, bits},
    WTN_ST_DTYPE_LIST(DTYPE_ROW)
#undef DTYPE_ROW
};

const char *wtn_st_dtype_name(wtn_st_dtype_t dtype)
{
    return (unsigned)dtype < WTN_ST_DTYPE_COUNT ? dtypes[dtype].name : "?";
}

size_t wtn_st_dtype_bytes(wtn_st_dtype_t dtype)
{
    return (unsigned)dtype < WTN_ST_DTYPE_COUNT ? dtypes[dtype].bits / 8 : 0;
}

/* The header's JSON of an open file, checked for size against the file. */
static witan_status_t read_header(int fd, const char *path, uint64_t file_bytes, char **header,
                                  uint64_t *header_bytes)
{
    unsigned char  length[LENGTH_BYTES];
    witan_status_t status;
    uint64_t       bytes = 0;

    *header = NULL;
    if (file_bytes < LENGTH_BYTES) {
        return WTN_ERROR(WITAN_E_FORMAT,
                         "%s: expected at least 8 bytes of header length, found a file of %" PRIu64,
                         path, file_bytes);
    }
    WTN_TRY(wtn_file_read(fd, path, "header length", 0, length, sizeof(length)));
    for (int i = 0; i < LENGTH_BYTES; i++) {
        bytes |= (uint64_t)length[i] << (8 * i);
    }
    if (bytes > HEADER_BYTES_MAX) {
        return WTN_ERROR(WITAN_E_FORMAT,
                         "%s: header length: expected at most %u bytes, found %" PRIu64, path,
                         HEADER_BYTES_MAX, bytes);
    }
    if (bytes > file_bytes - LENGTH_BYTES) {
        return WTN_ERROR(WITAN_E_FORMAT,
                         "%s: header length: expected at most the %" PRIu64
                         " bytes that follow it, found %" PRIu64,
                         path, file_bytes - LENGTH_BYTES, bytes);
    }
    *header = malloc((size_t)bytes + 1);
    if (*header == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: header of %" PRIu64 " bytes", path, bytes);
    }
    WTN_TRY(wtn_file_read(fd, path, "header", LENGTH_BYTES, *header, (size_t)bytes));
    *header_bytes = bytes;
    return WITAN_OK;

fail:
    free(*header);
    *header = NULL;
    return status;
}

witan_status_t wtn_st_open(wtn_st_file_t **out, const char *path)
{
    witan_status_t status;
    uint64_t       file_bytes = 0, header_bytes = 0;
    char          *header = NULL;
    int            fd     = -1;

    *out = NULL;
    WTN_TRY(wtn_file_open(path, &fd, &file_bytes));
    WTN_TRY(read_header(fd, path, file_bytes, &header, &header_bytes));
    WTN_TRY(wtn_st_parse(out, path, header, (size_t)header_bytes,
                         file_bytes - LENGTH_BYTES - header_bytes));
    free(header);
    for (size_t i = 0; i < (*out)->count; i++) {
        (*out)->tensors[i].begin += LENGTH_BYTES + header_bytes;
        (*out)->tensors[i].end += LENGTH_BYTES + header_bytes;
    }
    (*out)->fd = fd;
    return WITAN_OK;

fail:
    free(header);
    if (fd >= 0) {
        (void)close(fd);
    }
    return status;
}

void wtn_st_close(wtn_st_file_t *file)
{
    if (file == NULL) {
        return;
    }
    if (file->fd >= 0) {
        (void)close(file->fd);
    }
    free(file->path);
    free(file->strings);
    free(file->tensors);
    free(file->by_name);
    free(file);
}

const wtn_st_tensor_t *wtn_st_find(const wtn_st_file_t *file, const char *name)
{
    size_t low = 0, high = file->count;

    while (low < high) {
        size_t                 middle = low + (high - low) / 2;
        const wtn_st_tensor_t *tensor = file->by_name[middle];
        int                    order  = strcmp(name, tensor->name);

        if (order == 0) {
            return tensor;
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}

size_t wtn_st_count(const wtn_st_file_t *file)
{
    return file->count;
}

const wtn_st_tensor_t *wtn_st_at(const wtn_st_file_t *file, size_t index)
{
    return &file->tensors[index];
}

const char *wtn_st_path(const wtn_st_file_t *file)
{
    return file->path;
}

witan_status_t wtn_st_read(const wtn_st_file_t *file, const wtn_st_tensor_t *tensor, uint64_t begin,
                           size_t bytes, void *out)
{
    uint64_t tensor_bytes = tensor->end - tensor->begin;
    char     what[160];

    if (begin > tensor_bytes || bytes > tensor_bytes - begin) {
        return WTN_ERROR(WITAN_E_INTERNAL,
                         "%s: tensor '%.100s': %zu bytes at %" PRIu64 " of %" PRIu64, file->path,
                         tensor->name, bytes, begin, tensor_bytes);
    }
    if (bytes == 0) {
        return WITAN_OK;
    }
    (void)snprintf(what, sizeof(what), "tensor '%.140s'", tensor->name);
    return wtn_file_read(file->fd, file->path, what, tensor->begin + begin, out, bytes);
}

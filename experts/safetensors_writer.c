/* The writer: bytes go to a file without a name, which gets its name when all of them are safe. */
#define _GNU_SOURCE /* O_TMPFILE */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/file.h"
#include "experts/safetensors.h"

#define DATA_ALIGNMENT 8 /* of the data's start, as the format's own library pads */

struct wtn_st_writer {
    int      fd;
    char    *path;      /* as the caller says it, for messages */
    char    *target;    /* the file it leads to */
    char    *folder;    /* of the target */
    char    *temporary; /* beside the target; a file of that name exists only if has_temporary */
    bool     has_temporary;
    bool     finished;
    uint64_t bytes_left;
};

/* ---- the header ---- */

typedef struct text {
    char  *data;
    size_t bytes, capacity;
} text_t;

static bool text_put(text_t *text, const char *data, size_t bytes)
{
    if (bytes > text->capacity - text->bytes) {
        size_t capacity = 2 * (text->capacity + bytes) + 256;
        char  *grown    = realloc(text->data, capacity);

        if (grown == NULL) {
            return false;
        }
        text->data     = grown;
        text->capacity = capacity;
    }
    memcpy(text->data + text->bytes, data, bytes);
    text->bytes += bytes;
    return true;
}

static bool text_format(text_t *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool text_format(text_t *text, const char *format, ...)
{
    char    buffer[128];
    va_list args;
    int     length;

    va_start(args, format);
    length = vsnprintf(buffer, sizeof(buffer), format, args);
    va_end(args);
    return length >= 0 && (size_t)length < sizeof(buffer) && text_put(text, buffer, (size_t)length);
}

static bool text_string(text_t *text, const char *string)
{
    bool done = text_put(text, "\"", 1);

    for (; done && *string != '\0'; string++) {
        unsigned char c = (unsigned char)*string;

        if (c == '"' || c == '\\') {
            done = text_format(text, "\\%c", c);
        } else if (c < 0x20) {
            done = text_format(text, "\\u%04x", c);
        } else {
            done = text_put(text, string, 1);
        }
    }
    return done && text_put(text, "\"", 1);
}

static bool text_tensor(text_t *text, const wtn_st_tensor_t *tensor, uint64_t begin, uint64_t end)
{
    bool done =
        text_string(text, tensor->name) &&
        text_format(text, ":{\"dtype\":\"%s\",\"shape\":[", wtn_st_dtype_name(tensor->dtype));

    for (int32_t i = 0; i < tensor->rank; i++) {
        done = done && text_format(text, i == 0 ? "%" PRId64 : ",%" PRId64, tensor->shape[i]);
    }
    return done && text_format(text, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, end);
}

static witan_status_t tensor_bytes(const char *path, const wtn_st_tensor_t *tensor, size_t *bytes)
{
    bool valid = tensor->rank >= 0 && tensor->rank <= WTN_ST_RANK_MAX;

    *bytes = wtn_st_dtype_bytes(tensor->dtype);
    for (int32_t i = 0; valid && i < tensor->rank; i++) {
        valid = tensor->shape[i] >= 0 && wtn_mul(*bytes, (size_t)tensor->shape[i], bytes);
    }
    if (!valid || *bytes > INT64_MAX) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "%s: tensor '%.100s': expected a shape of 0 to 8 sizes and fewer than "
                         "2^63 bytes",
                         path, tensor->name);
    }
    return WITAN_OK;
}

/* Length and JSON as they stand in the file; *data_bytes is what must follow. */
static witan_status_t make_header(const char *path, const wtn_st_tensor_t *tensors, size_t count,
                                  text_t *text, uint64_t *data_bytes)
{
    witan_status_t status;
    size_t         bytes = 0, total = 0;
    bool           done = text_put(text, "\0\0\0\0\0\0\0\0{", 9);

    for (size_t i = 0; i < count; i++) {
        WTN_TRY(tensor_bytes(path, &tensors[i], &bytes));
        if (total + bytes > INT64_MAX) {
            return WTN_ERROR(WITAN_E_ARGUMENT, "%s: expected fewer than 2^63 bytes of tensors",
                             path);
        }
        done = done && (i == 0 || text_put(text, ",", 1)) &&
               text_tensor(text, &tensors[i], total, total + bytes);
        total += bytes;
    }
    done = done && text_put(text, "}", 1);
    while (done && text->bytes % DATA_ALIGNMENT != 0) {
        done = text_put(text, " ", 1);
    }
    if (!done) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: header of %zu bytes", path, text->bytes);
    }
    for (int i = 0; i < 8; i++) {
        text->data[i] = (char)((uint64_t)(text->bytes - 8) >> (8 * i) & 0xff);
    }
    *data_bytes = total;
    return WITAN_OK;

fail:
    return status;
}

/* The header we wrote must be one we would read: names that are no UTF-8, or twice. */
static witan_status_t check_header(const char *path, const text_t *text, uint64_t data_bytes)
{
    wtn_st_file_t *file;
    witan_status_t status = wtn_st_parse(&file, path, text->data + 8, text->bytes - 8, data_bytes);

    if (status == WITAN_OK) {
        wtn_st_close(file);
    }
    return status == WITAN_E_FORMAT ? WITAN_E_ARGUMENT : status;
}

/* ---- the file ---- */

static witan_status_t write_error(const wtn_st_writer_t *writer, const char *verb)
{
    return WTN_ERROR(WITAN_E_IO, "%s: cannot be %s: %s", writer->path, verb, strerror(errno));
}

static witan_status_t write_all(const wtn_st_writer_t *writer, const void *data, size_t bytes)
{
    const char *at = data;

    while (bytes > 0) {
        ssize_t done = write(writer->fd, at, bytes < (1u << 30) ? bytes : 1u << 30);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return write_error(writer, "written");
        }
        at += done;
        bytes -= (size_t)done;
    }
    return WITAN_OK;
}

static witan_status_t make_names(wtn_st_writer_t *writer, const char *path)
{
    static atomic_uint serial;
    witan_status_t     status = wtn_file_target(path, &writer->target);
    size_t             bytes, folder_bytes;

    if (status != WITAN_OK) {
        return status;
    }
    bytes             = strlen(writer->target) + 64;
    folder_bytes      = (size_t)(strrchr(writer->target, '/') - writer->target);
    writer->path      = strdup(path);
    writer->folder    = strndup(writer->target, folder_bytes == 0 ? 1 : folder_bytes);
    writer->temporary = malloc(bytes);
    if (writer->path == NULL || writer->folder == NULL || writer->temporary == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: names", path);
    }
    (void)snprintf(writer->temporary, bytes, "%s/.witan-%ld-%u.tmp", writer->folder, (long)getpid(),
                   atomic_fetch_add(&serial, 1));
    return WITAN_OK;
}

/* What stood at the target when it was found may have been replaced since. */
static witan_status_t check_target(const wtn_st_writer_t *writer)
{
    char          *target;
    witan_status_t status = wtn_file_target(writer->target, &target);

    free(target);
    return status;
}

static witan_status_t open_file(wtn_st_writer_t *writer)
{
    if (access("/proc/self/fd", X_OK) == 0) {
        writer->fd = open(writer->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
        if (writer->fd >= 0) {
            return WITAN_OK;
        }
        if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) {
            return write_error(writer, "created");
        }
    }
    writer->fd = open(writer->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (writer->fd < 0) {
        return write_error(writer, "created");
    }
    writer->has_temporary = true;
    return WITAN_OK;
}

witan_status_t wtn_st_writer_open(wtn_st_writer_t **out, const char *path,
                                  const wtn_st_tensor_t *tensors, size_t count)
{
    wtn_st_writer_t *writer = calloc(1, sizeof(*writer));
    text_t           header = {0};
    witan_status_t   status;

    *out = NULL;
    if (writer == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: a writer", path);
    }
    writer->fd = -1;
    WTN_TRY(make_names(writer, path));
    WTN_TRY(make_header(path, tensors, count, &header, &writer->bytes_left));
    WTN_TRY(check_header(path, &header, writer->bytes_left));
    WTN_TRY(open_file(writer));
    WTN_TRY(write_all(writer, header.data, header.bytes));
    free(header.data);
    *out = writer;
    return WITAN_OK;

fail:
    free(header.data);
    wtn_st_writer_abort(writer);
    return status;
}

witan_status_t wtn_st_writer_append(wtn_st_writer_t *writer, const void *data, size_t bytes)
{
    if (bytes > writer->bytes_left) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "%s: expected at most %" PRIu64 " more bytes, found %zu",
                         writer->path, writer->bytes_left, bytes);
    }
    writer->bytes_left -= bytes;
    return write_all(writer, data, bytes);
}

/* Give the nameless file the temporary name, so that a rename can replace `path` in one step. */
static witan_status_t name_file(wtn_st_writer_t *writer)
{
    char source[64];

    if (writer->has_temporary) {
        return WITAN_OK;
    }
    (void)snprintf(source, sizeof(source), "/proc/self/fd/%d", writer->fd);
    if (linkat(AT_FDCWD, source, AT_FDCWD, writer->temporary, AT_SYMLINK_FOLLOW) != 0) {
        return write_error(writer, "named");
    }
    writer->has_temporary = true;
    return WITAN_OK;
}

static witan_status_t sync_folder(const wtn_st_writer_t *writer)
{
    int fd = open(writer->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    /* Some file systems can not sync a folder and say EINVAL: then there is nothing more to do. */
    if (fd >= 0 && fsync(fd) != 0 && errno != EINVAL) {
        witan_status_t status = write_error(writer, "made safe in its folder");

        (void)close(fd);
        return status;
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    return WITAN_OK;
}

witan_status_t wtn_st_writer_finish(wtn_st_writer_t *writer)
{
    if (writer->bytes_left != 0) {
        return WTN_ERROR(WITAN_E_STATE, "%s: expected %" PRIu64 " more bytes of tensors",
                         writer->path, writer->bytes_left);
    }
    if (!writer->finished && fsync(writer->fd) != 0) {
        return write_error(writer, "written");
    }
    writer->finished = true;
    return WITAN_OK;
}

witan_status_t wtn_st_writer_commit(wtn_st_writer_t *writer)
{
    witan_status_t status;

    WTN_TRY(wtn_st_writer_finish(writer));
    WTN_TRY(name_file(writer));
    WTN_TRY(check_target(writer));
    if (rename(writer->temporary, writer->target) != 0) {
        status = write_error(writer, "named");
        goto fail;
    }
    writer->has_temporary = false;
    status                = sync_folder(writer);

fail:
    wtn_st_writer_abort(writer);
    return status;
}

void wtn_st_writer_abort(wtn_st_writer_t *writer)
{
    if (writer == NULL) {
        return;
    }
    if (writer->has_temporary) {
        (void)unlink(writer->temporary);
    }
    if (writer->fd >= 0) {
        (void)close(writer->fd);
    }
    free(writer->path);
    free(writer->target);
    free(writer->folder);
    free(writer->temporary);
    free(writer);
}

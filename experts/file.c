#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "experts/file.h"

/* Linux transfers at most this much per call. */
#define READ_BYTES_MAX ((size_t)0x7ffff000)

#define LINKS_MAX 40 /* as Linux follows */

const char *wtn_file_type(unsigned mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "a regular file";
    case S_IFDIR:
        return "a folder";
    case S_IFIFO:
        return "a named pipe";
    case S_IFSOCK:
        return "a socket";
    case S_IFCHR:
    case S_IFBLK:
        return "a device";
    default:
        return "a special file";
    }
}

witan_status_t wtn_file_open(const char *path, int *fd, uint64_t *bytes)
{
    struct stat info;

    /* O_NONBLOCK: opening a named pipe would wait for a writer. It means nothing to regular files.
     */
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) {
        int code = errno;

        if (code == ENOENT && lstat(path, &info) == 0) {
            return WTN_ERROR(WITAN_E_IO, "%s: cannot be opened: a link to nothing", path);
        }
        return WTN_ERROR(WITAN_E_IO, "%s: cannot be opened: %s", path, strerror(code));
    }
    if (fstat(*fd, &info) != 0) {
        witan_status_t status =
            WTN_ERROR(WITAN_E_IO, "%s: cannot be examined: %s", path, strerror(errno));

        (void)close(*fd);
        *fd = -1;
        return status;
    }
    if (!S_ISREG(info.st_mode)) {
        (void)close(*fd);
        *fd = -1;
        return WTN_ERROR(WITAN_E_IO, "%s: expected a regular file, found %s", path,
                         wtn_file_type(info.st_mode));
    }
    *bytes = (uint64_t)info.st_size;
    return WITAN_OK;
}

witan_status_t wtn_file_read(int fd, const char *path, const char *what, uint64_t offset, void *out,
                             size_t bytes)
{
    size_t done = 0;

    while (done < bytes) {
        size_t  left = bytes - done;
        ssize_t got  = pread(fd, (char *)out + done, left < READ_BYTES_MAX ? left : READ_BYTES_MAX,
                             (off_t)(offset + done));

        if (got < 0) {
            if (errno == EINTR) {
                continue;
            }
            return WTN_ERROR(WITAN_E_IO, "%s: %s: cannot be read: %s", path, what, strerror(errno));
        }
        if (got == 0) {
            return WTN_ERROR(WITAN_E_IO,
                             "%s: %s: expected %zu bytes at %" PRIu64 ", found the end of the file "
                             "after %zu: it changed while open",
                             path, what, bytes, offset, done);
        }
        done += (size_t)got;
    }
    return WITAN_OK;
}

witan_status_t wtn_file_load(const char *path, uint64_t bytes_max, char **data, size_t *bytes)
{
    witan_status_t status;
    uint64_t       file_bytes = 0;
    char          *text       = NULL;
    int            fd         = -1;

    *data = NULL;
    WTN_TRY(wtn_file_open(path, &fd, &file_bytes));
    if (file_bytes > bytes_max) {
        status = WTN_ERROR(WITAN_E_FORMAT, "%s: expected at most %" PRIu64 " bytes, found %" PRIu64,
                           path, bytes_max, file_bytes);
        goto fail;
    }
    text = malloc((size_t)file_bytes + 1);
    if (text == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "%s: %" PRIu64 " bytes", path, file_bytes);
        goto fail;
    }
    WTN_TRY(wtn_file_read(fd, path, "content", 0, text, (size_t)file_bytes));
    text[file_bytes] = '\0';
    (void)close(fd);
    *data  = text;
    *bytes = (size_t)file_bytes;
    return WITAN_OK;

fail:
    free(text);
    if (fd >= 0) {
        (void)close(fd);
    }
    return status;
}

static witan_status_t target_error(const char *path, const char *verb, int code)
{
    return WTN_ERROR(WITAN_E_IO, "%s: cannot be %s: %s", path, verb, strerror(code));
}

/* `name` as seen from the folder of `path`; false if it is too long. */
static bool beside(const char *path, const char *name, char joined[PATH_MAX])
{
    const char *slash  = strrchr(path, '/');
    int         folder = slash == NULL || *name == '/' ? 0 : (int)(slash - path) + 1;
    int         length = snprintf(joined, PATH_MAX, "%.*s%s", folder, path, name);

    return length >= 0 && length < PATH_MAX;
}

/* The end of a chain of links, whether or not there is a file. 0, or the errno. */
static int follow_links(const char *path, char end[PATH_MAX])
{
    char name[PATH_MAX], next[PATH_MAX];

    if (!beside("", path, end)) {
        return ENAMETOOLONG;
    }
    for (int i = 0; i < LINKS_MAX; i++) {
        ssize_t bytes = readlink(end, name, sizeof(name) - 1);

        if (bytes < 0) { /* no link: a file, or nothing */
            return errno == EINVAL || errno == ENOENT ? 0 : errno;
        }
        name[bytes] = '\0';
        if (!beside(end, name, next)) {
            return ENAMETOOLONG;
        }
        memcpy(end, next, sizeof(next));
    }
    return ELOOP;
}

witan_status_t wtn_file_target(const char *path, char **target)
{
    char        end[PATH_MAX], folder[PATH_MAX], real[PATH_MAX];
    struct stat info;
    size_t      length = strlen(path);
    bool        found  = stat(path, &info) == 0;
    int         code   = found ? 0 : errno;
    const char *name;

    *target = NULL;
    if (length == 0 || path[length - 1] == '/') {
        return WTN_ERROR(WITAN_E_IO, "%s: expected the name of a file, found '%s'", path, path);
    }
    if (!found && code != ENOENT) {
        return target_error(path, "written", code);
    }
    if (found && !S_ISREG(info.st_mode)) {
        return WTN_ERROR(WITAN_E_IO, "%s: expected a regular file or none, found %s", path,
                         wtn_file_type(info.st_mode));
    }
    code = follow_links(path, end);
    name = code != 0 ? NULL : strrchr(end, '/') != NULL ? strrchr(end, '/') + 1 : end;
    if (code != 0 || !beside(end, ".", folder)) {
        return target_error(path, "written", code != 0 ? code : ENAMETOOLONG);
    }
    if (realpath(folder, real) == NULL || access(real, W_OK | X_OK) != 0) {
        return target_error(path, "created", errno);
    }
    length  = strlen(real) + strlen(name) + 2;
    *target = malloc(length);
    if (*target == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu bytes", path, length);
    }
    (void)snprintf(*target, length, "%s/%s", strcmp(real, "/") == 0 ? "" : real, name);
    return WITAN_OK;
}

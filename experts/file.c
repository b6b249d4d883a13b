#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "experts/file.h"

/* Linux transfers at most this much per call. */
#define READ_BYTES_MAX ((size_t)0x7ffff000)

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
        return WTN_ERROR(WITAN_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
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

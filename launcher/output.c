#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "experts/file.h"
#include "launcher/output.h"

static bool write_all(int fd, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t done = write(fd, data, bytes);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return false;
        }
        data += done;
        bytes -= (size_t)done;
    }
    return true;
}

/* `temporary` is a file that this call may make, and does not leave. */
static witan_status_t write_beside(const char *path, const char *target, const char *temporary,
                                   const char *data, size_t bytes)
{
    int  fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bool written;

    if (fd < 0) {
        return WTN_ERROR(WITAN_E_IO, "%s: cannot be created: %s", path, strerror(errno));
    }
    written = write_all(fd, data, bytes) && fsync(fd) == 0;
    written = close(fd) == 0 && written;
    if (!written || rename(temporary, target) != 0) {
        int code = errno;

        (void)unlink(temporary);
        return WTN_ERROR(WITAN_E_IO, "%s: cannot be written: %s", path, strerror(code));
    }
    return WITAN_OK;
}

witan_status_t wtn_output_write(const char *path, const void *data, size_t bytes)
{
    char          *target;
    char           temporary[PATH_MAX];
    int            used;
    witan_status_t status;

    WTN_TRY(wtn_file_target(path, &target));
    used = snprintf(temporary, sizeof(temporary), "%s.%ld.tmp", target, (long)getpid());
    if (used < 0 || (size_t)used >= sizeof(temporary)) {
        status = WTN_ERROR(WITAN_E_IO, "%s: the path is too long", path);
    } else {
        status = write_beside(path, target, temporary, data, bytes);
    }

fail:
    free(target);
    return status;
}

/* gnuplot as a child: no shell, no path, no file of its own. It reads the script and leaves picture
 * and complaints in memory; the picture is looked at before it becomes a file. */
#define _GNU_SOURCE /* memfd_create */
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "experts/file.h"
#include "launcher/output.h"
#include "launcher/plot.h"

extern char **environ;

enum { SCRIPT, PICTURE, COMPLAINT, STREAMS }; /* what is 0, 1 and 2 of the child */

static witan_status_t write_script(int fd, const char *script, size_t bytes)
{
    while (bytes > 0) {
        ssize_t done = write(fd, script, bytes);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return WTN_ERROR(WITAN_E_IO, "plot: the script: %s", strerror(errno));
        }
        script += done;
        bytes -= (size_t)done;
    }
    if (lseek(fd, 0, SEEK_SET) != 0) {
        return WTN_ERROR(WITAN_E_IO, "plot: the script: %s", strerror(errno));
    }
    return WITAN_OK;
}

/* This program ignores two signals; what it starts should not. -d: the user's own settings for
 * gnuplot stay out of the picture. */
static int start(const int fds[STREAMS], pid_t *child)
{
    char                       name[] = "gnuplot", defaults[] = "-d";
    char                      *argv[] = {name, defaults, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t          attributes;
    sigset_t                   usual;
    int                        code;

    (void)sigemptyset(&usual);
    (void)sigaddset(&usual, SIGPIPE);
    (void)sigaddset(&usual, SIGXFSZ);
    code = posix_spawn_file_actions_init(&actions);
    if (code != 0) {
        return code;
    }
    code = posix_spawnattr_init(&attributes);
    if (code == 0) {
        for (int stream = 0; stream < STREAMS && code == 0; stream++) {
            code = posix_spawn_file_actions_adddup2(&actions, fds[stream], stream);
        }
        code = code != 0 ? code : posix_spawnattr_setsigdefault(&attributes, &usual);
        code = code != 0 ? code : posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
        code = code != 0 ? code : posix_spawnp(child, name, &actions, &attributes, argv, environ);
        (void)posix_spawnattr_destroy(&attributes);
    }
    (void)posix_spawn_file_actions_destroy(&actions);
    return code;
}

/* All that is in a file of memory, with a zero behind it. */
static witan_status_t read_back(int fd, char **data, size_t *bytes)
{
    struct stat info;

    *data = NULL;
    if (fstat(fd, &info) != 0) {
        return WTN_ERROR(WITAN_E_IO, "plot: the picture: %s", strerror(errno));
    }
    *bytes = (size_t)info.st_size;
    *data  = malloc(*bytes + 1);
    if (*data == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "plot: %zu bytes", *bytes);
    }
    (*data)[*bytes] = '\0';
    return wtn_file_read(fd, "gnuplot", "the picture", 0, *data, *bytes);
}

/* gnuplot echoes the line, points at a place with a caret and then says what is wrong; warnings
 * matter less. */
static const char *last_line(char *text)
{
    char *line = text, *found = text;

    for (char *next; line != NULL && *line != '\0'; line = next) {
        next = strchr(line, '\n');
        if (next != NULL) {
            *next++ = '\0';
        }
        line += strspn(line, " \t");
        found = *line != '\0' && strstr(line, "warning") == NULL ? line : found;
    }
    return found;
}

/* It does not tell of a full disk or of memory by its status, so look at the end too. */
static bool is_whole(wtn_plot_format_t format, const char *picture, size_t bytes)
{
    static const char png_end[] = "IEND\xae\x42\x60\x82", svg_end[] = "</svg>";
    const char       *end    = format == WTN_PLOT_PNG ? png_end : svg_end;
    size_t            length = strlen(end);

    while (format == WTN_PLOT_SVG && bytes > 0 && strchr(" \r\n", picture[bytes - 1]) != NULL) {
        bytes--;
    }
    return bytes >= length && memcmp(picture + bytes - length, end, length) == 0;
}

static witan_status_t draw(const int fds[STREAMS], wtn_plot_format_t format, char **picture,
                           size_t *bytes)
{
    char          *complaint = NULL;
    size_t         length    = 0;
    pid_t          child;
    int            exited, code = start(fds, &child);
    witan_status_t status;

    *picture = NULL;
    if (code == ENOENT) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED,
                         "plot: expected gnuplot in PATH, found none (Debian: gnuplot-nox)");
    }
    if (code != 0) {
        return WTN_ERROR(WITAN_E_IO, "gnuplot: cannot be started: %s", strerror(code));
    }
    while (waitpid(child, &exited, 0) < 0) {
        if (errno != EINTR) {
            return WTN_ERROR(WITAN_E_IO, "gnuplot: cannot be waited for: %s", strerror(errno));
        }
    }
    WTN_TRY(read_back(fds[COMPLAINT], &complaint, &length));
    WTN_TRY(read_back(fds[PICTURE], picture, bytes));
    if (WIFSIGNALED(exited)) {
        status = WTN_ERROR(WITAN_E_IO, "gnuplot: ended by signal %d", WTERMSIG(exited));
    } else if (exited != 0 || !is_whole(format, *picture, *bytes)) {
        status = WTN_ERROR(WITAN_E_IO, "gnuplot: exit status %d, %zu bytes of a picture: %s",
                           WEXITSTATUS(exited), *bytes,
                           length > 0 ? last_line(complaint) : "no word why");
    }

fail:
    free(complaint);
    return status;
}

witan_status_t wtn_gnuplot(const char *path, wtn_plot_format_t format, const char *script,
                           size_t bytes)
{
    int            fds[STREAMS] = {-1, -1, -1};
    char          *picture      = NULL;
    size_t         picture_bytes;
    witan_status_t status = WITAN_OK;

    for (int i = 0; i < STREAMS && status == WITAN_OK; i++) {
        fds[i] = memfd_create("witan plot", MFD_CLOEXEC);
        if (fds[i] < 0) {
            status = WTN_ERROR(WITAN_E_IO, "plot: memory for gnuplot: %s", strerror(errno));
        }
    }
    WTN_TRY(status);
    WTN_TRY(write_script(fds[SCRIPT], script, bytes));
    WTN_TRY(draw(fds, format, &picture, &picture_bytes));
    WTN_TRY(wtn_output_write(path, picture, picture_bytes));

fail:
    for (int i = 0; i < STREAMS; i++) {
        if (fds[i] >= 0) {
            (void)close(fds[i]);
        }
    }
    free(picture);
    return status;
}

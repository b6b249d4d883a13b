#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "launcher/bench.h"
#include "topology/topology.h"

json_t *wtn_bench_json_begin(const char *name, const witan_layer_config_t *config)
{
    wtn_machine_t machine;
    char          schema[64];

    if (wtn_machine_query(&machine) != WITAN_OK) {
        memset(&machine, 0, sizeof(machine));
    }
    (void)snprintf(schema, sizeof(schema), "witan.bench.%s/1", name);
    return json_pack(
        "{s:s, s:s, s:{s:s, s:i, s:i, s:i, s:I, s:I, s:I}, s:{s:i, s:i, s:I, s:I, s:s}}", "schema",
        schema, "version", witan_version(), "machine", "cpu", machine.cpu, "cores",
        (int)machine.core_count, "packages", (int)machine.package_count, "numa_nodes",
        (int)machine.numa_count, "memory_bytes", (json_int_t)machine.memory_bytes, "l2_bytes",
        (json_int_t)machine.l2_bytes, "l3_bytes", (json_int_t)machine.l3_bytes, "shape", "experts",
        (int)config->expert_count, "topk", (int)config->topk, "hidden",
        (json_int_t)config->hidden_size, "inter", (json_int_t)config->inter_size, "dtype",
        witan_dtype_name(config->dtype));
}

/* The folder of `path`, or "." */
static void folder_of(const char *path, char folder[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    size_t      bytes = slash == NULL ? 0 : (size_t)(slash - path);

    if (slash == NULL || bytes >= PATH_MAX) {
        (void)snprintf(folder, PATH_MAX, ".");
    } else {
        (void)snprintf(folder, PATH_MAX, "%.*s", bytes == 0 ? 1 : (int)bytes, path);
    }
}

witan_status_t wtn_bench_json_probe(const char *path)
{
    char        folder[PATH_MAX];
    struct stat status;

    folder_of(path, folder);
    if (access(folder, W_OK | X_OK) != 0) {
        return WTN_ERROR(WITAN_E_IO, "%s: %s: %s", path, folder, strerror(errno));
    }
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
        return WTN_ERROR(WITAN_E_IO, "%s: expected a file, found a directory", path);
    }
    return WITAN_OK;
}

static bool write_all(int fd, const char *text, size_t bytes)
{
    while (bytes > 0) {
        ssize_t done = write(fd, text, bytes);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return false;
        }
        text += done;
        bytes -= (size_t)done;
    }
    return true;
}

witan_status_t wtn_bench_json_write(const char *path, const json_t *root)
{
    char  temporary[PATH_MAX];
    char *text;
    bool  written;
    int   fd, used;

    used = snprintf(temporary, sizeof(temporary), "%s.%ld.tmp", path, (long)getpid());
    text = root == NULL ? NULL : json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    if (text == NULL || used < 0 || (size_t)used >= sizeof(temporary)) {
        free(text);
        return WTN_ERROR(WITAN_E_MEMORY, "%s: the JSON text could not be made", path);
    }
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        free(text);
        return WTN_ERROR(WITAN_E_IO, "%s: %s", path, strerror(errno));
    }
    written = write_all(fd, text, strlen(text)) && write_all(fd, "\n", 1) && fsync(fd) == 0;
    written = close(fd) == 0 && written;
    free(text);
    if (!written || rename(temporary, path) != 0) {
        int code = errno;

        (void)unlink(temporary);
        return WTN_ERROR(WITAN_E_IO, "%s: %s", path, strerror(code));
    }
    return WITAN_OK;
}

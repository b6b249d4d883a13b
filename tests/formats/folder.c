#define _GNU_SOURCE

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <check.h>

#include "formats/folder.h"

void folder_make(folder_t *folder)
{
    (void)snprintf(folder->path, sizeof(folder->path), "/tmp/witan_formats_XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder->path));
}

static size_t visit(const folder_t *folder, int remove_entries)
{
    DIR           *stream = opendir(folder->path);
    struct dirent *entry;
    size_t         count = 0;

    ck_assert_ptr_nonnull(stream);
    while ((entry = readdir(stream)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        count++;
        if (remove_entries) {
            (void)remove(folder_file(folder, entry->d_name));
        }
    }
    (void)closedir(stream);
    return count;
}

void folder_remove(folder_t *folder)
{
    (void)visit(folder, 1);
    ck_assert_int_eq(rmdir(folder->path), 0);
}

size_t folder_count(const folder_t *folder)
{
    return visit(folder, 0);
}

const char *folder_file(const folder_t *folder, const char *name)
{
    static char     buffers[8][512];
    static unsigned next;
    char           *buffer = buffers[next++ % 8];

    (void)snprintf(buffer, sizeof(buffers[0]), "%s/%s", folder->path, name);
    return buffer;
}

void folder_write(const folder_t *folder, const char *name, const void *data, size_t bytes)
{
    FILE *file = fopen(folder_file(folder, name), "wb");

    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, bytes, file), bytes);
    ck_assert_int_eq(fclose(file), 0);
}

void folder_write_text(const folder_t *folder, const char *name, const char *text)
{
    folder_write(folder, name, text, strlen(text));
}

void folder_write_header(const folder_t *folder, const char *name, const char *json,
                         size_t data_bytes)
{
    size_t         length = strlen(json);
    unsigned char *file   = malloc(8 + length + data_bytes);

    ck_assert_ptr_nonnull(file);
    for (int i = 0; i < 8; i++) {
        file[i] = (unsigned char)(length >> (8 * i));
    }
    memcpy(file + 8, json, length);
    for (size_t i = 0; i < data_bytes; i++) {
        file[8 + length + i] = (unsigned char)i;
    }
    folder_write(folder, name, file, 8 + length + data_bytes);
    free(file);
}

void expect_error(witan_status_t status, witan_status_t wanted, ...)
{
    const char *text = witan_last_error(), *part;
    va_list     parts;

    ck_assert_msg(status == wanted, "expected %s, found %s: %s", witan_status_name(wanted),
                  witan_status_name(status), status == WITAN_OK ? "" : text);
    va_start(parts, wanted);
    while ((part = va_arg(parts, const char *)) != NULL) {
        ck_assert_msg(strstr(text, part) != NULL, "expected '%s' in '%s'", part, text);
    }
    va_end(parts);
}

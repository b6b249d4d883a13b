/* A folder under /tmp for one test, and files in it, damaged on purpose or not. */
#ifndef TESTS_FORMATS_FOLDER_H
#define TESTS_FORMATS_FOLDER_H

#include <stddef.h>
#include <stdint.h>

#include <witan/status.h>

#include "experts/safetensors.h"

typedef struct folder {
    char path[64];
} folder_t;

void folder_make(folder_t *folder);
void folder_remove(folder_t *folder); /* with what is in it */

/* "<folder>/<name>", in one of a few static buffers. */
const char *folder_file(const folder_t *folder, const char *name);

/* Write bytes; replaces the file. */
void folder_write(const folder_t *folder, const char *name, const void *data, size_t bytes);
void folder_write_text(const folder_t *folder, const char *name, const char *text);

/* A safetensors file of this JSON and `data_bytes` bytes of data counting up from 0. */
void folder_write_header(const folder_t *folder, const char *name, const char *json,
                         size_t data_bytes);

/* Entries in the folder. */
size_t folder_count(const folder_t *folder);

/* Fail the test unless `status` is `wanted` and every part (up to NULL) is in the error's text. */
void expect_error(witan_status_t status, witan_status_t wanted, ...);

#endif

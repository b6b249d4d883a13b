#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/file.h"
#include "launcher/plan.h"

#define NUMBER_BYTES_MAX 63 /* a longer one is refused */
#define FIRST_CAPACITY   1024

typedef struct reader {
    wtn_plan_table_t *table;
    const char       *name;
    const char       *at, *end;
    int64_t           line;
    size_t            count, capacity; /* of values */
    size_t            line_capacity;
} reader_t;

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static witan_status_t out_of_memory(const reader_t *reader)
{
    return WTN_ERROR(WITAN_E_MEMORY, "%s: line %" PRId64 ": %zu numbers", reader->name,
                     reader->line, reader->count);
}

/* Room for one more element in *array. */
static bool grow(void **array, size_t count, size_t *capacity, size_t size)
{
    size_t wanted, bytes;
    void  *larger;

    if (count < *capacity) {
        return true;
    }
    wanted = *capacity == 0 ? FIRST_CAPACITY : *capacity;
    if (!wtn_mul(wanted, 2, &wanted) || !wtn_mul(wanted, size, &bytes)) {
        return false;
    }
    larger = realloc(*array, bytes);
    if (larger == NULL) {
        return false;
    }
    *array    = larger;
    *capacity = wanted;
    return true;
}

/* What was found, for a message: cut, and with '?' for what is not to be printed. */
static void show(const char *begin, const char *end, char text[32])
{
    size_t bytes = (size_t)(end - begin), kept = bytes < 24 ? bytes : 20;

    for (size_t i = 0; i < kept; i++) {
        text[i] = (char)(begin[i] > ' ' && begin[i] < 127 ? begin[i] : '?');
    }
    (void)snprintf(text + kept, 32 - kept, "%s", kept < bytes ? "..." : "");
}

static bool decimal(char c)
{
    return isdigit((unsigned char)c) || c == '+' || c == '-' || c == '.' || c == 'e' || c == 'E';
}

/* Decimal only: no "inf", no "nan", no "0x1p3". */
static bool read_number(const char *begin, const char *end, float *value)
{
    char   text[NUMBER_BYTES_MAX + 1];
    size_t bytes = (size_t)(end - begin);
    char  *stop;

    if (bytes > NUMBER_BYTES_MAX) {
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (!decimal(begin[i])) {
            return false;
        }
        text[i] = begin[i];
    }
    text[bytes] = '\0';
    *value      = strtof(text, &stop);
    return *stop == '\0' && stop != text && isfinite(*value) && *value >= 0;
}

/* One line that is neither empty nor a remark: reader->at is at its first number. */
static witan_status_t read_row(reader_t *reader)
{
    wtn_plan_table_t *table = reader->table;
    int64_t           found = 0;

    while (reader->at < reader->end && *reader->at != '\n') {
        const char *begin = reader->at;

        while (reader->at < reader->end && *reader->at != '\n' && !blank(*reader->at)) {
            reader->at++;
        }
        if (!grow((void **)&table->values, reader->count, &reader->capacity,
                  sizeof(*table->values))) {
            return out_of_memory(reader);
        }
        found++;
        if (!read_number(begin, reader->at, &table->values[reader->count])) {
            char text[32];

            show(begin, reader->at, text);
            return WTN_ERROR(WITAN_E_FORMAT,
                             "%s: line %" PRId64 ", number %" PRId64
                             ": expected a finite number of at least 0, found '%s'",
                             reader->name, reader->line, found, text);
        }
        reader->count++;
        while (reader->at < reader->end && blank(*reader->at)) {
            reader->at++;
        }
    }
    if (table->row_count > 0 && found != table->column_count) {
        return WTN_ERROR(WITAN_E_FORMAT,
                         "%s: line %" PRId64 ": expected %" PRId32 " numbers as in line %" PRId64
                         ", found %" PRId64,
                         reader->name, reader->line, table->column_count, table->lines[0], found);
    }
    table->column_count = (int32_t)found; /* fits: at most WTN_PLAN_TABLE_BYTES_MAX */
    if (!grow((void **)&table->lines, (size_t)table->row_count, &reader->line_capacity,
              sizeof(*table->lines))) {
        return out_of_memory(reader);
    }
    table->lines[table->row_count++] = reader->line;
    return WITAN_OK;
}

witan_status_t wtn_plan_table_parse(wtn_plan_table_t *table, const char *name, const char *text,
                                    size_t bytes)
{
    reader_t       reader = {.table = table, .name = name, .at = text, .end = text + bytes};
    witan_status_t status;

    *table = (wtn_plan_table_t){.name = name};
    if (bytes > WTN_PLAN_TABLE_BYTES_MAX) {
        return WTN_ERROR(WITAN_E_FORMAT, "%s: expected at most %zu bytes, found %zu", name,
                         WTN_PLAN_TABLE_BYTES_MAX, bytes);
    }
    for (reader.line = 1; reader.at < reader.end; reader.line++) {
        while (reader.at < reader.end && blank(*reader.at)) {
            reader.at++;
        }
        if (reader.at < reader.end && *reader.at == '#') {
            const char *line_end = memchr(reader.at, '\n', (size_t)(reader.end - reader.at));

            reader.at = line_end != NULL ? line_end : reader.end;
        } else if (reader.at < reader.end && *reader.at != '\n') {
            WTN_TRY(read_row(&reader));
        }
        reader.at += reader.at < reader.end; /* the end of the line */
    }
    if (table->row_count > 0) {
        return WITAN_OK;
    }
    status = WTN_ERROR(WITAN_E_FORMAT, "%s: expected a line of numbers, found none", name);

fail:
    wtn_plan_table_free(table);
    return status;
}

static witan_status_t read_stdin(const char *name, char **data, size_t *bytes)
{
    size_t         capacity = 0, used = 0;
    char          *text = NULL;
    ssize_t        got;
    witan_status_t status = WITAN_OK;

    do {
        if (used == capacity) {
            char *larger = realloc(text, capacity = capacity == 0 ? 1 << 16 : 2 * capacity);

            if (larger == NULL) {
                status = WTN_ERROR(WITAN_E_MEMORY, "%s: %zu bytes", name, capacity);
                break;
            }
            text = larger;
        }
        got = read(STDIN_FILENO, text + used, capacity - used);
        if (got < 0 && errno != EINTR) {
            status = WTN_ERROR(WITAN_E_IO, "%s: cannot be read: %s", name, strerror(errno));
        }
        used += got > 0 ? (size_t)got : 0;
    } while (status == WITAN_OK && got != 0 && used <= WTN_PLAN_TABLE_BYTES_MAX);
    *data  = text;
    *bytes = used;
    return status;
}

witan_status_t wtn_plan_table_read(wtn_plan_table_t *table, const char *path)
{
    bool           standard = strcmp(path, "-") == 0;
    const char    *name     = standard ? "standard input" : path;
    char          *text     = NULL;
    size_t         bytes    = 0;
    witan_status_t status;

    *table = (wtn_plan_table_t){0};
    WTN_TRY(standard ? read_stdin(name, &text, &bytes)
                     : wtn_file_load(path, WTN_PLAN_TABLE_BYTES_MAX, &text, &bytes));
    WTN_TRY(wtn_plan_table_parse(table, name, text, bytes));

fail:
    free(text);
    return status;
}

void wtn_plan_table_free(wtn_plan_table_t *table)
{
    free(table->values);
    free(table->lines);
    *table = (wtn_plan_table_t){0};
}

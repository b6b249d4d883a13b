/* witan plan: what can be computed before anything runs. */
#ifndef WTN_PLAN_H
#define WTN_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include <witan/status.h>

/* The subcommands get their own words, argv[0] is the name, and return the exit status. */
int wtn_plan_place(int argc, char **argv);
int wtn_plan_scale(int argc, char **argv);
int wtn_plan_calibrate(int argc, char **argv);

/* ---- tables of numbers, a line of text each row ---- */

/* Numbers of a line are separated by blanks; empty lines and lines that begin with '#' are passed
 * over. */
typedef struct wtn_plan_table {
    const char *name;   /* of the file, for messages; the caller's */
    float      *values; /* [row_count][column_count] finite, not negative */
    int64_t    *lines;  /* [row_count] where a row stands in the text, from 1 */
    int64_t     row_count;
    int32_t     column_count;
} wtn_plan_table_t;

#define WTN_PLAN_TABLE_BYTES_MAX ((size_t)256 << 20)

/* From `bytes` of text. Errors are one line, "<name>: line 3, number 5: ...": WITAN_E_FORMAT for
 * what is no such number, a row longer or shorter than the first, no row at all; WITAN_E_MEMORY. */
witan_status_t wtn_plan_table_parse(wtn_plan_table_t *table, const char *name, const char *text,
                                    size_t bytes);

/* From a regular file, or from standard input when the path is "-". Also WITAN_E_IO. */
witan_status_t wtn_plan_table_read(wtn_plan_table_t *table, const char *path);
void           wtn_plan_table_free(wtn_plan_table_t *table);

#endif

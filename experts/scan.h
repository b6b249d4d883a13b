/* Reading JSON text token by token: for headers of fixed grammar, where a tree would cost many
 * times the memory of the text. Every fault is WITAN_E_FORMAT with the byte, what was expected and
 * found. */
#ifndef WTN_SCAN_H
#define WTN_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <witan/status.h>

typedef struct wtn_scan {
    const char          *path; /* for messages */
    const unsigned char *start, *at, *end;
    /* Where the next decoded string goes. A string with its NUL is never longer than its source, so
     * as many bytes as the text has suffice for all of them. */
    char *strings;
} wtn_scan_t;

void wtn_scan_space(wtn_scan_t *scan);

/* Skip space, take `wanted` if it is next. */
bool wtn_scan_take(wtn_scan_t *scan, char wanted);

/* A string, decoded to UTF-8 without U+0000; `expected` names it for the message. */
witan_status_t wtn_scan_string(wtn_scan_t *scan, const char *expected, const char **out);

/* A whole number from 0 to 2^63 - 1; `what` names it for the message. */
witan_status_t wtn_scan_number(wtn_scan_t *scan, const char *what, uint64_t *out);

/* "<path>: header: byte N: expected <expected>, found ..." at the cursor; the value is
 * WITAN_E_FORMAT. */
witan_status_t wtn_scan_error(const wtn_scan_t *scan, const char *expected);

#endif

/* Errors inside the library: one status, one line of text for the calling thread. */
#ifndef WTN_ERROR_H
#define WTN_ERROR_H

#include <stdbool.h>

#include <witan/layer.h> /* witan_error_set */
#include <witan/status.h>

#define WTN_ERROR_TEXT_BYTES 512

/* Format the text of this thread's last error; the value is `status`, which is named again so that
 * readers of the code, compilers among them, know it without looking into witan_error_set. */
#define WTN_ERROR(status, ...) (witan_error_set((status), __VA_ARGS__), (status))

/* For functions with `witan_status_t status` and a label `fail`. */
#define WTN_TRY(call)             \
    do {                          \
        status = (call);          \
        if (status != WITAN_OK) { \
            goto fail;            \
        }                         \
    } while (0)

/* Put "prefix: " before the text of the last error, the middle cut to fit; the value is `status`.
 */
witan_status_t wtn_error_prefix(witan_status_t status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif

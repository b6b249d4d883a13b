#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <witan/status.h>
#include <witan/types.h>

#include "core/error.h"

static _Thread_local char error_text[WTN_ERROR_TEXT_BYTES];

const char *witan_status_name(witan_status_t status)
{
    switch (status) {
#define STATUS_NAME(name, value, text) \
    case WITAN_##name:                 \
        return "WITAN_" #name;
        WITAN_STATUS_LIST(STATUS_NAME)
#undef STATUS_NAME
    }
    return "WITAN_E_?";
}

const char *witan_status_text(witan_status_t status)
{
    switch (status) {
#define STATUS_TEXT(name, value, text) \
    case WITAN_##name:                 \
        return text;
        WITAN_STATUS_LIST(STATUS_TEXT)
#undef STATUS_TEXT
    }
    return "not a status";
}

#define LONG_TEXT_BYTES 8192 /* before it is cut: two of the longest paths */

const char *witan_last_error(void)
{
    return error_text;
}

/* One line whatever the format brought in: file names and foreign texts may hold anything. */
static void make_one_line(char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f) {
            *text = ' ';
        }
    }
}

/* Too long is nearly always a path: what comes after it tells the reason, so the middle goes. */
static void cut_to_fit(const char *text, char out[WTN_ERROR_TEXT_BYTES])
{
    const size_t head = 100, dots = 3, most = WTN_ERROR_TEXT_BYTES - 1;
    size_t       length = strlen(text);

    if (length <= most) {
        memcpy(out, text, length + 1);
    } else {
        (void)snprintf(out, WTN_ERROR_TEXT_BYTES, "%.*s...%s", (int)head, text,
                       text + length - (most - head - dots));
    }
}

witan_status_t witan_error_set(witan_status_t status, const char *format, ...)
{
    static const char no_memory[] = ": out of memory";
    char              text[LONG_TEXT_BYTES];
    va_list           args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text) - sizeof(no_memory), format, args);
    va_end(args);
    if (status == WITAN_E_MEMORY && strstr(text, "memory") == NULL) {
        memcpy(text + strlen(text), no_memory, sizeof(no_memory));
    }
    make_one_line(text);
    cut_to_fit(text, error_text);
    return status;
}

witan_status_t wtn_error_prefix(witan_status_t status, const char *format, ...)
{
    char    prefix[LONG_TEXT_BYTES];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(prefix, sizeof(prefix), format, args);
    va_end(args);
    return witan_error_set(status, "%s: %s", prefix, error_text);
}

const char *witan_version(void)
{
    return WITAN_VERSION_STRING;
}

size_t witan_dtype_bytes(witan_dtype_t dtype)
{
    switch (dtype) {
    case WITAN_F32:
        return 4;
    case WITAN_F16:
    case WITAN_BF16:
        return 2;
    }
    return 0;
}

const char *witan_dtype_name(witan_dtype_t dtype)
{
    switch (dtype) {
    case WITAN_F32:
        return "F32";
    case WITAN_F16:
        return "F16";
    case WITAN_BF16:
        return "BF16";
    }
    return "?";
}

#include <inttypes.h>
#include <string.h>

#include "core/error.h"
#include "experts/scan.h"

void wtn_scan_space(wtn_scan_t *scan)
{
    while (scan->at < scan->end &&
           (*scan->at == ' ' || *scan->at == '\t' || *scan->at == '\n' || *scan->at == '\r')) {
        scan->at++;
    }
}

witan_status_t wtn_scan_error(const wtn_scan_t *scan, const char *expected)
{
    size_t offset = (size_t)(scan->at - scan->start);

    if (scan->at >= scan->end) {
        return WTN_ERROR(WITAN_E_FORMAT, "%s: header: byte %zu: expected %s, found its end",
                         scan->path, offset, expected);
    }
    if (*scan->at < 0x20 || *scan->at > 0x7e) {
        return WTN_ERROR(WITAN_E_FORMAT, "%s: header: byte %zu: expected %s, found byte 0x%02x",
                         scan->path, offset, expected, *scan->at);
    }
    return WTN_ERROR(WITAN_E_FORMAT, "%s: header: byte %zu: expected %s, found '%c'", scan->path,
                     offset, expected, *scan->at);
}

bool wtn_scan_take(wtn_scan_t *scan, char wanted)
{
    wtn_scan_space(scan);
    if (scan->at < scan->end && *scan->at == (unsigned char)wanted) {
        scan->at++;
        return true;
    }
    return false;
}

/* Bytes of the UTF-8 sequence at the cursor; 0 if it is not well formed: overlong, a surrogate,
 * above U+10FFFF, cut off. */
static size_t utf8_length(const wtn_scan_t *scan)
{
    const unsigned char *s    = scan->at;
    const size_t         left = (size_t)(scan->end - s);
    size_t               length;
    uint32_t             code;

    if (s[0] < 0x80) {
        return 1;
    }
    if (s[0] >= 0xc2 && s[0] <= 0xdf) {
        length = 2;
        code   = s[0] & 0x1fu;
    } else if ((s[0] & 0xf0) == 0xe0) {
        length = 3;
        code   = s[0] & 0x0fu;
    } else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        length = 4;
        code   = s[0] & 0x07u;
    } else {
        return 0;
    }
    if (length > left) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
        code = code << 6 | (s[i] & 0x3fu);
    }
    if ((length == 3 && (code < 0x800 || (code >= 0xd800 && code <= 0xdfff))) ||
        (length == 4 && (code < 0x10000 || code > 0x10ffff))) {
        return 0;
    }
    return length;
}

static bool hex4(const wtn_scan_t *scan, const unsigned char *at, uint32_t *code)
{
    *code = 0;
    if (scan->end - at < 4) {
        return false;
    }
    for (int i = 0; i < 4; i++) {
        unsigned char c = at[i];

        if (c >= '0' && c <= '9') {
            *code = *code << 4 | (uint32_t)(c - '0');
        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            *code = *code << 4 | (uint32_t)((c | 0x20) - 'a' + 10);
        } else {
            return false;
        }
    }
    return true;
}

static void put_utf8(wtn_scan_t *scan, uint32_t code)
{
    unsigned char *out = (unsigned char *)scan->strings;

    if (code < 0x80) {
        *out++ = (unsigned char)code;
    } else if (code < 0x800) {
        *out++ = (unsigned char)(0xc0 | code >> 6);
        *out++ = (unsigned char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *out++ = (unsigned char)(0xe0 | code >> 12);
        *out++ = (unsigned char)(0x80 | (code >> 6 & 0x3f));
        *out++ = (unsigned char)(0x80 | (code & 0x3f));
    } else {
        *out++ = (unsigned char)(0xf0 | code >> 18);
        *out++ = (unsigned char)(0x80 | (code >> 12 & 0x3f));
        *out++ = (unsigned char)(0x80 | (code >> 6 & 0x3f));
        *out++ = (unsigned char)(0x80 | (code & 0x3f));
    }
    scan->strings = (char *)out;
}

/* The cursor is behind "\u". */
static witan_status_t parse_unicode_escape(wtn_scan_t *scan)
{
    uint32_t code, low;

    if (!hex4(scan, scan->at, &code) || code == 0) {
        return wtn_scan_error(scan, "four hexadecimal digits that are not all 0");
    }
    scan->at += 4;
    if (code >= 0xd800 && code <= 0xdfff) {
        if (code > 0xdbff || scan->end - scan->at < 6 || scan->at[0] != '\\' ||
            scan->at[1] != 'u' || !hex4(scan, scan->at + 2, &low) || low < 0xdc00 || low > 0xdfff) {
            return wtn_scan_error(scan, "a pair of surrogates");
        }
        scan->at += 6;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    put_utf8(scan, code);
    return WITAN_OK;
}

static witan_status_t parse_escape(wtn_scan_t *scan)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char       *found;

    if (scan->at >= scan->end) {
        return wtn_scan_error(scan, "an escape");
    }
    if (*scan->at == 'u') {
        scan->at++;
        return parse_unicode_escape(scan);
    }
    found = *scan->at == '\0' ? NULL : strchr(from, *scan->at);
    if (found == NULL) {
        return wtn_scan_error(scan, "an escape");
    }
    *scan->strings++ = to[found - from];
    scan->at++;
    return WITAN_OK;
}

witan_status_t wtn_scan_string(wtn_scan_t *scan, const char *expected, const char **out)
{
    witan_status_t status;

    if (!wtn_scan_take(scan, '"')) {
        return wtn_scan_error(scan, expected);
    }
    *out = scan->strings;
    while (scan->at < scan->end && *scan->at != '"') {
        if (*scan->at == '\\') {
            scan->at++;
            status = parse_escape(scan);
            if (status != WITAN_OK) {
                return status;
            }
        } else {
            size_t length = *scan->at < 0x20 ? 0 : utf8_length(scan);

            if (length == 0) {
                return wtn_scan_error(scan, "UTF-8 text");
            }
            memcpy(scan->strings, scan->at, length);
            scan->strings += length;
            scan->at += length;
        }
    }
    if (scan->at >= scan->end) {
        return wtn_scan_error(scan, "'\"'");
    }
    scan->at++;
    *scan->strings++ = '\0';
    return WITAN_OK;
}

witan_status_t wtn_scan_number(wtn_scan_t *scan, const char *what, uint64_t *out)
{
    const unsigned char *begin, *at;
    uint64_t             value = 0;
    bool                 fits  = true;

    wtn_scan_space(scan);
    begin = at = scan->at;
    *out       = 0;
    while (at < scan->end && *at >= '0' && *at <= '9') {
        unsigned digit = (unsigned)(*at - '0');

        fits  = fits && value <= ((uint64_t)INT64_MAX - digit) / 10;
        value = fits ? value * 10 + digit : 0;
        at++;
    }
    if (at > begin && fits && !(*begin == '0' && at - begin > 1) &&
        (at == scan->end || strchr(" \t\r\n,]}", *at) != NULL)) {
        scan->at = at;
        *out     = value;
        return WITAN_OK;
    }
    for (at = begin; at < scan->end && at - begin < 32 && strchr(" \t\r\n,]}", *at) == NULL; at++) {
    }
    return WTN_ERROR(WITAN_E_FORMAT,
                     "%s: %s: expected whole numbers from 0 to 2^63 - 1, found '%.*s'", scan->path,
                     what, (int)(at - begin), (const char *)begin);
}

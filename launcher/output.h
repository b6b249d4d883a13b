/* Files that appear whole or not at all. */
#ifndef WTN_OUTPUT_H
#define WTN_OUTPUT_H

#include <stddef.h>

#include <witan/status.h>

/* Write to a temporary file beside the one that `path` leads to, then rename. WITAN_E_IO: nothing
 * is left, and a file of that name stays as it was. */
witan_status_t wtn_output_write(const char *path, const void *data, size_t bytes);

#endif

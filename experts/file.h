/* Files opened for reading: regular ones only, read with pread until all bytes are there. */
#ifndef WTN_FILE_H
#define WTN_FILE_H

#include <stddef.h>
#include <stdint.h>

#include <witan/status.h>

/* Open a regular file. A folder or a special file is refused by name. WITAN_E_IO. */
witan_status_t wtn_file_open(const char *path, int *fd, uint64_t *bytes);

/* Read `bytes` at `offset`; fewer is WITAN_E_IO "<path>: <what>: ...". */
witan_status_t wtn_file_read(int fd, const char *path, const char *what, uint64_t offset, void *out,
                             size_t bytes);

/* Read a whole file of at most `bytes_max` bytes into memory of the caller, who frees it. More is
 * WITAN_E_FORMAT. */
witan_status_t wtn_file_load(const char *path, uint64_t bytes_max, char **data, size_t *bytes);

/* Where a write to `path` lands: its links followed, also to a file that is not there yet. Only
 * nothing or a regular file may be replaced, in a folder that can be written in: else WITAN_E_IO.
 * *target is the caller's to free. */
witan_status_t wtn_file_target(const char *path, char **target);

/* What a path is, for messages: "a folder", "a socket" and so on. */
const char *wtn_file_type(unsigned mode);

#endif

/* Paths named by options: which of them are one file. */
#ifndef WTN_PATHS_H
#define WTN_PATHS_H

#include <stddef.h>

#include <witan/status.h>

/* A path and the option that named it; path NULL: not given. */
typedef struct wtn_named_path {
    const char *option; /* "--output" */
    const char *path;
} wtn_named_path_t;

/* An output must not take the place of what is read: of `input`, of another output, or of a file
 * of the folder `model`; by whatever name, link or hard link. WITAN_E_ARGUMENT names both options.
 * Paths that lead nowhere are no matter here: opening them tells more. `count` outputs. */
witan_status_t wtn_paths_check(const wtn_named_path_t *outputs, size_t count,
                               const wtn_named_path_t *input, const char *model);

#endif

/* Status codes and the text of the last error. */
#ifndef WITAN_STATUS_H
#define WITAN_STATUS_H

#include <witan/export.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Every status: name, value, what it means. Values never change once released. */
#define WITAN_STATUS_LIST(X)                                                \
    X(OK, 0, "success")                                                     \
    X(E_ARGUMENT, 1, "an argument is not valid")                            \
    X(E_MEMORY, 2, "memory could not be had")                               \
    X(E_IO, 3, "a file could not be opened, read or written")               \
    X(E_FORMAT, 4, "the content of a file is damaged or not of its format") \
    X(E_CONFIG, 5, "a configuration contradicts itself or the tensors")     \
    X(E_UNSUPPORTED, 6, "not available here")                               \
    X(E_STATE, 7, "called out of order")                                    \
    X(E_MISMATCH, 8, "the ranks disagree")                                  \
    X(E_TIMEOUT, 9, "a peer was not heard from in time")                    \
    X(E_PEER, 10, "another rank failed")                                    \
    X(E_TRANSPORT, 11, "the communication library failed")                  \
    X(E_INTERNAL, 12, "a defect in witan")

typedef enum witan_status {
#define WITAN_STATUS_ENUM(name, value, text) WITAN_##name = value,
    WITAN_STATUS_LIST(WITAN_STATUS_ENUM)
#undef WITAN_STATUS_ENUM
} witan_status_t;

/** "WITAN_E_TIMEOUT" and the like; "WITAN_E_?" for a value that is no status. Never NULL. */
WITAN_API const char *witan_status_name(witan_status_t status);

/** The meaning of a status as in the list above. Never NULL. */
WITAN_API const char *witan_status_text(witan_status_t status);

/**
 * One line about the last call of this thread that did not return WITAN_OK: it names the thing,
 * what was expected and what was found. Empty before the first error. The text belongs to the
 * library and stands until the next failing call of the same thread.
 */
WITAN_API const char *witan_last_error(void);

#ifdef __cplusplus
}
#endif
#endif

/* Kernels of the tests of windows. */
#ifndef TEST_DIRECT_WRITE_H
#define TEST_DIRECT_WRITE_H

#include <stdint.h>

#include <witan/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct direct_params {
    int32_t      peer_count, mine;
    int32_t      word_count; /* of one peer's part of a window */
    void *const *windows;    /* [peer_count] */
    uint32_t    *step;       /* of the device, counted by check */
    uint32_t    *mistakes;   /* of the device */
} direct_params_t;

/* Write this rank's part of every peer's window: what tells step, writer, reader and place. */
witan_status_t direct_write(const direct_params_t *params, void *stream);

/* Count what is wrong in the own window, then the step. */
witan_status_t direct_check(const direct_params_t *params, void *stream);

#ifdef __cplusplus
}
#endif

#endif

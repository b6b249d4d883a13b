/* Rows of an array in another order. */
#ifndef WTN_GATHER_H
#define WTN_GATHER_H

#include "kernels/backend.h"

void wtn_gather_ref(const wtn_gather_args_t *args);

/* The slot of wtn_backend_host. */
witan_status_t wtn_host_gather(const wtn_gather_args_t *args);

/* The slot of wtn_backend_cuda. */
#ifdef __cplusplus
extern "C" {
#endif
witan_status_t wtn_cuda_gather(const wtn_gather_args_t *args);
#ifdef __cplusplus
}
#endif

#endif

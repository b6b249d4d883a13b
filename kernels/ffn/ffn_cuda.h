/* Experts on a device. Weights are held as gemm_cuda.h wants them; h is a whole array, so a call
 * has two products and no host ever waits for a count. */
#ifndef WTN_FFN_CUDA_H
#define WTN_FFN_CUDA_H

#include <pthread.h>

#include "kernels/backend.h"
#include "kernels/gemm/gemm_cuda.h"

/* The slots of wtn_backend_cuda. Rows with expert -1 are skipped: their outputs are not written.
 *
 * run: WITAN_E_ARGUMENT negative row_count, x not 16-byte aligned, workspace too small;
 * WITAN_E_UNSUPPORTED a stream that is being captured, where the executor waits (cublas). */
witan_status_t wtn_cuda_ffn_create(wtn_ffn_t **out, const wtn_ffn_spec_t *spec,
                                   const witan_weights_t *weights);
void           wtn_cuda_ffn_destroy(wtn_ffn_t *ffn);
size_t         wtn_cuda_ffn_weight_bytes(const wtn_ffn_spec_t *spec);
size_t         wtn_cuda_ffn_workspace_bytes(const wtn_ffn_spec_t *spec, int64_t row_count_max,
                                            int32_t masked_rows_max, int32_t thread_count);
witan_status_t wtn_cuda_ffn_run(const wtn_ffn_t *ffn, wtn_ffn_args_t *args);

/* ---- private to kernels/ffn/ ---- */

typedef struct wtn_cuda_ffn_shape {
    int64_t            H, I;   /* I: width of the slice held */
    int64_t            Hp, Ip; /* as stored: multiples of WTN_CUDA_ALIGN, at least one of them */
    size_t             element;
    wtn_cuda_weights_t up, down;     /* w and bias: of the device, NULL while measuring */
    size_t             weight_bytes; /* all of them; SIZE_MAX: too large */
} wtn_cuda_ffn_shape_t;

/* Lay the weights out in `memory`, memory of the device; NULL: only measure. */
wtn_cuda_ffn_shape_t wtn_cuda_ffn_shape(const wtn_ffn_spec_t *spec, void *memory);

/* Read, interleave, pad and upload all weights. */
witan_status_t wtn_cuda_ffn_load(const wtn_cuda_ffn_shape_t *shape, const wtn_ffn_spec_t *spec,
                                 const witan_weights_t *weights);

#endif

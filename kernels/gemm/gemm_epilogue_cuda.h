/* What becomes of a product that a library has left in memory: the epilogues of gemm_sm80_cuda.cu
 * as a kernel of their own. */
#ifndef WTN_GEMM_EPILOGUE_CUDA_H
#define WTN_GEMM_EPILOGUE_CUDA_H

#include "kernels/gemm/gemm_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wtn_cuda_epilogue_args {
    const wtn_cuda_gemm_args_t *gemm;
    const void *sums;           /* [row_count][sums_stride] fp32; or, if `rounded`, of dtype */
    int64_t     sums_stride;    /* elements, a multiple of WTN_CUDA_ALIGN */
    bool        rounded;        /* down without a bias only */
    int64_t     row, row_count; /* sorted rows row .. row + row_count - 1, known to the host */
} wtn_cuda_epilogue_args_t;

/* gemm->out from the sums. */
witan_status_t wtn_cuda_epilogue(const wtn_cuda_epilogue_args_t *args);

#ifdef __cplusplus
}
#endif

#endif

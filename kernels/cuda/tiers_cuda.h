/* The kernel tiers of the cuda backend: its executors of grouped GEMM. */
#ifndef WTN_TIERS_CUDA_H
#define WTN_TIERS_CUDA_H

#include "kernels/tier.h"

/* From the plainest to the fastest; ends with NULL. */
extern const wtn_tier_t *const wtn_cuda_tiers[];

#endif

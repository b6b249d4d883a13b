#include <stdio.h>

#include "kernels/cuda/cublas_cuda.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/tiers_cuda.h"
#include "kernels/gemm/gemm_cuda.h"

static bool probe_cublas(char *reason, size_t reason_bytes)
{
    return wtn_cuda_probe(reason, reason_bytes) && wtn_cublas(reason, reason_bytes) != NULL;
}

static bool probe_sm80(char *reason, size_t reason_bytes)
{
    return wtn_cuda_probe(reason, reason_bytes); /* which asks for 8.0 */
}

/* The code for it is of this one architecture: nothing newer runs it. */
static bool probe_sm90(char *reason, size_t reason_bytes)
{
    int32_t capability;

    if (!wtn_cuda_probe(reason, reason_bytes)) {
        return false;
    }
    capability = wtn_cuda_capability();
    if (capability != 90) {
        (void)snprintf(reason, reason_bytes, "a device of capability %d.%d, expected 9.0",
                       (int)capability / 10, (int)capability % 10);
    }
    return capability == 90;
}

static const wtn_tier_t tier_cublas = {
    .name      = "cublas",
    .probe     = probe_cublas,
    .cuda_gemm = {&wtn_cuda_gemm_cublas, &wtn_cuda_gemm_cublas, &wtn_cuda_gemm_cublas},
};

static const wtn_tier_t tier_sm80 = {
    .name      = "sm_80",
    .probe     = probe_sm80,
    .cuda_gemm = {NULL, &wtn_cuda_gemm_sm80, &wtn_cuda_gemm_sm80},
};

static const wtn_tier_t tier_sm90 = {
    .name      = "sm_90a",
    .probe     = probe_sm90,
    .cuda_gemm = {NULL, &wtn_cuda_gemm_sm90, &wtn_cuda_gemm_sm90},
};

const wtn_tier_t *const wtn_cuda_tiers[] = {&tier_cublas, &tier_sm80, &tier_sm90, NULL};

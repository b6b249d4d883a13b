/* How benchmarks take a device's time, and the ceiling of its matrix products. */
#include <cuda_runtime_api.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/cublas_cuda.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/measure_cuda.h"
#include "kernels/probe/probe_cuda.h"

#define FLUSH_BYTES ((size_t)256 << 20) /* several times any L2 cache */
#ifdef WTN_EMULATOR
#define PEAK_SIZE  64 /* no ceiling of anything, but the benchmarks run */
#define READ_BYTES ((size_t)1 << 20)
#else
#define PEAK_SIZE  8192
#define READ_BYTES (bytes < (size_t)1 << 30 ? (size_t)1 << 30 : bytes)
#endif
#define PEAK_CALLS 3

/* Cold caches: a buffer larger than the L2 cache is written, then the call is timed by events that
 * stand directly before and behind it. */
witan_status_t wtn_cuda_measure(witan_status_t (*call)(void *context), void *context, void *stream,
                                double *seconds)
{
    static void   *flush; /* kept: allocating waits for the device */
    cudaEvent_t    begin = NULL, end = NULL;
    float          ms = 0.0f;
    witan_status_t status;

    if (flush == NULL) {
        WTN_CUDA_TRY(cudaMalloc(&flush, FLUSH_BYTES));
    }
    WTN_CUDA_TRY(cudaEventCreate(&begin));
    WTN_CUDA_TRY(cudaEventCreate(&end));
    WTN_CUDA_TRY(cudaMemsetAsync(flush, 0, FLUSH_BYTES, (cudaStream_t)stream));
    WTN_CUDA_TRY(cudaEventRecord(begin, (cudaStream_t)stream));
    WTN_TRY(call(context));
    WTN_CUDA_TRY(cudaEventRecord(end, (cudaStream_t)stream));
    WTN_CUDA_TRY(cudaEventSynchronize(end));
    WTN_CUDA_TRY(cudaEventElapsedTime(&ms, begin, end));
    *seconds = (double)ms * 1e-3;

fail:
    if (begin != NULL) {
        (void)cudaEventDestroy(begin);
    }
    if (end != NULL) {
        (void)cudaEventDestroy(end);
    }
    return status;
}

typedef struct product {
    const wtn_cublas_t *cublas;
    cublasHandle_t      handle;
    witan_dtype_t       dtype;
    void               *a, *b, *c;
} product_t;

static witan_status_t run_product(void *context)
{
    static const cudaDataType types[] = {CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF};
    const product_t          *p       = context;
    const cudaDataType        type    = types[p->dtype];
    const float               one = 1.0f, zero = 0.0f;

    return wtn_cublas_status(p->cublas->cublasGemmEx(p->handle, CUBLAS_OP_T, CUBLAS_OP_N, PEAK_SIZE,
                                                     PEAK_SIZE, PEAK_SIZE, &one, p->a, type,
                                                     PEAK_SIZE, p->b, type, PEAK_SIZE, &zero, p->c,
                                                     type, PEAK_SIZE,
                                                     p->dtype == WITAN_F32
                                                         ? CUBLAS_COMPUTE_32F_PEDANTIC
                                                         : CUBLAS_COMPUTE_32F,
                                                     CUBLAS_GEMM_DEFAULT),
                             "cublasGemmEx");
}

static witan_status_t time_product(const product_t *product, double *best)
{
    witan_status_t status = WITAN_OK;

    *best = 0.0;
    for (int i = 0; i <= PEAK_CALLS; i++) {
        double seconds = 0.0;

        WTN_TRY(wtn_cuda_measure(run_product, (void *)(uintptr_t)product, NULL, &seconds));
        if (i > 0 && (*best == 0.0 || seconds < *best)) {
            *best = seconds;
        }
    }

fail:
    return status;
}

double wtn_cuda_peak(const struct wtn_tier *tier, witan_dtype_t dtype, int32_t thread_count)
{
    char           reason[128];
    product_t      product = {.cublas = wtn_cublas(reason, sizeof(reason)), .dtype = dtype};
    size_t         bytes   = (size_t)PEAK_SIZE * PEAK_SIZE * witan_dtype_bytes(dtype);
    double         seconds = 0.0;
    witan_status_t status  = WITAN_OK;

    (void)tier;
    (void)thread_count;
    if (product.cublas == NULL) {
        return 0.0;
    }
    WTN_CUDA_TRY(cudaMalloc(&product.a, bytes));
    WTN_CUDA_TRY(cudaMalloc(&product.b, bytes));
    WTN_CUDA_TRY(cudaMalloc(&product.c, bytes));
    /* Zeros would run faster than data does: they switch fewer transistors. */
    WTN_TRY(wtn_cuda_fill_random(product.a, dtype, (int64_t)PEAK_SIZE * PEAK_SIZE, 1, NULL));
    WTN_TRY(wtn_cuda_fill_random(product.b, dtype, (int64_t)PEAK_SIZE * PEAK_SIZE, 2, NULL));
    WTN_CUBLAS_TRY(product.cublas->cublasCreate(&product.handle));
    WTN_TRY(time_product(&product, &seconds));

fail:
    if (product.handle != NULL) {
        (void)product.cublas->cublasDestroy(product.handle);
    }
    (void)cudaFree(product.a);
    (void)cudaFree(product.b);
    (void)cudaFree(product.c);
    return status == WITAN_OK && seconds > 0.0 ? 2.0 * PEAK_SIZE * PEAK_SIZE * PEAK_SIZE / seconds
                                               : 0.0;
}

double wtn_cuda_read_bandwidth(size_t bytes, int32_t thread_count)
{
    double rate = 0.0;

    (void)bytes;
    (void)thread_count;
    if (wtn_cuda_probe_read_bandwidth(READ_BYTES, &rate) != WITAN_OK) {
        return 0.0;
    }
    return rate;
}

#include "kernels/probe/measure_cuda.h"

#include "core/error.h"
#include "core/half.h"
#include "core/util.h"
#include "kernels/cuda/cublas_cuda.h"
#include "kernels/cuda/cuda.h"
#include "kernels/probe/probe_cuda.h"

#define PEAK_SIZE    8192
#define PEAK_PASSES  8
#define RANDOM_COUNT ((size_t)1 << 20)
#define FLUSH_L2S    4

static size_t flush_bytes(void)
{
    int device = 0, bytes = 0;

    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device) != cudaSuccess) {
        (void)cudaGetLastError();
    }
    return (size_t)wtn_max_i64(bytes, (int64_t)1 << 20) * FLUSH_L2S;
}

/* The write also keeps the device busy while the host queues the call behind it. */
witan_status_t wtn_cuda_measure(witan_status_t (*call)(void *context), void *context, void *where,
                                double *seconds)
{
    const cudaStream_t stream = (cudaStream_t)where;
    const size_t       bytes  = flush_bytes();
    cudaEvent_t        begin = NULL, end = NULL;
    void              *memory       = NULL;
    float              milliseconds = 0.0f;
    witan_status_t     status;

    WTN_CUDA_TRY((int)cudaMalloc(&memory, bytes));
    WTN_CUDA_TRY((int)cudaEventCreate(&begin));
    WTN_CUDA_TRY((int)cudaEventCreate(&end));
    WTN_CUDA_TRY((int)cudaMemsetAsync(memory, 0, bytes, stream));
    WTN_CUDA_TRY((int)cudaEventRecord(begin, stream));
    WTN_TRY(call(context));
    WTN_CUDA_TRY((int)cudaEventRecord(end, stream));
    WTN_CUDA_TRY((int)cudaEventSynchronize(end));
    WTN_CUDA_TRY((int)cudaEventElapsedTime(&milliseconds, begin, end));
    *seconds = (double)milliseconds * 1e-3;

fail:
    if (begin != NULL) {
        (void)cudaEventDestroy(begin);
    }
    if (end != NULL) {
        (void)cudaEventDestroy(end);
    }
    (void)cudaFree(memory);
    return status;
}

typedef struct peak {
    const wtn_cublas_t *cublas;
    cublasHandle_t      handle;
    witan_dtype_t       dtype;
    char               *memory; /* A, B, C */
    size_t              matrix_bytes;
} peak_t;

static witan_status_t multiply(void *context)
{
    static const float one = 1.0f, zero = 0.0f;
    const peak_t      *p    = context;
    const cudaDataType type = p->dtype == WITAN_F32   ? CUDA_R_32F
                              : p->dtype == WITAN_F16 ? CUDA_R_16F
                                                      : CUDA_R_16BF;

    return wtn_cublas_status(
        p->cublas->cublasGemmEx(p->handle, CUBLAS_OP_T, CUBLAS_OP_N, PEAK_SIZE, PEAK_SIZE,
                                PEAK_SIZE, &one, p->memory, type, PEAK_SIZE,
                                p->memory + p->matrix_bytes, type, PEAK_SIZE, &zero,
                                p->memory + 2 * p->matrix_bytes, type, PEAK_SIZE,
                                p->dtype == WITAN_F32 ? CUBLAS_COMPUTE_32F_PEDANTIC
                                                      : CUBLAS_COMPUTE_32F,
                                CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
}

/* A block of random numbers from the host, again and again over A and B. */
static witan_status_t fill(const peak_t *p)
{
    const size_t   bytes  = RANDOM_COUNT * witan_dtype_bytes(p->dtype);
    char          *block  = wtn_alloc(bytes);
    uint64_t       state  = 1;
    witan_status_t status = WITAN_OK;

    if (block == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "peak: %zu bytes", bytes);
    }
    for (size_t i = 0; i < RANDOM_COUNT; i++) {
        state = wtn_hash(state, &i, sizeof(i));
        wtn_store_float(block, p->dtype, i, (float)(state >> 40) * 0x1p-23f - 1.0f);
    }
    for (size_t at = 0; at < 2 * p->matrix_bytes; at += bytes) {
        WTN_CUDA_TRY((int)cudaMemcpy(p->memory + at, block, bytes, cudaMemcpyHostToDevice));
    }

fail:
    wtn_free(block);
    return status;
}

double wtn_cuda_peak(const wtn_tier_t *tier, witan_dtype_t dtype, int32_t thread_count)
{
    const double   flops    = 2.0 * PEAK_SIZE * PEAK_SIZE * PEAK_SIZE;
    char           why[160] = "";
    peak_t         peak     = {.cublas = wtn_cublas(why, sizeof(why)), .dtype = dtype};
    void          *memory   = NULL;
    double         best     = 0.0;
    witan_status_t status;

    (void)tier;
    (void)thread_count;
    if (peak.cublas == NULL) {
        return 0.0;
    }
    peak.matrix_bytes = (size_t)PEAK_SIZE * PEAK_SIZE * witan_dtype_bytes(dtype);
    WTN_CUDA_TRY((int)cudaMalloc(&memory, 3 * peak.matrix_bytes));
    peak.memory = memory;
    WTN_TRY(fill(&peak));
    WTN_CUBLAS_TRY(peak.cublas->cublasCreate(&peak.handle));
    WTN_CUBLAS_TRY(peak.cublas->cublasSetMathMode(peak.handle, dtype == WITAN_F32
                                                                   ? CUBLAS_PEDANTIC_MATH
                                                                   : CUBLAS_DEFAULT_MATH));
    for (int pass = 0; pass <= PEAK_PASSES; pass++) {
        double seconds = 0.0;

        WTN_TRY(wtn_cuda_measure(multiply, &peak, NULL, &seconds));
        if (pass > 0 && seconds > 0.0 && flops / seconds > best) {
            best = flops / seconds;
        }
    }

fail:
    (void)status; /* what can not be measured is 0 */
    if (peak.handle != NULL) {
        (void)peak.cublas->cublasDestroy(peak.handle);
    }
    (void)cudaFree(memory);
    return best;
}

double wtn_cuda_read_bandwidth(size_t bytes, int32_t thread_count)
{
    double rate = 0.0;

    (void)thread_count;
    return wtn_cuda_probe_read_bandwidth(bytes, &rate) == WITAN_OK ? rate : 0.0;
}

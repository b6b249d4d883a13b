/* cuBLAS in software: matrices by column, sums in double by ascending k, rounded to float and then
 * to the type of C. Arguments are checked when the call is made, memory is read when the stream
 * runs. */
#include <cublas_v2.h>
#include <string.h>
#include <vector>

#include "tests/emulator/number.h"
#include "tests/emulator/state.h"
#include "tests/emulator/stream.h"

using namespace emulator;

struct cublasContext {
    cudaStream_t stream;
};

struct matrix_t {
    const void  *data;
    cudaDataType type;
    int64_t      leading; /* elements from a column to the next */
};

struct gemm_t {
    bool     a_transposed, b_transposed;
    int64_t  m, n, k;
    float    alpha, beta;
    matrix_t a, b, c;
};

static size_t type_bytes(cudaDataType type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

static float load(const matrix_t &x, int64_t row, int64_t column)
{
    size_t      at   = (size_t)(row + column * x.leading) * type_bytes(x.type);
    const char *from = (const char *)x.data + at;
    uint16_t    half;
    float       value;

    if (x.type == CUDA_R_32F) {
        memcpy(&value, from, sizeof(value));
        return value;
    }
    memcpy(&half, from, sizeof(half));
    return x.type == CUDA_R_16BF ? float_from_bf16(half) : float_from_f16(half);
}

static void store(const matrix_t &x, int64_t row, int64_t column, float value)
{
    size_t   at = (size_t)(row + column * x.leading) * type_bytes(x.type);
    char    *to = (char *)const_cast<void *>(x.data) + at;
    uint16_t half;

    if (x.type == CUDA_R_32F) {
        memcpy(to, &value, sizeof(value));
        return;
    }
    half = x.type == CUDA_R_16BF ? bf16_from_float(value) : f16_from_float(value);
    memcpy(to, &half, sizeof(half));
}

static void multiply(const gemm_t &g)
{
    std::vector<float> a((size_t)(g.m * g.k)), column((size_t)g.k);

    for (int64_t i = 0; i < g.m; i++) {
        for (int64_t p = 0; p < g.k; p++) {
            a[(size_t)(i * g.k + p)] = g.a_transposed ? load(g.a, p, i) : load(g.a, i, p);
        }
    }
    for (int64_t j = 0; j < g.n; j++) {
        for (int64_t p = 0; p < g.k; p++) {
            column[(size_t)p] = g.b_transposed ? load(g.b, j, p) : load(g.b, p, j);
        }
        for (int64_t i = 0; i < g.m; i++) {
            const float *row = a.data() + i * g.k;
            double       sum = 0;
            for (int64_t p = 0; p < g.k; p++) {
                sum += (double)row[p] * (double)column[(size_t)p];
            }
            double out = (double)g.alpha * sum;
            if (g.beta != 0) { /* else C need not hold numbers */
                out += (double)g.beta * (double)load(g.c, i, j);
            }
            store(g.c, i, j, (float)out);
        }
    }
}

static bool known_type(cudaDataType type)
{
    return type == CUDA_R_32F || type == CUDA_R_16F || type == CUDA_R_16BF;
}

static cublasStatus_t describe(gemm_t *g, cublasOperation_t a_op, cublasOperation_t b_op, int m,
                               int n, int k, const void *alpha, cudaDataType a_type, int lda,
                               cudaDataType b_type, int ldb, const void *beta, cudaDataType c_type,
                               int ldc, cublasComputeType_t compute)
{
    if (m < 0 || n < 0 || k < 0 || alpha == NULL || beta == NULL) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (lda < (a_op == CUBLAS_OP_N ? m : k) || lda < 1 || ldb < (b_op == CUBLAS_OP_N ? k : n) ||
        ldb < 1 || ldc < m || ldc < 1) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if ((compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC) ||
        !known_type(a_type) || a_type != b_type || (c_type != a_type && c_type != CUDA_R_32F)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    g->a_transposed = a_op != CUBLAS_OP_N;
    g->b_transposed = b_op != CUBLAS_OP_N;
    g->m            = m;
    g->n            = n;
    g->k            = k;
    memcpy(&g->alpha, alpha, sizeof(float));
    memcpy(&g->beta, beta, sizeof(float));
    g->a = {NULL, a_type, lda};
    g->b = {NULL, b_type, ldb};
    g->c = {NULL, c_type, ldc};
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t queue(cublasHandle_t handle, const char *name, work_t work)
{
    return enqueue(handle->stream, name, std::move(work)) == cudaSuccess
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_EXECUTION_FAILED;
}

/* ---- handles ---- */

cublasStatus_t cublasCreate(cublasHandle_t *handle)
{
    if (ready() != cudaSuccess) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    *handle = new cublasContext();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion(cublasHandle_t handle, int *version)
{
    (void)handle;
    *version = 130000;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void *workspace, size_t bytes)
{
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    if (bytes > 0 && ((uintptr_t)workspace % 16 != 0 || !is_device_memory(workspace))) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode)
{
    (void)mode;
    return handle == NULL ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode(cublasHandle_t handle, cublasPointerMode_t mode)
{
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    return mode == CUBLAS_POINTER_MODE_HOST ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasSetSmCountTarget(cublasHandle_t handle, int count)
{
    return handle == NULL || count < 0 ? CUBLAS_STATUS_INVALID_VALUE : CUBLAS_STATUS_SUCCESS;
}

static const struct {
    cublasStatus_t status;
    const char    *name, *text;
} statuses[] = {
#define STATUS(status, text)  \
    {                         \
        status, #status, text \
    }
    STATUS(CUBLAS_STATUS_SUCCESS, "success"),
    STATUS(CUBLAS_STATUS_NOT_INITIALIZED, "the library was not initialized"),
    STATUS(CUBLAS_STATUS_ALLOC_FAILED, "the resource allocation failed"),
    STATUS(CUBLAS_STATUS_INVALID_VALUE, "an invalid value was used as an argument"),
    STATUS(CUBLAS_STATUS_ARCH_MISMATCH, "an absent device architectural feature is required"),
    STATUS(CUBLAS_STATUS_MAPPING_ERROR, "an access to GPU memory space failed"),
    STATUS(CUBLAS_STATUS_EXECUTION_FAILED, "the GPU program failed to execute"),
    STATUS(CUBLAS_STATUS_INTERNAL_ERROR, "an internal operation failed"),
    STATUS(CUBLAS_STATUS_NOT_SUPPORTED, "the requested functionality is not supported"),
#undef STATUS
};

const char *cublasGetStatusName(cublasStatus_t status)
{
    for (const auto &row : statuses) {
        if (row.status == status) {
            return row.name;
        }
    }
    return "unknown status";
}

const char *cublasGetStatusString(cublasStatus_t status)
{
    for (const auto &row : statuses) {
        if (row.status == status) {
            return row.text;
        }
    }
    return "unknown status";
}

/* ---- products ---- */

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t a_op,
                                          cublasOperation_t b_op, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType a_type,
                                          int lda, long long int a_stride, const void *b,
                                          cudaDataType b_type, int ldb, long long int b_stride,
                                          const void *beta, void *c, cudaDataType c_type, int ldc,
                                          long long int c_stride, int batch_count,
                                          cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    gemm_t         g = {};
    cublasStatus_t status;

    (void)algorithm;
    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    status = describe(&g, a_op, b_op, m, n, k, alpha, a_type, lda, b_type, ldb, beta, c_type, ldc,
                      compute);
    if (status != CUBLAS_STATUS_SUCCESS || batch_count < 0) {
        return status == CUBLAS_STATUS_SUCCESS ? CUBLAS_STATUS_INVALID_VALUE : status;
    }
    if (m == 0 || n == 0 || batch_count == 0) {
        return CUBLAS_STATUS_SUCCESS;
    }
    return queue(handle, "cublasGemmStridedBatchedEx", [=]() {
        gemm_t one = g;
        for (long long i = 0; i < batch_count; i++) {
            one.a.data = (const char *)a + i * a_stride * (long long)type_bytes(a_type);
            one.b.data = (const char *)b + i * b_stride * (long long)type_bytes(b_type);
            one.c.data = (const char *)c + i * c_stride * (long long)type_bytes(c_type);
            multiply(one);
        }
        return true;
    });
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t a_op, cublasOperation_t b_op,
                            int m, int n, int k, const void *alpha, const void *a,
                            cudaDataType a_type, int lda, const void *b, cudaDataType b_type,
                            int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    return cublasGemmStridedBatchedEx(handle, a_op, b_op, m, n, k, alpha, a, a_type, lda, 0, b,
                                      b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute,
                                      algorithm);
}

cublasStatus_t cublasGemmGroupedBatchedEx(
    cublasHandle_t handle, const cublasOperation_t a_op[], const cublasOperation_t b_op[],
    const int m[], const int n[], const int k[], const void *alpha, const void *const a[],
    cudaDataType a_type, const int lda[], const void *const b[], cudaDataType b_type,
    const int ldb[], const void *beta, void *const c[], cudaDataType c_type, const int ldc[],
    int group_count, const int group_size[], cublasComputeType_t compute)
{
    std::vector<gemm_t> products; /* of each problem of each group */

    if (handle == NULL) {
        return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    if (group_count < 0) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    for (int i = 0; i < group_count; i++) {
        gemm_t         g = {};
        cublasStatus_t status =
            describe(&g, a_op[i], b_op[i], m[i], n[i], k[i], (const float *)alpha + i, a_type,
                     lda[i], b_type, ldb[i], (const float *)beta + i, c_type, ldc[i], compute);
        if (status != CUBLAS_STATUS_SUCCESS || group_size[i] < 0) {
            return status == CUBLAS_STATUS_SUCCESS ? CUBLAS_STATUS_INVALID_VALUE : status;
        }
        if (c_type != a_type) {
            return CUBLAS_STATUS_NOT_SUPPORTED;
        }
        products.insert(products.end(), (size_t)group_size[i], g);
    }
    if (products.empty()) {
        return CUBLAS_STATUS_SUCCESS;
    }
    if (!is_device_memory(a) || !is_device_memory(b) || !is_device_memory(c)) {
        return CUBLAS_STATUS_INVALID_VALUE; /* a device would fault */
    }
    return queue(handle, "cublasGemmGroupedBatchedEx", [=]() {
        for (size_t i = 0; i < products.size(); i++) {
            gemm_t one = products[i];
            one.a.data = a[i];
            one.b.data = b[i];
            one.c.data = c[i];
            multiply(one);
        }
        return true;
    });
}

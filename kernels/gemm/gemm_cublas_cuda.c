/* Grouped GEMM by cuBLAS: the baseline, and the one executor of fp32. cuBLAS wants to know the rows
 * of every expert on the host, so `up` waits for the device once; `down` uses the same counts.
 *
 * One product per expert, in pieces of bounded size, through fp32 sums in memory; all experts by
 * one grouped call where their rows fit one piece and cuBLAS serves the types. Which kernel it
 * picks, and so the order of a sum, depends on the shape: bits may depend on the number of rows. */
#include <stdlib.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/cublas_cuda.h"
#include "kernels/cuda/cuda.h"
#include "kernels/gather/gather.h"
#include "kernels/gemm/gemm_cuda.h"
#include "kernels/gemm/gemm_epilogue_cuda.h"

#ifdef WTN_EMULATOR
#define CUBLAS_BYTES ((size_t)4096)     /* it takes none */
#define PIECE_BYTES  ((int64_t)1 << 10) /* so that small tests have several */
#else
#define PIECE_BYTES  ((int64_t)256 << 20) /* of sums */
#define CUBLAS_BYTES ((size_t)32 << 20)   /* what NVIDIA advises to give it on Hopper */
#endif
#define PIECE_ROWS_MIN 128
#define GROUP_WORDS    11 /* of 4 bytes, in the lists of a grouped call, per expert */

typedef struct cublas_state {
    const wtn_cublas_t *cublas;
    cublasHandle_t      handle;
    cudaEvent_t         copied;    /* the last use of `pointers` */
    int64_t            *row_begin; /* pinned [expert_count + 1], as the last `up` found it */
    const void        **pointers;  /* pinned [3][expert_count] */
    /* [expert_count] each, the lists of a grouped call */
    int               *m, *n, *k, *lda, *ldb, *ldc, *size;
    float             *alpha, *beta;
    cublasOperation_t *transpose, *plain;
    void              *groups; /* the memory of these lists */
} cublas_state_t;

/* Where things are in the workspace. */
typedef struct pieces {
    int64_t      rows; /* of a piece */
    int64_t      sums_stride;
    void        *cublas;
    void        *a; /* gathered rows of a piece */
    void        *sums;
    const void **pointers; /* of the device, [3][expert_count] */
    size_t       bytes;
} pieces_t;

static pieces_t carve(void *base, const wtn_cuda_weights_t *weights, int64_t row_count_max)
{
    wtn_carver_t carver = {.base = base};
    pieces_t pieces  = {.sums_stride = wtn_ceil_div(weights->N, WTN_CUDA_ALIGN) * WTN_CUDA_ALIGN};
    const size_t row = (size_t)pieces.sums_stride * sizeof(float);

    pieces.rows     = wtn_max_i64(PIECE_BYTES / (int64_t)row, PIECE_ROWS_MIN);
    pieces.rows     = wtn_min_i64(pieces.rows, row_count_max);
    pieces.pointers = wtn_carve(&carver, 3 * (size_t)weights->expert_count, sizeof(void *));
    pieces.sums     = wtn_carve(&carver, (size_t)pieces.rows, row);
    pieces.a        = wtn_carve(&carver, (size_t)pieces.rows,
                                (size_t)weights->K * witan_dtype_bytes(weights->dtype));
    pieces.cublas   = wtn_carve(&carver, 1, CUBLAS_BYTES);
    pieces.bytes    = carver.bytes;
    return pieces;
}

static size_t workspace_bytes(const wtn_cuda_weights_t *up, const wtn_cuda_weights_t *down,
                              int64_t row_count_max)
{
    const size_t a = carve(NULL, up, row_count_max).bytes;
    const size_t b = carve(NULL, down, row_count_max).bytes;

    return a > b ? a : b;
}

static void release(void *memory)
{
    cublas_state_t *state = memory;

    if (state == NULL) {
        return;
    }
    if (state->handle != NULL) {
        (void)state->cublas->cublasDestroy(state->handle);
    }
    if (state->copied != NULL) {
        (void)cudaEventDestroy(state->copied);
    }
    if (state->row_begin != NULL) {
        (void)cudaFreeHost(state->row_begin);
    }
    if (state->pointers != NULL) {
        (void)cudaFreeHost((void *)state->pointers);
    }
    free(state->groups);
    free(state);
}

/* All groups alike but for their rows. */
static void fill_groups(cublas_state_t *state, int32_t expert_count)
{
    const size_t E = (size_t)expert_count;

    state->size      = (int *)(void *)state->groups;
    state->m         = state->size + E;
    state->n         = state->m + E;
    state->k         = state->n + E;
    state->lda       = state->k + E;
    state->ldb       = state->lda + E;
    state->ldc       = state->ldb + E;
    state->alpha     = (float *)(void *)(state->ldc + E);
    state->beta      = state->alpha + E;
    state->transpose = (cublasOperation_t *)(void *)(state->beta + E);
    state->plain     = state->transpose + E;
    for (size_t e = 0; e < E; e++) {
        state->size[e]      = 1;
        state->alpha[e]     = 1.0f;
        state->beta[e]      = 0.0f;
        state->transpose[e] = CUBLAS_OP_T;
        state->plain[e]     = CUBLAS_OP_N;
    }
}

static witan_status_t prepare(void **out, const wtn_cuda_weights_t *up,
                              const wtn_cuda_weights_t *down)
{
    const size_t    E        = (size_t)up->expert_count;
    cublas_state_t *state    = calloc(1, sizeof(*state));
    char            why[160] = "";
    void           *pinned;
    witan_status_t  status;

    *out = NULL;
    if (state == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "cublas: %zu experts", E);
    }
    state->groups = calloc(E, GROUP_WORDS * sizeof(int));
    if (state->groups == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "cublas: lists of %zu experts", E);
        goto fail;
    }
    if (up->N > INT32_MAX || up->K > INT32_MAX || down->N > INT32_MAX || down->K > INT32_MAX) {
        status = WTN_ERROR(WITAN_E_UNSUPPORTED, "cublas: a matrix of more than 2^31 rows");
        goto fail;
    }
    fill_groups(state, up->expert_count);
    state->cublas = wtn_cublas(why, sizeof(why));
    if (state->cublas == NULL) {
        status = WTN_ERROR(WITAN_E_UNSUPPORTED, "%s", why);
        goto fail;
    }
    WTN_CUDA_TRY((int)cudaHostAlloc(&pinned, (E + 1) * sizeof(int64_t), cudaHostAllocPortable));
    state->row_begin = pinned;
    WTN_CUDA_TRY((int)cudaHostAlloc(&pinned, 3 * E * sizeof(void *), cudaHostAllocPortable));
    state->pointers = pinned;
    WTN_CUDA_TRY((int)cudaEventCreateWithFlags(&state->copied, cudaEventDisableTiming));
    WTN_CUBLAS_TRY(state->cublas->cublasCreate(&state->handle));
    WTN_CUBLAS_TRY(state->cublas->cublasSetMathMode(
        state->handle, up->dtype == WITAN_F32 ? CUBLAS_PEDANTIC_MATH
                                              : CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
    *out = state;
    return WITAN_OK;

fail:
    release(state);
    return status;
}

static cudaDataType element_type(witan_dtype_t dtype)
{
    return dtype == WITAN_F32 ? CUDA_R_32F : dtype == WITAN_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

static cublasComputeType_t compute_type(witan_dtype_t dtype)
{
    return dtype == WITAN_F32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F;
}

/* One call's product, and what does not change over it. */
typedef struct product {
    const cublas_state_t       *state;
    const wtn_cuda_gemm_args_t *args;
    const wtn_cuda_weights_t   *weights;
    pieces_t                    pieces;
    size_t                      element;
} product_t;

/* Rows row .. row + count - 1 of A, next to each other. */
static witan_status_t rows_of_a(const product_t *p, int64_t row, int64_t count, const void **a)
{
    const size_t row_bytes = (size_t)p->args->a_stride * p->element;

    if (p->args->a_index == NULL) {
        *a = (const char *)p->args->a + (size_t)row * row_bytes;
        return WITAN_OK;
    }
    *a = p->pieces.a;
    return wtn_cuda_gather(&(wtn_gather_args_t){.x         = p->args->a,
                                                .index     = p->args->a_index + row,
                                                .row_count = count,
                                                .row_bytes = row_bytes,
                                                .out       = p->pieces.a,
                                                .stream    = p->args->stream});
}

static const void *weights_of(const product_t *p, int32_t expert)
{
    const size_t matrix = (size_t)p->weights->N * (size_t)p->weights->K * p->element;

    return (const char *)p->weights->w + (size_t)expert * matrix;
}

/* cuBLAS has matrices by column: rows of sums are its columns, so sums' = W' * A. */
static witan_status_t multiply_piece(const product_t *p, int32_t expert, int64_t row, int64_t count)
{
    static const float        one = 1.0f, zero = 0.0f;
    const wtn_cuda_weights_t *w    = p->weights;
    const cudaDataType        type = element_type(w->dtype);
    const void               *a;
    witan_status_t            status;

    const wtn_cuda_epilogue_args_t epilogue = {.gemm        = p->args,
                                               .sums        = p->pieces.sums,
                                               .sums_stride = p->pieces.sums_stride,
                                               .row         = row,
                                               .row_count   = count};

    WTN_TRY(rows_of_a(p, row, count, &a));
    WTN_CUBLAS_TRY(p->state->cublas->cublasGemmEx(p->state->handle, CUBLAS_OP_T, CUBLAS_OP_N,
                                                  (int)w->N, (int)count, (int)w->K, &one,
                                                  weights_of(p, expert), type, (int)w->K, a, type,
                                                  (int)p->args->a_stride, &zero, p->pieces.sums,
                                                  CUDA_R_32F, (int)p->pieces.sums_stride,
                                                  compute_type(w->dtype), CUBLAS_GEMM_DEFAULT));
    WTN_TRY(wtn_cuda_epilogue(&epilogue));

fail:
    return status;
}

static witan_status_t multiply_experts(const product_t *p)
{
    const int64_t *row_begin = p->state->row_begin;
    witan_status_t status    = WITAN_OK;

    for (int32_t e = 0; e < p->weights->expert_count; e++) {
        for (int64_t row = row_begin[e]; row < row_begin[e + 1]; row += p->pieces.rows) {
            const int64_t count = wtn_min_i64(p->pieces.rows, row_begin[e + 1] - row);

            WTN_TRY(multiply_piece(p, e, row, count));
        }
    }

fail:
    return status;
}

/* The grouped call rounds its sums to the type of A. That is the result itself where nothing is to
 * be done to them in fp32. */
static bool can_group(const product_t *p)
{
    const wtn_cuda_weights_t *w    = p->weights;
    const bool                sums = w->dtype == WITAN_F32;

    return p->state->cublas->cublasGemmGroupedBatchedEx != NULL &&
           p->state->row_begin[w->expert_count] <= p->pieces.rows &&
           (sums || (p->args->activation == NULL && w->bias == NULL));
}

/* The lists of the experts that have rows; how many there are. */
static int list_groups(const product_t *p, const char *a)
{
    const cublas_state_t     *s       = p->state;
    const wtn_cuda_weights_t *w       = p->weights;
    const size_t              E       = (size_t)w->expert_count;
    const size_t              a_row   = (size_t)p->args->a_stride * p->element;
    const size_t              sum_row = (size_t)p->pieces.sums_stride * p->element;
    int                       count   = 0;

    for (int32_t e = 0; e < w->expert_count; e++) {
        const int64_t row  = s->row_begin[e];
        const int64_t rows = s->row_begin[e + 1] - row;

        if (rows == 0) {
            continue;
        }
        s->m[count]                        = (int)w->N;
        s->n[count]                        = (int)rows;
        s->k[count]                        = (int)w->K;
        s->lda[count]                      = (int)w->K;
        s->ldb[count]                      = (int)p->args->a_stride;
        s->ldc[count]                      = (int)p->pieces.sums_stride;
        s->pointers[count]                 = weights_of(p, e);
        s->pointers[E + (size_t)count]     = a + (size_t)row * a_row;
        s->pointers[2 * E + (size_t)count] = (const char *)p->pieces.sums + (size_t)row * sum_row;
        count++;
    }
    return count;
}

/* Every expert at once, if the library serves it for this device and type. The lists of pointers
 * travel to the device; the next call that fills them waits until they have. */
static witan_status_t multiply_grouped(const product_t *p, bool *served)
{
    const cublas_state_t *s      = p->state;
    const size_t          E      = (size_t)p->weights->expert_count;
    const int64_t         rows   = s->row_begin[E];
    const cudaDataType    type   = element_type(p->weights->dtype);
    const cudaStream_t    stream = (cudaStream_t)p->args->stream;
    const void          **device = p->pieces.pointers;
    const void           *a;
    int                   count;
    cublasStatus_t        code;
    witan_status_t        status;

    const wtn_cuda_epilogue_args_t epilogue = {.gemm        = p->args,
                                               .sums        = p->pieces.sums,
                                               .sums_stride = p->pieces.sums_stride,
                                               .rounded     = p->weights->dtype != WITAN_F32,
                                               .row_count   = rows};

    WTN_TRY(rows_of_a(p, 0, rows, &a));
    WTN_CUDA_TRY((int)cudaEventSynchronize(s->copied));
    count = list_groups(p, a);
    WTN_CUDA_TRY((int)cudaMemcpyAsync((void *)device, (const void *)s->pointers,
                                      3 * E * sizeof(void *), cudaMemcpyHostToDevice, stream));
    WTN_CUDA_TRY((int)cudaEventRecord(s->copied, stream));
    code    = s->cublas->cublasGemmGroupedBatchedEx(s->handle, s->transpose, s->plain, s->m, s->n,
                                                    s->k, s->alpha, device, type, s->lda, device + E,
                                                    type, s->ldb, s->beta,
                                                    (void *const *)(uintptr_t)(device + 2 * E), type,
                                                    s->ldc, count, s->size,
                                                    compute_type(p->weights->dtype));
    *served = code != CUBLAS_STATUS_NOT_SUPPORTED;
    if (*served) {
        WTN_TRY(wtn_cublas_status(code, "cublasGemmGroupedBatchedEx"));
        WTN_TRY(wtn_cuda_epilogue(&epilogue));
    }

fail:
    return status;
}

static witan_status_t multiply(const cublas_state_t *state, const wtn_cuda_gemm_args_t *args)
{
    const wtn_cuda_weights_t *w      = args->weights;
    const product_t           p      = {.state   = state,
                                        .args    = args,
                                        .weights = w,
                                        .pieces  = carve(args->workspace, w, args->row_count_max),
                                        .element = witan_dtype_bytes(w->dtype)};
    bool                      served = false;
    witan_status_t            status = WITAN_OK;

    if (state->row_begin[w->expert_count] == 0) {
        return WITAN_OK;
    }
    WTN_CUBLAS_TRY(state->cublas->cublasSetStream(state->handle, (cudaStream_t)args->stream));
    WTN_CUBLAS_TRY(state->cublas->cublasSetWorkspace(state->handle, p.pieces.cublas, CUBLAS_BYTES));
    WTN_CUBLAS_TRY(state->cublas->cublasSetSmCountTarget(
        state->handle, args->sm_reserved > 0 ? wtn_cuda_sm_count(args->sm_reserved) : 0));
    if (can_group(&p)) {
        WTN_TRY(multiply_grouped(&p, &served));
    }
    WTN_TRY(served ? WITAN_OK : multiply_experts(&p));

fail:
    return status;
}

/* The one wait of this backend. What the stream waits for may never come: the caller's poll may
 * end it. */
static witan_status_t wait_for(const wtn_cuda_gemm_args_t *args)
{
    cudaError_t code = cudaStreamQuery((cudaStream_t)args->stream);

    while (code == cudaErrorNotReady) {
        if (args->poll != NULL) {
            args->poll(args->poll_context);
        }
        code = cudaStreamQuery((cudaStream_t)args->stream);
    }
    return wtn_cuda_status((int)code, "cublas: row counts");
}

static witan_status_t up(void *memory, const wtn_cuda_gemm_args_t *args)
{
    cublas_state_t *state = memory;
    const size_t    bytes = ((size_t)args->weights->expert_count + 1) * sizeof(int64_t);
    witan_status_t  status;

    WTN_CUDA_TRY((int)cudaMemcpyAsync(state->row_begin, args->row_begin, bytes,
                                      cudaMemcpyDeviceToHost, (cudaStream_t)args->stream));
    WTN_TRY(wait_for(args));
    WTN_TRY(multiply(state, args));

fail:
    return status;
}

static witan_status_t down(void *memory, const wtn_cuda_gemm_args_t *args)
{
    return multiply(memory, args);
}

const wtn_cuda_gemm_t wtn_cuda_gemm_cublas = {
    .prepare         = prepare,
    .release         = release,
    .workspace_bytes = workspace_bytes,
    .up              = up,
    .down            = down,
    .waits           = true,
    .few_rows_max    = 0, /* there is one form */
};

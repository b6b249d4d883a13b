/* cuBLAS, opened when it is first asked for: a program built with CUDA starts without it. Includes
 * cuBLAS's header, so for *_cuda.c only. */
#ifndef WTN_CUBLAS_CUDA_H
#define WTN_CUBLAS_CUDA_H

#include <stdbool.h>
#include <stddef.h>

#include <cublas_v2.h>

#include <witan/status.h>

/* The functions used. cublasGemmGroupedBatchedEx came with 12.5: NULL in older libraries. */
#define WTN_CUBLAS_LIST(X)    \
    X(cublasCreate)           \
    X(cublasDestroy)          \
    X(cublasSetStream)        \
    X(cublasSetWorkspace)     \
    X(cublasSetMathMode)      \
    X(cublasSetSmCountTarget) \
    X(cublasGetStatusName)    \
    X(cublasGetStatusString)  \
    X(cublasGemmEx)
#define WTN_CUBLAS_OPTIONAL_LIST(X) X(cublasGemmGroupedBatchedEx)

/* cublasCreate is a macro for cublasCreate_v2: the members have the expanded names, as has every
 * use of them. */
typedef struct wtn_cublas {
#define WTN_CUBLAS_MEMBER(name) __typeof__(&name) name;
    WTN_CUBLAS_LIST(WTN_CUBLAS_MEMBER)
    WTN_CUBLAS_OPTIONAL_LIST(WTN_CUBLAS_MEMBER)
#undef WTN_CUBLAS_MEMBER
} wtn_cublas_t;

/* The library, or NULL and why not. One for the process; never closed. */
const wtn_cublas_t *wtn_cublas(char *reason, size_t reason_bytes);

/* WITAN_OK for success; else "<what>: <cuBLAS's own name and text>". */
witan_status_t wtn_cublas_status(cublasStatus_t code, const char *what);

/* For functions with `witan_status_t status` and a label `fail`, beside WTN_TRY. */
#define WTN_CUBLAS_TRY(call)                       \
    do {                                           \
        status = wtn_cublas_status((call), #call); \
        if (status != WITAN_OK) {                  \
            goto fail;                             \
        }                                          \
    } while (0)

#endif

/* NCCL's functions, opened when first needed, so that a program built with CUDA starts without. */
#ifndef WTN_NCCL_LIBRARY_H
#define WTN_NCCL_LIBRARY_H

#include <nccl.h>

#include <witan/status.h>

#define WTN_NCCL_FUNCTIONS(X) \
    X(GetVersion)             \
    X(GetUniqueId)            \
    X(GetErrorString)         \
    X(GetLastError)           \
    X(CommInitRankConfig)     \
    X(CommSplit)              \
    X(CommGetAsyncError)      \
    X(CommFinalize)           \
    X(CommDestroy)            \
    X(CommAbort)              \
    X(GroupStart)             \
    X(GroupEnd)               \
    X(Send)                   \
    X(Recv)                   \
    X(AllReduce)              \
    X(AllGather)              \
    X(ReduceScatter)          \
    X(AlltoAll)

#if NCCL_VERSION_CODE < 22803
#error "NCCL 2.28.3 or newer is needed"
#endif

typedef struct wtn_nccl_library {
#define WTN_NCCL_POINTER(name) __typeof__(nccl##name) *name;
    WTN_NCCL_FUNCTIONS(WTN_NCCL_POINTER)
#undef WTN_NCCL_POINTER
} wtn_nccl_library_t;

/* The library, opened by the first call. WITAN_E_UNSUPPORTED "nccl: libnccl.so.2: ..." by the
 * loader's own text, for a missing function, and for a version that does not serve. */
witan_status_t wtn_nccl_library(const wtn_nccl_library_t **out);

#endif

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "kernels/cuda/cublas_cuda.h"

static wtn_cublas_t   table;
static char           fault[160]; /* empty: the table is filled */
static pthread_once_t once = PTHREAD_ONCE_INIT;

#ifdef WTN_EMULATOR

static void open_library(void)
{
#define CUBLAS_LINKED(name) table.name = name;
    WTN_CUBLAS_LIST(CUBLAS_LINKED)
    WTN_CUBLAS_OPTIONAL_LIST(CUBLAS_LINKED)
#undef CUBLAS_LINKED
}

#else

#define TEXT_(x)          #x
#define TEXT(x)           TEXT_(x)

/* A function pointer is no void *, so it is copied as bytes (POSIX, dlsym). */
static void find(void *library, const char *name, void *function, bool needed)
{
    void *found = dlsym(library, name);

    memcpy(function, &found, sizeof(found));
    if (found == NULL && needed && fault[0] == '\0') {
        (void)snprintf(fault, sizeof(fault), "%s: not found in libcublas.so", name);
    }
}

static void open_library(void)
{
    const char *name    = "libcublas.so." TEXT(CUBLAS_VER_MAJOR);
    void       *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);

    if (library == NULL) {
        (void)snprintf(fault, sizeof(fault), "%s", dlerror());
        return;
    }
#define CUBLAS_FIND(name) find(library, TEXT(name), &table.name, true);
    WTN_CUBLAS_LIST(CUBLAS_FIND)
#undef CUBLAS_FIND
#define CUBLAS_FIND(name) find(library, TEXT(name), &table.name, false);
    WTN_CUBLAS_OPTIONAL_LIST(CUBLAS_FIND)
#undef CUBLAS_FIND
}

#endif

const wtn_cublas_t *wtn_cublas(char *reason, size_t reason_bytes)
{
    (void)pthread_once(&once, open_library);
    if (fault[0] != '\0') {
        (void)snprintf(reason, reason_bytes, "%s", fault);
        return NULL;
    }
    return &table;
}

witan_status_t wtn_cublas_status(cublasStatus_t code, const char *what)
{
    if (code == CUBLAS_STATUS_SUCCESS) {
        return WITAN_OK;
    }
    return WTN_ERROR(code == CUBLAS_STATUS_ALLOC_FAILED ? WITAN_E_MEMORY : WITAN_E_INTERNAL,
                     "%s: %s: %s", what, table.cublasGetStatusName(code),
                     table.cublasGetStatusString(code));
}

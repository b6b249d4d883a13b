/* Opening NCCL, and the transport's row for `witan info`. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "comm/nccl.h"
#include "comm/nccl_library_cuda.h"
#include "core/error.h"
#include "kernels/backend.h"

static pthread_once_t     open_once = PTHREAD_ONCE_INIT;
static wtn_nccl_library_t library;
static char               open_failure[256]; /* empty: all is there */

#ifdef WTN_EMULATOR
static void open_library(void)
{
#define LINK_FUNCTION(name) library.name = nccl##name;
    WTN_NCCL_FUNCTIONS(LINK_FUNCTION)
#undef LINK_FUNCTION
}
#else
static void find_function(void *handle, const char *name, void *pointer, size_t pointer_bytes)
{
    void *symbol = dlsym(handle, name);

    if (symbol == NULL && open_failure[0] == '\0') {
        (void)snprintf(open_failure, sizeof(open_failure), "libnccl.so.2: no function %s", name);
    }
    memcpy(pointer, &symbol, pointer_bytes); /* C has no cast from data to functions */
}

static void open_library(void)
{
    void *handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);

    if (handle == NULL) {
        (void)snprintf(open_failure, sizeof(open_failure), "%s", dlerror());
        return;
    }
#define FIND_FUNCTION(name) \
    find_function(handle, "nccl" #name, &library.name, sizeof(library.name));
    WTN_NCCL_FUNCTIONS(FIND_FUNCTION)
#undef FIND_FUNCTION
}
#endif

int32_t wtn_nccl_version_compiled(void)
{
    return NCCL_VERSION_CODE;
}

int32_t wtn_nccl_version_loaded(void)
{
    int version = 0;

    (void)pthread_once(&open_once, open_library);
    if (open_failure[0] != '\0' || library.GetVersion(&version) != ncclSuccess) {
        return 0;
    }
    return version;
}

/* "2.28.9" from 22809 */
static void version_text(int32_t version, char text[32])
{
    (void)snprintf(text, 32, "%d.%d.%d", (int)(version / 10000), (int)(version / 100 % 100),
                   (int)(version % 100));
}

/* Structs of configurations grow from version to version: a newer library reads an older program's,
 * not the other way round. */
static witan_status_t check_version(void)
{
    int32_t loaded = wtn_nccl_version_loaded();
    char    expected[32], found[32];

    version_text(NCCL_VERSION_CODE, expected);
    version_text(loaded, found);
    if (loaded / 10000 != NCCL_MAJOR) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "nccl: libnccl.so.2: expected version %d, found %s",
                         NCCL_MAJOR, found);
    }
    if (loaded < NCCL_VERSION_CODE) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED,
                         "nccl: libnccl.so.2: expected version %s or newer, found %s", expected,
                         found);
    }
    return WITAN_OK;
}

witan_status_t wtn_nccl_library(const wtn_nccl_library_t **out)
{
    (void)pthread_once(&open_once, open_library);
    *out = &library;
    if (open_failure[0] != '\0') {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "nccl: %s", open_failure);
    }
    return check_version();
}

/* A device, and the library. */
static bool probe(char *reason, size_t reason_bytes)
{
    const wtn_nccl_library_t *found;
    const char               *text;

    if (!wtn_backend_cuda.probe(reason, reason_bytes)) {
        return false;
    }
    if (wtn_nccl_library(&found) == WITAN_OK) {
        return true;
    }
    text = witan_last_error();
    (void)snprintf(reason, reason_bytes, "%s", strncmp(text, "nccl: ", 6) == 0 ? text + 6 : text);
    return false;
}

const wtn_transport_t wtn_transport_nccl = {.name = "nccl", .probe = probe};

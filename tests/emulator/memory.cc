/* Memory: of the device (shared with other processes on demand), pinned, copies, guards.
 *
 * All device memory lies in one range of addresses reserved once. Each allocation ends at the end
 * of a page (less up to 15 bytes, so that it stays aligned to 16) and the page behind it raises
 * SIGBUS when touched; the bytes around it that share its pages are filled and checked when it is
 * freed. Outside of rounds the whole range is protected: a host that touches device memory dies of
 * SIGSEGV, as it would beside a real device. */
#include <errno.h>
#include <fcntl.h>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/emulator/state.h"
#include "tests/emulator/stream.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(from, bytes)   ((void)(from), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(from, bytes) ((void)(from), (void)(bytes))
#endif

namespace emulator
{

static const size_t        PAGE        = 4096;
static const size_t        RANGE_BYTES = (size_t)1 << 40;
static const unsigned char FILL        = 0xA5; /* around allocations */
static const unsigned char FRESH       = 0xFF; /* in new ones: NaN in every format of floats */

enum kind_t { DEVICE, PINNED, MAPPED };

struct allocation_t {
    kind_t kind;
    char  *user; /* the first byte handed out */
    size_t bytes;
    char  *pages; /* the first page; the guard is the page behind */
    size_t pages_bytes;
    off_t  offset; /* in the file of device memory */
    int    device;
};

/* By the address one past the last byte of each, so that upper_bound finds who holds an address. */
static std::map<const char *, allocation_t> allocations;

static char  *range; /* of device memory */
static size_t range_used;
static size_t range_dead; /* of it, from the start on: nothing lives there any more */
static int    file = -1;  /* device memory of this process; other processes open it by name */
static pid_t  file_owner;
static off_t  file_used;
static int    nothing = -1; /* an empty file: its pages raise SIGBUS */
static int    open_depth;
static size_t device_bytes;

/* ---- the range ---- */

static bool make_range(void)
{
    void *memory;

    if (range == NULL) {
        memory =
            mmap(NULL, RANGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            return false;
        }
        range   = (char *)memory;
        nothing = memfd_create("witan-emulator-guard", MFD_CLOEXEC);
    }
    if (file_owner != getpid()) { /* the first time, or in a child: its memory is its own */
        file       = memfd_create("witan-emulator-device", MFD_CLOEXEC);
        file_owner = getpid();
        file_used  = 0;
    }
    return file >= 0 && nothing >= 0;
}

static int protection(void)
{
    return open_depth > 0 || !settings.protect ? PROT_READ | PROT_WRITE : PROT_NONE;
}

void open_device_memory(void)
{
    if (open_depth++ == 0 && settings.protect && range_used > range_dead) {
        mprotect(range + range_dead, range_used - range_dead, PROT_READ | PROT_WRITE);
    }
}

void close_device_memory(void)
{
    if (--open_depth == 0 && settings.protect && range_used > range_dead) {
        mprotect(range + range_dead, range_used - range_dead, PROT_NONE);
    }
}

/* Pages that raise SIGBUS. At their own offset in the empty file, so that neighbours become one
 * mapping: the kernel then protects and opens a range with many of them quickly. */
static bool map_nothing(char *at, size_t bytes)
{
    return mmap(at, bytes, protection(), MAP_SHARED | MAP_FIXED, nothing, at - range) != MAP_FAILED;
}

/* Pages of a file at the end of what is used of the range, and a guard behind them. */
static char *map_pages(int from, off_t offset, size_t bytes)
{
    char *at = range + range_used;

    if (bytes > RANGE_BYTES - range_used - PAGE) {
        return NULL;
    }
    if (mmap(at, bytes, protection(), MAP_SHARED | MAP_FIXED, from, offset) == MAP_FAILED ||
        !map_nothing(at + bytes, PAGE)) {
        return NULL;
    }
    range_used += bytes + PAGE;
    return at;
}

/* ---- one allocation ---- */

static size_t round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static void fill_around(const allocation_t &a)
{
    char  *behind       = a.user + a.bytes;
    size_t behind_bytes = (size_t)(a.pages + a.pages_bytes - behind);

    memset(a.pages, FILL, (size_t)(a.user - a.pages));
    memset(behind, FILL, behind_bytes);
    ASAN_POISON_MEMORY_REGION(a.pages, (size_t)(a.user - a.pages));
    ASAN_POISON_MEMORY_REGION(behind, behind_bytes);
}

/* The first byte around the allocation that was written, or NULL. */
static const char *changed_around(const allocation_t &a)
{
    const char *end = a.pages + a.pages_bytes;

    ASAN_UNPOISON_MEMORY_REGION(a.pages, a.pages_bytes);
    for (const char *p = a.user + a.bytes; p < end; p++) {
        if ((unsigned char)*p != FILL) {
            return p;
        }
    }
    for (const char *p = a.user - 1; p >= a.pages; p--) {
        if ((unsigned char)*p != FILL) {
            return p;
        }
    }
    return NULL;
}

static const allocation_t *find(const void *pointer)
{
    auto it = allocations.upper_bound((const char *)pointer);

    return it != allocations.end() && it->second.user <= (const char *)pointer ? &it->second : NULL;
}

static cudaError_t allocate(void **out, size_t bytes, kind_t kind)
{
    allocation_t a    = {};
    size_t       used = round_up(bytes, 16);

    if (used < bytes || used > RANGE_BYTES / 2 || !make_range()) {
        return cudaErrorMemoryAllocation;
    }
    a.kind        = kind;
    a.bytes       = bytes;
    a.pages_bytes = round_up(used, PAGE);
    cudaGetDevice(&a.device);
    if (kind == DEVICE) {
        a.offset = file_used;
        if (ftruncate(file, file_used + (off_t)a.pages_bytes) != 0) {
            return cudaErrorMemoryAllocation;
        }
        file_used += (off_t)a.pages_bytes;
        a.pages = map_pages(file, a.offset, a.pages_bytes);
        if (a.pages == NULL) {
            return cudaErrorMemoryAllocation;
        }
        device_bytes += bytes;
    } else {
        void *memory = mmap(NULL, a.pages_bytes + PAGE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            return cudaErrorMemoryAllocation;
        }
        a.pages = (char *)memory;
        mprotect(a.pages + a.pages_bytes, PAGE, PROT_NONE);
    }
    a.user = a.pages + a.pages_bytes - used;
    open_device_memory();
    memset(a.user, FRESH, bytes);
    fill_around(a);
    close_device_memory();
    allocations[a.user + a.bytes] = a;
    *out                          = a.user;
    return cudaSuccess;
}

/* Where nothing lives any more, one mapping takes the place of many: their number is what changes
 * of protection cost. */
static void bury_dead(void)
{
    for (const auto &entry : allocations) {
        if (entry.second.kind != PINNED) {
            return;
        }
    }
    mmap(range + range_dead, range_used - range_dead, PROT_READ | PROT_WRITE,
         MAP_SHARED | MAP_FIXED, nothing, 0);
    range_dead = range_used;
}

static cudaError_t release(void *memory, kind_t kind)
{
    const allocation_t *found = find(memory);
    const char         *bad;
    char                text[256];

    if (found == NULL || found->user != memory || found->kind != kind) {
        return cudaErrorInvalidValue;
    }
    allocation_t a = *found;
    allocations.erase(a.user + a.bytes);
    if (kind != MAPPED) {
        open_device_memory();
        bad = changed_around(a);
        close_device_memory();
        if (bad != NULL) {
            (void)snprintf(text, sizeof(text), "%zu bytes of %s memory: byte %td was written",
                           a.bytes, kind == DEVICE ? "device" : "pinned", bad - a.user);
            fail_device(cudaErrorIllegalAddress, text);
            return cudaErrorIllegalAddress;
        }
    }
    if (kind == PINNED) {
        munmap(a.pages, a.pages_bytes + PAGE);
        return cudaSuccess;
    }
    /* Addresses are not used twice: what still points there finds nothing. */
    (void)map_nothing(a.pages, a.pages_bytes + PAGE);
    if (kind == DEVICE) {
        device_bytes -= a.bytes;
        if (file_owner == getpid()) {
            (void)fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, a.offset,
                            (off_t)a.pages_bytes);
        }
    }
    bury_dead();
    return cudaSuccess;
}

bool is_device_memory(const void *pointer)
{
    const allocation_t *a = find(pointer);

    return a != NULL && a->kind != PINNED;
}

bool is_pinned_memory(const void *pointer)
{
    const allocation_t *a = find(pointer);

    return a != NULL && a->kind == PINNED;
}

bool describe_address(const void *pointer, char *text, size_t text_bytes)
{
    const char *p  = (const char *)pointer;
    auto        it = allocations.upper_bound(p);

    if (it != allocations.begin()) {
        const allocation_t &before = std::prev(it)->second;
        if (p >= before.user + before.bytes && p < before.pages + before.pages_bytes + PAGE) {
            (void)snprintf(text, text_bytes, "byte %td of an allocation of %zu bytes",
                           p - before.user, before.bytes);
            return true;
        }
    }
    if (it != allocations.end() && p >= it->second.pages - PAGE) {
        (void)snprintf(text, text_bytes, "byte %td of an allocation of %zu bytes",
                       p - it->second.user, it->second.bytes);
        return true;
    }
    if (range != NULL && p >= range && p < range + range_used) {
        (void)snprintf(text, text_bytes, "device memory that was freed");
        return true;
    }
    return false;
}

/* ---- other processes ---- */

struct ipc_handle_t {
    pid_t    pid;
    int      file;
    off_t    offset;
    uint64_t pages_bytes, begin, bytes;
    int      device;
};
static_assert(sizeof(ipc_handle_t) <= sizeof(cudaIpcMemHandle_t), "64 bytes");

static cudaError_t ipc_open(void **out, const ipc_handle_t &handle)
{
    allocation_t a = {};
    char         name[64];
    int          theirs;

    if (handle.pid == getpid()) {
        return cudaErrorDeviceUninitialized; /* as the runtime: not in the process it is from */
    }
    (void)snprintf(name, sizeof(name), "/proc/%d/fd/%d", (int)handle.pid, handle.file);
    theirs = open(name, O_RDWR | O_CLOEXEC);
    if (theirs < 0 || !make_range()) {
        return cudaErrorMapBufferObjectFailed;
    }
    a.kind        = MAPPED;
    a.bytes       = handle.bytes;
    a.pages_bytes = handle.pages_bytes;
    a.device      = handle.device;
    a.pages       = map_pages(theirs, handle.offset, a.pages_bytes);
    (void)close(theirs);
    if (a.pages == NULL) {
        return cudaErrorMapBufferObjectFailed;
    }
    a.user                        = a.pages + handle.begin;
    allocations[a.user + a.bytes] = a;
    *out                          = a.user;
    return cudaSuccess;
}

} // namespace emulator

using namespace emulator;

uint64_t wtn_emulator_device_bytes(void)
{
    return device_bytes;
}

/* ---- the runtime's calls ---- */

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();

    if (code == cudaSuccess) {
        code = refuse_while_capturing();
    }
    if (code == cudaSuccess && settings.alloc_fails_in > 0 && --settings.alloc_fails_in == 0) {
        code = cudaErrorMemoryAllocation;
    }
    if (code == cudaSuccess && out == NULL) {
        code = cudaErrorInvalidValue;
    }
    if (code == cudaSuccess && bytes == 0) {
        *out = NULL;
        return cudaSuccess;
    }
    return answer(code == cudaSuccess ? allocate(out, bytes, DEVICE) : code);
}

static cudaError_t free_kind(void *memory, kind_t kind)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();

    if (code != cudaSuccess || memory == NULL) {
        return answer(code);
    }
    code = refuse_while_capturing();
    if (code == cudaSuccess) {
        code = wait_for_device(); /* the runtime does so too */
    }
    return answer(code == cudaSuccess ? release(memory, kind) : code);
}

cudaError_t cudaFree(void *memory)
{
    return free_kind(memory, DEVICE);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned int flags)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();

    (void)flags;
    if (code == cudaSuccess) {
        code = refuse_while_capturing();
    }
    if (code == cudaSuccess && settings.alloc_fails_in > 0 && --settings.alloc_fails_in == 0) {
        code = cudaErrorMemoryAllocation;
    }
    if (code == cudaSuccess && bytes == 0) {
        *out = NULL;
        return cudaSuccess;
    }
    return answer(code == cudaSuccess ? allocate(out, bytes, PINNED) : code);
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    return cudaHostAlloc(out, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *memory)
{
    return free_kind(memory, PINNED);
}

cudaError_t cudaHostGetDevicePointer(void **out, void *memory, unsigned int flags)
{
    std::lock_guard<std::recursive_mutex> hold(lock);

    if (flags != 0 || !is_pinned_memory(memory)) {
        return answer(cudaErrorInvalidValue);
    }
    *out = memory; /* one address for all, as on every 64-bit system */
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();

    *total_bytes = (size_t)16 << 30;
    *free_bytes  = device_bytes < *total_bytes ? *total_bytes - device_bytes : 0;
    return answer(code);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *pointer)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();
    const allocation_t                   *a    = find(pointer);

    memset(out, 0, sizeof(*out));
    out->device = -2; /* as the runtime for memory it does not know */
    if (code == cudaSuccess && a != NULL) {
        out->type          = a->kind == PINNED ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
        out->device        = a->device;
        out->devicePointer = const_cast<void *>(pointer);
        out->hostPointer   = a->kind == PINNED ? const_cast<void *>(pointer) : NULL;
    } else {
        out->hostPointer = const_cast<void *>(pointer);
    }
    return answer(code);
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *memory)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();
    const allocation_t                   *a    = find(memory);
    ipc_handle_t                          h    = {};

    if (code == cudaSuccess && (a == NULL || a->kind != DEVICE || a->user != memory)) {
        code = cudaErrorInvalidValue;
    }
    if (code == cudaSuccess) {
        h.pid         = file_owner;
        h.file        = file;
        h.offset      = a->offset;
        h.pages_bytes = a->pages_bytes;
        h.begin       = (uint64_t)(a->user - a->pages);
        h.bytes       = a->bytes;
        h.device      = a->device;
        memset(handle, 0, sizeof(*handle));
        memcpy(handle, &h, sizeof(h));
    }
    return answer(code);
}

cudaError_t cudaIpcOpenMemHandle(void **out, cudaIpcMemHandle_t handle, unsigned int flags)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();
    ipc_handle_t                          h;

    memcpy(&h, &handle, sizeof(h));
    if (code == cudaSuccess && flags != cudaIpcMemLazyEnablePeerAccess) {
        code = cudaErrorInvalidValue;
    }
    return answer(code == cudaSuccess ? ipc_open(out, h) : code);
}

cudaError_t cudaIpcCloseMemHandle(void *memory)
{
    return free_kind(memory, MAPPED);
}

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "core/util.h"

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

uint64_t wtn_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void *wtn_alloc(size_t bytes)
{
    size_t alignment = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : WTN_CACHE_LINE_BYTES;
    void  *memory;

    if (bytes > SIZE_MAX - alignment) {
        return NULL;
    }
    bytes  = wtn_align_up(bytes == 0 ? 1 : bytes, alignment);
    memory = aligned_alloc(alignment, bytes);
    if (memory != NULL && alignment == HUGE_PAGE_BYTES) {
        (void)madvise(memory, bytes, MADV_HUGEPAGE); /* 20% in decode; without it all still works */
    }
    return memory;
}

void wtn_free(void *memory)
{
    free(memory);
}

void wtn_discard(void *memory, size_t bytes)
{
    const size_t    page  = 4096;
    const uintptr_t begin = ((uintptr_t)memory + page - 1) / page * page;
    const uintptr_t end   = ((uintptr_t)memory + bytes) / page * page;

    if (end > begin) {
        (void)madvise((char *)memory + (begin - (uintptr_t)memory), end - begin, MADV_DONTNEED);
    }
}

void *wtn_carve(wtn_carver_t *carver, size_t count, size_t size)
{
    size_t bytes, end;
    void  *start;

    if (carver->bytes == SIZE_MAX || !wtn_mul(count, size, &bytes) ||
        bytes > SIZE_MAX - WTN_CACHE_LINE_BYTES ||
        !wtn_add(carver->bytes, wtn_align_up(bytes, WTN_CACHE_LINE_BYTES), &end)) {
        carver->bytes = SIZE_MAX;
        return NULL;
    }
    start         = carver->base == NULL ? NULL : carver->base + carver->bytes;
    carver->bytes = end;
    return start;
}

uint64_t wtn_hash(uint64_t seed, const void *data, size_t bytes)
{
    const unsigned char *byte = data;
    uint64_t             hash = seed ^ 0xcbf29ce484222325u, word;

    for (; bytes >= sizeof(word); bytes -= sizeof(word), byte += sizeof(word)) {
        memcpy(&word, byte, sizeof(word));
        hash = (hash ^ word) * 0x100000001b3u;
        hash ^= hash >> 32; /* a product carries upwards only */
    }
    for (; bytes > 0; bytes--, byte++) {
        hash = (hash ^ *byte) * 0x100000001b3u;
    }
    return hash;
}

/* Small things used everywhere: checked arithmetic, the clock, aligned memory. */
#ifndef WTN_UTIL_H
#define WTN_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus /* kernels' launchers carve their workspaces too */
extern "C" {
#endif

#define WTN_CACHE_LINE_BYTES 64
#define WTN_COUNT_OF(array)  (sizeof(array) / sizeof((array)[0]))

/* Monotonic time in nanoseconds. */
uint64_t wtn_now_ns(void);

/* *out = a * b and a + b; false on overflow. */
static inline bool wtn_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool wtn_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

static inline size_t wtn_align_up(size_t bytes, size_t alignment)
{
    return (bytes + alignment - 1) / alignment * alignment;
}

static inline int64_t wtn_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t wtn_max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline int64_t wtn_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Start of part `index` of `count` equal-as-can-be contiguous parts of `total`. */
static inline int64_t wtn_part_begin(int64_t total, int64_t count, int64_t index)
{
    return total / count * index + total % count * index / count;
}

/* Memory aligned to 2 MiB and advised to be huge pages when that large, else to 64 bytes. Not
 * cleared. NULL when there is none. Free with wtn_free. */
void *wtn_alloc(size_t bytes);
void  wtn_free(void *memory);

/* Give the pages inside `bytes` at `memory` back to the system; what is in them is lost, the
 * addresses stay the caller's. */
void wtn_discard(void *memory, size_t bytes);

/* A cursor that carves aligned arrays out of one block; with base NULL it only measures. */
typedef struct wtn_carver {
    char  *base;
    size_t bytes; /* used so far; SIZE_MAX once anything overflowed */
} wtn_carver_t;

/* count * size bytes, 64-byte aligned; NULL while measuring. */
void *wtn_carve(wtn_carver_t *carver, size_t count, size_t size);

/* In the manner of FNV-1a, eight bytes at a time; for comparing things over ranks, and for seeds of
 * tensors by name: changing it changes the blocks of `witan synth`. */
uint64_t wtn_hash(uint64_t seed, const void *data, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif

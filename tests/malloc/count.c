#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include "malloc/count.h"

static atomic_bool           counting;
static atomic_llong          calls;
static _Atomic(const char *) first;

void count_start(void)
{
    atomic_store(&calls, 0);
    atomic_store(&first, "");
    atomic_store(&counting, true);
}

int64_t count_stop(void)
{
    atomic_store(&counting, false);
    return atomic_load(&calls);
}

const char *count_first(void)
{
    return atomic_load(&first);
}

static void note(const char *function)
{
    if (atomic_load(&counting) && atomic_fetch_add(&calls, 1) == 0) {
        atomic_store(&first, function);
    }
}

/* __wrap_f is what callers of f reach, __real_f is f. */
#define WRAP(type, name, parameters, arguments) \
    type __real_##name parameters;              \
    type __wrap_##name parameters;              \
    type __wrap_##name parameters               \
    {                                           \
        note(#name);                            \
        return __real_##name arguments;         \
    }

WRAP(void *, malloc, (size_t bytes), (bytes))
WRAP(void *, calloc, (size_t count, size_t size), (count, size))
WRAP(void *, realloc, (void *memory, size_t bytes), (memory, bytes))
WRAP(void *, reallocarray, (void *memory, size_t count, size_t size), (memory, count, size))
WRAP(void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes))
WRAP(void *, memalign, (size_t alignment, size_t bytes), (alignment, bytes))
WRAP(int, posix_memalign, (void **memory, size_t alignment, size_t bytes),
     (memory, alignment, bytes))
WRAP(char *, strdup, (const char *text), (text))
WRAP(char *, strndup, (const char *text, size_t bytes), (text, bytes))
WRAP(int, vasprintf, (char **text, const char *format, va_list arguments),
     (text, format, arguments))
WRAP(void *, mmap, (void *address, size_t bytes, int protection, int flags, int file, off_t offset),
     (address, bytes, protection, flags, file, offset))
WRAP(int, munmap, (void *address, size_t bytes), (address, bytes))

void __real_free(void *memory);
void __wrap_free(void *memory);
void __wrap_free(void *memory)
{
    if (memory != NULL) {
        note("free");
    }
    __real_free(memory);
}

int __wrap_asprintf(char **text, const char *format, ...);
int __wrap_asprintf(char **text, const char *format, ...)
{
    va_list arguments;
    int     length;

    note("asprintf");
    va_start(arguments, format);
    length = __real_vasprintf(text, format, arguments);
    va_end(arguments);
    return length;
}

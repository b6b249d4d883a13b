/* Arrays of a device for tests: guard bytes behind each, outputs poisoned. */
#ifndef TESTS_CUDA_ROUTING_DEVICE_H
#define TESTS_CUDA_ROUTING_DEVICE_H

#include "kernels/data.h"

/* Memory of the device with a copy of `bytes` bytes; poisoned where host is NULL. */
static inline void *device_from(const void *host, size_t bytes)
{
    char *staged = data_output(bytes);
    void *memory;

    if (host != NULL && bytes > 0) {
        memcpy(staged, host, bytes);
    }
    ck_assert_int_eq(wtn_backend_cuda.alloc(&memory, bytes + GUARD_BYTES), WITAN_OK);
    ck_assert_int_eq(wtn_backend_cuda.copy(memory, staged, bytes + GUARD_BYTES, NULL), WITAN_OK);
    free(staged);
    return memory;
}

/* What the device has there, to be freed; the device's memory is given back. */
static inline void *device_take(void *memory, size_t bytes)
{
    char *host = data_output(bytes);

    ck_assert_msg(wtn_backend_cuda.copy(host, memory, bytes + GUARD_BYTES, NULL) == WITAN_OK, "%s",
                  witan_last_error());
    data_check_guard(host, bytes);
    wtn_backend_cuda.free(memory);
    return host;
}

/* The device's array has these bytes; it is given back. */
static inline void device_check(void *memory, const void *expected, size_t bytes, const char *what)
{
    unsigned char *found = device_take(memory, bytes);
    size_t         i     = 0;

    while (i < bytes && found[i] == ((const unsigned char *)expected)[i]) {
        i++;
    }
    ck_assert_msg(i == bytes, "%s: byte %zu of %zu: expected %02x, found %02x", what, i, bytes,
                  ((const unsigned char *)expected)[i], found[i]);
    free(found);
}

static inline bool is_nan(const void *array, witan_dtype_t dtype, size_t index)
{
    return isnan(wtn_load_float(array, dtype, index));
}

/* The device's numbers have the bits expected, any NaN being one; they are given back. */
static inline void device_check_numbers(void *memory, const void *expected, witan_dtype_t dtype,
                                        size_t count, const char *what)
{
    const size_t size  = witan_dtype_bytes(dtype);
    char        *found = device_take(memory, count * size);
    size_t       i     = 0;

    while (i < count && (memcmp(found + i * size, (const char *)expected + i * size, size) == 0 ||
                         (is_nan(found, dtype, i) && is_nan(expected, dtype, i)))) {
        i++;
    }
    ck_assert_msg(i == count, "%s: element %zu of %zu: expected %a, found %a", what, i, count,
                  (double)wtn_load_float(expected, dtype, i),
                  (double)wtn_load_float(found, dtype, i));
    free(found);
}

static inline int64_t data_below(uint64_t *state, int64_t end)
{
    return (int64_t)(data_next(state) % (uint64_t)end);
}

/* data_main, or 77 where there is no device. */
static inline int device_main(Suite *suite)
{
    char reason[256];

    if (!wtn_backend_cuda.probe(reason, sizeof(reason))) {
        printf("skipped: %s\n", reason);
        return 77;
    }
    return data_main(suite);
}

#endif

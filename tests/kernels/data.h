/* Random tensors and a weight reader over them, for the tests of kernels/. */
#ifndef TESTS_KERNELS_DATA_H
#define TESTS_KERNELS_DATA_H

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "core/util.h"
#include "kernels/backend.h"
#include "kernels/tier.h"

/* Bytes behind every output that must stay as they are. */
#define GUARD_BYTES 256
#define GUARD       0x5a

static inline uint64_t data_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [-scale, scale). */
static inline float data_float(uint64_t *state, float scale)
{
    return scale * ((float)(data_next(state) >> 40) * 0x1p-23f - 1.0f);
}

static inline void *data_alloc(size_t bytes)
{
    void *memory = aligned_alloc(64, wtn_align_up(bytes + 1, 64));

    if (memory == NULL) {
        abort();
    }
    return memory;
}

static inline void *data_tensor(size_t count, witan_dtype_t dtype, float scale, uint64_t seed)
{
    void *tensor = data_alloc(count * witan_dtype_bytes(dtype));

    for (size_t i = 0; i < count; i++) {
        wtn_store_float(tensor, dtype, i, data_float(&seed, scale));
    }
    return tensor;
}

/* An output poisoned with NaN, guard bytes behind it. */
static inline void *data_output(size_t bytes)
{
    char *memory = data_alloc(bytes + GUARD_BYTES);

    memset(memory, 0xff, bytes);
    memset(memory + bytes, GUARD, GUARD_BYTES);
    return memory;
}

static inline void data_check_guard(const void *output, size_t bytes)
{
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        ck_assert_msg(((const unsigned char *)output)[bytes + i] == GUARD,
                      "byte %zu behind the output was written", i);
    }
}

/* Tensors by kind, [experts][rows][cols]; biases are fp32. */
typedef struct data_weights {
    struct {
        const void   *values;
        int64_t       rows, cols;
        witan_dtype_t dtype;
    } tensors[WITAN_WEIGHT_COUNT];
} data_weights_t;

static inline witan_status_t data_read(void *context, const witan_weight_slice_t *slice, void *out)
{
    const data_weights_t *data   = context;
    const int64_t         rows   = data->tensors[slice->weight].rows;
    const int64_t         cols   = data->tensors[slice->weight].cols;
    const witan_dtype_t   dtype  = data->tensors[slice->weight].dtype;
    const int64_t         expert = slice->expert < 0 ? 0 : slice->expert;

    ck_assert_ptr_nonnull(data->tensors[slice->weight].values);
    ck_assert_int_ge(slice->row_begin, 0);
    ck_assert_int_le(slice->row_begin + slice->row_count, rows);
    ck_assert_int_ge(slice->col_begin, 0);
    ck_assert_int_le(slice->col_begin + slice->col_count, cols);
    for (int64_t r = 0; r < slice->row_count; r++) {
        for (int64_t c = 0; c < slice->col_count; c++) {
            int64_t from = (expert * rows + slice->row_begin + r) * cols + slice->col_begin + c;

            wtn_store_float(out, slice->dtype, (size_t)(r * slice->col_count + c),
                            wtn_load_float(data->tensors[slice->weight].values, dtype,
                                           (size_t)from));
        }
    }
    return WITAN_OK;
}

/* Run `body` for every tier this processor has; tell of the others. */
#define FOR_EACH_TIER(tier)                           \
    for (int32_t i_ = 0; wtn_tiers[i_] != NULL; i_++) \
        for (const wtn_tier_t *tier = data_tier(i_); tier != NULL; tier = NULL)

static inline const wtn_tier_t *data_tier(int32_t index)
{
    char reason[128];

    if (wtn_tier_probe(wtn_tiers[index], reason, sizeof(reason))) {
        return wtn_tiers[index];
    }
    printf("skipped: tier %s: %s\n", wtn_tier_name(wtn_tiers[index]), reason);
    return NULL;
}

static inline int data_main(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    int      failed;

    srunner_set_fork_status(runner, CK_NOFORK); /* OpenMP's threads do not survive a fork */
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif

/* Rows on a device: gather, combine and reduce against their references, bit for bit. */
#include "device.h"

#include "kernels/combine/combine.h"
#include "kernels/gather/gather.h"

/* ---- gather ---- */

static void check_gather(size_t row_bytes, int64_t rows, size_t offset)
{
    const int64_t sources = 7;
    const size_t  bytes   = (size_t)rows * row_bytes;
    uint64_t      seed    = row_bytes * 1000 + (uint64_t)rows;
    char         *x       = data_alloc((size_t)sources * row_bytes + offset);
    int64_t      *index   = data_alloc((size_t)rows * sizeof(*index));
    char         *out     = data_output(bytes);
    void         *dx, *di, *dout;

    for (size_t i = 0; i < (size_t)sources * row_bytes + offset; i++) {
        x[i] = (char)data_next(&seed);
    }
    for (int64_t i = 0; i < rows; i++) {
        index[i] = data_below(&seed, sources);
    }
    wtn_gather_ref(&(wtn_gather_args_t){
        .x = x + offset, .index = index, .row_count = rows, .row_bytes = row_bytes, .out = out});
    dx   = device_from(x, (size_t)sources * row_bytes + offset);
    di   = device_from(index, (size_t)rows * sizeof(*index));
    dout = device_from(NULL, bytes);
    ck_assert_int_eq(wtn_cuda_gather(&(wtn_gather_args_t){.x         = (char *)dx + offset,
                                                          .index     = di,
                                                          .row_count = rows,
                                                          .row_bytes = row_bytes,
                                                          .out       = dout}),
                     WITAN_OK);
    device_check(dout, out, bytes, "gather");
    wtn_backend_cuda.free(dx);
    wtn_backend_cuda.free(di);
    free(x);
    free(index);
    free(out);
}

START_TEST(test_gather_any_row_bytes_equal_bytes)
{
    static const size_t  bytes[] = {1,  2,  3,   4,    6,    15,   16,   17,   24,
                                    32, 48, 100, 1000, 2056, 5760, 8192, 8208, 20002};
    static const int64_t rows[]  = {0, 1, 2, 31, 33, 130};

    for (size_t i = 0; i < WTN_COUNT_OF(bytes); i++) {
        for (size_t j = 0; j < WTN_COUNT_OF(rows); j++) {
            check_gather(bytes[i], bytes[i] < 2000 || rows[j] < 3 ? rows[j] : 5, 0);
        }
    }
    check_gather(64, 9, 8);
    check_gather(64, 9, 2);
    check_gather(64, 9, 1);
    check_gather(0, 3, 0);
}
END_TEST

/* ---- combine ---- */

typedef struct combine_case {
    int64_t       T, H;
    int32_t       slots;
    witan_dtype_t dtype, out_dtype;
    bool          weights, shared, logit;
} combine_case_t;

/* Also values that no sum should hide. */
static void spice(void *x, witan_dtype_t dtype, size_t count, uint64_t *seed)
{
    static const float values[] = {INFINITY, -INFINITY, NAN, -0.0f, 0.0f, 65504.0f, 1e-7f, 3e38f};

    for (size_t i = 0; i < count / 16; i++) {
        wtn_store_float(x, dtype, data_next(seed) % count,
                        values[data_next(seed) % WTN_COUNT_OF(values)]);
    }
}

static void check_combine(const combine_case_t *c)
{
    const size_t rows = 11, H = (size_t)c->H, T = (size_t)c->T, slots = T * (size_t)c->slots;
    const size_t size      = witan_dtype_bytes(c->dtype);
    const size_t out_bytes = T * H * witan_dtype_bytes(c->out_dtype);
    uint64_t     seed      = (uint64_t)(c->T * 131 + c->H * 17 + c->slots);
    void        *x         = data_tensor(rows * H, c->dtype, 4.0f, seed + 1);
    void        *shared    = data_tensor(T * H, c->dtype, 4.0f, seed + 2);
    float       *weights   = data_tensor(slots, WITAN_F32, 1.0f, seed + 3);
    float       *logit     = data_tensor(T, WITAN_F32, 20.0f, seed + 4);
    int64_t     *index     = data_alloc(slots * sizeof(*index));
    void        *out       = data_output(out_bytes);
    char         what[160];

    wtn_combine_args_t args = {.token_count  = c->T,
                               .hidden_size  = c->H,
                               .slot_count   = c->slots,
                               .dtype        = c->dtype,
                               .out_dtype    = c->out_dtype,
                               .rows         = x,
                               .row_index    = index,
                               .weights      = c->weights ? weights : NULL,
                               .shared       = c->shared ? shared : NULL,
                               .shared_logit = c->logit ? logit : NULL,
                               .out          = out,
                               .thread_count = 1};
    wtn_combine_args_t on   = args;

    spice(x, c->dtype, rows * H, &seed);
    spice(shared, c->dtype, T * H, &seed);
    for (size_t i = 0; i < slots; i++) {
        index[i] = data_below(&seed, (int64_t)rows + 2) - 2;
        index[i] = index[i] < 0 ? -1 : index[i];
    }
    wtn_combine_ref(&args);
    on.rows         = device_from(x, rows * H * size);
    on.row_index    = device_from(index, slots * sizeof(*index));
    on.weights      = c->weights ? device_from(weights, slots * sizeof(float)) : NULL;
    on.shared       = c->shared ? device_from(shared, T * H * size) : NULL;
    on.shared_logit = c->logit ? device_from(logit, T * sizeof(float)) : NULL;
    on.out          = device_from(NULL, out_bytes);
    ck_assert_int_eq(wtn_cuda_combine(&on), WITAN_OK);
    (void)snprintf(what, sizeof(what), "combine T %d H %d slots %d dtype %d to %d, %d %d %d",
                   (int)c->T, (int)c->H, (int)c->slots, (int)c->dtype, (int)c->out_dtype,
                   c->weights, c->shared, c->logit);
    device_check_numbers(on.out, out, c->out_dtype, T * H, what);
    wtn_backend_cuda.free((void *)on.rows);
    wtn_backend_cuda.free((void *)on.row_index);
    wtn_backend_cuda.free((void *)on.weights);
    wtn_backend_cuda.free((void *)on.shared);
    wtn_backend_cuda.free((void *)on.shared_logit);
    free(x);
    free(shared);
    free(weights);
    free(logit);
    free(index);
    free(out);
}

static const witan_dtype_t dtypes[][2] = {{WITAN_F32, WITAN_F32},
                                          {WITAN_F16, WITAN_F16},
                                          {WITAN_F16, WITAN_F32},
                                          {WITAN_BF16, WITAN_BF16},
                                          {WITAN_BF16, WITAN_F32}};

START_TEST(test_combine_any_shape_bits_of_reference)
{
    static const int64_t hidden[] = {1, 7, 8, 17, 64, 256, 264, 700};
    static const int32_t slots[]  = {0, 1, 3, 8, 9, 17, 70};

    for (size_t i = 0; i < 16; i++) { /* every H with two numbers of slots */
        check_combine(&(combine_case_t){5, hidden[i % WTN_COUNT_OF(hidden)],
                                        slots[i % WTN_COUNT_OF(slots)], dtypes[_i][0],
                                        dtypes[_i][1], i % 2 == 0, i % 3 != 0, i % 5 < 3});
    }
    check_combine(&(combine_case_t){0, 64, 8, dtypes[_i][0], dtypes[_i][1], true, true, true});
    check_combine(&(combine_case_t){70, 40, 2, dtypes[_i][0], dtypes[_i][1], true, true, true});
    check_combine(&(combine_case_t){1, 2880, 4, dtypes[_i][0], dtypes[_i][1], true, true, false});
}
END_TEST

/* ---- reduce ---- */

static void check_reduce(int32_t parts, int64_t count, witan_dtype_t out_dtype, size_t offset)
{
    const size_t out_bytes = (size_t)count * witan_dtype_bytes(out_dtype);
    const size_t stride    = wtn_align_up((size_t)count + offset, 4);
    const size_t all       = (size_t)parts * stride;
    uint64_t     seed      = (uint64_t)count;
    float       *host      = data_tensor(all, WITAN_F32, 100.0f, seed);
    void        *out       = data_output(out_bytes);
    const float *from[32], *on[32];
    float       *device;
    void        *dout;

    spice(host, WITAN_F32, all, &seed);
    for (int32_t p = 0; p < parts; p++) {
        from[p] = host + (size_t)p * stride + offset;
        if (count > 2) { /* -0 alone, and together */
            host[(size_t)p * stride + offset]     = -0.0f;
            host[(size_t)p * stride + offset + 1] = p == 0 ? -0.0f : 0.0f;
        }
    }
    device = device_from(host, all * sizeof(float));
    dout   = device_from(NULL, out_bytes);
    for (int32_t p = 0; p < parts; p++) {
        on[p] = device + (size_t)p * stride + offset;
    }
    wtn_reduce_ref(&(wtn_reduce_args_t){
        .parts = from, .part_count = parts, .count = count, .out_dtype = out_dtype, .out = out});
    ck_assert_int_eq(wtn_cuda_reduce(&(wtn_reduce_args_t){.parts      = on,
                                                          .part_count = parts,
                                                          .count      = count,
                                                          .out_dtype  = out_dtype,
                                                          .out        = dout}),
                     WITAN_OK);
    device_check_numbers(dout, out, out_dtype, (size_t)count, "reduce");
    wtn_backend_cuda.free(device);
    free(host);
    free(out);
}

START_TEST(test_reduce_any_count_bits_of_reference)
{
    static const int32_t parts[]  = {0, 1, 2, 3, 4, 5, 9, 32};
    static const int64_t counts[] = {0, 1, 3, 4, 5, 1000, 1027};

    for (size_t p = 0; p < WTN_COUNT_OF(parts); p++) {
        for (size_t c = 0; c < WTN_COUNT_OF(counts); c++) {
            check_reduce(parts[p], counts[c], WITAN_F32, 0);
            check_reduce(parts[p], counts[c], WITAN_BF16, c % 2);
            check_reduce(parts[p], counts[c], WITAN_F16, 0);
        }
    }
}
END_TEST

START_TEST(test_reduce_too_many_parts_error)
{
    const float *parts[1] = {NULL};

    ck_assert_int_eq(wtn_cuda_reduce(
                         &(wtn_reduce_args_t){.parts      = parts,
                                              .part_count = WTN_CUDA_REDUCE_PARTS_MAX + 1}),
                     WITAN_E_ARGUMENT);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda rows");
    TCase *tcase = tcase_create("all");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_gather_any_row_bytes_equal_bytes);
    tcase_add_loop_test(tcase, test_combine_any_shape_bits_of_reference, 0,
                        (int)WTN_COUNT_OF(dtypes));
    tcase_add_test(tcase, test_reduce_any_count_bits_of_reference);
    tcase_add_test(tcase, test_reduce_too_many_parts_error);
    suite_add_tcase(suite, tcase);
    return device_main(suite);
}

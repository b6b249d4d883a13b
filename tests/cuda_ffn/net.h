/* One network on a device with all it was made from, and calls of it on arrays of the host. */
#ifndef TESTS_CUDA_FFN_NET_H
#define TESTS_CUDA_FFN_NET_H

#include "kernels/net.h"

#define POISON_BYTES ((size_t)1 << 20)

/* Memory of the device with the bytes of `from`; guard bytes behind them. */
static inline void *device_copy(const void *from, size_t bytes)
{
    char *staged = data_output(bytes);
    void *memory;

    if (from != NULL) {
        memcpy(staged, from, bytes);
    }
    ck_assert_int_eq(wtn_backend_cuda.alloc(&memory, bytes + GUARD_BYTES), WITAN_OK);
    ck_assert_int_eq(wtn_backend_cuda.copy(memory, staged, bytes + GUARD_BYTES, NULL), WITAN_OK);
    free(staged);
    return memory;
}

/* The bytes of the device's memory, which is freed; the guard must stand. */
static inline void *device_take(void *memory, size_t bytes)
{
    char *host = data_output(bytes);

    ck_assert_int_eq(wtn_backend_cuda.copy(host, memory, bytes + GUARD_BYTES, NULL), WITAN_OK);
    data_check_guard(host, bytes);
    wtn_backend_cuda.free(memory);
    return host;
}

static inline void *device_list(const void *list, int64_t count, size_t element)
{
    return list == NULL ? NULL : device_copy(list, (size_t)count * element);
}

static inline void net_create(net_t *net, const wtn_tier_t *tier, witan_dtype_t dtype,
                              shape_t shape, const witan_activation_t *activation, bool bias)
{
    net_make(net, &wtn_backend_cuda, tier, dtype, shape, activation, bias);
}

/* A poisoned workspace of exactly `bytes`, of which cuBLAS's own 32 MiB at the end are left as they
 * are; guard bytes behind. */
static inline void *workspace_create(size_t bytes)
{
    const size_t poisoned = bytes < POISON_BYTES ? bytes : POISON_BYTES;
    void        *poison   = data_output(poisoned);
    void        *memory;

    ck_assert_int_eq(wtn_backend_cuda.alloc(&memory, bytes + GUARD_BYTES), WITAN_OK);
    ck_assert_int_eq(wtn_backend_cuda.copy(memory, poison, poisoned, NULL), WITAN_OK);
    ck_assert_int_eq(wtn_backend_cuda.copy((char *)memory + bytes, (char *)poison + poisoned,
                                           GUARD_BYTES, NULL),
                     WITAN_OK);
    free(poison);
    return memory;
}

static inline void workspace_destroy(void *memory, size_t bytes)
{
    char guard[GUARD_BYTES];

    ck_assert_int_eq(wtn_backend_cuda.copy(guard, (char *)memory + bytes, GUARD_BYTES, NULL),
                     WITAN_OK);
    data_check_guard(guard, 0);
    wtn_backend_cuda.free(memory);
}

/* Run on arrays of the host, `x_rows` rows of x; the workspace is poisoned and of exactly the size
 * told, the output poisoned. Returns the output, [out_rows][H]. */
static inline void *net_run(const net_t *net, wtn_ffn_args_t *args, int64_t x_rows,
                            int64_t out_rows)
{
    const size_t   row_bytes = (size_t)net->shape.H * witan_dtype_bytes(net->dtype);
    const int64_t  experts   = net->spec.expert_count;
    const size_t   out_bytes = (size_t)out_rows * row_bytes;
    wtn_ffn_args_t call      = *args;
    void          *counts;

    call.workspace_bytes =
        wtn_backend_cuda.ffn_workspace_bytes(&net->spec, call.row_count, call.masked_rows_max,
                                             call.thread_count);
    call.workspace         = device_copy(NULL, call.workspace_bytes);
    call.x                 = device_copy(args->x, (size_t)x_rows * row_bytes);
    call.out               = device_copy(NULL, out_bytes);
    call.row_expert        = device_list(args->row_expert, call.row_count, sizeof(int32_t));
    call.row_in            = device_list(args->row_in, call.row_count, sizeof(int64_t));
    call.row_out           = device_list(args->row_out, call.row_count, sizeof(int64_t));
    call.expert_row_counts = device_list(args->expert_row_counts, experts, sizeof(int64_t));
    ck_assert_msg(wtn_backend_cuda.ffn_run(net->ffn, &call) == WITAN_OK, "%s", witan_last_error());
    args->executor_taken = call.executor_taken;
    if (args->expert_row_counts != NULL) {
        counts = device_take(call.expert_row_counts, (size_t)experts * sizeof(int64_t));
        memcpy(args->expert_row_counts, counts, (size_t)experts * sizeof(int64_t));
        free(counts);
    }
    workspace_destroy(call.workspace, call.workspace_bytes);
    wtn_backend_cuda.free((void *)(uintptr_t)call.x);
    wtn_backend_cuda.free((void *)(uintptr_t)call.row_expert);
    wtn_backend_cuda.free((void *)(uintptr_t)call.row_in);
    wtn_backend_cuda.free((void *)(uintptr_t)call.row_out);
    return device_take(call.out, out_bytes);
}

/* Every row against the reference; the norms of all rows together as the contract has them. */
static inline void net_check(const net_t *net, const wtn_ffn_args_t *args, const void *out)
{
    const int64_t H       = net->shape.H;
    const size_t  element = witan_dtype_bytes(net->dtype);
    void         *want    = data_alloc((size_t)H * element);
    double        diffs = 0.0, norms = 0.0;
    int64_t       rows = 0;

    for (int64_t i = 0; i < args->row_count; i++) {
        const int64_t in   = args->row_in == NULL ? i : args->row_in[i];
        const int64_t to   = args->row_out == NULL ? i : args->row_out[i];
        const int32_t e    = args->row_expert == NULL ? 0 : args->row_expert[i];
        double        diff = 0.0, norm;

        if (e < 0) {
            continue;
        }
        norm = net_reference(net, e, (const char *)args->x + (size_t)(in * H) * element, want);
        for (int64_t k = 0; k < H; k++) {
            const double r = wtn_load_float(want, net->dtype, (size_t)k);
            const double y = wtn_load_float(out, net->dtype, (size_t)(to * H + k));

            diff += (y - r) * (y - r);
            norms += r * r;
        }
        ck_assert_msg(sqrt(diff) <= tolerance[net->dtype] * norm,
                      "tier %s %s H %ld I %ld row %ld: error %g of %g", net->spec.tier->name,
                      witan_dtype_name(net->dtype), (long)H, (long)net->shape.I, (long)i,
                      sqrt(diff), norm);
        diffs += diff;
        rows++;
    }
    /* among a few numbers one may be a cancelled sum */
    ck_assert_msg(rows * H < 64 || sqrt(diffs) <= tolerance[net->dtype] * sqrt(norms),
                  "tier %s %s H %ld I %ld: error %g of %g", net->spec.tier->name,
                  witan_dtype_name(net->dtype), (long)H, (long)net->shape.I, sqrt(diffs),
                  sqrt(norms));
    free(want);
}

/* Run `body` for every tier that runs here and serves `dtype`. */
#define FOR_EACH_CUDA_TIER(tier, dtype)                            \
    for (int32_t i_ = 0; wtn_backend_cuda.tiers[i_] != NULL; i_++) \
        for (const wtn_tier_t *tier = cuda_tier(i_, dtype); tier != NULL; tier = NULL)

static inline const wtn_tier_t *cuda_tier(int32_t index, witan_dtype_t dtype)
{
    const wtn_tier_t *tier = wtn_backend_cuda.tiers[index];
    char              reason[160];

    if (tier->cuda_gemm[dtype] == NULL) {
        return NULL;
    }
    if (!wtn_tier_probe(tier, reason, sizeof(reason))) {
        printf("skipped: tier %s: %s\n", tier->name, reason);
        return NULL;
    }
    return tier;
}

#endif

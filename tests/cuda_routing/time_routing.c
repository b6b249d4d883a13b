/* How fast the device's routing kernels are, beside a copy of its memory: one line per operation
 * and shape, median of REPEATS with cold caches. Not a test: it is run by hand where there is a
 * GPU. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "kernels/backend.h"
#include "kernels/combine/combine.h"
#include "kernels/cuda/measure_cuda.h"
#include "kernels/gate/gate.h"
#include "kernels/gather/gather.h"
#include "kernels/probe/probe_cuda.h"
#include "kernels/schedule/schedule.h"
#include "kernels/sort/sort.h"
#include "kernels/topk/topk.h"

#define REPEATS 21

static double copy_bandwidth;

static void fail(const char *what)
{
    fprintf(stderr, "time_routing: %s: %s\n", what, witan_last_error());
    exit(1);
}

/* Memory of the device; kept until the end. */
static void *array(size_t bytes)
{
    void *memory;

    if (wtn_backend_cuda.alloc(&memory, bytes + 16) != WITAN_OK) {
        fail("alloc");
    }
    return memory;
}

static void *array_of(const void *from, size_t bytes)
{
    void *memory = array(bytes);

    if (wtn_backend_cuda.copy(memory, from, bytes, NULL) != WITAN_OK) {
        fail("copy");
    }
    return memory;
}

static void *numbers(witan_dtype_t dtype, int64_t count, uint32_t seed)
{
    void *memory = array((size_t)count * witan_dtype_bytes(dtype));

    if (wtn_cuda_fill_random(memory, dtype, count, seed, NULL) != WITAN_OK) {
        fail("fill");
    }
    return memory;
}

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(witan_status_t (*call)(void *), void *context)
{
    double seconds[REPEATS];

    for (int i = -2; i < REPEATS; i++) {
        if (wtn_cuda_measure(call, context, NULL, &seconds[i < 0 ? 0 : i]) != WITAN_OK) {
            fail("measure");
        }
    }
    qsort(seconds, REPEATS, sizeof(*seconds), compare);
    return seconds[REPEATS / 2];
}

/* `bytes` read and written at least. */
static void report(const char *name, double bytes, witan_status_t (*call)(void *), void *context)
{
    const double seconds = median(call, context);

    printf("%-44s %10.2f us %9.1f GB/s %6.1f%% of copy\n", name, seconds * 1e6,
           bytes / seconds * 1e-9, 100.0 * bytes / seconds / copy_bandwidth);
    (void)fflush(stdout);
}

static witan_status_t run_gather(void *context)
{
    return wtn_cuda_gather(context);
}

static void time_gather(int64_t rows, size_t row_bytes)
{
    uint64_t          seed  = 1;
    int64_t          *index = malloc((size_t)rows * sizeof(*index));
    wtn_gather_args_t args  = {.row_count = rows, .row_bytes = row_bytes};
    char              name[64];

    for (int64_t i = 0; i < rows; i++) {
        index[i] = i;
    }
    for (int64_t i = rows - 1; i > 0; i--) {
        const int64_t j = (int64_t)(next(&seed) % (uint64_t)(i + 1)), swap = index[i];

        index[i] = index[j];
        index[j] = swap;
    }
    args.index = array_of(index, (size_t)rows * sizeof(*index));
    args.x     = array((size_t)rows * row_bytes);
    args.out   = array((size_t)rows * row_bytes);
    (void)snprintf(name, sizeof(name), "gather %" PRId64 " rows of %zu bytes", rows, row_bytes);
    report(name, 2.0 * (double)rows * (double)row_bytes, run_gather, &args);
    wtn_backend_cuda.free((void *)(uintptr_t)args.x);
    wtn_backend_cuda.free(args.out);
    free(index);
}

static witan_status_t run_combine(void *context)
{
    return wtn_cuda_combine(context);
}

static void time_combine(int64_t T, int64_t H, int32_t K, bool shared)
{
    uint64_t           seed  = 1;
    const int64_t      rows  = T * K;
    int64_t           *index = malloc((size_t)rows * sizeof(*index));
    wtn_combine_args_t args  = {.token_count = T,
                                .hidden_size = H,
                                .slot_count  = K,
                                .dtype       = WITAN_BF16,
                                .out_dtype   = WITAN_BF16};
    char               name[64];

    for (int64_t i = 0; i < rows; i++) {
        index[i] = i;
    }
    for (int64_t i = rows - 1; i > 0; i--) {
        const int64_t j = (int64_t)(next(&seed) % (uint64_t)(i + 1)), swap = index[i];

        index[i] = index[j];
        index[j] = swap;
    }
    args.rows      = numbers(WITAN_BF16, rows * H, 1);
    args.row_index = array_of(index, (size_t)rows * sizeof(*index));
    args.weights   = numbers(WITAN_F32, rows, 2);
    args.shared    = shared ? numbers(WITAN_BF16, T * H, 3) : NULL;
    args.out       = array((size_t)(T * H) * 2);
    (void)snprintf(name, sizeof(name), "combine T %" PRId64 " H %" PRId64 " K %d%s", T, H, K,
                   shared ? " shared" : "");
    report(name, 2.0 * (double)(T * H) * (K + 1 + shared), run_combine, &args);
    wtn_backend_cuda.free((void *)(uintptr_t)args.rows);
    wtn_backend_cuda.free(args.out);
    free(index);
}

static witan_status_t run_topk(void *context)
{
    return wtn_cuda_topk(context);
}

static void time_topk(int64_t T, int32_t E, int32_t K, const witan_routing_t *routing)
{
    const size_t    work = wtn_cuda_topk_workspace_bytes(E, K, 1);
    wtn_topk_args_t args = {.routing         = routing,
                            .expert_count    = E,
                            .topk            = K,
                            .logits          = numbers(WITAN_F32, T * E, 4),
                            .token_count     = T,
                            .ids             = array((size_t)(T * K) * 4),
                            .weights         = array((size_t)(T * K) * 4),
                            .workspace       = array(work),
                            .workspace_bytes = work};
    char            name[64];

    (void)snprintf(name, sizeof(name), "topk T %" PRId64 " E %d K %d groups %d", T, E, K,
                   routing->group_count);
    report(name, 4.0 * (double)T * (E + 2 * K), run_topk, &args);
}

static witan_status_t run_gate(void *context)
{
    void *const *both = context;

    return wtn_cuda_gate_run(both[0], both[1]);
}

static witan_status_t read_ones(void *context, const witan_weight_slice_t *slice, void *out)
{
    (void)context;
    for (int64_t i = 0; i < slice->row_count * slice->col_count; i++) {
        wtn_store_float(out, slice->dtype, (size_t)i, 1.0f + 0x1p-20f * (float)(i % 4096));
    }
    return WITAN_OK;
}

static void time_gate(int64_t T, int64_t H, int32_t N, witan_dtype_t weights)
{
    const wtn_gate_spec_t spec = {.hidden_size  = H,
                                  .out_count    = N,
                                  .x_dtype      = WITAN_BF16,
                                  .weight_dtype = weights};
    wtn_gate_args_t       args = {.x           = numbers(WITAN_BF16, T * H, 5),
                                  .token_count = T,
                                  .logits      = array((size_t)(T * N) * 4)};
    wtn_gate_t           *gate;
    void                 *both[2];
    char                  name[64];
    double                seconds;

    if (wtn_cuda_gate_create(&gate, &spec, &(witan_weights_t){NULL, read_ones}) != WITAN_OK) {
        fail("gate");
    }
    both[0] = gate;
    both[1] = &args;
    seconds = median(run_gate, both);
    (void)snprintf(name, sizeof(name), "gate T %" PRId64 " H %" PRId64 " E %d of %s", T, H, N,
                   witan_dtype_name(weights));
    printf("%-44s %10.2f us %9.1f TFLOP/s\n", name, seconds * 1e6,
           2.0 * (double)(T * H) * N / seconds * 1e-12);
    (void)fflush(stdout);
    wtn_cuda_gate_destroy(gate);
}

static witan_status_t run_schedule(void *context)
{
    return wtn_cuda_schedule(context);
}

static witan_status_t run_pack(void *context)
{
    return wtn_cuda_pack(context);
}

static witan_status_t run_sort(void *context)
{
    return wtn_cuda_sort(context);
}

static void time_sort(int64_t rows, int32_t E)
{
    const size_t    work = wtn_sort_workspace_bytes(rows, E);
    uint64_t        seed = 3;
    int32_t        *ids  = malloc((size_t)rows * 4);
    wtn_sort_args_t args = {.row_count       = rows,
                            .expert_count    = E,
                            .row_begin       = array(((size_t)E + 1) * 8),
                            .order           = array((size_t)rows * 8),
                            .workspace       = array(work),
                            .workspace_bytes = work};
    char            name[64];

    for (int64_t i = 0; i < rows; i++) {
        ids[i] = (int32_t)(next(&seed) % (uint64_t)E);
    }
    args.row_expert = array_of(ids, (size_t)rows * 4);
    (void)snprintf(name, sizeof(name), "sort %" PRId64 " rows E %d", rows, E);
    report(name, 12.0 * (double)rows, run_sort, &args);
    free(ids);
}

/* Schedule, then pack of all in one round, where every peer's region is this device's. */
static void time_schedule(int64_t T, int64_t H, int32_t E, int32_t K, int32_t peers)
{
    const size_t  work    = wtn_schedule_workspace_bytes(T, E, K, peers);
    const size_t  entries = (size_t)(T * K), pairs = (size_t)(T * wtn_min_i64(K, peers));
    const int64_t words = wtn_token_meta_words(K, false);
    uint64_t      seed  = 2;
    int32_t      *ids = malloc(entries * 4), *owner = malloc((size_t)E * 4);
    int32_t      *local  = malloc((size_t)E * 4);
    void        **tokens = malloc((size_t)peers * 8), **meta = malloc((size_t)peers * 8);
    char          name[64];
    int64_t       sent = 0;

    for (size_t i = 0; i < entries; i++) {
        ids[i] = (int32_t)((next(&seed) * (uint64_t)K + i % (uint64_t)K) % (uint64_t)E);
    }
    for (int32_t e = 0; e < E; e++) {
        owner[e] = (int32_t)((int64_t)e * peers / E);
        local[e] = e;
    }
    wtn_schedule_args_t args = {.ids                 = array_of(ids, entries * 4),
                                .token_count         = T,
                                .token_count_max     = T,
                                .expert_count        = E,
                                .topk                = K,
                                .peer_count          = peers,
                                .owner               = array_of(owner, (size_t)E * 4),
                                .local               = array_of(local, (size_t)E * 4),
                                .round_tokens        = T,
                                .round_count         = 1,
                                .expert_token_counts = array((size_t)E * 8),
                                .pair_token_begin    = array(((size_t)peers + 1) * 8),
                                .pair_row_begin      = array(((size_t)peers + 1) * 8),
                                .send_token          = array(pairs * 8),
                                .token_first_row     = array(pairs * 8),
                                .round_row_begin     = array((size_t)peers * 16),
                                .sum_index           = array(entries * 8),
                                .workspace           = array(work),
                                .workspace_bytes     = work};

    (void)snprintf(name, sizeof(name), "schedule T %" PRId64 " E %d K %d peers %d", T, E, K, peers);
    report(name, 12.0 * (double)entries + 16.0 * (double)pairs, run_schedule, &args);
    if (wtn_backend_cuda.copy(&sent, args.pair_token_begin + peers, sizeof(sent), NULL) !=
        WITAN_OK) {
        fail("copy");
    }
    for (int32_t j = 0; j < peers; j++) {
        tokens[j] = array((size_t)(T * H) * 2);
        meta[j]   = array((size_t)(T * words) * 4);
    }
    wtn_pack_args_t pack = {.schedule   = &args,
                            .hidden     = numbers(WITAN_BF16, T * H, 6),
                            .row_bytes  = (size_t)H * 2,
                            .out_tokens = array_of(tokens, (size_t)peers * 8),
                            .out_meta   = array_of(meta, (size_t)peers * 8)};

    (void)snprintf(name, sizeof(name), "pack T %" PRId64 " H %" PRId64 " K %d peers %d", T, H, K,
                   peers);
    report(name, 4.0 * (double)(sent * H), run_pack, &pack); /* read once per peer */
    for (int32_t j = 0; j < peers; j++) {
        wtn_backend_cuda.free(tokens[j]);
    }
    free(ids);
    free(owner);
    free(local);
    free(tokens);
    free(meta);
}

int main(void)
{
    static const witan_routing_t softmax = {.scale = 1.0f, .group_count = 1, .group_topk = 1};
    static const witan_routing_t grouped = {.score       = WITAN_SCORE_SIGMOID,
                                            .scale       = 2.5f,
                                            .normalise   = true,
                                            .group_count = 8,
                                            .group_topk  = 4,
                                            .group_score = WITAN_GROUP_SCORE_TOP2_SUM};
    char                         reason[256];
    double                       read;

    if (!wtn_backend_cuda.probe(reason, sizeof(reason))) {
        printf("skipped: %s\n", reason);
        return 77;
    }
    if (wtn_cuda_probe_copy_bandwidth((size_t)1 << 30, &copy_bandwidth) != WITAN_OK ||
        wtn_cuda_probe_read_bandwidth((size_t)1 << 30, &read) != WITAN_OK) {
        fail("probe");
    }
    printf("copy (read + written) %.1f GB/s, read %.1f GB/s\n", copy_bandwidth * 1e-9, read * 1e-9);
    time_gather(131072, 4096);
    time_gather(98304, 5760);
    time_gather(32768, 14336);
    time_gather(4194304, 64);
    time_gather(64, 14336);
    time_combine(32768, 2048, 8, false);
    time_combine(16384, 7168, 8, true);
    time_combine(32768, 2880, 4, false);
    time_combine(128, 7168, 8, false);
    time_combine(1, 7168, 8, false);
    time_topk(32768, 128, 8, &softmax);
    time_topk(32768, 256, 8, &grouped);
    time_topk(128, 256, 8, &grouped);
    time_topk(1, 128, 8, &softmax);
    time_topk(1024, 4096, 16, &softmax);
    for (int i = 0; i < 2; i++) {
        const witan_dtype_t weights = i == 0 ? WITAN_BF16 : WITAN_F32;

        time_gate(32768, 2048, 128, weights);
        time_gate(4096, 2048, 128, weights);
        time_gate(1024, 2048, 128, weights);
        time_gate(16384, 7168, 256, weights);
        time_gate(1024, 7168, 256, weights);
        time_gate(64, 7168, 256, weights);
        time_gate(1, 7168, 256, weights);
        time_gate(32768, 2048, 1, weights);
    }
    time_schedule(32768, 2048, 128, 8, 8);
    time_schedule(16384, 7168, 256, 8, 32);
    time_schedule(128, 7168, 256, 8, 8);
    time_schedule(4096, 2048, 128, 8, 1);
    time_schedule(1024, 2048, 128, 8, 1);
    time_schedule(128, 2048, 128, 8, 1);
    time_schedule(1, 7168, 256, 8, 8);
    time_sort(2097152, 256);
    time_sort(262144, 128);
    time_sort(262144, 16);
    time_sort(131072, 128);
    time_sort(32768, 128);
    time_sort(8192, 128);
    time_sort(2048, 128);
    time_sort(1024, 128);
    time_sort(512, 128);
    time_sort(8, 128);
    return 0;
}

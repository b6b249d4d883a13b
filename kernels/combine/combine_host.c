#include <string.h>

#include "core/util.h"
#include "kernels/combine/combine.h"
#include "kernels/tier.h"

/* Fewer bytes than this are not worth waking a thread for. */
#define BYTES_PER_THREAD_MIN 65536
/* Parts begin at multiples of this: a cache line of the narrowest elements. */
#define COLUMNS_MIN 32

bool wtn_combine_tier_supported(const wtn_combine_tier_t *tier)
{
    char reason[64];

    for (size_t i = 0; wtn_tiers[i] != NULL; i++) {
        if (strcmp(wtn_tier_name(wtn_tiers[i]), tier->name) == 0) {
            return wtn_tier_probe(wtn_tiers[i], reason, sizeof(reason));
        }
    }
    return true; /* the generic one asks nothing of the processor */
}

static const wtn_combine_tier_t *best_tier(void)
{
    if (wtn_combine_tier_supported(&wtn_combine_avx512)) {
        return &wtn_combine_avx512;
    }
    return wtn_combine_tier_supported(&wtn_combine_avx2) ? &wtn_combine_avx2 : &wtn_combine_generic;
}

static int32_t useful_threads(int32_t thread_count, int64_t bytes)
{
    return (int32_t)wtn_max_i64(1, wtn_min_i64(thread_count,
                                               wtn_ceil_div(bytes, BYTES_PER_THREAD_MIN)));
}

void wtn_combine_by(const wtn_combine_tier_t *tier, const wtn_combine_args_t *args)
{
    const int64_t T = args->token_count, H = args->hidden_size;
    const int64_t bytes   = T * H * (args->slot_count + 1) * (int64_t)sizeof(uint16_t);
    const int32_t threads = useful_threads(args->thread_count, bytes);
    /* Columns are shared out too where tokens alone would leave threads idle. */
    const int64_t splits =
        wtn_min_i64(T >= 4 * threads ? 1 : threads, wtn_max_i64(1, H / COLUMNS_MIN));
    const int64_t blocks = wtn_ceil_div(H, COLUMNS_MIN);

#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < T * splits; i++) {
        const int64_t begin = wtn_part_begin(blocks, splits, i % splits) * COLUMNS_MIN;
        const int64_t end   = wtn_part_begin(blocks, splits, i % splits + 1) * COLUMNS_MIN;

        tier->combine(args, i / splits, begin, wtn_min_i64(end, H));
    }
}

void wtn_reduce_by(const wtn_combine_tier_t *tier, const wtn_reduce_args_t *args)
{
    const int64_t bytes   = args->count * (args->part_count + 1) * (int64_t)sizeof(float);
    const int32_t threads = useful_threads(args->thread_count, bytes);
    const int64_t blocks  = wtn_ceil_div(args->count, COLUMNS_MIN);

#pragma omp parallel for num_threads(threads) schedule(static)
    for (int32_t part = 0; part < threads; part++) {
        const int64_t begin = wtn_part_begin(blocks, threads, part) * COLUMNS_MIN;
        const int64_t end   = wtn_part_begin(blocks, threads, part + 1) * COLUMNS_MIN;

        tier->reduce(args, begin, wtn_min_i64(end, args->count));
    }
}

witan_status_t wtn_host_combine(const wtn_combine_args_t *args)
{
    wtn_combine_by(best_tier(), args);
    return WITAN_OK;
}

witan_status_t wtn_host_reduce(const wtn_reduce_args_t *args)
{
    wtn_reduce_by(best_tier(), args);
    return WITAN_OK;
}

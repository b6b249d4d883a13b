#include <omp.h>
#include <string.h>

#include "core/util.h"
#include "kernels/probe/probe.h"

#define PEAK_NS        20000000u
#define PEAK_ROUNDS    20000
#define PASSES         3
#define PREFETCH_BYTES 1024

double wtn_probe_peak(const wtn_tier_t *tier, witan_dtype_t dtype, int32_t thread_count)
{
    double rate = 0.0;

    if (tier->peak[dtype] == NULL) {
        return 0.0;
    }
#pragma omp parallel num_threads(thread_count) reduction(+ : rate)
    {
        double   flops = 0.0;
        uint64_t begin, now;

#pragma omp barrier
        begin = wtn_now_ns();
        do {
            flops += tier->peak[dtype](PEAK_ROUNDS);
            now = wtn_now_ns();
        } while (now - begin < PEAK_NS);
        rate += flops / ((double)(now - begin) * 1e-9);
    }
    return rate;
}

typedef uint64_t line_t __attribute__((vector_size(64), may_alias));

/* Every bit of the range takes part in the value. */
static uint64_t read_range(const char *begin, const char *end)
{
    line_t even = {0}, odd = {0};

    for (; end - begin >= 128; begin += 128) {
        __builtin_prefetch(begin + PREFETCH_BYTES, 0, 0);
        __builtin_prefetch(begin + PREFETCH_BYTES + 64, 0, 0);
        even ^= *(const line_t *)(const void *)begin;
        odd ^= *(const line_t *)(const void *)(begin + 64);
    }
    even ^= odd;
    return even[0] ^ even[1] ^ even[2] ^ even[3] ^ even[4] ^ even[5] ^ even[6] ^ even[7];
}

double wtn_probe_read_bandwidth(size_t bytes, int32_t thread_count)
{
    char             *memory = wtn_alloc(bytes);
    const int64_t     lines  = (int64_t)(bytes / 128);
    volatile uint64_t sink   = 0;
    double            best   = 0.0;

    if (memory == NULL || lines == 0) {
        wtn_free(memory);
        return 0.0;
    }
    for (int32_t pass = 0; pass <= PASSES; pass++) {
        uint64_t bits  = 0;
        uint64_t begin = wtn_now_ns();

#pragma omp parallel num_threads(thread_count) reduction(^ : bits)
        {
            int32_t threads = omp_get_num_threads();
            int32_t thread  = omp_get_thread_num();
            char   *from    = memory + 128 * wtn_part_begin(lines, threads, thread);
            char   *to      = memory + 128 * wtn_part_begin(lines, threads, thread + 1);

            if (pass == 0) { /* each thread places its own pages */
                memset(from, 1, (size_t)(to - from));
            } else {
                bits ^= read_range(from, to);
            }
        }
        if (pass > 0) {
            double rate = (double)lines * 128.0 / ((double)(wtn_now_ns() - begin) * 1e-9);

            best = rate > best ? rate : best;
        }
        sink = bits;
    }
    (void)sink;
    wtn_free(memory);
    return best;
}

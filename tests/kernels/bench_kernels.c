/* The experts against what the machine can do, interleaved so that noise meets both.
 *   bench_kernels [E H I threads [dtype [tier]]]   (8 2048 1408 2 BF16 auto) */
#include "data.h"

#include "kernels/ffn/ffn.h"
#include "kernels/probe/probe.h"

static double best_of(double a, double b)
{
    return a > b ? a : b;
}

/* Random weights without any tensor behind them. */
static witan_status_t read_random(void *context, const witan_weight_slice_t *slice, void *out)
{
    const size_t count = (size_t)(slice->row_count * slice->col_count);

    for (size_t i = 0; i < count; i++) {
        wtn_store_float(out, slice->dtype, i, data_float(context, 0.05f));
    }
    return WITAN_OK;
}

static void sweep(const wtn_ffn_spec_t *spec, const wtn_ffn_t *ffn, int32_t threads)
{
    static const int64_t rows_per_expert[] = {1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 256, 512};

    const int64_t H = spec->hidden_size, I = spec->inter_end, E = spec->expert_count;
    const double  weight = 3.0 * (double)(H * I) * (double)witan_dtype_bytes(spec->dtype);

    printf("rows/expert  GFLOP/s    peak  %%peak    GB/s    read  %%read  %%roof\n");
    for (size_t s = 0; s < WTN_COUNT_OF(rows_per_expert); s++) {
        const int64_t  R     = rows_per_expert[s] * E;
        void          *x     = data_tensor((size_t)(R * H), spec->dtype, 1.0f, 1);
        int32_t       *row   = data_alloc((size_t)R * sizeof(int32_t));
        wtn_ffn_args_t args  = {.x          = x,
                                .out        = data_alloc((size_t)(R * H) * 4),
                                .row_count  = R,
                                .row_expert = row,
                                .workspace_bytes =
                                    wtn_backend_host.ffn_workspace_bytes(spec, R, 0, threads),
                                .thread_count = threads};
        double         flops = 6.0 * (double)(R * H) * (double)I;
        double         rate = 0.0, peak = 0.0, read = 0.0, bytes = weight * (double)E, roof;

        args.workspace = wtn_alloc(args.workspace_bytes);
        for (int64_t i = 0; i < R; i++) {
            row[i] = (int32_t)(i % E);
        }
        for (int32_t turn = 0; turn < 3; turn++) {
            uint64_t spent = 0;

            peak = best_of(peak, wtn_probe_peak(spec->tier, spec->dtype, threads));
            read = best_of(read, wtn_probe_read_bandwidth((size_t)256 << 20, threads));
            for (int32_t run = 0; run < 50 && spent < 60000000u; run++) {
                uint64_t begin = wtn_now_ns();
                uint64_t took;

                if (wtn_backend_host.ffn_run(ffn, &args) != WITAN_OK) {
                    exit(1);
                }
                took = wtn_now_ns() - begin;
                rate = best_of(rate, flops / (double)took);
                spent += took;
            }
        }
        bytes = rate * bytes / flops * 1e9;
        roof  = read * flops / (weight * (double)E);
        roof  = roof < peak ? roof : peak;
        printf("%11ld %8.1f %7.1f %5.1f%% %7.1f %7.1f %5.1f%% %5.1f%%\n", (long)rows_per_expert[s],
               rate, peak * 1e-9, rate * 1e11 / peak, bytes * 1e-9, read * 1e-9,
               100.0 * bytes / read, rate * 1e11 / roof);
        wtn_free(args.workspace);
        free(args.out);
        free(row);
        free(x);
    }
}

int main(int argc, char **argv)
{
    uint64_t       state   = 1;
    int32_t        threads = argc > 4 ? (int32_t)strtol(argv[4], NULL, 10) : 2;
    int32_t        ids[1024];
    wtn_ffn_t     *ffn;
    wtn_ffn_spec_t spec = {.hidden_size  = argc > 2 ? strtol(argv[2], NULL, 10) : 2048,
                           .inter_end    = argc > 3 ? strtol(argv[3], NULL, 10) : 1408,
                           .expert_count = argc > 1 ? (int32_t)strtol(argv[1], NULL, 10) : 8,
                           .experts      = ids,
                           .dtype        = WITAN_BF16,
                           .activation   = {.kind = WITAN_ACTIVATION_SILU, .gated = true}};

    for (witan_dtype_t dtype = WITAN_F32; argc > 5 && dtype <= WITAN_BF16; dtype++) {
        spec.dtype = strcmp(argv[5], witan_dtype_name(dtype)) == 0 ? dtype : spec.dtype;
    }
    for (int32_t e = 0; e < 1024; e++) {
        ids[e] = e;
    }
    if (spec.expert_count > 1024 ||
        wtn_tier_select(argc > 6 ? argv[6] : "auto", &spec.tier) != WITAN_OK ||
        wtn_backend_host.ffn_create(&ffn, &spec, &(witan_weights_t){&state, read_random}) !=
            WITAN_OK) {
        fprintf(stderr, "bench_kernels: %s\n", witan_last_error());
        return 1;
    }
    printf("E %d H %ld I %ld %s, %s, %d threads\n", spec.expert_count, (long)spec.hidden_size,
           (long)spec.inter_end, witan_dtype_name(spec.dtype), spec.tier->name, threads);
    sweep(&spec, ffn, threads);
    wtn_backend_host.ffn_destroy(ffn);
    return 0;
}

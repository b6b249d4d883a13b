/* Ordered sums of rows on a device: a lane holds 16 bytes' worth of a token's columns, and fetches
 * them from several rows at once before it adds them one by one. */
#include "core/error.h"
#include "kernels/combine/combine.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"

#define THREADS 256
/* Rows in flight. */
#define DEPTH 8
/* Blocks per multiprocessor: what the registers of DEPTH rows leave. */
#define BLOCKS 3

typedef struct combine_params {
    const char    *rows, *shared;
    const int64_t *row_index;
    const float   *weights, *shared_logit;
    char          *out;
    int64_t        token_count, hidden_size;
    int64_t        row_pieces; /* each one lane's N elements, 32 lanes */
    int32_t        slot_count;
} combine_params_t;

typedef struct reduce_params {
    const float *parts[WTN_CUDA_REDUCE_PARTS_MAX];
    char        *out;
    int64_t      count;
    int32_t      part_count;
} reduce_params_t;

/* ---- N elements of a dtype, as they lie in memory and as floats ---- */

template <witan_dtype_t dtype> WTN_DEVICE constexpr int size_of(void)
{
    return dtype == WITAN_F32 ? 4 : 2;
}

/* N elements of 16 bytes together, or one. */
template <witan_dtype_t dtype, int N> WTN_DEVICE wtn_vec16_t load(const char *from)
{
    wtn_vec16_t v = {0, 0, 0, 0};

    if constexpr (N > 1) {
        v = wtn_load16_stream(from);
    } else if constexpr (dtype == WITAN_F32) {
        v.x = *(const uint32_t *)from;
    } else {
        v.x = *(const uint16_t *)from;
    }
    return v;
}

template <witan_dtype_t dtype, int N> WTN_DEVICE void unpack(const wtn_vec16_t &v, float (&out)[N])
{
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};

#pragma unroll
    for (int i = 0; i < N; i++) {
        if constexpr (dtype == WITAN_F32) {
            out[i] = wtn_float_from_bits(words[i]);
        } else if constexpr (dtype == WITAN_F16) {
            out[i] = wtn_float_from_f16((uint16_t)(words[i / 2] >> (i % 2 * 16)));
        } else {
            out[i] = wtn_float_from_bf16((uint16_t)(words[i / 2] >> (i % 2 * 16)));
        }
    }
}

/* Two floats, rounded. */
template <witan_dtype_t dtype> WTN_DEVICE uint32_t pack(float lo, float hi)
{
    return dtype == WITAN_F16 ? wtn_pack_f16(lo, hi) : wtn_pack_bf16(lo, hi);
}

template <witan_dtype_t dtype, int N> WTN_DEVICE void store(char *to, const float (&x)[N])
{
    if constexpr (N == 1 && dtype == WITAN_F32) {
        *(float *)to = x[0];
    } else if constexpr (N == 1) {
        *(uint16_t *)to = (uint16_t)pack<dtype>(x[0], 0.0f);
    } else if constexpr (dtype == WITAN_F32) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const wtn_vec16_t v = {wtn_bits_from_float(x[i]), wtn_bits_from_float(x[i + 1]),
                                   wtn_bits_from_float(x[i + 2]), wtn_bits_from_float(x[i + 3])};

            wtn_store16(to + 4 * i, v);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) { /* 8 bytes */
            *(uint64_t *)(to + 2 * i) =
                (uint64_t)pack<dtype>(x[i + 2], x[i + 3]) << 32 | pack<dtype>(x[i], x[i + 1]);
        }
    }
}

/* ---- combine ---- */

template <int N> struct sums {
    float x[N];
};

template <witan_dtype_t dtype, int N>
WTN_DEVICE sums<N> combine_token(const combine_params_t &p, int64_t t, int64_t column)
{
    const int64_t slot = t * p.slot_count;
    sums<N>       acc  = {};
    float         x[N];

    if (p.shared != nullptr) {
        const float scale = p.shared_logit != nullptr ? wtn_plain_sigmoid(p.shared_logit[t]) : 1.0f;

        unpack<dtype, N>(load<dtype, N>(p.shared + (t * p.hidden_size + column) * size_of<dtype>()),
                         x);
#pragma unroll
        for (int i = 0; i < N; i++) {
            acc.x[i] = x[i] * scale;
        }
    }
    for (int32_t begin = 0; begin < p.slot_count; begin += DEPTH) {
        wtn_vec16_t v[DEPTH];
        float       w[DEPTH];
        bool        there[DEPTH];

#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            const int32_t k   = begin + d;
            const int64_t row = k < p.slot_count ? p.row_index[slot + k] : -1;

            there[d] = row >= 0;
            if (there[d]) {
                w[d] = p.weights != nullptr ? p.weights[slot + k] : 1.0f;
                v[d] = load<dtype, N>(p.rows + (row * p.hidden_size + column) * size_of<dtype>());
            }
        }
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            if (there[d]) {
                unpack<dtype, N>(v[d], x);
#pragma unroll
                for (int i = 0; i < N; i++) {
                    acc.x[i] = acc.x[i] + w[d] * x[i];
                }
            }
        }
    }
    return acc;
}

template <witan_dtype_t dtype, witan_dtype_t out_dtype, int N>
WTN_KERNEL(THREADS, BLOCKS)
combine_kernel(WTN_PARAMS(combine_params_t, p))
{
    const int64_t items = p.token_count * p.row_pieces;
    const int64_t step  = (int64_t)wtn_block_count() * (THREADS / 32);
    int64_t       item  = (int64_t)wtn_block() * (THREADS / 32) + (wtn_thread() >> 5);

    for (; item < items; item += step) {
        const int64_t t      = item / p.row_pieces;
        const int64_t column = ((item - t * p.row_pieces) * 32 + wtn_lane()) * N;

        if (column < p.hidden_size) {
            store<out_dtype, N>(p.out + (t * p.hidden_size + column) * size_of<out_dtype>(),
                                combine_token<dtype, N>(p, t, column).x);
        }
    }
}

typedef void (*combine_kernel_t)(combine_params_t);

template <witan_dtype_t dtype, witan_dtype_t out_dtype>
static combine_kernel_t choose_combine(bool vectors)
{
    const int N = dtype == WITAN_F32 ? 4 : 8;

    return vectors ? combine_kernel<dtype, out_dtype, N> : combine_kernel<dtype, out_dtype, 1>;
}

extern "C" witan_status_t wtn_cuda_combine(const wtn_combine_args_t *args)
{
    const bool   f32     = args->out_dtype == WITAN_F32;
    const size_t bytes   = args->dtype == WITAN_F32 ? 4 : 2;
    const bool   vectors = ((size_t)args->hidden_size * bytes | (size_t)args->rows |
                          (size_t)args->shared | (size_t)args->out) %
                             16 ==
                         0;
    const int64_t    columns = 32 * (vectors ? 16 / (int64_t)bytes : 1); /* of a warp */
    combine_params_t params  = {};
    wtn_launch_t     launch  = {};
    combine_kernel_t kernel;

    if (args->token_count == 0 || args->hidden_size == 0) {
        return WITAN_OK;
    }
    params.rows         = (const char *)args->rows;
    params.shared       = (const char *)args->shared;
    params.row_index    = args->row_index;
    params.weights      = args->weights;
    params.shared_logit = args->shared_logit;
    params.out          = (char *)args->out;
    params.token_count  = args->token_count;
    params.hidden_size  = args->hidden_size;
    params.row_pieces   = (args->hidden_size + columns - 1) / columns;
    params.slot_count   = args->slot_count;
    if (args->dtype == WITAN_F32) {
        kernel = choose_combine<WITAN_F32, WITAN_F32>(vectors);
    } else if (args->dtype == WITAN_F16) {
        kernel = f32 ? choose_combine<WITAN_F16, WITAN_F32>(vectors)
                     : choose_combine<WITAN_F16, WITAN_F16>(vectors);
    } else {
        kernel = f32 ? choose_combine<WITAN_BF16, WITAN_F32>(vectors)
                     : choose_combine<WITAN_BF16, WITAN_BF16>(vectors);
    }
    launch.name = "combine";
    launch.blocks =
        wtn_grid((params.token_count * params.row_pieces + THREADS / 32 - 1) / (THREADS / 32),
                 BLOCKS, 0);
    launch.threads = THREADS;
    launch.stream  = args->stream;
    return wtn_launch(&launch, kernel, &params);
}

/* ---- reduce ---- */

/* Parts in flight. */
#define REDUCE_DEPTH 4

template <witan_dtype_t out_dtype, int N>
WTN_KERNEL(THREADS, BLOCKS)
reduce_kernel(WTN_PARAMS(reduce_params_t, p))
{
    const int64_t step = (int64_t)wtn_block_count() * THREADS * N;
    int64_t       i    = ((int64_t)wtn_block() * THREADS + wtn_thread()) * N;

    for (; i < p.count; i += step) {
        float acc[N] = {}, x[N];

        for (int32_t begin = 0; begin < p.part_count; begin += REDUCE_DEPTH) {
            wtn_vec16_t v[REDUCE_DEPTH];

#pragma unroll
            for (int d = 0; d < REDUCE_DEPTH; d++) {
                if (begin + d < p.part_count) {
                    v[d] = load<WITAN_F32, N>((const char *)(p.parts[begin + d] + i));
                }
            }
#pragma unroll
            for (int d = 0; d < REDUCE_DEPTH; d++) {
                if (begin + d < p.part_count) {
                    unpack<WITAN_F32, N>(v[d], x);
#pragma unroll
                    for (int j = 0; j < N; j++) { /* the first is taken as it is: -0 stays */
                        acc[j] = begin + d == 0 ? x[j] : acc[j] + x[j];
                    }
                }
            }
        }
        store<out_dtype, N>(p.out + i * size_of<out_dtype>(), acc);
    }
}

typedef void (*reduce_kernel_t)(reduce_params_t);

static reduce_kernel_t choose_reduce(witan_dtype_t out_dtype, bool vectors)
{
    switch (out_dtype) {
    case WITAN_F16:
        return vectors ? reduce_kernel<WITAN_F16, 4> : reduce_kernel<WITAN_F16, 1>;
    case WITAN_BF16:
        return vectors ? reduce_kernel<WITAN_BF16, 4> : reduce_kernel<WITAN_BF16, 1>;
    case WITAN_F32:
    default:
        return vectors ? reduce_kernel<WITAN_F32, 4> : reduce_kernel<WITAN_F32, 1>;
    }
}

/* Elements [begin, begin + count) of the sum. */
static witan_status_t reduce_run(const wtn_reduce_args_t *args, int64_t begin, int64_t count,
                                 bool vectors)
{
    const int64_t   lane_count = vectors ? 4 : 1;
    const size_t    out_bytes  = args->out_dtype == WITAN_F32 ? 4 : 2;
    reduce_params_t params     = {};
    wtn_launch_t    launch     = {};

    if (count == 0) {
        return WITAN_OK;
    }
    for (int32_t i = 0; i < args->part_count; i++) {
        params.parts[i] = args->parts[i] + begin;
    }
    params.out        = (char *)args->out + (size_t)begin * out_bytes;
    params.count      = count;
    params.part_count = args->part_count;
    launch.name       = "reduce";
    launch.blocks =
        wtn_grid((count + lane_count * THREADS - 1) / (lane_count * THREADS), BLOCKS, 0);
    launch.threads = THREADS;
    launch.stream  = args->stream;
    return wtn_launch(&launch, choose_reduce(args->out_dtype, vectors), &params);
}

extern "C" witan_status_t wtn_cuda_reduce(const wtn_reduce_args_t *args)
{
    size_t         misfit = (size_t)args->out;
    int64_t        body;
    witan_status_t status;

    if (args->part_count > WTN_CUDA_REDUCE_PARTS_MAX) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "reduce: parts: expected up to %d; found %d",
                         WTN_CUDA_REDUCE_PARTS_MAX, args->part_count);
    }
    for (int32_t i = 0; i < args->part_count; i++) {
        misfit |= (size_t)args->parts[i];
    }
    body = misfit % 16 == 0 ? args->count / 4 * 4 : 0;
    WTN_TRY(reduce_run(args, 0, body, true));
    WTN_TRY(reduce_run(args, body, args->count - body, false));
    return WITAN_OK;

fail:
    return status;
}

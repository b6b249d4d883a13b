/* Ordered sums of rows on a device: a lane holds 16 bytes' worth of a token's columns, and fetches
 * them from several rows at once before it adds them one by one. */
#include "core/error.h"
#include "kernels/combine/combine.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"

#define THREADS 256
/* Rows in flight per lane: of tokens with few slots, and with more. */
#define FEW  4
#define MANY 8
/* Blocks per multiprocessor: what the registers of so many rows leave. */
#define BLOCKS(depth) ((depth) == FEW ? 6 : 4)
#define REDUCE_BLOCKS 3
/* With so few slots a token waits for its row_index about as long as for its rows: warps live on
 * and fetch the next one's meanwhile. With more, a warp per piece is 1 to 3% faster. */
#define AHEAD_SLOTS 2
#define NO_LIMIT    (1 << 20)

typedef struct combine_params {
    const char    *rows, *shared;
    const int64_t *row_index;
    const float   *weights, *shared_logit;
    char          *out;
    int64_t        token_count, hidden_size;
    uint32_t       row_pieces; /* of 32 lanes' N elements each */
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

/* N elements of 16 bytes together, or one; zeros unless `there`. */
template <witan_dtype_t dtype, int N> WTN_DEVICE wtn_vec16_t load(const char *from, bool there)
{
    wtn_vec16_t v = {0, 0, 0, 0};

    if constexpr (N > 1) {
        v = wtn_load16_stream_if(from, there);
    } else if constexpr (dtype == WITAN_F32) {
        v.x = there ? *(const uint32_t *)from : 0;
    } else {
        v.x = there ? *(const uint16_t *)from : 0;
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
    } else if constexpr (N == 8) {
        const wtn_vec16_t v = {pack<dtype>(x[0], x[1]), pack<dtype>(x[2], x[3]),
                               pack<dtype>(x[4], x[5]), pack<dtype>(x[6], x[7])};

        wtn_store16(to, v);
    } else {
        *(uint64_t *)to = (uint64_t)pack<dtype>(x[N - 2], x[N - 1]) << 32 | pack<dtype>(x[0], x[1]);
    }
}

/* ---- combine ---- */

/* What lane l of a warp knows of slot begin + l of a token; row -1: none. */
typedef struct slot {
    int64_t row;
    float   weight;
} slot_t;

WTN_DEVICE slot_t slot_of(const combine_params_t &p, int64_t t, int32_t begin)
{
    const int32_t k    = begin + (int32_t)wtn_lane();
    slot_t        slot = {-1, 1.0f};

    if (t < p.token_count && k < p.slot_count) {
        slot.row = p.row_index[t * p.slot_count + k];
        if (p.weights != nullptr) {
            slot.weight = p.weights[t * p.slot_count + k];
        }
    }
    return slot;
}

WTN_DEVICE uint64_t shuffle(uint64_t value, uint32_t lane)
{
    const uint32_t lo = wtn_shuffle((uint32_t)value, lane);

    return (uint64_t)wtn_shuffle((uint32_t)(value >> 32), lane) << 32 | lo;
}

/* The rows of slots lane, lane + 1, ...: all are asked for before the first is awaited. */
template <witan_dtype_t dtype, int N, int depth>
WTN_DEVICE void load_rows(const combine_params_t &p, const slot_t &slots, uint32_t lane,
                          uint32_t column, wtn_vec16_t (&v)[depth])
{
    const uint32_t there = wtn_ballot(slots.row >= 0) >> lane;
    const bool     mine  = column < p.hidden_size;
    const uint64_t at    = (uint64_t)slots.row * p.hidden_size * size_of<dtype>();
    const char    *from  = p.rows + (size_t)column * size_of<dtype>();

#pragma unroll
    for (int d = 0; d < depth; d++) {
        v[d] = load<dtype, N>(from + shuffle(at, lane + d), mine && (there >> d & 1) != 0);
    }
}

template <witan_dtype_t dtype, int N, int depth>
WTN_DEVICE void add_rows(const slot_t &slots, uint32_t lane, const wtn_vec16_t (&v)[depth],
                         float (&acc)[N])
{
    const uint32_t there   = wtn_ballot(slots.row >= 0) >> lane;
    const uint32_t weights = wtn_bits_from_float(slots.weight);

#pragma unroll
    for (int d = 0; d < depth; d++) {
        const float w = wtn_float_from_bits(wtn_shuffle(weights, lane + d));

        if ((there >> d & 1) != 0) {
            float x[N];

            unpack<dtype, N>(v[d], x);
#pragma unroll
            for (int i = 0; i < N; i++) {
                acc[i] = acc[i] + w * x[i];
            }
        }
    }
}

/* The sums of N columns of a token. */
template <witan_dtype_t dtype, int N, int depth>
WTN_DEVICE void add_token(const combine_params_t &p, int64_t t, uint32_t column, slot_t slots,
                          float (&acc)[N])
{
    const char *shared = p.shared + (t * p.hidden_size + column) * size_of<dtype>();
    wtn_vec16_t first  = load<dtype, N>(shared, p.shared != nullptr && column < p.hidden_size);
    wtn_vec16_t v[depth];

    load_rows<dtype, N, depth>(p, slots, 0, column, v);
    if (p.shared != nullptr) {
        const float scale = p.shared_logit != nullptr ? wtn_plain_sigmoid(p.shared_logit[t]) : 1.0f;

        unpack<dtype, N>(first, acc);
#pragma unroll
        for (int i = 0; i < N; i++) {
            acc[i] = acc[i] * scale;
        }
    }
    add_rows<dtype, N, depth>(slots, 0, v, acc);
    for (int32_t k = depth; k < p.slot_count; k += depth) {
        if (k % 32 == 0) {
            slots = slot_of(p, t, k);
        }
        load_rows<dtype, N, depth>(p, slots, (uint32_t)k % 32, column, v);
        add_rows<dtype, N, depth>(slots, (uint32_t)k % 32, v, acc);
    }
}

/* A warp's item is a piece of a token's columns. The slots of its next item, if it has one, arrive
 * while the rows of this one do. */
template <witan_dtype_t dtype, witan_dtype_t out_dtype, int N, int depth>
WTN_KERNEL(THREADS, BLOCKS(depth))
combine_kernel(WTN_PARAMS(combine_params_t, p))
{
    wtn_grid_join();
    const uint32_t first      = wtn_block() * (THREADS / 32) + wtn_warp();
    const uint32_t step       = wtn_block_count() * (THREADS / 32);
    const uint32_t token_step = step / p.row_pieces;
    const uint32_t piece_step = step % p.row_pieces;
    uint32_t       piece      = first % p.row_pieces;
    int64_t        t          = first / p.row_pieces;
    slot_t         next_slots = slot_of(p, t, 0);

    while (t < p.token_count) {
        const int64_t  token  = t;
        const uint32_t column = (piece * 32 + wtn_lane()) * N;
        const slot_t   slots  = next_slots;
        float          acc[N] = {};

        piece += piece_step;
        t += token_step + (piece >= p.row_pieces ? 1 : 0);
        piece -= piece >= p.row_pieces ? p.row_pieces : 0;
        next_slots = slot_of(p, t, 0);
        add_token<dtype, N, depth>(p, token, column, slots, acc);
        if (column < p.hidden_size) {
            store<out_dtype, N>(p.out + (token * p.hidden_size + column) * size_of<out_dtype>(),
                                acc);
        }
    }
}

typedef void (*combine_kernel_t)(combine_params_t);

template <witan_dtype_t dtype, witan_dtype_t out_dtype>
static combine_kernel_t choose_combine(bool vectors, bool few)
{
    const int N = dtype == WITAN_F32 ? 4 : 8;

    if (!vectors) {
        return combine_kernel<dtype, out_dtype, 1, MANY>;
    }
    return few ? combine_kernel<dtype, out_dtype, N, FEW>
               : combine_kernel<dtype, out_dtype, N, MANY>;
}

extern "C" witan_status_t wtn_cuda_combine(const wtn_combine_args_t *args)
{
    const bool   f32     = args->out_dtype == WITAN_F32;
    const size_t bytes   = args->dtype == WITAN_F32 ? 4 : 2;
    const bool   vectors = ((size_t)args->hidden_size * bytes | (size_t)args->rows |
                          (size_t)args->shared | (size_t)args->out) %
                             16 ==
                         0;
    const bool       few     = vectors && args->slot_count <= FEW;
    const int64_t    columns = 32 * (vectors ? 16 / (int64_t)bytes : 1); /* of a warp */
    combine_params_t params  = {};
    const int32_t    held    = BLOCKS(few ? FEW : MANY);
    const int32_t    per_sm  = args->slot_count <= AHEAD_SLOTS ? held : NO_LIMIT;
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
    params.row_pieces   = (uint32_t)((args->hidden_size + columns - 1) / columns);
    params.slot_count   = args->slot_count;
    if (args->dtype == WITAN_F32) {
        kernel = choose_combine<WITAN_F32, WITAN_F32>(vectors, few);
    } else if (args->dtype == WITAN_F16) {
        kernel = f32 ? choose_combine<WITAN_F16, WITAN_F32>(vectors, few)
                     : choose_combine<WITAN_F16, WITAN_F16>(vectors, few);
    } else {
        kernel = f32 ? choose_combine<WITAN_BF16, WITAN_F32>(vectors, few)
                     : choose_combine<WITAN_BF16, WITAN_BF16>(vectors, few);
    }
    launch.name = "combine";
    launch.blocks =
        wtn_grid((params.token_count * params.row_pieces + THREADS / 32 - 1) / (THREADS / 32),
                 per_sm, 0);
    launch.threads = THREADS;
    launch.stream  = args->stream;
    return wtn_launch_early(&launch, kernel, &params);
}

/* ---- reduce ---- */

/* Parts in flight. */
#define REDUCE_DEPTH 4

template <witan_dtype_t out_dtype, int N>
WTN_KERNEL(THREADS, REDUCE_BLOCKS)
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
                    v[d] = load<WITAN_F32, N>((const char *)(p.parts[begin + d] + i), true);
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
        wtn_grid((count + lane_count * THREADS - 1) / (lane_count * THREADS), REDUCE_BLOCKS, 0);
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

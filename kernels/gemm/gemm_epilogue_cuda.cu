#include "kernels/activation/activation_cuda.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/gemm/gemm_epilogue_cuda.h"

namespace
{

constexpr uint32_t THREADS = 256;

struct epilogue_params_t {
    const char        *sums;
    const int64_t     *row_begin; /* of all sorted rows */
    const float       *bias;
    char              *out;
    const int64_t     *out_index;
    int64_t            row, row_count;
    int64_t            N, sums_stride, out_stride, column_count;
    int64_t            groups; /* of 8 columns in a row of out */
    int32_t            expert_count;
    bool               up;
    bool               whole; /* out takes 16-byte stores */
    witan_activation_t activation;
};

/* The last expert that begins at or before a row: those without rows begin where the next does. */
WTN_DEVICE int64_t expert_of(const epilogue_params_t &p, int64_t row)
{
    int32_t low = 0, high = p.expert_count - 1;

    while (low < high) {
        int32_t middle = (low + high + 1) / 2;

        if (p.row_begin[middle] <= row) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

WTN_DEVICE void load8(float (&to)[8], const float *from)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const wtn_vec16_t v = wtn_load16(from + 4 * i);

        to[4 * i]     = wtn_float_from_bits(v.x);
        to[4 * i + 1] = wtn_float_from_bits(v.y);
        to[4 * i + 2] = wtn_float_from_bits(v.z);
        to[4 * i + 3] = wtn_float_from_bits(v.w);
    }
}

/* 8 sums from column n on; those past N are what pads a row. */
WTN_DEVICE void load_sums(const epilogue_params_t &p, int64_t i, int64_t n, int64_t bias,
                          float (&to)[8])
{
    load8(to, (const float *)p.sums + i * p.sums_stride + n);
    for (int c = 0; c < 8 && p.bias != nullptr; c++) {
        to[c] += n + c < p.N ? p.bias[bias + n + c] : 0.0f;
    }
}

template <witan_dtype_t dtype> WTN_DEVICE uint32_t pack(float lo, float hi)
{
    return dtype == WITAN_BF16 ? wtn_pack_bf16(lo, hi) : wtn_pack_f16(lo, hi);
}

/* `count` of 8 columns of out. */
template <witan_dtype_t dtype>
WTN_DEVICE void store8(const epilogue_params_t &p, int64_t at, const float (&y)[8], int64_t count)
{
    if (dtype == WITAN_F32) {
        for (int c = 0; c < 8 && c < count; c++) {
            ((float *)p.out)[at + c] = y[c];
        }
        return;
    }

    const wtn_vec16_t v = {pack<dtype>(y[0], y[1]), pack<dtype>(y[2], y[3]),
                           pack<dtype>(y[4], y[5]), pack<dtype>(y[6], y[7])};

    if (p.whole && count >= 8) {
        wtn_store16(p.out + at * 2, v);
        return;
    }
    for (int c = 0; c < 8 && c < count; c++) {
        const uint32_t word = c < 2 ? v.x : c < 4 ? v.y : c < 6 ? v.z : v.w;

        ((uint16_t *)p.out)[at + c] = (uint16_t)(word >> (c % 2 * 16));
    }
}

template <witan_dtype_t dtype>
WTN_DEVICE void up(const epilogue_params_t &p, int64_t i, int64_t column, int64_t bias)
{
    float g[8], u[8], h[8];

    if (p.activation.gated) {
        load_sums(p, i, column * 2, bias, g);
        load_sums(p, i, column * 2 + WTN_CUDA_INTERLEAVE, bias, u);
    } else {
        load_sums(p, i, column, bias, u);
    }
#pragma unroll
    for (int c = 0; c < 8; c++) {
        h[c] = column + c < p.column_count
                   ? wtn_activate_gated<dtype == WITAN_F32>(p.activation,
                                                            p.activation.gated ? g[c] : u[c], u[c])
                   : 0.0f;
    }
    store8<dtype>(p, (p.row + i) * p.out_stride + column, h, 8);
}

/* A thread per 8 columns of a row. */
template <witan_dtype_t dtype, bool rounded>
WTN_KERNEL(THREADS, 1)
epilogue_kernel(WTN_PARAMS(epilogue_params_t, p))
{
    const int64_t step = (int64_t)wtn_block_count() * THREADS;

    for (int64_t t = (int64_t)wtn_block() * THREADS + wtn_thread(); t < p.row_count * p.groups;
         t += step) {
        const int64_t i = t / p.groups, column = t % p.groups * 8, row = p.row + i;
        const int64_t bias = p.bias == nullptr ? 0 : expert_of(p, row) * p.N;
        const int64_t to   = p.out_index == nullptr ? row : p.out_index[row];

        if (rounded) { /* already of dtype: only moved */
            const uint16_t *from = (const uint16_t *)p.sums + i * p.sums_stride + column;

            for (int c = 0; c < 8 && column + c < p.N; c++) {
                ((uint16_t *)p.out)[to * p.out_stride + column + c] = from[c];
            }
        } else if (p.up) {
            up<dtype>(p, i, column, bias);
        } else {
            float y[8];

            load_sums(p, i, column, bias, y);
            store8<dtype>(p, to * p.out_stride + column, y, p.N - column);
        }
    }
}

template <witan_dtype_t dtype>
witan_status_t launch(const wtn_launch_t *launch, const epilogue_params_t *params, bool rounded)
{
    if constexpr (dtype != WITAN_F32) {
        if (rounded) {
            return wtn_launch(launch, epilogue_kernel<dtype, true>, params);
        }
    }
    return wtn_launch(launch, epilogue_kernel<dtype, false>, params);
}

} // namespace

extern "C" witan_status_t wtn_cuda_epilogue(const wtn_cuda_epilogue_args_t *args)
{
    const wtn_cuda_gemm_args_t *gemm   = args->gemm;
    epilogue_params_t           params = {};
    wtn_launch_t                go     = {};
    int64_t                     blocks, enough;

    params.sums         = (const char *)args->sums;
    params.row_begin    = gemm->row_begin;
    params.bias         = gemm->weights->bias;
    params.out          = (char *)gemm->out;
    params.out_index    = gemm->out_index;
    params.row          = args->row;
    params.row_count    = args->row_count;
    params.N            = gemm->weights->N;
    params.sums_stride  = args->sums_stride;
    params.out_stride   = gemm->out_stride;
    params.column_count = gemm->column_count;
    params.expert_count = gemm->weights->expert_count;
    params.up           = gemm->activation != NULL;
    params.groups       = ((params.up ? gemm->out_stride : params.N) + 7) / 8;
    params.whole        = gemm->out_stride % 8 == 0 && (uintptr_t)gemm->out % 16 == 0;
    if (params.up) {
        params.activation = *gemm->activation;
    }
    enough     = (params.row_count * params.groups + THREADS - 1) / THREADS;
    blocks     = (int64_t)wtn_cuda_sm_count(gemm->sm_reserved) * 8;
    go.name    = params.up ? "up epilogue" : "down epilogue";
    go.blocks  = (uint32_t)(enough < blocks ? enough : blocks);
    go.threads = THREADS;
    go.stream  = gemm->stream;
    switch (gemm->weights->dtype) {
    case WITAN_F16:
        return launch<WITAN_F16>(&go, &params, args->rounded);
    case WITAN_BF16:
        return launch<WITAN_BF16>(&go, &params, args->rounded);
    case WITAN_F32:
    default:
        return launch<WITAN_F32>(&go, &params, args->rounded);
    }
}

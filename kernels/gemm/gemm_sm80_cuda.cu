/* Grouped GEMM with cp.async, ldmatrix and mma.sync: any device of capability 8.0 or newer.
 *
 * A block keeps STAGES slabs of BK columns of its rows and weights in flight and multiplies them in
 * order. Both forms issue the same m16n8k16 products for an element in the same order, so they give
 * the same bits; columns past K are zeros, which add nothing to a sum that began at +0. */
#include "core/error.h"
#include "kernels/activation/activation_cuda.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/gemm/gemm_cuda.h"
#include "kernels/gemm/gemm_walk_cuda.cuh"

namespace
{

constexpr int BN     = 128; /* columns of a tile: four warps of 32 */
constexpr int STAGES = 4;

struct gemm_params_t {
    const char        *a, *w; /* rows of K elements */
    const int64_t     *a_index;
    const int64_t     *row_begin;
    const float       *bias;
    char              *out;
    const int64_t     *out_index;
    int64_t            N, K;     /* elements */
    int64_t            a_stride; /* bytes */
    int64_t            out_stride, column_count;
    uint32_t           expert_count;
    bool               up;
    bool               pairs; /* two elements of out can be stored at once */
    witan_activation_t activation;
};

/* One form: rows of a tile, warps along them, columns of a slab, blocks on a multiprocessor. */
template <int bm, int warp_rows, int bk, int blocks> struct form_t {
    static constexpr int      BM = bm, BK = bk, BLOCKS = blocks;
    static constexpr int      WARP_ROWS = warp_rows;
    static constexpr int      THREADS   = 128 * warp_rows;
    static constexpr int      CHUNKS    = BK / 8;           /* of 16 bytes in a row of a slab */
    static constexpr int      STEP      = THREADS / CHUNKS; /* rows loaded at once */
    static constexpr int      A_LOADS = BM / STEP, B_LOADS = BN / STEP;
    static constexpr int      FRAGMENTS   = BM / warp_rows / 16; /* of 16 rows, per warp */
    static constexpr uint32_t A_BYTES     = BM * BK * 2;
    static constexpr uint32_t STAGE_BYTES = (BM + BN) * BK * 2;
};

using many_t = form_t<128, 2, 32, 2>;
using few_t  = form_t<32, 1, 64, 2>;

/* Where chunk `chunk` of row `row` lies in a slab: XORed so that the eight rows of an ldmatrix, and
 * the rows of a warp's copies, fall into different banks. */
template <typename form> WTN_DEVICE uint32_t place(uint32_t row, uint32_t chunk)
{
    const uint32_t turn = form::CHUNKS == 8 ? row & 7u : (row >> 1) & 3u;

    return row * (form::BK * 2) + ((chunk ^ turn) << 4);
}

/* What one thread copies of every slab of a tile: one chunk of some rows. */
template <typename form> struct loads_t {
    const char *a[form::A_LOADS]; /* at this thread's chunk; NULL: no such row */
    const char *w;
    int32_t     w_rows; /* of the tile that exist */
};

template <typename form>
WTN_DEVICE void begin_loads(const gemm_params_t &p, const wtn_tile_t &tile, loads_t<form> &loads)
{
    const uint32_t row   = wtn_thread() / form::CHUNKS;
    const uint32_t chunk = wtn_thread() % form::CHUNKS;
    const int64_t  left  = p.N - tile.column;

#pragma unroll
    for (int i = 0; i < form::A_LOADS; i++) {
        int64_t at = tile.row + row + i * form::STEP;

        loads.a[i] = nullptr;
        if (at < tile.row_end) {
            at         = p.a_index == nullptr ? at : p.a_index[at];
            loads.a[i] = p.a + at * p.a_stride + chunk * 16;
        }
    }
    loads.w_rows = (int32_t)(left < BN ? left : BN);
    loads.w      = p.w + ((tile.expert * p.N + tile.column + row) * p.K + chunk * 8) * 2;
}

template <typename form>
WTN_DEVICE void load_slab(const gemm_params_t &p, const loads_t<form> &loads, wtn_saddr_t stage,
                          int64_t k)
{
    const uint32_t row    = wtn_thread() / form::CHUNKS;
    const uint32_t chunk  = wtn_thread() % form::CHUNKS;
    const bool     inside = k + chunk * 8 < p.K;

#pragma unroll
    for (int i = 0; i < form::A_LOADS; i++) {
        const bool here = inside && loads.a[i] != nullptr;

        wtn_copy16_async(stage + place<form>(row + i * form::STEP, chunk),
                         here ? loads.a[i] + k * 2 : p.a, here ? 16 : 0);
    }
#pragma unroll
    for (int i = 0; i < form::B_LOADS; i++) {
        const bool here = inside && (int32_t)row + i * form::STEP < loads.w_rows;

        wtn_copy16_async(stage + form::A_BYTES + place<form>(row + i * form::STEP, chunk),
                         here ? loads.w + (i * form::STEP * p.K + k) * 2 : p.w, here ? 16 : 0);
    }
}

/* sums[i][j]: rows 16 i.. of this warp, columns 8 j.. of its 32; laid out as mma.m16n8k16 says. */
template <typename form, bool bf16>
WTN_DEVICE void multiply_slab(wtn_saddr_t stage, float (&sums)[form::FRAGMENTS][4][4])
{
    const uint32_t lane   = wtn_lane();
    const uint32_t a_row  = wtn_warp() / 4 * (form::BM / form::WARP_ROWS) + lane % 16;
    const uint32_t b_row  = wtn_warp() % 4 * 32 + lane / 16 * 8 + lane % 8;
    const uint32_t a_half = lane / 16, b_half = lane / 8 % 2;

#pragma unroll
    for (int k = 0; k < form::CHUNKS; k += 2) { /* 16 columns */
        uint32_t a[form::FRAGMENTS][4], b[2][4];

#pragma unroll
        for (int j = 0; j < 2; j++) {
            wtn_load_matrix(b[j], stage + form::A_BYTES + place<form>(b_row + 16 * j, k + b_half));
        }
#pragma unroll
        for (int i = 0; i < form::FRAGMENTS; i++) {
            wtn_load_matrix(a[i], stage + place<form>(a_row + 16 * i, k + a_half));
        }
#pragma unroll
        for (int i = 0; i < form::FRAGMENTS; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const uint32_t pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};

                wtn_mma_16x8x16<bf16>(sums[i][j], a[i], pair);
            }
        }
    }
}

template <typename form, bool bf16>
WTN_DEVICE void multiply_tile(const gemm_params_t &p, const wtn_tile_t &tile,
                              float (&sums)[form::FRAGMENTS][4][4])
{
    const wtn_saddr_t shared = wtn_shared_address(wtn_shared());
    const int64_t     slabs  = (p.K + form::BK - 1) / form::BK;
    loads_t<form>     loads;

#pragma unroll
    for (int i = 0; i < form::FRAGMENTS * 16; i++) {
        sums[i / 16][i / 4 % 4][i % 4] = 0.0f;
    }
    begin_loads<form>(p, tile, loads);
    wtn_sync_block(); /* the tile before this has been read */
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < slabs) {
            load_slab<form>(p, loads, shared + s * form::STAGE_BYTES, (int64_t)s * form::BK);
        }
        wtn_copy_commit(); /* empty ones too: the count of groups tells which slab is there */
    }
    for (int64_t s = 0; s < slabs; s++) {
        const int64_t next = s + STAGES - 1;

        wtn_copy_wait<STAGES - 2>();
        wtn_sync_block(); /* slab s is there for all, and slab s - 1 was read by all */
        if (next < slabs) {
            load_slab<form>(p, loads, shared + (uint32_t)(next % STAGES) * form::STAGE_BYTES,
                            next * form::BK);
        }
        wtn_copy_commit();
        multiply_slab<form, bf16>(shared + (uint32_t)(s % STAGES) * form::STAGE_BYTES, sums);
    }
    wtn_copy_wait<0>();
}

template <bool bf16> WTN_DEVICE uint32_t pack(float lo, float hi)
{
    return bf16 ? wtn_pack_bf16(lo, hi) : wtn_pack_f16(lo, hi);
}

/* A column of h, zero where it only pads. */
WTN_DEVICE float activate(const gemm_params_t &p, int64_t column, float g, float u)
{
    return column < p.column_count ? wtn_activate_gated<false>(p.activation, g, u) : 0.0f;
}

/* Two columns of h from two sums of g and two of u, which are the same where there is no gate. */
template <bool bf16>
WTN_DEVICE void store_up(const gemm_params_t &p, int64_t row, int64_t column, const float *g,
                         const float *u)
{
    if (column < p.out_stride) {
        *(uint32_t *)(p.out + (row * p.out_stride + column) * 2) =
            pack<bf16>(activate(p, column, g[0], u[0]), activate(p, column + 1, g[1], u[1]));
    }
}

template <bool bf16>
WTN_DEVICE void store_down(const gemm_params_t &p, int64_t row, int64_t column, const float *sums)
{
    const uint32_t bits = pack<bf16>(sums[0], sums[1]);
    uint16_t      *to   = (uint16_t *)(p.out + (row * p.out_stride + column) * 2);

    if (column + 1 < p.N) {
        if (p.pairs) {
            *(uint32_t *)to = bits;
        } else {
            to[0] = (uint16_t)bits;
            to[1] = (uint16_t)(bits >> 16);
        }
    } else if (column < p.N) {
        to[0] = (uint16_t)bits;
    }
}

/* Columns 8 j.. from `first` of one row: this lane has two of each eight. */
template <bool bf16>
WTN_DEVICE void store_row(const gemm_params_t &p, uint32_t expert, int64_t row, int64_t first,
                          float (&sums)[4][2])
{
    const int64_t column = first + wtn_lane() % 4 * 2;
    const int64_t to     = p.out_index == nullptr ? row : p.out_index[row];

#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int64_t n = column + i / 2 * 8 + i % 2;

        sums[i / 2][i % 2] += p.bias != nullptr && n < p.N ? p.bias[expert * p.N + n] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (!p.up) {
            store_down<bf16>(p, to, column + 8 * j, sums[j]);
        } else if (!p.activation.gated) {
            store_up<bf16>(p, to, column + 8 * j, sums[j], sums[j]);
        } else if (j % 2 == 0) { /* columns 16 q + c and 16 q + 8 + c: g and u of 8 q + c */
            int64_t h = (first + 8 * j) / 2 + wtn_lane() % 4 * 2;

            store_up<bf16>(p, to, h, sums[j], sums[j + 1]);
        }
    }
}

template <typename form, bool bf16>
WTN_KERNEL(form::THREADS, form::BLOCKS)
gemm_kernel(WTN_PARAMS(gemm_params_t, p))
{
    wtn_walk_t walk =
        wtn_walk_begin(p.row_begin, p.expert_count, (uint32_t)((p.N + BN - 1) / BN), form::BM);
    wtn_tile_t tile;

    for (uint32_t index = wtn_block(); wtn_walk_to(walk, index, BN, &tile);
         index += wtn_block_count()) {
        const uint32_t warp   = wtn_warp(); /* not below, where lanes part ways */
        const int64_t  first  = tile.row + warp / 4 * (form::BM / form::WARP_ROWS);
        const int64_t  column = tile.column + warp % 4 * 32;
        float          sums[form::FRAGMENTS][4][4];

        multiply_tile<form, bf16>(p, tile, sums);
#pragma unroll
        for (int i = 0; i < form::FRAGMENTS * 2; i++) {
            const int64_t row  = first + 8 * i + wtn_lane() / 4;
            const int     half = i % 2 * 2;

            if (row < tile.row_end) {
                float part[4][2] = {{sums[i / 2][0][half], sums[i / 2][0][half + 1]},
                                    {sums[i / 2][1][half], sums[i / 2][1][half + 1]},
                                    {sums[i / 2][2][half], sums[i / 2][2][half + 1]},
                                    {sums[i / 2][3][half], sums[i / 2][3][half + 1]}};

                store_row<bf16>(p, tile.expert, row, column, part);
            }
        }
    }
}

template <typename form, bool bf16>
witan_status_t launch(const wtn_cuda_gemm_args_t *args, const gemm_params_t *params)
{
    const wtn_cuda_weights_t *weights   = args->weights;
    const int64_t             row_tiles = args->row_count_max / form::BM + weights->expert_count;
    const int64_t             tiles     = row_tiles * ((weights->N + BN - 1) / BN);
    const size_t              shared    = STAGES * form::STAGE_BYTES;
    const int64_t             blocks    = (int64_t)wtn_cuda_sm_count(args->sm_reserved) *
                           wtn_cuda_resident_blocks(shared, form::BLOCKS);
    wtn_launch_t launch = {};

    launch.name         = params->up ? "sm_80 up" : "sm_80 down";
    launch.blocks       = (uint32_t)(tiles < blocks ? tiles : blocks);
    launch.threads      = form::THREADS;
    launch.shared_bytes = shared;
    launch.stream       = args->stream;
    return wtn_launch(&launch, gemm_kernel<form, bf16>, params);
}

template <typename form>
witan_status_t launch_dtype(const wtn_cuda_gemm_args_t *args, const gemm_params_t *params)
{
    return args->weights->dtype == WITAN_BF16 ? launch<form, true>(args, params)
                                              : launch<form, false>(args, params);
}

witan_status_t run(void *state, const wtn_cuda_gemm_args_t *args)
{
    const wtn_cuda_weights_t *weights = args->weights;
    gemm_params_t             params  = {};

    (void)state;
    if (args->row_count_max == 0 || weights->expert_count == 0) {
        return WITAN_OK;
    }
    params.a            = (const char *)args->a;
    params.w            = (const char *)weights->w;
    params.a_index      = args->a_index;
    params.row_begin    = args->row_begin;
    params.bias         = weights->bias;
    params.out          = (char *)args->out;
    params.out_index    = args->out_index;
    params.N            = weights->N;
    params.K            = weights->K;
    params.a_stride     = args->a_stride * 2;
    params.out_stride   = args->out_stride;
    params.column_count = args->column_count;
    params.expert_count = (uint32_t)weights->expert_count;
    params.up           = args->activation != NULL;
    params.pairs        = args->out_stride % 2 == 0 && (uintptr_t)args->out % 4 == 0;
    if (params.up) {
        params.activation = *args->activation;
    }
    return args->few_rows ? launch_dtype<few_t>(args, &params)
                          : launch_dtype<many_t>(args, &params);
}

} // namespace

extern "C" const wtn_cuda_gemm_t wtn_cuda_gemm_sm80 = {
    /* prepare, release, workspace_bytes */ NULL,
    NULL,
    NULL,
    run,
    run,
    /* waits */ false,
    /* few_rows_max */ 32,
    /* takes_pair, pair */ NULL,
    NULL};

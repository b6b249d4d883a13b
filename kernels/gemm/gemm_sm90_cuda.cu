/* Grouped GEMM for Hopper (sm_90a): one persistent kernel for up and one for down.
 *
 * A block is a warpgroup that brings tiles of A and B into a ring of stages and two that multiply.
 * B, the weights, comes by the tensor copy engine out of one map of all experts; A too where its
 * rows lie side by side, else by 16-byte copies of rows found by index. Each warp walks the same
 * list of tiles by itself (gemm_sm90_tiles.cuh), so the only signals are a stage's two barriers:
 * full, told by the bytes and copies that arrive, and empty, told by the eight multiplying warps.
 *
 * Tiles past an expert's last row hold rows of the next expert or none at all: their sums are
 * computed and dropped, as no row's sum depends on another row. */
#include <stdlib.h>

#include <cuda.h>

#include "core/error.h"
#include "kernels/activation/activation_cuda.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/gemm/gemm_cuda.h"
#include "kernels/gemm/gemm_sm90_tiles.cuh"

#define THREADS         384u
#define LOADING_WARPS   4u /* warp 0 feeds the copy engine, the others gather rows */
#define GATHERING_WARPS 3u
#define MULTIPLYING     8u
#define STAGES_MAX      8u
#define ATOM            64u  /* columns of K in a swizzled row */
#define ATOM_BYTES      128u /* of such a row */
#define NARROW          32u  /* rows of a small box of weights */
#define FEW_ROWS        16u  /* rows of a small box of A */
#define MANY_ROWS       64u

/* Shared memory: stages, 2 KB per multiplying warp to turn rows, barriers. */
#define TURN_BYTES   2048u
#define TURN_AT      WTN_FORM_BYTES
#define BARRIERS_AT  (TURN_AT + MULTIPLYING * TURN_BYTES)
#define SHARED_BYTES (BARRIERS_AT + 2 * STAGES_MAX * 8)

typedef struct gemm_params {
    wtn_tensor_map_t   w_wide, w_narrow; /* of [E * N][K]; boxes of `wide` and NARROW rows */
    wtn_tensor_map_t   a_many, a_few;    /* of A; boxes of MANY_ROWS and FEW_ROWS rows */
    const char        *a;
    const int64_t     *a_index;
    const int64_t     *row_begin;
    const float       *bias;
    char              *out;
    const int64_t     *out_index;
    uint32_t           a_stride;   /* bytes */
    int64_t            out_stride; /* bytes */
    uint32_t           expert_count, N, K;
    uint32_t           out_columns;  /* up: of h, all of them; down: N */
    uint32_t           used_columns; /* the rest is stored as zeros, whatever the sums are */
    uint32_t           wide;         /* 256 or 240 */
    uint32_t           forced;       /* form_kind_t, or FORM_COUNT: by row counts */
    bool               gathers;      /* A comes by index, not by map */
    bool               few_rows;
    bool               out_aligned; /* rows of out begin at multiples of 16 bytes */
    witan_activation_t activation;
} gemm_params_t;

#if WTN_HAS_SM90A

typedef struct ring { /* a stage of the ring, and which time round */
    uint32_t stage, parity;
} ring_t;

WTN_DEVICE void ring_next(ring_t &ring, uint32_t stages)
{
    ring.stage++;
    if (ring.stage == stages) {
        ring.stage = 0;
        ring.parity ^= 1;
    }
}
WTN_DEVICE wtn_saddr_t barrier_full(wtn_saddr_t shared, uint32_t stage)
{
    return shared + BARRIERS_AT + stage * 8;
}
WTN_DEVICE wtn_saddr_t barrier_empty(wtn_saddr_t shared, uint32_t stage)
{
    return shared + BARRIERS_AT + (STAGES_MAX + stage) * 8;
}

/* ---- loading ---- */

/* How a tile's parts come by the copy engine: boxes of A and B a step. Boxes wholly beyond the
 * tile's rows or the expert's columns are left out: a stage then holds there what it held before.
 */
template <typename form> struct boxes {
    static constexpr uint32_t a_rows = form::rows > MANY_ROWS ? MANY_ROWS : FEW_ROWS;
    static constexpr uint32_t b_rows = form::columns > 128 ? form::columns : NARROW;
    static constexpr uint32_t a_max = form::rows / a_rows, b_max = form::columns / b_rows;
};

/* Lane `elected` of warp 0 brings one tile's steps. */
template <typename form>
WTN_DEVICE void load_tile(const gemm_params_t &p, const tile_t &tile, uint32_t steps,
                          wtn_saddr_t shared, ring_t &ring)
{
    typedef boxes<form>     box;
    const wtn_tensor_map_t *a_map = form::rows > MANY_ROWS ? &p.a_many : &p.a_few;
    const wtn_tensor_map_t *b_map = form::columns > 128 ? &p.w_wide : &p.w_narrow;
    uint32_t                left  = p.N - tile.column;
    uint32_t                a_box = p.gathers ? 0 : divide_up(tile.rows, box::a_rows);
    uint32_t b_box = divide_up(left < form::columns ? left : form::columns, box::b_rows);
    uint32_t bytes = (a_box * box::a_rows + b_box * box::b_rows) * form::atoms * ATOM_BYTES;
    int32_t  a_y   = (int32_t)tile.row;
    int32_t  b_y   = (int32_t)(tile.expert * p.N + tile.column);
    int32_t  x     = 0;

    for (uint32_t step = 0; step < steps; step++) {
        wtn_saddr_t full = barrier_full(shared, ring.stage);
        wtn_saddr_t at   = shared + ring.stage * form::stage_bytes;

        wtn_mbarrier_wait(barrier_empty(shared, ring.stage), ring.parity);
        wtn_mbarrier_expect(full, bytes);
#pragma unroll
        for (uint32_t atom = 0; atom < form::atoms; atom++) {
            wtn_saddr_t a_at = at + atom * form::rows * ATOM_BYTES;
            wtn_saddr_t b_at = at + (form::atoms * form::rows + atom * form::columns) * ATOM_BYTES;

#pragma unroll
            for (uint32_t i = 0; i < box::b_max; i++) {
                if (i < b_box) {
                    wtn_tensor_load(b_at + i * box::b_rows * ATOM_BYTES, b_map, x,
                                    b_y + (int32_t)(i * box::b_rows), full);
                }
            }
#pragma unroll
            for (uint32_t i = 0; i < box::a_max; i++) {
                if (i < a_box) {
                    wtn_tensor_load(a_at + i * box::a_rows * ATOM_BYTES, a_map, x,
                                    a_y + (int32_t)(i * box::a_rows), full);
                }
            }
            x += (int32_t)ATOM;
        }
        ring_next(ring, form::stages);
    }
}

/* Warp 0: all lanes walk, one feeds the copy engine. */
template <typename form> WTN_DEVICE void load_tiles(const gemm_params_t &p, wtn_saddr_t shared)
{
    uint32_t steps = divide_up(p.K, form::atoms * ATOM);
    walk_t   walk  = walk_begin<form>(p.row_begin, p.expert_count, p.N);
    ring_t   ring  = {0, 1};
    tile_t   tile;

    for (uint32_t i = wtn_block(); walk_find<form>(walk, i, tile); i += wtn_block_count()) {
        ring_t next = ring;

        if (wtn_elect()) {
            load_tile<form>(p, tile, steps, shared, next);
        }
        wtn_sync_warp();
        ring.parity ^= (ring.stage + steps) / form::stages % 2;
        ring.stage = (ring.stage + steps) % form::stages;
    }
}

/* Warps 1 to 3: 8 lanes copy a row's atom, so a pass covers 12 rows. */
#define GATHER_ROWS (GATHERING_WARPS * 4)
#define GATHER_LAG  2 /* stages whose copies may still be under way when the next are queued */

template <typename form, uint32_t passes>
WTN_DEVICE void gather_stage(const gemm_params_t &p, const uint32_t (&rows)[passes], uint32_t first,
                             uint32_t count, uint32_t step, wtn_saddr_t at)
{
    uint32_t chunk = wtn_lane() % 8;

#pragma unroll
    for (uint32_t atom = 0; atom < form::atoms; atom++) {
        uint32_t    x     = (step * form::atoms + atom) * ATOM + chunk * 8;
        uint32_t    bytes = x < p.K ? 16 : 0; /* beyond K are zeros */
        const char *from  = p.a + (bytes == 0 ? 0 : (uint64_t)x * 2);

#pragma unroll
        for (uint32_t i = 0; i < passes; i++) {
            uint32_t r = first + i * GATHER_ROWS;

            if (r < count) {
                wtn_copy16_async(at + r * ATOM_BYTES + (chunk ^ r % 8) * 16,
                                 from + (uint64_t)rows[i] * p.a_stride, bytes);
            }
        }
        at += form::rows * ATOM_BYTES;
    }
}

/* Tell the stages from `told` on, `count` of them, that this warp's rows are there: the copies have
 * been waited for, the fence hands them to the matrix units. */
WTN_DEVICE void gather_tell(wtn_saddr_t shared, uint32_t stages, ring_t &told, uint32_t count)
{
    wtn_fence_async();
    wtn_sync_warp();
    for (; count > 0; count--) {
        if (wtn_lane() == 0) {
            wtn_mbarrier_arrive(barrier_full(shared, told.stage));
        }
        ring_next(told, stages);
    }
}

template <typename form> WTN_DEVICE void gather_tiles(const gemm_params_t &p, wtn_saddr_t shared)
{
    constexpr uint32_t passes = (form::rows + GATHER_ROWS - 1) / GATHER_ROWS;

    uint32_t steps   = divide_up(p.K, form::atoms * ATOM);
    uint32_t first   = (wtn_warp() - 1) * 4 + wtn_lane() / 8;
    uint32_t pending = 0;
    walk_t   walk    = walk_begin<form>(p.row_begin, p.expert_count, p.N);
    ring_t   ring = {0, 1}, told = {0, 0};
    uint32_t rows[passes];
    tile_t   tile;

    for (uint32_t i = wtn_block(); walk_find<form>(walk, i, tile); i += wtn_block_count()) {
#pragma unroll
        for (uint32_t j = 0; j < passes; j++) {
            int64_t row = tile.row + first + j * GATHER_ROWS;

            if (first + j * GATHER_ROWS < tile.rows) {
                rows[j] = (uint32_t)(p.a_index == NULL ? row : p.a_index[row]);
            }
        }
        for (uint32_t step = 0; step < steps; step++) {
            wtn_saddr_t empty = barrier_empty(shared, ring.stage);

            /* Before waiting for room, tell all there is to tell: it is what room waits for. */
            if (pending > 0 && wtn_ballot(wtn_mbarrier_test(empty, ring.parity)) != ~0u) {
                wtn_copy_wait<0>();
                gather_tell(shared, form::stages, told, pending);
                pending = 0;
            }
            wtn_mbarrier_wait(empty, ring.parity);
            gather_stage<form>(p, rows, first, tile.rows, step,
                               shared + ring.stage * form::stage_bytes);
            wtn_copy_commit();
            ring_next(ring, form::stages);
            pending++;
            if (pending > GATHER_LAG) {
                wtn_copy_wait<GATHER_LAG>();
                gather_tell(shared, form::stages, told, 1);
                pending--;
            }
        }
    }
    wtn_copy_wait<0>();
    gather_tell(shared, form::stages, told, pending);
}

/* ---- multiplying ---- */

/* d = the sums of one tile, this warpgroup's part of it. The stage before the last one queued is
 * given back as soon as its products are done, so the matrix units always have one more to do. */
template <bool bf16, typename form, int count>
WTN_DEVICE void multiply_tile(const gemm_params_t &p, wtn_saddr_t shared, uint32_t a_offset,
                              uint32_t b_offset, ring_t &ring, float (&d)[count])
{
    uint32_t steps  = divide_up(p.K, form::atoms * ATOM);
    uint32_t before = 0;
    bool     first  = true;

    wtn_wgmma_hold(d);
    for (uint32_t step = 0; step < steps; step++) {
        wtn_saddr_t at = shared + ring.stage * form::stage_bytes;
        uint64_t    a  = wtn_wgmma_descriptor(at + a_offset);
        uint64_t    b = wtn_wgmma_descriptor(at + form::rows * form::atoms * ATOM_BYTES + b_offset);

        wtn_mbarrier_wait(barrier_full(shared, ring.stage), ring.parity);
        wtn_wgmma_fence();
#pragma unroll
        for (uint32_t i = 0; i < form::atoms * 4; i++) {
            /* 16 columns of K are 32 bytes: 2 in a descriptor */
            wtn_wgmma<bf16>(d, a + (i / 4 * form::rows * ATOM_BYTES >> 4) + i % 4 * 2,
                            b + (i / 4 * form::columns * ATOM_BYTES >> 4) + i % 4 * 2,
                            !first || i > 0);
        }
        wtn_wgmma_commit();
        wtn_wgmma_wait<1>();
        if (!first && wtn_lane() == 0) {
            wtn_mbarrier_arrive(barrier_empty(shared, before));
        }
        before = ring.stage;
        first  = false;
        ring_next(ring, form::stages);
    }
    wtn_wgmma_wait<0>();
    wtn_wgmma_hold(d);
    if (wtn_lane() == 0) {
        wtn_mbarrier_arrive(barrier_empty(shared, before));
    }
}

/* ---- what becomes of the sums ---- */

template <bool bf16> WTN_DEVICE uint32_t pack(float lo, float hi)
{
    return bf16 ? wtn_pack_bf16(lo, hi) : wtn_pack_f16(lo, hi);
}

/* Lane l holds columns 8 j + 2 (l % 4) and the next, in d[4 j] and on. */
template <int count>
WTN_DEVICE void add_bias(const float *bias, uint32_t column, uint32_t N, float (&d)[count])
{
    column += wtn_lane() % 4 * 2;
#pragma unroll
    for (int j = 0; j < count / 4; j++) {
        float b0 = column + 8 * j < N ? bias[column + 8 * j] : 0.0f;
        float b1 = column + 8 * j + 1 < N ? bias[column + 8 * j + 1] : 0.0f;

        d[4 * j] += b0;
        d[4 * j + 1] += b1;
        d[4 * j + 2] += b0;
        d[4 * j + 3] += b1;
    }
}

/* silu and swish, unrolled: what most models have. g lies in d[8 j + i], u of the same column in
 * d[8 j + 4 + i], i < 4; h takes g's place. */
template <int count>
WTN_DEVICE void activate_swish(const witan_activation_t &activation, float (&d)[count])
{
    witan_activation_t swish = activation;

    swish.kind      = WITAN_ACTIVATION_SWISH;
    swish.parameter = activation.kind == WITAN_ACTIVATION_SILU ? 1.0f : activation.parameter;
    swish.gated     = true;
#pragma unroll
    for (int j = 0; j < count; j += 8) {
#pragma unroll
        for (int i = j; i < j + 4; i++) {
            d[i] = wtn_activate_gated<false>(swish, d[i], d[i + 4]);
        }
    }
}

/* All others, in a loop that turns the accumulator round, as eight formulas at each of its places
 * would be much code. Gated as above; else u in d[4 j + i]. */
template <bool gated, int count>
WTN_DEVICE void activate_turning(const witan_activation_t &activation, float (&d)[count])
{
    const int step = gated ? 8 : 4;

#pragma unroll 1
    for (int j = 0; j < count; j += step) {
        float h[4];

#pragma unroll
        for (int i = 0; i < 4; i++) {
            h[i] = wtn_activate_gated<false>(activation, d[i], d[gated ? i + 4 : i]);
        }
#pragma unroll
        for (int i = 0; i + step < count; i++) {
            d[i] = d[i + step];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            d[count - step + i] = h[i];
        }
    }
}

WTN_DEVICE void store_chunk(const gemm_params_t &p, char *row, uint32_t column, const char *from)
{
    if (p.out_aligned && column + 8 <= p.used_columns) {
        wtn_store16(row + (uint64_t)column * 2, wtn_load16(from));
    } else {
        for (uint32_t i = 0; i < 8 && column + i < p.out_columns; i++) {
            ((uint16_t *)row)[column + i] =
                column + i < p.used_columns ? ((const uint16_t *)from)[i] : (uint16_t)0;
        }
    }
}

/* The warp's 16 rows from `column` of out: through shared memory, so that eight lanes store 128
 * bytes side by side. 8 columns lie in 4 numbers of each `step`. Chunk c of row r lies at chunk
 * c ^ (r % 8). */
template <bool bf16, int step, int count>
WTN_DEVICE void store_rows(const gemm_params_t &p, const tile_t &tile, uint32_t row,
                           uint32_t column, char *turn, const float (&d)[count])
{
    const int groups = count / step; /* of 8 columns */

    uint32_t lane = wtn_lane();
    uint32_t put  = wtn_shared_address(turn) + lane % 16 * ATOM_BYTES;
    uint32_t get  = lane / 8;
    char    *out[4];

#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        int64_t to = tile.row + row + get + 4 * i;

        out[i] = NULL;
        if (row + get + 4 * i < tile.rows) {
            to     = p.out_index == NULL ? to : p.out_index[to];
            out[i] = p.out + to * p.out_stride;
        }
    }
#pragma unroll
    for (int pass = 0; pass < groups; pass += 8) {
        const int width = groups - pass < 8 ? groups - pass : 8;

        wtn_sync_warp(); /* what the last pass put here was read */
#pragma unroll
        for (int j = 0; j < width; j += 2) {
            const float *a = &d[(pass + j) * step];
            const float *b = j + 1 < width ? a + step : a; /* an odd last one twice */

            wtn_store_matrix(put + (((uint32_t)j + lane / 16) ^ lane % 8) * 16,
                             pack<bf16>(a[0], a[1]), pack<bf16>(a[2], a[3]), pack<bf16>(b[0], b[1]),
                             pack<bf16>(b[2], b[3]));
        }
        wtn_sync_warp();
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t r = get + 4 * i, chunk = lane % 8;
            uint32_t at = column + (uint32_t)pass * 8 + chunk * 8;

            if (out[i] != NULL && chunk < (uint32_t)width && at < p.out_columns) {
                store_chunk(p, out[i], at, turn + r * ATOM_BYTES + (chunk ^ r % 8) * 16);
            }
        }
    }
}

template <bool bf16, bool up, int count>
WTN_DEVICE void finish_tile(const gemm_params_t &p, const tile_t &tile, uint32_t row,
                            uint32_t column, char *turn, float (&d)[count])
{
    column += tile.column;
    if (p.bias != NULL) {
        add_bias(p.bias + (uint64_t)tile.expert * p.N, column, p.N, d);
    }
    if (up && p.activation.gated) {
        if (p.activation.kind == WITAN_ACTIVATION_SILU ||
            p.activation.kind == WITAN_ACTIVATION_SWISH) {
            activate_swish(p.activation, d);
        } else {
            activate_turning<true>(p.activation, d);
        }
        store_rows<bf16, 8>(p, tile, row, column / 2, turn, d);
    } else {
        if (up) {
            activate_turning<false>(p.activation, d);
        }
        store_rows<bf16, 4>(p, tile, row, column, turn, d);
    }
}

/* A warpgroup takes 64 of 128 rows and all columns, or 64 rows and half of the columns. */
template <bool bf16, bool up, typename form>
WTN_DEVICE void multiply_tiles(const gemm_params_t &p, char *memory)
{
    constexpr bool     split_rows = form::rows == 128;
    constexpr uint32_t part       = split_rows ? form::columns : form::columns / 2;

    wtn_saddr_t shared = wtn_shared_address(memory);
    uint32_t    warp   = wtn_warp() - LOADING_WARPS;
    uint32_t    row    = split_rows ? warp / 4 * 64 : 0;
    uint32_t    column = split_rows ? 0 : warp / 4 * part;
    walk_t      walk   = walk_begin<form>(p.row_begin, p.expert_count, p.N);
    ring_t      ring   = {0, 0};
    char       *turn   = memory + TURN_AT + warp * TURN_BYTES;
    tile_t      tile;
    float       d[part / 2];

    for (uint32_t i = wtn_block(); walk_find<form>(walk, i, tile); i += wtn_block_count()) {
        multiply_tile<bf16, form>(p, shared, row * ATOM_BYTES, column * ATOM_BYTES, ring, d);
        finish_tile<bf16, up>(p, tile, row + warp % 4 * 16, column, turn, d);
    }
}

WTN_DEVICE void begin_block(const gemm_params_t &p, wtn_saddr_t shared)
{
    if (wtn_thread() == 0) {
        for (uint32_t i = 0; i < STAGES_MAX; i++) {
            wtn_mbarrier_init(barrier_full(shared, i), p.gathers ? 1 + GATHERING_WARPS : 1);
            wtn_mbarrier_init(barrier_empty(shared, i), MULTIPLYING);
        }
        wtn_mbarrier_fence_init();
    }
    wtn_sync_block();
}

#endif

template <bool bf16, bool up> WTN_KERNEL(THREADS, 1) gemm_kernel(WTN_PARAMS(gemm_params_t, p))
{
#if WTN_HAS_SM90A
    char    *memory = wtn_shared();
    uint32_t kind   = p.forced;

    if (kind == FORM_COUNT) {
        kind = form_choose(p.row_begin, p.expert_count, p.N, p.wide, p.few_rows);
    }
    begin_block(p, wtn_shared_address(memory));
    if (wtn_warp() < LOADING_WARPS) {
        wtn_registers_lower<up ? 88 : 72>();
        switch (kind) {
#define FORM_CASE(name, text, rows, columns, atoms, stages)                                  \
    case FORM_##name:                                                                        \
        if (wtn_warp() == 0) {                                                               \
            load_tiles<form<rows, columns, atoms, stages>>(p, wtn_shared_address(memory));   \
        } else if (up && p.gathers) {                                                        \
            gather_tiles<form<rows, columns, atoms, stages>>(p, wtn_shared_address(memory)); \
        }                                                                                    \
        break;
            WTN_FORM_LIST(FORM_CASE)
#undef FORM_CASE
        default:
            break;
        }
    } else {
        wtn_registers_raise<up ? 208 : 216>();
        switch (kind) {
#define FORM_CASE(name, text, rows, columns, atoms, stages)                      \
    case FORM_##name:                                                            \
        multiply_tiles<bf16, up, form<rows, columns, atoms, stages>>(p, memory); \
        break;
            WTN_FORM_LIST(FORM_CASE)
#undef FORM_CASE
        default:
            break;
        }
    }
#else
    (void)p; /* for other devices there are other executors */
#endif
}

/* ---- host ---- */

typedef CUresult (*encode_t)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                             const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                             const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                             CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

typedef struct matrix_maps {
    wtn_tensor_map_t wide, narrow;
    uint32_t         wide_columns;
} matrix_maps_t;

typedef struct sm90_state {
    encode_t      encode;
    matrix_maps_t up, down;
} sm90_state_t;

/* A map of `rows` rows of `columns` 16-bit numbers, `stride` bytes apart, read in boxes of ATOM
 * columns and box_rows rows. */
static witan_status_t encode_map(encode_t encode, wtn_tensor_map_t *map, witan_dtype_t dtype,
                                 const void *base, int64_t rows, int64_t columns, int64_t stride,
                                 uint32_t box_rows)
{
    const cuuint64_t sizes[2]   = {(cuuint64_t)columns, (cuuint64_t)rows};
    const cuuint64_t strides[1] = {(cuuint64_t)stride};
    const cuuint32_t box[2]     = {ATOM, box_rows};
    const cuuint32_t steps[2]   = {1, 1};
    CUresult         code;

    code = encode((CUtensorMap *)map,
                  dtype == WITAN_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                      : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                  2, (void *)base, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (code != CUDA_SUCCESS) {
        return WTN_ERROR(WITAN_E_INTERNAL,
                         "cuTensorMapEncodeTiled: code %d for %lld rows of %lld numbers", (int)code,
                         (long long)rows, (long long)columns);
    }
    return WITAN_OK;
}

/* 240 where it wastes fewer columns of the last tile than 256: 2880 and 5760 are such. */
static uint32_t wide_columns(int64_t N)
{
    int64_t of256 = (N + 255) / 256 * 256, of240 = (N + 239) / 240 * 240;

    return of240 * 100 < of256 * 98 ? 240 : 256;
}

static witan_status_t encode_weights(encode_t encode, matrix_maps_t *maps,
                                     const wtn_cuda_weights_t *w)
{
    int64_t        rows = (int64_t)w->expert_count * w->N;
    witan_status_t status;

    if (w->dtype != WITAN_BF16 && w->dtype != WITAN_F16) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "sm_90a: bf16 and f16 weights only");
    }
    if (rows > INT32_MAX || w->K > INT32_MAX) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "sm_90a: %lld rows of weights, at most %d",
                         (long long)rows, INT32_MAX);
    }
    maps->wide_columns = wide_columns(w->N);
    WTN_TRY(
        encode_map(encode, &maps->wide, w->dtype, w->w, rows, w->K, w->K * 2, maps->wide_columns));
    WTN_TRY(encode_map(encode, &maps->narrow, w->dtype, w->w, rows, w->K, w->K * 2, NARROW));
fail:
    return status;
}

static void sm90_release(void *state)
{
    free(state);
}

static witan_status_t sm90_prepare(void **out, const wtn_cuda_weights_t *up,
                                   const wtn_cuda_weights_t *down)
{
    cudaDriverEntryPointQueryResult found;
    sm90_state_t                   *state;
    witan_status_t                  status;
    void                           *encode = NULL;

    *out  = NULL;
    state = (sm90_state_t *)aligned_alloc(64, (sizeof(*state) + 63) / 64 * 64);
    if (state == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "sm_90a: %zu bytes", sizeof(*state));
    }
    WTN_CUDA_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000,
                                                  cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess) {
        status = WTN_ERROR(WITAN_E_UNSUPPORTED, "the driver has no cuTensorMapEncodeTiled");
        goto fail;
    }
    state->encode = (encode_t)encode;
    WTN_TRY(encode_weights(state->encode, &state->up, up));
    WTN_TRY(encode_weights(state->encode, &state->down, down));
    *out = state;
    return WITAN_OK;

fail:
    sm90_release(state);
    return status;
}

/* How A is read: by maps where its rows lie side by side. */
static witan_status_t fill_a(const sm90_state_t *state, const wtn_cuda_gemm_args_t *args,
                             gemm_params_t *p)
{
    const wtn_cuda_weights_t *w    = args->weights;
    int64_t                   rows = args->row_count_max;
    witan_status_t            status;

    p->a        = (const char *)args->a;
    p->a_index  = args->a_index;
    p->a_stride = (uint32_t)(args->a_stride * 2);
    p->gathers  = args->a_index != NULL || rows > INT32_MAX;
    if (!p->gathers) {
        WTN_TRY(encode_map(state->encode, &p->a_many, w->dtype, args->a, rows, w->K, p->a_stride,
                           MANY_ROWS));
        WTN_TRY(encode_map(state->encode, &p->a_few, w->dtype, args->a, rows, w->K, p->a_stride,
                           FEW_ROWS));
    }
    return WITAN_OK;

fail:
    return status;
}

static uint32_t form_forced = FORM_COUNT; /* for measurements only */

static witan_status_t sm90_queue(const sm90_state_t *state, const wtn_cuda_gemm_args_t *args)
{
    const wtn_cuda_weights_t *w      = args->weights;
    bool                      up     = args->activation != NULL;
    const matrix_maps_t      *maps   = up ? &state->up : &state->down;
    gemm_params_t             p      = {};
    wtn_launch_t              launch = {};
    witan_status_t            status;

    if (args->row_count_max == 0) {
        return WITAN_OK;
    }
    WTN_TRY(fill_a(state, args, &p));
    p.w_wide       = maps->wide;
    p.w_narrow     = maps->narrow;
    p.wide         = maps->wide_columns;
    p.row_begin    = args->row_begin;
    p.bias         = w->bias;
    p.out          = (char *)args->out;
    p.out_index    = args->out_index;
    p.out_stride   = args->out_stride * 2;
    p.expert_count = (uint32_t)w->expert_count;
    p.N            = (uint32_t)w->N;
    p.K            = (uint32_t)w->K;
    p.out_columns  = up ? (uint32_t)args->out_stride : (uint32_t)w->N;
    p.used_columns = (uint32_t)args->column_count;
    p.few_rows     = args->few_rows;
    p.forced       = form_forced;
    if (p.forced <= FORM_WIDE240) {
        p.forced = p.wide == 240 ? FORM_WIDE240 : FORM_WIDE; /* whichever has its map */
    }
    p.out_aligned = ((uintptr_t)args->out | (uintptr_t)p.out_stride) % 16 == 0;
    if (up) {
        p.activation = *args->activation;
    }

    launch.name         = up ? "gemm sm_90a up" : "gemm sm_90a down";
    launch.blocks       = (uint32_t)wtn_cuda_sm_count(args->sm_reserved);
    launch.threads      = THREADS;
    launch.shared_bytes = SHARED_BYTES;
    launch.stream       = args->stream;
    if (w->dtype == WITAN_BF16) {
        return wtn_launch(&launch, up ? gemm_kernel<true, true> : gemm_kernel<true, false>, &p);
    }
    return wtn_launch(&launch, up ? gemm_kernel<false, true> : gemm_kernel<false, false>, &p);

fail:
    return status;
}

static witan_status_t sm90_run(void *state, const wtn_cuda_gemm_args_t *args)
{
    return sm90_queue((const sm90_state_t *)state, args);
}

extern "C" const wtn_cuda_gemm_t wtn_cuda_gemm_sm90 = {
    sm90_prepare, sm90_release, NULL, sm90_run, sm90_run, false, 64,
};

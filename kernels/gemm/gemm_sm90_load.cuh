/* The loading side of the persistent sm_90a GEMM: what a kernel is told, the ring of stages, and
 * the warps that fill it. */
#ifndef WTN_GEMM_SM90_LOAD_CUH
#define WTN_GEMM_SM90_LOAD_CUH

#include <witan/layer.h>

#include "kernels/gemm/gemm_sm90_tiles.cuh"

#define THREADS         384u
#define LOADING_WARPS   4u /* 0 feeds the copy engine, 1 and 2 gather rows, 3 hands them over */
#define GATHERING_WARPS 2u
#define MULTIPLYING     8u
#define STAGES_MAX      8u
#define TILES_MAX       16u  /* more than stages and one: tiles told and not yet begun */
#define ATOM            64u  /* columns of K in a swizzled row */
#define ATOM_BYTES      128u /* of such a row */
#define NARROW          64u  /* rows of a small box of weights */
#define FEW_ROWS        16u  /* rows of a small box of A */
#define MANY_ROWS       64u

/* Shared memory: stages, 16 rows of 128 columns for each multiplying warp, tiles, barriers. A row
 * of 17 chunks instead of 16 keeps rows apart in banks. */
#define TURN_COLUMNS 128u
#define TURN_STRIDE  (TURN_COLUMNS * 2 + 16)
#define TURN_BYTES   (16 * TURN_STRIDE)
#define TURN_AT      WTN_FORM_BYTES
#define TILES_AT     (TURN_AT + MULTIPLYING * TURN_BYTES)
#define BARRIERS_AT  (TILES_AT + TILES_MAX * 32)
#define SHARED_BYTES (BARRIERS_AT + 3 * STAGES_MAX * 8)

typedef struct gemm_params {
    wtn_tensor_map_t   w_wide, w_narrow; /* of [E * N][K]; boxes of wide / 2, NARROW rows */
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
WTN_DEVICE void ring_skip(ring_t &ring, uint32_t stages, uint32_t count)
{
    ring.parity ^= (ring.stage + count) / stages % 2;
    ring.stage = (ring.stage + count) % stages;
}
WTN_DEVICE wtn_saddr_t barrier_full(wtn_saddr_t shared, uint32_t stage)
{
    return shared + BARRIERS_AT + stage * 8;
}
WTN_DEVICE wtn_saddr_t barrier_empty(wtn_saddr_t shared, uint32_t stage)
{
    return shared + BARRIERS_AT + (STAGES_MAX + stage) * 8;
}
/* Rows gathered into the stage have landed. */
WTN_DEVICE wtn_saddr_t barrier_landed(wtn_saddr_t shared, uint32_t stage)
{
    return shared + BARRIERS_AT + (2 * STAGES_MAX + stage) * 8;
}
static_assert(sizeof(tile_t) <= 32, "a slot");

WTN_DEVICE tile_t *tile_slot(char *memory, uint32_t number)
{
    return (tile_t *)(memory + TILES_AT + number % TILES_MAX * 32);
}
template <typename form> WTN_DEVICE walk_t walk_of(const gemm_params_t &p)
{
    return walk_begin<form>(p.row_begin, p.expert_count, p.N);
}
template <typename form> WTN_DEVICE uint32_t step_count(const gemm_params_t &p)
{
    return divide_up(p.K, form::atoms * ATOM);
}

/* ---- warp 0: by the copy engine ---- */

/* Boxes of A and B a step: as few as can be, as each costs the loading lane more than 100 cycles.
 * Those wholly beyond the tile's rows or the expert's columns are left out: the stage then holds
 * there what it held before. */
template <typename form> struct boxes {
    static constexpr bool     wide   = form::groups > 1; /* the forms with a map of their own */
    static constexpr uint32_t b_rows = wide ? form::columns / 2 : NARROW;
    static constexpr uint32_t a_max = form::rows / MANY_ROWS, b_max = form::columns / b_rows;
};

/* One lane brings one tile's steps. */
template <typename form>
WTN_DEVICE void load_tile(const gemm_params_t &p, const tile_t &tile, uint32_t rank,
                          wtn_saddr_t shared, ring_t &ring)
{
    typedef boxes<form>     box;
    bool                    few    = form::rows == MANY_ROWS && tile.rows <= FEW_ROWS;
    const wtn_tensor_map_t *a_map  = few ? &p.a_few : &p.a_many;
    const wtn_tensor_map_t *b_map  = box::wide ? &p.w_wide : &p.w_narrow;
    uint32_t                left   = p.N - tile.column;
    uint32_t                a_rows = few ? FEW_ROWS : MANY_ROWS;
    uint32_t                a_box  = p.gathers ? 0 : divide_up(tile.rows, a_rows);
    uint32_t b_box = divide_up(left < form::columns ? left : form::columns, box::b_rows);
    uint32_t bytes = (a_box * a_rows + b_box * box::b_rows) * form::atoms * ATOM_BYTES;
    uint32_t steps = step_count<form>(p);
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
                wtn_saddr_t to = b_at + i * box::b_rows * ATOM_BYTES;
                int32_t     y  = b_y + (int32_t)(i * box::b_rows);

                if (i >= b_box) {
                    continue;
                }
                if (!tile.shares) {
                    wtn_tensor_load(to, b_map, x, y, full);
                } else if (i % form::pair == rank) { /* the other block brings the others to both */
                    wtn_tensor_load_multicast(to, b_map, x, y, full, 3);
                }
            }
#pragma unroll
            for (uint32_t i = 0; i < box::a_max; i++) {
                if (i < a_box) {
                    wtn_tensor_load(a_at + i * MANY_ROWS * ATOM_BYTES, a_map, x,
                                    a_y + (int32_t)(i * MANY_ROWS), full);
                }
            }
            x += (int32_t)ATOM;
        }
        ring_next(ring, form::stages);
    }
}

/* All lanes walk; one tells the multiplying warps of each tile, which they see when they see its
 * first stage full, and loads it. */
template <typename form>
WTN_DEVICE void load_tiles(const gemm_params_t &p, uint32_t count, char *memory)
{
    wtn_saddr_t shared = wtn_shared_address(memory);
    uint32_t    rank   = wtn_cluster_rank();
    uint32_t    steps  = step_count<form>(p);
    walk_t      walk   = walk_of<form>(p);
    ring_t      ring   = {0, 1};

    for (uint32_t i = 0; i < count; i++) {
        tile_t tile = walk_find<form>(walk, walk_first<form>() + i * walk_step<form>(), rank);

        if (wtn_elect()) {
            ring_t next = ring;

            *tile_slot(memory, i) = tile;
            load_tile<form>(p, tile, rank, shared, next);
        }
        wtn_sync_warp();
        ring_skip(ring, form::stages, steps);
    }
}

/* ---- warps 1 to 3: rows by index ---- */

#define GATHER_ROWS (GATHERING_WARPS * 4) /* 8 lanes copy a row's atom */

/* Copy one stage's chunks, the lane's place in each row being `from`, and move on. A tile of all
 * rows, the usual one where rows are many, has no conditions in between. */
template <typename form, bool whole, uint32_t passes>
WTN_DEVICE void gather_stage(const char *(&from)[passes], uint32_t rows, uint32_t left,
                             wtn_saddr_t at)
{
#pragma unroll
    for (uint32_t i = 0; i < passes; i++) {
        if (!whole && i * GATHER_ROWS >= rows) {
            break;
        }
#pragma unroll
        for (uint32_t atom = 0; atom < form::atoms; atom++) {
            wtn_copy16_async(at + (atom * form::rows + i * GATHER_ROWS) * ATOM_BYTES,
                             from[i] + atom * ATOM_BYTES,
                             atom * ATOM < left ? 16 : 0); /* beyond K are zeros */
        }
        from[i] += form::atoms * ATOM_BYTES;
    }
}

/* One tile's steps. Lanes beyond its last row copy that row once more. */
template <typename form>
WTN_DEVICE void gather_tile(const gemm_params_t &p, const tile_t &tile, wtn_saddr_t shared,
                            ring_t &ring)
{
    constexpr uint32_t passes = form::rows / GATHER_ROWS;

    uint32_t    first = (wtn_warp() - 1) * 4 + wtn_lane() / 8;
    uint32_t    chunk = wtn_lane() % 8;
    uint32_t    last  = tile.rows > 0 ? tile.rows - 1 : 0;
    uint32_t    steps = step_count<form>(p);
    wtn_saddr_t place = first * ATOM_BYTES + (chunk ^ first) * 16; /* passes are 8 rows apart */
    int64_t     row[passes];
    const char *from[passes];

#pragma unroll
    for (uint32_t i = 0; i < passes; i++) {
        uint32_t r = first + i * GATHER_ROWS;

        row[i] = tile.row + (r < last ? r : last);
    }
    if (p.a_index != NULL) { /* all asked for before one is awaited */
#pragma unroll
        for (uint32_t i = 0; i < passes; i++) {
            row[i] = p.a_index[row[i]];
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < passes; i++) {
        from[i] = p.a + row[i] * p.a_stride + chunk * 16;
    }
    for (uint32_t step = 0; step < steps; step++) {
        wtn_saddr_t at   = shared + ring.stage * form::stage_bytes + place;
        uint32_t    x    = step * form::atoms * ATOM + chunk * 8;
        uint32_t    left = x < p.K ? p.K - x : 0;

        wtn_mbarrier_wait(barrier_empty(shared, ring.stage), ring.parity);
        if (tile.rows > form::rows - GATHER_ROWS) {
            gather_stage<form, true>(from, tile.rows, left, at);
        } else {
            gather_stage<form, false>(from, tile.rows, left, at);
        }
        wtn_mbarrier_arrive_copies(barrier_landed(shared, ring.stage));
        ring_next(ring, form::stages);
    }
}

template <typename form>
WTN_DEVICE void gather_tiles(const gemm_params_t &p, uint32_t count, wtn_saddr_t shared)
{
    uint32_t rank = wtn_cluster_rank();
    walk_t   walk = walk_of<form>(p);
    ring_t   ring = {0, 1};

    for (uint32_t i = 0; i < count; i++) {
        tile_t tile = walk_find<form>(walk, walk_first<form>() + i * walk_step<form>(), rank);

        gather_tile<form>(p, tile, shared, ring);
    }
}

/* Copies by cp.async belong to the generic proxy: one lane sees them land and fences for all. In
 * the gathering warps the fence would wait for the copies of later stages, too. */
template <typename form>
WTN_DEVICE void hand_over(const gemm_params_t &p, uint32_t count, wtn_saddr_t shared)
{
    ring_t ring = {0, 0};

    for (uint64_t left = (uint64_t)count * step_count<form>(p); left > 0; left--) {
        wtn_mbarrier_wait(barrier_landed(shared, ring.stage), ring.parity);
        wtn_fence_async();
        wtn_mbarrier_arrive(barrier_full(shared, ring.stage));
        ring_next(ring, form::stages);
    }
}

template <typename form>
WTN_DEVICE void load(const gemm_params_t &p, const survey_t &survey, char *memory)
{
    uint32_t count = walk_count<form>(survey, p.N);

    if (wtn_warp() == 0) {
        load_tiles<form>(p, count, memory);
    } else if (p.gathers && wtn_warp() <= GATHERING_WARPS) {
        gather_tiles<form>(p, count, wtn_shared_address(memory));
    } else if (p.gathers && wtn_elect()) {
        hand_over<form>(p, count, wtn_shared_address(memory));
    }
    wtn_sync_warp();
}

#endif
#endif

/* The loading side of the persistent sm_90a GEMM: what a kernel is told, the ring of stages, and
 * the warps that fill it. */
#ifndef WTN_GEMM_SM90_LOAD_CUH
#define WTN_GEMM_SM90_LOAD_CUH

#include <witan/layer.h>

#include "kernels/gemm/gemm_sm90_tiles.cuh"

/* Warp 0 brings weights, warp 1 rows; or 1 and 2 gather them, and 3 hands them over. */
#define LOADING_WARPS   4u
#define GATHERING_WARPS 2u
#define FULL_THREADS    ((LOADING_WARPS + 8) * 32)
#define STAGES_MAX      10u
#define TILES_MAX       16u  /* more than stages and one: tiles told and not yet begun */
#define ATOM            64u  /* columns of K in a swizzled row */
#define ATOM_BYTES      128u /* of such a row */
#define BROADEST        128u /* rows of the largest box of weights, */
#define NARROW          64u  /* of a small one, */
#define SLIM            32u  /* of the smallest */
#define FEW_ROWS        8u   /* rows of a small box of A */
#define MANY_ROWS       64u
#define TILES_AT        (3 * STAGES_MAX * 8 + 16)

static_assert(TILES_AT % 32 == 0 && TILES_AT + TILES_MAX * 32 <= TURN_AT, "before the ring");

typedef struct gemm_params {
    wtn_tensor_map_t   w_wide, w_narrow, w_slim; /* of [E * N][K]; of so many rows */
    wtn_tensor_map_t   a_many, a_few;            /* of A; boxes of MANY_ROWS and FEW_ROWS rows */
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
    return shared + stage * 8;
}
WTN_DEVICE wtn_saddr_t barrier_empty(wtn_saddr_t shared, uint32_t stage)
{
    return shared + (STAGES_MAX + stage) * 8;
}
/* Rows gathered into the stage have landed. */
WTN_DEVICE wtn_saddr_t barrier_landed(wtn_saddr_t shared, uint32_t stage)
{
    return shared + (2 * STAGES_MAX + stage) * 8;
}
/* A stage is full when told of by who brings weights and by who brings rows; empty when all warps
 * have released it that multiply what is in it. */
WTN_DEVICE void init_barriers(wtn_saddr_t shared, uint32_t releases)
{
    if (wtn_thread() == 0) {
        for (uint32_t i = 0; i < STAGES_MAX; i++) {
            wtn_mbarrier_init(barrier_full(shared, i), 2);
            wtn_mbarrier_init(barrier_empty(shared, i), releases);
            wtn_mbarrier_init(barrier_landed(shared, i), GATHERING_WARPS * 32);
        }
        wtn_mbarrier_fence_init();
    }
}

static_assert(sizeof(tile_t) <= 32, "a slot");

WTN_DEVICE tile_t *tile_slot(char *memory, uint32_t number)
{
    return (tile_t *)(memory + TILES_AT + number % TILES_MAX * 32);
}
template <typename form> WTN_DEVICE wtn_saddr_t stage_at(wtn_saddr_t shared, uint32_t stage)
{
    return shared + form::ring_at + stage * form::stage_bytes;
}
template <typename form> WTN_DEVICE walk_t walk_of(const gemm_params_t &p, const survey_t &survey)
{
    return walk_begin<form>(p.row_begin, p.expert_count, p.N, survey.window);
}
template <typename form> WTN_DEVICE uint32_t step_count(const gemm_params_t &p)
{
    return divide_up(p.K, form::atoms * ATOM);
}

/* ---- by the copy engine: weights by warp 0, rows that lie side by side by warp 1 ---- */

/* Boxes of weights a step: as few as can be, as each costs the loading lane more than 100 cycles.
 * Those wholly beyond the expert's columns are left out, as those of A beyond the tile's rows: the
 * stage then holds there what it held before. */
template <typename form> struct boxes {
    static constexpr bool     wide = form::groups > 1; /* the forms with a map of their own */
    static constexpr uint32_t rows = wide ? BROADEST : form::columns < NARROW ? SLIM : NARROW;
    static constexpr uint32_t most = form::columns / rows;

    /* Weights that few other tiles need leave the L2 cache before rows, h, instructions and row
     * counts do. Not BROAD's: much of h and out, written and not yet in memory, would stay. */
    static constexpr bool once = form::columns <= 128 && form::pair == 1;
};

/* One lane brings one tile's steps. */
template <typename form>
WTN_DEVICE void load_weights(const gemm_params_t &p, const tile_t &tile, uint32_t rank,
                             wtn_saddr_t shared, ring_t &ring)
{
    typedef boxes<form>     box;
    const wtn_tensor_map_t *map  = box::wide             ? &p.w_wide
                                   : box::rows == NARROW ? &p.w_narrow
                                                         : &p.w_slim;
    uint32_t                left = p.N - tile.column;
    uint32_t count = divide_up(left < form::columns ? left : form::columns, box::rows);
    uint32_t bytes = count * box::rows * form::atoms * ATOM_BYTES;
    uint32_t steps = step_count<form>(p);
    int32_t  y     = (int32_t)(tile.expert * p.N + tile.column);
    int32_t  x     = 0;

    for (uint32_t step = 0; step < steps; step++) {
        wtn_saddr_t full = barrier_full(shared, ring.stage);
        wtn_saddr_t at = stage_at<form>(shared, ring.stage) + form::rows * form::atoms * ATOM_BYTES;

        wtn_mbarrier_wait(barrier_empty(shared, ring.stage), ring.parity);
        wtn_mbarrier_expect(full, bytes);
#pragma unroll
        for (uint32_t atom = 0; atom < form::atoms; atom++) {
#pragma unroll
            for (uint32_t i = 0; i < box::most; i++) {
                wtn_saddr_t to = at + (atom * form::columns + i * box::rows) * ATOM_BYTES;

                if (i >= count) {
                    continue;
                }
                if (!tile.shares) {
                    if (box::once) {
                        wtn_tensor_load_once(to, map, x, y + (int32_t)(i * box::rows), full);
                    } else {
                        wtn_tensor_load(to, map, x, y + (int32_t)(i * box::rows), full);
                    }
                } else if (i % form::pair == rank) { /* the other block brings the others to both */
                    wtn_tensor_load_multicast(to, map, x, y + (int32_t)(i * box::rows), full, 3);
                }
            }
            x += (int32_t)ATOM;
        }
        ring_next(ring, form::stages);
    }
}

template <typename form>
WTN_DEVICE void load_rows(const gemm_params_t &p, const tile_t &tile, wtn_saddr_t shared,
                          ring_t &ring)
{
    bool     few   = form::rows <= MANY_ROWS && tile.rows <= 2 * FEW_ROWS;
    uint32_t rows  = few ? FEW_ROWS : MANY_ROWS;
    uint32_t count = divide_up(tile.rows, rows);
    uint32_t bytes = count * rows * form::atoms * ATOM_BYTES;
    uint32_t steps = step_count<form>(p);
    int32_t  y     = (int32_t)tile.row;
    int32_t  x     = 0;

    for (uint32_t step = 0; step < steps; step++) {
        wtn_saddr_t full = barrier_full(shared, ring.stage);
        wtn_saddr_t at   = stage_at<form>(shared, ring.stage);

        wtn_mbarrier_wait(barrier_empty(shared, ring.stage), ring.parity);
        wtn_mbarrier_expect(full, bytes);
#pragma unroll
        for (uint32_t atom = 0; atom < form::atoms; atom++) {
#pragma unroll
            for (uint32_t i = 0; i < 2; i++) {
                if (i < count) {
                    wtn_tensor_load(at + (atom * form::rows + i * rows) * ATOM_BYTES,
                                    few ? &p.a_few : &p.a_many, x, y + (int32_t)(i * rows), full);
                }
            }
            x += (int32_t)ATOM;
        }
        ring_next(ring, form::stages);
    }
}

/* All lanes walk, one loads. The multiplying warps are told of each tile, which they see when they
 * see its first stage full. */
template <typename form, bool weights>
WTN_DEVICE void load_tiles(const gemm_params_t &p, const survey_t &survey, uint32_t count,
                           char *memory)
{
    wtn_saddr_t shared = wtn_shared_address(memory);
    uint32_t    rank   = wtn_cluster_rank();
    uint32_t    steps  = step_count<form>(p);
    walk_t      walk   = walk_of<form>(p, survey);
    ring_t      ring   = {0, 1};
    uint32_t    first  = walk_first<form>();

    for (uint32_t i = 0; i < count; i++) {
        tile_t tile = walk_find<form>(walk, first + i * walk_step<form>(), rank);

        if (wtn_elect()) {
            ring_t next = ring;

            if (weights) {
                *tile_slot(memory, i) = tile;
                load_weights<form>(p, tile, rank, shared, next);
            } else {
                if (i == 0) { /* down: h */
                    wtn_grid_wait();
                }
                load_rows<form>(p, tile, shared, next);
            }
        }
        wtn_sync_warp();
        ring_skip(ring, form::stages, steps);
    }
}

/* ---- warps 1 to 3: rows by index ---- */

#define GATHER_ROWS     (GATHERING_WARPS * 4) /* 8 lanes copy a row's atom */
#define GATHER_TOGETHER 32u

/* Copy one stage's chunks, the lane's place in each row being `from`, and move on. Whole: by
 * GATHER_TOGETHER rows, without conditions in between. */
template <typename form, bool whole, uint32_t passes>
WTN_DEVICE void gather_stage(const char *(&from)[passes], uint32_t first, uint32_t rows,
                             uint32_t left, wtn_saddr_t at)
{
#pragma unroll
    for (uint32_t i = 0; i < passes; i++) {
        bool there = whole || i * GATHER_ROWS + first < rows;

        if (i * GATHER_ROWS >= rows && (!whole || i % (GATHER_TOGETHER / GATHER_ROWS) == 0)) {
            break;
        }
#pragma unroll
        for (uint32_t atom = 0; atom < form::atoms; atom++) {
            wtn_copy16_async(at + (atom * form::rows + i * GATHER_ROWS) * ATOM_BYTES,
                             from[i] + atom * ATOM_BYTES,
                             there && atom * ATOM < left ? 16 : 0); /* beyond K are zeros */
        }
        from[i] += form::atoms * ATOM_BYTES;
    }
}

/* One tile's steps. Lanes beyond its last row store zeros or copy that row once more; in forms of
 * many rows always the latter, as code for both would not fit the registers. */
template <typename form>
WTN_DEVICE void gather_tile(const gemm_params_t &p, const tile_t &tile, wtn_saddr_t shared,
                            ring_t &ring)
{
    constexpr uint32_t passes = form::rows / GATHER_ROWS;
    constexpr bool     many   = form::rows > 64;

    uint32_t    first = (wtn_warp() - 1) * 4 + wtn_lane() / 8;
    uint32_t    chunk = wtn_lane() % 8;
    uint32_t    last  = tile.rows > 0 ? tile.rows - 1 : 0;
    uint32_t    steps = step_count<form>(p);
    wtn_saddr_t place = first * ATOM_BYTES + (chunk ^ first) * 16; /* passes are 8 rows apart */
    uint32_t    row[passes]; /* numbers of rows are less than 2^32 */
    const char *from[passes];

#pragma unroll
    for (uint32_t i = 0; i < passes; i++) {
        uint32_t r = first + i * GATHER_ROWS;

        row[i] = (uint32_t)tile.row + (r < last ? r : last);
    }
    if (p.a_index != NULL) { /* all asked for before one is awaited */
#pragma unroll
        for (uint32_t i = 0; i < passes; i++) {
            row[i] = (uint32_t)p.a_index[row[i]];
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < passes; i++) {
        from[i] = p.a + (uint64_t)row[i] * p.a_stride + chunk * 16;
    }
    for (uint32_t step = 0; step < steps; step++) {
        wtn_saddr_t at   = stage_at<form>(shared, ring.stage) + place;
        uint32_t    x    = step * form::atoms * ATOM + chunk * 8;
        uint32_t    left = x < p.K ? p.K - x : 0;

        wtn_mbarrier_wait(barrier_empty(shared, ring.stage), ring.parity);
        if (many || tile.rows > form::rows - GATHER_ROWS) {
            gather_stage<form, true>(from, first, tile.rows, left, at);
        } else {
            gather_stage<form, false>(from, first, tile.rows, left, at);
        }
        wtn_mbarrier_arrive_copies(barrier_landed(shared, ring.stage));
        ring_next(ring, form::stages);
    }
}

template <typename form>
WTN_DEVICE void gather_tiles(const gemm_params_t &p, const survey_t &survey, uint32_t count,
                             wtn_saddr_t shared)
{
    uint32_t rank  = wtn_cluster_rank();
    uint32_t first = walk_first<form>();
    walk_t   walk  = walk_of<form>(p, survey);
    ring_t   ring  = {0, 1};

    for (uint32_t i = 0; i < count; i++) {
        tile_t tile = walk_find<form>(walk, first + i * walk_step<form>(), rank);

        if (i == 0) {
            wtn_grid_wait();
        }
        gather_tile<form>(p, tile, shared, ring);
    }
}

/* Copies by cp.async belong to the generic proxy: one lane sees them land and fences for all. In
 * the gathering warps the fence would wait for the copies of later stages, too. */
template <typename form> WTN_DEVICE void hand_over(uint64_t steps, wtn_saddr_t shared, ring_t &ring)
{
    for (uint64_t left = steps; left > 0; left--) {
        wtn_mbarrier_wait(barrier_landed(shared, ring.stage), ring.parity);
        wtn_fence_async();
        wtn_mbarrier_arrive(barrier_full(shared, ring.stage));
        ring_next(ring, form::stages);
    }
}

template <typename form, bool gathers>
WTN_DEVICE void load(const gemm_params_t &p, const survey_t &survey, char *memory)
{
    uint32_t count = walk_count<form>(survey, p.N);
    ring_t   ring  = {0, 0};

    if (wtn_warp() == 0) {
        load_tiles<form, true>(p, survey, count, memory);
    } else if (!gathers && wtn_warp() == 1) {
        load_tiles<form, false>(p, survey, count, memory);
    } else if (gathers && wtn_warp() <= GATHERING_WARPS) {
        gather_tiles<form>(p, survey, count, wtn_shared_address(memory));
    } else if (gathers && wtn_elect()) {
        hand_over<form>((uint64_t)count * step_count<form>(p), wtn_shared_address(memory), ring);
    }
    wtn_sync_warp();
}

#endif
#endif

/* The loading side of the persistent sm_90a GEMM: what a kernel is told, the ring of stages, and
 * the warps that fill it. */
#ifndef WTN_GEMM_SM90_LOAD_CUH
#define WTN_GEMM_SM90_LOAD_CUH

#include <witan/layer.h>

#include "kernels/gemm/gemm_sm90_tiles.cuh"

/* Warps that do not multiply. Where rows lie side by side 0 brings weights, 1 rows, and the last
 * one finds tiles and tells the others; where they are gathered 0 finds tiles, too, and the form's
 * gatherers, from 1 on, bring rows. */
#define LOADING_WARPS 4u
#define FINDING_WARP  (LOADING_WARPS - 1)
#define FULL_THREADS  ((LOADING_WARPS + 8) * 32)
#define STAGES_MAX    10u
#define ATOM          64u  /* columns of K in a swizzled row */
#define ATOM_BYTES    128u /* of such a row */
#define NARROW        64u  /* rows of a box of weights, */
#define SLIM          32u  /* of a small one */
#define FEW_ROWS      8u   /* rows of a small box of A */
#define MANY_ROWS     64u

/* A told tile's slot is the next one's that is so many later: of a form of S stages, warp 0 tells
 * tile n when a step of n - 1 is on its way, so all of n - 1 - S is multiplied; the finder when n -
 * 1 is begun, so all of n - 2 - S is, and who multiplies the tiles in between may still look at
 * that. Numbers passed on to the second block of a pair wait in two places. */
#define TOLD_MAX       12u
#define TOLD_AT        (2 * STAGES_MAX * 8)                            /* tile_t of each */
#define HEARD_AT       (TOLD_AT + TOLD_MAX * (uint32_t)sizeof(tile_t)) /* its barrier */
#define PASSED_MAX     2u
#define PASSED_AT      (HEARD_AT + TOLD_MAX * 8) /* barriers passed, barriers taken, numbers */
#define PASSED_NUMBERS (PASSED_AT + 2 * PASSED_MAX * 8)
#define BEGUN_AT       (PASSED_NUMBERS + PASSED_MAX * 4) /* barrier begun */

typedef struct gemm_params {
    wtn_tensor_map_t   w_narrow, w_slim; /* of [E * N][K]; boxes of so many rows */
    wtn_tensor_map_t   a_many, a_few;    /* of A; boxes of MANY_ROWS and FEW_ROWS rows */
    const char        *a;
    const int64_t     *a_index;
    const int64_t     *row_begin;
    uint32_t          *tickets; /* 0 when the kernel begins */
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

static_assert(TOLD_MAX >= STAGES_MAX + 2, "a slot is free when warp 0 wants it");
static_assert(HEARD_AT % 8 == 0 && BEGUN_AT % 8 == 0 && BEGUN_AT + 8 <= TURN_AT,
              "before the row counts");

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
/* The block's tile of this number, as who finds it tells the others. */
WTN_DEVICE wtn_saddr_t barrier_told(wtn_saddr_t shared, uint32_t number)
{
    return shared + HEARD_AT + number % TOLD_MAX * 8;
}
WTN_DEVICE tile_t *told_slot(char *memory, uint32_t number)
{
    return (tile_t *)(memory + TOLD_AT) + number % TOLD_MAX;
}
WTN_DEVICE tile_t told_wait(char *memory, uint32_t number) /* all lanes */
{
    wtn_mbarrier_wait(barrier_told(wtn_shared_address(memory), number), number / TOLD_MAX % 2);
    return *told_slot(memory, number);
}
WTN_DEVICE void tell(char *memory, uint32_t number, const tile_t &tile)
{
    *told_slot(memory, number) = tile;
    wtn_mbarrier_arrive(barrier_told(wtn_shared_address(memory), number));
}

WTN_DEVICE wtn_saddr_t barrier_passed(wtn_saddr_t shared, uint32_t place)
{
    return shared + PASSED_AT + place * 8;
}
WTN_DEVICE wtn_saddr_t barrier_taken(wtn_saddr_t shared, uint32_t place)
{
    return shared + PASSED_AT + (PASSED_MAX + place) * 8;
}
WTN_DEVICE wtn_saddr_t barrier_begun(wtn_saddr_t shared)
{
    return shared + BEGUN_AT;
}
/* What tiles are taken by. Before init_barriers, whose fence is for these, too. */
WTN_DEVICE void init_taking(wtn_saddr_t shared)
{
    if (wtn_thread() == 0) {
        wtn_mbarrier_init(barrier_begun(shared), 1);
        for (uint32_t i = 0; i < PASSED_MAX; i++) {
            wtn_mbarrier_init(barrier_passed(shared, i), 1);
            wtn_mbarrier_init(barrier_taken(shared, i), 1);
        }
    }
}

/* A stage is full when told of by who brings weights and by who brings rows, or each lane of those
 * warps whose copies have landed; empty when all warps have released it that multiply what is in
 * it. */
WTN_DEVICE void init_barriers(wtn_saddr_t shared, uint32_t gatherers, uint32_t releases)
{
    if (wtn_thread() == 0) {
        for (uint32_t i = 0; i < STAGES_MAX; i++) {
            wtn_mbarrier_init(barrier_full(shared, i), 1 + (gatherers > 0 ? gatherers * 32 : 1));
            wtn_mbarrier_init(barrier_empty(shared, i), releases);
        }
        for (uint32_t i = 0; i < TOLD_MAX; i++) {
            wtn_mbarrier_init(barrier_told(shared, i), 1);
        }
        wtn_mbarrier_fence_init();
    }
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

/* Boxes of weights a step. Those wholly beyond the tile's columns are left out, as those of A
 * beyond its rows: the stage then holds there what it held before. */
template <typename form> struct boxes {
    static constexpr uint32_t rows = form::columns < NARROW ? SLIM : NARROW;
    static constexpr uint32_t most = form::columns / rows;

    /* Weights that few other tiles need leave the L2 cache before rows, h, instructions and row
     * counts do. Not BROAD's: much of h and out, written and not yet in memory, would stay. */
    static constexpr bool once = form::columns <= 128 && form::pair == 1;
};

/* A stage's weights. One lane. */
template <typename form>
WTN_DEVICE void bring_weights(const wtn_tensor_map_t *map, bool shares, uint32_t rank, int32_t x,
                              int32_t y, uint32_t count, wtn_saddr_t at, wtn_saddr_t full)
{
    typedef boxes<form> box;

    wtn_mbarrier_expect(full, count * box::rows * form::atoms * ATOM_BYTES);
#pragma unroll
    for (uint32_t atom = 0; atom < form::atoms; atom++) {
#pragma unroll
        for (uint32_t i = 0; i < box::most; i++) {
            wtn_saddr_t to = at + (atom * form::columns + i * box::rows) * ATOM_BYTES;

            if (i >= count) {
                continue;
            }
            if (!shares) {
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
}

/* The warp brings a tile's steps from `first` to before `last`. All lanes wait: the compiler then
 * knows that they go together. */
template <typename form>
WTN_DEVICE void load_weights(const gemm_params_t &p, const tile_t &tile, uint32_t rank,
                             uint32_t first, uint32_t last, wtn_saddr_t shared, ring_t &ring)
{
    typedef boxes<form>     box;
    const wtn_tensor_map_t *map   = box::rows == NARROW ? &p.w_narrow : &p.w_slim;
    uint32_t                count = divide_up(tile.columns, box::rows);
    int32_t                 y     = (int32_t)(tile.expert * p.N + tile.column);

    for (uint32_t step = first; step < last; step++) {
        wtn_mbarrier_wait(barrier_empty(shared, ring.stage), ring.parity);
        if (wtn_elect()) {
            bring_weights<form>(map, tile.shares, rank, (int32_t)(step * form::atoms * ATOM), y,
                                count,
                                stage_at<form>(shared, ring.stage) +
                                    form::rows * form::atoms * ATOM_BYTES,
                                barrier_full(shared, ring.stage));
        }
        wtn_sync_warp();
        ring_next(ring, form::stages);
    }
}

/* A stage's rows. One lane. */
template <typename form>
WTN_DEVICE void bring_rows(const wtn_tensor_map_t *map, uint32_t rows, int32_t x, int32_t y,
                           uint32_t count, wtn_saddr_t at, wtn_saddr_t full)
{
    wtn_mbarrier_expect(full, count * rows * form::atoms * ATOM_BYTES);
#pragma unroll
    for (uint32_t atom = 0; atom < form::atoms; atom++) {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            if (i < count) {
                wtn_tensor_load(at + (atom * form::rows + i * rows) * ATOM_BYTES, map, x,
                                y + (int32_t)(i * rows), full);
            }
        }
        x += (int32_t)ATOM;
    }
}

/* The warp brings a tile's rows, which lie side by side. All lanes wait, as above. */
template <typename form>
WTN_DEVICE void load_rows(const gemm_params_t &p, const tile_t &tile, wtn_saddr_t shared,
                          ring_t &ring)
{
    bool     few   = form::rows <= MANY_ROWS && tile.rows <= 2 * FEW_ROWS;
    uint32_t rows  = few ? FEW_ROWS : MANY_ROWS;
    uint32_t count = divide_up(tile.rows, rows);
    uint32_t steps = step_count<form>(p);

    for (uint32_t step = 0; step < steps; step++) {
        wtn_mbarrier_wait(barrier_empty(shared, ring.stage), ring.parity);
        if (wtn_elect()) {
            bring_rows<form>(few ? &p.a_few : &p.a_many, rows, (int32_t)(step * form::atoms * ATOM),
                             (int32_t)tile.row, count, stage_at<form>(shared, ring.stage),
                             barrier_full(shared, ring.stage));
        }
        wtn_sync_warp();
        ring_next(ring, form::stages);
    }
}

/* Ask for the number of a unit; lane 0 has it when it comes. */
WTN_DEVICE uint32_t take_ticket(uint32_t *tickets)
{
    return wtn_lane() == 0 ? wtn_count_device(tickets) : 0;
}

/* Which units a crew does. The first block of a pair takes tickets and passes their numbers on. */
typedef struct taker {
    walk_t   walk;
    uint32_t number, count, rank;
    ring_t   passed; /* place for the next number */
} taker_t;

/* The number to the second block of the pair. */
WTN_DEVICE void pass_number(taker_t &taker, wtn_saddr_t shared)
{
    uint32_t place = taker.passed.stage;

    wtn_mbarrier_wait(barrier_taken(shared, place), taker.passed.parity ^ 1);
    if (wtn_elect()) {
        wtn_store_cluster(shared + PASSED_NUMBERS + place * 4, taker.number,
                          barrier_passed(shared, place), 1);
    }
    wtn_sync_warp();
    ring_next(taker.passed, PASSED_MAX);
}
WTN_DEVICE void receive_number(taker_t &taker, char *memory)
{
    uint32_t    place  = taker.passed.stage;
    wtn_saddr_t shared = wtn_shared_address(memory);

    if (wtn_elect()) {
        wtn_mbarrier_expect(barrier_passed(shared, place), 4);
    }
    wtn_sync_warp();
    wtn_mbarrier_wait(barrier_passed(shared, place), taker.passed.parity);
    taker.number = *(const uint32_t *)(memory + PASSED_NUMBERS + place * 4);
    wtn_sync_warp();
    if (wtn_elect()) {
        wtn_mbarrier_arrive_cluster(barrier_taken(shared, place), 0);
    }
    ring_next(taker.passed, PASSED_MAX);
}

/* This block's tile of the taker's number. All lanes. */
template <typename form> WTN_DEVICE tile_t taker_find(taker_t &taker)
{
    tile_t tile = {};

    if (taker.number < taker.count) {
        return walk_find<form>(taker.walk, taker.number, taker.rank);
    }
    tile.end = true;
    return tile;
}

/* The first tile: of the crew's own number. */
template <typename form>
WTN_DEVICE tile_t taker_begin(const gemm_params_t &p, const survey_t &survey, taker_t &taker)
{
    taker.walk   = walk_of<form>(p, survey);
    taker.count  = unit_count<form>(survey, taker.walk);
    taker.rank   = form::pair > 1 ? wtn_cluster_rank() : 0;
    taker.number = wtn_block() / form::pair;
    taker.passed = {0, 0};
    return taker_find<form>(taker);
}

/* The tile after: of a ticket or, in the second block of a pair, of the number passed on. Both look
 * for theirs at the same time. */
template <typename form> WTN_DEVICE tile_t taker_next(uint32_t ticket, taker_t &taker, char *memory)
{
    if (form::pair > 1 && taker.rank > 0) {
        receive_number(taker, memory);
    } else {
        taker.number = crew_count<form>() + wtn_shuffle(ticket, 0);
        if (form::pair > 1) {
            pass_number(taker, wtn_shared_address(memory));
        }
    }
    return taker_find<form>(taker);
}

/* Warp 0 where rows are gathered: all lanes find tiles, one loads. The next tile is asked for,
 * found and told while the first steps of one are on their way. */
template <typename form>
WTN_DEVICE void load_tiles(const gemm_params_t &p, const survey_t &survey, char *memory)
{
    wtn_saddr_t shared = wtn_shared_address(memory);
    uint32_t    steps  = step_count<form>(p);
    ring_t      ring   = {0, 1};
    taker_t     taker;
    tile_t      tile = taker_begin<form>(p, survey, taker);

    if (wtn_elect()) {
        tell(memory, 0, tile);
    }
    for (uint32_t i = 1; !tile.end; i++) {
        uint32_t ticket = taker.rank == 0 ? take_ticket(p.tickets) : 0;
        tile_t   next;

        load_weights<form>(p, tile, taker.rank, 0, 1, shared, ring);
        next = taker_next<form>(ticket, taker, memory);
        if (wtn_elect()) {
            tell(memory, i, next);
        }
        wtn_sync_warp();
        load_weights<form>(p, tile, taker.rank, 1, steps, shared, ring);
        tile = next;
    }
}

/* FINDING_WARP. Each tile is taken when the one before it has been begun: not sooner, so that
 * blocks end together, and tiles told wait in their slots. */
template <typename form>
WTN_DEVICE void find_tiles(const gemm_params_t &p, const survey_t &survey, char *memory)
{
    static_assert(TOLD_MAX >= form::stages + 3, "a slot is free when the finder wants it");

    wtn_saddr_t shared = wtn_shared_address(memory);
    taker_t     taker;
    tile_t      tile = taker_begin<form>(p, survey, taker);

    for (uint32_t i = 0;; i++) {
        uint32_t ticket = 0;

        if (wtn_elect()) {
            tell(memory, i, tile);
        }
        wtn_sync_warp();
        if (tile.end) {
            break;
        }
        wtn_mbarrier_wait(barrier_begun(shared), i % 2);
        ticket = taker.rank == 0 ? take_ticket(p.tickets) : 0;
        tile   = taker_next<form>(ticket, taker, memory);
    }
}

/* Warp 0 beside it. */
template <typename form> WTN_DEVICE void load_weights_of_tiles(const gemm_params_t &p, char *memory)
{
    wtn_saddr_t shared = wtn_shared_address(memory);
    uint32_t    rank   = form::pair > 1 ? wtn_cluster_rank() : 0;
    ring_t      ring   = {0, 1};

    for (uint32_t i = 0;; i++) {
        tile_t tile = told_wait(memory, i);

        if (tile.end) {
            break;
        }
        if (wtn_elect()) {
            wtn_mbarrier_arrive(barrier_begun(shared));
        }
        wtn_sync_warp();
        load_weights<form>(p, tile, rank, 0, step_count<form>(p), shared, ring);
    }
}

/* Warp 1. */
template <typename form> WTN_DEVICE void load_rows_of_tiles(const gemm_params_t &p, char *memory)
{
    ring_t ring = {0, 1};

    wtn_grid_wait(); /* down: h */
    for (uint32_t i = 0;; i++) {
        tile_t tile = told_wait(memory, i);

        if (tile.end) {
            break;
        }
        load_rows<form>(p, tile, wtn_shared_address(memory), ring);
    }
}

/* ---- warps from 1 on: rows by index ---- */

#define GATHER_ROWS     4u  /* of a warp: 8 lanes copy a row's atom */
#define GATHER_TOGETHER 32u /* at least; of all warps */

/* Copy one stage's chunks, the lane's place in each row being `from`, and move on. Whole: rows
 * beyond the last were given a place too and are copied until GATHER_TOGETHER rows or some more are
 * whole, without conditions in between. */
template <typename form, bool whole, uint32_t passes>
WTN_DEVICE void gather_stage(const char *(&from)[passes], uint32_t first, uint32_t rows,
                             uint32_t left, wtn_saddr_t at)
{
    constexpr uint32_t each     = GATHER_ROWS * form::gatherers;
    constexpr uint32_t together = divide_up(GATHER_TOGETHER, each);

#pragma unroll
    for (uint32_t i = 0; i < passes; i++) {
        uint32_t    row = i * each + first;
        wtn_saddr_t to  = (at ^ i * each % 8 * 16) + i * each * ATOM_BYTES; /* as swizzled there */

        if (i * each >= rows && (!whole || i % together == 0)) {
            break;
        }
#pragma unroll
        for (uint32_t atom = 0; atom < form::atoms; atom++) {
            if (whole ? i + 1 < passes || row < form::rows : row < rows) {
                wtn_copy16_async(to + atom * form::rows * ATOM_BYTES, from[i] + atom * ATOM_BYTES,
                                 atom * ATOM < left ? 16 : 0); /* beyond K are zeros */
            }
        }
        from[i] += form::atoms * ATOM_BYTES;
    }
}

/* One tile's steps. Lanes beyond its last row do nothing or copy that row once more; in forms of
 * many rows always the latter, as code for both would not fit the registers. */
template <typename form>
WTN_DEVICE void gather_tile(const gemm_params_t &p, const tile_t &tile, wtn_saddr_t shared,
                            ring_t &ring)
{
    constexpr uint32_t each   = GATHER_ROWS * form::gatherers;
    constexpr uint32_t passes = divide_up(form::rows, each);
    constexpr bool     many   = form::rows > 64;

    uint32_t    first = (wtn_warp() - 1) * 4 + wtn_lane() / 8;
    uint32_t    chunk = wtn_lane() % 8;
    uint32_t    last  = tile.rows > 0 ? tile.rows - 1 : 0;
    uint32_t    steps = step_count<form>(p);
    wtn_saddr_t place = first * ATOM_BYTES + (chunk ^ first % 8) * 16;
    uint32_t    row[passes]; /* numbers of rows are less than 2^32 */
    const char *from[passes];

#pragma unroll
    for (uint32_t i = 0; i < passes; i++) {
        uint32_t r = first + i * each;

        row[i] = tile.row + (r < last ? r : last);
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
        if (many || tile.rows > form::rows - each) {
            gather_stage<form, true>(from, first, tile.rows, left, at);
        } else {
            gather_stage<form, false>(from, first, tile.rows, left, at);
        }
        wtn_mbarrier_arrive_copies(barrier_full(shared, ring.stage));
        ring_next(ring, form::stages);
    }
}

template <typename form> WTN_DEVICE void gather_tiles(const gemm_params_t &p, char *memory)
{
    ring_t ring = {0, 1};

    wtn_grid_wait();
    for (uint32_t i = 0;; i++) {
        tile_t tile = told_wait(memory, i);

        if (tile.end) {
            break;
        }
        gather_tile<form>(p, tile, wtn_shared_address(memory), ring);
    }
}

template <typename form>
WTN_DEVICE void load(const gemm_params_t &p, const survey_t &survey, char *memory)
{
    if constexpr (form::gatherers == 0) {
        if (wtn_warp() == 0) {
            load_weights_of_tiles<form>(p, memory);
        } else if (wtn_warp() == 1) {
            load_rows_of_tiles<form>(p, memory);
        } else if (wtn_warp() == FINDING_WARP) {
            find_tiles<form>(p, survey, memory);
        }
    } else if (wtn_warp() == 0) {
        load_tiles<form>(p, survey, memory);
    } else if (wtn_warp() <= form::gatherers) {
        gather_tiles<form>(p, memory);
    }
    wtn_sync_warp();
}

#endif
#endif

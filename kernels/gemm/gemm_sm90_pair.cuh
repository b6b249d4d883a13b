/* Up and down of few rows in one kernel (sm_90a): up's tiles, then down's, through one ring of
 * stages, so that down's weights follow up's without a pause.
 *
 * Tiles are numbered, those of up first, and taken by ticket. Each block works its tiles in the
 * order of their numbers, and a tile waits for tiles of lower numbers only, which are done or in
 * the hands of a block that runs: so nobody waits for ever, whichever blocks are on the device. A
 * tile of down waits for its expert's h, of which stored tiles are counted. The experts follow each
 * other in both products, so the first h down needs is long there.
 *
 * Warp 0 takes tiles, tells the others and brings weights, warp 1 gathers rows, four warps
 * multiply, and warp 2 counts what they have stored of h: to wait until the whole device could see
 * it took those that multiply 1.4 us a tile. Warp 3 only makes the first warpgroup whole. */
#ifndef WTN_GEMM_SM90_PAIR_CUH
#define WTN_GEMM_SM90_PAIR_CUH

#include "kernels/gemm/gemm_sm90_multiply.cuh"

#define LIGHT_GATHERERS 1u
#define COUNTING_WARP   2u
#define PAIR_THREADS    ((LOADING_WARPS + 4) * 32)
static_assert(LIGHT_GATHERERS < COUNTING_WARP && COUNTING_WARP < LOADING_WARPS, "each its own");

typedef struct pair_params {
    gemm_params_t up, down;
    uint32_t     *counters; /* [E] tiles of an expert's h that are stored */
} pair_params_t;

#if WTN_HAS_SM90A

/* Two barriers full, two empty, two experts. */
#define STORED_AT PASSED_AT /* nothing is passed on here */

static_assert(STORED_AT + 5 * 8 <= TURN_AT, "before the row counts");

/* Two places in which the multiplying warps say whose h they have stored a tile of. */
WTN_DEVICE wtn_saddr_t barrier_stored(wtn_saddr_t shared, uint32_t place)
{
    return shared + STORED_AT + place * 8;
}
WTN_DEVICE wtn_saddr_t barrier_counted(wtn_saddr_t shared, uint32_t place)
{
    return shared + STORED_AT + (2 + place) * 8;
}
WTN_DEVICE uint32_t *stored_slot(char *memory, uint32_t place)
{
    return (uint32_t *)(memory + STORED_AT + 4 * 8) + place;
}
#define NO_EXPERT 0xffffffffu

WTN_DEVICE void pair_barriers(wtn_saddr_t shared)
{
    if (wtn_thread() == 0) {
        for (uint32_t i = 0; i < 2; i++) {
            wtn_mbarrier_init(barrier_stored(shared, i), 4);
            wtn_mbarrier_init(barrier_counted(shared, i), 1);
        }
    }
    init_barriers(shared, LIGHT_GATHERERS, 4);
}

template <typename form> WTN_DEVICE uint32_t pair_steps(const pair_params_t &p, const tile_t &tile)
{
    return tile.down ? step_count<form>(p.down) : step_count<form>(p.up);
}

/* ---- which tiles ---- */

/* The time of the last block times the number of blocks, in columns of 64 numbers: all that is to
 * be brought, and while one brings a last tile of down the others may have none. A tile's end
 * counts as 4 columns. */
WTN_DEVICE uint64_t pair_cost(const pair_params_t &p, const survey_t &s, uint32_t columns)
{
    uint64_t up   = (uint64_t)s.blocks16 * divide_up(p.up.N, columns);
    uint64_t down = (uint64_t)s.blocks16 * divide_up(p.down.N, columns) + wtn_block_count();

    return (up * divide_up(p.up.K, ATOM) + down * divide_up(p.down.K, ATOM)) * (columns + 4);
}
WTN_DEVICE uint32_t pair_choose(const pair_params_t &p, const survey_t &s)
{
    if (s.blocks16 > s.hit + s.hit / 4) { /* strips would bring weights once for each 16 rows */
        return FORM_HALF;
    }
    return pair_cost(p, s, 64) <= pair_cost(p, s, 32) ? FORM_STRIP64 : FORM_STRIP32;
}

/* Tile `index` of one product, which exists and ascends from call to call. Those of an expert
 * follow each other by columns, and where it has more rows, first those of the same columns. */
template <typename form>
WTN_DEVICE tile_t pair_find(const pair_params_t &p, walk_t &walk, uint32_t index)
{
    uint32_t local = walk_window<form>(walk, index);
    tile_t   tile  = walk_expert<form>(walk, local);
    uint32_t count = divide_up(tile.rows, form::rows), block = 0;

    if (count > 1) {
        block = local % count;
        local /= count;
    }
    tile.row += block * form::rows;
    tile.rows -= block * form::rows;
    tile.rows   = tile.rows < form::rows ? tile.rows : form::rows;
    tile.column = local * form::columns;
    tile.columns =
        (uint16_t)(form::columns < walk.N - tile.column ? form::columns : walk.N - tile.column);
    tile.awaited = count * divide_up(p.up.N, form::columns);
    return tile;
}

/* ---- bringing ---- */

/* Tell the tile and bring its weights. */
template <typename form>
WTN_DEVICE void pair_bring(const pair_params_t &p, uint32_t number, const tile_t &tile,
                           char *memory, ring_t &ring)
{
    wtn_saddr_t shared = wtn_shared_address(memory);
    uint32_t    steps  = pair_steps<form>(p, tile);

    if (wtn_elect()) {
        tell(memory, number, tile);
    }
    wtn_sync_warp();
    if (tile.down) {
        load_weights<form>(p.down, tile, 0, 0, steps, shared, ring);
    } else {
        load_weights<form>(p.up, tile, 0, 0, steps, shared, ring);
    }
}

/* The next ticket is asked for before a tile's weights are. */
template <typename form>
WTN_DEVICE void pair_weights(const pair_params_t &p, const survey_t &survey, uint32_t ticket,
                             char *memory)
{
    uint32_t blocks = form::rows == 16 ? survey.blocks16 : survey.blocks64;
    uint32_t ups    = blocks * divide_up(p.up.N, form::columns);
    uint32_t all    = ups + blocks * divide_up(p.down.N, form::columns);
    uint32_t before = 0; /* tiles of the other product */
    tile_t   tile   = {};
    walk_t   walk   = walk_of<form>(p.up, survey);
    ring_t   ring   = {0, 1};

    for (uint32_t i = 0; !tile.end; i++) {
        uint32_t number = wtn_shuffle(ticket, 0);

        if (number < all) {
            ticket = take_ticket(p.up.tickets);
            if (number >= ups && before == 0) {
                before = ups;
                walk   = walk_of<form>(p.down, survey);
            }
            tile      = pair_find<form>(p, walk, number - before);
            tile.down = number >= ups;
        } else {
            tile.end = true;
        }
        if (!tile.end) {
            pair_bring<form>(p, i, tile, memory, ring);
        } else if (wtn_elect()) {
            tell(memory, i, tile);
        }
        wtn_sync_warp();
    }
}

/* h, too, is gathered: it was written by the generic proxy, which these copies read by. */
template <typename form> WTN_DEVICE void pair_rows(const pair_params_t &p, char *memory)
{
    wtn_saddr_t shared = wtn_shared_address(memory);
    ring_t      ring   = {0, 1};

    for (uint32_t i = 0;; i++) {
        tile_t tile = told_wait(memory, i);

        if (tile.end) {
            break;
        }
        if (!tile.down) {
            gather_tile<form>(p.up, tile, shared, ring);
            continue;
        }
        while (wtn_load_acquire_device(p.counters + tile.expert) != tile.awaited) {
            wtn_pause(50);
        }
        gather_tile<form>(p.down, tile, shared, ring);
    }
}

/* ---- multiplying ---- */

/* This warp has stored its part of a tile of this expert's h. All lanes wait: were it one, the
 * compiler would no longer know that the warp's lanes go together. */
WTN_DEVICE void say_stored(char *memory, uint32_t expert, ring_t &places)
{
    wtn_saddr_t shared = wtn_shared_address(memory);

    wtn_mbarrier_wait(barrier_counted(shared, places.stage), places.parity ^ 1);
    wtn_sync_warp(); /* all lanes have stored */
    if (wtn_lane() == 0) {
        *stored_slot(memory, places.stage) = expert; /* all four say the same */
        wtn_mbarrier_arrive(barrier_stored(shared, places.stage));
    }
    ring_next(places, 2);
}

template <bool bf16, typename form>
WTN_DEVICE void pair_multiply(const pair_params_t &p, char *memory)
{
    ring_t ring = {0, 0}, places = {0, 0};

    for (uint32_t i = 0;; i++) {
        tile_t tile = told_wait(memory, i);

        if (tile.end) {
            break;
        }
        if (tile.down) {
            multiply_along<bf16, false, form>(p.down, tile, 0, ring, memory);
            continue;
        }
        multiply_along<bf16, true, form>(p.up, tile, 0, ring, memory);
        say_stored(memory, tile.expert, places);
    }
    say_stored(memory, NO_EXPERT, places);
}

/* One lane. What other threads of the block have stored goes before its own release. */
WTN_DEVICE void pair_count(const pair_params_t &p, char *memory)
{
    wtn_saddr_t shared = wtn_shared_address(memory);
    ring_t      places = {0, 0};

    for (;;) {
        uint32_t expert;

        wtn_mbarrier_wait(barrier_stored(shared, places.stage), places.parity);
        expert = *stored_slot(memory, places.stage);
        wtn_mbarrier_arrive(barrier_counted(shared, places.stage));
        if (expert == NO_EXPERT) {
            break;
        }
        wtn_add_release_device(p.counters + expert, 1);
        ring_next(places, 2);
    }
}

template <bool bf16, typename form>
WTN_DEVICE void pair_run(const pair_params_t &p, const survey_t &survey, uint32_t ticket,
                         char *memory)
{
    if (wtn_warp() == 0) {
        pair_weights<form>(p, survey, ticket, memory);
    } else if (wtn_warp() <= LIGHT_GATHERERS) {
        pair_rows<form>(p, memory);
    } else if (wtn_warp() >= LOADING_WARPS) {
        pair_multiply<bf16, form>(p, memory);
    } else if (wtn_warp() == COUNTING_WARP && wtn_elect()) {
        pair_count(p, memory);
    }
    wtn_sync_warp();
}

#endif

/* All that needs no row counts is done before the kernel before this one has ended. */
template <bool bf16> WTN_KERNEL(PAIR_THREADS, 2) pair_kernel(WTN_PARAMS(pair_params_t, p))
{
#if WTN_HAS_SM90A
    char    *memory = wtn_shared();
    uint32_t kind   = p.up.forced;
    uint32_t ticket = 0;
    survey_t survey;

    pair_barriers(wtn_shared_address(memory));
    if (wtn_thread() == 0) {
        wtn_tensor_prefetch(&p.up.w_narrow);
        wtn_tensor_prefetch(&p.up.w_slim);
        wtn_tensor_prefetch(&p.down.w_narrow);
        wtn_tensor_prefetch(&p.down.w_slim);
    }
    wtn_grid_wait();
    wtn_grid_release();
    if (wtn_warp() == 0) {
        ticket = take_ticket(p.up.tickets);
    }
    survey = survey_take(p.up.row_begin, p.up.expert_count, (uint32_t *)(memory + TURN_AT));
    if (kind == FORM_COUNT) {
        kind = pair_choose(p, survey);
    }
    wtn_sync_block(); /* the survey's memory is free */
    switch (kind) {
#define FORM_CASE(name, text, ...)                                                     \
    case FORM_##name:                                                                  \
        pair_run<bf16, form<__VA_ARGS__, LIGHT_GATHERERS>>(p, survey, ticket, memory); \
        break;
        WTN_FORM_LIGHT_LIST(FORM_CASE)
#undef FORM_CASE
    default:
        break;
    }
#else
    (void)p;
#endif
}

#endif

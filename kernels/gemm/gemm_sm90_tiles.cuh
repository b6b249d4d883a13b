/* What one step of the persistent sm_90a GEMM works on: the tile's form, and the walk over all
 * tiles of a ragged group whose row counts only the device knows. */
#ifndef WTN_GEMM_SM90_TILES_CUH
#define WTN_GEMM_SM90_TILES_CUH

#include "kernels/cuda/device_sm90.cuh"

/* Forms: rows and columns of a tile, 64-wide steps of K in a stage, stages in flight, blocks that
 * share weights, warpgroups that take tiles in turn, and whether weights are the matrix units' M
 * and rows their N, so that a tile costs by 16 rows (gemm_sm90_across.cuh). All forms give a row
 * the same bits.
 *
 * A block of the full ones has a multiprocessor to itself, and there is a kernel of those for rows
 * that are gathered and one of those for rows side by side. Their multiplying warpgroups take whole
 * tiles in turn, one multiplying while the other stores: LONG of many rows, which has narrower
 * tiles for an expert's last columns and code for 64 rows and fewer; MIDDLE where tiles are too few
 * for that or columns would be wasted. Gathered rows are dear to bring, so in place of MIDDLE they
 * have BROAD. Where two blocks share weights, they take tiles above each other, and each brings
 * half of the weights to both. BROAD and FEW stream weights past few rows, 128 KB of them in
 * flight: BROAD where gathered rows are so many that bringing them for every 128 columns is felt.
 *
 * The light ones do up and down in one kernel (gemm_sm90_pair.cuh): STRIPs where most experts
 * have up to 16 rows, as narrow as deals them out evenly, else HALF. Two blocks fit on a
 * multiprocessor, though the kernel has one for each: the second is the next kernel's, ready when
 * this one ends. */
#ifdef WTN_EMULATOR /* has clusters of one block */
#define WTN_FORM_PAIR 1
#endif
#ifndef WTN_FORM_PAIR
#define WTN_FORM_PAIR 2
#endif
#define WTN_FORM_GATHERED_LIST(X) X(BROAD, broad, 64, 256, 1, 4, 1, 2, false)
#define WTN_FORM_BESIDE_LIST(X)   X(MIDDLE, middle, 128, 128, 1, 6, WTN_FORM_PAIR, 2, true)
#define WTN_FORM_BOTH_LIST(X)                              \
    X(LONG, long, 128, 192, 1, 5, WTN_FORM_PAIR, 2, false) \
    X(FEW, few, 64, 128, 1, 8, 1, 2, false)
#define WTN_FORM_FULL_LIST(X) \
    WTN_FORM_GATHERED_LIST(X) \
    WTN_FORM_BESIDE_LIST(X)   \
    WTN_FORM_BOTH_LIST(X)
#define WTN_FORM_LIGHT_LIST(X)                      \
    X(HALF, half, 64, 64, 1, 6, 1, 1, false)        \
    X(STRIP64, strip64, 16, 64, 1, 10, 1, 1, false) \
    X(STRIP32, strip32, 16, 32, 2, 9, 1, 1, false)
#define WTN_FORM_LIST(X)  \
    WTN_FORM_FULL_LIST(X) \
    WTN_FORM_LIGHT_LIST(X)

#define WTN_FORM_CLUSTER \
    (uint32_t) WTN_FORM_PAIR /* blocks the full forms are launched with, whatever the form */

typedef enum form_kind {
#define FORM_ENUM(name, text, ...) FORM_##name,
    WTN_FORM_LIST(FORM_ENUM)
#undef FORM_ENUM
        FORM_COUNT,
    FORM_LIGHT = FORM_HALF /* the first of them */
} form_kind_t;

/* Shared memory: barriers and tiles told; from TURN_AT on, first the row counts (survey_take), then
 * 16 rows of turn_columns columns for each warp that stores; stages. A row of one chunk more keeps
 * rows apart in banks. */
#define TURN_AT 768u
#define SURVEY  1024u /* experts whose row counts are read at a time */

/* A form as a type, so that all its numbers are the compiler's. `narrow`: columns of its narrower
 * tiles, or 0; `parts`: whether the last pair of tiles may be two done alone (cut_rows);
 * `gatherers`: warps that gather rows, none where rows lie side by side. */
template <uint32_t form_rows, uint32_t form_columns, uint32_t form_atoms, uint32_t form_stages,
          uint32_t form_pair, uint32_t form_turns, bool form_across, uint32_t form_gatherers = 0>
struct form {
    static constexpr uint32_t rows = form_rows, columns = form_columns, atoms = form_atoms,
                              stages = form_stages, pair = form_pair, turns = form_turns;
    static constexpr bool     across    = form_across;
    static constexpr uint32_t gatherers = form_gatherers;
    static constexpr uint32_t narrow    = columns == 192 ? 128 : 0;
    static constexpr bool     parts     = narrow > 0 && pair > 1;

    static constexpr uint32_t stage_bytes  = (rows + columns) * atoms * 128;
    static constexpr bool     bulk         = turns > 1; /* how rows are stored */
    static constexpr uint32_t turn_columns = across || narrow > 0 || (rows == 64 && columns == 64)
                                                 ? 64
                                                 : 128;
    static constexpr uint32_t turn_stride  = turn_columns * 2 + 16;
    static constexpr uint32_t turn_bytes   = 16 * turn_stride;
    static constexpr uint32_t put_bytes    = (rows < 64 ? 1 : 4 * turns) * turn_bytes;
    static constexpr uint32_t ring_at      = (TURN_AT + put_bytes + 1023) / 1024 * 1024;
    static constexpr uint32_t bytes        = ring_at + stages * stage_bytes;

    static_assert(put_bytes > SURVEY * sizeof(uint32_t), "row counts");
    /* The matrix units read 64 rows. Of a form of fewer the others are whatever follows in the
     * stage: no row's sum depends on another row. */
    static_assert((atoms - 1) * rows * 128 + 64 * 128 <= stage_bytes, "64 rows of the last of A");
};

template <uint32_t kind> struct form_of;
#define FORM_TYPE(name, text, ...)            \
    template <> struct form_of<FORM_##name> { \
        typedef form<__VA_ARGS__> type;       \
    };
WTN_FORM_LIST(FORM_TYPE)
#undef FORM_TYPE

#define FORM_MORE(name, text, ...) \
    bytes = form<__VA_ARGS__>::bytes > bytes ? form<__VA_ARGS__>::bytes : bytes;
constexpr uint32_t full_bytes(void)
{
    uint32_t bytes = 0;

    WTN_FORM_FULL_LIST(FORM_MORE)
    return bytes;
}
constexpr uint32_t light_bytes(void)
{
    uint32_t bytes = 0;

    WTN_FORM_LIGHT_LIST(FORM_MORE)
    return bytes;
}
#undef FORM_MORE
static_assert(full_bytes() <= 227 * 1024, "the most of a block");
static_assert(2 * (light_bytes() + 1024) <= 228 * 1024, "two on a multiprocessor");

/* Rows of tiles which follow each other before the columns move on, so that a wave of tiles reads a
 * square of A and B out of L2. */
#define WTN_FORM_GROUP 16u

#if WTN_HAS_SM90A

WTN_DEVICE constexpr uint32_t divide_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* Row counts of 128 experts, four a lane. */
#define WINDOW_EACH 4u
#define WINDOW      (32 * WINDOW_EACH)

typedef struct window {
    uint32_t begin; /* first row of this lane's first expert; rows are less than 2^32 */
    uint32_t rows[WINDOW_EACH];
} window_t;

/* Where the rows of an expert begin, as it is in memory: some warps read it before they have waited
 * for the kernel before this one, and the L1 cache may hold what was there earlier. */
WTN_DEVICE uint32_t begin_of(const int64_t *row_begin, uint32_t expert_count, uint32_t e)
{
    return (uint32_t)wtn_load64_device(row_begin + (e < expert_count ? e : expert_count));
}
WTN_DEVICE window_t window_from(const uint32_t (&at)[WINDOW_EACH + 1])
{
    window_t w;

    w.begin = at[0];
#pragma unroll
    for (uint32_t i = 0; i < WINDOW_EACH; i++) {
        w.rows[i] = at[i + 1] - at[i];
    }
    return w;
}
WTN_DEVICE window_t window_load(const int64_t *row_begin, uint32_t expert_count, uint32_t first)
{
    uint32_t at[WINDOW_EACH + 1];

#pragma unroll
    for (uint32_t i = 0; i <= WINDOW_EACH; i++) {
        at[i] = begin_of(row_begin, expert_count, first + wtn_lane() * WINDOW_EACH + i);
    }
    return window_from(at);
}

/* Whether an even number of blocks of 128 rows ends with one of up to 64. */
WTN_DEVICE bool ends_in_part(uint32_t rows)
{
    return (rows + 255) % 256 - 128 < 64;
}

/* What all experts together are: rows, experts with rows, their blocks of 16, 64 and 128 rows,
 * experts of an odd number of the latter, and of an even one that ends in a part. */
typedef struct survey {
    uint32_t rows, hit, blocks16, blocks64, blocks128, odd128, part128;
    window_t window; /* the first */
} survey_t;

static_assert(SURVEY % WINDOW == 0, "whole windows");

WTN_DEVICE void survey_add(survey_t &s, const window_t &w)
{
#pragma unroll
    for (uint32_t i = 0; i < WINDOW_EACH; i++) {
        s.rows += w.rows[i];
        s.hit += w.rows[i] != 0;
        s.blocks16 += divide_up(w.rows[i], 16);
        s.blocks64 += divide_up(w.rows[i], 64);
        s.blocks128 += divide_up(w.rows[i], 128);
        s.odd128 += divide_up(w.rows[i], 128) % 2;
        s.part128 += ends_in_part(w.rows[i]);
    }
}

/* By the whole block, `shared` being room for SURVEY + 1 numbers: were each warp of each block to
 * read the row counts, those few lines of the L2 cache would be asked for 2 us long. */
WTN_DEVICE survey_t survey_take(const int64_t *row_begin, uint32_t expert_count, uint32_t *shared)
{
    survey_t s = {};

    for (uint32_t first = 0; first < expert_count; first += SURVEY) {
        uint32_t count = expert_count - first < SURVEY ? expert_count - first : SURVEY;

        wtn_sync_block();
        for (uint32_t i = wtn_thread(); i <= count; i += wtn_thread_count()) {
            shared[i] = begin_of(row_begin, expert_count, first + i);
        }
        wtn_sync_block();
        for (uint32_t from = 0; from < count; from += WINDOW) {
            uint32_t at[WINDOW_EACH + 1];
            window_t w;

#pragma unroll
            for (uint32_t i = 0; i <= WINDOW_EACH; i++) {
                uint32_t e = from + wtn_lane() * WINDOW_EACH + i;

                at[i] = shared[e < count ? e : count];
            }
            w = window_from(at);
            survey_add(s, w);
            if (first == 0 && from == 0) {
                s.window = w;
            }
        }
    }
    s.rows      = wtn_warp_sum(s.rows);
    s.hit       = wtn_warp_sum(s.hit);
    s.blocks16  = wtn_warp_sum(s.blocks16);
    s.blocks64  = wtn_warp_sum(s.blocks64);
    s.blocks128 = wtn_warp_sum(s.blocks128);
    s.odd128    = wtn_warp_sum(s.odd128);
    s.part128   = wtn_warp_sum(s.part128);
    return s;
}

/* One tile: `rows` sorted rows from `row` of `expert`, `columns` from `column`. Where the blocks of
 * a pair find none for the second, it gets one of no rows and no columns. */
typedef struct tile {
    uint32_t row, rows, expert, column;
    uint16_t columns;
    bool     shares;  /* its weights with the other block of the pair */
    bool     down;    /* of a kernel of both products */
    bool     end;     /* no tile: there are no more */
    uint32_t awaited; /* tiles of the expert's h that down waits for */
} tile_t;

/* How an expert's columns are cut: tiles of the form's width, then narrow ones, as few numbers as
 * can be left over. */
typedef struct cut {
    uint32_t whole, narrow;
} cut_t;

template <typename form> WTN_DEVICE cut_t cut_columns(uint32_t N)
{
    constexpr uint32_t narrow = form::narrow;

    cut_t    cut  = {N / form::columns, 0};
    uint32_t left = N % form::columns;

    if (left > narrow || (left > 0 && narrow == 0)) {
        cut.whole++;
    } else if (left > 2 * narrow - form::columns || (left > 0 && cut.whole == 0)) {
        cut.narrow = 1;
    } else if (left > 0) {
        cut.whole--;
        cut.narrow = 2;
    }
    return cut;
}

/* Tiles of LONG a block from which they are faster than MIDDLE's, which share out more evenly. */
#define LONG_TILES 16u

/* The form for these row counts; the same in every warp of the grid. The limits were measured on an
 * H200. */
template <bool gathers>
WTN_DEVICE uint32_t full_choose(const survey_t &s, uint32_t N, bool few_rows)
{
    cut_t    cut    = cut_columns<form_of<FORM_LONG>::type>(N);
    uint32_t wasted = cut.whole * 192 + cut.narrow * 128 - N;
    uint32_t each   = s.blocks128 * (cut.whole + cut.narrow) / wtn_block_count();

    if (few_rows || s.blocks64 == s.hit) {
        return gathers && s.rows / 48 >= s.hit ? FORM_BROAD : FORM_FEW;
    }
    if (gathers) {
        return s.blocks64 > 2 * s.hit && each > 0 ? FORM_LONG : FORM_BROAD;
    }
    return s.blocks64 > 3 * s.hit && wasted <= N / 20 && each >= LONG_TILES ? FORM_LONG
                                                                            : FORM_MIDDLE;
}

/* How an expert's rows are cut: pairs of tiles above each other, of which the blocks of a pair do
 * one each and share weights; then up to two tiles that each block does alone, in columns beside
 * the other's. Two where of the last pair one tile would have up to 64 rows, as it would take the
 * time of the other. (Of 1 or 3 tiles of columns pairs would cost less, as a block is idle twice;
 * but to tell those apart the assembler wants a register more than there are.) */
typedef struct layers {
    uint32_t pairs, alone;
} layers_t;

template <typename form> WTN_DEVICE layers_t cut_rows(uint32_t rows)
{
    uint32_t blocks = divide_up(rows, form::rows);
    uint32_t alone  = blocks % form::pair;

    if (form::parts && ends_in_part(rows)) {
        alone = 2;
    }
    return {(blocks - alone) / form::pair, alone};
}

/* A warp's view of a window of experts. A unit is what the blocks of a pair do at a time: two tiles
 * above each other or, of those done alone, beside each other. Numbers of units fit 32 bits: a
 * tile's output, 1 KB and more, is in memory. */
typedef struct walk {
    const int64_t *row_begin;
    uint32_t       expert_count, N, column_tiles;
    cut_t          cut;
    uint32_t       first;  /* expert of the window */
    uint32_t       before; /* units before it */
    window_t       window;
    uint32_t       lane_sum; /* units up to and with this lane's experts */
} walk_t;

template <typename form> WTN_DEVICE uint32_t walk_units(const walk_t &w, uint32_t rows)
{
    layers_t layers = cut_rows<form>(rows);

    return layers.pairs * w.column_tiles + layers.alone * divide_up(w.column_tiles, form::pair);
}

template <typename form> WTN_DEVICE void walk_enter(walk_t &w)
{
    w.lane_sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < WINDOW_EACH; i++) {
        w.lane_sum += walk_units<form>(w, w.window.rows[i]);
    }
#pragma unroll
    for (uint32_t by = 1; by < 32; by <<= 1) {
        uint32_t other = wtn_shuffle_up(w.lane_sum, by);

        w.lane_sum += wtn_lane() >= by ? other : 0;
    }
}

template <typename form>
WTN_DEVICE walk_t walk_begin(const int64_t *row_begin, uint32_t expert_count, uint32_t N,
                             const window_t &window)
{
    walk_t w = {};

    w.row_begin    = row_begin;
    w.expert_count = expert_count;
    w.N            = N;
    w.cut          = cut_columns<form>(N);
    w.column_tiles = w.cut.whole + w.cut.narrow;
    w.window       = window;
    walk_enter<form>(w);
    return w;
}

/* Pairs of blocks, or blocks where the form has none. */
template <typename form> WTN_DEVICE uint32_t crew_count(void)
{
    return wtn_block_count() / form::pair;
}
template <typename form> WTN_DEVICE uint32_t unit_count(const survey_t &s, const walk_t &w)
{
    uint32_t blocks = form::rows == 16 ? s.blocks16 : form::rows == 64 ? s.blocks64 : s.blocks128;
    uint32_t alone  = form::pair == 1 ? 0 : s.odd128 + (form::parts ? 2 * s.part128 : 0);

    return (blocks - alone) / form::pair * w.column_tiles +
           alone * divide_up(w.column_tiles, form::pair);
}

/* The expert whose units those are which begin at or before unit `local` of the window, which then
 * counts from that expert's first. */
template <typename form> WTN_DEVICE tile_t walk_expert(const walk_t &w, uint32_t &local)
{
    uint32_t lane   = wtn_first_bit(wtn_ballot(w.lane_sum > local));
    uint32_t before = wtn_shuffle(w.lane_sum, (lane + 31) % 32);
    bool     found  = false;
    tile_t   tile   = {};

    local -= lane > 0 ? before : 0;
    tile.row    = wtn_shuffle(w.window.begin, lane);
    tile.expert = w.first + lane * WINDOW_EACH;
#pragma unroll
    for (uint32_t i = 0; i < WINDOW_EACH; i++) {
        uint32_t rows  = wtn_shuffle(w.window.rows[i], lane);
        uint32_t units = walk_units<form>(w, rows);

        tile.rows = found ? tile.rows : rows;
        found     = found || local < units;
        if (!found) {
            local -= units;
            tile.row += rows;
            tile.expert++;
        }
    }
    return tile;
}

/* Move on to the window of unit `index`, which exists and ascends from call to call; its number
 * there. */
template <typename form> WTN_DEVICE uint32_t walk_window(walk_t &w, uint32_t index)
{
    uint32_t total = wtn_shuffle(w.lane_sum, 31);

    while (index - w.before >= total && w.first < w.expert_count) {
        w.first += WINDOW;
        w.before += total;
        w.window = window_load(w.row_begin, w.expert_count, w.first);
        walk_enter<form>(w);
        total = wtn_shuffle(w.lane_sum, 31);
    }
    return index - w.before;
}

/* The tile of block `rank` in unit `index`. */
template <typename form> WTN_DEVICE tile_t walk_find(walk_t &w, uint32_t index, uint32_t rank)
{
    constexpr uint32_t most = WTN_FORM_GROUP / form::pair;

    uint32_t local  = walk_window<form>(w, index);
    tile_t   tile   = walk_expert<form>(w, local);
    layers_t layers = cut_rows<form>(tile.rows);
    uint32_t each   = form::rows;
    uint32_t column, before;

    tile.shares = local < layers.pairs * w.column_tiles;
    if (tile.shares) {
        uint32_t group = layers.pairs > most ? local / (most * w.column_tiles) : 0;
        uint32_t width = layers.pairs - group * most;

        width = width < most ? width : most;
        local -= group * most * w.column_tiles;
        column = local / width;
        before = (group * most + local % width) * form::pair * form::rows;
        if (form::across) { /* of the last pair half its rows each, as a tile costs by 16 */
            uint32_t half = divide_up(tile.rows - before, form::pair * 16) * 16;

            each = half < form::rows ? half : form::rows;
        }
        before += rank % form::pair * each;
    } else {
        uint32_t second = layers.alone > 1 ? 1 : 0;

        local -= layers.pairs * w.column_tiles;
        column = (local >> second) * form::pair + rank;
        before = (layers.pairs * form::pair + (local & second)) * form::rows;
    }
    tile.shares = tile.shares && form::pair > 1;
    tile.row += before;
    tile.rows -= before;
    tile.rows = tile.rows < each ? tile.rows : each;
    if (column >= w.column_tiles) {
        tile.rows = 0;
        return tile;
    }
    if (column < w.cut.whole) {
        tile.column  = column * form::columns;
        tile.columns = form::columns;
    } else {
        tile.column  = w.cut.whole * form::columns + (column - w.cut.whole) * form::narrow;
        tile.columns = form::narrow;
    }
    tile.columns = tile.columns < w.N - tile.column ? tile.columns : (uint16_t)(w.N - tile.column);
    return tile;
}

#endif
#endif

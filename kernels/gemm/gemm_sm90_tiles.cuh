/* What one step of the persistent sm_90a GEMM works on: the tile's form, and the walk over all
 * tiles of a ragged group whose row counts only the device knows. */
#ifndef WTN_GEMM_SM90_TILES_CUH
#define WTN_GEMM_SM90_TILES_CUH

#include "kernels/cuda/device_sm90.cuh"

/* Forms: rows and columns of a tile, 64-wide steps of K in a stage, stages in flight, blocks that
 * share weights, warpgroups that share a tile. Stages take WTN_FORM_BYTES of shared memory or a
 * little less, and all forms give a row the same bits.
 *
 * MIDDLE, WIDE and WIDE240 are for many rows; WIDE where rows are gathered, WIDE240 for widths that
 * 240 divides better than 256. Both multiplying warpgroups take 64 rows each of the wide ones'
 * tiles; in the other forms they take whole tiles in turn, one multiplying while the other stores.
 * Where two blocks share weights, they take tiles above each other, and each brings half of the
 * weights to both. BROAD, FEW and ONE stream weights past few rows, 128, 128 and 96 KB of them in
 * flight: BROAD where gathered rows are so many that bringing them for every 128 columns is felt,
 * ONE where there are too few tiles of 128 columns. */
#ifdef WTN_EMULATOR /* has clusters of one block */
#define WTN_FORM_PAIR 1
#endif
#ifndef WTN_FORM_PAIR
#define WTN_FORM_PAIR 2
#endif
#define WTN_FORM_LIST(X)                                  \
    X(WIDE, wide, 128, 256, 1, 4, WTN_FORM_PAIR, 2)       \
    X(WIDE240, wide240, 128, 240, 1, 4, WTN_FORM_PAIR, 2) \
    X(MIDDLE, middle, 128, 128, 1, 6, WTN_FORM_PAIR, 1)   \
    X(BROAD, broad, 64, 256, 1, 4, 1, 1)                  \
    X(FEW, few, 64, 128, 1, 8, 1, 1)                      \
    X(ONE, one, 64, 64, 2, 6, 1, 1)

#define WTN_FORM_BYTES (192 * 1024)
#define WTN_FORM_CLUSTER \
    (uint32_t) WTN_FORM_PAIR /* blocks the kernel is launched with, whatever the form */

typedef enum form_kind {
#define FORM_ENUM(name, text, rows, columns, atoms, stages, pair, groups) FORM_##name,
    WTN_FORM_LIST(FORM_ENUM)
#undef FORM_ENUM
        FORM_COUNT
} form_kind_t;

/* A form as a type, so that all its numbers are the compiler's. */
template <uint32_t form_rows, uint32_t form_columns, uint32_t form_atoms, uint32_t form_stages,
          uint32_t form_pair, uint32_t form_groups>
struct form {
    static constexpr uint32_t rows = form_rows, columns = form_columns, atoms = form_atoms,
                              stages = form_stages, pair = form_pair, groups = form_groups,
                              stage_bytes = (rows + columns) * atoms * 128;
};

/* Rows of tiles which follow each other before the columns move on, so that a wave of tiles reads a
 * square of A and B out of L2. */
#define WTN_FORM_GROUP 16u

#if WTN_HAS_SM90A

WTN_DEVICE uint32_t divide_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}
WTN_DEVICE int64_t shuffle64(int64_t value, uint32_t lane)
{
    uint32_t low  = wtn_shuffle((uint32_t)value, lane);
    uint32_t high = wtn_shuffle((uint32_t)((uint64_t)value >> 32), lane);

    return (int64_t)((uint64_t)high << 32 | low);
}
WTN_DEVICE uint32_t sum_warp(uint32_t value)
{
#pragma unroll
    for (uint32_t mask = 16; mask > 0; mask >>= 1) {
        value += wtn_shuffle_xor(value, mask);
    }
    return value;
}
WTN_DEVICE uint32_t expert_rows(const int64_t *row_begin, uint32_t e, uint32_t expert_count)
{
    return e < expert_count ? (uint32_t)(row_begin[e + 1] - row_begin[e]) : 0;
}

/* What all experts together are: rows, experts with rows, their blocks of 64 and 128 rows, those of
 * an odd number of the latter. */
typedef struct survey {
    uint32_t rows, hit, blocks64, blocks128, odd128;
} survey_t;

WTN_DEVICE survey_t survey_take(const int64_t *row_begin, uint32_t expert_count)
{
    survey_t s = {};

    for (uint32_t e = wtn_lane(); e < expert_count; e += 32) {
        uint32_t rows = expert_rows(row_begin, e, expert_count);

        s.hit += rows != 0;
        s.blocks64 += divide_up(rows, 64);
        s.blocks128 += divide_up(rows, 128);
        s.odd128 += divide_up(rows, 128) % 2;
    }
    s.rows      = (uint32_t)row_begin[expert_count];
    s.hit       = sum_warp(s.hit);
    s.blocks64  = sum_warp(s.blocks64);
    s.blocks128 = sum_warp(s.blocks128);
    s.odd128    = sum_warp(s.odd128);
    return s;
}

/* From this K on, wide tiles are ahead though their ends are not hidden: they bring less. */
#define DEEP 2560u

/* The form for these row counts; the same in every warp of the grid. Gathered rows cost the more
 * the oftener they are brought, so then tiles are wide. The limits were measured on an H200. */
WTN_DEVICE uint32_t form_choose(const survey_t &s, uint32_t N, uint32_t K, uint32_t wide,
                                bool gathers, bool few_rows)
{
    uint32_t blocks = wtn_block_count();
    bool     many   = s.blocks64 > 2 * s.hit && s.blocks128 * divide_up(N, wide) >= blocks;

    if (few_rows || s.blocks64 == s.hit) {
        if (gathers && s.rows / 24 >= s.hit) {
            return FORM_BROAD;
        }
        return s.blocks64 * divide_up(N, 128) * 2 >= blocks ? FORM_FEW : FORM_ONE;
    }
    if (!gathers && (!many || K < DEEP)) {
        return FORM_MIDDLE;
    }
    if (!many) {
        return FORM_BROAD;
    }
    return wide == 240 ? FORM_WIDE240 : FORM_WIDE;
}

/* One tile: `rows` sorted rows from `row` of `expert`, columns from `column`. Where the blocks of a
 * pair find none for the second, it gets one of no rows and no columns. */
typedef struct tile {
    int64_t  row;
    uint32_t rows, expert, column;
    bool     shares; /* its weights with the other block of the pair */
} tile_t;

/* A warp's view of 32 experts, one a lane. A unit is what the blocks of a pair do at a time: two
 * tiles above each other or, for an odd last one, beside each other. Numbers of units fit 32 bits:
 * a tile's output, more than 1 KB, is in memory. */
typedef struct walk {
    const int64_t *row_begin;
    uint32_t       expert_count, N, column_tiles;
    uint32_t       first;      /* expert of lane 0 */
    uint32_t       before;     /* units before it */
    int64_t        lane_begin; /* of this lane's expert: first row, rows, */
    uint32_t       lane_rows;
    uint32_t       lane_sum; /* units up to and with it */
} walk_t;

template <typename form> WTN_DEVICE uint32_t walk_units(const walk_t &w, uint32_t rows)
{
    uint32_t blocks = divide_up(rows, form::rows);

    return blocks / form::pair * w.column_tiles +
           blocks % form::pair * divide_up(w.column_tiles, form::pair);
}

template <typename form> WTN_DEVICE void walk_load(walk_t &w)
{
    uint32_t e = w.first + wtn_lane();

    w.lane_begin = e < w.expert_count ? w.row_begin[e] : 0;
    w.lane_rows  = expert_rows(w.row_begin, e, w.expert_count);
    w.lane_sum   = walk_units<form>(w, w.lane_rows);
#pragma unroll
    for (uint32_t by = 1; by < 32; by <<= 1) {
        uint32_t other = wtn_shuffle_up(w.lane_sum, by);

        w.lane_sum += wtn_lane() >= by ? other : 0;
    }
}

template <typename form>
WTN_DEVICE walk_t walk_begin(const int64_t *row_begin, uint32_t expert_count, uint32_t N)
{
    walk_t w = {};

    w.row_begin    = row_begin;
    w.expert_count = expert_count;
    w.N            = N;
    w.column_tiles = divide_up(N, form::columns);
    walk_load<form>(w);
    return w;
}

/* Units are dealt to pairs in turn. */
template <typename form> WTN_DEVICE uint32_t walk_first(void)
{
    return wtn_block() / form::pair;
}
template <typename form> WTN_DEVICE uint32_t walk_step(void)
{
    return wtn_block_count() / form::pair;
}
/* Tiles of this block. */
template <typename form> WTN_DEVICE uint32_t walk_count(const survey_t &s, uint32_t N)
{
    uint32_t columns = divide_up(N, form::columns);
    uint32_t odd     = form::pair == 1 ? 0 : s.odd128;
    uint32_t blocks  = form::rows == 64 ? s.blocks64 : s.blocks128;
    uint32_t units   = (blocks - odd) / form::pair * columns + odd * divide_up(columns, 2);
    uint32_t first   = walk_first<form>();

    return units > first ? divide_up(units - first, walk_step<form>()) : 0;
}

/* The tile of block `rank` in unit `index`, which exists and ascends from call to call. */
template <typename form> WTN_DEVICE tile_t walk_find(walk_t &w, uint32_t index, uint32_t rank)
{
    constexpr uint32_t most = WTN_FORM_GROUP / form::pair;

    uint32_t total = wtn_shuffle(w.lane_sum, 31);
    uint32_t lane, blocks, local, block, group, width;
    tile_t   tile;

    while (index - w.before >= total && w.first < w.expert_count) {
        w.first += 32;
        w.before += total;
        walk_load<form>(w);
        total = wtn_shuffle(w.lane_sum, 31);
    }
    lane        = wtn_first_bit(wtn_ballot(w.lane_sum > index - w.before));
    tile.row    = shuffle64(w.lane_begin, lane);
    tile.rows   = wtn_shuffle(w.lane_rows, lane);
    tile.expert = w.first + lane;
    blocks      = divide_up(tile.rows, form::rows);
    local = index - w.before - (wtn_shuffle(w.lane_sum, lane) - walk_units<form>(w, tile.rows));

    tile.shares = local < blocks / form::pair * w.column_tiles;
    if (tile.shares) {
        group = local / (most * w.column_tiles);
        width = blocks / form::pair - group * most;
        width = width < most ? width : most;
        local -= group * most * w.column_tiles;
        block       = (group * most + local % width) * form::pair + rank % form::pair;
        tile.column = local / width * form::columns;
    } else {
        block       = blocks - 1;
        tile.column = (local - blocks / form::pair * w.column_tiles) * form::pair + rank;
        tile.column *= form::columns;
    }
    tile.shares = tile.shares && form::pair > 1;
    tile.row += (int64_t)block * form::rows;
    tile.rows -= block * form::rows;
    tile.rows = tile.rows < form::rows ? tile.rows : form::rows;
    if (tile.column >= w.N) {
        tile.column = w.N;
        tile.rows   = 0;
    }
    return tile;
}

#endif
#endif

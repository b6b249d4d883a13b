/* What one step of the persistent sm_90a GEMM works on: the tile's form, and the walk over all
 * tiles of a ragged group whose row counts only the device knows. */
#ifndef WTN_GEMM_SM90_TILES_CUH
#define WTN_GEMM_SM90_TILES_CUH

#include "kernels/cuda/device_sm90.cuh"

/* Forms: rows and columns of a tile, 64-wide steps of K in a stage, stages in flight. All take
 * WTN_FORM_BYTES of shared memory or a little less, and all give a row the same bits.
 * WIDE needs many rows to an expert; WIDE240 is for widths that 240 divides better than 256. FEW
 * and ONE stream weights past few rows: 128 KB of them in flight, or 64 in narrow pieces where
 * there are too few tiles of 128 columns to occupy all multiprocessors. */
#define WTN_FORM_LIST(X)                \
    X(WIDE, wide, 128, 256, 1, 4)       \
    X(WIDE240, wide240, 128, 240, 1, 4) \
    X(MIDDLE, middle, 128, 128, 1, 6)   \
    X(FEW, few, 64, 128, 1, 8)          \
    X(ONE, one, 64, 32, 2, 8)

#define WTN_FORM_BYTES (192 * 1024)

typedef enum form_kind {
#define FORM_ENUM(name, text, rows, columns, atoms, stages) FORM_##name,
    WTN_FORM_LIST(FORM_ENUM)
#undef FORM_ENUM
        FORM_COUNT
} form_kind_t;

/* A form as a type, so that all its numbers are the compiler's. */
template <uint32_t form_rows, uint32_t form_columns, uint32_t form_atoms, uint32_t form_stages>
struct form {
    static constexpr uint32_t rows = form_rows, columns = form_columns, atoms = form_atoms,
                              stages = form_stages, stage_bytes = (rows + columns) * atoms * 128;
};

/* Blocks of m (tiles that share their weights) which follow each other, so that a wave of tiles
 * reads a square of A and B out of L2. */
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

/* How busy `tiles` keep `blocks` multiprocessors, in 1/1024: the last wave is rarely full. */
WTN_DEVICE uint32_t wave_share(uint32_t tiles, uint32_t blocks)
{
    return (uint32_t)((uint64_t)tiles * 1024u / ((uint64_t)divide_up(tiles, blocks) * blocks));
}

/* The form for these row counts; the same in every warp of the grid. */
WTN_DEVICE uint32_t form_choose(const int64_t *row_begin, uint32_t expert_count, uint32_t N,
                                uint32_t wide, bool few_rows)
{
    uint32_t blocks = wtn_block_count();
    uint32_t hit = 0, blocks64 = 0, blocks128 = 0, rows;

    for (uint32_t e = wtn_lane(); e < expert_count; e += 32) {
        rows = expert_rows(row_begin, e, expert_count);
        hit += rows != 0;
        blocks64 += divide_up(rows, 64);
        blocks128 += divide_up(rows, 128);
    }
    hit       = sum_warp(hit);
    blocks64  = sum_warp(blocks64);
    blocks128 = sum_warp(blocks128);
    if (hit == 0) {
        return FORM_ONE;
    }
    if (few_rows || blocks64 == hit) {
        uint32_t few = wave_share(blocks64 * divide_up(N, 128), blocks);
        uint32_t one = wave_share(blocks64 * divide_up(N, 32), blocks);

        return few * 8 >= one * 7 ? FORM_FEW : FORM_ONE;
    }
    if (blocks64 <= 3 * hit || blocks128 * divide_up(N, wide) < blocks) {
        return FORM_MIDDLE;
    }
    return wide == 240 ? FORM_WIDE240 : FORM_WIDE;
}

/* One tile: `rows` sorted rows from `row` of `expert`, columns from `column`. */
typedef struct tile {
    int64_t  row;
    uint32_t rows, expert, column;
} tile_t;

/* A warp's view of 32 experts, one a lane. A tile's number fits 32 bits: its output, more than
 * 1 KB each, is in memory. */
typedef struct walk {
    const int64_t *row_begin;
    uint32_t       expert_count, column_tiles;
    uint32_t       first;      /* expert of lane 0 */
    uint32_t       before;     /* blocks of m before it */
    int64_t        lane_begin; /* of this lane's expert: first row, rows, */
    uint32_t       lane_rows;
    uint32_t       lane_sum; /* blocks of m up to and with it */
} walk_t;

template <typename form> WTN_DEVICE void walk_load(walk_t &w)
{
    uint32_t e = w.first + wtn_lane();

    w.lane_begin = e < w.expert_count ? w.row_begin[e] : 0;
    w.lane_rows  = expert_rows(w.row_begin, e, w.expert_count);
    w.lane_sum   = divide_up(w.lane_rows, form::rows);
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
    w.column_tiles = divide_up(N, form::columns);
    walk_load<form>(w);
    return w;
}

/* Tile number `index` (ascending from call to call); false beyond the last. */
template <typename form> WTN_DEVICE bool walk_find(walk_t &w, uint32_t index, tile_t &tile)
{
    uint32_t block = index / w.column_tiles; /* all blocks of m have as many tiles */
    uint32_t total = wtn_shuffle(w.lane_sum, 31);
    uint32_t lane, blocks, local, group, width;

    while (block - w.before >= total) {
        if (w.expert_count - w.first <= 32) {
            return false;
        }
        w.first += 32;
        w.before += total;
        walk_load<form>(w);
        total = wtn_shuffle(w.lane_sum, 31);
    }
    lane        = wtn_first_bit(wtn_ballot(w.lane_sum > block - w.before));
    tile.row    = shuffle64(w.lane_begin, lane);
    tile.rows   = wtn_shuffle(w.lane_rows, lane);
    tile.expert = w.first + lane;
    blocks      = divide_up(tile.rows, form::rows);
    local       = w.before + wtn_shuffle(w.lane_sum, lane) - blocks; /* blocks of m before it */
    local       = index - local * w.column_tiles;
    group       = local / (WTN_FORM_GROUP * w.column_tiles);
    width       = blocks - group * WTN_FORM_GROUP;
    width       = width < WTN_FORM_GROUP ? width : WTN_FORM_GROUP;
    local -= group * WTN_FORM_GROUP * w.column_tiles;
    block       = group * WTN_FORM_GROUP + local % width;
    tile.column = local / width * form::columns;
    tile.row += (int64_t)block * form::rows;
    tile.rows -= block * form::rows;
    tile.rows = tile.rows < form::rows ? tile.rows : form::rows;
    return true;
}

#endif
#endif

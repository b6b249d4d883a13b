/* Walking the tiles of a grouped product on the device: no host ever knows how many there are. */
#ifndef WTN_GEMM_WALK_CUDA_CUH
#define WTN_GEMM_WALK_CUDA_CUH

#include "kernels/cuda/device.cuh"

/* Tiles of one expert follow each other: bands of WTN_WALK_BAND row tiles; in a band, columns;
 * within a column of tiles, rows. Blocks that run together then share rows and weights in the L2
 * cache. */
#define WTN_WALK_BAND 16

/* A warp's place among the tiles: 32 experts at a time, one per lane. All lanes call together, with
 * ascending tiles. */
typedef struct wtn_walk {
    const int64_t *row_begin; /* [expert_count + 1] */
    uint32_t       expert_count, column_tiles, row_tile;
    uint32_t       first;  /* expert of lane 0 */
    uint32_t       before; /* tiles of the experts before it */
    uint32_t       ends;   /* this lane's: tiles of the experts first .. first + lane */
} wtn_walk_t;

typedef struct wtn_tile {
    uint32_t expert;
    int64_t  row, row_end; /* sorted; row_end is the expert's */
    int64_t  column;
} wtn_tile_t;

WTN_DEVICE void wtn_walk_load(wtn_walk_t &walk)
{
    const uint32_t expert = walk.first + wtn_lane();

    walk.ends = 0;
    if (expert < walk.expert_count) {
        int64_t rows = walk.row_begin[expert + 1] - walk.row_begin[expert];

        walk.ends = (uint32_t)((rows + walk.row_tile - 1) / walk.row_tile) * walk.column_tiles;
    }
#pragma unroll
    for (uint32_t by = 1; by < 32; by *= 2) {
        uint32_t below = wtn_shuffle_up(walk.ends, by);

        walk.ends += wtn_lane() >= by ? below : 0;
    }
}

WTN_DEVICE wtn_walk_t wtn_walk_begin(const int64_t *row_begin, uint32_t expert_count,
                                     uint32_t column_tiles, uint32_t row_tile)
{
    wtn_walk_t walk = {row_begin, expert_count, column_tiles, row_tile, 0, 0, 0};

    wtn_walk_load(walk);
    return walk;
}

/* Tile number `index` of all; false: there are fewer. */
WTN_DEVICE bool wtn_walk_to(wtn_walk_t &walk, uint32_t index, uint32_t column_tile,
                            wtn_tile_t *tile)
{
    uint32_t lane, inside, row_tiles, band, band_rows;

    while (index - walk.before >= wtn_shuffle(walk.ends, 31)) {
        walk.before += wtn_shuffle(walk.ends, 31);
        walk.first += 32;
        if (walk.first >= walk.expert_count) {
            walk.ends = 0;
            return false;
        }
        wtn_walk_load(walk);
    }
    inside = index - walk.before;
    lane   = wtn_count_bits(wtn_ballot(inside >= walk.ends));
    inside -= lane == 0 ? 0 : wtn_shuffle(walk.ends, lane - 1);

    tile->expert  = walk.first + lane;
    tile->row     = walk.row_begin[tile->expert];
    tile->row_end = walk.row_begin[tile->expert + 1];
    row_tiles     = (uint32_t)((tile->row_end - tile->row + walk.row_tile - 1) / walk.row_tile);
    band          = inside / (WTN_WALK_BAND * walk.column_tiles);
    inside -= band * WTN_WALK_BAND * walk.column_tiles;
    band_rows = row_tiles - band * WTN_WALK_BAND;
    band_rows = band_rows < WTN_WALK_BAND ? band_rows : WTN_WALK_BAND;
    tile->row += (int64_t)(band * WTN_WALK_BAND + inside % band_rows) * walk.row_tile;
    tile->column = (int64_t)(inside / band_rows) * column_tile;
    return true;
}

#endif

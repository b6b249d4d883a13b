/* Forms with weights as the matrix units' M, 64 at a time, and rows as their N: the last tile of an
 * expert costs matrix time by 16 rows, not by 64. The sums lie across: a thread holds neighbouring
 * rows of one column. And, after both ways to multiply a tile, all tiles of a block. */
#ifndef WTN_GEMM_SM90_ACROSS_CUH
#define WTN_GEMM_SM90_ACROSS_CUH

#include "kernels/gemm/gemm_sm90_multiply.cuh"

#if WTN_HAS_SM90A

/* Blocks of 64 columns of a tile. Of n rows lane l of warp w holds, in d[m][4 j + 2 i + c], row
 * 8 j + 2 (l % 4) + c, column 64 m + 16 w + l / 4 + 8 i. */
template <typename form> constexpr uint32_t blocks_of = form::columns / 64;

/* ---- what becomes of the sums ---- */

/* Biases of the columns this thread holds: asked for before the products. */
template <uint32_t blocks> struct biases {
    float of[blocks][2];
};
template <uint32_t blocks>
WTN_DEVICE biases<blocks> biases_of(const gemm_params_t &p, uint32_t expert, uint32_t column)
{
    biases<blocks> b = {};

    column += wtn_warp() % 4 * 16 + wtn_lane() / 4;
#pragma unroll
    for (uint32_t i = 0; p.bias != NULL && i < 2 * blocks; i++) {
        uint32_t at = column + i / 2 * 64 + i % 2 * 8;

        if (at < p.N) {
            b.of[i / 2][i % 2] = p.bias[(uint64_t)expert * p.N + at];
        }
    }
    return b;
}

/* Where the rows go that this warp stores: every fourth four of the tile's. The index of lane l's,
 * of which lane l stores others, is asked for before the products, too. */
WTN_DEVICE uint32_t sheet_row(uint32_t i)
{
    return i / 4 * 16 + wtn_warp() % 4 * 4 + i % 4;
}
WTN_DEVICE uint32_t rows_out(const gemm_params_t &p, const tile_t &tile)
{
    uint32_t row = sheet_row(wtn_lane());

    if (row >= tile.rows) {
        return NO_ROW;
    }
    return (uint32_t)(p.out_index == NULL ? tile.row + row : p.out_index[tile.row + row]);
}

/* A sheet is what a warpgroup's four warps put down of 64 columns before they store it by rows:
 * [rows][64], 16-byte chunk c of row r at c ^ (r % 8). It is filled and stored 32 rows at a time,
 * so that stores leave while the next rows are made. This puts 8 columns, chunk `chunk`, of the
 * rows whose numbers begin at d[first] of each four from d[j] on. */
#define SHEET_ROWS 32

template <bool bf16, int count>
WTN_DEVICE void sheet_put(wtn_saddr_t sheet, uint32_t chunk, int j, int first,
                          const float (&d)[count])
{
    const bool   whole = j + 8 < count; /* 32 rows, or 16 of them twice */
    const float *a = &d[j + first], *b = whole ? a + 8 : a;
    uint32_t     lane = whole ? wtn_lane() : wtn_lane() % 16;

    wtn_store_matrix_turned(sheet + ((uint32_t)j * 2 + lane) * ATOM_BYTES + (chunk ^ lane % 8) * 16,
                            pack<bf16>(a[0], a[1]), pack<bf16>(a[4], a[5]), pack<bf16>(b[0], b[1]),
                            pack<bf16>(b[4], b[5]));
}

/* Of eight columns the first `used`, and zeros. */
WTN_DEVICE wtn_vec16_t keep_first(wtn_vec16_t part, uint32_t used)
{
    uint32_t *words[4] = {&part.x, &part.y, &part.z, &part.w};

#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        *words[i] &= used >= 2 * i + 2 ? 0xffffffffu : used == 2 * i + 1 ? 0xffffu : 0;
    }
    return part;
}

/* Rows that begin at any address go by single numbers. */
WTN_DEVICE void store_chunk(char *at, wtn_vec16_t part, uint32_t columns, bool aligned)
{
    const uint32_t words[4] = {part.x, part.y, part.z, part.w};

    if (aligned) {
        wtn_store16(at, part);
        return;
    }
#pragma unroll
    for (uint32_t c = 0; c < 8; c++) {
        if (c < columns) {
            ((uint16_t *)at)[c] = (uint16_t)(words[c / 2] >> c % 2 * 16);
        }
    }
}

/* Store the warp's rows among `rows` rows of a sheet from `begin` on to `column` of out and on. */
WTN_DEVICE void sheet_store(const gemm_params_t &p, uint32_t to, uint32_t column, const char *sheet,
                            uint32_t begin, uint32_t rows)
{
    uint32_t chunk = wtn_lane() % 8;
    uint32_t left, used;

    column += chunk * 8;
    left = column < p.out_columns ? p.out_columns - column : 0;
    left = left < 8 ? left : 8;
    used = column < p.used_columns ? p.used_columns - column : 0;
#pragma unroll
    for (uint32_t i = begin / 4; i < (begin + rows) / 4; i += 4) {
        uint32_t    r    = sheet_row(i + wtn_lane() / 8);
        uint32_t    row  = wtn_shuffle(to, i + wtn_lane() / 8);
        wtn_vec16_t part = *(const wtn_vec16_t *)(sheet + r * ATOM_BYTES + (chunk ^ r % 8) * 16);
        char       *at   = p.out + row * p.out_stride + (uint64_t)column * 2;

        part = used < 8 ? keep_first(part, used) : part;
        if (row != NO_ROW && left > 0) {
            store_chunk(at, part, left, p.out_aligned);
        }
    }
}

WTN_DEVICE bool is_swish(const witan_activation_t &a)
{
    return a.kind == WITAN_ACTIVATION_SILU || a.kind == WITAN_ACTIVATION_SWISH;
}

/* Sums to h where the activation is not a swish: h in u's place, or g's where gated. */
template <uint32_t blocks, int count>
WTN_DEVICE void activate_part(const witan_activation_t &activation, float (&d)[blocks][count])
{
#pragma unroll
    for (uint32_t m = 0; m < blocks; m++) {
        if (activation.gated) {
            activate_turning<true, 2>(activation, d[m]);
        } else {
            activate_turning<false, 2>(activation, d[m]);
        }
    }
}

/* The sums of a tile, of the columns from `column` on, to where they go. */
template <bool bf16, bool up, uint32_t blocks, int count>
WTN_DEVICE void finish_across(const gemm_params_t &p, uint32_t column, uint32_t to,
                              const biases<blocks> &bias, char *sheet, float (&d)[blocks][count])
{
    wtn_saddr_t put   = wtn_shared_address(sheet);
    uint32_t    id    = 3 + (wtn_warp() - LOADING_WARPS) / 4;
    uint32_t    chunk = wtn_warp() % 4 * 2;

    if (p.bias != NULL) {
#pragma unroll
        for (uint32_t i = 0; i < blocks * count; i++) {
            d[i / count][i % count] += bias.of[i / count][i / 2 % 2];
        }
    }
    if (up && !(p.activation.gated && is_swish(p.activation))) {
        activate_part(p.activation, d);
    }
    if (up && p.activation.gated) {
#pragma unroll
        for (uint32_t m = 0; m < blocks; m += 2) {
            wtn_sync_named(id, 128); /* what was put here before has left */
#pragma unroll
            for (int j = 0; j < count; j += SHEET_ROWS / 2) {
                const int end = j + SHEET_ROWS / 2 < count ? j + SHEET_ROWS / 2 : count;

                if (is_swish(p.activation)) {
                    activate_swish<2>(p.activation, d[m] + j, end - j);
                    activate_swish<2>(p.activation, d[m + 1] + j, end - j);
                }
                sheet_put<bf16>(put, chunk / 2, j, 0, d[m]);
                sheet_put<bf16>(put, chunk / 2 + 4, j, 0, d[m + 1]);
                wtn_sync_named(id, 128);
                sheet_store(p, to, (column + m * 64) / 2, sheet, (uint32_t)j * 2,
                            (uint32_t)(end - j) * 2);
            }
        }
        return;
    }
#pragma unroll
    for (uint32_t m = 0; m < blocks; m++) {
        wtn_sync_named(id, 128);
#pragma unroll
        for (int j = 0; j < count; j += SHEET_ROWS / 2) {
            const int end = j + SHEET_ROWS / 2 < count ? j + SHEET_ROWS / 2 : count;

            sheet_put<bf16>(put, chunk, j, 0, d[m]);
            sheet_put<bf16>(put, chunk + 1, j, 2, d[m]);
            wtn_sync_named(id, 128);
            sheet_store(p, to, column + m * 64, sheet, (uint32_t)j * 2, (uint32_t)(end - j) * 2);
        }
    }
}

/* One tile, of up to n rows. Of those beyond its own, the sums are of what the stages hold there.
 * The instruction's width is part of its name: so each has code of its own, to the end. */
template <bool bf16, bool up, typename form, uint32_t n = form::rows>
WTN_DEVICE void multiply_across(const gemm_params_t &p, const tile_t &tile, uint32_t next,
                                ring_t &ring, char *memory)
{
    if constexpr (n > 16) {
        if (tile.rows <= n - 16) {
            multiply_across<bf16, up, form, n - 16>(p, tile, next, ring, memory);
            return;
        }
    }

    uint32_t group = (wtn_warp() - LOADING_WARPS) / 4;
    uint32_t to    = rows_out(p, tile);
    auto     bias  = biases_of<blocks_of<form>>(p, tile.expert, tile.column);
    float    d[blocks_of<form>][n / 2];

    multiply_tile<bf16, form, form::columns, form::rows>(p, wtn_shared_address(memory),
                                                         form::rows * form::atoms * ATOM_BYTES, 0,
                                                         ring, next, d);
    finish_across<bf16, up>(p, tile.column, to, bias,
                            memory + TURN_AT + group * form::rows * ATOM_BYTES, d);
}

/* ---- all tiles of a block ---- */

template <bool bf16, bool up, typename form>
WTN_DEVICE void multiply_tiles(const gemm_params_t &p, const survey_t &survey, char *memory)
{
    constexpr uint32_t turns = form::turns;

    wtn_saddr_t shared = wtn_shared_address(memory);
    uint32_t    group  = (wtn_warp() - LOADING_WARPS) / 4;
    uint32_t    row    = form::groups > 1 ? group * 64 : 0;
    uint32_t    count  = walk_count<form>(survey, p.N);
    uint32_t    steps  = step_count<form>(p);
    ring_t      ring   = {0, 0};

    if (turns > 1 && group > 0) {
        ring_skip(ring, form::stages, steps);
    }
    for (uint32_t i = turns > 1 ? group : 0; i < count; i += turns) {
        uint32_t next = turns > 1 && i + 1 < count ? 2 - group : 0;
        tile_t   tile;

        /* Only who takes the stages in order can tell by parity whether one is full. */
        if (turns > 1 && i > 0) {
            wtn_sync_named(1 + group, 256);
        }
        wtn_mbarrier_wait(barrier_full(shared, ring.stage), ring.parity);
        tile = *tile_slot(memory, i);
        if (form::groups > 1 && row >= tile.rows) {
            pass_tile<form>(p, shared, ring);
            continue;
        }
        if constexpr (form::across) {
            multiply_across<bf16, up, form>(p, tile, next, ring, memory);
        } else {
            multiply_along<bf16, up, form>(p, tile, row, next, ring, memory);
        }
        if (turns > 1) {
            ring_skip(ring, form::stages, steps);
        }
    }
    wtn_bulk_wait_read(); /* before this memory is another block's */
}

#endif
#endif

/* The form with weights as the matrix units' M, 64 at a time, and rows as their N: the last tile of
 * an expert costs matrix time by 16 rows, not by 64. The sums lie across: a thread holds
 * neighbouring rows of one column. And, after both ways to multiply a tile, all tiles of a block.
 */
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

/* Put down 8 columns of 32 rows, whose numbers begin at d[first] of each four from d[j] on, the
 * first row's at `at`. */
template <bool bf16, typename form, int count>
WTN_DEVICE void put_columns(wtn_saddr_t at, int j, int first, const float (&d)[count])
{
    const bool   whole = j + 8 < count; /* 32 rows, or 16 of them twice */
    const float *a = &d[j + first], *b = whole ? a + 8 : a;

    at += (whole ? wtn_lane() : wtn_lane() % 16) * form::turn_stride;
    wtn_store_matrix_turned(at, pack<bf16>(a[0], a[1]), pack<bf16>(a[4], a[5]),
                            pack<bf16>(b[0], b[1]), pack<bf16>(b[4], b[5]));
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

/* Sums of d[m], or of d[m] and d[m + 1] where half their columns are h, to `columns` columns of out
 * from `column` on: 64 rows at a time, which all four warps put down and of which each stores 16.
 */
template <bool bf16, bool gated, typename form, uint32_t blocks, int count>
WTN_DEVICE void finish_columns(const gemm_params_t &p, uint32_t column, uint32_t m,
                               const uint32_t (&to)[2], char *memory, float (&d)[blocks][count])
{
    const bool     both    = gated && m + 1 < blocks;
    const uint32_t columns = gated && !both ? 32 : 64;

    uint32_t warp = wtn_warp() - LOADING_WARPS;
    char    *turn = memory + TURN_AT + warp * form::turn_bytes;
    uint32_t from = warp / 4 * 4 * form::turn_bytes + warp % 4 * (gated ? 16 : 32);

#pragma unroll
    for (int j = 0; j < count; j += 32) {
        const int end = j + 32 < count ? j + 32 : count;

        if (gated && is_swish(p.activation)) {
            activate_swish<2>(p.activation, d[m] + j, end - j);
            if (both) {
                activate_swish<2>(p.activation, d[m + both] + j, end - j);
            }
        }
        wtn_sync_named(3 + warp / 4, 128); /* what was put here before has left */
#pragma unroll
        for (int i = j; i < end; i += 16) {
            wtn_saddr_t at = wtn_shared_address(memory) + TURN_AT + from +
                             (uint32_t)(i - j) * 2 * form::turn_stride;

            put_columns<bf16, form>(at, i, 0, d[m]);
            if (!gated) {
                put_columns<bf16, form>(at + 16, i, 2, d[m]);
            } else if (both) {
                put_columns<bf16, form>(at + 64, i, 0, d[m + both]);
            }
        }
        wtn_sync_named(3 + warp / 4, 128);
        store_turned<form, false>(p, to[j / 32], column, columns, turn);
    }
}

/* The sums of a tile, of the columns from `column` on, to where they go. */
template <bool bf16, bool up, typename form, uint32_t blocks, int count>
WTN_DEVICE void finish_across(const gemm_params_t &p, uint32_t column, const uint32_t (&to)[2],
                              const biases<blocks> &bias, char *memory, float (&d)[blocks][count])
{
    wtn_bulk_wait_read();
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
            finish_columns<bf16, true, form>(p, (column + m * 64) / 2, m, to, memory, d);
        }
        return;
    }
#pragma unroll
    for (uint32_t m = 0; m < blocks; m++) {
        finish_columns<bf16, false, form>(p, column + m * 64, m, to, memory, d);
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

    uint32_t first = wtn_warp() % 4 * 16;
    uint32_t to[2] = {row_out(p, tile, first), row_out(p, tile, first + 64)};
    auto     bias  = biases_of<blocks_of<form>>(p, tile.expert, tile.column);
    float    d[blocks_of<form>][n / 2];

    multiply_tile<bf16, form, form::columns, form::rows>(p, wtn_shared_address(memory),
                                                         form::rows * form::atoms * ATOM_BYTES, 0,
                                                         ring, next, d);
    finish_across<bf16, up, form>(p, tile.column, to, bias, memory, d);
}

/* ---- all tiles of a block ---- */

/* The warpgroups take them in turn. Who is told of the end lets the other know, whose turn it would
 * be. */
template <bool bf16, bool up, typename form>
WTN_DEVICE void multiply_tiles(const gemm_params_t &p, char *memory)
{
    static_assert(form::turns == 2, "a full form");

    uint32_t group = (wtn_warp() - LOADING_WARPS) / 4;
    uint32_t next  = 2 - group;
    uint32_t steps = step_count<form>(p);
    ring_t   ring  = {0, 0};

    if (group > 0) {
        ring_skip(ring, form::stages, steps);
    }
    for (uint32_t i = group;; i += 2) {
        tile_t tile;

        /* Only who takes the stages in order can tell by parity whether one is full. */
        if (i > 0) {
            wtn_sync_named(1 + group, 256);
            if (told_slot(memory, i - 1)->end) {
                break;
            }
        }
        tile = told_wait(memory, i);
        if (tile.end) {
            wtn_arrive_named(next, 256);
            break;
        }
        if constexpr (form::across) {
            multiply_across<bf16, up, form>(p, tile, next, ring, memory);
        } else {
            multiply_along<bf16, up, form>(p, tile, next, ring, memory);
        }
        ring_skip(ring, form::stages, steps);
    }
    wtn_bulk_wait_read(); /* before this memory is another block's */
}

#endif
#endif

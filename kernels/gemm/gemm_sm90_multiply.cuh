/* The multiplying side of the persistent sm_90a GEMM: products of tiles, and what becomes of the
 * sums. */
#ifndef WTN_GEMM_SM90_MULTIPLY_CUH
#define WTN_GEMM_SM90_MULTIPLY_CUH

#include "kernels/activation/activation_cuda.cuh"
#include "kernels/gemm/gemm_sm90_load.cuh"

#if WTN_HAS_SM90A

/* This warp is done with a stage: tell every block that brings something into it. */
template <typename form> WTN_DEVICE void stage_release(wtn_saddr_t shared, uint32_t stage)
{
    if (form::pair == 1) {
        if (wtn_lane() == 0) {
            wtn_mbarrier_arrive(barrier_empty(shared, stage));
        }
    } else if (wtn_lane() < form::pair) {
        wtn_mbarrier_arrive_cluster(barrier_empty(shared, stage), wtn_lane());
    }
}

/* Queue a stage's products: `blocks` times 64 rows of one operand, which lie from a_at on in the
 * stage, with those of the other, from b_at on. An atom of each has a_rows and b_rows. */
template <bool bf16, typename form, uint32_t a_rows, uint32_t b_rows, bool first, uint32_t blocks,
          int count>
WTN_DEVICE void queue_stage(wtn_saddr_t shared, uint32_t a_at, uint32_t b_at, const ring_t &ring,
                            float (&d)[blocks][count])
{
    wtn_saddr_t at = stage_at<form>(shared, ring.stage);
    uint64_t    a  = wtn_wgmma_descriptor(at + a_at);
    uint64_t    b  = wtn_wgmma_descriptor(at + b_at);

    wtn_mbarrier_wait(barrier_full(shared, ring.stage), ring.parity);
    if (form::gatherers > 0) {
        wtn_fence_async(); /* copies by cp.async belong to the generic proxy */
    }
    wtn_wgmma_fence();
#pragma unroll
    for (uint32_t i = 0; i < form::atoms * 4; i++) {
        /* In units of 16 bytes: 16 columns of K are 2. */
        uint32_t a_i = i / 4 * a_rows * (ATOM_BYTES / 16) + i % 4 * 2;
        uint32_t b_i = i / 4 * b_rows * (ATOM_BYTES / 16) + i % 4 * 2;

#pragma unroll
        for (uint32_t m = 0; m < blocks; m++) {
            uint64_t a_m = a + a_i + m * 64 * (ATOM_BYTES / 16);

            if (first && i == 0) {
                wtn_wgmma_first<bf16>(d[m], a_m, b + b_i);
            } else {
                wtn_wgmma<bf16>(d[m], a_m, b + b_i);
            }
        }
    }
    wtn_wgmma_commit();
}

/* d = the sums of one tile. The stage before the last one queued is
 * given back as soon as its products are done, so the matrix units always have one more to do.
 * `next`: the named barrier where the other warpgroup waits for its turn, or 0. */
template <bool bf16, typename form, uint32_t a_rows, uint32_t b_rows, uint32_t blocks, int count>
WTN_DEVICE void multiply_tile(const gemm_params_t &p, wtn_saddr_t shared, uint32_t a_at,
                              uint32_t b_at, ring_t &ring, uint32_t next, float (&d)[blocks][count])
{
    uint32_t before = ring.stage;

    queue_stage<bf16, form, a_rows, b_rows, true>(shared, a_at, b_at, ring, d);
    ring_next(ring, form::stages);
    for (uint32_t left = step_count<form>(p) - 1; left > 0; left--) {
        queue_stage<bf16, form, a_rows, b_rows, false>(shared, a_at, b_at, ring, d);
        wtn_wgmma_wait<1>();
        stage_release<form>(shared, before);
        before = ring.stage;
        ring_next(ring, form::stages);
    }
    if (next != 0) {
        wtn_arrive_named(next, 256);
    }
    wtn_wgmma_wait<0>();
#pragma unroll
    for (uint32_t m = 0; m < blocks; m++) {
        wtn_wgmma_hold(d[m]);
    }
    stage_release<form>(shared, before);
}

/* ---- what becomes of the sums ---- */

template <bool bf16> WTN_DEVICE uint32_t pack(float lo, float hi)
{
    return bf16 ? wtn_pack_bf16(lo, hi) : wtn_pack_f16(lo, hi);
}

/* Lane l holds columns 8 j + 2 (l % 4) and the next, in d[4 j] and on. */
template <int count>
WTN_DEVICE void add_bias(const float *bias, uint32_t column, uint32_t N, float (&d)[count])
{
    column += wtn_lane() % 4 * 2;
#pragma unroll
    for (int j = 0; j < count / 4; j++) {
        float b0 = column + 8 * j < N ? bias[column + 8 * j] : 0.0f;
        float b1 = column + 8 * j + 1 < N ? bias[column + 8 * j + 1] : 0.0f;

        d[4 * j] += b0;
        d[4 * j + 1] += b1;
        d[4 * j + 2] += b0;
        d[4 * j + 3] += b1;
    }
}

/* silu and swish, unrolled: what most models have. g lies in d[2 w j + i], u of the same column in
 * d[2 w j + w + i], i < w; h takes g's place. */
template <int w>
WTN_DEVICE void activate_swish(const witan_activation_t &activation, float *d, int count)
{
    witan_activation_t swish = activation;

    swish.kind      = WITAN_ACTIVATION_SWISH;
    swish.parameter = activation.kind == WITAN_ACTIVATION_SILU ? 1.0f : activation.parameter;
    swish.gated     = true;
#pragma unroll
    for (int j = 0; j < count; j += 2 * w) {
#pragma unroll
        for (int i = j; i < j + w; i++) {
            d[i] = wtn_activate_gated<false>(swish, d[i], d[i + w]);
        }
    }
}

/* All others, in a loop that turns the accumulator round, as eight formulas at each of its places
 * would be much code. Gated as above; else u in d[w j + i]. */
template <bool gated, int w, int count>
WTN_DEVICE void activate_turning(const witan_activation_t &activation, float (&d)[count])
{
    const int step = gated ? 2 * w : w;

#pragma unroll 1
    for (int j = 0; j < count; j += step) {
        float h[w];

#pragma unroll
        for (int i = 0; i < w; i++) {
            h[i] = wtn_activate_gated<false>(activation, d[i], d[gated ? i + w : i]);
        }
#pragma unroll
        for (int i = 0; i + step < count; i++) {
            d[i] = d[i + step];
        }
#pragma unroll
        for (int i = 0; i < w; i++) {
            d[count - step + i] = h[i];
        }
    }
}

#define NO_ROW 0xffffffffu /* row numbers are less */

/* Where lane l's row of the warp's 16, row l % 16, goes. Asked for before the products, so that the
 * index is not waited for after them. */
WTN_DEVICE uint32_t row_out(const gemm_params_t &p, const tile_t &tile, uint32_t row)
{
    row += wtn_lane() % 16;
    if (row >= tile.rows) {
        return NO_ROW;
    }
    return (uint32_t)(p.out_index == NULL ? tile.row + row : p.out_index[tile.row + row]);
}

/* Store `columns` columns of the warp's rows from shared memory, row r at turn + r * turn_stride,
 * to `column` of out. By the copy engine where another warpgroup multiplies meanwhile: it holds up
 * this warp longest and others least. Rows that begin at any address go by single numbers. */
template <typename form, bool bulk>
WTN_DEVICE void store_turned(const gemm_params_t &p, uint32_t to, uint32_t column, uint32_t columns,
                             char *turn)
{
    uint32_t left = column < p.out_columns ? p.out_columns - column : 0;

    columns = columns < left ? columns : left;
    if (column + columns > p.used_columns) { /* in the last tile only */
        wtn_sync_warp();
#pragma unroll 1
        for (uint32_t c = 0; wtn_lane() < 16 && c < columns; c++) {
            if (column + c >= p.used_columns) {
                ((uint16_t *)(turn + wtn_lane() * form::turn_stride))[c] = 0;
            }
        }
    }
    if (bulk && p.out_aligned) {
        wtn_fence_async();
        wtn_sync_warp();
        if (wtn_lane() < 16 && to != NO_ROW && columns > 0) {
            wtn_bulk_store(p.out + to * p.out_stride + (uint64_t)column * 2,
                           wtn_shared_address(turn) + wtn_lane() * form::turn_stride, columns * 2);
            wtn_bulk_commit();
        }
        return;
    }
    wtn_sync_warp();
    if (p.out_aligned) {
        constexpr uint32_t chunks = form::turn_columns / 8; /* of a row: a lane's each */

        uint32_t c = wtn_lane() % chunks * 8;

#pragma unroll
        for (uint32_t i = 0; i < 16; i += 32 / chunks) {
            uint32_t    r    = i + wtn_lane() / chunks;
            uint32_t    row  = wtn_shuffle(to, r);
            wtn_vec16_t part = *(const wtn_vec16_t *)(turn + r * form::turn_stride + c * 2);

            if (row != NO_ROW && c < columns) {
                wtn_store16(p.out + row * p.out_stride + (uint64_t)(column + c) * 2, part);
            }
        }
        return;
    }
#pragma unroll 1 /* much code otherwise */
    for (uint32_t r = 0; r < 16; r++) {
        uint32_t  row  = wtn_shuffle(to, r);
        uint16_t *into = (uint16_t *)(p.out + row * p.out_stride) + column;

#pragma unroll 1
        for (uint32_t c = wtn_lane(); row != NO_ROW && c < columns; c += 32) {
            into[c] = ((const uint16_t *)(turn + r * form::turn_stride))[c];
        }
    }
}

/* The warp's 16 rows of sums to `column` of out, by way of shared memory. 8 columns lie in 4
 * numbers of each `step`. */
template <bool bf16, int step, typename form, int count>
WTN_DEVICE void store_rows(const gemm_params_t &p, uint32_t to, uint32_t column, char *turn,
                           const float (&d)[count])
{
    const int groups = count / step; /* of 8 columns */
    const int most   = form::turn_columns / 8;

    wtn_saddr_t put = wtn_shared_address(turn) + wtn_lane() % 16 * form::turn_stride;

#pragma unroll
    for (int pass = 0; pass < groups; pass += most) {
        const int width = groups - pass < most ? groups - pass : most;

        if (form::bulk) {
            wtn_bulk_wait_read();
        }
        wtn_sync_warp(); /* what was put here before has left */
#pragma unroll
        for (int j = 0; j < width; j += 2) {
            const float *a = &d[(pass + j) * step];
            const float *b = j + 1 < width ? a + step : a; /* an odd last one twice */

            wtn_store_matrix(put + ((uint32_t)j + wtn_lane() / 16) * 16, pack<bf16>(a[0], a[1]),
                             pack<bf16>(a[2], a[3]), pack<bf16>(b[0], b[1]),
                             pack<bf16>(b[2], b[3]));
        }
        store_turned<form, form::bulk>(p, to, column + (uint32_t)pass * 8, (uint32_t)width * 8,
                                       turn);
    }
}

template <bool bf16, bool up, typename form, int count>
WTN_DEVICE void finish_block(const gemm_params_t &p, const tile_t &tile, uint32_t to, char *turn,
                             float (&d)[count])
{
    if (p.bias != NULL) {
        add_bias(p.bias + (uint64_t)tile.expert * p.N, tile.column, p.N, d);
    }
    if (up && p.activation.gated) {
        if (p.activation.kind == WITAN_ACTIVATION_SILU ||
            p.activation.kind == WITAN_ACTIVATION_SWISH) {
            activate_swish<4>(p.activation, d, count);
        } else {
            activate_turning<true, 4>(p.activation, d);
        }
        store_rows<bf16, 8, form>(p, to, tile.column / 2, turn, d);
    } else {
        if (up) {
            activate_turning<false, 4>(p.activation, d);
        }
        store_rows<bf16, 4, form>(p, to, tile.column, turn, d);
    }
}

/* One tile of up to `blocks` times 64 rows and so many columns. */
template <bool bf16, bool up, typename form, uint32_t blocks, uint32_t columns>
WTN_DEVICE void multiply_part(const gemm_params_t &p, const tile_t &tile, uint32_t next,
                              ring_t &ring, char *memory)
{
    uint32_t warp = wtn_warp() - LOADING_WARPS;
    char    *turn = memory + TURN_AT + warp * form::turn_bytes;
    uint32_t to[blocks];
    float    d[blocks][columns / 2];

#pragma unroll
    for (uint32_t m = 0; m < blocks; m++) {
        to[m] = row_out(p, tile, m * 64 + warp % 4 * 16);
    }
    multiply_tile<bf16, form, form::rows, form::columns>(p, wtn_shared_address(memory), 0,
                                                         form::rows * form::atoms * ATOM_BYTES,
                                                         ring, next, d);
#pragma unroll
    for (uint32_t m = 0; m < blocks; m++) {
        if (form::rows > 64 || warp % 4 * 16 < tile.rows) {
            finish_block<bf16, up, form>(p, tile, to[m], turn, d[m]);
        }
    }
}

/* One tile. Narrow ones and those of few rows have code of their own, where the form cuts such. */
template <bool bf16, bool up, typename form>
WTN_DEVICE void multiply_along(const gemm_params_t &p, const tile_t &tile, uint32_t next,
                               ring_t &ring, char *memory)
{
    constexpr uint32_t blocks = (form::rows + 63) / 64;

    if constexpr (form::narrow > 0) {
        if (tile.rows <= 64 && tile.columns <= form::narrow) {
            multiply_part<bf16, up, form, 1, form::narrow>(p, tile, next, ring, memory);
            return;
        }
        if (tile.rows <= 64) {
            multiply_part<bf16, up, form, 1, form::columns>(p, tile, next, ring, memory);
            return;
        }
        if (tile.columns <= form::narrow) {
            multiply_part<bf16, up, form, blocks, form::narrow>(p, tile, next, ring, memory);
            return;
        }
    }
    multiply_part<bf16, up, form, blocks, form::columns>(p, tile, next, ring, memory);
}

#endif
#endif

/* The gate on tensor cores, without loss: an fp32 number is the sum of three bf16 numbers, an fp16
 * number of two, and the products of all parts are summed in fp32.
 *
 * The order of a sum: H is cut into segments of SEGMENT; in a segment, the products of the leading
 * parts and those of all others are two sums, over k ascending by 16; segments are added in order.
 * It does not depend on how many tokens there are: few tokens share the segments out over warps,
 * many take them one after another.
 *
 * Error: an mma adds 17 numbers after cutting them to 24 bits or more below the largest, so that
 * one adds at most 17 * 2^-24 of the largest partial sum. A segment has 32 of them per sum, and two
 * sums: |logit - exact| <= (2 * 32 * 17 + H / SEGMENT + 1) 2^-24 sum |x w| <= 7e-5 sum |x w| in the
 * worst case for H up to 2^15; signs and sizes being mixed, 1e-6 of it is seen. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/half.h"
#include "core/util.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/gate/gate.h"

#define STEP    32  /* columns a warp takes at once: 16 bytes of bf16 per lane */
#define SEGMENT 512 /* columns */
/* Rows and columns of the weights are stored up to multiples of these, the rest zero. */
#define PAD_ROWS 64
#define PAD_COLS STEP
/* Warps of a block that share the segments of a tile, at most. */
#define SPLIT_WARPS 8
/* A block of many tokens: 4 x 2 warps of 32 tokens x 32 columns each. */
#define TILE_THREADS 256
#define TILE_TOKENS  128
#define TILE_COLUMNS 64
/* Where x and weights come through shared memory: columns in a stage, so that a row of it is 128
 * bytes, and stages. */
#define STAGE_COLUMNS 64
#define STAGE_ROW     (STAGE_COLUMNS * 2)
#define STAGE_COUNT   4

struct wtn_gate {
    wtn_gate_spec_t spec;
    int64_t         stored_rows, stored_cols;
    int32_t         plane_count;
    uint16_t *planes; /* device [planes][stored_rows][stored_cols] bf16, their sum the weight */
};

typedef struct gate_params {
    const char     *x;
    const uint16_t *planes;
    float          *logits;
    int64_t         token_count, hidden_size, stored_cols, plane_words;
    int32_t         out_count;
} gate_params_t;

/* ---- parts of numbers ---- */

/* 8 columns of x as they lie in memory. */
template <witan_dtype_t dtype> struct raw {
    uint32_t word[dtype == WITAN_F32 ? 8 : 4];
};

/* The same, of any dtype, as bf16 bits. */
typedef raw<WITAN_BF16> eight_t;

/* Those of one row from column k on; zeros past its end. Rows past the last token are the last
 * one's: their logits are not stored. */
template <witan_dtype_t dtype, bool aligned>
WTN_DEVICE raw<dtype> load_x(const gate_params_t &p, int64_t row, int64_t k)
{
    const int     bytes = dtype == WITAN_F32 ? 4 : 2;
    const int64_t t     = row < p.token_count ? row : p.token_count - 1;
    const char   *from  = p.x + (t * p.hidden_size + k) * bytes;
    raw<dtype>    out   = {};

    if constexpr (aligned) { /* so that H is a multiple of 8, too */
#pragma unroll
        for (int i = 0; i < 2 * bytes; i += 4) {
            wtn_vec16_t v = {0, 0, 0, 0};

            if (k < p.hidden_size) {
                v = wtn_load16(from + 4 * i);
            }
            out.word[i]     = v.x;
            out.word[i + 1] = v.y;
            out.word[i + 2] = v.z;
            out.word[i + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (k + i < p.hidden_size) {
                if constexpr (dtype == WITAN_F32) {
                    out.word[i] = *(const uint32_t *)(from + 4 * i);
                } else {
                    out.word[i / 2] |= (uint32_t)(*(const uint16_t *)(from + 2 * i))
                                       << (i % 2 * 16);
                }
            }
        }
    }
    return out;
}

/* What is left of x beside its upper half; nothing of an infinity or NaN. */
WTN_DEVICE float rest_of(float x)
{
    const uint32_t bits = wtn_bits_from_float(x);
    const float    rest = x - wtn_float_from_bits(bits & 0xffff0000u);

    return (bits & 0x7f800000u) == 0x7f800000u ? 0.0f : rest;
}

/* The upper half, cut off; a NaN stays one. */
WTN_DEVICE uint32_t upper_half(float x)
{
    const uint32_t bits = wtn_bits_from_float(x);

    return x != x ? 0x7fc0u : bits >> 16;
}

template <witan_dtype_t dtype, int parts>
WTN_DEVICE void split(const raw<dtype> &x, eight_t (&out)[parts])
{
    if constexpr (dtype == WITAN_BF16) {
        out[0] = x;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float lo, hi;

            if constexpr (dtype == WITAN_F32) {
                lo = wtn_float_from_bits(x.word[2 * i]);
                hi = wtn_float_from_bits(x.word[2 * i + 1]);
            } else {
                lo = wtn_float_from_f16((uint16_t)x.word[i]);
                hi = wtn_float_from_f16((uint16_t)(x.word[i] >> 16));
            }
#pragma unroll
            for (int part = 0; part < parts; part++) {
                out[part].word[i] = upper_half(lo) | upper_half(hi) << 16;
                lo                = rest_of(lo);
                hi                = rest_of(hi);
            }
        }
    }
}

/* ---- a warp's tile of MT * 16 tokens by NT * 8 columns ---- */

template <int MT, int NT> struct tile {
    float sum[MT][NT][4];
};

template <int MT, int NT> WTN_DEVICE void clear(tile<MT, NT> *t)
{
#pragma unroll
    for (int i = 0; i < MT * NT * 4; i++) {
        t->sum[i / (NT * 4)][i / 4 % NT][i % 4] = 0.0f;
    }
}

template <int MT, int NT> WTN_DEVICE void add_tile(tile<MT, NT> *to, const tile<MT, NT> &more)
{
#pragma unroll
    for (int i = 0; i < MT * NT * 4; i++) {
        to->sum[i / (NT * 4)][i / 4 % NT][i % 4] += more.sum[i / (NT * 4)][i / 4 % NT][i % 4];
    }
}

/* What a lane holds of STEP columns. The order of columns within a step is the lanes' own: lane
 * l % 4 has 8 that follow each other, the same of x and of the weights. */
template <witan_dtype_t dtype, int planes, int MT, int NT> struct step {
    raw<dtype>  x[MT][2];
    wtn_vec16_t w[planes][NT];
};

template <witan_dtype_t dtype, int planes, bool aligned, int MT, int NT>
WTN_DEVICE void load_step(const gate_params_t &p, int64_t token, int64_t column, int64_t k,
                          step<dtype, planes, MT, NT> *s)
{
    const int64_t row = wtn_lane() / 4;

    k += wtn_lane() % 4 * 8;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        s->x[m][0] = load_x<dtype, aligned>(p, token + 16 * m + row, k);
        s->x[m][1] = load_x<dtype, aligned>(p, token + 16 * m + row + 8, k);
    }
#pragma unroll
    for (int i = 0; i < planes * NT; i++) {
        s->w[i / NT][i % NT] = wtn_load16(p.planes + i / NT * p.plane_words +
                                          (column + i % NT * 8 + row) * p.stored_cols + k);
    }
}

template <witan_dtype_t dtype, int planes, int MT, int NT>
WTN_DEVICE void add_step(const step<dtype, planes, MT, NT> &s, tile<MT, NT> *high,
                         tile<MT, NT> *low)
{
    const int parts = dtype == WITAN_F32 ? 3 : dtype == WITAN_F16 ? 2 : 1;

#pragma unroll
    for (int m = 0; m < MT; m++) {
        eight_t upper[parts], lower[parts]; /* rows l / 4 and l / 4 + 8 */

        split<dtype, parts>(s.x[m][0], upper);
        split<dtype, parts>(s.x[m][1], lower);
#pragma unroll
        for (int i = 0; i < 2 * parts * planes * NT; i++) {
            const int      half = i / (parts * planes * NT), part = i / (planes * NT) % parts;
            const int      plane = i / NT % planes, n = i % NT;
            const uint32_t a[4] = {upper[part].word[2 * half], lower[part].word[2 * half],
                                   upper[part].word[2 * half + 1], lower[part].word[2 * half + 1]};
            const uint32_t b[2] = {half == 0 ? s.w[plane][n].x : s.w[plane][n].z,
                                   half == 0 ? s.w[plane][n].y : s.w[plane][n].w};

            wtn_mma_16x8x16<true>(part + plane == 0 ? high->sum[m][n] : low->sum[m][n], a, b);
        }
    }
}

/* The sums of one segment, that of `index`. */
template <witan_dtype_t dtype, int planes, bool aligned, int MT, int NT, int depth>
WTN_DEVICE void sum_segment(const gate_params_t &p, int64_t token, int64_t column, int64_t index,
                            tile<MT, NT> *out)
{
    const int64_t begin = index * SEGMENT;
    const int64_t end   = begin + SEGMENT < p.stored_cols ? begin + SEGMENT : p.stored_cols;
    tile<MT, NT>  low;

    clear(out);
    clear(&low);
    for (int64_t k = begin; k < end; k += depth * STEP) {
        step<dtype, planes, MT, NT> s[depth];

#pragma unroll
        for (int d = 0; d < depth; d++) {
            if (k + d * STEP < end) {
                load_step<dtype, planes, aligned>(p, token, column, k + d * STEP, &s[d]);
            }
        }
#pragma unroll
        for (int d = 0; d < depth; d++) {
            if (k + d * STEP < end) {
                add_step(s[d], out, &low);
            }
        }
    }
    add_tile(out, low);
}

/* Element i of a lane's sums of one m, n: its token and column in the tile. */
WTN_DEVICE int element_row(int i)
{
    return (int)wtn_lane() / 4 + i / 2 * 8;
}

WTN_DEVICE int element_column(int i)
{
    return (int)wtn_lane() % 4 * 2 + i % 2;
}

WTN_DEVICE void store_logit(const gate_params_t &p, int64_t t, int64_t n, float value)
{
    if (t < p.token_count && n < p.out_count) {
        p.logits[t * p.out_count + n] = value;
    }
}

template <int MT, int NT>
WTN_DEVICE void store_tile(const gate_params_t &p, int64_t token, int64_t column,
                           const tile<MT, NT> &t)
{
#pragma unroll
    for (int i = 0; i < MT * NT * 4; i++) {
        store_logit(p, token + i / (NT * 4) * 16 + element_row(i % 4),
                    column + i / 4 % NT * 8 + element_column(i % 4),
                    t.sum[i / (NT * 4)][i / 4 % NT][i % 4]);
    }
}

/* Steps whose loads are in flight together: a step's products hide its loads only where planes are
 * many, and registers are few where they are. */
template <witan_dtype_t dtype, int planes> WTN_DEVICE constexpr int tile_depth(void)
{
    return dtype == WITAN_BF16 && planes == 1 ? 4 : 1;
}

/* Many tokens: a warp takes the segments of its tile one after another. Also where rows of x are
 * not aligned to 16 bytes. */
template <witan_dtype_t dtype, int planes, bool aligned>
WTN_KERNEL(TILE_THREADS, 1)
tile_kernel(WTN_PARAMS(gate_params_t, p))
{
    const uint32_t warp     = wtn_thread() >> 5;
    const int64_t  token    = (int64_t)wtn_block() * TILE_TOKENS + warp / 2 * 32;
    const int64_t  column   = (int64_t)wtn_block_y() * TILE_COLUMNS + warp % 2 * 32;
    const int64_t  segments = (p.stored_cols + SEGMENT - 1) / SEGMENT;
    tile<2, 4>     total, one;

    if (token >= p.token_count || column >= p.out_count) {
        return; /* no barrier follows */
    }
    clear(&total);
    for (int64_t s = 0; s < segments; s++) {
        sum_segment<dtype, planes, aligned, 2, 4, tile_depth<dtype, planes>()>(p, token, column, s,
                                                                               &one);
        add_tile(&total, one);
    }
    store_tile(p, token, column, total);
}

/* Many tokens of bf16 and weights of one plane: a block brings the columns of all its tokens and
 * weights into shared memory once, some stages ahead of the products. Its 8 warps are `above` by
 * 8 / above tiles of 32 tokens by 8 * NT columns. */
template <int above, int NT> struct staged {
    static constexpr int tokens = above * 32, columns = 8 / above * NT * 8;
    static constexpr int bytes  = (tokens + columns) * STAGE_ROW;
    static constexpr int passes = (tokens + columns) * 8 / TILE_THREADS;
};

/* A row's chunks of 16 bytes change sides in odd rows, so that the 8 that lanes of two rows read at
 * once lie in different banks. */
WTN_DEVICE uint32_t stage_place(uint32_t row, uint32_t chunk)
{
    return row * STAGE_ROW + (chunk ^ (row % 2 * 4)) * 16;
}

/* Where this thread's chunks of a stage come from: one in every 32nd row, first tokens, then
 * weights. Rows past the last are the last one's: what they give is not stored. */
template <typename shape>
WTN_DEVICE void find_sources(const gate_params_t &p, int64_t token, int64_t column,
                             const char *(&from)[shape::passes])
{
    const int64_t stored_rows = p.plane_words / p.stored_cols;

#pragma unroll
    for (int i = 0; i < shape::passes; i++) {
        const int64_t r = wtn_thread() / 8 + i * TILE_THREADS / 8;

        if (i * TILE_THREADS / 8 < shape::tokens) {
            const int64_t t = token + r < p.token_count ? token + r : p.token_count - 1;

            from[i] = p.x + t * p.hidden_size * 2;
        } else {
            const int64_t n = column + r - shape::tokens;

            from[i] =
                (const char *)(p.planes + (n < stored_rows ? n : stored_rows - 1) * p.stored_cols);
        }
    }
}

/* Ask for stage `index`, if there is one; zeros past the ends of rows. */
template <typename shape>
WTN_DEVICE void bring_stage(const gate_params_t &p, const char *const (&from)[shape::passes],
                            int64_t index, wtn_saddr_t shared)
{
    const uint32_t    chunk = wtn_thread() % 8;
    const int64_t     k     = index * STAGE_COLUMNS + chunk * 8;
    const wtn_saddr_t to    = shared + (uint32_t)(index % STAGE_COUNT) * shape::bytes +
                           stage_place(wtn_thread() / 8, chunk);

#pragma unroll
    for (int i = 0; i < shape::passes; i++) {
        const bool x = i * TILE_THREADS / 8 < shape::tokens;

        if (k < (x ? p.hidden_size : p.stored_cols)) {
            wtn_copy16_async(to + i * TILE_THREADS / 8 * STAGE_ROW, from[i] + k * 2, 16);
        } else if (index * STAGE_COLUMNS < p.stored_cols) {
            wtn_copy16_async(to + i * TILE_THREADS / 8 * STAGE_ROW, from[i], 0);
        }
    }
    wtn_copy_commit();
}

/* The products of a stage, in the same order as those of load_step. */
template <typename shape, int NT>
WTN_DEVICE void add_stage(const char *stage, uint32_t token, uint32_t column, tile<2, NT> *sums)
{
    const uint32_t row = wtn_lane() / 4;

#pragma unroll
    for (uint32_t chunk = 0; chunk < 8; chunk += 4) {
        step<WITAN_BF16, 1, 2, NT> s;

#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const wtn_vec16_t v =
                *(const wtn_vec16_t *)(stage +
                                       stage_place(token + row + 8 * i, chunk + wtn_lane() % 4));

            s.x[i / 2][i % 2] = {{v.x, v.y, v.z, v.w}};
        }
#pragma unroll
        for (uint32_t n = 0; n < NT; n++) {
            s.w[0][n] =
                *(const wtn_vec16_t *)(stage + stage_place(shape::tokens + column + row + 8 * n,
                                                           chunk + wtn_lane() % 4));
        }
        add_step(s, sums, sums); /* no lower parts */
    }
}

template <int above, int NT> WTN_KERNEL(TILE_THREADS, 1) staged_kernel(WTN_PARAMS(gate_params_t, p))
{
    typedef staged<above, NT> shape;

    const uint32_t warp    = wtn_warp();
    const int64_t  columns = (p.out_count + shape::columns - 1) / shape::columns;
    const int64_t  token   = wtn_block() / columns * shape::tokens;
    const int64_t  column  = wtn_block() % columns * shape::columns;
    const int64_t  stages  = (p.stored_cols + STAGE_COLUMNS - 1) / STAGE_COLUMNS;
    const uint32_t mine = warp % above * 32, beside = warp / above * NT * 8;
    const char    *from[shape::passes];
    tile<2, NT>    total, one;

    find_sources<shape>(p, token, column, from);
    for (int64_t s = 0; s < STAGE_COUNT - 1; s++) {
        bring_stage<shape>(p, from, s, wtn_shared_address(wtn_shared()));
    }
    clear(&total);
    clear(&one);
    for (int64_t s = 0; s < stages; s++) {
        wtn_copy_wait<STAGE_COUNT - 2>();
        wtn_sync_block(); /* the stage is there for all, and all are done with the one before */
        bring_stage<shape>(p, from, s + STAGE_COUNT - 1, wtn_shared_address(wtn_shared()));
        add_stage<shape, NT>(wtn_shared() + s % STAGE_COUNT * shape::bytes, mine, beside, &one);
        if ((s + 1) % (SEGMENT / STAGE_COLUMNS) == 0 || s + 1 == stages) {
            add_tile(&total, one);
            clear(&one);
        }
    }
    store_tile(p, token + mine, column + beside, total);
}

/* Few tokens: the warps of a block share the segments of one tile out; then they are added in
 * order. Shared memory: [segments][16 MT][8 NT]. */
template <witan_dtype_t dtype, int planes, int MT, int NT>
WTN_KERNEL(SPLIT_WARPS * 32, 1)
split_kernel(WTN_PARAMS(gate_params_t, p))
{
    const int      rows = 16 * MT, columns = 8 * NT;
    const int64_t  token    = (int64_t)wtn_block() * rows;
    const int64_t  column   = (int64_t)wtn_block_y() * columns;
    const int64_t  segments = (p.stored_cols + SEGMENT - 1) / SEGMENT;
    const uint32_t warps    = wtn_thread_count() / 32;
    float         *sums     = (float *)wtn_shared();

    for (int64_t s = wtn_thread() >> 5; s < segments; s += warps) {
        tile<MT, NT> one;

        sum_segment<dtype, planes, true, MT, NT, (planes == 1 ? 8 : 4) / (MT * NT)>(p, token,
                                                                                    column, s,
                                                                                    &one);
#pragma unroll
        for (int i = 0; i < MT * NT * 4; i++) {
            const int row = i / (NT * 4) * 16 + element_row(i % 4);
            const int col = i / 4 % NT * 8 + element_column(i % 4);

            sums[(s * rows + row) * columns + col] = one.sum[i / (NT * 4)][i / 4 % NT][i % 4];
        }
    }
    wtn_sync_block();
    for (int i = (int)wtn_thread(); i < rows * columns; i += (int)wtn_thread_count()) {
        float total = 0.0f;

        for (int64_t s = 0; s < segments; s++) {
            total += sums[s * rows * columns + i];
        }
        store_logit(p, token + i / columns, column + i % columns, total);
    }
}

/* ---- running ---- */

typedef void (*gate_kernel_t)(gate_params_t);

/* A form of the kernel, and the tile of its block. */
typedef struct form {
    gate_kernel_t kernel;
    int64_t       tokens, columns;
    bool          split;
    size_t        stage_bytes; /* of a block's stages; 0: has none */
} form_t;

/* Tokens up to which each form is taken. */
#define SMALL_TOKENS  64
#define MIDDLE_TOKENS 1024

template <int above, int NT> static form_t staged_form(void)
{
    typedef staged<above, NT> shape;

    return {staged_kernel<above, NT>, shape::tokens, shape::columns, false,
            (size_t)shape::bytes * STAGE_COUNT};
}

/* Waves of blocks times what one takes, its tokens and something more. */
static int64_t cost_of(const form_t &form, int64_t token_count, int64_t out_count)
{
    const int64_t blocks =
        wtn_ceil_div(token_count, form.tokens) * wtn_ceil_div(out_count, form.columns);

    return wtn_ceil_div(blocks, wtn_cuda_sm_count(0)) * (form.tokens + 64);
}

/* The cheapest that fits into the device's shared memory; without a kernel if none does. */
static form_t choose_staged(int64_t token_count, int64_t out_count)
{
    const bool   narrow  = out_count <= 64;
    const form_t forms[] = {narrow ? staged_form<4, 4>() : staged_form<4, 8>(),
                            narrow ? staged_form<2, 2>() : staged_form<2, 4>(),
                            narrow ? staged_form<1, 1>() : staged_form<1, 2>()};
    form_t best = {};

    for (const form_t &form : forms) {
        if (form.stage_bytes <= wtn_cuda_shared_bytes_max() &&
            (best.kernel == nullptr ||
             cost_of(form, token_count, out_count) < cost_of(best, token_count, out_count))) {
            best = form;
        }
    }
    return best;
}

template <witan_dtype_t dtype, int planes>
static form_t choose_form(int64_t token_count, int64_t out_count, int64_t segments, bool aligned)
{
    if (!aligned) {
        return {tile_kernel<dtype, planes, false>, TILE_TOKENS, TILE_COLUMNS, false, 0};
    }
    /* A tile's segments have to fit into shared memory. */
    if (token_count <= SMALL_TOKENS && segments <= 128) {
        return {split_kernel<dtype, planes, 1, 1>, 16, 8, true, 0};
    }
    if (token_count <= MIDDLE_TOKENS && segments <= 32) {
        return {split_kernel<dtype, planes, 2, 2>, 32, 16, true, 0};
    }
    if (dtype == WITAN_BF16 && planes == 1) {
        const form_t form = choose_staged(token_count, out_count);

        if (form.kernel != nullptr) {
            return form;
        }
    }
    return {tile_kernel<dtype, planes, true>, TILE_TOKENS, TILE_COLUMNS, false, 0};
}

template <witan_dtype_t dtype>
static form_t choose_planes(const wtn_gate_t *gate, int64_t token_count, bool aligned)
{
    const int64_t segments = wtn_ceil_div(gate->stored_cols, SEGMENT);

    const int64_t outs = gate->spec.out_count;

    return gate->plane_count == 1 ? choose_form<dtype, 1>(token_count, outs, segments, aligned)
                                  : choose_form<dtype, 3>(token_count, outs, segments, aligned);
}

static form_t choose(const wtn_gate_t *gate, int64_t token_count, bool aligned)
{
    switch (gate->spec.x_dtype) {
    case WITAN_F16:
        return choose_planes<WITAN_F16>(gate, token_count, aligned);
    case WITAN_BF16:
        return choose_planes<WITAN_BF16>(gate, token_count, aligned);
    case WITAN_F32:
    default:
        return choose_planes<WITAN_F32>(gate, token_count, aligned);
    }
}

extern "C" witan_status_t wtn_cuda_gate_run(const wtn_gate_t *gate, const wtn_gate_args_t *args)
{
    const int64_t segments = wtn_ceil_div(gate->stored_cols, SEGMENT);
    const size_t row_bytes = (size_t)gate->spec.hidden_size * witan_dtype_bytes(gate->spec.x_dtype);
    const bool   aligned   = ((size_t)args->x | row_bytes) % 16 == 0;
    const form_t form      = choose(gate, args->token_count, aligned);
    gate_params_t params   = {};
    wtn_launch_t  launch   = {};

    if (args->token_count == 0) {
        return WITAN_OK;
    }
    params.x           = (const char *)args->x;
    params.planes      = gate->planes;
    params.logits      = args->logits;
    params.token_count = args->token_count;
    params.hidden_size = gate->spec.hidden_size;
    params.stored_cols = gate->stored_cols;
    params.plane_words = gate->stored_rows * gate->stored_cols;
    params.out_count   = gate->spec.out_count;
    launch.name        = "gate";
    launch.stream      = args->stream;
    launch.blocks      = (uint32_t)wtn_ceil_div(args->token_count, form.tokens);
    launch.blocks_y    = (uint32_t)wtn_ceil_div(gate->spec.out_count, form.columns);
    launch.threads     = TILE_THREADS;
    if (form.split) {
        launch.threads      = 32 * (uint32_t)wtn_min_i64(SPLIT_WARPS, segments);
        launch.shared_bytes = (size_t)(segments * form.tokens * form.columns) * sizeof(float);
    }
    if (form.stage_bytes > 0) { /* blocks of the same tokens follow each other */
        launch.shared_bytes = form.stage_bytes;
        launch.blocks *= launch.blocks_y;
        launch.blocks_y = 1;
    }
    return wtn_launch(&launch, form.kernel, &params);
}

/* ---- weights ---- */

static void fill_sizes(wtn_gate_t *gate, const wtn_gate_spec_t *spec)
{
    gate->spec        = *spec;
    gate->stored_rows = wtn_ceil_div(spec->out_count, PAD_ROWS) * PAD_ROWS;
    gate->stored_cols = wtn_ceil_div(spec->hidden_size, PAD_COLS) * PAD_COLS;
    gate->plane_count = spec->weight_dtype == WITAN_BF16 ? 1 : 3;
}

extern "C" size_t wtn_cuda_gate_weight_bytes(const wtn_gate_spec_t *spec)
{
    wtn_gate_t gate = {};
    size_t     bytes;

    if (spec->hidden_size > INT64_MAX / 2) {
        return SIZE_MAX;
    }
    fill_sizes(&gate, spec);
    if (!wtn_mul((size_t)gate.stored_rows * (size_t)gate.plane_count, sizeof(uint16_t), &bytes) ||
        !wtn_mul(bytes, (size_t)gate.stored_cols, &bytes)) {
        return SIZE_MAX;
    }
    return bytes;
}

extern "C" size_t wtn_cuda_gate_workspace_bytes(const wtn_gate_spec_t *spec,
                                                int64_t token_count_max, int32_t thread_count)
{
    (void)spec;
    (void)token_count_max;
    (void)thread_count;
    return 0;
}

/* One row of weights into a row of each plane. True: one plane would hold it. */
static bool split_row(const wtn_gate_t *gate, const void *row, uint16_t *planes)
{
    bool one = true;

    memset(planes, 0, (size_t)(gate->plane_count * gate->stored_cols) * sizeof(*planes));
    for (int64_t k = 0; k < gate->spec.hidden_size; k++) {
        float rest = wtn_load_float(row, gate->spec.weight_dtype, (size_t)k);

        for (int32_t plane = 0; plane < gate->plane_count; plane++) {
            const uint32_t bits = wtn_float_bits(rest);

            planes[plane * gate->stored_cols + k] =
                isfinite(rest) ? (uint16_t)(bits >> 16) : wtn_float_to_bf16(rest);
            rest = isfinite(rest) ? rest - wtn_bits_float(bits & 0xffff0000u) : 0.0f;
            one  = one && (plane > 0 || rest == 0.0f);
        }
    }
    return one;
}

/* Rows are read one at a time: a gate is small. `buffer` holds one, `planes` one of each plane.
 * Weights wanted in fp32 are often stored in bf16: one plane is all of them then, and the others
 * would add zeros. */
static witan_status_t load(wtn_gate_t *gate, const witan_weights_t *weights, void *buffer,
                           uint16_t *planes)
{
    const size_t         row_bytes = (size_t)gate->stored_cols * sizeof(uint16_t);
    witan_weight_slice_t slice     = {};
    bool                 one       = true;
    witan_status_t       status;

    slice.weight    = gate->spec.weight;
    slice.expert    = -1;
    slice.row_count = 1;
    slice.col_count = gate->spec.hidden_size;
    slice.dtype     = gate->spec.weight_dtype;
    WTN_CUDA_TRY(cudaMemset(gate->planes, 0, wtn_cuda_gate_weight_bytes(&gate->spec)));
    for (; slice.row_begin < gate->spec.out_count; slice.row_begin++) {
        WTN_TRY(weights->read(weights->context, &slice, buffer));
        one = split_row(gate, buffer, planes) && one;
        for (int64_t plane = 0; plane < gate->plane_count; plane++) {
            uint16_t *to =
                gate->planes + (plane * gate->stored_rows + slice.row_begin) * gate->stored_cols;

            WTN_CUDA_TRY(cudaMemcpy(to, planes + plane * gate->stored_cols, row_bytes,
                                    cudaMemcpyHostToDevice));
        }
    }
    gate->plane_count = one ? 1 : gate->plane_count;
    return WITAN_OK;

fail:
    return status;
}

extern "C" witan_status_t wtn_cuda_gate_create(wtn_gate_t **out, const wtn_gate_spec_t *spec,
                                               const witan_weights_t *weights)
{
    const size_t   bytes  = wtn_cuda_gate_weight_bytes(spec);
    wtn_gate_t    *gate   = NULL;
    void          *buffer = NULL;
    uint16_t      *planes = NULL;
    witan_status_t status;

    *out = NULL;
    if (spec->hidden_size < 1 || spec->out_count < 1) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "gate: shape [%" PRId32 ", %" PRId64 "]",
                         spec->out_count, spec->hidden_size);
    }
    gate = (wtn_gate_t *)calloc(1, sizeof(*gate));
    if (gate == NULL || bytes == SIZE_MAX) {
        status = WTN_ERROR(WITAN_E_MEMORY, "gate: %zu bytes of weights", bytes);
        goto fail;
    }
    fill_sizes(gate, spec);
    buffer = wtn_alloc((size_t)gate->stored_cols * sizeof(float));
    planes = (uint16_t *)wtn_alloc((size_t)(3 * gate->stored_cols) * sizeof(*planes));
    if (buffer == NULL || planes == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "gate: a row of %" PRId64 " weights", spec->hidden_size);
        goto fail;
    }
    WTN_CUDA_TRY(cudaMalloc((void **)&gate->planes, bytes));
    WTN_TRY(load(gate, weights, buffer, planes));
    wtn_free(planes);
    wtn_free(buffer);
    *out = gate;
    return WITAN_OK;

fail:
    wtn_free(planes);
    wtn_free(buffer);
    wtn_cuda_gate_destroy(gate);
    return status;
}

extern "C" void wtn_cuda_gate_destroy(wtn_gate_t *gate)
{
    if (gate != NULL) {
        (void)cudaFree(gate->planes);
        free(gate);
    }
}

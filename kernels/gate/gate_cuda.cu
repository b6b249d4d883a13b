/* The gate: which form of the kernel, and its weights. How sums are made: gate_sums_cuda.cuh. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/half.h"
#include "core/util.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/gate/gate_staged_cuda.cuh"

/* Rows and columns of the weights are stored up to multiples of these, the rest zero. */
#define PAD_ROWS 64
#define PAD_COLS STEP
/* Warps of a block that share the segments of a tile, at most. */
#define SPLIT_WARPS 8
/* A block of many tokens: 4 x 2 warps of 32 tokens x 32 columns each. */
#define TILE_THREADS 256
#define TILE_TOKENS  128
#define TILE_COLUMNS 64

struct wtn_gate {
    wtn_gate_spec_t spec;
    int64_t         stored_rows, stored_cols;
    int32_t         plane_count;
    uint16_t *planes; /* device [planes][stored_rows][stored_cols] bf16, their sum the weight */
};

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
    wtn_grid_wait();
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
    wtn_grid_release(); /* not before: see wtn_grid_join */
    store_tile(p, token, column, total);
}

/* Few tokens: the warps of a block share the segments of one tile out; then they are added in
 * order. Shared memory: [segments][16 MT][8 NT]. */
template <witan_dtype_t dtype, int planes, int MT, int NT>
WTN_KERNEL(SPLIT_WARPS * 32, 1)
split_kernel(WTN_PARAMS(gate_params_t, p))
{
    wtn_grid_wait();
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
    wtn_grid_release();
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
        launch.threads      = STAGED_THREADS;
        launch.shared_bytes = form.stage_bytes;
        launch.blocks *= launch.blocks_y;
        launch.blocks_y = 1;
    }
    return wtn_launch_early(&launch, form.kernel, &params);
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

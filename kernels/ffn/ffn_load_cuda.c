#include <string.h>

#include <cuda_runtime_api.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/cuda.h"
#include "kernels/ffn/ffn_cuda.h"

/* Weights are read in slices of about this size. */
#define SLICE_BYTES ((int64_t)8 << 20)

/* Largest H and I: with them no size of an expert overflows. */
#define SIZE_LIMIT ((int64_t)1 << 30)

#define ARRAY_ALIGN 256

typedef struct load {
    const wtn_cuda_ffn_shape_t *shape;
    const wtn_ffn_spec_t       *spec;
    const witan_weights_t      *weights;
    void                       *raw;    /* a slice as it is read */
    char                       *staged; /* pinned: the slice as it is uploaded */
} load_t;

/* Experts follow each other without gaps; the array as a whole is aligned. */
static void *carve(wtn_carver_t *carver, int32_t experts, int64_t count, size_t element)
{
    size_t bytes;

    if (!wtn_mul((size_t)experts, (size_t)count * element, &bytes) ||
        bytes > SIZE_MAX - ARRAY_ALIGN) {
        carver->bytes = SIZE_MAX;
        return NULL;
    }
    return wtn_carve(carver, 1, wtn_align_up(bytes, ARRAY_ALIGN));
}

wtn_cuda_ffn_shape_t wtn_cuda_ffn_shape(const wtn_ffn_spec_t *spec, void *memory)
{
    const int64_t        I      = spec->inter_end - spec->inter_begin;
    wtn_carver_t         carver = {.base = memory};
    wtn_cuda_ffn_shape_t shape  = {.H = spec->hidden_size, .I = I};

    if (spec->hidden_size > SIZE_LIMIT || I > SIZE_LIMIT) {
        shape.weight_bytes = SIZE_MAX;
        return shape;
    }
    shape.element = witan_dtype_bytes(spec->dtype);
    shape.Hp      = wtn_ceil_div(shape.H, WTN_CUDA_ALIGN) * WTN_CUDA_ALIGN;
    shape.Ip      = wtn_max_i64(wtn_ceil_div(I, WTN_CUDA_ALIGN), 1) * WTN_CUDA_ALIGN;
    shape.up      = (wtn_cuda_weights_t){.dtype        = spec->dtype,
                                         .expert_count = spec->expert_count,
                                         .N = spec->activation.gated ? 2 * shape.Ip : shape.Ip,
                                         .K = shape.Hp};
    shape.down    = (wtn_cuda_weights_t){.dtype        = spec->dtype,
                                         .expert_count = spec->expert_count,
                                         .N            = shape.H,
                                         .K            = shape.Ip};
    shape.up.w    = carve(&carver, spec->expert_count, shape.up.N * shape.up.K, shape.element);
    shape.down.w  = carve(&carver, spec->expert_count, shape.down.N * shape.down.K, shape.element);
    if (spec->has_gate_up_bias) {
        shape.up.bias = carve(&carver, spec->expert_count, shape.up.N, sizeof(float));
    }
    if (spec->has_down_bias) {
        shape.down.bias = carve(&carver, spec->expert_count, shape.down.N, sizeof(float));
    }
    shape.weight_bytes = carver.bytes;
    return shape;
}

/* Upload what is staged behind element `at` of an array of the device. */
static witan_status_t upload(const load_t *load, const void *array, int64_t at, int64_t count,
                             size_t element)
{
    char *to = (char *)(uintptr_t)array + (size_t)at * element;

    return wtn_cuda_status((int)cudaMemcpy(to, load->staged, (size_t)count * element,
                                           cudaMemcpyHostToDevice),
                           "experts: upload");
}

/* Rows of a gated up matrix: 8 of gate, 8 of up. `part` is 0 for gate, 1 for up. */
static int64_t interleaved(int64_t row, int64_t part)
{
    return row / WTN_CUDA_INTERLEAVE * 2 * WTN_CUDA_INTERLEAVE + part * WTN_CUDA_INTERLEAVE +
           row % WTN_CUDA_INTERLEAVE;
}

/* Read a slice and lay its rows out in the staged one, of rows of `K` elements. part -1: as they
 * are. */
static witan_status_t stage(const load_t *load, const witan_weight_slice_t *slice, int64_t K,
                            int64_t part)
{
    const size_t   element   = witan_dtype_bytes(slice->dtype);
    const size_t   row_bytes = (size_t)slice->col_count * element;
    witan_status_t status;

    if (slice->row_count <= 0 || slice->col_count == 0) {
        return WITAN_OK;
    }
    WTN_TRY(load->weights->read(load->weights->context, slice, load->raw));
    for (int64_t row = 0; row < slice->row_count; row++) {
        int64_t to = part < 0 ? row : interleaved(row, part);

        memcpy(load->staged + (size_t)(to * K) * element,
               (const char *)load->raw + (size_t)row * row_bytes, row_bytes);
    }

fail:
    return status;
}

/* Rows of a slice of a matrix that has `rows` of `K` elements. */
static int64_t slice_rows(int64_t rows, int64_t K, size_t element)
{
    int64_t fit = wtn_max_i64(SLICE_BYTES / (K * (int64_t)element) / WTN_CUDA_ALIGN, 1);

    return wtn_min_i64(fit, wtn_ceil_div(rows, WTN_CUDA_ALIGN)) * WTN_CUDA_ALIGN;
}

static witan_status_t load_up(const load_t *load, int32_t index, int32_t expert)
{
    const wtn_cuda_ffn_shape_t *s      = load->shape;
    const bool                  gated  = load->spec->activation.gated;
    const int64_t               factor = gated ? 2 : 1;
    const int64_t               rows   = slice_rows(s->Ip, s->Hp, s->element);
    witan_weight_slice_t slice  = {.expert = expert, .col_count = s->H, .dtype = load->spec->dtype};
    witan_status_t       status = WITAN_OK;

    for (int64_t begin = 0; begin < s->Ip; begin += rows) {
        const int64_t stored = wtn_min_i64(rows, s->Ip - begin) * factor;

        memset(load->staged, 0, (size_t)(stored * s->Hp) * s->element);
        slice.row_begin = load->spec->inter_begin + begin;
        slice.row_count = wtn_min_i64(rows, s->I - begin);
        slice.weight    = expert < 0 ? WITAN_WEIGHT_SHARED_UP : WITAN_WEIGHT_UP;
        WTN_TRY(stage(load, &slice, s->Hp, gated ? 1 : -1));
        slice.weight = expert < 0 ? WITAN_WEIGHT_SHARED_GATE : WITAN_WEIGHT_GATE;
        WTN_TRY(gated ? stage(load, &slice, s->Hp, 0) : WITAN_OK);
        WTN_TRY(upload(load, s->up.w, (index * s->up.N + begin * factor) * s->Hp, stored * s->Hp,
                       s->element));
    }

fail:
    return status;
}

static witan_status_t load_down(const load_t *load, int32_t index, int32_t expert)
{
    const wtn_cuda_ffn_shape_t *s      = load->shape;
    const int64_t               rows   = slice_rows(s->H, s->Ip, s->element);
    witan_weight_slice_t        slice  = {.weight =
                                      expert < 0 ? WITAN_WEIGHT_SHARED_DOWN : WITAN_WEIGHT_DOWN,
                                          .expert    = expert,
                                          .col_begin = load->spec->inter_begin,
                                          .col_count = s->I,
                                          .dtype     = load->spec->dtype};
    witan_status_t              status = WITAN_OK;

    for (int64_t begin = 0; begin < s->H; begin += rows) {
        slice.row_begin = begin;
        slice.row_count = wtn_min_i64(rows, s->H - begin);
        memset(load->staged, 0, (size_t)(slice.row_count * s->Ip) * s->element);
        WTN_TRY(stage(load, &slice, s->Ip, -1));
        WTN_TRY(upload(load, s->down.w, (index * s->H + begin) * s->Ip, slice.row_count * s->Ip,
                       s->element));
    }

fail:
    return status;
}

/* Biases are fp32; each is staged as rows of one element. */
static witan_status_t load_bias(const load_t *load, witan_weight_t weight, int32_t expert,
                                int64_t begin, int64_t count, int64_t part)
{
    const witan_weight_slice_t slice  = {weight, expert, 0, 1, begin, count, WITAN_F32};
    const float               *raw    = load->raw;
    float                     *staged = (float *)(void *)load->staged;
    witan_status_t             status = WITAN_OK;

    WTN_TRY(count == 0 ? WITAN_OK : load->weights->read(load->weights->context, &slice, load->raw));
    for (int64_t i = 0; i < count; i++) {
        staged[part < 0 ? i : interleaved(i, part)] = raw[i];
    }

fail:
    return status;
}

static witan_status_t load_biases(const load_t *load, int32_t index, int32_t expert)
{
    const wtn_cuda_ffn_shape_t *s      = load->shape;
    const wtn_ffn_spec_t       *spec   = load->spec;
    const bool                  gated  = spec->activation.gated;
    witan_status_t              status = WITAN_OK;

    if (spec->has_gate_up_bias) {
        memset(load->staged, 0, (size_t)s->up.N * sizeof(float));
        WTN_TRY(
            load_bias(load, WITAN_WEIGHT_UP_BIAS, expert, spec->inter_begin, s->I, gated ? 1 : -1));
        WTN_TRY(gated ? load_bias(load, WITAN_WEIGHT_GATE_BIAS, expert, spec->inter_begin, s->I, 0)
                      : WITAN_OK);
        WTN_TRY(upload(load, s->up.bias, index * s->up.N, s->up.N, sizeof(float)));
    }
    if (spec->has_down_bias) {
        WTN_TRY(load_bias(load, WITAN_WEIGHT_DOWN_BIAS, expert, 0, s->H, -1));
        WTN_TRY(upload(load, s->down.bias, index * s->H, s->H, sizeof(float)));
    }

fail:
    return status;
}

/* Of the largest slice, raw or staged. */
static size_t buffer_bytes(const wtn_cuda_ffn_shape_t *s)
{
    const int64_t up   = slice_rows(s->Ip, s->Hp, s->element) * 2 * s->Hp * (int64_t)s->element;
    const int64_t down = slice_rows(s->H, s->Ip, s->element) * s->Ip * (int64_t)s->element;
    const int64_t bias = wtn_max_i64(s->up.N, s->H) * (int64_t)sizeof(float);

    return (size_t)wtn_max_i64(wtn_max_i64(up, down), bias);
}

witan_status_t wtn_cuda_ffn_load(const wtn_cuda_ffn_shape_t *shape, const wtn_ffn_spec_t *spec,
                                 const witan_weights_t *weights)
{
    const size_t   bytes  = buffer_bytes(shape);
    load_t         load   = {.shape = shape, .spec = spec, .weights = weights};
    void          *pinned = NULL;
    witan_status_t status;

    load.raw = wtn_alloc(bytes);
    if (load.raw == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "experts: %zu bytes to read weights into", bytes);
    }
    WTN_TRY(wtn_cuda_status((int)cudaHostAlloc(&pinned, bytes, cudaHostAllocPortable),
                            "experts: pinned memory"));
    load.staged = pinned;
    for (int32_t e = 0; e < spec->expert_count; e++) {
        const int32_t expert = spec->experts == NULL ? -1 : spec->experts[e];

        WTN_TRY(load_up(&load, e, expert));
        WTN_TRY(load_down(&load, e, expert));
        WTN_TRY(load_biases(&load, e, expert));
    }

fail:
    wtn_free(load.raw);
    if (pinned != NULL) {
        (void)cudaFreeHost(pinned);
    }
    return status;
}

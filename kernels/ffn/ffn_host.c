#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "kernels/ffn/ffn_host.h"
#include "kernels/tier.h"

/* Weights are read in slices of about this size. */
#define SLICE_BYTES ((int64_t)8 << 20)

wtn_ffn_shape_t wtn_ffn_shape(const wtn_ffn_spec_t *spec)
{
    const wtn_gemm_t *gemm  = spec->tier->gemm[spec->dtype];
    wtn_ffn_shape_t   shape = {.gemm     = gemm,
                               .epilogue = spec->tier->epilogue[spec->dtype],
                               .H        = spec->hidden_size,
                               .I        = spec->inter_end - spec->inter_begin};

    shape.up_columns       = gemm->panel_columns / (spec->activation.gated ? 2 : 1);
    shape.up_panels        = wtn_ceil_div(shape.I, shape.up_columns);
    shape.down_panels      = wtn_ceil_div(shape.H, gemm->panel_columns);
    shape.up_panel_bytes   = wtn_gemm_panel_bytes(gemm, shape.H);
    shape.down_panel_bytes = wtn_gemm_panel_bytes(gemm, shape.I);
    shape.x_row_bytes      = wtn_gemm_row_bytes(gemm, shape.H);
    shape.h_row_bytes      = wtn_gemm_row_bytes(gemm, shape.I);
    return shape;
}

/* Lay the arrays of one expert out from `base` on; with NULL, only measure. SIZE_MAX: too large. */
static size_t carve(wtn_ffn_weights_t *weights, const wtn_ffn_spec_t *spec,
                    const wtn_ffn_shape_t *s, void *base)
{
    wtn_carver_t carver  = {.base = base};
    size_t       up      = (size_t)s->up_panels;
    size_t       down    = (size_t)s->down_panels;
    size_t       columns = (size_t)s->gemm->panel_columns * sizeof(float);

    if (s->H > WTN_GEMM_SIZE_MAX || s->I > WTN_GEMM_SIZE_MAX) {
        return SIZE_MAX;
    }
    weights->up        = wtn_carve(&carver, up, s->up_panel_bytes);
    weights->down      = wtn_carve(&carver, down, s->down_panel_bytes);
    weights->up_bias   = spec->has_gate_up_bias ? wtn_carve(&carver, up, columns) : NULL;
    weights->down_bias = spec->has_down_bias ? wtn_carve(&carver, down, columns) : NULL;
    return carver.bytes;
}

size_t wtn_host_ffn_expert_bytes(const wtn_ffn_spec_t *spec)
{
    const wtn_ffn_shape_t shape = wtn_ffn_shape(spec);
    wtn_ffn_weights_t     weights;

    return carve(&weights, spec, &shape, NULL);
}

size_t wtn_host_ffn_weight_bytes(const wtn_ffn_spec_t *spec)
{
    size_t bytes = wtn_host_ffn_expert_bytes(spec);

    return wtn_mul(bytes, (size_t)spec->expert_count, &bytes) ? bytes : SIZE_MAX;
}

/* One matrix of one expert on its way into panels. */
typedef struct load {
    const witan_weights_t *weights;
    const wtn_gemm_t      *gemm;
    witan_weight_slice_t   slice;         /* of the whole matrix held here; dtype set */
    int32_t                panel_columns; /* columns of each panel this matrix fills */
    int32_t                column;        /* the first of them */
    char                  *panels;
    size_t                 panel_bytes;
    void                  *buffer;
} load_t;

static int64_t slice_rows(int64_t K, witan_dtype_t dtype, int32_t panel_columns)
{
    int64_t row_bytes = wtn_max_i64(K, 1) * (int64_t)witan_dtype_bytes(dtype);

    return wtn_max_i64(SLICE_BYTES / row_bytes / panel_columns, 1) * panel_columns;
}

static witan_status_t load_matrix(const load_t *load)
{
    const int64_t        K    = load->slice.col_count;
    const int64_t        N    = load->slice.row_count;
    const int64_t        rows = slice_rows(K, load->slice.dtype, load->panel_columns);
    witan_weight_slice_t part = load->slice;
    witan_status_t       status;

    for (int64_t begin = 0; begin < N && K > 0; begin += rows) {
        part.row_begin = load->slice.row_begin + begin;
        part.row_count = wtn_min_i64(rows, N - begin);
        WTN_TRY(load->weights->read(load->weights->context, &part, load->buffer));
        for (int64_t n = 0; n < part.row_count; n += load->panel_columns) {
            const char *from =
                (const char *)load->buffer + (size_t)(n * K) * witan_dtype_bytes(load->slice.dtype);

            wtn_gemm_pack_columns(load->gemm, from,
                                  wtn_min_i64(load->panel_columns, part.row_count - n), K,
                                  load->column,
                                  load->panels + (size_t)((begin + n) / load->panel_columns) *
                                                     load->panel_bytes);
        }
    }
    return WITAN_OK;

fail:
    return status;
}

/* The bias [1, N] beside a matrix [N, K], into the columns of panels that the matrix fills. */
static witan_status_t load_bias(const load_t *load, witan_weight_t weight, float *bias)
{
    const int64_t        N      = load->slice.row_count;
    const float         *values = load->buffer;
    witan_weight_slice_t slice  = {weight, load->slice.expert, 0, 1, load->slice.row_begin,
                                   N,      WITAN_F32};
    witan_status_t       status;

    WTN_TRY(N == 0 ? WITAN_OK : load->weights->read(load->weights->context, &slice, load->buffer));
    for (int64_t n = 0; n < N; n++) {
        bias[n / load->panel_columns * load->gemm->panel_columns + load->column +
             n % load->panel_columns] = values[n];
    }
    return WITAN_OK;

fail:
    return status;
}

/* How the matrices of expert `index`, called `expert` (-1: shared) by the reader, become panels. */
static load_t load_up(const wtn_ffn_t *ffn, const witan_weights_t *weights, int32_t index,
                      int32_t expert, void *buffer)
{
    const wtn_ffn_spec_t  *spec = &ffn->spec;
    const wtn_ffn_shape_t *s    = &ffn->shape;

    return (load_t){
        .weights = weights,
        .gemm    = s->gemm,
        .slice = {expert < 0 ? WITAN_WEIGHT_SHARED_UP : WITAN_WEIGHT_UP, expert, spec->inter_begin,
                  s->I, 0, s->H, spec->dtype},
        .panel_columns = s->up_columns,
        .column        = spec->activation.gated ? s->up_columns : 0,
        .panels        = ffn->weights[index].up,
        .panel_bytes   = s->up_panel_bytes,
        .buffer        = buffer,
    };
}

static load_t load_gate(load_t up)
{
    up.slice.weight =
        up.slice.weight == WITAN_WEIGHT_UP ? WITAN_WEIGHT_GATE : WITAN_WEIGHT_SHARED_GATE;
    up.column = 0;
    return up;
}

static load_t load_down(const wtn_ffn_t *ffn, const witan_weights_t *weights, int32_t index,
                        int32_t expert, void *buffer)
{
    const wtn_ffn_spec_t  *spec = &ffn->spec;
    const wtn_ffn_shape_t *s    = &ffn->shape;

    return (load_t){
        .weights = weights,
        .gemm    = s->gemm,
        .slice   = {expert < 0 ? WITAN_WEIGHT_SHARED_DOWN : WITAN_WEIGHT_DOWN, expert, 0, s->H,
                  spec->inter_begin, s->I, spec->dtype},
        .panel_columns = s->gemm->panel_columns,
        .panels        = ffn->weights[index].down,
        .panel_bytes   = s->down_panel_bytes,
        .buffer        = buffer,
    };
}

static witan_status_t load_expert(wtn_ffn_t *ffn, const witan_weights_t *weights, int32_t index,
                                  int32_t expert, void *buffer)
{
    const wtn_ffn_spec_t  *spec  = &ffn->spec;
    const wtn_ffn_shape_t *s     = &ffn->shape;
    const bool             gated = spec->activation.gated;
    const load_t           up    = load_up(ffn, weights, index, expert, buffer);
    const load_t           gate  = load_gate(up);
    const load_t           down  = load_down(ffn, weights, index, expert, buffer);
    witan_status_t         status;

    memset(up.panels, 0, (size_t)s->up_panels * s->up_panel_bytes); /* padding is zero */
    memset(down.panels, 0, (size_t)s->down_panels * s->down_panel_bytes);
    WTN_TRY(load_matrix(&up));
    WTN_TRY(gated ? load_matrix(&gate) : WITAN_OK);
    WTN_TRY(load_matrix(&down));
    if (spec->has_gate_up_bias) {
        float *bias = ffn->weights[index].up_bias;

        memset(bias, 0, (size_t)(s->up_panels * s->gemm->panel_columns) * sizeof(float));
        WTN_TRY(load_bias(&up, WITAN_WEIGHT_UP_BIAS, bias));
        WTN_TRY(gated ? load_bias(&gate, WITAN_WEIGHT_GATE_BIAS, bias) : WITAN_OK);
    }
    if (spec->has_down_bias) {
        float *bias = ffn->weights[index].down_bias;

        memset(bias, 0, (size_t)(s->down_panels * s->gemm->panel_columns) * sizeof(float));
        WTN_TRY(load_bias(&down, WITAN_WEIGHT_DOWN_BIAS, bias));
    }
    return WITAN_OK;

fail:
    return status;
}

static size_t buffer_bytes(const wtn_ffn_spec_t *spec, const wtn_ffn_shape_t *s)
{
    int64_t up   = slice_rows(s->H, spec->dtype, s->up_columns) * s->H;
    int64_t down = slice_rows(s->I, spec->dtype, s->gemm->panel_columns) * s->I;
    int64_t bias = wtn_max_i64(s->H, s->I);

    return (size_t)wtn_max_i64(wtn_max_i64(up, down), bias) * sizeof(float);
}

witan_status_t wtn_host_ffn_create(wtn_ffn_t **out, const wtn_ffn_spec_t *spec,
                                   const witan_weights_t *weights)
{
    wtn_ffn_t     *ffn    = NULL;
    void          *buffer = NULL;
    size_t         bytes;
    witan_status_t status;

    *out = NULL;
    WTN_TRY(wtn_ffn_spec_check(spec));
    bytes = wtn_host_ffn_weight_bytes(spec);
    ffn   = calloc(1, sizeof(*ffn));
    if (ffn == NULL || bytes == SIZE_MAX) {
        status = WTN_ERROR(WITAN_E_MEMORY, "experts: %zu bytes of weights", bytes);
        goto fail;
    }
    ffn->spec         = *spec;
    ffn->spec.experts = NULL;
    ffn->shape        = wtn_ffn_shape(spec);
    ffn->expert_bytes = wtn_host_ffn_expert_bytes(spec);
    ffn->memory       = wtn_alloc(bytes);
    ffn->weights      = calloc((size_t)spec->expert_count + 1, sizeof(*ffn->weights));
    buffer            = wtn_alloc(buffer_bytes(spec, &ffn->shape));
    if (ffn->memory == NULL || ffn->weights == NULL || buffer == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "experts: %zu bytes of weights", bytes);
        goto fail;
    }
    for (; ffn->weight_count < spec->expert_count; ffn->weight_count++) {
        (void)carve(&ffn->weights[ffn->weight_count], spec, &ffn->shape,
                    ffn->memory + (size_t)ffn->weight_count * ffn->expert_bytes);
    }
    for (int32_t e = 0; e < spec->expert_count; e++) {
        WTN_TRY(
            load_expert(ffn, weights, e, spec->experts == NULL ? -1 : spec->experts[e], buffer));
    }
    wtn_free(buffer);
    *out = ffn;
    return WITAN_OK;

fail:
    wtn_free(buffer);
    wtn_host_ffn_destroy(ffn);
    return status;
}

void wtn_host_ffn_destroy(wtn_ffn_t *ffn)
{
    if (ffn == NULL) {
        return;
    }
    for (int32_t i = 0; i < ffn->weight_count; i++) {
        if (ffn->weights[i].own) {
            wtn_free(ffn->weights[i].up);
        }
    }
    wtn_free(ffn->memory);
    free(ffn->weights);
    free(ffn);
}

/* ---- weights that move ---- */

witan_status_t wtn_host_ffn_reserve(wtn_ffn_t *ffn, int32_t spare_count)
{
    const int32_t      wanted  = ffn->spec.expert_count + spare_count;
    wtn_ffn_weights_t *weights = ffn->weights;

    if (wanted > ffn->weight_count) {
        weights = realloc(ffn->weights, (size_t)wanted * sizeof(*weights));
        if (weights == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "experts: %d spare ones", (int)spare_count);
        }
        ffn->weights = weights;
    }
    for (; ffn->weight_count < wanted; ffn->weight_count++) {
        void *memory = wtn_alloc(ffn->expert_bytes);

        if (memory == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "experts: %zu bytes for a spare one",
                             ffn->expert_bytes);
        }
        (void)carve(&weights[ffn->weight_count], &ffn->spec, &ffn->shape, memory);
        weights[ffn->weight_count].own = true;
    }
    return WITAN_OK;
}

void wtn_host_ffn_release(wtn_ffn_t *ffn)
{
    int32_t kept = ffn->spec.expert_count;

    for (int32_t i = kept; i < ffn->weight_count; i++) {
        if (ffn->weights[i].own) {
            wtn_free(ffn->weights[i].up);
        } else {
            wtn_discard(ffn->weights[i].up, ffn->expert_bytes);
            ffn->weights[kept++] = ffn->weights[i];
        }
    }
    ffn->weight_count = kept;
}

void *wtn_host_ffn_weights(wtn_ffn_t *ffn, int32_t index)
{
    return ffn->weights[index].up;
}

void wtn_host_ffn_exchange(wtn_ffn_t *ffn, int32_t a, int32_t b)
{
    const wtn_ffn_weights_t weights = ffn->weights[a];

    ffn->weights[a] = ffn->weights[b];
    ffn->weights[b] = weights;
}

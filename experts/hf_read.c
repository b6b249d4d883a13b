/* Reading rectangles of weights out of model files: only the bytes needed, in bounded memory. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/dequant.h"
#include "experts/hf_source.h"

/* Scratch: stored bytes, the scales beside them, and one row dequantised to bf16. */
#define STORED_BYTES  ((size_t)4 << 20)
#define SCALES_BYTES  ((size_t)1 << 20)
#define ROW_COUNT     ((int64_t)1 << 18)
#define SCRATCH_BYTES (STORED_BYTES + SCALES_BYTES + (size_t)ROW_COUNT * sizeof(uint16_t))

/* Gaps in what is wanted are read along where that is no more bytes than a page or the pieces
 * themselves: a call per piece would cost more. */
#define PAGE_BYTES ((size_t)4096)

/* Element (row, col) of a matrix is element begin + row * row_step + col * col_step of its tensor.
 */
typedef struct view {
    int64_t begin, row_step, col_step;
} view_t;

static view_t make_view(const wtn_hf_t *hf, witan_weight_t weight, int32_t expert)
{
    const wtn_layout_kind_t kind  = hf->layout->kind;
    const int64_t           is_up = weight == WITAN_WEIGHT_UP || weight == WITAN_WEIGHT_UP_BIAS;
    const int64_t           e     = expert;
    int64_t                 rows, cols;

    wtn_weight_shape(weight, &hf->config.layer, &rows, &cols);
    if (!wtn_weight_is_per_expert(weight) || kind == WTN_LAYOUT_PER_EXPERT) {
        return (view_t){0, cols, 1};
    }
    switch (weight) {
    case WITAN_WEIGHT_GATE_BIAS: /* [E, 2I], gate and up in turn */
    case WITAN_WEIGHT_UP_BIAS:
        return (view_t){e * 2 * cols + is_up, 2 * cols, 2};
    case WITAN_WEIGHT_DOWN:
        if (kind == WTN_LAYOUT_TRANSPOSED) {
            return (view_t){e * rows * cols, 1, rows};
        }
        return (view_t){e * rows * cols, cols, 1};
    case WITAN_WEIGHT_DOWN_BIAS:
        return (view_t){e * cols, cols, 1};
    default:
        break;
    }
    if (kind == WTN_LAYOUT_FUSED) {
        return (view_t){(2 * e + is_up) * rows * cols, cols, 1};
    }
    if (kind == WTN_LAYOUT_TRANSPOSED) {
        return (view_t){e * 2 * rows * cols + is_up, 2, 2 * rows};
    }
    return (view_t){(2 * e * rows + is_up) * cols, 2 * cols, 1};
}

/* ---- pieces: what is wanted of a tensor, in bytes ---- */

typedef struct pieces {
    int64_t begin; /* of the first, from the start of the tensor */
    size_t  bytes; /* of each */
    int64_t step;  /* from one to the next; >= bytes unless there is only one */
} pieces_t;

static bool reads_gaps(const pieces_t *pieces)
{
    const size_t step = (size_t)pieces->step;

    return step <= PAGE_BYTES || step <= 2 * pieces->bytes;
}

/* How many pieces fit into `capacity`; at least 1, for which callers cut pieces small enough. */
static int64_t pieces_that_fit(const pieces_t *pieces, size_t capacity)
{
    const size_t each = reads_gaps(pieces) ? (size_t)pieces->step : pieces->bytes;

    return each >= capacity ? 1 : (int64_t)(capacity / each);
}

/* Read `count` pieces; piece i is then at out + i * *pitch. */
static witan_status_t read_pieces(wtn_hf_t *hf, const wtn_place_t *place, const pieces_t *pieces,
                                  int64_t count, void *out, size_t *pitch)
{
    size_t         bytes = pieces->bytes;
    witan_status_t status;

    if (count > 1 && reads_gaps(pieces)) {
        *pitch = (size_t)pieces->step;
        bytes += (size_t)(count - 1) * *pitch;
        count = 1;
    } else {
        *pitch = bytes;
    }
    for (int64_t i = 0; i < count; i++) {
        status =
            wtn_st_read(place->file, place->tensor, (uint64_t)(pieces->begin + i * pieces->step),
                        bytes, (char *)out + (size_t)i * bytes);
        if (status != WITAN_OK) {
            return status;
        }
        hf->bytes_read += (int64_t)bytes;
    }
    return WITAN_OK;
}

/* ---- plain tensors ---- */

/* The rectangle as lines of the file: an inner dimension whose elements lie at most two apart and
 * an outer one. Each has its step in the file and in the result, in elements. */
typedef struct axis {
    int64_t count, file_step, out_step;
} axis_t;

typedef struct plain {
    const wtn_place_t *place;
    witan_dtype_t      from, to;
    int64_t            begin; /* element of the tensor */
    axis_t             inner, outer;
} plain_t;

static plain_t make_plain(const wtn_source_t *source, const view_t *view,
                          const witan_weight_slice_t *slice)
{
    const axis_t rows  = {slice->row_count, view->row_step, slice->col_count};
    const axis_t cols  = {slice->col_count, view->col_step, 1};
    plain_t      plain = {.place = &source->values, .from = WITAN_F32, .to = slice->dtype};

    (void)wtn_hf_plain_dtype(source->values.tensor->dtype, &plain.from);
    plain.begin =
        view->begin + slice->row_begin * view->row_step + slice->col_begin * view->col_step;
    plain.inner = cols.file_step <= rows.file_step ? cols : rows;
    plain.outer = cols.file_step <= rows.file_step ? rows : cols;
    return plain;
}

/* No conversion, no gaps, nothing turned: straight into the caller's memory. */
static witan_status_t read_direct(wtn_hf_t *hf, const plain_t *plain, void *out)
{
    const size_t   size   = witan_dtype_bytes(plain->to);
    const bool     is_one = plain->inner.count == plain->outer.file_step;
    const pieces_t pieces = {
        .begin = plain->begin * (int64_t)size,
        .bytes =
            (size_t)(is_one ? plain->inner.count * plain->outer.count : plain->inner.count) * size,
        .step = plain->outer.file_step * (int64_t)size,
    };
    size_t pitch;

    return read_pieces(hf, plain->place, &pieces, is_one ? 1 : plain->outer.count, out, &pitch);
}

static bool is_direct(const plain_t *plain)
{
    const int64_t size = (int64_t)witan_dtype_bytes(plain->to);

    return plain->from == plain->to && plain->inner.file_step == 1 && plain->inner.out_step == 1 &&
           (plain->inner.count == plain->outer.file_step || plain->outer.count == 1 ||
            !reads_gaps(&(pieces_t){.bytes = (size_t)(plain->inner.count * size),
                                    .step  = plain->outer.file_step * size}));
}

/* `lines` lines lie in scratch, `pitch` bytes apart. Where the matrix is turned, the inner axis
 * goes down the result's rows: 32 of them at a time, so that each is written in runs. */
static void convert_lines(const plain_t *plain, const char *scratch, size_t pitch, int64_t lines,
                          int64_t inner_count, char *out)
{
    const int64_t in_size  = (int64_t)witan_dtype_bytes(plain->from);
    const int64_t out_size = (int64_t)witan_dtype_bytes(plain->to);
    const int64_t tile     = plain->inner.out_step == 1 ? inner_count : 32;

    for (int64_t i = 0; i < inner_count; i += tile) {
        for (int64_t line = 0; line < lines; line++) {
            wtn_convert(scratch + (int64_t)pitch * line + i * plain->inner.file_step * in_size,
                        plain->inner.file_step, plain->from,
                        out + (line * plain->outer.out_step + i * plain->inner.out_step) * out_size,
                        plain->inner.out_step, plain->to, wtn_min_i64(tile, inner_count - i));
        }
    }
}

static witan_status_t read_plain(wtn_hf_t *hf, const plain_t *plain, char *out)
{
    const int64_t  in_size   = (int64_t)witan_dtype_bytes(plain->from);
    const int64_t  out_size  = (int64_t)witan_dtype_bytes(plain->to);
    const int64_t  inner_max = (int64_t)STORED_BYTES / (in_size * plain->inner.file_step);
    witan_status_t status;
    size_t         pitch;

    if (is_direct(plain)) {
        return read_direct(hf, plain, out);
    }
    for (int64_t i = 0; i < plain->inner.count; i += inner_max) {
        const int64_t count  = wtn_min_i64(inner_max, plain->inner.count - i);
        pieces_t      pieces = {
                 .bytes = (size_t)(((count - 1) * plain->inner.file_step + 1) * in_size),
                 .step  = plain->outer.file_step * in_size,
        };
        const int64_t lines_max = pieces_that_fit(&pieces, STORED_BYTES);

        for (int64_t j = 0; j < plain->outer.count; j += lines_max) {
            const int64_t lines = wtn_min_i64(lines_max, plain->outer.count - j);

            pieces.begin =
                (plain->begin + i * plain->inner.file_step + j * plain->outer.file_step) * in_size;
            status = read_pieces(hf, plain->place, &pieces, lines, hf->scratch, &pitch);
            if (status != WITAN_OK) {
                return status;
            }
            convert_lines(plain, hf->scratch, pitch, lines, count,
                          out + (i * plain->inner.out_step + j * plain->outer.out_step) * out_size);
        }
    }
    return WITAN_OK;
}

/* ---- FP8 with scales per block ---- */

/* The scales of the rows of a slice, whole rows of them, as fp32 in new memory. */
static witan_status_t read_fp8_scales(wtn_hf_t *hf, const wtn_source_t *source,
                                      const witan_weight_slice_t *slice, float **out)
{
    const int64_t block = hf->config.fp8_block[0], cols = source->scales.tensor->shape[1];
    const int64_t first = slice->row_begin / block;
    const int64_t count = (slice->row_begin + slice->row_count - 1) / block - first + 1;
    const size_t  bytes = (size_t)(count * cols) * wtn_st_dtype_bytes(source->scales.tensor->dtype);
    const pieces_t pieces = {
        .begin = first * cols * (int64_t)wtn_st_dtype_bytes(source->scales.tensor->dtype),
        .bytes = bytes,
    };
    witan_dtype_t  dtype  = WITAN_F32;
    char          *stored = malloc(bytes);
    size_t         pitch;
    witan_status_t status = WITAN_OK;

    (void)wtn_hf_plain_dtype(source->scales.tensor->dtype, &dtype);
    *out = malloc((size_t)(count * cols) * sizeof(**out));
    if (stored == NULL || *out == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "%s: tensor '%.100s': %zu bytes",
                           wtn_st_path(source->scales.file), source->scales.tensor->name, bytes);
        goto fail;
    }
    WTN_TRY(read_pieces(hf, &source->scales, &pieces, 1, stored, &pitch));
    wtn_convert(stored, 1, dtype, *out, 1, WITAN_F32, count * cols);

fail:
    free(stored);
    if (status != WITAN_OK) {
        free(*out);
        *out = NULL;
    }
    return status;
}

static uint16_t *row_scratch(const wtn_hf_t *hf)
{
    return (uint16_t *)((char *)hf->scratch + STORED_BYTES + SCALES_BYTES);
}

static witan_status_t read_fp8(wtn_hf_t *hf, const wtn_source_t *source, const view_t *view,
                               const witan_weight_slice_t *slice, char *out)
{
    const int64_t *block      = hf->config.fp8_block;
    const int64_t  scale_cols = source->scales.tensor->shape[1];
    const int64_t  out_size   = (int64_t)witan_dtype_bytes(slice->dtype);
    float         *scales     = NULL;
    size_t         pitch;
    witan_status_t status;

    WTN_TRY(read_fp8_scales(hf, source, slice, &scales));
    for (int64_t c = 0; c < slice->col_count; c += ROW_COUNT) {
        const int64_t count     = wtn_min_i64(ROW_COUNT, slice->col_count - c);
        const int64_t column    = slice->col_begin + c;
        pieces_t      pieces    = {.bytes = (size_t)count, .step = view->row_step};
        const int64_t lines_max = pieces_that_fit(&pieces, STORED_BYTES);

        for (int64_t r = 0; r < slice->row_count; r += lines_max) {
            const int64_t lines = wtn_min_i64(lines_max, slice->row_count - r);
            const int64_t row   = slice->row_begin + r;

            pieces.begin = row * view->row_step + column;
            WTN_TRY(read_pieces(hf, &source->values, &pieces, lines, hf->scratch, &pitch));
            for (int64_t i = 0; i < lines; i++) {
                const int64_t scale_row = (row + i) / block[0] - slice->row_begin / block[0];

                wtn_dequant_e4m3((const uint8_t *)hf->scratch + (size_t)i * pitch,
                                 scales + scale_row * scale_cols, block[1], column, count,
                                 row_scratch(hf));
                wtn_convert(row_scratch(hf), 1, WITAN_BF16,
                            out + ((r + i) * slice->col_count + c) * out_size, 1, slice->dtype,
                            count);
            }
        }
    }

fail:
    free(scales);
    return status;
}

/* ---- MXFP4 ---- */

static witan_status_t read_mxfp4(wtn_hf_t *hf, const wtn_source_t *source, const view_t *view,
                                 const witan_weight_slice_t *slice, char *out)
{
    const int64_t  out_size = (int64_t)witan_dtype_bytes(slice->dtype);
    uint8_t *const stored = hf->scratch, *const scales = stored + STORED_BYTES;
    size_t         pitch, scale_pitch;
    witan_status_t status = WITAN_OK;

    for (int64_t c = 0; c < slice->col_count; c += ROW_COUNT) {
        const int64_t count = wtn_min_i64(ROW_COUNT, slice->col_count - c);
        const int64_t begin = slice->col_begin + c, end = begin + count;
        pieces_t      pieces    = {.bytes = (size_t)((end + 1) / 2 - begin / 2),
                                   .step  = view->row_step / 2};
        pieces_t      scale     = {.bytes = (size_t)((end + 31) / 32 - begin / 32),
                                   .step  = view->row_step / 32};
        const int64_t lines_max = wtn_min_i64(pieces_that_fit(&pieces, STORED_BYTES),
                                              pieces_that_fit(&scale, SCALES_BYTES));

        for (int64_t r = 0; r < slice->row_count; r += lines_max) {
            const int64_t lines = wtn_min_i64(lines_max, slice->row_count - r);
            const int64_t row   = view->begin + (slice->row_begin + r) * view->row_step;

            pieces.begin = row / 2 + begin / 2;
            scale.begin  = row / 32 + begin / 32;
            WTN_TRY(read_pieces(hf, &source->values, &pieces, lines, stored, &pitch));
            WTN_TRY(read_pieces(hf, &source->scales, &scale, lines, scales, &scale_pitch));
            for (int64_t i = 0; i < lines; i++) {
                wtn_dequant_mxfp4(stored + (size_t)i * pitch, scales + (size_t)i * scale_pitch,
                                  begin, count, row_scratch(hf));
                wtn_convert(row_scratch(hf), 1, WITAN_BF16,
                            out + ((r + i) * slice->col_count + c) * out_size, 1, slice->dtype,
                            count);
            }
        }
    }

fail:
    return status;
}

/* ---- the slice ---- */

static bool is_inside(int64_t begin, int64_t count, int64_t size)
{
    return begin >= 0 && count >= 0 && begin <= size && count <= size - begin;
}

static witan_status_t check_slice(const wtn_hf_t *hf, const witan_weight_slice_t *slice)
{
    const witan_layer_config_t *layer = &hf->config.layer;
    int64_t                     rows, cols;
    bool                        is_expert;

    if ((unsigned)slice->weight >= WITAN_WEIGHT_COUNT || hf->sources[slice->weight] == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "weight %d: this block has none such",
                         (int)slice->weight);
    }
    wtn_weight_shape(slice->weight, layer, &rows, &cols);
    is_expert = wtn_weight_is_per_expert(slice->weight);
    if (is_expert ? slice->expert < 0 || slice->expert >= layer->expert_count
                  : slice->expert != -1) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "weight %d: expert %" PRId32 " of %" PRId32,
                         (int)slice->weight, slice->expert, layer->expert_count);
    }
    if (!is_inside(slice->row_begin, slice->row_count, rows) ||
        !is_inside(slice->col_begin, slice->col_count, cols) ||
        witan_dtype_bytes(slice->dtype) == 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "weight %d: rows %" PRId64 "+%" PRId64 " and columns %" PRId64 "+%" PRId64
                         " of [%" PRId64 ", %" PRId64 "], dtype %d",
                         (int)slice->weight, slice->row_begin, slice->row_count, slice->col_begin,
                         slice->col_count, rows, cols, (int)slice->dtype);
    }
    return WITAN_OK;
}

witan_status_t wtn_hf_read(void *context, const witan_weight_slice_t *slice, void *out)
{
    wtn_hf_t           *hf     = context;
    witan_status_t      status = check_slice(hf, slice);
    const wtn_source_t *source;
    view_t              view;
    plain_t             plain;

    if (status != WITAN_OK || slice->row_count == 0 || slice->col_count == 0) {
        return status;
    }
    if (hf->scratch == NULL) {
        hf->scratch = wtn_alloc(SCRATCH_BYTES);
        if (hf->scratch == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu bytes to read weights",
                             wtn_files_path(hf->files), SCRATCH_BYTES);
        }
    }
    source =
        &hf->sources[slice->weight][wtn_hf_is_per_tensor(hf, slice->weight) ? slice->expert : 0];
    view = make_view(hf, slice->weight, slice->expert);
    if (source->scales.tensor == NULL) {
        plain = make_plain(source, &view, slice);
        return read_plain(hf, &plain, out);
    }
    if (hf->layout->kind == WTN_LAYOUT_MXFP4) {
        return read_mxfp4(hf, source, &view, slice, out);
    }
    return read_fp8(hf, source, &view, slice, out);
}

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "core/half.h"
#include "core/util.h"
#include "formats/rule.h"

blob_t rule_load(const wtn_st_file_t *file, int32_t layer, const char *name)
{
    char   full[200];
    blob_t blob;

    (void)snprintf(full, sizeof(full), "model.layers.%d.%s", layer, name);
    blob.tensor = wtn_st_find(file, full);
    ck_assert_msg(blob.tensor != NULL, "%s", full);
    blob.bytes = malloc(blob.tensor->end - blob.tensor->begin + 1);
    ck_assert_int_eq(wtn_st_read(file, blob.tensor, 0, blob.tensor->end - blob.tensor->begin,
                                 blob.bytes),
                     WITAN_OK);
    return blob;
}

float rule_element(const blob_t *blob, int64_t index)
{
    uint16_t half;
    float    value;

    if (blob->tensor->dtype == WTN_ST_F32) {
        memcpy(&value, blob->bytes + 4 * index, 4);
        return value;
    }
    memcpy(&half, blob->bytes + 2 * index, 2);
    return blob->tensor->dtype == WTN_ST_F16 ? wtn_f16_to_float(half) : wtn_bf16_to_float(half);
}

static float bf16_round(double value)
{
    return wtn_bf16_to_float(wtn_float_to_bf16((float)value));
}

float rule_fp8_element(const blob_t *blob, const blob_t *scales, int64_t row, int64_t col)
{
    const int64_t cols = blob->tensor->shape[1], scale_cols = (cols + 127) / 128;
    const int     code = blob->bytes[row * cols + col], e = code >> 3 & 15, m = code & 7;
    double        value = e == 0 ? ldexp(m, -9) : ldexp(8 + m, e - 10);

    return bf16_round((code > 127 ? -value : value) *
                      (double)rule_element(scales, row / 128 * scale_cols + col / 128));
}

static float fp4_element(const blob_t *blob, const blob_t *scales, int64_t index)
{
    static const double values[8] = {0, .5, 1, 1.5, 2, 3, 4, 6};
    const int           pair      = blob->bytes[index / 2];
    const int           code      = index % 2 == 0 ? pair & 15 : pair >> 4;

    return bf16_round(
        ldexp(code > 7 ? -values[code - 8] : values[code], scales->bytes[index / 32] - 127));
}

void rule_expert(const fixture_t *fixture, const wtn_st_file_t *file, int32_t expert,
                 int projection, int64_t rows, int64_t cols, float *out)
{
    char   name[160], scale_name[200];
    blob_t values, scales = {0};

    if (fixture->form == EXPERTS) {
        (void)snprintf(name, sizeof(name), "%s.experts.%d.%s.weight", fixture->block, expert,
                       fixture->projection[projection]);
        (void)snprintf(scale_name, sizeof(scale_name), "%s_scale_inv", name);
    } else {
        const char *stem = projection == 2 ? "mlp.experts.down_proj" : "mlp.experts.gate_up_proj";

        (void)snprintf(name, sizeof(name), "%s%s", stem, fixture->form == MXFP4 ? "_blocks" : "");
        (void)snprintf(scale_name, sizeof(scale_name), "%s_scales", stem);
    }
    values = rule_load(file, fixture->layer, name);
    if (values.tensor->dtype == WTN_ST_F8_E4M3 || values.tensor->dtype == WTN_ST_U8) {
        scales = rule_load(file, fixture->layer, scale_name);
    }
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++) {
            const int64_t e  = expert;
            float        *at = &out[r * cols + c];

            switch (fixture->form) {
            case EXPERTS:
                *at = scales.bytes != NULL ? rule_fp8_element(&values, &scales, r, c)
                                           : rule_element(&values, r * cols + c);
                break;
            case FUSED: /* [E, 2I, H]: rows of the gate, then rows of up */
                *at =
                    rule_element(&values, projection == 2
                                              ? (e * rows + r) * cols + c
                                              : (e * 2 * rows + projection * rows + r) * cols + c);
                break;
            case TRANSPOSED: /* [E, H, 2I] in turn; [E, I, H] */
                *at = rule_element(&values, projection == 2
                                                ? (e * cols + c) * rows + r
                                                : (e * cols + c) * 2 * rows + 2 * r + projection);
                break;
            case MXFP4: /* [E, 2I, H] in turn; [E, H, I] */
                *at = fp4_element(&values, &scales,
                                  projection == 2 ? (e * rows + r) * cols + c
                                                  : (e * 2 * rows + 2 * r + projection) * cols + c);
                break;
            }
        }
    }
    free(values.bytes);
    free(scales.bytes);
}

void rule_read(wtn_hf_t *hf, witan_weight_t weight, int32_t expert, const int64_t at[4],
               witan_dtype_t dtype, void *out)
{
    const witan_weight_slice_t slice   = {.weight    = weight,
                                          .expert    = expert,
                                          .row_begin = at[0],
                                          .row_count = at[1],
                                          .col_begin = at[2],
                                          .col_count = at[3],
                                          .dtype     = dtype};
    const witan_weights_t      weights = wtn_hf_weights(hf);
    witan_status_t             status  = weights.read(weights.context, &slice, out);

    ck_assert_msg(status == WITAN_OK, "%s", witan_last_error());
}

void rule_compare(wtn_hf_t *hf, witan_weight_t weight, int32_t expert, int64_t rows, int64_t cols,
                  const float *expected)
{
    const int64_t slices[][4] = {
        {0, rows, 0, cols},
        {rows / 2, rows - rows / 2, 0, cols},
        {0, rows, cols / 3, 2 * cols / 3 - cols / 3},
        {rows / 3, rows / 2 - rows / 3, cols - 1, 1},
        {rows - 1, 1, 1 % cols, cols - 1 % cols},
        {0, 0, 0, cols},
        {0, rows, 0, 0},
    };
    const witan_dtype_t dtypes[] = {WITAN_F32, wtn_hf_config(hf)->dtype};
    char               *out      = malloc((size_t)(rows * cols) * 4 + 8);

    for (size_t s = 0; s < WTN_COUNT_OF(slices); s++) {
        for (size_t d = 0; d < WTN_COUNT_OF(dtypes); d++) {
            const size_t bytes =
                (size_t)(slices[s][1] * slices[s][3]) * witan_dtype_bytes(dtypes[d]);

            memset(out + bytes, 0xab, 8);
            rule_read(hf, weight, expert, slices[s], dtypes[d], out);
            for (int64_t r = 0; r < slices[s][1]; r++) {
                for (int64_t c = 0; c < slices[s][3]; c++) {
                    float want = expected[(slices[s][0] + r) * cols + slices[s][2] + c];
                    float got  = wtn_load_float(out, dtypes[d], (size_t)(r * slices[s][3] + c));

                    if (wtn_float_bits(want) !=
                        wtn_float_bits(got)) { /* Check writes a pipe per assert */
                        ck_abort_msg("weight %d expert %d slice %zu [%d, %d]: %g, found %g",
                                     (int)weight, (int)expert, s, (int)r, (int)c, (double)want,
                                     (double)got);
                    }
                }
            }
            for (int i = 0; i < 8; i++) {
                ck_assert_uint_eq((unsigned char)out[bytes + (size_t)i], 0xab);
            }
        }
    }
    free(out);
}

/* The plain rule by which each layout stores its weights, one element at a time, written apart from
 * the library; and comparing what the library reads with it. */
#ifndef TESTS_FORMATS_RULE_H
#define TESTS_FORMATS_RULE_H

#include <stdint.h>

#include <witan/layer.h>

#include "experts/hf.h"
#include "experts/safetensors.h"

typedef enum form { EXPERTS, FUSED, TRANSPOSED, MXFP4 } form_t;

/* What the files say, known here apart from the library's own table. */
typedef struct fixture {
    const char   *name, *model_type;
    int32_t       layer;
    witan_dtype_t dtype;
    form_t        form;
    const char   *block;         /* of the tensors' names */
    const char   *projection[3]; /* gate, up, down where they stand apart */
    const char   *shared;
    const char   *router;
} fixture_t;

/* A whole tensor of the layer in new memory; `bytes` is to be freed. */
typedef struct blob {
    const wtn_st_tensor_t *tensor;
    unsigned char         *bytes;
} blob_t;

blob_t rule_load(const wtn_st_file_t *file, int32_t layer, const char *name);

/* The element at a flat index of a plain tensor. */
float rule_element(const blob_t *blob, int64_t index);

/* The element of an FP8 matrix with a scale per 128 x 128 block, rounded to bf16. */
float rule_fp8_element(const blob_t *blob, const blob_t *scales, int64_t row, int64_t col);

/* One routed expert's projection (0 gate, 1 up, 2 down) as fp32 [rows, cols]. */
void rule_expert(const fixture_t *fixture, const wtn_st_file_t *file, int32_t expert,
                 int projection, int64_t rows, int64_t cols, float *out);

/* Read rows at[0]..+at[1], columns at[2]..+at[3]; fails the test if the library does. */
void rule_read(wtn_hf_t *hf, witan_weight_t weight, int32_t expert, const int64_t at[4],
               witan_dtype_t dtype, void *out);

/* Demand equal bits of a weight, whole and in slices as ranks of 1, 2 and 3 want them, in the
 * layer's dtype and in fp32. */
void rule_compare(wtn_hf_t *hf, witan_weight_t weight, int32_t expert, int64_t rows, int64_t cols,
                  const float *expected);

#endif

/* Stored formats to the formats the kernels take: FP8 and MXFP4 to bf16, and between fp32, fp16,
 * bf16. */
#ifndef WTN_DEQUANT_H
#define WTN_DEQUANT_H

#include <stddef.h>
#include <stdint.h>

#include <witan/types.h>

/* FP8 E4M3 (the "fn" form): no Inf, 0x7f and 0xff are NaN. Exact. */
float wtn_e4m3_to_float(uint8_t value);

/* FP4 E2M1 in the low four bits. Exact. */
float wtn_e2m1_to_float(uint8_t value);

/* E8M0: 2^(value - 127), 255 is NaN. Exact. */
float wtn_e8m0_to_float(uint8_t value);

/* Columns [begin, begin + count) of one row of FP8 values; `values` starts at column `begin`.
 * scales[c / block] belongs to column c. The product is rounded to fp32, then to bf16, as the
 * transformers package does. */
void wtn_dequant_e4m3(const uint8_t *values, const float *scales, int64_t block, int64_t begin,
                      int64_t count, uint16_t *out);

/* Columns [begin, begin + count) of one row of MXFP4 values, two to a byte, the low half first, a
 * scale for 32. `values` starts at byte begin / 2, `scales` at begin / 32. Every product is exact
 * in bf16 or, above its range, Inf. */
void wtn_dequant_mxfp4(const uint8_t *values, const uint8_t *scales, int64_t begin, int64_t count,
                       uint16_t *out);

/* out[i * out_step] = in[i * in_step], rounded to nearest even where `to` holds less. */
void wtn_convert(const void *in, int64_t in_step, witan_dtype_t from, void *out, int64_t out_step,
                 witan_dtype_t to, int64_t count);

#endif

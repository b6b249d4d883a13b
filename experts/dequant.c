#include "experts/dequant.h"

#include <math.h>

#include "core/half.h"

float wtn_e4m3_to_float(uint8_t value)
{
    uint32_t sign     = (uint32_t)(value & 0x80u) << 24;
    uint32_t exponent = (value >> 3) & 0xfu;
    uint32_t mantissa = value & 7u;

    if (exponent == 0xf && mantissa == 7) {
        return wtn_bits_float(sign | 0x7fc00000u);
    }
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-9f;

        return sign != 0 ? -magnitude : magnitude;
    }
    return wtn_bits_float(sign | (exponent + 120u) << 23 | mantissa << 20);
}

float wtn_e2m1_to_float(uint8_t value)
{
    static const float magnitudes[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    float              magnitude     = magnitudes[value & 7u];

    return (value & 8u) != 0 ? -magnitude : magnitude;
}

float wtn_e8m0_to_float(uint8_t value)
{
    return value == 0xff ? wtn_bits_float(0x7fc00000u) : ldexpf(1.0f, (int)value - 127);
}

void wtn_dequant_e4m3(const uint8_t *values, const float *scales, int64_t block, int64_t begin,
                      int64_t count, uint16_t *out)
{
    float   table[256];
    int64_t done = 0;

    for (int i = 0; i < 256; i++) {
        table[i] = wtn_e4m3_to_float((uint8_t)i);
    }
    while (done < count) {
        const int64_t column = begin + done;
        const float   scale  = scales[column / block];
        int64_t       end    = (column / block + 1) * block - begin;

        for (end = end < count ? end : count; done < end; done++) {
            out[done] = wtn_float_to_bf16(table[values[done]] * scale);
        }
    }
}

void wtn_dequant_mxfp4(const uint8_t *values, const uint8_t *scales, int64_t begin, int64_t count,
                       uint16_t *out)
{
    uint16_t table[16];
    int64_t  block = -1;

    for (int64_t i = 0; i < count; i++) {
        const int64_t column = begin + i;
        const uint8_t pair   = values[column / 2 - begin / 2];

        if (column / 32 != block) {
            block             = column / 32;
            const float scale = wtn_e8m0_to_float(scales[block - begin / 32]);

            for (int j = 0; j < 16; j++) {
                table[j] = wtn_float_to_bf16(wtn_e2m1_to_float((uint8_t)j) * scale);
            }
        }
        out[i] = table[column % 2 == 0 ? pair & 0xfu : pair >> 4];
    }
}

void wtn_convert(const void *in, int64_t in_step, witan_dtype_t from, void *out, int64_t out_step,
                 witan_dtype_t to, int64_t count)
{
    if (from == to && to != WITAN_F32) { /* not through a float: NaNs keep all their bits */
        const uint16_t *source = in;
        uint16_t       *target = out;

        for (int64_t i = 0; i < count; i++) {
            target[i * out_step] = source[i * in_step];
        }
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        wtn_store_float(out, to, (size_t)(i * out_step),
                        wtn_load_float(in, from, (size_t)(i * in_step)));
    }
}

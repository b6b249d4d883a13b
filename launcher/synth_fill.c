/* The tensors of a synthetic block, and the random numbers in them. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/half.h"
#include "core/util.h"
#include "launcher/synth.h"

/* The finaliser of splitmix64: 64 well mixed bits of a counter. */
static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint64_t draw(uint64_t stream, uint64_t index)
{
    return mix(stream + (index + 1) * 0x9e3779b97f4a7c15u);
}

/* The sum of four uniform 16-bit numbers: bell-shaped, from 0 to SUM_MAX. */
#define SUM_MAX   (4 * 65535)
#define SUM_MEAN  (SUM_MAX / 2)
#define SUM_SIGMA 37837.22731 /* sqrt(4 * (65536^2 - 1) / 12) */

static inline uint32_t draw_sum(uint64_t stream, uint64_t index)
{
    uint64_t bits = draw(stream, index);

    return (uint32_t)((bits & 0xffffu) + (bits >> 16 & 0xffffu) + (bits >> 32 & 0xffffu) +
                      (bits >> 48));
}

static inline float draw_normal(uint64_t stream, uint64_t index, float unit)
{
    return (float)((int32_t)draw_sum(stream, index) - SUM_MEAN) * unit;
}

/* Positive values of a small floating-point format, ascending; the code is the index. */
static size_t fp8_values(double values[128])
{
    for (int code = 0; code < 127; code++) { /* e4m3: 127 is NaN */
        int exponent = code >> 3, mantissa = code & 7;

        values[code] = exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 10);
    }
    return 127;
}

static size_t fp4_values(double values[128])
{
    static const double magnitudes[] = {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0};

    memcpy(values, magnitudes, sizeof(magnitudes));
    return WTN_COUNT_OF(magnitudes);
}

/* codes[sum >> CODE_SHIFT] is the format's nearest code to what the sum means. */
#define CODE_SHIFT 6
#define CODE_COUNT ((SUM_MAX >> CODE_SHIFT) + 1)

static uint8_t        fp8_codes[CODE_COUNT], fp4_codes[CODE_COUNT];
static pthread_once_t codes_once = PTHREAD_ONCE_INIT;

static void make_codes(const double *values, size_t count, double sigma, uint8_t sign,
                       uint8_t *codes)
{
    for (int i = 0; i < CODE_COUNT; i++) {
        double middle = (i + 0.5) * (1 << CODE_SHIFT) - 0.5;
        double value  = (middle - SUM_MEAN) / SUM_SIGMA * sigma;
        size_t best   = 0;

        for (size_t code = 1; code < count; code++) {
            if (fabs(values[code] - fabs(value)) < fabs(values[best] - fabs(value))) {
                best = code;
            }
        }
        codes[i] = (uint8_t)(best | (value < 0.0 ? sign : 0u));
    }
}

static void make_all_codes(void)
{
    double values[128];
    size_t count = fp8_values(values);

    make_codes(values, count, WTN_SYNTH_FP8_SIGMA, 0x80, fp8_codes);
    count = fp4_values(values);
    make_codes(values, count, WTN_SYNTH_FP4_SIGMA, 0x08, fp4_codes);
}

static inline uint8_t draw_code(const uint8_t *codes, uint64_t stream, uint64_t index)
{
    return codes[draw_sum(stream, index) >> CODE_SHIFT];
}

/* Below this many elements a team of threads costs more than it gains. */
#define PARALLEL_MIN 32768

static void fill_normal(const wtn_synth_tensor_t *tensor, uint64_t stream, size_t begin,
                        size_t count, void *out)
{
    const float unit = (float)(tensor->sigma / SUM_SIGMA);

    switch (tensor->st.dtype) {
    case WTN_ST_F32:
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MIN)
        for (size_t i = 0; i < count; i++) {
            ((float *)out)[i] = draw_normal(stream, begin + i, unit);
        }
        break;
    case WTN_ST_F16:
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MIN)
        for (size_t i = 0; i < count; i++) {
            ((uint16_t *)out)[i] = wtn_float_to_f16(draw_normal(stream, begin + i, unit));
        }
        break;
    default:
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MIN)
        for (size_t i = 0; i < count; i++) {
            ((uint16_t *)out)[i] = wtn_float_to_bf16(draw_normal(stream, begin + i, unit));
        }
        break;
    }
}

static void fill_codes(const wtn_synth_tensor_t *tensor, uint64_t stream, size_t begin,
                       size_t count, uint8_t *out)
{
    (void)pthread_once(&codes_once, make_all_codes);
    if (tensor->fill == WTN_SYNTH_FILL_FP8) {
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MIN)
        for (size_t i = 0; i < count; i++) {
            out[i] = draw_code(fp8_codes, stream, begin + i);
        }
    } else {
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MIN)
        for (size_t i = 0; i < count; i++) {
            uint8_t low  = draw_code(fp4_codes, stream, 2 * (begin + i));
            uint8_t high = draw_code(fp4_codes, stream, 2 * (begin + i) + 1);

            out[i] = (uint8_t)(low | high << 4);
        }
    }
}

static void fill_scales(const wtn_synth_tensor_t *tensor, uint64_t stream, size_t begin,
                        size_t count, void *out)
{
    int exponent = (int)floor(log2(tensor->sigma)) + 127;

    for (size_t i = 0; i < count; i++) {
        uint64_t bits = draw(stream, begin + i);

        if (tensor->fill == WTN_SYNTH_FILL_FP8_SCALE) {
            double uniform = (double)(bits >> 11) * 0x1p-53;

            ((float *)out)[i] = (float)(tensor->sigma * exp2(uniform - 0.5));
        } else {
            ((uint8_t *)out)[i] = (uint8_t)(exponent + (int)(bits >> 63));
        }
    }
}

void wtn_synth_fill(const wtn_synth_tensor_t *tensor, uint64_t seed, size_t begin, size_t count,
                    void *out)
{
    uint64_t stream = mix(seed ^ wtn_hash(0, tensor->name, strlen(tensor->name)));

    switch (tensor->fill) {
    case WTN_SYNTH_FILL_NORMAL:
        fill_normal(tensor, stream, begin, count, out);
        break;
    case WTN_SYNTH_FILL_FP8:
    case WTN_SYNTH_FILL_FP4:
        fill_codes(tensor, stream, begin, count, out);
        break;
    case WTN_SYNTH_FILL_FP8_SCALE:
    case WTN_SYNTH_FILL_FP4_SCALE:
        fill_scales(tensor, stream, begin, count, out);
        break;
    }
}

static size_t element_count(const wtn_st_tensor_t *st)
{
    size_t count = 1;

    for (int32_t i = 0; i < st->rank; i++) {
        count *= (size_t)st->shape[i];
    }
    return count;
}

size_t wtn_synth_tensor_bytes(const wtn_synth_tensor_t *tensor)
{
    return element_count(&tensor->st) * wtn_st_dtype_bytes(tensor->st.dtype);
}

static wtn_st_dtype_t file_dtype(witan_dtype_t dtype)
{
    return dtype == WITAN_F32 ? WTN_ST_F32 : dtype == WITAN_F16 ? WTN_ST_F16 : WTN_ST_BF16;
}

static bool is_matrix_of_experts(witan_weight_t weight)
{
    return (weight >= WITAN_WEIGHT_GATE && weight <= WITAN_WEIGHT_DOWN) ||
           (weight >= WITAN_WEIGHT_SHARED_GATE && weight <= WITAN_WEIGHT_SHARED_DOWN);
}

/* Matrices keep the size of what they multiply: N(0, 1 / sqrt(in)). Biases are N(0, 0.1). */
static double sigma_of(witan_weight_t weight, const witan_layer_config_t *config)
{
    int64_t rows, cols;

    switch (weight) {
    case WITAN_WEIGHT_ROUTER_BIAS:
    case WITAN_WEIGHT_ROUTER_CORRECTION:
    case WITAN_WEIGHT_GATE_BIAS:
    case WITAN_WEIGHT_UP_BIAS:
    case WITAN_WEIGHT_DOWN_BIAS:
        return 0.1;
    default:
        wtn_weight_shape(weight, config, &rows, &cols);
        return 1.0 / sqrt((double)cols);
    }
}

/* A matrix and, where it is quantised, its scales: one or two tensors. */
static size_t describe(const wtn_synth_block_t *block, witan_weight_t weight, int32_t expert,
                       wtn_synth_tensor_t *tensor)
{
    wtn_synth_tensor_t *scale  = tensor + 1;
    bool                matrix = is_matrix_of_experts(weight);

    (void)wtn_layout_name(block->layout, weight, block->preset->layer_index, expert, tensor->name);
    tensor->st.rank = wtn_layout_shape(block->layout, weight, &block->config, tensor->st.shape);
    tensor->sigma   = sigma_of(weight, &block->config);
    tensor->fill    = WTN_SYNTH_FILL_NORMAL;
    tensor->st.dtype =
        weight == WITAN_WEIGHT_ROUTER_CORRECTION ? WTN_ST_F32 : file_dtype(block->config.dtype);
    if (!matrix || (block->storage != WTN_SYNTH_FP8 && block->storage != WTN_SYNTH_MXFP4)) {
        return 1;
    }
    *scale = *tensor;
    wtn_layout_scale_name(block->layout, tensor->name, scale->name);
    if (block->storage == WTN_SYNTH_FP8) {
        tensor->st.dtype   = WTN_ST_F8_E4M3;
        tensor->fill       = WTN_SYNTH_FILL_FP8;
        scale->st.dtype    = WTN_ST_F32;
        scale->fill        = WTN_SYNTH_FILL_FP8_SCALE;
        scale->sigma       = tensor->sigma / WTN_SYNTH_FP8_SIGMA;
        scale->st.shape[0] = wtn_ceil_div(tensor->st.shape[0], 128);
        scale->st.shape[1] = wtn_ceil_div(tensor->st.shape[1], 128);
    } else {
        tensor->st.dtype = WTN_ST_U8;
        tensor->fill     = WTN_SYNTH_FILL_FP4;
        scale->st.dtype  = WTN_ST_U8;
        scale->fill      = WTN_SYNTH_FILL_FP4_SCALE;
        scale->sigma     = tensor->sigma / WTN_SYNTH_FP4_SIGMA;
        scale->st.rank   = tensor->st.rank - 1;
    }
    return 2;
}

witan_status_t wtn_synth_tensors(const wtn_synth_block_t *block, wtn_synth_tensor_t **tensors,
                                 size_t *count)
{
    const wtn_layout_t *layout = block->layout;
    size_t              most   = 2 * WITAN_WEIGHT_COUNT * (size_t)block->config.expert_count;
    size_t              made   = 0;
    const char         *last   = "";
    wtn_synth_tensor_t *list   = calloc(most, sizeof(*list));

    if (list == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "synth: %zu tensors", most);
    }
    for (witan_weight_t weight = 0; weight < WITAN_WEIGHT_COUNT; weight++) {
        int32_t copies = layout->kind == WTN_LAYOUT_PER_EXPERT && wtn_weight_is_per_expert(weight)
                             ? block->config.expert_count
                             : 1;

        if (!wtn_weight_exists(weight, &block->config) || layout->names[weight] == NULL ||
            strcmp(layout->names[weight], last) == 0) {
            continue; /* a tensor that holds two weights, as gate_up_proj does, comes once */
        }
        last = layout->names[weight];
        for (int32_t expert = 0; expert < copies; expert++) {
            made += describe(block, weight, expert, list + made);
        }
    }
    for (size_t i = 0; i < made; i++) {
        list[i].st.name = list[i].name;
    }
    *tensors = list;
    *count   = made;
    return WITAN_OK;
}

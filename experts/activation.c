#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/activation.h"

/* The formulas, one pair per kind of WITAN_ACTIVATION_LIST: f32_<KIND> in the form the header
 * states, f64_<KIND> in another form of the same function, so that neither checks itself. */

static float f32_SILU(float x, float none)
{
    (void)none;
    return x * (1.0f / (1.0f + expf(-x)));
}

static double f64_SILU(double x, double none)
{
    (void)none;
    return x / (1.0 + exp(-x));
}

static float f32_GELU(float x, float none)
{
    (void)none;
    return x * (1.0f + erff(x * 0.707106781186547524f)) * 0.5f;
}

static double f64_GELU(double x, double none)
{
    (void)none;
    return 0.5 * x * erfc(-x / sqrt(2.0));
}

static float f32_GELU_TANH(float x, float none)
{
    (void)none;
    return x * (1.0f + tanhf(0.797884560802865356f * (x + 0.044715f * x * x * x))) * 0.5f;
}

static double f64_GELU_TANH(double x, double none)
{
    (void)none;
    /* (1 + tanh z) / 2 = 1 / (1 + exp(-2 z)) */
    return x / (1.0 + exp(-2.0 * sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * pow(x, 3.0))));
}

static float f32_RELU(float x, float none)
{
    (void)none;
    return x < 0.0f ? 0.0f : x;
}

static double f64_RELU(double x, double none)
{
    (void)none;
    return isnan(x) ? x : fmax(x, 0.0);
}

static float f32_RELU2(float x, float none)
{
    (void)none;
    return x < 0.0f ? 0.0f : x * x;
}

static double f64_RELU2(double x, double none)
{
    return pow(f64_RELU(x, none), 2.0);
}

static float f32_LEAKY_RELU(float x, float alpha)
{
    return x >= 0.0f ? x : alpha * x;
}

static double f64_LEAKY_RELU(double x, double alpha)
{
    return f64_RELU(x, 0.0) - alpha * f64_RELU(-x, 0.0);
}

static float f32_SWISH(float x, float beta)
{
    return x * (1.0f / (1.0f + expf(-(beta * x))));
}

static double f64_SWISH(double x, double beta)
{
    return x / (1.0 + exp(-beta * x));
}

static float f32_IDENTITY(float x, float none)
{
    (void)none;
    return x;
}

static double f64_IDENTITY(double x, double none)
{
    (void)none;
    return x;
}

/* Parameters: the third column of the list, its default and its other names. */
typedef struct parameter {
    const char *name, *alias;
    float       value;
} parameter_t;

static const parameter_t parameter_none  = {"", "", 0.0f};
static const parameter_t parameter_alpha = {"alpha", "negative_slope", 0.01f};
static const parameter_t parameter_beta  = {"beta", "beta", 1.0f};

typedef struct entry {
    const char        *name;
    const parameter_t *parameter;
    float (*f32)(float x, float parameter);
    double (*f64)(double x, double parameter);
} entry_t;

static const entry_t entries[WITAN_ACTIVATION_COUNT] = {
#define ENTRY(name, text, parameter) {text, &parameter_##parameter, f32_##name, f64_##name},
    WITAN_ACTIVATION_LIST(ENTRY)
#undef ENTRY
};

/* Other names of the same functions, as configurations of published models spell them. A value
 * other than 0 is the parameter the name implies. */
static const struct alias {
    const char             *name;
    witan_activation_kind_t kind;
    float                   value;
} aliases[] = {
    {"gelu_python", WITAN_ACTIVATION_GELU, 0.0f},
    {"gelu_new", WITAN_ACTIVATION_GELU_TANH, 0.0f},
    {"gelu_fast", WITAN_ACTIVATION_GELU_TANH, 0.0f},
    {"gelu_accurate", WITAN_ACTIVATION_GELU_TANH, 0.0f},
    {"gelu_pytorch_tanh", WITAN_ACTIVATION_GELU_TANH, 0.0f},
    {"gelu_python_tanh", WITAN_ACTIVATION_GELU_TANH, 0.0f},
    {"quick_gelu", WITAN_ACTIVATION_SWISH, 1.702f},
    {"relu_squared", WITAN_ACTIVATION_RELU2, 0.0f},
    {"squared_relu", WITAN_ACTIVATION_RELU2, 0.0f},
    {"linear", WITAN_ACTIVATION_IDENTITY, 0.0f},
};

/* "silu, gelu, ..." into `text`, cut at its end. */
static void known_names(char *text, size_t bytes)
{
    size_t used = 0;

    text[0] = '\0';
    for (size_t i = 0; i < WTN_COUNT_OF(entries) + WTN_COUNT_OF(aliases) && used < bytes; i++) {
        const char *name =
            i < WTN_COUNT_OF(entries) ? entries[i].name : aliases[i - WTN_COUNT_OF(entries)].name;
        int length = snprintf(text + used, bytes - used, "%s%s", used == 0 ? "" : ", ", name);

        used += length > 0 ? (size_t)length : 0;
    }
}

witan_status_t wtn_activation_find(const char *name, witan_activation_t *activation)
{
    char known[320];

    for (size_t i = 0; i < WTN_COUNT_OF(entries); i++) {
        if (strcmp(name, entries[i].name) == 0) {
            activation->kind      = (witan_activation_kind_t)i;
            activation->parameter = entries[i].parameter->value;
            return WITAN_OK;
        }
    }
    for (size_t i = 0; i < WTN_COUNT_OF(aliases); i++) {
        if (strcmp(name, aliases[i].name) == 0) {
            activation->kind      = aliases[i].kind;
            activation->parameter = aliases[i].value != 0.0f
                                        ? aliases[i].value
                                        : entries[aliases[i].kind].parameter->value;
            return WITAN_OK;
        }
    }
    known_names(known, sizeof(known));
    return WTN_ERROR(WITAN_E_CONFIG, "activation: expected one of %s; found \"%.64s\"", known,
                     name);
}

witan_status_t wtn_activation_set(witan_activation_t *activation, const char *parameter,
                                  double value)
{
    const parameter_t *known;

    if ((unsigned)activation->kind >= WITAN_ACTIVATION_COUNT) {
        return WTN_ERROR(WITAN_E_CONFIG, "activation: kind %d is not known", (int)activation->kind);
    }
    known = entries[activation->kind].parameter;
    if (known == &parameter_none ||
        (strcmp(parameter, known->name) != 0 && strcmp(parameter, known->alias) != 0)) {
        return WTN_ERROR(WITAN_E_CONFIG, "activation: %s: expected %s%s%s; found \"%.64s\"",
                         entries[activation->kind].name,
                         known == &parameter_none ? "no parameter" : "the parameter \"",
                         known->name, known == &parameter_none ? "" : "\"", parameter);
    }
    if (!isfinite((float)value)) {
        return WTN_ERROR(WITAN_E_CONFIG, "activation: %s: expected a finite fp32; found %g",
                         parameter, value);
    }
    activation->parameter = (float)value;
    return WITAN_OK;
}

const char *wtn_activation_name(witan_activation_kind_t kind)
{
    return (unsigned)kind < WITAN_ACTIVATION_COUNT ? entries[kind].name : "?";
}

witan_status_t wtn_activation_check(const witan_activation_t *activation)
{
    const char *name = wtn_activation_name(activation->kind);

    if ((unsigned)activation->kind >= WITAN_ACTIVATION_COUNT) {
        return WTN_ERROR(WITAN_E_CONFIG, "activation: kind: expected 0 to %d; found %d",
                         WITAN_ACTIVATION_COUNT - 1, (int)activation->kind);
    }
    if (!isfinite(activation->parameter)) {
        return WTN_ERROR(WITAN_E_CONFIG, "activation: parameter of %s: expected finite; found %g",
                         name, (double)activation->parameter);
    }
    if (entries[activation->kind].parameter == &parameter_none && activation->parameter != 0.0f) {
        return WTN_ERROR(WITAN_E_CONFIG, "activation: %s has no parameter: expected 0; found %g",
                         name, (double)activation->parameter);
    }
    if (!(activation->limit >= 0.0f) || !isfinite(activation->limit)) {
        return WTN_ERROR(WITAN_E_CONFIG, "activation: limit: expected finite, >= 0; found %g",
                         (double)activation->limit);
    }
    if (!isfinite(activation->up_offset)) {
        return WTN_ERROR(WITAN_E_CONFIG, "activation: up_offset: expected finite; found %g",
                         (double)activation->up_offset);
    }
    if (!activation->gated && activation->up_offset != 0.0f) {
        return WTN_ERROR(WITAN_E_CONFIG,
                         "activation: up_offset: expected 0 where not gated; found %g",
                         (double)activation->up_offset);
    }
    return WITAN_OK;
}

float wtn_activation_ref(const witan_activation_t *activation, float x)
{
    return entries[activation->kind].f32(x, activation->parameter);
}

float wtn_activation_gated_ref(const witan_activation_t *activation, float g, float u)
{
    const float limit = activation->limit;

    if (limit > 0.0f) { /* comparisons that NaN fails, so that it stays NaN */
        g = g > limit ? limit : g;
        u = u > limit ? limit : u;
        u = u < -limit ? -limit : u;
    }
    if (!activation->gated) {
        return wtn_activation_ref(activation, u);
    }
    return wtn_activation_ref(activation, g) * (u + activation->up_offset);
}

double wtn_activation_gated_ref64(const witan_activation_t *activation, double g, double u)
{
    const entry_t *entry = &entries[activation->kind];

    if (activation->limit > 0.0f && !isnan(g)) {
        g = fmin(g, activation->limit);
    }
    if (activation->limit > 0.0f && !isnan(u)) {
        u = fmax(-activation->limit, fmin(u, activation->limit));
    }
    if (activation->gated) {
        return entry->f64(g, activation->parameter) * (u + activation->up_offset);
    }
    return entry->f64(u, activation->parameter);
}

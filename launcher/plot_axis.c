/* Ranges and ticks of axes: gnuplot is told each tick and its text, so that times, bytes and powers
 * of two read as people write them. */
#include <math.h>
#include <string.h>

#include "core/util.h"
#include "launcher/plot.h"

#define TICKS_MAX 14 /* that fit with their text */

void wtn_range_add(wtn_range_t *range, double value)
{
    if (range->low > range->high) {
        range->low = range->high = value;
    }
    range->low  = value < range->low ? value : range->low;
    range->high = value > range->high ? value : range->high;
}

/* ---- numbers ---- */

typedef struct prefix {
    double      factor;
    const char *text;
} prefix_t;

static const prefix_t seconds_prefixes[] = {
    {1e-12, " ps"}, {1e-9, " ns"}, {1e-6, " µs"}, {1e-3, " ms"}, {1, " s"}};
static const prefix_t bytes_prefixes[]   = {{1, " B"},        {0x1p10, " KiB"}, {0x1p20, " MiB"},
                                            {0x1p30, " GiB"}, {0x1p40, " TiB"}, {0x1p50, " PiB"}};
static const prefix_t decimal_prefixes[] = {{1, ""},     {1e3, " k"},  {1e6, " M"},
                                            {1e9, " G"}, {1e12, " T"}, {1e15, " P"}};
static const prefix_t plain_prefixes[]   = {{1, ""}};

static const struct {
    const prefix_t *prefixes;
    size_t          count;
} units[] = {
    [WTN_UNIT_SECONDS] = {seconds_prefixes, WTN_COUNT_OF(seconds_prefixes)},
    [WTN_UNIT_BYTES]   = {bytes_prefixes, WTN_COUNT_OF(bytes_prefixes)},
    [WTN_UNIT_DECIMAL] = {decimal_prefixes, WTN_COUNT_OF(decimal_prefixes)},
    [WTN_UNIT_PLAIN]   = {plain_prefixes, WTN_COUNT_OF(plain_prefixes)},
};

void wtn_script_number(double value, wtn_unit_t unit, char text[WTN_NUMBER_BYTES])
{
    const prefix_t *prefix = units[unit].prefixes;

    for (size_t i = 0; i < units[unit].count; i++) {
        /* 999.96 would be written 1000 */
        prefix =
            value >= 0.9999 * units[unit].prefixes[i].factor ? &units[unit].prefixes[i] : prefix;
    }
    if (value == 0) {
        (void)snprintf(text, WTN_NUMBER_BYTES, "0");
    } else {
        (void)snprintf(text, WTN_NUMBER_BYTES, "%.4g%s", value / prefix->factor, prefix->text);
    }
}

/* ---- ticks ---- */

typedef struct ticks {
    wtn_script_t *script;
    wtn_range_t   range;
    wtn_unit_t    unit;
    int           count;
} ticks_t;

static ticks_t ticks_begin(wtn_script_t *script, const char *axis, wtn_range_t range,
                           wtn_unit_t unit)
{
    wtn_script_put(script, "set %srange [%.9g:%.9g]\nset %stics (", axis, range.low, range.high,
                   axis);
    return (ticks_t){.script = script, .range = range, .unit = unit};
}

static void tick(ticks_t *ticks, double value, bool labelled)
{
    char text[WTN_NUMBER_BYTES] = "";

    if (value < ticks->range.low * (1 - 1e-9) || value > ticks->range.high * (1 + 1e-9)) {
        return;
    }
    if (labelled) {
        wtn_script_number(value, ticks->unit, text);
    }
    wtn_script_put(ticks->script, "%s'%s' %.9g %d", ticks->count++ > 0 ? ", " : "", text, value,
                   labelled ? 0 : 1);
}

static void ticks_end(ticks_t *ticks)
{
    wtn_script_put(ticks->script, ")\n");
}

/* 1, 2 or 5 times a power of ten that cuts `span` into at most `count` parts. */
static double nice_step(double span, int count)
{
    double raw  = span / count;
    double base = pow(10, floor(log10(raw)));

    if (raw <= base) {
        return base;
    }
    return raw <= 2 * base ? 2 * base : raw <= 5 * base ? 5 * base : 10 * base;
}

static void linear_ticks(ticks_t *ticks, int count)
{
    double step  = nice_step(ticks->range.high - ticks->range.low, count);
    double first = ceil(ticks->range.low / step - 1e-9);

    for (int i = 0; i <= 2 * count; i++) {
        double value = (first + i) * step;

        if (value <= ticks->range.high * (1 + 1e-9)) {
            tick(ticks, value, true);
        }
    }
}

/* ---- axes ---- */

static wtn_range_t widen(wtn_range_t range, double factor)
{
    return (wtn_range_t){range.low / factor, range.high * factor};
}

static void binary_ticks(ticks_t *ticks)
{
    int low   = (int)ceil(log2(ticks->range.low) - 1e-9);
    int high  = (int)floor(log2(ticks->range.high) + 1e-9);
    int every = (int)ceil((high - low + 1.0) / TICKS_MAX);

    every = every > 0 ? every : 1;
    for (int power = low; power <= high; power++) {
        int from_zero = power < 0 ? -power : power;

        tick(ticks, ldexp(1, power), from_zero % every == 0);
    }
}

void wtn_script_axis_binary(wtn_script_t *script, char axis, wtn_range_t range)
{
    const char name[] = {axis, '\0'};
    bool       narrow = range.high / range.low < 1.5;
    ticks_t    ticks;

    wtn_script_put(script, "set logscale %c 2\n", axis);
    ticks = ticks_begin(script, name, widen(range, narrow ? 2 : 1.25), WTN_UNIT_PLAIN);
    binary_ticks(&ticks);
    ticks_end(&ticks);
}

void wtn_script_axis_decades(wtn_script_t *script, char axis, wtn_range_t range, wtn_unit_t unit)
{
    const char  name[] = {axis, '\0'};
    wtn_range_t wide   = widen(range, range.high / range.low < 1.5 ? 2 : 1.3);
    int         low = (int)floor(log10(wide.low)), high = (int)ceil(log10(wide.high));
    int         every = (int)ceil((high - low) / 10.0);
    bool        fine  = wide.high / wide.low < 300;
    ticks_t     ticks;

    wtn_script_put(script, "set logscale %c 10\n", axis);
    ticks = ticks_begin(script, name, wide, unit);
    for (int power = low; power <= high; power++) {
        double decade = pow(10, power);

        tick(&ticks, decade, (power < 0 ? -power : power) % every == 0);
        for (int digit = 2; digit <= 9 && every == 1; digit++) {
            tick(&ticks, decade * digit, fine && (digit == 2 || digit == 5));
        }
    }
    ticks_end(&ticks);
}

void wtn_script_axis_linear(wtn_script_t *script, char axis, wtn_range_t range, wtn_unit_t unit)
{
    const char name[] = {axis, '\0'};
    ticks_t    ticks;

    range.high =
        range.high > range.low ? range.high + (range.high - range.low) * 0.05 : range.low + 1;
    ticks = ticks_begin(script, name, range, unit);
    linear_ticks(&ticks, 6);
    ticks_end(&ticks);
}

void wtn_script_colours_linear(wtn_script_t *script, double high, wtn_unit_t unit)
{
    ticks_t ticks = ticks_begin(script, "cb", (wtn_range_t){0, high > 0 ? high : 1}, unit);

    if (unit == WTN_UNIT_BYTES && high >= 1024) { /* round numbers of the unit in use */
        double factor = ldexp(1, 10 * (int)floor(log2(high) / 10));
        double step   = nice_step(high / factor, 6) * factor;

        for (int i = 0; i <= 12; i++) {
            tick(&ticks, i * step, true);
        }
    } else {
        linear_ticks(&ticks, 6);
    }
    ticks_end(&ticks);
}

void wtn_script_colours_binary(wtn_script_t *script, wtn_range_t range, wtn_unit_t unit)
{
    ticks_t ticks;

    wtn_script_put(script, "set logscale cb 2\n");
    ticks = ticks_begin(script, "cb", range, unit);
    binary_ticks(&ticks);
    ticks_end(&ticks);
}

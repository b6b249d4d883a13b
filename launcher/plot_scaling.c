/* Strong and weak scaling: a step by ranks, with the line that perfect scaling would be. */
#include <math.h>

#include "core/error.h"
#include "launcher/plot_points.h"

#define PANEL_WIDTH  440
#define PANEL_HEIGHT 300
#define LINEAR_RATIO 6 /* times of weak scaling closer than this start at 0 */

typedef struct picture {
    const wtn_points_t *points;
    wtn_script_t       *script;
    bool                tokens; /* tokens/s, not seconds */
    const wtn_point_t  *bases[WTN_CASES_MAX];
    wtn_range_t         ranks[WTN_CASES_MAX];
} picture_t;

static double value_of(const picture_t *picture, const wtn_point_t *point)
{
    return picture->tokens ? (double)point->token_count / point->seconds : point->seconds;
}

static bool is_shown(const picture_t *picture, const wtn_series_t *series, bool strong)
{
    return picture->points->cases[series->case_index].strong == strong;
}

/* Perfect scaling of a case is that of its point of fewest ranks, a measured one if there is. */
static void find_bases(picture_t *picture)
{
    for (int32_t c = 0; c < picture->points->case_count; c++) {
        picture->ranks[c] = WTN_RANGE_EMPTY;
    }
    for (size_t i = 0; i < picture->points->count; i++) {
        const wtn_point_t  *point = &picture->points->points[i];
        const wtn_point_t **base  = &picture->bases[point->case_index];

        wtn_range_add(&picture->ranks[point->case_index], (double)point->ranks);
        if (*base == NULL || point->ranks < (*base)->ranks ||
            (point->ranks == (*base)->ranks && point->measured && !(*base)->measured)) {
            *base = point;
        }
    }
}

static bool is_line(const picture_t *picture, int32_t case_index)
{
    return picture->ranks[case_index].high > picture->ranks[case_index].low;
}

static double ideal_at(const picture_t *picture, const wtn_point_t *base, bool strong, double ranks)
{
    double value = value_of(picture, base), times = ranks / (double)base->ranks;

    if (picture->tokens) {
        return value * times;
    }
    return strong ? value / times : value;
}

static void put_data(const picture_t *picture, bool strong)
{
    const wtn_points_t *points = picture->points;

    for (size_t s = 0; s < points->series_count; s++) {
        const wtn_series_t *series = &points->series[s];

        if (!is_shown(picture, series, strong)) {
            continue;
        }
        wtn_script_put(picture->script, "$s%zu << EOD\n", s);
        for (size_t i = series->begin; i < series->end; i++) {
            wtn_script_put(picture->script, "%lld %.9g\n", (long long)points->points[i].ranks,
                           value_of(picture, &points->points[i]));
        }
        wtn_script_put(picture->script, "EOD\n");
    }
    for (int32_t c = 0; c < points->case_count; c++) {
        wtn_range_t        ranks = picture->ranks[c];
        const wtn_point_t *base  = picture->bases[c];

        if (points->cases[c].strong == strong && base != NULL) {
            wtn_script_put(picture->script, "$i%d << EOD\n%.9g %.9g\n%.9g %.9g\nEOD\n", c,
                           ranks.low, ideal_at(picture, base, strong, ranks.low), ranks.high,
                           ideal_at(picture, base, strong, ranks.high));
        }
    }
}

static void put_axes(const picture_t *picture, const wtn_panel_t *panel, bool strong)
{
    const wtn_points_t *points = picture->points;
    wtn_range_t         ranks = WTN_RANGE_EMPTY, values = WTN_RANGE_EMPTY;
    wtn_unit_t          unit = picture->tokens ? WTN_UNIT_DECIMAL : WTN_UNIT_SECONDS;

    for (size_t i = 0; i < points->count; i++) {
        const wtn_point_t *point = &points->points[i];
        const wtn_point_t *base;

        if (points->cases[point->case_index].strong != strong) {
            continue;
        }
        base = picture->bases[point->case_index];
        wtn_range_add(&ranks, (double)point->ranks);
        wtn_range_add(&values, value_of(picture, point));
        wtn_range_add(&values, ideal_at(picture, base, strong, (double)point->ranks));
    }
    wtn_script_axis_binary(picture->script, 'x', ranks);
    if (!strong && !picture->tokens && values.high / values.low < LINEAR_RATIO) {
        values.low = 0;
        wtn_script_axis_linear(picture->script, 'y', values, unit);
    } else {
        wtn_script_axis_decades(picture->script, 'y', values, unit);
    }
    wtn_script_x_label(picture->script, "ranks");
    wtn_script_y_label(picture->script, panel,
                       picture->tokens ? "tokens per second" : "time of a step");
}

static int legend_rows(const picture_t *picture, bool strong)
{
    int rows = 0;

    for (int32_t c = 0; c < picture->points->case_count && rows == 0; c++) {
        rows = picture->points->cases[c].strong == strong && is_line(picture, c); /* ideal */
    }
    for (size_t s = 0; s < picture->points->series_count; s++) {
        rows += is_shown(picture, &picture->points->series[s], strong);
    }
    return rows;
}

static void put_series(const picture_t *picture, size_t index)
{
    const wtn_series_t *series = &picture->points->series[index];
    const char         *colour = wtn_script_colour(series->look);

    wtn_script_put(picture->script, "$s%zu using 1:2 ", index);
    if (series->measured) {
        wtn_script_put(picture->script, "with points pointtype %d pointsize 0.7",
                       wtn_script_point(series->look));
    } else if (series->end - series->begin == 1) { /* a line of one point would not be seen */
        wtn_script_put(picture->script, "with points pointtype 2 pointsize 1");
    } else {
        wtn_script_put(picture->script, "with lines linewidth 2 dashtype %zu",
                       series->look < 8    ? (size_t)1
                       : series->look < 16 ? (size_t)4
                                           : (size_t)3);
    }
    wtn_script_put(picture->script, " linecolor rgb '%s' title ", colour);
    wtn_script_text(picture->script, series->text);
}

static void put_panel(const picture_t *picture, const wtn_panel_t *panel, bool strong)
{
    const wtn_points_t *points = picture->points;
    const wtn_case_t   *only   = NULL;
    bool                first = true, named = false;
    int                 kin = 0;
    char                title[96], text[48] = "";

    for (int32_t c = 0; c < points->case_count; c++) {
        if (points->cases[c].strong == strong) {
            only = &points->cases[c];
            kin++;
        }
    }
    if (kin == 1) {
        wtn_case_text(only, text);
    }
    (void)snprintf(title, sizeof(title), "%s scaling%s%s", strong ? "Strong" : "Weak",
                   kin == 1 ? ": " : "", text);
    put_data(picture, strong);
    wtn_script_panel(picture->script, panel, title);
    put_axes(picture, panel, strong);
    wtn_script_legend(picture->script, panel, 1, 0);
    wtn_script_put(picture->script, "plot ");
    for (int32_t c = 0; c < points->case_count; c++) {
        if (points->cases[c].strong == strong) {
            wtn_script_put(picture->script,
                           "%s$i%d using 1:2 with lines linewidth 1.5 dashtype 2 linecolor rgb "
                           "'#888888' title '%s'",
                           first ? "" : ", \\\n", c, !named && is_line(picture, c) ? "ideal" : "");
            named = named || is_line(picture, c);
            first = false;
        }
    }
    for (size_t pass = 0; pass < 2; pass++) { /* points over lines */
        for (size_t s = 0; s < points->series_count; s++) {
            if (is_shown(picture, &points->series[s], strong) &&
                points->series[s].measured == (pass == 1)) {
                wtn_script_put(picture->script, ", \\\n");
                put_series(picture, s);
            }
        }
    }
    wtn_script_put(picture->script, "\n");
}

static witan_status_t check(const wtn_points_t *points, bool tokens)
{
    for (size_t i = 0; i < points->count && tokens; i++) {
        if (points->points[i].token_count == 0) {
            return WTN_ERROR(WITAN_E_FORMAT,
                             "%s: a point of %lld ranks: expected tokens, for tokens per second, "
                             "found none",
                             points->plot->inputs[points->points[i].input].path,
                             (long long)points->points[i].ranks);
        }
    }
    return WITAN_OK;
}

witan_status_t wtn_plot_scaling(const wtn_plot_t *plot, wtn_script_t *script)
{
    wtn_points_t   points;
    picture_t      picture = {.points = &points,
                              .script = script,
                              .tokens = plot->options->metric == WTN_PLOT_TOKENS};
    wtn_panel_t    panel   = {WTN_SCRIPT_LEFT, 0, PANEL_WIDTH, PANEL_HEIGHT};
    bool           has[2]  = {false, false}; /* weak, strong */
    int            rows    = 0, wide;
    witan_status_t status;

    WTN_TRY(wtn_points_read(&points, plot));
    WTN_TRY(check(&points, picture.tokens));
    find_bases(&picture);
    for (int32_t c = 0; c < points.case_count; c++) {
        has[points.cases[c].strong] = true;
    }
    for (int strong = 0; strong < 2; strong++) {
        int mine = has[strong] ? legend_rows(&picture, strong == 1) : 0;

        rows = mine > rows ? mine : rows;
    }
    wide = WTN_SCRIPT_LEFT + PANEL_WIDTH + WTN_SCRIPT_RIGHT;
    wtn_script_begin(script, wide * (has[0] + has[1]),
                     WTN_SCRIPT_HEAD + PANEL_HEIGHT + WTN_SCRIPT_BELOW + rows * WTN_SCRIPT_ROW + 12,
                     plot->options->title);
    panel.top = script->top + WTN_SCRIPT_HEAD;
    for (int strong = 1; strong >= 0; strong--) {
        if (has[strong]) {
            put_panel(&picture, &panel, strong == 1);
            panel.left += wide;
        }
    }
    wtn_script_end(script);

fail:
    wtn_points_free(&points);
    return status;
}

/* Time by phase, stacked, against ranks: a panel for each number of tokens, a bar for each point.
 */
#include <math.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/plot_points.h"

#define PANEL_HEIGHT  280
#define BAR_WIDTH     34
#define WIDTH_MIN     300
#define WIDTH_MAX     860
#define LETTER_HEIGHT 14
#define BARS_MAX      512
#define LEGEND_WIDE   145 /* an entry of the legend */

typedef struct picture {
    const wtn_points_t *points;
    wtn_script_t       *script;
    wtn_plot_bars_t     bars;
    bool                lettered; /* some ranks have several bars */
} picture_t;

static const char *phase_colour(const char *name, size_t index)
{
    static const struct {
        const char *name, *colour;
    } known[] = {{"route", "#56b4e9"},  {"plan", "#999999"},    {"dispatch", "#0072b2"},
                 {"shared", "#009e73"}, {"experts", "#e69f00"}, {"combine", "#cc79a7"},
                 {"reduce", "#d55e00"}};
    static const char *const others[] = {"#882255", "#000000", "#44aa99", "#ddcc77"};

    for (size_t i = 0; i < WTN_COUNT_OF(known); i++) {
        if (strcmp(known[i].name, name) == 0) {
            return known[i].colour;
        }
    }
    return others[index % WTN_COUNT_OF(others)];
}

static bool is_of(const wtn_point_t *point, int32_t case_index)
{
    return point->case_index == case_index;
}

static double sum_of(const wtn_points_t *points, const wtn_point_t *point)
{
    double sum = 0;

    for (size_t phase = 0; phase < points->phase_count; phase++) {
        sum += point->phases[phase];
    }
    return sum;
}

/* Is the time of the whole step there to compare with? */
static bool has_step(const picture_t *picture)
{
    return picture->bars != WTN_PLOT_PERCENT;
}

/* What the times of a bar are multiplied by. */
static double scale_of(const picture_t *picture, const wtn_point_t *point)
{
    double sum = sum_of(picture->points, point);

    if (picture->bars == WTN_PLOT_PERCENT) {
        return sum > 0 ? 100 / sum : 1;
    }
    return picture->bars == WTN_PLOT_RANK_SECONDS ? (double)point->ranks : 1;
}

static bool has_phase(const wtn_points_t *points, size_t phase)
{
    for (size_t i = 0; i < points->count; i++) {
        if (points->points[i].phases[phase] > 0) {
            return true;
        }
    }
    return false;
}

/* The next number of ranks above `ranks` in a case; 0: none. */
static int64_t next_ranks(const wtn_points_t *points, int32_t case_index, int64_t ranks)
{
    int64_t next = 0;

    for (size_t i = 0; i < points->count; i++) {
        const wtn_point_t *point = &points->points[i];

        if (is_of(point, case_index) && point->ranks > ranks &&
            (next == 0 || point->ranks < next)) {
            next = point->ranks;
        }
    }
    return next;
}

/* ---- bars: unit width, a gap of half a bar between numbers of ranks ---- */

typedef struct bars {
    double width; /* of the x axis */
    double high;
    int    count;
} bars_t;

/* Calls `visit` for every bar, left to right. */
static bars_t walk(const picture_t *picture, int32_t case_index,
                   void (*visit)(const picture_t *, const wtn_point_t *, double x))
{
    const wtn_points_t *points = picture->points;
    bars_t              bars   = {0};

    for (int64_t ranks = next_ranks(points, case_index, 0); ranks != 0;
         ranks         = next_ranks(points, case_index, ranks)) {
        bars.width += 0.5;
        for (size_t i = 0; i < points->count; i++) {
            const wtn_point_t *point = &points->points[i];
            double             scale = scale_of(picture, point);

            if (!is_of(point, case_index) || point->ranks != ranks) {
                continue;
            }
            bars.high = fmax(bars.high, sum_of(points, point) * scale);
            bars.high = fmax(bars.high, has_step(picture) ? point->seconds * scale : 0);
            if (visit != NULL) {
                visit(picture, point, bars.width + 0.5);
            }
            bars.width += 1;
            bars.count++;
        }
    }
    bars.width += 0.5;
    return bars;
}

/* x, the step's time, then the bounds between phases from 0 up */
static void put_bar(const picture_t *picture, const wtn_point_t *point, double x)
{
    double scale = scale_of(picture, point), level = 0;

    wtn_script_put(picture->script, "%g %.9g 0", x, point->seconds * scale);
    for (size_t phase = 0; phase < picture->points->phase_count; phase++) {
        level += point->phases[phase] * scale;
        wtn_script_put(picture->script, " %.9g", level);
    }
    wtn_script_put(picture->script, "\n");
}

/* Series are sorted by case: a panel's letters begin with a. */
static char letter_of(const wtn_points_t *points, size_t index)
{
    size_t first = index;

    while (first > 0 && points->series[first - 1].case_index == points->series[index].case_index) {
        first--;
    }
    return (char)('a' + (index - first));
}

static void put_letter(const picture_t *picture, const wtn_point_t *point, double x)
{
    wtn_script_put(picture->script,
                   "set label '%c' at first %g, graph 0 offset 0,-0.6 center "
                   "textcolor rgb '#444444'\n",
                   letter_of(picture->points, (size_t)point->series), x);
}

/* Numbers of ranks under their bars; where they are many only some. */
static void put_ticks(const picture_t *picture, int32_t case_index, const wtn_panel_t *panel)
{
    const wtn_points_t *points = picture->points;
    double              unit   = panel->width / walk(picture, case_index, NULL).width;
    double              at = 0, labelled = -1000;
    bool                first = true;

    wtn_script_put(picture->script, "set xtics scale 0 offset 0,%s (",
                   picture->lettered ? "-0.7" : "0.2");
    for (int64_t ranks = next_ranks(points, case_index, 0); ranks != 0;
         ranks         = next_ranks(points, case_index, ranks)) {
        int    bars = 0;
        double middle;

        for (size_t i = 0; i < points->count; i++) {
            bars += is_of(&points->points[i], case_index) && points->points[i].ranks == ranks;
        }
        middle = at + 0.5 + bars / 2.0;
        if ((middle - labelled) * unit >= 34) {
            wtn_script_put(picture->script, "%s'%lld' %g", first ? "" : ", ", (long long)ranks,
                           middle);
            labelled = middle;
            first    = false;
        }
        at += 0.5 + bars;
    }
    wtn_script_put(picture->script, ")\n");
}

/* ---- panels ---- */

static void put_phases(const picture_t *picture, const char *key)
{
    const wtn_points_t *points = picture->points;
    bool                first  = true;

    wtn_script_put(picture->script, "plot ");
    for (size_t phase = 0; phase < points->phase_count; phase++) {
        if (!has_phase(points, phase)) {
            continue;
        }
        wtn_script_put(picture->script,
                       "%s%s using 1:%zu:($1-0.42):($1+0.42):%zu:%zu with boxxyerror fillstyle "
                       "solid noborder linecolor rgb '%s' title ",
                       first ? "" : ", \\\n", key, phase + 4, phase + 3, phase + 4,
                       phase_colour(points->phase_names[phase], phase));
        wtn_script_text(picture->script, points->phase_names[phase]);
        first = false;
    }
    if (has_step(picture)) {
        wtn_script_put(
            picture->script,
            "%s%s using 1:2:(0.45) with xerrorbars pointtype -1 linewidth 1.5 linecolor rgb "
            "'#000000' title 'whole step'",
            first ? "" : ", \\\n", key);
    } else if (first) {
        wtn_script_put(picture->script, "%s using 1:(0) with points pointtype 0 title ''", key);
    }
    wtn_script_put(picture->script, "\n");
}

typedef struct layout {
    wtn_panel_t panel; /* of the first */
    int         columns, legend_columns, legend_rows, letter_rows;
    double      wide, high; /* from one panel to the next */
} layout_t;

/* What the letters mean, under the legend of the phases. */
static void put_letters(const picture_t *picture, const wtn_panel_t *panel, int32_t case_index,
                        int row)
{
    const wtn_points_t *points = picture->points;
    char                text[WTN_SERIES_TEXT + 8];

    for (size_t s = 0; s < points->series_count; s++) {
        if (points->series[s].case_index == case_index) {
            (void)snprintf(text, sizeof(text), "%c: %s", letter_of(points, s),
                           points->series[s].text);
            wtn_script_note(picture->script, panel, row++, text);
        }
    }
}

static void put_panel(const picture_t *picture, const layout_t *layout, const wtn_panel_t *panel,
                      int32_t case_index)
{
    static const char *const labels[] = {
        [WTN_PLOT_TIMES]        = "time of a step",
        [WTN_PLOT_PERCENT]      = "share of the phases [%]",
        [WTN_PLOT_RANK_SECONDS] = "time of a step x ranks",
    };
    const wtn_case_t *one   = &picture->points->cases[case_index];
    bars_t            bars  = walk(picture, case_index, NULL);
    wtn_panel_t       below = *panel; /* its legend starts lower by a line of letters */
    char              title[96], text[48], key[16];

    wtn_case_text(one, text);
    (void)snprintf(title, sizeof(title), "%s scaling: %s", one->strong ? "Strong" : "Weak", text);
    (void)snprintf(key, sizeof(key), "$p%d", case_index);
    wtn_script_put(picture->script, "%s << EOD\n", key);
    (void)walk(picture, case_index, put_bar);
    wtn_script_put(picture->script, "EOD\n");
    wtn_script_panel(picture->script, panel, title);
    wtn_script_put(picture->script, "set xrange [0:%g]\nset grid noxtics ytics\nset bars 0\n",
                   bars.width);
    put_ticks(picture, case_index, panel);
    wtn_script_axis_linear(picture->script, 'y', (wtn_range_t){0, bars.high},
                           picture->bars == WTN_PLOT_PERCENT ? WTN_UNIT_PLAIN : WTN_UNIT_SECONDS);
    wtn_script_put(picture->script, "set xlabel 'ranks'%s\n",
                   picture->lettered ? " offset 0,-0.6" : "");
    wtn_script_y_label(picture->script, panel, labels[picture->bars]);
    if (picture->lettered) {
        below.height += LETTER_HEIGHT;
        (void)walk(picture, case_index, put_letter);
        put_letters(picture, &below, case_index, layout->legend_rows);
    }
    wtn_script_legend(picture->script, &below, layout->legend_columns, 0);
    put_phases(picture, key);
}

static bool is_lettered(const wtn_points_t *points)
{
    for (size_t i = 0; i < points->count; i++) {
        for (size_t j = i + 1; j < points->count; j++) {
            if (points->points[i].case_index == points->points[j].case_index &&
                points->points[i].ranks == points->points[j].ranks) {
                return true;
            }
        }
    }
    return false;
}

static witan_status_t check(const wtn_points_t *points)
{
    if (points->count > BARS_MAX) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "plot: expected at most %d bars, found %zu: choose with --scaling and "
                         "--tokens",
                         BARS_MAX, points->count);
    }
    for (size_t i = 0; i < points->count; i++) {
        const wtn_point_t *point = &points->points[i];

        if (!point->has_phases) {
            return WTN_ERROR(WITAN_E_FORMAT,
                             "%s: the point of %lld ranks: expected phases, found none",
                             points->plot->inputs[point->input].path, (long long)point->ranks);
        }
    }
    return WITAN_OK;
}

static layout_t lay_out(const picture_t *picture)
{
    const wtn_points_t *points = picture->points;
    layout_t            layout = {.columns = points->case_count > 1 ? 2 : 1};
    double              width  = WIDTH_MIN;
    int                 phases = has_step(picture);

    for (int32_t c = 0; c < points->case_count; c++) {
        int letters = 0;

        width = fmax(width, walk(picture, c, NULL).width * BAR_WIDTH);
        for (size_t s = 0; s < points->series_count; s++) {
            letters += picture->lettered && points->series[s].case_index == c;
        }
        layout.letter_rows = letters > layout.letter_rows ? letters : layout.letter_rows;
    }
    width = fmin(width, WIDTH_MAX / (layout.columns == 1 ? 1 : 1.6));
    for (size_t phase = 0; phase < points->phase_count; phase++) {
        phases += has_phase(points, phase);
    }
    layout.legend_columns = (int)(width / LEGEND_WIDE);
    layout.legend_rows    = (int)wtn_ceil_div(phases, layout.legend_columns);
    layout.wide           = WTN_SCRIPT_LEFT + width + WTN_SCRIPT_RIGHT;
    layout.high           = WTN_SCRIPT_HEAD + PANEL_HEIGHT + WTN_SCRIPT_BELOW +
                  (picture->lettered ? LETTER_HEIGHT : 0) +
                  (layout.legend_rows + layout.letter_rows) * WTN_SCRIPT_ROW + 12;
    layout.panel = (wtn_panel_t){WTN_SCRIPT_LEFT, WTN_SCRIPT_HEAD, width, PANEL_HEIGHT};
    return layout;
}

witan_status_t wtn_plot_phases(const wtn_plot_t *plot, wtn_script_t *script)
{
    wtn_points_t   points;
    picture_t      picture = {.points = &points,
                              .script = script,
                              .bars   = (wtn_plot_bars_t)plot->options->bars};
    layout_t       layout;
    witan_status_t status;

    WTN_TRY(wtn_points_read(&points, plot));
    WTN_TRY(check(&points));
    picture.lettered = is_lettered(&points);
    layout           = lay_out(&picture);
    wtn_script_begin(script, layout.wide * layout.columns,
                     layout.high * (double)wtn_ceil_div(points.case_count, layout.columns),
                     plot->options->title);
    for (int32_t c = 0; c < points.case_count; c++) {
        wtn_panel_t panel = layout.panel;

        panel.left += layout.wide * (c % layout.columns);
        panel.top += script->top + layout.high * (c / layout.columns);
        put_panel(&picture, &layout, &panel, c);
    }
    wtn_script_end(script);

fail:
    wtn_points_free(&points);
    return status;
}

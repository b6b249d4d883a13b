/* witan plot: pictures of what the other commands write as JSON, drawn by gnuplot. A picture is a
 * row of the table in plot.c: it reads the inputs and writes a script for gnuplot.
 *
 * Nothing that comes from a file or a command line reaches gnuplot other than as a number or
 * through wtn_script_text, which leaves nothing to interpret; no path reaches it at all. */
#ifndef WTN_PLOT_H
#define WTN_PLOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "launcher/options.h"

/* ---- what is asked for ---- */

typedef enum wtn_plot_metric { WTN_PLOT_SECONDS = 0, WTN_PLOT_TOKENS = 1 } wtn_plot_metric_t;
typedef enum wtn_plot_scaling {
    WTN_PLOT_BOTH   = 0,
    WTN_PLOT_STRONG = 1,
    WTN_PLOT_WEAK   = 2
} wtn_plot_scaling_t;

typedef enum wtn_plot_bars {
    WTN_PLOT_TIMES        = 0,
    WTN_PLOT_PERCENT      = 1, /* of the sum of the phases */
    WTN_PLOT_RANK_SECONDS = 2, /* times ranks: under strong scaling the ideal is a constant */
} wtn_plot_bars_t;

typedef struct wtn_plot_options {
    wtn_option_texts_t inputs, labels;
    const char        *output, *title;
    int32_t            metric, scaling, bars;
    bool               all;  /* every variant, not only the best */
    const char        *only; /* variants with this in their text; NULL: all */
    wtn_option_list_t  tokens;
    int64_t            layer; /* -1: not given */
} wtn_plot_options_t;

#define WTN_PLOT_INPUTS_MAX WTN_OPTION_TEXTS_MAX

typedef struct wtn_plot_input {
    const char *path;
    const char *label; /* of --label; NULL: none */
    const char *schema;
    json_t     *root;
} wtn_plot_input_t;

typedef struct wtn_plot {
    const wtn_plot_options_t *options;
    wtn_plot_input_t          inputs[WTN_PLOT_INPUTS_MAX];
    int32_t                   input_count;
} wtn_plot_t;

/* --label, else the file's name without its folder. */
const char *wtn_plot_label(const wtn_plot_input_t *input);

/* ---- reading: a value and where it stands; a fault names file and key ---- */

typedef struct wtn_node {
    const char   *file;
    const json_t *json;
    char          key[128]; /* "points[3].phases.dispatch" */
} wtn_node_t;

witan_status_t wtn_node_load(const char *path, json_t **root);
wtn_node_t     wtn_node_root(const wtn_plot_input_t *input);

/* "<file>: <key>: expected <what>, found <text of the value>"; WITAN_E_FORMAT. */
witan_status_t wtn_node_refuse(const wtn_node_t *node, const char *expected, ...)
    __attribute__((format(printf, 2, 3)));

/* A member that must be there; `node` must be an object. */
witan_status_t wtn_node_member(const wtn_node_t *node, const char *name, wtn_node_t *member);
/* A member that may be missing or null: false. */
bool wtn_node_find(const wtn_node_t *node, const char *name, wtn_node_t *member);

/* An array of count_min to count_max elements, and its elements. */
witan_status_t wtn_node_array(const wtn_node_t *node, size_t count_min, size_t count_max,
                              size_t *count);
wtn_node_t     wtn_node_item(const wtn_node_t *array, size_t index);

witan_status_t wtn_node_number(const wtn_node_t *node, double min, double max, double *value);
witan_status_t wtn_node_integer(const wtn_node_t *node, int64_t min, int64_t max, int64_t *value);
witan_status_t wtn_node_text(const wtn_node_t *node, const char **value);
witan_status_t wtn_node_bool(const wtn_node_t *node, bool *value);

/* A member that must be there, as a number. */
witan_status_t wtn_node_member_number(const wtn_node_t *node, const char *name, double min,
                                      double max, double *value);
witan_status_t wtn_node_member_integer(const wtn_node_t *node, const char *name, int64_t min,
                                       int64_t max, int64_t *value);

/* ---- writing: a script for gnuplot, measured in pixels from the top left ---- */

typedef enum wtn_plot_format { WTN_PLOT_SVG, WTN_PLOT_PNG, WTN_PLOT_SCRIPT } wtn_plot_format_t;

typedef struct wtn_script {
    FILE             *file;
    wtn_plot_format_t format;
    double            width, height;
    double            top; /* where panels may begin */
} wtn_script_t;

/* The area between the axes. */
typedef struct wtn_panel {
    double left, top, width, height;
} wtn_panel_t;

#define WTN_SCRIPT_LEFT   92 /* of the area: labels of the y axis */
#define WTN_SCRIPT_BELOW  70 /* and of the x axis */
#define WTN_SCRIPT_RIGHT  24
#define WTN_SCRIPT_ROW    22 /* a line of the legend */
#define WTN_SCRIPT_HEAD   44 /* of the title of a panel */
#define WTN_SCRIPT_LABELS 64 /* the most characters of a text; the middle of longer ones is cut */

void wtn_script_put(wtn_script_t *script, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* At most `count_max` characters, the middle of more cut; what has no place in a line of a picture,
 * control characters and broken UTF-8, becomes a question mark. `bytes` of at least 8. */
void wtn_script_cut(const char *text, size_t count_max, char *out, size_t bytes);

/* 'text', cut and safe whatever it holds. */
void wtn_script_text(wtn_script_t *script, const char *text);

/* Canvas; `title` over it may be NULL. `height` is without the title. */
void wtn_script_begin(wtn_script_t *script, double width, double height, const char *title);
/* The next panel, and its title. */
void wtn_script_panel(wtn_script_t *script, const wtn_panel_t *panel, const char *title);
void wtn_script_x_label(wtn_script_t *script, const char *text);
void wtn_script_y_label(wtn_script_t *script, const wtn_panel_t *panel, const char *text);
/* The words " font ..." for text this high; 13 without them. */
void wtn_script_font(wtn_script_t *script, double pixels);
/* The legend under the panel's axis labels, in `columns` columns; lowered by `rows` lines. */
void wtn_script_legend(wtn_script_t *script, const wtn_panel_t *panel, int columns, int rows);
/* A line of text under the panel where the legend's line `row` would be. */
void wtn_script_note(wtn_script_t *script, const wtn_panel_t *panel, int row, const char *text);
void wtn_script_end(wtn_script_t *script);

/* Colours that stay apart for the colour-blind, round and round. */
const char *wtn_script_colour(size_t index);
/* gnuplot's filled points: circle, square, triangle ... */
int wtn_script_point(size_t index);

typedef struct wtn_range {
    double low, high; /* low > high: nothing yet */
} wtn_range_t;

#define WTN_RANGE_EMPTY ((wtn_range_t){1, 0})
void wtn_range_add(wtn_range_t *range, double value);

/* How the values of an axis are written. */
typedef enum wtn_unit {
    WTN_UNIT_SECONDS, /* 100 us */
    WTN_UNIT_BYTES,   /* 64 KiB */
    WTN_UNIT_DECIMAL, /* 1.5 M */
    WTN_UNIT_PLAIN,   /* 12.5 */
} wtn_unit_t;

#define WTN_NUMBER_BYTES 32
void wtn_script_number(double value, wtn_unit_t unit, char text[WTN_NUMBER_BYTES]);

/* Range and ticks of an axis ('x', 'y'; "cb" has its own call): logarithmic to base 2 in powers of
 * two; logarithmic in decades, or finer where there are few; linear from 0 or from the low end. */
void wtn_script_axis_binary(wtn_script_t *script, char axis, wtn_range_t range);
void wtn_script_axis_decades(wtn_script_t *script, char axis, wtn_range_t range, wtn_unit_t unit);
void wtn_script_axis_linear(wtn_script_t *script, char axis, wtn_range_t range, wtn_unit_t unit);
void wtn_script_colours_linear(wtn_script_t *script, double high, wtn_unit_t unit);
void wtn_script_colours_binary(wtn_script_t *script, wtn_range_t range, wtn_unit_t unit);

/* ---- running ---- */

/* Draw what `script` (of `bytes`) says and write the file. WITAN_E_IO, WITAN_E_UNSUPPORTED without
 * gnuplot. */
witan_status_t wtn_gnuplot(const char *path, wtn_plot_format_t format, const char *script,
                           size_t bytes);

/* ---- the pictures ---- */

witan_status_t wtn_plot_scaling(const wtn_plot_t *plot, wtn_script_t *script);
witan_status_t wtn_plot_phases(const wtn_plot_t *plot, wtn_script_t *script);
witan_status_t wtn_plot_roofline(const wtn_plot_t *plot, wtn_script_t *script);
witan_status_t wtn_plot_traffic(const wtn_plot_t *plot, wtn_script_t *script);
witan_status_t wtn_plot_load(const wtn_plot_t *plot, wtn_script_t *script);

#endif

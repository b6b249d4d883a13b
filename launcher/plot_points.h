/* Steps of a layer, predicted or measured, by ranks: what two pictures draw. */
#ifndef WTN_PLOT_POINTS_H
#define WTN_PLOT_POINTS_H

#include "launcher/plot.h"

#define WTN_PHASES_MAX  16
#define WTN_CASES_MAX   6
#define WTN_SERIES_MAX  24
#define WTN_SERIES_TEXT 320

typedef struct wtn_point {
    int32_t input;
    bool    strong, measured, best, has_phases, exact; /* exact: the file says token_count */
    int64_t ranks, tokens_per_rank, token_count;       /* of all ranks */
    double  seconds, phases[WTN_PHASES_MAX];
    char    variant[80]; /* "ep, two-level, exact, 4 chunks" */
    int32_t group;       /* the first input of the same label */
    int32_t case_index, series;
} wtn_point_t;

/* Points that are one experiment: tokens of each rank (weak scaling) or of all (strong). */
typedef struct wtn_case {
    bool    strong;
    int64_t tokens;
} wtn_case_t;

/* Points that are one line: of a case, a group of inputs, measured or not, and a variant. */
typedef struct wtn_series {
    int32_t case_index;
    bool    measured;
    size_t  begin, end; /* of the points, by ranks */
    size_t  look;       /* a prediction and the measurement of the same thing look alike */
    char    text[WTN_SERIES_TEXT];
} wtn_series_t;

typedef struct wtn_points {
    const wtn_plot_t *plot;
    wtn_point_t      *points;
    size_t            count;
    bool              names_best[WTN_PLOT_INPUTS_MAX];
    char              phase_names[WTN_PHASES_MAX][24];
    size_t            phase_count;
    wtn_case_t        cases[WTN_CASES_MAX];
    int32_t           case_count;
    wtn_series_t      series[WTN_SERIES_MAX];
    size_t            series_count;
} wtn_points_t;

/* Read all inputs, keep what the options choose and sort it: by case, series, ranks. */
witan_status_t wtn_points_read(wtn_points_t *points, const wtn_plot_t *plot);
void           wtn_points_free(wtn_points_t *points);

/* "4096 tokens in all", "128 tokens per rank". */
void wtn_case_text(const wtn_case_t *one, char text[48]);

#endif

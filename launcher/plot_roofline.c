/* Roofline: what was reached, by operations per byte of weights, under what the machine can do. The
 * limits are those measured in the same file. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/plot.h"

#define PANEL_WIDTH  560
#define PANEL_HEIGHT 340
#define POINTS_MAX   1024
#define LABELS_MAX   24   /* points of an input that have room for a number each */
#define RATE_MAX     1e12 /* GFLOP/s and GB/s of a file */

typedef struct dot {
    double  intensity, rate;
    int64_t size; /* rows per expert, tokens of a rank */
} dot_t;

typedef struct roof {
    dot_t *dots;
    size_t count;
    double peak, bandwidth; /* FLOP/s; bytes/s, 0: not in the file */
    bool   layer;
} roof_t;

typedef struct picture {
    const wtn_plot_t *plot;
    wtn_script_t     *script;
    roof_t            roofs[WTN_PLOT_INPUTS_MAX];
} picture_t;

/* ---- reading ---- */

static int compare_numbers(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The median over the results of a member that all have. */
static witan_status_t median(const wtn_node_t *results, size_t count, const char *name, double *out)
{
    double        *values = calloc(count, sizeof(*values));
    witan_status_t status =
        values == NULL ? WTN_ERROR(WITAN_E_MEMORY, "%zu results", count) : WITAN_OK;

    for (size_t i = 0; i < count && status == WITAN_OK; i++) {
        wtn_node_t item = wtn_node_item(results, i);

        status = wtn_node_member_number(&item, name, 1e-6, RATE_MAX, &values[i]);
    }
    if (status == WITAN_OK) {
        qsort(values, count, sizeof(*values), compare_numbers);
        *out = values[count / 2] * 1e9;
    }
    free(values);
    return status;
}

/* bench experts counts the weights as read once in each call. */
static witan_status_t read_experts(const wtn_node_t *item, dot_t *dot)
{
    double         rate, reading;
    witan_status_t status;

    WTN_TRY(wtn_node_member_integer(item, "rows_per_expert", 1, INT64_MAX, &dot->size));
    WTN_TRY(wtn_node_member_number(item, "gflops", 1e-6, RATE_MAX, &rate));
    WTN_TRY(wtn_node_member_number(item, "weight_gbytes_per_s", 1e-6, RATE_MAX, &reading));
    dot->rate      = rate * 1e9;
    dot->intensity = rate / reading;

fail:
    return status;
}

typedef struct shape {
    int64_t expert_count, topk, ranks, tensor_parallel;
    double  weight_bytes; /* of one value */
} shape_t;

static witan_status_t read_shape(const wtn_node_t *root, shape_t *shape)
{
    wtn_node_t     member, dtype;
    const char    *name;
    witan_status_t status;

    WTN_TRY(wtn_node_member(root, "shape", &member));
    WTN_TRY(wtn_node_member_integer(&member, "experts", 1, INT32_MAX, &shape->expert_count));
    WTN_TRY(wtn_node_member_integer(&member, "topk", 1, shape->expert_count, &shape->topk));
    WTN_TRY(wtn_node_member(&member, "dtype", &dtype));
    WTN_TRY(wtn_node_text(&dtype, &name));
    WTN_TRY(wtn_node_member_integer(root, "ranks", 1, 1 << 20, &shape->ranks));
    WTN_TRY(
        wtn_node_member_integer(root, "tensor_parallel", 1, shape->ranks, &shape->tensor_parallel));
    shape->weight_bytes = strcmp(name, "F32") == 0 ? 4 : 2;

fail:
    return status;
}

/* A step of the layer: each expert that can have a row is read once. One row is 2 operations for
 * each weight. */
static witan_status_t read_layer(const wtn_node_t *item, const shape_t *shape, dot_t *dot)
{
    double         rate, rows;
    witan_status_t status;

    WTN_TRY(wtn_node_member_integer(item, "tokens", 0, (int64_t)1 << 32, &dot->size));
    WTN_TRY(wtn_node_member_number(item, "gflops", 0, RATE_MAX, &rate));
    rows =
        (double)dot->size * (double)(shape->ranks / shape->tensor_parallel) * (double)shape->topk;
    dot->rate      = rate * 1e9;
    dot->intensity = 2 * rows / (fmin(rows, (double)shape->expert_count) * shape->weight_bytes);

fail:
    return status;
}

static witan_status_t read_input(const wtn_plot_input_t *input, roof_t *roof)
{
    wtn_node_t     root  = wtn_node_root(input), list;
    shape_t        shape = {1, 1, 1, 1, 2};
    size_t         count;
    witan_status_t status;

    roof->layer = strcmp(input->schema, "witan.bench.layer/1") == 0;
    WTN_TRY(wtn_node_member(&root, "results", &list));
    WTN_TRY(wtn_node_array(&list, 1, POINTS_MAX, &count));
    WTN_TRY(median(&list, count, "peak_gflops", &roof->peak));
    if (roof->layer) {
        WTN_TRY(read_shape(&root, &shape));
    } else {
        WTN_TRY(median(&list, count, "read_gbytes_per_s", &roof->bandwidth));
    }
    roof->dots = calloc(count, sizeof(*roof->dots));
    if (roof->dots == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu results", input->path, count);
    }
    for (size_t i = 0; i < count; i++) {
        wtn_node_t item = wtn_node_item(&list, i);
        dot_t     *dot  = &roof->dots[roof->count];

        WTN_TRY(roof->layer ? read_layer(&item, &shape, dot) : read_experts(&item, dot));
        roof->count += dot->size > 0 && dot->rate > 0; /* no tokens, no operations */
    }
    if (roof->count == 0) {
        return wtn_node_refuse(&list, "a result with tokens");
    }

fail:
    return status;
}

/* ---- writing ---- */

static double bound(const roof_t *roof, double intensity)
{
    return roof->bandwidth > 0 ? fmin(roof->peak, roof->bandwidth * intensity) : roof->peak;
}

static void put_data(const picture_t *picture, wtn_range_t intensity)
{
    for (int32_t i = 0; i < picture->plot->input_count; i++) {
        const roof_t *roof  = &picture->roofs[i];
        double        ridge = roof->bandwidth > 0 ? roof->peak / roof->bandwidth : intensity.low;

        wtn_script_put(picture->script, "$d%d << EOD\n", i);
        for (size_t k = 0; k < roof->count; k++) {
            wtn_script_put(picture->script, "%.9g %.9g %s%lld\n", roof->dots[k].intensity,
                           roof->dots[k].rate, roof->count > LABELS_MAX ? "# " : "",
                           (long long)roof->dots[k].size);
        }
        wtn_script_put(picture->script, "EOD\n$r%d << EOD\n%.9g %.9g\n", i, intensity.low,
                       bound(roof, intensity.low));
        if (ridge > intensity.low && ridge < intensity.high) {
            wtn_script_put(picture->script, "%.9g %.9g\n", ridge, roof->peak);
        }
        wtn_script_put(picture->script, "%.9g %.9g\nEOD\n", intensity.high,
                       bound(roof, intensity.high));
    }
}

/* The ridge belongs into the picture: left of it memory limits, right of it arithmetic. */
static void find_ranges(const picture_t *picture, wtn_range_t *intensity, wtn_range_t *rate)
{
    *intensity = *rate = WTN_RANGE_EMPTY;
    for (int32_t i = 0; i < picture->plot->input_count; i++) {
        const roof_t *roof = &picture->roofs[i];

        for (size_t k = 0; k < roof->count; k++) {
            wtn_range_add(intensity, roof->dots[k].intensity);
            wtn_range_add(rate, roof->dots[k].rate);
        }
        if (roof->bandwidth > 0) {
            wtn_range_add(intensity, roof->peak / roof->bandwidth);
        }
    }
    intensity->low /= 1.5;
    intensity->high *= 2;
    for (int32_t i = 0; i < picture->plot->input_count; i++) {
        wtn_range_add(rate, bound(&picture->roofs[i], intensity->low));
        wtn_range_add(rate, picture->roofs[i].peak);
    }
}

static void put_input(const picture_t *picture, int32_t i)
{
    const roof_t *roof   = &picture->roofs[i];
    const char   *colour = wtn_script_colour((size_t)i);
    char          peak[WTN_NUMBER_BYTES], bandwidth[WTN_NUMBER_BYTES];
    char          text[WTN_SCRIPT_LABELS * 4 + 96];
    const char   *name = wtn_plot_label(&picture->plot->inputs[i]);

    wtn_script_number(roof->peak, WTN_UNIT_DECIMAL, peak);
    (void)snprintf(bandwidth, sizeof(bandwidth), "%.4g GB/s", roof->bandwidth * 1e-9);
    (void)snprintf(text, sizeof(text), "%sFLOP/s peak%s%s%s", peak, roof->bandwidth > 0 ? ", " : "",
                   roof->bandwidth > 0 ? bandwidth : "", roof->bandwidth > 0 ? " read" : "");
    wtn_script_put(picture->script,
                   "%s$r%d using 1:2 with lines linewidth 2 linecolor rgb '%s' title ",
                   i > 0 ? ", \\\n" : "plot ", i, colour);
    wtn_script_text(picture->script, text);
    (void)snprintf(text, sizeof(text), "%.280s, by %s", name,
                   roof->layer ? "tokens per rank" : "rows per expert");
    wtn_script_put(picture->script,
                   ", \\\n$d%d using 1:2 with points pointtype %d pointsize 0.8 linecolor rgb '%s' "
                   "title ",
                   i, wtn_script_point((size_t)i), colour);
    wtn_script_text(picture->script, text);
    if (roof->count <= LABELS_MAX) {
        wtn_script_put(picture->script, ", \\\n$d%d using 1:2:3 with labels offset 0,-0.8", i);
        wtn_script_font(picture->script, 10.5);
        wtn_script_put(picture->script, " textcolor rgb '%s' notitle", colour);
    }
}

static void put_picture(const picture_t *picture)
{
    int           rows   = 2 * picture->plot->input_count;
    wtn_panel_t   panel  = {WTN_SCRIPT_LEFT, WTN_SCRIPT_HEAD, PANEL_WIDTH, PANEL_HEIGHT};
    wtn_script_t *script = picture->script;
    wtn_range_t   intensity, rate;

    find_ranges(picture, &intensity, &rate);
    wtn_script_begin(script, panel.left + PANEL_WIDTH + WTN_SCRIPT_RIGHT,
                     WTN_SCRIPT_HEAD + PANEL_HEIGHT + WTN_SCRIPT_BELOW + rows * WTN_SCRIPT_ROW + 12,
                     picture->plot->options->title);
    panel.top += script->top;
    put_data(picture, intensity);
    wtn_script_panel(script, &panel, "Roofline");
    wtn_script_axis_binary(script, 'x', intensity);
    wtn_script_axis_decades(script, 'y', rate, WTN_UNIT_DECIMAL);
    wtn_script_x_label(script, "operations per byte of weights [FLOP/B]");
    wtn_script_y_label(script, &panel, "rate [FLOP/s]");
    wtn_script_legend(script, &panel, 1, 0);
    for (int32_t i = 0; i < picture->plot->input_count; i++) {
        put_input(picture, i);
    }
    wtn_script_put(script, "\n");
    wtn_script_end(script);
}

witan_status_t wtn_plot_roofline(const wtn_plot_t *plot, wtn_script_t *script)
{
    picture_t      picture = {.plot = plot, .script = script};
    witan_status_t status  = WITAN_OK;

    for (int32_t i = 0; i < plot->input_count && status == WITAN_OK; i++) {
        status = read_input(&plot->inputs[i], &picture.roofs[i]);
    }
    if (status == WITAN_OK) {
        put_picture(&picture);
    }
    for (int32_t i = 0; i < plot->input_count; i++) {
        free(picture.roofs[i].dots);
    }
    return status;
}

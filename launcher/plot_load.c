/* Expert load of the ranks before and after placement: of one layer, and the imbalance of all. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/plot.h"

#define PANEL_HEIGHT  280
#define LAYERS_WIDTH  340
#define RANKS_WIDTH   480
#define PLACES_MAX    4
#define LAYERS_MAX    4096
#define RANKS_MAX     65536
#define BARS_MAX      48 /* ranks that have room for two bars each */
#define BEFORE_COLOUR "#e69f00"
#define AFTER_COLOUR  "#0072b2"

typedef struct layer {
    int64_t index;
    double  imbalance[2]; /* before, after: the most over the mean */
} layer_t;

typedef struct place {
    layer_t *layers;
    size_t   layer_count, shown; /* shown: rank by rank */
    double  *loads[2];           /* of the shown one, over the mean */
    size_t   rank_count;
} place_t;

typedef struct picture {
    const wtn_plot_t *plot;
    wtn_script_t     *script;
    place_t           places[PLACES_MAX];
} picture_t;

static const char *const members[] = {"rank_load_before", "rank_load_after"};

/* ---- reading ---- */

/* Loads over their mean, where there is any load; the imbalance is the most of them. */
static witan_status_t read_loads(const wtn_node_t *layer, const char *name, double **loads,
                                 size_t *count, double *imbalance)
{
    wtn_node_t     list;
    double         sum = 0, mean;
    witan_status_t status;

    *loads = NULL;
    WTN_TRY(wtn_node_member(layer, name, &list));
    WTN_TRY(wtn_node_array(&list, 1, RANKS_MAX, count));
    *loads = calloc(*count, sizeof(**loads));
    if (*loads == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu ranks", layer->file, *count);
    }
    for (size_t i = 0; i < *count; i++) {
        wtn_node_t item = wtn_node_item(&list, i);

        WTN_TRY(wtn_node_number(&item, 0, 1e18, &(*loads)[i]));
        sum += (*loads)[i];
    }
    mean       = sum > 0 ? sum / (double)*count : 1;
    *imbalance = sum > 0 ? 0 : 1; /* no load is balanced */
    for (size_t i = 0; i < *count; i++) {
        (*loads)[i] /= mean;
        *imbalance = fmax(*imbalance, (*loads)[i]);
    }

fail:
    return status;
}

static witan_status_t read_layer(const wtn_node_t *item, size_t position, layer_t *layer,
                                 double *loads[2], size_t *rank_count)
{
    wtn_node_t     index;
    size_t         counts[2];
    witan_status_t status;

    layer->index = (int64_t)position;
    loads[0] = loads[1] = NULL;
    if (wtn_node_find(item, "layer", &index)) {
        WTN_TRY(wtn_node_integer(&index, 0, INT32_MAX, &layer->index));
    }
    for (int when = 0; when < 2; when++) {
        WTN_TRY(
            read_loads(item, members[when], &loads[when], &counts[when], &layer->imbalance[when]));
    }
    *rank_count = counts[0];
    if (counts[0] != counts[1]) {
        WTN_TRY(wtn_node_member(item, members[1], &index));
        return wtn_node_refuse(&index, "an array of %zu", counts[0]);
    }

fail:
    return status;
}

/* The layer that is asked for, else the worst before. */
static bool is_shown(const picture_t *picture, const place_t *place, size_t candidate)
{
    int64_t        wanted = picture->plot->options->layer;
    const layer_t *layer  = &place->layers[candidate];

    if (wanted >= 0) {
        return layer->index == wanted;
    }
    return place->loads[0] == NULL ||
           layer->imbalance[0] > place->layers[place->shown].imbalance[0];
}

static void drop(double *loads[2])
{
    free(loads[0]);
    free(loads[1]);
    loads[0] = loads[1] = NULL;
}

static void take(double *kept[2], double *loads[2])
{
    drop(kept);
    for (int when = 0; when < 2; when++) {
        kept[when]  = loads[when];
        loads[when] = NULL;
    }
}

static witan_status_t read_place(const picture_t *picture, int32_t index, place_t *place)
{
    wtn_node_t     root     = wtn_node_root(&picture->plot->inputs[index]), list;
    double        *loads[2] = {NULL, NULL};
    size_t         rank_count;
    witan_status_t status;

    WTN_TRY(wtn_node_member(&root, "layers", &list));
    WTN_TRY(wtn_node_array(&list, 1, LAYERS_MAX, &place->layer_count));
    place->layers = calloc(place->layer_count, sizeof(*place->layers));
    if (place->layers == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu layers", root.file, place->layer_count);
    }
    for (size_t i = 0; i < place->layer_count; i++) {
        wtn_node_t item = wtn_node_item(&list, i);

        WTN_TRY(read_layer(&item, i, &place->layers[i], loads, &rank_count));
        if (is_shown(picture, place, i)) {
            place->shown      = i;
            place->rank_count = rank_count;
            take(place->loads, loads);
        }
        drop(loads);
    }
    if (place->loads[0] == NULL) {
        return wtn_node_refuse(&list, "layer %" PRId64, picture->plot->options->layer);
    }

fail:
    drop(loads);
    return status;
}

/* ---- writing ---- */

static void put_layers(const picture_t *picture, int32_t index, const wtn_panel_t *panel)
{
    const place_t *place  = &picture->places[index];
    wtn_script_t  *script = picture->script;
    wtn_range_t    high   = {1, 1};
    bool           lines  = place->layer_count <= 200;

    wtn_script_put(script, "$l%d << EOD\n", index);
    for (size_t i = 0; i < place->layer_count; i++) {
        const layer_t *layer = &place->layers[i];

        wtn_script_put(script, "%lld %.6g %.6g\n", (long long)layer->index, layer->imbalance[0],
                       layer->imbalance[1]);
        wtn_range_add(&high, layer->imbalance[0]);
        wtn_range_add(&high, layer->imbalance[1]);
    }
    wtn_script_put(script, "EOD\n");
    wtn_script_panel(script, panel, "Imbalance of the layers");
    wtn_script_x_label(script, "layer");
    wtn_script_y_label(script, panel, "load of the busiest rank / mean");
    wtn_script_put(script, "set xtics %s\nset xrange [%lld-0.7:%lld+0.7]\n",
                   place->layer_count <= 12 ? "0,1" : "autofreq", (long long)place->layers[0].index,
                   (long long)place->layers[place->layer_count - 1].index);
    wtn_script_axis_linear(script, 'y', high, WTN_UNIT_PLAIN);
    wtn_script_legend(script, panel, 2, 0);
    for (int when = 0; when < 2; when++) {
        wtn_script_put(script,
                       "%s$l%d using 1:%d with %s pointtype %d pointsize 0.5 linecolor rgb '%s' "
                       "title '%s'",
                       when == 0 ? "plot " : ", \\\n", index, when + 2,
                       lines ? "linespoints" : "points", wtn_script_point((size_t)when),
                       when == 0 ? BEFORE_COLOUR : AFTER_COLOUR, when == 0 ? "before" : "after");
    }
    wtn_script_put(script, "\n");
}

static void put_ranks(const picture_t *picture, int32_t index, const wtn_panel_t *panel)
{
    const place_t *place  = &picture->places[index];
    const layer_t *layer  = &place->layers[place->shown];
    wtn_script_t  *script = picture->script;
    bool           bars   = place->rank_count <= BARS_MAX;
    double         high   = fmax(1, fmax(layer->imbalance[0], layer->imbalance[1]));
    char           title[224], label[160];

    wtn_script_put(script, "$k%d << EOD\n", index);
    for (size_t rank = 0; rank < place->rank_count; rank++) {
        wtn_script_put(script, "%zu %.6g %.6g\n", rank, place->loads[0][rank],
                       place->loads[1][rank]);
    }
    wtn_script_put(script, "EOD\n");
    wtn_script_cut(wtn_plot_label(&picture->plot->inputs[index]), 32, label, sizeof(label));
    (void)snprintf(title, sizeof(title), "Load of the ranks, layer %" PRId64 "%s%s", layer->index,
                   picture->plot->input_count > 1 ? ": " : "",
                   picture->plot->input_count > 1 ? label : "");
    wtn_script_panel(script, panel, title);
    wtn_script_x_label(script, "rank");
    wtn_script_y_label(script, panel, "load / mean");
    wtn_script_put(script, "set grid noxtics ytics\nset xrange [-0.7:%zu.7]\nset xtics %s\n",
                   place->rank_count - 1, place->rank_count <= 16 ? "0,1" : "autofreq");
    wtn_script_axis_linear(script, 'y', (wtn_range_t){0, high}, WTN_UNIT_PLAIN);
    wtn_script_legend(script, panel, 1, 0);
    for (int when = 0; when < 2; when++) {
        wtn_script_put(script, "%s$k%d using ", when == 0 ? "plot " : ", \\\n", index);
        if (bars) {
            wtn_script_put(script, "($1%+g):%d:(0.38) with boxes fillstyle solid noborder",
                           when == 0 ? -0.2 : 0.2, when + 2);
        } else {
            wtn_script_put(script, "1:%d with histeps linewidth 1", when + 2);
        }
        wtn_script_put(script, " linecolor rgb '%s' title '%s: imbalance %.3f'",
                       when == 0 ? BEFORE_COLOUR : AFTER_COLOUR, when == 0 ? "before" : "after",
                       layer->imbalance[when]);
    }
    wtn_script_put(script, ", \\\n1 with lines linewidth 1.5 dashtype 2 linecolor rgb '#444444' "
                           "title 'mean'\n");
}

static void put_picture(const picture_t *picture)
{
    int32_t       count  = picture->plot->input_count;
    wtn_script_t *script = picture->script;
    bool          layers = false;
    double wide, high = WTN_SCRIPT_HEAD + PANEL_HEIGHT + WTN_SCRIPT_BELOW + 3 * WTN_SCRIPT_ROW + 12;

    for (int32_t i = 0; i < count; i++) {
        layers = layers || picture->places[i].layer_count > 1;
    }
    high += count > 1 ? WTN_SCRIPT_ROW : 0;
    wide = WTN_SCRIPT_LEFT + RANKS_WIDTH + WTN_SCRIPT_RIGHT;
    wide += layers ? WTN_SCRIPT_LEFT + LAYERS_WIDTH + WTN_SCRIPT_RIGHT : 0;
    wtn_script_begin(script, wide, high * count, picture->plot->options->title);
    for (int32_t i = 0; i < count; i++) {
        double      top   = script->top + WTN_SCRIPT_HEAD + i * high;
        wtn_panel_t panel = {WTN_SCRIPT_LEFT, top, RANKS_WIDTH, PANEL_HEIGHT};

        put_ranks(picture, i, &panel);
        if (picture->places[i].layer_count > 1) {
            panel.left += RANKS_WIDTH + WTN_SCRIPT_RIGHT + WTN_SCRIPT_LEFT;
            panel.width = LAYERS_WIDTH;
            put_layers(picture, i, &panel);
        }
    }
    wtn_script_end(script);
}

witan_status_t wtn_plot_load(const wtn_plot_t *plot, wtn_script_t *script)
{
    picture_t      picture = {.plot = plot, .script = script};
    witan_status_t status  = WITAN_OK;

    if (plot->input_count > PLACES_MAX) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--input: expected at most %d placements, found %d",
                         PLACES_MAX, plot->input_count);
    }
    for (int32_t i = 0; i < plot->input_count && status == WITAN_OK; i++) {
        status = read_place(&picture, i, &picture.places[i]);
    }
    if (status == WITAN_OK) {
        put_picture(&picture);
    }
    for (int32_t i = 0; i < PLACES_MAX; i++) {
        free(picture.places[i].layers);
        drop(picture.places[i].loads);
    }
    return status;
}

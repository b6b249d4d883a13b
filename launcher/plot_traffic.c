/* Traffic as a map: bytes from every source rank to every destination rank. */
#include <math.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/plot.h"

#define PANEL_SIZE   400
#define RANKS_MAX    4096
#define CELLS_MAX    256 /* a side; more ranks share cells */
#define NUMBERS_MAX  8   /* a side; that have room for a number in each cell */
#define BOXES_MAX    32  /* a side */
#define IMAGE_DOTS   512
#define MAPS_MAX     4
#define BINARY_RATIO 64 /* amounts farther apart than this are told apart by powers of two */
#define BAR_WIDTH    110

typedef struct map {
    const wtn_plot_input_t *input;
    const char             *name, *suffix;              /* of the member; of the title */
    int64_t                 rank_count, ranks_per_node; /* 0: not in the file */
    int64_t                 share;                      /* ranks of a cell, a side */
    size_t                  side;
    double                 *cells; /* [side, side] bytes, source major */
    double                  total;
} map_t;

typedef struct picture {
    const wtn_plot_t *plot;
    wtn_script_t     *script;
    map_t             maps[MAPS_MAX];
    int32_t           map_count;
    wtn_range_t       amounts; /* of cells with traffic */
    bool              binary;
} picture_t;

/* ---- reading ---- */

static witan_status_t read_row(const wtn_node_t *rows, size_t source, map_t *map)
{
    wtn_node_t     row = wtn_node_item(rows, source);
    size_t         count;
    witan_status_t status;

    WTN_TRY(wtn_node_array(&row, (size_t)map->rank_count, (size_t)map->rank_count, &count));
    for (size_t destination = 0; destination < count; destination++) {
        wtn_node_t item = wtn_node_item(&row, destination);
        size_t cell = source / (size_t)map->share * map->side + destination / (size_t)map->share;
        double bytes;

        WTN_TRY(wtn_node_number(&item, 0, 1e18, &bytes));
        map->cells[cell] += bytes;
        map->total += bytes;
    }

fail:
    return status;
}

static witan_status_t read_map(map_t *map)
{
    wtn_node_t     root = wtn_node_root(map->input), rows, member;
    size_t         count;
    witan_status_t status;

    WTN_TRY(wtn_node_member_integer(&root, "ranks", 1, RANKS_MAX, &map->rank_count));
    WTN_TRY(wtn_node_member(&root, map->name, &rows));
    WTN_TRY(wtn_node_array(&rows, (size_t)map->rank_count, (size_t)map->rank_count, &count));
    if (wtn_node_find(&root, "ranks_per_node", &member)) {
        WTN_TRY(wtn_node_integer(&member, 1, map->rank_count, &map->ranks_per_node));
    }
    map->share = wtn_ceil_div(map->rank_count, CELLS_MAX);
    map->side  = (size_t)wtn_ceil_div(map->rank_count, map->share);
    map->cells = calloc(map->side * map->side, sizeof(*map->cells));
    if (map->cells == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu ranks", map->input->path, count);
    }
    for (size_t source = 0; source < count; source++) {
        WTN_TRY(read_row(&rows, source, map));
    }

fail:
    return status;
}

static witan_status_t add_map(picture_t *picture, const wtn_plot_input_t *input, const char *name,
                              const char *suffix)
{
    if (picture->map_count == MAPS_MAX) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--input: expected at most %d maps, found more, from '%s' on", MAPS_MAX,
                         input->path);
    }
    picture->maps[picture->map_count++] = (map_t){.input = input, .name = name, .suffix = suffix};
    return WITAN_OK;
}

/* What goes out, and in a file that has it, what returns. */
static witan_status_t list_maps(picture_t *picture, const wtn_plot_input_t *input)
{
    wtn_node_t     root = wtn_node_root(input), member;
    bool           both = wtn_node_find(&root, "combine_bytes", &member);
    witan_status_t status;

    WTN_TRY(add_map(picture, input, "bytes", both ? ": dispatch" : ""));
    if (both) {
        WTN_TRY(add_map(picture, input, "combine_bytes", ": combine"));
    }

fail:
    return status;
}

/* ---- writing ---- */

/* A box for each cell with traffic; for many cells an image, with every cell several dots wide:
 * viewers blur the edges of dots. */
static int64_t dots_of(const map_t *map)
{
    return map->side <= BOXES_MAX ? 0 : wtn_ceil_div(IMAGE_DOTS, (int64_t)map->side);
}

static void put_dots(const picture_t *picture, const map_t *map, int64_t dots)
{
    for (int64_t row = 0; row < (int64_t)map->side * dots; row++) {
        const double *cells = map->cells + (size_t)(row / dots) * map->side;

        for (int64_t column = 0; column < (int64_t)map->side * dots; column++) {
            double bytes = cells[column / dots];

            wtn_script_put(picture->script, bytes > 0 ? "%.4g " : "NaN ", bytes);
        }
        wtn_script_put(picture->script, "\n");
    }
}

static void put_data(const picture_t *picture, int32_t index)
{
    const map_t *map  = &picture->maps[index];
    int64_t      dots = dots_of(map);

    wtn_script_put(picture->script, "$m%d << EOD\n", index);
    if (dots > 0) {
        put_dots(picture, map, dots);
    }
    for (size_t i = 0; i < map->side * map->side && dots == 0; i++) {
        if (map->cells[i] > 0) {
            wtn_script_put(picture->script, "%zu %zu %.6g\n", i % map->side, i / map->side,
                           map->cells[i]);
        }
    }
    wtn_script_put(picture->script, "EOD\n");
}

static void put_plot(const picture_t *picture, int32_t index)
{
    long long dots = dots_of(&picture->maps[index]);

    if (picture->maps[index].total == 0) { /* gnuplot needs something to plot */
        wtn_script_put(picture->script, "plot -1 with lines notitle\n");
    } else if (dots > 0) {
        wtn_script_put(
            picture->script,
            "plot $m%d matrix using (($1+0.5)/%lld-0.5):(($2+0.5)/%lld-0.5):3 with image "
            "notitle\n",
            index, dots, dots);
    } else {
        wtn_script_put(picture->script,
                       "plot $m%d using 1:2:($1-0.5):($1+0.5):($2-0.5):($2+0.5):3 with boxxyerror "
                       "fillstyle solid noborder linecolor palette notitle\n",
                       index);
    }
}

/* Where `bytes` lies between no colour and the darkest. */
static double depth_of(const picture_t *picture, double bytes)
{
    if (!picture->binary) {
        return bytes / picture->amounts.high;
    }
    return log2(bytes / picture->amounts.low) /
           fmax(log2(picture->amounts.high / picture->amounts.low), 1);
}

/* "1.64M", what fits into a cell: binary thousands. */
static void short_bytes(double bytes, char text[WTN_NUMBER_BYTES])
{
    static const char *const units[] = {"", "K", "M", "G", "T", "P"};
    size_t                   unit    = 0;

    while (bytes >= 999.5 && unit + 1 < WTN_COUNT_OF(units)) {
        bytes /= 1024;
        unit++;
    }
    (void)snprintf(text, WTN_NUMBER_BYTES, "%.3g%s", bytes, units[unit]);
}

static void put_numbers(const picture_t *picture, const map_t *map)
{
    for (size_t i = 0; i < map->side * map->side && map->side <= NUMBERS_MAX; i++) {
        double bytes = map->cells[i];
        char   text[WTN_NUMBER_BYTES];

        short_bytes(bytes, text);
        wtn_script_put(picture->script,
                       "set label '%s' at first %zu,%zu center front textcolor rgb '%s'", text,
                       i % map->side, i / map->side,
                       bytes > 0 && depth_of(picture, bytes) > 0.55 ? "#ffffff" : "#000000");
        wtn_script_font(picture->script, 10.5);
        wtn_script_put(picture->script, "\n");
    }
}

/* Node boundaries, where the file tells of nodes and they can be seen. */
static void put_nodes(const picture_t *picture, const map_t *map)
{
    int64_t nodes =
        map->ranks_per_node > 0 ? wtn_ceil_div(map->rank_count, map->ranks_per_node) : 1;

    for (int64_t node = 1; node < nodes && nodes <= 64; node++) {
        double at = (double)(node * map->ranks_per_node) / (double)map->share - 0.5;

        for (int axis = 0; axis < 2; axis++) {
            wtn_script_put(picture->script,
                           axis == 0 ? "set arrow from first %.6g, graph 0 to first %.6g, graph 1 "
                                     : "set arrow from graph 0, first %.6g to graph 1, first %.6g ",
                           at, at);
            wtn_script_put(picture->script, "nohead front linewidth 1.5 linecolor rgb '#444444'\n");
        }
    }
}

/* Ranks as ticks: every one while there is room, else multiples of a power of two. */
static void put_ticks(const picture_t *picture, const map_t *map, char axis)
{
    int64_t every = 1;

    while (map->rank_count / every > 16) {
        every *= 2;
    }
    wtn_script_put(picture->script, "set %ctics (", axis);
    for (int64_t rank = 0; rank < map->rank_count; rank += every) {
        wtn_script_put(picture->script, "%s'%lld' %.6g", rank > 0 ? ", " : "", (long long)rank,
                       (double)rank / (double)map->share);
    }
    wtn_script_put(picture->script, ")\n");
}

static void put_panel(const picture_t *picture, int32_t index, const wtn_panel_t *panel)
{
    const map_t  *map    = &picture->maps[index];
    wtn_script_t *script = picture->script;
    bool          last   = index == picture->map_count - 1;
    char          total[WTN_NUMBER_BYTES], text[96], label[200], title[224];

    put_data(picture, index);
    wtn_script_cut(wtn_plot_label(map->input), 40, label, sizeof(label));
    (void)snprintf(title, sizeof(title), "%s%s", label, map->suffix);
    wtn_script_panel(script, panel, title);
    wtn_script_put(script,
                   "unset arrow\nunset grid\nset border 15 linecolor rgb '#444444'\n"
                   "set xrange [-0.5:%zu.5]\nset yrange [%zu.5:-0.5]\n",
                   map->side - 1, map->side - 1);
    put_ticks(picture, map, 'x');
    put_ticks(picture, map, 'y');
    wtn_script_x_label(script, "destination rank");
    wtn_script_y_label(script, panel, "source rank");
    put_nodes(picture, map);
    put_numbers(picture, map);
    wtn_script_number(map->total, WTN_UNIT_BYTES, total);
    (void)snprintf(text, sizeof(text), "%s in all; white: nothing", total);
    wtn_script_note(script, panel, 0, text);
    if (map->share > 1) {
        (void)snprintf(text, sizeof(text), "a cell: %lld x %lld ranks, summed",
                       (long long)map->share, (long long)map->share);
        wtn_script_note(script, panel, 1, text);
    }
    /* From pale to dark, the same order for every eye and in grey. */
    wtn_script_put(script, "set palette defined (0 '#f7f4c8', 0.25 '#a1d6b5', 0.5 '#3fa9b8', "
                           "0.75 '#2c6aa6', 1 '#17254f')\n");
    if (picture->binary) {
        wtn_script_colours_binary(script, picture->amounts, WTN_UNIT_BYTES);
    } else {
        wtn_script_colours_linear(script, picture->amounts.high, WTN_UNIT_BYTES);
    }
    if (last) {
        wtn_script_put(script,
                       "set colorbox user origin screen %.6f,%.6f size screen %.6f,%.6f "
                       "border\nset cblabel 'bytes'\n",
                       (panel->left + panel->width + 14) / script->width,
                       1 - (panel->top + panel->height) / script->height, 16 / script->width,
                       panel->height / script->height);
    }
    put_plot(picture, index);
}

static void put_picture(picture_t *picture)
{
    const wtn_plot_t *plot  = picture->plot;
    wtn_panel_t       panel = {WTN_SCRIPT_LEFT, WTN_SCRIPT_HEAD, PANEL_SIZE, PANEL_SIZE};
    double            wide  = WTN_SCRIPT_LEFT + PANEL_SIZE + WTN_SCRIPT_RIGHT;

    picture->amounts = WTN_RANGE_EMPTY;
    for (int32_t m = 0; m < picture->map_count; m++) {
        for (size_t i = 0; i < picture->maps[m].side * picture->maps[m].side; i++) {
            if (picture->maps[m].cells[i] > 0) {
                wtn_range_add(&picture->amounts, picture->maps[m].cells[i]);
            }
        }
    }
    if (picture->amounts.low > picture->amounts.high) {
        picture->amounts = (wtn_range_t){1, 1};
    }
    picture->binary = picture->amounts.high > picture->amounts.low * BINARY_RATIO;
    wtn_script_begin(picture->script, wide * picture->map_count + BAR_WIDTH,
                     WTN_SCRIPT_HEAD + PANEL_SIZE + WTN_SCRIPT_BELOW + 2 * WTN_SCRIPT_ROW + 12,
                     plot->options->title);
    panel.top += picture->script->top;
    for (int32_t m = 0; m < picture->map_count; m++) {
        put_panel(picture, m, &panel);
        panel.left += wide;
    }
    wtn_script_end(picture->script);
}

witan_status_t wtn_plot_traffic(const wtn_plot_t *plot, wtn_script_t *script)
{
    picture_t      picture = {.plot = plot, .script = script};
    witan_status_t status  = WITAN_OK;

    for (int32_t i = 0; i < plot->input_count && status == WITAN_OK; i++) {
        status = list_maps(&picture, &plot->inputs[i]);
    }
    for (int32_t m = 0; m < picture.map_count && status == WITAN_OK; m++) {
        status = read_map(&picture.maps[m]);
    }
    if (status == WITAN_OK) {
        put_picture(&picture);
    }
    for (int32_t m = 0; m < MAPS_MAX; m++) {
        free(picture.maps[m].cells);
    }
    return status;
}

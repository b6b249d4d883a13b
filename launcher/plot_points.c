#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/plot_points.h"
#include "launcher/session.h"

#define NAME_LETTERS 28 /* of a source, so that what follows stays */
#define POINTS_MAX   100000
#define SECONDS_MIN  1e-12
#define SECONDS_MAX  1e12
#define COUNT_MAX    ((int64_t)1 << 40)

/* ---- reading ---- */

static witan_status_t phase_index(wtn_points_t *points, const wtn_node_t *phases, const char *name,
                                  size_t *index)
{
    for (*index = 0; *index < points->phase_count; (*index)++) {
        if (strcmp(points->phase_names[*index], name) == 0) {
            return WITAN_OK;
        }
    }
    if (*index == WTN_PHASES_MAX || strlen(name) >= sizeof(points->phase_names[0])) {
        return wtn_node_refuse(phases, "at most %d phases in all files, with names below %zu bytes",
                               WTN_PHASES_MAX, sizeof(points->phase_names[0]));
    }
    (void)snprintf(points->phase_names[points->phase_count++], sizeof(points->phase_names[0]), "%s",
                   name);
    return WITAN_OK;
}

static witan_status_t read_phases(wtn_points_t *points, const wtn_node_t *from, const char *member,
                                  double unit, wtn_point_t *point)
{
    wtn_node_t     phases;
    const char    *name;
    json_t        *value;
    witan_status_t status;

    if (!wtn_node_find(from, member, &phases)) {
        return WITAN_OK;
    }
    if (!json_is_object(phases.json)) {
        return wtn_node_refuse(&phases, "an object");
    }
    json_object_foreach((json_t *)(uintptr_t)phases.json, name, value)
    {
        double amount;
        size_t index;

        (void)value;
        WTN_TRY(wtn_node_member_number(&phases, name, 0, SECONDS_MAX, &amount));
        WTN_TRY(phase_index(points, &phases, name, &index));
        point->phases[index] = amount * unit;
        point->has_phases    = true;
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t read_variant(const wtn_node_t *from, wtn_point_t *point)
{
    static const char *const names[] = {"mode", "hierarchy", "combine"};
    wtn_node_t               member;
    size_t                   used = 0;
    int64_t                  chunks;
    witan_status_t           status = WITAN_OK;

    for (size_t i = 0; i < WTN_COUNT_OF(names); i++) {
        const char *text;

        if (wtn_node_find(from, names[i], &member)) {
            WTN_TRY(wtn_node_text(&member, &text));
            (void)snprintf(point->variant + used, sizeof(point->variant) - used, "%s%.16s",
                           used > 0 ? ", " : "", text);
            used = strlen(point->variant);
        }
    }
    if (wtn_node_find(from, "chunks", &member)) {
        WTN_TRY(wtn_node_integer(&member, 1, COUNT_MAX, &chunks));
        if (chunks > 1) {
            (void)snprintf(point->variant + used, sizeof(point->variant) - used,
                           "%s%" PRId64 " chunks", used > 0 ? ", " : "", chunks);
        }
    }

fail:
    return status;
}

static witan_status_t read_scaling(const wtn_plot_t *plot, const wtn_node_t *from, bool *strong)
{
    wtn_node_t     member;
    const char    *text;
    witan_status_t status;

    *strong = plot->options->scaling == WTN_PLOT_STRONG;
    if (!wtn_node_find(from, "scaling", &member)) {
        return WITAN_OK;
    }
    WTN_TRY(wtn_node_text(&member, &text));
    *strong = strcmp(text, "strong") == 0;
    if (!*strong && strcmp(text, "weak") != 0) {
        return wtn_node_refuse(&member, "strong or weak");
    }

fail:
    return status;
}

static witan_status_t read_flag(const wtn_node_t *from, const char *name, bool *flag)
{
    wtn_node_t member;

    return wtn_node_find(from, name, &member) ? wtn_node_bool(&member, flag) : WITAN_OK;
}

/* A point of a plan or of a study. */
static witan_status_t read_point(wtn_points_t *points, const wtn_node_t *from, wtn_point_t *point)
{
    wtn_node_t     member;
    witan_status_t status;

    WTN_TRY(wtn_node_member_integer(from, "ranks", 1, COUNT_MAX, &point->ranks));
    WTN_TRY(
        wtn_node_member_integer(from, "tokens_per_rank", 0, COUNT_MAX, &point->tokens_per_rank));
    WTN_TRY(wtn_node_member_number(from, "seconds", SECONDS_MIN, SECONDS_MAX, &point->seconds));
    WTN_TRY(read_scaling(points->plot, from, &point->strong));
    WTN_TRY(read_flag(from, "measured", &point->measured));
    WTN_TRY(read_flag(from, "best", &point->best));
    WTN_TRY(read_variant(from, point));
    WTN_TRY(read_phases(points, from, "phases", 1, point));
    if (__builtin_mul_overflow(point->ranks, point->tokens_per_rank, &point->token_count)) {
        return wtn_node_refuse(from, "ranks * tokens_per_rank below 2^63");
    }
    if (wtn_node_find(from, "tokens", &member)) {
        WTN_TRY(wtn_node_integer(&member, 0, INT64_MAX, &point->token_count));
        point->exact = true;
    }

fail:
    return status;
}

/* A result of bench layer: what the file says once, `base` has already. */
static witan_status_t read_result(wtn_points_t *points, const wtn_node_t *from, wtn_point_t *point)
{
    double         us;
    int64_t        groups = point->token_count; /* ranks that share their tokens */
    witan_status_t status;

    WTN_TRY(wtn_node_member_integer(from, "tokens", 0, COUNT_MAX, &point->tokens_per_rank));
    WTN_TRY(wtn_node_member_number(from, "p50_us", SECONDS_MIN * 1e6, SECONDS_MAX, &us));
    WTN_TRY(read_phases(points, from, "phases_us", 1e-6, point));
    point->seconds     = us * 1e-6;
    point->token_count = point->tokens_per_rank * groups;

fail:
    return status;
}

static witan_status_t read_bench(const wtn_plot_t *plot, const wtn_node_t *root, wtn_point_t *base)
{
    int64_t        shared;
    witan_status_t status;

    WTN_TRY(wtn_node_member_integer(root, "ranks", 1, 1 << 20, &base->ranks));
    WTN_TRY(wtn_node_member_integer(root, "tensor_parallel", 1, base->ranks, &shared));
    WTN_TRY(read_variant(root, base));
    if (shared > 1) {
        (void)snprintf(base->variant, sizeof(base->variant), "tp %" PRId64, shared);
    }
    base->token_count = base->ranks / shared;
    base->strong      = plot->options->scaling == WTN_PLOT_STRONG;

fail:
    return status;
}

static bool is_bench(const wtn_plot_input_t *input)
{
    return strcmp(input->schema, "witan.bench.layer/1") == 0;
}

/* Inputs of one label are one source; so are those of bench layer, which hold one number of ranks
 * each. */
static int32_t group_of(const wtn_plot_t *plot, int32_t index)
{
    const wtn_plot_input_t *input = &plot->inputs[index];

    for (int32_t i = 0; i < index; i++) {
        const wtn_plot_input_t *other = &plot->inputs[i];

        if (input->label != NULL && other->label != NULL
                ? strcmp(input->label, other->label) == 0
                : input->label == other->label && is_bench(input) && is_bench(other)) {
            return i;
        }
    }
    return index;
}

static witan_status_t read_input(wtn_points_t *points, int32_t index)
{
    const wtn_plot_input_t *input = &points->plot->inputs[index];
    bool                    bench = is_bench(input);
    wtn_node_t              root  = wtn_node_root(input), list;
    wtn_point_t             base  = {.input    = index,
                                     .group    = group_of(points->plot, index),
                                     .measured = strcmp(input->schema, "witan.plan.scale/1") != 0};
    size_t                  count;
    wtn_point_t            *grown;
    witan_status_t          status;

    WTN_TRY(wtn_node_member(&root, bench ? "results" : "points", &list));
    WTN_TRY(wtn_node_array(&list, 0, POINTS_MAX, &count));
    if (bench) {
        WTN_TRY(read_bench(points->plot, &root, &base));
    }
    grown = realloc(points->points, (points->count + count + 1) * sizeof(*grown));
    if (grown == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu points", input->path, count);
    }
    points->points = grown;
    for (size_t i = 0; i < count; i++) {
        wtn_node_t   item  = wtn_node_item(&list, i);
        wtn_point_t *point = &points->points[points->count];

        *point = base;
        WTN_TRY(bench ? read_result(points, &item, point) : read_point(points, &item, point));
        points->names_best[index] = points->names_best[index] || point->best;
        points->count++;
    }

fail:
    return status;
}

/* ---- choosing ---- */

static void keep(wtn_points_t *points, bool (*wanted)(const wtn_points_t *, const wtn_point_t *))
{
    size_t kept = 0;

    for (size_t i = 0; i < points->count; i++) {
        if (wanted(points, &points->points[i])) {
            points->points[kept++] = points->points[i];
        }
    }
    points->count = kept;
}

static bool is_scaling(const wtn_points_t *points, const wtn_point_t *point)
{
    int32_t scaling = points->plot->options->scaling;

    return scaling == WTN_PLOT_BOTH || point->strong == (scaling == WTN_PLOT_STRONG);
}

/* What was measured without a word of its mode is there to compare with. */
static bool is_named(const wtn_points_t *points, const wtn_point_t *point)
{
    const char *only = points->plot->options->only;

    return only == NULL || point->variant[0] == '\0' || strstr(point->variant, only) != NULL;
}

/* A file that names the best means only these. */
static bool is_best(const wtn_points_t *points, const wtn_point_t *point)
{
    return point->best || !points->names_best[point->input];
}

static bool is_of_case(const wtn_points_t *points, const wtn_point_t *point)
{
    (void)points;
    return point->case_index >= 0;
}

/* How far `point` is from a case in tokens of a rank: where they do not divide, strong scaling
 * rounds up or down. */
static double distance(const wtn_case_t *one, const wtn_point_t *point)
{
    double expected = (double)one->tokens;
    double away;

    if (one->strong != point->strong ||
        (point->exact && one->strong && point->token_count != one->tokens)) {
        return 2;
    }
    if (point->exact && one->strong) {
        return 0;
    }
    expected = one->strong ? expected / (double)point->ranks : expected;
    away     = (one->strong ? (double)point->token_count / (double)point->ranks
                            : (double)point->tokens_per_rank) -
           expected;
    away = away < 0 ? -away : away;
    return one->strong || away == 0 ? away : 2;
}

static bool is_asked(const wtn_points_t *points, int64_t tokens)
{
    const wtn_option_list_t *list = &points->plot->options->tokens;

    for (int32_t i = 0; i < list->count; i++) {
        if (list->values[i] == tokens) {
            return true;
        }
    }
    return list->count == 0;
}

/* Cases begin with the points of fewest ranks, where rounding is least. */
static witan_status_t find_case(wtn_points_t *points, wtn_point_t *point)
{
    wtn_case_t mine = {point->strong, point->strong ? point->token_count : point->tokens_per_rank};
    double     nearest = 1;

    point->case_index = -1;
    for (int32_t i = 0; i < points->case_count; i++) {
        double away = distance(&points->cases[i], point);

        if (away < nearest) {
            nearest           = away;
            point->case_index = i;
        }
    }
    if (point->case_index >= 0 || !is_asked(points, mine.tokens)) {
        return WITAN_OK;
    }
    if (points->case_count == WTN_CASES_MAX) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "plot: the files hold more than %d numbers of tokens: choose with "
                         "--scaling and --tokens",
                         WTN_CASES_MAX);
    }
    points->cases[points->case_count] = mine;
    point->case_index                 = points->case_count++;
    return WITAN_OK;
}

static int compare(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

/* Strong before weak, then by ranks, so that cases are found in the order of their tokens. */
static int before_cases(const void *left, const void *right)
{
    const wtn_point_t *a = left, *b = right;
    int                order = compare(b->strong, a->strong);

    order = order != 0 ? order : compare(a->ranks, b->ranks);
    return order != 0 ? order : compare(a->token_count, b->token_count);
}

static int by_series(const void *left, const void *right)
{
    const wtn_point_t *a = left, *b = right;
    int                order = compare(a->case_index, b->case_index);

    order = order != 0 ? order : compare(a->measured, b->measured);
    order = order != 0 ? order : compare(a->group, b->group);
    return order != 0 ? order : strcmp(a->variant, b->variant);
}

static int by_ranks(const void *left, const void *right)
{
    const wtn_point_t *a = left, *b = right;
    int                order = by_series(left, right);

    order = order != 0 ? order : compare(a->ranks, b->ranks);
    return order != 0 ? order : (a->seconds > b->seconds) - (a->seconds < b->seconds);
}

/* ---- series ---- */

void wtn_case_text(const wtn_case_t *one, char text[48])
{
    (void)snprintf(text, 48, "%" PRId64 " token%s %s", one->tokens, wtn_plural(one->tokens),
                   one->strong ? "in all" : "per rank");
}

/* "predicted for h100-ib", or what --label says. */
static void source_text(const wtn_points_t *points, const wtn_point_t *point, char *text,
                        size_t bytes)
{
    const wtn_plot_input_t *input = &points->plot->inputs[point->group];
    const char             *kind  = point->measured ? "measured" : "predicted";
    const char             *name =
        json_string_value(json_object_get(json_object_get(input->root, "machine"), "name"));
    char    cut[160];
    int32_t kin = 0;

    wtn_script_cut(input->label == NULL && name != NULL ? name : wtn_plot_label(input),
                   NAME_LETTERS, cut, sizeof(cut));
    for (int32_t i = 0; i < points->plot->input_count; i++) {
        kin += strcmp(points->plot->inputs[i].schema, input->schema) == 0 &&
               group_of(points->plot, i) == i;
    }
    if (input->label != NULL) {
        (void)snprintf(text, bytes, "%s", cut);
    } else if (name != NULL) {
        (void)snprintf(text, bytes, "%s for %s", kind, cut);
    } else if (kin > 1) {
        (void)snprintf(text, bytes, "%s, %s", kind, cut);
    } else {
        (void)snprintf(text, bytes, "%s", kind);
    }
}

static void name_series(wtn_points_t *points, wtn_series_t *series)
{
    const wtn_point_t *first = &points->points[series->begin];
    const wtn_case_t  *one   = &points->cases[series->case_index];
    int32_t            kin   = 0;
    bool               alike = true;
    char               text[48];
    size_t             used;

    source_text(points, first, series->text, sizeof(series->text) - sizeof(first->variant) - 52);
    used = strlen(series->text);
    for (int32_t i = 0; i < points->case_count; i++) {
        kin += points->cases[i].strong == one->strong;
    }
    if (kin > 1) {
        wtn_case_text(one, text);
        used += (size_t)snprintf(series->text + used, sizeof(series->text) - used, ", %s", text);
    }
    for (size_t i = 0; i < points->count; i++) {
        const wtn_point_t *other = &points->points[i];

        alike = alike && (other->measured != first->measured || other->group != first->group ||
                          strcmp(other->variant, first->variant) == 0);
    }
    if (!alike) {
        (void)snprintf(series->text + used, sizeof(series->text) - used, ", %s", first->variant);
    }
}

/* The how many-th of its kind within its case. */
static size_t look_of(const wtn_points_t *points, const wtn_series_t *series)
{
    size_t look = 0, most = 0;

    for (size_t i = 0; i < points->series_count; i++) {
        const wtn_series_t *other = &points->series[i];

        if (other == series) {
            break;
        }
        if (other->case_index == series->case_index) {
            look += other->measured == series->measured;
        } else if (points->cases[other->case_index].strong ==
                   points->cases[series->case_index].strong) {
            most = other->look + 1 > most ? other->look + 1 : most;
        }
    }
    return look + most;
}

static witan_status_t find_series(wtn_points_t *points)
{
    for (size_t i = 0; i < points->count; i++) {
        wtn_series_t *series = &points->series[points->series_count];

        if (i > 0 && by_series(&points->points[i - 1], &points->points[i]) == 0) {
            series--;
        } else if (points->series_count == WTN_SERIES_MAX) {
            return WTN_ERROR(WITAN_E_ARGUMENT,
                             "plot: expected at most %d lines, found more: choose with --scaling, "
                             "--tokens and --only, or leave --all away",
                             WTN_SERIES_MAX);
        } else {
            *series      = (wtn_series_t){.begin      = i,
                                          .case_index = points->points[i].case_index,
                                          .measured   = points->points[i].measured};
            series->look = look_of(points, series);
            points->series_count++;
        }
        series->end              = i + 1;
        points->points[i].series = (int32_t)(series - points->series);
    }
    for (size_t i = 0; i < points->series_count; i++) {
        name_series(points, &points->series[i]);
    }
    return WITAN_OK;
}

static bool is_choosy(const wtn_plot_options_t *options)
{
    return options->tokens.count > 0 || options->scaling != WTN_PLOT_BOTH || options->only != NULL;
}

witan_status_t wtn_points_read(wtn_points_t *points, const wtn_plot_t *plot)
{
    witan_status_t status;

    *points = (wtn_points_t){.plot = plot};
    for (int32_t i = 0; i < plot->input_count; i++) {
        WTN_TRY(read_input(points, i));
    }
    keep(points, is_scaling);
    keep(points, is_named);
    if (!plot->options->all && plot->options->only == NULL) {
        keep(points, is_best);
        for (size_t i = 0; i < points->count; i++) {
            if (points->points[i].best) {
                (void)snprintf(points->points[i].variant, sizeof(points->points[i].variant),
                               "best");
            }
        }
    }
    if (points->count > 0) {
        qsort(points->points, points->count, sizeof(*points->points), before_cases);
    }
    for (size_t i = 0; i < points->count; i++) {
        WTN_TRY(find_case(points, &points->points[i]));
    }
    keep(points, is_of_case);
    if (points->count == 0) {
        return WTN_ERROR(WITAN_E_FORMAT, "%s: expected points%s, found none", plot->inputs[0].path,
                         is_choosy(plot->options) ? " of the scaling, tokens and modes asked for"
                                                  : "");
    }
    qsort(points->points, points->count, sizeof(*points->points), by_ranks);
    return find_series(points);

fail:
    return status;
}

void wtn_points_free(wtn_points_t *points)
{
    free(points->points);
    points->points = NULL;
}

/* witan plan place: the slots of every layer from the loads of its experts. Touches no MPI. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <witan/witan.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/file.h"
#include "launcher/alone.h"
#include "launcher/bench.h"
#include "launcher/paths.h"
#include "launcher/plan.h"
#include "topology/balance.h"

typedef struct place_words {
    const char *load, *current, *within, *json;
    int64_t     slot_count, group_count, node_count, rank_count;
    bool        report;
    double      imbalance_max; /* of --within; 0: not given */
} place_words_t;

/* One layer at a time. */
typedef struct place {
    const place_words_t *words;
    wtn_plan_table_t     table, current; /* loads; experts of slots, empty without --current */
    wtn_balance_shape_t  shape;
    int32_t             *slot_expert, *slot_owner;     /* [R] */
    wtn_balance_slots_t  before;                       /* of the layer at hand */
    int32_t             *before_expert, *before_owner; /* contiguous, or those of --current */
    int64_t              move_count;
    int32_t             *replica_count;            /* [E] */
    double              *load_before, *load_after; /* [D] of ranks */
    json_t              *layers;                   /* NULL without --json */
} place_t;

static void place_free(place_t *place)
{
    wtn_plan_table_free(&place->table);
    wtn_plan_table_free(&place->current);
    free(place->slot_expert);
    free(place->slot_owner);
    free(place->before_expert);
    free(place->before_owner);
    free(place->replica_count);
    free(place->load_before);
    free(place->load_after);
    json_decref(place->layers);
}

/* --current must be a placement of the same layers and experts on the same ranks. */
static witan_status_t check_current(const place_t *place)
{
    const wtn_plan_table_t *current = &place->current;
    const char             *path    = current->name;

    if (current->row_count != place->table.row_count) {
        return WTN_ERROR(WITAN_E_FORMAT, "%s: expected %" PRId64 " layers as in %s, found %" PRId64,
                         path, place->table.row_count, place->table.name, current->row_count);
    }
    if (current->column_count % place->shape.rank_count != 0) {
        return WTN_ERROR(WITAN_E_FORMAT,
                         "%s: expected slots that --gpus %" PRId32 " divides, found %" PRId32, path,
                         place->shape.rank_count, current->column_count);
    }
    for (int64_t i = 0; i < current->row_count * current->column_count; i++) {
        float value = current->values[i];

        if (!(value < (float)place->shape.expert_count) || value != floorf(value)) {
            return WTN_ERROR(WITAN_E_FORMAT,
                             "%s: line %" PRId64 ", number %" PRId64
                             ": expected an expert, 0 to %" PRId32 ", found %g",
                             path, current->lines[i / current->column_count],
                             i % current->column_count + 1, place->shape.expert_count - 1,
                             (double)value);
        }
    }
    return WITAN_OK;
}

/* The placement to compare with: experts dealt to the ranks in contiguous runs, or --current. */
static witan_status_t make_before(place_t *place)
{
    bool    given = place->words->current != NULL;
    int32_t slots = given ? place->current.column_count : place->shape.expert_count;

    place->before_owner  = calloc((size_t)slots, sizeof(*place->before_owner));
    place->before_expert = calloc((size_t)slots, sizeof(*place->before_expert));
    if (place->before_owner == NULL || place->before_expert == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %" PRId32 " slots", place->words->load, slots);
    }
    place->before = (wtn_balance_slots_t){slots, place->before_expert, place->before_owner};
    for (int32_t s = 0; s < slots; s++) {
        place->before_expert[s] = s;
    }
    for (int32_t r = 0; r < place->shape.rank_count; r++) {
        int64_t end = wtn_part_begin(slots, place->shape.rank_count, r + 1);

        for (int64_t s = wtn_part_begin(slots, place->shape.rank_count, r); s < end; s++) {
            place->before_owner[s] = r;
        }
    }
    return WITAN_OK;
}

/* What only the file tells: the number of experts. */
static witan_status_t check_shape(const place_t *place)
{
    const wtn_balance_shape_t *shape = &place->shape;

    if (shape->slot_count < shape->expert_count) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--slots: expected at least the %" PRId32 " experts of %s, found %" PRId32,
                         shape->expert_count, place->table.name, shape->slot_count);
    }
    if (shape->group_count > shape->expert_count) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--groups: expected at most the %" PRId32 " experts of %s, found %" PRId32,
                         shape->expert_count, place->table.name, shape->group_count);
    }
    return wtn_balance_check(shape);
}

static witan_status_t place_make(place_t *place, const place_words_t *words)
{
    size_t         experts, slots = (size_t)words->slot_count, ranks = (size_t)words->rank_count;
    witan_status_t status;

    *place = (place_t){.words = words};
    WTN_TRY(wtn_plan_table_read(&place->table, words->load));
    place->shape = (wtn_balance_shape_t){
        .expert_count = place->table.column_count,
        .slot_count   = (int32_t)words->slot_count,
        .group_count  = (int32_t)words->group_count,
        .node_count   = (int32_t)words->node_count,
        .rank_count   = (int32_t)words->rank_count,
    };
    WTN_TRY(check_shape(place));
    if (words->current != NULL) {
        WTN_TRY(wtn_plan_table_read(&place->current, words->current));
        WTN_TRY(check_current(place));
    }
    WTN_TRY(make_before(place));
    experts              = (size_t)place->shape.expert_count;
    place->slot_expert   = calloc(slots, sizeof(*place->slot_expert));
    place->slot_owner    = calloc(slots, sizeof(*place->slot_owner));
    place->replica_count = calloc(experts, sizeof(*place->replica_count));
    place->load_before   = calloc(ranks, sizeof(*place->load_before));
    place->load_after    = calloc(ranks, sizeof(*place->load_after));
    place->layers        = words->json != NULL ? json_array() : NULL;
    if (place->slot_expert == NULL || place->slot_owner == NULL || place->replica_count == NULL ||
        place->load_before == NULL || place->load_after == NULL ||
        (words->json != NULL && place->layers == NULL)) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu slots on %zu ranks", words->load, slots, ranks);
    }

fail:
    return status;
}

static json_t *integers(const int32_t *values, int32_t count)
{
    json_t *array = json_array();

    for (int32_t i = 0; i < count; i++) {
        (void)json_array_append_new(array, json_integer(values[i]));
    }
    return array;
}

static json_t *reals(const double *values, int32_t count)
{
    json_t *array = json_array();

    for (int32_t i = 0; i < count; i++) {
        (void)json_array_append_new(array, json_real(values[i]));
    }
    return array;
}

static json_t *layer_json(const place_t *place, int64_t layer, double before, double after)
{
    const wtn_balance_shape_t *shape = &place->shape;
    json_t *moves = place->words->current != NULL ? json_integer(place->move_count) : json_null();

    return json_pack("{s:I, s:f, s:f, s:o, s:o, s:o, s:o, s:o}", "layer", (json_int_t)layer,
                     "imbalance_before", before, "imbalance_after", after, "moves", moves, "slots",
                     integers(place->slot_expert, shape->slot_count), "slot_owner",
                     integers(place->slot_owner, shape->slot_count), "rank_load_before",
                     reals(place->load_before, shape->rank_count), "rank_load_after",
                     reals(place->load_after, shape->rank_count));
}

static void show_layer(const place_t *place, int64_t layer)
{
    int32_t ranks = place->shape.rank_count, most = 0;
    double  before = wtn_balance_imbalance(place->load_before, ranks);
    double  after  = wtn_balance_imbalance(place->load_after, ranks);

    for (int32_t s = 0; s < place->shape.slot_count; s++) {
        printf("%s%" PRId32, s == 0 ? "" : " ", place->slot_expert[s]);
    }
    printf("\n");
    for (int32_t e = 0; e < place->shape.expert_count; e++) {
        most = place->replica_count[e] > most ? place->replica_count[e] : most;
    }
    if (place->words->report) {
        (void)fprintf(stderr, "%7" PRId64 " %10.4f %10.4f %8" PRId32, layer, before, after, most);
        if (place->words->current != NULL) {
            (void)fprintf(stderr, " %8" PRId64, place->move_count);
        }
        (void)fprintf(stderr, "\n");
    }
    if (place->layers != NULL) {
        (void)json_array_append_new(place->layers, layer_json(place, layer, before, after));
    }
}

/* Slots of one layer, from nothing or from what they hold now. */
static witan_status_t place_slots(place_t *place, const float *load, int64_t layer)
{
    const wtn_balance_shape_t *shape = &place->shape;
    const float               *now   = place->current.values;
    witan_status_t             status;

    for (int32_t s = 0; s < place->current.column_count; s++) {
        place->before_expert[s] = (int32_t)now[layer * place->current.column_count + s];
    }
    if (place->words->imbalance_max > 0) {
        return wtn_balance_renew(shape, load, place->words->imbalance_max, &place->before,
                                 place->slot_expert, place->slot_owner);
    }
    WTN_TRY(wtn_balance(shape, load, place->slot_expert, place->slot_owner));
    if (place->words->current != NULL) {
        WTN_TRY(wtn_balance_settle(shape, &place->before, place->slot_owner, place->slot_expert));
    }

fail:
    return status;
}

static witan_status_t place_layer(place_t *place, int64_t layer)
{
    const wtn_balance_shape_t *shape = &place->shape;
    const float        *load  = place->table.values + (size_t)layer * (size_t)shape->expert_count;
    wtn_balance_slots_t after = {shape->slot_count, place->slot_expert, place->slot_owner};
    witan_status_t      status;

    status = place_slots(place, load, layer);
    if (status != WITAN_OK) {
        status = status == WITAN_E_ARGUMENT ? WITAN_E_FORMAT : status; /* the loads of that line */
        return wtn_error_prefix(status, "%s: line %" PRId64, place->table.name,
                                place->table.lines[layer]);
    }
    WTN_TRY(wtn_balance_moves(shape, &place->before, &after, &place->move_count));
    wtn_balance_loads(shape, load, &place->before, place->replica_count, place->load_before);
    wtn_balance_loads(shape, load, &after, place->replica_count, place->load_after);
    show_layer(place, layer);

fail:
    return status;
}

static witan_status_t write_json(const place_t *place)
{
    const wtn_balance_shape_t *s = &place->shape;
    json_t                    *root =
        json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:O}", "schema", "witan.plan.place/1",
                  "version", witan_version(), "experts", (int)s->expert_count, "slots",
                  (int)s->slot_count, "groups", (int)s->group_count, "nodes", (int)s->node_count,
                  "ranks", (int)s->rank_count, "layers", place->layers);
    witan_status_t status;

    if (root == NULL || json_array_size(place->layers) != (size_t)place->table.row_count) {
        status = WTN_ERROR(WITAN_E_MEMORY, "%s: the JSON values", place->words->json);
    } else {
        status = wtn_bench_json_write(place->words->json, root);
    }
    json_decref(root);
    return status;
}

static witan_status_t read_within(place_words_t *words)
{
    char *end;

    words->imbalance_max = 0;
    if (words->within == NULL) {
        return WITAN_OK;
    }
    if (words->current == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--within: expected --current too");
    }
    words->imbalance_max = strtod(words->within, &end);
    if (*end != '\0' || words->within[strspn(words->within, "0123456789.")] != '\0' ||
        !(words->imbalance_max >= 1) || isinf(words->imbalance_max)) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--within: expected a number of at least 1, found '%s'",
                         words->within);
    }
    return WITAN_OK;
}

/* Wrong usage that the table of options does not tell. */
static witan_status_t check_words(void *context)
{
    place_words_t         *words = context;
    const wtn_named_path_t json = {"--json", words->json}, load = {"--load", words->load};
    const wtn_named_path_t current = {"--current", words->current};
    witan_status_t         status;

    if (words->node_count > words->rank_count) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--nodes: expected at most --gpus %" PRId64 ", found %" PRId64,
                         words->rank_count, words->node_count);
    }
    if (words->current != NULL && strcmp(words->current, "-") == 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--current: expected a file, found '-'");
    }
    WTN_TRY(read_within(words));
    WTN_TRY(wtn_paths_check(&json, 1, &load, NULL));
    WTN_TRY(wtn_paths_check(&json, 1, &current, NULL));

fail:
    return status;
}

/* Said before the work: a file that can not be made. */
static witan_status_t check_json(const place_words_t *words)
{
    char          *target = NULL;
    witan_status_t status = WITAN_OK;

    if (words->json != NULL) {
        status = wtn_file_target(words->json, &target);
        free(target);
    }
    return status;
}

static witan_status_t place_all(void *context)
{
    const place_words_t *words = context;
    place_t              place;
    witan_status_t       status;

    memset(&place, 0, sizeof(place));
    WTN_TRY(check_json(words));
    WTN_TRY(place_make(&place, words));
    if (words->report) {
        (void)fprintf(stderr, "# %5s %10s %10s %8s%s\n", "layer", "before", "after", "replicas",
                      words->current != NULL ? "    moves" : "");
    }
    for (int64_t layer = 0; layer < place.table.row_count; layer++) {
        WTN_TRY(place_layer(&place, layer));
    }
    WTN_TRY(wtn_results_flush());
    if (words->json != NULL) {
        WTN_TRY(write_json(&place));
    }

fail:
    place_free(&place);
    return status;
}

int wtn_plan_place(int argc, char **argv)
{
    place_words_t words;
    wtn_option_t  table[] = {
         WTN_OPT_REQUIRED("load", "FILE", &words.load,
                          "a layer a line: the load of each expert; - is standard input"),
         WTN_OPT_REQUIRED_INTEGER("slots", "R", 1, WTN_BALANCE_COUNT_MAX, &words.slot_count,
                                  "slots over all ranks, at least the experts"),
         WTN_OPT_INTEGER("groups", "G", "1", 1, WTN_BALANCE_COUNT_MAX, &words.group_count,
                         "groups of experts, kept on a node if --nodes divides them"),
         WTN_OPT_INTEGER("nodes", "N", "1", 1, WTN_BALANCE_COUNT_MAX, &words.node_count, "nodes"),
         WTN_OPT_REQUIRED_INTEGER("gpus", "D", 1, WTN_BALANCE_COUNT_MAX, &words.rank_count,
                                  "ranks over all nodes"),
         WTN_OPT_TEXT("current", "FILE", NULL, &words.current,
                      "what the slots hold now: place so that few weights move"),
         WTN_OPT_TEXT("within", "X", NULL, &words.within,
                      "with --current: change only what an imbalance of X demands"),
         WTN_OPT_FLAG("report", &words.report, "show the imbalance before and after on stderr"),
         WTN_OPT_TEXT("json", "FILE", NULL, &words.json, "also write loads and slots as JSON"),
    };
    wtn_command_t command = {.name    = "plan place",
                             .summary = "Place the experts of each layer and their replicas by "
                                        "load; prints a layer a line, the expert of each slot.",
                             .options = table,
                             .option_count = WTN_COUNT_OF(table)};

    return wtn_alone(&command, argc, argv, check_words, place_all, &words);
}

/* witan plan scale: time, limits, traffic and memory of a layer by number of nodes. No MPI. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/plan.h"
#include "launcher/alone.h"
#include "launcher/machine_file.h"
#include "launcher/paths.h"
#include "launcher/plan.h"
#include "launcher/plan_scale.h"
#include "launcher/session.h"

#define GROUP_RANKS_MAX  8192
#define SEED             1
#define SEARCH_TOKENS    ((int64_t)1 << 17)
#define SIMULATED_TOKENS ((int64_t)1 << 21)
#define CACHE_RANKS_MAX  512
#define CACHE_COUNT      1024

/* Loads that several points share. */
typedef struct cached_load {
    int32_t          ep, domain_size;
    int64_t          token_count;
    wtn_scale_load_t load;
} cached_load_t;

typedef struct search {
    wtn_scale_plan_t    *plan;
    const wtn_command_t *command;
    wtn_scale_sampler_t  sampler;
    cached_load_t        cache[CACHE_COUNT];
    size_t               cache_used;
    wtn_scale_wish_t     wish;
} search_t;

/* ---- the layer ---- */

static void make_shape(wtn_scale_plan_t *plan)
{
    const witan_layer_config_t *config = &plan->config;
    double                      bytes  = (double)witan_dtype_bytes(config->dtype);

    plan->shape = (wtn_scale_shape_t){
        .hidden_size       = config->hidden_size,
        .inter_size        = config->inter_size,
        .shared_inter_size = config->shared_inter_size,
        .expert_count      = config->expert_count,
        .topk              = config->topk,
        .value_bytes       = bytes,
        .return_bytes      = bytes,
        .weight_bytes      = bytes,
        .matrices          = config->activation.gated ? 3 : 2,
        .header_bytes      = sizeof(wtn_manifest_t),
        .row_list_bytes    = sizeof(wtn_wire_row_t),
    };
}

static witan_status_t make_config(wtn_scale_plan_t *plan, const wtn_command_t *command)
{
    static const char *const shape[] = {"experts", "topk", "hidden", "inter", "shared"};
    const wtn_scale_words_t *words   = plan->words;
    witan_status_t           status;

    witan_layer_config_init(&plan->config);
    for (size_t i = 0; i < WTN_COUNT_OF(shape) && words->model != NULL; i++) {
        if (wtn_option_given(command, shape[i])) {
            return WTN_ERROR(WITAN_E_ARGUMENT, "--%s contradicts --model", shape[i]);
        }
    }
    if (words->model != NULL) {
        WTN_TRY(
            wtn_scale_read_model(words->model,
                                 wtn_option_given(command, "layer") ? (int32_t)words->layer : -1,
                                 &plan->config));
    } else {
        plan->config.expert_count      = (int32_t)words->expert_count;
        plan->config.topk              = (int32_t)words->topk;
        plan->config.hidden_size       = words->hidden_size;
        plan->config.inter_size        = words->inter_size;
        plan->config.shared_inter_size = words->shared_inter_size;
    }
    plan->config.dtype        = (witan_dtype_t)words->dtype;
    plan->config.router_dtype = plan->config.dtype;
    if (plan->config.topk > plan->config.expert_count) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--topk: expected at most --experts %" PRId32 ", found %" PRId32,
                         plan->config.expert_count, plan->config.topk);
    }
    make_shape(plan);
    return WITAN_OK;

fail:
    return status;
}

/* ---- memory ---- */

static witan_status_t query_sizes(wtn_scale_plan_t *plan, const wtn_scale_point_t *point,
                                  witan_plan_config_t *config, witan_sizes_t *sizes)
{
    witan_group_config_t group;
    witan_layer_config_t layer = plan->config;
    witan_status_t       status;

    witan_group_config_init(&group);
    group.expert_parallel = point->mode.ep;
    group.tensor_parallel = point->mode.tp;
    group.thread_count    = (int32_t)plan->machine.threads;
    group.ranks_per_node  = (int32_t)plan->machine.ranks_per_node;
    layer.backend         = plan->host_sizes ? "host" : plan->machine.backend;
    config->hierarchy =
        point->mode.two_level && (plan->host_sizes || strcmp(layer.backend, "host") == 0)
            ? WITAN_HIERARCHY_TWO_LEVEL
            : WITAN_HIERARCHY_FLAT;
    status = witan_layer_query(&group, point->mode.rank_count - 1, point->mode.rank_count, &layer,
                               config, sizes);
    if (status == WITAN_E_UNSUPPORTED && !plan->host_sizes) {
        plan->host_sizes = true;
        return query_sizes(plan, point, config, sizes);
    }
    return status;
}

/* What the weights and one plan take of a rank's memory: with room for the worst routing if that
 * fits, else for balanced routing, in more rounds where it is not. Of a device that is not here
 * the host's sizes stand in. */
static witan_status_t query_memory(wtn_scale_plan_t *plan, wtn_scale_point_t *point)
{
    witan_plan_config_t config;
    witan_sizes_t       sizes = {.struct_bytes = sizeof(sizes)};
    witan_status_t      status;

    witan_plan_config_init(&config);
    config.token_count_max = point->token_count * point->mode.tp;
    config.chunk_count     = point->mode.chunk_count;
    config.combine         = point->mode.reduced ? WITAN_COMBINE_REDUCED : WITAN_COMBINE_EXACT;
    for (int budgeted = 0; budgeted < 2; budgeted++) {
        WTN_TRY(query_sizes(plan, point, &config, &sizes));
        point->memory_bytes =
            sizes.weight_bytes * plan->words->layer_count + sizes.plan_bytes +
            sizes.plan_shared_bytes / wtn_min_i64(plan->machine.ranks_per_node, point->mode.ep);
        point->fits = (double)point->memory_bytes <= plan->machine.memory_bytes;
        if (point->fits) {
            break;
        }
        config.pair_token_count_max = sizes.pair_token_count_balanced;
        config.pair_row_count_max   = sizes.pair_row_count_balanced;
    }

fail:
    return status;
}

/* ---- loads ---- */

static void fill_ids(const void *context, int64_t token_begin, int64_t token_count, int32_t *ids)
{
    wtn_skew_fill(context, token_begin, token_count, ids);
}

static int64_t count_tokens(const void *context, int32_t source, int32_t source_count,
                            int64_t token_count)
{
    return wtn_skew_token_count(context, source, source_count, token_count);
}

static int32_t domain_size(const wtn_scale_plan_t *plan, const wtn_scale_mode_t *mode)
{
    int64_t size = plan->machine.ranks_per_node / mode->tp;

    return (int32_t)wtn_min_i64(mode->ep, wtn_max_i64(size, 1));
}

/* A load of small groups is kept; `own` says whether the caller has to free it. */
static witan_status_t get_load(search_t *search, const wtn_scale_mode_t *mode, int64_t token_count,
                               wtn_scale_load_t *load, bool *own)
{
    int32_t        size   = domain_size(search->plan, mode);
    int64_t        tokens = token_count * mode->tp;
    witan_status_t status;

    for (size_t i = 0; i < search->cache_used; i++) {
        const cached_load_t *cached = &search->cache[i];

        if (cached->ep == mode->ep && cached->domain_size == size &&
            cached->token_count == tokens) {
            *load = cached->load;
            *own  = false;
            return WITAN_OK;
        }
    }
    status = wtn_scale_load_make(load, &search->plan->shape, mode->ep, size, tokens,
                                 &search->sampler, SEARCH_TOKENS);
    *own   = mode->ep > CACHE_RANKS_MAX || search->cache_used == CACHE_COUNT;
    if (status == WITAN_OK && !*own) {
        search->cache[search->cache_used++] = (cached_load_t){mode->ep, size, tokens, *load};
    }
    return status;
}

/* ---- the search ---- */

static witan_status_t add_point(wtn_scale_plan_t *plan, const wtn_scale_point_t *point)
{
    if (plan->point_count == plan->point_room) {
        size_t             room  = plan->point_room * 2 + 64;
        wtn_scale_point_t *grown = realloc(plan->points, room * sizeof(*grown));

        if (grown == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "plan scale: %zu points", room);
        }
        plan->points     = grown;
        plan->point_room = room;
    }
    plan->points[plan->point_count++] = *point;
    return WITAN_OK;
}

/* What two levels lack in a group of this load: WTN_SCALE_FLAT_FREE if nothing. */
static wtn_scale_flat_t find_flat(const wtn_scale_plan_t *plan, const wtn_scale_load_t *load)
{
    bool maps = plan->machine.inside.copy_rate > 0; /* processors do, no device's links */

    return load->ep == 1                       ? WTN_SCALE_FLAT_ALONE
           : load->domain_size == 1            ? WTN_SCALE_FLAT_SPREAD
           : load->ep % load->domain_size != 0 ? WTN_SCALE_FLAT_UNEVEN
           : load->domain_count == 1 && !maps  ? WTN_SCALE_FLAT_INSIDE
                                               : WTN_SCALE_FLAT_FREE;
}

/* Flat and two-level, each with the chunks asked for or 1 to 8. */
static witan_status_t try_forms(search_t *search, wtn_scale_point_t *point,
                                const wtn_scale_load_t *load)
{
    wtn_scale_plan_t        *plan   = search->plan;
    const wtn_scale_words_t *words  = plan->words;
    wtn_scale_flat_t         flat   = find_flat(plan, load);
    bool                     levels = flat == WTN_SCALE_FLAT_FREE;
    int64_t                  most   = words->chunk_count > 0 ? words->chunk_count : 8;
    witan_status_t           status = WITAN_OK;

    point->flat = words->hierarchy == 2 ? flat : WTN_SCALE_FLAT_FREE;
    for (int hierarchy = 0; hierarchy < 2; hierarchy++) {
        if ((hierarchy == 1 && !levels) || (words->hierarchy == 1 && hierarchy == 1) ||
            (words->hierarchy == 2 && levels && hierarchy == 0)) {
            continue;
        }
        for (int64_t chunks = words->chunk_count > 0 ? most : 1; chunks <= most; chunks *= 2) {
            if (chunks > 1 && words->chunk_count == 0 &&
                (load->ep == 1 || plan->machine.overlap == WTN_SCALE_OVERLAP_NONE)) {
                break; /* nothing to hide */
            }
            point->mode.two_level   = hierarchy == 1;
            point->mode.chunk_count = (int32_t)chunks;
            point->runs             = hierarchy == 0 || plan->machine.two_level;
            WTN_TRY(wtn_scale_predict(&plan->machine, &plan->shape, &point->mode,
                                      (double)point->token_count, load, &point->result));
            WTN_TRY(query_memory(plan, point));
            WTN_TRY(add_point(plan, point));
        }
    }

fail:
    return status;
}

static bool wanted(int32_t asked, int32_t value, int32_t whole)
{
    return asked == 0 || asked == value || (asked == -1 && value == whole);
}

static witan_status_t search_foldings(search_t *search, wtn_scale_point_t *point)
{
    wtn_scale_plan_t *plan   = search->plan;
    int32_t           ranks  = point->mode.rank_count;
    int64_t           tp_max = search->wish.tp == 0 ? plan->machine.ranks_per_node : ranks;
    witan_status_t    status = WITAN_OK;

    for (int32_t tp = 1; tp <= wtn_min_i64(ranks, tp_max); tp++) {
        if (ranks % tp != 0 || tp > plan->config.inter_size ||
            !wanted(search->wish.tp, tp, ranks) ||
            (search->wish.tp == 0 && plan->config.inter_size % tp != 0)) {
            continue;
        }
        for (int32_t ep = 1; ep <= ranks / tp; ep++) {
            wtn_scale_load_t load;
            bool             own;

            if (ranks / tp % ep != 0 || !wanted(search->wish.ep, ep, ranks / tp) ||
                (search->wish.ep == 0 && ep > plan->config.expert_count)) {
                continue;
            }
            point->mode.ep = ep;
            point->mode.tp = tp;
            WTN_TRY(get_load(search, &point->mode, point->token_count, &load, &own));
            status = try_forms(search, point, &load);
            if (own) {
                wtn_scale_load_free(&load);
            }
            WTN_TRY(status);
        }
    }

fail:
    return status;
}

static bool better(const wtn_scale_point_t *a, const wtn_scale_point_t *b)
{
    bool a_can = a->fits && a->runs, b_can = b->fits && b->runs;

    return a_can != b_can ? a_can : a->result.seconds < b->result.seconds;
}

static witan_status_t simulate(search_t *search, wtn_scale_point_t *point)
{
    wtn_scale_plan_t  *plan = search->plan;
    wtn_scale_mode_t   mode = point->mode;
    wtn_scale_load_t   load = {0};
    wtn_scale_result_t result;
    witan_status_t     status;

    if (plan->disturbance.slow_rank >= mode.rank_count) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--slow-rank: expected below the %" PRId32 " rank%s, found %" PRId32,
                         mode.rank_count, wtn_plural(mode.rank_count), plan->disturbance.slow_rank);
    }
    mode.chunk_count = 1;
    WTN_TRY(wtn_scale_load_make(&load, &plan->shape, mode.ep, domain_size(plan, &mode),
                                point->token_count * mode.tp, &search->sampler, SIMULATED_TOKENS));
    WTN_TRY(wtn_scale_simulate(&plan->machine, &plan->shape, &mode, (double)point->token_count,
                               &load, &plan->disturbance, &result));
    point->simulated = result.seconds;

fail:
    wtn_scale_load_free(&load);
    return status;
}

static witan_status_t search_nodes(search_t *search, int64_t node_count, bool strong)
{
    wtn_scale_plan_t        *plan  = search->plan;
    const wtn_scale_words_t *words = plan->words;
    size_t                   first = plan->point_count, best = first;
    wtn_scale_point_t        point = {.strong = strong, .node_count = node_count};
    witan_status_t           status;

    point.token_count = strong
                            ? wtn_ceil_div(words->token_count * search->wish.nodes[0], node_count)
                            : words->token_count;
    point.mode        = (wtn_scale_mode_t){
               .rank_count = (int32_t)(node_count * plan->machine.ranks_per_node),
               .reduced    = words->combine == 1,
    };
    WTN_TRY(search_foldings(search, &point));
    if (plan->point_count == first) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--mode: expected one that divides the %" PRId32 " rank%s of %" PRId64
                         " node%s, found '%s'",
                         point.mode.rank_count, wtn_plural(point.mode.rank_count), node_count,
                         wtn_plural(node_count), words->mode);
    }
    for (size_t i = first + 1; i < plan->point_count; i++) {
        best = better(&plan->points[i], &plan->points[best]) ? i : best;
    }
    plan->points[best].best = true;
    if (words->simulate) {
        WTN_TRY(simulate(search, &plan->points[best]));
    }

fail:
    return status;
}

static witan_status_t check_outputs(const wtn_scale_words_t *words)
{
    const wtn_named_path_t outputs[] = {{"--json", words->json}, {"--csv", words->csv}};
    const wtn_named_path_t input     = {"--model", words->model};

    return wtn_paths_check(outputs, WTN_COUNT_OF(outputs), &input, NULL);
}

/* Messages are counted pair by pair. */
static witan_status_t check_groups(const search_t *search)
{
    const wtn_scale_wish_t *wish = &search->wish;
    int64_t                 tp   = wish->tp > 0 ? wish->tp : 1;

    for (int32_t i = 0; i < wish->node_count && wish->ep == -1; i++) {
        int64_t ep = wish->nodes[i] * search->plan->machine.ranks_per_node / tp;

        if (ep > GROUP_RANKS_MAX) {
            return WTN_ERROR(WITAN_E_ARGUMENT,
                             "--mode %s: %" PRId64 " nodes are an expert-parallel group of %" PRId64
                             " ranks; expected at most %d, for all its pairs are counted (auto and "
                             "epNxtpM make smaller groups)",
                             search->plan->words->mode, wish->nodes[i], ep, GROUP_RANKS_MAX);
        }
    }
    return WITAN_OK;
}

static witan_status_t plan_all(search_t *search)
{
    wtn_scale_plan_t        *plan  = search->plan;
    const wtn_scale_words_t *words = plan->words;
    witan_status_t           status;

    WTN_TRY(check_outputs(words));
    WTN_TRY(wtn_machine_load(&plan->machine, words->machine));
    if (words->ranks_per_node > 0) {
        plan->machine.ranks_per_node = words->ranks_per_node;
        plan->machine.nics_per_node =
            wtn_min_i64(plan->machine.nics_per_node, words->ranks_per_node);
    }
    WTN_TRY(check_groups(search));
    WTN_TRY(make_config(plan, search->command));
    WTN_TRY(wtn_skew_open(&plan->skew, words->skew, plan->config.expert_count, plan->config.topk,
                          SEED));
    search->sampler = (wtn_scale_sampler_t){fill_ids, count_tokens, plan->skew};
    for (int strong = 1; strong >= 0; strong--) {
        if (words->scaling == (strong ? 1 : 0)) {
            continue; /* only the other kind is wanted */
        }
        for (int32_t i = 0; i < search->wish.node_count; i++) {
            WTN_TRY(search_nodes(search, search->wish.nodes[i], strong != 0));
        }
    }
    wtn_scale_print(plan);
    WTN_TRY(wtn_results_flush());
    if (words->json != NULL) {
        WTN_TRY(wtn_scale_write_json(plan, words->json));
    }
    if (words->csv != NULL) {
        WTN_TRY(wtn_scale_write_csv(plan, words->csv));
    }

fail:
    return status;
}

static witan_status_t check(void *context)
{
    search_t *search = context;

    return wtn_scale_check_words(search->plan->words, &search->wish, &search->plan->disturbance);
}

static witan_status_t run(void *context)
{
    search_t            *search  = context;
    const wtn_command_t *command = search->command;
    wtn_scale_plan_t    *plan    = search->plan;
    witan_status_t       status;

    if (plan->words->published) {
        for (size_t i = 0; i < command->option_count; i++) {
            const wtn_option_t *option = &command->options[i];

            if (option->given && strcmp(option->name, "published") != 0) {
                return WTN_ERROR(WITAN_E_ARGUMENT, "--%s contradicts --published", option->name);
            }
        }
        wtn_scale_print_published();
        return wtn_results_flush();
    }
    status = plan_all(search);
    for (size_t i = 0; i < search->cache_used; i++) {
        wtn_scale_load_free(&search->cache[i].load);
    }
    wtn_skew_close(plan->skew);
    free(plan->points);
    return status;
}

int wtn_plan_scale(int argc, char **argv)
{
    wtn_scale_words_t words;
    wtn_scale_plan_t  plan    = {.words = &words};
    search_t          search  = {.plan = &plan};
    wtn_option_t      table[] = {
             WTN_OPT_MODEL(&words.model, false,
                           "config.json or its folder; else a layer of this shape:"),
             WTN_OPT_INTEGER("layer", "N", "0", 0, INT32_MAX, &words.layer,
                             "block of the model; else the first with experts"),
             WTN_OPT_INTEGER("experts", "N", "8", 1, 1 << 20, &words.expert_count, "E, experts"),
             WTN_OPT_INTEGER("topk", "N", "2", 1, 1 << 10, &words.topk, "K, experts of a token"),
             WTN_OPT_INTEGER("hidden", "N", "2048", 1, INT32_MAX, &words.hidden_size, "H, hidden size"),
             WTN_OPT_INTEGER("inter", "N", "1408", 1, INT32_MAX, &words.inter_size,
                             "I, width of an expert"),
             WTN_OPT_INTEGER("shared", "N", "0", 0, INT32_MAX, &words.shared_inter_size,
                             "width of the shared expert"),
             WTN_OPT_CHOICE("dtype", "f32|f16|bf16", "bf16", &words.dtype, "of activations and weights"),
             WTN_OPT_TEXT("machine", "FILE", NULL, &words.machine,
                          "machine file, or h100-ib, h200-ib, gb200-nvl72"),
             WTN_OPT_TEXT("nodes", "LIST", "1..4096", &words.nodes, "1,2,4 or a range, which doubles"),
             WTN_OPT_INTEGER("ranks-per-node", "N", NULL, 1, 4096, &words.ranks_per_node,
                             "in the place of the machine's"),
             WTN_OPT_INTEGER("layers", "N", "1", 1, 1 << 16, &words.layer_count,
                             "layers whose weights a rank holds, for its memory"),
             WTN_OPT_INTEGER("tokens", "N", "4096", 0, 1 << 24, &words.token_count,
                             "tokens of each rank; strong scaling: at the first number of nodes"),
             WTN_OPT_CHOICE("scaling", "strong|weak|both", "both", &words.scaling, "which to show"),
             WTN_OPT_TEXT("skew", "WORD", "uniform", &words.skew,
                          "uniform, zipf:S, hot:E, balanced, zero-rank or trace:FILE"),
             WTN_OPT_TEXT("mode", "MODE", "auto", &words.mode, "auto, ep, tp or epNxtpM"),
             WTN_OPT_CHOICE("hierarchy", "auto|flat|two-level", "auto", &words.hierarchy,
                            "how tokens cross nodes"),
             WTN_OPT_CHOICE("combine", "exact|reduced", "exact", &words.combine, "what returns"),
             WTN_OPT_INTEGER("chunks", "N", NULL, 1, 65536, &words.chunk_count,
                             "rounds; else the best of 1, 2, 4, 8"),
             WTN_OPT_FLAG("simulate", &words.simulate,
                          "also simulate the best of each row message by message"),
             WTN_OPT_INTEGER("slow-rank", "N", "-1", -1, INT32_MAX, &words.slow_rank,
                             "simulate with a straggler"),
             WTN_OPT_TEXT("slow-factor", "X", "2", &words.slow_factor, "how much slower it is"),
             WTN_OPT_TEXT("congestion", "X", "0", &words.congestion,
                          "share of the network that others take, 0 to below 1"),
             WTN_OPT_FLAG("all", &words.all, "print every mode, not only the best"),
             WTN_OPT_FLAG("published", &words.published,
                          "print published figures and their floors instead"),
             WTN_OPT_TEXT("json", "FILE", NULL, &words.json, "also write all points as JSON"),
             WTN_OPT_TEXT("csv", "FILE", NULL, &words.csv, "also write all points as CSV"),
    };
    wtn_command_t command = {.name    = "plan scale",
                             .summary = "Predict the time of a layer, what limits it, its traffic "
                                        "and memory by number of nodes.",
                             .options = table,
                             .option_count = WTN_COUNT_OF(table)};

    search.command = &command;
    return wtn_alone(&command, argc, argv, check, run, &search);
}

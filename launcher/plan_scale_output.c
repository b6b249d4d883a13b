/* The points of witan plan scale as a table, JSON and CSV. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/bench.h"
#include "launcher/output.h"
#include "launcher/plan_scale.h"
#include "topology/published.h"

void wtn_scale_mode_text(const wtn_scale_mode_t *mode, char text[32])
{
    if (mode->tp == 1 && mode->ep == mode->rank_count) {
        (void)snprintf(text, 32, "ep");
    } else if (mode->ep == 1 && mode->tp == mode->rank_count) {
        (void)snprintf(text, 32, "tp");
    } else {
        (void)snprintf(text, 32, "ep%" PRId32 "xtp%" PRId32, mode->ep, mode->tp);
    }
}

static const char *hierarchy_name(const wtn_scale_point_t *point)
{
    return point->mode.two_level ? "two-level" : "flat";
}

static const char *flat_text(wtn_scale_flat_t flat)
{
    static const char *const texts[WTN_SCALE_FLAT_COUNT] = {
        [WTN_SCALE_FLAT_ALONE]  = "its rank exchanges with no other",
        [WTN_SCALE_FLAT_SPREAD] = "each of its ranks is on a node of its own",
        [WTN_SCALE_FLAT_UNEVEN] = "its ranks do not fill its nodes",
        [WTN_SCALE_FLAT_INSIDE] = "it lies inside one node, whose devices reach each other",
    };

    return texts[flat];
}

static bool is_shown(const wtn_scale_plan_t *plan, const wtn_scale_point_t *point)
{
    return plan->words->all || point->best;
}

static const char *state_of(const wtn_scale_point_t *point)
{
    return !point->fits ? "too big" : !point->runs ? "not built" : point->best ? "best" : "";
}

static void print_point(const wtn_scale_plan_t *plan, const wtn_scale_point_t *point)
{
    const wtn_scale_result_t *result = &point->result;
    char                      mode[32];

    wtn_scale_mode_text(&point->mode, mode);
    printf("  %-6s %6" PRId64 " %6" PRId32 " %8" PRId64 " %-11s %-9s %2" PRId32 " %12.1f",
           point->strong ? "strong" : "weak", point->node_count, point->mode.rank_count,
           point->token_count, mode, hierarchy_name(point), point->mode.chunk_count,
           result->seconds * 1e6);
    for (int phase = 0; phase < WITAN_PHASE_COUNT; phase++) {
        printf(" %10.1f", result->phases[phase] * 1e6);
    }
    printf(" %-9s %5.2f %9.3f %9.3f %8.2f", wtn_scale_limit_name(result->limit), result->imbalance,
           result->inside_bytes * 1e-9, result->between_bytes * 1e-9,
           (double)point->memory_bytes * 1e-9);
    if (plan->words->simulate) {
        if (point->simulated > 0) {
            printf(" %12.1f", point->simulated * 1e6);
        } else {
            printf(" %12s", "-");
        }
    }
    printf(" %s\n", state_of(point));
}

static void print_notes(const wtn_scale_plan_t *plan)
{
    bool unbuilt = false, big = false, flat[WTN_SCALE_FLAT_COUNT] = {false};

    for (size_t i = 0; i < plan->point_count; i++) {
        unbuilt = unbuilt || !plan->points[i].runs;
        big     = big || (plan->points[i].best && !plan->points[i].fits);
        flat[plan->points[i].flat] |= is_shown(plan, &plan->points[i]);
    }
    for (int i = WTN_SCALE_FLAT_FREE + 1; i < WTN_SCALE_FLAT_COUNT; i++) {
        if (flat[i]) {
            printf("# two-level asked for, but flat where a group has no second level: %s\n",
                   flat_text((wtn_scale_flat_t)i));
        }
    }
    if (unbuilt) {
        printf("# two-level dispatch is predicted but not built for this machine's backend: never "
               "best\n");
    }
    if (big) {
        printf("# too big: weights and plan exceed the %.1f GB of a rank in every mode\n",
               plan->machine.memory_bytes * 1e-9);
    }
}

static void print_header(const wtn_scale_plan_t *plan)
{
    const witan_layer_config_t *config = &plan->config;

    printf("# witan plan scale: E %" PRId32 ", K %" PRId32 ", H %" PRId64 ", I %" PRId64
           ", shared %" PRId64 ", %s, routing %s, on %s (%" PRId64 " rank%s and %" PRId64
           " NIC%s a node)\n",
           config->expert_count, config->topk, config->hidden_size, config->inter_size,
           config->shared_inter_size, witan_dtype_name(config->dtype), plan->words->skew,
           plan->machine.name, plan->machine.ranks_per_node,
           wtn_plural(plan->machine.ranks_per_node), plan->machine.nics_per_node,
           wtn_plural(plan->machine.nics_per_node));
    printf("# tokens: of each rank; time and phases of a step in us, what stands in the way only; "
           "imbal: max / mean of rows over ranks\n");
    printf("# inside, between: GB that all ranks send inside nodes and between them; memory: GB of "
           "a rank, weights and one plan%s\n",
           plan->host_sizes && strcmp(plan->machine.backend, "cuda") == 0
               ? ", as the host backend lays them out (no device here)"
               : "");
    printf("# %-6s %6s %6s %8s %-11s %-9s %2s %12s", "kind", "nodes", "ranks", "tokens", "mode",
           "hierarchy", "ch", "time");
    for (int phase = 0; phase < WITAN_PHASE_COUNT; phase++) {
        printf(" %10s", witan_phase_name((witan_phase_t)phase));
    }
    printf(" %-9s %5s %9s %9s %8s", "limit", "imbal", "inside", "between", "memory");
    if (plan->words->simulate) {
        printf(" %12s", "simulated");
    }
    printf(" state\n");
}

void wtn_scale_print(const wtn_scale_plan_t *plan)
{
    print_header(plan);
    for (size_t i = 0; i < plan->point_count; i++) {
        if (is_shown(plan, &plan->points[i])) {
            print_point(plan, &plan->points[i]);
        }
    }
    print_notes(plan);
}

/* ---- JSON ---- */

static json_t *make_point(const wtn_scale_point_t *point)
{
    const wtn_scale_result_t *result = &point->result;
    json_t                   *phases = json_object(), *object;
    char                      mode[32];

    wtn_scale_mode_text(&point->mode, mode);
    for (int phase = 0; phase < WITAN_PHASE_COUNT && phases != NULL; phase++) {
        (void)json_object_set_new(phases, witan_phase_name((witan_phase_t)phase),
                                  json_real(result->phases[phase]));
    }
    object = json_pack(
        "{s:s, s:I, s:i, s:I, s:s, s:i, s:i, s:s, s:s, s:i, s:f, s:o, s:s, s:f, s:{s:f, s:f}, s:I, "
        "s:b, s:b, s:b}",
        "scaling", point->strong ? "strong" : "weak", "nodes", (json_int_t)point->node_count,
        "ranks", (int)point->mode.rank_count, "tokens_per_rank", (json_int_t)point->token_count,
        "mode", mode, "expert_parallel", (int)point->mode.ep, "tensor_parallel",
        (int)point->mode.tp, "hierarchy", hierarchy_name(point), "combine",
        point->mode.reduced ? "reduced" : "exact", "chunks", (int)point->mode.chunk_count,
        "seconds", result->seconds, "phases", phases, "limit", wtn_scale_limit_name(result->limit),
        "imbalance", result->imbalance, "bytes", "inside", result->inside_bytes, "between",
        result->between_bytes, "memory_bytes", (json_int_t)point->memory_bytes, "fits", point->fits,
        "runs", point->runs, "best", point->best);
    if (object != NULL && point->simulated > 0) {
        (void)json_object_set_new(object, "simulated_seconds", json_real(point->simulated));
    }
    if (object != NULL && point->flat != WTN_SCALE_FLAT_FREE) {
        (void)json_object_set_new(object, "flat_because", json_string(flat_text(point->flat)));
    }
    return object;
}

witan_status_t wtn_scale_write_json(const wtn_scale_plan_t *plan, const char *path)
{
    const witan_layer_config_t *config  = &plan->config;
    const wtn_scale_machine_t  *machine = &plan->machine;
    json_t                     *points  = json_array(), *root;
    witan_status_t              status;

    for (size_t i = 0; i < plan->point_count && points != NULL; i++) {
        if (json_array_append_new(points, make_point(&plan->points[i])) != 0) {
            json_decref(points);
            points = NULL;
        }
    }
    root =
        json_pack("{s:s, s:s, s:{s:i, s:i, s:I, s:I, s:I, s:s, s:s}, s:{s:s, s:s, s:I, s:I, s:f, "
                  "s:f, s:f, s:f}, s:o}",
                  "schema", "witan.plan.scale/1", "version", witan_version(), "model", "experts",
                  (int)config->expert_count, "topk", (int)config->topk, "hidden",
                  (json_int_t)config->hidden_size, "inter", (json_int_t)config->inter_size,
                  "shared", (json_int_t)config->shared_inter_size, "dtype",
                  witan_dtype_name(config->dtype), "skew", plan->words->skew, "machine", "name",
                  machine->name, "backend", machine->backend, "ranks_per_node",
                  (json_int_t)machine->ranks_per_node, "nics_per_node",
                  (json_int_t)machine->nics_per_node, "peak_flops", machine->peak_flops,
                  "memory_rate", machine->memory_rate, "inside_rate", machine->inside.port.rate,
                  "between_rate", machine->between.port.rate, "points", points);
    if (root == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: the JSON text", path);
    }
    status = wtn_bench_json_write(path, root);
    json_decref(root);
    return status;
}

/* ---- CSV ---- */

#define ROW_BYTES 640 /* 24 fields of at most 25 bytes */

/* Returns the bytes written. */
static size_t print_row(char *out, const wtn_scale_point_t *point)
{
    const wtn_scale_result_t *result = &point->result;
    const double             *phases = result->phases;
    char                      mode[32];
    int                       used;

    wtn_scale_mode_text(&point->mode, mode);
    used = snprintf(out, ROW_BYTES,
                    "%s,%" PRId64 ",%" PRId32 ",%" PRId64 ",%s,%s,%s,%" PRId32
                    ",%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%.6g,%s,%.4f,%.6g,%.6g,%" PRId64
                    ",%.6g,%d,%d,%d\n",
                    point->strong ? "strong" : "weak", point->node_count, point->mode.rank_count,
                    point->token_count, mode, hierarchy_name(point),
                    point->mode.reduced ? "reduced" : "exact", point->mode.chunk_count,
                    result->seconds, phases[WITAN_PHASE_ROUTE], phases[WITAN_PHASE_PLAN],
                    phases[WITAN_PHASE_DISPATCH], phases[WITAN_PHASE_SHARED],
                    phases[WITAN_PHASE_EXPERTS], phases[WITAN_PHASE_COMBINE],
                    phases[WITAN_PHASE_REDUCE], wtn_scale_limit_name(result->limit),
                    result->imbalance, result->inside_bytes, result->between_bytes,
                    point->memory_bytes, point->simulated, point->fits, point->runs, point->best);
    return used > 0 && used < ROW_BYTES ? (size_t)used : 0;
}

witan_status_t wtn_scale_write_csv(const wtn_scale_plan_t *plan, const char *path)
{
    static const char head[] =
        "scaling,nodes,ranks,tokens_per_rank,mode,hierarchy,combine,chunks,seconds,route,plan,"
        "dispatch,shared,experts,combine_phase,reduce,limit,imbalance,inside_bytes,between_bytes,"
        "memory_bytes,simulated_seconds,fits,runs,best\n";
    size_t         room = sizeof(head) + (plan->point_count + 1) * ROW_BYTES, used;
    char          *text = malloc(room);
    witan_status_t status;

    if (text == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu bytes", path, room);
    }
    memcpy(text, head, sizeof(head));
    used = sizeof(head) - 1;
    for (size_t i = 0; i < plan->point_count; i++) {
        used += print_row(text + used, &plan->points[i]);
    }
    status = wtn_output_write(path, text, used);
    free(text);
    return status;
}

/* ---- published figures ---- */

void wtn_scale_print_published(void)
{
    printf("# published figures of dispatch and combine (H 7168, k 8, E 256, FP8 dispatch but for "
           "nccl_ep, BF16 combine) and floors:\n"
           "# floor: the bytes of the same algorithm that leave a rank, over the rates of the data "
           "sheets, uniform routing, no latency;\n"
           "# once: the same if a token crossed each link once; times in us, logical bandwidth in "
           "GB/s (what stays on the rank counted)\n");
    printf("# %-22s %-5s %4s %7s %-8s %10s %9s %10s %9s %10s\n", "system", "GPU", "EP", "tokens",
           "step", "published", "GB/s", "floor", "x floor", "once");
    for (size_t i = 0; i < wtn_published_count; i++) {
        const wtn_published_t *figure = &wtn_published[i];
        wtn_published_floor_t  floor  = wtn_published_floor(figure);

        printf("  %-22s %-5s %4" PRId32 " %7" PRId64 " %-8s %10.1f %9.1f %10.1f %9.2f %10.1f\n",
               figure->system, figure->machine, figure->ep, figure->token_count, figure->step,
               floor.published * 1e6, floor.logical_bytes / floor.published * 1e-9,
               floor.floor * 1e6, floor.published / floor.floor, floor.once * 1e6);
    }
}

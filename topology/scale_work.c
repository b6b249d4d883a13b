#include "topology/scale_work.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/util.h"

double wtn_scale_curve_at(const wtn_scale_curve_t *curve, double at)
{
    int32_t i = 1;
    double  part;

    if (at <= curve->at[0] || curve->count == 1) {
        return curve->value[0];
    }
    while (i < curve->count && curve->at[i] < at) {
        i++;
    }
    if (i == curve->count) {
        return curve->value[i - 1];
    }
    part = log(at / curve->at[i - 1]) / log(curve->at[i] / curve->at[i - 1]);
    return curve->value[i - 1] + part * (curve->value[i] - curve->value[i - 1]);
}

/* Ranks that take cores and memory from each other: of a node, or of the host all nodes are on. */
static double neighbours(const wtn_scale_machine_t *machine, const wtn_scale_mode_t *mode)
{
    return machine->shared_cores > 0
               ? mode->rank_count
               : (double)wtn_min_i64(mode->rank_count, machine->ranks_per_node);
}

/* Threads a core has to serve. */
static double crowd(const wtn_scale_machine_t *machine, const wtn_scale_mode_t *mode)
{
    double wanted = neighbours(machine, mode) * (double)machine->threads;
    double cores =
        (double)(machine->shared_cores > 0 ? machine->shared_cores : machine->cores_per_node);

    return cores > 0 && wanted > cores ? wanted / cores : 1;
}

double wtn_scale_slowed(const wtn_scale_machine_t *machine, const wtn_scale_mode_t *mode,
                        double seconds)
{
    return seconds * crowd(machine, mode);
}

double wtn_scale_shared_time(const wtn_scale_machine_t *machine, const wtn_scale_mode_t *mode,
                             const double *work, int32_t count)
{
    double most = 0, sum = 0, shared;

    for (int32_t r = 0; r < count; r++) {
        most = work[r] > most ? work[r] : most;
        sum += work[r];
    }
    shared = sum / count * crowd(machine, mode);
    return shared > most ? shared : most;
}

/* The rate at which one rank reads memory while its neighbours do too. */
static double memory_rate(const wtn_scale_machine_t *machine, const wtn_scale_mode_t *mode)
{
    double active = neighbours(machine, mode) / crowd(machine, mode);
    double share  = machine->memory_rate_node / active;

    return machine->memory_rate_node > 0 && share < machine->memory_rate ? share
                                                                         : machine->memory_rate;
}

/* `rows` rows through an expert of width `inter`, of which a tensor group has a part each. */
static double expert_time(const wtn_scale_machine_t *machine, const wtn_scale_shape_t *shape,
                          const wtn_scale_mode_t *mode, double rows, double inter, bool *by_flops)
{
    double values = shape->matrices * (double)shape->hidden_size * inter / mode->tp;
    double flops  = 2 * values * rows / machine->peak_flops;
    double memory = values * shape->weight_bytes / memory_rate(machine, mode);

    *by_flops = flops >= memory;
    return (*by_flops ? flops : memory) / wtn_scale_curve_at(&machine->experts, rows);
}

/* The experts of rank `index` in all rounds; *flops gets the part bound by operations. */
static double rank_time(const wtn_scale_machine_t *machine, const wtn_scale_shape_t *shape,
                        const wtn_scale_mode_t *mode, const wtn_scale_load_t *load, int32_t index,
                        double *flops)
{
    int64_t end  = wtn_part_begin(shape->expert_count, load->ep, index + 1);
    double  time = 0;

    *flops = 0;
    for (int64_t e = wtn_part_begin(shape->expert_count, load->ep, index); e < end; e++) {
        double rows = load->expert_rows[e] / mode->chunk_count;
        bool   by_flops;
        double one;

        if (rows <= 0) {
            continue;
        }
        one = mode->chunk_count *
              expert_time(machine, shape, mode, rows, (double)shape->inter_size, &by_flops);
        time += one;
        *flops += by_flops ? one : 0;
    }
    return time;
}

static witan_status_t make_experts(wtn_scale_work_t *work, const wtn_scale_machine_t *machine,
                                   const wtn_scale_shape_t *shape, const wtn_scale_mode_t *mode,
                                   const wtn_scale_load_t *load, double *rank_experts)
{
    double *times = calloc((size_t)load->ep, sizeof(*times)), most = 0, alone = 0;
    double  row = (double)shape->hidden_size * shape->value_bytes;

    if (times == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "scale: %" PRId32 " ranks", load->ep);
    }
    for (int32_t r = 0; r < load->ep; r++) {
        double flops;

        times[r] = rank_time(machine, shape, mode, load, r, &flops);
        if (times[r] > most) {
            most  = times[r];
            alone = flops;
        }
        if (rank_experts != NULL) {
            rank_experts[r] = times[r] + (mode->reduced && load->ep > 1
                                              ? load->rank_rows[r] * row / machine->combine_rate
                                              : 0);
        }
    }
    work->experts = wtn_scale_shared_time(machine, mode, times, load->ep);
    work->flops += most > 0 ? alone * work->experts / most : 0;
    for (int32_t r = 0; r < load->ep; r++) {
        times[r] =
            mode->reduced && load->ep > 1 ? load->rank_rows[r] * row / machine->combine_rate : 0;
    }
    work->partial = wtn_scale_shared_time(machine, mode, times, load->ep);
    free(times);
    return WITAN_OK;
}

/* Tokens that are copied into messages, of all destinations of an average source. */
static double sent_tokens(const wtn_scale_load_t *load, const wtn_scale_mode_t *mode)
{
    const float *counts = mode->two_level ? load->domain_tokens : load->pair_tokens;
    size_t       size =
        (size_t)load->ep * (size_t)(mode->two_level ? load->domain_count : load->column_count);
    double sum = 0;

    for (size_t i = 0; i < size; i++) {
        sum += (double)counts[i];
    }
    return load->ep == 1 ? 0 : sum / load->ep;
}

witan_status_t wtn_scale_work_make(wtn_scale_work_t *work, const wtn_scale_machine_t *machine,
                                   const wtn_scale_shape_t *shape, const wtn_scale_mode_t *mode,
                                   double token_count, const wtn_scale_load_t *load,
                                   double *rank_experts)
{
    double row    = (double)shape->hidden_size * shape->value_bytes;
    double gate   = 2 * (double)shape->hidden_size * shape->expert_count / machine->route_flops;
    double slots  = mode->reduced ? sent_tokens(load, mode) : token_count * shape->topk;
    double factor = crowd(machine, mode);
    bool   by_flops;

    if (mode->reduced && load->ep == 1) {
        slots = token_count;
    }
    *work = (wtn_scale_work_t){
        .route = factor * token_count *
                 (machine->route_token_s + shape->expert_count * machine->route_expert_s + gate),
        .plan    = factor * token_count * shape->topk * machine->plan_row_s,
        .gather  = factor * sent_tokens(load, mode) * row / machine->gather_rate,
        .combine = factor * slots * row / machine->combine_rate,
    };
    if (shape->shared_inter_size > 0 && token_count > 0) {
        work->shared = factor * expert_time(machine, shape, mode, token_count,
                                            (double)shape->shared_inter_size, &by_flops);
        work->flops += by_flops ? work->shared : 0;
    }
    return make_experts(work, machine, shape, mode, load, rank_experts);
}

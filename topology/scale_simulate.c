/* A step whose exchanges are simulated message by message, with what disturbs them. */
#include <inttypes.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/util.h"
#include "topology/scale_exchange.h"
#include "topology/scale_work.h"

/* Times of every rank, one after the other: [ranks] each. */
typedef struct clocks {
    double *slow, *routed, *received, *computed, *returned, *experts;
} clocks_t;

static witan_status_t make_clocks(clocks_t *clocks, size_t ranks, size_t ep)
{
    double *block = calloc(5 * ranks + ep, sizeof(*block));

    if (block == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "simulation: %zu ranks", ranks);
    }
    *clocks = (clocks_t){.slow     = block,
                         .routed   = block + ranks,
                         .received = block + 2 * ranks,
                         .computed = block + 3 * ranks,
                         .returned = block + 4 * ranks,
                         .experts  = block + 5 * ranks};
    return WITAN_OK;
}

static double latest(const double *times, int32_t count)
{
    double most = 0;

    for (int32_t r = 0; r < count; r++) {
        most = times[r] > most ? times[r] : most;
    }
    return most;
}

/* One exchange that ranks enter at `start` and leave at `finish`; on processors that share cores
 * not before these have moved all of it. */
static witan_status_t exchange_at(const wtn_scale_messages_t *messages, const wtn_fabric_t *fabric,
                                  const double *start, double *finish,
                                  wtn_exchange_result_t *result)
{
    wtn_exchange_t exchange = wtn_scale_exchange(messages, fabric);
    double        *work     = calloc((size_t)fabric->rank_count, sizeof(*work)), shared;
    witan_status_t status;

    if (work == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "simulation: %" PRId32 " ranks", fabric->rank_count);
    }
    exchange.start  = start;
    exchange.finish = finish;
    wtn_scale_exchange_work(messages, &exchange, 1, work);
    shared = wtn_scale_shared_time(messages->machine, messages->mode, work, fabric->rank_count);
    free(work);
    status = wtn_exchange_simulate(&exchange, result);
    for (int32_t r = 0; r < fabric->rank_count && status == WITAN_OK; r++) {
        finish[r] = finish[r] > start[r] + shared ? finish[r] : start[r] + shared;
    }
    return status;
}

witan_status_t wtn_scale_simulate(const wtn_scale_machine_t *machine,
                                  const wtn_scale_shape_t *shape, const wtn_scale_mode_t *mode,
                                  double token_count, const wtn_scale_load_t *load,
                                  const wtn_scale_disturbance_t *disturbance,
                                  wtn_scale_result_t            *result)
{
    wtn_fabric_t          fabric   = wtn_scale_fabric(machine, mode);
    wtn_scale_messages_t  messages = {machine, shape, mode, load, WTN_SCALE_DISPATCH, 1};
    wtn_exchange_result_t out = {0}, back = {0};
    wtn_scale_work_t      work;
    clocks_t              clocks = {0};
    double                before, shared;
    int32_t               ranks = fabric.rank_count;
    int32_t               slow  = disturbance->slow_rank < 0 ? -1 : disturbance->slow_rank % ranks;
    witan_status_t        status;

    WTN_TRY(wtn_scale_predict(machine, shape, mode, token_count, load, result));
    if (mode->ep == 1) { /* nothing is exchanged; the step takes what its slowest rank takes */
        if (disturbance->slow_rank >= 0) {
            result->seconds *= disturbance->slow_factor;
        }
        return WITAN_OK;
    }
    WTN_TRY(make_clocks(&clocks, (size_t)ranks, (size_t)mode->ep));
    WTN_TRY(wtn_scale_work_make(&work, machine, shape, mode, token_count * mode->tp, load,
                                clocks.experts));
    fabric.slow = clocks.slow;
    fabric.between.rate *= 1 - disturbance->congestion;
    before = work.route + work.plan + work.gather + machine->step_s + machine->exchange_s;
    shared = machine->overlap == WTN_SCALE_OVERLAP_POLL ? work.shared : 0;
    for (int32_t r = 0; r < ranks; r++) {
        clocks.slow[r]   = r == slow ? disturbance->slow_factor : 1;
        clocks.routed[r] = before * clocks.slow[r];
    }
    WTN_TRY(exchange_at(&messages, &fabric, clocks.routed, clocks.received, &out));
    for (int32_t r = 0; r < ranks; r++) {
        double busy = clocks.routed[r] + work.shared * clocks.slow[r];
        double here = clocks.received[r] + (work.shared - shared) * clocks.slow[r];

        clocks.computed[r] =
            (here > busy ? here : busy) +
            wtn_scale_slowed(machine, mode, clocks.experts[r / mode->tp % mode->ep]) *
                clocks.slow[r];
    }
    messages.direction = WTN_SCALE_RETURN;
    WTN_TRY(exchange_at(&messages, &fabric, clocks.computed, clocks.returned, &back));
    for (int32_t r = 0; r < ranks; r++) {
        clocks.returned[r] += work.combine * clocks.slow[r];
    }
    result->seconds = latest(clocks.returned, ranks) + result->phases[WITAN_PHASE_REDUCE];
    result->phases[WITAN_PHASE_DISPATCH] =
        work.gather + latest(clocks.received, ranks) - latest(clocks.routed, ranks);
    result->phases[WITAN_PHASE_EXPERTS] =
        latest(clocks.computed, ranks) - latest(clocks.received, ranks);
    result->phases[WITAN_PHASE_COMBINE] =
        latest(clocks.returned, ranks) - latest(clocks.computed, ranks);

fail:
    free(clocks.slow);
    return status;
}

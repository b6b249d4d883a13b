/* The formulas. A step's phases one after the other, as dispatch/layer.c has them: what is hidden
 * behind computation is left out, what ranks of one host take from each other is put in. */
#include "topology/scale_model.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/util.h"
#include "topology/scale_exchange.h"
#include "topology/scale_work.h"

const char *wtn_scale_limit_name(wtn_scale_limit_t limit)
{
    static const char *const names[] = {
#define WTN_SCALE_LIMIT_NAME(name, text) text,
        WTN_SCALE_LIMIT_LIST(WTN_SCALE_LIMIT_NAME)
#undef WTN_SCALE_LIMIT_NAME
    };

    return (unsigned)limit < WTN_SCALE_LIMIT_COUNT ? names[limit] : "?";
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* One direction of the exchange: a round of it on the wire, and all of it in the processors. */
typedef struct leg {
    wtn_exchange_result_t wire; /* of one round */
    double                work; /* s of a rank's processor, all rounds */
} leg_t;

typedef struct model {
    const wtn_scale_machine_t *machine;
    const wtn_scale_shape_t   *shape;
    const wtn_scale_mode_t    *mode;
    const wtn_scale_load_t    *load;
    wtn_scale_work_t           work;
    leg_t                      dispatch, back;
    double                     rounds;
} model_t;

static witan_status_t make_leg(const model_t *model, wtn_scale_direction_t direction,
                               const wtn_fabric_t *fabric, leg_t *leg)
{
    wtn_scale_messages_t messages = {.machine   = model->machine,
                                     .shape     = model->shape,
                                     .mode      = model->mode,
                                     .load      = model->load,
                                     .direction = direction,
                                     .share     = 1 / model->rounds};
    wtn_exchange_t       exchange = wtn_scale_exchange(&messages, fabric);
    double              *work     = calloc((size_t)fabric->rank_count, sizeof(*work));
    witan_status_t       status;

    if (work == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "scale: %" PRId32 " ranks", fabric->rank_count);
    }
    wtn_scale_exchange_work(&messages, &exchange, model->rounds, work);
    leg->work = wtn_scale_shared_time(model->machine, model->mode, work, fabric->rank_count);
    status    = wtn_exchange_bound(&exchange, &leg->wire);
    free(work);
    return status;
}

/* Divide seconds that waiting for a round on the wire exposes among what made it that long. */
static void blame_wire(wtn_scale_result_t *result, const leg_t *leg, double seconds)
{
    double busy    = larger(leg->wire.inside_busy, leg->wire.between_busy);
    double total   = leg->wire.seconds;
    bool   network = leg->wire.between_busy >= leg->wire.inside_busy;

    if (total > 0) {
        result->limits[network ? WTN_SCALE_LIMIT_BETWEEN : WTN_SCALE_LIMIT_INSIDE] +=
            seconds * busy / total;
        result->limits[WTN_SCALE_LIMIT_LATENCY] += seconds * (total - busy) / total;
    }
}

/* Waiting for one round of `leg` beside `other` seconds of work: what stands in the phase. */
static double expose(wtn_scale_result_t *result, const leg_t *leg, double work, double other)
{
    double wait = leg->wire.seconds - work - other;

    result->limits[WTN_SCALE_LIMIT_INSIDE] += work;
    if (wait > 0) {
        blame_wire(result, leg, wait);
        return work + wait;
    }
    return work;
}

/* Rounds behind the first: its experts and the processors' share of the messages beside the wire's
 * dispatch of the next round and return of the last. */
static void add_rounds(const model_t *model, wtn_scale_result_t *result)
{
    double rounds  = model->rounds;
    double work    = (model->dispatch.work + model->back.work) / rounds;
    double wire    = model->dispatch.wire.seconds + model->back.wire.seconds;
    double compute = model->work.experts / rounds;
    double hidden  = model->machine->overlap == WTN_SCALE_OVERLAP_POLL ? compute : 0;
    double wait    = (rounds - 1) * larger(0, wire - work - hidden);
    double share   = wire > 0 ? model->dispatch.wire.seconds / wire : 0;

    blame_wire(result, &model->dispatch, wait * share);
    blame_wire(result, &model->back, wait * (1 - share));
    result->limits[WTN_SCALE_LIMIT_INSIDE] += (rounds - 1) * work;
    result->phases[WITAN_PHASE_DISPATCH] +=
        wait * share + (rounds - 1) * model->dispatch.work / rounds;
    result->phases[WITAN_PHASE_COMBINE] +=
        wait * (1 - share) + (rounds - 1) * model->back.work / rounds;
}

/* The sum over a tensor group: reduce-scatter and gather of fp32, tp - 1 messages each. */
static double reduce_time(const model_t *model)
{
    const wtn_scale_machine_t *machine = model->machine;
    double                     tp      = model->mode->tp;
    bool                       crosses = model->mode->tp > machine->ranks_per_node;
    const wtn_scale_link_t    *link    = crosses ? &machine->between : &machine->inside;
    double                     bytes =
        2 * (tp - 1) / tp * model->load->token_count * (double)model->shape->hidden_size * 4;
    double sharing =
        crosses ? larger(1, (double)machine->ranks_per_node / (double)machine->nics_per_node) : 1;
    double wire = bytes / link->port.rate * sharing + 2 * (tp - 1) * link->port.overhead;
    double work =
        link->copy_rate > 0 ? 2 * bytes / link->copy_rate + 4 * (tp - 1) * link->port.overhead : 0;
    double sum = 2 * bytes / machine->combine_rate;

    if (model->mode->tp == 1) {
        return 0;
    }
    return larger(wire, wtn_scale_slowed(machine, model->mode, work)) + 2 * link->port.latency +
           wtn_scale_slowed(machine, model->mode, sum);
}

static void add_exchange(model_t *model, wtn_scale_result_t *result)
{
    bool    hides  = model->machine->overlap == WTN_SCALE_OVERLAP_POLL;
    double  rounds = model->rounds;
    double *phases = result->phases;

    if (model->mode->ep == 1) {
        return;
    }
    /* Tokens are received when all manifests are there: a latency more. */
    model->dispatch.wire.seconds +=
        larger(0, model->dispatch.wire.seconds -
                      larger(model->dispatch.wire.inside_busy, model->dispatch.wire.between_busy));
    phases[WITAN_PHASE_DISPATCH] += expose(result, &model->dispatch, model->dispatch.work / rounds,
                                           hides ? model->work.shared : 0);
    phases[WITAN_PHASE_COMBINE] += expose(result, &model->back, model->back.work / rounds, 0);
    add_rounds(model, result);
    phases[WITAN_PHASE_DISPATCH] += model->machine->exchange_s / 2;
    phases[WITAN_PHASE_COMBINE] += model->machine->exchange_s / 2;
    result->limits[WTN_SCALE_LIMIT_LATENCY] += model->machine->exchange_s;
}

static void finish(const model_t *model, wtn_scale_result_t *result)
{
    const wtn_scale_work_t *work   = &model->work;
    double                 *phases = result->phases, *limits = result->limits;

    phases[WITAN_PHASE_ROUTE] += work->route + model->machine->step_s;
    phases[WITAN_PHASE_PLAN] += work->plan;
    phases[WITAN_PHASE_DISPATCH] += work->gather;
    phases[WITAN_PHASE_SHARED] += work->shared;
    phases[WITAN_PHASE_EXPERTS] += work->experts + work->partial;
    phases[WITAN_PHASE_COMBINE] += work->combine;
    phases[WITAN_PHASE_REDUCE] += reduce_time(model);
    limits[WTN_SCALE_LIMIT_LATENCY] += model->machine->step_s;
    limits[WTN_SCALE_LIMIT_COMPUTE] += work->flops;
    limits[WTN_SCALE_LIMIT_MEMORY] += work->route + work->plan + work->gather + work->shared +
                                      work->experts + work->partial + work->combine - work->flops;
    limits[model->mode->tp > model->machine->ranks_per_node ? WTN_SCALE_LIMIT_BETWEEN
                                                            : WTN_SCALE_LIMIT_INSIDE] +=
        phases[WITAN_PHASE_REDUCE];
    for (int i = 0; i < WITAN_PHASE_COUNT; i++) {
        result->seconds += phases[i];
    }
    for (int i = 0; i < WTN_SCALE_LIMIT_COUNT; i++) {
        result->limit = limits[i] > limits[result->limit] ? (wtn_scale_limit_t)i : result->limit;
    }
}

/* Bytes of one group's ports, for all groups; the sum over tensor groups among them. */
static void count_bytes(const model_t *model, int32_t rank_count, wtn_scale_result_t *result)
{
    double groups = (double)model->mode->rank_count / rank_count;
    double tp     = model->mode->tp;
    double reduce = 2 * (tp - 1) / tp * model->load->token_count *
                    (double)model->shape->hidden_size * 4 * model->mode->rank_count;
    bool crosses = model->mode->tp > model->machine->ranks_per_node;

    result->inside_bytes = groups * model->rounds *
                               (model->dispatch.wire.inside_bytes + model->back.wire.inside_bytes) +
                           (crosses ? 0 : reduce);
    result->between_bytes =
        groups * model->rounds *
            (model->dispatch.wire.between_bytes + model->back.wire.between_bytes) +
        (crosses ? reduce : 0);
}

witan_status_t wtn_scale_predict(const wtn_scale_machine_t *machine, const wtn_scale_shape_t *shape,
                                 const wtn_scale_mode_t *mode, double token_count,
                                 const wtn_scale_load_t *load, wtn_scale_result_t *result)
{
    model_t        model  = {.machine = machine,
                             .shape   = shape,
                             .mode    = mode,
                             .load    = load,
                             .rounds  = mode->chunk_count};
    wtn_fabric_t   fabric = wtn_scale_fabric(machine, mode);
    witan_status_t status;

    *result = (wtn_scale_result_t){.imbalance = load->imbalance};
    WTN_TRY(
        wtn_scale_work_make(&model.work, machine, shape, mode, token_count * mode->tp, load, NULL));
    if (mode->ep > 1) {
        WTN_TRY(make_leg(&model, WTN_SCALE_DISPATCH, &fabric, &model.dispatch));
        WTN_TRY(make_leg(&model, WTN_SCALE_RETURN, &fabric, &model.back));
    }
    add_exchange(&model, result);
    count_bytes(&model, fabric.rank_count, result);
    finish(&model, result);

fail:
    return status;
}

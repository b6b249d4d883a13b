/* The public steps: what both engines have in common. */
#include <inttypes.h>

#include "core/error.h"
#include "dispatch/plan.h"

void wtn_plan_note(witan_plan_t *plan, bool busy)
{
    if (plan->busy != busy) {
        atomic_fetch_add(&plan->layer->busy_plans, busy ? 1 : -1);
    }
    plan->busy = busy;
}

/* After a step: is there more to come? */
static witan_status_t note_state(witan_plan_t *plan, witan_status_t status)
{
    wtn_plan_note(plan, plan->state == WTN_PLAN_ROUTED || plan->state == WTN_PLAN_DISPATCHED ||
                            plan->state == WTN_PLAN_COMPUTED);
    plan->refused = plan->refused || status != WITAN_OK;
    return status;
}

witan_status_t witan_forward(witan_plan_t *plan, const witan_forward_args_t *args)
{
    if (plan == NULL || args == NULL || args->struct_bytes != sizeof(*args)) {
        witan_status_t status =
            WTN_ERROR(WITAN_E_ARGUMENT, "forward: null pointer or wrong struct_bytes");

        return plan == NULL ? status : note_state(plan, wtn_plan_fail(plan, status));
    }
    wtn_plan_note(plan, true);
    return note_state(plan, plan->engine->forward(plan, args));
}

witan_status_t witan_route(witan_plan_t *plan, int64_t token_count, const void *hidden)
{
    if (plan == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "route: plan is NULL");
    }
    return note_state(plan, plan->engine->route(plan, token_count, hidden));
}

witan_status_t witan_plan_import(witan_plan_t *plan, int64_t token_count, const int32_t *ids,
                                 const float *weights)
{
    if (plan == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "import: plan is NULL");
    }
    return note_state(plan, plan->engine->import(plan, token_count, ids, weights));
}

witan_status_t witan_dispatch(witan_plan_t *plan, const void *hidden)
{
    if (plan == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "dispatch: plan is NULL");
    }
    return note_state(plan, plan->engine->dispatch(plan, hidden));
}

witan_status_t witan_experts(witan_plan_t *plan)
{
    if (plan == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "experts: plan is NULL");
    }
    return note_state(plan, plan->engine->experts(plan));
}

witan_status_t witan_combine(witan_plan_t *plan, void *output)
{
    if (plan == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "combine: plan is NULL");
    }
    return note_state(plan, plan->engine->combine(plan, output));
}

witan_status_t witan_plan_wait(witan_plan_t *plan)
{
    if (plan == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "wait: plan is NULL");
    }
    if (plan->state == WTN_PLAN_BROKEN) {
        return WTN_ERROR(WITAN_E_STATE, "wait: an earlier step of this plan failed");
    }
    return plan->engine->wait == NULL ? WITAN_OK : plan->engine->wait(plan);
}

witan_status_t witan_plan_routing(const witan_plan_t *plan, const int32_t **ids,
                                  const float **weights)
{
    if (plan == NULL || ids == NULL || weights == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "routing: a pointer is NULL");
    }
    if (plan->state == WTN_PLAN_EMPTY) {
        return WTN_ERROR(WITAN_E_STATE, "routing: called before route or import");
    }
    if (plan->engine->routing != NULL) {
        return plan->engine->routing(plan, ids, weights);
    }
    *ids     = plan->ids;
    *weights = plan->weights;
    return WITAN_OK;
}

int64_t witan_plan_rounds_left(const witan_plan_t *plan)
{
    if (plan == NULL || plan->state == WTN_PLAN_EMPTY || plan->state == WTN_PLAN_BROKEN) {
        return 0;
    }
    return plan->round_count - plan->round_done;
}

witan_status_t wtn_plan_check_arrays(const witan_plan_t *plan, const char *step,
                                     int64_t token_count, const void *a, const void *b)
{
    if (plan->state == WTN_PLAN_BROKEN) {
        return WTN_ERROR(WITAN_E_STATE, "%s: an earlier step of this plan failed", step);
    }
    if (plan->layer->doubt) {
        return WTN_ERROR(WITAN_E_STATE,
                         "%s: a commit of a rebalancing failed, and which experts the peers go by "
                         "is not known: make another layer",
                         step);
    }
    if (token_count < 0 || token_count > plan->config.token_count_max) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "%s: %" PRId64 " tokens, the plan allows 0 to %" PRId64,
                         step, token_count, plan->config.token_count_max);
    }
    if (token_count > 0 && (a == NULL || b == NULL)) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "%s: an array is NULL", step);
    }
    return WITAN_OK;
}

witan_status_t wtn_plan_check_idle(const witan_plan_t *plan, const char *step)
{
    bool between   = plan->state == WTN_PLAN_ROUTED && plan->round_next > 0;
    bool under_way = plan->state == WTN_PLAN_DISPATCHED || plan->state == WTN_PLAN_COMPUTED ||
                     (between && plan->round_done < plan->round_count);

    return under_way ? WTN_ERROR(WITAN_E_STATE, "%s: called before combine of the last round", step)
                     : WITAN_OK;
}

witan_status_t wtn_plan_check_turn(const witan_plan_t *plan, const char *step,
                                   wtn_plan_state_t turn, const char *before)
{
    if (plan->state == WTN_PLAN_BROKEN) {
        return WTN_ERROR(WITAN_E_STATE, "%s: an earlier step of this plan failed", step);
    }
    if (plan->state != turn) {
        return WTN_ERROR(WITAN_E_STATE, "%s: called before %s", step, before);
    }
    return WITAN_OK;
}

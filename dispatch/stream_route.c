/* The begin of a queued step: whether it may start, marks between phases, gate and top-k. */
#include "core/error.h"
#include "core/util.h"
#include "dispatch/stream.h"

void wtn_stream_mark(witan_plan_t *plan, witan_phase_t phase)
{
    wtn_stream_t *stream = plan->stream;

    if (stream->captured || stream->mark_count == WTN_MARKS_MAX) {
        return; /* rounds without end: the time of the last ones is not told apart */
    }
    stream->mark_phases[stream->mark_count] = phase;
    (void)stream->device->event_record(stream->marks[stream->mark_count++], stream->queue);
}

witan_status_t wtn_stream_use_device(const witan_plan_t *plan)
{
    int32_t *device = &plan->layer->group->device;

    return plan->layer->layout.backend->device->use(*device, 0, device);
}

witan_status_t wtn_stream_begin(witan_plan_t *plan, const char *step)
{
    wtn_stream_t  *stream    = plan->stream;
    bool           capturing = false;
    witan_status_t status;

    WTN_TRY(wtn_plan_check_idle(plan, step));
    WTN_TRY(wtn_stream_use_device(plan));
    if (stream->queued && stream->shape.overflow && !stream->captured) {
        return WTN_ERROR(WITAN_E_STATE,
                         "%s: expected witan_plan_wait before: the slots of the last step may "
                         "have overflowed",
                         step);
    }
    WTN_TRY(stream->device->stream_is_capturing(stream->queue, &capturing));
    if (capturing && plan->ep > 1 && !stream->shape.slots) {
        return WTN_ERROR(WITAN_E_STATE,
                         "%s: the exact exchange waits for its counts: only padded "
                         "and direct can be captured",
                         step);
    }
    if (capturing && stream->waits) {
        return WTN_ERROR(WITAN_E_STATE,
                         "%s: kernel tier cublas waits for its row counts: it cannot be captured",
                         step);
    }
    if (stream->expert != NULL) {
        WTN_TRY(stream->link->check(stream->expert));
    }
    if (stream->tensor != NULL) {
        WTN_TRY(stream->link->check(stream->tensor));
    }
    if (stream->direct != NULL) {
        WTN_TRY(stream->link->direct_check(stream->direct, "an earlier step"));
    }
    stream->captured   = capturing;
    stream->mark_count = 0;

fail:
    return status;
}

void wtn_stream_start(witan_plan_t *plan, int64_t token_count, bool imported)
{
    plan->token_count      = token_count;
    plan->state            = WTN_PLAN_ROUTED;
    plan->round_next       = 0;
    plan->round_done       = 0;
    plan->round_count      = 1;
    plan->stream->imported = imported;
    plan->stream->queued   = true;
}

int64_t wtn_stream_own_routed(const witan_plan_t *plan)
{
    const wtn_stream_shape_t *shape = &plan->stream->shape;

    return shape->scatter ? shape->mine * plan->token_count * plan->layer->layout.config.topk : 0;
}

static witan_status_t route_block(witan_plan_t *plan, int64_t begin, int64_t count,
                                  const void *hidden)
{
    const witan_layer_t *layer  = plan->layer;
    const wtn_layout_t  *layout = &layer->layout;
    wtn_stream_t        *stream = plan->stream;
    int64_t              first  = wtn_stream_own_routed(plan) + begin * layout->config.topk;
    wtn_gate_args_t      gate   = {
               .x               = (const char *)hidden + (size_t)begin * layout->row_bytes,
               .token_count     = count,
               .logits          = stream->logits,
               .workspace       = stream->scratch,
               .workspace_bytes = stream->scratch_bytes,
               .thread_count    = layer->group->thread_count,
               .stream          = stream->queue,
    };
    wtn_topk_args_t topk = {
        .routing         = &layout->config.routing,
        .expert_count    = layout->config.expert_count,
        .topk            = layout->config.topk,
        .logits          = stream->logits,
        .bias            = layer->router_bias,
        .correction_bias = layer->correction_bias,
        .token_count     = count,
        .ids             = stream->ids + first,
        .weights         = stream->weights + first,
        .workspace       = stream->scratch,
        .workspace_bytes = stream->scratch_bytes,
        .thread_count    = layer->group->thread_count,
        .stream          = stream->queue,
    };
    witan_status_t status = layout->backend->gate_run(layer->router, &gate);

    return status == WITAN_OK ? layout->backend->topk(&topk) : status;
}

witan_status_t wtn_stream_route(witan_plan_t *plan, int64_t token_count, const void *hidden)
{
    int64_t        block  = plan->stream->shape.route_block;
    witan_status_t status = WITAN_OK;

    wtn_stream_start(plan, token_count, false);
    plan->stream->device->range_begin("route");
    wtn_stream_mark(plan, WITAN_PHASE_ROUTE);
    for (int64_t begin = 0; begin < token_count; begin += block) {
        WTN_TRY(route_block(plan, begin, wtn_min_i64(block, token_count - begin), hidden));
    }
    wtn_stream_mark(plan, WITAN_PHASE_ROUTE);

fail:
    plan->stream->device->range_end();
    return status;
}

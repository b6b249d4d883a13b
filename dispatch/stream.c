/* The way a token goes on a device. The story of layer.c, told to a queue: nothing here waits for
 * the device, but for the counts of an exact exchange and in witan_plan_wait.
 *
 *   route -> schedule -> counts -> [ tokens to the experts -> up, down -> rows back ] -> sums
 *                          (the shared expert beside the tokens)
 */
#include "dispatch/stream.h"
#include "core/error.h"
#include "core/util.h"

typedef witan_status_t (*stage_t)(witan_plan_t *plan, int64_t round);

static witan_status_t begin_dispatch(witan_plan_t *plan, const void *hidden);
static witan_status_t finish(witan_plan_t *plan, void *output);
static witan_status_t in_range(witan_plan_t *plan, witan_phase_t phase, stage_t stage,
                               int64_t round);

static witan_status_t check_output(const witan_plan_t *plan, const void *hidden, const void *output)
{
    const char *a = hidden, *b = output;
    size_t      bytes = (size_t)plan->token_count * plan->layer->layout.row_bytes;

    if (plan->stream->shape.overflow && a < b + bytes && b < a + bytes) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "output: expected other memory than hidden, which is "
                                           "read again where slots overflow");
    }
    return WITAN_OK;
}

/* witan_forward */
static witan_status_t forward(witan_plan_t *plan, const witan_forward_args_t *args)
{
    witan_status_t status;

    WTN_TRY(wtn_plan_check_arrays(plan, "forward", args->token_count, args->hidden, args->output));
    WTN_TRY(wtn_stream_begin(plan, "forward"));
    WTN_TRY(wtn_stream_route(plan, args->token_count, args->hidden));
    WTN_TRY(check_output(plan, args->hidden, args->output));
    WTN_TRY(begin_dispatch(plan, args->hidden));
    for (int64_t r = 0; r < plan->round_count; r++) {
        WTN_TRY(in_range(plan, WITAN_PHASE_DISPATCH, wtn_stream_send, r));
        WTN_TRY(in_range(plan, WITAN_PHASE_EXPERTS, wtn_stream_compute, r));
        WTN_TRY(in_range(plan, WITAN_PHASE_COMBINE, wtn_stream_return, r));
        plan->round_done = r + 1;
    }
    WTN_TRY(finish(plan, args->output));
    return WITAN_OK;

fail:
    return wtn_plan_fail(plan, status);
}

/* A stage of a round, as a range that profilers show and with a mark behind it. */
static witan_status_t in_range(witan_plan_t *plan, witan_phase_t phase, stage_t stage,
                               int64_t round)
{
    witan_status_t status;

    plan->stream->device->range_begin(witan_phase_name(phase));
    status = stage(plan, round);
    plan->stream->device->range_end();
    wtn_stream_mark(plan, phase);
    return status;
}

/* ---- route ---- */

static witan_status_t route(witan_plan_t *plan, int64_t token_count, const void *hidden)
{
    witan_status_t status;

    WTN_TRY(wtn_plan_check_arrays(plan, "route", token_count, hidden, hidden));
    WTN_TRY(wtn_stream_begin(plan, "route"));
    WTN_TRY(wtn_stream_route(plan, token_count, hidden));

fail:
    return status;
}

static witan_status_t import(witan_plan_t *plan, int64_t token_count, const int32_t *ids,
                             const float *weights)
{
    wtn_stream_t  *stream = plan->stream;
    int64_t        count  = token_count * plan->layer->layout.config.topk;
    wtn_ids_args_t args   = {
          .ids          = ids,
          .count        = count,
          .expert_count = plan->layer->layout.config.expert_count,
          .bad_count    = stream->report.bad_ids,
          .stream       = stream->queue,
    };
    witan_status_t status;

    WTN_TRY(wtn_plan_check_arrays(plan, "import", token_count, ids, weights));
    WTN_TRY(wtn_stream_begin(plan, "import"));
    wtn_stream_start(plan, token_count, true);
    wtn_stream_mark(plan, WITAN_PHASE_ROUTE);
    args.out = stream->ids + wtn_stream_own_routed(plan);
    WTN_TRY(stream->device->ids(&args));
    if (count > 0) {
        WTN_TRY(stream->backend->copy(stream->weights + wtn_stream_own_routed(plan), weights,
                                      (size_t)count * sizeof(*weights), stream->queue));
    }
    wtn_stream_mark(plan, WITAN_PHASE_ROUTE);

fail:
    return status;
}

/* ---- dispatch ---- */

static witan_status_t make_schedule(witan_plan_t *plan)
{
    wtn_stream_t               *stream = plan->stream;
    const wtn_stream_shape_t   *shape  = &stream->shape;
    const wtn_report_t         *report = &stream->report;
    const witan_layer_config_t *config = &plan->layer->layout.config;
    wtn_local_args_t local = {.schedule = &stream->schedule, .row_expert = stream->row_expert};
    wtn_slots_args_t slots;
    witan_status_t   status;

    stream->schedule = (wtn_schedule_args_t){
        .ids                 = stream->ids,
        .weights             = stream->weights,
        .token_count         = stream->tokens,
        .token_count_max     = shape->token_max,
        .expert_count        = config->expert_count,
        .topk                = config->topk,
        .peer_count          = plan->ep,
        .owner               = plan->layer->owner,
        .local               = plan->layer->local,
        .replica_begin       = plan->layer->replica_begin,
        .salt                = plan->me,
        .round_tokens        = shape->round_tokens,
        .round_count         = shape->round_count,
        .reduced             = shape->reduced,
        .expert_token_counts = report->expert_token_counts,
        .pair_token_begin    = report->pair_token_begin,
        .pair_row_begin      = report->pair_row_begin,
        .send_token          = stream->send_token,
        .token_first_row     = stream->token_first_row,
        .round_row_begin     = report->round_row_begin,
        .sum_index           = stream->sum_index,
        .workspace           = stream->scratch,
        .workspace_bytes     = stream->scratch_bytes,
        .stream              = stream->queue,
    };
    WTN_TRY(stream->device->schedule(&stream->schedule));
    slots = (wtn_slots_args_t){
        .index       = stream->sum_index,
        .count       = stream->tokens * shape->sum_slots,
        .peer_count  = plan->ep,
        .slot_count  = shape->pair_rows,
        .pair_begin  = shape->reduced ? report->pair_token_begin : report->pair_row_begin,
        .round_begin = shape->reduced ? NULL : report->round_row_begin,
        .round_count = shape->round_count,
        .stream      = stream->queue,
    };
    if (shape->slots && slots.count > 0) {
        WTN_TRY(stream->device->slots(&slots));
    }
    if (shape->local) {
        WTN_TRY(stream->device->local(&local));
    }

fail:
    return status;
}

/* Products that wait for the device do so without a deadline. Where peers have brought what they
 * read, it is waited for here before, where a lost one ends the wait. */
static witan_status_t wait_first(const witan_plan_t *plan, bool brought)
{
    return plan->stream->waits && (brought || plan->stream->shape.scatter)
               ? wtn_stream_await_queue(plan, "dispatch: tokens")
               : WITAN_OK;
}

/* The shared expert of the tokens here, and its gate. With peers it has a stream of its own beside
 * the exchange; the experts follow it, so one scratch serves both. */
static witan_status_t queue_shared(witan_plan_t *plan)
{
    const witan_layer_t *layer  = plan->layer;
    wtn_stream_t        *stream = plan->stream;
    void                *queue  = stream->side != NULL ? stream->side : stream->queue;
    wtn_gate_args_t      gate   = {
               .x               = stream->x,
               .token_count     = stream->tokens,
               .logits          = stream->shared_logit,
               .workspace       = stream->scratch,
               .workspace_bytes = stream->scratch_bytes,
               .thread_count    = layer->group->thread_count,
               .stream          = queue,
    };
    wtn_ffn_args_t args = {
        .x               = stream->x,
        .out             = stream->shared_rows,
        .row_count       = stream->tokens,
        .workspace       = stream->scratch,
        .workspace_bytes = stream->scratch_bytes,
        .thread_count    = layer->group->thread_count,
        .stream          = queue,
        .sm_reserved     = plan->config.sm_reserved,
    };
    witan_status_t status = WITAN_OK;

    if (layer->shared == NULL || stream->tokens == 0) {
        return WITAN_OK;
    }
    WTN_TRY(wait_first(plan, false));
    if (stream->side != NULL) {
        WTN_TRY(stream->device->event_record(stream->forked, stream->queue));
        WTN_TRY(stream->device->event_wait(stream->forked, stream->side));
    }
    if (layer->shared_gate != NULL) {
        WTN_TRY(stream->backend->gate_run(layer->shared_gate, &gate));
    }
    WTN_TRY(stream->backend->ffn_run(layer->shared, &args));
    if (stream->side != NULL) {
        WTN_TRY(stream->device->event_record(stream->joined, stream->side));
    } else {
        wtn_stream_mark(plan, WITAN_PHASE_SHARED);
    }

fail:
    return status;
}

static witan_status_t join_shared(witan_plan_t *plan)
{
    wtn_stream_t *stream = plan->stream;

    return stream->side != NULL && stream->tokens > 0
               ? stream->device->event_wait(stream->joined, stream->queue)
               : WITAN_OK;
}

/* Before the first round. */
static witan_status_t begin_dispatch(witan_plan_t *plan, const void *hidden)
{
    witan_status_t status;

    if (plan->token_count > 0 && hidden == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "dispatch: hidden is NULL");
    }
    plan->hidden = hidden;
    plan->step++;
    plan->stream->device->range_begin("plan");
    WTN_TRY(wtn_stream_gather(plan, hidden));
    WTN_TRY(make_schedule(plan));
    wtn_stream_mark(plan, WITAN_PHASE_PLAN);
    WTN_TRY(wtn_stream_counts(plan));
    WTN_TRY(queue_shared(plan));
    WTN_TRY(wtn_stream_await_counts(plan));

fail:
    plan->stream->device->range_end();
    return status;
}

/* ---- experts ---- */

/* Reduced mode: the rows of each token in slots [begin, begin + count) summed in order of k. */
static witan_status_t sum_rows(witan_plan_t *plan, int64_t begin, int64_t count, void *out)
{
    wtn_stream_t      *stream = plan->stream;
    int64_t            first  = begin * plan->layer->layout.config.topk;
    wtn_combine_args_t args   = {
          .token_count  = count,
          .hidden_size  = plan->layer->layout.config.hidden_size,
          .slot_count   = plan->layer->layout.config.topk,
          .dtype        = plan->layer->layout.config.dtype,
          .out_dtype    = plan->layer->layout.config.dtype,
          .rows         = stream->rows,
          .row_index    = stream->reduce_index + first,
          .weights      = stream->reduce_weight + first,
          .out          = out,
          .thread_count = plan->layer->group->thread_count,
          .stream       = stream->queue,
    };

    return count == 0 ? WITAN_OK : stream->backend->combine(&args);
}

/* Own sums go where the others' will come back, unless slots bring them there. */
static witan_status_t sum_round(witan_plan_t *plan, int64_t round, int64_t slots)
{
    wtn_stream_t  *stream = plan->stream;
    size_t         size   = plan->layer->layout.row_bytes;
    wtn_tables_t   made   = wtn_stream_tables(stream, stream->tables_made, round);
    int64_t        own, end;
    witan_status_t status;

    if (stream->shape.slots) {
        return sum_rows(plan, 0, slots, stream->partial_rows);
    }
    own = made.token_begin[plan->me];
    end = own + made.token_count[plan->me];
    WTN_TRY(sum_rows(plan, 0, own, stream->partial_rows));
    WTN_TRY(sum_rows(plan, own, end - own,
                     stream->rows + (size_t)(stream->told.pair_token_begin[plan->me] +
                                             round * stream->shape.round_tokens) *
                                        size));
    WTN_TRY(sum_rows(plan, end, slots - end, stream->partial_rows + (size_t)end * size));

fail:
    return status;
}

static int64_t slots_of_round(const witan_plan_t *plan, int64_t round)
{
    const wtn_stream_t *stream = plan->stream;
    wtn_tables_t        made;

    if (stream->shape.slots) {
        return stream->shape.token_slots;
    }
    made = wtn_stream_tables(stream, stream->tables_made, round);
    return made.token_begin[plan->ep - 1] + made.token_count[plan->ep - 1];
}

witan_status_t wtn_stream_compute(witan_plan_t *plan, int64_t round)
{
    const wtn_layout_t *layout = &plan->layer->layout;
    wtn_stream_t       *stream = plan->stream;
    bool                alone  = plan->ep == 1;
    int64_t             slots  = alone ? stream->tokens : slots_of_round(plan, round);
    wtn_ffn_args_t      args   = {
               .x          = alone ? stream->x : stream->token_recv,
               .out        = stream->rows,
               .row_count  = slots * layout->config.topk,
               .row_expert = alone && !stream->shape.local ? stream->ids : stream->row_expert,
               .row_in     = stream->row_in,
               .row_out    = alone ? stream->sum_index : stream->row_out,
               .expert_row_counts =
                   stream->report.expert_row_counts + round * ((int64_t)layout->local_count + 1),
               .executor        = plan->config.executor,
               .masked_rows_max = plan->config.masked_rows_max,
               .workspace       = stream->scratch,
               .workspace_bytes = stream->scratch_bytes,
               .thread_count    = plan->layer->group->thread_count,
               .stream          = stream->queue,
               .sm_reserved     = plan->config.sm_reserved,
    };
    witan_status_t status;

    if (round == 0) {
        WTN_TRY(join_shared(plan));
    }
    WTN_TRY(wait_first(plan, !alone));
    if (args.row_count > 0 && layout->local_count > 0) {
        WTN_TRY(stream->backend->ffn_run(plan->layer->experts, &args));
        plan->executor = args.executor_taken;
        plan->executor_counts[args.executor_taken]++;
    } else {
        WTN_TRY(stream->device->fill(args.expert_row_counts, 0,
                                     (size_t)layout->local_count * sizeof(int64_t), stream->queue));
    }
    if (stream->shape.reduced) {
        WTN_TRY(sum_round(plan, round, slots));
    }
    return WITAN_OK;

fail:
    return status;
}

/* ---- combine ---- */

witan_status_t wtn_stream_sums(witan_plan_t *plan, void *output)
{
    const wtn_layout_t *layout = &plan->layer->layout;
    wtn_stream_t       *stream = plan->stream;
    bool                exact  = !stream->shape.reduced;
    wtn_combine_args_t  args   = {
           .token_count = stream->tokens,
           .hidden_size = layout->config.hidden_size,
           .slot_count  = stream->shape.sum_slots,
           .dtype       = layout->config.dtype,
           .out_dtype   = plan->tp > 1 ? WITAN_F32 : layout->config.dtype,
           .rows = stream->direct != NULL ? stream->token_recv + stream->window.rows : stream->rows,
           .row_index    = stream->sum_index,
           .weights      = exact ? stream->weights : NULL,
           .shared       = plan->layer->shared != NULL ? stream->shared_rows : NULL,
           .shared_logit = plan->layer->shared_gate != NULL ? stream->shared_logit : NULL,
           .out          = plan->tp > 1 ? (void *)stream->partial : output,
           .thread_count = plan->layer->group->thread_count,
           .stream       = stream->queue,
    };
    witan_status_t status = WITAN_OK;

    if (stream->tokens > 0) {
        WTN_TRY(stream->backend->combine(&args));
    }
    wtn_stream_mark(plan, WITAN_PHASE_COMBINE);
    if (plan->tp > 1) {
        WTN_TRY(wtn_stream_reduce(plan, output));
        wtn_stream_mark(plan, WITAN_PHASE_REDUCE);
    }
    WTN_TRY(stream->backend->copy(stream->told.base, stream->report.base, stream->report.bytes,
                                  stream->queue));

fail:
    return status;
}

static witan_status_t finish(witan_plan_t *plan, void *output)
{
    witan_status_t status;

    plan->stream->output = output;
    plan->stream->device->range_begin("combine");
    status = wtn_stream_sums(plan, output);
    plan->stream->device->range_end();
    WTN_TRY(status);
    plan->state = WTN_PLAN_DONE;

fail:
    return status;
}

/* ---- the steps called alone ---- */

static witan_status_t dispatch(witan_plan_t *plan, const void *hidden)
{
    witan_status_t status;

    WTN_TRY(wtn_plan_check_turn(plan, "dispatch", WTN_PLAN_ROUTED, "route or import"));
    WTN_TRY(wtn_stream_use_device(plan));
    if (plan->round_next == 0) {
        WTN_TRY(begin_dispatch(plan, hidden));
    } else if (hidden != plan->hidden) {
        status = WTN_ERROR(WITAN_E_ARGUMENT, "dispatch: hidden differs from that of round 0");
        goto fail;
    }
    WTN_TRY(in_range(plan, WITAN_PHASE_DISPATCH, wtn_stream_send, plan->round_next));
    plan->round_next++;
    plan->state = WTN_PLAN_DISPATCHED;
    return WITAN_OK;

fail:
    return wtn_plan_fail(plan, status);
}

static witan_status_t experts(witan_plan_t *plan)
{
    witan_status_t status;

    WTN_TRY(wtn_plan_check_turn(plan, "experts", WTN_PLAN_DISPATCHED, "dispatch"));
    WTN_TRY(wtn_stream_use_device(plan));
    WTN_TRY(in_range(plan, WITAN_PHASE_EXPERTS, wtn_stream_compute, plan->round_next - 1));
    plan->state = WTN_PLAN_COMPUTED;
    return WITAN_OK;

fail:
    return wtn_plan_fail(plan, status);
}

static witan_status_t combine(witan_plan_t *plan, void *output)
{
    witan_status_t status;

    WTN_TRY(wtn_plan_check_turn(plan, "combine", WTN_PLAN_COMPUTED, "experts"));
    if (plan->round_next == plan->round_count) {
        WTN_TRY(wtn_plan_check_arrays(plan, "combine", plan->token_count, output, output));
        WTN_TRY(check_output(plan, plan->hidden, output));
    }
    WTN_TRY(wtn_stream_use_device(plan));
    WTN_TRY(in_range(plan, WITAN_PHASE_COMBINE, wtn_stream_return, plan->round_next - 1));
    plan->round_done = plan->round_next;
    plan->state      = WTN_PLAN_ROUTED;
    if (plan->round_done == plan->round_count) {
        WTN_TRY(finish(plan, output));
    }
    return WITAN_OK;

fail:
    return wtn_plan_fail(plan, status);
}

const wtn_engine_t wtn_engine_stream = {
    .check    = wtn_stream_check,
    .bytes    = wtn_stream_bytes,
    .create   = wtn_stream_create,
    .connect  = wtn_stream_connect,
    .destroy  = wtn_stream_destroy,
    .route    = route,
    .import   = import,
    .dispatch = dispatch,
    .experts  = experts,
    .combine  = combine,
    .forward  = forward,
    .wait     = wtn_stream_wait,
    .routing  = wtn_stream_routing,
    .stats    = wtn_stream_stats,
};

/* The way a token goes, in one screen: witan_forward, and the four steps it is made of.
 *
 * hidden_states [T,H]
 *   -> route     gate GEMM, scores, top-k                    ids [T,K], weights [T,K]
 *   -> dispatch  one copy of a token per rank, or per node   round by round
 *   -> experts   up GEMM + activation, down GEMM             the shared expert while tokens travel
 *   -> combine   rows return; y = shared + sum over k of w * row, fp32, rounded once
 * hidden_states [T,H]
 */
#include <inttypes.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/plan.h"

static witan_status_t route(witan_plan_t *plan, int64_t token_count, const void *hidden);
static witan_status_t begin_rounds(witan_plan_t *plan, const void *hidden);
static witan_status_t shared_expert(witan_plan_t *plan);
static witan_status_t finish(witan_plan_t *plan, void *output);

/* witan_forward */
static witan_status_t forward(witan_plan_t *plan, const witan_forward_args_t *args)
{
    uint64_t       since = wtn_now_ns();
    bool           ahead = plan->shape.round_slots > 1;
    witan_status_t status;

    WTN_TRY(wtn_plan_check_arrays(plan, "forward", args->token_count, args->hidden, args->output));
    WTN_TRY(route(plan, args->token_count, args->hidden));
    WTN_TRY(begin_rounds(plan, args->hidden));
    since = wtn_now_ns();
    WTN_TRY(wtn_round_post(plan));
    wtn_plan_account(plan, WITAN_PHASE_DISPATCH, &since);
    WTN_TRY(shared_expert(plan));
    wtn_plan_account(plan, WITAN_PHASE_SHARED, &since);
    for (int64_t r = 0; r < plan->round_count; r++) {
        WTN_TRY(wtn_round_wait(plan, r)); /* the first tells how many rounds there are */
        if (ahead && plan->round_next < plan->round_count) {
            WTN_TRY(wtn_round_post(plan)); /* travels while the experts of r compute */
        }
        wtn_plan_account(plan, WITAN_PHASE_DISPATCH, &since);
        WTN_TRY(wtn_round_compute(plan, r));
        wtn_plan_account(plan, WITAN_PHASE_EXPERTS, &since);
        WTN_TRY(wtn_round_return(plan, r, !ahead));
        if (!ahead && plan->round_next < plan->round_count) {
            WTN_TRY(wtn_round_post(plan));
        }
        wtn_plan_account(plan, WITAN_PHASE_COMBINE, &since);
        plan->round_done = r + 1;
    }
    WTN_TRY(finish(plan, args->output));
    return WITAN_OK;

fail:
    return wtn_plan_fail(plan, status);
}

/* Gate and top-k, a block of tokens at a time so that the logits stay in cache. */
static witan_status_t route_block(witan_plan_t *plan, int64_t begin, int64_t count,
                                  const void *hidden)
{
    const witan_layer_t *layer   = plan->layer;
    const wtn_layout_t  *layout  = &layer->layout;
    int32_t              threads = layer->group->thread_count;
    wtn_gate_args_t      gate    = {
                .x               = (const char *)hidden + (size_t)begin * layout->row_bytes,
                .token_count     = count,
                .logits          = plan->logits,
                .workspace       = plan->scratch,
                .workspace_bytes = plan->scratch_bytes,
                .thread_count    = threads,
    };
    wtn_topk_args_t topk = {
        .routing         = &layout->config.routing,
        .expert_count    = layout->config.expert_count,
        .topk            = layout->config.topk,
        .logits          = plan->logits,
        .bias            = layer->router_bias,
        .correction_bias = layer->correction_bias,
        .token_count     = count,
        .ids             = plan->ids + begin * layout->config.topk,
        .weights         = plan->weights + begin * layout->config.topk,
        .workspace       = plan->scratch,
        .workspace_bytes = plan->scratch_bytes,
        .thread_count    = threads,
    };
    witan_status_t status = layout->backend->gate_run(layer->router, &gate);

    return status == WITAN_OK ? layout->backend->topk(&topk) : status;
}

/* Nothing of the last step is left in the statistics. */
static void start_step(witan_plan_t *plan, int64_t token_count)
{
    plan->token_count      = token_count;
    plan->state            = WTN_PLAN_EMPTY;
    plan->recv_token_count = plan->recv_row_count = plan->tensor_send_bytes = 0;
    memset(plan->phase_ns, 0, sizeof(plan->phase_ns));
    memset(plan->expert_row_counts, 0,
           (size_t)plan->layer->layout.local_count * sizeof(*plan->expert_row_counts));
    memset(plan->rank_send_bytes, 0, (size_t)plan->ep * sizeof(*plan->rank_send_bytes));
}

static void plan_step(witan_plan_t *plan, uint64_t *since)
{
    wtn_schedule(plan);
    plan->state       = WTN_PLAN_ROUTED;
    plan->round_next  = 0;
    plan->round_done  = 0;
    plan->round_count = 1;
    wtn_plan_account(plan, WITAN_PHASE_PLAN, since);
}

static witan_status_t route(witan_plan_t *plan, int64_t token_count, const void *hidden)
{
    uint64_t       since = wtn_now_ns();
    witan_status_t status;

    WTN_TRY(wtn_plan_check_arrays(plan, "route", token_count, hidden, hidden));
    WTN_TRY(wtn_plan_check_idle(plan, "route"));
    start_step(plan, token_count);
    for (int64_t begin = 0; begin < token_count; begin += plan->shape.route_block) {
        WTN_TRY(route_block(plan, begin, wtn_min_i64(plan->shape.route_block, token_count - begin),
                            hidden));
    }
    wtn_plan_account(plan, WITAN_PHASE_ROUTE, &since);
    plan_step(plan, &since);

fail:
    return status;
}

static witan_status_t import(witan_plan_t *plan, int64_t token_count, const int32_t *ids,
                             const float *weights)
{
    uint64_t       since        = wtn_now_ns();
    int32_t        topk         = plan->layer->layout.config.topk;
    int32_t        expert_count = plan->layer->layout.config.expert_count;
    witan_status_t status;

    WTN_TRY(wtn_plan_check_arrays(plan, "import", token_count, ids, weights));
    WTN_TRY(wtn_plan_check_idle(plan, "import"));
    for (int64_t i = 0; i < token_count * topk; i++) {
        if (ids[i] < -1 || ids[i] >= expert_count) {
            return WTN_ERROR(WITAN_E_ARGUMENT,
                             "import: ids[%" PRId64 "][%" PRId64 "]: expected -1 to %" PRId32
                             ", found %" PRId32,
                             i / topk, i % topk, expert_count - 1, ids[i]);
        }
    }
    start_step(plan, token_count);
    if (token_count > 0) {
        memcpy(plan->ids, ids, (size_t)(token_count * topk) * sizeof(*ids));
        memcpy(plan->weights, weights, (size_t)(token_count * topk) * sizeof(*weights));
    }
    plan_step(plan, &since);

fail:
    return status;
}

/* Before the first round: nothing sent, nothing known of the sources but ourselves. */
static witan_status_t begin_rounds(witan_plan_t *plan, const void *hidden)
{
    if (plan->token_count > 0 && hidden == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "dispatch: hidden is NULL");
    }
    plan->hidden         = hidden;
    plan->computing      = -1;
    plan->round_returned = 0;
    plan->step++;
    memset(plan->source_rounds, 0, (size_t)plan->ep * sizeof(*plan->source_rounds));
    memset(plan->relay_rounds, 0, (size_t)plan->ep * sizeof(*plan->relay_rounds));
    plan->source_rounds[plan->me] = (uint64_t)plan->send_rounds[plan->home];
    return WITAN_OK;
}

/* The shared expert of this rank's own tokens, and its gate. */
static witan_status_t shared_expert(witan_plan_t *plan)
{
    const witan_layer_t *layer   = plan->layer;
    const wtn_layout_t  *layout  = &layer->layout;
    int32_t              threads = layer->group->thread_count;
    wtn_ffn_args_t       args    = {
                 .x               = plan->hidden,
                 .out             = plan->shared_rows,
                 .poll            = plan->ep > 1 ? wtn_round_poll : NULL,
                 .poll_context    = plan,
                 .row_count       = plan->token_count,
                 .workspace       = plan->scratch,
                 .workspace_bytes = plan->scratch_bytes,
                 .thread_count    = threads,
    };
    witan_status_t status = WITAN_OK;

    for (int64_t t = 0; layer->shared_gate != NULL && t < plan->token_count;
         t += plan->shape.route_block) {
        wtn_gate_args_t gate = {
            .x               = (const char *)plan->hidden + (size_t)t * layout->row_bytes,
            .token_count     = wtn_min_i64(plan->shape.route_block, plan->token_count - t),
            .logits          = plan->shared_logit + t,
            .workspace       = plan->scratch,
            .workspace_bytes = plan->scratch_bytes,
            .thread_count    = threads,
        };

        WTN_TRY(layout->backend->gate_run(layer->shared_gate, &gate));
    }
    if (layer->shared != NULL && plan->token_count > 0) {
        WTN_TRY(layout->backend->ffn_run(layer->shared, &args));
    }

fail:
    return status;
}

static witan_status_t sum_over_tensor_group(witan_plan_t *plan, void *output)
{
    const wtn_layout_t  *layout = &plan->layer->layout;
    wtn_allreduce_args_t args   = {
          .peers        = plan->tensor_peers,
          .peer_count   = plan->tp,
          .mine         = layout->folding.tensor_index,
          .channel      = plan->channel,
          .partial      = plan->partial,
          .count        = plan->token_count * layout->config.hidden_size,
          .out_dtype    = layout->config.dtype,
          .out          = output,
          .scratch      = plan->scratch,
          .requests     = plan->reduce_requests,
          .thread_count = plan->layer->group->thread_count,
          .watch        = plan->watch,
          .reduce       = layout->backend->reduce,
    };

    plan->tensor_send_bytes = wtn_allreduce_send_bytes(&args);
    return wtn_allreduce(plan->comm, &args);
}

/* All rows are under way or here: wait for them and sum them in order of k. */
static witan_status_t finish(witan_plan_t *plan, void *output)
{
    const wtn_layout_t *layout = &plan->layer->layout;
    bool                exact  = plan->config.combine == WITAN_COMBINE_EXACT;
    uint64_t            since  = wtn_now_ns();
    wtn_combine_args_t  args   = {
           .token_count  = plan->token_count,
           .hidden_size  = layout->config.hidden_size,
           .slot_count   = plan->shape.slots_per_token,
           .dtype        = layout->config.dtype,
           .out_dtype    = plan->tp > 1 ? WITAN_F32 : layout->config.dtype,
           .rows         = plan->returned,
           .row_index    = plan->sum_index,
           .weights      = exact ? plan->weights : NULL,
           .shared       = plan->layer->shared != NULL ? plan->shared_rows : NULL,
           .shared_logit = plan->layer->shared_gate != NULL ? plan->shared_logit : NULL,
           .out          = plan->tp > 1 ? (void *)plan->partial : output,
           .thread_count = plan->layer->group->thread_count,
    };
    witan_status_t status;

    for (int64_t i = plan->round_next - plan->shape.round_slots; i < plan->round_next; i++) {
        if (i >= 0) {
            WTN_TRY(wtn_round_drain(plan, wtn_round_at(plan, i)));
        }
    }
    WTN_TRY(layout->backend->combine(&args));
    wtn_plan_account(plan, WITAN_PHASE_COMBINE, &since);
    if (plan->tp > 1) {
        WTN_TRY(sum_over_tensor_group(plan, output));
        wtn_plan_account(plan, WITAN_PHASE_REDUCE, &since);
    }
    plan->state = WTN_PLAN_DONE;

fail:
    return status;
}

static witan_status_t dispatch(witan_plan_t *plan, const void *hidden)
{
    uint64_t       since = wtn_now_ns();
    witan_status_t status;

    WTN_TRY(wtn_plan_check_turn(plan, "dispatch", WTN_PLAN_ROUTED, "route or import"));
    if (plan->round_next == 0) {
        WTN_TRY(begin_rounds(plan, hidden));
    } else if (hidden != plan->hidden) {
        status = WTN_ERROR(WITAN_E_ARGUMENT, "dispatch: hidden differs from that of round 0");
        goto fail;
    }
    WTN_TRY(wtn_round_post(plan));
    wtn_plan_account(plan, WITAN_PHASE_DISPATCH, &since);
    if (plan->round_next == 1) {
        WTN_TRY(shared_expert(plan));
        wtn_plan_account(plan, WITAN_PHASE_SHARED, &since);
    }
    WTN_TRY(wtn_round_wait(plan, plan->round_next - 1));
    wtn_plan_account(plan, WITAN_PHASE_DISPATCH, &since);
    plan->state = WTN_PLAN_DISPATCHED;
    return WITAN_OK;

fail:
    return wtn_plan_fail(plan, status);
}

static witan_status_t experts(witan_plan_t *plan)
{
    uint64_t       since = wtn_now_ns();
    witan_status_t status;

    WTN_TRY(wtn_plan_check_turn(plan, "experts", WTN_PLAN_DISPATCHED, "dispatch"));
    WTN_TRY(wtn_round_compute(plan, plan->round_next - 1));
    wtn_plan_account(plan, WITAN_PHASE_EXPERTS, &since);
    plan->state = WTN_PLAN_COMPUTED;
    return WITAN_OK;

fail:
    return wtn_plan_fail(plan, status);
}

static witan_status_t combine(witan_plan_t *plan, void *output)
{
    uint64_t       since = wtn_now_ns();
    witan_status_t status;

    WTN_TRY(wtn_plan_check_turn(plan, "combine", WTN_PLAN_COMPUTED, "experts"));
    if (plan->round_next == plan->round_count) {
        WTN_TRY(wtn_plan_check_arrays(plan, "combine", plan->token_count, output, output));
    }
    WTN_TRY(wtn_round_return(plan, plan->round_next - 1, true));
    wtn_plan_account(plan, WITAN_PHASE_COMBINE, &since);
    plan->round_done = plan->round_next;
    plan->state      = WTN_PLAN_ROUTED;
    if (plan->round_done == plan->round_count) {
        WTN_TRY(finish(plan, output));
    }
    return WITAN_OK;

fail:
    return wtn_plan_fail(plan, status);
}

/* Options that only devices have. */
static witan_status_t check(const wtn_layout_t *layout, const witan_plan_config_t *config)
{
    const char *name = config->stream != NULL                              ? "stream"
                       : config->exchange != WITAN_EXCHANGE_AUTO           ? "exchange"
                       : config->tensor_exchange != WITAN_TENSOR_ALLREDUCE ? "tensor_exchange"
                       : config->sm_reserved != 0                          ? "sm_reserved"
                                                                           : NULL;

    return name == NULL ? WITAN_OK
                        : WTN_ERROR(WITAN_E_UNSUPPORTED, "plan: %s: backend %s has none", name,
                                    layout->backend->name);
}

const wtn_engine_t wtn_engine_rounds = {
    .check    = check,
    .bytes    = wtn_rounds_bytes,
    .create   = wtn_rounds_create,
    .connect  = wtn_rounds_connect,
    .destroy  = wtn_rounds_destroy,
    .route    = route,
    .import   = import,
    .dispatch = dispatch,
    .experts  = experts,
    .combine  = combine,
    .forward  = forward,
};

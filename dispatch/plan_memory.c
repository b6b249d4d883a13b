/* The arena of a plan of the rounds engine: every array of every step, laid out once. */
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/plan.h"

/* Gate, top-k, experts and the all-reduce never run at the same time: one block serves all. */
static size_t scratch_bytes(const wtn_plan_shape_t *shape, const witan_plan_config_t *config,
                            const wtn_layout_t *layout, int32_t thread_count)
{
    const wtn_backend_t *backend  = layout->backend;
    int32_t              tp       = layout->folding.tensor_parallel;
    size_t               sizes[6] = {0};
    size_t               most     = 0;

    sizes[0] = backend->gate_workspace_bytes(&layout->router, shape->route_block, thread_count);
    sizes[1] = backend->topk_workspace_bytes(layout->config.expert_count, layout->config.topk,
                                             thread_count);
    if (layout->shared_gate.out_count > 0) {
        sizes[2] =
            backend->gate_workspace_bytes(&layout->shared_gate, shape->route_block, thread_count);
    }
    if (layout->experts.expert_count > 0) {
        sizes[3] = backend->ffn_workspace_bytes(&layout->experts, shape->row_slot_count,
                                                config->masked_rows_max, thread_count);
    }
    if (layout->shared.hidden_size > 0) {
        sizes[4] = backend->ffn_workspace_bytes(&layout->shared, shape->token_count_max,
                                                config->masked_rows_max, thread_count);
    }
    if (tp > 1) {
        sizes[5] = wtn_allreduce_bytes(shape->token_count_max * layout->config.hidden_size, tp);
    }
    for (size_t i = 0; i < WTN_COUNT_OF(sizes); i++) {
        most = sizes[i] > most ? sizes[i] : most;
    }
    return most;
}

static void carve_schedule(witan_plan_t *plan, const wtn_layout_t *layout, wtn_carver_t *carver)
{
    const wtn_plan_shape_t *shape       = &plan->shape;
    size_t                  ep          = (size_t)layout->folding.expert_parallel;
    size_t                  topk        = (size_t)layout->config.topk;
    size_t                  rows        = (size_t)shape->token_count_max * topk;
    size_t                  pair_tokens = (size_t)shape->token_count_max * (topk < ep ? topk : ep);

    plan->ids               = wtn_carve(carver, rows, sizeof(*plan->ids));
    plan->weights           = wtn_carve(carver, rows, sizeof(*plan->weights));
    plan->logits            = wtn_carve(carver, (size_t)shape->route_block,
                                        (size_t)layout->config.expert_count * sizeof(float));
    plan->pair_token_begin  = wtn_carve(carver, ep + 1, sizeof(int64_t));
    plan->pair_row_begin    = wtn_carve(carver, ep + 1, sizeof(int64_t));
    plan->send_token        = wtn_carve(carver, pair_tokens, sizeof(int64_t));
    plan->token_first_row   = wtn_carve(carver, pair_tokens + 1, sizeof(int64_t));
    plan->row_token         = wtn_carve(carver, rows, sizeof(int32_t));
    plan->row_expert        = wtn_carve(carver, rows, sizeof(int32_t));
    plan->row_weight        = wtn_carve(carver, rows, sizeof(float));
    plan->sum_index         = wtn_carve(carver, (size_t)shape->return_count, sizeof(int64_t));
    plan->last_token        = wtn_carve(carver, ep, sizeof(int64_t));
    plan->cursor            = wtn_carve(carver, 2 * ep, sizeof(int64_t));
    plan->next_token        = wtn_carve(carver, ep, sizeof(int64_t));
    plan->send_rounds       = wtn_carve(carver, ep, sizeof(int64_t));
    plan->source_rounds     = wtn_carve(carver, ep, sizeof(uint64_t));
    plan->rank_row_counts   = wtn_carve(carver, ep, sizeof(int64_t));
    plan->rank_send_bytes   = wtn_carve(carver, ep, sizeof(int64_t));
    plan->expert_row_counts = wtn_carve(carver, (size_t)layout->local_count + 1, sizeof(int64_t));
    plan->round_row_counts  = wtn_carve(carver, (size_t)layout->local_count + 1, sizeof(int64_t));
    plan->expert_token_counts =
        wtn_carve(carver, (size_t)layout->config.expert_count, sizeof(int64_t));
}

static void carve_round(witan_plan_t *plan, wtn_round_t *round, const wtn_layout_t *layout,
                        wtn_carver_t *carver)
{
    const wtn_plan_shape_t *shape   = &plan->shape;
    size_t                  ep      = (size_t)layout->folding.expert_parallel;
    bool                    reduced = plan->config.combine == WITAN_COMBINE_REDUCED;
    bool                    alone   = ep == 1; /* own tokens are read where they lie */
    size_t                  rows    = (size_t)shape->row_slot_count;
    size_t                  tokens  = (size_t)shape->token_slot_count;
    size_t                  sums    = reduced ? tokens * (size_t)layout->config.topk : 0;

    round->pieces        = wtn_carve(carver, ep, sizeof(*round->pieces));
    round->headers       = wtn_carve(carver, ep, sizeof(*round->headers));
    round->expected      = wtn_carve(carver, ep, sizeof(*round->expected));
    round->manifest_send = wtn_carve(carver,
                                     ep * sizeof(wtn_manifest_t) +
                                         (size_t)shape->send_row_max * sizeof(wtn_wire_row_t),
                                     1);
    round->manifest_recv =
        wtn_carve(carver, ep * sizeof(wtn_manifest_t) + rows * sizeof(wtn_wire_row_t), 1);
    round->token_send =
        wtn_carve(carver, alone ? 0 : (size_t)shape->send_token_max, layout->row_bytes);
    round->token_recv    = wtn_carve(carver, alone ? 0 : tokens, layout->row_bytes);
    round->row_in        = wtn_carve(carver, rows, sizeof(int64_t));
    round->row_out       = wtn_carve(carver, rows, sizeof(int64_t));
    round->row_expert    = wtn_carve(carver, rows, sizeof(int32_t));
    round->reduce_index  = wtn_carve(carver, sums, sizeof(int64_t));
    round->reduce_weight = wtn_carve(carver, sums, sizeof(float));
    round->requests      = wtn_carve(carver, ep * WTN_REQUEST_KINDS, sizeof(*round->requests));
}

/* With a null base only measure. */
static void carve(witan_plan_t *plan, const wtn_layout_t *layout, int32_t thread_count,
                  wtn_carver_t *carver)
{
    const wtn_plan_shape_t *shape   = &plan->shape;
    bool                    reduced = plan->config.combine == WITAN_COMBINE_REDUCED;
    int32_t                 me = layout->folding.expert_index, tp = layout->folding.tensor_parallel;
    size_t                  hidden = (size_t)layout->config.hidden_size;
    size_t                  tokens = (size_t)shape->token_count_max;
    /* In the exact mode own rows are computed in place among the returned ones. */
    int64_t rows_per_round = shape->row_slot_count - (reduced ? 0 : shape->source_rows[me]);

    carve_schedule(plan, layout, carver);
    for (int32_t i = 0; i < shape->round_slots; i++) {
        carve_round(plan, &plan->rounds[i], layout, carver);
        plan->rounds[i].row_base = shape->return_count + i * rows_per_round;
    }
    plan->rows =
        wtn_carve(carver, (size_t)(shape->return_count + shape->round_slots * rows_per_round),
                  layout->row_bytes);
    plan->partial_rows =
        wtn_carve(carver, reduced ? (size_t)(shape->round_slots * shape->token_slot_count) : 0,
                  layout->row_bytes);
    plan->shared_rows =
        wtn_carve(carver, layout->shared.hidden_size > 0 ? tokens : 0, layout->row_bytes);
    plan->shared_logit =
        wtn_carve(carver, layout->shared_gate.out_count > 0 ? tokens : 0, sizeof(float));
    plan->partial         = wtn_carve(carver, tp > 1 ? tokens : 0, hidden * sizeof(float));
    plan->reduce_requests = wtn_carve(carver, 2 * (size_t)tp, sizeof(wtn_request_t));
    plan->scratch_bytes   = scratch_bytes(shape, &plan->config, layout, thread_count);
    plan->scratch         = wtn_carve(carver, plan->scratch_bytes, 1);
}

witan_status_t wtn_rounds_bytes(const wtn_layout_t *layout, const witan_plan_config_t *config,
                                const int64_t *token_maxima, int32_t thread_count, int64_t *bytes)
{
    witan_plan_t   plan   = {.config = *config};
    wtn_carver_t   carver = {0};
    witan_status_t status = wtn_plan_shape_make(&plan.shape, layout, config, token_maxima);

    if (status != WITAN_OK) {
        return status;
    }
    carve(&plan, layout, thread_count, &carver);
    wtn_plan_shape_free(&plan.shape);
    if (carver.bytes > (size_t)INT64_MAX) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "plan: the size overflows 64 bits");
    }
    *bytes = (int64_t)carver.bytes;
    return WITAN_OK;
}

static witan_status_t take_memory(witan_plan_t *plan)
{
    const wtn_layout_t *layout  = &plan->layer->layout;
    int32_t             threads = plan->layer->group->thread_count;
    wtn_carver_t        carver  = {0};
    witan_status_t      status;

    carve(plan, layout, threads, &carver);
    plan->arena_bytes = carver.bytes;
    status            = wtn_plan_check_workspace(plan, WTN_CACHE_LINE_BYTES);
    if (status != WITAN_OK) {
        return status;
    }
    if (plan->config.workspace != NULL) {
        plan->arena = plan->config.workspace;
    } else {
        plan->arena       = plan->arena_bytes == SIZE_MAX ? NULL : wtn_alloc(plan->arena_bytes);
        plan->arena_owned = true;
    }
    if (plan->arena == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "plan: %zu bytes of workspace", plan->arena_bytes);
    }
    carver = (wtn_carver_t){.base = plan->arena};
    carve(plan, layout, threads, &carver);
    for (int32_t i = 0; i < plan->shape.round_slots; i++) {
        wtn_round_t *round = &plan->rounds[i];

        round->index = -1;
        memset(round->requests, 0, WTN_REQUEST_KINDS * (size_t)plan->ep * sizeof(*round->requests));
    }
    memset(plan->reduce_requests, 0, 2 * (size_t)plan->tp * sizeof(*plan->reduce_requests));
    memset(plan->expert_row_counts, 0, (size_t)layout->local_count * sizeof(int64_t));
    memset(plan->expert_token_counts, 0, (size_t)layout->config.expert_count * sizeof(int64_t));
    memset(plan->rank_row_counts, 0, (size_t)plan->ep * sizeof(int64_t));
    memset(plan->rank_send_bytes, 0, (size_t)plan->ep * sizeof(int64_t));
    return WITAN_OK;
}

witan_status_t wtn_rounds_create(witan_plan_t *plan, const int64_t *token_maxima)
{
    witan_status_t status =
        wtn_plan_shape_make(&plan->shape, &plan->layer->layout, &plan->config, token_maxima);

    return status == WITAN_OK ? take_memory(plan) : status;
}

/* Requests a peer may still serve. */
static size_t cancel_all(witan_plan_t *plan)
{
    size_t left = 0;

    if (plan->arena == NULL) {
        return 0;
    }
    for (int32_t i = 0; i < plan->shape.round_slots; i++) {
        left +=
            wtn_cancel(plan->comm, plan->rounds[i].requests, WTN_REQUEST_KINDS * (size_t)plan->ep);
    }
    return left + wtn_cancel(plan->comm, plan->reduce_requests, 2 * (size_t)plan->tp);
}

void wtn_rounds_destroy(witan_plan_t *plan)
{
    size_t left = cancel_all(plan);

    if (plan->arena_owned && left == 0) {
        wtn_free(plan->arena); /* else it stays: a woken peer must not write into reused memory */
    }
    wtn_plan_shape_free(&plan->shape);
}

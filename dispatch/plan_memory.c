/* The memory of a plan of the rounds engine: every array of every step, laid out once. What other
 * members of the domain read or write is the window, the rest the arena; where the domain has one
 * member the window is part of the arena. */
#include <inttypes.h>
#include <stdlib.h>
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
    size_t                  domains     = (size_t)shape->domains.count;
    size_t                  topk        = (size_t)layout->config.topk;
    size_t                  tokens      = (size_t)shape->token_count_max;
    size_t                  rows        = tokens * topk;
    size_t                  pair_tokens = tokens * (topk < domains ? topk : domains);

    plan->ids              = wtn_carve(carver, rows, sizeof(*plan->ids));
    plan->weights          = wtn_carve(carver, rows, sizeof(*plan->weights));
    plan->logits           = wtn_carve(carver, (size_t)shape->route_block,
                                       (size_t)layout->config.expert_count * sizeof(float));
    plan->pair_token_begin = wtn_carve(carver, domains + 1, sizeof(int64_t));
    plan->pair_row_begin   = wtn_carve(carver, domains + 1, sizeof(int64_t));
    plan->send_token       = wtn_carve(carver, pair_tokens, sizeof(int64_t));
    plan->token_first_row  = wtn_carve(carver, pair_tokens + 1, sizeof(int64_t));
    plan->row_token        = wtn_carve(carver, rows, sizeof(int32_t));
    plan->row_slot         = wtn_carve(carver, rows, sizeof(int32_t));
    plan->row_weight       = wtn_carve(carver, rows, sizeof(float));
    plan->sum_index   = wtn_carve(carver, tokens * (size_t)shape->slots_per_token, sizeof(int64_t));
    plan->last_token  = wtn_carve(carver, domains, sizeof(int64_t));
    plan->cursor      = wtn_carve(carver, 2 * domains, sizeof(int64_t));
    plan->next_token  = wtn_carve(carver, domains, sizeof(int64_t));
    plan->send_rounds = wtn_carve(carver, domains, sizeof(int64_t));
    plan->source_rounds     = wtn_carve(carver, ep, sizeof(uint64_t));
    plan->relay_rounds      = wtn_carve(carver, ep, sizeof(uint32_t));
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
    size_t                  domains = (size_t)shape->domains.count;
    bool                    reduced = plan->config.combine == WITAN_COMBINE_REDUCED;
    bool                    alone   = ep == 1; /* own tokens are read where they lie */
    size_t                  rows    = (size_t)shape->row_slot_count;
    size_t                  tokens  = (size_t)shape->token_slot_count;
    size_t                  sums    = reduced ? tokens * (size_t)layout->config.topk : 0;

    round->pieces        = wtn_carve(carver, domains, sizeof(*round->pieces));
    round->expected      = wtn_carve(carver, ep, sizeof(*round->expected));
    round->notice        = wtn_carve(carver, 1, sizeof(*round->notice));
    round->arrivals      = wtn_carve(carver, ep, sizeof(*round->arrivals));
    round->ends          = wtn_carve(carver, ep, sizeof(*round->ends));
    round->manifest_send = wtn_carve(carver,
                                     domains * sizeof(wtn_manifest_t) +
                                         (size_t)shape->send_row_max * sizeof(wtn_wire_row_t),
                                     1);
    round->token_send =
        wtn_carve(carver, alone ? 0 : (size_t)shape->send_token_max, layout->row_bytes);
    round->row_in        = wtn_carve(carver, rows, sizeof(int64_t));
    round->row_out       = wtn_carve(carver, rows, sizeof(int64_t));
    round->row_expert    = wtn_carve(carver, rows, sizeof(int32_t));
    round->reduce_index  = wtn_carve(carver, sums, sizeof(int64_t));
    round->reduce_weight = wtn_carve(carver, sums, sizeof(float));
    round->requests      = wtn_carve(carver, ep * WTN_REQUEST_KINDS, sizeof(*round->requests));
}

/* With a null base only measure. */
static void carve_arena(witan_plan_t *plan, const wtn_layout_t *layout, int32_t thread_count,
                        wtn_carver_t *carver)
{
    const wtn_plan_shape_t *shape   = &plan->shape;
    bool                    reduced = plan->config.combine == WITAN_COMBINE_REDUCED;
    int32_t                 tp      = layout->folding.tensor_parallel;
    size_t                  hidden  = (size_t)layout->config.hidden_size;
    size_t                  tokens  = (size_t)shape->token_count_max;

    carve_schedule(plan, layout, carver);
    for (int32_t i = 0; i < shape->round_slots; i++) {
        carve_round(plan, &plan->rounds[i], layout, carver);
    }
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

/* The same places on every member of the domain. */
static void carve_window(witan_plan_t *plan, const wtn_layout_t *layout, wtn_carver_t *carver)
{
    const wtn_plan_shape_t *shape    = &plan->shape;
    int32_t                 ep       = layout->folding.expert_parallel;
    int64_t                 returned = shape->return_begin[ep];
    int64_t                 computed = shape->source_slot_begin[ep];

    for (int32_t i = 0; i < shape->round_slots; i++) {
        wtn_round_t *round = &plan->rounds[i];

        round->manifest_recv = wtn_carve(carver,
                                         (size_t)ep * sizeof(wtn_manifest_t) +
                                             (size_t)shape->row_slot_count * sizeof(wtn_wire_row_t),
                                         1);
        round->token_recv =
            wtn_carve(carver, ep == 1 ? 0 : (size_t)shape->token_slot_count, layout->row_bytes);
        round->row_base = returned + i * computed;
    }
    plan->rows =
        wtn_carve(carver, (size_t)(returned + shape->round_slots * computed), layout->row_bytes);
}

static bool has_mates(const wtn_plan_shape_t *shape, int32_t expert_index)
{
    return wtn_domain_size(&shape->domains, shape->domains.of[expert_index]) > 1;
}

/* Measure both. WITAN_E_ARGUMENT where 64 bits do not hold them. */
static witan_status_t measure(witan_plan_t *plan, const wtn_layout_t *layout, int32_t thread_count,
                              size_t *arena_bytes, size_t *window_bytes)
{
    wtn_carver_t arena = {0}, window = {0};
    bool         shared = has_mates(&plan->shape, layout->folding.expert_index);

    carve_arena(plan, layout, thread_count, &arena);
    carve_window(plan, layout, shared ? &window : &arena);
    if (arena.bytes > (size_t)INT64_MAX || window.bytes > (size_t)INT64_MAX) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "plan: the size overflows 64 bits");
    }
    *arena_bytes  = arena.bytes;
    *window_bytes = window.bytes;
    return WITAN_OK;
}

static witan_status_t sizes(const wtn_layout_t *layout, const witan_plan_config_t *config,
                            const int64_t *token_maxima, int32_t thread_count, size_t *arena_bytes,
                            size_t *window_bytes)
{
    witan_plan_t   plan   = {.config = *config};
    witan_status_t status = wtn_plan_shape_make(&plan.shape, layout, config, token_maxima);

    WTN_TRY(status);
    WTN_TRY(measure(&plan, layout, thread_count, arena_bytes, window_bytes));

fail:
    wtn_plan_shape_free(&plan.shape);
    return status;
}

witan_status_t wtn_rounds_bytes(const wtn_layout_t *layout, const witan_plan_config_t *config,
                                const int64_t *token_maxima, int32_t thread_count, int64_t *bytes)
{
    size_t         arena = 0, window = 0;
    witan_status_t status = sizes(layout, config, token_maxima, thread_count, &arena, &window);

    *bytes = (int64_t)arena;
    return status;
}

witan_status_t wtn_rounds_shared_bytes(const wtn_layout_t        *layout,
                                       const witan_plan_config_t *config,
                                       const int64_t *token_maxima, int64_t *bytes)
{
    size_t         arena = 0, window = 0;
    witan_status_t status = sizes(layout, config, token_maxima, 1, &arena, &window);

    *bytes = (int64_t)window;
    return status;
}

static void clear(witan_plan_t *plan)
{
    const wtn_layout_t *layout = &plan->layer->layout;

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
}

/* The window lies at `memory`. */
static void open_window(witan_plan_t *plan, void *memory)
{
    const wtn_layout_t *layout = &plan->layer->layout;
    wtn_carver_t        carver = {.base = memory};

    carve_window(plan, layout, &carver);
    plan->returned = plan->rows + (size_t)plan->shape.return_begin[plan->me] * layout->row_bytes;
}

static witan_status_t take_memory(witan_plan_t *plan)
{
    const wtn_layout_t *layout  = &plan->layer->layout;
    int32_t             threads = plan->layer->group->thread_count;
    size_t              window_bytes;
    wtn_carver_t        carver;
    witan_status_t      status;

    WTN_TRY(measure(plan, layout, threads, &plan->arena_bytes, &window_bytes));
    WTN_TRY(wtn_plan_check_workspace(plan, WTN_CACHE_LINE_BYTES));
    if (plan->config.workspace != NULL) {
        plan->arena = plan->config.workspace;
    } else {
        plan->arena       = wtn_alloc(plan->arena_bytes);
        plan->arena_owned = true;
    }
    if (plan->arena == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "plan: %zu bytes of workspace", plan->arena_bytes);
    }
    carver = (wtn_carver_t){.base = plan->arena};
    carve_arena(plan, layout, threads, &carver);
    clear(plan);
    if (window_bytes == 0) {
        open_window(plan, (char *)plan->arena + carver.bytes);
    } else if (plan->shape.domains.place[plan->me] == 0) {
        WTN_TRY(wtn_segment_make(&plan->window, window_bytes, &plan->window_name));
        open_window(plan, plan->window.memory);
    }

fail:
    return status;
}

witan_status_t wtn_rounds_create(witan_plan_t *plan, const int64_t *token_maxima)
{
    witan_status_t status =
        wtn_plan_shape_make(&plan->shape, &plan->layer->layout, &plan->config, token_maxima);

    if (status != WITAN_OK) {
        return status;
    }
    plan->home = plan->shape.domains.of[plan->me];
    return take_memory(plan);
}

/* The members find the window that the first of them has made. */
witan_status_t wtn_rounds_connect(witan_plan_t *plan)
{
    const wtn_domains_t *domains = &plan->shape.domains;
    int32_t              first   = domains->members[domains->begin[plan->home]];
    bool                 shared  = false;
    wtn_segment_name_t  *names;
    witan_status_t       status = WITAN_OK;

    /* Known to all ranks of the group alike, also to those of other expert-parallel groups. */
    for (int32_t rank = 0; rank < plan->comm->size && !shared; rank++) {
        shared = plan->layer->group->nodes[rank] != rank;
    }
    if (!shared || plan->config.hierarchy == WITAN_HIERARCHY_FLAT) {
        return WITAN_OK;
    }
    names = calloc((size_t)plan->comm->size, sizeof(*names));
    if (names == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "plan: %" PRId32 " names", plan->comm->size);
    }
    WTN_TRY(wtn_agree(plan->comm, "plan", status, NULL, 0));
    WTN_TRY(wtn_allgather(plan->comm, &plan->window_name, sizeof(*names), names, "plan"));
    if (first != plan->me) {
        status = wtn_segment_find(&plan->window, &names[plan->expert_peers[first]]);
        if (status == WITAN_OK) {
            open_window(plan, plan->window.memory);
        }
    }
    WTN_TRY(wtn_agree(plan->comm, "plan", status, NULL, 0));
    wtn_segment_settle(&plan->window);

fail:
    free(names);
    return status;
}

void wtn_rounds_destroy(witan_plan_t *plan)
{
    for (int32_t i = 0; plan->arena != NULL && i < plan->shape.round_slots; i++) {
        (void)wtn_cancel(plan->comm, plan->rounds[i].requests, WTN_REQUEST_KINDS * (size_t)plan->ep,
                         &plan->remains);
    }
    if (plan->arena != NULL) {
        (void)wtn_cancel(plan->comm, plan->reduce_requests, 2 * (size_t)plan->tp, &plan->remains);
    }
    wtn_plan_shape_free(&plan->shape);
}

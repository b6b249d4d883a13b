/* Plans: creation, destruction, statistics. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/plan.h"

const char *witan_phase_name(witan_phase_t phase)
{
    static const char *const names[WITAN_PHASE_COUNT] = {
#define PHASE_NAME(name, text) text,
        WITAN_PHASE_LIST(PHASE_NAME)
#undef PHASE_NAME
    };

    return (unsigned)phase < WITAN_PHASE_COUNT ? names[phase] : "?";
}

void wtn_plan_account(witan_plan_t *plan, witan_phase_t phase, uint64_t *since_ns)
{
    uint64_t now = wtn_now_ns();

    plan->phase_ns[phase] += (int64_t)(now - *since_ns);
    *since_ns = now;
}

/* A peer that failed is known to all by its own notice; what this rank has found it tells, also who
 * was silent: others may wait for this rank, and would name it. Alone, a refused argument costs
 * nothing but the call. */
witan_status_t wtn_plan_fail(witan_plan_t *plan, witan_status_t status)
{
    bool alone = plan->ep * plan->tp == 1;

    if (alone && (status == WITAN_E_ARGUMENT || status == WITAN_E_STATE)) {
        return status;
    }
    if (plan->state != WTN_PLAN_BROKEN && !alone && status != WITAN_E_PEER &&
        (status != WITAN_E_TIMEOUT || wtn_watch_check(plan->watch) == WITAN_OK)) {
        wtn_watch_raise(plan->watch, status); /* unless a notice was what told it */
    }
    plan->state = WTN_PLAN_BROKEN;
    if (!alone) {
        plan->comm->broken = true; /* as on the peers: no close waits for another */
    }
    return status;
}

static witan_status_t list_peers(witan_plan_t *plan, const witan_group_t *group)
{
    plan->expert_peers = calloc((size_t)plan->ep, sizeof(int32_t));
    plan->tensor_peers = calloc((size_t)plan->tp, sizeof(int32_t));
    if (plan->expert_peers == NULL || plan->tensor_peers == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "plan: %" PRId32 " peers", plan->ep + plan->tp);
    }
    for (int32_t j = 0; j < plan->ep; j++) {
        plan->expert_peers[j] = wtn_group_expert_peer(group, j);
    }
    for (int32_t i = 0; i < plan->tp; i++) {
        plan->tensor_peers[i] = wtn_group_tensor_peer(group, i);
    }
    return WITAN_OK;
}

/* All ranks of one data index may send each other fault notices, not only those that exchange
 * messages: who waits for a rank that waits for the one at fault must learn of it too. */
static witan_status_t open_watch(witan_plan_t *plan, int32_t data_index)
{
    int32_t        count = plan->ep * plan->tp;
    int32_t       *peers = calloc((size_t)count, sizeof(*peers));
    witan_status_t status;

    if (peers == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "plan: %" PRId32 " peers", count);
    }
    for (int32_t i = 0; i < count; i++) {
        peers[i] = data_index * count + i; /* a run of ranks, see group.h */
    }
    status = wtn_watch_open(&plan->watch, plan->comm, plan->channel, peers, count);
    free(peers);
    return status;
}

/* Every source's token_count_max, by expert index. Collective. */
static witan_status_t gather_token_maxima(witan_plan_t *plan, int64_t *token_maxima)
{
    int64_t        mine = plan->config.token_count_max;
    int64_t       *all  = calloc((size_t)plan->comm->size, sizeof(*all));
    witan_status_t status;

    status = all == NULL ? WTN_ERROR(WITAN_E_MEMORY, "plan: %" PRId32 " counts", plan->comm->size)
                         : WITAN_OK;
    WTN_TRY(wtn_agree(plan->comm, "plan", status, NULL, 0));
    WTN_TRY(wtn_allgather(plan->comm, &mine, sizeof(mine), all, "plan"));
    for (int32_t j = 0; j < plan->ep; j++) {
        token_maxima[j] = all[plan->expert_peers[j]];
    }

fail:
    free(all);
    return status;
}

witan_status_t wtn_plan_check_workspace(const witan_plan_t *plan, size_t alignment)
{
    if (plan->config.workspace != NULL && (plan->config.workspace_bytes < plan->arena_bytes ||
                                           (uintptr_t)plan->config.workspace % alignment != 0)) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "plan: workspace: expected %zu bytes aligned to %zu, found %zu at %p",
                         plan->arena_bytes, alignment, plan->config.workspace_bytes,
                         plan->config.workspace);
    }
    return WITAN_OK;
}

static witan_status_t agree_on_config(const witan_layer_t *layer, const witan_plan_config_t *config,
                                      int32_t channel, witan_status_t status)
{
    wtn_field_t fields[11];

    wtn_field_set(&fields[0], "pair_token_count_max", "%" PRId64, config->pair_token_count_max);
    wtn_field_set(&fields[1], "pair_row_count_max", "%" PRId64, config->pair_row_count_max);
    wtn_field_set(&fields[2], "chunk_count", "%" PRId32, config->chunk_count);
    wtn_field_set(&fields[3], "combine", "%d", (int)config->combine);
    wtn_field_set(&fields[4], "executor", "%d", (int)config->executor);
    wtn_field_set(&fields[5], "masked_rows_max", "%" PRId32, config->masked_rows_max);
    wtn_field_set(&fields[8], "exchange", "%d", (int)config->exchange);
    wtn_field_set(&fields[9], "tensor_exchange", "%d", (int)config->tensor_exchange);
    wtn_field_set(&fields[10], "hierarchy", "%d", (int)config->hierarchy);
    wtn_field_set(&fields[6], "layer (as made)", "%" PRId32, layer->index);
    wtn_field_set(&fields[7], "channel", "%" PRId32, channel);
    return wtn_agree(&layer->group->comm, "plan", status, fields, WTN_COUNT_OF(fields));
}

/* A plan with its configuration checked, without memory yet. What there is stays on failure. */
static witan_status_t new_plan(witan_plan_t **out, witan_layer_t *layer,
                               const witan_plan_config_t *config, int32_t channel)
{
    witan_group_t *group = layer->group;
    witan_plan_t  *plan;
    witan_status_t status;

    if (config == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "plan: config is NULL");
    }
    status = wtn_plan_config_check(config, &layer->layout);
    if (status != WITAN_OK) {
        return status;
    }
    plan = calloc(1, sizeof(*plan));
    if (plan == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "plan: %zu bytes", sizeof(*plan));
    }
    *out            = plan;
    plan->engine    = wtn_engine_of(&layer->layout);
    plan->layer     = layer;
    plan->comm      = &group->comm;
    plan->transport = group->comm.transport->name;
    plan->config    = *config;
    plan->ep        = group->expert_parallel;
    plan->tp        = group->tensor_parallel;
    plan->me        = group->expert_index;
    plan->channel   = channel;
    return list_peers(plan, group);
}

witan_status_t witan_plan_create(witan_plan_t **out, witan_layer_t *layer,
                                 const witan_plan_config_t *config)
{
    static const witan_plan_config_t none;
    witan_plan_t                    *plan = NULL;
    witan_group_t                   *group;
    int64_t                         *token_maxima;
    int32_t                          channel;
    witan_status_t                   status;

    if (layer == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "plan: layer is NULL");
    }
    group        = layer->group;
    token_maxima = calloc((size_t)group->expert_parallel, sizeof(*token_maxima));
    status       = wtn_take_channel(&group->comm, "plan", &channel);
    if (out != NULL) {
        *out = NULL;
    } else if (status == WITAN_OK) {
        status = WTN_ERROR(WITAN_E_ARGUMENT, "plan: out is NULL");
    }
    if (status == WITAN_OK && token_maxima == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "plan: %" PRId32 " counts", group->expert_parallel);
    }
    if (status == WITAN_OK) {
        status = new_plan(&plan, layer, config, channel);
    }
    WTN_TRY(agree_on_config(layer, plan == NULL ? &none : &plan->config, channel, status));
    WTN_TRY(gather_token_maxima(plan, token_maxima));
    status = plan->engine->create(plan, token_maxima);
    if (status == WITAN_OK) {
        status = open_watch(plan, group->data_index);
    }
    WTN_TRY(wtn_agree(plan->comm, "plan", status, NULL, 0));
    if (plan->engine->connect != NULL) {
        WTN_TRY(plan->engine->connect(plan));
    }
    free(token_maxima);
    *out = plan;
    return WITAN_OK;

fail:
    free(token_maxima);
    witan_plan_destroy(plan);
    return status;
}

static void free_plan(void *memory)
{
    witan_plan_t *plan = memory;

    if (plan->arena_owned) {
        wtn_free(plan->arena);
    }
    wtn_segment_free(&plan->window);
    free(plan);
}

void witan_plan_destroy(witan_plan_t *plan)
{
    bool early;

    if (plan == NULL) {
        return;
    }
    early = plan->busy || plan->refused; /* peers may be in a step that this rank leaves to them */
    wtn_plan_note(plan, false);
    plan->engine->destroy(plan);
    wtn_watch_close(plan->watch);
    if (early || plan->comm->broken) { /* else every message was taken */
        wtn_leave_channel(plan->comm, plan->channel);
    }
    free(plan->expert_peers);
    free(plan->tensor_peers);
    wtn_release(plan->comm, &plan->remains, free_plan, plan);
}

/* max / mean, and 1 where there is nothing. */
static double imbalance_of(const int64_t *counts, int32_t count)
{
    int64_t most = 0, sum = 0;

    for (int32_t i = 0; i < count; i++) {
        most = wtn_max_i64(most, counts[i]);
        sum += counts[i];
    }
    return sum == 0 ? 1.0 : (double)most * count / (double)sum;
}

witan_status_t witan_plan_stats(const witan_plan_t *plan, witan_stats_t *stats)
{
    if (plan == NULL || stats == NULL || stats->struct_bytes != sizeof(*stats)) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "stats: null pointer or wrong struct_bytes");
    }
    if (plan->engine->stats != NULL) {
        witan_status_t status = plan->engine->stats((witan_plan_t *)(uintptr_t)plan);

        if (status != WITAN_OK) {
            return status;
        }
    }
    *stats = (witan_stats_t){
        .struct_bytes        = sizeof(*stats),
        .token_count         = plan->token_count,
        .round_count         = plan->round_done,
        .recv_token_count    = plan->recv_token_count,
        .recv_row_count      = plan->recv_row_count,
        .expert_row_counts   = plan->expert_row_counts,
        .expert_token_counts = plan->expert_token_counts,
        .rank_row_counts     = plan->rank_row_counts,
        .rank_send_bytes     = plan->rank_send_bytes,
        .tensor_send_bytes   = plan->tensor_send_bytes,
        .imbalance           = imbalance_of(plan->rank_row_counts, plan->ep),
        .executor            = plan->executor,
        .hierarchy           = plan->shape.domains.count < plan->shape.domains.ranks
                                   ? WITAN_HIERARCHY_TWO_LEVEL
                                   : WITAN_HIERARCHY_FLAT,
        .exchange            = plan->exchange,
        .transport           = plan->transport,
    };
    memcpy(stats->phase_ns, plan->phase_ns, sizeof(stats->phase_ns));
    memcpy(stats->executor_counts, plan->executor_counts, sizeof(stats->executor_counts));
    return WITAN_OK;
}

witan_status_t witan_plan_load(witan_plan_t *plan, int64_t *expert_token_counts,
                               int64_t *rank_row_counts, double *imbalance)
{
    size_t         expert_count, record_count;
    int64_t       *mine = NULL, *all = NULL, *rows;
    witan_status_t status = WITAN_OK;

    if (plan == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "load: plan is NULL");
    }
    expert_count = (size_t)plan->layer->layout.config.expert_count;
    record_count = expert_count + (size_t)plan->ep;
    mine         = calloc(record_count, sizeof(*mine));
    all          = calloc(record_count * (size_t)plan->comm->size, sizeof(*all));
    if (plan->state == WTN_PLAN_BROKEN) {
        status = WTN_ERROR(WITAN_E_STATE, "load: an earlier step of this plan failed");
    } else if (mine == NULL || all == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "load: %zu counts", record_count);
    } else {
        memcpy(mine, plan->expert_token_counts, expert_count * sizeof(*mine));
        memcpy(mine + expert_count, plan->rank_row_counts, (size_t)plan->ep * sizeof(*mine));
    }
    /* On the plan's own channel: another thread may do the same for another plan. */
    WTN_TRY(wtn_agree_on(plan->comm, plan->channel, "load", status, NULL, 0));
    WTN_TRY(wtn_allgather_on(plan->comm, plan->channel, mine, record_count * sizeof(*mine), all,
                             "load"));
    memset(mine, 0, record_count * sizeof(*mine));
    for (int32_t j = 0; j < plan->ep; j++) {
        const int64_t *theirs = all + (size_t)plan->expert_peers[j] * record_count;

        for (size_t i = 0; i < record_count; i++) {
            mine[i] += theirs[i];
        }
    }
    rows = mine + expert_count;
    if (expert_token_counts != NULL) {
        memcpy(expert_token_counts, mine, expert_count * sizeof(*mine));
    }
    if (rank_row_counts != NULL) {
        memcpy(rank_row_counts, rows, (size_t)plan->ep * sizeof(*mine));
    }
    if (imbalance != NULL) {
        *imbalance = imbalance_of(rows, plan->ep);
    }

fail:
    if (status == WITAN_E_TIMEOUT || status == WITAN_E_TRANSPORT) {
        plan->state = WTN_PLAN_BROKEN; /* the ranks may be at different gathers now */
        wtn_plan_note(plan, false);
    }
    free(mine);
    free(all);
    return status;
}

/* Live rebalancing, the begin: what is to be moved, the memory for it, and that all ranks agree. */
#include <inttypes.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/rebalance.h"

#define BYTES_DEFAULT ((int64_t)16 << 20)
#define BYTES_LEAST   4096

void witan_rebalance_config_init(witan_rebalance_config_t *config)
{
    *config = (witan_rebalance_config_t){.struct_bytes   = sizeof(*config),
                                         .bytes_per_step = BYTES_DEFAULT};
}

/* ---- what is to be done ---- */

static witan_status_t check_config(const witan_layer_t            *layer,
                                   const witan_rebalance_config_t *config)
{
    if (config == NULL || config->struct_bytes != sizeof(*config) || config->slot_expert == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "rebalance: config or slot_expert is NULL, or wrong "
                                           "struct_bytes (witan_rebalance_config_init)");
    }
    if (config->bytes_per_step < BYTES_LEAST || config->memory_bytes_max < 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "rebalance: bytes_per_step: expected at least %d, found %" PRId64
                         "; memory_bytes_max %" PRId64,
                         BYTES_LEAST, config->bytes_per_step, config->memory_bytes_max);
    }
    if (layer->layout.backend->ffn_reserve == NULL) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "rebalance: backend %s has none",
                         layer->layout.backend->name);
    }
    return WITAN_OK;
}

/* The new placement and the moves to it. */
static witan_status_t make_moves(const witan_layer_t *layer, const witan_rebalance_config_t *config,
                                 wtn_placement_t *placement, wtn_moves_t *moves)
{
    const wtn_placement_t     *old  = &layer->layout.placement;
    const wtn_placement_spec_t spec = {.expert_count = old->expert_count,
                                       .owner_count  = old->owner_count,
                                       .slot_count   = old->slot_count,
                                       .slot_expert  = config->slot_expert,
                                       .slot_owner   = old->slot_owner};
    witan_status_t             status;

    WTN_TRY(check_config(layer, config));
    WTN_TRY(wtn_placement_make(placement, &spec));
    WTN_TRY(wtn_moves_make(moves, old, placement));

fail:
    return status;
}

static int64_t bytes_of(const witan_layer_t *layer)
{
    const wtn_layout_t *layout = &layer->layout;

    return (int64_t)layout->backend->ffn_expert_bytes(&layout->experts);
}

void wtn_rebalance_bytes(const witan_layer_t *layer, const wtn_moves_t *moves,
                         witan_rebalance_info_t *info)
{
    int32_t me    = layer->layout.folding.expert_index;
    int64_t bytes = bytes_of(layer);

    *info = (witan_rebalance_info_t){.struct_bytes = sizeof(*info),
                                     .slot_count   = moves->incoming[me],
                                     .memory_bytes = moves->incoming[me] * bytes};
    for (int32_t i = 0; i < moves->count; i++) {
        const wtn_move_t *move = &moves->moves[i];

        info->recv_bytes += move->to == me && move->from != me ? bytes : 0;
        info->send_bytes += move->from == me && move->to != me ? bytes : 0;
    }
}

witan_status_t witan_rebalance_query(const witan_layer_t            *layer,
                                     const witan_rebalance_config_t *config,
                                     witan_rebalance_info_t         *info)
{
    wtn_placement_t placement = {0};
    wtn_moves_t     moves     = {0};
    witan_status_t  status;

    if (layer == NULL || info == NULL || info->struct_bytes != sizeof(*info)) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "rebalance: null pointer or wrong struct_bytes");
    }
    WTN_TRY(make_moves(layer, config, &placement, &moves));
    wtn_rebalance_bytes(layer, &moves, info);

fail:
    wtn_moves_free(&moves);
    wtn_placement_free(&placement);
    return status;
}

/* ---- begin ---- */

static witan_status_t check_memory(const witan_rebalance_t        *rebalance,
                                   const witan_rebalance_config_t *config)
{
    witan_rebalance_info_t info;

    wtn_rebalance_bytes(rebalance->layer, &rebalance->moves, &info);
    if (config->memory_bytes_max > 0 && info.memory_bytes > config->memory_bytes_max) {
        return WTN_ERROR(WITAN_E_MEMORY,
                         "rebalance: %" PRId32 " experts take %" PRId64
                         " bytes on their way, memory_bytes_max is %" PRId64,
                         info.slot_count, info.memory_bytes, config->memory_bytes_max);
    }
    return WITAN_OK;
}

static witan_status_t take_memory(witan_rebalance_t *rebalance)
{
    const witan_layer_t *layer  = rebalance->layer;
    const wtn_layout_t  *layout = &layer->layout;
    const witan_group_t *group  = layer->group;
    int32_t              me = layout->folding.expert_index, next = 0;
    size_t               ranks = (size_t)group->expert_parallel * (size_t)group->tensor_parallel;
    size_t weights = (size_t)layout->local_count + (size_t)rebalance->moves.incoming[me];

    rebalance->rank_count    = (int32_t)ranks;
    rebalance->ranks         = calloc(ranks, sizeof(*rebalance->ranks));
    rebalance->votes         = calloc(ranks, sizeof(*rebalance->votes));
    rebalance->vote_requests = calloc(2 * ranks, sizeof(*rebalance->vote_requests));
    rebalance->experts       = calloc((size_t)layout->local_count + 1, sizeof(int32_t));
    rebalance->at            = calloc(weights + 1, sizeof(int32_t));
    rebalance->held          = calloc(weights + 1, sizeof(int32_t));
    if (rebalance->ranks == NULL || rebalance->votes == NULL || rebalance->vote_requests == NULL ||
        rebalance->experts == NULL || rebalance->at == NULL || rebalance->held == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "rebalance: %zu ranks, %zu weights", ranks, weights);
    }
    for (size_t i = 0; i < ranks; i++) {
        rebalance->ranks[i] = group->data_index * (int32_t)ranks + (int32_t)i; /* see group.h */
    }
    for (int32_t s = 0; s < rebalance->placement.slot_count; s++) {
        if (rebalance->placement.slot_owner[s] == me) {
            rebalance->experts[next++] = rebalance->placement.slot_expert[s];
        }
    }
    rebalance->reserved = layer->experts != NULL;
    return layer->experts == NULL
               ? WITAN_OK
               : layout->backend->ffn_reserve(layer->experts, rebalance->moves.incoming[me]);
}

/* All that can fail on one rank. What there is stays on failure. */
static witan_status_t prepare(witan_rebalance_t *rebalance, const witan_rebalance_config_t *config)
{
    witan_layer_t *layer = rebalance->layer;
    witan_status_t status;

    if (layer->rebalance != NULL) {
        return WTN_ERROR(WITAN_E_STATE, "rebalance: another one of the layer is under way");
    }
    WTN_TRY(make_moves(layer, config, &rebalance->placement, &rebalance->moves));
    WTN_TRY(check_memory(rebalance, config));
    WTN_TRY(take_memory(rebalance));
    rebalance->expert_bytes = (size_t)bytes_of(layer);
    rebalance->piece_bytes  = (size_t)config->bytes_per_step / WTN_REBALANCE_WINDOW;
    rebalance->out.is_send  = true;

fail:
    return status;
}

static witan_status_t agree(const witan_rebalance_t        *rebalance,
                            const witan_rebalance_config_t *config, witan_status_t status)
{
    const witan_layer_t   *layer     = rebalance->layer;
    const wtn_placement_t *placement = &rebalance->placement;
    wtn_field_t            fields[4];

    wtn_field_set(&fields[0], "layer (as made)", "%" PRId32, layer->index);
    wtn_field_set(&fields[1], "channel", "%" PRId32, rebalance->channel);
    wtn_field_set(&fields[2], "bytes_per_step", "%" PRId64,
                  config == NULL ? 0 : config->bytes_per_step);
    wtn_field_set(&fields[3], "slot_expert (hash)", "%016" PRIx64,
                  status != WITAN_OK ? 0
                                     : wtn_hash(0, placement->slot_expert,
                                                (size_t)placement->slot_count * sizeof(int32_t)));
    return wtn_agree(rebalance->comm, "rebalance", status, fields, WTN_COUNT_OF(fields));
}

/* Weights that an earlier rebalancing was given up over may still be read or written by a peer: so
 * long they must stay what they are. All ranks have begun, so what they sent before is in sight. */
static witan_status_t settle(witan_rebalance_t *rebalance)
{
    wtn_comm_t *comm = rebalance->comm;

    wtn_sweep(comm);
    /* Half the time, for the others wait for this rank's answer meanwhile. */
    return wtn_settle(comm, &rebalance->layer->remains, wtn_now_ns() + comm->timeout_ns / 2)
               ? WITAN_OK
               : WTN_ERROR(WITAN_E_STATE, "rebalance: weights of an earlier one are under way");
}

witan_status_t witan_rebalance_begin(witan_rebalance_t **out, witan_layer_t *layer,
                                     const witan_rebalance_config_t *config)
{
    witan_rebalance_t *rebalance;
    wtn_comm_t        *comm;
    int32_t            channel;
    witan_status_t     status;

    if (layer == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "rebalance: layer is NULL");
    }
    comm   = &layer->group->comm;
    status = wtn_take_channel(comm, "rebalance", &channel);
    if (out != NULL) {
        *out = NULL;
    } else if (status == WITAN_OK) {
        status = WTN_ERROR(WITAN_E_ARGUMENT, "rebalance: out is NULL");
    }
    rebalance = calloc(1, sizeof(*rebalance));
    if (rebalance == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "rebalance: %zu bytes", sizeof(*rebalance));
        return wtn_agree(comm, "rebalance", status, NULL, 0);
    }
    rebalance->layer   = layer;
    rebalance->comm    = comm;
    rebalance->channel = channel;
    if (status == WITAN_OK) {
        status = prepare(rebalance, config);
    }
    WTN_TRY(agree(rebalance, config, status));
    status = settle(rebalance);
    if (status == WITAN_OK) {
        status = wtn_watch_open(&rebalance->watch, comm, channel, rebalance->ranks,
                                rebalance->rank_count);
    }
    WTN_TRY(wtn_agree(rebalance->comm, "rebalance", status, NULL, 0));
    layer->rebalance = rebalance;
    *out             = rebalance;
    return WITAN_OK;

fail:
    rebalance->state = WTN_REBALANCE_BROKEN; /* nobody waits for this one */
    witan_rebalance_destroy(rebalance);
    return status;
}

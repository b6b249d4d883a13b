/* Making layers: configuration checked and agreed on, weights pulled and packed. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/layer.h"
#include "experts/hf.h"
#include "kernels/device.h"

void witan_load_options_init(witan_load_options_t *options)
{
    *options = (witan_load_options_t){.struct_bytes = sizeof(*options),
                                      .backend      = "auto",
                                      .kernel_tier  = "auto"};
}

/* Weights that report how far reading has come. */
typedef struct reporting {
    witan_weights_t             inner;
    const witan_load_options_t *options;
    int64_t                     bytes_done, bytes_total;
} reporting_t;

static witan_status_t reporting_read(void *context, const witan_weight_slice_t *slice, void *out)
{
    reporting_t   *reporting = context;
    witan_status_t status    = reporting->inner.read(reporting->inner.context, slice, out);

    reporting->bytes_done +=
        slice->row_count * slice->col_count * (int64_t)witan_dtype_bytes(slice->dtype);
    reporting->options->progress(reporting->options->progress_context,
                                 wtn_min_i64(reporting->bytes_done, reporting->bytes_total),
                                 reporting->bytes_total);
    return status;
}

/* Weights that remember what was read of the tensors every rank reads alike, and let the peers know
 * that this rank is still reading: it may hold more, or from a slower disk, than they. */
typedef struct hashing {
    witan_weights_t inner;
    wtn_watch_t    *beats;
    bool            whole_shared; /* shared experts are not sliced either */
    uint64_t        hash;
} hashing_t;

static witan_status_t hashing_read(void *context, const witan_weight_slice_t *slice, void *out)
{
    hashing_t     *hashing = context;
    witan_status_t status  = hashing->inner.read(hashing->inner.context, slice, out);
    bool           sliced  = slice->weight == WITAN_WEIGHT_SHARED_GATE ||
                  slice->weight == WITAN_WEIGHT_SHARED_UP ||
                  slice->weight == WITAN_WEIGHT_SHARED_DOWN;

    wtn_watch_beat(hashing->beats);
    if (status == WITAN_OK && slice->expert < 0 && (hashing->whole_shared || !sliced)) {
        hashing->hash = wtn_hash(hashing->hash, out,
                                 (size_t)(slice->row_count * slice->col_count) *
                                     witan_dtype_bytes(slice->dtype));
    }
    return status;
}

/* `bytes` at `data` in memory of the backend. */
static witan_status_t place(const wtn_backend_t *backend, const void *data, size_t bytes,
                            void **out)
{
    witan_status_t status = backend->alloc(out, bytes);

    return status == WITAN_OK ? backend->copy(*out, data, bytes, NULL) : status;
}

/* A [1, count] tensor as fp32, or NULL where the layer has none. */
static witan_status_t read_vector(const wtn_backend_t *backend, const witan_weights_t *weights,
                                  witan_weight_t weight, bool present, int64_t count, float **out)
{
    witan_weight_slice_t slice = {
        .weight    = weight,
        .expert    = -1,
        .row_count = 1,
        .col_count = count,
        .dtype     = WITAN_F32,
    };
    size_t         bytes = (size_t)count * sizeof(float);
    float         *values;
    void          *placed = NULL;
    witan_status_t status;

    *out = NULL;
    if (!present) {
        return WITAN_OK;
    }
    values = calloc(1, bytes);
    if (values == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "layer: %" PRId64 " floats", count);
    }
    WTN_TRY(weights->read(weights->context, &slice, values));
    WTN_TRY(place(backend, values, bytes, &placed));

fail:
    *out = placed;
    free(values);
    return status;
}

/* What a device needs of the placement. */
static witan_status_t place_placement(witan_layer_t *layer)
{
    const wtn_placement_t *placement = &layer->layout.placement;
    const wtn_backend_t   *backend   = layer->layout.backend;
    size_t                 slots     = (size_t)placement->slot_count;
    int32_t               *tables    = calloc(2 * slots, sizeof(*tables));
    void                  *owner = NULL, *local = NULL, *begin = NULL;
    witan_status_t         status;

    if (tables == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "layer: %zu slots", slots);
    }
    wtn_placement_replicas(placement, tables, tables + slots);
    WTN_TRY(place(backend, tables, slots * sizeof(*tables), &owner));
    WTN_TRY(place(backend, tables + slots, slots * sizeof(*tables), &local));
    if (placement->slot_count > placement->expert_count) {
        WTN_TRY(place(backend, placement->replica_begin,
                      ((size_t)placement->expert_count + 1) * sizeof(*tables), &begin));
    }

fail:
    layer->owner         = owner;
    layer->local         = local;
    layer->replica_begin = begin;
    free(tables);
    return status;
}

static witan_status_t pull_weights(witan_layer_t *layer, const witan_weights_t *weights)
{
    const wtn_layout_t    *layout  = &layer->layout;
    const wtn_backend_t   *backend = layout->backend;
    const witan_routing_t *routing = &layout->config.routing;
    witan_status_t         status;

    if (backend->device != NULL) {
        WTN_TRY(place_placement(layer));
    }
    WTN_TRY(backend->gate_create(&layer->router, &layout->router, weights));
    WTN_TRY(read_vector(backend, weights, WITAN_WEIGHT_ROUTER_BIAS, routing->has_bias,
                        layout->config.expert_count, &layer->router_bias));
    WTN_TRY(read_vector(backend, weights, WITAN_WEIGHT_ROUTER_CORRECTION,
                        routing->has_correction_bias, layout->config.expert_count,
                        &layer->correction_bias));
    if (layout->shared_gate.out_count > 0) {
        WTN_TRY(backend->gate_create(&layer->shared_gate, &layout->shared_gate, weights));
    }
    if (layout->shared.hidden_size > 0) {
        WTN_TRY(backend->ffn_create(&layer->shared, &layout->shared, weights));
    }
    if (layout->experts.expert_count > 0) {
        WTN_TRY(backend->ffn_create(&layer->experts, &layout->experts, weights));
    }

fail:
    return status;
}

/* A watch over all ranks, for beats. */
static witan_status_t open_beats(wtn_comm_t *comm, wtn_watch_t **beats)
{
    int32_t        channel;
    int32_t       *peers  = calloc((size_t)comm->size, sizeof(*peers));
    witan_status_t status = wtn_take_channel(comm, "layer", &channel);

    *beats = NULL;
    if (status == WITAN_OK && peers == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "layer: %" PRId32 " peers", comm->size);
    }
    WTN_TRY(status);
    for (int32_t rank = 0; rank < comm->size; rank++) {
        peers[rank] = rank;
    }
    status = wtn_watch_open(beats, comm, channel, peers, comm->size);

fail:
    free(peers);
    return status;
}

/* Read and pack, then agree with all that it went well. */
static witan_status_t load_weights(witan_layer_t *layer, const witan_weights_t *weights)
{
    wtn_comm_t *comm    = &layer->group->comm;
    hashing_t   hashing = {.inner = *weights, .whole_shared = layer->group->tensor_parallel == 1};
    wtn_field_t field;
    witan_status_t status = open_beats(comm, &hashing.beats);

    if (status == WITAN_OK) {
        status = pull_weights(layer, &(witan_weights_t){.context = &hashing, .read = hashing_read});
    }
    wtn_field_set(&field, "router and shared weights (hash)", "%016" PRIx64, hashing.hash);
    comm->beats = hashing.beats;
    status      = wtn_agree(comm, "layer", status, &field, 1);
    comm->beats = NULL;
    wtn_watch_close(hashing.beats);
    return status;
}

/* The group's device becomes this thread's, chosen now if it is the first time. */
static witan_status_t use_device(witan_group_t *group, const wtn_backend_t *backend)
{
    return backend->device == NULL
               ? WITAN_OK
               : backend->device->use(group->device, group->local_rank, &group->device);
}

/* What witan_layer_create and witan_layer_load share. `status` is how far the caller got; with a
 * failure the rank still takes part until all know. Collective. */
static witan_status_t create(witan_layer_t **out, witan_group_t *group,
                             const witan_layer_config_t *config, const witan_weights_t *weights,
                             const char *family, uint64_t digest, witan_status_t status)
{
    const wtn_folding_t folding = {
        .expert_parallel = group->expert_parallel,
        .tensor_parallel = group->tensor_parallel,
        .data_parallel   = group->data_parallel,
        .expert_index    = group->expert_index,
        .tensor_index    = group->tensor_index,
        .data_index      = group->data_index,
    };
    wtn_field_t    fields[WTN_FIELDS_MAX];
    size_t         field_count = 0;
    witan_layer_t *layer       = NULL;

    if (out != NULL) {
        *out = NULL;
    } else if (status == WITAN_OK) {
        status = WTN_ERROR(WITAN_E_ARGUMENT, "layer: out is NULL");
    }
    if (status == WITAN_OK) {
        layer = calloc(1, sizeof(*layer));
        if (layer == NULL) {
            status = WTN_ERROR(WITAN_E_MEMORY, "layer: %zu bytes", sizeof(*layer));
        } else {
            layer->group = group;
            status       = wtn_layout_make(&layer->layout, config, &folding, group->nodes);
        }
    }
    if (status == WITAN_OK) {
        status = use_device(group, layer->layout.backend);
    }
    if (status == WITAN_OK) {
        (void)snprintf(layer->family, sizeof(layer->family), "%s", family);
        field_count = wtn_layout_fields(&layer->layout, fields);
        wtn_field_set(&fields[field_count++], "family", "%s", family);
        wtn_field_set(&fields[field_count++], "files (digest)", "%016" PRIx64, digest);
    }
    WTN_TRY(wtn_agree(&group->comm, "layer", status, fields, field_count));
    WTN_TRY(load_weights(layer, weights));
    layer->index = group->layer_next++;
    *out         = layer;
    return WITAN_OK;

fail:
    witan_layer_destroy(layer);
    return status;
}

witan_status_t witan_layer_create(witan_layer_t **out, witan_group_t *group,
                                  const witan_layer_config_t *config,
                                  const witan_weights_t      *weights)
{
    witan_status_t status = WITAN_OK;

    if (group == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "layer: group is NULL");
    }
    if (config == NULL || weights == NULL || weights->read == NULL) {
        status = WTN_ERROR(WITAN_E_ARGUMENT, "layer: config or weights is NULL");
    }
    return create(out, group, config, weights, "", 0, status);
}

static witan_status_t apply_options(witan_layer_config_t       *config,
                                    const witan_load_options_t *options)
{
    if (options->struct_bytes != sizeof(*options)) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "load: struct_bytes: expected %zu, found %zu (witan_load_options_init)",
                         sizeof(*options), options->struct_bytes);
    }
    if (options->expert_owner != NULL && options->expert_owner_count != config->expert_count) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "load: expert_owner_count: expected %" PRId32 ", found %" PRId32,
                         config->expert_count, options->expert_owner_count);
    }
    config->backend      = options->backend;
    config->kernel_tier  = options->kernel_tier;
    config->expert_owner = options->expert_owner;
    config->slot_count   = options->slot_count;
    config->slot_expert  = options->slot_expert;
    config->slot_owner   = options->slot_owner;
    return WITAN_OK;
}

witan_status_t witan_layer_load(witan_layer_t **out, witan_group_t *group, const char *folder,
                                int32_t layer_index, const witan_load_options_t *options)
{
    witan_load_options_t defaults;
    witan_layer_config_t config = {0};
    reporting_t          reporting;
    witan_weights_t      weights = {0};
    wtn_hf_t            *hf      = NULL;
    witan_status_t       status;

    if (group == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "load: group is NULL");
    }
    witan_load_options_init(&defaults);
    options = options == NULL ? &defaults : options;
    if (folder == NULL) {
        status = WTN_ERROR(WITAN_E_ARGUMENT, "load: folder is NULL");
    } else {
        status = wtn_hf_open(&hf, folder, layer_index);
    }
    if (status == WITAN_OK) {
        config  = *wtn_hf_config(hf);
        weights = wtn_hf_weights(hf);
        status  = apply_options(&config, options);
    }
    if (status == WITAN_OK && options->progress != NULL) {
        reporting = (reporting_t){.inner = weights, .options = options};
        /* The routed experts of an even share: near enough for a progress line. */
        reporting.bytes_total = (config.activation.gated ? 3 : 2) * config.hidden_size *
                                config.inter_size * (int64_t)witan_dtype_bytes(config.dtype) *
                                wtn_ceil_div(wtn_max_i64(config.expert_count, config.slot_count),
                                             group->expert_parallel * group->tensor_parallel);
        weights = (witan_weights_t){.context = &reporting, .read = reporting_read};
    }
    status = create(out, group, &config, &weights, hf == NULL ? "" : wtn_hf_family(hf),
                    hf == NULL ? 0 : wtn_hf_digest(hf), status);
    wtn_hf_close(hf);
    return status;
}

witan_status_t witan_layer_info(const witan_layer_t *layer, witan_layer_info_t *info)
{
    if (layer == NULL || info == NULL || info->struct_bytes != sizeof(*info)) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "layer info: null pointer or wrong struct_bytes");
    }
    *info = (witan_layer_info_t){
        .struct_bytes       = sizeof(*info),
        .config             = layer->layout.config,
        .backend            = layer->layout.config.backend,
        .kernel_tier        = layer->layout.config.kernel_tier,
        .family             = layer->family,
        .local_expert_count = layer->layout.local_count,
        .local_experts      = layer->layout.local_experts,
        .local_slots        = layer->layout.local_slots,
        .local_inter_begin  = layer->layout.experts.inter_begin,
        .local_inter_end    = layer->layout.experts.inter_end,
        .weight_bytes       = wtn_layout_weight_bytes(&layer->layout),
    };
    return WITAN_OK;
}

static void free_layer(void *memory)
{
    witan_layer_t       *layer   = memory;
    const wtn_backend_t *backend = layer->layout.backend;

    if (backend != NULL) {
        backend->ffn_destroy(layer->experts);
        backend->ffn_destroy(layer->shared);
        backend->gate_destroy(layer->router);
        backend->gate_destroy(layer->shared_gate);
        backend->free(layer->router_bias);
        backend->free(layer->correction_bias);
        backend->free(layer->owner);
        backend->free(layer->local);
        backend->free(layer->replica_begin);
    }
    wtn_layout_free(&layer->layout);
    free(layer);
}

void witan_layer_destroy(witan_layer_t *layer)
{
    if (layer != NULL) {
        wtn_release(&layer->group->comm, &layer->remains, free_layer, layer);
    }
}

witan_status_t witan_memory_alloc(const witan_layer_t *layer, void **out, size_t bytes)
{
    witan_status_t status;

    if (out != NULL) {
        *out = NULL;
    }
    if (layer == NULL || out == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "memory: layer or out is NULL");
    }
    status = use_device(layer->group, layer->layout.backend);
    return status == WITAN_OK ? layer->layout.backend->alloc(out, bytes > 0 ? bytes : 1) : status;
}

void witan_memory_free(const witan_layer_t *layer, void *memory)
{
    if (layer != NULL) {
        layer->layout.backend->free(memory);
    }
}

witan_status_t witan_memory_copy(const witan_layer_t *layer, void *to, const void *from,
                                 size_t bytes)
{
    witan_status_t status;

    if (layer == NULL || (bytes > 0 && (to == NULL || from == NULL))) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "memory: a pointer is NULL");
    }
    status = use_device(layer->group, layer->layout.backend);
    return status == WITAN_OK && bytes > 0 ? layer->layout.backend->copy(to, from, bytes, NULL)
                                           : status;
}

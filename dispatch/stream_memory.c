/* The memory of the stream engine: sizes, arrays, streams and marks, connections. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/stream.h"
#include "kernels/topk/topk.h"

#define ROUTE_LOGITS   ((int64_t)4 << 20) /* gated at once: 16 MiB of logits */
#define ROUTE_BLOCK    1024               /* tokens of a block at least */
#define ALIGN_BYTES    256
#define LISTS          5 /* arrays of wtn_tables_t */
#define EXCHANGE_WORDS ((int64_t)INT32_MAX)

witan_status_t wtn_stream_check(const wtn_layout_t *layout, const witan_plan_config_t *config)
{
    if (layout->folding.expert_parallel * layout->folding.tensor_parallel > 1 &&
        layout->backend->device->link == NULL) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "plan: exchange: backend %s has no transport",
                         layout->backend->name);
    }
    if (layout->config.expert_count > WTN_CUDA_TOPK_EXPERTS_MAX) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED,
                         "plan: expert_count: backend %s serves up to %d, found %" PRId32,
                         layout->backend->name, WTN_CUDA_TOPK_EXPERTS_MAX,
                         layout->config.expert_count);
    }
    if (config->hierarchy == WITAN_HIERARCHY_TWO_LEVEL) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "plan: hierarchy: backend %s dispatches flat only",
                         layout->backend->name);
    }
    if (config->workspace != NULL && (uintptr_t)config->workspace % WTN_CACHE_LINE_BYTES != 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "plan: workspace: expected %d-byte aligned, found %p",
                         WTN_CACHE_LINE_BYTES, config->workspace);
    }
    return WITAN_OK;
}

/* Tokens of a pair that travel in one round, of the source that has most. */
static int64_t round_tokens(const witan_plan_config_t *config, int32_t topk, int64_t most)
{
    int64_t tokens = wtn_ceil_div(most, config->chunk_count);

    if (config->pair_token_count_max > 0) {
        tokens = wtn_min_i64(tokens, config->pair_token_count_max);
    }
    if (config->pair_row_count_max > 0) {
        tokens = wtn_min_i64(tokens, config->pair_row_count_max / topk);
    }
    return wtn_max_i64(tokens, 1);
}

/* Slots of a round at the sources and here, and what comes back. */
static void size_slots(wtn_stream_shape_t *shape, const int64_t *token_maxima, int64_t gathered,
                       int32_t topk)
{
    int64_t back = shape->reduced ? shape->pair_token_max : shape->token_max * topk;

    shape->return_count = back;
    shape->row_count    = shape->token_max * topk;
    if (shape->ep == 1) {
        return;
    }
    for (int32_t s = 0; s < shape->ep; s++) {
        shape->token_slots += wtn_min_i64(shape->round_tokens, token_maxima[s] * gathered);
    }
    shape->send_slots = wtn_min_i64(shape->ep * shape->round_tokens, shape->pair_token_max);
    if (shape->slots) {
        shape->token_slots = shape->send_slots = shape->ep * shape->round_tokens;
        shape->pair_rows                       = shape->round_tokens * (shape->reduced ? 1 : topk);
        shape->return_count = (int64_t)shape->round_count * shape->ep * shape->pair_rows;
    }
    shape->row_count = shape->token_slots * topk;
}

static witan_status_t make_shape(wtn_stream_shape_t *shape, const wtn_layout_t *layout,
                                 const witan_plan_config_t *config, const int64_t *token_maxima)
{
    const wtn_folding_t *folding = &layout->folding;
    int32_t              topk = layout->config.topk, ep = folding->expert_parallel;
    bool scatter = config->tensor_exchange == WITAN_TENSOR_SCATTER && folding->tensor_parallel > 1;
    int64_t gathered = scatter ? folding->tensor_parallel : 1, most = 0;

    for (int32_t s = 0; s < ep; s++) {
        most = wtn_max_i64(most, token_maxima[s] * gathered);
    }
    *shape = (wtn_stream_shape_t){
        .exchange =
            config->exchange == WITAN_EXCHANGE_AUTO ? WITAN_EXCHANGE_EXACT : config->exchange,
        .reduced = config->combine == WITAN_COMBINE_REDUCED && ep > 1, /* alone, nothing returns */
        .scatter = scatter,
        .ep      = ep,
        .tp      = folding->tensor_parallel,
        .me      = folding->expert_index,
        .mine    = folding->tensor_index,
        .token_max = config->token_count_max * gathered,
    };
    shape->local          = ep == 1 && !wtn_placement_is_plain(&layout->placement);
    shape->slots          = ep > 1 && shape->exchange != WITAN_EXCHANGE_EXACT;
    shape->round_tokens   = ep > 1 ? round_tokens(config, topk, most) : wtn_max_i64(most, 1);
    shape->round_count    = (int32_t)wtn_max_i64(wtn_ceil_div(most, shape->round_tokens), 1);
    shape->overflow       = shape->slots && shape->round_count > 1;
    shape->pair_token_max = shape->token_max * wtn_min_i64(topk, ep);
    shape->sum_slots      = shape->reduced ? (int32_t)wtn_min_i64(topk, ep) : topk;
    shape->meta_words     = (int32_t)wtn_token_meta_words(topk, shape->reduced);
    shape->route_block =
        wtn_max_i64(ROUTE_BLOCK, ROUTE_LOGITS / wtn_max_i64(layout->config.expert_count, 1));
    shape->route_block = wtn_min_i64(shape->route_block, config->token_count_max);
    if (most > EXCHANGE_WORDS) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "plan: %" PRId64 " gathered tokens, at most %d", most,
                         INT32_MAX);
    }
    size_slots(shape, token_maxima, gathered, topk);
    return WITAN_OK;
}

static int64_t *carve_counts(wtn_carver_t *carver, int64_t count)
{
    return wtn_carve(carver, (size_t)count, sizeof(int64_t));
}

static void carve_report(wtn_report_t *report, const wtn_stream_shape_t *shape,
                         const wtn_layout_t *layout, wtn_carver_t *carver)
{
    int64_t ep = shape->ep, cuts = ep * ((int64_t)shape->round_count + 1);
    size_t  begin = carver->bytes;

    report->base             = wtn_carve(carver, 0, 1);
    report->pair_token_begin = carve_counts(carver, 2 * (ep + 1));
    report->pair_row_begin =
        report->pair_token_begin == NULL ? NULL : report->pair_token_begin + ep + 1;
    report->round_row_begin     = carve_counts(carver, cuts);
    report->source_tokens       = carve_counts(carver, 2 * ep);
    report->source_row_begin    = carve_counts(carver, cuts);
    report->counts_bytes        = carver->bytes - begin;
    report->matrix              = carve_counts(carver, ep * 2 * (ep + 1));
    report->expert_token_counts = carve_counts(carver, layout->config.expert_count);
    report->expert_row_counts =
        carve_counts(carver, shape->round_count * ((int64_t)layout->local_count + 1));
    report->bad_ids = wtn_carve(carver, 1, sizeof(*report->bad_ids));
    report->bytes   = carver->bytes - begin;
}

static size_t scratch_bytes(const wtn_stream_shape_t *shape, const witan_plan_config_t *config,
                            const wtn_layout_t *layout, int32_t threads)
{
    const wtn_backend_t *backend  = layout->backend;
    size_t               sizes[6] = {0}, most = 0;

    sizes[0] = backend->gate_workspace_bytes(&layout->router, shape->route_block, threads);
    sizes[1] =
        backend->topk_workspace_bytes(layout->config.expert_count, layout->config.topk, threads);
    if (layout->shared_gate.out_count > 0) {
        sizes[2] = backend->gate_workspace_bytes(&layout->shared_gate, shape->token_max, threads);
    }
    if (layout->experts.expert_count > 0) {
        sizes[3] = backend->ffn_workspace_bytes(&layout->experts, shape->row_count,
                                                config->masked_rows_max, threads);
    }
    if (layout->shared.hidden_size > 0) {
        sizes[4] = backend->ffn_workspace_bytes(&layout->shared, shape->token_max,
                                                config->masked_rows_max, threads);
    }
    sizes[5] =
        backend->device->schedule_workspace_bytes(shape->token_max, layout->config.expert_count,
                                                  layout->config.topk, shape->ep);
    for (size_t i = 0; i < WTN_COUNT_OF(sizes); i++) {
        most = sizes[i] > most ? sizes[i] : most;
    }
    return most;
}

static void carve_exchange(wtn_stream_t *stream, const wtn_layout_t *layout, wtn_carver_t *carver)
{
    const wtn_stream_shape_t *shape = &stream->shape;
    size_t                    slots = (size_t)shape->token_slots, rows = (size_t)shape->row_count;
    size_t                    words  = (size_t)shape->meta_words * sizeof(int32_t);
    bool                      direct = shape->slots && shape->exchange == WITAN_EXCHANGE_DIRECT;
    size_t                    sums   = shape->reduced ? slots * (size_t)layout->config.topk : 0;
    size_t                    listed = shape->ep > 1 ? rows : 0;

    /* Direct: peers write tokens, meta and returned rows into the window instead. */
    stream->token_send =
        wtn_carve(carver, direct ? 0 : (size_t)shape->send_slots, layout->row_bytes);
    stream->meta_send     = wtn_carve(carver, direct ? 0 : (size_t)shape->send_slots, words);
    stream->token_recv    = wtn_carve(carver, direct ? 0 : slots, layout->row_bytes);
    stream->meta_recv     = wtn_carve(carver, direct ? 0 : slots, words);
    stream->row_expert    = wtn_carve(carver, shape->local ? rows : listed, sizeof(int32_t));
    stream->row_in        = wtn_carve(carver, rows, sizeof(int64_t));
    stream->row_out       = wtn_carve(carver, listed, sizeof(int64_t));
    stream->reduce_index  = wtn_carve(carver, sums, sizeof(int64_t));
    stream->reduce_weight = wtn_carve(carver, sums, sizeof(float));
    stream->partial_rows  = wtn_carve(carver, shape->reduced ? slots : 0, layout->row_bytes);
    stream->rows =
        wtn_carve(carver, (direct ? 0 : (size_t)shape->return_count) + listed, layout->row_bytes);
    stream->tables = wtn_carve(carver, (size_t)stream->table_rounds, stream->table_bytes);
}

/* Every array of the device; with a null base only measure. */
static void carve(wtn_stream_t *stream, const witan_plan_config_t *config,
                  const wtn_layout_t *layout, int32_t threads, wtn_carver_t *carver)
{
    const wtn_stream_shape_t *shape  = &stream->shape;
    size_t                    tokens = (size_t)shape->token_max, topk = (size_t)layout->config.topk;
    size_t                    block = (size_t)shape->route_block;

    stream->table_rounds = shape->slots || shape->ep == 1 ? 1 : shape->round_count;
    stream->table_bytes  = LISTS * (size_t)shape->ep * sizeof(int64_t);
    carve_report(&stream->report, shape, layout, carver);
    stream->ids     = wtn_carve(carver, tokens * topk, sizeof(int32_t));
    stream->weights = wtn_carve(carver, tokens * topk, sizeof(float));
    stream->hidden  = wtn_carve(carver, shape->scatter ? tokens : 0, layout->row_bytes);
    stream->logits  = wtn_carve(carver, block, (size_t)layout->config.expert_count * sizeof(float));
    stream->send_token =
        wtn_carve(carver, (size_t)shape->pair_token_max, sizeof(*stream->send_token));
    stream->token_first_row =
        wtn_carve(carver, (size_t)shape->pair_token_max + 1, sizeof(*stream->token_first_row));
    stream->sum_index = wtn_carve(carver, tokens * (size_t)shape->sum_slots, sizeof(int64_t));
    stream->shared_rows =
        wtn_carve(carver, layout->shared.hidden_size > 0 ? tokens : 0, layout->row_bytes);
    stream->shared_logit =
        wtn_carve(carver, layout->shared_gate.out_count > 0 ? tokens : 0, sizeof(float));
    stream->partial = wtn_carve(carver, shape->tp > 1 ? tokens : 0,
                                (size_t)layout->config.hidden_size * sizeof(float));
    carve_exchange(stream, layout, carver);
    stream->scratch_bytes = scratch_bytes(shape, config, layout, threads);
    stream->scratch       = wtn_carve(carver, stream->scratch_bytes, 1);
}

static witan_status_t size_error(void)
{
    return WTN_ERROR(WITAN_E_ARGUMENT, "plan: the size overflows 64 bits");
}

/* Append a part and tell where it ends; false where 64 bits do not hold that. */
static bool lay_part(size_t begin, size_t count, size_t size, size_t *end)
{
    size_t bytes;

    return wtn_mul(count, size, &bytes) && bytes <= SIZE_MAX - ALIGN_BYTES &&
           wtn_add(begin, wtn_align_up(bytes, ALIGN_BYTES), end);
}

/* The parts of a window; every part of [ep] blocks, one per source. */
static witan_status_t lay_window(wtn_stream_t *stream, const wtn_layout_t *layout)
{
    const wtn_stream_shape_t *shape  = &stream->shape;
    wtn_window_t             *window = &stream->window;
    size_t                    slots = (size_t)shape->token_slots, ep = (size_t)shape->ep;
    size_t                    returned = (size_t)shape->return_count;

    *window = (wtn_window_t){0};
    if (!lay_part(window->tokens, slots, layout->row_bytes, &window->meta) ||
        !lay_part(window->meta, slots, (size_t)shape->meta_words * sizeof(int32_t),
                  &window->rows) ||
        !lay_part(window->rows, returned, layout->row_bytes, &window->matrix) ||
        !lay_part(window->matrix, ep * 2 * (ep + 1), sizeof(int64_t), &window->bytes)) {
        return size_error();
    }
    return WITAN_OK;
}

witan_status_t wtn_stream_bytes(const wtn_layout_t *layout, const witan_plan_config_t *config,
                                const int64_t *token_maxima, int32_t thread_count, int64_t *bytes)
{
    wtn_stream_t   stream = {0};
    wtn_carver_t   carver = {0};
    witan_status_t status = wtn_plan_config_check(config, layout);

    WTN_TRY(status);
    WTN_TRY(make_shape(&stream.shape, layout, config, token_maxima));
    carve(&stream, config, layout, thread_count, &carver);
    if (stream.shape.slots && stream.shape.exchange == WITAN_EXCHANGE_DIRECT) {
        WTN_TRY(lay_window(&stream, layout));
        (void)wtn_carve(&carver, stream.window.bytes, 1);
    }
    if (carver.bytes > (size_t)INT64_MAX) {
        return size_error();
    }
    *bytes = (int64_t)carver.bytes;

fail:
    return status;
}

/* The host's side: the report, the tables, the statistics. */
static witan_status_t take_host_memory(witan_plan_t *plan)
{
    wtn_stream_t             *stream = plan->stream;
    const wtn_stream_shape_t *shape  = &stream->shape;
    const wtn_layout_t       *layout = &plan->layer->layout;
    size_t                    tables = (size_t)stream->table_rounds * stream->table_bytes;
    size_t                    ep = (size_t)shape->ep, E = (size_t)layout->config.expert_count;
    size_t         routed = (size_t)plan->config.token_count_max * (size_t)layout->config.topk;
    wtn_carver_t   carver = {0};
    void          *pinned = NULL;
    witan_status_t status;

    carve_report(&stream->told, shape, layout, &carver);
    WTN_TRY(stream->backend->pinned_alloc(&pinned, carver.bytes + tables));
    stream->pinned = pinned;
    memset(pinned, 0, carver.bytes + tables);
    carver = (wtn_carver_t){.base = pinned};
    carve_report(&stream->told, shape, layout, &carver);
    stream->tables_made  = wtn_carve(&carver, 0, 1);
    stream->counts       = calloc(E + (size_t)layout->local_count + 2 * ep, sizeof(int64_t));
    stream->ids_copy     = calloc(routed + 1, sizeof(*stream->ids_copy));
    stream->weights_copy = calloc(routed + 1, sizeof(*stream->weights_copy));
    if (stream->counts == NULL || stream->ids_copy == NULL || stream->weights_copy == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "plan: %zu routed ids and weights", routed);
    }
    plan->expert_token_counts = stream->counts;
    plan->rank_row_counts     = stream->counts + E;
    plan->rank_send_bytes     = plan->rank_row_counts + ep;
    plan->expert_row_counts   = plan->rank_send_bytes + ep;

fail:
    return status;
}

static witan_status_t take_queues(witan_plan_t *plan)
{
    wtn_stream_t       *stream = plan->stream;
    const wtn_device_t *device = stream->device;
    bool                beside = stream->shape.ep > 1 && plan->layer->shared != NULL;
    witan_status_t      status = WITAN_OK;

    stream->queue = plan->config.stream;
    if (stream->queue == NULL) {
        stream->queue_owned = true;
        WTN_TRY(device->stream_create(&stream->queue));
    }
    if (beside) {
        WTN_TRY(device->stream_create(&stream->side));
        WTN_TRY(device->event_create(&stream->forked));
        WTN_TRY(device->event_create(&stream->joined));
    }
    WTN_TRY(device->event_create(&stream->passed));
    for (int32_t i = 0; i < WTN_MARKS_MAX; i++) {
        WTN_TRY(device->event_create(&stream->marks[i]));
    }

fail:
    return status;
}

/* Without peers, row i of the list is of token i / K, always. */
static witan_status_t list_own_rows(witan_plan_t *plan)
{
    wtn_stream_t  *stream = plan->stream;
    int32_t        topk   = plan->layer->layout.config.topk;
    int64_t        count  = stream->shape.row_count, *row_in;
    witan_status_t status;

    if (stream->shape.ep > 1 || count == 0) {
        return WITAN_OK;
    }
    row_in = calloc((size_t)count, sizeof(*row_in));
    if (row_in == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "plan: %" PRId64 " rows", count);
    }
    for (int64_t i = 0; i < count; i++) {
        row_in[i] = i / topk;
    }
    status = stream->backend->copy(stream->row_in, row_in, (size_t)count * sizeof(*row_in),
                                   stream->queue);
    free(row_in);
    return status;
}

witan_status_t wtn_stream_create(witan_plan_t *plan, const int64_t *token_maxima)
{
    const wtn_layout_t *layout  = &plan->layer->layout;
    int32_t             threads = plan->layer->group->thread_count;
    wtn_stream_t       *stream  = calloc(1, sizeof(*stream));
    wtn_carver_t        carver  = {0};
    void               *arena   = plan->config.workspace;
    witan_status_t      status;

    if (stream == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "plan: %zu bytes", sizeof(*stream));
    }
    plan->stream    = stream;
    stream->backend = layout->backend;
    stream->device  = layout->backend->device;
    stream->link    = stream->device->link;
    stream->waits   = strcmp(layout->config.kernel_tier, "cublas") == 0;
    WTN_TRY(wtn_stream_use_device(plan));
    if (plan->config.sm_reserved >= stream->device->multiprocessors()) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "plan: sm_reserved: expected less than the device's %" PRId32
                         " multiprocessors, found %" PRId32,
                         stream->device->multiprocessors(), plan->config.sm_reserved);
    }
    WTN_TRY(make_shape(&stream->shape, layout, &plan->config, token_maxima));
    carve(stream, &plan->config, layout, threads, &carver);
    plan->arena_bytes = carver.bytes;
    WTN_TRY(wtn_plan_check_workspace(plan, WTN_CACHE_LINE_BYTES));
    if (arena == NULL) {
        if (plan->arena_bytes == SIZE_MAX) {
            return WTN_ERROR(WITAN_E_MEMORY, "plan: %zu bytes of workspace", plan->arena_bytes);
        }
        WTN_TRY(stream->backend->alloc(&arena, plan->arena_bytes));
        plan->arena_owned = true;
    }
    plan->arena = arena;
    carver      = (wtn_carver_t){.base = arena};
    carve(stream, &plan->config, layout, threads, &carver);
    WTN_TRY(take_host_memory(plan));
    WTN_TRY(take_queues(plan));
    WTN_TRY(stream->device->fill(stream->report.base, 0, stream->report.bytes, stream->queue));
    WTN_TRY(list_own_rows(plan));

fail:
    return status;
}

wtn_tables_t wtn_stream_tables(const wtn_stream_t *stream, char *base, int64_t round)
{
    int64_t *lists = (int64_t *)(void *)(base + (size_t)round * stream->table_bytes);
    int32_t  ep    = stream->shape.ep;

    return (wtn_tables_t){.out_tokens    = (void **)(void *)lists,
                          .out_meta      = (int32_t **)(void *)(lists + ep),
                          .token_begin   = lists + 2 * ep,
                          .token_count   = lists + 3 * ep,
                          .row_out_begin = lists + 4 * ep};
}

/* Slots are where they are: their tables are made once. */
static witan_status_t make_slot_tables(witan_plan_t *plan)
{
    wtn_stream_t             *stream = plan->stream;
    const wtn_stream_shape_t *shape  = &stream->shape;
    size_t       row_bytes = plan->layer->layout.row_bytes, slots = (size_t)shape->round_tokens;
    size_t       words   = slots * (size_t)shape->meta_words;
    bool         direct  = shape->exchange == WITAN_EXCHANGE_DIRECT;
    void *const *windows = direct ? stream->link->direct_windows(stream->direct) : NULL;
    wtn_tables_t tables  = wtn_stream_tables(stream, stream->tables_made, 0);
    size_t       block   = (size_t)shape->me;

    for (int32_t p = 0; p < shape->ep; p++) {
        size_t to     = direct ? block : (size_t)p;
        char  *tokens = direct ? windows[p] : stream->token_send;
        char  *meta = direct ? (char *)windows[p] + stream->window.meta : (char *)stream->meta_send;
        int64_t before = direct ? 0 : shape->return_count;

        tables.out_tokens[p]  = tokens + to * slots * row_bytes;
        tables.out_meta[p]    = (int32_t *)(void *)meta + to * words;
        tables.token_begin[p] = p * shape->round_tokens;
        tables.token_count[p] = shape->round_tokens;
        tables.row_out_begin[p] =
            before + p * shape->round_tokens * plan->layer->layout.config.topk;
    }
    return stream->backend->copy(stream->tables, stream->tables_made, stream->table_bytes,
                                 stream->queue);
}

static witan_status_t open_direct(witan_plan_t *plan)
{
    wtn_stream_t       *stream = plan->stream;
    wtn_direct_config_t config = {.name       = "expert",
                                  .peers      = plan->expert_peers,
                                  .peer_count = plan->ep};
    char               *window;
    witan_status_t      status;

    WTN_TRY(lay_window(stream, &plan->layer->layout));
    config.bytes = stream->window.bytes;
    WTN_TRY(stream->link->direct_open(&stream->direct, plan->comm, &config));
    window             = stream->link->direct_windows(stream->direct)[plan->me];
    stream->token_recv = window;
    stream->meta_recv  = (int32_t *)(void *)(window + stream->window.meta);

fail:
    return status;
}

/* All ranks of a data index wait for each other, directly or over others. */
static witan_status_t open_roll(witan_plan_t *plan, int32_t count)
{
    wtn_stream_t  *stream = plan->stream;
    int32_t       *peers  = calloc((size_t)count, sizeof(*peers));
    witan_status_t status;

    for (int32_t i = 0; peers != NULL && i < count; i++) {
        peers[i] = plan->layer->group->data_index * count + i;
    }
    if (peers == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "plan: %" PRId32 " peers", count);
    } else {
        status = stream->link->roll_open(&stream->roll, plan->comm, plan->channel, peers, count);
    }
    free(peers);
    return wtn_agree(plan->comm, "plan", status, NULL, 0);
}

witan_status_t wtn_stream_connect(witan_plan_t *plan)
{
    wtn_stream_t     *stream = plan->stream;
    const wtn_link_t *link   = stream->link;
    bool direct = stream->shape.slots && stream->shape.exchange == WITAN_EXCHANGE_DIRECT;
    wtn_nccl_config_t config = {.ctas_max     = plan->config.sm_reserved,
                                .share_device = plan->layer->group->share_device};
    int32_t           count  = plan->ep * plan->tp;
    witan_status_t    status = WITAN_OK;

    if (count > 1) {
        WTN_TRY(open_roll(plan, count));
    }
    if (plan->ep > 1 && !direct) {
        config.name       = "expert";
        config.peers      = plan->expert_peers;
        config.peer_count = plan->ep;
        WTN_TRY(link->open(&stream->expert, plan->comm, &config));
        link->watch(stream->expert, stream->roll, plan->watch);
    }
    if (direct) {
        WTN_TRY(open_direct(plan));
    }
    if (plan->tp > 1) {
        config.name       = "tensor";
        config.peers      = plan->tensor_peers;
        config.peer_count = plan->tp;
        WTN_TRY(link->open(&stream->tensor, plan->comm, &config));
        link->watch(stream->tensor, stream->roll, plan->watch);
    }
    if (stream->shape.slots) {
        WTN_TRY(wtn_agree(plan->comm, "plan", make_slot_tables(plan), NULL, 0));
    }
    plan->exchange = stream->shape.exchange;
    if (count > 1) {
        plan->transport = direct ? "direct" : link->name;
    }

fail:
    return status;
}

void wtn_stream_destroy(witan_plan_t *plan)
{
    wtn_stream_t       *stream = plan->stream;
    const wtn_device_t *device;

    if (stream == NULL) {
        return;
    }
    device = stream->device;
    if (stream->link != NULL) {
        stream->link->close(stream->expert);
        stream->link->close(stream->tensor);
        stream->link->direct_close(stream->direct);
        stream->link->roll_close(stream->roll);
    }
    for (int32_t i = 0; i < WTN_MARKS_MAX; i++) {
        device->event_destroy(stream->marks[i]);
    }
    device->event_destroy(stream->forked);
    device->event_destroy(stream->joined);
    device->event_destroy(stream->passed);
    device->stream_destroy(stream->side);
    if (stream->queue_owned) {
        device->stream_destroy(stream->queue);
    }
    if (plan->arena_owned) {
        stream->backend->free(plan->arena);
        plan->arena_owned = false;
    }
    stream->backend->pinned_free(stream->pinned);
    free(stream->counts);
    free(stream->ids_copy);
    free(stream->weights_copy);
    free(stream);
    plan->stream = NULL;
}

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/layer.h"
#include "kernels/device.h"
#include "launcher/job.h"
#include "launcher/staging.h"

#define PIECE_BYTES ((size_t)4 << 20) /* one message: each has a deadline of its own */

/* The state of a running job on one rank. */
typedef struct worker {
    wtn_session_t    *session;
    wtn_job_t        *job;
    const wtn_feed_t *feed;
    witan_plan_t     *plan;
    wtn_staging_t     staging;
    int32_t           tensor_parallel; /* ranks that get the same slice */
    int32_t           slice_count, slice_index;
    int32_t           scattered; /* slices of one tensor group: equal, the last ones padded */
    int32_t           topk, expert_count;
    size_t            row_bytes; /* of a token */
    int64_t           slice_max;
    char             *block; /* rank 0: one slice, read or received */
    char             *hidden, *output;
    int32_t          *ids;
    float            *weights;
    void             *memory;
} worker_t;

static int64_t slice_begin(const worker_t *worker, int64_t step_tokens, int32_t slice)
{
    int32_t group = slice / worker->scattered, groups = worker->slice_count / worker->scattered;
    int64_t begin = wtn_part_begin(step_tokens, groups, group), count;

    if (slice % worker->scattered == 0) {
        return begin;
    }
    count = wtn_part_begin(step_tokens, groups, group + 1) - begin;
    return begin +
           wtn_min_i64(count, slice % worker->scattered * wtn_ceil_div(count, worker->scattered));
}

/* The ranks of a tensor group pass equally many tokens: zeros behind a shorter slice. */
static int64_t padded_count(const worker_t *worker, int64_t step_tokens)
{
    int32_t first = worker->slice_index / worker->scattered * worker->scattered;
    int64_t count = slice_begin(worker, step_tokens, first + worker->scattered) -
                    slice_begin(worker, step_tokens, first);

    return wtn_ceil_div(count, worker->scattered);
}

static witan_status_t send_pieces(wtn_comm_t *comm, int32_t peer, const char *data, size_t bytes,
                                  const char *phase)
{
    for (size_t done = 0; done < bytes; done += PIECE_BYTES) {
        size_t         piece  = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
        witan_status_t status = wtn_send(comm, peer, WTN_TAG_USER, data + done, piece, phase);

        if (status != WITAN_OK) {
            return status;
        }
    }
    return WITAN_OK;
}

static witan_status_t recv_pieces(wtn_comm_t *comm, int32_t peer, char *data, size_t bytes,
                                  const char *phase)
{
    for (size_t done = 0; done < bytes; done += PIECE_BYTES) {
        size_t         piece  = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
        witan_status_t status = wtn_recv(comm, peer, WTN_TAG_USER, data + done, piece, phase);

        if (status != WITAN_OK) {
            return status;
        }
    }
    return WITAN_OK;
}

/* ---- dealing ---- */

/* A failing read is told to all after the deal (`*fault`); the slices go out nevertheless, because
 * the peers wait for them. */
static witan_status_t deal_out(worker_t *worker, int64_t begin, int64_t step_tokens,
                               witan_status_t *fault)
{
    wtn_comm_t *comm = worker->session->comm;

    for (int32_t slice = 0; slice < worker->slice_count; slice++) {
        int64_t first = slice_begin(worker, step_tokens, slice);
        int64_t count = slice_begin(worker, step_tokens, slice + 1) - first;
        size_t  bytes = (size_t)count * worker->row_bytes;
        char   *data  = slice == 0 ? worker->hidden : worker->block;

        if (*fault == WITAN_OK && count > 0) {
            *fault = worker->feed->read(worker->feed->context, begin + first, count, data);
        }
        for (int32_t t = 0; t < worker->tensor_parallel; t++) {
            int32_t        peer = slice * worker->tensor_parallel + t;
            witan_status_t status =
                peer == 0 ? WITAN_OK : send_pieces(comm, peer, data, bytes, "deal");

            if (status != WITAN_OK) {
                return status;
            }
        }
    }
    return WITAN_OK;
}

static witan_status_t deal(worker_t *worker, int64_t begin, int64_t step_tokens, int64_t mine)
{
    witan_status_t fault = WITAN_OK, status;

    worker->session->phase = "deal";
    if (worker->session->rank == 0) {
        status = deal_out(worker, begin, step_tokens, &fault);
    } else {
        status = recv_pieces(worker->session->comm, 0, worker->hidden,
                             (size_t)mine * worker->row_bytes, "deal");
    }
    return status != WITAN_OK ? status : wtn_session_agree(worker->session, fault);
}

/* ---- gathering ---- */

static witan_status_t send_result(worker_t *worker, int64_t mine)
{
    wtn_comm_t    *comm = worker->session->comm;
    size_t         k    = (size_t)worker->topk;
    witan_status_t status;

    WTN_TRY(send_pieces(comm, 0, worker->output, (size_t)mine * worker->row_bytes, "gather"));
    if (worker->job->routing) {
        WTN_TRY(send_pieces(comm, 0, (const char *)worker->ids,
                            (size_t)mine * k * sizeof(*worker->ids), "gather"));
        WTN_TRY(send_pieces(comm, 0, (const char *)worker->weights,
                            (size_t)mine * k * sizeof(*worker->weights), "gather"));
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t take_slice(worker_t *worker, int32_t slice, int64_t begin, int64_t count,
                                 witan_status_t *fault)
{
    const wtn_feed_t *feed = worker->feed;
    wtn_comm_t       *comm = worker->session->comm;
    int32_t           peer = slice * worker->tensor_parallel;
    size_t            k    = (size_t)worker->topk;
    const char       *rows = slice == 0 ? worker->output : worker->block;
    witan_status_t    status;

    if (slice != 0) {
        WTN_TRY(
            recv_pieces(comm, peer, worker->block, (size_t)count * worker->row_bytes, "gather"));
    }
    if (*fault == WITAN_OK && count > 0) {
        *fault = feed->write(feed->context, begin, count, rows);
    }
    if (!worker->job->routing) {
        return WITAN_OK;
    }
    if (slice != 0) {
        WTN_TRY(recv_pieces(comm, peer, (char *)worker->ids,
                            (size_t)count * k * sizeof(*worker->ids), "gather"));
        WTN_TRY(recv_pieces(comm, peer, (char *)worker->weights,
                            (size_t)count * k * sizeof(*worker->weights), "gather"));
    }
    if (*fault == WITAN_OK && count > 0) {
        *fault = feed->write_routing(feed->context, begin, count, worker->ids, worker->weights);
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t gather(worker_t *worker, int64_t begin, int64_t step_tokens, int64_t mine)
{
    witan_status_t fault = WITAN_OK, status = WITAN_OK;

    worker->session->phase = "gather";
    if (worker->session->rank == 0) {
        for (int32_t s = 0; s < worker->slice_count && status == WITAN_OK; s++) {
            int64_t first = slice_begin(worker, step_tokens, s);
            int64_t count = slice_begin(worker, step_tokens, s + 1) - first;

            status = take_slice(worker, s, begin + first, count, &fault);
        }
    } else if (worker->session->rank % worker->tensor_parallel == 0) {
        status = send_result(worker, mine);
    }
    return status != WITAN_OK ? status : wtn_session_agree(worker->session, fault);
}

/* ---- one step ---- */

static witan_status_t keep_routing(worker_t *worker, int64_t mine)
{
    size_t         count = (size_t)mine * (size_t)worker->topk;
    const int32_t *ids;
    const float   *weights;
    witan_status_t status;

    if (!worker->job->routing || mine == 0) {
        return WITAN_OK;
    }
    status = witan_plan_routing(worker->plan, &ids, &weights);
    if (status == WITAN_OK) {
        memcpy(worker->ids, ids, count * sizeof(*ids));
        memcpy(worker->weights, weights, count * sizeof(*weights));
    }
    return status;
}

const char *wtn_hierarchy_name(witan_hierarchy_t hierarchy)
{
    return hierarchy == WITAN_HIERARCHY_TWO_LEVEL ? "two-level" : "flat";
}

const char *wtn_exchange_name(witan_exchange_t exchange)
{
    static const char *const names[] = {
        [WITAN_EXCHANGE_EXACT]  = "exact",
        [WITAN_EXCHANGE_PADDED] = "padded",
        [WITAN_EXCHANGE_DIRECT] = "direct",
    };

    return names[exchange];
}

void wtn_exchange_text(char text[WTN_EXCHANGE_TEXT_BYTES], witan_exchange_t exchange,
                       const char *transport)
{
    const char *name = wtn_exchange_name(exchange);

    (void)snprintf(text, WTN_EXCHANGE_TEXT_BYTES, "%s%s%s%s", name == NULL ? "" : "exchange ",
                   name == NULL ? "" : name, name == NULL ? "" : ", transport ", transport);
}

static witan_status_t add_load(worker_t *worker)
{
    wtn_job_load_t    *load  = &worker->job->load;
    witan_stats_t      stats = {.struct_bytes = sizeof(stats)};
    witan_group_info_t group = {.struct_bytes = sizeof(group)};
    witan_status_t     status;

    WTN_TRY(witan_plan_stats(worker->plan, &stats));
    WTN_TRY(witan_group_query(worker->session->group, &group));
    load->token_count += stats.token_count;
    load->row_count += stats.recv_row_count;
    load->round_count += stats.round_count;
    load->send_bytes += stats.tensor_send_bytes;
    for (int32_t i = 0; i < group.expert_parallel; i++) {
        load->send_bytes += stats.rank_send_bytes[i];
    }
    for (int i = 0; i < WITAN_PHASE_COUNT; i++) {
        load->phase_ns[i] += stats.phase_ns[i];
    }
    /* The ranks of a tensor group route the same tokens. */
    for (int32_t e = 0; worker->job->expert_tokens != NULL && e < worker->expert_count; e++) {
        worker->job->expert_tokens[e] += group.tensor_index == 0 ? stats.expert_token_counts[e] : 0;
    }
    memcpy(load->executor_counts, stats.executor_counts, sizeof(load->executor_counts));
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t step(worker_t *worker, int64_t begin, int64_t step_tokens)
{
    int64_t mine = slice_begin(worker, step_tokens, worker->slice_index + 1) -
                   slice_begin(worker, step_tokens, worker->slice_index);
    int64_t        padded = padded_count(worker, step_tokens);
    witan_status_t status;

    WTN_TRY(deal(worker, begin, step_tokens, mine));
    memset(worker->hidden + (size_t)mine * worker->row_bytes, 0,
           (size_t)(padded - mine) * worker->row_bytes);
    WTN_TRY(wtn_staging_forward(&worker->staging, worker->plan, padded, worker->hidden,
                                worker->output));
    worker->session->phase = "step";
    status                 = keep_routing(worker, mine);
    if (status == WITAN_OK) {
        status = add_load(worker);
    }
    WTN_TRY(wtn_session_agree(worker->session, status));
    return gather(worker, begin, step_tokens, mine);

fail:
    return status;
}

/* ---- the whole ---- */

static witan_status_t carve(worker_t *worker)
{
    bool         first  = worker->session->rank == 0;
    size_t       tokens = (size_t)worker->slice_max;
    size_t       k      = worker->job->routing ? (size_t)worker->topk : 0;
    wtn_carver_t carver = {NULL, 0};

    for (int pass = 0; pass < 2; pass++) {
        worker->hidden  = wtn_carve(&carver, tokens, worker->row_bytes);
        worker->output  = wtn_carve(&carver, tokens, worker->row_bytes);
        worker->block   = wtn_carve(&carver, first ? tokens : 0, worker->row_bytes);
        worker->ids     = wtn_carve(&carver, tokens * k, sizeof(*worker->ids));
        worker->weights = wtn_carve(&carver, tokens * k, sizeof(*worker->weights));
        if (pass == 0) {
            worker->memory = carver.bytes == SIZE_MAX ? NULL : wtn_alloc(carver.bytes);
            if (worker->memory == NULL) {
                return WTN_ERROR(WITAN_E_MEMORY,
                                 "buffers for %" PRId64 " tokens of %zu bytes: %zu bytes",
                                 worker->slice_max, worker->row_bytes, carver.bytes);
            }
            memset(worker->memory, 0, carver.bytes); /* a deal after a failed read sends them */
            carver = (wtn_carver_t){worker->memory, 0};
        }
    }
    return WITAN_OK;
}

/* What the plan has taken, known before any step. */
static witan_status_t keep_ways(worker_t *worker)
{
    witan_stats_t  stats  = {.struct_bytes = sizeof(stats)};
    witan_status_t status = witan_plan_stats(worker->plan, &stats);

    if (status == WITAN_OK) {
        worker->job->hierarchy = stats.hierarchy;
        worker->job->exchange  = stats.exchange;
        worker->job->transport = stats.transport;
    }
    return status;
}

static witan_status_t prepare(worker_t *worker, int64_t step_count)
{
    wtn_job_t         *job   = worker->job;
    witan_layer_info_t layer = {.struct_bytes = sizeof(layer)};
    witan_group_info_t group = {.struct_bytes = sizeof(group)};
    witan_status_t     status;

    WTN_TRY(witan_layer_info(job->layer, &layer));
    WTN_TRY(witan_group_query(worker->session->group, &group));
    worker->scattered =
        job->plan.tensor_exchange == WITAN_TENSOR_SCATTER ? group.tensor_parallel : 1;
    worker->tensor_parallel = group.tensor_parallel / worker->scattered;
    worker->slice_count     = group.size / worker->tensor_parallel;
    worker->slice_index     = group.rank / worker->tensor_parallel;
    worker->topk            = layer.config.topk;
    worker->expert_count    = layer.config.expert_count;
    worker->row_bytes = (size_t)layer.config.hidden_size * witan_dtype_bytes(layer.config.dtype);
    worker->slice_max = 1;
    if (step_count > 0) {
        worker->slice_max = wtn_ceil_div(wtn_ceil_div(job->token_count, step_count),
                                         worker->slice_count / worker->scattered);
        worker->slice_max = wtn_ceil_div(worker->slice_max, worker->scattered);
    }
    job->load                 = (wtn_job_load_t){.expert_count = layer.local_expert_count,
                                                 .weight_bytes = layer.weight_bytes};
    job->plan.token_count_max = worker->slice_max;
    WTN_TRY(carve(worker));
    WTN_TRY(wtn_staging_make(&worker->staging, job->layer, worker->slice_max));

fail:
    return status;
}

witan_status_t wtn_job_run(wtn_session_t *session, wtn_job_t *job, const wtn_feed_t *feed)
{
    worker_t       worker     = {.session = session, .job = job, .feed = feed};
    bool           scattered  = job->plan.tensor_exchange == WITAN_TENSOR_SCATTER;
    int64_t        slices     = session->size / (scattered ? 1 : session->config.tensor_parallel);
    int64_t        per_step   = wtn_min_i64(job->step_tokens, INT64_MAX / slices) * slices;
    int64_t        step_count = job->token_count / per_step + (job->token_count % per_step != 0);
    uint64_t       start;
    witan_status_t status;

    WTN_TRY(wtn_session_agree(session, prepare(&worker, step_count)));
    WTN_TRY(witan_plan_create(&worker.plan, job->layer, &job->plan));
    WTN_TRY(keep_ways(&worker));
    start = wtn_now_ns();
    for (int64_t i = 0; i < step_count; i++) {
        int64_t begin = wtn_part_begin(job->token_count, step_count, i);
        int64_t end   = wtn_part_begin(job->token_count, step_count, i + 1);

        WTN_TRY(step(&worker, begin, end - begin));
    }
    job->seconds = (double)(wtn_now_ns() - start) / 1e9;
    witan_plan_destroy(worker.plan);
    wtn_staging_free(&worker.staging);
    wtn_free(worker.memory);
    return WITAN_OK;

fail:
    witan_plan_destroy(worker.plan);
    wtn_staging_free(&worker.staging);
    if (!session->comm->broken) {
        wtn_free(worker.memory); /* else a late peer may still write there */
    }
    return status;
}

witan_status_t wtn_plan_options_check(const wtn_plan_options_t *options, int32_t topk)
{
    if (options->pair_row_count_max != 0 && options->pair_row_count_max < topk) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--budget-rows: expected 0 or at least the layer's K, %" PRId32
                         ", found %" PRId64,
                         topk, options->pair_row_count_max);
    }
    return WITAN_OK;
}

witan_status_t wtn_plan_options_suit(const wtn_plan_options_t *options, const witan_layer_t *layer)
{
    const wtn_device_t *device = layer->layout.backend->device;

    if (options->tensor_exchange == WITAN_TENSOR_SCATTER && layer->group->tensor_parallel == 1) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--tensor-exchange scatter: expected --tp of at least 2, found 1");
    }
    if (device != NULL && options->sm_reserved >= device->multiprocessors()) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--sm-reserved: expected less than the device's %" PRId32
                         " multiprocessors, found %" PRId64,
                         device->multiprocessors(), options->sm_reserved);
    }
    return wtn_plan_options_check(options, layer->layout.config.topk);
}

witan_plan_config_t wtn_plan_config_make(const wtn_plan_options_t *options)
{
    witan_plan_config_t config;

    witan_plan_config_init(&config);
    config.combine              = (witan_combine_mode_t)options->combine;
    config.executor             = (witan_executor_t)options->executor;
    config.chunk_count          = (int32_t)options->chunk_count;
    config.pair_token_count_max = options->pair_token_count_max;
    config.pair_row_count_max   = options->pair_row_count_max;
    config.exchange             = (witan_exchange_t)options->exchange;
    config.tensor_exchange      = (witan_tensor_exchange_t)options->tensor_exchange;
    config.sm_reserved          = (int32_t)options->sm_reserved;
    config.hierarchy            = (witan_hierarchy_t)options->hierarchy;
    return config;
}

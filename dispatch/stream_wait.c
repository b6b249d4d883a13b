/* What the host learns of a queued step: that it is complete, what slots did not hold, the
 * statistics. */
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/stream.h"

/* Without peers there is nobody to be lost: the device ends when it ends. */
static witan_status_t await_alone(const wtn_stream_t *stream)
{
    for (;;) {
        bool           passed = false;
        witan_status_t status = stream->device->stream_query(stream->queue, &passed);

        if (status != WITAN_OK || passed) {
            return status;
        }
        (void)sched_yield();
    }
}

witan_status_t wtn_stream_await(const witan_plan_t *plan, void *event, const char *phase)
{
    const wtn_stream_t  *stream = plan->stream;
    wtn_nccl_t          *nccls[2];
    wtn_nccl_wait_args_t args = {
        .comm        = plan->comm,
        .phase       = phase,
        .event       = event,
        .nccls       = nccls,
        .direct      = stream->direct,
        .deadline_ns = wtn_deadline(plan->comm),
        .roll        = stream->roll,
        .watch       = plan->watch,
    };

    if (plan->ep * plan->tp == 1) {
        return await_alone(stream);
    }
    if (stream->expert != NULL) {
        nccls[args.nccl_count++] = stream->expert;
    }
    if (stream->tensor != NULL) {
        nccls[args.nccl_count++] = stream->tensor;
    }
    return stream->link->wait(&args);
}

witan_status_t wtn_stream_await_queue(const witan_plan_t *plan, const char *phase)
{
    const wtn_stream_t *stream = plan->stream;
    witan_status_t      status = stream->device->event_record(stream->passed, stream->queue);

    if (status == WITAN_OK) {
        status = wtn_stream_await(plan, stream->passed, phase);
    }
    return status == WITAN_OK && stream->direct != NULL
               ? stream->link->direct_check(stream->direct, phase)
               : status;
}

/* ---- what slots did not hold ---- */

/* The pair_token_begin, then the pair_row_begin, of a source. */
static const int64_t *begins_of(const witan_plan_t *plan, int32_t source)
{
    return plan->stream->told.matrix + (int64_t)source * 2 * (plan->ep + 1);
}

/* Of all pairs of ranks, so that all make the same rounds. */
static int64_t rounds_needed(const witan_plan_t *plan)
{
    int64_t most = 0;

    for (int32_t s = 0; s < plan->ep; s++) {
        const int64_t *begins = begins_of(plan, s);

        for (int32_t d = 0; d < plan->ep; d++) {
            most = wtn_max_i64(most, begins[d + 1] - begins[d]);
        }
    }
    return wtn_max_i64(1, wtn_ceil_div(most, plan->stream->shape.round_tokens));
}

static witan_status_t make_overflow(witan_plan_t *plan)
{
    int64_t        rounds = rounds_needed(plan);
    witan_status_t status = WITAN_OK;

    if (rounds > plan->stream->shape.round_count) {
        return WTN_ERROR(WITAN_E_MISMATCH,
                         "dispatch: %" PRId64 " rounds announced, expected at most %" PRId32,
                         rounds, plan->stream->shape.round_count);
    }
    plan->round_count = plan->round_done = rounds;
    if (rounds == 1) {
        return WITAN_OK;
    }
    for (int64_t r = 1; r < rounds; r++) {
        WTN_TRY(wtn_stream_send(plan, r));
        WTN_TRY(wtn_stream_compute(plan, r));
        WTN_TRY(wtn_stream_return(plan, r));
    }
    WTN_TRY(wtn_stream_sums(plan, plan->stream->output));
    WTN_TRY(wtn_stream_await_queue(plan, "combine"));

fail:
    return status;
}

/* ---- statistics ---- */

static void count_rows(witan_plan_t *plan)
{
    const wtn_stream_t *stream = plan->stream;
    const wtn_report_t *told   = &stream->told;
    int32_t             local  = plan->layer->layout.local_count;

    memcpy(plan->expert_token_counts, told->expert_token_counts,
           (size_t)plan->layer->layout.config.expert_count * sizeof(int64_t));
    for (int32_t p = 0; p < plan->ep; p++) {
        plan->rank_row_counts[p] = told->pair_row_begin[p + 1] - told->pair_row_begin[p];
    }
    plan->recv_row_count = 0;
    for (int32_t e = 0; e < local; e++) {
        plan->expert_row_counts[e] = 0;
        for (int64_t r = 0; r < plan->round_done; r++) {
            plan->expert_row_counts[e] += told->expert_row_counts[r * ((int64_t)local + 1) + e];
        }
        plan->recv_row_count += plan->expert_row_counts[e];
    }
}

/* Tokens and rows received from a source. Slots that cannot overflow send no counts: there the
 * listed rows are counted, which no peer writes to. */
static void count_source(const witan_plan_t *plan, const int32_t *listed, int32_t s,
                         int64_t *tokens, int64_t *rows)
{
    const wtn_stream_t       *stream = plan->stream;
    const wtn_stream_shape_t *shape  = &stream->shape;
    const wtn_report_t       *told   = &stream->told;
    int32_t                   topk   = plan->layer->layout.config.topk;

    *tokens = *rows = 0;
    if (s == plan->me) {
        *tokens = told->pair_token_begin[s + 1] - told->pair_token_begin[s];
        *rows   = told->pair_row_begin[s + 1] - told->pair_row_begin[s];
        return;
    }
    if (!shape->slots) {
        int64_t cuts = (int64_t)shape->round_count + 1;

        *tokens = told->source_tokens[2 * s + 1] - told->source_tokens[2 * s];
        *rows   = told->source_row_begin[s * cuts + cuts - 1];
        return;
    }
    if (shape->overflow) {
        const int64_t *begins = begins_of(plan, s) + plan->me;

        *tokens = begins[1] - begins[0];
        *rows   = begins[plan->ep + 2] - begins[plan->ep + 1];
        return;
    }
    for (int64_t i = s * shape->round_tokens; i < (s + 1) * shape->round_tokens; i++) {
        const int32_t *experts = listed + i * topk;

        *tokens += experts[0] >= 0;
        for (int32_t k = 0; k < topk; k++) {
            *rows += experts[k] >= 0;
        }
    }
}

/* Bytes to one peer: counts, tokens with their metas, rows for its tokens. */
static int64_t bytes_to(const witan_plan_t *plan, int32_t p, int64_t tokens, int64_t rows)
{
    const wtn_stream_t       *stream = plan->stream;
    const wtn_stream_shape_t *shape  = &stream->shape;
    int64_t                   row    = (int64_t)plan->layer->layout.row_bytes;
    int64_t meta = shape->meta_words * (int64_t)sizeof(int32_t), word = sizeof(int64_t);
    int64_t sent   = stream->told.pair_token_begin[p + 1] - stream->told.pair_token_begin[p];
    int64_t counts = shape->overflow ? 2 * (plan->ep + 1) * word : 0;
    int64_t rounds = plan->round_done, back = shape->reduced ? tokens : rows;

    if (!shape->slots) {
        return (shape->round_count + 3) * word + sent * (row + meta) + back * row;
    }
    if (shape->exchange == WITAN_EXCHANGE_PADDED) {
        return counts + rounds * (shape->round_tokens * (row + meta) + shape->pair_rows * row);
    }
    return counts + sent * row + rounds * shape->round_tokens * meta + back * row;
}

static int64_t tensor_bytes(const witan_plan_t *plan)
{
    const wtn_stream_t *stream = plan->stream;
    int64_t             sums   = stream->tokens * plan->layer->layout.config.hidden_size *
                   (int64_t)sizeof(float) / plan->tp * (plan->tp - 1);
    int64_t token = (int64_t)plan->layer->layout.row_bytes +
                    8 * (int64_t)plan->layer->layout.config.topk; /* with ids and weights */

    return stream->shape.scatter ? sums + (plan->tp - 1) * plan->token_count * token : 2 * sums;
}

witan_status_t wtn_stream_stats(witan_plan_t *plan)
{
    wtn_stream_t             *stream      = plan->stream;
    const wtn_stream_shape_t *shape       = &stream->shape;
    size_t                    bytes       = (size_t)shape->row_count * sizeof(int32_t);
    bool                      list_needed = shape->slots && !shape->overflow;
    int32_t                  *listed      = NULL;
    witan_status_t            status      = WITAN_OK;

    if (stream->queued || plan->state != WTN_PLAN_DONE) {
        return WITAN_OK; /* what the last wait found */
    }
    WTN_TRY(wtn_stream_use_device(plan));
    if (list_needed) {
        listed = malloc(bytes);
        if (listed == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "stats: %zu bytes", bytes);
        }
        WTN_TRY(stream->backend->copy(listed, stream->row_expert, bytes, stream->queue));
    }
    plan->recv_token_count = 0;
    for (int32_t s = 0; s < plan->ep; s++) {
        int64_t tokens, rows;

        count_source(plan, listed, s, &tokens, &rows);
        plan->recv_token_count += tokens;
        plan->rank_send_bytes[s] = s == plan->me ? 0 : bytes_to(plan, s, tokens, rows);
    }
    plan->tensor_send_bytes = tensor_bytes(plan);

fail:
    free(listed);
    return status;
}

/* Time of each phase between its marks. */
static void read_marks(witan_plan_t *plan)
{
    wtn_stream_t *stream = plan->stream;

    memset(plan->phase_ns, 0, sizeof(plan->phase_ns));
    for (int32_t i = 1; i < stream->mark_count; i++) {
        int64_t ns = 0;

        if (stream->device->event_elapsed(stream->marks[i - 1], stream->marks[i], &ns) ==
            WITAN_OK) {
            plan->phase_ns[stream->mark_phases[i]] += ns;
        }
    }
}

/* ---- the public calls ---- */

witan_status_t wtn_stream_wait(witan_plan_t *plan)
{
    wtn_stream_t  *stream = plan->stream;
    uint32_t       bad;
    witan_status_t status;

    WTN_TRY(wtn_stream_use_device(plan));
    status = wtn_plan_check_idle(plan, "wait");
    if (status != WITAN_OK) {
        return status;
    }
    WTN_TRY(wtn_stream_await_queue(plan, "wait"));
    if (plan->state != WTN_PLAN_DONE || !(stream->queued || stream->captured)) {
        return WITAN_OK;
    }
    if (stream->shape.overflow) {
        WTN_TRY(make_overflow(plan));
    }
    count_rows(plan);
    read_marks(plan);
    stream->queued = false;
    bad            = stream->imported ? *stream->told.bad_ids : 0;
    if (bad > 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "import: ids: expected -1 to %" PRId32 ", found %" PRIu32 " others",
                         plan->layer->layout.config.expert_count - 1, bad);
    }
    return WITAN_OK;

fail:
    return wtn_plan_fail(plan, status);
}

witan_status_t wtn_stream_routing(const witan_plan_t *plan, const int32_t **ids,
                                  const float **weights)
{
    const wtn_stream_t *stream = plan->stream;
    int64_t             count  = plan->token_count * plan->layer->layout.config.topk;
    int64_t             own    = stream->shape.scatter ? stream->shape.mine * count : 0;
    witan_status_t      status;

    WTN_TRY(wtn_stream_use_device(plan));
    WTN_TRY(wtn_stream_await_queue(plan, "routing"));
    if (count > 0) {
        WTN_TRY(stream->backend->copy(stream->ids_copy, stream->ids + own,
                                      (size_t)count * sizeof(int32_t), stream->queue));
        WTN_TRY(stream->backend->copy(stream->weights_copy, stream->weights + own,
                                      (size_t)count * sizeof(float), stream->queue));
    }
    *ids     = stream->ids_copy;
    *weights = stream->weights_copy;

fail:
    return status;
}

/* How tokens and rows travel between devices: exactly, in padded slots, or straight into windows;
 * and what the ranks of a tensor group exchange. */
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/stream.h"

static bool is_direct(const wtn_stream_t *stream)
{
    return stream->shape.slots && stream->shape.exchange == WITAN_EXCHANGE_DIRECT;
}

static int64_t cut(const wtn_stream_t *stream, int64_t tokens, int64_t round)
{
    int64_t left = tokens - round * stream->shape.round_tokens;

    return wtn_max_i64(0, wtn_min_i64(left, stream->shape.round_tokens));
}

static int64_t rows_of(const wtn_stream_t *stream, const int64_t *begins, int32_t peer,
                       int64_t round)
{
    const int64_t *of = begins + peer * ((int64_t)stream->shape.round_count + 1);

    return of[round + 1] - of[round];
}

int64_t wtn_stream_pair_tokens(const wtn_stream_t *stream, int32_t peer, int64_t round)
{
    const int64_t *begin = stream->told.pair_token_begin;

    return cut(stream, begin[peer + 1] - begin[peer], round);
}

int64_t wtn_stream_pair_rows(const wtn_stream_t *stream, int32_t peer, int64_t round)
{
    return stream->shape.reduced ? wtn_stream_pair_tokens(stream, peer, round)
                                 : rows_of(stream, stream->told.round_row_begin, peer, round);
}

int64_t wtn_stream_source_tokens(const wtn_stream_t *stream, int32_t source, int64_t round)
{
    const int64_t *ends = stream->told.source_tokens + 2 * (int64_t)source;

    return cut(stream, ends[1] - ends[0], round);
}

int64_t wtn_stream_source_rows(const wtn_stream_t *stream, int32_t source, int64_t round)
{
    return rows_of(stream, stream->told.source_row_begin, source, round);
}

/* ---- counts ---- */

/* Every rank tells each what it will send; the own counts are copied where the others' arrive. */
static witan_status_t exchange_counts(witan_plan_t *plan)
{
    wtn_stream_t       *stream = plan->stream;
    const wtn_link_t   *link   = stream->link;
    const wtn_report_t *report = &stream->report;
    int64_t             cuts   = (int64_t)stream->shape.round_count + 1;
    size_t              bytes  = (size_t)cuts * sizeof(int64_t);
    witan_status_t      status, ended;

    status = link->group_begin(stream->expert);
    for (int32_t p = 0; p < plan->ep && status == WITAN_OK; p++) {
        const int64_t *tokens = report->pair_token_begin + p;
        const int64_t *rows   = report->round_row_begin + p * cuts;
        int64_t       *from = report->source_tokens + 2 * p, *begins = report->source_row_begin;

        if (p == plan->me) {
            continue;
        }
        status = link->send(stream->expert, p, tokens, 2 * sizeof(int64_t), stream->queue);
        if (status == WITAN_OK) {
            status = link->send(stream->expert, p, rows, bytes, stream->queue);
        }
        if (status == WITAN_OK) {
            status = link->recv(stream->expert, p, from, 2 * sizeof(int64_t), stream->queue);
        }
        if (status == WITAN_OK) {
            status = link->recv(stream->expert, p, begins + p * cuts, bytes, stream->queue);
        }
    }
    ended = link->group_end(stream->expert);
    return status == WITAN_OK ? ended : status;
}

witan_status_t wtn_stream_counts(witan_plan_t *plan)
{
    wtn_stream_t       *stream = plan->stream;
    const wtn_report_t *report = &stream->report;
    size_t              bytes  = 2 * ((size_t)plan->ep + 1) * sizeof(int64_t);
    witan_status_t      status = WITAN_OK;

    if (plan->ep == 1 || (stream->shape.slots && !stream->shape.overflow)) {
        return WITAN_OK;
    }
    if (!stream->shape.slots) {
        WTN_TRY(exchange_counts(plan));
        WTN_TRY(stream->backend->copy(stream->told.base, report->base, report->counts_bytes,
                                      stream->queue));
        return stream->device->event_record(stream->passed, stream->queue);
    }
    if (!is_direct(stream)) {
        return stream->link->allgather(stream->expert, report->pair_token_begin, report->matrix,
                                       bytes, stream->queue);
    }
    for (int32_t p = 0; p < plan->ep; p++) {
        char *window = stream->link->direct_windows(stream->direct)[p];

        WTN_TRY(stream->backend->copy(window + stream->window.matrix + (size_t)plan->me * bytes,
                                      report->pair_token_begin, bytes, stream->queue));
    }

fail:
    return status;
}

/* Exact: where the pieces of one round lie. Sources in ascending order; own tokens are packed, and
 * own rows computed, straight into their places. */
static void make_tables(witan_plan_t *plan, int64_t round)
{
    wtn_stream_t             *stream    = plan->stream;
    const wtn_stream_shape_t *shape     = &stream->shape;
    const wtn_report_t       *told      = &stream->told;
    size_t                    row_bytes = plan->layer->layout.row_bytes;
    wtn_tables_t              tables    = wtn_stream_tables(stream, stream->tables_made, round);
    int64_t                   slot = 0, row = shape->return_count, packed = 0;

    for (int32_t p = 0; p < plan->ep; p++) {
        bool     own  = p == plan->me;
        int64_t  to   = own ? slot : packed;
        char    *base = own ? stream->token_recv : stream->token_send;
        int32_t *meta = own ? stream->meta_recv : stream->meta_send;

        tables.out_tokens[p]    = base + (size_t)to * row_bytes;
        tables.out_meta[p]      = meta + to * shape->meta_words;
        tables.token_begin[p]   = slot;
        tables.token_count[p]   = wtn_stream_source_tokens(stream, p, round);
        tables.row_out_begin[p] = row;
        slot += tables.token_count[p];
        if (own && !shape->reduced) {
            tables.row_out_begin[p] =
                told->pair_row_begin[p] +
                told->round_row_begin[p * ((int64_t)shape->round_count + 1) + round];
        } else {
            row += wtn_stream_source_rows(stream, p, round);
        }
        packed += own ? 0 : wtn_stream_pair_tokens(stream, p, round);
    }
}

/* What peers have told must fit before it is believed. */
static witan_status_t check_counts(const witan_plan_t *plan)
{
    const wtn_stream_t       *stream = plan->stream;
    const wtn_stream_shape_t *shape  = &stream->shape;

    for (int64_t r = 0; r < shape->round_count; r++) {
        int64_t slots = 0;

        for (int32_t s = 0; s < plan->ep; s++) {
            int64_t rows   = wtn_stream_source_rows(stream, s, r);
            int64_t tokens = wtn_stream_source_tokens(stream, s, r);

            slots += tokens;
            if (rows < 0 || rows > tokens * plan->layer->layout.config.topk) {
                return WTN_ERROR(WITAN_E_MISMATCH,
                                 "dispatch: rank %d announces %lld tokens with %lld rows",
                                 (int)plan->expert_peers[s], (long long)tokens, (long long)rows);
            }
        }
        if (slots > shape->token_slots) {
            return WTN_ERROR(WITAN_E_MISMATCH,
                             "dispatch: %lld tokens announced, expected at most "
                             "%lld",
                             (long long)slots, (long long)shape->token_slots);
        }
    }
    return WITAN_OK;
}

witan_status_t wtn_stream_await_counts(witan_plan_t *plan)
{
    wtn_stream_t       *stream = plan->stream;
    const wtn_report_t *told   = &stream->told;
    int64_t             cuts   = (int64_t)stream->shape.round_count + 1;
    int64_t             rounds = 1;
    witan_status_t      status = WITAN_OK;

    if (plan->ep == 1 || stream->shape.slots) {
        return WITAN_OK;
    }
    WTN_TRY(wtn_stream_await(plan, stream->passed, "dispatch: counts"));
    memcpy(told->source_tokens + 2 * plan->me, told->pair_token_begin + plan->me,
           2 * sizeof(int64_t));
    memcpy(told->source_row_begin + plan->me * cuts, told->round_row_begin + plan->me * cuts,
           (size_t)cuts * sizeof(int64_t));
    WTN_TRY(check_counts(plan));
    for (int64_t r = 0; r < stream->shape.round_count; r++) {
        for (int32_t p = 0; p < plan->ep; p++) {
            bool any =
                wtn_stream_pair_tokens(stream, p, r) + wtn_stream_source_tokens(stream, p, r) > 0;

            rounds = any ? r + 1 : rounds;
        }
        make_tables(plan, r);
    }
    plan->round_count = rounds;
    WTN_TRY(stream->backend->copy(stream->tables, stream->tables_made,
                                  (size_t)rounds * stream->table_bytes, stream->queue));

fail:
    return status;
}

/* ---- tokens ---- */

static witan_status_t pack(witan_plan_t *plan, int64_t round)
{
    wtn_stream_t *stream = plan->stream;
    wtn_tables_t  tables =
        wtn_stream_tables(stream, stream->tables, stream->shape.slots ? 0 : round);
    wtn_pack_args_t args = {
        .schedule    = &stream->schedule,
        .hidden      = stream->x,
        .row_bytes   = plan->layer->layout.row_bytes,
        .round       = (int32_t)round,
        .out_tokens  = tables.out_tokens,
        .out_meta    = tables.out_meta,
        .meta_slots  = stream->shape.slots ? stream->shape.round_tokens : 0,
        .sm_reserved = plan->config.sm_reserved,
    };

    return stream->device->pack(&args);
}

/* One direction of an exact exchange: `bytes` of peer p from send[p] and to recv[p]. */
typedef struct lane {
    char  *base;
    size_t unit; /* bytes of an entry */
} lane_t;

static witan_status_t move(wtn_stream_t *stream, bool out, int32_t peer, lane_t lane, int64_t begin,
                           int64_t count)
{
    char  *data  = lane.base + (size_t)begin * lane.unit;
    size_t bytes = (size_t)count * lane.unit;

    if (count == 0) {
        return WITAN_OK;
    }
    return out ? stream->link->send(stream->expert, peer, data, bytes, stream->queue)
               : stream->link->recv(stream->expert, peer, data, bytes, stream->queue);
}

static witan_status_t send_exact(witan_plan_t *plan, int64_t round)
{
    wtn_stream_t  *stream = plan->stream;
    size_t         size   = plan->layer->layout.row_bytes;
    size_t         words  = (size_t)stream->shape.meta_words * sizeof(int32_t);
    lane_t         out[2] = {{stream->token_send, size}, {(char *)stream->meta_send, words}};
    lane_t         in[2]  = {{stream->token_recv, size}, {(char *)stream->meta_recv, words}};
    wtn_tables_t   made   = wtn_stream_tables(stream, stream->tables_made, round);
    int64_t        packed = 0;
    witan_status_t status = stream->link->group_begin(stream->expert), ended;

    for (int32_t p = 0; p < plan->ep && status == WITAN_OK; p++) {
        int64_t count = wtn_stream_pair_tokens(stream, p, round);

        for (int32_t i = 0; i < 2 && p != plan->me && status == WITAN_OK; i++) {
            status = move(stream, true, p, out[i], packed, count);
            if (status == WITAN_OK) {
                status = move(stream, false, p, in[i], made.token_begin[p], made.token_count[p]);
            }
        }
        packed += p == plan->me ? 0 : count;
    }
    ended = stream->link->group_end(stream->expert);
    return status == WITAN_OK ? ended : status;
}

static witan_status_t send_padded(witan_plan_t *plan)
{
    wtn_stream_t  *stream = plan->stream;
    size_t         slots  = (size_t)stream->shape.round_tokens;
    size_t         words  = (size_t)stream->shape.meta_words * sizeof(int32_t);
    witan_status_t status;

    WTN_TRY(stream->link->alltoall(stream->expert, stream->meta_send, stream->meta_recv,
                                   slots * words, stream->queue));
    WTN_TRY(stream->link->alltoall(stream->expert, stream->token_send, stream->token_recv,
                                   slots * plan->layer->layout.row_bytes, stream->queue));

fail:
    return status;
}

/* The counts of all sources, kept before the next signal allows the peers to write anew. */
static witan_status_t keep_matrix(witan_plan_t *plan)
{
    wtn_stream_t *stream = plan->stream;
    size_t        bytes  = 2 * (size_t)(plan->ep * (plan->ep + 1)) * sizeof(int64_t);

    return stream->backend->copy(stream->report.matrix, stream->token_recv + stream->window.matrix,
                                 bytes, stream->queue);
}

/* Told, then heard. */
static witan_status_t meet(wtn_stream_t *stream)
{
    witan_status_t status = stream->link->direct_signal(stream->direct, stream->queue);

    return status == WITAN_OK ? stream->link->direct_wait(stream->direct, stream->queue) : status;
}

static witan_status_t list(witan_plan_t *plan, int64_t round)
{
    wtn_stream_t   *stream = plan->stream;
    bool            slots  = stream->shape.slots;
    wtn_tables_t    tables = wtn_stream_tables(stream, stream->tables, slots ? 0 : round);
    wtn_tables_t    made   = wtn_stream_tables(stream, stream->tables_made, slots ? 0 : round);
    int32_t         last   = plan->ep - 1;
    wtn_list_args_t args   = {
          .meta          = stream->meta_recv,
          .topk          = plan->layer->layout.config.topk,
          .peer_count    = plan->ep,
          .token_slots   = made.token_begin[last] + made.token_count[last],
          .token_begin   = tables.token_begin,
          .token_count   = tables.token_count,
          .row_out_begin = tables.row_out_begin,
          .reduced       = stream->shape.reduced,
          .row_expert    = stream->row_expert,
          .row_in        = stream->row_in,
          .row_out       = stream->row_out,
          .reduce_index  = stream->reduce_index,
          .reduce_weight = stream->reduce_weight,
          .stream        = stream->queue,
    };

    return args.token_slots == 0 ? WITAN_OK : stream->device->list(&args);
}

witan_status_t wtn_stream_send(witan_plan_t *plan, int64_t round)
{
    wtn_stream_t  *stream = plan->stream;
    witan_status_t status = WITAN_OK;

    if (plan->ep == 1) {
        return WITAN_OK;
    }
    WTN_TRY(pack(plan, round));
    WTN_TRY(is_direct(stream)     ? meet(stream)
            : stream->shape.slots ? send_padded(plan)
                                  : send_exact(plan, round));
    if (is_direct(stream) && stream->shape.overflow && round == 0) {
        WTN_TRY(keep_matrix(plan));
    }
    WTN_TRY(list(plan, round));

fail:
    return status;
}

/* ---- rows ---- */

static witan_status_t return_exact(witan_plan_t *plan, int64_t round)
{
    wtn_stream_t             *stream = plan->stream;
    const wtn_stream_shape_t *shape  = &stream->shape;
    const wtn_report_t       *told   = &stream->told;
    size_t                    size   = plan->layer->layout.row_bytes;
    wtn_tables_t              made   = wtn_stream_tables(stream, stream->tables_made, round);
    int64_t                   cuts   = (int64_t)shape->round_count + 1;
    lane_t                    from   = {shape->reduced ? stream->partial_rows : stream->rows, size};
    witan_status_t            status = stream->link->group_begin(stream->expert), ended;

    for (int32_t p = 0; p < plan->ep && status == WITAN_OK; p++) {
        int64_t begin = shape->reduced ? made.token_begin[p] : made.row_out_begin[p];
        int64_t count =
            shape->reduced ? made.token_count[p] : wtn_stream_source_rows(stream, p, round);
        int64_t place = shape->reduced
                            ? told->pair_token_begin[p] + round * shape->round_tokens
                            : told->pair_row_begin[p] + told->round_row_begin[p * cuts + round];

        if (p == plan->me) {
            continue;
        }
        status = move(stream, true, p, from, begin, count);
        if (status == WITAN_OK) {
            status = move(stream, false, p, (lane_t){stream->rows, size}, place,
                          wtn_stream_pair_rows(stream, p, round));
        }
    }
    ended = stream->link->group_end(stream->expert);
    return status == WITAN_OK ? ended : status;
}

static witan_status_t return_padded(witan_plan_t *plan, int64_t round)
{
    wtn_stream_t             *stream   = plan->stream;
    const wtn_stream_shape_t *shape    = &stream->shape;
    size_t                    size     = plan->layer->layout.row_bytes;
    const char               *computed = stream->rows + (size_t)shape->return_count * size;
    char *to = stream->rows + (size_t)(round * plan->ep * shape->pair_rows) * size;

    return stream->link->alltoall(stream->expert, shape->reduced ? stream->partial_rows : computed,
                                  to, (size_t)shape->pair_rows * size, stream->queue);
}

static witan_status_t return_direct(witan_plan_t *plan, int64_t round)
{
    wtn_stream_t             *stream = plan->stream;
    const wtn_stream_shape_t *shape  = &stream->shape;
    int64_t                   place  = (round * plan->ep + plan->me) * shape->pair_rows;
    size_t                    size   = plan->layer->layout.row_bytes;
    wtn_push_args_t           args   = {
                    .rows          = shape->reduced ? stream->partial_rows : stream->rows,
                    .row_bytes     = size,
                    .row_expert    = stream->row_expert,
                    .expert_stride = shape->reduced ? plan->layer->layout.config.topk : 1,
                    .row_index     = shape->reduced ? NULL : stream->row_out,
                    .entry_count   = shape->pair_rows,
                    .peer_count    = plan->ep,
                    .to            = stream->link->direct_windows_device(stream->direct),
                    .offset        = stream->window.rows + (size_t)place * size,
                    .sm_reserved   = plan->config.sm_reserved,
                    .stream        = stream->queue,
    };
    witan_status_t status = stream->device->push(&args);

    return status == WITAN_OK ? meet(stream) : status;
}

witan_status_t wtn_stream_return(witan_plan_t *plan, int64_t round)
{
    wtn_stream_t *stream = plan->stream;

    if (plan->ep == 1) {
        return WITAN_OK;
    }
    return is_direct(stream)     ? return_direct(plan, round)
           : stream->shape.slots ? return_padded(plan, round)
                                 : return_exact(plan, round);
}

/* ---- the tensor group ---- */

witan_status_t wtn_stream_gather(witan_plan_t *plan, const void *hidden)
{
    wtn_stream_t  *stream = plan->stream;
    size_t         routed = (size_t)(plan->token_count * plan->layer->layout.config.topk);
    size_t         own    = (size_t)stream->shape.mine * routed;
    size_t         bytes  = (size_t)plan->token_count * plan->layer->layout.row_bytes;
    witan_status_t status = WITAN_OK;

    stream->x      = hidden;
    stream->tokens = plan->token_count;
    if (!stream->shape.scatter) {
        return WITAN_OK;
    }
    stream->x      = stream->hidden;
    stream->tokens = plan->token_count * plan->tp;
    if (bytes == 0) {
        return WITAN_OK;
    }
    WTN_TRY(stream->link->allgather(stream->tensor, hidden, stream->hidden, bytes, stream->queue));
    WTN_TRY(stream->link->allgather(stream->tensor, stream->ids + own, stream->ids,
                                    routed * sizeof(int32_t), stream->queue));
    WTN_TRY(stream->link->allgather(stream->tensor, stream->weights + own, stream->weights,
                                    routed * sizeof(float), stream->queue));

fail:
    return status;
}

witan_status_t wtn_stream_reduce(witan_plan_t *plan, void *output)
{
    wtn_stream_t     *stream = plan->stream;
    int64_t           count  = plan->token_count * plan->layer->layout.config.hidden_size;
    float            *sums   = stream->partial;
    const float      *part;
    wtn_reduce_args_t args = {
        .parts      = &part,
        .part_count = 1,
        .count      = count,
        .out_dtype  = plan->layer->layout.config.dtype,
        .out        = output,
        .stream     = stream->queue,
    };
    witan_status_t status = WITAN_OK;

    if (count == 0) {
        return WITAN_OK;
    }
    part = stream->shape.scatter ? sums + stream->shape.mine * count : sums;
    if (stream->shape.scatter) {
        WTN_TRY(stream->link->reduce_scatter(stream->tensor, sums,
                                             sums + stream->shape.mine * count, count,
                                             stream->queue));
    } else {
        WTN_TRY(stream->link->allreduce(stream->tensor, sums, sums, count, stream->queue));
    }
    WTN_TRY(stream->backend->reduce(&args));

fail:
    return status;
}

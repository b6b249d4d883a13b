/* All-reduce over a tensor group: each rank sums one part in rank order, then all gather the parts.
 */
#include "comm/comm.h"
#include "core/error.h"
#include "core/util.h"
#include "kernels/backend.h"

typedef struct span {
    int64_t begin, count;
} span_t;

static span_t part(int64_t count, int32_t peer_count, int32_t index)
{
    int64_t begin = wtn_part_begin(count, peer_count, index);

    return (span_t){begin, wtn_part_begin(count, peer_count, index + 1) - begin};
}

/* Room for every rank's copy of one part, and the table of their addresses. */
size_t wtn_allreduce_bytes(int64_t count, int32_t peer_count)
{
    wtn_carver_t carver = {0};

    (void)wtn_carve(&carver, (size_t)peer_count, sizeof(const float *));
    (void)wtn_carve(&carver, (size_t)peer_count * (size_t)wtn_ceil_div(count, peer_count),
                    sizeof(float));
    return carver.bytes;
}

int64_t wtn_allreduce_send_bytes(const wtn_allreduce_args_t *args)
{
    int64_t mine = part(args->count, args->peer_count, args->mine).count;

    return (args->count - mine) * (int64_t)sizeof(float) +
           (args->peer_count - 1) * mine * (int64_t)witan_dtype_bytes(args->out_dtype);
}

static witan_status_t scatter(wtn_comm_t *comm, const wtn_allreduce_args_t *args,
                              const float **parts, float *received)
{
    span_t         mine = part(args->count, args->peer_count, args->mine);
    witan_status_t status;

    for (int32_t i = 0; i < args->peer_count; i++) {
        span_t         theirs = part(args->count, args->peer_count, i);
        wtn_request_t *pair   = args->requests + 2 * i;

        if (i == args->mine) {
            parts[i] = args->partial + mine.begin;
            continue;
        }
        parts[i] = received + (int64_t)i * wtn_ceil_div(args->count, args->peer_count);
        WTN_TRY(wtn_recv_post(comm, pair, args->peers[i], args->channel, WTN_TAG_REDUCE,
                              (void *)(uintptr_t)parts[i], (size_t)mine.count * sizeof(float),
                              true));
        WTN_TRY(wtn_send_post(comm, pair + 1, args->peers[i], args->channel, WTN_TAG_REDUCE,
                              args->partial + theirs.begin, (size_t)theirs.count * sizeof(float)));
    }
    WTN_TRY(wtn_wait(comm, args->requests, 2 * (size_t)args->peer_count, "reduce",
                     wtn_deadline(comm), args->watch));

fail:
    return status;
}

static witan_status_t gather(wtn_comm_t *comm, const wtn_allreduce_args_t *args)
{
    size_t         size = witan_dtype_bytes(args->out_dtype);
    char          *out  = args->out;
    span_t         mine = part(args->count, args->peer_count, args->mine);
    witan_status_t status;

    for (int32_t i = 0; i < args->peer_count; i++) {
        span_t         theirs = part(args->count, args->peer_count, i);
        wtn_request_t *pair   = args->requests + 2 * i;

        if (i == args->mine) {
            continue;
        }
        WTN_TRY(wtn_recv_post(comm, pair, args->peers[i], args->channel, WTN_TAG_REDUCE,
                              out + (size_t)theirs.begin * size, (size_t)theirs.count * size,
                              true));
        WTN_TRY(wtn_send_post(comm, pair + 1, args->peers[i], args->channel, WTN_TAG_REDUCE,
                              out + (size_t)mine.begin * size, (size_t)mine.count * size));
    }
    WTN_TRY(wtn_wait(comm, args->requests, 2 * (size_t)args->peer_count, "reduce",
                     wtn_deadline(comm), args->watch));

fail:
    return status;
}

witan_status_t wtn_allreduce(wtn_comm_t *comm, const wtn_allreduce_args_t *args)
{
    wtn_carver_t  carver = {.base = args->scratch};
    const float **parts  = wtn_carve(&carver, (size_t)args->peer_count, sizeof(*parts));
    float        *received =
        wtn_carve(&carver,
                  (size_t)args->peer_count * (size_t)wtn_ceil_div(args->count, args->peer_count),
                  sizeof(float));
    span_t            mine   = part(args->count, args->peer_count, args->mine);
    wtn_reduce_args_t reduce = {
        .part_count   = args->peer_count,
        .count        = mine.count,
        .out_dtype    = args->out_dtype,
        .out          = (char *)args->out + (size_t)mine.begin * witan_dtype_bytes(args->out_dtype),
        .thread_count = args->thread_count,
    };
    witan_status_t status;

    WTN_TRY(scatter(comm, args, parts, received));
    reduce.parts = parts;
    args->reduce(&reduce);
    WTN_TRY(gather(comm, args));

fail:
    return status;
}

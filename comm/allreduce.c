/* All-reduce over a tensor group: each rank sums one part in rank order, then all gather the parts.
 */
#include <string.h>

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
                              const float **parts, float *slots)
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
        parts[i] = slots + i * wtn_ceil_div(args->count, args->peer_count);
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

/* Own part and the others' travel from and to `slots`, never the caller's memory: a late peer may
 * reach what a failed sum leaves behind. */
static witan_status_t gather(wtn_comm_t *comm, const wtn_allreduce_args_t *args, float *slots)
{
    int64_t        slot = wtn_ceil_div(args->count, args->peer_count);
    size_t         size = witan_dtype_bytes(args->out_dtype);
    span_t         mine = part(args->count, args->peer_count, args->mine);
    witan_status_t status;

    for (int32_t i = 0; i < args->peer_count; i++) {
        span_t         theirs = part(args->count, args->peer_count, i);
        wtn_request_t *pair   = args->requests + 2 * i;

        if (i == args->mine) {
            continue;
        }
        WTN_TRY(wtn_recv_post(comm, pair, args->peers[i], args->channel, WTN_TAG_REDUCE,
                              slots + i * slot, (size_t)theirs.count * size, true));
        WTN_TRY(wtn_send_post(comm, pair + 1, args->peers[i], args->channel, WTN_TAG_REDUCE,
                              slots + args->mine * slot, (size_t)mine.count * size));
    }
    WTN_TRY(wtn_wait(comm, args->requests, 2 * (size_t)args->peer_count, "reduce",
                     wtn_deadline(comm), args->watch));
    for (int32_t i = 0; i < args->peer_count; i++) {
        span_t from = part(args->count, args->peer_count, i);

        if (from.count > 0) {
            memcpy((char *)args->out + (size_t)from.begin * size, slots + i * slot,
                   (size_t)from.count * size);
        }
    }

fail:
    return status;
}

witan_status_t wtn_allreduce(wtn_comm_t *comm, const wtn_allreduce_args_t *args)
{
    wtn_carver_t  carver = {.base = args->scratch};
    const float **parts  = wtn_carve(&carver, (size_t)args->peer_count, sizeof(*parts));
    int64_t       slot   = wtn_ceil_div(args->count, args->peer_count);
    float *slots = wtn_carve(&carver, (size_t)args->peer_count * (size_t)slot, sizeof(float));
    wtn_reduce_args_t reduce = {
        .part_count   = args->peer_count,
        .count        = part(args->count, args->peer_count, args->mine).count,
        .out_dtype    = args->out_dtype,
        .out          = slots + args->mine * slot, /* free: nobody sends us our own part */
        .thread_count = args->thread_count,
    };
    witan_status_t status;

    WTN_TRY(scatter(comm, args, parts, slots));
    reduce.parts = parts;
    WTN_TRY(args->reduce(&reduce));
    WTN_TRY(gather(comm, args, slots));

fail:
    return status;
}

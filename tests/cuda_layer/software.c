#include "software.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/link.h"
#include "kernels/device.h"

int device_count(void)
{
    return 1;
}

/* ---- streams ---- */

static witan_status_t use(int32_t device, int32_t local_rank, int32_t *taken)
{
    (void)local_rank;
    *taken = device < 0 ? 0 : device;
    return WITAN_OK;
}

static int range_depth;

static void range_begin(const char *name)
{
    ck_assert_ptr_nonnull(name);
    ck_assert_int_eq(range_depth++, 0); /* every range ends, and before the next */
}

static void range_end(void)
{
    ck_assert_int_eq(--range_depth, 0);
}

static witan_status_t make(void **out)
{
    *out = malloc(1);
    return WITAN_OK;
}

static witan_status_t stream_query(void *stream, bool *passed)
{
    (void)stream;
    *passed = true;
    return WITAN_OK;
}

static witan_status_t is_capturing(void *stream, bool *capturing)
{
    (void)stream;
    *capturing = false;
    return WITAN_OK;
}

static witan_status_t event_record(void *event, void *stream)
{
    ck_assert(event != NULL && stream != NULL);
    return WITAN_OK;
}

static witan_status_t event_elapsed(void *begin, void *end, int64_t *ns)
{
    (void)begin;
    (void)end;
    *ns = 1;
    return WITAN_OK;
}

static witan_status_t fill(void *memory, int byte, size_t bytes, void *stream)
{
    (void)stream;
    memset(memory, byte, bytes);
    return WITAN_OK;
}

/* ---- the exchange: messages of the host ---- */

#define REQUESTS_MAX 256

struct wtn_nccl {
    wtn_comm_t   *comm;
    int32_t       peers[16], peer_count, mine, channel;
    wtn_request_t requests[REQUESTS_MAX];
    size_t        request_count;
    int32_t       group_depth;
};

static witan_status_t link_open(wtn_nccl_t **out, wtn_comm_t *comm, const wtn_nccl_config_t *config)
{
    wtn_nccl_t *nccl = calloc(1, sizeof(*nccl));

    nccl->comm       = comm;
    nccl->peer_count = config->peer_count;
    nccl->channel    = comm->channel_next++;
    for (int32_t i = 0; i < config->peer_count; i++) {
        nccl->peers[i] = config->peers[i];
        nccl->mine     = config->peers[i] == comm->rank ? i : nccl->mine;
    }
    *out = nccl;
    return WITAN_OK;
}

static void link_close(wtn_nccl_t *nccl)
{
    free(nccl);
}

static witan_status_t group_begin(wtn_nccl_t *nccl)
{
    ck_assert_int_eq(nccl->group_depth++, 0);
    nccl->request_count = 0;
    return WITAN_OK;
}

static witan_status_t link_send(wtn_nccl_t *nccl, int32_t peer, const void *data, size_t bytes,
                                void *stream)
{
    ck_assert(nccl->group_depth == 1 && peer != nccl->mine && stream != NULL && bytes > 0);
    ck_assert_uint_lt(nccl->request_count, REQUESTS_MAX);
    return wtn_send_post(nccl->comm, &nccl->requests[nccl->request_count++], nccl->peers[peer],
                         nccl->channel, WTN_TAG_TOKENS, data, bytes);
}

static witan_status_t link_recv(wtn_nccl_t *nccl, int32_t peer, void *data, size_t bytes,
                                void *stream)
{
    ck_assert(nccl->group_depth == 1 && peer != nccl->mine && stream != NULL && bytes > 0);
    ck_assert_uint_lt(nccl->request_count, REQUESTS_MAX);
    return wtn_recv_post(nccl->comm, &nccl->requests[nccl->request_count++], nccl->peers[peer],
                         nccl->channel, WTN_TAG_TOKENS, data, bytes, true);
}

static witan_status_t group_end(wtn_nccl_t *nccl)
{
    nccl->group_depth--;
    return wtn_wait(nccl->comm, nccl->requests, nccl->request_count, "software",
                    wtn_deadline(nccl->comm), NULL);
}

/* Block i of `from` to peer i and its block into block i of `to`; `spread`: the same to all. */
static witan_status_t blocks(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                             bool spread, void *stream)
{
    witan_status_t status = group_begin(nccl);

    for (int32_t p = 0; p < nccl->peer_count && status == WITAN_OK; p++) {
        const char *block = (const char *)from + (spread ? 0 : (size_t)p * bytes);
        char       *place = (char *)to + (size_t)p * bytes;

        if (p == nccl->mine) {
            memmove(place, block, bytes);
            continue;
        }
        status = link_send(nccl, p, block, bytes, stream);
        if (status == WITAN_OK) {
            status = link_recv(nccl, p, place, bytes, stream);
        }
    }
    return status == WITAN_OK ? group_end(nccl) : status;
}

static witan_status_t alltoall(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                               void *stream)
{
    return blocks(nccl, from, to, bytes, false, stream);
}

static witan_status_t allgather(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                                void *stream)
{
    return blocks(nccl, from, to, bytes, true, stream);
}

static witan_status_t sum_parts(wtn_nccl_t *nccl, const float *from, float *to, int64_t count,
                                bool scatter, void *stream)
{
    size_t         n = (size_t)count, block = (size_t)nccl->peer_count * n;
    float         *parts  = malloc(block * sizeof(*parts));
    witan_status_t status = blocks(nccl, from, parts, n * sizeof(*parts), !scatter, stream);

    for (size_t i = 0; i < n && status == WITAN_OK; i++) {
        float sum = 0.0f;

        for (size_t p = 0; p < (size_t)nccl->peer_count; p++) {
            sum += parts[p * n + i];
        }
        to[i] = sum;
    }
    free(parts);
    return status;
}

static witan_status_t allreduce(wtn_nccl_t *nccl, const float *from, float *to, int64_t count,
                                void *stream)
{
    return sum_parts(nccl, from, to, count, false, stream);
}

static witan_status_t reduce_scatter(wtn_nccl_t *nccl, const float *from, float *to, int64_t count,
                                     void *stream)
{
    return sum_parts(nccl, from, to, count, true, stream);
}

static witan_status_t check(wtn_nccl_t *nccl)
{
    (void)nccl;
    return WITAN_OK;
}

static void watch(wtn_nccl_t *nccl, wtn_roll_t *roll, wtn_watch_t *of)
{
    (void)nccl;
    (void)roll;
    (void)of;
}

static witan_status_t wait(const wtn_nccl_wait_args_t *args)
{
    ck_assert_ptr_nonnull(args->event);
    return WITAN_OK;
}

static witan_status_t roll_open(wtn_roll_t **out, wtn_comm_t *comm, int32_t channel,
                                const int32_t *peers, int32_t peer_count)
{
    (void)comm;
    (void)channel;
    (void)peers;
    (void)peer_count;
    *out = NULL;
    return WITAN_OK;
}

static void roll_close(wtn_roll_t *roll)
{
    (void)roll;
}

static void direct_close(wtn_direct_t *direct)
{
    (void)direct;
}

static const wtn_link_t link = {
    .name           = "nccl", /* stands for it */
    .open           = link_open,
    .close          = link_close,
    .group_begin    = group_begin,
    .send           = link_send,
    .recv           = link_recv,
    .group_end      = group_end,
    .alltoall       = alltoall,
    .allreduce      = allreduce,
    .allgather      = allgather,
    .reduce_scatter = reduce_scatter,
    .check          = check,
    .watch          = watch,
    .wait           = wait,
    .roll_open      = roll_open,
    .roll_close     = roll_close,
    .direct_close   = direct_close,
};

static int32_t multiprocessors(void)
{
    return 1;
}

static size_t schedule_workspace_bytes(int64_t token_count_max, int32_t expert_count, int32_t topk,
                                       int32_t peer_count)
{
    (void)token_count_max;
    (void)expert_count;
    (void)topk;
    return 8 * ((size_t)peer_count + 1) * sizeof(int64_t) + 1024;
}

static const wtn_device_t device = {
    .link                     = &link,
    .use                      = use,
    .multiprocessors          = multiprocessors,
    .range_begin              = range_begin,
    .range_end                = range_end,
    .stream_create            = make,
    .stream_destroy           = free,
    .stream_query             = stream_query,
    .stream_is_capturing      = is_capturing,
    .event_create             = make,
    .event_destroy            = free,
    .event_record             = event_record,
    .event_wait               = event_record,
    .event_elapsed            = event_elapsed,
    .fill                     = fill,
    .schedule_workspace_bytes = schedule_workspace_bytes,
    .schedule                 = wtn_schedule_ref,
    .pack                     = wtn_pack_ref,
    .list                     = wtn_list_ref,
    .local                    = wtn_local_ref,
    .ids                      = wtn_ids_ref,
    .slots                    = wtn_slots_ref,
    .push                     = wtn_push_ref,
};

/* ---- experts: the host's, which know no absent rows ---- */

static witan_status_t ffn_run(const wtn_ffn_t *ffn, wtn_ffn_args_t *args)
{
    size_t         count   = (size_t)args->row_count;
    int32_t       *experts = calloc(count + 1, sizeof(*experts));
    int64_t       *in = calloc(count + 1, sizeof(*in)), *out = calloc(count + 1, sizeof(*out));
    wtn_ffn_args_t some = *args;
    witan_status_t status;

    some.row_count  = 0;
    some.row_expert = experts;
    some.row_in     = in;
    some.row_out    = out;
    for (size_t i = 0; i < count; i++) {
        if (args->row_expert == NULL || args->row_expert[i] >= 0) {
            experts[some.row_count] = args->row_expert == NULL ? 0 : args->row_expert[i];
            in[some.row_count]      = args->row_in == NULL ? (int64_t)i : args->row_in[i];
            out[some.row_count++]   = args->row_out == NULL ? (int64_t)i : args->row_out[i];
        }
    }
    status               = wtn_backend_host.ffn_run(ffn, &some);
    args->executor_taken = some.executor_taken;
    free(experts);
    free(in);
    free(out);
    return status;
}

void software_take(witan_layer_t *layer)
{
    static wtn_backend_t   backend;
    const wtn_placement_t *placement = &layer->layout.placement;
    size_t                 bytes     = (size_t)placement->slot_count * sizeof(int32_t);
    size_t                 begins    = ((size_t)placement->expert_count + 1) * sizeof(int32_t);

    backend               = wtn_backend_host;
    backend.name          = "software";
    backend.ffn_run       = ffn_run;
    backend.device        = &device;
    layer->layout.backend = &backend;
    layer->owner          = wtn_alloc(bytes);
    layer->local          = wtn_alloc(bytes);
    wtn_placement_replicas(placement, layer->owner, layer->local);
    if (placement->slot_count > placement->expert_count) {
        layer->replica_begin = wtn_alloc(begins);
        memcpy(layer->replica_begin, placement->replica_begin, begins);
    }
}

/* Opening an NCCL communicator: what would hang or mislead is found by messages of the hosts first.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "comm/nccl_internal_cuda.h"
#include "comm/place_cuda.h"
#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/cuda.h"

/* What each rank tells before NCCL is called. */
typedef struct ticket {
    int32_t      version; /* loaded; 0: needs none */
    ncclUniqueId id;      /* made by the first of a list */
} ticket_t;

static witan_status_t make(wtn_nccl_t **out, wtn_comm_t *comm, const wtn_nccl_config_t *config)
{
    wtn_nccl_t    *nccl = calloc(1, sizeof(*nccl));
    witan_status_t status;

    if (nccl == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "nccl: %zu bytes", sizeof(*nccl));
    }
    *out             = nccl;
    nccl->comm       = comm;
    nccl->name       = config->name;
    nccl->peer_count = config->peer_count;
    WTN_TRY(wtn_peers_check(comm, "nccl", config->peers, config->peer_count, &nccl->mine));
    if (config->ctas_max < 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "nccl: ctas_max: expected >= 0, found %" PRId32,
                         config->ctas_max);
    }
    nccl->peers = calloc((size_t)config->peer_count, sizeof(*nccl->peers));
    if (nccl->peers == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "nccl: %" PRId32 " peers", config->peer_count);
    }
    memcpy(nccl->peers, config->peers, (size_t)config->peer_count * sizeof(*nccl->peers));
    WTN_CUDA_TRY(cudaGetDevice(&nccl->device));

fail:
    return status;
}

/* Two peers on one GPU: NCCL would refuse them on some ranks and leave the others waiting.
 * *shared: this rank's list has such a pair; *one_node: all its peers are on one node. */
static witan_status_t check_places(const wtn_nccl_t *nccl, const wtn_place_t *places,
                                   bool share_device, bool *shared, bool *one_node)
{
    *shared   = false;
    *one_node = true;
    for (int32_t j = 0; j < nccl->peer_count; j++) {
        const wtn_place_t *later = &places[nccl->peers[j]];

        *one_node &= strcmp(later->node, places[nccl->peers[0]].node) == 0;
        for (int32_t i = 0; i < j; i++) {
            if (memcmp(&places[nccl->peers[i]], later, sizeof(*later)) != 0) {
                continue;
            }
            *shared = true;
            if (!share_device) {
                return WTN_ERROR(WITAN_E_UNSUPPORTED,
                                 "nccl %s: expected a GPU for each rank, found ranks %" PRId32
                                 " and %" PRId32 " on GPU %s of %.64s",
                                 nccl->name, nccl->peers[i], nccl->peers[j], later->gpu,
                                 later->node);
            }
        }
    }
    return WITAN_OK;
}

/* NCCL refuses equal (host, GPU) pairs, and takes the host's name from its environment: each rank
 * becomes a host of its own, reached over loopback, and takes few SMs of the one GPU. Read by NCCL
 * once, when it is loaded; what the user has set stands. */
static witan_status_t pose_as_hosts(const wtn_nccl_t *nccl, bool one_node)
{
    char        host[32];
    const char *settings[][2] = {
        {"NCCL_HOSTID", host},        {"NCCL_NET", "Socket"},    {"NCCL_MNNVL_ENABLE", "0"},
        {"NCCL_P2P_DISABLE", "1"},    {"NCCL_SHM_DISABLE", "1"}, {"NCCL_MAX_CTAS", "2"},
        {"NCCL_SOCKET_IFNAME", "lo"},
    };
    size_t count = WTN_COUNT_OF(settings) - (one_node ? 0 : 1);

    (void)snprintf(host, sizeof(host), "witan-%" PRId32, nccl->comm->rank);
    for (size_t i = 0; i < count; i++) {
        if (setenv(settings[i][0], settings[i][1], 0) != 0) {
            return WTN_ERROR(WITAN_E_MEMORY, "nccl: environment variable %s", settings[i][0]);
        }
    }
    return WITAN_OK;
}

static witan_status_t meet_places(wtn_nccl_t *nccl, bool share_device)
{
    bool           shared = false, one_node = false;
    wtn_place_t    mine;
    wtn_place_t   *places = calloc((size_t)nccl->comm->size, sizeof(*places));
    witan_status_t status = wtn_place_find(&mine);

    if (places == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "nccl: %" PRId32 " places", nccl->comm->size);
    }
    WTN_TRY(wtn_agree(nccl->comm, "nccl", status, NULL, 0));
    WTN_TRY(wtn_allgather(nccl->comm, &mine, sizeof(mine), places, "nccl"));
    status = check_places(nccl, places, share_device, &shared, &one_node);
    if (status == WITAN_OK && shared) {
        status = pose_as_hosts(nccl, one_node);
    }

fail:
    free(places);
    return status;
}

/* The communicator's thread, and what it works at. */
static witan_status_t make_job(wtn_nccl_t *nccl, int32_t ctas_max)
{
    int64_t         capacity = 8 * (int64_t)nccl->peer_count;
    wtn_nccl_job_t *job      = calloc(1, sizeof(*job));
    wtn_nccl_op_t  *ops      = calloc((size_t)capacity, sizeof(*ops));
    witan_status_t  status;

    if (job == NULL || ops == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "nccl %s: %" PRId64 " exchanges", nccl->name, capacity);
        goto fail;
    }
    WTN_TRY(wtn_caller_open(&nccl->caller));
    *job      = (wtn_nccl_job_t){.library     = nccl->library,
                                 .peer_count  = nccl->peer_count,
                                 .mine        = nccl->mine,
                                 .device      = nccl->device,
                                 .ctas_max    = ctas_max,
                                 .ops         = ops,
                                 .op_capacity = capacity};
    nccl->job = job;
    return WITAN_OK;

fail:
    free(ops);
    free(job);
    return status;
}

static witan_status_t make_ticket(wtn_nccl_t *nccl, int32_t ctas_max, ticket_t *ticket)
{
    const wtn_nccl_library_t *library;
    witan_status_t            status;

    memset(ticket, 0, sizeof(*ticket));
    if (nccl->peer_count == 1) {
        return WITAN_OK;
    }
    WTN_TRY(wtn_nccl_library(&library));
    nccl->library   = library;
    ticket->version = wtn_nccl_version_loaded();
    WTN_TRY(make_job(nccl, ctas_max));
    if (nccl->mine == 0) {
        WTN_TRY(wtn_nccl_status(nccl, library->GetUniqueId(&ticket->id), "ncclGetUniqueId"));
    }

fail:
    return status;
}

static witan_status_t check_tickets(const wtn_nccl_t *nccl, const ticket_t *tickets)
{
    for (int32_t i = 1; i < nccl->peer_count; i++) {
        if (tickets[nccl->peers[i]].version != tickets[nccl->peers[0]].version) {
            return WTN_ERROR(WITAN_E_MISMATCH,
                             "nccl %s: library version: %" PRId32 " on rank %" PRId32 ", %" PRId32
                             " on rank %" PRId32,
                             nccl->name, tickets[nccl->peers[0]].version, nccl->peers[0],
                             tickets[nccl->peers[i]].version, nccl->peers[i]);
        }
    }
    return WITAN_OK;
}

/* ---- on the communicator's thread ---- */

static int meet_on_thread(void *argument)
{
    wtn_nccl_job_t *job    = argument;
    ncclConfig_t    config = NCCL_CONFIG_INITIALIZER;

    config.blocking = 0;
    config.minCTAs  = 1;
    config.maxCTAs  = 1;
    (void)cudaSetDevice(job->device);
    return (int)job->library->CommInitRankConfig(&job->made, job->peer_count, job->id, job->mine,
                                                 &config);
}

static int split_on_thread(void *argument)
{
    wtn_nccl_job_t *job    = argument;
    ncclConfig_t    config = NCCL_CONFIG_INITIALIZER;

    config.blocking = 1;
    if (job->ctas_max > 0) {
        config.minCTAs = 1;
        config.maxCTAs = job->ctas_max;
    }
    (void)cudaSetDevice(job->device);
    return (int)job->library->CommSplit(job->handle, 0, job->mine, &job->made, &config);
}

/* NCCL's own meeting of the peers. Only that of a communicator that does not block can be aborted;
 * exchanges want one that blocks (nccl_call_cuda.c). So a small one of the first kind is made, and
 * from it the other. */
static witan_status_t meet_peers(wtn_nccl_t *nccl)
{
    wtn_nccl_job_t *job = nccl->job;
    witan_status_t  status;

    WTN_TRY(wtn_nccl_call(nccl, meet_on_thread, "ncclCommInitRankConfig"));
    WTN_TRY(wtn_nccl_call(nccl, split_on_thread, "ncclCommSplit"));
    nccl->first    = job->handle;
    job->handle    = job->made;
    nccl->blocking = true;

fail:
    return status;
}

/* A roll and a watch over this communicator's peers while it opens. */
static witan_status_t open_guards(wtn_nccl_t *nccl)
{
    wtn_comm_t    *comm = nccl->comm;
    int32_t        channel;
    witan_status_t status;

    WTN_TRY(wtn_take_channel(comm, "nccl", &channel));
    WTN_TRY(wtn_roll_open(&nccl->roll, comm, channel, nccl->peers, nccl->peer_count));
    WTN_TRY(wtn_watch_open(&nccl->watch, comm, channel, nccl->peers, nccl->peer_count));

fail:
    return status;
}

static witan_status_t meet(wtn_nccl_t *nccl, const wtn_nccl_config_t *config)
{
    ticket_t       mine;
    ticket_t      *tickets = calloc((size_t)nccl->comm->size, sizeof(*tickets));
    witan_status_t status;

    status = make_ticket(nccl, config->ctas_max, &mine);
    if (tickets == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "nccl: %" PRId32 " tickets", nccl->comm->size);
    }
    WTN_TRY(wtn_agree(nccl->comm, "nccl", status, NULL, 0));
    WTN_TRY(wtn_allgather(nccl->comm, &mine, sizeof(mine), tickets, "nccl"));
    status = check_tickets(nccl, tickets);
    WTN_TRY(wtn_agree(nccl->comm, "nccl", status, NULL, 0));
    if (nccl->peer_count > 1) {
        nccl->job->id = tickets[nccl->peers[0]].id;
        status        = meet_peers(nccl);
        if (status != WITAN_OK && status != WITAN_E_TIMEOUT && status != WITAN_E_PEER) {
            wtn_watch_raise(nccl->watch, status);
        }
        if (status == WITAN_E_TIMEOUT) {
            goto fail; /* who is missing would be waited for once more */
        }
    }
    WTN_TRY(wtn_agree(nccl->comm, "nccl", status, NULL, 0));
    if (nccl->first != NULL) {
        wtn_nccl_end(nccl, nccl->first, nccl->library->CommDestroy);
        nccl->first = NULL;
    }

fail:
    free(tickets);
    return status;
}

witan_status_t wtn_nccl_open(wtn_nccl_t **out, wtn_comm_t *comm, const wtn_nccl_config_t *config)
{
    wtn_nccl_t    *nccl = NULL;
    wtn_field_t    fields[2];
    witan_status_t status = make(&nccl, comm, config);

    *out = NULL;
    wtn_field_set(&fields[0], "ctas_max", "%" PRId32, config->ctas_max);
    wtn_field_set(&fields[1], "share_device", "%s", config->share_device ? "true" : "false");
    WTN_TRY(wtn_agree(comm, "nccl", status, fields, WTN_COUNT_OF(fields)));
    status = meet_places(nccl, config->share_device);
    WTN_TRY(wtn_agree(comm, "nccl", status, NULL, 0));
    status = wtn_agree(comm, "nccl", open_guards(nccl), NULL, 0);
    if (status == WITAN_OK) {
        status = meet(nccl, config);
    }
    wtn_roll_close(nccl->roll);
    wtn_watch_close(nccl->watch);
    nccl->roll  = NULL;
    nccl->watch = NULL;
    WTN_TRY(status);
    *out = nccl;
    return WITAN_OK;

fail:
    wtn_nccl_abort(nccl);
    wtn_nccl_close(nccl);
    return status;
}

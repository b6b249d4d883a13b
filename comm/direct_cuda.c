/* Windows by CUDA's inter-process memory: allocation, mapping, and the host's side of the flags. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "comm/direct.h"
#include "comm/direct_kernel.h"
#include "comm/place_cuda.h"
#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/cuda.h"

/* A handle shares whole pages of this size: nothing else of ours shall lie there. */
#define PAGE_BYTES       ((size_t)2 << 20)
#define WINDOW_ALIGNMENT 256u

/* What each rank tells the others. */
typedef struct card {
    wtn_place_t        place;
    cudaIpcMemHandle_t handle;
} card_t;

struct wtn_direct {
    wtn_comm_t *comm;
    const char *name;
    int32_t     channel; /* for the close */
    int32_t     peer_count, mine;
    int32_t    *peers;      /* [peer_count] ranks */
    size_t      head_bytes; /* of the flags before each window; equal on all peers */
    void      **mapped;     /* [peer_count] allocations of the peers; [mine]: the own one */
    void      **windows;    /* [peer_count] */
    char       *device;     /* windows [peer_count], flags of peers [peer_count], two counters */
    uint64_t   *pinned;     /* faults [peer_count], stop */
    wtn_direct_params_t signal, wait;
};

void *const *wtn_direct_windows(const wtn_direct_t *direct)
{
    return direct->windows;
}

void *const *wtn_direct_windows_device(const wtn_direct_t *direct)
{
    return (void *const *)direct->device;
}

static witan_status_t make(wtn_direct_t **out, wtn_comm_t *comm, const wtn_direct_config_t *config)
{
    wtn_direct_t  *direct = calloc(1, sizeof(*direct));
    size_t         count  = (size_t)config->peer_count;
    witan_status_t status;

    if (direct == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "direct: %zu bytes", sizeof(*direct));
    }
    *out         = direct;
    direct->comm = comm;
    direct->name = config->name;
    WTN_TRY(wtn_peers_check(comm, "direct", config->peers, config->peer_count, &direct->mine));
    direct->peers   = calloc(count, sizeof(*direct->peers));
    direct->mapped  = calloc(count, sizeof(*direct->mapped));
    direct->windows = calloc(count, sizeof(*direct->windows));
    if (direct->peers == NULL || direct->mapped == NULL || direct->windows == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "direct: %zu peers", count);
    }
    memcpy(direct->peers, config->peers, count * sizeof(*direct->peers));
    direct->peer_count = config->peer_count;
    direct->head_bytes = wtn_align_up(count * sizeof(uint64_t), WINDOW_ALIGNMENT);

fail:
    return status;
}

/* The own window, its flags at 0, and the lists and counters of the kernels. */
static witan_status_t allocate(wtn_direct_t *direct, size_t bytes, card_t *card)
{
    size_t         count = (size_t)direct->peer_count, total;
    size_t         lists = 2 * count * sizeof(void *) + 2 * sizeof(uint64_t);
    void         **own   = &direct->mapped[direct->mine];
    witan_status_t status;

    if (!wtn_add(bytes, direct->head_bytes + PAGE_BYTES, &total)) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "direct %s: a window of %zu bytes", direct->name, bytes);
    }
    total = wtn_align_up(total - PAGE_BYTES, PAGE_BYTES);
    WTN_CUDA_TRY(cudaMalloc(own, total));
    WTN_CUDA_TRY(cudaMemset(*own, 0, direct->head_bytes));
    WTN_CUDA_TRY(cudaMalloc((void **)&direct->device, lists));
    WTN_CUDA_TRY(cudaMemset(direct->device, 0, lists));
    WTN_CUDA_TRY(cudaHostAlloc((void **)&direct->pinned, (count + 1) * sizeof(uint64_t),
                               cudaHostAllocMapped | cudaHostAllocPortable));
    memset(direct->pinned, 0, (count + 1) * sizeof(uint64_t));
    WTN_CUDA_TRY(cudaDeviceSynchronize()); /* the zeros are there before any peer can signal */
    memset(card, 0, sizeof(*card));
    if (count > 1) {
        WTN_CUDA_TRY(cudaIpcGetMemHandle(&card->handle, *own));
    }
    WTN_TRY(wtn_place_find(&card->place));

fail:
    return status;
}

/* Two different GPUs, both visible here, must be able to reach each other. One that is not visible
 * cannot be asked: mapping its memory tells. */
static witan_status_t check_reach(const wtn_direct_t *direct, const wtn_place_t *mine,
                                  const wtn_place_t *theirs, int32_t rank)
{
    char           gpu[sizeof(mine->gpu)];
    int            device, device_count, reach;
    witan_status_t status;

    if (strcmp(mine->node, theirs->node) != 0) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED,
                         "direct %s: expected all ranks on one node, found rank %" PRId32
                         " on %.64s and rank %" PRId32 " on %.64s",
                         direct->name, direct->comm->rank, mine->node, rank, theirs->node);
    }
    if (strcmp(mine->gpu, theirs->gpu) == 0) {
        return WITAN_OK;
    }
    WTN_CUDA_TRY(cudaGetDevice(&device));
    WTN_CUDA_TRY(cudaGetDeviceCount(&device_count));
    for (int peer = 0; peer < device_count; peer++) {
        WTN_CUDA_TRY(cudaDeviceGetPCIBusId(gpu, (int)sizeof(gpu), peer));
        if (strcmp(gpu, theirs->gpu) != 0) {
            continue;
        }
        WTN_CUDA_TRY(cudaDeviceCanAccessPeer(&reach, device, peer));
        if (!reach) {
            return WTN_ERROR(WITAN_E_UNSUPPORTED,
                             "direct %s: GPU %s of rank %" PRId32
                             " cannot reach GPU %s of rank %" PRId32 ": no peer access",
                             direct->name, mine->gpu, direct->comm->rank, theirs->gpu, rank);
        }
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t map_peers(wtn_direct_t *direct, const card_t *cards)
{
    const card_t  *mine = &cards[direct->comm->rank];
    cudaError_t    code;
    witan_status_t status;

    for (int32_t i = 0; i < direct->peer_count; i++) {
        const card_t *card = &cards[direct->peers[i]];

        if (i != direct->mine) {
            WTN_TRY(check_reach(direct, &mine->place, &card->place, direct->peers[i]));
            code = cudaIpcOpenMemHandle(&direct->mapped[i], card->handle,
                                        cudaIpcMemLazyEnablePeerAccess);
            if (code != cudaSuccess) {
                direct->mapped[i] = NULL;
                (void)cudaGetLastError();
                return WTN_ERROR(WITAN_E_UNSUPPORTED,
                                 "direct %s: GPU %s of rank %" PRId32
                                 " cannot reach GPU %s of rank %" PRId32 ": %s",
                                 direct->name, mine->place.gpu, direct->comm->rank, card->place.gpu,
                                 direct->peers[i], cudaGetErrorString(code));
            }
        }
        direct->windows[i] = (char *)direct->mapped[i] + direct->head_bytes;
    }
    return WITAN_OK;

fail:
    return status;
}

/* The kernels' lists: where the windows are, and this rank's flag before each. */
static witan_status_t fill_lists(wtn_direct_t *direct)
{
    size_t         count = (size_t)direct->peer_count, list_bytes = count * sizeof(void *);
    uint64_t      *counters = (uint64_t *)(void *)(direct->device + 2 * list_bytes);
    void         **flags    = calloc(count, sizeof(*flags));
    void          *pinned;
    witan_status_t status;

    if (flags == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "direct: %zu flags", count);
    }
    for (size_t i = 0; i < count; i++) {
        flags[i] = (uint64_t *)direct->mapped[i] + direct->mine;
    }
    WTN_CUDA_TRY(cudaMemcpy(direct->device, direct->windows, list_bytes, cudaMemcpyHostToDevice));
    WTN_CUDA_TRY(
        cudaMemcpy(direct->device + list_bytes, flags, list_bytes, cudaMemcpyHostToDevice));
    WTN_CUDA_TRY(cudaHostGetDevicePointer(&pinned, direct->pinned, 0));
    direct->signal = (wtn_direct_params_t){
        .peer_count = direct->peer_count,
        .counter    = &counters[0],
        .theirs     = (uint64_t *const *)(void *)(direct->device + list_bytes),
    };
    direct->wait = (wtn_direct_params_t){
        .peer_count = direct->peer_count,
        .timeout_ns = direct->comm->timeout_ns,
        .counter    = &counters[1],
        .mine       = direct->mapped[direct->mine],
        .faults     = pinned,
        .stop       = (uint64_t *)pinned + count,
    };

fail:
    free(flags);
    return status;
}

witan_status_t wtn_direct_open(wtn_direct_t **out, wtn_comm_t *comm,
                               const wtn_direct_config_t *config)
{
    wtn_direct_t  *direct = NULL;
    card_t         mine   = {0};
    card_t        *cards  = calloc((size_t)comm->size, sizeof(*cards));
    int32_t        channel;
    witan_status_t status = make(&direct, comm, config);

    *out = NULL;
    if (status == WITAN_OK && cards == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "direct: %" PRId32 " cards", comm->size);
    }
    if (status == WITAN_OK) {
        status = allocate(direct, config->bytes, &mine);
    }
    WTN_TRY(wtn_agree(comm, "direct", status, NULL, 0));
    status = wtn_take_channel(comm, "direct", &channel); /* alike on all ranks, whatever comes */
    WTN_TRY(wtn_agree(comm, "direct", status, NULL, 0));
    direct->channel = channel;
    WTN_TRY(wtn_allgather(comm, &mine, sizeof(mine), cards, "direct"));
    status = map_peers(direct, cards);
    if (status == WITAN_OK) {
        status = fill_lists(direct);
    }
    WTN_TRY(wtn_agree(comm, "direct", status, NULL, 0));
    *out = direct;

fail:
    free(cards);
    if (status != WITAN_OK) {
        wtn_direct_close(direct);
    }
    return status;
}

witan_status_t wtn_direct_signal(wtn_direct_t *direct, void *stream)
{
    return wtn_direct_launch_signal(&direct->signal, stream);
}

witan_status_t wtn_direct_wait(wtn_direct_t *direct, void *stream)
{
    return wtn_direct_launch_wait(&direct->wait, stream);
}

witan_status_t wtn_direct_check(const wtn_direct_t *direct, const char *phase)
{
    wtn_rank_list_t missing = {0};

    for (int32_t rank = 0; rank < direct->comm->size; rank++) {
        for (int32_t i = 0; i < direct->peer_count; i++) {
            if (direct->peers[i] == rank &&
                __atomic_load_n(&direct->pinned[i], __ATOMIC_ACQUIRE) != 0) {
                wtn_rank_list_add(&missing, rank);
            }
        }
    }
    if (missing.count == 0) {
        return WITAN_OK;
    }
    return WTN_ERROR(WITAN_E_TIMEOUT, "%s: not heard from %s within %g s", phase, missing.text,
                     (double)direct->comm->timeout_ns / 1e9);
}

void wtn_direct_stop(wtn_direct_t *direct)
{
    if (direct != NULL && direct->pinned != NULL) {
        __atomic_store_n(&direct->pinned[direct->peer_count], 1, __ATOMIC_RELEASE);
    }
}

/* All peers have come to this point of the close, or will not. */
static bool meet(wtn_direct_t *direct)
{
    char           mine = 0;
    char          *all  = calloc((size_t)direct->comm->size, 1);
    witan_status_t status;

    if (all == NULL) {
        return false;
    }
    status = wtn_allgather_on(direct->comm, direct->channel, &mine, 1, all, "direct");
    free(all);
    return status == WITAN_OK;
}

static void unmap_peers(wtn_direct_t *direct)
{
    for (int32_t i = 0; i < direct->peer_count; i++) {
        if (i != direct->mine && direct->mapped[i] != NULL) {
            (void)cudaIpcCloseMemHandle(direct->mapped[i]);
        }
    }
}

void wtn_direct_close(wtn_direct_t *direct)
{
    bool together;
    char text[WTN_ERROR_TEXT_BYTES];

    if (direct == NULL) {
        return;
    }
    memcpy(text, witan_last_error(), strlen(witan_last_error()) + 1);
    together = direct->channel != 0 && !direct->comm->broken;
    if (!together) {
        wtn_direct_stop(direct);
    }
    (void)cudaDeviceSynchronize();
    together = together && meet(direct); /* nobody's kernel writes into a window any more */
    if (direct->peer_count > 0) {
        unmap_peers(direct);
    }
    together = together && meet(direct); /* nobody has this one mapped */
    if (direct->mapped != NULL && (together || direct->channel == 0)) {
        (void)cudaFree(direct->mapped[direct->mine]);
    } /* else it stays: freeing what a peer may still have mapped is not defined */
    (void)cudaFree(direct->device);
    (void)cudaFreeHost(direct->pinned);
    free(direct->peers);
    free(direct->mapped);
    free(direct->windows);
    free(direct);
    (void)WTN_ERROR(WITAN_OK, "%s", text); /* what led here counts */
}

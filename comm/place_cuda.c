#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cuda_runtime_api.h>

#include "comm/place_cuda.h"
#include "core/error.h"
#include "kernels/cuda/cuda.h"

witan_status_t wtn_place_find(wtn_place_t *place)
{
    char           host[65] = "", boot[48] = "";
    FILE          *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    int            device;
    witan_status_t status;

    memset(place, 0, sizeof(*place)); /* compared as bytes */
    (void)gethostname(host, sizeof(host) - 1);
    if (file != NULL) {
        if (fgets(boot, sizeof(boot), file) != NULL) {
            boot[strcspn(boot, "\n")] = '\0';
        }
        (void)fclose(file);
    }
    (void)snprintf(place->node, sizeof(place->node), "%s %s", host, boot);
    WTN_CUDA_TRY(cudaGetDevice(&device));
    WTN_CUDA_TRY(cudaDeviceGetPCIBusId(place->gpu, (int)sizeof(place->gpu), device));

fail:
    return status;
}

witan_status_t wtn_peers_check(const wtn_comm_t *comm, const char *name, const int32_t *peers,
                               int32_t peer_count, int32_t *mine)
{
    *mine = -1;
    if (peer_count < 1 || peer_count > comm->size) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "%s: expected 1 to %" PRId32 " peers, found %" PRId32,
                         name, comm->size, peer_count);
    }
    for (int32_t i = 0; i < peer_count; i++) {
        if (peers[i] < 0 || peers[i] >= comm->size) {
            return WTN_ERROR(WITAN_E_ARGUMENT,
                             "%s: peer %" PRId32 ": expected rank 0 to %" PRId32 ", found %" PRId32,
                             name, i, comm->size - 1, peers[i]);
        }
        for (int32_t j = 0; j < i; j++) {
            if (peers[j] == peers[i]) {
                return WTN_ERROR(WITAN_E_ARGUMENT, "%s: rank %" PRId32 " is listed twice", name,
                                 peers[i]);
            }
        }
        *mine = peers[i] == comm->rank ? i : *mine;
    }
    if (*mine < 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "%s: rank %" PRId32 " is not among its own peers", name,
                         comm->rank);
    }
    return WITAN_OK;
}

#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/backend.h"
#include "kernels/combine/combine.h"
#include "kernels/ffn/ffn.h"
#include "kernels/gate/gate.h"
#include "kernels/gather/gather.h"
#include "kernels/probe/probe.h"
#include "kernels/tier.h"
#include "kernels/topk/topk.h"

static bool probe(char *reason, size_t reason_bytes)
{
    (void)snprintf(reason, reason_bytes, "runs everywhere");
    return true;
}

static witan_status_t measure(witan_status_t (*call)(void *context), void *context, void *stream,
                              double *seconds)
{
    uint64_t       start  = wtn_now_ns();
    witan_status_t status = call(context);

    (void)stream;
    *seconds = (double)(wtn_now_ns() - start) * 1e-9;
    return status;
}

static witan_status_t memory_alloc(void **out, size_t bytes)
{
    *out = wtn_alloc(bytes);
    return *out != NULL ? WITAN_OK : WTN_ERROR(WITAN_E_MEMORY, "host: %zu bytes", bytes);
}

static witan_status_t memory_copy(void *to, const void *from, size_t bytes, void *stream)
{
    (void)stream;
    if (bytes > 0) {
        memcpy(to, from, bytes);
    }
    return WITAN_OK;
}

const wtn_backend_t wtn_backend_host = {
    .name                 = "host",
    .probe                = probe,
    .tiers                = wtn_tiers,
    .alloc                = memory_alloc,
    .free                 = wtn_free,
    .pinned_alloc         = memory_alloc,
    .pinned_free          = wtn_free,
    .copy                 = memory_copy,
    .measure              = measure,
    .peak                 = wtn_probe_peak,
    .read_bandwidth       = wtn_probe_read_bandwidth,
    .ffn_create           = wtn_host_ffn_create,
    .ffn_destroy          = wtn_host_ffn_destroy,
    .ffn_weight_bytes     = wtn_host_ffn_weight_bytes,
    .ffn_workspace_bytes  = wtn_host_ffn_workspace_bytes,
    .ffn_run              = wtn_host_ffn_run,
    .ffn_expert_bytes     = wtn_host_ffn_expert_bytes,
    .ffn_reserve          = wtn_host_ffn_reserve,
    .ffn_release          = wtn_host_ffn_release,
    .ffn_weights          = wtn_host_ffn_weights,
    .ffn_exchange         = wtn_host_ffn_exchange,
    .gate_create          = wtn_host_gate_create,
    .gate_destroy         = wtn_host_gate_destroy,
    .gate_weight_bytes    = wtn_host_gate_weight_bytes,
    .gate_workspace_bytes = wtn_host_gate_workspace_bytes,
    .gate_run             = wtn_host_gate_run,
    .topk_workspace_bytes = wtn_host_topk_workspace_bytes,
    .topk                 = wtn_host_topk,
    .combine              = wtn_host_combine,
    .reduce               = wtn_host_reduce,
    .gather               = wtn_host_gather,
};

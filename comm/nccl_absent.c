/* The nccl transport and windows where they are not built in: named, and said why. */
#include <stdio.h>

#include "comm/nccl.h"
#include "core/error.h"

#define REASON "not part of this version"

static bool probe(char *reason, size_t reason_bytes)
{
    (void)snprintf(reason, reason_bytes, REASON);
    return false;
}

const wtn_transport_t wtn_transport_nccl = {.name = "nccl", .probe = probe};

static witan_status_t refuse(void)
{
    return WTN_ERROR(WITAN_E_UNSUPPORTED, "nccl: " REASON);
}

witan_status_t wtn_nccl_open(wtn_nccl_t **out, wtn_comm_t *comm, const wtn_nccl_config_t *config)
{
    (void)comm;
    (void)config;
    *out = NULL;
    return refuse();
}

witan_status_t wtn_direct_open(wtn_direct_t **out, wtn_comm_t *comm,
                               const wtn_direct_config_t *config)
{
    (void)comm;
    (void)config;
    *out = NULL;
    return refuse();
}

/* Without an object there is nothing to call these with; NULL may be closed, aborted, stopped. */

void wtn_nccl_close(wtn_nccl_t *nccl)
{
    (void)nccl;
}

void wtn_nccl_abort(wtn_nccl_t *nccl)
{
    (void)nccl;
}

void wtn_direct_close(wtn_direct_t *direct)
{
    (void)direct;
}

void wtn_direct_stop(wtn_direct_t *direct)
{
    (void)direct;
}

int32_t wtn_nccl_version_compiled(void)
{
    return 0;
}

int32_t wtn_nccl_version_loaded(void)
{
    return 0;
}

int32_t wtn_nccl_mine(const wtn_nccl_t *nccl)
{
    (void)nccl;
    return 0;
}

int32_t wtn_nccl_peer_count(const wtn_nccl_t *nccl)
{
    (void)nccl;
    return 0;
}

void wtn_nccl_watch(wtn_nccl_t *nccl, wtn_roll_t *roll, wtn_watch_t *watch)
{
    (void)nccl;
    (void)roll;
    (void)watch;
}

witan_status_t wtn_nccl_group_begin(wtn_nccl_t *nccl)
{
    (void)nccl;
    return refuse();
}

witan_status_t wtn_nccl_send(wtn_nccl_t *nccl, int32_t peer, const void *data, size_t bytes,
                             void *stream)
{
    (void)nccl;
    (void)peer;
    (void)data;
    (void)bytes;
    (void)stream;
    return refuse();
}

witan_status_t wtn_nccl_recv(wtn_nccl_t *nccl, int32_t peer, void *data, size_t bytes, void *stream)
{
    (void)nccl;
    (void)peer;
    (void)data;
    (void)bytes;
    (void)stream;
    return refuse();
}

witan_status_t wtn_nccl_group_end(wtn_nccl_t *nccl)
{
    (void)nccl;
    return refuse();
}

witan_status_t wtn_nccl_alltoall(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                                 void *stream)
{
    (void)nccl;
    (void)from;
    (void)to;
    (void)bytes;
    (void)stream;
    return refuse();
}

witan_status_t wtn_nccl_allreduce(wtn_nccl_t *nccl, const float *from, float *to, int64_t count,
                                  void *stream)
{
    (void)nccl;
    (void)from;
    (void)to;
    (void)count;
    (void)stream;
    return refuse();
}

witan_status_t wtn_nccl_allgather(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                                  void *stream)
{
    (void)nccl;
    (void)from;
    (void)to;
    (void)bytes;
    (void)stream;
    return refuse();
}

witan_status_t wtn_nccl_reduce_scatter(wtn_nccl_t *nccl, const float *from, float *to,
                                       int64_t count, void *stream)
{
    (void)nccl;
    (void)from;
    (void)to;
    (void)count;
    (void)stream;
    return refuse();
}

witan_status_t wtn_nccl_check(wtn_nccl_t *nccl)
{
    (void)nccl;
    return refuse();
}

witan_status_t wtn_nccl_wait(const wtn_nccl_wait_args_t *args)
{
    (void)args;
    return refuse();
}

void *const *wtn_direct_windows(const wtn_direct_t *direct)
{
    (void)direct;
    return NULL;
}

void *const *wtn_direct_windows_device(const wtn_direct_t *direct)
{
    (void)direct;
    return NULL;
}

size_t wtn_direct_bytes(const wtn_direct_t *direct, int32_t peer)
{
    (void)direct;
    (void)peer;
    return 0;
}

int32_t wtn_direct_mine(const wtn_direct_t *direct)
{
    (void)direct;
    return 0;
}

witan_status_t wtn_direct_signal(wtn_direct_t *direct, void *stream)
{
    (void)direct;
    (void)stream;
    return refuse();
}

witan_status_t wtn_direct_wait(wtn_direct_t *direct, void *stream)
{
    (void)direct;
    (void)stream;
    return refuse();
}

witan_status_t wtn_direct_check(const wtn_direct_t *direct, const char *phase)
{
    (void)direct;
    (void)phase;
    return WITAN_OK;
}

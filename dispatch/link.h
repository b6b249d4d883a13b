/* What the stream engine needs of a transport between devices: nccl and windows behind one table,
 * so that the library links without them. comm/nccl.h and comm/direct.h document each function. */
#ifndef WTN_LINK_H
#define WTN_LINK_H

#include "comm/nccl.h"

typedef struct wtn_link {
    const char *name;
    witan_status_t (*open)(wtn_nccl_t **out, wtn_comm_t *comm, const wtn_nccl_config_t *config);
    void (*close)(wtn_nccl_t *nccl);
    witan_status_t (*group_begin)(wtn_nccl_t *nccl);
    witan_status_t (*send)(wtn_nccl_t *nccl, int32_t peer, const void *data, size_t bytes,
                           void *stream);
    witan_status_t (*recv)(wtn_nccl_t *nccl, int32_t peer, void *data, size_t bytes, void *stream);
    witan_status_t (*group_end)(wtn_nccl_t *nccl);
    witan_status_t (*alltoall)(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                               void *stream);
    witan_status_t (*allreduce)(wtn_nccl_t *nccl, const float *from, float *to, int64_t count,
                                void *stream);
    witan_status_t (*allgather)(wtn_nccl_t *nccl, const void *from, void *to, size_t bytes,
                                void *stream);
    witan_status_t (*reduce_scatter)(wtn_nccl_t *nccl, const float *from, float *to, int64_t count,
                                     void *stream);
    witan_status_t (*check)(wtn_nccl_t *nccl);
    void (*watch)(wtn_nccl_t *nccl, wtn_roll_t *roll, wtn_watch_t *watch);
    witan_status_t (*wait)(const wtn_nccl_wait_args_t *args);

    witan_status_t (*roll_open)(wtn_roll_t **out, wtn_comm_t *comm, int32_t channel,
                                const int32_t *peers, int32_t peer_count);
    void (*roll_close)(wtn_roll_t *roll);

    witan_status_t (*direct_open)(wtn_direct_t **out, wtn_comm_t *comm,
                                  const wtn_direct_config_t *config);
    void (*direct_close)(wtn_direct_t *direct);
    void *const *(*direct_windows)(const wtn_direct_t *direct);
    void *const *(*direct_windows_device)(const wtn_direct_t *direct);
    witan_status_t (*direct_signal)(wtn_direct_t *direct, void *stream);
    witan_status_t (*direct_wait)(wtn_direct_t *direct, void *stream);
    witan_status_t (*direct_check)(const wtn_direct_t *direct, const char *phase);
} wtn_link_t;

extern const wtn_link_t wtn_link_nccl; /* link_cuda.c */

#endif

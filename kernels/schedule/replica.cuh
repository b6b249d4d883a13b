/* Which replica of an expert computes a token. */
#ifndef WTN_REPLICA_CUH
#define WTN_REPLICA_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/schedule/schedule.h"

typedef struct wtn_replicas {
    const int32_t *owner, *local, *begin;
    uint32_t       salt; /* with a token's index still below 2^32 */
    uint32_t       expert_count;
} wtn_replicas_t;

static inline wtn_replicas_t wtn_replicas(const wtn_schedule_args_t *args)
{
    wtn_replicas_t replicas = {};

    replicas.owner        = args->owner;
    replicas.local        = args->local;
    replicas.begin        = args->replica_begin;
    replicas.salt         = (uint32_t)args->salt;
    replicas.expert_count = (uint32_t)args->expert_count;
    return replicas;
}

/* Its place in owner and local; `id` is an expert. */
WTN_DEVICE uint32_t wtn_replica_of(const wtn_replicas_t &r, int32_t id, int64_t token)
{
    if (r.begin == nullptr) {
        return (uint32_t)id;
    }
    return (uint32_t)r.begin[id] +
           (r.salt + (uint32_t)token) % (uint32_t)(r.begin[id + 1] - r.begin[id]);
}

#endif

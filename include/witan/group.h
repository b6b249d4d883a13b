/* Groups: which ranks work together, and how they fold. */
#ifndef WITAN_GROUP_H
#define WITAN_GROUP_H

#include <witan/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * How N ranks fold: N = data_parallel * expert_parallel * tensor_parallel. Rank r has
 *   tensor index r % tp, expert index (r / tp) % ep, data index r / (tp * ep).
 * Ranks with the same tensor and data index exchange tokens (expert parallel). Ranks that differ
 * only in the tensor index hold the same tokens and a slice of the width I of the same experts.
 */
typedef struct witan_group_config {
    size_t   struct_bytes;
    int32_t  expert_parallel; /**< 0: N / tensor_parallel */
    int32_t  tensor_parallel; /**< default 1 */
    uint64_t timeout_ns;      /**< deadline of every wait for a peer; 0: WITAN_TIMEOUT, or 60 s */
    int32_t  thread_count;    /**< compute threads of a rank; 0: WITAN_NUM_THREADS, or its cores */
    bool     bind; /**< bind ranks to cores of their own if there are enough; default false */
    /** CUDA device of this rank, as cudaSetDevice counts; default -1: the local rank modulo the
     * devices it sees. Calls on cuda layers and plans leave it current on the calling thread. */
    int32_t device;
    /**
     * Nodes, for dispatch in two levels: ranks of one machine that can share memory. n > 0: only
     * those of one run of n ranks, for tests and for machines of several parts; 0:
     * WITAN_RANKS_PER_NODE, or 0. Equal on all ranks.
     */
    int32_t ranks_per_node;
    /** For tests: several ranks may use one device, exchanging over loopback; default false. */
    bool share_device;
} witan_group_config_t;

/** Fill `config` with the defaults named above. */
WITAN_API void witan_group_config_init(witan_group_config_t *config);

typedef struct witan_group_info {
    size_t      struct_bytes;
    int32_t     rank, size;
    int32_t     expert_index, expert_parallel;
    int32_t     tensor_index, tensor_parallel;
    int32_t     data_index, data_parallel;
    int32_t     local_rank, local_size; /**< among the ranks of this node */
    int32_t     thread_count;
    uint64_t    timeout_ns;
    const char *transport; /**< "self", "mpi"; belongs to the library */
    int32_t     device;    /**< as configured; -1: chosen when the first cuda layer is made */
} witan_group_info_t;

/**
 * A group of this process alone; no MPI is touched. expert_parallel must be 0 or 1,
 * tensor_parallel 1.
 * @param config NULL for the defaults.
 * @return WITAN_OK; WITAN_E_ARGUMENT; WITAN_E_MEMORY. On failure *out is NULL.
 */
WITAN_API witan_status_t witan_group_create_self(witan_group_t             **out,
                                                 const witan_group_config_t *config);

/** Fill `info`; `info->struct_bytes` must be set by the caller. Local. */
WITAN_API witan_status_t witan_group_query(const witan_group_t *group, witan_group_info_t *info);

/** Free a group; NULL is allowed. Local. Layers and plans made from it must be destroyed before. */
WITAN_API void witan_group_destroy(witan_group_t *group);

#ifdef __cplusplus
}
#endif
#endif

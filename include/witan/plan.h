/* Plans: one routed micro-batch in flight, and the four steps that carry it. */
#ifndef WITAN_PLAN_H
#define WITAN_PLAN_H

#include <witan/group.h>
#include <witan/layer.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum witan_combine_mode {
    WITAN_COMBINE_EXACT   = 0, /**< every row returns; the same bits for every layout */
    WITAN_COMBINE_REDUCED = 1, /**< each rank, in two levels each node, sums its rows first: less
                               traffic, bits of this layout */
} witan_combine_mode_t;

/** How the rows of an expert are laid out. On cuda the host does not know them: AUTO goes by the
 * average over the experts of the rows a round can have, and MASKED, the form for few rows, has no
 * slots that could overflow. */
typedef enum witan_executor {
    WITAN_EXECUTOR_AUTO       = 0, /**< masked up to masked_rows_max rows in every expert */
    WITAN_EXECUTOR_CONTIGUOUS = 1,
    WITAN_EXECUTOR_MASKED     = 2, /**< a round that does not fit its slots is an error */
} witan_executor_t;

/** How tokens and rows travel between devices; the host has one way, AUTO. */
typedef enum witan_exchange {
    WITAN_EXCHANGE_AUTO = 0, /**< exact */
    /** Exactly what is routed: counts travel first, and the step waits once for the device to tell
     * them, so it cannot be captured in a CUDA graph. */
    WITAN_EXCHANGE_EXACT = 1,
    /** Slots of fixed size for every pair of ranks: the step does not wait, and can be captured and
     * replayed with other tokens. What a pair's slots do not hold travels in witan_plan_wait. */
    WITAN_EXCHANGE_PADDED = 2,
    /** The same slots, but each rank writes straight into its peers' memory, with the least
     * latency; for ranks of one node. */
    WITAN_EXCHANGE_DIRECT = 3,
} witan_exchange_t;

/** What the ranks of a tensor group pass and get. */
typedef enum witan_tensor_exchange {
    WITAN_TENSOR_ALLREDUCE = 0, /**< the same tokens and the same results */
    /** Every rank its own T tokens and their results, T equal on all of them: the tokens are
     * gathered before the experts, the sums scattered behind them. cuda only. */
    WITAN_TENSOR_SCATTER = 1,
} witan_tensor_exchange_t;

/** Over which ranks a token is sent once. The bits of exact results do not depend on it. */
typedef enum witan_hierarchy {
    /** TWO_LEVEL where several ranks of a node can share memory, else FLAT. */
    WITAN_HIERARCHY_AUTO = 0,
    WITAN_HIERARCHY_FLAT = 1, /**< to each rank with an expert of its */
    /** To each node with an expert of its (see ranks_per_node in group.h), where all ranks read it
     * in shared memory. REDUCED then returns one sum per node. host only. */
    WITAN_HIERARCHY_TWO_LEVEL = 2,
} witan_hierarchy_t;

typedef struct witan_plan_config {
    size_t  struct_bytes;
    int64_t token_count_max; /**< T of this rank's largest step; may differ over ranks */
    /**
     * Budget: the most tokens and expert rows a rank receives from one peer in one round; in two
     * levels, that a node receives from one rank. When a
     * step exceeds it, dispatch runs in several rounds; nothing is dropped. 0: the worst case, one
     * round (more only if an import repeats ids). Equal on all ranks; pair_row_count_max >= K. On
     * cuda a round takes as many tokens as have room with K rows each.
     */
    int64_t pair_token_count_max;
    int64_t pair_row_count_max;
    /** The n tokens for a rank travel in pieces of ceil(n / chunk_count), one per round; the
     * experts of one round overlap the transfer of the next. cuda: of the largest token_count_max
     * in place of n, and without overlap. Default 1. */
    int32_t              chunk_count;
    witan_combine_mode_t combine;
    witan_executor_t     executor;
    int32_t              masked_rows_max; /**< threshold of AUTO; 0: the executor's own slot size */
    /** Caller's memory, 64-byte aligned (cuda: of the device), or NULL: the plan
     * allocates. After a failed step a late peer may still write there: do not use it again before
     * the process has left MPI. */
    void  *workspace;
    size_t workspace_bytes;
    /** cuda: the cudaStream_t steps are queued on, not cudaStreamPerThread where ranks exchange;
     * NULL: one of the plan's own, and every step is followed by witan_plan_wait. It must outlive
     * the plan. */
    void                   *stream;
    witan_exchange_t        exchange;        /**< equal on all ranks */
    witan_tensor_exchange_t tensor_exchange; /**< equal on all ranks */
    /** cuda: multiprocessors the experts leave to communication, fewer than there are; 0: none. */
    int32_t           sm_reserved;
    witan_hierarchy_t hierarchy; /**< equal on all ranks */
} witan_plan_config_t;

WITAN_API void witan_plan_config_init(witan_plan_config_t *config);

/** What a rank needs, told before anything is allocated. */
typedef struct witan_sizes {
    size_t  struct_bytes;
    int64_t weight_bytes;        /**< packed weights of this rank */
    int64_t plan_bytes;          /**< workspace of the plan as configured; cuda: of the device,
                                    the peers' windows of the direct exchange among it */
    int64_t plan_bytes_balanced; /**< with budgets for balanced routing; two sets of buffers, so
                                    on few ranks it can exceed the worst */
    int64_t plan_bytes_worst;    /**< with budgets for the worst routing, one round */
    /** Besides plan_bytes: memory shared by the ranks of a node that exchange tokens. */
    int64_t plan_shared_bytes;
    int64_t pair_token_count_balanced, pair_row_count_balanced;
    int64_t pair_token_count_worst, pair_row_count_worst;
} witan_sizes_t;

/**
 * Sizes for rank `rank` of a group of `rank_count` ranks folded as `group` says (NULL: the
 * defaults), all of them with the token_count_max of `plan`. What nodes there are, only
 * ranks_per_node can tell here; without it dispatch counts as flat. Where the number of threads is
 * left open, for all processors there are. Local: needs no group, no weights, no MPI.
 * @return WITAN_OK; WITAN_E_ARGUMENT or WITAN_E_CONFIG with the field; WITAN_E_UNSUPPORTED backend
 * or tier.
 */
WITAN_API witan_status_t witan_layer_query(const witan_group_config_t *group, int32_t rank,
                                           int32_t rank_count, const witan_layer_config_t *layer,
                                           const witan_plan_config_t *plan, witan_sizes_t *sizes);

/**
 * Make a plan: all the memory a step needs. Collective. Several plans of one layer may be in
 * flight.
 * @return WITAN_OK; WITAN_E_ARGUMENT; WITAN_E_MEMORY; WITAN_E_MISMATCH; WITAN_E_PEER;
 * WITAN_E_TIMEOUT.
 */
WITAN_API witan_status_t witan_plan_create(witan_plan_t **out, witan_layer_t *layer,
                                           const witan_plan_config_t *config);

/** Free a plan; NULL is allowed. Local. Memory that a lost peer may still write to is not reused.
 */
WITAN_API void witan_plan_destroy(witan_plan_t *plan);

typedef struct witan_forward_args {
    size_t  struct_bytes;
    int64_t token_count; /**< T of this rank; 0 is allowed; equal over a tensor-parallel group */
    /** [T, H], layer dtype; read before `output` is written: may be it. cuda: 16-byte aligned. */
    const void *hidden;
    void       *output; /**< [T, H], layer dtype */
} witan_forward_args_t;

/**
 * The whole block: route, dispatch, experts, combine. Collective. With tensor parallelism every
 * rank of a tensor group passes the same tokens and gets the same result (see
 * witan_tensor_exchange_t).
 *
 * On the host, `output` is complete when the call returns. On cuda, `hidden` and `output` are
 * memory of the device; the call queues on the plan's stream and returns. `output` is complete for
 * what is queued behind it there, but for padded and direct exchanges whose slots can overflow
 * (budgets below the worst case): then only after witan_plan_wait, until which `hidden` must stay,
 * so `output` may not be it, and no other step may be queued. Padded and direct steps may be
 * captured (cudaStreamBeginCapture on the plan's stream) and replayed on that stream with other
 * contents of `hidden`; all ranks replay alike. The tier cublas, which alone serves F32, waits for
 * the device's row counts in every step and so cannot be captured.
 *
 * @return WITAN_OK; WITAN_E_ARGUMENT; WITAN_E_PEER; WITAN_E_TIMEOUT naming phase and ranks;
 *         WITAN_E_TRANSPORT; WITAN_E_STATE, WITAN_E_INTERNAL what an earlier queued step met.
 *         On failure `output` is unspecified.
 */
WITAN_API witan_status_t witan_forward(witan_plan_t *plan, const witan_forward_args_t *args);

/**
 * Wait until the last step is complete, with peers at most the group's time-out, and see how it
 * went: faults of the device and of peers that no earlier call could know. Collective where slots
 * can overflow: rounds they did not hold are made here. May be called again, and after every replay
 * of a captured step. The routing, `output` of a plan with a stream of its own, and the stats of
 * the step are valid from here on. On the host steps are complete when they return, and so is this.
 * @return as witan_forward; WITAN_E_ARGUMENT imported ids that are no experts of the layer.
 */
WITAN_API witan_status_t witan_plan_wait(witan_plan_t *plan);

/**
 * Step 1: gate and top-k of `hidden` [T, H] into the plan. Local: a refused call is not told to the
 * peers, and the plan stays as it was.
 * @return WITAN_OK; WITAN_E_ARGUMENT; WITAN_E_STATE between a dispatch and the last combine.
 */
WITAN_API witan_status_t witan_route(witan_plan_t *plan, int64_t token_count, const void *hidden);

/**
 * Step 1 for callers with a gate of their own. Local, as witan_route; copies. On cuda both arrays
 * are memory of the device, read when the stream comes to it; an id that is no expert counts as -1
 * and is told by witan_plan_wait.
 * @param ids     [T, K] expert ids; -1: no expert; an expert may repeat.
 * @param weights [T, K]; those of ids -1 are not read.
 */
WITAN_API witan_status_t witan_plan_import(witan_plan_t *plan, int64_t token_count,
                                           const int32_t *ids, const float *weights);

/** The routing held by the plan: [T, K] each, valid until the next route or import. Local. In
 * ordinary memory on every backend; on cuda a copy, and the call waits for the plan's stream. */
WITAN_API witan_status_t witan_plan_routing(const witan_plan_t *plan, const int32_t **ids,
                                            const float **weights);

/**
 * Step 2: the next round of tokens to the ranks that own their experts. Collective. The shared
 * expert is computed here while tokens travel. `hidden` as in witan_route, the same array in every
 * round; it must stay as it is until the last combine.
 */
WITAN_API witan_status_t witan_dispatch(witan_plan_t *plan, const void *hidden);

/** Step 3: the local experts on the rows of this round. Local. The four steps queue on cuda as
 * witan_forward does. */
WITAN_API witan_status_t witan_experts(witan_plan_t *plan);

/** Step 4: rows return; after the last round `output` [T, H] is complete, on cuda as that of
 * witan_forward. Collective. */
WITAN_API witan_status_t witan_combine(witan_plan_t *plan, void *output);

/**
 * Rounds of dispatch, experts, combine this rank has still to make for the routed tokens; at least
 * 1 after route or import, exact from the first dispatch on, 0 when `output` is complete and on a
 * plan whose step failed. A padded or direct step has one round; witan_plan_wait makes the rest.
 * Local.
 */
WITAN_API int64_t witan_plan_rounds_left(const witan_plan_t *plan);

/** The phases of a step. */
#define WITAN_PHASE_LIST(X) \
    X(ROUTE, "route")       \
    X(PLAN, "plan")         \
    X(DISPATCH, "dispatch") \
    X(SHARED, "shared")     \
    X(EXPERTS, "experts")   \
    X(COMBINE, "combine")   \
    X(REDUCE, "reduce")

typedef enum witan_phase {
#define WITAN_PHASE_ENUM(name, text) WITAN_PHASE_##name,
    WITAN_PHASE_LIST(WITAN_PHASE_ENUM)
#undef WITAN_PHASE_ENUM
        WITAN_PHASE_COUNT
} witan_phase_t;

/** "route" and so on; "?" for a value that is no phase. */
WITAN_API const char *witan_phase_name(witan_phase_t phase);

/** What the last step did on this rank. Arrays belong to the plan and stand until the next step. On
 * cuda they are filled by witan_plan_wait. */
typedef struct witan_stats {
    size_t         struct_bytes;
    int64_t        token_count;         /**< T */
    int64_t        round_count;         /**< rounds made */
    int64_t        recv_token_count;    /**< tokens received, own ones included */
    int64_t        recv_row_count;      /**< expert rows computed here */
    const int64_t *expert_row_counts;   /**< [E_local] rows per expert or slot held here */
    const int64_t *expert_token_counts; /**< [E] this rank's routed (token, k) per global expert */
    const int64_t *rank_row_counts;     /**< [ep] this rank's rows per destination */
    const int64_t *rank_send_bytes;     /**< [ep] bytes sent to each; in two levels to relays */
    int64_t        tensor_send_bytes;   /**< bytes sent for the sum over the tensor group */
    double         imbalance;           /**< max / mean of rank_row_counts; 1 without rows */
    /** Time of each phase; cuda: of the device between marks on the stream, 0 in captured steps. */
    int64_t           phase_ns[WITAN_PHASE_COUNT];
    witan_executor_t  executor;           /**< of the last round */
    int64_t           executor_counts[3]; /**< rounds by witan_executor_t since the plan was made */
    witan_hierarchy_t hierarchy;          /**< taken by the plan: FLAT or TWO_LEVEL */
    witan_exchange_t  exchange; /**< taken by the plan; AUTO on the host, which has one way */
    /** What carries tokens between ranks: "direct" or "nccl" between devices; else, and where there
     * is no peer, the group's. A static string. */
    const char *transport;
} witan_stats_t;

/** Fill `stats`; `stats->struct_bytes` must be set by the caller. Local. */
WITAN_API witan_status_t witan_plan_stats(const witan_plan_t *plan, witan_stats_t *stats);

/**
 * Loads of the last step over all ranks of the expert-parallel group; on cuda of the last one
 * waited for. Collective; not a step: it allocates. Plans on different threads may do so at once.
 * @param expert_token_counts [E] sum over ranks of routed (token, k); may be NULL.
 * @param rank_row_counts     [ep] rows computed by each rank; may be NULL.
 * @param imbalance           max / mean of rank_row_counts, 1 without rows; may be NULL.
 */
WITAN_API witan_status_t witan_plan_load(witan_plan_t *plan, int64_t *expert_token_counts,
                                         int64_t *rank_row_counts, double *imbalance);

#ifdef __cplusplus
}
#endif
#endif

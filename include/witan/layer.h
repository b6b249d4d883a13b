/* Layers: the weights and the routing of one mixture-of-experts block. */
#ifndef WITAN_LAYER_H
#define WITAN_LAYER_H

#include <witan/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Activation functions; `parameter` is what the third column names. */
#define WITAN_ACTIVATION_LIST(X)                                                          \
    X(SILU, "silu", none)              /* x * sigmoid(x) */                               \
    X(GELU, "gelu", none)              /* x * (1 + erf(x / sqrt 2)) / 2 */                \
    X(GELU_TANH, "gelu_tanh", none)    /* the tanh approximation */                       \
    X(RELU, "relu", none)              /* max(x, 0) */                                    \
    X(RELU2, "relu2", none)            /* max(x, 0) squared */                            \
    X(LEAKY_RELU, "leaky_relu", alpha) /* x >= 0 ? x : alpha * x */                       \
    X(SWISH, "swish", beta) /* x * sigmoid(beta * x); swish(1) equals silu bit for bit */ \
    X(IDENTITY, "identity", none)

typedef enum witan_activation_kind {
#define WITAN_ACTIVATION_ENUM(name, text, parameter) WITAN_ACTIVATION_##name,
    WITAN_ACTIVATION_LIST(WITAN_ACTIVATION_ENUM)
#undef WITAN_ACTIVATION_ENUM
        WITAN_ACTIVATION_COUNT
} witan_activation_kind_t;

/**
 * What happens between the two products of an expert, in fp32:
 *   g = x Wg' + bg ; u = x Wu' + bu
 *   limit > 0:  g = min(g, limit), u = max(-limit, min(u, limit))
 *   gated:      h = f(g) * (u + up_offset)
 *   not gated:  h = f(u), no gate weights; limit clamps u to [-limit, limit]
 * NaN passes through clamps. gpt-oss is SWISH, parameter 1.702, gated, limit 7, up_offset 1.
 */
typedef struct witan_activation {
    witan_activation_kind_t kind;
    float                   parameter; /**< alpha or beta; 0 where the kind has none */
    bool                    gated;
    float                   limit;     /**< 0: no clamp */
    float                   up_offset; /**< added to u; default 0 */
} witan_activation_t;

typedef enum witan_score {
    WITAN_SCORE_SOFTMAX       = 0,
    WITAN_SCORE_SIGMOID       = 1,
    WITAN_SCORE_SQRT_SOFTPLUS = 2, /**< sqrt(ln(1 + e^l)) */
} witan_score_t;

typedef enum witan_group_score {
    WITAN_GROUP_SCORE_MAX      = 0, /**< DeepSeek-V2 */
    WITAN_GROUP_SCORE_TOP2_SUM = 1, /**< DeepSeek-V3 */
    WITAN_GROUP_SCORE_TOPK_SUM = 2, /**< sum of the best K / group_topk (Megatron-Core) */
} witan_group_score_t;

typedef enum witan_mask_value {
    WITAN_MASK_NEG_INF = 0, /**< experts of groups not chosen can not be selected */
    WITAN_MASK_ZERO    = 1, /**< their score becomes 0.0, as in Hugging Face's DeepSeek */
} witan_mask_value_t;

/**
 * From logits l[E] (fp32) to K ids and weights.
 *   scores      s = score(l) over all E; with `score_after_topk` s = l here (softmax only)
 *   choice      c = s + correction bias; groups, where group_count > 1: the experts fall into
 *               group_count equal runs, the best group_topk by group_score stay, the rest is masked
 *   top-k       the K largest c, ties to the lowest index, in descending order of c
 *   weights     w = s[ids]; with `score_after_topk` w = softmax(l[ids])
 *   normalise   w /= sum(w) + normalise_epsilon
 *   scale       w *= scale
 * A NaN among a token's logits gives that token ids 0..K-1 and NaN weights: it stays in its token.
 */
typedef struct witan_routing {
    witan_score_t       score;
    bool                score_after_topk;
    bool                normalise;
    float               normalise_epsilon;
    float               scale;       /**< default 1 */
    int32_t             group_count; /**< default 1: no groups; must divide E */
    int32_t             group_topk;  /**< default 1; <= group_count */
    witan_group_score_t group_score;
    witan_mask_value_t  mask_value;
    bool                has_bias;            /**< WITAN_WEIGHT_ROUTER_BIAS, added to the logits */
    bool                has_correction_bias; /**< WITAN_WEIGHT_ROUTER_CORRECTION, chooses only */
} witan_routing_t;

typedef struct witan_layer_config {
    size_t             struct_bytes;
    int64_t            hidden_size;  /**< H */
    int64_t            inter_size;   /**< I, of the routed experts */
    int32_t            expert_count; /**< E; cuda: at most 65536 */
    int32_t            topk;         /**< K, 1 <= K <= E */
    witan_dtype_t      dtype;        /**< of activations and expert weights */
    witan_dtype_t      router_dtype; /**< the router's weights are held so; default F32 */
    witan_activation_t activation;
    witan_routing_t    routing;
    bool               has_gate_up_bias;  /**< WITAN_WEIGHT_GATE_BIAS, WITAN_WEIGHT_UP_BIAS */
    bool               has_down_bias;     /**< WITAN_WEIGHT_DOWN_BIAS */
    int64_t            shared_inter_size; /**< width of the shared expert; 0: there is none */
    bool        has_shared_gate; /**< shared output times sigmoid(x . WITAN_WEIGHT_SHARED_ROUTER) */
    const char *backend;         /**< "auto", "host", "cuda"; default "auto" */
    /** host: "auto", "scalar", "avx2", "avx512", "avx512_bf16"; cuda, the executor of grouped
     * products: "auto", "cublas", "sm_80", "sm_90a". cublas, the only one of F32, waits once in a
     * step for the row counts, can not be captured in a graph, and promises accuracy but not that
     * a row's bits do not depend on the number of rows. */
    const char *kernel_tier;
    /**
     * Placement: expert_owner[e] is the expert index (see group.h) of the ranks that hold expert e.
     * NULL: contiguous runs, E * i / ep up to E * (i + 1) / ep. Read during the call only.
     */
    const int32_t *expert_owner;
    /**
     * Placement with replicas, in place of expert_owner (both are an error): slot s of R =
     * slot_count, E <= R, holds a copy of expert slot_expert[s] on the ranks of expert index
     * slot_owner[s]. Every expert needs a slot; a rank may have any number, also 0. slot_owner
     * NULL: contiguous runs, R * i / ep up to R * (i + 1) / ep. Token t of expert index i takes
     * replica (i + t) mod n of the n an expert has, by ascending slot: loads are shared, and exact
     * results are the same bits. slot_count 0: no such tables. Read during the call only.
     */
    int32_t        slot_count;
    const int32_t *slot_expert; /**< [slot_count] */
    const int32_t *slot_owner;  /**< [slot_count] or NULL */
} witan_layer_config_t;

/** Fill `config` with zeros and the defaults named above (activation silu, gated; softmax). */
WITAN_API void witan_layer_config_init(witan_layer_config_t *config);

/** The tensors of a block. Shapes are [out, in]. */
typedef enum witan_weight {
    WITAN_WEIGHT_ROUTER            = 0,  /**< [E, H] */
    WITAN_WEIGHT_ROUTER_BIAS       = 1,  /**< [1, E] */
    WITAN_WEIGHT_ROUTER_CORRECTION = 2,  /**< [1, E] */
    WITAN_WEIGHT_GATE              = 3,  /**< [I, H] per expert */
    WITAN_WEIGHT_UP                = 4,  /**< [I, H] per expert */
    WITAN_WEIGHT_DOWN              = 5,  /**< [H, I] per expert */
    WITAN_WEIGHT_GATE_BIAS         = 6,  /**< [1, I] per expert */
    WITAN_WEIGHT_UP_BIAS           = 7,  /**< [1, I] per expert */
    WITAN_WEIGHT_DOWN_BIAS         = 8,  /**< [1, H] per expert */
    WITAN_WEIGHT_SHARED_GATE       = 9,  /**< [Is, H] */
    WITAN_WEIGHT_SHARED_UP         = 10, /**< [Is, H] */
    WITAN_WEIGHT_SHARED_DOWN       = 11, /**< [H, Is] */
    WITAN_WEIGHT_SHARED_ROUTER     = 12, /**< [1, H] */
    WITAN_WEIGHT_COUNT
} witan_weight_t;

/** A rectangle of one tensor. */
typedef struct witan_weight_slice {
    witan_weight_t weight;
    int32_t        expert; /**< 0..E-1; -1 for tensors that are not per expert */
    int64_t        row_begin, row_count;
    int64_t        col_begin, col_count;
    witan_dtype_t  dtype; /**< wanted in `out` */
} witan_weight_slice_t;

/**
 * Where weights come from. `read` writes the slice row by row without gaps into `out`, converted to
 * `slice->dtype`; it may be called from one thread at a time, and only for slices this rank needs.
 * A failing read says why through witan_error_set().
 */
typedef struct witan_weights {
    void *context;
    witan_status_t (*read)(void *context, const witan_weight_slice_t *slice, void *out);
} witan_weights_t;

/** Set witan_last_error() from a callback and return `status`; printf-like. */
WITAN_API witan_status_t witan_error_set(witan_status_t status, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

/**
 * Build a layer from a caller's own weights. Collective. Ranks that have read theirs wait for
 * the others, as long as these get on with reading; the group's deadline is for one that does not.
 *
 * @param config  equal on all ranks.
 * @param weights read during the call only; the layer holds its own packed copy of what it owns.
 * @return WITAN_OK; WITAN_E_ARGUMENT, WITAN_E_CONFIG with the field; WITAN_E_MEMORY;
 * WITAN_E_MISMATCH; WITAN_E_UNSUPPORTED backend or tier, with the reason; what `read` returned;
 * WITAN_E_PEER; WITAN_E_TIMEOUT. On failure *out is NULL.
 */
WITAN_API witan_status_t witan_layer_create(witan_layer_t **out, witan_group_t *group,
                                            const witan_layer_config_t *config,
                                            const witan_weights_t      *weights);

typedef struct witan_load_options {
    size_t         struct_bytes;
    const char    *backend;            /**< as in witan_layer_config_t */
    const char    *kernel_tier;        /**< as in witan_layer_config_t */
    const int32_t *expert_owner;       /**< as in witan_layer_config_t */
    int32_t        expert_owner_count; /**< entries of expert_owner; must be E */
    int32_t        slot_count;         /**< as in witan_layer_config_t */
    const int32_t *slot_expert;        /**< as in witan_layer_config_t */
    const int32_t *slot_owner;         /**< as in witan_layer_config_t */
    /** May be NULL. Called by the loading thread after each read; bytes_total is an even rank's
     * share of the expert weights, so bytes_done may end below it and never passes it. */
    void (*progress)(void *context, int64_t bytes_done, int64_t bytes_total);
    void *progress_context;
} witan_load_options_t;

WITAN_API void witan_load_options_init(witan_load_options_t *options);

/**
 * Load block `layer_index` of a Hugging Face folder (config.json with model.safetensors or the
 * sharded index). Collective; every rank must see the same folder content and reads only the bytes
 * it needs. Families, options and layouts: docs/formats.md.
 *
 * @param options NULL for the defaults.
 * @return as witan_layer_create, and WITAN_E_IO, WITAN_E_FORMAT, WITAN_E_CONFIG naming file, tensor
 * or key.
 */
WITAN_API witan_status_t witan_layer_load(witan_layer_t **out, witan_group_t *group,
                                          const char *folder, int32_t layer_index,
                                          const witan_load_options_t *options);

typedef struct witan_layer_info {
    size_t               struct_bytes;
    witan_layer_config_t config;       /**< as resolved, slot_owner or expert_owner never NULL;
                                            its pointers belong to the layer */
    const char    *backend;            /**< the choice taken */
    const char    *kernel_tier;        /**< the choice taken */
    const char    *family;             /**< Hugging Face model_type; "" for witan_layer_create */
    int32_t        local_expert_count; /**< slots of this rank; without slots, experts */
    const int32_t *local_experts;      /**< [local_expert_count] global ids, by slot */
    const int32_t *local_slots;        /**< [local_expert_count] ascending; without slots
                                            slot s is expert s */
    int64_t local_inter_begin;         /**< the slice of I held here, [begin, end) */
    int64_t local_inter_end;
    int64_t weight_bytes; /**< held by this rank */
} witan_layer_info_t;

/** Fill `info`; `info->struct_bytes` must be set by the caller. Local. */
WITAN_API witan_status_t witan_layer_info(const witan_layer_t *layer, witan_layer_info_t *info);

/** Free a layer; NULL is allowed. Local. Its plans must be destroyed before. */
WITAN_API void witan_layer_destroy(witan_layer_t *layer);

/**
 * Memory where the layer's backend computes, for callers without CUDA of their own: `hidden` and
 * `output` of its plans. 64-byte aligned or better, not cleared. Local.
 * @return WITAN_OK; WITAN_E_ARGUMENT; WITAN_E_MEMORY. On failure *out is NULL.
 */
WITAN_API witan_status_t witan_memory_alloc(const witan_layer_t *layer, void **out, size_t bytes);

/** Give it back; NULL is allowed. Work that uses it must be over. Local. */
WITAN_API void witan_memory_free(const witan_layer_t *layer, void *memory);

/** Copy between such memory and ordinary memory, either way; complete when it returns. It does not
 * wait for plans with streams of their own: call witan_plan_wait before. Local. */
WITAN_API witan_status_t witan_memory_copy(const witan_layer_t *layer, void *to, const void *from,
                                           size_t bytes);

#ifdef __cplusplus
}
#endif
#endif

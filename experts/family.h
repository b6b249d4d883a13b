/* The model families Witan reads and writes, as data: names of tensors, keys of config.json,
 * options of the routing. A new family is a new row of the table in family.c. */
#ifndef WTN_FAMILY_H
#define WTN_FAMILY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <witan/layer.h>

#include "experts/safetensors.h"

/* How the matrices of the routed experts lie in the files. */
typedef enum wtn_layout_kind {
    WTN_LAYOUT_PER_EXPERT = 0, /* one [out, in] tensor per expert and projection; may be FP8 */
    WTN_LAYOUT_FUSED      = 1, /* gate_up [E, 2I, H], the gate's rows first; down [E, H, I] */
    WTN_LAYOUT_TRANSPOSED = 2, /* gate_up [E, H, 2I], gate in even columns; down [E, I, H] */
    WTN_LAYOUT_MXFP4 = 3, /* gate_up [E, 2I, H/32, 16], gate in even rows; down [E, H, I/32, 16] */
} wtn_layout_kind_t;

/* Tensor names behind "model.layers.<layer>."; "{e}" stands for the expert. Where gate and up share
 * a tensor both have its name. NULL: the family has no such tensor. */
typedef struct wtn_layout {
    wtn_layout_kind_t kind;
    const char       *names[WITAN_WEIGHT_COUNT];
} wtn_layout_t;

/* Which layers are dense. */
typedef enum wtn_dense_rule {
    WTN_DENSE_NONE        = 0,  /* every layer has experts */
    WTN_DENSE_SPARSE_STEP = 1,  /* experts where (layer + 1) % decoder_sparse_step == 0 and layer is
                                   not among mlp_only_layers */
    WTN_DENSE_FIRST_K      = 2, /* experts from layer first_k_dense_replace on */
    WTN_DENSE_FIRST_K_FREQ = 3, /* and there where layer % moe_layer_freq == 0 */
} wtn_dense_rule_t;

typedef enum wtn_shared_rule {
    WTN_SHARED_NONE  = 0,
    WTN_SHARED_WIDTH = 1, /* shared_key holds the width */
    WTN_SHARED_COUNT = 2, /* shared_key holds a multiple of the routed experts' width */
} wtn_shared_rule_t;

#define WTN_FAMILY_LAYOUTS_MAX 2

/* Keys that are NULL do not exist in the family; defaults are those of the transformers package. */
typedef struct wtn_family {
    const char *model_type;
    const char *architecture; /* what "architectures" in config.json says */

    const char *experts_key; /* E; num_experts, num_local_experts, n_routed_experts are all read */
    const char *inter_key;   /* I */

    /* Routing: `routing` holds what is fixed and the defaults of what the keys may change. */
    witan_routing_t routing;
    const char     *normalise_key;   /* bool -> routing.normalise */
    const char     *scale_key;       /* number -> routing.scale */
    const char     *score_key;       /* "softmax", "sigmoid", "sqrtsoftplus" -> routing.score */
    const char     *topk_method_key; /* must be one of topk_methods */
    const char     *topk_methods[3]; /* [1], where it exists, is [0] with groups */
    bool            has_groups;      /* n_group, topk_group -> routing.group_count, group_topk */
    bool            scale_excludes_normalise; /* both at once is refused */

    wtn_shared_rule_t shared_rule;
    const char       *shared_key;
    int64_t           shared_default; /* of shared_key */
    bool              has_shared_gate;

    wtn_dense_rule_t dense_rule;
    int64_t          first_dense_default; /* of first_k_dense_replace */

    bool has_expert_bias;   /* gate, up and down have biases */
    bool has_clamped_swish; /* swiglu_alpha, swiglu_limit; `hidden_act` does not tell the truth */

    int32_t      layout_count;
    wtn_layout_t layouts[WTN_FAMILY_LAYOUTS_MAX]; /* the first is the usual one */
} wtn_family_t;

extern const wtn_family_t wtn_families[];
extern const size_t       wtn_family_count;

/* NULL for an unknown model_type. */
const wtn_family_t *wtn_family_find(const char *model_type);

/* The layout of a kind, or NULL if the family has none such. */
const wtn_layout_t *wtn_family_layout(const wtn_family_t *family, wtn_layout_kind_t kind);

/* Longest tensor name with its NUL: prefix, pattern, expert and "_scale_inv". */
#define WTN_TENSOR_NAME_BYTES 128

/* Write the full name, as in "model.layers.3.mlp.experts.7.up_proj.weight". `expert` is ignored by
 * names without one. False: the layout has no such tensor. */
bool wtn_layout_name(const wtn_layout_t *layout, witan_weight_t weight, int32_t layer,
                     int32_t expert, char name[WTN_TENSOR_NAME_BYTES]);

/* The name of the scales beside a tensor: "X.weight" -> "X.weight_scale_inv" (FP8), "X_blocks" ->
 * "X_scales" (MXFP4). */
void wtn_layout_scale_name(const wtn_layout_t *layout, const char *name,
                           char scale_name[WTN_TENSOR_NAME_BYTES]);

/* The stored shape of a tensor of the block; the value is its rank. `config` gives E, H, I and the
 * shared width. */
int32_t wtn_layout_shape(const wtn_layout_t *layout, witan_weight_t weight,
                         const witan_layer_config_t *config, int64_t shape[WTN_ST_RANK_MAX]);

/* Rows and columns of a weight as Witan sees it, [out, in]. */
void wtn_weight_shape(witan_weight_t weight, const witan_layer_config_t *config, int64_t *rows,
                      int64_t *cols);

/* True for the weights that exist once per expert. */
bool wtn_weight_is_per_expert(witan_weight_t weight);

/* True if a layer so configured has this weight. */
bool wtn_weight_exists(witan_weight_t weight, const witan_layer_config_t *config);

#endif

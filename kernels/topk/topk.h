/* Top-k: from logits to the ids and weights of the experts of each token; the meaning of every
 * option is stated at witan_routing_t. The result of a token depends on nothing but its logits. */
#ifndef WTN_TOPK_H
#define WTN_TOPK_H

#include "kernels/backend.h"

/* The routing makes sense for E experts, K per token: WITAN_E_CONFIG naming the field. */
witan_status_t wtn_routing_check(const witan_routing_t *routing, int32_t expert_count,
                                 int32_t topk);

/* Workspace of wtn_host_topk and, with one thread, of wtn_topk_ref. SIZE_MAX: it overflows. */
size_t wtn_host_topk_workspace_bytes(int32_t expert_count, int32_t topk, int32_t thread_count);

/* The reference selects by scanning all experts K times; the host version selects faster and
 * gives the same bits. The routing must have passed wtn_routing_check. WITAN_E_ARGUMENT: the
 * workspace is too small. */
witan_status_t wtn_topk_ref(const wtn_topk_args_t *args);
witan_status_t wtn_host_topk(const wtn_topk_args_t *args);

/* The order of a sum of scores: chunk after chunk of that many, in each of them as many sums as a
 * warp of a device has lanes. */
#define WTN_TOPK_SUMS  32
#define WTN_TOPK_CHUNK 1024

/* The cuda backend's slots: the bits of the reference, of up to so many experts. */
#define WTN_CUDA_TOPK_EXPERTS_MAX 65536
#ifdef __cplusplus
extern "C" {
#endif
size_t wtn_cuda_topk_workspace_bytes(int32_t expert_count, int32_t topk, int32_t thread_count);
witan_status_t wtn_cuda_topk(const wtn_topk_args_t *args);
#ifdef __cplusplus
}
#endif

/* ---- shared by both: everything but the selection ---- */

/* One thread's share of the workspace. */
typedef struct wtn_topk_scratch {
    float    *scores;      /* [E] s, what weights are made of */
    float    *choice;      /* [E] c, what is compared */
    float    *group_score; /* [group_count] */
    bool     *flag;        /* [E] the reference: taken; the host: kept groups */
    int32_t  *index;       /* [E] */
    uint64_t *key;         /* [E] */
} wtn_topk_scratch_t;

/* Carve the share of thread `index`; WITAN_E_ARGUMENT if the workspace ends before it does. */
witan_status_t wtn_topk_carve(const wtn_topk_args_t *args, int32_t index,
                              wtn_topk_scratch_t *scratch);

/* Fill scores and choice for token t. False: a choice is NaN. */
bool wtn_topk_scores(const wtn_topk_args_t *args, int64_t t, wtn_topk_scratch_t *scratch);

/* Contain a NaN: ids 0..K-1 and NaN weights for token t. */
void wtn_topk_nan(const wtn_topk_args_t *args, int64_t t);

/* Weights of token t from its ids: gather, normalise, scale. */
void wtn_topk_weights(const wtn_topk_args_t *args, int64_t t, const float *scores);

/* How many experts count for a group's score. */
static inline int32_t wtn_topk_group_best(const witan_routing_t *routing, int32_t topk)
{
    switch (routing->group_score) {
    case WITAN_GROUP_SCORE_TOP2_SUM:
        return 2;
    case WITAN_GROUP_SCORE_TOPK_SUM:
        return topk / routing->group_topk;
    case WITAN_GROUP_SCORE_MAX:
    default:
        return 1;
    }
}

#endif

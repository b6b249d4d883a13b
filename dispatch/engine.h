/* Engines: how a step is carried. `rounds` (layer.c) computes on the host and polls messages;
 * `stream` (stream.c) queues on a device. The backend of a layer decides. */
#ifndef WTN_ENGINE_H
#define WTN_ENGINE_H

#include <witan/plan.h>

#include "dispatch/layout.h"

typedef struct wtn_engine {
    /* Options this engine has not are refused by name. */
    witan_status_t (*check)(const wtn_layout_t *layout, const witan_plan_config_t *config);

    /* Workspace of a plan; `token_maxima` [ep]: token_count_max of every source. */
    witan_status_t (*bytes)(const wtn_layout_t *layout, const witan_plan_config_t *config,
                            const int64_t *token_maxima, int32_t thread_count, int64_t *bytes);
    /* Take the memory. Local; what there is stays on failure. */
    witan_status_t (*create)(witan_plan_t *plan, const int64_t *token_maxima);
    /* What needs the other ranks; after all of them have created, the watch is open. Collective.
     * NULL: nothing. */
    witan_status_t (*connect)(witan_plan_t *plan);
    /* Accepts a half-made plan. The arena may stay for free_plan, which waits for plan->remains. */
    void (*destroy)(witan_plan_t *plan);

    /* The public calls of the same names; plan and args are not NULL. */
    witan_status_t (*route)(witan_plan_t *plan, int64_t token_count, const void *hidden);
    witan_status_t (*import)(witan_plan_t *plan, int64_t token_count, const int32_t *ids,
                             const float *weights);
    witan_status_t (*dispatch)(witan_plan_t *plan, const void *hidden);
    witan_status_t (*experts)(witan_plan_t *plan);
    witan_status_t (*combine)(witan_plan_t *plan, void *output);
    witan_status_t (*forward)(witan_plan_t *plan, const witan_forward_args_t *args);
    witan_status_t (*wait)(witan_plan_t *plan);
    /* ids and weights in ordinary memory. NULL: the plan's own are. */
    witan_status_t (*routing)(const witan_plan_t *plan, const int32_t **ids, const float **weights);
    /* Bring the counts of the plan up to date. NULL: they are. */
    witan_status_t (*stats)(witan_plan_t *plan);
} wtn_engine_t;

extern const wtn_engine_t wtn_engine_rounds;
extern const wtn_engine_t wtn_engine_stream;

static inline const wtn_engine_t *wtn_engine_of(const wtn_layout_t *layout)
{
    return layout->backend->device == NULL ? &wtn_engine_rounds : &wtn_engine_stream;
}

#endif

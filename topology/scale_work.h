/* What the processors of a step compute, by rank and by phase. */
#ifndef WTN_SCALE_WORK_H
#define WTN_SCALE_WORK_H

#include "topology/scale_model.h"

typedef struct wtn_scale_work {
    double route, plan, gather, shared, experts, partial, combine; /* of the slowest rank */
    double flops; /* of all that, what is bound by operations rather than by memory */
} wtn_scale_work_t;

/* `token_count`: of a tensor group. `rank_experts` [ep], if not NULL, gets the time of the experts
 * and partial sums of each expert index. WITAN_E_MEMORY. */
witan_status_t wtn_scale_work_make(wtn_scale_work_t *work, const wtn_scale_machine_t *machine,
                                   const wtn_scale_shape_t *shape, const wtn_scale_mode_t *mode,
                                   double token_count, const wtn_scale_load_t *load,
                                   double *rank_experts);

/* Seconds of work that every rank does, on cores it may have to share. */
double wtn_scale_slowed(const wtn_scale_machine_t *machine, const wtn_scale_mode_t *mode,
                        double seconds);

/* The same of work that differs: the slowest rank's, or all of it over the shared cores. `count`
 * ranks are representative of all. */
double wtn_scale_shared_time(const wtn_scale_machine_t *machine, const wtn_scale_mode_t *mode,
                             const double *work, int32_t count);

#endif

/* What the files of a round share; see plan.h for its stages. */
#ifndef WTN_ROUND_H
#define WTN_ROUND_H

#include "dispatch/piece.h"

static inline wtn_request_t *wtn_round_requests(const witan_plan_t *plan, const wtn_round_t *round,
                                                wtn_request_kind_t kind)
{
    return round->requests + (size_t)kind * (size_t)plan->ep;
}

static inline bool wtn_round_is_reduced(const witan_plan_t *plan)
{
    return plan->config.combine == WITAN_COMBINE_REDUCED;
}

static inline bool wtn_round_is_home(const witan_plan_t *plan, int32_t s)
{
    return plan->shape.domains.of[s] == plan->home;
}

/* Does this rank take in what source `s` sends to its domain? */
static inline bool wtn_round_takes(const witan_plan_t *plan, int32_t s)
{
    return wtn_domain_relay(&plan->shape.domains, s, plan->home) == plan->me;
}

/* The members of this rank's domain: for (i = first; i < end) members[i]. */
static inline int32_t wtn_round_mate_begin(const witan_plan_t *plan)
{
    return plan->shape.domains.begin[plan->home];
}

static inline int32_t wtn_round_mate_end(const witan_plan_t *plan)
{
    return plan->shape.domains.begin[plan->home + 1];
}

/* wtn_wait, moving rows of other rounds on meanwhile. */
witan_status_t wtn_round_wait_for(witan_plan_t *plan, wtn_request_t *requests, size_t count,
                                  const char *phase, uint64_t deadline);

/* Notices of the mates, of those of them that were expected: are they of this round? */
witan_status_t wtn_round_check_notices(const witan_plan_t *plan, const wtn_round_t *round,
                                       const wtn_notice_t *notices);

#endif

/* Domains: sets of ranks of an expert-parallel group that share memory. A token goes to a domain
 * once, whatever it needs there. Two-level dispatch is dispatch over domains that are nodes, flat
 * dispatch that over domains of one rank. Pure. */
#ifndef WTN_DOMAIN_H
#define WTN_DOMAIN_H

#include <stdint.h>

#include <witan/status.h>

typedef struct wtn_domains {
    int32_t  ranks, count; /* ep, and how many domains they form */
    int32_t *of;           /* [ep] domain of each expert index */
    int32_t *begin;        /* [count + 1] into members */
    int32_t *members;      /* [ep] expert indices, ascending within a domain */
    int32_t *place;        /* [ep] index of each expert index among its domain's members */
} wtn_domains_t;

/* `nodes` [rank_count]: ranks with equal values share memory; NULL: none do. */
witan_status_t wtn_domains_make(wtn_domains_t *domains, int32_t rank_count, const int32_t *nodes);
void           wtn_domains_free(wtn_domains_t *domains);

static inline int32_t wtn_domain_size(const wtn_domains_t *domains, int32_t domain)
{
    return domains->begin[domain + 1] - domains->begin[domain];
}

/* The member of `domain` that takes in what `source` sends there: itself at home, elsewhere the
 * one of the same place, so that the links of a node are used by all its ranks. */
static inline int32_t wtn_domain_relay(const wtn_domains_t *domains, int32_t source, int32_t domain)
{
    return domains->members[domains->begin[domain] +
                            domains->place[source] % wtn_domain_size(domains, domain)];
}

#endif

#include <inttypes.h>
#include <stdlib.h>

#include "core/error.h"
#include "dispatch/domain.h"

witan_status_t wtn_domains_make(wtn_domains_t *domains, int32_t rank_count, const int32_t *nodes)
{
    size_t   count = (size_t)rank_count;
    int32_t *block = calloc(4 * count + 1, sizeof(*block));

    *domains = (wtn_domains_t){0};
    if (block == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "plan: domains of %" PRId32 " ranks", rank_count);
    }
    domains->ranks   = rank_count;
    domains->of      = block;
    domains->members = block + count;
    domains->place   = block + 2 * count;
    domains->begin   = block + 3 * count;
    for (int32_t r = 0; r < rank_count; r++) {
        int32_t first = 0;

        while (first < r && (nodes == NULL || nodes[first] != nodes[r])) {
            first++;
        }
        domains->of[r] = first < r ? domains->of[first] : domains->count++;
        domains->begin[domains->of[r] + 1]++; /* sizes, summed below */
    }
    for (int32_t d = 0; d < domains->count; d++) {
        domains->begin[d + 1] += domains->begin[d];
    }
    for (int32_t d = 0; d < domains->count; d++) {
        int32_t *member = domains->members + domains->begin[d];

        for (int32_t r = 0; r < rank_count; r++) {
            if (domains->of[r] == d) {
                domains->place[r] = (int32_t)(member - domains->members) - domains->begin[d];
                *member++         = r;
            }
        }
    }
    return WITAN_OK;
}

void wtn_domains_free(wtn_domains_t *domains)
{
    free(domains->of); /* the block of all four */
    *domains = (wtn_domains_t){0};
}

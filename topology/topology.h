/* What machine this is, and where this rank's threads run. */
#ifndef WTN_TOPOLOGY_H
#define WTN_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <witan/status.h>

#define WTN_CPUSET_TEXT_BYTES 256

typedef struct wtn_machine {
    char    host[64];
    char    cpu[128];
    int32_t numa_count, package_count, core_count, pu_count; /* whole machine */
    int64_t memory_bytes;
    int64_t l2_bytes, l3_bytes; /* of the first; 0 if unknown */
} wtn_machine_t;

witan_status_t wtn_machine_query(wtn_machine_t *machine);

typedef struct wtn_binding {
    int32_t core_count; /* cores this rank's threads may use */
    bool    bound;      /* narrowed by us */
    bool    inherited;  /* the launcher had narrowed it before */
    bool    shared;     /* more ranks than cores, and another has this core too */
    char    cpuset[WTN_CPUSET_TEXT_BYTES]; /* "0-3,8" */
} wtn_binding_t;

/* Choose the cores of local rank `local_rank` of `local_size`: a mask narrower than the machine,
 * set by the launcher, is respected and only shared out among ranks that have the same mask
 * (`masks_equal_before`: how many lower local ranks have this mask; `masks_equal`: how many in
 * all); pieces do not overlap, follow NUMA and cache order, and one core is shared when there are
 * more ranks than cores. With `apply` the process (all threads) is bound, unless cores are shared.
 */
witan_status_t wtn_binding_choose(int32_t masks_equal_before, int32_t masks_equal, bool apply,
                                  wtn_binding_t *binding);

/* The affinity mask of this process as text, to compare over ranks. */
witan_status_t wtn_binding_mask(char text[WTN_CPUSET_TEXT_BYTES]);

#endif

/* --placement FILE: the experts of a layer's slots, as `witan plan place` prints them. */
#ifndef WTN_LAUNCHER_PLACEMENT_H
#define WTN_LAUNCHER_PLACEMENT_H

#include "launcher/session.h"

#define WTN_PLACEMENT_OPTION(value_)                                                           \
    WTN_OPT_TEXT("placement", "FILE", NULL, value_,                                            \
                 "experts of the slots, a layer a line, as witan plan place prints them; the " \
                 "slots are dealt to the ranks in equal runs")

typedef struct wtn_slots {
    int32_t  count;
    int32_t *expert; /* [count] */
} wtn_slots_t;

/* The line of block `layer`, counted from 0, or the only one of the file; layer -1: there must be
 * one only. Rank 0 reads it and checks it against `expert_count`, which the others need not know;
 * all get it. WITAN_E_IO, WITAN_E_FORMAT naming file and line. Collective. */
witan_status_t wtn_slots_read(wtn_session_t *session, const char *path, int32_t layer,
                              int32_t expert_count, wtn_slots_t *slots);
void           wtn_slots_free(wtn_slots_t *slots);

#endif

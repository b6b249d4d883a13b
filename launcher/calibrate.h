/* What witan plan calibrate measures of the machine it runs on. */
#ifndef WTN_CALIBRATE_H
#define WTN_CALIBRATE_H

#include "launcher/bench.h"
#include "topology/scale_model.h"

typedef struct wtn_calibrate_words {
    wtn_session_options_t session;
    const char           *output, *base, *name;
    int64_t               expert_count, topk, hidden_size, inter_size, round_count;
    int32_t               dtype;
} wtn_calibrate_words_t;

/* Where the ranks are. */
typedef struct wtn_calibrate_ranks {
    int32_t node_count, ranks_per_node; /* the most of any node */
    int32_t mate, stranger;             /* a rank of rank 0's node, of another; -1: none */
    bool    one_host;                   /* nodes, if several, are one kernel's */
    int32_t core_count;                 /* of this rank's machine */
} wtn_calibrate_ranks_t;

typedef struct wtn_calibrate {
    wtn_session_t               *session;
    const wtn_calibrate_words_t *words;
    wtn_calibrate_ranks_t        ranks;
    wtn_scale_machine_t          machine;
} wtn_calibrate_t;

/* Wait for messages without taking the core from who measures: asleep but for a look now and then.
 */
witan_status_t wtn_calibrate_doze(wtn_session_t *session, wtn_request_t *requests, size_t count);

/* Ranks 0..count-1 meet; the others do not take part. */
witan_status_t wtn_calibrate_meet(wtn_session_t *session, int32_t count);

/* Rates of this rank's kernels while `together` ranks measure at once; collective over these.
 * Fills what the machine holds of them. */
witan_status_t wtn_calibrate_kernels(wtn_calibrate_t *calibrate, int32_t together);

/* A level of links between this rank and `peer`, both of whom call it; `mapped`: on one node. The
 * lower rank's figures count. */
witan_status_t wtn_calibrate_link(wtn_calibrate_t *calibrate, int32_t peer, bool mapped,
                                  wtn_scale_link_t *link);

#endif

/* How long a layer takes on a machine: a model of the steps of dispatch/layer.c.
 *
 * A machine is described by rates, a layer by its shape, a step by its routing (scale_load.h).
 * Times are seconds, rates bytes or operations a second. What is modelled and what is not:
 * docs/planner.md. */
#ifndef WTN_SCALE_MODEL_H
#define WTN_SCALE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include <witan/plan.h>

#include "topology/scale_load.h"
#include "topology/simulate.h"

#define WTN_SCALE_CURVE_MAX 24

/* A figure by another one: straight lines over log(at), flat outside. `at` ascends and is > 0. */
typedef struct wtn_scale_curve {
    int32_t count;
    double  at[WTN_SCALE_CURVE_MAX], value[WTN_SCALE_CURVE_MAX];
} wtn_scale_curve_t;

double wtn_scale_curve_at(const wtn_scale_curve_t *curve, double at);

/* A level of links. */
typedef struct wtn_scale_link {
    wtn_port_t port;
    double     copy_rate; /* bytes/s a rank's processor moves into and out of messages; 0: none,
                             devices do it */
} wtn_scale_link_t;

/* What travels while experts compute. */
typedef enum wtn_scale_overlap {
    WTN_SCALE_OVERLAP_NONE, /* a stream's stages follow each other */
    WTN_SCALE_OVERLAP_POLL, /* two rounds in flight, moved on between tiles */
} wtn_scale_overlap_t;

typedef struct wtn_scale_machine {
    char                name[64];
    char                backend[16]; /* "host" or "cuda" */
    wtn_scale_overlap_t overlap;
    bool                two_level; /* the layer can do it there */
    int64_t             ranks_per_node, nics_per_node;
    int64_t             threads;        /* of a rank */
    int64_t             cores_per_node; /* 0: every thread has a core of its own */
    int64_t shared_cores;      /* all "nodes" are one host with so many cores; 0: they are not */
    double  memory_bytes;      /* of a rank */
    double  peak_flops;        /* of a rank, dense products of the layer's dtype */
    double  memory_rate;       /* of a rank alone */
    double  memory_rate_node;  /* of all ranks of a node together; 0: as many times one */
    wtn_scale_curve_t experts; /* share of the roofline by rows per expert */
    double            route_token_s, route_expert_s; /* of a token, of a (token, expert) */
    double            route_flops;                   /* of the gate's product */
    double            plan_row_s;                    /* of a (token, k) */
    double            gather_rate, combine_rate;     /* of rows read */
    double            step_s;                        /* of a step beside all this */
    double exchange_s; /* of a step that exchanges: what its calls cost beside the messages */
    wtn_scale_link_t inside, between;
} wtn_scale_machine_t;

/* How N ranks compute it: N = dp * ep * tp. */
typedef struct wtn_scale_mode {
    int32_t rank_count, ep, tp;
    bool    two_level, reduced;
    int32_t chunk_count;
} wtn_scale_mode_t;

/* What takes most of the time. */
#define WTN_SCALE_LIMIT_LIST(X) \
    X(COMPUTE, "compute")       \
    X(MEMORY, "memory")         \
    X(INSIDE, "node link")      \
    X(BETWEEN, "network")       \
    X(LATENCY, "latency")

typedef enum wtn_scale_limit {
#define WTN_SCALE_LIMIT_ENUM(name, text) WTN_SCALE_LIMIT_##name,
    WTN_SCALE_LIMIT_LIST(WTN_SCALE_LIMIT_ENUM)
#undef WTN_SCALE_LIMIT_ENUM
        WTN_SCALE_LIMIT_COUNT
} wtn_scale_limit_t;

const char *wtn_scale_limit_name(wtn_scale_limit_t limit);

typedef struct wtn_scale_result {
    double            seconds;
    double            phases[WITAN_PHASE_COUNT]; /* exposed; they add up to `seconds` */
    double            limits[WTN_SCALE_LIMIT_COUNT];
    wtn_scale_limit_t limit;
    double            inside_bytes, between_bytes; /* sent by all ranks in one step */
    double            imbalance;                   /* max / mean of rows over ranks */
} wtn_scale_result_t;

/* Formulas: the busiest port, the slowest rank. `token_count`: of each rank, so a tensor group
 * holds tp times as many. `load` was made for the mode's ep, tp and that many tokens.
 * WITAN_E_MEMORY. */
witan_status_t wtn_scale_predict(const wtn_scale_machine_t *machine, const wtn_scale_shape_t *shape,
                                 const wtn_scale_mode_t *mode, double token_count,
                                 const wtn_scale_load_t *load, wtn_scale_result_t *result);

/* What is not as it should be. */
typedef struct wtn_scale_disturbance {
    int32_t slow_rank;   /* -1: none */
    double  slow_factor; /* its compute and its ports; >= 1 */
    double  congestion;  /* share of the network's rate that others take, 0 to < 1 */
} wtn_scale_disturbance_t;

/* The same step, its exchanges message by message: a rank computes when its tokens are there and
 * the rows leave it when it has. One round, so chunk_count must be 1. WITAN_E_MEMORY. */
witan_status_t wtn_scale_simulate(const wtn_scale_machine_t *machine,
                                  const wtn_scale_shape_t *shape, const wtn_scale_mode_t *mode,
                                  double token_count, const wtn_scale_load_t *load,
                                  const wtn_scale_disturbance_t *disturbance,
                                  wtn_scale_result_t            *result);

#endif

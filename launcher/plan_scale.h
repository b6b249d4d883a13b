/* witan plan scale: what is asked, the points that answer, and how they are shown. */
#ifndef WTN_PLAN_SCALE_H
#define WTN_PLAN_SCALE_H

#include <stdbool.h>
#include <stdint.h>

#include <witan/witan.h>

#include "launcher/options.h"
#include "launcher/skew.h"
#include "topology/scale_model.h"

typedef struct wtn_scale_words {
    const char *model, *machine, *nodes, *mode, *skew, *json, *csv;
    const char *slow_factor, *congestion;
    int64_t     layer, expert_count, topk, hidden_size, inter_size, shared_inter_size;
    int64_t     token_count, ranks_per_node, chunk_count, slow_rank, layer_count;
    int32_t     dtype, scaling, hierarchy, combine;
    bool        all, simulate, published;
} wtn_scale_words_t;

#define WTN_SCALE_NODES_MAX 4096

/* Which points are wanted. */
typedef struct wtn_scale_wish {
    int64_t nodes[WTN_OPTION_LIST_MAX];
    int32_t node_count;
    int32_t ep, tp; /* 0: any; -1: as many as there are ranks */
} wtn_scale_wish_t;

/* WITAN_E_ARGUMENT naming the option. */
witan_status_t wtn_scale_check_words(const wtn_scale_words_t *words, wtn_scale_wish_t *wish,
                                     wtn_scale_disturbance_t *disturbance);

/* Why a point is flat where two levels were asked for. */
typedef enum wtn_scale_flat {
    WTN_SCALE_FLAT_FREE, /* it is not, or they were not */
    WTN_SCALE_FLAT_ALONE,
    WTN_SCALE_FLAT_SPREAD,
    WTN_SCALE_FLAT_UNEVEN,
    WTN_SCALE_FLAT_INSIDE,
    WTN_SCALE_FLAT_COUNT
} wtn_scale_flat_t;

/* A way to compute the step on so many nodes, and what it costs. */
typedef struct wtn_scale_point {
    bool               strong;
    int64_t            node_count, token_count; /* tokens: of a rank */
    wtn_scale_mode_t   mode;
    wtn_scale_result_t result;
    double             simulated; /* s; 0: was not */
    int64_t            memory_bytes;
    bool               fits, runs, best;
    wtn_scale_flat_t   flat;
} wtn_scale_point_t;

typedef struct wtn_scale_plan {
    const wtn_scale_words_t *words;
    wtn_scale_machine_t      machine;
    witan_layer_config_t     config;
    wtn_scale_shape_t        shape;
    wtn_skew_t              *skew;
    wtn_scale_disturbance_t  disturbance;
    bool                     host_sizes; /* memory is that of the host backend */
    wtn_scale_point_t       *points;
    size_t                   point_count, point_room;
} wtn_scale_plan_t;

/* Block `layer` of config.json or of the folder it lies in; -1: the first with experts. */
witan_status_t wtn_scale_read_model(const char *path, int32_t layer, witan_layer_config_t *config);

/* "ep", "tp" or "ep4xtp2"; with dp groups the same, of each group. */
void wtn_scale_mode_text(const wtn_scale_mode_t *mode, char text[32]);

void           wtn_scale_print(const wtn_scale_plan_t *plan);
witan_status_t wtn_scale_write_json(const wtn_scale_plan_t *plan, const char *path);
witan_status_t wtn_scale_write_csv(const wtn_scale_plan_t *plan, const char *path);

/* The table of published figures and their floors. */
void wtn_scale_print_published(void);

#endif

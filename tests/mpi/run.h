/* One forward step of a block, over all ranks or on one alone, on the host or on a device. */
#ifndef TEST_RUN_H
#define TEST_RUN_H

#include "block.h"

struct run;

/* Where a run is computed. */
typedef struct run_place {
    witan_group_t *(*group)(const struct run *run); /* of all ranks, folded as the run says */
    witan_layer_t *(*layer)(block_t *block, witan_group_t *group);
} run_place_t;

extern const run_place_t run_on_host;

typedef struct run {
    const run_place_t  *place;
    int64_t             token_count; /* of all ranks */
    const int64_t      *begins;      /* [ep + 1] split over expert indices, or NULL: even */
    int32_t             ep, tp;
    int32_t             ranks_per_node;
    const int32_t      *owner;
    int32_t             slot_count; /* 0: no slots, `owner` says */
    const int32_t      *slot_expert, *slot_owner;
    witan_plan_config_t plan;
    bool                steps;   /* step by step instead of witan_forward */
    bool                poison;  /* caller's workspace, filled with NaN */
    int32_t             repeats; /* of the step, with one plan; the last one's result */
    const int32_t      *ids;     /* import these [token_count, K] */
    const float        *weights;
} run_t;

typedef struct result {
    char         *rows; /* [token_count, H] on every rank */
    int32_t      *ids;
    float        *weights;
    witan_stats_t stats; /* of this rank; the first entries of its arrays: */
    int64_t       expert_row_counts[64], expert_token_counts[256], rank_row_counts[16];
} result_t;

/* A run over the world, on the host, experts over all ranks. */
run_t run_make(int64_t token_count);

/* The layer of a block on a backend. */
witan_layer_t *run_layer_on(block_t *block, witan_group_t *group, const char *backend);

result_t run_world(block_t *block, const run_t *run);
/* All experts and all tokens on one rank, without MPI. */
result_t run_alone(block_t *block, const run_t *run);
void     result_free(result_t *result);

void run_assert_equal_routing(const block_t *block, const run_t *run, const result_t *a,
                              const result_t *b);
void run_assert_equal_bits(const block_t *block, const run_t *run, const result_t *a,
                           const result_t *b);
/* Within the accuracy the README promises, ||y - r|| / ||r||. */
void run_assert_accurate(block_t *block, const run_t *run, const result_t *result);
/* Ways to form nodes, 0 to RUN_NODES_COUNT: flat; all ranks on one; of 2 ranks, or of 3 and a rest.
 */
enum { RUN_NODES_COUNT = 3 };
void run_choose_nodes(run_t *run, int way);

/* In all these ways the world gives the bits of one rank alone, and these are accurate. */
void run_check_exact(block_t *block, const run_t *run);

#endif

/* One forward step of a block over all ranks, on the host or on a device. */
#ifndef TEST_DEVICE_RUN_H
#define TEST_DEVICE_RUN_H

#include "tests/mpi/block.h"
#include "tests/mpi/harness.h"

typedef struct run {
    int64_t             token_count; /* of all ranks */
    const int64_t      *begins;      /* [ep + 1] split over expert indices, or NULL: even */
    int32_t             ep, tp;
    const int32_t      *owner;
    int32_t             slot_count; /* 0: no slots, `owner` says */
    const int32_t      *slot_expert, *slot_owner;
    witan_plan_config_t plan;
    bool                steps;   /* step by step instead of witan_forward */
    bool                host;    /* on the host backend */
    bool                poison;  /* in the least workspace that will do, filled with NaN */
    int32_t             repeats; /* of the step, with one plan; the last one's result */
    const int32_t      *ids;     /* import these [token_count, K] */
    const float        *weights;
} run_t;

typedef struct result {
    char         *rows; /* [token_count, H] on every rank */
    int32_t      *ids;
    float        *weights;
    witan_stats_t stats; /* of this rank; arrays copied: */
    int64_t       expert_row_counts[64], expert_token_counts[256], rank_row_counts[16];
} result_t;

run_t run_make(int64_t token_count);

/* On all ranks of the world, folded as `run` says; and on this one alone. */
result_t run_world(block_t *block, const run_t *run);
result_t run_alone(block_t *block, const run_t *run);
void     result_free(result_t *result);

/* A group of all ranks. */
witan_group_t *device_group(int32_t ep, int32_t tp);

/* The layer of a block where device steps are tested: on cuda, or on the software device. */
witan_layer_t *device_layer(block_t *block, witan_group_t *group);

void assert_equal_routing(const block_t *block, const run_t *run, const result_t *a,
                          const result_t *b);
void assert_equal_bits(const block_t *block, const run_t *run, const result_t *a,
                       const result_t *b);
/* Within the accuracy the README promises, ||y - r|| / ||r||. */
void assert_accurate(block_t *block, const run_t *run, const result_t *result);

#endif

/* One forward step of a block on the host, over all ranks or on one alone. */
#ifndef TEST_RUN_H
#define TEST_RUN_H

#include "block.h"

typedef struct run {
    int64_t             token_count; /* of all ranks */
    const int64_t      *begins;      /* [ep + 1] split over expert indices, or NULL: even */
    int32_t             ep, tp;
    int32_t             ranks_per_node;
    const int32_t      *owner;
    int32_t             slot_count; /* 0: no slots, `owner` says */
    const int32_t      *slot_expert, *slot_owner;
    witan_plan_config_t plan;
    bool                steps;  /* step by step instead of witan_forward */
    bool                poison; /* caller's workspace, filled with NaN */
    const int32_t      *ids;    /* import these [token_count, K] */
    const float        *weights;
} run_t;

typedef struct result {
    char    *rows; /* [token_count, H] on every rank */
    int32_t *ids;
    float   *weights;
    int64_t  round_count;
    int64_t  tensor_send_bytes;
} result_t;

/* A run over the world, experts over all ranks. */
run_t run_make(int64_t token_count);

result_t run_world(block_t *block, const run_t *run);
/* All experts and all tokens on one rank, without MPI. */
result_t run_alone(block_t *block, const run_t *run);
void     result_free(result_t *result);

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

/* The same block over MPI ranks: every rank holds a part of the experts and brings its own tokens.
 *
 *   mpirun -n 4 ./forward_mpi
 */
#include <witan/witan_mpi.h>

#include "block.h"

enum { TOKENS_MAX = 4 };

/* Everything between MPI_Init and MPI_Finalize; returns the number of wrong tokens. */
static int forward(int rank)
{
    witan_weights_t      weights     = {.context = NULL, .read = block_read};
    int64_t              token_count = 1 + rank % TOKENS_MAX; /* ranks may differ, and have none */
    witan_group_t       *group       = NULL;
    witan_layer_t       *layer       = NULL;
    witan_plan_t        *plan        = NULL;
    witan_layer_config_t layer_config;
    witan_plan_config_t  plan_config;
    witan_forward_args_t args = {.struct_bytes = sizeof(args), .token_count = token_count};
    static float         hidden[TOKENS_MAX * HIDDEN], output[TOKENS_MAX * HIDDEN];
    int64_t              token_begin = (int64_t)rank * TOKENS_MAX;
    int                  wrong       = TOKENS_MAX;

    for (int64_t i = 0; i < token_count * HIDDEN; i++) {
        hidden[i] = block_token(token_begin + i / HIDDEN, i % HIDDEN);
    }
    block_config(&layer_config);
    witan_plan_config_init(&plan_config);
    plan_config.token_count_max = token_count;
    args.hidden                 = hidden;
    args.output                 = output;

    if (witan_group_create_mpi(&group, MPI_COMM_WORLD, NULL) == WITAN_OK &&
        witan_layer_create(&layer, group, &layer_config, &weights) == WITAN_OK &&
        witan_plan_create(&plan, layer, &plan_config) == WITAN_OK &&
        witan_forward(plan, &args) == WITAN_OK) {
        wrong = block_check(plan, token_begin, token_count, output);
    } else {
        fprintf(stderr, "forward_mpi: rank %d: %s\n", rank, witan_last_error());
    }
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
    return wrong;
}

int main(int argc, char **argv)
{
    int rank, wrong, wrong_all = 0;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    wrong = forward(rank);
    MPI_Allreduce(&wrong, &wrong_all, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0) {
        printf("witan %s: %d tokens wrong on all ranks\n", witan_version(), wrong_all);
    }
    MPI_Finalize();
    return wrong_all == 0 ? 0 : 1;
}

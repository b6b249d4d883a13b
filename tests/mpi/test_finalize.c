/* Objects that outlive MPI_Finalize: destroying them gives memory back and touches no MPI. */
#include "block.h"
#include "harness.h"

int main(int argc, char **argv)
{
    block_t             block   = block_make(8, 2, 16, 8, WITAN_F32);
    witan_weights_t     weights = block_weights(&block);
    witan_plan_config_t config;
    witan_group_t      *group;
    witan_layer_t      *layer;
    witan_plan_t       *plan;

    MPI_Init(&argc, &argv);
    witan_plan_config_init(&config);
    config.token_count_max = 4;
    if (witan_group_create_mpi(&group, MPI_COMM_WORLD, NULL) != WITAN_OK ||
        witan_layer_create(&layer, group, &block.config, &weights) != WITAN_OK ||
        witan_plan_create(&plan, layer, &config) != WITAN_OK) {
        fprintf(stderr, "%s\n", witan_last_error());
        return EXIT_FAILURE;
    }
    MPI_Finalize();
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
    return EXIT_SUCCESS;
}

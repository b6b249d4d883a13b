#include "harness.h"

int world_rank, world_size;

witan_group_t *world_group(int32_t ep, int32_t tp)
{
    return world_group_of_nodes(ep, tp, 0);
}

witan_group_t *world_group_of_nodes(int32_t ep, int32_t tp, int32_t ranks_per_node)
{
    witan_group_config_t config;
    witan_group_t       *group = NULL;

    witan_group_config_init(&config);
    config.expert_parallel = ep;
    config.tensor_parallel = tp;
    config.ranks_per_node  = ranks_per_node;
    config.thread_count    = 1;
    config.timeout_ns      = 20000000000u;
    ck_ok(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config));
    return group;
}

int harness_run(int argc, char **argv, Suite *(*make_suite)(void))
{
    SRunner *runner;
    int      provided, failed, failed_anywhere = 0;

    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    runner = srunner_create(make_suite());
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, world_rank == 0 ? CK_NORMAL : CK_SILENT);
    failed = srunner_ntests_failed(runner);
    if (failed > 0 && world_rank != 0) {
        fprintf(stderr, "rank %d:\n", world_rank);
        srunner_print(runner, CK_NORMAL);
    }
    srunner_free(runner);
    MPI_Allreduce(&failed, &failed_anywhere, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    MPI_Finalize();
    return failed_anywhere == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

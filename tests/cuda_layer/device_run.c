#include "device_run.h"

#ifdef WITAN_TEST_SOFTWARE
#include "software.h"
#else
#include "graph.h"
#endif

witan_layer_t *device_layer(block_t *block, witan_group_t *group)
{
#ifdef WITAN_TEST_SOFTWARE
    witan_layer_t *layer = run_layer_on(block, group, "host");

    software_take(layer);
    return layer;
#else
    return run_layer_on(block, group, "cuda");
#endif
}

witan_group_t *device_group(int32_t ep, int32_t tp)
{
    witan_group_config_t config;
    witan_group_t       *group;

    witan_group_config_init(&config);
    config.expert_parallel = ep;
    config.tensor_parallel = tp;
    config.thread_count    = 1;
    config.timeout_ns      = 60000000000u;
    config.share_device    = device_count() < world_size;
    ck_ok(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config));
    return group;
}

static witan_group_t *group_of(const run_t *run)
{
    return device_group(run->ep, run->tp);
}

run_t device_run(int64_t token_count)
{
    static const run_place_t on_device = {.group = group_of, .layer = device_layer};
    run_t                    run       = run_make(token_count);

    run.place = &on_device;
    return run;
}

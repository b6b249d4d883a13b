/* Where device steps are tested: on cuda, or on the software device. */
#ifndef TEST_DEVICE_RUN_H
#define TEST_DEVICE_RUN_H

#include "tests/mpi/harness.h"
#include "tests/mpi/run.h"

/* A run over the world on devices. */
run_t device_run(int64_t token_count);

/* A group of all ranks. */
witan_group_t *device_group(int32_t ep, int32_t tp);

/* The layer of a block. */
witan_layer_t *device_layer(block_t *block, witan_group_t *group);

#endif

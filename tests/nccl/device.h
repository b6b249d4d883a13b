/* What the tests of this folder share: a device for each rank, its memory, a stream. */
#ifndef TEST_NCCL_DEVICE_H
#define TEST_NCCL_DEVICE_H

#include <cuda_runtime_api.h>

#include "comm/comm.h"
#include "mpi/harness.h"

#define ck_cuda(call)                                                                    \
    do {                                                                                 \
        cudaError_t code_ = (call);                                                      \
        ck_assert_msg(code_ == cudaSuccess, "%s: %s", #call, cudaGetErrorString(code_)); \
    } while (0)

extern bool         few_devices; /* ranks have to share */
extern cudaStream_t stream;

/* As harness_run, with a device taken; 77, the sign of a skipped test, where there is none. */
int device_run(int argc, char **argv, Suite *(*make_suite)(void));

/* Device memory holding `bytes` of `data` (NULL: poison), and back; freed with cudaFree. */
void *device_put(const void *data, size_t bytes);
void  device_get(void *to, const void *from, size_t bytes);

/* All ranks, deadline in seconds. */
witan_group_t *group_within(double seconds);

#endif

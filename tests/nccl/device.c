#include "device.h"

bool         few_devices;
cudaStream_t stream;

static Suite *(*make_tests)(void);

/* After MPI has started: a device for the rank. */
static Suite *make_with_device(void)
{
    int count = 0;

    if (cudaGetDeviceCount(&count) != cudaSuccess ||
        cudaSetDevice(world_rank % count) != cudaSuccess ||
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) {
        fprintf(stderr, "rank %d: no device: %s\n", world_rank,
                cudaGetErrorString(cudaPeekAtLastError()));
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    }
    few_devices = count < world_size;
    return make_tests();
}

int device_run(int argc, char **argv, Suite *(*make_suite)(void))
{
    int count = 0;

    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        return 77;
    }
    make_tests = make_suite;
    return harness_run(argc, argv, make_with_device);
}

void *device_put(const void *data, size_t bytes)
{
    void *memory = NULL;

    ck_cuda(cudaMalloc(&memory, bytes + 1)); /* of 0 bytes would be NULL */
    if (data == NULL) {
        ck_cuda(cudaMemset(memory, 0xee, bytes + 1));
    } else {
        ck_cuda(cudaMemcpy(memory, data, bytes, cudaMemcpyHostToDevice));
    }
    ck_cuda(cudaDeviceSynchronize());
    return memory;
}

void device_get(void *to, const void *from, size_t bytes)
{
    ck_cuda(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}

witan_group_t *group_within(double seconds)
{
    witan_group_config_t config;
    witan_group_t       *group = NULL;

    witan_group_config_init(&config);
    config.thread_count = 1;
    config.timeout_ns   = (uint64_t)(seconds * 1e9);
    ck_ok(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config));
    return group;
}

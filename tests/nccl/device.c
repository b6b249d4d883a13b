#include "device.h"

bool         few_devices;
cudaStream_t stream;

bool device_take(void)
{
    int count = 0, found, rank = 0;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &found);
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        return false;
    }
    few_devices = count < found;
    return cudaSetDevice(rank % count) == cudaSuccess &&
           cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess;
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

#include "graph.h"

#include <check.h>
#include <cuda_runtime_api.h>

int device_count(void)
{
    int count = 0;

    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

int device_current(void)
{
    int device = -1;

    ck_assert_int_eq(cudaGetDevice(&device), cudaSuccess);
    return device;
}

void device_make_current(int device)
{
    ck_assert_int_eq(cudaSetDevice(device), cudaSuccess);
}

void *stream_make(void)
{
    cudaStream_t stream;

    ck_assert_int_eq(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    return stream;
}

void stream_free(void *stream)
{
    ck_assert_int_eq(cudaStreamDestroy(stream), cudaSuccess);
}

void capture_begin(void *stream)
{
    ck_assert_int_eq(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
}

void *capture_end(void *stream)
{
    cudaGraph_t     graph;
    cudaGraphExec_t exec;

    ck_assert_int_eq(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ck_assert_int_eq(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    ck_assert_int_eq(cudaGraphDestroy(graph), cudaSuccess);
    return exec;
}

void graph_replay(void *graph, void *stream)
{
    ck_assert_int_eq(cudaGraphLaunch(graph, stream), cudaSuccess);
}

void graph_free(void *graph)
{
    ck_assert_int_eq(cudaGraphExecDestroy(graph), cudaSuccess);
}

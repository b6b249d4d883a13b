/* Streams and events of CUDA, and the table of what a step on a device needs. */
#include <stdio.h>

#include <cuda_runtime_api.h>

#include "core/error.h"
#include "dispatch/link.h"
#include "kernels/cuda/cuda.h"
#include "kernels/device.h"

static witan_status_t use(int32_t device, int32_t local_rank, int32_t *taken)
{
    int            count = 0;
    cudaError_t    code;
    witan_status_t status;

    if (device < 0) {
        WTN_CUDA_TRY(cudaGetDeviceCount(&count));
        device = count > 0 ? local_rank % count : 0;
    }
    code = cudaSetDevice(device);
    if (code == cudaErrorInvalidDevice) {
        (void)cudaGetLastError();
        WTN_CUDA_TRY(cudaGetDeviceCount(&count));
        return WTN_ERROR(WITAN_E_ARGUMENT, "group: device: expected -1 to %d, found %d", count - 1,
                         (int)device);
    }
    *taken = device;
    return wtn_cuda_status((int)code, "cudaSetDevice");

fail:
    return status;
}

static bool describe(int32_t device, char *text, size_t text_bytes)
{
    struct cudaDeviceProp properties;
    char                  place[32] = "?";
    int                   count     = 0;

    if (cudaGetDeviceCount(&count) != cudaSuccess || device >= count ||
        cudaGetDeviceProperties(&properties, device) != cudaSuccess) {
        (void)cudaGetLastError();
        return false;
    }
    (void)cudaDeviceGetPCIBusId(place, sizeof(place), device);
    (void)snprintf(text, text_bytes, "%s, capability %d.%d, %d multiprocessors, %.1f GiB, %s",
                   properties.name, properties.major, properties.minor,
                   properties.multiProcessorCount, (double)properties.totalGlobalMem / 0x1p30,
                   place);
    return true;
}

static int32_t multiprocessors(void)
{
    return wtn_cuda_sm_count(0);
}

static witan_status_t stream_create(void **out)
{
    cudaStream_t   stream = NULL;
    witan_status_t status;

    /* Not tied to the default stream, which a caller's own code may use. */
    WTN_CUDA_TRY(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));

fail:
    *out = stream;
    return status;
}

static void stream_destroy(void *stream)
{
    if (stream != NULL) {
        (void)cudaStreamDestroy(stream);
    }
}

static witan_status_t stream_query(void *stream, bool *passed)
{
    cudaError_t code = cudaStreamQuery(stream);

    *passed = code == cudaSuccess;
    return code == cudaErrorNotReady ? WITAN_OK : wtn_cuda_status((int)code, "queued work");
}

static witan_status_t stream_is_capturing(void *stream, bool *capturing)
{
    enum cudaStreamCaptureStatus found = cudaStreamCaptureStatusNone;
    witan_status_t               status;

    WTN_CUDA_TRY(cudaStreamIsCapturing(stream, &found));

fail:
    *capturing = found != cudaStreamCaptureStatusNone;
    return status;
}

static witan_status_t graph_create(void **out, witan_status_t (*record)(void *context),
                                   void *context, void *stream)
{
    cudaGraph_t     captured = NULL;
    cudaGraphExec_t graph    = NULL;
    witan_status_t  status, ended;

    *out = NULL;
    WTN_CUDA_TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    status = record(context);
    ended  = wtn_cuda_status((int)cudaStreamEndCapture(stream, &captured), "cudaStreamEndCapture");
    status = status == WITAN_OK ? ended : status;
    if (status == WITAN_OK) {
        status =
            wtn_cuda_status((int)cudaGraphInstantiate(&graph, captured, 0), "cudaGraphInstantiate");
    }
    if (captured != NULL) {
        (void)cudaGraphDestroy(captured);
    }
    *out = graph;

fail:
    return status;
}

static void graph_destroy(void *graph)
{
    if (graph != NULL) {
        (void)cudaGraphExecDestroy(graph);
    }
}

static witan_status_t graph_launch(void *graph, void *stream)
{
    return wtn_cuda_status((int)cudaGraphLaunch(graph, stream), "cudaGraphLaunch");
}

static witan_status_t event_create(void **out)
{
    cudaEvent_t    event = NULL;
    witan_status_t status;

    WTN_CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventDefault));

fail:
    *out = event;
    return status;
}

static void event_destroy(void *event)
{
    if (event != NULL) {
        (void)cudaEventDestroy(event);
    }
}

static witan_status_t event_record(void *event, void *stream)
{
    return wtn_cuda_status((int)cudaEventRecord(event, stream), "cudaEventRecord");
}

static witan_status_t event_wait(void *event, void *stream)
{
    return wtn_cuda_status((int)cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent");
}

static witan_status_t event_elapsed(void *begin, void *end, int64_t *ns)
{
    float          ms = 0.0f;
    witan_status_t status =
        wtn_cuda_status((int)cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");

    *ns = (int64_t)((double)ms * 1e6);
    return status;
}

static witan_status_t fill(void *memory, int value, size_t bytes, void *stream)
{
    return bytes == 0 ? WITAN_OK
                      : wtn_cuda_status((int)cudaMemsetAsync(memory, value, bytes, stream),
                                        "cudaMemsetAsync");
}

const wtn_device_t wtn_device_cuda = {
    .link                     = &wtn_link_nccl,
    .use                      = use,
    .describe                 = describe,
    .multiprocessors          = multiprocessors,
    .range_begin              = wtn_cuda_range_push,
    .range_end                = wtn_cuda_range_pop,
    .stream_create            = stream_create,
    .stream_destroy           = stream_destroy,
    .stream_query             = stream_query,
    .stream_is_capturing      = stream_is_capturing,
    .graph_create             = graph_create,
    .graph_destroy            = graph_destroy,
    .graph_launch             = graph_launch,
    .event_create             = event_create,
    .event_destroy            = event_destroy,
    .event_record             = event_record,
    .event_wait               = event_wait,
    .event_elapsed            = event_elapsed,
    .fill                     = fill,
    .schedule_workspace_bytes = wtn_schedule_workspace_bytes,
    .schedule                 = wtn_cuda_schedule,
    .pack                     = wtn_cuda_pack,
    .list                     = wtn_cuda_list,
    .local                    = wtn_cuda_local,
    .ids                      = wtn_cuda_ids,
    .slots                    = wtn_cuda_slots,
    .push                     = wtn_cuda_push,
};

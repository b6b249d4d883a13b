/* Streams, events, graphs and memory of other processes, as CUDA's runtime describes them. */
#include "tests/emulator/support.h"

#include <sys/socket.h>

#include "tests/emulator/emulator.h"
#include "tests/emulator/wrappers.h"

static cudaStream_t stream_of(unsigned flags)
{
    cudaStream_t stream;

    OK(cudaStreamCreateWithFlags(&stream, flags));
    return stream;
}

static cudaEvent_t event_of(void)
{
    cudaEvent_t event;

    OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return event;
}

/* ---- streams ---- */

START_TEST(test_work_runs_when_the_host_asks)
{
    cudaStream_t stream = stream_of(cudaStreamNonBlocking);
    uint32_t    *out    = pinned(100 * sizeof(*out));

    OK(wrappers_count(out, 100, stream));
    OK(cudaMemsetAsync(out, 0xee, sizeof(*out), stream));
    usleep(1000);
    ck_assert_uint_eq(out[99], 0); /* queued, not run */
    ck_assert_int_eq(cudaStreamQuery(stream), cudaErrorNotReady);
    ck_assert_uint_eq(out[99], 99); /* the first of the two */
    ck_assert_uint_eq(out[0], 0);
    OK(cudaStreamQuery(stream));
    ck_assert_uint_eq(out[0], 0xeeeeeeeeu);
    OK(cudaGetLastError()); /* "not ready" is no error to keep */
    OK(cudaStreamDestroy(stream));
    OK(cudaFreeHost(out));
}
END_TEST

START_TEST(test_waiting_stream_sees_what_the_event_marks)
{
    cudaStream_t   first = stream_of(cudaStreamNonBlocking), second = stream_of(1);
    cudaEvent_t    event = event_of();
    unsigned char *data  = pinned(2);

    ck_assert(wtn_emulator_parse_order(_i == 0 ? "forward" : "reverse"));
    for (int turn = 1; turn < 4; turn++) {
        OK(cudaMemsetAsync(data, turn, 1, first));
        OK(cudaEventRecord(event, first));
        OK(cudaMemsetAsync(data, 100, 1, first)); /* after what the event marks */
        OK(cudaStreamWaitEvent(second, event, 0));
        OK(cudaMemcpyAsync(data + 1, data, 1, cudaMemcpyDefault, second));
        OK(cudaStreamSynchronize(second));
        ck_assert(data[1] == turn || data[1] == 100);
        OK(cudaEventSynchronize(event));
        OK(cudaStreamSynchronize(first));
        ck_assert_uint_eq(data[0], 100);
    }
    OK(cudaStreamWaitEvent(second, event_of(), 0)); /* never recorded: no wait */
    OK(cudaStreamSynchronize(second));
}
END_TEST

START_TEST(test_default_stream_orders_blocking_ones)
{
    cudaStream_t   blocking = stream_of(cudaStreamDefault);
    unsigned char *data     = pinned(2);

    ck_assert(wtn_emulator_parse_order(_i == 0 ? "forward" : "reverse"));
    OK(cudaMemsetAsync(data, 1, 1, blocking));
    OK(cudaMemcpyAsync(data + 1, data, 1, cudaMemcpyDefault, NULL));
    OK(cudaMemsetAsync(data, 2, 1, blocking));
    OK(cudaStreamSynchronize(NULL));
    ck_assert_uint_eq(data[1], 1);
    OK(cudaDeviceSynchronize());
    ck_assert_uint_eq(data[0], 2);
}
END_TEST

START_TEST(test_kernel_that_waits_for_the_host_leaves_streams_alive)
{
    uint64_t     zero[3] = {0}, one = 1;
    uint32_t     count = 0;
    void        *flags = device_from(zero, sizeof(zero)), *out = device_from(&count, sizeof(count));
    cudaStream_t waits = stream_of(cudaStreamNonBlocking), tells = stream_of(1);

    OK(wrappers_chain(flags, out, 2, waits));
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(cudaStreamQuery(waits), cudaErrorNotReady);
    }
    OK(cudaMemcpyAsync(flags, &one, sizeof(one), cudaMemcpyHostToDevice, tells));
    OK(cudaStreamSynchronize(waits));
    OK(cudaMemcpy(&count, out, sizeof(count), cudaMemcpyDeviceToHost));
    ck_assert_uint_eq(count, 2);
}
END_TEST

START_TEST(test_pageable_source_may_change_after_the_call)
{
    cudaStream_t stream = stream_of(cudaStreamNonBlocking);
    uint32_t     word = 1, back = 0;
    void        *memory = device_from(NULL, sizeof(word));

    OK(cudaMemcpyAsync(memory, &word, sizeof(word), cudaMemcpyHostToDevice, stream));
    word = 2;
    OK(cudaMemcpyAsync(&back, memory, sizeof(word), cudaMemcpyDeviceToHost, stream));
    ck_assert_uint_eq(back, 1); /* to ordinary memory it is done on return */
    ck_assert_int_eq(cudaMemcpy(memory, &word, sizeof(word), cudaMemcpyDeviceToHost),
                     cudaErrorInvalidValue);
}
END_TEST

START_TEST(test_events_measure_time)
{
    cudaEvent_t begin, end;
    float       milliseconds = -1;

    OK(cudaEventCreate(&begin));
    OK(cudaEventCreate(&end));
    OK(cudaEventRecord(begin, NULL));
    OK(wrappers_nothing(10, 1, 64, 0, NULL));
    OK(cudaEventRecord(end, NULL));
    ck_assert_int_eq(cudaEventElapsedTime(&milliseconds, begin, end), cudaErrorNotReady);
    OK(cudaEventSynchronize(end));
    OK(cudaEventElapsedTime(&milliseconds, begin, end));
    ck_assert(milliseconds > 0);
    ck_assert_int_eq(cudaEventElapsedTime(&milliseconds, begin, event_of()),
                     cudaErrorInvalidResourceHandle);
}
END_TEST

START_TEST(test_bad_handles_are_refused)
{
    cudaStream_t stream = stream_of(1);
    cudaEvent_t  event  = event_of();

    OK(cudaStreamDestroy(stream));
    OK(cudaEventDestroy(event));
    ck_assert_int_eq(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
    ck_assert_int_eq(cudaEventQuery(event), cudaErrorInvalidResourceHandle);
    ck_assert_int_eq(cudaFree(&stream), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaSetDevice(100), cudaErrorInvalidDevice);
    ck_assert_int_ne(wrappers_nothing(1, 1, 1025, 0, NULL), WITAN_OK);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "invalid configuration argument"));
    ck_assert_int_ne(wrappers_nothing(1, 1, 32, 232449, NULL), WITAN_OK); /* 227 KB and 1 */
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "invalid argument"));
}
END_TEST

/* ---- graphs ---- */

START_TEST(test_graph_replays_with_new_data)
{
    cudaStream_t    stream = stream_of(1), side = stream_of(1);
    cudaEvent_t     fork_event = event_of(), join = event_of();
    unsigned char  *from = pinned(1), *to = pinned(3);
    cudaGraph_t     graph;
    cudaGraphExec_t exec;

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    OK(cudaMemcpyAsync(to, from, 1, cudaMemcpyDefault, stream));
    OK(cudaEventRecord(fork_event, stream));
    OK(cudaStreamWaitEvent(side, fork_event, 0));
    OK(cudaMemcpyAsync(to + 1, to, 1, cudaMemcpyDefault, side));
    OK(cudaEventRecord(join, side));
    OK(cudaStreamWaitEvent(stream, join, 0));
    OK(cudaMemcpyAsync(to + 2, to + 1, 1, cudaMemcpyDefault, stream));
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    OK(cudaStreamSynchronize(stream));
    ck_assert_uint_eq(to[2], 0); /* captured, not run */
    for (unsigned char value = 1; value < 4; value++) {
        from[0] = value;
        OK(cudaGraphLaunch(exec, stream));
        OK(cudaStreamSynchronize(stream));
        ck_assert_uint_eq(to[2], value);
    }
    OK(cudaGraphExecDestroy(exec));
}
END_TEST

START_TEST(test_capture_refuses_what_would_wait)
{
    cudaStream_t                 stream = stream_of(1), side = stream_of(1);
    cudaEvent_t                  event = event_of();
    unsigned char               *data  = pinned(1);
    cudaGraph_t                  graph;
    enum cudaStreamCaptureStatus status;
    void                        *memory;

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    ck_assert_int_eq(cudaMalloc(&memory, 8), cudaErrorStreamCaptureUnsupported);
    OK(cudaStreamIsCapturing(stream, &status));
    ck_assert_int_eq(status, cudaStreamCaptureStatusInvalidated);
    ck_assert_int_eq(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    ck_assert_ptr_null(graph);

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    ck_assert_int_eq(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
    ck_assert_int_eq(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    OK(cudaMalloc(&memory, 8)); /* relaxed: allowed */
    OK(cudaEventRecord(event, stream));
    ck_assert_int_eq(cudaEventQuery(event), cudaErrorCapturedEvent);
    ck_assert_int_eq(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);

    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    OK(cudaEventRecord(event, stream));
    OK(cudaStreamWaitEvent(side, event, 0));
    OK(cudaMemsetAsync(data, 1, 1, side)); /* never joined */
    ck_assert_int_eq(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureUnjoined);
    OK(cudaStreamIsCapturing(side, &status));
    ck_assert_int_eq(status, cudaStreamCaptureStatusNone);
    OK(cudaStreamSynchronize(side));
    ck_assert_uint_eq(data[0], 0);

    OK(cudaEventRecord(event, side));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    ck_assert_int_eq(cudaStreamWaitEvent(stream, event, 0), cudaErrorStreamCaptureIsolation);
    ck_assert_int_eq(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
}
END_TEST

/* ---- memory ---- */

START_TEST(test_pointers_are_told_apart)
{
    struct cudaPointerAttributes attributes;
    char                        *device = device_from(NULL, 100), *host = pinned(100), other;

    OK(cudaPointerGetAttributes(&attributes, device + 99));
    ck_assert_int_eq(attributes.type, cudaMemoryTypeDevice);
    OK(cudaPointerGetAttributes(&attributes, host));
    ck_assert_int_eq(attributes.type, cudaMemoryTypeHost);
    OK(cudaPointerGetAttributes(&attributes, &other));
    ck_assert_int_eq(attributes.type, cudaMemoryTypeUnregistered);
    OK(cudaFree(device));
    OK(cudaFreeHost(host));
    OK(cudaFree(NULL));
}
END_TEST

static int socket_to_parent;

/* Another process: a handle comes, its memory is read and written, the parent is told. */
static int other_process(void)
{
    cudaIpcMemHandle_t handle;
    uint32_t           words[4];
    void              *memory;
    char               done = 1;

    if (read(socket_to_parent, &handle, sizeof(handle)) != (ssize_t)sizeof(handle) ||
        cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess ||
        cudaMemcpy(words, memory, sizeof(words), cudaMemcpyDeviceToHost) != cudaSuccess ||
        words[3] != 45 || wrappers_count(memory, 4, NULL) != WITAN_OK ||
        cudaDeviceSynchronize() != cudaSuccess || cudaIpcCloseMemHandle(memory) != cudaSuccess) {
        return 1;
    }
    return write(socket_to_parent, &done, 1) == 1 ? 0 : 1;
}

START_TEST(test_memory_is_shared_with_another_process)
{
    const uint32_t     begin[4] = {42, 43, 44, 45};
    uint32_t           words[4];
    int                sockets[2], status;
    char               done;
    cudaIpcMemHandle_t handle;
    pid_t              pid;
    char              *other = device_from(NULL, 5000), *memory = device_from(begin, sizeof(begin));

    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
    pid = fork();
    if (pid == 0) {
        socket_to_parent = sockets[1];
        _exit(other_process());
    }
    OK(cudaIpcGetMemHandle(&handle, memory));
    ck_assert_int_eq(cudaIpcOpenMemHandle((void **)&memory, handle, cudaIpcMemLazyEnablePeerAccess),
                     cudaErrorDeviceUninitialized); /* not in one's own process */
    ck_assert_int_eq(cudaIpcGetMemHandle(&handle, memory + 4), cudaErrorInvalidValue);
    ck_assert_int_eq(write(sockets[0], &handle, sizeof(handle)), sizeof(handle));
    ck_assert_int_eq(read(sockets[0], &done, 1), 1);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    to_host(words, memory, sizeof(words));
    OK(cudaFree(other));
    for (uint32_t i = 0; i < 4; i++) {
        ck_assert_uint_eq(words[i], i);
    }
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("runtime");
    TCase   *tc     = tcase_create("runtime");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_work_runs_when_the_host_asks);
    tcase_add_loop_test(tc, test_waiting_stream_sees_what_the_event_marks, 0, 2);
    tcase_add_loop_test(tc, test_default_stream_orders_blocking_ones, 0, 2);
    tcase_add_test(tc, test_kernel_that_waits_for_the_host_leaves_streams_alive);
    tcase_add_test(tc, test_pageable_source_may_change_after_the_call);
    tcase_add_test(tc, test_events_measure_time);
    tcase_add_test(tc, test_bad_handles_are_refused);
    tcase_add_test(tc, test_graph_replays_with_new_data);
    tcase_add_test(tc, test_capture_refuses_what_would_wait);
    tcase_add_test(tc, test_pointers_are_told_apart);
    tcase_add_test(tc, test_memory_is_shared_with_another_process);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

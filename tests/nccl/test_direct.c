/* Windows: what peers write is there after the wait, step by step, and who is missing is named. */
#include <string.h>

#include "comm/direct.h"
#include "comm/group.h"
#include "comm/nccl.h"
#include "core/util.h"
#include "device.h"
#include "tests/nccl/direct_write.h"

#define WORDS 96

static witan_group_t  *group;
static wtn_comm_t     *comm;
static wtn_direct_t   *direct;
static cudaEvent_t     event;
static direct_params_t params;
static uint32_t       *counters; /* of the device: step, mistakes */

static void open_all(double seconds)
{
    int32_t             peers[16];
    wtn_direct_config_t config = {.name = "test", .peers = peers, .peer_count = world_size};

    for (int32_t i = 0; i < world_size; i++) {
        peers[i] = world_size - 1 - i; /* any order, but the same on all */
    }
    config.bytes     = (size_t)world_size * WORDS * sizeof(uint32_t);
    group            = group_within(20);
    comm             = wtn_group_comm(group);
    comm->timeout_ns = (uint64_t)(seconds * 1e9);
    ck_ok(wtn_direct_open(&direct, comm, &config));
    ck_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    counters = device_put((uint32_t[2]){0, 0}, 2 * sizeof(uint32_t));
    params   = (direct_params_t){.peer_count = world_size,
                                 .mine       = world_size - 1 - world_rank,
                                 .word_count = WORDS,
                                 .windows    = wtn_direct_windows_device(direct),
                                 .step       = &counters[0],
                                 .mistakes   = &counters[1]};
}

static void close_all(void)
{
    wtn_direct_close(direct);
    ck_cuda(cudaFree(counters));
    ck_cuda(cudaEventDestroy(event));
    witan_group_destroy(group);
}

static witan_status_t wait_done(wtn_roll_t *roll)
{
    wtn_nccl_wait_args_t args = {.comm        = comm,
                                 .phase       = "test",
                                 .event       = event,
                                 .direct      = direct,
                                 .deadline_ns = wtn_deadline(comm),
                                 .roll        = roll};

    ck_cuda(cudaEventRecord(event, stream));
    return wtn_nccl_wait(&args);
}

/* Write, tell; wait, read; tell and wait again, so that nobody writes over what is still read. */
static void queue_step(void)
{
    ck_ok(direct_write(&params, stream));
    ck_ok(wtn_direct_signal(direct, stream));
    ck_ok(wtn_direct_wait(direct, stream));
    ck_ok(direct_check(&params, stream));
    ck_ok(wtn_direct_signal(direct, stream));
    ck_ok(wtn_direct_wait(direct, stream));
}

static void check_counters(uint32_t steps)
{
    uint32_t found[2];

    device_get(found, counters, sizeof(found));
    ck_assert_uint_eq(found[0], steps);
    ck_assert_uint_eq(found[1], 0);
}

START_TEST(test_direct_steps_read_what_peers_wrote)
{
    int32_t steps = world_size <= 2 ? 1000 : 300; /* many ranks take turns on few cores */

    open_all(20);
    for (int32_t i = 0; i < world_size; i++) {
        ck_assert_uint_eq((uintptr_t)wtn_direct_windows(direct)[i] % 256, 0);
    }
    for (int32_t step = 0; step < steps; step++) {
        queue_step();
        if (step % 100 == 99) {
            ck_ok(wait_done(NULL));
        }
    }
    check_counters((uint32_t)steps);
    close_all();
}
END_TEST

START_TEST(test_direct_captured_steps_replay)
{
    cudaGraph_t     graph;
    cudaGraphExec_t exec;

    open_all(20);
    queue_step(); /* numbers go on from what was queued before */
    ck_ok(wait_done(NULL));
    ck_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    queue_step();
    queue_step();
    ck_cuda(cudaStreamEndCapture(stream, &graph));
    ck_cuda(cudaGraphInstantiate(&exec, graph, 0));
    for (int32_t i = 0; i < 50; i++) {
        ck_cuda(cudaGraphLaunch(exec, stream));
    }
    ck_ok(wait_done(NULL));
    queue_step();
    ck_ok(wait_done(NULL));
    check_counters(102);
    ck_cuda(cudaGraphExecDestroy(exec));
    ck_cuda(cudaGraphDestroy(graph));
    close_all();
}
END_TEST

START_TEST(test_direct_absent_peer_is_named_and_the_stream_goes_on)
{
    uint64_t begin_ns;
    char     expected[64];

    if (world_size == 1) {
        return;
    }
    open_all(20);
    queue_step();
    ck_ok(wait_done(NULL));
    wtn_direct_close(direct); /* open again, with a short time-out */
    ck_cuda(cudaFree(counters));
    ck_cuda(cudaEventDestroy(event));
    witan_group_destroy(group);
    open_all(2);
    MPI_Barrier(MPI_COMM_WORLD);
    begin_ns = wtn_now_ns();
    if (world_rank != 0) {
        queue_step(); /* the second wait gives up at once */
        ck_cuda(cudaStreamSynchronize(stream));
        ck_assert_int_eq(wtn_direct_check(direct, "exchange"), WITAN_E_TIMEOUT);
        ck_assert_str_eq(witan_last_error(), "exchange: not heard from rank 0 within 2 s");
        ck_assert_int_eq(wait_done(NULL), WITAN_E_TIMEOUT);
        (void)snprintf(expected, sizeof(expected), "test: not heard from rank 0 within 2 s");
        ck_assert_str_eq(witan_last_error(), expected);
        ck_assert(wtn_now_ns() - begin_ns < 5000000000u);
    } else {
        comm->broken = true; /* so that its close does not wait */
    }
    MPI_Barrier(MPI_COMM_WORLD);
    close_all();
}
END_TEST

START_TEST(test_direct_wait_ends_by_the_host)
{
    int32_t     peers[16], channel;
    wtn_roll_t *roll;

    if (world_size == 1) {
        return;
    }
    open_all(20);
    for (int32_t rank = 0; rank < world_size; rank++) {
        peers[rank] = rank;
    }
    channel = comm->channel_next++;
    ck_ok(wtn_roll_open(&roll, comm, channel, peers, world_size));
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_rank != 0) {
        wtn_nccl_wait_args_t args     = {.comm        = comm,
                                         .phase       = "test",
                                         .event       = event,
                                         .direct      = direct,
                                         .deadline_ns = wtn_now_ns() + 300000000u,
                                         .roll        = roll};
        uint64_t             begin_ns = wtn_now_ns();

        queue_step();
        ck_cuda(cudaEventRecord(event, stream));
        ck_assert_int_eq(wtn_nccl_wait(&args), WITAN_E_TIMEOUT);
        ck_assert_str_eq(witan_last_error(), "test: not heard from rank 0 within 20 s");
        ck_cuda(cudaStreamSynchronize(stream)); /* kernels were told to stop */
        ck_assert(wtn_now_ns() - begin_ns < 10000000000u);
        ck_ok(wtn_direct_check(direct, "test")); /* no time-out of the device's own */
    } else {
        comm->broken = true;
    }
    MPI_Barrier(MPI_COMM_WORLD);
    wtn_roll_close(roll);
    close_all();
}
END_TEST

/* Windows may be of different sizes, and of none. */
START_TEST(test_direct_windows_of_different_sizes)
{
    int32_t             peers[16];
    wtn_direct_config_t config = {.name = "test", .peers = peers, .peer_count = world_size};

    for (int32_t i = 0; i < world_size; i++) {
        peers[i] = i;
    }
    config.bytes = (size_t)world_rank * 3000017;
    group        = group_within(20);
    ck_ok(wtn_direct_open(&direct, wtn_group_comm(group), &config));
    for (int32_t i = 0; i < world_size; i++) {
        char *window = wtn_direct_windows(direct)[i];

        if (i > 0) { /* the first and the last byte are this rank's to write */
            ck_cuda(cudaMemset(window, world_rank, 1));
            ck_cuda(cudaMemset(window + (size_t)i * 3000017 - 1, world_rank, 1));
        }
    }
    ck_cuda(cudaDeviceSynchronize());
    wtn_direct_close(direct);
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_direct_bad_config_is_refused_on_all_ranks)
{
    int32_t             peers[2] = {world_rank, world_rank};
    wtn_direct_config_t config   = {.name = "test", .peers = peers, .peer_count = 1};
    bool                wrong    = world_rank == world_size - 1;

    group        = group_within(20);
    config.bytes = wrong && _i == 0 ? SIZE_MAX - 5 : 100;
    peers[0]     = wrong && _i == 1 ? -1 : world_rank;
    ck_assert_int_eq(wtn_direct_open(&direct, wtn_group_comm(group), &config),
                     wrong ? WITAN_E_ARGUMENT : WITAN_E_PEER);
    ck_assert_ptr_null(direct);
    witan_group_destroy(group);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("direct");
    TCase *tcase = tcase_create("direct");

    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, test_direct_steps_read_what_peers_wrote);
    tcase_add_test(tcase, test_direct_captured_steps_replay);
    tcase_add_test(tcase, test_direct_absent_peer_is_named_and_the_stream_goes_on);
    tcase_add_test(tcase, test_direct_wait_ends_by_the_host);
    tcase_add_test(tcase, test_direct_windows_of_different_sizes);
    tcase_add_loop_test(tcase, test_direct_bad_config_is_refused_on_all_ranks, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return device_run(argc, argv, make_suite);
}

/* No wait for a peer outlives its deadline, and who is waited for is named. */
#include <limits.h>
#include <string.h>

#include "comm/group.h"
#include "comm/nccl.h"
#include "core/error.h"
#include "core/util.h"
#include "device.h"

#ifdef WTN_EMULATOR
#include "tests/emulator/nccl_emulator.h"
#define OPEN_SECONDS 1.0
#define SECONDS      0.4
#else
#define OPEN_SECONDS 3.0
#define SECONDS      3.0 /* ranks that share a device take turns, and connect over sockets */
#endif
#define BYTES 1000

static witan_group_t *group;
static wtn_comm_t    *comm;
static wtn_nccl_t    *nccl;
static wtn_roll_t    *roll;
static wtn_watch_t   *watch;
static cudaEvent_t    event;
static char          *from, *to;
static uint64_t       begin_ns;

static bool is_last(void)
{
    return world_rank == world_size - 1;
}

static wtn_nccl_config_t configure(int32_t *peers)
{
    for (int32_t rank = 0; rank < world_size; rank++) {
        peers[rank] = rank;
    }
    return (wtn_nccl_config_t){.name         = "test",
                               .peers        = peers,
                               .peer_count   = world_size,
                               .share_device = few_devices};
}

static witan_status_t open_only(void)
{
    int32_t           peers[16];
    wtn_nccl_config_t config = configure(peers);

    comm     = wtn_group_comm(group);
    begin_ns = wtn_now_ns();
    return wtn_nccl_open(&nccl, comm, &config);
}

static void open_all(void)
{
    int32_t           peers[16], channel;
    wtn_nccl_config_t config = configure(peers);

    /* A call that was withdrawn before it began has not met what was to go wrong with it. */
#ifdef WTN_EMULATOR
    wtn_emulator_nccl_fail(WTN_EMULATOR_NCCL_NONE, 1);
#endif
    group = group_within(30);
    ck_ok(open_only());
    channel = comm->channel_next++;
    ck_ok(wtn_roll_open(&roll, comm, channel, config.peers, world_size));
    ck_ok(wtn_watch_open(&watch, comm, channel, config.peers, world_size));
    wtn_nccl_watch(nccl, roll, watch);
    ck_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    from = device_put(NULL, (size_t)world_size * BYTES);
    to   = device_put(NULL, (size_t)world_size * BYTES);
}

static witan_status_t wait_done(void)
{
    wtn_nccl_wait_args_t args = {.comm        = comm,
                                 .phase       = "exchange",
                                 .event       = event,
                                 .nccls       = &nccl,
                                 .nccl_count  = 1,
                                 .deadline_ns = wtn_deadline(comm),
                                 .roll        = roll,
                                 .watch       = watch};

    begin_ns = wtn_now_ns();
    ck_cuda(cudaEventRecord(event, stream));
    return wtn_nccl_wait(&args);
}

/* One good exchange, which connects the peers; from then on deadlines are short. */
static void warm_up(void)
{
    ck_ok(wtn_nccl_alltoall(nccl, from, to, BYTES, stream));
    ck_ok(wait_done());
    MPI_Barrier(MPI_COMM_WORLD);
    comm->timeout_ns = (uint64_t)(SECONDS * 1e9);
}

/* After a failure everything is refused, and closing does not wait. */
static void close_broken(void)
{
    ck_status(wtn_nccl_alltoall(nccl, from, to, BYTES, stream), WITAN_E_STATE);
    ck_status(wtn_nccl_check(nccl), WITAN_E_STATE);
    ck_cuda(cudaStreamSynchronize(stream));
    wtn_nccl_close(nccl);
    ck_assert(wtn_now_ns() - begin_ns < (uint64_t)((SECONDS + 10) * 1e9));
}

static void close_rest(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
    wtn_roll_close(roll);
    wtn_watch_close(watch);
    ck_cuda(cudaFree(from));
    ck_cuda(cudaFree(to));
    ck_cuda(cudaEventDestroy(event));
    witan_group_destroy(group);
}

static const char *name_last(const char *before, const char *behind)
{
    static char text[128];

    (void)snprintf(text, sizeof(text), "%srank %d%s", before, world_size - 1, behind);
    return text;
}

START_TEST(test_nccl_open_without_one_rank_names_it)
{
    if (world_size == 1) {
        return;
    }
    group = group_within(OPEN_SECONDS);
    if (!is_last()) {
        ck_status(open_only(), WITAN_E_TIMEOUT);
        ck_names(name_last("nccl: not heard from ", " within"));
        ck_assert_ptr_null(nccl);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    witan_group_destroy(group);
}
END_TEST

/* A receive left behind would take the message that is meant for a later one. */
START_TEST(test_nccl_open_refused_on_one_rank_leaves_nothing_posted)
{
    wtn_request_t request;
    int32_t       channel;
    char          mark = 1;

    if (world_size == 1) {
        return;
    }
    group   = group_within(OPEN_SECONDS);
    comm    = wtn_group_comm(group);
    channel = comm->channel_next;
    if (is_last()) {
        comm->channel_max = channel - 1;
    }
    ck_status(open_only(), is_last() ? WITAN_E_UNSUPPORTED : WITAN_E_PEER);
    ck_names("nccl: channel");
    MPI_Barrier(MPI_COMM_WORLD); /* before, a receive may well be posted */
    if (is_last()) {
        ck_ok(wtn_send_post(comm, &request, 0, channel, WTN_TAG_ROLL, &mark, 1));
    } else if (world_rank == 0) {
        ck_ok(wtn_recv_post(comm, &request, world_size - 1, channel, WTN_TAG_ROLL, &mark, 1, true));
    }
    if (is_last() || world_rank == 0) {
        ck_ok(wtn_wait(comm, &request, 1, "test", wtn_deadline(comm), NULL));
    }
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_nccl_absent_peer_is_named_by_all_others)
{
    if (world_size == 1) {
        return;
    }
    open_all();
    warm_up();
    if (is_last()) {
        MPI_Barrier(MPI_COMM_WORLD); /* it neither exchanges nor answers */
        wtn_nccl_abort(nccl);
        wtn_nccl_close(nccl);
    } else {
        ck_ok(wtn_nccl_alltoall(nccl, from, to, BYTES, stream));
        ck_status(wait_done(), WITAN_E_TIMEOUT);
        ck_names(name_last("exchange: not heard from ", " within"));
        ck_assert(comm->broken);
        close_broken();
        MPI_Barrier(MPI_COMM_WORLD);
    }
    close_rest();
}
END_TEST

START_TEST(test_nccl_wait_one_rank_fails_earlier_than_the_others)
{
    if (world_size == 1) {
        return;
    }
    open_all();
    warm_up();
    if (world_rank != 0) {
        comm->timeout_ns = 60000000000u;
    }
    if (!is_last()) {
        ck_ok(wtn_nccl_alltoall(nccl, from, to, BYTES, stream));
        ck_status(wait_done(), WITAN_E_TIMEOUT); /* the first to give up calls the others */
        ck_names(name_last("exchange: not heard from ", " within"));
        close_broken();
        MPI_Barrier(MPI_COMM_WORLD);
    } else {
        MPI_Barrier(MPI_COMM_WORLD); /* its abort would be an error of NCCL to the others */
        wtn_nccl_abort(nccl);
        wtn_nccl_close(nccl);
    }
    close_rest();
}
END_TEST

/* Peers connect in their first exchange, which waits for the absent one in NCCL's own threads. */
START_TEST(test_nccl_peer_absent_from_the_first_exchange_is_named)
{
    witan_status_t status;

    if (world_size == 1) {
        return;
    }
    open_all();
    MPI_Barrier(MPI_COMM_WORLD);
    comm->timeout_ns = (uint64_t)(SECONDS * 1e9);
    if (is_last()) {
        MPI_Barrier(MPI_COMM_WORLD);
        wtn_nccl_abort(nccl);
        wtn_nccl_close(nccl);
    } else {
        begin_ns = wtn_now_ns();
        status   = wtn_nccl_alltoall(nccl, from, to, BYTES, stream);
        ck_status(status == WITAN_OK ? wait_done() : status, WITAN_E_TIMEOUT);
        ck_names(name_last(": not heard from ", " within"));
        close_broken();
        MPI_Barrier(MPI_COMM_WORLD);
    }
    close_rest();
}
END_TEST

/* NCCL over sockets meets the closed connection at once, which may be before the time-out. */
START_TEST(test_nccl_peer_that_aborts_ends_the_others)
{
    witan_status_t status;

    if (world_size == 1) {
        return;
    }
    open_all();
    warm_up();
    if (!is_last()) {
        ck_ok(wtn_nccl_alltoall(nccl, from, to, BYTES, stream));
        status = wait_done();
        if (status == WITAN_E_TRANSPORT) {
            ck_names("nccl test: exchange: ");
        } else {
            ck_assert_int_eq(status, WITAN_E_TIMEOUT);
            ck_names("exchange: not heard from rank");
        }
        close_broken();
    } else {
        wtn_nccl_abort(nccl);
        wtn_nccl_close(nccl);
    }
    close_rest();
}
END_TEST

START_TEST(test_nccl_stream_of_a_thread_is_refused)
{
    if (world_size == 1) {
        return;
    }
    open_all();
    ck_status(wtn_nccl_alltoall(nccl, from, to, BYTES, cudaStreamPerThread), WITAN_E_ARGUMENT);
    ck_names("nccl test: stream: ");
    warm_up();
    wtn_nccl_close(nccl);
    close_rest();
}
END_TEST

#ifdef WTN_EMULATOR
START_TEST(test_nccl_stalled_device_names_nobody)
{
    if (world_size == 1) {
        return;
    }
    open_all();
    warm_up();
    if (is_last()) {
        wtn_emulator_nccl_fail(WTN_EMULATOR_NCCL_STALL, 1);
    }
    ck_ok(wtn_nccl_alltoall(nccl, from, to, BYTES, stream));
    ck_status(wait_done(), WITAN_E_TIMEOUT);
    ck_names("exchange: not done within");
    ck_names("all peers answer");
    close_broken();
    close_rest();
}
END_TEST

START_TEST(test_nccl_asynchronous_error_is_told_on_all_ranks)
{
    if (world_size == 1) {
        return;
    }
    open_all();
    warm_up();
    comm->timeout_ns = 20000000000u;
    if (is_last()) {
        wtn_emulator_nccl_fail(WTN_EMULATOR_NCCL_ERROR, 1);
    }
    ck_ok(wtn_nccl_alltoall(nccl, from, to, BYTES, stream));
    if (is_last()) {
        ck_status(wait_done(), WITAN_E_TRANSPORT);
        ck_names("nccl test: exchange: the emulator: an asynchronous error was asked for");
        wtn_watch_raise(watch, WITAN_E_TRANSPORT);
    } else {
        ck_status(wait_done(), WITAN_E_PEER);
        ck_names(name_last("", ": nccl test: exchange: the emulator: an asynchronous error"));
    }
    close_broken();
    close_rest();
}
END_TEST

START_TEST(test_nccl_refused_call_keeps_the_text)
{
    if (world_size == 1) {
        return;
    }
    open_all();
    warm_up();
    wtn_emulator_nccl_fail(_i < 2 ? WTN_EMULATOR_NCCL_REFUSE : WTN_EMULATOR_NCCL_NONE, 1);
    if (_i == 0) {
        ck_status(wtn_nccl_alltoall(nccl, from, to, BYTES, stream), WITAN_E_TRANSPORT);
        ck_names("nccl test: ncclAlltoAll: the emulator: a failing call");
    } else if (_i == 1) {
        ck_ok(wtn_nccl_group_begin(nccl));
        ck_ok(wtn_nccl_send(nccl, (world_rank + 1) % world_size, from, BYTES, stream));
        ck_status(wtn_nccl_group_end(nccl), WITAN_E_TRANSPORT);
        ck_names("nccl test: ncclGroupEnd: the emulator: a failing call");
    } else { /* the end of the group tells what a send has met */
        ck_ok(wtn_nccl_group_begin(nccl));
        ck_ok(wtn_nccl_send(nccl, (world_rank + 1) % world_size, from, INT_MAX, stream));
        ck_status(wtn_nccl_group_end(nccl), WITAN_E_TRANSPORT);
        ck_names("nccl test: ncclSend: the emulator: expected less than 1 GiB");
    }
    begin_ns = wtn_now_ns();
    close_broken();
    close_rest();
}
END_TEST

/* A call that connects waits for its peer, and ends with the communicator; or does not end. The
 * rank gives up after the deadline, a second's roll call and one for the call; of the second kind
 * it waits five seconds more for the end of NCCL, and not for the 20 that the call takes. */
START_TEST(test_nccl_call_that_does_not_return_is_given_up)
{
    if (world_size == 1 || (_i == 1 && world_size > 2)) {
        return; /* the second takes long, and is no different for more ranks */
    }
    open_all();
    warm_up();
    wtn_emulator_nccl_fail(_i == 0 ? WTN_EMULATOR_NCCL_HANG : WTN_EMULATOR_NCCL_DEAF, 1);
    begin_ns = wtn_now_ns();
    ck_status(wtn_nccl_alltoall(nccl, from, to, BYTES, stream), WITAN_E_TIMEOUT);
    ck_names("ncclAlltoAll: not done within");
    ck_assert(wtn_now_ns() - begin_ns < (uint64_t)((SECONDS + (_i == 0 ? 5 : 13)) * 1e9));
    close_broken();
    close_rest();
}
END_TEST

/* A peer's notice is heard during a call, long before the deadline; a call that has begun, but not
 * come to where an abort would end it, is not robbed of its communicator. */
START_TEST(test_nccl_call_ends_when_a_peer_gives_up)
{
    if (world_size == 1) {
        return;
    }
    open_all();
    warm_up();
    comm->timeout_ns = 20000000000u;
    begin_ns         = wtn_now_ns();
    if (is_last()) {
        (void)WTN_ERROR(WITAN_E_ARGUMENT, "wrong tokens");
        wtn_watch_raise(watch, WITAN_E_ARGUMENT);
        MPI_Barrier(MPI_COMM_WORLD);
        wtn_nccl_abort(nccl);
    } else {
        MPI_Barrier(MPI_COMM_WORLD);
        wtn_emulator_nccl_fail(_i == 0 ? WTN_EMULATOR_NCCL_HANG : WTN_EMULATOR_NCCL_LATE, 1);
        ck_status(wtn_nccl_alltoall(nccl, from, to, BYTES, stream), WITAN_E_PEER);
        ck_names(name_last("", ": wrong tokens"));
    }
    close_broken();
    close_rest();
}
END_TEST

START_TEST(test_nccl_sizes_that_differ_are_found)
{
    if (world_size == 1) {
        return;
    }
    open_all();
    warm_up();
    ck_ok(wtn_nccl_group_begin(nccl));
    if (world_rank == 0) {
        ck_ok(wtn_nccl_send(nccl, world_size - 1, from, 8, stream));
    } else if (is_last()) {
        ck_ok(wtn_nccl_recv(nccl, 0, to, 16, stream));
    }
    ck_ok(wtn_nccl_group_end(nccl));
    if (is_last()) {
        ck_status(wait_done(), WITAN_E_TRANSPORT);
        ck_names("expects 16 bytes (kind 1) of rank 0, which sends 8");
        close_broken();
    } else {
        ck_ok(wait_done());
        wtn_nccl_abort(nccl); /* the last would not come to the end */
        wtn_nccl_close(nccl);
    }
    close_rest();
}
END_TEST

START_TEST(test_nccl_rank_that_stops_in_the_meeting_is_named)
{
    if (world_size == 1) {
        return;
    }
    group = group_within(OPEN_SECONDS);
    if (is_last()) {
        wtn_emulator_nccl_fail(_i == 0 ? WTN_EMULATOR_NCCL_INIT_SLEEP
                                       : WTN_EMULATOR_NCCL_INIT_STALL,
                               _i == 2 ? 2 : 1);
    }
    ck_status(open_only(), WITAN_E_TIMEOUT);
    ck_assert_ptr_null(nccl);
    ck_names(_i == 2 ? "ncclCommSplit: not done within"
                     : "ncclCommInitRankConfig: not done within");
    MPI_Barrier(MPI_COMM_WORLD);
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_nccl_version_that_does_not_serve_is_refused)
{
    static const struct {
        int         version;
        bool        everywhere;
        const char *text; /* on a rank that has it */
    } cases[] = {
        {22808, true, "libnccl.so.2: expected version 2.28.9 or newer, found 2.28.8"},
        {30001, true, "libnccl.so.2: expected version 2, found 3.0.1"},
        {12000, false, "libnccl.so.2: expected version 2, found 1.20.0"},
        {22903, false, "library version: 22809 on rank 0, 22903 on rank"},
    };
    bool mine = cases[_i].everywhere || is_last();

    if (world_size == 1) {
        return;
    }
    group = group_within(20);
    wtn_emulator_nccl_set_version(mine ? cases[_i].version : 22809);
    ck_assert_int_eq(wtn_nccl_version_loaded(), mine ? cases[_i].version : 22809);
    ck_status(open_only(), _i == 3 ? WITAN_E_MISMATCH : mine ? WITAN_E_UNSUPPORTED : WITAN_E_PEER);
    ck_names(cases[_i].text);
    ck_assert_ptr_null(nccl);
    wtn_emulator_nccl_set_version(22809);
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_nccl_newer_library_serves)
{
    wtn_emulator_nccl_set_version(22903);
    open_all();
    warm_up();
    wtn_nccl_close(nccl);
    close_rest();
    wtn_emulator_nccl_set_version(22809);
    ck_assert_int_eq(wtn_nccl_version_compiled(), 22809);
}
END_TEST
#endif

static Suite *make_suite(void)
{
    Suite *suite = suite_create("nccl faults");
    TCase *tcase = tcase_create("nccl faults");

    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, test_nccl_open_without_one_rank_names_it);
    tcase_add_test(tcase, test_nccl_open_refused_on_one_rank_leaves_nothing_posted);
    tcase_add_test(tcase, test_nccl_absent_peer_is_named_by_all_others);
    tcase_add_test(tcase, test_nccl_wait_one_rank_fails_earlier_than_the_others);
    tcase_add_test(tcase, test_nccl_peer_absent_from_the_first_exchange_is_named);
    tcase_add_test(tcase, test_nccl_peer_that_aborts_ends_the_others);
    tcase_add_test(tcase, test_nccl_stream_of_a_thread_is_refused);
#ifdef WTN_EMULATOR
    tcase_add_test(tcase, test_nccl_stalled_device_names_nobody);
    tcase_add_test(tcase, test_nccl_asynchronous_error_is_told_on_all_ranks);
    tcase_add_loop_test(tcase, test_nccl_refused_call_keeps_the_text, 0, 3);
    tcase_add_loop_test(tcase, test_nccl_call_that_does_not_return_is_given_up, 0, 2);
    tcase_add_loop_test(tcase, test_nccl_call_ends_when_a_peer_gives_up, 0, 2);
    tcase_add_test(tcase, test_nccl_sizes_that_differ_are_found);
    tcase_add_loop_test(tcase, test_nccl_rank_that_stops_in_the_meeting_is_named, 0, 3);
    tcase_add_loop_test(tcase, test_nccl_version_that_does_not_serve_is_refused, 0, 4);
    tcase_add_test(tcase, test_nccl_newer_library_serves);
#endif
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return device_run(argc, argv, make_suite);
}

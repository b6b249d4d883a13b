/* Exchanges of every kind against plain loops. Where there are fewer devices than ranks, they share
 * them. */
#include <string.h>

#include "comm/group.h"
#include "comm/nccl.h"
#include "core/util.h"
#include "device.h"

static witan_group_t *group;
static wtn_comm_t    *comm;
static wtn_nccl_t    *nccl;
static cudaEvent_t    event;
static int32_t        mistakes;    /* an assertion for each byte would take long */
static int32_t        mine, count; /* among the peers of the communicator that is open */

/* A communicator over the ranks of `width` neighbours. */
static void open_wide(int32_t width)
{
    int32_t           peers[16], first = world_rank / width * width;
    wtn_nccl_config_t config = {.name = "test", .peers = peers, .share_device = few_devices};

    for (int32_t rank = first; rank < first + width && rank < world_size; rank++) {
        peers[config.peer_count++] = rank;
    }
    group = group_within(20);
    comm  = wtn_group_comm(group);
    ck_ok(wtn_nccl_open(&nccl, comm, &config));
    mistakes = 0;
    mine     = world_rank - first;
    count    = config.peer_count;
    ck_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}

static void close_all(void)
{
    ck_cuda(cudaEventDestroy(event));
    wtn_nccl_close(nccl);
    witan_group_destroy(group);
}

static void wait_done(void)
{
    wtn_nccl_wait_args_t args = {.comm        = comm,
                                 .phase       = "test",
                                 .event       = event,
                                 .nccls       = &nccl,
                                 .nccl_count  = 1,
                                 .deadline_ns = wtn_deadline(comm)};

    ck_cuda(cudaEventRecord(event, stream));
    ck_ok(wtn_nccl_wait(&args));
}

static char pattern(int32_t from, int32_t to, size_t i)
{
    return (char)(from * 31 + to * 17 + (int32_t)(i % 251) + (int32_t)(i / 251));
}

/* What peer `from` sends peer `to`: some nothing, some much, uneven. */
static size_t message_bytes(int32_t from, int32_t to)
{
    static const size_t sizes[] = {0, 1, 17, 0, 2880, 100003, 16, 5};

    return sizes[(size_t)(from * 3 + to * 5) % WTN_COUNT_OF(sizes)];
}

#define MESSAGE_BYTES_MAX 100003

START_TEST(test_nccl_messages_of_uneven_sizes_arrive)
{
    char *send, *recv, *data = malloc(MESSAGE_BYTES_MAX);

    open_wide(world_size);
    send = device_put(NULL, (size_t)count * MESSAGE_BYTES_MAX);
    recv = device_put(NULL, (size_t)count * MESSAGE_BYTES_MAX);
    for (int32_t p = 0; p < count; p++) {
        for (size_t i = 0; i < message_bytes(mine, p); i++) {
            data[i] = pattern(mine, p, i);
        }
        ck_cuda(cudaMemcpy(send + (size_t)p * MESSAGE_BYTES_MAX, data, message_bytes(mine, p),
                           cudaMemcpyHostToDevice));
    }
    ck_ok(wtn_nccl_group_begin(nccl));
    for (int32_t p = 0; p < count; p++) {
        if (p != mine) {
            ck_ok(wtn_nccl_send(nccl, p, send + (size_t)p * MESSAGE_BYTES_MAX,
                                message_bytes(mine, p), stream));
            ck_ok(wtn_nccl_recv(nccl, p, recv + (size_t)p * MESSAGE_BYTES_MAX,
                                message_bytes(p, mine), stream));
        }
    }
    ck_ok(wtn_nccl_group_end(nccl));
    wait_done();
    for (int32_t p = 0; p < count; p++) {
        size_t bytes = p == mine ? 0 : message_bytes(p, mine);

        device_get(data, recv + (size_t)p * MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX);
        for (size_t i = 0; i < MESSAGE_BYTES_MAX; i++) {
            mistakes += data[i] != (i < bytes ? pattern(p, mine, i) : (char)0xee);
        }
    }
    ck_assert_int_eq(mistakes, 0);
    ck_cuda(cudaFree(send));
    ck_cuda(cudaFree(recv));
    free(data);
    close_all();
}
END_TEST

static const int64_t block_sizes[] = {0, 1, 17, 2880, 65539};

/* Of the communicators over all ranks, over pairs (the last perhaps alone), and of one each. */
static const int32_t widths[] = {16, 2, 1};

static void check_alltoall(void)
{
    for (size_t s = 0; s < WTN_COUNT_OF(block_sizes); s++) {
        size_t bytes = (size_t)block_sizes[s], total = (size_t)count * bytes;
        char  *data = malloc(total + 1), *from, *to;

        for (int32_t p = 0; p < count; p++) {
            for (size_t i = 0; i < bytes; i++) {
                data[(size_t)p * bytes + i] = pattern(mine, p, i);
            }
        }
        from = device_put(data, total);
        to   = device_put(NULL, total);
        ck_ok(wtn_nccl_alltoall(nccl, from, to, bytes, stream));
        wait_done();
        device_get(data, to, total + 1);
        for (int32_t p = 0; p < count; p++) {
            for (size_t i = 0; i < bytes; i++) {
                mistakes += data[(size_t)p * bytes + i] != pattern(p, mine, i);
            }
        }
        ck_assert_int_eq(mistakes, 0);
        ck_assert_int_eq(data[total], (char)0xee);
        ck_cuda(cudaFree(from));
        ck_cuda(cudaFree(to));
        free(data);
    }
}

static void check_allgather(void)
{
    for (size_t s = 0; s < 2 * WTN_COUNT_OF(block_sizes); s++) {
        bool   in_place = s >= WTN_COUNT_OF(block_sizes);
        size_t bytes    = (size_t)block_sizes[s % WTN_COUNT_OF(block_sizes)];
        size_t total    = (size_t)count * bytes;
        char  *data     = malloc(total + 1), *from, *to;

        for (size_t i = 0; i < bytes; i++) {
            data[i] = pattern(mine, 0, i);
        }
        to   = device_put(NULL, total);
        from = in_place ? to + (size_t)mine * bytes : device_put(NULL, bytes);
        ck_cuda(cudaMemcpy(from, data, bytes, cudaMemcpyHostToDevice));
        ck_cuda(cudaDeviceSynchronize());
        ck_ok(wtn_nccl_allgather(nccl, from, to, bytes, stream));
        wait_done();
        device_get(data, to, total + 1);
        for (int32_t p = 0; p < count; p++) {
            for (size_t i = 0; i < bytes; i++) {
                mistakes += data[(size_t)p * bytes + i] != pattern(p, 0, i);
            }
        }
        ck_assert_int_eq(mistakes, 0);
        ck_assert_int_eq(data[total], (char)0xee);
        if (!in_place) {
            ck_cuda(cudaFree(from));
        }
        ck_cuda(cudaFree(to));
        free(data);
    }
}

/* Small whole numbers: their sums are exact in any order. */
static float value(int32_t peer, int64_t i)
{
    return (float)((peer + 1) * (i % 1000) + peer);
}

static float value_sum(int64_t i)
{
    float sum = 0;

    for (int32_t p = 0; p < count; p++) {
        sum += value(p, i);
    }
    return sum;
}

static void check_allreduce(void)
{
    for (size_t s = 0; s < 2 * WTN_COUNT_OF(block_sizes); s++) {
        bool    in_place = s >= WTN_COUNT_OF(block_sizes);
        int64_t n        = block_sizes[s % WTN_COUNT_OF(block_sizes)];
        size_t  bytes    = (size_t)n * sizeof(float);
        float  *data     = malloc(bytes + 1), *from, *to;

        for (int64_t i = 0; i < n; i++) {
            data[i] = value(mine, i);
        }
        from = device_put(data, bytes);
        to   = in_place ? from : device_put(NULL, bytes);
        ck_ok(wtn_nccl_allreduce(nccl, from, to, n, stream));
        wait_done();
        device_get(data, to, bytes);
        for (int64_t i = 0; i < n; i++) {
            mistakes += !(data[i] == value_sum(i));
        }
        ck_assert_int_eq(mistakes, 0);
        if (!in_place) {
            ck_cuda(cudaFree(to));
        }
        ck_cuda(cudaFree(from));
        free(data);
    }
}

static void check_reduce_scatter(void)
{
    for (size_t s = 0; s < 2 * WTN_COUNT_OF(block_sizes); s++) {
        bool    in_place = s >= WTN_COUNT_OF(block_sizes);
        int64_t n        = block_sizes[s % WTN_COUNT_OF(block_sizes)];
        size_t  bytes = (size_t)n * sizeof(float), total = (size_t)count * bytes;
        float  *data = malloc(total + 1), *from, *to;

        for (int64_t i = 0; i < n * count; i++) {
            data[i] = value(mine, i);
        }
        from = device_put(data, total);
        to   = in_place ? from + mine * n : device_put(NULL, bytes);
        ck_ok(wtn_nccl_reduce_scatter(nccl, from, to, n, stream));
        wait_done();
        device_get(data, to, bytes);
        for (int64_t i = 0; i < n; i++) {
            mistakes += !(data[i] == value_sum(mine * n + i));
        }
        ck_assert_int_eq(mistakes, 0);
        if (!in_place) {
            ck_cuda(cudaFree(to));
        }
        ck_cuda(cudaFree(from));
        free(data);
    }
}

START_TEST(test_nccl_collectives_match_plain_loops)
{
    open_wide((int32_t)wtn_min_i64(widths[_i], world_size));
    check_alltoall();
    check_allgather();
    check_allreduce();
    check_reduce_scatter();
    close_all();
}
END_TEST

/* The same sums whatever their order would be: what counts is that every peer has the same bits,
 * and again the same when it is done again. */
START_TEST(test_nccl_allreduce_gives_equal_bits_on_all_peers)
{
    enum { N = 4099 };
    uint32_t first[N], again[N], *all = malloc((size_t)world_size * sizeof(first));
    float    data[N], *from, *to;

    open_wide(world_size);
    for (int32_t i = 0; i < N; i++) {
        data[i] = 1.0f / (float)(3 + world_rank * 7 + i);
    }
    from = device_put(data, sizeof(data));
    to   = device_put(NULL, sizeof(data));
    ck_ok(wtn_nccl_allreduce(nccl, from, to, N, stream));
    wait_done();
    device_get(first, to, sizeof(first));
    ck_ok(wtn_nccl_allreduce(nccl, from, to, N, stream));
    wait_done();
    device_get(again, to, sizeof(again));
    ck_assert_mem_eq(first, again, sizeof(first));
    ck_ok(wtn_allgather(comm, first, sizeof(first), all, "test"));
    for (int32_t rank = 0; rank < world_size; rank++) {
        ck_assert_mem_eq(all + (size_t)rank * N, first, sizeof(first));
    }
    ck_cuda(cudaFree(from));
    ck_cuda(cudaFree(to));
    free(all);
    close_all();
}
END_TEST

/* A captured exchange moves, at each replay, what is there then. */
START_TEST(test_nccl_captured_exchanges_replay_with_new_data)
{
    enum { BYTES = 1000 };
    size_t          total = (size_t)world_size * BYTES;
    char           *data  = malloc(total), *from, *to;
    cudaGraph_t     graph;
    cudaGraphExec_t exec;

    open_wide(world_size);
    from = device_put(NULL, total);
    to   = device_put(NULL, total);
    ck_ok(wtn_nccl_alltoall(nccl, from, to, BYTES, stream)); /* connects */
    wait_done();
    ck_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    ck_ok(wtn_nccl_alltoall(nccl, from, to, BYTES, stream));
    ck_cuda(cudaStreamEndCapture(stream, &graph));
    ck_cuda(cudaGraphInstantiate(&exec, graph, 0));
    for (int32_t step = 0; step < 5; step++) {
        for (int32_t p = 0; p < count; p++) {
            memset(data + (size_t)p * BYTES, pattern(mine, p, (size_t)step), BYTES);
        }
        ck_cuda(cudaMemcpyAsync(from, data, total, cudaMemcpyHostToDevice, stream));
        ck_cuda(cudaGraphLaunch(exec, stream));
        wait_done();
        device_get(data, to, total);
        for (int32_t p = 0; p < count; p++) {
            ck_assert_int_eq(data[(size_t)p * BYTES], pattern(p, mine, (size_t)step));
            ck_assert_int_eq(data[(size_t)p * BYTES + BYTES - 1], pattern(p, mine, (size_t)step));
        }
    }
    ck_cuda(cudaGraphExecDestroy(exec));
    ck_cuda(cudaGraphDestroy(graph));
    ck_cuda(cudaFree(from));
    ck_cuda(cudaFree(to));
    free(data);
    close_all();
}
END_TEST

START_TEST(test_nccl_one_device_used_twice_is_refused_by_rank)
{
    int32_t           peers[16], device = 0;
    wtn_nccl_config_t config = {.name = "test", .peers = peers, .peer_count = world_size};
    char              expected[64];

    if (world_size == 1) {
        return;
    }
    for (int32_t rank = 0; rank < world_size; rank++) {
        peers[rank] = rank;
    }
    group = group_within(20);
    ck_cuda(cudaGetDevice(&device));
    ck_cuda(cudaSetDevice(world_rank == world_size - 1 ? 0 : device));
    ck_status(wtn_nccl_open(&nccl, wtn_group_comm(group), &config), WITAN_E_UNSUPPORTED);
    ck_assert_ptr_null(nccl);
    (void)snprintf(expected, sizeof(expected), "ranks 0 and %d on GPU",
                   few_devices ? 1 : world_size - 1);
    ck_names(expected);
    ck_cuda(cudaSetDevice(device));
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_nccl_bad_peers_are_refused_on_all_ranks)
{
    int32_t           peers[2] = {world_rank, world_rank};
    wtn_nccl_config_t config   = {.name = "test", .peers = peers, .peer_count = 1};
    bool              wrong    = world_rank == world_size - 1;

    group             = group_within(20);
    peers[0]          = wrong && _i == 0 ? world_size : world_rank;
    config.peer_count = wrong && _i == 1 ? 2 : wrong && _i == 2 ? 0 : 1;
    ck_status(wtn_nccl_open(&nccl, wtn_group_comm(group), &config),
              wrong ? WITAN_E_ARGUMENT : WITAN_E_PEER);
    ck_assert_ptr_null(nccl);
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_nccl_messages_to_nobody_are_refused)
{
    char byte;

    open_wide(world_size);
    ck_status(wtn_nccl_send(nccl, 0, &byte, 1, stream), WITAN_E_INTERNAL); /* no group */
    ck_ok(wtn_nccl_group_begin(nccl));
    ck_status(wtn_nccl_send(nccl, mine, &byte, 1, stream), WITAN_E_INTERNAL);
    ck_status(wtn_nccl_recv(nccl, count, &byte, 1, stream), WITAN_E_INTERNAL);
    ck_status(wtn_nccl_alltoall(nccl, &byte, &byte, 1, stream), WITAN_E_INTERNAL);
    ck_ok(wtn_nccl_group_end(nccl)); /* nothing was queued */
    wait_done();
    close_all();
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("nccl");
    TCase *tcase = tcase_create("nccl");

    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, test_nccl_messages_of_uneven_sizes_arrive);
    tcase_add_loop_test(tcase, test_nccl_collectives_match_plain_loops, 0, WTN_COUNT_OF(widths));
    tcase_add_test(tcase, test_nccl_allreduce_gives_equal_bits_on_all_peers);
    tcase_add_test(tcase, test_nccl_captured_exchanges_replay_with_new_data);
    tcase_add_test(tcase, test_nccl_one_device_used_twice_is_refused_by_rank);
    tcase_add_loop_test(tcase, test_nccl_bad_peers_are_refused_on_all_ranks, 0, 3);
    tcase_add_test(tcase, test_nccl_messages_to_nobody_are_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return device_run(argc, argv, make_suite);
}

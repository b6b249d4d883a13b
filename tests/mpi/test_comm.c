/* The transport: messages of any size, checks of what arrives, agreement, all-reduce. */
#include <math.h>
#include <string.h>

#include "block.h"
#include "comm/comm.h"
#include "core/error.h"
#include "core/util.h"
#include "dispatch/plan.h"
#include "harness.h"
#include "kernels/backend.h"
#include "kernels/combine/combine.h"

START_TEST(test_allgather_any_size_gathers_in_order)
{
    static const size_t sizes[] = {0, 1, 17, 4096, 300000};
    witan_group_t      *group   = world_group(0, 1);
    size_t              bytes   = sizes[_i];
    unsigned char      *mine    = malloc(bytes + 1);
    unsigned char      *all     = malloc(bytes * (size_t)world_size + 1);

    memset(mine, world_rank + 1, bytes);
    ck_ok(wtn_allgather(wtn_group_comm(group), mine, bytes, all, "test"));
    for (size_t i = 0; i < bytes * (size_t)world_size; i++) {
        ck_assert_uint_eq(all[i], i / bytes + 1);
    }
    free(mine);
    free(all);
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_recv_shorter_or_longer_message_is_an_error)
{
    witan_group_t *group    = world_group(0, 1);
    wtn_comm_t    *comm     = wtn_group_comm(group);
    char           data[64] = {0};
    witan_status_t status;

    if (world_size > 1 && world_rank == 0) {
        ck_ok(wtn_send(comm, 1, WTN_TAG_USER, data, _i == 0 ? 32 : 64, "test"));
    } else if (world_rank == 1) {
        status = wtn_recv(comm, 0, WTN_TAG_USER, data, 48, "test");
        ck_assert_int_eq(status, WITAN_E_MISMATCH);
        ck_assert_ptr_nonnull(strstr(witan_last_error(), "rank 0 sent"));
        ck_assert_ptr_nonnull(strstr(witan_last_error(), "48"));
    }
    MPI_Barrier(MPI_COMM_WORLD);
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_agree_fault_on_one_rank_is_told_once_to_each)
{
    witan_group_t *group  = world_group(0, 1);
    wtn_comm_t    *comm   = wtn_group_comm(group);
    int            faulty = world_size / 2;
    witan_status_t status = WITAN_OK, result;

    if (world_rank == faulty) {
        status = WTN_ERROR(WITAN_E_FORMAT, "weights.bin: \n torn");
    }
    result = wtn_agree(comm, "test", status, NULL, 0);
    ck_assert_int_eq(result, world_rank == faulty ? WITAN_E_FORMAT : WITAN_E_PEER);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "weights.bin:   torn"));
    ck_ok(wtn_agree(comm, "test", WITAN_OK, NULL, 0));
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_watch_notice_ends_any_wait)
{
    witan_group_t *group = world_group(0, 1);
    wtn_comm_t    *comm  = wtn_group_comm(group);
    int32_t        peers[16];
    wtn_watch_t   *watch;
    wtn_request_t  request = {0};
    wtn_remains_t  remains = {0};
    char           byte;

    for (int i = 0; i < world_size; i++) {
        peers[i] = i;
    }
    ck_ok(wtn_watch_open(&watch, comm, 3, peers, world_size));
    if (world_size > 1 && world_rank == 0) {
        (void)WTN_ERROR(WITAN_E_IO, "disk on fire");
        wtn_watch_raise(watch, WITAN_E_IO);
        ck_assert_str_eq(witan_last_error(), "disk on fire");
    } else if (world_size > 1) {
        ck_ok(wtn_recv_post(comm, &request, 0, 3, WTN_TAG_USER, &byte, 1, true));
        ck_assert_int_eq(wtn_wait(comm, &request, 1, "test", wtn_deadline(comm), watch),
                         WITAN_E_PEER);
        ck_assert_str_eq(witan_last_error(), "rank 0: disk on fire");
        ck_assert_uint_eq(wtn_cancel(comm, &request, 1, &remains), 0); /* nothing had come for it */
        ck_assert(!request.active);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    wtn_watch_close(watch);
    witan_group_destroy(group);
}
END_TEST

/* Values whose fp32 sum depends on the order: all ranks must see rank order, rounded once. */
START_TEST(test_allreduce_sums_in_rank_order_with_equal_bits)
{
    static const int64_t counts[] = {0, 1, 3, 7, 1000, 4099};
    witan_group_t       *group    = world_group(1, world_size);
    wtn_comm_t          *comm     = wtn_group_comm(group);
    int64_t              count    = counts[_i];
    float               *mine = malloc((size_t)count * 4 + 4), *out = malloc((size_t)count * 4 + 4);
    void                *scratch      = aligned_alloc(64, wtn_allreduce_bytes(count, world_size));
    wtn_request_t        requests[32] = {0};
    int32_t              peers[16];

    for (int i = 0; i < world_size; i++) {
        peers[i] = i;
    }
    for (int64_t i = 0; i < count; i++) {
        mine[i] = sinf((float)i * 1.7f + (float)world_rank * 31.0f) * powf(10.0f, (float)(i % 9));
    }
    ck_ok(wtn_allreduce(comm, &(wtn_allreduce_args_t){.peers        = peers,
                                                      .peer_count   = world_size,
                                                      .mine         = world_rank,
                                                      .channel      = 1,
                                                      .partial      = mine,
                                                      .count        = count,
                                                      .out_dtype    = WITAN_F32,
                                                      .out          = out,
                                                      .scratch      = scratch,
                                                      .requests     = requests,
                                                      .thread_count = 1,
                                                      .reduce       = wtn_host_reduce}));
    for (int64_t i = 0; i < count; i++) {
        float sum = 0.0f;

        for (int r = 0; r < world_size; r++) {
            float x = sinf((float)i * 1.7f + (float)r * 31.0f) * powf(10.0f, (float)(i % 9));

            sum = r == 0 ? x : sum + x;
        }
        ck_assert_msg(out[i] == sum, "element %d: %.9g, expected %.9g", (int)i, (double)out[i],
                      (double)sum);
    }
    free(mine);
    free(out);
    free(scratch);
    witan_group_destroy(group);
}
END_TEST

/* All ranks sweep until none of them keeps memory for a peer, 10 s at most. */
static void sweep_until_nothing_is_kept(wtn_comm_t *comm)
{
    uint64_t deadline_ns = wtn_now_ns() + 10000000000u;
    int      over        = 0;

    while (!over && wtn_now_ns() < deadline_ns) {
        wtn_sweep(comm);
        over = wtn_kept_count() == 0;
        MPI_Allreduce(MPI_IN_PLACE, &over, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    }
    ck_assert_msg(over, "%zu releases of rank %d are still to come", wtn_kept_count(), world_rank);
}

static void set_flag(void *memory)
{
    *(bool *)memory = true;
}

/* A large send that nobody receives can not be undone, a receive that nothing met can. The memory
 * of the send is released once the peer, which has left the channel, has taken it in. */
START_TEST(test_cancel_keeps_what_a_peer_may_still_reach_until_it_is_over)
{
    enum { BYTES = 1 << 20 };
    witan_group_t *group       = world_group(0, 1);
    wtn_comm_t    *comm        = wtn_group_comm(group);
    wtn_request_t  requests[2] = {0};
    wtn_remains_t  remains     = {0};
    bool           sends = world_size > 1 && world_rank == 0, released = false, early;
    size_t         kept;
    static char    out[BYTES], in[BYTES];

    if (world_size > 1 && world_rank < 2) {
        int32_t peer = 1 - world_rank;

        ck_ok(wtn_recv_post(comm, &requests[0], peer, 5, WTN_TAG_TOKENS, in, BYTES, true));
        if (world_rank == 0) {
            ck_ok(wtn_send_post(comm, &requests[1], peer, 6, WTN_TAG_TOKENS, out, BYTES));
        }
        ck_assert(!comm->broken);
        ck_assert_uint_eq(wtn_cancel(comm, requests, 2, &remains), world_rank == 0 ? 1 : 0);
        ck_assert_int_eq(comm->broken, world_rank == 0);
        ck_assert_uint_eq(wtn_cancel(comm, requests, 2, &remains), 0);
    }
    wtn_release(comm, &remains, set_flag, &released);
    wtn_sweep(comm);
    early = released;
    kept  = wtn_kept_count();
    MPI_Barrier(MPI_COMM_WORLD);
    wtn_leave_channel(comm, 6);
    sweep_until_nothing_is_kept(comm);
    ck_assert_int_eq(early, !sends);
    ck_assert_uint_eq(kept, sends);
    ck_assert(released);
    witan_group_destroy(group);
}
END_TEST

/* Tokens are under way from the arena to a peer that has given up the step before it asked for
 * them: the arena stays, until the peer makes its next plan. */
START_TEST(test_plan_destroyed_before_its_tokens_are_taken_is_freed_later)
{
    enum { TOKENS = 300, H = 1024 };
    block_t             block   = block_make(8, 2, H, 8, WITAN_F32);
    witan_weights_t     weights = block_weights(&block);
    witan_group_t      *group   = world_group(0, 1);
    wtn_comm_t         *comm    = wtn_group_comm(group);
    size_t              sends   = world_size > 1 && world_rank == 0, kept;
    witan_plan_config_t config;
    witan_layer_t      *layer;
    witan_plan_t       *plan;

    ck_ok(witan_layer_create(&layer, group, &block.config, &weights));
    witan_plan_config_init(&config);
    config.token_count_max = TOKENS;
    ck_ok(witan_plan_create(&plan, layer, &config));
    if (sends > 0) {
        ck_ok(wtn_send_post(comm, plan->rounds[0].requests, 1, plan->channel, WTN_TAG_TOKENS,
                            plan->arena, plan->arena_bytes));
    }
    comm->broken = true; /* as on the peer, by its step */
    witan_plan_destroy(plan);
    kept = wtn_kept_count();
    MPI_Barrier(MPI_COMM_WORLD);
    ck_ok(witan_plan_create(&plan, layer, &config));
    sweep_until_nothing_is_kept(comm);
    ck_assert_uint_eq(kept, sends);
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

/* A gather that failed leaves the ranks at different ones: later ones would take old words. */
START_TEST(test_agree_after_a_timeout_is_refused)
{
    witan_group_config_t config;
    witan_group_t       *group;
    wtn_comm_t          *comm;

    witan_group_config_init(&config);
    config.timeout_ns = 300000000u;
    ck_ok(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config));
    comm = wtn_group_comm(group);
    if (world_size > 1 && world_rank > 0) {
        ck_assert_int_eq(wtn_agree(comm, "first", WITAN_OK, NULL, 0), WITAN_E_TIMEOUT);
        ck_assert_ptr_nonnull(strstr(witan_last_error(), "first: not heard from rank"));
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_size > 1 && world_rank > 0) {
        (void)WTN_ERROR(WITAN_E_IO, "own");
        ck_assert_int_eq(wtn_agree(comm, "second", WITAN_E_IO, NULL, 0), WITAN_E_IO);
        ck_assert_str_eq(witan_last_error(), "own");
        ck_assert_int_eq(wtn_agree(comm, "second", WITAN_OK, NULL, 0), WITAN_E_STATE);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    witan_group_destroy(group);
}
END_TEST

/* One who finds no memory for a gather has not taken part: its next one would take words of this.
 */
START_TEST(test_gather_without_memory_is_the_last)
{
    witan_group_config_t config;
    witan_group_t       *group;
    wtn_comm_t          *comm;
    bool                 last = world_rank == world_size - 1;
    int64_t              mine = world_rank, *all = calloc((size_t)world_size, sizeof(*all));
    witan_status_t       status = WITAN_OK;

    witan_group_config_init(&config);
    config.timeout_ns = 300000000u;
    ck_ok(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config));
    comm = wtn_group_comm(group);
    if (world_size > 1) {
        status = wtn_allgather(comm, &mine, last ? SIZE_MAX : sizeof(mine), all, "first");
        ck_assert_int_eq(status, last ? WITAN_E_MEMORY : WITAN_E_TIMEOUT);
        MPI_Barrier(MPI_COMM_WORLD);
        ck_assert_int_eq(wtn_allgather(comm, &mine, sizeof(mine), all, "second"), WITAN_E_STATE);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    witan_group_destroy(group);
    free(all);
}
END_TEST

/* A rank whose routing is refused may leave the others to their deadline. What they have sent it is
 * taken in all the same. */
START_TEST(test_plan_destroyed_after_a_refused_import_takes_in_what_peers_sent)
{
    enum { TOKENS = 300, H = 1024 };
    block_t              block   = block_make(8, 2, H, 8, WITAN_F32);
    witan_weights_t      weights = block_weights(&block);
    bool                 refused = world_rank == world_size - 1;
    float               *hidden  = block_input(&block, 0, TOKENS);
    float               *out     = malloc((size_t)TOKENS * H * sizeof(*out));
    const int32_t        ids[2]  = {0, 8};
    const float          ones[2] = {1, 1};
    witan_forward_args_t args    = {.struct_bytes = sizeof(args),
                                    .token_count  = TOKENS,
                                    .hidden       = hidden,
                                    .output       = out};
    witan_group_config_t group_config;
    witan_plan_config_t  config;
    witan_group_t       *group;
    witan_layer_t       *layer;
    witan_plan_t        *plan;

    witan_group_config_init(&group_config);
    group_config.timeout_ns   = 1500000000u;
    group_config.thread_count = 1;
    ck_ok(witan_group_create_mpi(&group, MPI_COMM_WORLD, &group_config));
    ck_ok(witan_layer_create(&layer, group, &block.config, &weights));
    witan_plan_config_init(&config);
    config.token_count_max = TOKENS;
    config.hierarchy       = WITAN_HIERARCHY_FLAT;
    ck_ok(witan_plan_create(&plan, layer, &config));
    if (refused) {
        ck_status(witan_plan_import(plan, 1, ids, ones), WITAN_E_ARGUMENT);
    } else {
        ck_status(witan_forward(plan, &args), WITAN_E_TIMEOUT);
    }
    witan_plan_destroy(plan);
    MPI_Barrier(MPI_COMM_WORLD);
    ck_ok(witan_plan_create(&plan, layer, &config));
    sweep_until_nothing_is_kept(wtn_group_comm(group));
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
    free(hidden);
    free(out);
}
END_TEST

/* Where peers keep the cores, each look for a message may cost one of their turns. */
START_TEST(test_sweep_of_many_channels_left_does_not_wait)
{
    witan_group_t *group = world_group(0, 1);
    wtn_comm_t    *comm  = wtn_group_comm(group);
    uint64_t       begin, taken;
    bool           over = false;

    for (int32_t i = 0; i < 2 * WTN_LEFT_CHANNELS; i++) {
        wtn_leave_channel(comm, 10 + i);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    begin = wtn_now_ns();
    if (world_rank == 0) {
        wtn_sweep(comm);
    }
    taken = wtn_now_ns() - begin;
    while (world_rank > 0 && !over) {
        over = wtn_now_ns() - begin > 1200000000u; /* at work meanwhile */
    }
    MPI_Barrier(MPI_COMM_WORLD);
    ck_assert_uint_lt(taken, 1000000000u);
    witan_group_destroy(group);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("comm");
    TCase *tcase = tcase_create("comm");

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_allgather_any_size_gathers_in_order, 0, 5);
    tcase_add_loop_test(tcase, test_recv_shorter_or_longer_message_is_an_error, 0, 2);
    tcase_add_test(tcase, test_agree_fault_on_one_rank_is_told_once_to_each);
    tcase_add_test(tcase, test_watch_notice_ends_any_wait);
    tcase_add_test(tcase, test_cancel_keeps_what_a_peer_may_still_reach_until_it_is_over);
    tcase_add_test(tcase, test_plan_destroyed_before_its_tokens_are_taken_is_freed_later);
    tcase_add_test(tcase, test_plan_destroyed_after_a_refused_import_takes_in_what_peers_sent);
    tcase_add_test(tcase, test_sweep_of_many_channels_left_does_not_wait);
    tcase_add_test(tcase, test_agree_after_a_timeout_is_refused);
    tcase_add_test(tcase, test_gather_without_memory_is_the_last);
    tcase_add_loop_test(tcase, test_allreduce_sums_in_rank_order_with_equal_bits, 0, 6);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return harness_run(argc, argv, make_suite);
}

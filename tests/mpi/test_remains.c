/* A rebalancing after one that was given up while weights were under way. */
#include <string.h>

#include "block.h"
#include "comm/comm.h"
#include "dispatch/layer.h"
#include "harness.h"

enum { E = 10, H = 64, I = 64 }; /* an expert is too large to be sent ahead */

typedef struct setup {
    block_t        block;
    witan_group_t *group;
    witan_layer_t *layer;
    int32_t        expert[E]; /* of the slots: every one but its own, on another rank if it can */
} setup_t;

static void setup_make(setup_t *setup, uint64_t timeout_ns)
{
    witan_group_config_t config;
    witan_weights_t      weights;

    memset(setup, 0, sizeof(*setup));
    witan_group_config_init(&config);
    config.thread_count = 1;
    config.timeout_ns   = timeout_ns;
    ck_ok(witan_group_create_mpi(&setup->group, MPI_COMM_WORLD, &config));
    setup->block = block_make(E, 2, H, I, WITAN_F32);
    weights      = block_weights(&setup->block);
    ck_ok(witan_layer_create(&setup->layer, setup->group, &setup->block.config, &weights));
    for (int32_t s = 0; s < E; s++) {
        setup->expert[s] = (s + E / 2) % E;
    }
}

static void setup_free(setup_t *setup)
{
    witan_layer_destroy(setup->layer);
    witan_group_destroy(setup->group);
}

static witan_status_t begin(setup_t *setup, witan_rebalance_t **rebalance)
{
    witan_rebalance_config_t config;

    witan_rebalance_config_init(&config);
    config.slot_expert = setup->expert;
    return witan_rebalance_begin(rebalance, setup->layer, &config);
}

static void commit(witan_rebalance_t *rebalance)
{
    bool committed = false;

    for (int i = 0; !committed; i++) {
        ck_assert_int_lt(i, 100000);
        ck_ok(witan_rebalance_commit(rebalance, &committed));
    }
    witan_rebalance_destroy(rebalance);
}

/* A rank that gives up takes in what the others have sent it; so the next attempt may do with the
 * weights what it likes. */
START_TEST(test_begin_waits_until_weights_of_the_last_attempt_are_over)
{
    static setup_t     setup;
    witan_rebalance_t *rebalance;

    setup_make(&setup, 20000000000u);
    for (int attempt = 0; attempt < 3; attempt++) {
        ck_ok(begin(&setup, &rebalance));
        ck_assert_uint_eq(setup.layer->remains.count, 0);
        if (world_rank < world_size - 1) {
            ck_ok(witan_rebalance_advance(rebalance, NULL));
        }
        MPI_Barrier(MPI_COMM_WORLD);
        witan_rebalance_destroy(rebalance);
        if (world_size == 2 && world_rank == 0) {
            ck_assert_uint_gt(setup.layer->remains.count, 0);
        }
        MPI_Barrier(MPI_COMM_WORLD); /* what follows on the others takes the weights in */
    }
    ck_ok(begin(&setup, &rebalance));
    ck_assert_uint_eq(setup.layer->remains.count, 0);
    commit(rebalance);
    setup_free(&setup);
}
END_TEST

/* As a rebalancing leaves it: rank 1 may still read the first expert of rank 0. */
static void send_weights(setup_t *setup, int32_t channel, void *copy, size_t bytes)
{
    const wtn_backend_t *backend = setup->layer->layout.backend;
    wtn_comm_t          *comm    = wtn_group_comm(setup->group);
    void                *weights = backend->ffn_weights(setup->layer->experts, 0);
    wtn_request_t        request;

    memcpy(copy, weights, bytes);
    ck_ok(wtn_send_post(comm, &request, 1, channel, WTN_TAG_TOKENS, weights, bytes));
    ck_assert_uint_eq(wtn_cancel(comm, &request, 1, &setup->layer->remains), 1);
}

START_TEST(test_begin_while_a_peer_reads_weights_is_refused)
{
    static setup_t     setup;
    static char        got[1 << 20], want[1 << 20];
    wtn_comm_t        *comm;
    wtn_request_t      request = {0};
    witan_rebalance_t *rebalance;
    witan_status_t     status;
    int32_t            channel;
    size_t             bytes;

    setup_make(&setup, 4000000000u);
    comm  = wtn_group_comm(setup.group);
    bytes = setup.layer->layout.backend->ffn_expert_bytes(&setup.layer->layout.experts);
    ck_assert_uint_le(bytes, sizeof(got));
    ck_ok(wtn_take_channel(comm, "test", &channel));
    if (world_rank == 0) {
        send_weights(&setup, channel, want, bytes);
    }
    status = begin(&setup, &rebalance);
    if (status == WITAN_OK) {
        commit(rebalance);
    }
    if (world_rank == 1) {
        ck_ok(wtn_recv_post(comm, &request, 0, channel, WTN_TAG_TOKENS, got, bytes, true));
        ck_ok(wtn_wait(comm, &request, 1, "test", wtn_deadline(comm), NULL));
    }
    MPI_Bcast(want, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD);
    ck_assert_msg(world_rank != 1 || memcmp(got, want, bytes) == 0, "other weights were read");
    ck_assert_int_eq(status, world_rank == 0 ? WITAN_E_STATE : WITAN_E_PEER);
    ck_names("weights of an earlier one are under way");
    ck_ok(begin(&setup, &rebalance));
    commit(rebalance);
    setup_free(&setup);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("remains");
    TCase *tcase = tcase_create("remains");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_begin_waits_until_weights_of_the_last_attempt_are_over);
    tcase_add_test(tcase, test_begin_while_a_peer_reads_weights_is_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return harness_run(argc, argv, make_suite);
}

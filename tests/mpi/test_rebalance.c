/* Live rebalancing: the bits of every step while weights move, what moves, and faults on the way.
 */
#include <string.h>
#include <unistd.h>

#include "block.h"
#include "core/util.h"
#include "harness.h"

enum { E = 6, K = 3, H = 40, I = 56, T = 29, R = 13 };

typedef struct setup {
    block_t        block;
    int32_t        expert[R], owner[R];
    int64_t        token_count;
    witan_group_t *group;
    witan_layer_t *layer;
    witan_plan_t  *plan, *pieces; /* the second with several rounds */
    uint16_t      *hidden, first[T * H], out[T * H];
} setup_t;

/* Experts of the slots, different for every number; 0 has them in turns. */
static void fill_slots(int32_t *expert, int number)
{
    for (int s = 0; s < R; s++) {
        float draw = block_random(4, (uint64_t)s, (uint64_t)number, 0) + 1.0f;

        expert[s] = number == 0 || s % 2 == 0 ? (s / 2 + number) % E : (int)(draw * 0.4999f * E);
    }
    for (int e = 0; e < E; e++) {
        expert[2 * e] = (e + number) % E;
    }
}

static void forward(setup_t *setup, witan_plan_t *plan, uint16_t *out)
{
    witan_forward_args_t args = {.struct_bytes = sizeof(args),
                                 .token_count  = setup->token_count,
                                 .hidden       = setup->hidden,
                                 .output       = out};

    ck_ok(witan_forward(plan, &args));
}

/* A step gives the bits of the first one. */
static void check_step(setup_t *setup, witan_plan_t *plan)
{
    forward(setup, plan, setup->out);
    ck_assert_mem_eq(setup->out, setup->first, (size_t)setup->token_count * H * 2);
}

static void check_steps(setup_t *setup)
{
    check_step(setup, setup->plan);
    check_step(setup, setup->pieces);
}

static void setup_make(setup_t *setup, int32_t tp, uint64_t timeout_ns)
{
    witan_weights_t      weights;
    witan_plan_config_t  config;
    witan_group_config_t group;
    witan_group_info_t   info = {.struct_bytes = sizeof(info)};

    memset(setup, 0, sizeof(*setup));
    witan_group_config_init(&group);
    group.tensor_parallel = tp;
    group.thread_count    = 1;
    group.timeout_ns      = timeout_ns;
    ck_ok(witan_group_create_mpi(&setup->group, MPI_COMM_WORLD, &group));
    ck_ok(witan_group_query(setup->group, &info));
    setup->block = block_make(E, K, H, I, WITAN_BF16);
    weights      = block_weights(&setup->block);
    fill_slots(setup->expert, 0);
    for (int s = 0; s < R; s++) { /* uneven, in no order, and on five ranks the last has none */
        setup->owner[s] = (s * s + s / 5) % (info.expert_parallel > 4 ? 4 : info.expert_parallel);
    }
    setup->block.config.slot_count       = R;
    setup->block.config.slot_expert      = setup->expert;
    setup->block.config.slot_owner       = setup->owner;
    setup->block.config.has_gate_up_bias = setup->block.config.has_down_bias = true;
    ck_ok(witan_layer_create(&setup->layer, setup->group, &setup->block.config, &weights));
    witan_plan_config_init(&config);
    config.token_count_max = T;
    ck_ok(witan_plan_create(&setup->plan, setup->layer, &config));
    config.chunk_count = 3;
    config.hierarchy   = WITAN_HIERARCHY_FLAT; /* the first has two levels, if there is a node */
    ck_ok(witan_plan_create(&setup->pieces, setup->layer, &config));
    /* The ranks of a tensor group have the same tokens. */
    setup->hidden      = block_input(&setup->block, info.expert_index * T, T);
    setup->token_count = info.expert_index % 3 == 0 ? T - 5 : T;
    forward(setup, setup->plan, setup->first);
    check_steps(setup);
}

static void setup_free(setup_t *setup)
{
    witan_plan_destroy(setup->plan);
    witan_plan_destroy(setup->pieces);
    witan_layer_destroy(setup->layer);
    witan_group_destroy(setup->group);
    free(setup->hidden);
}

static witan_rebalance_t *begin(setup_t *setup, const int32_t *expert, int64_t bytes_per_step)
{
    witan_rebalance_config_t config;
    witan_rebalance_t       *rebalance;

    witan_rebalance_config_init(&config);
    config.slot_expert    = expert;
    config.bytes_per_step = bytes_per_step;
    ck_ok(witan_rebalance_begin(&rebalance, setup->layer, &config));
    return rebalance;
}

/* Ranks call advance as often as they like; no call moves more than its share. */
static void advance_unevenly(witan_rebalance_t *rebalance, int step, int64_t bytes_per_step)
{
    witan_rebalance_info_t before = {.struct_bytes = sizeof(before)}, after = before;

    for (int i = 0; i < (world_rank + step) % 3; i++) {
        ck_ok(witan_rebalance_info(rebalance, &before));
        ck_ok(witan_rebalance_advance(rebalance, NULL));
        ck_ok(witan_rebalance_info(rebalance, &after));
        ck_assert_int_le(after.recv_bytes_completed - before.recv_bytes_completed, bytes_per_step);
        ck_assert_int_le(after.send_bytes_completed - before.send_bytes_completed, bytes_per_step);
    }
}

/* Steps go on until all ranks have swapped; the number of commits that were too early. */
static int finish(setup_t *setup, witan_rebalance_t *rebalance, int64_t bytes_per_step)
{
    bool committed = false;
    int  early     = 0;

    for (int step = 0; !committed; step++) {
        ck_assert_int_lt(step, 3000);
        advance_unevenly(rebalance, step, bytes_per_step);
        if (step % 3 == 0) {
            check_steps(setup);
        } else {
            check_step(setup, setup->plan);
        }
        if (step % 3 == 2) {
            ck_ok(witan_rebalance_commit(rebalance, &committed));
            early += !committed;
        }
    }
    check_steps(setup);
    return early;
}

static void check_info(const setup_t *setup, const int32_t *expert)
{
    witan_layer_info_t info = {.struct_bytes = sizeof(info)};
    int32_t            next = 0;

    ck_ok(witan_layer_info(setup->layer, &info));
    ck_assert_mem_eq(info.config.slot_expert, expert, R * sizeof(*expert));
    for (int s = 0; s < R; s++) {
        if (setup->owner[s] == world_rank) {
            ck_assert_int_eq(info.local_experts[next++], expert[s]);
        }
    }
}

START_TEST(test_steps_while_weights_move_give_equal_bits)
{
    const int64_t          bytes = _i == 0 ? 8192 : (int64_t)1 << 20;
    witan_rebalance_info_t info  = {.struct_bytes = sizeof(info)};
    witan_rebalance_t     *rebalance;
    static setup_t         setup;
    int32_t                expert[R];

    setup_make(&setup, 1, 20000000000u);
    for (int number = 1; number < 2 + 2 * _i; number++) {
        int early;

        fill_slots(expert, number);
        rebalance = begin(&setup, expert, bytes);
        early     = finish(&setup, rebalance, bytes);
        ck_ok(witan_rebalance_info(rebalance, &info));
        ck_assert_int_eq(info.recv_bytes_completed, info.recv_bytes);
        ck_assert_int_eq(info.send_bytes_completed, info.send_bytes);
        ck_assert(_i != 0 || world_size == 1 || early > 0); /* a blob is more than one share */
        witan_rebalance_destroy(rebalance);
        check_steps(&setup);
        check_info(&setup, expert);
    }
    setup_free(&setup);
}
END_TEST

/* Without slots to begin with: experts change places. */
START_TEST(test_layer_without_slots_exchanges_experts)
{
    static setup_t     setup;
    witan_weights_t    weights;
    witan_rebalance_t *rebalance;
    witan_layer_info_t info = {.struct_bytes = sizeof(info)};
    int32_t            expert[R];
    bool               committed = false;

    setup_make(&setup, 1, 20000000000u);
    witan_plan_destroy(setup.plan);
    witan_plan_destroy(setup.pieces);
    witan_layer_destroy(setup.layer);
    setup.block.config.slot_count  = 0;
    setup.block.config.slot_expert = setup.block.config.slot_owner = NULL;
    weights                                                        = block_weights(&setup.block);
    ck_ok(witan_layer_create(&setup.layer, setup.group, &setup.block.config, &weights));
    {
        witan_plan_config_t config;

        witan_plan_config_init(&config);
        config.token_count_max = T;
        ck_ok(witan_plan_create(&setup.plan, setup.layer, &config));
        ck_ok(witan_plan_create(&setup.pieces, setup.layer, &config));
    }
    for (int s = 0; s < E; s++) {
        expert[s] = E - 1 - s;
    }
    rebalance = begin(&setup, expert, 1 << 20);
    while (!committed) {
        check_steps(&setup);
        ck_ok(witan_rebalance_commit(rebalance, &committed));
    }
    witan_rebalance_destroy(rebalance);
    check_steps(&setup);
    ck_ok(witan_layer_info(setup.layer, &info));
    ck_assert_int_eq(info.config.slot_count, E);
    ck_assert_ptr_null(info.config.expert_owner);
    ck_assert_mem_eq(info.config.slot_expert, expert, E * sizeof(*expert));
    setup_free(&setup);
}
END_TEST

START_TEST(test_tensor_groups_move_their_slices)
{
    static setup_t     setup;
    witan_rebalance_t *rebalance;
    int32_t            expert[R];

    if (world_size % 2 != 0) {
        return;
    }
    setup_make(&setup, 2, 20000000000u);
    fill_slots(expert, 2);
    rebalance = begin(&setup, expert, 1 << 20);
    (void)finish(&setup, rebalance, 1 << 20);
    witan_rebalance_destroy(rebalance);
    setup_free(&setup);
}
END_TEST

/* The weights of a slot move once, from ranks that have them, and only where they are missing. */
START_TEST(test_query_tells_what_moves_and_the_memory)
{
    static setup_t           setup;
    witan_rebalance_config_t config;
    witan_rebalance_info_t   info = {.struct_bytes = sizeof(info)};
    witan_rebalance_t       *rebalance;
    witan_layer_info_t       layer = {.struct_bytes = sizeof(layer)};
    int32_t                  expert[R];
    int64_t                  sums[2], missing = 0, each = 0, local = 0;

    setup_make(&setup, 1, 20000000000u);
    fill_slots(expert, 3);
    witan_rebalance_config_init(&config);
    config.slot_expert = expert;
    ck_ok(witan_rebalance_query(setup.layer, &config, &info));
    for (int s = 0; s < R; s++) {
        local += setup.owner[s] == world_rank;
        for (int t = 0, has = 0, takes = 0; t < R && setup.owner[s] == world_rank; t++) {
            has += setup.owner[t] == world_rank && setup.expert[t] == expert[s];
            takes += setup.owner[t] == world_rank && expert[t] == expert[s] && t <= s;
            missing += t == R - 1 && takes > has;
        }
    }
    ck_assert_int_eq(info.slot_count, missing);
    ck_ok(witan_layer_info(setup.layer, &layer));
    if (info.slot_count > 0) {
        each = info.memory_bytes / info.slot_count;
        ck_assert_int_eq(each * info.slot_count, info.memory_bytes);
        ck_assert_int_le(each * local, layer.weight_bytes); /* the router is in it too */
    }
    sums[0] = info.recv_bytes;
    sums[1] = info.send_bytes;
    MPI_Allreduce(MPI_IN_PLACE, sums, 2, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    ck_assert_int_eq(sums[0], sums[1]);
    /* One byte too few on a rank that has slots to fill: all ranks are told. */
    config.memory_bytes_max = info.memory_bytes > 0 ? info.memory_bytes - 1 : 0;
    missing                 = info.memory_bytes > 0;
    MPI_Allreduce(MPI_IN_PLACE, &missing, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    if (missing > 0) {
        ck_status(witan_rebalance_begin(&rebalance, setup.layer, &config),
                  info.memory_bytes > 0 ? WITAN_E_MEMORY : WITAN_E_PEER);
        ck_names("memory_bytes_max");
        ck_assert_ptr_null(rebalance);
    }
    config.memory_bytes_max = info.memory_bytes;
    ck_ok(witan_rebalance_begin(&rebalance, setup.layer, &config));
    ck_status(witan_rebalance_begin(&(witan_rebalance_t *){NULL}, setup.layer, &config),
              WITAN_E_STATE);
    (void)finish(&setup, rebalance, config.bytes_per_step);
    witan_rebalance_destroy(rebalance);
    setup_free(&setup);
}
END_TEST

START_TEST(test_begin_wrong_or_different_is_refused_on_all_ranks)
{
    static setup_t           setup;
    witan_rebalance_config_t config;
    witan_rebalance_t       *rebalance;
    bool                     last = world_rank == world_size - 1;
    int32_t                  expert[R];

    setup_make(&setup, 1, 20000000000u);
    fill_slots(expert, 1);
    witan_rebalance_config_init(&config);
    config.slot_expert = expert;
    config.bytes_per_step += world_size > 1 && last ? 8 : 0;
    if (world_size > 1) {
        ck_status(witan_rebalance_begin(&rebalance, setup.layer, &config), WITAN_E_MISMATCH);
        ck_names("bytes_per_step: 16777216 on rank 0, 16777224 on rank");
        config.bytes_per_step = 4096;
        expert[R - 1]         = last ? expert[R - 1] : (expert[R - 1] + 1) % E;
        ck_status(witan_rebalance_begin(&rebalance, setup.layer, &config), WITAN_E_MISMATCH);
        ck_names("slot_expert");
    }
    fill_slots(expert, 1);
    config.bytes_per_step = last ? 4095 : 4096;
    ck_status(witan_rebalance_begin(&rebalance, setup.layer, &config),
              last ? WITAN_E_ARGUMENT : WITAN_E_PEER);
    ck_names("bytes_per_step: expected at least 4096, found 4095");
    config.bytes_per_step = 4096;
    expert[0]             = last ? E : expert[0];
    ck_status(witan_rebalance_begin(&rebalance, setup.layer, &config),
              last ? WITAN_E_CONFIG : WITAN_E_PEER);
    ck_names("slot_expert[0]");
    ck_assert_ptr_null(rebalance);
    config.slot_expert = NULL;
    ck_status(witan_rebalance_begin(&rebalance, setup.layer, &config), WITAN_E_ARGUMENT);
    check_steps(&setup);
    setup_free(&setup);
}
END_TEST

/* One rank gives up in the middle: the others are told, and all go on as they were. */
START_TEST(test_one_rank_gives_up_leaves_the_old_experts)
{
    static setup_t     setup;
    witan_rebalance_t *rebalance;
    witan_status_t     status = WITAN_OK;
    int32_t            expert[R];
    bool               committed, last = world_rank == world_size - 1;

    setup_make(&setup, 1, 20000000000u);
    fill_slots(expert, 3);
    rebalance = begin(&setup, expert, 4096);
    ck_ok(witan_rebalance_advance(rebalance, NULL));
    check_steps(&setup);
    if (last) {
        witan_rebalance_destroy(rebalance);
        rebalance = NULL;
    } else if (_i == 0) {
        uint64_t deadline = wtn_now_ns() + 10000000000u;

        while (status == WITAN_OK && wtn_now_ns() < deadline) {
            status = witan_rebalance_advance(rebalance, NULL);
        }
    } else {
        status = witan_rebalance_commit(rebalance, &committed);
    }
    if (!last) {
        ck_assert_msg(status == WITAN_E_PEER, "%s: %s", witan_status_name(status),
                      witan_last_error());
        ck_names("rebalance: given up");
        ck_status(witan_rebalance_advance(rebalance, NULL), WITAN_E_STATE);
    }
    check_steps(&setup);
    witan_rebalance_destroy(rebalance);
    check_info(&setup, setup.expert);
    rebalance = begin(&setup, expert, 1 << 20); /* another attempt */
    (void)finish(&setup, rebalance, 1 << 20);
    witan_rebalance_destroy(rebalance);
    setup_free(&setup);
}
END_TEST

/* A rank that does not advance is named in time by those who wait for it. */
START_TEST(test_one_rank_stalls_is_named_in_time)
{
    static setup_t     setup;
    witan_rebalance_t *rebalance;
    witan_status_t     status = WITAN_OK;
    uint64_t           start;
    int32_t            expert[R];

    if (world_size == 1) {
        return;
    }
    setup_make(&setup, 1, 1000000000u);
    for (int s = 0; s < R; s++) { /* all ranks get something from rank 0 and from others */
        expert[s] = (setup.expert[s] + 1) % E;
    }
    rebalance = begin(&setup, expert, 4096);
    check_steps(&setup);
    start = wtn_now_ns();
    if (world_rank == 0) {
        (void)usleep(1500000);
        while (status == WITAN_OK && wtn_now_ns() - start < 10000000000u) {
            status = witan_rebalance_advance(rebalance, NULL);
        }
    } else {
        while (status == WITAN_OK && wtn_now_ns() - start < 10000000000u) {
            status = witan_rebalance_advance(rebalance, NULL);
        }
        ck_assert_uint_lt(wtn_now_ns() - start, 4000000000u);
        /* One that waits for rank 0 in its turn may be named first, and says who it waits for. */
        ck_names(world_size == 2 ? "not heard from rank 0" : "not heard from rank");
    }
    ck_assert_msg(status == WITAN_E_PEER || status == WITAN_E_TIMEOUT, "%s: %s",
                  witan_status_name(status), witan_last_error());
    MPI_Barrier(MPI_COMM_WORLD);
    check_steps(&setup);
    witan_rebalance_destroy(rebalance);
    check_steps(&setup);
    MPI_Barrier(MPI_COMM_WORLD);
    setup_free(&setup);
}
END_TEST

/* One in commit learns from a notice that a rank is silent for another: as nobody can have swapped,
 * the layer goes on with its old experts. */
START_TEST(test_commit_told_of_a_silent_rank_keeps_the_layer)
{
    static setup_t     setup;
    witan_rebalance_t *rebalance;
    witan_status_t     status = WITAN_OK;
    uint64_t           start;
    int32_t            expert[R];
    bool               committed;

    if (world_size < 3) {
        return;
    }
    setup_make(&setup, 1, 1000000000u);
    for (int s = 0; s < R; s++) {
        expert[s] = (setup.expert[s] + 1) % E;
    }
    rebalance = begin(&setup, expert, 4096);
    check_steps(&setup);
    start = wtn_now_ns();
    if (world_rank == 0) {
        (void)usleep(2500000);
    } else if (world_rank < world_size - 1) {
        while (status == WITAN_OK && wtn_now_ns() - start < 10000000000u) {
            status = witan_rebalance_advance(rebalance, NULL);
        }
        ck_assert(status == WITAN_E_TIMEOUT || status == WITAN_E_PEER);
    } else {
        (void)usleep(500000); /* so that another's time-out comes before its own */
        ck_status(witan_rebalance_commit(rebalance, &committed), WITAN_E_PEER);
        ck_names("not heard from rank");
    }
    MPI_Barrier(MPI_COMM_WORLD);
    witan_rebalance_destroy(rebalance);
    check_steps(&setup);
    MPI_Barrier(MPI_COMM_WORLD);
    setup_free(&setup);
}
END_TEST

/* Between the steps of one rank's plan nobody swaps; after them all do. */
START_TEST(test_commit_between_the_steps_of_a_plan_is_refused)
{
    static setup_t     setup;
    witan_rebalance_t *rebalance;
    int32_t            expert[R];
    bool               committed;

    setup_make(&setup, 1, 20000000000u);
    fill_slots(expert, 2);
    rebalance = begin(&setup, expert, 1 << 20);
    if (world_rank == 0) {
        ck_ok(witan_route(setup.plan, T, setup.hidden));
    }
    ck_status(witan_rebalance_commit(rebalance, &committed),
              world_rank == 0 ? WITAN_E_STATE : WITAN_E_PEER);
    ck_names("on rank 0");
    ck_assert(!committed);
    check_info(&setup, setup.expert);
    (void)finish(&setup, rebalance, 1 << 20);
    check_info(&setup, expert);
    ck_status(witan_rebalance_commit(rebalance, &committed), WITAN_E_STATE);
    witan_rebalance_destroy(rebalance);
    setup_free(&setup);
}
END_TEST

/* A vote that never comes: it is not known who has swapped, so the layer is not used again. */
START_TEST(test_commit_without_one_rank_ends_the_layer)
{
    static setup_t       setup;
    witan_rebalance_t   *rebalance;
    witan_forward_args_t args = {.struct_bytes = sizeof(args)};
    int32_t              expert[R];
    bool                 committed;

    setup_make(&setup, 1, 1000000000u);
    fill_slots(expert, 2);
    rebalance = begin(&setup, expert, 1 << 20);
    if (world_rank > 0) {
        ck_status(witan_rebalance_commit(rebalance, &committed), WITAN_E_TIMEOUT);
        ck_names("rebalance: commit: not heard from rank 0");
        ck_status(witan_forward(setup.plan, &args), WITAN_E_STATE);
        ck_names("make another layer");
    } else if (world_size > 1) {
        (void)usleep(500000); /* the others give up before this rank would */
        ck_status(witan_forward(setup.plan, &args), WITAN_E_PEER);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    witan_rebalance_destroy(rebalance);
    MPI_Barrier(MPI_COMM_WORLD);
    setup_free(&setup);
}
END_TEST

/* Loads give the same slots on all ranks; even ones leave everything where it is. */
START_TEST(test_target_spreads_the_load)
{
    witan_group_t  *group   = world_group(0, 1);
    block_t         block   = block_make(E, 2, 16, 8, WITAN_F32);
    witan_weights_t weights = block_weights(&block);
    const float     load[E] = {100.0f, 3.0f, 2.0f, 2.0f, 1.0f, 1.0f};
    int32_t         slots[R], target[R], least[R], most[R], copies = 0;
    witan_layer_t  *layer;

    fill_slots(slots, 0);
    block.config.slot_count  = R;
    block.config.slot_expert = slots;
    ck_ok(witan_layer_create(&layer, group, &block.config, &weights));
    ck_ok(witan_rebalance_target(layer, load, 0, target));
    MPI_Allreduce(target, least, R, MPI_INT32_T, MPI_MIN, MPI_COMM_WORLD);
    MPI_Allreduce(target, most, R, MPI_INT32_T, MPI_MAX, MPI_COMM_WORLD);
    ck_assert_mem_eq(least, most, sizeof(least));
    for (int s = 0; s < R; s++) {
        copies += target[s] == 0;
    }
    ck_assert_int_ge(copies, world_size); /* nine tenths of the load: every rank has its share */
    ck_status(witan_rebalance_target(layer, NULL, 0, target), WITAN_E_ARGUMENT);
    ck_status(witan_rebalance_target(layer, load, 0.5, target), WITAN_E_ARGUMENT);
    ck_ok(witan_rebalance_target(layer, load, 1e9, target));
    ck_assert_mem_eq(target, slots, sizeof(slots)); /* good enough: nothing moves */
    witan_layer_destroy(layer);
    for (int s = 0; s < R; s++) {
        target[s] = 0;
    }
    block.config.slot_owner = target;
    ck_ok(witan_layer_create(&layer, group, &block.config, &weights));
    ck_status(witan_rebalance_target(layer, load, 0, least),
              world_size > 1 ? WITAN_E_UNSUPPORTED : WITAN_OK);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

Suite *make_suite(void)
{
    Suite *suite = suite_create("rebalance");
    TCase *tcase = tcase_create("rebalance");

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_steps_while_weights_move_give_equal_bits, 0, 2);
    tcase_add_test(tcase, test_layer_without_slots_exchanges_experts);
    tcase_add_test(tcase, test_tensor_groups_move_their_slices);
    tcase_add_test(tcase, test_query_tells_what_moves_and_the_memory);
    tcase_add_test(tcase, test_begin_wrong_or_different_is_refused_on_all_ranks);
    tcase_add_loop_test(tcase, test_one_rank_gives_up_leaves_the_old_experts, 0, 2);
    tcase_add_test(tcase, test_one_rank_stalls_is_named_in_time);
    tcase_add_test(tcase, test_commit_told_of_a_silent_rank_keeps_the_layer);
    tcase_add_test(tcase, test_commit_between_the_steps_of_a_plan_is_refused);
    tcase_add_test(tcase, test_commit_without_one_rank_ends_the_layer);
    tcase_add_test(tcase, test_target_spreads_the_load);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return harness_run(argc, argv, make_suite);
}

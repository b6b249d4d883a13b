/* What one rank finds wrong, all ranks learn: at creation, in a step, and when a peer falls silent.
 */
#include <string.h>
#include <unistd.h>

#include "block.h"
#include "comm/comm.h"
#include "core/util.h"
#include "dispatch/layer.h"
#include "harness.h"

static bool is_last(void)
{
    return world_rank == world_size - 1;
}

START_TEST(test_group_bad_folding_is_refused_on_all_ranks)
{
    witan_group_config_t config;
    witan_group_t       *group;

    witan_group_config_init(&config);
    config.tensor_parallel = world_size + 1;
    ck_status(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config), WITAN_E_ARGUMENT);
    ck_names("does not divide");
    ck_assert_ptr_null(group);
}
END_TEST

START_TEST(test_group_differing_config_names_field_values_and_ranks)
{
    witan_group_config_t config;
    witan_group_t       *group;

    witan_group_config_init(&config);
    config.timeout_ns = is_last() ? 7000000000u : 20000000000u;
    ck_status(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config), WITAN_E_MISMATCH);
    ck_names("timeout_ns: 20000000000 on rank 0, 7000000000 on rank");
}
END_TEST

START_TEST(test_group_bad_config_on_one_rank_reaches_all)
{
    witan_group_config_t config;
    witan_group_t       *group;

    witan_group_config_init(&config);
    config.thread_count = is_last() ? -3 : 1;
    ck_status(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config),
              is_last() ? WITAN_E_ARGUMENT : WITAN_E_PEER);
    ck_names("thread_count");
}
END_TEST

/* Nowhere to put what is created: refused there, and told to the others. */
START_TEST(test_null_out_on_one_rank_reaches_all)
{
    const witan_status_t     expected = is_last() ? WITAN_E_ARGUMENT : WITAN_E_PEER;
    block_t                  block    = block_make(8, 2, 16, 8, WITAN_F32);
    witan_weights_t          weights  = block_weights(&block);
    int32_t                  slots[8] = {7, 6, 5, 4, 3, 2, 1, 0};
    witan_plan_config_t      config;
    witan_rebalance_config_t moves;
    witan_group_t           *group, *made;
    witan_layer_t           *layer;
    witan_plan_t            *plan;
    witan_rebalance_t       *rebalance;
    bool                     yes;

    witan_plan_config_init(&config);
    config.token_count_max = 4;
    witan_rebalance_config_init(&moves);
    moves.slot_expert = slots;
    group             = world_group(0, 1);
    ck_status(witan_group_create_mpi(is_last() ? NULL : &made, MPI_COMM_WORLD, NULL), expected);
    ck_names("group: out is NULL");
    ck_status(witan_layer_create(is_last() ? NULL : &layer, group, &block.config, &weights),
              expected);
    ck_names("layer: out is NULL");
    ck_ok(witan_layer_create(&layer, group, &block.config, &weights));
    ck_status(witan_plan_create(is_last() ? NULL : &plan, layer, &config), expected);
    ck_names("plan: out is NULL");
    ck_ok(witan_plan_create(&plan, layer, &config));
    ck_status(witan_rebalance_begin(is_last() ? NULL : &rebalance, layer, &moves), expected);
    ck_names("rebalance: out is NULL");
    ck_ok(witan_rebalance_begin(&rebalance, layer, &moves));
    ck_status(witan_rebalance_commit(rebalance, is_last() ? NULL : &yes), expected);
    ck_names("rebalance: committed is NULL");
    witan_rebalance_destroy(rebalance);
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_layer_differing_config_names_the_field)
{
    witan_group_t  *group   = world_group(0, 1);
    block_t         block   = block_make(8, is_last() ? 3 : 2, 16, 8, WITAN_F32);
    witan_weights_t weights = block_weights(&block);
    witan_layer_t  *layer;

    ck_status(witan_layer_create(&layer, group, &block.config, &weights), WITAN_E_MISMATCH);
    ck_names("layer: topk: 2 on rank 0, 3 on rank");
    ck_assert_ptr_null(layer);
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_layer_unreadable_weights_on_one_rank_reach_all)
{
    witan_group_t  *group   = world_group(0, 1);
    block_t         block   = block_make(2 * world_size, 2, 16, 8, WITAN_F32);
    witan_weights_t weights = block_weights(&block);
    witan_layer_t  *layer;

    block.fail_expert = 2 * world_size - 1; /* only the last rank reads it */
    ck_status(witan_layer_create(&layer, group, &block.config, &weights),
              is_last() ? WITAN_E_IO : WITAN_E_PEER);
    ck_names("can not be read");
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_layer_differing_router_or_shared_weights_are_refused)
{
    witan_group_t  *group   = world_group(0, 1);
    block_t         block   = block_make(8, 2, 16, 8, WITAN_F32);
    witan_weights_t weights = block_weights(&block);
    witan_layer_t  *layer;

    block.config.shared_inter_size = _i == 0 ? 0 : 24;
    block.seed += is_last(); /* other files of the same shapes */
    ck_status(witan_layer_create(&layer, group, &block.config, &weights), WITAN_E_MISMATCH);
    ck_names("layer: router and shared weights (hash)");
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_layer_bad_config_is_refused_by_field)
{
    static const char *const names[] = {"topk",         "topk",    "hidden_size", "inter_size",
                                        "expert_count", "scale",   "group_count", "limit",
                                        "shared",       "backend", "tier"};
    witan_group_t           *group   = world_group(0, 1);
    block_t                  block   = block_make(8, 2, 16, 8, WITAN_F32);
    witan_weights_t          weights = block_weights(&block);
    witan_layer_t           *layer;

    block.config.topk                = _i == 0 ? 9 : _i == 1 ? 0 : 2;
    block.config.hidden_size         = _i == 2 ? 0 : 16;
    block.config.inter_size          = _i == 3 ? -8 : 8;
    block.config.expert_count        = _i == 4 ? 0 : 8;
    block.config.routing.scale       = _i == 5 ? 1.0f / 0.0f : 1.0f;
    block.config.routing.group_count = _i == 6 ? 3 : 1;
    block.config.activation.limit    = _i == 7 ? -1.0f : 0.0f;
    block.config.has_shared_gate     = _i == 8;
    block.config.backend             = _i == 9 ? "abacus" : "host";
    block.config.kernel_tier         = _i == 10 ? "avx9" : "auto";
    ck_assert_int_ne(witan_layer_create(&layer, group, &block.config, &weights), WITAN_OK);
    ck_names(names[_i]);
    witan_group_destroy(group);
}
END_TEST

typedef struct setup {
    block_t        block;
    witan_group_t *group;
    witan_layer_t *layer;
} setup_t;

static void setup_make(setup_t *setup, int32_t tp)
{
    witan_weights_t weights;

    setup->block = block_make(8, 2, 16, 8, WITAN_F32);
    weights      = block_weights(&setup->block);
    setup->group = world_group(0, tp);
    ck_ok(witan_layer_create(&setup->layer, setup->group, &setup->block.config, &weights));
}

static void setup_free(setup_t *setup)
{
    witan_layer_destroy(setup->layer);
    witan_group_destroy(setup->group);
}

static witan_plan_t *plan_make(setup_t *setup, int64_t token_count_max)
{
    witan_plan_config_t config;
    witan_plan_t       *plan;

    witan_plan_config_init(&config);
    config.token_count_max = token_count_max;
    ck_ok(witan_plan_create(&plan, setup->layer, &config));
    return plan;
}

START_TEST(test_plan_differing_or_bad_config_is_refused_on_all_ranks)
{
    setup_t             setup;
    witan_plan_config_t config;
    witan_plan_t       *plan;

    setup_make(&setup, 1);
    witan_plan_config_init(&config);
    config.token_count_max = 4;
    config.chunk_count     = is_last() ? 2 : 1;
    ck_status(witan_plan_create(&plan, setup.layer, &config), WITAN_E_MISMATCH);
    ck_names("plan: chunk_count: 1 on rank 0, 2 on rank");
    config.chunk_count        = 1;
    config.pair_row_count_max = is_last() ? 1 : 0;
    ck_status(witan_plan_create(&plan, setup.layer, &config),
              is_last() ? WITAN_E_ARGUMENT : WITAN_E_PEER);
    ck_names("pair_row_count_max");
    ck_status(witan_plan_create(&plan, setup.layer, is_last() ? NULL : &config),
              is_last() ? WITAN_E_ARGUMENT : WITAN_E_PEER);
    setup_free(&setup);
}
END_TEST

START_TEST(test_forward_bad_argument_on_one_rank_reaches_all)
{
    setup_t              setup;
    witan_plan_t        *plan;
    float               *hidden, out[5 * 16];
    witan_forward_args_t args = {.struct_bytes = sizeof(args), .token_count = 4, .output = out};

    setup_make(&setup, _i == 0 ? 1 : world_size);
    plan        = plan_make(&setup, 4);
    hidden      = block_input(&setup.block, 0, 5);
    args.hidden = hidden;
    args.token_count += is_last();
    ck_status(witan_forward(plan, &args), is_last() ? WITAN_E_ARGUMENT : WITAN_E_PEER);
    ck_names("5 tokens, the plan allows 0 to 4");
    args.token_count = 1;
    ck_status(witan_forward(plan, &args), WITAN_E_STATE);
    witan_plan_destroy(plan);
    free(hidden);

    plan             = plan_make(&setup, 4); /* the layer and the group are as good as before */
    hidden           = block_input(&setup.block, 0, 4);
    args.hidden      = hidden;
    args.token_count = 4;
    ck_ok(witan_forward(plan, &args));
    witan_plan_destroy(plan);
    setup_free(&setup);
    free(hidden);
}
END_TEST

/* Between route and dispatch; then no step of the layer is under way any more. */
START_TEST(test_forward_without_arguments_on_one_rank_reaches_all)
{
    setup_t              setup;
    witan_plan_t        *plan;
    float                rows[4 * 16] = {0};
    witan_forward_args_t args         = {.struct_bytes = sizeof(args),
                                         .token_count  = 4,
                                         .hidden       = rows,
                                         .output       = rows};

    setup_make(&setup, 1);
    plan = plan_make(&setup, 4);
    ck_ok(witan_route(plan, 4, rows));
    ck_assert_int_eq(atomic_load(&setup.layer->busy_plans), 1);
    ck_status(witan_forward(plan, is_last() ? NULL : &args),
              is_last() ? WITAN_E_ARGUMENT : WITAN_E_PEER);
    ck_names("forward: null pointer");
    ck_assert_int_eq(atomic_load(&setup.layer->busy_plans), 0);
    MPI_Barrier(MPI_COMM_WORLD);
    witan_plan_destroy(plan);
    setup_free(&setup);
}
END_TEST

START_TEST(test_tensor_parallel_differing_tokens_are_refused)
{
    setup_t              setup;
    witan_plan_t        *plan;
    float               *hidden, out[4 * 16];
    witan_forward_args_t args = {.struct_bytes = sizeof(args),
                                 .token_count  = is_last() ? 3 : 4,
                                 .output       = out};

    setup_make(&setup, world_size);
    plan        = plan_make(&setup, 4);
    hidden      = block_input(&setup.block, 0, 4);
    args.hidden = hidden;
    ck_assert_int_ne(witan_forward(plan, &args), WITAN_OK);
    witan_plan_destroy(plan);
    setup_free(&setup);
    free(hidden);
}
END_TEST

/* Experts and slices at once: the diagonal rank waits for none of those that find the fault. */
START_TEST(test_forward_bad_argument_reaches_every_rank_of_a_folding)
{
    setup_t              setup;
    witan_plan_t        *plan;
    float               *hidden, out[5 * 16];
    witan_forward_args_t args  = {.struct_bytes = sizeof(args), .token_count = 4, .output = out};
    uint64_t             begin = wtn_now_ns();

    setup_make(&setup, world_size % 2 == 0 ? 2 : 1);
    plan        = plan_make(&setup, 4);
    hidden      = block_input(&setup.block, 0, 5);
    args.hidden = hidden;
    args.token_count += is_last();
    ck_status(witan_forward(plan, &args), is_last() ? WITAN_E_ARGUMENT : WITAN_E_PEER);
    ck_names("5 tokens, the plan allows 0 to 4");
    ck_assert_uint_lt(wtn_now_ns() - begin, 10000000000u);
    witan_plan_destroy(plan);
    setup_free(&setup);
    free(hidden);
}
END_TEST

/* Messages too large to be sent ahead are under way when the step fails: what comes after works. */
START_TEST(test_forward_fault_with_large_messages_leaves_the_group_usable)
{
    enum { T = 300, H = 1024 };
    setup_t              setup   = {.block = block_make(8, 2, H, 8, WITAN_F32)};
    witan_weights_t      weights = block_weights(&setup.block);
    float               *hidden  = block_input(&setup.block, 0, T);
    float               *out     = malloc((size_t)T * H * sizeof(*out));
    witan_forward_args_t args    = {.struct_bytes = sizeof(args), .hidden = hidden, .output = out};

    setup.group = world_group(0, 1);
    ck_ok(witan_layer_create(&setup.layer, setup.group, &setup.block.config, &weights));
    for (int i = 0; i < 6; i++) {
        bool          faulty = i % 2 == 0;
        witan_plan_t *plan   = plan_make(&setup, T);

        args.token_count = T + (faulty && is_last());
        ck_status(witan_forward(plan, &args), !faulty     ? WITAN_OK
                                              : is_last() ? WITAN_E_ARGUMENT
                                                          : WITAN_E_PEER);
        witan_plan_destroy(plan);
    }
    setup_free(&setup);
    free(hidden);
    free(out);
}
END_TEST

START_TEST(test_steps_out_of_order_are_refused)
{
    setup_t       setup;
    witan_plan_t *plan;
    float         rows[2 * 16] = {0};

    setup_make(&setup, 1);
    plan = plan_make(&setup, 2);
    if (_i == 0) {
        ck_status(witan_dispatch(plan, rows), WITAN_E_STATE);
        ck_names("dispatch: called before route");
    } else if (_i == 1) {
        ck_ok(witan_route(plan, 2, rows));
        ck_status(witan_experts(plan), WITAN_E_STATE);
    } else if (_i == 2) {
        ck_ok(witan_route(plan, 2, rows));
        ck_status(witan_combine(plan, rows), WITAN_E_STATE);
    } else { /* rows are still under way */
        ck_ok(witan_route(plan, 2, rows));
        ck_ok(witan_dispatch(plan, rows));
        ck_status(witan_route(plan, 2, rows), WITAN_E_STATE);
        ck_names("route: called before combine");
        ck_status(witan_plan_import(plan, 0, NULL, NULL), WITAN_E_STATE);
        ck_ok(witan_experts(plan));
        ck_status(witan_route(plan, 2, rows), WITAN_E_STATE);
        ck_ok(witan_combine(plan, rows));
        ck_ok(witan_route(plan, 2, rows));
    }
    MPI_Barrier(MPI_COMM_WORLD);
    witan_plan_destroy(plan);
    setup_free(&setup);
}
END_TEST

START_TEST(test_import_bad_id_names_token_and_slot)
{
    setup_t       setup;
    witan_plan_t *plan;
    int32_t       ids[4]     = {0, 1, 2, _i == 0 ? 8 : -2};
    float         weights[4] = {1, 1, 1, 1};

    setup_make(&setup, 1);
    plan = plan_make(&setup, 2);
    ck_status(witan_plan_import(plan, 2, ids, weights), WITAN_E_ARGUMENT);
    ck_names("ids[1][1]: expected -1 to 7");
    witan_plan_destroy(plan);
    setup_free(&setup);
}
END_TEST

/* The longest deadline there is does not wrap round to one that has passed. */
START_TEST(test_group_longest_timeout_waits)
{
    witan_group_config_t config;
    witan_group_t       *group;

    witan_group_config_init(&config);
    config.timeout_ns = UINT64_MAX;
    ck_ok(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config));
    if (is_last()) {
        (void)usleep(50000);
    }
    ck_ok(wtn_agree(wtn_group_comm(group), "test", WITAN_OK, NULL, 0));
    witan_group_destroy(group);
}
END_TEST

/* Each rank takes the plan of another layer: equal shapes, wrong weights. */
START_TEST(test_plan_of_differing_layers_is_refused)
{
    setup_t             setup;
    witan_plan_config_t config;
    witan_weights_t     weights;
    witan_layer_t      *other;
    witan_plan_t       *plan;

    setup_make(&setup, 1);
    weights = block_weights(&setup.block);
    ck_ok(witan_layer_create(&other, setup.group, &setup.block.config, &weights));
    witan_plan_config_init(&config);
    config.token_count_max = 4;
    ck_status(witan_plan_create(&plan, is_last() ? other : setup.layer, &config), WITAN_E_MISMATCH);
    ck_names("plan: layer (as made): 0 on rank 0, 1 on rank");
    witan_layer_destroy(other);
    setup_free(&setup);
}
END_TEST

/* Tags are finite: the plan or layer for which there is none is refused, on all ranks. */
START_TEST(test_plan_or_layer_beyond_the_last_tag_is_refused)
{
    setup_t             setup;
    witan_weights_t     weights;
    witan_layer_t      *layer;
    witan_plan_config_t config;
    witan_plan_t       *plan;
    wtn_comm_t         *comm;

    setup_make(&setup, 1);
    comm = wtn_group_comm(setup.group);
    witan_plan_config_init(&config);
    config.token_count_max = 4;
    comm->channel_next     = comm->channel_max;
    ck_ok(witan_plan_create(&plan, setup.layer, &config)); /* the last one */
    witan_plan_destroy(plan);
    ck_status(witan_plan_create(&plan, setup.layer, &config), WITAN_E_UNSUPPORTED);
    ck_names("plan: channel");
    weights = block_weights(&setup.block);
    ck_status(witan_layer_create(&layer, setup.group, &setup.block.config, &weights),
              WITAN_E_UNSUPPORTED);
    ck_names("layer: channel");
    ck_ok(wtn_agree(comm, "test", WITAN_OK, NULL, 0)); /* and the group goes on */
    setup_free(&setup);
}
END_TEST

/* A rank that does not come: every other one names the phase and the rank, in time. */
START_TEST(test_forward_silent_rank_times_out_naming_it)
{
    witan_group_config_t config;
    witan_plan_config_t  plan_config;
    block_t              block   = block_make(8, 2, 16, 8, WITAN_F32);
    witan_weights_t      weights = block_weights(&block);
    witan_group_t       *group;
    witan_layer_t       *layer;
    witan_plan_t        *plan;
    float               *hidden = block_input(&block, 0, 4), out[4 * 16];
    witan_forward_args_t args   = {.struct_bytes = sizeof(args),
                                   .token_count  = 4,
                                   .hidden       = hidden,
                                   .output       = out};
    char                 name[32];
    uint64_t             begin;

    witan_group_config_init(&config);
    config.timeout_ns      = 1500000000u;
    config.thread_count    = 1;
    config.tensor_parallel = _i == 1 ? world_size : 1;
    config.ranks_per_node  = _i == 3 ? 2 : 0;
    ck_ok(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config));
    ck_ok(witan_layer_create(&layer, group, &block.config, &weights));
    witan_plan_config_init(&plan_config);
    plan_config.token_count_max = 4;
    plan_config.hierarchy       = _i == 0 ? WITAN_HIERARCHY_FLAT : WITAN_HIERARCHY_TWO_LEVEL;
    ck_ok(witan_plan_create(&plan, layer, &plan_config));
    if (is_last()) {
        (void)usleep(2500000);
    } else {
        begin = wtn_now_ns();
        ck_status(witan_forward(plan, &args), WITAN_E_TIMEOUT);
        ck_assert_uint_lt(wtn_now_ns() - begin, 2500000000u);
        (void)snprintf(name, sizeof(name), "rank %d within 1.5 s", world_size - 1);
        ck_names(name);
        ck_names(_i == 0 ? "dispatch: counts" : _i == 1 ? "reduce" : "dispatch: ");
    }
    MPI_Barrier(MPI_COMM_WORLD);
    /* What a late peer may still write to is not given back: this must not crash it. */
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
    free(hidden);
}
END_TEST

/* Ranks that are done wait for one that reads on, beyond the deadline; not for one that stands
 * still. */
START_TEST(test_layer_slow_reader_is_waited_for_and_a_stuck_one_is_not)
{
    witan_group_config_t config;
    block_t              block   = block_make(8 * world_size, 2, 16, 8, WITAN_F32);
    witan_weights_t      weights = block_weights(&block);
    witan_group_t       *group;
    witan_layer_t       *layer;
    witan_status_t       status;
    char                 name[32];

    witan_group_config_init(&config);
    config.timeout_ns   = 800000000u;
    config.thread_count = 1;
    ck_ok(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config));
    if (is_last()) {
        block.slow_us     = _i == 0 ? 100000 : 2500000; /* 25 reads: 2.5 s in all, or each */
        block.fail_expert = _i == 0 ? -1 : 8 * world_size - 8;
    }
    status = witan_layer_create(&layer, group, &block.config, &weights);
    if (_i == 0) {
        ck_ok(status);
        witan_layer_destroy(layer);
    } else if (!is_last()) {
        (void)snprintf(name, sizeof(name), "rank %d within 0.8 s", world_size - 1);
        ck_assert_int_eq(status, WITAN_E_TIMEOUT);
        ck_names(name);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    witan_group_destroy(group);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("faults");
    TCase *tcase = tcase_create("faults");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_group_bad_folding_is_refused_on_all_ranks);
    tcase_add_test(tcase, test_group_differing_config_names_field_values_and_ranks);
    tcase_add_test(tcase, test_group_bad_config_on_one_rank_reaches_all);
    tcase_add_test(tcase, test_null_out_on_one_rank_reaches_all);
    tcase_add_test(tcase, test_layer_differing_config_names_the_field);
    tcase_add_test(tcase, test_layer_unreadable_weights_on_one_rank_reach_all);
    tcase_add_loop_test(tcase, test_layer_differing_router_or_shared_weights_are_refused, 0, 2);
    tcase_add_loop_test(tcase, test_layer_bad_config_is_refused_by_field, 0, 11);
    tcase_add_test(tcase, test_plan_differing_or_bad_config_is_refused_on_all_ranks);
    tcase_add_loop_test(tcase, test_forward_bad_argument_on_one_rank_reaches_all, 0, 2);
    tcase_add_test(tcase, test_forward_bad_argument_reaches_every_rank_of_a_folding);
    tcase_add_test(tcase, test_forward_fault_with_large_messages_leaves_the_group_usable);
    tcase_add_test(tcase, test_forward_without_arguments_on_one_rank_reaches_all);
    tcase_add_test(tcase, test_tensor_parallel_differing_tokens_are_refused);
    tcase_add_loop_test(tcase, test_steps_out_of_order_are_refused, 0, 4);
    tcase_add_loop_test(tcase, test_import_bad_id_names_token_and_slot, 0, 2);
    tcase_add_test(tcase, test_group_longest_timeout_waits);
    tcase_add_test(tcase, test_plan_of_differing_layers_is_refused);
    tcase_add_test(tcase, test_plan_or_layer_beyond_the_last_tag_is_refused);
    tcase_add_loop_test(tcase, test_forward_silent_rank_times_out_naming_it, 0, 4);
    tcase_add_loop_test(tcase, test_layer_slow_reader_is_waited_for_and_a_stuck_one_is_not, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return harness_run(argc, argv, make_suite);
}

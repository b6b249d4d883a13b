/* A step allocates and frees nothing, whatever the plan: create does. */
#include <check.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include <witan/witan.h>
#include <witan/witan_mpi.h>

#include "malloc/count.h"

enum { HIDDEN = 48, INTER = 40, EXPERTS = 8, TOPK = 3, TOKENS = 37, REPEATS = 3, SLOTS = 11 };

/* Any small numbers: 0x3c23d70a is 0.01 as F32, its upper half nearly that as BF16. */
static void fill(void *out, witan_dtype_t dtype, size_t count, size_t seed)
{
    static const unsigned char bits[4] = {0x0a, 0xd7, 0x23, 0x3c};
    const size_t               size    = witan_dtype_bytes(dtype);
    unsigned char             *bytes   = out;

    for (size_t i = 0; i < count; i++) {
        memcpy(bytes + i * size, bits + 4 - size, size);
        bytes[i * size + size - 2] ^= (unsigned char)((i * 37 + seed * 11 + i / 7) & 0x7f);
    }
}

static witan_status_t read_weights(void *context, const witan_weight_slice_t *slice, void *out)
{
    (void)context;
    fill(out, slice->dtype, (size_t)slice->row_count * (size_t)slice->col_count,
         (size_t)slice->weight + (size_t)(slice->expert + 1));
    return WITAN_OK;
}

typedef struct plan_case {
    const char          *name;
    witan_dtype_t        dtype;
    int64_t              shared_inter_size;
    int32_t              chunk_count;
    bool                 tight; /* the smallest budget: many rounds */
    witan_combine_mode_t combine;
    witan_executor_t     executor;
    bool                 moving; /* experts in slots, and on their way to others */
} plan_case_t;

static const plan_case_t plan_cases[] = {
    {"fp32", WITAN_F32, 0, 1, false, WITAN_COMBINE_EXACT, WITAN_EXECUTOR_AUTO, false},
    {"bf16 shared", WITAN_BF16, 24, 1, false, WITAN_COMBINE_EXACT, WITAN_EXECUTOR_CONTIGUOUS,
     false},
    {"fp32 chunks", WITAN_F32, 24, 3, false, WITAN_COMBINE_EXACT, WITAN_EXECUTOR_AUTO, false},
    {"fp32 rounds", WITAN_F32, 0, 1, true, WITAN_COMBINE_EXACT, WITAN_EXECUTOR_AUTO, false},
    {"fp32 reduced", WITAN_F32, 0, 2, false, WITAN_COMBINE_REDUCED, WITAN_EXECUTOR_AUTO, false},
    {"fp32 moving", WITAN_F32, 0, 1, false, WITAN_COMBINE_EXACT, WITAN_EXECUTOR_AUTO, true},
};

/* The four steps one after another, as a caller would who overlaps work of his own. */
static witan_status_t steps(witan_plan_t *plan, const void *hidden, void *output)
{
    witan_status_t status = WITAN_OK;

    while (status == WITAN_OK && witan_plan_rounds_left(plan) > 0) {
        status = witan_dispatch(plan, hidden);
        if (status == WITAN_OK) {
            status = witan_experts(plan);
        }
        if (status == WITAN_OK) {
            status = witan_combine(plan, output);
        }
    }
    return status;
}

/* Every way through a step, once. */
static witan_status_t pass(witan_plan_t *plan, const witan_forward_args_t *args)
{
    witan_stats_t  stats = {.struct_bytes = sizeof(stats)};
    static int32_t ids[TOKENS * TOPK];
    static float   weights[TOKENS * TOPK];
    witan_status_t status = witan_forward(plan, args);

    if (status == WITAN_OK) {
        status = witan_route(plan, args->token_count, args->hidden);
    }
    if (status == WITAN_OK) {
        status = steps(plan, args->hidden, args->output);
    }
    for (int i = 0; i < TOKENS * TOPK; i++) {
        ids[i]     = i % (EXPERTS + 1) - 1; /* some tokens lack an expert */
        weights[i] = 0.5f;
    }
    if (status == WITAN_OK) {
        status = witan_plan_import(plan, args->token_count, ids, weights);
    }
    if (status == WITAN_OK) {
        status = steps(plan, args->hidden, args->output);
    }
    if (status == WITAN_OK) {
        status = witan_plan_stats(plan, &stats);
    }
    return status;
}

/* Experts of the slots, and others they are to have. */
static witan_rebalance_t *begin_moving(witan_layer_t *layer)
{
    int32_t                  expert[SLOTS];
    witan_rebalance_config_t config;
    witan_rebalance_t       *rebalance;

    for (int i = 0; i < SLOTS; i++) {
        expert[i] = (SLOTS - i) % EXPERTS;
    }
    witan_rebalance_config_init(&config);
    config.slot_expert    = expert;
    config.bytes_per_step = 4096;
    ck_assert_msg(witan_rebalance_begin(&rebalance, layer, &config) == WITAN_OK, "%s",
                  witan_last_error());
    return rebalance;
}

static void check_case(const plan_case_t *c, witan_group_t *group)
{
    static float         hidden[TOKENS * HIDDEN], output[TOKENS * HIDDEN];
    witan_weights_t      weights = {.context = NULL, .read = read_weights};
    witan_group_info_t   info    = {.struct_bytes = sizeof(info)};
    witan_layer_t       *layer;
    witan_plan_t        *plan;
    witan_layer_config_t layer_config;
    witan_plan_config_t  plan_config;
    witan_forward_args_t args = {.struct_bytes = sizeof(args), .token_count = TOKENS};
    int32_t              slots[SLOTS];
    witan_rebalance_t   *rebalance = NULL;
    witan_status_t       status;
    int64_t              calls;

    ck_assert_int_eq(witan_group_query(group, &info), WITAN_OK);
    witan_layer_config_init(&layer_config);
    layer_config.hidden_size       = HIDDEN;
    layer_config.inter_size        = INTER;
    layer_config.expert_count      = EXPERTS;
    layer_config.topk              = TOPK;
    layer_config.dtype             = c->dtype;
    layer_config.shared_inter_size = c->shared_inter_size;
    for (int i = 0; i < SLOTS; i++) {
        slots[i] = i % EXPERTS;
    }
    layer_config.slot_count  = c->moving ? SLOTS : 0;
    layer_config.slot_expert = c->moving ? slots : NULL;
    witan_plan_config_init(&plan_config);
    plan_config.token_count_max = TOKENS;
    plan_config.chunk_count     = c->chunk_count;
    plan_config.combine         = c->combine;
    plan_config.executor        = c->executor;
    if (c->tight) {
        plan_config.pair_token_count_max = 2;
        plan_config.pair_row_count_max   = TOPK;
    }
    fill(hidden, c->dtype, TOKENS * HIDDEN, (size_t)info.rank);
    args.hidden = hidden;
    args.output = output;

    ck_assert_msg(witan_layer_create(&layer, group, &layer_config, &weights) == WITAN_OK, "%s: %s",
                  c->name, witan_last_error());
    ck_assert_msg(witan_plan_create(&plan, layer, &plan_config) == WITAN_OK, "%s: %s", c->name,
                  witan_last_error());
    if (c->moving) {
        rebalance = begin_moving(layer);
    }
    for (int i = 0; i < REPEATS; i++) { /* without a warm-up: create does it all */
        args.token_count = i == 1 ? 0 : TOKENS;
        count_start(); /* asserts of Check allocate too: none before count_stop */
        status = pass(plan, &args);
        if (status == WITAN_OK && c->moving) {
            status = witan_rebalance_advance(rebalance, NULL);
        }
        calls = count_stop();
        ck_assert_msg(status == WITAN_OK, "%s: %s", c->name, witan_last_error());
        ck_assert_msg(calls == 0, "%s, %d ranks, pass %d: %lld calls, the first to %s", c->name,
                      (int)info.size, i, (long long)calls, count_first());
    }
    for (bool committed = !c->moving;
         !committed;) { /* nobody goes before all have what they need */
        ck_assert_msg(witan_rebalance_commit(rebalance, &committed) == WITAN_OK, "%s",
                      witan_last_error());
    }
    witan_rebalance_destroy(rebalance);
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
}

static void group_config(witan_group_config_t *config, int32_t tensor_parallel)
{
    witan_group_config_init(config);
    config->timeout_ns      = 20u * 1000000000u;
    config->thread_count    = 2;
    config->tensor_parallel = tensor_parallel;
}

START_TEST(test_step_alone_allocates_nothing)
{
    witan_group_config_t config;
    witan_group_t       *group;

    group_config(&config, 1);
    ck_assert_int_eq(witan_group_create_self(&group, &config), WITAN_OK);
    check_case(&plan_cases[_i], group);
    witan_group_destroy(group);
}
END_TEST

static void check_mpi(const plan_case_t *c, int32_t tensor_parallel)
{
    witan_group_config_t config;
    witan_group_t       *group;

    group_config(&config, tensor_parallel);
    ck_assert_msg(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config) == WITAN_OK, "%s",
                  witan_last_error());
    check_case(c, group);
    witan_group_destroy(group);
}

START_TEST(test_step_of_expert_parallel_ranks_allocates_nothing)
{
    check_mpi(&plan_cases[_i], 1);
}
END_TEST

START_TEST(test_step_of_tensor_parallel_ranks_allocates_nothing)
{
    int size;

    MPI_Comm_size(MPI_COMM_WORLD, &size);
    check_mpi(&plan_cases[_i], size % 2 == 0 ? 2 : 1);
}
END_TEST

/* The counter counts: creating a group allocates. */
START_TEST(test_count_of_a_create_is_not_zero)
{
    witan_group_t *group;
    witan_status_t status;
    int64_t        calls;

    count_start();
    status = witan_group_create_self(&group, NULL);
    calls  = count_stop();
    ck_assert_int_eq(status, WITAN_OK);
    ck_assert_int_gt(calls, 0);
    ck_assert_uint_gt(strlen(count_first()), 0);
    witan_group_destroy(group);
}
END_TEST

int main(int argc, char **argv)
{
    const int count = (int)(sizeof(plan_cases) / sizeof(plan_cases[0]));
    Suite    *suite = suite_create("malloc");
    TCase    *tcase = tcase_create("malloc");
    SRunner  *runner;
    int       failed;

    MPI_Init(&argc, &argv);
    tcase_add_test(tcase, test_count_of_a_create_is_not_zero);
    tcase_add_loop_test(tcase, test_step_alone_allocates_nothing, 0, count);
    tcase_add_loop_test(tcase, test_step_of_expert_parallel_ranks_allocates_nothing, 0, count);
    tcase_add_loop_test(tcase, test_step_of_tensor_parallel_ranks_allocates_nothing, 0, count);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK); /* MPI and OpenMP do not outlive a fork */
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    MPI_Finalize();
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* A step on a device that cannot end: every rank gets a status and a line that names the cause,
 * within the deadline, and the group goes on. */
#include <string.h>

#include "core/util.h"
#include "device_run.h"
#include "dispatch/stream.h"
#include "graph.h"
#ifdef WTN_EMULATOR
#include "tests/emulator/emulator.h"
#define SECONDS 1.0
#else
#define SECONDS 10.0 /* ranks that share a device take turns, and connect over sockets */
#endif

enum { T = 7, H = 40 };

/* The last with a tier whose products wait for the device. */
static const witan_exchange_t exchanges[] = {WITAN_EXCHANGE_EXACT, WITAN_EXCHANGE_PADDED,
                                             WITAN_EXCHANGE_DIRECT, WITAN_EXCHANGE_PADDED};

static block_t        block;
static witan_group_t *group;
static witan_layer_t *layer;
static witan_plan_t  *plan;
static void          *hidden, *output;

static bool is_last(void)
{
    return world_rank == world_size - 1;
}

static void make_plan(witan_exchange_t exchange)
{
    witan_plan_config_t config;

    witan_plan_config_init(&config);
    config.token_count_max = T;
    config.exchange        = exchange;
    ck_ok(witan_plan_create(&plan, layer, &config));
}

static void setup(int32_t variant)
{
    witan_group_config_t config;
    void                *input;

    witan_group_config_init(&config);
    config.thread_count      = 1;
    config.share_device      = device_count() < world_size;
    config.timeout_ns        = (uint64_t)(SECONDS * 1e9);
    block                    = block_make(6, 2, H, 24, WITAN_BF16);
    block.config.kernel_tier = variant == 3 ? "cublas" : "auto";
    input                    = block_input(&block, (int64_t)world_rank * T, T);
    ck_ok(witan_group_create_mpi(&group, MPI_COMM_WORLD, &config));
    layer = device_layer(&block, group);
    ck_ok(witan_memory_alloc(layer, &hidden, (size_t)T * H * 2));
    ck_ok(witan_memory_alloc(layer, &output, (size_t)T * H * 2));
    ck_ok(witan_memory_copy(layer, hidden, input, (size_t)T * H * 2));
    free(input);
    make_plan(exchanges[variant]);
}

static void teardown(void)
{
    witan_plan_destroy(plan);
    witan_memory_free(layer, hidden);
    witan_memory_free(layer, output);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}

static witan_status_t forward(int64_t token_count)
{
    witan_forward_args_t args   = {.struct_bytes = sizeof(args),
                                   .token_count  = token_count,
                                   .hidden       = hidden,
                                   .output       = output};
    witan_status_t       status = witan_forward(plan, &args);

    return status == WITAN_OK ? witan_plan_wait(plan) : status;
}

/* After a failure: the plan is done with, its end waits for nobody, a new one of the same layer
 * works. */
static void check_group_goes_on(witan_exchange_t exchange)
{
    uint64_t begin;

    ck_status(forward(T), WITAN_E_STATE);
    begin = wtn_now_ns();
    witan_plan_destroy(plan);
    ck_assert_double_lt((double)(wtn_now_ns() - begin) / 1e9, 0.8 * SECONDS);
    plan = NULL;
    MPI_Barrier(MPI_COMM_WORLD);
    make_plan(exchange);
    ck_ok(forward(T));
}

START_TEST(test_silent_peer_is_named_within_the_deadline)
{
    uint64_t begin;
    char     text[64];

    setup(_i);
    ck_ok(forward(T));
    MPI_Barrier(MPI_COMM_WORLD);
    begin = wtn_now_ns();
    snprintf(text, sizeof(text), "not heard from rank %d within", world_size - 1);
    if (!is_last()) {
        ck_status(forward(T), WITAN_E_TIMEOUT);
        ck_names(text);
        ck_assert_double_lt((double)(wtn_now_ns() - begin) / 1e9, 3 * SECONDS + 2);
    }
    MPI_Barrier(MPI_COMM_WORLD); /* the last rank was here all the time */
    if (is_last()) {
        witan_plan_destroy(plan);
        plan = NULL;
    } else {
        ck_status(forward(T), WITAN_E_STATE);
        witan_plan_destroy(plan);
        plan = NULL;
    }
    MPI_Barrier(MPI_COMM_WORLD);
    make_plan(exchanges[_i]);
    ck_ok(forward(T));
    teardown();
}
END_TEST

START_TEST(test_refused_argument_on_one_rank_reaches_all)
{
    setup(_i);
    ck_status(forward(is_last() ? T + 1 : T), is_last() ? WITAN_E_ARGUMENT : WITAN_E_PEER);
    ck_names("8 tokens, the plan allows 0 to 7");
    check_group_goes_on(exchanges[_i]);
    teardown();
}
END_TEST

START_TEST(test_import_bad_ids_are_told_by_wait)
{
    int32_t ids[T * 2];
    float   weights[T * 2];
    void   *device_ids, *device_weights;

    for (int32_t i = 0; i < T * 2; i++) {
        ids[i]     = i == 3 ? 6 : i == 8 ? -2 : i % 6;
        weights[i] = 0.5f;
    }
    setup(0);
    ck_ok(witan_memory_alloc(layer, &device_ids, sizeof(ids)));
    ck_ok(witan_memory_alloc(layer, &device_weights, sizeof(weights)));
    ck_ok(witan_memory_copy(layer, device_ids, ids, sizeof(ids)));
    ck_ok(witan_memory_copy(layer, device_weights, weights, sizeof(weights)));
    ck_ok(witan_plan_import(plan, T, device_ids, device_weights));
    ck_ok(witan_dispatch(plan, hidden));
    ck_ok(witan_experts(plan));
    ck_ok(witan_combine(plan, output));
    ck_status(witan_plan_wait(plan), WITAN_E_ARGUMENT);
    ck_names("import: ids: expected -1 to 5, found 2 others");
    ck_ok(forward(T)); /* told, and over */
    witan_memory_free(layer, device_ids);
    witan_memory_free(layer, device_weights);
    teardown();
}
END_TEST

START_TEST(test_steps_out_of_order_are_refused)
{
    setup(0);
    ck_status(witan_experts(plan), WITAN_E_STATE);
    ck_names("experts: called before dispatch");
    if (world_size > 1) {
        MPI_Barrier(MPI_COMM_WORLD);
        check_group_goes_on(WITAN_EXCHANGE_EXACT);
    }
    ck_ok(witan_route(plan, T, hidden));
    ck_ok(witan_dispatch(plan, hidden));
    ck_status(witan_plan_wait(plan), WITAN_E_STATE);
    ck_names("wait: called before combine of the last round");
    ck_ok(witan_experts(plan));
    ck_ok(witan_combine(plan, output));
    ck_ok(witan_plan_wait(plan));
    teardown();
}
END_TEST

START_TEST(test_overflowing_slots_refuse_work_in_place)
{
    witan_plan_config_t  config;
    witan_forward_args_t args = {.struct_bytes = sizeof(args), .token_count = T};

    if (world_size == 1) {
        return;
    }
    setup(0);
    witan_plan_destroy(plan);
    witan_plan_config_init(&config);
    config.token_count_max      = T;
    config.exchange             = WITAN_EXCHANGE_PADDED;
    config.pair_token_count_max = 2;
    ck_ok(witan_plan_create(&plan, layer, &config));
    args.hidden = hidden;
    args.output = hidden;
    ck_status(witan_forward(plan, &args), WITAN_E_ARGUMENT);
    ck_names("expected other memory than hidden");
    MPI_Barrier(MPI_COMM_WORLD);
    teardown();
}
END_TEST

/* Told by the query and at creation, not by the first step. */
START_TEST(test_more_experts_than_a_device_serves_are_refused)
{
    block_t             many  = block_make(65537, 2, 16, 8, WITAN_BF16);
    witan_sizes_t       sizes = {.struct_bytes = sizeof(sizes)};
    witan_plan_config_t config;

    witan_plan_config_init(&config);
    config.token_count_max = T;
    many.config.backend    = "cuda";
    ck_status(witan_layer_query(NULL, 0, 1, &many.config, &config, &sizes), WITAN_E_UNSUPPORTED);
    ck_names("expert_count: backend cuda serves up to 65536, found 65537");
    many.config.expert_count = 65536;
    ck_ok(witan_layer_query(NULL, 0, 1, &many.config, &config, &sizes));
}
END_TEST

/* Rounds of one token keep the arrays small; the window holds what all rounds return: 8 ranks of
 * 2^29 tokens, each row 2^32 bytes, are 2^64 bytes. */
START_TEST(test_window_beyond_64_bits_is_refused)
{
    const wtn_folding_t folding   = {8, 1, 1, 0, 0, 0};
    block_t             huge      = block_make(8, 1, (int64_t)1 << 30, 8, WITAN_F32);
    int64_t             tokens[8] = {0}, bytes;
    wtn_layout_t        layout    = {0};
    witan_plan_config_t config;

    huge.config.backend = "cuda";
    ck_ok(wtn_layout_make(&layout, &huge.config, &folding, NULL));
    witan_plan_config_init(&config);
    config.exchange             = WITAN_EXCHANGE_DIRECT;
    config.pair_token_count_max = 1;
    for (int32_t shift = 26; shift <= 30; shift++) {
        config.token_count_max = (int64_t)1 << shift;
        for (int32_t s = 0; s < 8; s++) {
            tokens[s] = config.token_count_max;
        }
        if (shift < 28) {
            ck_ok(wtn_stream_bytes(&layout, &config, tokens, 1, &bytes));
            ck_assert_int_gt(bytes, (int64_t)1 << (shift + 35)); /* and the other arrays */
        } else {
            ck_status(wtn_stream_bytes(&layout, &config, tokens, 1, &bytes), WITAN_E_ARGUMENT);
            ck_names("plan: the size overflows 64 bits");
        }
    }
    wtn_layout_free(&layout);
}
END_TEST

/* A thread that has another device current, or none yet, may make any call. */
START_TEST(test_every_step_makes_its_device_current)
{
    witan_stats_t stats = {.struct_bytes = sizeof(stats)};
    int           mine, other;

    if (device_count() < 2) {
        return;
    }
    setup(1);
    mine  = device_current();
    other = (mine + 1) % device_count();

#define ck_current(call)                          \
    do {                                          \
        device_make_current(other);               \
        ck_ok(call);                              \
        ck_assert_int_eq(device_current(), mine); \
    } while (0)

    ck_current(witan_route(plan, T, hidden));
    ck_current(witan_dispatch(plan, hidden));
    ck_current(witan_experts(plan));
    ck_current(witan_combine(plan, output));
    ck_current(witan_plan_wait(plan));
    ck_current(witan_plan_stats(plan, &stats));
    teardown();
}
END_TEST

#ifdef WTN_EMULATOR
START_TEST(test_failed_kernel_on_one_rank_reaches_all)
{
    setup(_i);
    ck_ok(forward(T));
    MPI_Barrier(MPI_COMM_WORLD);
    if (is_last()) {
        wtn_emulator_fail(WTN_EMULATOR_FAIL_LAUNCH, 4);
    }
    ck_status(forward(T), is_last() ? WITAN_E_INTERNAL : WITAN_E_PEER);
    ck_names("unspecified launch failure");
    MPI_Barrier(MPI_COMM_WORLD);
    wtn_emulator_fail(WTN_EMULATOR_NO_FAULT, 1);
    wtn_emulator_reset();
    teardown();
}
END_TEST
#endif

static Suite *make_suite(void)
{
    Suite *suite = suite_create("device faults");
    TCase *tcase = tcase_create("all");

    tcase_set_timeout(tcase, 0);
    if (world_size > 1) {
        tcase_add_loop_test(tcase, test_silent_peer_is_named_within_the_deadline, 0, 4);
        tcase_add_loop_test(tcase, test_refused_argument_on_one_rank_reaches_all, 0, 3);
    }
    tcase_add_test(tcase, test_import_bad_ids_are_told_by_wait);
    tcase_add_test(tcase, test_steps_out_of_order_are_refused);
    tcase_add_test(tcase, test_overflowing_slots_refuse_work_in_place);
    tcase_add_test(tcase, test_more_experts_than_a_device_serves_are_refused);
    tcase_add_test(tcase, test_window_beyond_64_bits_is_refused);
    tcase_add_test(tcase, test_every_step_makes_its_device_current);
#ifdef WTN_EMULATOR
    if (world_size > 1) {
        tcase_add_loop_test(tcase, test_failed_kernel_on_one_rank_reaches_all, 0, 3);
    }
#endif
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return device_count() > 0 ? harness_run(argc, argv, make_suite) : 77;
}

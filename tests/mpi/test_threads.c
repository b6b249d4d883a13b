/* Different plans of one layer from different threads at once. */
#include <pthread.h>
#include <string.h>

#include "block.h"
#include "harness.h"

enum { TOKENS = 20, HIDDEN = 40, REPEATS = 30, THREADS = 3 };

typedef struct worker {
    witan_plan_t *plan;
    uint16_t     *hidden;
    uint16_t      expected[TOKENS * HIDDEN];
    int           failed;
} worker_t;

static void *work(void *context)
{
    worker_t *worker = context;
    uint16_t  out[TOKENS * HIDDEN];

    for (int i = 0; i < REPEATS && worker->failed == 0; i++) {
        witan_forward_args_t args = {.struct_bytes = sizeof(args),
                                     .token_count  = TOKENS,
                                     .hidden       = worker->hidden,
                                     .output       = out};

        worker->failed = witan_forward(worker->plan, &args) != WITAN_OK ||
                         memcmp(out, worker->expected, sizeof(out)) != 0;
    }
    return NULL;
}

START_TEST(test_forward_plans_on_threads_give_equal_bits)
{
    block_t             block  = block_make(8, 2, HIDDEN, 24, WITAN_BF16);
    witan_group_t      *group  = world_group(0, 1);
    witan_weights_t     source = block_weights(&block);
    witan_layer_t      *layer;
    witan_plan_config_t config;
    worker_t            workers[THREADS] = {0};
    pthread_t           threads[THREADS];

    witan_plan_config_init(&config);
    config.token_count_max = TOKENS;
    ck_ok(witan_layer_create(&layer, group, &block.config, &source));
    for (int i = 0; i < THREADS; i++) {
        witan_forward_args_t args = {.struct_bytes = sizeof(args), .token_count = TOKENS};

        config.chunk_count = 1 + i;
        ck_ok(witan_plan_create(&workers[i].plan, layer, &config));
        workers[i].hidden = block_input(&block, 1000 * i + 50 * world_rank, TOKENS);
        args.hidden       = workers[i].hidden;
        args.output       = workers[i].expected;
        ck_ok(witan_forward(workers[i].plan, &args));
    }
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_int_eq(workers[i].failed, 0);
    }
    for (int i = 0; i < THREADS; i++) {
        witan_plan_destroy(workers[i].plan);
        free(workers[i].hidden);
    }
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

typedef struct loader {
    witan_plan_t *plan;
    int64_t       tokens; /* to expert 0, of each rank */
    int           failed;
} loader_t;

static void *load(void *context)
{
    loader_t *loader = context;

    for (int i = 0; i < REPEATS && loader->failed == 0; i++) {
        int64_t counts[8];

        loader->failed = witan_plan_load(loader->plan, counts, NULL, NULL) != WITAN_OK ||
                         counts[0] != loader->tokens * world_size;
    }
    return NULL;
}

/* Loads of different plans are gathered at once, and do not mix. */
START_TEST(test_load_plans_on_threads_keeps_them_apart)
{
    block_t             block  = block_make(8, 1, HIDDEN, 24, WITAN_BF16);
    witan_group_t      *group  = world_group(0, 1);
    witan_weights_t     source = block_weights(&block);
    witan_layer_t      *layer;
    witan_plan_config_t config;
    loader_t            loaders[THREADS] = {0};
    pthread_t           threads[THREADS];
    int32_t             ids[TOKENS]     = {0};
    float               weights[TOKENS] = {0};

    witan_plan_config_init(&config);
    config.token_count_max = TOKENS;
    ck_ok(witan_layer_create(&layer, group, &block.config, &source));
    for (int i = 0; i < THREADS; i++) {
        loaders[i].tokens = 1 + i;
        ck_ok(witan_plan_create(&loaders[i].plan, layer, &config));
        ck_ok(witan_plan_import(loaders[i].plan, loaders[i].tokens, ids, weights));
    }
    for (int i = 0; i < THREADS; i++) {
        int turn = (i + world_rank) % THREADS; /* another order on each rank */

        ck_assert_int_eq(pthread_create(&threads[turn], NULL, load, &loaders[turn]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_int_eq(loaders[i].failed, 0);
        witan_plan_destroy(loaders[i].plan);
    }
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

/* Two plans in flight on one thread: their steps interleave. */
START_TEST(test_steps_of_two_plans_interleaved_give_equal_bits)
{
    block_t             block  = block_make(8, 2, HIDDEN, 24, WITAN_BF16);
    witan_group_t      *group  = world_group(0, 1);
    witan_weights_t     source = block_weights(&block);
    witan_layer_t      *layer;
    witan_plan_t       *plans[2];
    witan_plan_config_t config;
    uint16_t           *hidden[2], out[2][TOKENS * HIDDEN], expected[2][TOKENS * HIDDEN];

    witan_plan_config_init(&config);
    config.token_count_max = TOKENS;
    ck_ok(witan_layer_create(&layer, group, &block.config, &source));
    for (int i = 0; i < 2; i++) {
        witan_forward_args_t args = {.struct_bytes = sizeof(args), .token_count = TOKENS};

        ck_ok(witan_plan_create(&plans[i], layer, &config));
        hidden[i]   = block_input(&block, 1000 * i + 50 * world_rank, TOKENS);
        args.hidden = hidden[i];
        args.output = expected[i];
        ck_ok(witan_forward(plans[i], &args));
        ck_ok(witan_route(plans[i], TOKENS, hidden[i]));
    }
    ck_ok(witan_dispatch(plans[0], hidden[0]));
    ck_ok(witan_dispatch(plans[1], hidden[1]));
    ck_ok(witan_experts(plans[1]));
    ck_ok(witan_experts(plans[0]));
    ck_ok(witan_combine(plans[1], out[1]));
    ck_ok(witan_combine(plans[0], out[0]));
    for (int i = 0; i < 2; i++) {
        ck_assert_mem_eq(out[i], expected[i], sizeof(out[i]));
        witan_plan_destroy(plans[i]);
        free(hidden[i]);
    }
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("threads");
    TCase *tcase = tcase_create("threads");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_forward_plans_on_threads_give_equal_bits);
    tcase_add_test(tcase, test_load_plans_on_threads_keeps_them_apart);
    tcase_add_test(tcase, test_steps_of_two_plans_interleaved_give_equal_bits);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return harness_run(argc, argv, make_suite);
}

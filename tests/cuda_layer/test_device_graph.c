/* A captured step replayed with other tokens, and so other routing, gives what a step gives. */
#include <string.h>

#include "device_run.h"
#include "graph.h"

enum { T = 13, H = 40, REPLAYS = 4 };

static const size_t row_bytes = H * 2;

/* One step that is not captured. */
static void forward(witan_plan_t *plan, witan_layer_t *layer, const void *input, int64_t count,
                    char *rows)
{
    size_t bytes = (size_t)count * row_bytes;
    void  *hidden, *output;

    ck_ok(witan_memory_alloc(layer, &hidden, bytes));
    ck_ok(witan_memory_alloc(layer, &output, bytes));
    ck_ok(witan_memory_copy(layer, hidden, input, bytes));
    ck_ok(witan_forward(plan, &(witan_forward_args_t){.struct_bytes = sizeof(witan_forward_args_t),
                                                      .token_count  = count,
                                                      .hidden       = hidden,
                                                      .output       = output}));
    ck_ok(witan_plan_wait(plan));
    ck_ok(witan_memory_copy(layer, rows, output, bytes));
    witan_memory_free(layer, hidden);
    witan_memory_free(layer, output);
}

static void check_replays(witan_layer_t *layer, block_t *block, const witan_plan_config_t *config,
                          int64_t count)
{
    size_t               bytes    = (size_t)count * row_bytes;
    char                *expected = calloc(1, bytes + 1), *found = calloc(1, bytes + 1);
    void                *stream   = stream_make(), *graph;
    witan_plan_config_t  captured = *config, plain = *config;
    witan_plan_t        *a, *b;
    witan_forward_args_t args = {.struct_bytes = sizeof(args), .token_count = count};
    void                *hidden, *output;

    captured.stream            = stream;
    plain.exchange             = WITAN_EXCHANGE_EXACT;
    plain.pair_token_count_max = 0;
    ck_ok(witan_plan_create(&a, layer, &captured));
    ck_ok(witan_plan_create(&b, layer, &plain));
    ck_ok(witan_memory_alloc(layer, &hidden, bytes));
    ck_ok(witan_memory_alloc(layer, &output, bytes));
    args.hidden = hidden;
    args.output = output;
    capture_begin(stream);
    ck_ok(witan_forward(a, &args));
    graph = capture_end(stream);
    for (int64_t i = 0; i < REPLAYS; i++) {
        void *input = block_input(block, (i * world_size + world_rank) * T, count);

        memset(found, 0, bytes);
        ck_ok(witan_memory_copy(layer, output, found, bytes));
        ck_ok(witan_memory_copy(layer, hidden, input, bytes));
        graph_replay(graph, stream);
        ck_ok(witan_plan_wait(a));
        ck_ok(witan_memory_copy(layer, found, output, bytes));
        forward(b, layer, input, count, expected);
        ck_assert_mem_eq(found, expected, bytes);
        free(input);
    }
    graph_free(graph);
    witan_plan_destroy(a);
    witan_plan_destroy(b);
    witan_memory_free(layer, hidden);
    witan_memory_free(layer, output);
    stream_free(stream);
    free(expected);
    free(found);
}

START_TEST(test_replay_with_other_tokens_equals_a_step)
{
    block_t              block = block_make(9, 3, H, 24, WITAN_BF16);
    witan_plan_config_t  config;
    witan_group_config_t options;
    witan_group_t       *group;
    witan_layer_t       *layer;

    witan_group_config_init(&options);
    options.thread_count = 1;
    options.share_device = device_count() < world_size;
    ck_ok(witan_group_create_mpi(&group, MPI_COMM_WORLD, &options));
    block.config.shared_inter_size = 16;
    layer                          = device_layer(&block, group);
    witan_plan_config_init(&config);
    config.token_count_max      = T;
    config.exchange             = _i % 2 == 0 ? WITAN_EXCHANGE_PADDED : WITAN_EXCHANGE_DIRECT;
    config.pair_token_count_max = _i < 2 ? 0 : 5; /* few slots: some replays overflow */
    check_replays(layer, &block, &config, T - world_rank);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
}
END_TEST

START_TEST(test_capture_of_exact_exchange_is_refused)
{
    block_t             block = block_make(9, 3, H, 24, WITAN_BF16);
    witan_plan_config_t config;
    witan_group_t      *group = device_group(0, 1);
    witan_layer_t      *layer;
    witan_plan_t       *plan;
    void               *stream, *hidden, *graph;
    witan_status_t      status;

    if (world_size == 1) {
        witan_group_destroy(group);
        return;
    }
    stream = stream_make();
    layer  = device_layer(&block, group);
    witan_plan_config_init(&config);
    config.token_count_max = T;
    config.stream          = stream;
    ck_ok(witan_plan_create(&plan, layer, &config));
    ck_ok(witan_memory_alloc(layer, &hidden, T * row_bytes));
    capture_begin(stream);
    status =
        witan_forward(plan, &(witan_forward_args_t){.struct_bytes = sizeof(witan_forward_args_t),
                                                    .token_count  = T,
                                                    .hidden       = hidden,
                                                    .output       = hidden});
    ck_assert_int_eq(status, WITAN_E_STATE);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "padded"));
    graph = capture_end(stream);
    graph_free(graph);
    witan_plan_destroy(plan);
    witan_memory_free(layer, hidden);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
    stream_free(stream);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("device graph");
    TCase *tcase = tcase_create("all");

    tcase_set_timeout(tcase, 0);
    tcase_add_loop_test(tcase, test_replay_with_other_tokens_equals_a_step, 0, 4);
    tcase_add_test(tcase, test_capture_of_exact_exchange_is_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return device_count() > 0 ? harness_run(argc, argv, make_suite) : 77;
}

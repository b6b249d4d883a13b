/* What a step reports against closed forms and against what the transport was really given; and
 * messages that do not hold what they announce. */
#include <string.h>

#include "block.h"
#include "core/util.h"
#include "dispatch/plan.h"
#include "harness.h"

enum { E = 12, K = 4, H = 40, TOKENS_MAX = 40, RANKS_MAX = 8 };

/* The transport of the group, counting what goes out. */
static const wtn_transport_t *inner;
static int64_t                sent_bytes[RANKS_MAX][WTN_TAG_COUNT];
static int64_t                sent_count[RANKS_MAX][WTN_TAG_COUNT];

static witan_status_t counting_post(wtn_comm_t *comm, wtn_request_t *request, void *data,
                                    int32_t channel, wtn_tag_t tag)
{
    if (request->is_send) {
        sent_bytes[request->peer][tag] += (int64_t)request->bytes;
        sent_count[request->peer][tag]++;
    }
    return inner->post(comm, request, data, channel, tag);
}

static void count_messages(witan_group_t *group)
{
    static wtn_transport_t counting;
    wtn_comm_t            *comm = wtn_group_comm(group);

    inner           = comm->transport;
    counting        = *inner;
    counting.post   = counting_post;
    comm->transport = &counting;
    memset(sent_bytes, 0, sizeof(sent_bytes));
    memset(sent_count, 0, sizeof(sent_count));
}

static int64_t tokens_of(int32_t rank)
{
    return rank == 1 ? 0 : 20 + rank; /* one rank has none */
}

/* The same on every rank: expert of (rank, token, k), with holes and repetitions. */
static int32_t id_of(int32_t rank, int64_t t, int32_t k)
{
    int32_t id = (int32_t)((rank * 5 + t * 7 + k * k * (t % 3)) % (E + 1));

    return id == E ? -1 : id;
}

typedef struct traffic {
    int64_t rows[RANKS_MAX][RANKS_MAX], tokens[RANKS_MAX][RANKS_MAX]; /* [from][to] */
    int64_t experts[RANKS_MAX][E];                                    /* [from] */
} traffic_t;

static traffic_t expected_traffic(void)
{
    traffic_t traffic = {0};

    for (int32_t from = 0; from < world_size; from++) {
        for (int64_t t = 0; t < tokens_of(from); t++) {
            bool goes[RANKS_MAX] = {false};

            for (int32_t k = 0; k < K; k++) {
                int32_t id = id_of(from, t, k);

                if (id >= 0) {
                    int32_t to = id % world_size;

                    traffic.experts[from][id]++;
                    traffic.rows[from][to]++;
                    traffic.tokens[from][to] += !goes[to];
                    goes[to] = true;
                }
            }
        }
    }
    return traffic;
}

static double expected_imbalance(const int64_t *rows)
{
    int64_t most = 0, sum = 0;

    for (int32_t r = 0; r < world_size; r++) {
        most = wtn_max_i64(most, rows[r]);
        sum += rows[r];
    }
    return (double)most * world_size / (double)sum;
}

/* Tokens and rows of rank `from` for the node of `to`, where that takes them in for its node. */
static int64_t node_traffic(int32_t from, int32_t to, int32_t ranks_per_node, int64_t *rows)
{
    int32_t first  = to / ranks_per_node * ranks_per_node;
    int32_t end    = first + ranks_per_node < world_size ? first + ranks_per_node : world_size;
    int64_t tokens = 0;

    *rows = 0;
    if (from / ranks_per_node == to / ranks_per_node ||
        first + from % ranks_per_node % (end - first) != to) {
        return 0;
    }
    for (int64_t t = 0; t < tokens_of(from); t++) {
        int64_t before = *rows;

        for (int32_t k = 0; k < K; k++) {
            int32_t id = id_of(from, t, k);

            *rows += id >= 0 && id % world_size >= first && id % world_size < end;
        }
        tokens += *rows > before;
    }
    return tokens;
}

/* A token crosses to a node (flat: of one rank) once however many of its experts live there, in any
 * number of rounds; what returns is a row per (token, k), or per token where they are summed first.
 */
static void check_messages(const witan_stats_t *stats, int32_t ranks_per_node, bool reduced)
{
    const int64_t row = H * 2;

    for (int32_t d = 0; d < world_size; d++) {
        int64_t pieces = sent_count[d][WTN_TAG_MANIFEST], rows, back_rows;
        int64_t tokens = node_traffic(world_rank, d, ranks_per_node, &rows);
        int64_t back   = node_traffic(d, world_rank, ranks_per_node, &back_rows);

        back = reduced ? back : back_rows;
        if (d / ranks_per_node == world_rank / ranks_per_node) {
            ck_assert_int_eq(stats->rank_send_bytes[d], 0);
            ck_assert_int_eq(sent_bytes[d][WTN_TAG_TOKENS] + sent_bytes[d][WTN_TAG_ROWS], 0);
            continue;
        }
        if (tokens == 0) { /* another one takes them in; or all are empty: a manifest says so */
            ck_assert_int_eq(sent_bytes[d][WTN_TAG_TOKENS], 0);
            ck_assert_int_eq(sent_bytes[d][WTN_TAG_ROWS], back * row);
            continue;
        }
        ck_assert_int_ge(pieces, 1);
        ck_assert_int_le(pieces, stats->round_count);
        ck_assert_int_eq(sent_bytes[d][WTN_TAG_TOKENS], tokens * row);
        ck_assert_int_eq(sent_bytes[d][WTN_TAG_ROWS], back * row);
        ck_assert_int_eq(sent_bytes[d][WTN_TAG_MANIFEST],
                         pieces * (int64_t)sizeof(wtn_manifest_t) +
                             rows * (int64_t)sizeof(wtn_wire_row_t));
        ck_assert_int_eq(stats->rank_send_bytes[d], pieces * (int64_t)sizeof(wtn_manifest_t) +
                                                        rows * (int64_t)sizeof(wtn_wire_row_t) +
                                                        (tokens + back) * row);
    }
}

static void check_stats(const traffic_t *traffic, const witan_stats_t *stats)
{
    int64_t tokens = 0, rows = 0;

    for (int32_t s = 0; s < world_size; s++) {
        tokens += traffic->tokens[s][world_rank];
        rows += traffic->rows[s][world_rank];
        ck_assert_int_eq(stats->rank_row_counts[s], traffic->rows[world_rank][s]);
    }
    ck_assert_int_eq(stats->token_count, tokens_of(world_rank));
    ck_assert_int_eq(stats->recv_token_count, tokens);
    ck_assert_int_eq(stats->recv_row_count, rows);
    for (int32_t e = 0, local = 0; e < E; e++) {
        ck_assert_int_eq(stats->expert_token_counts[e], traffic->experts[world_rank][e]);
        if (e % world_size == world_rank) {
            int64_t sum = 0;

            for (int32_t s = 0; s < world_size; s++) {
                sum += traffic->experts[s][e];
            }
            ck_assert_int_eq(stats->expert_row_counts[local++], sum);
        }
    }
    if (stats->token_count > 0) {
        ck_assert(stats->imbalance == expected_imbalance(traffic->rows[world_rank]));
    } else {
        ck_assert(stats->imbalance == 1.0);
    }
}

static void check_load(const traffic_t *traffic, witan_plan_t *plan)
{
    int64_t experts[E], rows[RANKS_MAX], sums[RANKS_MAX] = {0};
    double  imbalance;

    ck_ok(witan_plan_load(plan, experts, rows, &imbalance));
    for (int32_t r = 0; r < world_size; r++) {
        for (int32_t s = 0; s < world_size; s++) {
            sums[r] += traffic->rows[s][r];
        }
        ck_assert_int_eq(rows[r], sums[r]);
    }
    for (int32_t e = 0; e < E; e++) {
        int64_t sum = 0;

        for (int32_t s = 0; s < world_size; s++) {
            sum += traffic->experts[s][e];
        }
        ck_assert_int_eq(experts[e], sum);
    }
    ck_assert(imbalance == expected_imbalance(sums));
}

typedef struct setup {
    block_t        block;
    int32_t        owner[E];
    witan_group_t *group;
    witan_layer_t *layer;
    witan_plan_t  *plan;
    uint16_t      *hidden, out[TOKENS_MAX * H];
} setup_t;

static void setup_make(setup_t *setup, witan_group_t *group, const witan_plan_config_t *config)
{
    witan_weights_t weights;

    setup->block = block_make(E, K, H, 24, WITAN_BF16);
    weights      = block_weights(&setup->block);
    setup->group = group;
    for (int32_t e = 0; e < E; e++) {
        setup->owner[e] = e % world_size;
    }
    setup->block.config.expert_owner      = setup->owner;
    setup->block.config.shared_inter_size = 16;
    ck_ok(witan_layer_create(&setup->layer, group, &setup->block.config, &weights));
    ck_ok(witan_plan_create(&setup->plan, setup->layer, config));
    setup->hidden = block_input(&setup->block, world_rank * 100, TOKENS_MAX);
}

static void setup_free(setup_t *setup)
{
    witan_plan_destroy(setup->plan);
    witan_layer_destroy(setup->layer);
    witan_group_destroy(setup->group);
    free(setup->hidden);
}

START_TEST(test_stats_equal_closed_forms_and_messages)
{
    static const struct {
        int64_t              pair_tokens, pair_rows;
        int32_t              chunks;
        witan_combine_mode_t combine;
        int32_t              ranks_per_node;
    } plans[] = {
        {0, 0, 1, WITAN_COMBINE_EXACT, 1},   {0, 0, 3, WITAN_COMBINE_EXACT, 1},
        {2, 5, 1, WITAN_COMBINE_EXACT, 1},   {0, 0, 1, WITAN_COMBINE_REDUCED, 1},
        {3, K, 2, WITAN_COMBINE_REDUCED, 1}, {0, 0, 1, WITAN_COMBINE_EXACT, 2},
        {2, 5, 1, WITAN_COMBINE_EXACT, 2},   {3, K, 2, WITAN_COMBINE_REDUCED, 2},
        {0, 0, 2, WITAN_COMBINE_EXACT, 8},
    };
    static setup_t      setup;
    traffic_t           traffic = expected_traffic();
    witan_stats_t       stats   = {.struct_bytes = sizeof(stats)};
    witan_plan_config_t config;
    int32_t             ids[TOKENS_MAX * K];
    float               weights[TOKENS_MAX * K] = {0};
    int64_t             count = tokens_of(world_rank), phases = 0;
    uint64_t            begin;

    witan_plan_config_init(&config);
    config.token_count_max      = TOKENS_MAX;
    config.pair_token_count_max = plans[_i].pair_tokens;
    config.pair_row_count_max   = plans[_i].pair_rows;
    config.chunk_count          = plans[_i].chunks;
    config.combine              = plans[_i].combine;
    setup_make(&setup, world_group_of_nodes(0, 1, plans[_i].ranks_per_node), &config);
    for (int64_t i = 0; i < count * K; i++) {
        ids[i] = id_of(world_rank, i / K, (int32_t)(i % K));
    }
    for (int again = 0; again < 2; again++) { /* nothing of one step is left in the next */
        count_messages(setup.group);
        begin = wtn_now_ns();
        ck_ok(witan_plan_import(setup.plan, count, ids, weights));
        while (witan_plan_rounds_left(setup.plan) > 0) {
            ck_ok(witan_dispatch(setup.plan, setup.hidden));
            ck_ok(witan_experts(setup.plan));
            ck_ok(witan_combine(setup.plan, setup.out));
        }
        begin                                  = wtn_now_ns() - begin;
        wtn_group_comm(setup.group)->transport = inner;
        ck_ok(witan_plan_stats(setup.plan, &stats));
        check_stats(&traffic, &stats);
        check_messages(&stats, plans[_i].ranks_per_node, config.combine == WITAN_COMBINE_REDUCED);
        ck_assert_int_eq(stats.hierarchy == WITAN_HIERARCHY_TWO_LEVEL,
                         plans[_i].ranks_per_node > 1 && world_size > 1);
        check_load(&traffic, setup.plan);
    }
    for (int p = 0; p < WITAN_PHASE_COUNT; p++) {
        phases += stats.phase_ns[p];
    }
    ck_assert_uint_le((uint64_t)phases, begin);
    ck_assert_int_eq(stats.phase_ns[WITAN_PHASE_ROUTE], 0);
    ck_assert_int_eq(stats.phase_ns[WITAN_PHASE_REDUCE], 0);
    ck_assert_int_gt(stats.phase_ns[WITAN_PHASE_DISPATCH], 0);
    ck_assert_int_gt(stats.phase_ns[WITAN_PHASE_EXPERTS], 0);
    setup_free(&setup);
}
END_TEST

/* Every phase that ran has a time, no time is told twice, and each step starts from zero. */
START_TEST(test_forward_phases_add_up_to_its_time)
{
    static setup_t       setup;
    witan_stats_t        stats = {.struct_bytes = sizeof(stats)};
    witan_plan_config_t  config;
    witan_forward_args_t args = {.struct_bytes = sizeof(args), .token_count = TOKENS_MAX};

    witan_plan_config_init(&config);
    config.token_count_max = TOKENS_MAX;
    config.chunk_count     = 2;
    if (_i == 0) {
        setup_make(&setup, world_group(0, 1), &config);
    } else {
        setup.block                          = block_make(E, K, H, 24, WITAN_BF16);
        witan_weights_t weights              = block_weights(&setup.block);
        setup.block.config.shared_inter_size = 16;
        setup.group                          = world_group(1, world_size);
        ck_ok(witan_layer_create(&setup.layer, setup.group, &setup.block.config, &weights));
        ck_ok(witan_plan_create(&setup.plan, setup.layer, &config));
        setup.hidden = block_input(&setup.block, 0, TOKENS_MAX);
    }
    args.hidden = setup.hidden;
    args.output = setup.out;
    for (int again = 0; again < 3; again++) {
        uint64_t begin  = wtn_now_ns();
        int64_t  phases = 0;

        ck_ok(witan_forward(setup.plan, &args));
        begin = wtn_now_ns() - begin;
        ck_ok(witan_plan_stats(setup.plan, &stats));
        for (int p = 0; p < WITAN_PHASE_COUNT; p++) {
            bool ran = p != WITAN_PHASE_REDUCE || (_i == 1 && world_size > 1);

            ck_assert_msg((stats.phase_ns[p] > 0) == ran, "%s: %d ns",
                          witan_phase_name((witan_phase_t)p), (int)stats.phase_ns[p]);
            phases += stats.phase_ns[p];
        }
        ck_assert_uint_le((uint64_t)phases, begin);
        ck_assert_uint_ge((uint64_t)phases, begin / 2); /* little is left unnamed */
    }
    setup_free(&setup);
}
END_TEST

START_TEST(test_route_leaves_nothing_of_the_last_step)
{
    static setup_t       setup;
    witan_stats_t        stats = {.struct_bytes = sizeof(stats)};
    witan_plan_config_t  config;
    witan_forward_args_t args = {.struct_bytes = sizeof(args), .token_count = TOKENS_MAX};

    witan_plan_config_init(&config);
    config.token_count_max = TOKENS_MAX;
    setup_make(&setup, world_group(0, 1), &config);
    args.hidden = setup.hidden;
    args.output = setup.out;
    ck_ok(witan_forward(setup.plan, &args));
    ck_ok(witan_route(setup.plan, 1, setup.hidden));
    ck_ok(witan_plan_stats(setup.plan, &stats));
    ck_assert_int_eq(stats.token_count, 1);
    ck_assert_int_eq(stats.round_count, 0);
    ck_assert_int_eq(stats.recv_token_count, 0);
    ck_assert_int_eq(stats.recv_row_count, 0);
    ck_assert_int_eq(stats.phase_ns[WITAN_PHASE_EXPERTS], 0);
    for (int32_t r = 0; r < world_size; r++) {
        ck_assert_int_eq(stats.rank_send_bytes[r], 0);
    }
    for (int32_t e = 0; e < setup.layer->layout.local_count; e++) {
        ck_assert_int_eq(stats.expert_row_counts[e], 0);
    }
    setup_free(&setup);
}
END_TEST

typedef struct lie {
    wtn_manifest_t header;
    wtn_wire_row_t rows[K + 1];
} lie_t;

/* Rank 1 announces one thing and sends another: all others end the step at once. */
START_TEST(test_dispatch_message_unlike_its_announcement_is_refused)
{
    static const char *const names[] = {"rank 1 sent 80 bytes, expected 160",
                                        "rank 1 announced 41 tokens",
                                        "rank 1 is at step 7",
                                        "rank 1 sent token 0 to slot 99",
                                        "rank 1 sent token 2 to slot",
                                        "rank 1 announced 8 bytes",
                                        "rank 1 announced 2 tokens and 3 rows",
                                        "rank 1 sent token 1 more than 4 times"};
    static setup_t           setup;
    static uint16_t          tokens[2 * H];
    witan_plan_config_t      config;
    witan_forward_args_t     args = {.struct_bytes = sizeof(args), .token_count = 8};
    wtn_request_t            requests[2 * RANKS_MAX] = {0};
    lie_t                    lies[RANKS_MAX];
    lie_t  lie   = {.header = {.magic = 0x4e544957u, .step = 1, .token_count = 2, .row_count = 2},
                    .rows   = {{.token = 0}, {.token = 1}}};
    size_t rows  = _i == 7 ? K + 1 : 2;
    size_t bytes = _i == 5 ? 8 : sizeof(lie.header) + rows * sizeof(lie.rows[0]);
    witan_status_t status;

    lie.header.token_count = _i == 1 ? TOKENS_MAX + 1 : 2;
    lie.header.step        = _i == 2 ? 7 : 1;
    lie.header.row_count   = _i == 6 ? 3 : (int64_t)rows;
    lie.rows[1].token      = _i == 4 ? 2 : 1;
    for (int32_t i = 0; i <= K && _i == 7; i++) {
        lie.rows[i].token = 1; /* the reduced sum has K places for a token */
    }
    witan_plan_config_init(&config);
    config.token_count_max = TOKENS_MAX;
    config.hierarchy       = WITAN_HIERARCHY_FLAT;
    setup_make(&setup, world_group(0, 1), &config);
    args.hidden = setup.hidden;
    args.output = setup.out;
    if (world_rank == 1) {
        wtn_comm_t *comm = wtn_group_comm(setup.group);

        for (int32_t r = 0; r < world_size; r++) {
            lies[r] = lie;
            for (size_t i = 0; i < rows; i++) {
                lies[r].rows[i].slot = _i == 3 && i == 0 ? 99 : r; /* a slot that is held there */
            }
            if (r != 1) {
                ck_ok(wtn_send_post(comm, &requests[2 * r], r, setup.plan->channel,
                                    WTN_TAG_MANIFEST, &lies[r], bytes));
                ck_ok(wtn_send_post(comm, &requests[2 * r + 1], r, setup.plan->channel,
                                    WTN_TAG_TOKENS, tokens, H * sizeof(*tokens)));
            }
        }
        ck_ok(wtn_wait(comm, requests, 2 * RANKS_MAX, "lie", wtn_deadline(comm), NULL));
    } else if (world_size > 1) {
        uint64_t begin = wtn_now_ns();

        status = witan_forward(setup.plan, &args);
        ck_assert_msg(status == WITAN_E_MISMATCH || (world_size > 2 && status == WITAN_E_PEER),
                      "%s: %s", witan_status_name(status), witan_last_error());
        ck_assert_msg(strstr(witan_last_error(), names[_i]) != NULL, "'%s' does not say '%s'",
                      witan_last_error(), names[_i]);
        ck_assert_uint_lt(wtn_now_ns() - begin, 5000000000u);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    setup_free(&setup);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("stats");
    TCase *tcase = tcase_create("stats");

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_stats_equal_closed_forms_and_messages, 0, 9);
    tcase_add_loop_test(tcase, test_forward_phases_add_up_to_its_time, 0, 2);
    tcase_add_test(tcase, test_route_leaves_nothing_of_the_last_step);
    tcase_add_loop_test(tcase, test_dispatch_message_unlike_its_announcement_is_refused, 0, 8);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return harness_run(argc, argv, make_suite);
}

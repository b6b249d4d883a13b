/* Schedule, pack and list on a device against their references: equal numbers. The references are
 * checked against the definitions first. */
#include "device.h"

#include "kernels/schedule/schedule.h"

/* ---- schedule ---- */

typedef struct schedule_case {
    int64_t T;
    int32_t E, K, peers;
    int64_t round_tokens;
    bool    reduced;
    int     ids; /* 0: any; 1: all to one peer; 2: repeated; 3: few have experts; 4: none; 5: bad */
    int32_t replicas; /* expert e has 1 + e % replicas; 0: one each, no table */
} schedule_case_t;

/* Arrays of a schedule and their sizes; all but the workspace are checked. */
typedef struct plan {
    wtn_schedule_args_t args;
    size_t              expert_bytes, pair_bytes, token_bytes, round_bytes, sum_bytes, work_bytes;
    int32_t             slot_count, *ids, *owner, *local, *begin;
    float              *weights;
} plan_t;

static int32_t draw_id(const schedule_case_t *c, uint64_t *seed)
{
    const int32_t id = (int32_t)data_below(seed, c->E);

    switch (c->ids) {
    case 1:
        return c->E - 1;
    case 2:
        return id % 3 % c->E;
    case 3:
        return id % 5 == 0 ? id : -1;
    case 4:
        return -1;
    case 5:
        return id % 4 == 0 ? c->E + id : id % 4 == 1 ? -2 - id : id;
    default:
        return id % 9 == 8 ? -1 : id;
    }
}

static plan_t plan_of(const schedule_case_t *c)
{
    const size_t entries = (size_t)(c->T * c->K);
    const size_t pairs   = (size_t)(c->T * wtn_min_i64(c->K, c->peers));
    const size_t rounds  = (size_t)wtn_ceil_div(c->T, c->round_tokens);
    uint64_t     seed    = entries + (uint64_t)c->peers;
    plan_t       p       = {.expert_bytes = (size_t)c->E * 8,
                            .pair_bytes   = ((size_t)c->peers + 1) * 8,
                            .token_bytes  = pairs * 8,
                            .round_bytes  = (size_t)c->peers * (rounds + 1) * 8,
                            .sum_bytes    = (c->reduced ? pairs : entries) * 8,
                            .work_bytes   = wtn_schedule_workspace_bytes(c->T, c->E, c->K, c->peers),
                            .ids          = data_alloc(entries * 4),
                            .begin        = data_alloc((size_t)(c->E + 1) * 4),
                            .weights      = data_tensor(entries, WITAN_F32, 1.0f, 5)};

    for (size_t i = 0; i < entries; i++) {
        p.ids[i] = draw_id(c, &seed);
    }
    for (int32_t e = 0; e < c->E; e++) {
        p.begin[e] = p.slot_count;
        p.slot_count += 1 + (c->replicas > 0 ? e % c->replicas : 0);
    }
    p.begin[c->E] = p.slot_count;
    p.owner       = data_alloc((size_t)p.slot_count * 4);
    p.local       = data_alloc((size_t)p.slot_count * 4);
    for (int32_t s = 0; s < p.slot_count; s++) { /* interleaved */
        p.owner[s] = s % c->peers;
        p.local[s] = s / c->peers;
    }
    p.args = (wtn_schedule_args_t){.token_count     = c->T,
                                   .token_count_max = c->T,
                                   .expert_count    = c->E,
                                   .topk            = c->K,
                                   .peer_count      = c->peers,
                                   .round_tokens    = c->round_tokens,
                                   .round_count     = (int32_t)rounds,
                                   .reduced         = c->reduced,
                                   .salt            = c->replicas > 0 ? c->peers - 1 : 0,
                                   .workspace_bytes = p.work_bytes};
    return p;
}

static wtn_schedule_args_t on_host(const plan_t *p)
{
    wtn_schedule_args_t args = p->args;

    args.ids                 = p->ids;
    args.weights             = p->weights;
    args.owner               = p->owner;
    args.local               = p->local;
    args.replica_begin       = p->slot_count > args.expert_count ? p->begin : NULL;
    args.expert_token_counts = data_output(p->expert_bytes);
    args.pair_token_begin    = data_output(p->pair_bytes);
    args.pair_row_begin      = data_output(p->pair_bytes);
    args.send_token          = data_output(p->token_bytes);
    args.token_first_row     = data_output(p->token_bytes);
    args.round_row_begin     = data_output(p->round_bytes);
    args.sum_index           = data_output(p->sum_bytes);
    args.workspace           = data_alloc(p->work_bytes);
    return args;
}

static wtn_schedule_args_t on_device(const plan_t *p)
{
    const size_t        entries = (size_t)(p->args.token_count * p->args.topk);
    const size_t        E       = (size_t)p->args.expert_count;
    wtn_schedule_args_t args    = p->args;

    args.ids     = device_from(p->ids, entries * 4);
    args.weights = device_from(p->weights, entries * 4);
    args.owner   = device_from(p->owner, (size_t)p->slot_count * 4);
    args.local   = device_from(p->local, (size_t)p->slot_count * 4);
    args.replica_begin =
        p->slot_count > args.expert_count ? device_from(p->begin, (E + 1) * 4) : NULL;
    args.expert_token_counts = device_from(NULL, p->expert_bytes);
    args.pair_token_begin    = device_from(NULL, p->pair_bytes);
    args.pair_row_begin      = device_from(NULL, p->pair_bytes);
    args.send_token          = device_from(NULL, p->token_bytes);
    args.token_first_row     = device_from(NULL, p->token_bytes);
    args.round_row_begin     = device_from(NULL, p->round_bytes);
    args.sum_index           = device_from(NULL, p->sum_bytes);
    args.workspace           = device_from(NULL, p->work_bytes);
    return args;
}

/* Equal, and the device's outputs given back. */
static void check_schedules(const plan_t *p, const wtn_schedule_args_t *on,
                            const wtn_schedule_args_t *args)
{
    device_check(on->expert_token_counts, args->expert_token_counts, p->expert_bytes, "counts");
    device_check(on->pair_token_begin, args->pair_token_begin, p->pair_bytes, "pair_token_begin");
    device_check(on->pair_row_begin, args->pair_row_begin, p->pair_bytes, "pair_row_begin");
    device_check(on->send_token, args->send_token, p->token_bytes, "send_token");
    device_check(on->token_first_row, args->token_first_row, p->token_bytes, "token_first_row");
    device_check(on->round_row_begin, args->round_row_begin, p->round_bytes, "round_row_begin");
    device_check(on->sum_index, args->sum_index, p->sum_bytes, "sum_index");
    free(device_take(on->workspace, p->work_bytes));
}

static void release(plan_t *p, wtn_schedule_args_t *on, wtn_schedule_args_t *args)
{
    wtn_backend_cuda.free((void *)on->ids);
    wtn_backend_cuda.free((void *)on->weights);
    wtn_backend_cuda.free((void *)on->owner);
    wtn_backend_cuda.free((void *)on->local);
    wtn_backend_cuda.free((void *)on->replica_begin);
    free(args->expert_token_counts);
    free(args->pair_token_begin);
    free(args->pair_row_begin);
    free(args->send_token);
    free(args->token_first_row);
    free(args->round_row_begin);
    free(args->sum_index);
    free(args->workspace);
    free(p->ids);
    free(p->owner);
    free(p->local);
    free(p->begin);
    free(p->weights);
}

/* The first (token, k) of token t at peer j, which has row r there, is pair token `token`. */
static bool token_is_there(const wtn_schedule_args_t *s, int32_t j, int64_t t, int64_t token,
                           int64_t r)
{
    const int64_t i     = token - s->pair_token_begin[j];
    const int64_t slots = wtn_min_i64(s->topk, s->peer_count);
    const int64_t round = j * (s->round_count + 1) + i / s->round_tokens;
    bool          good  = s->send_token[token] == t && s->token_first_row[token] == r;
    int64_t       found = 0;

    for (int64_t slot = 0; s->reduced && slot < slots; slot++) {
        found += s->sum_index[t * slots + slot] == token;
    }
    good = good && (!s->reduced || found == 1);
    return good && (i % s->round_tokens != 0 || s->round_row_begin[round] == r);
}

/* The peer of an id, or -1; tokens take replicas in turn. */
static int32_t peer_of(const plan_t *p, const wtn_schedule_args_t *s, int64_t t, int32_t k)
{
    const int32_t id = p->ids[t * s->topk + k];
    int64_t       turn;

    if (id < 0 || id >= s->expert_count) {
        return -1;
    }
    turn = (s->salt + t) % (p->begin[id + 1] - p->begin[id]);
    return p->owner[p->begin[id] + turn];
}

/* The definitions, by loops over peers, tokens and k. */
static void check_definition(const plan_t *p, const wtn_schedule_args_t *s)
{
    const int32_t K   = s->topk;
    int64_t       row = 0, token = 0;
    bool          good = true;

    for (int32_t j = 0; j < s->peer_count; j++) {
        good = good && s->pair_token_begin[j] == token && s->pair_row_begin[j] == row;
        for (int64_t t = 0; t < s->token_count; t++) {
            bool there = false;

            for (int32_t k = 0; k < K; k++) {
                if (peer_of(p, s, t, k) != j) {
                    continue;
                }
                if (!there) {
                    good = good && token_is_there(s, j, t, token, row - s->pair_row_begin[j]);
                    token++;
                }
                there = true;
                good  = good && (s->reduced || s->sum_index[t * K + k] == row);
                row++;
            }
        }
    }
    ck_assert(good);
    ck_assert_int_eq(s->pair_token_begin[s->peer_count], token);
    ck_assert_int_eq(s->pair_row_begin[s->peer_count], row);
}

static const schedule_case_t cases[] = {
    {0, 8, 2, 4, 5, false, 0, 0},
    {1, 1, 1, 1, 1, false, 0, 0},
    {1, 8, 8, 4, 1, true, 0, 0},
    {17, 8, 2, 1, 3, false, 0, 0},
    {40, 16, 3, 5, 7, false, 0, 0},
    {40, 16, 3, 5, 7, true, 0, 0},
    {100, 64, 8, 8, 1000, false, 0, 0},
    {100, 64, 8, 8, 9, true, 0, 0},
    {33, 60, 5, 7, 4, false, 1, 0},
    {33, 60, 5, 7, 4, true, 1, 0},
    {50, 9, 6, 3, 10, false, 2, 0},
    {50, 9, 6, 3, 10, true, 2, 0},
    {64, 20, 4, 4, 16, true, 3, 0},
    {31, 20, 4, 4, 16, true, 4, 0},
    {9, 100, 40, 6, 2, false, 0, 0},
    {9, 100, 40, 6, 2, true, 0, 0},
    {7, 80, 33, 80, 3, true, 0, 0},
    {5, 300, 300, 129, 2, true, 0, 0},
    {60, 30, 4, 3, 8, false, 5, 0},
    {3000, 32, 8, 8, 500, true, 0, 0},
    {3000, 32, 8, 8, 500, false, 0, 0},
    {300, 5000, 6, 600, 7, true, 0, 0},
    {70, 4097, 3, 2, 30, false, 0, 0},
    {9000, 4, 2, 2, 9000, true, 1, 0},
    {40, 16, 3, 5, 7, false, 0, 4},
    {100, 64, 8, 8, 9, true, 0, 3},
    {33, 60, 5, 7, 4, true, 1, 60},
    {3000, 32, 8, 8, 500, true, 0, 2},
    {200, 1700, 2, 128, 9, true, 0, 0},
    {200, 4096, 2, 128, 9, false, 0, 0},
    /* Blocks that count each other's tokens, up to 2048 and 8192 (token, k) and more; a stride of
     * one token; then 2 and 4 strides a warp, and more than 128 parts. */
    {256, 64, 8, 8, 30, false, 0, 0},
    {257, 64, 8, 8, 30, true, 1, 3},
    {1024, 40, 8, 3, 400, true, 0, 0},
    {1025, 40, 8, 3, 400, false, 2, 2},
    {300, 64, 32, 5, 50, true, 1, 0},
    {300, 64, 31, 5, 50, false, 0, 0},
    {900, 50, 10, 300, 2, true, 0, 0},
    {3000, 4000, 6, 400, 7, false, 0, 3},
    {90, 300, 40, 600, 3, true, 0, 0},
    {8, 3, 4, 151, 8, false, 0, 0},
    {5000, 40, 17, 3, 5000, true, 1, 0},
    {17000, 40, 17, 3, 999, false, 0, 0},
};

static void check_schedule(const schedule_case_t *c)
{
    plan_t              p    = plan_of(c);
    wtn_schedule_args_t args = on_host(&p), on = on_device(&p);

    ck_assert_msg(wtn_schedule_ref(&args) == WITAN_OK, "%s", witan_last_error());
    check_definition(&p, &args);
    ck_assert_msg(wtn_cuda_schedule(&on) == WITAN_OK, "%s", witan_last_error());
    check_schedules(&p, &on, &args);
    release(&p, &on, &args);
}

START_TEST(test_schedule_any_routing_numbers_of_reference)
{
    check_schedule(&cases[_i]);
}
END_TEST

START_TEST(test_schedule_workspace_for_more_tokens_serves_fewer)
{
    static const int32_t shapes[][3] = {
        {1, 1, 1}, {128, 8, 8}, {40, 17, 3}, {9, 33, 2000}, {65536, 2, 64}};

    for (size_t i = 0; i < WTN_COUNT_OF(shapes); i++) {
        size_t before = 0;

        for (int64_t tokens = 0; tokens < 40000000; tokens += 1 + tokens / 7) {
            const size_t bytes =
                wtn_schedule_workspace_bytes(tokens, shapes[i][0], shapes[i][1], shapes[i][2]);

            ck_assert_msg(bytes >= before, "shape %zu, %lld tokens", i, (long long)tokens);
            before = bytes;
        }
    }
}
END_TEST

START_TEST(test_schedule_small_workspace_error)
{
    const wtn_schedule_args_t args = {
        .token_count = 5, .expert_count = 4, .topk = 2, .peer_count = 2, .workspace_bytes = 63};

    ck_assert_int_eq(wtn_cuda_schedule(&args), WITAN_E_ARGUMENT);
    ck_assert_int_eq(wtn_schedule_ref(&args), WITAN_E_ARGUMENT);
}
END_TEST

/* ---- pack and list ---- */

/* Where the tokens and metas of all peers go; regions by peer follow each other. */
typedef struct packed {
    char    *tokens;
    int32_t *meta;
    size_t   tokens_bytes, meta_bytes;
    void   **token_list; /* [peers] into tokens */
    void   **meta_list;
    int64_t  slots; /* per peer */
} packed_t;

static void point(const packed_t *b, const wtn_schedule_args_t *s, size_t row_bytes, char *tokens,
                  int32_t *meta)
{
    const int64_t words = wtn_token_meta_words(s->topk, s->reduced);

    for (int32_t j = 0; j < s->peer_count; j++) { /* peer 1 is another's */
        b->token_list[j] = j == 1 ? NULL : tokens + (size_t)(j * b->slots) * row_bytes;
        b->meta_list[j]  = j == 1 ? NULL : meta + j * b->slots * words;
    }
}

static void check_list(const wtn_schedule_args_t *s, const packed_t *b, const int32_t *meta_host,
                       const int32_t *meta_device)
{
    const size_t peers   = (size_t)s->peer_count;
    const size_t entries = peers * (size_t)(b->slots * s->topk);
    int64_t     *lists   = data_alloc(3 * peers * 8);
    int64_t     *device;

    wtn_list_args_t args = {.meta          = meta_host,
                            .topk          = s->topk,
                            .peer_count    = s->peer_count,
                            .token_slots   = s->peer_count * b->slots,
                            .token_begin   = lists,
                            .token_count   = lists + peers,
                            .row_out_begin = lists + 2 * peers,
                            .reduced       = s->reduced,
                            .row_expert    = data_output(entries * 4),
                            .row_in        = data_output(entries * 8),
                            .row_out       = data_output(entries * 8),
                            .reduce_index  = data_output(entries * 8),
                            .reduce_weight = data_output(entries * 4)};
    wtn_list_args_t on   = args;

    for (int32_t j = 0; j < s->peer_count; j++) { /* some slots are nobody's */
        lists[j]                     = j * b->slots + (j == 2);
        lists[s->peer_count + j]     = j == 1 ? 0 : wtn_max_i64(0, b->slots - j % 3 - (j == 2));
        lists[2 * s->peer_count + j] = 1000 * j + 3;
    }
    ck_assert_int_eq(wtn_list_ref(&args), WITAN_OK);
    device           = device_from(lists, 3 * peers * 8);
    on.meta          = meta_device;
    on.token_begin   = device;
    on.token_count   = device + peers;
    on.row_out_begin = device + 2 * peers;
    on.row_expert    = device_from(NULL, entries * 4);
    on.row_in        = device_from(NULL, entries * 8);
    on.row_out       = device_from(NULL, entries * 8);
    on.reduce_index  = device_from(NULL, entries * 8);
    on.reduce_weight = device_from(NULL, entries * 4);
    ck_assert_int_eq(wtn_cuda_list(&on), WITAN_OK);
    device_check(on.row_expert, args.row_expert, entries * 4, "row_expert");
    device_check(on.row_in, args.row_in, entries * 8, "row_in");
    device_check(on.row_out, args.row_out, entries * 8, "row_out");
    device_check(on.reduce_index, args.reduce_index, entries * 8, "reduce_index");
    device_check(on.reduce_weight, args.reduce_weight, entries * 4, "reduce_weight");
    wtn_backend_cuda.free(device);
    free(args.row_expert);
    free(args.row_in);
    free(args.row_out);
    free(args.reduce_index);
    free(args.reduce_weight);
    free(lists);
}

/* One round packed on both sides, then listed as if it had been received. */
static void check_round(const wtn_schedule_args_t *args, const wtn_schedule_args_t *on,
                        size_t row_bytes, int32_t round, bool padded)
{
    const size_t peers = (size_t)args->peer_count, T = (size_t)args->token_count;
    packed_t     b       = {.slots      = args->round_tokens,
                            .token_list = data_alloc(peers * sizeof(void *)),
                            .meta_list  = data_alloc(peers * sizeof(void *))};
    char        *hidden  = data_tensor(T * row_bytes / 2 + 1, WITAN_F16, 9.0f, 3);
    void        *dhidden = device_from(hidden, T * row_bytes), *dtokens, *dmeta, *lists[2];

    wtn_pack_args_t pack = {.schedule   = args,
                            .hidden     = hidden,
                            .row_bytes  = row_bytes,
                            .round      = round,
                            .out_tokens = b.token_list,
                            .out_meta   = (int32_t *const *)b.meta_list,
                            .meta_slots = padded ? b.slots : 0};

    b.tokens_bytes = peers * (size_t)b.slots * row_bytes;
    b.meta_bytes = peers * (size_t)(b.slots * wtn_token_meta_words(args->topk, args->reduced)) * 4;
    b.tokens     = data_output(b.tokens_bytes);
    b.meta       = data_output(b.meta_bytes);
    point(&b, args, row_bytes, b.tokens, b.meta);
    ck_assert_int_eq(wtn_pack_ref(&pack), WITAN_OK);
    dtokens = device_from(NULL, b.tokens_bytes);
    dmeta   = device_from(NULL, b.meta_bytes);
    point(&b, args, row_bytes, dtokens, dmeta);
    lists[0]        = device_from(b.token_list, peers * sizeof(void *));
    lists[1]        = device_from(b.meta_list, peers * sizeof(void *));
    pack.schedule   = on;
    pack.hidden     = dhidden;
    pack.out_tokens = lists[0];
    pack.out_meta   = lists[1];
    ck_assert_int_eq(wtn_cuda_pack(&pack), WITAN_OK);
    check_list(args, &b, b.meta, dmeta);
    device_check(dtokens, b.tokens, b.tokens_bytes, "tokens");
    device_check(dmeta, b.meta, b.meta_bytes, "meta");
    wtn_backend_cuda.free(dhidden);
    wtn_backend_cuda.free(lists[0]);
    wtn_backend_cuda.free(lists[1]);
    free(hidden);
    free(b.token_list);
    free(b.meta_list);
    free(b.tokens);
    free(b.meta);
}

static const schedule_case_t packs[] = {
    {0, 8, 2, 4, 5, false, 0, 0},    {1, 8, 8, 4, 1, true, 0, 0},
    {40, 16, 3, 5, 7, false, 0, 0},  {40, 16, 3, 5, 7, true, 0, 0},
    {100, 64, 8, 8, 60, true, 3, 0}, {9, 100, 40, 6, 2, true, 0, 0},
    {33, 60, 5, 7, 4, false, 1, 0},  {12, 600, 6, 300, 2, true, 0, 0},
    {40, 16, 3, 5, 7, true, 0, 5}};

START_TEST(test_pack_and_list_every_round_bytes_of_reference)
{
    static const size_t row_bytes[] = {2, 64, 90, 5000, 16};
    plan_t              p           = plan_of(&packs[_i]);
    wtn_schedule_args_t args = on_host(&p), on = on_device(&p);

    ck_assert_int_eq(wtn_schedule_ref(&args), WITAN_OK);
    ck_assert_int_eq(wtn_cuda_schedule(&on), WITAN_OK);
    for (int32_t round = 0; round < wtn_min_i64(args.round_count, 4); round++) {
        const size_t bytes = row_bytes[(size_t)(round + _i) % WTN_COUNT_OF(row_bytes)];

        check_round(&args, &on, bytes, round, false);
        check_round(&args, &on, bytes, round, true);
    }
    check_schedules(&p, &on, &args);
    release(&p, &on, &args);
}
END_TEST

START_TEST(test_local_any_replicas_numbers_of_reference)
{
    static const schedule_case_t alone[] = {{0, 8, 2, 1, 5, false, 0, 2},
                                            {300, 9, 3, 1, 300, false, 0, 4},
                                            {77, 9, 3, 1, 77, false, 5, 0}};
    plan_t                       p       = plan_of(&alone[_i]);
    const size_t                 bytes   = (size_t)(alone[_i].T * alone[_i].K) * 4;
    wtn_schedule_args_t          args = on_host(&p), on = on_device(&p);
    wtn_local_args_t             local = {&args, data_output(bytes)};
    wtn_local_args_t             there = {&on, device_from(NULL, bytes)};
    bool                         good  = true;

    ck_assert_int_eq(wtn_schedule_ref(&args), WITAN_OK);
    ck_assert_int_eq(wtn_cuda_schedule(&on), WITAN_OK);
    ck_assert_int_eq(wtn_local_ref(&local), WITAN_OK);
    ck_assert_int_eq(wtn_cuda_local(&there), WITAN_OK);
    for (int64_t i = 0; i < args.token_count * args.topk; i++) {
        const int32_t id   = p.ids[i];
        const bool    none = id < 0 || id >= args.expert_count;
        const int64_t turn = none ? 0 : (i / args.topk) % (p.begin[id + 1] - p.begin[id]);

        good = good && local.row_expert[i] == (none ? -1 : p.begin[id] + turn); /* salt is 0 */
    }
    ck_assert(good);
    device_check(there.row_expert, local.row_expert, bytes, "row_expert");
    free(local.row_expert);
    check_schedules(&p, &on, &args);
    release(&p, &on, &args);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda schedule");
    TCase *tcase = tcase_create("all");

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_schedule_any_routing_numbers_of_reference, 0,
                        (int)WTN_COUNT_OF(cases));
    tcase_add_test(tcase, test_schedule_workspace_for_more_tokens_serves_fewer);
    tcase_add_test(tcase, test_schedule_small_workspace_error);
    tcase_add_loop_test(tcase, test_pack_and_list_every_round_bytes_of_reference, 0,
                        (int)WTN_COUNT_OF(packs));
    tcase_add_loop_test(tcase, test_local_any_replicas_numbers_of_reference, 0, 3);
    suite_add_tcase(suite, tcase);
    return device_main(suite);
}

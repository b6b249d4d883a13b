/* Top-k on a device against the reference: equal ids and equal bits of weights. */
#include "device.h"

#include "kernels/topk/topk.h"

/* What a token's logits are drawn from. */
typedef enum logits {
    LOGITS_SMOOTH,
    LOGITS_FEW,   /* few values: ties */
    LOGITS_EQUAL, /* one value: all tie */
    LOGITS_NEAR,  /* neighbours in fp32: ties once scores are rounded */
    LOGITS_ZEROS, /* -0 and 0 */
    LOGITS_WIDE,  /* beyond what e^x can hold */
    LOGITS_LOW,   /* scores that underflow */
    LOGITS_WILD,  /* NaN and infinities among them */
    LOGITS_KINDS
} logits_t;

static float draw(logits_t kind, uint64_t *seed)
{
    static const float wild[] = {NAN, INFINITY, -INFINITY, 1.0f};
    const int64_t      i      = data_below(seed, 4096);

    switch (kind) {
    case LOGITS_FEW:
        return (float)(i % 5) - 2.0f;
    case LOGITS_EQUAL:
        return 0.75f;
    case LOGITS_NEAR:
        return wtn_bits_float(wtn_float_bits(3.0f) + (uint32_t)(i % 4));
    case LOGITS_ZEROS:
        return i % 2 == 0 ? 0.0f : -0.0f;
    case LOGITS_WIDE:
        return data_float(seed, 300.0f);
    case LOGITS_LOW:
        return -80.0f - (float)(i % 40);
    case LOGITS_WILD:
        return i < 40 ? wild[i % 4] : data_float(seed, 4.0f);
    case LOGITS_SMOOTH:
    case LOGITS_KINDS:
    default:
        return data_float(seed, 6.0f);
    }
}

typedef struct routed {
    int32_t *ids;
    float   *weights;
} routed_t;

static void check_routed(const wtn_topk_args_t *args, void *ids, void *weights, routed_t expected,
                         const char *what)
{
    const size_t count = (size_t)args->token_count * (size_t)args->topk;
    int32_t     *found = device_take(ids, count * sizeof(*found));
    size_t       i     = 0;

    while (i < count && found[i] == expected.ids[i]) {
        i++;
    }
    ck_assert_msg(i == count, "%s: token %zu k %zu: expected %d, found %d", what,
                  i / (size_t)args->topk, i % (size_t)args->topk, expected.ids[i], found[i]);
    free(found);
    device_check_numbers(weights, expected.weights, WITAN_F32, count, what);
}

/* T tokens, the first of each kind of logits in turn. */
static void check_topk(const witan_routing_t *routing, int32_t E, int32_t K, int64_t T)
{
    const size_t    logits_count = (size_t)(T * E), count = (size_t)(T * K);
    const size_t    work_bytes = wtn_host_topk_workspace_bytes(E, K, 1);
    const size_t    dwork      = wtn_cuda_topk_workspace_bytes(E, K, 1);
    uint64_t        seed       = (uint64_t)(E * 31 + K);
    float          *logits     = data_alloc(logits_count * sizeof(float));
    float          *bias       = data_tensor((size_t)E, WITAN_F32, 1.0f, 7);
    float          *correction = data_tensor((size_t)E, WITAN_F32, 0.25f, 8);
    void           *work       = data_alloc(work_bytes);
    routed_t        expected   = {data_output(count * 4), data_output(count * 4)};
    wtn_topk_args_t args       = {.routing         = routing,
                                  .expert_count    = E,
                                  .topk            = K,
                                  .logits          = logits,
                                  .bias            = routing->has_bias ? bias : NULL,
                                  .correction_bias = routing->has_correction_bias ? correction : NULL,
                                  .token_count     = T,
                                  .ids             = expected.ids,
                                  .weights         = expected.weights,
                                  .workspace       = work,
                                  .workspace_bytes = work_bytes,
                                  .thread_count    = 1};
    wtn_topk_args_t on         = args;
    char            what[128];

    ck_assert_msg(wtn_routing_check(routing, E, K) == WITAN_OK, "%s", witan_last_error());
    for (size_t i = 0; i < logits_count; i++) {
        logits[i] = draw((logits_t)(i / (size_t)E % LOGITS_KINDS), &seed);
    }
    ck_assert_int_eq(wtn_topk_ref(&args), WITAN_OK);
    on.logits = device_from(logits, logits_count * sizeof(float));
    on.bias   = args.bias != NULL ? device_from(bias, (size_t)E * 4) : NULL;
    on.correction_bias =
        args.correction_bias != NULL ? device_from(correction, (size_t)E * 4) : NULL;
    on.ids             = device_from(NULL, count * 4);
    on.weights         = device_from(NULL, count * 4);
    on.workspace       = device_from(NULL, dwork);
    on.workspace_bytes = dwork;
    ck_assert_msg(wtn_cuda_topk(&on) == WITAN_OK, "%s", witan_last_error());
    (void)snprintf(what, sizeof(what), "E %d K %d score %d after %d groups %d of %d by %d mask %d",
                   E, K, (int)routing->score, routing->score_after_topk, routing->group_topk,
                   routing->group_count, (int)routing->group_score, (int)routing->mask_value);
    check_routed(&args, on.ids, on.weights, expected, what);
    free(device_take(on.workspace, dwork));
    wtn_backend_cuda.free((void *)on.logits);
    wtn_backend_cuda.free((void *)on.bias);
    wtn_backend_cuda.free((void *)on.correction_bias);
    free(logits);
    free(bias);
    free(correction);
    free(work);
    free(expected.ids);
    free(expected.weights);
}

#define PLAIN .scale = 1.0f, .group_count = 1, .group_topk = 1

static const witan_routing_t scores[] = {
    {PLAIN, .score = WITAN_SCORE_SOFTMAX},
    {PLAIN, .score = WITAN_SCORE_SOFTMAX, .normalise = true, .has_bias = true},
    {PLAIN, .score = WITAN_SCORE_SOFTMAX, .score_after_topk = true, .has_bias = true},
    {PLAIN, .score = WITAN_SCORE_SOFTMAX, .score_after_topk = true, .normalise = true},
    {.group_count         = 1,
     .group_topk          = 1,
     .scale               = 2.5f,
     .score               = WITAN_SCORE_SIGMOID,
     .normalise           = true,
     .normalise_epsilon   = 1e-20f,
     .has_correction_bias = true},
    {PLAIN, .score = WITAN_SCORE_SQRT_SOFTPLUS, .normalise = true, .has_correction_bias = true},
};

START_TEST(test_topk_every_score_bits_of_reference)
{
    static const int32_t shapes[][2] = {{1, 1},    {2, 1},     {7, 7},   {31, 3},   {32, 8},
                                        {33, 33},  {60, 4},    {128, 8}, {129, 33}, {200, 32},
                                        {256, 8},  {257, 100}, {384, 8}, {385, 8},  {513, 6},
                                        {1024, 8}, {1024, 65}};

    for (size_t i = 0; i < WTN_COUNT_OF(shapes); i++) {
        check_topk(&scores[_i], shapes[i][0], shapes[i][1], 2 * LOGITS_KINDS + 1);
    }
    check_topk(&scores[_i], 16, 2, 0);
    check_topk(&scores[_i], 8, 2, 700); /* more tokens than warps at once */
}
END_TEST

START_TEST(test_topk_many_experts_bits_of_reference)
{
    check_topk(&scores[_i], 1025, 4, LOGITS_KINDS + 1);
    check_topk(&scores[_i], 2500, 1000, 3);
    check_topk(&scores[_i], 3000, 3000, 2);
}
END_TEST

START_TEST(test_topk_experts_up_to_the_limit_bits_of_reference)
{
    check_topk(&scores[4], 65536, 8, 1);
    check_topk(&scores[0], 40000, 2100, 1);
}
END_TEST

static const witan_routing_t grouped[] = {
    {.score               = WITAN_SCORE_SIGMOID, /* DeepSeek-V3 */
     .normalise           = true,
     .scale               = 2.5f,
     .group_count         = 8,
     .group_topk          = 4,
     .group_score         = WITAN_GROUP_SCORE_TOP2_SUM,
     .mask_value          = WITAN_MASK_ZERO,
     .has_correction_bias = true},
    {.scale       = 16.0f, /* DeepSeek-V2 */
     .group_count = 8,
     .group_topk  = 3,
     .group_score = WITAN_GROUP_SCORE_MAX,
     .mask_value  = WITAN_MASK_NEG_INF},
    {.scale               = 1.0f, /* negative choices, and the masked ones are 0 */
     .score_after_topk    = true,
     .group_count         = 4,
     .group_topk          = 1,
     .group_score         = WITAN_GROUP_SCORE_TOPK_SUM,
     .mask_value          = WITAN_MASK_ZERO,
     .has_correction_bias = true},
    {.score       = WITAN_SCORE_SQRT_SOFTPLUS,
     .scale       = 1.0f,
     .group_count = 8,
     .group_topk  = 4,
     .group_score = WITAN_GROUP_SCORE_TOPK_SUM,
     .mask_value  = WITAN_MASK_NEG_INF},
};

START_TEST(test_topk_groups_bits_of_reference)
{
    check_topk(&grouped[_i], 256, 8, 2 * LOGITS_KINDS);
    check_topk(&grouped[_i], 160, 6, LOGITS_KINDS);
    check_topk(&grouped[_i], 32, 4, LOGITS_KINDS);
    check_topk(&grouped[_i], 1088, 8, LOGITS_KINDS);
}
END_TEST

START_TEST(test_topk_groups_of_one_bits_of_reference)
{
    const witan_routing_t one = {.scale       = 1.0f,
                                 .group_count = 64,
                                 .group_topk  = 5,
                                 .group_score = WITAN_GROUP_SCORE_MAX,
                                 .mask_value  = WITAN_MASK_NEG_INF};

    check_topk(&one, 64, 5, LOGITS_KINDS);
}
END_TEST

START_TEST(test_topk_small_workspace_error)
{
    const wtn_topk_args_t args = {.routing         = &scores[0],
                                  .expert_count    = 2000,
                                  .topk            = 1,
                                  .token_count     = 1,
                                  .workspace_bytes = wtn_cuda_topk_workspace_bytes(2000, 1, 1) - 1};

    ck_assert_int_eq(wtn_cuda_topk(&args), WITAN_E_ARGUMENT);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda topk");
    TCase *tcase = tcase_create("all");

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_topk_every_score_bits_of_reference, 0,
                        (int)WTN_COUNT_OF(scores));
    tcase_add_loop_test(tcase, test_topk_many_experts_bits_of_reference, 0,
                        (int)WTN_COUNT_OF(scores));
    tcase_add_test(tcase, test_topk_experts_up_to_the_limit_bits_of_reference);
    tcase_add_loop_test(tcase, test_topk_groups_bits_of_reference, 0, (int)WTN_COUNT_OF(grouped));
    tcase_add_test(tcase, test_topk_groups_of_one_bits_of_reference);
    tcase_add_test(tcase, test_topk_small_workspace_error);
    suite_add_tcase(suite, tcase);
    return device_main(suite);
}

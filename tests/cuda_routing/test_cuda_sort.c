/* Sort on a device against its reference, which is checked against the definition first: equal
 * numbers. */
#include "device.h"

#include "kernels/sort/sort.h"

typedef enum sort_kind { MIXED, MOST_ONE, ALL_ONE, ALL_NONE } sort_kind_t;

typedef struct sort_case {
    int64_t     rows;
    int32_t     experts;
    bool        carried; /* row_in and row_out given */
    sort_kind_t kind;
} sort_case_t;

/* -1 to past the last expert, or most or all rows of the last expert, or of none. */
static int32_t sort_expert(const sort_case_t *c, size_t i, uint64_t *seed)
{
    const int32_t any = (int32_t)data_below(seed, c->experts + 1 + c->experts / 8) - 1;

    switch (c->kind) {
    case MOST_ONE:
        return i % 7 != 3 ? c->experts - 1 : any;
    case ALL_ONE:
        return c->experts - 1;
    case ALL_NONE:
        return -1;
    case MIXED:
    default:
        return any;
    }
}

static void check_sort(const sort_case_t *c)
{
    const size_t    n = (size_t)c->rows, E = (size_t)c->experts;
    const size_t    work    = wtn_sort_workspace_bytes(c->rows, c->experts);
    uint64_t        seed    = n * 7 + E;
    int32_t        *experts = data_alloc(n * 4);
    int64_t        *in = data_alloc(n * 8), *out = data_alloc(n * 8);
    wtn_sort_args_t args = {.row_expert      = experts,
                            .row_count       = c->rows,
                            .expert_count    = c->experts,
                            .row_in          = c->carried ? in : NULL,
                            .row_out         = c->carried ? out : NULL,
                            .row_begin       = data_output((E + 1) * 8),
                            .row_counts      = data_output(E * 8),
                            .order           = data_output(n * 8),
                            .sorted_in       = data_output(n * 8),
                            .sorted_out      = data_output(n * 8),
                            .counters        = data_output((E + 1) * 4),
                            .workspace_bytes = work};
    wtn_sort_args_t on   = args;

    for (size_t i = 0; i < n; i++) {
        experts[i] = sort_expert(c, i, &seed);
        in[i]      = data_below(&seed, (int64_t)1 << 40);
        out[i]     = data_below(&seed, (int64_t)1 << 40);
    }
    ck_assert_int_eq(wtn_sort_ref(&args), WITAN_OK);
    on.row_expert = device_from(experts, n * 4);
    on.row_in     = c->carried ? device_from(in, n * 8) : NULL;
    on.row_out    = c->carried ? device_from(out, n * 8) : NULL;
    on.row_begin  = device_from(NULL, (E + 1) * 8);
    on.row_counts = device_from(NULL, E * 8);
    on.order      = device_from(NULL, n * 8);
    on.sorted_in  = device_from(NULL, n * 8);
    on.sorted_out = device_from(NULL, n * 8);
    on.counters   = device_from(NULL, (E + 1) * 4);
    on.workspace  = device_from(NULL, work);
    ck_assert_msg(wtn_cuda_sort(&on) == WITAN_OK, "%s", witan_last_error());
    /* What is past the last row keeps its poison, here as there. */
    device_check(on.row_begin, args.row_begin, (E + 1) * 8, "row_begin");
    device_check(on.row_counts, args.row_counts, E * 8, "row_counts");
    device_check(on.order, args.order, n * 8, "order");
    device_check(on.sorted_in, args.sorted_in, n * 8, "sorted_in");
    device_check(on.sorted_out, args.sorted_out, n * 8, "sorted_out");
    device_check(on.counters, args.counters, (E + 1) * 4, "counters");
    free(device_take(on.workspace, work));
    wtn_backend_cuda.free((void *)on.row_expert);
    wtn_backend_cuda.free((void *)on.row_in);
    wtn_backend_cuda.free((void *)on.row_out);
    free(args.row_begin);
    free(args.row_counts);
    free(args.order);
    free(args.sorted_in);
    free(args.sorted_out);
    free(args.counters);
    free(experts);
    free(in);
    free(out);
}

START_TEST(test_sort_any_list_order_of_reference)
{
    /* A block has 8 warps up to 4096 rows, then 16, which count the rows of other blocks too, up to
     * 16384 rows, then 32; and 1 to 8 rows a lane. Of more than 512 experts it has fewer warps, and
     * of 6134 none: then each step is a launch. */
    static const sort_case_t cases[] = {
        {0, 1, false, MIXED},          {0, 0, false, MIXED},         {0, 6133, false, MIXED},
        {0, 16897, false, MIXED},      {20000, 0, false, MIXED},     {1, 1, true, MIXED},
        {8, 128, true, MIXED},         {31, 2, true, MIXED},         {32, 7, false, MOST_ONE},
        {33, 3, true, MIXED},          {32, 6133, true, MIXED},      {33, 6134, true, MIXED},
        {255, 64, true, MIXED},        {256, 64, true, ALL_ONE},     {257, 1, true, MIXED},
        {512, 128, true, ALL_ONE},     {512, 128, true, ALL_NONE},   {512, 1, true, ALL_ONE},
        {1000, 1000, true, MIXED},     {1024, 512, true, MIXED},     {1024, 513, true, MIXED},
        {1025, 256, true, MIXED},      {3000, 512, true, MOST_ONE},  {4096, 128, true, MIXED},
        {4097, 128, true, MIXED},      {8192, 512, true, MIXED},     {8192, 1023, true, MIXED},
        {8192, 9, false, ALL_ONE},     {8191, 64, true, ALL_NONE},   {8193, 128, true, MIXED},
        {8193, 128, true, ALL_ONE},    {5000, 2600, true, MIXED},    {16384, 100, true, MIXED},
        {16385, 100, true, MIXED},     {16385, 100, true, ALL_NONE}, {20000, 8, false, MOST_ONE},
        {20001, 5000, false, MIXED},   {9000, 1024, true, MOST_ONE}, {9001, 1025, true, MIXED},
        {700, 7000, false, MIXED},     {40, 20000, true, MIXED},     {100, 65536, true, MIXED},
        {20000, 7000, true, MOST_ONE}, {131073, 40, true, MIXED},    {300000, 3, false, MIXED},
        {530000, 1000, true, MIXED},   {530000, 1024, false, MIXED},
    };

    for (size_t i = 0; i < WTN_COUNT_OF(cases); i++) {
        check_sort(&cases[i]);
    }
}
END_TEST

START_TEST(test_sort_workspace_for_more_rows_serves_fewer)
{
    static const int32_t experts[] = {0, 1, 40, 512, 1000, 6134, 65536};

    for (size_t i = 0; i < WTN_COUNT_OF(experts); i++) {
        size_t before = 0;

        for (int64_t rows = 0; rows < 40000000; rows += 1 + rows / 7) {
            const size_t bytes = wtn_sort_workspace_bytes(rows, experts[i]);

            ck_assert_msg(bytes >= before, "%d experts, %lld rows", experts[i], (long long)rows);
            before = bytes;
        }
    }
}
END_TEST

START_TEST(test_sort_lists_not_wanted_are_not_written)
{
    static const int32_t experts[] = {1, -1, 0, 1, 9, 0};
    static const int64_t begin[]   = {0, 2, 4};
    const size_t         work      = wtn_sort_workspace_bytes(6, 2);
    wtn_sort_args_t      on        = {.row_expert      = device_from(experts, sizeof(experts)),
                                      .row_count       = 6,
                                      .expert_count    = 2,
                                      .row_begin       = device_from(NULL, sizeof(begin)),
                                      .workspace       = device_from(NULL, work),
                                      .workspace_bytes = work};

    ck_assert_int_eq(wtn_cuda_sort(&on), WITAN_OK);
    device_check(on.row_begin, begin, sizeof(begin), "row_begin");
    on.workspace_bytes--;
    ck_assert_int_eq(wtn_cuda_sort(&on), WITAN_E_ARGUMENT);
    wtn_backend_cuda.free((void *)on.row_expert);
    wtn_backend_cuda.free(on.workspace);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda sort");
    TCase *tcase = tcase_create("all");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_sort_any_list_order_of_reference);
    tcase_add_test(tcase, test_sort_workspace_for_more_rows_serves_fewer);
    tcase_add_test(tcase, test_sort_lists_not_wanted_are_not_written);
    suite_add_tcase(suite, tcase);
    return device_main(suite);
}

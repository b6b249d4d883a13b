/* How executors lay rows out: every row once, in order, within the promised sizes. */
#include "data.h"

#include "experts/executor.h"

#define EXPERTS_MAX 300

typedef struct layout {
    wtn_executor_t executor;
    int64_t        places, tiles; /* promised */
} layout_t;

static void layout_create(layout_t *layout, int32_t experts, int32_t tile_rows,
                          int32_t masked_rows_max, int64_t rows)
{
    wtn_executor_t *executor = &layout->executor;

    *executor      = (wtn_executor_t){.expert_count = experts,
                                      .tile_rows    = tile_rows,
                                      .slot_rows    = wtn_executor_slot_rows(masked_rows_max, rows)};
    layout->places = wtn_executor_place_count(executor, rows);
    layout->tiles  = wtn_executor_tile_count(executor, rows);

    executor->row_counts = data_alloc((size_t)experts * sizeof(int64_t));
    executor->row_ends   = data_alloc((size_t)experts * sizeof(int64_t));
    executor->order      = data_alloc((size_t)rows * sizeof(int64_t));
    executor->tiles      = data_output((size_t)layout->tiles * sizeof(wtn_row_tile_t));
    executor->segments   = data_output((size_t)layout->tiles * sizeof(wtn_segment_t));
}

static void layout_destroy(layout_t *layout)
{
    data_check_guard(layout->executor.tiles, (size_t)layout->tiles * sizeof(wtn_row_tile_t));
    data_check_guard(layout->executor.segments, (size_t)layout->tiles * sizeof(wtn_segment_t));
    free(layout->executor.row_counts);
    free(layout->executor.row_ends);
    free(layout->executor.order);
    free(layout->executor.tiles);
    free(layout->executor.segments);
}

/* Walk all blocks; every place is used once in a block, every row once in all. */
static void check_blocks(layout_t *layout, const int32_t *row_expert, int64_t rows)
{
    wtn_executor_t *executor = &layout->executor;
    char           *used     = data_alloc((size_t)layout->places);
    int64_t         next     = 0;

    while (wtn_executor_next(executor)) {
        memset(used, 0, (size_t)layout->places);
        ck_assert_int_le(executor->tile_count, layout->tiles);
        for (int32_t s = 0; s < executor->segment_count; s++) {
            const wtn_segment_t *segment = &executor->segments[s];

            for (int32_t t = 0; t < segment->tile_count; t++) {
                const wtn_row_tile_t *tile = &executor->tiles[segment->tile_begin + t];

                ck_assert_int_eq(tile->row, next); /* sorted rows in order */
                ck_assert_int_ge(tile->count, 1);
                ck_assert_int_le(tile->count, executor->tile_rows);
                for (int32_t r = 0; r < tile->count; r++, next++) {
                    int64_t place = tile->place + r;

                    ck_assert_int_eq(row_expert[executor->order[next]], segment->expert);
                    ck_assert(place >= 0 && place < layout->places && used[place] == 0);
                    used[place] = 1;
                    if (executor->taken == WITAN_EXECUTOR_MASKED) {
                        ck_assert_int_eq(place / executor->slot_rows, segment->expert);
                    }
                }
            }
        }
    }
    ck_assert_int_eq(next, rows);
    free(used);
}

static void check_stable(const wtn_executor_t *executor, const int32_t *row_expert, int64_t rows)
{
    for (int64_t i = 1; i < rows; i++) {
        int64_t a = executor->order[i - 1], b = executor->order[i];

        ck_assert(row_expert[a] < row_expert[b] || (row_expert[a] == row_expert[b] && a < b));
    }
}

START_TEST(test_executor_layouts_hold_every_row_once)
{
    static const struct {
        int32_t experts;
        int64_t rows;
        int32_t skew; /* experts used */
    } cases[] = {{1, 0, 1},
                 {1, 1, 1},
                 {1, WTN_BLOCK_ROWS - 1, 1},
                 {1, WTN_BLOCK_ROWS, 1},
                 {1, WTN_BLOCK_ROWS + 1, 1},
                 {1, 5000, 1},
                 {3, 1000, 3},
                 {3, 2500, 1},
                 {8, 2048, 8},
                 {256, 40, 256},
                 {300, 900, 20},
                 {300, 6000, 300},
                 {300, WTN_BLOCK_ROWS, 300},
                 {0, 0, 0}};

    for (size_t c = 0; c < WTN_COUNT_OF(cases); c++) {
        for (int32_t tile_rows = 4; tile_rows <= 12; tile_rows += 2) {
            const int64_t rows       = cases[c].rows;
            uint64_t      state      = c;
            int32_t      *row_expert = data_alloc((size_t)rows * sizeof(int32_t));
            layout_t      layout;

            for (int64_t i = 0; i < rows; i++) {
                row_expert[i] = (int32_t)(data_next(&state) % (uint64_t)cases[c].skew);
            }
            for (int32_t masked = 0; masked < 2; masked++) {
                layout_create(&layout, cases[c].experts, tile_rows, masked != 0 ? 5000 : 0, rows);
                ck_assert_int_eq(wtn_executor_sort(&layout.executor, row_expert, rows), WITAN_OK);
                ck_assert_int_eq(wtn_executor_choose(&layout.executor,
                                                     masked != 0 ? WITAN_EXECUTOR_MASKED
                                                                 : WITAN_EXECUTOR_CONTIGUOUS,
                                                     masked != 0 ? 5000 : 0),
                                 WITAN_OK);
                check_stable(&layout.executor, row_expert, rows);
                check_blocks(&layout, row_expert, rows);
                layout_destroy(&layout);
            }
            free(row_expert);
        }
    }
}
END_TEST

START_TEST(test_executor_sort_refuses_unknown_expert)
{
    const int32_t row_expert[] = {0, 1, -1};
    layout_t      layout;

    layout_create(&layout, 2, 12, 0, 3);
    ck_assert_int_eq(wtn_executor_sort(&layout.executor, row_expert, 3), WITAN_E_ARGUMENT);
    ck_assert_str_eq(witan_last_error(), "experts: row 2 wants expert -1, expected 0 to 1");
    layout_destroy(&layout);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("executor");
    TCase *tests = tcase_create("host");

    tcase_add_test(tests, test_executor_layouts_hold_every_row_once);
    tcase_add_test(tests, test_executor_sort_refuses_unknown_expert);
    suite_add_tcase(suite, tests);
    return data_main(suite);
}

/* The walk over all tiles of the sm_90a grouped GEMM: whatever the form, the row counts and the
 * columns, and with pairs of blocks, which the emulator does not launch, every element of the
 * output is in exactly one tile. */
#include <stdio.h>

#include "tests/cuda_ffn/walk.h"
#include "tests/emulator/support.h"

enum { EXPERTS_MAX = 300, TILES_MAX = 8000, GRAIN = 8 };

static uint32_t random_state = 11;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % below;
}

static uint32_t form_pair(walk_form_t form)
{
    return form == WALK_LONG_PAIR || form == WALK_MIDDLE_PAIR ? 2 : 1;
}
static uint32_t form_rows(walk_form_t form)
{
    return form == WALK_FEW ? 64 : 128;
}
static uint32_t form_columns(walk_form_t form)
{
    return form == WALK_LONG || form == WALK_LONG_PAIR ? 192 : 128;
}

/* Marks each GRAIN columns of each row of the tile. */
static void mark(const walked_t *tile, walk_form_t form, const int64_t *row_begin, uint32_t N,
                 unsigned char *seen)
{
    const size_t width = (N + GRAIN - 1) / GRAIN;

    ck_assert_uint_le(tile->rows, form_rows(form));
    ck_assert_uint_le(tile->columns, form_columns(form));
    ck_assert_uint_eq(tile->column % GRAIN, 0);
    ck_assert_uint_le(tile->column + tile->columns, N);
    ck_assert_int_ge(tile->row, row_begin[tile->expert]);
    ck_assert_int_le(tile->row + tile->rows, row_begin[tile->expert + 1]);
    for (uint32_t r = 0; r < tile->rows; r++) {
        for (uint32_t c = 0; c < tile->columns; c += GRAIN) {
            seen[(tile->row + r) * width + (tile->column + c) / GRAIN]++;
        }
    }
}

static void check_walk(walk_form_t form, const int64_t *row_begin, uint32_t experts, uint32_t N)
{
    const uint32_t pair  = form_pair(form);
    const bool     two   = N > 192 && N <= 384; /* tiles of columns */
    const size_t   cells = (size_t)row_begin[experts] * ((N + GRAIN - 1) / GRAIN);
    unsigned char *seen  = calloc(cells + 1, 1);
    walked_t      *tiles = malloc(TILES_MAX * sizeof(*tiles));
    void          *begin = device_from(row_begin, (experts + 1) * sizeof(*row_begin));
    void          *out   = device_from(NULL, TILES_MAX * sizeof(*tiles));
    void          *units = device_from(NULL, sizeof(uint32_t));
    uint32_t       count;

    OK(walk_tiles(form, begin, experts, N, TILES_MAX, out, units, NULL));
    to_host(&count, units, sizeof(count));
    to_host(tiles, out, TILES_MAX * sizeof(*tiles));
    ck_assert_uint_le(count * pair, TILES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        const walked_t *tile = &tiles[i * pair];

        ck_assert_uint_gt(tile->rows, 0);
        ck_assert_uint_gt(tile->columns, 0);
        for (uint32_t rank = 0; rank < pair; rank++) {
            mark(&tile[rank], form, row_begin, N, seen);
            ck_assert_uint_eq(tile[rank].shares, tile->shares);
            if (tile->shares) { /* the same weights */
                ck_assert_uint_eq(tile[rank].expert, tile->expert);
                ck_assert_uint_eq(tile[rank].column, tile->column);
                ck_assert_uint_eq(tile[rank].columns, tile->columns);
                ck_assert_uint_gt(tile[rank].rows, 0);
            }
            if (tile->shares && form == WALK_LONG_PAIR && two) { /* none waits for the other */
                ck_assert_uint_eq((tile[rank].rows + 63) / 64, (tile->rows + 63) / 64);
            }
        }
    }
    for (size_t i = 0; i < cells; i++) {
        ck_assert_msg(seen[i] == 1, "form %d, N %u: cell %zu is in %d tiles", (int)form, N, i,
                      seen[i]);
    }
    free(seen);
    free(tiles);
    OK(cudaFree(begin));
}

START_TEST(test_walk_takes_every_element_once)
{
    static const uint32_t N[]    = {8, 72, 200, 256, 320, 520};
    static const int64_t  rows[] = {0,   1,   16,  63,  64,  65,  127, 128, 129,  192,
                                    193, 255, 256, 257, 384, 385, 512, 900, 2100, 0};
    enum { ROWS = sizeof(rows) / sizeof(rows[0]) };
    int64_t begin[ROWS + 1] = {0};

    for (size_t e = 0; e < ROWS; e++) {
        begin[e + 1] = begin[e] + rows[e];
    }
    for (size_t n = 0; n < sizeof(N) / sizeof(N[0]); n++) {
        check_walk((walk_form_t)_i, begin, ROWS, N[n]);
    }
}
END_TEST

/* Experts of several windows, many without rows. */
START_TEST(test_walk_over_many_experts)
{
    static const uint32_t most[]                 = {2, 140};
    int64_t               begin[EXPERTS_MAX + 1] = {0};

    for (size_t n = 0; n < sizeof(most) / sizeof(most[0]); n++) {
        for (size_t e = 0; e < EXPERTS_MAX; e++) {
            begin[e + 1] = begin[e] + (draw(3) == 0 ? 0 : draw(most[n]));
        }
        check_walk((walk_form_t)_i, begin, EXPERTS_MAX, 200);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_walk");
    TCase *tc    = tcase_create("cuda_walk");

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, test_walk_takes_every_element_once, 0, WALK_FORMS);
    tcase_add_loop_test(tc, test_walk_over_many_experts, 0, WALK_FORMS);
    suite_add_tcase(suite, tc);
    return run_on_device(suite, 9);
}

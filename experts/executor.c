#include <inttypes.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/executor.h"

int64_t wtn_executor_slot_rows(int32_t masked_rows_max, int64_t row_count_max)
{
    return wtn_min_i64(wtn_max_i64(WTN_SLOT_ROWS, masked_rows_max), row_count_max);
}

int64_t wtn_executor_place_count(const wtn_executor_t *executor, int64_t row_count_max)
{
    return wtn_max_i64(executor->expert_count * executor->slot_rows,
                       wtn_min_i64(WTN_BLOCK_ROWS, row_count_max));
}

int64_t wtn_executor_tile_count(const wtn_executor_t *executor, int64_t row_count_max)
{
    int64_t masked =
        executor->expert_count * wtn_ceil_div(executor->slot_rows, executor->tile_rows);

    return wtn_min_i64(row_count_max, wtn_max_i64(masked, WTN_BLOCK_ROWS));
}

witan_status_t wtn_executor_sort(wtn_executor_t *executor, const int32_t *row_expert,
                                 int64_t row_count)
{
    int64_t begin = 0;

    memset(executor->row_counts, 0, (size_t)executor->expert_count * sizeof(int64_t));
    for (int64_t i = 0; i < row_count; i++) {
        int32_t expert = row_expert == NULL ? 0 : row_expert[i];

        if (expert < 0 || expert >= executor->expert_count) {
            return WTN_ERROR(WITAN_E_ARGUMENT,
                             "experts: row %" PRId64 " wants expert %" PRId32
                             ", expected 0 to %" PRId32,
                             i, expert, executor->expert_count - 1);
        }
        executor->row_counts[expert]++;
    }
    for (int32_t e = 0; e < executor->expert_count; e++) {
        executor->row_ends[e] = begin;
        begin += executor->row_counts[e];
    }
    for (int64_t i = 0; i < row_count; i++) {
        executor->order[executor->row_ends[row_expert == NULL ? 0 : row_expert[i]]++] = i;
    }
    return WITAN_OK;
}

witan_status_t wtn_executor_choose(wtn_executor_t *executor, witan_executor_t wanted,
                                   int32_t masked_rows_max)
{
    int64_t fit    = executor->slot_rows;
    int64_t most   = 0;
    int32_t expert = 0;

    for (int32_t e = 0; e < executor->expert_count; e++) {
        if (executor->row_counts[e] > most) {
            most   = executor->row_counts[e];
            expert = e;
        }
    }
    if (wanted == WITAN_EXECUTOR_MASKED && most > fit) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "masked executor: expert %" PRId32 " has %" PRId64
                         " rows, a slot holds %" PRId64,
                         expert, most, fit);
    }
    if (masked_rows_max > 0) {
        fit = wtn_min_i64(fit, masked_rows_max);
    }
    if (wanted == WITAN_EXECUTOR_AUTO) {
        wanted = most <= fit ? WITAN_EXECUTOR_MASKED : WITAN_EXECUTOR_CONTIGUOUS;
    }
    executor->taken       = wanted;
    executor->next_expert = 0;
    executor->next_row    = 0;
    return WITAN_OK;
}

/* Add `count` sorted rows of an expert, packed from `place` on: even tiles, one segment. */
static void add_segment(wtn_executor_t *executor, int32_t expert, int64_t count, int64_t place)
{
    wtn_segment_t *segment = &executor->segments[executor->segment_count++];
    int64_t        tiles   = wtn_ceil_div(count, executor->tile_rows);

    *segment = (wtn_segment_t){expert, executor->tile_count, (int32_t)tiles};
    for (int64_t t = 0; t < tiles; t++) {
        int64_t begin = wtn_part_begin(count, tiles, t);
        int64_t end   = wtn_part_begin(count, tiles, t + 1);

        executor->tiles[executor->tile_count++] =
            (wtn_row_tile_t){executor->next_row + begin, place + begin, (int32_t)(end - begin)};
    }
    executor->next_row += count;
}

static void lay_out_masked(wtn_executor_t *executor)
{
    for (int32_t e = 0; e < executor->expert_count; e++) {
        if (executor->row_counts[e] > 0) {
            add_segment(executor, e, executor->row_counts[e], e * executor->slot_rows);
        }
    }
    executor->next_expert = executor->expert_count;
}

static void lay_out_contiguous(wtn_executor_t *executor)
{
    int64_t place = 0;

    while (executor->next_expert < executor->expert_count && place < WTN_BLOCK_ROWS) {
        int32_t expert   = executor->next_expert;
        int64_t left     = executor->row_ends[expert] - executor->next_row;
        int64_t segments = wtn_max_i64(wtn_ceil_div(left, WTN_SEGMENT_ROWS), 1);
        int64_t count = wtn_ceil_div(left, segments); /* even: a short one costs as much to read */

        if (count > WTN_BLOCK_ROWS - place) {
            break; /* whole segments: a cut one would read its weights twice */
        }
        if (count == 0) {
            executor->next_expert++;
            continue;
        }
        add_segment(executor, expert, count, place);
        place += count;
    }
}

bool wtn_executor_next(wtn_executor_t *executor)
{
    executor->segment_count = 0;
    executor->tile_count    = 0;
    if (executor->taken == WITAN_EXECUTOR_MASKED) {
        if (executor->next_expert < executor->expert_count) {
            lay_out_masked(executor);
        }
    } else {
        lay_out_contiguous(executor);
    }
    return executor->segment_count > 0;
}

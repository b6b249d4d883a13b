/* Executors: how the rows of a call are laid out for the experts' tiles. Whole numbers only.
 *
 * Both sort the rows by expert, stably, by counting. contiguous: the rows of an expert follow each
 * other without padding, in blocks of bounded size. masked: every expert has a slot of the same
 * number of rows at a fixed place, in one block; fit for few rows. A row's result is the same. */
#ifndef WTN_EXECUTOR_H
#define WTN_EXECUTOR_H

#include <stdbool.h>
#include <stdint.h>

#include <witan/plan.h>

/* Rows of a contiguous block, and of one expert that are computed against a panel at a time.
 * Weights are read from memory once per segment: at 256 rows that is hidden. */
#define WTN_BLOCK_ROWS   1536
#define WTN_SEGMENT_ROWS 256

/* Rows of an expert's slot in the masked executor, unless the caller's threshold is larger. */
#define WTN_SLOT_ROWS 12

/* A few rows of one expert multiplied together. */
typedef struct wtn_row_tile {
    int64_t row;   /* of the sorted rows, the first */
    int64_t place; /* of the packed rows, the first */
    int32_t count;
} wtn_row_tile_t;

/* Tiles of one expert that share a pass over its weights. */
typedef struct wtn_segment {
    int32_t expert;
    int32_t tile_begin, tile_count;
} wtn_segment_t;

typedef struct wtn_executor {
    witan_executor_t taken;
    int32_t          expert_count;
    int32_t          tile_rows;
    int64_t          slot_rows;  /* of an expert, masked */
    int64_t         *row_counts; /* [expert_count] */
    int64_t         *row_ends;   /* [expert_count] of the sorted rows */
    int64_t         *order;      /* [row_count] sorted row -> row of the call */
    wtn_segment_t   *segments;   /* of the block */
    wtn_row_tile_t  *tiles;      /* of the block */
    int32_t          segment_count, tile_count;
    int32_t          next_expert; /* where the next block starts */
    int64_t          next_row;    /* sorted */
} wtn_executor_t;

/* Rows of a slot: WTN_SLOT_ROWS, or the threshold where that is larger, but never more than there
 * can be rows. */
int64_t wtn_executor_slot_rows(int32_t masked_rows_max, int64_t row_count_max);

/* Packed rows, and tiles (segments are no more), of the largest block; the executor's expert_count,
 * tile_rows and slot_rows are set. */
int64_t wtn_executor_place_count(const wtn_executor_t *executor, int64_t row_count_max);
int64_t wtn_executor_tile_count(const wtn_executor_t *executor, int64_t row_count_max);

/* Count and sort. WITAN_E_ARGUMENT: row_expert[i] outside 0..expert_count-1. */
witan_status_t wtn_executor_sort(wtn_executor_t *executor, const int32_t *row_expert,
                                 int64_t row_count);

/* Decide `taken`. WITAN_E_ARGUMENT: MASKED wanted, and an expert has more rows than a slot. */
witan_status_t wtn_executor_choose(wtn_executor_t *executor, witan_executor_t wanted,
                                   int32_t masked_rows_max);

/* Lay out the next block; false when there is none. */
bool wtn_executor_next(wtn_executor_t *executor);

#endif

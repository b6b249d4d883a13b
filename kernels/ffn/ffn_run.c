#include <inttypes.h>
#include <omp.h>

#include "core/error.h"
#include "experts/executor.h"
#include "kernels/ffn/ffn_host.h"

/* Multiply-adds per matrix below which one thread is done before a second one has started. */
#define PARALLEL_WORK ((double)(1 << 16))

/* Tiles of a pass that fetch the next panel ahead. With more rows than fill them, memory is no
 * longer what a pass waits for. */
#define PREFETCH_TILES 3

/* A thread takes one TAKE_SHARES-th of its share of the items left at a time. */
#define TAKE_SHARES 2

/* One call: pack, up GEMM and activation, down GEMM, block after block. */
typedef struct ffn_run {
    const wtn_ffn_t      *ffn;
    const wtn_ffn_args_t *args;
    wtn_executor_t        executor;
    char                 *x; /* packed rows of the block */
    char                 *h;
    int64_t               next_pack, next_up, next_down; /* items of the block, taken by threads */
} ffn_run_t;

static size_t carve(ffn_run_t *run, void *base, const wtn_ffn_spec_t *spec,
                    const wtn_ffn_shape_t *s, int64_t row_count_max, int32_t masked_rows_max)
{
    wtn_executor_t *executor = &run->executor;
    wtn_carver_t    carver   = {.base = base};
    size_t          experts  = (size_t)spec->expert_count;
    size_t          places, tiles;

    if (s->H > WTN_GEMM_SIZE_MAX || s->I > WTN_GEMM_SIZE_MAX) {
        return SIZE_MAX;
    }
    executor->expert_count = spec->expert_count;
    executor->tile_rows    = s->gemm->tile_rows;
    executor->slot_rows    = wtn_executor_slot_rows(masked_rows_max, row_count_max);
    places                 = (size_t)wtn_executor_place_count(executor, row_count_max);
    tiles                  = (size_t)wtn_executor_tile_count(executor, row_count_max);

    executor->row_counts = wtn_carve(&carver, experts, sizeof(*executor->row_counts));
    executor->row_ends   = wtn_carve(&carver, experts, sizeof(*executor->row_ends));
    executor->order      = wtn_carve(&carver, (size_t)row_count_max, sizeof(*executor->order));
    executor->tiles      = wtn_carve(&carver, tiles, sizeof(*executor->tiles));
    executor->segments   = wtn_carve(&carver, tiles, sizeof(*executor->segments));
    run->x               = wtn_carve(&carver, places, s->x_row_bytes);
    run->h               = wtn_carve(&carver, places, s->h_row_bytes);
    return carver.bytes;
}

size_t wtn_host_ffn_workspace_bytes(const wtn_ffn_spec_t *spec, int64_t row_count_max,
                                    int32_t masked_rows_max, int32_t thread_count)
{
    wtn_ffn_shape_t shape = wtn_ffn_shape(spec);
    ffn_run_t       run   = {.ffn = NULL};

    (void)thread_count;
    return carve(&run, NULL, spec, &shape, row_count_max, masked_rows_max);
}

static void pack_tile(const ffn_run_t *run, const wtn_row_tile_t *tile)
{
    const wtn_ffn_shape_t *s         = &run->ffn->shape;
    const wtn_ffn_args_t  *args      = run->args;
    const size_t           row_bytes = (size_t)s->H * witan_dtype_bytes(run->ffn->spec.dtype);
    const void            *rows[WTN_TILE_ROWS_MAX];

    for (int32_t r = 0; r < tile->count; r++) {
        int64_t row = run->executor.order[tile->row + r];

        row     = args->row_in == NULL ? row : args->row_in[row];
        rows[r] = (const char *)args->x + (size_t)row * row_bytes;
    }
    s->gemm->pack_rows(tile->count, s->H, rows, run->ffn->spec.dtype,
                       run->x + (size_t)tile->place * s->x_row_bytes);
}

/* The stretch of the next panel that tile `index` of `count` fetches ahead: the last tiles of a
 * pass share it evenly. Earlier it would drive out the panel in use, where two do not fit the
 * cache. */
static void set_prefetch(wtn_tile_args_t *tile, const char *next, size_t panel_bytes, int32_t index,
                         int32_t count)
{
    int64_t shares = wtn_min_i64(count, PREFETCH_TILES);
    int64_t share  = index - (count - shares);

    tile->prefetch      = next;
    tile->prefetch_step = 0;
    if (share >= 0 && tile->group_count > 0) {
        tile->prefetch += wtn_part_begin((int64_t)panel_bytes, shares, share);
        tile->prefetch_step = wtn_ceil_div((int64_t)panel_bytes / tile->group_count, shares);
    }
}

static const char *panel_at(const ffn_run_t *run, int64_t expert, int64_t panel, bool up)
{
    const wtn_ffn_weights_t *weights = &run->ffn->weights[expert];
    const wtn_ffn_shape_t   *s       = &run->ffn->shape;

    return up ? weights->up + (size_t)panel * s->up_panel_bytes
              : weights->down + (size_t)panel * s->down_panel_bytes;
}

static void up_panel(const ffn_run_t *run, const wtn_segment_t *segment, int64_t panel,
                     const char *next)
{
    const wtn_ffn_t       *ffn  = run->ffn;
    const wtn_ffn_shape_t *s    = &ffn->shape;
    const float           *bias = ffn->weights[segment->expert].up_bias;
    _Alignas(64) float     sums[WTN_TILE_ROWS_MAX * WTN_PANEL_COLUMNS_MAX];

    wtn_tile_args_t tile = {.group_count = wtn_gemm_groups(s->gemm, s->H),
                            .panel       = panel_at(run, segment->expert, panel, true),
                            .sums        = sums};

    wtn_epilogue_up_args_t epilogue = {
        .activation   = &ffn->spec.activation,
        .sums         = sums,
        .bias         = bias == NULL ? NULL : bias + panel * s->gemm->panel_columns,
        .column_begin = panel * s->up_columns,
        .column_count = (int32_t)wtn_min_i64(s->up_columns, s->I - panel * s->up_columns)};

    for (int32_t t = 0; t < segment->tile_count; t++) {
        const wtn_row_tile_t *rows = &run->executor.tiles[segment->tile_begin + t];

        tile.rows     = rows->count;
        tile.x        = run->x + (size_t)rows->place * s->x_row_bytes;
        epilogue.rows = rows->count;
        epilogue.h    = run->h + (size_t)rows->place * s->h_row_bytes;
        set_prefetch(&tile, next, s->up_panel_bytes, t, segment->tile_count);
        s->gemm->tile(&tile);
        s->epilogue->up(&epilogue);
    }
}

static void down_panel(const ffn_run_t *run, const wtn_segment_t *segment, int64_t panel,
                       const char *next)
{
    const wtn_ffn_t       *ffn       = run->ffn;
    const wtn_ffn_shape_t *s         = &ffn->shape;
    const wtn_ffn_args_t  *args      = run->args;
    const float           *bias      = ffn->weights[segment->expert].down_bias;
    const int64_t          columns   = s->gemm->panel_columns;
    const size_t           row_bytes = (size_t)s->H * witan_dtype_bytes(ffn->spec.dtype);
    void                  *out[WTN_TILE_ROWS_MAX];
    _Alignas(64) float     sums[WTN_TILE_ROWS_MAX * WTN_PANEL_COLUMNS_MAX];

    wtn_tile_args_t tile = {.group_count = wtn_gemm_groups(s->gemm, s->I),
                            .panel       = panel_at(run, segment->expert, panel, false),
                            .sums        = sums};

    wtn_epilogue_down_args_t epilogue = {.sums = sums,
                                         .bias = bias == NULL ? NULL : bias + panel * columns,
                                         .column_begin = panel * columns,
                                         .column_count =
                                             (int32_t)wtn_min_i64(columns, s->H - panel * columns),
                                         .out = out};

    for (int32_t t = 0; t < segment->tile_count; t++) {
        const wtn_row_tile_t *rows = &run->executor.tiles[segment->tile_begin + t];

        for (int32_t r = 0; r < rows->count; r++) {
            int64_t row = run->executor.order[rows->row + r];

            row    = args->row_out == NULL ? row : args->row_out[row];
            out[r] = (char *)args->out + (size_t)row * row_bytes;
        }
        tile.rows     = rows->count;
        tile.x        = run->h + (size_t)rows->place * s->h_row_bytes;
        epilogue.rows = rows->count;
        set_prefetch(&tile, next, s->down_panel_bytes, t, segment->tile_count);
        s->gemm->tile(&tile);
        s->epilogue->down(&epilogue);
    }
}

static void poll(const wtn_ffn_args_t *args)
{
    if (args->poll != NULL && omp_get_thread_num() == 0) {
        args->poll(args->poll_context);
    }
}

/* Take the next run of items nobody has, [*begin, value); *begin when there is none. A run is a
 * share of what is left: long ones, whose weights follow each other in memory, and single items at
 * the end, when a thread that was held up would keep the others waiting. */
static int64_t take(int64_t *next, int64_t count, int64_t *begin)
{
    const int64_t shares = TAKE_SHARES * omp_get_num_threads();
    int64_t       end;

    *begin = __atomic_load_n(next, __ATOMIC_RELAXED);
    do {
        end = *begin + wtn_ceil_div(count - *begin, shares);
    } while (*begin < count && !__atomic_compare_exchange_n(next, begin, end, true,
                                                            __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return *begin < count ? end : *begin;
}

static void pack_rows(ffn_run_t *run)
{
    int64_t t, end;

    while ((end = take(&run->next_pack, run->executor.tile_count, &t)) > t) {
        for (; t < end; t++) {
            pack_tile(run, &run->executor.tiles[t]);
            poll(run->args);
        }
    }
}

/* The panel of an item of the block, counted over segments. */
static const char *panel_of(const ffn_run_t *run, int64_t item, int64_t panels, bool up)
{
    return panel_at(run, run->executor.segments[item / panels].expert, item % panels, up);
}

static void multiply_up(ffn_run_t *run)
{
    const wtn_ffn_shape_t *s     = &run->ffn->shape;
    const int64_t          count = run->executor.segment_count * s->up_panels;
    int64_t                i, end;

    while ((end = take(&run->next_up, count, &i)) > i) {
        for (; i < end; i++) {
            up_panel(run, &run->executor.segments[i / s->up_panels], i % s->up_panels,
                     panel_of(run, wtn_min_i64(i + 1, count - 1), s->up_panels, true));
            poll(run->args);
        }
    }
}

static void multiply_down(ffn_run_t *run)
{
    const wtn_ffn_shape_t *s     = &run->ffn->shape;
    const int64_t          count = run->executor.segment_count * s->down_panels;
    int64_t                i, end;

    while ((end = take(&run->next_down, count, &i)) > i) {
        for (; i < end; i++) {
            down_panel(run, &run->executor.segments[i / s->down_panels], i % s->down_panels,
                       panel_of(run, wtn_min_i64(i + 1, count - 1), s->down_panels, false));
            poll(run->args);
        }
    }
}

/* The block laid out in run->executor. */
static void run_block(ffn_run_t *run, int32_t threads)
{
    run->next_pack = run->next_up = run->next_down = 0;
#pragma omp parallel num_threads(threads)
    {
        pack_rows(run);
#pragma omp barrier
        multiply_up(run);
#pragma omp barrier
        multiply_down(run);
    }
}

witan_status_t wtn_host_ffn_run(const wtn_ffn_t *ffn, wtn_ffn_args_t *args)
{
    const double   work    = (double)args->row_count * (double)ffn->shape.H * (double)ffn->shape.I;
    const bool     many    = args->thread_count > 1 && work >= PARALLEL_WORK;
    const int32_t  threads = many ? args->thread_count : 1;
    ffn_run_t      run     = {.ffn = ffn, .args = args};
    size_t         bytes;
    witan_status_t status;

    if (args->row_count < 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "experts: %" PRId64 " rows", args->row_count);
    }
    bytes = carve(&run, args->workspace, &ffn->spec, &ffn->shape, args->row_count,
                  args->masked_rows_max);
    if (bytes > args->workspace_bytes) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "experts: %" PRId64 " rows need a workspace of %zu bytes, found %zu",
                         args->row_count, bytes, args->workspace_bytes);
    }
    WTN_TRY(wtn_executor_sort(&run.executor, args->row_expert, args->row_count));
    WTN_TRY(wtn_executor_choose(&run.executor, args->executor, args->masked_rows_max));
    args->executor_taken = run.executor.taken;
    for (int32_t e = 0; e < ffn->spec.expert_count && args->expert_row_counts != NULL; e++) {
        args->expert_row_counts[e] = run.executor.row_counts[e];
    }
    while (wtn_executor_next(&run.executor)) {
        run_block(&run, threads);
    }
    return WITAN_OK;

fail:
    return status;
}

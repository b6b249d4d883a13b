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

/* A panel times the tiles of a segment. */
typedef struct pass {
    const wtn_segment_t  *segment;
    const wtn_row_tile_t *tiles;        /* of the segment */
    int64_t               index;        /* of the panel in its matrix */
    const char           *panel, *next; /* and that of the pass that follows */
    size_t                panel_bytes;
    const char           *rows; /* packed, of the block */
    size_t                row_bytes;
    bool                  first; /* of this thread with these rows: its cache has them not yet */
} pass_t;

/* What tile `t` of a pass fetches ahead. The last tiles share the next panel evenly; earlier it
 * would drive out the panel in use, where two do not fit the cache. On a first pass the last tile
 * has it all, and the ones before it each fetch the rows of the tile that follows. */
static void set_prefetch(wtn_tile_args_t *tile, const pass_t *pass, int32_t t)
{
    const int32_t count  = pass->segment->tile_count;
    const int64_t shares = pass->first ? 1 : wtn_min_i64(count, PREFETCH_TILES);
    const int64_t share  = t - (count - shares);

    tile->prefetch      = pass->next;
    tile->prefetch_step = 0;
    if (tile->group_count == 0) {
        return;
    }
    if (share >= 0) {
        tile->prefetch += wtn_part_begin((int64_t)pass->panel_bytes, shares, share);
        tile->prefetch_step = wtn_ceil_div((int64_t)pass->panel_bytes / tile->group_count, shares);
    } else if (pass->first) {
        tile->prefetch = pass->rows + (size_t)pass->tiles[t + 1].place * pass->row_bytes;
        tile->prefetch_step =
            pass->tiles[t + 1].count * ((int64_t)pass->row_bytes / tile->group_count);
    }
}

/* Sums of tile `t` of a pass. */
static void multiply_tile(const ffn_run_t *run, wtn_tile_args_t *tile, const pass_t *pass,
                          int32_t t)
{
    tile->rows  = pass->tiles[t].count;
    tile->x     = pass->rows + (size_t)pass->tiles[t].place * pass->row_bytes;
    tile->panel = pass->panel;
    set_prefetch(tile, pass, t);
    run->ffn->shape.gemm->tile(tile);
}

static void up_pass(const ffn_run_t *run, const pass_t *pass)
{
    const wtn_ffn_t       *ffn  = run->ffn;
    const wtn_ffn_shape_t *s    = &ffn->shape;
    const float           *bias = ffn->weights[pass->segment->expert].up_bias;
    _Alignas(64) float     sums[WTN_TILE_ROWS_MAX * WTN_PANEL_COLUMNS_MAX];

    wtn_tile_args_t tile = {.group_count = wtn_gemm_groups(s->gemm, s->H), .sums = sums};

    wtn_epilogue_up_args_t epilogue = {
        .activation   = &ffn->spec.activation,
        .sums         = sums,
        .bias         = bias == NULL ? NULL : bias + pass->index * s->gemm->panel_columns,
        .column_begin = pass->index * s->up_columns,
        .column_count = (int32_t)wtn_min_i64(s->up_columns, s->I - pass->index * s->up_columns)};

    for (int32_t t = 0; t < pass->segment->tile_count; t++) {
        multiply_tile(run, &tile, pass, t);
        epilogue.rows = tile.rows;
        epilogue.h    = run->h + (size_t)pass->tiles[t].place * s->h_row_bytes;
        s->epilogue->up(&epilogue);
    }
}

static void down_pass(const ffn_run_t *run, const pass_t *pass)
{
    const wtn_ffn_t       *ffn       = run->ffn;
    const wtn_ffn_shape_t *s         = &ffn->shape;
    const wtn_ffn_args_t  *args      = run->args;
    const float           *bias      = ffn->weights[pass->segment->expert].down_bias;
    const int64_t          columns   = s->gemm->panel_columns;
    const int64_t          begin     = pass->index * columns;
    const size_t           row_bytes = (size_t)s->H * witan_dtype_bytes(ffn->spec.dtype);
    void                  *out[WTN_TILE_ROWS_MAX];
    _Alignas(64) float     sums[WTN_TILE_ROWS_MAX * WTN_PANEL_COLUMNS_MAX];

    wtn_tile_args_t tile = {.group_count = wtn_gemm_groups(s->gemm, s->I), .sums = sums};

    wtn_epilogue_down_args_t epilogue = {.sums         = sums,
                                         .bias         = bias == NULL ? NULL : bias + begin,
                                         .column_begin = begin,
                                         .column_count =
                                             (int32_t)wtn_min_i64(columns, s->H - begin),
                                         .out = out};

    for (int32_t t = 0; t < pass->segment->tile_count; t++) {
        const wtn_row_tile_t *rows = &pass->tiles[t];

        for (int32_t r = 0; r < rows->count; r++) {
            int64_t row = run->executor.order[rows->row + r];

            row    = args->row_out == NULL ? row : args->row_out[row];
            out[r] = (char *)args->out + (size_t)row * row_bytes;
        }
        multiply_tile(run, &tile, pass, t);
        epilogue.rows = tile.rows;
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

/* The item that follows `i` on this thread: in its run up to `end`, or else where the next run to
 * be taken begins, if no other thread is faster. */
static int64_t item_after(int64_t i, int64_t end, const int64_t *next, int64_t count)
{
    return wtn_min_i64(i + 1 < end ? i + 1 : __atomic_load_n(next, __ATOMIC_RELAXED), count - 1);
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

/* Item `item` of a phase: one pass over a segment. */
static pass_t pass_at(const ffn_run_t *run, int64_t item, bool up)
{
    const wtn_ffn_shape_t *s       = &run->ffn->shape;
    const int64_t          panels  = up ? s->up_panels : s->down_panels;
    const wtn_segment_t   *segment = &run->executor.segments[item / panels];
    pass_t                 pass    = {.segment = segment,
                                      .tiles   = &run->executor.tiles[segment->tile_begin],
                                      .index   = item % panels};

    if (up) {
        pass.panel_bytes = s->up_panel_bytes;
        pass.panel       = run->ffn->weights[segment->expert].up;
        pass.rows        = run->x;
        pass.row_bytes   = s->x_row_bytes;
    } else {
        pass.panel_bytes = s->down_panel_bytes;
        pass.panel       = run->ffn->weights[segment->expert].down;
        pass.rows        = run->h;
        pass.row_bytes   = s->h_row_bytes;
    }
    pass.panel += (size_t)pass.index * pass.panel_bytes;
    return pass;
}

/* One of the two GEMMs of the block: the passes that this thread gets hold of. */
static void multiply(ffn_run_t *run, bool up)
{
    const wtn_ffn_shape_t *s   = &run->ffn->shape;
    const int64_t        count = run->executor.segment_count * (up ? s->up_panels : s->down_panels);
    int64_t             *next  = up ? &run->next_up : &run->next_down;
    const wtn_segment_t *previous = NULL;
    int64_t              i, end;

    while ((end = take(next, count, &i)) > i) {
        for (; i < end; i++) {
            pass_t pass = pass_at(run, i, up);

            pass.next  = pass_at(run, item_after(i, end, next, count), up).panel;
            pass.first = pass.segment != previous;
            previous   = pass.segment;
            if (up) {
                up_pass(run, &pass);
            } else {
                down_pass(run, &pass);
            }
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
        multiply(run, true);
#pragma omp barrier
        multiply(run, false);
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

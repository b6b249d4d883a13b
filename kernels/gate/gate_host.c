#include <inttypes.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "kernels/gate/gate.h"
#include "kernels/gemm/gemm.h"
#include "kernels/tier.h"

struct wtn_gate {
    wtn_gate_spec_t   spec;
    const wtn_gemm_t *gemm;
    int64_t           panel_count;
    size_t            panel_bytes, row_bytes; /* packed */
    char             *panels;
};

/* Equal dtypes use that dtype's tile; else both sides are fp32. */
static const wtn_gemm_t *choose_gemm(const wtn_gate_spec_t *spec)
{
    return spec->tier->gemm[spec->x_dtype == spec->weight_dtype ? spec->x_dtype : WITAN_F32];
}

size_t wtn_host_gate_weight_bytes(const wtn_gate_spec_t *spec)
{
    const wtn_gemm_t *gemm   = choose_gemm(spec);
    wtn_carver_t      carver = {.base = NULL};

    if (spec->hidden_size > WTN_GEMM_SIZE_MAX) {
        return SIZE_MAX;
    }
    (void)wtn_carve(&carver, (size_t)wtn_ceil_div(spec->out_count, gemm->panel_columns),
                    wtn_gemm_panel_bytes(gemm, spec->hidden_size));
    return carver.bytes;
}

/* Panels are read one at a time: a gate is small. */
static witan_status_t load(wtn_gate_t *gate, const witan_weights_t *weights, void *buffer)
{
    const int32_t        columns = gate->gemm->panel_columns;
    const int64_t        H       = gate->spec.hidden_size;
    witan_weight_slice_t slice   = {.weight    = gate->spec.weight,
                                    .expert    = -1,
                                    .col_count = H,
                                    .dtype     = gate->gemm->dtype};
    witan_status_t       status;

    memset(gate->panels, 0, (size_t)gate->panel_count * gate->panel_bytes);
    for (int64_t panel = 0; panel < gate->panel_count; panel++) {
        slice.row_begin = panel * columns;
        slice.row_count = wtn_min_i64(columns, gate->spec.out_count - slice.row_begin);
        WTN_TRY(weights->read(weights->context, &slice, buffer));
        wtn_gemm_pack_columns(gate->gemm, buffer, slice.row_count, H, 0,
                              gate->panels + (size_t)panel * gate->panel_bytes);
    }
    return WITAN_OK;

fail:
    return status;
}

witan_status_t wtn_host_gate_create(wtn_gate_t **out, const wtn_gate_spec_t *spec,
                                    const witan_weights_t *weights)
{
    wtn_gate_t    *gate   = NULL;
    void          *buffer = NULL;
    size_t         bytes;
    witan_status_t status;

    *out = NULL;
    if (spec->hidden_size < 1 || spec->out_count < 1) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "gate: shape [%" PRId32 ", %" PRId64 "]",
                         spec->out_count, spec->hidden_size);
    }
    bytes = wtn_host_gate_weight_bytes(spec);
    gate  = calloc(1, sizeof(*gate));
    if (gate == NULL || bytes == SIZE_MAX) {
        status = WTN_ERROR(WITAN_E_MEMORY, "gate: %zu bytes of weights", bytes);
        goto fail;
    }
    gate->spec        = *spec;
    gate->gemm        = choose_gemm(spec);
    gate->panel_count = wtn_ceil_div(spec->out_count, gate->gemm->panel_columns);
    gate->panel_bytes = wtn_gemm_panel_bytes(gate->gemm, spec->hidden_size);
    gate->row_bytes   = wtn_gemm_row_bytes(gate->gemm, spec->hidden_size);
    gate->panels      = wtn_alloc(bytes);
    buffer            = wtn_alloc(gate->panel_bytes);
    if (gate->panels == NULL || buffer == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "gate: %zu bytes of weights", bytes);
        goto fail;
    }
    WTN_TRY(load(gate, weights, buffer));
    wtn_free(buffer);
    *out = gate;
    return WITAN_OK;

fail:
    wtn_free(buffer);
    wtn_host_gate_destroy(gate);
    return status;
}

void wtn_host_gate_destroy(wtn_gate_t *gate)
{
    if (gate != NULL) {
        wtn_free(gate->panels);
        free(gate);
    }
}

/* One tile of packed rows per thread. */
size_t wtn_host_gate_workspace_bytes(const wtn_gate_spec_t *spec, int64_t token_count_max,
                                     int32_t thread_count)
{
    const wtn_gemm_t *gemm   = choose_gemm(spec);
    wtn_carver_t      carver = {.base = NULL};
    size_t            tile =
        wtn_align_up((size_t)gemm->tile_rows * wtn_gemm_row_bytes(gemm, spec->hidden_size),
                     WTN_CACHE_LINE_BYTES);

    (void)token_count_max;
    if (spec->hidden_size > WTN_GEMM_SIZE_MAX) {
        return SIZE_MAX;
    }
    (void)wtn_carve(&carver, thread_count < 1 ? 1 : (size_t)thread_count, tile);
    return carver.bytes;
}

/* Logits of tokens [begin, begin + count), packed into `packed`. The last panel fetches the tokens
 * that follow; the others, and all where none follow, themselves. */
static void run_tile(const wtn_gate_t *gate, const wtn_gate_args_t *args, int64_t begin,
                     int32_t count, char *packed)
{
    const int64_t      H       = gate->spec.hidden_size;
    const int64_t      N       = gate->spec.out_count;
    const int32_t      columns = gate->gemm->panel_columns;
    const size_t       element = witan_dtype_bytes(gate->spec.x_dtype);
    const void        *rows[WTN_TILE_ROWS_MAX];
    _Alignas(64) float sums[WTN_TILE_ROWS_MAX * WTN_PANEL_COLUMNS_MAX];

    wtn_tile_args_t tile = {.rows        = count,
                            .group_count = wtn_gemm_groups(gate->gemm, H),
                            .x           = packed,
                            .sums        = sums};

    for (int32_t r = 0; r < count; r++) {
        rows[r] = (const char *)args->x + (size_t)((begin + r) * H) * element;
    }
    gate->gemm->pack_rows(count, H, rows, gate->spec.x_dtype, packed);
    for (int64_t panel = 0; panel < gate->panel_count; panel++) {
        size_t size = (size_t)wtn_min_i64(columns, N - panel * columns) * sizeof(float);

        tile.panel         = gate->panels + (size_t)panel * gate->panel_bytes;
        tile.narrow        = N - panel * columns <= columns / 2;
        tile.prefetch      = (const char *)tile.panel + 1024;
        tile.prefetch_step = (int64_t)gate->panel_bytes / tile.group_count;
        if (panel + 1 == gate->panel_count && begin + count < args->token_count) {
            tile.prefetch      = (const char *)rows[0] + (size_t)(count * H) * element;
            tile.prefetch_step = count * H * (int64_t)element / tile.group_count;
        }
        gate->gemm->tile(&tile);
        for (int32_t r = 0; r < count; r++) {
            memcpy(args->logits + (begin + r) * N + panel * columns, sums + r * columns, size);
        }
    }
}

witan_status_t wtn_host_gate_run(const wtn_gate_t *gate, const wtn_gate_args_t *args)
{
    const int32_t threads = args->thread_count < 1 ? 1 : args->thread_count;
    const int64_t T       = args->token_count;
    const int64_t tiles   = wtn_ceil_div(T, gate->gemm->tile_rows);
    const size_t  bytes   = wtn_host_gate_workspace_bytes(&gate->spec, T, threads);

    if (T < 0 || bytes > args->workspace_bytes) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "gate: %" PRId64 " tokens on %" PRId32
                         " threads need a workspace of %zu bytes, found %zu",
                         T, threads, bytes, args->workspace_bytes);
    }
#pragma omp parallel num_threads(threads) if (tiles > 1)
    {
        char *packed =
            (char *)args->workspace + (size_t)omp_get_thread_num() * (bytes / (size_t)threads);

#pragma omp for schedule(static)
        for (int64_t t = 0; t < tiles; t++) {
            int64_t begin = wtn_part_begin(T, tiles, t);

            run_tile(gate, args, begin, (int32_t)(wtn_part_begin(T, tiles, t + 1) - begin), packed);
        }
    }
    return WITAN_OK;
}

#include <inttypes.h>
#include <stdlib.h>

#include <cuda_runtime_api.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/cuda.h"
#include "kernels/ffn/ffn.h"
#include "kernels/ffn/ffn_cuda.h"
#include "kernels/ffn/ffn_rows_cuda.h"
#include "kernels/sort/sort.h"
#include "kernels/tier.h"

#define X_ALIGN 16

struct wtn_ffn {
    wtn_ffn_spec_t         spec; /* experts is not kept */
    wtn_cuda_ffn_shape_t   shape;
    void                  *memory; /* of the device */
    const wtn_cuda_gemm_t *gemm;
    void                  *state; /* the executor's */
    pthread_mutex_t        mutex; /* for executors that keep the row counts on the host */
};

/* Where things are in a call's workspace. */
typedef struct run {
    wtn_sort_args_t sort; /* its lists and workspace */
    void           *x;    /* padded and sorted rows, where H is no multiple of WTN_CUDA_ALIGN */
    void           *h;
    void           *gemm; /* the executor's */
} run_t;

static size_t gemm_workspace_bytes(const wtn_ffn_spec_t *spec, const wtn_cuda_ffn_shape_t *shape,
                                   int64_t row_count_max)
{
    const wtn_cuda_gemm_t *gemm = spec->tier->cuda_gemm[spec->dtype];

    return gemm->workspace_bytes == NULL
               ? 0
               : gemm->workspace_bytes(&shape->up, &shape->down, row_count_max);
}

static size_t carve(run_t *run, void *base, const wtn_ffn_spec_t *spec,
                    const wtn_cuda_ffn_shape_t *shape, int64_t row_count_max)
{
    wtn_carver_t carver = {.base = base};
    const size_t rows   = (size_t)row_count_max;

    if (shape->weight_bytes == SIZE_MAX || row_count_max < 0) {
        return SIZE_MAX;
    }
    *run                      = (run_t){.x = NULL};
    run->sort.workspace_bytes = wtn_sort_workspace_bytes(row_count_max, spec->expert_count);
    run->sort.workspace       = wtn_carve(&carver, 1, run->sort.workspace_bytes);
    run->sort.row_begin       = wtn_carve(&carver, (size_t)spec->expert_count + 1, sizeof(int64_t));
    run->sort.sorted_in       = wtn_carve(&carver, rows, sizeof(int64_t));
    run->sort.sorted_out      = wtn_carve(&carver, rows, sizeof(int64_t));
    run->sort.counters = wtn_carve(&carver, (size_t)spec->expert_count + 1, sizeof(uint32_t));
    if (shape->Hp != shape->H) {
        run->x = wtn_cuda_carve_rows(&carver, rows, (size_t)shape->Hp * shape->element);
    }
    run->h    = wtn_cuda_carve_rows(&carver, rows, (size_t)shape->Ip * shape->element);
    run->gemm = wtn_carve(&carver, 1, gemm_workspace_bytes(spec, shape, row_count_max));
    return carver.bytes;
}

size_t wtn_cuda_ffn_weight_bytes(const wtn_ffn_spec_t *spec)
{
    return wtn_cuda_ffn_shape(spec, NULL).weight_bytes;
}

size_t wtn_cuda_ffn_workspace_bytes(const wtn_ffn_spec_t *spec, int64_t row_count_max,
                                    int32_t masked_rows_max, int32_t thread_count)
{
    const wtn_cuda_ffn_shape_t shape = wtn_cuda_ffn_shape(spec, NULL);
    run_t                      run;

    (void)masked_rows_max;
    (void)thread_count;
    return carve(&run, NULL, spec, &shape, row_count_max);
}

witan_status_t wtn_cuda_ffn_create(wtn_ffn_t **out, const wtn_ffn_spec_t *spec,
                                   const witan_weights_t *weights)
{
    wtn_ffn_t     *ffn = NULL;
    size_t         bytes;
    witan_status_t status;

    *out = NULL;
    WTN_TRY(wtn_ffn_spec_check(spec));
    bytes = wtn_cuda_ffn_weight_bytes(spec);
    ffn   = calloc(1, sizeof(*ffn));
    if (ffn == NULL || bytes == SIZE_MAX) {
        free(ffn);
        return WTN_ERROR(WITAN_E_MEMORY, "experts: %zu bytes of weights", bytes);
    }
    ffn->spec         = *spec;
    ffn->spec.experts = NULL;
    ffn->gemm         = spec->tier->cuda_gemm[spec->dtype];
    (void)pthread_mutex_init(&ffn->mutex, NULL); /* never fails on Linux */
    if (spec->expert_count > 0) {
        status = wtn_cuda_status((int)cudaMalloc(&ffn->memory, bytes), "cudaMalloc");
        if (status != WITAN_OK) {
            status = wtn_error_prefix(status, "experts: %zu bytes of weights", bytes);
            goto fail;
        }
        ffn->shape = wtn_cuda_ffn_shape(spec, ffn->memory);
        WTN_TRY(wtn_cuda_ffn_load(&ffn->shape, spec, weights));
        if (ffn->gemm->prepare != NULL) {
            WTN_TRY(ffn->gemm->prepare(&ffn->state, &ffn->shape.up, &ffn->shape.down));
        }
    }
    *out = ffn;
    return WITAN_OK;

fail:
    wtn_cuda_ffn_destroy(ffn);
    return status;
}

void wtn_cuda_ffn_destroy(wtn_ffn_t *ffn)
{
    if (ffn == NULL) {
        return;
    }
    if (ffn->state != NULL) {
        ffn->gemm->release(ffn->state);
    }
    (void)cudaFree(ffn->memory);
    (void)pthread_mutex_destroy(&ffn->mutex);
    free(ffn);
}

static witan_status_t check_call(const wtn_ffn_t *ffn, const wtn_ffn_args_t *args, size_t bytes)
{
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;

    if (bytes > args->workspace_bytes) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "experts: %" PRId64 " rows need a workspace of %zu bytes, found %zu",
                         args->row_count, bytes, args->workspace_bytes);
    }
    if (ffn->shape.Hp == ffn->shape.H && (uintptr_t)args->x % X_ALIGN != 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "experts: x: expected %d-byte alignment, found %p",
                         X_ALIGN, args->x);
    }
    if (ffn->gemm->waits &&
        cudaStreamIsCapturing((cudaStream_t)args->stream, &capture) == cudaSuccess &&
        capture != cudaStreamCaptureStatusNone) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED,
                         "experts: kernel tier %s waits for the device's row counts, so it can not "
                         "be captured in a graph",
                         ffn->spec.tier->name);
    }
    return WITAN_OK;
}

/* Which form: decided by what the host knows, the average rows of an expert. */
static bool choose_few_rows(const wtn_ffn_t *ffn, wtn_ffn_args_t *args)
{
    const int64_t threshold =
        args->masked_rows_max > 0 ? args->masked_rows_max : ffn->gemm->few_rows_max;
    bool few = args->executor == WITAN_EXECUTOR_MASKED;

    if (args->executor == WITAN_EXECUTOR_AUTO) {
        few = args->row_count <= threshold * ffn->spec.expert_count;
    }
    args->executor_taken = few ? WITAN_EXECUTOR_MASKED : WITAN_EXECUTOR_CONTIGUOUS;
    return few;
}

/* Fill row_begin, the row counts and the sorted lists of `run`, and pad the rows if they must be.
 */
static witan_status_t sort_rows(const wtn_ffn_t *ffn, const wtn_ffn_args_t *args, run_t *run,
                                wtn_cuda_gemm_args_t *up, wtn_cuda_gemm_args_t *down)
{
    const wtn_cuda_ffn_shape_t *s = &ffn->shape;
    witan_status_t              status;

    up->a_index            = args->row_in;
    down->out_index        = args->row_out;
    run->sort.row_expert   = args->row_expert;
    run->sort.row_count    = args->row_count;
    run->sort.expert_count = ffn->spec.expert_count;
    run->sort.row_in       = args->row_in;
    run->sort.row_out      = args->row_out;
    run->sort.row_counts   = args->expert_row_counts;
    run->sort.stream       = args->stream;
    if (args->row_expert == NULL) {
        WTN_TRY(wtn_cuda_first_expert(&run->sort));
    } else {
        WTN_TRY(wtn_cuda_sort(&run->sort));
        up->a_index     = run->sort.sorted_in;
        down->out_index = run->sort.sorted_out;
    }
    if (s->Hp != s->H) {
        const wtn_cuda_pad_args_t pad = {.x         = args->x,
                                         .index     = up->a_index,
                                         .row_count = run->sort.row_begin + ffn->spec.expert_count,
                                         .row_count_max = args->row_count,
                                         .from_bytes    = (size_t)s->H * s->element,
                                         .to_bytes      = (size_t)s->Hp * s->element,
                                         .out           = run->x,
                                         .sm_reserved   = args->sm_reserved,
                                         .stream        = args->stream};

        WTN_TRY(wtn_cuda_pad_rows(&pad));
        up->a       = run->x;
        up->a_index = NULL;
    }

fail:
    return status;
}

/* Both products; the executors that keep the row counts on the host do so from up to down. */
static witan_status_t multiply(const wtn_ffn_t *ffn, const wtn_cuda_gemm_args_t *up,
                               const wtn_cuda_gemm_args_t *down)
{
    pthread_mutex_t *mutex = (pthread_mutex_t *)(uintptr_t)&ffn->mutex;
    witan_status_t   status;

    if (ffn->gemm->pair != NULL && ffn->gemm->takes_pair(ffn->state, up)) {
        wtn_cuda_range_push("witan up, down");
        status = ffn->gemm->pair(ffn->state, up, down);
        wtn_cuda_range_pop();
        return status;
    }
    if (ffn->gemm->waits) {
        (void)pthread_mutex_lock(mutex);
    }
    wtn_cuda_range_push("witan up");
    status = ffn->gemm->up(ffn->state, up);
    wtn_cuda_range_pop();
    wtn_cuda_range_push("witan down");
    status = status != WITAN_OK ? status : ffn->gemm->down(ffn->state, down);
    wtn_cuda_range_pop();
    if (ffn->gemm->waits) {
        (void)pthread_mutex_unlock(mutex);
    }
    return status;
}

static witan_status_t run_rows(const wtn_ffn_t *ffn, const wtn_ffn_args_t *args, run_t *run,
                               bool few_rows)
{
    const wtn_cuda_ffn_shape_t *s    = &ffn->shape;
    wtn_cuda_gemm_args_t        up   = {.weights       = &s->up,
                                        .a             = args->x,
                                        .a_stride      = s->Hp,
                                        .row_begin     = run->sort.row_begin,
                                        .row_count_max = args->row_count,
                                        .few_rows      = few_rows,
                                        .activation    = &ffn->spec.activation,
                                        .out           = run->h,
                                        .out_stride    = s->Ip,
                                        .column_count  = s->I,
                                        .workspace     = run->gemm,
                                        .counters      = run->sort.counters,
                                        .sm_reserved   = args->sm_reserved,
                                        .stream        = args->stream,
                                        .poll          = args->poll,
                                        .poll_context  = args->poll_context};
    wtn_cuda_gemm_args_t        down = up;
    witan_status_t              status;

    down.weights      = &s->down;
    down.a            = run->h;
    down.a_stride     = s->Ip;
    down.activation   = NULL;
    down.out          = args->out;
    down.out_stride   = s->H;
    down.column_count = s->H;
    WTN_TRY(sort_rows(ffn, args, run, &up, &down));
    WTN_TRY(multiply(ffn, &up, &down));

fail:
    return status;
}

witan_status_t wtn_cuda_ffn_run(const wtn_ffn_t *ffn, wtn_ffn_args_t *args)
{
    const size_t   experts  = (size_t)ffn->spec.expert_count;
    const bool     few_rows = choose_few_rows(ffn, args);
    run_t          run      = {0};
    witan_status_t status   = WITAN_OK;

    if (args->row_count < 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "experts: %" PRId64 " rows", args->row_count);
    }
    if (args->row_count == 0 || experts == 0) {
        if (args->expert_row_counts != NULL && experts > 0) {
            status = wtn_cuda_status((int)cudaMemsetAsync(args->expert_row_counts, 0,
                                                          experts * sizeof(int64_t),
                                                          (cudaStream_t)args->stream),
                                     "experts: row counts");
        }
        return status;
    }
    WTN_TRY(check_call(ffn, args,
                       carve(&run, args->workspace, &ffn->spec, &ffn->shape, args->row_count)));
    wtn_cuda_range_push("witan experts");
    status = run_rows(ffn, args, &run, few_rows);
    wtn_cuda_range_pop();

fail:
    return status;
}

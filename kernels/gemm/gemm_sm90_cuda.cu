/* Grouped GEMM for Hopper (sm_90a): a persistent kernel for up and one for down, each of its own
 * for rows that are gathered and for rows side by side; or one for both products where rows are few
 * (gemm_sm90_pair.cuh).
 *
 * A block is a warpgroup that brings tiles of A and B into a ring of stages and one or two that
 * multiply. B, the weights, comes by the tensor copy engine out of one map of all experts; A too
 * where its rows lie side by side, else by 16-byte copies of rows found by index. One of
 * the loading warps takes tiles by ticket and tells them to the block's others; of two blocks that
 * share weights the first passes the number on. A stage has barriers: full, told by the bytes and
 * copies that arrive, and empty, told by the multiplying warps of all blocks that share it.
 *
 * Tiles past an expert's last row hold rows of the next expert or none at all: their sums are
 * computed and dropped, as no row's sum depends on another row. */
#include <stdlib.h>

#include <cuda.h>

#include "core/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/gemm/gemm_cuda.h"
#include "kernels/gemm/gemm_sm90_across.cuh"
#include "kernels/gemm/gemm_sm90_pair.cuh"

#if WTN_HAS_SM90A

WTN_DEVICE uint32_t form_releases(uint32_t kind)
{
    switch (kind) {
#define FORM_CASE(name, text, rows, columns, atoms, stages, pair, turns, across) \
    case FORM_##name:                                                            \
        return pair * 4;
        WTN_FORM_LIST(FORM_CASE)
#undef FORM_CASE
    default:
        return 0;
    }
}

/* Up knows nothing before its row counts. Those of down were there before up began, as the weights
 * were, and its tickets were cleared: only who reads h or writes waits for the end of up (here,
 * load_rows_of_tiles, gather_tiles), while tiles are found and weights brought. */
template <bool up> WTN_DEVICE void wait_before_survey(void)
{
    if (up) {
        wtn_grid_wait();
        wtn_grid_release();
    }
}
template <bool up> WTN_DEVICE void wait_after_survey(void)
{
    if (!up && wtn_warp() > 1 && wtn_warp() != FINDING_WARP) {
        wtn_grid_wait();
        wtn_grid_release();
    }
}

/* Whether it is one of this kernel's. */
template <bool gathers> WTN_DEVICE constexpr bool form_known(uint32_t kind)
{
    switch (kind) {
#define FORM_CASE(name, text, ...) case FORM_##name:
        WTN_FORM_GATHERED_LIST(FORM_CASE)
        return gathers;
        WTN_FORM_BESIDE_LIST(FORM_CASE)
        return !gathers;
        WTN_FORM_BOTH_LIST(FORM_CASE)
        return true;
#undef FORM_CASE
    default:
        return false;
    }
}

#define FULL_GATHERERS (LOADING_WARPS - 1)

/* Registers of a thread that loads and of one that multiplies: LONG holds 192 sums. */
#define LOADING_REGISTERS     56
#define MULTIPLYING_REGISTERS 224

/* What the block is launched with: it gets no more. */
static_assert(LOADING_REGISTERS * LOADING_WARPS + MULTIPLYING_REGISTERS * 8 <=
                  168 * (LOADING_WARPS + 8),
              "");

#endif

template <bool bf16, bool up, bool gathers>
WTN_KERNEL_CLUSTER(FULL_THREADS, 1, WTN_FORM_CLUSTER)
full_kernel(WTN_PARAMS(gemm_params_t, p))
{
#if WTN_HAS_SM90A
    constexpr uint32_t gatherers = gathers ? FULL_GATHERERS : 0;

    char    *memory = wtn_shared();
    uint32_t kind   = p.forced;
    survey_t survey;

    wait_before_survey<up>();
    survey = survey_take(p.row_begin, p.expert_count, (uint32_t *)(memory + TURN_AT));
    if (!form_known<gathers>(kind)) {
        kind = full_choose<gathers>(survey, p.N, p.few_rows);
    }
    init_taking(wtn_shared_address(memory));
    init_barriers(wtn_shared_address(memory), gatherers, form_releases(kind));
    wtn_sync_cluster();
    wait_after_survey<up>();
    if (wtn_warp() < LOADING_WARPS) {
        wtn_registers_lower<LOADING_REGISTERS>();
        switch (kind) {
#define FORM_CASE(name, text, ...)                                 \
    case FORM_##name:                                              \
        if constexpr (form_known<gathers>(FORM_##name)) {          \
            load<form<__VA_ARGS__, gatherers>>(p, survey, memory); \
        }                                                          \
        break;
            WTN_FORM_FULL_LIST(FORM_CASE)
#undef FORM_CASE
        default:
            break;
        }
    } else {
        wtn_registers_raise<MULTIPLYING_REGISTERS>();
        switch (kind) {
#define FORM_CASE(name, text, ...)                                             \
    case FORM_##name:                                                          \
        if constexpr (form_known<gathers>(FORM_##name)) {                      \
            multiply_tiles<bf16, up, form<__VA_ARGS__, gatherers>>(p, memory); \
        }                                                                      \
        break;
            WTN_FORM_FULL_LIST(FORM_CASE)
#undef FORM_CASE
        default:
            break;
        }
    }
    wtn_sync_cluster(); /* the other block's arrivals and weights come here until its end */
#else
    (void)p; /* for other devices there are other executors */
#endif
}

/* ---- host ---- */

typedef CUresult (*encode_t)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                             const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                             const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                             CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

typedef struct matrix_maps {
    wtn_tensor_map_t narrow, slim;
} matrix_maps_t;

typedef struct sm90_state {
    encode_t      encode;
    matrix_maps_t up, down;
} sm90_state_t;

/* A map of `rows` rows of `columns` 16-bit numbers, `stride` bytes apart, read in boxes of ATOM
 * columns and box_rows rows. The L2 cache is asked for no more than that: of weights evicted first
 * the rest would be gone before its turn came. */
static witan_status_t encode_map(encode_t encode, wtn_tensor_map_t *map, witan_dtype_t dtype,
                                 const void *base, int64_t rows, int64_t columns, int64_t stride,
                                 uint32_t box_rows)
{
    const cuuint64_t sizes[2]   = {(cuuint64_t)columns, (cuuint64_t)rows};
    const cuuint64_t strides[1] = {(cuuint64_t)stride};
    const cuuint32_t box[2]     = {ATOM, box_rows};
    const cuuint32_t steps[2]   = {1, 1};
    CUresult         code;

    code = encode((CUtensorMap *)map,
                  dtype == WITAN_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                      : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                  2, (void *)base, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (code != CUDA_SUCCESS) {
        return WTN_ERROR(WITAN_E_INTERNAL,
                         "cuTensorMapEncodeTiled: code %d for %lld rows of %lld numbers", (int)code,
                         (long long)rows, (long long)columns);
    }
    return WITAN_OK;
}

static witan_status_t encode_weights(encode_t encode, matrix_maps_t *maps,
                                     const wtn_cuda_weights_t *w)
{
    int64_t        rows = (int64_t)w->expert_count * w->N;
    witan_status_t status;

    if (w->dtype != WITAN_BF16 && w->dtype != WITAN_F16) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "sm_90a: bf16 and f16 weights only");
    }
    if (rows > INT32_MAX || w->K > INT32_MAX) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "sm_90a: %lld rows of weights, at most %d",
                         (long long)rows, INT32_MAX);
    }
    WTN_TRY(encode_map(encode, &maps->narrow, w->dtype, w->w, rows, w->K, w->K * 2, NARROW));
    WTN_TRY(encode_map(encode, &maps->slim, w->dtype, w->w, rows, w->K, w->K * 2, SLIM));
fail:
    return status;
}

static void sm90_release(void *state)
{
    free(state);
}

static witan_status_t sm90_prepare(void **out, const wtn_cuda_weights_t *up,
                                   const wtn_cuda_weights_t *down)
{
    cudaDriverEntryPointQueryResult found;
    sm90_state_t                   *state;
    witan_status_t                  status;
    void                           *encode = NULL;

    *out  = NULL;
    state = (sm90_state_t *)aligned_alloc(64, (sizeof(*state) + 63) / 64 * 64);
    if (state == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "sm_90a: %zu bytes", sizeof(*state));
    }
    WTN_CUDA_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000,
                                                  cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess) {
        status = WTN_ERROR(WITAN_E_UNSUPPORTED, "the driver has no cuTensorMapEncodeTiled");
        goto fail;
    }
    state->encode = (encode_t)encode;
    WTN_TRY(encode_weights(state->encode, &state->up, up));
    WTN_TRY(encode_weights(state->encode, &state->down, down));
    *out = state;
    return WITAN_OK;

fail:
    sm90_release(state);
    return status;
}

static uint32_t form_forced = FORM_COUNT; /* for measurements only */

/* All but the maps of A. */
static gemm_params_t params_of(const sm90_state_t *state, const wtn_cuda_gemm_args_t *args)
{
    const wtn_cuda_weights_t *w    = args->weights;
    bool                      up   = args->activation != NULL;
    const matrix_maps_t      *maps = up ? &state->up : &state->down;
    gemm_params_t             p    = {};

    p.w_narrow     = maps->narrow;
    p.w_slim       = maps->slim;
    p.a            = (const char *)args->a;
    p.a_index      = args->a_index;
    p.a_stride     = (uint32_t)(args->a_stride * 2);
    p.row_begin    = args->row_begin;
    p.tickets      = args->counters + (up ? 0 : 1);
    p.bias         = w->bias;
    p.out          = (char *)args->out;
    p.out_index    = args->out_index;
    p.out_stride   = args->out_stride * 2;
    p.expert_count = (uint32_t)w->expert_count;
    p.N            = (uint32_t)w->N;
    p.K            = (uint32_t)w->K;
    p.out_columns  = up ? (uint32_t)args->out_stride : (uint32_t)w->N;
    p.used_columns = (uint32_t)args->column_count;
    p.few_rows     = args->few_rows;
    p.forced       = form_forced;
    p.out_aligned =
        ((uintptr_t)args->out | (uintptr_t)p.out_stride) % 16 == 0 && p.out_columns % 8 == 0;
    if (up) {
        p.activation = *args->activation;
    }
    return p;
}

/* A is read by maps where its rows lie side by side. */
static witan_status_t encode_a(const sm90_state_t *state, const wtn_cuda_gemm_args_t *args,
                               gemm_params_t *p)
{
    const wtn_cuda_weights_t *w    = args->weights;
    int64_t                   rows = args->row_count_max;
    witan_status_t            status;

    p->gathers = args->a_index != NULL || rows > INT32_MAX;
    if (!p->gathers) {
        WTN_TRY(encode_map(state->encode, &p->a_many, w->dtype, args->a, rows, w->K, p->a_stride,
                           MANY_ROWS));
        WTN_TRY(encode_map(state->encode, &p->a_few, w->dtype, args->a, rows, w->K, p->a_stride,
                           FEW_ROWS));
    }
    return WITAN_OK;

fail:
    return status;
}

static uint32_t block_count(const wtn_cuda_gemm_args_t *args)
{
    int32_t count = wtn_cuda_sm_count(args->sm_reserved);

    return count > 0 ? (uint32_t)count : 1;
}

typedef void (*full_kernel_t)(gemm_params_t);

template <bool bf16> static full_kernel_t full_kernel_for(bool up, bool gathers)
{
    if (gathers) {
        return up ? full_kernel<bf16, true, true> : full_kernel<bf16, false, true>;
    }
    return up ? full_kernel<bf16, true, false> : full_kernel<bf16, false, false>;
}

static witan_status_t sm90_run(void *state, const wtn_cuda_gemm_args_t *args)
{
    bool           up     = args->activation != NULL;
    wtn_launch_t   launch = {};
    gemm_params_t  p;
    witan_status_t status;

    if (args->row_count_max == 0) {
        return WITAN_OK;
    }
    if (args->row_count_max >= UINT32_MAX) { /* NO_ROW */
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "sm_90a: %lld rows, at most %u",
                         (long long)args->row_count_max, UINT32_MAX - 1);
    }
    p = params_of((const sm90_state_t *)state, args);
    WTN_TRY(encode_a((const sm90_state_t *)state, args, &p));
    launch.name         = up ? "gemm sm_90a up" : "gemm sm_90a down";
    launch.stream       = args->stream;
    launch.blocks       = block_count(args) / WTN_FORM_CLUSTER;
    launch.blocks       = (launch.blocks > 0 ? launch.blocks : 1) * WTN_FORM_CLUSTER;
    launch.threads      = FULL_THREADS;
    launch.shared_bytes = full_bytes();
    return wtn_launch_early(&launch,
                            args->weights->dtype == WITAN_BF16
                                ? full_kernel_for<true>(up, p.gathers)
                                : full_kernel_for<false>(up, p.gathers),
                            &p);

fail:
    return status;
}

/* One kernel is faster, on an H200, where experts have up to 8 rows each on average. */
static bool sm90_takes_pair(void *state, const wtn_cuda_gemm_args_t *up)
{
    (void)state;
    if (form_forced != FORM_COUNT) {
        return form_forced >= FORM_LIGHT;
    }
    return up->row_count_max <= 8 * (int64_t)up->weights->expert_count;
}

static witan_status_t sm90_pair(void *state, const wtn_cuda_gemm_args_t *up,
                                const wtn_cuda_gemm_args_t *down)
{
    wtn_launch_t  launch = {};
    pair_params_t p;

    if (up->row_count_max == 0) {
        return WITAN_OK;
    }
    p.up                = params_of((const sm90_state_t *)state, up);
    p.down              = params_of((const sm90_state_t *)state, down);
    p.counters          = up->counters;
    p.up.tickets        = up->counters + up->weights->expert_count;
    launch.name         = "gemm sm_90a up, down";
    launch.stream       = up->stream;
    launch.blocks       = block_count(up);
    launch.threads      = PAIR_THREADS;
    launch.shared_bytes = light_bytes();
    return wtn_launch_early(
        &launch, up->weights->dtype == WITAN_BF16 ? pair_kernel<true> : pair_kernel<false>, &p);
}

extern "C" const wtn_cuda_gemm_t wtn_cuda_gemm_sm90 = {
    sm90_prepare, sm90_release, NULL, sm90_run, sm90_run, false, 64, sm90_takes_pair, sm90_pair,
};

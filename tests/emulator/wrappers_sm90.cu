#include "tests/emulator/wrappers_sm90.h"

#include <cuda.h>

#include "core/error.h"
#include "kernels/cuda/device_sm90.cuh"
#include "kernels/cuda/launch.cuh"

typedef CUresult (*encode_t)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                             const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                             const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                             CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static witan_status_t encode(wtn_tensor_map_t *map, const void *matrix, uint64_t rows,
                             uint64_t columns, uint64_t stride, uint32_t box_rows)
{
    const cuuint64_t                     dims[2]    = {columns, rows};
    const cuuint64_t                     strides[1] = {stride};
    const cuuint32_t                     box[2]     = {BOX_COLUMNS, box_rows};
    const cuuint32_t                     steps[2]   = {1, 1};
    enum cudaDriverEntryPointQueryResult found;
    void                                *function = NULL;
    cudaError_t code = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                        cudaEnableDefault, &found);

    if (code != cudaSuccess || found != cudaDriverEntryPointSuccess) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "no cuTensorMapEncodeTiled");
    }
    if (((encode_t)function)((CUtensorMap *)map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
                             const_cast<void *>(matrix), dims, strides, box, steps,
                             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_NONE,
                             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "cuTensorMapEncodeTiled refuses");
    }
    return WITAN_OK;
}

/* ---- a box ---- */

typedef struct box_params {
    wtn_tensor_map_t map;
    int32_t          x, y;
    char            *out;
} box_params_t;

WTN_KERNEL(128, 1) box_kernel(WTN_PARAMS(box_params_t, p))
{
#if WTN_HAS_SM90A
    const uint32_t bytes   = BOX_ROWS * BOX_COLUMNS * 2;
    char          *shared  = wtn_shared();
    wtn_saddr_t    barrier = wtn_shared_address(shared) + bytes;

    if (wtn_thread() == 0) {
        wtn_mbarrier_init(barrier, 1);
        wtn_mbarrier_fence_init();
        wtn_tensor_prefetch(&p.map);
    }
    wtn_sync_block();
    if (wtn_thread() == 0) {
        wtn_mbarrier_expect(barrier, bytes);
        wtn_tensor_load(wtn_shared_address(shared), &p.map, p.x, p.y, barrier);
    }
    wtn_mbarrier_wait(barrier, 0);
    for (uint32_t i = wtn_thread(); i < bytes / 16; i += wtn_thread_count()) {
        wtn_store16(p.out + 16 * i, wtn_load16(shared + 16 * i));
    }
#endif
}

extern "C" witan_status_t sm90_box(const void *matrix, uint64_t rows, uint64_t columns,
                                   uint64_t stride, int32_t x, int32_t y, void *out, void *stream)
{
    box_params_t   p      = {};
    wtn_launch_t   launch = {"box_kernel", 1, 1, 128, BOX_ROWS * BOX_COLUMNS * 2 + 8, stream};
    witan_status_t status = encode(&p.map, matrix, rows, columns, stride, BOX_ROWS);

    if (status != WITAN_OK) {
        return status;
    }
    p.x   = x;
    p.y   = y;
    p.out = (char *)out;
    return wtn_launch(&launch, box_kernel, &p);
}

/* ---- a product ---- */

typedef struct product_params {
    wtn_tensor_map_t a, b;
    const char      *a_rows;
    float           *d;
    int32_t          add, broken;
} product_params_t;

#define A_BYTES (64u * 128u)

#if WTN_HAS_SM90A

/* A by cp.async, swizzled by hand: chunk c of row r lies at c ^ (r % 8). */
WTN_DEVICE void copy_rows(const product_params_t &p, wtn_saddr_t shared)
{
    for (uint32_t i = wtn_thread(); i < 64 * 8; i += wtn_thread_count()) {
        wtn_copy16_async(shared + i / 8 * 128 + (i % 8 ^ i / 8 % 8) * 16, p.a_rows + 16 * i, 16);
    }
    wtn_copy_commit();
    wtn_copy_wait<0>();
    if (p.broken < SM90_NO_FENCE || p.broken > SM90_ONE_FENCE) {
        wtn_fence_async();
    }
}

WTN_DEVICE void break_barrier(const product_params_t &p, char *barrier)
{
    if (p.broken == SM90_TWICE) {
        wtn_mbarrier_init(wtn_shared_address(barrier), 1);
    }
    if (p.broken == SM90_WRITTEN) {
        *(volatile uint64_t *)barrier = 0;
    }
}

template <int count, bool bf16>
WTN_DEVICE void multiply(wtn_saddr_t shared, float (&d)[count], bool add)
{
    uint64_t a = wtn_wgmma_descriptor(shared), b = wtn_wgmma_descriptor(shared + A_BYTES);

    wtn_wgmma_hold(d);
    wtn_wgmma_fence();
    if (add) {
        wtn_wgmma<bf16>(d, a, b);
    } else {
        wtn_wgmma_first<bf16>(d, a, b);
    }
    for (uint32_t k = 1; k < 4; k++) {
        wtn_wgmma<bf16>(d, a + 2 * k, b + 2 * k);
    }
    wtn_wgmma_commit();
}

#endif

template <int n, bool bf16> WTN_KERNEL(128, 1) product_kernel(WTN_PARAMS(product_params_t, p))
{
#if WTN_HAS_SM90A
    char       *memory  = wtn_shared();
    wtn_saddr_t shared  = wtn_shared_address(memory);
    char       *barrier = memory + A_BYTES + n * 128;
    uint32_t    bytes   = A_BYTES + n * 128;
    uint32_t    lane = wtn_lane(), row = 16 * wtn_warp() + lane / 4;
    float       d[n / 2];

    for (uint32_t i = 0; i < n / 2; i++) {
        d[i] = p.d[(row + 8 * (i / 2 % 2)) * n + 8 * (i / 4) + 2 * (lane % 4) + i % 2];
    }
    if (wtn_thread() == 0) {
        wtn_mbarrier_init(wtn_shared_address(barrier), 1);
        break_barrier(p, barrier);
        wtn_mbarrier_fence_init();
    }
    wtn_sync_block();
    if (wtn_thread() == 0) {
        wtn_mbarrier_expect(wtn_shared_address(barrier),
                            p.broken == SM90_NO_BYTES ? bytes + 16 : bytes);
        wtn_tensor_load(shared, &p.a, 0, 0, wtn_shared_address(barrier));
        wtn_tensor_load(shared + A_BYTES, &p.b, 0, 0, wtn_shared_address(barrier));
    }
    if (p.broken == SM90_LEFT) {
        return;
    }
    wtn_mbarrier_wait(wtn_shared_address(barrier), 0);
    wtn_sync_block();
    copy_rows(p, shared); /* the same rows once more, the other way */
    wtn_sync_block();
    if (p.broken == SM90_OWN_FENCE || (p.broken == SM90_ONE_FENCE && wtn_thread() == 0)) {
        wtn_fence_async();
    }
    multiply<n / 2, bf16>(shared, d, p.add != 0);
    if (p.broken != SM90_NO_WAIT) {
        wtn_wgmma_wait<0>();
        wtn_wgmma_hold(d);
    }
    for (uint32_t i = 0; i < n / 2; i++) {
        p.d[(row + 8 * (i / 2 % 2)) * n + 8 * (i / 4) + 2 * (lane % 4) + i % 2] = d[i];
    }
    wtn_wgmma_wait<0>();
#endif
}

extern "C" witan_status_t sm90_product(const void *a, const void *b, float *d, uint32_t n,
                                       int32_t bf16, int32_t add, int32_t broken, void *stream)
{
    product_params_t p      = {};
    wtn_launch_t     launch = {"product_kernel", 1, 1, 128, A_BYTES + n * 128 + 8, stream};
    witan_status_t   status;

    p.a_rows = (const char *)a;
    p.d      = d;
    p.add    = add;
    p.broken = broken;
    WTN_TRY(encode(&p.a, a, 64, 64, 128, 64));
    WTN_TRY(encode(&p.b, b, n, 64, 128, n));
    switch (n + (bf16 != 0 ? 1 : 0)) {
    case 16:
        return wtn_launch(&launch, product_kernel<16, false>, &p);
    case 17:
        return wtn_launch(&launch, product_kernel<16, true>, &p);
    case 48:
        return wtn_launch(&launch, product_kernel<48, false>, &p);
    case 49:
        return wtn_launch(&launch, product_kernel<48, true>, &p);
    case 80:
        return wtn_launch(&launch, product_kernel<80, false>, &p);
    case 81:
        return wtn_launch(&launch, product_kernel<80, true>, &p);
    case 128:
        return wtn_launch(&launch, product_kernel<128, false>, &p);
    case 129:
        return wtn_launch(&launch, product_kernel<128, true>, &p);
    case 256:
        return wtn_launch(&launch, product_kernel<256, false>, &p);
    case 257:
        return wtn_launch(&launch, product_kernel<256, true>, &p);
    default:
        return WITAN_E_ARGUMENT;
    }

fail:
    return status;
}

/* ---- stmatrix ---- */

typedef struct stmatrix_params {
    const uint32_t *in;
    uint32_t       *out;
    bool            turned;
} stmatrix_params_t;

WTN_KERNEL(32, 1) stmatrix_kernel(WTN_PARAMS(stmatrix_params_t, p))
{
#if WTN_HAS_SM90A
    char    *shared = wtn_shared();
    uint32_t lane   = wtn_lane();

    if (p.turned) {
        wtn_store_matrix_turned(wtn_shared_address(shared) + 16 * lane, p.in[lane], p.in[32 + lane],
                                p.in[64 + lane], p.in[96 + lane]);
    } else {
        wtn_store_matrix(wtn_shared_address(shared) + 16 * lane, p.in[lane], p.in[32 + lane],
                         p.in[64 + lane], p.in[96 + lane]);
    }
    wtn_sync_warp();
    wtn_store16(p.out + 4 * lane, wtn_load16(shared + 16 * lane));
#endif
}

extern "C" witan_status_t sm90_stmatrix(const uint32_t *in, uint32_t *out, bool turned,
                                        void *stream)
{
    stmatrix_params_t p      = {in, out, turned};
    wtn_launch_t      launch = {"stmatrix_kernel", 1, 1, 32, 512, stream};

    return wtn_launch(&launch, stmatrix_kernel, &p);
}

/* ---- a ring of stages between two warpgroups ---- */

typedef struct ring_params {
    const uint32_t *in;
    uint64_t       *out;
    uint32_t        count, stages;
} ring_params_t;

#define PIECE 64u /* words of a stage, 16 copies */

#if WTN_HAS_SM90A

/* Warp 0 copies; its lanes' copies arrive by themselves. */
WTN_DEVICE void ring_load(const ring_params_t &p, wtn_saddr_t stages, wtn_saddr_t barriers)
{
    uint32_t stage = 0, parity = 1;

    for (uint32_t piece = 0; piece < p.count / PIECE; piece++) {
        wtn_saddr_t full = barriers + 16 * stage, empty = full + 8;

        while (!wtn_mbarrier_test(empty, parity)) {
        }
        if (wtn_lane() < 16) {
            wtn_copy16_async(stages + PIECE * 4 * stage + 16 * wtn_lane(),
                             p.in + PIECE * piece + 4 * wtn_lane(), 16);
        }
        wtn_mbarrier_arrive_copies(full);
        stage  = stage + 1 == p.stages ? 0 : stage + 1;
        parity = stage == 0 ? parity ^ 1 : parity;
    }
    wtn_copy_wait<0>();
}

WTN_DEVICE uint64_t ring_add(const ring_params_t &p, const char *stages, wtn_saddr_t barriers)
{
    uint32_t stage = 0, parity = 0;
    uint64_t sum = 0;

    for (uint32_t piece = 0; piece < p.count / PIECE; piece++) {
        wtn_saddr_t full = barriers + 16 * stage, empty = full + 8;

        wtn_mbarrier_wait(full, parity);
        for (uint32_t i = 0; i < PIECE; i++) {
            sum += ((const volatile uint32_t *)(stages + PIECE * 4 * stage))[i];
        }
        wtn_mbarrier_arrive(empty);
        stage  = stage + 1 == p.stages ? 0 : stage + 1;
        parity = stage == 0 ? parity ^ 1 : parity;
    }
    return sum;
}

#endif

WTN_KERNEL(384, 1) ring_kernel(WTN_PARAMS(ring_params_t, p))
{
#if WTN_HAS_SM90A
    char       *memory   = wtn_shared();
    wtn_saddr_t barriers = wtn_shared_address(memory) + PIECE * 4 * p.stages;

    if (wtn_thread() == 0) {
        for (uint32_t i = 0; i < p.stages; i++) {
            wtn_mbarrier_init(barriers + 16 * i, 32);
            wtn_mbarrier_init(barriers + 16 * i + 8, 128);
        }
        wtn_mbarrier_fence_init();
    }
    wtn_sync_block();
    if (wtn_warp() < 4) {
        wtn_registers_lower<40>();
        if (wtn_warp() == 0) {
            ring_load(p, wtn_shared_address(memory), barriers);
        }
    } else {
        wtn_registers_raise<232>();
        uint64_t sum = wtn_warp() < 8 ? ring_add(p, memory, barriers) : 0;

        if (wtn_thread() == 128) {
            p.out[0] = sum;
        }
        if (wtn_warp() == 4) {
            uint32_t elected = wtn_count_bits(wtn_ballot(wtn_elect()));

            if (wtn_lane() == 0) {
                p.out[1] = elected;
            }
        }
    }
#endif
}

extern "C" witan_status_t sm90_ring(const uint32_t *in, uint64_t *out, uint32_t count,
                                    uint32_t stages, void *stream)
{
    ring_params_t p      = {in, out, count, stages};
    wtn_launch_t  launch = {"ring_kernel", 1, 1, 384, stages * (PIECE * 4 + 16), stream};

    return wtn_launch(&launch, ring_kernel, &p);
}

/* ---- words for another block of the cluster ---- */

typedef struct pass_params {
    const uint32_t *in;
    uint32_t       *out, count;
} pass_params_t;

#ifdef WTN_EMULATOR /* has clusters of one block */
#define PASS_CLUSTER 1
#else
#define PASS_CLUSTER 2
#endif

/* Warp 0 of the first block passes all words through two places, warp 1 of the last takes them. */
WTN_KERNEL_CLUSTER(64, 1, PASS_CLUSTER) pass_kernel(WTN_PARAMS(pass_params_t, p))
{
#if WTN_HAS_SM90A
    volatile uint32_t *words  = (volatile uint32_t *)wtn_shared();
    wtn_saddr_t        shared = wtn_shared_address(wtn_shared());
    bool               passes = wtn_warp() == 0 && wtn_cluster_rank() == 0;
    bool               takes  = wtn_warp() == 1 && wtn_cluster_rank() == PASS_CLUSTER - 1;

    if (wtn_thread() == 0) {
        for (uint32_t i = 0; i < 4; i++) {
            wtn_mbarrier_init(shared + 8 + 8 * i, 1);
        }
        wtn_mbarrier_fence_init();
    }
    wtn_sync_cluster();
    for (uint32_t i = 0; i < p.count && (passes || takes); i++) {
        uint32_t    place = i % 2, parity = i / 2 % 2;
        wtn_saddr_t passed = shared + 8 + 16 * place, taken = passed + 8;

        if (passes) {
            wtn_mbarrier_wait(taken, parity ^ 1);
            if (wtn_elect()) {
                wtn_store_cluster(shared + 4 * place, p.in[i], passed, PASS_CLUSTER - 1);
            }
        } else {
            if (wtn_elect()) {
                wtn_mbarrier_expect(passed, 4);
            }
            wtn_sync_warp();
            wtn_mbarrier_wait(passed, parity);
            if (wtn_lane() == 0) {
                p.out[i] = words[place];
            }
            wtn_sync_warp();
            if (wtn_elect()) {
                wtn_mbarrier_arrive_cluster(taken, 0);
            }
        }
        wtn_sync_warp();
    }
    wtn_sync_cluster(); /* what comes last finds the block still there */
#endif
}

extern "C" witan_status_t sm90_pass(const uint32_t *in, uint32_t *out, uint32_t count, void *stream)
{
    pass_params_t p      = {in, out, count};
    wtn_launch_t  launch = {"pass_kernel", PASS_CLUSTER, 1, 64, 8 + 4 * 8, stream};

    return wtn_launch(&launch, pass_kernel, &p);
}

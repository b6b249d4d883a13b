/* The wrappers of device.cuh that only Hopper has (sm_90a): barriers in shared memory that count
 * bytes, the tensor copy engine, matrix products by warpgroups, registers moved between warpgroups.
 * Named in each comment as in the PTX ISA manual 9.0.
 *
 * Shared memory written by ordinary stores or by cp.async belongs to the generic proxy; the copy
 * engine and the matrix units read it through the async proxy. wtn_fence_async stands between. */
#ifndef WTN_DEVICE_SM90_CUH
#define WTN_DEVICE_SM90_CUH

#include "kernels/cuda/device.cuh"

/* True where the bodies below exist. */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WTN_HAS_SM90A 1
#elif defined(WTN_EMULATOR) && __has_include("tests/emulator/device_emulator_sm90.h")
#define WTN_HAS_SM90A 1
#else
#define WTN_HAS_SM90A 0
#endif

/* As WTN_KERNEL; `cluster` blocks that follow each other make one. */
#if defined(WTN_EMULATOR) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900)
#define WTN_KERNEL_CLUSTER(threads, blocks, cluster) WTN_KERNEL(threads, blocks)
#else
#define WTN_KERNEL_CLUSTER(threads, blocks, cluster) \
    static __global__ void __cluster_dims__(cluster, 1, 1) __launch_bounds__(threads, blocks)
#endif

#if defined(WTN_EMULATOR) && WTN_HAS_SM90A
#include "tests/emulator/device_emulator_sm90.h"
#elif WTN_HAS_SM90A

/* elect.sync: true in one lane of the warp's 32, known to be one by the compiler */
WTN_DEVICE bool wtn_elect(void)
{
    uint32_t elected;

    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "elect.sync _|p, 0xffffffff;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(elected));
    return elected != 0;
}

/* ---- mbarriers: 8 bytes of shared memory, aligned to 8 ---- */

/* mbarrier.init.shared::cta.b64: a phase ends after `count` arrivals and all bytes expected */
WTN_DEVICE void wtn_mbarrier_init(wtn_saddr_t barrier, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
/* fence.mbarrier_init.release.cluster: inits are seen by the copy engine and the cluster */
WTN_DEVICE void wtn_mbarrier_fence_init(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
WTN_DEVICE void wtn_mbarrier_arrive(wtn_saddr_t barrier) /* mbarrier.arrive.shared::cta.b64 */
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/* mbarrier.arrive.shared::cluster.b64 at the same address in block `rank` of the cluster (mapa).
 * Orders only what this block's barriers order: with .release.cluster each arrival would wait for
 * all of the thread's writes to reach the whole GPU. */
WTN_DEVICE void wtn_mbarrier_arrive_cluster(wtn_saddr_t barrier, uint32_t rank)
{
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
                 "}" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}
/* mbarrier.arrive.expect_tx: one arrival, and the phase waits for `bytes` more of copies */
WTN_DEVICE void wtn_mbarrier_expect(wtn_saddr_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}
/* cp.async.mbarrier.arrive.noinc: one arrival once this thread's cp.async so far are done; counted
 * in the barrier's `count` */
WTN_DEVICE void wtn_mbarrier_arrive_copies(wtn_saddr_t barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
/* mbarrier.try_wait.parity: has the phase of this parity ended? May sleep a little first. */
WTN_DEVICE bool wtn_mbarrier_try(wtn_saddr_t barrier, uint32_t parity)
{
    uint32_t done;

    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return done != 0;
}
WTN_DEVICE bool wtn_mbarrier_test(wtn_saddr_t barrier, uint32_t parity) /* mbarrier.test_wait */
{
    uint32_t done;

    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return done != 0;
}
/* Parity 1 of a fresh barrier counts as ended. */
WTN_DEVICE void wtn_mbarrier_wait(wtn_saddr_t barrier, uint32_t parity)
{
    while (!wtn_mbarrier_try(barrier, parity)) {
    }
}

/* fence.proxy.async.shared::cta: this thread's (or, after a barrier, its peers') ordinary writes to
 * shared memory before what the copy engine and the matrix units do next */
WTN_DEVICE void wtn_fence_async(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- the tensor copy engine; x counts along the fast dimension, outside are zeros ---- */

WTN_DEVICE void wtn_tensor_prefetch(const wtn_tensor_map_t *map) /* prefetch.tensormap */
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
/* cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes */
WTN_DEVICE void wtn_tensor_load(wtn_saddr_t to, const wtn_tensor_map_t *map, int32_t x, int32_t y,
                                wtn_saddr_t barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(barrier)
                 : "memory");
}
/* The same with .L2::cache_hint, evict_first: for what is read once. Its place in the L2 cache goes
 * before that of anything else. */
WTN_DEVICE void wtn_tensor_load_once(wtn_saddr_t to, const wtn_tensor_map_t *map, int32_t x,
                                     int32_t y, wtn_saddr_t barrier)
{
    uint64_t policy;

    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(barrier), "l"(policy)
                 : "memory");
}
/* The same with .multicast::cluster: to the same address in every block whose bit is set in
 * `blocks`, each one's barrier told */
WTN_DEVICE void wtn_tensor_load_multicast(wtn_saddr_t to, const wtn_tensor_map_t *map, int32_t x,
                                          int32_t y, wtn_saddr_t barrier, uint16_t blocks)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(blocks)
                 : "memory");
}

/* cp.async.bulk.global.shared::cta.bulk_group: `bytes`, a multiple of 16, between addresses aligned
 * to 16, in this thread's current group */
WTN_DEVICE void wtn_bulk_store(void *to, wtn_saddr_t from, uint32_t bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from),
                 "r"(bytes)
                 : "memory");
}
WTN_DEVICE void wtn_bulk_commit(void) /* cp.async.bulk.commit_group */
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/* cp.async.bulk.wait_group.read 0: this thread's bulk stores have read their shared memory */
WTN_DEVICE void wtn_bulk_wait_read(void)
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* ---- clusters ---- */

WTN_DEVICE uint32_t wtn_cluster_rank(void) /* %cluster_ctarank */
{
    uint32_t rank;

    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
WTN_DEVICE void wtn_sync_cluster(void) /* barrier.cluster.arrive.release, wait.acquire */
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 to the same address in block `rank` of
 * the cluster, whose barrier is told of 4 bytes (mapa). */
WTN_DEVICE void wtn_store_cluster(wtn_saddr_t to, uint32_t value, wtn_saddr_t barrier,
                                  uint32_t rank)
{
    asm volatile("{\n"
                 ".reg .b32 there, told;\n"
                 "mapa.shared::cluster.u32 there, %0, %3;\n"
                 "mapa.shared::cluster.u32 told, %2, %3;\n"
                 "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [there], %1, [told];\n"
                 "}" ::"r"(to),
                 "r"(value), "r"(barrier), "r"(rank)
                 : "memory");
}

/* ---- registers: called by all warps of a warpgroup; multiples of 8 ---- */

template <int count> WTN_DEVICE void wtn_registers_raise(void) /* setmaxnreg.inc */
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count> WTN_DEVICE void wtn_registers_lower(void) /* setmaxnreg.dec */
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

/* ---- 8x8 matrices of 16-bit numbers from registers to shared memory ---- */

/* stmatrix.sync.aligned.m8n8.x4.shared.b16; lane l gives the row address of matrix l/8, row l%8 */
WTN_DEVICE void wtn_store_matrix(wtn_saddr_t row, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}
/* The same with .trans: what would be column c of a matrix's row r is column r of row c. */
WTN_DEVICE void wtn_store_matrix_turned(wtn_saddr_t row, uint32_t a, uint32_t b, uint32_t c,
                                        uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     row),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}

/* ---- matrix products by a warpgroup ---- */

WTN_DEVICE void wtn_wgmma_fence(void) /* wgmma.fence: registers written before are ready */
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
WTN_DEVICE void wtn_wgmma_commit(void) /* wgmma.commit_group */
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int pending> WTN_DEVICE void wtn_wgmma_wait(void) /* wgmma.wait_group */
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
/* Keeps the compiler from moving uses of an accumulator over a wait; no instruction. */
template <int count> WTN_DEVICE void wtn_wgmma_hold(float (&d)[count])
{
#pragma unroll
    for (int i = 0; i < count; i++) {
        asm volatile("" : "+f"(d[i])::"memory");
    }
}

#endif

#if WTN_HAS_SM90A
/* Matrix descriptor (PTX ISA, "Matrix Descriptor Format") of rows of 64 16-bit numbers, 128 bytes,
 * K-major, 128-byte swizzle: 8 rows make an atom of 1024 bytes, atoms follow each other; 16-byte
 * chunk c of row r lies at chunk c ^ (r % 8). `tile` is aligned to 1024 bytes, plus 32 bytes for
 * each step of 16 columns. */
WTN_DEVICE uint64_t wtn_wgmma_descriptor(wtn_saddr_t tile)
{
    return (uint64_t)((tile & 0x3ffffu) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}
#endif

#if WTN_HAS_SM90A && !defined(WTN_EMULATOR)
#include "kernels/cuda/wgmma_sm90.cuh"
#endif

#endif

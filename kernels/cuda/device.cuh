/* The thin layer between kernels and hardware: kernel bodies reach threads, barriers, shuffles,
 * copies and matrix units through these functions only.
 *
 * For the GPU they are inline PTX, named in each comment as in the PTX ISA manual 9.0. For tests
 * without a GPU, WTN_EMULATOR gives the same functions a meaning on the CPU
 * (tests/emulator/device_emulator.h).
 *
 * Shared memory is dynamic only (wtn_shared) and addressed by 32-bit numbers (wtn_saddr_t) where an
 * instruction wants them. Every kernel takes one struct of parameters by value. */
#ifndef WTN_DEVICE_CUH
#define WTN_DEVICE_CUH

#include <stdint.h>

#include <cuda_runtime.h>

typedef uint32_t wtn_saddr_t; /* an address in the block's shared memory */

typedef struct __align__(16) wtn_vec16
{
    uint32_t x, y, z, w;
}
wtn_vec16_t;

typedef struct __align__(128) wtn_tensor_map
{ /* what cuTensorMapEncodeTiled makes */
    uint64_t opaque[16];
}
wtn_tensor_map_t;

#ifdef WTN_EMULATOR
#include "tests/emulator/device_emulator.h"
#else

#define WTN_DEVICE                  static __device__ __forceinline__
/* At most `threads` per block, at least `blocks` blocks per SM. */
#define WTN_KERNEL(threads, blocks) static __global__ void __launch_bounds__(threads, blocks)
#define WTN_PARAMS(type, name)      const __grid_constant__ type name

/* ---- where am I ---- */

WTN_DEVICE uint32_t wtn_thread(void)
{
    return threadIdx.x;
}
WTN_DEVICE uint32_t wtn_thread_count(void)
{
    return blockDim.x;
}
WTN_DEVICE uint32_t wtn_block(void)
{
    return blockIdx.x;
}
WTN_DEVICE uint32_t wtn_block_count(void)
{
    return gridDim.x;
}
WTN_DEVICE uint32_t wtn_block_y(void)
{
    return blockIdx.y;
}
WTN_DEVICE uint32_t wtn_lane(void)
{
    return threadIdx.x & 31u;
}
/* Equal over the warp, and known to be so by the compiler. All 32 lanes take part. */
WTN_DEVICE uint32_t wtn_warp(void)
{
    return __shfl_sync(0xffffffffu, threadIdx.x >> 5, 0);
}

/* ---- shared memory: the block's dynamic part, aligned to 1024 bytes ---- */

WTN_DEVICE char *wtn_shared(void)
{
    extern __shared__ __align__(1024) char wtn_shared_memory[];

    return wtn_shared_memory;
}
WTN_DEVICE wtn_saddr_t wtn_shared_address(const void *shared)
{
    return (wtn_saddr_t)__cvta_generic_to_shared(shared);
}

/* ---- barriers, shuffles, votes ---- */

WTN_DEVICE void wtn_sync_block(void) /* bar.sync 0 */
{
    __syncthreads();
}
WTN_DEVICE void wtn_sync_warp(void) /* bar.warp.sync */
{
    __syncwarp();
}
/* bar.sync id, threads: id 1..15 */
WTN_DEVICE void wtn_sync_named(uint32_t id, uint32_t threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
WTN_DEVICE void wtn_arrive_named(uint32_t id, uint32_t threads) /* bar.arrive */
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
/* All 32 lanes take part in these. */
WTN_DEVICE uint32_t wtn_shuffle(uint32_t value, uint32_t lane) /* shfl.sync.idx */
{
    return __shfl_sync(0xffffffffu, value, lane);
}
WTN_DEVICE uint32_t wtn_shuffle_up(uint32_t value, uint32_t by) /* low lanes keep theirs */
{
    return __shfl_up_sync(0xffffffffu, value, by);
}
WTN_DEVICE uint32_t wtn_shuffle_xor(uint32_t value, uint32_t mask)
{
    return __shfl_xor_sync(0xffffffffu, value, mask);
}
WTN_DEVICE uint32_t wtn_ballot(bool flag) /* vote.sync.ballot */
{
    return __ballot_sync(0xffffffffu, flag);
}
WTN_DEVICE uint32_t wtn_match_any(uint32_t value) /* match.any.sync: lanes with an equal value */
{
    return __match_any_sync(0xffffffffu, value);
}

WTN_DEVICE uint32_t wtn_warp_max(uint32_t value) /* redux.sync.max.u32 */
{
    return __reduce_max_sync(0xffffffffu, value);
}
WTN_DEVICE uint32_t wtn_warp_min(uint32_t value) /* redux.sync.min.u32 */
{
    return __reduce_min_sync(0xffffffffu, value);
}
WTN_DEVICE uint32_t wtn_warp_sum(uint32_t value) /* redux.sync.add.u32 */
{
    return __reduce_add_sync(0xffffffffu, value);
}

/* ---- numbers ---- */

WTN_DEVICE uint32_t wtn_count_bits(uint32_t value) /* popc */
{
    return (uint32_t)__popc(value);
}
WTN_DEVICE uint32_t wtn_first_bit(uint32_t value) /* index of the lowest set bit, 0 for none */
{
    return value == 0 ? 0u : (uint32_t)__ffs((int)value) - 1u;
}
WTN_DEVICE float wtn_float_from_bits(uint32_t bits)
{
    return __uint_as_float(bits);
}
WTN_DEVICE uint32_t wtn_bits_from_float(float value)
{
    return __float_as_uint(value);
}
/* Rounded as IEEE 754 says; the compiler is told not to contract (-fmad=false). */
WTN_DEVICE float wtn_fma(float a, float b, float c) /* fma.rn.f32 */
{
    return __fmaf_rn(a, b, c);
}
WTN_DEVICE float wtn_divide(float a, float b) /* div.rn.f32 */
{
    return __fdiv_rn(a, b);
}
WTN_DEVICE float wtn_sqrt(float a) /* sqrt.rn.f32 */
{
    return __fsqrt_rn(a);
}
/* Fast and not exact: about 2 units in the last place (PTX ISA, ex2.approx, rcp.approx). */
WTN_DEVICE float wtn_exp2_approx(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
WTN_DEVICE float wtn_rcp_approx(float x)
{
    float y;

    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
/* Two floats to bf16 or half, round to nearest even, lo in the low 16 bits. */
WTN_DEVICE uint32_t wtn_pack_bf16(float lo, float hi) /* cvt.rn.bf16x2.f32 */
{
    uint32_t bits;

    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(hi), "f"(lo));
    return bits;
}
WTN_DEVICE uint32_t wtn_pack_f16(float lo, float hi) /* cvt.rn.f16x2.f32 */
{
    uint32_t bits;

    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(hi), "f"(lo));
    return bits;
}
WTN_DEVICE float wtn_float_from_f16(uint16_t bits) /* cvt.f32.f16 */
{
    float value;

    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

/* ---- memory ---- */

WTN_DEVICE wtn_vec16_t wtn_load16(const void *from) /* ld.global.v4 */
{
    return *(const wtn_vec16_t *)from;
}
/* ld.global.nc.L1::no_allocate: for what this kernel reads once and nobody writes */
WTN_DEVICE wtn_vec16_t wtn_load16_stream(const void *from)
{
    wtn_vec16_t v;

    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}
/* The same if `there`, else zeros: a predicate where a branch would make later loads wait */
WTN_DEVICE wtn_vec16_t wtn_load16_stream_if(const void *from, bool there)
{
    wtn_vec16_t v;

    asm volatile("{\n\t"
                 ".reg .pred there;\n\t"
                 "setp.ne.u32 there, %5, 0;\n\t"
                 "mov.b32 %0, 0;\n\t"
                 "mov.b32 %1, 0;\n\t"
                 "mov.b32 %2, 0;\n\t"
                 "mov.b32 %3, 0;\n\t"
                 "@there ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n\t"
                 "}"
                 : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
                 : "l"(from), "r"((uint32_t)there));
    return v;
}
WTN_DEVICE void wtn_store16(void *to, wtn_vec16_t value) /* st.global.v4 */
{
    *(wtn_vec16_t *)to = value;
}
WTN_DEVICE uint32_t wtn_atomic_add(uint32_t *to,
                                   uint32_t  value) /* atom.add.u32, global or shared */
{
    return atomicAdd(to, value);
}
/* ld.relaxed.gpu.s64: as it is in memory, where the L1 cache may hold what was there before */
WTN_DEVICE int64_t wtn_load64_device(const int64_t *from)
{
    int64_t value;

    asm volatile("ld.relaxed.gpu.global.s64 %0, [%1];" : "=l"(value) : "l"(from));
    return value;
}
/* atom.relaxed.gpu.inc.u32 by one lane, which goes on until it needs the answer. Of a sum the
 * assembler makes one of the whole warp's, which it waits for at once; of inc too where it knows
 * the bound, so that is told as ~%laneid. */
WTN_DEVICE uint32_t wtn_count_device(uint32_t *to)
{
    uint32_t before;

    asm volatile("{\n\t"
                 ".reg .u32 most;\n\t"
                 "mov.u32 most, %%laneid;\n\t"
                 "not.b32 most, most;\n\t"
                 "atom.relaxed.gpu.global.inc.u32 %0, [%1], most;\n\t"
                 "}"
                 : "=r"(before)
                 : "l"(to)
                 : "memory");
    return before;
}
/* Between the blocks of a grid: what the adding thread wrote before, and what it saw others write,
 * is seen by who loads the sum afterwards. */
WTN_DEVICE uint32_t wtn_load_acquire_device(const uint32_t *from) /* ld.acquire.gpu.u32 */
{
    uint32_t value;

    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}
WTN_DEVICE void wtn_add_release_device(uint32_t *to, uint32_t value) /* red.release.gpu.add.u32 */
{
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
/* Between GPUs and with the host: .sys scope */
WTN_DEVICE uint64_t wtn_load_acquire_system(const uint64_t *from) /* ld.acquire.sys.u64 */
{
    uint64_t value;

    asm volatile("ld.acquire.sys.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
    return value;
}
WTN_DEVICE void wtn_store_release_system(uint64_t *to, uint64_t value) /* st.release.sys.u64 */
{
    asm volatile("st.release.sys.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}
WTN_DEVICE void wtn_fence_system(void) /* fence.sc.sys */
{
    __threadfence_system();
}
WTN_DEVICE void wtn_fence_device(void) /* fence.sc.gpu */
{
    __threadfence();
}
WTN_DEVICE uint64_t wtn_time_ns(void) /* mov.u64 %globaltimer */
{
    uint64_t now;

    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}
WTN_DEVICE void wtn_pause(uint32_t ns) /* nanosleep.u32 */
{
    __nanosleep(ns);
}

/* ---- copies into shared memory that complete later (sm_80) ---- */

/* cp.async.cg.shared.global 16 bytes; those from `bytes` on are zeros */
WTN_DEVICE void wtn_copy16_async(wtn_saddr_t to, const void *from, uint32_t bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}
WTN_DEVICE void wtn_copy_commit(void) /* cp.async.commit_group */
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int pending> WTN_DEVICE void wtn_copy_wait(void) /* cp.async.wait_group */
{
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* ---- matrix fragments by warps (sm_80) ---- */

/* ldmatrix.sync.aligned.m8n8.x4.shared.b16; lane l gives the row address of matrix l/8, row l%8 */
WTN_DEVICE void wtn_load_matrix(uint32_t (&out)[4], wtn_saddr_t row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(row)
                 : "memory");
}
/* mma.sync.aligned.m16n8k16.row.col.f32.{bf16,f16}: d += a * b */
template <bool bf16>
WTN_DEVICE void wtn_mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    if (bf16) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                     "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                     "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
}

/* ---- dependent launches (wtn_launch_early); before sm_90 grids follow each other anyway ---- */

WTN_DEVICE void wtn_grid_wait(void) /* griddepcontrol.wait: the grid before has ended */
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
WTN_DEVICE void wtn_grid_release(void) /* griddepcontrol.launch_dependents */
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- Hopper (sm_90): kernels/cuda/device_sm90.cuh ---- */

#endif /* WTN_EMULATOR */

/* First in a kernel launched by wtn_launch_early that has nothing to do before: the next one may
 * come to wait, too. Not where this one fills the device for long: the blocks of the next would
 * crowd on the multiprocessors that are done first. Then release at the end. */
WTN_DEVICE void wtn_grid_join(void)
{
    wtn_grid_release();
    wtn_grid_wait();
}

/* bf16 is the upper half of a float */
WTN_DEVICE float wtn_float_from_bf16(uint16_t bits)
{
    return wtn_float_from_bits((uint32_t)bits << 16);
}

#endif

/* The wrappers of kernels/cuda/device.cuh on the CPU: same names and signatures, the meaning that
 * the PTX ISA manual 9.0 gives the instructions named there.
 *
 * A thread is a fiber; it runs until a wrapper makes it wait. Operations of a warp wait for all 32
 * lanes, as the instructions' full mask says. What differs from hardware is said where it does. */
#ifndef WTN_EMULATOR_DEVICE_H
#define WTN_EMULATOR_DEVICE_H

#include <cmath>
#include <string.h>
#include <time.h>

#include "tests/emulator/block.h"
#include "tests/emulator/number.h"

#define WTN_DEVICE                  static inline __attribute__((unused))
#define WTN_KERNEL(threads, blocks) static __attribute__((unused)) void
#define WTN_PARAMS(type, name)      const type name

/* ---- where am I ---- */

WTN_DEVICE uint32_t wtn_thread(void)
{
    return emulator::self->index;
}
WTN_DEVICE uint32_t wtn_thread_count(void)
{
    return emulator::self->block->launch->threads;
}
WTN_DEVICE uint32_t wtn_block(void)
{
    return emulator::self->block->x;
}
WTN_DEVICE uint32_t wtn_block_count(void)
{
    return emulator::self->block->launch->blocks;
}
WTN_DEVICE uint32_t wtn_block_y(void)
{
    return emulator::self->block->y;
}
WTN_DEVICE uint32_t wtn_lane(void)
{
    return emulator::self->index % 32;
}

/* ---- shared memory ---- */

WTN_DEVICE char *wtn_shared(void)
{
    return emulator::self->block->shared;
}
WTN_DEVICE wtn_saddr_t wtn_shared_address(const void *shared)
{
    return (wtn_saddr_t)((const char *)shared - emulator::self->block->shared) +
           emulator::SHARED_ADDRESS;
}

/* ---- barriers: PTX ISA, "Parallel Synchronization and Communication Instructions: bar" ----
 * Stricter than hardware: all threads of the block must come, those that returned count as
 * missing. */

WTN_DEVICE void wtn_sync_block(WTN_HERE)
{
    emulator::barrier("wtn_sync_block", here, 0, wtn_thread_count(), true);
}
WTN_DEVICE void wtn_sync_warp(WTN_HERE)
{
    emulator::meet("wtn_sync_warp", here, NULL, [](void *const *) {});
}
WTN_DEVICE void wtn_sync_named(uint32_t id, uint32_t threads, WTN_HERE)
{
    emulator::check_named("wtn_sync_named", here, id);
    emulator::barrier("wtn_sync_named", here, id, threads, true);
}
WTN_DEVICE void wtn_arrive_named(uint32_t id, uint32_t threads, WTN_HERE)
{
    emulator::check_named("wtn_arrive_named", here, id);
    emulator::barrier("wtn_arrive_named", here, id, threads, false);
}

/* ---- shuffles, votes: the same chapter, shfl.sync, vote.sync, match.sync ---- */

namespace emulator
{

struct exchange_t {
    uint32_t value, argument, result;
};

uint32_t exchange(const char *wrapper, place_t place, uint32_t value, uint32_t argument,
                  void (*act)(void *const lanes[WARP]));
void     act_shuffle(void *const lanes[WARP]);
void     act_shuffle_up(void *const lanes[WARP]);
void     act_shuffle_xor(void *const lanes[WARP]);
void     act_ballot(void *const lanes[WARP]);
void     act_match(void *const lanes[WARP]);
void     act_max(void *const lanes[WARP]);
void     act_min(void *const lanes[WARP]);
void     act_sum(void *const lanes[WARP]);

} // namespace emulator

WTN_DEVICE uint32_t wtn_shuffle(uint32_t value, uint32_t lane, WTN_HERE)
{
    return emulator::exchange("wtn_shuffle", here, value, lane, emulator::act_shuffle);
}
WTN_DEVICE uint32_t wtn_warp(WTN_HERE) /* the device shuffles: so all lanes must come here, too */
{
    return emulator::exchange("wtn_warp", here, emulator::self->index / 32, 0,
                              emulator::act_shuffle);
}
WTN_DEVICE uint32_t wtn_shuffle_up(uint32_t value, uint32_t by, WTN_HERE)
{
    return emulator::exchange("wtn_shuffle_up", here, value, by, emulator::act_shuffle_up);
}
WTN_DEVICE uint32_t wtn_shuffle_xor(uint32_t value, uint32_t mask, WTN_HERE)
{
    return emulator::exchange("wtn_shuffle_xor", here, value, mask, emulator::act_shuffle_xor);
}
WTN_DEVICE uint32_t wtn_ballot(bool flag, WTN_HERE)
{
    return emulator::exchange("wtn_ballot", here, flag, 0, emulator::act_ballot);
}
WTN_DEVICE uint32_t wtn_match_any(uint32_t value, WTN_HERE)
{
    return emulator::exchange("wtn_match_any", here, value, 0, emulator::act_match);
}
/* redux.sync: the same chapter */
WTN_DEVICE uint32_t wtn_warp_max(uint32_t value, WTN_HERE)
{
    return emulator::exchange("wtn_warp_max", here, value, 0, emulator::act_max);
}
WTN_DEVICE uint32_t wtn_warp_min(uint32_t value, WTN_HERE)
{
    return emulator::exchange("wtn_warp_min", here, value, 0, emulator::act_min);
}
WTN_DEVICE uint32_t wtn_warp_sum(uint32_t value, WTN_HERE)
{
    return emulator::exchange("wtn_warp_sum", here, value, 0, emulator::act_sum);
}

/* ---- numbers ---- */

WTN_DEVICE uint32_t wtn_count_bits(uint32_t value)
{
    return (uint32_t)__builtin_popcount(value);
}
WTN_DEVICE uint32_t wtn_first_bit(uint32_t value)
{
    return value == 0 ? 0u : (uint32_t)__builtin_ctz(value);
}
WTN_DEVICE float wtn_float_from_bits(uint32_t bits)
{
    return emulator::float_from_bits(bits);
}
WTN_DEVICE uint32_t wtn_bits_from_float(float value)
{
    return emulator::bits_from_float(value);
}
WTN_DEVICE float wtn_fma(float a, float b, float c)
{
    return fmaf(a, b, c);
}
WTN_DEVICE float wtn_divide(float a, float b)
{
    return a / b;
}
WTN_DEVICE float wtn_sqrt(float a)
{
    return sqrtf(a);
}
/* Exact but for one rounding; hardware is within 2 units in the last place. .ftz: subnormal
 * arguments and results are zeros of the same sign. */
WTN_DEVICE float wtn_flush(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}
WTN_DEVICE float wtn_exp2_approx(float x)
{
    return wtn_flush(exp2f(wtn_flush(x)));
}
WTN_DEVICE float wtn_rcp_approx(float x)
{
    return wtn_flush(1.0f / wtn_flush(x));
}
WTN_DEVICE uint32_t wtn_pack_bf16(float lo, float hi)
{
    return (uint32_t)emulator::bf16_from_float(hi) << 16 | emulator::bf16_from_float(lo);
}
WTN_DEVICE uint32_t wtn_pack_f16(float lo, float hi)
{
    return (uint32_t)emulator::f16_from_float(hi) << 16 | emulator::f16_from_float(lo);
}
WTN_DEVICE float wtn_float_from_f16(uint16_t bits)
{
    return emulator::float_from_f16(bits);
}

/* ---- memory ---- */

WTN_DEVICE wtn_vec16_t wtn_load16(const void *from, WTN_HERE)
{
    emulator::check_aligned("wtn_load16", here, from, 16);
    return *(const wtn_vec16_t *)from;
}
WTN_DEVICE wtn_vec16_t wtn_load16_stream(const void *from, WTN_HERE)
{
    emulator::check_aligned("wtn_load16_stream", here, from, 16);
    return *(const wtn_vec16_t *)from;
}
WTN_DEVICE wtn_vec16_t wtn_load16_stream_if(const void *from, bool there, WTN_HERE)
{
    if (!there) {
        return {0, 0, 0, 0};
    }
    emulator::check_aligned("wtn_load16_stream_if", here, from, 16);
    return *(const wtn_vec16_t *)from;
}
WTN_DEVICE void wtn_store16(void *to, wtn_vec16_t value, WTN_HERE)
{
    emulator::check_aligned("wtn_store16", here, to, 16);
    *(wtn_vec16_t *)to = value;
}
WTN_DEVICE uint32_t wtn_atomic_add(uint32_t *to, uint32_t value)
{
    return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
WTN_DEVICE uint32_t wtn_count_device(uint32_t *to)
{
    return __atomic_fetch_add(to, 1, __ATOMIC_RELAXED);
}
WTN_DEVICE int64_t wtn_load64_device(const int64_t *from)
{
    return __atomic_load_n(from, __ATOMIC_RELAXED);
}
/* Whoever loads in a loop waits for another: the rest of the block, then other blocks, streams and
 * the host get their turn first. */
WTN_DEVICE uint32_t wtn_load_acquire_device(const uint32_t *from, WTN_HERE)
{
    emulator::spin("wtn_load_acquire_device", here, emulator::SPINS);
    return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
WTN_DEVICE void wtn_add_release_device(uint32_t *to, uint32_t value)
{
    (void)__atomic_fetch_add(to, value, __ATOMIC_RELEASE);
}
WTN_DEVICE uint64_t wtn_load_acquire_system(const uint64_t *from, WTN_HERE)
{
    emulator::spin("wtn_load_acquire_system", here, emulator::SPINS);
    return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
WTN_DEVICE void wtn_store_release_system(uint64_t *to, uint64_t value)
{
    __atomic_store_n(to, value, __ATOMIC_RELEASE);
}
WTN_DEVICE void wtn_fence_system(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
WTN_DEVICE void wtn_fence_device(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
WTN_DEVICE uint64_t wtn_time_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
WTN_DEVICE void wtn_pause(uint32_t ns, WTN_HERE)
{
    (void)ns;
    emulator::spin("wtn_pause", here, emulator::SPINS);
}

/* ---- copies into shared memory that complete later ---- */

WTN_DEVICE void wtn_copy16_async(wtn_saddr_t to, const void *from, uint32_t bytes, WTN_HERE)
{
    emulator::copy_async(here, to, from, bytes);
}
WTN_DEVICE void wtn_copy_commit(void)
{
    emulator::copy_commit();
}
template <int pending> WTN_DEVICE void wtn_copy_wait(void)
{
    emulator::copy_wait(pending);
}

/* ---- matrix fragments: PTX ISA, "Warp Level Matrix Instructions" ---- */

namespace emulator
{

struct ldmatrix_t {
    uint32_t *out;
    uint32_t  row;
};
struct mma_t {
    float          *d;
    const uint32_t *a, *b;
};

void act_load_matrix(void *const lanes[WARP]);
void act_mma_bf16(void *const lanes[WARP]);
void act_mma_f16(void *const lanes[WARP]);

} // namespace emulator

WTN_DEVICE void wtn_load_matrix(uint32_t (&out)[4], wtn_saddr_t row, WTN_HERE)
{
    emulator::ldmatrix_t mine = {out, row};

    emulator::meet("wtn_load_matrix", here, &mine, emulator::act_load_matrix);
}
template <bool bf16>
WTN_DEVICE void wtn_mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                WTN_HERE)
{
    emulator::mma_t mine = {d, a, b};

    emulator::meet("wtn_mma_16x8x16", here, &mine,
                   bf16 ? emulator::act_mma_bf16 : emulator::act_mma_f16);
}

/* ---- dependent launches: streams run one grid after another, so the grid before has ended ---- */

WTN_DEVICE void wtn_grid_wait(void)
{
}
WTN_DEVICE void wtn_grid_release(void)
{
}

#endif

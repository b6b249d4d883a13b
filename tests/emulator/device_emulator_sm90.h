/* The wrappers of kernels/cuda/device_sm90.cuh on the CPU; see device_emulator.h. Chapters are
 * those of the PTX ISA manual 9.0. Blocks make clusters of one. */
#ifndef WTN_EMULATOR_DEVICE_SM90_H
#define WTN_EMULATOR_DEVICE_SM90_H

#include "tests/emulator/sm90.h"

namespace emulator
{

void mbarrier_init(place_t place, uint32_t barrier, uint32_t count);
void mbarrier_arrive(const char *wrapper, place_t place, uint32_t barrier, uint32_t bytes);
void mbarrier_arrive_copies(place_t place, uint32_t barrier);
bool mbarrier_try(place_t place, uint32_t barrier, uint32_t parity);
bool mbarrier_test(place_t place, uint32_t barrier, uint32_t parity);
void mbarrier_wait(place_t place, uint32_t barrier, uint32_t parity);
void check_cluster(const char *wrapper, place_t place, uint32_t blocks, uint32_t expected);
void fence_async(void);
void tensor_load(const char *wrapper, place_t place, uint32_t to, const void *map, int32_t x,
                 int32_t y, uint32_t barrier);
void bulk_store(place_t place, void *to, uint32_t from, uint32_t bytes);
void bulk_read(void);
void store_cluster(place_t place, uint32_t to, uint32_t value, uint32_t barrier, uint32_t rank);
void set_registers(const char *wrapper, place_t place, uint32_t count, bool raise);
void act_elect(void *const lanes[WARP]);
void act_store_matrix(void *const lanes[WARP]);
void act_store_matrix_turned(void *const lanes[WARP]);

struct stmatrix_t {
    uint32_t row, words[4];
};

void wgmma_fence(place_t place);
void wgmma(place_t place, float *d, int count, uint64_t a, uint64_t b, bool add, bool bf16);
void wgmma_commit(place_t place);
void wgmma_wait(place_t place, uint32_t pending);

} // namespace emulator

/* "elect.sync" may choose any lane: the first, or in reverse order the last. */
WTN_DEVICE bool wtn_elect(WTN_HERE)
{
    return emulator::exchange("wtn_elect", here, 0, 0, emulator::act_elect) != 0;
}

/* ---- "Parallel Synchronization and Communication Instructions: mbarrier" ---- */

WTN_DEVICE void wtn_mbarrier_init(wtn_saddr_t barrier, uint32_t count, WTN_HERE)
{
    emulator::mbarrier_init(here, barrier, count);
}
WTN_DEVICE void wtn_mbarrier_fence_init(void)
{
}
WTN_DEVICE void wtn_mbarrier_arrive(wtn_saddr_t barrier, WTN_HERE)
{
    emulator::mbarrier_arrive("wtn_mbarrier_arrive", here, barrier, 0);
}
WTN_DEVICE void wtn_mbarrier_arrive_cluster(wtn_saddr_t barrier, uint32_t rank, WTN_HERE)
{
    emulator::check_cluster("wtn_mbarrier_arrive_cluster", here, rank, 0);
    emulator::mbarrier_arrive("wtn_mbarrier_arrive_cluster", here, barrier, 0);
}
WTN_DEVICE void wtn_mbarrier_expect(wtn_saddr_t barrier, uint32_t bytes, WTN_HERE)
{
    emulator::mbarrier_arrive("wtn_mbarrier_expect", here, barrier, bytes);
}
WTN_DEVICE void wtn_mbarrier_arrive_copies(wtn_saddr_t barrier, WTN_HERE)
{
    emulator::mbarrier_arrive_copies(here, barrier);
}
WTN_DEVICE bool wtn_mbarrier_try(wtn_saddr_t barrier, uint32_t parity, WTN_HERE)
{
    return emulator::mbarrier_try(here, barrier, parity);
}
WTN_DEVICE bool wtn_mbarrier_test(wtn_saddr_t barrier, uint32_t parity, WTN_HERE)
{
    return emulator::mbarrier_test(here, barrier, parity);
}
WTN_DEVICE void wtn_mbarrier_wait(wtn_saddr_t barrier, uint32_t parity, WTN_HERE)
{
    emulator::mbarrier_wait(here, barrier, parity);
}

/* "membar / fence: fence.proxy.async". Watched for cp.async only: what it wrote may not be read by
 * matrix units before the thread that wrote it, or all that multiply, have fenced. */
WTN_DEVICE void wtn_fence_async(void)
{
    emulator::fence_async();
}

/* ---- "Data Movement and Conversion Instructions: cp.async.bulk.tensor" ---- */

WTN_DEVICE void wtn_tensor_prefetch(const wtn_tensor_map_t *map, WTN_HERE)
{
    emulator::check_aligned("wtn_tensor_prefetch", here, map, 64);
}
WTN_DEVICE void wtn_tensor_load(wtn_saddr_t to, const wtn_tensor_map_t *map, int32_t x, int32_t y,
                                wtn_saddr_t barrier, WTN_HERE)
{
    emulator::tensor_load("wtn_tensor_load", here, to, map, x, y, barrier);
}
WTN_DEVICE void wtn_tensor_load_once(wtn_saddr_t to, const wtn_tensor_map_t *map, int32_t x,
                                     int32_t y, wtn_saddr_t barrier, WTN_HERE)
{
    emulator::tensor_load("wtn_tensor_load_once", here, to, map, x, y, barrier);
}
WTN_DEVICE void wtn_tensor_load_multicast(wtn_saddr_t to, const wtn_tensor_map_t *map, int32_t x,
                                          int32_t y, wtn_saddr_t barrier, uint16_t blocks, WTN_HERE)
{
    emulator::check_cluster("wtn_tensor_load_multicast", here, blocks, 1);
    emulator::tensor_load("wtn_tensor_load_multicast", here, to, map, x, y, barrier);
}

/* "cp.async.bulk" to memory: happens at the thread's wait, as late as it may. */
WTN_DEVICE void wtn_bulk_store(void *to, wtn_saddr_t from, uint32_t bytes, WTN_HERE)
{
    emulator::bulk_store(here, to, from, bytes);
}
WTN_DEVICE void wtn_bulk_commit(void)
{
}
WTN_DEVICE void wtn_bulk_wait_read(void)
{
    emulator::bulk_read();
}

/* ---- clusters of one block ---- */

WTN_DEVICE uint32_t wtn_cluster_rank(void)
{
    return 0;
}
WTN_DEVICE void wtn_sync_cluster(WTN_HERE)
{
    emulator::barrier("wtn_sync_cluster", here, emulator::BARRIERS, wtn_thread_count(), true);
}

/* "Data Movement and Conversion Instructions: st.async" */
WTN_DEVICE void wtn_store_cluster(wtn_saddr_t to, uint32_t value, wtn_saddr_t barrier,
                                  uint32_t rank, WTN_HERE)
{
    emulator::store_cluster(here, to, value, barrier, rank);
}

/* ---- "Miscellaneous Instructions: setmaxnreg" ---- */

template <int count> WTN_DEVICE void wtn_registers_raise(WTN_HERE)
{
    static_assert(count % 8 == 0 && count >= 24 && count <= 256, "setmaxnreg");
    emulator::set_registers("wtn_registers_raise", here, count, true);
}
template <int count> WTN_DEVICE void wtn_registers_lower(WTN_HERE)
{
    static_assert(count % 8 == 0 && count >= 24 && count <= 256, "setmaxnreg");
    emulator::set_registers("wtn_registers_lower", here, count, false);
}

/* ---- "Warp-level matrix store instruction: stmatrix" ---- */

WTN_DEVICE void wtn_store_matrix(wtn_saddr_t row, uint32_t a, uint32_t b, uint32_t c, uint32_t d,
                                 WTN_HERE)
{
    emulator::stmatrix_t mine = {row, {a, b, c, d}};

    emulator::meet("wtn_store_matrix", here, &mine, emulator::act_store_matrix);
}
WTN_DEVICE void wtn_store_matrix_turned(wtn_saddr_t row, uint32_t a, uint32_t b, uint32_t c,
                                        uint32_t d, WTN_HERE)
{
    emulator::stmatrix_t mine = {row, {a, b, c, d}};

    emulator::meet("wtn_store_matrix_turned", here, &mine, emulator::act_store_matrix_turned);
}

/* ---- "Asynchronous Warpgroup Level Matrix Instructions" ---- */

WTN_DEVICE void wtn_wgmma_fence(WTN_HERE)
{
    emulator::wgmma_fence(here);
}
WTN_DEVICE void wtn_wgmma_commit(WTN_HERE)
{
    emulator::wgmma_commit(here);
}
template <int pending> WTN_DEVICE void wtn_wgmma_wait(WTN_HERE)
{
    emulator::wgmma_wait(here, pending);
}
template <int count> WTN_DEVICE void wtn_wgmma_hold(float (&d)[count])
{
    (void)d;
}
template <bool bf16, int count>
WTN_DEVICE void wtn_wgmma(float (&d)[count], uint64_t a, uint64_t b, WTN_HERE)
{
    static_assert(count % 4 == 0 && count >= 4 && count <= 128, "N is a multiple of 8, up to 256");
    emulator::wgmma(here, d, count, a, b, true, bf16);
}
template <bool bf16, int count>
WTN_DEVICE void wtn_wgmma_first(float (&d)[count], uint64_t a, uint64_t b, WTN_HERE)
{
    static_assert(count % 4 == 0 && count >= 4 && count <= 128, "N is a multiple of 8, up to 256");
    emulator::wgmma(here, d, count, a, b, false, bf16);
}

#endif

/* What sm_90 adds but matrix products: barriers in shared memory, the copy engine's landings,
 * registers. */
#include <algorithm>
#include <stdio.h>
#include <string.h>

#include "tests/emulator/state.h"
#include "tests/emulator/stream.h"

#include "kernels/cuda/device_sm90.cuh"

namespace emulator
{

enum {
    COUNT_MAX      = (1 << 20) - 1, /* PTX ISA, "mbarrier: Contents of the mbarrier object" */
    REGISTERS      = 64 * 1024,     /* of an SM */
    REGISTERS_MAX  = 255,
    TESTS_IDLE_MAX = 64
};

static const uint64_t COOKIE = 0x5A17B0A44E4B0A5Eu; /* where a barrier lies; nobody may write it */

/* ---- a block's part ---- */

void sm90_begin(block_t *block)
{
    size_t  threads = block->threads.size();
    sm90_t *s       = block->sm90;

    if (s == NULL) {
        s = block->sm90 = new sm90_t();
    }
    s->barriers.clear();
    s->landings.clear();
    s->bulks.assign(threads, std::vector<bulk_t>());
    s->matrices.assign(threads, matrix_queue_t());
    s->registers.assign(block->warps.size(),
                        std::min<uint32_t>(REGISTERS_MAX, REGISTERS / (uint32_t)threads) / 8 * 8);
    s->pool = s->registers.empty() ? 0 : s->registers[0] * WARP * (uint32_t)block->warps.size();
    s->written.assign(block->shared_bytes / 16 + 1, written_t());
    s->fenced.assign(threads, 0);
    s->time  = 0;
    s->tests = 0;
}

const char *sm90_end(block_t *block)
{
    for (const std::vector<bulk_t> &bulks : block->sm90->bulks) {
        if (!bulks.empty()) {
            return "a thread left while its bulk stores read shared memory";
        }
    }
    return block->sm90->landings.empty() ? NULL : "all threads left while copies were under way";
}

/* ---- mbarriers ---- */

static mbarrier_t *find(const char *wrapper, place_t place, uint32_t address)
{
    char    *memory = shared_at(wrapper, place, address, 8, 8);
    sm90_t  *s      = self->block->sm90;
    auto     it     = s->barriers.find(address);
    uint64_t cookie;

    memcpy(&cookie, memory, sizeof(cookie));
    if (it == s->barriers.end()) {
        fault(cudaErrorIllegalAddress, place, "%s: no barrier was made at shared byte %u", wrapper,
              address - SHARED_ADDRESS);
    }
    if (cookie != COOKIE) {
        fault(cudaErrorIllegalAddress, place, "%s: the barrier at shared byte %u was overwritten",
              wrapper, address - SHARED_ADDRESS);
    }
    return &it->second;
}

static void end_phase(block_t *block, mbarrier_t *barrier)
{
    block->moved = true;
    if (barrier->pending == 0 && barrier->bytes == 0) {
        barrier->pending = barrier->count;
        barrier->phase ^= 1u;
    }
}

void mbarrier_init(place_t place, uint32_t address, uint32_t count)
{
    char *memory = shared_at("wtn_mbarrier_init", place, address, 8, 8);

    if (count == 0 || count > COUNT_MAX) {
        fault(cudaErrorLaunchFailure, place, "wtn_mbarrier_init: %u arrivals", count);
    }
    if (self->block->sm90->barriers.count(address) != 0) {
        fault(cudaErrorLaunchFailure, place, "wtn_mbarrier_init: shared byte %u is one already",
              address - SHARED_ADDRESS);
    }
    self->block->sm90->barriers[address] = {count, count, 0, 0};
    memcpy(memory, &COOKIE, sizeof(COOKIE));
}

void mbarrier_arrive(const char *wrapper, place_t place, uint32_t address, uint32_t bytes)
{
    mbarrier_t *barrier = find(wrapper, place, address);

    if (barrier->pending == 0) {
        fault(cudaErrorLaunchFailure, place, "%s: more than %u arrivals at shared byte %u", wrapper,
              barrier->count, address - SHARED_ADDRESS);
    }
    if (barrier->bytes + bytes > COUNT_MAX) {
        fault(cudaErrorLaunchFailure, place, "%s: %lld bytes expected, at most %d", wrapper,
              (long long)barrier->bytes + bytes, COUNT_MAX);
    }
    barrier->bytes += bytes;
    barrier->pending--;
    end_phase(self->block, barrier);
}

static bool ended(place_t place, uint32_t address, uint32_t parity)
{
    mbarrier_t *barrier = find("wtn_mbarrier_wait", place, address);

    if (parity > 1) {
        fault(cudaErrorLaunchFailure, place, "wtn_mbarrier_wait: parity %u", parity);
    }
    if (barrier->phase != parity) {
        self->block->moved       = true;
        self->block->sm90->tests = 0;
        return true;
    }
    return false;
}

bool mbarrier_try(place_t place, uint32_t address, uint32_t parity)
{
    if (ended(place, address, parity)) {
        return true;
    }
    spin("wtn_mbarrier_try", place, SPINS_BLOCK);
    return ended(place, address, parity);
}

/* Says what was so before the others had their turn: the caller's path for "no" is taken often. A
 * test is not a wait, so the block is not stuck until it has said no many times. */
bool mbarrier_test(place_t place, uint32_t address, uint32_t parity)
{
    if (ended(place, address, parity)) {
        return true;
    }
    if (++self->block->sm90->tests < TESTS_IDLE_MAX) {
        self->block->moved = true;
    }
    spin("wtn_mbarrier_test", place, SPINS_BLOCK);
    return false;
}

void mbarrier_wait(place_t place, uint32_t address, uint32_t parity)
{
    while (!ended(place, address, parity)) {
        spin("wtn_mbarrier_wait", place, SPINS_BLOCK);
    }
}

/* ---- what lands later ---- */

static void land(block_t *block, const landing_t &landing)
{
    auto it = block->sm90->barriers.find(landing.barrier);

    if (landing.map != NULL) {
        box_copy(block, landing.map, landing.to, landing.x, landing.y);
        it->second.bytes -= box_bytes(landing.map);
    } else {
        land_copies(landing.thread);
        it->second.pending--;
    }
    end_phase(block, &it->second);
}

bool sm90_land(block_t *block)
{
    std::vector<landing_t> &landings = block->sm90->landings;
    size_t                  which    = 0;
    landing_t               landing;

    if (landings.empty()) {
        return false;
    }
    if (settings.order == WTN_EMULATOR_REVERSE) {
        which = landings.size() - 1;
    } else if (settings.order == WTN_EMULATOR_RANDOM) {
        which = draw() % landings.size();
    }
    landing = landings[which];
    landings.erase(landings.begin() + (ptrdiff_t)which);
    land(block, landing);
    return true;
}

static void add_landing(const landing_t &landing)
{
    if (settings.landing == WTN_EMULATOR_EARLY ||
        (settings.landing == WTN_EMULATOR_EITHER && (draw() & 1) != 0)) {
        land(self->block, landing);
    } else {
        self->block->sm90->landings.push_back(landing);
    }
}

void tensor_load(const char *wrapper, place_t place, uint32_t to, const void *map, int32_t x,
                 int32_t y, uint32_t barrier)
{
    (void)find(wrapper, place, barrier);
    box_check(wrapper, place, map, to, x);
    add_landing({barrier, map, to, x, y, self});
}

void mbarrier_arrive_copies(place_t place, uint32_t barrier)
{
    (void)find("wtn_mbarrier_arrive_copies", place, barrier);
    add_landing({barrier, NULL, 0, 0, 0, self});
}

/* ---- bulk stores ---- */

void bulk_store(place_t place, void *to, uint32_t from, uint32_t bytes)
{
    (void)shared_at("wtn_bulk_store", place, from, bytes, 16);
    check_aligned("wtn_bulk_store", place, to, 16);
    if (bytes == 0 || bytes % 16 != 0) {
        fault(cudaErrorIllegalAddress, place, "wtn_bulk_store: %u bytes, expected a multiple of 16",
              bytes);
    }
    self->block->sm90->bulks[self->index].push_back({(char *)to, from, bytes});
}

void bulk_read(void)
{
    std::vector<bulk_t> &bulks = self->block->sm90->bulks[self->index];

    for (const bulk_t &bulk : bulks) {
        memcpy(bulk.to, self->block->shared + (bulk.from - SHARED_ADDRESS), bulk.bytes);
    }
    bulks.clear();
}

/* ---- the two proxies of shared memory ---- */

void sm90_written(const thread_t *writer, uint32_t address)
{
    sm90_t *s = writer->block->sm90;

    s->written[(address - SHARED_ADDRESS) / 16] = {writer->index, ++s->time};
}

void fence_async(void)
{
    sm90_t *s = self->block->sm90;

    s->fenced[self->index] = ++s->time;
}

/* ---- clusters, registers, warps ---- */

void check_cluster(const char *wrapper, place_t place, uint32_t blocks, uint32_t expected)
{
    if (blocks != expected) {
        fault(cudaErrorLaunchFailure, place, "%s: blocks %#x of a cluster of one", wrapper, blocks);
    }
}

void store_cluster(place_t place, uint32_t to, uint32_t value, uint32_t barrier, uint32_t rank)
{
    const char *wrapper = "wtn_store_cluster";
    char       *memory  = shared_at(wrapper, place, to, sizeof(value), sizeof(value));
    mbarrier_t *told    = find(wrapper, place, barrier);

    check_cluster(wrapper, place, rank, 0);
    memcpy(memory, &value, sizeof(value));
    told->bytes -= (int64_t)sizeof(value);
    end_phase(self->block, told);
}

/* A warp that wants more waits until others of the block have given back as many. */
void set_registers(const char *wrapper, place_t place, uint32_t count, bool raise)
{
    std::vector<uint32_t> &registers = self->block->sm90->registers;
    uint32_t               warp      = self->index / WARP;
    uint32_t               held      = registers[warp];

    if (raise ? count < held : count > held) {
        fault(cudaErrorLaunchFailure, place, "%s: to %u registers, the warp has %u", wrapper, count,
              held);
    }
    for (;;) {
        uint32_t sum = 0;
        for (uint32_t i = 0; i < registers.size(); i++) {
            sum += WARP * (i == warp ? count : registers[i]);
        }
        if (sum <= self->block->sm90->pool) {
            break;
        }
        spin(wrapper, place, SPINS_BLOCK);
    }
    meet(wrapper, place, &count, [](void *const lanes[WARP]) {
        self->block->sm90->registers[self->index / WARP] = *(const uint32_t *)lanes[0];
    });
}

void act_elect(void *const lanes[WARP])
{
    uint32_t elected = settings.order == WTN_EMULATOR_REVERSE ? WARP - 1 : 0;

    ((exchange_t *)lanes[elected])->result = 1;
}

/* Lane l names row l%8 of matrix l/8; word i of lane l is pair l%4 of row l/4 of matrix i. */
void act_store_matrix(void *const lanes[WARP])
{
    for (uint32_t row = 0; row < WARP; row++) {
        char *to = shared_at("wtn_store_matrix", self->place, ((const stmatrix_t *)lanes[row])->row,
                             16, 16);
        for (uint32_t pair = 0; pair < 4; pair++) {
            memcpy(to + 4 * pair, &((const stmatrix_t *)lanes[row % 8 * 4 + pair])->words[row / 8],
                   4);
        }
    }
}
/* Lane l names row l%8 of matrix l/8; number i of that row is half l%8%2 of word l/8 of the lane
 * which holds pair l%8/2 of row i. */
void act_store_matrix_turned(void *const lanes[WARP])
{
    for (uint32_t row = 0; row < WARP; row++) {
        char *to = shared_at("wtn_store_matrix_turned", self->place,
                             ((const stmatrix_t *)lanes[row])->row, 16, 16);
        for (uint32_t i = 0; i < 8; i++) {
            const stmatrix_t *from = (const stmatrix_t *)lanes[i * 4 + row % 8 / 2];
            uint16_t          half = (uint16_t)(from->words[row / 8] >> (row % 2 * 16));

            memcpy(to + 2 * i, &half, sizeof(half));
        }
    }
}

} // namespace emulator

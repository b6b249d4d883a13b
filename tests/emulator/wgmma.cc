/* wgmma: PTX ISA 9.0, "Asynchronous Warpgroup Level Matrix Instructions". Both operands come from
 * shared memory, 16-bit numbers in rows of K with the 128-byte swizzle.
 *
 * A product reads and writes when its group is waited for, or when it is committed (early). Each
 * warp computes its own 16 rows then, so a stage given back before all four warps have waited
 * shows. Sums are those of mma in warp.cc. */
#include <algorithm>
#include <string.h>

#include "tests/emulator/number.h"
#include "tests/emulator/sm90.h"
#include "tests/emulator/state.h"

#include "kernels/cuda/device_sm90.cuh"

namespace emulator
{

enum { K = 16, ROWS = 16, COLUMNS_MAX = 256 };

struct wait_args_t {
    place_t  place;
    uint32_t pending;
};

/* "Matrix Descriptor Format": 14 bits each of address and strides, without their low four. */
struct descriptor_t {
    uint32_t start, stride; /* from eight rows to the next eight */
};

static descriptor_t decode(place_t place, uint64_t bits)
{
    descriptor_t d = {(uint32_t)(bits & 0x3fffu) << 4, (uint32_t)(bits >> 32 & 0x3fffu) << 4};

    if (bits >> 62 != 1 || (bits >> 49 & 7u) != 0) {
        fault(cudaErrorLaunchFailure, place,
              "wtn_wgmma: descriptor %#llx is not of the 128-byte swizzle without offset",
              (unsigned long long)bits);
    }
    return d;
}

/* Row `row` of a matrix: 16 numbers, as floats. All lanes that multiply fenced at `fenced` or
 * later. */
static void load_row(place_t place, const descriptor_t &d, uint32_t row, bool bf16, uint64_t fenced,
                     float *to)
{
    const sm90_t *s = self->block->sm90;

    for (uint32_t chunk = 0; chunk < 2; chunk++) { /* of eight numbers */
        uint32_t    address = d.start + row / 8 * d.stride + row % 8 * 128 + chunk * 16;
        uint16_t    halves[8];
        const char *from;

        address ^= (address >> 7 & 7u) << 4;
        from                     = shared_at("wtn_wgmma", place, address, 16, 16);
        const written_t &written = s->written[(address - SHARED_ADDRESS) / 16];
        if (written.time > fenced && written.time > s->fenced[written.writer]) {
            fault(cudaErrorLaunchFailure, place,
                  "wtn_wgmma reads shared byte %u, which cp.async wrote, without wtn_fence_async",
                  address - SHARED_ADDRESS);
        }
        memcpy(halves, from, sizeof(halves));
        for (uint32_t i = 0; i < 8; i++) {
            to[8 * chunk + i] = bf16 ? float_from_bf16(halves[i]) : float_from_f16(halves[i]);
        }
    }
}

/* The warp's rows of one product, into the accumulators of its lanes: see wtn_wgmma for which
 * element lies where. */
static void multiply(place_t place, wgmma_t *const lanes[WARP])
{
    static float   a[ROWS][K], b[COLUMNS_MAX][K];
    const wgmma_t *one     = lanes[0];
    uint32_t       columns = 2 * (uint32_t)one->count;
    uint32_t       row     = self->index / WARP % 4 * ROWS;
    uint64_t       fenced  = one->fenced;
    descriptor_t   a_at = decode(place, one->a), b_at = decode(place, one->b);

    for (uint32_t lane = 1; lane < WARP; lane++) {
        fenced = std::min(fenced, lanes[lane]->fenced);
    }
    for (uint32_t i = 0; i < ROWS; i++) {
        load_row(place, a_at, row + i, one->bf16, fenced, a[i]);
    }
    for (uint32_t j = 0; j < columns; j++) {
        load_row(place, b_at, j, one->bf16, fenced, b[j]);
    }
    for (uint32_t lane = 0; lane < WARP; lane++) {
        float *d = lanes[lane]->d;
        for (uint32_t n = 0; n < (uint32_t)one->count; n++) {
            const float *x   = a[lane / 4 + 8 * (n / 2 % 2)];
            const float *y   = b[8 * (n / 4) + 2 * (lane % 4) + n % 2];
            double       sum = one->add ? (double)d[n] : 0.0;
            for (uint32_t k = 0; k < K; k++) {
                sum += (double)x[k] * (double)y[k];
            }
            d[n] = (float)sum;
        }
    }
}

static matrix_queue_t &queue_of(uint32_t thread)
{
    return self->block->sm90->matrices[thread];
}

static bool equal(const wgmma_t &a, const wgmma_t &b)
{
    return a.a == b.a && a.b == b.b && a.count == b.count && a.bf16 == b.bf16 && a.add == b.add;
}

/* The oldest groups of all lanes of the warp, until `pending` are left. */
static void finish_groups(place_t place, uint32_t pending)
{
    uint32_t first = self->index / WARP * WARP;

    while (queue_of(first).groups.size() > pending) {
        size_t count = queue_of(first).groups.front();
        for (size_t i = 0; i < count; i++) {
            wgmma_t *lanes[WARP];
            for (uint32_t lane = 0; lane < WARP; lane++) {
                matrix_queue_t &queue = queue_of(first + lane);
                if (queue.queued.size() <= i ||
                    !equal(queue.queued[i], queue_of(first).queued[i])) {
                    fault(cudaErrorLaunchFailure, place,
                          "wtn_wgmma: threads %u and %u of a warp queued different products", first,
                          first + lane);
                }
                lanes[lane] = &queue.queued[i];
            }
            multiply(place, lanes);
        }
        for (uint32_t lane = 0; lane < WARP; lane++) {
            matrix_queue_t &queue = queue_of(first + lane);
            queue.queued.erase(queue.queued.begin(), queue.queued.begin() + (ptrdiff_t)count);
            queue.groups.erase(queue.groups.begin());
        }
    }
}

static void act_wait(void *const lanes[WARP])
{
    const wait_args_t *args  = (const wait_args_t *)lanes[0];
    uint32_t           first = self->index / WARP * WARP;

    for (uint32_t lane = 1; lane < WARP; lane++) {
        if (queue_of(first + lane).groups.size() != queue_of(first).groups.size()) {
            fault(cudaErrorLaunchFailure, args->place,
                  "wtn_wgmma_wait: threads %u and %u of a warp committed differently", first,
                  first + lane);
        }
    }
    finish_groups(args->place, args->pending);
}

/* Registers may not be touched by others between a fence and the wait: so each thread fences anew
 * once nothing of its own is under way. */
void wgmma_fence(place_t place)
{
    (void)place;
    queue_of(self->index).fenced = true;
}

void wgmma(place_t place, float *d, int count, uint64_t a, uint64_t b, bool add, bool bf16)
{
    matrix_queue_t &queue = queue_of(self->index);

    if (!queue.fenced) {
        fault(cudaErrorLaunchFailure, place, "wtn_wgmma without wtn_wgmma_fence before it");
    }
    queue.queued.push_back({d, a, b, count, bf16, add, self->block->sm90->fenced[self->index]});
}

void wgmma_commit(place_t place)
{
    matrix_queue_t &queue     = queue_of(self->index);
    size_t          committed = 0;

    for (size_t group : queue.groups) {
        committed += group;
    }
    queue.groups.push_back(queue.queued.size() - committed);
    if (settings.landing == WTN_EMULATOR_EARLY) {
        wait_args_t mine = {place, 0};
        /* groups stay counted, with nothing in them */
        meet("wtn_wgmma_commit", place, &mine, act_wait);
    }
}

void wgmma_wait(place_t place, uint32_t pending)
{
    wait_args_t mine = {place, pending};

    meet("wtn_wgmma_wait", place, &mine, act_wait);
    if (pending == 0) {
        queue_of(self->index).fenced = false;
    }
}

} // namespace emulator

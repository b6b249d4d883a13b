/* What the lanes of a warp do together. Each act_ function is called once, by the last lane to
 * come, with what all of them gave. */
#include <cuda_runtime_api.h>

#include "kernels/cuda/device.cuh"

namespace emulator
{

/* ---- shuffles, votes ---- */

uint32_t exchange(const char *wrapper, place_t place, uint32_t value, uint32_t argument,
                  void (*act)(void *const lanes[WARP]))
{
    exchange_t mine = {value, argument, 0};

    meet(wrapper, place, &mine, act);
    return mine.result;
}

static exchange_t *lane_of(void *const lanes[WARP], uint32_t lane)
{
    return (exchange_t *)lanes[lane];
}

void act_shuffle(void *const lanes[WARP])
{
    for (uint32_t i = 0; i < WARP; i++) {
        /* the low five bits name the source: PTX ISA, shfl.sync, with c = 0x1f */
        lane_of(lanes, i)->result = lane_of(lanes, lane_of(lanes, i)->argument % WARP)->value;
    }
}

void act_shuffle_up(void *const lanes[WARP])
{
    for (uint32_t i = 0; i < WARP; i++) {
        uint32_t by               = lane_of(lanes, i)->argument % WARP;
        lane_of(lanes, i)->result = lane_of(lanes, i >= by ? i - by : i)->value;
    }
}

void act_shuffle_xor(void *const lanes[WARP])
{
    for (uint32_t i = 0; i < WARP; i++) {
        uint32_t mask             = lane_of(lanes, i)->argument % WARP;
        lane_of(lanes, i)->result = lane_of(lanes, i ^ mask)->value;
    }
}

void act_ballot(void *const lanes[WARP])
{
    uint32_t set = 0;

    for (uint32_t i = 0; i < WARP; i++) {
        set |= (lane_of(lanes, i)->value != 0 ? 1u : 0u) << i;
    }
    for (uint32_t i = 0; i < WARP; i++) {
        lane_of(lanes, i)->result = set;
    }
}

void act_match(void *const lanes[WARP])
{
    for (uint32_t i = 0; i < WARP; i++) {
        uint32_t set = 0;
        for (uint32_t j = 0; j < WARP; j++) {
            set |= (lane_of(lanes, i)->value == lane_of(lanes, j)->value ? 1u : 0u) << j;
        }
        lane_of(lanes, i)->result = set;
    }
}

template <typename fold_t> static void reduce(void *const lanes[WARP], fold_t fold)
{
    uint32_t all = lane_of(lanes, 0)->value;

    for (uint32_t i = 1; i < WARP; i++) {
        all = fold(all, lane_of(lanes, i)->value);
    }
    for (uint32_t i = 0; i < WARP; i++) {
        lane_of(lanes, i)->result = all;
    }
}

void act_max(void *const lanes[WARP])
{
    reduce(lanes, [](uint32_t a, uint32_t b) { return a > b ? a : b; });
}

void act_min(void *const lanes[WARP])
{
    reduce(lanes, [](uint32_t a, uint32_t b) { return a < b ? a : b; });
}

void act_sum(void *const lanes[WARP])
{
    reduce(lanes, [](uint32_t a, uint32_t b) { return a + b; });
}

/* ---- ldmatrix .m8n8.x4: PTX ISA, "Warp-level matrix load instruction: ldmatrix" ----
 * Lane l names row l%8 of matrix l/8, 16 bytes; register i of lane l is pair l%4 of row l/4 of
 * matrix i. */

void act_load_matrix(void *const lanes[WARP])
{
    const char *rows[WARP];

    for (uint32_t i = 0; i < WARP; i++) {
        rows[i] = shared_at("wtn_load_matrix", self->place, ((ldmatrix_t *)lanes[i])->row, 16, 16);
    }
    for (uint32_t lane = 0; lane < WARP; lane++) {
        for (uint32_t i = 0; i < 4; i++) {
            memcpy(&((ldmatrix_t *)lanes[lane])->out[i], rows[8 * i + lane / 4] + 4 * (lane % 4),
                   4);
        }
    }
}

/* ---- mma .m16n8k16: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" ----
 * Products are exact; here they and the accumulator are summed by ascending k in double and rounded
 * to float once. Hardware aligns the products to the largest and may drop bits below about 2^-24
 * of it before it rounds: results differ in the last bits, which no test may depend on. */

template <float (*convert)(uint16_t)> static void multiply(void *const lanes[WARP])
{
    float a[16][16], b[8][16]; /* b by column */

    for (uint32_t lane = 0; lane < WARP; lane++) {
        const mma_t *mine  = (const mma_t *)lanes[lane];
        uint32_t     group = lane / 4, pair = 2 * (lane % 4);
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t shift = 16 * half, k = pair + half;
            a[group][k]         = convert((uint16_t)(mine->a[0] >> shift));
            a[group + 8][k]     = convert((uint16_t)(mine->a[1] >> shift));
            a[group][k + 8]     = convert((uint16_t)(mine->a[2] >> shift));
            a[group + 8][k + 8] = convert((uint16_t)(mine->a[3] >> shift));
            b[group][k]         = convert((uint16_t)(mine->b[0] >> shift));
            b[group][k + 8]     = convert((uint16_t)(mine->b[1] >> shift));
        }
    }
    for (uint32_t lane = 0; lane < WARP; lane++) {
        float *d = ((mma_t *)lanes[lane])->d;
        for (uint32_t i = 0; i < 4; i++) {
            const float *row    = a[lane / 4 + 8 * (i / 2)];
            const float *column = b[2 * (lane % 4) + i % 2];
            double       sum    = d[i];
            for (uint32_t k = 0; k < 16; k++) {
                sum += (double)row[k] * (double)column[k];
            }
            d[i] = (float)sum;
        }
    }
}

void act_mma_bf16(void *const lanes[WARP])
{
    multiply<float_from_bf16>(lanes);
}

void act_mma_f16(void *const lanes[WARP])
{
    multiply<float_from_f16>(lanes);
}

} // namespace emulator

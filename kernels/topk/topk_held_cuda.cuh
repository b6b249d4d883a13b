/* Top-k of a warp that holds a token's experts in registers: expert e is in lane e % 32, which is
 * the order of sums that the reference has, too. */
#ifndef WTN_TOPK_HELD_CUDA_CUH
#define WTN_TOPK_HELD_CUDA_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/plain_math.h"
#include "kernels/topk/topk.h"

#define HELD_THREADS 128
#define HELD_MAX     12 /* experts of a lane */
#define NONE         0xffffffffu
/* Blocks of a multiprocessor: what the registers leave. */
#define HELD_BLOCKS(each) ((each) <= 4 ? 10 : (each) <= 8 ? 8 : 5)

typedef struct topk_params {
    const float    *logits, *bias, *correction;
    int32_t        *ids;
    float          *weights;
    char           *workspace; /* a block per token: array_bytes of each block */
    size_t          array_bytes;
    int64_t         token_count;
    uint32_t        expert_count, topk, group_best;
    witan_routing_t routing;
} topk_params_t;

/* ---- values as keys: they order as the values do; -0 is 0. No value but NaN has key 0. ---- */

WTN_DEVICE uint32_t key_of(float value)
{
    const uint32_t bits = wtn_bits_from_float(value + 0.0f);

    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

WTN_DEVICE float value_of(uint32_t key)
{
    return wtn_float_from_bits((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

WTN_DEVICE uint64_t entry_of(uint32_t key, uint32_t index)
{
    return (uint64_t)key << 32 | (NONE - index);
}

WTN_DEVICE uint32_t index_of(uint64_t entry)
{
    return NONE - (uint32_t)entry;
}

WTN_DEVICE double shuffle_xor(double value, uint32_t mask)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    bits = (uint64_t)wtn_shuffle_xor((uint32_t)(bits >> 32), mask) << 32 |
           wtn_shuffle_xor((uint32_t)bits, mask);
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* ---- values of a lane: experts lane, lane + 32, ... ---- */

template <int each> struct held_t {
    float value[each];
};

template <int each> WTN_DEVICE held_t<each> held_logits(const topk_params_t &p, int64_t t)
{
    held_t<each> x = {};

#pragma unroll
    for (int j = 0; j < each; j++) {
        const uint32_t e = wtn_lane() + 32 * j;

        if (t < p.token_count && e < p.expert_count) {
            x.value[j] = p.logits[t * p.expert_count + e];
        }
    }
    return x;
}

/* As sum_of. */
template <int each> WTN_DEVICE float held_sum(const held_t<each> &x, uint32_t count)
{
    double sum = 0.0;

    static_assert(32 * each <= WTN_TOPK_CHUNK && WTN_TOPK_SUMS == 32, "one chunk");
#pragma unroll
    for (int j = 0; j < each; j++) {
        if (wtn_lane() + 32 * j < count) {
            sum += (double)x.value[j];
        }
    }
    for (uint32_t half = WTN_TOPK_SUMS / 2; half > 0; half /= 2) {
        sum += shuffle_xor(sum, half);
    }
    return (float)sum;
}

template <int each> WTN_DEVICE void held_softmax(held_t<each> &x, uint32_t count)
{
    uint32_t best = 0;
    float    max, sum;

#pragma unroll
    for (int j = 0; j < each; j++) {
        const uint32_t key = wtn_lane() + 32 * j < count ? key_of(x.value[j]) : 0;

        best = key > best ? key : best;
    }
    max = value_of(wtn_warp_max(best));
#pragma unroll
    for (int j = 0; j < each; j++) {
        x.value[j] = wtn_plain_exp(x.value[j] - max);
    }
    sum = held_sum(x, count);
#pragma unroll
    for (int j = 0; j < each; j++) {
        x.value[j] = x.value[j] / sum;
    }
}

/* ---- selection ---- */

/* The largest key of all lanes, each lane telling its best one and the index of that; of equal ones
 * the lowest index. */
WTN_DEVICE uint32_t best_of(uint32_t key, uint32_t index, uint32_t *top)
{
    *top = wtn_warp_max(key);
    return wtn_warp_min(key == *top ? index : NONE);
}

/* Lane k gets the index of the k-th largest. */
template <int each> WTN_DEVICE uint32_t held_select(uint32_t (&key)[each], uint32_t wanted)
{
    uint32_t chosen = 0;

    for (uint32_t k = 0; k < wanted; k++) {
        uint32_t best = 0, index = NONE, top;

#pragma unroll
        for (int j = 0; j < each; j++) {
            index = key[j] > best ? wtn_lane() + 32 * j : index;
            best  = key[j] > best ? key[j] : best;
        }
        index  = best_of(best, index, &top);
        chosen = wtn_lane() == k ? index : chosen;
#pragma unroll
        for (int j = 0; j < each; j++) {
            key[j] = wtn_lane() + 32 * j == index ? 0 : key[j];
        }
    }
    return chosen;
}

/* Groups of 32 are registers. The keys of those not chosen are masked. False: a score is NaN. */
template <int each> WTN_DEVICE bool held_groups(const topk_params_t &p, uint32_t (&key)[each])
{
    const uint32_t masked = p.routing.mask_value == WITAN_MASK_ZERO ? key_of(0.0f) : 0;
    uint32_t       group = 0, stays = 0, top; /* lane g's group */
    bool           nan = false;

#pragma unroll
    for (int j = 0; j < each; j++) {
        uint32_t left = key[j];
        float    sum  = 0.0f;

        for (uint32_t i = 0; i < p.group_best; i++) {
            const uint32_t lane = best_of(left, wtn_lane(), &top);

            sum += value_of(top);
            left = wtn_lane() == lane ? 0 : left;
        }
        if (j < p.routing.group_count) {
            nan   = nan || sum != sum;
            group = wtn_lane() == (uint32_t)j ? key_of(sum) : group;
        }
    }
    for (int32_t i = 0; i < p.routing.group_topk; i++) {
        const uint32_t lane = best_of(group, wtn_lane(), &top);

        stays |= 1u << lane;
        group = wtn_lane() == lane ? 0 : group;
    }
#pragma unroll
    for (int j = 0; j < each; j++) {
        if (j < p.routing.group_count && (stays >> j & 1u) == 0) {
            key[j] = masked;
        }
    }
    return !nan;
}

/* ---- one token ---- */

template <int each> WTN_DEVICE void held_score(const topk_params_t &p, held_t<each> &score)
{
#pragma unroll
    for (int j = 0; j < each; j++) {
        const uint32_t e = wtn_lane() + 32 * j;

        if (p.bias != nullptr && e < p.expert_count) {
            score.value[j] = score.value[j] + p.bias[e];
        }
    }
    if (p.routing.score == WITAN_SCORE_SOFTMAX) {
        if (!p.routing.score_after_topk) {
            held_softmax(score, p.expert_count);
        }
        return;
    }
#pragma unroll
    for (int j = 0; j < each; j++) {
        score.value[j] = p.routing.score == WITAN_SCORE_SIGMOID
                             ? wtn_plain_sigmoid(score.value[j])
                             : wtn_plain_sqrt_softplus(score.value[j]);
    }
}

/* False: a choice is NaN. */
template <int each>
WTN_DEVICE bool held_keys(const topk_params_t &p, const held_t<each> &score, uint32_t (&key)[each])
{
    bool nan = false;

#pragma unroll
    for (int j = 0; j < each; j++) {
        const uint32_t e = wtn_lane() + 32 * j;

        key[j] = 0;
        if (e < p.expert_count) {
            const float choice =
                p.correction != nullptr ? score.value[j] + p.correction[e] : score.value[j];

            key[j] = key_of(choice);
            nan    = nan || choice != choice;
        }
    }
    return wtn_ballot(nan) == 0;
}

/* Lane k's weight. */
template <int each>
WTN_DEVICE float held_weight(const topk_params_t &p, const held_t<each> &score, uint32_t id)
{
    held_t<1> w = {};

#pragma unroll
    for (int j = 0; j < each; j++) {
        const uint32_t bits = wtn_shuffle(wtn_bits_from_float(score.value[j]), id % 32);

        w.value[0] = id / 32 == (uint32_t)j ? wtn_float_from_bits(bits) : w.value[0];
    }
    if (p.routing.score_after_topk) {
        held_softmax(w, p.topk);
    }
    if (p.routing.normalise) {
        w.value[0] = w.value[0] / (held_sum(w, p.topk) + p.routing.normalise_epsilon);
    }
    return w.value[0] * p.routing.scale;
}

/* `score` are the logits. */
template <int each>
WTN_DEVICE void held_token(const topk_params_t &p, held_t<each> &score, int64_t t)
{
    uint32_t key[each], id = wtn_lane();
    float    weight = wtn_float_from_bits(0x7fc00000u);

    held_score(p, score);
    if (held_keys(p, score, key) && (p.routing.group_count == 1 || held_groups(p, key))) {
        id     = held_select(key, p.topk);
        weight = held_weight(p, score, id);
    }
    if (wtn_lane() < p.topk) {
        p.ids[t * p.topk + wtn_lane()]     = (int32_t)id;
        p.weights[t * p.topk + wtn_lane()] = weight;
    }
}

#endif

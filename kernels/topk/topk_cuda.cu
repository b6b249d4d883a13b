/* Top-k on a device: a warp per token, its experts in registers where they are few enough, or a
 * block where they are many. Scores are computed as the reference computes them, operation by
 * operation, so that equal logits give equal ids always and equal weights too. */
#include <math.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/topk/topk_held_cuda.cuh"

/* Experts up to which a warp does a token, its arrays in shared memory. */
#define WARP_EXPERTS  1024
#define WARP_THREADS  128
#define BLOCK_THREADS 1024
#define DIGITS        256
/* Candidates that a block sorts in shared memory. */
#define SHARED_LIST 2048

/* What the team of a token, a warp or a block, works with. */
typedef struct arrays {
    uint64_t *list;      /* [E] chosen, best first: key, then NONE - index */
    float    *score;     /* [E] */
    uint32_t *key;       /* [E] of the choice; 0: can not be chosen. In the end: [K] weights */
    uint32_t *group_key; /* [groups] likewise; 0: the group stays */
} arrays_t;

/* A block's own shared memory. */
typedef struct scratch {
    double   sum[WTN_CUDA_TOPK_EXPERTS_MAX / WTN_TOPK_CHUNK];
    uint64_t list[SHARED_LIST];
    uint32_t scan[WTN_SCAN_WORDS];
    uint32_t count[DIGITS];
    uint32_t value, left; /* what one thread tells the others */
} scratch_t;

WTN_DEVICE scratch_t *block_scratch(void)
{
    return (scratch_t *)wtn_shared();
}

/* ---- a team: all its threads call these together ---- */

template <bool block> WTN_DEVICE uint32_t rank(void)
{
    return block ? wtn_thread() : wtn_lane();
}

template <bool block> WTN_DEVICE uint32_t size(void)
{
    return block ? BLOCK_THREADS : 32;
}

template <bool block> WTN_DEVICE void sync(void)
{
    if (block) {
        wtn_sync_block();
    } else {
        wtn_sync_warp();
    }
}

template <bool block> WTN_DEVICE uint32_t max_of(uint32_t value)
{
    uint32_t best = wtn_warp_max(value);

    if (block) {
        uint32_t *scan = block_scratch()->scan;

        if (wtn_lane() == 0) {
            scan[wtn_thread() >> 5] = best;
        }
        wtn_sync_block();
        best = wtn_warp_max(scan[wtn_lane()]);
        wtn_sync_block();
    }
    return best;
}

/* A warp: the sum of one chunk, as the reference's. */
WTN_DEVICE double sum_chunk(const float *x, uint32_t count)
{
    double sum = 0.0;

    for (uint32_t i = wtn_lane(); i < count; i += WTN_TOPK_SUMS) {
        sum += (double)x[i];
    }
    for (uint32_t half = WTN_TOPK_SUMS / 2; half > 0; half /= 2) {
        sum += shuffle_xor(sum, half);
    }
    return sum;
}

/* x was written before a sync. */
template <bool block> WTN_DEVICE float sum_of(const float *x, uint32_t count)
{
    const uint32_t warp = block ? wtn_thread() >> 5 : 0, warps = block ? BLOCK_THREADS / 32 : 1;
    double         sum = 0.0;

    for (uint32_t chunk = warp; chunk * WTN_TOPK_CHUNK < count; chunk += warps) {
        const uint32_t left = count - chunk * WTN_TOPK_CHUNK;
        const double   part = sum_chunk(x + (size_t)chunk * WTN_TOPK_CHUNK,
                                      left < WTN_TOPK_CHUNK ? left : WTN_TOPK_CHUNK);

        if (!block) {
            sum += part;
        } else if (wtn_lane() == 0) {
            block_scratch()->sum[chunk] = part;
        }
    }
    if (block) {
        wtn_sync_block();
        for (uint32_t chunk = 0; chunk * WTN_TOPK_CHUNK < count; chunk++) {
            sum += block_scratch()->sum[chunk];
        }
        wtn_sync_block();
    }
    return (float)sum;
}

/* x[i] belongs to thread i modulo the team's size, before and after. */
template <bool block> WTN_DEVICE void softmax(float *x, uint32_t count)
{
    uint32_t best = 0;
    float    max, sum;

    for (uint32_t i = rank<block>(); i < count; i += size<block>()) {
        const uint32_t key = key_of(x[i]);

        best = key > best ? key : best;
    }
    max = value_of(max_of<block>(best));
    for (uint32_t i = rank<block>(); i < count; i += size<block>()) {
        x[i] = wtn_plain_exp(x[i] - max);
    }
    sync<block>();
    sum = sum_of<block>(x, count);
    for (uint32_t i = rank<block>(); i < count; i += size<block>()) {
        x[i] = x[i] / sum;
    }
}

/* ---- selection: the `wanted` largest of keys [begin, end), ties to the lowest index ---- */

/* A warp takes them one by one; what it took is 0 then. */
WTN_DEVICE void select_by_warp(uint32_t *keys, uint32_t begin, uint32_t end, uint32_t wanted,
                               uint64_t *list)
{
    for (uint32_t k = 0; k < wanted; k++) {
        uint32_t best = 0, index = NONE, top;

        for (uint32_t i = begin + wtn_lane(); i < end; i += 32) {
            const uint32_t key = keys[i];

            if (key > best) {
                best  = key;
                index = i;
            }
        }
        top   = wtn_warp_max(best);
        index = wtn_warp_min(best == top ? index : NONE);
        if ((index - begin) % 32 == wtn_lane()) {
            keys[index] = 0;
            list[k]     = entry_of(top, index);
        }
    }
    wtn_sync_warp();
}

/* A block: the key of the `wanted`th largest; *ties: how many equal to it are wanted. Digit by
 * digit from the top. */
WTN_DEVICE uint32_t threshold(const uint32_t *keys, uint32_t begin, uint32_t end, uint32_t wanted,
                              uint32_t *ties)
{
    scratch_t *s      = block_scratch();
    uint32_t   prefix = 0;

    for (int shift = 24; shift >= 0; shift -= 8) {
        if (wtn_thread() < DIGITS) {
            s->count[wtn_thread()] = 0;
        }
        wtn_sync_block();
        for (uint32_t base = begin; base < end; base += BLOCK_THREADS) {
            const uint32_t i     = base + wtn_thread();
            const uint32_t key   = i < end ? keys[i] : 0;
            const bool     mine  = i < end && (shift == 24 || key >> (shift + 8) == prefix);
            const uint32_t digit = mine ? key >> shift & (DIGITS - 1) : NONE;
            const uint32_t same  = wtn_match_any(digit); /* few digits: one addition for all */

            if (mine && (same & wtn_lanes_below()) == 0) {
                wtn_atomic_add(&s->count[digit], wtn_count_bits(same));
            }
        }
        wtn_sync_block();
        if (wtn_thread() == 0) {
            uint32_t digit = DIGITS - 1;

            for (; wanted > s->count[digit]; digit--) {
                wanted -= s->count[digit];
            }
            s->value = digit;
            s->left  = wanted;
        }
        wtn_sync_block();
        prefix = prefix << 8 | s->value;
        wanted = s->left;
        wtn_sync_block();
    }
    *ties = wanted;
    return prefix;
}

/* A block: sort n entries, the largest first: a bitonic network whose first step of each stage
 * mirrors, so that all steps have one direction and n may be any. */
WTN_DEVICE void sort_list(uint64_t *list, uint32_t n)
{
    for (uint32_t stage = 2; stage / 2 < n; stage *= 2) {
        for (uint32_t step = stage; step > 1; step /= 2) {
            const uint32_t mirror = step == stage ? stage - 1 : step / 2;

            for (uint32_t i = wtn_thread(); i < n; i += BLOCK_THREADS) {
                const uint32_t other = i ^ mirror;

                if (other > i && other < n && list[i] < list[other]) {
                    const uint64_t swap = list[i];

                    list[i]     = list[other];
                    list[other] = swap;
                }
            }
            wtn_sync_block();
        }
    }
}

/* A block: each warp counts, then lists, what is taken of its own run of keys. */
WTN_DEVICE void select_by_block(const uint32_t *keys, uint32_t begin, uint32_t end, uint32_t wanted,
                                uint64_t *list)
{
    const uint32_t warps = BLOCK_THREADS / 32, warp = wtn_thread() >> 5;
    const uint32_t run   = ((end - begin + warps - 1) / warps + 31) / 32 * 32;
    const uint32_t from  = begin + warp * run;
    const uint32_t until = from + run < end ? from + run : end;
    uint64_t      *work  = wanted <= SHARED_LIST ? block_scratch()->list : list;
    uint32_t       ties, all, above = 0, equal = 0;
    const uint32_t bar = threshold(keys, begin, end, wanted, &ties);

    for (uint32_t i = from + wtn_lane(); i - wtn_lane() < until; i += 32) {
        const uint32_t key = i < until ? keys[i] : 0;

        above += wtn_count_bits(wtn_ballot(key > bar));
        equal += wtn_count_bits(wtn_ballot(i < until && key == bar));
    }
    above = wtn_block_scan(wtn_lane() == 0 ? above : 0, block_scratch()->scan, &all);
    above = wtn_shuffle(above, 0);
    equal = wtn_block_scan(wtn_lane() == 0 ? equal : 0, block_scratch()->scan, &all);
    equal = wtn_shuffle(equal, 0);
    for (uint32_t i = from + wtn_lane(); i - wtn_lane() < until; i += 32) {
        const uint32_t key      = i < until ? keys[i] : 0;
        const uint32_t is_above = wtn_ballot(key > bar);
        const uint32_t is_equal = wtn_ballot(i < until && key == bar);
        const uint32_t tie      = equal + wtn_count_bits(is_equal & wtn_lanes_below());

        if (key > bar) {
            work[above + wtn_count_bits(is_above & wtn_lanes_below())] = entry_of(key, i);
        } else if (i < until && key == bar && tie < ties) {
            work[wanted - ties + tie] = entry_of(key, i);
        }
        above += wtn_count_bits(is_above);
        equal += wtn_count_bits(is_equal);
    }
    wtn_sync_block();
    sort_list(work, wanted);
    for (uint32_t i = wtn_thread(); work != list && i < wanted; i += BLOCK_THREADS) {
        list[i] = work[i];
    }
    wtn_sync_block();
}

template <bool block>
WTN_DEVICE void select(uint32_t *keys, uint32_t begin, uint32_t end, uint32_t wanted,
                       uint64_t *list)
{
    if (block) {
        select_by_block(keys, begin, end, wanted, list);
    } else {
        select_by_warp(keys, begin, end, wanted, list);
    }
}

/* ---- one token ---- */

WTN_DEVICE float choice_of(const topk_params_t &p, const arrays_t &a, uint32_t e)
{
    return p.correction != nullptr ? a.score[e] + p.correction[e] : a.score[e];
}

/* Fill scores and keys. False: a choice is NaN. */
template <bool block> WTN_DEVICE bool score(const topk_params_t &p, const arrays_t &a, int64_t t)
{
    const float   *logits = p.logits + t * p.expert_count;
    const uint32_t E      = p.expert_count;
    uint32_t       nan    = 0;

    for (uint32_t e = rank<block>(); e < E; e += size<block>()) {
        const float l = p.bias != nullptr ? logits[e] + p.bias[e] : logits[e];

        if (p.routing.score == WITAN_SCORE_SIGMOID) {
            a.score[e] = wtn_plain_sigmoid(l);
        } else if (p.routing.score == WITAN_SCORE_SQRT_SOFTPLUS) {
            a.score[e] = wtn_plain_sqrt_softplus(l);
        } else {
            a.score[e] = l;
        }
    }
    if (p.routing.score == WITAN_SCORE_SOFTMAX && !p.routing.score_after_topk) {
        softmax<block>(a.score, E);
    }
    for (uint32_t e = rank<block>(); e < E; e += size<block>()) {
        const float choice = choice_of(p, a, e);

        nan |= choice != choice ? 1 : 0;
        a.key[e] = key_of(choice);
    }
    nan = max_of<block>(nan);
    sync<block>();
    return nan == 0;
}

/* Score the groups and mask the experts of those not chosen. False: a group's score is NaN. */
template <bool block> WTN_DEVICE bool mask_groups(const topk_params_t &p, const arrays_t &a)
{
    const uint32_t groups = (uint32_t)p.routing.group_count;
    const uint32_t width  = p.expert_count / groups;
    const uint32_t masked = p.routing.mask_value == WITAN_MASK_ZERO ? key_of(0.0f) : 0;

    for (uint32_t g = 0; g < groups; g++) {
        float sum = 0.0f;

        select<block>(a.key, g * width, (g + 1) * width, p.group_best, a.list);
        for (uint32_t i = 0; i < p.group_best; i++) {
            sum += value_of((uint32_t)(a.list[i] >> 32));
        }
        if (sum != sum) {
            return false;
        }
        if (rank<block>() == 0) {
            a.group_key[g] = key_of(sum);
        }
        sync<block>(); /* the list is read; the next group writes it */
    }
    select<block>(a.group_key, 0, groups, (uint32_t)p.routing.group_topk, a.list);
    for (uint32_t i = rank<block>(); i < (uint32_t)p.routing.group_topk; i += size<block>()) {
        a.group_key[index_of(a.list[i])] = 0;
    }
    sync<block>();
    for (uint32_t e = rank<block>(); e < p.expert_count; e += size<block>()) {
        a.key[e] = a.group_key[e / width] == 0 ? key_of(choice_of(p, a, e)) : masked;
    }
    sync<block>();
    return true;
}

template <bool block>
WTN_DEVICE void weigh(const topk_params_t &p, const arrays_t &a, int32_t *ids, float *weights)
{
    float         *w = (float *)a.key; /* no longer needed */
    const uint32_t K = p.topk;

    for (uint32_t k = rank<block>(); k < K; k += size<block>()) {
        const uint32_t id = index_of(a.list[k]);

        ids[k] = (int32_t)id;
        w[k]   = a.score[id];
    }
    if (p.routing.score_after_topk) {
        softmax<block>(w, K);
    }
    if (p.routing.normalise) {
        float sum;

        sync<block>();
        sum = sum_of<block>(w, K) + p.routing.normalise_epsilon;
        for (uint32_t k = rank<block>(); k < K; k += size<block>()) {
            w[k] = w[k] / sum;
        }
    }
    for (uint32_t k = rank<block>(); k < K; k += size<block>()) {
        weights[k] = w[k] * p.routing.scale;
    }
}

template <bool block>
WTN_DEVICE void route_token(const topk_params_t &p, const arrays_t &a, int64_t t)
{
    int32_t *ids     = p.ids + t * p.topk;
    float   *weights = p.weights + t * p.topk;

    if (score<block>(p, a, t) && (p.routing.group_count == 1 || mask_groups<block>(p, a))) {
        select<block>(a.key, 0, p.expert_count, p.topk, a.list);
        weigh<block>(p, a, ids, weights);
    } else {
        for (uint32_t k = rank<block>(); k < p.topk; k += size<block>()) {
            ids[k]     = (int32_t)k;
            weights[k] = wtn_float_from_bits(0x7fc00000u);
        }
    }
    sync<block>();
}

WTN_DEVICE arrays_t arrays_at(const topk_params_t &p, char *memory)
{
    arrays_t a;

    a.list      = (uint64_t *)memory;
    a.score     = (float *)(a.list + p.expert_count);
    a.key       = (uint32_t *)(a.score + p.expert_count);
    a.group_key = a.key + p.expert_count;
    return a;
}

template <int each>
WTN_KERNEL(HELD_THREADS, HELD_BLOCKS(each))
held_kernel(WTN_PARAMS(topk_params_t, p))
{
    const int64_t step = (int64_t)wtn_block_count() * (HELD_THREADS / 32);
    int64_t       t    = (int64_t)wtn_block() * (HELD_THREADS / 32) + wtn_warp();
    held_t<each>  next;

    wtn_grid_wait();
    next = held_logits<each>(p, t);
    for (; t < p.token_count; t += step) {
        held_t<each> score = next;

        next = held_logits<each>(p, t + step);
        held_token(p, score, t);
    }
    wtn_grid_release();
}

WTN_KERNEL(WARP_THREADS, 8) warp_kernel(WTN_PARAMS(topk_params_t, p))
{
    wtn_grid_wait();
    const uint32_t warps = WARP_THREADS / 32, warp = wtn_thread() >> 5;
    const arrays_t a = arrays_at(p, wtn_shared() + warp * p.array_bytes);

    for (int64_t t = (int64_t)wtn_block() * warps + warp; t < p.token_count;
         t += (int64_t)wtn_block_count() * warps) {
        route_token<false>(p, a, t);
    }
    wtn_grid_release();
}

WTN_KERNEL(BLOCK_THREADS, 1) block_kernel(WTN_PARAMS(topk_params_t, p))
{
    wtn_grid_wait();
    const arrays_t a = arrays_at(p, p.workspace + wtn_block() * p.array_bytes);

    for (int64_t t = wtn_block(); t < p.token_count; t += wtn_block_count()) {
        route_token<true>(p, a, t);
    }
    wtn_grid_release();
}

/* ---- the host's side ---- */

/* list, score, key and the groups' keys, of which there are E at most. */
static size_t array_bytes(int32_t expert_count, int32_t group_count)
{
    return wtn_align_up(16 * (size_t)expert_count + 4 * (size_t)group_count, 16);
}

extern "C" size_t wtn_cuda_topk_workspace_bytes(int32_t expert_count, int32_t topk,
                                                int32_t thread_count)
{
    (void)topk;
    (void)thread_count;
    if (expert_count <= WARP_EXPERTS) {
        return 0;
    }
    return array_bytes(expert_count, expert_count) * (size_t)wtn_cuda_sm_count(0);
}

static topk_params_t params_of(const wtn_topk_args_t *args)
{
    topk_params_t p = {};

    p.logits       = args->logits;
    p.bias         = args->bias;
    p.correction   = args->correction_bias;
    p.ids          = args->ids;
    p.weights      = args->weights;
    p.workspace    = (char *)args->workspace;
    p.token_count  = args->token_count;
    p.expert_count = (uint32_t)args->expert_count;
    p.topk         = (uint32_t)args->topk;
    p.routing      = *args->routing;
    p.group_best   = args->routing->group_count > 1
                         ? (uint32_t)wtn_topk_group_best(args->routing, args->topk)
                         : 0;
    return p;
}

/* Are the experts few, and the groups, if any, registers? */
static bool can_hold(const topk_params_t *p)
{
    const uint32_t groups = (uint32_t)p->routing.group_count;

    return p->expert_count <= 32 * HELD_MAX && p->topk <= 32 &&
           (groups == 1 || p->expert_count == 32 * groups);
}

static witan_status_t run_held(const topk_params_t *p, wtn_launch_t launch)
{
    const int64_t blocks = wtn_ceil_div(p->token_count, HELD_THREADS / 32);
    const int     each   = p->expert_count <= 32 * 4 ? 4 : p->expert_count <= 32 * 8 ? 8 : HELD_MAX;

    launch.threads = HELD_THREADS;
    launch.blocks  = wtn_grid(blocks, HELD_BLOCKS(each), 0);
    return wtn_launch_early(&launch,
                            each == 4   ? held_kernel<4>
                            : each == 8 ? held_kernel<8>
                                        : held_kernel<HELD_MAX>,
                            p);
}

extern "C" witan_status_t wtn_cuda_topk(const wtn_topk_args_t *args)
{
    const size_t needed =
        wtn_cuda_topk_workspace_bytes(args->expert_count, args->topk, args->thread_count);
    topk_params_t params = params_of(args);
    wtn_launch_t  launch = {};

    if (args->token_count == 0) {
        return WITAN_OK;
    }
    if (args->expert_count > WTN_CUDA_TOPK_EXPERTS_MAX) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "topk: experts: expected up to %d; found %d",
                         WTN_CUDA_TOPK_EXPERTS_MAX, args->expert_count);
    }
    if (args->workspace_bytes < needed) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "topk: workspace: expected %zu bytes; found %zu", needed,
                         args->workspace_bytes);
    }
    launch.name   = "topk";
    launch.stream = args->stream;
    if (can_hold(&params)) {
        return run_held(&params, launch);
    }
    if (args->expert_count <= WARP_EXPERTS) {
        const int64_t warps = WARP_THREADS / 32;

        params.array_bytes  = array_bytes(args->expert_count, args->routing->group_count);
        launch.threads      = WARP_THREADS;
        launch.blocks       = wtn_grid((args->token_count + warps - 1) / warps, 16, 0);
        launch.shared_bytes = (size_t)warps * params.array_bytes;
        return wtn_launch_early(&launch, warp_kernel, &params);
    }
    params.array_bytes  = array_bytes(args->expert_count, args->expert_count);
    launch.threads      = BLOCK_THREADS;
    launch.blocks       = wtn_grid(args->token_count, 1, 0);
    launch.shared_bytes = sizeof(scratch_t);
    return wtn_launch_early(&launch, block_kernel, &params);
}

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/half.h"
#include "core/util.h"
#include "kernels/topk/topk.h"

/* Up to this many a sorted list is kept, beyond it a heap: insertion into the list costs K. */
#define LIST_MAX 64
/* Experts compared at once with the smallest value of a full list. */
#define BLOCK 16
/* Fewer logits than this are not worth waking a thread for. */
#define LOGITS_PER_THREAD_MIN 4096

/* The largest `wanted` values seen so far, offered by ascending index. */
typedef struct selection {
    int32_t   wanted, count;
    int32_t  *ids;            /* [wanted] descending by value once finished */
    float     list[LIST_MAX]; /* the values of ids; wanted <= LIST_MAX only */
    uint64_t *heap;           /* else: [wanted] keys, the smallest first */
} selection_t;

/* Keys order as values do, equal values by descending index, so that the largest key is the one
 * to take. Adding 0 makes -0 and 0 equal. */
static uint64_t key_of(float value, int32_t index)
{
    uint32_t bits = wtn_float_bits(value + 0.0f);

    bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (UINT32_MAX - (uint32_t)index);
}

static int32_t index_of(uint64_t key)
{
    return (int32_t)(UINT32_MAX - (uint32_t)key);
}

/* Put `key` at the root of heap[count] and let it sink. */
static void heap_sink(uint64_t *heap, int32_t root, int32_t count, uint64_t key)
{
    int32_t child;

    for (; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && heap[child + 1] < heap[child]) {
            child++;
        }
        if (heap[child] >= key) {
            break;
        }
        heap[root] = heap[child];
    }
    heap[root] = key;
}

static void heap_offer(selection_t *selection, const float *c, int32_t begin, int32_t end)
{
    const int32_t wanted = selection->wanted;
    uint64_t     *heap   = selection->heap;

    for (int32_t i = begin; i < end; i++) {
        uint64_t key = key_of(c[i], i);

        if (selection->count < wanted) {
            heap[selection->count++] = key;
            for (int32_t j = wanted / 2; selection->count == wanted && j-- > 0;) {
                heap_sink(heap, j, wanted, heap[j]);
            }
        } else if (key > heap[0]) {
            heap_sink(heap, 0, wanted, key);
        }
    }
}

static void list_insert(selection_t *selection, float value, int32_t index)
{
    int32_t at = selection->count < selection->wanted ? selection->count++ : selection->wanted - 1;

    assert(at < LIST_MAX);
    for (; at > 0 && selection->list[at - 1] < value; at--) { /* an equal one came first: stays */
        selection->list[at] = selection->list[at - 1];
        selection->ids[at]  = selection->ids[at - 1];
    }
    selection->list[at] = value;
    selection->ids[at]  = index;
}

/* Is any of c[0 .. BLOCK) above `bar`? */
static bool block_above(const float *c, float bar)
{
    int above = 0;

    for (int i = 0; i < BLOCK; i++) {
        above |= c[i] > bar;
    }
    return above != 0;
}

static void list_offer(selection_t *selection, const float *c, int32_t begin, int32_t end)
{
    const int32_t last = selection->wanted - 1;
    int32_t       i    = begin;

    for (; i < end && selection->count < selection->wanted; i++) {
        list_insert(selection, c[i], i);
    }
    for (; i < end; i += BLOCK) {
        const int32_t block_end = end - i < BLOCK ? end : i + BLOCK;

        if (block_end - i == BLOCK && !block_above(c + i, selection->list[last])) {
            continue;
        }
        for (int32_t j = i; j < block_end; j++) {
            if (c[j] > selection->list[last]) {
                list_insert(selection, c[j], j);
            }
        }
    }
}

static void offer(selection_t *selection, const float *c, int32_t begin, int32_t end)
{
    if (selection->wanted <= LIST_MAX) {
        list_offer(selection, c, begin, end);
    } else {
        heap_offer(selection, c, begin, end);
    }
}

/* Everything was offered: ids in descending order. */
static void finish(selection_t *selection)
{
    uint64_t *heap = selection->heap;

    if (selection->wanted <= LIST_MAX) {
        return;
    }
    for (int32_t count = selection->wanted - 1; count >= 0; count--) {
        const uint64_t smallest = heap[0];

        heap_sink(heap, 0, count, heap[count]);
        heap[count]           = smallest;
        selection->ids[count] = index_of(smallest);
    }
}

static void start(selection_t *selection, int32_t wanted, int32_t *ids, uint64_t *heap)
{
    selection->wanted = wanted;
    selection->count  = 0;
    selection->ids    = ids;
    selection->heap   = heap;
}

/* scratch->flag: the groups that stay. False: a group's score is NaN. */
static bool choose_groups(const wtn_topk_args_t *args, wtn_topk_scratch_t *scratch)
{
    const witan_routing_t *routing = args->routing;
    const int32_t          groups  = routing->group_count;
    const int32_t          width   = args->expert_count / groups;
    selection_t            best;

    for (int32_t g = 0; g < groups; g++) {
        float sum = 0.0f;

        start(&best, wtn_topk_group_best(routing, args->topk), scratch->index, scratch->key);
        offer(&best, scratch->choice, g * width, (g + 1) * width);
        finish(&best);
        for (int32_t i = 0; i < best.wanted; i++) {
            sum += scratch->choice[best.ids[i]];
        }
        if (isnan(sum)) {
            return false;
        }
        scratch->group_score[g] = sum;
        scratch->flag[g]        = false;
    }
    start(&best, routing->group_topk, scratch->index, scratch->key);
    offer(&best, scratch->group_score, 0, groups);
    finish(&best);
    for (int32_t i = 0; i < best.wanted; i++) {
        scratch->flag[best.ids[i]] = true;
    }
    return true;
}

static void route_token(const wtn_topk_args_t *args, int64_t t, wtn_topk_scratch_t *scratch)
{
    const witan_routing_t *routing = args->routing;
    const int32_t          groups  = routing->group_count;
    const int32_t          width   = args->expert_count / groups;
    selection_t            best;

    if (!wtn_topk_scores(args, t, scratch) || (groups > 1 && !choose_groups(args, scratch))) {
        wtn_topk_nan(args, t);
        return;
    }
    start(&best, args->topk, args->ids + (size_t)t * (size_t)args->topk, scratch->key);
    if (groups == 1) {
        offer(&best, scratch->choice, 0, args->expert_count);
    } else {
        for (int32_t g = 0; g < groups; g++) {
            if (!scratch->flag[g] && routing->mask_value == WITAN_MASK_NEG_INF) {
                continue;
            }
            if (!scratch->flag[g]) {
                memset(scratch->choice + g * width, 0, (size_t)width * sizeof(float));
            }
            offer(&best, scratch->choice, g * width, (g + 1) * width);
        }
    }
    finish(&best);
    wtn_topk_weights(args, t, scratch->scores);
}

witan_status_t wtn_host_topk(const wtn_topk_args_t *args)
{
    const int64_t T      = args->token_count;
    const int64_t useful = wtn_ceil_div(T * args->expert_count, LOGITS_PER_THREAD_MIN);
    const int32_t threads =
        (int32_t)wtn_max_i64(1, wtn_min_i64(wtn_min_i64(args->thread_count, T), useful));
    wtn_topk_scratch_t last;
    witan_status_t     status = wtn_topk_carve(args, threads - 1, &last);

    if (status != WITAN_OK) {
        return status;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int32_t part = 0; part < threads; part++) {
        wtn_topk_scratch_t scratch;

        (void)wtn_topk_carve(args, part, &scratch); /* fits: the last one does */
        for (int64_t t = wtn_part_begin(T, threads, part); t < wtn_part_begin(T, threads, part + 1);
             t++) {
            route_token(args, t, &scratch);
        }
    }
    return WITAN_OK;
}

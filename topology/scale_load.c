#include "topology/scale_load.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/util.h"

#define DRAW_TOKENS 256

/* What counting tokens needs. */
typedef struct counter {
    int32_t *owner;     /* [E] expert index that holds it */
    int64_t *last;      /* [ep] token that last went to this rank */
    int64_t *last_node; /* [domain_count] the same of a node */
    int32_t *ids;       /* [DRAW_TOKENS, K] */
} counter_t;

void wtn_scale_load_free(wtn_scale_load_t *load)
{
    free(load->column);
    free(load->pair_tokens);
    free(load->pair_rows);
    free(load->domain_tokens);
    free(load->domain_rows);
    free(load->expert_rows);
    free(load->rank_rows);
    *load = (wtn_scale_load_t){0};
}

static void count_token(wtn_scale_load_t *load, const counter_t *counter, int32_t topk,
                        int32_t source, const int32_t *ids, int64_t stamp, float weight)
{
    size_t row = (size_t)source * (size_t)load->column_count;
    size_t run = (size_t)source * (size_t)load->domain_count;

    for (int32_t k = 0; k < topk; k++) {
        int32_t expert = ids[k], rank, node;
        size_t  pair;

        if (expert < 0) {
            continue;
        }
        rank = counter->owner[expert];
        node = rank / load->domain_size;
        pair = row + (size_t)load->column[rank];
        load->expert_rows[expert] += (double)weight;
        load->rank_rows[rank] += (double)weight;
        load->pair_rows[pair] += weight;
        load->domain_rows[run + (size_t)node] += weight;
        if (counter->last[rank] != stamp) {
            counter->last[rank] = stamp;
            load->pair_tokens[pair] += weight;
        }
        if (counter->last_node[node] != stamp) {
            counter->last_node[node] = stamp;
            load->domain_tokens[run + (size_t)node] += weight;
        }
    }
}

static void count_all(wtn_scale_load_t *load, const counter_t *counter, int32_t topk,
                      const wtn_scale_sampler_t *sampler, int64_t sample_max)
{
    int64_t wanted = (int64_t)load->token_count, stamp = 0;
    int64_t most_drawn = wtn_max_i64(sample_max / load->ep, 1);
    double  total = 0, most = 0;

    for (int32_t s = 0; s < load->ep; s++) {
        int64_t tokens = sampler->count(sampler->context, s, load->ep, wanted);
        int64_t drawn  = wtn_min_i64(tokens, most_drawn);

        for (int64_t begin = 0; begin < drawn; begin += DRAW_TOKENS) {
            int64_t count = wtn_min_i64(DRAW_TOKENS, drawn - begin);

            sampler->fill(sampler->context, s * wanted + begin, count, counter->ids);
            for (int64_t t = 0; t < count; t++) {
                count_token(load, counter, topk, s, counter->ids + t * topk, ++stamp,
                            (float)((double)tokens / (double)drawn));
            }
        }
    }
    for (int32_t r = 0; r < load->ep; r++) {
        total += load->rank_rows[r];
        most = load->rank_rows[r] > most ? load->rank_rows[r] : most;
    }
    load->imbalance = total > 0 ? most * load->ep / total : 1;
}

static witan_status_t allocate(wtn_scale_load_t *load, counter_t *counter,
                               const wtn_scale_shape_t *shape)
{
    size_t ep = (size_t)load->ep, nodes = (size_t)load->domain_count;
    size_t columns = (size_t)load->column_count;

    load->column        = calloc(ep, sizeof(int32_t));
    load->pair_tokens   = calloc(ep * columns, sizeof(float));
    load->pair_rows     = calloc(ep * columns, sizeof(float));
    load->domain_tokens = calloc(ep * nodes, sizeof(float));
    load->domain_rows   = calloc(ep * nodes, sizeof(float));
    load->expert_rows   = calloc((size_t)shape->expert_count, sizeof(double));
    load->rank_rows     = calloc(ep, sizeof(double));
    counter->owner      = calloc((size_t)shape->expert_count, sizeof(int32_t));
    counter->last       = calloc(ep, sizeof(int64_t));
    counter->last_node  = calloc(nodes, sizeof(int64_t));
    counter->ids        = calloc(DRAW_TOKENS * (size_t)shape->topk, sizeof(int32_t));
    if (load->column == NULL || load->pair_tokens == NULL || load->pair_rows == NULL ||
        load->domain_tokens == NULL || load->domain_rows == NULL || load->expert_rows == NULL ||
        load->rank_rows == NULL || counter->owner == NULL || counter->last == NULL ||
        counter->last_node == NULL || counter->ids == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "load: %" PRId32 " ranks, %" PRId32 " experts", load->ep,
                         shape->expert_count);
    }
    return WITAN_OK;
}

witan_status_t wtn_scale_load_make(wtn_scale_load_t *load, const wtn_scale_shape_t *shape,
                                   int32_t ep, int32_t domain_size, int64_t token_count,
                                   const wtn_scale_sampler_t *sampler, int64_t sample_max)
{
    counter_t      counter = {0};
    int32_t        column  = 0;
    witan_status_t status;

    *load = (wtn_scale_load_t){.ep           = ep,
                               .domain_size  = domain_size,
                               .domain_count = (int32_t)wtn_ceil_div(ep, domain_size),
                               .column_count = ep < shape->expert_count ? ep : shape->expert_count,
                               .token_count  = (double)token_count};
    WTN_TRY(allocate(load, &counter, shape));
    for (int32_t r = 0; r < ep; r++) {
        int64_t begin = wtn_part_begin(shape->expert_count, ep, r);
        int64_t end   = wtn_part_begin(shape->expert_count, ep, r + 1);

        load->column[r] = begin < end ? column++ : -1;
        for (int64_t e = begin; e < end; e++) {
            counter.owner[e] = r;
        }
    }
    count_all(load, &counter, shape->topk, sampler, sample_max);

fail:
    free(counter.owner);
    free(counter.last);
    free(counter.last_node);
    free(counter.ids);
    if (status != WITAN_OK) {
        wtn_scale_load_free(load);
    }
    return status;
}

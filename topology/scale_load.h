/* Where the tokens of a step go: counted from a sample of its routing. */
#ifndef WTN_SCALE_LOAD_H
#define WTN_SCALE_LOAD_H

#include <stddef.h>
#include <stdint.h>

#include <witan/status.h>

typedef struct wtn_scale_shape {
    int64_t hidden_size, inter_size, shared_inter_size;
    int32_t expert_count, topk;
    double  value_bytes;  /* of a value of a token, as it travels and is computed */
    double  return_bytes; /* of a value of a row on its way back */
    double  weight_bytes; /* of a value of an expert's weights */
    double  matrices;     /* of an expert: 3 gated, 2 not */
    double  header_bytes; /* of what announces a pair's tokens, and of each of its rows */
    double  row_list_bytes;
} wtn_scale_shape_t;

/* An endless stream of tokens: the experts of any run of it, -1 for none. */
typedef struct wtn_scale_sampler {
    void (*fill)(const void *context, int64_t token_begin, int64_t token_count, int32_t *ids);
    /* Tokens of a source where each shall have `token_count`. */
    int64_t (*count)(const void *context, int32_t source, int32_t source_count,
                     int64_t token_count);
    const void *context;
} wtn_scale_sampler_t;

/* Ranks of an expert-parallel group: expert index i is on node i * tp / ranks_per_node. */
typedef struct wtn_scale_load {
    int32_t  ep, domain_count, domain_size; /* domains: nodes the group has ranks on */
    double   token_count;                   /* of each source */
    int32_t *column;                        /* [ep] of a destination below; -1: it has no experts */
    int32_t  column_count;
    float   *pair_tokens, *pair_rows;     /* [ep, column_count] source x destination */
    float   *domain_tokens, *domain_rows; /* [ep, domain_count] source x node */
    double  *expert_rows;                 /* [E] */
    double  *rank_rows;                   /* [ep] */
    double   imbalance;                   /* max / mean of rank_rows; 1 without rows */
} wtn_scale_load_t;

/* Count `token_count` tokens of each of `ep` sources, `domain_size` of which share a node; experts
 * lie in contiguous runs. Of larger steps `sample_max` tokens in all are drawn and their counts
 * scaled. WITAN_E_MEMORY. */
witan_status_t wtn_scale_load_make(wtn_scale_load_t *load, const wtn_scale_shape_t *shape,
                                   int32_t ep, int32_t domain_size, int64_t token_count,
                                   const wtn_scale_sampler_t *sampler, int64_t sample_max);
void           wtn_scale_load_free(wtn_scale_load_t *load);

/* Tokens, or rows, that `source` has for `destination`. */
static inline double wtn_scale_pair(const wtn_scale_load_t *load, const float *pairs,
                                    int32_t source, int32_t destination)
{
    int32_t column = load->column[destination];

    return column < 0 ? 0
                      : (double)pairs[(size_t)source * (size_t)load->column_count + (size_t)column];
}

#endif

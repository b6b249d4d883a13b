/* Backends: memory and kernels behind one table: host in kernels/host.c, cuda in
 * kernels/cuda/backend_cuda.c.
 *
 * Every function that computes takes the threads it may use and a workspace whose size a sibling
 * function told before; none of them allocates or waits for a peer. Arrays are in the backend's
 * memory. The host computes before it returns; cuda queues on `stream` (a cudaStream_t) and
 * returns. */
#ifndef WTN_BACKEND_H
#define WTN_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <witan/layer.h>
#include <witan/plan.h>

/* ---- experts: grouped feed-forward networks with packed weights ---- */

typedef struct wtn_tier wtn_tier_t; /* kernels/tier.h */

typedef struct wtn_ffn_spec {
    int64_t            hidden_size;
    int64_t            inter_begin, inter_end; /* the slice of the width held here */
    int32_t            expert_count;           /* held here; may be 0 */
    const int32_t     *experts; /* [expert_count] global ids; NULL: the shared expert */
    witan_dtype_t      dtype;
    witan_activation_t activation;
    bool               has_gate_up_bias, has_down_bias;
    const wtn_tier_t  *tier;
} wtn_ffn_spec_t;

typedef struct wtn_ffn wtn_ffn_t; /* the backend's own */

/* Rows to compute: row i is row row_in[i] of x, goes through expert row_expert[i]
 * (0..expert_count-1) and its result, rounded to dtype, is stored as row row_out[i] of out. */
typedef struct wtn_ffn_args {
    const void      *x;                 /* [*, H] dtype */
    void            *out;               /* [*, H] dtype */
    int64_t          row_count;         /* <= row_count_max of the workspace */
    const int32_t   *row_expert;        /* [row_count]; NULL: all expert 0; cuda: -1: no row */
    const int64_t   *row_in;            /* [row_count]; NULL: row i */
    const int64_t   *row_out;           /* [row_count]; NULL: row i */
    int64_t         *expert_row_counts; /* out [expert_count], or NULL */
    witan_executor_t executor;
    int32_t          masked_rows_max; /* threshold of AUTO; 0: the executor's slot size */
    witan_executor_t executor_taken;  /* out */
    void            *workspace;
    size_t           workspace_bytes;
    int32_t          thread_count;
    void            *stream;
    int32_t          sm_reserved; /* cuda: multiprocessors left to communication */
    void (*poll)(void *context);  /* called now and then by the calling thread; may be NULL */
    void *poll_context;
} wtn_ffn_args_t;

/* ---- gate: fp32 scores of a small linear layer ---- */

typedef struct wtn_gate_spec {
    int64_t           hidden_size;
    int32_t           out_count; /* E of the router, 1 of the shared expert's gate */
    witan_weight_t    weight;    /* [out_count, H] */
    witan_dtype_t     x_dtype;
    witan_dtype_t     weight_dtype; /* held so; products and sums in fp32 */
    const wtn_tier_t *tier;
} wtn_gate_spec_t;

typedef struct wtn_gate wtn_gate_t;

typedef struct wtn_gate_args {
    const void *x; /* [T, H] x_dtype */
    int64_t     token_count;
    float      *logits; /* [T, out_count] */
    void       *workspace;
    size_t      workspace_bytes;
    int32_t     thread_count;
    void       *stream;
} wtn_gate_args_t;

/* ---- top-k of logits ---- */

typedef struct wtn_topk_args {
    const witan_routing_t *routing;
    int32_t                expert_count, topk;
    const float           *logits;          /* [T, E] */
    const float           *bias;            /* [E] or NULL, added to logits */
    const float           *correction_bias; /* [E] or NULL */
    int64_t                token_count;
    int32_t               *ids;     /* out [T, K] */
    float                 *weights; /* out [T, K] */
    void                  *workspace;
    size_t                 workspace_bytes;
    int32_t                thread_count;
    void                  *stream;
} wtn_topk_args_t;

/* ---- combine: ordered weighted sums of rows ---- */

typedef struct wtn_combine_args {
    int64_t        token_count, hidden_size;
    int32_t        slot_count;   /* rows per token: K, or ranks */
    witan_dtype_t  dtype;        /* of rows and shared */
    witan_dtype_t  out_dtype;    /* dtype, or F32 for partial sums */
    const void    *rows;         /* [*, H] */
    const int64_t *row_index;    /* [T, slot_count], -1: no row */
    const float   *weights;      /* [T, slot_count]; NULL: all 1 */
    const void    *shared;       /* [T, H] or NULL */
    const float   *shared_logit; /* [T] or NULL; shared is multiplied by its sigmoid */
    void          *out;          /* [T, H]: shared + sum by ascending slot, fp32, rounded once */
    int32_t        thread_count;
    void          *stream;
} wtn_combine_args_t;

/* out[i] = parts[0][i] + parts[1][i] + ... in fp32, rounded once. */
typedef struct wtn_reduce_args {
    const float *const
                 *parts; /* [part_count] arrays of count floats; the list itself is the host's */
    int32_t       part_count;
    int64_t       count;
    witan_dtype_t out_dtype;
    void         *out;
    int32_t       thread_count;
    void         *stream;
} wtn_reduce_args_t;

/* out row i = x row index[i]; rows of row_bytes bytes. */
typedef struct wtn_gather_args {
    const void    *x;
    const int64_t *index;
    int64_t        row_count;
    size_t         row_bytes;
    void          *out;
    int32_t        thread_count;
    void          *stream;
} wtn_gather_args_t;

typedef struct wtn_backend {
    const char *name;
    bool (*probe)(char *reason, size_t reason_bytes);
    const wtn_tier_t *const *tiers; /* from the plainest to the fastest; ends with NULL */

    /* Memory where arrays live. `copy` is done when it returns where either side is the host's
     * ordinary memory. `pinned` memory is the host's, and reached by the device. */
    witan_status_t (*alloc)(void **out, size_t bytes);
    void (*free)(void *memory);
    witan_status_t (*pinned_alloc)(void **out, size_t bytes);
    void (*pinned_free)(void *memory);
    witan_status_t (*copy)(void *to, const void *from, size_t bytes, void *stream);

    /* For benchmarks; they wait. `measure` runs `call` once and tells the seconds it took, on cuda
     * those of the device, with the L2 cache flushed before. What bounds any kernel, 0 where it can
     * not be measured: `peak`, FLOP/s of multiply-adds on dtype (cuda: of a large cuBLAS product);
     * `read_bandwidth`, bytes/s of reading an array of `bytes`, beyond the caches. */
    witan_status_t (*measure)(witan_status_t (*call)(void *context), void *context, void *stream,
                              double *seconds);
    double (*peak)(const wtn_tier_t *tier, witan_dtype_t dtype, int32_t thread_count);
    double (*read_bandwidth)(size_t bytes, int32_t thread_count);

    witan_status_t (*ffn_create)(wtn_ffn_t **out, const wtn_ffn_spec_t *spec,
                                 const witan_weights_t *weights);
    void (*ffn_destroy)(wtn_ffn_t *ffn);
    size_t (*ffn_weight_bytes)(const wtn_ffn_spec_t *spec);
    size_t (*ffn_workspace_bytes)(const wtn_ffn_spec_t *spec, int64_t row_count_max,
                                  int32_t masked_rows_max, int32_t thread_count);
    witan_status_t (*ffn_run)(const wtn_ffn_t *ffn, wtn_ffn_args_t *args);

    /* Weights that move; all NULL where they can not. The packed weights of an expert are
     * ffn_expert_bytes from ffn_weights(index) on, the same on every rank with the same spec but
     * for its experts. Beside the spec's experts there are spare ones, counted on behind them:
     * `reserve` sees to so many, `release` gives their memory back. */
    size_t (*ffn_expert_bytes)(const wtn_ffn_spec_t *spec);
    witan_status_t (*ffn_reserve)(wtn_ffn_t *ffn, int32_t spare_count);
    void (*ffn_release)(wtn_ffn_t *ffn);
    void *(*ffn_weights)(wtn_ffn_t *ffn, int32_t index);
    void (*ffn_exchange)(wtn_ffn_t *ffn, int32_t a, int32_t b); /* a has what b had, and b a's */

    witan_status_t (*gate_create)(wtn_gate_t **out, const wtn_gate_spec_t *spec,
                                  const witan_weights_t *weights);
    void (*gate_destroy)(wtn_gate_t *gate);
    size_t (*gate_weight_bytes)(const wtn_gate_spec_t *spec);
    size_t (*gate_workspace_bytes)(const wtn_gate_spec_t *spec, int64_t token_count_max,
                                   int32_t thread_count);
    witan_status_t (*gate_run)(const wtn_gate_t *gate, const wtn_gate_args_t *args);

    size_t (*topk_workspace_bytes)(int32_t expert_count, int32_t topk, int32_t thread_count);
    witan_status_t (*topk)(const wtn_topk_args_t *args);
    witan_status_t (*combine)(const wtn_combine_args_t *args);
    witan_status_t (*reduce)(const wtn_reduce_args_t *args);
    witan_status_t (*gather)(const wtn_gather_args_t *args);

    const struct wtn_device *device; /* kernels/device.h; NULL: steps are computed on the host */
} wtn_backend_t;

extern const wtn_backend_t wtn_backend_host;
extern const wtn_backend_t wtn_backend_cuda;

/* All backends in the order `auto` tries them; ends with NULL. */
extern const wtn_backend_t *const wtn_backends[];

/* Find a backend by name ("auto": the first whose probe passes). WITAN_E_ARGUMENT for an unknown
 * name, listing the known ones; WITAN_E_UNSUPPORTED with the probe's reason. */
witan_status_t wtn_backend_select(const char *name, const wtn_backend_t **out);

#endif

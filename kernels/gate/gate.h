/* The gate: fp32 logits of a small linear layer. */
#ifndef WTN_GATE_H
#define WTN_GATE_H

#include "kernels/backend.h"

/* The slots of wtn_backend_host. A token's logits do not depend on the other tokens. */
witan_status_t wtn_host_gate_create(wtn_gate_t **out, const wtn_gate_spec_t *spec,
                                    const witan_weights_t *weights);
void           wtn_host_gate_destroy(wtn_gate_t *gate);
size_t         wtn_host_gate_weight_bytes(const wtn_gate_spec_t *spec);
size_t         wtn_host_gate_workspace_bytes(const wtn_gate_spec_t *spec, int64_t token_count_max,
                                             int32_t thread_count);
witan_status_t wtn_host_gate_run(const wtn_gate_t *gate, const wtn_gate_args_t *args);

/* The slots of wtn_backend_cuda: another order of the sum than the host's, the same for every token
 * whatever the others. */
#ifdef __cplusplus
extern "C" {
#endif
witan_status_t wtn_cuda_gate_create(wtn_gate_t **out, const wtn_gate_spec_t *spec,
                                    const witan_weights_t *weights);
void           wtn_cuda_gate_destroy(wtn_gate_t *gate);
size_t         wtn_cuda_gate_weight_bytes(const wtn_gate_spec_t *spec);
size_t         wtn_cuda_gate_workspace_bytes(const wtn_gate_spec_t *spec, int64_t token_count_max,
                                             int32_t thread_count);
witan_status_t wtn_cuda_gate_run(const wtn_gate_t *gate, const wtn_gate_args_t *args);
#ifdef __cplusplus
}
#endif

/* The reference: logits[t][n] = sum over k ascending of x[t][k] * weight[n][k], in fp32. */
typedef struct wtn_gate_ref_args {
    int64_t       H, token_count;
    int32_t       out_count;
    witan_dtype_t x_dtype, weight_dtype;
    const void   *x;      /* [T, H] */
    const void   *weight; /* [out_count, H] */
    float        *logits; /* [T, out_count] */
} wtn_gate_ref_args_t;

void wtn_gate_ref(const wtn_gate_ref_args_t *args);

#endif

/* The float64 reference of a whole block, written apart from the kernels: what every backend,
 * layout and executor is compared with. */
#ifndef WTN_REFERENCE_H
#define WTN_REFERENCE_H

#include <witan/layer.h>

/* The block on T tokens in float64, by scalar loops over the stored weights.
 *
 * config, weights  as for witan_layer_create; `weights` gives F32, one tensor of one expert at a
 *                  time, and only experts with tokens are read.
 * hidden           [T, H] config->dtype
 * ids, gate        [T, K] the routing to use, -1: no expert; ids NULL: route in float64. Logits
 *                  that nearly tie may choose differently in fp32, so comparisons pass the ids and
 *                  weights of the run they check.
 * out              [T, H]
 * ids_out, gate_out [T, K] the routing used; either may be NULL.
 *
 * Local; allocates. WITAN_E_CONFIG: config is contradictory; WITAN_E_MEMORY; what `read` returned.
 */
witan_status_t wtn_reference_layer(const witan_layer_config_t *config,
                                   const witan_weights_t *weights, int64_t token_count,
                                   const void *hidden, const int32_t *ids, const float *gate,
                                   double *out, int32_t *ids_out, double *gate_out);

/* ||y - r||2 / ||r||2 over `count` elements. NaN if any is NaN; 0 if both are zero; Inf if only r
 * is zero. */
double wtn_error_norm(const void *y, witan_dtype_t dtype, const double *reference, int64_t count);

/* The largest error norm allowed for a dtype: 3e-6, 1e-3, 5e-3. */
double wtn_tolerance(witan_dtype_t dtype);

#endif

/* The activation registry: names and parameters of configurations -> witan_activation_t. The one
 * place to add an activation is WITAN_ACTIVATION_LIST and the scalar formula in activation.c, with
 * its vector form in kernels/activation/. */
#ifndef WTN_ACTIVATION_H
#define WTN_ACTIVATION_H

#include <witan/layer.h>

/* Look up a name or alias ("silu", "gelu_pytorch_tanh", "relu_squared"...); sets kind and the
 * kind's default parameter, nothing else. WITAN_E_CONFIG: unknown name, with the known ones listed.
 */
witan_status_t wtn_activation_find(const char *name, witan_activation_t *activation);

/* Set a named parameter ("alpha", "beta", "negative_slope"). WITAN_E_CONFIG if the kind has no such
 * parameter or the value is not finite. */
witan_status_t wtn_activation_set(witan_activation_t *activation, const char *parameter,
                                  double value);

/* Registered name of a kind; "?" if there is none. */
const char *wtn_activation_name(witan_activation_kind_t kind);

/* Kind known, parameters finite and allowed, limit >= 0. WITAN_E_CONFIG with the field. */
witan_status_t wtn_activation_check(const witan_activation_t *activation);

/* The reference: f(x) in fp32, and the gated whole h(g, u) as in witan_activation_t. */
float wtn_activation_ref(const witan_activation_t *activation, float x);
float wtn_activation_gated_ref(const witan_activation_t *activation, float g, float u);
/* The same in float64, written apart from the above, for the float64 reference of a layer. */
double wtn_activation_gated_ref64(const witan_activation_t *activation, double g, double u);

#endif

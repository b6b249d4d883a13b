/* One network of any backend with all it was made from, and the reference of its rows. */
#ifndef TESTS_KERNELS_NET_H
#define TESTS_KERNELS_NET_H

#include "data.h"

#include "kernels/ffn/ffn.h"

typedef struct shape {
    int64_t H, I;
    int32_t experts;
    int64_t rows;
} shape_t;

typedef struct net {
    const wtn_backend_t *backend;
    shape_t              shape;
    witan_dtype_t        dtype;
    witan_activation_t   activation;
    bool                 bias;
    void                *gate, *up, *down;
    float               *gate_bias, *up_bias, *down_bias;
    data_weights_t       data;
    int32_t             *ids;
    wtn_ffn_spec_t       spec;
    wtn_ffn_t           *ffn;
} net_t;

/* ||y - r|| / ||r|| of the contract, against a reference that rounds h as the kernels do. Where a
 * row's sums cancel it is asked of the magnitudes they cancelled from. */
static const double tolerance[] = {[WITAN_F32] = 3e-6, [WITAN_F16] = 1e-3, [WITAN_BF16] = 5e-3};

static const witan_activation_t silu_gated = {.kind = WITAN_ACTIVATION_SILU, .gated = true};

static const witan_activation_t gpt_oss = {.kind      = WITAN_ACTIVATION_SWISH,
                                           .parameter = 1.702f,
                                           .gated     = true,
                                           .limit     = 7.0f,
                                           .up_offset = 1.0f};

static const witan_activation_t gelu_plain = {.kind = WITAN_ACTIVATION_GELU};

static inline void net_load(net_t *net)
{
    ck_assert_msg(net->backend->ffn_create(&net->ffn, &net->spec,
                                           &(witan_weights_t){&net->data, data_read}) == WITAN_OK,
                  "%s", witan_last_error());
}

static inline void net_make(net_t *net, const wtn_backend_t *backend, const wtn_tier_t *tier,
                            witan_dtype_t dtype, shape_t shape,
                            const witan_activation_t *activation, bool bias)
{
    const size_t E  = (size_t)(shape.experts == 0 ? 1 : shape.experts);
    const size_t HI = (size_t)(shape.H * shape.I);
    const float  w  = 1.7f / sqrtf((float)shape.H);
    const float  v  = 1.7f / sqrtf((float)wtn_max_i64(shape.I, 1));

    *net           = (net_t){.backend    = backend,
                             .shape      = shape,
                             .dtype      = dtype,
                             .activation = *activation,
                             .bias       = bias};
    net->gate      = data_tensor(E * HI, dtype, w, 1);
    net->up        = data_tensor(E * HI, dtype, w, 2);
    net->down      = data_tensor(E * HI, dtype, v, 3);
    net->gate_bias = data_tensor(E * (size_t)shape.I, WITAN_F32, 0.5f, 4);
    net->up_bias   = data_tensor(E * (size_t)shape.I, WITAN_F32, 0.5f, 5);
    net->down_bias = data_tensor(E * (size_t)shape.H, WITAN_F32, 0.5f, 6);
    net->ids       = data_alloc(E * sizeof(int32_t));
    for (int32_t e = 0; e < shape.experts; e++) {
        net->ids[e] = shape.experts - 1 - e; /* not the identity */
    }
    net->data =
        (data_weights_t){.tensors = {
                             [WITAN_WEIGHT_GATE]        = {net->gate, shape.I, shape.H, dtype},
                             [WITAN_WEIGHT_UP]          = {net->up, shape.I, shape.H, dtype},
                             [WITAN_WEIGHT_DOWN]        = {net->down, shape.H, shape.I, dtype},
                             [WITAN_WEIGHT_GATE_BIAS]   = {net->gate_bias, 1, shape.I, WITAN_F32},
                             [WITAN_WEIGHT_UP_BIAS]     = {net->up_bias, 1, shape.I, WITAN_F32},
                             [WITAN_WEIGHT_DOWN_BIAS]   = {net->down_bias, 1, shape.H, WITAN_F32},
                             [WITAN_WEIGHT_SHARED_GATE] = {net->gate, shape.I, shape.H, dtype},
                             [WITAN_WEIGHT_SHARED_UP]   = {net->up, shape.I, shape.H, dtype},
                             [WITAN_WEIGHT_SHARED_DOWN] = {net->down, shape.H, shape.I, dtype},
                         }};
    net->spec = (wtn_ffn_spec_t){.hidden_size      = shape.H,
                                 .inter_end        = shape.I,
                                 .expert_count     = shape.experts,
                                 .experts          = net->ids,
                                 .dtype            = dtype,
                                 .activation       = *activation,
                                 .has_gate_up_bias = bias,
                                 .has_down_bias    = bias,
                                 .tier             = tier};
    net_load(net);
}

static inline void net_destroy(net_t *net)
{
    net->backend->ffn_destroy(net->ffn);
    free(net->gate);
    free(net->up);
    free(net->down);
    free(net->gate_bias);
    free(net->up_bias);
    free(net->down_bias);
    free(net->ids);
}

/* Row `x` through expert `e` of the reference; `out` [H], and the norm of its sums' magnitudes. */
static inline double net_reference(const net_t *net, int32_t e, const void *x, void *out)
{
    const shape_t s       = net->shape;
    const size_t  id      = (size_t)(net->spec.experts == NULL ? 0 : net->ids[e]);
    const size_t  element = witan_dtype_bytes(net->dtype);
    const char   *down    = (const char *)net->down + id * (size_t)(s.H * s.I) * element;
    const size_t  matrix  = id * (size_t)(s.H * s.I) * element;
    void         *h       = data_alloc((size_t)s.I * element);
    double        norm    = 0.0;

    const wtn_ffn_ref_args_t args = {
        .H          = s.H,
        .I          = s.I,
        .dtype      = net->dtype,
        .activation = &net->activation,
        .gate       = net->activation.gated ? (const char *)net->gate + matrix : NULL,
        .up         = (const char *)net->up + matrix,
        .down       = down,
        .gate_bias  = net->bias ? net->gate_bias + id * (size_t)s.I : NULL,
        .up_bias    = net->bias ? net->up_bias + id * (size_t)s.I : NULL,
        .down_bias  = net->bias ? net->down_bias + id * (size_t)s.H : NULL,
        .x          = x,
        .h          = h,
        .out        = out};

    wtn_ffn_ref(&args);
    for (int64_t n = 0; n < s.H; n++) {
        double magnitude = net->bias ? fabsf(args.down_bias[n]) : 0.0;

        for (int64_t i = 0; i < s.I; i++) {
            magnitude += fabsf(wtn_load_float(h, net->dtype, (size_t)i) *
                               wtn_load_float(down, net->dtype, (size_t)(n * s.I + i)));
        }
        norm += magnitude * magnitude;
    }
    free(h);
    return sqrt(norm);
}

#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/half.h"
#include "core/util.h"
#include "dispatch/reference.h"
#include "experts/activation.h"
#include "kernels/topk/topk.h"

typedef struct reference {
    const witan_layer_config_t *config;
    const witan_weights_t      *weights;
    int64_t                     token_count;
    double                     *x;    /* [T, H] */
    int32_t                    *ids;  /* [T, K] */
    double                     *gate; /* [T, K] */
    double                     *out;  /* [T, H] */
} reference_t;

/* rows * columns cleared elements, at least a byte; NULL with the error set. */
static void *make(int64_t rows, int64_t columns, size_t size)
{
    void  *memory = NULL;
    size_t bytes  = 0;

    if (rows >= 0 && columns >= 0 && wtn_mul((size_t)rows, (size_t)columns, &bytes) &&
        wtn_mul(bytes, size, &bytes)) {
        memory = calloc(bytes == 0 ? 1 : bytes, 1);
    }
    if (memory == NULL) {
        (void)WTN_ERROR(WITAN_E_MEMORY, "reference: %lld x %lld elements of %zu bytes",
                        (long long)rows, (long long)columns, size);
    }
    return memory;
}

/* *out = the whole tensor [rows, columns] in fp32, to be freed by the caller whatever happens. */
static witan_status_t read_tensor(const reference_t *reference, witan_weight_t weight,
                                  int32_t expert, int64_t rows, int64_t columns, float **out)
{
    const witan_weight_slice_t slice = {weight, expert, 0, rows, 0, columns, WITAN_F32};

    *out = make(rows, columns, sizeof(float));
    return *out == NULL ? WITAN_E_MEMORY
                        : reference->weights->read(reference->weights->context, &slice, *out);
}

static double dot(const float *w, const double *x, int64_t count)
{
    double sum = 0.0;

#pragma omp simd reduction(+ : sum) /* in float64 the order does not matter */
    for (int64_t i = 0; i < count; i++) {
        sum += (double)w[i] * x[i];
    }
    return sum;
}

/* y [rows, n] = x [rows, m] w' + bias; w [n, m], bias NULL or [n]. Row i of x is x[index[i]]. */
static void linear(const double *x, const int64_t *index, int64_t rows, const float *w,
                   const float *bias, int64_t n, int64_t m, double *y)
{
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < n; j++) {
            y[i * n + j] = dot(w + j * m, x + (index != NULL ? index[i] : i) * m, m) +
                           (bias != NULL ? (double)bias[j] : 0.0);
        }
    }
}

/* ---- routing, from witan_routing_t, in float64 ---- */

/* Ranks a above b: larger, or equal and first. */
static bool precedes(const double *c, int32_t a, int32_t b)
{
    return c[a] > c[b] || (a < b && c[a] == c[b]);
}

/* The number of candidates of [begin, end) that precede e. */
static int32_t rank_of(const double *c, const bool *out, int32_t e, int32_t begin, int32_t end)
{
    int32_t rank = 0;

    for (int32_t i = begin; i < end; i++) {
        rank += (out == NULL || !out[i]) && precedes(c, i, e);
    }
    return rank;
}

/* Mask the experts outside the best groups: c becomes 0, or masked[e] true. */
static void limit_groups(const witan_layer_config_t *config, double *c, bool *masked,
                         double *group_score)
{
    const witan_routing_t *routing = &config->routing;
    const int32_t          groups  = routing->group_count;
    const int32_t          width   = config->expert_count / groups;
    int32_t                best    = 1;

    if (routing->group_score == WITAN_GROUP_SCORE_TOP2_SUM) {
        best = 2;
    } else if (routing->group_score == WITAN_GROUP_SCORE_TOPK_SUM) {
        best = config->topk / routing->group_topk;
    }
    for (int32_t g = 0; g < groups; g++) {
        group_score[g] = 0.0;
        for (int32_t e = g * width; e < (g + 1) * width; e++) {
            if (rank_of(c, NULL, e, g * width, (g + 1) * width) < best) {
                group_score[g] += c[e];
            }
        }
    }
    for (int32_t g = 0; g < groups; g++) {
        for (int32_t e = g * width;
             rank_of(group_score, NULL, g, 0, groups) >= routing->group_topk && e < (g + 1) * width;
             e++) {
            masked[e] = routing->mask_value == WITAN_MASK_NEG_INF;
            c[e]      = routing->mask_value == WITAN_MASK_ZERO ? 0.0 : c[e];
        }
    }
}

/* ln of the sum of e^l. */
static double log_sum_exp(const double *logits, int32_t count)
{
    double max = logits[0], sum;

    for (int32_t i = 1; i < count; i++) {
        max = fmax(max, logits[i]);
    }
    sum = exp(logits[0] - max);
    for (int32_t i = 1; i < count; i++) {
        sum += exp(logits[i] - max);
    }
    return max + log(sum);
}

static void score_all(witan_score_t score, const double *logits, int32_t count, double *s)
{
    const double total = score == WITAN_SCORE_SOFTMAX ? log_sum_exp(logits, count) : 0.0;

    for (int32_t e = 0; e < count; e++) {
        const double l = logits[e];

        switch (score) {
        case WITAN_SCORE_SIGMOID:
            s[e] = 1.0 / (1.0 + exp(-l));
            break;
        case WITAN_SCORE_SQRT_SOFTPLUS:
            s[e] = sqrt(l > 30.0 ? l + exp(-l) : log1p(exp(l)));
            break;
        case WITAN_SCORE_SOFTMAX:
        default:
            s[e] = exp(l - total);
            break;
        }
    }
}

static void weigh(const witan_layer_config_t *config, const double *s, const int32_t *ids,
                  double *gate)
{
    const witan_routing_t *routing = &config->routing;
    double                 sum     = (double)routing->normalise_epsilon;

    for (int32_t k = 0; k < config->topk; k++) {
        gate[k] = s[ids[k]];
    }
    if (routing->score_after_topk) {
        score_all(WITAN_SCORE_SOFTMAX, gate, config->topk, gate);
    }
    for (int32_t k = 0; k < config->topk; k++) {
        sum += gate[k];
    }
    for (int32_t k = 0; k < config->topk; k++) {
        gate[k] = gate[k] / (routing->normalise ? sum : 1.0) * (double)routing->scale;
    }
}

/* Ids and gate of one token from its logits. `work` is [3 E] doubles. */
static void choose(const witan_layer_config_t *config, const double *logits,
                   const float *correction, double *work, bool *masked, int32_t *ids, double *gate)
{
    const int32_t E = config->expert_count, K = config->topk;
    double       *s = work, *c = work + E;
    bool          nan = false;

    if (config->routing.score_after_topk) {
        memcpy(s, logits, (size_t)E * sizeof(*s));
    } else {
        score_all(config->routing.score, logits, E, s);
    }
    for (int32_t e = 0; e < E; e++) {
        c[e] = s[e] + (correction != NULL ? (double)correction[e] : 0.0);
        nan |= isnan(c[e]);
        masked[e] = false;
    }
    for (int32_t k = 0; k < K; k++) {
        ids[k]  = k;
        gate[k] = NAN;
    }
    if (nan) {
        return;
    }
    if (config->routing.group_count > 1) {
        limit_groups(config, c, masked, work + 2 * E);
    }
    for (int32_t e = 0; e < E; e++) {
        int32_t rank = masked[e] ? K : rank_of(c, masked, e, 0, E);

        if (rank < K) {
            ids[rank] = e;
        }
    }
    weigh(config, s, ids, gate);
}

static witan_status_t route(reference_t *reference)
{
    const witan_layer_config_t *config = reference->config;
    const int32_t               E = config->expert_count, K = config->topk;
    const int64_t               T = reference->token_count, H = config->hidden_size;
    float                      *router = NULL, *bias = NULL, *correction = NULL;
    double                     *logits = NULL, *work = NULL;
    bool                       *masked = NULL;
    witan_status_t              status = WITAN_E_MEMORY;

    logits = make(T, E, sizeof(*logits));
    work   = make(3, E, sizeof(*work));
    masked = make(1, E, sizeof(*masked));
    if (logits == NULL || work == NULL || masked == NULL) {
        goto fail;
    }
    WTN_TRY(read_tensor(reference, WITAN_WEIGHT_ROUTER, -1, E, H, &router));
    if (config->routing.has_bias) {
        WTN_TRY(read_tensor(reference, WITAN_WEIGHT_ROUTER_BIAS, -1, 1, E, &bias));
    }
    if (config->routing.has_correction_bias) {
        WTN_TRY(read_tensor(reference, WITAN_WEIGHT_ROUTER_CORRECTION, -1, 1, E, &correction));
    }
    linear(reference->x, NULL, T, router, bias, E, H, logits);
    for (int64_t t = 0; t < T; t++) {
        choose(config, logits + t * E, correction, work, masked, reference->ids + t * K,
               reference->gate + t * K);
    }

fail:
    free(router);
    free(bias);
    free(correction);
    free(logits);
    free(work);
    free(masked);
    return status;
}

/* ---- experts ---- */

/* The tensors of one feed-forward network; expert -1: the shared one. */
typedef struct network {
    int64_t inter_size;
    float  *gate, *up, *down, *gate_bias, *up_bias, *down_bias;
} network_t;

static void network_free(network_t *network)
{
    free(network->gate);
    free(network->up);
    free(network->down);
    free(network->gate_bias);
    free(network->up_bias);
    free(network->down_bias);
}

static witan_status_t network_read(const reference_t *reference, int32_t expert, network_t *network)
{
    const witan_layer_config_t *config = reference->config;
    const bool                  shared = expert < 0;
    const int64_t               H      = config->hidden_size;
    const int64_t               I      = shared ? config->shared_inter_size : config->inter_size;
    witan_status_t              status;

    *network = (network_t){.inter_size = I};
    if (config->activation.gated) {
        WTN_TRY(read_tensor(reference, shared ? WITAN_WEIGHT_SHARED_GATE : WITAN_WEIGHT_GATE,
                            expert, I, H, &network->gate));
    }
    WTN_TRY(read_tensor(reference, shared ? WITAN_WEIGHT_SHARED_UP : WITAN_WEIGHT_UP, expert, I, H,
                        &network->up));
    WTN_TRY(read_tensor(reference, shared ? WITAN_WEIGHT_SHARED_DOWN : WITAN_WEIGHT_DOWN, expert, H,
                        I, &network->down));
    if (!shared && config->has_gate_up_bias && config->activation.gated) {
        WTN_TRY(read_tensor(reference, WITAN_WEIGHT_GATE_BIAS, expert, 1, I, &network->gate_bias));
    }
    if (!shared && config->has_gate_up_bias) {
        WTN_TRY(read_tensor(reference, WITAN_WEIGHT_UP_BIAS, expert, 1, I, &network->up_bias));
    }
    if (!shared && config->has_down_bias) {
        WTN_TRY(read_tensor(reference, WITAN_WEIGHT_DOWN_BIAS, expert, 1, H, &network->down_bias));
    }
    return WITAN_OK;

fail:
    network_free(network);
    *network = (network_t){0};
    return status;
}

/* out[token[i]] += factor[i] * network(x[token[i]]) for i below rows. */
static witan_status_t network_add(const reference_t *reference, const network_t *network,
                                  const int64_t *token, const double *factor, int64_t rows)
{
    const int64_t  H = reference->config->hidden_size, I = network->inter_size;
    double        *g = NULL, *u = NULL, *y = NULL;
    witan_status_t status = WITAN_E_MEMORY;

    g = make(rows, I, sizeof(*g));
    u = make(rows, I, sizeof(*u));
    y = make(rows, H, sizeof(*y));
    if (g == NULL || u == NULL || y == NULL) {
        goto fail;
    }
    status = WITAN_OK;
    if (network->gate != NULL) {
        linear(reference->x, token, rows, network->gate, network->gate_bias, I, H, g);
    }
    linear(reference->x, token, rows, network->up, network->up_bias, I, H, u);
    for (int64_t i = 0; i < rows * I; i++) {
        u[i] = wtn_activation_gated_ref64(&reference->config->activation, g[i], u[i]);
    }
    linear(u, NULL, rows, network->down, network->down_bias, H, I, y);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t h = 0; h < H; h++) {
            reference->out[token[i] * H + h] += factor[i] * y[i * H + h];
        }
    }

fail:
    free(g);
    free(u);
    free(y);
    return status;
}

/* All tokens through the shared expert (-1), or those routed to `expert` through it. */
static witan_status_t add_expert(const reference_t *reference, int32_t expert, int64_t *token,
                                 double *factor)
{
    const int32_t  K       = reference->config->topk;
    const int64_t  H       = reference->config->hidden_size;
    network_t      network = {0};
    float         *logit   = NULL;
    int64_t        rows    = 0;
    witan_status_t status  = WITAN_OK;

    for (int64_t i = 0; expert >= 0 && i < reference->token_count * K; i++) {
        if (reference->ids[i] == expert) {
            token[rows]    = i / K;
            factor[rows++] = reference->gate[i];
        }
    }
    if (expert < 0 && reference->config->has_shared_gate) {
        WTN_TRY(read_tensor(reference, WITAN_WEIGHT_SHARED_ROUTER, -1, 1, H, &logit));
    }
    for (int64_t t = 0; expert < 0 && t < reference->token_count; t++) {
        token[rows] = t;
        factor[rows++] =
            logit != NULL ? 1.0 / (1.0 + exp(-dot(logit, reference->x + t * H, H))) : 1.0;
    }
    if (rows > 0) {
        WTN_TRY(network_read(reference, expert, &network));
        WTN_TRY(network_add(reference, &network, token, factor, rows));
    }

fail:
    network_free(&network);
    free(logit);
    return status;
}

static witan_status_t add_experts(const reference_t *reference)
{
    const witan_layer_config_t *config = reference->config;
    const int64_t               pairs  = reference->token_count * config->topk;
    int64_t                    *token  = NULL;
    double                     *factor = NULL;
    witan_status_t              status = WITAN_E_MEMORY;

    token  = make(1, pairs, sizeof(*token));
    factor = make(1, pairs, sizeof(*factor));
    if (token == NULL || factor == NULL) {
        goto fail;
    }
    status = WITAN_OK;
    for (int32_t e = config->shared_inter_size > 0 ? -1 : 0; e < config->expert_count; e++) {
        WTN_TRY(add_expert(reference, e, token, factor));
    }

fail:
    free(token);
    free(factor);
    return status;
}

/* Take over the caller's routing. */
static witan_status_t import(reference_t *reference, const int32_t *ids, const float *gate)
{
    for (int64_t i = 0; i < reference->token_count * reference->config->topk; i++) {
        if (ids[i] < -1 || ids[i] >= reference->config->expert_count) {
            return WTN_ERROR(WITAN_E_ARGUMENT, "reference: ids[%lld]: expected -1 to %d; found %d",
                             (long long)i, reference->config->expert_count - 1, ids[i]);
        }
        reference->ids[i]  = ids[i];
        reference->gate[i] = ids[i] < 0 ? 0.0 : (double)gate[i];
    }
    return WITAN_OK;
}

witan_status_t wtn_reference_layer(const witan_layer_config_t *config,
                                   const witan_weights_t *weights, int64_t token_count,
                                   const void *hidden, const int32_t *ids, const float *gate,
                                   double *out, int32_t *ids_out, double *gate_out)
{
    const size_t   hidden_count = (size_t)(token_count * config->hidden_size);
    const size_t   pair_count   = (size_t)(token_count * config->topk);
    reference_t    reference    = {.config      = config,
                                   .weights     = weights,
                                   .token_count = token_count,
                                   .out         = out};
    witan_status_t status;

    WTN_TRY(wtn_routing_check(&config->routing, config->expert_count, config->topk));
    WTN_TRY(wtn_activation_check(&config->activation));
    status         = WITAN_E_MEMORY;
    reference.x    = make(token_count, config->hidden_size, sizeof(double));
    reference.ids  = make(token_count, config->topk, sizeof(int32_t));
    reference.gate = make(token_count, config->topk, sizeof(double));
    if (reference.x == NULL || reference.ids == NULL || reference.gate == NULL) {
        goto fail;
    }
    for (size_t i = 0; i < hidden_count; i++) {
        reference.x[i] = (double)wtn_load_float(hidden, config->dtype, i);
        out[i]         = 0.0;
    }
    WTN_TRY(ids != NULL ? import(&reference, ids, gate) : route(&reference));
    WTN_TRY(add_experts(&reference));
    if (ids_out != NULL) {
        memcpy(ids_out, reference.ids, pair_count * sizeof(int32_t));
    }
    if (gate_out != NULL) {
        memcpy(gate_out, reference.gate, pair_count * sizeof(double));
    }

fail:
    free(reference.x);
    free(reference.ids);
    free(reference.gate);
    return status;
}

double wtn_error_norm(const void *y, witan_dtype_t dtype, const double *reference, int64_t count)
{
    double difference = 0.0, norm = 0.0;

    for (int64_t i = 0; i < count; i++) {
        const double d = (double)wtn_load_float(y, dtype, (size_t)i) - reference[i];

        difference += d * d;
        norm += reference[i] * reference[i];
    }
    if (difference == 0.0 && norm == 0.0) {
        return 0.0;
    }
    return sqrt(difference) / sqrt(norm); /* Inf where only the reference is zero */
}

double wtn_tolerance(witan_dtype_t dtype)
{
    switch (dtype) {
    case WITAN_F16:
        return 1e-3;
    case WITAN_BF16:
        return 5e-3;
    case WITAN_F32:
    default:
        return 3e-6;
    }
}

/* The float64 reference of a block: a block worked out by hand, the numpy oracle of the routing,
 * and the norms. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/half.h"
#include "core/util.h"
#include "dispatch/reference.h"

typedef struct oracle {
    const char     *name;
    int32_t         token_count, expert_count, topk;
    witan_routing_t routing;
    const float    *logits, *bias, *correction;
    const int32_t  *ids;
    const double   *weights;
} oracle_t;

#include "routing/oracle.h"

/* ---- routing: hidden states are the logits, the router is the identity, the expert is x ---- */

static witan_status_t read_identity(void *context, const witan_weight_slice_t *slice, void *out)
{
    const oracle_t *oracle = context;
    float          *values = out;

    ck_assert_int_eq(slice->dtype, WITAN_F32);
    for (int64_t r = 0; r < slice->row_count; r++) {
        for (int64_t c = 0; c < slice->col_count; c++) {
            const int64_t row = slice->row_begin + r, column = slice->col_begin + c;
            float         value = row == column ? 1.0f : 0.0f;

            if (slice->weight == WITAN_WEIGHT_ROUTER_BIAS) {
                value = oracle->bias[column];
            } else if (slice->weight == WITAN_WEIGHT_ROUTER_CORRECTION) {
                value = oracle->correction[column];
            }
            values[r * slice->col_count + c] = value;
        }
    }
    return WITAN_OK;
}

START_TEST(test_reference_routing_equals_oracle)
{
    for (size_t i = 0; i < WTN_COUNT_OF(oracles); i++) {
        const oracle_t            *o       = &oracles[i];
        const witan_weights_t      weights = {(void *)(uintptr_t)o, read_identity};
        const witan_layer_config_t config  = {.struct_bytes = sizeof(config),
                                              .hidden_size  = o->expert_count,
                                              .inter_size   = o->expert_count,
                                              .expert_count = o->expert_count,
                                              .topk         = o->topk,
                                              .activation   = {.kind = WITAN_ACTIVATION_IDENTITY},
                                              .routing      = o->routing};
        double                     out[4 * 64], gate[4 * 8];
        int32_t                    ids[4 * 8];

        ck_assert_int_eq(wtn_reference_layer(&config, &weights, o->token_count, o->logits, NULL,
                                             NULL, out, ids, gate),
                         WITAN_OK);
        for (int32_t j = 0; j < o->token_count * o->topk; j++) {
            ck_assert_msg(ids[j] == o->ids[j], "%s: id %d: expected %d, found %d", o->name, j,
                          o->ids[j], ids[j]);
            /* The fp32 options (scale, epsilon) are exact or below 2^-53; exp and sums a few ulp.
             */
            ck_assert_msg(!!(fabs(gate[j] - o->weights[j]) <= 1e-14 * fabs(o->weights[j])),
                          "%s: weight %d: expected %.17g, found %.17g", o->name, j, o->weights[j],
                          gate[j]);
        }
        for (int32_t t = 0; t < o->token_count; t++) { /* every expert returns x */
            double sum = 0.0;

            for (int32_t k = 0; k < o->topk; k++) {
                sum += gate[t * o->topk + k];
            }
            for (int32_t h = 0; h < o->expert_count; h++) {
                const double x = (double)o->logits[t * o->expert_count + h];

                ck_assert(
                    !!(fabs(out[t * o->expert_count + h] - sum * x) <= 1e-13 * fabs(sum * x)));
            }
        }
    }
}
END_TEST

/* ---- a block by hand ---- */

typedef struct hand {
    int  reads[4]; /* of expert 0, 1, 2 and of the others */
    bool fail;
} hand_t;

static witan_status_t read_hand(void *context, const witan_weight_slice_t *slice, void *out)
{
    hand_t     *hand      = context;
    const float e         = (float)slice->expert;
    float       values[6] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f}; /* the router is the largest */

    hand->reads[slice->expert < 0 ? 3 : slice->expert]++;
    if (hand->fail) {
        return witan_error_set(WITAN_E_IO, "the disk is gone");
    }
    switch (slice->weight) {
    case WITAN_WEIGHT_GATE:
        values[0] = values[1] = e + 1.0f;
        break;
    case WITAN_WEIGHT_UP:
    case WITAN_WEIGHT_SHARED_UP:
        values[0] = 1.0f, values[1] = 0.0f;
        break;
    case WITAN_WEIGHT_DOWN:
        values[0] = 1.0f, values[1] = e;
        break;
    case WITAN_WEIGHT_GATE_BIAS:
        values[0] = 0.5f;
        break;
    case WITAN_WEIGHT_UP_BIAS:
        values[0] = 0.25f;
        break;
    case WITAN_WEIGHT_DOWN_BIAS:
        values[0] = 1.0f, values[1] = -1.0f;
        break;
    case WITAN_WEIGHT_SHARED_DOWN:
        values[0] = 1.0f, values[1] = 2.0f;
        break;
    case WITAN_WEIGHT_SHARED_ROUTER:
        values[0] = 2.0f, values[1] = -1.0f;
        break;
    default:
        break;
    }
    memcpy(out, values, (size_t)(slice->row_count * slice->col_count) * sizeof(float));
    return WITAN_OK;
}

static witan_layer_config_t hand_config(void)
{
    return (witan_layer_config_t){
        .struct_bytes      = sizeof(witan_layer_config_t),
        .hidden_size       = 2,
        .inter_size        = 1,
        .expert_count      = 3,
        .topk              = 2,
        .dtype             = WITAN_BF16,
        .activation        = {.kind = WITAN_ACTIVATION_RELU, .gated = true},
        .routing           = {.scale = 1.0f, .group_count = 1, .group_topk = 1},
        .has_gate_up_bias  = true,
        .has_down_bias     = true,
        .shared_inter_size = 1,
        .has_shared_gate   = true,
    };
}

START_TEST(test_reference_block_by_hand)
{
    const witan_layer_config_t config    = hand_config();
    const uint16_t             hidden[4] = {wtn_float_to_bf16(1.0f), wtn_float_to_bf16(2.0f),
                                            wtn_float_to_bf16(1.0f), wtn_float_to_bf16(2.0f)};
    const int32_t              ids[4]    = {2, 0, -1, -1};
    const float                gate[4]   = {0.5f, 2.0f, NAN, NAN};
    hand_t                     hand      = {{0}, false};
    const witan_weights_t      weights   = {&hand, read_hand};
    double                     out[4], gate_out[4];
    int32_t                    ids_out[4];

    ck_assert_int_eq(wtn_reference_layer(&config, &weights, 2, hidden, ids, gate, out, ids_out,
                                         gate_out),
                     WITAN_OK);
    /* Expert 2: g = 3 * 3 + 1/2, u = 1 + 1/4, h = 11.875, y = (12.875, 22.75); expert 0: g = 3.5,
     * h = 4.375, y = (5.375, -1); shared: h = 3, y = (3, 6), its gate sigmoid(0). */
    ck_assert(out[0] == 0.5 * 12.875 + 2.0 * 5.375 + 1.5);
    ck_assert(out[1] == 0.5 * 22.75 - 2.0 + 3.0);
    ck_assert(out[2] == 1.5 && out[3] == 3.0);
    ck_assert_int_eq(memcmp(ids, ids_out, sizeof(ids)), 0);
    ck_assert(gate_out[0] == 0.5 && gate_out[1] == 2.0);
    ck_assert_int_eq(hand.reads[0], 6);
    ck_assert_int_eq(hand.reads[1], 0); /* no token, no read */
    ck_assert_int_eq(hand.reads[2], 6);
}
END_TEST

START_TEST(test_reference_faults_reported)
{
    witan_layer_config_t  config    = hand_config();
    const uint16_t        hidden[2] = {0x3f80, 0x4000};
    const int32_t         bad[2]    = {3, 0};
    const float           gate[2]   = {1.0f, 1.0f};
    hand_t                hand      = {{0}, true};
    const witan_weights_t weights   = {&hand, read_hand};
    double                out[2];

    ck_assert_int_eq(wtn_reference_layer(&config, &weights, 1, hidden, NULL, NULL, out, NULL, NULL),
                     WITAN_E_IO);
    ck_assert_str_eq(witan_last_error(), "the disk is gone");
    ck_assert_int_eq(wtn_reference_layer(&config, &weights, 1, hidden, bad, gate, out, NULL, NULL),
                     WITAN_E_ARGUMENT);
    hand.fail = false;
    ck_assert_int_eq(wtn_reference_layer(&config, &weights, 0, NULL, NULL, NULL, NULL, NULL, NULL),
                     WITAN_OK);
    config.topk = 4;
    ck_assert_int_eq(wtn_reference_layer(&config, &weights, 1, hidden, NULL, NULL, out, NULL, NULL),
                     WITAN_E_CONFIG);
}
END_TEST

START_TEST(test_error_norm_defined_everywhere)
{
    const double zero[2] = {0.0, 0.0}, r[2] = {3.0, 4.0}, nan[2] = {3.0, (double)NAN};
    const float  y[2] = {3.0f, 4.5f}, exact[2] = {3.0f, 4.0f}, none[2] = {0.0f, 0.0f};
    const float  bad[2] = {NAN, 4.0f}, infinite[2] = {INFINITY, 4.0f};

    ck_assert(wtn_error_norm(y, WITAN_F32, r, 2) == 0.1);
    ck_assert(wtn_error_norm(exact, WITAN_F32, r, 2) == 0.0);
    ck_assert(wtn_error_norm(none, WITAN_F32, zero, 2) == 0.0);
    ck_assert(wtn_error_norm(none, WITAN_F32, r, 2) == 1.0);
    ck_assert(wtn_error_norm(NULL, WITAN_F32, NULL, 0) == 0.0);
    ck_assert(isinf(wtn_error_norm(y, WITAN_F32, zero, 2)));
    ck_assert(isinf(wtn_error_norm(infinite, WITAN_F32, r, 2)));
    ck_assert(isnan(wtn_error_norm(bad, WITAN_F32, r, 2)));
    ck_assert(isnan(wtn_error_norm(bad, WITAN_F32, zero, 2)));
    ck_assert(isnan(wtn_error_norm(y, WITAN_F32, nan, 2)));
    ck_assert(wtn_tolerance(WITAN_F32) == 3e-6);
    ck_assert(wtn_tolerance(WITAN_F16) == 1e-3);
    ck_assert(wtn_tolerance(WITAN_BF16) == 5e-3);
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("reference");
    TCase   *tcase  = tcase_create("reference");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_test(tcase, test_reference_routing_equals_oracle);
    tcase_add_test(tcase, test_reference_block_by_hand);
    tcase_add_test(tcase, test_reference_faults_reported);
    tcase_add_test(tcase, test_error_norm_defined_everywhere);
    suite_add_tcase(suite, tcase);
    srunner_set_fork_status(runner, CK_NOFORK); /* OpenMP does not survive fork */
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

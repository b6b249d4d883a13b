/* The block of forward.c on any backend: tokens lie where the layer computes, steps are queued, and
 * the result is waited for.
 *
 *   ./forward_device [host|cuda]
 */
#include "block.h"

enum { TOKENS = 4, STEPS = 3 };

/* Steps of other tokens each; returns how many tokens are wrong, or -1. */
static int run(const witan_layer_t *layer, witan_plan_t *plan, void *hidden, void *output)
{
    witan_forward_args_t args = {.struct_bytes = sizeof(args), .token_count = TOKENS};
    static float         tokens[TOKENS * HIDDEN], results[TOKENS * HIDDEN];
    int                  wrong = 0;

    args.hidden = hidden;
    args.output = output;
    for (int step = 0; step < STEPS; step++) {
        for (int64_t i = 0; i < TOKENS * HIDDEN; i++) {
            tokens[i] = block_token(step * TOKENS + i / HIDDEN, i % HIDDEN);
        }
        if (witan_memory_copy(layer, hidden, tokens, sizeof(tokens)) != WITAN_OK ||
            witan_forward(plan, &args) != WITAN_OK || /* on cuda only queued */
            witan_plan_wait(plan) != WITAN_OK ||      /* what went wrong on the way is told here */
            witan_memory_copy(layer, results, output, sizeof(results)) != WITAN_OK) {
            return -1;
        }
        wrong += block_check(plan, step * TOKENS, TOKENS, results);
    }
    return wrong;
}

int main(int argc, char **argv)
{
    const char          *backend = argc > 1 ? argv[1] : "auto";
    witan_weights_t      weights = {.context = NULL, .read = block_read};
    witan_group_t       *group   = NULL;
    witan_layer_t       *layer   = NULL;
    witan_plan_t        *plan    = NULL;
    void                *hidden = NULL, *output = NULL;
    witan_layer_config_t layer_config;
    witan_plan_config_t  plan_config;
    int                  wrong = -1;

    block_config(&layer_config);
    layer_config.backend = backend;
    witan_plan_config_init(&plan_config);
    plan_config.token_count_max = TOKENS;

    if (witan_group_create_self(&group, NULL) == WITAN_OK &&
        witan_layer_create(&layer, group, &layer_config, &weights) == WITAN_OK &&
        witan_plan_create(&plan, layer, &plan_config) == WITAN_OK &&
        witan_memory_alloc(layer, &hidden, sizeof(float) * TOKENS * HIDDEN) == WITAN_OK &&
        witan_memory_alloc(layer, &output, sizeof(float) * TOKENS * HIDDEN) == WITAN_OK) {
        wrong = run(layer, plan, hidden, output);
    }
    if (wrong < 0) {
        fprintf(stderr, "forward_device: %s\n", witan_last_error());
    } else {
        printf("witan %s, backend %s: %d of %d tokens wrong\n", witan_version(), backend, wrong,
               STEPS * TOKENS);
    }
    witan_plan_destroy(plan);
    if (layer != NULL) {
        witan_memory_free(layer, hidden);
        witan_memory_free(layer, output);
    }
    witan_layer_destroy(layer);
    witan_group_destroy(group);
    return wrong == 0 ? 0 : 1;
}

/* One process, one block made from arrays, one forward step. */
#include "block.h"

enum { TOKENS = 4 };

int main(void)
{
    witan_weights_t      weights = {.context = NULL, .read = block_read};
    witan_group_t       *group   = NULL;
    witan_layer_t       *layer   = NULL;
    witan_plan_t        *plan    = NULL;
    witan_layer_config_t layer_config;
    witan_plan_config_t  plan_config;
    witan_forward_args_t args = {.struct_bytes = sizeof(args), .token_count = TOKENS};
    static float         hidden[TOKENS * HIDDEN], output[TOKENS * HIDDEN];
    int                  wrong = TOKENS;

    for (int64_t i = 0; i < TOKENS * HIDDEN; i++) {
        hidden[i] = block_token(i / HIDDEN, i % HIDDEN);
    }
    block_config(&layer_config);
    witan_plan_config_init(&plan_config);
    plan_config.token_count_max = TOKENS;
    args.hidden                 = hidden;
    args.output                 = output;

    if (witan_group_create_self(&group, NULL) == WITAN_OK &&
        witan_layer_create(&layer, group, &layer_config, &weights) == WITAN_OK &&
        witan_plan_create(&plan, layer, &plan_config) == WITAN_OK &&
        witan_forward(plan, &args) == WITAN_OK) {
        wrong = block_check(plan, 0, TOKENS, output);
        printf("witan %s: %d of %d tokens wrong\n", witan_version(), wrong, TOKENS);
    } else {
        fprintf(stderr, "forward: %s\n", witan_last_error());
    }
    witan_plan_destroy(plan);
    witan_layer_destroy(layer);
    witan_group_destroy(group);
    return wrong == 0 ? 0 : 1;
}

/* Sizes of a plan, and the size query. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/error.h"
#include "core/util.h"
#include "dispatch/plan.h"

/* Tokens gated at once: no fewer than these, and as many as have these logits. */
#define ROUTE_TOKENS ((int64_t)256)
#define ROUTE_LOGITS ((int64_t)65536)

void witan_plan_config_init(witan_plan_config_t *config)
{
    *config = (witan_plan_config_t){.struct_bytes = sizeof(*config), .chunk_count = 1};
}

witan_status_t wtn_plan_config_check(const witan_plan_config_t *config, const wtn_layout_t *layout)
{
    int32_t topk = layout->config.topk;

    if (config->struct_bytes != sizeof(*config)) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "plan: struct_bytes: expected %zu, found %zu (witan_plan_config_init)",
                         sizeof(*config), config->struct_bytes);
    }
    if (config->token_count_max < 0 || config->token_count_max > INT32_MAX) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "plan: token_count_max: expected 0 to %d, found %" PRId64, INT32_MAX,
                         config->token_count_max);
    }
    if (config->pair_token_count_max < 0 || config->pair_row_count_max < 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "plan: a budget is negative: %" PRId64 " tokens, %" PRId64 " rows",
                         config->pair_token_count_max, config->pair_row_count_max);
    }
    if (config->pair_row_count_max != 0 && config->pair_row_count_max < topk) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "plan: pair_row_count_max: expected 0 or at least topk, %" PRId32
                         ", found %" PRId64,
                         topk, config->pair_row_count_max);
    }
    if (config->chunk_count < 1) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "plan: chunk_count: expected >= 1, found %" PRId32,
                         config->chunk_count);
    }
    if ((unsigned)config->combine > WITAN_COMBINE_REDUCED ||
        (unsigned)config->executor > WITAN_EXECUTOR_MASKED || config->masked_rows_max < 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "plan: combine %d, executor %d or masked_rows_max %" PRId32
                         " is not valid",
                         (int)config->combine, (int)config->executor, config->masked_rows_max);
    }
    if ((unsigned)config->hierarchy > WITAN_HIERARCHY_TWO_LEVEL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "plan: hierarchy %d is not valid",
                         (int)config->hierarchy);
    }
    if ((unsigned)config->exchange > WITAN_EXCHANGE_DIRECT ||
        (unsigned)config->tensor_exchange > WITAN_TENSOR_SCATTER || config->sm_reserved < 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "plan: exchange %d, tensor_exchange %d or sm_reserved %" PRId32
                         " is not valid",
                         (int)config->exchange, (int)config->tensor_exchange, config->sm_reserved);
    }
    return wtn_engine_of(layout)->check(layout, config);
}

static int64_t limit(int64_t worst, int64_t budget)
{
    return budget > 0 && budget < worst ? budget : worst;
}

/* Most experts held by the ranks of one domain. */
static int32_t most_experts(const wtn_layout_t *layout, const wtn_domains_t *domains)
{
    int32_t most = 0;

    for (int32_t d = 0; d < domains->count; d++) {
        int32_t held = 0;

        for (int32_t i = domains->begin[d]; i < domains->begin[d + 1]; i++) {
            held += layout->placement.counts[domains->members[i]];
        }
        most = held > most ? held : most;
    }
    return most;
}

/* A token has at most K rows, in one domain at most as many as it has experts; a repeated id may
 * need more, up to K: those are sent in another round, so a piece must hold K. */
static int64_t worst_rows(const wtn_layout_t *layout, int32_t held, int64_t tokens)
{
    int32_t topk     = layout->config.topk;
    int64_t per_pair = wtn_min_i64(topk, wtn_max_i64(held, 1));

    return wtn_max_i64(tokens * per_pair, tokens > 0 ? topk : 0);
}

/* Two levels wherever there are two: by the planner's model they are never slower on the host. */
static witan_status_t make_domains(wtn_domains_t *domains, const wtn_layout_t *layout,
                                   const witan_plan_config_t *config)
{
    bool flat = config->hierarchy == WITAN_HIERARCHY_FLAT || layout->backend->device != NULL;

    return wtn_domains_make(domains, layout->folding.expert_parallel, flat ? NULL : layout->nodes);
}

/* What each source may send into one round, and where it lies. */
static void deal_slots(wtn_plan_shape_t *shape, const wtn_layout_t *layout,
                       const witan_plan_config_t *config, const int64_t *token_maxima)
{
    const wtn_domains_t *domains = &shape->domains;
    int32_t              ep = domains->ranks, mine = domains->of[layout->folding.expert_index];
    int32_t              held     = most_experts(layout, domains);
    bool                 reduced  = config->combine == WITAN_COMBINE_REDUCED;
    bool                 budgeted = config->chunk_count > 1;

    for (int32_t s = 0; s < ep; s++) {
        int64_t tokens = token_maxima[s], rows = worst_rows(layout, held, tokens);
        bool    home = domains->of[s] == mine;

        shape->source_tokens[s] = limit(tokens, config->pair_token_count_max);
        shape->source_rows[s]   = limit(rows, config->pair_row_count_max);
        budgeted = budgeted || shape->source_tokens[s] < tokens || shape->source_rows[s] < rows;
        shape->source_token_begin[s + 1] = shape->source_token_begin[s] + shape->source_tokens[s];
        shape->source_row_begin[s + 1]   = shape->source_row_begin[s] + shape->source_rows[s];
        /* Rows for a source at home are computed where it will sum them. */
        shape->source_slot_begin[s + 1] =
            shape->source_slot_begin[s] + (home && !reduced ? 0 : shape->source_rows[s]);
        shape->return_begin[s + 1] =
            shape->return_begin[s] + (home ? tokens * shape->slots_per_token : 0);
    }
    shape->round_slots = budgeted ? WTN_ROUNDS_IN_FLIGHT : 1;
}

witan_status_t wtn_plan_shape_make(wtn_plan_shape_t *shape, const wtn_layout_t *layout,
                                   const witan_plan_config_t *config, const int64_t *token_maxima)
{
    int32_t        ep = layout->folding.expert_parallel, me = layout->folding.expert_index;
    int32_t        topk    = layout->config.topk, domain_count;
    bool           reduced = config->combine == WITAN_COMBINE_REDUCED;
    int64_t       *block;
    witan_status_t status = wtn_plan_config_check(config, layout);

    *shape = (wtn_plan_shape_t){.token_count_max = config->token_count_max};
    WTN_TRY(status);
    WTN_TRY(make_domains(&shape->domains, layout, config));
    block = calloc(6 * ((size_t)ep + 1), sizeof(*block));
    if (block == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "plan: %" PRId32 " quotas", ep);
        goto fail;
    }
    shape->source_tokens      = block;
    shape->source_rows        = block + (ep + 1);
    shape->source_token_begin = block + 2 * (ep + 1);
    shape->source_row_begin   = block + 3 * (ep + 1);
    shape->source_slot_begin  = block + 4 * (ep + 1);
    shape->return_begin       = block + 5 * (ep + 1);
    domain_count              = shape->domains.count;
    shape->slots_per_token    = reduced ? (int32_t)wtn_min_i64(topk, domain_count) : topk;
    deal_slots(shape, layout, config, token_maxima);
    shape->token_slot_count = shape->source_token_begin[ep];
    shape->row_slot_count   = shape->source_row_begin[ep];
    shape->send_token_max   = wtn_min_i64(domain_count * shape->source_tokens[me],
                                          config->token_count_max * wtn_min_i64(topk, domain_count));
    shape->send_row_max =
        wtn_min_i64(domain_count * shape->source_rows[me], config->token_count_max * topk);
    shape->route_block = wtn_max_i64(ROUTE_TOKENS, ROUTE_LOGITS / layout->config.expert_count);
    shape->route_block = wtn_min_i64(shape->route_block, config->token_count_max);
    return WITAN_OK;

fail:
    wtn_plan_shape_free(shape);
    return status;
}

void wtn_plan_shape_free(wtn_plan_shape_t *shape)
{
    free(shape->source_tokens); /* the block of all six */
    wtn_domains_free(&shape->domains);
    *shape = (wtn_plan_shape_t){0};
}

/* Chance that none of a token's K distinct uniform choices falls on `held` of E experts. */
static double miss_chance(int32_t expert_count, int32_t topk, int32_t held)
{
    double chance = 1.0;

    for (int32_t i = 0; i < topk; i++) {
        chance *= (double)(expert_count - held - i > 0 ? expert_count - held - i : 0) /
                  (double)(expert_count - i);
    }
    return chance;
}

static witan_status_t query(const wtn_layout_t *layout, const witan_plan_config_t *config,
                            int32_t thread_count, const int64_t *token_maxima, witan_sizes_t *sizes)
{
    int64_t             tokens   = config->token_count_max;
    int32_t             topk     = layout->config.topk, held;
    witan_plan_config_t balanced = *config, worst = *config;
    wtn_domains_t       domains = {0};
    double              hit;
    witan_status_t      status;

    WTN_TRY(make_domains(&domains, layout, config));
    held                             = most_experts(layout, &domains);
    hit                              = 1.0 - miss_chance(layout->config.expert_count, topk, held);
    sizes->pair_token_count_worst    = tokens;
    sizes->pair_row_count_worst      = worst_rows(layout, held, tokens);
    sizes->pair_token_count_balanced = wtn_min_i64(tokens, (int64_t)ceil((double)tokens * hit));
    sizes->pair_row_count_balanced =
        tokens == 0
            ? 0
            : wtn_max_i64(wtn_ceil_div(tokens * topk * held, layout->placement.slot_count), topk);
    if (layout->backend->device !=
        NULL) { /* there a budget of rows is one of tokens, K rows each */
        sizes->pair_row_count_worst    = tokens * layout->config.topk;
        sizes->pair_row_count_balanced = sizes->pair_token_count_balanced * layout->config.topk;
    }
    balanced.chunk_count = worst.chunk_count = 1;
    worst.pair_token_count_max = worst.pair_row_count_max = 0;
    balanced.pair_token_count_max                         = sizes->pair_token_count_balanced;
    balanced.pair_row_count_max                           = sizes->pair_row_count_balanced;
    WTN_TRY(wtn_engine_of(layout)->bytes(layout, config, token_maxima, thread_count,
                                         &sizes->plan_bytes));
    WTN_TRY(wtn_engine_of(layout)->bytes(layout, &balanced, token_maxima, thread_count,
                                         &sizes->plan_bytes_balanced));
    WTN_TRY(wtn_engine_of(layout)->bytes(layout, &worst, token_maxima, thread_count,
                                         &sizes->plan_bytes_worst));
    sizes->plan_shared_bytes = 0;
    if (layout->backend->device == NULL) {
        WTN_TRY(wtn_rounds_shared_bytes(layout, config, token_maxima, &sizes->plan_shared_bytes));
    }

fail:
    wtn_domains_free(&domains);
    return status;
}

witan_status_t witan_layer_query(const witan_group_config_t *group, int32_t rank,
                                 int32_t rank_count, const witan_layer_config_t *layer,
                                 const witan_plan_config_t *plan, witan_sizes_t *sizes)
{
    witan_group_config_t resolved;
    wtn_folding_t        folding;
    wtn_layout_t         layout       = {0};
    int64_t             *token_maxima = NULL;
    int32_t             *nodes        = NULL;
    int32_t              threads; /* where the group leaves it open: as many as there could be */
    witan_status_t       status;

    if (layer == NULL || plan == NULL || sizes == NULL || sizes->struct_bytes != sizeof(*sizes) ||
        rank < 0 || rank >= rank_count) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "query: a null pointer, a wrong struct_bytes or a rank outside the group");
    }
    WTN_TRY(wtn_group_config_resolve(group, &resolved));
    threads =
        resolved.thread_count > 0 ? resolved.thread_count : (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    WTN_TRY(wtn_folding_make(&resolved, rank, rank_count, &folding));
    nodes = calloc((size_t)rank_count, sizeof(*nodes));
    if (nodes == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "query: %" PRId32 " nodes", rank_count);
        goto fail;
    }
    for (int32_t r = 0; r < rank_count; r++) {
        nodes[r] = resolved.ranks_per_node > 0 ? r / resolved.ranks_per_node : r;
    }
    WTN_TRY(wtn_layout_make(&layout, layer, &folding, nodes));
    token_maxima = calloc((size_t)folding.expert_parallel, sizeof(*token_maxima));
    if (token_maxima == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "query: %" PRId32 " counts", folding.expert_parallel);
        goto fail;
    }
    for (int32_t s = 0; s < folding.expert_parallel; s++) {
        token_maxima[s] = plan->token_count_max;
    }
    sizes->weight_bytes = wtn_layout_weight_bytes(&layout);
    WTN_TRY(query(&layout, plan, threads, token_maxima, sizes));

fail:
    free(token_maxima);
    free(nodes);
    wtn_layout_free(&layout);
    return status;
}

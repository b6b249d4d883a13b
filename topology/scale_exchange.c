#include "topology/scale_exchange.h"

#include "core/util.h"

/* Groups and nodes begin together again after their least common multiple, which divides the ranks:
 * what the ports of the ranks before do is repeated from there on. */
static int64_t repeat(int64_t group, int64_t node)
{
    int64_t a = group, b = node;

    while (b != 0) {
        int64_t rest = a % b;

        a = b;
        b = rest;
    }
    return group / a * node;
}

wtn_fabric_t wtn_scale_fabric(const wtn_scale_machine_t *machine, const wtn_scale_mode_t *mode)
{
    int64_t period = repeat((int64_t)mode->ep * mode->tp, machine->ranks_per_node);

    return (wtn_fabric_t){.rank_count     = (int32_t)wtn_min_i64(mode->rank_count, period),
                          .ranks_per_node = (int32_t)machine->ranks_per_node,
                          .nics_per_node  = (int32_t)machine->nics_per_node,
                          .inside         = machine->inside.port,
                          .between        = machine->between.port};
}

/* The rank with the expert index `index` and the same tensor and data index as `rank`. */
static int32_t peer_rank(const wtn_scale_mode_t *mode, int32_t rank, int32_t index)
{
    int32_t group = mode->ep * mode->tp;

    return rank / group * group + index * mode->tp + rank % mode->tp;
}

static int32_t expert_index(const wtn_scale_mode_t *mode, int32_t rank)
{
    return rank / mode->tp % mode->ep;
}

static double token_bytes(const wtn_scale_messages_t *messages)
{
    return (double)messages->shape->hidden_size * messages->shape->value_bytes * messages->share;
}

static double row_bytes(const wtn_scale_messages_t *messages)
{
    return (double)messages->shape->hidden_size * messages->shape->return_bytes * messages->share;
}

static double manifest_bytes(const wtn_scale_messages_t *messages, double rows)
{
    return messages->shape->header_bytes + rows * messages->shape->row_list_bytes * messages->share;
}

/* ---- flat: a manifest and the tokens to every peer; rows back ---- */

static bool flat_message(const void *context, int32_t source, int32_t step, int32_t *destination,
                         double *bytes)
{
    const wtn_scale_messages_t *messages = context;
    const wtn_scale_load_t     *load     = messages->load;
    bool                        dispatch = messages->direction == WTN_SCALE_DISPATCH;
    int32_t                     me       = expert_index(messages->mode, source);
    int32_t                     peer     = (me + 1 + (dispatch ? step / 2 : step)) % load->ep;
    const float *returned = messages->mode->reduced ? load->pair_tokens : load->pair_rows;

    *destination = peer_rank(messages->mode, source, peer);
    if (!dispatch) {
        *bytes = row_bytes(messages) * wtn_scale_pair(load, returned, peer, me);
        return *bytes > 0;
    }
    if (step % 2 == 0) {
        *bytes = manifest_bytes(messages, wtn_scale_pair(load, load->pair_rows, me, peer));
        return true;
    }
    *bytes = token_bytes(messages) * wtn_scale_pair(load, load->pair_tokens, me, peer);
    return *bytes > 0;
}

/* ---- two-level: to one rank of every other node ---- */

static int32_t domain_ranks(const wtn_scale_load_t *load, int32_t domain)
{
    return (int32_t)wtn_min_i64(load->domain_size, load->ep - (int64_t)domain * load->domain_size);
}

/* The rank of a domain that takes what index `source` sends there. */
static int32_t receiver(const wtn_scale_load_t *load, int32_t source, int32_t domain)
{
    if (source / load->domain_size == domain) {
        return source;
    }
    return domain * load->domain_size + source % load->domain_size % domain_ranks(load, domain);
}

/* What rank `me` hands on to `mate` of its domain, of all sources that it receives for. Devices
 * move it over the links of the node; processors map each other's memory and read it there. */
static double handed_on(const wtn_scale_messages_t *messages, int32_t me, int32_t mate)
{
    const wtn_scale_load_t *load     = messages->load;
    int32_t                 domain   = me / load->domain_size;
    bool                    dispatch = messages->direction == WTN_SCALE_DISPATCH;
    const float *counts = dispatch || messages->mode->reduced ? load->pair_tokens : load->pair_rows;
    double       count  = 0;

    for (int32_t d = 0; d < load->domain_count; d++) {
        int32_t step = d == domain ? load->domain_size : domain_ranks(load, domain);

        for (int32_t i = me % load->domain_size; i < domain_ranks(load, d); i += step) {
            count += wtn_scale_pair(load, counts, d * load->domain_size + i, mate);
        }
    }
    return count * (dispatch ? token_bytes(messages) : row_bytes(messages));
}

/* Steps: two for every other domain, then one for every mate. */
static bool two_level_message(const void *context, int32_t source, int32_t step,
                              int32_t *destination, double *bytes)
{
    const wtn_scale_messages_t *messages = context;
    const wtn_scale_load_t     *load     = messages->load;
    bool                        dispatch = messages->direction == WTN_SCALE_DISPATCH;
    bool                        copies   = messages->machine->inside.copy_rate > 0;
    int32_t                     me       = expert_index(messages->mode, source);
    int32_t                     mine     = me / load->domain_size;
    int32_t                     others   = 2 * (load->domain_count - 1);

    if (step < others) {
        int32_t domain = (mine + 1 + step / 2) % load->domain_count;
        int32_t peer;
        size_t  run;

        if (dispatch) {
            peer         = receiver(load, me, domain);
            run          = (size_t)me * (size_t)load->domain_count + (size_t)domain;
            *bytes       = step % 2 == 0 ? manifest_bytes(messages, (double)load->domain_rows[run])
                                         : token_bytes(messages) * (double)load->domain_tokens[run];
            *destination = peer_rank(messages->mode, source, peer);
            return step % 2 == 0 || *bytes > 0;
        }
        /* Back to every source of that domain it received for: one message each. */
        peer = domain * load->domain_size + me % load->domain_size;
        if (step % 2 != 0 || peer >= load->ep || receiver(load, peer, mine) != me) {
            return false;
        }
        run    = (size_t)peer * (size_t)load->domain_count + (size_t)mine;
        *bytes = row_bytes(messages) * (double)(messages->mode->reduced ? load->domain_tokens[run]
                                                                        : load->domain_rows[run]);
        *destination = peer_rank(messages->mode, source, peer);
        return *bytes > 0;
    }
    if (!copies) {
        int32_t mate = mine * load->domain_size +
                       (me % load->domain_size + 1 + step - others) % domain_ranks(load, mine);

        *destination = peer_rank(messages->mode, source, mate);
        /* On the way back a mate hands its rows to the one that received the tokens. */
        *bytes = dispatch ? handed_on(messages, me, mate) : handed_on(messages, mate, me);
        return step - others < domain_ranks(load, mine) - 1 && *bytes > 0;
    }
    return false;
}

wtn_exchange_t wtn_scale_exchange(const wtn_scale_messages_t *messages, const wtn_fabric_t *fabric)
{
    const wtn_scale_load_t *load      = messages->load;
    bool                    two_level = messages->mode->two_level;
    bool                    dispatch  = messages->direction == WTN_SCALE_DISPATCH;
    int32_t                 steps     = (load->ep - 1) * (dispatch ? 2 : 1);

    if (two_level) {
        steps = 2 * (load->domain_count - 1) + load->domain_size - 1;
    }
    return (wtn_exchange_t){.fabric     = fabric,
                            .step_count = steps,
                            .message    = two_level ? two_level_message : flat_message,
                            .context    = messages};
}

void wtn_scale_exchange_work(const wtn_scale_messages_t *messages, const wtn_exchange_t *exchange,
                             double rounds, double *work)
{
    const wtn_scale_machine_t *machine = messages->machine;
    int32_t                    node    = exchange->fabric->ranks_per_node;

    if (!(machine->inside.copy_rate > 0 || machine->between.copy_rate > 0)) {
        return;
    }
    for (int32_t s = 0; s < exchange->fabric->rank_count; s++) {
        for (int32_t i = 0; i < exchange->step_count; i++) {
            const wtn_scale_link_t *link;
            int32_t                 destination;
            double                  bytes, time;

            if (!exchange->message(exchange->context, s, i, &destination, &bytes)) {
                continue;
            }
            link = s / node == destination / node ? &machine->inside : &machine->between;
            if (link->copy_rate > 0) {
                time = (bytes / link->copy_rate + link->port.overhead) * rounds;
                work[s] += time;
                work[destination] += time;
            }
        }
    }
}

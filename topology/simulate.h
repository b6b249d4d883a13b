/* An exchange of messages over the ports of a machine: a closed bound, and a discrete simulation.
 *
 * Every rank has a port inside its node, every node a number of network ports (NICs) that its ranks
 * take in turn: local index modulo the number. Ports are full duplex. A message occupies the port
 * it leaves from for `overhead + bytes / rate`, its first byte arrives `latency` later, and it
 * occupies the port of its destination as long; ports serve one message after the other. A source's
 * messages leave in their order, those inside the node beside those to other nodes; sources that
 * share a NIC take turns, a message each. A sender is not held up by a receiver that is busy. */
#ifndef WTN_SIMULATE_H
#define WTN_SIMULATE_H

#include <stdbool.h>
#include <stdint.h>

#include <witan/status.h>

typedef struct wtn_port {
    double rate;     /* bytes/s in one direction */
    double latency;  /* s */
    double overhead; /* s a message occupies a port beside its bytes */
} wtn_port_t;

typedef struct wtn_fabric {
    int32_t       rank_count, ranks_per_node, nics_per_node;
    wtn_port_t    inside, between;
    const double *slow; /* [rank_count] >= 1: how much slower the ports of a rank are; a NIC is as
                         * slow as the slowest of its ranks. NULL: all 1 */
} wtn_fabric_t;

typedef struct wtn_exchange {
    const wtn_fabric_t *fabric;
    int32_t             step_count; /* messages of each source, at most */
    /* Message `step` of `source`; false: there is none. Pure, called more than once. */
    bool (*message)(const void *context, int32_t source, int32_t step, int32_t *destination,
                    double *bytes);
    const void   *context;
    const double *start;  /* [rank_count] when a rank may begin to send; NULL: 0 */
    double       *finish; /* out [rank_count] when a rank has sent and received all; may be NULL */
} wtn_exchange_t;

typedef struct wtn_exchange_result {
    double  seconds;                     /* from 0 until the last rank has finished */
    double  inside_busy, between_busy;   /* s of the busiest port of each level */
    double  inside_bytes, between_bytes; /* of all messages */
    int64_t message_count;
} wtn_exchange_result_t;

/* What no schedule can go below: the busiest port, and the latency of a level in use. `start` is
 * ignored, `finish` not written. WITAN_E_MEMORY. */
witan_status_t wtn_exchange_bound(const wtn_exchange_t *exchange, wtn_exchange_result_t *result);

/* Message by message. O(messages * log(ports)) time, O(ports) memory. WITAN_E_MEMORY. */
witan_status_t wtn_exchange_simulate(const wtn_exchange_t *exchange, wtn_exchange_result_t *result);

#endif

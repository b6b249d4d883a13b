#include "topology/simulate.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/error.h"
#include "core/util.h"

/* A port that sends: the sources it serves in turn, and when it is free. */
typedef struct sender {
    double  time;         /* of its next message; the key of the heap */
    int32_t first, count; /* its sources: count of them from rank `first` on, `stride` apart */
    int32_t stride, turn;
    bool    network;
    double  slow;
} sender_t;

typedef struct simulation {
    const wtn_exchange_t *exchange;
    int32_t               node_count, nic_count, sender_count, heap_count;
    sender_t             *senders;                    /* [ranks], then [nodes * nics] */
    int32_t              *nodes, *nics;               /* [ranks] of each; dividing takes long */
    int32_t              *heap;                       /* of senders by time, then index */
    int32_t              *next_inside, *next_between; /* [ranks] step each source has come to */
    double               *inside_free, *between_free; /* receiving ports */
    double               *busy;                       /* [2 * senders]: sending, then receiving */
} simulation_t;

static int32_t node_of(const wtn_fabric_t *fabric, int32_t rank)
{
    return rank / fabric->ranks_per_node;
}

static int32_t nic_of(const wtn_fabric_t *fabric, int32_t rank)
{
    int32_t local = rank % fabric->ranks_per_node;

    return node_of(fabric, rank) * fabric->nics_per_node + local % fabric->nics_per_node;
}

static bool crosses(const simulation_t *simulation, int32_t source, int32_t destination)
{
    return simulation->nodes[source] != simulation->nodes[destination];
}

static double slow_of(const wtn_fabric_t *fabric, int32_t rank)
{
    return fabric->slow == NULL ? 1.0 : fabric->slow[rank];
}

static void release(simulation_t *simulation)
{
    free(simulation->senders);
    free(simulation->nodes);
    free(simulation->nics);
    free(simulation->heap);
    free(simulation->next_inside);
    free(simulation->next_between);
    free(simulation->inside_free);
    free(simulation->between_free);
    free(simulation->busy);
}

static void make_senders(simulation_t *simulation)
{
    const wtn_fabric_t *fabric = simulation->exchange->fabric;

    for (int32_t r = 0; r < fabric->rank_count; r++) {
        simulation->nodes[r] = node_of(fabric, r);
        simulation->nics[r]  = nic_of(fabric, r);
        simulation->senders[r] =
            (sender_t){.first = r, .count = 1, .stride = 1, .slow = slow_of(fabric, r)};
    }
    for (int32_t p = 0; p < simulation->nic_count; p++) {
        sender_t *sender = &simulation->senders[fabric->rank_count + p];
        int32_t   node   = p / fabric->nics_per_node;
        int32_t   first  = node * fabric->ranks_per_node + p % fabric->nics_per_node;
        int64_t end = wtn_min_i64(fabric->rank_count, (int64_t)(node + 1) * fabric->ranks_per_node);

        *sender = (sender_t){.first   = first,
                             .stride  = fabric->nics_per_node,
                             .network = true,
                             .slow    = 1.0};
        for (int64_t r = first; r < end; r += fabric->nics_per_node) {
            double slow = slow_of(fabric, (int32_t)r);

            sender->slow = slow > sender->slow ? slow : sender->slow;
            sender->count++;
        }
    }
}

static witan_status_t make(simulation_t *simulation, const wtn_exchange_t *exchange)
{
    const wtn_fabric_t *fabric = exchange->fabric;
    size_t              ranks  = (size_t)fabric->rank_count, ports;

    *simulation              = (simulation_t){.exchange = exchange};
    simulation->node_count   = (int32_t)wtn_ceil_div(fabric->rank_count, fabric->ranks_per_node);
    simulation->nic_count    = simulation->node_count * fabric->nics_per_node;
    simulation->sender_count = fabric->rank_count + simulation->nic_count;
    ports                    = (size_t)simulation->sender_count;
    simulation->senders      = calloc(ports, sizeof(*simulation->senders));
    simulation->nodes        = calloc(ranks, sizeof(*simulation->nodes));
    simulation->nics         = calloc(ranks, sizeof(*simulation->nics));
    simulation->heap         = calloc(ports, sizeof(*simulation->heap));
    simulation->next_inside  = calloc(ranks, sizeof(*simulation->next_inside));
    simulation->next_between = calloc(ranks, sizeof(*simulation->next_between));
    simulation->inside_free  = calloc(ranks, sizeof(double));
    simulation->between_free = calloc((size_t)simulation->nic_count, sizeof(double));
    simulation->busy         = calloc(2 * ports, sizeof(double));
    if (simulation->senders == NULL || simulation->nodes == NULL || simulation->nics == NULL ||
        simulation->heap == NULL || simulation->next_inside == NULL ||
        simulation->next_between == NULL || simulation->inside_free == NULL ||
        simulation->between_free == NULL || simulation->busy == NULL) {
        release(simulation);
        return WTN_ERROR(WITAN_E_MEMORY, "simulation: %" PRId32 " ranks", fabric->rank_count);
    }
    make_senders(simulation);
    return WITAN_OK;
}

/* ---- the busiest port ---- */

/* Count a message; the sending and the receiving port are by index among the senders. */
static double occupy(simulation_t *simulation, int32_t source, int32_t destination, double bytes,
                     wtn_exchange_result_t *result)
{
    const wtn_fabric_t *fabric  = simulation->exchange->fabric;
    bool                network = crosses(simulation, source, destination);
    const wtn_port_t   *port    = network ? &fabric->between : &fabric->inside;
    int32_t             from    = network ? fabric->rank_count + simulation->nics[source] : source;
    int32_t to   = network ? fabric->rank_count + simulation->nics[destination] : destination;
    double  time = port->overhead + bytes / port->rate;
    double *busy = simulation->busy;

    busy[from] += time * simulation->senders[from].slow;
    busy[simulation->sender_count + to] += time * simulation->senders[to].slow;
    *(network ? &result->between_bytes : &result->inside_bytes) += bytes;
    result->message_count++;
    return port->latency + port->overhead;
}

/* The busiest port of each level. */
static void find_busiest(const simulation_t *simulation, wtn_exchange_result_t *result)
{
    for (int32_t p = 0; p < 2 * simulation->sender_count; p++) {
        bool    network = p % simulation->sender_count >= simulation->exchange->fabric->rank_count;
        double *most    = network ? &result->between_busy : &result->inside_busy;

        *most = simulation->busy[p] > *most ? simulation->busy[p] : *most;
    }
}

witan_status_t wtn_exchange_bound(const wtn_exchange_t *exchange, wtn_exchange_result_t *result)
{
    simulation_t   simulation;
    double         latency = 0, bytes, delay;
    int32_t        destination;
    witan_status_t status = make(&simulation, exchange);

    *result = (wtn_exchange_result_t){0};
    if (status != WITAN_OK) {
        return status;
    }
    for (int32_t s = 0; s < exchange->fabric->rank_count; s++) {
        for (int32_t i = 0; i < exchange->step_count; i++) {
            if (exchange->message(exchange->context, s, i, &destination, &bytes)) {
                delay   = occupy(&simulation, s, destination, bytes, result);
                latency = delay > latency ? delay : latency;
            }
        }
    }
    find_busiest(&simulation, result);
    result->seconds = latency + (result->inside_busy > result->between_busy ? result->inside_busy
                                                                            : result->between_busy);
    release(&simulation);
    return WITAN_OK;
}

/* ---- the simulation ---- */

static bool earlier(const simulation_t *simulation, int32_t a, int32_t b)
{
    double x = simulation->senders[a].time, y = simulation->senders[b].time;

    return x < y || (x <= y && a < b);
}

static void sift_down(simulation_t *simulation, int32_t place)
{
    int32_t *heap = simulation->heap, moved = heap[place];

    for (;;) {
        int32_t child = 2 * place + 1;

        if (child >= simulation->heap_count) {
            break;
        }
        if (child + 1 < simulation->heap_count &&
            earlier(simulation, heap[child + 1], heap[child])) {
            child++;
        }
        if (!earlier(simulation, heap[child], moved)) {
            break;
        }
        heap[place] = heap[child];
        place       = child;
    }
    heap[place] = moved;
}

/* The next message of `source` on this level; false when it has sent all of them. */
static bool next_message(simulation_t *simulation, int32_t source, bool network,
                         int32_t *destination, double *bytes)
{
    const wtn_exchange_t *exchange = simulation->exchange;
    int32_t              *next     = network ? simulation->next_between : simulation->next_inside;

    for (; next[source] < exchange->step_count; next[source]++) {
        if (exchange->message(exchange->context, source, next[source], destination, bytes) &&
            crosses(simulation, source, *destination) == network) {
            return true;
        }
    }
    return false;
}

static void finish_at(const wtn_exchange_t *exchange, int32_t rank, double time)
{
    if (exchange->finish != NULL && time > exchange->finish[rank]) {
        exchange->finish[rank] = time;
    }
}

/* Send a message at the sender's time; it arrives, and both ports are taken as long. */
static void send(simulation_t *simulation, sender_t *sender, int32_t source, int32_t destination,
                 double bytes, wtn_exchange_result_t *result)
{
    const wtn_exchange_t *exchange = simulation->exchange;
    const wtn_fabric_t   *fabric   = exchange->fabric;
    const wtn_port_t     *port     = sender->network ? &fabric->between : &fabric->inside;
    int32_t to = sender->network ? fabric->rank_count + simulation->nics[destination] : destination;
    double *receiver_free = sender->network ? &simulation->between_free[to - fabric->rank_count]
                                            : &simulation->inside_free[to];
    double  out           = port->overhead + bytes / port->rate;
    double  in            = out * simulation->senders[to].slow;
    double  arrival       = sender->time + port->overhead * sender->slow + port->latency;
    double  begin         = arrival > *receiver_free ? arrival : *receiver_free;
    double  end           = begin + in;

    out *= sender->slow;
    /* The last byte can not be there before it has left. */
    if (end < arrival + out) {
        end = arrival + out;
    }
    *receiver_free = end;
    sender->time += out;
    finish_at(exchange, source, sender->time);
    finish_at(exchange, destination, end);
    result->seconds = end > result->seconds ? end : result->seconds;
    (void)occupy(simulation, source, destination, bytes, result);
}

/* Let the sender's next source that has begun send a message; with none begun, wait for the first.
 * False when none has anything left. */
static bool take_turn(simulation_t *simulation, sender_t *sender, wtn_exchange_result_t *result)
{
    const double *start  = simulation->exchange->start;
    double        wakeup = 0;
    bool          left   = false;

    for (int32_t i = 0; i < sender->count; i++) {
        int32_t turn   = (sender->turn + i) % sender->count;
        int32_t source = sender->first + turn * sender->stride, destination;
        double  begin  = start == NULL ? 0 : start[source], bytes;

        if (!next_message(simulation, source, sender->network, &destination, &bytes)) {
            continue;
        }
        if (begin <= sender->time) {
            (*(sender->network ? &simulation->next_between : &simulation->next_inside))[source]++;
            sender->turn = (turn + 1) % sender->count;
            send(simulation, sender, source, destination, bytes, result);
            return true;
        }
        wakeup = !left || begin < wakeup ? begin : wakeup;
        left   = true;
    }
    sender->time = wakeup;
    return left;
}

witan_status_t wtn_exchange_simulate(const wtn_exchange_t *exchange, wtn_exchange_result_t *result)
{
    simulation_t   simulation;
    witan_status_t status = make(&simulation, exchange);

    *result = (wtn_exchange_result_t){0};
    if (status != WITAN_OK) {
        return status;
    }
    for (int32_t r = 0; r < exchange->fabric->rank_count && exchange->finish != NULL; r++) {
        exchange->finish[r] = exchange->start == NULL ? 0 : exchange->start[r];
    }
    for (int32_t p = 0; p < simulation.sender_count; p++) {
        simulation.heap[simulation.heap_count++] = p; /* all at time 0: a heap already */
    }
    while (simulation.heap_count > 0) {
        sender_t *sender = &simulation.senders[simulation.heap[0]];

        if (!take_turn(&simulation, sender, result)) {
            simulation.heap[0] = simulation.heap[--simulation.heap_count];
        }
        if (simulation.heap_count > 0) {
            sift_down(&simulation, 0);
        }
    }
    find_busiest(&simulation, result);
    release(&simulation);
    return WITAN_OK;
}

#include "topology/published.h"

#include "core/util.h"

#define HIDDEN   7168
#define FP8_ROW  (HIDDEN + 4.0 * HIDDEN / 128 + 16) /* with scales and what says whose it is */
#define BF16_ROW (2.0 * HIDDEN)
#define TRAIN    4096
#define DECODE   128
#define GB       1e9
#define MICRO    1e-6

/* Of a rank in one direction: half of what NVIDIA's data sheets say of NVLink in both, and 400
 * Gbit/s of a ConnectX-7. */
#define H800 200 * GB, 50 * GB
#define H100 450 * GB, 50 * GB
#define B200 900 * GB, 50 * GB

#define NORMAL(machine, rates, ep, unit, dispatch, combine)                             \
    {                                                                                   \
        "DeepEP V1 normal", machine, "dispatch", ep, 8, TRAIN, unit, FP8_ROW, rates, 0, \
        (dispatch)*GB},                                                                 \
    {                                                                                   \
        "DeepEP V1 normal", machine, "combine", ep, 8, TRAIN, unit, BF16_ROW, rates, 0, \
            (combine)*GB                                                                \
    }

#define LATENCY(system, machine, rates, ep, row, dispatch, combine)                    \
    {system, machine, "dispatch",       ep, 8, DECODE, WTN_PUBLISHED_ROW,              \
     row,    rates,   (dispatch)*MICRO, 0},                                            \
    {                                                                                  \
        system, machine, "combine", ep, 8, DECODE, WTN_PUBLISHED_ROW, BF16_ROW, rates, \
            (combine)*MICRO, 0                                                         \
    }

#define BANDWIDTH(system, machine, rates, ep, tokens, unit, row, dispatch, combine)       \
    {system, machine, "dispatch", ep, 8, tokens, unit, row, rates, 0, (dispatch)*GB},     \
    {                                                                                     \
        system, machine, "combine", ep, 8, tokens, unit, BF16_ROW, rates, 0, (combine)*GB \
    }

const wtn_published_t wtn_published[] = {
    NORMAL("H800", H800, 8, WTN_PUBLISHED_RANK, 153, 158),
    NORMAL("H800", H800, 16, WTN_PUBLISHED_NODE, 43, 43),
    NORMAL("H800", H800, 32, WTN_PUBLISHED_NODE, 58, 57),
    NORMAL("H800", H800, 64, WTN_PUBLISHED_NODE, 51, 50),
    LATENCY("DeepEP V1 low latency", "H800", H800, 8, FP8_ROW, 77, 114),
    LATENCY("DeepEP V1 low latency", "H800", H800, 64, FP8_ROW, 173, 314),
    LATENCY("DeepEP V1 low latency", "H800", H800, 256, FP8_ROW, 194, 360),
    BANDWIDTH("DeepEP V2, 64 SMs", "B200", B200, 8, TRAIN, WTN_PUBLISHED_RANK, FP8_ROW, 726, 740),
    BANDWIDTH("DeepEP V2, 24 SMs", "B200", B200, 8, TRAIN, WTN_PUBLISHED_RANK, FP8_ROW, 643, 675),
    {"UCCL-EP", "H200", "dispatch", 8, 8, TRAIN, WTN_PUBLISHED_RANK, FP8_ROW, H100, 500 * MICRO, 0},
    {"UCCL-EP", "H200", "combine", 8, 8, TRAIN, WTN_PUBLISHED_RANK, BF16_ROW, H100, 973 * MICRO, 0},
    BANDWIDTH("nccl_ep low latency", "H100", H100, 8, DECODE, WTN_PUBLISHED_ROW, BF16_ROW, 224,
              185),
    BANDWIDTH("nccl_ep low latency", "H100", H100, 64, DECODE, WTN_PUBLISHED_ROW, BF16_ROW, 49, 44),
    LATENCY("pplx-garden", "H100", H100, 8, FP8_ROW, 50.5, 65.3),
    LATENCY("pplx-garden", "H100", H100, 64, FP8_ROW, 187.5, 309),
};
const size_t wtn_published_count = WTN_COUNT_OF(wtn_published);

/* Chance that one of K distinct uniform experts is among `held` of E. */
static double hit_chance(int32_t held)
{
    double miss = 1;

    for (int32_t i = 0; i < WTN_PUBLISHED_TOPK; i++) {
        miss *=
            (double)(WTN_PUBLISHED_EXPERTS - held - i > 0 ? WTN_PUBLISHED_EXPERTS - held - i : 0) /
            (double)(WTN_PUBLISHED_EXPERTS - i);
    }
    return 1 - miss;
}

/* Seconds for what leaves a rank, where a token needs `ranks` units of the ep ranks and `nodes`
 * units of the nodes. Both ports work at the same time. */
static double leave(const wtn_published_t *figure, double ranks, double nodes)
{
    double node_count = figure->ep / (double)figure->ranks_per_node;
    double bytes      = (double)figure->token_count * figure->unit_bytes;
    double inside     = bytes * ranks * (figure->ranks_per_node - 1) / figure->ep;
    double net        = bytes * nodes * (node_count - 1) / node_count;

    inside /= figure->inside_rate;
    net /= figure->net_rate;
    return inside > net ? inside : net;
}

wtn_published_floor_t wtn_published_floor(const wtn_published_t *figure)
{
    int32_t               nodes      = figure->ep / figure->ranks_per_node;
    double                rank_units = figure->ep * hit_chance(WTN_PUBLISHED_EXPERTS / figure->ep);
    double                node_units = nodes * hit_chance(WTN_PUBLISHED_EXPERTS / nodes);
    bool                  rows       = figure->unit == WTN_PUBLISHED_ROW;
    wtn_published_floor_t floor      = {.units = rows ? WTN_PUBLISHED_TOPK
                                                 : figure->unit == WTN_PUBLISHED_RANK ? rank_units
                                                                                      : node_units};

    floor.logical_bytes = (double)figure->token_count * floor.units * figure->unit_bytes;
    floor.published =
        figure->seconds > 0 ? figure->seconds : floor.logical_bytes / figure->bandwidth;
    /* Where a node's ranks share what crosses, the rest of its way is at most a rank's share. */
    floor.once  = leave(figure, nodes == 1 ? rank_units : 0, node_units);
    floor.floor = rows ? leave(figure, WTN_PUBLISHED_TOPK, WTN_PUBLISHED_TOPK)
                       : leave(figure, figure->unit == WTN_PUBLISHED_RANK ? rank_units : 0,
                               figure->unit == WTN_PUBLISHED_RANK ? rank_units : node_units);
    return floor;
}

/* witan bench --graph: calls as replays of a graph of the device. */
#include "kernels/device.h"
#include "launcher/bench.h"

witan_status_t wtn_bench_graph_open(wtn_bench_graph_t *graph, const wtn_backend_t *backend)
{
    graph->device = backend->device;
    return graph->device->stream_create(&graph->stream);
}

witan_status_t wtn_bench_graph_capture(wtn_bench_graph_t *graph,
                                       witan_status_t (*call)(void *context), void *context)
{
    return graph->device->graph_create(&graph->graph, call, context, graph->stream);
}

witan_status_t wtn_bench_graph_replay(void *graph)
{
    const wtn_bench_graph_t *g = graph;

    return g->device->graph_launch(g->graph, g->stream);
}

void wtn_bench_graph_drop(wtn_bench_graph_t *graph)
{
    if (graph->device != NULL) {
        graph->device->graph_destroy(graph->graph);
        graph->graph = NULL;
    }
}

void wtn_bench_graph_close(wtn_bench_graph_t *graph)
{
    wtn_bench_graph_drop(graph);
    if (graph->device != NULL) {
        graph->device->stream_destroy(graph->stream);
        graph->stream = NULL;
    }
}

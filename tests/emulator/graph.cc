/* Stream capture and graphs. A graph keeps each captured closure as it was; a launch copies them,
 * and a node runs once all those it comes after are done. */
#include <algorithm>
#include <pthread.h>

#include "tests/emulator/queue.h"
#include "tests/emulator/state.h"

namespace emulator
{

static std::set<capture_t *> captures; /* that go on */

static void merge(std::vector<size_t> *into, const std::vector<size_t> &from)
{
    for (size_t node : from) {
        if (std::find(into->begin(), into->end(), node) == into->end()) {
            into->push_back(node);
        }
    }
}

cudaError_t capture_work(cudaStream_t stream, const char *name, const work_t &work)
{
    if (stream->capture->invalid) {
        return cudaErrorStreamCaptureInvalidated;
    }
    std::vector<node_t> &nodes = stream->capture->graph->nodes;
    nodes.push_back({name, work, stream->tail});
    stream->tail.assign(1, nodes.size() - 1);
    return cudaSuccess;
}

cudaError_t capture_record(cudaStream_t stream, cudaEvent_t event)
{
    if (stream->capture->invalid) {
        return cudaErrorStreamCaptureInvalidated;
    }
    event->capture = stream->capture;
    event->tail    = stream->tail;
    return cudaSuccess;
}

cudaError_t capture_wait(cudaStream_t stream, cudaEvent_t event)
{
    if (event->capture == NULL) { /* work outside of the graph */
        stream->capture->invalid = true;
        return cudaErrorStreamCaptureIsolation;
    }
    if (event->capture->invalid || event->capture->graph == NULL) {
        return cudaErrorStreamCaptureInvalidated;
    }
    if (stream->capture == NULL) { /* the stream joins the capture */
        stream->capture = event->capture;
        stream->tail.clear();
        stream->capture->members.push_back(stream);
    } else if (stream->capture != event->capture) {
        stream->capture->invalid = true;
        event->capture->invalid  = true;
        return cudaErrorStreamCaptureMerge;
    }
    merge(&stream->tail, event->tail);
    return cudaSuccess;
}

cudaError_t refuse_default_stream(void)
{
    for (capture_t *capture : captures) {
        for (cudaStream_t member : capture->members) {
            if (!member->non_blocking) {
                capture->invalid = true;
                return cudaErrorStreamCaptureImplicit;
            }
        }
    }
    return cudaSuccess;
}

static uint64_t this_thread(void)
{
    return (uint64_t)pthread_self();
}

cudaError_t refuse_while_capturing(void)
{
    cudaError_t code = cudaSuccess;

    for (capture_t *capture : captures) {
        if (capture->mode == cudaStreamCaptureModeGlobal ||
            (capture->mode == cudaStreamCaptureModeThreadLocal &&
             capture->thread == this_thread())) {
            capture->invalid = true;
            code             = cudaErrorStreamCaptureUnsupported;
        }
    }
    return code;
}

/* All nodes that the given ones come after, themselves included. */
static std::vector<bool> ancestors(const CUgraph_st *graph, std::vector<size_t> from)
{
    std::vector<bool> seen(graph->nodes.size(), false);

    while (!from.empty()) {
        size_t node = from.back();
        from.pop_back();
        if (!seen[node]) {
            seen[node] = true;
            from.insert(from.end(), graph->nodes[node].after.begin(),
                        graph->nodes[node].after.end());
        }
    }
    return seen;
}

static bool all_joined(const capture_t *capture)
{
    std::vector<bool> seen = ancestors(capture->graph, capture->origin->tail);

    for (cudaStream_t member : capture->members) {
        for (size_t node : member->tail) {
            if (!seen[node]) {
                return false;
            }
        }
    }
    return true;
}

/* One launch of a graph: what is done of it. */
struct replay_t {
    std::vector<node_t> nodes;
    std::vector<bool>   done;
};

static bool replay(replay_t *r)
{
    bool all = true;

    for (size_t i = 0; i < r->nodes.size(); i++) {
        const node_t &node    = r->nodes[i];
        bool          waiting = false;
        for (size_t before : node.after) {
            waiting = waiting || !r->done[before];
        }
        if (!r->done[i] && !waiting) {
            r->done[i] = r->nodes[i].work();
        }
        if (sticky != cudaSuccess) {
            return true;
        }
        all = all && r->done[i];
    }
    return all;
}

} // namespace emulator

using namespace emulator;

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code   = ready();
    cudaStream_t                          stream = find_stream(handle);

    if (code == cudaSuccess && stream == NULL) {
        code = cudaErrorInvalidResourceHandle;
    }
    if (code == cudaSuccess && handle == NULL) {
        code = cudaErrorStreamCaptureUnsupported;
    }
    if (code == cudaSuccess && stream->capture != NULL) {
        code = cudaErrorInvalidValue;
    }
    if (code == cudaSuccess) {
        auto capture    = std::make_shared<capture_t>();
        capture->graph  = new CUgraph_st();
        capture->origin = stream;
        capture->mode   = mode;
        capture->thread = this_thread();
        capture->members.push_back(stream);
        stream->capture = capture;
        stream->tail.clear();
        captures.insert(capture.get());
    }
    return answer(code);
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *out)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code   = ready();
    cudaStream_t                          stream = find_stream(handle);

    *out = NULL;
    if (code == cudaSuccess && (stream == NULL || stream->capture == NULL)) {
        return answer(cudaErrorInvalidValue);
    }
    if (stream == NULL || stream->capture == NULL) {
        return answer(code);
    }
    auto capture = stream->capture;
    if (capture->origin != stream) {
        return answer(cudaErrorStreamCaptureUnmatched);
    }
    if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != this_thread()) {
        return answer(cudaErrorStreamCaptureWrongThread);
    }
    if (code == cudaSuccess && capture->invalid) {
        code = cudaErrorStreamCaptureInvalidated;
    } else if (code == cudaSuccess && !all_joined(capture.get())) {
        code = cudaErrorStreamCaptureUnjoined;
    }
    captures.erase(capture.get());
    for (cudaStream_t member : capture->members) {
        member->capture = NULL;
        member->tail.clear();
    }
    if (code == cudaSuccess) {
        *out = capture->graph;
    } else {
        delete capture->graph;
    }
    capture->graph = NULL; /* events recorded in it know it is over */
    return answer(code);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *out)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code   = ready();
    cudaStream_t                          stream = find_stream(handle);

    if (code == cudaSuccess && stream == NULL) {
        code = cudaErrorInvalidResourceHandle;
    }
    if (code == cudaSuccess) {
        *out = stream->capture == NULL    ? cudaStreamCaptureStatusNone
               : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                          : cudaStreamCaptureStatusActive;
    }
    return answer(code);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();

    if (code == cudaSuccess && (out == NULL || graph == NULL || flags != 0)) {
        code = cudaErrorInvalidValue;
    }
    if (code == cudaSuccess) {
        *out          = new CUgraphExec_st();
        (*out)->nodes = graph->nodes;
    }
    return answer(code);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    auto nodes = std::make_shared<std::vector<node_t>>(graph->nodes);
    auto state = std::shared_ptr<replay_t>();

    return answer(enqueue(stream, "graph", [nodes, state]() mutable {
        if (state == NULL) {
            state        = std::make_shared<replay_t>();
            state->nodes = *nodes;
            state->done.assign(nodes->size(), false);
        }
        return replay(state.get());
    }));
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    delete graph;
    return cudaSuccess;
}

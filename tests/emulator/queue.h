/* What stream.cc and graph.cc share: streams, events, graphs. */
#ifndef WTN_EMULATOR_QUEUE_H
#define WTN_EMULATOR_QUEUE_H

#include <deque>
#include <memory>
#include <set>
#include <stdint.h>
#include <vector>

#include "tests/emulator/stream.h"

namespace emulator
{

struct node_t {
    const char         *name;
    work_t              work;
    std::vector<size_t> after; /* nodes that must be done */
};

struct capture_t {
    cudaGraph_t                       graph;
    cudaStream_t                      origin;
    enum cudaStreamCaptureMode        mode;
    bool                              invalid;
    uint64_t                          thread;
    std::vector<struct CUstream_st *> members;
};

/* One cudaEventRecord. */
struct record_t {
    bool     done;
    uint64_t time_ns;
};

struct operation_t {
    uint64_t    sequence; /* over all streams */
    const char *name;
    work_t      work;
};

} // namespace emulator

struct CUgraph_st {
    std::vector<emulator::node_t> nodes;
};

struct CUgraphExec_st {
    std::vector<emulator::node_t> nodes;
};

struct CUstream_st {
    std::deque<emulator::operation_t>    queue;
    bool                                 non_blocking;
    bool                                 destroyed;
    std::shared_ptr<emulator::capture_t> capture; /* NULL: not captured */
    std::vector<size_t>                  tail;    /* nodes the next captured one comes after */
};

struct CUevent_st {
    bool                                 timed;
    std::shared_ptr<emulator::record_t>  last;    /* NULL: never recorded */
    std::shared_ptr<emulator::capture_t> capture; /* last recorded while captured */
    std::vector<size_t>                  tail;
};

namespace emulator
{

extern std::set<cudaStream_t> streams; /* without the default stream */
extern std::set<cudaEvent_t>  events;

/* The stream of a handle, NULL's being the default stream; NULL for what is no handle. */
cudaStream_t find_stream(cudaStream_t handle);

/* graph.cc: the call captures instead of queueing. */
cudaError_t capture_work(cudaStream_t stream, const char *name, const work_t &work);
cudaError_t capture_record(cudaStream_t stream, cudaEvent_t event);
cudaError_t capture_wait(cudaStream_t stream, cudaEvent_t event);
/* The default stream may not be used while a stream that waits for it is captured. */
cudaError_t refuse_default_stream(void);

} // namespace emulator

#endif

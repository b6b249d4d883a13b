/* Streams and events. */
#include "tests/emulator/stream.h"

#include <algorithm>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <string>
#include <time.h>
#include <unistd.h>

#include "tests/emulator/queue.h"
#include "tests/emulator/state.h"

namespace emulator
{

std::set<cudaStream_t> streams;
std::set<cudaEvent_t>  events;

static CUstream_st default_stream;
static uint64_t    sequence;
static std::string report;

cudaStream_t find_stream(cudaStream_t handle)
{
    if (handle == NULL) {
        return &default_stream;
    }
    return streams.count(handle) != 0 && !handle->destroyed ? handle : NULL;
}

/* ---- running ---- */

/* The default stream and the others but non-blocking ones wait for each other, in the order in
 * which work was queued. */
static bool may_run(const CUstream_st *stream)
{
    uint64_t mine = stream->queue.front().sequence;

    if (stream->non_blocking) {
        return true;
    }
    if (stream != &default_stream) {
        return default_stream.queue.empty() || default_stream.queue.front().sequence > mine;
    }
    for (const CUstream_st *other : streams) {
        if (!other->non_blocking && !other->queue.empty() && other->queue.front().sequence < mine) {
            return false;
        }
    }
    return true;
}

static bool advance(CUstream_st *stream)
{
    bool done;

    if (sticky != cudaSuccess || stream->queue.empty() || !may_run(stream)) {
        return false;
    }
    done = stream->queue.front().work();
    if (sticky != cudaSuccess) {
        return true; /* whoever waits drops all the queues */
    }
    if (done) {
        stream->queue.pop_front();
    }
    return done;
}

bool run_round(void)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    std::vector<cudaStream_t>             turn(streams.begin(), streams.end());
    bool                                  progress = false;

    turn.push_back(&default_stream);
    switch (settings.order) {
    case WTN_EMULATOR_FORWARD:
        break;
    case WTN_EMULATOR_REVERSE:
        std::reverse(turn.begin(), turn.end());
        break;
    case WTN_EMULATOR_RANDOM:
        for (size_t i = turn.size(); i > 1; i--) {
            std::swap(turn[i - 1], turn[draw() % i]);
        }
        break;
    }
    open_device_memory();
    for (cudaStream_t stream : turn) {
        progress = advance(stream) || progress;
    }
    close_device_memory();
    for (cudaStream_t stream : turn) {
        if (stream != &default_stream && stream->destroyed && stream->queue.empty()) {
            streams.erase(stream);
            delete stream;
        }
    }
    return progress;
}

void drop_all_work(void)
{
    default_stream.queue.clear();
    for (cudaStream_t stream : streams) {
        stream->queue.clear();
    }
}

void fail_device(cudaError_t code, const char *text)
{
    if (sticky == cudaSuccess) {
        sticky = code;
        report = text;
        (void)fprintf(stderr, "emulator: %s\n", text);
    }
}

/* Rounds until `done` or a sticky error. The lock is given up in between. */
template <typename done_t> static cudaError_t wait_until(done_t done)
{
    for (unsigned idle = 0;;) {
        {
            std::lock_guard<std::recursive_mutex> hold(lock);
            if (sticky != cudaSuccess) {
                drop_all_work();
                return sticky;
            }
            if (done()) {
                return cudaSuccess;
            }
            idle = run_round() ? 0 : idle + 1;
        }
        if (idle > 4) { /* something waits for another process or thread */
            (void)usleep(idle < 100 ? 1 : 200);
        }
    }
}

cudaError_t wait_for_device(void)
{
    return wait_until([]() {
        for (cudaStream_t stream : streams) {
            if (!stream->queue.empty()) {
                return false;
            }
        }
        return default_stream.queue.empty();
    });
}

cudaError_t enqueue(cudaStream_t handle, const char *name, work_t work)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code   = ready();
    cudaStream_t                          stream = find_stream(handle);

    if (code != cudaSuccess) {
        return code;
    }
    if (stream == NULL) {
        return cudaErrorInvalidResourceHandle;
    }
    if (stream->capture != NULL) {
        return capture_work(stream, name, work);
    }
    if (stream == &default_stream) {
        code = refuse_default_stream();
    }
    if (code == cudaSuccess) {
        stream->queue.push_back({++sequence, name, std::move(work)});
    }
    return code;
}

bool is_capturing(cudaStream_t handle)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaStream_t                          stream = find_stream(handle);

    return stream != NULL && stream->capture != NULL;
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

} // namespace emulator

using namespace emulator;

const char *wtn_emulator_report(void)
{
    return report.c_str();
}

void wtn_emulator_reset(void)
{
    std::lock_guard<std::recursive_mutex> hold(lock);

    sticky = cudaSuccess;
    report.clear();
    (void)cudaGetLastError();
    drop_all_work();
    settings.alloc_fails_in  = 0;
    settings.launch_fails_in = 0;
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned int flags)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();

    if (code == cudaSuccess && (out == NULL || (flags & ~(unsigned)cudaStreamNonBlocking) != 0)) {
        code = cudaErrorInvalidValue;
    }
    if (code == cudaSuccess) {
        *out                 = new CUstream_st();
        (*out)->non_blocking = (flags & cudaStreamNonBlocking) != 0;
        streams.insert(*out);
    }
    return answer(code);
}

cudaError_t cudaStreamCreate(cudaStream_t *out)
{
    return cudaStreamCreateWithFlags(out, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned int flags, int priority)
{
    (void)priority;
    return cudaStreamCreateWithFlags(out, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    std::lock_guard<std::recursive_mutex> hold(lock);

    if (handle == NULL || find_stream(handle) == NULL) {
        return answer(cudaErrorInvalidResourceHandle);
    }
    if (handle->queue.empty()) {
        streams.erase(handle);
        delete handle;
    } else {
        handle->destroyed = true; /* goes when its work is done */
    }
    return answer(ready());
}

/* What the host may ask of a stream or event: not while it is captured, and no sticky error. */
static cudaError_t may_ask(cudaStream_t handle)
{
    cudaError_t  code   = ready();
    cudaStream_t stream = find_stream(handle);

    if (code == cudaSuccess && stream == NULL) {
        code = cudaErrorInvalidResourceHandle;
    }
    if (code == cudaSuccess && stream->capture != NULL) {
        stream->capture->invalid = true;
        code                     = cudaErrorStreamCaptureUnsupported;
    }
    return code == cudaSuccess ? refuse_while_capturing() : code;
}

cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = may_ask(handle);

    if (code == cudaSuccess && !find_stream(handle)->queue.empty()) {
        run_round();
        code = find_stream(handle)->queue.empty() ? cudaSuccess : cudaErrorNotReady;
    }
    if (sticky != cudaSuccess) {
        drop_all_work();
        code = sticky;
    }
    return code == cudaErrorNotReady ? code : answer(code);
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    cudaError_t code;

    {
        std::lock_guard<std::recursive_mutex> hold(lock);
        code = may_ask(handle);
    }
    if (code == cudaSuccess) {
        code = wait_until([=]() { return find_stream(handle)->queue.empty(); });
    }
    return answer(code);
}

cudaError_t cudaDeviceSynchronize(void)
{
    cudaError_t code;

    {
        std::lock_guard<std::recursive_mutex> hold(lock);
        code = ready();
        if (code == cudaSuccess) {
            code = refuse_while_capturing();
        }
    }
    return answer(code == cudaSuccess ? wait_for_device() : code);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *context)
{
    return answer(enqueue(stream, "host function", [=]() {
        function(context);
        return true;
    }));
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned int flags)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();

    if (code == cudaSuccess && (out == NULL || (flags & ~7u) != 0)) {
        code = cudaErrorInvalidValue;
    }
    if (code == cudaSuccess) {
        *out          = new CUevent_st();
        (*out)->timed = (flags & cudaEventDisableTiming) == 0;
        events.insert(*out);
    }
    return answer(code);
}

cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    std::lock_guard<std::recursive_mutex> hold(lock);

    if (events.erase(event) == 0) {
        return answer(cudaErrorInvalidResourceHandle);
    }
    delete event;
    return answer(ready());
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code   = ready();
    cudaStream_t                          stream = find_stream(handle);

    if (code == cudaSuccess && (events.count(event) == 0 || stream == NULL)) {
        code = cudaErrorInvalidResourceHandle;
    }
    if (code != cudaSuccess) {
        return answer(code);
    }
    if (stream->capture != NULL) {
        return answer(capture_record(stream, event));
    }
    auto record = std::make_shared<record_t>();
    code        = enqueue(handle, "event", [record]() {
        record->time_ns = now_ns();
        record->done    = true;
        return true;
    });
    if (code == cudaSuccess) {
        event->last    = record;
        event->capture = NULL;
    }
    return answer(code);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned int flags)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code   = ready();
    cudaStream_t                          stream = find_stream(handle);

    if (code == cudaSuccess && (events.count(event) == 0 || stream == NULL)) {
        code = cudaErrorInvalidResourceHandle;
    }
    if (code == cudaSuccess && flags != 0) {
        code = cudaErrorInvalidValue;
    }
    if (code != cudaSuccess) {
        return answer(code);
    }
    if (stream->capture != NULL || event->capture != NULL) {
        return answer(capture_wait(stream, event));
    }
    if (event->last == NULL) {
        return answer(cudaSuccess); /* never recorded: nothing to wait for */
    }
    auto record = event->last;
    return answer(enqueue(handle, "wait", [record]() { return record->done; }));
}

static cudaError_t may_ask_event(cudaEvent_t event)
{
    cudaError_t code = ready();

    if (code == cudaSuccess && events.count(event) == 0) {
        code = cudaErrorInvalidResourceHandle;
    }
    if (code == cudaSuccess && event->capture != NULL) {
        event->capture->invalid = true;
        code                    = cudaErrorCapturedEvent;
    }
    return code == cudaSuccess ? refuse_while_capturing() : code;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = may_ask_event(event);

    if (code == cudaSuccess && event->last != NULL && !event->last->done) {
        run_round();
        code = event->last->done ? cudaSuccess : cudaErrorNotReady;
    }
    if (sticky != cudaSuccess) {
        drop_all_work();
        code = sticky;
    }
    return code == cudaErrorNotReady ? code : answer(code);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    std::shared_ptr<record_t> record;
    cudaError_t               code;

    {
        std::lock_guard<std::recursive_mutex> hold(lock);
        code = may_ask_event(event);
        if (code == cudaSuccess) {
            record = event->last;
        }
    }
    if (code == cudaSuccess && record != NULL) {
        code = wait_until([record]() { return record->done; });
    }
    return answer(code);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();

    if (code == cudaSuccess && (events.count(begin) == 0 || events.count(end) == 0)) {
        code = cudaErrorInvalidResourceHandle;
    }
    if (code == cudaSuccess &&
        (!begin->timed || !end->timed || begin->last == NULL || end->last == NULL)) {
        code = cudaErrorInvalidResourceHandle;
    }
    if (code == cudaSuccess && (!begin->last->done || !end->last->done)) {
        return cudaErrorNotReady;
    }
    if (code == cudaSuccess) {
        *milliseconds =
            (float)((double)(int64_t)(end->last->time_ns - begin->last->time_ns) * 1e-6);
    }
    return answer(code);
}

/* Streams of the emulator: queues of closures, for its own sources and NCCL's stand-in.
 *
 * Nothing runs when it is queued. Whenever the host waits or asks (cudaStreamSynchronize,
 * cudaEventQuery, ...), rounds are made: in each, the first closure of every stream is called once.
 * A closure that answers false stays first and is called again in the next round; so one that waits
 * for another process polls, never blocks.
 *
 * Closures are copied for each replay of a captured graph: state they keep between calls belongs in
 * the closure itself (a mutable lambda), or in a shared pointer made by its first call.
 *
 * Device memory cannot be touched by the host but within a closure (it is protected outside), nor
 * by another process or a library's progress between rounds: exchanges go through host buffers. */
#ifndef WTN_EMULATOR_STREAM_H
#define WTN_EMULATOR_STREAM_H

#include <cuda_runtime_api.h>
#include <functional>

namespace emulator
{

typedef std::function<bool()> work_t; /* true: done */

/* Queue work (or, while the stream is captured, add it to the graph). `name` is a literal. */
cudaError_t enqueue(cudaStream_t stream, const char *name, work_t work);

/* One round over all streams; true if any closure finished. */
bool run_round(void);

/* Every later call of the runtime answers `code`; the text is printed once and kept for
 * wtn_emulator_report. All queues are emptied. */
void fail_device(cudaError_t code, const char *text);

bool is_capturing(cudaStream_t stream);

} // namespace emulator

#endif

/* cudaMemcpy and cudaMemset. */
#include <memory>
#include <string.h>
#include <vector>

#include "tests/emulator/state.h"
#include "tests/emulator/stream.h"

using namespace emulator;

/* The host's ordinary memory: neither of the device nor pinned. */
static bool is_pageable(const void *pointer)
{
    return !is_device_memory(pointer) && !is_pinned_memory(pointer);
}

static cudaError_t check_direction(const void *to, const void *from, enum cudaMemcpyKind kind)
{
    bool to_device   = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;

    if (kind == cudaMemcpyDefault) {
        return cudaSuccess;
    }
    if ((unsigned)kind > cudaMemcpyDefault) {
        return cudaErrorInvalidMemcpyDirection;
    }
    return to_device == is_device_memory(to) && from_device == is_device_memory(from)
               ? cudaSuccess
               : cudaErrorInvalidValue;
}

/* Queues it; *wait: the caller is to wait for the stream before it returns. */
static cudaError_t queue_copy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                              cudaStream_t stream, bool *wait)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();

    *wait = false;
    if (code == cudaSuccess && bytes > 0) {
        code = check_direction(to, from, kind);
    }
    if (code != cudaSuccess || bytes == 0) {
        return code;
    }
    /* From the host's ordinary memory the runtime copies before it returns ("API synchronization
     * behavior" in the CUDA runtime's manual); a captured copy reads when it is replayed. */
    if (is_pageable(from) && !is_capturing(stream)) {
        auto staged =
            std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
        return enqueue(stream, "copy", [=]() {
            memcpy(to, staged->data(), bytes);
            return true;
        });
    }
    *wait = is_pageable(to) && !is_capturing(stream);
    return enqueue(stream, "copy", [=]() {
        memmove(to, from, bytes);
        return true;
    });
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    bool        wait;
    cudaError_t code = queue_copy(to, from, bytes, kind, stream, &wait);

    return answer(code == cudaSuccess && wait ? cudaStreamSynchronize(stream) : code);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    bool        wait;
    cudaError_t code;

    {
        std::lock_guard<std::recursive_mutex> hold(lock);
        code = refuse_while_capturing();
    }
    if (code == cudaSuccess) {
        code = queue_copy(to, from, bytes, kind, NULL, &wait);
    }
    return answer(code == cudaSuccess ? cudaStreamSynchronize(NULL) : code);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();

    if (code == cudaSuccess && bytes > 0 && is_pageable(to)) {
        code = cudaErrorInvalidValue;
    }
    if (code != cudaSuccess || bytes == 0) {
        return answer(code);
    }
    return answer(enqueue(stream, "memset", [=]() {
        memset(to, value, bytes);
        return true;
    }));
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    return cudaMemsetAsync(to, value, bytes, NULL);
}

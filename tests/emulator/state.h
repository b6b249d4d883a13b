/* What the emulator's sources share. */
#ifndef WTN_EMULATOR_STATE_H
#define WTN_EMULATOR_STATE_H

#include <cuda_runtime_api.h>
#include <mutex>
#include <stddef.h>
#include <stdint.h>

#include "tests/emulator/emulator.h"

namespace emulator
{

struct settings_t {
    wtn_emulator_order_t   order;
    wtn_emulator_landing_t landing;
    uint64_t               random; /* state of the generator */
    int                    device_count;
    bool                   no_driver;
    int                    capability;
    int                    sm_count;
    bool                   protect;
    bool                   trace;
    int                    alloc_fails_in, launch_fails_in; /* 0: never */
};

extern settings_t settings;

uint64_t draw(void); /* the next random number */

/* An environment variable that means nothing: one line, and the program ends with status 1. */
[[noreturn]] void complain(const char *name, const char *expected, const char *found);

/* ---- every call of the runtime is made under one lock ---- */

extern std::recursive_mutex lock;

/* Environment is read; cudaErrorInsufficientDriver and the like; the sticky error. */
cudaError_t ready(void);
/* Keep code for cudaGetLastError and answer it. */
cudaError_t        answer(cudaError_t code);
extern cudaError_t sticky;

/* ---- memory.cc ---- */

/* While > 0, device memory can be touched. */
void open_device_memory(void);
void close_device_memory(void);

bool is_device_memory(const void *pointer);
bool is_pinned_memory(const void *pointer);
/* "12 bytes behind 4096 bytes of device memory at 0x..."; false: nowhere near any. */
bool describe_address(const void *pointer, char *text, size_t text_bytes);

/* ---- stream.cc, graph.cc ---- */

/* The call is unsafe while this thread captures: invalidates, and answers an error. */
cudaError_t refuse_while_capturing(void);
cudaError_t wait_for_device(void);
void        drop_all_work(void);

} // namespace emulator

#endif

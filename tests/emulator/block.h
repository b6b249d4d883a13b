/* A block of threads: fibers, warps, barriers, shared memory. */
#ifndef WTN_EMULATOR_BLOCK_H
#define WTN_EMULATOR_BLOCK_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <vector>

#include "tests/emulator/fiber.h"
#include "tests/emulator/launch.h"

namespace emulator
{

enum {
    WARP           = 32,
    THREADS_MAX    = 1024,
    BARRIERS       = 16,  /* named ones; one more is the cluster's */
    SHARED_ADDRESS = 1024 /* of the first byte of dynamic shared memory */
};

/* Where a wrapper was called, for reports; taken by default arguments. */
struct place_t {
    const char *file;
    int         line;
};
#define WTN_HERE emulator::place_t here = {__builtin_FILE(), __builtin_LINE()}

enum wait_t {
    RUNS,
    WAITS_WARP,    /* for the other lanes */
    WAITS_BARRIER, /* for the other threads */
    SPINS,         /* looks again when it has a turn: at memory that others may write */
    SPINS_BLOCK,   /* the same, at what only this block's own threads and copies change */
    LEFT
};

struct copy_t {
    uint32_t    to;
    const void *from;
    uint32_t    bytes;
    bool        landed;
};

struct block_t;
struct warp_t;

struct thread_t {
    uint32_t            index;
    block_t            *block;
    warp_t             *warp;
    fiber_t             fiber;
    wait_t              wait;
    uint32_t            barrier; /* WAITS_BARRIER */
    const char         *wrapper; /* what it waits in */
    place_t             place;
    std::vector<copy_t> copies; /* cp.async, oldest first */
    std::vector<size_t> groups; /* copies of each committed group, oldest first */
};

struct warp_t {
    uint32_t    arrived; /* lanes in the operation */
    const char *wrapper; /* which */
    void       *lanes[WARP];
};

struct barrier_t {
    uint32_t arrived, expected;
};

struct sm90_t; /* sm90.cc: mbarriers, bulk copies, matrix units */

struct block_t {
    const launch_t       *launch;
    uint32_t              x, y;
    std::vector<thread_t> threads;
    std::vector<uint32_t> order; /* in which threads run */
    std::vector<warp_t>   warps;
    barrier_t             barriers[BARRIERS + 1];
    char                 *shared; /* dynamic; a guard lies behind */
    size_t                shared_bytes;
    bool                  moved; /* a spinning thread found what it looked for */
    bool                  failed;
    sm90_t               *sm90;
};

/* The thread that runs. */
extern thread_t *self;

enum block_result_t { BLOCK_DONE, BLOCK_SPINS, BLOCK_FAILED };

/* Blocks come from a pool. NULL: no memory. */
block_t       *block_begin(const launch_t *launch, uint32_t x, uint32_t y);
block_result_t block_run(block_t *block);
void           block_end(block_t *block);

/* ---- for wrappers, called by the thread that runs ---- */

/* All lanes of the warp meet; the last to come calls act with what each gave. */
void meet(const char *wrapper, place_t place, void *mine, void (*act)(void *const lanes[WARP]));
void check_named(const char *wrapper, place_t place, uint32_t id);
/* id BARRIERS: the cluster's */
void barrier(const char *wrapper, place_t place, uint32_t id, uint32_t threads, bool wait);
/* Let the others run, then look again. */
void spin(const char *wrapper, place_t place, wait_t wait);
/* The kernel fails with this code and the text, which names kernel, block and thread. */
[[noreturn]] __attribute__((format(printf, 3, 4))) void fault(cudaError_t code, place_t place,
                                                              const char *format, ...);

/* A shared address as memory; fails the kernel unless `bytes` bytes are there and it is aligned. */
char *shared_at(const char *wrapper, place_t place, uint32_t address, uint32_t bytes,
                uint32_t align);
void  check_aligned(const char *wrapper, place_t place, const void *pointer, uint32_t align);

void copy_async(place_t place, uint32_t to, const void *from, uint32_t bytes);
void copy_commit(void);
void copy_wait(uint32_t pending);
void land_copies(thread_t *thread); /* all of them, now */

/* sm90.cc */
void        sm90_begin(block_t *block);
bool        sm90_land(block_t *block); /* something asynchronous completes; false: nothing could */
const char *sm90_end(block_t *block);  /* what is wrong with how it ended, or NULL */
void        sm90_written(const thread_t *writer, uint32_t address); /* 16 bytes by cp.async */

} // namespace emulator

#endif

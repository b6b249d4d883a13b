#include "tests/emulator/block.h"

#include <algorithm>
#include <stdio.h>
#include <string.h>
#include <string>
#include <sys/mman.h>

#include "tests/emulator/state.h"
#include "tests/emulator/stream.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(from, bytes)   ((void)(from), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(from, bytes) ((void)(from), (void)(bytes))
#endif

namespace emulator
{

enum {
    PAGE           = 4096,
    SHARED_MAPPING = 256 * 1024,
    POISON         = 0xFF, /* shared memory begins so: NaN in every format of floats */
    FILL           = 0xA5  /* behind it */
};

thread_t *self;

/* Never freed: what is in it is then no leak when the program ends. */
static std::vector<block_t *> &pool = *new std::vector<block_t *>;

/* ---- reports ---- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

static void fail_block(block_t *block, cudaError_t code, const char *text)
{
    char line[1024];

    (void)snprintf(line, sizeof(line), "%s, block %u,%u: %s", block->launch->name, block->x,
                   block->y, text);
    block->failed = true;
    fail_device(code, line);
}

void fault(cudaError_t code, place_t place, const char *format, ...)
{
    char    text[512], what[768];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    (void)snprintf(what, sizeof(what), "thread %u, %s:%d: %s", self->index, base_name(place.file),
                   place.line, text);
    fail_block(self->block, code, what);
    for (;;) {
        fiber_yield(); /* the block is not run again */
    }
}

static bool same_state(const thread_t &a, const thread_t &b)
{
    return a.wait == b.wait &&
           (a.wait == LEFT || (strcmp(a.wrapper, b.wrapper) == 0 && a.place.line == b.place.line));
}

/* "threads 0-30 wait in wtn_sync_block (a.cu:12); thread 31 has left" */
static void report_deadlock(block_t *block)
{
    std::string text  = "deadlock: ";
    size_t      count = block->threads.size();
    int         parts = 0;

    for (size_t begin = 0, end; begin < count; begin = end) {
        const thread_t &t = block->threads[begin];
        char            part[256], who[64], doing[160];
        for (end = begin + 1; end < count && same_state(t, block->threads[end]); end++) {
        }
        if (++parts > 8) {
            text += "; ...";
            break;
        }
        if (end == begin + 1) {
            (void)snprintf(who, sizeof(who), "thread %zu", begin);
        } else {
            (void)snprintf(who, sizeof(who), "threads %zu-%zu", begin, end - 1);
        }
        if (t.wait == LEFT) {
            (void)snprintf(doing, sizeof(doing), "left the kernel");
        } else {
            (void)snprintf(doing, sizeof(doing), "in %s (%s:%d)", t.wrapper,
                           base_name(t.place.file), t.place.line);
        }
        (void)snprintf(part, sizeof(part), "%s%s %s", parts > 1 ? "; " : "", who, doing);
        text += part;
    }
    fail_block(block, cudaErrorLaunchTimeout, text.c_str());
}

/* ---- a block's life ---- */

static void thread_main(void *context)
{
    thread_t *thread = (thread_t *)context;

    thread->block->launch->call(thread->block->launch->kernel, thread->block->launch->params.get());
    thread->wait = LEFT;
    fiber_leave();
}

static block_t *block_from_pool(void)
{
    block_t *block;
    void    *memory;

    if (!pool.empty()) {
        block = pool.back();
        pool.pop_back();
        return block;
    }
    memory = mmap(NULL, SHARED_MAPPING + PAGE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    mprotect((char *)memory + SHARED_MAPPING, PAGE, PROT_NONE);
    block         = new block_t();
    block->shared = (char *)memory;
    return block;
}

static void order_threads(block_t *block, uint32_t count)
{
    block->order.resize(count);
    for (uint32_t i = 0; i < count; i++) {
        block->order[i] = settings.order == WTN_EMULATOR_REVERSE ? count - 1 - i : i;
    }
    for (uint32_t i = count; settings.order == WTN_EMULATOR_RANDOM && i > 1; i--) {
        std::swap(block->order[i - 1], block->order[draw() % i]);
    }
}

/* The whole pages of shared memory in use, and what lies behind its end on them. */
static size_t shared_pages(const block_t *block)
{
    return (block->shared_bytes + PAGE) / PAGE * PAGE;
}

block_t *block_begin(const launch_t *launch, uint32_t x, uint32_t y)
{
    block_t *block = block_from_pool();

    if (block == NULL) {
        return NULL;
    }
    block->launch       = launch;
    block->x            = x;
    block->y            = y;
    block->shared_bytes = launch->shared_bytes;
    block->moved        = false;
    block->failed       = false;
    memset(block->barriers, 0, sizeof(block->barriers));
    memset(block->shared, POISON, block->shared_bytes);
    memset(block->shared + block->shared_bytes, FILL, shared_pages(block) - block->shared_bytes);
    ASAN_POISON_MEMORY_REGION(block->shared + block->shared_bytes,
                              SHARED_MAPPING - block->shared_bytes);
    block->warps.assign((launch->threads + WARP - 1) / WARP, warp_t());
    block->threads.resize(launch->threads);
    for (uint32_t i = 0; i < launch->threads; i++) {
        thread_t *thread = &block->threads[i];
        thread->index    = i;
        thread->block    = block;
        thread->warp     = &block->warps[i / WARP];
        thread->wait     = RUNS;
        thread->copies.clear();
        thread->groups.clear();
        if (!fiber_start(&thread->fiber, thread_main, thread)) {
            for (uint32_t j = 0; j < i; j++) {
                fiber_stop(&block->threads[j].fiber);
            }
            pool.push_back(block);
            return NULL;
        }
    }
    order_threads(block, launch->threads);
    sm90_begin(block);
    return block;
}

/* A turn of one thread, if it can run. Answers whether it did more than look. */
static bool run_turn(block_t *block, thread_t *thread, bool *spins)
{
    if (thread->wait == WAITS_WARP || thread->wait == WAITS_BARRIER || thread->wait == LEFT) {
        return false;
    }
    block->moved = false;
    self         = thread;
    fiber_resume(&thread->fiber);
    self = NULL;
    if (thread->wait == SPINS || thread->wait == SPINS_BLOCK) {
        *spins = *spins || thread->wait == SPINS;
        return block->moved;
    }
    return true;
}

/* One warp runs until it waits for others, while they stand still: how far apart a missing barrier
 * lets them come. */
static bool run_ahead(block_t *block, uint32_t warp, bool *spins)
{
    const size_t end      = std::min((size_t)(warp + 1) * WARP, block->threads.size());
    bool         progress = false, more = true;

    while (more && !block->failed) {
        more = false;
        for (size_t i = (size_t)warp * WARP; i < end && !block->failed; i++) {
            more = run_turn(block, &block->threads[i], spins) || more;
        }
        progress = progress || more;
    }
    return progress;
}

/* Each thread that can run has a turn; in random order, one warp has as many as it can use before.
 * Answers whether any did more than look. */
static bool run_pass(block_t *block, uint32_t *left, bool *spins)
{
    bool progress = false;

    *left  = 0;
    *spins = false;
    if (settings.order == WTN_EMULATOR_RANDOM) {
        progress = run_ahead(block, (uint32_t)(draw() % block->warps.size()), spins);
    }
    for (uint32_t i : block->order) {
        if (block->failed) {
            return false;
        }
        progress = run_turn(block, &block->threads[i], spins) || progress;
        *left += block->threads[i].wait == LEFT;
    }
    if (settings.order == WTN_EMULATOR_RANDOM && block->threads.size() <= 64) {
        order_threads(block, (uint32_t)block->threads.size());
    }
    return progress && !block->failed;
}

block_result_t block_run(block_t *block)
{
    uint32_t left;
    bool     spins;

    for (;;) {
        if (run_pass(block, &left, &spins)) {
            continue;
        }
        if (block->failed) {
            return BLOCK_FAILED;
        }
        if (left == block->threads.size()) {
            return BLOCK_DONE;
        }
        if (sm90_land(block)) {
            continue;
        }
        if (spins) {
            return BLOCK_SPINS;
        }
        report_deadlock(block);
        return BLOCK_FAILED;
    }
}

static void check_behind_shared(block_t *block)
{
    size_t end = shared_pages(block);
    char   text[128];

    ASAN_UNPOISON_MEMORY_REGION(block->shared, SHARED_MAPPING);
    for (size_t i = block->shared_bytes; i < end && !block->failed; i++) {
        if ((unsigned char)block->shared[i] != FILL) {
            (void)snprintf(text, sizeof(text), "byte %zu of %zu bytes of shared memory was written",
                           i, block->shared_bytes);
            fail_block(block, cudaErrorIllegalAddress, text);
        }
    }
}

void block_end(block_t *block)
{
    const char *wrong = sm90_end(block);

    check_behind_shared(block);
    if (wrong != NULL && !block->failed) {
        fail_block(block, cudaErrorLaunchFailure, wrong);
    }
    for (thread_t &thread : block->threads) {
        fiber_stop(&thread.fiber);
    }
    pool.push_back(block);
}

/* ---- meeting ---- */

static void wait_here(const char *wrapper, place_t place, wait_t wait)
{
    self->wrapper = wrapper;
    self->place   = place;
    self->wait    = wait;
    fiber_yield();
}

void meet(const char *wrapper, place_t place, void *mine, void (*act)(void *const lanes[WARP]))
{
    warp_t  *warp  = self->warp;
    uint32_t lane  = self->index % WARP;
    uint32_t first = self->index - lane;

    if (warp->arrived != 0 && warp->wrapper != wrapper && strcmp(warp->wrapper, wrapper) != 0) {
        uint32_t other = first + (uint32_t)__builtin_ctz(warp->arrived);
        fault(cudaErrorLaunchFailure, place, "%s, but thread %u of its warp is in %s (%s:%d)",
              wrapper, other, warp->wrapper, base_name(self->block->threads[other].place.file),
              self->block->threads[other].place.line);
    }
    warp->wrapper     = wrapper;
    warp->lanes[lane] = mine;
    warp->arrived |= 1u << lane;
    if (warp->arrived != 0xffffffffu) {
        wait_here(wrapper, place, WAITS_WARP);
        return;
    }
    warp->arrived = 0;
    for (uint32_t i = first; i < first + WARP; i++) {
        self->block->threads[i].wait = RUNS;
    }
    self->place = place;
    act(warp->lanes);
}

void check_named(const char *wrapper, place_t place, uint32_t id)
{
    if (id == 0 || id >= BARRIERS) { /* 0 is wtn_sync_block's */
        fault(cudaErrorLaunchFailure, place, "%s: barrier %u, there are 1 to 15", wrapper, id);
    }
}

void barrier(const char *wrapper, place_t place, uint32_t id, uint32_t threads, bool wait)
{
    block_t   *block = self->block;
    barrier_t *b;

    if (id > BARRIERS || threads == 0 || threads % WARP != 0 || threads > block->threads.size()) {
        if (id != 0 || threads != block->threads.size()) { /* bar.sync 0 takes any block */
            fault(cudaErrorLaunchFailure, place, "%s: barrier %u of %u threads, the block has %zu",
                  wrapper, id, threads, block->threads.size());
        }
    }
    b = &block->barriers[id];
    if (b->arrived > 0 && b->expected != threads) {
        fault(cudaErrorLaunchFailure, place, "%s: barrier %u of %u threads, others said %u",
              wrapper, id, threads, b->expected);
    }
    b->expected = threads;
    if (++b->arrived == threads) {
        b->arrived = 0;
        for (thread_t &thread : block->threads) {
            if (thread.wait == WAITS_BARRIER && thread.barrier == id) {
                thread.wait = RUNS;
            }
        }
    } else if (wait) {
        self->barrier = id;
        wait_here(wrapper, place, WAITS_BARRIER);
    }
}

void spin(const char *wrapper, place_t place, wait_t wait)
{
    wait_here(wrapper, place, wait);
    self->wait = RUNS;
}

/* ---- memory ---- */

char *shared_at(const char *wrapper, place_t place, uint32_t address, uint32_t bytes,
                uint32_t align)
{
    uint64_t begin = (uint64_t)address - SHARED_ADDRESS;

    if (address < SHARED_ADDRESS || begin + bytes > self->block->shared_bytes) {
        fault(cudaErrorIllegalAddress, place, "%s: byte %lld of %zu bytes of shared memory",
              wrapper, (long long)address - SHARED_ADDRESS, self->block->shared_bytes);
    }
    if (address % align != 0) {
        fault(cudaErrorMisalignedAddress, place, "%s: shared byte %llu is not a multiple of %u",
              wrapper, (unsigned long long)begin, align);
    }
    return self->block->shared + begin;
}

void check_aligned(const char *wrapper, place_t place, const void *pointer, uint32_t align)
{
    if ((uintptr_t)pointer % align != 0) {
        fault(cudaErrorMisalignedAddress, place, "%s: address %p is not a multiple of %u", wrapper,
              pointer, align);
    }
}

/* ---- cp.async: PTX ISA 9.0, "Data Movement and Conversion Instructions: cp.async" ---- */

static void land(const thread_t *thread, copy_t *copy)
{
    char *to = thread->block->shared + (copy->to - SHARED_ADDRESS);

    if (!copy->landed) {
        copy->landed = true;
        memcpy(to, copy->from, copy->bytes);
        memset(to + copy->bytes, 0, 16 - copy->bytes);
        sm90_written(thread, copy->to);
    }
}

void copy_async(place_t place, uint32_t to, const void *from, uint32_t bytes)
{
    copy_t copy = {to, from, bytes, false};

    (void)shared_at("wtn_copy16_async", place, to, 16, 16);
    check_aligned("wtn_copy16_async", place, from, 16);
    if (bytes > 16) {
        fault(cudaErrorLaunchFailure, place, "wtn_copy16_async: %u bytes, at most 16", bytes);
    }
    if (settings.landing == WTN_EMULATOR_EARLY ||
        (settings.landing == WTN_EMULATOR_EITHER && (draw() & 1) != 0)) {
        land(self, &copy);
    }
    self->copies.push_back(copy);
}

void copy_commit(void)
{
    size_t committed = 0;

    for (size_t group : self->groups) {
        committed += group;
    }
    self->groups.push_back(self->copies.size() - committed);
}

void copy_wait(uint32_t pending)
{
    while (self->groups.size() > pending) {
        size_t count = self->groups.front();
        for (size_t i = 0; i < count; i++) {
            land(self, &self->copies[i]);
        }
        self->copies.erase(self->copies.begin(), self->copies.begin() + (ptrdiff_t)count);
        self->groups.erase(self->groups.begin());
    }
}

void land_copies(thread_t *thread)
{
    for (copy_t &copy : thread->copies) {
        land(thread, &copy);
    }
}

} // namespace emulator

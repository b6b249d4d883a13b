/* A grid: which of its blocks run, and when. */
#include "tests/emulator/launch.h"

#include <algorithm>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/emulator/block.h"
#include "tests/emulator/state.h"
#include "tests/emulator/stream.h"

namespace emulator
{

static uint64_t kernel_count;

struct grid_t {
    launch_t               launch;
    std::vector<uint32_t>  order; /* of blocks */
    size_t                 next;
    std::vector<block_t *> resident;
    size_t                 resident_max;
    uint64_t               steps;
};

/* ---- a kernel's wild accesses, named before the process dies ---- */

static void describe_crash(int signal, siginfo_t *info, void *context)
{
    char text[512], where[256];
    int  bytes;

    (void)context;
    if (self == NULL) {
        bytes = describe_address(info->si_addr, where, sizeof(where))
                    ? snprintf(text, sizeof(text), "emulator: the host touched %s\n", where)
                    : 0;
    } else {
        if (!describe_address(info->si_addr, where, sizeof(where))) {
            (void)snprintf(where, sizeof(where), "address %p", info->si_addr);
        }
        bytes =
            snprintf(text, sizeof(text), "emulator: %s, block %u,%u: thread %u touched %s\n",
                     self->block->launch->name, self->block->x, self->block->y, self->index, where);
    }
    if (bytes > 0) {
        (void)!write(STDERR_FILENO, text, (size_t)bytes);
    }
    (void)::signal(signal, SIG_DFL); /* it happens again, and ends the process as usual */
}

static void catch_crashes(void)
{
#if !defined(__SANITIZE_ADDRESS__) /* which tells more */
    static char      stack[64 * 1024];
    stack_t          alternative = {};
    struct sigaction action      = {};

    alternative.ss_sp   = stack;
    alternative.ss_size = sizeof(stack);
    sigaltstack(&alternative, NULL);
    action.sa_sigaction = describe_crash;
    action.sa_flags     = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
#else
    (void)describe_crash;
#endif
}

/* ---- running ---- */

static std::shared_ptr<grid_t> grid_begin(const launch_t &launch)
{
    auto     grid  = std::make_shared<grid_t>();
    uint32_t count = launch.blocks * launch.blocks_y;

    grid->launch = launch;
    grid->resident_max =
        (size_t)settings.sm_count *
        (size_t)std::max(1, resident_blocks_per_sm(launch.threads, launch.shared_bytes));
    grid->order.resize(count);
    for (uint32_t i = 0; i < count; i++) {
        grid->order[i] = settings.order == WTN_EMULATOR_REVERSE ? count - 1 - i : i;
    }
    for (uint32_t i = count; settings.order == WTN_EMULATOR_RANDOM && i > 1; i--) {
        std::swap(grid->order[i - 1], grid->order[draw() % i]);
    }
    if (settings.trace) {
        (void)fprintf(stderr, "emulator: %s: %u x %u blocks of %u threads, %zu shared bytes\n",
                      launch.name, launch.blocks, launch.blocks_y, launch.threads,
                      launch.shared_bytes);
    }
    return grid;
}

static bool start_block(grid_t *grid)
{
    uint32_t index = grid->order[grid->next];
    block_t *block =
        block_begin(&grid->launch, index % grid->launch.blocks, index / grid->launch.blocks);

    if (block == NULL) {
        fail_device(cudaErrorMemoryAllocation, "no memory for the stacks of a block");
        return false;
    }
    grid->next++;
    grid->resident.push_back(block);
    return true;
}

static void drop_blocks(grid_t *grid)
{
    for (block_t *block : grid->resident) {
        block->failed = true;
        block_end(block);
    }
    grid->resident.clear();
}

/* Runs blocks until all are done (true) or all that are resident only look at memory (false). A
 * block is begun once those before it are done or spin, so that most grids run block by block. */
static bool grid_step(grid_t *grid)
{
    bool progress = true;

    while (progress) {
        progress = false;
        for (size_t i = 0; i < grid->resident.size();) {
            block_t       *block  = grid->resident[i];
            block_result_t result = block_run(block);
            if (result == BLOCK_FAILED) {
                drop_blocks(grid);
                return true;
            }
            if (result == BLOCK_SPINS) {
                i++;
                continue;
            }
            grid->resident.erase(grid->resident.begin() + (ptrdiff_t)i);
            block_end(block);
            progress = true;
            if (sticky != cudaSuccess) { /* found when the block ended */
                drop_blocks(grid);
                return true;
            }
        }
        if (grid->next < grid->order.size() && grid->resident.size() < grid->resident_max) {
            if (!start_block(grid)) {
                drop_blocks(grid);
                return true;
            }
            progress = true;
        }
    }
    return grid->resident.empty();
}

static cudaError_t check_limits(const launch_t &launch)
{
    if (launch.blocks == 0 || launch.blocks > 0x7fffffffu || launch.blocks_y == 0 ||
        launch.blocks_y > 65535 || launch.threads == 0 || launch.threads > THREADS_MAX) {
        return cudaErrorInvalidConfiguration;
    }
    return launch.shared_bytes > shared_bytes_allowed(launch.kernel) ? cudaErrorInvalidValue
                                                                     : cudaSuccess;
}

cudaError_t launch_kernel(const launch_t &asked, const void *params, size_t params_bytes,
                          cudaStream_t stream)
{
    static bool                           crashes_caught;
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code   = ready();
    launch_t                              launch = asked;

    if (code == cudaSuccess) {
        code = check_limits(launch);
    }
    if (code != cudaSuccess) {
        return answer(code);
    }
    if (!crashes_caught) {
        crashes_caught = true;
        catch_crashes();
    }
    launch.params =
        std::shared_ptr<char>((char *)aligned_alloc(128, (params_bytes + 127) / 128 * 128), free);
    memcpy(launch.params.get(), params, params_bytes);
    if (settings.launch_fails_in > 0 && --settings.launch_fails_in == 0) {
        return answer(enqueue(stream, launch.name, []() {
            fail_device(cudaErrorLaunchFailure, "a kernel fails on demand");
            return true;
        }));
    }
    std::shared_ptr<grid_t> grid;
    return answer(enqueue(stream, launch.name, [launch, grid]() mutable {
        if (grid == NULL) {
            grid = grid_begin(launch);
            kernel_count++;
        }
        return grid_step(grid.get());
    }));
}

} // namespace emulator

uint64_t wtn_emulator_kernel_count(void)
{
    return emulator::kernel_count;
}

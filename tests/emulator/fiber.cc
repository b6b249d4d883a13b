#include "tests/emulator/fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) && !defined(WTN_EMULATOR_UCONTEXT)
#define OWN_SWITCH 1
#else /* any other machine: slower, as each switch changes the signal mask */
#define OWN_SWITCH 0
#include <ucontext.h>
#endif

namespace emulator
{

enum {
    GUARD_BYTES = 4096,
#if defined(__SANITIZE_ADDRESS__)
    STACK_BYTES = 256 * 1024 /* its frames are several times larger */
#else
    STACK_BYTES = 96 * 1024
#endif
};

static std::vector<char *> pool; /* stacks not in use */
static fiber_t            *running;
static void               *host_stack_pointer;
#if defined(__SANITIZE_ADDRESS__)
static void       *host_sanitizer;
static const void *host_stack;
static size_t      host_stack_bytes;
#endif

/* ---- the switch itself ---- */

#if OWN_SWITCH

/* Saves what the System V ABI has a callee preserve, on the old stack; then the same from the new
 * one. The control words of x87 and SSE are equal in all fibers. */
extern "C" void wtn_emulator_switch(void **old_stack_pointer, void *new_stack_pointer);
asm(R"(
    .text
    .globl wtn_emulator_switch
    .hidden wtn_emulator_switch
    .type wtn_emulator_switch, @function
wtn_emulator_switch:
    .cfi_startproc
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .cfi_endproc
    .size wtn_emulator_switch, .-wtn_emulator_switch
)");

#else

static void wtn_emulator_switch(void **old_stack_pointer, void *new_stack_pointer)
{
    ucontext_t here;

    *old_stack_pointer = &here;
    swapcontext(&here, (ucontext_t *)new_stack_pointer);
}

#endif

[[noreturn]] static void begin(void)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(NULL, &host_stack, &host_stack_bytes);
#endif
    running->entry(running->context);
    abort(); /* entry left without fiber_leave */
}

static void prepare(fiber_t *fiber)
{
#if OWN_SWITCH
    /* As if wtn_emulator_switch had been called from nowhere: six registers, then `begin` to return
     * to; at its entry the stack pointer must be 8 above a multiple of 16. */
    void **top = (void **)(void *)(fiber->stack + fiber->stack_bytes);

    *--top = NULL;
    *--top = (void *)begin;
    for (int i = 0; i < 6; i++) {
        *--top = NULL;
    }
    fiber->stack_pointer = top;
#else
    ucontext_t *context = (ucontext_t *)(void *)fiber->stack;

    getcontext(context);
    context->uc_stack.ss_sp = fiber->stack + sizeof(*context);
    context->uc_stack.ss_size = fiber->stack_bytes - sizeof(*context);
    context->uc_link = NULL;
    makecontext(context, (void (*)(void))begin, 0);
    fiber->stack_pointer = context;
#endif
}

/* ---- what the rest of the emulator uses ---- */

bool fiber_start(fiber_t *fiber, void (*entry)(void *context), void *context)
{
    void *memory;

    memset(fiber, 0, sizeof(*fiber));
    if (!pool.empty()) {
        fiber->stack = pool.back();
        pool.pop_back();
    } else {
        memory = mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            return false;
        }
        mprotect(memory, GUARD_BYTES, PROT_NONE);
        fiber->stack = (char *)memory + GUARD_BYTES;
    }
    fiber->stack_bytes = STACK_BYTES;
    fiber->entry       = entry;
    fiber->context     = context;
    prepare(fiber);
    return true;
}

void fiber_resume(fiber_t *fiber)
{
    running = fiber;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&host_sanitizer, fiber->stack, fiber->stack_bytes);
#endif
    wtn_emulator_switch(&host_stack_pointer, fiber->stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(host_sanitizer, NULL, NULL);
#endif
    running = NULL;
}

static void switch_to_host(void **sanitizer)
{
    fiber_t *self = running;

#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(sanitizer, host_stack, host_stack_bytes);
#else
    (void)sanitizer;
#endif
    wtn_emulator_switch(&self->stack_pointer, host_stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self->sanitizer, &host_stack, &host_stack_bytes);
#endif
}

void fiber_yield(void)
{
    switch_to_host(&running->sanitizer);
}

void fiber_leave(void)
{
    switch_to_host(NULL); /* tells AddressSanitizer that this stack is done with */
    abort();
}

void fiber_stop(fiber_t *fiber)
{
    if (fiber->stack != NULL) {
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(fiber->stack, fiber->stack_bytes);
#endif
        pool.push_back(fiber->stack);
        fiber->stack = NULL;
    }
}

} // namespace emulator

/* Fibers: functions with stacks of their own that run until they yield. */
#ifndef WTN_EMULATOR_FIBER_H
#define WTN_EMULATOR_FIBER_H

#include <stddef.h>

namespace emulator
{

struct fiber_t {
    void  *stack_pointer; /* while it does not run */
    char  *stack;         /* lowest byte; a guard page lies below */
    size_t stack_bytes;
    void  *sanitizer; /* AddressSanitizer's notion of its stack */
    void (*entry)(void *context);
    void *context;
};

/* A stack from the pool, ready to run entry(context) at the first fiber_resume. entry must end in
 * fiber_leave. False: no memory. */
bool fiber_start(fiber_t *fiber, void (*entry)(void *context), void *context);

/* Run the fiber until it yields or leaves. Not from within a fiber. */
void fiber_resume(fiber_t *fiber);

/* From within the fiber that runs: back to who resumed it. */
void              fiber_yield(void);
[[noreturn]] void fiber_leave(void);

/* The stack goes back to the pool, whether the fiber ended or not. */
void fiber_stop(fiber_t *fiber);

} // namespace emulator

#endif

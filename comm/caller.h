/* A thread that makes calls which may never return, one after the other, so that the rank can give
 * up waiting for one. */
#ifndef WTN_CALLER_H
#define WTN_CALLER_H

#include <stdbool.h>

#include <witan/status.h>

typedef struct wtn_caller wtn_caller_t;

/* WITAN_E_MEMORY where there is no thread to be had. */
witan_status_t wtn_caller_open(wtn_caller_t **out);

/* Have call(argument) made; the one before has returned. */
void wtn_caller_start(wtn_caller_t *caller, int (*call)(void *argument), void *argument);

/* A call that the thread has not begun is not made. */
void wtn_caller_withdraw(wtn_caller_t *caller);

/* Has the last call returned, or been withdrawn? Then *code is the value of the last that was made.
 * Costs a load. */
bool wtn_caller_is_idle(const wtn_caller_t *caller, int *code);

/* End the thread, and then call release(memory) if it is not NULL. A call not begun is not made. A
 * thread in a call is left to itself, and releases when that returns: the memory that calls use is
 * freed this way. */
void wtn_caller_close(wtn_caller_t *caller, void (*release)(void *memory), void *memory);

#endif

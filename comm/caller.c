#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "comm/caller.h"
#include "core/error.h"
#include "core/util.h"

/* Steps follow each other within a millisecond or two, and a thread that sleeps is woken late: by
 * 36 to 107 us on two cores of a host (docs/performance_gpu.md). */
#define SPIN_NS 2000000u

typedef enum state {
    IDLE,   /* the rank may start a call, or close */
    CALLED, /* the thread will begin it; the rank may take it back */
    BUSY,   /* the thread is at it */
    CLOSED, /* the rank waits for the thread's end */
    LEFT    /* the rank has gone during a call: the thread frees */
} state_t;

struct wtn_caller {
    pthread_t       thread;
    pthread_mutex_t mutex;
    pthread_cond_t  called; /* with the mutex: the state is IDLE no more */
    atomic_int      state;
    int (*call)(void *argument);
    void *argument;
    int   code;
    void (*release)(void *memory);
    void *memory;
};

static void free_caller(wtn_caller_t *caller)
{
    if (caller->release != NULL) {
        caller->release(caller->memory);
    }
    (void)pthread_cond_destroy(&caller->called);
    (void)pthread_mutex_destroy(&caller->mutex);
    free(caller);
}

static void wait_for_call(wtn_caller_t *caller)
{
    uint64_t end_ns = wtn_now_ns() + SPIN_NS;

    while (atomic_load(&caller->state) == IDLE && wtn_now_ns() < end_ns) {
        (void)sched_yield();
    }
    (void)pthread_mutex_lock(&caller->mutex);
    while (atomic_load(&caller->state) == IDLE) {
        (void)pthread_cond_wait(&caller->called, &caller->mutex);
    }
    (void)pthread_mutex_unlock(&caller->mutex);
}

static bool change(wtn_caller_t *caller, int from, int to)
{
    return atomic_compare_exchange_strong(&caller->state, &from, to);
}

static void *run(void *argument)
{
    wtn_caller_t *caller = argument;

    while (atomic_load(&caller->state) != CLOSED) {
        wait_for_call(caller);
        if (change(caller, CALLED, BUSY)) {
            caller->code = caller->call(caller->argument);
            if (!change(caller, BUSY, IDLE)) {
                free_caller(caller);
                break;
            }
        }
    }
    return NULL;
}

/* The program's signals are for its own threads; faults are told as ever. */
static int start_thread(wtn_caller_t *caller)
{
    sigset_t blocked, before;
    int      code;

    (void)sigfillset(&blocked);
    (void)sigdelset(&blocked, SIGSEGV);
    (void)sigdelset(&blocked, SIGBUS);
    (void)sigdelset(&blocked, SIGFPE);
    (void)sigdelset(&blocked, SIGILL);
    (void)pthread_sigmask(SIG_SETMASK, &blocked, &before);
    code = pthread_create(&caller->thread, NULL, run, caller);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

witan_status_t wtn_caller_open(wtn_caller_t **out)
{
    wtn_caller_t *caller = calloc(1, sizeof(*caller));

    *out = NULL;
    if (caller == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "caller: %zu bytes", sizeof(*caller));
    }
    atomic_init(&caller->state, IDLE);
    (void)pthread_mutex_init(&caller->mutex, NULL);
    (void)pthread_cond_init(&caller->called, NULL);
    if (start_thread(caller) != 0) {
        free_caller(caller);
        return WTN_ERROR(WITAN_E_MEMORY, "caller: no thread could be made");
    }
    *out = caller;
    return WITAN_OK;
}

static void wake(wtn_caller_t *caller)
{
    (void)pthread_mutex_lock(&caller->mutex);
    (void)pthread_cond_signal(&caller->called);
    (void)pthread_mutex_unlock(&caller->mutex);
}

void wtn_caller_start(wtn_caller_t *caller, int (*call)(void *argument), void *argument)
{
    caller->call     = call;
    caller->argument = argument;
    atomic_store(&caller->state, CALLED);
    wake(caller);
}

void wtn_caller_withdraw(wtn_caller_t *caller)
{
    (void)change(caller, CALLED, IDLE);
}

bool wtn_caller_is_idle(const wtn_caller_t *caller, int *code)
{
    if (atomic_load(&caller->state) != IDLE) {
        return false;
    }
    *code = caller->code;
    return true;
}

void wtn_caller_close(wtn_caller_t *caller, void (*release)(void *memory), void *memory)
{
    pthread_t thread = caller->thread;

    wtn_caller_withdraw(caller);
    caller->release = release;
    caller->memory  = memory;
    if (change(caller, BUSY, LEFT)) {
        (void)pthread_detach(thread);
        return;
    }
    atomic_store(&caller->state, CLOSED); /* the call has returned, if there was one */
    wake(caller);
    (void)pthread_join(thread, NULL);
    free_caller(caller);
}

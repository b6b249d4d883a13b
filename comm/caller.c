#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "comm/caller.h"
#include "core/error.h"
#include "core/util.h"

/* Steps follow each other within a millisecond or two, and to wake a thread takes up to a quarter
 * of one where the processor has gone to sleep, too: measured on a virtual machine of four GPUs. */
#define SPIN_NS 2000000u

typedef enum state {
    IDLE,   /* the rank may start a call, or close */
    CALLED, /* the thread is at it, or will be */
    CLOSED, /* the rank waits for the thread's end */
    LEFT    /* the rank has gone: the thread frees */
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

static int wait_for_call(wtn_caller_t *caller)
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
    return atomic_load(&caller->state);
}

static void *run(void *argument)
{
    wtn_caller_t *caller = argument;
    int           state;

    while ((state = wait_for_call(caller)) == CALLED) {
        caller->code = caller->call(caller->argument);
        state        = CALLED;
        if (!atomic_compare_exchange_strong(&caller->state, &state, IDLE)) {
            break;
        }
    }
    if (state == LEFT) {
        free_caller(caller);
    }
    return NULL;
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
    if (pthread_create(&caller->thread, NULL, run, caller) != 0) {
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
    int       state  = IDLE;

    caller->release = release;
    caller->memory  = memory;
    while (!atomic_compare_exchange_weak(&caller->state, &state, state == IDLE ? CLOSED : LEFT)) {
    }
    if (state == IDLE) {
        wake(caller);
        (void)pthread_join(thread, NULL);
        free_caller(caller);
    } else {
        (void)pthread_detach(thread); /* awake, or woken by the call */
    }
}

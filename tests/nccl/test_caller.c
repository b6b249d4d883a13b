/* The thread that calls: each call once and in order, and memory freed when nobody uses it. */
#include <check.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "comm/caller.h"
#include "core/util.h"

#define SECOND_NS 1000000000u

static atomic_int held, begun, released;
static int        made;

static int count_call(void *argument)
{
    return ++made + *(int *)argument;
}

/* Returns when told to. */
static int hold(void *argument)
{
    atomic_store(&begun, 1);
    while (atomic_load(&held) != 0) {
        (void)sched_yield();
    }
    ck_assert_int_eq(atomic_load(&released), 0);
    *(int *)argument = 1; /* freed memory is found by the sanitizer */
    return 0;
}

static void release(void *memory)
{
    free(memory);
    (void)atomic_fetch_add(&released, 1);
}

static int wait_for(const wtn_caller_t *caller)
{
    uint64_t end_ns = wtn_now_ns() + 60 * (uint64_t)SECOND_NS;
    int      code   = -1;

    while (!wtn_caller_is_idle(caller, &code)) {
        ck_assert(wtn_now_ns() < end_ns);
        (void)sched_yield();
    }
    return code;
}

static wtn_caller_t *caller_make(void)
{
    wtn_caller_t *caller;

    ck_assert_int_eq(wtn_caller_open(&caller), WITAN_OK);
    atomic_store(&released, 0);
    return caller;
}

/* Awake and asleep: it sleeps some milliseconds after the last call. */
START_TEST(test_calls_are_made_once_and_in_order)
{
    wtn_caller_t *caller  = caller_make();
    int          *hundred = malloc(sizeof(*hundred));

    *hundred = 100;
    made     = 0;
    for (int i = 1; i <= 2000; i++) {
        uint64_t until_ns = wtn_now_ns() + (i % 200 == 0 ? 10000000u : 0);

        while (wtn_now_ns() < until_ns) {
            (void)sched_yield();
        }
        wtn_caller_start(caller, count_call, hundred);
        ck_assert_int_eq(wait_for(caller), 100 + i);
    }
    wtn_caller_close(caller, release, hundred);
    ck_assert_int_eq(atomic_load(&released), 1);
}
END_TEST

START_TEST(test_call_in_progress_keeps_the_memory)
{
    wtn_caller_t *caller = caller_make();
    int          *memory = calloc(1, sizeof(*memory));
    uint64_t      end_ns = wtn_now_ns() + 60 * (uint64_t)SECOND_NS;
    int           code;

    atomic_store(&begun, 0);
    atomic_store(&held, 1);
    wtn_caller_start(caller, hold, memory);
    while (atomic_load(&begun) == 0) {
        ck_assert(wtn_now_ns() < end_ns);
        (void)sched_yield();
    }
    wtn_caller_withdraw(caller); /* too late */
    ck_assert(!wtn_caller_is_idle(caller, &code));
    wtn_caller_close(caller, release, memory);
    ck_assert_int_eq(atomic_load(&released), 0);
    atomic_store(&held, 0);
    while (atomic_load(&released) == 0) {
        ck_assert(wtn_now_ns() < end_ns);
        (void)sched_yield();
    }
}
END_TEST

/* Whichever side is first. */
START_TEST(test_close_at_any_moment_releases_once)
{
    for (int i = 0; i < 500; i++) {
        wtn_caller_t *caller   = caller_make();
        int          *memory   = calloc(1, sizeof(*memory));
        uint64_t      until_ns = wtn_now_ns() + (uint64_t)(i % 50) * 200u, end_ns;

        if (i % 5 != 0) {
            wtn_caller_start(caller, hold, memory);
        }
        while (wtn_now_ns() < until_ns) {
        }
        wtn_caller_close(caller, release, memory);
        end_ns = wtn_now_ns() + 60 * (uint64_t)SECOND_NS;
        while (atomic_load(&released) == 0) {
            ck_assert(wtn_now_ns() < end_ns);
            (void)sched_yield();
        }
        ck_assert_int_eq(atomic_load(&released), 1);
    }
}
END_TEST

/* What is withdrawn is made whole or not at all, and never later. */
START_TEST(test_withdrawn_call_is_not_made_later)
{
    wtn_caller_t *caller = caller_make();
    int          *zero   = calloc(1, sizeof(*zero));
    int           count  = 0;

    made = 0;
    for (int i = 0; i < 2000; i++) {
        uint64_t until_ns = wtn_now_ns() + (i % 200 == 0 ? 5000000u : (uint64_t)(i % 50) * 50u);

        while (wtn_now_ns() < until_ns) {
        }
        wtn_caller_start(caller, count_call, zero);
        wtn_caller_withdraw(caller);
        (void)wait_for(caller);
        ck_assert(made == count || made == count + 1);
        count = made;
    }
    ck_assert_int_lt(count, 2000);
    wtn_caller_start(caller, count_call, zero);
    ck_assert_int_eq(wait_for(caller), count + 1);
    wtn_caller_close(caller, release, zero);
}
END_TEST

static int look_at_signals(void *argument)
{
    sigset_t *blocked = argument;

    return pthread_sigmask(SIG_SETMASK, NULL, blocked);
}

START_TEST(test_signals_are_left_to_the_program)
{
    wtn_caller_t *caller = caller_make();
    sigset_t      blocked, mine;

    wtn_caller_start(caller, look_at_signals, &blocked);
    ck_assert_int_eq(wait_for(caller), 0);
    wtn_caller_close(caller, NULL, NULL);
    ck_assert_int_eq(pthread_sigmask(SIG_SETMASK, NULL, &mine), 0);
    ck_assert_int_eq(sigismember(&blocked, SIGTERM), 1);
    ck_assert_int_eq(sigismember(&blocked, SIGSEGV), 0);
    ck_assert_int_eq(sigismember(&mine, SIGTERM), 0);
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("caller");
    TCase   *tcase  = tcase_create("caller");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_test(tcase, test_calls_are_made_once_and_in_order);
    tcase_add_test(tcase, test_call_in_progress_keeps_the_memory);
    tcase_add_test(tcase, test_close_at_any_moment_releases_once);
    tcase_add_test(tcase, test_withdrawn_call_is_not_made_later);
    tcase_add_test(tcase, test_signals_are_left_to_the_program);
    tcase_set_timeout(tcase, 100);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

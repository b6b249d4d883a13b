/* Device memory and children, for the emulator's own tests. */
#ifndef WTN_TEST_SUPPORT_H
#define WTN_TEST_SUPPORT_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cuda_runtime_api.h>

#define OK(call) ck_assert_int_eq((int)(call), 0)

/* Device memory with a copy of `from` (NULL: as it comes). */
static inline void *device_from(const void *from, size_t bytes)
{
    void *memory;

    OK(cudaMalloc(&memory, bytes));
    if (from != NULL) {
        OK(cudaMemcpy(memory, from, bytes, cudaMemcpyHostToDevice));
    }
    return memory;
}

/* The other way, and frees it. */
static inline void to_host(void *to, void *from, size_t bytes)
{
    OK(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
    OK(cudaFree(from));
}

static inline void *pinned(size_t bytes)
{
    void *memory;

    OK(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault));
    memset(memory, 0, bytes);
    return memory;
}

/* Runs the suite in this process, as a device does not survive a fork: the exit status of main. 77,
 * for "skipped", without a device of compute capability `major` (0: any). */
static inline int run_on_device(Suite *suite, int major)
{
    SRunner *runner = srunner_create(suite);
    int      found  = 0, failed;

    if (cudaDeviceGetAttribute(&found, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess ||
        (major != 0 && found != major)) {
        printf("no device%s\n", major != 0 ? " of this compute capability" : "");
        srunner_free(runner);
        return 77;
    }
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* How a child that runs `body` ends: its exit status, or -1 for a signal. AddressSanitizer turns
 * signals into an exit status of its own, 1. */
static inline int child(int (*body)(void))
{
    int   status;
    pid_t pid = fork();

    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        _exit(body());
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#if defined(__SANITIZE_ADDRESS__)
#define DIED 1
#else
#define DIED (-1)
#endif

#endif

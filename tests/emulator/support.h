/* Device memory and children, for the emulator's own tests. */
#ifndef WTN_TEST_SUPPORT_H
#define WTN_TEST_SUPPORT_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
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

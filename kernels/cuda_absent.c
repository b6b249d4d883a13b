/* The cuda backend's row where it is not built in: named, and said why. */
#include <stdio.h>

#include "kernels/backend.h"

static bool probe(char *reason, size_t reason_bytes)
{
    (void)snprintf(reason, reason_bytes, "built without CUDA");
    return false;
}

const wtn_backend_t wtn_backend_cuda = {.name = "cuda", .probe = probe};

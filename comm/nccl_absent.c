/* The nccl transport's row where it is not built in: named, and said why. */
#include <stdio.h>

#include "comm/comm.h"

static bool probe(char *reason, size_t reason_bytes)
{
    (void)snprintf(reason, reason_bytes, "built without CUDA");
    return false;
}

const wtn_transport_t wtn_transport_nccl = {.name = "nccl", .probe = probe};

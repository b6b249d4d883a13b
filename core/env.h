/* The environment variables Witan reads: one table, read nowhere else. */
#ifndef WTN_ENV_H
#define WTN_ENV_H

#include <stdint.h>

#include <witan/status.h>

/* name, type, default, help */
#define WTN_ENV_LIST(X)                                                    \
    X(WITAN_TIMEOUT, "seconds", "60", "deadline of every wait for a peer") \
    X(WITAN_NUM_THREADS, "count", "0",                                     \
      "compute threads per rank; 0: the cores the rank is bound to")       \
    X(WITAN_RANKS_PER_NODE, "count", "0",                                  \
      "ranks of a node at most, within a machine; 0: all of the machine")  \
    X(WITAN_KERNEL_TIER, "name", "auto", "what kernel tier auto means: a name of --kernel-tier")

typedef enum wtn_env {
#define WTN_ENV_ENUM(name, type, value, help) WTN_ENV_##name,
    WTN_ENV_LIST(WTN_ENV_ENUM)
#undef WTN_ENV_ENUM
        WTN_ENV_COUNT
} wtn_env_t;

/* The text of a variable, its default where unset. */
const char *wtn_env_text(wtn_env_t variable);

/* Parsed values; a text that is no number is WITAN_E_ARGUMENT naming the variable. */
witan_status_t wtn_env_count(wtn_env_t variable, int64_t max, int64_t *value);
witan_status_t wtn_env_seconds(wtn_env_t variable, uint64_t *nanoseconds);

#endif

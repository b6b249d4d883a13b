/* A session: the ranks of one run of the program, from the first wait to the exit status.
 *
 * MPI is started only where a launcher started the program; alone it is never touched. Every
 * command has the shape
 *
 *   parsed = wtn_options_parse(&command, argc, argv, &help);
 *   status = wtn_session_begin(&session, &command, &options, parsed);
 *   ... phases, each ended by wtn_session_agree ...
 *   return wtn_session_end(&session, status);
 *
 * and no rank prints or exits by itself in between: what one finds wrong, all agree on first. */
#ifndef WTN_SESSION_H
#define WTN_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include <witan/witan.h>

#include "comm/comm.h"
#include "launcher/options.h"

/* What the options common to all commands with ranks say. */
typedef struct wtn_session_options {
    uint64_t    timeout_ns;         /* 0: WITAN_TIMEOUT */
    int64_t     thread_count;       /* 0: WITAN_NUM_THREADS */
    int32_t     bind;               /* 0: auto, 1: none */
    int32_t     mode;               /* 0: ep, 1: tp takes the ranks the next two leave */
    int64_t     ep_count, tp_count; /* 0: not given */
    const char *backend, *kernel_tier;
    int64_t     device; /* -1: not given */
    bool        share_device;
    const char *placement; /* NULL: not given, or not an option of the command */
} wtn_session_options_t;

/* Their rows in the table of a command. `o` points at the struct above. */
#define WTN_SESSION_OPTIONS(o)                                                        \
    WTN_FOLD_OPTIONS(o),                                                              \
        WTN_OPT_TEXT("backend", "NAME", "auto", &(o)->backend, "auto, host or cuda"), \
        WTN_OPT_TEXT("kernel-tier", "NAME", "auto", &(o)->kernel_tier,                \
                     WTN_HOST_TIERS "; cuda: auto, cublas, sm_80 or sm_90a"),         \
        {.name     = "device",                                                        \
         .kind     = WTN_OPTION_INTEGER,                                              \
         .argument = "N",                                                             \
         .fallback = "-1",                                                            \
         .help     = "device of every rank; -1: by its place on the node",            \
         .value    = &(o)->device,                                                    \
         .min      = -1,                                                              \
         .max      = INT32_MAX,                                                       \
         .cuda     = true},                                                               \
        {.name  = "share-device",                                                     \
         .kind  = WTN_OPTION_FLAG,                                                    \
         .help  = "several ranks may use one device (for tests: slow)",               \
         .value = &(o)->share_device,                                                 \
         .cuda  = true},                                                               \
        WTN_THREAD_OPTIONS(o)

/* The same of a command that only the host has: wtn_session_host_only checks them. */
#define WTN_SESSION_HOST_OPTIONS(o)                                                              \
    WTN_FOLD_OPTIONS(o), WTN_OPT_TEXT("backend", "NAME", "auto", &(o)->backend, "auto or host"), \
        WTN_OPT_TEXT("kernel-tier", "NAME", "auto", &(o)->kernel_tier, WTN_HOST_TIERS),          \
        WTN_THREAD_OPTIONS(o)

#define WTN_HOST_TIERS "auto, scalar, avx2, avx512 or avx512_bf16"
#define WTN_FOLD_OPTIONS(o)                                                                 \
    WTN_OPT_CHOICE("mode", "ep|tp", "ep", &(o)->mode, "which parallelism takes the ranks"), \
        WTN_OPT_INTEGER("ep", "N", NULL, 1, INT32_MAX, &(o)->ep_count,                      \
                        "ranks the experts are dealt to"),                                  \
        WTN_OPT_INTEGER("tp", "N", NULL, 1, INT32_MAX, &(o)->tp_count,                      \
                        "ranks that share each expert's width")
#define WTN_THREAD_OPTIONS(o)                                                                   \
    WTN_OPT_INTEGER("threads", "N", NULL, 1, 4096, &(o)->thread_count,                          \
                    "compute threads of a rank (else WITAN_NUM_THREADS, else its cores)"),      \
        WTN_OPT_CHOICE("bind", "auto|none", "auto", &(o)->bind,                                 \
                       "auto: each rank of a node gets cores of its own, if there are enough"), \
        WTN_OPT_SECONDS("timeout", &(o)->timeout_ns,                                            \
                        "deadline of every wait for a peer (else WITAN_TIMEOUT, else 60)")

typedef struct wtn_session {
    witan_group_t       *group; /* NULL when it could not be made */
    wtn_comm_t          *comm;  /* of the group */
    witan_group_config_t config;
    int32_t              rank, size;
    const char          *phase; /* what a time-out of an agreement names; static strings */
    bool                 mpi;   /* started here */
    bool                 usage; /* some rank was called wrongly: exit status 2 */
} wtn_session_t;

/* For commands without a device: the options they have not get their defaults, and a backend other
 * than auto or host is refused, `because` saying why. */
witan_status_t wtn_session_host_only(wtn_session_options_t *options, const char *because);

/* Start the ranks and agree that all were called rightly and alike. `parsed` is what
 * wtn_options_parse returned. wtn_session_end must follow whatever the result. Collective. */
witan_status_t wtn_session_begin(wtn_session_t *session, const wtn_command_t *command,
                                 const wtn_session_options_t *options, witan_status_t parsed);

/* End a phase: WITAN_OK if all ranks pass WITAN_OK, else the fault of one of them. Collective. */
witan_status_t wtn_session_agree(wtn_session_t *session, witan_status_t status);

/* Like wtn_session_agree where words of the command line are judged: with WITAN_E_ARGUMENT on any
 * rank the exit status becomes 2. Collective. */
witan_status_t wtn_session_agree_usage(wtn_session_t *session, witan_status_t status);

/* Give all ranks what rank 0 has in `data`. Collective. */
witan_status_t wtn_session_share(wtn_session_t *session, void *data, size_t bytes);

/* Print the one line of a failure, once over all ranks, end MPI and return the exit status. After
 * a lost peer it does not return: MPI could not be ended without waiting for that peer. */
int wtn_session_end(wtn_session_t *session, witan_status_t status);

/* What a count puts behind the word for what it counts. */
static inline const char *wtn_plural(int64_t count)
{
    return count == 1 ? "" : "s";
}

/* Results must have arrived where standard output leads. WITAN_E_IO. */
witan_status_t wtn_results_flush(void);

/* The same for what needs no ranks, help and the like: says so and returns the exit status. */
int wtn_results_end(void);

/* Wrong usage found before there are options to parse: print the line once over the ranks of a
 * launcher; returns the exit status 2. */
int wtn_session_refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The rank the launcher tells by environment; 0 without a launcher. */
int32_t wtn_launcher_rank(void);

#endif

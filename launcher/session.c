#include <errno.h>
#include <inttypes.h>
#include <mpi.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <witan/witan_mpi.h>

#include "core/env.h"
#include "core/error.h"
#include "core/util.h"
#include "kernels/backend.h"
#include "kernels/tier.h"
#include "launcher/session.h"

#define START_SECONDS_MIN 60 /* MPI_Init of many ranks on few cores takes its time */
#define END_SECONDS_MIN   10
#define SECOND_NS         ((uint64_t)1000000000)
#define ROLL_NS           SECOND_NS       /* by so much may the deadlines of ranks lie apart */
#define WAKE_NS           (5 * SECOND_NS) /* a launcher's time to end what it woke */

/* ---- launchers ---- */

/* What launchers tell a process; the first found counts. Slurm's variables are those of a step:
 * a batch script, which is one process, has only the job's. */
static const struct {
    const char *size, *rank;
} launchers[] = {
    {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
    {"PMI_SIZE", "PMI_RANK"},
    {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"},
};

static bool env_integer(const char *name, int32_t *value)
{
    const char *text = getenv(name);
    char       *end;
    long        parsed;

    if (text == NULL) {
        return false;
    }
    parsed = strtol(text, &end, 10);
    if (end == text || *end != '\0' || parsed < 0 || parsed > INT32_MAX) {
        return false;
    }
    *value = (int32_t)parsed;
    return true;
}

/* Index into `launchers`, -1 without one. */
static int find_launcher(int32_t *size, int32_t *rank)
{
    *size = 1;
    *rank = 0;
    for (int i = 0; i < (int)WTN_COUNT_OF(launchers); i++) {
        if (env_integer(launchers[i].size, size) && env_integer(launchers[i].rank, rank)) {
            return i;
        }
        *size = 1;
        *rank = 0;
    }
    return -1;
}

int32_t wtn_launcher_rank(void)
{
    int32_t size, rank;

    (void)find_launcher(&size, &rank);
    return rank;
}

/* ---- MPI_Init and MPI_Finalize block; an alarm gives them the deadline they lack ---- */

static char watch_text[128];

static void watch_expired(int signal_number)
{
    ssize_t written = write(STDERR_FILENO, watch_text, strlen(watch_text));

    (void)signal_number;
    (void)written; /* there is nobody left to tell */
    _exit(1);
}

static void watch_begin(const char *what, uint64_t timeout_ns, int seconds_min)
{
    struct itimerval timer   = {{0, 0}, {0, 0}};
    uint64_t         seconds = (timeout_ns + SECOND_NS - 1) / SECOND_NS;

    if (seconds < (uint64_t)seconds_min) {
        seconds = (uint64_t)seconds_min;
    }
    watch_text[0] = '\0';
    if (wtn_launcher_rank() == 0) {
        (void)snprintf(watch_text, sizeof(watch_text),
                       "witan: %s: not all ranks answered within %" PRIu64 " s\n", what, seconds);
    }
    timer.it_value.tv_sec = (time_t)seconds;
    (void)signal(SIGALRM, watch_expired);
    (void)setitimer(ITIMER_REAL, &timer, NULL);
}

static void watch_end(void)
{
    struct itimerval timer = {{0, 0}, {0, 0}};

    (void)setitimer(ITIMER_REAL, &timer, NULL);
    (void)signal(SIGALRM, SIG_DFL);
}

static witan_status_t mpi_start(wtn_session_t *session, int launcher, int32_t launcher_size)
{
    int provided, size, rank, code;

    watch_begin("MPI_Init_thread", session->config.timeout_ns, START_SECONDS_MIN);
    code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    watch_end();
    if (code != MPI_SUCCESS) {
        return WTN_ERROR(WITAN_E_TRANSPORT, "MPI_Init_thread: error %d", code);
    }
    session->mpi = true;
    if (MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN) != MPI_SUCCESS ||
        MPI_Comm_size(MPI_COMM_WORLD, &size) != MPI_SUCCESS ||
        MPI_Comm_rank(MPI_COMM_WORLD, &rank) != MPI_SUCCESS) {
        return WTN_ERROR(WITAN_E_TRANSPORT, "MPI_COMM_WORLD is not usable");
    }
    session->size = size;
    session->rank = rank;
    if (launcher_size > 1 && size == 1) {
        session->rank = wtn_launcher_rank(); /* so that one of them speaks */
        return WTN_ERROR(WITAN_E_TRANSPORT,
                         "%s says %" PRId32 " ranks, MPI_COMM_WORLD has 1: the launcher and witan "
                         "use different MPI libraries",
                         launchers[launcher].size, launcher_size);
    }
    return WITAN_OK;
}

/* ---- agreement ---- */

static witan_status_t agree(wtn_session_t *session, witan_status_t status, bool usage)
{
    uint8_t        mine = usage;
    char           fault[WTN_ERROR_TEXT_BYTES];
    uint8_t       *all;
    witan_status_t gathered;

    (void)snprintf(fault, sizeof(fault), "%s", witan_last_error());
    all = calloc((size_t)session->size, 1);
    if (all == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%" PRId32 " bytes", session->size);
    }
    gathered = wtn_allgather(session->comm, &mine, 1, all, session->phase);
    for (int32_t i = 0; i < session->size && gathered == WITAN_OK; i++) {
        session->usage = session->usage || all[i] != 0;
    }
    if (gathered != WITAN_OK) {
        return gathered; /* `all` stays: a late peer may still write it */
    }
    free(all);
    if (status != WITAN_OK) {
        (void)WTN_ERROR(status, "%s", fault);
    }
    return wtn_session_agree(session, status);
}

witan_status_t wtn_session_agree(wtn_session_t *session, witan_status_t status)
{
    return wtn_agree(session->comm, session->phase, status, NULL, 0);
}

witan_status_t wtn_session_agree_usage(wtn_session_t *session, witan_status_t status)
{
    return agree(session, status, status == WITAN_E_ARGUMENT);
}

static volatile sig_atomic_t woken; /* this process was stopped, and goes on */

static void note_wake(int signal_number)
{
    (void)signal_number;
    woken = 1;
}

/* ---- the start ---- */

static witan_status_t fold(const wtn_session_options_t *options, int32_t size,
                           witan_group_config_t *config)
{
    int64_t ep = options->ep_count, tp = options->tp_count;

    if (options->mode == 1 && tp == 1 && ep > 1) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--mode tp contradicts --ep %" PRId64 " --tp 1", ep);
    }
    if (tp == 0) {
        tp = options->mode == 1 && ep <= size ? size / (ep == 0 ? 1 : ep) : 1;
    }
    if (ep == 0) {
        ep = options->mode == 1 || tp > size ? 1 : size / tp;
    }
    if (tp < 1 || ep > size / tp || size % (ep * tp) != 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--ep %" PRId64 " --tp %" PRId64 ": expected a product that divides the "
                         "number of ranks, found %" PRId32 " rank%s",
                         ep, tp, size, wtn_plural(size));
    }
    config->expert_parallel = (int32_t)ep;
    config->tensor_parallel = (int32_t)tp;
    return WITAN_OK;
}

/* Words for a device, where another backend is asked for. */
static witan_status_t check_device_options(const wtn_command_t *command, const char *backend)
{
    for (size_t i = 0; i < command->option_count; i++) {
        const wtn_option_t *option = &command->options[i];

        if (option->cuda && option->given && strcmp(backend, "cuda") != 0 &&
            (option->fallback == NULL || strcmp(option->text, option->fallback) != 0)) {
            return WTN_ERROR(WITAN_E_ARGUMENT, "--%s: expected --backend cuda, found '%s'",
                             option->name, backend);
        }
    }
    return WITAN_OK;
}

witan_status_t wtn_session_host_only(wtn_session_options_t *options, const char *because)
{
    options->device = -1;
    if (strcmp(options->backend, "auto") == 0) {
        options->backend = "host";
    }
    return strcmp(options->backend, "host") == 0
               ? WITAN_OK
               : WTN_ERROR(WITAN_E_ARGUMENT, "--backend: expected auto or host, %s, found '%s'",
                           because, options->backend);
}

static witan_status_t take_options(wtn_session_t *session, const wtn_command_t *command,
                                   const wtn_session_options_t *options)
{
    witan_status_t status;
    int64_t        thread_count = options->thread_count;

    WTN_TRY(check_device_options(command, options->backend));
    if (options->timeout_ns != 0) {
        session->config.timeout_ns = options->timeout_ns;
    } else {
        WTN_TRY(wtn_env_seconds(WTN_ENV_WITAN_TIMEOUT, &session->config.timeout_ns));
    }
    if (thread_count == 0) {
        WTN_TRY(wtn_env_count(WTN_ENV_WITAN_NUM_THREADS, 4096, &thread_count));
    }
    session->config.thread_count = (int32_t)thread_count;
    session->config.bind         = options->bind == 0;
    session->config.device       = (int32_t)options->device;
    session->config.share_device = options->share_device;
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t make_group(wtn_session_t *session)
{
    witan_status_t status;

    if (session->mpi) {
        status = witan_group_create_mpi(&session->group, MPI_COMM_WORLD, &session->config);
    } else {
        status = witan_group_create_self(&session->group, &session->config);
    }
    if (status == WITAN_OK) {
        session->comm = wtn_group_comm(session->group);
    }
    return status;
}

static witan_status_t agree_options(wtn_session_t *session, const wtn_command_t *command,
                                    witan_status_t status)
{
    wtn_field_t fields[WTN_OPTION_COUNT_MAX + 1];

    status = agree(session, status, status != WITAN_OK);
    if (status != WITAN_OK) {
        return status;
    }
    wtn_field_set(&fields[0], "command", "%s", command->name);
    status = wtn_agree(session->comm, "commands", WITAN_OK, fields, 1);
    if (status != WITAN_OK) {
        return status;
    }
    wtn_options_fields(command, &fields[1]);
    return wtn_agree(session->comm, "options", WITAN_OK, &fields[1], command->option_count);
}

/* NULL for `auto` and for names of none. */
static const wtn_backend_t *find_backend(const char *name)
{
    const wtn_backend_t *const *backend = wtn_backends;

    while (*backend != NULL && strcmp((*backend)->name, name) != 0) {
        backend++;
    }
    return *backend;
}

/* A tier of another backend is one option short. */
static witan_status_t check_tier_name(const wtn_session_options_t *options)
{
    const wtn_backend_t *asked = find_backend(options->backend);

    if (asked == NULL) {
        asked = &wtn_backend_host; /* where `auto` begins */
    }
    for (const wtn_backend_t *const *other = wtn_backends; *other != NULL; other++) {
        if (*other != asked && wtn_tier_is_known((*other)->tiers, options->kernel_tier) &&
            !wtn_tier_is_known(asked->tiers, options->kernel_tier)) {
            return WTN_ERROR(WITAN_E_ARGUMENT,
                             "--kernel-tier %s: expected --backend %s, found '%s'",
                             options->kernel_tier, (*other)->name, options->backend);
        }
    }
    return wtn_tier_check(asked->tiers, options->kernel_tier);
}

/* Backend and tier are known before any file is read: an unknown name is wrong usage, one that can
 * not run here is not. */
static witan_status_t check_names(wtn_session_t *session, const wtn_session_options_t *options)
{
    const wtn_backend_t *backend;
    const wtn_tier_t    *tier;
    witan_status_t       status = check_tier_name(options);

    if (status == WITAN_OK) {
        status = wtn_backend_select(options->backend, &backend);
    }
    if (status == WITAN_OK) {
        /* every tier has BF16; a block's own dtype is checked when it is known */
        status = wtn_tier_choose(backend->tiers, options->kernel_tier, WITAN_BF16, &tier);
    }
    return wtn_session_agree_usage(session, status);
}

/* Ranks called wrongly or differently could not agree on a group of the options' kind: a plain one
 * asks first. It stays when the answer is no, for the way out. */
static witan_status_t agree_on_call(wtn_session_t *session, const wtn_command_t *command,
                                    witan_status_t parsed, const char *fault)
{
    const witan_group_config_t wanted = session->config;
    witan_status_t             status;

    witan_group_config_init(&session->config);
    session->config.timeout_ns   = START_SECONDS_MIN * SECOND_NS;
    session->config.thread_count = 1;
    WTN_TRY(make_group(session));
    if (parsed != WITAN_OK) {
        (void)WTN_ERROR(parsed, "%s", fault); /* what came in between may have changed it */
    }
    WTN_TRY(agree_options(session, command, parsed));
    witan_group_destroy(session->group);
    session->group  = NULL;
    session->comm   = NULL;
    session->config = wanted;
    return WITAN_OK;

fail:
    return status;
}

witan_status_t wtn_session_begin(wtn_session_t *session, const wtn_command_t *command,
                                 const wtn_session_options_t *options, witan_status_t parsed)
{
    char           fault[WTN_ERROR_TEXT_BYTES];
    witan_status_t status;
    int32_t        launcher_size;
    int32_t        launcher_rank;
    int            launcher = find_launcher(&launcher_size, &launcher_rank);

    memset(session, 0, sizeof(*session));
    session->size  = 1;
    session->phase = "start";
    (void)signal(SIGCONT, note_wake);
    witan_group_config_init(&session->config);
    if (parsed == WITAN_OK) {
        parsed = take_options(session, command, options);
    }
    (void)snprintf(fault, sizeof(fault), "%s", witan_last_error());
    if (launcher >= 0) {
        WTN_TRY(mpi_start(session, launcher, launcher_size));
    }
    if (parsed == WITAN_OK) {
        parsed = fold(options, session->size, &session->config);
        (void)snprintf(fault, sizeof(fault), "%s", witan_last_error());
    }
    WTN_TRY(agree_on_call(session, command, parsed, fault));
    WTN_TRY(make_group(session));
    return check_names(session, options);

fail:
    return status;
}

/* ---- sharing ---- */

witan_status_t wtn_session_share(wtn_session_t *session, void *data, size_t bytes)
{
    witan_status_t status = WITAN_OK;

    if (session->rank != 0) {
        return wtn_recv(session->comm, 0, WTN_TAG_USER, data, bytes, "share");
    }
    for (int32_t rank = 1; rank < session->size && status == WITAN_OK; rank++) {
        status = wtn_send(session->comm, rank, WTN_TAG_USER, data, bytes, "share");
    }
    return status;
}

/* ---- the end ---- */

static void sleep_ns(uint64_t nanoseconds)
{
    struct timespec left = {(time_t)(nanoseconds / SECOND_NS), (long)(nanoseconds % SECOND_NS)};

    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

/* A wait that failed tells whom this rank missed, and that may be one who itself waits for a third.
 * So all that still run call each other: who does not answer is lost. requests[2r] receives from
 * rank r, requests[2r + 1] sends to it; what stays active after the call names the lost. */
static void call_roll(const wtn_session_t *session, wtn_request_t *requests, char *answers)
{
    static const char here     = 1;
    wtn_comm_t       *comm     = session->comm;
    uint64_t          patience = comm->timeout_ns < ROLL_NS ? comm->timeout_ns : ROLL_NS;
    uint64_t          deadline = wtn_now_ns() + patience;
    bool              done     = false;

    for (int32_t rank = 0; rank < session->size; rank++) {
        wtn_request_t *pair = requests + 2 * (size_t)rank;

        if (rank != session->rank) {
            (void)wtn_recv_post(comm, pair, rank, 0, WTN_TAG_FAULT, &answers[rank], 1, true);
            (void)wtn_send_post(comm, pair + 1, rank, 0, WTN_TAG_FAULT, &here, 1);
        }
    }
    while (!done && wtn_now_ns() < deadline) {
        if (wtn_progress(comm, requests, 2 * (size_t)session->size, &done) != WITAN_OK) {
            return;
        }
        sleep_ns(SECOND_NS / 1000);
    }
}

/* The text of a failure with the ranks that did not answer the roll in place of those missed. */
static void name_lost(const wtn_session_t *session, const wtn_request_t *requests, char *text,
                      size_t text_bytes)
{
    static const char mark[] = "not heard from";
    char             *at     = strstr(text, mark);
    size_t            used   = at != NULL ? (size_t)(at - text) : strlen(text);
    int32_t           count  = 0;
    char              list[160];
    size_t            length = 0;

    for (int32_t rank = 0; rank < session->size; rank++) {
        if (!requests[2 * (size_t)rank].active) {
            continue;
        }
        if (length + 16 < sizeof(list)) {
            length += (size_t)snprintf(list + length, sizeof(list) - length, "%s%" PRId32,
                                       count > 0 ? ", " : "", rank);
        }
        count++;
    }
    if (count == 0) {
        return; /* slow, not lost: the text stands */
    }
    (void)snprintf(text + used, text_bytes - used, "%snot heard from rank%s %s within %g s",
                   at != NULL ? "" : "; ", wtn_plural(count), list,
                   (double)session->comm->timeout_ns / 1e9);
}

static int32_t lowest_present(const wtn_session_t *session, const wtn_request_t *requests)
{
    int32_t rank = 0;

    while (rank < session->rank && requests[2 * (size_t)rank].active) {
        rank++;
    }
    return rank;
}

/* A peer is lost, so MPI_Finalize would wait for ever. The lowest rank that is there prints. The
 * others leave a time-out later: launchers end the whole job with the first process that fails, and
 * the speaker's deadline may be behind theirs. What is allocated here stays: a message may come. */
static _Noreturn void leave(const wtn_session_t *session)
{
    size_t         ranks    = (size_t)session->size;
    wtn_request_t *requests = calloc(2 * ranks, sizeof(*requests));
    char          *answers  = calloc(ranks, 1);
    char           text[WTN_ERROR_TEXT_BYTES + 256];
    int32_t        speaker = 0;

    (void)snprintf(text, sizeof(text), "%s", witan_last_error());
    (void)fflush(stdout);
    if (woken) { /* the others gave this rank up long ago, and a launcher wakes it only to end it */
        sleep_ns(WAKE_NS);
    }
    if (session->comm != NULL && requests != NULL && answers != NULL) {
        call_roll(session, requests, answers);
        name_lost(session, requests, text, sizeof(text));
        speaker = lowest_present(session, requests);
    }
    if (session->rank == speaker) {
        (void)fprintf(stderr, "witan: %s\n", text);
    } else {
        sleep_ns(session->comm != NULL ? session->comm->timeout_ns : session->config.timeout_ns);
    }
    _exit(1);
}

/* All ranks see the same words, so no vote is needed; only must the first speak before a launcher
 * sees the others fail and ends the job. */
int wtn_session_refuse(const char *format, ...)
{
    va_list args;

    if (wtn_launcher_rank() != 0) {
        sleep_ns(SECOND_NS / 2);
        return 2;
    }
    (void)fputs("witan: ", stderr);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    return 2;
}

witan_status_t wtn_results_flush(void)
{
    if (fflush(stdout) != 0 || ferror(stdout) != 0) {
        return WTN_ERROR(WITAN_E_IO, "standard output: %s", strerror(errno));
    }
    return WITAN_OK;
}

int wtn_results_end(void)
{
    if (wtn_results_flush() != WITAN_OK) {
        (void)fprintf(stderr, "witan: %s\n", witan_last_error());
        return 1;
    }
    return 0;
}

int wtn_session_end(wtn_session_t *session, witan_status_t status)
{
    bool lost = status == WITAN_E_TIMEOUT || (status == WITAN_E_TRANSPORT && session->group) ||
                (session->comm != NULL && session->comm->broken);

    if (status != WITAN_OK && lost && session->size > 1) {
        leave(session);
    }
    if (status == WITAN_OK) {
        status = wtn_results_flush();
    }
    if (status != WITAN_OK && session->rank == 0) {
        (void)fprintf(stderr, "witan: %s\n", witan_last_error());
    }
    witan_group_destroy(session->group);
    if (session->mpi) {
        watch_begin("MPI_Finalize", session->config.timeout_ns, END_SECONDS_MIN);
        (void)MPI_Finalize();
        watch_end();
    }
    if (status == WITAN_OK) {
        return 0;
    }
    return session->usage ? 2 : 1;
}

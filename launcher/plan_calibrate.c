/* witan plan calibrate: the machine file of the machine it runs on. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/calibrate.h"
#include "launcher/machine_file.h"
#include "launcher/paths.h"
#include "launcher/plan.h"
#include "topology/topology.h"

#define NAP_NS     500000
#define HOST_BYTES 64
#define BOOT_BYTES 40

/* ---- ranks that wait and ranks that measure ---- */

witan_status_t wtn_calibrate_doze(wtn_session_t *session, wtn_request_t *requests, size_t count)
{
    const struct timespec nap = {0, NAP_NS};
    /* Who measures may take longer than a peer is waited for. */
    uint64_t       deadline = wtn_deadline(session->comm) + 9 * session->comm->timeout_ns;
    bool           done     = false;
    witan_status_t status   = WITAN_OK;

    while (status == WITAN_OK && !done) {
        status = wtn_progress(session->comm, requests, count, &done);
        if (!done && wtn_now_ns() > deadline) {
            return wtn_wait(session->comm, requests, count, "calibrate", deadline, NULL);
        }
        if (!done) {
            (void)nanosleep(&nap, NULL);
        }
    }
    return status;
}

/* The others tell rank 0, which tells them; who is to measure must not wait asleep. */
witan_status_t wtn_calibrate_meet(wtn_session_t *session, int32_t count)
{
    char           word   = 0;
    witan_status_t status = WITAN_OK;

    for (int32_t r = 1; r < count && session->rank == 0; r++) {
        WTN_TRY(wtn_recv(session->comm, r, WTN_TAG_USER, &word, 1, "calibrate"));
    }
    for (int32_t r = 1; r < count && session->rank == 0; r++) {
        WTN_TRY(wtn_send(session->comm, r, WTN_TAG_USER, &word, 1, "calibrate"));
    }
    if (session->rank > 0 && session->rank < count) {
        WTN_TRY(wtn_send(session->comm, 0, WTN_TAG_USER, &word, 1, "calibrate"));
        WTN_TRY(wtn_recv(session->comm, 0, WTN_TAG_USER, &word, 1, "calibrate"));
    }

fail:
    return status;
}

/* Let go the ranks that did not measure. Rank 0 calls it last. */
static witan_status_t wake(wtn_session_t *session, bool measured)
{
    wtn_request_t  request = {0};
    char           word    = 0;
    witan_status_t status  = WITAN_OK;

    if (session->rank != 0) {
        WTN_TRY(wtn_recv_post(session->comm, &request, 0, 0, WTN_TAG_REDUCE, &word, 1, true));
        status = measured ? wtn_wait(session->comm, &request, 1, "calibrate",
                                     wtn_deadline(session->comm), NULL)
                          : wtn_calibrate_doze(session, &request, 1);
        return status;
    }
    for (int32_t r = 1; r < session->size; r++) {
        WTN_TRY(wtn_send(session->comm, r, WTN_TAG_REDUCE, &word, 1, "calibrate"));
    }

fail:
    return status;
}

/* ---- where the ranks are ---- */

typedef struct place {
    char host[HOST_BYTES], boot[BOOT_BYTES];
} place_t;

static place_t make_place(void)
{
    place_t place = {{0}, {0}};
    FILE   *file  = fopen("/proc/sys/kernel/random/boot_id", "r");

    (void)gethostname(place.host, sizeof(place.host) - 1);
    if (file != NULL) {
        if (fgets(place.boot, sizeof(place.boot), file) == NULL) {
            place.boot[0] = '\0';
        }
        (void)fclose(file);
    }
    return place;
}

static void count_places(wtn_calibrate_ranks_t *ranks, const place_t *places, int32_t size)
{
    ranks->mate = ranks->stranger = -1;
    ranks->one_host               = true;
    for (int32_t r = 0; r < size; r++) {
        int32_t mates = 0, before = 0;

        for (int32_t i = 0; i < size; i++) {
            bool same = strcmp(places[r].host, places[i].host) == 0;

            mates += same;
            before += same && i < r;
        }
        ranks->ranks_per_node = mates > ranks->ranks_per_node ? mates : ranks->ranks_per_node;
        ranks->node_count += before == 0;
        if (strcmp(places[r].host, places[0].host) != 0) {
            ranks->stranger = ranks->stranger < 0 ? r : ranks->stranger;
        } else if (r > 0 && ranks->mate < 0) {
            ranks->mate = r;
        }
        ranks->one_host = ranks->one_host && strcmp(places[r].boot, places[0].boot) == 0;
    }
}

static witan_status_t find_ranks(wtn_calibrate_t *calibrate)
{
    wtn_session_t *session = calibrate->session;
    place_t        mine = make_place(), *places = calloc((size_t)session->size, sizeof(*places));
    wtn_machine_t  machine;
    witan_status_t status = wtn_machine_query(&machine);

    if (places == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "calibrate: %" PRId32 " ranks", session->size);
    }
    WTN_TRY(wtn_session_agree(session, status));
    WTN_TRY(wtn_allgather(session->comm, &mine, sizeof(mine), places, "calibrate"));
    count_places(&calibrate->ranks, places, session->size);
    calibrate->ranks.core_count = machine.core_count;

fail:
    free(places);
    return status;
}

/* ---- the stages ---- */

/* Rank 0 alone, then as many ranks as there are cores for. */
static witan_status_t run_kernels(wtn_calibrate_t *calibrate)
{
    wtn_session_t *session = calibrate->session;
    int64_t        hosts   = calibrate->ranks.one_host ? 1 : calibrate->ranks.node_count;
    int64_t most = wtn_max_i64(1, hosts * calibrate->ranks.core_count / calibrate->machine.threads);
    int32_t together      = (int32_t)wtn_min_i64(session->size, most);
    witan_status_t status = WITAN_OK;

    for (int32_t count = 1; count <= together; count += together - 1) {
        bool mine = session->rank < count;

        status = mine ? wtn_calibrate_kernels(calibrate, count) : WITAN_OK;
        if (!session->comm->broken) { /* a failure of its own is told by the agreement */
            WTN_TRY(wake(session, mine));
        }
        WTN_TRY(wtn_session_agree(session, status));
        if (together == 1) {
            break;
        }
    }

fail:
    return status;
}

static witan_status_t run_link(wtn_calibrate_t *calibrate, int32_t peer, wtn_scale_link_t *link)
{
    wtn_session_t *session = calibrate->session;
    bool           mine    = session->rank == 0 || session->rank == peer;
    witan_status_t status  = WITAN_OK;

    if (peer < 0) {
        return WITAN_OK;
    }
    if (mine) {
        status = wtn_calibrate_link(calibrate, session->rank == 0 ? peer : 0,
                                    peer == calibrate->ranks.mate, link);
    }
    if (!session->comm->broken) {
        WTN_TRY(wake(session, mine));
    }
    WTN_TRY(wtn_session_agree(session, status));

fail:
    return status;
}

static witan_status_t begin_machine(wtn_calibrate_t *calibrate)
{
    const wtn_calibrate_words_t *words   = calibrate->words;
    wtn_scale_machine_t         *machine = &calibrate->machine;
    witan_group_info_t           group   = {.struct_bytes = sizeof(group)};
    wtn_machine_t                host;
    witan_status_t               status = WITAN_OK;

    if (words->base != NULL) {
        status = wtn_machine_load(machine, words->base);
        if (status == WITAN_OK && strcmp(machine->backend, "host") != 0) {
            status = WTN_ERROR(WITAN_E_ARGUMENT,
                               "--base: expected a machine of the host backend, found %s of %s",
                               machine->name, machine->backend);
        }
    } else if (calibrate->session->size == 1) {
        status = WTN_ERROR(WITAN_E_ARGUMENT, "calibrate: expected at least 2 ranks to measure a "
                                             "link between, or --base, found 1 rank");
    }
    WTN_TRY(wtn_session_agree_usage(calibrate->session, status));
    WTN_TRY(witan_group_query(calibrate->session->group, &group));
    WTN_TRY(wtn_machine_query(&host));
    (void)snprintf(machine->name, sizeof(machine->name), "%s", words->name);
    (void)snprintf(machine->backend, sizeof(machine->backend), "host");
    machine->overlap        = WTN_SCALE_OVERLAP_POLL;
    machine->two_level      = true;
    machine->threads        = group.thread_count;
    machine->ranks_per_node = calibrate->ranks.ranks_per_node;
    machine->nics_per_node  = 1;
    machine->cores_per_node = calibrate->ranks.core_count;
    machine->shared_cores =
        calibrate->ranks.one_host && calibrate->ranks.node_count > 1 ? host.core_count : 0;
    machine->memory_bytes = (double)host.memory_bytes / calibrate->ranks.ranks_per_node;

fail:
    return status;
}

static witan_status_t write_machine(const wtn_calibrate_t *calibrate)
{
    const wtn_calibrate_ranks_t *ranks = &calibrate->ranks;
    wtn_machine_t                host;
    char                         comment[512];
    json_t                      *root;
    witan_status_t               status;

    WTN_TRY(wtn_machine_query(&host));
    (void)snprintf(comment, sizeof(comment),
                   "witan plan calibrate on %s, %s: %" PRId32 " rank%s of %" PRId64
                   " thread%s on %" PRId32 " node%s%s; links inside a node %s, between nodes %s",
                   host.host, host.cpu, calibrate->session->size,
                   wtn_plural(calibrate->session->size), calibrate->machine.threads,
                   wtn_plural(calibrate->machine.threads), ranks->node_count,
                   wtn_plural(ranks->node_count),
                   ranks->one_host && ranks->node_count > 1 ? ", all of one host" : "",
                   ranks->mate >= 0                 ? "measured"
                   : calibrate->words->base != NULL ? "those of --base"
                                                    : "taken for those between nodes",
                   ranks->stranger >= 0             ? "measured"
                   : calibrate->words->base != NULL ? "those of --base"
                                                    : "taken for those inside");
    root = wtn_machine_json(&calibrate->machine, comment);
    if (root == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: the JSON text", calibrate->words->output);
    }
    status = wtn_bench_json_write(calibrate->words->output, root);
    json_decref(root);

fail:
    return status;
}

static void print_link(const char *level, const wtn_scale_link_t *link)
{
    printf("  %-8s rate %8.3f GB/s, latency %7.2f us, a message %7.2f us, processor moves %8.3f "
           "GB/s\n",
           level, link->port.rate * 1e-9, link->port.latency * 1e6, link->port.overhead * 1e6,
           link->copy_rate * 1e-9);
}

static void print_machine(const wtn_scale_machine_t *machine)
{
    printf("  peak %.1f GFLOP/s a rank; memory %.2f GB/s a rank alone, %.2f GB/s together\n",
           machine->peak_flops * 1e-9, machine->memory_rate * 1e-9,
           machine->memory_rate_node * 1e-9);
    printf("  share of the roofline by rows an expert:");
    for (int32_t i = 0; i < machine->experts.count; i++) {
        printf(" %.0f: %.3f", machine->experts.at[i], machine->experts.value[i]);
    }
    printf("\n  route %.1f ns a token and %.1f GFLOP/s, plan %.2f ns a row, gather %.2f GB/s, "
           "combine %.2f GB/s, step %.2f us\n",
           machine->route_token_s * 1e9, machine->route_flops * 1e-9, machine->plan_row_s * 1e9,
           machine->gather_rate * 1e-9, machine->combine_rate * 1e-9, machine->step_s * 1e6);
    print_link("inside", &machine->inside);
    print_link("between", &machine->between);
}

static witan_status_t check_output(const wtn_calibrate_t *calibrate)
{
    const wtn_named_path_t output = {"--output", calibrate->words->output};
    const wtn_named_path_t none   = {NULL, NULL};

    return calibrate->session->rank == 0 ? wtn_paths_check(&output, 1, &none, NULL) : WITAN_OK;
}

static witan_status_t run(wtn_calibrate_t *calibrate)
{
    wtn_session_t       *session = calibrate->session;
    wtn_scale_machine_t *machine = &calibrate->machine;
    bool                 based   = calibrate->words->base != NULL;
    witan_status_t       status;

    session->phase = "calibrate";
    WTN_TRY(wtn_session_agree_usage(session, check_output(calibrate)));
    WTN_TRY(find_ranks(calibrate));
    WTN_TRY(begin_machine(calibrate));
    WTN_TRY(run_kernels(calibrate));
    WTN_TRY(run_link(calibrate, calibrate->ranks.mate, &machine->inside));
    WTN_TRY(run_link(calibrate, calibrate->ranks.stranger, &machine->between));
    if (calibrate->ranks.mate < 0 && !based) {
        machine->inside = machine->between;
    }
    if (calibrate->ranks.stranger < 0 && !based) {
        machine->between = machine->inside;
    }
    status = WITAN_OK;
    if (session->rank == 0) {
        print_machine(machine);
        status = write_machine(calibrate);
    }
    WTN_TRY(wtn_session_agree(session, status));

fail:
    return status;
}

int wtn_plan_calibrate(int argc, char **argv)
{
    wtn_calibrate_words_t words   = {0};
    wtn_option_t          table[] = {
                 WTN_OPT_REQUIRED("output", "FILE", &words.output, "the machine file to write"),
                 WTN_OPT_TEXT("name", "NAME", "this-host", &words.name, "name of the machine"),
                 WTN_OPT_TEXT("base", "FILE", NULL, &words.base,
                              "machine file that has what this run can not measure"),
                 WTN_OPT_INTEGER("experts", "N", "8", 1, 4096, &words.expert_count, "E, experts"),
                 WTN_OPT_INTEGER("topk", "N", "2", 1, 64, &words.topk, "K, experts of a token"),
                 WTN_OPT_INTEGER("hidden", "N", "2048", 1, 1 << 20, &words.hidden_size, "H, hidden size"),
                 WTN_OPT_INTEGER("inter", "N", "1408", 1, 1 << 20, &words.inter_size,
                                 "I, width of an expert"),
                 WTN_OPT_CHOICE("dtype", "f32|f16|bf16", "bf16", &words.dtype, "of activations and weights"),
                 WTN_OPT_INTEGER("rounds", "N", "7", 1, 1000, &words.round_count,
                                 "repetitions, of which the best counts"),
                 WTN_SESSION_HOST_OPTIONS(&words.session),
    };
    const wtn_command_t command = {"plan calibrate", "Measure this machine for witan plan scale.",
                                   table, WTN_COUNT_OF(table)};
    wtn_session_t       session;
    wtn_calibrate_t     calibrate = {.session = &session, .words = &words};
    witan_status_t      status;
    bool                help;

    status = wtn_options_parse(&command, argc, argv, &help);
    if (help) {
        return wtn_options_help(&command);
    }
    if (status == WITAN_OK &&
        (words.session.mode != 0 || words.session.ep_count > 0 || words.session.tp_count > 0)) {
        status = WTN_ERROR(WITAN_E_ARGUMENT, "--mode, --ep and --tp: calibrate folds no ranks");
    }
    if (status == WITAN_OK && words.topk > words.expert_count) {
        status = WTN_ERROR(WITAN_E_ARGUMENT,
                           "--topk: expected at most --experts %" PRId64 ", found %" PRId64,
                           words.expert_count, words.topk);
    }
    if (status == WITAN_OK) {
        status = wtn_session_host_only(&words.session, "as the host's kernels are measured");
    }
    status = wtn_session_begin(&session, &command, &words.session, status);
    if (status == WITAN_OK) {
        status = run(&calibrate);
    }
    return wtn_session_end(&session, status);
}

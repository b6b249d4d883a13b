/* witan info: the machine, the ranks and where their threads run, and what can run here. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <witan/witan.h>

#include "comm/comm.h"
#include "comm/group.h"
#include "core/env.h"
#include "core/error.h"
#include "core/util.h"
#include "kernels/device.h"
#include "kernels/tier.h"
#include "launcher/commands.h"
#include "launcher/session.h"
#include "topology/topology.h"

#define REASON_BYTES 160
#define DEVICE_BYTES 256

/* What every rank tells rank 0. */
typedef struct place {
    wtn_machine_t      machine;
    wtn_binding_t      binding;
    witan_group_info_t group;
} place_t;

static void print_bytes(const char *label, int64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double                   value   = (double)bytes;
    size_t                   unit    = 0;

    if (bytes == 0) {
        printf("  %-13s unknown\n", label);
        return;
    }
    for (; value >= 1024.0 && unit + 1 < WTN_COUNT_OF(units); unit++) {
        value /= 1024.0;
    }
    printf("  %-13s %.4g %s\n", label, value, units[unit]);
}

static void print_node(const wtn_machine_t *machine)
{
    printf("node %s\n", machine->host);
    printf("  %-13s %s\n", "processor", machine->cpu);
    printf("  %-13s %" PRId32 "\n", "packages", machine->package_count);
    printf("  %-13s %" PRId32 "\n", "NUMA nodes", machine->numa_count);
    printf("  %-13s %" PRId32 " (%" PRId32 " hardware thread%s)\n", "cores", machine->core_count,
           machine->pu_count, wtn_plural(machine->pu_count));
    print_bytes("memory", machine->memory_bytes);
    print_bytes("L2 cache", machine->l2_bytes);
    print_bytes("L3 cache", machine->l3_bytes);
    printf("\n");
}

/* Every node once, by its first rank. */
static void print_nodes(const place_t *places, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        if (places[i].group.local_rank == 0) {
            print_node(&places[i].machine);
        }
    }
}

static const char *binding_text(const wtn_binding_t *binding)
{
    if (binding->bound) {
        return "by witan";
    }
    return binding->inherited ? "by the launcher" : "none";
}

static void print_ranks(const place_t *places, int32_t count)
{
    const witan_group_info_t *first = &places[0].group;

    printf("%" PRId32 " rank%s: expert parallel %" PRId32 " x tensor parallel %" PRId32
           " x data parallel %" PRId32 ", transport %s\n",
           count, wtn_plural(count), first->expert_parallel, first->tensor_parallel,
           first->data_parallel, first->transport);
    printf("  %4s  %-20s %-8s %7s %5s  %-15s  %s\n", "rank", "node", "local", "threads", "cores",
           "binding", "hardware threads");
    for (int32_t i = 0; i < count; i++) {
        const place_t *place = &places[i];
        char           local[32];

        (void)snprintf(local, sizeof(local), "%" PRId32 "/%" PRId32, place->group.local_rank,
                       place->group.local_size);
        printf("  %4" PRId32 "  %-20s %-8s %7" PRId32 " %5" PRId32 "  %-15s  %s%s\n", i,
               place->machine.host, local, place->group.thread_count, place->binding.core_count,
               binding_text(&place->binding), place->binding.cpuset,
               place->binding.shared ? " (shared with other ranks)" : "");
    }
    printf("\n");
}

static void print_option(const char *name, bool available, const char *reason)
{
    if (available) {
        printf("  %-13s available\n", name);
    } else {
        printf("  %-13s not available: %s\n", name, *reason != '\0' ? reason : "no reason known");
    }
}

static void print_tiers(const wtn_backend_t *backend)
{
    char reason[REASON_BYTES];

    if (backend->tiers == NULL) { /* not built in */
        return;
    }
    printf("\nkernel tiers of the %s backend\n", backend->name);
    for (const wtn_tier_t *const *tier = backend->tiers; *tier != NULL; tier++) {
        reason[0] = '\0';
        print_option(wtn_tier_name(*tier), wtn_tier_probe(*tier, reason, sizeof(reason)), reason);
    }
}

/* The devices this rank sees. */
static void print_devices(const wtn_backend_t *backend)
{
    char text[DEVICE_BYTES];

    if (backend->device == NULL || backend->device->describe == NULL) {
        return;
    }
    for (int32_t i = 0; backend->device->describe(i, text, sizeof(text)); i++) {
        printf("%s  device %" PRId32 "      %s\n", i == 0 ? "\ndevices\n" : "", i, text);
    }
}

static void print_choices(void)
{
    char reason[REASON_BYTES];

    printf("backends\n");
    for (const wtn_backend_t *const *backend = wtn_backends; *backend != NULL; backend++) {
        reason[0] = '\0';
        print_option((*backend)->name, (*backend)->probe(reason, sizeof(reason)), reason);
    }
    printf("\ntransports\n");
    for (const wtn_transport_t *const *transport = wtn_transports; *transport != NULL;
         transport++) {
        reason[0] = '\0';
        print_option((*transport)->name, (*transport)->probe(reason, sizeof(reason)), reason);
    }
    for (const wtn_backend_t *const *backend = wtn_backends; *backend != NULL; backend++) {
        print_tiers(*backend);
        print_devices(*backend);
    }
    printf("\n");
}

static void print_environment(void)
{
    static const struct {
        const char *name, *type, *fallback, *help;
    } variables[] = {
#define INFO_ENV_ROW(name, type, value, help) {#name, type, value, help},
        WTN_ENV_LIST(INFO_ENV_ROW)
#undef INFO_ENV_ROW
    };

    printf("environment\n");
    for (size_t i = 0; i < WTN_COUNT_OF(variables); i++) {
        const char *value = wtn_env_text((wtn_env_t)i);
        bool        set   = strcmp(value, variables[i].fallback) != 0;

        printf("  %s=%s", variables[i].name, value);
        if (set) {
            printf(" (default %s)", variables[i].fallback);
        }
        printf("\n      %s: %s\n", variables[i].type, variables[i].help);
    }
}

static witan_status_t show(wtn_session_t *session)
{
    place_t        mine;
    place_t       *places;
    witan_status_t status;

    memset(&mine, 0, sizeof(mine)); /* the padding travels too */
    mine.binding            = session->group->binding;
    mine.group.struct_bytes = sizeof(mine.group);
    places                  = calloc((size_t)session->size, sizeof(*places));
    if (places == NULL) {
        status =
            WTN_ERROR(WITAN_E_MEMORY, "info: %zu bytes", (size_t)session->size * sizeof(*places));
    } else {
        status = wtn_machine_query(&mine.machine);
    }
    if (status == WITAN_OK) {
        status = witan_group_query(session->group, &mine.group);
    }
    WTN_TRY(wtn_session_agree(session, status));
    WTN_TRY(wtn_allgather(session->comm, &mine, sizeof(mine), places, "info"));
    if (session->rank == 0) {
        printf("witan %s\n\n", witan_version());
        for (int32_t i = 0; i < session->size; i++) {
            places[i].group.transport = mine.group.transport; /* a pointer of another process */
        }
        print_nodes(places, session->size);
        print_ranks(places, session->size);
        print_choices();
        print_environment();
    }

fail:
    free(places);
    return status;
}

int wtn_cmd_info(int argc, char **argv)
{
    wtn_session_options_t options = {0};
    wtn_option_t          table[] = {WTN_SESSION_OPTIONS(&options)};
    wtn_command_t         command = {
                .name    = "info",
                .summary = "Show the machine, the ranks and their binding, and what can run here.",
                .options = table,
                .option_count = WTN_COUNT_OF(table)};
    bool           help = false;
    wtn_session_t  session;
    witan_status_t status;

    status = wtn_options_parse(&command, argc, argv, &help);
    if (help) {
        return wtn_options_help(&command);
    }
    status = wtn_session_begin(&session, &command, &options, status);
    if (status == WITAN_OK) {
        status = show(&session);
    }
    return wtn_session_end(&session, status);
}

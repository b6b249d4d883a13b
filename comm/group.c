/* Groups: folding of ranks, binding, and agreement on both. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/group.h"
#include "comm/segment.h"
#include "core/env.h"
#include "core/error.h"
#include "core/util.h"

#define TIMEOUT_NS_MIN   1000000u
#define THREAD_COUNT_MAX 4096
#define HOST_BYTES       64
#define BOOT_BYTES       40
#define PROBE_BYTES      4096

void witan_group_config_init(witan_group_config_t *config)
{
    *config =
        (witan_group_config_t){.struct_bytes = sizeof(*config), .tensor_parallel = 1, .device = -1};
}

witan_status_t wtn_folding_make(const witan_group_config_t *config, int32_t rank,
                                int32_t rank_count, wtn_folding_t *folding)
{
    int32_t tp = config->tensor_parallel, ep = config->expert_parallel;

    if (tp < 1 || ep < 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "group: expected tensor_parallel >= 1 and expert_parallel >= 0, found "
                         "%" PRId32 " and %" PRId32,
                         tp, ep);
    }
    if (ep == 0 && rank_count % tp == 0) {
        ep = rank_count / tp;
    }
    if (ep == 0 || rank_count % ((int64_t)ep * tp) != 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "group: expert_parallel %" PRId32 " x tensor_parallel %" PRId32
                         " does not divide the number of ranks, %" PRId32,
                         config->expert_parallel, tp, rank_count);
    }
    *folding = (wtn_folding_t){
        .expert_parallel = ep,
        .tensor_parallel = tp,
        .data_parallel   = rank_count / (ep * tp),
        .expert_index    = rank / tp % ep,
        .tensor_index    = rank % tp,
        .data_index      = rank / (tp * ep),
    };
    return WITAN_OK;
}

int32_t wtn_folding_expert_peer(const wtn_folding_t *folding, int32_t expert_index)
{
    return (folding->data_index * folding->expert_parallel + expert_index) *
               folding->tensor_parallel +
           folding->tensor_index;
}

int32_t wtn_group_expert_peer(const witan_group_t *group, int32_t expert_index)
{
    return (group->data_index * group->expert_parallel + expert_index) * group->tensor_parallel +
           group->tensor_index;
}

int32_t wtn_group_tensor_peer(const witan_group_t *group, int32_t tensor_index)
{
    return (group->data_index * group->expert_parallel + group->expert_index) *
               group->tensor_parallel +
           tensor_index;
}

wtn_comm_t *wtn_group_comm(witan_group_t *group)
{
    return &group->comm;
}

witan_status_t wtn_group_config_resolve(const witan_group_config_t *config,
                                        witan_group_config_t       *resolved)
{
    int64_t        thread_count = 0, ranks_per_node = 0;
    witan_status_t status;

    if (config == NULL) {
        witan_group_config_init(resolved);
    } else if (config->struct_bytes != sizeof(*config)) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "group: struct_bytes: expected %zu, found %zu (witan_group_config_init)",
                         sizeof(*config), config->struct_bytes);
    } else {
        *resolved = *config;
    }
    if (resolved->timeout_ns == 0) {
        WTN_TRY(wtn_env_seconds(WTN_ENV_WITAN_TIMEOUT, &resolved->timeout_ns));
    }
    if (resolved->timeout_ns < TIMEOUT_NS_MIN) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "group: timeout_ns: expected >= %u, found %" PRIu64,
                         TIMEOUT_NS_MIN, resolved->timeout_ns);
    }
    if (resolved->thread_count == 0) {
        WTN_TRY(wtn_env_count(WTN_ENV_WITAN_NUM_THREADS, THREAD_COUNT_MAX, &thread_count));
        resolved->thread_count = (int32_t)thread_count;
    }
    if (resolved->thread_count < 0 || resolved->thread_count > THREAD_COUNT_MAX) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "group: thread_count: expected 0 to %d, found %" PRId32,
                         THREAD_COUNT_MAX, resolved->thread_count);
    }
    if (resolved->ranks_per_node == 0) {
        WTN_TRY(wtn_env_count(WTN_ENV_WITAN_RANKS_PER_NODE, INT32_MAX, &ranks_per_node));
        resolved->ranks_per_node = (int32_t)ranks_per_node;
    }
    if (resolved->ranks_per_node < 0) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "group: ranks_per_node: expected >= 0, found %" PRId32,
                         resolved->ranks_per_node);
    }
    if (resolved->device < -1) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "group: device: expected >= -1, found %" PRId32,
                         resolved->device);
    }
    return WITAN_OK;

fail:
    return status;
}

witan_status_t wtn_group_new(witan_group_t **out, const witan_group_config_t *config,
                             witan_group_config_t *resolved)
{
    witan_status_t status = wtn_group_config_resolve(config, resolved);

    *out = NULL;
    if (status != WITAN_OK) {
        return status;
    }
    *out = calloc(1, sizeof(**out));
    if (*out == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "group: %zu bytes", sizeof(**out));
    }
    (*out)->comm.timeout_ns   = resolved->timeout_ns;
    (*out)->comm.channel_next = 1; /* 0 is the group's own */
    (*out)->comm.channel_max  = INT32_MAX - 1;
    return WITAN_OK;
}

typedef struct place {
    char host[HOST_BYTES];
    char boot[BOOT_BYTES]; /* of the kernel: machines may have equal host names */
    char mask[WTN_CPUSET_TEXT_BYTES];
} place_t;

static bool same_machine(const place_t *a, const place_t *b)
{
    return memcmp(a->host, b->host, sizeof(a->host)) == 0 &&
           memcmp(a->boot, b->boot, sizeof(a->boot)) == 0;
}

static void read_boot_id(char *boot, size_t bytes)
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

    if (file != NULL) {
        (void)fread(boot, 1, bytes - 1, file);
        (void)fclose(file);
    }
}

/* The first rank of each machine, or of each run of ranks_per_node, names the node. */
static void list_nodes(witan_group_t *group, const place_t *all, int32_t ranks_per_node)
{
    for (int32_t rank = 0; rank < group->comm.size; rank++) {
        int32_t first = ranks_per_node > 0 ? rank / ranks_per_node * ranks_per_node : 0;

        while (first < rank && !same_machine(&all[first], &all[rank])) {
            first++;
        }
        group->nodes[rank] = first;
    }
}

typedef struct probe {
    wtn_segment_name_t name;
    int32_t            found;
} probe_t;

/* Ranks of a node that can not share memory, as in containers apart, are nodes of their own. */
static witan_status_t split_strangers(witan_group_t *group)
{
    int32_t        first   = group->nodes[group->comm.rank];
    probe_t        mine    = {0};
    probe_t       *all     = calloc((size_t)group->comm.size, sizeof(*all));
    wtn_segment_t  segment = {.fd = -1};
    witan_status_t status  = WITAN_OK;

    if (all == NULL) {
        status =
            WTN_ERROR(WITAN_E_MEMORY, "group: %zu bytes", (size_t)group->comm.size * sizeof(*all));
    } else if (first == group->comm.rank) {
        mine.found = wtn_segment_make(&segment, PROBE_BYTES, &mine.name) == WITAN_OK;
    }
    WTN_TRY(wtn_agree(&group->comm, "group", status, NULL, 0));
    WTN_TRY(wtn_allgather(&group->comm, &mine, sizeof(mine), all, "group"));
    if (first != group->comm.rank && all[first].found) {
        mine.found = wtn_segment_find(&segment, &all[first].name) == WITAN_OK;
    }
    WTN_TRY(wtn_allgather(&group->comm, &mine, sizeof(mine), all, "group"));
    for (int32_t rank = 0; rank < group->comm.size; rank++) {
        if (!all[rank].found) {
            all[group->nodes[rank]].found = 0; /* one who can not, and the node is none */
        }
    }
    for (int32_t rank = 0; rank < group->comm.size; rank++) {
        if (!all[group->nodes[rank]].found) {
            group->nodes[rank] = rank;
        }
    }

fail:
    wtn_segment_free(&segment);
    free(all);
    return status;
}

/* Ranks of one machine form a node; those of one mask share its cores out. */
static witan_status_t find_place(witan_group_t *group, const witan_group_config_t *config)
{
    int32_t        masks_equal = 0, masks_equal_before = 0;
    place_t        mine = {0};
    place_t       *all  = malloc((size_t)group->comm.size * sizeof(*all));
    witan_status_t status;

    group->nodes = calloc((size_t)group->comm.size, sizeof(*group->nodes));
    (void)gethostname(mine.host, sizeof(mine.host) - 1);
    read_boot_id(mine.boot, sizeof(mine.boot));
    status = wtn_binding_mask(mine.mask);
    if (all == NULL || group->nodes == NULL) {
        status =
            WTN_ERROR(WITAN_E_MEMORY, "group: %zu bytes", (size_t)group->comm.size * sizeof(*all));
    }
    status = wtn_agree(&group->comm, "group", status, NULL, 0);
    if (status == WITAN_OK) {
        status = wtn_allgather(&group->comm, &mine, sizeof(mine), all, "group");
    }
    if (status != WITAN_OK) {
        free(all);
        return status;
    }
    for (int32_t rank = 0; rank < group->comm.size; rank++) {
        if (!same_machine(&all[rank], &mine)) {
            continue;
        }
        group->local_rank += rank < group->comm.rank;
        group->local_size++;
        if (memcmp(all[rank].mask, mine.mask, sizeof(mine.mask)) == 0) {
            masks_equal_before += rank < group->comm.rank;
            masks_equal++;
        }
    }
    list_nodes(group, all, config->ranks_per_node);
    free(all);
    status = split_strangers(group);
    return status != WITAN_OK
               ? status
               : wtn_binding_choose(masks_equal_before, masks_equal, config->bind, &group->binding);
}

witan_status_t wtn_group_setup(witan_group_t *group, const witan_group_config_t *config)
{
    wtn_folding_t  folding = {0};
    wtn_field_t    fields[7];
    witan_status_t status;

    status = wtn_folding_make(config, group->comm.rank, group->comm.size, &folding);
    wtn_field_set(&fields[0], "version", "%s", WITAN_VERSION_STRING);
    wtn_field_set(&fields[1], "expert_parallel", "%" PRId32, config->expert_parallel);
    wtn_field_set(&fields[2], "tensor_parallel", "%" PRId32, config->tensor_parallel);
    wtn_field_set(&fields[3], "timeout_ns", "%" PRIu64, config->timeout_ns);
    wtn_field_set(&fields[4], "bind", "%s", config->bind ? "true" : "false");
    wtn_field_set(&fields[5], "share_device", "%s", config->share_device ? "true" : "false");
    wtn_field_set(&fields[6], "ranks_per_node", "%" PRId32, config->ranks_per_node);
    WTN_TRY(wtn_agree(&group->comm, "group", status, fields, WTN_COUNT_OF(fields)));
    group->expert_parallel = folding.expert_parallel;
    group->tensor_parallel = folding.tensor_parallel;
    group->data_parallel   = folding.data_parallel;
    group->expert_index    = folding.expert_index;
    group->tensor_index    = folding.tensor_index;
    group->data_index      = folding.data_index;
    group->device          = config->device;
    group->share_device    = config->share_device;
    status                 = find_place(group, config);
    WTN_TRY(wtn_agree(&group->comm, "group", status, NULL, 0));
    group->comm.crowded = group->binding.shared;
    group->thread_count =
        config->thread_count > 0 ? config->thread_count : group->binding.core_count;

fail:
    return status;
}

witan_status_t witan_group_create_self(witan_group_t **out, const witan_group_config_t *config)
{
    witan_group_config_t resolved;
    witan_status_t       status;

    if (out == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "group: out is NULL");
    }
    status = wtn_group_new(out, config, &resolved);
    if (status != WITAN_OK) {
        return status;
    }
    (*out)->comm.transport = &wtn_transport_self;
    (*out)->comm.size      = 1;
    WTN_TRY(wtn_group_setup(*out, &resolved));
    return WITAN_OK;

fail:
    witan_group_destroy(*out);
    *out = NULL;
    return status;
}

witan_status_t witan_group_query(const witan_group_t *group, witan_group_info_t *info)
{
    if (group == NULL || info == NULL || info->struct_bytes != sizeof(*info)) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "group query: null pointer or wrong struct_bytes");
    }
    *info = (witan_group_info_t){
        .struct_bytes    = sizeof(*info),
        .rank            = group->comm.rank,
        .size            = group->comm.size,
        .expert_index    = group->expert_index,
        .expert_parallel = group->expert_parallel,
        .tensor_index    = group->tensor_index,
        .tensor_parallel = group->tensor_parallel,
        .data_index      = group->data_index,
        .data_parallel   = group->data_parallel,
        .local_rank      = group->local_rank,
        .local_size      = group->local_size,
        .thread_count    = group->thread_count,
        .timeout_ns      = group->comm.timeout_ns,
        .transport       = group->comm.transport->name,
        .device          = group->device,
    };
    return WITAN_OK;
}

void witan_group_destroy(witan_group_t *group)
{
    if (group == NULL) {
        return;
    }
    if (group->comm.transport != NULL) {
        wtn_sweep(&group->comm);
        group->comm.transport->close(&group->comm);
    }
    free(group->nodes);
    free(group);
}

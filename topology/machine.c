#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"
#include "topology/cores.h"

static pthread_once_t   once = PTHREAD_ONCE_INIT;
static hwloc_topology_t machine_topology; /* NULL: could not be loaded */
static int              load_errno;

/* Reading a large machine takes tens of milliseconds, so it is done once. */
static void load(void)
{
    hwloc_topology_t topology;

    errno = 0;
    if (hwloc_topology_init(&topology) != 0) {
        load_errno = errno;
        return;
    }
    if (hwloc_topology_load(topology) != 0) {
        load_errno = errno;
        hwloc_topology_destroy(topology);
        return;
    }
    machine_topology = topology;
}

witan_status_t wtn_topology_get(hwloc_topology_t *topology)
{
    (void)pthread_once(&once, load);
    *topology = machine_topology;
    if (machine_topology == NULL) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "topology: hwloc could not read this machine: %s",
                         strerror(load_errno));
    }
    return WITAN_OK;
}

static int32_t count_of(hwloc_topology_t topology, hwloc_obj_type_t type)
{
    int count = hwloc_get_nbobjs_by_type(topology, type);

    return count < 0 ? 0 : count; /* -1: on several levels */
}

static int64_t first_cache_bytes(hwloc_topology_t topology, hwloc_obj_type_t type)
{
    hwloc_obj_t cache = hwloc_get_obj_by_type(topology, type, 0);

    return cache == NULL ? 0 : (int64_t)cache->attr->cache.size;
}

void wtn_machine_describe(hwloc_topology_t topology, wtn_machine_t *machine)
{
    hwloc_obj_t root    = hwloc_get_root_obj(topology);
    hwloc_obj_t package = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0);
    const char *model;

    model = hwloc_obj_get_info_by_name(package != NULL ? package : root, "CPUModel");
    (void)snprintf(machine->cpu, sizeof(machine->cpu), "%s", model != NULL ? model : "unknown");
    machine->numa_count    = count_of(topology, HWLOC_OBJ_NUMANODE);
    machine->package_count = count_of(topology, HWLOC_OBJ_PACKAGE);
    machine->core_count    = wtn_cores_count(topology, root->cpuset);
    machine->pu_count      = count_of(topology, HWLOC_OBJ_PU);
    machine->memory_bytes  = (int64_t)root->total_memory;
    machine->l2_bytes      = first_cache_bytes(topology, HWLOC_OBJ_L2CACHE);
    machine->l3_bytes      = first_cache_bytes(topology, HWLOC_OBJ_L3CACHE);
}

witan_status_t wtn_machine_query(wtn_machine_t *machine)
{
    hwloc_topology_t topology;
    witan_status_t   status;

    memset(machine, 0, sizeof(*machine));
    WTN_TRY(wtn_topology_get(&topology));
    wtn_machine_describe(topology, machine);
    if (gethostname(machine->host, sizeof(machine->host)) != 0) {
        (void)snprintf(machine->host, sizeof(machine->host), "unknown");
    }
    machine->host[sizeof(machine->host) - 1] = '\0'; /* a name cut short has no end */
    return WITAN_OK;

fail:
    return status;
}

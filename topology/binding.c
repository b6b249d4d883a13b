#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "topology/cores.h"

/* Some virtual machines tell of hardware threads but not of cores. */
static hwloc_obj_type_t core_type(hwloc_topology_t topology)
{
    return hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
}

int32_t wtn_cores_count(hwloc_topology_t topology, hwloc_const_bitmap_t set)
{
    hwloc_obj_type_t type  = core_type(topology);
    hwloc_obj_t      core  = NULL;
    int32_t          count = 0;

    while ((core = hwloc_get_next_obj_by_type(topology, type, core)) != NULL) {
        count += hwloc_bitmap_intersects(core->cpuset, set) != 0;
    }
    return count;
}

int32_t wtn_cores_split(hwloc_topology_t topology, hwloc_const_bitmap_t set, int32_t index,
                        int32_t count, hwloc_bitmap_t piece, bool *shared)
{
    hwloc_obj_type_t type  = core_type(topology);
    hwloc_obj_t      core  = NULL;
    int32_t          total = wtn_cores_count(topology, set);
    int64_t          begin, end, position = 0;

    begin   = wtn_part_begin(total, count, index);
    end     = wtn_part_begin(total, count, index + 1);
    *shared = end == begin || (index > 0 && wtn_part_begin(total, count, index - 1) == begin);
    end     = wtn_max_i64(end, begin + 1);
    hwloc_bitmap_zero(piece);
    while ((core = hwloc_get_next_obj_by_type(topology, type, core)) != NULL) {
        if (!hwloc_bitmap_intersects(core->cpuset, set)) {
            continue;
        }
        if (position >= begin && position < end) {
            hwloc_bitmap_or(piece, piece, core->cpuset);
        }
        position++;
    }
    hwloc_bitmap_and(piece, piece, set);
    return (int32_t)(wtn_min_i64(end, total) - begin);
}

witan_status_t wtn_cpuset_text(hwloc_const_bitmap_t set, char text[WTN_CPUSET_TEXT_BYTES])
{
    const size_t tail_bytes = 16 + 4; /* "...", 16 hex digits, end */
    char        *list;
    int          length;

    length = hwloc_bitmap_list_asprintf(&list, set);
    if (length < 0) {
        return WTN_ERROR(WITAN_E_MEMORY, "binding: text of a cpu set: %s", strerror(errno));
    }
    if (length < WTN_CPUSET_TEXT_BYTES) {
        memcpy(text, list, (size_t)length + 1);
    } else {
        (void)snprintf(text, WTN_CPUSET_TEXT_BYTES, "%.*s...%016" PRIx64,
                       (int)(WTN_CPUSET_TEXT_BYTES - tail_bytes), list,
                       wtn_hash(0, list, (size_t)length));
    }
    free(list);
    return WITAN_OK;
}

/* The hardware threads this process may run on; all of the machine where that can not be told. */
static witan_status_t process_mask(hwloc_topology_t topology, hwloc_bitmap_t mask)
{
    hwloc_const_bitmap_t all = hwloc_topology_get_topology_cpuset(topology);

    if (hwloc_get_cpubind(topology, mask, HWLOC_CPUBIND_PROCESS) != 0) {
        hwloc_bitmap_copy(mask, all);
    }
    hwloc_bitmap_and(mask, mask, all);
    if (hwloc_bitmap_iszero(mask)) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "binding: this process may run on no known core");
    }
    return WITAN_OK;
}

witan_status_t wtn_binding_mask(char text[WTN_CPUSET_TEXT_BYTES])
{
    hwloc_topology_t topology;
    hwloc_bitmap_t   mask = hwloc_bitmap_alloc();
    witan_status_t   status;

    if (mask == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "binding: a cpu set");
    }
    WTN_TRY(wtn_topology_get(&topology));
    WTN_TRY(process_mask(topology, mask));
    WTN_TRY(wtn_cpuset_text(mask, text));

fail:
    hwloc_bitmap_free(mask);
    return status;
}

witan_status_t wtn_binding_choose(int32_t masks_equal_before, int32_t masks_equal, bool apply,
                                  wtn_binding_t *binding)
{
    hwloc_topology_t topology;
    hwloc_bitmap_t   mask  = hwloc_bitmap_alloc();
    hwloc_bitmap_t   piece = hwloc_bitmap_alloc();
    witan_status_t   status;

    memset(binding, 0, sizeof(*binding));
    if (mask == NULL || piece == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "binding: a cpu set");
        goto fail;
    }
    if (masks_equal_before < 0 || masks_equal_before >= masks_equal) {
        status = WTN_ERROR(WITAN_E_ARGUMENT, "binding: rank %" PRId32 " of %" PRId32,
                           masks_equal_before, masks_equal);
        goto fail;
    }
    WTN_TRY(wtn_topology_get(&topology));
    WTN_TRY(process_mask(topology, mask));
    binding->inherited = !hwloc_bitmap_isequal(mask, hwloc_topology_get_topology_cpuset(topology));
    binding->core_count =
        wtn_cores_split(topology, mask, masks_equal_before, masks_equal, piece, &binding->shared);
    /* Ranks that must share a core are better moved about by the kernel than pinned in pairs. */
    apply = apply &&
            hwloc_get_nbobjs_inside_cpuset_by_type(topology, mask, HWLOC_OBJ_CORE) >= masks_equal;
    if (apply && !hwloc_bitmap_isequal(piece, mask)) {
        if (hwloc_set_cpubind(topology, piece, HWLOC_CPUBIND_PROCESS) != 0) {
            status = WTN_ERROR(WITAN_E_UNSUPPORTED,
                               "binding: rank %" PRId32 " of %" PRId32
                               " on its node could not be bound: %s",
                               masks_equal_before, masks_equal, strerror(errno));
            goto fail;
        }
        binding->bound = true;
    }
    WTN_TRY(wtn_cpuset_text(apply ? piece : mask, binding->cpuset));

fail:
    hwloc_bitmap_free(piece);
    hwloc_bitmap_free(mask);
    return status;
}

/* The arithmetic behind topology.h, on any hwloc topology: a recorded or invented one in tests. */
#ifndef WTN_CORES_H
#define WTN_CORES_H

#include <hwloc.h>
#include <stdbool.h>
#include <stdint.h>

#include "topology/topology.h"

/* This machine, loaded on the first call and kept for the life of the process. */
witan_status_t wtn_topology_get(hwloc_topology_t *topology);

/* All of wtn_machine_t but `host`. */
void wtn_machine_describe(hwloc_topology_t topology, wtn_machine_t *machine);

/* Cores with at least one hardware thread in `set`. */
int32_t wtn_cores_count(hwloc_topology_t topology, hwloc_const_bitmap_t set);

/* Piece `index` of `count` of the cores in `set`, in hwloc's order, so that neighbours in NUMA node
 * and cache stay together; sizes differ by at most one core. With more pieces than cores every
 * piece is one core, and `*shared` tells whether another piece is the same one. Of a core only the
 * hardware threads in `set` are taken. Returns the number of cores in the piece; 0 only if `set`
 * has none. */
int32_t wtn_cores_split(hwloc_topology_t topology, hwloc_const_bitmap_t set, int32_t index,
                        int32_t count, hwloc_bitmap_t piece, bool *shared);

/* "0-3,8". A list that does not fit is cut and ends with a hash of the whole: unequal sets give
 * unequal texts. */
witan_status_t wtn_cpuset_text(hwloc_const_bitmap_t set, char text[WTN_CPUSET_TEXT_BYTES]);

#endif

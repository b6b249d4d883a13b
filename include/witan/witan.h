/* Witan: the expert layers of mixture-of-experts models over many ranks.
 *
 *   witan_group_create_*   ->  witan_layer_load / witan_layer_create  ->  witan_plan_create
 *   witan_forward = witan_route, then rounds of witan_dispatch, witan_experts, witan_combine
 *
 * Rules that hold everywhere:
 * - A call that fails returns a status; witan_last_error() has one line that names the cause.
 * Nothing prints, exits, aborts or raises a signal.
 * - "Collective" calls must be made by all ranks of the group, and in the same order by one thread.
 *   A rank that finds a fault in a collective call tells the others, which return WITAN_E_PEER with
 *   its text.
 * - Arrays are row-major; weights are [out, in]; counts are signed 64-bit, ids 32-bit.
 * - Structs start with `struct_bytes` and are filled by their _init function.
 * - Threads: different plans may be used from different threads at once (see witan_mpi.h); one
 * plan, one thread at a time. Calls that create or destroy a group, layer or plan of one group must
 * not run at the same time.
 * - After a failed collective step in a group of several ranks the plan can only be destroyed; the
 *   group and its layers are as good as before, unless a rank is lost. A collective creation that
 *   ended with WITAN_E_TIMEOUT, WITAN_E_TRANSPORT or WITAN_E_STATE leaves the group only to be
 *   destroyed.
 */
#ifndef WITAN_WITAN_H
#define WITAN_WITAN_H

#include <witan/group.h>
#include <witan/layer.h>
#include <witan/plan.h>
#include <witan/rebalance.h>
#include <witan/status.h>
#include <witan/types.h>

#endif

/* Groups from an MPI communicator. Kept apart so that the other headers need no mpi.h. */
#ifndef WITAN_MPI_H
#define WITAN_MPI_H

#include <mpi.h>

#include <witan/group.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * A group of all ranks of `comm`. Collective over `comm`.
 *
 * MPI must be initialised; the library never initialises or finalises it. `comm` is duplicated
 * (with a non-blocking call and the deadline), so the caller's messages never meet ours; it must
 * outlive the call only. Threads: with MPI_THREAD_MULTIPLE plans may be used from several threads
 * at once; with less, one thread at a time may be inside any witan_ call or MPI call of the
 * process. Destroy the group and what was made of it before MPI_Finalize; destroyed later they only
 * give their memory back.
 *
 * @param config NULL for the defaults; must be equal on all ranks, but for thread_count and device.
 * @return WITAN_OK;
 *         WITAN_E_ARGUMENT  ep * tp does not divide the number of ranks;
 *         WITAN_E_MISMATCH  versions or configurations differ; the text names field, values, ranks;
 *         WITAN_E_PEER      another rank was refused: its rank and text;
 *         WITAN_E_TIMEOUT   a rank did not come; once MPI has duplicated `comm` the text names it;
 *         WITAN_E_TRANSPORT MPI is not initialised or failed.
 */
WITAN_API witan_status_t witan_group_create_mpi(witan_group_t **out, MPI_Comm comm,
                                                const witan_group_config_t *config);

#ifdef __cplusplus
}
#endif
#endif

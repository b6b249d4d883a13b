/* The mpi transport, apart from comm.h so that only it needs mpi.h. */
#ifndef WTN_COMM_MPI_H
#define WTN_COMM_MPI_H

#include <mpi.h>

#include "comm/comm.h"

/* Duplicate `parent` into `comm` (rank, size, state), waiting at most comm->timeout_ns. Collective.
 */
witan_status_t wtn_mpi_open(wtn_comm_t *comm, MPI_Comm parent);

#endif

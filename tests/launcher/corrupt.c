/* Preloaded: changes one byte of the long messages that the program sends with a tag of
 * WITAN_TEST_TAG modulo 8, to see what --check makes of it. */
#include <mpi.h>
#include <stdint.h>
#include <stdlib.h>

int MPI_Isend(const void *data, int count, MPI_Datatype type, int peer, int tag, MPI_Comm comm,
              MPI_Request *request)
{
    const char *wanted = getenv("WITAN_TEST_TAG");

    if (wanted != NULL && tag % 8 == (int)strtol(wanted, NULL, 10) && count > 64) {
        /* Memory of the sender, which will not read it again; the upper byte of a bf16. */
        ((unsigned char *)(uintptr_t)data)[count / 2 | 1] ^= 0x40;
    }
    return PMPI_Isend(data, count, type, peer, tag, comm, request);
}

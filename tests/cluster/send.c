/* send PATTERN BYTES: ranks send BYTES to each other after a barrier; rank 0 prints the seconds
 * that the slowest receiver took. PATTERN: inside, between (of 2 ranks on each of 2 nodes: to the
 * neighbour on the node, or to that on the other), gather (to rank 0), scatter (from rank 0).
 * Then every rank prints its node and how many ranks share its memory. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int sends(const char *pattern, int from, int to)
{
    if (from == to) {
        return 0;
    }
    if (strcmp(pattern, "gather") == 0 || strcmp(pattern, "scatter") == 0) {
        return (pattern[0] == 'g' ? to : from) == 0;
    }
    return (from ^ to) == (pattern[0] == 'i' ? 1 : 2);
}

static double exchange(const char *pattern, int bytes, int rank, int size)
{
    char        *out      = calloc(1, (size_t)bytes);
    char        *in       = calloc((size_t)size, (size_t)bytes);
    MPI_Request *requests = malloc(2 * (size_t)size * sizeof(MPI_Request));
    int          count    = 0;
    double       begin;
    double       seconds;

    if (out == NULL || in == NULL || requests == NULL) {
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    begin = MPI_Wtime();
    for (int peer = 0; peer < size; peer++) {
        if (sends(pattern, peer, rank)) {
            MPI_Irecv(in + (size_t)peer * (size_t)bytes, bytes, MPI_CHAR, peer, 0, MPI_COMM_WORLD,
                      &requests[count++]);
        }
        if (sends(pattern, rank, peer)) {
            MPI_Isend(out, bytes, MPI_CHAR, peer, 0, MPI_COMM_WORLD, &requests[count++]);
        }
    }
    MPI_Waitall(count, requests, MPI_STATUSES_IGNORE);
    seconds = MPI_Wtime() - begin;
    MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    free(out);
    free(in);
    free(requests);
    return seconds;
}

int main(int argc, char **argv)
{
    MPI_Comm node;
    char     host[MPI_MAX_PROCESSOR_NAME];
    int      length;
    int      rank;
    int      size;
    int      shared;
    double   seconds;

    MPI_Init(&argc, &argv);
    if (argc != 3) {
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    seconds = exchange(argv[1], (int)strtol(argv[2], NULL, 10), rank, size);
    if (rank == 0) {
        printf("seconds %.6f\n", seconds);
    }
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_size(node, &shared);
    MPI_Get_processor_name(host, &length);
    printf("rank %d on %s with %d\n", rank, host, shared);
    MPI_Comm_free(&node);
    MPI_Finalize();
    return 0;
}

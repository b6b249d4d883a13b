/* How the ranks of a communicator find each other: all say hello to the first, which tells all who
 * is there. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/emulator/nccl_state.h"

namespace emulator
{
namespace nccl
{

/* As NCCL, the environment's name of the host is read once. */
void fill_hello(hello_t *hello, int rank)
{
    static char host[64];
    int         device = 0;

    if (host[0] == '\0') {
        const char *id = getenv("NCCL_HOSTID");
        if (id != NULL) {
            (void)snprintf(host, sizeof(host), "%s", id);
        } else {
            (void)gethostname(host, sizeof(host) - 1);
        }
    }
    memset(hello, 0, sizeof(*hello));
    hello->rank  = rank;
    hello->world = world_rank();
    memcpy(hello->host, host, sizeof(host));
    (void)cudaGetDevice(&device);
    (void)cudaDeviceGetPCIBusId(hello->gpu, (int)sizeof(hello->gpu), device);
}

static bool test_all(std::vector<MPI_Request> &requests)
{
    int done = 1;

    if (!requests.empty()) {
        MPI_Testall((int)requests.size(), requests.data(), &done, MPI_STATUSES_IGNORE);
    }
    return done != 0;
}

/* A message of the bootstrap, if it is there. */
static bool receive_now(int from, int tag, void *data, size_t bytes)
{
    MPI_Message message;
    MPI_Status  status;
    int         found = 0;

    MPI_Improbe(from, tag, MPI_COMM_WORLD, &found, &message, &status);
    if (found) {
        MPI_Mrecv(data, (int)bytes, MPI_BYTE, &message, MPI_STATUS_IGNORE);
    }
    return found != 0;
}

static bool same_place(const hello_t &a, const hello_t &b)
{
    return strcmp(a.host, b.host) == 0 && strcmp(a.gpu, b.gpu) == 0;
}

static void check_duplicates(state_t &comm)
{
    for (int i = 0; i < comm.size; i++) {
        for (int j = 0; j < i; j++) {
            if (same_place(comm.hellos[(size_t)i], comm.hellos[(size_t)j])) {
                fail(comm, ncclInvalidUsage,
                     "Duplicate GPU detected : rank " + std::to_string(j) + " and rank " +
                         std::to_string(i) + " both on CUDA device " + comm.hellos[(size_t)i].gpu);
            }
        }
    }
}

static void take_table(state_t &comm, const std::vector<char> &table)
{
    comm.hellos.resize((size_t)comm.size);
    memcpy(comm.hellos.data(), table.data(), table.size());
    comm.world.clear();
    for (const hello_t &hello : comm.hellos) {
        comm.world.push_back(hello.world);
    }
    comm.met = true;
    check_duplicates(comm);
}

/* The meeting: all say hello to the root, which tells all who is there. */
void advance_meeting(state_t &comm)
{
    size_t            bytes = (size_t)comm.size * sizeof(hello_t);
    std::vector<char> table(bytes);

    if (comm.init_stalled) {
        return;
    }
    if (comm.rank != 0) {
        if (comm.requests.empty()) {
            comm.requests.resize(1);
            MPI_Isend(&comm.hello, (int)sizeof(comm.hello), MPI_BYTE, comm.root,
                      comm.tag_of(TAG_HELLO), MPI_COMM_WORLD, &comm.requests[0]);
        }
        if (test_all(comm.requests) &&
            receive_now(comm.root, comm.tag_of(TAG_TABLE), table.data(), bytes)) {
            take_table(comm, table);
        }
        return;
    }
    if (comm.hellos.empty()) {
        comm.hellos.push_back(comm.hello);
    }
    for (hello_t hello; (int)comm.hellos.size() < comm.size;) {
        if (!receive_now(MPI_ANY_SOURCE, comm.tag_of(TAG_HELLO), &hello, sizeof(hello))) {
            return;
        }
        comm.hellos.push_back(hello);
    }
    if (comm.table.empty()) {
        comm.table.resize(bytes);
        for (const hello_t &hello : comm.hellos) {
            memcpy(&comm.table[(size_t)hello.rank * sizeof(hello)], &hello, sizeof(hello));
        }
        for (const hello_t &hello : comm.hellos) {
            if (hello.rank != 0) {
                comm.requests.emplace_back();
                MPI_Isend(comm.table.data(), (int)bytes, MPI_BYTE, hello.world,
                          comm.tag_of(TAG_TABLE), MPI_COMM_WORLD, &comm.requests.back());
            }
        }
    }
    if (test_all(comm.requests)) {
        take_table(comm, comm.table);
    }
}

} // namespace nccl
} // namespace emulator

/* What the sources of the emulator's NCCL share. */
#ifndef WTN_EMULATOR_NCCL_STATE_H
#define WTN_EMULATOR_NCCL_STATE_H

#include <atomic>
#include <memory>
#include <nccl.h>
#include <stdint.h>
#include <string>
#include <vector>

#define OMPI_SKIP_MPICXX 1 /* MPI's own C++ is not of this century */
#include <mpi.h>

#include "tests/emulator/nccl_emulator.h"

namespace emulator
{
namespace nccl
{

const int TAG_BASE = 1 << 24; /* above what tests use themselves */

enum tag_t { TAG_HELLO, TAG_TABLE, TAG_MESSAGE, TAG_COLLECTIVE, TAG_COUNT };

enum kind_t : uint32_t { MESSAGE = 1, ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL };

struct hello_t {
    int  rank, world;
    char host[64], gpu[32];
};

struct identity_t {
    uint32_t magic;
    int      world, serial; /* of who made it */
};
const uint32_t ID_MAGIC = 0x57544e31;

struct op_t {
    kind_t      kind;
    bool        is_send;
    const char *from;
    char       *to;
    size_t      bytes; /* of a message, or of one block of a collective */
    int         peer;
};

struct state_t;
struct work_unit_t {
    std::shared_ptr<state_t> comm;
    cudaStream_t             stream;
    std::vector<op_t>        ops;
};

/* Shared by the handle and the work queued. */
struct state_t {
    int                  rank, size, tag;
    bool                 blocking = false; /* its calls return when they have had their effect */
    int                  root;             /* of the world, who made the id */
    bool                 met, init_stalled;
    std::vector<int>     world; /* ranks of the peers */
    std::vector<hello_t> hellos;
    std::vector<char>    table; /* of the root, while it is sent */
    std::vector<MPI_Request> requests;
    hello_t                  hello;
    std::atomic<bool>        aborted{false};
    ncclResult_t             error      = ncclSuccess;
    int                      busy       = 0; /* polls until what was called has its effect */
    bool                     finalizing = false;
    std::vector<work_unit_t> deferred;   /* to be queued then */
    int                      queued = 0; /* outside of graphs, and not yet finished */
    std::shared_ptr<state_t> child;      /* while it is split off */
    ncclComm_t              *child_out = NULL;

    int tag_of(tag_t kind) const
    {
        return tag + (int)kind;
    }
};

/* Keep the text for ncclGetLastError; the value is `code`. */
ncclResult_t tell(ncclResult_t code, const std::string &text);
/* The communicator meets an asynchronous error, its first. */
void fail(state_t &comm, ncclResult_t code, const std::string &text);

/* Count one call that queues, one exchange that runs, or one new communicator, and say what shall
 * go wrong with it. */
enum moment_t { AT_CALL, AT_RUN, AT_INIT };
wtn_emulator_nccl_fault_t draw_fault(moment_t moment);

/* nccl_meeting.cc: what identifies this rank, and one step towards knowing the others. */
void fill_hello(hello_t *hello, int rank);
void advance_meeting(state_t &comm);

/* nccl_exchange.cc: the work of a group, queued on its stream. */
ncclResult_t queue_unit(const work_unit_t &unit);

int world_rank(void);

} // namespace nccl
} // namespace emulator

#endif

/* Exchanges under way: messages over MPI_COMM_WORLD with tags of their own. Each tells what it is,
 * so that ranks that call different things, or sizes that differ, end in an error instead of mixed
 * data.
 */
#include <string.h>

#include "tests/emulator/nccl_state.h"
#include "tests/emulator/stream.h"

namespace emulator
{
namespace nccl
{

struct header_t {
    uint32_t kind, unused;
    uint64_t bytes;
};

struct send_t {
    int               peer;
    tag_t             tag;
    std::vector<char> data; /* header and bytes */
    MPI_Request       request;
};

struct recv_t {
    int               peer;
    tag_t             tag;
    kind_t            kind;
    size_t            bytes;
    char             *to; /* of messages; collectives' stay in data */
    std::vector<char> data;
    MPI_Request       request;
    bool              matched, done;
};

/* One run of a work unit; at a graph's every replay a new one. */
struct run_t {
    wtn_emulator_nccl_fault_t fault;
    std::vector<send_t>       sends;
    std::vector<recv_t>       recvs;
};

/* What MPI may still read or write is kept for ever. */
static std::vector<std::shared_ptr<run_t>> graves;

static bool is_collective(kind_t kind)
{
    return kind != MESSAGE;
}

static void add_send(run_t &run, const op_t &op, int peer, const char *from)
{
    header_t header = {op.kind, 0, op.bytes};
    send_t   send   = {};

    send.peer = peer;
    send.tag  = is_collective(op.kind) ? TAG_COLLECTIVE : TAG_MESSAGE;
    send.data.resize(sizeof(header) + op.bytes);
    memcpy(send.data.data(), &header, sizeof(header));
    if (op.bytes > 0) {
        memcpy(send.data.data() + sizeof(header), from, op.bytes);
    }
    run.sends.push_back(std::move(send));
}

static void add_recv(run_t &run, const op_t &op, int peer, char *to)
{
    recv_t recv = {};

    recv.peer  = peer;
    recv.tag   = is_collective(op.kind) ? TAG_COLLECTIVE : TAG_MESSAGE;
    recv.kind  = op.kind;
    recv.bytes = op.bytes;
    recv.to    = to;
    run.recvs.push_back(std::move(recv));
}

/* Every collective is a block to and from each rank, oneself too; they differ in which block. */
static void add_op(run_t &run, const state_t &comm, const op_t &op)
{
    bool blocks = op.kind == ALL_TO_ALL || op.kind == REDUCE_SCATTER;

    if (op.kind == MESSAGE) {
        if (op.is_send) {
            add_send(run, op, op.peer, op.from);
        } else {
            add_recv(run, op, op.peer, op.to);
        }
        return;
    }
    for (int i = 0; i < comm.size; i++) {
        add_send(run, op, i, blocks ? op.from + (size_t)i * op.bytes : op.from);
        add_recv(run, op, i, NULL);
    }
}

static std::shared_ptr<run_t> begin(const work_unit_t &unit)
{
    std::shared_ptr<run_t> run = std::make_shared<run_t>();

    run->fault = draw_fault(AT_RUN);
    if (run->fault != WTN_EMULATOR_NCCL_NONE) {
        return run;
    }
    for (const op_t &op : unit.ops) {
        add_op(*run, *unit.comm, op);
    }
    for (send_t &send : run->sends) {
        MPI_Isend(send.data.data(), (int)send.data.size(), MPI_BYTE,
                  unit.comm->world[(size_t)send.peer], unit.comm->tag_of(send.tag), MPI_COMM_WORLD,
                  &send.request);
    }
    return run;
}

/* The next message of the peer, if it is there; it must be the one expected. */
static void match(state_t &comm, recv_t &recv)
{
    MPI_Message message;
    MPI_Status  status;
    int         found = 0, bytes = 0;

    MPI_Improbe(comm.world[(size_t)recv.peer], comm.tag_of(recv.tag), MPI_COMM_WORLD, &found,
                &message, &status);
    if (!found) {
        return;
    }
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    recv.data.resize((size_t)bytes);
    MPI_Imrecv(recv.data.data(), bytes, MPI_BYTE, &message, &recv.request);
    recv.matched = true;
}

static void check_received(state_t &comm, const recv_t &recv)
{
    header_t header;

    memcpy(&header, recv.data.data(), sizeof(header));
    if (header.kind != recv.kind || header.bytes != recv.bytes) {
        fail(comm, ncclInternalError,
             "the emulator: rank " + std::to_string(comm.rank) + " expects " +
                 std::to_string(recv.bytes) + " bytes (kind " + std::to_string(recv.kind) +
                 ") of rank " + std::to_string(recv.peer) + ", which sends " +
                 std::to_string(header.bytes) + " (kind " + std::to_string(header.kind) + ")");
    } else if (recv.to != NULL && recv.bytes > 0) {
        memcpy(recv.to, recv.data.data() + sizeof(header), recv.bytes);
    }
}

/* True once all have come; those of one peer come in the order in which they were queued. */
static bool advance_recvs(state_t &comm, run_t &run)
{
    std::vector<bool> waiting((size_t)comm.size * TAG_COUNT);
    bool              all = true;

    for (recv_t &recv : run.recvs) {
        size_t line = (size_t)recv.peer * TAG_COUNT + recv.tag;
        int    done = 0;

        if (!recv.matched && !waiting[line]) {
            match(comm, recv);
        }
        waiting[line] = waiting[line] || !recv.matched;
        if (recv.matched && !recv.done) {
            MPI_Test(&recv.request, &done, MPI_STATUS_IGNORE);
            if (done) {
                recv.done = true;
                check_received(comm, recv);
            }
        }
        all = all && recv.done;
    }
    return all;
}

static bool advance_sends(run_t &run)
{
    bool all = true;

    for (send_t &send : run.sends) {
        int done = 0;

        MPI_Test(&send.request, &done, MPI_STATUS_IGNORE);
        all = all && done;
    }
    return all;
}

static const char *payload(const recv_t &recv)
{
    return recv.data.data() + sizeof(header_t);
}

/* to = the blocks by ascending rank, side by side or summed. */
static void finish_collective(const state_t &comm, const op_t &op, const recv_t *recvs)
{
    size_t count = op.bytes / sizeof(float);

    for (int i = 0; i < comm.size; i++) {
        if (op.kind == ALL_TO_ALL || op.kind == ALL_GATHER) {
            memcpy(op.to + (size_t)i * op.bytes, payload(recvs[i]), op.bytes);
            continue;
        }
        for (size_t j = 0; j < count; j++) {
            float sum = 0, value;

            memcpy(&value, payload(recvs[i]) + j * sizeof(float), sizeof(float));
            if (i > 0) {
                memcpy(&sum, op.to + j * sizeof(float), sizeof(float));
                value = sum + value;
            }
            memcpy(op.to + j * sizeof(float), &value, sizeof(float));
        }
    }
}

static void finish(const work_unit_t &unit, const run_t &run)
{
    size_t at = 0; /* in recvs, which are in the order of the ops */

    for (const op_t &op : unit.ops) {
        if (op.kind != MESSAGE) {
            finish_collective(*unit.comm, op, &run.recvs[at]);
        }
        at += op.kind != MESSAGE ? (size_t)unit.comm->size : op.is_send ? 0 : 1;
    }
}

/* One look at a unit; true: it is over, done or aborted. */
static bool advance(const work_unit_t &unit, std::shared_ptr<run_t> &run)
{
    state_t &comm = *unit.comm;

    if (comm.aborted) {
        if (run != NULL) {
            graves.push_back(run);
        }
        return true;
    }
    if (comm.error != ncclSuccess) {
        return false; /* as kernels that wait for a network that is gone */
    }
    if (run == NULL) {
        run = begin(unit);
    }
    if (run->fault == WTN_EMULATOR_NCCL_STALL) {
        return false;
    }
    if (run->fault == WTN_EMULATOR_NCCL_ERROR) {
        fail(comm, ncclRemoteError, "the emulator: an asynchronous error was asked for");
        return false;
    }
    bool sent = advance_sends(*run), received = advance_recvs(comm, *run);
    if (!sent || !received || comm.error != ncclSuccess) {
        return false;
    }
    finish(unit, *run);
    return true;
}

ncclResult_t queue_unit(const work_unit_t &unit)
{
    std::shared_ptr<run_t> run;
    bool                   counted = !is_capturing(unit.stream);
    cudaError_t            code;

    if (counted) {
        unit.comm->queued++;
    }
    code = enqueue(unit.stream, "nccl", [unit, run, counted]() mutable {
        bool over = advance(unit, run);

        unit.comm->queued -= over && counted;
        return over;
    });
    return code == cudaSuccess ? ncclSuccess
                               : tell(ncclUnhandledCudaError, cudaGetErrorString(code));
}

} // namespace nccl
} // namespace emulator

/* NCCL over MPI, for tests without GPUs.
 *
 * Exchanges are work of the emulated streams: polled, never blocking, so that a peer that stalls
 * leaves a stream unfinished as it would on a device. Communicators are non-blocking ones only.
 * Messages go over MPI_COMM_WORLD with tags of their own; each tells what it is, so that ranks that
 * call different things, or sizes that differ, end in an error instead of mixed data. Sums are made
 * by ascending rank.
 *
 * As NCCL: the work of a group is queued as one, by a thread behind the caller's back (here: when
 * the caller asks ncclCommGetAsyncError); until then no other call is allowed. A message of no
 * bytes is one nevertheless. */
#include <atomic>
#include <limits.h>
#include <memory>
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#include <nccl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <unistd.h>
#include <vector>

#include "tests/emulator/nccl_emulator.h"
#include "tests/emulator/state.h"
#include "tests/emulator/stream.h"

namespace
{

const int TAG_BASE   = 1 << 24; /* above what tests use themselves */
const int BUSY_POLLS = 2;       /* of ncclCommGetAsyncError, until a call has had its effect */

enum tag_t { TAG_HELLO, TAG_TABLE, TAG_MESSAGE, TAG_COLLECTIVE, TAG_COUNT };

enum kind_t : uint32_t { MESSAGE = 1, ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL };

/* ---- what tests want ---- */

wtn_emulator_nccl_fault_t fault;
int                       fault_in; /* counts down to 0 */
int                       version = NCCL_VERSION_CODE;
std::string               last_error;

int world_rank(void)
{
    int rank;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

void read_environment(void)
{
    static bool       done;
    static const char names[][12] = {"none",   "stall",      "error",
                                     "refuse", "init_stall", "init_sleep"};
    const char       *text        = getenv("WTN_EMULATOR_NCCL");
    char              name[12]    = "";
    int               count = 1, rank = -1;

    if (done || text == NULL) {
        return;
    }
    done = true;
    if (sscanf(text, "%11[a-z_]:%d@%d", name, &count, &rank) < 1 ||
        (rank >= 0 && rank != world_rank())) {
        return;
    }
    for (size_t i = 1; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i], name) == 0) {
            fault    = (wtn_emulator_nccl_fault_t)i;
            fault_in = count;
            return;
        }
    }
    fprintf(stderr, "emulator: WTN_EMULATOR_NCCL=%s is not understood\n", text);
    abort();
}

/* Count one exchange (or communicator) and say what shall go wrong with it. */
wtn_emulator_nccl_fault_t draw_fault(bool init)
{
    read_environment();
    if (fault == WTN_EMULATOR_NCCL_NONE || (fault >= WTN_EMULATOR_NCCL_INIT_STALL) != init ||
        --fault_in != 0) {
        return WTN_EMULATOR_NCCL_NONE;
    }
    wtn_emulator_nccl_fault_t drawn = fault;
    fault                           = WTN_EMULATOR_NCCL_NONE;
    return drawn;
}

/* ---- communicators ---- */

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
    int                      rank, size, tag;
    int                      root; /* of the world, who made the id */
    bool                     met, init_stalled;
    std::vector<int>         world; /* ranks of the peers */
    std::vector<hello_t>     hellos;
    std::vector<char>        table; /* of the root, while it is sent */
    std::vector<MPI_Request> requests;
    hello_t                  hello;
    std::atomic<bool>        aborted{false};
    ncclResult_t             error      = ncclSuccess;
    int                      busy       = 0; /* polls until what was called has its effect */
    bool                     finalizing = false;
    std::vector<work_unit_t> deferred;   /* to be queued then */
    int                      queued = 0; /* outside of graphs, and not yet finished */

    int tag_of(tag_t kind) const
    {
        return tag + (int)kind;
    }
};

ncclResult_t tell(ncclResult_t code, const std::string &text)
{
    last_error = text;
    return code;
}

void fail(state_t &comm, ncclResult_t code, const std::string &text)
{
    if (comm.error == ncclSuccess) {
        comm.error = tell(code, text);
    }
}

bool test_all(std::vector<MPI_Request> &requests)
{
    int done = 1;

    if (!requests.empty()) {
        MPI_Testall((int)requests.size(), requests.data(), &done, MPI_STATUSES_IGNORE);
    }
    return done != 0;
}

/* A message of the bootstrap, if it is there. */
bool receive_now(int from, int tag, void *data, size_t bytes)
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

bool same_place(const hello_t &a, const hello_t &b)
{
    return strcmp(a.host, b.host) == 0 && strcmp(a.gpu, b.gpu) == 0;
}

void check_duplicates(state_t &comm)
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

void take_table(state_t &comm, const std::vector<char> &table)
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

/* ---- exchanges under way ---- */

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
std::vector<std::shared_ptr<run_t>> graves;

bool is_collective(kind_t kind)
{
    return kind != MESSAGE;
}

void add_send(run_t &run, const op_t &op, int peer, const char *from)
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

void add_recv(run_t &run, const op_t &op, int peer, char *to)
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
void add_op(run_t &run, const state_t &comm, const op_t &op)
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

std::shared_ptr<run_t> begin(const work_unit_t &unit)
{
    std::shared_ptr<run_t> run = std::make_shared<run_t>();

    run->fault = draw_fault(false);
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
void match(state_t &comm, recv_t &recv)
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

void check_received(state_t &comm, const recv_t &recv)
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
bool advance_recvs(state_t &comm, run_t &run)
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

bool advance_sends(run_t &run)
{
    bool all = true;

    for (send_t &send : run.sends) {
        int done = 0;

        MPI_Test(&send.request, &done, MPI_STATUS_IGNORE);
        all = all && done;
    }
    return all;
}

const char *payload(const recv_t &recv)
{
    return recv.data.data() + sizeof(header_t);
}

/* to = the blocks by ascending rank, side by side or summed. */
void finish_collective(const state_t &comm, const op_t &op, const recv_t *recvs)
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

void finish(const work_unit_t &unit, const run_t &run)
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
bool advance(const work_unit_t &unit, std::shared_ptr<run_t> &run)
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
    bool                   counted = !emulator::is_capturing(unit.stream);
    cudaError_t            code;

    if (counted) {
        unit.comm->queued++;
    }
    code = emulator::enqueue(unit.stream, "nccl", [unit, run, counted]() mutable {
        bool over = advance(unit, run);

        unit.comm->queued -= over && counted;
        return over;
    });
    return code == cudaSuccess ? ncclSuccess
                               : tell(ncclUnhandledCudaError, cudaGetErrorString(code));
}

/* ---- groups ---- */

thread_local int                      depth;
thread_local ncclResult_t             group_error;
thread_local std::vector<work_unit_t> group;

/* The calls of a group took effect: in a moment. */
ncclResult_t end_group(void)
{
    ncclResult_t             code = group_error;
    std::vector<work_unit_t> units;

    units.swap(group);
    group_error = ncclSuccess;
    if (code != ncclSuccess || units.empty()) {
        return code;
    }
    for (work_unit_t &unit : units) {
        unit.comm->busy = BUSY_POLLS;
        unit.comm->deferred.push_back(unit);
    }
    return ncclInProgress;
}

} // namespace

/* The handle. */
struct ncclComm {
    std::shared_ptr<state_t> state;
};

namespace
{

ncclResult_t check_ready(ncclComm_t comm)
{
    if (comm == NULL) {
        return tell(ncclInvalidArgument, "comm argument is NULL");
    }
    if (comm->state->error != ncclSuccess) {
        return tell(comm->state->error, last_error);
    }
    if (!comm->state->met || comm->state->busy > 0 || comm->state->finalizing) {
        return tell(ncclInvalidArgument,
                    "Attempt to use communicator before the previous operation "
                    "returned ncclSuccess");
    }
    return ncclSuccess;
}

ncclResult_t add(ncclComm_t comm, cudaStream_t stream, ncclDataType_t type, op_t op)
{
    ncclResult_t code = check_ready(comm);

    if (code == ncclSuccess &&
        (op.bytes > INT_MAX / 2 || (type != ncclInt8 && type != ncclFloat32))) {
        code =
            tell(ncclInvalidArgument, "the emulator: expected less than 1 GiB of bytes or floats");
    }
    if (code == ncclSuccess && (op.peer < 0 || op.peer >= comm->state->size)) {
        code =
            tell(ncclInvalidArgument, "peer " + std::to_string(op.peer) + " is not in the range");
    }
    if (code != ncclSuccess) {
        group_error = depth > 0 ? code : group_error;
        return code;
    }
    for (work_unit_t &unit : group) {
        if (unit.comm == comm->state && unit.stream == stream) {
            unit.ops.push_back(op);
            return depth > 0 ? ncclSuccess : end_group();
        }
    }
    group.push_back({comm->state, stream, {op}});
    return depth > 0 ? ncclSuccess : end_group();
}

/* A collective outside a group is a group of its own. */
ncclResult_t add_collective(ncclComm_t comm, cudaStream_t stream, ncclDataType_t type, op_t op)
{
    ncclGroupStart();
    (void)add(comm, stream, type, op);
    return ncclGroupEnd();
}

size_t bytes_of(size_t count, ncclDataType_t type)
{
    return count * (type == ncclFloat32 ? sizeof(float) : 1);
}

} // namespace

/* ---- for tests ---- */

void wtn_emulator_nccl_fail(wtn_emulator_nccl_fault_t wanted, int count)
{
    read_environment();
    fault    = wanted;
    fault_in = count;
}

void wtn_emulator_nccl_set_version(int wanted)
{
    version = wanted;
}

/* ---- the library's calls ---- */

ncclResult_t ncclGetVersion(int *out)
{
    *out = version;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t code)
{
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "NCCL operation in progress"};

    return code <= ncclInProgress ? texts[code] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return last_error.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *out)
{
    static int serial;
    identity_t id = {ID_MAGIC, world_rank(), serial++};

    memset(out, 0, sizeof(*out));
    memcpy(out, &id, sizeof(id));
    return ncclSuccess;
}

static ncclResult_t check_config(const ncclConfig_t *config)
{
    ncclConfig_t expected = NCCL_CONFIG_INITIALIZER;

    if (config == NULL || config->size != expected.size || config->magic != expected.magic ||
        config->version != expected.version) {
        return tell(ncclInvalidArgument, "ncclConfig_t argument not initialized via "
                                         "NCCL_CONFIG_INITIALIZER");
    }
    if (config->blocking != 0) {
        return tell(ncclInvalidUsage, "the emulator: non-blocking communicators only");
    }
    if (config->maxCTAs != NCCL_CONFIG_UNDEF_INT &&
        (config->maxCTAs < 1 || config->minCTAs > config->maxCTAs)) {
        return tell(ncclInvalidArgument, "Invalid config maxCTAs or minCTAs");
    }
    return ncclSuccess;
}

/* As NCCL, the environment's name of the host is read once. */
static void fill_hello(hello_t *hello, int rank)
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

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int size, ncclUniqueId unique, int rank,
                                    ncclConfig_t *config)
{
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);
    ncclResult_t                          code = check_config(config);
    wtn_emulator_nccl_fault_t             drawn;
    identity_t                            id;

    memcpy(&id, &unique, sizeof(id));
    if (code == ncclSuccess && (id.magic != ID_MAGIC || rank < 0 || rank >= size ||
                                (rank == 0) != (id.world == world_rank()))) {
        code = tell(ncclInvalidArgument, "the emulator: rank 0 makes the id and no other");
    }
    if (code != ncclSuccess) {
        return code;
    }
    *out              = new ncclComm{std::make_shared<state_t>()};
    state_t &comm     = *(*out)->state;
    comm.rank         = rank;
    comm.size         = size;
    comm.root         = id.world;
    comm.tag          = TAG_BASE + (id.world * 4096 + id.serial % 4096) * TAG_COUNT;
    comm.met          = false;
    drawn             = draw_fault(true);
    comm.init_stalled = drawn == WTN_EMULATOR_NCCL_INIT_STALL;
    if (drawn == WTN_EMULATOR_NCCL_INIT_SLEEP) {
        (void)sleep(3);
    }
    fill_hello(&comm.hello, rank);
    return ncclInProgress;
}

/* Here is where time passes for a communicator. */
ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t *out)
{
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);
    state_t                              &comm = *handle->state;

    if (!comm.met && comm.error == ncclSuccess) {
        advance_meeting(comm);
    }
    if (comm.busy > 0 && --comm.busy == 0) {
        std::vector<work_unit_t> units;

        units.swap(comm.deferred);
        for (const work_unit_t &unit : units) {
            ncclResult_t code = queue_unit(unit);
            if (code != ncclSuccess) {
                fail(comm, code, last_error);
            }
        }
    }
    if (comm.finalizing && comm.queued > 0) {
        (void)emulator::run_round();
    }
    *out = comm.error != ncclSuccess                                            ? comm.error
           : !comm.met || comm.busy > 0 || (comm.finalizing && comm.queued > 0) ? ncclInProgress
                                                                                : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);
    ncclResult_t                          code = check_ready(comm);

    if (code == ncclSuccess) {
        comm->state->finalizing = true;
        code                    = ncclInProgress;
    }
    return code;
}

/* These two are called by other threads than the one that calls MPI. */
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);

    delete comm; /* the work queued has its own share of the state */
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);

    comm->state->aborted = true;
    comm->state->deferred.clear();
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void)
{
    depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);

    if (depth == 0) {
        return tell(ncclInvalidUsage, "ncclGroupEnd: not in a group call");
    }
    if (--depth > 0) {
        return ncclSuccess;
    }
    read_environment();
    if (fault == WTN_EMULATOR_NCCL_REFUSE && !group.empty() &&
        draw_fault(false) == WTN_EMULATOR_NCCL_REFUSE) {
        group.clear();
        group_error = ncclSuccess;
        return tell(ncclSystemError, "the emulator: a failing call was asked for");
    }
    return end_group();
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream)
{
    return add(comm, stream, type,
               {MESSAGE, true, (const char *)from, NULL, bytes_of(count, type), peer});
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    return add(comm, stream, type, {MESSAGE, false, NULL, (char *)to, bytes_of(count, type), peer});
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    if (op != ncclSum || type != ncclFloat32) {
        return tell(ncclInvalidArgument, "the emulator: sums of floats only");
    }
    return add_collective(comm, stream, type,
                          {ALL_REDUCE, false, (const char *)from, (char *)to, bytes_of(count, type),
                           0});
}

ncclResult_t ncclReduceScatter(const void *from, void *to, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    if (op != ncclSum || type != ncclFloat32) {
        return tell(ncclInvalidArgument, "the emulator: sums of floats only");
    }
    return add_collective(comm, stream, type,
                          {REDUCE_SCATTER, false, (const char *)from, (char *)to,
                           bytes_of(count, type), 0});
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    return add_collective(comm, stream, type,
                          {ALL_GATHER, false, (const char *)from, (char *)to, bytes_of(count, type),
                           0});
}

ncclResult_t ncclAlltoAll(const void *from, void *to, size_t count, ncclDataType_t type,
                          ncclComm_t comm, cudaStream_t stream)
{
    return add_collective(comm, stream, type,
                          {ALL_TO_ALL, false, (const char *)from, (char *)to, bytes_of(count, type),
                           0});
}

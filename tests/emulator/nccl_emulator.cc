/* NCCL over MPI, for tests without GPUs: its calls.
 *
 * Exchanges are work of the emulated streams: polled, never blocking, so that a peer that stalls
 * leaves a stream unfinished as it would on a device. Sums are made by ascending rank.
 *
 * As NCCL: the work of a group is queued as one, by a thread behind the caller's back (here: when
 * ncclCommGetAsyncError is asked, which alone calls MPI); until then no other call is allowed, and
 * those of a blocking communicator do not return: another thread must ask. Only ncclCommSplit makes
 * such a one. A message of no bytes is one nevertheless. */
#include <limits.h>
#include <sched.h>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/emulator/nccl_state.h"
#include "tests/emulator/state.h"
#include "tests/emulator/stream.h"

/* The handle. */
struct ncclComm {
    std::shared_ptr<emulator::nccl::state_t> state;
};

namespace emulator
{
namespace nccl
{

/* Never destroyed: a thread left to itself may outlive what is at exit. */
static std::set<ncclComm_t> &handles    = *new std::set<ncclComm_t>;
static std::string          &last_error = *new std::string;

static ncclComm_t make_handle(const std::shared_ptr<state_t> &state)
{
    return *handles.insert(new ncclComm{state}).first;
}

static void free_handle(ncclComm_t comm)
{
    handles.erase(comm);
    delete comm; /* the work queued has its own share of the state */
}

static const int BUSY_POLLS = 2; /* of ncclCommGetAsyncError, until a call has had its effect */

/* ---- what tests want ---- */

static wtn_emulator_nccl_fault_t fault;
static int                       fault_in; /* counts down to 0 */
static int                       version = NCCL_VERSION_CODE;

int world_rank(void)
{
    int rank;

    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

static void read_environment(void)
{
    static bool       done;
    static const char names[][12] = {"none", "stall", "error",      "refuse",    "hang",
                                     "deaf", "late",  "init_stall", "init_sleep"};
    const char       *text        = getenv("WTN_EMULATOR_NCCL");
    char              name[12]    = "";
    int               count = 1, rank = -1;

    if (done || text == NULL || *text == '\0') {
        return;
    }
    done = true;
    if (sscanf(text, "%11[a-z_]:%d@%d", name, &count, &rank) >= 1 && rank >= 0 &&
        rank != world_rank()) {
        return;
    }
    for (size_t i = 1; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i], name) == 0) {
            fault    = (wtn_emulator_nccl_fault_t)i;
            fault_in = count;
            return;
        }
    }
    complain(
        "WTN_EMULATOR_NCCL",
        "stall, error, refuse, hang, deaf, late, init_stall or init_sleep, then :COUNT and @RANK",
        text);
}

static moment_t moment_of(wtn_emulator_nccl_fault_t wanted)
{
    return wanted >= WTN_EMULATOR_NCCL_INIT_STALL ? AT_INIT
           : wanted >= WTN_EMULATOR_NCCL_REFUSE   ? AT_CALL
                                                  : AT_RUN;
}

wtn_emulator_nccl_fault_t draw_fault(moment_t moment)
{
    read_environment();
    if (fault == WTN_EMULATOR_NCCL_NONE || moment_of(fault) != moment || --fault_in != 0) {
        return WTN_EMULATOR_NCCL_NONE;
    }
    wtn_emulator_nccl_fault_t drawn = fault;
    fault                           = WTN_EMULATOR_NCCL_NONE;
    return drawn;
}

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

/* ---- groups ---- */

static thread_local int                      depth;
static thread_local ncclResult_t             group_error;
static thread_local std::vector<work_unit_t> group;

/* A blocking call waits until others have done what it is for. Under the lock, held once. */
static ncclResult_t block(const std::shared_ptr<state_t> &comm, bool (*is_done)(const state_t &))
{
    while (!comm->aborted && comm->error == ncclSuccess && !is_done(*comm)) {
        emulator::lock.unlock();
        (void)sched_yield();
        emulator::lock.lock();
    }
    return comm->aborted ? tell(ncclInternalError, "the emulator: aborted") : comm->error;
}

static bool is_queued(const state_t &comm)
{
    return comm.busy == 0;
}

static bool never(const state_t &comm)
{
    (void)comm;
    return false;
}

/* The calls of a group took effect: in a moment. */
static ncclResult_t end_group(wtn_emulator_nccl_fault_t drawn)
{
    ncclResult_t             code = group_error;
    std::vector<work_unit_t> units;

    units.swap(group);
    group_error = ncclSuccess;
    if (code != ncclSuccess || units.empty()) {
        return code;
    }
    if (drawn == WTN_EMULATOR_NCCL_HANG || drawn == WTN_EMULATOR_NCCL_DEAF) {
        code = block(units[0].comm, never);
        if (drawn == WTN_EMULATOR_NCCL_DEAF) {
            emulator::lock.unlock();
            (void)sleep(20);
            emulator::lock.lock();
        }
        return code;
    }
    for (work_unit_t &unit : units) {
        unit.comm->busy = BUSY_POLLS;
        unit.comm->deferred.push_back(unit);
    }
    for (work_unit_t &unit : units) {
        if (unit.comm->blocking && code == ncclSuccess) {
            code = block(unit.comm, is_queued);
        }
    }
    return units[0].comm->blocking ? code : ncclInProgress;
}

static ncclResult_t check_ready(ncclComm_t comm)
{
    if (comm == NULL) {
        return tell(ncclInvalidArgument, "comm argument is NULL");
    }
    if (handles.count(comm) == 0) {
        complain("ncclComm_t", "one that lives", "one that was destroyed");
    }
    if (comm->state->error != ncclSuccess) {
        return tell(comm->state->error, last_error);
    }
    if (!comm->state->met || comm->state->busy > 0 || comm->state->finalizing ||
        comm->state->child != NULL) {
        return tell(ncclInvalidArgument,
                    "Attempt to use communicator before the previous operation "
                    "returned ncclSuccess");
    }
    return ncclSuccess;
}

/* Called, and not yet at work. */
static void be_late(void)
{
    bool late;

    {
        std::lock_guard<std::recursive_mutex> hold(emulator::lock);
        late  = fault == WTN_EMULATOR_NCCL_LATE && fault_in == 1;
        fault = late ? WTN_EMULATOR_NCCL_NONE : fault;
    }
    if (late) {
        (void)usleep(300000);
    }
}

/* In a group, as everything that queues. */
static ncclResult_t add(ncclComm_t comm, cudaStream_t stream, ncclDataType_t type, op_t op)
{
    be_late();
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);
    ncclResult_t                          code = check_ready(comm);

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
            return ncclSuccess;
        }
    }
    group.push_back({comm->state, stream, {op}});
    return ncclSuccess;
}

/* A collective outside a group is a group of its own. */
static ncclResult_t add_collective(ncclComm_t comm, cudaStream_t stream, ncclDataType_t type,
                                   op_t op)
{
    ncclGroupStart();
    (void)add(comm, stream, type, op);
    return ncclGroupEnd();
}

static size_t bytes_of(size_t count, ncclDataType_t type)
{
    return count * (type == ncclFloat32 ? sizeof(float) : 1);
}

} // namespace nccl
} // namespace emulator

using namespace emulator;
using namespace emulator::nccl;

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
    if (config->maxCTAs != NCCL_CONFIG_UNDEF_INT &&
        (config->maxCTAs < 1 || config->minCTAs > config->maxCTAs)) {
        return tell(ncclInvalidArgument, "Invalid config maxCTAs or minCTAs");
    }
    return ncclSuccess;
}

static void start_meeting(state_t &comm)
{
    wtn_emulator_nccl_fault_t drawn = draw_fault(AT_INIT);

    comm.met          = false;
    comm.init_stalled = drawn == WTN_EMULATOR_NCCL_INIT_STALL;
    if (drawn == WTN_EMULATOR_NCCL_INIT_SLEEP) {
        (void)sleep(3);
    }
    fill_hello(&comm.hello, comm.rank);
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int size, ncclUniqueId unique, int rank,
                                    ncclConfig_t *config)
{
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);
    ncclResult_t                          code = check_config(config);
    identity_t                            id;

    memcpy(&id, &unique, sizeof(id));
    if (code == ncclSuccess && config->blocking != 0) {
        code = tell(ncclInvalidUsage, "the emulator: blocking communicators are split off");
    }
    if (code == ncclSuccess && (id.magic != ID_MAGIC || rank < 0 || rank >= size ||
                                (rank == 0) != (id.world == world_rank()))) {
        code = tell(ncclInvalidArgument, "the emulator: rank 0 makes the id and no other");
    }
    if (code != ncclSuccess) {
        return code;
    }
    *out          = make_handle(std::make_shared<state_t>());
    state_t &comm = *(*out)->state;
    comm.rank     = rank;
    comm.size     = size;
    comm.root     = id.world;
    comm.tag      = TAG_BASE + (id.world * 4096 + id.serial % 4096) * 2 * TAG_COUNT;
    start_meeting(comm);
    return ncclInProgress;
}

/* Of the same ranks in the same order. */
ncclResult_t ncclCommSplit(ncclComm_t parent, int color, int key, ncclComm_t *out,
                           ncclConfig_t *config)
{
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);
    ncclResult_t                          code = check_ready(parent);

    if (code == ncclSuccess) {
        code = check_config(config);
    }
    if (code == ncclSuccess && (color != 0 || key != parent->state->rank)) {
        code = tell(ncclInvalidArgument, "the emulator: splits off all ranks in their order");
    }
    if (code != ncclSuccess) {
        return code;
    }
    std::shared_ptr<state_t> child = std::make_shared<state_t>();

    *out                     = NULL;
    child->rank              = parent->state->rank;
    child->size              = parent->state->size;
    child->root              = parent->state->root;
    child->tag               = parent->state->tag + TAG_COUNT;
    child->blocking          = config->blocking == 1;
    parent->state->child     = child;
    parent->state->child_out = out;
    start_meeting(*child);
    return ncclSuccess; /* as NCCL, which only ncclCommGetAsyncError tells the truth */
}

static void advance_split(state_t &comm)
{
    advance_meeting(*comm.child);
    if (comm.child->error != ncclSuccess) {
        fail(comm, comm.child->error, last_error);
    } else if (comm.child->met) {
        *comm.child_out = make_handle(comm.child);
        comm.child.reset();
    }
}

static bool is_finished(const state_t &comm)
{
    return comm.queued == 0;
}

static bool is_settled(const state_t &comm)
{
    return comm.met && comm.busy == 0 && comm.child == NULL &&
           !(comm.finalizing && comm.queued > 0);
}

/* Here is where time passes for a communicator. */
ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t *out)
{
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);
    state_t                              &comm = *handle->state;

    if (!comm.met && comm.error == ncclSuccess) {
        advance_meeting(comm);
    }
    if (comm.child != NULL && comm.error == ncclSuccess) {
        advance_split(comm);
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
    *out = comm.error != ncclSuccess           ? comm.error
           : is_settled(comm) || comm.blocking ? ncclSuccess
                                               : ncclInProgress;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);
    ncclResult_t                          code = check_ready(comm);

    if (code == ncclSuccess) {
        std::shared_ptr<state_t> state = comm->state;

        state->finalizing = true;
        code              = state->blocking ? block(state, is_finished) : ncclInProgress;
    }
    return code;
}

/* These two are called by other threads than the one that calls MPI. */
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);

    free_handle(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    std::lock_guard<std::recursive_mutex> hold(emulator::lock);

    comm->state->aborted = true;
    comm->state->deferred.clear();
    comm->state->child.reset();
    free_handle(comm);
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
    wtn_emulator_nccl_fault_t drawn = group.empty() ? WTN_EMULATOR_NCCL_NONE : draw_fault(AT_CALL);
    if (drawn == WTN_EMULATOR_NCCL_REFUSE) {
        group.clear();
        group_error = ncclSuccess;
        return tell(ncclSystemError, "the emulator: a failing call was asked for");
    }
    return end_group(drawn);
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

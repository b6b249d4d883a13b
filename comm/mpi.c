/* The mpi transport: non-blocking sends and receives of bytes on a communicator of our own. */
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/mpi.h"
#include "core/error.h"
#include "core/util.h"

/* MPI counts are int: larger messages are made of blocks of this size and a rest. */
#define BLOCK_BYTES ((size_t)1 << 20)

#define TEST_MAX 64 /* requests in one call of MPI_Testsome */

typedef struct mpi_state {
    MPI_Comm comm;
    bool     serialize; /* MPI was started with less than MPI_THREAD_MULTIPLE */
} mpi_state_t;

_Static_assert(sizeof(MPI_Request) <= sizeof(void *), "a request must fit a pointer");

/* MPI is one per process: without MPI_THREAD_MULTIPLE our own threads take turns. */
static pthread_mutex_t mpi_mutex = PTHREAD_MUTEX_INITIALIZER;

static void enter(const mpi_state_t *state)
{
    if (state->serialize) {
        (void)pthread_mutex_lock(&mpi_mutex);
    }
}

static void leave(const mpi_state_t *state)
{
    if (state->serialize) {
        (void)pthread_mutex_unlock(&mpi_mutex);
    }
}

/* Like WTN_TRY for MPI: keep the foreign text. */
static witan_status_t check(int code, const char *call)
{
    char text[MPI_MAX_ERROR_STRING];
    int  length = 0;

    if (code == MPI_SUCCESS) {
        return WITAN_OK;
    }
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) {
        (void)snprintf(text, sizeof(text), "code %d", code);
    }
    return WTN_ERROR(WITAN_E_TRANSPORT, "%s: %.300s", call, text);
}

static bool probe(char *reason, size_t reason_bytes)
{
    int initialized = 0, finalized = 0;

    (void)MPI_Initialized(&initialized);
    (void)MPI_Finalized(&finalized);
    if (finalized) {
        (void)snprintf(reason, reason_bytes, "MPI is finalised");
    } else if (!initialized) {
        (void)snprintf(reason, reason_bytes, "MPI is not initialised (not started by mpirun)");
    }
    return initialized && !finalized;
}

/* A datatype for `bytes` > INT_MAX: whole blocks, then the rest. Freed by the caller after posting;
 * MPI keeps it until the message is done. */
static witan_status_t make_large_type(size_t bytes, MPI_Datatype *type)
{
    MPI_Datatype   block       = MPI_DATATYPE_NULL;
    size_t         block_count = bytes / BLOCK_BYTES, rest = bytes % BLOCK_BYTES;
    witan_status_t status;

    if (block_count > INT_MAX) {
        return WTN_ERROR(WITAN_E_TRANSPORT, "mpi: a message of %zu bytes", bytes);
    }
    WTN_TRY(check(MPI_Type_contiguous((int)BLOCK_BYTES, MPI_BYTE, &block), "MPI_Type_contiguous"));
    {
        int          lengths[2] = {(int)block_count, (int)rest};
        MPI_Aint     offsets[2] = {0, (MPI_Aint)(block_count * BLOCK_BYTES)};
        MPI_Datatype types[2]   = {block, MPI_BYTE};

        WTN_TRY(check(MPI_Type_create_struct(2, lengths, offsets, types, type),
                      "MPI_Type_create_struct"));
    }
    WTN_TRY(check(MPI_Type_commit(type), "MPI_Type_commit"));

fail:
    if (block != MPI_DATATYPE_NULL) {
        (void)MPI_Type_free(&block);
    }
    return status;
}

static witan_status_t post(wtn_comm_t *comm, wtn_request_t *request, void *data, int32_t channel,
                           wtn_tag_t tag)
{
    mpi_state_t   *state     = comm->state;
    MPI_Request    handle    = MPI_REQUEST_NULL;
    MPI_Datatype   type      = MPI_BYTE;
    bool           large     = request->bytes > INT_MAX;
    int            count     = large ? 1 : (int)request->bytes;
    int            tag_value = channel * WTN_TAG_COUNT + (int)tag;
    witan_status_t status;

    enter(state);
    if (large) {
        WTN_TRY(make_large_type(request->bytes, &type));
    }
    if (request->is_send) {
        WTN_TRY(check(MPI_Isend(data, count, type, request->peer, tag_value, state->comm, &handle),
                      "MPI_Isend"));
    } else {
        WTN_TRY(check(MPI_Irecv(data, count, type, request->peer, tag_value, state->comm, &handle),
                      "MPI_Irecv"));
    }
    memcpy(&request->handle, &handle, sizeof(handle));

fail:
    if (large && type != MPI_BYTE) {
        (void)MPI_Type_free(&type);
    }
    leave(state);
    return status;
}

/* A receive is over: is it what was announced? */
static witan_status_t check_received(wtn_request_t *request, MPI_Status *mpi_status)
{
    MPI_Count      bytes = 0;
    witan_status_t status =
        check(MPI_Get_elements_x(mpi_status, MPI_BYTE, &bytes), "MPI_Get_elements_x");

    if (status != WITAN_OK) {
        return status;
    }
    request->bytes = (size_t)bytes;
    if (request->expected_bytes != SIZE_MAX && request->bytes != request->expected_bytes) {
        return WTN_ERROR(WITAN_E_MISMATCH, "rank %d sent %zu bytes, expected %zu",
                         (int)request->peer, request->bytes, request->expected_bytes);
    }
    return WITAN_OK;
}

/* A request that MPI has ended and freed. */
static witan_status_t take_ended(wtn_request_t *request, MPI_Status *mpi_status)
{
    int class = MPI_SUCCESS;
    witan_status_t status;

    request->active = false;
    if (mpi_status->MPI_ERROR == MPI_SUCCESS) {
        return request->is_send ? WITAN_OK : check_received(request, mpi_status);
    }
    (void)MPI_Error_class(mpi_status->MPI_ERROR, &class);
    if (class == MPI_ERR_TRUNCATE) {
        return WTN_ERROR(WITAN_E_MISMATCH, "rank %d sent more than the expected %zu bytes",
                         (int)request->peer, request->bytes);
    }
    status = check(mpi_status->MPI_ERROR, "MPI_Testsome");
    return wtn_error_prefix(status, "rank %d", (int)request->peer);
}

/* Up to TEST_MAX active requests in one call: an idle call of MPI may give the core away (Open MPI
 * yields where there are more ranks than cores), so each costs a turn of all the other ranks. */
static witan_status_t test_some(wtn_request_t *const *requests, int count, size_t *active_count)
{
    MPI_Request    handles[TEST_MAX];
    MPI_Status     statuses[TEST_MAX];
    int            indices[TEST_MAX], ended = 0, code;
    witan_status_t first = WITAN_OK, status;

    for (int i = 0; i < count; i++) {
        memcpy(&handles[i], &requests[i]->handle, sizeof(handles[i]));
        statuses[i].MPI_ERROR = MPI_SUCCESS; /* set only where there is an error */
    }
    code  = MPI_Testsome(count, handles, &ended, indices, statuses);
    ended = ended == MPI_UNDEFINED ? 0 : ended;
    for (int i = 0; i < ended; i++) {
        status = take_ended(requests[indices[i]], &statuses[i]);
        first  = first == WITAN_OK ? status : first;
    }
    *active_count += (size_t)(count - ended);
    return first == WITAN_OK && ended == 0 ? check(code, "MPI_Testsome") : first;
}

static witan_status_t test(wtn_comm_t *comm, wtn_request_t *requests, size_t count,
                           size_t *active_count)
{
    mpi_state_t   *state = comm->state;
    wtn_request_t *active[TEST_MAX];
    int            used  = 0;
    witan_status_t first = WITAN_OK;

    *active_count = 0;
    enter(state);
    for (size_t i = 0; i < count && first == WITAN_OK; i++) {
        if (requests[i].active) {
            active[used++] = &requests[i];
        }
        if (used > 0 && (used == TEST_MAX || i + 1 == count)) {
            first = test_some(active, used, active_count);
            used  = 0;
        }
    }
    leave(state);
    return first;
}

static bool has_ended(wtn_request_t *request)
{
    MPI_Request handle;
    int         done = 0;

    memcpy(&handle, &request->handle, sizeof(handle));
    if (MPI_Test(&handle, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) {
        return true;
    }
    memcpy(&request->handle, &handle, sizeof(handle));
    return done;
}

/* A receive that no message has met yet is over at once when cancelled; any other request is when
 * the test says so. */
static bool cancel_one(wtn_request_t *request)
{
    MPI_Request handle;

    memcpy(&handle, &request->handle, sizeof(handle));
    if (!request->is_send) {
        (void)MPI_Cancel(&handle);
    }
    return has_ended(request);
}

static size_t cancel(wtn_comm_t *comm, wtn_request_t *requests, size_t count)
{
    mpi_state_t *state     = comm->state;
    int          finalized = 0;
    size_t       left      = 0;

    (void)MPI_Finalized(&finalized);
    enter(state);
    for (size_t i = 0; i < count; i++) {
        if (requests[i].active) { /* after MPI's end nobody writes */
            requests[i].active = !finalized && !cancel_one(&requests[i]);
            left += requests[i].active;
        }
    }
    leave(state);
    return left;
}

static bool is_over(wtn_request_t *request)
{
    mpi_state_t state     = {0};
    int         finalized = 0, provided = 0;
    bool        ended;

    (void)MPI_Finalized(&finalized);
    if (finalized) {
        return true;
    }
    state.serialize = MPI_Query_thread(&provided) != MPI_SUCCESS || provided != MPI_THREAD_MULTIPLE;
    enter(&state);
    ended = has_ended(request);
    leave(&state);
    return ended;
}

static bool find(wtn_comm_t *comm, int32_t channel, wtn_tag_t tag, int32_t *peer, size_t *bytes)
{
    mpi_state_t *state = comm->state;
    MPI_Status   mpi_status;
    MPI_Count    count     = 0;
    int          finalized = 0, found = 0;

    (void)MPI_Finalized(&finalized);
    if (finalized) {
        return false;
    }
    enter(state);
    if (MPI_Iprobe(MPI_ANY_SOURCE, channel * WTN_TAG_COUNT + (int)tag, state->comm, &found,
                   &mpi_status) != MPI_SUCCESS ||
        (found && MPI_Get_elements_x(&mpi_status, MPI_BYTE, &count) != MPI_SUCCESS)) {
        found = 0;
    }
    leave(state);
    if (found) {
        *peer  = mpi_status.MPI_SOURCE;
        *bytes = (size_t)count;
    }
    return found;
}

static void close_mpi(wtn_comm_t *comm)
{
    mpi_state_t *state     = comm->state;
    int          finalized = 0;

    if (state == NULL) {
        return;
    }
    (void)MPI_Finalized(&finalized);
    if (!finalized && !comm->broken && state->comm != MPI_COMM_NULL) {
        (void)MPI_Comm_free(&state->comm); /* with a lost peer it could wait for ever */
    }
    free(state);
    comm->state = NULL;
}

/* MPI_Comm_dup that ends: MPI_Comm_idup and a deadline. */
static witan_status_t duplicate(wtn_comm_t *comm, mpi_state_t *state, MPI_Comm parent)
{
    uint64_t       deadline = wtn_deadline(comm);
    MPI_Request    request;
    int            done = 0;
    witan_status_t status;

    WTN_TRY(check(MPI_Comm_idup(parent, &state->comm, &request), "MPI_Comm_idup"));
    while (!done) {
        WTN_TRY(check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Comm_idup"));
        if (!done && wtn_now_ns() >= deadline) {
            state->comm = MPI_COMM_NULL; /* MPI may still write it when the peers arrive: keep it */
            return WTN_ERROR(WITAN_E_TIMEOUT, "group: not all %d ranks arrived within %g s",
                             (int)comm->size, (double)comm->timeout_ns / 1e9);
        }
        (void)sched_yield();
    }
    WTN_TRY(
        check(MPI_Comm_set_errhandler(state->comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));

fail:
    return status;
}

/* A channel's tags end at (channel + 1) * WTN_TAG_COUNT - 1. */
static witan_status_t find_channel_max(wtn_comm_t *comm)
{
    int           *tag_max = NULL, found = 0;
    witan_status_t status =
        check(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, (void *)&tag_max, &found),
              "MPI_TAG_UB");

    comm->channel_max = (found ? *tag_max : 32767) / WTN_TAG_COUNT - 1; /* MPI's own minimum */
    return status;
}

witan_status_t wtn_mpi_open(wtn_comm_t *comm, MPI_Comm parent)
{
    char           reason[128];
    int            rank, size, inter, provided;
    mpi_state_t   *state;
    witan_status_t status;

    if (!probe(reason, sizeof(reason))) {
        return WTN_ERROR(WITAN_E_TRANSPORT, "mpi: %s", reason);
    }
    if (parent == MPI_COMM_NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "group: the communicator is MPI_COMM_NULL");
    }
    WTN_TRY(check(MPI_Comm_test_inter(parent, &inter), "MPI_Comm_test_inter"));
    if (inter) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "group: an intercommunicator");
    }
    WTN_TRY(check(MPI_Comm_rank(parent, &rank), "MPI_Comm_rank"));
    WTN_TRY(check(MPI_Comm_size(parent, &size), "MPI_Comm_size"));
    WTN_TRY(check(MPI_Query_thread(&provided), "MPI_Query_thread"));
    WTN_TRY(find_channel_max(comm));
    state = calloc(1, sizeof(*state));
    if (state == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "mpi: %zu bytes", sizeof(*state));
    }
    comm->transport  = &wtn_transport_mpi;
    comm->rank       = rank;
    comm->size       = size;
    comm->state      = state;
    state->serialize = provided != MPI_THREAD_MULTIPLE;
    state->comm      = MPI_COMM_NULL;
    status           = duplicate(comm, state, parent);
    if (status != WITAN_OK) {
        comm->broken = true;
        comm->state  = NULL; /* not freed: an unfinished MPI_Comm_idup may still write there */
    }

fail:
    return status;
}

const wtn_transport_t wtn_transport_mpi = {
    .name    = "mpi",
    .probe   = probe,
    .post    = post,
    .test    = test,
    .cancel  = cancel,
    .is_over = is_over,
    .find    = find,
    .close   = close_mpi,
};

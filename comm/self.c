/* The self transport: one rank, no peers, no MPI. */
#include "comm/comm.h"
#include "core/error.h"

static bool probe(char *reason, size_t reason_bytes)
{
    if (reason_bytes > 0) {
        reason[0] = '\0';
    }
    return true;
}

static witan_status_t post(wtn_comm_t *comm, wtn_request_t *request, void *data, int32_t channel,
                           wtn_tag_t tag)
{
    (void)comm;
    (void)data;
    (void)channel;
    (void)tag;
    return WTN_ERROR(WITAN_E_INTERNAL, "self: a message to rank %d of a group of one",
                     (int)request->peer);
}

static witan_status_t test(wtn_comm_t *comm, wtn_request_t *requests, size_t count,
                           size_t *active_count)
{
    (void)comm;
    (void)requests;
    (void)count;
    *active_count = 0;
    return WITAN_OK;
}

static size_t cancel(wtn_comm_t *comm, wtn_request_t *requests, size_t count)
{
    (void)comm;
    (void)requests;
    (void)count;
    return 0;
}

static bool is_over(wtn_request_t *request)
{
    (void)request;
    return true;
}

static bool find(wtn_comm_t *comm, int32_t channel, wtn_tag_t tag, int32_t *peer, size_t *bytes)
{
    (void)comm;
    (void)channel;
    (void)tag;
    (void)peer;
    (void)bytes;
    return false;
}

static void close_self(wtn_comm_t *comm)
{
    (void)comm;
}

const wtn_transport_t wtn_transport_self = {
    .name    = "self",
    .probe   = probe,
    .post    = post,
    .test    = test,
    .cancel  = cancel,
    .is_over = is_over,
    .find    = find,
    .close   = close_self,
};

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "launcher/bench_comm.h"

static witan_status_t check(int code, const char *call)
{
    char text[MPI_MAX_ERROR_STRING];
    int  length = 0;

    if (code == MPI_SUCCESS) {
        return WITAN_OK;
    }
    text[0] = '\0';
    (void)MPI_Error_string(code, text, &length);
    return WTN_ERROR(WITAN_E_TRANSPORT, "%s: %.300s", call, text);
}

/* Counts and offsets of one side; the rows of all ranks, or -1 if MPI cannot count them. */
static int64_t lay_out(int *counts, int *offsets, int32_t ep, const int64_t *rows, int32_t step)
{
    int64_t total = 0;

    for (int32_t i = 0; i < ep; i++) {
        offsets[i] = (int)total;
        counts[i]  = (int)rows[(size_t)i * (size_t)step];
        total += rows[(size_t)i * (size_t)step];
        if (total > INT_MAX) {
            return -1;
        }
    }
    return total;
}

witan_status_t wtn_alltoallv_make(wtn_alltoallv_t *raw, int32_t ep, size_t row_bytes,
                                  const int64_t *send, int32_t send_step, const int64_t *recv,
                                  int32_t recv_step)
{
    int64_t        sent, received;
    size_t         bytes;
    witan_status_t status;

    *raw        = (wtn_alltoallv_t){.row = MPI_DATATYPE_NULL};
    raw->counts = calloc(4 * (size_t)ep, sizeof(*raw->counts));
    if (raw->counts == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "MPI_Alltoallv: %d ranks", (int)ep);
    }
    sent     = lay_out(raw->counts, raw->counts + ep, ep, send, send_step);
    received = lay_out(raw->counts + 2 * ep, raw->counts + 3 * ep, ep, recv, recv_step);
    if (sent < 0 || received < 0 || row_bytes > INT_MAX) {
        return WTN_ERROR(WITAN_E_UNSUPPORTED, "MPI_Alltoallv cannot count rows beyond %d", INT_MAX);
    }
    raw->send = wtn_mul((size_t)sent + 1, row_bytes, &bytes) ? wtn_alloc(bytes) : NULL;
    raw->recv = wtn_mul((size_t)received + 1, row_bytes, &bytes) ? wtn_alloc(bytes) : NULL;
    if (raw->send == NULL || raw->recv == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "MPI_Alltoallv: %lld and %lld rows", (long long)sent,
                         (long long)received);
    }
    /* Not zeros, and every page is there before the clock starts. */
    memset(raw->send, 0x5a, ((size_t)sent + 1) * row_bytes);
    memset(raw->recv, 0xa5, ((size_t)received + 1) * row_bytes);
    /* Rows, not bytes: offsets are ints. Without gaps they cost MPI no more than bytes. */
    WTN_TRY(check(MPI_Type_contiguous((int)row_bytes, MPI_BYTE, &raw->row), "MPI_Type_contiguous"));
    WTN_TRY(check(MPI_Type_commit(&raw->row), "MPI_Type_commit"));

fail:
    return status;
}

void wtn_alltoallv_free(wtn_alltoallv_t *raw)
{
    int finalized = 0;

    (void)MPI_Finalized(&finalized);
    if (raw->row != MPI_DATATYPE_NULL && raw->counts != NULL && !finalized) {
        (void)MPI_Type_free(&raw->row);
    }
    free(raw->counts);
    wtn_free(raw->send);
    wtn_free(raw->recv);
    *raw = (wtn_alltoallv_t){.row = MPI_DATATYPE_NULL};
}

/* The one call of this program that could wait for ever for a peer: it is the yardstick. The ranks
 * have met just before, and a launcher ends them all when one dies. */
witan_status_t wtn_alltoallv_run(const wtn_alltoallv_t *raw, int32_t ep, MPI_Comm comm)
{
    const int *counts = raw->counts;

    return check(MPI_Alltoallv(raw->send, counts, counts + ep, raw->row, raw->recv, counts + 2 * ep,
                               counts + 3 * ep, raw->row, comm),
                 "MPI_Alltoallv");
}

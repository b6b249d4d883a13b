/* Agreement at creation: all ranks learn of any rank's failure and of differing configurations. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "core/error.h"
#include "core/util.h"

/* Of fixed size, so that ranks of different versions still understand each other. */
typedef struct record {
    int32_t  status;
    uint32_t field_count;
    char     text[WTN_ERROR_TEXT_BYTES];
    char     values[WTN_FIELDS_MAX][WTN_FIELD_BYTES];
} record_t;

void wtn_field_set(wtn_field_t *field, const char *name, const char *format, ...)
{
    va_list args;

    memset(field, 0, sizeof(*field));
    field->name = name;
    va_start(args, format);
    (void)vsnprintf(field->value, sizeof(field->value), format, args);
    va_end(args);
}

/* The lowest failing rank speaks for all; a rank with a failure of its own keeps its own text. */
static witan_status_t compare_status(const wtn_comm_t *comm, const record_t *records)
{
    const record_t *mine = &records[comm->rank];

    if (mine->status != WITAN_OK) {
        return WTN_ERROR((witan_status_t)mine->status, "%s", mine->text);
    }
    for (int32_t rank = 0; rank < comm->size; rank++) {
        if (records[rank].status != WITAN_OK) {
            return WTN_ERROR(WITAN_E_PEER, "rank %d: %s", (int)rank, records[rank].text);
        }
    }
    return WITAN_OK;
}

static witan_status_t compare_fields(const wtn_comm_t *comm, const char *scope,
                                     const wtn_field_t *fields, size_t field_count,
                                     const record_t *records)
{
    for (size_t f = 0; f < field_count; f++) {
        for (int32_t rank = 1; rank < comm->size; rank++) {
            if (strcmp(records[0].values[f], records[rank].values[f]) != 0) {
                return WTN_ERROR(WITAN_E_MISMATCH, "%s: %s: %s on rank 0, %s on rank %d", scope,
                                 fields[f].name, records[0].values[f], records[rank].values[f],
                                 (int)rank);
            }
        }
    }
    return WITAN_OK;
}

witan_status_t wtn_agree_on(wtn_comm_t *comm, int32_t channel, const char *scope,
                            witan_status_t status, const wtn_field_t *fields, size_t field_count)
{
    record_t  mine = {.status = (int32_t)status, .field_count = (uint32_t)field_count};
    record_t *records;

    if (comm->size == 1) {
        return status;
    }
    if (field_count > WTN_FIELDS_MAX) {
        return WTN_ERROR(WITAN_E_INTERNAL, "%s: %zu fields", scope, field_count);
    }
    if (status != WITAN_OK) {
        memcpy(mine.text, witan_last_error(), strlen(witan_last_error()) + 1);
    }
    for (size_t f = 0; f < field_count; f++) {
        memcpy(mine.values[f], fields[f].value, WTN_FIELD_BYTES);
    }
    records = malloc((size_t)comm->size * sizeof(*records));
    if (records == NULL) {
        comm->out_of_step = comm->out_of_step || channel == 0; /* the peers gather without us */
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu bytes", scope,
                         (size_t)comm->size * sizeof(*records));
    }
    status = wtn_allgather_on(comm, channel, &mine, sizeof(mine), records, scope);
    if (status == WITAN_OK) {
        for (int32_t rank = 0; rank < comm->size; rank++) {
            records[rank].text[WTN_ERROR_TEXT_BYTES - 1] = '\0';
        }
        status = compare_status(comm, records);
    }
    if (status == WITAN_OK) {
        status = compare_fields(comm, scope, fields, field_count, records);
    }
    free(records);
    return status;
}

witan_status_t wtn_agree(wtn_comm_t *comm, const char *scope, witan_status_t status,
                         const wtn_field_t *fields, size_t field_count)
{
    if (comm->out_of_step && status != WITAN_OK) {
        return status; /* the cause is known already */
    }
    return wtn_agree_on(comm, 0, scope, status, fields, field_count);
}

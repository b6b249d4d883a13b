#include "launcher/placement.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/error.h"
#include "launcher/plan.h"
#include "topology/placement.h"

static witan_status_t choose_row(const wtn_plan_table_t *table, const char *path, int32_t layer,
                                 int64_t *row)
{
    *row = table->row_count == 1 ? 0 : layer;
    if (*row >= 0 && *row < table->row_count) {
        return WITAN_OK;
    }
    if (layer < 0) {
        return WTN_ERROR(WITAN_E_FORMAT, "%s: expected one line, found %" PRId64, path,
                         table->row_count);
    }
    return WTN_ERROR(WITAN_E_FORMAT,
                     "%s: expected one line or one for layer %" PRId32 ", found %" PRId64 " lines",
                     path, layer, table->row_count);
}

/* Slots with these experts on one rank, which tells what no number of ranks can put right. */
static witan_status_t check_slots(const wtn_slots_t *slots, int32_t expert_count)
{
    const wtn_placement_spec_t spec = {.expert_count = expert_count,
                                       .owner_count  = 1,
                                       .slot_count   = slots->count,
                                       .slot_expert  = slots->expert};
    wtn_placement_t            placement;
    witan_status_t             status = wtn_placement_make(&placement, &spec);

    wtn_placement_free(&placement);
    return status;
}

static witan_status_t read_row(const wtn_plan_table_t *table, const char *path, int64_t row,
                               int32_t expert_count, wtn_slots_t *slots)
{
    const float   *values = table->values + (size_t)row * (size_t)table->column_count;
    witan_status_t status;

    slots->count  = table->column_count;
    slots->expert = calloc((size_t)slots->count, sizeof(*slots->expert));
    if (slots->expert == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: %" PRId32 " slots", path, slots->count);
    }
    for (int32_t s = 0; s < slots->count; s++) {
        /* Above 2^24 fp32 would round; no such expert exists. */
        slots->expert[s] = values[s] < (float)(1 << 24) ? (int32_t)values[s] : -1;
        if ((float)slots->expert[s] != values[s]) {
            return WTN_ERROR(WITAN_E_FORMAT,
                             "%s: line %" PRId64 ", number %" PRId32
                             ": expected an expert, 0 to %" PRId32 ", found %g",
                             path, table->lines[row], s + 1, expert_count - 1, (double)values[s]);
        }
    }
    status = check_slots(slots, expert_count);
    return status == WITAN_OK
               ? status
               : wtn_error_prefix(WITAN_E_FORMAT, "%s: line %" PRId64, path, table->lines[row]);
}

static witan_status_t read_file(const char *path, int32_t layer, int32_t expert_count,
                                wtn_slots_t *slots)
{
    wtn_plan_table_t table = {0};
    int64_t          row;
    witan_status_t   status;

    WTN_TRY(wtn_plan_table_read(&table, path));
    WTN_TRY(choose_row(&table, path, layer, &row));
    WTN_TRY(read_row(&table, path, row, expert_count, slots));

fail:
    wtn_plan_table_free(&table);
    return status;
}

witan_status_t wtn_slots_read(wtn_session_t *session, const char *path, int32_t layer,
                              int32_t expert_count, wtn_slots_t *slots)
{
    bool           first = session->rank == 0;
    witan_status_t status;

    *slots = (wtn_slots_t){0};
    status = first ? read_file(path, layer, expert_count, slots) : WITAN_OK;
    WTN_TRY(wtn_session_agree(session, status));
    WTN_TRY(wtn_session_share(session, &slots->count, sizeof(slots->count)));
    if (!first) {
        slots->expert = calloc((size_t)slots->count, sizeof(*slots->expert));
        status        = slots->expert == NULL
                            ? WTN_ERROR(WITAN_E_MEMORY, "%s: %" PRId32 " slots", path, slots->count)
                            : WITAN_OK;
    }
    WTN_TRY(wtn_session_agree(session, status));
    WTN_TRY(wtn_session_share(session, slots->expert, (size_t)slots->count * sizeof(int32_t)));
    return WITAN_OK;

fail:
    wtn_slots_free(slots);
    return status;
}

void wtn_slots_free(wtn_slots_t *slots)
{
    free(slots->expert);
    *slots = (wtn_slots_t){0};
}

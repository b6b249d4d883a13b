/* Fuzz target: tables of numbers as text, and a placement from what was read. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/plan.h"
#include "topology/balance.h"

#define EXPERTS_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void place(const wtn_plan_table_t *table, int64_t row)
{
    int32_t             E = table->column_count, expert[2 * EXPERTS_MAX], owner[2 * EXPERTS_MAX];
    wtn_balance_shape_t shape = {E, E + E / 4, 1 + E / 8, 1 + E % 3, 3 + E % 7};
    int32_t             most  = 0;

    if (wtn_balance(&shape, table->values + row * E, expert, owner) != WITAN_OK) {
        return; /* a sum that is too large */
    }
    for (int32_t s = 0; s < shape.slot_count; s++) {
        if (expert[s] < 0 || expert[s] >= E || owner[s] < most || owner[s] >= shape.rank_count) {
            abort();
        }
        most = owner[s];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    wtn_plan_table_t table;

    if (wtn_plan_table_parse(&table, "F", (const char *)data, size) != WITAN_OK) {
        if (table.values != NULL || table.lines != NULL ||
            strncmp(witan_last_error(), "F: ", 3) != 0) {
            abort();
        }
        return 0;
    }
    for (int64_t i = 0; i < table.row_count * table.column_count; i++) {
        if (!(table.values[i] >= 0) || isinf(table.values[i])) {
            abort();
        }
    }
    for (int64_t row = 0; row < table.row_count && table.column_count <= EXPERTS_MAX; row++) {
        if (table.lines[row] < 1 || (row > 0 && table.lines[row] <= table.lines[row - 1])) {
            abort();
        }
        place(&table, row);
    }
    wtn_plan_table_free(&table);
    return 0;
}

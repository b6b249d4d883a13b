#include "kernels/sort/sort.h"

static int64_t carried(const int64_t *list, int64_t row)
{
    return list == NULL ? row : list[row];
}

witan_status_t wtn_sort_ref(const wtn_sort_args_t *args)
{
    int64_t place = 0;

    for (int32_t e = 0; e < args->expert_count; e++) {
        const int64_t begin = place;

        if (args->row_begin != NULL) {
            args->row_begin[e] = begin;
        }
        for (int64_t i = 0; i < args->row_count; i++) {
            if (args->row_expert[i] != e) {
                continue;
            }
            if (args->order != NULL) {
                args->order[place] = i;
            }
            if (args->sorted_in != NULL) {
                args->sorted_in[place] = carried(args->row_in, i);
            }
            if (args->sorted_out != NULL) {
                args->sorted_out[place] = carried(args->row_out, i);
            }
            place++;
        }
        if (args->row_counts != NULL) {
            args->row_counts[e] = place - begin;
        }
    }
    for (int32_t e = 0; e <= args->expert_count && args->counters != NULL; e++) {
        args->counters[e] = 0;
    }
    if (args->row_begin != NULL) {
        args->row_begin[args->expert_count] = place;
    }
    return WITAN_OK;
}

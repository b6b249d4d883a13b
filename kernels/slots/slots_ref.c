#include <stddef.h>

#include "kernels/slots/slots.h"

witan_status_t wtn_ids_ref(const wtn_ids_args_t *args)
{
    *args->bad_count = 0;
    for (int64_t i = 0; i < args->count; i++) {
        bool good = args->ids[i] >= -1 && args->ids[i] < args->expert_count;

        args->out[i] = good ? args->ids[i] : -1;
        *args->bad_count += !good;
    }
    return WITAN_OK;
}

static int64_t slot_of(const wtn_slots_args_t *args, int64_t place)
{
    const int64_t *begins;
    int64_t        p = 0, r = 0;

    while (place >= args->pair_begin[p + 1]) {
        p++;
    }
    place -= args->pair_begin[p];
    if (args->round_begin == NULL) {
        r = place / args->slot_count;
        return (r * args->peer_count + p) * args->slot_count + place % args->slot_count;
    }
    begins = args->round_begin + p * (args->round_count + 1);
    while (place >= begins[r + 1]) {
        r++;
    }
    return (r * args->peer_count + p) * args->slot_count + place - begins[r];
}

witan_status_t wtn_slots_ref(const wtn_slots_args_t *args)
{
    for (int64_t i = 0; i < args->count; i++) {
        if (args->index[i] >= 0) {
            args->index[i] = slot_of(args, args->index[i]);
        }
    }
    return WITAN_OK;
}

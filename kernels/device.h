/* What a step on a device needs besides the kernels of wtn_backend_t: streams and their marks, and
 * the schedule made by the device. A backend that has none of this computes its steps on the host.
 *
 * A stream is a cudaStream_t, an event a cudaEvent_t, a graph a cudaGraphExec_t: void pointers. */
#ifndef WTN_DEVICE_H
#define WTN_DEVICE_H

#include "kernels/backend.h"
#include "kernels/push/push.h"
#include "kernels/schedule/schedule.h"
#include "kernels/slots/slots.h"

struct wtn_link; /* dispatch/link.h */

typedef struct wtn_device {
    const struct wtn_link *link; /* how devices of several ranks exchange; NULL: they can not */

    /* Make `device` current for the calling thread; -1: device `local_rank` modulo those there are.
     * *taken is the one. */
    witan_status_t (*use)(int32_t device, int32_t local_rank, int32_t *taken);

    /* Its name, capability, size and place in one line; false: there is no such device. */
    bool (*describe)(int32_t device, char *text, size_t text_bytes);

    /* Of the current device. */
    int32_t (*multiprocessors)(void);

    /* Ranges that profilers show. */
    void (*range_begin)(const char *name);
    void (*range_end)(void);

    witan_status_t (*stream_create)(void **out);
    void (*stream_destroy)(void *stream); /* NULL is allowed */
    /* Has all work queued so far passed? Finds what kernels have met. */
    witan_status_t (*stream_query)(void *stream, bool *passed);
    witan_status_t (*stream_is_capturing)(void *stream, bool *capturing);

    /* What `record` queues on `stream`, not run now: a graph, to be launched any number of times.
     * `record` must not wait for the device. */
    witan_status_t (*graph_create)(void **out, witan_status_t (*record)(void *context),
                                   void *context, void *stream);
    void (*graph_destroy)(void *graph); /* NULL is allowed */
    witan_status_t (*graph_launch)(void *graph, void *stream);

    witan_status_t (*event_create)(void **out);
    void (*event_destroy)(void *event); /* NULL is allowed */
    witan_status_t (*event_record)(void *event, void *stream);
    /* Later work of `stream` follows the work the event was recorded behind. */
    witan_status_t (*event_wait)(void *event, void *stream);
    /* Between two passed events. */
    witan_status_t (*event_elapsed)(void *begin, void *end, int64_t *ns);

    /* Every byte of `memory` becomes `value`. */
    witan_status_t (*fill)(void *memory, int value, size_t bytes, void *stream);

    size_t (*schedule_workspace_bytes)(int64_t token_count_max, int32_t expert_count, int32_t topk,
                                       int32_t peer_count);
    witan_status_t (*schedule)(const wtn_schedule_args_t *args);
    witan_status_t (*pack)(const wtn_pack_args_t *args);
    witan_status_t (*list)(const wtn_list_args_t *args);
    witan_status_t (*local)(const wtn_local_args_t *args);
    witan_status_t (*ids)(const wtn_ids_args_t *args);
    witan_status_t (*slots)(const wtn_slots_args_t *args);
    witan_status_t (*push)(const wtn_push_args_t *args);
} wtn_device_t;

extern const wtn_device_t wtn_device_cuda; /* kernels/cuda/device_cuda.c */

#endif

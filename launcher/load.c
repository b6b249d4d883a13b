#include <stdio.h>
#include <unistd.h>

#include "core/error.h"
#include "experts/hf.h"
#include "launcher/load.h"
#include "launcher/placement.h"

typedef struct progress {
    int percent; /* shown last; -1 before the first */
} progress_t;

static void show(void *context, int64_t bytes_done, int64_t bytes_total)
{
    progress_t *progress = context;
    int percent = bytes_total > 0 ? (int)((double)bytes_done * 100.0 / (double)bytes_total) : 100;

    if (percent == progress->percent) {
        return;
    }
    progress->percent = percent;
    (void)fprintf(stderr, "\rloading %3d%% of %.1f MB", percent, (double)bytes_total / 1e6);
}

/* Only rank 0 needs to know the experts of the block. */
static witan_status_t read_slots(wtn_session_t *session, const char *path, const char *model,
                                 int32_t layer_index, wtn_slots_t *slots)
{
    wtn_hf_t      *hf     = NULL;
    witan_status_t status = session->rank == 0 ? wtn_hf_open(&hf, model, layer_index) : WITAN_OK;
    int32_t        count  = hf == NULL ? 0 : wtn_hf_config(hf)->expert_count;

    wtn_hf_close(hf);
    status = wtn_session_agree(session, status);
    return status == WITAN_OK ? wtn_slots_read(session, path, layer_index, count, slots) : status;
}

witan_status_t wtn_load_layer(wtn_session_t *session, const wtn_session_options_t *options,
                              const char *model, int32_t layer_index, witan_layer_t **layer)
{
    progress_t           progress = {-1};
    wtn_slots_t          slots    = {0};
    witan_load_options_t load;
    witan_status_t       status;

    witan_load_options_init(&load);
    if (options->placement != NULL) {
        WTN_TRY(read_slots(session, options->placement, model, layer_index, &slots));
    }
    load.slot_count  = slots.count;
    load.slot_expert = slots.expert;
    load.backend     = options->backend;
    load.kernel_tier = options->kernel_tier;
    if (session->rank == 0 && isatty(STDERR_FILENO) == 1) {
        load.progress         = show;
        load.progress_context = &progress;
    }
    status = witan_layer_load(layer, session->group, model, layer_index, &load);
    if (progress.percent >= 0) {
        (void)fprintf(stderr, "\r\033[K"); /* results and errors start on a clean line */
    }

fail:
    wtn_slots_free(&slots);
    return status;
}

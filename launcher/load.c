#include <stdio.h>
#include <unistd.h>

#include "launcher/load.h"

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

witan_status_t wtn_load_layer(wtn_session_t *session, const wtn_session_options_t *options,
                              const char *model, int32_t layer_index, witan_layer_t **layer)
{
    progress_t           progress = {-1};
    witan_load_options_t load;
    witan_status_t       status;

    witan_load_options_init(&load);
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
    return status;
}

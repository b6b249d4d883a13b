/* The layer of a model's config.json, without its weights. */
#include <stdlib.h>
#include <sys/stat.h>

#include "core/error.h"
#include "experts/config.h"
#include "experts/file.h"
#include "experts/files.h"
#include "launcher/plan_scale.h"

#define LAYERS_TRIED 128

static witan_status_t parse(const char *path, const char *text, size_t bytes, int32_t layer,
                            witan_layer_config_t *config)
{
    wtn_config_t   parsed;
    int32_t        first  = layer < 0 ? 0 : layer;
    witan_status_t status = wtn_config_parse(&parsed, path, text, bytes, first);

    /* The first layers of many models are dense. */
    for (int32_t i = 1; layer < 0 && status == WITAN_E_UNSUPPORTED && i < LAYERS_TRIED; i++) {
        status = wtn_config_parse(&parsed, path, text, bytes, i);
    }
    if (status == WITAN_OK) {
        *config = parsed.layer;
    }
    return status;
}

witan_status_t wtn_scale_read_model(const char *path, int32_t layer, witan_layer_config_t *config)
{
    char          *joined = NULL, *text = NULL;
    size_t         bytes = 0;
    struct stat    info;
    witan_status_t status;

    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        joined = wtn_files_join(path, "config.json");
        if (joined == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "%s: its name", path);
        }
        path = joined;
    }
    WTN_TRY(wtn_file_load(path, WTN_CONFIG_BYTES_MAX, &text, &bytes));
    status = parse(path, text, bytes, layer, config);

fail:
    free(joined);
    free(text);
    return status;
}

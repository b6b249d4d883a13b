/* config.json of a Hugging Face folder: one layer's shape and routing. */
#ifndef WTN_CONFIG_H
#define WTN_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include <witan/layer.h>

#include "experts/family.h"

#define WTN_CONFIG_BYTES_MAX (16u << 20)

typedef struct wtn_config {
    const wtn_family_t  *family;
    witan_layer_config_t layer;        /* all but the dtypes, which the tensors decide */
    int64_t              fp8_block[2]; /* rows and columns that share an FP8 scale */
} wtn_config_t;

/* Read what `text` says about layer `layer_index`. `path` is for messages.
 * WITAN_E_FORMAT: no JSON. WITAN_E_CONFIG: a key is missing, of the wrong type, out of range or
 * contradicts another; the layer does not exist. WITAN_E_UNSUPPORTED: unknown family, dense layer,
 * unknown quantisation. Each names the key, what was expected and what was found. */
witan_status_t wtn_config_parse(wtn_config_t *out, const char *path, const char *text, size_t bytes,
                                int32_t layer_index);

#endif

/* Hugging Face folders: config.json and safetensors -> a layer's configuration and weights. */
#ifndef WTN_HF_H
#define WTN_HF_H

#include <witan/layer.h>

typedef struct wtn_hf wtn_hf_t;

/* Open block `layer_index` of a folder: reads config.json, the index and the headers, checks every
 * tensor of the block (presence, dtype, shape) but reads no weights. The file descriptors stay
 * open. Errors: WITAN_E_IO, WITAN_E_FORMAT, WITAN_E_CONFIG, WITAN_E_UNSUPPORTED (unknown family,
 * dense layer), each naming file, tensor or key, expected and found. */
witan_status_t wtn_hf_open(wtn_hf_t **out, const char *folder, int32_t layer_index);
void           wtn_hf_close(wtn_hf_t *hf);

/* The layer it describes; `dtype` is BF16 for FP8 and MXFP4 files. Belongs to `hf`. */
const witan_layer_config_t *wtn_hf_config(const wtn_hf_t *hf);
const char                 *wtn_hf_family(const wtn_hf_t *hf);

/* Its weights; reads with pread, counts the bytes, converts and dequantises. */
witan_weights_t wtn_hf_weights(wtn_hf_t *hf);

/* Bytes of files read through wtn_hf_weights so far. */
int64_t wtn_hf_bytes_read(const wtn_hf_t *hf);

/* Hash of config, tensor names, dtypes, shapes and offsets: equal on ranks that see equal files. */
uint64_t wtn_hf_digest(const wtn_hf_t *hf);

#endif

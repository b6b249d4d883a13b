/* Synthetic blocks: random weights in a family's Hugging Face format, with an input file. */
#ifndef WTN_SYNTH_H
#define WTN_SYNTH_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <witan/layer.h>

#include "experts/family.h"
#include "experts/safetensors.h"

typedef enum wtn_synth_scale {
    WTN_SYNTH_TINY  = 0, /* below a megabyte or so */
    WTN_SYNTH_SMALL = 1, /* the experts and top-k of the model, tens of megabytes */
    WTN_SYNTH_FULL  = 2, /* the model's own sizes */
    WTN_SYNTH_SCALE_COUNT
} wtn_synth_scale_t;

/* How the routed and shared experts are stored. */
typedef enum wtn_synth_storage {
    WTN_SYNTH_PUBLISHED = 0, /* as the model was published: BF16, FP8 or MXFP4 */
    WTN_SYNTH_BF16      = 1,
    WTN_SYNTH_F16       = 2,
    WTN_SYNTH_F32       = 3,
    WTN_SYNTH_FP8       = 4,
    WTN_SYNTH_MXFP4     = 5,
} wtn_synth_storage_t;

typedef struct wtn_synth_sizes {
    int64_t hidden_size, inter_size;
    int64_t shared_inter_size; /* 0: I where the family shares experts by count, else none */
    int32_t expert_count, topk;
} wtn_synth_sizes_t;

typedef struct wtn_synth_key {
    const char *key;  /* NULL ends the list */
    char        kind; /* 'b' boolean, 'i' integer, 'f' real, 's' text */
    double      value;
    const char *text;
} wtn_synth_key_t;

#define WTN_SYNTH_KEYS_MAX 16

/* A model, as data: presets are rows of the table in synth_preset.c. */
typedef struct wtn_synth_preset {
    const char         *name;
    const char         *model_type;
    wtn_synth_storage_t published;
    int32_t             layer_index; /* of the block written: the first that has experts */
    int32_t             layer_count;
    wtn_synth_sizes_t   sizes[WTN_SYNTH_SCALE_COUNT];
    wtn_synth_key_t     keys[WTN_SYNTH_KEYS_MAX]; /* of config.json, beside the sizes */
} wtn_synth_preset_t;

extern const wtn_synth_preset_t wtn_synth_presets[];
extern const size_t             wtn_synth_preset_count;

/* NULL for an unknown name. */
const wtn_synth_preset_t *wtn_synth_preset_find(const char *name);

/* What is to be written: a preset at a scale, with everything derived from them. */
typedef struct wtn_synth_block {
    const wtn_synth_preset_t *preset;
    const wtn_family_t       *family;
    const wtn_layout_t       *layout;
    wtn_synth_storage_t       storage; /* never PUBLISHED */
    witan_layer_config_t      config;  /* sizes, routing, dtype of activations */
    uint64_t                  seed;
} wtn_synth_block_t;

/* WITAN_E_CONFIG: unknown preset (the known ones are listed). WITAN_E_UNSUPPORTED: the family is
 * not stored so. */
witan_status_t wtn_synth_block_init(wtn_synth_block_t *block, const char *preset,
                                    wtn_synth_scale_t scale, wtn_synth_storage_t storage,
                                    uint64_t seed);

/* "BF16", "FP8" and so on. */
const char *wtn_synth_storage_name(wtn_synth_storage_t storage);

/* Write `folder`/config.json. */
witan_status_t wtn_synth_write_config(const wtn_synth_block_t *block, const char *folder);

/* One tensor of a file and the random numbers that fill it. */
typedef enum wtn_synth_fill {
    WTN_SYNTH_FILL_NORMAL,    /* N(0, sigma) in the tensor's dtype: F32, F16 or BF16 */
    WTN_SYNTH_FILL_FP8,       /* N(0, WTN_SYNTH_FP8_SIGMA) as e4m3 */
    WTN_SYNTH_FILL_FP8_SCALE, /* sigma * 2^u, u uniform in [-1/2, 1/2), F32 */
    WTN_SYNTH_FILL_FP4,       /* N(0, WTN_SYNTH_FP4_SIGMA), two values to a byte, low half first */
    WTN_SYNTH_FILL_FP4_SCALE, /* the exponent of sigma, or one more */
} wtn_synth_fill_t;

#define WTN_SYNTH_FP8_SIGMA 128.0 /* draws end at 3.47 sigma, e4m3 at 448 */
#define WTN_SYNTH_FP4_SIGMA 2.0

typedef struct wtn_synth_tensor {
    char             name[WTN_TENSOR_NAME_BYTES];
    wtn_st_tensor_t  st; /* st.name points to `name` */
    wtn_synth_fill_t fill;
    double           sigma;
} wtn_synth_tensor_t;

/* Bytes of the tensor's data. */
size_t wtn_synth_tensor_bytes(const wtn_synth_tensor_t *tensor);

/* Elements [begin, begin + count) of a tensor (bytes, for FP4). They depend on seed, name and index
 * only: not on threads, nor on how a tensor is cut. Runs on all OpenMP threads. */
void wtn_synth_fill(const wtn_synth_tensor_t *tensor, uint64_t seed, size_t begin, size_t count,
                    void *out);

/* The tensors of a block, in the order of the files. Free with free(). */
witan_status_t wtn_synth_tensors(const wtn_synth_block_t *block, wtn_synth_tensor_t **tensors,
                                 size_t *count);

typedef struct wtn_synth_options {
    const char *folder;          /* made; may exist if it is empty */
    int64_t     token_count;     /* of input.safetensors */
    uint64_t    shard_bytes_max; /* 0: the default, 4 GiB; a tensor larger than that is alone */
    void (*progress)(uint64_t bytes_done, uint64_t bytes_total); /* may be NULL */
    const volatile sig_atomic_t *interrupted; /* non-zero: stop and leave nothing; may be NULL */
} wtn_synth_options_t;

typedef struct wtn_synth_result {
    uint64_t tensor_bytes;
    size_t   tensor_count, file_count;
} wtn_synth_result_t;

/* Write a block: config.json, model.safetensors (or shards and their index), input.safetensors.
 * Everything goes to a folder beside `folder` that is renamed at the end, and removed on failure.
 * WITAN_E_ARGUMENT: the folder exists and is not empty. WITAN_E_IO, WITAN_E_MEMORY, WITAN_E_STATE
 * when interrupted. */
witan_status_t wtn_synth_write(const wtn_synth_block_t *block, const wtn_synth_options_t *options,
                               wtn_synth_result_t *result);

#endif

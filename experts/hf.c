/* Opening a block of a model folder: which layout, and is every tensor there and as it must be. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/file.h"
#include "experts/hf.h"
#include "experts/hf_source.h"

bool wtn_hf_is_per_tensor(const wtn_hf_t *hf, witan_weight_t weight)
{
    return hf->layout->kind == WTN_LAYOUT_PER_EXPERT && wtn_weight_is_per_expert(weight);
}

bool wtn_hf_plain_dtype(wtn_st_dtype_t stored, witan_dtype_t *dtype)
{
    switch (stored) {
    case WTN_ST_F32:
        *dtype = WITAN_F32;
        return true;
    case WTN_ST_F16:
        *dtype = WITAN_F16;
        return true;
    case WTN_ST_BF16:
        *dtype = WITAN_BF16;
        return true;
    default:
        return false;
    }
}

/* ---- the layout ---- */

/* Does any tensor of the routed experts stand in the files under a layout's names? */
static bool find_layout(const wtn_hf_t *hf, const wtn_layout_t *layout,
                        char name[WTN_TENSOR_NAME_BYTES])
{
    int32_t count = layout->kind == WTN_LAYOUT_PER_EXPERT ? hf->config.layer.expert_count : 1;

    for (int32_t expert = 0; expert < count; expert++) {
        for (witan_weight_t weight = WITAN_WEIGHT_GATE; weight <= WITAN_WEIGHT_DOWN; weight++) {
            if (wtn_layout_name(layout, weight, hf->layer_index, expert, name) &&
                wtn_files_has(hf->files, name)) {
                return true;
            }
        }
    }
    return false;
}

static witan_status_t choose_layout(wtn_hf_t *hf)
{
    const wtn_family_t *family = hf->config.family;
    char                first[WTN_TENSOR_NAME_BYTES], other[WTN_TENSOR_NAME_BYTES];

    for (int32_t i = 0; i < family->layout_count; i++) {
        if (!find_layout(hf, &family->layouts[i], hf->layout == NULL ? first : other)) {
            continue;
        }
        if (hf->layout != NULL) {
            return WTN_ERROR(WITAN_E_FORMAT,
                             "%s: expected one layout of the experts, found tensors of two: "
                             "'%.100s' and '%.100s'",
                             wtn_files_path(hf->files), first, other);
        }
        hf->layout = &family->layouts[i];
    }
    if (hf->layout == NULL) {
        hf->layout = &family->layouts[0]; /* its first tensor will be reported as missing */
    }
    return WITAN_OK;
}

/* ---- one tensor ---- */

static void show_shape(const int64_t *shape, int32_t rank, char *text, size_t bytes)
{
    size_t used = 0;

    for (int32_t i = 0; i < rank && used < bytes; i++) {
        used += (size_t)snprintf(text + used, bytes - used, i == 0 ? "%" PRId64 : ", %" PRId64,
                                 shape[i]);
    }
    if (rank == 0) {
        text[0] = '\0';
    }
}

static witan_status_t check_shape(const wtn_place_t *place, const int64_t *shape, int32_t rank)
{
    const wtn_st_tensor_t *tensor = place->tensor;
    char                   expected[96], found[200];

    if (tensor->rank == rank && memcmp(tensor->shape, shape, (size_t)rank * sizeof(*shape)) == 0) {
        return WITAN_OK;
    }
    show_shape(shape, rank, expected, sizeof(expected));
    show_shape(tensor->shape, tensor->rank, found, sizeof(found));
    return WTN_ERROR(WITAN_E_CONFIG,
                     "%s: tensor '%.100s': expected [%s] by config.json, found [%.100s]",
                     wtn_st_path(place->file), tensor->name, expected, found);
}

static witan_status_t dtype_error(const wtn_place_t *place, const char *expected)
{
    return WTN_ERROR(WITAN_E_UNSUPPORTED, "%s: tensor '%.100s': expected dtype %s, found %s",
                     wtn_st_path(place->file), place->tensor->name, expected,
                     wtn_st_dtype_name(place->tensor->dtype));
}

static witan_status_t find_fp8_scales(wtn_hf_t *hf, const char *name, wtn_source_t *source)
{
    const int64_t *block   = hf->config.fp8_block;
    const int64_t *weight  = source->values.tensor->shape;
    int64_t        shape[] = {wtn_ceil_div(weight[0], block[0]), wtn_ceil_div(weight[1], block[1])};
    char           scale_name[WTN_TENSOR_NAME_BYTES];
    witan_dtype_t  dtype;
    witan_status_t status;

    wtn_layout_scale_name(hf->layout, name, scale_name);
    WTN_TRY(wtn_files_find(hf->files, scale_name, &source->scales));
    WTN_TRY(check_shape(&source->scales, shape, 2));
    if (!wtn_hf_plain_dtype(source->scales.tensor->dtype, &dtype)) {
        return dtype_error(&source->scales, "F32, F16 or BF16");
    }
    return WITAN_OK;

fail:
    return status;
}

static witan_status_t find_mxfp4_scales(wtn_hf_t *hf, const char *name, wtn_source_t *source)
{
    char           scale_name[WTN_TENSOR_NAME_BYTES];
    witan_status_t status;

    if (source->values.tensor->dtype != WTN_ST_U8) {
        return dtype_error(&source->values, "U8");
    }
    wtn_layout_scale_name(hf->layout, name, scale_name);
    WTN_TRY(wtn_files_find(hf->files, scale_name, &source->scales));
    WTN_TRY(check_shape(&source->scales, source->values.tensor->shape, 3));
    if (source->scales.tensor->dtype != WTN_ST_U8) {
        return dtype_error(&source->scales, "U8");
    }
    return WITAN_OK;

fail:
    return status;
}

/* May this weight be quantised? Routers, biases and corrections are plain. */
static bool is_matrix(witan_weight_t weight)
{
    return (weight >= WITAN_WEIGHT_GATE && weight <= WITAN_WEIGHT_DOWN) ||
           (weight >= WITAN_WEIGHT_SHARED_GATE && weight <= WITAN_WEIGHT_SHARED_DOWN);
}

static witan_status_t find_source(wtn_hf_t *hf, witan_weight_t weight, int32_t expert,
                                  wtn_source_t *source)
{
    const bool is_block_scaled = hf->layout->kind == WTN_LAYOUT_MXFP4 &&
                                 weight >= WITAN_WEIGHT_GATE && weight <= WITAN_WEIGHT_DOWN;
    int64_t        shape[WTN_ST_RANK_MAX];
    char           name[WTN_TENSOR_NAME_BYTES];
    int32_t        rank;
    witan_dtype_t  dtype;
    witan_status_t status;

    if (!wtn_layout_name(hf->layout, weight, hf->layer_index, expert, name)) {
        return WTN_ERROR(WITAN_E_INTERNAL, "family %s has no name for weight %d",
                         hf->config.family->model_type, (int)weight);
    }
    rank = wtn_layout_shape(hf->layout, weight, &hf->config.layer, shape);
    WTN_TRY(wtn_files_find(hf->files, name, &source->values));
    WTN_TRY(check_shape(&source->values, shape, rank));
    if (is_block_scaled) {
        return find_mxfp4_scales(hf, name, source);
    }
    if (source->values.tensor->dtype == WTN_ST_F8_E4M3 && is_matrix(weight) && rank == 2) {
        return find_fp8_scales(hf, name, source);
    }
    if (!wtn_hf_plain_dtype(source->values.tensor->dtype, &dtype)) {
        return dtype_error(&source->values, rank == 2 && is_matrix(weight)
                                                ? "F32, F16, BF16 or F8_E4M3"
                                                : "F32, F16 or BF16");
    }
    return WITAN_OK;

fail:
    return status;
}

/* ---- the whole block ---- */

/* MXFP4 packs 32 values to a scale. */
static witan_status_t check_mxfp4_sizes(const wtn_hf_t *hf)
{
    const witan_layer_config_t *layer       = &hf->config.layer;
    const bool                  hidden_fits = layer->hidden_size % 32 == 0;

    if (hf->layout->kind != WTN_LAYOUT_MXFP4 || (hidden_fits && layer->inter_size % 32 == 0)) {
        return WITAN_OK;
    }
    return WTN_ERROR(WITAN_E_CONFIG, "%s: %s: expected a multiple of 32 (MXFP4), found %" PRId64,
                     hf->config_path, hidden_fits ? hf->config.family->inter_key : "hidden_size",
                     hidden_fits ? layer->inter_size : layer->hidden_size);
}

static int32_t source_count(const wtn_hf_t *hf, witan_weight_t weight)
{
    return wtn_hf_is_per_tensor(hf, weight) ? hf->config.layer.expert_count : 1;
}

static witan_status_t find_sources(wtn_hf_t *hf)
{
    witan_status_t status;

    for (witan_weight_t weight = 0; weight < WITAN_WEIGHT_COUNT; weight++) {
        int32_t count = source_count(hf, weight);

        if (!wtn_weight_exists(weight, &hf->config.layer)) {
            continue;
        }
        hf->sources[weight] = calloc((size_t)count, sizeof(wtn_source_t));
        if (hf->sources[weight] == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "%s: a table of %" PRId32 " experts",
                             wtn_files_path(hf->files), count);
        }
        for (int32_t expert = 0; expert < count; expert++) {
            WTN_TRY(find_source(hf, weight, expert, &hf->sources[weight][expert]));
        }
    }
    return WITAN_OK;

fail:
    return status;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A tensor of the block that no weight is read from means that the block is not what the family's
 * table says: a bias, more experts, another quantisation. */
static witan_status_t check_nothing_else(const wtn_hf_t *hf)
{
    const char    *router = hf->layout->names[WITAN_WEIGHT_ROUTER], *other;
    const char   **names;
    char           prefix[WTN_TENSOR_NAME_BYTES];
    size_t         count  = 0;
    witan_status_t status = WITAN_OK;

    for (witan_weight_t weight = 0; weight < WITAN_WEIGHT_COUNT; weight++) {
        count += hf->sources[weight] == NULL ? 0 : 2 * (size_t)source_count(hf, weight);
    }
    names = malloc(count * sizeof(*names));
    if (names == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: a table of %zu names", wtn_files_path(hf->files),
                         count);
    }
    count = 0;
    for (witan_weight_t weight = 0; weight < WITAN_WEIGHT_COUNT; weight++) {
        for (int32_t i = 0; hf->sources[weight] != NULL && i < source_count(hf, weight); i++) {
            const wtn_source_t *source = &hf->sources[weight][i];

            names[count++] = source->values.tensor->name;
            if (source->scales.tensor != NULL) {
                names[count++] = source->scales.tensor->name;
            }
        }
    }
    qsort(names, count, sizeof(*names), compare_names);
    (void)snprintf(prefix, sizeof(prefix), "model.layers.%" PRId32 ".%.*s", hf->layer_index,
                   (int)strcspn(router, ".") + 1, router);
    other = wtn_files_find_other(hf->files, prefix, names, count);
    if (other != NULL) {
        status = WTN_ERROR(WITAN_E_UNSUPPORTED,
                           "%s: tensor '%.100s': expected only tensors that %s has in this layout",
                           wtn_files_path(hf->files), other, hf->config.family->model_type);
    }
    free(names);
    return status;
}

/* What a matrix is once read: FP8 and MXFP4 become bf16. */
static witan_dtype_t loaded_dtype(const wtn_source_t *source)
{
    witan_dtype_t dtype = WITAN_BF16;

    (void)wtn_hf_plain_dtype(source->values.tensor->dtype, &dtype);
    return dtype;
}

/* The routed experts must be stored alike; the shared expert must be like them once read. */
static witan_status_t check_dtypes(wtn_hf_t *hf)
{
    const wtn_source_t *first  = &hf->sources[WITAN_WEIGHT_UP][0];
    const witan_dtype_t loaded = loaded_dtype(first);

    for (witan_weight_t weight = 0; weight < WITAN_WEIGHT_COUNT; weight++) {
        const bool is_routed = weight >= WITAN_WEIGHT_GATE && weight <= WITAN_WEIGHT_DOWN;

        if (hf->sources[weight] == NULL || !is_matrix(weight)) {
            continue;
        }
        for (int32_t expert = 0; expert < source_count(hf, weight); expert++) {
            const wtn_source_t *source = &hf->sources[weight][expert];

            if (is_routed ? source->values.tensor->dtype == first->values.tensor->dtype
                          : loaded_dtype(source) == loaded) {
                continue;
            }
            return WTN_ERROR(WITAN_E_UNSUPPORTED,
                             "%s: tensor '%.100s': expected the dtype of '%.100s', %s, found %s",
                             wtn_st_path(source->values.file), source->values.tensor->name,
                             first->values.tensor->name,
                             wtn_st_dtype_name(first->values.tensor->dtype),
                             wtn_st_dtype_name(source->values.tensor->dtype));
        }
    }
    hf->config.layer.dtype        = loaded;
    hf->config.layer.router_dtype = loaded_dtype(&hf->sources[WITAN_WEIGHT_ROUTER][0]);
    return WITAN_OK;
}

static witan_status_t check_folder(const char *folder)
{
    struct stat info;

    if (stat(folder, &info) == 0 && !S_ISDIR(info.st_mode)) {
        return WTN_ERROR(WITAN_E_IO, "%s: expected a model folder, found %s", folder,
                         wtn_file_type(info.st_mode));
    }
    return WITAN_OK; /* what is not there is reported by the first file in it */
}

static witan_status_t load_config(wtn_hf_t *hf, const char *folder)
{
    char          *text  = NULL;
    size_t         bytes = 0;
    witan_status_t status;

    hf->config_path = wtn_files_join(folder, "config.json");
    if (hf->config_path == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: names of files", folder);
    }
    WTN_TRY(wtn_file_load(hf->config_path, WTN_CONFIG_BYTES_MAX, &text, &bytes));
    hf->config_hash = wtn_hash(0, text, bytes);
    WTN_TRY(wtn_config_parse(&hf->config, hf->config_path, text, bytes, hf->layer_index));

fail:
    free(text);
    return status;
}

witan_status_t wtn_hf_open(wtn_hf_t **out, const char *folder, int32_t layer_index)
{
    wtn_hf_t      *hf = calloc(1, sizeof(*hf));
    witan_status_t status;

    *out = NULL;
    if (hf == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: a model folder", folder);
    }
    hf->layer_index = layer_index;
    WTN_TRY(check_folder(folder));
    WTN_TRY(load_config(hf, folder));
    WTN_TRY(wtn_files_open(&hf->files, folder));
    WTN_TRY(choose_layout(hf));
    WTN_TRY(check_mxfp4_sizes(hf));
    WTN_TRY(find_sources(hf));
    WTN_TRY(check_dtypes(hf));
    WTN_TRY(check_nothing_else(hf));
    *out = hf;
    return WITAN_OK;

fail:
    wtn_hf_close(hf);
    return status;
}

void wtn_hf_close(wtn_hf_t *hf)
{
    if (hf == NULL) {
        return;
    }
    for (int i = 0; i < (int)WITAN_WEIGHT_COUNT; i++) {
        free(hf->sources[i]);
    }
    wtn_files_close(hf->files);
    free(hf->config_path);
    wtn_free(hf->scratch);
    free(hf);
}

const witan_layer_config_t *wtn_hf_config(const wtn_hf_t *hf)
{
    return &hf->config.layer;
}

const char *wtn_hf_family(const wtn_hf_t *hf)
{
    return hf->config.family->model_type;
}

witan_weights_t wtn_hf_weights(wtn_hf_t *hf)
{
    return (witan_weights_t){hf, wtn_hf_read};
}

int64_t wtn_hf_bytes_read(const wtn_hf_t *hf)
{
    return hf->bytes_read;
}

static uint64_t hash_place(uint64_t hash, const wtn_place_t *place)
{
    const wtn_st_tensor_t *tensor = place->tensor;

    if (tensor == NULL) {
        return hash;
    }
    hash = wtn_hash(hash, tensor->name, strlen(tensor->name) + 1);
    hash = wtn_hash(hash, &tensor->dtype, sizeof(tensor->dtype));
    hash = wtn_hash(hash, tensor->shape, (size_t)tensor->rank * sizeof(tensor->shape[0]));
    hash = wtn_hash(hash, &tensor->begin, sizeof(tensor->begin));
    return wtn_hash(hash, &tensor->end, sizeof(tensor->end));
}

uint64_t wtn_hf_digest(const wtn_hf_t *hf)
{
    uint64_t hash = wtn_hash(hf->config_hash, &hf->layer_index, sizeof(hf->layer_index));

    for (witan_weight_t weight = 0; weight < WITAN_WEIGHT_COUNT; weight++) {
        for (int32_t i = 0; hf->sources[weight] != NULL && i < source_count(hf, weight); i++) {
            hash = hash_place(hash, &hf->sources[weight][i].values);
            hash = hash_place(hash, &hf->sources[weight][i].scales);
        }
    }
    return hash;
}

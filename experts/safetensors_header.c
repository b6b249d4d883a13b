/* The JSON header of a safetensors file, parsed by hand: its grammar has a fixed depth, so nothing
 * recurses, memory stays in proportion to the header whatever it holds, and every fault is named.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/safetensors.h"
#include "experts/safetensors_file.h"
#include "experts/scan.h"

typedef struct parser {
    wtn_scan_t     scan;
    wtn_st_file_t *file;
    size_t         capacity; /* of file->tensors */
    uint64_t       data_bytes;
} parser_t;

/* "[a, b, ...]" of at most `count_max` numbers. */
static witan_status_t parse_numbers(parser_t *parser, const char *tensor, const char *key,
                                    int32_t count_max, uint64_t *numbers, int32_t *count)
{
    witan_status_t status;
    char           what[160];

    *count = 0;
    (void)snprintf(what, sizeof(what), "tensor '%.100s': %s", tensor, key);
    if (!wtn_scan_take(&parser->scan, '[')) {
        return wtn_scan_error(&parser->scan, "'['");
    }
    if (wtn_scan_take(&parser->scan, ']')) {
        return WITAN_OK;
    }
    do {
        if (*count == count_max) {
            return WTN_ERROR(WITAN_E_FORMAT,
                             "%s: tensor '%.100s': %s: expected at most %" PRId32
                             " numbers, found more",
                             parser->scan.path, tensor, key, count_max);
        }
        status = wtn_scan_number(&parser->scan, what, &numbers[*count]);
        if (status != WITAN_OK) {
            return status;
        }
        (*count)++;
    } while (wtn_scan_take(&parser->scan, ','));
    return wtn_scan_take(&parser->scan, ']') ? WITAN_OK
                                             : wtn_scan_error(&parser->scan, "',' or ']'");
}

static witan_status_t parse_dtype(parser_t *parser, wtn_st_tensor_t *tensor)
{
    witan_status_t status;
    char          *strings = parser->scan.strings;
    const char    *text    = NULL;

    status = wtn_scan_string(&parser->scan, "the name of a dtype", &text);
    if (status != WITAN_OK) {
        return status;
    }
    for (int i = 0; i < (int)WTN_ST_DTYPE_COUNT; i++) {
        if (strcmp(text, wtn_st_dtype_name((wtn_st_dtype_t)i)) == 0) {
            tensor->dtype        = (wtn_st_dtype_t)i;
            parser->scan.strings = strings; /* the name of the dtype is not kept */
            return WITAN_OK;
        }
    }
#define DTYPE_TEXT(name, bits) #name " "
    return WTN_ERROR(WITAN_E_FORMAT,
                     "%s: tensor '%.100s': dtype: expected one of " WTN_ST_DTYPE_LIST(
                         DTYPE_TEXT) "found '%.40s'",
                     parser->scan.path, tensor->name, text);
#undef DTYPE_TEXT
}

static witan_status_t parse_shape(parser_t *parser, wtn_st_tensor_t *tensor)
{
    uint64_t       numbers[WTN_ST_RANK_MAX];
    witan_status_t status;

    status = parse_numbers(parser, tensor->name, "shape", WTN_ST_RANK_MAX, numbers, &tensor->rank);
    for (int32_t i = 0; i < tensor->rank; i++) {
        tensor->shape[i] = (int64_t)numbers[i];
    }
    return status;
}

static witan_status_t parse_offsets(parser_t *parser, wtn_st_tensor_t *tensor)
{
    uint64_t       numbers[2];
    int32_t        count;
    witan_status_t status;

    status = parse_numbers(parser, tensor->name, "data_offsets", 2, numbers, &count);
    if (status != WITAN_OK) {
        return status;
    }
    if (count != 2 || numbers[0] > numbers[1]) {
        return WTN_ERROR(WITAN_E_FORMAT,
                         "%s: tensor '%.100s': data_offsets: expected a begin and an end not "
                         "before it, found %" PRId32 " numbers%s",
                         parser->scan.path, tensor->name, count,
                         count == 2 ? " in descending order" : "");
    }
    tensor->begin = numbers[0];
    tensor->end   = numbers[1];
    return WITAN_OK;
}

/* shape x dtype must be the bytes of data_offsets. */
static witan_status_t check_tensor_bytes(const parser_t *parser, const wtn_st_tensor_t *tensor)
{
    size_t bytes = wtn_st_dtype_bytes(tensor->dtype);

    for (int32_t i = 0; i < tensor->rank; i++) {
        if (!wtn_mul(bytes, (size_t)tensor->shape[i], &bytes)) {
            return WTN_ERROR(WITAN_E_FORMAT,
                             "%s: tensor '%.100s': shape: expected fewer than 2^64 bytes, found "
                             "more",
                             parser->scan.path, tensor->name);
        }
    }
    if (bytes != tensor->end - tensor->begin) {
        return WTN_ERROR(WITAN_E_FORMAT,
                         "%s: tensor '%.100s': data_offsets: expected %zu bytes (shape x dtype), "
                         "found %" PRIu64,
                         parser->scan.path, tensor->name, bytes, tensor->end - tensor->begin);
    }
    return WITAN_OK;
}

static witan_status_t parse_tensor(parser_t *parser, wtn_st_tensor_t *tensor)
{
    static const struct {
        const char *key;
        witan_status_t (*parse)(parser_t *parser, wtn_st_tensor_t *tensor);
    } fields[] = {{"dtype", parse_dtype}, {"shape", parse_shape}, {"data_offsets", parse_offsets}};
    unsigned       seen = 0;
    witan_status_t status;
    const char    *key = NULL;

    if (!wtn_scan_take(&parser->scan, '{')) {
        return wtn_scan_error(&parser->scan, "'{'");
    }
    do {
        char  *strings = parser->scan.strings;
        size_t i;

        status = wtn_scan_string(&parser->scan, "\"dtype\", \"shape\" or \"data_offsets\"", &key);
        if (status != WITAN_OK) {
            return status;
        }
        for (i = 0; i < WTN_COUNT_OF(fields) && strcmp(key, fields[i].key) != 0; i++) {
        }
        if (i == WTN_COUNT_OF(fields) || (seen & 1u << i) != 0) {
            return WTN_ERROR(WITAN_E_FORMAT,
                             "%s: tensor '%.100s': expected dtype, shape and data_offsets once "
                             "each, found '%.40s'%s",
                             parser->scan.path, tensor->name, key,
                             i < WTN_COUNT_OF(fields) ? " twice" : "");
        }
        seen |= 1u << i;
        parser->scan.strings = strings;
        if (!wtn_scan_take(&parser->scan, ':')) {
            return wtn_scan_error(&parser->scan, "':'");
        }
        status = fields[i].parse(parser, tensor);
        if (status != WITAN_OK) {
            return status;
        }
    } while (wtn_scan_take(&parser->scan, ','));
    if (!wtn_scan_take(&parser->scan, '}')) {
        return wtn_scan_error(&parser->scan, "',' or '}'");
    }
    for (size_t i = 0; i < WTN_COUNT_OF(fields); i++) {
        if ((seen & 1u << i) == 0) {
            return WTN_ERROR(WITAN_E_FORMAT, "%s: tensor '%.100s': expected %s, found none",
                             parser->scan.path, tensor->name, fields[i].key);
        }
    }
    return check_tensor_bytes(parser, tensor);
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* "__metadata__": strings to strings. Its content is not kept. */
static witan_status_t parse_metadata(parser_t *parser)
{
    witan_status_t status = WITAN_OK;
    const char   **keys   = NULL, *value;
    size_t         count = 0, capacity = 0;

    if (!wtn_scan_take(&parser->scan, '{')) {
        return wtn_scan_error(&parser->scan, "'{' of __metadata__");
    }
    if (wtn_scan_take(&parser->scan, '}')) {
        return WITAN_OK;
    }
    do {
        if (count == capacity) {
            const char **grown;

            capacity = capacity == 0 ? 16 : 2 * capacity;
            grown    = realloc(keys, capacity * sizeof(*keys));
            if (grown == NULL) {
                status = WTN_ERROR(WITAN_E_MEMORY, "%s: __metadata__", parser->scan.path);
                goto fail;
            }
            keys = grown;
        }
        WTN_TRY(wtn_scan_string(&parser->scan, "a key of __metadata__", &keys[count]));
        count++;
        if (!wtn_scan_take(&parser->scan, ':')) {
            status = wtn_scan_error(&parser->scan, "':'");
            goto fail;
        }
        WTN_TRY(wtn_scan_string(&parser->scan, "a string as value in __metadata__", &value));
    } while (wtn_scan_take(&parser->scan, ','));
    if (!wtn_scan_take(&parser->scan, '}')) {
        status = wtn_scan_error(&parser->scan, "',' or '}'");
        goto fail;
    }
    qsort(keys, count, sizeof(*keys), compare_strings);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(keys[i - 1], keys[i]) == 0) {
            status = WTN_ERROR(WITAN_E_FORMAT,
                               "%s: __metadata__: expected every key once, found '%.100s' twice",
                               parser->scan.path, keys[i]);
            goto fail;
        }
    }

fail:
    free(keys);
    return status;
}

static witan_status_t add_tensor(parser_t *parser, wtn_st_tensor_t **tensor)
{
    wtn_st_file_t *file = parser->file;

    if (file->count == parser->capacity) {
        size_t           capacity = parser->capacity == 0 ? 64 : 2 * parser->capacity;
        wtn_st_tensor_t *grown    = realloc(file->tensors, capacity * sizeof(*grown));

        if (grown == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "%s: a table of %zu tensors", parser->scan.path,
                             capacity);
        }
        file->tensors    = grown;
        parser->capacity = capacity;
    }
    *tensor = &file->tensors[file->count];
    memset(*tensor, 0, sizeof(**tensor));
    return WITAN_OK;
}

static witan_status_t parse_header(parser_t *parser)
{
    bool             has_metadata = false;
    wtn_st_tensor_t *tensor       = NULL;
    const char      *name         = NULL;
    witan_status_t   status;

    if (parser->scan.at < parser->scan.end && *parser->scan.at != '{') {
        return wtn_scan_error(&parser->scan, "'{'"); /* the format allows no space before it */
    }
    if (!wtn_scan_take(&parser->scan, '{')) {
        return wtn_scan_error(&parser->scan, "'{'");
    }
    if (!wtn_scan_take(&parser->scan, '}')) {
        do {
            WTN_TRY(wtn_scan_string(&parser->scan, "the name of a tensor", &name));
            if (!wtn_scan_take(&parser->scan, ':')) {
                return wtn_scan_error(&parser->scan, "':'");
            }
            if (strcmp(name, "__metadata__") == 0) {
                if (has_metadata) {
                    return WTN_ERROR(WITAN_E_FORMAT,
                                     "%s: header: expected __metadata__ once, found it twice",
                                     parser->scan.path);
                }
                has_metadata = true;
                WTN_TRY(parse_metadata(parser));
                continue;
            }
            WTN_TRY(add_tensor(parser, &tensor));
            tensor->name = name;
            WTN_TRY(parse_tensor(parser, tensor));
            parser->file->count++;
        } while (wtn_scan_take(&parser->scan, ','));
        if (!wtn_scan_take(&parser->scan, '}')) {
            return wtn_scan_error(&parser->scan, "',' or '}'");
        }
    }
    wtn_scan_space(&parser->scan); /* writers pad the header with spaces */
    return parser->scan.at == parser->scan.end
               ? WITAN_OK
               : wtn_scan_error(&parser->scan, "the end of the header");

fail:
    return status;
}

static int compare_places(const void *a, const void *b)
{
    const wtn_st_tensor_t *x = a, *y = b;

    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    if (x->end != y->end) {
        return x->end < y->end ? -1 : 1;
    }
    return strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(const wtn_st_tensor_t *const *)a)->name,
                  (*(const wtn_st_tensor_t *const *)b)->name);
}

/* Sorted by place, the tensors must cover the data from its first byte to its last, once. */
static witan_status_t check_places(const parser_t *parser)
{
    const wtn_st_file_t *file = parser->file;
    uint64_t             end  = 0;

    for (size_t i = 0; i < file->count; i++) {
        const wtn_st_tensor_t *tensor = &file->tensors[i];

        if (tensor->begin != end) {
            return WTN_ERROR(WITAN_E_FORMAT,
                             "%s: tensor '%.100s': data_offsets: expected to begin at %" PRIu64
                             " (where %s%.80s%s ends), found %" PRIu64 ": %s",
                             parser->scan.path, tensor->name, end, i == 0 ? "the header" : "'",
                             i == 0 ? "" : file->tensors[i - 1].name, i == 0 ? "" : "'",
                             tensor->begin, tensor->begin > end ? "a hole" : "an overlap");
        }
        end = tensor->end;
    }
    if (end != parser->data_bytes) {
        return WTN_ERROR(WITAN_E_FORMAT,
                         "%s: expected %" PRIu64 " bytes of data (by the header), found %" PRIu64
                         ": the file is %s",
                         parser->scan.path, end, parser->data_bytes,
                         end > parser->data_bytes ? "cut off" : "too long");
    }
    return WITAN_OK;
}

static witan_status_t index_names(const parser_t *parser)
{
    wtn_st_file_t *file = parser->file;

    file->by_name = malloc((file->count + 1) * sizeof(*file->by_name));
    if (file->by_name == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "%s: a table of %zu names", parser->scan.path,
                         file->count);
    }
    for (size_t i = 0; i < file->count; i++) {
        file->by_name[i] = &file->tensors[i];
    }
    qsort(file->by_name, file->count, sizeof(*file->by_name), compare_names);
    for (size_t i = 1; i < file->count; i++) {
        if (strcmp(file->by_name[i - 1]->name, file->by_name[i]->name) == 0) {
            return WTN_ERROR(WITAN_E_FORMAT,
                             "%s: header: expected every tensor once, found '%.100s' twice",
                             parser->scan.path, file->by_name[i]->name);
        }
    }
    return WITAN_OK;
}

witan_status_t wtn_st_parse(wtn_st_file_t **out, const char *path, const void *data, size_t bytes,
                            uint64_t data_bytes)
{
    parser_t       parser = {.scan       = {.path  = path,
                                            .start = data,
                                            .at    = data,
                                            .end   = (const unsigned char *)data + bytes},
                             .data_bytes = data_bytes};
    wtn_st_file_t *file   = calloc(1, sizeof(*file));
    witan_status_t status;

    *out = NULL;
    if (file != NULL) {
        file->fd      = -1;
        file->path    = strdup(path);
        file->strings = malloc(bytes + 1);
    }
    if (file == NULL || file->path == NULL || file->strings == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "%s: header of %zu bytes", path, bytes);
        goto fail;
    }
    parser.scan.strings = file->strings;
    parser.file         = file;
    WTN_TRY(parse_header(&parser));
    if (file->count > 0) {
        qsort(file->tensors, file->count, sizeof(*file->tensors), compare_places);
    }
    WTN_TRY(index_names(&parser)); /* first: a tensor told twice would also overlap */
    WTN_TRY(check_places(&parser));
    *out = file;
    return WITAN_OK;

fail:
    wtn_st_close(file);
    return status;
}

/* safetensors files: a strict reader over pread, and a writer that leaves no partial file. */
#ifndef WTN_SAFETENSORS_H
#define WTN_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include <witan/types.h>

/* name in the file, bits of an element */
/* clang-format off */
#define WTN_ST_DTYPE_LIST(X) \
    X(F64, 64) X(F32, 32) X(F16, 16) X(BF16, 16) X(F8_E4M3, 8) X(F8_E5M2, 8) \
    X(I64, 64) X(I32, 32) X(I16, 16) X(I8, 8) \
    X(U64, 64) X(U32, 32) X(U16, 16) X(U8, 8) X(BOOL, 8)
/* clang-format on */

typedef enum wtn_st_dtype {
#define WTN_ST_DTYPE_ENUM(name, bits) WTN_ST_##name,
    WTN_ST_DTYPE_LIST(WTN_ST_DTYPE_ENUM)
#undef WTN_ST_DTYPE_ENUM
        WTN_ST_DTYPE_COUNT
} wtn_st_dtype_t;

const char *wtn_st_dtype_name(wtn_st_dtype_t dtype);
size_t      wtn_st_dtype_bytes(wtn_st_dtype_t dtype);

#define WTN_ST_RANK_MAX 8

typedef struct wtn_st_tensor {
    const char    *name;
    wtn_st_dtype_t dtype;
    int32_t        rank;
    int64_t        shape[WTN_ST_RANK_MAX];
    uint64_t       begin, end; /* bytes from the start of the file (reader only) */
} wtn_st_tensor_t;

typedef struct wtn_st_file wtn_st_file_t;

/* Open and check the header; every rule of docs/formats.md. WITAN_E_IO, WITAN_E_FORMAT: "<path>:
 * ...". */
witan_status_t wtn_st_open(wtn_st_file_t **out, const char *path);
void           wtn_st_close(wtn_st_file_t *file);

/* The header alone, from memory: what wtn_st_open checks and the fuzz target calls. `bytes` at
 * `data` are the JSON, `data_bytes` the size of the data part. `path` is for messages. */
witan_status_t wtn_st_parse(wtn_st_file_t **out, const char *path, const void *data, size_t bytes,
                            uint64_t data_bytes);

const wtn_st_tensor_t *wtn_st_find(const wtn_st_file_t *file, const char *name); /* or NULL */
size_t                 wtn_st_count(const wtn_st_file_t *file);
const wtn_st_tensor_t *wtn_st_at(const wtn_st_file_t *file, size_t index); /* in order of begin */
const char            *wtn_st_path(const wtn_st_file_t *file);

/* Read bytes [begin, begin + bytes) of a tensor's data. A short read is WITAN_E_IO naming file,
 * tensor. */
witan_status_t wtn_st_read(const wtn_st_file_t *file, const wtn_st_tensor_t *tensor, uint64_t begin,
                           size_t bytes, void *out);

/* A writer: open with the tensors in order, append their bytes in that order, commit. Nothing
 * exists at `path` before commit, and nothing is left behind if the process dies. */
typedef struct wtn_st_writer wtn_st_writer_t;
witan_status_t               wtn_st_writer_open(wtn_st_writer_t **out, const char *path,
                                                const wtn_st_tensor_t *tensors, size_t count);
witan_status_t wtn_st_writer_append(wtn_st_writer_t *writer, const void *data, size_t bytes);
/* All bytes are there and safe; optional before commit, which then has only the name to give. */
witan_status_t wtn_st_writer_finish(wtn_st_writer_t *writer);
witan_status_t wtn_st_writer_commit(wtn_st_writer_t *writer); /* frees it, also on failure */
void           wtn_st_writer_abort(wtn_st_writer_t *writer);  /* frees it; NULL is allowed */

#endif

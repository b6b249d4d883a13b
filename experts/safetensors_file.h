/* Inside the safetensors reader: what the header parser fills and the file functions use. */
#ifndef WTN_SAFETENSORS_FILE_H
#define WTN_SAFETENSORS_FILE_H

#include "experts/safetensors.h"

struct wtn_st_file {
    int                     fd;      /* -1: parsed from memory */
    char                   *path;    /* for messages */
    char                   *strings; /* the names, decoded */
    wtn_st_tensor_t        *tensors; /* by begin, then end, then name */
    size_t                  count;
    const wtn_st_tensor_t **by_name; /* [count] */
};

#endif

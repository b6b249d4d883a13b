/* Types shared by groups, layers and plans. Symbols as everywhere in Witan:
 * T tokens of a rank, E experts, K experts per token, H hidden size, I expert width, N ranks. */
#ifndef WITAN_TYPES_H
#define WITAN_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <witan/export.h>
#include <witan/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Version of the headers; witan_version() tells that of the loaded library. */
#define WITAN_VERSION_MAJOR  0
#define WITAN_VERSION_MINOR  1
#define WITAN_VERSION_PATCH  0
#define WITAN_VERSION_STRING "0.1.0"

/** "0.1.0": the version of the library that is loaded. */
WITAN_API const char *witan_version(void);

/** Element types of activations and expert weights. Sums are always formed in fp32. */
typedef enum witan_dtype {
    WITAN_F32  = 0,
    WITAN_F16  = 1, /**< stored as IEEE half, computed in fp32 */
    WITAN_BF16 = 2,
} witan_dtype_t;

/** Bytes of one element: 4, 2 or 2; 0 for a value that is no dtype. */
WITAN_API size_t witan_dtype_bytes(witan_dtype_t dtype);

/** "F32", "F16", "BF16" (the names safetensors uses); "?" for a value that is no dtype. */
WITAN_API const char *witan_dtype_name(witan_dtype_t dtype);

typedef struct witan_group witan_group_t; /**< ranks, and how they fold into parallel groups */
typedef struct witan_layer witan_layer_t; /**< weights and routing of one MoE block */
typedef struct witan_plan  witan_plan_t;  /**< one routed micro-batch and its memory */

#ifdef __cplusplus
}
#endif
#endif

/* All tiles of a walk of the sm_90a grouped GEMM, for test_cuda_walk. */
#ifndef WTN_TEST_WALK_H
#define WTN_TEST_WALK_H

#include <stdint.h>

#include <witan/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum walk_form {
    WALK_LONG_PAIR,
    WALK_LONG,
    WALK_MIDDLE_PAIR,
    WALK_FEW,
    WALK_FORMS
} walk_form_t;

typedef struct walked {
    uint32_t row, rows, expert, column, columns, shares;
} walked_t;

/* out[2 * i + rank]: the tile of block `rank` of a pair in unit i, or, of a form without pairs,
 * out[i]; *count: units. Nothing is written from `most` tiles on. Device memory. */
witan_status_t walk_tiles(walk_form_t form, const int64_t *row_begin, uint32_t expert_count,
                          uint32_t N, uint32_t most, walked_t *out, uint32_t *count, void *stream);

#ifdef __cplusplus
}
#endif

#endif

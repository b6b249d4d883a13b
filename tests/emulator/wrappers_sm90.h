/* Kernels of one sm_90a wrapper each, for test_wrappers_sm90. All pointers are device memory. */
#ifndef WTN_TEST_WRAPPERS_SM90_H
#define WTN_TEST_WRAPPERS_SM90_H

#include <stdbool.h>
#include <stdint.h>

#include <witan/status.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { BOX_COLUMNS = 64, BOX_ROWS = 24 };

/* The box [BOX_ROWS][BOX_COLUMNS] at (x, y) of a matrix [rows][columns] of 16-bit numbers, `stride`
 * bytes a row, as it lies in shared memory. */
witan_status_t sm90_box(const void *matrix, uint64_t rows, uint64_t columns, uint64_t stride,
                        int32_t x, int32_t y, void *out, void *stream);

/* d [64][n] = add ? d + a b^T : a b^T, a [64][64], b [n][64], by four wgmma of 16. n: 16, 48, 80,
 * 128 or 256. Broken: 0, or one of below. */
enum {
    SM90_RIGHT,
    SM90_NO_WAIT,   /* d is read before wtn_wgmma_wait */
    SM90_NO_FENCE,  /* rows come by cp.async, without wtn_fence_async, */
    SM90_OWN_FENCE, /* or with it by those who multiply (right), */
    SM90_ONE_FENCE, /* or by one of them */
    SM90_NO_BYTES,  /* the barrier expects 16 bytes more than come */
    SM90_TWICE,     /* a barrier made twice */
    SM90_WRITTEN,   /* a barrier overwritten */
    SM90_LEFT       /* all threads leave while copies are under way */
};
witan_status_t sm90_product(const void *a, const void *b, float *d, uint32_t n, int32_t bf16,
                            int32_t add, int32_t broken, void *stream);

/* in [256] words through stmatrix: row r, pair c of matrix m in words[m * 32 + r * 4 + c];
 * or, turned, its columns as rows. */
witan_status_t sm90_stmatrix(const uint32_t *in, uint32_t *out, bool turned, void *stream);

/* out[0] = sum of in[0 .. count): one warpgroup brings pieces of 64 words through a ring of
 * `stages`, one adds them; both move registers. out[1]: how many lanes were elected. */
witan_status_t sm90_ring(const uint32_t *in, uint64_t *out, uint32_t count, uint32_t stages,
                         void *stream);

/* out[i] = in[i], one after another from one block of a cluster to the other, which the emulator,
 * with clusters of one, does within it. */
witan_status_t sm90_pass(const uint32_t *in, uint32_t *out, uint32_t count, void *stream);

#ifdef __cplusplus
}
#endif

#endif

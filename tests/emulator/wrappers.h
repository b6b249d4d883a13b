/* Kernels of one wrapper each, for test_wrappers: the same on the emulator and on a device. All
 * pointers are device memory; one block unless said. */
#ifndef WTN_TEST_WRAPPERS_H
#define WTN_TEST_WRAPPERS_H

#include <stdint.h>

#include <witan/status.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { WARP_WORDS = 6 };

/* out[WARP_WORDS * i + j] for lane i: shuffle to lane 31 - i, shuffle up by 3, xor 5, ballot of odd
 * values, match, warp and lane as one number. */
witan_status_t wrappers_warp(const uint32_t *in, uint32_t *out, void *stream);

/* Sums `count` numbers by a tree over the block's threads, a barrier at each level; with
 * `forgotten`, that of this level is left out. */
witan_status_t wrappers_tree(const uint32_t *in, uint32_t *out, uint32_t count, int32_t forgotten,
                             void *stream);

/* Copies rows of 16 bytes through shared memory by cp.async; of the last one `last_bytes` bytes.
 * Without `wait` it reads before they have come. */
witan_status_t wrappers_copy(const void *in, void *out, uint32_t threads, uint32_t last_bytes,
                             int32_t wait, void *stream);

/* d [16, 8] = c + a [16, 16] b [16, 8]; a by row, b by column (so [8, 16]); by ldmatrix and mma. */
witan_status_t wrappers_mma(const uint16_t *a, const uint16_t *b, const float *c, float *d,
                            int32_t bf16, void *stream);

/* out[0..7] from in[0..2]: fma, divide, sqrt, packed bf16, packed f16, ex2, rcp, f16 unpacked */
witan_status_t wrappers_numbers(const float *in, uint32_t *out, uint32_t count, void *stream);

/* Block b adds 1 to out[0] once it has seen flags[b] == b + 1, then sets flags[b + 1]: blocks that
 * wait for blocks. The host sets flags[0]. */
witan_status_t wrappers_chain(uint64_t *flags, uint32_t *out, uint32_t blocks, void *stream);

/* Block b waits for out[0] == b, sets flags[b + 1] = flags[b] + 1 and adds 1 to out[0]. */
witan_status_t wrappers_sum(uint64_t *flags, uint32_t *out, uint32_t blocks, void *stream);

/* out[i] = i for i < count, block by block. */
witan_status_t wrappers_count(uint32_t *out, uint32_t count, void *stream);

/* Programs that are wrong. */
enum {
    WRONG_LANE_LEFT,      /* lane 3 returns before a shuffle */
    WRONG_THREAD_LEFT,    /* thread 40 does not come to the barrier */
    WRONG_BARRIER_COUNT,  /* two counts at one named barrier */
    WRONG_OPERATION,      /* half a warp shuffles, half votes */
    WRONG_BEHIND_SHARED,  /* writes the byte behind shared memory */
    WRONG_SHARED_ADDRESS, /* ldmatrix of a row outside */
    WRONG_ALIGNMENT,      /* a load of 16 bytes at 8 */
    WRONG_BEHIND_GLOBAL,  /* reads 4 bytes behind an allocation: memory + bytes */
    WRONG_WRITE_BEHIND    /* writes 1 byte there */
};
witan_status_t wrappers_wrong(int32_t kind, void *memory, uint64_t bytes, void *stream);

/* Any configuration; the kernel does nothing. */
witan_status_t wrappers_nothing(uint32_t blocks, uint32_t blocks_y, uint32_t threads,
                                uint64_t shared_bytes, void *stream);

#ifdef __cplusplus
}
#endif

#endif

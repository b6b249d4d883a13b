#include "tests/emulator/wrappers.h"

#include "kernels/cuda/launch.cuh"

/* ---- warps ---- */

typedef struct warp_params {
    const uint32_t *in;
    uint32_t       *out;
} warp_params_t;

WTN_KERNEL(32, 1) warp_kernel(WTN_PARAMS(warp_params_t, p))
{
    uint32_t  lane  = wtn_lane();
    uint32_t  value = p.in[lane];
    uint32_t *out   = p.out + WARP_WORDS * lane;

    out[0] = wtn_shuffle(value, 31 - lane);
    out[1] = wtn_shuffle_up(value, 3);
    out[2] = wtn_shuffle_xor(value, 5);
    out[3] = wtn_ballot((value & 1u) != 0);
    out[4] = wtn_match_any(value);
    out[5] = wtn_warp() << 8 | lane;
}

extern "C" witan_status_t wrappers_warp(const uint32_t *in, uint32_t *out, void *stream)
{
    warp_params_t p      = {in, out};
    wtn_launch_t  launch = {"warp_kernel", 1, 1, 32, 0, stream};

    return wtn_launch(&launch, warp_kernel, &p);
}

/* ---- barriers ---- */

typedef struct tree_params {
    const uint32_t *in;
    uint32_t       *out;
    uint32_t        count;
    int32_t         forgotten;
} tree_params_t;

WTN_KERNEL(1024, 1) tree_kernel(WTN_PARAMS(tree_params_t, p))
{
    volatile uint32_t *part  = (volatile uint32_t *)wtn_shared();
    uint32_t           i     = wtn_thread();
    int32_t            level = 0;

    part[i] = i < p.count ? p.in[i] : 0;
    wtn_sync_block();
    for (uint32_t half = wtn_thread_count() / 2; half > 0; half /= 2, level++) {
        if (i < half) {
            part[i] += part[i + half];
        }
        if (level != p.forgotten) {
            wtn_sync_block();
        }
    }
    if (i == 0) {
        *p.out = part[0];
    }
}

extern "C" witan_status_t wrappers_tree(const uint32_t *in, uint32_t *out, uint32_t count,
                                        int32_t forgotten, void *stream)
{
    tree_params_t p      = {in, out, count, forgotten};
    wtn_launch_t  launch = {"tree_kernel", 1, 1, 1024, 4096, stream};

    return wtn_launch(&launch, tree_kernel, &p);
}

/* ---- cp.async ---- */

typedef struct copy_params {
    const char *in;
    char       *out;
    uint32_t    last_bytes;
    int32_t     wait;
} copy_params_t;

WTN_KERNEL(256, 1) copy_kernel(WTN_PARAMS(copy_params_t, p))
{
    uint32_t i     = wtn_thread();
    uint32_t bytes = i + 1 == wtn_thread_count() ? p.last_bytes : 16;

    wtn_copy16_async(wtn_shared_address(wtn_shared()) + 16 * i, p.in + 16 * i, bytes);
    wtn_copy_commit();
    if (p.wait != 0) {
        wtn_copy_wait<0>();
    }
    wtn_sync_block();
    wtn_store16(p.out + 16 * i, wtn_load16(wtn_shared() + 16 * (wtn_thread_count() - 1 - i)));
}

extern "C" witan_status_t wrappers_copy(const void *in, void *out, uint32_t threads,
                                        uint32_t last_bytes, int32_t wait, void *stream)
{
    copy_params_t p      = {(const char *)in, (char *)out, last_bytes, wait};
    wtn_launch_t  launch = {"copy_kernel", 1, 1, threads, 16 * (size_t)threads, stream};

    return wtn_launch(&launch, copy_kernel, &p);
}

/* ---- matrices ---- */

typedef struct mma_params {
    const uint16_t *a, *b;
    const float    *c;
    float          *d;
} mma_params_t;

template <bool bf16> WTN_KERNEL(32, 1) mma_kernel(WTN_PARAMS(mma_params_t, p))
{
    char       *shared = wtn_shared();
    wtn_saddr_t base   = wtn_shared_address(shared);
    uint32_t    lane   = wtn_lane();
    uint32_t    a[4], b4[4], b[2];
    float       d[4];

    /* a: 16 rows of 32 bytes, then b: 8 columns of 32 bytes */
    wtn_store16(shared + 16 * lane, wtn_load16((const char *)p.a + 16 * lane));
    if (lane < 16) {
        wtn_store16(shared + 512 + 16 * lane, wtn_load16((const char *)p.b + 16 * lane));
    }
    wtn_sync_warp();
    /* matrices 0..3: rows 0-7 and 8-15 of k 0-7, then of k 8-15 */
    wtn_load_matrix(a, base + (lane % 16) * 32 + (lane / 16) * 16);
    wtn_load_matrix(b4, base + 512 + (lane % 8) * 32 + (lane / 8 % 2) * 16);
    b[0] = b4[0];
    b[1] = b4[1];
    for (uint32_t i = 0; i < 4; i++) {
        d[i] = p.c[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2];
    }
    wtn_mma_16x8x16<bf16>(d, a, b);
    for (uint32_t i = 0; i < 4; i++) {
        p.d[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = d[i];
    }
}

extern "C" witan_status_t wrappers_mma(const uint16_t *a, const uint16_t *b, const float *c,
                                       float *d, int32_t bf16, void *stream)
{
    mma_params_t p      = {a, b, c, d};
    wtn_launch_t launch = {"mma_kernel", 1, 1, 32, 768, stream};

    return bf16 != 0 ? wtn_launch(&launch, mma_kernel<true>, &p)
                     : wtn_launch(&launch, mma_kernel<false>, &p);
}

/* ---- numbers ---- */

typedef struct numbers_params {
    const float *in;
    uint32_t    *out;
    uint32_t     count;
} numbers_params_t;

WTN_KERNEL(128, 1) numbers_kernel(WTN_PARAMS(numbers_params_t, p))
{
    uint32_t i = wtn_block() * wtn_thread_count() + wtn_thread();

    if (i < p.count) {
        const float *in  = p.in + 3 * i;
        uint32_t    *out = p.out + 8 * i;
        out[0]           = wtn_bits_from_float(wtn_fma(in[0], in[1], in[2]));
        out[1]           = wtn_bits_from_float(wtn_divide(in[0], in[1]));
        out[2]           = wtn_bits_from_float(wtn_sqrt(in[0]));
        out[3]           = wtn_pack_bf16(in[0], in[1]);
        out[4]           = wtn_pack_f16(in[0], in[1]);
        out[5]           = wtn_bits_from_float(wtn_exp2_approx(in[2]));
        out[6]           = wtn_bits_from_float(wtn_rcp_approx(in[2]));
        out[7] = wtn_bits_from_float(wtn_float_from_f16((uint16_t)wtn_bits_from_float(in[0])));
    }
}

extern "C" witan_status_t wrappers_numbers(const float *in, uint32_t *out, uint32_t count,
                                           void *stream)
{
    numbers_params_t p      = {in, out, count};
    wtn_launch_t     launch = {"numbers_kernel", (count + 127) / 128, 1, 128, 0, stream};

    return wtn_launch(&launch, numbers_kernel, &p);
}

/* ---- blocks ---- */

typedef struct chain_params {
    uint64_t *flags;
    uint32_t *out;
} chain_params_t;

WTN_KERNEL(32, 1) chain_kernel(WTN_PARAMS(chain_params_t, p))
{
    uint32_t block = wtn_block();

    if (wtn_thread() == 0) {
        while (wtn_load_acquire_system(p.flags + block) != block + 1) {
            wtn_pause(100);
        }
        p.out[0]++;
        wtn_store_release_system(p.flags + block + 1, block + 2);
    }
    wtn_sync_block();
}

extern "C" witan_status_t wrappers_chain(uint64_t *flags, uint32_t *out, uint32_t blocks,
                                         void *stream)
{
    chain_params_t p      = {flags, out};
    wtn_launch_t   launch = {"chain_kernel", blocks, 1, 32, 0, stream};

    return wtn_launch(&launch, chain_kernel, &p);
}

WTN_KERNEL(32, 1) sum_kernel(WTN_PARAMS(chain_params_t, p))
{
    if (wtn_thread() == 0) {
        while (wtn_load_acquire_device(p.out) != wtn_block()) {
            wtn_pause(100);
        }
        p.flags[wtn_block() + 1] = p.flags[wtn_block()] + 1;
        wtn_add_release_device(p.out, 1);
    }
    wtn_sync_block();
}

extern "C" witan_status_t wrappers_sum(uint64_t *flags, uint32_t *out, uint32_t blocks,
                                       void *stream)
{
    chain_params_t p      = {flags, out};
    wtn_launch_t   launch = {"sum_kernel", blocks, 1, 32, 0, stream};

    return wtn_launch(&launch, sum_kernel, &p);
}

typedef struct count_params {
    uint32_t *out;
    uint32_t  count;
} count_params_t;

WTN_KERNEL(64, 1) count_kernel(WTN_PARAMS(count_params_t, p))
{
    uint32_t i = wtn_block() * wtn_thread_count() + wtn_thread();

    if (i < p.count) {
        p.out[i] = i;
    }
}

extern "C" witan_status_t wrappers_count(uint32_t *out, uint32_t count, void *stream)
{
    count_params_t p      = {out, count};
    wtn_launch_t   launch = {"count_kernel", (count + 63) / 64, 1, 64, 0, stream};

    return wtn_launch(&launch, count_kernel, &p);
}

/* ---- wrong programs ---- */

typedef struct wrong_params {
    int32_t  kind;
    char    *memory;
    uint64_t bytes;
} wrong_params_t;

WTN_KERNEL(64, 1) wrong_kernel(WTN_PARAMS(wrong_params_t, p))
{
    uint32_t i = wtn_thread();
    uint32_t row[4];

    switch (p.kind) {
    case WRONG_LANE_LEFT:
        if (i == 3) {
            return;
        }
        (void)wtn_shuffle(i, 0);
        break;
    case WRONG_THREAD_LEFT:
        if (i != 40) {
            wtn_sync_block();
        }
        break;
    case WRONG_BARRIER_COUNT:
        wtn_sync_named(1, i < 32 ? 64 : 32);
        break;
    case WRONG_OPERATION:
        if (i % 32 < 16) {
            (void)wtn_shuffle(i, 0);
        } else {
            (void)wtn_ballot(true);
        }
        break;
    case WRONG_BEHIND_SHARED:
        *(volatile char *)(wtn_shared() + 1024) = 1;
        break;
    case WRONG_SHARED_ADDRESS:
        wtn_load_matrix(row, wtn_shared_address(wtn_shared()) + 1024);
        break;
    case WRONG_ALIGNMENT:
        wtn_store16(wtn_shared(), wtn_load16(p.memory + 8));
        break;
    case WRONG_BEHIND_GLOBAL:
        *(volatile uint32_t *)wtn_shared() = *(volatile uint32_t *)(p.memory + p.bytes);
        break;
    case WRONG_WRITE_BEHIND:
        *(volatile char *)(p.memory + p.bytes) = 1;
        break;
    }
}

extern "C" witan_status_t wrappers_wrong(int32_t kind, void *memory, uint64_t bytes, void *stream)
{
    wrong_params_t p      = {kind, (char *)memory, bytes};
    wtn_launch_t   launch = {"wrong_kernel", 1, 1, 64, 1024, stream};

    return wtn_launch(&launch, wrong_kernel, &p);
}

typedef struct nothing_params {
    int32_t unused;
} nothing_params_t;

WTN_KERNEL(1024, 1) nothing_kernel(WTN_PARAMS(nothing_params_t, p))
{
    (void)p.unused;
}

extern "C" witan_status_t wrappers_nothing(uint32_t blocks, uint32_t blocks_y, uint32_t threads,
                                           uint64_t shared_bytes, void *stream)
{
    nothing_params_t p      = {0};
    wtn_launch_t     launch = {"nothing_kernel", blocks, blocks_y, threads, shared_bytes, stream};

    return wtn_launch(&launch, nothing_kernel, &p);
}

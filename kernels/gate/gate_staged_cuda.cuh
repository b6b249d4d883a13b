/* The gate of many tokens, bf16 alone: x and weights come through shared memory. Same products in
 * the same order as the other forms, so the same bits. */
#ifndef WTN_GATE_STAGED_CUDA_CUH
#define WTN_GATE_STAGED_CUDA_CUH

#include "kernels/gate/gate_sums_cuda.cuh"

#define STAGED_THREADS 256
/* Columns in a stage, so that a row of it is 128 bytes, and stages. */
#define STAGE_COLUMNS 64
#define STAGE_ROW     (STAGE_COLUMNS * 2)
#define STAGE_COUNT   4

/* A block brings all columns of its tokens and weights once, some stages ahead of the products. Its
 * 8 warps are `above` by 8 / above tiles of 32 tokens by 8 * NT columns. */
template <int above, int NT> struct staged {
    static constexpr int tokens = above * 32, columns = 8 / above * NT * 8;
    static constexpr int bytes  = (tokens + columns) * STAGE_ROW;
    static constexpr int passes = (tokens + columns) * 8 / STAGED_THREADS;
};

/* A row's chunks of 16 bytes change sides in odd rows, so that the 8 that lanes of two rows read at
 * once lie in different banks. */
WTN_DEVICE uint32_t stage_place(uint32_t row, uint32_t chunk)
{
    return row * STAGE_ROW + (chunk ^ (row % 2 * 4)) * 16;
}

/* Where this thread's chunks of a stage come from: one in every 32nd row, first tokens, then
 * weights. Rows past the last are the last one's: what they give is not stored. */
template <typename shape>
WTN_DEVICE void find_sources(const gate_params_t &p, int64_t token, int64_t column,
                             const char *(&from)[shape::passes])
{
    const int64_t stored_rows = p.plane_words / p.stored_cols;

#pragma unroll
    for (int i = 0; i < shape::passes; i++) {
        const int64_t r = wtn_thread() / 8 + i * STAGED_THREADS / 8;

        if (i * STAGED_THREADS / 8 < shape::tokens) {
            const int64_t t = token + r < p.token_count ? token + r : p.token_count - 1;

            from[i] = p.x + t * p.hidden_size * 2;
        } else {
            const int64_t n = column + r - shape::tokens;

            from[i] =
                (const char *)(p.planes + (n < stored_rows ? n : stored_rows - 1) * p.stored_cols);
        }
    }
}

/* Ask for stage `index`, if there is one; zeros past the ends of rows. */
template <typename shape>
WTN_DEVICE void bring_stage(const gate_params_t &p, const char *const (&from)[shape::passes],
                            int64_t index, wtn_saddr_t shared)
{
    const uint32_t    chunk = wtn_thread() % 8;
    const int64_t     k     = index * STAGE_COLUMNS + chunk * 8;
    const wtn_saddr_t to    = shared + (uint32_t)(index % STAGE_COUNT) * shape::bytes +
                           stage_place(wtn_thread() / 8, chunk);

    if (index * STAGE_COLUMNS < p.stored_cols) {
#pragma unroll
        for (int i = 0; i < shape::passes; i++) {
            const bool x     = i * STAGED_THREADS / 8 < shape::tokens;
            const bool there = k < (x ? p.hidden_size : p.stored_cols);

            wtn_copy16_async(to + i * STAGED_THREADS / 8 * STAGE_ROW, from[i] + (there ? k * 2 : 0),
                             there ? 16 : 0);
        }
    }
    wtn_copy_commit();
}

/* The products of a stage, in the same order as those of load_step. */
template <typename shape, int NT>
WTN_DEVICE void add_stage(const char *stage, uint32_t token, uint32_t column, tile<2, NT> *sums)
{
    const uint32_t row = wtn_lane() / 4;

#pragma unroll
    for (uint32_t chunk = 0; chunk < 8; chunk += 4) {
        step<WITAN_BF16, 1, 2, NT> s;

#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const wtn_vec16_t v =
                *(const wtn_vec16_t *)(stage +
                                       stage_place(token + row + 8 * i, chunk + wtn_lane() % 4));

            s.x[i / 2][i % 2] = {{v.x, v.y, v.z, v.w}};
        }
#pragma unroll
        for (uint32_t n = 0; n < NT; n++) {
            s.w[0][n] =
                *(const wtn_vec16_t *)(stage + stage_place(shape::tokens + column + row + 8 * n,
                                                           chunk + wtn_lane() % 4));
        }
        add_step(s, sums, sums); /* no lower parts */
    }
}

template <int above, int NT>
WTN_KERNEL(STAGED_THREADS, 1)
staged_kernel(WTN_PARAMS(gate_params_t, p))
{
    wtn_grid_wait();
    typedef staged<above, NT> shape;

    const uint32_t warp    = wtn_warp();
    const int64_t  columns = (p.out_count + shape::columns - 1) / shape::columns;
    const int64_t  token   = wtn_block() / columns * shape::tokens;
    const int64_t  column  = wtn_block() % columns * shape::columns;
    const int64_t  stages  = (p.stored_cols + STAGE_COLUMNS - 1) / STAGE_COLUMNS;
    const uint32_t mine = warp % above * 32, beside = warp / above * NT * 8;
    const char    *from[shape::passes];
    tile<2, NT>    total, one;

    find_sources<shape>(p, token, column, from);
    for (int64_t s = 0; s < STAGE_COUNT - 1; s++) {
        bring_stage<shape>(p, from, s, wtn_shared_address(wtn_shared()));
    }
    clear(&total);
    clear(&one);
    for (int64_t s = 0; s < stages; s++) {
        wtn_copy_wait<STAGE_COUNT - 2>();
        wtn_sync_block(); /* the stage is there for all, and all are done with the one before */
        bring_stage<shape>(p, from, s + STAGE_COUNT - 1, wtn_shared_address(wtn_shared()));
        add_stage<shape, NT>(wtn_shared() + s % STAGE_COUNT * shape::bytes, mine, beside, &one);
        if ((s + 1) % (SEGMENT / STAGE_COLUMNS) == 0 || s + 1 == stages) {
            add_tile(&total, one);
            clear(&one);
        }
    }
    wtn_grid_release();
    store_tile(p, token + mine, column + beside, total);
}

#endif

/* Template of a tile kernel, included once per multiply-add. Before including define
 *   TILE_NAME            the function
 *   TILE_ROWS            1..12
 *   TILE_GROUP           type of one group of a packed row (float, or two bf16 in uint32_t)
 *   TILE_WEIGHT          type of one group of a column of weights
 *   TILE_LOAD(p)         VEC_LANES columns
 *   TILE_BROADCAST(p)    one group of a row for all columns
 *   TILE_MADD(sum, a, b)
 * The sums stay in registers: two vectors per row. Keep callers with constant arguments out of the
 * file; GCC 12 then specialises the loop and spills the sums. */

#define TILE_UNROLL     _Pragma("GCC unroll 12")
#define TILE_CAT2(a, b) a##b
#define TILE_CAT(a, b)  TILE_CAT2(a, b)
#define TILE_FIXED      TILE_CAT(TILE_NAME, _rows)

VEC_INLINE void TILE_FIXED(const int rows, const bool narrow, const wtn_tile_args_t *args)
{
    const TILE_GROUP  *x        = args->x;
    const TILE_WEIGHT *w        = args->panel;
    const char        *prefetch = args->prefetch;
    const int64_t      step     = args->prefetch_step;
    const bool         wide     = step > 64;
    vec_t              left[TILE_ROWS], right[TILE_ROWS];

    TILE_UNROLL
    for (int r = 0; r < rows; r++) {
        left[r]  = vec_zero();
        right[r] = vec_zero();
    }
    for (int64_t group = args->group_count; group > 0; group--) {
        const __typeof__(TILE_LOAD(w)) w_left  = TILE_LOAD(w);
        const __typeof__(TILE_LOAD(w)) w_right = TILE_LOAD(w + VEC_LANES);

        __builtin_prefetch(prefetch, 0, 3);
        if (wide) {
            __builtin_prefetch(prefetch + 64, 0, 3);
        }
        TILE_UNROLL
        for (int r = 0; r < rows; r++) {
            const __typeof__(TILE_BROADCAST(x)) x_row = TILE_BROADCAST(x + r);

            left[r] = TILE_MADD(left[r], x_row, w_left);
            if (!narrow) {
                right[r] = TILE_MADD(right[r], x_row, w_right);
            }
        }
        x += rows;
        w += 2 * VEC_LANES;
        prefetch += step;
    }
    TILE_UNROLL
    for (int r = 0; r < rows; r++) {
        vec_store(args->sums + r * 2 * VEC_LANES, left[r]);
        vec_store(args->sums + r * 2 * VEC_LANES + VEC_LANES, right[r]);
    }
}

void TILE_NAME(const wtn_tile_args_t *args)
{
    switch (args->rows) {
#define TILE_CASE(n)                    \
    case n:                             \
        if (args->narrow) {             \
            TILE_FIXED(n, true, args);  \
        } else {                        \
            TILE_FIXED(n, false, args); \
        }                               \
        break;
        TILE_CASE(1)
        TILE_CASE(2)
        TILE_CASE(3)
        TILE_CASE(4)
        TILE_CASE(5)
        TILE_CASE(6)
#if TILE_ROWS > 6
        TILE_CASE(7)
        TILE_CASE(8)
        TILE_CASE(9)
        TILE_CASE(10)
        TILE_CASE(11)
        TILE_CASE(12)
#endif
#undef TILE_CASE
    default:
        __builtin_unreachable();
    }
}

#undef TILE_UNROLL
#undef TILE_CAT2
#undef TILE_CAT
#undef TILE_FIXED
#undef TILE_NAME
#undef TILE_ROWS
#undef TILE_GROUP
#undef TILE_WEIGHT
#undef TILE_LOAD
#undef TILE_BROADCAST
#undef TILE_MADD

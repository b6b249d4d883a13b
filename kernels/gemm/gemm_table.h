/* Template: a tier's table of tiles that sum fp32 rows, included once at the end of a file. Before
 * including define
 *   GEMM_TIER       name of the tier
 *   GEMM_TILE_ROWS  rows of a full tile */

#define GEMM_CAT2(a, b) a##b
#define GEMM_CAT(a, b)  GEMM_CAT2(a, b)

static void pack_rows(int32_t count, int64_t K, const void *const *rows, witan_dtype_t dtype,
                      void *packed)
{
    switch (dtype) {
    case WITAN_F16:
        pack_words(count, K, rows, WITAN_F16, packed);
        break;
    case WITAN_BF16:
        pack_words(count, K, rows, WITAN_BF16, packed);
        break;
    case WITAN_F32:
    default:
        pack_words(count, K, rows, WITAN_F32, packed);
        break;
    }
}

#define GEMM(d, name)                                  \
    [d] = {.dtype         = d,                         \
           .panel_columns = 2 * VEC_LANES,             \
           .depth         = 1,                         \
           .tile_rows     = GEMM_TILE_ROWS,            \
           .row_dtype     = WITAN_F32,                 \
           .tile          = GEMM_CAT(name, GEMM_TIER), \
           .pack_rows     = pack_rows}

const wtn_gemm_t GEMM_CAT(wtn_gemm_, GEMM_TIER)[] = {
    GEMM(WITAN_F32, wtn_tile_f32_),
    GEMM(WITAN_F16, wtn_tile_f16_),
    GEMM(WITAN_BF16, wtn_tile_bf16_),
};

#undef GEMM
#undef GEMM_CAT
#undef GEMM_CAT2
#undef GEMM_TIER
#undef GEMM_TILE_ROWS

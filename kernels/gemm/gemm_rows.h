/* Template: rows of any dtype to packed rows of floats. */

/* Elements converted at a time; their packed place stays in the first-level cache. */
#define PACK_BLOCK 128

static void pack_rows(int32_t count, int64_t K, const void *const *rows, witan_dtype_t dtype,
                      void *packed)
{
    size_t element = witan_dtype_bytes(dtype);
    float  block[PACK_BLOCK];

    for (int64_t begin = 0; begin < K; begin += PACK_BLOCK) {
        int64_t size = wtn_min_i64(PACK_BLOCK, K - begin);
        float  *to   = (float *)packed + begin * count;

        for (int32_t r = 0; r < count; r++) {
            const char *from = (const char *)rows[r] + (size_t)begin * element;
            int64_t     i    = 0;

            for (; i + VEC_LANES <= size; i += VEC_LANES) {
                vec_store(block + i, vec_load_as(dtype, from + (size_t)i * element));
            }
            for (; i < size; i++) {
                block[i] = wtn_load_float(from, dtype, (size_t)i);
            }
            for (i = 0; i < size; i++) {
                to[i * count + r] = block[i];
            }
        }
    }
}

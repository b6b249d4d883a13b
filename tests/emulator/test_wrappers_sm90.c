/* Each wrapper of kernels/cuda/device_sm90.cuh against plain C: the same program on the emulator
 * and on a device. */
#include <stdio.h>

#include "tests/emulator/support.h"
#include "tests/emulator/wrappers_sm90.h"

#ifdef WTN_EMULATOR
#include "tests/emulator/emulator.h"
#endif

static uint32_t random_state = 5;

static uint32_t draw(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* Where byte `offset` of an unswizzled tile lies: bits 4-6 are combined with bits 7-9. */
static size_t swizzled(size_t offset)
{
    return offset ^ (offset >> 7 & 7u) << 4;
}

/* ---- boxes ---- */

START_TEST(test_box_is_swizzled_and_zero_outside)
{
    static const struct {
        int32_t x, y;
    } at[] = {{0, 0}, {8, 3}, {72, 30}, {96, 0}, {-16, -5}, {200, 200}};
    enum { ROWS = 37, COLUMNS = 100, STRIDE = 208 };
    const size_t  box_bytes = BOX_ROWS * BOX_COLUMNS * 2;
    unsigned char matrix[ROWS][STRIDE], *box = malloc(box_bytes);
    void         *device_matrix, *device_box;

    for (size_t i = 0; i < sizeof(matrix); i++) {
        ((unsigned char *)matrix)[i] = (unsigned char)draw();
    }
    device_matrix = device_from(matrix, sizeof(matrix));
    for (size_t n = 0; n < sizeof(at) / sizeof(at[0]); n++) {
        device_box = device_from(NULL, box_bytes);
        OK(sm90_box(device_matrix, ROWS, COLUMNS, STRIDE, at[n].x, at[n].y, device_box, NULL));
        to_host(box, device_box, box_bytes);
        for (int32_t r = 0; r < BOX_ROWS; r++) {
            for (int32_t c = 0; c < BOX_COLUMNS; c++) {
                int32_t  x = at[n].x + c, y = at[n].y + r;
                uint16_t want = 0, got;
                if (x >= 0 && x < COLUMNS && y >= 0 && y < ROWS) {
                    memcpy(&want, &matrix[y][2 * x], sizeof(want));
                }
                memcpy(&got, box + swizzled((size_t)(128 * r + 2 * c)), sizeof(got));
                ck_assert_uint_eq(got, want);
            }
        }
    }
    OK(cudaFree(device_matrix));
    free(box);
}
END_TEST

START_TEST(test_map_of_bad_shape_is_refused)
{
    char *matrix = device_from(NULL, 4096);

    ck_assert_int_ne(sm90_box(matrix + 8, 4, 64, 128, 0, 0, matrix, NULL), WITAN_OK);
    ck_assert_int_ne(sm90_box(matrix, 4, 64, 136, 0, 0, matrix, NULL), WITAN_OK);
    ck_assert_int_ne(sm90_box(matrix, 0, 64, 128, 0, 0, matrix, NULL), WITAN_OK);
    OK(cudaFree(matrix));
}
END_TEST

/* ---- products ---- */

static uint16_t small_number(int value, bool bf16)
{
    uint32_t bits = bits_of((float)value);

    if (bf16) {
        return (uint16_t)(bits >> 16);
    }
    return value == 0
               ? 0u
               : (uint16_t)((bits >> 16 & 0x8000u) | (((bits & 0x7fffffffu) - (112u << 23)) >> 13));
}

typedef struct product {
    uint32_t n;
    int      a[64][64], b[256][64];
    uint16_t a_bits[64][64], b_bits[256][64];
    float    d[64 * 256], want[64 * 256];
} product_t;

/* Small whole numbers: exact whatever the order of the sums. */
static product_t *product_make(uint32_t n, bool bf16, bool add)
{
    product_t *p = calloc(1, sizeof(*p));

    p->n = n;
    for (uint32_t k = 0; k < 64; k++) {
        for (uint32_t i = 0; i < 64; i++) {
            p->a[i][k]      = (int)(draw() % 17) - 8;
            p->a_bits[i][k] = small_number(p->a[i][k], bf16);
        }
        for (uint32_t j = 0; j < n; j++) {
            p->b[j][k]      = (int)(draw() % 17) - 8;
            p->b_bits[j][k] = small_number(p->b[j][k], bf16);
        }
    }
    for (uint32_t i = 0; i < 64 * n; i++) {
        p->d[i]    = (float)((int)(draw() % 2001) - 1000);
        p->want[i] = add ? p->d[i] : 0.0f;
        for (uint32_t k = 0; k < 64; k++) {
            p->want[i] += (float)(p->a[i / n][k] * p->b[i % n][k]);
        }
    }
    return p;
}

static int product_run(product_t *p, bool bf16, bool add, int32_t broken)
{
    void *a = device_from(p->a_bits, sizeof(p->a_bits));
    void *b = device_from(p->b_bits, p->n * sizeof(p->b_bits[0]));
    void *d = device_from(p->d, 64 * p->n * sizeof(float));
    int   code;

    OK(sm90_product(a, b, d, p->n, bf16, add, broken, NULL));
    code = (int)cudaDeviceSynchronize();
    if (code == 0) {
        to_host(p->d, d, 64 * p->n * sizeof(float));
        OK(cudaFree(a));
        OK(cudaFree(b));
    }
    return code;
}

static bool product_equal(const product_t *p)
{
    for (uint32_t i = 0; i < 64 * p->n; i++) {
        if (bits_of(p->d[i]) != bits_of(p->want[i])) {
            return false;
        }
    }
    return true;
}

START_TEST(test_product_of_whole_numbers_is_exact)
{
    static const uint32_t widths[] = {16, 48, 80, 128, 256};

    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        for (int kind = 0; kind < 8; kind++) {
            product_t *p = product_make(widths[i], kind % 2 != 0, kind / 2 % 2 != 0);
            OK(product_run(p, kind % 2 != 0, kind / 2 % 2 != 0,
                           kind / 4 != 0 ? SM90_OWN_FENCE : SM90_RIGHT));
            ck_assert(product_equal(p));
            free(p);
        }
    }
}
END_TEST

#ifdef WTN_EMULATOR
START_TEST(test_broken_product_is_found)
{
    static const struct {
        int32_t     broken;
        const char *text;
    } cases[] = {
        {SM90_NO_FENCE, "which cp.async wrote, without wtn_fence_async"},
        {SM90_ONE_FENCE, "which cp.async wrote, without wtn_fence_async"},
        {SM90_NO_BYTES, "deadlock: threads 0-127 in wtn_mbarrier_wait (wrappers_sm90.cu:"},
        {SM90_TWICE, "is one already"},
        {SM90_WRITTEN, "was overwritten"},
        {SM90_LEFT, "copies were under way"},
    };
    product_t *p = product_make(16, true, false);

    ck_assert(wtn_emulator_parse_order("forward"));
    OK(product_run(p, true, false, SM90_NO_WAIT));
    ck_assert(!product_equal(p));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ck_assert_int_ne(product_run(p, true, false, cases[i].broken), 0);
        ck_assert_msg(strstr(wtn_emulator_report(), cases[i].text) != NULL, "'%s'",
                      wtn_emulator_report());
        wtn_emulator_reset();
    }
    free(p);
}
END_TEST
#endif

/* ---- the rest ---- */

START_TEST(test_stmatrix_as_plain_c)
{
    uint32_t in[128], out[128];
    uint16_t before[256], after[256];
    void    *device_in, *device_out;

    for (uint32_t i = 0; i < 128; i++) {
        in[i] = draw();
    }
    device_in  = device_from(in, sizeof(in));
    device_out = device_from(NULL, sizeof(out));
    OK(sm90_stmatrix(device_in, device_out, false, NULL));
    to_host(out, device_out, sizeof(out));
    /* word m of lane l is pair l % 4 of row l / 4 of matrix m: here both lie in the same order */
    ck_assert_mem_eq(out, in, sizeof(in));
    device_out = device_from(NULL, sizeof(out));
    OK(sm90_stmatrix(device_in, device_out, true, NULL));
    to_host(out, device_out, sizeof(out));
    OK(cudaFree(device_in));
    memcpy(before, in, sizeof(before));
    memcpy(after, out, sizeof(after));
    for (uint32_t i = 0; i < 256; i++) { /* number i % 8 of row i / 8 % 8 of matrix i / 64 */
        ck_assert_uint_eq(after[i], before[i / 64 * 64 + i % 8 * 8 + i / 8 % 8]);
    }
}
END_TEST

START_TEST(test_ring_of_barriers_passes_all)
{
    static const uint32_t stages[] = {1, 2, 3, 7};
    enum { COUNT = 64 * 50 };
    uint32_t *in = malloc(COUNT * sizeof(*in));

    for (size_t n = 0; n < sizeof(stages) / sizeof(stages[0]); n++) {
        uint64_t want = 0, out[2];
        void    *device_in, *device_out;
        for (uint32_t i = 0; i < COUNT; i++) {
            in[i] = draw();
            want += in[i];
        }
        device_in  = device_from(in, COUNT * sizeof(*in));
        device_out = device_from(NULL, sizeof(out));
        OK(sm90_ring(device_in, device_out, COUNT, stages[n], NULL));
        to_host(out, device_out, sizeof(out));
        OK(cudaFree(device_in));
        ck_assert_uint_eq(out[0], want);
        ck_assert_uint_eq(out[1], 1);
    }
    free(in);
}
END_TEST

START_TEST(test_words_are_passed_in_order)
{
    enum { COUNT = 50 };
    uint32_t in[COUNT], out[COUNT];
    void    *device_in, *device_out;

    for (uint32_t i = 0; i < COUNT; i++) {
        in[i] = draw();
    }
    device_in  = device_from(in, sizeof(in));
    device_out = device_from(NULL, sizeof(out));
    OK(sm90_pass(device_in, device_out, COUNT, NULL));
    to_host(out, device_out, sizeof(out));
    OK(cudaFree(device_in));
    for (uint32_t i = 0; i < COUNT; i++) {
        ck_assert_uint_eq(out[i], in[i]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wrappers_sm90");
    TCase *tc    = tcase_create("wrappers_sm90");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_box_is_swizzled_and_zero_outside);
    tcase_add_test(tc, test_map_of_bad_shape_is_refused);
    tcase_add_test(tc, test_product_of_whole_numbers_is_exact);
    tcase_add_test(tc, test_stmatrix_as_plain_c);
    tcase_add_test(tc, test_ring_of_barriers_passes_all);
    tcase_add_test(tc, test_words_are_passed_in_order);
#ifdef WTN_EMULATOR
    tcase_add_test(tc, test_broken_product_is_found);
#endif
    suite_add_tcase(suite, tc);
    return run_on_device(suite, 9);
}

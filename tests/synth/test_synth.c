/* Synthetic blocks: what is written is the same again, and all or nothing.
 */
#include <check.h>
#include <dirent.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/half.h"
#include "core/util.h"
#include "launcher/synth.h"
#include "synth/folder.h"

/* Names in a folder, without "." and "..". */
static int entry_count(const char *folder)
{
    DIR *dir   = opendir(folder);
    int  count = 0;

    ck_assert_ptr_nonnull(dir);
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count - 2;
}

static void *read_file(const char *folder, const char *name, size_t *bytes)
{
    char        path[512];
    struct stat about;
    FILE       *file;
    void       *data;

    snprintf(path, sizeof(path), "%.300s/%s", folder, name);
    ck_assert_msg(stat(path, &about) == 0, "no %s", path);
    *bytes = (size_t)about.st_size;
    data   = malloc(*bytes + 1);
    file   = fopen(path, "rb");
    ck_assert(data != NULL && file != NULL);
    ck_assert_uint_eq(fread(data, 1, *bytes, file), *bytes);
    fclose(file);
    return data;
}

static bool files_equal(const char *folder_a, const char *folder_b, const char *name)
{
    size_t bytes_a, bytes_b;
    void  *a     = read_file(folder_a, name, &bytes_a);
    void  *b     = read_file(folder_b, name, &bytes_b);
    bool   equal = bytes_a == bytes_b && memcmp(a, b, bytes_a) == 0;

    free(a);
    free(b);
    return equal;
}

START_TEST(test_synth_same_seed_gives_same_bytes)
{
    const char *preset = wtn_synth_presets[_i].name;
    const char *one = place("one"), *again = place("again"), *other = place("other");

    REQUIRE(write_tiny(preset, WTN_SYNTH_PUBLISHED, 7, 0, one));
    REQUIRE(write_tiny(preset, WTN_SYNTH_PUBLISHED, 7, 0, again));
    REQUIRE(write_tiny(preset, WTN_SYNTH_PUBLISHED, 8, 0, other));
    ck_assert(files_equal(one, again, "config.json"));
    ck_assert(files_equal(one, again, "model.safetensors"));
    ck_assert(files_equal(one, again, "input.safetensors"));
    ck_assert(!files_equal(one, other, "model.safetensors"));
    ck_assert(!files_equal(one, other, "input.safetensors"));
}
END_TEST

/* Every tensor of a block on its own, in one piece and in pieces of awkward sizes. */
START_TEST(test_synth_fill_in_pieces_equals_whole)
{
    wtn_synth_block_t   block;
    wtn_synth_tensor_t *tensors;
    size_t              count;

    REQUIRE(wtn_synth_block_init(&block, wtn_synth_presets[_i].name, WTN_SYNTH_TINY,
                                 WTN_SYNTH_PUBLISHED, 3));
    REQUIRE(wtn_synth_tensors(&block, &tensors, &count));
    for (size_t i = 0; i < count; i++) {
        size_t item     = wtn_st_dtype_bytes(tensors[i].st.dtype);
        size_t elements = wtn_synth_tensor_bytes(&tensors[i]) / item;
        char  *whole    = malloc(elements * item);
        char  *pieces   = malloc(elements * item);

        ck_assert(whole != NULL && pieces != NULL);
        wtn_synth_fill(&tensors[i], 3, 0, elements, whole);
        for (size_t begin = 0, part = 1; begin < elements; begin += part, part = 2 * part + 1) {
            part = part < elements - begin ? part : elements - begin;
            wtn_synth_fill(&tensors[i], 3, begin, part, pieces + begin * item);
        }
        ck_assert_msg(memcmp(whole, pieces, elements * item) == 0, "%s", tensors[i].name);
        free(whole);
        free(pieces);
    }
    free(tensors);
}
END_TEST

START_TEST(test_synth_fill_same_for_every_number_of_threads)
{
    enum { COUNT = 100001 };
    static const struct {
        wtn_synth_fill_t fill;
        wtn_st_dtype_t   dtype;
    } fills[] = {{WTN_SYNTH_FILL_NORMAL, WTN_ST_F32},
                 {WTN_SYNTH_FILL_NORMAL, WTN_ST_F16},
                 {WTN_SYNTH_FILL_NORMAL, WTN_ST_BF16},
                 {WTN_SYNTH_FILL_FP8, WTN_ST_F8_E4M3},
                 {WTN_SYNTH_FILL_FP4, WTN_ST_U8}};
    static float one[COUNT], three[COUNT];

    for (size_t i = 0; i < WTN_COUNT_OF(fills); i++) {
        wtn_synth_tensor_t tensor = {.name     = "threads",
                                     .st.dtype = fills[i].dtype,
                                     .fill     = fills[i].fill,
                                     .sigma    = 1.0};

        omp_set_num_threads(1);
        wtn_synth_fill(&tensor, 5, 0, COUNT, one);
        omp_set_num_threads(3);
        wtn_synth_fill(&tensor, 5, 0, COUNT, three);
        ck_assert_msg(memcmp(one, three, sizeof(one)) == 0, "fill %zu", i);
    }
}
END_TEST

/* Mean 0 and the sigma promised. 65536 draws: the mean is within sigma / 256 and the standard
 * deviation within 1 / 362 of it, one in three times; four and more times that is allowed. FP8
 * (3 bits of fraction) and FP4 add 2^-4 / sqrt(3) and 1 / 4 of rounding to it, uncorrelated enough.
 */
static void check_moments(wtn_synth_fill_t fill, wtn_st_dtype_t dtype, const double *decode,
                          double sigma, double tolerance)
{
    enum { COUNT = 65536 };
    static float       values[2 * COUNT]; /* room for any dtype */
    wtn_synth_tensor_t tensor = {.name     = "moments",
                                 .st.dtype = dtype,
                                 .fill     = fill,
                                 .sigma    = sigma};
    double             sum = 0.0, squares = 0.0;

    wtn_synth_fill(&tensor, 11, 0, COUNT, values);
    for (size_t i = 0; i < COUNT; i++) {
        double value = decode != NULL ? decode[((const uint8_t *)values)[i]]
                       : dtype == WTN_ST_F32
                           ? (double)values[i]
                           : (double)wtn_bf16_to_float(((const uint16_t *)values)[i]);

        sum += value;
        squares += value * value;
    }
    ck_assert_msg(fabs(sum / COUNT) <= 0.016 * sigma, "mean %g of sigma %g", sum / COUNT, sigma);
    ck_assert_msg(fabs(sqrt(squares / COUNT) / sigma - 1.0) <= tolerance, "rms %g of sigma %g",
                  sqrt(squares / COUNT), sigma);
}

START_TEST(test_synth_fill_moments_are_normal)
{
    static const double fp4[8] = {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0};
    double              low[256], high[256], fp8[256];

    for (int code = 0; code < 256; code++) {
        int exponent = code >> 3 & 15, mantissa = code & 7;

        fp8[code] = exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 10);
        fp8[code] *= code < 128 ? 1.0 : -1.0;
        low[code]  = fp4[code & 7] * ((code & 8) != 0 ? -1.0 : 1.0);
        high[code] = fp4[code >> 4 & 7] * ((code & 128) != 0 ? -1.0 : 1.0);
    }
    check_moments(WTN_SYNTH_FILL_NORMAL, WTN_ST_F32, NULL, 0.25, 0.012);
    check_moments(WTN_SYNTH_FILL_NORMAL, WTN_ST_BF16, NULL, 0.25, 0.012);
    check_moments(WTN_SYNTH_FILL_FP8, WTN_ST_F8_E4M3, fp8, WTN_SYNTH_FP8_SIGMA, 0.016);
    check_moments(WTN_SYNTH_FILL_FP4, WTN_ST_U8, low, WTN_SYNTH_FP4_SIGMA, 0.05);
    check_moments(WTN_SYNTH_FILL_FP4, WTN_ST_U8, high, WTN_SYNTH_FP4_SIGMA, 0.05);
}
END_TEST

START_TEST(test_synth_folder_with_files_refused)
{
    const char *folder = place("taken");
    char        path[512];
    FILE       *file;

    ck_assert_int_eq(mkdir(folder, 0777), 0);
    snprintf(path, sizeof(path), "%.300s/mine", folder);
    file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fclose(file);
    ck_assert_int_eq(write_tiny("mixtral-8x7b", WTN_SYNTH_BF16, 0, 0, folder), WITAN_E_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), folder));
    ck_assert_int_eq(entry_count(folder), 1);
    ck_assert_int_eq(write_tiny("mixtral-8x7b", WTN_SYNTH_BF16, 0, 0, path), WITAN_E_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), path));
    ck_assert_int_eq(entry_count(root), 1);
}
END_TEST

START_TEST(test_synth_empty_folder_filled)
{
    const char *folder = place("empty");

    ck_assert_int_eq(mkdir(folder, 0777), 0);
    REQUIRE(write_tiny("mixtral-8x7b", WTN_SYNTH_BF16, 0, 0, folder));
    ck_assert_int_eq(entry_count(folder), 3);
    ck_assert_int_eq(entry_count(root), 1);
}
END_TEST

START_TEST(test_synth_failure_leaves_nothing)
{
    static volatile sig_atomic_t interrupted = 1;
    wtn_synth_block_t            block;
    wtn_synth_result_t           result;
    wtn_synth_options_t          options = {.folder      = place("never"),
                                            .token_count = 1,
                                            .interrupted = &interrupted};

    ck_assert_int_eq(write_tiny("mixtral-8x7b", WTN_SYNTH_BF16, 0, 0, place("no/such/parent")),
                     WITAN_E_IO);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "no/such/parent"));
    REQUIRE(wtn_synth_block_init(&block, "mixtral-8x7b", WTN_SYNTH_TINY, WTN_SYNTH_BF16, 0));
    ck_assert_int_eq(wtn_synth_write(&block, &options, &result), WITAN_E_STATE);
    ck_assert_int_eq(entry_count(root), 0);
}
END_TEST

START_TEST(test_synth_unknown_preset_lists_the_known)
{
    wtn_synth_block_t block;

    ck_assert_int_eq(wtn_synth_block_init(&block, "mixtral", WTN_SYNTH_TINY, WTN_SYNTH_PUBLISHED,
                                          0),
                     WITAN_E_CONFIG);
    for (size_t i = 0; i < wtn_synth_preset_count; i++) {
        ck_assert_ptr_nonnull(strstr(witan_last_error(), wtn_synth_presets[i].name));
    }
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("synth");
    TCase   *cases  = tcase_create("blocks");
    int      rows   = (int)wtn_synth_preset_count;
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_checked_fixture(cases, make_root, remove_root);
    tcase_set_timeout(cases, 30);
    tcase_add_loop_test(cases, test_synth_same_seed_gives_same_bytes, 0, rows);
    tcase_add_loop_test(cases, test_synth_fill_in_pieces_equals_whole, 0, rows);
    tcase_add_test(cases, test_synth_fill_same_for_every_number_of_threads);
    tcase_add_test(cases, test_synth_fill_moments_are_normal);
    tcase_add_test(cases, test_synth_folder_with_files_refused);
    tcase_add_test(cases, test_synth_empty_folder_filled);
    tcase_add_test(cases, test_synth_failure_leaves_nothing);
    tcase_add_test(cases, test_synth_unknown_preset_lists_the_known);
    suite_add_tcase(suite, cases);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

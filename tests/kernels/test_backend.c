/* The tables: backends, tiers, gather and the probes. */
#include "data.h"

#include "kernels/gather/gather.h"
#include "kernels/probe/probe.h"

START_TEST(test_backend_names_are_found_or_refused)
{
    const wtn_backend_t *backend;
    char                 reason[128];

    ck_assert_int_eq(wtn_backend_select("auto", &backend), WITAN_OK);
    ck_assert_ptr_nonnull(backend);
    for (int32_t i = 0; wtn_backends[i] != NULL; i++) {
        bool           here   = wtn_backends[i]->probe(reason, sizeof(reason));
        witan_status_t status = wtn_backend_select(wtn_backends[i]->name, &backend);

        ck_assert_int_eq(status, here ? WITAN_OK : WITAN_E_UNSUPPORTED);
        ck_assert_ptr_eq(backend, here ? wtn_backends[i] : NULL);
        ck_assert(here || strstr(witan_last_error(), reason) != NULL);
    }
    ck_assert_int_eq(wtn_backend_select("abacus", &backend), WITAN_E_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "expected one of auto, host"));
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "found 'abacus'"));
    ck_assert_ptr_null(backend);
}
END_TEST

START_TEST(test_tier_names_are_found_or_refused)
{
    const wtn_tier_t *tier;
    char              reason[128];

    for (int32_t i = 0; wtn_tiers[i] != NULL; i++) {
        bool           here   = wtn_tier_probe(wtn_tiers[i], reason, sizeof(reason));
        witan_status_t status = wtn_tier_select(wtn_tier_name(wtn_tiers[i]), &tier);

        ck_assert_int_eq(status, here ? WITAN_OK : WITAN_E_UNSUPPORTED);
        ck_assert_ptr_eq(tier, here ? wtn_tiers[i] : NULL);
        ck_assert_uint_gt(strlen(reason), 0);
    }
    ck_assert_int_eq(wtn_tier_select("sse9", &tier), WITAN_E_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "expected one of auto, scalar"));
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "found 'sse9'"));
}
END_TEST

START_TEST(test_tier_auto_follows_environment)
{
    const wtn_tier_t *tier;

    ck_assert_int_eq(setenv("WITAN_KERNEL_TIER", "scalar", 1), 0);
    ck_assert_int_eq(wtn_tier_select("auto", &tier), WITAN_OK);
    ck_assert_str_eq(wtn_tier_name(tier), "scalar");
    ck_assert_int_eq(setenv("WITAN_KERNEL_TIER", "sse9", 1), 0);
    ck_assert_int_eq(wtn_tier_select("auto", &tier), WITAN_E_ARGUMENT);
    ck_assert_int_eq(unsetenv("WITAN_KERNEL_TIER"), 0);
    ck_assert_int_eq(wtn_tier_select("auto", &tier), WITAN_OK);
    for (int32_t i = 0; wtn_tiers[i] != NULL; i++) { /* none after it runs here */
        char reason[128];

        if (wtn_tiers[i] == tier) {
            tier = NULL;
        } else if (tier == NULL) {
            ck_assert(!wtn_tier_probe(wtn_tiers[i], reason, sizeof(reason)));
        }
    }
    ck_assert_ptr_null(tier);
}
END_TEST

START_TEST(test_gather_equals_reference)
{
    static const struct {
        int64_t rows;
        size_t  row_bytes;
    } shapes[] = {{0, 8}, {1, 1}, {17, 34}, {5, 5760}, {900, 2048}};

    for (size_t s = 0; s < WTN_COUNT_OF(shapes); s++) {
        const size_t bytes = (size_t)shapes[s].rows * shapes[s].row_bytes;
        uint64_t     state = s;
        char        *x     = data_tensor(bytes, WITAN_F32, 1.0f, 1);
        int64_t     *index = data_alloc((size_t)shapes[s].rows * sizeof(int64_t));
        char        *want  = data_output(bytes);
        char        *out   = data_output(bytes);

        for (int64_t i = 0; i < shapes[s].rows; i++) {
            index[i] = (int64_t)(data_next(&state) % (uint64_t)shapes[s].rows);
        }
        for (int32_t threads = 1; threads <= 3; threads++) {
            wtn_gather_args_t args = {.x            = x,
                                      .index        = index,
                                      .row_count    = shapes[s].rows,
                                      .row_bytes    = shapes[s].row_bytes,
                                      .out          = want,
                                      .thread_count = threads};

            wtn_gather_ref(&args);
            args.out = out;
            wtn_backend_host.gather(&args);
            ck_assert_mem_eq(out, want, bytes + GUARD_BYTES);
        }
        free(x);
        free(index);
        free(want);
        free(out);
    }
}
END_TEST

START_TEST(test_probe_values_are_positive)
{
    FOR_EACH_TIER(tier)
    {
        for (witan_dtype_t dtype = WITAN_F32; dtype <= WITAN_BF16; dtype++) {
            ck_assert(wtn_probe_peak(tier, dtype, 2) > 1e6);
        }
    }
    ck_assert(wtn_probe_read_bandwidth((size_t)4 << 20, 2) > 1e6);
    ck_assert(wtn_probe_read_bandwidth(0, 2) == 0.0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("backend");
    TCase *tests = tcase_create("host");

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_backend_names_are_found_or_refused);
    tcase_add_test(tests, test_tier_names_are_found_or_refused);
    tcase_add_test(tests, test_tier_auto_follows_environment);
    tcase_add_test(tests, test_gather_equals_reference);
    tcase_add_test(tests, test_probe_values_are_positive);
    suite_add_tcase(suite, tests);
    return data_main(suite);
}

/* The emulator's stand-ins for CUDA's headers hold CUDA's numbers. */
#include "tests/emulator/support.h"

#include "tests/emulator/headers.h"

START_TEST(test_numbers_are_those_of_cuda)
{
    size_t count = 0;

    for (; wtn_emulated_values[count].name != NULL; count++) {
        ck_assert_str_eq(wtn_emulated_values[count].name, wtn_cuda_values[count].name);
        ck_assert_msg(wtn_emulated_values[count].value == wtn_cuda_values[count].value,
                      "%s: expected %lld, found %lld", wtn_cuda_values[count].name,
                      wtn_cuda_values[count].value, wtn_emulated_values[count].value);
    }
    ck_assert_ptr_null(wtn_cuda_values[count].name);
    ck_assert_uint_gt(count, 100);
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("headers");
    TCase   *tc     = tcase_create("headers");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_test(tc, test_numbers_are_those_of_cuda);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

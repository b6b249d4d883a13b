/* The emulator finds what is wrong in a kernel, and names it. */
#include "tests/emulator/support.h"

#include "tests/emulator/emulator.h"
#include "tests/emulator/wrappers.h"

/* ---- orders ---- */

static uint32_t tree_sum(int32_t forgotten)
{
    uint32_t in[1024], out;
    void    *device_in, *device_out;

    for (uint32_t i = 0; i < 1024; i++) {
        in[i] = i * i;
    }
    device_in  = device_from(in, sizeof(in));
    device_out = device_from(NULL, sizeof(out));
    OK(wrappers_tree(device_in, device_out, 1024, forgotten, NULL));
    to_host(&out, device_out, sizeof(out));
    OK(cudaFree(device_in));
    return out;
}

START_TEST(test_forgotten_barrier_shows_in_some_order)
{
    static const char *const orders[] = {"forward", "reverse", "random:1", "random:2"};
    uint32_t                 wrong    = 0;

    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        ck_assert(wtn_emulator_parse_order(orders[i]));
        ck_assert_uint_eq(tree_sum(-1), 357389824u);
        wrong += tree_sum(_i) != 357389824u;
    }
    ck_assert_uint_gt(wrong, 0);
}
END_TEST

START_TEST(test_order_of_unknown_name_is_refused)
{
    static const char *const orders[] = {"", "backward", "random:x", "forward:1", "forward,now"};

    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        ck_assert_msg(!wtn_emulator_parse_order(orders[i]), "'%s'", orders[i]);
    }
    ck_assert(wtn_emulator_parse_order("random:18,early"));
}
END_TEST

static bool copies_equal(const char *order, int32_t wait)
{
    enum { THREADS = 64 };
    unsigned char in[16 * THREADS], out[16 * THREADS];
    void         *device_in, *device_out;
    bool          equal = true;

    ck_assert(wtn_emulator_parse_order(order));
    for (size_t i = 0; i < sizeof(in); i++) {
        in[i] = (unsigned char)(i * 7);
    }
    device_in  = device_from(in, sizeof(in));
    device_out = device_from(NULL, sizeof(out));
    OK(wrappers_copy(device_in, device_out, THREADS, 16, wait, NULL));
    to_host(out, device_out, sizeof(out));
    OK(cudaFree(device_in));
    for (size_t i = 0; i < THREADS; i++) {
        equal = equal && memcmp(out + 16 * i, in + 16 * (THREADS - 1 - i), 16) == 0;
    }
    return equal;
}

START_TEST(test_copy_not_waited_for_is_seen)
{
    ck_assert(copies_equal("forward", 1));
    ck_assert(copies_equal("forward,early", 1));
    ck_assert(!copies_equal("forward", 0)); /* reads what shared memory held before: NaNs */
    ck_assert(copies_equal("forward,early", 0));
}
END_TEST

/* ---- wrong programs ---- */

static const struct {
    int32_t     kind;
    cudaError_t code;
    const char *texts[3];
} wrongs[] = {
    {WRONG_LANE_LEFT,
     cudaErrorLaunchTimeout,
     {"wrong_kernel, block 0,0: deadlock: threads 0-2 in wtn_shuffle (wrappers.cu:",
      "; thread 3 left the kernel; threads 4-31 in wtn_shuffle", NULL}},
    {WRONG_THREAD_LEFT,
     cudaErrorLaunchTimeout,
     {"deadlock: threads 0-39 in wtn_sync_block", "; thread 40 left the kernel; threads 41-63 in",
      NULL}},
    {WRONG_BARRIER_COUNT, cudaErrorLaunchFailure, {"barrier 1 of", "others said", NULL}},
    {WRONG_OPERATION, cudaErrorLaunchFailure, {"of its warp is in wtn_", "wrappers.cu:", NULL}},
    {WRONG_SHARED_ADDRESS,
     cudaErrorIllegalAddress,
     {"wtn_load_matrix: byte 1024 of 1024 bytes of shared memory", NULL}},
    {WRONG_ALIGNMENT, cudaErrorMisalignedAddress, {"wtn_load16: address", "multiple of 16", NULL}},
};

START_TEST(test_wrong_kernel_is_named)
{
    void *memory = device_from(NULL, 64);

    OK(wrappers_wrong(wrongs[_i].kind, memory, 64, NULL));
    ck_assert_int_eq(cudaDeviceSynchronize(), wrongs[_i].code);
    for (int i = 0; wrongs[_i].texts[i] != NULL; i++) {
        ck_assert_msg(strstr(wtn_emulator_report(), wrongs[_i].texts[i]) != NULL,
                      "'%s' is not in '%s'", wrongs[_i].texts[i], wtn_emulator_report());
    }
    /* as on a device, nothing works from then on */
    ck_assert_int_eq(cudaMalloc(&memory, 1), wrongs[_i].code);
    ck_assert_int_eq(cudaGetLastError(), wrongs[_i].code);
    wtn_emulator_reset();
    OK(cudaGetLastError());
    ck_assert_uint_eq(tree_sum(-1), 357389824u);
}
END_TEST

static int write_behind_shared(void)
{
    if (wrappers_wrong(WRONG_BEHIND_SHARED, NULL, 0, NULL) != WITAN_OK) {
        return 2;
    }
    return cudaDeviceSynchronize() == cudaErrorIllegalAddress &&
                   strstr(wtn_emulator_report(), "byte 1024 of 1024") != NULL
               ? 0
               : 3;
}

static int write_behind_odd_bytes(void)
{
    void *memory;

    if (cudaMalloc(&memory, 13) != cudaSuccess ||
        wrappers_wrong(WRONG_WRITE_BEHIND, memory, 13, NULL) != WITAN_OK ||
        cudaDeviceSynchronize() != cudaSuccess) {
        return 2;
    }
    return cudaFree(memory) == cudaErrorIllegalAddress &&
                   strstr(wtn_emulator_report(), "13 bytes of device memory: byte 13") != NULL
               ? 0
               : 3;
}

/* AddressSanitizer stops at once; without it the bytes behind are looked at later. */
START_TEST(test_write_behind_memory_is_found)
{
#if defined(__SANITIZE_ADDRESS__)
    ck_assert_int_eq(child(write_behind_shared), DIED);
    ck_assert_int_eq(child(write_behind_odd_bytes), DIED);
#else
    ck_assert_int_eq(child(write_behind_shared), 0);
    ck_assert_int_eq(child(write_behind_odd_bytes), 0);
#endif
}
END_TEST

static int read_behind(void)
{
    void *memory;

    if (cudaMalloc(&memory, 48) != cudaSuccess ||
        wrappers_wrong(WRONG_BEHIND_GLOBAL, memory, 48, NULL) != WITAN_OK) {
        return 2;
    }
    (void)cudaDeviceSynchronize();
    return 0;
}

static int read_freed(void)
{
    void *memory;

    if (cudaMalloc(&memory, 48) != cudaSuccess || cudaFree(memory) != cudaSuccess ||
        wrappers_wrong(WRONG_BEHIND_GLOBAL, memory, 0, NULL) != WITAN_OK) {
        return 2;
    }
    (void)cudaDeviceSynchronize();
    return 0;
}

static int host_reads(void)
{
    volatile unsigned char *memory;
    void                   *allocated;

    if (cudaMalloc(&allocated, 48) != cudaSuccess) {
        return 2;
    }
    memory = allocated;
    return memory[0] == 0xff ? 0 : 3;
}

START_TEST(test_wild_access_kills)
{
    ck_assert_int_eq(child(read_behind), DIED);
    ck_assert_int_eq(child(read_freed), DIED);
    ck_assert_int_eq(child(host_reads), DIED);
}
END_TEST

/* ---- on demand ---- */

START_TEST(test_allocation_fails_on_demand)
{
    void *memory;

    wtn_emulator_fail(WTN_EMULATOR_FAIL_ALLOC, 2);
    OK(cudaMalloc(&memory, 8));
    OK(cudaFree(memory));
    ck_assert_int_eq(cudaHostAlloc(&memory, 8, 0), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorMemoryAllocation);
    OK(cudaGetLastError());
    OK(cudaMalloc(&memory, 8));
    OK(cudaFree(memory));
    ck_assert_uint_eq(wtn_emulator_device_bytes(), 0);
}
END_TEST

START_TEST(test_launch_fails_on_demand_and_stays_failed)
{
    void *memory = device_from(NULL, 64);

    wtn_emulator_fail(WTN_EMULATOR_FAIL_LAUNCH, 1);
    OK(wrappers_count(memory, 16, NULL)); /* queued; it fails when it runs */
    ck_assert_int_eq(cudaStreamSynchronize(NULL), cudaErrorLaunchFailure);
    ck_assert_int_eq(cudaFree(memory), cudaErrorLaunchFailure);
    ck_assert_int_ne(wrappers_count(memory, 16, NULL), WITAN_OK);
    wtn_emulator_reset();
    OK(cudaFree(memory));
}
END_TEST

static int without_driver(void)
{
    int   count = -1;
    void *memory;

    (void)setenv("WTN_EMULATOR_DEVICES", "no-driver", 1);
    return cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver && count == 0 &&
                   cudaMalloc(&memory, 1) == cudaErrorInsufficientDriver
               ? 0
               : 1;
}

static int without_device(void)
{
    int count = -1;

    (void)setenv("WTN_EMULATOR_DEVICES", "0", 1);
    return cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0 ? 0 : 1;
}

START_TEST(test_missing_driver_or_device_as_with_cuda)
{
    ck_assert_int_eq(child(without_driver), 0);
    ck_assert_int_eq(child(without_device), 0);
}
END_TEST

static const char *const meaningless[][2] = {
    {"WTN_EMULATOR_ORDER", "backward"},       {"WTN_EMULATOR_DEVICES", "two"},
    {"WTN_EMULATOR_DEVICES", "-1"},           {"WTN_EMULATOR_SMS", "0"},
    {"WTN_EMULATOR_CAPABILITY", "9.0"},       {"WTN_EMULATOR_FAIL", "alloc"},
    {"WTN_EMULATOR_FAIL", "alloc:0"},         {"WTN_EMULATOR_FAIL", "launch:"},
    {"WTN_EMULATOR_TRACE", "99999999999999"},
};
static int meaningless_index;

static int with_meaningless_setting(void)
{
    int count;

    (void)setenv(meaningless[meaningless_index][0], meaningless[meaningless_index][1], 1);
    (void)cudaGetDeviceCount(&count);
    return 0;
}

START_TEST(test_setting_without_meaning_ends_the_program)
{
    meaningless_index = _i;
    ck_assert_int_eq(child(with_meaningless_setting), EXIT_FAILURE);
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("faults");
    TCase   *tc     = tcase_create("faults");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_forgotten_barrier_shows_in_some_order, 0, 9);
    tcase_add_test(tc, test_order_of_unknown_name_is_refused);
    tcase_add_test(tc, test_copy_not_waited_for_is_seen);
    tcase_add_loop_test(tc, test_wrong_kernel_is_named, 0,
                        (int)(sizeof(wrongs) / sizeof(wrongs[0])));
    tcase_add_test(tc, test_write_behind_memory_is_found);
    tcase_add_test(tc, test_wild_access_kills);
    tcase_add_test(tc, test_allocation_fails_on_demand);
    tcase_add_test(tc, test_launch_fails_on_demand_and_stays_failed);
    tcase_add_test(tc, test_missing_driver_or_device_as_with_cuda);
    tcase_add_loop_test(tc, test_setting_without_meaning_ends_the_program, 0,
                        (int)(sizeof(meaningless) / sizeof(meaningless[0])));
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* The emulator's cuBLAS against sums in plain C: which element is which, not how it rounds. */
#include "tests/emulator/support.h"

#include <cublas_v2.h>

#include "tests/emulator/emulator.h"

enum { M = 5, N = 3, K = 4, LDA = 7, LDB = 6, LDC = 8, BATCH = 3 };

static uint32_t random_state = 3;

static float draw(void) /* whole numbers, exact in all types */
{
    random_state = random_state * 1664525u + 1013904223u;
    return (float)((int)(random_state >> 20) % 9 - 4);
}

/* Whole numbers as bf16, fp16 or fp32. */
static void put(void *to, size_t index, float value, cudaDataType_t type)
{
    uint32_t bits;
    uint16_t half;

    memcpy(&bits, &value, sizeof(bits));
    half = type == CUDA_R_16BF ? (uint16_t)(bits >> 16)
           : value == 0
               ? 0u
               : (uint16_t)((bits >> 16 & 0x8000u) | ((bits & 0x7fffffffu) - (112u << 23)) >> 13);
    if (type == CUDA_R_32F) {
        memcpy((char *)to + 4 * index, &value, 4);
    } else {
        memcpy((char *)to + 2 * index, &half, 2);
    }
}

typedef struct problem {
    float  a[BATCH * LDA * LDA], b[BATCH * LDB * LDB], c[BATCH * LDC * N], want[BATCH * LDC * N];
    char   bytes[3][4 * BATCH * LDC * LDC];
    void  *device[3];
    size_t size;
} problem_t;

static void problem_fill(problem_t *p, cudaDataType_t type)
{
    const size_t counts[3]  = {BATCH * LDA * LDA, BATCH * LDB * LDB, BATCH * LDC * N};
    float *const numbers[3] = {p->a, p->b, p->c};

    p->size = type == CUDA_R_32F ? 4 : 2;
    for (int i = 0; i < 3; i++) {
        for (size_t j = 0; j < counts[i]; j++) {
            numbers[i][j] = draw();
            put(p->bytes[i], j, numbers[i][j], type);
        }
        p->device[i] = device_from(p->bytes[i], counts[i] * p->size);
    }
    memcpy(p->want, p->c, sizeof(p->want));
}

/* c [M, N] = alpha a b + beta c, by columns; a lies transposed where a_t. */
static void reference(problem_t *p, size_t batch, bool a_t, bool b_t, float alpha, float beta)
{
    const float *a = p->a + batch * LDA * LDA, *b = p->b + batch * LDB * LDB;
    float       *c = p->want + batch * LDC * N;

    for (int j = 0; j < N; j++) {
        for (int i = 0; i < M; i++) {
            float sum = 0;
            for (int k = 0; k < K; k++) {
                sum += (a_t ? a[k + i * LDA] : a[i + k * LDA]) *
                       (b_t ? b[j + k * LDB] : b[k + j * LDB]);
            }
            c[i + j * LDC] = alpha * sum + beta * c[i + j * LDC];
        }
    }
}

static void problem_check(problem_t *p, cudaDataType_t type)
{
    char want[4 * BATCH * LDC * N], got[4 * BATCH * LDC * N];

    for (size_t i = 0; i < BATCH * LDC * N; i++) {
        put(want, i, p->want[i], type);
    }
    to_host(got, p->device[2], BATCH * LDC * N * p->size);
    ck_assert_mem_eq(got, want, BATCH * LDC * N * p->size); /* what lies between, too */
    OK(cudaFree(p->device[0]));
    OK(cudaFree(p->device[1]));
}

static const cudaDataType_t types[] = {CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF};

START_TEST(test_batched_products_lie_by_column)
{
    const float    alpha = 2, beta = (float)(_i / 4);
    bool           a_t = _i % 2 != 0, b_t = _i / 2 % 2 != 0;
    cublasHandle_t handle;

    OK(cublasCreate(&handle));
    for (int t = 0; t < 3; t++) {
        problem_t *p = calloc(1, sizeof(*p));
        problem_fill(p, types[t]);
        OK(cublasGemmStridedBatchedEx(handle, a_t ? CUBLAS_OP_T : CUBLAS_OP_N,
                                      b_t ? CUBLAS_OP_T : CUBLAS_OP_N, M, N, K, &alpha,
                                      p->device[0], types[t], LDA, LDA * LDA, p->device[1],
                                      types[t], LDB, LDB * LDB, &beta, p->device[2], types[t], LDC,
                                      LDC * N, BATCH, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
        for (size_t i = 0; i < BATCH; i++) {
            reference(p, i, a_t, b_t, alpha, beta);
        }
        problem_check(p, types[t]);
        free(p);
    }
    OK(cublasDestroy(handle));
}
END_TEST

/* Two groups of one and two problems, the second transposed. */
START_TEST(test_grouped_products_take_lists_of_the_device)
{
    const cublasOperation_t a_ops[2] = {CUBLAS_OP_N, CUBLAS_OP_T}, b_ops[2] = {CUBLAS_OP_N};
    const int               m[2] = {M, M}, n[2] = {N, N}, k[2] = {K, K}, sizes[2] = {1, 2};
    const int               lda[2] = {LDA, LDA}, ldb[2] = {LDB, LDB}, ldc[2] = {LDC, LDC};
    const float             alpha[2] = {1, 3}, beta[2] = {0, 1};
    problem_t              *p = calloc(1, sizeof(*p));
    void                   *lists[3][BATCH], *device_lists[3];
    cublasHandle_t          handle;

    problem_fill(p, CUDA_R_16BF);
    for (size_t i = 0; i < BATCH; i++) {
        lists[0][i] = (char *)p->device[0] + 2 * i * LDA * LDA;
        lists[1][i] = (char *)p->device[1] + 2 * i * LDB * LDB;
        lists[2][i] = (char *)p->device[2] + 2 * i * LDC * N;
    }
    for (int i = 0; i < 3; i++) {
        device_lists[i] = device_from(lists[i], sizeof(lists[i]));
    }
    OK(cublasCreate(&handle));
    OK(cublasGemmGroupedBatchedEx(handle, a_ops, b_ops, m, n, k, alpha, device_lists[0],
                                  CUDA_R_16BF, lda, device_lists[1], CUDA_R_16BF, ldb, beta,
                                  device_lists[2], CUDA_R_16BF, ldc, 2, sizes, CUBLAS_COMPUTE_32F));
    OK(cudaDeviceSynchronize());
    reference(p, 0, false, false, 1, 0);
    reference(p, 1, true, false, 3, 1);
    reference(p, 2, true, false, 3, 1);
    problem_check(p, CUDA_R_16BF);
    for (int i = 0; i < 3; i++) {
        OK(cudaFree(device_lists[i]));
    }
    ck_assert_int_eq(cublasGemmGroupedBatchedEx(handle, a_ops, b_ops, m, n, k, alpha,
                                                (const void *const *)lists[0], CUDA_R_16BF, lda,
                                                (const void *const *)lists[1], CUDA_R_16BF, ldb,
                                                beta, lists[2], CUDA_R_16BF, ldc, 2, sizes,
                                                CUBLAS_COMPUTE_32F),
                     CUBLAS_STATUS_INVALID_VALUE); /* lists of the host */
    OK(cublasDestroy(handle));
    free(p);
}
END_TEST

START_TEST(test_bad_sizes_are_refused)
{
    const float    one    = 1;
    char          *memory = device_from(NULL, 4096);
    cublasHandle_t handle;

    OK(cublasCreate(&handle));
    ck_assert_int_eq(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 8, 8, 8, &one, memory,
                                  CUDA_R_32F, 7, memory, CUDA_R_32F, 8, &one, memory, CUDA_R_32F, 8,
                                  CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                     CUBLAS_STATUS_INVALID_VALUE);
    ck_assert_int_eq(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 8, 8, 8, &one, memory,
                                  CUDA_R_16F, 8, memory, CUDA_R_16BF, 8, &one, memory, CUDA_R_16F,
                                  8, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                     CUBLAS_STATUS_NOT_SUPPORTED);
    OK(cublasDestroy(handle));
    OK(cudaFree(memory));
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("cublas");
    TCase   *tc     = tcase_create("cublas");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_loop_test(tc, test_batched_products_lie_by_column, 0, 8);
    tcase_add_test(tc, test_grouped_products_take_lists_of_the_device);
    tcase_add_test(tc, test_bad_sizes_are_refused);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

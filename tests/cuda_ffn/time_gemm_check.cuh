/* Random problems for the sm_90a grouped GEMM, and whether it solves them: for time_gemm.cu alone.
 */
#ifndef TIME_GEMM_CHECK_CUH
#define TIME_GEMM_CHECK_CUH

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "kernels/gemm/gemm_sm90_cuda.cu"

#define TRY(call)                                                                            \
    do {                                                                                     \
        cudaError_t code_ = (call);                                                          \
        if (code_ != cudaSuccess) {                                                          \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(code_)); \
            exit(1);                                                                         \
        }                                                                                    \
    } while (0)

/* What the library would give. */
extern "C" witan_status_t witan_error_set(witan_status_t status, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    printf("\n");
    return status;
}
extern "C" witan_status_t wtn_cuda_status(int code, const char *what)
{
    if (code != 0) {
        printf("%s: %s\n", what, cudaGetErrorString((cudaError_t)code));
        return WITAN_E_INTERNAL;
    }
    return WITAN_OK;
}
extern "C" int32_t wtn_cuda_capability(void)
{
    return 90;
}
extern "C" int32_t wtn_cuda_sm_count(int32_t reserved)
{
    static int count;

    if (count == 0) {
        TRY(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
    }
    return count - reserved;
}

/* ---- data ---- */

__device__ static uint32_t hash(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    return (uint32_t)(x >> 32);
}
__global__ void fill_kernel(uint32_t *to, size_t pairs, bool bf16, float scale, uint64_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < pairs;
         i += (size_t)gridDim.x * blockDim.x) {
        uint64_t at = seed * 0x9e3779b97f4a7c15ull + i;
        float    a  = (hash(2 * at) / 2147483648.0f - 1.0f) * scale;
        float    b  = (hash(2 * at + 1) / 2147483648.0f - 1.0f) * scale;

        to[i] = bf16 ? wtn_pack_bf16(a, b) : wtn_pack_f16(a, b);
    }
}
__global__ void fill_float_kernel(float *to, size_t count, float scale, uint64_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count;
         i += (size_t)gridDim.x * blockDim.x) {
        to[i] = (hash(seed * 77777 + i) / 2147483648.0f - 1.0f) * scale;
    }
}
template <typename T> static T *device_alloc(size_t count)
{
    void *out;

    TRY(cudaMalloc(&out, count * sizeof(T) + 512));
    return (T *)out;
}
static uint16_t *device_random(size_t count, bool bf16, float scale, uint64_t seed)
{
    uint16_t *out = device_alloc<uint16_t>(count);

    fill_kernel<<<1024, 256>>>((uint32_t *)out, (count + 1) / 2, bf16, scale, seed);
    TRY(cudaGetLastError());
    return out;
}
template <typename T> static T *device_copy(const std::vector<T> &from)
{
    T *out = device_alloc<T>(from.size());

    TRY(cudaMemcpy(out, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
    return out;
}

/* ---- a case: weights, rows, arguments of up and down ---- */

#define PAIRS 64

typedef struct problem {
    bool                 bf16, gated;
    int                  experts;
    int64_t              H, I, rows, tokens; /* I: a multiple of 8 */
    int64_t              N;                  /* of down: H, or less */
    std::vector<int64_t> begin;
    uint16_t            *w_up, *w_down, *x, *h, *out, *x_sorted;
    float               *b_up, *b_down;
    int64_t             *d_begin, *d_index, *d_out_index;
    uint32_t            *d_counters; /* of PAIRS calls */
    int                  call;
    witan_activation_t   activation;
    wtn_cuda_weights_t   up, down;
    wtn_cuda_gemm_args_t up_args, down_args;
    void                *state;
} problem_t;

static uint64_t random_state = 1;
static uint32_t random_next(void)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(random_state >> 33);
}

static void problem_make(problem_t *p, bool bf16, bool gated, bool bias, int64_t H, int64_t I,
                         const std::vector<int64_t> &rows, int64_t tokens, int64_t cut = 0)
{
    std::vector<int64_t> index, back;
    witan_dtype_t        dtype = bf16 ? WITAN_BF16 : WITAN_F16;
    int64_t              N;

    *p         = {};
    p->bf16    = bf16;
    p->gated   = gated;
    p->experts = (int)rows.size();
    p->H       = H;
    p->I       = I;
    p->begin   = {0};
    for (int64_t r : rows) {
        p->begin.push_back(p->begin.back() + r);
    }
    p->rows   = p->begin.back();
    p->tokens = tokens;
    for (int64_t i = 0; i < p->rows; i++) {
        index.push_back(random_next() % tokens);
        back.push_back(i);
    }
    for (int64_t i = p->rows - 1; i > 0; i--) {
        std::swap(back[i], back[random_next() % (i + 1)]);
    }
    p->N           = H - cut;
    N              = gated ? 2 * I : I;
    p->w_up        = device_random((size_t)p->experts * N * H, bf16, 1.7f / sqrtf((float)H), 1);
    p->w_down      = device_random((size_t)p->experts * p->N * I, bf16, 1.7f / sqrtf((float)I), 2);
    p->x           = device_random((size_t)tokens * H, bf16, 1.7f, 3);
    p->h           = device_alloc<uint16_t>((size_t)(p->rows + 2) * I);
    p->out         = device_alloc<uint16_t>((size_t)(p->rows + 2) * H);
    p->d_begin     = device_copy(p->begin);
    p->d_index     = device_copy(index);
    p->d_out_index = device_copy(back);
    p->d_counters  = device_alloc<uint32_t>((size_t)PAIRS * (p->experts + 1));
    if (bias) {
        p->b_up   = device_alloc<float>((size_t)p->experts * N);
        p->b_down = device_alloc<float>((size_t)p->experts * H);
        fill_float_kernel<<<64, 256>>>(p->b_up, (size_t)p->experts * N, 0.5f, 4);
        fill_float_kernel<<<64, 256>>>(p->b_down, (size_t)p->experts * H, 0.5f, 5);
    }
    p->activation = {WITAN_ACTIVATION_SILU, 0.0f, gated, 0.0f, 0.0f};
    p->up         = {dtype, p->experts, N, H, p->w_up, p->b_up};
    p->down       = {dtype, p->experts, p->N, I, p->w_down, p->b_down};

    p->up_args.weights       = &p->up;
    p->up_args.a             = p->x;
    p->up_args.a_stride      = H;
    p->up_args.a_index       = p->d_index;
    p->up_args.row_begin     = p->d_begin;
    p->up_args.row_count_max = p->rows;
    p->up_args.activation    = &p->activation;
    p->up_args.out           = p->h;
    p->up_args.out_stride    = I;
    p->up_args.column_count  = I;

    p->down_args.weights       = &p->down;
    p->down_args.a             = p->h;
    p->down_args.a_stride      = I;
    p->down_args.row_begin     = p->d_begin;
    p->down_args.row_count_max = p->rows;
    p->down_args.out           = p->out;
    p->down_args.out_stride    = p->N;
    p->down_args.column_count  = p->N;
    p->down_args.out_index     = p->d_out_index;
    TRY(cudaMemset(p->d_counters, 0, (size_t)PAIRS * (p->experts + 1) * 4));
    if (wtn_cuda_gemm_sm90.prepare(&p->state, &p->up, &p->down) != WITAN_OK) {
        exit(1);
    }
    TRY(cudaDeviceSynchronize());
}
/* What a sort does before each call, for the next PAIRS ones. */
static void counters_clear(problem_t *p, cudaStream_t stream = NULL)
{
    TRY(cudaMemsetAsync(p->d_counters, 0, (size_t)PAIRS * (p->experts + 1) * 4, stream));
    p->call = 0;
}
static void counters_take(problem_t *p)
{
    if (p->call == PAIRS) {
        counters_clear(p);
    }
    p->up_args.counters   = p->d_counters + (size_t)p->call++ * (p->experts + 1);
    p->down_args.counters = p->up_args.counters;
}
static void run_one(problem_t *p, bool up)
{
    counters_take(p);
    if (up) {
        wtn_cuda_gemm_sm90.up(p->state, &p->up_args);
    } else {
        wtn_cuda_gemm_sm90.down(p->state, &p->down_args);
    }
}
static void run_both(problem_t *p)
{
    counters_take(p);
    if (wtn_cuda_gemm_sm90.takes_pair(p->state, &p->up_args)) {
        wtn_cuda_gemm_sm90.pair(p->state, &p->up_args, &p->down_args);
        return;
    }
    wtn_cuda_gemm_sm90.up(p->state, &p->up_args);
    wtn_cuda_gemm_sm90.down(p->state, &p->down_args);
}
static void problem_free(problem_t *p)
{
    void *all[] = {p->w_up, p->w_down, p->x,       p->h,       p->out,         p->x_sorted,
                   p->b_up, p->b_down, p->d_begin, p->d_index, p->d_out_index, p->d_counters};

    TRY(cudaDeviceSynchronize());
    for (void *one : all) {
        TRY(cudaFree(one));
    }
    wtn_cuda_gemm_sm90.release(p->state);
    form_forced = FORM_COUNT;
}

/* ---- right ---- */

__device__ static double value(uint16_t bits, bool bf16)
{
    return bf16 ? wtn_float_from_bf16(bits) : wtn_float_from_f16(bits);
}
__global__ void up_kernel(const uint16_t *x, const int64_t *index, const int64_t *begin,
                          const uint16_t *w, const float *bias, witan_activation_t act, int64_t K,
                          int64_t I, bool bf16, double *h)
{
    int64_t row = blockIdx.x, e = 0, N = act.gated ? 2 * I : I;

    while (begin[e + 1] <= row) {
        e++;
    }
    x += (index == NULL ? row : index[row]) * K;
    for (int64_t i = threadIdx.x; i < I; i += blockDim.x) {
        int64_t n[2] = {act.gated ? i / 8 * 16 + i % 8 + 8 : i, i / 8 * 16 + i % 8};
        double  s[2] = {0, 0};

        for (int j = 0; j < (act.gated ? 2 : 1); j++) {
            for (int64_t k = 0; k < K; k++) {
                s[j] += value(x[k], bf16) * value(w[(e * N + n[j]) * K + k], bf16);
            }
            s[j] += bias == NULL ? 0.0 : bias[e * N + n[j]];
        }
        h[row * I + i] = wtn_activate_gated<true>(act, (float)s[1], (float)s[0]);
    }
}
__global__ void down_kernel(const uint16_t *h, const int64_t *index, const int64_t *begin,
                            const uint16_t *w, const float *bias, int64_t K, int64_t N, bool bf16,
                            double *out)
{
    int64_t row = blockIdx.x, e = 0;

    while (begin[e + 1] <= row) {
        e++;
    }
    for (int64_t n = threadIdx.x; n < N; n += blockDim.x) {
        double s = 0;

        for (int64_t k = 0; k < K; k++) {
            s += value(h[row * K + k], bf16) * value(w[(e * N + n) * K + k], bf16);
        }
        out[index[row] * N + n] = s + (bias == NULL ? 0.0 : bias[e * N + n]);
    }
}
static double host_value(uint16_t bits, bool bf16)
{
    if (bf16) {
        uint32_t wide = (uint32_t)bits << 16;
        float    f;

        memcpy(&f, &wide, 4);
        return f;
    }
    int    e = bits >> 10 & 31, m = bits & 1023;
    double v = e == 31 ? NAN : e == 0 ? ldexp(m, -24) : ldexp(1024 + m, e - 25);

    return bits & 0x8000 ? -v : v;
}
static std::vector<uint16_t> fetch(const uint16_t *from, size_t count)
{
    std::vector<uint16_t> out(count);

    TRY(cudaMemcpy(out.data(), from, count * 2, cudaMemcpyDeviceToHost));
    return out;
}
static bool compare(const char *what, const std::vector<uint16_t> &got, const double *expected,
                    int64_t rows, int64_t columns, bool bf16)
{
    double tolerance = bf16 ? 3.5e-3 : 6e-4, worst = 0;
    bool   good = true;

    for (int64_t r = 0; r < rows; r++) {
        double error = 0, size = 1e-30;

        for (int64_t c = 0; c < columns; c++) {
            double e = expected[r * columns + c], d = host_value(got[r * columns + c], bf16) - e;

            error += d * d;
            size += e * e;
        }
        error = sqrt(error / size);
        worst = !(error <= worst) ? error : worst;
        if (!(error <= tolerance)) {
            if (good) {
                printf("  %s: row %lld differs by %g\n", what, (long long)r, error);
            }
            good = false;
        }
    }
    for (int64_t i = rows * columns; i < (rows + 2) * columns; i++) {
        if (got[i] != 0xffff) {
            printf("  %s: guard %lld was written\n", what, (long long)(i - rows * columns));
            return false;
        }
    }
    printf("  %s worst row %.2e%s\n", what, worst, good ? "" : "  WRONG");
    return good;
}

static bool check_problem(const char *name, problem_t *p)
{
    static const char *const names[] = {
#define FORM_NAME(name, text, ...) #text,
        WTN_FORM_LIST(FORM_NAME)
#undef FORM_NAME
            "chosen"};

    std::vector<uint16_t> h0, out0, h, out;
    size_t                h_count   = (size_t)(p->rows + 2) * p->I;
    size_t                out_count = (size_t)(p->rows + 2) * p->N;
    std::vector<double>   expected;
    double               *sums = device_alloc<double>(std::max(h_count, out_count));
    bool                  good = true;

    printf("%s: %s E %d H %lld I %lld rows %lld\n", name, p->bf16 ? "bf16" : "f16", p->experts,
           (long long)p->H, (long long)p->I, (long long)p->rows);
    for (uint32_t form = 0; form <= FORM_COUNT; form++) {
        form_forced = form;
        TRY(cudaMemset(p->h, 0xff, h_count * 2));
        TRY(cudaMemset(p->out, 0xff, out_count * 2));
        counters_clear(p);
        run_both(p);
        TRY(cudaDeviceSynchronize());
        h   = fetch(p->h, h_count);
        out = fetch(p->out, out_count);
        if (form == 0) {
            h0 = h, out0 = out;
            if (p->rows == 0) {
                continue;
            }
            up_kernel<<<(unsigned)p->rows, 256>>>(p->x, p->up_args.a_index, p->d_begin, p->w_up,
                                                  p->b_up, p->activation, p->H, p->I, p->bf16,
                                                  sums);
            TRY(cudaDeviceSynchronize());
            expected.resize(std::max(h_count, out_count));
            TRY(cudaMemcpy(expected.data(), sums, h_count * 8, cudaMemcpyDeviceToHost));
            good &= compare("up  ", h, expected.data(), p->rows, p->I, p->bf16);
            down_kernel<<<(unsigned)p->rows, 256>>>(p->h, p->d_out_index, p->d_begin, p->w_down,
                                                    p->b_down, p->I, p->N, p->bf16, sums);
            TRY(cudaDeviceSynchronize());
            TRY(cudaMemcpy(expected.data(), sums, out_count * 8, cudaMemcpyDeviceToHost));
            good &= compare("down", out, expected.data(), p->rows, p->N, p->bf16);
        } else if (h != h0 || out != out0) {
            size_t a = 0, b = 0;

            for (size_t i = 0; i < h.size(); i++) {
                a += h[i] != h0[i];
            }
            for (size_t i = 0; i < out.size(); i++) {
                b += out[i] != out0[i];
            }
            printf("  form %s differs from %s in %zu of h, %zu of out\n", names[form], names[0], a,
                   b);
            good = false;
        }
    }
    TRY(cudaFree(sums));
    problem_free(p);
    return good;
}

/* Calls on several streams with the same weights, more blocks than the device holds at a time: all
 * end, with the same bits. */
static bool check_streams(void)
{
    enum { STREAMS = 6, TURNS = PAIRS / STREAMS };

    std::vector<int64_t>  counts(64, 0);
    std::vector<uint16_t> want;
    cudaStream_t          streams[STREAMS];
    uint16_t             *h[STREAMS], *out[STREAMS];
    size_t                out_count;
    problem_t             p;
    bool                  good = true;

    for (int e = 0; e < 64; e += 5) {
        counts[e] = 1 + e % 3;
    }
    problem_make(&p, true, true, false, 2048, 1024, counts, 50);
    out_count   = (size_t)(p.rows + 2) * p.N;
    form_forced = FORM_FEW;
    TRY(cudaMemset(p.out, 0xff, out_count * 2));
    run_both(&p);
    want        = fetch(p.out, out_count);
    form_forced = FORM_COUNT;
    for (int s = 0; s < STREAMS; s++) {
        TRY(cudaStreamCreate(&streams[s]));
        h[s]   = device_alloc<uint16_t>((size_t)(p.rows + 2) * p.I);
        out[s] = device_alloc<uint16_t>(out_count);
    }
    for (int round = 0; round < 50 && good; round++) {
        counters_clear(&p);
        for (int s = 0; s < STREAMS; s++) {
            TRY(cudaMemset(out[s], 0xff, out_count * 2));
        }
        TRY(cudaDeviceSynchronize());
        for (int i = 0; i < TURNS * STREAMS; i++) {
            p.up_args.stream = p.down_args.stream = streams[i % STREAMS];
            p.up_args.out                         = h[i % STREAMS];
            p.down_args.a                         = h[i % STREAMS];
            p.down_args.out                       = out[i % STREAMS];
            run_both(&p);
        }
        TRY(cudaDeviceSynchronize());
        for (int s = 0; s < STREAMS; s++) {
            good = good && fetch(out[s], out_count) == want;
        }
    }
    printf("%d streams: %s\n", STREAMS, good ? "equal bits" : "  WRONG");
    for (int s = 0; s < STREAMS; s++) {
        TRY(cudaStreamDestroy(streams[s]));
        TRY(cudaFree(h[s]));
        TRY(cudaFree(out[s]));
    }
    problem_free(&p);
    return good;
}

/* With rows of A side by side, where up is another kernel's and has other forms. */
static bool check_beside(problem_t *p)
{
    p->up_args.a_index = NULL;
    TRY(cudaFree(p->x));
    p->x         = device_random((size_t)p->rows * p->H, p->bf16, 1.7f, 9);
    p->up_args.a = p->x;
    return check_problem("the same, side by side", p);
}

static int check(bool quick)
{
    problem_t p;
    bool      good = true;

    for (bool beside : {false, true}) {
        problem_make(&p, true, true, false, 512, 256, {3, 0, 130, 64, 1, 200, 0, 129}, 100);
        good &= beside ? check_beside(&p) : check_problem("ragged", &p);
        problem_make(&p, false, true, true, 328, 104, {1, 17, 0, 257}, 50);
        p.activation = {WITAN_ACTIVATION_SWISH, 1.702f, true, 0.7f, 1.0f};
        good &= beside ? check_beside(&p) : check_problem("tails", &p);
        problem_make(&p, true, false, true, 72, 40, {5, 100}, 50);
        p.activation.kind = WITAN_ACTIVATION_RELU2;
        good &= beside ? check_beside(&p) : check_problem("not gated", &p);
        problem_make(&p, true, true, true, 2880, 2880, {300, 5, 0, 128}, 500);
        p.activation = {WITAN_ACTIVATION_SWISH, 1.702f, true, 7.0f, 1.0f};
        good &= beside ? check_beside(&p) : check_problem("gpt-oss", &p);
    }
    if (!quick) {
        std::vector<int64_t> rows(100, 3);

        problem_make(&p, true, true, true, 264, 24, {33, 100}, 500, 3); /* out not aligned */
        good &= check_problem("261 columns", &p);
        problem_make(&p, false, true, false, 8, 8, rows, 500);
        p.activation.kind = WITAN_ACTIVATION_GELU;
        good &= check_problem("100 experts", &p);
        problem_make(&p, true, true, false, 256, 64, {70000, 1000}, 5000);
        p.activation.kind = WITAN_ACTIVATION_GELU_TANH;
        good &= check_problem("70000 rows", &p);
        problem_make(&p, true, true, false, 2048, 768, std::vector<int64_t>(16, 97), 500);
        good &= check_beside(&p);
        good &= check_streams();
    }
    printf("%s\n", good ? "all right" : "WRONG");
    return good ? 0 : 1;
}

#endif

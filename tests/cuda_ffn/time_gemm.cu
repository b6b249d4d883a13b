/* The sm_90a grouped GEMM on a GPU by itself: right, and how fast beside cuBLAS and a copy.
 *
 *   time_gemm check             every form against sums in double, equal bits between forms; a
 *                               product takes its chosen form where one is not for its rows
 *   time_gemm prefill [ROWS [MODEL]]  many rows an expert, beside one dense cublasGemmEx of as many
 *   time_gemm sustain [ROWS [MODEL]]  the same, each by itself until the chip is at its limit
 *   time_gemm decode            few rows an expert: weights per second beside what a read gets
 *   time_gemm token             one row of each of a token's experts
 *   time_gemm layer             Qwen3-30B's experts, 32768 tokens
 *
 * Not part of ctest: it needs a Hopper GPU to itself. Build: nvcc -arch=sm_90a, with the .cu it
 * measures inside, so that it can force a form. */
#include <dlfcn.h>

#include <functional>

#include "tests/cuda_ffn/time_gemm_check.cuh"

/* ---- fast ---- */

static char *flush_buffer;
#define FLUSH_BYTES ((size_t)256 << 20)

/* Median seconds of each kind of work, one of each in turn: a chip at its power limit slows all
 * alike. The caches are flushed before each. */
static std::vector<double> times_of(int rounds, const std::vector<std::function<void()>> &works)
{
    std::vector<std::vector<float>> times(works.size());
    std::vector<double>             medians;
    cudaEvent_t                     from, to;

    TRY(cudaEventCreate(&from));
    TRY(cudaEventCreate(&to));
    if (flush_buffer == NULL) {
        flush_buffer = device_alloc<char>(FLUSH_BYTES);
    }
    for (int i = 0; i < rounds + 2; i++) {
        for (size_t w = 0; w < works.size(); w++) {
            float ms;

            TRY(cudaMemsetAsync(flush_buffer, i, FLUSH_BYTES));
            TRY(cudaEventRecord(from));
            works[w]();
            TRY(cudaEventRecord(to));
            TRY(cudaEventSynchronize(to));
            TRY(cudaEventElapsedTime(&ms, from, to));
            if (i >= 2) {
                times[w].push_back(ms);
            }
        }
    }
    TRY(cudaGetLastError());
    for (std::vector<float> &t : times) {
        std::sort(t.begin(), t.end());
        medians.push_back(t[t.size() / 2] * 1e-3);
    }
    TRY(cudaEventDestroy(from));
    TRY(cudaEventDestroy(to));
    return medians;
}
static double time_of(int rounds, const std::function<void()> &work)
{
    return times_of(rounds, {work})[0];
}

typedef int (*gemm_ex_t)(void *, int, int, int, int, int, const void *, const void *, int, int,
                         const void *, int, int, const void *, void *, int, int, int, int);
static void     *cublas;
static gemm_ex_t gemm_ex;

static void cublas_open(void)
{
    void *library = dlopen("libcublas.so.13", RTLD_NOW);

    library = library != NULL ? library : dlopen("libcublas.so.12", RTLD_NOW);
    if (library == NULL) {
        printf("cuBLAS: %s\n", dlerror());
        return;
    }
    ((int (*)(void **))dlsym(library, "cublasCreate_v2"))(&cublas);
    gemm_ex = (gemm_ex_t)dlsym(library, "cublasGemmEx");
}
/* out [M][N] = a [M][K] * w [N][K]^T; CUDA_R_16BF 14, CUDA_R_32F 0, CUBLAS_COMPUTE_32F 68 */
static void dense(const void *a, const void *w, void *out, int64_t M, int64_t N, int64_t K)
{
    float one = 1.0f, zero = 0.0f;

    if (gemm_ex != NULL && gemm_ex(cublas, 1, 0, (int)N, (int)M, (int)K, &one, w, 14, (int)K, a, 14,
                                   (int)K, &zero, out, 14, (int)N, 68, -1) != 0) {
        printf("cublasGemmEx failed\n");
    }
}

__global__ void read_kernel(const wtn_vec16_t *from, size_t count, uint32_t *to)
{
    uint32_t sum = 0;
    size_t   at  = blockIdx.x * (size_t)blockDim.x + threadIdx.x,
           step  = (size_t)gridDim.x * blockDim.x;

    for (; at + 3 * step < count; at += 4 * step) {
        wtn_vec16_t a = wtn_load16_stream(from + at), b = wtn_load16_stream(from + at + step);
        wtn_vec16_t c = wtn_load16_stream(from + at + 2 * step),
                    d = wtn_load16_stream(from + at + 3 * step);

        sum += a.x ^ b.x ^ c.x ^ d.x ^ a.w ^ b.w ^ c.w ^ d.w;
    }
    if (sum == 0x12345678) {
        *to = sum;
    }
}

static double bandwidth_of_read(size_t bytes)
{
    char  *memory = device_alloc<char>(bytes);
    double best   = 0;

    fill_kernel<<<1024, 256>>>((uint32_t *)memory, bytes / 4, true, 1.0f, 1);
    for (int blocks = 132 * 4; blocks <= 132 * 32; blocks *= 2) {
        double t = time_of(7, [&] {
            read_kernel<<<blocks, 512>>>((wtn_vec16_t *)memory, bytes / 16, (uint32_t *)memory);
        });

        best = std::max(best, (double)bytes / t);
    }
    TRY(cudaFree(memory));
    return best;
}

typedef struct model {
    const char *name;
    int         experts, topk;
    int64_t     H, I;
} model_t;

static const model_t models[] = {
    {"Qwen3-30B", 128, 8, 2048, 768},   {"OLMoE", 64, 8, 2048, 1024},
    {"gpt-oss", 32, 4, 2880, 2880},     {"Qwen3-235B", 32, 8, 4096, 1536},
    {"DeepSeek-V3", 16, 8, 7168, 2048}, {"Mixtral", 8, 2, 4096, 14336},
};

static std::vector<int64_t> ragged(int experts, int64_t mean)
{
    std::vector<int64_t> rows;

    for (int e = 0; e < experts; e++) {
        rows.push_back(mean * (700 + random_next() % 601) / 1000);
    }
    return rows;
}

static void run_form(uint32_t form, problem_t *p, bool up, bool gathers)
{
    form_forced        = form;
    p->up_args.a       = gathers ? p->x : p->x_sorted;
    p->up_args.a_index = gathers ? p->d_index : NULL;
    run_one(p, up);
}

static int prefill(int64_t mean, const char *only)
{
    static const uint32_t    forms[] = {FORM_COUNT, FORM_LONG, FORM_MIDDLE, FORM_BROAD};
    static const char *const names[] = {"chosen", "long", "middle", "broad"};

    const int form_count = mean < 1024 ? 4 : 3;

    printf("prefill, bf16, TFLOP/s (of dense cuBLAS): up of rows gathered, of rows side by side; "
           "down\n");
    for (const model_t &m : models) {
        std::vector<std::function<void()>> works;
        std::vector<double>                t;
        problem_t                          p;
        uint16_t                          *wide;
        double                             up, down;

        if (only != NULL && strcmp(m.name, only) != 0) {
            continue;
        }
        problem_make(&p, true, true, false, m.H, m.I, ragged(m.experts, mean), 16384);
        up         = 2e-12 * p.rows * p.up.N * p.up.K;
        down       = 2e-12 * p.rows * p.down.N * p.down.K;
        p.x_sorted = device_random((size_t)p.rows * m.H, true, 1.7f, 9);
        wide       = device_alloc<uint16_t>((size_t)p.rows * p.up.N);
        works      = {[&] { dense(p.x_sorted, p.w_up, wide, p.rows, p.up.N, p.up.K); },
                      [&] { dense(p.h, p.w_down, p.out, p.rows, p.down.N, p.down.K); }};
        for (int f = 0; f < form_count; f++) {
            uint32_t form = forms[f];

            works.push_back([&, form] { run_form(form, &p, true, true); });
            works.push_back([&, form] { run_form(form, &p, true, false); });
            works.push_back([&, form] { run_form(form, &p, false, false); });
        }
        run_form(FORM_COUNT, &p, true, true); /* h */
        t = times_of(9, works);
        printf("%-12s %5lld %-7s %6.1f                %22s  %6.1f\n", m.name, (long long)mean,
               "cublas", up / t[0], "", down / t[1]);
        for (int f = 0; f < form_count; f++) {
            const double *of = &t[2 + 3 * f];

            printf("%-12s %5lld %-7s %6.1f (%.3f) %6.1f (%.3f)          %6.1f (%.3f)\n", m.name,
                   (long long)mean, names[f], up / of[0], t[0] / of[0], up / of[1], t[0] / of[1],
                   down / of[2], t[1] / of[2]);
        }
        fflush(stdout);
        TRY(cudaFree(wide));
        problem_free(&p);
    }
    return 0;
}

/* Seconds of one run, of many without a pause: at the power limit time is energy, which runs that
 * take turns with others do not pay for themselves. */
static double sustained_time(double seconds, const std::function<void()> &work)
{
    cudaEvent_t from, to;
    float       ms    = 0;
    int         count = 1;

    TRY(cudaEventCreate(&from));
    TRY(cudaEventCreate(&to));
    for (int pass = 0; pass < 3; pass++) { /* how many, warm, measured */
        TRY(cudaEventRecord(from));
        for (int i = 0; i < count; i++) {
            work();
        }
        TRY(cudaEventRecord(to));
        TRY(cudaEventSynchronize(to));
        TRY(cudaEventElapsedTime(&ms, from, to));
        count = pass == 0 ? (int)(seconds * 1e3 / ms) + 1 : count;
    }
    TRY(cudaEventDestroy(from));
    TRY(cudaEventDestroy(to));
    return ms * 1e-3 / count;
}

static int sustain(int64_t mean, const char *only)
{
    enum { ROUNDS = 5 };

    printf("sustained, bf16, TFLOP/s, median of %d (least, most)\n", ROUNDS);
    for (const model_t &m : models) {
        problem_t p;
        uint16_t *wide;

        if (only != NULL && strcmp(m.name, only) != 0) {
            continue;
        }
        problem_make(&p, true, true, false, m.H, m.I, ragged(m.experts, mean),
                     m.experts * mean / m.topk);
        p.x_sorted = device_random((size_t)p.rows * m.H, true, 1.7f, 9);
        wide       = device_alloc<uint16_t>((size_t)p.rows * p.up.N);

        const double up   = 2e-12 * p.rows * p.up.N * p.up.K;
        const double down = 2e-12 * p.rows * p.down.N * p.down.K;
        const struct {
            const char           *name;
            double                work;
            std::function<void()> run;
        } works[] = {
            {"dense up", up, [&] { dense(p.x_sorted, p.w_up, wide, p.rows, p.up.N, p.up.K); }},
            {"up gathered, long", up, [&] { run_form(FORM_LONG, &p, true, true); }},
            {"up beside, long", up, [&] { run_form(FORM_LONG, &p, true, false); }},
            {"dense down", down, [&] { dense(p.h, p.w_down, p.out, p.rows, p.down.N, p.down.K); }},
            {"down, middle", down, [&] { run_form(FORM_MIDDLE, &p, false, false); }},
            {"down, long", down, [&] { run_form(FORM_LONG, &p, false, false); }},
            {"both, chosen", up + down,
             [&] {
                 run_form(FORM_COUNT, &p, true, true);
                 run_form(FORM_COUNT, &p, false, false);
             }},
        };
        const size_t                     count = sizeof(works) / sizeof(works[0]);
        std::vector<std::vector<double>> rates(count);

        run_form(FORM_COUNT, &p, true, true); /* h */
        for (int round = 0; round < ROUNDS; round++) {
            for (size_t i = 0; i < count; i++) {
                rates[i].push_back(works[i].work / sustained_time(0.06, works[i].run));
            }
        }
        for (size_t i = 0; i < count; i++) {
            std::sort(rates[i].begin(), rates[i].end());
            printf("%-12s %5lld %-18s %6.1f (%.1f, %.1f)\n", m.name, (long long)mean, works[i].name,
                   rates[i][ROUNDS / 2], rates[i][0], rates[i][ROUNDS - 1]);
        }
        fflush(stdout);
        TRY(cudaFree(wide));
        problem_free(&p);
    }
    return 0;
}

/* Seconds of up and down in a graph of many pairs one after another, as a model's layers are, each
 * with the next of `begins`. No flush: their weights are more than the caches hold. */
static double chain_time(problem_t *p, const std::vector<int64_t *> &begins, int pairs)
{
    std::vector<float> times;
    cudaEvent_t        from, to;
    cudaGraph_t        captured;
    cudaGraphExec_t    ready;
    cudaStream_t       stream;
    float              ms;

    TRY(cudaEventCreate(&from));
    TRY(cudaEventCreate(&to));
    TRY(cudaStreamCreate(&stream));
    p->up_args.stream = p->down_args.stream = stream;
    TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    counters_clear(p, stream);
    for (int i = 0; i < pairs; i++) {
        p->up_args.row_begin = p->down_args.row_begin = begins[i % begins.size()];
        run_both(p);
    }
    TRY(cudaStreamEndCapture(stream, &captured));
    TRY(cudaGraphInstantiate(&ready, captured, 0));
    p->up_args.stream = p->down_args.stream = NULL;
    for (int i = 0; i < 15; i++) {
        TRY(cudaEventRecord(from, stream));
        TRY(cudaGraphLaunch(ready, stream));
        TRY(cudaEventRecord(to, stream));
        TRY(cudaEventSynchronize(to));
        TRY(cudaEventElapsedTime(&ms, from, to));
        times.push_back(ms);
    }
    TRY(cudaGraphExecDestroy(ready));
    TRY(cudaGraphDestroy(captured));
    TRY(cudaStreamDestroy(stream));
    TRY(cudaEventDestroy(from));
    TRY(cudaEventDestroy(to));
    std::sort(times.begin(), times.end());
    return times[times.size() / 2] * 1e-3 / pairs;
}

/* rows of each of `hit` experts, spread over all: each product by itself and both, from flushed
 * caches; both in a chain */
static void decode_one(const model_t &m, int experts, int hit, int64_t rows, double read)
{
    static const struct {
        uint32_t    form;
        const char *name;
    } forms[] = {{FORM_COUNT, "chosen"},   {FORM_FEW, "few"},   {FORM_BROAD, "broad"},
                 {FORM_LONG, "long"},      {FORM_HALF, "half"}, {FORM_STRIP64, "strip64"},
                 {FORM_STRIP32, "strip32"}};

    std::vector<int64_t> counts(experts, 0);
    problem_t            p;
    double               bytes, both, up, down, chain;

    for (int i = 0; i < hit; i++) {
        counts[(int64_t)i * experts / hit] = rows;
    }
    problem_make(&p, true, true, false, m.H, m.I, counts, 256);
    bytes = 2.0 * hit * (p.up.N * p.up.K + p.down.N * p.down.K);
    for (const auto &f : forms) {
        form_forced = f.form;
        counters_clear(&p);
        both  = time_of(15, [&] { run_both(&p); });
        chain = chain_time(&p, {p.d_begin}, 6);
        printf("%-12s hit %3d rows %3lld %-8s both %7.1f us %.2f (%.2f)  in a chain %7.1f us %.2f "
               "(%.2f)",
               m.name, hit, (long long)rows, f.name, both * 1e6, bytes / both / 1e12,
               bytes / both / read, chain * 1e6, bytes / chain / 1e12, bytes / chain / read);
        if (!wtn_cuda_gemm_sm90.takes_pair(p.state, &p.up_args)) {
            up   = time_of(15, [&] { run_one(&p, true); });
            down = time_of(15, [&] { run_one(&p, false); });
            printf("  up %7.1f us %.2f TB/s  down %7.1f us %.2f", up * 1e6,
                   2e-12 * hit * p.up.N * p.up.K / up, down * 1e6,
                   2e-12 * hit * p.down.N * p.down.K / down);
        }
        printf("\n");
        fflush(stdout);
    }
    problem_free(&p);
}

/* One token: another set of experts each time, so that their weights come from memory while the
 * kernel's own code and tables stay near, as in a model's next layer. Events around each pair of
 * products, which the host then waits for; and a chain of pairs. */
static void decode_rotating(const model_t &m, double read)
{
    const int              sets = m.experts / m.topk;
    std::vector<int64_t>   counts(m.experts, 1), begin(m.experts + 1);
    std::vector<int64_t *> begins;
    std::vector<float>     times;
    problem_t              p;
    cudaEvent_t            from, to;
    double                 bytes, chain;
    float                  ms;

    problem_make(&p, true, true, false, m.H, m.I, counts, 256);
    p.up_args.row_count_max = p.down_args.row_count_max = m.topk;
    bytes = 2.0 * m.topk * (p.up.N * p.up.K + p.down.N * p.down.K);
    for (int set = 0; set < sets; set++) {
        for (int e = 0; e <= m.experts; e++) {
            begin[e] = std::min(std::max(e - set * m.topk, 0), m.topk);
        }
        begins.push_back(device_copy(begin));
    }
    TRY(cudaEventCreate(&from));
    TRY(cudaEventCreate(&to));
    for (int i = 0; i < 200; i++) {
        p.up_args.row_begin = p.down_args.row_begin = begins[i % sets];
        counters_clear(&p);
        TRY(cudaEventRecord(from));
        run_both(&p);
        TRY(cudaEventRecord(to));
        TRY(cudaEventSynchronize(to));
        TRY(cudaEventElapsedTime(&ms, from, to));
        times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    ms    = times[times.size() / 2];
    chain = chain_time(&p, begins, PAIRS);
    printf("%-12s one token, %d sets of experts in turn, %.0f MB: both %.1f us, %.2f TB/s (%.2f)  "
           "in a chain %.1f us, %.2f (%.2f)\n",
           m.name, sets, bytes / 1e6, ms * 1e3, bytes / ms / 1e9, bytes / ms * 1e3 / read,
           chain * 1e6, bytes / chain / 1e12, bytes / chain / read);
    for (uint32_t form = FORM_LIGHT; form < FORM_COUNT; form++) {
        form_forced = form;
        chain       = chain_time(&p, begins, PAIRS);
        printf("  form %u: %.1f us", form, chain * 1e6);
    }
    printf("\n");
    fflush(stdout);
    TRY(cudaEventDestroy(from));
    TRY(cudaEventDestroy(to));
    for (int64_t *one : begins) {
        TRY(cudaFree(one));
    }
    problem_free(&p);
}

static int token(void)
{
    double read = bandwidth_of_read((size_t)4 << 30);

    printf("read of 4 GiB: %.3f TB/s\n", read / 1e12);
    for (const model_t &m : models) {
        decode_rotating(m, read);
    }
    return 0;
}

static int decode(void)
{
    double read = bandwidth_of_read((size_t)4 << 30);

    printf("read of 4 GiB: %.3f TB/s\n", read / 1e12);
    {
        problem_t            p;
        std::vector<int64_t> none(129, 0);

        problem_make(&p, true, true, false, 2048, 768, std::vector<int64_t>(128, 1), 256);
        TRY(cudaMemcpy(p.d_begin, none.data(), 129 * 8, cudaMemcpyHostToDevice));
        printf("128 experts, none hit: up %.1f us\n",
               time_of(15, [&] { run_one(&p, true); }) * 1e6);
        problem_free(&p);
    }
    for (const model_t &m : models) {
        for (int64_t rows : {4, 16, 32, 64}) {
            decode_one(m, m.experts, m.experts, rows, read);
        }
        decode_one(m, m.experts, m.topk, 1, read);
    }
    decode_one(models[0], 128, 128, 128, read);
    decode_one(models[0], 128, 128, 256, read);
    return 0;
}

static int layer(void)
{
    problem_t p;
    double    flops;

    problem_make(&p, true, true, false, 2048, 768, ragged(128, 2048), 32768);
    flops = 2.0 * p.rows * (p.up.N * p.up.K + p.down.N * p.down.K);
    for (uint32_t form : {FORM_COUNT, FORM_MIDDLE, FORM_COUNT}) {
        double both = time_of(15, [&] {
            run_form(form, &p, true, true);
            run_form(form, &p, false, false);
        });

        printf("Qwen3-30B experts, %lld rows, form %u: %.3f ms, %.1f TFLOP/s\n", (long long)p.rows,
               form, both * 1e3, flops / both / 1e12);
    }
    problem_free(&p);
    return 0;
}

/* For ncu: dense up, gathered up, up from rows side by side, dense down, down. */
static int profile(const char *name)
{
    for (const model_t &m : models) {
        problem_t p;
        uint16_t *wide;

        if (strcmp(m.name, name) != 0) {
            continue;
        }
        problem_make(&p, true, true, false, m.H, m.I, ragged(m.experts, 2048), 16384);
        p.x_sorted = device_random((size_t)p.rows * m.H, true, 1.7f, 9);
        wide       = device_alloc<uint16_t>((size_t)p.rows * p.up.N);
        dense(p.x_sorted, p.w_up, wide, p.rows, p.up.N, p.up.K);
        run_one(&p, true);
        p.up_args.a = p.x_sorted, p.up_args.a_index = NULL;
        run_one(&p, true);
        dense(p.h, p.w_down, p.out, p.rows, p.down.N, p.down.K);
        run_one(&p, false);
        TRY(cudaFree(wide));
        problem_free(&p);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "check";

    cublas_open();
    if (strcmp(what, "check") == 0) {
        return check(false);
    }
    if (strcmp(what, "quick") == 0) {
        return check(true);
    }
    if (strcmp(what, "prefill") == 0) {
        return prefill(argc > 2 ? atoll(argv[2]) : 2048, argc > 3 ? argv[3] : NULL);
    }
    if (strcmp(what, "sustain") == 0) {
        return sustain(argc > 2 ? atoll(argv[2]) : 2048, argc > 3 ? argv[3] : NULL);
    }
    if (strcmp(what, "decode") == 0) {
        return decode();
    }
    if (strcmp(what, "token") == 0) {
        return token();
    }
    if (strcmp(what, "profile") == 0) {
        return profile(argc > 2 ? argv[2] : models[0].name);
    }
    return layer();
}

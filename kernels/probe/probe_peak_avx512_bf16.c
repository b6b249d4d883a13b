#include "kernels/probe/probe.h"
#include "kernels/vector.h"

#define PEAK_NAME            wtn_peak_avx512_bf16
#define PEAK_SUMS            24
#define PEAK_TYPE            vec_t
#define PEAK_SET(x)          vec_set1(x)
#define PEAK_FACTOR(x)       ((__m512bh)_mm512_castps_si512(vec_set1(x)))
#define PEAK_MADD(sum, a, b) _mm512_dpbf16_ps(sum, a, b)
#define PEAK_FLOPS           (4.0 * VEC_LANES)
#define PEAK_REGISTER        "v"
#include "kernels/probe/probe_peak.h"

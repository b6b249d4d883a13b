#include "kernels/probe/probe.h"
#include "kernels/vector.h"

#define PEAK_NAME            wtn_peak_avx512
#define PEAK_SUMS            24
#define PEAK_TYPE            vec_t
#define PEAK_SET(x)          vec_set1(x)
#define PEAK_FACTOR(x)       vec_set1(x)
#define PEAK_MADD(sum, a, b) vec_fma(a, b, sum)
#define PEAK_FLOPS           (2.0 * VEC_LANES)
#define PEAK_REGISTER        "v"
#include "kernels/probe/probe_peak.h"

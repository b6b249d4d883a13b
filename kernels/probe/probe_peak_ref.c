#include "kernels/probe/probe.h"

double wtn_peak_scalar(int64_t rounds)
{
    enum { CHAINS = 8 };
    volatile float factor = 0.5f;
    const float    a      = factor;
    float          sums[CHAINS];

    for (int i = 0; i < CHAINS; i++) {
        sums[i] = 1.0f;
    }
    for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 8
        for (int i = 0; i < CHAINS; i++) {
            sums[i] = sums[i] * a + a;
        }
    }
    for (int i = 0; i < CHAINS; i++) {
        factor = sums[i]; /* may not be left out */
    }
    return (double)rounds * CHAINS * 2.0;
}

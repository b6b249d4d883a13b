/* Template: multiply-adds in `PEAK_SUMS` independent chains. Before including define
 *   PEAK_NAME, PEAK_SUMS, PEAK_TYPE (of a sum), PEAK_SET(x), PEAK_FACTOR(x) (an operand),
 *   PEAK_MADD(sum, a, b), PEAK_FLOPS (of one multiply-add), PEAK_REGISTER (its asm constraint) */

double PEAK_NAME(int64_t rounds)
{
    const __typeof__(PEAK_FACTOR(0.5f)) a = PEAK_FACTOR(0.5f);
    const __typeof__(PEAK_FACTOR(0.5f)) b = PEAK_FACTOR(0.25f);
    PEAK_TYPE                           sums[PEAK_SUMS];

#pragma GCC unroll 24
    for (int i = 0; i < PEAK_SUMS; i++) {
        sums[i] = PEAK_SET(1.0f);
    }
    for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 24
        for (int i = 0; i < PEAK_SUMS; i++) {
            sums[i] = PEAK_MADD(sums[i], a, b);
            __asm__ volatile("" : "+" PEAK_REGISTER(sums[i])); /* may not be left out */
        }
    }
    return (double)rounds * PEAK_SUMS * PEAK_FLOPS;
}

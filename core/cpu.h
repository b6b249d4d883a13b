/* What __builtin_cpu_supports does not tell under every compiler. */
#ifndef WTN_CPU_H
#define WTN_CPU_H

#include <cpuid.h>
#include <stdbool.h>

/* Conversions between fp16 and fp32. Ask for avx2 too: that answer includes whether the system
 * saves the registers. (clang before 16 does not know this one by name.) */
static inline bool wtn_cpu_has_f16c(void)
{
    unsigned int a, b, c, d;

    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

#endif

#include "kernels/vector.h"

#include "kernels/combine/combine_vector.h"

const wtn_combine_tier_t wtn_combine_avx512 = {"avx512", combine, reduce};

#include "kernels/vector.h"

#include "kernels/combine/combine_vector.h"

const wtn_combine_tier_t wtn_combine_avx2 = {"avx2", combine, reduce};

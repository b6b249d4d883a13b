#include "kernels/gemm/gemm_tiles.h"
#include "kernels/vector.h"

/* vdpbf16ps adds the products of a pair of bf16 to an fp32 sum; it takes denormals as zero. */
#define TILE_NAME            wtn_tile_bf16_avx512_bf16
#define TILE_ROWS            12
#define TILE_GROUP           uint32_t
#define TILE_WEIGHT          uint32_t
#define TILE_LOAD(p)         _mm512_loadu_si512(p)
#define TILE_BROADCAST(p)    _mm512_set1_epi32((int)*(p))
#define TILE_MADD(sum, a, b) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(b))
#include "kernels/gemm/gemm_tile.h"

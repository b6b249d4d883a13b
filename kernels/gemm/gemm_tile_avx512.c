#include "kernels/gemm/gemm_tiles.h"
#include "kernels/vector.h"

#define TILE_NAME            wtn_tile_f32_avx512
#define TILE_ROWS            12
#define TILE_GROUP           float
#define TILE_WEIGHT          float
#define TILE_LOAD(p)         vec_load(p)
#define TILE_BROADCAST(p)    vec_set1(*(p))
#define TILE_MADD(sum, a, b) vec_fma(a, b, sum)
#include "kernels/gemm/gemm_tile.h"

#define TILE_NAME            wtn_tile_f16_avx512
#define TILE_ROWS            12
#define TILE_GROUP           float
#define TILE_WEIGHT          uint16_t
#define TILE_LOAD(p)         vec_load_f16(p)
#define TILE_BROADCAST(p)    vec_set1(*(p))
#define TILE_MADD(sum, a, b) vec_fma(a, b, sum)
#include "kernels/gemm/gemm_tile.h"

#define TILE_NAME            wtn_tile_bf16_avx512
#define TILE_ROWS            12
#define TILE_GROUP           float
#define TILE_WEIGHT          uint16_t
#define TILE_LOAD(p)         vec_load_bf16(p)
#define TILE_BROADCAST(p)    vec_set1(*(p))
#define TILE_MADD(sum, a, b) vec_fma(a, b, sum)
#include "kernels/gemm/gemm_tile.h"

#include "kernels/gemm/gemm_rows.h"
#include "kernels/gemm/gemm_tiles.h"

#define GEMM_TIER      avx512
#define GEMM_TILE_ROWS 12
#include "kernels/gemm/gemm_table.h"

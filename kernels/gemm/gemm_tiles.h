/* Declarations of the tile and packing functions that the tables of kernels/gemm/ are made of. */
#ifndef WTN_GEMM_TILES_H
#define WTN_GEMM_TILES_H

#include "kernels/gemm/gemm.h"

void wtn_tile_f32_avx2(const wtn_tile_args_t *args);
void wtn_tile_f16_avx2(const wtn_tile_args_t *args);
void wtn_tile_bf16_avx2(const wtn_tile_args_t *args);
void wtn_tile_f32_avx512(const wtn_tile_args_t *args);
void wtn_tile_f16_avx512(const wtn_tile_args_t *args);
void wtn_tile_bf16_avx512(const wtn_tile_args_t *args);
void wtn_tile_bf16_avx512_bf16(const wtn_tile_args_t *args);

#endif

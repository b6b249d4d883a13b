#include "kernels/ffn/ffn_epilogue.h"

#define EPILOGUE_TABLE wtn_ffn_epilogue_avx512
#include "kernels/ffn/ffn_epilogue_table.h"

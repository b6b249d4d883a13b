/* What Witan uses of CUDA's runtime, for the emulator. */
#ifndef WTN_EMULATOR_CUDA_RUNTIME_H
#define WTN_EMULATOR_CUDA_RUNTIME_H

#include <cuda_runtime_api.h>

#endif

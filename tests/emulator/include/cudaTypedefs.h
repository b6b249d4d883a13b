/* Types of the driver's functions, for the emulator. */
#ifndef WTN_EMULATOR_CUDA_TYPEDEFS_H
#define WTN_EMULATOR_CUDA_TYPEDEFS_H

#include <cuda.h>

#endif

/* What Witan uses of CUDA's runtime, for the emulator: same names, same numbers, same signatures as
 * CUDA 13.0. test_headers compares the numbers where the real headers are found. */
#ifndef WTN_EMULATOR_CUDA_RUNTIME_API_H
#define WTN_EMULATOR_CUDA_RUNTIME_API_H

#include <stddef.h>
#include <stdint.h>

#define CUDART_VERSION 13000

#if defined(__CUDACC__)
#error "the emulator's headers are not for nvcc"
#endif

#define __host__
#define __device__
#define __align__(n) __attribute__((aligned(n)))

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cudaError {
    cudaSuccess                       = 0,
    cudaErrorInvalidValue             = 1,
    cudaErrorMemoryAllocation         = 2,
    cudaErrorInitializationError      = 3,
    cudaErrorInvalidConfiguration     = 9,
    cudaErrorInvalidDevicePointer     = 17,
    cudaErrorInvalidMemcpyDirection   = 21,
    cudaErrorInsufficientDriver       = 35,
    cudaErrorInvalidDeviceFunction    = 98,
    cudaErrorNoDevice                 = 100,
    cudaErrorInvalidDevice            = 101,
    cudaErrorDeviceUninitialized      = 201,
    cudaErrorMapBufferObjectFailed    = 205,
    cudaErrorAlreadyMapped            = 208,
    cudaErrorNoKernelImageForDevice   = 209,
    cudaErrorPeerAccessUnsupported    = 217,
    cudaErrorInvalidResourceHandle    = 400,
    cudaErrorSymbolNotFound           = 500,
    cudaErrorNotReady                 = 600,
    cudaErrorIllegalAddress           = 700,
    cudaErrorIllegalInstruction       = 715,
    cudaErrorLaunchOutOfResources     = 701,
    cudaErrorLaunchTimeout            = 702,
    cudaErrorPeerAccessAlreadyEnabled = 704,
    cudaErrorMisalignedAddress        = 716,
    cudaErrorLaunchFailure            = 719,
    cudaErrorNotSupported             = 801,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureMerge       = 902,
    cudaErrorStreamCaptureUnmatched   = 903,
    cudaErrorStreamCaptureUnjoined    = 904,
    cudaErrorStreamCaptureIsolation   = 905,
    cudaErrorStreamCaptureImplicit    = 906,
    cudaErrorCapturedEvent            = 907,
    cudaErrorStreamCaptureWrongThread = 908,
    cudaErrorUnknown                  = 999
} cudaError_t;

typedef struct CUstream_st    *cudaStream_t;
typedef struct CUevent_st     *cudaEvent_t;
typedef struct CUgraph_st     *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;

/* ---- errors ---- */

cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorName(cudaError_t code);
const char *cudaGetErrorString(cudaError_t code);

/* ---- devices ---- */

enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock                = 1,
    cudaDevAttrMaxSharedMemoryPerBlock           = 8,
    cudaDevAttrWarpSize                          = 10,
    cudaDevAttrClockRate                         = 13,
    cudaDevAttrMultiProcessorCount               = 16,
    cudaDevAttrPciBusId                          = 33,
    cudaDevAttrPciDeviceId                       = 34,
    cudaDevAttrMemoryClockRate                   = 36,
    cudaDevAttrGlobalMemoryBusWidth              = 37,
    cudaDevAttrL2CacheSize                       = 38,
    cudaDevAttrMaxThreadsPerMultiProcessor       = 39,
    cudaDevAttrUnifiedAddressing                 = 41,
    cudaDevAttrPciDomainId                       = 50,
    cudaDevAttrComputeCapabilityMajor            = 75,
    cudaDevAttrComputeCapabilityMinor            = 76,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor  = 81,
    cudaDevAttrCooperativeLaunch                 = 95,
    cudaDevAttrMaxSharedMemoryPerBlockOptin      = 97,
    cudaDevAttrCanUseHostPointerForRegisteredMem = 91
};

typedef struct cudaUUID_st {
    char bytes[16];
} cudaUUID_t;

struct cudaDeviceProp {
    char       name[256];
    cudaUUID_t uuid;
    size_t     totalGlobalMem;
    size_t     sharedMemPerBlock;
    size_t     sharedMemPerBlockOptin;
    size_t     sharedMemPerMultiprocessor;
    int        warpSize;
    int        maxThreadsPerBlock;
    int        maxThreadsPerMultiProcessor;
    int        maxGridSize[3];
    int        major, minor;
    int        multiProcessorCount;
    int        l2CacheSize;
    int        memoryBusWidth;
    int        unifiedAddressing;
    int        pciDomainID, pciBusID, pciDeviceID;
};

cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceGetPCIBusId(char *text, int text_bytes, int device);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaDeviceReset(void);
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer);
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned int flags);
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);

/* ---- memory ---- */

enum cudaMemcpyKind {
    cudaMemcpyHostToHost     = 0,
    cudaMemcpyHostToDevice   = 1,
    cudaMemcpyDeviceToHost   = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault        = 4
};

enum cudaMemoryType {
    cudaMemoryTypeUnregistered = 0,
    cudaMemoryTypeHost         = 1,
    cudaMemoryTypeDevice       = 2,
    cudaMemoryTypeManaged      = 3
};

struct cudaPointerAttributes {
    enum cudaMemoryType type;
    int                 device;
    void               *devicePointer;
    void               *hostPointer;
};

#define cudaHostAllocDefault           0x00
#define cudaHostAllocPortable          0x01
#define cudaHostAllocMapped            0x02
#define cudaHostAllocWriteCombined     0x04
#define cudaIpcMemLazyEnablePeerAccess 0x01

typedef struct cudaIpcMemHandle_st {
    char reserved[64];
} cudaIpcMemHandle_t;

cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned int flags);
cudaError_t cudaMallocHost(void **out, size_t bytes);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaHostGetDevicePointer(void **out, void *memory, unsigned int flags);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *pointer);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemset(void *to, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *memory);
cudaError_t cudaIpcOpenMemHandle(void **out, cudaIpcMemHandle_t handle, unsigned int flags);
cudaError_t cudaIpcCloseMemHandle(void *memory);

/* ---- streams and events ---- */

#define cudaStreamPerThread    ((cudaStream_t)0x2) /* a name; there is none */
#define cudaStreamDefault      0x00
#define cudaStreamNonBlocking  0x01
#define cudaEventDefault       0x00
#define cudaEventBlockingSync  0x01
#define cudaEventDisableTiming 0x02
#define cudaEventInterprocess  0x04

typedef void (*cudaHostFn_t)(void *context);

cudaError_t cudaStreamCreate(cudaStream_t *out);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned int flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned int flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags);
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *context);
cudaError_t cudaEventCreate(cudaEvent_t *out);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned int flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end);

/* ---- graphs ---- */

enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal      = 0,
    cudaStreamCaptureModeThreadLocal = 1,
    cudaStreamCaptureModeRelaxed     = 2
};

enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone        = 0,
    cudaStreamCaptureStatusActive      = 1,
    cudaStreamCaptureStatusInvalidated = 2
};

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);

/* ---- functions ---- */

enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize    = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};

enum cudaDriverEntryPointQueryResult {
    cudaDriverEntryPointSuccess             = 0,
    cudaDriverEntryPointSymbolNotFound      = 1,
    cudaDriverEntryPointVersionNotSufficent = 2
};

#define cudaEnableDefault 0x0

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value);
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function,
                                                          int threads, size_t shared_bytes);
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **out, unsigned int version,
                                             unsigned long long                    flags,
                                             enum cudaDriverEntryPointQueryResult *result);

#ifdef __cplusplus
}
#endif

#endif

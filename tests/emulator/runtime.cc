/* The runtime: settings, errors, devices, attributes. */
#include <cuda.h>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/emulator/launch.h"
#include "tests/emulator/state.h"

namespace emulator
{

settings_t           settings;
std::recursive_mutex lock;
cudaError_t          sticky;

static thread_local cudaError_t last_error;
static thread_local int         device;
static bool                     settings_read;

enum {
    SHARED_BYTES        = 48 * 1024,  /* of a block unless its kernel asked for more */
    SHARED_OPTIN_BYTES  = 227 * 1024, /* CUDA C++ Programming Guide, capability 9.0 */
    SHARED_OPTIN_SM80   = 163 * 1024,
    SHARED_SM_BYTES     = 228 * 1024,
    SHARED_SM_SM80      = 164 * 1024,
    SHARED_SYSTEM_BYTES = 1024 /* taken of the SM by each block */
};

/* splitmix64 */
uint64_t draw(void)
{
    uint64_t z = (settings.random += 0x9E3779B97F4A7C15u);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

void complain(const char *name, const char *expected, const char *found)
{
    (void)fprintf(stderr, "emulator: %s: expected %s, found '%s'\n", name, expected, found);
    _exit(EXIT_FAILURE); /* no other thread or library has a part in this */
}

/* The whole text is a number, of `least` or more. */
static int number_of(const char *name, const char *expected, const char *text, int least)
{
    char *end;
    long  number = strtol(text, &end, 10);

    if (end == text || *end != '\0' || number < least || number > INT32_MAX) {
        complain(name, expected, text);
    }
    return (int)number;
}

static int number_from(const char *name, int otherwise, int least)
{
    const char *text     = getenv(name);
    const char *expected = least == 0 ? "a number" : "a number of 1 or more";

    return text == NULL || *text == '\0' ? otherwise : number_of(name, expected, text, least);
}

static void read_settings(void)
{
    const char *text;

    if (settings_read) {
        return;
    }
    settings_read         = true;
    settings.capability   = number_from("WTN_EMULATOR_CAPABILITY", 90, 0);
    settings.sm_count     = number_from("WTN_EMULATOR_SMS", 8, 1);
    settings.protect      = number_from("WTN_EMULATOR_PROTECT", 1, 0) != 0;
    settings.trace        = number_from("WTN_EMULATOR_TRACE", 0, 0) != 0;
    text                  = getenv("WTN_EMULATOR_DEVICES");
    settings.device_count = 8;
    if (text != NULL && strcmp(text, "no-driver") == 0) {
        settings.device_count = 0;
        settings.no_driver    = true;
    } else if (text != NULL && *text != '\0') {
        settings.device_count = number_of("WTN_EMULATOR_DEVICES", "a number or no-driver", text, 0);
    }
    text = getenv("WTN_EMULATOR_ORDER");
    if (text != NULL && *text != '\0' && !wtn_emulator_parse_order(text)) {
        complain("WTN_EMULATOR_ORDER", "forward, reverse or random[:SEED], then ,late or ,early",
                 text);
    }
    text = getenv("WTN_EMULATOR_FAIL");
    if (text != NULL && strncmp(text, "alloc:", 6) == 0) {
        settings.alloc_fails_in =
            number_of("WTN_EMULATOR_FAIL", "alloc:N of 1 or more", text + 6, 1);
    } else if (text != NULL && strncmp(text, "launch:", 7) == 0) {
        settings.launch_fails_in =
            number_of("WTN_EMULATOR_FAIL", "launch:N of 1 or more", text + 7, 1);
    } else if (text != NULL && *text != '\0') {
        complain("WTN_EMULATOR_FAIL", "alloc:N or launch:N", text);
    }
}

cudaError_t ready(void)
{
    std::lock_guard<std::recursive_mutex> hold(lock);

    read_settings();
    if (settings.no_driver) {
        return cudaErrorInsufficientDriver;
    }
    return settings.device_count == 0 ? cudaErrorNoDevice : sticky;
}

cudaError_t answer(cudaError_t code)
{
    if (code != cudaSuccess) {
        last_error = code;
    }
    return code;
}

size_t shared_bytes_limit(void)
{
    read_settings();
    return settings.capability == 80 ? SHARED_OPTIN_SM80 : SHARED_OPTIN_BYTES;
}

size_t shared_bytes_default(void)
{
    return SHARED_BYTES;
}

/* Registers are not known here: threads, blocks and shared memory decide. */
int resident_blocks_per_sm(uint32_t threads, size_t shared_bytes)
{
    size_t sm_bytes   = settings.capability == 80 ? SHARED_SM_SM80 : SHARED_SM_BYTES;
    size_t by_shared  = sm_bytes / (shared_bytes + SHARED_SYSTEM_BYTES);
    size_t by_threads = 2048 / (threads == 0 ? 1 : threads);
    size_t blocks     = by_shared < by_threads ? by_shared : by_threads;

    return (int)(blocks < 32 ? blocks : 32);
}

} // namespace emulator

using namespace emulator;

/* ---- what tests tell ---- */

void wtn_emulator_set_order(wtn_emulator_order_t order, uint64_t seed,
                            wtn_emulator_landing_t landing)
{
    std::lock_guard<std::recursive_mutex> hold(lock);

    read_settings();
    settings.order   = order;
    settings.random  = seed;
    settings.landing = landing;
}

bool wtn_emulator_parse_order(const char *text)
{
    static const char *const names[] = {"forward", "reverse", "random"};
    char                    *end;

    for (int i = 0; i < 3; i++) {
        wtn_emulator_landing_t landing =
            i == WTN_EMULATOR_RANDOM ? WTN_EMULATOR_EITHER : WTN_EMULATOR_LATE;
        uint64_t    seed = 1;
        const char *rest = text + strlen(names[i]);
        if (strncmp(text, names[i], strlen(names[i])) != 0) {
            continue;
        }
        if (*rest == ':' && i == WTN_EMULATOR_RANDOM) {
            seed = strtoull(rest + 1, &end, 10);
            rest = end;
        }
        if (strcmp(rest, ",early") == 0) {
            landing = WTN_EMULATOR_EARLY;
        } else if (strcmp(rest, ",late") == 0) {
            landing = WTN_EMULATOR_LATE;
        } else if (*rest != '\0') {
            return false;
        }
        wtn_emulator_set_order((wtn_emulator_order_t)i, seed, landing);
        return true;
    }
    return false;
}

void wtn_emulator_fail(wtn_emulator_fault_t fault, int count)
{
    std::lock_guard<std::recursive_mutex> hold(lock);

    read_settings();
    settings.alloc_fails_in  = fault == WTN_EMULATOR_FAIL_ALLOC ? count : 0;
    settings.launch_fails_in = fault == WTN_EMULATOR_FAIL_LAUNCH ? count : 0;
}

/* ---- errors ---- */

static const struct {
    cudaError_t code;
    const char *name, *text;
} errors[] = {
#define ERROR(code, text) \
    {                     \
        code, #code, text \
    }
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInitializationError, "initialization error"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR(cudaErrorInvalidDevicePointer, "invalid device pointer"),
    ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    ERROR(cudaErrorInsufficientDriver,
          "CUDA driver version is insufficient for CUDA runtime version"),
    ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR(cudaErrorDeviceUninitialized, "invalid device context"),
    ERROR(cudaErrorMapBufferObjectFailed, "mapping of buffer object failed"),
    ERROR(cudaErrorAlreadyMapped, "resource already mapped"),
    ERROR(cudaErrorNoKernelImageForDevice,
          "no kernel image is available for execution on the device"),
    ERROR(cudaErrorPeerAccessUnsupported, "peer access is not supported between these two devices"),
    ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR(cudaErrorSymbolNotFound, "named symbol not found"),
    ERROR(cudaErrorNotReady, "device not ready"),
    ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ERROR(cudaErrorIllegalInstruction, "an illegal instruction was encountered"),
    ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    ERROR(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    ERROR(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled"),
    ERROR(cudaErrorMisalignedAddress, "misaligned address"),
    ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    ERROR(cudaErrorNotSupported, "operation not supported"),
    ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ERROR(cudaErrorStreamCaptureInvalidated,
          "operation failed due to a previous error during capture"),
    ERROR(cudaErrorStreamCaptureMerge,
          "operation would result in a merge of separate capture sequences"),
    ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    ERROR(cudaErrorStreamCaptureIsolation,
          "dependency created on uncaptured work in another stream"),
    ERROR(cudaErrorStreamCaptureImplicit,
          "operation would make the legacy stream depend on a capturing blocking stream"),
    ERROR(cudaErrorCapturedEvent,
          "operation not permitted on an event last recorded in a capturing stream"),
    ERROR(cudaErrorStreamCaptureWrongThread,
          "attempt to terminate a thread-local capture sequence from another thread"),
    ERROR(cudaErrorUnknown, "unknown error"),
#undef ERROR
};

const char *cudaGetErrorName(cudaError_t code)
{
    for (const auto &error : errors) {
        if (error.code == code) {
            return error.name;
        }
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t code)
{
    for (const auto &error : errors) {
        if (error.code == code) {
            return error.text;
        }
    }
    return "unrecognized error code";
}

cudaError_t cudaPeekAtLastError(void)
{
    return sticky != cudaSuccess ? sticky : last_error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t code = cudaPeekAtLastError();

    last_error = cudaSuccess;
    return code;
}

/* ---- devices ---- */

cudaError_t cudaDriverGetVersion(int *version)
{
    cudaError_t code = ready();

    *version = code == cudaErrorInsufficientDriver ? 0 : CUDA_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    cudaError_t code = ready();

    *count = code == cudaSuccess ? settings.device_count : 0;
    return answer(code);
}

cudaError_t cudaSetDevice(int to)
{
    cudaError_t code = ready();

    if (code == cudaSuccess && (to < 0 || to >= settings.device_count)) {
        code = cudaErrorInvalidDevice;
    }
    if (code == cudaSuccess) {
        device = to;
    }
    return answer(code);
}

cudaError_t cudaGetDevice(int *out)
{
    *out = device;
    return answer(ready());
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int of)
{
    cudaError_t code = ready();

    if (code == cudaSuccess && (of < 0 || of >= settings.device_count)) {
        code = cudaErrorInvalidDevice;
    }
    if (code != cudaSuccess) {
        return answer(code);
    }
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = 1024;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = SHARED_BYTES;
        break;
    case cudaDevAttrWarpSize:
        *value = 32;
        break;
    case cudaDevAttrClockRate:
        *value = 1000000; /* kHz; a nominal 1 GHz, as nothing here is a device's speed */
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = settings.sm_count;
        break;
    case cudaDevAttrPciBusId:
        *value = of + 1;
        break;
    case cudaDevAttrMemoryClockRate:
        *value = 1000000;
        break;
    case cudaDevAttrGlobalMemoryBusWidth:
        *value = 64;
        break;
    case cudaDevAttrL2CacheSize:
        *value = 1 << 20;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = 2048;
        break;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrCooperativeLaunch:
        *value = 1;
        break;
    case cudaDevAttrPciDeviceId:
    case cudaDevAttrPciDomainId:
    case cudaDevAttrCanUseHostPointerForRegisteredMem:
        *value = 0;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = settings.capability / 10;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = settings.capability % 10;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = settings.capability == 80 ? SHARED_SM_SM80 : SHARED_SM_BYTES;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)shared_bytes_limit();
        break;
    default:
        return answer(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int of)
{
    cudaError_t code = ready();

    if (code == cudaSuccess && (of < 0 || of >= settings.device_count)) {
        code = cudaErrorInvalidDevice;
    }
    if (code != cudaSuccess) {
        return answer(code);
    }
    memset(properties, 0, sizeof(*properties));
    (void)snprintf(properties->name, sizeof(properties->name), "Witan's emulator");
    properties->uuid.bytes[15]              = (char)(of + 1);
    properties->totalGlobalMem              = (size_t)16 << 30;
    properties->sharedMemPerBlock           = SHARED_BYTES;
    properties->sharedMemPerBlockOptin      = shared_bytes_limit();
    properties->sharedMemPerMultiprocessor  = SHARED_SM_BYTES;
    properties->warpSize                    = 32;
    properties->maxThreadsPerBlock          = 1024;
    properties->maxThreadsPerMultiProcessor = 2048;
    properties->maxGridSize[0]              = 0x7fffffff;
    properties->maxGridSize[1]              = 65535;
    properties->maxGridSize[2]              = 65535;
    properties->major                       = settings.capability / 10;
    properties->minor                       = settings.capability % 10;
    properties->multiProcessorCount         = settings.sm_count;
    properties->l2CacheSize                 = 1 << 20;
    properties->memoryBusWidth              = 64;
    properties->unifiedAddressing           = 1;
    properties->pciBusID                    = of + 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int text_bytes, int of)
{
    cudaError_t code = ready();

    if (code == cudaSuccess && (of < 0 || of >= settings.device_count)) {
        code = cudaErrorInvalidDevice;
    }
    if (code == cudaSuccess && (text == NULL || text_bytes < 13)) {
        code = cudaErrorInvalidValue;
    }
    if (code == cudaSuccess) {
        (void)snprintf(text, (size_t)text_bytes, "0000:%02X:00.0", (unsigned)(of + 1) & 0xff);
    }
    return answer(code);
}

cudaError_t cudaDeviceReset(void)
{
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int of, int peer)
{
    *can = of != peer;
    return answer(ready());
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned int flags)
{
    if (flags != 0 || peer == device) {
        return answer(cudaErrorInvalidDevice);
    }
    return answer(ready());
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least    = 0;
    *greatest = -5;
    return answer(ready());
}

/* ---- functions ---- */

static std::map<const void *, size_t> shared_limits; /* by kernel, where it was raised */

size_t emulator::shared_bytes_allowed(const void *function)
{
    auto it = shared_limits.find(function);

    return it == shared_limits.end() ? (size_t)SHARED_BYTES : it->second;
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t                           code = ready();

    if (code == cudaSuccess && function == NULL) {
        code = cudaErrorInvalidDeviceFunction;
    }
    if (code == cudaSuccess && attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || (size_t)value > shared_bytes_limit()) {
            code = cudaErrorInvalidValue;
        } else {
            shared_limits[function] = (size_t)value;
        }
    }
    return answer(code);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function,
                                                          int threads, size_t shared_bytes)
{
    cudaError_t code = ready();

    *blocks = 0;
    if (code == cudaSuccess && (function == NULL || threads <= 0)) {
        code = cudaErrorInvalidValue;
    }
    if (code == cudaSuccess && threads <= 1024 && shared_bytes <= shared_bytes_allowed(function)) {
        *blocks = resident_blocks_per_sm((uint32_t)threads, shared_bytes);
    }
    return answer(code);
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **out, unsigned int version,
                                             unsigned long long                    flags,
                                             enum cudaDriverEntryPointQueryResult *result)
{
    cudaError_t                          code  = ready();
    enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;

    *out = NULL;
    if (code == cudaSuccess && flags == cudaEnableDefault &&
        strcmp(symbol, "cuTensorMapEncodeTiled") == 0) {
        found = version >= 12000 ? cudaDriverEntryPointSuccess
                                 : cudaDriverEntryPointVersionNotSufficent;
    }
    if (found == cudaDriverEntryPointSuccess) {
        *out = (void *)&encode_tiled;
    }
    if (result != NULL) {
        *result = found;
    }
    return answer(code);
}

/* What the emulator's headers and CUDA's own must agree on: one list, compiled with each. */
#ifndef WTN_TEST_HEADERS_H
#define WTN_TEST_HEADERS_H

typedef struct header_value {
    const char *name;
    long long   value;
} header_value_t;

extern const header_value_t wtn_emulated_values[];
extern const header_value_t wtn_cuda_values[];

#endif

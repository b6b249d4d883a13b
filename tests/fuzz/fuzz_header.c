/* Fuzz target: the header of a safetensors file. The input is u16 of data bytes, then the JSON.
 * What is accepted must hold together: the tensors cover the data once, every name is found. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "experts/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    wtn_st_file_t *file = NULL;
    uint64_t       data_bytes, end = 0;

    if (size < 2) {
        return 0;
    }
    data_bytes = (uint64_t)data[0] | (uint64_t)data[1] << 8;
    if (wtn_st_parse(&file, "F", data + 2, size - 2, data_bytes) != WITAN_OK) {
        if (file != NULL || strncmp(witan_last_error(), "F: ", 3) != 0) {
            abort();
        }
        return 0;
    }
    for (size_t i = 0; i < wtn_st_count(file); i++) {
        const wtn_st_tensor_t *tensor = wtn_st_at(file, i);
        uint64_t               bytes  = wtn_st_dtype_bytes(tensor->dtype);

        for (int32_t j = 0; j < tensor->rank; j++) {
            bytes *= (uint64_t)tensor->shape[j];
        }
        if (tensor->begin != end || tensor->end - tensor->begin != bytes ||
            wtn_st_find(file, tensor->name) != tensor) {
            abort();
        }
        end = tensor->end;
    }
    if (end != data_bytes) {
        abort();
    }
    wtn_st_close(file);
    return 0;
}

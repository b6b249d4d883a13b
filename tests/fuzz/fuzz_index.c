/* Fuzz target: the index of a sharded model. No accepted name of a file may leave the folder. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "experts/files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t     *map = NULL, *value;
    const char *name;

    if (wtn_index_parse(&map, "F", (const char *)data, size) != WITAN_OK) {
        if (map != NULL || strncmp(witan_last_error(), "F: ", 3) != 0) {
            abort();
        }
        return 0;
    }
    json_object_foreach(map, name, value)
    {
        const char *file = json_string_value(value);

        if (file == NULL || *file == '\0' || strchr(file, '/') != NULL ||
            strstr(file, "..") != NULL) {
            abort();
        }
    }
    json_decref(map);
    return 0;
}

#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/backend.h"

const wtn_backend_t *const wtn_backends[] = {&wtn_backend_host, &wtn_backend_cuda, NULL};

static witan_status_t unknown(const char *name)
{
    char   known[128] = "auto";
    size_t used       = strlen(known);

    for (int32_t i = 0; wtn_backends[i] != NULL; i++) {
        int more = snprintf(known + used, sizeof(known) - used, ", %s", wtn_backends[i]->name);

        used = (size_t)wtn_min_i64((int64_t)used + more, (int64_t)sizeof(known) - 1);
    }
    return WTN_ERROR(WITAN_E_ARGUMENT, "backend: expected one of %s, found '%s'", known, name);
}

witan_status_t wtn_backend_select(const char *name, const wtn_backend_t **out)
{
    const bool any         = strcmp(name, "auto") == 0;
    char       reason[128] = "none is built in";

    *out = NULL;
    for (int32_t i = 0; wtn_backends[i] != NULL; i++) {
        if (!any && strcmp(name, wtn_backends[i]->name) != 0) {
            continue;
        }
        if (wtn_backends[i]->probe(reason, sizeof(reason))) {
            *out = wtn_backends[i];
            return WITAN_OK;
        }
        if (!any) {
            return WTN_ERROR(WITAN_E_UNSUPPORTED, "backend %s: not available: %s", name, reason);
        }
    }
    if (!any) {
        return unknown(name);
    }
    return WTN_ERROR(WITAN_E_UNSUPPORTED, "backend auto: %s", reason);
}

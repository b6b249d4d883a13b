#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/env.h"
#include "core/error.h"

static const struct {
    const char *name, *type, *value;
} table[WTN_ENV_COUNT] = {
#define ENV_ROW(name, type, value, help) {#name, type, value},
    WTN_ENV_LIST(ENV_ROW)
#undef ENV_ROW
};

const char *wtn_env_text(wtn_env_t variable)
{
    const char *text = getenv(table[variable].name);

    return text == NULL || *text == '\0' ? table[variable].value : text;
}

witan_status_t wtn_env_count(wtn_env_t variable, int64_t max, int64_t *value)
{
    const char *text = wtn_env_text(variable);
    char       *end;
    long long   parsed;

    errno  = 0;
    parsed = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || parsed < 0 || parsed > max) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "%s: expected a count from 0 to %" PRId64 ", found '%s'",
                         table[variable].name, max, text);
    }
    *value = parsed;
    return WITAN_OK;
}

witan_status_t wtn_env_seconds(wtn_env_t variable, uint64_t *nanoseconds)
{
    const char *text = wtn_env_text(variable);
    char       *end;
    double      parsed;

    errno  = 0;
    parsed = strtod(text, &end);
    if (end == text || *end != '\0' || !(parsed >= 0.001 && parsed <= 1e9)) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "%s: expected seconds from 0.001 to 1e9, found '%s'",
                         table[variable].name, text);
    }
    *nanoseconds = (uint64_t)llround(parsed * 1e9);
    return WITAN_OK;
}

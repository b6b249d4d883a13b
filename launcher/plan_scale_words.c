/* The words of witan plan scale that are more than a number or a choice. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "launcher/plan_scale.h"

static bool parse_real(const char *text, double least, double below, double *value)
{
    char *end;

    errno  = 0;
    *value = strtod(text, &end);
    return strspn(text, "0123456789.e-") == strlen(text) && end != text && *end == '\0' &&
           errno == 0 && *value >= least && *value < below;
}

static bool parse_count(const char *text, size_t bytes, int64_t most, int64_t *value)
{
    char  copy[16];
    char *end;

    if (bytes == 0 || bytes >= sizeof(copy)) {
        return false;
    }
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    *value      = strtoll(copy, &end, 10);
    return strspn(copy, "0123456789") == bytes && *value >= 1 && *value <= most;
}

/* "4", "1,2,3" or "1..64": from the first, doubled up to the last, and the last. */
static witan_status_t parse_nodes(wtn_scale_wish_t *wish, const char *text)
{
    const char *dots = strstr(text, "..");
    int64_t     from, to;

    wish->node_count = 0;
    if (dots != NULL) {
        if (parse_count(text, (size_t)(dots - text), WTN_SCALE_NODES_MAX, &from) &&
            parse_count(dots + 2, strlen(dots + 2), WTN_SCALE_NODES_MAX, &to) && from <= to) {
            for (; from < to; from *= 2) {
                wish->nodes[wish->node_count++] = from;
            }
            wish->nodes[wish->node_count++] = to;
            return WITAN_OK;
        }
    } else {
        const char *at = text;

        while (wish->node_count < WTN_OPTION_LIST_MAX) {
            size_t bytes = strcspn(at, ",");

            if (!parse_count(at, bytes, WTN_SCALE_NODES_MAX, &wish->nodes[wish->node_count])) {
                break;
            }
            wish->node_count++;
            if (at[bytes] == '\0') {
                return WITAN_OK;
            }
            at += bytes + 1;
        }
    }
    return WTN_ERROR(WITAN_E_ARGUMENT,
                     "--nodes: expected a list 1,2,4 or a range 1..%d of 1 to %d nodes, found '%s'",
                     WTN_SCALE_NODES_MAX, WTN_SCALE_NODES_MAX, text);
}

/* "auto", "ep", "tp" or "epAxtpB". */
static witan_status_t parse_mode(wtn_scale_wish_t *wish, const char *text)
{
    const char *x  = strstr(text, "xtp");
    int64_t     ep = 0, tp = 0;

    if (strcmp(text, "auto") == 0) {
        return WITAN_OK;
    }
    if (strcmp(text, "ep") == 0) {
        wish->tp = 1;
        wish->ep = -1;
        return WITAN_OK;
    }
    if (strcmp(text, "tp") == 0) {
        wish->ep = 1;
        wish->tp = -1;
        return WITAN_OK;
    }
    if (strncmp(text, "ep", 2) == 0 && x != NULL &&
        parse_count(text + 2, (size_t)(x - text - 2), 1 << 20, &ep) &&
        parse_count(x + 3, strlen(x + 3), 1 << 20, &tp)) {
        wish->ep = (int32_t)ep;
        wish->tp = (int32_t)tp;
        return WITAN_OK;
    }
    return WTN_ERROR(WITAN_E_ARGUMENT, "--mode: expected auto, ep, tp or epNxtpM, found '%s'",
                     text);
}

static witan_status_t parse_disturbance(const wtn_scale_words_t *words, wtn_scale_disturbance_t *to)
{
    *to = (wtn_scale_disturbance_t){.slow_rank = (int32_t)words->slow_rank};
    if (!parse_real(words->slow_factor, 1, 1e6, &to->slow_factor)) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--slow-factor: expected a number from 1 to 1e6, found '%s'",
                         words->slow_factor);
    }
    if (!parse_real(words->congestion, 0, 1, &to->congestion)) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--congestion: expected a number from 0 to below 1, found '%s'",
                         words->congestion);
    }
    if (!words->simulate && (words->slow_rank >= 0 || to->congestion > 0)) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--slow-rank and --congestion: expected beside --simulate only");
    }
    return WITAN_OK;
}

witan_status_t wtn_scale_check_words(const wtn_scale_words_t *words, wtn_scale_wish_t *wish,
                                     wtn_scale_disturbance_t *disturbance)
{
    witan_status_t status;

    *wish = (wtn_scale_wish_t){0};
    if (!words->published && words->machine == NULL) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--machine: expected FILE or a name, found nothing");
    }
    WTN_TRY(parse_nodes(wish, words->nodes));
    WTN_TRY(parse_mode(wish, words->mode));
    WTN_TRY(wtn_skew_check("--skew", words->skew));
    WTN_TRY(parse_disturbance(words, disturbance));

fail:
    return status;
}

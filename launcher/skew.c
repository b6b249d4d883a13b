#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/safetensors.h"
#include "launcher/skew.h"

/* Draws that may meet an expert the token has already, before the rest is weighed exactly. Either
 * way the next expert has its share of the weights left. */
#define DRAW_COUNT_MAX 16

#define IDS_TENSOR "topk_ids"

typedef enum skew_kind {
    SKEW_UNIFORM,
    SKEW_ZIPF,
    SKEW_HOT,
    SKEW_BALANCED,
    SKEW_ZERO_RANK,
    SKEW_TRACE,
} skew_kind_t;

struct wtn_skew {
    skew_kind_t kind;
    int32_t     expert_count, topk;
    uint64_t    seed;
    int32_t     hot;
    double     *sums;  /* [E] weights of experts 0..e together */
    int32_t    *guide; /* [E] where to look for a sum: the first above each E-th part of all */
    int32_t    *order; /* [E] a permutation: the most wanted first, or the turns */
    int32_t    *trace; /* [trace_count, K] */
    int64_t     trace_count;
};

/* What a word means. */
typedef struct skew_word {
    skew_kind_t kind;
    double      exponent;
    int32_t     hot;
    const char *path;
} skew_word_t;

/* splitmix64 */
static uint64_t next(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static double next_unit(uint64_t *state)
{
    return (double)(next(state) >> 11) * 0x1p-53; /* [0, 1) */
}

/* ---- words ---- */

static bool parse_number(const char *text, double *number)
{
    char *end;

    *number = strtod(text, &end);
    return end != text && *end == '\0' && strspn(text, "0123456789.e-") == strlen(text) &&
           *number >= 0 && *number <= INT32_MAX;
}

static bool parse_word(const char *text, skew_word_t *word)
{
    static const struct {
        const char *name;
        skew_kind_t kind;
    } plain[] = {
        {"uniform", SKEW_UNIFORM},
        {"balanced", SKEW_BALANCED},
        {"zero-rank", SKEW_ZERO_RANK},
    };
    double number;

    *word = (skew_word_t){0};
    for (size_t i = 0; i < WTN_COUNT_OF(plain); i++) {
        if (strcmp(text, plain[i].name) == 0) {
            word->kind = plain[i].kind;
            return true;
        }
    }
    if (strncmp(text, "zipf:", 5) == 0) {
        word->kind = SKEW_ZIPF;
        return parse_number(text + 5, &word->exponent);
    }
    if (strncmp(text, "hot:", 4) == 0 && parse_number(text + 4, &number)) {
        word->kind = SKEW_HOT;
        word->hot  = (int32_t)number;
        return number == floor(number);
    }
    word->kind = SKEW_TRACE;
    word->path = text + 6;
    return strncmp(text, "trace:", 6) == 0 && text[6] != '\0';
}

witan_status_t wtn_skew_check(const char *option, const char *text)
{
    skew_word_t word;

    if (!parse_word(text, &word)) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "%s: expected uniform, zipf:S, hot:E, trace:FILE, balanced or zero-rank, "
                         "found '%s'",
                         option, text);
    }
    return WITAN_OK;
}

/* ---- traces ---- */

static witan_status_t check_ids(const wtn_skew_t *skew, const char *path)
{
    for (int64_t i = 0; i < skew->trace_count * skew->topk; i++) {
        if (skew->trace[i] < -1 || skew->trace[i] >= skew->expert_count) {
            return WTN_ERROR(WITAN_E_FORMAT,
                             "%s: token %" PRId64 ": expected experts from -1 to %" PRId32
                             ", found %" PRId32,
                             path, i / skew->topk, skew->expert_count - 1, skew->trace[i]);
        }
    }
    return WITAN_OK;
}

static witan_status_t read_tensor(wtn_skew_t *skew, const char *path)
{
    wtn_st_file_t         *file   = NULL;
    const wtn_st_tensor_t *tensor = NULL;
    witan_status_t         status;

    WTN_TRY(wtn_st_open(&file, path));
    tensor = wtn_st_find(file, IDS_TENSOR);
    if (tensor == NULL || tensor->dtype != WTN_ST_I32 || tensor->rank != 2 ||
        tensor->shape[0] < 1 || tensor->shape[1] != skew->topk) {
        status = WTN_ERROR(WITAN_E_FORMAT,
                           "%s: expected a tensor " IDS_TENSOR " I32 [tokens, %" PRId32 "]", path,
                           skew->topk);
    } else {
        size_t bytes = (size_t)(tensor->end - tensor->begin);

        skew->trace_count = tensor->shape[0];
        skew->trace       = malloc(bytes);
        if (skew->trace == NULL) {
            status = WTN_ERROR(WITAN_E_MEMORY, "%s: %zu bytes", path, bytes);
        } else {
            status = wtn_st_read(file, tensor, 0, bytes, skew->trace);
        }
    }

fail:
    wtn_st_close(file);
    return status;
}

static witan_status_t append_token(wtn_skew_t *skew, const char *path, const char *line,
                                   int64_t number, size_t *room)
{
    size_t      topk = (size_t)skew->topk, count = 0;
    const char *at = line;
    int32_t    *place;

    if ((size_t)skew->trace_count == *room) {
        size_t   more = *room == 0 ? 1024 : *room * 2, bytes;
        int32_t *grown =
            wtn_mul(more, topk * sizeof(*grown), &bytes) ? realloc(skew->trace, bytes) : NULL;

        if (grown == NULL) {
            return WTN_ERROR(WITAN_E_MEMORY, "%s: %zu tokens", path, more);
        }
        skew->trace = grown;
        *room       = more;
    }
    place = skew->trace + (size_t)skew->trace_count * topk;
    for (;; count++) {
        char     *end;
        long long id;

        at += strspn(at, " \t\r\n");
        if (*at == '\0') {
            break;
        }
        errno = 0;
        id    = strtoll(at, &end, 10);
        if (end == at || strchr(" \t\r\n", *end) == NULL || errno != 0 || id < INT32_MIN ||
            id > INT32_MAX) {
            return WTN_ERROR(WITAN_E_FORMAT, "%s:%" PRId64 ": expected %zu integers, found '%.*s'",
                             path, number, topk,
                             (int)wtn_min_i64((int64_t)strcspn(at, " \t\r\n"), 60), at);
        }
        if (count < topk) {
            place[count] = (int32_t)id;
        }
        at = end;
    }
    if (count != topk) {
        return WTN_ERROR(WITAN_E_FORMAT, "%s:%" PRId64 ": expected %zu integers, found %zu", path,
                         number, topk, count);
    }
    skew->trace_count++;
    return WITAN_OK;
}

static witan_status_t read_text(wtn_skew_t *skew, const char *path, FILE *file)
{
    char          *line  = NULL;
    size_t         bytes = 0, room = 0;
    witan_status_t status = WITAN_OK;

    for (int64_t number = 1; status == WITAN_OK && getline(&line, &bytes, file) >= 0; number++) {
        if (line[strspn(line, " \t\r\n")] != '\0') {
            status = append_token(skew, path, line, number, &room);
        }
    }
    if (status == WITAN_OK && ferror(file)) {
        status = WTN_ERROR(WITAN_E_IO, "%s: cannot be read: %s", path, strerror(errno));
    }
    if (status == WITAN_OK && skew->trace_count == 0) {
        status = WTN_ERROR(WITAN_E_FORMAT, "%s: expected at least one token, found none", path);
    }
    free(line);
    return status;
}

/* A safetensors file begins with the length of its header, eight bytes of which the upper ones are
 * 0; no text has a zero. */
static witan_status_t read_trace(wtn_skew_t *skew, const char *path)
{
    FILE          *file = fopen(path, "re");
    char           begin[8];
    size_t         count;
    witan_status_t status;

    if (file == NULL) {
        return WTN_ERROR(WITAN_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
    }
    count = fread(begin, 1, sizeof(begin), file);
    rewind(file);
    status =
        memchr(begin, 0, count) == NULL ? read_text(skew, path, file) : read_tensor(skew, path);
    (void)fclose(file);
    return status == WITAN_OK ? check_ids(skew, path) : status;
}

/* ---- making ---- */

static void make_tables(wtn_skew_t *skew, double exponent)
{
    uint64_t state = skew->seed ^ 0x6f72646572u; /* a stream of its own */
    double   sum   = 0;

    for (int32_t e = 0; e < skew->expert_count; e++) { /* inside out, Fisher and Yates */
        int32_t at = (int32_t)(next(&state) % (uint64_t)(e + 1));

        skew->order[e]  = skew->order[at];
        skew->order[at] = e;
    }
    for (int32_t j = 0; j < skew->expert_count; j++) {
        skew->sums[skew->order[j]] = pow((double)j + 1, -exponent);
    }
    for (int32_t e = 0; e < skew->expert_count; e++) {
        sum += skew->sums[e];
        skew->sums[e] = sum;
    }
    for (int32_t part = 0, e = 0; part < skew->expert_count; part++) {
        while (e < skew->expert_count - 1 && skew->sums[e] * skew->expert_count <= sum * part) {
            e++;
        }
        skew->guide[part] = e;
    }
}

witan_status_t wtn_skew_open(wtn_skew_t **out, const char *text, int32_t expert_count, int32_t topk,
                             uint64_t seed)
{
    skew_word_t    word;
    wtn_skew_t    *skew = NULL;
    witan_status_t status;

    *out = NULL;
    WTN_TRY(wtn_skew_check("--skew", text));
    (void)parse_word(text, &word);
    if (word.kind == SKEW_HOT && word.hot >= expert_count) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--skew %s: expected an expert from 0 to %" PRId32 ", found %" PRId32,
                         text, expert_count - 1, word.hot);
    }
    skew = calloc(1, sizeof(*skew));
    if (skew == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "skew: %zu bytes", sizeof(*skew));
    }
    skew->kind         = word.kind;
    skew->hot          = word.hot;
    skew->expert_count = expert_count;
    skew->topk         = topk;
    skew->seed         = seed;
    skew->sums         = calloc((size_t)expert_count, sizeof(*skew->sums));
    skew->guide        = calloc((size_t)expert_count, sizeof(*skew->guide));
    skew->order        = calloc((size_t)expert_count, sizeof(*skew->order));
    if (skew->sums == NULL || skew->guide == NULL || skew->order == NULL) {
        status = WTN_ERROR(WITAN_E_MEMORY, "skew: %" PRId32 " experts", expert_count);
        goto fail;
    }
    make_tables(skew, word.exponent);
    if (word.kind == SKEW_TRACE) {
        WTN_TRY(read_trace(skew, word.path));
    }
    *out = skew;
    return WITAN_OK;

fail:
    wtn_skew_close(skew);
    return status;
}

void wtn_skew_close(wtn_skew_t *skew)
{
    if (skew != NULL) {
        free(skew->sums);
        free(skew->guide);
        free(skew->order);
        free(skew->trace);
        free(skew);
    }
}

/* ---- drawing ---- */

static bool is_taken(const int32_t *ids, int32_t count, int32_t expert)
{
    for (int32_t k = 0; k < count; k++) {
        if (ids[k] == expert) {
            return true;
        }
    }
    return false;
}

/* The first expert whose sum exceeds `unit`, in [0, 1), of all. The guide is near it, by rounding
 * on either side. */
static int32_t find_expert(const wtn_skew_t *skew, double unit)
{
    int32_t last = skew->expert_count - 1, e = skew->guide[(int32_t)(unit * skew->expert_count)];
    double  value = unit * skew->sums[last];

    while (e > 0 && skew->sums[e - 1] > value) {
        e--;
    }
    while (e < last && skew->sums[e] <= value) {
        e++;
    }
    return e;
}

/* One of the experts that ids[0..count) has not, by weight. */
static int32_t draw_rest(const wtn_skew_t *skew, const int32_t *ids, int32_t count, double unit)
{
    double  total = 0, at = 0;
    int32_t last = -1;

    for (int pass = 0; pass < 2; pass++) {
        for (int32_t e = 0; e < skew->expert_count; e++) {
            double weight = skew->sums[e] - (e > 0 ? skew->sums[e - 1] : 0);

            if (is_taken(ids, count, e)) {
                continue;
            }
            if (pass == 0) {
                total += weight;
                continue;
            }
            last = e;
            at += weight;
            if (at > unit * total) {
                return e;
            }
        }
    }
    return last; /* by rounding only */
}

static void draw_token(const wtn_skew_t *skew, int64_t token, int32_t *ids)
{
    uint64_t state = skew->seed, first;
    int32_t  k     = 0;

    first = next(&state) + (uint64_t)token;
    state = next(&first);
    if (skew->kind == SKEW_HOT) {
        ids[k++] = skew->hot;
    }
    for (; k < skew->topk; k++) {
        ids[k] = find_expert(skew, next_unit(&state));
        for (int i = 0; i < DRAW_COUNT_MAX && is_taken(ids, k, ids[k]); i++) {
            ids[k] = find_expert(skew, next_unit(&state));
        }
        if (is_taken(ids, k, ids[k])) {
            ids[k] = draw_rest(skew, ids, k, next_unit(&state));
        }
    }
}

static void take_turns(const wtn_skew_t *skew, int64_t token, int32_t *ids)
{
    int64_t experts = skew->expert_count;
    int64_t first   = token % experts * skew->topk; /* T * K may not fit, and E * K does */

    for (int32_t k = 0; k < skew->topk; k++) {
        ids[k] = skew->order[(first + k) % experts];
    }
}

void wtn_skew_fill(const wtn_skew_t *skew, int64_t token_begin, int64_t token_count, int32_t *ids)
{
    size_t topk = (size_t)skew->topk;

    for (int64_t i = 0; i < token_count; i++, ids += topk) {
        int64_t token = token_begin + i;

        if (skew->kind == SKEW_TRACE) {
            memcpy(ids, skew->trace + (size_t)(token % skew->trace_count) * topk,
                   topk * sizeof(*ids));
        } else if (skew->kind == SKEW_BALANCED) {
            take_turns(skew, token, ids);
        } else {
            draw_token(skew, token, ids);
        }
    }
}

int64_t wtn_skew_token_count(const wtn_skew_t *skew, int32_t rank, int32_t rank_count,
                             int64_t token_count)
{
    bool none = skew->kind == SKEW_ZERO_RANK && rank_count > 1 && rank == rank_count - 1;

    return none ? 0 : token_count;
}

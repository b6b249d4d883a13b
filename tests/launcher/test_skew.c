/* Made-up routing against its definitions: frequencies, turns, traces and what is refused. */
#include <check.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <witan/witan.h>

#include "core/util.h"
#include "launcher/skew.h"

#define SEED 20261

static wtn_skew_t *open_skew(const char *text, int32_t experts, int32_t topk, uint64_t seed)
{
    wtn_skew_t    *skew;
    witan_status_t status = wtn_skew_open(&skew, text, experts, topk, seed);

    ck_assert_msg(status == WITAN_OK, "%s: %s", text, witan_last_error());
    return skew;
}

static int32_t *fill(const wtn_skew_t *skew, int64_t begin, int64_t tokens, int32_t topk)
{
    int32_t *ids = calloc((size_t)(tokens * topk) + 1, sizeof(*ids));

    ck_assert_ptr_nonnull(ids);
    wtn_skew_fill(skew, begin, tokens, ids);
    return ids;
}

static void count_ids(const int32_t *ids, int64_t count, int32_t experts, int64_t *counts)
{
    memset(counts, 0, (size_t)experts * sizeof(*counts));
    for (int64_t i = 0; i < count; i++) {
        ck_assert_int_ge(ids[i], 0);
        ck_assert_int_lt(ids[i], experts);
        counts[ids[i]]++;
    }
}

static int compare_down(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x < y) - (x > y);
}

START_TEST(test_every_kind_gives_different_experts)
{
    static const char *const words[]     = {"uniform", "zipf:0",   "zipf:1.2", "zipf:9",
                                            "hot:2",   "balanced", "zero-rank"};
    static const int32_t     shapes[][2] = {{3, 1}, {3, 3}, {8, 2}, {17, 17}, {60, 6}, {256, 8}};

    for (size_t w = 0; w < WTN_COUNT_OF(words); w++) {
        for (size_t s = 0; s < WTN_COUNT_OF(shapes); s++) {
            int32_t     experts = shapes[s][0], topk = shapes[s][1];
            wtn_skew_t *skew = open_skew(words[w], experts, topk, SEED);
            int32_t    *ids  = fill(skew, 5, 50, topk);

            for (int32_t i = 0; i < 50 * topk; i++) {
                ck_assert_int_ge(ids[i], 0);
                ck_assert_int_lt(ids[i], experts);
                for (int32_t j = i - i % topk; j < i; j++) {
                    ck_assert_msg(ids[i] != ids[j], "%s E %d K %d: expert %d twice", words[w],
                                  experts, topk, ids[i]);
                }
            }
            free(ids);
            wtn_skew_close(skew);
        }
    }
}
END_TEST

/* A count of n draws with probability p has the variance n p (1 - p); 5 of its roots are passed
 * once in 1.7 million. */
static void check_frequency(const char *what, int64_t found, double n, double p)
{
    double away = fabs((double)found - n * p);

    ck_assert_msg(away <= 5 * sqrt(n * p * (1 - p)) + 1, "%s: %" PRId64 " of %g, expected %g", what,
                  found, n, n * p);
}

START_TEST(test_uniform_experts_are_equally_frequent)
{
    enum { EXPERTS = 10, TOPK = 3, TOKENS = 20000 };
    wtn_skew_t *skew = open_skew("uniform", EXPERTS, TOPK, SEED);
    int32_t    *ids  = fill(skew, 0, TOKENS, TOPK);
    int64_t     counts[EXPERTS];

    count_ids(ids, TOKENS * TOPK, EXPERTS, counts);
    for (int32_t e = 0; e < EXPERTS; e++) {
        check_frequency("uniform", counts[e], TOKENS, (double)TOPK / EXPERTS);
    }
    free(ids);
    wtn_skew_close(skew);
}
END_TEST

START_TEST(test_zipf_first_choices_follow_the_power_law)
{
    enum { EXPERTS = 12, TOKENS = 40000 };
    static const double exponents[] = {0, 0.7, 1.2, 2};

    for (size_t x = 0; x < WTN_COUNT_OF(exponents); x++) {
        char        word[32];
        int64_t     counts[EXPERTS];
        double      total = 0;
        wtn_skew_t *skew;
        int32_t    *ids;

        (void)snprintf(word, sizeof(word), "zipf:%g", exponents[x]);
        skew = open_skew(word, EXPERTS, 1, SEED);
        ids  = fill(skew, 0, TOKENS, 1);
        count_ids(ids, TOKENS, EXPERTS, counts);
        qsort(counts, EXPERTS, sizeof(*counts), compare_down);
        for (int32_t j = 1; j <= EXPERTS; j++) {
            total += pow(j, -exponents[x]);
        }
        for (int32_t j = 1; j <= EXPERTS && exponents[x] > 0; j++) {
            check_frequency(word, counts[j - 1], TOKENS, pow(j, -exponents[x]) / total);
        }
        for (int32_t j = 0; j < EXPERTS && exponents[x] == 0; j++) {
            check_frequency(word, counts[j], TOKENS, 1.0 / EXPERTS);
        }
        free(ids);
        wtn_skew_close(skew);
    }
}
END_TEST

/* Without putting back: P(a then b) = p_a p_b / (1 - p_a), also for pairs that most draws repeat.
 */
START_TEST(test_zipf_second_choices_are_drawn_from_the_rest)
{
    enum { EXPERTS = 4, TOKENS = 60000 };
    wtn_skew_t *one    = open_skew("zipf:3", EXPERTS, 1, SEED);
    wtn_skew_t *two    = open_skew("zipf:3", EXPERTS, 2, SEED);
    int32_t    *firsts = fill(one, 0, TOKENS, 1), *ids  = fill(two, 0, TOKENS, 2);
    int64_t     alone[EXPERTS], pairs[EXPERTS][EXPERTS] = {{0}};
    double      weight[EXPERTS], total                  = 0;

    count_ids(firsts, TOKENS, EXPERTS, alone);
    for (int32_t a = 0; a < EXPERTS; a++) {
        int32_t place = 1;

        for (int32_t b = 0; b < EXPERTS; b++) {
            place += alone[b] > alone[a];
        }
        weight[a] = pow(place, -3.0);
        total += weight[a];
    }
    for (int64_t t = 0; t < TOKENS; t++) {
        pairs[ids[2 * t]][ids[2 * t + 1]]++;
    }
    for (int32_t a = 0; a < EXPERTS; a++) {
        for (int32_t b = 0; b < EXPERTS; b++) {
            double p = a == b ? 0 : weight[a] / total * weight[b] / (total - weight[a]);

            check_frequency("pair", pairs[a][b], TOKENS, p);
        }
    }
    free(firsts);
    free(ids);
    wtn_skew_close(one);
    wtn_skew_close(two);
}
END_TEST

START_TEST(test_hot_expert_gets_every_token)
{
    enum { EXPERTS = 9, TOPK = 3, TOKENS = 9000, HOT = 7 };
    wtn_skew_t *skew = open_skew("hot:7", EXPERTS, TOPK, SEED);
    int32_t    *ids  = fill(skew, 100, TOKENS, TOPK);
    int64_t     counts[EXPERTS];

    count_ids(ids, TOKENS * TOPK, EXPERTS, counts);
    for (int32_t e = 0; e < EXPERTS; e++) {
        if (e == HOT) {
            ck_assert_int_eq(counts[e], TOKENS);
        } else {
            check_frequency("others", counts[e], TOKENS, (TOPK - 1.0) / (EXPERTS - 1));
        }
    }
    free(ids);
    wtn_skew_close(skew);
}
END_TEST

START_TEST(test_balanced_counts_differ_by_one_at_most)
{
    static const int32_t shapes[][2] = {{1, 1}, {8, 2}, {7, 3}, {12, 8}, {256, 8}};
    static const int64_t runs[][2] = {{0, 1}, {0, 96}, {3, 64}, {1000003, 77}, {INT64_MAX / 2, 9}};

    for (size_t s = 0; s < WTN_COUNT_OF(shapes); s++) {
        int32_t     experts = shapes[s][0], topk = shapes[s][1];
        wtn_skew_t *skew = open_skew("balanced", experts, topk, SEED);

        for (size_t r = 0; r < WTN_COUNT_OF(runs); r++) {
            int64_t  tokens = runs[r][1], share = tokens * topk / experts;
            int32_t *ids = fill(skew, runs[r][0], tokens, topk);
            int64_t  counts[256];

            count_ids(ids, tokens * topk, experts, counts);
            for (int32_t e = 0; e < experts; e++) {
                ck_assert_int_ge(counts[e], share);
                ck_assert_int_le(counts[e], share + (tokens * topk % experts != 0));
            }
            free(ids);
        }
        wtn_skew_close(skew);
    }
}
END_TEST

START_TEST(test_zero_rank_leaves_the_last_rank_without_tokens)
{
    wtn_skew_t *zero = open_skew("zero-rank", 8, 2, SEED), *uniform = open_skew("uniform", 8, 2, 1);

    ck_assert_int_eq(wtn_skew_token_count(zero, 0, 3, 17), 17);
    ck_assert_int_eq(wtn_skew_token_count(zero, 1, 3, 17), 17);
    ck_assert_int_eq(wtn_skew_token_count(zero, 2, 3, 17), 0);
    ck_assert_int_eq(wtn_skew_token_count(zero, 0, 1, 17), 17);
    ck_assert_int_eq(wtn_skew_token_count(uniform, 2, 3, 17), 17);
    wtn_skew_close(zero);
    wtn_skew_close(uniform);
}
END_TEST

START_TEST(test_tokens_depend_on_seed_and_index_only)
{
    static const char *const words[] = {"uniform", "zipf:1.2", "hot:3", "balanced"};

    for (size_t w = 0; w < WTN_COUNT_OF(words); w++) {
        wtn_skew_t *a = open_skew(words[w], 64, 4, 1), *b = open_skew(words[w], 64, 4, 1);
        wtn_skew_t *other = open_skew(words[w], 64, 4, 2);
        int32_t    *whole = fill(a, 0, 40, 4), *part = fill(b, 13, 27, 4);
        int32_t    *differs = fill(other, 0, 40, 4);

        ck_assert_mem_eq(whole + 13 * 4, part, 27 * 4 * sizeof(*part));
        ck_assert_msg(memcmp(whole, differs, 160 * sizeof(*whole)) != 0, "%s: seed", words[w]);
        free(whole);
        free(part);
        free(differs);
        wtn_skew_close(a);
        wtn_skew_close(b);
        wtn_skew_close(other);
    }
}
END_TEST

/* ---- traces ---- */

static char trace_path[64];

static void write_trace(const void *data, size_t bytes)
{
    int fd;

    (void)snprintf(trace_path, sizeof(trace_path), "/tmp/witan_skew_XXXXXX");
    fd = mkstemp(trace_path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, data, bytes), (ssize_t)bytes);
    ck_assert_int_eq(close(fd), 0);
}

static witan_status_t open_trace(wtn_skew_t **skew, int32_t experts, int32_t topk)
{
    char           word[80];
    witan_status_t status;

    (void)snprintf(word, sizeof(word), "trace:%s", trace_path);
    status = wtn_skew_open(skew, word, experts, topk, SEED);
    (void)unlink(trace_path);
    return status;
}

static size_t make_safetensors(char *out, size_t room, const char *header, const void *data,
                               size_t bytes)
{
    uint64_t length = strlen(header);

    ck_assert_uint_le(8 + length + bytes, room);
    memcpy(out, &length, 8);
    memcpy(out + 8, header, length);
    memcpy(out + 8 + length, data, bytes);
    return 8 + length + bytes;
}

START_TEST(test_traces_repeat_from_their_first_token)
{
    static const char    text[]     = "0 1\n\n 2\t-1 \r\n4 3";
    static const int32_t ids[]      = {0, 1, 2, -1, 4, 3};
    static const int32_t expected[] = {2, -1, 4, 3, 0, 1, 2, -1};
    char                 file[256];
    size_t               bytes;

    bytes = make_safetensors(file, sizeof(file),
                             "{\"topk_ids\":{\"dtype\":\"I32\",\"shape\":[3,2],"
                             "\"data_offsets\":[0,24]}}",
                             ids, sizeof(ids));
    for (int form = 0; form < 2; form++) {
        wtn_skew_t    *skew;
        int32_t       *found;
        witan_status_t status;

        write_trace(form == 0 ? text : file, form == 0 ? strlen(text) : bytes);
        status = open_trace(&skew, 5, 2);
        ck_assert_msg(status == WITAN_OK, "%s", witan_last_error());
        found = fill(skew, 7, 4, 2);
        ck_assert_mem_eq(found, expected, sizeof(expected));
        free(found);
        wtn_skew_close(skew);
    }
}
END_TEST

START_TEST(test_damaged_traces_are_refused_by_place)
{
    static const struct {
        const char *text, *found;
    } cases[] = {
        {"", "found none"},
        {"0 1\n2\n", ":2: expected 2 integers, found 1"},
        {"0 1 2\n", ":1: expected 2 integers, found 3"},
        {"0 1\n2 x\n", ":2: expected 2 integers, found 'x'"},
        {"0 1.5\n", ":1: expected 2 integers, found '1.5'"},
        {"0 99999999999\n", ":1: expected 2 integers, found '99999999999'"},
        {"0 1\n1 5\n", "token 1: expected experts from -1 to 4, found 5"},
        {"0 -2\n", "token 0: expected experts from -1 to 4, found -2"},
        {"hello, world\n", ":1: expected 2 integers"},
    };

    for (size_t i = 0; i < WTN_COUNT_OF(cases); i++) {
        wtn_skew_t *skew;

        write_trace(cases[i].text, strlen(cases[i].text));
        ck_assert_int_eq(open_trace(&skew, 5, 2), WITAN_E_FORMAT);
        ck_assert_ptr_null(skew);
        ck_assert_msg(strstr(witan_last_error(), cases[i].found) != NULL, "'%s': '%s'",
                      cases[i].text, witan_last_error());
    }
}
END_TEST

START_TEST(test_tensors_of_other_shapes_are_refused)
{
    static const char *const headers[] = {
        "{\"topk_ids\":{\"dtype\":\"I32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}",
        "{\"topk_ids\":{\"dtype\":\"I64\",\"shape\":[3],\"data_offsets\":[0,24]}}",
        "{\"topk_ids\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data_offsets\":[0,24]}}",
        "{\"other\":{\"dtype\":\"I32\",\"shape\":[3,2],\"data_offsets\":[0,24]}}",
    };
    static const char zeros[24];

    for (size_t i = 0; i < WTN_COUNT_OF(headers); i++) {
        char        file[256];
        wtn_skew_t *skew;

        write_trace(file, make_safetensors(file, sizeof(file), headers[i], zeros, sizeof(zeros)));
        ck_assert_int_eq(open_trace(&skew, 5, 2), WITAN_E_FORMAT);
        ck_assert_msg(strstr(witan_last_error(), "topk_ids I32 [tokens, 2]") != NULL, "'%s'",
                      witan_last_error());
    }
}
END_TEST

START_TEST(test_other_words_are_refused)
{
    static const char *const words[] = {"",         "zipf",    "zipf:",  "zipf:x",   "zipf:-1",
                                        "zipf:nan", "hot",     "hot:",   "hot:-1",   "hot:x",
                                        "hot:1.5",  "trace",   "trace:", "uniform ", "Zipf:1",
                                        "hot:1 2",  "zipf:inf"};
    wtn_skew_t              *skew;

    for (size_t i = 0; i < WTN_COUNT_OF(words); i++) {
        ck_assert_msg(wtn_skew_check("--skew", words[i]) == WITAN_E_ARGUMENT, "'%s'", words[i]);
        ck_assert_ptr_nonnull(strstr(witan_last_error(), "--skew: expected uniform"));
        ck_assert_int_eq(wtn_skew_open(&skew, words[i], 4, 2, 0), WITAN_E_ARGUMENT);
    }
    ck_assert_int_eq(wtn_skew_check("--skew", "hot:4"), WITAN_OK);
    ck_assert_int_eq(wtn_skew_open(&skew, "hot:4", 4, 2, 0), WITAN_E_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(witan_last_error(), "expected an expert from 0 to 3, found 4"));
    ck_assert_int_eq(wtn_skew_open(&skew, "trace:/nonexistent/ids", 4, 2, 0), WITAN_E_IO);
}
END_TEST

int main(void)
{
    Suite   *suite = suite_create("skew");
    TCase   *tcase = tcase_create("skew");
    SRunner *runner;
    int      failed;

    tcase_add_test(tcase, test_every_kind_gives_different_experts);
    tcase_add_test(tcase, test_uniform_experts_are_equally_frequent);
    tcase_add_test(tcase, test_zipf_first_choices_follow_the_power_law);
    tcase_add_test(tcase, test_zipf_second_choices_are_drawn_from_the_rest);
    tcase_add_test(tcase, test_hot_expert_gets_every_token);
    tcase_add_test(tcase, test_balanced_counts_differ_by_one_at_most);
    tcase_add_test(tcase, test_zero_rank_leaves_the_last_rank_without_tokens);
    tcase_add_test(tcase, test_tokens_depend_on_seed_and_index_only);
    tcase_add_test(tcase, test_traces_repeat_from_their_first_token);
    tcase_add_test(tcase, test_damaged_traces_are_refused_by_place);
    tcase_add_test(tcase, test_tensors_of_other_shapes_are_refused);
    tcase_add_test(tcase, test_other_words_are_refused);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}

/* Safetensors: what is legal is read, what is not is refused by name; writing leaves all or
 * nothing. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <check.h>

#include "core/util.h"
#include "experts/safetensors.h"
#include "formats/folder.h"

static folder_t folder;

static void set_up(void)
{
    folder_make(&folder);
}

static void tear_down(void)
{
    folder_remove(&folder);
}

/* Parse JSON that describes `data_bytes` bytes of data. */
static witan_status_t parse(const char *json, uint64_t data_bytes)
{
    wtn_st_file_t *file   = NULL;
    witan_status_t status = wtn_st_parse(&file, "F", json, strlen(json), data_bytes);

    ck_assert(status == WITAN_OK ? file != NULL : file == NULL);
    wtn_st_close(file);
    return status;
}

START_TEST(test_header_legal_is_read)
{
    static const struct {
        const char *json;
        uint64_t    data_bytes;
    } rows[] = {
        {"{}", 0},
        {"{}   ", 0},
        {"{ \"__metadata__\" : { \"format\" : \"pt\" } }", 0},
        {"{\"__metadata__\":{}}", 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0},
        {"{\"a\":{\"dtype\":\"BF16\",\"shape\":[3,0,2],\"data_offsets\":[0,0]},"
         "\"b\":{\"data_offsets\":[0,3],\"dtype\":\"U8\",\"shape\":[3]}}",
         3},
        /* an odd begin: data may be unaligned */
        {"{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[3,7]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}",
         7},
        {"{\"\\u00e9\\ud83d\\ude00\\n\\\"\xc3\xa9\":{\"dtype\":\"U8\",\"shape\":[0],"
         "\"data_offsets\":[0,0]}}",
         0},
    };

    for (size_t i = 0; i < WTN_COUNT_OF(rows); i++) {
        ck_assert_msg(parse(rows[i].json, rows[i].data_bytes) == WITAN_OK, "row %zu: %s", i,
                      witan_last_error());
    }
}
END_TEST

#define A4 "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}"

static const struct {
    const char *json;
    uint64_t    data_bytes;
    const char *thing, *found;
} damaged_headers[] = {
    /* JSON */
    {"", 0, "header", "found its end"},
    {" {}", 0, "byte 0", "expected '{', found ' '"},
    {"[]", 0, "byte 0", "found '['"},
    {"{", 0, "byte 1", "found its end"},
    {"{}x", 0, "expected the end of the header", "found 'x'"},
    {"{" A4, 4, "',' or '}'", "found its end"},
    {"{" A4 ",}", 4, "the name of a tensor", "found '}'"},
    {"{\"a\" 1}", 0, "expected ':'", "found '1'"},
    {"{\"a\":[[[[]]]]}", 0, "expected '{'", "found '['"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]}}", 4, "tensor 'a': shape",
     "found '[1'"},
    {"{\"a\x01\":1}", 0, "UTF-8", "found byte 0x01"},
    {"{\"a\xff\":1}", 0, "UTF-8", "found byte 0xff"},
    {"{\"\xc0\x80\":1}", 0, "UTF-8", "found byte 0xc0"},         /* overlong */
    {"{\"\xe0\x80\x80\":1}", 0, "UTF-8", "found byte 0xe0"},     /* overlong */
    {"{\"\xed\xa0\x80\":1}", 0, "UTF-8", "found byte 0xed"},     /* surrogate */
    {"{\"\xf4\x90\x80\x80\":1}", 0, "UTF-8", "found byte 0xf4"}, /* above U+10FFFF */
    {"{\"\xe2\x82", 0, "UTF-8", "found byte 0xe2"},
    {"{\"\\x\":1}", 0, "an escape", "found 'x'"},
    {"{\"\\u12g4\":1}", 0, "hexadecimal", "found '1'"},
    {"{\"\\u0000\":1}", 0, "not all 0", "found '0'"},
    {"{\"\\ud800\":1}", 0, "surrogates", "found '\"'"},
    {"{\"\\udc00\":1}", 0, "surrogates", "found '\"'"},
    {"{\"a", 0, "expected '\"'", "found its end"},
    /* metadata */
    {"{\"__metadata__\":{\"a\":1}}", 0, "a string as value in __metadata__", "found '1'"},
    {"{\"__metadata__\":[]}", 0, "__metadata__", "found '['"},
    {"{\"__metadata__\":{\"a\":\"x\",\"b\":\"\",\"a\":\"y\"}}", 0, "__metadata__",
     "found 'a' twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__", "found it twice"},
    /* fields */
    {"{\"a\":{}}", 0, "\"dtype\", \"shape\" or \"data_offsets\"", "found '}'"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor 'a': expected data_offsets",
     "found none"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor 'a': expected shape",
     "found none"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor 'a': expected dtype",
     "found none"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 4, "tensor 'a'", "found 'dtype' twice"},
    {"{\"a\":{\"type\":\"F32\"}}", 4, "tensor 'a'", "found 'type'"},
    {"{\"a\":{\"dtype\":\"F33\"}}", 4, "tensor 'a': dtype: expected one of F64 F32", "found 'F33'"},
    {"{\"a\":{\"dtype\":3}}", 4, "the name of a dtype", "found '3'"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "data_offsets",
     "found 1 numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, "data_offsets",
     "at most 2"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "data_offsets",
     "descending"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
     "shape: expected at most 8", "found more"},
    /* numbers */
    {"{\"a\":{\"shape\":[-1]}}", 4, "tensor 'a': shape", "found '-1'"},
    {"{\"a\":{\"shape\":[1.0]}}", 4, "tensor 'a': shape", "found '1.0'"},
    {"{\"a\":{\"shape\":[1e2]}}", 4, "tensor 'a': shape", "found '1e2'"},
    {"{\"a\":{\"shape\":[01]}}", 4, "tensor 'a': shape", "found '01'"},
    {"{\"a\":{\"shape\":[true]}}", 4, "tensor 'a': shape", "found 'true'"},
    {"{\"a\":{\"shape\":[9223372036854775808]}}", 4, "tensor 'a': shape",
     "found '9223372036854775808'"},
    {"{\"a\":{\"data_offsets\":[0,99999999999999999999]}}", 4, "tensor 'a': data_offsets",
     "found '99999999999999999999'"},
    /* sizes */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
     "tensor 'a': shape: expected fewer than 2^64 bytes", "found more"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807],\"data_offsets\":[0,4]}}", 4,
     "tensor 'a': shape", "found more"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
     "tensor 'a': data_offsets: expected 8 bytes", "found 4"},
    {"{" A4 ",\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[5,7]}}", 7,
     "tensor 'b': data_offsets: expected to begin at 4 (where 'a' ends)", "found 5: a hole"},
    {"{" A4 ",\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]}}", 5,
     "tensor 'b': data_offsets: expected to begin at 4", "found 3: an overlap"},
    {"{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3,
     "expected to begin at 0 (where the header ends)", "found 1: a hole"},
    {"{" A4 "}", 3, "expected 4 bytes of data", "found 3: the file is cut off"},
    {"{" A4 "}", 5, "expected 4 bytes of data", "found 5: the file is too long"},
    {"{}", 1, "expected 0 bytes of data", "found 1"},
    {"{" A4 "," A4 "}", 4, "expected every tensor once", "found 'a' twice"},
    /* the same name in two spellings */
    {"{" A4 ",\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
     "expected every tensor once", "found 'a' twice"},
};

START_TEST(test_header_damaged_is_refused_by_name)
{
    for (size_t i = 0; i < WTN_COUNT_OF(damaged_headers); i++) {
        expect_error(parse(damaged_headers[i].json, damaged_headers[i].data_bytes), WITAN_E_FORMAT,
                     "F: ", damaged_headers[i].thing, damaged_headers[i].found, NULL);
    }
}
END_TEST

START_TEST(test_header_every_prefix_is_refused)
{
    static const char json[] =
        "{\"__metadata__\":{\"k\":\"v\"},\"a\\u00e9\xf0\x9f\x98\x80\":{\"dtype\":\"F32\",\"shape\":"
        "[1,1],\"data_offsets\":[0,4]}}";

    ck_assert_int_eq(parse(json, 4), WITAN_OK);
    for (size_t bytes = 0; bytes + 1 < sizeof(json); bytes++) {
        char          *copy = malloc(bytes == 0 ? 1 : bytes); /* its end is the sanitizer's */
        wtn_st_file_t *file;

        memcpy(copy, json, bytes);
        expect_error(wtn_st_parse(&file, "F", copy, bytes, 4), WITAN_E_FORMAT, "F: ", NULL);
        free(copy);
    }
}
END_TEST

START_TEST(test_header_many_tensors_found_by_name)
{
    enum { COUNT = 20000 };
    char          *json = malloc(100 * COUNT), name[32];
    size_t         used = 1;
    wtn_st_file_t *file = NULL;

    json[0] = '{';
    for (int i = COUNT - 1; i >= 0; i--) { /* told in descending order */
        used +=
            (size_t)snprintf(json + used, 100,
                             "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                             i == COUNT - 1 ? "" : ",", i, i, i + 1);
    }
    json[used++] = '}';
    ck_assert_int_eq(wtn_st_parse(&file, "F", json, used, COUNT), WITAN_OK);
    ck_assert_uint_eq(wtn_st_count(file), COUNT);
    for (int i = 0; i < COUNT; i++) {
        (void)snprintf(name, sizeof(name), "t%d", i);
        ck_assert_uint_eq(wtn_st_find(file, name)->begin, (uint64_t)i);
        ck_assert_str_eq(wtn_st_at(file, (size_t)i)->name, name);
    }
    ck_assert_ptr_null(wtn_st_find(file, "t"));
    ck_assert_ptr_null(wtn_st_find(file, "u"));
    wtn_st_close(file);
    free(json);
}
END_TEST

static witan_status_t open_and_close(const char *name)
{
    wtn_st_file_t *file   = NULL;
    witan_status_t status = wtn_st_open(&file, folder_file(&folder, name));

    wtn_st_close(file);
    return status;
}

START_TEST(test_file_no_regular_file_is_refused)
{
    expect_error(open_and_close("none"), WITAN_E_IO, "/none", "No such file", NULL);
    ck_assert_int_eq(mkdir(folder_file(&folder, "d"), 0700), 0);
    expect_error(open_and_close("d"), WITAN_E_IO, "/d: expected a regular file, found a folder",
                 NULL);
    ck_assert_int_eq(mkfifo(folder_file(&folder, "p"), 0600), 0);
    expect_error(open_and_close("p"), WITAN_E_IO, "/p: ", "found a named pipe", NULL);
    ck_assert_int_eq(symlink("/dev/null", folder_file(&folder, "n")), 0);
    expect_error(open_and_close("n"), WITAN_E_IO, "/n: ", "found a device", NULL);
}
END_TEST

START_TEST(test_file_wrong_length_is_refused)
{
    static const unsigned char huge[]     = {1, 0xe1, 0xf5, 0x05, 0, 0, 0, 0, '{', '}'};
    static const unsigned char negative[] = {2, 0, 0, 0, 0, 0, 0, 0x80, '{', '}'};

    folder_write(&folder, "empty", "", 0);
    expect_error(open_and_close("empty"), WITAN_E_FORMAT, "/empty: ", "at least 8 bytes", "of 0",
                 NULL);
    folder_write(&folder, "seven", "\2\0\0\0\0\0\0", 7);
    expect_error(open_and_close("seven"), WITAN_E_FORMAT, "/seven: ", "of 7", NULL);
    folder_write(&folder, "huge", huge, sizeof(huge));
    expect_error(open_and_close("huge"), WITAN_E_FORMAT, "/huge: header length",
                 "at most 100000000", "found 100000001", NULL);
    folder_write(&folder, "negative", negative, sizeof(negative));
    expect_error(open_and_close("negative"), WITAN_E_FORMAT, "header length", NULL);
    folder_write(&folder, "cut", "\3\0\0\0\0\0\0\0{}", 10);
    expect_error(open_and_close("cut"), WITAN_E_FORMAT, "/cut: header length", "2 bytes", "found 3",
                 NULL);
    folder_write_header(&folder, "long", "{" A4 "}", 5);
    expect_error(open_and_close("long"), WITAN_E_FORMAT, "/long: ", "too long", NULL);
    folder_write_header(&folder, "short", "{" A4 "}", 3);
    expect_error(open_and_close("short"), WITAN_E_FORMAT, "/short: ", "cut off", NULL);
    folder_write_header(&folder, "right", "{" A4 "}", 4);
    ck_assert_int_eq(open_and_close("right"), WITAN_OK);
}
END_TEST

START_TEST(test_file_read_gives_the_bytes)
{
    unsigned char  out[8];
    wtn_st_file_t *file;

    folder_write_header(&folder, "f",
                        "{" A4 ",\"b\":{\"dtype\":\"U8\",\"shape\":[6],\"data_offsets\":[4,10]}}",
                        10);
    ck_assert_int_eq(wtn_st_open(&file, folder_file(&folder, "f")), WITAN_OK);
    ck_assert_int_eq(wtn_st_read(file, wtn_st_find(file, "b"), 1, 5, out), WITAN_OK);
    ck_assert_mem_eq(out, "\5\6\7\10\11", 5);
    ck_assert_int_eq(wtn_st_read(file, wtn_st_find(file, "b"), 6, 0, out), WITAN_OK);
    expect_error(wtn_st_read(file, wtn_st_find(file, "b"), 1, 6, out), WITAN_E_INTERNAL, "'b'",
                 NULL);
    wtn_st_close(file);
}
END_TEST

START_TEST(test_file_truncated_after_open_names_the_tensor)
{
    unsigned char  out[8];
    wtn_st_file_t *file;

    folder_write_header(&folder, "f", "{" A4 "}", 4);
    ck_assert_int_eq(wtn_st_open(&file, folder_file(&folder, "f")), WITAN_OK);
    ck_assert_int_eq(truncate(folder_file(&folder, "f"), 20), 0);
    expect_error(wtn_st_read(file, wtn_st_find(file, "a"), 0, 4, out), WITAN_E_IO, "/f: tensor 'a'",
                 "end of the file", NULL);
    wtn_st_close(file);
}
END_TEST

START_TEST(test_file_descriptor_is_not_inherited)
{
    wtn_st_file_t *file;
    int            fd = open("/dev/null", O_RDONLY);

    /* The lowest free descriptor is the one the reader gets. */
    (void)close(fd);
    folder_write_header(&folder, "f", "{}", 0);
    ck_assert_int_eq(wtn_st_open(&file, folder_file(&folder, "f")), WITAN_OK);
    ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    wtn_st_close(file);
    ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
}
END_TEST

/* ---- writer ---- */

static const wtn_st_tensor_t two[] = {
    {.name = "x\"\\\n\xc3\xa9", .dtype = WTN_ST_F32, .rank = 2, .shape = {2, 1}},
    {.name = "y", .dtype = WTN_ST_U8, .rank = 0},
};

START_TEST(test_writer_commit_reads_back)
{
    static const unsigned char data[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    unsigned char              out[8];
    wtn_st_writer_t           *writer;
    wtn_st_file_t             *file;

    folder_write_text(&folder, "f", "what was there before");
    ck_assert_int_eq(wtn_st_writer_open(&writer, folder_file(&folder, "f"), two, 2), WITAN_OK);
    ck_assert_int_eq(wtn_st_writer_append(writer, data, 3), WITAN_OK);
    ck_assert_int_eq(wtn_st_writer_append(writer, data + 3, 6), WITAN_OK);
    ck_assert_int_eq(wtn_st_writer_commit(writer), WITAN_OK);
    ck_assert_uint_eq(folder_count(&folder), 1);
    ck_assert_int_eq(wtn_st_open(&file, folder_file(&folder, "f")), WITAN_OK);
    ck_assert_uint_eq(wtn_st_count(file), 2);
    ck_assert_uint_eq(wtn_st_at(file, 0)->begin % 8, 0);
    ck_assert_int_eq(wtn_st_read(file, wtn_st_find(file, two[0].name), 0, 8, out), WITAN_OK);
    ck_assert_mem_eq(out, data, 8);
    ck_assert_int_eq(wtn_st_find(file, "y")->rank, 0);
    wtn_st_close(file);
}
END_TEST

START_TEST(test_writer_not_committed_leaves_nothing)
{
    wtn_st_writer_t *writer;

    folder_write_text(&folder, "f", "old");
    ck_assert_int_eq(wtn_st_writer_open(&writer, folder_file(&folder, "f"), two, 2), WITAN_OK);
    ck_assert_uint_eq(folder_count(&folder), 1);
    expect_error(wtn_st_writer_append(writer, "0123456789", 10), WITAN_E_ARGUMENT,
                 "/f: expected at most 9 more bytes, found 10", NULL);
    wtn_st_writer_abort(writer);
    ck_assert_int_eq(wtn_st_writer_open(&writer, folder_file(&folder, "f"), two, 2), WITAN_OK);
    ck_assert_int_eq(wtn_st_writer_append(writer, "0123", 4), WITAN_OK);
    expect_error(wtn_st_writer_commit(writer), WITAN_E_STATE, "/f: expected 5 more bytes", NULL);
    ck_assert_uint_eq(folder_count(&folder), 1);
    expect_error(open_and_close("f"), WITAN_E_FORMAT, "of 3", NULL); /* still the old one */
    wtn_st_writer_abort(NULL);
}
END_TEST

START_TEST(test_writer_bad_target_is_refused)
{
    wtn_st_writer_t *writer;

    expect_error(wtn_st_writer_open(&writer, folder.path, two, 2), WITAN_E_IO, folder.path,
                 "found a folder", NULL);
    ck_assert_ptr_null(writer);
    expect_error(wtn_st_writer_open(&writer, folder_file(&folder, "no/f"), two, 2), WITAN_E_IO,
                 "/no/f: cannot be created: No such file", NULL);
    expect_error(wtn_st_writer_open(&writer, "/dev/null", two, 2), WITAN_E_IO, "/dev/null",
                 "found a device", NULL);
    expect_error(wtn_st_writer_open(&writer, "", two, 2), WITAN_E_IO, "the name of a file", NULL);
    ck_assert_uint_eq(folder_count(&folder), 0);
}
END_TEST

START_TEST(test_writer_bad_tensors_are_refused)
{
    const wtn_st_tensor_t twice[] = {two[1], two[1]};
    wtn_st_tensor_t       one     = two[1];
    wtn_st_writer_t      *writer;
    const char           *path = folder_file(&folder, "f");

    expect_error(wtn_st_writer_open(&writer, path, twice, 2), WITAN_E_ARGUMENT, "'y' twice", NULL);
    one.name = "\xff";
    expect_error(wtn_st_writer_open(&writer, path, &one, 1), WITAN_E_ARGUMENT, "UTF-8", NULL);
    one          = two[1];
    one.rank     = 1;
    one.shape[0] = -1;
    expect_error(wtn_st_writer_open(&writer, path, &one, 1), WITAN_E_ARGUMENT, "'y'", NULL);
    one.rank = 9;
    expect_error(wtn_st_writer_open(&writer, path, &one, 1), WITAN_E_ARGUMENT, "'y'", NULL);
    ck_assert_uint_eq(folder_count(&folder), 0);
}
END_TEST

START_TEST(test_writer_file_too_large_leaves_nothing)
{
    static char           block[65536];
    const wtn_st_tensor_t big    = {.name  = "b",
                                    .dtype = WTN_ST_U8,
                                    .rank  = 1,
                                    .shape = {4 * sizeof(block)}};
    const struct rlimit   limit  = {sizeof(block), sizeof(block)};
    witan_status_t        status = WITAN_OK;
    wtn_st_writer_t      *writer;

    /* A limit of the process stands in for a full disk; the test has a process of its own. */
    (void)signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_assert_int_eq(wtn_st_writer_open(&writer, folder_file(&folder, "f"), &big, 1), WITAN_OK);
    for (int i = 0; i < 4 && status == WITAN_OK; i++) {
        status = wtn_st_writer_append(writer, block, sizeof(block));
    }
    expect_error(status, WITAN_E_IO, "/f: cannot be written: File too large", NULL);
    wtn_st_writer_abort(writer);
    ck_assert_uint_eq(folder_count(&folder), 0);
}
END_TEST

START_TEST(test_writer_refused_by_file_system_is_reported)
{
    const wtn_st_tensor_t one = {.name = "b", .dtype = WTN_ST_U8, .rank = 1, .shape = {1}};
    wtn_st_writer_t      *writer;

    /* procfs takes no new files: neither nameless nor named ones. */
    expect_error(wtn_st_writer_open(&writer, "/proc/self/f", &one, 1), WITAN_E_IO,
                 "/proc/self/f: cannot be created", NULL);
}
END_TEST

int main(void)
{
    Suite   *suite = suite_create("safetensors");
    TCase   *tests = tcase_create("all");
    SRunner *runner;
    int      failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, test_header_legal_is_read);
    tcase_add_test(tests, test_header_damaged_is_refused_by_name);
    tcase_add_test(tests, test_header_every_prefix_is_refused);
    tcase_add_test(tests, test_header_many_tensors_found_by_name);
    tcase_add_test(tests, test_file_no_regular_file_is_refused);
    tcase_add_test(tests, test_file_wrong_length_is_refused);
    tcase_add_test(tests, test_file_read_gives_the_bytes);
    tcase_add_test(tests, test_file_truncated_after_open_names_the_tensor);
    tcase_add_test(tests, test_file_descriptor_is_not_inherited);
    tcase_add_test(tests, test_writer_commit_reads_back);
    tcase_add_test(tests, test_writer_not_committed_leaves_nothing);
    tcase_add_test(tests, test_writer_bad_target_is_refused);
    tcase_add_test(tests, test_writer_bad_tensors_are_refused);
    tcase_add_test(tests, test_writer_file_too_large_leaves_nothing);
    tcase_add_test(tests, test_writer_refused_by_file_system_is_reported);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

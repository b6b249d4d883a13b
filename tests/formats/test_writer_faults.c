/* Every step of writing a file that can fail, made to fail: the error names the file, the old
 * content stays, nothing is left beside it. This program's open, write, fsync, linkat and rename
 * stand before those of the C library. */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <check.h>

#include "core/util.h"
#include "experts/safetensors.h"
#include "formats/folder.h"

static struct faults {
    bool is_on;
    int  tmpfile_errno;                      /* of open with O_TMPFILE */
    int  create_errno;                       /* of open with O_CREAT */
    int  write_errno, fsync_errno, fsync_at; /* fsync_at: the call that fails, from 0 */
    int  linkat_errno, rename_errno;
    bool write_is_short, write_is_interrupted;
} faults;

static int fail_with(int code)
{
    errno = code;
    return -1;
}

int open(const char *path, int flags, ...)
{
    va_list  args;
    unsigned mode;

    va_start(args, flags);
    mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(args, unsigned) : 0;
    va_end(args);
    if (faults.is_on && (flags & O_TMPFILE) == O_TMPFILE && faults.tmpfile_errno != 0) {
        return fail_with(faults.tmpfile_errno);
    }
    if (faults.is_on && (flags & O_CREAT) != 0 && faults.create_errno != 0) {
        return fail_with(faults.create_errno);
    }
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

ssize_t write(int fd, const void *data, size_t bytes)
{
    if (faults.is_on && faults.write_is_interrupted) {
        faults.write_is_interrupted = false;
        return fail_with(EINTR);
    }
    if (faults.is_on && faults.write_errno != 0 && bytes == 4) { /* the data, not the header */
        return fail_with(faults.write_errno);
    }
    if (faults.is_on && faults.write_is_short && bytes > 3) {
        bytes = 3;
    }
    return (ssize_t)syscall(SYS_write, fd, data, bytes);
}

int fsync(int fd)
{
    if (faults.is_on && faults.fsync_errno != 0 && faults.fsync_at-- == 0) {
        return fail_with(faults.fsync_errno);
    }
    return (int)syscall(SYS_fsync, fd);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    if (faults.is_on && faults.linkat_errno != 0) {
        return fail_with(faults.linkat_errno);
    }
    return (int)syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
}

int rename(const char *from, const char *to)
{
    if (faults.is_on && faults.rename_errno != 0) {
        return fail_with(faults.rename_errno);
    }
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

static folder_t folder;

static void set_up(void)
{
    folder_make(&folder);
}

static void tear_down(void)
{
    memset(&faults, 0, sizeof(faults));
    folder_remove(&folder);
}

static witan_status_t write_file(struct faults wanted)
{
    const wtn_st_tensor_t tensor = {.name = "x", .dtype = WTN_ST_F32, .rank = 1, .shape = {1}};
    const float           value  = 1.0f;
    wtn_st_writer_t      *writer = NULL;
    witan_status_t        status;

    faults       = wanted;
    faults.is_on = true;
    status       = wtn_st_writer_open(&writer, folder_file(&folder, "f"), &tensor, 1);
    if (status == WITAN_OK) {
        status = wtn_st_writer_append(writer, &value, sizeof(value));
        if (status == WITAN_OK) {
            status = wtn_st_writer_commit(writer);
        } else {
            wtn_st_writer_abort(writer);
        }
    }
    faults.is_on = false;
    return status;
}

static void check_written(void)
{
    wtn_st_file_t *file;
    float          value = 0;
    struct stat    info;

    ck_assert_uint_eq(folder_count(&folder), 1);
    ck_assert_int_eq(wtn_st_open(&file, folder_file(&folder, "f")), WITAN_OK);
    ck_assert_int_eq(wtn_st_read(file, wtn_st_find(file, "x"), 0, 4, &value), WITAN_OK);
    ck_assert(value == 1.0f);
    wtn_st_close(file);
    ck_assert_int_eq(stat(folder_file(&folder, "f"), &info), 0);
    ck_assert_int_eq(info.st_mode & 0777, 0640); /* what umask leaves, no more */
}

START_TEST(test_file_system_without_nameless_files_writes_too)
{
    static const int codes[] = {EOPNOTSUPP, EISDIR, EINVAL};

    (void)umask(0027);
    for (size_t i = 0; i < WTN_COUNT_OF(codes); i++) {
        ck_assert_int_eq(write_file((struct faults){.tmpfile_errno = codes[i]}), WITAN_OK);
        check_written();
    }
}
END_TEST

START_TEST(test_short_and_interrupted_writes_go_on)
{
    (void)umask(0027);
    ck_assert_int_eq(write_file(
                         (struct faults){.write_is_short = true, .write_is_interrupted = true}),
                     WITAN_OK);
    check_written();
}
END_TEST

START_TEST(test_fault_is_reported_and_leaves_the_old_file)
{
    static const struct {
        struct faults faults;
        const char   *verb, *why;
    } rows[] = {
        {{.tmpfile_errno = EACCES}, "cannot be created", "Permission denied"},
        {{.tmpfile_errno = EROFS}, "cannot be created", "Read-only"},
        {{.tmpfile_errno = ENOSPC}, "cannot be created", "No space left"},
        {{.tmpfile_errno = EOPNOTSUPP, .create_errno = EROFS}, "cannot be created", "Read-only"},
        {{.write_errno = ENOSPC}, "cannot be written", "No space left"},
        {{.write_errno = EIO}, "cannot be written", "Input/output error"},
        {{.write_errno = EDQUOT}, "cannot be written", "quota"},
        {{.fsync_errno = EIO}, "cannot be written", "Input/output error"},
        {{.fsync_errno = ENOSPC}, "cannot be written", "No space left"},
        {{.linkat_errno = EPERM}, "cannot be named", "not permitted"},
        {{.rename_errno = EXDEV}, "cannot be named", "Invalid cross-device link"},
        {{.tmpfile_errno = EOPNOTSUPP, .write_errno = ENOSPC}, "cannot be written", "No space"},
        {{.tmpfile_errno = EOPNOTSUPP, .fsync_errno = EIO}, "cannot be written", "Input/output"},
        {{.tmpfile_errno = EOPNOTSUPP, .rename_errno = EACCES}, "cannot be named", "Permission"},
    };

    folder_write_text(&folder, "f", "the old content");
    for (size_t i = 0; i < WTN_COUNT_OF(rows); i++) {
        char  text[32] = {0};
        FILE *file;

        expect_error(write_file(rows[i].faults), WITAN_E_IO, "/f: ", rows[i].verb, rows[i].why,
                     NULL);
        ck_assert_uint_eq(folder_count(&folder), 1);
        file = fopen(folder_file(&folder, "f"), "r");
        ck_assert_uint_eq(fread(text, 1, sizeof(text) - 1, file), 15);
        (void)fclose(file);
        ck_assert_str_eq(text, "the old content");
    }
}
END_TEST

START_TEST(test_folder_that_can_not_be_synced)
{
    (void)umask(0027);
    ck_assert_int_eq(write_file((struct faults){.fsync_errno = EINVAL, .fsync_at = 1}), WITAN_OK);
    check_written();
    expect_error(write_file((struct faults){.fsync_errno = EIO, .fsync_at = 1}), WITAN_E_IO,
                 "/f: cannot be made safe", "Input/output error", NULL);
}
END_TEST

START_TEST(test_folder_in_the_place_of_the_file_at_commit)
{
    const wtn_st_tensor_t tensor = {.name = "x", .dtype = WTN_ST_F32, .rank = 1, .shape = {0}};
    wtn_st_writer_t      *writer;

    ck_assert_int_eq(wtn_st_writer_open(&writer, folder_file(&folder, "f"), &tensor, 1), WITAN_OK);
    ck_assert_int_eq(mkdir(folder_file(&folder, "f"), 0700), 0);
    expect_error(wtn_st_writer_commit(writer), WITAN_E_IO, "/f: ", "found a folder", NULL);
    ck_assert_uint_eq(folder_count(&folder), 1);
}
END_TEST

int main(void)
{
    Suite   *suite = suite_create("writer_faults");
    TCase   *tests = tcase_create("all");
    SRunner *runner;
    int      failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, test_file_system_without_nameless_files_writes_too);
    tcase_add_test(tests, test_short_and_interrupted_writes_go_on);
    tcase_add_test(tests, test_fault_is_reported_and_leaves_the_old_file);
    tcase_add_test(tests, test_folder_that_can_not_be_synced);
    tcase_add_test(tests, test_folder_in_the_place_of_the_file_at_commit);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* What both tests of synth share: a folder of their own, and tiny blocks written to it. */
#ifndef TEST_SYNTH_FOLDER_H
#define TEST_SYNTH_FOLDER_H

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launcher/synth.h"

#define REQUIRE(call) ck_assert_msg((call) == WITAN_OK, "%s: %s", #call, witan_last_error())

static char root[128]; /* a folder of this test's own */

static void make_root(void)
{
    const char *base = getenv("TMPDIR");

    snprintf(root, sizeof(root), "%.90s/witan-synth-XXXXXX", base != NULL ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(root));
}

static void remove_tree(const char *folder)
{
    char           path[512];
    DIR           *dir = opendir(folder);
    struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        snprintf(path, sizeof(path), "%.200s/%.250s", folder, entry->d_name);
        if (unlink(path) != 0) {
            remove_tree(path);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    rmdir(folder);
}

static void remove_root(void)
{
    remove_tree(root);
}

static const char *place(const char *name)
{
    static char paths[4][256];
    static int  next;
    char       *path = paths[next++ % 4];

    snprintf(path, sizeof(paths[0]), "%s/%s", root, name);
    return path;
}

static witan_status_t write_tiny(const char *preset, wtn_synth_storage_t storage, uint64_t seed,
                                 uint64_t shard_bytes_max, const char *folder)
{
    wtn_synth_block_t   block;
    wtn_synth_result_t  result;
    wtn_synth_options_t options = {.folder          = folder,
                                   .token_count     = 19,
                                   .shard_bytes_max = shard_bytes_max};
    witan_status_t status = wtn_synth_block_init(&block, preset, WTN_SYNTH_TINY, storage, seed);

    return status != WITAN_OK ? status : wtn_synth_write(&block, &options, &result);
}

#endif

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/error.h"
#include "experts/file.h"
#include "launcher/paths.h"

static bool same_inode(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Two targets that are not there yet: the same name in the same folder. Both are absolute. */
static bool same_place(const char *a, const char *b)
{
    char       *folder_a = strndup(a, (size_t)(strrchr(a, '/') - a) + 1);
    char       *folder_b = strndup(b, (size_t)(strrchr(b, '/') - b) + 1);
    struct stat info_a, info_b;
    bool        same;

    same = folder_a != NULL && folder_b != NULL && stat(folder_a, &info_a) == 0 &&
           stat(folder_b, &info_b) == 0 && same_inode(&info_a, &info_b) &&
           strcmp(strrchr(a, '/'), strrchr(b, '/')) == 0;
    free(folder_a);
    free(folder_b);
    return same;
}

static bool same_file(const char *a, const char *b)
{
    struct stat info_a, info_b;
    bool        found_a  = stat(a, &info_a) == 0;
    bool        found_b  = stat(b, &info_b) == 0;
    char       *target_a = NULL, *target_b = NULL;
    bool        same;

    if (found_a || found_b) {
        return found_a && found_b && same_inode(&info_a, &info_b);
    }
    same = wtn_file_target(a, &target_a) == WITAN_OK && wtn_file_target(b, &target_b) == WITAN_OK &&
           same_place(target_a, target_b);
    free(target_a);
    free(target_b);
    return same;
}

/* The readers of a folder take no other files. */
static bool is_model_name(const char *name)
{
    const char *dot = strrchr(name, '.');

    return dot != NULL && (strcmp(dot, ".safetensors") == 0 || strcmp(dot, ".json") == 0);
}

static witan_status_t check_model(const wtn_named_path_t *output, const char *model)
{
    DIR           *folder;
    struct dirent *entry;
    struct stat    info, found;
    witan_status_t status = WITAN_OK;

    if (stat(output->path, &info) != 0) {
        return WITAN_OK;
    }
    folder = opendir(model);
    if (folder == NULL) {
        return WITAN_OK;
    }
    while (status == WITAN_OK && (entry = readdir(folder)) != NULL) {
        if (is_model_name(entry->d_name) && fstatat(dirfd(folder), entry->d_name, &found, 0) == 0 &&
            same_inode(&info, &found)) {
            status = WTN_ERROR(WITAN_E_ARGUMENT, "%s '%s' is %s of --model '%s'", output->option,
                               output->path, entry->d_name, model);
        }
    }
    (void)closedir(folder);
    return status;
}

witan_status_t wtn_paths_check(const wtn_named_path_t *outputs, size_t count,
                               const wtn_named_path_t *input, const char *model)
{
    for (size_t i = 0; i < count; i++) {
        const wtn_named_path_t *output = &outputs[i];
        witan_status_t          status = WITAN_OK;

        if (output->path == NULL) {
            continue;
        }
        for (size_t j = 0; j <= i; j++) {
            const wtn_named_path_t *other = j == 0 ? input : &outputs[j - 1];

            if (other->path != NULL && same_file(other->path, output->path)) {
                return WTN_ERROR(WITAN_E_ARGUMENT, "%s and %s name the same file '%s'",
                                 other->option, output->option, output->path);
            }
        }
        if (model != NULL) {
            status = check_model(output, model);
        }
        if (status != WITAN_OK) {
            return status;
        }
    }
    return WITAN_OK;
}

/* From what the user names to one checkpoint file and its configuration, on every rank alike. Rank
 * 0 looks at the disk. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"
#include "parallel/agree.h"
#include "report/run_dir.h"
#include "train/complete.h"
#include "train/run.h"

enum { TRIES = 3 };
#define PAUSE_S 0.5

/* Rank 0: the folder of checkpoints that `ckpt` names, NULL if it names a file. */
static sy_status look(const char *ckpt, char **folder)
{
    sy_status st = SY_OK;
    struct stat info;
    int error = stat(ckpt, &info) == 0 ? 0 : errno;
    SY_REQUIRE(error != ENOENT && error != ENOTDIR, SY_ERR_USAGE, "there is no checkpoint '%s'",
               ckpt);
    SY_REQUIRE(error == 0, SY_ERR_IO, "cannot examine '%s': %s", ckpt, strerror(error));
    *folder = NULL;
    if (S_ISDIR(info.st_mode)) {
        SY_TRY(sy_asprintf(folder, "%s/checkpoints", ckpt));
        if (stat(*folder, &info) != 0) { /* the folder of checkpoints itself */
            sy_free(folder);
            SY_TRY(sy_strdup(ckpt, folder));
        }
    }
cleanup:
    return st;
}

/* One path per line, newest first. */
static sy_status list_paths(const char *folder, char **text)
{
    sy_status st = SY_OK;
    sy_run_checkpoints list = {0};
    char *all = NULL, *longer = NULL;
    SY_TRY(sy_run_checkpoints_list(folder, &list));
    SY_TRY(sy_strdup("", &all));
    for (int32_t i = 0; i < list.n; i++) {
        SY_TRY(sy_asprintf(&longer, "%s%s\n", all, list.item[i].path));
        sy_free(&all);
        all = longer;
        longer = NULL;
    }
    *text = all;
    all = NULL;
cleanup:
    sy_free(&all);
    sy_run_checkpoints_free(&list);
    return st;
}

/* Rank 0. */
static sy_status check_complete(const char *path)
{
    sy_status st = SY_OK;
    sy_checkpoint_info info = {0};
    SY_TRY(sy_checkpoint_info_read(path, &info));
    st = sy_checkpoint_complete(path, &info);
    if (st == SY_ERR_USAGE) {
        sy_error_clear();
        st = SY_OK;
    }
cleanup:
    sy_checkpoint_info_free(&info);
    return st;
}

sy_status sy_checkpoint_check(const char *path, sy_comm *world)
{
    sy_status st = SY_OK;
    SY_TRY(sy_checkpoint_verify(path, world, NULL));
    SY_TRY(sy_agree(world, world->rank == 0 ? check_complete(path) : SY_OK));
cleanup:
    return st;
}

/* What cannot be read now may be in a moment: open files run out, a server is away. Collective. */
static sy_status check_patiently(const char *path, sy_comm *world)
{
    sy_status st = sy_checkpoint_check(path, world);
    for (int32_t i = 1; i < TRIES && st == SY_ERR_IO; i++) {
        sy_info("trying again: %s", sy_error_message());
        sy_error_clear();
        sy_clock_sleep_s(PAUSE_S);
        st = sy_checkpoint_check(path, world);
    }
    return st;
}

/* Is it this file's fault, so that an older one may do? */
static bool is_passed_over(sy_status st)
{
    return st == SY_ERR_USAGE || st == SY_ERR_DAMAGED || st == SY_ERR_IO;
}

/* The newest of the paths in `text` (one per line) that is whole. `ckpt` is what the user named.
 * Collective. */
static sy_status newest(const char *ckpt, char *text, sy_comm *world, char **path)
{
    sy_status st = SY_OK;
    char unread[SY_TRACE_MESSAGE] = ""; /* why the first that could not be read could not */
    for (char *line = strtok_r(text, "\n", &text); line != NULL;
         line = strtok_r(NULL, "\n", &text)) {
        sy_status verdict = check_patiently(line, world);
        if (verdict == SY_OK) {
            SY_TRY(sy_agree(world, sy_strdup(line, path)));
            goto cleanup;
        }
        SY_TRY(is_passed_over(verdict) ? SY_OK : verdict);
        if (verdict == SY_ERR_IO && unread[0] == '\0') {
            snprintf(unread, sizeof unread, "%s", sy_error_message());
        }
        if (world->rank == 0) {
            sy_warn("passed over: %s", sy_error_message());
        }
        sy_error_clear();
    }
    SY_REQUIRE(unread[0] == '\0', SY_ERR_IO,
               "no checkpoint in '%s' is known to be whole, as one could not be read: %s", ckpt,
               unread);
    SY_REQUIRE(false, SY_ERR_DAMAGED, "no checkpoint in '%s' is whole", ckpt);
cleanup:
    return st;
}

/* What ckpt means, on every rank: *folder NULL where it is a file. Collective. */
static sy_status look_together(const char *ckpt, sy_comm *world, char **folder)
{
    sy_status st = SY_OK, mine = SY_OK;
    if (world->rank == 0) {
        mine = look(ckpt, folder);
    }
    SY_TRY(sy_agree(world, mine));
    SY_TRY(sy_host_broadcast_text(world, folder));
cleanup:
    return st;
}

static sy_status list_together(const char *ckpt, const char *folder, sy_comm *world, char **text)
{
    sy_status st = SY_OK, mine = SY_OK;
    if (world->rank == 0) {
        mine = list_paths(folder, text);
    }
    SY_TRY(sy_agree(world, mine));
    SY_TRY(sy_host_broadcast_text(world, text));
    SY_REQUIRE((*text)[0] != '\0', SY_ERR_USAGE, "there is no checkpoint in '%s'", ckpt);
cleanup:
    return st;
}

sy_status sy_checkpoint_paths(const char *ckpt, sy_comm *world, char **text)
{
    sy_status st = SY_OK;
    char *folder = NULL, *found = NULL;
    SY_TRY(look_together(ckpt, world, &folder));
    SY_TRY(folder != NULL ? list_together(ckpt, folder, world, &found)
                          : sy_agree(world, sy_asprintf(&found, "%s\n", ckpt)));
    *text = found;
    found = NULL;
cleanup:
    sy_free(&found);
    sy_free(&folder);
    return st;
}

sy_status sy_find_checkpoint(const char *ckpt, sy_comm *world, char **path)
{
    sy_status st = SY_OK;
    char *folder = NULL, *text = NULL, *found = NULL;
    SY_TRY(look_together(ckpt, world, &folder));
    if (folder == NULL) {
        SY_TRY(sy_agree(world, sy_strdup(ckpt, &found)));
    } else {
        SY_TRY(list_together(ckpt, folder, world, &text));
        SY_TRY(newest(ckpt, text, world, &found));
    }
    *path = found;
    found = NULL;
cleanup:
    sy_free(&found);
    sy_free(&text);
    sy_free(&folder);
    return st;
}

/* Rank 0. */
static sy_status check_one_model(const char *path)
{
    sy_status st = SY_OK;
    sy_checkpoint_info info = {0};
    SY_TRY(sy_checkpoint_info_read(path, &info));
    SY_REQUIRE(strcmp(info.kind, "ensemble") != 0, SY_ERR_USAGE,
               "'%s' is an ensemble of several models, which eval alone runs; name one model",
               path);
cleanup:
    sy_checkpoint_info_free(&info);
    return st;
}

sy_status sy_find_model(const char *ckpt, sy_comm *world, char **path)
{
    sy_status st = SY_OK;
    char *found = NULL;
    SY_TRY(sy_find_checkpoint(ckpt, world, &found));
    SY_TRY(sy_agree(world, world->rank == 0 ? check_one_model(found) : SY_OK));
    *path = found;
    found = NULL;
cleanup:
    sy_free(&found);
    return st;
}

sy_status sy_checkpoint_settings(const char *path, const char *const *overrides,
                                 int32_t n_overrides, sy_comm *world, sy_run_settings *out)
{
    sy_status st = SY_OK, mine = SY_OK;
    sy_checkpoint_info info = {0};
    char *text = NULL;
    if (world->rank == 0) {
        mine = sy_checkpoint_info_read(path, &info);
        text = info.config_yaml;
    }
    SY_TRY(sy_agree(world, mine));
    SY_TRY(sy_host_broadcast_text(world, &text));
    SY_TRY(sy_agree(world,
                    sy_run_settings_parse(text, strlen(text), path, overrides, n_overrides, out)));
cleanup:
    if (world->rank != 0) {
        sy_free(&text);
    }
    sy_checkpoint_info_free(&info);
    return st;
}

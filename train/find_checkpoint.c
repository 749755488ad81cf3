/* From what the user names to one checkpoint file and its configuration, on every rank alike. Rank
 * 0 looks at the disk. */
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "core/log.h"
#include "parallel/agree.h"
#include "report/run_dir.h"
#include "train/run.h"

/* Rank 0: the folder of checkpoints that `ckpt` names, NULL if it names a file. */
static sy_status look(const char *ckpt, char **folder)
{
    sy_status st = SY_OK;
    struct stat info;
    SY_REQUIRE(stat(ckpt, &info) == 0, SY_ERR_USAGE, "there is no checkpoint '%s'", ckpt);
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

/* The newest of the paths in `text` (one per line) that verifies; *path NULL if none does.
 * Collective. */
static sy_status newest(char *text, sy_comm *world, char **path)
{
    sy_status st = SY_OK;
    const char **paths = NULL;
    int32_t n = 0, which = -1;
    for (const char *c = text; *c != '\0'; c++) {
        n += *c == '\n';
    }
    SY_TRY(sy_agree(world, sy_alloc(n + 1, sizeof *paths, (void **)&paths)));
    n = 0;
    for (char *line = strtok_r(text, "\n", &text); line != NULL;
         line = strtok_r(NULL, "\n", &text)) {
        paths[n++] = line;
    }
    SY_TRY(sy_checkpoint_newest_valid(paths, n, world, &which));
    SY_TRY(sy_agree(world, which >= 0 ? sy_strdup(paths[which], path) : SY_OK));
cleanup:
    sy_free(&paths);
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
        SY_TRY(newest(text, world, &found));
        SY_REQUIRE(found != NULL, SY_ERR_DAMAGED, "no checkpoint in '%s' is whole", ckpt);
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

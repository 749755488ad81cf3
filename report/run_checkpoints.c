/* The checkpoints folder of a run: what its file names say, the `latest` link, what may go. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/log.h"
#include "report/file_impl.h"
#include "report/run_dir.h"

enum { NAME_BYTES = 64 };

static void checkpoint_name(int64_t step, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "step_%08lld.h5", (long long)step);
}

/* The step in a name that checkpoint_name could have written; -1 for every other name. */
static int64_t step_of_name(const char *name)
{
    char again[NAME_BYTES];
    long long step;
    if (sscanf(name, "step_%18lld", &step) != 1 || step < 0) {
        return -1;
    }
    checkpoint_name(step, again);
    return strcmp(again, name) == 0 ? step : -1;
}

static bool is_unfinished(const char *name)
{
    static const char head[] = ".step_", tail[] = ".h5.tmp";
    size_t n = strlen(name);
    return n >= sizeof head + sizeof tail - 2 && strncmp(name, head, sizeof head - 1) == 0 &&
           strcmp(name + n - (sizeof tail - 1), tail) == 0;
}

/* Calls visit for every name in the folder; one that does not exist has none. */
static sy_status visit_names(const char *folder, sy_status (*visit)(void *arg, const char *name),
                             void *arg)
{
    sy_status st = SY_OK;
    struct dirent *entry;
    DIR *dir = opendir(folder);
    if (dir == NULL && errno == ENOENT) {
        return SY_OK;
    }
    SY_REQUIRE(dir != NULL, SY_ERR_IO, "cannot read folder '%s': %s", folder, strerror(errno));
    while (errno = 0, (entry = readdir(dir)) != NULL) {
        SY_TRY(visit(arg, entry->d_name));
    }
    SY_REQUIRE(errno == 0, SY_ERR_IO, "cannot read folder '%s': %s", folder, strerror(errno));
cleanup:
    if (dir != NULL) {
        closedir(dir);
    }
    return st;
}

typedef struct listing {
    const char *folder;
    sy_run_checkpoints list;
} listing;

static sy_status list_name(void *arg, const char *name)
{
    sy_status st = SY_OK;
    listing *to = arg;
    struct stat info;
    char *path = NULL;
    int64_t step = step_of_name(name);
    to->list.n_unfinished += is_unfinished(name);
    if (step >= 0) {
        SY_TRY(sy_asprintf(&path, "%s/%s", to->folder, name));
        if (stat(path, &info) == 0 && S_ISREG(info.st_mode)) {
            SY_TRY(sy_realloc(to->list.n + 1, sizeof *to->list.item, (void **)&to->list.item));
            to->list.item[to->list.n++] = (sy_run_checkpoint){step, path};
            path = NULL;
        }
    }
cleanup:
    sy_free(&path);
    return st;
}

static int newest_first(const void *a, const void *b)
{
    int64_t x = ((const sy_run_checkpoint *)a)->step, y = ((const sy_run_checkpoint *)b)->step;
    return (x < y) - (x > y);
}

sy_status sy_run_checkpoints_list(const char *folder, sy_run_checkpoints *out)
{
    sy_status st = SY_OK;
    listing all = {.folder = folder};
    SY_TRY(visit_names(folder, list_name, &all));
    if (all.list.n > 1) {
        qsort(all.list.item, (size_t)all.list.n, sizeof *all.list.item, newest_first);
    }
    *out = all.list;
    memset(&all.list, 0, sizeof all.list);
cleanup:
    sy_run_checkpoints_free(&all.list);
    return st;
}

void sy_run_checkpoints_free(sy_run_checkpoints *list)
{
    for (int32_t i = 0; i < list->n; i++) {
        sy_free(&list->item[i].path);
    }
    sy_free(&list->item);
    list->n = 0;
    list->n_unfinished = 0;
}

sy_status sy_run_checkpoint_path(const sy_run_dir *run, int64_t step, char **out)
{
    char name[NAME_BYTES];
    checkpoint_name(step, name);
    return sy_asprintf(out, "%s/%s", run->checkpoints, name);
}

static bool remove_file(const char *path)
{
    if (unlink(path) != 0) {
        sy_warn("cannot remove '%s': %s", path, strerror(errno));
        return false;
    }
    return true;
}

typedef struct cleaning {
    const char *folder;
    int32_t n_removed;
} cleaning;

static sy_status clean_name(void *arg, const char *name)
{
    sy_status st = SY_OK;
    cleaning *to = arg;
    char *path = NULL;
    if (is_unfinished(name)) {
        SY_TRY(sy_asprintf(&path, "%s/%s", to->folder, name));
        to->n_removed += remove_file(path);
    }
cleanup:
    sy_free(&path);
    return st;
}

sy_status sy_run_dir_clean(const sy_run_dir *run, int32_t *n_removed)
{
    sy_status st = SY_OK;
    cleaning all = {.folder = run->checkpoints};
    SY_REQUIRE(run->lock != NULL, SY_ERR_INTERNAL, "run directory '%s' is not ours to clean",
               run->path);
    SY_TRY(visit_names(run->checkpoints, clean_name, &all));
    if (all.n_removed > 0) {
        sy_info("removed %d unfinished checkpoint file%s from '%s'", all.n_removed,
                all.n_removed == 1 ? "" : "s", run->checkpoints);
    }
    if (n_removed != NULL) {
        *n_removed = all.n_removed;
    }
cleanup:
    return st;
}

sy_status sy_run_dir_publish(const sy_run_dir *run, int64_t step)
{
    sy_status st = SY_OK;
    char name[NAME_BYTES];
    char *latest = NULL, *temp = NULL;
    checkpoint_name(step, name);
    SY_TRY(sy_asprintf(&latest, "%s/latest", run->checkpoints));
    SY_TRY(sy_asprintf(&temp, "%s/.latest.tmp", run->checkpoints));
    unlink(temp); /* left by a process that was killed between the two calls below */
    int error = symlink(name, temp) == 0 && rename(temp, latest) == 0 ? 0 : errno;
    if (error != 0) {
        unlink(temp);
    }
    SY_REQUIRE(error == 0, SY_ERR_IO, "cannot point '%s' at '%s': %s", latest, name,
               strerror(error));
    SY_TRY(sy__dir_sync(run->checkpoints));
cleanup:
    sy_free(&temp);
    sy_free(&latest);
    return st;
}

/* A free name beside `path`: path.old, path.old2 and so on. */
static sy_status free_name(const char *path, char **out)
{
    sy_status st = SY_OK;
    struct stat info;
    char *name = NULL;
    SY_TRY(sy_asprintf(&name, "%s.old", path));
    for (int32_t i = 2; lstat(name, &info) == 0; i++) {
        sy_free(&name);
        SY_TRY(sy_asprintf(&name, "%s.old%d", path, i));
    }
    *out = name;
    name = NULL;
cleanup:
    sy_free(&name);
    return st;
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

sy_status sy_run_dir_set_aside(const sy_run_dir *run, int64_t step, const char *named, bool *stands)
{
    sy_status st = SY_OK;
    sy_run_checkpoints list = {0};
    char *name = NULL;
    int32_t n = 0; /* the list begins with so many later ones */
    SY_REQUIRE(run->lock != NULL, SY_ERR_INTERNAL, "run directory '%s' is not ours to change",
               run->path);
    SY_TRY(sy_run_checkpoints_list(run->checkpoints, &list));
    *stands = false;
    for (; n < list.n && list.item[n].step >= step; n++) {
        *stands = list.item[n].step == step && is_same_file(list.item[n].path, named);
        if (*stands) {
            break;
        }
        SY_TRY(free_name(list.item[n].path, &name));
        SY_REQUIRE(rename(list.item[n].path, name) == 0, SY_ERR_IO, "cannot rename '%s': %s",
                   list.item[n].path, strerror(errno));
        sy_warn("the run goes on from step %lld: '%s' is now '%s'", (long long)step,
                list.item[n].path, name);
        sy_free(&name);
    }
    if (n > 0 && n < list.n) {
        SY_TRY(sy_run_dir_publish(run, list.item[n].step));
    }
cleanup:
    sy_free(&name);
    sy_run_checkpoints_free(&list);
    return st;
}

sy_status sy_run_dir_prune(const sy_run_dir *run, int64_t step, int32_t keep, int64_t keep_every)
{
    sy_status st = SY_OK;
    sy_run_checkpoints list = {0};
    int32_t n_kept = 0;
    SY_REQUIRE(run->lock != NULL, SY_ERR_INTERNAL, "run directory '%s' is not ours to prune",
               run->path);
    SY_TRY(sy_run_checkpoints_list(run->checkpoints, &list));
    for (int32_t i = 0; i < list.n && keep > 0; i++) {
        bool milestone = keep_every > 0 && list.item[i].step % keep_every == 0;
        if (list.item[i].step <= step && n_kept++ >= keep && !milestone) {
            remove_file(list.item[i].path);
        }
    }
cleanup:
    sy_run_checkpoints_free(&list);
    return st;
}

/* The run directory: names, folders, the proof that they can be written, and the rules of --resume.
 */
#include "report/run_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/log.h"
#include "report/file_impl.h"

enum { PROBE_BYTES = 4096 };

sy_status sy_run_dir_init(const char *path, sy_run_dir *out)
{
    sy_status st = SY_OK;
    sy_run_dir run = {0};
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    SY_REQUIRE(n > 0, SY_ERR_USAGE, "the run directory has an empty name");
    SY_TRY(sy_asprintf(&run.path, "%.*s", (int)n, path));
    SY_TRY(sy_asprintf(&run.config, "%s/config.yaml", run.path));
    SY_TRY(sy_asprintf(&run.metrics, "%s/metrics.jsonl", run.path));
    SY_TRY(sy_asprintf(&run.tensorboard, "%s/tensorboard", run.path));
    SY_TRY(sy_asprintf(&run.checkpoints, "%s/checkpoints", run.path));
    SY_TRY(sy_asprintf(&run.report, "%s/report.html", run.path));
    *out = run;
    memset(&run, 0, sizeof run);
cleanup:
    sy_run_dir_free(&run);
    return st;
}

void sy_run_dir_free(sy_run_dir *run)
{
    sy_run_lock_release(&run->lock);
    sy_free(&run->report);
    sy_free(&run->checkpoints);
    sy_free(&run->tensorboard);
    sy_free(&run->metrics);
    sy_free(&run->config);
    sy_free(&run->path);
}

/* The folder of a new folder, so that no loss of power takes it with all that is saved in it. */
static sy_status sync_parent(const char *path)
{
    sy_status st = SY_OK;
    char *parent = NULL;
    SY_TRY(sy__path_folder(path, &parent));
    SY_TRY(sy__dir_sync(parent));
cleanup:
    sy_free(&parent);
    return st;
}

/* mkdir -p. What exists and is no folder shows as ENOTDIR. */
static sy_status make_folders(const char *path)
{
    sy_status st = SY_OK;
    char *part = NULL;
    struct stat info;
    SY_TRY(sy_strdup(path, &part));
    for (char *c = part + 1;; c++) {
        if (*c == '/' || *c == '\0') {
            char end = *c;
            *c = '\0';
            /* Judged by what is there afterwards: EEXIST and EROFS are fine for a folder that
             * exists. */
            int error = mkdir(part, 0777) != 0 ? errno : 0;
            bool is_folder = stat(part, &info) == 0 && S_ISDIR(info.st_mode);
            SY_REQUIRE(is_folder, SY_ERR_USAGE, "cannot create folder '%s': %s", part,
                       strerror(error == EEXIST ? ENOTDIR : error));
            SY_TRY(error == 0 ? sync_parent(part) : SY_OK);
            *c = end;
            if (end == '\0') {
                break;
            }
        }
    }
cleanup:
    sy_free(&part);
    return st;
}

/* Write some bytes for real: permissions, a read-only mount and a full disk all show here. What a
   start that was killed here left is used again. */
static sy_status probe(const char *folder)
{
    static const char zeros[PROBE_BYTES];
    sy_status st = SY_OK;
    char *path = NULL;
    SY_TRY(sy_asprintf(&path, "%s/.probe.tmp", folder));
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int error = fd < 0 ? errno : sy__write_all(fd, zeros, sizeof zeros);
    if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    SY_REQUIRE(error == 0, SY_ERR_USAGE, "cannot write into folder '%s': %s", folder,
               strerror(error));
cleanup:
    sy_free(&path);
    return st;
}

sy_status sy_run_dir_claim(sy_run_dir *run, double wait_s)
{
    sy_status st = SY_OK;
    char *path = NULL;
    SY_TRY(make_folders(run->path));
    SY_TRY(probe(run->path));
    SY_TRY(make_folders(run->checkpoints));
    SY_TRY(probe(run->checkpoints));
    SY_TRY(sy_asprintf(&path, "%s/lock", run->path));
    SY_TRY(sy_run_lock_take(path, wait_s, &run->lock));
cleanup:
    sy_free(&path);
    return st;
}

sy_status sy_run_dir_write_config(const sy_run_dir *run, const char *yaml)
{
    return sy__text_file_replace(run->config, yaml, (int64_t)strlen(yaml));
}

static bool has_content(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && info.st_size > 0;
}

sy_status sy_run_dir_decide(const sy_run_dir *run, bool resume, const char *named,
                            sy_run_start *out)
{
    sy_status st = SY_OK;
    sy_run_checkpoints list = {0};
    SY_TRY(sy_run_checkpoints_list(run->checkpoints, &list));
    SY_REQUIRE(resume || list.n == 0, SY_ERR_USAGE,
               "run directory '%s' holds %d checkpoint%s (newest: step %lld): continue it with "
               "--resume, or give another --run-dir",
               run->path, list.n, list.n == 1 ? "" : "s", (long long)list.item[0].step);
    if (named != NULL || list.n > 0) {
        *out = SY_RUN_CONTINUE;
        goto cleanup;
    }
    bool has_past = list.n_unfinished > 0 || has_content(run->metrics) || has_content(run->config);
    if (resume) {
        sy_info("--resume: run directory '%s' holds no checkpoint; starting at step 0", run->path);
    } else if (has_past) {
        sy_info("run directory '%s' holds what is left of a run that saved no checkpoint; "
                "starting over",
                run->path);
    }
    *out = has_past ? SY_RUN_AGAIN : SY_RUN_NEW;
cleanup:
    sy_run_checkpoints_free(&list);
    return st;
}

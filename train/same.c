#include "train/same.h"

#include <stdio.h>
#include <unistd.h>

#include "core/alloc.h"
#include "data/fingerprint.h"
#include "parallel/agree.h"
#include "parallel/same.h"

static void look_at_data(const char *key, int32_t i, const char *path, sy_same *out)
{
    char words[SY_SAME_WORDS - 80];
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    snprintf(out->what, sizeof out->what, "%s[%d] '%s'", key, i, path);
    out->digest = sy_data_fingerprint(path, words, sizeof words);
    snprintf(out->here, sizeof out->here, "%s on %s", words, host);
    out->mend = "let all hosts see the same files";
}

/* The lock's name was made by rank 0 before we look, so nothing here can know it not to exist. */
static void look_at_run_dir(const sy_run_dir *dir, sy_same *out)
{
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    snprintf(out->what, sizeof out->what, "run directory '%s'", dir->path);
    out->digest = access(dir->checkpoints, W_OK | X_OK) == 0;
    snprintf(out->here, sizeof out->here, "%s on %s",
             out->digest ? "there, and can be written" : "not there, or cannot be written", host);
    out->mend = "it must lie on a file system that all hosts share";
}

sy_status sy_run_same(const sy_run_settings *settings, const sy_run_dir *dir, sy_comm *world)
{
    sy_status st = SY_OK;
    const sy_data_config *data = settings->data;
    const int32_t n = 1 + data->train.n + data->valid.n;
    sy_same *item = NULL;
    if (world->size == 1) {
        return SY_OK;
    }
    SY_TRY(sy_agree(world, sy_alloc(n, sizeof *item, (void **)&item)));
    look_at_run_dir(dir, &item[0]);
    for (int32_t i = 0; i < data->train.n; i++) {
        look_at_data("data.train", i, sy_data_train_entry(data, i).path, &item[1 + i]);
    }
    for (int32_t i = 0; i < data->valid.n; i++) {
        look_at_data("data.valid", i, sy_data_valid_entry(data, i).path,
                     &item[1 + data->train.n + i]);
    }
    SY_TRY(sy_same_check(world, item, n));
cleanup:
    sy_free(&item);
    return st;
}

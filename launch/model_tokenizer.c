/* The tokenizer of a model: the one that is named, or that came with it. */
#include <string.h>

#include "checkpoint/tokenizer_files.h"
#include "core/alloc.h"
#include "launch/model_load.h"
#include "parallel/agree.h"

/* Bytes of the tokenizer in a checkpoint, on every rank; *bytes NULL: it has none. Collective. */
static sy_status share_file(const char *path, sy_comm *host, const char **name, char **bytes,
                            int64_t *n)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    sy_status st = SY_OK;
    sy_tokenizer_files files = {0};
    int32_t which = -1;
    SY_TRY(sy_tokenizer_files_read(path, host, &files));
    for (int32_t i = 1; i >= 0 && host->rank == 0; i--) {
        which = sy_tokenizer_files_find(&files, names[i], n) != NULL ? i : which;
    }
    SY_TRY(sy_host_broadcast(host, &which, sizeof which, 0, "tokenizer file"));
    if (which >= 0) {
        *name = names[which];
        const void *mine = sy_tokenizer_files_find(&files, *name, n);
        SY_TRY(sy_host_broadcast(host, n, sizeof *n, 0, "tokenizer file"));
        SY_TRY(sy_agree(host, sy_alloc(*n + 1, 1, (void **)bytes)));
        if (host->rank == 0) {
            memcpy(*bytes, mine, (size_t)*n);
        }
        SY_TRY(sy_host_broadcast(host, *bytes, *n, 0, "tokenizer file"));
    }

cleanup:
    sy_tokenizer_files_free(&files);
    return st;
}

sy_status sy_model_tokenizer(const sy_loaded_model *model, const char *named, sy_comm *host,
                             sy_tokenizer **out)
{
    sy_status st = SY_OK;
    const char *spec = named != NULL ? named : model->settings.data->tokenizer, *name = NULL;
    char *bytes = NULL, *path = NULL;
    int64_t n = 0;
    if (strcmp(spec, "none") != 0) {
        SY_TRY(sy_agree(host, sy_tokenizer_open(spec, out)));
        return SY_OK;
    }
    SY_TRY(share_file(model->path, host, &name, &bytes, &n));
    SY_REQUIRE(bytes != NULL, SY_ERR_USAGE,
               "'%s' knows token ids only (data.tokenizer: none) and no tokenizer.json or "
               "tokenizer.model came with it; give --tokenizer FILE",
               model->path);
    SY_TRY(sy_agree(host, sy_asprintf(&path, "%s:/tokenizer/%s", model->path, name)));
    SY_TRY(sy_agree(host, sy_tokenizer_open_bytes(path, bytes, n, out)));

cleanup:
    sy_free(&path);
    sy_free(&bytes);
    return st;
}

#include "checkpoint/tokenizer_files.h"

#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/file_impl.h"
#include "core/alloc.h"
#include "parallel/agree.h"

enum { MAX_FILE_BYTES = 1 << 30 };

static const char prefix[] = "tokenizer/";

static sy_status allocate(sy_tokenizer_files *f, int32_t n)
{
    sy_status st = SY_OK;
    SY_TRY(sy_alloc(n, sizeof *f->name, (void **)&f->name));
    SY_TRY(sy_alloc(n, sizeof *f->bytes, (void **)&f->bytes));
    SY_TRY(sy_alloc(n, sizeof *f->blob, (void **)&f->blob));
    f->n = n;
cleanup:
    return st;
}

/* The name within the folder; NULL for a dataset that stands elsewhere. */
static const char *name_of(const sy_checkpoint_entry *entry)
{
    const char *path = entry->path + (entry->path[0] == '/');
    return strncmp(path, prefix, sizeof prefix - 1) == 0 ? path + sizeof prefix - 1 : NULL;
}

static sy_status read_all(const char *path, sy_tokenizer_files *f)
{
    sy_status st = SY_OK;
    sy_checkpoint_info info = {0};
    int32_t n = 0;
    SY_TRY(sy_checkpoint_info_read(path, &info));
    for (int32_t i = 0; i < info.n_entries; i++) {
        n += name_of(&info.entry[i]) != NULL;
    }
    SY_TRY(allocate(f, n));
    for (int32_t i = 0, k = 0; i < info.n_entries; i++) {
        const char *name = name_of(&info.entry[i]);
        if (name != NULL) {
            SY_TRY(sy_strdup(name, &f->name[k]));
            SY_TRY(sy_checkpoint_read_blob(path, name, &f->bytes[k], &f->blob[k].n));
            k++;
        }
    }
cleanup:
    sy_checkpoint_info_free(&info);
    return st;
}

/* ---- from a folder ---- */

static const char *const known[] = {
    "config.json",     "generation_config.json",  "tokenizer.json",     "tokenizer_config.json",
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json",  "vocab.json",
    "merges.txt",      "chat_template.jinja",     "chat_template.json", "tiktoken.model",
};
enum { N_KNOWN = sizeof known / sizeof known[0] };

/* The next file of the list, where it is there; f->n counts those that are. */
static sy_status take_file(const char *folder, const char *name, sy_tokenizer_files *f)
{
    sy_status st = SY_OK;
    char *path = NULL;
    int64_t bytes = 0;
    int fd = -1;
    SY_TRY(sy_asprintf(&path, "%s/%s", folder, name));
    if (access(path, F_OK) != 0) {
        goto cleanup;
    }
    SY_TRY(sy__file_open_read(path, &fd, &bytes));
    SY_REQUIRE(bytes <= MAX_FILE_BYTES, SY_ERR_USAGE, "'%s' is larger than 1 GiB", path);
    SY_TRY(sy_strdup(name, &f->name[f->n]));
    SY_TRY(sy_alloc(bytes, 1, &f->bytes[f->n]));
    SY_TRY(sy__file_read(fd, path, f->bytes[f->n], bytes, 0));
    f->blob[f->n++].n = bytes;
cleanup:
    sy__file_close(&fd, path, false);
    sy_free(&path);
    return st;
}

static sy_status take_folder(const char *folder, sy_tokenizer_files *f)
{
    sy_status st = SY_OK;
    SY_TRY(allocate(f, N_KNOWN));
    f->n = 0;
    for (int32_t i = 0; i < N_KNOWN; i++) {
        SY_TRY(take_file(folder, known[i], f));
    }
cleanup:
    f->n = st == SY_OK ? f->n : N_KNOWN; /* all are freed */
    return st;
}

/* ---- on every rank ---- */

/* Names and sizes of what rank 0 has read; moves f. Collective. */
static sy_status share(sy_comm *world, sy_status mine, sy_tokenizer_files *f,
                       sy_tokenizer_files *out)
{
    sy_status st = SY_OK;
    int32_t n = f->n;
    SY_TRY(sy_agree(world, mine));
    SY_TRY(sy_host_broadcast(world, &n, sizeof n, 0, "tokenizer files"));
    SY_TRY(sy_agree(world, world->rank == 0 ? SY_OK : allocate(f, n)));
    for (int32_t i = 0; i < n; i++) {
        sy_blob *blob = &f->blob[i];
        SY_TRY(sy_host_broadcast_text(world, &f->name[i]));
        SY_TRY(sy_host_broadcast(world, &blob->n, sizeof blob->n, 0, "tokenizer file bytes"));
        blob->name = f->name[i];
        blob->bytes = f->bytes[i];
    }
    *out = *f;
    *f = (sy_tokenizer_files){0};
cleanup:
    sy_tokenizer_files_free(f);
    return st;
}

sy_status sy_tokenizer_files_read(const char *path, sy_comm *world, sy_tokenizer_files *out)
{
    sy_tokenizer_files f = {0};
    sy_status mine = world->rank == 0 ? read_all(path, &f) : SY_OK;
    return share(world, mine, &f, out);
}

sy_status sy_tokenizer_files_from_folder(const char *folder, sy_comm *world,
                                         sy_tokenizer_files *out)
{
    sy_tokenizer_files f = {0};
    sy_status mine = world->rank == 0 ? take_folder(folder, &f) : SY_OK;
    return share(world, mine, &f, out);
}

const void *sy_tokenizer_files_find(const sy_tokenizer_files *files, const char *name, int64_t *n)
{
    for (int32_t i = 0; i < files->n; i++) {
        if (strcmp(files->name[i], name) == 0) {
            *n = files->blob[i].n;
            return files->bytes[i];
        }
    }
    *n = 0;
    return NULL;
}

void sy_tokenizer_files_free(sy_tokenizer_files *files)
{
    for (int32_t i = 0; i < files->n; i++) {
        sy_free(&files->bytes[i]);
        sy_free(&files->name[i]);
    }
    sy_free(&files->blob);
    sy_free(&files->bytes);
    sy_free(&files->name);
    *files = (sy_tokenizer_files){0};
}

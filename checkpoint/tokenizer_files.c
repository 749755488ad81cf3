#include "checkpoint/tokenizer_files.h"

#include <string.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "parallel/agree.h"

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

sy_status sy_tokenizer_files_read(const char *path, sy_comm *world, sy_tokenizer_files *out)
{
    sy_status st = SY_OK, mine = SY_OK;
    sy_tokenizer_files f = {0};
    int32_t n = 0;
    if (world->rank == 0) {
        mine = read_all(path, &f);
        n = f.n;
    }
    SY_TRY(sy_agree(world, mine));
    SY_TRY(sy_host_broadcast(world, &n, sizeof n, 0, "tokenizer files"));
    SY_TRY(sy_agree(world, world->rank == 0 ? SY_OK : allocate(&f, n)));
    for (int32_t i = 0; i < n; i++) {
        SY_TRY(sy_host_broadcast_text(world, &f.name[i]));
        SY_TRY(
            sy_host_broadcast(world, &f.blob[i].n, sizeof f.blob[i].n, 0, "tokenizer file bytes"));
        f.blob[i].name = f.name[i];
        f.blob[i].bytes = f.bytes[i];
    }
    *out = f;
    f = (sy_tokenizer_files){0};
cleanup:
    sy_tokenizer_files_free(&f);
    return st;
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

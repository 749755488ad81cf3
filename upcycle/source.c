#include "upcycle/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/pulse.h"
#include "parallel/agree.h"
#include "parallel/state.h"
#include "upcycle/blueprint.h"
#include "upcycle/source_impl.h"

const char *sy__shape_text(int32_t n_dim, const int64_t *shape, char *buf, size_t buf_bytes)
{
    size_t at = (size_t)snprintf(buf, buf_bytes, "[");
    for (int32_t d = 0; d < n_dim && at < buf_bytes; d++) {
        at += (size_t)snprintf(buf + at, buf_bytes - at, "%s%" PRId64, d > 0 ? ", " : "", shape[d]);
    }
    if (at < buf_bytes) {
        snprintf(buf + at, buf_bytes - at, "]");
    }
    return buf;
}

/* A file is ours, a folder Hugging Face's or PEFT's. Rank 0 looks. */
static sy_status find_kind(const char *path, sy_comm *comm, const struct sy_source_vt **out)
{
    static const struct sy_source_vt *const known[] = {&sy__source_checkpoint, &sy__source_hf,
                                                       &sy__source_lora};
    sy_status st = SY_OK;
    struct stat info = {0};
    char *config = NULL;
    int32_t kind = 0;
    if (comm->rank == 0) {
        st = sy_asprintf(&config, "%s/adapter_config.json", path);
        if (st == SY_OK && stat(path, &info) != 0) {
            st = sy_error(SY_ERR_USAGE, "there is no checkpoint or Hugging Face folder '%s'", path);
        } else if (st == SY_OK && S_ISDIR(info.st_mode)) {
            kind = access(config, F_OK) == 0 ? 2 : 1;
        }
    }
    SY_TRY(sy_agree(comm, st));
    SY_TRY(sy_host_broadcast(comm, &kind, sizeof kind, 0, "kind of source"));
    *out = known[kind];
cleanup:
    sy_free(&config);
    return st;
}

sy_status sy_source_open_on(const char *path, const char *base, sy_comm *comm, sy_source **out)
{
    sy_status st = SY_OK;
    sy_source *s = NULL;
    const struct sy_source_vt *vt = NULL;
    SY_TRY(find_kind(path, comm, &vt));
    SY_TRY(sy_agree(comm, sy_alloc(1, sizeof *s, (void **)&s)));
    s->vt = vt;
    SY_TRY(sy_agree(comm, sy_strdup(path, &s->path)));
    if (base != NULL && vt == &sy__source_lora) {
        SY_TRY(sy_agree(comm, sy_strdup(base, &s->base)));
    }
    SY_TRY(vt->open(s, comm));
    *out = s;
    s = NULL;
cleanup:
    sy_source_close(&s);
    return st;
}

void sy__source_count(sy_source_tensor *tensor)
{
    tensor->numel = 1;
    for (int32_t d = 0; d < tensor->n_dim; d++) {
        tensor->numel *= tensor->shape[d];
    }
}

sy_status sy_source_open(const char *path, sy_comm *comm, sy_source **out)
{
    return sy_source_open_on(path, NULL, comm, out);
}

sy_status sy_source_bind(sy_source *source, const sy_model_config *model, const sy_moe_config *moe,
                         sy_comm *comm)
{
    sy_status st = SY_OK;
    SY_TRY(source->vt->bind(source, model, moe, comm));
    for (int32_t i = 0; i < source->n_tensors; i++) {
        sy__source_count(&source->tensor[i]);
    }
cleanup:
    return st;
}

void sy_source_close(sy_source **source)
{
    sy_source *s = *source;
    if (s == NULL) {
        return;
    }
    s->vt->close(s);
    sy_tokenizer_files_free(&s->files);
    sy_free(&s->tensor);
    sy_free(&s->yaml);
    sy_free(&s->base);
    sy_free(&s->path);
    sy_free(source);
}

int32_t sy_source_find(const sy_source *source, const char *name)
{
    int32_t low = 0, high = source->n_tensors;
    while (low < high) {
        int32_t mid = low + (high - low) / 2;
        int order = strcmp(source->tensor[mid].name, name);
        if (order == 0) {
            return mid;
        }
        low = order < 0 ? mid + 1 : low;
        high = order < 0 ? high : mid;
    }
    return -1;
}

sy_status sy__source_check(sy_source *source, const sy_model_config *model,
                           const sy_moe_config *moe)
{
    sy_status st = SY_OK;
    sy_blueprint plan = {0};
    char have[96], want[96];
    SY_TRY(sy_blueprint_create(model, moe, &plan));
    for (int32_t i = 0; i < plan.n; i++) {
        const sy_source_tensor *wanted = &plan.tensor[i];
        const int32_t k = sy_source_find(source, wanted->name);
        SY_REQUIRE(k >= 0, SY_ERR_DAMAGED,
                   "checkpoint '%s' has no dataset '/model/%s', which its configuration asks for",
                   source->path, wanted->name);
        sy_source_tensor *t = &source->tensor[k];
        SY_REQUIRE(t->n_dim == wanted->n_dim &&
                       memcmp(t->shape, wanted->shape, sizeof t->shape) == 0,
                   SY_ERR_DAMAGED,
                   "dataset '/model/%s' of checkpoint '%s' has shape %s; its configuration asks "
                   "for %s",
                   t->name, source->path, sy__shape_text(t->n_dim, t->shape, have, sizeof have),
                   sy__shape_text(wanted->n_dim, wanted->shape, want, sizeof want));
        SY_REQUIRE((t->dtype == SY_U8) == (wanted->dtype == SY_U8), SY_ERR_DAMAGED,
                   "dataset '/model/%s' of checkpoint '%s' is of type %s, which its configuration "
                   "does not ask for",
                   t->name, source->path, sy_dtype_name(t->dtype));
        t->wide = wanted->wide;
    }
    for (int32_t i = 0; i < source->n_tensors; i++) {
        SY_REQUIRE(sy_blueprint_find(&plan, source->tensor[i].name) >= 0, SY_ERR_DAMAGED,
                   "checkpoint '%s' has a dataset '/model/%s', which its configuration has not",
                   source->path, source->tensor[i].name);
    }
cleanup:
    sy_blueprint_free(&plan);
    return st;
}

sy_status sy_source_get(sy_source *source, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                        const void **h_out)
{
    return source->vt->get(source, tensor, first, n, h_buf, h_out);
}

sy_status sy_source_read(sy_source *source, int32_t tensor, int64_t first, int64_t n,
                         sy_dtype dtype, void *h_to)
{
    sy_pulse_beat();
    return source->vt->read(source, tensor, first, n, dtype, h_to);
}

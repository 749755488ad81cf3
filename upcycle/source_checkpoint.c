/* A checkpoint of ours as a source. */
#include <stdio.h>
#include <string.h>

#include "checkpoint/reader.h"
#include "core/alloc.h"
#include "parallel/agree.h"
#include "parallel/state.h"
#include "upcycle/source_impl.h"

typedef struct ours {
    sy_reader *reader;
    char prefix[32]; /* "model/" */
    int32_t first;   /* entry of the first tensor: they stand together, below prefix */
} ours;

static sy_status describe(sy_source *s)
{
    sy_status st = SY_OK;
    sy_checkpoint_info info = {0};
    SY_TRY(sy_checkpoint_info_read(s->path, &info));
    SY_REQUIRE(strcmp(info.kind, "ensemble") != 0, SY_ERR_USAGE,
               "'%s' is an ensemble, which is not one model", s->path);
    s->yaml = info.config_yaml;
    info.config_yaml = NULL;
    s->step = info.step;
    s->tokens_seen = info.tokens_seen;
cleanup:
    sy_checkpoint_info_free(&info);
    return st;
}

static sy_status ckpt_open(sy_source *s, sy_comm *comm)
{
    sy_status st = SY_OK;
    ours *o = NULL;
    SY_TRY(sy_agree(comm, sy_alloc(1, sizeof *o, &s->self)));
    o = s->self;
    s->form = "checkpoint";
    snprintf(o->prefix, sizeof o->prefix, "model/");
    SY_TRY(sy_reader_open(s->path, comm, &o->reader));
    SY_TRY(sy_agree(comm, comm->rank == 0 ? describe(s) : SY_OK));
    SY_TRY(sy_host_broadcast_text(comm, &s->yaml));
    SY_TRY(sy_host_broadcast(comm, &s->step, sizeof s->step, 0, "step of a source"));
    SY_TRY(sy_host_broadcast(comm, &s->tokens_seen, sizeof s->tokens_seen, 0, "tokens seen"));
    SY_TRY(sy_tokenizer_files_read(s->path, comm, &s->files));
cleanup:
    return st;
}

static void ckpt_close(sy_source *s)
{
    ours *o = s->self;
    if (o != NULL) {
        sy_reader_close(&o->reader);
        sy_free(&s->self);
    }
}

static bool is_below(const ours *o, int32_t entry)
{
    return strncmp(sy_reader_entry(o->reader, entry).path, o->prefix, strlen(o->prefix)) == 0;
}

static sy_status list_tensors(sy_source *s)
{
    sy_status st = SY_OK;
    ours *o = s->self;
    const int32_t n = sy_reader_n(o->reader);
    while (o->first < n && !is_below(o, o->first)) {
        o->first++;
    }
    SY_TRY(sy_alloc(n, sizeof *s->tensor, (void **)&s->tensor));
    for (int32_t i = o->first; i < n && is_below(o, i); i++) {
        sy_checkpoint_entry entry = sy_reader_entry(o->reader, i);
        sy_source_tensor *t = &s->tensor[s->n_tensors++];
        const bool packed = entry.dtype == SY_U8 && strcmp(o->prefix, "model/") == 0;
        SY_REQUIRE(sy_dtype_is_float(entry.dtype) || packed, SY_ERR_DAMAGED,
                   "dataset '/%s' of checkpoint '%s' is of type %s", entry.path, s->path,
                   sy_dtype_name(entry.dtype));
        *t = (sy_source_tensor){
            .name = entry.path + strlen(o->prefix), .dtype = entry.dtype, .n_dim = entry.n_dim};
        memcpy(t->shape, entry.shape, sizeof t->shape);
        sy__source_count(t);
    }
cleanup:
    return st;
}

static sy_status ckpt_bind(sy_source *s, const sy_model_config *model, const sy_moe_config *moe,
                           sy_comm *comm)
{
    sy_status st = SY_OK;
    SY_TRY(sy_agree(comm, list_tensors(s)));
    SY_TRY(sy_agree(comm, sy__source_check(s, model, moe)));
cleanup:
    return st;
}

static sy_status ckpt_get(sy_source *s, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                          const void **h_out)
{
    sy_status st = SY_OK;
    const ours *o = s->self;
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(s->tensor[tensor].dtype);
    int64_t got = 0, more = 0;
    SY_TRY(sy_reader_get(o->reader, o->first + tensor, first, n, h_out, &got));
    if (got < n) { /* of more than one piece: gathered */
        memcpy(h_buf, *h_out, (size_t)(got * elem_bytes));
        for (; got < n; got += more) {
            SY_TRY(sy_reader_get(o->reader, o->first + tensor, first + got, n - got, h_out, &more));
            memcpy((char *)h_buf + got * elem_bytes, *h_out, (size_t)(more * elem_bytes));
        }
        *h_out = h_buf;
    }
cleanup:
    return st;
}

static sy_status ckpt_read(sy_source *s, int32_t tensor, int64_t first, int64_t n, sy_dtype dtype,
                           void *h_to)
{
    const ours *o = s->self;
    return sy_reader_read(o->reader, o->first + tensor, first, n, dtype, h_to);
}

/* ---- what training keeps ---- */

sy_status sy_source_open_tree(const sy_source *of, const char *tree, sy_comm *comm, sy_source **out)
{
    sy_status st = SY_OK;
    sy_source *s = NULL;
    ours *o = NULL;
    SY_TRY(sy_agree(comm, sy_alloc(1, sizeof *s, (void **)&s)));
    s->vt = of->vt;
    SY_TRY(sy_agree(comm, sy_strdup(of->path, &s->path)));
    SY_TRY(sy_agree(comm, sy_alloc(1, sizeof *o, &s->self)));
    o = s->self;
    snprintf(o->prefix, sizeof o->prefix, "%s/", tree);
    SY_TRY(sy_reader_open(of->path, comm, &o->reader));
    SY_TRY(sy_agree(comm, list_tensors(s)));
    *out = s;
    s = NULL;
cleanup:
    sy_source_close(&s);
    return st;
}

sy_status sy_source_counter(const sy_source *of, const char *path, int64_t *out)
{
    sy_status st = SY_OK;
    const ours *o = of->vt == &sy__source_checkpoint ? of->self : NULL;
    const void *h_value = NULL;
    int64_t n = 0;
    const int32_t i = o != NULL ? sy_reader_find(o->reader, path) : -1;
    if (i >= 0) {
        const sy_checkpoint_entry e = sy_reader_entry(o->reader, i);
        SY_REQUIRE(e.dtype == SY_I64 && e.n_dim == 1 && e.shape[0] == 1, SY_ERR_DAMAGED,
                   "dataset '/%s' of checkpoint '%s' is no counter", path, of->path);
        SY_TRY(sy_reader_get(o->reader, i, 0, 1, &h_value, &n));
        memcpy(out, h_value, sizeof *out);
    }
cleanup:
    return st;
}

const struct sy_source_vt sy__source_checkpoint = {ckpt_open, ckpt_bind, ckpt_get, ckpt_read,
                                                   ckpt_close};

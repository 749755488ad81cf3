/* Hugging Face to checkpoint. The weights stay where they are, mapped; the checkpoint's writer
   pulls each piece of each tensor when its turn comes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/tokenizer_files.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"
#include "parallel/agree.h"
#include "upcycle/transfer_impl.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

/* ---- the folder ---- */

static sy_status read_config(const char *folder, char **path, char **out)
{
    sy_status st = SY_OK;
    char *text = NULL;
    FILE *f = NULL;
    SY_TRY(sy_asprintf(path, "%s/config.json", folder));
    f = fopen(*path, "r");
    SY_REQUIRE(f != NULL, SY_ERR_USAGE, "cannot read '%s': %s; is '%s' a Hugging Face folder?",
               *path, strerror(errno), folder);
    SY_TRY(sy_alloc(MAX_CONFIG_BYTES + 2, 1, (void **)&text));
    size_t n = fread(text, 1, MAX_CONFIG_BYTES + 1, f);
    SY_REQUIRE(ferror(f) == 0, SY_ERR_USAGE, "cannot read '%s': %s", *path, strerror(errno));
    SY_REQUIRE(n <= MAX_CONFIG_BYTES, SY_ERR_USAGE, "'%s' is larger than 16 MiB", *path);
    SY_REQUIRE(memchr(text, 0, n) == NULL, SY_ERR_USAGE, "'%s' is not a text file", *path);
    SY_TRY(sy_realloc((int64_t)n + 1, 1, (void **)&text));
    *out = text;
    text = NULL;
cleanup:
    sy_free(&text);
    if (f != NULL) {
        fclose(f);
    }
    return st;
}

static sy_status open_parts(sy_hf_source *s, const char *path)
{
    sy_status st = SY_OK;
    SY_TRY(sy_hf_config_read(path, s->json, strlen(s->json), &s->arch, &s->yaml));
    SY_TRY(sy_st_open(s->folder, &s->set));
cleanup:
    return st;
}

sy_status sy_hf_source_open(const char *folder, sy_comm *comm, sy_hf_source **out)
{
    sy_status st = SY_OK, mine = SY_OK;
    sy_hf_source *s = NULL;
    char *path = NULL;
    SY_TRY(sy_agree(comm, sy_alloc(1, sizeof *s, (void **)&s)));
    SY_TRY(sy_agree(comm, sy_strdup(folder, &s->folder)));
    if (comm->rank == 0) {
        mine = read_config(folder, &path, &s->json);
    }
    SY_TRY(sy_agree(comm, mine));
    SY_TRY(sy_host_broadcast_text(comm, &path));
    SY_TRY(sy_host_broadcast_text(comm, &s->json));
    SY_TRY(sy_agree(comm, open_parts(s, path)));
    *out = s;
    s = NULL;
cleanup:
    sy_free(&path);
    sy_hf_source_close(&s);
    return st;
}

void sy_hf_source_close(sy_hf_source **source)
{
    sy_hf_source *s = *source;
    if (s == NULL) {
        return;
    }
    sy_st_close(&s->set);
    sy_free(&s->yaml);
    sy_free(&s->json);
    sy_free(&s->folder);
    sy_free(source);
}

const char *sy_hf_source_yaml(const sy_hf_source *source)
{
    return source->yaml;
}

sy_hf_arch sy_hf_source_arch(const sy_hf_source *source)
{
    return source->arch;
}

/* ---- the plan ---- */

typedef struct importer importer;

/* One of our tensors, while it is pulled. */
typedef struct pull_state {
    importer *im;
    int32_t our;
} pull_state;

struct importer {
    const sy_import_spec *spec;
    const sy_hf_source *source;
    sy_hf_map map;
    const sy_st_tensor **their; /* [n_their]; NULL: a fill that the file may lack */
    int32_t *first;             /* [n_our + 1] links */
    sy_dtype *dtype;            /* [n_our] in the checkpoint */
    pull_state *pull;           /* [n_our] pulled after the walk is over */
    int64_t total, done; /* bytes: of the checkpoint's tensors; of this rank's share so far */
    sy_transfer_receipt *receipt;
};

static const char *format_shape(const sy_st_tensor *t, char *buf, size_t buf_bytes)
{
    size_t at = (size_t)snprintf(buf, buf_bytes, "[");
    for (int32_t d = 0; d < t->n_dim && at < buf_bytes; d++) {
        at += (size_t)snprintf(buf + at, buf_bytes - at, "%s%ld", d > 0 ? ", " : "",
                               (long)t->shape[d]);
    }
    if (at < buf_bytes) {
        snprintf(buf + at, buf_bytes - at, "]");
    }
    return buf;
}

static sy_status check_tensor(const sy_hf_tensor *want, const sy_st_tensor *have)
{
    sy_status st = SY_OK;
    char shape[128], wanted[128];
    sy_st_tensor as_wanted = {.n_dim = want->n_dim, .shape = want->shape};
    bool same = have->n_dim == want->n_dim;
    for (int32_t d = 0; same && d < want->n_dim; d++) {
        same = have->shape[d] == want->shape[d];
    }
    SY_REQUIRE(same, SY_ERR_USAGE, "'%s': tensor '%s' has shape %s; by config.json it must be %s",
               have->file, have->name, format_shape(have, shape, sizeof shape),
               format_shape(&as_wanted, wanted, sizeof wanted));
    SY_REQUIRE(have->dtype != SY_N_DTYPES && sy_dtype_is_float(have->dtype), SY_ERR_USAGE,
               "'%s': tensor '%s' is of type %s; weights are read in F32, BF16, F16 and F64",
               have->file, have->name, have->type_name);
cleanup:
    return st;
}

/* Which of their tensors hold something of ours; the others are made of fills alone. */
static sy_status find_theirs(importer *im)
{
    sy_status st = SY_OK;
    const sy_hf_map *map = &im->map;
    bool *needed = NULL;
    SY_TRY(sy_alloc(map->n_their, sizeof *needed, (void **)&needed));
    SY_TRY(sy_alloc(map->n_their, sizeof *im->their, (void **)&im->their));
    for (int32_t i = 0; i < im->first[map->n_our]; i++) {
        needed[map->link[i].their] = true;
    }
    for (int32_t i = 0; i < map->n_their; i++) {
        im->their[i] = sy_st_find(im->source->set, map->their[i].name);
        SY_REQUIRE(im->their[i] != NULL || !needed[i], SY_ERR_USAGE,
                   "'%s' has no tensor '%s', which its config.json asks for", im->source->folder,
                   map->their[i].name);
        if (im->their[i] != NULL) {
            SY_REQUIRE(needed[i], SY_ERR_USAGE,
                       "'%s': tensor '%s' has no place in the model that config.json describes",
                       im->their[i]->file, im->their[i]->name);
            SY_TRY(check_tensor(&map->their[i], im->their[i]));
        }
    }
cleanup:
    sy_free(&needed);
    return st;
}

static int by_name(const void *a, const void *b)
{
    const sy_hf_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* A tensor of the file that has no place in the model would be lost in silence. Both lists are
   walked by name. */
static sy_status check_leftover(const importer *im)
{
    sy_status st = SY_OK;
    const sy_hf_map *map = &im->map;
    const sy_st_set *set = im->source->set;
    const sy_hf_tensor **sorted = NULL;
    int32_t k = 0;
    SY_TRY(sy_alloc(map->n_their, sizeof *sorted, (void **)&sorted));
    for (int32_t i = 0; i < map->n_their; i++) {
        sorted[i] = &map->their[i];
    }
    qsort(sorted, (size_t)map->n_their, sizeof *sorted, by_name);
    for (int64_t i = 0; i < set->n; i++) {
        while (k < map->n_their && strcmp(sorted[k]->name, set->tensor[i].name) < 0) {
            k++;
        }
        bool known = k < map->n_their && strcmp(sorted[k]->name, set->tensor[i].name) == 0;
        SY_REQUIRE(known || sy_hf_is_ignored(set->tensor[i].name, im->spec->model), SY_ERR_USAGE,
                   "'%s': tensor '%s' has no place in a %s", set->tensor[i].file,
                   set->tensor[i].name, sy_hf_arch_name(im->source->arch));
    }
cleanup:
    sy_free(&sorted);
    return st;
}

static sy_hf_form find_form(const sy_st_set *set)
{
    for (int64_t i = 0; i < set->n; i++) {
        bool known = false;
        sy_hf_form form = sy_hf_form_of(set->tensor[i].name, &known);
        if (known) {
            return form;
        }
    }
    return SY_HF_PER_EXPERT;
}

/* The type that all parts of a tensor have; F32 where they differ, or at least where it is wide. */
static sy_dtype type_of(const importer *im, int32_t our)
{
    sy_dtype dtype = im->their[im->map.link[im->first[our]].their]->dtype;
    for (int32_t i = im->first[our]; i < im->first[our + 1]; i++) {
        sy_dtype other = im->their[im->map.link[i].their]->dtype;
        dtype = other == dtype ? dtype : other == SY_F64 || dtype == SY_F64 ? SY_F64 : SY_F32;
    }
    return im->map.our[our].wide && dtype != SY_F64 ? SY_F32 : dtype;
}

static sy_status plan(importer *im)
{
    sy_status st = SY_OK;
    const sy_import_spec *spec = im->spec;
    SY_TRY(sy_hf_map_create(im->source->arch, find_form(im->source->set), spec->model, spec->moe,
                            &im->map));
    SY_TRY(sy__hf_first_links(&im->map, &im->first));
    SY_TRY(find_theirs(im));
    SY_TRY(check_leftover(im));
    SY_TRY(sy_alloc(im->map.n_our, sizeof *im->dtype, (void **)&im->dtype));
    SY_TRY(sy_alloc(im->map.n_our, sizeof *im->pull, (void **)&im->pull));
    im->receipt->n_tensors = im->map.n_our;
    for (int32_t i = 0; i < im->map.n_our; i++) {
        int64_t n = sy__hf_numel(&im->map.our[i]);
        im->dtype[i] = type_of(im, i);
        im->pull[i] = (pull_state){im, i};
        im->total += n * (int64_t)sy_dtype_bytes(im->dtype[i]);
        im->receipt->n_params += n;
        if (strcmp(im->map.our[i].name, "embed") == 0) {
            im->receipt->dtype = im->dtype[i];
        }
    }
    im->receipt->n_bytes = im->total;
cleanup:
    return st;
}

/* ---- the stream ---- */

static const char *source_at(const importer *im, const sy_hf_link *link, int64_t at)
{
    const sy_st_tensor *their = im->their[link->their];
    return (const char *)their->data +
           (link->their_first + at - link->our_first) * (int64_t)sy_dtype_bytes(their->dtype);
}

static sy_status pull(void *self, int64_t first, int64_t n, void *h_buf, const void **h_out)
{
    sy_status st = SY_OK;
    const pull_state *p = self;
    importer *im = p->im;
    const sy_dtype dtype = im->dtype[p->our];
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(dtype);
    const int32_t begin = im->first[p->our], n_links = im->first[p->our + 1] - begin;
    const sy_hf_link *link = sy__hf_link_at(&im->map.link[begin], n_links, first);
    im->done += n * elem_bytes;
    if (im->spec->progress != NULL && im->spec->comm->rank == 0) {
        im->spec->progress(im->spec->progress_self, im->done, im->total / im->spec->comm->size);
    }
    if (first + n <= link->our_first + link->n && link->scale == 1 &&
        im->their[link->their]->dtype == dtype) {
        *h_out = source_at(im, link, first);
        return SY_OK;
    }
    for (int64_t done = 0; done < n; link++) {
        const sy_st_tensor *their = im->their[link->their];
        int64_t at = first + done, rest = link->our_first + link->n - at;
        int64_t m = n - done < rest ? n - done : rest;
        SY_TRY(sy__convert_counted(their->name, dtype, (char *)h_buf + done * elem_bytes,
                                   their->dtype, source_at(im, link, at), m, 1 / link->scale,
                                   im->receipt));
        done += m;
    }
    *h_out = h_buf;
cleanup:
    return st;
}

/* This rank's share of each tensor as parts. */
static sy_status walk(void *self, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    importer *im = self;
    int64_t base = 0;
    for (int32_t i = 0; i < im->map.n_our; i++) {
        const sy_hf_tensor *our = &im->map.our[i];
        const int64_t elem_bytes = (int64_t)sy_dtype_bytes(im->dtype[i]);
        const int64_t bytes = sy__hf_numel(our) * elem_bytes;
        int64_t begin = 0, end = 0;
        char name[SY_HF_NAME + 8];
        sy_box box[2 * SY_MAX_DIM];
        sy_part part[2 * SY_MAX_DIM];
        sy_field field = {.name = name,
                          .dtype = im->dtype[i],
                          .n_dim = our->n_dim,
                          .parts = part,
                          .pull = pull,
                          .pull_self = &im->pull[i]};
        snprintf(name, sizeof name, "model/%s", our->name);
        for (int32_t d = 0; d < our->n_dim; d++) {
            field.shape_glb[d] = our->shape[d];
        }
        sy__share(im->spec->comm, im->total, base, bytes, SY_PULL_BYTES, &begin, &end);
        if (end > begin) {
            field.n_parts = sy_boxes_from_range(field.n_dim, field.shape_glb, begin / elem_bytes,
                                                end / elem_bytes, box);
        }
        for (int32_t k = 0; k < field.n_parts; k++) {
            part[k] = (sy_part){.box = box[k], .write = true};
        }
        SY_TRY(emit(to, &field));
        base += bytes;
    }
cleanup:
    return st;
}

sy_status sy_import(const sy_import_spec *spec, sy_transfer_receipt *receipt)
{
    sy_status st = SY_OK;
    const double t0 = sy_clock_s();
    importer im = {.spec = spec, .source = spec->source, .receipt = receipt};
    sy_tokenizer_files files = {0};
    sy_owner owner = {.name = "model", .self = &im, .walk = walk};
    sy_state state = {
        .owners = &owner, .n_owners = 1, .kind = "model", .config_yaml = spec->config_yaml};
    *receipt = (sy_transfer_receipt){.dtype = SY_F32};
    SY_TRY(sy_agree(spec->comm, plan(&im)));
    SY_TRY(sy_tokenizer_files_from_folder(spec->source->folder, spec->comm, &files));
    state.blobs = files.blob;
    state.n_blobs = files.n;
    SY_TRY(sy_checkpoint_save(spec->out, &state, spec->comm));
    receipt->seconds = sy_clock_s() - t0;
cleanup:
    sy_tokenizer_files_free(&files);
    sy_free(&im.pull);
    sy_free(&im.dtype);
    sy_free(&im.their);
    sy_free(&im.first);
    sy_hf_map_free(&im.map);
    return st;
}

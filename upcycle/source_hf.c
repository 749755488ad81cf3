/* A Hugging Face folder as a source: its config.json says what our configuration says, its weights
   stay where they are, mapped, and the map of the architecture tells which of their elements are
   ours. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/safetensors.h"
#include "core/alloc.h"
#include "parallel/agree.h"
#include "parallel/state.h"
#include "upcycle/source_impl.h"
#include "upcycle/transfer_impl.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

typedef struct hf {
    const char *folder; /* the source's */
    char *json;
    sy_st_set *set;
    sy_hf_arch arch;
    sy_hf_map map;
    const sy_st_tensor **their; /* [n_their]; NULL: a fill that the file may lack */
    int32_t *first;             /* [n_our + 1] links */
    int32_t *our;               /* [n_our] of the map, by the source's number */
} hf;

/* ---- open ---- */

static sy_status read_text(const char *folder, const char *name, char **path, char **out)
{
    sy_status st = SY_OK;
    char *text = NULL;
    FILE *f = NULL;
    struct stat info;
    SY_TRY(sy_asprintf(path, "%s/%s", folder, name));
    SY_REQUIRE(stat(*path, &info) != 0 || S_ISREG(info.st_mode), SY_ERR_USAGE, "'%s' is not a file",
               *path);
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

sy_status sy__source_json(const char *folder, const char *name, sy_comm *comm, char **path,
                          char **json)
{
    sy_status st = SY_OK;
    SY_TRY(sy_agree(comm, comm->rank == 0 ? read_text(folder, name, path, json) : SY_OK));
    SY_TRY(sy_host_broadcast_text(comm, path));
    SY_TRY(sy_host_broadcast_text(comm, json));
cleanup:
    return st;
}

/* Is there a block that predicts further tokens? */
static bool has_mtp(const sy_st_set *set)
{
    static const char name[] = ".eh_proj.weight";
    bool found = false;
    for (int64_t i = 0; i < set->n && !found; i++) {
        const size_t n = strlen(set->tensor[i].name), m = sizeof name - 1;
        found = n > m && strcmp(set->tensor[i].name + n - m, name) == 0;
    }
    return found;
}

static sy_status open_parts(sy_source *s, const char *path)
{
    sy_status st = SY_OK;
    hf *h = s->self;
    SY_TRY(sy_st_open(s->path, &h->set));
    SY_TRY((has_mtp(h->set) ? sy_hf_config_read : sy_hf_config_read_without_mtp)(
        path, h->json, strlen(h->json), &h->arch, &s->yaml));
    s->form = sy_hf_arch_name(h->arch);
cleanup:
    return st;
}

static sy_status hf_open(sy_source *s, sy_comm *comm)
{
    sy_status st = SY_OK;
    hf *h = NULL;
    char *path = NULL;
    SY_TRY(sy_agree(comm, sy_alloc(1, sizeof *h, &s->self)));
    h = s->self;
    h->folder = s->path;
    SY_TRY(sy__source_json(s->path, "config.json", comm, &path, &h->json));
    SY_TRY(sy_agree(comm, open_parts(s, path)));
    SY_TRY(sy_tokenizer_files_from_folder(s->path, comm, &s->files));
cleanup:
    sy_free(&path);
    return st;
}

static void hf_close(sy_source *s)
{
    hf *h = s->self;
    if (h == NULL) {
        return;
    }
    sy_free(&h->our);
    sy_free(&h->first);
    sy_free(&h->their);
    sy_hf_map_free(&h->map);
    sy_st_close(&h->set);
    sy_free(&h->json);
    sy_free(&s->self);
}

/* ---- bind ---- */

static sy_status check_tensor(const sy_hf_tensor *want, const sy_st_tensor *have)
{
    sy_status st = SY_OK;
    char shape[128], wanted[128];
    bool same = have->n_dim == want->n_dim;
    for (int32_t d = 0; same && d < want->n_dim; d++) {
        same = have->shape[d] == want->shape[d];
    }
    SY_REQUIRE(same, SY_ERR_USAGE, "'%s': tensor '%s' has shape %s; by config.json it must be %s",
               have->file, have->name,
               sy__shape_text(have->n_dim, have->shape, shape, sizeof shape),
               sy__shape_text(want->n_dim, want->shape, wanted, sizeof wanted));
    SY_REQUIRE(have->dtype != SY_N_DTYPES && sy_dtype_is_float(have->dtype), SY_ERR_USAGE,
               "'%s': tensor '%s' is of type %s; weights are read in F32, BF16, F16 and F64",
               have->file, have->name, have->type_name);
cleanup:
    return st;
}

/* Which of their tensors hold something of ours; the others are made of fills alone, or are copies
   of those, which no loader reads. */
static sy_status find_theirs(hf *h)
{
    sy_status st = SY_OK;
    const sy_hf_map *map = &h->map;
    bool *needed = NULL, *copy = NULL;
    SY_TRY(sy_alloc(map->n_their, sizeof *needed, (void **)&needed));
    SY_TRY(sy_alloc(map->n_their, sizeof *copy, (void **)&copy));
    SY_TRY(sy_alloc(map->n_their, sizeof *h->their, (void **)&h->their));
    for (int32_t i = 0; i < h->first[map->n_our]; i++) {
        needed[map->link[i].their] = true;
    }
    for (int32_t i = h->first[map->n_our]; i < map->n_links; i++) {
        copy[map->link[i].their] = map->link[i].copy;
    }
    for (int32_t i = 0; i < map->n_their; i++) {
        h->their[i] = sy_st_find(h->set, map->their[i].name);
        SY_REQUIRE(h->their[i] != NULL || !needed[i], SY_ERR_USAGE,
                   "'%s' has no tensor '%s', which its config.json asks for", h->folder,
                   map->their[i].name);
        if (h->their[i] != NULL) {
            SY_REQUIRE(needed[i] || copy[i], SY_ERR_USAGE,
                       "'%s': tensor '%s' has no place in the model that config.json describes",
                       h->their[i]->file, h->their[i]->name);
            SY_TRY(check_tensor(&map->their[i], h->their[i]));
        }
    }
cleanup:
    sy_free(&copy);
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
static sy_status check_leftover(const hf *h, const sy_model_config *model)
{
    sy_status st = SY_OK;
    const sy_hf_map *map = &h->map;
    const sy_st_set *set = h->set;
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
        SY_REQUIRE(known || sy_hf_is_ignored(set->tensor[i].name, model), SY_ERR_USAGE,
                   "'%s': tensor '%s' has no place in a %s", set->tensor[i].file,
                   set->tensor[i].name, sy_hf_arch_name(h->arch));
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

/* The type that all parts of a tensor have; F32 where they differ. */
static sy_dtype type_of(const hf *h, int32_t our)
{
    sy_dtype dtype = h->their[h->map.link[h->first[our]].their]->dtype;
    for (int32_t i = h->first[our]; i < h->first[our + 1]; i++) {
        sy_dtype other = h->their[h->map.link[i].their]->dtype;
        dtype = other == dtype ? dtype : other == SY_F64 || dtype == SY_F64 ? SY_F64 : SY_F32;
    }
    return dtype;
}

static int by_our_name(const void *a, const void *b)
{
    const sy_source_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static sy_status list_tensors(sy_source *s)
{
    sy_status st = SY_OK;
    hf *h = s->self;
    const int32_t n = h->map.n_our;
    SY_TRY(sy_alloc(n, sizeof *h->our, (void **)&h->our));
    SY_TRY(sy_alloc(n, sizeof *s->tensor, (void **)&s->tensor));
    for (int32_t i = 0; i < n; i++) {
        const sy_hf_tensor *our = &h->map.our[i];
        s->tensor[i] = (sy_source_tensor){
            .name = our->name, .dtype = type_of(h, i), .wide = our->wide, .n_dim = our->n_dim};
        memcpy(s->tensor[i].shape, our->shape, sizeof our->shape);
    }
    qsort(s->tensor, (size_t)n, sizeof *s->tensor, by_our_name);
    for (int32_t i = 0; i < n; i++) { /* a name is its tensor's first member */
        h->our[i] = (int32_t)((const sy_hf_tensor *)(const void *)s->tensor[i].name - h->map.our);
    }
    s->n_tensors = n;
cleanup:
    return st;
}

static sy_status bind_alone(sy_source *s, const sy_model_config *model, const sy_moe_config *moe)
{
    sy_status st = SY_OK;
    hf *h = s->self;
    SY_TRY(sy_hf_map_create(h->arch, find_form(h->set), model, moe, &h->map));
    SY_TRY(sy__hf_first_links(&h->map, &h->first));
    SY_TRY(find_theirs(h));
    SY_TRY(check_leftover(h, model));
    SY_TRY(list_tensors(s));
cleanup:
    return st;
}

static sy_status hf_bind(sy_source *s, const sy_model_config *model, const sy_moe_config *moe,
                         sy_comm *comm)
{
    return sy_agree(comm, bind_alone(s, model, moe));
}

/* ---- read ---- */

static const char *source_at(const hf *h, const sy_hf_link *link, int64_t at)
{
    const sy_st_tensor *their = h->their[link->their];
    return (const char *)their->data +
           (link->their_first + at - link->our_first) * (int64_t)sy_dtype_bytes(their->dtype);
}

static const sy_hf_link *link_at(const hf *h, int32_t our, int64_t at)
{
    const int32_t begin = h->first[our];
    return sy__hf_link_at(&h->map.link[begin], h->first[our + 1] - begin, at);
}

static sy_status hf_read(sy_source *s, int32_t tensor, int64_t first, int64_t n, sy_dtype dtype,
                         void *h_to)
{
    sy_status st = SY_OK;
    const hf *h = s->self;
    sy_transfer_receipt none = {0};
    const sy_hf_link *link = link_at(h, h->our[tensor], first);
    for (int64_t done = 0; done < n; link++) {
        const sy_st_tensor *their = h->their[link->their];
        int64_t at = first + done, rest = link->our_first + link->n - at;
        int64_t m = n - done < rest ? n - done : rest;
        SY_TRY(sy__convert_counted(
            their->name, dtype, (char *)h_to + done * (int64_t)sy_dtype_bytes(dtype), their->dtype,
            source_at(h, link, at), m, 1 / link->scale, &none));
        done += m;
    }
cleanup:
    return st;
}

/* As it lies in the file, where it lies together in the type that is wanted. */
static sy_status hf_get(sy_source *s, int32_t tensor, int64_t first, int64_t n, void *h_buf,
                        const void **h_out)
{
    const hf *h = s->self;
    const sy_hf_link *link = link_at(h, h->our[tensor], first);
    if (first + n <= link->our_first + link->n && link->scale == 1 &&
        h->their[link->their]->dtype == s->tensor[tensor].dtype) {
        *h_out = source_at(h, link, first);
        return SY_OK;
    }
    *h_out = h_buf;
    return hf_read(s, tensor, first, n, s->tensor[tensor].dtype, h_buf);
}

const struct sy_source_vt sy__source_hf = {hf_open, hf_bind, hf_get, hf_read, hf_close};

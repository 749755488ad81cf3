/* Checkpoint to Hugging Face. Piece by piece of the checkpoint, each read and verified once, to the
   places that its elements have in the shards. */
#include <stdio.h>
#include <string.h>

#include "checkpoint/reader.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/tokenizer_files.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "parallel/agree.h"
#include "upcycle/transfer_impl.h"

enum { CHUNK = 1 << 20 /* elements that are converted at once */ };

typedef struct exporter {
    const sy_export_spec *spec;
    sy_reader *reader;
    sy_hf_map map;
    int32_t *first;  /* [n_our + 1] links */
    int32_t *entry;  /* [n_our] of the reader */
    sy_dtype *dtype; /* [n_their] */
    sy_dtype main;   /* of the embedding: what config.json says */
    sy_st_writer *writer;
    void *h_out;         /* [CHUNK] elements */
    int64_t total, done; /* bytes of the entries; of this rank's share so far */
    sy_transfer_receipt *receipt;
} exporter;

/* ---- the plan ---- */

static int32_t find(const exporter *ex, const char *tree, const sy_hf_tensor *our)
{
    char path[SY_HF_NAME + 32];
    snprintf(path, sizeof path, "%s/%s", tree, our->name);
    return sy_reader_find(ex->reader, path);
}

/* Missing, or of another shape than the checkpoint's own configuration says: damaged. */
static sy_status check_entry(const exporter *ex, int32_t our_idx)
{
    sy_status st = SY_OK;
    const sy_hf_tensor *our = &ex->map.our[our_idx];
    sy_checkpoint_entry entry = {0};
    bool same = false;
    SY_REQUIRE(ex->entry[our_idx] >= 0, SY_ERR_DAMAGED,
               "checkpoint '%s' has no dataset '/model/%s', which its configuration asks for",
               ex->spec->checkpoint, our->name);
    entry = sy_reader_entry(ex->reader, ex->entry[our_idx]);
    same = entry.n_dim == our->n_dim && sy_dtype_is_float(entry.dtype);
    for (int32_t d = 0; same && d < our->n_dim; d++) {
        same = entry.shape[d] == our->shape[d];
    }
    SY_REQUIRE(same, SY_ERR_DAMAGED,
               "dataset '/%s' of checkpoint '%s' has not the type or shape that its configuration "
               "asks for",
               entry.path, ex->spec->checkpoint);
cleanup:
    return st;
}

static sy_dtype entry_type(const exporter *ex, int32_t our)
{
    return sy_reader_entry(ex->reader, ex->entry[our]).dtype;
}

/* The type of each of their tensors: as asked for, or as the checkpoint has what it is made of,
   the wider where that differs. No loader expects doubles. */
static sy_status choose_types(exporter *ex)
{
    sy_status st = SY_OK;
    SY_TRY(sy_alloc(ex->map.n_their, sizeof *ex->dtype, (void **)&ex->dtype));
    for (int32_t i = 0; i < ex->map.n_our; i++) {
        if (strcmp(ex->map.our[i].name, "embed") == 0) {
            ex->main = ex->spec->dtype != SY_N_DTYPES ? ex->spec->dtype : entry_type(ex, i);
        }
    }
    ex->main = ex->main == SY_F64 ? SY_F32 : ex->main;
    for (int32_t i = 0; i < ex->map.n_their; i++) {
        ex->dtype[i] = SY_N_DTYPES;
    }
    for (int32_t i = 0; i < ex->map.n_links; i++) {
        const sy_hf_link *link = &ex->map.link[i];
        if (link->our < 0) {
            continue;
        }
        sy_dtype *type = &ex->dtype[link->their], own = entry_type(ex, link->our);
        own = ex->spec->dtype != SY_N_DTYPES ? ex->spec->dtype : own == SY_F64 ? SY_F32 : own;
        *type = *type == SY_N_DTYPES || *type == own ? own : SY_F32;
    }
    for (int32_t i = 0; i < ex->map.n_their; i++) { /* fills alone */
        ex->dtype[i] = ex->dtype[i] == SY_N_DTYPES ? ex->main : ex->dtype[i];
    }
    ex->receipt->dtype = ex->main;
cleanup:
    return st;
}

static sy_status find_entries(exporter *ex)
{
    sy_status st = SY_OK;
    SY_TRY(sy_alloc(ex->map.n_our, sizeof *ex->entry, (void **)&ex->entry));
    for (int32_t i = 0; i < ex->map.n_our; i++) {
        const sy_hf_tensor *our = &ex->map.our[i];
        int32_t master = ex->spec->dtype == SY_F32 ? find(ex, "optim/master", our) : -1;
        ex->entry[i] = master >= 0 ? master : find(ex, "model", our);
        SY_TRY(check_entry(ex, i));
        ex->total += sy__hf_numel(our) *
                     (int64_t)sy_dtype_bytes(sy_reader_entry(ex->reader, ex->entry[i]).dtype);
    }
cleanup:
    return st;
}

static sy_status plan(exporter *ex)
{
    sy_status st = SY_OK;
    const sy_export_spec *spec = ex->spec;
    SY_TRY(sy_hf_can_hold(spec->arch, spec->model, spec->moe));
    SY_TRY(sy_hf_map_create(spec->arch, SY_HF_PER_EXPERT, spec->model, spec->moe, &ex->map));
    SY_TRY(sy__hf_first_links(&ex->map, &ex->first));
    SY_TRY(find_entries(ex));
    SY_TRY(choose_types(ex));
    SY_TRY(sy_alloc(CHUNK, sy_dtype_bytes(SY_F32), &ex->h_out));
cleanup:
    return st;
}

static sy_status create_writer(exporter *ex)
{
    sy_status st = SY_OK;
    const int32_t n = ex->map.n_their;
    sy_st_spec *specs = NULL;
    sy_comm *comm = ex->spec->comm;
    SY_TRY(sy_agree(comm, sy_alloc(n, sizeof *specs, (void **)&specs)));
    for (int32_t i = 0; i < n; i++) {
        const sy_hf_tensor *their = &ex->map.their[i];
        specs[i] = (sy_st_spec){.name = their->name, .dtype = ex->dtype[i], .n_dim = their->n_dim};
        memcpy(specs[i].shape, their->shape, sizeof their->shape);
        ex->receipt->n_params += sy__hf_numel(their);
        ex->receipt->n_bytes += sy__hf_numel(their) * (int64_t)sy_dtype_bytes(ex->dtype[i]);
    }
    ex->receipt->n_tensors = n;
    SY_TRY(
        sy_st_writer_create(ex->spec->out, specs, n, ex->spec->max_shard_bytes, comm, &ex->writer));
cleanup:
    sy_free(&specs);
    return st;
}

/* ---- the stream ---- */

/* Elements [first, first + n) of our tensor, all of one link, as they lie in the checkpoint. */
static sy_status write_run(exporter *ex, const sy_hf_link *link, sy_dtype dtype, int64_t first,
                           int64_t n, const char *h_bytes)
{
    sy_status st = SY_OK;
    const char *name = ex->map.their[link->their].name;
    const sy_dtype out = ex->dtype[link->their];
    const int64_t out_bytes = (int64_t)sy_dtype_bytes(out);
    const int64_t at = (link->their_first + first - link->our_first) * out_bytes;
    if (dtype == out && link->scale == 1) {
        return sy_st_write(ex->writer, link->their, at, h_bytes, n * out_bytes);
    }
    for (int64_t done = 0; done < n; done += CHUNK) {
        int64_t m = n - done < CHUNK ? n - done : CHUNK;
        SY_TRY(sy__convert_counted(name, out, ex->h_out, dtype,
                                   h_bytes + done * (int64_t)sy_dtype_bytes(dtype), m, link->scale,
                                   ex->receipt));
        SY_TRY(
            sy_st_write(ex->writer, link->their, at + done * out_bytes, ex->h_out, m * out_bytes));
    }
cleanup:
    return st;
}

static sy_status write_piece(exporter *ex, int32_t our, sy_dtype dtype, int64_t first, int64_t n)
{
    sy_status st = SY_OK;
    const int32_t begin = ex->first[our], n_links = ex->first[our + 1] - begin;
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(dtype);
    const void *h_bytes = NULL;
    int64_t got = 0;
    SY_TRY(sy_reader_get(ex->reader, ex->entry[our], first, n, &h_bytes, &got));
    for (int64_t done = 0; done < got;) {
        const sy_hf_link *link = sy__hf_link_at(&ex->map.link[begin], n_links, first + done);
        int64_t rest = link->our_first + link->n - (first + done);
        int64_t m = got - done < rest ? got - done : rest;
        SY_TRY(
            write_run(ex, link, dtype, first + done, m, (const char *)h_bytes + done * elem_bytes));
        done += m;
    }
    for (int32_t i = ex->first[ex->map.n_our]; i < ex->map.n_links; i++) {
        const sy_hf_link *link = &ex->map.link[i];
        if (link->copy && link->our == our) {
            SY_TRY(write_run(ex, link, dtype, first, got, h_bytes));
        }
    }
    ex->done += got * elem_bytes;
    if (ex->spec->progress != NULL && ex->spec->comm->rank == 0) {
        ex->spec->progress(ex->spec->progress_self, ex->done, ex->total / ex->spec->comm->size);
    }
cleanup:
    return st;
}

/* This rank's pieces of a tensor that begins at byte `base` of all of them. Pieces of a file that
   others wrote may have any length, so a share is cut where they are. */
static sy_status write_tensor(exporter *ex, int32_t our, int64_t base, int64_t *bytes)
{
    sy_status st = SY_OK;
    const sy_dtype dtype = sy_reader_entry(ex->reader, ex->entry[our]).dtype;
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(dtype);
    const int64_t numel = sy__hf_numel(&ex->map.our[our]);
    int64_t begin = 0, end = 0, n = 0;
    *bytes = numel * elem_bytes;
    sy__share(ex->spec->comm, ex->total, base, *bytes, 1, &begin, &end);
    for (int64_t at = 0; at < numel; at += n) {
        sy_reader_piece(ex->reader, ex->entry[our], at, &at, &n);
        if (at * elem_bytes >= begin && at * elem_bytes < end) {
            SY_TRY(write_piece(ex, our, dtype, at, n));
        }
    }
cleanup:
    return st;
}

/* Tensors that have nothing of ours in them: the biases and gates that make an architecture fit. */
static sy_status write_fill(exporter *ex, const sy_hf_link *link)
{
    sy_status st = SY_OK;
    const sy_dtype out = ex->dtype[link->their];
    const int64_t out_bytes = (int64_t)sy_dtype_bytes(out);
    int64_t m = link->n < CHUNK ? link->n : CHUNK;
    for (int64_t i = 0; i < m; i++) {
        sy_convert(out, (char *)ex->h_out + i * out_bytes, SY_F64, &link->fill, 1);
    }
    for (int64_t done = 0; done < link->n; done += m) {
        m = link->n - done < CHUNK ? link->n - done : CHUNK;
        SY_TRY(sy_st_write(ex->writer, link->their, (link->their_first + done) * out_bytes,
                           ex->h_out, m * out_bytes));
    }
cleanup:
    return st;
}

static sy_status write_tensors(exporter *ex)
{
    sy_status st = SY_OK;
    int64_t base = 0, bytes = 0;
    for (int32_t i = 0; i < ex->map.n_our; i++) {
        SY_TRY(write_tensor(ex, i, base, &bytes));
        base += bytes;
    }
    for (int32_t i = ex->first[ex->map.n_our]; i < ex->map.n_links && ex->spec->comm->rank == 0;
         i++) {
        SY_TRY(ex->map.link[i].copy ? SY_OK : write_fill(ex, &ex->map.link[i]));
    }
cleanup:
    return st;
}

/* Rank 0: what stands beside the weights. The files were copied from the source as they are, but
   for config.json, which is of this model. */
static sy_status write_files(exporter *ex, const sy_tokenizer_files *files)
{
    sy_status st = SY_OK;
    int64_t n = 0;
    const char *source = sy_tokenizer_files_find(files, "config.json", &n);
    char *source_json = NULL, *json = NULL;
    SY_TRY(sy_asprintf(&source_json, "%.*s", (int)n, source != NULL ? source : ""));
    SY_TRY(sy_hf_config_write(&(sy_hf_config_spec){.arch = ex->spec->arch,
                                                   .model = ex->spec->model,
                                                   .moe = ex->spec->moe,
                                                   .dtype = ex->main,
                                                   .source_json = source_json},
                              &json));
    SY_TRY(sy_st_write_file(ex->writer, "config.json", json, (int64_t)strlen(json)));
    for (int32_t i = 0; i < files->n; i++) {
        if (strcmp(files->name[i], "config.json") != 0) {
            SY_TRY(sy_st_write_file(ex->writer, files->name[i], files->bytes[i], files->blob[i].n));
        }
    }
cleanup:
    sy_free(&json);
    sy_free(&source_json);
    return st;
}

/* ---- together ---- */

static sy_status sum_receipt(sy_comm *comm, sy_transfer_receipt *r)
{
    sy_status st = SY_OK;
    SY_TRY(sy_host_all_reduce(comm, &r->n_rounded, 1, SY_I64, SY_SUM, "values rounded"));
    SY_TRY(sy_host_all_reduce(comm, &r->largest_rounding, 1, SY_F64, SY_MAX, "largest rounding"));
cleanup:
    return st;
}

static sy_status write_folder(exporter *ex)
{
    sy_status st = SY_OK, mine = SY_OK;
    sy_comm *comm = ex->spec->comm;
    sy_tokenizer_files files = {0};
    SY_TRY(sy_tokenizer_files_read(ex->spec->checkpoint, comm, &files));
    SY_TRY(create_writer(ex));
    mine = write_tensors(ex);
    if (mine == SY_OK && comm->rank == 0) {
        mine = write_files(ex, &files);
    }
    SY_TRY(sy_agree(comm, mine));
    SY_TRY(sum_receipt(comm, ex->receipt));
    SY_TRY(sy_st_writer_publish(ex->writer));
cleanup:
    sy_tokenizer_files_free(&files);
    return st;
}

sy_status sy_export(const sy_export_spec *spec, sy_transfer_receipt *receipt)
{
    sy_status st = SY_OK;
    const double t0 = sy_clock_s();
    exporter ex = {.spec = spec, .receipt = receipt};
    *receipt = (sy_transfer_receipt){0};
    SY_TRY(sy_reader_open(spec->checkpoint, spec->comm, &ex.reader));
    SY_TRY(sy_agree(spec->comm, plan(&ex)));
    SY_TRY(write_folder(&ex));
    receipt->seconds = sy_clock_s() - t0;
cleanup:
    sy_st_writer_destroy(&ex.writer);
    sy_reader_close(&ex.reader);
    sy_free(&ex.h_out);
    sy_free(&ex.dtype);
    sy_free(&ex.entry);
    sy_free(&ex.first);
    sy_hf_map_free(&ex.map);
    return st;
}

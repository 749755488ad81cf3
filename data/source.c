/* Sequences as token ids: token files, the order in which their sequences come, and the causal
   objective (each position's target is the next token of the stream). */
#include <string.h>

#include "core/alloc.h"
#include "core/fault.h"
#include "data/loader_impl.h"

static sy_status open_dataset(const sy_loader_spec *spec, int32_t d, sy__source *source)
{
    sy_status st = SY_OK;
    int64_t n_targets, S = spec->S;
    SY_TRY(sy_token_file_open_as(spec->datasets[d].path, &spec->file, &source->file[d]));
    n_targets = sy_token_file_n_tokens(source->file[d]) - 1;
    source->n_sequences[d] = spec->sequential ? (n_targets + S - 1) / S : n_targets / S;
    SY_REQUIRE(source->n_sequences[d] >= 1, SY_ERR_USAGE,
               "token file '%s' has %lld tokens, too few for one sequence of model.seq_len %d "
               "(and the token after it)",
               spec->datasets[d].path, (long long)(n_targets + 1), spec->S);
    SY_REQUIRE(!spec->mask_documents || sy_token_file_has_documents(source->file[d]) ||
                   sy_token_file_eod(source->file[d]) >= 0,
               SY_ERR_USAGE,
               "token file '%s' has no index to say where documents begin: data.mask_documents "
               "needs data.eod, the id that ends one",
               spec->datasets[d].path);

cleanup:
    return st;
}

static sy_status open_sampler(const sy_loader_spec *spec, sy__source *source)
{
    sy_status st = SY_OK;
    double *weight = NULL;
    SY_TRY(sy_alloc(spec->n_datasets, sizeof *weight, (void **)&weight));
    for (int32_t d = 0; d < spec->n_datasets; d++) {
        weight[d] = spec->datasets[d].weight;
    }
    SY_TRY(sy_sampler_create(spec->seed, source->n_sequences, weight, spec->n_datasets,
                             &source->sampler));

cleanup:
    sy_free(&weight);
    return st;
}

sy_status sy__source_open(const sy_loader_spec *spec, sy__source *source)
{
    sy_status st = SY_OK;
    source->sequential = spec->sequential;
    source->mask_documents = spec->mask_documents;
    source->S = spec->S;
    SY_TRY(sy_alloc(spec->n_datasets, sizeof(sy_token_file *), (void **)&source->file));
    SY_TRY(sy_alloc(spec->n_datasets, sizeof *source->n_sequences, (void **)&source->n_sequences));
    SY_TRY(sy_alloc((int64_t)spec->S + 1, sizeof *source->tokens, (void **)&source->tokens));
    for (int32_t d = 0; d < spec->n_datasets; d++) {
        source->n = d + 1;
        SY_TRY(open_dataset(spec, d, source));
    }
    if (!spec->sequential) {
        SY_TRY(open_sampler(spec, source));
    }

cleanup:
    return st;
}

void sy__source_close(sy__source *source)
{
    sy_sampler_destroy(&source->sampler);
    for (int32_t d = 0; d < source->n; d++) {
        sy_token_file_close(&source->file[d]);
    }
    source->n = 0;
    sy_free(&source->tokens);
    sy_free(&source->n_sequences);
    sy_free(&source->file);
}

int64_t sy__source_n_sequences(const sy__source *source)
{
    int64_t sum = 0;
    for (int32_t d = 0; d < source->n; d++) {
        sum += source->n_sequences[d];
    }
    return sum;
}

/* Does a document begin at the position `at`, whose token before is `before`? *end is the next
   border where an index has them, of which some may be empty. */
static bool is_border(const sy_token_file *file, int64_t at, int32_t before, int64_t *document,
                      int64_t *end)
{
    if (!sy_token_file_has_documents(file)) {
        return before == sy_token_file_eod(file);
    }
    const bool border = at == *end;
    while (at == *end) {
        ++*document;
        *end = sy_token_file_document_start(file, *document + 1);
    }
    return border;
}

/* pos and doc of the n tokens of a stream that begin at `first`; both count from 0 inside the
 * sequence. */
static void mark_documents(const sy_token_file *file, int64_t first, const int32_t *tokens,
                           int32_t n, int32_t *pos, int32_t *doc)
{
    int64_t document = 0, end = 0;
    int32_t number = 0, p = 0;
    if (sy_token_file_has_documents(file)) {
        document = sy_token_file_document_of(file, first);
        end = sy_token_file_document_start(file, document + 1);
    }
    for (int32_t t = 0; t < n; t++) {
        if (t > 0 && is_border(file, first + t, tokens[t - 1], &document, &end)) {
            number++;
            p = 0;
        }
        pos[t] = p++;
        doc[t] = number;
    }
}

/* What follows the data in a partial sequence: no loss, not routed, a document of its own. */
static void fill_padding(const sy__source *source, int32_t n_used, const sy__sequence *to)
{
    for (int32_t t = n_used; t < source->S; t++) {
        to->ids[t] = 0;
        to->targets[t] = -1;
        to->routed[t] = 0;
        if (source->mask_documents) {
            to->pos[t] = t - n_used;
            to->doc[t] = to->doc[n_used - 1] + (t == n_used);
        }
    }
}

sy_status sy__source_fill(sy__source *source, int64_t k, const sy__sequence *to, int32_t *n_used)
{
    sy_status st = SY_OK;
    const int32_t S = source->S;
    sy_sample sample = {0, 0, k};
    if (!source->sequential) {
        sample = sy_sampler_at(source->sampler, k);
    }
    const sy_token_file *file = source->file[sample.dataset];
    int64_t first = sample.sequence * S;
    int64_t n_targets = sy_token_file_n_tokens(file) - 1 - first;
    int32_t n = n_targets < S ? (int32_t)n_targets : S;

    SY_TRY(sy_fault("data.read"));
    SY_TRY(sy_token_file_read(file, first, n + 1, source->tokens));
    memcpy(to->ids, source->tokens, (size_t)n * sizeof *to->ids);
    memcpy(to->targets, source->tokens + 1, (size_t)n * sizeof *to->targets);
    memset(to->routed, 1, (size_t)n);
    if (source->mask_documents) {
        mark_documents(file, first, source->tokens, n, to->pos, to->doc);
    } else {
        for (int32_t t = 0; t < S; t++) {
            to->pos[t] = t;
        }
    }
    fill_padding(source, n, to);
    *n_used = n;

cleanup:
    return st;
}

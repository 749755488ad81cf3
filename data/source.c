/* Sequences as token ids: token files, the order in which their sequences come, and the objective:
   here the causal one, each position's target being the next token of the stream. */
#include <string.h>

#include "core/alloc.h"
#include "core/fault.h"
#include "data/loader_impl.h"

/* Which tokens of the file; *begin and *end: which sequences of its index. */
static sy_status open_part(const sy_loader_spec *spec, int32_t d, sy__source *source,
                           int64_t *begin, int64_t *end)
{
    sy_status st = SY_OK;
    const sy_loader_dataset *set = &spec->datasets[d];
    const sy_token_file *file = source->file[d];
    *begin = *end = 0;
    source->first[d] = 0;
    source->end[d] = sy_token_file_n_tokens(file);
    SY_REQUIRE(sy_token_file_has_documents(file) ||
                   (set->part == SY_SPLIT_ALL && spec->megatron_samples == 0),
               SY_ERR_USAGE,
               "token file '%s' has no index, which data.split and data.order megatron need",
               set->path);
    if (sy_token_file_has_documents(file)) {
        sy_megatron_split(sy_token_file_n_sequences(file), spec->split, set->part, begin, end);
        source->first[d] = sy_token_file_sequence_start(file, *begin);
        source->end[d] = sy_token_file_sequence_start(file, *end);
    }
cleanup:
    return st;
}

static sy_status open_dataset(const sy_loader_spec *spec, int32_t d, sy__source *source,
                              sy_megatron_dataset *out)
{
    sy_status st = SY_OK;
    int64_t n_targets, S = spec->S;
    SY_TRY(sy_token_file_open_as(spec->datasets[d].path, &spec->file, &source->file[d]));
    *out = (sy_megatron_dataset){.file = source->file[d], .weight = spec->datasets[d].weight};
    SY_TRY(open_part(spec, d, source, &out->first, &out->end));
    n_targets = source->end[d] - source->first[d] - 1;
    source->n_sequences[d] = n_targets / S;
    if (spec->sequential) {
        const int64_t behind = n_targets > S ? n_targets - S : 0; /* the first sequence */
        source->n_sequences[d] = 1 + (behind + source->stride - 1) / source->stride;
    }
    SY_REQUIRE(n_targets >= 1 && source->n_sequences[d] >= 1, SY_ERR_USAGE,
               "token file '%s' has %lld tokens%s, too few for one sequence of model.seq_len %d "
               "(and the token after it)",
               spec->datasets[d].path, (long long)(n_targets + 1),
               spec->datasets[d].part != SY_SPLIT_ALL ? " in this part of it" : "", spec->S);
    SY_REQUIRE(!spec->mask_documents || sy_token_file_has_documents(source->file[d]) ||
                   sy_token_file_eod(source->file[d]) >= 0,
               SY_ERR_USAGE,
               "token file '%s' has no index to say where documents begin: data.mask_documents "
               "needs data.eod, the id that ends one",
               spec->datasets[d].path);

cleanup:
    return st;
}

/* The ids that an objective adds to the text. */
static sy_status open_objective(const sy_loader_spec *spec, sy__source *source)
{
    sy_status st = SY_OK;
    const sy_objective_spec *o = &spec->objective;
    int32_t largest = o->objective == SY_OBJECTIVE_UL2 ? o->sentinel_id : -1;
    largest = o->eod > largest ? o->eod : largest;
    for (int32_t i = 0; i < SY_N_MODES; i++) {
        largest = o->mode_id[i] > largest ? o->mode_id[i] : largest;
    }
    SY_REQUIRE(largest < spec->file.vocab_size, SY_ERR_USAGE,
               "id %d of data.sentinel_id, data.mode_ids or data.eod is not below "
               "model.vocab_size %lld",
               largest, (long long)spec->file.vocab_size);
    SY_REQUIRE(o->S >= 8, SY_ERR_USAGE, "model.seq_len %d is too short for data.objective %s", o->S,
               o->objective == SY_OBJECTIVE_UL2 ? "ul2" : "prefix_lm");
    source->seed = spec->seed;
    SY_TRY(sy_objective_create(o, &source->objective));
cleanup:
    return st;
}

sy_status sy__source_open(const sy_loader_spec *spec, sy__source *source)
{
    sy_status st = SY_OK;
    sy_megatron_dataset *sets = NULL;
    source->sequential = spec->sequential;
    source->mask_documents = spec->mask_documents;
    source->S = spec->S;
    source->stride = spec->stride > 0 && spec->stride < spec->S ? spec->stride : spec->S;
    SY_TRY(sy_alloc(spec->n_datasets, sizeof(sy_token_file *), (void **)&source->file));
    SY_TRY(sy_alloc(spec->n_datasets, sizeof *source->n_sequences, (void **)&source->n_sequences));
    SY_TRY(sy_alloc(spec->n_datasets, sizeof *source->first, (void **)&source->first));
    SY_TRY(sy_alloc(spec->n_datasets, sizeof *source->end, (void **)&source->end));
    SY_TRY(sy_alloc(spec->n_datasets, sizeof *source->weight, (void **)&source->weight));
    SY_TRY(sy_alloc((int64_t)spec->S + 1, sizeof *source->tokens, (void **)&source->tokens));
    SY_TRY(sy_alloc((int64_t)spec->S + 1, sizeof *source->fresh, (void **)&source->fresh));
    SY_TRY(sy_alloc(spec->n_datasets, sizeof *sets, (void **)&sets));
    for (int32_t d = 0; d < spec->n_datasets; d++) {
        source->n = d + 1;
        source->weight[d] = spec->datasets[d].weight;
        SY_TRY(open_dataset(spec, d, source, &sets[d]));
    }
    if (!spec->sequential && spec->megatron_samples > 0) {
        SY_TRY(sy_megatron_create(sets, spec->n_datasets, spec->S, spec->seed,
                                  spec->megatron_samples, &source->megatron));
    } else if (!spec->sequential) {
        SY_TRY(sy_sampler_create(spec->seed, source->n_sequences, source->weight, spec->n_datasets,
                                 &source->sampler));
    }

    if (!spec->sequential && spec->objective.objective != SY_OBJECTIVE_CAUSAL) {
        SY_TRY(open_objective(spec, source));
    }

cleanup:
    sy_free(&sets);
    return st;
}

void sy__source_close(sy__source *source)
{
    sy_sampler_destroy(&source->sampler);
    sy_megatron_destroy(&source->megatron);
    sy_objective_destroy(&source->objective);
    for (int32_t d = 0; d < source->n; d++) {
        sy_token_file_close(&source->file[d]);
    }
    source->n = 0;
    sy_free(&source->fresh);
    sy_free(&source->tokens);
    sy_free(&source->weight);
    sy_free(&source->end);
    sy_free(&source->first);
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

/* fresh[t] for t in 1 .. n-1: does a document begin at token t of those that begin at `first`? */
static void find_documents(const sy_token_file *file, int64_t first, const int32_t *tokens,
                           int32_t n, uint8_t *fresh)
{
    const bool indexed = sy_token_file_has_documents(file);
    const int64_t eod = sy_token_file_eod(file);
    int64_t document = indexed ? sy_token_file_document_of(file, first) : 0;
    int64_t end = indexed ? sy_token_file_document_start(file, document + 1) : -1;
    for (int32_t t = 1; t < n; t++) {
        fresh[t] = indexed ? first + t == end : tokens[t - 1] == eod;
        while (first + t == end) { /* documents may be empty */
            document++;
            end = sy_token_file_document_start(file, document + 1);
        }
    }
}

/* pos and doc both count from 0 inside the sequence. */
static void mark_documents(const uint8_t *fresh, int32_t n, int32_t *pos, int32_t *doc)
{
    int32_t number = 0, p = 0;
    for (int32_t t = 0; t < n; t++) {
        if (t > 0 && fresh[t]) {
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

/* Tokens of sequence k, n of them with a target, and where documents begin. */
static sy_status read_sequence(sy__source *source, int64_t k, int32_t *n)
{
    sy_status st = SY_OK;
    sy_sample sample = {0, 0, k};
    *n = source->S;
    if (source->megatron != NULL) {
        return sy_megatron_read(source->megatron, k, source->tokens, source->fresh);
    }
    if (!source->sequential) {
        sample = sy_sampler_at(source->sampler, k);
    }
    const sy_token_file *file = source->file[sample.dataset];
    const int64_t first = source->first[sample.dataset] + sample.sequence * source->stride;
    const int64_t n_targets = source->end[sample.dataset] - 1 - first;
    *n = n_targets < source->S ? (int32_t)n_targets : source->S;
    SY_TRY(sy_token_file_read(file, first, *n + 1, source->tokens));
    if (source->mask_documents) {
        find_documents(file, first, source->tokens, *n, source->fresh);
    }
cleanup:
    return st;
}

static void fill_causal(const sy__source *source, int32_t n, const sy__sequence *to)
{
    memcpy(to->ids, source->tokens, (size_t)n * sizeof *to->ids);
    memcpy(to->targets, source->tokens + 1, (size_t)n * sizeof *to->targets);
    memset(to->routed, 1, (size_t)n);
    if (source->mask_documents) {
        mark_documents(source->fresh, n, to->pos, to->doc);
    } else {
        for (int32_t t = 0; t < source->S; t++) {
            to->pos[t] = t;
        }
    }
    fill_padding(source, n, to);
}

bool sy__source_pads(const sy__source *source)
{
    return source->sequential || source->objective != NULL;
}

sy_status sy__source_fill(sy__source *source, int64_t k, const sy__sequence *to,
                          sy_objective_counts *count)
{
    sy_status st = SY_OK;
    int32_t n = 0;
    SY_TRY(sy_fault("data.read"));
    SY_TRY(read_sequence(source, k, &n));
    if (source->objective != NULL) {
        *count = sy_objective_make(source->objective, source->seed, k, source->tokens,
                                   &(sy_objective_out){to->ids, to->targets, to->pos, to->routed});
    } else {
        const int32_t seen = k > 0 && source->sequential ? source->S - source->stride : 0;
        fill_causal(source, n, to);
        for (int32_t t = 0; t < seen; t++) {
            to->targets[t] = -1;
        }
        *count = (sy_objective_counts){n - seen, n};
    }

cleanup:
    return st;
}

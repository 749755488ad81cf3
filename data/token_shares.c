/* How often each id comes in the training data. */
#include "core/alloc.h"
#include "data/loader_impl.h"

enum { STRETCH = 1 << 16 };

/* share += weight times the shares of the ids in data set d. */
static sy_status add_dataset(const sy__source *source, int32_t d, double weight, int64_t vocab,
                             int32_t *tokens, int64_t *count, double *share)
{
    sy_status st = SY_OK;
    const int64_t n = source->end[d] - source->first[d], most = SY_COUNT_TOKENS / STRETCH;
    const int64_t n_all = (n + STRETCH - 1) / STRETCH, n_taken = n_all < most ? n_all : most;
    int64_t counted = 0;
    for (int64_t id = 0; id < vocab; id++) {
        count[id] = 0;
    }
    for (int64_t i = 0; i < n_taken; i++) {
        const int64_t begin = i * n_all / n_taken * STRETCH;
        const int64_t m = n - begin < STRETCH ? n - begin : STRETCH;
        SY_TRY(sy_token_file_read(source->file[d], source->first[d] + begin, m, tokens));
        for (int64_t t = 0; t < m; t++) {
            SY_REQUIRE(tokens[t] < vocab, SY_ERR_INTERNAL, "id %d of %lld", tokens[t],
                       (long long)vocab);
            count[tokens[t]]++;
        }
        counted += m;
    }
    for (int64_t id = 0; id < vocab; id++) {
        share[id] += weight * (double)count[id] / (double)counted;
    }
cleanup:
    return st;
}

sy_status sy__source_token_shares(const sy__source *source, int64_t vocab, double *share)
{
    sy_status st = SY_OK;
    int32_t *tokens = NULL;
    int64_t *count = NULL;
    double sum = 0;
    SY_TRY(sy_alloc(STRETCH, sizeof *tokens, (void **)&tokens));
    SY_TRY(sy_alloc(vocab, sizeof *count, (void **)&count));
    for (int64_t id = 0; id < vocab; id++) {
        share[id] = 0;
    }
    for (int32_t d = 0; d < source->n; d++) {
        sum += source->weight[d];
    }
    for (int32_t d = 0; d < source->n; d++) {
        SY_TRY(add_dataset(source, d, source->weight[d] / sum, vocab, tokens, count, share));
    }
cleanup:
    sy_free(&count);
    sy_free(&tokens);
    return st;
}

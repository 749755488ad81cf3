#include "launch/data_samples.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "data/tokenizer.h"
#include "launch/output.h"
#include "train/trainer.h"

typedef struct printer {
    sy_tokenizer *tokenizer; /* NULL: ids only */
    char *text;              /* of one token */
} printer;

static sy_status print_token(const printer *p, int32_t id)
{
    sy_status st = SY_OK;
    int64_t n = 0;
    if (p->tokenizer != NULL) {
        SY_TRY(sy_tokenizer_decode(p->tokenizer, &id, 1, p->text, &n));
    }
    if (n > 0) {
        sy_print_escaped(p->text, n);
    } else {
        printf("<%" PRId32 ">", id);
    }
cleanup:
    return st;
}

/* The sequence is ids[0 .. n-1] and, where there is one, the last target. */
static int32_t token_at(const sy_batch *b, int32_t t, int32_t n)
{
    return t < n ? b->ids[t] : b->targets[n - 1];
}

static sy_status print_sequence(const printer *p, const sy_batch *b)
{
    sy_status st = SY_OK;
    int32_t n = 0, end = 0;
    while (n < b->S && (b->routed == NULL || b->routed[n])) {
        n++;
    }
    const int32_t all = n + (n > 0 && b->targets[n - 1] >= 0);
    for (int32_t begin = 0; begin < all; begin = end) {
        const bool learned = begin > 0 && b->targets[begin - 1] >= 0;
        const int32_t doc = b->doc != NULL && begin < n ? b->doc[begin] : 0;
        printf("    %s  ", learned ? "learned" : "given  ");
        for (end = begin; end < all; end++) {
            if ((end > 0 && b->targets[end - 1] >= 0) != learned ||
                (b->doc != NULL && end < n && b->doc[end] != doc)) {
                break;
            }
            SY_TRY(print_token(p, token_at(b, end, n)));
        }
        printf("\n");
    }
    if (n < b->S) {
        printf("    padding  %" PRId32 " tokens\n", b->S - n);
    }
cleanup:
    return st;
}

/* Row b of a micro-batch by itself. */
static sy_batch row_of(const sy_batch *micro, int32_t b)
{
    const int64_t at = (int64_t)b * micro->S;
    return (sy_batch){.B = 1,
                      .S = micro->S,
                      .ids = micro->ids + at,
                      .targets = micro->targets + at,
                      .routed = micro->routed != NULL ? micro->routed + at : NULL,
                      .doc = micro->doc != NULL ? micro->doc + at : NULL};
}

static sy_status print_one(const printer *p, const sy_batch *row, int64_t k, int64_t step)
{
    int32_t n_loss = 0;
    for (int32_t t = 0; t < row->S; t++) {
        n_loss += row->targets[t] >= 0;
    }
    printf("sequence %" PRId64 ", of step %" PRId64 ": %d of %d tokens have a loss\n", k, step,
           n_loss, row->S);
    return print_sequence(p, row);
}

/* Step by step, as training takes them. */
static sy_status print_all(const printer *p, const sy_run_settings *settings, sy_loader *loader,
                           int64_t n)
{
    sy_status st = SY_OK;
    const sy_step_batch *batch = NULL;
    int64_t k = 0;
    for (int64_t step = 1; k < n && step <= settings->train->steps; step++) {
        SY_TRY(sy_loader_take(loader, k, &batch));
        for (int32_t j = 0; j < batch->n_micro; j++) {
            for (int32_t b = 0; b < batch->micro[j].B && k < n; b++) {
                const sy_batch row = row_of(&batch->micro[j], b);
                SY_TRY(print_one(p, &row, k++, step));
            }
        }
    }
cleanup:
    return st;
}

sy_status sy_data_show_samples(const sy_run_settings *settings, int64_t n)
{
    sy_status st = SY_OK;
    const char *name = settings->data->tokenizer;
    sy_loader *loader = NULL;
    printer p = {0};
    if (strcmp(name, "none") != 0) {
        SY_TRY(sy_tokenizer_open(name, &p.tokenizer));
        SY_TRY(sy_alloc(sy_tokenizer_max_bytes(p.tokenizer, 1) + 1, 1, (void **)&p.text));
    }
    SY_TRY(sy_train_data_open(settings, 0, 1, &loader));
    SY_TRY(print_all(&p, settings, loader, n));
cleanup:
    sy_loader_destroy(&loader);
    sy_free(&p.text);
    sy_tokenizer_close(&p.tokenizer);
    return st;
}

/* A step of one rank: which micro-batches are its own, and the arrays they stand in. */
#include "core/alloc.h"
#include "core/tensor.h"
#include "data/loader_impl.h"

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Micro-batches of every rank in a step of n sequences. */
static int32_t n_rounds(const sy_loader_spec *spec, int64_t n)
{
    return (int32_t)ceil_div(ceil_div(n, spec->B), spec->dp_size);
}

sy_status sy__step_alloc(const sy_loader_spec *spec, sy__step *step)
{
    sy_status st = SY_OK;
    sy__sequence *s = &step->storage;
    int32_t n_micro = n_rounds(spec, spec->global_batch);
    int64_t n = 0;
    const int64_t shape[3] = {n_micro, spec->B, spec->S};
    SY_TRY(sy_size_product(shape, 3, &n));
    SY_TRY(sy_alloc(n_micro, sizeof *step->micro, (void **)&step->micro));
    SY_TRY(sy_alloc(n, sizeof *s->ids, (void **)&s->ids));
    SY_TRY(sy_alloc(n, sizeof *s->targets, (void **)&s->targets));
    SY_TRY(sy_alloc(n, sizeof *s->pos, (void **)&s->pos));
    SY_TRY(sy_alloc(n, sizeof *s->doc, (void **)&s->doc));
    SY_TRY(sy_alloc(n, sizeof *s->routed, (void **)&s->routed));
    SY_TRY(sy_alloc(n, sizeof *s->token_glb, (void **)&s->token_glb));

cleanup:
    return st;
}

void sy__step_free(sy__step *step)
{
    sy_free(&step->storage.token_glb);
    sy_free(&step->storage.routed);
    sy_free(&step->storage.doc);
    sy_free(&step->storage.pos);
    sy_free(&step->storage.targets);
    sy_free(&step->storage.ids);
    sy_free(&step->micro);
}

/* The arrays from element `at` on. */
static sy__sequence storage_at(const sy__sequence *s, int64_t at)
{
    return (sy__sequence){s->ids + at, s->targets + at, s->pos + at,
                          s->doc + at, s->routed + at,  s->token_glb + at};
}

/* Micro-batch j of the step, B sequences of it, into the storage of round r. */
static sy_status fill_micro(const sy_loader_spec *spec, sy__source *source, int64_t position,
                            int32_t r, sy__step *step)
{
    sy_status st = SY_OK;
    const int64_t S = spec->S, n = step->batch.n_sequences;
    const int64_t first = ((int64_t)r * spec->dp_size + spec->dp_rank) * spec->B;
    const sy__sequence micro = storage_at(&step->storage, (int64_t)r * spec->B * S);
    int64_t B = n - first < spec->B ? n - first : spec->B;
    B = B > 0 ? B : 0;

    for (int64_t b = 0; b < B; b++) {
        const sy__sequence to = storage_at(&micro, b * S);
        sy_objective_counts count = {0};
        SY_TRY(sy__source_fill(source, position + first + b, &to, &count));
        for (int64_t t = 0; t < S; t++) {
            to.token_glb[t] = (first + b) * S + t;
        }
        step->batch.loss_tokens += count.n_loss;
        step->batch.routed_tokens += count.n_routed;
    }
    step->micro[r] = (sy_batch){
        .B = (int32_t)B,
        .S = spec->S,
        .ids = micro.ids,
        .targets = micro.targets,
        .routed = sy__source_pads(source) ? micro.routed : NULL,
        .pos = micro.pos,
        .doc = spec->mask_documents ? micro.doc : NULL,
        .token_glb = micro.token_glb,
    };

cleanup:
    return st;
}

sy_status sy__step_fill(const sy_loader_spec *spec, sy__source *source, int64_t position, int32_t n,
                        sy__step *step)
{
    sy_status st = SY_OK;
    if (spec->sequential) {
        int64_t left = sy__source_n_sequences(source) - position;
        n = left < n ? (int32_t)left : n;
        n = n > 0 ? n : 0;
    }
    step->batch = (sy_step_batch){
        .micro = step->micro, .n_micro = n_rounds(spec, n), .position = position, .n_sequences = n};
    for (int32_t r = 0; r < step->batch.n_micro; r++) {
        SY_TRY(fill_micro(spec, source, position, r, step));
    }

cleanup:
    return st;
}

/* A bit that flips on one of the ranks that hold the same is found and named: any bit of weights,
   masters, moments and reduced gradients, of dense parameters and of experts. */
#include "tests/support/mpi_assert.h"

#include <stdio.h>
#include <string.h>

#include "train/replicas.h"

static const char config_text[] =
    "device: {backend: cpu, threads: 1}\n"
    "model: {vocab_size: 32, hidden: 8, layers: 1, heads: 2, ffn_hidden: 8, seq_len: 4}\n"
    "moe: {experts: 12, top_k: 2, expert_hidden: 4}\n"
    "data: {tokenizer: none}\n";

typedef struct rig {
    sy_run_settings settings;
    sy_trainer t;
    sy_replicas *replicas;
} rig;

static void open_rig(rig *r, int32_t ep, int32_t zero, const char *precision)
{
    sy_comm *world = mpi_test_world();
    char set[3][48];
    const char *overrides[] = {set[0], set[1], set[2]};
    snprintf(set[0], sizeof set[0], "parallel.ep=%d", ep);
    snprintf(set[1], sizeof set[1], "parallel.zero=%d", zero);
    snprintf(set[2], sizeof set[2], "device.precision=%s", precision);
    *r = (rig){0};
    assert_all_ok(sy_run_settings_parse(config_text, sizeof config_text - 1, "test", overrides, 3,
                                        &r->settings));
    r->t.settings = &r->settings;
    assert_all_ok(sy_engine_create(&(sy_engine_spec){.settings = &r->settings,
                                                     .world = world,
                                                     .use = SY_USE_TRAIN,
                                                     .B = 1,
                                                     .S = 4,
                                                     .threads = 1},
                                   &r->t.engine));
    assert_all_ok(sy_optimizer_create(r->settings.optim, r->t.engine->params, &r->t.opt));
    assert_all_ok(sy_params_init(r->t.engine->params, 3, r->t.engine->compute_stream));
    assert_all_ok(sy_optimizer_sync_masters(r->t.opt, r->t.engine->compute_stream));
    assert_all_ok(sy_stream_sync(r->t.engine->compute_stream));
    assert_all_ok(sy_replicas_create(&r->t, &r->replicas));
}

static void close_rig(rig *r)
{
    sy_replicas_destroy(&r->replicas);
    sy_optimizer_destroy(&r->t.opt);
    sy_engine_destroy(&r->t.engine);
    sy_run_settings_free(&r->settings);
}

static sy_status flip(rig *r, void *address, int32_t bit)
{
    sy_status st = SY_OK;
    sy_stream *stream = r->t.engine->compute_stream;
    uint8_t byte = 0, *at = (uint8_t *)address + bit / 8;
    SY_TRY(sy_copy_d2h(stream, &byte, at, 1));
    SY_TRY(sy_stream_sync(stream));
    byte = (uint8_t)(byte ^ (1U << bit % 8));
    SY_TRY(sy_copy_h2d(stream, at, &byte, 1));
    SY_TRY(sy_stream_sync(stream));
cleanup:
    return st;
}

/* Flipped on the last rank: is it found, by these words, and gone when it is flipped back? */
static void flip_is_found(rig *r, void *address, int32_t bit, const char *words)
{
    sy_comm *world = mpi_test_world();
    const bool mine = world->rank == world->size - 1;
    assert_all_ok(mine ? flip(r, address, bit) : SY_OK);
    sy_status st = sy_replicas_check(r->replicas, 7, true);
    bool named = words == NULL ? st == SY_OK : strstr(sy_error_message(), words) != NULL;
    if (!named) {
        fprintf(stderr, "bit %d: wanted '%s', got '%s'\n", bit, words != NULL ? words : "",
                sy_error_message());
    }
    sy_error_clear();
    assert_all_status(st, words == NULL ? SY_OK : SY_ERR_NUMERIC);
    assert_all(named);
    assert_all_ok(mine ? flip(r, address, bit) : SY_OK);
    assert_all_ok(sy_replicas_check(r->replicas, 7, true));
}

/* With two replicas nobody knows which is right. */
static const char *words_of(char *buf, size_t n, const char *part, const char *name, int32_t step,
                            int32_t n_replicas)
{
    const int32_t last = mpi_test_world()->size - 1;
    int used = snprintf(buf, n, "%s of model/%s: ", part, name);
    if (n_replicas > 2) {
        snprintf(buf + used, n - (size_t)used, "rank %d is not like the others (1 tensors", last);
    } else {
        snprintf(buf + used, n - (size_t)used, "ranks %d and %d differ (1 tensors", last - step,
                 last);
    }
    return buf;
}

static char *element(void *base, int64_t at, sy_dtype dtype)
{
    return (char *)base + at * (int64_t)sy_dtype_bytes(dtype);
}

static void any_bit_of_any_replica_is_found_and_named(void **state)
{
    (void)state;
    const int32_t size = mpi_test_world()->size;
    char words[160];
    for (int32_t i = 0; i < 4 && size > 1; i++) {
        rig r;
        const bool narrow = i % 2 == 1, sharded = i / 2 == 1;
        open_rig(&r, 1, sharded ? 1 : 0, narrow ? "bf16" : "fp32");
        const sy_params *params = r.t.engine->params;
        const sy_param *p = sy_params_find(params, "layers/000/moe/experts/down");
        assert_all(p != NULL);
        const char *name = p->spec.name;
        for (int32_t bit = 0; bit < (narrow ? 16 : 32); bit++) {
            flip_is_found(&r, element(p->value.data, 5, p->value.dtype), bit,
                          words_of(words, sizeof words, "weights", name, 1, size));
        }
        const sy_range *range = params->range;
        while (range->segment != p->segment) {
            range++;
        }
        const int64_t at = range->shard_offset + p->offset - range->offset + 5;
        for (int32_t bit = 0; bit < 32; bit++) {
            const char *found = words_of(words, sizeof words, "first moments", name, 1, size);
            if (!sharded) {
                flip_is_found(&r, element(r.t.opt->m, at, SY_F32), bit, found);
                found = words_of(words, sizeof words, "second moments", name, 1, size);
                flip_is_found(&r, element(r.t.opt->v, at, SY_F32), bit, found);
                found = words_of(words, sizeof words, "gradients", name, 1, size);
                flip_is_found(&r, element(p->grad.data, 5, SY_F32), bit, found);
            }
            if (!sharded && narrow) {
                found = words_of(words, sizeof words, "master weights", name, 1, size);
                flip_is_found(&r, element(r.t.opt->master, at, SY_F32), bit, found);
            }
        }
        close_rig(&r);
    }
}

/* An expert's replicas are those of edp; where there is but one, nothing can be compared. */
static void experts_are_compared_over_edp_and_dense_ones_over_all(void **state)
{
    (void)state;
    const int32_t size = mpi_test_world()->size;
    char words[160];
    for (int32_t ep = 2; ep <= size; ep++) {
        rig r;
        if (size % ep != 0) {
            continue;
        }
        open_rig(&r, ep, 0, "fp32");
        const sy_param *expert = sy_params_find(r.t.engine->params, "layers/000/moe/experts/down");
        const sy_param *router = sy_params_find(r.t.engine->params, "layers/000/moe/router");
        const int32_t edp = size / ep;
        flip_is_found(
            &r, expert->value.data, 11,
            edp == 1 ? NULL : words_of(words, sizeof words, "weights", expert->spec.name, ep, edp));
        flip_is_found(&r, router->value.data, 30,
                      words_of(words, sizeof words, "weights", router->spec.name, 1, size));
        close_rig(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_bit_of_any_replica_is_found_and_named),
        cmocka_unit_test(experts_are_compared_over_edp_and_dense_ones_over_all),
    };
    return mpi_test_main("replicas", tests, sizeof tests / sizeof tests[0]);
}

#include "tests/parity/subject.h"

#include <stdio.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "core/alloc.h"
#include "data/sampler.h"
#include "data/token_writer.h"
#include "parallel/agree.h"
#include "train/check_digest.h"

/* ---- import ---- */

static sy_status configure(subject *s, const char *yaml, int32_t ep)
{
    const fixture *f = s->spec.fixture;
    const char *overrides[FIXTURE_SETTINGS + 5];
    char text[5][2 * FIXTURE_PATH];
    int32_t n = 0;
    snprintf(text[0], sizeof text[0], "device.backend=%s", s->spec.backend);
    snprintf(text[1], sizeof text[1], "device.precision=%s", s->spec.precision);
    snprintf(text[2], sizeof text[2], "train.micro_batch=%d", s->spec.micro_batch);
    snprintf(text[3], sizeof text[3], "parallel.ep=%d", ep);
    snprintf(text[4], sizeof text[4], "data.train=[{path: '%s'}]", s->tokens);
    for (; n < f->n_settings; n++) {
        overrides[n] = f->setting[n];
    }
    for (int32_t i = 0; i < 5; i++) {
        overrides[n++] = text[i];
    }
    return sy_run_settings_parse(yaml, strlen(yaml), f->dir, overrides, n, &s->settings);
}

/* ep follows from the experts, whose number is only known when the configuration was read. */
static sy_status configure_all(subject *s, const char *yaml)
{
    sy_status st = SY_OK;
    int32_t ranks = s->spec.world->size, experts;
    SY_TRY(configure(s, yaml, 1));
    experts = s->settings.moe->experts;
    if (experts > 0 && experts % ranks == 0) {
        sy_run_settings_free(&s->settings);
        SY_TRY(configure(s, yaml, ranks));
    }
cleanup:
    return st;
}

static sy_status import(subject *s)
{
    sy_status st = SY_OK;
    sy_comm *world = s->spec.world;
    sy_source *source = NULL;
    sy_transfer_receipt receipt;
    char *yaml = NULL;
    SY_TRY(sy_source_open(s->spec.fixture->dir, world, &source));
    SY_TRY(sy_hf_arch_parse(source->form, &s->arch));
    SY_TRY(configure_all(s, source->yaml));
    SY_TRY(sy_config_echo(s->settings.config, &yaml));
    SY_TRY(sy_import(&(sy_import_spec){.source = source,
                                       .model = s->settings.model,
                                       .moe = s->settings.moe,
                                       .config_yaml = yaml,
                                       .out = s->checkpoint,
                                       .comm = world},
                     &receipt));
    SY_TRY(
        sy_hf_map_create(s->arch, SY_HF_PER_EXPERT, s->settings.model, s->settings.moe, &s->map));
cleanup:
    sy_free(&yaml);
    sy_source_close(&source);
    return st;
}

/* ---- tokens ---- */

/* The trainer draws sequences in an order of its own, each once per epoch: sequence k of the
   fixture goes where draw k will look. They begin and end with the same token, so any order makes a
   stream in which each is a window. */
static sy_status write_tokens(const subject *s)
{
    sy_status st = SY_OK;
    int64_t shape[3] = {0}, n, S, V = s->settings.model->vocab_size;
    double *tokens = fixture_read(s->spec.fixture, "tokens", shape);
    int32_t *stream = NULL;
    const double weight = 1;
    sy_sampler *sampler = NULL;
    sy_token_writer *writer = NULL;

    n = shape[0] * shape[1];
    S = shape[2] - 1;
    SY_REQUIRE(tokens != NULL && S == s->settings.model->seq_len, SY_ERR_USAGE,
               "%s: no tokens, or sequences that are not model.seq_len long", s->spec.fixture->dir);
    SY_TRY(sy_alloc(n * S + 1, sizeof *stream, (void **)&stream));
    SY_TRY(sy_sampler_create((uint64_t)s->settings.run->seed, &n, &weight, 1, &sampler));
    for (int64_t k = 0; k < n; k++) {
        int64_t at = sy_sampler_at(sampler, k).sequence * S;
        for (int64_t t = 0; t < S; t++) {
            stream[at + t] = (int32_t)tokens[k * (S + 1) + t];
        }
        SY_REQUIRE(tokens[k * (S + 1)] == 0 && tokens[k * (S + 1) + S] == 0, SY_ERR_USAGE,
                   "%s: a sequence does not begin and end with token 0", s->spec.fixture->dir);
    }
    SY_TRY(sy_token_writer_create(s->tokens, V, &writer));
    SY_TRY(sy_token_writer_append(writer, stream, n * S + 1));
    SY_TRY(sy_token_writer_end_document(writer));
    SY_TRY(sy_token_writer_finish(writer));
cleanup:
    sy_token_writer_destroy(&writer);
    sy_sampler_destroy(&sampler);
    sy_free(&stream);
    sy_free(&tokens);
    return st;
}

/* ---- the trainer ---- */

static sy_status load_trainer(subject *s)
{
    sy_status st = SY_OK;
    sy_comm *world = s->spec.world;
    sy_trainer *t = NULL;
    char *yaml = NULL;
    SY_TRY(sy_trainer_create(
        &(sy_trainer_spec){.settings = &s->settings, .world = world, .threads = 1}, &s->trainer));
    t = s->trainer;
    SY_TRY(sy_config_echo(s->settings.config, &yaml));
    sy_state state = sy_trainer_state(t, yaml);
    SY_TRY(sy_checkpoint_load(s->checkpoint, &state, SY_LOAD_MODEL, t->engine->mesh->io));
    SY_TRY(sy_optimizer_sync_masters(t->opt, t->engine->compute_stream));
    SY_TRY(sy_stream_sync(t->engine->compute_stream));
cleanup:
    sy_free(&yaml);
    return st;
}

/* `out` is where the subject stays: engines keep pointers into it. */
sy_status subject_open(const subject_spec *spec, subject *out)
{
    sy_status st = SY_OK, mine = SY_OK;
    *out = (subject){.spec = *spec};
    snprintf(out->checkpoint, sizeof out->checkpoint, "%s/model.h5", spec->scratch);
    snprintf(out->tokens, sizeof out->tokens, "%s/tokens", spec->scratch);
    SY_TRY(import(out));
    if (spec->world->rank == 0) {
        mine = write_tokens(out);
    }
    SY_TRY(sy_agree(spec->world, mine));
    SY_TRY(load_trainer(out));
cleanup:
    if (st != SY_OK) {
        subject_close(out);
    }
    return st;
}

void subject_close(subject *s)
{
    sy_trainer_destroy(&s->trainer);
    sy_hf_map_free(&s->map);
    sy_run_settings_free(&s->settings);
    *s = (subject){0};
}

/* ---- logits ---- */

static sy_status walk_params(void *self, sy_emit *emit, void *to)
{
    return sy_params_walk(((sy_engine *)self)->params, "model", emit, to);
}

static sy_status load_engine(const subject *s, sy_engine **out)
{
    sy_status st = SY_OK;
    sy_engine_spec spec = {.settings = &s->settings,
                           .world = s->spec.world,
                           .use = SY_USE_EVAL,
                           .B = 1,
                           .S = s->settings.model->seq_len,
                           .threads = 1};
    SY_TRY(sy_engine_create(&spec, out));
    sy_owner owner = {.name = "model", .self = *out, .walk = walk_params};
    sy_state state = {.owners = &owner, .n_owners = 1, .kind = "model"};
    SY_TRY(sy_checkpoint_load(s->checkpoint, &state, SY_LOAD_MODEL, (*out)->mesh->io));
cleanup:
    return st;
}

/* The last token's logits of one prefix. */
static sy_status decode(sy_engine *e, const sy_batch *batch, sy_tensor *device, void *h_raw,
                        double *logits)
{
    sy_status st = SY_OK;
    sy_pass p;
    SY_TRY(sy_engine_begin(e, SY_PASS_EVAL, batch, 0, 0, &p));
    SY_TRY(sy_model_decode(e->model, &p, device));
    SY_TRY(sy_engine_end(e, &p));
    SY_TRY(sy_copy_d2h(e->compute_stream, h_raw, device->data, sy_tensor_bytes(device)));
    SY_TRY(sy_stream_sync(e->compute_stream));
    sy_convert(SY_F64, logits, device->dtype, h_raw, sy_tensor_numel(device));
cleanup:
    return st;
}

static sy_status decode_all(sy_engine *e, const double *tokens, int64_t n_seq, int64_t S,
                            double *logits)
{
    sy_status st = SY_OK;
    const int64_t V = e->settings->model->vocab_size;
    int32_t ids[64], pos[64];
    int64_t token_glb[64];
    void *data = NULL, *h_raw = NULL;
    sy_tensor device;
    SY_REQUIRE(S <= 64, SY_ERR_INTERNAL, "sequences of %ld tokens", (long)S);
    SY_TRY(sy_alloc(V, sizeof(double), &h_raw));
    SY_TRY(sy_device_alloc(e->dev, V * (int64_t)sy_dtype_bytes(e->wide), SY_MEM_OTHER, &data));
    device = sy_tensor_1d(data, e->wide, V);
    for (int64_t i = 0; i < n_seq * S; i++) {
        int64_t t = i % S;
        ids[t] = (int32_t)tokens[i / S * (S + 1) + t];
        pos[t] = (int32_t)t;
        token_glb[t] = t;
        sy_batch batch = {.B = 1,
                          .S = (int32_t)t + 1,
                          .ids = ids,
                          .targets = ids,
                          .pos = pos,
                          .token_glb = token_glb};
        SY_TRY(decode(e, &batch, &device, h_raw, logits + i * V));
    }
cleanup:
    sy_device_free(e->dev, &data);
    sy_free(&h_raw);
    return st;
}

sy_status subject_logits(const subject *s, double *logits)
{
    sy_status st = SY_OK;
    int64_t shape[3];
    double *tokens = fixture_read(s->spec.fixture, "tokens", shape);
    sy_engine *e = NULL;
    SY_TRY(load_engine(s, &e));
    SY_TRY(decode_all(e, tokens, shape[1], shape[2] - 1, logits));
cleanup:
    sy_engine_destroy(&e);
    sy_free(&tokens);
    return st;
}

/* ---- gradients ---- */

typedef struct collector {
    const subject *s;
    double **grad;
    int32_t n; /* tensors so far */
} collector;

/* What has no gradient, because its rule is another: zeros. */
static sy_status skip_biases(collector *c)
{
    sy_status st = SY_OK;
    const sy_hf_map *map = &c->s->map;
    while (c->n < map->n_our && strstr(map->our[c->n].name, "/moe/bias") != NULL) {
        SY_TRY(sy_alloc(map->our[c->n].shape[0], sizeof(double), (void **)&c->grad[c->n]));
        c->n++;
    }
cleanup:
    return st;
}

/* Parts of this rank into place; what others hold stays 0. */
static sy_status collect(void *to, const sy_field *field)
{
    sy_status st = SY_OK;
    collector *c = to;
    const sy_hf_tensor *our = NULL;
    int64_t n = 1;
    SY_TRY(skip_biases(c));
    our = &c->s->map.our[c->n < c->s->map.n_our ? c->n : 0];
    SY_REQUIRE(c->n < c->s->map.n_our && strcmp(field->name + strlen("grad/"), our->name) == 0,
               SY_ERR_INTERNAL, "the map has '%s' where the model has '%s'", our->name,
               field->name);
    for (int32_t d = 0; d < field->n_dim; d++) {
        n *= field->shape_glb[d];
    }
    SY_TRY(sy_alloc(n, sizeof(double), (void **)&c->grad[c->n]));
    for (int32_t i = 0; i < field->n_parts; i++) {
        const sy_part *part = &field->parts[i];
        if (part->write) {
            sy_convert(SY_F64, c->grad[c->n] + sy_box_offset(&part->box, field->shape_glb),
                       field->dtype, part->data, sy_box_numel(&part->box));
        }
    }
    SY_TRY(sy_host_all_reduce(c->s->spec.world, c->grad[c->n], n, SY_F64, SY_SUM, "gradient"));
    c->n++;
cleanup:
    return st;
}

sy_status subject_gradients(subject *s, double **grad, sy_step_result *step)
{
    sy_status st = SY_OK;
    sy_trainer *t = s->trainer;
    const sy_params *params = t->engine->params;
    collector c = {.s = s, .grad = grad};
    void *h_grad = NULL;
    SY_TRY(sy_trainer_gradients(t, false, step));
    SY_TRY(sy_digest_gradients(params, t->engine->compute_stream, &h_grad));
    SY_TRY(sy_params_walk_shard(params, "grad", params->wide, h_grad, false, collect, &c));
    SY_REQUIRE(c.n == s->map.n_our, SY_ERR_INTERNAL, "%d of %d tensors have a gradient", c.n,
               s->map.n_our);
cleanup:
    sy_free(&h_grad);
    return st;
}

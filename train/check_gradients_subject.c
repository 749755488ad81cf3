/* A trainer on the small batch: parameters at their initial values, the same batch again and again.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "moe/router.h"
#include "parallel/agree.h"
#include "train/check_gradients_impl.h"

enum { MAX_SET = 7, SET_TEXT = 64 };

static sy_status parse(const sy__subject_spec *spec, sy_run_settings *out)
{
    sy_status st = SY_OK;
    char text[MAX_SET][SET_TEXT];
    const char *set[MAX_SET];
    int32_t n = 0;
    snprintf(text[n++], SET_TEXT, "parallel.ep=%d", spec->ep);
    snprintf(text[n++], SET_TEXT, "model.seq_len=%d", spec->seq_len);
    snprintf(text[n++], SET_TEXT, "train.global_batch=%d", spec->sequences);
    snprintf(text[n++], SET_TEXT, "train.batch_ramp_from=0");
    snprintf(text[n++], SET_TEXT, "train.micro_batch=1");
    if (spec->on_ref) {
        snprintf(text[n++], SET_TEXT, "device.backend=ref");
        snprintf(text[n++], SET_TEXT, "device.precision=auto");
    }
    for (int32_t i = 0; i < n; i++) {
        set[i] = text[i];
    }
    SY_TRY(sy_run_settings_parse(spec->config_yaml, strlen(spec->config_yaml), "the configuration",
                                 set, n, out));
    /* That loss moves the predictors only, on purpose: no derivative of the whole is like it. */
    ((sy_model_config *)sy_config_edit(out->config, "model"))->depth_predictor_coeff = 0;
cleanup:
    return st;
}

/* Where the choices of experts are noted. */
static sy_status watch_choices(sy__subject *s)
{
    sy_status st = SY_OK;
    sy_engine *e = s->t->engine;
    const sy_moe_config *moe = s->settings.moe;
    const int64_t rounds = (s->settings.train->global_batch + e->mesh->group[SY_DP]->size - 1) /
                           e->mesh->group[SY_DP]->size;
    const int64_t n =
        rounds * sy_engine_blocks(e) * s->settings.model->seq_len * sy_router_slots(moe);
    SY_TRY(sy_alloc(n, sizeof *s->h_chosen, (void **)&s->h_chosen));
    SY_TRY(sy_alloc(n, sizeof *s->h_kept, (void **)&s->h_kept));
    SY_TRY(sy_device_alloc(e->dev, n * (int64_t)sizeof(int32_t), SY_MEM_OTHER, &s->chosen));
    SY_TRY(sy_device_alloc(e->dev, n, SY_MEM_OTHER, &s->kept));
    e->stats.chosen = sy_tensor_1d(s->chosen, SY_I32, n);
    e->stats.chosen_kept = sy_tensor_1d(s->kept, SY_U8, n);
cleanup:
    return st;
}

void sy__subject_close(sy__subject *s)
{
    if (s->t != NULL) {
        sy_device_free(s->t->engine->dev, &s->kept);
        sy_device_free(s->t->engine->dev, &s->chosen);
    }
    sy_free(&s->h_kept);
    sy_free(&s->h_chosen);
    sy_trainer_destroy(&s->t);
    sy_run_settings_free(&s->settings);
    *s = (sy__subject){0};
}

sy_status sy__subject_open(const sy__subject_spec *spec, sy__subject *s)
{
    sy_status st = SY_OK;
    const sy_gradient_check_spec *check = spec->check;
    SY_TRY(sy_agree(check->world, parse(spec, &s->settings)));
    SY_TRY(sy_trainer_create(&(sy_trainer_spec){.settings = &s->settings,
                                                .world = check->world,
                                                .threads = check->threads},
                             &s->t));
    if (s->settings.moe->experts > 0) {
        SY_TRY(sy_agree(check->world, watch_choices(s)));
    }
    if (check->plant != NULL && !spec->on_ref) {
        SY_TRY(check->plant(check->plant_self, s->t));
    }
cleanup:
    return st;
}

static sy_status zero_gradients(const sy_engine *e)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < e->params->n_segments; i++) {
        const sy_segment *g = &e->params->segment[i];
        if (g->grad != NULL) {
            SY_TRY(sy_zero(e->compute_stream, g->grad,
                           g->grad_n * (int64_t)sy_dtype_bytes(e->params->wide)));
        }
    }
cleanup:
    return st;
}

sy_status sy__subject_evaluate(sy__subject *s)
{
    sy_status st = SY_OK;
    sy_engine *e = s->t->engine;
    const sy_moe_config *moe = s->settings.moe;
    sy_step_result r;
    SY_TRY(zero_gradients(e));
    SY_TRY(sy_trainer_gradients(s->t, false, &r));
    s->loss = r.loss + s->settings.model->output_z_loss_coeff * r.output_z;
    s->loss += sy_step_mtp_loss(s->settings.model, &r);
    for (int32_t i = 0; i < sy_engine_blocks(e) && moe->experts > 0; i++) {
        s->loss += moe->aux_loss_coeff * r.sums[i * SY_N_SUMS + SY_SUM_AUX] +
                   moe->z_loss_coeff * r.sums[i * SY_N_SUMS + SY_SUM_Z] +
                   r.sums[i * SY_N_SUMS + SY_SUM_ROUTER];
    }
    SY_TRY(sy_copy_d2h(e->compute_stream, s->h_chosen, s->chosen,
                       e->stats.n_chosen * (int64_t)sizeof *s->h_chosen));
    SY_TRY(sy_copy_d2h(e->compute_stream, s->h_kept, s->kept, e->stats.n_chosen));
    SY_TRY(sy_stream_sync(e->compute_stream));
    SY_REQUIRE(isfinite(s->loss), SY_ERR_NUMERIC, "check gradients: the loss is not finite");
    s->n_evaluations++;
cleanup:
    return st;
}

sy_status sy__subject_compare_choices(const sy__subject *s, const int32_t *chosen,
                                      const uint8_t *kept, int64_t *out)
{
    const sy_engine *e = s->t->engine;
    *out = 0;
    for (int64_t i = 0; i < e->stats.n_chosen; i++) {
        *out += s->h_chosen[i] != chosen[i] || s->h_kept[i] != kept[i];
    }
    return sy_host_all_reduce(e->mesh->host, out, 1, SY_I64, SY_SUM, "choices");
}

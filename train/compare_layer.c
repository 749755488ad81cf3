#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "moe/adapters.h"
#include "parallel/agree.h"
#include "train/compare_impl.h"

/* Parameters at a time: attention, and a slice of experts; the MLP and the head have less. */
static const int64_t most_bytes = (int64_t)640 << 20, least_slice_bytes = (int64_t)128 << 20;
static const int64_t dense_slice_bytes = (int64_t)64 << 20;

enum {
    V_LEAST = 512,    /* tokenizers ask for some */
    LOGIT_BYTES = 32, /* of a logit: on the device, and copies on the host */
    F_MULTIPLE = 16,
    MAX_SET = 24,
    SET_BYTES = 64
};

/* ---- the engine ---- */

typedef struct overrides {
    char text[MAX_SET][SET_BYTES];
    const char *list[MAX_SET];
    int32_t n;
} overrides;

static void set(overrides *o, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void set(overrides *o, const char *key, const char *format, ...)
{
    char value[SET_BYTES / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(value, sizeof value, format, args);
    va_end(args);
    snprintf(o->text[o->n], SET_BYTES, "%s=%s", key, value);
    o->list[o->n] = o->text[o->n];
    o->n++;
}

/* Rows of a slice: all, or as many as the bytes hold. */
static int64_t slice_of(int64_t all, int64_t bytes_each, int64_t bytes)
{
    const int64_t n = (all * bytes_each + bytes - 1) / bytes;
    const int64_t each = n > 1 ? (all + n - 1) / n : all;
    const int64_t rounded = (each + F_MULTIPLE - 1) / F_MULTIPLE * F_MULTIPLE;
    return rounded < all ? rounded : all;
}

static int64_t compute_bytes(const char *precision)
{
    return strcmp(precision, "bf16") == 0 ? 2 : strcmp(precision, "fp32") == 0 ? 4 : 8;
}

/* What attention leaves. */
static int64_t expert_slice_bytes(const sy_compare_spec *spec)
{
    const sy_model_config *m = spec->now.settings->model;
    const int64_t rows = 2 * (int64_t)m->head_dim * (m->heads + m->kv_heads);
    const int64_t left = most_bytes - rows * m->hidden * compute_bytes(spec->precision);
    return spec->slice_bytes > 0      ? spec->slice_bytes
           : left > least_slice_bytes ? left
                                      : least_slice_bytes;
}

/* F of a slice of all experts of this rank. */
static int64_t expert_slice(const sy_compare_spec *spec)
{
    const sy_run_settings *s = spec->now.settings;
    const int64_t E_loc = s->moe->experts / s->parallel->ep;
    if (sy_moe_has_adapters(s->moe)) { /* what they do to the MLP's output is no sum of slices */
        return s->moe->expert_hidden;
    }
    return slice_of(s->moe->expert_hidden,
                    3 * s->model->hidden * compute_bytes(spec->precision) * E_loc,
                    expert_slice_bytes(spec));
}

static int64_t least_vocabulary(const sy_model_config *model)
{
    return model->vocab_size < V_LEAST ? model->vocab_size : V_LEAST;
}

static void cut_dense(const sy_compare_spec *spec, sy__layer *l, overrides *o)
{
    const sy_model_config *model = spec->now.settings->model;
    const sy_moe_config *moe = spec->now.settings->moe;
    const int64_t H = model->hidden, bytes = compute_bytes(spec->precision);
    const int64_t most = spec->slice_bytes > 0 && spec->slice_bytes < dense_slice_bytes
                             ? spec->slice_bytes
                             : dense_slice_bytes;
    l->F = model->ffn_hidden;
    l->F_slice = slice_of(l->F, 3 * H * bytes, most);
    if (moe->experts > 0 && moe->expert_hidden == l->F) { /* a copy is rounded like its source */
        l->F_slice = expert_slice(spec);
    }
    l->V_slice = slice_of(model->vocab_size, H * bytes + l->T * LOGIT_BYTES, most);
    l->V_slice = l->V_slice > V_LEAST ? l->V_slice : least_vocabulary(model);
    set(o, "model.ffn_hidden", "%ld", (long)l->F_slice);
    set(o, "model.vocab_size", "%ld", (long)l->V_slice);
    set(o, "moe.experts", "0");
    set(o, "parallel.ep", "1");
}

static void cut_moe(const sy_compare_spec *spec, sy__layer *l, overrides *o)
{
    const sy_run_settings *s = spec->now.settings;
    const bool shared = s->moe->shared_experts > 0;
    l->F = s->moe->expert_hidden;
    l->F_slice = expert_slice(spec);
    l->n_slices = (int32_t)((l->F + l->F_slice - 1) / l->F_slice);
    l->F_shared = shared ? s->moe->shared_hidden : 0;
    l->F_shared_slice = (l->F_shared + l->n_slices - 1) / l->n_slices;
    l->V_slice = least_vocabulary(s->model);
    set(o, "moe.expert_hidden", "%ld", (long)l->F_slice);
    if (shared) {
        set(o, "moe.shared_hidden", "%ld", (long)l->F_shared_slice);
    }
    set(o, "model.vocab_size", "%ld", (long)l->V_slice);
    set(o, "model.heads", "1");
    set(o, "model.kv_heads", "1");
    set(o, "model.head_dim", "2");
    set(o, "model.kv_lora_rank", "0");
    set(o, "model.q_lora_rank", "0");
    set(o, "model.qk_nope_head_dim", "0");
    set(o, "model.qk_rope_head_dim", "0");
    set(o, "model.v_head_dim", "0");
    set(o, "model.qk_norm", "none");
    set(o, "model.attention_bias", "false");
    set(o, "parallel.ep", "%d", s->parallel->ep);
}

static sy_status configure(const sy_compare_spec *spec, bool moe, sy__layer *l)
{
    sy_status st = SY_OK;
    overrides o = {.n = 0};
    char *yaml = NULL;
    l->T = (int64_t)spec->n_sequences * spec->S;
    l->H = spec->now.settings->model->hidden;
    if (moe) {
        cut_moe(spec, l, &o);
    } else {
        cut_dense(spec, l, &o);
    }
    l->n_slices = (int32_t)((l->F + l->F_slice - 1) / l->F_slice);
    set(&o, "model.layers", "1");
    set(&o, "model.mtp_layers", "0");
    set(&o, "train.mtp_phases", "null");
    set(&o, "model.tie_embeddings", "true");
    set(&o, "moe.layers", "all");
    set(&o, "model.depth_capacity", "null"); /* who comes to a layer is not looked at */
    set(&o, "model.depth_layers", "all");
    set(&o, "train.freeze", "null");
    set(&o, "device.precision", "%s", spec->precision);
    SY_TRY(sy_config_echo(spec->now.settings->config, &yaml));
    SY_TRY(sy_run_settings_parse(yaml, strlen(yaml), "one layer", o.list, o.n, &l->settings));
    SY_TRY(sy_alloc(SY_PULL_BYTES, 1, &l->h_buf));
    SY_TRY(sy_alloc(l->T * (l->H > l->V_slice ? l->H : l->V_slice), sizeof(double), &l->h_raw));
cleanup:
    sy_free(&yaml);
    return st;
}

sy_status sy__layer_create(const sy_compare_spec *spec, bool moe, sy__layer *out)
{
    sy_status st = SY_OK;
    SY_TRY(sy_agree(spec->world, configure(spec, moe, out)));
    SY_TRY(sy_engine_create(&(sy_engine_spec){.settings = &out->settings,
                                              .world = spec->world,
                                              .use = SY_USE_EVAL,
                                              .B = spec->n_sequences,
                                              .S = spec->S,
                                              .threads = spec->threads},
                            &out->engine));
cleanup:
    return st;
}

void sy__layer_free(sy__layer *l)
{
    sy_engine_destroy(&l->engine);
    sy_run_settings_free(&l->settings);
    sy_free(&l->h_raw);
    sy_free(&l->h_buf);
}

/* ---- filling ---- */

/* Where a field of the one layer stands in the model: a block of rows or columns of a tensor, of
   every expert. */
typedef struct place {
    char name[SY_PARAM_NAME];
    int64_t rows, columns, all_rows, all_columns, first_row, first_column;
} place;

typedef struct filler {
    sy__layer *layer;
    const sy_compare_model *model;
    sy__stop stop;
    int32_t index, slice;
} filler;

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* rest: of the name behind "layers/000/"; NULL: it is outside the layers. */
static bool belongs(sy__stop stop, const char *rest)
{
    return stop == SY__STOP_HEAD        ? rest == NULL
           : rest == NULL               ? false
           : stop == SY__STOP_ATTENTION ? begins(rest, "attn")
                                        : !begins(rest, "attn");
}

/* The width that is sliced: 0 of a field that is taken whole. */
static int64_t full_width(const sy__layer *l, const char *rest)
{
    if (l->F_slice == l->F) { /* all of it */
        return 0;
    }
    if (begins(rest, "moe/shared/") && strcmp(rest, "moe/shared/router") != 0) {
        return l->F_shared;
    }
    return begins(rest, "mlp/") || begins(rest, "moe/experts/") ? l->F : 0;
}

static void slice_width(const filler *f, const char *rest, place *at)
{
    const int64_t full = full_width(f->layer, rest);
    const char *last = strrchr(rest, '/');
    if (full > 0 && strcmp(last, "/down") == 0) {
        at->all_columns = full;
        at->first_column = f->slice * at->columns;
    } else if (full > 0) {
        at->all_rows = full;
        at->first_row = f->slice * at->rows;
    }
}

/* False: this stop has no need of the field. */
static bool find_place(const filler *f, const sy_field *field, place *at)
{
    static const char prefix[] = "layers/000/";
    const char *name = field->name + strlen("model/");
    const char *rest = begins(name, prefix) ? name + sizeof prefix - 1 : NULL;
    const sy_model_config *model = f->model->settings->model;
    *at = (place){.rows = field->n_dim > 1 ? field->shape_glb[field->n_dim - 2] : 1,
                  .columns = field->shape_glb[field->n_dim - 1]};
    at->all_rows = at->rows;
    at->all_columns = at->columns;
    if (!belongs(f->stop, rest)) {
        return false;
    }
    if (rest != NULL) {
        snprintf(at->name, sizeof at->name, "layers/%03d/%s", f->index, rest);
        slice_width(f, rest, at);
    } else if (strcmp(name, "embed") == 0) {
        snprintf(at->name, sizeof at->name, "%s", model->tie_embeddings ? "embed" : "head");
        at->all_rows = model->vocab_size;
        at->first_row = f->slice * at->rows;
    } else {
        snprintf(at->name, sizeof at->name, "%s", name);
    }
    return true;
}

/* From element `at` of the field on, at most n: as many as follow each other in the model too, and
   where there; -1: beyond its end, zeros. */
static int64_t run_at(const place *p, int64_t at, int64_t n, int64_t *from)
{
    const int64_t block = p->rows * p->columns, lead = at / block;
    const int64_t row = at % block / p->columns, column = at % p->columns;
    const int64_t there_row = p->first_row + row, there_column = p->first_column + column;
    int64_t run = p->all_columns == p->columns ? block - at % block : p->columns - column;
    *from = (lead * p->all_rows + there_row) * p->all_columns + there_column;
    if (there_row >= p->all_rows || there_column >= p->all_columns) {
        *from = -1;
    } else if (p->all_columns == p->columns) {
        const int64_t left = (p->all_rows - there_row) * p->columns - column;
        run = run < left ? run : left;
    } else {
        run = run < p->all_columns - there_column ? run : p->all_columns - there_column;
    }
    return run < n ? run : n;
}

/* Elements [first, first + n) of the field, into host memory. */
static sy_status read_part(const filler *f, const place *p, sy_dtype dtype, int64_t first,
                           int64_t n, char *h_to)
{
    sy_status st = SY_OK;
    const int64_t bytes = (int64_t)sy_dtype_bytes(dtype);
    for (int64_t done = 0, m = 0; done < n; done += m) {
        int64_t from = 0;
        m = run_at(p, first + done, n - done, &from);
        if (from >= 0) {
            SY_TRY(f->model->read(f->model->self, p->name, from, m, dtype, h_to + done * bytes));
        } else {
            memset(h_to + done * bytes, 0, (size_t)(m * bytes));
        }
    }
cleanup:
    return st;
}

/* Right to where it belongs, if the host may write there. */
static sy_status fill_part(filler *f, const sy_field *field, const place *p, const sy_part *part)
{
    sy_status st = SY_OK;
    sy_stream *stream = f->layer->engine->compute_stream;
    const int64_t bytes = (int64_t)sy_dtype_bytes(field->dtype), room = SY_PULL_BYTES / bytes;
    const int64_t first = sy_box_offset(&part->box, field->shape_glb);
    const int64_t n = sy_box_numel(&part->box);
    if (sy_device_host_view(field->dev, part->data) == part->data) {
        return read_part(f, p, field->dtype, first, n, part->data);
    }
    for (int64_t done = 0, m = 0; done < n; done += m) {
        m = n - done < room ? n - done : room;
        SY_TRY(read_part(f, p, field->dtype, first + done, m, f->layer->h_buf));
        SY_TRY(sy_copy_h2d(stream, (char *)part->data + done * bytes, f->layer->h_buf, m * bytes));
        SY_TRY(sy_stream_sync(stream));
    }
cleanup:
    return st;
}

static sy_status fill_field(void *to, const sy_field *field)
{
    sy_status st = SY_OK;
    filler *f = to;
    place at;
    if (!find_place(f, field, &at)) {
        return SY_OK;
    }
    for (int32_t i = 0; i < field->n_parts; i++) {
        SY_TRY(fill_part(f, field, &at, &field->parts[i]));
    }
cleanup:
    return st;
}

sy_status sy__layer_fill(sy__layer *l, const sy_compare_model *model, sy__stop stop, int32_t index,
                         int32_t slice)
{
    filler f = {.layer = l, .model = model, .stop = stop, .index = index, .slice = slice};
    return sy_params_walk(l->engine->params, "model", fill_field, &f);
}

/* ---- running ---- */

static sy_status upload(sy__layer *l, const double *h_x, const sy_tensor *x)
{
    sy_status st = SY_OK;
    sy_stream *stream = l->engine->compute_stream;
    sy_convert(x->dtype, l->h_raw, SY_F64, h_x, sy_tensor_numel(x));
    SY_TRY(sy_copy_h2d(stream, x->data, l->h_raw, sy_tensor_bytes(x)));
    SY_TRY(sy_stream_sync(stream));
cleanup:
    return st;
}

static sy_status download(sy__layer *l, const sy_tensor *y, double *h_y)
{
    sy_status st = SY_OK;
    sy_stream *stream = l->engine->compute_stream;
    SY_TRY(sy_copy_d2h(stream, l->h_raw, y->data, sy_tensor_bytes(y)));
    SY_TRY(sy_stream_sync(stream));
    sy_convert(SY_F64, h_y, y->dtype, l->h_raw, sy_tensor_numel(y));
cleanup:
    return st;
}

/* y = stop(normed). */
static sy_status forward(const sy__layer *l, sy__stop stop, sy_pass *p, const sy_tensor *normed,
                         sy_tensor *y)
{
    sy_model *model = l->engine->model;
    const sy_sublayer *sub =
        stop == SY__STOP_ATTENTION ? &model->block[0].attn : &model->block[0].ffn;
    if (stop != SY__STOP_HEAD) {
        return sub->ops->forward(sub->self, p, normed, y, NULL);
    }
    return sy_gemm(p->stream, &(sy_gemm_args){.a = *normed,
                                              .b = model->head->value,
                                              .c = *y,
                                              .trans_b = true,
                                              .alpha = 1 / model->config->logits_scaling});
}

sy_status sy__layer_run(sy__layer *l, sy__stop stop, const sy_batch *batch, const double *h_x,
                        double *h_y)
{
    sy_status st = SY_OK;
    sy_engine *e = l->engine;
    const sy_block *block = &e->model->block[0];
    const sy_param *norm = stop == SY__STOP_ATTENTION ? block->attn_norm
                           : stop == SY__STOP_FFN     ? block->ffn_norm
                                                      : e->model->norm;
    const bool head = stop == SY__STOP_HEAD;
    sy_pass p;
    sy_tensor x, normed, rstd, y;
    SY_TRY(sy_engine_begin(e, SY_PASS_EVAL, batch, 0, 0, &p));
    SY_TRY(sy_arena_2d(p.scratch, p.compute, l->T, l->H, &x));
    SY_TRY(sy_arena_2d(p.scratch, p.compute, l->T, l->H, &normed));
    SY_TRY(sy_arena_2d(p.scratch, p.wide, l->T, 1, &rstd));
    SY_TRY(sy_arena_2d(p.scratch, head ? p.wide : p.compute, l->T, head ? l->V_slice : l->H, &y));
    SY_TRY(upload(l, h_x, &x));
    SY_TRY(sy_rmsnorm(p.stream, &(sy_rmsnorm_args){.x = sy_tensor_heads(&x, 1),
                                                   .w = norm->value,
                                                   .y = sy_tensor_heads(&normed, 1),
                                                   .rstd = rstd,
                                                   .eps = e->settings->model->norm_eps}));
    SY_TRY(forward(l, stop, &p, &normed, &y));
    SY_TRY(sy_engine_end(e, &p));
    SY_TRY(download(l, &y, h_y));
cleanup:
    return st;
}

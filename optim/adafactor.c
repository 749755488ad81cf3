#include "optim/adafactor_impl.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"

/* B matrices [rows, columns], one behind the other in the segment: the experts of a parameter, its
   pieces where these are alike, or one piece. Where the second moment is not factored, they are
   seen as of one row. row_at, column_at: place of their sums; matrix_at: of what each matrix sums
   up. */
typedef struct unit {
    const sy_param *param;
    int32_t piece; /* -1: all of them */
    bool factored;
    int64_t offset, B, rows, columns;
    int64_t row_at, column_at, matrix_at;
} unit;

/* What of a unit is in one of this rank's ranges: elements first .. first+n-1. */
typedef struct part {
    const unit *of;
    int64_t first, n, offset, shard_offset; /* offset in the segment */
    void *grad;
} part;

/* Sums of the units of one group of replicas. */
typedef struct family {
    sy_group replicas;
    int64_t stats_from, stats_end, matrices_from, matrices_end;
} family;

struct sy_factored_moments {
    sy_params *params;
    const sy_adafactor_config *config;
    unit *unit;
    part *part;
    int32_t n_units, n_parts, n_families;
    family family[SY_N_GROUPS];
    int64_t n_stats, n_matrices;
    void *stat;        /* [n_stats] wide: the moments */
    double *sum;       /* [n_stats] of this step */
    double *total;     /* [n_matrices] sums of the rows' moments, */
    double *of_value;  /* squares of the masters, */
    double *of_update; /* and of the updates */
};

/* ---- units ---- */

static int32_t n_pieces(const sy_param *p)
{
    return p->spec.n_pieces > 0 ? p->spec.n_pieces : 1;
}

static bool pieces_alike(const sy_param *p)
{
    for (int32_t i = 1; i < p->spec.n_pieces; i++) {
        if (p->spec.piece[i].extent != p->spec.piece[0].extent) {
            return false;
        }
    }
    return true;
}

static sy_status add_unit(sy__adafactor *a, const sy_param *p, int32_t piece, int64_t offset,
                          int64_t B, int64_t rows, int64_t columns)
{
    sy_status st = SY_OK;
    unit *u = NULL;
    SY_TRY(sy_realloc(a->n_units + 1, sizeof *a->unit, (void **)&a->unit));
    u = &a->unit[a->n_units++];
    *u = (unit){.param = p, .piece = piece, .offset = offset, .B = B};
    u->factored = sy_adafactor_factors(a->config, p->spec.n_dim, rows, columns);
    u->rows = u->factored ? rows : 1;
    u->columns = u->factored ? columns : rows * columns;
    u->row_at = a->n_stats;
    u->column_at = u->row_at + B * u->rows;
    u->matrix_at = a->n_matrices;
    a->n_stats = u->column_at + B * u->columns;
    a->n_matrices += B;
cleanup:
    return st;
}

static sy_status add_param(sy__adafactor *a, const sy_param *p)
{
    sy_status st = SY_OK;
    const sy_param_spec *s = &p->spec;
    const bool vector = s->n_dim == 1;
    const int64_t *shape = p->box.shape;
    const int64_t columns = vector ? 1 : shape[s->n_dim - 1];
    const int64_t rows = shape[vector ? 0 : s->n_dim - 2], B = s->n_dim == 3 ? shape[0] : 1;
    int64_t offset = p->offset;
    SY_REQUIRE(s->n_dim <= 3 && (s->n_pieces == 0 || s->piece_dim == (vector ? 0 : s->n_dim - 2)),
               SY_ERR_INTERNAL, "adafactor: parameter '%s' is no list of matrices", s->name);
    if (pieces_alike(p)) {
        const int32_t n = n_pieces(p);
        SY_TRY(add_unit(a, p, -1, offset, B * n, rows / n, columns));
        goto cleanup;
    }
    SY_REQUIRE(B == 1, SY_ERR_INTERNAL, "adafactor: experts of '%s' have unlike pieces", s->name);
    for (int32_t k = 0; k < s->n_pieces; k++) {
        SY_TRY(add_unit(a, p, k, offset, 1, s->piece[k].extent, columns));
        offset += s->piece[k].extent * columns;
    }
cleanup:
    return st;
}

/* All units of one group of replicas, so that one call can add up their sums. */
static sy_status add_family(sy__adafactor *a, sy_group replicas)
{
    sy_status st = SY_OK;
    family f = {.replicas = replicas, .stats_from = a->n_stats, .matrices_from = a->n_matrices};
    for (int32_t i = 0; i < a->params->n; i++) {
        const sy_param *p = a->params->param[i];
        if (p->spec.trainable && p->spec.replicas == replicas) {
            SY_TRY(add_param(a, p));
        }
    }
    f.stats_end = a->n_stats;
    f.matrices_end = a->n_matrices;
    if (f.stats_end > f.stats_from) {
        a->family[a->n_families++] = f;
    }
cleanup:
    return st;
}

static sy_status add_parts(sy__adafactor *a, const unit *u)
{
    sy_status st = SY_OK;
    const int64_t end = u->offset + u->B * u->rows * u->columns;
    const int64_t bytes = (int64_t)sy_dtype_bytes(a->params->wide);
    for (int32_t i = 0; i < a->params->n_ranges; i++) {
        const sy_range *r = &a->params->range[i];
        const int64_t from = r->offset > u->offset ? r->offset : u->offset;
        const int64_t to = r->offset + r->n < end ? r->offset + r->n : end;
        if (r->segment == u->param->segment && from < to) {
            SY_TRY(sy_realloc(a->n_parts + 1, sizeof *a->part, (void **)&a->part));
            a->part[a->n_parts++] = (part){.of = u,
                                           .first = from - u->offset,
                                           .n = to - from,
                                           .offset = from,
                                           .shard_offset = r->shard_offset + from - r->offset,
                                           .grad = (char *)r->grad + (from - r->offset) * bytes};
        }
    }
cleanup:
    return st;
}

static sy_status allocate(sy__adafactor *a)
{
    sy_status st = SY_OK;
    sy_device *dev = a->params->dev;
    const int64_t stats = a->n_stats, matrices = a->n_matrices * (int64_t)sizeof(double);
    SY_TRY(sy_device_alloc(dev, stats * (int64_t)sy_dtype_bytes(a->params->wide), SY_MEM_OPTIM,
                           &a->stat));
    SY_TRY(sy_device_alloc(dev, stats * (int64_t)sizeof(double), SY_MEM_OPTIM, (void **)&a->sum));
    SY_TRY(sy_device_alloc(dev, matrices, SY_MEM_OPTIM, (void **)&a->total));
    SY_TRY(sy_device_alloc(dev, matrices, SY_MEM_OPTIM, (void **)&a->of_value));
    SY_TRY(sy_device_alloc(dev, matrices, SY_MEM_OPTIM, (void **)&a->of_update));
cleanup:
    return st;
}

sy_status sy__adafactor_create(const sy_adafactor_config *config, sy_params *params,
                               sy__adafactor **out)
{
    sy_status st = SY_OK;
    sy__adafactor *a = NULL;
    SY_TRY(sy_alloc(1, sizeof *a, (void **)&a));
    a->params = params;
    a->config = config;
    for (int32_t g = 0; g < SY_N_GROUPS; g++) {
        SY_TRY(add_family(a, (sy_group)g));
    }
    for (int32_t i = 0; i < a->n_units; i++) {
        SY_TRY(add_parts(a, &a->unit[i]));
    }
    SY_TRY(allocate(a));
    *out = a;
    a = NULL;
cleanup:
    sy__adafactor_destroy(&a);
    return st;
}

void sy__adafactor_destroy(sy__adafactor **adafactor)
{
    sy__adafactor *a = *adafactor;
    if (a == NULL) {
        return;
    }
    sy_device_free(a->params->dev, (void **)&a->of_update);
    sy_device_free(a->params->dev, (void **)&a->of_value);
    sy_device_free(a->params->dev, (void **)&a->total);
    sy_device_free(a->params->dev, (void **)&a->sum);
    sy_device_free(a->params->dev, &a->stat);
    sy_free(&a->part);
    sy_free(&a->unit);
    sy_free(adafactor);
}

sy_status sy__adafactor_reset(sy__adafactor *a, sy_stream *stream)
{
    return sy_zero(stream, a->stat, a->n_stats * (int64_t)sy_dtype_bytes(a->params->wide));
}

/* ---- a step ---- */

static sy_tensor at(void *base, sy_dtype dtype, int64_t from, int64_t n)
{
    return sy_tensor_1d((char *)base + from * (int64_t)sy_dtype_bytes(dtype), dtype, n);
}

static sy_tensor row_of(const sy__adafactor *a, const unit *u, bool sums)
{
    return sums ? at(a->sum, SY_F64, u->row_at, u->B * u->rows)
                : at(a->stat, a->params->wide, u->row_at, u->B * u->rows);
}

static sy_tensor column_of(const sy__adafactor *a, const unit *u, bool sums)
{
    return sums ? at(a->sum, SY_F64, u->column_at, u->B * u->columns)
                : at(a->stat, a->params->wide, u->column_at, u->B * u->columns);
}

static sy_tensor matrices_of(const unit *u, double *base)
{
    return at(base, SY_F64, u->matrix_at, u->B);
}

static sy_factored shape_of(const part *p)
{
    return (sy_factored){.rows = p->of->rows, .columns = p->of->columns, .first = p->first};
}

static sy_tensor grad_of(const sy__adafactor *a, const part *p)
{
    return sy_tensor_1d(p->grad, a->params->wide, p->n);
}

/* A wide segment is its own master. */
static sy_tensor master_of(const sy__adafactor *a, const sy__adafactor_step *step, const part *p)
{
    const sy_segment *seg = &a->params->segment[p->of->param->segment];
    return seg->dtype == a->params->wide ? at(seg->value, seg->dtype, p->offset, p->n)
                                         : at(step->master, a->params->wide, p->shard_offset, p->n);
}

/* Sums over parts that other ranks have. */
static sy_status meet(const sy__adafactor *a, const family *f, double *base, int64_t from,
                      int64_t end, sy_stream *stream)
{
    sy_comm *comm = a->params->mesh->group[f->replicas];
    if (a->params->zero == 0 || comm->size == 1) {
        return SY_OK;
    }
    return sy_all_reduce(comm, &(sy_comm_args){.stream = stream,
                                               .send = base + from,
                                               .recv = base + from,
                                               .n = end - from,
                                               .dtype = SY_F64,
                                               .reduce = SY_SUM,
                                               .what = "adafactor sums",
                                               .layer = -1});
}

static sy_status take_sums(sy__adafactor *a, const sy__adafactor_step *step)
{
    sy_status st = SY_OK;
    SY_TRY(sy_zero(step->stream, a->sum, a->n_stats * (int64_t)sizeof(double)));
    SY_TRY(sy_zero(step->stream, a->of_value, a->n_matrices * (int64_t)sizeof(double)));
    for (int32_t i = 0; i < a->n_parts; i++) {
        const part *p = &a->part[i];
        SY_TRY(sy_adafactor_sums(
            step->stream, &(sy_adafactor_sums_args){.grad = grad_of(a, p),
                                                    .master = master_of(a, step, p),
                                                    .ctl = step->ctl,
                                                    .row_sum = row_of(a, p->of, true),
                                                    .column_sum = column_of(a, p->of, true),
                                                    .squares = matrices_of(p->of, a->of_value),
                                                    .shape = shape_of(p),
                                                    .eps1 = step->config->eps1}));
    }
    for (int32_t i = 0; i < a->n_families; i++) {
        const family *f = &a->family[i];
        SY_TRY(meet(a, f, a->sum, f->stats_from, f->stats_end, step->stream));
        SY_TRY(meet(a, f, a->of_value, f->matrices_from, f->matrices_end, step->stream));
    }
cleanup:
    return st;
}

static sy_status take_squares(sy__adafactor *a, const sy__adafactor_step *step)
{
    sy_status st = SY_OK;
    SY_TRY(sy_zero(step->stream, a->of_update, a->n_matrices * (int64_t)sizeof(double)));
    for (int32_t i = 0; i < a->n_parts; i++) {
        const part *p = &a->part[i];
        SY_TRY(sy_adafactor_squares(
            step->stream, &(sy_adafactor_squares_args){.grad = grad_of(a, p),
                                                       .ctl = step->ctl,
                                                       .row = row_of(a, p->of, false),
                                                       .column = column_of(a, p->of, false),
                                                       .total = matrices_of(p->of, a->total),
                                                       .squares = matrices_of(p->of, a->of_update),
                                                       .shape = shape_of(p)}));
    }
    for (int32_t i = 0; i < a->n_families; i++) {
        const family *f = &a->family[i];
        SY_TRY(meet(a, f, a->of_update, f->matrices_from, f->matrices_end, step->stream));
    }
cleanup:
    return st;
}

static sy_status update(sy__adafactor *a, const sy__adafactor_step *step, const part *p)
{
    const sy_segment *seg = &a->params->segment[p->of->param->segment];
    const sy_dtype wide = a->params->wide;
    const sy_tensor none = sy_tensor_none();
    return sy_adafactor(
        step->stream,
        &(sy_adafactor_args){
            .master = master_of(a, step, p),
            .m = step->m != NULL ? at(step->m, wide, p->shard_offset, p->n) : none,
            .grad = grad_of(a, p),
            .param = seg->dtype == wide ? none : at(seg->value, seg->dtype, p->offset, p->n),
            .ctl = step->ctl,
            .row = row_of(a, p->of, false),
            .column = column_of(a, p->of, false),
            .total = matrices_of(p->of, a->total),
            .param_squares = matrices_of(p->of, a->of_value),
            .update_squares = matrices_of(p->of, a->of_update),
            .shape = shape_of(p),
            .beta1 = step->config->momentum,
            .clip = step->config->clip_threshold,
            .eps2 = step->config->eps2,
            .decay = seg->decay ? step->weight_decay : 0,
            .scale_parameter = step->config->scale_parameter});
}

sy_status sy__adafactor_step_all(sy__adafactor *a, const sy__adafactor_step *step)
{
    sy_status st = SY_OK;
    SY_TRY(take_sums(a, step));
    for (int32_t i = 0; i < a->n_units; i++) {
        const unit *u = &a->unit[i];
        SY_TRY(sy_adafactor_moments(
            step->stream, &(sy_adafactor_moments_args){.row_sum = row_of(a, u, true),
                                                       .column_sum = column_of(a, u, true),
                                                       .ctl = step->ctl,
                                                       .row = row_of(a, u, false),
                                                       .column = column_of(a, u, false),
                                                       .total = matrices_of(u, a->total)}));
    }
    SY_TRY(take_squares(a, step));
    for (int32_t i = 0; i < a->n_parts; i++) {
        SY_TRY(update(a, step, &a->part[i]));
    }
cleanup:
    return st;
}

/* ---- state ---- */

typedef struct walk {
    sy__adafactor *a;
    sy_emit *emit;
    void *to;
} walk;

/* The sums of one piece: of every matrix here `n` numbers at `from` and on, `step` apart. shape
   [n_dim] is that of the whole, its first dimension the experts where there are some. */
static sy_status emit_field(const walk *w, const unit *u, const char *tree, const char *piece,
                            sy_field *field, int64_t from, int64_t n, int64_t step)
{
    sy_status st = SY_OK;
    const sy_param *p = u->param;
    const sy_comm *replicas = w->a->params->mesh->group[p->spec.replicas];
    const bool experts = p->spec.n_dim == 3;
    const int64_t count = experts ? p->box.shape[0] : 1;
    const int64_t bytes = (int64_t)sy_dtype_bytes(w->a->params->wide);
    char name[2 * SY_PARAM_NAME];
    sy_part *list = NULL;
    SY_TRY(sy_alloc(count, sizeof *list, (void **)&list));
    for (int64_t i = 0; i < count; i++) {
        sy_box *box = &list[i].box;
        box->n_dim = field->n_dim;
        memcpy(box->shape, field->shape_glb, sizeof box->shape);
        if (experts) {
            box->start[0] = p->box.start[0] + i;
            box->shape[0] = 1;
        }
        list[i].data = (char *)w->a->stat + (from + i * step) * bytes;
        list[i].write = p->index % replicas->size == replicas->rank;
        SY_REQUIRE(sy_box_numel(box) == n, SY_ERR_INTERNAL, "adafactor: sums of '%s'", piece);
    }
    snprintf(name, sizeof name, "optim/%s/%s", tree, piece);
    field->name = name;
    field->dtype = w->a->params->wide;
    field->dev = w->a->params->dev;
    field->parts = list;
    field->n_parts = (int32_t)count;
    SY_TRY(w->emit(w->to, field));
cleanup:
    sy_free(&list);
    return st;
}

/* The shape of a piece without one of its dimensions (-1: with all). */
static sy_field without(const sy_param *p, int32_t piece, int32_t dim)
{
    sy_field f = {0};
    for (int32_t d = 0; d < p->spec.n_dim; d++) {
        const bool cut = p->spec.n_pieces > 0 && d == p->spec.piece_dim;
        if (d != dim) {
            f.shape_glb[f.n_dim++] = cut ? p->spec.piece[piece].extent : p->spec.shape_glb[d];
        }
    }
    return f;
}

static sy_status emit_piece(const walk *w, const unit *u, int32_t piece)
{
    sy_status st = SY_OK;
    const sy_param_spec *s = &u->param->spec;
    const char *name = s->n_pieces > 0 ? s->piece[piece].name : s->name;
    const int64_t k = u->piece < 0 ? piece : 0, per = u->piece < 0 ? n_pieces(u->param) : 1;
    sy_field row = without(u->param, piece, s->n_dim - 1);
    sy_field column = without(u->param, piece, u->factored ? s->n_dim - 2 : -1);
    if (u->factored) {
        SY_TRY(emit_field(w, u, "exp_avg_sq_row", name, &row, u->row_at + k * u->rows, u->rows,
                          per * u->rows));
    }
    SY_TRY(emit_field(w, u, u->factored ? "exp_avg_sq_col" : "exp_avg_sq", name, &column,
                      u->column_at + k * u->columns, u->columns, per * u->columns));
cleanup:
    return st;
}

sy_status sy__adafactor_walk(sy__adafactor *a, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    const walk w = {a, emit, to};
    for (int32_t i = 0; i < a->n_units; i++) {
        const unit *u = &a->unit[i];
        for (int32_t k = 0; k < (u->piece < 0 ? n_pieces(u->param) : 1); k++) {
            SY_TRY(emit_piece(&w, u, u->piece < 0 ? k : u->piece));
        }
    }
cleanup:
    return st;
}

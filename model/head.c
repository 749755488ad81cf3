#include "model/head.h"

#include "core/span.h"

enum { CHUNK_LOGIT_BYTES = 32 << 20, CHUNK_MAX_TOKENS = 1024, CHUNK_MIN_TOKENS = 16 };

/* Tokens per chunk: a function of V alone, so that the order of sums does not depend on the layout.
 */
static int64_t chunk_tokens(int64_t V)
{
    int64_t n = CHUNK_LOGIT_BYTES / (V * (int64_t)sizeof(float)) / 16 * 16;
    return n > CHUNK_MAX_TOKENS ? CHUNK_MAX_TOKENS : n < CHUNK_MIN_TOKENS ? CHUNK_MIN_TOKENS : n;
}

static sy_tensor slice(const sy_tensor *t, int64_t first, int64_t n)
{
    return t->data == NULL ? sy_tensor_none() : sy_tensor_rows(t, first, n);
}

/* logits = y W^T / logits_scaling. */
static sy_status project(const sy_head *head, sy_pass *p, const sy_tensor *y, sy_tensor *logits)
{
    return sy_gemm(p->stream, &(sy_gemm_args){.a = *y,
                                              .b = head->weight->value,
                                              .c = *logits,
                                              .trans_b = true,
                                              .alpha = 1 / head->config->logits_scaling});
}

static sy_status normalise(const sy_head *head, sy_pass *p, const sy_tensor *x, sy_tensor *y,
                           sy_tensor *rstd)
{
    sy_status st = SY_OK;
    SY_TRY(sy_arena_2d(p->scratch, p->compute, x->shape[0], x->shape[1], y));
    SY_TRY(sy_arena_2d(p->scratch, p->wide, x->shape[0], 1, rstd));
    SY_TRY(sy_rmsnorm(p->stream, &(sy_rmsnorm_args){.x = sy_tensor_heads(x, 1),
                                                    .w = head->norm->value,
                                                    .y = sy_tensor_heads(y, 1),
                                                    .rstd = *rstd,
                                                    .eps = head->config->norm_eps}));
cleanup:
    return st;
}

/* One chunk: y [n, H] normalised rows, dy [n, H] their gradient (absent: evaluation). dlogits is
 * the gradient of y W^T, before the scaling. */
static sy_status chunk_loss(const sy_head *head, sy_pass *p, const sy_tensor *y,
                            const sy_tensor *dy, int64_t first)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), n = y->shape[0], V = head->config->vocab_size;
    double scaling = head->config->logits_scaling;
    sy_tensor logits, dlogits = sy_tensor_none(), lse = sy_tensor_none();

    SY_TRY(sy_arena_2d(p->scratch, p->wide, n, V, &logits));
    if (dy->data != NULL) {
        dlogits = logits;
        if (p->compute != p->wide) {
            SY_TRY(sy_arena_2d(p->scratch, p->compute, n, V, &dlogits));
        }
    }
    if (head->z_coeff > 0 && p->stats != NULL) {
        SY_TRY(sy_arena_1d(p->scratch, p->wide, n, &lse));
    }
    SY_TRY(project(head, p, y, &logits));
    SY_TRY(sy_xent(p->stream,
                   &(sy_xent_args){.logits = logits,
                                   .targets = slice(&p->batch->targets, first, n),
                                   .loss_weight = slice(&p->batch->loss_weight, first, n),
                                   .nll = slice(&p->nll, first, n),
                                   .dlogits = dlogits,
                                   .lse = lse,
                                   .z_coeff = head->z_coeff,
                                   .grad_scale = head->coeff * p->per_loss_token / scaling}));
    if (lse.data != NULL) {
        SY_TRY(
            sy_sum_squares(p->stream, &(sy_sum_squares_args){.x = lse, .out = p->stats->output_z}));
    }
    if (dy->data != NULL) {
        sy_tensor dy_out = *dy;
        SY_TRY(sy_linear_dgrad(p, &dlogits, &head->weight->value, &dy_out, 0));
        SY_TRY(sy_linear_wgrad(p, &dlogits, y, &head->weight->grad));
    }
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_head_loss(const sy_head *head, sy_pass *p, const sy_tensor *x, sy_tensor *dx)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch), T = x->shape[0];
    int64_t chunk = chunk_tokens(head->config->vocab_size);
    sy_tensor y, rstd, dy = sy_tensor_none();

    sy_span_begin(SY_SPAN_PART, "head", -1, -1);
    SY_TRY(normalise(head, p, x, &y, &rstd));
    if (dx->data != NULL) {
        SY_TRY(sy_arena_2d(p->scratch, p->compute, T, x->shape[1], &dy));
    }
    for (int64_t first = 0; first < T; first += chunk) {
        int64_t n = T - first < chunk ? T - first : chunk;
        sy_tensor y_chunk = slice(&y, first, n), dy_chunk = slice(&dy, first, n);
        SY_TRY(chunk_loss(head, p, &y_chunk, &dy_chunk, first));
    }
    if (dx->data != NULL) {
        SY_TRY(sy_rmsnorm_backward(p->stream,
                                   &(sy_rmsnorm_backward_args){.x = sy_tensor_heads(x, 1),
                                                               .w = head->norm->value,
                                                               .rstd = rstd,
                                                               .dy = sy_tensor_heads(&dy, 1),
                                                               .dx = sy_tensor_heads(dx, 1),
                                                               .dw = head->norm->grad}));
    }
cleanup:
    sy_span_end();
    sy_arena_release(p->scratch, mark);
    return st;
}

sy_status sy_head_logits(const sy_head *head, sy_pass *p, const sy_tensor *x, sy_tensor *logits)
{
    sy_status st = SY_OK;
    int64_t mark = sy_arena_mark(p->scratch);
    sy_tensor last = sy_tensor_rows(x, x->shape[0] - 1, 1), y, rstd;
    sy_tensor out = sy_tensor_2d(logits->data, logits->dtype, 1, logits->shape[0]);
    SY_TRY(normalise(head, p, &last, &y, &rstd));
    SY_TRY(project(head, p, &y, &out));
cleanup:
    sy_arena_release(p->scratch, mark);
    return st;
}

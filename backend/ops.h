/* The ops: arithmetic on arrays, one args struct each, with its shapes, dtypes and aliasing. Three
   names to know: an args struct sy_<op>_args, the function sy_<op>(stream, args) that everybody
   calls, and the slot of the table that a backend fills.

   Of every op: (1) enqueued: returns before it need have run; args are copied. (2) Allocates
   nothing; scratch is the stream's workspace. (3) No aliasing of an output with any other operand
   unless said. (4) Same args, same bits, whatever threads, stream or run; a row-wise op gives a row
   the same bits whatever the other rows are. (5) Any extent may be 0. (6) sy_<op>() checks shapes,
   dtypes and strides once for all backends (backend/ops_check.c), then enqueues the slot.

   Dtypes: A = compute dtype (F32, BF16, on ref F64), W = wide (dev->wide: F32, on ref F64). Sums in
   bf16 ops run in fp32. Shapes: DESIGN section 3 letters. Strided operands: any strides but the
   last one 1; all others contiguous. "optional": data NULL.

   Operand lists (SY_OPERANDS_<op>) name each tensor and its role; the check backend and the
   contract checks read them: I read; O written, every element; U read and updated; Z(x, c): O where
   args->c == 0, else U.  */
#ifndef SY_BACKEND_OPS_H
#define SY_BACKEND_OPS_H

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- elementwise ---- */

/* y[...] = value. Any dtype, contiguous. */
typedef struct sy_fill_args {
    sy_tensor y;
    double value;
} sy_fill_args;
#define SY_OPERANDS_fill(I, O, U, Z) O(y)

/* y = x converted (float to float, or the same integer type). Same shape, 1 to 3 dimensions, both
 * strided: also the strided copy. */
typedef struct sy_cast_args {
    sy_tensor x, y;
} sy_cast_args;
#define SY_OPERANDS_cast(I, O, U, Z) I(x) O(y)

/* y = a + b, in fp32 for bf16. A or W, same shape and dtype, 1 to 3 dimensions, strided. y may be a
   or b. */
typedef struct sy_add_args {
    sy_tensor a, b, y;
} sy_add_args;
#define SY_OPERANDS_add(I, O, U, Z) I(a) I(b) O(y)

/* y = factor * x, in fp32 for bf16. A or W, contiguous, same shape and dtype. y may be x. */
typedef struct sy_scale_args {
    sy_tensor x, y;
    double factor;
} sy_scale_args;
#define SY_OPERANDS_scale(I, O, U, Z) I(x) O(y)

/* y[t, n] += bias[n]. y [T, N] A, strided; bias [N] A. */
typedef struct sy_add_bias_args {
    sy_tensor y, bias;
} sy_add_bias_args;
#define SY_OPERANDS_add_bias(I, O, U, Z) U(y) I(bias)

/* out[n] += sum_t x[t, n], t ascending within fixed blocks. x [T, N] A or W, strided; out [N] W.
 * The gradient of add_bias. */
typedef struct sy_column_sum_args {
    sy_tensor x, out;
} sy_column_sum_args;
#define SY_OPERANDS_column_sum(I, O, U, Z) I(x) U(out)

/* out[0] += scale * sum_i x[i] (sum: x W or F64) or sum_i x[i]^2 (sum_squares: x W, scale ignored).
   out [1] F64; accumulated in double, in blocks whose borders depend on n alone. x contiguous, any
   shape. */
typedef struct sy_sum_args {
    sy_tensor x, out;
    double scale;
} sy_sum_args;
#define SY_OPERANDS_sum(I, O, U, Z) I(x) U(out)
typedef struct sy_sum_squares_args {
    sy_tensor x, out;
} sy_sum_squares_args;
#define SY_OPERANDS_sum_squares(I, O, U, Z) I(x) U(out)

/* out[0] += sum over t with rows[t] != 0, and h, of x[t, h]^2. x [T, H] A or W, strided; rows [T]
   U8 (optional: all); out [1] F64; in double, in blocks of rows whose borders depend on T alone. */
typedef struct sy_row_squares_args {
    sy_tensor x, rows, out;
} sy_row_squares_args;
#define SY_OPERANDS_row_squares(I, O, U, Z) I(x) I(rows) U(out)

/* y[t, h] = x[t, h] * u, u uniform in [1 - eps, 1 + eps): u = 1 + eps * (2 * sy_rng_uniform(seed,
   stream, token_glb[t] * H + h) - 1). x, y [T, H] A; token_glb [T] I64. Router-input jitter of
   Switch (arXiv 2101.03961). y may be x. */
typedef struct sy_jitter_args {
    sy_tensor x, token_glb, y;
    double eps;
    uint64_t seed, stream;
} sy_jitter_args;
#define SY_OPERANDS_jitter(I, O, U, Z) I(x) I(token_glb) O(y)

/* y[t, h] = sigmoid(s[t]) * x[t, h]; x, y [T, H] A; s [T] W. Gate of a shared expert (Qwen2-MoE).
   plain: s[t] itself instead of sigmoid(s[t]); weights of adapters that are mixed. */
typedef struct sy_gate_args {
    sy_tensor x, s, y;
    bool plain;
} sy_gate_args;
#define SY_OPERANDS_gate(I, O, U, Z) I(x) I(s) O(y)
/* dx = sigmoid(s) * dy; ds[t] = sigmoid'(s[t]) * <dy[t], x[t]>. dx [T, H] A, ds [T] W. plain: as
   there, with 1 for sigmoid'. */
typedef struct sy_gate_backward_args {
    sy_tensor x, s, dy, dx, ds;
    bool plain;
} sy_gate_backward_args;
#define SY_OPERANDS_gate_backward(I, O, U, Z) I(x) I(s) I(dy) O(dx) O(ds)

/* ---- matrix products ---- */

/* c = alpha * op(a) op(b) + beta * c, op(a) [M, K], op(b) [K, N], c [M, N], row-major; trans_x: x
   is stored transposed. a, b: A (same dtype); c: A or W. beta 0 or 1 (0: c is not read). All
   strided. K is summed in fp32 (double on ref) in an order fixed by M, N, K alone, and for a given
   row of op(a) independent of M. Zero K gives beta * c. */
typedef struct sy_gemm_args {
    sy_tensor a, b, c;
    bool trans_a, trans_b;
    double alpha, beta;
} sy_gemm_args;
#define SY_OPERANDS_gemm(I, O, U, Z) I(a) I(b) Z(c, beta)

/* One product per expert e on rows start[e] .. start[e+1]-1; start [G+1] I32 ascending, in device
   memory (no host read-back), start[0] = 0, start[G] = R (for NT and NN; TN: <= R). NT:  c[r] =
   a[r] b[e]^T      a [R, K] A, b [G, N, K] A, c [R, N] A or W          forward NN:  c[r] = a[r]
   b[e]        a [R, N] A, b [G, N, K] A, c [R, K] A or W          dgrad TN:  c[e] += a_e^T b_e a
   [R, N] A, b [R, K] A,    c [G, N, K] W            wgrad; an expert without rows is untouched.
   All strided. beta: TN 1, else 0 or 1. width [G] I32 (optional), 0 .. N or K: experts of different
   size; of the matrix [N, K] of expert e only the first width[e] rows (units SY_UNITS_ROWS) or
   columns (SY_UNITS_COLUMNS) count: the rest is neither computed with nor, in TN, written; columns
   of c that stand for it are 0 (+ beta c) in NT and NN. mean_width: their mean, for whoever
   estimates without running. */
typedef enum sy_grouped_form { SY_GROUPED_NT, SY_GROUPED_NN, SY_GROUPED_TN } sy_grouped_form;
typedef enum sy_grouped_units { SY_UNITS_ROWS, SY_UNITS_COLUMNS } sy_grouped_units;
typedef struct sy_grouped_gemm_args {
    sy_tensor a, b, c, start, width;
    sy_grouped_form form;
    sy_grouped_units units;
    double beta, mean_width;
} sy_grouped_gemm_args;
#define SY_OPERANDS_grouped_gemm(I, O, U, Z) I(a) I(b) I(start) I(width) Z(c, beta)

/* ---- model ---- */

/* y[t] = w[ids[t]]; w [V, H] A, ids [T] I32 in 0..V-1, y [T, H] A. */
typedef struct sy_embed_args {
    sy_tensor w, ids, y;
} sy_embed_args;
#define SY_OPERANDS_embed(I, O, U, Z) I(w) I(ids) O(y)
/* dw[ids[t]] += dy[t], t ascending for each id. dw [V, H] W. */
typedef struct sy_embed_backward_args {
    sy_tensor ids, dy, dw;
} sy_embed_backward_args;
#define SY_OPERANDS_embed_backward(I, O, U, Z) I(ids) I(dy) U(dw)

/* y = x * rstd * w, rstd[t, g] = 1/sqrt(mean_d x^2 + eps). x, y [T, G, D] A strided; w [D] A; rstd
   [T, G] W contiguous. G = 1 for the norms of a block and the "full" q/k norm, N_h or N_kv for the
   per-head one. Zhang & Sennrich 2019. With add (optional, G = 1) sum = x + factor * add comes
   first, rounded once, and takes the place of x: what a sublayer gives goes into the residual
   stream and the stream through the next norm. add, sum [T, 1, D] A strided. */
typedef struct sy_rmsnorm_args {
    sy_tensor x, add, w, sum, y, rstd;
    double eps, factor;
} sy_rmsnorm_args;
#define SY_OPERANDS_rmsnorm(I, O, U, Z) I(x) I(add) I(w) O(sum) O(y) O(rstd)
/* dx = beta * dx + d/dx; dw += sum over t, g. x, dy, dx strided [T, G, D]; dw [D] W, (optional:
 * frozen). dx may be dy where beta is 0. */
typedef struct sy_rmsnorm_backward_args {
    sy_tensor x, w, rstd, dy, dx, dw;
    double beta;
} sy_rmsnorm_backward_args;
#define SY_OPERANDS_rmsnorm_backward(I, O, U, Z) I(x) I(w) I(rstd) I(dy) Z(dx, beta) U(dw)

/* Rotate in place, by the angle of pos: split halves (x[d], x[d + D/2]), the Llama layout;
   interleaved: neighbours (x[2d], x[2d + 1]), the paper's and DeepSeek's. x [T, N, D] A strided;
   pos [T] I32 < P; table [P, D] W: cosines in the first half of a row, sines in the second.
   inverse: the transposed rotation (backward). Su et al. 2021. */
typedef struct sy_rope_args {
    sy_tensor x, pos, table;
    bool inverse, interleaved;
} sy_rope_args;
#define SY_OPERANDS_rope(I, O, U, Z) U(x) I(pos) I(table)

/* Causal grouped-query attention, tiled: no [T, S] matrix exists. q [B*Sq, N_h, D], k [B*Skv, N_kv,
   D], v [B*Skv, N_kv, D_v], o [B*Sq, N_h, D_v] A, strided; N_h a multiple of N_kv, query head h
   uses key/value head h / (N_h/N_kv). lse [B*Sq, N_h] W: log-sum-exp of the scaled scores, for
   backward. Query i of sequence b stands at position q_start[b] + i (q_start [B] I32, optional: 0)
   and sees keys j <= that position, of the same document where doc [B*Sq] I32 is given (then Sq ==
   Skv). Dao et al. 2022/2023. */
typedef struct sy_attention_args {
    sy_tensor q, k, v, doc, q_start, o, lse;
    int32_t B;
    double scale;
} sy_attention_args;
#define SY_OPERANDS_attention(I, O, U, Z) I(q) I(k) I(v) I(doc) I(q_start) O(o) O(lse)
/* Sq == Skv, no q_start. dout as o; dq, dk, dv as q, k, v. */
typedef struct sy_attention_backward_args {
    sy_tensor q, k, v, doc, o, lse, dout, dq, dk, dv;
    int32_t B;
    double scale;
} sy_attention_backward_args;
#define SY_OPERANDS_attention_backward(I, O, U, Z)                                                 \
    I(q) I(k) I(v) I(doc) I(o) I(lse) I(dout) O(dq) O(dk) O(dv)

/* y = silu(gate) * up; x [R, 2F] A holds gate | up; y [R, F] A. Shazeer 2020. */
typedef struct sy_swiglu_args {
    sy_tensor x, y;
} sy_swiglu_args;
#define SY_OPERANDS_swiglu(I, O, U, Z) I(x) O(y)
/* With a = swiglu(x), w = weight[r] (optional: 1): dx = w * d(a)/dx * dy; wa = w * a (optional);
   dot[r] = <dy[r], a[r]> (optional). x, dx [R, 2F] A; dy, wa [R, F] A; weight, dot [R] W. wa is
   what wgrad of the down projection needs, dot is the router signal G of a row (docs/NUMERICS.md
   2), because <dout, W a> = <W^T dout, a>. */
typedef struct sy_swiglu_backward_args {
    sy_tensor x, dy, weight, dx, wa, dot;
} sy_swiglu_backward_args;
#define SY_OPERANDS_swiglu_backward(I, O, U, Z) I(x) I(dy) I(weight) O(dx) O(wa) O(dot)

/* y [N, K] A from NF4 rows x [N, sy_nf4_row_bytes(K)] U8 (backend/nf4.h), rounded once. */
typedef struct sy_dequantize_nf4_args {
    sy_tensor x, y;
} sy_dequantize_nf4_args;
#define SY_OPERANDS_dequantize_nf4(I, O, U, Z) I(x) O(y)

/* What an MLP does to its inner rows, which hold P parts of width F side by side, first | others: a
   = act(first) times the others. SWIGLU (P 2: silu) has the ops above; GEGLU (2: gelu), RELU, GELU
   and GELU_ERF (1), SWIGLU_LINEAR (3: silu; OpenMoE's four-matrix MLP). gelu is the tanh form of
   Hendrycks & Gimpel 2016, as in T5 1.1; GELU_ERF is what it stands for, x Phi(x) with Phi the
   normal distribution, as in BERT. */
typedef enum sy_act {
    SY_ACT_SWIGLU,
    SY_ACT_GEGLU,
    SY_ACT_RELU,
    SY_ACT_GELU,
    SY_ACT_GELU_ERF,
    SY_ACT_SWIGLU_LINEAR
} sy_act;
static inline int32_t sy_act_parts(sy_act act)
{
    return act == SY_ACT_SWIGLU_LINEAR ? 3 : act >= SY_ACT_RELU && act <= SY_ACT_GELU_ERF ? 1 : 2;
}
/* y = a. x [R, P F] A; y [R, F] A; act is not SWIGLU. */
typedef struct sy_activation_args {
    sy_tensor x, y;
    sy_act act;
} sy_activation_args;
#define SY_OPERANDS_activation(I, O, U, Z) I(x) O(y)
/* As swiglu_backward, with x, dx [R, P F]. */
typedef struct sy_activation_backward_args {
    sy_tensor x, dy, weight, dx, wa, dot;
    sy_act act;
} sy_activation_backward_args;
#define SY_OPERANDS_activation_backward(I, O, U, Z) I(x) I(dy) I(weight) O(dx) O(wa) O(dot)

/* Cross-entropy of a chunk of n tokens. logits [n, V] W; targets [n] I32, -1: no loss; loss_weight
   [n] F32 (optional: 1). nll[i] = lse_i - logits[i, target] (0 where target is -1), unweighted, [n]
   W. dlogits [n, V] A (optional) = grad_scale * loss_weight * (softmax - onehot); it may be logits
   itself where A is W. z_coeff: dlogits is the gradient of nll + z_coeff * lse^2 (the z-loss of the
   output, as T5X has it), nll stays what it is; lse [n] W (optional), 0 where target is -1. */
typedef struct sy_xent_args {
    sy_tensor logits, targets, loss_weight, nll, dlogits, lse;
    double grad_scale, z_coeff;
} sy_xent_args;
#define SY_OPERANDS_xent(I, O, U, Z) I(logits) I(targets) I(loss_weight) O(nll) O(dlogits) O(lse)

/* ---- rows: permutation ---- */

/* y[i] = x[idx[i]], zero row where idx[i] < 0. x [N, D] strided, y [M, D] contiguous, the same
 * dtype (any); idx [M] I32 < N. */
typedef struct sy_gather_rows_args {
    sy_tensor x, idx, y;
} sy_gather_rows_args;
#define SY_OPERANDS_gather_rows(I, O, U, Z) I(x) I(idx) O(y)

/* y[t] = sum over j in token_start[t] .. token_start[t+1]-1, ascending, of weight[token_row[j]] *
   rows[token_row[j]], in W, rounded once. rows [N, H] A; weight [N] W (optional: 1); token_start
   [T+1] I32; token_row [>= token_start[T]] I32; y [T, H] A. beta 1: y += . */
typedef struct sy_combine_rows_args {
    sy_tensor rows, weight, token_start, token_row, y;
    double beta;
} sy_combine_rows_args;
#define SY_OPERANDS_combine_rows(I, O, U, Z)                                                       \
    I(rows) I(weight) I(token_start) I(token_row) Z(y, beta)

/* ---- router ---- */

typedef enum sy_score { SY_SCORE_SOFTMAX, SY_SCORE_SIGMOID } sy_score;
/* p = softmax(z) over E, or sigmoid(z); lse[t] = logsumexp_e z[t]. z, p [T, E] W; lse [T] W. */
typedef struct sy_router_scores_args {
    sy_tensor z, p, lse;
    sy_score score;
} sy_router_scores_args;
#define SY_OPERANDS_router_scores(I, O, U, Z) I(z) O(p) O(lse)

enum { SY_MAX_GROUPS = 1024 }; /* of experts */
/* The K experts of a token with the largest p + bias, in descending order; ties: the lower expert.
   NaN counts as the smallest value: the K indices are distinct and in range whatever p holds. p [T,
   E] W; bias [E] W (optional); routed [T] U8 (optional: 1). expert [T, K] I32, -1 in all K where
   routed is 0. token [T, K] I32: t. n_groups > 0: experts lie in as many ranges of equal size, at
   most SY_MAX_GROUPS, and are taken from the groups_kept best of them, which hold K at least. A
   group counts by its largest value, or by the sum of its two largest (by_two, where it has two);
   ties: the lower group. */
typedef struct sy_topk_args {
    sy_tensor p, bias, routed, expert, token;
    int32_t n_groups, groups_kept;
    bool by_two;
} sy_topk_args;
#define SY_OPERANDS_topk(I, O, U, Z) I(p) I(bias) I(routed) O(expert) O(token)

/* Which choices an expert keeps, at most `capacity` (< 0: all): the first ones in an order. expert
   [T, K] I32 (-1: none), kept [T, K] U8: 1 or 0. priority [T, K] W (optional): the larger first.
   Ties: the lower token, then the earlier choice. by_choice: all first choices of tokens before all
   second ones; a choice then has the priority of its token's first one. So: by_choice alone is
   ST-MoE's order (arXiv 2202.08906), with priority batch-prioritised (V-MoE, arXiv 2106.05974);
   priority alone keeps each expert's largest. E = number of experts. */
typedef struct sy_capacity_args {
    sy_tensor expert, priority, kept;
    int32_t E;
    int64_t capacity;
    bool by_choice;
} sy_capacity_args;
#define SY_OPERANDS_capacity(I, O, U, Z) I(expert) I(priority) O(kept)

/* Combine weights of the kept choices, 0 elsewhere. normalize: divided by the sum over the token's
   K choices before drops (forms A and C of docs/NUMERICS.md 2; 0 where all p are), else raw p
   (forms B and E); times scale. A drop does not rescale survivors. p [T, E] W; expert [T, K]; kept
   [T, K] U8 (optional: all); weight [T, K] W. */
typedef struct sy_topk_weigh_args {
    sy_tensor p, expert, kept, weight;
    bool normalize;
    double scale;
} sy_topk_weigh_args;
#define SY_OPERANDS_topk_weigh(I, O, U, Z) I(p) I(expert) I(kept) O(weight)

/* dz of the combine weights (docs/NUMERICS.md 2): A (softmax, normalize), B (softmax), C (sigmoid,
   normalize), E (sigmoid). g [T, K] W: <dL/dy_t, out of the choice>, 0 where dropped. dz [T, E] W.
   Rows of tokens that were not routed are 0. */
typedef struct sy_topk_backward_args {
    sy_tensor p, expert, g, dz;
    sy_score score;
    bool normalize;
    double scale;
} sy_topk_backward_args;
#define SY_OPERANDS_topk_backward(I, O, U, Z) I(p) I(expert) I(g) O(dz)

/* Weights after drops, where what is left of a token is to count as much as all of it: weight' =
   scale weight / S, S = the sum of the token's kept weights; 0 where dropped, or where S is not
   positive. weight [T, K] W, not negative; kept [T, K] U8; sum [T] W: S. */
typedef struct sy_share_kept_args {
    sy_tensor weight, kept, sum;
    double scale;
} sy_share_kept_args;
#define SY_OPERANDS_share_kept(I, O, U, Z) U(weight) I(kept) O(sum)
/* dL/dweight from g = dL/dweight', in place: (scale / S) (g - <weight', g> / scale) on the kept
   choices, 0 elsewhere and where S is not positive. weight, sum as share_kept left them; g [T, K]
   W. */
typedef struct sy_share_kept_backward_args {
    sy_tensor weight, kept, sum, g;
    double scale;
} sy_share_kept_backward_args;
#define SY_OPERANDS_share_kept_backward(I, O, U, Z) I(weight) I(kept) I(sum) U(g)

/* count[s, e] = choices of expert e among the tokens of scope s (T/n_scopes tokens each, in order;
   T a multiple of n_scopes). expert [N] I32 in token order, -1: none, N = T*K; count [n_scopes, E]
   I64. */
typedef struct sy_expert_count_args {
    sy_tensor expert, count;
} sy_expert_count_args;
#define SY_OPERANDS_expert_count(I, O, U, Z) I(expert) O(count)

/* Statistics of one layer and micro-batch, added up over the step: load[e] += choices, kept_load[e]
   += kept choices, sums[0] += entropy of the normalised p of every routed token (nats), sums[1] +=
   the token's largest p; dropped_at[i P / S] += dropped choices of tokens t at place i = t mod S of
   their sequence. p [T, E] W; expert [T, K]; kept [T, K] U8 (optional: all); load, kept_load
   [E] I64; dropped_at [P] I64 (optional); sums [2] F64; S >= 1 where T > 0. */
typedef struct sy_router_stats_args {
    sy_tensor p, expert, kept, load, kept_load, dropped_at, sums;
    int64_t S;
} sy_router_stats_args;
#define SY_OPERANDS_router_stats(I, O, U, Z)                                                       \
    I(p) I(expert) I(kept) U(load) U(kept_load) U(dropped_at) U(sums)

/* Balance loss and z-loss in the house convention (docs/NUMERICS.md 3), with f from count
   and q = p (softmax) or p / sum p (sigmoid): sums[0] += per_token * sum_t E sum_e f[s(t), e] q[t,
   e]        sums[1] += per_token * sum_t lse[t]^2         (unscaled values) dz += grad of aux_coeff
   * (first) + z_coeff * (second) f[s, e] = count[s, e] / sum_e count[s, e] (0 where the sum is 0):
   a constant. z, p [T, E] W, lse [T] W, routed [T] U8 (optional: 1; 0: the token is left out),
   count [n_scopes, E] I64, scope of token t = t / (T/n_scopes). dz [T, E] W; sums [2] F64. cost [E]
   W (optional: 1): f[s, e] is multiplied by it. */
typedef struct sy_balance_loss_args {
    sy_tensor z, p, lse, routed, count, cost, dz, sums;
    double aux_coeff, z_coeff, per_token;
    sy_score score;
} sy_balance_loss_args;
#define SY_OPERANDS_balance_loss(I, O, U, Z)                                                       \
    I(z) I(p) I(lse) I(routed) I(count) I(cost) U(dz) U(sums)

/* Losses over D groups of experts, ranges of equal size (DeepSeek-V2, arXiv 2405.04434, 2.2.3), on
   p = softmax(z): sums[0] += per_token * sum_t sum_d c[d] (sum of p[t] over group d), and dz += its
   gradient, with c a constant: c[d] = (choices_coeff h[d] / (K N) + visits_coeff v[d] / (M N)) D,
   of N routed tokens; h: their choices in the group, v: those of them that have any there; M =
   groups_kept. p, dz [T, E] W; expert [T, K] I32, -1 in all K of a token that is not routed; count
   [2, D] I64: h, v; sums [1] F64. */
typedef struct sy_group_loss_args {
    sy_tensor p, expert, count, dz, sums;
    int32_t groups_kept;
    double choices_coeff, visits_coeff, per_token;
} sy_group_loss_args;
#define SY_OPERANDS_group_loss(I, O, U, Z) I(p) I(expert) O(count) U(dz) U(sums)

/* ---- plan ---- */

/* Rows in wire order from choices. token, expert [N] I32 (token ascending), kept [N] U8 (optional:
   all); wire [E] I32: place of each expert in wire order (owner rank, slot). Choices with expert <
   0 or kept 0 make no row. Row order: (wire place, token). capacity 0: exact counts. row_* have N
   elements, the rows come first, -1 behind. capacity C > 0: expert at wire place w owns rows w*C ..
   w*C+C-1, row_* have E*C elements, -1 where empty; an expert has at most C kept choices. Outputs,
   all I32: count [E] rows by wire place; row_token, row_choice [N or E*C]; choice_row [N] (-1: no
   row); token_start [T+1], token_row [N]: the rows of token t in the order of its choices; -1
   behind token_start[T]. */
typedef struct sy_plan_rows_args {
    sy_tensor token, expert, kept, wire, count, row_token, row_choice, choice_row, token_start,
        token_row;
    int64_t capacity;
} sy_plan_rows_args;
#define SY_OPERANDS_plan_rows(I, O, U, Z)                                                          \
    I(token)                                                                                       \
    I(expert)                                                                                      \
    I(kept) I(wire) O(count) O(row_token) O(row_choice) O(choice_row) O(token_start) O(token_row)

/* Computed order (expert, source, token) from arrival order (source, expert, token). count [n_src,
   E_loc] I32: rows arriving, or rows that really hold a token where stride > 0: then every (source,
   expert) block takes `stride` arrival rows whatever its count. Each expert's rows are padded with
   zero rows to a multiple of align. expert_start [E_loc+1] I32; computed_from [R] I32: arrival row
   of computed row, -1: a zero row, R as given by its shape
   >= the aligned sum (the rest -1, and they belong to the last expert: expert_start[E_loc] = R);
   arrival_to [A] I32: computed row of each arrival row
   (-1 where the arrival row is empty). */
typedef struct sy_plan_receive_args {
    sy_tensor count, expert_start, computed_from, arrival_to;
    int64_t align, stride;
} sy_plan_receive_args;
#define SY_OPERANDS_plan_receive(I, O, U, Z) I(count) O(expert_start) O(computed_from) O(arrival_to)

/* ---- optimizer ---- */

/* What changes from step to step, in device memory: ctl [SY_CTL_N] F64. */
typedef enum sy_ctl {
    SY_CTL_LR,
    SY_CTL_GRAD_SCALE,
    SY_CTL_SKIP,
    SY_CTL_BIAS1 /* 1 - beta1^t */,
    SY_CTL_BIAS2,
    SY_CTL_DECAY, /* of Adafactor's second moments in this step */
    SY_CTL_N
} sy_ctl;
/* AdamW on a range of a segment (Loshchilov & Hutter 2019): g = grad * GRAD_SCALE; m = b1 m +
   (1-b1) g; v = b2 v + (1-b2) g^2; master -= LR * (m/BIAS1 / (sqrt(v/BIAS2) + eps) + decay *
   master). master, m, v, grad [n] W; param [n] A (optional: the rounded master is written there).
   grad is zeroed afterwards. Where ctl[SKIP] != 0 only grad is zeroed. */
typedef struct sy_adamw_args {
    sy_tensor master, m, v, grad, param, ctl;
    double beta1, beta2, eps, decay;
} sy_adamw_args;
#define SY_OPERANDS_adamw(I, O, U, Z) U(master) U(m) U(v) U(grad) U(param) I(ctl)

/* Adafactor (Shazeer & Stern 2018, arXiv 1804.04235, algorithms 4 to 6) in four ops. They see
   elements first .. first+n-1 of a batch of B matrices [rows, columns] that stand one behind the
   other, flat; the sums of a matrix are those of all its parts, wherever these are. Its second
   moment is factored: V_ij = R_i C_j / sum R with R, C sums over a row and a column. What has one
   row has a whole second moment, C. Sums are F64, R and C stand in row, column [B rows], [B
   columns] W. */
typedef struct sy_factored {
    int64_t rows, columns, first;
} sy_factored;
/* With g = grad * GRAD_SCALE: row_sum, column_sum += g^2 + eps1 over the part; squares [B] +=
   master^2. */
typedef struct sy_adafactor_sums_args {
    sy_tensor grad, master, ctl, row_sum, column_sum, squares;
    sy_factored shape;
    double eps1;
} sy_adafactor_sums_args;
#define SY_OPERANDS_adafactor_sums(I, O, U, Z)                                                     \
    I(grad) I(master) I(ctl) U(row_sum) U(column_sum) U(squares)
/* R, C = DECAY * old + (1 - DECAY) * sums, unless ctl[SKIP] != 0; total [B] F64 = sum of R. */
typedef struct sy_adafactor_moments_args {
    sy_tensor row_sum, column_sum, ctl, row, column, total;
} sy_adafactor_moments_args;
#define SY_OPERANDS_adafactor_moments(I, O, U, Z)                                                  \
    I(row_sum) I(column_sum) I(ctl) U(row) U(column) O(total)
/* squares [B] F64 += u^2 over the part, with u = g / sqrt(V). */
typedef struct sy_adafactor_squares_args {
    sy_tensor grad, ctl, row, column, total, squares;
    sy_factored shape;
} sy_adafactor_squares_args;
#define SY_OPERANDS_adafactor_squares(I, O, U, Z)                                                  \
    I(grad) I(ctl) I(row) I(column) I(total) U(squares)
/* The update of the part. rate = LR * max(eps2, RMS(master)) (scale_parameter; else LR), of the
   value before the step; step = rate * u / max(1, RMS(u) / clip) (clip 0: not clipped), each RMS
   of the whole matrix, from its squares; m (optional) = beta1 m + (1 - beta1) step, and is the
   step; master -= step + rate * decay * master. param, grad and SKIP as in adamw. master, m, grad
   [n] W, param [n] A. */
typedef struct sy_adafactor_args {
    sy_tensor master, m, grad, param, ctl, row, column, total, param_squares, update_squares;
    sy_factored shape;
    double beta1, clip, eps2, decay;
    bool scale_parameter;
} sy_adafactor_args;
#define SY_OPERANDS_adafactor(I, O, U, Z)                                                          \
    U(master)                                                                                      \
    U(m)                                                                                           \
    U(grad) U(param) I(ctl) I(row) I(column) I(total) I(param_squares) I(update_squares)

/* ---- the table ---- */

#define SY_OPS(X)                                                                                  \
    X(fill)                                                                                        \
    X(cast)                                                                                        \
    X(add)                                                                                         \
    X(scale)                                                                                       \
    X(add_bias)                                                                                    \
    X(column_sum)                                                                                  \
    X(sum)                                                                                         \
    X(sum_squares)                                                                                 \
    X(row_squares)                                                                                 \
    X(jitter)                                                                                      \
    X(gate)                                                                                        \
    X(gate_backward)                                                                               \
    X(gemm)                                                                                        \
    X(grouped_gemm)                                                                                \
    X(embed) X(embed_backward) X(rmsnorm) X(rmsnorm_backward) X(rope) X(attention)                 \
        X(attention_backward) X(swiglu) X(swiglu_backward) X(dequantize_nf4) X(activation)         \
            X(activation_backward) X(xent) X(gather_rows) X(combine_rows) X(router_scores) X(topk) \
                X(capacity) X(topk_weigh) X(topk_backward) X(share_kept) X(share_kept_backward)    \
                    X(expert_count) X(router_stats) X(balance_loss) X(group_loss) X(plan_rows)     \
                        X(plan_receive) X(adamw) X(adafactor_sums) X(adafactor_moments)            \
                            X(adafactor_squares) X(adafactor)

#define SY_OP_ENUM(op) SY_OP_##op,
typedef enum sy_op { SY_OPS(SY_OP_ENUM) SY_N_OPS } sy_op;

#define SY_OP_SLOT(op)                                                                             \
    sy_status (*op)(sy_stream * stream,                                                            \
                    const sy_##op##_args *args); /* NULL: lacking, named at start */
struct sy_ops {
    SY_OPS(SY_OP_SLOT)
};

/* The name as in SY_OPS: "gemm". */
const char *sy_op_name(sy_op op);
/* Does the device's table have the op? */
bool sy_op_supported(const sy_device *dev, sy_op op);
/* SY_ERR_UNSUPPORTED naming every op that the device lacks. Called once at start. */
sy_status sy_ops_require_all(const sy_device *dev);

#define SY_OP_FUNCTION(op) sy_status sy_##op(sy_stream *stream, const sy_##op##_args *args);
SY_OPS(SY_OP_FUNCTION)

/* The operands of an op, for whoever treats all ops alike (check backend, tests). */
typedef enum sy_role { SY_ROLE_IN, SY_ROLE_OUT, SY_ROLE_UPDATE, SY_ROLE_OUT_IF_ZERO } sy_role;
typedef struct sy_operand {
    const char *name;
    sy_role role;
    size_t offset;      /* of the sy_tensor in the args struct */
    size_t beta_offset; /* OUT_IF_ZERO: of the double that decides */
} sy_operand;
typedef struct sy_op_info {
    const char *name;
    size_t args_bytes;
    const sy_operand *operands;
    int32_t n_operands;
} sy_op_info;
const sy_op_info *sy_op_describe(sy_op op);

#ifdef __cplusplus
}
#endif
#endif

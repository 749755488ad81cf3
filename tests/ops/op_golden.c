/* The golden fixture of the routing formulas: 4 tokens, 4 experts, numbers computed elsewhere in
   float64 and written down to the digits that stand here. ref must give each of them. */
#include <math.h>

#include "tests/ops/op_test.h"

enum { T = 4, E = 4, K = 2 };

static const double z[T * E] = {2, 1, 0.5, -1, 0, 3, 1, -2, 1.5, 1, -0.5, 0.25, -1, 0.5, 2.5, 1.25};

/* What the router makes of z. */
typedef struct routing {
    double p[T * E], lse[T], weight[T * K];
    int32_t expert[T * K], token[T * K];
    int64_t count[E];
} routing;

static void near(op_runner *runner, const char *what, double got, double want, double digits)
{
    op_verdict(runner, fabs(got - want) <= 0.51 * digits, "golden: %s is %.10g, wanted %.10g", what,
               got, want);
}

static void near_all(op_runner *runner, const char *what, const double *got, const double *want,
                     int64_t n, double digits)
{
    for (int64_t i = 0; i < n; i++) {
        near(runner, what, got[i], want[i], digits);
    }
}

static void same_ids(op_runner *runner, const char *what, const int32_t *got, const int32_t *want)
{
    op_verdict(runner, memcmp(got, want, T * K * sizeof *got) == 0, "golden: %s differ", what);
}

static void same_counts(op_runner *runner, const char *what, const int64_t *got,
                        const int64_t *want)
{
    op_verdict(runner, memcmp(got, want, E * sizeof *got) == 0, "golden: %s differ", what);
}

static sy_tensor matrix(const double *x, int64_t n0, int64_t n1)
{
    return sy_tensor_2d((void *)x, SY_F64, n0, n1);
}

static sy_tensor choices(const int32_t *x)
{
    return sy_tensor_2d((void *)x, SY_I32, T, K);
}

static void weigh(op_runner *runner, routing *r, bool normalize, double scale)
{
    op_must(
        sy_topk_weigh(runner->ref_stream, &(sy_topk_weigh_args){.p = matrix(r->p, T, E),
                                                                .expert = choices(r->expert),
                                                                .weight = matrix(r->weight, T, K),
                                                                .normalize = normalize,
                                                                .scale = scale}));
}

static void route(op_runner *runner, routing *r, sy_score score, const double *bias)
{
    sy_stream *stream = runner->ref_stream;
    op_must(
        sy_router_scores(stream, &(sy_router_scores_args){.z = matrix(z, T, E),
                                                          .p = matrix(r->p, T, E),
                                                          .lse = sy_tensor_1d(r->lse, SY_F64, T),
                                                          .score = score}));
    op_must(sy_topk(stream, &(sy_topk_args){.p = matrix(r->p, T, E),
                                            .bias = sy_tensor_1d((void *)bias, SY_F64, E),
                                            .expert = choices(r->expert),
                                            .token = choices(r->token)}));
    op_must(sy_expert_count(
        stream, &(sy_expert_count_args){.expert = sy_tensor_1d(r->expert, SY_I32, T * K),
                                        .count = sy_tensor_2d(r->count, SY_I64, 1, E)}));
}

/* Balance and z-loss of tokens first .. first+n-1, each weighing 1/n; f from n_scopes rows of
 * count. */
typedef struct losses {
    double sums[2], dz[T * E];
} losses;

static losses balance(op_runner *runner, const routing *r, int64_t first, int64_t n,
                      const int64_t *count, int64_t n_scopes, double aux_coeff, double z_coeff)
{
    losses l = {{0, 0}, {0}};
    op_must(sy_balance_loss(
        runner->ref_stream,
        &(sy_balance_loss_args){.z = matrix(z + first * E, n, E),
                                .p = matrix(r->p + first * E, n, E),
                                .lse = sy_tensor_1d((void *)(r->lse + first), SY_F64, n),
                                .count = sy_tensor_2d((void *)count, SY_I64, n_scopes, E),
                                .dz = matrix(l.dz, n, E),
                                .sums = sy_tensor_1d(l.sums, SY_F64, 2),
                                .aux_coeff = aux_coeff,
                                .z_coeff = z_coeff,
                                .per_token = 1 / (double)n,
                                .score = SY_SCORE_SOFTMAX}));
    return l;
}

static void golden_scores(op_runner *runner)
{
    static const double row[E] = {.609460, .224208, .135989, .030343};
    static const double lse[T] = {2.495182, 3.175515, 2.207233, 2.872968};
    static const int32_t ids[T * K] = {0, 1, 1, 2, 0, 1, 2, 3};
    static const int64_t counts[E] = {2, 3, 2, 1};
    routing r;
    route(runner, &r, SY_SCORE_SOFTMAX, NULL);
    near_all(runner, "softmax row 0", r.p, row, E, 1e-6);
    near_all(runner, "lse", r.lse, lse, T, 1e-6);
    same_ids(runner, "top-2 ids", r.expert, ids);
    same_counts(runner, "counts", r.count, counts);
}

static void golden_weights(op_runner *runner)
{
    static const double form_a[T * K] = {.731059, .268941, .880797, .119203,
                                         .622459, .377541, .777300, .222700};
    static const double form_b[T] = {.833668, .952574, .792030, .886000};
    static const double form_c[T * K] = {1.366123, 1.133877, 1.414462, 1.085538,
                                         1.319832, 1.180168, 1.357881, 1.142119};
    routing r;
    route(runner, &r, SY_SCORE_SOFTMAX, NULL);
    weigh(runner, &r, true, 1);
    near_all(runner, "form A weight", r.weight, form_a, T * K, 1e-6);
    weigh(runner, &r, false, 1);
    for (int64_t t = 0; t < T; t++) {
        near(runner, "form B sum of weights", r.weight[t * K] + r.weight[t * K + 1], form_b[t],
             1e-6);
    }
    route(runner, &r, SY_SCORE_SIGMOID, NULL);
    weigh(runner, &r, true, 2.5);
    near_all(runner, "form C weight", r.weight, form_c, T * K, 1e-6);
}

static void golden_losses(op_runner *runner)
{
    static const int64_t first_choices[E] = {2, 1, 1, 0};
    static const int64_t per_sequence[2 * E] = {1, 2, 1, 0, 1, 1, 1, 1};
    static const double lb_row[E] = {-.000148, .000226, -.000033, -.000045};
    static const double z_row[E] = {.000760, .000280, .000170, .000038};
    routing r;
    route(runner, &r, SY_SCORE_SOFTMAX, NULL);
    losses l = balance(runner, &r, 0, T, r.count, 1, 0.01, 0);
    near(runner, "balance loss, house", l.sums[0], 1.135112760, 1e-9);
    near(runner, "z-loss", l.sums[1], 7.358912753, 1e-9);
    near_all(runner, "gradient of 0.01 balance loss, row 0", l.dz, lb_row, E, 1e-6);
    l = balance(runner, &r, 0, T, r.count, 1, 0, 0.001);
    near_all(runner, "gradient of 0.001 z-loss, row 0", l.dz, z_row, E, 1e-6);
    l = balance(runner, &r, 0, T, first_choices, 1, 0, 0);
    near(runner, "balance loss, first choices", l.sums[0], 1.197619540, 1e-9);
    l = balance(runner, &r, 0, 2, per_sequence, 1, 0, 0);
    near(runner, "balance loss of sequence 0", l.sums[0], 1.513618, 1e-6);
    l = balance(runner, &r, 2, 2, per_sequence + E, 1, 0, 0);
    near(runner, "balance loss of sequence 1", l.sums[0], 1.0, 1e-6);
    l = balance(runner, &r, 0, T, per_sequence, 2, 0, 0);
    near(runner, "balance loss per sequence, mean", l.sums[0], 1.256809, 1e-6);
    l = balance(runner, &r, 0, 2, r.count, 1, 0, 0);
    near(runner, "global f, first micro-batch", l.sums[0], 1.256809, 1e-6);
    l = balance(runner, &r, 2, 2, r.count, 1, 0, 0);
    near(runner, "global f, second micro-batch", l.sums[0], 1.013417, 1e-6);
}

/* The closed form of dz for all rows: c E/T p (f - sum p f) of the balance loss, which sums to 0
   over the experts, and 2 c lse p/T of the z-loss, which sums to 2 c lse/T. */
static void golden_loss_gradients(op_runner *runner)
{
    routing r;
    route(runner, &r, SY_SCORE_SOFTMAX, NULL);
    losses aux = balance(runner, &r, 0, T, r.count, 1, 0.01, 0);
    losses z_loss = balance(runner, &r, 0, T, r.count, 1, 0, 0.001);
    for (int64_t t = 0; t < T; t++) {
        const double *p = r.p + t * E;
        double mean_f = 0, sum[2] = {0, 0};
        for (int64_t e = 0; e < E; e++) {
            mean_f += p[e] * (double)r.count[e] / (K * T);
        }
        for (int64_t e = 0; e < E; e++) {
            const double f = (double)r.count[e] / (K * T);
            near(runner, "gradient of the balance loss", aux.dz[t * E + e],
                 0.01 * E / T * p[e] * (f - mean_f), 1e-15);
            near(runner, "gradient of the z-loss", z_loss.dz[t * E + e],
                 0.001 * 2 * r.lse[t] * p[e] / T, 1e-15);
            sum[0] += aux.dz[t * E + e];
            sum[1] += z_loss.dz[t * E + e];
        }
        near(runner, "sum of the balance gradients", sum[0], 0, 1e-16);
        near(runner, "sum of the z-loss gradients", sum[1], 0.001 * 2 * r.lse[t] / T, 1e-15);
    }
}

static void golden_entropy(op_runner *runner)
{
    static const double rows[T] = {1.014403, .556199, 1.166748, .878803};
    routing r;
    double total = 0;
    route(runner, &r, SY_SCORE_SOFTMAX, NULL);
    for (int64_t t = 0; t < T; t++) {
        int64_t load[E] = {0}, kept_load[E] = {0};
        double sums[2] = {0, 0};
        op_must(sy_router_stats(
            runner->ref_stream,
            &(sy_router_stats_args){.p = matrix(r.p + t * E, 1, E),
                                    .expert = sy_tensor_2d(r.expert + t * K, SY_I32, 1, K),
                                    .load = sy_tensor_1d(load, SY_I64, E),
                                    .kept_load = sy_tensor_1d(kept_load, SY_I64, E),
                                    .sums = sy_tensor_1d(sums, SY_F64, 2)}));
        near(runner, "entropy of a row", sums[0], rows[t], 1e-6);
        near(runner, "largest p of a row", sums[1], r.p[t * E + r.expert[t * K]], 1e-15);
        total += sums[0];
    }
    near(runner, "mean entropy", total / T, .904038242, 1e-9);
}

static void golden_bias(op_runner *runner)
{
    static const double bias[E] = {0, 0, .3, .2};
    static const int32_t ids[T * K] = {2, 0, 2, 1, 0, 3, 2, 3};
    static const int64_t counts[E] = {2, 1, 3, 2};
    routing r;
    route(runner, &r, SY_SCORE_SIGMOID, bias);
    same_ids(runner, "biased top-2 ids", r.expert, ids);
    same_counts(runner, "biased counts", r.count, counts);
    weigh(runner, &r, true, 1); /* of the scores alone: the bias is not in them */
    for (int64_t t = 0; t < T; t++) {
        const double a = 1 / (1 + exp(-z[t * E + ids[t * K]]));
        const double b = 1 / (1 + exp(-z[t * E + ids[t * K + 1]]));
        near(runner, "weight of a biased choice", r.weight[t * K], a / (a + b), 1e-14);
        near(runner, "weight of a biased choice", r.weight[t * K + 1], b / (a + b), 1e-14);
    }
}

/* Capacity 2: by position token 2 loses expert 1, batch-prioritised too, by probability token 0
   does. */
static void golden_drops(op_runner *runner)
{
    static const uint8_t by_position[T * K] = {1, 1, 1, 1, 1, 0, 1, 1};
    static const uint8_t by_weight[T * K] = {1, 0, 1, 1, 1, 1, 1, 1};
    uint8_t kept[T * K];
    routing r;
    route(runner, &r, SY_SCORE_SOFTMAX, NULL);
    weigh(runner, &r, true, 1);
    sy_capacity_args args = {.expert = choices(r.expert),
                             .kept = sy_tensor_2d(kept, SY_U8, T, K),
                             .E = E,
                             .capacity = 2,
                             .by_choice = true};
    op_must(sy_capacity(runner->ref_stream, &args));
    op_verdict(runner, memcmp(kept, by_position, sizeof kept) == 0,
               "golden: drops by position differ");
    args.priority = matrix(r.weight, T, K);
    op_must(sy_capacity(runner->ref_stream, &args));
    op_verdict(runner, memcmp(kept, by_position, sizeof kept) == 0,
               "golden: batch-prioritised drops differ");
    args.by_choice = false;
    op_must(sy_capacity(runner->ref_stream, &args));
    op_verdict(runner, memcmp(kept, by_weight, sizeof kept) == 0,
               "golden: drops by probability differ");
}

void op_golden(op_runner *runner)
{
    golden_scores(runner);
    golden_weights(runner);
    golden_losses(runner);
    golden_loss_gradients(runner);
    golden_entropy(runner);
    golden_bias(runner);
    golden_drops(runner);
}

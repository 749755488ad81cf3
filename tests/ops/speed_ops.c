/* How fast the ops that cost most are on a device, each beside what the same device reaches in a
   plain copy or in one large product. Mixtral's shapes by default; prints only, nobody judges it.
   speed_ops --backend=cuda [--tokens=8192] [--hidden=4096] [--ffn=14336] [--experts=8] [--size=N]
   [--only=experts]. On a Hopper GPU SY_HOPPER=0 shows the experts' products of other GPUs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ops.h"
#include "core/clock.h"

enum { TOP_K = 2, HEADS = 32, KV_HEADS = 8 };

typedef struct speed {
    const char *backend;
    int64_t tokens, hidden, ffn, experts, size; /* size: of the product that is the ceiling */
    sy_device *dev;
    sy_stream *stream;
    uint64_t n_draws;
    double copy_rate, product_rate; /* ceilings: bytes and FLOP per second */
} speed;

static void must(sy_status st)
{
    if (st != SY_OK) {
        fprintf(stderr, "speed_ops: %s\n", sy_error_message());
        exit(1);
    }
}

static sy_tensor tensor(speed *s, sy_dtype dtype, int64_t n0, int64_t n1)
{
    sy_tensor t = sy_tensor_2d(NULL, dtype, n0, n1);
    must(sy_device_alloc(s->dev, sy_tensor_bytes(&t) + n0 * n1 * (int64_t)sy_dtype_bytes(dtype),
                         SY_MEM_OTHER, &t.data));
    return t;
}

/* Random numbers: a chip computes zeros faster. */
static sy_tensor random_tensor(speed *s, sy_dtype dtype, int64_t n0, int64_t n1)
{
    sy_tensor t = tensor(s, dtype, n0, n1), ones = tensor(s, dtype, n0, n1);
    sy_tensor token = tensor(s, SY_I64, n0, 1);
    token = sy_tensor_1d(token.data, SY_I64, n0);
    must(sy_fill(s->stream, &(sy_fill_args){.y = ones, .value = 1}));
    must(sy_jitter(s->stream, &(sy_jitter_args){.x = ones,
                                                .token_glb = token,
                                                .y = t,
                                                .eps = 0.999,
                                                .seed = ++s->n_draws,
                                                .stream = 1}));
    must(sy_stream_sync(s->stream));
    sy_device_free(s->dev, &ones.data);
    sy_device_free(s->dev, &token.data);
    return t;
}

/* idx[i] = i * step mod n, or i / step: rows in another order. */
static sy_tensor indices(speed *s, int64_t n, int64_t step, int64_t modulus)
{
    int32_t *h = calloc((size_t)n + 1, sizeof *h);
    sy_tensor t = sy_tensor_1d(NULL, SY_I32, n);
    for (int64_t i = 0; i < n; i++) {
        h[i] = (int32_t)(i * step % modulus);
    }
    must(sy_device_alloc(s->dev, n * 4, SY_MEM_OTHER, &t.data));
    must(sy_copy_h2d(s->stream, t.data, h, n * 4));
    must(sy_stream_sync(s->stream));
    free(h);
    return t;
}

static double seconds_of(speed *s, sy_status (*run)(speed *s, const void *args), const void *args)
{
    double begin, spent = 0;
    int64_t n = 0, batch = 1;
    must(run(s, args));
    must(sy_stream_sync(s->stream));
    for (; spent < 0.1; batch *= 2) { /* launches follow each other, as in a step */
        begin = sy_clock_s();
        for (n = 0; n < batch; n++) {
            must(run(s, args));
        }
        must(sy_stream_sync(s->stream));
        spent = sy_clock_s() - begin;
    }
    return spent / (double)n;
}

static void print(const speed *s, const char *what, double seconds, double flop, double bytes)
{
    printf("| %-34s | %10.1f ", what, 1e6 * seconds);
    if (flop > 0) {
        printf("| %8.1f TFLOP/s | %5.1f %% of the product |\n", flop / seconds / 1e12,
               100 * flop / seconds / s->product_rate);
    } else {
        printf("| %8.1f GB/s    | %5.1f %% of the copy    |\n", bytes / seconds / 1e9,
               100 * bytes / seconds / s->copy_rate);
    }
}

#define RUN(op)                                                                                    \
    static sy_status run_##op(speed *s, const void *args)                                          \
    {                                                                                              \
        return sy_##op(s->stream, args);                                                           \
    }
RUN(gemm)
RUN(grouped_gemm)
RUN(attention)
RUN(attention_backward)
RUN(swiglu)
RUN(swiglu_backward)
RUN(rmsnorm)
RUN(rmsnorm_backward)
RUN(gather_rows)
RUN(combine_rows)
RUN(adamw)

typedef struct copy_args {
    void *to;
    const void *from;
    int64_t bytes;
} copy_args;

static sy_status run_copy(speed *s, const void *args)
{
    const copy_args *c = args;
    return sy_copy_d2d(s->stream, c->to, c->from, c->bytes);
}

static void release(speed *s, sy_tensor *t, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        sy_device_free(s->dev, &t[i].data);
    }
}

static void ceilings(speed *s)
{
    const int64_t n = s->size;
    sy_tensor t[3] = {random_tensor(s, SY_BF16, n, n), random_tensor(s, SY_BF16, n, n),
                      tensor(s, SY_BF16, n, n)};
    const sy_gemm_args product = {.a = t[0], .b = t[1], .c = t[2], .trans_b = true, .alpha = 1};
    const copy_args copy = {t[2].data, t[0].data, sy_tensor_bytes(&t[0])};
    double seconds = seconds_of(s, run_gemm, &product);
    s->product_rate = 2.0 * (double)n * (double)n * (double)n / seconds;
    print(s, "product, bf16 (ceiling)", seconds, s->product_rate * seconds, 0);
    seconds = seconds_of(s, run_copy, &copy);
    s->copy_rate = 2.0 * (double)copy.bytes / seconds;
    print(s, "copy, read and written (ceiling)", seconds, 0, s->copy_rate * seconds);
    release(s, t, 3);
}

/* The three products of one expert matrix [2F, H], over all experts. */
static void experts(speed *s)
{
    const int64_t R = s->tokens * TOP_K, H = s->hidden, F2 = 2 * s->ffn, E = s->experts;
    const double flop = 2.0 * (double)R * (double)H * (double)F2;
    sy_tensor x = random_tensor(s, SY_BF16, R, H), w = random_tensor(s, SY_BF16, E * F2, H);
    sy_tensor y = random_tensor(s, SY_BF16, R, F2), start = indices(s, E + 1, R / E, R + 1);
    const sy_tensor weights = sy_tensor_3d(w.data, SY_BF16, E, F2, H);
    sy_tensor dw = tensor(s, SY_F32, E * F2, H);
    const sy_grouped_gemm_args forward = {
        .a = x, .b = weights, .c = y, .start = start, .form = SY_GROUPED_NT};
    print(s, "experts, forward (NT)", seconds_of(s, run_grouped_gemm, &forward), flop, 0);
    const sy_grouped_gemm_args dgrad = {
        .a = y, .b = weights, .c = x, .start = start, .form = SY_GROUPED_NN};
    print(s, "experts, input gradient (NN)", seconds_of(s, run_grouped_gemm, &dgrad), flop, 0);
    const sy_grouped_gemm_args wgrad = {.a = y,
                                        .b = x,
                                        .c = sy_tensor_3d(dw.data, SY_F32, E, F2, H),
                                        .start = start,
                                        .form = SY_GROUPED_TN,
                                        .beta = 1};
    print(s, "experts, weight gradient (TN)", seconds_of(s, run_grouped_gemm, &wgrad), flop, 0);
    release(s, (sy_tensor[]){x, w, y, start, dw}, 5);
}

static void attention(speed *s, const char *by)
{
    const int64_t T = s->tokens, D = s->hidden / HEADS, S = T;
    const double flop = 2.0 * (double)T * (double)S * HEADS * (double)D; /* two products, causal */
    sy_tensor m[8];
    for (int32_t i = 0; i < 8; i++) { /* q k v dq dk dv o dout */
        m[i] = random_tensor(s, SY_BF16, T, D * (i < 6 && i % 3 > 0 ? KV_HEADS : HEADS));
    }
    sy_tensor h[8], lse = tensor(s, SY_F32, T, HEADS);
    for (int32_t i = 0; i < 8; i++) {
        h[i] = sy_tensor_heads(&m[i], m[i].shape[1] / D);
    }
    const double scale = 1 / sqrt((double)D);
    const sy_attention_args forward = {
        .q = h[0], .k = h[1], .v = h[2], .o = h[6], .lse = lse, .B = 1, .scale = scale};
    char what[64];
    snprintf(what, sizeof what, "attention, one sequence%s", by);
    print(s, what, seconds_of(s, run_attention, &forward), flop, 0);
    const sy_attention_backward_args backward = {.q = h[0],
                                                 .k = h[1],
                                                 .v = h[2],
                                                 .o = h[6],
                                                 .lse = lse,
                                                 .dout = h[7],
                                                 .dq = h[3],
                                                 .dk = h[4],
                                                 .dv = h[5],
                                                 .B = 1,
                                                 .scale = scale};
    snprintf(what, sizeof what, "attention, backward%s", by);
    print(s, what, seconds_of(s, run_attention_backward, &backward), 2.5 * flop, 0);
    release(s, m, 8);
    release(s, &lse, 1);
}

static void open_device(speed *s)
{
    must(sy_device_open(&(sy_device_spec){.backend = s->backend, .threads = 1}, &s->dev));
    must(sy_stream_create(s->dev, "speed", &s->stream));
}

static void close_device(speed *s)
{
    sy_stream_destroy(&s->stream);
    sy_device_close(&s->dev);
}

/* As it is, and on a GPU once more without cuDNN, which a device looks for once. */
static void attentions(speed *s)
{
    speed own = *s;
    attention(s, "");
    if (strncmp(s->backend, "cuda", 4) == 0) {
        setenv("SY_CUDNN", "0", 1);
        open_device(&own);
        attention(&own, ", no cuDNN");
        close_device(&own);
    }
}

static void activations(speed *s)
{
    const int64_t R = s->tokens * TOP_K, F = s->ffn;
    const double row = (double)R * (double)F * 2;
    sy_tensor x = random_tensor(s, SY_BF16, R, 2 * F), dx = tensor(s, SY_BF16, R, 2 * F);
    sy_tensor dy = random_tensor(s, SY_BF16, R, F), wa = tensor(s, SY_BF16, R, F);
    sy_tensor dot = tensor(s, SY_F32, R, 1);
    const sy_swiglu_args forward = {.x = x, .y = wa};
    print(s, "swiglu", seconds_of(s, run_swiglu, &forward), 0, 3 * row);
    const sy_swiglu_backward_args backward = {
        .x = x, .dy = dy, .dx = dx, .wa = wa, .dot = sy_tensor_1d(dot.data, SY_F32, R)};
    print(s, "swiglu, backward", seconds_of(s, run_swiglu_backward, &backward), 0, 6 * row);
    release(s, (sy_tensor[]){x, dx, dy, wa, dot}, 5);
}

static void rows(speed *s)
{
    const int64_t T = s->tokens, R = T * TOP_K, H = s->hidden;
    const double token = (double)T * (double)H * 2;
    sy_tensor x = random_tensor(s, SY_BF16, T, H), y = tensor(s, SY_BF16, R, H);
    sy_tensor w = random_tensor(s, SY_F32, R, 1), norm = random_tensor(s, SY_BF16, 1, H);
    sy_tensor rstd = tensor(s, SY_F32, T, 1), idx = indices(s, R, 7919, T);
    sy_tensor start = indices(s, T + 1, TOP_K, R + 1), list = indices(s, R, 7919, R);
    const sy_gather_rows_args permute = {.x = x, .idx = idx, .y = y};
    print(s, "permute (gather_rows)", seconds_of(s, run_gather_rows, &permute), 0,
          (1 + TOP_K) * token);
    const sy_combine_rows_args combine = {.rows = y,
                                          .weight = sy_tensor_1d(w.data, SY_F32, R),
                                          .token_start = start,
                                          .token_row = list,
                                          .y = x};
    print(s, "unpermute with weights", seconds_of(s, run_combine_rows, &combine), 0,
          (1 + TOP_K) * token);
    const sy_rmsnorm_args rmsnorm = {.x = sy_tensor_3d(x.data, SY_BF16, T, 1, H),
                                     .w = sy_tensor_1d(norm.data, SY_BF16, H),
                                     .y = sy_tensor_3d(y.data, SY_BF16, T, 1, H),
                                     .rstd = rstd,
                                     .eps = 1e-5};
    print(s, "rmsnorm", seconds_of(s, run_rmsnorm, &rmsnorm), 0, 2 * token);
    sy_tensor more[3] = {random_tensor(s, SY_BF16, T, H), tensor(s, SY_BF16, T, H),
                         tensor(s, SY_F32, H, 1)};
    sy_rmsnorm_args of_sum = rmsnorm;
    of_sum.add = sy_tensor_heads(&more[0], 1);
    of_sum.sum = sy_tensor_heads(&more[1], 1);
    of_sum.factor = 1;
    print(s, "rmsnorm of x + add", seconds_of(s, run_rmsnorm, &of_sum), 0, 4 * token);
    const sy_rmsnorm_backward_args backward = {.x = rmsnorm.x,
                                               .w = rmsnorm.w,
                                               .rstd = rstd,
                                               .dy = of_sum.add,
                                               .dx = of_sum.sum,
                                               .dw = sy_tensor_1d(more[2].data, SY_F32, H),
                                               .beta = 1};
    print(s, "rmsnorm, backward", seconds_of(s, run_rmsnorm_backward, &backward), 0, 4 * token);
    release(s, (sy_tensor[]){x, y, w, norm, rstd, idx, start, list}, 8);
    release(s, more, 3);
}

static void optimizer(speed *s)
{
    const int64_t n = s->hidden * s->ffn * 2;
    sy_tensor t[4], param = tensor(s, SY_BF16, n, 1), ctl = tensor(s, SY_F64, SY_CTL_N, 1);
    const double h_ctl[SY_CTL_N] = {
        [SY_CTL_LR] = 1e-3, [SY_CTL_GRAD_SCALE] = 1, [SY_CTL_BIAS1] = 0.1, [SY_CTL_BIAS2] = 0.05};
    for (int32_t i = 0; i < 4; i++) {
        t[i] = sy_tensor_1d(random_tensor(s, SY_F32, n, 1).data, SY_F32, n);
    }
    must(sy_copy_h2d(s->stream, ctl.data, h_ctl, sizeof h_ctl));
    const sy_adamw_args adamw = {.master = t[0],
                                 .m = t[1],
                                 .v = t[2],
                                 .grad = t[3],
                                 .param = sy_tensor_1d(param.data, SY_BF16, n),
                                 .ctl = sy_tensor_1d(ctl.data, SY_F64, SY_CTL_N),
                                 .beta1 = 0.9,
                                 .beta2 = 0.95,
                                 .eps = 1e-8};
    print(s, "adamw", seconds_of(s, run_adamw, &adamw), 0, (double)n * (8 * 4 + 2));
    release(s, t, 4);
    release(s, (sy_tensor[]){param, ctl}, 2);
}

static int64_t number(const char *arg, const char *name, int64_t otherwise)
{
    const size_t n = strlen(name);
    return strncmp(arg, name, n) == 0 ? strtoll(arg + n, NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    bool all = true;
    speed s = {.backend = "cuda",
               .tokens = 8192,
               .hidden = 4096,
               .ffn = 14336,
               .experts = 8,
               .size = 8192};
    for (int i = 1; i < argc; i++) {
        s.backend = strncmp(argv[i], "--backend=", 10) == 0 ? argv[i] + 10 : s.backend;
        s.tokens = number(argv[i], "--tokens=", s.tokens);
        s.hidden = number(argv[i], "--hidden=", s.hidden);
        s.ffn = number(argv[i], "--ffn=", s.ffn);
        s.experts = number(argv[i], "--experts=", s.experts);
        s.size = number(argv[i], "--size=", s.size);
        all = all && strcmp(argv[i], "--only=experts") != 0;
    }
    open_device(&s);
    printf("T %lld H %lld F %lld E %lld K %d on %s, bf16\n\n", (long long)s.tokens,
           (long long)s.hidden, (long long)s.ffn, (long long)s.experts, TOP_K, s.backend);
    printf("| what | us | rate | of its ceiling |\n|---|---|---|---|\n");
    ceilings(&s);
    experts(&s);
    if (all) {
        attentions(&s);
        activations(&s);
        rows(&s);
        optimizer(&s);
    }
    close_device(&s);
    return 0;
}

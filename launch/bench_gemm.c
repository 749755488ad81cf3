/* The matrix products of a model, each beside oneDNN's own large product, in turn with it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu_peak.h"
#include "backend/ops.h"
#include "core/alloc.h"
#include "core/clock.h"
#include "launch/bench_impl.h"
#include "parallel/agree.h"

enum { DEFAULT_REPEATS = 9 };

typedef enum form { NT, NN, TN, N_FORMS } form;
static const char *const form_names[N_FORMS] = {"NT forward", "NN dgrad", "TN wgrad"};

/* y [rows, out] = x [rows, in] w [out, in]^T, or with G > 0 that of G experts with rows / G each.
 */
typedef struct product {
    const char *name;
    int64_t rows, out, in, G;
    bool wide; /* y is wide: logits */
} product;

/* Of one micro-batch of 4 x 256 tokens; an expert has 256 rows, the head works in chunks. */
static const product mini[] = {{"attention qkv", 1024, 768, 512, 0, false},
                               {"attention out", 1024, 512, 512, 0, false},
                               {"head chunk", 256, 32000, 512, 0, true},
                               {"experts gate, up", 2048, 3584, 512, 8, false},
                               {"experts down", 2048, 512, 1792, 8, false}};

enum { X, Y, W, DW, START, LOGITS, N_OPERANDS };

typedef struct operands {
    sy_tensor t[N_OPERANDS];
    void *data[N_OPERANDS];
} operands;

typedef struct gemm_bench {
    const sy__bench *bench;
    sy_device *dev;
    sy_stream *stream;
    sy_cpu_peak *peak;
    sy_dtype dtype;
    int32_t repeats;
    json_t *rows;
} gemm_bench;

static sy_status upload(gemm_bench *b, const sy_tensor *t)
{
    sy_status st = SY_OK;
    int64_t n = sy_tensor_numel(t);
    double *x = NULL;
    void *raw = NULL;
    SY_TRY(sy_alloc(n, sizeof *x, (void **)&x));
    SY_TRY(sy_alloc(n, sy_dtype_bytes(t->dtype), &raw));
    sy__bench_numbers(x, n);
    sy_convert(t->dtype, raw, SY_F64, x, n);
    SY_TRY(sy_copy_h2d(b->stream, t->data, raw, sy_tensor_bytes(t)));
    SY_TRY(sy_stream_sync(b->stream));
cleanup:
    sy_free(&raw);
    sy_free(&x);
    return st;
}

static sy_status make(gemm_bench *b, operands *o, int32_t i, sy_dtype dtype, int64_t n0, int64_t n1,
                      int64_t n2)
{
    sy_status st = SY_OK;
    int64_t n = (n0 > 0 ? n0 : 1) * n1 * n2;
    void **data = &o->data[i];
    SY_TRY(sy_device_alloc(b->dev, n * (int64_t)sy_dtype_bytes(dtype), SY_MEM_OTHER, data));
    o->t[i] = n0 > 0 ? sy_tensor_3d(*data, dtype, n0, n1, n2) : sy_tensor_2d(*data, dtype, n1, n2);
cleanup:
    return st;
}

static sy_status make_start(gemm_bench *b, const product *p, operands *o)
{
    sy_status st = SY_OK;
    int32_t *h_start = NULL;
    int64_t n = p->G + 1;
    SY_TRY(sy_alloc(n, sizeof *h_start, (void **)&h_start));
    for (int64_t e = 1; e < n; e++) {
        h_start[e] = (int32_t)(p->rows * e / p->G);
    }
    SY_TRY(sy_device_alloc(b->dev, n * (int64_t)sizeof *h_start, SY_MEM_OTHER, &o->data[START]));
    o->t[START] = sy_tensor_1d(o->data[START], SY_I32, n);
    SY_TRY(sy_copy_h2d(b->stream, o->data[START], h_start, sy_tensor_bytes(&o->t[START])));
    SY_TRY(sy_stream_sync(b->stream));
cleanup:
    sy_free(&h_start);
    return st;
}

static sy_status make_operands(gemm_bench *b, const product *p, operands *o)
{
    sy_status st = SY_OK;
    SY_TRY(make(b, o, X, b->dtype, 0, p->rows, p->in));
    SY_TRY(make(b, o, Y, b->dtype, 0, p->rows, p->out));
    SY_TRY(make(b, o, W, b->dtype, p->G, p->out, p->in));
    SY_TRY(make(b, o, DW, b->dev->wide, p->G, p->out, p->in));
    SY_TRY(make(b, o, LOGITS, b->dev->wide, 0, p->wide ? p->rows : 0, p->out));
    for (int32_t i = X; i <= W; i++) {
        SY_TRY(upload(b, &o->t[i]));
    }
    SY_TRY(make_start(b, p, o));
cleanup:
    return st;
}

static void free_operands(gemm_bench *b, operands *o)
{
    for (int32_t i = 0; i < N_OPERANDS; i++) {
        sy_device_free(b->dev, &o->data[i]);
    }
}

static sy_status multiply(gemm_bench *b, const product *p, const operands *o, form f)
{
    static const sy_grouped_form grouped[] = {SY_GROUPED_NT, SY_GROUPED_NN, SY_GROUPED_TN};
    const int32_t operand[N_FORMS][3] = {{X, W, p->wide ? LOGITS : Y}, {Y, W, X}, {Y, X, DW}};
    sy_tensor a = o->t[operand[f][0]], w = o->t[operand[f][1]], c = o->t[operand[f][2]];
    double beta = f == TN ? 1 : 0;
    if (p->G > 0) {
        return sy_grouped_gemm(
            b->stream,
            &(sy_grouped_gemm_args){
                .a = a, .b = w, .c = c, .start = o->t[START], .form = grouped[f], .beta = beta});
    }
    return sy_gemm(b->stream, &(sy_gemm_args){.a = a,
                                              .b = w,
                                              .c = c,
                                              .trans_a = f == TN,
                                              .trans_b = f == NT,
                                              .alpha = 1,
                                              .beta = beta});
}

/* One figure: the product and the ceiling in turn, all ranks at the same time. */
static sy_status measure(gemm_bench *b, const product *p, const operands *o, form f)
{
    sy_status st = SY_OK;
    double *ours = NULL, *peak = NULL,
           flops = 2.0 * (double)p->rows * (double)p->out * (double)p->in;
    SY_TRY(sy_alloc(b->repeats, sizeof *ours, (void **)&ours));
    SY_TRY(sy_alloc(b->repeats, sizeof *peak, (void **)&peak));
    SY_TRY(multiply(b, p, o, f)); /* kernels are built, pages touched */
    SY_TRY(sy_stream_sync(b->stream));
    for (int32_t i = 0; i < b->repeats; i++) {
        SY_TRY(sy_host_barrier(b->bench->env->world, "bench gemm"));
        double start = sy_clock_s();
        SY_TRY(multiply(b, p, o, f));
        SY_TRY(sy_stream_sync(b->stream));
        ours[i] = flops / (sy_clock_s() - start) / 1e9;
        SY_TRY(sy_cpu_peak_run(b->peak, &peak[i]));
        peak[i] /= 1e9;
    }
    double rate = sy__median(ours, b->repeats), ceiling = sy__median(peak, b->repeats);
    json_array_append_new(
        b->rows,
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f}", "product", p->name, "form",
                  form_names[f], "precision", sy_dtype_name(b->dtype), "rows", (json_int_t)p->rows,
                  "out", (json_int_t)p->out, "in", (json_int_t)p->in, "experts", (json_int_t)p->G,
                  "gflops", rate, "peak_gflops", ceiling, "percent_of_peak", 100 * rate / ceiling));
cleanup:
    sy_free(&peak);
    sy_free(&ours);
    return st;
}

static sy_status run_product(gemm_bench *b, const product *p)
{
    sy_status st = SY_OK;
    operands o = {0};
    SY_TRY(make_operands(b, p, &o));
    for (int32_t f = 0; f < N_FORMS; f++) {
        SY_TRY(measure(b, p, &o, (form)f));
    }
cleanup:
    free_operands(b, &o);
    return st;
}

/* "MxNxK" or "MxNxKxG". */
static sy_status parse_shape(const char *text, product *out)
{
    sy_status st = SY_OK;
    int64_t n[4] = {0};
    int32_t count = 0;
    const char *at = text;
    char *end = NULL;
    for (; count < 4; count++, at = end + 1) {
        n[count] = strtoll(at, &end, 10);
        SY_REQUIRE(end != at && n[count] > 0 && n[count] <= 1 << 20, SY_ERR_USAGE,
                   "--shape: '%s' is not MxNxK or MxNxKxG", text);
        if (*end != 'x') {
            count++;
            break;
        }
    }
    SY_REQUIRE(*end == '\0' && count >= 3, SY_ERR_USAGE, "--shape: '%s' is not MxNxK or MxNxKxG",
               text);
    *out = (product){text, n[0], n[1], n[2], n[3], false};
cleanup:
    return st;
}

static sy_status run_precision(gemm_bench *b, sy_dtype dtype)
{
    sy_status st = SY_OK;
    int32_t n = 0;
    const char *const *shapes = sy_cli_list(b->bench->cli, "shape", &n);
    b->dtype = dtype;
    SY_TRY(sy_cpu_peak_create(dtype, SY__PEAK_N, b->dev->n_threads, &b->peak));
    for (int32_t i = 0; i < n; i++) {
        product p;
        SY_TRY(parse_shape(shapes[i], &p));
        SY_TRY(run_product(b, &p));
    }
    for (size_t i = 0; n == 0 && i < sizeof mini / sizeof mini[0]; i++) {
        SY_TRY(run_product(b, &mini[i]));
    }
cleanup:
    sy_cpu_peak_destroy(&b->peak);
    return st;
}

static sy_status open(gemm_bench *b)
{
    sy_status st = SY_OK;
    sy_device_spec spec = {.backend = "cpu", .threads = b->bench->threads};
    SY_TRY(sy_device_open(&spec, &b->dev));
    SY_TRY(sy_stream_create(b->dev, "bench", &b->stream));
cleanup:
    return st;
}

static sy_status print(const gemm_bench *b)
{
    static const sy__column columns[] = {{"product", "product", 0},
                                         {"form", "form", 0},
                                         {"precision", "dtype", 0},
                                         {"rows", "rows", 0},
                                         {"out", "out", 0},
                                         {"in", "in", 0},
                                         {"experts", "experts", 0},
                                         {"gflops", "GFLOP/s", 1},
                                         {"peak_gflops", "peak GFLOP/s", 1},
                                         {"percent_of_peak", "% of peak", 1},
                                         {0}};
    sy_status st = SY_OK;
    json_t *all = NULL;
    if (b->bench->json) {
        all = json_pack("{s:s, s:i, s:i, s:i, s:O}", "bench", "gemm", "ranks",
                        b->bench->env->world->size, "threads", b->dev->n_threads, "repeats",
                        b->repeats, "products", b->rows);
        SY_TRY(sy__print_json(all));
    } else {
        printf("matrix products of one rank, %d rank%s at once, %d thread%s each, median of %d; "
               "peak: oneDNN, %d^3\n",
               b->bench->env->world->size, b->bench->env->world->size == 1 ? "" : "s",
               b->dev->n_threads, b->dev->n_threads == 1 ? "" : "s", b->repeats, SY__PEAK_N);
        SY_TRY(sy__print_table(columns, b->rows));
    }
cleanup:
    json_decref(all);
    return st;
}

sy_status sy__bench_gemm(const sy__bench *bench)
{
    sy_status st = SY_OK;
    gemm_bench b = {.bench = bench,
                    .repeats = bench->repeats > 0 ? bench->repeats : DEFAULT_REPEATS,
                    .rows = json_array()};
    const char *precision = sy_cli_text(bench->cli, "precision");
    SY_REQUIRE(precision == NULL || strcmp(precision, "fp32") == 0 ||
                   strcmp(precision, "bf16") == 0,
               SY_ERR_USAGE, "--precision: '%s' is not fp32 or bf16", precision);
    SY_TRY(sy_agree(bench->env->world, open(&b)));
    if (precision == NULL || strcmp(precision, "fp32") == 0) {
        SY_TRY(run_precision(&b, SY_F32));
    }
    if (precision == NULL || strcmp(precision, "bf16") == 0) {
        SY_TRY(run_precision(&b, SY_BF16));
    }
    if (bench->env->world->rank == 0) {
        SY_TRY(print(&b));
    }
cleanup:
    json_decref(b.rows);
    sy_stream_destroy(&b.stream);
    sy_device_close(&b.dev);
    return st;
}

/* Case tables of the ops, and what runs them. A case is built once per compute dtype, its inputs
   rounded to that dtype; then the same numbers go through every backend. Values live on the host as
   doubles. */
#ifndef SY_TESTS_OPS_OP_TEST_H
#define SY_TESTS_OPS_OP_TEST_H

#include "backend/ops.h"

/* Numbers of a case: what the table sets is printed when the case fails. Meanings are those of
   DESIGN's letters; pad: elements between rows; alias: which operand the output is; mode: a choice
   of the op's builder. */
#define OP_CASE_FIELDS(X)                                                                          \
    X(T)                                                                                           \
    X(H)                                                                                           \
    X(M)                                                                                           \
    X(N)                                                                                           \
    X(K)                                                                                           \
    X(E)                                                                                           \
    X(G)                                                                                           \
    X(D)                                                                                           \
    X(B) X(S) X(Skv) X(Nh) X(Nkv) X(V) X(F) X(R) X(C) X(src) X(align) X(scopes) X(pad) X(ta) X(tb) \
        X(beta) X(form) X(alias) X(mode) X(scaled)
#define OP_CASE_DECLARE(field) int64_t field;
typedef struct op_case {
    OP_CASE_FIELDS(OP_CASE_DECLARE)
} op_case;

typedef enum op_kind { OP_A, OP_W, OP_F32, OP_F64, OP_BF16, OP_I32, OP_I64, OP_U8 } op_kind;

/* One operand on the host: doubles over its whole span, gaps between rows included. values NULL:
 * absent. */
typedef struct op_operand {
    const sy_operand *about;
    op_kind kind;
    int32_t n_dim;
    int64_t shape[SY_MAX_DIM], stride[SY_MAX_DIM], span;
    double *values;
    int32_t alias;     /* operand whose memory this one is, or -1 */
    int32_t row_dim;   /* dimension that is cut when only some rows are computed, -1: none */
    int64_t row_unit;  /* elements of row_dim that make a row */
    int64_t row_extra; /* elements more than rows: 1 for offsets */
    bool row_numbered; /* its rows name themselves by number: cut, but not compared */
} op_operand;

enum { OP_MAX_OPERANDS = 12, OP_MAX_THREADS = 4 };

typedef struct op_test op_test;
typedef struct op_runner op_runner;

/* Room for the args struct of any op. */
typedef union op_args {
    char bytes[SY_CALL_BYTES];
    double align_double;
    void *align_pointer;
} op_args;

/* A case with its data. */
typedef struct op_instance {
    const op_test *test;
    const op_case *c;
    const sy_op_info *info;
    op_runner *runner;
    sy_dtype a, wide; /* dtypes that values of kind A and W are rounded to */
    uint64_t n_draws;
    op_operand operand[OP_MAX_OPERANDS];
    op_args args; /* scalars only; tensors are filled in per backend */
} op_instance;

/* Largest |got - wanted| / (|wanted| + rms(wanted)) of an output, by its dtype and the compute
 * dtype of the run. */
typedef struct op_tolerance {
    double f32;        /* F32 outputs */
    double bf16;       /* BF16 outputs */
    double bf16_cudnn; /* the same where cuDNN may compute them; 0: as bf16 */
    double bf16_wide;  /* F32 outputs of a bf16 run; 0: as f32 */
    double f64;        /* F64 outputs; 0: as f32 */
    double floor; /* errors are taken relative to at least this size: for outputs that cancel to
                     nothing */
} op_tolerance;

/* An op's results on the host: doubles, and the bytes as they were. */
typedef struct op_result {
    double *values[OP_MAX_OPERANDS];
    void *bytes[OP_MAX_OPERANDS];
} op_result;

struct op_test {
    sy_op op;
    void (*build)(op_instance *in, const op_case *c);
    const op_case *cases;
    int32_t n_cases;
    op_tolerance tol;
    /* (optional) adapt scalars and operands to rows first .. first+n-1 */
    void (*cut)(op_instance *in, int64_t first, int64_t n);
    /* (optional) judge results by another formulation; runs on ref's results. NULL: fine, else what
     * is wrong */
    const char *(*judge)(const op_instance *in, const op_result *result);
};
#define OP_CASES(table) .cases = table, .n_cases = (int32_t)(sizeof table / sizeof table[0])

/* Lists of tests, one per file. */
#define OP_GROUPS(X)                                                                               \
    X(elementwise)                                                                                 \
    X(gemm) X(norm) X(attention) X(activation) X(rows) X(router) X(losses) X(plan) X(optimizer)
typedef struct op_group {
    const op_test *tests;
    int32_t n_tests;
} op_group;
#define OP_GROUP_DECLARE(group) extern const op_group op_group_##group;
OP_GROUPS(OP_GROUP_DECLARE)
#define OP_GROUP_DEFINE(group, table)                                                              \
    const op_group op_group_##group = {table, (int32_t)(sizeof table / sizeof table[0])}

struct op_runner {
    const char *backend, *only_op;
    bool quick;
    int32_t n_devices;
    sy_device *dev[OP_MAX_THREADS]; /* one per number of threads */
    sy_stream *stream[OP_MAX_THREADS];
    sy_device *ref;
    sy_stream *ref_stream;
    int32_t n_passed, n_failed;
};

/* Count one verdict; a failure prints the line. Returns ok. */
bool op_verdict(op_runner *runner, bool ok, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* End the program if a call fails that no test is about. */
void op_must(sy_status st);

/* ---- building a case ---- */

#define OP_ARGS(in, op) ((sy_##op##_args *)(void *)(in)->args.bytes)
#define OP_SHAPE(...)                                                                              \
    (int32_t)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[])               \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

/* Declare an operand; pad elements stand between two slices of dimension 0. Zero until it is
 * filled; an output is poisoned later. */
op_operand *op_tensor(op_instance *in, const char *name, op_kind kind, int64_t pad, int32_t n_dim,
                      const int64_t *shape);
/* The operand shares the memory of an earlier one of the same shape. */
op_operand *op_alias(op_instance *in, const char *name, const op_operand *with);
op_operand *op_find(op_instance *in, const char *name);
const op_operand *op_see(const op_instance *in, const char *name);
/* Rows lie along dimension dim; a row takes unit elements of it. Returns o. */
op_operand *op_rows(op_operand *o, int32_t dim);
int64_t op_numel(const op_operand *o);
/* Element i in row-major order. */
double *op_at(const op_operand *o, int64_t i);
/* Fill with normal numbers, uniform ones, integers of lo .. hi; rounded to the operand's dtype.
 * Return o. */
op_operand *op_normal(op_instance *in, op_operand *o, double scale);
op_operand *op_uniform(op_instance *in, op_operand *o, double lo, double hi);
op_operand *op_ints(op_instance *in, op_operand *o, int64_t lo, int64_t hi);
/* An integer of 0 .. n-1. */
int64_t op_draw(op_instance *in, int64_t n);
/* Round values set by hand. */
void op_round(op_instance *in, op_operand *o);
/* The nearest value of a dtype. */
double op_rounded(sy_dtype dtype, double x);
/* K different experts per token for an [T, K] or, with k per token, [T*k] operand; every `skip`-th
   token none (0: all have some). lean > 0: the first choice of all tokens is expert 0. */
op_operand *op_choices(op_instance *in, op_operand *o, int64_t k, int64_t E, int64_t skip,
                       bool lean);
/* The host values as a tensor of doubles, to run ref ops on while building. */
sy_tensor op_host(const op_operand *o);

/* ---- running ---- */

sy_dtype op_dtype(const sy_device *dev, sy_dtype a, op_kind kind);
void op_instance_build(op_instance *in, op_runner *runner, const op_test *test, const op_case *c,
                       sy_dtype a, sy_dtype wide);
void op_instance_free(op_instance *in);
bool op_has_compute_dtype(const op_instance *in);
void op_case_format(const op_case *c, char *buf, size_t bytes);

/* The device copy of an instance: load, launch as often as wanted, fetch, unload. */
typedef struct op_loaded {
    const op_instance *in;
    sy_device *dev;
    sy_stream *stream;
    sy_dtype a;
    void *memory[OP_MAX_OPERANDS];
    void *h_before[OP_MAX_OPERANDS];
    op_args args;
} op_loaded;
void op_load(op_loaded *l, const op_instance *in, sy_device *dev, sy_stream *stream, sy_dtype a);
/* Only rows first .. first+n-1: tensors become slices of what is loaded. */
void op_load_slice(op_loaded *l, int64_t first, int64_t n);
sy_status op_launch(op_loaded *l);
sy_status op_call(sy_op op, sy_stream *stream, const void *args);
void op_fetch(op_loaded *l, op_result *result);
void op_unload(op_loaded *l);
void op_result_free(op_result *result);
/* Is operand i written by this instance? */
bool op_written(const op_instance *in, int32_t i);
/* Is it written without being read? */
bool op_overwritten(const op_instance *in, int32_t i);

/* ---- suites ---- */

void op_compare_case(op_runner *runner, const op_test *test, const op_case *c); /* op_compare.c */
void op_time_test(op_runner *runner, const op_test *test);                      /* op_time.c */
void op_contract_test(op_runner *runner, const op_test *test);                  /* op_contract.c */
void op_norm_of_sum(op_runner *runner);                                         /* op_norm.c */
void op_golden(op_runner *runner);                                              /* op_golden.c */
void op_grad_model(op_runner *runner);                                          /* grad_model.c */
void op_grad_router(op_runner *runner);                                         /* grad_router.c */

/* Central differences: is grad[i] the slope of loss(ctx) in x[i]? loss reads x through ctx. One
 * verdict. */
void op_fd_check(op_runner *runner, const char *what, double (*loss)(void *ctx), void *ctx,
                 double *x, int64_t n, const double *grad);

#endif

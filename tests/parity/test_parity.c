/* Our numbers against transformers' and PyTorch's, architecture by architecture: logits, loss, the
   gradient of every parameter, balance and z-loss, and 20 steps of AdamW, through the real import,
   trainer and optimizer.

       test_parity [FIXTURES [PART OF A CASE'S NAME]]

   On one rank: every fixture on `ref` against the computation in double, on `cpu` (or on the
   backend that SY_TEST_BACKEND names) in fp32 and in bf16. On several: on `ref`, those whose losses
   do not depend on how a batch is cut. */
#include "tests/support/mpi_assert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "tests/parity/compare.h"
#include "tests/support/scratch.h"

typedef struct bounds {
    double logits, loss, gradient, curve;
} bounds;

/* Logits and loss to what transformers computes in the same precision, the rest to the computation
   in double. */
static const bounds in_double = {1e-8, 1e-8, 1e-8, 1e-8};
static const bounds in_fp32 = {1e-5, 1e-5, 1e-4, 1e-4};

/* bf16: the error of a token is the rms over its logits, to the computation in double; the median
   of ours over all tokens may be this many times that of transformers. The median, because a token
   whose experts nearly tie may be routed otherwise by rounding, here or there. Both round weights
   and activations; ours keeps router, combine and logits in fp32, and measures 0.73 to 1.00. */
static const double bf16_factor = 1.25;

static const char *root, *fast; /* folder of the fixtures; the backend that is not `ref` */

/* ---- cases ---- */

typedef struct place {
    fixture f;
    subject s;
    char scratch[FIXTURE_PATH];
} place;

static place *open_place(const char *name, const char *backend, const char *precision)
{
    sy_comm *world = mpi_test_world();
    place *p = calloc(1, sizeof *p);
    const char *tmp = getenv("TMPDIR");
    assert_all(p != NULL);
    snprintf(p->scratch, sizeof p->scratch, "%s/sy_parity.XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_all(world->rank != 0 || mkdtemp(p->scratch) != NULL);
    assert_all_ok(sy_host_broadcast(world, p->scratch, sizeof p->scratch, 0, "scratch"));
    assert_all_ok(fixture_open(root, name, &p->f));
    subject_spec spec = {.fixture = &p->f,
                         .world = world,
                         .scratch = p->scratch,
                         .backend = backend,
                         .precision = precision,
                         .micro_batch = world->size > 1 ? 1 : 3};
    assert_all_ok(subject_open(&spec, &p->s));
    return p;
}

static void close_place(place *p)
{
    subject_close(&p->s);
    fixture_close(&p->f);
    if (mpi_test_world()->rank == 0) {
        nftw(p->scratch, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    free(p);
}

static void print_row(const char *name, const char *backend, const deviation *d)
{
    print_message("%-20s %-9s logits %.1e  loss %.1e  gradients %.1e (%s)  curve %.1e  norms %.1e  "
                  "aux %.1e  z %.1e\n",
                  name, backend, d->logits, d->loss, d->gradient, d->where, d->curve, d->norm,
                  d->aux, d->z);
}

static void judge(const deviation *d, const bounds *b)
{
    assert_all(d->logits <= b->logits);
    assert_all(d->loss <= b->loss);
    assert_all(d->gradient <= b->gradient);
    assert_all(d->curve <= b->curve);
    assert_all(d->norm <= b->curve);
    assert_all(d->aux <= b->curve);
    assert_all(d->z <= b->curve);
}

static void compare_all(const char *name, const char *backend, const char *precision,
                        const char *logits, const char *loss, const bounds *b)
{
    place *p = open_place(name, backend, precision);
    deviation d = {.where = "none"};
    if (mpi_test_world()->size == 1) {
        compare_logits(&p->s, logits, &d);
    }
    compare_training(&p->s, loss, &d);
    print_row(name, backend, &d);
    close_place(p);
    judge(&d, b);
}

static void model_on_ref_is_what_pytorch_computes_in_double(void **state)
{
    compare_all(*state, "ref", "fp64", "logits", "loss", &in_double);
}

static void model_in_fp32_is_what_transformers_computes(void **state)
{
    compare_all(*state, fast, "fp32", "logits_fp32", "loss_fp32", &in_fp32);
}

static void model_in_bf16_errs_as_transformers_does(void **state)
{
    place *p = open_place(*state, fast, "bf16");
    int64_t n = 0;
    double *exact = expected(&p->f, "logits", &n), *theirs = expected(&p->f, "logits_bf16", &n);
    double *ours = NULL;
    assert_all_ok(sy_alloc(n, sizeof *ours, (void **)&ours));
    assert_all_ok(subject_logits(&p->s, ours));
    int64_t V = p->s.settings.model->vocab_size;
    double our_error = median_gap(ours, exact, n / V, V);
    double their_error = median_gap(theirs, exact, n / V, V);
    print_message("%-20s %s bf16  error of a token's logits %.2e, of transformers %.2e: %.2f\n",
                  p->f.name, fast, our_error, their_error, our_error / their_error);
    sy_free(&ours);
    sy_free(&theirs);
    sy_free(&exact);
    close_place(p);
    assert_all(our_error <= bf16_factor * their_error);
}

/* What ranks get is another cut of the batch; where f counts over a micro-batch that is another
 * loss.
 */
static void model_on_several_ranks_is_what_pytorch_computes(void **state)
{
    fixture f = {0};
    assert_all_ok(fixture_open(root, *state, &f));
    const char *scope = fixture_setting(&f, "moe.aux_loss_scope");
    bool depends = *scope != '\0' && strcmp(scope, "sequence") != 0;
    fixture_close(&f);
    if (depends) {
        skip();
    }
    compare_all(*state, "ref", "fp64", "logits", "loss", &in_double);
}

/* ---- which ---- */

static void fixtures_of_every_architecture_are_there(void **state)
{
    (void)state;
    bool seen[SY_N_HF_ARCHS] = {false};
    int32_t n = 0;
    char **name = fixture_names(root, &n);
    for (int32_t i = 0; i < n; i++) {
        char path[2 * FIXTURE_PATH];
        sy_source *source = NULL;
        sy_hf_arch arch = SY_N_HF_ARCHS;
        snprintf(path, sizeof path, "%s/%s", root, name[i]);
        assert_all_ok(sy_source_open(path, mpi_test_world(), &source));
        assert_all_ok(sy_hf_arch_parse(source->form, &arch));
        seen[arch] = true;
        sy_source_close(&source);
        free(name[i]);
    }
    free(name);
    for (int32_t i = 0; i < SY_N_HF_ARCHS; i++) {
        if (!seen[i]) {
            print_error("%s has no fixture of %s\n", root, sy_hf_arch_name((sy_hf_arch)i));
        }
        assert_all(seen[i]);
    }
}

typedef struct kind {
    const char *name;
    CMUnitTestFunction run;
    bool several_ranks;
} kind;

static const kind kinds[] = {
    {"on_ref_is_what_pytorch_computes_in_double", model_on_ref_is_what_pytorch_computes_in_double,
     false},
    {"in_fp32_is_what_transformers_computes", model_in_fp32_is_what_transformers_computes, false},
    {"in_bf16_errs_as_transformers_does", model_in_bf16_errs_as_transformers_does, false},
    {"on_several_ranks_is_what_pytorch_computes", model_on_several_ranks_is_what_pytorch_computes,
     true},
};

int main(int argc, char **argv)
{
    enum { KINDS = sizeof kinds / sizeof kinds[0] };
    const char *size = getenv("OMPI_COMM_WORLD_SIZE"), *backend = getenv("SY_TEST_BACKEND");
    bool several = size != NULL && atoi(size) > 1;
    int32_t n = 0;
    size_t n_tests = 0;
    const char *wanted = argc > 2 ? argv[2] : "";
    root = argc > 1 ? argv[1] : SY_PARITY_FIXTURES;
    fast = backend != NULL && *backend != '\0' ? backend : "cpu";
    char **name = fixture_names(root, &n);
    struct CMUnitTest *tests = calloc((size_t)n * KINDS + 1, sizeof *tests);
    char(*text)[128] = calloc((size_t)n * KINDS, sizeof *text);
    if (argc == 1) {
        tests[n_tests++] =
            (struct CMUnitTest)cmocka_unit_test(fixtures_of_every_architecture_are_there);
    }
    for (int32_t i = 0; i < n * KINDS; i++) {
        const kind *k = &kinds[i % KINDS];
        if (k->several_ranks == several && strstr(k->name, wanted) != NULL) {
            snprintf(text[i], sizeof text[i], "%s_%s", name[i / KINDS], k->name);
            tests[n_tests++] = (struct CMUnitTest){
                .name = text[i], .test_func = k->run, .initial_state = name[i / KINDS]};
        }
    }
    int failed = n_tests > 0 ? mpi_test_main("parity", tests, n_tests) : 1;
    for (int32_t i = 0; i < n; i++) {
        free(name[i]);
    }
    free(name);
    free(text);
    free(tests);
    return failed;
}

/* Products. Dense ones are cuBLASLt's, which counts columns first: row-major c = a b is c^T = b^T
   a^T there. A product is planned once per form, for a fixed number of rows and without splitting
   the depth, and the plan serves every number of rows, so that the bits of a row do not depend on
   how many there are. Experts' products have their borders in device memory: our own kernel. */
#include "backend/cuda/cublas.h"
#include "backend/cuda/product_impl.h"

#include <string.h>

#include "core/alloc.h"

enum { N_PLANS = 256, PLANNED_ROWS = 4096, N_ANSWERS = 8 };

/* What tells products apart. Compared as bytes: no padding. */
typedef struct form {
    int64_t N, K, lda, ldb, ldc;
    int32_t trans_a, trans_b, in, out, alignment, unused;
} form;

typedef struct plan {
    form about;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c; /* as cuBLASLt sees them: a is our b */
    cublasLtMatmulAlgo_t algo;
    bool declined; /* cuBLASLt has nothing for it */
} plan;

typedef struct products {
    sy_cublas lib;
    cublasLtHandle_t handle;
    pthread_mutex_t lock;
    int64_t n_made;
    plan plans[N_PLANS]; /* the oldest makes room */
} products;

static sy_status lt(cublasStatus_t status, const char *what)
{
    return status == CUBLAS_STATUS_SUCCESS
               ? SY_OK
               : sy_error(SY_ERR_INTERNAL, "%s: cuBLAS says status %d", what, (int)status);
}

static void free_plan(const sy_cublas *lib, plan *p)
{
    if (p->a) {
        lib->cublasLtMatrixLayoutDestroy(p->a);
    }
    if (p->b) {
        lib->cublasLtMatrixLayoutDestroy(p->b);
    }
    if (p->c) {
        lib->cublasLtMatrixLayoutDestroy(p->c);
    }
    if (p->desc) {
        lib->cublasLtMatmulDescDestroy(p->desc);
    }
    *p = (plan){0};
}

static void products_free(void *ops_self)
{
    products *self = ops_self;
    for (int32_t i = 0; i < N_PLANS; i++) {
        free_plan(&self->lib, &self->plans[i]);
    }
    if (self->handle) {
        self->lib.cublasLtDestroy(self->handle);
    }
    pthread_mutex_destroy(&self->lock);
    sy_cublas_unload(&self->lib);
    sy_free(&self);
}

sy_status sy__products_open(sy_device *dev)
{
    sy_status st = SY_OK;
    products *self = NULL;
    SY_TRY(sy_alloc(1, sizeof *self, (void **)&self));
    pthread_mutex_init(&self->lock, NULL);
    SY_TRY(sy_cublas_load(&self->lib));
    SY_TRY(lt(self->lib.cublasLtCreate(&self->handle), "opening cuBLAS"));
    dev->ops_self = self;
    dev->ops_self_free = products_free;
    self = NULL;
cleanup:
    if (self) {
        products_free(self);
    }
    return st;
}

/* ---- a plan ---- */

static cudaDataType_t type_of(int32_t dtype)
{
    return dtype == SY_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* The largest power of two up to 16 that divides all addresses. */
static int32_t alignment_of(const sy_gemm_args *args)
{
    const uintptr_t all =
        (uintptr_t)args->a.data | (uintptr_t)args->b.data | (uintptr_t)args->c.data | 16;
    return (int32_t)(all & (~all + 1));
}

static form form_of(const sy_gemm_args *args)
{
    return (form){.N = args->c.shape[1],
                  .K = args->a.shape[args->trans_a ? 0 : 1],
                  .lda = args->a.stride[0],
                  .ldb = args->b.stride[0],
                  .ldc = args->c.stride[0],
                  .trans_a = args->trans_a,
                  .trans_b = args->trans_b,
                  .in = args->a.dtype,
                  .out = args->c.dtype,
                  .alignment = alignment_of(args)};
}

/* Sizes of the operands that depend on the number of rows. */
static sy_status set_rows(const sy_cublas *lib, plan *p, int64_t M)
{
    sy_status st = SY_OK;
    const uint64_t rows = (uint64_t)M;
    const cublasLtMatrixLayoutAttribute_t which =
        p->about.trans_a ? CUBLASLT_MATRIX_LAYOUT_ROWS : CUBLASLT_MATRIX_LAYOUT_COLS;
    SY_TRY(lt(lib->cublasLtMatrixLayoutSetAttribute(p->b, which, &rows, sizeof rows), "a product"));
    SY_TRY(lt(lib->cublasLtMatrixLayoutSetAttribute(p->c, CUBLASLT_MATRIX_LAYOUT_COLS, &rows,
                                                    sizeof rows),
              "a product"));
cleanup:
    return st;
}

static sy_status describe(const sy_cublas *lib, plan *p)
{
    sy_status st = SY_OK;
    const form *f = &p->about;
    /* Rows that stand side by side are no more than the pitch. */
    const int64_t most = f->trans_a && f->lda < PLANNED_ROWS ? f->lda : PLANNED_ROWS;
    const uint64_t N = (uint64_t)f->N, K = (uint64_t)f->K, M = (uint64_t)most;
    const cublasOperation_t op_a = f->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t op_b = f->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const char *what = "a product";
    SY_TRY(lt(lib->cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), what));
    SY_TRY(lt(lib->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_a,
                                                  sizeof op_a),
              what));
    SY_TRY(lt(lib->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_b,
                                                  sizeof op_b),
              what));
    SY_TRY(lt(lib->cublasLtMatrixLayoutCreate(&p->a, type_of(f->in), f->trans_b ? K : N,
                                              f->trans_b ? N : K, f->ldb),
              what));
    SY_TRY(lt(lib->cublasLtMatrixLayoutCreate(&p->b, type_of(f->in), f->trans_a ? M : K,
                                              f->trans_a ? K : M, f->lda),
              what));
    SY_TRY(lt(lib->cublasLtMatrixLayoutCreate(&p->c, type_of(f->out), N, M, f->ldc), what));
cleanup:
    return st;
}

/* Ask for a way to compute it in SY_WORKSPACE_BYTES that sums each element in one place. */
static sy_status choose(const products *self, plan *p)
{
    sy_status st = SY_OK;
    const sy_cublas *lib = &self->lib;
    cublasLtMatmulPreference_t want = NULL;
    cublasLtMatmulHeuristicResult_t answer[N_ANSWERS];
    const size_t workspace = SY_WORKSPACE_BYTES;
    const uint32_t aligned = (uint32_t)p->about.alignment;
    const uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t attr;
        const void *value;
        size_t bytes;
    } wishes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split, sizeof no_split},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &aligned, sizeof aligned},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &aligned, sizeof aligned},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &aligned, sizeof aligned},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &aligned, sizeof aligned},
    };
    int n = 0;
    p->declined = true;
    SY_TRY(lt(lib->cublasLtMatmulPreferenceCreate(&want), "a product"));
    for (size_t i = 0; i < sizeof wishes / sizeof wishes[0]; i++) {
        SY_TRY(lt(lib->cublasLtMatmulPreferenceSetAttribute(want, wishes[i].attr, wishes[i].value,
                                                            wishes[i].bytes),
                  "a product"));
    }
    if (lib->cublasLtMatmulAlgoGetHeuristic(self->handle, p->desc, p->a, p->b, p->c, p->c, want,
                                            N_ANSWERS, answer, &n) == CUBLAS_STATUS_SUCCESS &&
        n > 0 && answer[0].state == CUBLAS_STATUS_SUCCESS) {
        p->algo = answer[0].algo;
        p->declined = false;
    }
cleanup:
    if (want) {
        lib->cublasLtMatmulPreferenceDestroy(want);
    }
    return st;
}

static sy_status find_plan(products *self, const form *about, plan **out)
{
    sy_status st = SY_OK;
    plan *p = NULL;
    for (int32_t i = 0; i < N_PLANS; i++) {
        if (self->plans[i].desc && memcmp(&self->plans[i].about, about, sizeof *about) == 0) {
            *out = &self->plans[i];
            return SY_OK;
        }
    }
    p = &self->plans[self->n_made++ % N_PLANS];
    free_plan(&self->lib, p);
    p->about = *about;
    SY_TRY(describe(&self->lib, p));
    SY_TRY(choose(self, p));
    *out = p;
    p = NULL;
cleanup:
    if (p) {
        free_plan(&self->lib, p);
    }
    return st;
}

/* ---- products ---- */

static sy_status by_kernel(sy_stream *stream, const sy_gemm_args *args)
{
    return sy__cuda_product(stream, &(sy__product){.a = args->a.data,
                                                   .b = args->b.data,
                                                   .c = args->c.data,
                                                   .lda = args->a.stride[0],
                                                   .ldb = args->b.stride[0],
                                                   .ldc = args->c.stride[0],
                                                   .M = args->c.shape[0],
                                                   .N = args->c.shape[1],
                                                   .K = args->a.shape[args->trans_a ? 0 : 1],
                                                   .trans_a = args->trans_a,
                                                   .trans_b = args->trans_b,
                                                   .in = args->a.dtype,
                                                   .out = args->c.dtype,
                                                   .alpha = (float)args->alpha,
                                                   .beta = (float)args->beta});
}

/* By cuBLASLt; *done false where it declines. The lock covers the plan's sizes, not the product. */
static sy_status by_library(products *self, sy_stream *stream, const sy_gemm_args *args, bool *done)
{
    sy_status st = SY_OK;
    const sy_cublas *lib = &self->lib;
    const float alpha = (float)args->alpha, beta = (float)args->beta;
    const form about = form_of(args);
    cublasLtMatmulHeuristicResult_t fits;
    plan *p = NULL;
    *done = false;
    SY_TRY(find_plan(self, &about, &p));
    if (p->declined) {
        goto cleanup;
    }
    SY_TRY(set_rows(lib, p, args->c.shape[0]));
    if (lib->cublasLtMatmulAlgoCheck(self->handle, p->desc, p->a, p->b, p->c, p->c, &p->algo,
                                     &fits) != CUBLAS_STATUS_SUCCESS ||
        fits.workspaceSize > SY_WORKSPACE_BYTES) {
        goto cleanup;
    }
    SY_TRY(lt(lib->cublasLtMatmul(self->handle, p->desc, &alpha, args->b.data, p->a, args->a.data,
                                  p->b, &beta, args->c.data, p->c, args->c.data, p->c, &p->algo,
                                  stream->workspace, SY_WORKSPACE_BYTES,
                                  (cudaStream_t)sy_cuda_stream(stream)),
              "a product"));
    *done = true;
cleanup:
    return st;
}

sy_status sy__cuda_gemm(sy_stream *stream, const sy_gemm_args *args)
{
    sy_status st = SY_OK;
    products *self = stream->dev->ops_self;
    bool done = false;
    if (sy_tensor_numel(&args->c) == 0) {
        return SY_OK;
    }
    if (args->a.shape[args->trans_a ? 0 : 1] > 0) {
        pthread_mutex_lock(&self->lock);
        st = by_library(self, stream, args, &done);
        pthread_mutex_unlock(&self->lock);
    }
    return st != SY_OK || done ? st : by_kernel(stream, args);
}

sy_status sy__cuda_grouped_gemm(sy_stream *stream, const sy_grouped_gemm_args *args)
{
    const bool forward = args->form == SY_GROUPED_NT, wgrad = args->form == SY_GROUPED_TN;
    sy__product p = {.a = args->a.data,
                     .b = args->b.data,
                     .c = args->c.data,
                     .lda = args->a.stride[0],
                     .ldb = args->b.stride[wgrad ? 0 : 1],
                     .ldc = args->c.stride[wgrad ? 1 : 0],
                     .start = args->start.data,
                     .n_groups = (int32_t)args->start.shape[0] - 1,
                     .trans_a = wgrad,
                     .trans_b = forward,
                     .by_depth = wgrad,
                     .in = args->a.dtype,
                     .out = args->c.dtype,
                     .alpha = 1,
                     .beta = (float)args->beta};
    if (wgrad) {
        p.M = args->c.shape[1];
        p.N = args->c.shape[2];
        p.K = args->a.shape[0];
        p.c_group = args->c.stride[0];
    } else {
        p.M = args->a.shape[0];
        p.N = args->c.shape[1];
        p.K = args->a.shape[1];
        p.b_group = args->b.stride[0];
    }
    if (args->width.data) {
        const bool rows = args->units == SY_UNITS_ROWS;
        p.width = args->width.data;
        p.width_of = wgrad             ? (rows ? SY__WIDTH_M : SY__WIDTH_N)
                     : forward == rows ? SY__WIDTH_N
                                       : SY__WIDTH_K;
    }
    return sy__cuda_product(stream, &p);
}

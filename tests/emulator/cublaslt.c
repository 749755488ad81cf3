/* cuBLASLt of the emulator: matrices are stored by columns, as there, and a product is three loops.
   Odd leading dimensions of bf16 are declined, so that the way around the library is taken too. */
#include "backend/cuda/cublas.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/dtype.h"
#include "tests/emulator/emulator_impl.h"

struct emulator_matmul {
    cublasOperation_t op_a, op_b;
};

struct emulator_layout {
    cudaDataType_t type;
    int64_t rows, cols, ld;
};

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = NULL;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    (void)handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    *desc = calloc(1, sizeof **desc);
    return compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS
                                                                : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    free(desc);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attr,
                                              const void *value, size_t bytes)
{
    (void)bytes;
    *(attr == CUBLASLT_MATMUL_DESC_TRANSA ? &desc->op_a : &desc->op_b) =
        *(const cublasOperation_t *)value;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    *layout = calloc(1, sizeof **layout);
    **layout = (struct emulator_layout){type, (int64_t)rows, (int64_t)cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    free(layout);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attr,
                                                const void *value, size_t bytes)
{
    (void)bytes;
    *(attr == CUBLASLT_MATRIX_LAYOUT_ROWS ? &layout->rows : &layout->cols) =
        (int64_t) * (const uint64_t *)value;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *pref)
{
    *pref = NULL;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t pref)
{
    (void)pref;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
                                                    cublasLtMatmulPreferenceAttributes_t attr,
                                                    const void *value, size_t bytes)
{
    (void)pref, (void)attr, (void)value, (void)bytes;
    return CUBLAS_STATUS_SUCCESS;
}

/* Nobody asks for a way to compute what cannot be. */
static bool declined(cublasLtMatrixLayout_t layout)
{
    if (layout->rows > layout->ld) {
        fprintf(stderr, "emulator: a product of columns of %lld, %lld apart\n",
                (long long)layout->rows, (long long)layout->ld);
        abort();
    }
    return layout->type == CUDA_R_16BF && layout->ld % 2 != 0;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t pref, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results,
                                              int *n_results)
{
    (void)handle, (void)desc, (void)d, (void)pref, (void)wanted;
    if (declined(a) || declined(b) || declined(c)) {
        *n_results = 0;
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    *n_results = 1;
    results[0] = (cublasLtMatmulHeuristicResult_t){.state = CUBLAS_STATUS_SUCCESS};
    return CUBLAS_STATUS_SUCCESS;
}

/* The sizes of the four fit together, and a column fits its pitch. */
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    (void)handle, (void)algo;
    const int64_t m = desc->op_a ? a->cols : a->rows, k = desc->op_a ? a->rows : a->cols;
    const int64_t n = desc->op_b ? b->rows : b->cols, k_b = desc->op_b ? b->cols : b->rows;
    *result = (cublasLtMatmulHeuristicResult_t){.state = CUBLAS_STATUS_SUCCESS};
    return k == k_b && c->rows == m && c->cols == n && d->rows == m && d->cols == n &&
                   a->ld >= a->rows && b->ld >= b->rows && c->ld >= c->rows
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_NOT_SUPPORTED;
}

static float get(cublasLtMatrixLayout_t layout, const void *data, int64_t i)
{
    return layout->type == CUDA_R_16BF ? sy_bf16_to_f32(((const sy_bf16 *)data)[i])
                                       : ((const float *)data)[i];
}

static float element(cublasLtMatrixLayout_t layout, const void *data, cublasOperation_t op,
                     int64_t row, int64_t col)
{
    return get(layout, data, op == CUBLAS_OP_T ? row * layout->ld + col : col * layout->ld + row);
}

/* A product on its way: descriptions may change after the call. */
typedef struct product {
    cublasOperation_t op_a, op_b;
    struct emulator_layout a, b, c, d;
    const void *a_data, *b_data, *c_data;
    void *d_data;
    float scale, keep;
} product;

static void multiply(const void *args)
{
    product p = *(const product *)args;
    const int64_t depth = p.op_a ? p.a.rows : p.a.cols;
    for (int64_t col = 0; col < p.d.cols; col++) {
        for (int64_t row = 0; row < p.d.rows; row++) {
            float sum = 0;
            for (int64_t k = 0; k < depth; k++) {
                sum += element(&p.a, p.a_data, p.op_a, row, k) *
                       element(&p.b, p.b_data, p.op_b, k, col);
            }
            sum *= p.scale;
            sum += p.keep != 0 ? p.keep * get(&p.c, p.c_data, col * p.c.ld + row) : 0;
            if (p.d.type == CUDA_R_16BF) {
                ((sy_bf16 *)p.d_data)[col * p.d.ld + row] = sy_bf16_from_f32(sum);
            } else {
                ((float *)p.d_data)[col * p.d.ld + row] = sum;
            }
        }
    }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a_data, cublasLtMatrixLayout_t a, const void *b_data,
                              cublasLtMatrixLayout_t b, const void *beta, const void *c_data,
                              cublasLtMatrixLayout_t c, void *d_data, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream)
{
    (void)handle, (void)algo, (void)workspace_bytes;
    emulator_require_visible(a_data, "a product");
    emulator_require_visible(b_data, "a product");
    emulator_require_visible(d_data, "a product");
    emulator_require_visible(workspace, "a product");
    const product p = {.op_a = desc->op_a,
                       .op_b = desc->op_b,
                       .a = *a,
                       .b = *b,
                       .c = *c,
                       .d = *d,
                       .a_data = a_data,
                       .b_data = b_data,
                       .c_data = c_data,
                       .d_data = d_data,
                       .scale = *(const float *)alpha,
                       .keep = *(const float *)beta};
    emulator_enqueue(stream, multiply, &p, sizeof p);
    return CUBLAS_STATUS_SUCCESS;
}

sy_status sy_cublas_load(sy_cublas *out)
{
    *out = (sy_cublas){0};
#define HAVE(name) out->name = name;
    SY_CUBLAS_FUNCTIONS(HAVE)
    return SY_OK;
}

void sy_cublas_unload(sy_cublas *lib)
{
    (void)lib;
}

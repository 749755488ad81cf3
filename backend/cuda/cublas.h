/* The functions of cuBLASLt that the products use, as a table. They are looked up when a GPU is
   opened (library.c), so that the program starts where there is no such library; the emulator of
   the tests has its own (tests/emulator/cublaslt.c). */
#ifndef SY_BACKEND_CUDA_CUBLAS_H
#define SY_BACKEND_CUDA_CUBLAS_H

#include <cublasLt.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SY_CUBLAS_FUNCTIONS(X)                                                                     \
    X(cublasLtCreate)                                                                              \
    X(cublasLtDestroy)                                                                             \
    X(cublasLtMatmul)                                                                              \
    X(cublasLtMatmulAlgoCheck)                                                                     \
    X(cublasLtMatmulAlgoGetHeuristic)                                                              \
    X(cublasLtMatmulDescCreate)                                                                    \
    X(cublasLtMatmulDescDestroy)                                                                   \
    X(cublasLtMatmulDescSetAttribute)                                                              \
    X(cublasLtMatmulPreferenceCreate)                                                              \
    X(cublasLtMatmulPreferenceDestroy)                                                             \
    X(cublasLtMatmulPreferenceSetAttribute)                                                        \
    X(cublasLtMatrixLayoutCreate)                                                                  \
    X(cublasLtMatrixLayoutDestroy)                                                                 \
    X(cublasLtMatrixLayoutSetAttribute)
typedef struct sy_cublas {
    void *library;
#define SY_CUBLAS_MEMBER(name) __typeof__(name) *name;
    SY_CUBLAS_FUNCTIONS(SY_CUBLAS_MEMBER)
#undef SY_CUBLAS_MEMBER
} sy_cublas;

/* Find the library and its functions; SY_ERR_UNSUPPORTED says what is missing. */
sy_status sy_cublas_load(sy_cublas *out);
/* Requires that nothing of the library is in use. */
void sy_cublas_unload(sy_cublas *lib);

#ifdef __cplusplus
}
#endif
#endif

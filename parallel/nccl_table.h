/* The functions of NCCL that communicators use, as a table. They are looked up when the first
   communicator of GPUs is made (nccl_library.c), so that the program starts where there is no such
   library; the emulator of the tests has its own (tests/emulator/nccl.c). */
#ifndef SY_PARALLEL_NCCL_TABLE_H
#define SY_PARALLEL_NCCL_TABLE_H

#include <nccl.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SY_NCCL_FUNCTIONS(X)                                                                       \
    X(ncclGetVersion)                                                                              \
    X(ncclGetUniqueId)                                                                             \
    X(ncclGetErrorString)                                                                          \
    X(ncclGetLastError)                                                                            \
    X(ncclCommInitRankConfig)                                                                      \
    X(ncclCommGetAsyncError)                                                                       \
    X(ncclCommFinalize)                                                                            \
    X(ncclCommDestroy)                                                                             \
    X(ncclCommAbort)                                                                               \
    X(ncclAllReduce)                                                                               \
    X(ncclReduceScatter)                                                                           \
    X(ncclAllGather)                                                                               \
    X(ncclBroadcast)                                                                               \
    X(ncclSend)                                                                                    \
    X(ncclRecv)                                                                                    \
    X(ncclGroupStart)                                                                              \
    X(ncclGroupEnd)

/* Blocks of one size from all to all, which libraries have from 2.28 on. */
typedef ncclResult_t sy_nccl_all_to_all(const void *send, void *recv, size_t n, ncclDataType_t type,
                                        ncclComm_t comm, cudaStream_t stream);

/* Memory that a communicator's calls will use, which libraries have from 2.19 on; handle NULL:
   nothing came of it. */
typedef ncclResult_t sy_nccl_register(const ncclComm_t comm, void *memory, size_t bytes,
                                      void **handle);
typedef ncclResult_t sy_nccl_deregister(const ncclComm_t comm, void *handle);

typedef struct sy_nccl {
    void *library;
#define SY_NCCL_MEMBER(name) __typeof__(name) *name;
    SY_NCCL_FUNCTIONS(SY_NCCL_MEMBER)
#undef SY_NCCL_MEMBER
    sy_nccl_all_to_all *ncclAlltoAll; /* NULL: the library has none, as the next two */
    sy_nccl_register *ncclCommRegister;
    sy_nccl_deregister *ncclCommDeregister;
} sy_nccl;

/* Find the library and its functions; SY_ERR_UNSUPPORTED says what is missing. Not collective. */
sy_status sy_nccl_load(sy_nccl *out);
/* Requires that nothing of the library is in use. Not collective. */
void sy_nccl_unload(sy_nccl *lib);

#ifdef __cplusplus
}
#endif
#endif

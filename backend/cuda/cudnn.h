/* What attention uses of cuDNN 9: its graph API, in which a computation is a graph of described
   tensors and operations. The numbers are cuDNN's own and stand here, so that none of its headers
   is needed to build; the functions are a table that is looked up when attention is first computed
   (cudnn_library.c), so that the program starts where there is no such library. The emulator of the
   tests has its own (tests/emulator/cudnn.c). Handles and descriptors are pointers to what only
   cuDNN knows. */
#ifndef SY_BACKEND_CUDA_CUDNN_H
#define SY_BACKEND_CUDA_CUDNN_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Kinds of descriptors. */
typedef enum sy_cudnn_kind {
    SY_CUDNN_POINTWISE = 0,
    SY_CUDNN_ENGINE = 2,
    SY_CUDNN_CONFIG = 3, /* an engine with its knobs */
    SY_CUDNN_HEURISTICS = 4,
    SY_CUDNN_PLAN = 5,
    SY_CUDNN_KNOB = 7,
    SY_CUDNN_OP_POINTWISE = 13,
    SY_CUDNN_GRAPH = 15,
    SY_CUDNN_PACK = 16, /* pointers for one execution */
    SY_CUDNN_TENSOR = 17,
    SY_CUDNN_MATMUL = 18,
    SY_CUDNN_OP_MATMUL = 19,
    SY_CUDNN_REDUCTION = 21,
    SY_CUDNN_OP_REDUCTION = 22,
    SY_CUDNN_OP_RESHAPE = 31
} sy_cudnn_kind;

/* Attributes of a descriptor; the part before the last underscore names its kind. */
typedef enum sy_cudnn_attribute {
    SY_CUDNN_POINTWISE_MODE = 0,
    SY_CUDNN_POINTWISE_PRECISION = 1,
    SY_CUDNN_POINTWISE_AXIS = 9,
    SY_CUDNN_HEURISTICS_MODE = 200,
    SY_CUDNN_HEURISTICS_GRAPH = 201,
    SY_CUDNN_HEURISTICS_RESULTS = 202,
    SY_CUDNN_CONFIG_ENGINE = 300,
    SY_CUDNN_CONFIG_KNOBS = 302,
    SY_CUDNN_CONFIG_WORKSPACE = 303,
    SY_CUDNN_PLAN_CONFIG = 401,
    SY_CUDNN_PLAN_WORKSPACE = 402,
    SY_CUDNN_KNOB_TYPE = 600,
    SY_CUDNN_KNOB_VALUE = 601,
    SY_CUDNN_OP_POINTWISE_HOW = 750,
    SY_CUDNN_OP_POINTWISE_X = 751,
    SY_CUDNN_OP_POINTWISE_B = 752,
    SY_CUDNN_OP_POINTWISE_Y = 753,
    SY_CUDNN_OP_POINTWISE_T = 758, /* what a selection goes by */
    SY_CUDNN_GRAPH_HANDLE = 800,
    SY_CUDNN_GRAPH_OPS = 801,
    SY_CUDNN_TENSOR_ALIGNMENT = 900, /* in bytes */
    SY_CUDNN_TENSOR_TYPE = 901,
    SY_CUDNN_TENSOR_SHAPE = 902,
    SY_CUDNN_TENSOR_STRIDES = 903, /* in elements */
    SY_CUDNN_TENSOR_ID = 906,
    SY_CUDNN_TENSOR_VIRTUAL = 907,  /* never in memory */
    SY_CUDNN_TENSOR_BY_VALUE = 908, /* in host memory */
    SY_CUDNN_PACK_IDS = 1000,
    SY_CUDNN_PACK_POINTERS = 1001,
    SY_CUDNN_PACK_WORKSPACE = 1003,
    SY_CUDNN_ENGINE_GRAPH = 1300,
    SY_CUDNN_ENGINE_INDEX = 1301,
    SY_CUDNN_ENGINE_NOTES = 1303,
    SY_CUDNN_MATMUL_PRECISION = 1500,
    SY_CUDNN_OP_MATMUL_A = 1520,
    SY_CUDNN_OP_MATMUL_B = 1521,
    SY_CUDNN_OP_MATMUL_C = 1522,
    SY_CUDNN_OP_MATMUL_HOW = 1523,
    SY_CUDNN_REDUCTION_OPERATOR = 1600,
    SY_CUDNN_REDUCTION_PRECISION = 1601,
    SY_CUDNN_OP_REDUCTION_X = 1610,
    SY_CUDNN_OP_REDUCTION_Y = 1611,
    SY_CUDNN_OP_REDUCTION_HOW = 1612,
    SY_CUDNN_OP_RESHAPE_X = 2200,
    SY_CUDNN_OP_RESHAPE_Y = 2201
} sy_cudnn_attribute;

/* What the elements of an attribute are. */
typedef enum sy_cudnn_of {
    SY_CUDNN_OF_HANDLE = 0,
    SY_CUDNN_OF_DATA_TYPE = 1,
    SY_CUDNN_OF_BOOLEAN = 2, /* a byte */
    SY_CUDNN_OF_INT64 = 3,
    SY_CUDNN_OF_POINTER = 6,
    SY_CUDNN_OF_HEURISTIC = 8,
    SY_CUDNN_OF_KNOB = 9,
    SY_CUDNN_OF_NOTE = 11,
    SY_CUDNN_OF_POINTWISE = 14,
    SY_CUDNN_OF_DESCRIPTOR = 15,
    SY_CUDNN_OF_REDUCTION = 18
} sy_cudnn_of;

typedef enum sy_cudnn_type {
    SY_CUDNN_FLOAT = 0,
    SY_CUDNN_INT32 = 4,
    SY_CUDNN_BF16 = 9,
    SY_CUDNN_BOOLEAN = 11
} sy_cudnn_type;

typedef enum sy_cudnn_pointwise {
    SY_CUDNN_ADD = 0,
    SY_CUDNN_MUL = 1,
    SY_CUDNN_DIV = 6,
    SY_CUDNN_SUB = 9,
    SY_CUDNN_EXP = 13,
    SY_CUDNN_LOG = 15,
    SY_CUDNN_IDENTITY = 21,
    SY_CUDNN_GREATER_EQUAL = 303,
    SY_CUDNN_INDEX = 501, /* an element's place along an axis */
    SY_CUDNN_SELECT = 601 /* t ? x : b */
} sy_cudnn_pointwise;

enum { SY_CUDNN_REDUCE_ADD = 0, SY_CUDNN_REDUCE_MAX = 3 };
enum { SY_CUDNN_HEURISTIC_A = 3 };
enum { SY_CUDNN_NOTE_NONDETERMINISTIC = 4 };
enum {
    SY_CUDNN_KNOB_STAGES = 14,
    SY_CUDNN_KNOB_KERNEL_CFG = 24,
    SY_CUDNN_KNOB_TILE_CGA_M = 27,
    SY_CUDNN_KNOB_STREAM_K = 38,
    SY_CUDNN_KNOB_TILE_M = 40,
    SY_CUDNN_KNOB_TILE_N = 41
};
enum { SY_CUDNN_SUCCESS = 0, SY_CUDNN_NOT_SUPPORTED = 3000, SY_CUDNN_NOT_SUPPORTED_END = 4000 };

#define SY_CUDNN_FUNCTIONS(X)                                                                      \
    X(size_t, cudnnGetVersion, (void))                                                             \
    X(const char *, cudnnGetErrorString, (int status))                                             \
    X(int, cudnnCreate, (void **handle))                                                           \
    X(int, cudnnDestroy, (void *handle))                                                           \
    X(int, cudnnSetStream, (void *handle, void *stream))                                           \
    X(int, cudnnBackendCreateDescriptor, (int kind, void **desc))                                  \
    X(int, cudnnBackendDestroyDescriptor, (void *desc))                                            \
    X(int, cudnnBackendSetAttribute,                                                               \
      (void *desc, int attribute, int of, int64_t count, const void *elements))                    \
    X(int, cudnnBackendGetAttribute,                                                               \
      (void *desc, int attribute, int of, int64_t room, int64_t *count, void *elements))           \
    X(int, cudnnBackendFinalize, (void *desc))                                                     \
    X(int, cudnnBackendExecute, (void *handle, void *plan, void *pack))

typedef struct sy_cudnn {
    void *library;
#define SY_CUDNN_MEMBER(type, name, args) type(*name) args;
    SY_CUDNN_FUNCTIONS(SY_CUDNN_MEMBER)
#undef SY_CUDNN_MEMBER
} sy_cudnn;

/* Find the library and its functions; SY_ERR_UNSUPPORTED says what is missing. */
sy_status sy_cudnn_load(sy_cudnn *out);
/* Requires that nothing of the library is in use. */
void sy_cudnn_unload(sy_cudnn *lib);

#ifdef __cplusplus
}
#endif
#endif

/* What computes a model: device, streams, mesh, parameters, model, arenas. The trainer, evaluation,
   generation and the checks drive it. Everything is allocated when it is created; the sizes of the
   arenas come from running the same code on a dry device first. */
#ifndef SY_TRAIN_ENGINE_H
#define SY_TRAIN_ENGINE_H

#include "model/model.h"
#include "parallel/mesh.h"
#include "train/train_config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_engine_use { SY_USE_TRAIN, SY_USE_EVAL, SY_USE_GENERATE } sy_engine_use;

typedef struct sy_engine_spec {
    const sy_run_settings *settings; /* borrowed */
    sy_comm *world;                  /* host communicator; may be a split */
    sy_engine_use use;
    int32_t B, S;    /* the largest micro-batch; generation: 1 and the length of the cache */
    int32_t threads; /* where the config says 0 */
    bool dry;
    const sy_prices *prices; /* not NULL, borrowed: rehearse on a dry device (backend/prices.h) */
} sy_engine_spec;

typedef struct sy_engine {
    sy_engine_spec spec;
    const sy_run_settings *settings;
    sy_device *dev;
    sy_stream *compute_stream, *comm_stream;
    struct sy_travel *travel; /* NULL: nothing is computed while rows travel */
    sy_value_sync *values;    /* the trainer's, borrowed; NULL: nobody updates parameters */
    sy_mesh *mesh;
    sy_params *params;
    sy_model *model;
    sy_dtype compute, wide;
    sy_arena fixed, keep, block, scratch;
    sy_host_arena host[2]; /* of this pass and of the one before, which the stream may still read */
    sy_event *host_free[2];
    int64_t n_passes;
    sy_device_batch batch; /* device memory for the largest micro-batch */
    sy_tensor batch_mem[7];
    sy_tensor nll, rope;
    sy_tensor sums;     /* F64: [0] gradient norm^2, [1] nll, then [L, SY_N_SUMS], then output z,
                           then [D, SY_MTP_N_SUMS]; L with the blocks behind the layers */
    sy_tensor loads;    /* I64: [2, L, E] load, kept, then [L, SY_DROP_PARTS] */
    double *h_sums;     /* host copies after sy_engine_reduce_stats */
    double *h_own_sums; /* of this rank alone */
    int64_t *h_loads;
    int64_t n_router_sums; /* in all layers */
    sy_stats stats;        /* views into sums and loads */
    struct sy_kv *kv;      /* generation */
    int64_t base_rss_bytes, predicted_bytes;
} sy_engine;

/* Collective over spec->world. Parameters are allocated and zero; see sy_params_init and
 * checkpoint/. Errors are agreed upon. */
sy_status sy_engine_create(const sy_engine_spec *spec, sy_engine **out);
void sy_engine_destroy(sy_engine **engine);

/* A pass over a micro-batch of host arrays (which stay valid until the stream has passed them).
 * Resets the arenas: one pass is in flight at a time. Not collective. */
sy_status sy_engine_begin(sy_engine *engine, sy_pass_kind kind, const sy_batch *h_batch,
                          int64_t step, int32_t micro_idx, sy_pass *out);
/* The pass is enqueued. Not collective. */
sy_status sy_engine_end(sy_engine *engine, sy_pass *pass);

/* Zero the statistics of a step. Enqueued. Not collective. */
sy_status sy_engine_zero_stats(sy_engine *engine);
/* Sum them over all ranks into h_sums, h_loads and stats.h_router. Collective over the mesh's
 * world; waits. */
sy_status sy_engine_reduce_stats(sy_engine *engine);

/* Experts in the model (0: dense); layers, and blocks behind them. Not collective. */
int32_t sy_engine_experts(const sy_engine *engine);
int32_t sy_engine_blocks(const sy_engine *engine);
/* FLOPs of forward and backward per token, and parameters that are active per token, without the
 * input embedding and without what predicts further tokens. Not collective. */
double sy_engine_flops_per_token(const sy_engine *engine, int64_t *active_params);
/* Parameters of what does. Not collective. */
int64_t sy_engine_mtp_params(const sy_engine *engine);
/* "memory: params 12 MiB, ..." of this rank, predicted before the first step. Into buf. Not
 * collective. */
void sy_engine_memory_format(const sy_engine *engine, char *buf, size_t buf_bytes);
/* What this process holds now (RSS), and the most that it has held so far. Not collective. */
int64_t sy_engine_rss_bytes(void);
int64_t sy_engine_peak_rss_bytes(void);

#ifdef __cplusplus
}
#endif
#endif

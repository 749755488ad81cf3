/* The cost model: what an op or a collective asks of a machine, and how long that takes there. Pure
   functions of their arguments. docs/ESTIMATE.md has the formulas and where they come from. */
#ifndef SY_TRAIN_COST_H
#define SY_TRAIN_COST_H

#include "backend/ops.h"
#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An op, and of matrix products each of the three forms by itself: NT forward, NN gradient of the
   input, TN gradient of the weight. The last kind is copies, and fills with zero. */
enum { SY_COST_FORMS = 3, SY_COST_COPY = SY_N_OPS * SY_COST_FORMS, SY_N_COSTS };

/* What an op asks for. */
typedef struct sy_work {
    int32_t kind;   /* < SY_N_COSTS */
    bool narrow;    /* bf16 operands */
    double flops;   /* of products and attention; else 0 */
    double bytes;   /* read and written: all but `weights` */
    double weights; /* products: bytes of the weights, or of their gradient; seldom in a cache */
    int64_t rows, groups, out, in; /* products: y [rows, out] = x [rows, in] W^T, of one in `groups`
                                      experts; else 0 */
} sy_work;

/* args: sy_<op>_args; its tensors need no contents. Not collective. */
sy_work sy_work_of(sy_op op, const void *args);
/* A copy of so many bytes, or a fill, which reads nothing. Not collective. */
sy_work sy_work_copy(int64_t bytes, bool zero);
/* "gemm NT", "rmsnorm", "copy". Into buf. Not collective. */
const char *sy_cost_name(int32_t kind, char *buf, size_t buf_bytes);

/* Seconds = call + flop * FLOPs + byte * bytes + far * (weights of products; elsewhere the bytes
   beyond `near_bytes`, which leave the caches). `roofline`: arithmetic hides memory traffic, so the
   larger of the two counts. */
typedef struct sy_rate {
    double call, flop, byte, far;
} sy_rate;

/* What two ranks, or many, get from a collective. */
enum { SY_MAX_POINTS = 24 };
typedef struct sy_curve { /* seconds by bytes, measured; in ascending order */
    int32_t n;
    double bytes[SY_MAX_POINTS], seconds[SY_MAX_POINTS];
} sy_curve;
typedef struct sy_link {
    double start_s, bytes_per_s; /* of one rank, in one direction */
} sy_link;
typedef enum sy_measured_collective {
    SY_CURVE_ALL_TO_ALL,
    SY_CURVE_ALL_REDUCE,
    SY_CURVE_REDUCE_SCATTER,
    SY_CURVE_ALL_GATHER,
    SY_N_CURVES
} sy_measured_collective;

enum { SY_MACHINE_NAME = 96 };

/* A machine: one rank of it, and its links. */
typedef struct sy_machine {
    char name[SY_MACHINE_NAME];
    bool gpu;                    /* streams run beside each other and the host */
    double peak_flops[2];        /* of a rank: fp32, bf16; what MFU is a share of */
    double memory_bytes;         /* of a rank */
    double workspace_share;      /* of the streams' workspaces: pages that are ever touched */
    double outside_bytes;        /* what a process holds beside the arenas */
    sy_rate rate[2][SY_N_COSTS]; /* [narrow] */
    bool roofline;
    double near_bytes;
    int32_t tile_rows;       /* an expert's rows are computed in such portions */
    int64_t small_side;      /* products with a side (of the weights) below this ... */
    double small_factor;     /* ... reach this share of the rate of the others */
    double launch_s, wait_s; /* of the host: per op; per wait */
    int32_t ranks_per_node;
    sy_link in_node, between; /* where nothing was measured */
    int32_t measured_ranks;   /* of the curves; 0: there are none */
    sy_curve curve[SY_N_CURVES];
} sy_machine;

/* Seconds of the work on one rank. Not collective. */
double sy_work_seconds(const sy_machine *machine, const sy_work *work);
/* Seconds of a collective. Not collective. */
double sy_traffic_seconds(const sy_machine *machine, const sy_traffic *traffic);
/* Bytes that leave this rank for others in it. Not collective. */
double sy_traffic_sent(const sy_traffic *traffic);

#ifdef __cplusplus
}
#endif
#endif

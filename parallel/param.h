/* The parameter table. Declare (no memory, no mesh), then bind. A segment = parameters of equal
   (replicas, dtype, trainable, decay): one contiguous range, ordered as backward completes (the
   reverse of declaration); a bucket is a fixed cut of a segment; with ZeRO each rank of `replicas`
   owns an equal part of every bucket. Bucket, ZeRO shard and one AdamW call are ranges.

   Gradients have the segment's shape in memory, except with zero 2 (ZeRO-2, Rajbhandari et al.
   2020): there the layers of a segment take turns in two windows, from which every micro-batch's
   gradient goes to the rank that owns it, which alone keeps the sum. */
#ifndef SY_PARALLEL_PARAM_H
#define SY_PARALLEL_PARAM_H

#include "parallel/state.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sy_init { SY_INIT_NORMAL, SY_INIT_ZEROS, SY_INIT_ONES } sy_init;

enum { SY_PARAM_NAME = 96, SY_MAX_PIECES = 3 };

/* One matrix in memory may be several tensors in the file (q, k, v; gate, up): pieces, cut along
 * piece_dim in order. */
typedef struct sy_piece {
    char name[SY_PARAM_NAME];
    int64_t extent;
} sy_piece;

typedef struct sy_param_spec {
    char name[SY_PARAM_NAME]; /* "layers/003/attn/qkv": in memory. File, freeze pattern and init key
                                 use the pieces' names (no pieces: this one) */
    bool wide;                /* fp32 (f64 on ref) even in a bf16 model: router */
    int32_t n_dim;
    int64_t shape_glb[SY_MAX_DIM];
    int32_t n_pieces, piece_dim;
    sy_piece piece[SY_MAX_PIECES];
    sy_group shard_by; /* SY_EP with shard_dim 0 for experts */
    int32_t shard_dim; /* -1: whole on every rank */
    sy_group replicas; /* the gradient is summed over it: SY_DENSE, or SY_EDP for experts */
    sy_init init; /* element i of a piece = f(seed, XXH3(piece name), row-major global index i in
                     the piece); normal: cut at 3 std */
    double init_std;
    bool trainable, decay;
    bool optional; /* a checkpoint without it leaves it as it begins */
    /* [shape_glb[0]] borrowed: of matrix i of a piece only the first width[i] places of dimension
       width_dim (1, 2) are used; the rest begins with zeros and counts as no parameter. NULL: all
     */
    const int32_t *width;
    int32_t width_dim;
    /* > 0: NF4 rows (backend/nf4.h) of so many weights, U8 [rows, sy_nf4_row_bytes(of)]; frozen.
       They begin as what init says, packed. */
    int64_t packed_columns;
} sy_param_spec;

typedef struct sy_param {
    sy_param_spec spec;
    int32_t index; /* order of declaration */
    sy_box box;    /* what this rank holds of shape_glb */
    int32_t segment;
    int64_t offset;  /* of its first element in the segment */
    sy_tensor value; /* compute dtype, or wide */
    sy_tensor grad;  /* wide, accumulated with +=; zero 2: perhaps in a window, where another
                        layer's is at another time; frozen: no data */
} sy_param;

/* A fixed cut of a segment. n is a multiple of the replicas' size; the whole segment is covered. */
typedef struct sy_bucket {
    int32_t segment;
    int64_t offset, n;
    int32_t first_param; /* the earliest declared parameter in it, which backward completes last
                            and forward wants first; params->n: all of it is padding */
    void *grad;          /* [n] wide, where backward adds */
    int32_t turn; /* zero 2: the how manieth layer of the segment, in the order of backward, in
                     window turn % 2; -1: the memory is the bucket's own */
} sy_bucket;

typedef struct sy_segment {
    sy_group replicas;
    sy_dtype dtype;
    bool trainable, decay;
    int64_t n;          /* elements, padded; the padding stays zero */
    void *value, *grad; /* device memory; grad NULL where frozen */
    int64_t grad_n;     /* elements of grad: n, or with windows what they and the sums take */
    int32_t first_bucket, n_buckets;
} sy_segment;

/* One range that this rank updates: elements [offset, offset + n) of the segment, stored at
 * [shard_offset, +n) of arrays of shard_n elements. */
typedef struct sy_range {
    int32_t segment;
    int64_t offset, n, shard_offset;
    void *grad; /* [n] wide: the reduced gradient; in the segment's memory */
} sy_range;

typedef struct sy_params {
    sy_param **param; /* [n] in order of declaration; pointers stay valid */
    int32_t n, n_segments, n_buckets, n_ranges;
    sy_segment *segment;
    sy_bucket *bucket; /* by segment, then offset */
    sy_range *range;   /* trainable segments only; zero 0: whole segments */
    int64_t shard_n;   /* elements of all ranges */
    int32_t zero;
    sy_dtype compute, wide;
    sy_mesh *mesh;  /* borrowed */
    sy_device *dev; /* borrowed */
} sy_params;

/* What most parameters are: whole on every rank, trained, its gradient summed over all. A matrix is
   drawn with init_std and decays; a vector begins as `init` says and does not. The name is a
   format. Neither is collective. */
sy_param_spec sy_param_matrix(int64_t rows, int64_t columns, double init_std, const char *name, ...)
    __attribute__((format(printf, 4, 5)));
/* See sy_param_matrix. Not collective. */
sy_param_spec sy_param_vector(int64_t n, sy_init init, const char *name, ...)
    __attribute__((format(printf, 3, 4)));

/* An empty table. Not collective. Destroying frees values and gradients too. */
sy_status sy_params_create(sy_params **out);
void sy_params_destroy(sy_params **params);
/* Not collective. A name twice, a bad shape, pieces that do not add up: SY_ERR_INTERNAL. *out stays
 * valid as long as params. */
sy_status sy_params_declare(sy_params *params, const sy_param_spec *spec, sy_param **out);
/* Freeze by shell patterns (fnmatch; a '*' also matches '/') on piece names. Before bind. A pattern
   without a match: SY_ERR_USAGE with the nearest name; one that freezes only some pieces of a fused
   parameter: SY_ERR_USAGE naming them. Not collective. */
sy_status sy_params_freeze(sy_params *params, const char *const *patterns, int32_t n_patterns);

typedef struct sy_bind_spec {
    sy_mesh *mesh;
    sy_device *dev;
    sy_dtype compute;
    int32_t zero;
    int64_t bucket_bytes; /* of gradient; 0: 32 MiB, in large models some 1/96 of all */
} sy_bind_spec;
/* Allocates values and gradients (zero), fixes segments, buckets and ranges. Not collective. */
sy_status sy_params_bind(sy_params *params, const sy_bind_spec *spec);
/* Draw initial values on the host (in several threads) and copy them to the device. The same bits
   on every mesh and backend (up to rounding to the dtype). Not collective; `stream` is waited for.
 */
sy_status sy_params_init(sy_params *params, uint64_t seed, sy_stream *stream);
/* The same for those that a checkpoint may lack, so that they are defined before a load. Not
 * collective; as above. */
sy_status sy_params_init_optional(const sy_params *params, sy_stream *stream);
/* The same for one parameter of the table, as param->spec.init and init_std say. Not collective;
 * `stream` is waited for. */
sy_status sy_param_init(const sy_params *params, const sy_param *param, uint64_t seed,
                        sy_stream *stream);
sy_param *sy_params_find(const sy_params *params, const char *name); /* by memory name; NULL */
/* Elements over the whole model (not this rank's): of one parameter; of all, or of those that are
 * trainable. Not collective. */
int64_t sy_param_count(const sy_param_spec *spec);
int64_t sy_params_count(const sy_params *params, bool trainable_only);

/* Emit "<prefix>/<piece name>" for every parameter: the values. Not collective. */
sy_status sy_params_walk(const sy_params *params, const char *prefix, sy_emit *emit, void *to);
/* Emit "<prefix>/<piece name>" for every trainable parameter (narrow_only: those whose values are
   narrower than wide), from an array [shard_n] of `dtype` laid out by params->range. Not
   collective. */
sy_status sy_params_walk_shard(const sy_params *params, const char *prefix, sy_dtype dtype,
                               void *data, bool narrow_only, sy_emit *emit, void *to);

#ifdef __cplusplus
}
#endif
#endif

/* Operands of the tile products, copied into the order those want. `to` is the dtype of the tiles:
   that of the operand, or F32 where bf16 is computed in fp32. */
#ifndef SY_BACKEND_CPU_PACK_IMPL_H
#define SY_BACKEND_CPU_PACK_IMPL_H

#include "backend/cpu/dnnl_impl.h"

/* Part of a stored matrix: element (r, c) lies at src[r * ld + c], or at src[c * ld + r] where it
 * is transposed. */
typedef struct sy__part {
    const void *src;
    sy_dtype dtype;
    int64_t ld, rows, cols;
    bool trans;
} sy__part;

/* dst [rows_pad, cols_pad] = the part, zero outside; rows_pad a multiple of 8, cols_pad of
 * SY_TILE_K_STEP. An operand a. */
void sy__pack_rows(sy_dtype to, void *dst, const sy__part *part, int64_t rows_pad,
                   int64_t cols_pad);
/* dst [rows_pad, SY_TILE_N] = the part, zero outside; in bf16 rows 2i and 2i+1 are interleaved.
   rows_pad a multiple of SY_TILE_K_STEP, part->cols at most SY_TILE_N. An operand b. */
void sy__pack_strip(sy_dtype to, void *dst, const sy__part *part, int64_t rows_pad);

/* Ask for the part's memory, so that it is near when it is packed: piece i of n. */
void sy__part_prefetch(const sy__part *part, int64_t i, int64_t n);

#endif

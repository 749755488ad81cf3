/* Four-bit weights: NF4 of QLoRA (Dettmers et al. 2023, arXiv 2305.14314, section 3 and appendix
   E), without double quantisation. A row of K weights is K/2 bytes of codes, the first of a pair in
   the low half, and then an fp32 scale for every 64 weights of the row, the largest of their
   absolute values: K/2 + 4 ceil(K/64) bytes, K a multiple of 8. A weight is level[code] * scale;
   packing what was unpacked gives the same bytes. */
#ifndef SY_BACKEND_NF4_H
#define SY_BACKEND_NF4_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_NF4_BLOCK = 64, SY_NF4_MULTIPLE = 8 };

/* Quantiles of the normal distribution, -1, 0 and 1 among them. */
#define SY_NF4_LEVELS                                                                              \
    {                                                                                              \
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,                      \
            -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,                 \
            0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,    \
            0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0                       \
    }

/* Bytes of a row of K weights. */
int64_t sy_nf4_row_bytes(int64_t K);
/* n <= SY_NF4_BLOCK weights, n even, to n / 2 bytes and their scale. Not finite: the scale is not
   either. */
void sy_nf4_pack_block(const double *values, int64_t n, uint8_t *codes, float *scale);
/* Bytes [first, first + n) of a matrix [rows, K], into out: the row's values are asked for a block
   at a time, get(self, row, column, n, values). */
typedef void sy_nf4_values(void *self, int64_t row, int64_t column, int64_t n, double *values);
void sy_nf4_pack(int64_t K, int64_t first, int64_t n, sy_nf4_values *get, void *self, uint8_t *out);

#ifdef __cplusplus
}
#endif
#endif

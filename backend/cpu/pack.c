/* Packing. Whatever the dtype it moves 32-bit words: an fp32 element or two bf16 elements. All
   copies are one of three: rows, transposed blocks of words, and two bf16 rows zipped into one of
   words. */
#include "backend/cpu/pack_impl.h"

enum { BLOCK = 8 /* side of a transposed block */, ZIP_ROWS = 32, ZIP_COLS = 64 };

typedef uint32_t words8
    __attribute__((vector_size(4 * BLOCK), aligned(2), may_alias)); /* rows of bf16 may be odd */

#define LOW_HALVES 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_HALVES 4, 12, 5, 13, 6, 14, 7, 15

/* dst block = src block transposed; steps in bytes. Each round interleaves row i with row i + 4. */
__attribute__((always_inline)) static inline void transpose_block(char *dst, int64_t dst_step,
                                                                  const char *src, int64_t src_step)
{
    words8 x[BLOCK], y[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        x[i] = *(const words8 *)(src + i * src_step);
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < BLOCK / 2; i++) {
            y[2 * i] = __builtin_shufflevector(x[i], x[i + 4], LOW_HALVES);
            y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + 4], HIGH_HALVES);
        }
        for (int i = 0; i < BLOCK; i++) {
            x[i] = y[i];
        }
    }
    for (int i = 0; i < BLOCK; i++) {
        *(words8 *)(dst + i * dst_step) = x[i];
    }
}

/* The same for a block of which only rows x bytes are there; the rest counts as zero. */
static void transpose_border(char *dst, int64_t dst_step, const char *src, int64_t src_step,
                             int64_t rows, int64_t bytes)
{
    char staged[BLOCK][4 * BLOCK] = {{0}};
    for (int64_t r = 0; r < sy__cpu_min(rows, BLOCK) && bytes > 0; r++) {
        memcpy(staged[r], src + r * src_step, (size_t)sy__cpu_min(bytes, sizeof staged[r]));
    }
    transpose_block(dst, dst_step, staged[0], sizeof staged[0]);
}

/* dst[w, r] = word w of row r, r < n_rows, w < n_words, both multiples of 8. src has `rows` rows of
 * `bytes` bytes. */
SY_CPU_CLONES static void transpose_words(char *dst, int64_t dst_step, int64_t n_words,
                                          int64_t n_rows, const char *src, int64_t src_step,
                                          int64_t rows, int64_t bytes)
{
    for (int64_t w = 0; w < n_words; w += BLOCK) {
        for (int64_t r = 0; r < n_rows; r += BLOCK) {
            char *to = dst + w * dst_step + 4 * r;
            const char *from = src + r * src_step + 4 * w;
            if (r + BLOCK <= rows && 4 * (w + BLOCK) <= bytes) {
                transpose_block(to, dst_step, from, src_step);
            } else {
                transpose_border(to, dst_step, from, src_step, rows - r, bytes - 4 * w);
            }
        }
    }
}

static void copy_rows(char *dst, int64_t dst_step, int64_t n_rows, const char *src,
                      int64_t src_step, int64_t rows, int64_t bytes)
{
    for (int64_t r = 0; r < n_rows; r++) {
        const int64_t n = r < rows ? bytes : 0;
        memcpy(dst + r * dst_step, src + r * src_step, (size_t)n);
        memset(dst + r * dst_step + n, 0, (size_t)(dst_step - n));
    }
}

/* dst [n_pairs, ZIP_COLS] words: (row 2i, row 2i+1) of src side by side, zero outside rows x cols.
 */
SY_CPU_CLONES static void zip_rows(uint32_t *dst, int64_t n_pairs, const sy_bf16 *src, int64_t ld,
                                   int64_t rows, int64_t cols)
{
    for (int64_t i = 0; i < n_pairs; i++) {
        uint32_t *to = dst + i * ZIP_COLS;
        const sy_bf16 *even = src + 2 * i * ld, *odd = even + ld;
        if (cols == ZIP_COLS && 2 * i + 1 < rows) {
            for (int c = 0; c < ZIP_COLS; c++) {
                to[c] = even[c] | (uint32_t)odd[c] << 16;
            }
            continue;
        }
        const int64_t n = 2 * i < rows ? cols : 0;
        for (int64_t c = 0; c < n; c++) {
            to[c] = even[c] | (2 * i + 1 < rows ? (uint32_t)odd[c] << 16 : 0U);
        }
        memset(to + n, 0, (size_t)(ZIP_COLS - n) * sizeof *to);
    }
}

/* Element (r, c) of the part. */
static const char *element(const sy__part *part, int64_t r, int64_t c)
{
    const int64_t at = part->trans ? c * part->ld + r : r * part->ld + c;
    return (const char *)part->src + at * (int64_t)sy_dtype_bytes(part->dtype);
}

/* Rows of an operand a in bf16 that is stored transposed: zip, then transpose the words. */
static void pack_zipped(char *dst, int64_t dst_step, const sy__part *part, int64_t rows_pad,
                        int64_t cols_pad)
{
    uint32_t zipped[ZIP_ROWS / 2][ZIP_COLS];
    for (int64_t c = 0; c < cols_pad; c += ZIP_ROWS) {
        for (int64_t r = 0; r < rows_pad; r += ZIP_COLS) {
            const int64_t rows = sy__cpu_min(part->rows - r, ZIP_COLS);
            zip_rows(zipped[0], ZIP_ROWS / 2, (const sy_bf16 *)element(part, r, c), part->ld,
                     part->cols - c, rows > 0 ? rows : 0);
            transpose_words(dst + r * dst_step + 2 * c, dst_step,
                            sy__cpu_min(rows_pad - r, ZIP_COLS), ZIP_ROWS / 2, (const char *)zipped,
                            sizeof zipped[0], ZIP_ROWS / 2, sizeof zipped[0]);
        }
    }
}

/* The same part in fp32, block by block; what lies outside of it is zero already. */
static void pack_widened(float *dst, int64_t dst_ld, const sy__part *part)
{
    for (int64_t r = 0; r < part->rows; r++) {
        for (int64_t c = 0; c < part->cols; c++) {
            dst[r * dst_ld + c] = sy_bf16_to_f32(*(const sy_bf16 *)element(part, r, c));
        }
    }
}

/* fp32: both operands lie in rows. */
static void pack_f32(float *dst, const sy__part *part, int64_t rows_pad, int64_t cols_pad)
{
    const int64_t step = cols_pad * (int64_t)sizeof *dst, ld = part->ld * (int64_t)sizeof *dst;
    if (part->dtype == SY_BF16) {
        memset(dst, 0, (size_t)(rows_pad * step));
        pack_widened(dst, cols_pad, part);
    } else if (part->trans) {
        transpose_words((char *)dst, step, rows_pad, cols_pad, part->src, ld, part->cols,
                        part->rows * (int64_t)sizeof *dst);
    } else {
        copy_rows((char *)dst, step, rows_pad, part->src, ld, part->rows,
                  part->cols * (int64_t)sizeof *dst);
    }
}

void sy__pack_rows(sy_dtype to, void *dst, const sy__part *part, int64_t rows_pad, int64_t cols_pad)
{
    const int64_t element_bytes = (int64_t)sizeof(sy_bf16);
    if (to == SY_F32) {
        pack_f32(dst, part, rows_pad, cols_pad);
    } else if (part->trans) {
        pack_zipped(dst, cols_pad * element_bytes, part, rows_pad, cols_pad);
    } else {
        copy_rows(dst, cols_pad * element_bytes, rows_pad, part->src, part->ld * element_bytes,
                  part->rows, part->cols * element_bytes);
    }
}

void sy__pack_strip(sy_dtype to, void *dst, const sy__part *part, int64_t rows_pad)
{
    const int64_t element_bytes = (int64_t)sizeof(sy_bf16);
    if (to == SY_F32) {
        pack_f32(dst, part, rows_pad, SY_TILE_N);
    } else if (part->trans) {
        transpose_words(dst, SY_TILE_N * 2 * element_bytes, rows_pad / 2, SY_TILE_N, part->src,
                        part->ld * element_bytes, part->cols, part->rows * element_bytes);
    } else {
        zip_rows(dst, rows_pad / 2, part->src, part->ld, part->rows, part->cols);
    }
}

void sy__part_prefetch(const sy__part *part, int64_t i, int64_t n)
{
    const int64_t element_bytes = (int64_t)sy_dtype_bytes(part->dtype);
    const int64_t rows = part->trans ? part->cols : part->rows; /* as stored */
    const int64_t bytes = (part->trans ? part->rows : part->cols) * element_bytes;
    for (int64_t r = rows * i / n; r < rows * (i + 1) / n; r++) {
        const char *row = (const char *)part->src + r * part->ld * element_bytes;
        for (int64_t at = 0; at < bytes; at += 64) {
            __builtin_prefetch(row + at, 0, 2);
        }
    }
}

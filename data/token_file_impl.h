/* What the readers of token files share. The byte layout of PREFIX.idx, little-endian and packed,
   which the writer has from here too:
     0 magic[9] · 9 version u64 · 17 type u8 · 18 sequences S u64 · 26 document entries D u64
   (documents + 1) 34 length i32[S] · pointer i64[S] (bytes into .bin) · document i64[D] (first
   sequence of each; last: S) · mode i8[S], optional */
#ifndef SY_DATA_TOKEN_FILE_IMPL_H
#define SY_DATA_TOKEN_FILE_IMPL_H

#include <stdint.h>
#include <string.h>

#include "data/token_file.h"

enum {
    SY__IDX_MAGIC_BYTES = 9,
    SY__IDX_AT_VERSION = 9,
    SY__IDX_AT_TYPE = 17,
    SY__IDX_AT_SEQUENCES = 18,
    SY__IDX_AT_DOCUMENTS = 26,
    SY__IDX_HEADER_BYTES = 34,
    SY__IDX_VERSION = 1
};

#define SY__IDX_MAGIC "MMIDIDX\0" /* nine bytes: the terminating NUL counts */

/* Type codes of the format that can hold tokens; the last two are ours, of raw files. */
typedef enum sy__token_type {
    SY__TOKEN_U8 = 1,
    SY__TOKEN_I16 = 3,
    SY__TOKEN_I32 = 4,
    SY__TOKEN_I64 = 5,
    SY__TOKEN_U16 = 8,
    SY__TOKEN_U32 = 100,
    SY__TOKEN_U64 = 101
} sy__token_type;

typedef struct sy__mapping {
    char *path;
    const uint8_t *data;
    int64_t n_bytes;
} sy__mapping;

struct sy_token_file {
    sy__mapping bin, idx; /* no idx: a raw file */
    sy__token_type type;
    int64_t item_bytes;
    int64_t first_byte; /* of the tokens in .bin */
    int64_t n_tokens, n_sequences, n_documents;
    int64_t vocab_size, eod;                    /* eod -1: not known */
    const uint8_t *length, *pointer, *document; /* the arrays of .idx */
    int64_t *start;                             /* [n_sequences+1]; NULL: one behind the other */
};

static inline int64_t sy__token_i64(const uint8_t *array, int64_t i)
{
    int64_t value;
    memcpy(&value, array + 8 * i, sizeof value);
    return value;
}

static inline int64_t sy__token_i32(const uint8_t *array, int64_t i)
{
    int32_t value;
    memcpy(&value, array + 4 * i, sizeof value);
    return value;
}

/* Bytes of a token; 0: no such type. Not collective. */
int64_t sy__token_type_bytes(int32_t type);
/* Map map->path. Not collective. */
sy_status sy__token_map(sy__mapping *map);
/* Where idx is mapped: check it, map .bin, fill in everything. Not collective. */
sy_status sy__token_index_open(sy_token_file *file);
/* Where bin is mapped and there is no index: what kind of file is it? Not collective. */
sy_status sy__token_raw_open(sy_token_file *file, const sy_token_file_spec *spec);

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "token files are little-endian and are copied as they are"
#endif

#endif

/* The byte layout of PREFIX.idx, little-endian and packed, shared by reader and writer:
     0 magic[9] · 9 version u64 · 17 type u8 · 18 sequences S u64 · 26 document entries D u64
   (documents + 1) 34 length i32[S] · pointer i64[S] (bytes into .bin) · document i64[D] (first
   sequence of each; last: S) · mode i8[S], optional */
#ifndef SY_DATA_TOKEN_FILE_IMPL_H
#define SY_DATA_TOKEN_FILE_IMPL_H

#include <stdint.h>

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

/* Type codes of the format that can hold tokens. */
typedef enum sy__token_type {
    SY__TOKEN_U8 = 1,
    SY__TOKEN_I16 = 3,
    SY__TOKEN_I32 = 4,
    SY__TOKEN_I64 = 5,
    SY__TOKEN_U16 = 8
} sy__token_type;

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "token files are little-endian and are copied as they are"
#endif

#endif

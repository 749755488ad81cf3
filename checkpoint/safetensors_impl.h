/* What the parts of safetensors share: the table of types, a reader of JSON objects member by
   member, and the layout of a folder that is to be written. Nothing here is collective. */
#ifndef SY_CHECKPOINT_SAFETENSORS_IMPL_H
#define SY_CHECKPOINT_SAFETENSORS_IMPL_H

#include <jansson.h>

#include "checkpoint/safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SY__ST_FILE "model.safetensors"
#define SY__ST_INDEX "model.safetensors.index.json"
#define SY__ST_METADATA "__metadata__"

enum {
    SY__ST_LENGTH_BYTES = 8,     /* in front of the header */
    SY__ST_JSON_MAX = 100000000, /* bytes of a header, and of an index */
    SY__ST_VALUE_MAX = 1 << 20,  /* text of one value that is not a string */
    SY__ST_SHOWN = 200           /* bytes of a name in a message */
};

/* ---- types ---- */

typedef struct sy__st_type {
    const char *name;
    int32_t bits;
    sy_dtype dtype; /* SY_N_DTYPES: none of ours */
} sy__st_type;

/* By name, NULL where there is none; that of ours. Entries of one array, in the order of rank. */
const sy__st_type *sy__st_type_named(const char *name);
const sy__st_type *sy__st_type_of(sy_dtype dtype);

/* Text of a stranger for a message: cut to size, what is a control character or not UTF-8 as \x1b.
   Returns buf. */
const char *sy__st_show(const char *text, char buf[SY__ST_SHOWN]);
/* May it stand in a message as it is? */
bool sy__st_is_printable(const char *text);

/* ---- JSON, one member at a time ---- */

/* A text that is read from front to back, and never as one tree: a header of 100 MB could become
   fifty times as much. */
typedef struct sy__st_json {
    const char *path, *what; /* "header": for messages */
    const char *member;      /* whose value is being read */
    const char *text, *at, *end;
    char *kept, *kept_end; /* names and values that outlive their tree: shorter than their JSON */
} sy__st_json;

/* Takes the value of the member, which is next in json. key lives as long as json->kept. */
typedef sy_status sy__st_member(void *self, sy__st_json *json, const char *key);

/* To read n_bytes of text, which stays the caller's. */
sy_status sy__st_json_begin(const char *path, const char *what, const char *text, int64_t n_bytes,
                            sy__st_json *out);
void sy__st_json_free(sy__st_json *json);
/* Each member of the object that is next. SY_ERR_USAGE where it is none, not JSON, or has a name
   twice. */
sy_status sy__st_json_object(sy__st_json *json, sy__st_member *member, void *self);
/* The next value, freed with json_decref: a string of any length, or at most SY__ST_VALUE_MAX bytes
   of text. */
sy_status sy__st_json_value(sy__st_json *json, json_t **out);
/* A copy of a string that was read, for which there is room once. */
const char *sy__st_json_keep(sy__st_json *json, const json_t *string);
/* SY_ERR_USAGE where anything but white space is left. */
sy_status sy__st_json_end(sy__st_json *json);

/* ---- a set ---- */

/* self of a set: what its tensors point into. */
typedef struct sy__st_storage {
    char *path, *names;
    int64_t *shapes;
    void *map; /* NULL: the bytes are the caller's */
    size_t map_bytes;
    sy_st_set **part; /* the shards of a folder */
    int64_t n_parts;
} sy__st_storage;

/* An empty set with its storage. */
sy_status sy__st_set_create(sy_st_set **out);

/* ---- a folder to be written ---- */

typedef struct sy__st_place {
    int32_t shard;
    int64_t at, bytes; /* in the shard's file */
} sy__st_place;

typedef struct sy__st_shard {
    char *name;
    char *head; /* the bytes before the data */
    int64_t head_bytes, bytes;
    int64_t first, n; /* specs */
} sy__st_shard;

typedef struct sy__st_layout {
    sy_st_spec *spec;
    sy__st_place *place; /* [n], as spec */
    int64_t n, bytes;    /* of all tensors */
    sy__st_shard *shard;
    int32_t n_shards;
    char *index; /* NULL where there is one shard */
    int64_t index_bytes;
    char *names; /* of spec */
} sy__st_layout;

/* Broken specs are SY_ERR_INTERNAL naming the tensor. */
sy_status sy__st_layout_create(const sy_st_spec *specs, int64_t n, int64_t max_shard_bytes,
                               sy__st_layout *out);
void sy__st_layout_free(sy__st_layout *layout);

#ifdef __cplusplus
}
#endif
#endif

/* The parts of tokenizing: units of text, which threads turn into ids. Nothing here is
   collective. */
#ifndef SY_DATA_TOKENIZE_IMPL_H
#define SY_DATA_TOKENIZE_IMPL_H

#include "data/tokenize.h"
#include "data/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY__BAD_LINES = 8 };

/* A stretch of one input: whole lines of JSONL, or a part of a text that may be encoded apart. */
typedef struct sy__unit {
    const char *path;
    bool jsonl, ends_document;
    int64_t first;  /* number of the first line; or where in the text it begins */
    int64_t n_done; /* bytes of all inputs up to its end */
    char *bytes;    /* [n] */
    int64_t n, max;
    /* filled by sy__unit_encode */
    int32_t *ids; /* [n_ids] of all its documents */
    int64_t n_ids, max_ids;
    int64_t *length; /* [n_documents] ids of each document that ends here */
    int64_t n_documents, max_documents;
    int64_t n_text, n_bad;
    int64_t bad[SY__BAD_LINES]; /* numbers of the first lines that were skipped, and why */
    char why[SY__BAD_LINES][128];
    sy_trace error; /* status SY_OK: none */
} sy__unit;

/* What a thread needs beside. */
typedef struct sy__encode_room {
    int32_t *ids;
    int64_t max_ids;
} sy__encode_room;

/* The ids of a unit, or unit->error. */
void sy__unit_encode(const sy_tokenize_spec *spec, const sy_tokenizer *tokenizer,
                     sy__encode_room *room, sy__unit *unit);
void sy__unit_free(sy__unit *unit);

typedef struct sy__unit_line sy__unit_line;

/* n threads that encode units. Units come back in the order in which they were given. */
sy_status sy__unit_line_create(const sy_tokenize_spec *spec, const sy_tokenizer *tokenizer,
                               int32_t n, sy__unit_line **out);
void sy__unit_line_destroy(sy__unit_line **line);
/* An empty unit to fill, or NULL: take one first. */
sy__unit *sy__unit_line_empty(sy__unit_line *line);
/* The unit that sy__unit_line_empty gave is filled. */
void sy__unit_line_give(sy__unit_line *line);
/* Wait for the oldest unit given; NULL: there is none. It is empty again with the next call. */
sy__unit *sy__unit_line_take(sy__unit_line *line);

#ifdef __cplusplus
}
#endif
#endif

/* The parts of tokenizing: units of text, which threads turn into ids. Nothing here is
   collective. */
#ifndef SY_DATA_TOKENIZE_IMPL_H
#define SY_DATA_TOKENIZE_IMPL_H

#include "data/bpe_impl.h"
#include "data/token_writer.h"
#include "data/tokenize.h"
#include "data/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY__BAD_LINES = 8 };

/* Where reading is, between two units. */
typedef struct sy__text_place {
    int64_t input; /* which */
    int64_t text;  /* bytes of its text, unpacked, that are in units */
    int64_t rest;  /* that were read beyond: so units are cut at the same places again */
    int64_t first; /* of its next unit: line number, or the same as text */
} sy__text_place;

/* A stretch of one input: whole lines of JSONL, or a part of a text that may be encoded apart. */
typedef struct sy__unit {
    const char *path;
    bool jsonl, ends_document;
    int64_t first;        /* number of the first line; or where in the text it begins */
    int64_t n_done;       /* bytes of all inputs up to its end */
    sy__text_place after; /* where reading goes on */
    char *bytes;          /* [n] */
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

/* out = a line of JSON with the same strings but numbers that fit; repair: and U+FFFD for what is
   not UTF-8 and for an escape that is half of a surrogate pair. What is no JSON stays none. */
sy_status sy__json_tame(const char *line, int64_t n, bool repair, sy__text *out);

/* The ids of a unit, or unit->error. */
void sy__unit_encode(const sy_tokenize_spec *spec, const sy_tokenizer *tokenizer,
                     sy__encode_room *room, sy__unit *unit);
void sy__unit_free(sy__unit *unit);

/* Where a job is: all of it, between two units. */
typedef struct sy__job_state {
    sy__text_place place;
    sy_token_writer_mark written;
    sy_tokenize_result done;
} sy__job_state;

typedef struct sy__journal {
    char *path, *next; /* the file, and the one that replaces it */
    uint64_t order;    /* a digest of what the job was asked, and of its inputs */
    bool is_kept;      /* its inputs can be read again */
} sy__journal;

typedef enum sy__journal_found {
    SY__JOURNAL_NONE,
    SY__JOURNAL_OTHER, /* of another order, or damaged */
    SY__JOURNAL_OURS
} sy__journal_found;

sy_status sy__journal_open(const sy_tokenize_spec *spec, const sy_tokenizer *tokenizer,
                           sy__journal *out);
void sy__journal_close(sy__journal *journal);
/* Is there one, and of what? Ours: *out is where its job stood. */
sy__journal_found sy__journal_read(const sy__journal *journal, sy__job_state *out);
/* Replace it, durably. What state->written speaks of must be on disk. SY_ERR_IO. */
sy_status sy__journal_write(const sy__journal *journal, const sy__job_state *state);
void sy__journal_remove(const sy__journal *journal);

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

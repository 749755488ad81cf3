/* Byte-level BPE in parts: the vocabulary, merging, the pattern that cuts text into pieces, tokens
   that are matched before it, and the two kinds of file that say all this. A bpe does not change
   once it is open, so threads share it; what one call writes lies in a scratch. */
#ifndef SY_DATA_BPE_IMPL_H
#define SY_DATA_BPE_IMPL_H

#include "data/tokenizer_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Nothing here is collective. */

/* Token bytes by id, and ids by their bytes. */
typedef struct sy__vocab {
    char *bytes; /* all tokens, one behind the other */
    int64_t n_bytes, max_bytes;
    int64_t *at;     /* [n_ids] where the bytes of an id begin */
    int32_t *length; /* [n_ids] -1: no such id */
    int32_t n_ids, max_ids, longest;
    int32_t *slot; /* [n_slots] an id + 1, or 0; a power of two, at most half full */
    int64_t n_slots, n_slots_used;
} sy__vocab;

/* Give id its bytes [n]; findable: sy__vocab_find may return it. SY_ERR_USAGE: id has bytes, or the
   bytes have an id. */
sy_status sy__vocab_add(sy__vocab *v, int32_t id, const char *bytes, int64_t n, bool findable);
/* The id of bytes [n]; -1: none. */
int32_t sy__vocab_find(const sy__vocab *v, const char *bytes, int64_t n);
void sy__vocab_free(sy__vocab *v);

/* Which two neighbours become one, and in which order. */
typedef struct sy__pair {
    uint64_t key; /* left << 32 | right */
    int32_t rank; /* the lowest goes first */
    int32_t id;   /* what they become, + 1; 0: an empty slot */
} sy__pair;

typedef struct sy__merges {
    sy__pair *slot; /* [n_slots] a power of two, at most half full */
    int64_t n_slots, n;
} sy__merges;

/* A pair that is there already takes the new rank, as a dictionary's would. */
sy_status sy__merges_add(sy__merges *m, int32_t left, int32_t right, int32_t rank, int32_t id);
const sy__pair *sy__merges_find(const sy__merges *m, int32_t left, int32_t right);
void sy__merges_free(sy__merges *m);

/* Room for one merge: a list of the symbols that are left, and a heap of the pairs among them. */
typedef struct sy__merge_room {
    struct sy__symbol *symbol; /* [max] */
    uint64_t *heap;            /* [3 max] rank << 32 | place of the left one */
    int64_t max;
} sy__merge_room;

/* ids [*n_ids] of a piece [n], n > 0, from its single bytes, the lowest rank first, leftmost among
   equals. O(n log n). Requires room for n ids. Sennrich et al. 2016, section 3.2. */
sy_status sy__merges_apply(const sy__merges *m, const int32_t byte_id[256], sy__merge_room *room,
                           const char *piece, int64_t n, int32_t *ids, int64_t *n_ids);
void sy__merge_room_free(sy__merge_room *room);

/* A regular expression that cuts text into pieces. */
typedef struct sy__pattern {
    void *code;        /* pcre2_code */
    bool drop_gaps;    /* text that does not match is left out; else it is a piece of its own */
    bool is_known;     /* one of those whose seams are known: sy__pattern_is_seam */
    bool word_is_word; /* an optional space and ASCII letters up to other ASCII: always a piece */
} sy__pattern;

typedef enum sy__known_pattern {
    SY__PATTERN_GPT2,
    SY__PATTERN_CL100K,
    SY__PATTERN_QWEN2,
    SY__PATTERN_O200K,
    SY__N_PATTERNS
} sy__known_pattern;

/* Room for one match. */
typedef struct sy__match_room {
    void *data, *context, *stack; /* pcre2_match_data, pcre2_match_context, pcre2_jit_stack */
} sy__match_room;

const char *sy__pattern_text(sy__known_pattern which);
/* `what` names the key in messages. literal: no expression but a text. */
sy_status sy__pattern_open(const char *what, const char *text, bool literal, bool drop_gaps,
                           sy__pattern *out);
void sy__pattern_close(sy__pattern *p);
/* Where the match at or behind `from` begins and ends; *begin = *end = n: none. Requires valid
   UTF-8. */
sy_status sy__pattern_next(const sy__pattern *p, sy__match_room *room, const char *text, int64_t n,
                           int64_t from, int64_t *begin, int64_t *end);
/* Does every known pattern have a boundary before text[at], 0 < at < n, that stays when the text
   ends there? breaks: behind a line feed too, not only before a space. */
bool sy__pattern_is_seam(const char *text, int64_t n, int64_t at, bool breaks);
void sy__match_room_free(sy__match_room *room);

/* Tokens that are matched before the pattern is. */
typedef struct sy__added_token {
    char *text;
    int64_t n;
    int32_t id;
    bool special, normalized, lstrip, rstrip;
    bool single_word; /* not where a word's character stands beside it */
} sy__added_token;

typedef struct sy__added {
    sy__added_token *token; /* [n] after sy__added_sort: by first byte, the longest first */
    int32_t n;
    int32_t first[257]; /* where those of a first byte begin */
} sy__added;

void sy__added_sort(sy__added *a);
/* The next match at or behind *from of a token with that `normalized`: its place [*begin, *end)
   with the white space it takes, *from set to go on; NULL: no more. */
const sy__added_token *sy__added_next(const sy__added *a, bool normalized, bool special,
                                      const char *text, int64_t n, int64_t *from, int64_t *begin,
                                      int64_t *end);
void sy__added_free(sy__added *a);

/* Text that grows. */
typedef struct sy__text {
    char *bytes;
    int64_t n, max;
} sy__text;

sy_status sy__text_reserve(sy__text *t, int64_t n);
/* Bytes [n] up to the first that is no UTF-8; n: all are. */
int64_t sy__utf8_valid(const char *bytes, int64_t n);
/* out = bytes with U+FFFD for each longest beginning of a character that does not go on (Unicode
   15.0, section 3.9; Python's errors="replace"). */
sy_status sy__utf8_repair(const char *bytes, int64_t n, sy__text *out);
/* White space as \s has it: its length at text [n], 0: none. Behind: of what ends at n. */
int64_t sy__utf8_space(const char *text, int64_t n);
int64_t sy__utf8_space_behind(const char *text, int64_t n);
/* Does text [n] begin with a character of a word, end with one? \w as Rust's regex has it: letters,
   what is alphabetic, marks, digits, connectors, joiners. Requires valid UTF-8. */
bool sy__utf8_word(const char *text, int64_t n);
bool sy__utf8_word_behind(const char *text, int64_t n);
/* out = text in Unicode's normal form C. *same: it is already, out is not filled. */
sy_status sy__utf8_nfc(const char *text, int64_t n, sy__text *out, bool *same);

enum { SY__MAX_SPLITS = 8, SY__MAX_IDS = 1 << 22 };

typedef struct sy__bpe {
    sy__vocab vocab;
    sy__merges merges;
    int32_t byte_id[256];
    bool whole_first; /* a piece that is a token is not merged (ignore_merges, rank files) */
    bool nfc, prefix_space;
    sy__added added;
    sy__pattern split[SY__MAX_SPLITS]; /* each cuts the pieces of the one before */
    int32_t n_splits;
    int32_t eod_id; /* -1: none */
    struct sy__bpe_pool *pool;
} sy__bpe;

/* Fill a bpe, all zero before, from a tokenizer.json; from a rank file. Errors: SY_ERR_USAGE names
   the file and the key or line. On failure too the caller frees it. */
sy_status sy__bpe_read_json(const sy_tokenizer_source *source, sy__bpe *b);
sy_status sy__bpe_read_ranks(const sy_tokenizer_source *source, sy__bpe *b);
/* Does it look like a rank file? */
bool sy__bpe_is_rank_file(const sy_tokenizer_source *source);

/* Scratches of the threads that encode. */
sy_status sy__bpe_pool_create(struct sy__bpe_pool **out);
void sy__bpe_pool_destroy(struct sy__bpe_pool **pool);

/* The ids of a text. special: special tokens are matched; refuse: text that is not UTF-8. */
sy_status sy__bpe_encode(const sy__bpe *b, bool special, bool refuse, const char *text, int64_t n,
                         int32_t *ids, int64_t *n_ids);

#ifdef __cplusplus
}
#endif
#endif

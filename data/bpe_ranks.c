/* Rank files of tiktoken: a line is a token in base64, a space, and its rank, which is its id. Two
   neighbours merge where together they are a token, in the order of its rank. The file names
   neither its pattern nor its end of document: the name does, its own or one put before it. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "data/bpe_impl.h"

/* The names of tiktoken and Llama 3, the number of ranks, and the id of the end of a document. */
static const struct {
    const char *name;
    sy__known_pattern pattern;
    int32_t n_ranks, eod_id;
} encodings[] = {
    {"gpt2", SY__PATTERN_GPT2, 50256, 50256},     {"r50k", SY__PATTERN_GPT2, 50256, 50256},
    {"p50k", SY__PATTERN_GPT2, 50280, 50256},     {"cl100k", SY__PATTERN_CL100K, 100256, 100257},
    {"o200k", SY__PATTERN_O200K, 199998, 199999}, {"llama3", SY__PATTERN_CL100K, 128000, 128001},
    {"qwen", SY__PATTERN_QWEN2, 151643, 151643},
};

enum { N_ENCODINGS = sizeof encodings / sizeof encodings[0], MAX_TOKEN = 4096 };

static int32_t digit64(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

/* Base64 text [n] -> bytes [*n_bytes]; false: it is none. */
static bool decode64(const char *text, int64_t n, char bytes[MAX_TOKEN], int64_t *n_bytes)
{
    int64_t n_pad = 0, n_out = 0;
    while (n_pad < 2 && n_pad < n && text[n - 1 - n_pad] == '=') {
        n_pad++;
    }
    if (n == 0 || n % 4 != 0 || n / 4 * 3 > MAX_TOKEN) {
        return false;
    }
    for (int64_t i = 0; i < n; i += 4) {
        uint32_t bits = 0;
        for (int64_t k = i; k < i + 4; k++) {
            const int32_t digit = k < n - n_pad ? digit64(text[k]) : 0;
            if (digit < 0) {
                return false;
            }
            bits = bits << 6 | (uint32_t)digit;
        }
        for (int32_t k = 16; k >= 0; k -= 8) {
            bytes[n_out++] = (char)(uint8_t)(bits >> k);
        }
    }
    *n_bytes = n_out - n_pad;
    return true;
}

/* A line [n] of the file -> its token and rank. */
static bool read_line(const char *line, int64_t n, char token[MAX_TOKEN], int64_t *n_token,
                      int32_t *rank)
{
    const char *space = memchr(line, ' ', (size_t)n);
    int64_t value = 0, at = space != NULL ? space - line + 1 : n;
    if (at == n || n - at > 9) {
        return false;
    }
    for (; at < n; at++) {
        if (line[at] < '0' || line[at] > '9') {
            return false;
        }
        value = 10 * value + (line[at] - '0');
    }
    *rank = (int32_t)value;
    return decode64(line, space - line, token, n_token);
}

/* The line at bytes [n], without its end; *next: where the one behind begins. */
static int64_t line_length(const char *bytes, int64_t n, int64_t *next)
{
    const char *end = memchr(bytes, '\n', (size_t)n);
    const int64_t length = end != NULL ? end - bytes : n;
    *next = end != NULL ? length + 1 : n;
    return length > 0 && bytes[length - 1] == '\r' ? length - 1 : length;
}

bool sy__bpe_is_rank_file(const sy_tokenizer_source *source)
{
    char token[MAX_TOKEN];
    int64_t n_token = 0, next = 0;
    int32_t rank = 0;
    return read_line(source->bytes, line_length(source->bytes, source->n_bytes, &next), token,
                     &n_token, &rank);
}

static sy_status read_tokens(const sy_tokenizer_source *source, sy__bpe *b, int32_t *n_ranks)
{
    sy_status st = SY_OK;
    char token[MAX_TOKEN];
    int64_t n_token = 0, number = 0;
    for (int64_t at = 0, next = 0; at < source->n_bytes; at += next) {
        int32_t rank = 0;
        const int64_t n = line_length(source->bytes + at, source->n_bytes - at, &next);
        number++;
        if (n == 0) {
            continue;
        }
        SY_REQUIRE(read_line(source->bytes + at, n, token, &n_token, &rank), SY_ERR_USAGE,
                   "%s:%lld: expected a token in base64, a space and its rank", source->name,
                   (long long)number);
        SY_REQUIRE(n_token > 0 && rank < SY__MAX_IDS, SY_ERR_USAGE,
                   "%s:%lld: an empty token, or a rank of %d or more", source->name,
                   (long long)number, SY__MAX_IDS);
        if (sy__vocab_add(&b->vocab, rank, token, n_token, true) != SY_OK) {
            char why[128];
            (void)snprintf(why, sizeof why, "%s", sy_error_message());
            sy_error_clear();
            SY_REQUIRE(false, SY_ERR_USAGE, "%s:%lld: %s", source->name, (long long)number, why);
        }
        ++*n_ranks;
    }

cleanup:
    return st;
}

/* Every way in which two tokens are a third. */
static sy_status find_merges(sy__bpe *b)
{
    sy_status st = SY_OK;
    const sy__vocab *v = &b->vocab;
    for (int32_t id = 0; id < v->n_ids; id++) {
        const char *bytes = v->bytes + v->at[id];
        for (int32_t n_left = 1; n_left < v->length[id]; n_left++) {
            const int32_t left = sy__vocab_find(v, bytes, n_left);
            const int32_t right = sy__vocab_find(v, bytes + n_left, v->length[id] - n_left);
            if (left >= 0 && right >= 0) {
                SY_TRY(sy__merges_add(&b->merges, left, right, id, id));
            }
        }
    }

cleanup:
    return st;
}

static sy_status find_encoding(const sy_tokenizer_source *source, int32_t *out)
{
    sy_status st = SY_OK;
    const char *slash = strrchr(source->name, '/');
    const char *name = slash != NULL ? slash + 1 : source->name;
    for (int32_t i = 0; i < N_ENCODINGS; i++) {
        if (source->encoding != NULL ? strcmp(source->encoding, encodings[i].name) == 0
                                     : strstr(name, encodings[i].name) != NULL) {
            *out = i;
            return SY_OK;
        }
    }
    SY_REQUIRE(source->encoding == NULL, SY_ERR_USAGE,
               "%s: unknown encoding '%s' (known: gpt2, r50k, p50k, cl100k, o200k, llama3, qwen)",
               source->name, source->encoding);
    SY_REQUIRE(false, SY_ERR_USAGE,
               "%s: a rank file without the name of its encoding; say which, such as cl100k:%s "
               "(known: gpt2, r50k, p50k, cl100k, o200k, llama3, qwen)",
               source->name, source->name);

cleanup:
    return st;
}

sy_status sy__bpe_read_ranks(const sy_tokenizer_source *source, sy__bpe *b)
{
    sy_status st = SY_OK;
    int32_t encoding = 0, n_ranks = 0;
    SY_TRY(find_encoding(source, &encoding));
    SY_TRY(read_tokens(source, b, &n_ranks));
    SY_TRY(find_merges(b));
    SY_TRY(sy__pattern_open(source->name, sy__pattern_text(encodings[encoding].pattern), false,
                            false, &b->split[0]));
    b->n_splits = 1;
    b->whole_first = true;
    if (n_ranks == encodings[encoding].n_ranks) {
        b->eod_id = encodings[encoding].eod_id;
    }

cleanup:
    return st;
}

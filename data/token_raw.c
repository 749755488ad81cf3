/* Files that are one stream of ids. llm.c's begin with 256 i32 (magic, version, number of tokens);
   numpy's with a header in Python's words; nanoGPT's and OLMo's with the first id. OLMo calls its
   headerless files .npy and uses the smallest type that holds the vocabulary. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/log.h"
#include "data/token_file_impl.h"

typedef struct type_name {
    const char *name, *numpy;
    sy__token_type type;
} type_name;

static const type_name type_names[] = {
    {"u8", "|u1", SY__TOKEN_U8},   {"u16", "<u2", SY__TOKEN_U16}, {"u32", "<u4", SY__TOKEN_U32},
    {"u64", "<u8", SY__TOKEN_U64}, {"i32", "<i4", SY__TOKEN_I32}, {"i64", "<i8", SY__TOKEN_I64},
};
enum { N_TYPES = sizeof type_names / sizeof type_names[0] };

static void set_type(sy_token_file *file, sy__token_type type)
{
    file->type = type;
    file->item_bytes = sy__token_type_bytes((int32_t)type);
}

/* From first_byte to the end of the file there are whole tokens. */
static sy_status count_tokens(sy_token_file *file)
{
    sy_status st = SY_OK;
    const int64_t n_bytes = file->bin.n_bytes - file->first_byte;
    SY_REQUIRE(n_bytes % file->item_bytes == 0, SY_ERR_USAGE,
               "token file '%s' is truncated, or of another type: %" PRId64 " bytes are no whole "
               "number of tokens of %" PRId64 " (data.raw_type)",
               file->bin.path, n_bytes, file->item_bytes);
    file->n_tokens = n_bytes / file->item_bytes;
    SY_REQUIRE(file->n_tokens > 0, SY_ERR_USAGE, "token file '%s' holds no tokens", file->bin.path);
cleanup:
    return st;
}

/* As many as a header says. */
static sy_status expect_tokens(sy_token_file *file, int64_t n)
{
    sy_status st = SY_OK;
    SY_TRY(count_tokens(file));
    SY_REQUIRE(file->n_tokens == n, SY_ERR_USAGE,
               "token file '%s' is damaged: it holds %" PRId64 " tokens, its header says %" PRId64,
               file->bin.path, file->n_tokens, n);
cleanup:
    return st;
}

/* ---- llm.c ---- */

enum {
    LLMC_HEADER_BYTES = 1024,
    LLMC_GPT2 = 20240520,
    LLMC_LLAMA3 = 20240801,
    LLMC_FIRST = 20240300, /* its other files have magic numbers in this range, too */
    LLMC_LAST = 20241231
};

static bool is_llmc(const sy_token_file *file)
{
    const int64_t magic =
        file->bin.n_bytes >= LLMC_HEADER_BYTES ? sy__token_i32(file->bin.data, 0) : 0;
    return magic >= LLMC_FIRST && magic <= LLMC_LAST;
}

static sy_status open_llmc(sy_token_file *file)
{
    sy_status st = SY_OK;
    const int64_t magic = sy__token_i32(file->bin.data, 0),
                  version = sy__token_i32(file->bin.data, 1), n = sy__token_i32(file->bin.data, 2);
    SY_REQUIRE(magic == LLMC_GPT2 || magic == LLMC_LLAMA3, SY_ERR_USAGE,
               "'%s' is a file of llm.c, but holds no tokens (magic number %" PRId64 ")",
               file->bin.path, magic);
    SY_REQUIRE(version == (magic == LLMC_GPT2 ? 1 : 7), SY_ERR_USAGE,
               "'%s' has version %" PRId64
               " of llm.c's token files; known is %d for its magic number",
               file->bin.path, version, magic == LLMC_GPT2 ? 1 : 7);
    set_type(file, magic == LLMC_GPT2 ? SY__TOKEN_U16 : SY__TOKEN_U32);
    file->first_byte = LLMC_HEADER_BYTES;
    SY_TRY(expect_tokens(file, n));
cleanup:
    return st;
}

/* ---- numpy ---- */

enum { NPY_MAGIC_BYTES = 6, NPY_WORDS_BYTES = 1024 };

static bool is_npy(const sy_token_file *file)
{
    return file->bin.n_bytes >= 10 && memcmp(file->bin.data, "\x93NUMPY", NPY_MAGIC_BYTES) == 0;
}

/* The value behind 'key': in the header's dictionary; NULL: there is none. */
static const char *npy_value(const char *words, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s':", key);
    const char *at = strstr(words, quoted);
    return at == NULL ? NULL : at + strlen(quoted) + strspn(at + strlen(quoted), " ");
}

/* The header's words, as text. */
static sy_status npy_words(sy_token_file *file, char words[NPY_WORDS_BYTES])
{
    sy_status st = SY_OK;
    const uint8_t *data = file->bin.data;
    const int64_t begin = data[6] == 1 ? 10 : 12;
    int64_t n = data[8] + 256 * (int64_t)data[9];
    SY_REQUIRE(data[6] >= 1 && data[6] <= 3 && file->bin.n_bytes >= begin, SY_ERR_USAGE,
               "'%s' has version %d of numpy's format; 1 to 3 are known", file->bin.path, data[6]);
    if (data[6] > 1) {
        n += ((int64_t)data[10] << 16) + ((int64_t)data[11] << 24);
    }
    SY_REQUIRE(n < NPY_WORDS_BYTES && n <= file->bin.n_bytes - begin, SY_ERR_USAGE,
               "'%s' is truncated or damaged: a header of %" PRId64 " bytes", file->bin.path, n);
    file->first_byte = begin + n;
    memcpy(words, data + begin, (size_t)n);
    while (n > 0 && (words[n - 1] == '\n' || words[n - 1] == ' ')) { /* they fill it up */
        n--;
    }
    words[n] = '\0';
cleanup:
    return st;
}

static sy_status open_npy(sy_token_file *file)
{
    sy_status st = SY_OK;
    char words[NPY_WORDS_BYTES], *end = NULL;
    const char *type = NULL, *shape = NULL;
    int64_t n = -1;
    SY_TRY(npy_words(file, words));
    type = npy_value(words, "descr");
    shape = npy_value(words, "shape");
    for (int32_t i = 0; i < N_TYPES && type != NULL; i++) {
        if (*type == '\'' && strncmp(type + 1, type_names[i].numpy, 3) == 0 && type[4] == '\'') {
            set_type(file, type_names[i].type);
        }
    }
    if (shape != NULL && *shape == '(') {
        n = strtoll(shape + 1, &end, 10);
        n = end[0] == ',' && end[1] == ')' ? n : -1;
    }
    SY_REQUIRE(file->item_bytes > 0 && n >= 0, SY_ERR_USAGE,
               "'%s' is no list of integers: numpy's header says %s", file->bin.path, words);
    SY_TRY(expect_tokens(file, n));
cleanup:
    return st;
}

/* ---- no header ---- */

static sy_status open_headerless(sy_token_file *file, const sy_token_file_spec *spec)
{
    sy_status st = SY_OK;
    const char *dot = strrchr(file->bin.path, '.'), *type = spec->type;
    if (type == NULL) {
        const bool olmo = dot != NULL && strcmp(dot, ".npy") == 0;
        type = olmo && spec->vocab_size > 65536                          ? "u32"
               : olmo && spec->vocab_size > 0 && spec->vocab_size <= 256 ? "u8"
                                                                         : "u16";
    }
    for (int32_t i = 0; i < N_TYPES; i++) {
        if (strcmp(type, type_names[i].name) == 0) {
            set_type(file, type_names[i].type);
        }
    }
    SY_REQUIRE(file->item_bytes > 0, SY_ERR_INTERNAL, "tokens of type '%s'", type);
    SY_TRY(count_tokens(file));
    sy_info("'%s' has no header: %" PRId64 " tokens of type %s", file->bin.path, file->n_tokens,
            type);
cleanup:
    return st;
}

sy_status sy__token_raw_open(sy_token_file *file, const sy_token_file_spec *spec)
{
    return is_npy(file)    ? open_npy(file)
           : is_llmc(file) ? open_llmc(file)
                           : open_headerless(file, spec);
}

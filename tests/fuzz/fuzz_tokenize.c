/* Mutated inputs of `tokenize`: lines of JSONL, texts packed by gzip and by zstd. Each is
   tokenized, or refused with one line that names the file; never read past its end, nothing left
   behind. Deterministic: case i is a function of i alone. fuzz_tokenize [CASES [FIRST]] */
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "core/alloc.h"
#include "core/log.h"
#include "data/tokenize.h"
#include "tests/support/fuzz.h"

enum { MAX_BYTES = 1 << 14 };

static const char lines[] =
    "{\"text\": \"one \\u00e9\\ud83d\\ude00 \\\"two\\\" \\\\ \\/\\b\\f\\n\\r\\t\", \"n\": [1, "
    "-2.5e+3, 1e999, 123456789012345678901234567890]}\n\n"
    "{\"id\": {\"a\": null, \"b\": [true, false]}, \"text\": \"\"}\r\n"
    "{\"text\": \"\\ud800 \\udc00\\ud800 \xff \xe2\x82 \xf0\x9f\x98\x80\"}\n"
    "{\"t\": 1}\n[\"text\"]\n{\"text\": \"last\"}";

static const char *const pieces[] = {
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "\\u",
    "\\ud800",
    "\\uDFFF",
    ",",
    ":",
    "\n",
    "\r",
    " ",
    "\"text\"",
    "text",
    "null",
    "1e999",
    "-",
    "0",
    "00000000000000000001",
    "1e",
    "\\u0000",
    "\xff",
    "\xed\xa0\x80",
    "\xf4\x90",
    "9999999999999999999999999",
    "E+",
    ".5",
    "\t",
    "\x01",
};

/* Bytes [*n] changed, taken out, put in, or cut off. */
static void mutate(dice *d, char bytes[MAX_BYTES], size_t *n, bool text)
{
    for (size_t k = below(d, 5); k > 0 && *n > 0; k--) {
        const char *piece = pieces[below(d, COUNT_OF(pieces))];
        const size_t at = below(d, *n), n_piece = strlen(piece);
        const size_t kind = below(d, text ? 4 : 3);
        if (kind == 0) {
            bytes[at] = (char)(uint8_t)below(d, 256);
        } else if (kind == 1 && below(d, 8) == 0) {
            *n = at;
        } else if (kind == 3 && *n + n_piece < MAX_BYTES) {
            memmove(bytes + at + n_piece, bytes + at, *n - at);
            memcpy(bytes + at, piece, n_piece);
            *n += n_piece;
        } else {
            memmove(bytes + at, bytes + at + 1, *n - at - 1);
            (*n)--;
        }
    }
}

/* Lines that are not blank. */
static int64_t count(const char *bytes, size_t n)
{
    int64_t found = 0;
    for (size_t at = 0, end = 0; at < n; at = end + 1) {
        bool filled = false;
        for (end = at; end < n && bytes[end] != '\n'; end++) {
            filled |= bytes[end] != ' ' && bytes[end] != '\t' && bytes[end] != '\r';
        }
        found += filled;
    }
    return found;
}

static size_t pack(dice *d, bool gz, char out[MAX_BYTES])
{
    static char text[MAX_BYTES];
    const size_t n = below(d, sizeof text);
    for (size_t i = 0; i < n; i++) {
        text[i] = (char)(uint8_t)below(d, 3) + 'a';
    }
    if (!gz) { /* two frames */
        size_t k = ZSTD_compress(out, MAX_BYTES / 2, text, n / 2, 1);
        PROVE(!ZSTD_isError(k));
        const size_t more = ZSTD_compress(out + k, MAX_BYTES / 2, text + n / 2, n - n / 2, 1);
        PROVE(!ZSTD_isError(more));
        return k + more;
    }
    z_stream z = {.next_in = (Bytef *)text,
                  .avail_in = (uInt)n,
                  .next_out = (Bytef *)out,
                  .avail_out = MAX_BYTES};
    PROVE(deflateInit2(&z, 1, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    PROVE(deflate(&z, Z_FINISH) == Z_STREAM_END && deflateEnd(&z) == Z_OK);
    return (size_t)z.total_out;
}

/* Tokenize bytes [n] under a name: done, or refused in one line that has the file, and where it is
   of lines, which. Nothing but the output is left. */
static bool try_file(const char *folder, const char *name, const char *bytes, size_t n,
                     sy_tokenize_spec *spec, sy_tokenize_result *result)
{
    static const char *const ends[] = {"bin",     "idx",     "bin.tmp",
                                       "idx.tmp", "doc.tmp", "journal.tmp"};
    char path[256], prefix[256], left[300];
    const char *input = path;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(prefix, sizeof prefix, "%s/out", folder);
    FILE *f = fopen(path, "wb");
    PROVE(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
    spec->inputs = &input;
    spec->n_inputs = 1;
    spec->prefix = prefix;
    spec->tokenizer = "bytes";
    const sy_status st = sy_tokenize(spec, result);
    if (st != SY_OK) {
        const bool empty = strstr(sy_error_message(), "no tokens") != NULL;
        PROVE(st == SY_ERR_USAGE && strchr(sy_error_message(), '\n') == NULL);
        PROVE(strstr(sy_error_message(), empty ? prefix : path) != NULL);
        PROVE(empty || strstr(name, "jsonl") == NULL || strstr(sy_error_message(), "jsonl:"));
        sy_error_clear();
    }
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        snprintf(left, sizeof left, "%s.%s", prefix, ends[i]);
        PROVE((unlink(left) == 0) == (i < 2 && st == SY_OK));
    }
    unlink(path);
    return st == SY_OK;
}

/* Every line that is not blank is a document or a bad one, or one stops it all. */
static bool try_lines(dice *d, const char *folder)
{
    char bytes[MAX_BYTES];
    size_t n = sizeof lines - 1;
    memcpy(bytes, lines, n);
    mutate(d, bytes, &n, true);
    sy_tokenize_result r = {0};
    sy_tokenize_spec spec = {.skip_bad_lines = below(d, 2) > 0,
                             .refuse_invalid = below(d, 2) > 0,
                             .append_eod = below(d, 2) > 0};
    const bool good = try_file(folder, "f.jsonl", bytes, n, &spec, &r);
    PROVE(!good || r.n_documents + r.n_bad_lines == count(bytes, n));
    PROVE(!good || spec.skip_bad_lines || r.n_bad_lines == 0);
    return good;
}

static bool try_packed(dice *d, const char *folder, bool gz)
{
    char bytes[MAX_BYTES];
    size_t n = pack(d, gz, bytes);
    sy_tokenize_result r;
    mutate(d, bytes, &n, false);
    return try_file(folder, gz ? "f.txt.gz" : "f.txt.zst", bytes, n, &(sy_tokenize_spec){0}, &r);
}

int main(int argc, char **argv)
{
    const int64_t n = argc > 1 ? atoll(argv[1]) : 1500, first = argc > 2 ? atoll(argv[2]) : 0;
    int64_t n_good[3] = {0}, n_all[3] = {0};
    char folder[64]; /* in memory where that is possible: each case syncs its files */
    snprintf(folder, sizeof folder, "%s/sy_fuzz_XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    PROVE(mkdtemp(folder));
    sy_log_setup(0, 1, SY_LOG_ERROR);
    for (int64_t i = first; i < first + n; i++) {
        dice d = dice_of(i);
        const int kind = (int)(i % 3);
        n_good[kind] += kind == 0 ? try_lines(&d, folder) : try_packed(&d, folder, kind == 1);
        n_all[kind]++;
        PROVE(sy_alloc_live() == 0);
    }
    PROVE(rmdir(folder) == 0);
    bool both_ways = true; /* or the mutations are too wild or too tame */
    for (int k = 0; k < 3; k++) {
        printf("%" PRId64 " of %" PRId64 " accepted\n", n_good[k], n_all[k]);
        both_ways &= n_good[k] > n_all[k] / 20 && n_good[k] < n_all[k] * 19 / 20;
    }
    return n >= 1000 && !both_ways;
}

/* Mutated tokenizer files: refused with one line that names the file, or a tokenizer that encodes
   any bytes to ids below its size, and whose ids decode within the room it asked for. No crash, no
   leak. Deterministic: case i is a function of i and of the corpus. fuzz_tokenizer FOLDER [CASES
   [FIRST]]

   With -DSY_LIBFUZZER and clang's -fsanitize=fuzzer it is a target of libFuzzer. */

#include "core/alloc.h"
#include "data/tokenizer.h"
#include "tests/support/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char sample[] =
    "It's the <|endoftext|> <tool>\n\n  x12 \xc3\xa9 e\xcc\x81 \xff \xe3\x80\x80 "
    "\xf0\x9f\x98\x80 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\t\r\n";

static void prove_texts(sy_tokenizer *t, const char *text, int64_t n)
{
    int64_t n_ids = 0, n_back = 0;
    const int64_t max = sy_tokenizer_max_ids(t, n);
    int32_t *ids = malloc((size_t)max * sizeof *ids + 1);
    PROVE(ids != NULL && sy_tokenizer_cut(t, text, n) <= n);
    sy_status st = sy_tokenizer_encode(t, text, n, ids, &n_ids);
    if (st != SY_OK) { /* a pattern that gives up */
        PROVE(st == SY_ERR_USAGE && strstr(sy_error_message(), "pattern"));
        sy_error_clear();
        n_ids = 0;
    }
    PROVE(n_ids <= max);
    for (int64_t i = 0; i < n_ids; i++) {
        PROVE(ids[i] >= 0 && ids[i] < t->vocab_size);
    }
    char *back = malloc((size_t)sy_tokenizer_max_bytes(t, n_ids) + 1);
    PROVE(back && sy_tokenizer_decode(t, ids, n_ids, back, &n_back) == SY_OK);
    PROVE(n_back <= sy_tokenizer_max_bytes(t, n_ids));
    free(back);
    free(ids);
}

static bool try_input(const uint8_t *bytes, size_t n)
{
    sy_tokenizer *t = NULL;
    sy_status st = sy_tokenizer_open_bytes("cl100k.t", (const char *)bytes, (int64_t)n, &t);
    if (st == SY_OK) {
        prove_texts(t, sample, sizeof sample - 1);
        t->match_special = true;
        prove_texts(t, sample, sizeof sample - 1);
    } else {
        PROVE((st == SY_ERR_USAGE || st == SY_ERR_UNSUPPORTED) && t == NULL);
        PROVE(strstr(sy_error_message(), "cl100k.t") && !strchr(sy_error_message(), '\n'));
        sy_error_clear();
    }
    sy_tokenizer_close(&t);
    PROVE(sy_alloc_live() == 0);
    return st == SY_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    (void)try_input(data, size);
    return 0;
}

#ifndef SY_LIBFUZZER

/* SentencePiece's own reader is not ours to fuzz. */
static const char *const seeds[] = {"gpt2.json", "prefix.json", "llama3.json", "qwen2.json",
                                    "toy_cl100k.tiktoken"};

static const char *const pieces[] = {
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\\\",
    " ",
    "\n",
    "0",
    "-1",
    "999999",
    "4194303",
    "1e9",
    "null",
    "true",
    "false",
    "\"NFC\"",
    "\"normalizer\":{\"type\":\"NFC\"}",
    "\"lstrip\":true",
    "\"String\"",
    "|",
    "(",
    ")",
    "*",
    "+?",
    "(?=",
    "(?<=a)",
    "\\\\s",
    "\\\\S",
    "\\\\p{L}",
    "[^",
    "{2,3}",
    "\\u0000",
    "\\u0120",
    "\\u00e9",
    "\xff",
    "=",
    "IQ==",
    "\"!\":0",
    "[\"!\",\"!\"]",
    "\"! !\"",
    "(a+)+b",
    "(?R)",
    "\\\\1",
};

/* Half of the places lie outside the long lists, where the keys are. */
static size_t place(dice *d, const input *in)
{
    const char *vocab = memmem(in->bytes, in->n, "\"vocab\"", 7);
    const size_t n = vocab != NULL ? (size_t)(vocab - (const char *)in->bytes) : in->n;
    return below(d, 2) > 0 ? below(d, n + 1) : below(d, in->n + 1);
}

static void mutate_once(dice *d, input *in)
{
    const size_t at = place(d, in), rest = in->n - at, n = rest > 0 ? 1 + below(d, rest) : 0;
    const char *piece = pieces[below(d, COUNT_OF(pieces))];
    const uint8_t byte = (uint8_t)below(d, 256);
    switch (below(d, 6)) {
    case 0:
        splice(in, at, rest > 0 ? 1 : 0, &byte, 1);
        break;
    case 1:
        splice(in, at, 0, piece, strlen(piece));
        break;
    case 2:
        splice(in, at, n < 16 ? n : 0, "", 0);
        break;
    case 3: /* the end gone */
        in->n = below(d, 16) > 0 ? in->n : at;
        break;
    default:
        splice(in, at, rest < strlen(piece) ? rest : strlen(piece), piece, strlen(piece));
    }
}

int main(int argc, char **argv)
{
    static input corpus[COUNT_OF(seeds)], in;
    PROVE(argc > 1);
    for (size_t i = 0; i < COUNT_OF(seeds); i++) {
        read_seed(argv[1], seeds[i], &corpus[i]);
    }
    const int64_t n = argc > 2 ? atoll(argv[2]) : 2000, first = argc > 3 ? atoll(argv[3]) : 0;
    int64_t n_accepted = 0;
    for (int64_t i = first; i < first + n; i++) {
        dice d = dice_of(i);
        input_copy(&in, &corpus[below(&d, COUNT_OF(seeds))]);
        for (size_t k = below(&d, 4); k > 0; k--) {
            mutate_once(&d, &in);
        }
        n_accepted += try_exact(try_input, &in);
    }
    printf("%" PRId64 " files, %" PRId64 " accepted\n", n, n_accepted);
    /* Both ways must have been taken, or the mutations are too wild or too tame. */
    return n >= 1000 && (n_accepted < n / 20 || n_accepted > n * 19 / 20);
}

#endif

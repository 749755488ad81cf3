/* Mutated files of questions (`eval --choices`): refused with one line that names the file, or
   questions whose ids and counts a model can score. Deterministic: case i is a function of i alone.
   fuzz_choices [CASES [FIRST]] */
#include "core/alloc.h"
#include "launch/choices_read.h"
#include "tests/support/fuzz.h"

enum { MAX_BYTES = 1 << 12, VOCAB = 200, S = 32 };

static const char seed[] =
    "{\"context\": \"What is it?\", \"choices\": [\" a\", \" much longer than the context\"], "
    "\"answer\": 1}\n\n  \n"
    "{\"answer\": 0, \"choices\": [\"\\u0041\", \"\\\"\", \"c\"], \"context\": \"a context that is "
    "longer than the model sees\", \"more\": [1, {}]}\r\n"
    "{\"context\": \"x\", \"choices\": [\"b\", \"c\"], \"answer\": 0}";

static const char *const pieces[] = {"{",
                                     "}",
                                     "[",
                                     "]",
                                     ",",
                                     ":",
                                     "\"",
                                     "\\",
                                     "\n",
                                     "\"answer\"",
                                     "-1",
                                     "2",
                                     "1e9",
                                     "null",
                                     "\"context\"",
                                     "\"\"",
                                     "\\u0000",
                                     "\xc3\xa9",
                                     "\xff",
                                     "999999999999999999999",
                                     "\"choices\"",
                                     "[\"a\",\"b\"]",
                                     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};

static void prove_quiz(const sy_quiz *q)
{
    int64_t n_right = 0;
    PROVE(q->n >= 2 * q->n_questions && q->n_questions >= 1);
    for (int64_t i = 0; i < q->n; i++) {
        const sy_scored *s = &q->scored[i];
        PROVE(s->n >= 2 && s->n <= S + 1 && s->n_scored >= 1 && s->n_scored < s->n);
        PROVE(q->choice[i].bytes > 0 && q->choice[i].question < q->n_questions);
        for (int64_t t = 0; t < s->n; t++) {
            PROVE(s->ids[t] >= 0 && s->ids[t] < VOCAB);
        }
        n_right += q->choice[i].right;
    }
    PROVE(n_right == q->n_questions);
}

int main(int argc, char **argv)
{
    const int64_t n = argc > 1 ? atoll(argv[1]) : 5000, first = argc > 2 ? atoll(argv[2]) : 0;
    int64_t n_good = 0;
    sy_tokenizer *tokenizer = NULL;
    PROVE(sy_tokenizer_open("bytes", &tokenizer) == SY_OK);
    const int64_t held = sy_alloc_live();
    for (int64_t i = first; i < first + n; i++) {
        dice d = dice_of(i);
        char bytes[MAX_BYTES];
        size_t n_bytes = sizeof seed - 1;
        memcpy(bytes, seed, n_bytes);
        mutate_text(&d, bytes, &n_bytes, pieces, COUNT_OF(pieces));
        char *exact = malloc(n_bytes + 1); /* so that a sanitizer finds a read past it */
        PROVE(exact);
        memcpy(exact, bytes, n_bytes + 1);
        sy_quiz q = {.path = "q.jsonl", .tokenizer = tokenizer, .vocab_size = VOCAB, .S = S};
        const sy_status st = sy_quiz_parse(&q, exact);
        if (st == SY_OK) {
            prove_quiz(&q);
            n_good++;
        } else {
            PROVE(st == SY_ERR_USAGE && strstr(sy_error_message(), "'q.jsonl'") &&
                  strchr(sy_error_message(), '\n') == NULL);
            sy_error_clear();
        }
        sy_quiz_free(&q);
        free(exact);
        PROVE(sy_alloc_live() == held);
    }
    sy_tokenizer_close(&tokenizer);
    printf("%" PRId64 " of %" PRId64 " accepted\n", n_good, n);
    return n >= 1000 && (n_good < n / 20 || n_good > n * 19 / 20);
}

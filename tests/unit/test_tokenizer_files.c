/* Tokenizers of files against ids that tokenizers, tiktoken and sentencepiece gave
   (tests/parity/make_tokenizers.py), where texts may be cut, and files that are refused. */
#include "tests/support/data_files.h"

#include <jansson.h>
#include <pthread.h>

#include "core/alloc.h"
#include "data/tokenizer.h"

enum { MAX_TEXT = 4096, MAX_IDS = 18 * MAX_TEXT + 16 };

typedef struct fixture {
    json_t *root;
    const json_t *texts, *cases;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->root = json_load_file(TOKENIZERS "/expected.json", JSON_ALLOW_NUL, NULL);
    assert_non_null(f->root);
    f->texts = json_object_get(f->root, "texts");
    f->cases = json_object_get(f->root, "cases");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    json_decref(f->root);
    free(f);
    assert_int_equal(sy_alloc_live(), 0);
    return 0;
}

static sy_tokenizer *open_fixture(const char *name)
{
    char path[512];
    sy_tokenizer *tokenizer = NULL;
    snprintf(path, sizeof path, "%s/%s", TOKENIZERS, name);
    if (sy_tokenizer_open(path, &tokenizer) == SY_ERR_UNSUPPORTED) {
        assert_non_null(strstr(sy_error_message(), "libsentencepiece-dev"));
        sy_error_clear();
        return NULL;
    }
    if (tokenizer == NULL) {
        fail_msg("%s", sy_error_message());
    }
    return tokenizer;
}

static int64_t encode(const sy_tokenizer *t, const char *text, int64_t n, int32_t *ids)
{
    int64_t n_ids = 0;
    int32_t *room = calloc((size_t)sy_tokenizer_max_ids(t, n), sizeof *room);
    assert_int_equal(sy_tokenizer_encode(t, text, n, room, &n_ids), SY_OK);
    assert_true(n_ids <= MAX_IDS);
    memcpy(ids, room, (size_t)n_ids * sizeof *ids);
    free(room);
    return n_ids;
}

static void expect_ids(const char *name, size_t i, const int32_t *ids, int64_t n,
                       const json_t *expected)
{
    bool same = n == (int64_t)json_array_size(expected);
    for (int64_t k = 0; same && k < n; k++) {
        same = ids[k] == json_integer_value(json_array_get(expected, (size_t)k));
    }
    if (!same) {
        fail_msg("%s, text %zu: other ids than expected", name, i);
    }
}

static void expect_case(const fixture *f, const char *name, const char *kind)
{
    const json_t *all = json_object_get(json_object_get(f->cases, name), kind);
    sy_tokenizer *t = open_fixture(name);
    int32_t *ids = calloc(MAX_IDS, sizeof *ids);
    if (t != NULL && all != NULL) {
        t->match_special = strcmp(kind, "special") == 0;
        for (size_t i = 0; i < json_array_size(f->texts); i++) {
            const json_t *text = json_array_get(f->texts, i);
            /* twice: the second time from the cache of pieces */
            for (int k = 0; k < 2; k++) {
                int64_t n =
                    encode(t, json_string_value(text), (int64_t)json_string_length(text), ids);
                expect_ids(name, i, ids, n, json_array_get(all, i));
            }
        }
    }
    free(ids);
    sy_tokenizer_close(&t);
}

static void files_of_every_kind_give_the_ids_of_their_makers(void **state)
{
    static const char *const names[] = {"gpt2.json",  "prefix.json",         "llama3.json",
                                        "qwen2.json", "toy_cl100k.tiktoken", "toy.model"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        expect_case(*state, names[i], "ordinary");
        expect_case(*state, names[i], "special");
    }
}

static void ids_become_their_text_again(void **state)
{
    static const char *const names[] = {"gpt2.json", "llama3.json", "toy_cl100k.tiktoken"};
    const fixture *f = *state;
    int32_t *ids = calloc(MAX_IDS, sizeof *ids);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        sy_tokenizer *t = open_fixture(names[i]);
        for (size_t k = 0; k < json_array_size(f->texts); k++) {
            const json_t *text = json_array_get(f->texts, k);
            int64_t n = encode(t, json_string_value(text), (int64_t)json_string_length(text), ids);
            char *back = calloc((size_t)sy_tokenizer_max_bytes(t, n) + 1, 1);
            assert_int_equal(sy_tokenizer_decode(t, ids, n, back, &n), SY_OK);
            assert_int_equal(n, json_string_length(text));
            assert_memory_equal(back, json_string_value(text), (size_t)n);
            free(back);
        }
        sy_tokenizer_close(&t);
    }
    free(ids);
}

/* Any text of these, cut where it may be, has the ids of its parts. */
static void text_cut_where_it_may_be_keeps_its_ids(void **state)
{
    static const char *const bits[] = {
        " ",  "\n", "a", "don't", "'s", "\xe3\x80\x80", "\xc2\xa0",
        "12", "/",  "!", "\t",    "\r", "e\xcc\x81",    "\xe3\x81\x8a"};
    static const char *const names[] = {"gpt2.json", "prefix.json", "llama3.json", "qwen2.json",
                                        "toy_cl100k.tiktoken"};
    int32_t whole[512], parts[512];
    uint32_t dice = 1;
    int64_t n_cut = 0;
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        sy_tokenizer *t = open_fixture(names[i]);
        for (int round = 0; round < 2000; round++) {
            char text[128] = "";
            for (int k = 0; k < 12; k++) {
                dice = dice * 1664525u + 1013904223u;
                strcat(text, bits[(dice >> 16) % (sizeof bits / sizeof bits[0])]);
            }
            const int64_t n = (int64_t)strlen(text), at = sy_tokenizer_cut(t, text, n);
            assert_true(at >= 0 && at < n);
            const int64_t n_whole = encode(t, text, n, whole);
            int64_t n_parts = encode(t, text, at, parts);
            n_parts += encode(t, text + at, n - at, parts + n_parts);
            assert_int_equal(n_parts, n_whole);
            assert_memory_equal(whole, parts, (size_t)n_whole * sizeof *whole);
            n_cut += at > 0;
        }
        sy_tokenizer_close(&t);
    }
    assert_true(n_cut > 3000);
}

static void bytes_that_are_no_text_are_replaced_or_refused(void **state)
{
    /* what Python's errors="replace" makes of it: one U+FFFD for each longest beginning */
    static const char bad[] = "a\xff\xe3\x81z\xf0\x9f\x98\xed\xa0\x80\xc3";
    static const char mended[] = "a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                                 "\xef\xbf\xbd\xef\xbf\xbd";
    sy_tokenizer *t = open_fixture("llama3.json");
    int32_t ids[128], expected[128];
    int64_t n = encode(t, bad, sizeof bad - 1, ids);
    (void)state;
    assert_int_equal(n, encode(t, mended, sizeof mended - 1, expected));
    assert_memory_equal(ids, expected, (size_t)n * sizeof *ids);
    t->refuse_invalid = true;
    data_expect_error(sy_tokenizer_encode(t, bad, sizeof bad - 1, ids, &n), SY_ERR_USAGE, "byte 1 ",
                      "not UTF-8");
    sy_tokenizer_close(&t);
}

/* One word without an end: quadratic merging would not come back. */
static void long_run_of_one_letter_is_quick(void **state)
{
    enum { N = 1 << 21 };
    sy_tokenizer *t = open_fixture("gpt2.json");
    char *text = malloc(N);
    int32_t *ids = malloc((size_t)sy_tokenizer_max_ids(t, N) * sizeof *ids);
    int64_t n = 0;
    (void)state;
    memset(text, 'e', N);
    assert_int_equal(sy_tokenizer_encode(t, text, N, ids, &n), SY_OK);
    assert_true(n > 1000 && n <= N);
    free(ids);
    free(text);
    sy_tokenizer_close(&t);
}

typedef struct worker {
    pthread_t thread;
    const sy_tokenizer *tokenizer;
    const fixture *f;
    int64_t sum;
} worker;

static void *encode_all(void *arg)
{
    worker *w = arg;
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < json_array_size(w->f->texts); i++) {
            int32_t ids[2048];
            int64_t n = 0;
            const json_t *text = json_array_get(w->f->texts, i);
            if (json_string_length(text) > 500 ||
                sy_tokenizer_encode(w->tokenizer, json_string_value(text),
                                    (int64_t)json_string_length(text), ids, &n) != SY_OK) {
                continue;
            }
            for (int64_t k = 0; k < n; k++) {
                w->sum = w->sum * 31 % 1000003 + ids[k];
            }
        }
    }
    return NULL;
}

static void threads_that_share_a_tokenizer_agree(void **state)
{
    worker w[4];
    sy_tokenizer *t = open_fixture("qwen2.json");
    for (int i = 0; i < 4; i++) {
        w[i] = (worker){.tokenizer = t, .f = *state};
        assert_int_equal(pthread_create(&w[i].thread, NULL, encode_all, &w[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(w[i].thread, NULL);
        assert_true(w[i].sum != 0 && w[i].sum == w[0].sum);
    }
    sy_tokenizer_close(&t);
}

static void end_of_document_is_found_by_name(void **state)
{
    sy_tokenizer *t = open_fixture("gpt2.json");
    char text[256];
    int64_t n = 0;
    (void)state;
    assert_int_equal(t->eod_id, t->vocab_size - 1);
    assert_int_equal(sy_tokenizer_decode(t, &t->eod_id, 1, text, &n), SY_OK);
    assert_int_equal(n, 0);
    sy_tokenizer_close(&t);
    t = open_fixture("toy_cl100k.tiktoken"); /* not of the size that the encoding has */
    assert_int_equal(t->eod_id, t->vocab_size);
    sy_tokenizer_close(&t);
}

static void replaced(const char *path, const char *old, const char *by)
{
    static char text[1 << 20], out[1 << 20];
    FILE *f = fopen(TOKENIZERS "/qwen2.json", "rb");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    char *at = strstr(text, old);
    assert_non_null(at);
    int n = snprintf(out, sizeof out, "%.*s%s%s", (int)(at - text), text, by, at + strlen(old));
    data_write(path, out, (size_t)n);
}

/* How often the token is met, as Hugging Face tokenizers 0.23.3 says. */
static void token_that_is_a_single_word_is_none_beside_one(void **state)
{
    static const struct {
        const char *text;
        int32_t n;
    } cases[] = {{"<tool>", 1},
                 {" <tool>.", 1},
                 {"x<tool>", 0},
                 {"<tool>_", 0},
                 {"5<tool>", 0},
                 {"\xc2\xb2<tool>", 1},     /* superscript two */
                 {"<tool>\xe2\x80\x8d", 0}, /* joiner */
                 {"\xe2\x92\xb6<tool>", 0}, /* A in a circle */
                 {"\xd9\xa3<tool>", 0},     /* Arabic three */
                 {"<tool>\xe2\x85\xa7", 0}, /* Roman eight */
                 {"<tool>\xe2\x80\x94", 1}, /* dash */
                 {"\xe4\xb8\x80<tool>", 0},
                 {"<tool><tool>", 2},
                 {"a<tool> <tool>", 1}};
    data_dir *dir = data_dir_open();
    const char *path = data_path(dir, "qwen2.json");
    sy_tokenizer *t = NULL;
    (void)state;
    replaced(path, "\"<tool>\",\"single_word\":false", "\"<tool>\",\"single_word\":true");
    assert_int_equal(sy_tokenizer_open(path, &t), SY_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t ids[256], n_met = 0;
        int64_t n = 0;
        assert_int_equal(
            sy_tokenizer_encode(t, cases[i].text, (int64_t)strlen(cases[i].text), ids, &n), SY_OK);
        for (int64_t k = 0; k < n; k++) {
            n_met += ids[k] == 421;
        }
        if (n_met != cases[i].n) {
            fail_msg("%s: %d", cases[i].text, n_met);
        }
    }
    sy_tokenizer_close(&t);
    data_dir_close(dir);
}

static void end_of_document_is_the_token_that_is_named(void **state)
{
    static const struct {
        const char *config, *eod, *why; /* why NULL: it is <tool> */
    } cases[] = {
        {NULL, "<tool>", NULL},
        {"{\"eos_token\": \"<tool>\"}", "config", NULL},
        {"{\"eos_token\": {\"content\": \"<tool>\", \"lstrip\": false}}", "config", NULL},
        {"{\"eos_token\": null}", "config", "names no eos_token"},
        {"{\"eos_token\": \"<tool\"}", "config", "no token"},
        {"{", "config", "tokenizer_config.json:1"},
        {NULL, "<tool><tool>", "2 ids"},
        {NULL, "", "0 ids"},
    };
    data_dir *dir = data_dir_open();
    const char *config = data_path(dir, "tokenizer_config.json");
    (void)state;
    replaced(data_path(dir, "tokenizer.json"), "\"special\":true", "\"special\":true");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_tokenizer *t = NULL;
        if (cases[i].config != NULL) {
            data_write(config, cases[i].config, strlen(cases[i].config));
        }
        assert_int_equal(sy_tokenizer_open(dir->path, &t), SY_OK);
        assert_int_equal(t->eod_id, 420);
        const sy_status st = sy_tokenizer_set_eod(t, cases[i].eod);
        if (cases[i].why == NULL) {
            assert_int_equal(st, SY_OK);
            assert_int_equal(t->eod_id, 421);
        } else {
            data_expect_error(st, SY_ERR_USAGE, "--eod", cases[i].why);
            assert_int_equal(t->eod_id, 420);
        }
        assert_false(t->match_special);
        sy_tokenizer_close(&t);
    }
    data_dir_close(dir);
}

static void json_that_says_something_else_is_refused_by_name(void **state)
{
    static const struct {
        const char *old, *by, *key, *why;
    } bad[] = {
        {"\"type\":\"BPE\"", "\"type\":\"WordPiece\"", "model.type", "\"WordPiece\""},
        {"\"type\":\"NFC\"", "\"type\":\"NFKC\"", "normalizer.type", "\"NFKC\""},
        {"\"dropout\":null", "\"dropout\":0.1", "model.dropout", "0.1"},
        {"\"byte_fallback\":false", "\"byte_fallback\":true", "model.byte_fallback", "true"},
        {"\"behavior\":\"Isolated\"", "\"behavior\":\"Contiguous\"", "behavior", "Contiguous"},
        {"\"type\":\"Split\"", "\"type\":\"Metaspace\"", "pre_tokenizer.type", "Metaspace"},
        {"(?i:'s", "(?i:\\\\w", "pre_tokenizer.pattern", "\\w"},
        {"(?i:'s", "(?i:(", "pre_tokenizer.pattern", "cannot be read"},
        {"|\\\\s+\"", "|\\\\s*\"", "pre_tokenizer.pattern", "empty"},
        {"\"!\":0,", "\"!\":0,\"!\":1,", "qwen2", "duplicate"},
        {"\"!\":0,", "\"!\":1,", "model.vocab", "id 1 is given twice"},
        {"\"!\":0,", "", "byte 0x21", "tokens"},
        {"\"!\":0,", "\"!\":-1,", "model.vocab", "'!'"},
        {"\"merges\":[", "\"merges\":[[\"!\",\"zz\"],", "model.merges[0]", "'zz'"},
        {"\"merges\":[", "\"merges\":[3,", "model.merges[0]", "two tokens"},
        {"\"merges\":[", "\"marges\":[", "model.merges", "missing"},
        {"\"id\":420", "\"id\":7", "added_tokens[0]", "id 7"},
        {"\"version\"", "\"version", "qwen2", "tokenizer.json"},
    };
    data_dir *dir = data_dir_open();
    const char *path = data_path(dir, "qwen2.json");
    sy_tokenizer *t = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        replaced(path, bad[i].old, bad[i].by);
        data_expect_error(sy_tokenizer_open(path, &t), SY_ERR_USAGE, "qwen2.json", bad[i].key);
        (void)sy_tokenizer_open(path, &t);
        if (strstr(sy_error_message(), bad[i].why) == NULL) {
            fail_msg("no '%s' in: %s", bad[i].why, sy_error_message());
        }
        sy_error_clear();
    }
    data_dir_close(dir);
}

static void rank_file_that_is_wrong_is_refused_with_its_line(void **state)
{
    static const struct {
        const char *name, *text, *one, *two;
    } bad[] = {
        {"cl100k.x", "IQ== 0\nIg= 1\n", ":2:", "base64"},
        {"cl100k.x", "IQ== 0\nIg== x\n", ":2:", "rank"},
        {"cl100k.x", "IQ== 0\nIg== 0\n", ":2:", "twice"},
        {"cl100k.x", "IQ== 0\nIQ== 1\n", ":2:", "same token"},
        {"cl100k.x", "IQ== 0\nIg== 99999999\n", ":2:", "rank"},
        {"cl100k.x", "IQ== 0\n", "cl100k.x", "byte 0x00"},
        {"x.tiktoken", "IQ== 0\n", "x.tiktoken", "name of its encoding"},
        {"x.txt", "Some text.\n", "x.txt", "no tokenizer"},
        {"x.txt", "", "x.txt", "empty"},
    };
    data_dir *dir = data_dir_open();
    sy_tokenizer *t = NULL;
    char spec[256];
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *path = data_path(dir, bad[i].name);
        data_write(path, bad[i].text, strlen(bad[i].text));
        data_expect_error(sy_tokenizer_open(path, &t), SY_ERR_USAGE, bad[i].one, bad[i].two);
    }
    snprintf(spec, sizeof spec, "cl99k:%s/toy_cl100k.tiktoken", TOKENIZERS);
    data_expect_error(sy_tokenizer_open(spec, &t), SY_ERR_USAGE, "'cl99k'", "o200k");
    data_expect_error(sy_tokenizer_open(dir->path, &t), SY_ERR_USAGE, dir->path,
                      "no tokenizer.json");
    snprintf(spec, sizeof spec, "qwen:%s/toy_cl100k.tiktoken", TOKENIZERS);
    assert_int_equal(sy_tokenizer_open(spec, &t), SY_OK);
    sy_tokenizer_close(&t);
    data_dir_close(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_of_every_kind_give_the_ids_of_their_makers, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(ids_become_their_text_again, setup, teardown),
        cmocka_unit_test_setup_teardown(text_cut_where_it_may_be_keeps_its_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(bytes_that_are_no_text_are_replaced_or_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(long_run_of_one_letter_is_quick, setup, teardown),
        cmocka_unit_test_setup_teardown(threads_that_share_a_tokenizer_agree, setup, teardown),
        cmocka_unit_test_setup_teardown(end_of_document_is_found_by_name, setup, teardown),
        cmocka_unit_test(end_of_document_is_the_token_that_is_named),
        cmocka_unit_test(token_that_is_a_single_word_is_none_beside_one),
        cmocka_unit_test_setup_teardown(json_that_says_something_else_is_refused_by_name, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(rank_file_that_is_wrong_is_refused_with_its_line, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

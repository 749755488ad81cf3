/* The tokenize engine: what documents and tokens a set of files becomes, and what it says about bad
 * lines. */
#include "tests/support/data_files.h"

#include <zlib.h>
#include <zstd.h>

#include "core/alloc.h"
#include "data/token_file.h"
#include "data/tokenize.h"

static int setup(void **state)
{
    *state = data_dir_open();
    return 0;
}

static int teardown(void **state)
{
    data_dir_close(*state);
    assert_int_equal(sy_alloc_live(), 0);
    return 0;
}

static sy_status run(data_dir *dir, const char *const *inputs, int32_t n, bool append_eod,
                     sy_tokenize_result *result)
{
    const sy_tokenize_spec spec = {.inputs = inputs,
                                   .n_inputs = n,
                                   .prefix = data_path(dir, "out"),
                                   .tokenizer = "bytes",
                                   .append_eod = append_eod};
    return sy_tokenize(&spec, result);
}

static void expect_documents(data_dir *dir, const int32_t *tokens, const int64_t *lengths,
                             int64_t n_documents)
{
    sy_token_file *file = NULL;
    int32_t got[128];
    int64_t n = 0;
    assert_int_equal(sy_token_file_open(data_path(dir, "out"), 257, &file), SY_OK);
    assert_int_equal(sy_token_file_n_documents(file), n_documents);
    for (int64_t d = 0; d < n_documents; d++) {
        assert_int_equal(sy_token_file_document_length(file, d), lengths[d]);
        n += lengths[d];
    }
    assert_int_equal(sy_token_file_n_tokens(file), n);
    assert_int_equal(sy_token_file_read(file, 0, n, got), SY_OK);
    assert_memory_equal(got, tokens, (size_t)n * sizeof *got);
    sy_token_file_close(&file);
}

static void tokenize_text_and_jsonl_gives_their_documents(void **state)
{
    data_dir *dir = *state;
    const char *inputs[3] = {data_path(dir, "a.txt"), data_path(dir, "b.jsonl"),
                             data_path(dir, "c.txt")};
    const char json[] = "{\"text\": \"hi\\n\", \"id\": 1}\r\n"
                        "  \n"
                        "{\"id\": 2, \"text\": \"\"}\n"
                        "{\"text\": \"\\u00e9\\u0000z\"}"; /* no line feed at the end */
    sy_tokenize_result result = {0};
    data_write(inputs[0], "A\0b", 3);
    data_write(inputs[1], json, sizeof json - 1);
    data_write(inputs[2], "", 0);

    const int32_t tokens[10] = {'A', 0, 'b', 'h', 'i', '\n', 0xc3, 0xa9, 0, 'z'};
    const int64_t lengths[5] = {3, 3, 0, 4, 0};
    assert_int_equal(run(dir, inputs, 3, false, &result), SY_OK);
    expect_documents(dir, tokens, lengths, 5);
    assert_int_equal(result.n_documents, 5);
    assert_int_equal(result.n_tokens, 10);
    assert_int_equal(result.n_bytes, 10);

    const int32_t with_eod[13] = {'A', 0, 'b', 256, 'h', 'i', '\n', 256, 0xc3, 0xa9, 0, 'z', 256};
    const int64_t eod_lengths[5] = {4, 4, 0, 5, 0};
    assert_int_equal(run(dir, inputs, 3, true, &result), SY_OK);
    expect_documents(dir, with_eod, eod_lengths, 5);
    assert_int_equal(result.n_tokens, 13);
    assert_int_equal(result.n_bytes, 10);
}

static void count_progress(void *arg, int64_t n_done, int64_t n_all, int64_t n_text)
{
    int64_t *last = arg;
    assert_int_equal(n_text, n_done); /* plain text */
    assert_true(n_done >= last[0] && n_done <= n_all);
    last[0] = n_done;
    last[1] = n_all;
}

/* Longer than the engine's buffer, not a multiple of it. */
static void tokenize_long_text_arrives_whole(void **state)
{
    data_dir *dir = *state;
    enum { N = 2500001 };
    char *text = malloc(N);
    int32_t *got = malloc(N * sizeof *got);
    int64_t progress[2] = {0, 0};
    sy_token_file *file = NULL;
    sy_tokenize_result result;
    for (int32_t i = 0; i < N; i++) {
        text[i] = (char)(uint8_t)((i * 7 + i / 251) % 256);
    }
    const char *input = data_path(dir, "long.txt");
    data_write(input, text, N);
    const sy_tokenize_spec spec = {.inputs = &input,
                                   .n_inputs = 1,
                                   .prefix = data_path(dir, "out"),
                                   .tokenizer = "bytes",
                                   .progress = count_progress,
                                   .progress_arg = progress};
    assert_int_equal(sy_tokenize(&spec, &result), SY_OK);
    assert_int_equal(progress[0], N);
    assert_int_equal(progress[1], N);
    assert_int_equal(sy_token_file_open(data_path(dir, "out"), 256, &file), SY_OK);
    assert_int_equal(sy_token_file_n_documents(file), 1);
    assert_int_equal(sy_token_file_n_tokens(file), N);
    assert_int_equal(sy_token_file_read(file, 0, N, got), SY_OK);
    for (int32_t i = 0; i < N; i++) {
        assert_int_equal(got[i], (uint8_t)text[i]);
    }
    sy_token_file_close(&file);
    free(got);
    free(text);
}

static void tokenize_bad_line_is_named_and_nothing_is_replaced(void **state)
{
    static const struct {
        const char *line, *reason;
    } bad[] = {
        {"{\"text\": \"x\"", "not a line of JSON"},
        {"[\"x\"]", "object"},
        {"{\"txt\": \"x\"}", "no key 'text'"},
        {"{\"text\": 3}", "not a string"},
        {"{\"text\": \"\xff\", }", "not a line of JSON"},
        {"{\"text\": \"x\", \"n\": 01}", "not a line of JSON"},
        {"{\"text\": \"x\", \"n\": 1e}", "not a line of JSON"},
        {"{\"text\": \"\\ud80\"}", "not a line of JSON"},
        {"{\"text\": \"a\"} b", "not a line of JSON"},
    };
    data_dir *dir = *state;
    const char *input = data_path(dir, "bad.jsonl");
    sy_tokenize_result result = {.n_tokens = -5};
    char got[8];
    data_write(data_path(dir, "out.bin"), "old", 3);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[128];
        int n = snprintf(text, sizeof text, "{\"text\": \"fine\"}\n\n%s\n", bad[i].line);
        data_write(input, text, (size_t)n);
        data_expect_error(run(dir, &input, 1, false, &result), SY_ERR_USAGE,
                          "bad.jsonl:3:", bad[i].reason);
    }
    assert_int_equal(result.n_tokens, -5);
    assert_int_equal(data_read(data_path(dir, "out.bin"), got, sizeof got), 3);
    assert_int_not_equal(access(data_path(dir, "out.bin.tmp"), F_OK), 0);
}

/* Numbers that no C type holds are nobody's concern; halves of surrogate pairs and bytes that are
   not UTF-8 become U+FFFD, or make a line a bad one. */
static void tokenize_lines_of_json_as_others_write_it_are_read(void **state)
{
    static const struct {
        const char *line, *text, *refused; /* NULL: it is not */
    } cases[] = {
        {"{\"n\": 123456789012345678901234567890, \"text\": \"a1e999\"}", "a1e999", NULL},
        {"{\"n\": [-1e999, 1E+400, 0.1e-999, true, false], \"text\": \"b\"}", "b", NULL},
        {"{\"text\": \"\\ud83d\\ude00\", \"n\": 1e999}", "\xf0\x9f\x98\x80", NULL},
        {"{\"text\": \"<\\ud800>\"}", "<\xef\xbf\xbd>", "not a line of JSON"},
        {"{\"text\": \"\\udc00\\ud800\"}", "\xef\xbf\xbd\xef\xbf\xbd", "not a line of JSON"},
        {"{\"text\": \"\\\\ud800\", \"n\": 1e999}", "\\ud800", NULL},
        {"{\"text\": \"\\\"\\uD800\", \"k\": \"\\uDFFF\"}", "\"\xef\xbf\xbd", "not a line of JSON"},
        {"{\"text\": \"a\xff\xe2\x82z\"}", "a\xef\xbf\xbd\xef\xbf\xbdz", "not a line of JSON"},
        {"{\"text\": \"a\", \"\xc3\": 1}", "a", "not a line of JSON"},
    };
    data_dir *dir = *state;
    const char *input = data_path(dir, "k.jsonl"), *prefix = data_path(dir, "out");
    sy_tokenize_result result;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_tokenize_spec spec = {
            .inputs = &input, .n_inputs = 1, .prefix = prefix, .tokenizer = "bytes"};
        const int64_t n = (int64_t)strlen(cases[i].text);
        int32_t ids[64];
        for (int64_t t = 0; t < n; t++) {
            ids[t] = (uint8_t)cases[i].text[t];
        }
        data_write(input, cases[i].line, strlen(cases[i].line));
        assert_int_equal(sy_tokenize(&spec, &result), SY_OK);
        expect_documents(dir, ids, &n, 1);
        spec.refuse_invalid = true;
        if (cases[i].refused == NULL) {
            assert_int_equal(sy_tokenize(&spec, &result), SY_OK);
            expect_documents(dir, ids, &n, 1);
        } else {
            data_expect_error(sy_tokenize(&spec, &result), SY_ERR_USAGE,
                              "k.jsonl:1:", cases[i].refused);
        }
    }
}

static void tokenize_other_key_is_read(void **state)
{
    data_dir *dir = *state;
    const char *input = data_path(dir, "k.jsonl");
    sy_tokenize_result result;
    data_write(input, "{\"content\": \"ab\", \"text\": 1}\n", 29);
    const sy_tokenize_spec spec = {.inputs = &input,
                                   .n_inputs = 1,
                                   .prefix = data_path(dir, "out"),
                                   .tokenizer = "bytes",
                                   .jsonl_key = "content"};
    assert_int_equal(sy_tokenize(&spec, &result), SY_OK);
    expect_documents(dir, (const int32_t[]){'a', 'b'}, (const int64_t[]){2}, 1);
}

static void tokenize_unusable_input_is_refused(void **state)
{
    data_dir *dir = *state;
    sy_tokenize_result result;
    const char *missing[2] = {data_path(dir, "a.txt"), data_path(dir, "missing.txt")};
    data_write(missing[0], "abc", 3);
    data_expect_error(run(dir, missing, 2, false, &result), SY_ERR_USAGE, "missing.txt",
                      "No such file");
    const char *folder = "/tmp";
    data_expect_error(run(dir, &folder, 1, false, &result), SY_ERR_USAGE, "/tmp", "folder");
    const char *empty = data_path(dir, "empty.txt");
    data_write(empty, "", 0);
    data_expect_error(run(dir, &empty, 1, true, &result), SY_ERR_USAGE, "out.bin", "no tokens");
}

static void tokenize_bad_lines_are_skipped_and_counted(void **state)
{
    data_dir *dir = *state;
    const char *inputs[2] = {data_path(dir, "a.jsonl"), data_path(dir, "b.jsonl")};
    sy_tokenize_result result;
    data_write(inputs[0], "{\"text\": \"x\"}\n", 14);
    const char text[] = "\n{\"t\": 1}\n{\"text\": \"yz\"}\n{\n\n[\"a\"]";
    data_write(inputs[1], text, sizeof text - 1);
    const sy_tokenize_spec spec = {.inputs = inputs,
                                   .n_inputs = 2,
                                   .prefix = data_path(dir, "out"),
                                   .tokenizer = "bytes",
                                   .skip_bad_lines = true};
    assert_int_equal(sy_tokenize(&spec, &result), SY_OK);
    expect_documents(dir, (const int32_t[]){'x', 'y', 'z'}, (const int64_t[]){1, 2}, 2);
    assert_int_equal(result.n_bad_lines, 3);
    assert_non_null(strstr(result.first_bad, "b.jsonl:2"));
}

/* Many lines and a long text, several times longer than the engine's buffers. */
static char *make_corpus(bool jsonl, size_t *n)
{
    enum { MAX = 3 << 20 };
    static const char *const words[8] = {"", "t", "the", "\xc3\xa9t", "12", ".", "I'll", "x"};
    char *text = malloc(MAX + 4096);
    uint32_t dice = 7;
    *n = 0;
    while (*n < MAX) {
        char *line = text + *n;
        size_t k = (size_t)sprintf(line, jsonl ? "{\"text\": \"" : "");
        dice = dice * 1664525u + 1013904223u;
        for (uint32_t left = dice >> 24; left > 0; left--) {
            dice = dice * 1664525u + 1013904223u;
            k += (size_t)sprintf(line + k, "%s%s", dice & 0x400 ? " " : "  ", words[dice >> 29]);
        }
        k += (size_t)sprintf(line + k, jsonl ? "\"}\n" : "\n");
        *n += k;
    }
    return text;
}

static void expect_same_file(data_dir *dir, const char *end)
{
    char path[128];
    char *bytes[2] = {malloc(32 << 20), malloc(32 << 20)};
    size_t n[2];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s.%s", dir->path, i == 0 ? "out" : "other", end);
        n[i] = (size_t)data_read(path, bytes[i], 32 << 20);
    }
    assert_true(n[0] > 100 && n[0] == n[1]);
    assert_memory_equal(bytes[0], bytes[1], n[0]);
    free(bytes[0]);
    free(bytes[1]);
}

static void tokenize_any_number_of_workers_gives_the_same_files(void **state)
{
    data_dir *dir = *state;
    const char *inputs[2] = {data_path(dir, "a.jsonl"), data_path(dir, "b.txt")};
    sy_tokenize_result result;
    for (int i = 0; i < 2; i++) {
        size_t n = 0;
        char *text = make_corpus(i == 0, &n);
        data_write(inputs[i], text, n);
        free(text);
    }
    sy_tokenize_spec spec = {.inputs = inputs,
                             .n_inputs = 2,
                             .prefix = data_path(dir, "out"),
                             .tokenizer = TOKENIZERS "/qwen2.json",
                             .append_eod = true,
                             .n_workers = 1};
    assert_int_equal(sy_tokenize(&spec, &result), SY_OK);
    assert_true(result.n_documents > 1000);
    spec.prefix = data_path(dir, "other");
    for (int32_t workers = 2; workers <= 5; workers += 3) {
        spec.n_workers = workers;
        assert_int_equal(sy_tokenize(&spec, &result), SY_OK);
        expect_same_file(dir, "bin");
        expect_same_file(dir, "idx");
    }
}

static void pack_gz(const char *path, const char *text, size_t n)
{
    gzFile gz = gzopen(path, "wb1");
    assert_non_null(gz);
    assert_int_equal(gzwrite(gz, text, (unsigned)n), n);
    assert_int_equal(gzclose(gz), Z_OK);
}

static void pack_zst(const char *path, const char *text, size_t n)
{
    size_t max = ZSTD_compressBound(n);
    char *packed = malloc(2 * max);
    /* two frames, as tools that pack in parallel write them */
    size_t k = ZSTD_compress(packed, max, text, n / 2, 1);
    k += ZSTD_compress(packed + k, max, text + n / 2, n - n / 2, 1);
    data_write(path, packed, k);
    free(packed);
}

static void tokenize_packed_inputs_are_those_they_hold(void **state)
{
    data_dir *dir = *state;
    const char *plain[2] = {data_path(dir, "a.jsonl"), data_path(dir, "b.txt")};
    const char *packed[2] = {data_path(dir, "a.jsonl.gz"), data_path(dir, "b.txt.zst")};
    sy_tokenize_result result;
    char bytes[4096];
    for (int i = 0; i < 2; i++) {
        size_t n = 0;
        char *text = make_corpus(i == 0, &n);
        data_write(plain[i], text, n);
        (i == 0 ? pack_gz : pack_zst)(packed[i], text, n);
        free(text);
    }
    sy_tokenize_spec spec = {
        .inputs = plain, .n_inputs = 2, .prefix = data_path(dir, "out"), .tokenizer = "bytes"};
    assert_int_equal(sy_tokenize(&spec, &result), SY_OK);
    spec.inputs = packed;
    spec.prefix = data_path(dir, "other");
    assert_int_equal(sy_tokenize(&spec, &result), SY_OK);
    expect_same_file(dir, "bin");
    expect_same_file(dir, "idx");
    for (int i = 0; i < 2; i++) { /* its beginning alone; something else under its name */
        data_read(packed[i], bytes, sizeof bytes);
        data_write(packed[i], bytes, sizeof bytes);
        spec.inputs = &packed[i];
        spec.n_inputs = 1;
        data_expect_error(sy_tokenize(&spec, &result), SY_ERR_USAGE, packed[i], "ends early");
        data_write(packed[i], "plain text", 10);
        data_expect_error(sy_tokenize(&spec, &result), SY_ERR_USAGE, packed[i], "in the format of");
    }
}

static void tokenize_text_that_is_not_utf8_is_refused_where_asked(void **state)
{
    data_dir *dir = *state;
    const char *input = data_path(dir, "a.txt");
    sy_tokenize_result result;
    data_write(input, "abc \xff", 5);
    sy_tokenize_spec spec = {.inputs = &input,
                             .n_inputs = 1,
                             .prefix = data_path(dir, "out"),
                             .tokenizer = TOKENIZERS "/gpt2.json"};
    assert_int_equal(sy_tokenize(&spec, &result), SY_OK);
    spec.refuse_invalid = true;
    data_expect_error(sy_tokenize(&spec, &result), SY_ERR_USAGE, "a.txt", "byte 4 ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tokenize_text_and_jsonl_gives_their_documents, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(tokenize_long_text_arrives_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(tokenize_bad_line_is_named_and_nothing_is_replaced, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(tokenize_lines_of_json_as_others_write_it_are_read, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(tokenize_other_key_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(tokenize_bad_lines_are_skipped_and_counted, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(tokenize_any_number_of_workers_gives_the_same_files, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(tokenize_packed_inputs_are_those_they_hold, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(tokenize_text_that_is_not_utf8_is_refused_where_asked,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(tokenize_unusable_input_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The tokenize engine: what documents and tokens a set of files becomes, and what it says about bad
 * lines. */
#include "tests/support/data_files.h"

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

static void count_progress(void *arg, int64_t n_done, int64_t n_all)
{
    int64_t *last = arg;
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
        {"{\"text\": \"\xff\"}", "not a line of JSON"},
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tokenize_text_and_jsonl_gives_their_documents, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(tokenize_long_text_arrives_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(tokenize_bad_line_is_named_and_nothing_is_replaced, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(tokenize_other_key_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(tokenize_unusable_input_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

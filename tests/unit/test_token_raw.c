/* Token files without an index, byte by byte as llm.c, numpy, nanoGPT and OLMo write them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/alloc.h"
#include "data/token_file.h"
#include "tests/support/data_files.h"

enum { N = 5, HEADER = 1024 };
static const int32_t tokens[N] = {7, 0, 200, 31, 90};

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

static size_t put_tokens(uint8_t *to, size_t at, size_t item_bytes)
{
    for (int i = 0; i < N; i++) {
        at = data_put(to, at, (uint64_t)tokens[i], item_bytes);
    }
    return at;
}

static size_t llmc_file(uint8_t *to, int32_t magic, int32_t version, int32_t n, size_t item_bytes)
{
    memset(to, 0, HEADER);
    data_put(to, 0, (uint64_t)magic, 4);
    data_put(to, 4, (uint64_t)version, 4);
    data_put(to, 8, (uint64_t)n, 4);
    return put_tokens(to, HEADER, item_bytes);
}

/* As numpy.lib.format writes it: the header's words are padded to a multiple of 64. */
static size_t npy_file(uint8_t *to, const char *words, int version, size_t item_bytes)
{
    const size_t begin = version == 1 ? 10 : 12;
    size_t n = (begin + strlen(words) + 1 + 63) / 64 * 64 - begin;
    memcpy(to, "\x93NUMPY", 6);
    to[6] = (uint8_t)version;
    to[7] = 0;
    data_put(to, 8, n, version == 1 ? 2 : 4);
    memset(to + begin, ' ', n);
    memcpy(to + begin, words, strlen(words));
    to[begin + n - 1] = '\n';
    return put_tokens(to, begin + n, item_bytes);
}

/* The file's tokens are those above. */
static void expect_tokens(const char *path, const sy_token_file_spec *spec)
{
    sy_token_file *file = NULL;
    int32_t out[N];
    assert_int_equal(sy_token_file_open_as(path, spec, &file), SY_OK);
    assert_int_equal(sy_token_file_n_tokens(file), N);
    assert_false(sy_token_file_has_documents(file));
    assert_int_equal(sy_token_file_read(file, 0, N, out), SY_OK);
    assert_memory_equal(out, tokens, sizeof tokens);
    assert_int_equal(sy_token_file_read(file, 2, 2, out), SY_OK);
    assert_memory_equal(out, tokens + 2, 2 * sizeof *tokens);
    sy_token_file_close(&file);
}

static void refused(const char *path, const char *type, const char *words)
{
    sy_token_file *file = NULL;
    data_expect_error(sy_token_file_open_as(
                          path, &(sy_token_file_spec){.vocab_size = 50257, .type = type}, &file),
                      SY_ERR_USAGE, path, words);
}

static void files_of_llmc_are_read(void **state)
{
    uint8_t file[HEADER + 8 * N];
    const char *path = data_path(*state, "fineweb_train_000001.bin");
    data_write(path, file, llmc_file(file, 20240520, 1, N, 2));
    expect_tokens(path, &(sy_token_file_spec){.vocab_size = 50257});
    data_write(path, file, llmc_file(file, 20240801, 7, N, 4));
    expect_tokens(path, &(sy_token_file_spec){.vocab_size = 128256, .type = "u16"});
}

static void files_of_llmc_that_lie_are_refused(void **state)
{
    uint8_t file[HEADER + 8 * N];
    const char *path = data_path(*state, "a.bin");
    data_write(path, file, llmc_file(file, 20240520, 2, N, 2));
    refused(path, NULL, "has version 2");
    data_write(path, file, llmc_file(file, 20240520, 1, N + 1, 2));
    refused(path, NULL, "holds 5 tokens, its header says 6");
    data_write(path, file, llmc_file(file, 20240520, 1, N, 2) - 1);
    refused(path, NULL, "truncated");
    data_write(path, file, HEADER);
    refused(path, NULL, "no tokens");
    data_write(path, file, llmc_file(file, 20240326, 3, N, 2));
    refused(path, NULL, "file of llm.c, but holds no tokens");
}

static void files_of_numpy_are_read(void **state)
{
    static const struct {
        const char *descr;
        size_t bytes;
    } types[] = {{"|u1", 1}, {"<u2", 2}, {"<u4", 4}, {"<u8", 8}, {"<i4", 4}, {"<i8", 8}};
    const char *path = data_path(*state, "a.npy");
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        uint8_t file[256];
        char words[96];
        snprintf(words, sizeof words, "{'descr': '%s', 'fortran_order': False, 'shape': (5,), }",
                 types[i].descr);
        for (int version = 1; version <= 3; version++) {
            data_write(path, file, npy_file(file, words, version, types[i].bytes));
            expect_tokens(path, &(sy_token_file_spec){.vocab_size = 256});
        }
    }
}

static void files_of_numpy_that_are_no_list_of_integers_are_refused(void **state)
{
    static const char *const words[][2] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }", "no list of integers"},
        {"{'descr': '>i4', 'fortran_order': False, 'shape': (5,), }", "no list of integers"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (5, 1), }", "no list of integers"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (), }", "no list of integers"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (-5,), }", "no list of integers"},
        {"{'descr': '<i4', 'fortran_order': False, }", "no list of integers"},
        {"{'shape': (5,), }", "no list of integers"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (6,), }", "its header says 6"},
        {"{'descr': '<i8', 'fortran_order': False, 'shape': (5,), }", "truncated"},
    };
    uint8_t file[256];
    const char *path = data_path(*state, "a.npy");
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        data_write(path, file, npy_file(file, words[i][0], 1, 4));
        refused(path, NULL, words[i][1]);
    }
    size_t n = npy_file(file, words[7][0], 1, 4);
    file[6] = 9;
    data_write(path, file, n);
    refused(path, NULL, "version 9");
    file[6] = 1;
    data_put(file, 8, 60000, 2);
    data_write(path, file, n);
    refused(path, NULL, "header of 60000");
    data_write(path, file, 10);
    refused(path, NULL, "header of 60000");
}

static void files_without_header_have_the_type_that_is_said(void **state)
{
    static const struct {
        const char *name, *type;
        int64_t vocab_size;
        size_t bytes;
    } cases[] = {{"train.bin", NULL, 50257, 2}, {"train.bin", NULL, 256, 2},
                 {"part.npy", NULL, 50280, 2},  {"part.npy", NULL, 100278, 4},
                 {"part.npy", NULL, 256, 1},    {"part.npy", "u16", 100278, 2},
                 {"tokens", "i64", 0, 8},       {"tokens", "u32", 0, 4},
                 {"tokens", "u8", 256, 1},      {"tokens", "i32", 201, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[8 * N];
        const char *path = data_path(*state, cases[i].name);
        data_write(path, bytes, put_tokens(bytes, 0, cases[i].bytes));
        expect_tokens(path, &(sy_token_file_spec){cases[i].vocab_size, cases[i].type, false, 0});
    }
}

static void files_without_header_of_another_type_are_refused(void **state)
{
    uint8_t bytes[8 * N];
    const char *path = data_path(*state, "train.bin");
    data_write(path, bytes, put_tokens(bytes, 0, 2));
    refused(path, "u32", "no whole number of tokens of 4");
    data_write(path, bytes, put_tokens(bytes, 0, 8));
    data_put(bytes, 0, UINT64_MAX, 8);
    data_write(path, bytes, 8 * N);
    refused(path, "u64", "token id -1");
    data_put(bytes, 0, 50257, 2);
    data_write(path, bytes, 2 * N);
    refused(path, NULL, "token id 50257");
    data_write(path, bytes, 0);
    refused(path, NULL, "empty");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_of_llmc_are_read, setup, teardown),
        cmocka_unit_test_setup_teardown(files_of_llmc_that_lie_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(files_of_numpy_are_read, setup, teardown),
        cmocka_unit_test_setup_teardown(files_of_numpy_that_are_no_list_of_integers_are_refused,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(files_without_header_have_the_type_that_is_said, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(files_without_header_of_another_type_are_refused, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

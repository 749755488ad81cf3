/* Mutated token files: the reader refuses them or reads them, but never reads outside them.
   Deterministic: case i is a function of i alone. Run it under -Dsanitize=address,undefined to see
   stray reads. fuzz_token_file [CASES [FIRST]]        a failing case can be run alone */
#include "tests/support/data_files.h"

#include "core/log.h"
#include "core/rng.h"
#include "data/token_file.h"

enum { N_SEQ = 5, N_DOC = 4, BIN_BYTES = 64, IDX_MAX = 256 };

typedef struct draws {
    uint64_t fuzz_case, n;
} draws;

static uint64_t draw(draws *d, uint64_t limit)
{
    return sy_rng_u64(d->fuzz_case, SY_RNG_TEST, d->n++) % limit;
}

/* Values that sit at the borders of checks. */
static uint64_t odd_value(draws *d)
{
    static const uint64_t values[] = {0,
                                      1,
                                      2,
                                      3,
                                      5,
                                      8,
                                      33,
                                      34,
                                      0x7f,
                                      0x80,
                                      0xff,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      0x100000000,
                                      INT64_MAX,
                                      UINT64_C(1) << 63,
                                      UINT64_MAX,
                                      UINT64_MAX / 8,
                                      UINT64_MAX / 12,
                                      UINT64_MAX / 12 + 1,
                                      UINT64_MAX - 33};
    return draw(d, 4) == 0 ? draw(d, UINT64_MAX)
                           : values[draw(d, sizeof values / sizeof values[0])];
}

static void mutate(draws *d, uint8_t *bytes, size_t n)
{
    static const size_t widths[] = {1, 4, 8};
    for (uint64_t m = 1 + draw(d, 4); m > 0; m--) {
        size_t width = widths[draw(d, 3)];
        if (n >= width) {
            data_put(bytes, draw(d, n - width + 1), odd_value(d), width);
        }
    }
}

/* Everything a reader offers, on a file that was accepted. */
static void read_all(const sy_token_file *file)
{
    int32_t chunk[16];
    int64_t n = sy_token_file_n_tokens(file), n_doc = sy_token_file_n_documents(file), sum = 0;
    for (int64_t at = 0; at < n; at += 16) {
        (void)sy_token_file_read(file, at, n - at < 16 ? n - at : 16, chunk);
        int64_t document = sy_token_file_document_of(file, at);
        assert_in_range(document, 0, n_doc - 1);
        assert_true(sy_token_file_document_start(file, document) <= at);
        assert_true(sy_token_file_document_start(file, document + 1) > at);
    }
    for (int64_t i = 0; i < n_doc; i++) {
        assert_true(sy_token_file_document_length(file, i) >= 0);
        sum += sy_token_file_document_length(file, i);
    }
    assert_int_equal(sum, n);
    sy_error_clear();
}

/* What was accepted lies inside .bin: judged from the bytes, as a read just past a mapping's end
 * goes unseen. */
static void check_bounds(const uint8_t *idx, size_t n_bin)
{
    static const int64_t item_bytes[9] = {0, 1, 0, 2, 4, 8, 0, 0, 2};
    uint64_t n_seq;
    memcpy(&n_seq, idx + 18, sizeof n_seq);
    for (uint64_t i = 0; i < n_seq; i++) {
        int32_t length;
        int64_t pointer;
        memcpy(&length, idx + 34 + 4 * i, sizeof length);
        memcpy(&pointer, idx + 34 + 4 * n_seq + 8 * i, sizeof pointer);
        assert_true(length >= 0 && pointer >= 0 && pointer <= (int64_t)n_bin);
        assert_true(pointer + length * item_bytes[idx[17]] <= (int64_t)n_bin);
    }
}

static bool run_case(data_dir *dir, uint64_t fuzz_case)
{
    static const int32_t types[5] = {1, 3, 4, 5, 8}, sizes[5] = {1, 2, 4, 8, 2};
    const int32_t lengths[N_SEQ] = {3, 0, 2, 1, 2};
    const int64_t documents[N_DOC + 1] = {0, 2, 2, 4, 5};
    draws d = {fuzz_case, 0};
    uint8_t idx[IDX_MAX] = {0}, bin[BIN_BYTES] = {0};
    uint64_t t = draw(&d, 5);
    size_t n_idx = data_make_idx(idx, types[t], (size_t)sizes[t], lengths, N_SEQ, documents, N_DOC);
    size_t n_bin = 8 * (size_t)sizes[t];
    mutate(&d, draw(&d, 3) == 0 ? idx + 34 : idx, draw(&d, 2) == 0 ? 34 : n_idx - 34);
    if (draw(&d, 8) == 0) {
        n_idx = draw(&d, IDX_MAX + 1);
    }
    if (draw(&d, 8) == 0) {
        n_bin = draw(&d, BIN_BYTES + 1);
    }
    if (draw(&d, 4) == 0) {
        mutate(&d, bin, n_bin);
    }
    data_write(data_path(dir, "f.idx"), idx, n_idx);
    data_write(data_path(dir, "f.bin"), bin, n_bin);

    sy_token_file *file = NULL;
    sy_status st = sy_token_file_open(data_path(dir, "f"), draw(&d, 2) * 300, &file);
    if (st == SY_OK) {
        check_bounds(idx, n_bin);
        read_all(file);
        sy_token_file_close(&file);
        return true;
    }
    assert_int_equal(st, SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), dir->path));
    assert_null(file);
    sy_error_clear();
    return false;
}

enum { RAW_BYTES = 1024 + 40 };

/* A file of llm.c, of numpy or without header, with 40 bytes of tokens. */
static size_t make_raw(draws *d, uint8_t *to)
{
    static const char words[] =
        "{'descr': '<u2', 'fortran_order': False, 'shape': (20,), }       \n";
    switch (draw(d, 3)) {
    case 0:
        data_put(to, 0, 20240520, 4);
        data_put(to, 4, 1, 4);
        data_put(to, 8, 20, 4);
        return RAW_BYTES;
    case 1:
        memcpy(to, "\x93NUMPY\1\0", 8);
        data_put(to, 8, sizeof words - 1, 2);
        memcpy(to + 10, words, sizeof words - 1);
        return 10 + sizeof words - 1 + 40;
    default:
        return 40;
    }
}

static bool run_raw_case(data_dir *dir, uint64_t fuzz_case)
{
    static const char *const types[] = {NULL, "u8", "u16", "u32", "u64", "i32", "i64"};
    draws d = {fuzz_case, 0};
    uint8_t bytes[RAW_BYTES] = {0};
    size_t n = make_raw(&d, bytes);
    const char *path = data_path(dir, draw(&d, 2) == 0 ? "raw.bin" : "raw.npy");
    if (draw(&d, 2) == 0) {
        mutate(&d, bytes, n < 96 ? n : 96);
    }
    for (uint64_t i = draw(&d, 4); i > 0; i--) { /* other letters in numpy's words */
        bytes[draw(&d, 80)] = (uint8_t) " '(),:0159<>|aiu\0"[draw(&d, 17)];
    }
    if (draw(&d, 4) == 0) {
        n = draw(&d, n + 1);
    }
    data_write(path, bytes, n);

    sy_token_file *file = NULL;
    const sy_token_file_spec spec = {.vocab_size = (int64_t)draw(&d, 2) * 300,
                                     .type = types[draw(&d, 7)]};
    sy_status st = sy_token_file_open_as(path, &spec, &file);
    if (st == SY_OK) {
        int32_t token;
        const int64_t n_tokens = sy_token_file_n_tokens(file);
        assert_in_range(n_tokens, 1, n);
        (void)sy_token_file_read(file, n_tokens - 1, 1, &token);
        sy_error_clear();
        sy_token_file_close(&file);
        return true;
    }
    assert_int_equal(st, SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), dir->path));
    assert_null(file);
    sy_error_clear();
    return false;
}

static uint64_t n_cases = 5000, first_case = 0;

static void run_cases(bool (*run)(data_dir *dir, uint64_t fuzz_case))
{
    uint64_t n_read = 0;
    data_dir *dir = data_dir_open();
    for (uint64_t i = 0; i < n_cases; i++) {
        n_read += run(dir, first_case + i);
    }
    data_dir_close(dir);
    if (n_cases >= 1000) { /* mutations that reach both outcomes, or this tests nothing */
        assert_in_range(n_read, n_cases / 100, n_cases - n_cases / 100);
    }
}

static void token_file_mutated_is_refused_or_read_in_bounds(void **state)
{
    (void)state;
    run_cases(run_case);
}

static void raw_file_mutated_is_refused_or_read_in_bounds(void **state)
{
    (void)state;
    run_cases(run_raw_case);
}

int main(int argc, char **argv)
{
    n_cases = argc > 1 ? strtoull(argv[1], NULL, 10) : n_cases;
    first_case = argc > 2 ? strtoull(argv[2], NULL, 10) : first_case;
    sy_log_setup(0, 1, SY_LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(token_file_mutated_is_refused_or_read_in_bounds),
        cmocka_unit_test(raw_file_mutated_is_refused_or_read_in_bounds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

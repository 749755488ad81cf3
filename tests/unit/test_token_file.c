/* Token files: bytes from the format's description in, tokens out; and the writer's bytes against
 * the same description. */
#include "tests/support/data_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "data/token_file.h"
#include "data/token_writer.h"

/* Three u16 sequences of 3, 1 and 2 tokens; documents [0, 2, 3]. */
static const char golden_hex[] =
    "4d4d4944494458000001000000000000000803000000000000000300000000000000030000000100000002000000"
    "0000000000000000060000000000000008000000000000000000000000000000020000000000000003000000000000"
    "00";
static const uint16_t golden_tokens[6] = {7, 8, 9, 65535, 0, 258};

enum { GOLDEN_BYTES = 94 };

static void golden_idx(uint8_t idx[GOLDEN_BYTES])
{
    for (size_t i = 0; i < GOLDEN_BYTES; i++) {
        unsigned byte;
        assert_int_equal(sscanf(golden_hex + 2 * i, "%2x", &byte), 1);
        idx[i] = (uint8_t)byte;
    }
}

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

static void reader_golden_bytes_gives_tokens_and_documents(void **state)
{
    data_dir *dir = *state;
    uint8_t idx[GOLDEN_BYTES];
    int32_t out[6];
    sy_token_file *file = NULL;
    golden_idx(idx);
    data_write(data_path(dir, "g.idx"), idx, sizeof idx);
    data_write(data_path(dir, "g.bin"), golden_tokens, sizeof golden_tokens);

    assert_int_equal(sy_token_file_open(data_path(dir, "g"), 65536, &file), SY_OK);
    assert_int_equal(sy_token_file_n_tokens(file), 6);
    assert_int_equal(sy_token_file_n_sequences(file), 3);
    assert_int_equal(sy_token_file_n_documents(file), 2);
    assert_int_equal(sy_token_file_document_start(file, 1), 4);
    assert_int_equal(sy_token_file_document_length(file, 0), 4);
    assert_int_equal(sy_token_file_document_length(file, 1), 2);
    const int64_t document_of[6] = {0, 0, 0, 0, 1, 1};
    for (int64_t i = 0; i < 6; i++) {
        assert_int_equal(sy_token_file_document_of(file, i), document_of[i]);
    }
    assert_int_equal(sy_token_file_read(file, 0, 6, out), SY_OK);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(out[i], golden_tokens[i]);
    }
    sy_token_file_close(&file);
    assert_int_equal(sy_token_file_open(data_path(dir, "g.bin"), 65536, &file), SY_OK);
    assert_true(sy_token_file_has_documents(file)); /* the name of either file is as good */
    assert_int_equal(sy_token_file_read(file, 2, 3, out), SY_OK);
    assert_int_equal(out[0], 9);
    assert_int_equal(out[2], 0);
    data_expect_error(sy_token_file_read(file, 4, 3, out), SY_ERR_INTERNAL, "g.bin", "which has 6");
    sy_token_file_close(&file);
}

static void reader_index_with_modes_is_accepted(void **state)
{
    data_dir *dir = *state;
    uint8_t idx[GOLDEN_BYTES + 3] = {0};
    sy_token_file *file = NULL;
    golden_idx(idx);
    data_write(data_path(dir, "m.idx"), idx, sizeof idx);
    data_write(data_path(dir, "m.bin"), golden_tokens, sizeof golden_tokens);
    assert_int_equal(sy_token_file_open(data_path(dir, "m"), 0, &file), SY_OK);
    sy_token_file_close(&file);
}

static void reader_each_type_gives_the_same_tokens(void **state)
{
    data_dir *dir = *state;
    const int32_t types[5] = {1, 3, 4, 5, 8}, sizes[5] = {1, 2, 4, 8, 2}, length = 4;
    const int64_t documents[2] = {0, 1};
    for (int k = 0; k < 5; k++) {
        uint8_t idx[128], bin[32];
        int32_t out[4];
        sy_token_file *file = NULL;
        size_t at = 0;
        for (uint64_t i = 0; i < 4; i++) {
            at = data_put(bin, at, 30 * i, (size_t)sizes[k]);
        }
        data_write(data_path(dir, "t.bin"), bin, at);
        data_write(data_path(dir, "t.idx"), idx,
                   data_make_idx(idx, types[k], (size_t)sizes[k], &length, 1, documents, 1));
        assert_int_equal(sy_token_file_open(data_path(dir, "t"), 91, &file), SY_OK);
        assert_int_equal(sy_token_file_read(file, 0, 4, out), SY_OK);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(out[i], 30 * i);
        }
        sy_token_file_close(&file);
        data_expect_error(sy_token_file_open(data_path(dir, "t"), 90, &file), SY_ERR_USAGE, "t.bin",
                          "token id 90");
    }
}

/* Sequences stand backwards in .bin with a hole, and documents 1 and 2 are empty. */
static void reader_gaps_and_empty_documents_follow_the_index(void **state)
{
    data_dir *dir = *state;
    const int32_t lengths[2] = {2, 3};
    const int64_t documents[5] = {0, 1, 1, 1, 2};
    const uint16_t bin[6] = {5, 6, 7, 99, 3, 4};
    uint8_t idx[160];
    int32_t out[5];
    sy_token_file *file = NULL;
    size_t n = data_make_idx(idx, 8, 2, lengths, 2, documents, 4);
    data_put(idx, 34 + 8, 8, 8); /* pointers: 8, 0 */
    data_put(idx, 34 + 16, 0, 8);
    data_write(data_path(dir, "h.idx"), idx, n);
    data_write(data_path(dir, "h.bin"), bin, sizeof bin);

    assert_int_equal(sy_token_file_open(data_path(dir, "h"), 8, &file),
                     SY_OK); /* 99 is in no sequence */
    assert_int_equal(sy_token_file_n_tokens(file), 5);
    assert_int_equal(sy_token_file_read(file, 0, 5, out), SY_OK);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(out[i], 3 + i);
    }
    assert_int_equal(sy_token_file_read(file, 1, 2, out), SY_OK);
    assert_int_equal(out[0], 4);
    assert_int_equal(out[1], 5);
    assert_int_equal(sy_token_file_document_length(file, 1), 0);
    assert_int_equal(sy_token_file_document_of(file, 1), 0);
    assert_int_equal(sy_token_file_document_of(file, 2), 3);
    sy_token_file_close(&file);
}

static void reader_damaged_index_is_refused_with_reason(void **state)
{
    static const struct {
        size_t at;
        uint64_t value;
        size_t n_bytes;
        const char *file, *reason;
    } damage[] = {
        {0, 'X', 1, "d.idx", "not a Megatron token index"},
        {9, 2, 8, "d.idx", "version 2"},
        {17, 6, 1, "d.idx", "type code 6"},
        {17, 0, 1, "d.idx", "type code 0"},
        {17, 4, 1, "d.bin", "truncated"},          /* u16 data called i32 */
        {18, 4, 8, "d.idx", "truncated"},          /* one sequence more */
        {18, UINT64_MAX, 8, "d.idx", "truncated"}, /* sizes that overflow */
        {18, UINT64_MAX / 12 + 1, 8, "d.idx", "truncated"},
        {18, 3 + (UINT64_C(1) << 62), 8, "d.idx", "cannot hold"}, /* 12 times that is 36 again */
        {26, 3 + (UINT64_C(1) << 61), 8, "d.idx", "cannot hold"},
        {26, 2, 8, "d.idx", "truncated"}, /* one document less */
        {26, UINT64_MAX / 8 + 1, 8, "d.idx", "truncated"},
        {34, UINT32_MAX, 4, "d.idx", "length -1"},
        {34, INT32_MAX, 4, "d.bin", "truncated"},
        {46, UINT64_MAX, 8, "d.idx", "byte -1"},
        {62, INT64_MAX, 8, "d.bin", "truncated"},
        {70, 1, 8, "d.idx", "first document"},
        {78, 4, 8, "d.idx", "document entry 1 is 4"},
        {78, UINT64_MAX, 8, "d.idx", "document entry 1 is -1"},
        {86, 2, 8, "d.idx", "end at sequence 2 of 3"},
    };
    data_dir *dir = *state;
    data_write(data_path(dir, "d.bin"), golden_tokens, sizeof golden_tokens);
    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        uint8_t idx[GOLDEN_BYTES];
        sy_token_file *file = NULL;
        golden_idx(idx);
        data_put(idx, damage[i].at, damage[i].value, damage[i].n_bytes);
        data_write(data_path(dir, "d.idx"), idx, sizeof idx);
        data_expect_error(sy_token_file_open(data_path(dir, "d"), 0, &file), SY_ERR_USAGE,
                          damage[i].file, damage[i].reason);
        assert_null(file);
    }
}

static void reader_any_shortened_file_is_refused(void **state)
{
    data_dir *dir = *state;
    uint8_t idx[GOLDEN_BYTES];
    sy_token_file *file = NULL;
    golden_idx(idx);
    data_write(data_path(dir, "s.bin"), golden_tokens, sizeof golden_tokens);
    for (size_t n = 0; n < sizeof idx; n++) {
        data_write(data_path(dir, "s.idx"), idx, n);
        data_expect_error(sy_token_file_open(data_path(dir, "s"), 0, &file), SY_ERR_USAGE, "s.idx",
                          n == 0 ? "is empty" : "truncated");
    }
    data_write(data_path(dir, "s.idx"), idx, sizeof idx);
    for (size_t n = 0; n < sizeof golden_tokens; n++) {
        data_write(data_path(dir, "s.bin"), golden_tokens, n);
        data_expect_error(sy_token_file_open(data_path(dir, "s"), 0, &file), SY_ERR_USAGE, "s.bin",
                          n == 0 ? "is empty" : "truncated");
    }
}

static void reader_missing_or_foreign_file_is_refused(void **state)
{
    data_dir *dir = *state;
    uint8_t idx[GOLDEN_BYTES];
    sy_token_file *file = NULL;
    const char text[] =
        "Once upon a time there was a file of another kind, longer than the header.";
    data_expect_error(sy_token_file_open(data_path(dir, "none"), 0, &file), SY_ERR_USAGE,
                      "none.idx", "No such file");
    data_expect_error(sy_token_file_open(data_path(dir, "none.bin"), 0, &file), SY_ERR_USAGE,
                      "none.idx", "No such file");
    data_write(data_path(dir, "f.idx"), text, sizeof text);
    data_expect_error(sy_token_file_open(data_path(dir, "f"), 0, &file), SY_ERR_USAGE, "f.idx",
                      "MMIDIDX");
    golden_idx(idx);
    data_write(data_path(dir, "f.idx"), idx, sizeof idx);
    data_expect_error(sy_token_file_open(data_path(dir, "f"), 0, &file), SY_ERR_USAGE, "f.bin",
                      "No such file");
    assert_int_equal(mkdir(data_path(dir, "f.bin"), 0700), 0);
    data_expect_error(sy_token_file_open(data_path(dir, "f"), 0, &file), SY_ERR_USAGE, "f.bin",
                      "regular");
    assert_int_equal(rmdir(data_path(dir, "f.bin")), 0);
}

static void reader_without_tokens_is_refused(void **state)
{
    data_dir *dir = *state;
    uint8_t idx[64];
    const int64_t documents[1] = {0};
    sy_token_file *file = NULL;
    data_write(data_path(dir, "z.idx"), idx, data_make_idx(idx, 8, 2, NULL, 0, documents, 0));
    data_write(data_path(dir, "z.bin"), "ab", 2);
    data_expect_error(sy_token_file_open(data_path(dir, "z"), 0, &file), SY_ERR_USAGE, "z.idx",
                      "no tokens");
}

static void reader_id_out_of_range_names_file_and_byte(void **state)
{
    data_dir *dir = *state;
    const int32_t length = 3;
    const int64_t documents[2] = {0, 1};
    uint8_t idx[128];
    sy_token_file *file = NULL;
    const int16_t i16[3] = {1, 2, -3};
    data_write(data_path(dir, "n.bin"), i16, sizeof i16);
    data_write(data_path(dir, "n.idx"), idx, data_make_idx(idx, 3, 2, &length, 1, documents, 1));
    data_expect_error(sy_token_file_open(data_path(dir, "n"), 0, &file), SY_ERR_USAGE, "n.bin",
                      "token id -3 at byte 4");
    const int64_t i64[3] = {1, INT64_C(1) << 31, 0};
    data_write(data_path(dir, "n.bin"), i64, sizeof i64);
    data_write(data_path(dir, "n.idx"), idx, data_make_idx(idx, 5, 8, &length, 1, documents, 1));
    data_expect_error(sy_token_file_open(data_path(dir, "n"), 0, &file), SY_ERR_USAGE, "n.bin",
                      "token id 2147483648 at byte 8");
}

/* A sparse .bin just above the limit, zeros but for one id. */
static void reader_large_file_is_checked_as_it_is_read(void **state)
{
    data_dir *dir = *state;
    const int32_t length = SY_TOKEN_SCAN_BYTES / 2 + 1;
    const int64_t documents[2] = {0, 1}, bad = 1000000;
    const uint16_t id = 300;
    uint8_t idx[128];
    int32_t out[4];
    sy_token_file *file = NULL;
    int fd = open(data_path(dir, "l.bin"), O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 2 * (off_t)length), 0);
    assert_int_equal(pwrite(fd, &id, sizeof id, 2 * bad), sizeof id);
    close(fd);
    data_write(data_path(dir, "l.idx"), idx, data_make_idx(idx, 8, 2, &length, 1, documents, 1));
    assert_int_equal(sy_token_file_open(data_path(dir, "l"), 300, &file), SY_OK);
    assert_int_equal(sy_token_file_read(file, bad - 4, 4, out), SY_OK);
    data_expect_error(sy_token_file_read(file, bad - 3, 4, out), SY_ERR_USAGE, "l.bin",
                      "token id 300 at byte 2000000");
    sy_token_file_close(&file);
    assert_int_equal(sy_token_file_open(data_path(dir, "l"), 301, &file), SY_OK);
    assert_int_equal(sy_token_file_read(file, bad - 3, 4, out), SY_OK);
    assert_int_equal(out[3], 300);
    sy_token_file_close(&file);
}

/* Documents of 3, 0, 1 and 2 tokens. */
static void write_documents(sy_token_writer *writer)
{
    const int32_t ids[6] = {10, 20, 30, 40, 50, 256};
    const int32_t lengths[4] = {3, 0, 1, 2};
    for (int d = 0, at = 0; d < 4; at += lengths[d], d++) {
        assert_int_equal(sy_token_writer_append(writer, ids + at, lengths[d]), SY_OK);
        assert_int_equal(sy_token_writer_end_document(writer), SY_OK);
    }
}

static void writer_documents_gives_the_format_s_bytes(void **state)
{
    data_dir *dir = *state;
    const int32_t lengths[3] = {3, 1, 2};
    const int64_t documents[5] = {0, 1, 1, 2, 3};
    const uint16_t u16[6] = {10, 20, 30, 40, 50, 256};
    const int32_t i32[6] = {10, 20, 30, 40, 50, 256};
    for (int wide = 0; wide < 2; wide++) {
        uint8_t want[160], got[160], bin[64];
        sy_token_writer *writer = NULL;
        size_t n = data_make_idx(want, wide ? 4 : 8, wide ? 4 : 2, lengths, 3, documents, 4);
        assert_int_equal(sy_token_writer_create(data_path(dir, "w"), wide ? 65500 : 65499, &writer),
                         SY_OK);
        write_documents(writer);
        assert_int_equal(sy_token_writer_finish(writer), SY_OK);
        sy_token_writer_destroy(&writer);
        assert_int_equal(data_read(data_path(dir, "w.idx"), got, sizeof got), n);
        assert_memory_equal(got, want, n);
        n = wide ? sizeof i32 : sizeof u16;
        assert_int_equal(data_read(data_path(dir, "w.bin"), bin, sizeof bin), n);
        assert_memory_equal(bin, wide ? (const void *)i32 : (const void *)u16, n);
        assert_int_not_equal(access(data_path(dir, "w.doc.tmp"), F_OK), 0);
        assert_int_not_equal(access(data_path(dir, "w.bin.tmp"), F_OK), 0);
    }
}

static void writer_given_up_leaves_older_files_alone(void **state)
{
    data_dir *dir = *state;
    char got[8];
    sy_token_writer *writer = NULL;
    data_write(data_path(dir, "o.idx"), "old", 3);
    data_write(data_path(dir, "o.bin"), "data", 4);
    assert_int_equal(sy_token_writer_create(data_path(dir, "o"), 257, &writer), SY_OK);
    write_documents(writer);
    const int32_t bad = 257;
    data_expect_error(sy_token_writer_append(writer, &bad, 1), SY_ERR_INTERNAL, "257", "256");
    sy_token_writer_destroy(&writer);
    assert_int_equal(data_read(data_path(dir, "o.idx"), got, sizeof got), 3);
    assert_int_equal(data_read(data_path(dir, "o.bin"), got, sizeof got), 4);
    assert_int_not_equal(access(data_path(dir, "o.idx.tmp"), F_OK), 0);
    assert_int_not_equal(access(data_path(dir, "o.bin.tmp"), F_OK), 0);
    assert_int_not_equal(access(data_path(dir, "o.doc.tmp"), F_OK), 0);
}

static void writer_of_what_another_writes_is_refused(void **state)
{
    data_dir *dir = *state;
    sy_token_writer *one = NULL, *two = NULL;
    const int32_t ids[2] = {1, 2};
    assert_int_equal(sy_token_writer_create(data_path(dir, "w"), 256, &one), SY_OK);
    assert_int_equal(sy_token_writer_append(one, ids, 2), SY_OK);
    data_expect_error(sy_token_writer_create(data_path(dir, "w"), 256, &two), SY_ERR_USAGE,
                      "w.bin.tmp", "another job");
    assert_int_equal(sy_token_writer_end_document(one), SY_OK);
    assert_int_equal(sy_token_writer_finish(one), SY_OK);
    sy_token_writer_destroy(&one);
}

static void writer_without_tokens_or_folder_is_refused(void **state)
{
    data_dir *dir = *state;
    sy_token_writer *writer = NULL;
    data_expect_error(sy_token_writer_create(data_path(dir, "no/such"), 257, &writer), SY_ERR_USAGE,
                      "no/such.bin.tmp", "No such file");
    assert_int_equal(sy_token_writer_create(data_path(dir, "e"), 257, &writer), SY_OK);
    assert_int_equal(sy_token_writer_end_document(writer), SY_OK);
    data_expect_error(sy_token_writer_finish(writer), SY_ERR_USAGE, "e.bin", "no tokens");
    sy_token_writer_destroy(&writer);
    assert_int_not_equal(access(data_path(dir, "e.bin"), F_OK), 0);
}

static void writer_full_disk_is_an_error(void **state)
{
    data_dir *dir = *state;
    int32_t ids[4096] = {0};
    sy_token_writer *writer = NULL;
    sy_status st = SY_OK;
    assert_int_equal(symlink("/dev/full", data_path(dir, "full.bin.tmp")), 0);
    assert_int_equal(sy_token_writer_create(data_path(dir, "full"), 257, &writer), SY_OK);
    for (int i = 0; i < 16 && st == SY_OK; i++) {
        st = sy_token_writer_append(writer, ids, 4096);
    }
    data_expect_error(st, SY_ERR_IO, "full.bin.tmp", "No space left");
    sy_token_writer_destroy(&writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reader_golden_bytes_gives_tokens_and_documents, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(reader_index_with_modes_is_accepted, setup, teardown),
        cmocka_unit_test_setup_teardown(reader_each_type_gives_the_same_tokens, setup, teardown),
        cmocka_unit_test_setup_teardown(reader_gaps_and_empty_documents_follow_the_index, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(reader_damaged_index_is_refused_with_reason, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(reader_any_shortened_file_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(reader_missing_or_foreign_file_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(reader_without_tokens_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(reader_id_out_of_range_names_file_and_byte, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(reader_large_file_is_checked_as_it_is_read, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(writer_documents_gives_the_format_s_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(writer_given_up_leaves_older_files_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(writer_of_what_another_writes_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(writer_without_tokens_or_folder_is_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(writer_full_disk_is_an_error, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

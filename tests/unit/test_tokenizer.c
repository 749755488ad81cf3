/* Tokenizers: the contract's byte ids, and what has no text. */
#include "tests/support/data_files.h"

#include "core/alloc.h"
#include "data/tokenizer.h"

static void bytes_every_value_is_its_own_id(void **state)
{
    (void)state;
    sy_tokenizer *tokenizer = NULL;
    char text[256], back[256];
    int32_t ids[256];
    int64_t n = 0;
    for (int i = 0; i < 256; i++) {
        text[i] = (char)(uint8_t)i;
    }
    assert_int_equal(sy_tokenizer_open("bytes", &tokenizer), SY_OK);
    assert_int_equal(tokenizer->vocab_size, 256);
    assert_int_equal(tokenizer->eod_id, 256);
    assert_true(sy_tokenizer_max_ids(tokenizer, 256) >= 256 &&
                sy_tokenizer_max_bytes(tokenizer, 256) >= 256);
    assert_int_equal(sy_tokenizer_encode(tokenizer, text, 256, ids, &n), SY_OK);
    assert_int_equal(n, 256);
    for (int i = 0; i < 256; i++) {
        assert_int_equal(ids[i], i);
    }
    assert_int_equal(sy_tokenizer_decode(tokenizer, ids, 256, back, &n), SY_OK);
    assert_int_equal(n, 256);
    assert_memory_equal(back, text, 256);
    sy_tokenizer_close(&tokenizer);
    assert_null(tokenizer);
    assert_int_equal(sy_alloc_live(), 0);
}

static void bytes_ids_without_text_give_nothing(void **state)
{
    (void)state;
    sy_tokenizer *tokenizer = NULL;
    const int32_t ids[4] = {'a', 256, 300, 'b'}, negative = -1;
    char text[4];
    int64_t n = 0;
    assert_int_equal(sy_tokenizer_open("bytes", &tokenizer), SY_OK);
    assert_int_equal(sy_tokenizer_decode(tokenizer, ids, 4, text, &n), SY_OK);
    assert_int_equal(n, 2);
    assert_memory_equal(text, "ab", 2);
    data_expect_error(sy_tokenizer_decode(tokenizer, &negative, 1, text, &n), SY_ERR_USAGE, "-1",
                      "negative");
    assert_int_equal(n, 2);
    sy_tokenizer_close(&tokenizer);
}

static void tokenizer_unknown_name_is_refused_with_the_nearest(void **state)
{
    (void)state;
    sy_tokenizer *tokenizer = NULL;
    data_expect_error(sy_tokenizer_open("byte", &tokenizer), SY_ERR_USAGE, "'byte'",
                      "did you mean 'bytes'");
    data_expect_error(sy_tokenizer_open("/some/tokenizer.json", &tokenizer), SY_ERR_USAGE,
                      "/some/tokenizer.json", "No such file");
    assert_null(tokenizer);
}

static void tokenizer_none_may_be_named_but_reads_no_text(void **state)
{
    (void)state;
    sy_tokenizer *tokenizer = NULL;
    assert_int_equal(sy_tokenizer_check("none"), SY_OK);
    data_expect_error(sy_tokenizer_open("none", &tokenizer), SY_ERR_USAGE, "tokenizer none",
                      "token ids only");
    assert_null(tokenizer);
    assert_int_equal(sy_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_every_value_is_its_own_id),
        cmocka_unit_test(bytes_ids_without_text_give_nothing),
        cmocka_unit_test(tokenizer_unknown_name_is_refused_with_the_nearest),
        cmocka_unit_test(tokenizer_none_may_be_named_but_reads_no_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

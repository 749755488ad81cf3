/* checkpoint/safetensors, reading: files built byte by byte from the format's description. What the
   format forbids is refused with the file and the tensor in the message; what it allows is read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>

#include "checkpoint/safetensors.h"
#include "core/alloc.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/scratch.h"

#define ARRAY(type, shape, begin, end)                                                             \
    "{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
#define F32_1(begin, end) ARRAY("F32", "[1]", begin, end)

static void expect_refusal(sy_status st, sy_status want, const char *word1, const char *word2)
{
    char message[SY_TRACE_MESSAGE];
    snprintf(message, sizeof message, "%s", sy_error_message());
    sy_error_clear();
    if (st != want || !strstr(message, word1) || !strstr(message, word2)) {
        fail_msg("status %s, message \"%s\": wanted %s, \"%s\" and \"%s\"", sy_status_name(st),
                 message, sy_status_name(want), word1, word2);
    }
}

static sy_st_set *parse_ok(const st_bytes *file)
{
    sy_st_set *set = NULL;
    if (sy_st_parse("m.st", file->at, (int64_t)file->n, &set) != SY_OK) {
        fail_msg("refused: %s", sy_error_message());
    }
    return set;
}

static sy_st_set *parse_header_ok(const char *header, size_t n_data, st_bytes *file)
{
    *file = st_make(header, n_data);
    return parse_ok(file);
}

static void close_both(sy_st_set **set, st_bytes *file)
{
    sy_st_close(set);
    assert_null(*set);
    st_free(file);
    assert_int_equal(sy_alloc_live(), 0);
}

/* ---- what is read ---- */

/* Two tensors, 184 bytes: formats.md, appendix A.1. */
static const char golden_hex[] =
    "a0000000000000007b225f5f6d657461646174615f5f223a7b22666f726d6174223a227074227d2c22612e77656967"
    "68"
    "74223a7b226474797065223a22463332222c227368617065223a5b325d2c22646174615f6f666673657473223a5b30"
    "2c"
    "385d7d2c22622e776569676874223a7b226474797065223a2242463136222c227368617065223a5b322c325d2c2264"
    "61"
    "74615f6f666673657473223a5b382c31365d7d7d202020200000c03f000000c0803f004040408040";

static st_bytes golden(void)
{
    st_bytes file = {.n = (sizeof golden_hex - 1) / 2};
    file.at = malloc(file.n);
    assert_non_null(file.at);
    for (size_t i = 0; i < file.n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(golden_hex + 2 * i, "%2x", &byte), 1);
        file.at[i] = (uint8_t)byte;
    }
    return file;
}

static void golden_file_is_read(void **state)
{
    static const float a[2] = {1.5F, -2.0F};
    static const uint16_t b[4] = {0x3f80, 0x4000, 0x4040, 0x4080};
    (void)state;
    st_bytes file = golden();
    sy_st_set *set = parse_ok(&file);
    assert_int_equal(set->n, 2);
    assert_int_equal(set->bytes, 16);
    const sy_st_tensor *t = sy_st_find(set, "a.weight");
    assert_non_null(t);
    assert_int_equal(t->dtype, SY_F32);
    assert_string_equal(t->type_name, "F32");
    assert_string_equal(t->file, "m.st");
    assert_true(t->n_dim == 1 && t->shape[0] == 2 && t->bytes == 8);
    assert_memory_equal(t->data, a, sizeof a);
    t = sy_st_find(set, "b.weight");
    assert_non_null(t);
    assert_int_equal(t->dtype, SY_BF16);
    assert_true(t->n_dim == 2 && t->shape[0] == 2 && t->shape[1] == 2 && t->bytes == 8);
    assert_memory_equal(t->data, b, sizeof b);
    assert_null(sy_st_find(set, "a"));
    assert_null(sy_st_find(set, "b.weight "));
    close_both(&set, &file);
}

static void header_in_any_order_and_white_space_is_read(void **state)
{
    (void)state;
    st_bytes file;
    sy_st_set *set = parse_header_ok(" \r\n\t{ \"b\" : " F32_1("4", "8") "\n,\"a\":" F32_1(
                                         "0", "4") " , \"c\":" F32_1("8", "12") "}  \n ",
                                     12, &file);
    assert_int_equal(set->n, 3);
    for (int i = 0; i < 3; i++) { /* by name; the data are 0, 1, 2, ... */
        const char name[2] = {(char)('a' + i), '\0'};
        assert_string_equal(set->tensor[i].name, name);
        assert_int_equal(*(const uint8_t *)set->tensor[i].data, 4 * i);
    }
    close_both(&set, &file);
}

static void types_all_are_known(void **state)
{
    static const struct {
        const char *name;
        int bits;
        sy_dtype dtype;
    } types[] = {
        {"BOOL", 8, SY_N_DTYPES},
        {"F4", 4, SY_N_DTYPES},
        {"F6_E2M3", 6, SY_N_DTYPES},
        {"F6_E3M2", 6, SY_N_DTYPES},
        {"U8", 8, SY_U8},
        {"I8", 8, SY_N_DTYPES},
        {"F8_E5M2", 8, SY_N_DTYPES},
        {"F8_E4M3", 8, SY_N_DTYPES},
        {"F8_E8M0", 8, SY_N_DTYPES},
        {"F8_E4M3FNUZ", 8, SY_N_DTYPES},
        {"I16", 16, SY_N_DTYPES},
        {"U16", 16, SY_N_DTYPES},
        {"F8_E5M2FNUZ", 8, SY_N_DTYPES},
        {"F16", 16, SY_F16},
        {"BF16", 16, SY_BF16},
        {"I32", 32, SY_I32},
        {"U32", 32, SY_N_DTYPES},
        {"F32", 32, SY_F32},
        {"C64", 64, SY_N_DTYPES},
        {"F64", 64, SY_F64},
        {"I64", 64, SY_I64},
        {"U64", 64, SY_N_DTYPES},
    };
    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        char header[256];
        const int n_bytes = 12 * types[i].bits / 8;
        snprintf(header, sizeof header,
                 "{\"x\":{\"dtype\":\"%s\",\"shape\":[3,4],\"data_offsets\":[0,%d]}}",
                 types[i].name, n_bytes);
        st_bytes file;
        sy_st_set *set = parse_header_ok(header, (size_t)n_bytes, &file);
        assert_string_equal(set->tensor[0].type_name, types[i].name);
        assert_int_equal(set->tensor[0].dtype, types[i].dtype);
        assert_int_equal(set->tensor[0].bytes, n_bytes);
        close_both(&set, &file);
    }
}

static void shapes_of_any_rank_are_read(void **state)
{
    (void)state;
    st_bytes file;
    sy_st_set *set = parse_header_ok(
        "{\"scalar\":" ARRAY("F32", "[]", "0", "4") ",\"empty\":" ARRAY(
            "F64", "[2,0,9223372036854775807]", "4",
            "4") ",\"none\":" ARRAY("I8", "[0]", "0", "0") ",\"deep\":" ARRAY("U8",
                                                                              "[1,1,2,1,1,1,3,1,1]",
                                                                              "4", "10") "}",
        10, &file);
    const sy_st_tensor *t = sy_st_find(set, "scalar");
    assert_true(t && t->n_dim == 0 && t->bytes == 4);
    t = sy_st_find(set, "empty");
    assert_true(t && t->n_dim == 3 && t->shape[2] == INT64_MAX && t->bytes == 0);
    t = sy_st_find(set, "none");
    assert_true(t && t->n_dim == 1 && t->bytes == 0);
    t = sy_st_find(set, "deep");
    assert_true(t && t->n_dim == 9 && t->shape[2] == 2 && t->shape[6] == 3 && t->bytes == 6);
    assert_int_equal(*(const uint8_t *)t->data, 4);
    close_both(&set, &file);
}

static void header_without_tensors_is_read(void **state)
{
    static const char *const headers[] = {"{}", " { } ", "{\"__metadata__\":{}}",
                                          "{\"__metadata__\":{\"a\":\"b\",\"c\":\"\"}}"};
    (void)state;
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        st_bytes file;
        sy_st_set *set = parse_header_ok(headers[i], 0, &file);
        assert_int_equal(set->n, 0);
        assert_null(sy_st_find(set, "__metadata__"));
        close_both(&set, &file);
    }
}

static void entry_unknown_keys_are_ignored(void **state)
{
    (void)state;
    st_bytes file;
    sy_st_set *set = parse_header_ok("{\"x\":{\"strides\":[[{\"a\":null}],1.5e3,true],\"dtype\":"
                                     "\"F32\",\"shape\":[1],\"crc\":-1,\"data_offsets\":[0,4]}}",
                                     4, &file);
    assert_int_equal(set->n, 1);
    close_both(&set, &file);
}

static void names_are_what_json_says(void **state)
{
    (void)state;
    st_bytes file;
    sy_st_set *set =
        parse_header_ok("{\"\":" F32_1("0", "4") ",\"a\\u00e9\\n\\ud83d\\ude00\":" F32_1(
                            "4", "8") ",\"\xc3\xa9/..\":" F32_1("8", "12") "}",
                        12, &file);
    assert_non_null(sy_st_find(set, ""));
    assert_non_null(sy_st_find(set, "a\xc3\xa9\n\xf0\x9f\x98\x80"));
    assert_non_null(sy_st_find(set, "\xc3\xa9/.."));
    close_both(&set, &file);
}

/* Square time over 60 000 tensors would be minutes. */
static void tensors_in_great_number_are_all_found(void **state)
{
    enum { N = 60000, ENTRY = 80 };
    (void)state;
    char *header = malloc((size_t)N * ENTRY + 3), name[32];
    assert_non_null(header);
    size_t n = 0;
    for (int i = 0; i < N; i++) { /* neither by name nor by place */
        int k = (int)((int64_t)i * 7919 % N);
        n += (size_t)sprintf(header + n,
                             "%c\"t.%d\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":["
                             "%d,%d]}",
                             i == 0 ? '{' : ',', k, k, k + 1);
    }
    header[n++] = '}';
    st_bytes file = st_make_n(header, n, NULL, N);
    free(header);
    sy_st_set *set = parse_ok(&file);
    assert_int_equal(set->n, N);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "t.%d", i);
        const sy_st_tensor *t = sy_st_find(set, name);
        assert_true(t && *(const uint8_t *)t->data == (uint8_t)i);
    }
    close_both(&set, &file);
}

/* ---- what is refused ---- */

static const struct {
    const char *header;
    size_t n_data;
    const char *word1, *word2;
} refused[] = {
    /* JSON of that shape */
    {"", 0, "m.st", "byte 0"},
    {" ", 0, "header", "byte 1"},
    {"[]", 0, "header", "'{'"},
    {"{", 0, "header", "'\"' is expected"},
    {"{}{}", 0, "header", "goes on"},
    {"{\"a\":" F32_1("0", "4") "}x", 4, "header", "goes on"},
    {"{\"a\":" F32_1("0", "4") ",}", 4, "header", "'\"' is expected"},
    {"{\"a\":" F32_1("0", "4"), 4, "header", "'}' is expected"},
    {"{\"a\" " F32_1("0", "4") "}", 4, "header", "':' is expected"},
    {"{\"a\":" F32_1("0", "4") " \"b\":" F32_1("4", "8") "}", 8, "header", "'}' is expected"},
    {"{a:" F32_1("0", "4") "}", 4, "header", "'\"' is expected"},
    {"\xef\xbb\xbf{}", 0, "header", "'{'"},
    {"{}\v", 0, "header", "goes on"},
    {"\xff", 0, "header", "byte 0"},
    {"{\"a\xe9\":" F32_1("0", "4") "}", 4, "header", "not UTF-8"},
    {"{\"a\":{\"dtype\":\"F32\xc0\x80\"}}", 4, "header", "not UTF-8"},
    {"{\"a\xed\xa0\x80\":" F32_1("0", "4") "}", 4, "header", "not UTF-8"},
    {"{\"a\\u0000b\":" F32_1("0", "4") "}", 4, "header", "\\u0000"},
    {"{\"a\\ud800\":" F32_1("0", "4") "}", 4, "header", "invalid Unicode"},
    {"{\"a\n\":" F32_1("0", "4") "}", 4, "header", "newline"},
    {"{\"a\x01\":" F32_1("0", "4") "}", 4, "header", "control character"},
    {"{\"a\":1}", 4, "'a'", "not an object"},
    {"{\"a\":null}", 4, "'a'", "not an object"},
    {"{\"a\":[\"F32\",[1],[0,4]]}", 4, "'a'", "not an object"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "'a'", "__metadata__"},
    {"{\"__metadata__\":{\"a\":{}}}", 0, "'a'", "__metadata__"},
    {"{\"__metadata__\":[]}", 0, "header", "'{'"},
    {"{\"__metadata__\":null}", 0, "header", "'{'"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__", "twice"},
    /* type, shape, offsets */
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a'", "dtype"},
    {"{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a'", "dtype"},
    {"{\"a\":" ARRAY("f32", "[1]", "0", "4") "}", 4, "'a'", "'f32'"},
    {"{\"a\":" ARRAY("F128", "[1]", "0", "16") "}", 16, "'a'", "'F128'"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "'a'", "shape"},
    {"{\"a\":" ARRAY("F32", "1", "0", "4") "}", 4, "'a'", "shape"},
    {"{\"a\":" ARRAY("F32", "[-1]", "0", "4") "}", 4, "'a'", "shape"},
    {"{\"a\":" ARRAY("F32", "[1.0]", "0", "4") "}", 4, "'a'", "shape"},
    {"{\"a\":" ARRAY("F32", "[\"1\"]", "0", "4") "}", 4, "'a'", "shape"},
    {"{\"a\":" ARRAY("F32", "[null]", "0", "4") "}", 4, "'a'", "shape"},
    {"{\"a\":" ARRAY("F32", "[01]", "0", "4") "}", 4, "in 'a'", "byte"},
    {"{\"a\":" ARRAY("F32", "[2,18446744073709551614]", "0", "4") "}", 4, "in 'a'", "too big"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "'a'", "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "'a'", "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "'a'",
     "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":4}}", 4, "'a'", "data_offsets"},
    {"{\"a\":" F32_1("-4", "0") "}", 4, "'a'", "data_offsets"},
    {"{\"a\":" F32_1("0", "4.0") "}", 4, "'a'", "data_offsets"},
    {"{\"a\":" F32_1("0", "1e1") "}", 4, "'a'", "data_offsets"},
    /* twice */
    {"{\"a\":" F32_1("0", "4") ",\"b\":" F32_1("4", "8") ",\"a\":" F32_1("8", "12") "}", 12, "'a'",
     "twice"},
    {"{\"a\":" F32_1("0", "4") ",\"\\u0061\":" F32_1("0", "4") "}", 4, "'a'", "twice"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "in 'a'", "duplicate"},
    /* neither holes nor overlaps */
    {"{\"a\":" F32_1("4", "8") "}", 8, "'a'", "from 0 to 4"},
    {"{\"a\":" F32_1("0", "4") ",\"b\":" F32_1("8", "12") "}", 12, "'b'", "from 4 to 8"},
    {"{\"a\":" F32_1("0", "4") ",\"b\":" F32_1("8", "12") "}", 12, "'b'", "'a'"},
    {"{\"a\":" F32_1("0", "4") ",\"b\":" F32_1("0", "4") "}", 4, "'a'", "'b'"},
    {"{\"a\":" F32_1("0", "4") ",\"b\":" F32_1("3", "7") "}", 8, "'b'", "'a'"},
    {"{\"a\":" ARRAY("F32", "[2]", "0", "8") ",\"b\":" F32_1("0", "0") "}", 8, "'b'", "4 bytes"},
    {"{\"a\":" F32_1("0", "4") ",\"b\":" F32_1("4", "0") "}", 4, "'b'", "ends before"},
    /* sizes */
    {"{\"a\":" ARRAY("F32", "[2,2]", "0", "4") "}", 4, "'a'", "16 bytes"},
    {"{\"a\":" ARRAY("I32", "[2,2]", "0", "20") "}", 20, "'a'", "16 bytes"},
    {"{\"a\":" ARRAY("F32", "[0]", "0", "4") "}", 4, "'a'", "0 bytes"},
    {"{\"a\":" ARRAY("F4", "[3]", "0", "1") "}", 1, "'a'", "whole bytes"},
    {"{\"a\":" ARRAY("F6_E2M3", "[2]", "0", "1") "}", 1, "'a'", "whole bytes"},
    {"{\"a\":" ARRAY("F32", "[4294967296,4294967296]", "0", "4") "}", 4, "'a'", "counted"},
    {"{\"a\":" ARRAY("F32", "[4611686018427387904]", "0", "0") "}", 0, "'a'", "counted"},
    {"{\"a\":" ARRAY("U8", "[4294967296,4294967296,0]", "0", "0") "}", 0, "'a'", "counted"},
    /* the end of the file */
    {"{\"a\":" F32_1("0", "4") "}", 3, "m.st", "truncated"},
    {"{\"a\":" F32_1("0", "4") "}", 0, "m.st", "truncated"},
    {"{\"a\":" F32_1("0", "4") "}", 5, "m.st", "too long"},
    {"{}", 1, "m.st", "too long"},
    {"{\"a\":" ARRAY("U8", "[1152921504606846975]", "0", "1152921504606846975") "}", 1, "m.st",
     "truncated"},
};

static void header_that_the_format_forbids_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        st_bytes file = st_make(refused[i].header, refused[i].n_data);
        sy_st_set *set = NULL;
        sy_status st = sy_st_parse("m.st", file.at, (int64_t)file.n, &set);
        expect_refusal(st, SY_ERR_USAGE, refused[i].word1, refused[i].word2);
        assert_null(set);
        close_both(&set, &file);
    }
}

static void length_that_cannot_be_is_refused(void **state)
{
    static const struct {
        uint8_t bytes[10];
        size_t n;
        const char *word;
    } cases[] = {
        {{0}, 0, "0 bytes"},
        {{2, 0, 0, 0, 0, 0, 0}, 7, "7 bytes"},
        {{2, 0, 0, 0, 0, 0, 0, 0, '{'}, 9, "truncated"},
        {{3, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, 10, "truncated"},
        {{0x00, 0xe1, 0xf5, 0x05}, 8, "truncated"},                        /* 100 000 000 */
        {{0x01, 0xe1, 0xf5, 0x05}, 8, "100000001"},                        /* one more */
        {{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, 8, "18446744069414584320"}, /* 2^64 - 2^32 */
        {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 8, "18446744073709551615"},
        {{0xfa, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, 8, "above"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sy_st_set *set = NULL;
        uint8_t *exact = malloc(cases[i].n);
        memcpy(exact, cases[i].bytes, cases[i].n);
        expect_refusal(sy_st_parse("m.st", exact, (int64_t)cases[i].n, &set), SY_ERR_USAGE, "m.st",
                       cases[i].word);
        free(exact);
        assert_int_equal(sy_alloc_live(), 0);
    }
}

/* A JSON parser in C may take it for an end, or for nothing. */
static void header_with_a_zero_byte_is_refused(void **state)
{
    static const char text[] = "{\"a\":" F32_1("0", "4") "}";
    (void)state;
    for (size_t at = 0; at < sizeof text; at++) {
        char header[sizeof text];
        memcpy(header, text, at);
        header[at] = '\0';
        memcpy(header + at + 1, text + at, sizeof text - 1 - at);
        st_bytes file = st_make_n(header, sizeof header, NULL, 4);
        sy_st_set *set = NULL;
        sy_status st = sy_st_parse("m.st", file.at, (int64_t)file.n, &set);
        expect_refusal(st, SY_ERR_USAGE, "header", "zero byte");
        st_free(&file);
    }
}

/* A terminal obeys what is printed on it; a log has one line per event. */
static void name_with_control_characters_is_printed_harmlessly(void **state)
{
    static const char text[] = "{\"a\\u001b[31m\\n\\u007f\\u009b2J\xc3\xa9 X\":1}";
    (void)state;
    sy_st_set *set = NULL;
    st_bytes file = st_make(text, 0);
    sy_status st = sy_st_parse("m.st", file.at, (int64_t)file.n, &set);
    for (const char *c = sy_error_message(); *c; c++) {
        assert_true((unsigned char)*c >= 0x20 && *c != 0x7f);
        assert_false((unsigned char)c[0] == 0xc2 && (unsigned char)c[1] < 0xa0);
    }
    expect_refusal(st, SY_ERR_USAGE, "a\\x1b[31m\\x0a\\x7f\\xc2\\x9b2J\xc3\xa9 X'",
                   "not an object");
    st_free(&file);
}

static void name_of_great_length_is_cut_between_characters(void **state)
{
    enum { N = 5000 };
    (void)state;
    for (int shift = 0; shift < 4; shift++) {
        char header[2 * N + 64] = "{\"";
        size_t n = 2;
        n += (size_t)sprintf(header + n, "%.*s", shift, "xxxx");
        for (int i = 0; i < N / 4; i++) { /* a character of three bytes */
            n += (size_t)sprintf(header + n, "\xe2\x82\xac");
        }
        sprintf(header + n, "\":1}");
        sy_st_set *set = NULL;
        st_bytes file = st_make(header, 0);
        sy_status st = sy_st_parse("m.st", file.at, (int64_t)file.n, &set);
        assert_in_range(strlen(sy_error_message()), 200, 300);
        expect_refusal(st, SY_ERR_USAGE, "\xe2\x82\xac...'", "not an object");
        st_free(&file);
    }
}

/* Three bytes of such a list cost more than two hundred of memory. */
static void value_of_great_size_is_refused_unread(void **state)
{
    enum { N = 1 << 20 };
    (void)state;
    char *header = malloc(3 * (size_t)N + 64);
    assert_non_null(header);
    size_t n = (size_t)sprintf(header, "{\"a\":{\"x\":[{}");
    for (int i = 0; i < N; i++) {
        n += (size_t)sprintf(header + n, ",{}");
    }
    n += (size_t)sprintf(header + n, "]}}");
    sy_st_set *set = NULL;
    st_bytes file = st_make_n(header, n, NULL, 0);
    sy_status st = sy_st_parse("m.st", file.at, (int64_t)file.n, &set);
    expect_refusal(st, SY_ERR_USAGE, "byte 5", "1 MiB");
    st_free(&file);
    free(header);
}

static void value_of_great_depth_is_refused(void **state)
{
    enum { N = 100000 };
    (void)state;
    char *header = malloc(N + 64);
    assert_non_null(header);
    size_t n = (size_t)sprintf(header, "{\"a\":{\"x\":");
    memset(header + n, '[', N);
    sy_st_set *set = NULL;
    st_bytes file = st_make_n(header, n + N, NULL, 0);
    sy_status st = sy_st_parse("m.st", file.at, (int64_t)file.n, &set);
    expect_refusal(st, SY_ERR_USAGE, "header", "depth");
    st_free(&file);
    free(header);
}

/* ---- folders ---- */

static void put(void **state, const char *name, const char *header, size_t n_data)
{
    char path[2 * SCRATCH_PATH];
    st_bytes file = st_make(header, n_data);
    st_write_file(scratch_path(state, name, path), &file);
    st_free(&file);
}

static void put_text(void **state, const char *name, const char *text)
{
    char path[2 * SCRATCH_PATH];
    scratch_write(scratch_path(state, name, path), text);
}

static sy_status open_in(void **state, const char *name, sy_st_set **set)
{
    char path[2 * SCRATCH_PATH];
    return sy_st_open(scratch_path(state, name, path), set);
}

static void folder_without_index_its_only_file_is_read(void **state)
{
    sy_st_set *set = NULL;
    expect_refusal(open_in(state, "", &set), SY_ERR_USAGE, "sy_test", "model.safetensors");
    expect_refusal(open_in(state, "none", &set), SY_ERR_USAGE, "none", "there is no");
    put(state, ".hidden.safetensors", "{}", 0);
    put(state, "some.safetensors", "{\"a\":" F32_1("0", "4") "}", 4);
    put_text(state, "tokenizer.json", "{}");
    assert_int_equal(open_in(state, "", &set), SY_OK);
    assert_true(set->n == 1 && strstr(set->tensor[0].file, "/some.safetensors"));
    sy_st_close(&set);
    assert_int_equal(open_in(state, "some.safetensors", &set), SY_OK);
    assert_int_equal(set->n, 1);
    sy_st_close(&set);

    put(state, "other.safetensors", "{}", 0);
    expect_refusal(open_in(state, "", &set), SY_ERR_USAGE, "several",
                   "model.safetensors.index.json");
    put(state, "model.safetensors", "{\"b\":" F32_1("0", "4") ",\"c\":" F32_1("4", "8") "}", 8);
    assert_int_equal(open_in(state, "", &set), SY_OK);
    assert_true(set->n == 2 && strstr(set->tensor[0].file, "/model.safetensors"));
    sy_st_close(&set);
    assert_int_equal(sy_alloc_live(), 0);
}

static void path_of_something_else_is_refused(void **state)
{
    char path[2 * SCRATCH_PATH];
    sy_st_set *set = NULL;
    put_text(state, "empty", "");
    expect_refusal(open_in(state, "empty", &set), SY_ERR_USAGE, "/empty", "0 bytes");
    put_text(state, "config.json", "{\"architectures\": []}");
    expect_refusal(open_in(state, "config.json", &set), SY_ERR_USAGE, "/config.json",
                   "another kind of file");
    assert_int_equal(mkfifo(scratch_path(state, "pipe", path), 0600), 0);
    expect_refusal(open_in(state, "pipe", &set), SY_ERR_USAGE, "/pipe", "not a file");
    expect_refusal(open_in(state, "empty/x", &set), SY_ERR_USAGE, "/empty/x", "there is no");
}

#define INDEX "model.safetensors.index.json"
#define SHARD_1 "model-00001-of-00002.safetensors"
#define SHARD_2 "model-00002-of-00002.safetensors"

/* Shard 1 has a, c, f; shard 2 has b, c (another one), e. */
static void put_shards(void **state)
{
    put(state, SHARD_1,
        "{\"c\":" F32_1("0", "4") ",\"f\":" F32_1("8", "12") ",\"a\":" F32_1("4", "8") "}", 12);
    put(state, SHARD_2,
        "{\"b\":" F32_1("8", "12") ",\"c\":" F32_1("0", "4") ",\"e\":" F32_1("4", "8") "}", 12);
}

/* What the call writes to standard error. */
static sy_status open_heard(void **state, sy_st_set **set, char *heard, size_t heard_bytes)
{
    char path[2 * SCRATCH_PATH];
    scratch_path(state, "heard", path);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600), saved = dup(STDERR_FILENO);
    assert_true(file >= 0 && saved >= 0);
    dup2(file, STDERR_FILENO);
    sy_status st = open_in(state, "", set);
    dup2(saved, STDERR_FILENO);
    close(saved);
    ssize_t n = pread(file, heard, heard_bytes - 1, 0);
    heard[n > 0 ? n : 0] = '\0';
    close(file);
    return st;
}

static void index_decides_which_tensor_is_read_from_where(void **state)
{
    char heard[1024];
    sy_st_set *set = NULL;
    put_shards(state);
    put_text(state, INDEX,
             "{\"metadata\":{\"total_size\":7},\"weight_map\":{\"b\":\"" SHARD_2
             "\",\"a\":\"" SHARD_1 "\",\"c\":\"" SHARD_2 "\",\"f\":\"" SHARD_1 "\",\"e\":\"" SHARD_2
             "\"}}\n");
    assert_int_equal(open_heard(state, &set, heard, sizeof heard), SY_OK);
    assert_true(set->n == 5 && set->bytes == 20);
    const struct {
        const char *name, *file;
        uint8_t first;
    } want[] = {{"a", SHARD_1, 4},
                {"b", SHARD_2, 8},
                {"c", SHARD_2, 0},
                {"e", SHARD_2, 4},
                {"f", SHARD_1, 8}};
    for (int i = 0; i < 5; i++) {
        const sy_st_tensor *t = &set->tensor[i];
        assert_string_equal(t->name, want[i].name);
        assert_non_null(strstr(t->file, want[i].file));
        assert_int_equal(*(const uint8_t *)t->data, want[i].first);
        assert_ptr_equal(sy_st_find(set, want[i].name), t);
    }
    sy_st_close(&set);
    /* c of shard 1 is not listed: said once, and no error */
    assert_non_null(strstr(heard, "left out"));
    assert_non_null(strstr(heard, "1 of the tensors in '" SHARD_1 "' (the first is 'c')"));
    assert_null(strstr(heard, SHARD_2));
    assert_int_equal(sy_alloc_live(), 0);
}

static void index_that_is_wrong_is_refused(void **state)
{
    static const struct {
        const char *text, *word1, *word2;
    } cases[] = {
        {"", "index", "byte 0"},
        {"[]", "index", "'{'"},
        {"{\"weight_map\":{}} x", "index", "goes on"},
        {"{\"metadata\":{}}", "index.json", "no \"weight_map\""},
        {"{\"weight_map\":[]}", "index", "'{'"},
        {"{\"weight_map\":{},\"weight_map\":{}}", "weight_map", "twice"},
        {"{\"weight_map\":{\"a\":1}}", "'a'", "not a text"},
        {"{\"weight_map\":{\"a\":\"../" SHARD_1 "\"}}", "'a'",
         "'../" SHARD_1 "', which is not the name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "'a'", "'/etc/passwd', which is not the name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "'a'", "'..', which is not the name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "'a'", "'', which is not the name"},
        {"{\"weight_map\":{\"a\":\"x\\n\"}}", "'a'", "'x\\x0a', which is not the name"},
        {"{\"weight_map\":{\"a\":\"none.safetensors\"}}", "'a'",
         "'none.safetensors', which is missing"},
        {"{\"weight_map\":{\"a\":\"" SHARD_1 "\",\"a\":\"" SHARD_1 "\"}}", "'a'", "twice"},
        {"{\"weight_map\":{\"a\":\"" SHARD_2 "\"}}", "'a'", "'" SHARD_2 "'"},
        {"{\"weight_map\":{\"b\":\"" SHARD_2 "\",\"d\":\"" SHARD_2 "\"}}", "'d'",
         "does not have it"},
        {"{\"weight_map\":{\"b\":\"" SHARD_2 "\",\"z\":\"" SHARD_2 "\"}}", "'z'",
         "does not have it"},
        {"{\"weight_map\":{\"a\":\"" SHARD_1 "\",\"b\":\"broken.safetensors\"}}",
         "/broken.safetensors", "truncated"},
        {"{\"weight_map\":{\"a\xff\":\"" SHARD_1 "\"}}", "index", "not UTF-8"},
    };
    put_shards(state);
    put(state, "broken.safetensors", "{\"b\":" F32_1("0", "4") "}", 3);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char heard[1024];
        sy_st_set *set = NULL;
        put_text(state, INDEX, cases[i].text);
        expect_refusal(open_heard(state, &set, heard, sizeof heard), SY_ERR_USAGE, cases[i].word1,
                       cases[i].word2);
        assert_null(set);
        assert_int_equal(sy_alloc_live(), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_file_is_read),
        cmocka_unit_test(header_in_any_order_and_white_space_is_read),
        cmocka_unit_test(types_all_are_known),
        cmocka_unit_test(shapes_of_any_rank_are_read),
        cmocka_unit_test(header_without_tensors_is_read),
        cmocka_unit_test(entry_unknown_keys_are_ignored),
        cmocka_unit_test(names_are_what_json_says),
        cmocka_unit_test(tensors_in_great_number_are_all_found),
        cmocka_unit_test(header_that_the_format_forbids_is_refused),
        cmocka_unit_test(length_that_cannot_be_is_refused),
        cmocka_unit_test(header_with_a_zero_byte_is_refused),
        cmocka_unit_test(name_with_control_characters_is_printed_harmlessly),
        cmocka_unit_test(name_of_great_length_is_cut_between_characters),
        cmocka_unit_test(value_of_great_size_is_refused_unread),
        cmocka_unit_test(value_of_great_depth_is_refused),
        cmocka_unit_test_setup_teardown(folder_without_index_its_only_file_is_read, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(path_of_something_else_is_refused, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(index_decides_which_tensor_is_read_from_where,
                                        scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(index_that_is_wrong_is_refused, scratch_setup,
                                        scratch_teardown),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}

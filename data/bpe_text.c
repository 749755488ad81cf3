/* UTF-8 before it meets a pattern: what is not valid, white space, normal form C. */
#include <errno.h>
#include <string.h>
#include <utf8proc.h>

#include "core/alloc.h"
#include "data/bpe_impl.h"

sy_status sy__text_reserve(sy__text *t, int64_t n)
{
    sy_status st = SY_OK;
    if (n > t->max) {
        SY_TRY(sy_realloc(2 * n + 64, 1, (void **)&t->bytes));
        t->max = 2 * n + 64;
    }

cleanup:
    return st;
}

/* Bytes of the character at bytes [n], n > 0; 0: none begins there that is complete and allowed;
 * *good: then its bytes that were right. Unicode 15.0, table 3-7. */
static int64_t character(const uint8_t *bytes, int64_t n, int64_t *good)
{
    const uint8_t c = bytes[0];
    uint8_t low = 0x80, high = 0xbf;
    const int64_t length = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    *good = 1;
    if (length == 0 || c > 0xf4) {
        return 0;
    }
    low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : low;
    high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : high;
    for (; *good < length; ++*good) {
        if (*good >= n || bytes[*good] < low || bytes[*good] > high) {
            return 0;
        }
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

int64_t sy__utf8_valid(const char *bytes, int64_t n)
{
    const uint8_t *b = (const uint8_t *)bytes;
    int64_t i = 0, good = 0;
    while (i < n) {
        uint64_t eight = 0;
        if (n - i >= 8) {
            memcpy(&eight, b + i, 8);
        }
        const int64_t length =
            n - i >= 8 && (eight & 0x8080808080808080u) == 0 ? 8 : character(b + i, n - i, &good);
        if (length == 0) {
            break;
        }
        i += length;
    }
    return i;
}

sy_status sy__utf8_repair(const char *bytes, int64_t n, sy__text *out)
{
    sy_status st = SY_OK;
    out->n = 0;
    for (int64_t i = 0, good = 0; i < n;) {
        const int64_t valid = sy__utf8_valid(bytes + i, n - i);
        SY_TRY(sy__text_reserve(out, out->n + valid + 3));
        memcpy(out->bytes + out->n, bytes + i, (size_t)valid);
        out->n += valid;
        i += valid;
        if (i < n) {
            (void)character((const uint8_t *)bytes + i, n - i, &good);
            memcpy(out->bytes + out->n, "\xef\xbf\xbd", 3);
            out->n += 3;
            i += good;
        }
    }

cleanup:
    return st;
}

/* U+0085, U+00a0, U+1680, U+2000 to U+200a, U+2028, U+2029, U+202f, U+205f, U+3000. */
static bool is_long_space(const uint8_t *c, int64_t n)
{
    if (n == 2) {
        return c[0] == 0xc2 && (c[1] == 0x85 || c[1] == 0xa0);
    }
    const uint32_t three = (uint32_t)c[0] << 16 | (uint32_t)c[1] << 8 | c[2];
    return three == 0xe19a80 || (three >= 0xe28080 && three <= 0xe2808a) || three == 0xe280a8 ||
           three == 0xe280a9 || three == 0xe280af || three == 0xe2819f || three == 0xe38080;
}

int64_t sy__utf8_space(const char *text, int64_t n)
{
    const uint8_t *c = (const uint8_t *)text;
    if (n < 1) {
        return 0;
    }
    if (c[0] < 0x80) {
        return c[0] == ' ' || (c[0] >= 9 && c[0] <= 13);
    }
    return n >= 2 && is_long_space(c, 2) ? 2 : n >= 3 && is_long_space(c, 3) ? 3 : 0;
}

int64_t sy__utf8_space_behind(const char *text, int64_t n)
{
    for (int64_t length = 1; length <= 3 && length <= n; length++) {
        if (sy__utf8_space(text + n - length, length) == length) {
            return length;
        }
    }
    return 0;
}

static bool is_word(int32_t c)
{
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* joiners, and letters in circles and squares, which are alphabetic */
        return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) ||
               (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
               (c >= 0x1f170 && c <= 0x1f189);
    }
}

bool sy__utf8_word(const char *text, int64_t n)
{
    utf8proc_int32_t c = -1;
    return n > 0 && utf8proc_iterate((const utf8proc_uint8_t *)text, n, &c) > 0 && is_word(c);
}

bool sy__utf8_word_behind(const char *text, int64_t n)
{
    int64_t begin = n - 1;
    while (begin > 0 && ((uint8_t)text[begin] & 0xc0) == 0x80) {
        begin--;
    }
    return n > 0 && sy__utf8_word(text + begin, n - begin);
}

/* Below U+0300 every character is its own normal form and none joins the one before. */
static bool is_plain(const char *text, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if ((uint8_t)text[i] >= 0xcc) {
            return false;
        }
    }
    return true;
}

/* Compose points [n] in place; returns how many are left, or an error of the library. Its release
   2.8 takes U+11A7, which stands alone, for the end of a Hangul syllable, so it is kept apart. */
static int64_t compose(int32_t *points, int64_t n)
{
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    int64_t n_out = 0;
    for (int64_t begin = 0, end = 0; begin < n; begin = end + 1) {
        for (end = begin; end < n && points[end] != 0x11a7;) {
            end++;
        }
        const utf8proc_ssize_t some =
            utf8proc_normalize_utf32(points + begin, end - begin, options);
        if (some < 0) {
            return some;
        }
        memmove(points + n_out, points + begin, (size_t)some * sizeof *points);
        n_out += some;
        if (end < n) {
            points[n_out++] = 0x11a7;
        }
    }
    return n_out;
}

sy_status sy__utf8_nfc(const char *text, int64_t n, sy__text *out, bool *same)
{
    sy_status st = SY_OK;
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    *same = is_plain(text, n);
    if (*same) {
        return SY_OK;
    }
    /* room for three code points of each byte, and the terminator that reencode writes */
    SY_TRY(sy__text_reserve(out, 4 * (3 * n + 1)));
    utf8proc_int32_t *points = (utf8proc_int32_t *)(void *)out->bytes;
    int64_t n_points = utf8proc_decompose((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n,
                                          points, 3 * n, options);
    SY_REQUIRE(n_points >= 0 && n_points <= 3 * n, SY_ERR_INTERNAL, "normal form C fails: %s",
               utf8proc_errmsg(n_points));
    n_points = compose(points, n_points);
    SY_REQUIRE(n_points >= 0, SY_ERR_INTERNAL, "normal form C fails: %s",
               utf8proc_errmsg(n_points));
    out->n = utf8proc_reencode(points, n_points, 0);

cleanup:
    return st;
}

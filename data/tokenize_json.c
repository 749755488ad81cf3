/* Lines of JSON that are right but for values that nobody asks for: numbers that no C type holds,
   halves of surrogate pairs, bytes that are not UTF-8. */
#include <ctype.h>
#include <string.h>

#include "core/alloc.h"
#include "data/tokenize_impl.h"

enum { DIGITS = 16, ESCAPE = 6 }; /* \uXXXX */

/* The code unit of an escape at text [n]; -1: there is none. */
static int32_t unit_of(const char *text, int64_t n)
{
    int32_t unit = 0;
    if (n < ESCAPE || text[0] != '\\' || text[1] != 'u') {
        return -1;
    }
    for (int i = 2; i < ESCAPE; i++) {
        const int c = tolower((unsigned char)text[i]);
        if (!isxdigit(c)) {
            return -1;
        }
        unit = unit * 16 + (c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return unit;
}

/* A backslash at text [n] and what belongs to it, into out; returns how many characters that are.
 */
static int64_t put_escape(const char *text, int64_t n, bool repair, sy__text *out)
{
    const int32_t unit = unit_of(text, n);
    const int32_t next = n > ESCAPE ? unit_of(text + ESCAPE, n - ESCAPE) : -1;
    const bool high = unit >= 0xd800 && unit < 0xdc00, low = unit >= 0xdc00 && unit < 0xe000;
    const bool pair = high && next >= 0xdc00 && next < 0xe000;
    const int64_t used = pair ? 2 * ESCAPE : unit >= 0 ? ESCAPE : n > 1 ? 2 : 1;
    memcpy(out->bytes + out->n, repair && !pair && (high || low) ? "\\ufffd" : text, (size_t)used);
    out->n += used;
    return used;
}

/* Outside strings: a number keeps its grammar, but not its size. */
static void put_plain(char c, int64_t *run, bool *exponent, sy__text *out)
{
    const bool digit = c >= '0' && c <= '9';
    *run = digit ? *run + 1 : 0;
    if (!digit) {
        *exponent = c == 'e' || c == 'E' || (*exponent && (c == '+' || c == '-'));
    }
    if (*run <= DIGITS) {
        out->bytes[out->n++] = (char)(digit && *exponent ? '0' : c);
    }
}

sy_status sy__json_tame(const char *line, int64_t n, bool repair, sy__text *out)
{
    sy_status st = SY_OK;
    sy__text valid = {0};
    bool in_string = false, exponent = false;
    int64_t run = 0;
    if (repair) {
        SY_TRY(sy__utf8_repair(line, n, &valid));
        line = valid.bytes;
        n = valid.n;
    }
    SY_TRY(sy__text_reserve(out, n + 1));
    out->n = 0;
    for (int64_t i = 0; i < n;) {
        if (in_string && line[i] == '\\') {
            i += put_escape(line + i, n - i, repair, out);
            continue;
        }
        in_string ^= line[i] == '"';
        if (in_string) {
            out->bytes[out->n++] = line[i];
        } else {
            put_plain(line[i], &run, &exponent, out);
        }
        i++;
    }

cleanup:
    sy_free(&valid.bytes);
    return st;
}

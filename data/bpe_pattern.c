/* Patterns by PCRE2 with JIT. Tokenizers were trained with Oniguruma, whose \s lacks U+180E, so \s
   and \S are written out; escapes that mean something else there are refused. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "core/alloc.h"
#include "data/bpe_impl.h"

#define SPACES                                                                                     \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define NO_SPACES                                                                                  \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff" \
    "}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{"  \
    "10ffff}"

enum { MAX_STACK = 64 << 20 };

/* The pieces are in words of each release; o200k_base is that of tiktoken. */
static const struct {
    const char *text;
    bool word_is_word;
} known[SY__N_PATTERNS] = {
    [SY__PATTERN_GPT2] = {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?"
                          "!\\S)|\\s+",
                          true},
    [SY__PATTERN_CL100K] = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
                            "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
                            true},
    [SY__PATTERN_QWEN2] = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
                           "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
                           true},
    [SY__PATTERN_O200K] =
        {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
         "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}"
         "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
         false},
};

const char *sy__pattern_text(sy__known_pattern which)
{
    return known[which].text;
}

/* One escape, text[0] = '\\', into out; *used: its characters. */
static sy_status rewrite_escape(const char *what, const char *text, bool in_class, sy__text *out,
                                int64_t *used)
{
    sy_status st = SY_OK;
    const char c = text[1];
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const char *space = in_class ? SPACES : "[" SPACES "]";
    const char *other = in_class ? NO_SPACES : "[^" SPACES "]";
    const char *put = c == 's' ? space : c == 'S' ? other : NULL;
    SY_REQUIRE(c != '\0', SY_ERR_USAGE, "%s: the pattern ends with a backslash", what);
    SY_REQUIRE((!letter || strchr("sSpPrntdDxfv", c) != NULL) && (c < '0' || c > '9'), SY_ERR_USAGE,
               "%s: the pattern has \\%c, which is not supported", what, c);
    *used = 2;
    const int64_t n = put != NULL ? (int64_t)strlen(put) : 2;
    SY_TRY(sy__text_reserve(out, out->n + n + 1));
    memcpy(out->bytes + out->n, put != NULL ? put : text, (size_t)n);
    out->n += n;

cleanup:
    return st;
}

static sy_status rewrite(const char *what, const char *text, sy__text *out)
{
    sy_status st = SY_OK;
    bool in_class = false;
    for (int64_t i = 0, used = 1; text[i] != '\0'; i += used) {
        used = 1;
        if (text[i] == '\\') {
            SY_TRY(rewrite_escape(what, text + i, in_class, out, &used));
            continue;
        }
        SY_REQUIRE(!in_class || (text[i] != '[' && strncmp(text + i, "&&", 2) != 0), SY_ERR_USAGE,
                   "%s: a class inside a class is not supported", what);
        SY_REQUIRE(in_class || (text[i] != '^' && text[i] != '$'), SY_ERR_USAGE,
                   "%s: the pattern has %c, which is not supported", what, text[i]);
        SY_TRY(sy__text_reserve(out, out->n + 2));
        out->bytes[out->n++] = text[i];
        if (text[i] == '[') {
            in_class = true;
            if (text[i + 1] == '^') {
                out->bytes[out->n++] = '^';
                used = 2;
            }
        } else if (text[i] == ']') {
            in_class = false;
        }
    }

cleanup:
    return st;
}

sy_status sy__pattern_open(const char *what, const char *text, bool literal, bool drop_gaps,
                           sy__pattern *out)
{
    sy_status st = SY_OK;
    sy__text rewritten = {0};
    int error = 0;
    PCRE2_SIZE at = 0;
    uint32_t matches_empty = 0;
    pcre2_code *code = NULL;
    SY_REQUIRE(*text != '\0', SY_ERR_USAGE, "%s: the pattern is empty", what);
    if (!literal) {
        SY_TRY(rewrite(what, text, &rewritten));
    }
    code = pcre2_compile(literal ? (PCRE2_SPTR)text : (PCRE2_SPTR)rewritten.bytes,
                         literal ? strlen(text) : (size_t)rewritten.n,
                         PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP), &error, &at, NULL);
    if (code == NULL) {
        char why[256] = "";
        (void)pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
        SY_REQUIRE(false, SY_ERR_USAGE, "%s: the pattern cannot be read: %s", what, why);
    }
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* a machine without it matches slowly */
    (void)pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
    SY_REQUIRE(matches_empty == 0, SY_ERR_USAGE, "%s: the pattern also matches an empty text",
               what);
    *out = (sy__pattern){.code = code, .drop_gaps = drop_gaps};
    for (int32_t i = 0; i < SY__N_PATTERNS && !literal; i++) {
        if (strcmp(text, known[i].text) == 0) {
            out->is_known = true;
            out->word_is_word = known[i].word_is_word;
        }
    }
    code = NULL;

cleanup:
    pcre2_code_free(code);
    sy_free(&rewritten.bytes);
    return st;
}

void sy__pattern_close(sy__pattern *p)
{
    pcre2_code_free(p->code);
    *p = (sy__pattern){0};
}

static sy_status open_room(sy__match_room *room)
{
    sy_status st = SY_OK;
    room->data = pcre2_match_data_create(1, NULL);
    room->context = pcre2_match_context_create(NULL);
    room->stack = pcre2_jit_stack_create(32 << 10, MAX_STACK, NULL);
    SY_REQUIRE(room->data != NULL && room->context != NULL && room->stack != NULL, SY_ERR_MEMORY,
               "out of memory for a pattern's match");
    pcre2_jit_stack_assign(room->context, NULL, room->stack);

cleanup:
    return st;
}

void sy__match_room_free(sy__match_room *room)
{
    pcre2_match_data_free(room->data);
    pcre2_match_context_free(room->context);
    pcre2_jit_stack_free(room->stack);
    *room = (sy__match_room){0};
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* The end of an ASCII word at `from` that other ASCII or the end follows; `from`: none is there. */
static int64_t word_end(const char *text, int64_t n, int64_t from)
{
    int64_t at = from + (text[from] == ' ');
    if (at >= n || !is_letter(text[at])) {
        return from;
    }
    while (at < n && is_letter(text[at])) {
        at++;
    }
    return at == n || (text[at] & 0x80) == 0 ? at : from;
}

sy_status sy__pattern_next(const sy__pattern *p, sy__match_room *room, const char *text, int64_t n,
                           int64_t from, int64_t *begin, int64_t *end)
{
    sy_status st = SY_OK;
    *begin = *end = n;
    if (from >= n) {
        return SY_OK;
    }
    if (p->word_is_word) {
        const int64_t at = word_end(text, n, from);
        if (at > from) {
            *begin = from;
            *end = at;
            return SY_OK;
        }
    }
    if (room->data == NULL) {
        SY_TRY(open_room(room));
    }
    const int found = pcre2_match(p->code, (PCRE2_SPTR)text, (size_t)n, (size_t)from,
                                  PCRE2_NO_UTF_CHECK, room->data, room->context);
    if (found == PCRE2_ERROR_NOMATCH) {
        return SY_OK;
    }
    SY_REQUIRE(found >= 0, SY_ERR_USAGE,
               "the tokenizer's pattern gives up at byte %lld of a text (PCRE2 error %d)",
               (long long)from, found);
    const PCRE2_SIZE *place = pcre2_get_ovector_pointer(room->data);
    *begin = (int64_t)place[0];
    *end = (int64_t)place[1];

cleanup:
    return st;
}

/* In every known pattern a piece takes a space only as its beginning or among other white space,
   and a line feed that stands alone between others only as its end; neither depends on more than
   one character behind. */
bool sy__pattern_is_seam(const char *text, int64_t n, int64_t at, bool breaks)
{
    if (text[at] == ' ') {
        return sy__utf8_space_behind(text, at) == 0;
    }
    return breaks && text[at - 1] == '\n' && at >= 2 && sy__utf8_space_behind(text, at - 1) == 0 &&
           n - at >= 4 && text[at] != '/' && sy__utf8_space(text + at, n - at) == 0;
}

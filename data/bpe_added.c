/* Tokens that are matched before the pattern is: leftmost, the longest first. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "data/bpe_impl.h"

static int by_first_and_length(const void *a, const void *b)
{
    const sy__added_token *x = a, *y = b;
    const int first = (uint8_t)x->text[0] - (uint8_t)y->text[0];
    return first != 0 ? first : (y->n > x->n) - (y->n < x->n);
}

void sy__added_sort(sy__added *a)
{
    int32_t at = 0;
    if (a->n > 0) {
        qsort(a->token, (size_t)a->n, sizeof *a->token, by_first_and_length);
    }
    for (int32_t byte = 0; byte <= 256; byte++) {
        while (at < a->n && (uint8_t)a->token[at].text[0] < byte) {
            at++;
        }
        a->first[byte] = at;
    }
}

static const sy__added_token *match(const sy__added *a, bool normalized, const char *text,
                                    int64_t n)
{
    const uint8_t byte = (uint8_t)text[0];
    for (int32_t i = a->first[byte]; i < a->first[byte + 1]; i++) {
        const sy__added_token *t = &a->token[i];
        if (t->normalized == normalized && t->n <= n && memcmp(t->text, text, (size_t)t->n) == 0) {
            return t;
        }
    }
    return NULL;
}

/* Is t ordinary text where it stands, at [i, i + t->n) of text [n]? */
static bool is_text(const sy__added_token *t, bool special, const char *text, int64_t n, int64_t i)
{
    return (t->special && !special) ||
           (t->single_word &&
            (sy__utf8_word_behind(text, i) || sy__utf8_word(text + i + t->n, n - i - t->n)));
}

/* A token that stays ordinary text still hides those that begin inside it. */
const sy__added_token *sy__added_next(const sy__added *a, bool normalized, bool special,
                                      const char *text, int64_t n, int64_t *from, int64_t *begin,
                                      int64_t *end)
{
    const int64_t first = *from;
    for (int64_t i = first; i < n; i++) {
        const sy__added_token *t = match(a, normalized, text + i, n - i);
        if (t == NULL) {
            continue;
        }
        if (is_text(t, special, text, n, i)) {
            i += t->n - 1;
            continue;
        }
        *begin = i;
        *end = i + t->n;
        for (int64_t space; t->lstrip && *begin > first; *begin -= space) {
            space = sy__utf8_space_behind(text + first, *begin - first);
            if (space == 0) {
                break;
            }
        }
        for (int64_t space; t->rstrip; *end += space) {
            space = sy__utf8_space(text + *end, n - *end);
            if (space == 0) {
                break;
            }
        }
        *from = *end;
        return t;
    }
    return NULL;
}

void sy__added_free(sy__added *a)
{
    for (int32_t i = 0; i < a->n; i++) {
        sy_free(&a->token[i].text);
    }
    sy_free(&a->token);
    *a = (sy__added){0};
}

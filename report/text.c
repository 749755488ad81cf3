/* A growing text with the three escapes the reports need: HTML, JSON strings, JSON numbers. */
#include "report/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"

static const char REPLACEMENT[] = "\xEF\xBF\xBD"; /* U+FFFD */

/* Room for n more bytes and the terminator. */
static bool reserve(sy_text *text, int64_t n)
{
    int64_t want = text->n + n + 1;
    if (text->st != SY_OK) {
        return false;
    }
    if (want > text->n_max) {
        int64_t n_max = want + want / 2 + 256;
        text->st = sy_realloc(n_max, 1, (void **)&text->data);
        if (text->st != SY_OK) {
            return false;
        }
        text->n_max = n_max;
    }
    return true;
}

void sy_text_append(sy_text *text, const char *bytes, int64_t n)
{
    if (reserve(text, n)) {
        memcpy(text->data + text->n, bytes, (size_t)n);
        text->n += n;
        text->data[text->n] = '\0';
    }
}

void sy_text_puts(sy_text *text, const char *string)
{
    sy_text_append(text, string, (int64_t)strlen(string));
}

void sy_text_printf(sy_text *text, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    if (n >= 0 && reserve(text, n)) {
        vsnprintf(text->data + text->n, (size_t)n + 1, format, again);
        text->n += n;
    }
    va_end(again);
    va_end(args);
}

/* Bytes of the UTF-8 character that starts here, 0 if none does (Unicode 15, table 3-7). */
static int32_t utf8_bytes(const unsigned char *s)
{
    if (s[0] < 0x80) {
        return 1;
    }
    int32_t n = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4) {
        return 0;
    }
    for (int32_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xF0 && s[1] < 0x90);
    bool surrogate = s[0] == 0xED && s[1] > 0x9F;
    bool too_large = s[0] == 0xF4 && s[1] > 0x8F;
    return overlong || surrogate || too_large ? 0 : n;
}

static const char *html_escape(char c)
{
    switch (c) {
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '&':
        return "&amp;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return NULL;
    }
}

void sy_text_html(sy_text *text, const char *string)
{
    while (*string != '\0') {
        int32_t n = utf8_bytes((const unsigned char *)string);
        const char *escape = html_escape(*string);
        bool is_control = (unsigned char)*string < 0x20 && *string != '\n' && *string != '\t';
        if (n == 0) {
            sy_text_puts(text, REPLACEMENT);
        } else if (escape != NULL) {
            sy_text_puts(text, escape);
        } else if (!is_control && *string != 0x7F) {
            sy_text_append(text, string, n);
        }
        string += n > 0 ? n : 1;
    }
}

void sy_text_json(sy_text *text, const char *string)
{
    sy_text_puts(text, "\"");
    while (*string != '\0') {
        int32_t n = utf8_bytes((const unsigned char *)string);
        if (n == 0) {
            sy_text_puts(text, REPLACEMENT);
        } else if (*string == '"' || *string == '\\') {
            sy_text_printf(text, "\\%c", *string);
        } else if ((unsigned char)*string < 0x20) {
            sy_text_printf(text, "\\u%04x", (unsigned)*string);
        } else {
            sy_text_append(text, string, n);
        }
        string += n > 0 ? n : 1;
    }
    sy_text_puts(text, "\"");
}

void sy_text_json_f64(sy_text *text, double value)
{
    char digits[40];
    if (!isfinite(value)) {
        sy_text_puts(text, "null");
        return;
    }
    /* 17 digits always suffice (IEEE 754); 15 or 16 often do, and read better. */
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value) {
            break;
        }
    }
    sy_text_puts(text, digits);
    if (strpbrk(digits, ".e") == NULL) {
        sy_text_puts(text, ".0");
    }
}

void sy_text_clear(sy_text *text)
{
    text->n = 0;
    text->st = SY_OK;
    if (text->data != NULL) {
        text->data[0] = '\0';
    }
}

void sy_text_free(sy_text *text)
{
    sy_free(&text->data);
    memset(text, 0, sizeof *text);
}
